/*
 * amx_decode.c - FP4, FP8 and BF16 weights into bf16 tiles.
 *
 * Every value of these formats times a power of two is exactly a bf16, so a table of bf16 codes and an addition to
 * their exponents is all there is. The addition must leave zero alone: codes are stored with their exponent raised by
 * a bias, the table's zero is the word 0, and `bias - scale` is subtracted with unsigned saturation. Scales for
 * which a result would leave the normal range, and NaN, take the slow decoder.
 *
 *   FP4   64 bytes of a row are 32 words of four columns: shifting by 4 j brings column 4 w + j into the low
 *         nibble of word w, where the table lookup ignores all above but one bit, for which the table stands twice.
 *         Step j has columns 4 w + j.
 *   FP8   64 bytes of a row are 64 columns: two lookups give the high and the low byte of each, interleaved within
 *         16 bytes to the words of two steps. The tables are made for each block's scale.
 *   BF16  is copied.
 */
#include <immintrin.h>

#include "kernel/x86/amx_internal.h"

enum { FP4_BIAS = 253, FP8_BIAS = 247, FP8_LEAST = 10, FP8_MOST = 246, FP4_LEAST = 2, FP4_MOST = 252 };

static inline const uint8_t *row_bytes(const struct matrix *w, uint32_t row, uint32_t bits) {
    return (const uint8_t *)w->data + (size_t)row * w->cols * bits / 8;
}

/* Fetches `count` lines of the next panel. */
static inline void fetch(const uint8_t *ahead, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        _mm_prefetch((const char *)ahead + 64 * i, _MM_HINT_T1);
}

/* ------------------------------------------------------------------------------------------ FP4 */

/* bf16 words of the 16 codes, exponents raised by FP4_BIAS - 127; both zeros are 0. */
static const uint16_t fp4_words[32] = {
#define FP4_WORD(bits) (bits) + ((FP4_BIAS - 127) << 7)
#define FP4_HALF(sign)                                                                                                 \
    0, (sign) + FP4_WORD(0x3f00), (sign) + FP4_WORD(0x3f80), (sign) + FP4_WORD(0x3fc0), (sign) + FP4_WORD(0x4000),     \
        (sign) + FP4_WORD(0x4040), (sign) + FP4_WORD(0x4080), (sign) + FP4_WORD(0x40c0)
    FP4_HALF(0), FP4_HALF(0x8000), FP4_HALF(0), FP4_HALF(0x8000)
#undef FP4_HALF
#undef FP4_WORD
};

static void decode_fp4(const struct matrix *w, uint32_t row, uint32_t height, uint32_t strip, uint8_t *tiles,
                       size_t apart, const uint8_t *ahead) {
    /* the byte of lane l's scale into the low byte of each of its words */
    const __m512i spread = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_set_m128i(_mm_set1_epi16((short)0x8001), _mm_set1_epi16((short)0x8000))),
        _mm256_set_m128i(_mm_set1_epi16((short)0x8003), _mm_set1_epi16((short)0x8002)), 1);
    const __m512i table = _mm512_loadu_si512(fp4_words), bias = _mm512_set1_epi8((char)FP4_BIAS);
    const uint8_t *bytes = row_bytes(w, row, 4) + (size_t)strip * 64;
    const uint8_t *scales = (const uint8_t *)w->scale + (size_t)row * w->scale_cols + (size_t)strip * 4;
    size_t stride = w->cols / 2;
    for (uint32_t r = 0; r < height; r++, bytes += stride, scales += w->scale_cols, tiles += 64) {
        uint32_t four;
        memcpy(&four, scales, sizeof(four));
        __m512i down = _mm512_sub_epi8(bias, _mm512_set1_epi32((int)four));
        down = _mm512_slli_epi16(_mm512_shuffle_epi8(down, spread), 7);
        __m512i x = _mm512_loadu_si512(bytes);
        if (ahead)
            _mm_prefetch((const char *)ahead + 64 * (size_t)r, _MM_HINT_T1);
        _mm512_store_si512(tiles, _mm512_subs_epu16(_mm512_permutexvar_epi16(x, table), down));
        x = _mm512_srli_epi16(x, 4);
        _mm512_store_si512(tiles + apart, _mm512_subs_epu16(_mm512_permutexvar_epi16(x, table), down));
        x = _mm512_srli_epi16(x, 4);
        _mm512_store_si512(tiles + 2 * apart, _mm512_subs_epu16(_mm512_permutexvar_epi16(x, table), down));
        x = _mm512_srli_epi16(x, 4);
        _mm512_store_si512(tiles + 3 * apart, _mm512_subs_epu16(_mm512_permutexvar_epi16(x, table), down));
    }
}

/* ------------------------------------------------------------------------------------------ FP8 */

/* bf16 words of the 128 positive codes, exponents raised by FP8_BIAS - 127; zero is 0. */
static void fp8_words(__m512i words[4]) {
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

/* The low or the high bytes of 64 words. */
static inline __m512i half_bytes(__m512i a, __m512i b, __m512i which) {
    return _mm512_permutex2var_epi8(a, which, b);
}

static void decode_fp8(const struct matrix *w, uint32_t row, uint32_t height, uint32_t strip, uint8_t *tiles,
                       size_t apart, const uint8_t *ahead) {
    const uint8_t *scales = (const uint8_t *)w->scale + (size_t)(row / w->block_rows) * w->scale_cols;
    const __m512i down = _mm512_set1_epi16((short)((FP8_BIAS - scales[strip * STRIP / w->block_cols]) << 7));
    __m512i words[4], even = _mm512_setzero_si512();
    for (int i = 0; i < 64; i++)
        ((uint8_t *)&even)[i] = (uint8_t)(2 * i);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi8(1)), sign = _mm512_set1_epi8((char)0x80);
    fp8_words(words);
    for (int i = 0; i < 4; i++)
        words[i] = _mm512_subs_epu16(words[i], down);
    words[3] = _mm512_mask_mov_epi16(words[3], 0x80000000u, _mm512_set1_epi16(0x7fc0)); /* code 127 is NaN */
    const __m512i low0 = half_bytes(words[0], words[1], even), low1 = half_bytes(words[2], words[3], even);
    const __m512i high0 = half_bytes(words[0], words[1], odd), high1 = half_bytes(words[2], words[3], odd);
    const uint8_t *bytes = row_bytes(w, row, 8) + (size_t)strip * STRIP;
    for (uint32_t r = 0; r < height; r++, bytes += w->cols, tiles += 64) {
        if (ahead)
            fetch(ahead + 128 * (size_t)r, 2);
        for (int half = 0; half < 2; half++) {
            __m512i x = _mm512_loadu_si512(bytes + 64 * half);
            __m512i low = _mm512_permutex2var_epi8(low0, x, low1), high = _mm512_permutex2var_epi8(high0, x, high1);
            high = _mm512_ternarylogic_epi64(high, x, sign, 0xf8); /* high | (x & sign) */
            uint8_t *to = tiles + 2 * half * apart;
            _mm512_store_si512(to, _mm512_unpacklo_epi8(low, high));
            _mm512_store_si512(to + apart, _mm512_unpackhi_epi8(low, high));
        }
    }
}

/* ----------------------------------------------------------------------------------------- BF16 */

static void decode_bf16(const struct matrix *w, uint32_t row, uint32_t height, uint32_t strip, uint8_t *tiles,
                        size_t apart, const uint8_t *ahead) {
    const uint8_t *bytes = row_bytes(w, row, 16) + (size_t)strip * STRIP * 2;
    for (uint32_t r = 0; r < height; r++, bytes += 2 * (size_t)w->cols, tiles += 64) {
        if (ahead)
            fetch(ahead + 256 * (size_t)r, 4);
        for (int j = 0; j < STEPS; j++)
            _mm512_store_si512(tiles + j * apart, _mm512_loadu_si512(bytes + 64 * j));
    }
}

/* -------------------------------------------------------------------------------------- any scale */

static void decode_slowly(const struct matrix *w, uint32_t row, uint32_t height, uint32_t strip, uint8_t *tiles,
                          size_t apart, const uint8_t *ahead) {
    const struct pair_order *order = amx_order(w->format);
    float values[STRIP];
    (void)ahead;
    for (uint32_t r = 0; r < height; r++) {
        matrix_decode(w, row + r, strip * STRIP, STRIP, values);
        for (uint32_t i = 0; i < STRIP / 2; i++) {
            uint32_t place = order->place[i / 16][i % 16], first = 2 * i, second = 2 * i + 1;
            if (order->shuffled) { /* dword d of 8 words pairs words d and d + 4 */
                first = i / 4 * 8 + i % 4;
                second = first + 4;
            }
            uint16_t pair[2] = {bf16_encode(values[first]), bf16_encode(values[second])};
            memcpy(tiles + place / 16 * apart + 64 * (size_t)r + place % 16 * 4, pair, sizeof(pair));
        }
    }
}

/* ----------------------------------------------------------------------------------------- choice */

static bool within(const uint8_t *scales, size_t count, uint8_t least, uint8_t most) {
    bool good = true;
    for (size_t i = 0; i < count; i++)
        good &= scales[i] >= least && scales[i] <= most;
    return good;
}

decode_strip *amx_decoder(const struct matrix *w, uint32_t row, uint32_t height) {
    const uint8_t *scales = w->scale;
    switch (w->format) {
    case FORMAT_FP4:
        scales += (size_t)row * w->scale_cols;
        return within(scales, (size_t)height * w->scale_cols, FP4_LEAST, FP4_MOST) ? decode_fp4 : decode_slowly;
    case FORMAT_FP8:
        scales += (size_t)(row / w->block_rows) * w->scale_cols;
        return row / w->block_rows == (row + height - 1) / w->block_rows && w->block_cols % STRIP == 0 &&
                       within(scales, w->scale_cols, FP8_LEAST, FP8_MOST)
                   ? decode_fp8
                   : decode_slowly;
    default:
        return decode_bf16;
    }
}

bool amx_takes(const struct matrix *w) {
    if (w->cols % STRIP)
        return false;
    switch (w->format) {
    case FORMAT_FP4:
        return w->scale_format == SCALE_E8M0 && w->block_rows == 1 && w->block_cols == 32;
    case FORMAT_FP8:
        return w->scale_format == SCALE_E8M0;
    case FORMAT_BF16:
        return true;
    default:
        return false;
    }
}

/* Step and row, as step * 16 + row. */
#define FP4_PLACES(c)                                                                                                  \
    {                                                                                                                  \
        4 * (c), 16 + 4 * (c), 32 + 4 * (c), 48 + 4 * (c), 4 * (c) + 1, 16 + 4 * (c) + 1, 32 + 4 * (c) + 1,            \
            48 + 4 * (c) + 1, 4 * (c) + 2, 16 + 4 * (c) + 2, 32 + 4 * (c) + 2, 48 + 4 * (c) + 2, 4 * (c) + 3,          \
            16 + 4 * (c) + 3, 32 + 4 * (c) + 3, 48 + 4 * (c) + 3                                                       \
    }
#define FP8_PLACES(step, row)                                                                                          \
    {                                                                                                                  \
        (step) * 16 + (row), (step)*16 + (row) + 1, (step)*16 + (row) + 2, (step)*16 + (row) + 3,                      \
            (step)*16 + 16 + (row), (step)*16 + 16 + (row) + 1, (step)*16 + 16 + (row) + 2,                            \
            (step)*16 + 16 + (row) + 3, (step)*16 + (row) + 4, (step)*16 + (row) + 5, (step)*16 + (row) + 6,           \
            (step)*16 + (row) + 7, (step)*16 + 16 + (row) + 4, (step)*16 + 16 + (row) + 5, (step)*16 + 16 + (row) + 6, \
            (step)*16 + 16 + (row) + 7                                                                                 \
    }
#define BF16_PLACES(c)                                                                                                 \
    {                                                                                                                  \
        (c) * 16, (c)*16 + 1, (c)*16 + 2, (c)*16 + 3, (c)*16 + 4, (c)*16 + 5, (c)*16 + 6, (c)*16 + 7, (c)*16 + 8,      \
            (c)*16 + 9, (c)*16 + 10, (c)*16 + 11, (c)*16 + 12, (c)*16 + 13, (c)*16 + 14, (c)*16 + 15                   \
    }

const struct pair_order *amx_order(enum format format) {
    static const struct pair_order fp4 = {true, {FP4_PLACES(0), FP4_PLACES(1), FP4_PLACES(2), FP4_PLACES(3)}};
    static const struct pair_order fp8 = {false,
                                          {FP8_PLACES(0, 0), FP8_PLACES(0, 8), FP8_PLACES(2, 0), FP8_PLACES(2, 8)}};
    static const struct pair_order bf16 = {false, {BF16_PLACES(0), BF16_PLACES(1), BF16_PLACES(2), BF16_PLACES(3)}};
    return format == FORMAT_FP4 ? &fp4 : format == FORMAT_FP8 ? &fp8 : &bf16;
}
