/*
 * avx512_internal.h - sixteen floats at a time: the operations that the shared kernels (wide_*_internal.h) are
 * written in.
 *
 * Arithmetic and comparisons are the compiler's own on vector types; here is what it has no notation for. Whoever
 * includes the shared kernels defines LEVEL(name) and the same set for another width:
 *
 *   v_load, v_store            LANES floats at any address
 *   v_load_part, v_store_part  the first n < LANES of them, zeros behind; nothing beyond is touched
 *   v_set                      one value in every lane
 *   v_fma                      a b + c in one rounding
 *   v_min, v_max               of a bound and x: a NaN in x stays
 *   v_sum, v_top, v_largest    over the lanes: sum, greatest float, greatest int
 *   v_sums                     the sums of four vectors
 *   v_ilarger                  greater of two ints
 *   v_permute                  lane i takes lane index[i]
 *   v_even, v_odd              of each pair of lanes both become the first, the second
 */
#ifndef KERNEL_X86_AVX512_INTERNAL_H
#define KERNEL_X86_AVX512_INTERNAL_H

#include <immintrin.h>

#include "kernel/x86/x86_internal.h"

#define LEVEL(name) name##_avx512

enum { LANES = 16 };
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));

static inline vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vf x) {
    _mm512_storeu_ps(p, x);
}

static inline vf v_load_part(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

static inline void v_store_part(float *p, size_t n, vf x) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x);
}

static inline vf v_set(float x) {
    return _mm512_set1_ps(x);
}

static inline vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf v_min(vf bound, vf x) {
    return _mm512_min_ps(bound, x);
}

static inline vf v_max(vf bound, vf x) {
    return _mm512_max_ps(bound, x);
}

static inline vi v_ilarger(vi a, vi b) {
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
}

static inline float v_sum(vf x) {
    return _mm512_reduce_add_ps(x);
}

static inline void v_sums(const vf x[4], float out[4]) {
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    __m512 sixteen = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}

static inline float v_top(vf x) {
    return _mm512_reduce_max_ps(x);
}

static inline int32_t v_largest(vi x) {
    return _mm512_reduce_max_epi32((__m512i)x);
}

static inline vf v_permute(vf x, vi index) {
    return _mm512_permutexvar_ps((__m512i)index, x);
}

static inline vf v_even(vf x) {
    return _mm512_moveldup_ps(x);
}

static inline vf v_odd(vf x) {
    return _mm512_movehdup_ps(x);
}

#endif
