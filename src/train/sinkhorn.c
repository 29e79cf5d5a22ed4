/*
 * sinkhorn.c - softmax and Sinkhorn's iterations on many small matrices side by side, and the way back.
 *
 * A line is a row or a column. Of a step y = x / (sum x + eps) along a line the way back needs only what came out and
 * the inverse sum: dx = (dy - sum dy y) / (sum x + eps).
 */
#include <string.h>

#include "train/sinkhorn_internal.h"

/* Where the numbers of a line are: line l begins at number l * line, the next is `step` further. */
struct direction {
    size_t line, step;
};

/* Steps take columns and rows in turn. */
static struct direction direction_of(const struct sinkhorn *s, size_t step) {
    return step % 2 ? (struct direction){s->n, 1} : (struct direction){1, s->n};
}

static real *state(const struct sinkhorn *s, size_t step) {
    return s->states + step * s->n * s->n * LANES;
}

static void normalise(const struct sinkhorn *s, size_t step) {
    const struct direction at = direction_of(s, step);
    const real *restrict from = state(s, step);
    real *restrict to = state(s, step + 1);
    for (size_t l = 0; l < s->n; l++) {
        real sum[LANES] = {0}, *restrict inverse = s->inverse + (step * s->n + l) * LANES;
        for (size_t k = 0; k < s->n; k++)
            for (size_t t = 0; t < LANES; t++)
                sum[t] += from[(l * at.line + k * at.step) * LANES + t];
        for (size_t t = 0; t < LANES; t++)
            sum[t] = 1 / (sum[t] + s->eps);
        memcpy(inverse, sum, sizeof(sum));
        for (size_t k = 0; k < s->n; k++)
            for (size_t t = 0; t < LANES; t++) {
                size_t i = (l * at.line + k * at.step) * LANES + t;
                to[i] = from[i] * sum[t];
            }
    }
}

/* d, the gradient of what the step gave, becomes that of what it took. */
static void normalise_back(const struct sinkhorn *s, size_t step, real *restrict d) {
    const struct direction at = direction_of(s, step);
    const real *y = state(s, step + 1);
    for (size_t l = 0; l < s->n; l++) {
        const real *inverse = s->inverse + (step * s->n + l) * LANES;
        real sum[LANES] = {0};
        for (size_t k = 0; k < s->n; k++)
            for (size_t t = 0; t < LANES; t++) {
                size_t i = (l * at.line + k * at.step) * LANES + t;
                sum[t] += d[i] * y[i];
            }
        for (size_t k = 0; k < s->n; k++)
            for (size_t t = 0; t < LANES; t++) {
                size_t i = (l * at.line + k * at.step) * LANES + t;
                d[i] = inverse[t] * (d[i] - sum[t]);
            }
    }
}

/* One row of every token: row [n, LANES] becomes its softmax. */
static void softmax(real *restrict row, size_t n) {
    real top[LANES], inverse[LANES] = {0};
    memcpy(top, row, sizeof(top));
    for (size_t k = 1; k < n; k++)
        for (size_t t = 0; t < LANES; t++)
            top[t] = row[k * LANES + t] > top[t] ? row[k * LANES + t] : top[t];
    for (size_t k = 0; k < n; k++)
        for (size_t t = 0; t < LANES; t++)
            inverse[t] += row[k * LANES + t] = lanes_exp(row[k * LANES + t] - top[t]);
    for (size_t t = 0; t < LANES; t++)
        inverse[t] = 1 / inverse[t];
    for (size_t k = 0; k < n; k++)
        for (size_t t = 0; t < LANES; t++)
            row[k * LANES + t] *= inverse[t];
}

/* d, the gradient of the softmax p of a row, becomes that of the row. */
static void softmax_back(const real *restrict p, real *restrict d, size_t n) {
    real sum[LANES] = {0};
    for (size_t k = 0; k < n; k++)
        for (size_t t = 0; t < LANES; t++)
            sum[t] += d[k * LANES + t] * p[k * LANES + t];
    for (size_t k = 0; k < n; k++)
        for (size_t t = 0; t < LANES; t++)
            d[k * LANES + t] = p[k * LANES + t] * (d[k * LANES + t] - sum[t]);
}

KERNEL_CLONES void REAL(sinkhorn_forward)(const struct sinkhorn *s) {
    size_t numbers = (size_t)s->n * s->n * LANES;
    for (size_t l = 0; l < s->n; l++)
        softmax(s->matrix + l * s->n * LANES, s->n);
    for (size_t i = 0; i < numbers; i++)
        s->states[i] = s->matrix[i] + s->eps;
    for (size_t step = 0; step < s->steps; step++)
        normalise(s, step);
}

KERNEL_CLONES void REAL(sinkhorn_backward)(const struct sinkhorn *s, real *d) {
    for (size_t step = s->steps; step-- > 0;)
        normalise_back(s, step, d);
    for (size_t l = 0; l < s->n; l++)
        softmax_back(s->matrix + l * s->n * LANES, d + l * s->n * LANES, s->n);
}
