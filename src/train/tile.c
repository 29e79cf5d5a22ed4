/*
 * tile.c - the products of attention and of hyper-connections.
 *
 * In float they are kernels; in double, which nobody waits for, plain loops.
 */
#include "train/lanes_internal.h"
#include "train/tile_internal.h"

void REAL(tile_dots)(const struct team *team, const real *a, uint32_t m, const real *const *b, uint32_t n, uint32_t dim,
                     real *out) {
#ifdef TRAIN_DOUBLE
    (void)team;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            out[i * n + j] = lanes_dot(a + i * dim, b[j], dim);
#else
    team_kernels(team)->dots(a, m, b, n, dim, out);
#endif
}

void REAL(tile_mix)(const struct team *team, const real *w, size_t row, size_t term, const real *const *x, uint32_t n,
                    uint32_t dim, uint32_t m, real *const *out) {
#ifdef TRAIN_DOUBLE
    (void)team;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            for (size_t c = 0; c < dim; c++)
                out[i][c] += w[i * row + j * term] * x[j][c];
#else
    team_kernels(team)->mix(w, row, term, x, n, dim, m, out);
#endif
}

/* In double a packed factor is its rows, one behind the other. */

size_t REAL(tile_bytes)(size_t rows, size_t depth) {
    return kernel_factor_bytes(rows, depth) * (sizeof(real) / sizeof(float));
}

void REAL(tile_pack)(const struct team *team, bool exact, const real *x, size_t ld, int how, uint32_t rows,
                     uint32_t depth, void *packed) {
#ifdef TRAIN_DOUBLE
    real *to = packed;
    (void)team, (void)exact;
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < depth; k++)
            to[i * depth + k] = how & KERNEL_TURNED ? x[k * ld + i] : x[i * ld + k];
#else
    const struct kernel_table *t = team_kernels(team);
    (exact ? t->factor : t->factor_bf16)(x, ld, how, rows, depth, packed);
#endif
}

void REAL(tile_product)(const struct team *team, bool exact, const void *left, const void *right, uint32_t rows,
                        uint32_t cols, uint32_t depth, bool add, real *c, size_t ldc) {
#ifdef TRAIN_DOUBLE
    const real *a = left, *b = right;
    (void)team, (void)exact;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            c[i * ldc + j] = (add ? c[i * ldc + j] : 0) + lanes_dot(a + i * depth, b + j * depth, depth);
#else
    const struct kernel_table *t = team_kernels(team);
    (exact ? t->product : t->product_bf16)(left, right, rows, cols, depth, add, c, ldc);
#endif
}
