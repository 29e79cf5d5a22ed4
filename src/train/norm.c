/*
 * norm.c - RMS norm: y = x r w with r = 1 / sqrt(mean(x^2) + eps).
 *
 * With g = dy w:   dx = r g - x r^3 mean(g x),   dw = sum over rows of dy x r.
 *
 * dx is made row by row; dw column by column, each worker its own columns of all rows, so that no partial sums of
 * workers need to be joined.
 */
#include "train/lanes_internal.h"
#include "train/norm_internal.h"

enum { COLUMNS = 64 };

struct norm {
    size_t rows, dim;
    real eps;
    const real *x, *weight, *inverse, *dy;
    real *y, *inverses, *dx, *dweight;
};

static void scale_row(size_t n, real r, const real *x, const real *weight, real *y) {
    if (weight)
        for (size_t i = 0; i < n; i++)
            y[i] = x[i] * r * weight[i];
    else
        for (size_t i = 0; i < n; i++)
            y[i] = x[i] * r;
}

KERNEL_CLONES static void forward_rows(void *context, uint32_t worker, size_t item) {
    const struct norm *p = context;
    size_t end = min_u64(p->rows, (item + 1) * BLOCK);
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++) {
        const real *x = p->x + row * p->dim;
        real r = 1 / r_sqrt(lanes_dot(x, x, p->dim) / (real)p->dim + p->eps);
        scale_row(p->dim, r, x, p->weight, p->y + row * p->dim);
        if (p->inverses)
            p->inverses[row] = r;
    }
}

void REAL(norm_forward)(struct team *team, size_t rows, size_t dim, real eps, const real *x, const real *weight,
                        real *y, real *inverse) {
    struct norm p = {.rows = rows, .dim = dim, .eps = eps, .x = x, .weight = weight, .y = y, .inverses = inverse};
    team_each(team, ceil_div(rows, BLOCK), forward_rows, &p);
}

KERNEL_CLONES static void backward_rows(void *context, uint32_t worker, size_t item) {
    const struct norm *p = context;
    size_t end = min_u64(p->rows, (item + 1) * BLOCK), n = p->dim;
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++) {
        const real *restrict x = p->x + row * n, *restrict dy = p->dy + row * n, *restrict w = p->weight;
        real *restrict dx = p->dx + row * n, r = p->inverse[row];
        real back = r * r * r * (w ? lanes_dot3(dy, w, x, n) : lanes_dot(dy, x, n)) / (real)n;
        if (w)
            for (size_t i = 0; i < n; i++)
                dx[i] += r * dy[i] * w[i] - back * x[i];
        else
            for (size_t i = 0; i < n; i++)
                dx[i] += r * dy[i] - back * x[i];
    }
}

/* sums[j] += the products of BLOCK rows from `row` on, columns [column, column + count). */
static void add_block(const struct norm *p, size_t row, size_t column, size_t count, real *restrict sums) {
    real block[COLUMNS] = {0};
    size_t end = min_u64(p->rows, row + BLOCK);
    for (; row < end; row++) {
        const real *restrict x = p->x + row * p->dim + column, *restrict dy = p->dy + row * p->dim + column;
        real r = p->inverse[row];
        for (size_t j = 0; j < count; j++)
            block[j] += dy[j] * x[j] * r;
    }
    for (size_t j = 0; j < count; j++)
        sums[j] += block[j];
}

KERNEL_CLONES static void backward_columns(void *context, uint32_t worker, size_t item) {
    const struct norm *p = context;
    size_t column = item * COLUMNS, count = min_u64(COLUMNS, p->dim - column);
    real sums[COLUMNS] = {0};
    (void)worker;
    for (size_t row = 0; row < p->rows; row += BLOCK)
        add_block(p, row, column, count, sums);
    for (size_t j = 0; j < count; j++)
        p->dweight[column + j] += sums[j];
}

void REAL(norm_backward)(struct team *team, size_t rows, size_t dim, const real *x, const real *weight,
                         const real *inverse, const real *dy, real *dx, real *dweight) {
    struct norm p = {
        .rows = rows, .dim = dim, .x = x, .weight = weight, .inverse = inverse, .dy = dy, .dx = dx, .dweight = dweight};
    if (dx)
        team_each(team, ceil_div(rows, BLOCK), backward_rows, &p);
    if (dweight)
        team_each(team, ceil_div(dim, COLUMNS), backward_columns, &p);
}
