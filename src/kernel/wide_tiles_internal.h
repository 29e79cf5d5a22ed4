/*
 * wide_tiles_internal.h - products of rows that lie anywhere, written once for every width.
 *
 * A few rows meet a few others at a time, so that what is read from memory is used more than once. A number has its sum
 * in one order whatever is beside it: of dots by columns modulo LANES, of mixes term by term.
 *
 * A level's file includes this after wide_internal.h.
 */
#ifndef KERNEL_WIDE_TILES_INTERNAL_H
#define KERNEL_WIDE_TILES_INTERNAL_H

#include "kernel/wide_math_internal.h"

/* TILE_SUMS sums fit the registers, which are sixteen where vectors have eight lanes, else thirty-two. */
enum { TILE_DOWN = 4, TILE_ACROSS = LANES == 8 ? 2 : 4, TILE_SUMS = TILE_DOWN * TILE_ACROSS };

/* `down` rows of a times `across` of b, both constant where this is inlined. Four sums are summed over their lanes at a
 * time. */
ALWAYS_INLINE void dots_tile(const size_t down, const size_t across, uint32_t dim, const float *a,
                             const float *const *b, float *out, size_t ld) {
    vf sums[TILE_SUMS];
    float totals[TILE_SUMS] = {0};
    for (size_t k = 0; k < down * across || k % 4; k++)
        sums[k] = v_set(0);
    for (size_t c = 0; c < dim; c += LANES) {
        vf x[TILE_DOWN];
        for (size_t i = 0; i < down; i++)
            x[i] = v_load_some(a + i * dim + c, dim - c);
        for (size_t j = 0; j < across; j++) {
            vf y = v_load_some(b[j] + c, dim - c);
            for (size_t i = 0; i < down; i++)
                sums[i * across + j] = v_fma(x[i], y, sums[i * across + j]);
        }
    }
    for (size_t k = 0; k < down * across; k += 4)
        v_sums(sums + k, totals + k);
    for (size_t i = 0; i < down; i++)
        for (size_t j = 0; j < across; j++)
            out[i * ld + j] = totals[i * across + j];
}

void LEVEL(dots)(const float *a, uint32_t m, const float *const *b, uint32_t n, uint32_t dim, float *out) {
    for (size_t i = 0, down; i < m; i += down) {
        const float *rows = a + i * dim;
        float *to = out + i * n;
        down = m - i >= TILE_DOWN ? TILE_DOWN : 1;
        for (size_t j = 0, across; j < n; j += across) {
            across = n - j >= TILE_ACROSS ? TILE_ACROSS : 1;
            if (down > 1 && across > 1)
                dots_tile(TILE_DOWN, TILE_ACROSS, dim, rows, b + j, to + j, n);
            else if (down > 1)
                dots_tile(TILE_DOWN, 1, dim, rows, b + j, to + j, n);
            else if (across > 1)
                dots_tile(1, TILE_ACROSS, dim, rows, b + j, to + j, n);
            else
                dots_tile(1, 1, dim, rows, b + j, to + j, n);
        }
    }
}

/* `down` rows, `across` vectors of each from column c on, of which the last may be a part. */
ALWAYS_INLINE void mix_tile(const size_t down, const size_t across, const float *w, size_t row, size_t term,
                            const float *const *x, uint32_t n, size_t c, size_t left, float *const *out) {
    vf sums[TILE_DOWN][TILE_ACROSS];
    for (size_t i = 0; i < down; i++)
        for (size_t k = 0; k < across; k++)
            sums[i][k] = v_load_some(out[i] + c + k * LANES, left - k * LANES);
    for (size_t j = 0; j < n; j++, w += term)
        for (size_t k = 0; k < across; k++) {
            vf y = v_load_some(x[j] + c + k * LANES, left - k * LANES);
            for (size_t i = 0; i < down; i++)
                sums[i][k] = v_fma(v_set(w[i * row]), y, sums[i][k]);
        }
    for (size_t i = 0; i < down; i++)
        for (size_t k = 0; k < across; k++)
            v_store_some(out[i] + c + k * LANES, left - k * LANES, sums[i][k]);
}

/* All columns of `down` rows, as many at a time as are left. */
ALWAYS_INLINE void mix_rows(const size_t down, const float *w, size_t row, size_t term, const float *const *x,
                            uint32_t n, uint32_t dim, float *const *out) {
    const size_t wide = TILE_ACROSS * LANES, half = wide / 2;
    size_t c = 0;
    for (; c + wide <= dim; c += wide)
        mix_tile(down, TILE_ACROSS, w, row, term, x, n, c, wide, out);
    for (; c + half <= dim; c += half)
        mix_tile(down, TILE_ACROSS / 2, w, row, term, x, n, c, half, out);
    for (; c < dim; c += LANES)
        mix_tile(down, 1, w, row, term, x, n, c, dim - c, out);
}

void LEVEL(mix)(const float *w, size_t row, size_t term, const float *const *x, uint32_t n, uint32_t dim, uint32_t m,
                float *const *out) {
    size_t i = 0;
    for (; i + TILE_DOWN <= m; i += TILE_DOWN)
        mix_rows(TILE_DOWN, w + i * row, row, term, x, n, dim, out + i);
    for (; i < m; i++)
        mix_rows(1, w + i * row, row, term, x, n, dim, out + i);
}

#endif
