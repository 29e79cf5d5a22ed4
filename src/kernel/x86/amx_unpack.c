/*
 * amx_unpack.c - which matrices the tiles take, and in which order of columns; and the unpacking of scales too large
 * or too small for the fast way.
 */
#include <immintrin.h>

#include "kernel/x86/amx_unpack_internal.h"

void amx_unpack_slowly(const struct matrix *w, uint32_t row, uint32_t strip, uint8_t *tiles, size_t apart) {
    const struct pair_order *order = amx_order(w->format);
    float values[STRIP];
    matrix_decode(w, row, strip * STRIP, STRIP, values);
    for (uint32_t i = 0; i < STRIP / 2; i++) {
        uint32_t place = order->place[i / 16][i % 16], first = 2 * i, second = 2 * i + 1;
        if (order->shuffled) { /* dword d of 8 words pairs words d and d + 4 */
            first = i / 4 * 8 + i % 4;
            second = first + 4;
        }
        uint16_t pair[2] = {bf16_encode(values[first]), bf16_encode(values[second])};
        memcpy(tiles + place / 16 * apart + place % 16 * 4, pair, sizeof(pair));
    }
}

static bool within(const uint8_t *scales, size_t count, uint8_t least, uint8_t most) {
    const __m512i low = _mm512_set1_epi8((char)least), range = _mm512_set1_epi8((char)(most - least));
    __mmask64 bad = 0;
    for (size_t i = 0; i < count; i += 64) {
        __mmask64 some = count - i < 64 ? ((__mmask64)1 << (count - i)) - 1 : ~(__mmask64)0;
        __m512i x = _mm512_sub_epi8(_mm512_maskz_loadu_epi8(some, scales + i), low);
        bad |= _mm512_mask_cmpgt_epu8_mask(some, x, range);
    }
    return !bad;
}

bool amx_plain(const struct matrix *w, uint32_t row, uint32_t height) {
    const uint8_t *scales = w->scale;
    if (w->format == FORMAT_FP4)
        return within(scales + (size_t)row * w->scale_cols, (size_t)height * w->scale_cols, FP4_LEAST, FP4_MOST);
    if (w->format == FORMAT_FP8)
        return row / w->block_rows == (row + height - 1) / w->block_rows && w->block_cols % STRIP == 0 &&
               within(scales + (size_t)(row / w->block_rows) * w->scale_cols, w->scale_cols, FP8_LEAST, FP8_MOST);
    return true;
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
