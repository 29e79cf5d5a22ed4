/*
 * avx512_products.c - decoding for the products of the avx512 level.
 *
 * One 64-byte load is a block. Codes are looked up where they lie, whole registers at a time:
 *
 *   FP4   vpermps reads four bits of each dword and ignores those above, so the eight nibbles are seven shifts away
 *         and need no mask
 *   FP8   vpermi2b looks seven bits up among 128 bytes: once for the high byte of the value as bf16, once for the
 *         low one, all codes included; the sign is put back and bytes are paired into dwords
 *   BF16  the odd columns need a mask, the even ones a shift
 *
 * So dword d of a block gives its columns in vectors j = 0, 1 .. of which lane d is column j of that dword. Inputs of
 * few tokens are brought into the same order by taking even and odd floats apart, once for each halving.
 */
#include "kernel/x86/avx512_internal.h"

#include "kernel/wide_math_internal.h"

enum { VECTORS = 2, TILE = 12, FEW_TOKENS = 8 };
#define TILE_12
#define MORE_FEW_COUNTS(X) X(6) X(8)

/* 16 rows of 16 dwords: pairs within 128 bits, then 128-bit parts. */
ALWAYS_INLINE void transpose(vi v[LANES]) {
    __m512i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i += 2) {
        a[i] = _mm512_unpacklo_epi32((__m512i)v[i], (__m512i)v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32((__m512i)v[i], (__m512i)v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) { /* b[i + j]: dword j of each part, of rows i .. i + 3 */
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        __m512i low = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88),
                high = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
        v[j] = (vi)_mm512_shuffle_i32x4(low, high, 0x88);
        v[8 + j] = (vi)_mm512_shuffle_i32x4(low, high, 0xdd);
        low = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd), high = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
        v[4 + j] = (vi)_mm512_shuffle_i32x4(low, high, 0x88);
        v[12 + j] = (vi)_mm512_shuffle_i32x4(low, high, 0xdd);
    }
}

static inline vf v_load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vi v_load_bytes(const uint8_t *p) {
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vi v_load_words(const uint8_t *p) {
    return (vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vi load_dwords(const uint8_t *p, size_t ahead) {
    _mm_prefetch((const void *)((uintptr_t)p + ahead), _MM_HINT_T0);
    return (vi)_mm512_loadu_si512(p);
}

/* ----------------------------------------------------------------------------------------------- values */

static inline vf nibble_values(vi x, int j) {
    return _mm512_permutexvar_ps(_mm512_srli_epi32((__m512i)x, (unsigned)(4 * j)), _mm512_loadu_ps(e2m1_value));
}

static inline void unpack_fp4(vi x, vf out[8]) {
    for (int j = 0; j < 8; j++)
        out[j] = nibble_values(x, j);
}

/*
 * The bytes of bf16 of the codes without sign. With an exponent e from 1 to 15 and a mantissa m it is
 * (120 + e) << 7 | m << 4; e = 0 is subnormal, m 2^-9; the last code is NaN.
 */
static const uint8_t high_byte[128] = {
    0x00, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3d, 0x3d, 0x3d,
    0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e,
    0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
    0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40,
    0x40, 0x40, 0x40, 0x40, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x41, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x43, 0x43,
    0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x7f,
};
static const uint8_t low_byte[128] = {
    0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0, 0x00, 0x10, 0x20,
    0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50,
    0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80,
    0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0,
    0xc0, 0xd0, 0xe0, 0xf0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0,
    0xf0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0, 0x00, 0x10,
    0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xc0,
};

enum { OR_AND = 0xf8 }; /* vpternlog: a | (b & c) */

static inline void unpack_fp8(vi x, vf out[4]) {
    const __m512i odd_bytes = _mm512_set1_epi16((short)0xff00), even_bytes = _mm512_set1_epi16(0x00ff);
    __m512i codes = (__m512i)x, high_words = _mm512_set1_epi32(-0x10000);
    __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(high_byte), codes, _mm512_loadu_si512(high_byte + 64));
    __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(low_byte), codes, _mm512_loadu_si512(low_byte + 64));
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), OR_AND);
    __m512i even = _mm512_ternarylogic_epi32(_mm512_slli_epi16(high, 8), low, even_bytes, OR_AND);
    __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi16(low, 8), high, odd_bytes, OR_AND);
    out[0] = (vf)_mm512_slli_epi32(even, 16);
    out[1] = (vf)_mm512_slli_epi32(odd, 16);
    out[2] = (vf)_mm512_and_si512(even, high_words);
    out[3] = (vf)_mm512_and_si512(odd, high_words);
}

static inline void unpack_bf16(vi x, vf out[2]) {
    out[0] = (vf)(x << 16);
    out[1] = (vf)(x & -0x10000);
}

/* ------------------------------------------------------------------------------------------ few tokens */

/* The even floats of n vectors into the first half, the odd ones into the second. */
ALWAYS_INLINE void halve(vf *v, const int n) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    vf evens[4], odds[4];
    for (int i = 0; i < n / 2; i++) {
        evens[i] = _mm512_permutex2var_ps(v[2 * i], even, v[2 * i + 1]);
        odds[i] = _mm512_permutex2var_ps(v[2 * i], odd, v[2 * i + 1]);
    }
    for (int i = 0; i < n / 2; i++) {
        v[i] = evens[i];
        v[n / 2 + i] = odds[i];
    }
}

/* n vectors so that the j-th has columns j, n + j, 2n + j ... Each halving appends a bit to the remainder. */
ALWAYS_INLINE void order(const float *x, float *out, const int n) {
    vf v[8];
    for (int i = 0; i < n; i++)
        v[i] = v_load(x + i * LANES);
    for (int size = n; size > 1; size /= 2)
        for (int i = 0; i < n; i += size)
            halve(v + i, size);
    for (int i = 0; i < n; i++) {
        int j = 0;
        for (int bit = 1; bit < n; bit *= 2)
            j = 2 * j + (i & bit ? 1 : 0);
        v_store(out + j * LANES, v[i]);
    }
}

static void order_fp4(const float *x, float *out) {
    order(x, out, 8);
}

static void order_fp8(const float *x, float *out) {
    order(x, out, 4);
}

static void order_bf16(const float *x, float *out) {
    order(x, out, 2);
}

/*
 * Up to four blocks, that is sixteen scales: lane d of block b has columns 8d .. 8d + 7, of scale 4b + d / 4. `abreast`
 * blocks go side by side, as one alone would wait for each sum.
 */
ALWAYS_INLINE void four_fp4(const uint8_t *codes, const uint8_t *scales, const int blocks, const int abreast,
                            const float *x, size_t apart, size_t ahead, const int tokens, vf sums[]) {
    __m128i bytes = _mm_maskz_loadu_epi8((__mmask16)((1u << (FP4_SCALES * blocks)) - 1), scales);
    vf all = e8m0_values((vi)_mm512_cvtepu8_epi32(bytes));
    for (int first = 0; first < blocks; first += abreast) {
        vi word[2];
        vf part[2][FEW_TOKENS];
        for (int b = 0; b < abreast; b++)
            word[b] = load_dwords(codes + (first + b) * 64, ahead);
        for (int j = 0; j < 8; j++)
            for (int b = 0; b < abreast; b++) {
                vf value = nibble_values(word[b], j);
                for (int t = 0; t < tokens; t++) {
                    vf in = v_load(x + t * apart + (first + b) * FP4_BLOCK + j * LANES);
                    part[b][t] = j ? v_fma(value, in, part[b][t]) : value * in;
                }
            }
        for (int b = 0; b < abreast; b++) {
            vf scale = v_permute(all, (v_lanes() >> 2) + (int)(FP4_SCALES * (first + b)));
            for (int t = 0; t < tokens; t++)
                sums[t] = v_fma(part[b][t], scale, sums[t]);
        }
    }
}

ALWAYS_INLINE void row_fp4(const uint8_t *codes, const uint8_t *scales, size_t blocks, const float *x, size_t apart,
                           size_t ahead, const int tokens, vf sums[]) {
    size_t b = 0;
    for (; b + 4 <= blocks; b += 4)
        four_fp4(codes + b * 64, scales + b * FP4_SCALES, 4, tokens <= 2 ? 2 : 1, x + b * FP4_BLOCK, apart, ahead,
                 tokens, sums);
    for (; b < blocks; b++)
        four_fp4(codes + b * 64, scales + b * FP4_SCALES, 1, 1, x + b * FP4_BLOCK, apart, ahead, tokens, sums);
}

ALWAYS_INLINE void row_fp8(const uint8_t *codes, const float *scales, size_t blocks, const float *x, size_t apart,
                           size_t ahead, const int tokens, vf sums[]) {
    for (size_t b = 0; b < blocks; b++) {
        vf value[4];
        unpack_fp8(load_dwords(codes + b * 64, ahead), value);
        for (int t = 0; t < tokens; t++) {
            const float *in = x + t * apart + b * FP8_BLOCK;
            vf part = inner_product(value, in, 4);
            sums[t] = v_fma(part, v_set(scales[b]), sums[t]);
        }
    }
}

ALWAYS_INLINE void load_bf16(const uint8_t *codes, size_t ahead, vf out[2]) {
    unpack_bf16(load_dwords(codes, ahead), out);
}

#define NARROWER(name) name##_avx2
#define STREAM_TAKES   stream_takes_avx512
#define STREAM         stream_avx512
#define INT8_TAKES     int8_takes_avx512
#define INT8_PACK      int8_pack_avx512
#define INT8           int8_gemm_avx512
#include "kernel/wide_products_internal.h"
