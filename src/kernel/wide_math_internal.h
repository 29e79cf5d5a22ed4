/*
 * wide_math_internal.h - what the shared kernels need beyond the operations that each width defines: parts of
 * vectors, choice by lane, e^x, rounding to bf16.
 */
#ifndef KERNEL_WIDE_MATH_INTERNAL_H
#define KERNEL_WIDE_MATH_INTERNAL_H

#include <math.h>

#include "kernel/kernel_internal.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Columns of a decoding block: LANES dwords of codes. */
enum { FP4_BLOCK = 8 * LANES, FP4_SCALES = FP4_BLOCK / 32, FP8_BLOCK = 4 * LANES, BF16_BLOCK = 2 * LANES };

static inline uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* As many of LANES floats as there are `left`, at least one. */
static inline vf v_load_some(const float *p, size_t left) {
    return left >= LANES ? v_load(p) : v_load_part(p, left);
}

static inline void v_store_some(float *p, size_t left, vf x) {
    if (left >= LANES)
        v_store(p, x);
    else
        v_store_part(p, left, x);
}

static inline vi v_iset(int32_t x) {
    return (vi){0} + x;
}

/* Where the mask (all ones or zeros, what a comparison gives) is set a, else b. */
static inline vf v_pick(vi mask, vf a, vf b) {
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

/* Of as many vectors, a lane each. */
ALWAYS_INLINE vf inner_product(const vf value[], const float *x, const int vectors) {
    vf part = value[0] * v_load(x);
    for (int j = 1; j < vectors; j++)
        part = v_fma(value[j], v_load(x + j * LANES), part);
    return part;
}

/* 0, 1, 2 ... */
static inline vi v_lanes(void) {
    vi lane = {0};
    for (int i = 0; i < LANES; i++)
        lane[i] = i;
    return lane;
}

/*
 * e^x within 2 ulp; 0 far below, infinity far above, NaN stays. x = n ln 2 + r with |r| <= ln(2) / 2, where n comes
 * from the last bits of a sum too large for fractions; the polynomial (by Lawson's iteration, relative error
 * 2^-28) gives e^r; 2^n is multiplied in two halves, which reaches subnormals and overflows as it should.
 */
static inline vf v_exp(vf x) {
    const float round = 0x1.8p23f;
    x = v_max(v_set(-105), v_min(v_set(89), x));
    vf shifted = v_fma(x, v_set(0x1.715476p0f), v_set(round)), n = shifted - round;
    vf r = v_fma(n, v_set(-0x1.62e4p-1f), x);
    r = v_fma(n, v_set(-0x1.7f7d1cp-20f), r);
    vf p = v_set(0x1.6a23d0p-10f);
    p = v_fma(p, r, v_set(0x1.123a20p-7f));
    p = v_fma(p, r, v_set(0x1.5558f2p-5f));
    p = v_fma(p, r, v_set(0x1.555492p-3f));
    p = v_fma(p, r, v_set(0x1.fffffcp-2f));
    p = v_fma(p * r, r, r) + 1;
    vi power = (vi)shifted - 0x4b400000, half = power >> 1;
    return p * (vf)((half + 127) << 23) * (vf)((power - half + 127) << 23);
}

/* To bf16 and back: number.h's bf16_round. Unsigned, as the sum may run over where x is NaN. */
typedef uint32_t v_units __attribute__((vector_size(4 * LANES)));

static inline vf v_round_bf16(vf x) {
    v_units bits = (v_units)x, nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (vf)((v_units)v_pick(x == x, (vf)nearest, (vf)(bits | 0x400000u)) & ~0xffffu);
}

/* The lowest bytes of each lane, the bf16 nearest to each: as many as there are `left`. In two steps, as compilers do
 * one badly. */
typedef uint8_t v_bytes __attribute__((vector_size(LANES)));
typedef uint16_t v_words __attribute__((vector_size(2 * LANES)));

static inline void v_store_bytes(uint8_t *p, size_t left, vi x) {
    v_bytes bytes = __builtin_convertvector(__builtin_convertvector((vu)x, v_words), v_bytes);
    memcpy(p, &bytes, left < LANES ? left : LANES);
}

static inline void v_store_bf16(uint8_t *p, size_t left, vf x) {
    v_words words = __builtin_convertvector((vu)v_round_bf16(x) >> 16, v_words);
    memcpy(p, &words, 2 * (left < LANES ? left : LANES));
}

static inline vf e8m0_values(vi code) {
    vi bits = v_ilarger(code << 23, v_iset(0x00400000)); /* code 0 is subnormal */
    return (vf)(bits + ((code == 255) & 0x00400000));    /* code 255 is no number */
}

/* The e4m3 values of codes in the highest byte, none of them NaN, by arithmetic. Bits moved into a float's places read
 * (1 + m/8) 2^-7 where the exponent is 0 and m 2^-9 is meant, which is twice that less 2^-6; larger values stay. */
static inline vf e4m3_values(vi top) {
    vf read = (vf)(((vi)((vu)top >> 4) & 0x07f00000) + 0x3c000000);
    vf value = read + v_min(v_set(0), read - 0x1p-6f);
    return (vf)((vi)value | (top & INT32_MIN));
}

/* Of the four codes of each dword. */
static inline void plain_unpack_fp8(vi x, vf out[4]) {
    for (int j = 0; j < 4; j++) {
        vi top = x << (24 - 8 * j);
        out[j] = (vf)((vi)e4m3_values(top) | ((top & 0x7f000000) == 0x7f000000));
    }
}

#endif
