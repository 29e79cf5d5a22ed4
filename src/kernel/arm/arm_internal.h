/*
 * arm_internal.h - the kernels of the neon level by their names, gemm_neon and so on: for its table, and for a higher
 * level that does not take every matrix.
 */
#ifndef KERNEL_ARM_ARM_INTERNAL_H
#define KERNEL_ARM_ARM_INTERNAL_H

#include "kernel/kernel_internal.h"

#define ARM_KERNEL(name, returns, parameters) returns name##_neon parameters;
KERNELS(ARM_KERNEL)
#undef ARM_KERNEL
#define ARM_KERNEL(name, returns, parameters) returns name##_invariant_neon parameters;
KERNEL_PRODUCTS(ARM_KERNEL)
#undef ARM_KERNEL

/* gemm of one token, for the matrices it takes: neon_stream.c. */
bool stream_takes_neon(const struct matrix *w);
void stream_neon(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, float *y);

#endif
