/*
 * avx2_internal.h - eight floats at a time: the operations that the shared kernels are written in. What each must do
 * stands in avx512_internal.h.
 */
#ifndef KERNEL_X86_AVX2_INTERNAL_H
#define KERNEL_X86_AVX2_INTERNAL_H

#include <immintrin.h>

#include "kernel/x86/x86_internal.h"

#define LEVEL(name) name##_avx2

enum { LANES = 8 };
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));

static inline vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vf x) {
    _mm256_storeu_ps(p, x);
}

/* All ones in the first n lanes. */
static inline __m256i first_lanes(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf v_load_part(const float *p, size_t n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}

static inline void v_store_part(float *p, size_t n, vf x) {
    _mm256_maskstore_ps(p, first_lanes(n), x);
}

static inline vf v_set(float x) {
    return _mm256_set1_ps(x);
}

static inline vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf v_min(vf bound, vf x) {
    return _mm256_min_ps(bound, x);
}

static inline vf v_max(vf bound, vf x) {
    return _mm256_max_ps(bound, x);
}

static inline vi v_ilarger(vi a, vi b) {
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
}

static inline float v_sum(vf x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline void v_sums(const vf x[4], float out[4]) {
    __m256 eight = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}

static inline float v_top(vf x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline int32_t v_largest(vi x) {
    __m256i all = (__m256i)x;
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}

static inline vf v_permute(vf x, vi index) {
    return _mm256_permutevar8x32_ps(x, (__m256i)index);
}

static inline vf v_even(vf x) {
    return _mm256_moveldup_ps(x);
}

static inline vf v_odd(vf x) {
    return _mm256_movehdup_ps(x);
}

#endif
