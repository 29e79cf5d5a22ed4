/*
 * neon_decode_internal.h - sixteen bytes of codes into floats, and inputs in the order in which they come out.
 *
 *   FP4   a lookup gives the high bytes of the values as bf16, another the low ones, one byte a nibble. Byte pairs of
 *         even places, then of odd ones, make words of bf16, and a shift or a mask makes floats of either half of a
 *         dword: vector j has column 8 lane + j
 *   FP8   moved into the places of a half, a code reads as its value over 256, subnormals included, and the converter
 *         of halves does the rest; but its one NaN reads as 480 / 256 and needs care. Columns stay in order
 *   BF16  is widened, in order
 */
#ifndef KERNEL_ARM_NEON_DECODE_INTERNAL_H
#define KERNEL_ARM_NEON_DECODE_INTERNAL_H

#include "kernel/arm/neon_internal.h"

#include "kernel/wide_math_internal.h"

/* Codes `ahead` bytes on are fetched meanwhile. */
static inline uint8x16_t load_codes(const uint8_t *p, size_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)p + ahead));
    return vld1q_u8(p);
}

/* A square of dwords, turned: pairs, then pairs of pairs. */
ALWAYS_INLINE void transpose(vi v[LANES]) {
    int64x2_t a = (int64x2_t)vtrn1q_s32(v[0], v[1]), b = (int64x2_t)vtrn2q_s32(v[0], v[1]);
    int64x2_t c = (int64x2_t)vtrn1q_s32(v[2], v[3]), d = (int64x2_t)vtrn2q_s32(v[2], v[3]);
    v[0] = (vi)vtrn1q_s64(a, c);
    v[1] = (vi)vtrn1q_s64(b, d);
    v[2] = (vi)vtrn2q_s64(a, c);
    v[3] = (vi)vtrn2q_s64(b, d);
}

/* The two bf16 that each dword holds. */
ALWAYS_INLINE void unpack_bf16(vi x, vf out[2]) {
    out[0] = (vf)(x << 16);
    out[1] = (vf)(x & -0x10000);
}

/* The values of nibbles, one a byte, as bf16 in words: of the even bytes, of the odd ones. */
ALWAYS_INLINE void nibble_words(uint8x16_t nibbles, vi words[2]) {
    const uint8x16_t high = {0,    0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40,
                             0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0};
    const uint8x16_t low = {0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0, 0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0};
    uint8x16_t h = vqtbl1q_u8(high, nibbles), l = vqtbl1q_u8(low, nibbles);
    words[0] = (vi)vtrn1q_u8(l, h);
    words[1] = (vi)vtrn2q_u8(l, h);
}

/* out[j]: nibble j of each dword. */
ALWAYS_INLINE void fp4_values(uint8x16_t codes, vf out[8]) {
    vi words[4];
    nibble_words(codes & 15, words);
    nibble_words(codes >> 4, words + 2);
    for (int i = 0; i < 4; i++) { /* nibbles 0 and 4, 2 and 6, 1 and 5, 3 and 7 */
        int first = i / 2 + i % 2 * 2;
        vf pair[2];
        unpack_bf16(words[i], pair);
        out[first] = pair[0];
        out[first + 4] = pair[1];
    }
}

/* Columns in that order. */
ALWAYS_INLINE void fp4_order(const float *x, float *out) {
    for (int half = 0; half < 2; half++) {
        vi square[LANES];
        for (int i = 0; i < LANES; i++)
            square[i] = (vi)v_load(x + 8 * i + 4 * half);
        transpose(square);
        for (int i = 0; i < LANES; i++)
            v_store(out + (4 * half + i) * LANES, (vf)square[i]);
    }
}

/* Scales of four blocks. */
ALWAYS_INLINE vf four_scales(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof(four));
    return e8m0_values((vi)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}

/* A code as the high byte of a word becomes a half: the exponent moves by one place, below the sign. */
ALWAYS_INLINE float16x8_t code_halves(uint16x8_t words) {
    return (float16x8_t)((int16x8_t)words >> 1 & (int16_t)0xbf80);
}

/* In order; NaN becomes a number. */
ALWAYS_INLINE void fp8_over_256(uint8x16_t codes, vf out[4]) {
    float16x8_t low = code_halves(vshll_n_u8(vget_low_u8(codes), 8)), high = code_halves(vshll_high_n_u8(codes, 8));
    out[0] = vcvt_f32_f16(vget_low_f16(low));
    out[1] = vcvt_high_f32_f16(low);
    out[2] = vcvt_f32_f16(vget_low_f16(high));
    out[3] = vcvt_high_f32_f16(high);
}

/* In order, NaN included. */
ALWAYS_INLINE void fp8_values(uint8x16_t codes, vf out[4]) {
    fp8_over_256(codes, out);
    for (int j = 0; j < 4; j++)
        out[j] = (vf)((vi)(out[j] * 256) | (vi)vcageq_f32(out[j], v_set(480.0f / 256)));
}

/* NaN if `most`, the greatest of many codes with their sign bits set, is a NaN. */
static inline vf nan_if(uint8x16_t most, vf sum) {
    return vmaxvq_u8(most) == 0xff ? v_set(NAN) : sum;
}

ALWAYS_INLINE void bf16_values(uint8x16_t codes, vf out[2]) {
    out[0] = (vf)vshll_n_u16(vget_low_u16((uint16x8_t)codes), 16);
    out[1] = (vf)vshll_high_n_u16((uint16x8_t)codes, 16);
}

#endif
