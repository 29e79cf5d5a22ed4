/*
 * bf16.c - the bf16 level: products of many tokens by BFMMLA, on bf16 numbers.
 *
 * A panel of weights is unpacked into the first cache (bf16_unpack.c) and multiplied by all tokens of a block, of which
 * up to three pairs and eight rows have their sums in registers. One token, and matrices whose values are no bf16
 * numbers, are the neon level's.
 *
 * Rounding. Unless a program asks for FEAT_EBF16, which none here does, the instruction makes of each group two exact
 * products, adds them, adds that to the sum, and does so with the other two: rounding to odd each time, which is off by
 * less than a unit in the last place, up as often as down, where rounding to nearest is off by half of one. Numbers
 * below 2^-126 count as 0, as gemm_bf16 allows. So that errors do not pile up, sums start anew at every unit and are
 * added up to nearest. In a unit there are 16 such additions: an error of at most 32 u of its terms' magnitudes, and
 * where one term outweighs all others, the worst there is, with a standard deviation near 4 u. As the contract's least
 * is 18 u, for a matrix of one unit, it is kept with a margin, but not proven.
 */
#include "kernel/arm/bf16_internal.h"

enum { UNIT_GROUPS = UNIT / COLUMNS, TILE_PAIRS = 3, BLOCK_TOKENS = 256 };

/* Of the rows of a panel times a block of tokens. */
struct sums {
    _Alignas(64) float y[BLOCK_TOKENS][ROWS];
};

struct work {
    struct panel panel;
    struct sums sums;
};
_Static_assert(sizeof(struct work) <= KERNEL_SCRATCH_BYTES, "scratch is too small");

/* ------------------------------------------------------------------------------------------------ pack */

/* Columns of the chunk that begins at `chunk`. */
static uint32_t chunk_cols(const struct matrix *w, uint32_t chunk) {
    return least(CHUNK, w->cols - chunk);
}

/* Where the group of a pair at column `col` is among packed tokens: in numbers. */
static size_t packed_at(const struct matrix *w, uint32_t count, uint32_t pair, uint32_t col) {
    size_t pairs = (count + 1) / 2, chunk = col / CHUNK * CHUNK;
    return 2 * (chunk * pairs + (size_t)pair * chunk_cols(w, (uint32_t)chunk) + (col - chunk));
}

/* A last token without a second is its own. */
static void pack_pairs(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                       void *packed) {
    for (uint32_t t = 0; t < count; t += 2) {
        const float *first = x + t * ldx, *second = t + 1 < count ? first + ldx : first;
        for (uint32_t c = 0; c < cols; c += COLUMNS) {
            bfloat16x8_t pair = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(v_load(first + c)), v_load(second + c));
            vst1q_u16((uint16_t *)packed + packed_at(w, count, t / 2, col + c), (uint16x8_t)pair);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ tiles */

/* A slice of a panel times pairs of tokens `apart` numbers apart: y[token][row] = (or += unless first) their sums. */
ALWAYS_INLINE void tile(const uint16_t (*w)[PAIRS][GROUP], uint32_t units, const uint16_t *x, size_t apart,
                        float (*y)[ROWS], bool first, const int pairs) {
    vf total[TILE_PAIRS][PAIRS];
    for (int p = 0; p < pairs; p++)
        for (int r = 0; r < PAIRS; r++)
            total[p][r] = v_set(0);
    for (uint32_t u = 0; u < units; u++, w += UNIT_GROUPS, x += UNIT_GROUPS * GROUP) {
        vf sum[TILE_PAIRS][PAIRS];
        for (int p = 0; p < pairs; p++)
            for (int r = 0; r < PAIRS; r++)
                sum[p][r] = v_set(0);
        for (int g = 0; g < UNIT_GROUPS; g++)
            for (int p = 0; p < pairs; p++) {
                bfloat16x8_t in = (bfloat16x8_t)vld1q_u16(x + p * apart + g * GROUP);
                for (int r = 0; r < PAIRS; r++)
                    sum[p][r] = vbfmmlaq_f32(sum[p][r], in, (bfloat16x8_t)vld1q_u16(w[g][r]));
            }
        for (int p = 0; p < pairs; p++)
            for (int r = 0; r < PAIRS; r++)
                total[p][r] += sum[p][r];
    }
    for (int p = 0; p < pairs; p++)
        for (int r = 0; r < PAIRS; r += 2) { /* token by row, two rows each: two squares make four rows of each token */
            float64x2_t a = (float64x2_t)total[p][r], b = (float64x2_t)total[p][r + 1];
            const vf of[2] = {(vf)vzip1q_f64(a, b), (vf)vzip2q_f64(a, b)};
            for (int t = 0; t < 2; t++) {
                float *to = y[2 * p + t] + 2 * r;
                v_store(to, first ? of[t] : of[t] + v_load(to));
            }
        }
}

/* tile() of each number of pairs: a function of its own, so that its sums stay in registers. */
#define TILE_OF(n)                                                                                                     \
    static void tile_##n(const uint16_t(*w)[PAIRS][GROUP], uint32_t units, const uint16_t *x, size_t apart,            \
                         float(*y)[ROWS], bool first) {                                                                \
        tile(w, units, x, apart, y, first, n);                                                                         \
    }
TILE_OF(1)
TILE_OF(2)
TILE_OF(3)

static void (*const tiles[])(const uint16_t (*)[PAIRS][GROUP], uint32_t, const uint16_t *, size_t, float (*)[ROWS],
                             bool) = {NULL, tile_1, tile_2, tile_3};

/* ---------------------------------------------------------------------------------------------- products */

/* Columns [col, col + cols) of `height` rows, unpacked, times a block of pairs at x; tiles as equal as can be. */
static void multiply(const struct panel *p, uint32_t height, const uint16_t *x, uint32_t pairs, uint32_t cols,
                     struct sums *sums, bool first) {
    for (uint32_t t = 0, left = (pairs + TILE_PAIRS - 1) / TILE_PAIRS, n; left; left--, t += n) {
        n = (pairs - t + left - 1) / left;
        for (uint32_t s = 0; s * SLICE < height; s++)
            tiles[n](p->w[s], cols / UNIT, x + (size_t)t * 2 * cols, 2 * (size_t)cols,
                     (float(*)[ROWS]) & sums->y[2 * t][s * SLICE], first);
    }
}

static void give_sums(const struct sums *sums, uint32_t height, uint32_t count, float *y, size_t ldy) {
    for (uint32_t t = 0; t < count; t++)
        memcpy(y + t * ldy, sums->y[t], height * sizeof(float));
}

static void gemm_pairs(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                       float *y, size_t ldy, void *scratch) {
    struct work *work = scratch;
    for (uint32_t t = 0; t < count; t += BLOCK_TOKENS) {
        uint32_t tokens = least(BLOCK_TOKENS, count - t);
        for (uint32_t r = 0; r < rows; r += ROWS) {
            uint32_t height = least(ROWS, rows - r);
            for (uint32_t c = 0; c < w->cols; c += CHUNK) {
                uint32_t cols = chunk_cols(w, c);
                bf16_unpack(w, row + r, height, c, cols, &work->panel);
                multiply(&work->panel, height, (const uint16_t *)packed + packed_at(w, count, t / 2, c),
                         (tokens + 1) / 2, cols, &work->sums, c == 0);
            }
            give_sums(&work->sums, height, tokens, y + t * ldy + r, ldy);
        }
    }
}

/* ----------------------------------------------------------------------------------------------- kernels */

static void pack_bf16(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                      void *packed) {
    (count > 1 && bf16_takes(w) ? pack_pairs : pack_neon)(w, x, ldx, count, col, cols, packed);
}

static void gemm_bf16_bf16(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                           float *y, size_t ldy, void *scratch) {
    (count > 1 && bf16_takes(w) ? gemm_pairs : gemm_bf16_neon)(w, row, rows, packed, count, y, ldy, scratch);
}

/* One token is a pair as well. */
static void pack_invariant_bf16(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col,
                                uint32_t cols, void *packed) {
    (bf16_takes(w) ? pack_pairs : pack_invariant_neon)(w, x, ldx, count, col, cols, packed);
}

static void gemm_bf16_invariant_bf16(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed,
                                     uint32_t count, float *y, size_t ldy, void *scratch) {
    (bf16_takes(w) ? gemm_pairs : gemm_bf16_invariant_neon)(w, row, rows, packed, count, y, ldy, scratch);
}

void kernel_table_init_bf16(struct kernel_table *t, bool invariant) {
    t->pack = invariant ? pack_invariant_bf16 : pack_bf16;
    t->gemm_bf16 = invariant ? gemm_bf16_invariant_bf16 : gemm_bf16_bf16;
}
