/*
 * amx_internal.h - how weights become tiles.
 *
 * A product is computed as its transpose: weights are the A operand, rows as they lie in memory, and activations
 * the B operand, pairs of columns by tokens. One step is 32 columns; a strip is the 128 columns that a block of FP8
 * scales, four blocks of FP4 scales and one load of FP4 have, four steps. Within a strip the order of columns is
 * free as long as both operands agree, so each format takes the order in which it unpacks fastest, and pack() lays
 * out activations by it.
 */
#ifndef KERNEL_X86_AMX_INTERNAL_H
#define KERNEL_X86_AMX_INTERNAL_H

#include "kernel/kernel_internal.h"

enum { PANEL = 16, STEP = 32, STRIP = 128, STEPS = STRIP / STEP, TILE = 1024 };

/* True if the scales of rows [row, row + height) let the fast unpacking be exact, and of FP8 are those of one row of
 * blocks. Otherwise amx_unpack_slowly() does a row of a strip: amx_unpack_internal.h's amx_unpack_row() for any scale.
 */
bool amx_plain(const struct matrix *w, uint32_t row, uint32_t height);
void amx_unpack_slowly(const struct matrix *w, uint32_t row, uint32_t strip, uint8_t *tiles, size_t apart);

/* True if w's products can be made of tiles. */
bool amx_takes(const struct matrix *w);

/* Where a pair of columns goes: dword i of the 32 columns [32 c, 32 c + 32) of a strip, after the words of each
 * 16 bytes are shuffled if `shuffled`, is row place % 16 of step place / 16. */
struct pair_order {
    bool shuffled; /* words 0 4 1 5 2 6 3 7 */
    uint8_t place[4][16];
};

const struct pair_order *amx_order(enum format format);

/*
 * Packed tokens: [chunk of CHUNK columns][tile of 16 tokens][step][16 pairs][token], a pair being two bf16, so that a
 * chunk of all tokens is one run of memory and no two of its tiles compete for the same lines of a cache. The tile of
 * up to 16 tokens in all is as narrow as they are.
 */
enum { CHUNK = 512 };

struct packing {
    uint32_t tiles, across, steps; /* token tiles, tokens in each, steps of 32 columns */
};

static inline struct packing amx_packing(const struct matrix *w, uint32_t count) {
    return (struct packing){(count + 15) / 16, count < 16 ? count : 16, w->cols / STEP};
}

static inline size_t amx_tile_bytes(const struct packing *p) {
    return 64 * (size_t)p->across;
}

/* Steps of the chunk that has column `col`. */
static inline uint32_t amx_chunk_steps(const struct packing *p, uint32_t col) {
    uint32_t left = p->steps - col / CHUNK * (CHUNK / STEP);
    return left < CHUNK / STEP ? left : CHUNK / STEP;
}

/* Offset of the step at column `col` for token tile `tile`. */
static inline size_t amx_packed_at(const struct packing *p, uint32_t tile, uint32_t col) {
    uint32_t first = col / CHUNK * (CHUNK / STEP), within = col / STEP - first;
    return ((size_t)first * p->tiles + (size_t)tile * amx_chunk_steps(p, col) + within) * amx_tile_bytes(p);
}

/* What a thread tells the tile unit: all tiles have 16 rows. Constant tables, as GCC 12 drops stores to a local one:
 * its built-in claims to read eight bytes. */
struct tile_config {
    uint8_t palette, start, zero[14];
    uint16_t width[16];
    uint8_t rows[16];
};

extern const struct tile_config amx_configs[17]; /* [n]: tiles 0 to 3, 6 and 7 are n tokens wide; at 16 all are whole */

/* Between stores and the tile loads that read them: the compiler's built-in does not say that it reads memory. */
#define MEMORY_IS_WRITTEN() __asm__ volatile("" ::: "memory")

/* sums [16 rows, 16 tokens] to y [tokens][rows], `height` and `count` of them. */
void amx_store_sums(const float *sums, uint32_t height, uint32_t count, float *y, size_t ldy);

/* gemm_bf16 of up to FEW_TILES tiles of tokens, and of more. Both begin a token's sum at 0 and add its row's steps to
 * it one after another, so its bits are the same in either. */
enum { FEW_TILES = 3 };
void amx_gemm_few(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count, float *y,
                  size_t ldy, uint8_t *scratch);
void amx_gemm_many(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count, float *y,
                   size_t ldy, uint8_t *scratch);

/* amx_factors.c */
void factor_bf16_amx(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed);
void product_bf16_amx(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                      float *c, size_t ldc);

/* attend_bf16 and index_scores_bf16 of the formats and heads they take. */
bool amx_attends(const struct row_format *f, uint32_t heads);
void amx_attend(const float *q, uint32_t heads, const struct row_format *f, const void *const *keys, uint32_t count,
                const float *sink, float scale, float *out, uint8_t *scratch);
bool amx_scores_index(const struct row_format *f, uint32_t heads);
void amx_index_scores(const float *q, const float *w, uint32_t rows, uint32_t heads, const struct row_format *f,
                      const void *keys, uint32_t count, float *scores, size_t ldscores, uint8_t *scratch);

#endif
