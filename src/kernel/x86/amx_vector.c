/*
 * amx_vector.c - products of up to four tokens, on the vector units: these wait for the weights' bytes alone.
 *
 * A core asks memory for most when it reads several places at once, each in order. So the rows of a call are cut into
 * STREAMS runs, and the same row of each run is worked on together; every run is read from its first byte to its last.
 * Weights become bf16 words in registers, by the tables of amx_unpack_internal.h but for FP4, whose scale here
 * multiplies the sum of its 32 columns. Tokens lie as one-token tiles do: a step is a vector of 16 pairs.
 */
#include "kernel/x86/amx_unpack_internal.h"

#define INLINE static inline __attribute__((always_inline))

enum { MOST = 4 }; /* tokens */

struct tables {
    __m512i fp4, spread; /* bf16 words of the codes, twice; the four scales of a row to the lanes they are of */
    __m512i low[2], high[2], sign; /* FP8: bytes of the words of the positive codes, exponents as they are */
    __m512i shift4, shift12;       /* FP4: bits that vpmultishiftqb takes, to move words by 4 and 12 */
};

static void tables_init(struct tables *t) {
    static const uint16_t fp4[32] = {0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                     0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                     0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                     0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
    static const uint8_t shift4[8] = {4, 12, 20, 28, 36, 44, 52, 60}, shift12[8] = {12, 20, 28, 36, 44, 52, 60, 4};
    struct strip_tables fp8;
    int64_t bits;
    t->fp4 = _mm512_loadu_si512(fp4);
    /* lane l: scale l as the high byte of each dword, zeros below */
    t->spread = _mm512_add_epi8(_mm512_set1_epi32(0x00808080),
                                _mm512_setr_epi32(0, 0, 0, 0, 1 << 24, 1 << 24, 1 << 24, 1 << 24, 2 << 24, 2 << 24,
                                                  2 << 24, 2 << 24, 3 << 24, 3 << 24, 3 << 24, 3 << 24));
    memcpy(&bits, shift4, sizeof(bits));
    t->shift4 = _mm512_set1_epi64(bits);
    memcpy(&bits, shift12, sizeof(bits));
    t->shift12 = _mm512_set1_epi64(bits);
    amx_fp8_tables(&fp8, 127);
    for (int i = 0; i < 2; i++) {
        t->low[i] = fp8.low[i];
        t->high[i] = fp8.high[i];
    }
    t->sign = _mm512_set1_epi8((char)0x80);
}

INLINE __m512 dot(__m512 sum, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

INLINE __m512 power(uint8_t exponent) {
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)exponent << 23)));
}

/* One strip of a row: its words by steps, and what multiplies their sum. */
INLINE __m512 strip_words(const struct tables *t, enum format format, const uint8_t *bytes, const uint8_t *scales,
                          __m512i words[STEPS]) {
    if (format == FORMAT_FP4) {
        __m512i x = _mm512_loadu_si512(bytes);
        words[0] = _mm512_permutexvar_epi16(x, t->fp4);
        words[1] = _mm512_permutexvar_epi16(_mm512_multishift_epi64_epi8(t->shift4, x), t->fp4);
        words[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(x, 8), t->fp4);
        words[3] = _mm512_permutexvar_epi16(_mm512_multishift_epi64_epi8(t->shift12, x), t->fp4);
        uint32_t four;
        memcpy(&four, scales, sizeof(four));
        return _mm512_castsi512_ps(_mm512_srli_epi32(_mm512_shuffle_epi8(_mm512_set1_epi32((int)four), t->spread), 1));
    }
    if (format == FORMAT_FP8) {
        for (int half = 0; half < 2; half++) {
            __m512i x = _mm512_loadu_si512(bytes + 64 * half);
            __m512i low = _mm512_permutex2var_epi8(t->low[0], x, t->low[1]);
            __m512i high = _mm512_permutex2var_epi8(t->high[0], x, t->high[1]);
            high = _mm512_ternarylogic_epi64(high, x, t->sign, 0xf8); /* | (x & sign) */
            words[2 * half] = _mm512_unpacklo_epi8(low, high);
            words[2 * half + 1] = _mm512_unpackhi_epi8(low, high);
        }
        return power(*scales);
    }
    for (int j = 0; j < STEPS; j++)
        words[j] = _mm512_loadu_si512(bytes + 64 * j);
    return _mm512_set1_ps(1);
}

/* Rows row + i * apart, i < streams, of w times all tokens. */
INLINE void run_rows(const struct tables *t, enum format format, const struct matrix *w, uint32_t row, uint32_t apart,
                     int streams, const uint8_t *packed, int tokens, float *y, size_t ldy) {
    const size_t bytes = amx_strip_bytes(format), stride = bytes * (w->cols / STRIP);
    const uint8_t *from = (const uint8_t *)w->data + row * stride, *scales[8] = {0};
    __m512 sums[8];
    for (int i = 0; i < streams && format != FORMAT_BF16; i++)
        scales[i] = (const uint8_t *)w->scale + (size_t)((row + (uint32_t)i * apart) / w->block_rows) * w->scale_cols;
    for (int i = 0; i < streams * tokens; i++)
        sums[i] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < w->cols / STRIP; s++, from += bytes)
#pragma GCC unroll 8
        for (int i = 0; i < streams; i++) {
            __m512i words[STEPS];
            const uint8_t *scale = scales[i] + (format == FORMAT_FP4 ? s * 4 : s * STRIP / w->block_cols);
            __m512 factor = strip_words(t, format, from + (size_t)i * apart * stride, scale, words);
#pragma GCC unroll 4
            for (int k = 0; k < tokens; k++) {
                const uint8_t *x = packed + ((size_t)k * w->cols + s * STRIP) * 2;
                __m512 *sum = &sums[i * tokens + k];
                if (format == FORMAT_BF16) {
                    for (int j = 0; j < STEPS; j++)
                        *sum = dot(*sum, words[j], _mm512_load_si512(x + 64 * j));
                    continue;
                }
                __m512 a = dot(_mm512_setzero_ps(), words[0], _mm512_load_si512(x));
                __m512 b = dot(_mm512_setzero_ps(), words[1], _mm512_load_si512(x + 64));
                a = dot(a, words[2], _mm512_load_si512(x + 128));
                b = dot(b, words[3], _mm512_load_si512(x + 192));
                *sum = _mm512_fmadd_ps(_mm512_add_ps(a, b), factor, *sum);
            }
        }
    for (int i = 0; i < streams; i++)
        for (int k = 0; k < tokens; k++)
            y[(size_t)k * ldy + (size_t)i * apart] = _mm512_reduce_add_ps(sums[i * tokens + k]);
}

INLINE void run_tokens(const struct tables *t, enum format format, const struct matrix *w, uint32_t row, uint32_t rows,
                       const uint8_t *packed, int tokens, float *y, size_t ldy) {
    const int streams = 8 / tokens;
    uint32_t apart = rows / (uint32_t)streams;
    for (uint32_t r = 0; r < apart; r++)
        run_rows(t, format, w, row + r, apart, streams, packed, tokens, y + r, ldy);
    for (uint32_t r = apart * (uint32_t)streams; r < rows; r++)
        run_rows(t, format, w, row + r, 0, 1, packed, tokens, y + r, ldy);
}

INLINE void run(const struct tables *t, enum format format, const struct matrix *w, uint32_t row, uint32_t rows,
                const uint8_t *packed, uint32_t count, float *y, size_t ldy) {
    switch (count) {
    case 1:
        run_tokens(t, format, w, row, rows, packed, 1, y, ldy);
        break;
    case 2:
        run_tokens(t, format, w, row, rows, packed, 2, y, ldy);
        break;
    case 3:
        run_tokens(t, format, w, row, rows, packed, 3, y, ldy);
        break;
    default:
        run_tokens(t, format, w, row, rows, packed, MOST, y, ldy);
    }
}

void amx_gemm_vector(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count,
                     float *y, size_t ldy) {
    struct tables t;
    tables_init(&t);
    if (w->format == FORMAT_FP4)
        run(&t, FORMAT_FP4, w, row, rows, packed, count, y, ldy);
    else if (w->format == FORMAT_FP8)
        run(&t, FORMAT_FP8, w, row, rows, packed, count, y, ldy);
    else
        run(&t, FORMAT_BF16, w, row, rows, packed, count, y, ldy);
}
