/* number.c - tables and roundings. Everything here is exact integer work on the bits of floats. */
#include <math.h>

#include "number/number.h"

size_t dtype_bytes(enum dtype d) {
    static const uint8_t bytes[] = {
#define ROW(name, bytes) bytes,
        DTYPES(ROW)
#undef ROW
    };
    return bytes[d];
}

static const char *const names[] = {
#define ROW(name, bytes) #name,
    DTYPES(ROW)
#undef ROW
};

const char *dtype_name(enum dtype d) {
    return names[d];
}

bool dtype_parse(const char *name, size_t length, enum dtype *d) {
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0) {
            *d = (enum dtype)i;
            return true;
        }
    return false;
}

float f16_decode(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31)
        return bits_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* The eight codes of one exponent: p, p (1 + 1/8) ... */
#define E4M3_ROW(s, p)                                                                                                 \
    s(p), s(1.125f * (p)), s(1.25f * (p)), s(1.375f * (p)), s(1.5f * (p)), s(1.625f * (p)), s(1.75f * (p)),            \
        s(1.875f * (p))
#define E4M3_HALF(s)                                                                                                   \
    s 0.0f, s 0x1p-9f, s 0x2p-9f, s 0x3p-9f, s 0x4p-9f, s 0x5p-9f, s 0x6p-9f, s 0x7p-9f, E4M3_ROW(s, 0x1p-6f),         \
        E4M3_ROW(s, 0x1p-5f), E4M3_ROW(s, 0x1p-4f), E4M3_ROW(s, 0x1p-3f), E4M3_ROW(s, 0x1p-2f), E4M3_ROW(s, 0x1p-1f),  \
        E4M3_ROW(s, 1.0f), E4M3_ROW(s, 2.0f), E4M3_ROW(s, 4.0f), E4M3_ROW(s, 8.0f), E4M3_ROW(s, 16.0f),                \
        E4M3_ROW(s, 32.0f), E4M3_ROW(s, 64.0f), E4M3_ROW(s, 128.0f), s 256.0f, s 288.0f, s 320.0f, s 352.0f, s 384.0f, \
        s 416.0f, s 448.0f, s NAN

const float e4m3_value[256] = {E4M3_HALF(+), E4M3_HALF(-)};

#define E2M1_HALF(s) s 0.0f, s 0.5f, s 1.0f, s 1.5f, s 2.0f, s 3.0f, s 4.0f, s 6.0f

const float e2m1_value[16] = {E2M1_HALF(+), E2M1_HALF(-)};

/*
 * Nearest-even onto a float grid with `man` mantissa bits whose smallest normal is 2^min_exp, as a code
 * (exponent above mantissa, no sign). magnitude: finite, >= 0, at most the largest value of the grid.
 * Adding half a step in the float's own bits lets the carry run into the exponent, which is just what the
 * code needs; below 2^min_exp the step is fixed, so a float addition that pushes the value to where that is
 * its last bit does the rounding.
 */
static uint32_t round_code(float magnitude, int man, int min_exp) {
    if (magnitude < ldexpf(1, min_exp)) {
        float shift = ldexpf(1, 23 + min_exp - man);
        return float_bits(magnitude + shift) - float_bits(shift);
    }
    uint32_t u = float_bits(magnitude), drop = (uint32_t)(23 - man);
    u += ((1u << (drop - 1)) - 1) + (u >> drop & 1);
    return (u >> drop) - ((uint32_t)(127 + min_exp - 1) << man);
}

uint8_t e4m3_encode(float x) {
    uint8_t sign = (uint8_t)(float_bits(x) >> 31 << 7);
    float magnitude = fabsf(x);
    if (!(magnitude < 448))
        return sign | (isnan(x) ? 0x7f : 0x7e);
    return sign | (uint8_t)round_code(magnitude, 3, -6);
}

uint8_t e2m1_encode(float x) {
    uint8_t sign = (uint8_t)(float_bits(x) >> 31 << 3);
    float magnitude = fabsf(x);
    if (!(magnitude < 6))
        return sign | 7;
    return sign | (uint8_t)round_code(magnitude, 1, 0);
}

float pow2_ceil(float x) {
    uint32_t u = float_bits(x);
    if (u >> 23 == 0) { /* subnormal: a power of two among them, or the next */
        uint32_t p = 1;
        while (p < u)
            p <<= 1;
        return bits_float(p);
    }
    return bits_float((u + 0x7fffff) & 0x7f800000u);
}

float e4m3_scale(float amax) {
    return pow2_ceil(fmaxf(amax, 1e-4f) * (float)(1 / 448.0));
}

float e2m1_scale(float amax) {
    return pow2_ceil(fmaxf(amax, 0x1.8p-124f) * (float)(1 / 6.0));
}

/* ------------------------------------------------------------------------------- block quantisers */

/* Largest magnitude, NaN if any is: fmaxf alone would hide it. */
static float largest(const float *x, size_t count) {
    float most = 0;
    for (size_t i = 0; i < count && !isnan(most); i++)
        most = fabsf(x[i]) <= most ? most : fabsf(x[i]);
    return most;
}

void e4m3_fake(float *x, size_t count, size_t block) {
    for (; count >= block; x += block, count -= block) {
        float amax = largest(x, block), scale = isfinite(amax) ? e4m3_scale(amax) : NAN;
        for (size_t i = 0; i < block; i++)
            x[i] = e4m3_value[e4m3_encode(x[i] / scale)] * scale;
    }
}

void e2m1_fake(float *x, size_t count, size_t block) {
    for (; count >= block; x += block, count -= block) {
        float amax = largest(x, block), scale = isfinite(amax) ? e2m1_scale(amax) : NAN;
        for (size_t i = 0; i < block; i++)
            x[i] = e2m1_value[e2m1_encode(x[i] / scale)] * scale;
    }
}

void e2m1_e4m3_fake(float *x, size_t count, size_t block) {
    for (; count >= block; x += block, count -= block) {
        float amax = largest(x, block);
        float scale = isfinite(amax) ? e4m3_value[e4m3_encode(fmaxf(amax, 6 * 0x1p-9f) / 6)] : NAN;
        for (size_t i = 0; i < block; i++)
            x[i] = e2m1_value[e2m1_encode(x[i] / scale)] * scale;
    }
}

/* ------------------------------------------------------------------------------------- matrices */

static float scale_at(const struct matrix *m, uint32_t row, uint32_t col) {
    size_t i = (size_t)(row / m->block_rows) * m->scale_cols + col / m->block_cols;
    if (m->scale_format == SCALE_E8M0)
        return e8m0_decode(((const uint8_t *)m->scale)[i]);
    float s;
    memcpy(&s, (const uint8_t *)m->scale + 4 * i, sizeof(s));
    return s;
}

/* The end of the block of scales that column `at` lies in, but at most `end`. */
static uint32_t block_end(const struct matrix *m, uint32_t at, uint32_t end) {
    uint32_t next = at - at % m->block_cols + m->block_cols;
    return next < end ? next : end;
}

static void decode_fp8(const struct matrix *m, uint32_t row, uint32_t col, uint32_t count, float *out) {
    const uint8_t *codes = (const uint8_t *)m->data + (size_t)row * m->cols;
    for (uint32_t at = col, end = col + count; at < end;) {
        float scale = scale_at(m, row, at);
        for (uint32_t stop = block_end(m, at, end); at < stop; at++)
            *out++ = e4m3_value[codes[at]] * scale;
    }
}

/* A block's sixteen values are scaled once; then it is all looking up. */
static void decode_fp4(const struct matrix *m, uint32_t row, uint32_t col, uint32_t count, float *out) {
    const uint8_t *codes = (const uint8_t *)m->data + (size_t)row * (m->cols / 2);
    for (uint32_t at = col, end = col + count; at < end;) {
        float scale = scale_at(m, row, at), value[16];
        for (int i = 0; i < 16; i++)
            value[i] = e2m1_value[i] * scale;
        uint32_t stop = block_end(m, at, end);
        for (; at + 1 < stop; at += 2) {
            uint8_t pair = codes[at / 2];
            *out++ = value[pair & 15];
            *out++ = value[pair >> 4];
        }
        if (at < stop)
            *out++ = value[codes[at++ / 2] & 15];
    }
}

static void decode_bf16(const uint8_t *bytes, uint32_t count, float *out) {
    for (uint32_t i = 0; i < count; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * (size_t)i, sizeof(h));
        out[i] = bf16_decode(h);
    }
}

static void decode_f16(const uint8_t *bytes, uint32_t count, float *out) {
    for (uint32_t i = 0; i < count; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * (size_t)i, sizeof(h));
        out[i] = f16_decode(h);
    }
}

void matrix_decode(const struct matrix *m, uint32_t row, uint32_t col, uint32_t count, float *out) {
    size_t first = (size_t)row * m->cols + col;
    const uint8_t *bytes = m->data;
    switch (m->format) {
    case FORMAT_F32:
        memcpy(out, bytes + 4 * first, 4 * (size_t)count);
        break;
    case FORMAT_BF16:
        decode_bf16(bytes + 2 * first, count, out);
        break;
    case FORMAT_F16:
        decode_f16(bytes + 2 * first, count, out);
        break;
    case FORMAT_FP8:
        decode_fp8(m, row, col, count, out);
        break;
    case FORMAT_FP4:
        decode_fp4(m, row, col, count, out);
        break;
    }
}

uint64_t matrix_bytes(const struct matrix *m) {
    static const uint8_t bits[] = {
        [FORMAT_F32] = 32, [FORMAT_BF16] = 16, [FORMAT_F16] = 16, [FORMAT_FP8] = 8, [FORMAT_FP4] = 4};
    static const uint8_t scale_bytes[] = {[SCALE_NONE] = 0, [SCALE_E8M0] = 1, [SCALE_F32] = 4};
    uint64_t scale_rows = m->block_rows ? (m->rows + m->block_rows - 1) / m->block_rows : 0;
    return (uint64_t)m->rows * m->cols * bits[m->format] / 8 +
           scale_rows * m->scale_cols * scale_bytes[m->scale_format];
}

/* ------------------------------------------------------------------------------ rows of the cache */

static size_t up_to_multiple(size_t n, size_t of) {
    return (n + of - 1) / of * of;
}

/* A part of so many channels in blocks of scales. */
static struct matrix blocks_of(enum format format, uint32_t cols, uint32_t block) {
    return (struct matrix){.format = format,
                           .rows = 1,
                           .cols = cols,
                           .scale_format = SCALE_E8M0,
                           .block_rows = 1,
                           .block_cols = block,
                           .scale_cols = (cols + block - 1) / block};
}

struct row_places row_places(const struct row_format *f) {
    struct row_places at = {.plain = {.format = FORMAT_F32, .rows = 1, .cols = f->dim}};
    if (f->kind == ROW_F32) {
        at.tail = f->dim * sizeof(float);
    } else if (f->kind == ROW_INDEX) {
        at.plain = blocks_of(FORMAT_FP4, f->dim, ROW_INDEX_BLOCK);
        at.scales = ((size_t)f->dim + 1) / 2;
        at.tail = at.scales + at.plain.scale_cols;
    } else {
        size_t width = f->kind == ROW_KEY ? 2 : sizeof(float);
        at.plain = blocks_of(FORMAT_FP8, f->dim - f->rotated, ROW_KEY_BLOCK);
        at.scales = at.plain.cols;
        at.tail = up_to_multiple(at.scales + at.plain.scale_cols, width);
        at.rotated.format = f->kind == ROW_KEY ? FORMAT_BF16 : FORMAT_F32;
        at.rotated.rows = 1;
        at.rotated.cols = f->rotated;
        at.bytes = width * f->rotated;
    }
    at.bytes += at.tail;
    return at;
}

size_t row_bytes(const struct row_format *f) {
    return row_places(f).bytes;
}

/* Codes of a block, one a byte; returns its scale's. */
static uint8_t encode_block(const float *x, uint32_t count, float (*scale_of)(float amax), uint8_t (*encode)(float x),
                            uint8_t *codes) {
    float amax = largest(x, count);
    if (!isfinite(amax)) {
        memset(codes, 0, count);
        return 255;
    }
    float scale = scale_of(amax);
    for (uint32_t i = 0; i < count; i++)
        codes[i] = encode(x[i] / scale);
    return e8m0_encode(scale);
}

static void encode_key(const struct row_format *f, const float *x, uint8_t *row) {
    struct row_places at = row_places(f);
    uint8_t *scale = row + at.scales, *tail = row + at.tail;
    for (uint32_t c = 0; c < at.plain.cols; c += ROW_KEY_BLOCK) {
        uint32_t count = at.plain.cols - c < ROW_KEY_BLOCK ? at.plain.cols - c : ROW_KEY_BLOCK;
        *scale++ = encode_block(x + c, count, e4m3_scale, e4m3_encode, row + c);
    }
    memset(scale, 0, (size_t)(tail - scale));
    if (f->kind == ROW_KEY_F32)
        memcpy(tail, x + at.plain.cols, f->rotated * sizeof(*x));
    for (uint32_t i = 0; f->kind == ROW_KEY && i < f->rotated; i++) {
        uint16_t h = bf16_encode(x[at.plain.cols + i]);
        memcpy(tail + 2 * (size_t)i, &h, sizeof(h));
    }
}

static void encode_index(const struct row_format *f, const float *x, uint8_t *row) {
    uint8_t *scale = row + row_places(f).scales, codes[ROW_INDEX_BLOCK];
    for (uint32_t c = 0; c < f->dim; c += ROW_INDEX_BLOCK) {
        uint32_t count = f->dim - c < ROW_INDEX_BLOCK ? f->dim - c : ROW_INDEX_BLOCK;
        *scale++ = encode_block(x + c, count, e2m1_scale, e2m1_encode, codes);
        if (count % 2)
            codes[count] = 0;
        for (uint32_t i = 0; i < count; i += 2)
            row[(c + i) / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    }
}

void row_encode(const struct row_format *f, const float *x, void *row) {
    switch (f->kind) {
    case ROW_F32:
        memcpy(row, x, f->dim * sizeof(*x));
        break;
    case ROW_KEY:
    case ROW_KEY_F32:
        encode_key(f, x, row);
        break;
    case ROW_INDEX:
        encode_index(f, x, row);
        break;
    }
}

void row_decode(const struct row_format *f, const void *row, uint32_t col, uint32_t count, float *out) {
    struct row_places at = row_places(f);
    uint32_t plain = at.plain.cols, some = col >= plain ? 0 : plain - col < count ? plain - col : count;
    at.plain.data = row;
    at.plain.scale = (const uint8_t *)row + at.scales;
    at.rotated.data = (const uint8_t *)row + at.tail;
    if (some)
        matrix_decode(&at.plain, 0, col, some, out);
    if (some < count)
        matrix_decode(&at.rotated, 0, col + some - plain, count - some, out + some);
}
