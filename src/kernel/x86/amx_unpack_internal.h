/*
 * amx_unpack_internal.h - FP4, FP8 and BF16 weights into bf16 tiles, inlined into the loops that multiply them.
 *
 * Every value of these formats times a power of two is exactly a bf16, so a table of bf16 codes and an addition to
 * their exponents is all there is. The addition must leave zero alone: codes are stored with their exponent raised by
 * a bias, the table's zero is the word 0, and `bias - scale` is subtracted with unsigned saturation. Scales for
 * which a result would leave the normal range, and NaN, take amx_unpack_slowly().
 *
 *   FP4   64 bytes of a row are 32 words of four columns: shifting by 4 j brings column 4 w + j into the low
 *         nibble of word w, where the table lookup ignores all above but one bit, for which the table stands twice.
 *         Step j has columns 4 w + j.
 *   FP8   64 bytes of a row are 64 columns: two lookups give the high and the low byte of each, interleaved within
 *         16 bytes to the words of two steps. The tables are made for each block's scale.
 *   BF16  is copied.
 */
#ifndef KERNEL_X86_AMX_UNPACK_INTERNAL_H
#define KERNEL_X86_AMX_UNPACK_INTERNAL_H

#include <immintrin.h>

#include "kernel/x86/amx_internal.h"

enum { FP4_BIAS = 253, FP8_BIAS = 247 };

/* Scales for which all values are normal. */
enum { FP4_LEAST = 2, FP4_MOST = 252, FP8_LEAST = 10, FP8_MOST = 246 };

static inline bool amx_scale_within(uint8_t scale, int least, int most) {
    return scale >= least && scale <= most;
}

/* bf16 words of the 16 codes, exponents raised by FP4_BIAS - 127; both zeros are 0. */
static const uint16_t amx_fp4_words[32] = {
#define FP4_WORD(bits) (bits) + ((FP4_BIAS - 127) << 7)
#define FP4_HALF(sign)                                                                                                 \
    0, (sign) + FP4_WORD(0x3f00), (sign) + FP4_WORD(0x3f80), (sign) + FP4_WORD(0x3fc0), (sign) + FP4_WORD(0x4000),     \
        (sign) + FP4_WORD(0x4040), (sign) + FP4_WORD(0x4080), (sign) + FP4_WORD(0x40c0)
    FP4_HALF(0), FP4_HALF(0x8000), FP4_HALF(0), FP4_HALF(0x8000)
#undef FP4_HALF
#undef FP4_WORD
};

/* bf16 words of the 128 positive codes, exponents raised by FP8_BIAS - 127; zero is 0. */
static inline void amx_fp8_words(__m512i words[4]) {
    const __m512i iota = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13,
                                          12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    /* subnormal codes 1..7 are k 2^-9: exponent 118 + floor(log2 k), the rest of k as mantissa */
    static const uint16_t small[8] = {0,
                                      (118 + FP8_BIAS - 127) << 7,
                                      (119 + FP8_BIAS - 127) << 7,
                                      (119 + FP8_BIAS - 127) << 7 | 0x40,
                                      (120 + FP8_BIAS - 127) << 7,
                                      (120 + FP8_BIAS - 127) << 7 | 0x20,
                                      (120 + FP8_BIAS - 127) << 7 | 0x40,
                                      (120 + FP8_BIAS - 127) << 7 | 0x60};
    for (int i = 0; i < 4; i++) {
        __m512i code = _mm512_add_epi16(iota, _mm512_set1_epi16((short)(32 * i)));
        words[i] = _mm512_add_epi16(_mm512_slli_epi16(code, 4), _mm512_set1_epi16((120 + FP8_BIAS - 127) << 7));
    }
    words[0] = _mm512_mask_loadu_epi16(words[0], 0xff, small);
}

/* What unpacking a strip of a block of rows with the same scales needs. */
struct strip_tables {
    __m512i fp4, spread;     /* bf16 words; where a row's four scales go */
    __m512i low[2], high[2]; /* FP8: low and high bytes of the words of the 128 codes */
};

static inline void amx_tables_init(struct strip_tables *t, enum format format) {
    if (format != FORMAT_FP4)
        return;
    t->fp4 = _mm512_loadu_si512(amx_fp4_words);
    /* the byte of lane l's scale into the low byte of each of its words */
    t->spread = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_set_m128i(_mm_set1_epi16((short)0x8001), _mm_set1_epi16((short)0x8000))),
        _mm256_set_m128i(_mm_set1_epi16((short)0x8003), _mm_set1_epi16((short)0x8002)), 1);
}

/* FP8 tables of codes times 2^(scale - 127). */
static inline void amx_fp8_tables(struct strip_tables *t, uint8_t scale) {
    static const uint8_t even_bytes[64] = {
        0,  2,  4,  6,  8,  10, 12,  14,  16,  18,  20,  22,  24,  26,  28,  30,  32,  34,  36,  38, 40, 42,
        44, 46, 48, 50, 52, 54, 56,  58,  60,  62,  64,  66,  68,  70,  72,  74,  76,  78,  80,  82, 84, 86,
        88, 90, 92, 94, 96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126};
    const __m512i down = _mm512_set1_epi16((short)((FP8_BIAS - scale) << 7));
    const __m512i even = _mm512_loadu_si512(even_bytes), odd = _mm512_or_si512(even, _mm512_set1_epi8(1));
    __m512i words[4];
    amx_fp8_words(words);
    for (int i = 0; i < 4; i++)
        words[i] = _mm512_subs_epu16(words[i], down);
    words[3] = _mm512_mask_mov_epi16(words[3], 0x80000000u, _mm512_set1_epi16(0x7fc0)); /* code 127 is NaN */
    for (int i = 0; i < 2; i++) {
        t->low[i] = _mm512_permutex2var_epi8(words[2 * i], even, words[2 * i + 1]);
        t->high[i] = _mm512_permutex2var_epi8(words[2 * i], odd, words[2 * i + 1]);
    }
}

/* FP8 tables for the block of `row` and strip `strip`. */
static inline void amx_tables_strip(struct strip_tables *t, enum format format, const struct matrix *w, uint32_t row,
                                    uint32_t strip) {
    if (format == FORMAT_FP8)
        amx_fp8_tables(
            t,
            ((const uint8_t *)w->scale)[(size_t)(row / w->block_rows) * w->scale_cols + strip * STRIP / w->block_cols]);
}

/* Bytes of 128 columns of a row. */
static inline uint32_t amx_strip_bytes(enum format format) {
    return format == FORMAT_FP4 ? 64 : format == FORMAT_FP8 ? 128 : 256;
}

/* Where a strip of a row is, and what lies between it and the next row's. */
struct strip_rows {
    const uint8_t *bytes, *scales; /* scales: of FP4 */
    size_t bytes_apart, scales_apart;
};

static inline struct strip_rows amx_strip_rows(enum format format, const struct matrix *w, uint32_t row,
                                               uint32_t strip) {
    struct strip_rows r = {.bytes_apart = (size_t)amx_strip_bytes(format) * (w->cols / STRIP)};
    r.bytes = (const uint8_t *)w->data + row * r.bytes_apart + (size_t)strip * amx_strip_bytes(format);
    if (format == FORMAT_FP4) {
        r.scales_apart = w->scale_cols;
        r.scales = (const uint8_t *)w->scale + row * r.scales_apart + (size_t)strip * 4;
    }
    return r;
}

/* 128 columns of one row into that row of four tiles, `apart` bytes between them. */
static inline __attribute__((always_inline)) void amx_unpack_row(const struct strip_tables *t, enum format format,
                                                                 const uint8_t *from, const uint8_t *scales,
                                                                 uint8_t *tiles, size_t apart) {
    if (format == FORMAT_FP4) {
        uint32_t four;
        memcpy(&four, scales, sizeof(four));
        __m512i down = _mm512_sub_epi8(_mm512_set1_epi8((char)FP4_BIAS), _mm512_set1_epi32((int)four));
        down = _mm512_slli_epi16(_mm512_shuffle_epi8(down, t->spread), 7);
        __m512i x = _mm512_loadu_si512(from);
        for (int j = 0; j < STEPS; j++, x = _mm512_srli_epi16(x, 4))
            _mm512_store_si512(tiles + j * apart, _mm512_subs_epu16(_mm512_permutexvar_epi16(x, t->fp4), down));
    } else if (format == FORMAT_FP8) {
        for (int half = 0; half < 2; half++) {
            __m512i x = _mm512_loadu_si512(from + 64 * half);
            __m512i low = _mm512_permutex2var_epi8(t->low[0], x, t->low[1]);
            __m512i high = _mm512_permutex2var_epi8(t->high[0], x, t->high[1]);
            high = _mm512_ternarylogic_epi64(high, x, _mm512_set1_epi8((char)0x80), 0xf8); /* | (x & sign) */
            _mm512_store_si512(tiles + 2 * half * apart, _mm512_unpacklo_epi8(low, high));
            _mm512_store_si512(tiles + (2 * half + 1) * apart, _mm512_unpackhi_epi8(low, high));
        }
    } else {
        for (int j = 0; j < STEPS; j++)
            _mm512_store_si512(tiles + j * apart, _mm512_loadu_si512(from + 64 * j));
    }
}

/*
 * `rows` rows into a panel's tiles from the one at `tiles` on. Fetches what lies `ahead` bytes on (0: nothing) into the
 * second-level cache; not of BF16, whose long rows the processor itself fetches sooner.
 */
static inline __attribute__((always_inline)) void amx_unpack_rows(const struct strip_tables *t, enum format format,
                                                                  struct strip_rows from, uint32_t rows, uint8_t *tiles,
                                                                  size_t apart, size_t ahead) {
    const struct strip_tables local = *t;
    for (uint32_t r = 0; r < rows; r++) {
        if (ahead && format != FORMAT_BF16)
            for (uint32_t i = 0; i < amx_strip_bytes(format); i += 64)
                _mm_prefetch((const char *)from.bytes + ahead + i, _MM_HINT_T1);
        amx_unpack_row(&local, format, from.bytes, from.scales, tiles + (size_t)r * 64, apart);
        from.bytes += from.bytes_apart;
        from.scales += from.scales_apart;
    }
}

#endif
