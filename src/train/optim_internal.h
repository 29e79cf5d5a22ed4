/*
 * optim_internal.h - what turns gradients into other weights: Muon, AdamW, clipping, the learning rate.
 *
 * Who gets which, after the V4 report:
 *
 *     Muon             every matrix but embedding and head; each expert's is a matrix by itself
 *     AdamW            embedding, head, weights of norms, static biases and gates of hyper-connections
 *     Adam by rows     Engram's tables, at five times the rate and without decay
 *
 * All state is plain arrays that the caller owns, cleared to zero before the first step: saved and loaded bit by bit
 * they continue a run exactly. Every number of an array is changed by itself, and sums have an order of their own, so
 * a step gives the same bits with any number of workers. Rates, counts and factors are double in both compilations.
 *
 * A gradient that is not finite makes the weights so: look at the norm before a step.
 */
#ifndef TRAIN_OPTIM_INTERNAL_H
#define TRAIN_OPTIM_INTERNAL_H

#include "train/real_internal.h"

/* ----------------------------------------------------------------------------------- learning rate */

/* Warm-up, constant, cosine, floor. warmup + decay <= end. */
struct schedule {
    double peak, floor;
    uint64_t warmup; /* steps; the last of them is the first at the peak */
    uint64_t decay;  /* steps before `end` along half a cosine, the last of them at the floor */
    uint64_t end;    /* from this step on the floor; UINT64_MAX: never */
};

/* schedule.c: the rate of a step, counted from 0. A pure function, so that nothing needs to be saved. */
double schedule_rate(const struct schedule *s, uint64_t step);

/* ----------------------------------------------------------------------------------------- clipping */

/* Sum of x[i]^2 in double. Of several arrays: add theirs in a fixed order, the root is the norm. */
double REAL(sum_squares)(struct team *team, size_t count, const real *x);

/* What gradients of this norm are multiplied by so that it is at most `limit`; limit 0: none, the factor is 1. */
static inline double clip_factor(double norm, double limit) {
    return limit > 0 && norm > limit ? limit / norm : 1;
}

/* x *= factor */
void REAL(scale)(struct team *team, size_t count, double factor, real *x);

/* --------------------------------------------------------------------------------------------- Muon */

struct muon_options {
    double momentum; /* 0.95 */
    double decay;    /* 0.1: of the weight, times the rate */
    double scale;    /* 0.18: brings the update's root mean square to that of AdamW */
};

void muon_options_default(struct muon_options *o);

/* Numbers of scratch that a matrix takes: on each worker, as several are worked on at once. */
static inline size_t muon_scratch(size_t rows, size_t cols) {
    size_t narrow = (size_t)min_u64(rows, cols);
    return ceil_div(2 * rows * cols + 2 * narrow * narrow, 16) * 16;
}

/*
 * One step of `count` matrices [rows, cols], one behind the other, each by itself (V4 report, algorithm 1):
 *
 *     M <- momentum M + G
 *     O  = orthogonal(momentum M + G) sqrt(max(rows, cols)) scale
 *     W <- W (1 - rate decay) - rate O
 *
 * Where M and G are all zero, as for an expert that no token has chosen yet, O is 0. scratch: muon_scratch() numbers
 * for each worker.
 */
void REAL(muon_step)(struct team *team, const struct muon_options *o, double rate, size_t count, size_t rows,
                     size_t cols, const real *gradient, real *momentum, real *weight, real *scratch);

/*
 * x [rows, cols] becomes the orthogonal matrix nearest to it, roughly: its singular values come to lie near 1 if they
 * were above 1e-4 of the root of the sum of their squares. x is divided by that root, then ten times
 * x <- a x + b (x x^T) x + c (x x^T)^2 x: eight times with (3.4445, -4.7750, 2.0315), which lifts small values fast and
 * leaves them between 0.7 and 1.2, twice with (2, -1.5, 0.5), which brings those to 1. A root below 1e-30 counts as 0,
 * and x becomes 0.
 * scratch: rows * cols + 2 min(rows, cols)^2 numbers.
 */
void REAL(orthogonalise)(struct team *team, size_t rows, size_t cols, real *x, real *scratch);

/* --------------------------------------------------------------------------------------------- Adam */

struct adam_options {
    double beta1, beta2; /* 0.9, 0.95 */
    double eps;          /* 1e-20 */
    double decay;        /* 0.1: of the weight, times the rate; 0: none */
};

void adam_options_default(struct adam_options *o);

/*
 * One step of AdamW (Loshchilov and Hutter 2019), step counted from 1:
 *
 *     m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
 *     w <- w (1 - rate decay) - rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
 */
void REAL(adam_step)(struct team *team, const struct adam_options *o, double rate, uint64_t step, size_t count,
                     const real *gradient, real *m, real *v, real *weight);

/*
 * The same for some rows of a table whose other rows stay as they are, moments too: `touched` distinct row numbers in
 * `rows`, gradient [touched, width] in their order; m, v, weight [all, width]. steps [all] counts for each row how
 * often it was touched, this time too, and takes the place of `step`: so what becomes of a row depends on its own
 * gradients and not on when they came. A row that is rare learns as fast in the millionth step as in the first. If all
 * rows are touched in every step it is adam_step(), bit for bit.
 */
void REAL(adam_rows_step)(struct team *team, const struct adam_options *o, double rate, size_t width, size_t touched,
                          const uint32_t *rows, const real *gradient, uint32_t *steps, real *m, real *v, real *weight);

#endif
