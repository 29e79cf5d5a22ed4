/*
 * neon_stream.c - products of one token, which wait for the weights' bytes and for their decoding.
 *
 * The rows of a call are cut into STREAMS runs, and the same row of each run is worked on together: memory is read at
 * several places, each in order; inputs are loaded once for all; and no sum waits for the one before. A unit is 128
 * columns, which have four scales of FP4, or one of FP8. Only FP4 wants its inputs in another order: a chunk of columns
 * at a time they are copied.
 */
#include "kernel/arm/neon_decode_internal.h"

enum { STREAMS = 4, UNIT = 128, CHUNK = 4096, AHEAD = 512 };

/* A row of each run: where its codes and scales are, and its sums, which are added up at the end. */
struct rows {
    const uint8_t *codes[STREAMS], *scales[STREAMS];
    vf even[STREAMS], odd[STREAMS];
    uint8x16_t most[STREAMS]; /* of FP8: nan_if() */
};

/* ----------------------------------------------------------------------------------------------- units */

/* `scale`: bytes to the unit's first. */
ALWAYS_INLINE void unit_fp4(struct rows *r, const int streams, size_t scale, const float *x) {
    vf scales[STREAMS];
    for (int i = 0; i < streams; i++)
        scales[i] = four_scales(r->scales[i] + scale);
#pragma GCC unroll 4
    for (int b = 0; b < UNIT / FP4_BLOCK; b++)
        for (int i = 0; i < streams; i++) {
            vf value[8];
            fp4_values(load_codes(r->codes[i] + b * 16, AHEAD), value);
            r->even[i] = v_fma(inner_product(value, x + b * FP4_BLOCK, 8), v_set(scales[i][b]), r->even[i]);
        }
}

static inline float fp8_scale(enum scale_format format, const uint8_t *p) {
    float scale;
    if (format == SCALE_E8M0)
        return e8m0_decode(*p);
    memcpy(&scale, p, sizeof(scale));
    return scale;
}

ALWAYS_INLINE void unit_fp8(struct rows *r, const int streams, enum scale_format format, size_t scale, const float *x) {
    vf part[STREAMS];
    for (int i = 0; i < streams; i++)
        part[i] = v_set(0);
    for (int b = 0; b < UNIT / FP8_BLOCK; b++)
        for (int i = 0; i < streams; i++) {
            uint8x16_t codes = load_codes(r->codes[i] + b * 16, AHEAD);
            vf value[4];
            fp8_over_256(codes, value);
            r->most[i] = vmaxq_u8(r->most[i], codes | 0x80);
            part[i] += inner_product(value, x + b * FP8_BLOCK, 4);
        }
    for (int i = 0; i < streams; i++) {
        vf factor = v_set(fp8_scale(format, r->scales[i] + scale));
        r->even[i] = v_fma(part[i] * 256, factor, r->even[i]);
    }
}

ALWAYS_INLINE void unit_bf16(struct rows *r, const int streams, const float *x) {
    for (int b = 0; b < UNIT / BF16_BLOCK; b++)
        for (int i = 0; i < streams; i++) {
            vf value[2];
            bf16_values(load_codes(r->codes[i] + b * 16, AHEAD), value);
            r->even[i] = v_fma(value[0], v_load(x + b * BF16_BLOCK), r->even[i]);
            r->odd[i] = v_fma(value[1], v_load(x + b * BF16_BLOCK + LANES), r->odd[i]);
        }
}

/* ------------------------------------------------------------------------------------------------ rows */

static size_t unit_bytes(enum format format) {
    return format == FORMAT_FP4 ? UNIT / 2 : format == FORMAT_FP8 ? UNIT : 2 * UNIT;
}

static size_t scale_bytes(const struct matrix *w) {
    return w->scale_format == SCALE_F32 ? 4 : 1;
}

/* Row `row` and those `apart` and so on behind it, from column `col`. */
ALWAYS_INLINE void rows_init(struct rows *r, const struct matrix *w, uint32_t row, uint32_t apart, const int streams,
                             uint32_t col) {
    size_t bytes = unit_bytes(w->format), stride = bytes * (w->cols / UNIT);
    for (int i = 0; i < streams; i++) {
        size_t at = row + (size_t)i * apart;
        r->codes[i] = (const uint8_t *)w->data + at * stride + col / UNIT * bytes;
        if (matrix_quantised(w))
            r->scales[i] = (const uint8_t *)w->scale + at / w->block_rows * w->scale_cols * scale_bytes(w);
        r->even[i] = r->odd[i] = v_set(0);
        r->most[i] = vdupq_n_u8(0);
    }
}

/* Columns [col, col + cols) of a row of each run, whose inputs are at x; added to y unless col is 0. */
ALWAYS_INLINE void run_rows(const struct matrix *w, enum format format, uint32_t row, uint32_t apart, const int streams,
                            uint32_t col, uint32_t cols, const float *x, float *y) {
    struct rows r;
    rows_init(&r, w, row, apart, streams, col);
    for (uint32_t c = 0; c < cols; c += UNIT) {
        size_t scale = matrix_quantised(w) ? (col + c) / w->block_cols * scale_bytes(w) : 0;
        if (format == FORMAT_FP4)
            unit_fp4(&r, streams, scale, x + c);
        else if (format == FORMAT_FP8)
            unit_fp8(&r, streams, w->scale_format, scale, x + c);
        else
            unit_bf16(&r, streams, x + c);
        for (int i = 0; i < streams; i++)
            r.codes[i] += unit_bytes(format);
    }
    for (int i = 0; i < streams; i++) {
        float *to = y + (size_t)i * apart, sum = v_sum(nan_if(r.most[i], r.even[i] + r.odd[i]));
        *to = col ? *to + sum : sum;
    }
}

ALWAYS_INLINE void run(const struct matrix *w, enum format format, uint32_t row, uint32_t rows, const float *x,
                       float *y) {
    float ordered[CHUNK];
    uint32_t apart = rows / STREAMS;
    for (uint32_t col = 0; col < w->cols; col += CHUNK) {
        uint32_t cols = w->cols - col < CHUNK ? w->cols - col : CHUNK;
        const float *in = x + col;
        for (uint32_t c = 0; c < cols && format == FORMAT_FP4; c += FP4_BLOCK)
            fp4_order(x + col + c, ordered + c);
        if (format == FORMAT_FP4)
            in = ordered;
        for (uint32_t r = 0; r < apart; r++)
            run_rows(w, format, row + r, apart, STREAMS, col, cols, in, y + r);
        for (uint32_t r = apart * STREAMS; r < rows; r++)
            run_rows(w, format, row + r, 0, 1, col, cols, in, y + r);
    }
}

bool stream_takes_neon(const struct matrix *w) {
    if (w->cols % UNIT)
        return false;
    switch (w->format) {
    case FORMAT_FP4:
        return w->scale_format == SCALE_E8M0 && w->block_cols == 32;
    case FORMAT_FP8:
        return w->block_cols % UNIT == 0;
    default:
        return w->format == FORMAT_BF16;
    }
}

void stream_neon(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, float *y) {
    WITH_FORMAT(w, format, run(w, format, row, rows, x, y));
}
