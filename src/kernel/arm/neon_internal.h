/*
 * neon_internal.h - four floats at a time: the operations that the shared kernels are written in. What each must do
 * stands in x86/avx512_internal.h.
 *
 * Advanced SIMD has no masks: parts of vectors are moved lane by lane. Its minima and maxima give NaN if either side
 * is one, which is more than is asked for.
 */
#ifndef KERNEL_ARM_NEON_INTERNAL_H
#define KERNEL_ARM_NEON_INTERNAL_H

#include <arm_neon.h>

#include "kernel/arm/arm_internal.h"

#define LEVEL(name) name##_neon

enum { LANES = 4 };
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vu;

static inline vf v_load(const float *p) {
    return (vf)vld1q_u8((const uint8_t *)p); /* a load of bytes, as p may have any address */
}

static inline void v_store(float *p, vf x) {
    vst1q_f32(p, x);
}

static inline vf v_load_part(const float *p, size_t n) {
    vf x = {p[0]};
    if (n > 1)
        x[1] = p[1];
    if (n > 2)
        x[2] = p[2];
    return x;
}

static inline void v_store_part(float *p, size_t n, vf x) {
    p[0] = x[0];
    if (n > 1)
        p[1] = x[1];
    if (n > 2)
        p[2] = x[2];
}

static inline vf v_set(float x) {
    return vdupq_n_f32(x);
}

static inline vf v_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}

static inline vf v_min(vf bound, vf x) {
    return vminq_f32(bound, x);
}

static inline vf v_max(vf bound, vf x) {
    return vmaxq_f32(bound, x);
}

static inline vi v_ilarger(vi a, vi b) {
    return vmaxq_s32(a, b);
}

static inline float v_sum(vf x) {
    return vaddvq_f32(x);
}

static inline void v_sums(const vf x[4], float out[4]) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3])));
}

static inline float v_top(vf x) {
    return vmaxvq_f32(x);
}

static inline int32_t v_largest(vi x) {
    return vmaxvq_s32(x);
}

/* By way of bytes: byte j of lane i comes from 4 index[i] + j. */
static inline vf v_permute(vf x, vi index) {
    vi bytes = index * 0x04040404 + 0x03020100;
    return (vf)vqtbl1q_u8((uint8x16_t)x, (uint8x16_t)bytes);
}

static inline vf v_even(vf x) {
    return vtrn1q_f32(x, x);
}

static inline vf v_odd(vf x) {
    return vtrn2q_f32(x, x);
}

#endif
