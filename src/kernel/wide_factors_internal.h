/*
 * wide_factors_internal.h - products of two packed factors, written once for every width.
 *
 * A packed factor is made of panels of KERNEL_PANEL rows, float [depth][KERNEL_PANEL]: a column of the panel is a few
 * vectors of the right factor, or as many numbers of the left one, each of which meets all of those. A block of the
 * result is summed in registers,
 *
 *     sums[i][j] += left[k][i] * right[k][j]
 *
 * SLICE columns at a time, so that both panels stay in the first cache while all their blocks are made. A level's file
 * includes this after wide_internal.h.
 */
#ifndef KERNEL_WIDE_FACTORS_INTERNAL_H
#define KERNEL_WIDE_FACTORS_INTERNAL_H

#include "kernel/wide_math_internal.h"

/* DOWN * ACROSS sums, ACROSS vectors of the right factor and one number of the left fit the registers. */
enum { DOWN = LANES == 16 ? 8 : 4, ACROSS = LANES == 4 ? 4 : 2, WIDTH = ACROSS * LANES, SLICE = 128 };

/* ----------------------------------------------------------------------------------------- packing */

typedef float four __attribute__((vector_size(16)));

/* A square of four rows of x, turned. */
static inline void factor_square(const float *x, size_t ld, float *to) {
    four v[4];
    for (int i = 0; i < 4; i++)
        memcpy(&v[i], x + i * ld, sizeof(v[i]));
    const four a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
    const four c = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    v[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    v[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    v[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    v[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
    for (int i = 0; i < 4; i++)
        memcpy(to + i * KERNEL_PANEL, &v[i], sizeof(v[i]));
}

/* A panel of up to KERNEL_PANEL rows, zeros behind the last. */
static void factor_panel(const float *x, size_t ld, uint32_t rows, uint32_t depth, float *to) {
    const uint32_t squares = depth / 4 * 4;
    if (rows < KERNEL_PANEL)
        memset(to, 0, (size_t)depth * KERNEL_PANEL * sizeof(float));
    for (uint32_t k = 0; k < squares; k += 4)
        for (uint32_t r = 0; r + 4 <= rows; r += 4)
            factor_square(x + r * ld + k, ld, to + (size_t)k * KERNEL_PANEL + r);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t k = r < rows / 4 * 4 ? squares : 0; k < depth; k++)
            to[(size_t)k * KERNEL_PANEL + r] = x[r * ld + k];
}

static void factor_panel_turned(const float *x, size_t ld, uint32_t rows, uint32_t depth, float *to) {
    for (uint32_t k = 0; k < depth; k++, x += ld, to += KERNEL_PANEL)
        for (uint32_t r = 0; r < KERNEL_PANEL; r += LANES)
            v_store(to + r, r < rows ? v_load_some(x + r, rows - r) : v_set(0));
}

void LEVEL(factor)(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    const bool turned = how & KERNEL_TURNED;
    for (uint32_t r = 0; r < rows; r += KERNEL_PANEL)
        (turned ? factor_panel_turned : factor_panel)(x + r * (turned ? 1 : ld), ld, least(KERNEL_PANEL, rows - r),
                                                      depth, (float *)packed + (size_t)r * depth);
}

void LEVEL(factor_bf16)(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    LEVEL(factor)(x, ld, how, rows, depth, packed);
    LEVEL(round_bf16)(packed, (size_t)(rows + KERNEL_PANEL - 1) / KERNEL_PANEL * KERNEL_PANEL * depth);
}

/* ---------------------------------------------------------------------------------------- products */

/* DOWN rows of the left panel times WIDTH of the right one. */
ALWAYS_INLINE void factor_block(const float *left, const float *right, uint32_t depth, bool add, float *c, size_t ldc) {
    vf sums[DOWN][ACROSS];
    for (int i = 0; i < DOWN; i++)
        for (int j = 0; j < ACROSS; j++)
            sums[i][j] = v_set(0);
    for (uint32_t k = 0; k < depth; k++, left += KERNEL_PANEL, right += KERNEL_PANEL)
        for (int i = 0; i < DOWN; i++)
            for (int j = 0; j < ACROSS; j++)
                sums[i][j] = v_fma(v_set(left[i]), v_load(right + j * LANES), sums[i][j]);
    for (int i = 0; i < DOWN; i++)
        for (int j = 0; j < ACROSS; j++) {
            float *to = c + (size_t)i * ldc + j * LANES;
            v_store(to, add ? v_load(to) + sums[i][j] : sums[i][j]);
        }
}

/* The part of such a block that is in c. */
static void factor_edge(const float *left, const float *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                        float *c, size_t ldc) {
    float block[DOWN * WIDTH];
    factor_block(left, right, depth, false, block, WIDTH);
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t j = 0; j < cols; j++)
            c[i * ldc + j] = add ? c[i * ldc + j] + block[i * WIDTH + j] : block[i * WIDTH + j];
}

/* A pair of panels, and the part of c that is theirs. */
static void factor_panels(const float *left, const float *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                          float *c, size_t ldc) {
    for (uint32_t k = 0; k < depth; k += SLICE, left += SLICE * KERNEL_PANEL, right += SLICE * KERNEL_PANEL)
        for (uint32_t j = 0; j < cols; j += WIDTH)
            for (uint32_t i = 0; i < rows; i += DOWN) {
                const uint32_t terms = least(SLICE, depth - k);
                if (i + DOWN <= rows && j + WIDTH <= cols)
                    factor_block(left + i, right + j, terms, add || k, c + i * ldc + j, ldc);
                else
                    factor_edge(left + i, right + j, least(DOWN, rows - i), least(WIDTH, cols - j), terms, add || k,
                                c + i * ldc + j, ldc);
            }
}

void LEVEL(product)(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                    float *c, size_t ldc) {
    for (uint32_t i = 0; i < rows; i += KERNEL_PANEL)
        for (uint32_t j = 0; j < cols; j += KERNEL_PANEL)
            factor_panels((const float *)left + (size_t)i * depth, (const float *)right + (size_t)j * depth,
                          least(KERNEL_PANEL, rows - i), least(KERNEL_PANEL, cols - j), depth, add, c + i * ldc + j,
                          ldc);
}

void LEVEL(product_bf16)(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                         float *c, size_t ldc) {
    LEVEL(product)(left, right, rows, cols, depth, add, c, ldc);
}

#endif
