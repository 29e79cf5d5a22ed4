/*
 * real_internal.h - the type that training computes in, and how its passes are written.
 *
 * Every pass is compiled twice: in float, which trains, and in double, in which the gradients are checked against
 * central differences. A file says REAL(name) for what it defines, real for its numbers and r_exp() and the like for
 * functions; the build compiles it with and without TRAIN_DOUBLE.
 *
 *     forward     void REAL(thing_forward)(team, shape, inputs, parameters, outputs, saved)
 *     backward    void REAL(thing_backward)(team, shape, inputs, parameters, saved, gradient of outputs,
 *                                           gradients of inputs, gradients of parameters)
 *
 * Matrices are row-major, tokens first. Gradients are added to, never set, so that what is used twice gets both; a
 * caller clears them. What is cheap is computed again in the backward pass instead of being saved. A gradient that is
 * not wanted is NULL.
 *
 * Sums over tokens are made in an order that depends on lengths alone (BLOCK tokens at a time, blocks in order), never
 * on which worker was faster: the same run gives the same bits with any number of threads.
 */
#ifndef TRAIN_REAL_INTERNAL_H
#define TRAIN_REAL_INTERNAL_H

#include <math.h>

#include "train/train_internal.h"

#ifdef TRAIN_DOUBLE
typedef double real;
#define REAL(name) name##_f64
#define r_exp      exp
#define r_log      log
#define r_sqrt     sqrt
#define r_log1p    log1p
#define r_fabs     fabs
#define r_cos      cos
#define r_sin      sin
#else
typedef float real;
#define REAL(name) name##_f32
#define r_exp      expf
#define r_log      logf
#define r_sqrt     sqrtf
#define r_log1p    log1pf
#define r_fabs     fabsf
#define r_cos      cosf
#define r_sin      sinf
#endif

/*
 * Products, gemm.c. c[m, n] (+)= a · b where a is [m, k] and b [k, n], either of them stored transposed:
 *
 *     forward of a linear layer    y[T, out]  = x[T, in] · w[out, in]^T     GEMM_BT
 *     gradient of its input        dx[T, in] += dy[T, out] · w[out, in]     0
 *     gradient of its weight       dw[out, in] += dy[T, out]^T · x[T, in]   GEMM_AT
 *
 * In float the inputs are rounded to bf16 and sums are float32, at every level of kernels; GEMM_EXACT leaves the inputs
 * as they are, for what small errors would steer elsewhere (router, hyper-connections, compressors) and for
 * comparisons. In double nothing is rounded. An element's terms are added in an order that depends on k alone. Not to
 * be called from inside team_each(). Workers' scratch is used.
 *
 * GEMM_SYMMETRIC, without GEMM_ADD: the caller knows that c is symmetric, because b is a turned, or is a and symmetric
 * itself. Half of it is computed.
 */
enum { GEMM_AT = 1, GEMM_BT = 2, GEMM_ADD = 4, GEMM_EXACT = 8, GEMM_SYMMETRIC = 16 };
void REAL(gemm)(struct team *team, int how, size_t m, size_t n, size_t k, const real *a, const real *b, real *c);

#endif
