/*
 * avx512_stream.c - products of one token, which wait for the weights' bytes alone.
 *
 * A core asks memory for most when it reads several places at once, each in order. So the rows of a call are cut into
 * STREAMS runs, and the same row of each run is worked on together; every run is read from its first byte to its last.
 * Inputs are brought into the order in which a format unpacks most cheaply, once a call, a chunk of columns at a time:
 *
 *   FP4   64 bytes are 16 dwords of 8 codes: a lookup of dwords shifted by 4 j gives columns 8 lane + j. Four lanes
 *         share a scale, which multiplies the block's sum.
 *   FP8   64 bytes: lookups give the high and low bytes of each value's bf16, interleaved to words within 16 bytes;
 *         the low words of the dwords by a shift, the high ones by a mask.
 *   BF16  64 bytes: even columns by a shift, odd ones by a mask.
 */
#include <immintrin.h>

#include "kernel/x86/x86_internal.h"

enum { STREAMS = 8, BLOCK = 128, CHUNK = 4096 };

#define INLINE static inline __attribute__((always_inline))

/* Inputs of a block of 128 columns: eight vectors, in the order of the format. */
struct inputs {
    _Alignas(64) float x[CHUNK / BLOCK][8][16];
};

struct tables {
    __m512 fp4;
    __m512i spread, low[2], high[2], sign, upper;
};

/* ---------------------------------------------------------------------------------------- tables */

/* bf16 words of the FP8 codes [first, first + 32). */
static __m512i fp8_words(int first) {
    uint16_t words[32];
    for (int i = 0; i < 32; i++)
        words[i] = bf16_encode(e4m3_value[first + i]);
    return _mm512_loadu_si512(words);
}

static void tables_init(struct tables *t, enum format format) {
    t->upper = _mm512_set1_epi32((int)0xffff0000u);
    t->sign = _mm512_set1_epi8((char)0x80);
    /* the scale of lane l / 4 as the high byte of each dword, zeros below */
    t->spread = _mm512_add_epi8(_mm512_set1_epi32(0x00808080),
                                _mm512_setr_epi32(0, 0, 0, 0, 1 << 24, 1 << 24, 1 << 24, 1 << 24, 2 << 24, 2 << 24,
                                                  2 << 24, 2 << 24, 3 << 24, 3 << 24, 3 << 24, 3 << 24));
    t->fp4 = _mm512_loadu_ps(e2m1_value);
    for (int i = 0; i < 2 && format == FORMAT_FP8; i++) {
        __m512i a = fp8_words(64 * i), b = fp8_words(64 * i + 32);
        t->low[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(a)), _mm512_cvtepi16_epi8(b), 1);
        t->high[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_srli_epi16(a, 8))),
                                        _mm512_cvtepi16_epi8(_mm512_srli_epi16(b, 8)), 1);
    }
}

/* ---------------------------------------------------------------------------------------- inputs */

/* Where column c of a block goes, as vector * 16 + lane. */
static uint32_t place(enum format format, uint32_t c) {
    switch (format) {
    case FORMAT_FP4:
        return c % 8 * 16 + c / 8;
    case FORMAT_FP8: { /* vectors of 64 columns: first and second words of the lower interleaving, then the upper */
        uint32_t byte = c % 16, dword = c % 64 / 16 * 4 + byte % 8 / 2;
        return (c / 64 * 4 + byte / 8 * 2 + byte % 2) * 16 + dword;
    }
    default: /* BF16: vectors of 32 columns, even and odd */
        return (c / 32 * 2 + c % 2) * 16 + c % 32 / 2;
    }
}

static void order_inputs(enum format format, const float *x, uint32_t cols, struct inputs *in) {
    _Alignas(64) int32_t column[8][16];
    for (uint32_t c = 0; c < BLOCK; c++) {
        uint32_t at = place(format, c);
        column[at / 16][at % 16] = (int32_t)c;
    }
    for (uint32_t b = 0; b < cols / BLOCK; b++)
        for (int j = 0; j < 8; j++)
            _mm512_store_ps(in->x[b][j], _mm512_i32gather_ps(_mm512_load_si512(column[j]), x + b * BLOCK, 4));
}

/* ---------------------------------------------------------------------------------------- blocks */

INLINE __m512 block_fp4(const struct tables *t, const uint8_t *codes, const uint8_t *scales, const __m512 x[8],
                        __m512 sum) {
    __m512i w = _mm512_loadu_si512(codes);
    __m512 a = _mm512_mul_ps(_mm512_permutexvar_ps(w, t->fp4), x[0]);
    __m512 b = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 4), t->fp4), x[1]);
    a = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 8), t->fp4), x[2], a);
    b = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 12), t->fp4), x[3], b);
    a = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 16), t->fp4), x[4], a);
    b = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 20), t->fp4), x[5], b);
    a = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 24), t->fp4), x[6], a);
    b = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, 28), t->fp4), x[7], b);
    uint32_t four;
    memcpy(&four, scales, sizeof(four));
    __m512i scale = _mm512_shuffle_epi8(_mm512_set1_epi32((int)four), t->spread);
    return _mm512_fmadd_ps(_mm512_add_ps(a, b), _mm512_castsi512_ps(_mm512_srli_epi32(scale, 1)), sum);
}

/* Two vectors of a dword's low and high bf16. */
INLINE __m512 two(const struct tables *t, __m512i w, __m512 x0, __m512 x1, __m512 sum) {
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), x0, sum);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, t->upper)), x1, sum);
}

INLINE __m512 block_fp8(const struct tables *t, const uint8_t *codes, float scale, const __m512 x[8], __m512 sum) {
    __m512 part = _mm512_setzero_ps();
    for (int half = 0; half < 2; half++) {
        __m512i w = _mm512_loadu_si512(codes + 64 * half);
        __m512i low = _mm512_permutex2var_epi8(t->low[0], w, t->low[1]);
        __m512i high = _mm512_permutex2var_epi8(t->high[0], w, t->high[1]);
        high = _mm512_ternarylogic_epi64(high, w, t->sign, 0xf8); /* | (w & sign) */
        part = two(t, _mm512_unpacklo_epi8(low, high), x[4 * half], x[4 * half + 1], part);
        part = two(t, _mm512_unpackhi_epi8(low, high), x[4 * half + 2], x[4 * half + 3], part);
    }
    return _mm512_fmadd_ps(part, _mm512_set1_ps(scale), sum);
}

INLINE __m512 block_bf16(const struct tables *t, const uint8_t *bytes, const __m512 x[8], __m512 sum) {
    for (int i = 0; i < 4; i++)
        sum = two(t, _mm512_loadu_si512(bytes + 64 * i), x[2 * i], x[2 * i + 1], sum);
    return sum;
}

/* ------------------------------------------------------------------------------------------ rows */

INLINE uint32_t block_bytes(enum format format) {
    return format == FORMAT_FP4 ? 64 : format == FORMAT_FP8 ? 128 : 256;
}

/* The scale of a block of FP8. */
INLINE float fp8_scale(const struct matrix *w, uint32_t row, uint32_t col) {
    size_t at = (size_t)(row / w->block_rows) * w->scale_cols + col / w->block_cols;
    float scale;
    if (w->scale_format == SCALE_E8M0)
        return e8m0_decode(((const uint8_t *)w->scale)[at]);
    memcpy(&scale, (const uint8_t *)w->scale + at * sizeof(scale), sizeof(scale));
    return scale;
}

/* Rows row + i * apart, i < streams, of w, columns [col, col + cols); added to y unless col is 0. */
INLINE void run_rows(const struct tables *t, enum format format, const struct matrix *w, uint32_t row, uint32_t apart,
                     int streams, uint32_t col, uint32_t cols, const struct inputs *in, float *y) {
    const size_t bytes = block_bytes(format), stride = bytes * (w->cols / BLOCK), between = apart * stride;
    const uint8_t *from = (const uint8_t *)w->data + row * stride + col / BLOCK * bytes;
    const uint8_t *scales =
        format == FORMAT_FP4 ? (const uint8_t *)w->scale + (size_t)row * w->scale_cols + col / 32 : 0;
    const size_t scales_between = (size_t)apart * w->scale_cols;
    __m512 sums[STREAMS];
    for (int i = 0; i < streams; i++)
        sums[i] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < cols / BLOCK; b++, from += bytes) {
        __m512 x[8];
        for (int j = 0; j < 8; j++)
            x[j] = _mm512_load_ps(in->x[b][j]);
#pragma GCC unroll 8
        for (int i = 0; i < streams; i++) {
            if (format == FORMAT_FP4)
                sums[i] = block_fp4(t, from + i * between, scales + i * scales_between + b * 4, x, sums[i]);
            else if (format == FORMAT_FP8)
                sums[i] = block_fp8(t, from + i * between, fp8_scale(w, row + (uint32_t)i * apart, col + b * BLOCK), x,
                                    sums[i]);
            else
                sums[i] = block_bf16(t, from + i * between, x, sums[i]);
        }
    }
    for (int i = 0; i < streams; i++) {
        float sum = _mm512_reduce_add_ps(sums[i]);
        y[(size_t)i * apart] = col ? y[(size_t)i * apart] + sum : sum;
    }
}

INLINE void run(enum format format, const struct matrix *w, uint32_t row, uint32_t rows, const float *x, float *y) {
    struct tables t;
    struct inputs in;
    uint32_t apart = rows / STREAMS;
    tables_init(&t, format);
    for (uint32_t col = 0; col < w->cols; col += CHUNK) {
        uint32_t cols = w->cols - col < CHUNK ? w->cols - col : CHUNK;
        order_inputs(format, x + col, cols, &in);
        for (uint32_t r = 0; r < apart; r++)
            run_rows(&t, format, w, row + r, apart, STREAMS, col, cols, &in, y + r);
        for (uint32_t r = apart * STREAMS; r < rows; r++)
            run_rows(&t, format, w, row + r, 0, 1, col, cols, &in, y + r);
    }
}

bool stream_takes_avx512(const struct matrix *w) {
    if (w->cols % BLOCK)
        return false;
    switch (w->format) {
    case FORMAT_FP4:
        return w->scale_format == SCALE_E8M0 && w->block_rows == 1 && w->block_cols == 32;
    case FORMAT_FP8:
        return w->block_cols % BLOCK == 0;
    case FORMAT_BF16:
        return true;
    default:
        return false;
    }
}

void stream_avx512(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, float *y) {
    WITH_FORMAT(w, format, run(format, w, row, rows, x, y));
}
