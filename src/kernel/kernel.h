/*
 * kernel.h - the arithmetic of the forward pass, one table of functions, one column a level.
 *
 * A kernel is a pure function over plain float arrays: no allocation, no threads, no state. The list below
 * names each once; from it come the table, the prototypes of the C level and the loop of tests/kernel. The
 * C level (kernel/c.c) is the specification: it is compiled without contraction or reassociation, and sums
 * in an order that does not depend on how many rows are worked on together, so a token's result is the same
 * bit for bit in whatever chunk it comes.
 *
 * Contracts: "exact" is bit for bit; "dot" is |x - exact| <= 16 u sum|a_i b_i| * (1 + n/256) for n terms,
 * u = 2^-24; "ulp(k)" is within k units in the last place of the real result for the given inputs.
 * Pointers need only the alignment of their type unless stated. Outputs do not overlap inputs unless stated.
 */
#ifndef KERNEL_KERNEL_H
#define KERNEL_KERNEL_H

#include <math.h>

#include "number/number.h"

/* X(name, returns, parameters): what each does is told below. */
#define KERNELS(X)                                                                                                     \
    X(gemm, void,                                                                                                      \
      (const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count, float *y,      \
       size_t ldy))                                                                                                    \
    X(rms_norm, void, (const float *x, uint32_t n, const float *weight, float eps, float *y))                          \
    X(rotate, void, (float *x, uint32_t half, const float *turn, float direction))                                     \
    X(hadamard, void, (float *x, uint32_t n))                                                                          \
    X(fake_e4m3, void, (float *x, size_t count, size_t block))                                                         \
    X(fake_e2m1, void, (float *x, size_t count, size_t block))                                                         \
    X(round_bf16, void, (float *x, size_t count))                                                                      \
    X(attend, void,                                                                                                    \
      (const float *q, uint32_t heads, uint32_t dim, const float *const *keys, uint32_t count, const float *sink,      \
       float scale, float *weights, float *out))                                                                       \
    X(index_score, float, (const float *q, const float *w, uint32_t heads, uint32_t dim, const float *key))            \
    X(pool, void,                                                                                                      \
      (const float *const *values, const float *const *scores, const float *bias, size_t bias_stride, uint32_t count,  \
       uint32_t dim, float *out))                                                                                      \
    X(hc_weights, void,                                                                                                \
      (float *m, uint32_t streams, const float *scale, const float *base, uint32_t iterations, float eps, float *post, \
       float *comb))                                                                                                   \
    X(hc_collapse, void, (const float *h, uint32_t streams, uint32_t dim, const float *pre, float *x))                 \
    X(hc_spread, void,                                                                                                 \
      (float *h, uint32_t streams, uint32_t dim, const float *y, const float *post, const float *comb))                \
    X(swiglu, void, (float *gate, const float *up, size_t count, float limit, float weight))                           \
    X(axpy, void, (float *y, const float *x, size_t count, float a))

/*
 * gemm         y[s][i] = sum_c x[s][c] * w[row + i][c] for i < rows, s < count; rows of x are ldx apart, of
 *              y ldy. [dot]
 * rms_norm     y = x / sqrt(mean(x^2) + eps) * weight (NULL: 1); y may be x. [ulp(8)]
 * rotate       turns the pairs (x[2i], x[2i+1]), i < half, by the angle whose cosine and sine are turn[2i],
 *              turn[2i+1]; direction +1 or -1 (back). [ulp(2) of the larger of the pair]
 * hadamard     orthonormal Walsh-Hadamard transform, n a power of two. [dot]
 * fake_e4m3    number.h's e4m3_fake [exact]; fake_e2m1 likewise; round_bf16 rounds in place [exact]
 * attend       one token, shared key-values: for each head, the softmax over `count` keys of scale * q . k,
 *              with exp(sink[head]) in the denominator only, weighs the keys themselves into out. q, out
 *              [heads, dim]; keys: count pointers to [dim]; weights: scratch [heads, count]. [dot, twice]
 * index_score  sum_h w[h] * max(q[h] . key, 0). [dot, twice]
 * pool         out[c] = sum_r values[r][c] * softmax_r(scores[r][c] + bias[r * bias_stride + c]); a row whose
 *              pointer is NULL counts as minus infinity. [dot]
 * hc_weights   the three mixes of a hyper-connection from the raw projection m [(2 + H) H], in place: m[0..H)
 *              becomes pre = sigmoid + eps, post [H] = 2 sigmoid, comb [H, H] the Sinkhorn-normalised residual
 *              mix. scale [3], base [(2 + H) H]. H <= 16. [ulp(64)]
 * hc_collapse  x[d] = sum_j pre[j] h[j][d]. [dot]
 * hc_spread    h[j][d] <- post[j] y[d] + sum_i comb[i][j] h[i][d], in place. H <= 16. [dot]
 * swiglu       gate <- silu(min(gate, limit)) * clamp(up, -limit, limit) * weight; limit 0: no clamp. [ulp(16), or
 *              2^-120 of the product without the sigmoid, where that underflows]
 * axpy         y += a x. [ulp(2) of the larger term]
 */

#define HC_MAX_STREAMS 16

static inline float kernel_sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

struct kernel_table {
#define KERNEL_MEMBER(name, returns, parameters) returns(*name) parameters;
    KERNELS(KERNEL_MEMBER)
#undef KERNEL_MEMBER
};

/* Levels are named bundles of instructions; each overrides what it does better than the one before. */
enum kernel_level { KERNEL_LEVEL_C, KERNEL_LEVEL_COUNT };

/* Pure: fills the table for a level, whatever the processor is. */
void kernel_table_init(struct kernel_table *t, enum kernel_level level);

/* The best level that this processor and operating system can run. */
enum kernel_level kernel_level_best(void);
const char *kernel_level_name(enum kernel_level level);

#endif
