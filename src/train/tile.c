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
