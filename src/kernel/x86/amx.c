/*
 * amx.c - the amx level: products on the tile units.
 *
 * Eight tiles of 16 rows by 64 bytes; one instruction multiplies 16 weight rows by 16 tokens over 32 columns, 8192
 * multiply-adds in 16 cycles. Weights come as they lie in memory and are unpacked into the first-level cache
 * (amx_internal.h has the layout, amx_unpack_internal.h the unpacking); amx_few.c and amx_many.c multiply. Here are the
 * layout of tokens, the tiles' configurations, and the way back: sums come out transposed, tokens across, and are
 * turned 16 by 16.
 */
#include "kernel/x86/amx_tiles_internal.h"
#include "kernel/x86/x86_internal.h"

#define WIDTHS(n)                                                                                                      \
    { 4 * (n), 4 * (n), 4 * (n), 4 * (n), 64, 64, 4 * (n), 4 * (n) }
#define NARROW(n)                                                                                                      \
    {                                                                                                                  \
        1, 0, {0}, WIDTHS(n), {                                                                                        \
            16, 16, 16, 16, 16, 16, 16, 16                                                                             \
        }                                                                                                              \
    }
/* For up to 16 tokens: sums 0 to 3, weights 4 and 5, tokens 6 and 7. At 16 every tile is whole. */
const _Alignas(64) struct tile_config amx_configs[17] = {
    {0},       NARROW(1),  NARROW(2),  NARROW(3),  NARROW(4),  NARROW(5),  NARROW(6),  NARROW(7), NARROW(8),
    NARROW(9), NARROW(10), NARROW(11), NARROW(12), NARROW(13), NARROW(14), NARROW(15), NARROW(16)};

/* sums [16 rows, 16 tokens] to y [tokens][rows], `height` and `count` of them. */
void amx_store_sums(const float *sums, uint32_t height, uint32_t count, float *y, size_t ldy) {
    __m512i x[16];
    __mmask16 rows = (__mmask16)((1u << height) - 1);
    for (int i = 0; i < 16; i++)
        x[i] = _mm512_load_si512(sums + 16 * i);
    amx_transpose(x);
    for (uint32_t s = 0; s < count; s++)
        _mm512_mask_storeu_epi32(y + s * ldy, rows, x[s]);
}

/* ------------------------------------------------------------------------------------------ pack */

static void pack_tiles(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                       void *packed) {
    struct packing p = amx_packing(w, count);
    for (uint32_t t = 0; t < p.tiles; t++)
        for (uint32_t c = col; c < col + cols; c += STRIP)
            amx_pack_strip(amx_order(w->format), x + (size_t)t * 16 * ldx + (c - col), ldx,
                           count - t * 16 < 16 ? count - t * 16 : 16, p.across,
                           (uint8_t *)packed + amx_packed_at(&p, t, c));
}

/* -------------------------------------------------------------------------------------- products */

static void gemm_tiles(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                       float *y, size_t ldy, void *scratch) {
    (count <= 16 * FEW_TILES ? amx_gemm_few : amx_gemm_many)(w, row, rows, packed, count, y, ldy, scratch);
}

/* One token waits for the weights' bytes alone, which the vector units keep up with. */
static bool on_tiles(const struct matrix *w, uint32_t count) {
    return count > 1 && amx_takes(w);
}

static void pack_amx(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                     void *packed) {
    (on_tiles(w, count) ? pack_tiles : pack_avx512)(w, x, ldx, count, col, cols, packed);
}

static void gemm_bf16_amx(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                          float *y, size_t ldy, void *scratch) {
    (on_tiles(w, count) ? gemm_tiles : gemm_bf16_avx512)(w, row, rows, packed, count, y, ldy, scratch);
}

/* One token on the tiles as well. */
static void pack_invariant_amx(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col,
                               uint32_t cols, void *packed) {
    (amx_takes(w) ? pack_tiles : pack_invariant_avx512)(w, x, ldx, count, col, cols, packed);
}

static void gemm_bf16_invariant_amx(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed,
                                    uint32_t count, float *y, size_t ldy, void *scratch) {
    (amx_takes(w) ? gemm_tiles : gemm_bf16_invariant_avx512)(w, row, rows, packed, count, y, ldy, scratch);
}

/* ------------------------------------------------------------------------------------- attention */

static void attend_bf16_amx(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                            uint32_t count, const float *sink, float scale, float *weights, float *out, void *scratch) {
    if (amx_attends(format, heads))
        amx_attend(q, heads, format, keys, count, sink, scale, out, scratch);
    else
        attend_avx512(q, heads, format, keys, count, sink, scale, weights, out);
}

static void index_scores_bf16_amx(const float *q, const float *w, uint32_t rows, uint32_t heads,
                                  const struct row_format *format, const void *keys, uint32_t count, float *scores,
                                  size_t ldscores, void *scratch) {
    if (amx_scores_index(format, heads))
        amx_index_scores(q, w, rows, heads, format, keys, count, scores, ldscores, scratch);
    else
        index_scores_avx512(q, w, rows, heads, format, keys, count, scores, ldscores);
}

void kernel_table_init_amx(struct kernel_table *t, bool invariant) {
    t->pack = invariant ? pack_invariant_amx : pack_amx;
    t->gemm_bf16 = invariant ? gemm_bf16_invariant_amx : gemm_bf16_amx;
    t->factor_bf16 = factor_bf16_amx;
    t->product_bf16 = product_bf16_amx;
    t->attend_bf16 = attend_bf16_amx;
    t->index_scores_bf16 = index_scores_bf16_amx;
}
