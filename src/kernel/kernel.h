/*
 * kernel.h - the arithmetic of the forward pass, one table of functions, one column a level.
 *
 * A kernel is a pure function over plain float arrays: no allocation, no threads, no state. The list below
 * names each once; from it come the table, the prototypes of the C level and the loop of tests/kernel. The
 * C level (kernel/c.c) is the specification: it is compiled without contraction or reassociation, and sums
 * in an order that does not depend on how many rows are worked on together, so a token's result is the same
 * bit for bit in whatever chunk it comes.
 *
 * Contracts: "exact" is bit for bit; "dot" is |x - exact| <= 16 u sum|a_i b_i| * (1 + n/128) for n terms,
 * u = 2^-24, or n 2^-126; "ulp(k)" is within k units in the last place of the real result for the given inputs.
 * Pointers need only the alignment of their type unless stated. Outputs do not overlap inputs unless stated.
 */
#ifndef KERNEL_KERNEL_H
#define KERNEL_KERNEL_H

#include <math.h>

#include "kernel/clones.h"
#include "number/number.h"

/* X(name, returns, parameters): what each does is told below. Products are all that knows how many tokens there are. */
#define KERNEL_PRODUCTS(X)                                                                                             \
    X(gemm, void,                                                                                                      \
      (const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count, float *y,      \
       size_t ldy))                                                                                                    \
    X(pack, void,                                                                                                      \
      (const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols, void *packed)) \
    X(gemm_bf16, void,                                                                                                 \
      (const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count, float *y, size_t ldy,  \
       void *scratch))

#define KERNELS(X)                                                                                                     \
    KERNEL_PRODUCTS(X)                                                                                                 \
    X(factor, void, (const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed))                 \
    X(product, void,                                                                                                   \
      (const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add, float *c,          \
       size_t ldc))                                                                                                    \
    X(factor_bf16, void, (const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed))            \
    X(product_bf16, void,                                                                                              \
      (const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add, float *c,          \
       size_t ldc))                                                                                                    \
    X(rms_norm, void, (const float *x, uint32_t n, const float *weight, float eps, float *y))                          \
    X(rotate, void, (float *x, uint32_t half, const float *turn, float direction))                                     \
    X(hadamard, void, (float *x, uint32_t n))                                                                          \
    X(fake_e4m3, void, (float *x, size_t count, size_t block))                                                         \
    X(fake_e2m1, void, (float *x, size_t count, size_t block))                                                         \
    X(round_bf16, void, (float *x, size_t count))                                                                      \
    X(store_row, void, (const struct row_format *format, const float *x, void *row))                                   \
    X(attend, void,                                                                                                    \
      (const float *q, uint32_t heads, const struct row_format *format, const void *const *keys, uint32_t count,       \
       const float *sink, float scale, float *weights, float *out))                                                    \
    X(index_scores, void,                                                                                              \
      (const float *q, const float *w, uint32_t rows, uint32_t heads, const struct row_format *format,                 \
       const void *keys, uint32_t count, float *scores, size_t ldscores))                                              \
    X(attend_bf16, void,                                                                                               \
      (const float *q, uint32_t heads, const struct row_format *format, const void *const *keys, uint32_t count,       \
       const float *sink, float scale, float *weights, float *out, void *scratch))                                     \
    X(index_scores_bf16, void,                                                                                         \
      (const float *q, const float *w, uint32_t rows, uint32_t heads, const struct row_format *format,                 \
       const void *keys, uint32_t count, float *scores, size_t ldscores, void *scratch))                               \
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
    X(axpy, void, (float *y, const float *x, size_t count, float a))                                                   \
    X(dots, void, (const float *a, uint32_t m, const float *const *b, uint32_t n, uint32_t dim, float *out))           \
    X(mix, void,                                                                                                       \
      (const float *w, size_t row, size_t term, const float *const *x, uint32_t n, uint32_t dim, uint32_t m,           \
       float *const *out))

/*
 * gemm         y[s][i] = sum_c x[s][c] * w[row + i][c] for i < rows, s < count; rows of x are ldx apart, of
 *              y ldy. [dot]
 * pack         columns [col, col + cols) of the inputs, which are x [count, cols], rows ldx apart, rounded to bf16,
 *              into their places in what gemm_bf16 of matrices of w's format and width reads:
 *              kernel_packed_bytes() of 64-byte aligned memory. col is a multiple of KERNEL_PACK_COLS, and so is
 *              cols unless col + cols is the width. [exact]
 * gemm_bf16    gemm of packed inputs: products are exact, as bf16 times any weight but F32's and those with F32
 *              scales is in float32. scratch: KERNEL_SCRATCH_BYTES, 64-byte aligned. [dot of the rounded inputs, for
 *              which values below 2^-126 may count as 0. One token's inputs for FP4 may be rounded to 8-bit integers
 *              times a scale instead: to within 1/254 of the largest magnitude among 32 columns, or 2^-119]
 * factor       one factor of a product of two matrices of floats, laid out as `product` reads it: the left one's rows,
 *              or the right one's columns, which `rows` counts as well (how: KERNEL_RIGHT); depth is what is summed
 *              over. x is [rows, depth], its rows ld apart, or [depth, rows] (how: KERNEL_TURNED too). packed:
 *              kernel_factor_bytes(), 64-byte aligned. [exact]
 * product      c[i][j] = sum_k left[i][k] * right[j][k] for i < rows, j < cols, k < depth, or (add) that added to what
 *              c holds. rows of c are ldc apart. An element's bits do not depend on rows, cols, or its place. [dot,
 *              c being one of the terms]
 * factor_bf16, product_bf16
 *              the same of numbers rounded to bf16, of which those below 2^-126 may count as 0
 * rms_norm     y = x / sqrt(mean(x^2) + eps) * weight (NULL: 1); y may be x. [ulp(8)]
 * rotate       turns the pairs (x[2i], x[2i+1]), i < half, by the angle whose cosine and sine are turn[2i],
 *              turn[2i+1]; direction +1 or -1 (back). [ulp(2) of the larger of the pair]
 * hadamard     orthonormal Walsh-Hadamard transform, n a power of two. [dot]
 * fake_e4m3    number.h's e4m3_fake [exact]; fake_e2m1 likewise; round_bf16 rounds in place [exact]
 * store_row    number.h's row_encode: x [dim] rounded and packed, to any address [exact]
 * attend       one token, shared key-values: for each head, the softmax over `count` keys of scale * q . k,
 *              with exp(sink[head]) in the denominator only, weighs the keys themselves into out. q, out
 *              [heads, dim]; keys: count pointers to rows of the format; weights: scratch [heads, count]. [dot, twice]
 * index_scores scores[r][i] = sum_h w[r][h] * max(q[r][h] . keys[i], 0) for r < rows, i < count. q [rows, heads,
 *              dim], w [rows, heads]; keys: rows of the format, one after another; rows of scores are ldscores apart.
 *              [dot, twice]
 *              Both read packed rows at any address, and give the bits that rows of the same floats give; a head and
 *              a score have theirs whatever heads, keys or rows of queries are beside them.
 * attend_bf16, index_scores_bf16
 *              the same, but queries, and the numerators of the softmax, may be rounded to bf16, and queries below
 *              2^-126 may count as 0. A head has its bits among any multiple of KERNEL_ATTEND_HEADS. scratch:
 *              KERNEL_SCRATCH_BYTES, 64-byte aligned
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
 * dots         out[i * n + j] = a[i] . b[j] for i < m, j < n; a [m, dim], b: n pointers to rows. [dot]
 * mix          out[i] += sum_j w[i * row + j * term] x[j] for i < m, j < n; x, out: n and m pointers to rows of dim,
 *              which do not overlap. [dot, out being one of the terms]
 *              A number has its bits in both whatever rows are beside it.
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

enum {
    KERNEL_PACK_COLS = 128,
    KERNEL_SCRATCH_BYTES = 1 << 20,
    KERNEL_ATTEND_HEADS = 32 /* attend_bf16 is fastest with multiples of them */
};

/* How a factor lies and which it is. */
enum { KERNEL_TURNED = 1, KERNEL_RIGHT = 2 };
enum { KERNEL_PANEL = 32 };

/* Bytes of a packed factor, at every level. */
static inline size_t kernel_factor_bytes(size_t rows, size_t depth) {
    const size_t unit = KERNEL_PANEL;
    return (rows + unit - 1) / unit * unit * ((depth + unit - 1) / unit * unit) * sizeof(float);
}

/* Bytes of packed inputs, at every level. */
static inline size_t kernel_packed_bytes(uint32_t cols, uint32_t count) {
    return (size_t)count * ((cols + 31) / 32 * 32) * sizeof(float);
}

/*
 * Levels are named bundles of instructions; each overrides what it does better than the one it stands on.
 *
 *     c       portable
 *     avx2    AVX2, FMA, F16C                       on c
 *     avx512  AVX-512 F, BW, VL, DQ, VBMI, VNNI     on avx2
 *     amx     AMX tile, BF16, and AVX-512 BF16      on avx512
 *     neon    AArch64 Advanced SIMD                 on c
 *     bf16    Armv8.6 BF16 and I8MM                 on neon
 *
 * X(name, what it stands on)
 */
#define KERNEL_LEVELS(X) X(c, c) X(avx2, c) X(avx512, avx2) X(amx, avx512) X(neon, c) X(bf16, neon)

enum kernel_level {
#define KERNEL_LEVEL(name, below) KERNEL_LEVEL_##name,
    KERNEL_LEVELS(KERNEL_LEVEL)
#undef KERNEL_LEVEL
        KERNEL_LEVEL_COUNT
};

/* Pure: fills the table for a level, whatever the processor is; levels this program was not built for add nothing.
 *
 * invariant: a token's products have the same bits whatever `count`, `row` and `rows` they are made with, as at the C
 * level they always have; one token's inputs are not rounded to integers then. What is packed for one table is not for
 * the other. Faster levels sum one token otherwise than few, and few otherwise than many, without it. */
void kernel_table_init(struct kernel_table *t, enum kernel_level level, bool invariant);

/* True if this program has the level and this processor and operating system can run it. For amx the first call asks
 * the kernel for the tiles, for the whole process. */
bool kernel_level_runs(enum kernel_level level);

/* The last level that runs. */
enum kernel_level kernel_level_best(void);
const char *kernel_level_name(enum kernel_level level);
/* False if there is no level of that name. */
bool kernel_level_parse(const char *name, enum kernel_level *level);

/* What kernels are held against. The level must run here.
 *
 * flops: does `rounds` rounds, each some hundred cycles at most, of the level's fastest multiply-adds of bf16 or
 * float32 numbers, in registers; returns how many operations that was, two for each.
 * read: reads 64-byte aligned memory once, in 1, 4 or 8 streams, each through its own part; returns the exclusive or
 * of its words. bytes is a multiple of 1024. */
uint64_t kernel_probe_flops(enum kernel_level level, uint64_t rounds);
uint64_t kernel_probe_read(enum kernel_level level, const void *memory, size_t bytes, uint32_t streams);

#endif
