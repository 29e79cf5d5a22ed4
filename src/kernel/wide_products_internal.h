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
 * pointers, turned (logits) or as they are (their weighted sum, where the "columns" summed over are the keys).
 *
 * Few tokens (gemm only). A matrix is read once, so decoding is the work. Each row is decoded in registers, in the
 * order of columns that comes cheapest, and multiplied at once; the inputs are brought into that order before, into
 * an array that stays in the first cache.
 *
 * A level's file defines, beside its vectors:
 *
 *   VECTORS, TILE                  vectors of a panel's width, most tokens of a tile: 6, or 12 and then TILE_12. The
 *                                  microkernel needs VECTORS (TILE + 1) + 1 registers
 *   transpose(vi v[LANES])         a square of dwords, in place
 *   v_load_f16(p)                  LANES halves at any address
 *   unpack_fp4(x, out[8]), unpack_fp8(x, out[4]), unpack_bf16(x, out[2])
 *                                  the values that each dword holds, first column first
 *
 * and for few tokens, in blocks of LANES dwords of codes (and a scale for each 32 columns of FP4):
 *
 *   order_<format>(x, out)         a block's inputs in the order in which row_<format>() wants them
 *   row_fp4(codes, scales, blocks, x, apart, tokens, sums)
 *   row_fp8(codes, scales, blocks, x, apart, tokens, sums), scales: a float for each block
 *   row_bf16(codes, blocks, x, apart, tokens, sums)
 *                                  sums[t] += blocks of a row times the token whose inputs are at x + t * apart
 */
#ifndef KERNEL_WIDE_PRODUCTS_INTERNAL_H
#define KERNEL_WIDE_PRODUCTS_INTERNAL_H

#include "kernel/wide_math_internal.h"

enum {
    ROWS = VECTORS * LANES,
    COLS = 256,         /* of a panel: a multiple of every decoding block */
    STRIDE = COLS + 16, /* not a power of two, so that tokens do not share the sets of a cache */
    TOKENS = 64,        /* of an input block */
};

struct panel {
    _Alignas(64) float w[COLS][ROWS];
};

struct inputs {
    _Alignas(64) float x[TOKENS][STRIDE];
};

static inline uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* ----------------------------------------------------------------------------------------- microkernel */

/* y[t][0 .. height) = (or += unless first) the panel's rows times each token, over `cols` columns. */
ALWAYS_INLINE void tile(const struct panel *p, uint32_t cols, const float *x, float *y, size_t ldy, uint32_t height,
                        bool first, const int tokens) {
    vf sums[TILE][VECTORS];
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < VECTORS; v++)
            sums[t][v] = v_set(0);
    for (size_t c = 0; c < cols; c++) {
        vf w[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            w[v] = v_load(p->w[c] + v * LANES);
        for (int t = 0; t < tokens; t++) {
            vf in = v_set(x[c + (size_t)t * STRIDE]);
            for (int v = 0; v < VECTORS; v++)
                sums[t][v] = v_fma(in, w[v], sums[t][v]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++) {
            float *to = y + (size_t)t * ldy + v * LANES;
            vf sum = sums[t][v];
            v_store_some(to, height - v * LANES, first ? sum : sum + v_load_some(to, height - v * LANES));
        }
}

/* tile() of each number of tokens: a function of its own, so that its sums stay in registers. */
#define TILE_OF(n)                                                                                                     \
    static void tile_##n(const struct panel *p, uint32_t cols, const float *x, float *y, size_t ldy, uint32_t height,  \
                         bool first) {                                                                                 \
        tile(p, cols, x, y, ldy, height, first, n);                                                                    \
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

static void (*const tiles[])(const struct panel *, uint32_t, const float *, float *, size_t, uint32_t, bool) = {
    NULL,   tile_1, tile_2, tile_3,  tile_4,  tile_5,  tile_6,
#ifdef TILE_12
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12,
#endif
};

/* A panel times all tokens of a block, in tiles as equal as can be. */
static void multiply(const struct panel *p, uint32_t cols, const struct inputs *in, uint32_t count, float *y,
                     size_t ldy, uint32_t height, bool first) {
    for (uint32_t t = 0, left = (count + TILE - 1) / TILE, n; left; left--, t += n) {
        n = (count - t + left - 1) / left;
        tiles[n](p, cols, in->x[t], y + t * ldy, ldy, height, first);
    }
}

static void take_inputs(struct inputs *in, const float *x, size_t ldx, uint32_t count, uint32_t cols) {
    for (uint32_t t = 0; t < count; t++)
        memcpy(in->x[t], x + t * ldx, cols * sizeof(float));
}

/* ---------------------------------------------------------------------------------------------- panels */

/* A vector's worth of rows: where each begins, and its scales. Rows behind the last are the last again. */
struct lanes {
    const struct matrix *w;
    uint32_t row[LANES];
    const uint8_t *codes[LANES], *scales[LANES];
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

/* The dwords at the same offset of each row, one vector a row, turned: one vector a dword. */
static inline void load_turned(const uint8_t *const at[LANES], size_t offset, vi v[LANES]) {
    for (int i = 0; i < LANES; i++)
        v[i] = (vi)v_load((const float *)(const void *)(at[i] + offset));
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
    load_turned(l->codes, col / 2, v);
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
    load_turned(l->codes, col, v);
    for (int d = 0; d < LANES; d++) {
        vf value[4];
        unpack_fp8(v[d], value);
        for (int j = 0; j < 4; j++)
            v_store(out + (size_t)(4 * d + j) * ROWS, value[j] * scale);
    }
}

static void panel_bf16(const struct lanes *l, uint32_t col, float *out) {
    vi v[LANES];
    load_turned(l->codes, 2 * (size_t)col, v);
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
    load_turned(l->codes, 4 * (size_t)col, v);
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
                       uint32_t cols) {
    uint32_t block = block_of(w->format), whole = blocks_fit(w) ? cols / block * block : 0;
    for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++) {
        struct lanes l;
        uint32_t c = 0;
        lanes_init(&l, w, row + v * LANES, height - v * LANES);
        for (; c < whole; c += block)
            panel_of[w->format](&l, col + c, p->w[c] + v * LANES);
        for (; c < cols; c += LANES)
            panel_any(&l, col + c, least(LANES, cols - c), p->w[c] + v * LANES);
    }
}

/* -------------------------------------------------------------------------------------------- many tokens */

/* Panel by panel down the rows, so that a matrix is read once from end to end for each block of tokens. Inputs are
 * copied for every panel: that is a sixteenth of the microkernel's work at worst and saves it from strides that are
 * powers of two. */
static void gemm_many(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                      float *y, size_t ldy) {
    struct panel p;
    struct inputs in;
    for (uint32_t t = 0, n; t < count; t += n) {
        n = least(TOKENS, count - t);
        for (uint32_t r = 0; r < rows; r += ROWS)
            for (uint32_t c = 0; c < w->cols; c += COLS) {
                uint32_t height = least(ROWS, rows - r), cols = least(COLS, w->cols - c);
                panel_take(&p, w, row + r, height, c, cols);
                take_inputs(&in, x + t * ldx + c, ldx, n, cols);
                multiply(&p, cols, &in, n, y + t * ldy + r, ldy, height, c == 0);
            }
    }
}

/* --------------------------------------------------------------------------------------------- few tokens */

enum { FEW_TOKENS = 4, FEW_FLOATS = 8192, BLOCK_BYTES = 4 * LANES };

/* sums[t] += blocks of LANES values, which `load` makes floats of. */
#define ROW_OF_FLOATS(name, load, bytes)                                                                               \
    ALWAYS_INLINE void name(const uint8_t *codes, uint32_t blocks, const float *x, size_t apart, const int tokens,     \
                            vf sums[]) {                                                                               \
        for (uint32_t b = 0; b < blocks; b++) {                                                                        \
            vf w = load(codes + (size_t)b * LANES * (bytes));                                                          \
            for (int t = 0; t < tokens; t++)                                                                           \
                sums[t] = v_fma(w, v_load(x + t * apart + (size_t)b * LANES), sums[t]);                                \
        }                                                                                                              \
    }

static inline vf v_load_f32(const uint8_t *p) {
    return v_load((const float *)(const void *)p);
}

ROW_OF_FLOATS(row_f32, v_load_f32, 4)
ROW_OF_FLOATS(row_f16, v_load_f16, 2)

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
    float scales[FEW_FLOATS / FP8_BLOCK]; /* of FP8, by blocks */
};

static void strip_scales(struct strip *s, uint32_t row) {
    const struct matrix *w = s->w;
    const uint8_t *scales = row_scales(w, row);
    uint32_t blocks = s->blocks + (s->left > 0);
    for (uint32_t b = 0; b < blocks; b++) {
        size_t at = (s->col + b * FP8_BLOCK) / w->block_cols;
        if (w->scale_format == SCALE_E8M0)
            s->scales[b] = e8m0_decode(scales[at]);
        else
            memcpy(&s->scales[b], scales + 4 * at, 4);
    }
}

/* `blocks` blocks of a row, from block `first` of the strip. */
ALWAYS_INLINE void row_blocks(const struct strip *s, const uint8_t *codes, const uint8_t *scales, uint32_t first,
                              uint32_t blocks, const int tokens, vf sums[]) {
    const float *x = s->x + first * block_of(s->w->format);
    switch (s->w->format) {
    case FORMAT_FP4:
        row_fp4(codes, scales, blocks, x, s->apart, tokens, sums);
        break;
    case FORMAT_FP8:
        row_fp8(codes, s->scales + first, blocks, x, s->apart, tokens, sums);
        break;
    case FORMAT_BF16:
        row_bf16(codes, blocks, x, s->apart, tokens, sums);
        break;
    case FORMAT_F16:
        row_f16(codes, blocks, x, s->apart, tokens, sums);
        break;
    case FORMAT_F32:
        row_f32(codes, blocks, x, s->apart, tokens, sums);
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

ALWAYS_INLINE void strip_rows(struct strip *s, uint32_t row, uint32_t rows, float *y, size_t ldy, const int tokens) {
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
        for (int t = 0; t < tokens; t++) {
            float *to = y + t * ldy + (r - row);
            *to = v_sum(sums[t]) + (s->col ? *to : 0);
        }
    }
}

static void gemm_few(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                     float *y, size_t ldy) {
    _Alignas(64) float ordered[FEW_FLOATS];
    uint32_t block = block_of(w->format), most = FEW_FLOATS / count / block * block;
    for (uint32_t c = 0; c < w->cols; c += most) {
        uint32_t cols = least(most, w->cols - c);
        struct strip s = {.w = w, .col = c, .blocks = cols / block, .left = cols % block, .x = ordered, .apart = most};
        for (uint32_t t = 0; t < count; t++)
            order_inputs(w->format, x + t * ldx + c, cols, ordered + t * most);
        switch (count) {
        case 1:
            strip_rows(&s, row, rows, y, ldy, 1);
            break;
        case 2:
            strip_rows(&s, row, rows, y, ldy, 2);
            break;
        case 3:
            strip_rows(&s, row, rows, y, ldy, 3);
            break;
        default:
            strip_rows(&s, row, rows, y, ldy, 4);
        }
    }
}

/* ---------------------------------------------------------------------------------------------- kernels */

void LEVEL(gemm)(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                 float *y, size_t ldy) {
    if (count <= FEW_TOKENS && blocks_fit(w))
        gemm_few(w, row, rows, x, ldx, count, y, ldy);
    else
        gemm_many(w, row, rows, x, ldx, count, y, ldy);
}

/* Packed inputs: rows of floats, a multiple of 32 apart. */
static uint32_t packed_stride(const struct matrix *w) {
    return (w->cols + 31) / 32 * 32;
}

void LEVEL(pack)(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                 void *packed) {
    for (uint32_t t = 0; t < count; t++) {
        const float *from = x + t * ldx + col;
        float *to = (float *)packed + (size_t)t * packed_stride(w) + col;
        for (size_t c = 0; c < cols; c += LANES)
            v_store_some(to + c, cols - c, v_round_bf16(v_load_some(from + c, cols - c)));
    }
}

void LEVEL(gemm_bf16)(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count, float *y,
                      size_t ldy, void *scratch) {
    (void)scratch;
    LEVEL(gemm)(w, row, rows, packed, packed_stride(w), count, y, ldy);
}

/* -------------------------------------------------------------------------------------------- attention */

/* Channels [c, c + cols) of the keys behind `height` pointers, turned. */
static void panel_keys(struct panel *p, const float *const *keys, uint32_t height, uint32_t c, uint32_t cols) {
    for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++)
        for (uint32_t i = 0; i < cols; i += LANES) {
            vi square[LANES];
            for (uint32_t k = 0; k < LANES; k++)
                square[k] = (vi)v_load_some(keys[v * LANES + least(k, height - v * LANES - 1)] + c + i, cols - i);
            transpose(square);
            for (uint32_t k = 0; k < LANES && i + k < cols; k++)
                v_store(p->w[i + k] + v * LANES, (vf)square[k]);
        }
}

/* Channels [c, c + cols) of `count` keys as they are: the rows of the panel are channels, its columns keys. */
static void panel_values(struct panel *p, const float *const *keys, uint32_t count, uint32_t c, uint32_t cols) {
    for (uint32_t k = 0; k < count; k++)
        for (uint32_t v = 0; v < VECTORS && v * LANES < cols; v++)
            v_store(p->w[k] + v * LANES, v_load_some(keys[k] + c + v * LANES, cols - v * LANES));
}

/* logits[h][k] = q[h] . keys[k] for up to TOKENS heads */
static void logits_of(const float *q, uint32_t heads, uint32_t dim, const float *const *keys, uint32_t count,
                      float *logits) {
    struct panel p;
    struct inputs in;
    for (uint32_t c = 0; c < dim; c += COLS) {
        uint32_t cols = least(COLS, dim - c);
        take_inputs(&in, q + c, dim, heads, cols);
        for (uint32_t k = 0; k < count; k += ROWS) {
            uint32_t height = least(ROWS, count - k);
            panel_keys(&p, keys + k, height, c, cols);
            multiply(&p, cols, &in, heads, logits + k, count, height, c == 0);
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
static void weigh(const float *weights, const float *factor, uint32_t heads, uint32_t dim, const float *const *keys,
                  uint32_t count, float *out) {
    struct panel p;
    struct inputs in;
    for (uint32_t k = 0; k < count; k += COLS) {
        uint32_t some = least(COLS, count - k);
        for (uint32_t h = 0; h < heads; h++)
            for (uint32_t i = 0; i < some; i += LANES)
                v_store(in.x[h] + i, v_load_some(weights + (size_t)h * count + k + i, some - i) * factor[h]);
        for (uint32_t c = 0; c < dim; c += ROWS) {
            uint32_t height = least(ROWS, dim - c);
            panel_values(&p, keys + k, some, c, height);
            multiply(&p, some, &in, heads, out + c, dim, height, k == 0);
        }
    }
}

void LEVEL(attend)(const float *q, uint32_t heads, uint32_t dim, const float *const *keys, uint32_t count,
                   const float *sink, float scale, float *weights, float *out) {
    for (uint32_t h = 0; h < heads; h += TOKENS) {
        uint32_t some = least(TOKENS, heads - h);
        float factor[TOKENS], *w = weights + (size_t)h * count;
        logits_of(q + (size_t)h * dim, some, dim, keys, count, w);
        for (uint32_t i = 0; i < some; i++)
            factor[i] = exponentiate(w + (size_t)i * count, count, sink[h + i], scale);
        weigh(w, factor, some, dim, keys, count, out + (size_t)h * dim);
    }
}

/* scores[k] (=, += unless first) sum_h w[h] max(matches[h][k], 0) for `height` keys; a NaN stays. */
static void add_matches(const float matches[TOKENS][ROWS], const float *w, uint32_t heads, uint32_t height, bool first,
                        float *scores) {
    for (uint32_t v = 0; v < VECTORS && v * LANES < height; v++) {
        vf sum = {0};
        for (uint32_t h = 0; h < heads; h++)
            sum = v_fma(v_set(w[h]), v_max(v_set(0), v_load(matches[h] + v * LANES)), sum);
        float *to = scores + v * LANES;
        size_t left = height - v * LANES;
        v_store_some(to, left, first ? sum : sum + v_load_some(to, left));
    }
}

void LEVEL(index_scores)(const float *q, const float *w, uint32_t heads, uint32_t dim, const float *keys,
                         uint32_t count, float *scores) {
    float matches[TOKENS][ROWS];
    struct panel p;
    struct inputs in;
    for (uint32_t h = 0; h < heads; h += TOKENS) {
        uint32_t some = least(TOKENS, heads - h);
        for (uint32_t k = 0; k < count; k += ROWS) {
            uint32_t height = least(ROWS, count - k);
            const float *row[ROWS];
            for (uint32_t i = 0; i < height; i++)
                row[i] = keys + (size_t)(k + i) * dim;
            for (uint32_t c = 0; c < dim; c += COLS) {
                uint32_t cols = least(COLS, dim - c);
                if (k == 0 || dim > COLS) /* else they are still there */
                    take_inputs(&in, q + (size_t)h * dim + c, dim, some, cols);
                panel_keys(&p, row, height, c, cols);
                multiply(&p, cols, &in, some, matches[0], ROWS, ROWS, c == 0);
            }
            add_matches((const float(*)[ROWS])matches, w + h, some, height, h == 0, scores + k);
        }
    }
}

#endif
