/*
 * avx512_int8.c - FP4 weights times one token rounded to int8.
 *
 * Twice an FP4 value is a small integer, so a block of 32 columns needs no more of its inputs than that they are
 * integers too: x becomes round(x 127 / m), m the largest magnitude of the block, and one instruction multiplies and
 * adds four columns a lane. It takes an unsigned operand, so weights come 12 higher than they are, and the sums begin
 * 12 times the inputs lower. Half the instructions of avx512_stream.c's way, which says why eight rows are read at
 * once.
 *
 * Inputs are laid out by blocks of 128 columns, 64 bytes of weights: even columns are the low nibbles, odd ones the
 * high nibbles, and four lanes share both scales.
 */
#include <immintrin.h>

#include "kernel/x86/x86_internal.h"

enum { STREAMS = 8, BLOCK = 128, BLOCK_BYTES = 64, LIFT = 12 };

struct block {
    int8_t even[64], odd[64];
    int32_t start[16]; /* -LIFT times the sum of the lane's inputs */
    float scale[16];   /* m / 127 / 2 */
};

_Static_assert(sizeof(struct block) <= BLOCK * sizeof(float), "kernel_packed_bytes() has room");

#define INLINE static inline __attribute__((always_inline))

/* ---------------------------------------------------------------------------------------- inputs */

/* 32 inputs at x to integers at `to`; returned is their scale. A NaN or an infinity is the largest magnitude, and what
 * its scale multiplies is not finite either. Blocks of less than 2^-119 count as 0, as 127 / m has no float. */
static float round_32(const float *x, int8_t *to) {
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    __m512i magnitudes = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(a)), _mm512_castps_si512(_mm512_abs_ps(b)));
    float most = bits_float((uint32_t)_mm512_reduce_max_epi32(magnitudes));
    __m512 up = _mm512_set1_ps(most < 0x1p-119f ? 0 : 127 / most);
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(a, up))));
    _mm_storeu_si128((__m128i *)(void *)(to + 16), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(b, up))));
    return most / 254;
}

static void pack_block(const float *x, struct block *b) {
    static const uint8_t pairs[64] = {0,  2,  4,   6,   8,   10,  12,  14,  16,  18,  20,  22,  24,  26,  28,  30,
                                      32, 34, 36,  38,  40,  42,  44,  46,  48,  50,  52,  54,  56,  58,  60,  62,
                                      64, 66, 68,  70,  72,  74,  76,  78,  80,  82,  84,  86,  88,  90,  92,  94,
                                      96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126};
    _Alignas(64) int8_t rounded[BLOCK];
    for (int i = 0; i < 4; i++) {
        float scale = round_32(x + 32 * i, rounded + 32 * i);
        _mm_storeu_ps(b->scale + 4 * i, _mm_set1_ps(scale));
    }
    __m512i low = _mm512_load_si512(rounded), high = _mm512_load_si512(rounded + 64);
    __m512i columns = _mm512_loadu_si512(pairs), lift = _mm512_set1_epi8(LIFT);
    __m512i even = _mm512_permutex2var_epi8(low, columns, high);
    __m512i odd = _mm512_permutex2var_epi8(low, _mm512_or_si512(columns, _mm512_set1_epi8(1)), high);
    __m512i sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), lift, even), lift, odd);
    _mm512_storeu_si512(b->even, even);
    _mm512_storeu_si512(b->odd, odd);
    _mm512_storeu_si512(b->start, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
}

void int8_pack_avx512(const float *x, uint32_t col, uint32_t cols, void *packed) {
    struct block *to = (struct block *)packed + col / BLOCK;
    for (uint32_t c = 0; c < cols; c += BLOCK)
        pack_block(x + c, to++);
}

/* ------------------------------------------------------------------------------------------ rows */

struct tables {
    __m512i lifted, nibble, spread;
};

static void tables_init(struct tables *t) {
    t->lifted = _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    t->nibble = _mm512_set1_epi8(15);
    /* the scale of lane l / 4 as the high byte of each dword, zeros below */
    t->spread = _mm512_add_epi8(_mm512_set1_epi32(0x00808080),
                                _mm512_setr_epi32(0, 0, 0, 0, 1 << 24, 1 << 24, 1 << 24, 1 << 24, 2 << 24, 2 << 24,
                                                  2 << 24, 2 << 24, 3 << 24, 3 << 24, 3 << 24, 3 << 24));
}

/* Rows row + i * apart, i < streams. */
INLINE void run_rows(const struct tables *t, const struct matrix *w, uint32_t row, uint32_t apart, int streams,
                     const struct block *in, float *y) {
    const size_t stride = w->cols / 2, between = apart * stride, scales_between = (size_t)apart * w->scale_cols;
    const uint8_t *from = (const uint8_t *)w->data + row * stride;
    const uint8_t *scales = (const uint8_t *)w->scale + (size_t)row * w->scale_cols;
    __m512 sums[STREAMS];
    for (int i = 0; i < streams; i++)
        sums[i] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < w->cols / BLOCK; b++, in++, from += BLOCK_BYTES, scales += 4) {
        const __m512i even = _mm512_loadu_si512(in->even), odd = _mm512_loadu_si512(in->odd);
        const __m512i start = _mm512_loadu_si512(in->start);
        const __m512 scale = _mm512_loadu_ps(in->scale);
#pragma GCC unroll 8
        for (int i = 0; i < streams; i++) {
            __m512i codes = _mm512_loadu_si512(from + i * between);
            __m512i low = _mm512_and_si512(codes, t->nibble);
            __m512i high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), t->nibble);
            __m512i dot = _mm512_dpbusd_epi32(start, _mm512_shuffle_epi8(t->lifted, low), even);
            dot = _mm512_dpbusd_epi32(dot, _mm512_shuffle_epi8(t->lifted, high), odd);
            uint32_t four;
            memcpy(&four, scales + i * scales_between, sizeof(four));
            __m512i power = _mm512_srli_epi32(_mm512_shuffle_epi8(_mm512_set1_epi32((int)four), t->spread), 1);
            sums[i] =
                _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale), _mm512_castsi512_ps(power), sums[i]);
        }
    }
    for (int i = 0; i < streams; i++)
        y[(size_t)i * apart] = _mm512_reduce_add_ps(sums[i]);
}

bool int8_takes_avx512(const struct matrix *w, uint32_t count) {
    return count == 1 && w->format == FORMAT_FP4 && stream_takes_avx512(w);
}

void int8_gemm_avx512(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, float *y) {
    struct tables t;
    uint32_t apart = rows / STREAMS;
    tables_init(&t);
    for (uint32_t r = 0; r < apart; r++)
        run_rows(&t, w, row + r, apart, STREAMS, packed, y + r);
    for (uint32_t r = apart * STREAMS; r < rows; r++)
        run_rows(&t, w, row + r, 0, 1, packed, y + r);
}
