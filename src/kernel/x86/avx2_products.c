/*
 * avx2_products.c - decoding for the products of the avx2 level.
 *
 * A 32-byte load is a block. With many tokens codes are decoded where they lie in their dwords: FP4 looks the
 * magnitude up with vpermps, which reads three bits and ignores those above, and adds the sign; FP8 is arithmetic.
 *
 * With few tokens decoding is the work, and bytes are cheaper:
 *
 *   FP4   pshufb looks nibbles up, once for the high byte of the value as bf16, once for the low one; unpacking pairs
 *         them, and a shift or a mask widens the even and odd halves. 16 bytes, half a register, share a scale
 *   FP8   moved into the places of a half, a code reads as its value over 256, subnormals included, and the converter
 *         of halves does the rest; but its one NaN reads as a number and is looked for apart
 */
#include "kernel/x86/avx2_internal.h"

#include "kernel/wide_math_internal.h"

enum { VECTORS = 2, TILE = 6, FEW_TOKENS = 4 };
#define MORE_FEW_COUNTS(X)

/* 8 rows of 8 dwords: pairs within 128 bits, then 128-bit halves. */
ALWAYS_INLINE void transpose(vi v[LANES]) {
    __m256i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i += 2) {
        a[i] = _mm256_unpacklo_epi32((__m256i)v[i], (__m256i)v[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32((__m256i)v[i], (__m256i)v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) { /* b[i + j]: dword j of both halves, of rows i .. i + 3 */
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        v[j] = (vi)_mm256_permute2x128_si256(b[j], b[4 + j], 0x20);
        v[4 + j] = (vi)_mm256_permute2x128_si256(b[j], b[4 + j], 0x31);
    }
}

static inline vf v_load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vi v_load_bytes(const uint8_t *p) {
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

static inline vi v_load_words(const uint8_t *p) {
    return (vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline __m256i load_codes(const uint8_t *p, size_t ahead) {
    _mm_prefetch((const void *)((uintptr_t)p + ahead), _MM_HINT_T0);
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static inline void unpack_fp4(vi x, vf out[8]) {
    const vf magnitudes = _mm256_loadu_ps(e2m1_value);
    for (int j = 0; j < 8; j++) {
        vi sign = x << (28 - 4 * j) & INT32_MIN;
        out[j] = (vf)((vi)v_permute(magnitudes, (vi)((vu)x >> (4 * j))) | sign);
    }
}

static inline void unpack_fp8(vi x, vf out[4]) {
    plain_unpack_fp8(x, out);
}

static inline void unpack_bf16(vi x, vf out[2]) {
    out[0] = (vf)(x << 16);
    out[1] = (vf)(x & -0x10000);
}

/* ------------------------------------------------------------------------------------------ few tokens */

/* The even floats of two vectors, and the odd ones. */
static inline vf evens(vf a, vf b) {
    __m256 parts = _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(parts), 0xd8));
}

static inline vf odds(vf a, vf b) {
    __m256 parts = _mm256_shuffle_ps(a, b, 0xdd);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(parts), 0xd8));
}

static void order_bf16(const float *x, float *out) {
    vf a = v_load(x), b = v_load(x + LANES);
    v_store(out, evens(a, b));
    v_store(out + LANES, odds(a, b));
}

static void order_fp8(const float *x, float *out) {
    vf a = v_load(x), b = v_load(x + LANES), c = v_load(x + 2 * LANES), d = v_load(x + 3 * LANES);
    v_store(out, evens(a, b));
    v_store(out + LANES, evens(c, d));
    v_store(out + 2 * LANES, odds(a, b));
    v_store(out + 3 * LANES, odds(c, d));
}

/* Vector 4 h + j has columns 16 h + j, + 4, + 8, + 12 and the same 32 columns on: squares of four within 128 bits. */
static void order_fp4(const float *x, float *out) {
    for (int h = 0; h < 2; h++) {
        __m256 r[4];
        for (int i = 0; i < 4; i++)
            r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x + 16 * h + 4 * i)),
                                        _mm_loadu_ps(x + 32 + 16 * h + 4 * i), 1);
        __m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
        __m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
        float *to = out + 4 * h * LANES;
        v_store(to, _mm256_shuffle_ps(a, c, 0x44));
        v_store(to + LANES, _mm256_shuffle_ps(a, c, 0xee));
        v_store(to + 2 * LANES, _mm256_shuffle_ps(b, d, 0x44));
        v_store(to + 3 * LANES, _mm256_shuffle_ps(b, d, 0xee));
    }
}

/* The values of 32 nibbles, one a byte, as bf16: of bytes 0 .. 7 and 16 .. 23 of the register, and of the others. */
static inline void nibble_values(__m256i nibbles, __m256i words[2]) {
    const __m128i high = _mm_setr_epi8(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, (char)0x80, (char)0xbf, (char)0xbf,
                                       (char)0xbf, (char)0xc0, (char)0xc0, (char)0xc0, (char)0xc0);
    const __m128i low = _mm_setr_epi8(0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0, 0, 0, (char)0x80,
                                      (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0);
    __m256i h = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(high), nibbles);
    __m256i l = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(low), nibbles);
    words[0] = _mm256_unpacklo_epi8(l, h);
    words[1] = _mm256_unpackhi_epi8(l, h);
}

/* The inner product of a block before its scales, which belong to halves of it. */
ALWAYS_INLINE void block_fp4(const uint8_t *codes, const float *x, size_t apart, size_t ahead, const int tokens,
                             vf part[]) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i both = load_codes(codes, ahead), words[4];
    nibble_values(_mm256_and_si256(both, mask), words);
    nibble_values(_mm256_and_si256(_mm256_srli_epi16(both, 4), mask), words + 2);
    for (int i = 0; i < 4; i++) { /* low or high nibbles, then low or high bytes: columns 0, 16, 1, 17 first */
        vf value[2];
        unpack_bf16((vi)words[i], value);
        for (int t = 0; t < tokens; t++) {
            const float *in = x + t * apart + (4 * (i % 2) + i / 2) * LANES;
            part[t] = v_fma(value[0], v_load(in), part[t]);
            part[t] = v_fma(value[1], v_load(in + 2 * LANES), part[t]);
        }
    }
}

/* Up to four blocks, whose eight scales are in the bytes of one word. */
ALWAYS_INLINE void four_fp4(const uint8_t *codes, uint64_t scales, const size_t blocks, const float *x, size_t apart,
                            size_t ahead, const int tokens, vf sums[]) {
    vf all = e8m0_values((vi)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scales)));
    for (size_t b = 0; b < blocks; b++) {
        vf part[FEW_TOKENS] = {{0}}, scale = v_permute(all, (v_lanes() >> 2) + (int)(FP4_SCALES * b));
        block_fp4(codes + b * 32, x + b * FP4_BLOCK, apart, ahead, tokens, part);
        for (int t = 0; t < tokens; t++)
            sums[t] = v_fma(part[t], scale, sums[t]);
    }
}

ALWAYS_INLINE void row_fp4(const uint8_t *codes, const uint8_t *scales, size_t blocks, const float *x, size_t apart,
                           size_t ahead, const int tokens, vf sums[]) {
    size_t b = 0;
    uint64_t some = 0;
    for (; b + 4 <= blocks; b += 4) {
        memcpy(&some, scales + b * FP4_SCALES, sizeof(some));
        four_fp4(codes + b * 32, some, 4, x + b * FP4_BLOCK, apart, ahead, tokens, sums);
    }
    for (; b < blocks; b++) {
        memcpy(&some, scales + b * FP4_SCALES, FP4_SCALES);
        four_fp4(codes + b * 32, some, 1, x + b * FP4_BLOCK, apart, ahead, tokens, sums);
    }
}

/* Halves of the codes in the high bytes of words: the exponent moves by one place, below the sign. */
static inline __m256i code_halves(__m256i words) {
    return _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16((short)0xbf80));
}

ALWAYS_INLINE void row_fp8(const uint8_t *codes, const float *scales, size_t blocks, const float *x, size_t apart,
                           size_t ahead, const int tokens, vf sums[]) {
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    __m256i most = sign;
    for (size_t b = 0; b < blocks; b++) {
        __m256i c = load_codes(codes + b * 32, ahead);
        __m256i even = code_halves(_mm256_slli_epi16(c, 8)), odd = code_halves(c);
        most = _mm256_max_epu8(most, _mm256_or_si256(c, sign));
        const vf value[4] = {
            _mm256_cvtph_ps(_mm256_castsi256_si128(even)), _mm256_cvtph_ps(_mm256_extracti128_si256(even, 1)),
            _mm256_cvtph_ps(_mm256_castsi256_si128(odd)), _mm256_cvtph_ps(_mm256_extracti128_si256(odd, 1))};
        for (int t = 0; t < tokens; t++) {
            const float *in = x + t * apart + b * FP8_BLOCK;
            vf part = inner_product(value, in, 4);
            sums[t] = v_fma(part * 256, v_set(scales[b]), sums[t]);
        }
    }
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(most, _mm256_set1_epi8(-1))))
        for (int t = 0; t < tokens; t++)
            sums[t] = v_set(NAN);
}

ALWAYS_INLINE void load_bf16(const uint8_t *codes, size_t ahead, vf out[2]) {
    unpack_bf16((vi)load_codes(codes, ahead), out);
}

#include "kernel/wide_products_internal.h"
