/*
 * inputs.h - random floats in guarded memory, and how far from the truth a contract lets a kernel be.
 *
 * A check takes its buffers, runs a kernel, compares; floats_release() then frees them all and says whether guard words
 * survived. All randomness is drawn from `rng`, so that a seed repeats a run.
 */
#ifndef TESTS_KERNEL_INPUTS_H
#define TESTS_KERNEL_INPUTS_H

#include <string.h>

#include "test.h"

#include "base/base.h"
#include "kernel/kernel.h"

extern struct rng rng;

/* What kernels with a parameter of that name are given. */
extern _Alignas(64) uint8_t scratch[KERNEL_SCRATCH_BYTES];

/* A whole number in [1, n]. */
uint32_t up_to(uint32_t n);

/* Within 1, but one in 16 is far larger or far smaller, and one in 32 is 0. */
float random_float(void);

/* Half of the arrays get any bits at all, or values of one exponent and those near it; the others stay. */
void make_extreme(float *x, size_t n);

/* `count` random floats whose end is the end of readable memory or up to 15 floats before. Valid until the next
 * floats_release(). */
float *floats(size_t count);

/* Frees all buffers; false if a guard word was written. */
bool floats_release(void);

/* Of a float's rounding, relative to its value: u of kernel.h. */
#define UNIT 0x1p-24

/* The dot contract for n terms whose magnitudes sum to `magnitude`. */
double dot_error(double magnitude, size_t n);
bool near_dot(float got, double want, double magnitude, size_t n);

bool near_ulp(float got, double want, double ulps);

#endif
