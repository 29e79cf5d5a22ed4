/*
 * x86_internal.h - the kernels of the avx2 and avx512 levels by their names, gemm_avx512 and so on: for their tables,
 * and for a higher level that does not take every matrix.
 */
#ifndef KERNEL_X86_X86_INTERNAL_H
#define KERNEL_X86_X86_INTERNAL_H

#include "kernel/kernel_internal.h"

#define X86_KERNEL(name, returns, parameters)                                                                          \
    returns name##_avx2 parameters;                                                                                    \
    returns name##_avx512 parameters;
KERNELS(X86_KERNEL)
#undef X86_KERNEL
#define X86_KERNEL(name, returns, parameters)                                                                          \
    returns name##_invariant_avx2 parameters;                                                                          \
    returns name##_invariant_avx512 parameters;
KERNEL_PRODUCTS(X86_KERNEL)
#undef X86_KERNEL

/* gemm of one token, for the matrices it takes: avx512_stream.c. */
bool stream_takes_avx512(const struct matrix *w);
void stream_avx512(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, float *y);

/* pack and gemm_bf16 of one token for FP4, rounded to int8: avx512_int8.c. */
bool int8_takes_avx512(const struct matrix *w, uint32_t count);
void int8_pack_avx512(const float *x, uint32_t col, uint32_t cols, void *packed);
void int8_gemm_avx512(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, float *y);

#endif
