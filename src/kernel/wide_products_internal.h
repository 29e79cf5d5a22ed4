/*
 * wide_products_internal.h - products of matrices, written once for every width: gemm, attend, index_scores.
 *
 * Many tokens. Both factors are cut into blocks that lie in the first caches: a panel, float [COLS][ROWS], of ROWS
 * rows turned so that a vector holds one column of LANES rows; and an input block, float [TOKENS][STRIDE]. A
 * microkernel, tile(), keeps the sums of a panel's rows times a few tokens in registers and runs down the columns:
 *
 *     sums[token][row] += panel[c][row] * input[token][c]
 *
 * That one loop serves all three kernels, which differ in what they make panels of: a matrix, decoded; keys behind
 * pointers, decoded and turned as the rows of a matrix are (logits) or as they are (their weighted sum, where the
 * "columns" summed over are the keys). Once in a panel, keys are floats, however they were stored.
 *
 * Few tokens (gemm only). A matrix is read once, so decoding is the work. Each row is decoded in registers, in the
 * order of columns that comes cheapest, and multiplied at once; the inputs are brought into that order before, into
 * an array that stays in the first cache.
 *
 * Both ways a token's sums are its own, whoever shares the call, but not the same both ways: gemm_invariant() makes
 * products of many tokens as those of few, which is the faster way for one.
 *
 * A level's file defines, beside its vectors:
 *
 *   VECTORS, TILE                  vectors of a panel's width, most tokens of a tile: 6, or 12 and then TILE_12. The
 *                                  microkernel needs VECTORS (TILE + 1) + 1 registers
 *   transpose(vi v[LANES])         a square of dwords, in place
 *   v_load_f16(p)                  LANES halves at any address
 *   v_load_bytes(p), v_load_words(p)
 *                                  LANES of them at any address, each in a lane of its own
 *   unpack_fp4(x, out[8]), unpack_fp8(x, out[4]), unpack_bf16(x, out[2])
 *                                  the values that each dword holds, first column first
 *
 * and for up to FEW_TOKENS tokens (4, or 8 with MORE_FEW_COUNTS of 6 and 8), in blocks of LANES dwords of codes (and a
 * scale for each 32 columns of FP4):
 *
 *   order_<format>(x, out)         a block's inputs in the order in which row_<format>() wants them
 *   row_fp4(codes, scales, blocks, x, apart, ahead, tokens, sums)
 *   row_fp8(codes, scales, blocks, x, apart, ahead, tokens, sums), scales: a float for each block
 *                                  sums[t] += blocks of a row times the token whose inputs are at x + t * apart;
 *                                  codes `ahead` bytes on are fetched meanwhile
 *
 *   load_bf16(codes, ahead, out[2]) a block's values in that order
 *
 * A level may define NARROWER(name), the kernels of one whose blocks are shorter, for rows that are no whole block.
 * A level that has something better for one token defines STREAM_TAKES(w) and STREAM(w, row, rows, x, y); for packed
 * inputs INT8_TAKES(w, count), INT8_PACK(x, col, cols, packed) and INT8(w, row, rows, packed, y).
 */
#ifndef KERNEL_WIDE_PRODUCTS_INTERNAL_H
#define KERNEL_WIDE_PRODUCTS_INTERNAL_H

#include "kernel/wide_math_internal.h"

enum {
    ROWS = VECTORS * LANES,
    COLS = 256,         /* of a panel: a multiple of every decoding block */
    STRIDE = COLS + 16, /* not a power of two, so that tokens do not share the sets of a cache */
    TOKENS = 64,        /* of an input block */
    PANELS = 4,         /* that an input block meets before the next, if it is of more than FEW_INPUTS tokens */
    FEW_INPUTS = 32,
};

struct panel {
    _Alignas(64) float w[COLS][ROWS];
};

struct inputs {
    _Alignas(64) float x[TOKENS][STRIDE];
};

/* Of a panel times an input block: apart from y, whose rows may share the sets of a cache. */
struct sums {
    _Alignas(64) float y[TOKENS][ROWS];
};

/* ----------------------------------------------------------------------------------------- microkernel */

/* sums[t] = (or += unless first) the panel's rows times input t, over `cols` columns. The pragmas
 * unroll early enough for GCC 12 to keep the sums in registers alone. */
ALWAYS_INLINE void tile(const struct panel *p, size_t cols, const float (*x)[STRIDE], float (*sums)[ROWS], bool first,
                        const int tokens) {
    vf sum[TILE][VECTORS];
#pragma GCC unroll 12
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < VECTORS; v++)
            sum[t][v] = v_set(0);
    for (size_t c = 0; c < cols; c++) {
        vf w[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            w[v] = v_load(p->w[c] + v * LANES);
#pragma GCC unroll 12
        for (int t = 0; t < tokens; t++) {
            vf in = v_set(x[t][c]);
            for (int v = 0; v < VECTORS; v++)
                sum[t][v] = v_fma(in, w[v], sum[t][v]);
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < VECTORS; v++) {
            float *to = sums[t] + v * LANES;
            v_store(to, first ? sum[t][v] : sum[t][v] + v_load(to));
        }
}

/* tile() of each number of tokens: a function of its own, so that its sums stay in registers. */
#define TILE_OF(n)                                                                                                     \
    static void tile_##n(const struct panel *p, size_t cols, const float(*x)[STRIDE], float(*sums)[ROWS],              \
                         bool first) {                                                                                 \
        tile(p, cols, x, sums, first, n);                                                                              \
    }
TILE_OF(1)
TILE_OF(2)
TILE_OF(3)
TILE_OF(4)
TILE_OF(5)
TILE_OF(6)
#ifdef TILE_12
TILE_OF(7)
TILE_OF(8)
TILE_OF(9)
TILE_OF(10)
TILE_OF(11)
TILE_OF(12)
#endif

static void (*const tiles[])(const struct panel *, size_t, const float (*)[STRIDE], float (*)[ROWS], bool) = {
    NULL,   tile_1, tile_2, tile_3,  tile_4,  tile_5,  tile_6,
#ifdef TILE_12
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12,
#endif
};

/* A panel times all inputs of a block, in tiles as equal as can be. */
static void multiply(const struct panel *p, uint32_t cols, const struct inputs *in, uint32_t count, struct sums *sums,
                     bool first) {
    for (uint32_t t = 0, left = (count + TILE - 1) / TILE, n; left; left--, t += n) {
        n = (count - t + left - 1) / left;
        tiles[n](p, cols, in->x + t, sums->y + t, first);
    }
}

static void take_inputs(struct inputs *in, const float *x, size_t ldx, uint32_t count, uint32_t cols) {
    for (uint32_t t = 0; t < count; t++) {
        const float *from = x + t * ldx;
        size_t c = 0;
        for (; c + 4 * LANES <= cols; c += 4 * LANES)
            for (int i = 0; i < 4; i++)
                v_store(in->x[t] + c + i * LANES, v_load(from + c + i * LANES));
        for (; c < cols; c += LANES)
            v_store_some(in->x[t] + c, cols - c, v_load_some(from + c, cols - c));
    }
}

/* y[t][0 .. height) = (or += unless first) sums */
static void give_sums(const struct sums *sums, uint32_t count, float *y, size_t ldy, uint32_t height, bool first) {
    for (uint32_t t = 0; t < count; t++)
        for (uint32_t v = 0; v < height; v += LANES) {
            float *to = y + t * ldy + v;
            vf sum = v_load(sums->y[t] + v);
            v_store_some(to, height - v, first ? sum : sum + v_load_some(to, height - v));
        }
}

/* ---------------------------------------------------------------------------------------------- panels */

/* A vector's worth of rows: where each begins, and its scales. Rows behind the last are the last again. */
struct lanes {
    const struct matrix *w;
    uint32_t row[LANES];
    const uint8_t *codes[LANES], *scales[LANES];
    size_t ahead; /* from codes to those of the next panel */
};

static uint32_t block_of(enum format f) {
    static const uint8_t cols[] = {[FORMAT_F32] = LANES,
                                   [FORMAT_BF16] = BF16_BLOCK,
                                   [FORMAT_F16] = LANES,
                                   [FORMAT_FP8] = FP8_BLOCK,
                                   [FORMAT_FP4] = FP4_BLOCK};
    return cols[f];
}

/* Bytes of so many codes. */
static size_t codes_bytes(enum format f, size_t cols) {
    static const uint8_t bits[] = {
        [FORMAT_F32] = 32, [FORMAT_BF16] = 16, [FORMAT_F16] = 16, [FORMAT_FP8] = 8, [FORMAT_FP4] = 4};
    return cols * bits[f] / 8;
}

static size_t scale_bytes(const struct matrix *w) {
    return w->scale_format == SCALE_F32 ? 4 : 1;
}

static const uint8_t *row_scales(const struct matrix *w, uint32_t row) {
    return w->scale ? (const uint8_t *)w->scale + (size_t)(row / w->block_rows) * w->scale_cols * scale_bytes(w) : NULL;
}

static void lanes_init(struct lanes *l, const struct matrix *w, uint32_t row, uint32_t height) {
    l->w = w;
    for (uint32_t i = 0; i < LANES; i++) {
        l->row[i] = row + least(i, height - 1);
        l->codes[i] = (const uint8_t *)w->data + l->row[i] * codes_bytes(w->format, w->cols);
        l->scales[i] = row_scales(w, l->row[i]);
    }
}

/* The dwords at the same offset of each row, one vector a row, turned: one vector a dword. What the next panel has in
 * this place is fetched meanwhile; such short pieces of rows are not foreseen by the processor. */
static inline void load_turned(const struct lanes *l, size_t offset, vi v[LANES]) {
    for (int i = 0; i < LANES; i++) {
        const uint8_t *at = l->codes[i] + offset;
        __builtin_prefetch((const void *)((uintptr_t)at + l->ahead));
        v[i] = (vi)v_load((const float *)(const void *)at);
    }
    transpose(v);
}

static vf scales_at(const struct lanes *l, uint32_t block) {
    float s[LANES];
    for (int i = 0; i < LANES; i++)
        if (l->w->scale_format == SCALE_E8M0)
            s[i] = e8m0_decode(l->scales[i][block]);
        else
            memcpy(&s[i], l->scales[i] + 4 * (size_t)block, 4);
    return v_load(s);
}

static void panel_fp4(const struct lanes *l, uint32_t col, float *out) {
    int32_t four_scales[LANES] = {0};
    vi v[LANES];
    for (int i = 0; i < LANES; i++)
        memcpy(&four_scales[i], l->scales[i] + col / 32, FP4_SCALES);
    vi codes = (vi)v_load((const float *)(const void *)four_scales);
    load_turned(l, col / 2, v);
    for (int k = 0; k < FP4_SCALES; k++) {
        vf scale = e8m0_values(codes >> (8 * k) & 255);
        for (int d = 4 * k; d < 4 * k + 4; d++) {
            vf value[8];
            unpack_fp4(v[d], value);
            for (int j = 0; j < 8; j++)
                v_store(out + (size_t)(8 * d + j) * ROWS, value[j] * scale);
        }
    }
}

static void panel_fp8(const struct lanes *l, uint32_t col, float *out) {
    vf scale = scales_at(l, col / l->w->block_cols);
    vi v[LANES];
    load_turned(l, col, v);
    for (int d = 0; d < LANES; d++) {
        vf value[4];
        unpack_fp8(v[d], value);
        for (int j = 0; j < 4; j++)
            v_store(out + (size_t)(4 * d + j) * ROWS, value[j] * scale);
    }
}

static void panel_bf16(const struct lanes *l, uint32_t col, float *out) {
    vi v[LANES];
    load_turned(l, 2 * (size_t)col, v);
    for (int d = 0; d < LANES; d++) {
        vf value[2];
        unpack_bf16(v[d], value);
        for (int j = 0; j < 2; j++)
            v_store(out + (size_t)(2 * d + j) * ROWS, value[j]);
    }
}

static void panel_f16(const struct lanes *l, uint32_t col, float *out) {
    vi v[LANES];
    for (int i = 0; i < LANES; i++)
        v[i] = (vi)v_load_f16(l->codes[i] + 2 * (size_t)col);
    transpose(v);
    for (int i = 0; i < LANES; i++)
        v_store(out + (size_t)i * ROWS, (vf)v[i]);
}

static void panel_f32(const struct lanes *l, uint32_t col, float *out) {
    vi v[LANES];
    load_turned(l, 4 * (size_t)col, v);
    for (int i = 0; i < LANES; i++)
        v_store(out + (size_t)i * ROWS, (vf)v[i]);
}

/* Up to LANES columns of any matrix, by way of the one truth. */
static void panel_any(const struct lanes *l, uint32_t col, uint32_t cols, float *out) {
    float decoded[LANES][LANES] = {{0}};
    vi v[LANES];
    for (int i = 0; i < LANES; i++) {
        matrix_decode(l->w, l->row[i], col, cols, decoded[i]);
        v[i] = (vi)v_load(decoded[i]);
    }
    transpose(v);
    for (uint32_t i = 0; i < cols; i++)
        v_store(out + (size_t)i * ROWS, (vf)v[i]);
}

/* False for matrices whose scales do not fit the blocks: those go by way of panel_any(). */
static bool blocks_fit(const struct matrix *w) {
    if (w->format == FORMAT_FP4)
        return w->block_cols == 32 && w->scale_format == SCALE_E8M0 && w->cols % 2 == 0;
    return w->format != FORMAT_FP8 || w->block_cols % FP8_BLOCK == 0;
}

static void (*const panel_of[])(const struct lanes *l, uint32_t col, float *out) = {
    [FORMAT_F32] = panel_f32, [FORMAT_BF16] = panel_bf16, [FORMAT_F16] = panel_f16,
    [FORMAT_FP8] = panel_fp8, [FORMAT_FP4] = panel_fp4,
};

/* Rows [row, row + height) and columns [col, col + cols) of a matrix, turned. */
static void panel_take(struct panel *p, const struct matrix *w, uint32_t row, uint32_t height, uint32_t col,
                       uint32_t cols, size_t ahead) {
    uint32_t block = block_of(w->format), whole = blocks_fit(w) ? cols / block * block : 0;
    for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++) {
        struct lanes l;
        uint32_t c = 0;
        lanes_init(&l, w, row + v * LANES, height - v * LANES);
        l.ahead = ahead;
        for (; c < whole; c += block)
            panel_of[w->format](&l, col + c, p->w[c] + v * LANES);
        for (; c < cols; c += LANES)
            panel_any(&l, col + c, least(LANES, cols - c), p->w[c] + v * LANES);
    }
}

/* -------------------------------------------------------------------------------------------- many tokens */

/* From a panel's codes to those of the next: down the rows of a block, then on by COLS from its first row, and from the
 * last columns to the next block. May point anywhere, as it is only fetched. */
static size_t next_panel(const struct matrix *w, uint32_t r, uint32_t last, uint32_t c) {
    size_t bytes = codes_bytes(w->format, w->cols);
    if (r < last)
        return ROWS * bytes;
    if (c + COLS < w->cols)
        return codes_bytes(w->format, COLS) - (size_t)r * bytes;
    return ROWS * bytes - codes_bytes(w->format, c);
}

/* Columns [c, c + cols) of rows [row, row + rows), a block of panels, times inputs. */
static void multiply_block(const struct matrix *w, uint32_t row, uint32_t rows, uint32_t c, uint32_t cols,
                           const struct inputs *in, uint32_t count, struct sums sums[PANELS]) {
    struct panel p;
    uint32_t last = (rows - 1) / ROWS * ROWS;
    for (uint32_t r = 0; r < rows; r += ROWS) {
        panel_take(&p, w, row + r, least(ROWS, rows - r), c, cols, next_panel(w, r, last, c));
        multiply(&p, cols, in, count, &sums[r / ROWS], c == 0);
    }
}

/* A matrix is read once from end to end for each block of tokens. Inputs are copied, as rows whose strides are powers
 * of two would share the sets of a cache, and serve a few panels. */
static void gemm_many(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                      float *y, size_t ldy) {
    struct inputs in;
    struct sums sums[PANELS];
    for (uint32_t t = 0, n; t < count; t += n) {
        n = least(TOKENS, count - t);
        uint32_t block = n > FEW_INPUTS ? PANELS * ROWS : ROWS;
        for (uint32_t r = 0; r < rows; r += block) {
            uint32_t some = least(block, rows - r);
            for (uint32_t c = 0; c < w->cols; c += COLS) {
                uint32_t cols = least(COLS, w->cols - c);
                take_inputs(&in, x + t * ldx + c, ldx, n, cols);
                multiply_block(w, row + r, some, c, cols, &in, n, sums);
            }
            for (uint32_t i = 0; i < some; i += ROWS)
                give_sums(&sums[i / ROWS], n, y + t * ldy + r + i, ldy, least(ROWS, some - i), true);
        }
    }
}

/* --------------------------------------------------------------------------------------------- few tokens */

/* AHEAD: bytes fetched ahead of whole rows, past the ends of pages, where the processor would stop. Of parts of rows it
 * is the same part of the next. */
enum { FEW_FLOATS = 8192, BLOCK_BYTES = 4 * LANES, AHEAD = 3072 };

static inline vf v_load_f32(const uint8_t *p) {
    return v_load((const float *)(const void *)p);
}

/* What needs no order: floats, and halves. */
ALWAYS_INLINE void row_floats(const uint8_t *codes, size_t bytes, vf (*load)(const uint8_t *p), size_t blocks,
                              const float *x, size_t apart, size_t ahead, const int tokens, vf sums[]) {
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *at = codes + b * LANES * bytes;
        __builtin_prefetch((const void *)((uintptr_t)at + ahead));
        vf w = load(at);
        for (int t = 0; t < tokens; t++)
            sums[t] = v_fma(w, v_load(x + t * apart + b * LANES), sums[t]);
    }
}

/* A token's inputs by blocks in the format's order, zeros behind. */
static void order_inputs(enum format f, const float *x, uint32_t cols, float *out) {
    uint32_t block = block_of(f);
    for (uint32_t c = 0; c < cols; c += block) {
        float last[8 * LANES] = {0};
        const float *from = x + c;
        if (cols - c < block)
            from = memcpy(last, from, (cols - c) * sizeof(float));
        switch (f) {
        case FORMAT_FP4:
            order_fp4(from, out + c);
            break;
        case FORMAT_FP8:
            order_fp8(from, out + c);
            break;
        case FORMAT_BF16:
            order_bf16(from, out + c);
            break;
        default:
            for (uint32_t i = 0; i < block; i += LANES)
                v_store(out + c + i, v_load(from + i));
        }
    }
}

/* One strip of columns of a product: what its rows have in common. */
struct strip {
    const struct matrix *w;
    uint32_t col, blocks, left; /* whole blocks, columns behind them */
    const float *x;             /* ordered inputs, `apart` floats a token */
    size_t apart;
    size_t ahead;                         /* bytes from codes in use to those fetched meanwhile */
    float scales[FEW_FLOATS / FP8_BLOCK]; /* of FP8, by blocks */
};

static void strip_scales(struct strip *s, uint32_t row) {
    const struct matrix *w = s->w;
    const uint8_t *scales = row_scales(w, row);
    uint32_t blocks = s->blocks + (s->left > 0);
    for (size_t b = 0; b < blocks; b++) {
        size_t at = (s->col + b * FP8_BLOCK) / w->block_cols;
        if (w->scale_format == SCALE_E8M0)
            s->scales[b] = e8m0_decode(scales[at]);
        else
            memcpy(&s->scales[b], scales + 4 * at, 4);
    }
}

ALWAYS_INLINE void row_bf16(const uint8_t *codes, size_t blocks, const float *x, size_t apart, size_t ahead,
                            const int tokens, vf sums[]) {
    for (size_t b = 0; b < blocks; b++) {
        vf value[2];
        load_bf16(codes + b * 2 * BF16_BLOCK, ahead, value);
        for (int t = 0; t < tokens; t++)
            for (int j = 0; j < 2; j++)
                sums[t] = v_fma(value[j], v_load(x + t * apart + b * BF16_BLOCK + j * LANES), sums[t]);
    }
}

/* `blocks` blocks of a row, from block `first` of the strip. */
ALWAYS_INLINE void row_blocks(const struct strip *s, const uint8_t *codes, const uint8_t *scales, uint32_t first,
                              uint32_t blocks, const int tokens, vf sums[]) {
    const float *x = s->x + first * block_of(s->w->format);
    switch (s->w->format) {
    case FORMAT_FP4:
        row_fp4(codes, scales, blocks, x, s->apart, s->ahead, tokens, sums);
        break;
    case FORMAT_FP8:
        row_fp8(codes, s->scales + first, blocks, x, s->apart, s->ahead, tokens, sums);
        break;
    case FORMAT_BF16:
        row_bf16(codes, blocks, x, s->apart, s->ahead, tokens, sums);
        break;
    case FORMAT_F16:
        row_floats(codes, 2, v_load_f16, blocks, x, s->apart, s->ahead, tokens, sums);
        break;
    case FORMAT_F32:
        row_floats(codes, 4, v_load_f32, blocks, x, s->apart, s->ahead, tokens, sums);
        break;
    }
}

/* What is left behind the last whole block is decoded from copies with zeros behind. */
ALWAYS_INLINE void row_end(const struct strip *s, const uint8_t *codes, const uint8_t *scales, const int tokens,
                           vf sums[]) {
    uint8_t last_codes[BLOCK_BYTES] = {0}, last_scales[FP4_SCALES] = {0};
    enum format f = s->w->format;
    memcpy(last_codes, codes + codes_bytes(f, (size_t)s->blocks * block_of(f)), codes_bytes(f, s->left));
    if (f == FORMAT_FP4)
        memcpy(last_scales, scales + s->blocks * (FP4_SCALES), (s->left + 31) / 32);
    row_blocks(s, last_codes, last_scales, s->blocks, 1, tokens, sums);
}

ALWAYS_INLINE void strip_rows(struct strip *s, uint32_t row, uint32_t rows, uint32_t count, float *y, size_t ldy,
                              const int tokens) {
    const struct matrix *w = s->w;
    uint32_t scaled = UINT32_MAX; /* the row of blocks that s->scales is of */
    for (uint32_t r = row; r < row + rows; r++) {
        const uint8_t *codes =
            (const uint8_t *)w->data + r * codes_bytes(w->format, w->cols) + codes_bytes(w->format, s->col);
        const uint8_t *scales = NULL;
        vf sums[FEW_TOKENS];
        if (w->format == FORMAT_FP4)
            scales = row_scales(w, r) + s->col / 32;
        if (w->format == FORMAT_FP8 && r / w->block_rows != scaled) {
            scaled = r / w->block_rows;
            strip_scales(s, r);
        }
        for (int t = 0; t < tokens; t++)
            sums[t] = v_set(0);
        row_blocks(s, codes, scales, 0, s->blocks, tokens, sums);
        if (s->left)
            row_end(s, codes, scales, tokens, sums);
        for (uint32_t t = 0; t < count; t++) {
            float *to = y + t * ldy + (r - row);
            *to = v_sum(sums[t]) + (s->col ? *to : 0);
        }
    }
}

/* strip_rows() of each number of tokens. Others are rounded up, and what the last then make is thrown away. */
#define FEW_COUNTS(X) X(1) X(2) X(3) X(4) MORE_FEW_COUNTS(X)

static void few_rows(struct strip *s, uint32_t row, uint32_t rows, uint32_t count, float *y, size_t ldy) {
#define FEW_CASE(n)                                                                                                    \
    if (count <= (n)) {                                                                                                \
        strip_rows(s, row, rows, count, y, ldy, n);                                                                    \
        return;                                                                                                        \
    }
    FEW_COUNTS(FEW_CASE)
#undef FEW_CASE
}

/* Strips are as wide as there is room for the tokens' inputs, or for those of FEW_TOKENS if `invariant`: each is a sum,
 * so their width is the order of sums. */
static void gemm_few(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                     bool invariant, float *y, size_t ldy) {
    _Alignas(64) float ordered[FEW_FLOATS];
    uint32_t tokens = count + (count > 4 && count % 2), block = block_of(w->format);
    uint32_t most = FEW_FLOATS / (invariant ? FEW_TOKENS : tokens) / block * block;
    for (uint32_t c = 0; c < w->cols; c += most) {
        uint32_t cols = least(most, w->cols - c);
        struct strip s = {.w = w, .col = c, .blocks = cols / block, .left = cols % block, .x = ordered, .apart = most};
        s.ahead = cols < w->cols ? codes_bytes(w->format, w->cols) : AHEAD;
        for (uint32_t t = 0; t < count; t++)
            order_inputs(w->format, x + t * ldx + c, cols, ordered + t * most);
        if (tokens > count)
            memset(ordered + count * most, 0, most * sizeof(float));
        few_rows(&s, row, rows, count, y, ldy);
    }
}

/* ---------------------------------------------------------------------------------------------- kernels */

void LEVEL(gemm)(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                 float *y, size_t ldy) {
#ifdef STREAM
    if (count == 1 && STREAM_TAKES(w)) {
        STREAM(w, row, rows, x, y);
        return;
    }
#endif
    if (count <= FEW_TOKENS && blocks_fit(w))
        gemm_few(w, row, rows, x, ldx, count, false, y, ldy);
    else
        gemm_many(w, row, rows, x, ldx, count, y, ldy);
}

/* Few at a time; what has no blocks goes by way of panels whatever the count, also with one order of sums. */
void LEVEL(gemm_invariant)(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx,
                           uint32_t count, float *y, size_t ldy) {
    if (!blocks_fit(w)) {
        gemm_many(w, row, rows, x, ldx, count, y, ldy);
        return;
    }
    for (uint32_t t = 0; t < count; t += FEW_TOKENS)
        gemm_few(w, row, rows, x + t * ldx, ldx, least(FEW_TOKENS, count - t), true, y + t * ldy, ldy);
}

/* Packed inputs: rows of floats, a multiple of 32 apart. */
static uint32_t packed_stride(const struct matrix *w) {
    return (w->cols + 31) / 32 * 32;
}

void LEVEL(pack_invariant)(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col,
                           uint32_t cols, void *packed) {
    for (uint32_t t = 0; t < count; t++) {
        const float *from = x + t * ldx;
        float *to = (float *)packed + (size_t)t * packed_stride(w) + col;
        for (size_t c = 0; c < cols; c += LANES)
            v_store_some(to + c, cols - c, v_round_bf16(v_load_some(from + c, cols - c)));
    }
}

void LEVEL(pack)(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                 void *packed) {
#ifdef INT8
    if (INT8_TAKES(w, count)) {
        INT8_PACK(x, col, cols, packed);
        return;
    }
#endif
    LEVEL(pack_invariant)(w, x, ldx, count, col, cols, packed);
}

void LEVEL(gemm_bf16_invariant)(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                                float *y, size_t ldy, void *scratch) {
    (void)scratch;
    LEVEL(gemm_invariant)(w, row, rows, packed, packed_stride(w), count, y, ldy);
}

void LEVEL(gemm_bf16)(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count, float *y,
                      size_t ldy, void *scratch) {
    (void)scratch;
#ifdef INT8
    if (INT8_TAKES(w, count)) {
        INT8(w, row, rows, packed, y);
        return;
    }
#endif
    LEVEL(gemm)(w, row, rows, packed, packed_stride(w), count, y, ldy);
}

/* -------------------------------------------------------------------------------------------- attention */

/* Up to LANES channels of rows of any format, by way of the one truth. */
static void panel_any_keys(const struct row_format *f, const void *const *keys, uint32_t height, uint32_t c,
                           uint32_t cols, float *out) {
    float decoded[LANES][LANES] = {{0}};
    vi v[LANES];
    for (uint32_t k = 0; k < LANES; k++) {
        row_decode(f, keys[least(k, height - 1)], c, cols, decoded[k]);
        v[k] = (vi)v_load(decoded[k]);
    }
    transpose(v);
    for (uint32_t i = 0; i < cols; i++)
        v_store(out + (size_t)i * ROWS, (vf)v[i]);
}

/* A vector's worth of keys, as lanes_init() has rows of a matrix. */
static void lanes_of_keys(struct lanes *l, const struct matrix *part, const void *const *keys, uint32_t height,
                          size_t codes, size_t scales) {
    l->w = part;
    l->ahead = 0;
    for (uint32_t k = 0; k < LANES; k++) {
        const uint8_t *key = keys[least(k, height - 1)];
        l->codes[k] = key + codes;
        l->scales[k] = key + scales;
    }
}

/* Channels [c, c + cols) of the keys behind `height` pointers, turned. The parts of rows are decoded as matrices are.
 */
static void panel_keys(struct panel *p, const struct row_format *f, const void *const *keys, uint32_t height,
                       uint32_t c, uint32_t cols) {
    struct row_places at = row_places(f);
    uint32_t plain = at.plain.cols, end = c + cols;
    for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++) {
        float *out = p->w[0] + v * LANES;
        for (uint32_t from = c, stop; from < end; from = stop) {
            bool rotated = from >= plain;
            const struct matrix *part = rotated ? &at.rotated : &at.plain;
            uint32_t block = block_of(part->format), first = rotated ? plain : 0;
            struct lanes l;
            stop = rotated ? end : least(end, plain);
            lanes_of_keys(&l, part, keys + v * LANES, height - v * LANES, rotated ? at.tail : 0, at.scales);
            for (; from + block <= stop; from += block)
                panel_of[part->format](&l, from - first, out + (size_t)(from - c) * ROWS);
            for (; from < stop; from += LANES)
                panel_any_keys(f, keys + v * LANES, height - v * LANES, from, least(LANES, stop - from),
                               out + (size_t)(from - c) * ROWS);
        }
    }
}

/* A vector's worth of channels from `c` on, in one part and one block, of `count` keys. */
static void values_fp8(const struct row_places *at, const void *const *keys, uint32_t count, uint32_t c, float *out) {
    for (uint32_t k = 0; k < count; k++) {
        const uint8_t *key = keys[k];
        vf scale = v_set(e8m0_decode(key[at->scales + c / ROW_KEY_BLOCK]));
        v_store(out + (size_t)k * ROWS, e4m3_values(v_load_bytes(key + c) << 24) * scale);
    }
}

static void values_bf16(const void *const *keys, uint32_t count, size_t offset, float *out) {
    for (uint32_t k = 0; k < count; k++)
        v_store(out + (size_t)k * ROWS, (vf)(v_load_words((const uint8_t *)keys[k] + offset) << 16));
}

static void values_f32(const void *const *keys, uint32_t count, size_t offset, float *out) {
    for (uint32_t k = 0; k < count; k++)
        v_store(out + (size_t)k * ROWS, v_load_f32((const uint8_t *)keys[k] + offset));
}

static void values_any(const struct row_format *f, const void *const *keys, uint32_t count, uint32_t c, uint32_t cols,
                       float *out) {
    for (uint32_t k = 0; k < count; k++) {
        v_store(out + (size_t)k * ROWS, v_set(0));
        row_decode(f, keys[k], c, cols, out + (size_t)k * ROWS);
    }
}

/* Channels [c, c + cols) of `count` keys as they are: the rows of the panel are channels, its columns keys. */
static void panel_values(struct panel *p, const struct row_format *f, const void *const *keys, uint32_t count,
                         uint32_t c, uint32_t cols) {
    struct row_places at = row_places(f);
    uint32_t plain = at.plain.cols;
    for (uint32_t from = c, end = c + cols; from < end; from += LANES) {
        float *out = p->w[0] + (from - c);
        bool rotated = from >= plain, whole = from + LANES <= (rotated ? end : least(end, plain));
        enum format format = rotated ? at.rotated.format : at.plain.format;
        size_t i = rotated ? from - plain : from, first = rotated ? at.tail : 0;
        if (whole && format == FORMAT_F32)
            values_f32(keys, count, first + i * sizeof(float), out);
        else if (whole && format == FORMAT_BF16)
            values_bf16(keys, count, first + i * sizeof(uint16_t), out);
        else if (whole && format == FORMAT_FP8)
            values_fp8(&at, keys, count, from, out);
        else
            values_any(f, keys, count, from, least(LANES, end - from), out);
    }
}

/* logits[h][k] = q[h] . keys[k] for up to TOKENS heads */
static void logits_of(const float *q, uint32_t heads, const struct row_format *f, const void *const *keys,
                      uint32_t count, float *logits) {
    struct panel p;
    struct inputs in;
    struct sums sums;
    uint32_t dim = f->dim;
    for (uint32_t c = 0; c < dim; c += COLS) {
        uint32_t cols = least(COLS, dim - c);
        take_inputs(&in, q + c, dim, heads, cols);
        for (uint32_t k = 0; k < count; k += ROWS) {
            uint32_t height = least(ROWS, count - k);
            panel_keys(&p, f, keys + k, height, c, cols);
            multiply(&p, cols, &in, heads, &sums, true);
            give_sums(&sums, heads, logits + k, count, height, c == 0);
        }
    }
}

/* Logits become the numerators of the softmax of scale * logits; returned is one over its denominator. */
static float exponentiate(float *logits, uint32_t count, float sink, float scale) {
    vf tops = v_set(-INFINITY), total = {0};
    size_t k = 0;
    for (; k + LANES <= count; k += LANES)
        tops = v_max(tops, v_load(logits + k) * scale);
    float top = fmaxf(sink, v_top(tops));
    for (; k < count; k++)
        top = fmaxf(top, logits[k] * scale);
    for (k = 0; k + LANES <= count; k += LANES) {
        vf e = v_exp(v_load(logits + k) * scale - top);
        total += e;
        v_store(logits + k, e);
    }
    if (k < count) { /* lanes behind the last weigh nothing */
        float last[LANES];
        vf e = v_exp(v_load_part(logits + k, count - k) * scale - top);
        v_store_part(logits + k, count - k, e);
        v_store(last, v_set(0));
        v_store_part(last, count - k, e);
        total += v_load(last);
    }
    return 1 / (v_sum(total) + expf(sink - top));
}

/* out[h] = sum_k weights[h][k] * factor[h] * keys[k] for up to TOKENS heads */
static void weigh(const float *weights, const float *factor, uint32_t heads, const struct row_format *f,
                  const void *const *keys, uint32_t count, float *out) {
    struct panel p;
    struct inputs in;
    struct sums sums;
    uint32_t dim = f->dim;
    for (uint32_t k = 0; k < count; k += COLS) {
        uint32_t some = least(COLS, count - k);
        for (uint32_t h = 0; h < heads; h++)
            for (uint32_t i = 0; i < some; i += LANES)
                v_store(in.x[h] + i, v_load_some(weights + (size_t)h * count + k + i, some - i) * factor[h]);
        for (uint32_t c = 0; c < dim; c += ROWS) {
            uint32_t height = least(ROWS, dim - c);
            panel_values(&p, f, keys + k, some, c, height);
            multiply(&p, some, &in, heads, &sums, true);
            give_sums(&sums, heads, out + c, dim, height, k == 0);
        }
    }
}

void LEVEL(attend)(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                   uint32_t count, const float *sink, float scale, float *weights, float *out) {
    uint32_t dim = format->dim;
    for (uint32_t h = 0; h < heads; h += TOKENS) {
        uint32_t some = least(TOKENS, heads - h);
        float factor[TOKENS], *w = weights + (size_t)h * count;
        logits_of(q + (size_t)h * dim, some, format, keys, count, w);
        for (uint32_t i = 0; i < some; i++)
            factor[i] = exponentiate(w + (size_t)i * count, count, sink[h + i], scale);
        weigh(w, factor, some, format, keys, count, out + (size_t)h * dim);
    }
}

/* scores[k] (=, += unless first) sum_h w[h] max(matches[from + h][k], 0) for `height` keys, head after head, so that it
 * is the same sum in several calls; a NaN stays. */
static void add_matches(const struct sums *matches, uint32_t from, const float *w, uint32_t heads, uint32_t height,
                        bool first, float *scores) {
    for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++) {
        float *to = scores + v * LANES;
        size_t left = height - v * LANES;
        vf sum = first ? v_set(0) : v_load_some(to, left);
        for (uint32_t h = 0; h < heads; h++)
            sum = v_fma(v_set(w[h]), v_max(v_set(0), v_load(matches->y[from + h] + v * LANES)), sum);
        v_store_some(to, left, sum);
    }
}

/* What scores are made of: the queries of all rows are one list of heads. */
struct scoring {
    const float *q, *w;
    uint32_t heads, all; /* of a row; of all */
    const struct row_format *format;
    float *scores;
    size_t ldscores;
};

/* PANELS panels of keys are decoded and meet all heads, TOKENS at a time. */
struct scoring_room {
    struct inputs in;
    struct panel keys[PANELS];
    struct sums matches[PANELS];
};

/* Heads [first, first + some) add what they match to the scores of `count` keys from k on. */
static void give_scores(const struct scoring *s, const struct sums *matches, uint32_t first, uint32_t some, uint32_t k,
                        uint32_t count) {
    for (uint32_t i = 0, n; i < some; i += n) {
        uint32_t row = (first + i) / s->heads, head = (first + i) % s->heads;
        float *to = s->scores + row * s->ldscores + k;
        n = least(s->heads - head, some - i);
        for (uint32_t p = 0; p * ROWS < count; p++)
            add_matches(&matches[p], i, s->w + first + i, n, least(ROWS, count - p * ROWS), head == 0, to + p * ROWS);
    }
}

/* Scores of `count` keys from k on, those behind `keys`. What does not change stays in the room: all inputs, where they
 * are one block, from k = 0 on; panels, where they are as wide as keys, for all heads. */
static void score_panels(const struct scoring *s, const void *const *keys, uint32_t k, uint32_t count,
                         struct scoring_room *room) {
    const uint32_t dim = s->format->dim;
    for (uint32_t h = 0, some; h < s->all; h += some) {
        some = least(TOKENS, s->all - h);
        for (uint32_t c = 0; c < dim; c += COLS) {
            uint32_t cols = least(COLS, dim - c);
            if (k == 0 || s->all > TOKENS || dim > COLS)
                take_inputs(&room->in, s->q + (size_t)h * dim + c, dim, some, cols);
            for (uint32_t p = 0; p * ROWS < count; p++) {
                if (h == 0 || dim > COLS)
                    panel_keys(&room->keys[p], s->format, keys + p * ROWS, least(ROWS, count - p * ROWS), c, cols);
                multiply(&room->keys[p], cols, &room->in, some, &room->matches[p], c == 0);
            }
        }
        give_scores(s, room->matches, h, some, k, count);
    }
}

void LEVEL(index_scores)(const float *q, const float *w, uint32_t rows, uint32_t heads, const struct row_format *format,
                         const void *keys, uint32_t count, float *scores, size_t ldscores) {
    size_t bytes = row_bytes(format);
#ifdef NARROWER
    if (format->kind == ROW_INDEX && format->dim % FP4_BLOCK) { /* no whole block: decoded key by key here */
        NARROWER(index_scores)(q, w, rows, heads, format, keys, count, scores, ldscores);
        return;
    }
#endif
    const struct scoring s = {q, w, heads, rows * heads, format, scores, ldscores};
    struct scoring_room room;
    for (uint32_t k = 0, some; k < count; k += some) {
        const void *key[PANELS * ROWS];
        some = least(PANELS * ROWS, count - k);
        for (uint32_t i = 0; i < some; i++)
            key[i] = (const uint8_t *)keys + (k + i) * bytes;
        score_panels(&s, key, k, some, &room);
    }
}

void LEVEL(attend_bf16)(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                        uint32_t count, const float *sink, float scale, float *weights, float *out, void *scratch) {
    (void)scratch;
    LEVEL(attend)(q, heads, format, keys, count, sink, scale, weights, out);
}

void LEVEL(index_scores_bf16)(const float *q, const float *w, uint32_t rows, uint32_t heads,
                              const struct row_format *format, const void *keys, uint32_t count, float *scores,
                              size_t ldscores, void *scratch) {
    (void)scratch;
    LEVEL(index_scores)(q, w, rows, heads, format, keys, count, scores, ldscores);
}

#endif
