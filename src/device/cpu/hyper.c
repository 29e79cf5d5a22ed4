/*
 * hyper.c - hyper-connections: the mixes of each token's residual streams.
 *
 * The norm of the streams is one number a token, so it is applied to the products instead of the inputs:
 * fn (h / r) = (fn h) / r. Tokens are taken BLOCK at a time, as many as use fn's rows while these are in the cache;
 * a few tokens divide fn's rows among the workers instead.
 */
#include <math.h>

#include "device/cpu/cpu_internal.h"

enum { BLOCK = 32, MIXES = (2 + HC_MAX_STREAMS) * HC_MAX_STREAMS };

struct mixing {
    struct cpu *cpu;
    const struct device_hyper *h;
    float base[MIXES], scale[3];
    float *m; /* [BLOCK, mixes]: products of the tokens in work, where the workers make them together */
};

/* 1 / RMS of x, whose square is a product of one row like any other. */
static float inverse_norm(const struct mixing *t, const float *x, uint32_t n) {
    struct matrix row = {.format = FORMAT_F32, .rows = 1, .cols = n, .data = x};
    float square;
    t->cpu->kernels.gemm(&row, 0, 1, x, n, 1, &square, 1);
    return 1 / sqrtf(square / (float)n + t->h->norm_eps);
}

/* Products m [count, mixes] of tokens from `first` on become mixes, and the tokens' x. */
static void finish_tokens(const struct mixing *t, uint64_t first, uint32_t count, float *m) {
    const struct device_hyper *h = t->h;
    const struct kernel_table *k = &t->cpu->kernels;
    uint32_t n = h->streams, mixes = h->fn.rows, wide = n * h->dim;
    for (uint64_t s = first; s < first + count; s++, m += mixes) {
        const float *streams = h->h + s * wide;
        float norm = inverse_norm(t, streams, wide);
        for (uint32_t j = 0; j < mixes; j++)
            m[j] *= norm;
        if (h->iterations)
            k->hc_weights(m, n, t->scale, t->base, h->iterations, h->eps, h->post + s * n, h->comb + s * n * n);
        else
            for (uint32_t j = 0; j < n; j++)
                m[j] = kernel_sigmoid(m[j] * t->scale[0] + t->base[j]) + h->eps;
        if (h->pre)
            memcpy(h->pre + s * n, m, n * sizeof(*m));
        if (h->x)
            k->hc_collapse(streams, n, h->dim, m, h->x + s * h->dim);
    }
}

static void mix_block(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct mixing *t = context;
    const struct device_hyper *h = t->h;
    uint32_t wide = h->streams * h->dim, mixes = h->fn.rows;
    uint32_t count = (uint32_t)min_u64(BLOCK, h->rows - i * BLOCK);
    float *m = worker->scratch;
    t->cpu->kernels.gemm(&h->fn, 0, mixes, h->h + i * BLOCK * wide, wide, count, m, mixes);
    finish_tokens(t, i * BLOCK, count, m);
}

/* Row i of fn with all tokens. */
static void mix_row(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct mixing *t = context;
    const struct device_hyper *h = t->h;
    uint32_t wide = h->streams * h->dim;
    (void)worker;
    t->cpu->kernels.gemm(&h->fn, (uint32_t)i, 1, h->h, wide, h->rows, t->m + i, h->fn.rows);
}

void cpu_hyper(struct device *d, const struct device_hyper *h) {
    struct cpu *cpu = cpu_of(d);
    struct mixing t = {.cpu = cpu, .h = h, .m = cpu->workers[0].scratch};
    uint64_t wide = (uint64_t)h->streams * h->dim;
    cpu_vector(&h->base, t.base);
    cpu_vector(&h->scale, t.scale);
    if (h->rows < BLOCK / 2) {
        cpu_each(cpu, h->fn.rows, h->rows * wide, mix_row, &t);
        finish_tokens(&t, 0, h->rows, t.m);
    } else {
        cpu_each(cpu, ceil_div(h->rows, BLOCK), wide * h->fn.rows, mix_block, &t);
    }
}
