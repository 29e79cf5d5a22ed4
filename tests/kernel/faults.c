/*
 * faults.c - proof that the checks can fail: each kernel in turn is sabotaged, and its check has to notice.
 *
 * A fault is what the C level computes, a little off: mostly in the last number, where tails go wrong.
 */
#include "test_kernel.h"

#include "base/base.h"
#include "kernel/kernel.h"

static struct kernel_table real;

static void nudge(float *x) {
    *x = *x * 1.001f + 1e-3f;
}

static void gemm_fault(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                       float *y, size_t ldy) {
    real.gemm(w, row, rows, x, ldx, count, y, ldy);
    nudge(&y[(count - 1) * ldy + rows - 1]);
}

static void pack_fault(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                       void *packed) {
    real.pack(w, x, ldx, count, col, cols, packed);
    nudge(packed);
}

static void gemm_bf16_fault(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                            float *y, size_t ldy, void *room) {
    real.gemm_bf16(w, row, rows, packed, count, y, ldy, room);
    nudge(&y[(count - 1) * ldy + rows - 1]);
}

static void factor_fault(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    real.factor(x, ld, how, rows, depth, packed);
    nudge((float *)packed + (size_t)(depth - 1) * KERNEL_PANEL);
}

static void product_fault(const void *left, const void *right, uint32_t n, uint32_t cols, uint32_t depth, bool add,
                          float *c, size_t ldc) {
    real.product(left, right, n, cols, depth, add, c, ldc);
    nudge(&c[(n - 1) * ldc + cols - 1]);
}

static void factor_bf16_fault(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    real.factor_bf16(x, ld, how, rows, depth, packed);
    nudge((float *)packed + (size_t)(depth - 1) * KERNEL_PANEL);
}

static void product_bf16_fault(const void *left, const void *right, uint32_t n, uint32_t cols, uint32_t depth, bool add,
                               float *c, size_t ldc) {
    real.product_bf16(left, right, n, cols, depth, !add, c, ldc);
}

static void rms_norm_fault(const float *x, uint32_t n, const float *weight, float eps, float *y) {
    real.rms_norm(x, n, weight, eps, y);
    nudge(&y[n - 1]);
}

static void rotate_fault(float *x, uint32_t half, const float *turn, float direction) {
    real.rotate(x, half, turn, direction);
    nudge(&x[2 * half - 1]);
}

static void hadamard_fault(float *x, uint32_t n) {
    real.hadamard(x, n);
    nudge(&x[n - 1]);
}

static void fake_e4m3_fault(float *x, size_t count, size_t block) {
    real.fake_e4m3(x, count, block);
    nudge(&x[count - 1]);
}

static void fake_e2m1_fault(float *x, size_t count, size_t block) {
    real.fake_e2m1(x, count, block);
    nudge(&x[count - 1]);
}

static void round_bf16_fault(float *x, size_t count) {
    real.round_bf16(x, count);
    nudge(&x[count - 1]);
}

static void store_row_fault(const struct row_format *format, const float *x, void *row) {
    real.store_row(format, x, row);
    ((uint8_t *)row)[row_bytes(format) - 1] ^= 1;
}

static void attend_fault(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                         uint32_t count, const float *sink, float scale, float *weights, float *out) {
    real.attend(q, heads, format, keys, count, sink, scale, weights, out);
    nudge(&out[heads * format->dim - 1]);
}

static void index_scores_fault(const float *q, const float *w, uint32_t rows, uint32_t heads,
                               const struct row_format *format, const void *keys, uint32_t count, float *scores,
                               size_t ldscores) {
    real.index_scores(q, w, rows, heads, format, keys, count, scores, ldscores);
    nudge(&scores[(rows - 1) * ldscores + count - 1]);
}

static void attend_bf16_fault(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                              uint32_t count, const float *sink, float scale, float *weights, float *out, void *room) {
    real.attend_bf16(q, heads, format, keys, count, sink, scale, weights, out, room);
    for (uint32_t i = 0; i < heads * format->dim; i++)
        out[i] *= 1.01f;
}

static void index_scores_bf16_fault(const float *q, const float *w, uint32_t rows, uint32_t heads,
                                    const struct row_format *format, const void *keys, uint32_t count, float *scores,
                                    size_t ldscores, void *room) {
    real.index_scores_bf16(q, w, rows, heads, format, keys, count, scores, ldscores, room);
    nudge(&scores[(rows - 1) * ldscores + count - 1]);
}

static void pool_fault(const float *const *values, const float *const *scores, const float *bias, size_t bias_stride,
                       uint32_t count, uint32_t dim, float *out) {
    real.pool(values, scores, bias, bias_stride, count, dim, out);
    nudge(&out[dim - 1]);
}

static void hc_weights_fault(float *m, uint32_t streams, const float *scale, const float *base, uint32_t iterations,
                             float eps, float *post, float *comb) {
    real.hc_weights(m, streams, scale, base, iterations, eps, post, comb);
    nudge(&comb[streams * streams - 1]);
}

static void hc_collapse_fault(const float *h, uint32_t streams, uint32_t dim, const float *pre, float *x) {
    real.hc_collapse(h, streams, dim, pre, x);
    nudge(&x[dim - 1]);
}

static void hc_spread_fault(float *h, uint32_t streams, uint32_t dim, const float *y, const float *post,
                            const float *comb) {
    real.hc_spread(h, streams, dim, y, post, comb);
    nudge(&h[streams * dim - 1]);
}

static void swiglu_fault(float *gate, const float *up, size_t count, float limit, float weight) {
    real.swiglu(gate, up, count, limit, weight);
    nudge(&gate[count - 1]);
}

static void axpy_fault(float *y, const float *x, size_t count, float a) {
    real.axpy(y, x, count, a);
    nudge(&y[count - 1]);
}

static void dots_fault(const float *a, uint32_t m, const float *const *b, uint32_t n, uint32_t dim, float *out) {
    real.dots(a, m, b, n, dim, out);
    nudge(&out[(size_t)m * n - 1]);
}

static void mix_fault(const float *w, size_t row, size_t term, const float *const *x, uint32_t n, uint32_t dim,
                      uint32_t m, float *const *out) {
    real.mix(w, row, term, x, n, dim, m, out);
    nudge(&out[m - 1][dim - 1]);
}

void test_kernels__a_fault_is_noticed(void **state) {
    (void)state;
    size_t i = 0;
    name_signals("c with a fault");
    kernel_table_init(&real, KERNEL_LEVEL_c, false);
#define FAULT(name, returns, parameters)                                                                               \
    {                                                                                                                  \
        struct kernel_table t = real;                                                                                  \
        t.name = name##_fault;                                                                                         \
        if (check_holds(i++, &t))                                                                                      \
            fail_msg("a fault in " #name " goes unnoticed");                                                           \
    }
    KERNELS(FAULT)
#undef FAULT
}
