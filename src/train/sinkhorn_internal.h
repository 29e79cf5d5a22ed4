/*
 * sinkhorn_internal.h - doubly stochastic matrices from any: the residual mixes of hyper-connections.
 *
 *     C = softmax of each row + eps
 *     C <- C / (column sums + eps), then iterations - 1 times by rows and by columns
 *
 * The matrices of LANES tokens are worked on side by side: number (i, j) of token t is at
 * [(i * n + j) * LANES + t]. The backward pass goes back through every one of these steps.
 */
#ifndef TRAIN_SINKHORN_INTERNAL_H
#define TRAIN_SINKHORN_INTERNAL_H

#include "train/lanes_internal.h"

/* What a worker needs for it, one piece of memory. */
struct sinkhorn {
    uint32_t n, steps; /* rows and columns; divisions by sums: 2 * iterations - 1 */
    real eps;
    real *matrix;  /* [n, n, lanes]: the caller's logits, then their softmax, then its gradients */
    real *states;  /* [1 + steps, n, n, lanes] */
    real *inverse; /* [steps, n, lanes] */
};

/* Reals that sinkhorn_place() divides up. iterations > 0. */
static inline size_t sinkhorn_reals(uint32_t n, uint32_t iterations) {
    return ((size_t)n * n * (1 + 2 * iterations) + (size_t)n * (2 * iterations - 1)) * LANES;
}

static inline struct sinkhorn sinkhorn_place(uint32_t n, uint32_t iterations, double eps, real *memory) {
    struct sinkhorn s = {.n = n, .steps = 2 * iterations - 1, .eps = (real)eps, .matrix = memory};
    s.states = s.matrix + (size_t)n * n * LANES;
    s.inverse = s.states + (size_t)(1 + s.steps) * n * n * LANES;
    return s;
}

/* What the forward pass gives: [n, n, lanes]. */
static inline const real *sinkhorn_result(const struct sinkhorn *s) {
    return s->states + (size_t)s->steps * s->n * s->n * LANES;
}

/* From the logits in `matrix`. */
void REAL(sinkhorn_forward)(const struct sinkhorn *s);

/* After the forward pass: d [n, n, lanes], the gradient of the result, becomes that of the logits. */
void REAL(sinkhorn_backward)(const struct sinkhorn *s, real *d);

#endif
