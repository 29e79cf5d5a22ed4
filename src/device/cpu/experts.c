/*
 * experts.c - routing, and the experts themselves.
 *
 * The tokens of a step are grouped by expert, so each expert's weights are read once for all of them. Sums
 * run over experts in ascending order and then the shared one, as the oracle's do, so a token's result does
 * not depend on who shares its step.
 */
#include <math.h>

#include "device/cpu/cpu_internal.h"

/* --------------------------------------------------------------------------------------- routing */

static void score_logits(const float *logits, uint32_t n, enum device_scoring scoring, float *score) {
    if (scoring == DEVICE_SOFTMAX) {
        float top = -INFINITY, total = 0;
        for (uint32_t e = 0; e < n; e++)
            top = fmaxf(top, logits[e]);
        for (uint32_t e = 0; e < n; e++)
            total += score[e] = expf(logits[e] - top);
        for (uint32_t e = 0; e < n; e++)
            score[e] /= total;
        return;
    }
    for (uint32_t e = 0; e < n; e++) {
        float z = logits[e];
        if (scoring == DEVICE_SIGMOID)
            score[e] = kernel_sigmoid(z);
        else /* softplus without overflow: max(z, 0) + log(1 + e^-|z|) */
            score[e] = sqrtf((z < 0 ? 0 : z) + log1pf(expf(-fabsf(z))));
    }
}

/* The `active` best of score + bias in descending order; ties go to the lower number. */
static void choose(struct cpu *cpu, const float *score, const float *bias, uint32_t n, uint32_t active,
                   int32_t *index) {
    for (uint32_t e = 0; e < n; e++)
        cpu->not_finite |= !isfinite(score[e] + (bias ? bias[e] : 0));
    for (uint32_t j = 0; j < active; j++) {
        int32_t best = -1;
        float most = 0;
        for (uint32_t e = 0; e < n; e++) {
            float value = score[e] + (bias ? bias[e] : 0);
            bool taken = false;
            for (uint32_t i = 0; i < j; i++)
                taken |= index[i] == (int32_t)e;
            if (!taken && (best < 0 || value > most)) {
                best = (int32_t)e;
                most = value;
            }
        }
        index[j] = best;
    }
}

void cpu_route(struct device *d, const struct device_route *r) {
    struct cpu *cpu = cpu_of(d);
    const float *bias = cpu_vector(&r->bias, cpu->vector);
    float *score = cpu->vector2;
    for (uint32_t s = 0; s < r->rows; s++) {
        int32_t *index = r->index + (size_t)s * r->active;
        float *weight = r->weight + (size_t)s * r->active, total = 0;
        score_logits(r->logits + (size_t)s * r->experts, r->experts, r->scoring, score);
        if (r->forced)
            memcpy(index, r->forced + (size_t)s * r->active, r->active * sizeof(*index));
        else
            choose(cpu, score, bias, r->experts, r->active, index);
        for (uint32_t j = 0; j < r->active; j++)
            total += weight[j] = score[index[j]];
        for (uint32_t j = 0; j < r->active; j++)
            weight[j] = (r->scoring == DEVICE_SOFTMAX ? weight[j] : weight[j] / total) * r->scale;
    }
}

/* --------------------------------------------------------------------------------------- experts */

static void product(struct cpu *cpu, const struct device_experts *x, const struct matrix *w, float *in, uint32_t count,
                    float *out) {
    cpu->kernels.gemm(w, 0, w->rows, in, w->cols, count, out, w->rows);
    if (x->round_storage == FORMAT_BF16)
        cpu->kernels.round_bf16(out, (size_t)count * w->rows);
}

static bool rounds_input(const struct device_experts *x, const struct matrix *w) {
    return x->input_block && matrix_quantised(w);
}

static void quantise(struct cpu *cpu, const struct device_experts *x, float *in, uint32_t count, uint32_t width) {
    for (uint32_t i = 0; i < count; i++)
        cpu->kernels.fake_e4m3(in + (size_t)i * width, width, x->input_block);
}

/* expert_y [count, D] = w2 (silu(w1 x) * w3 x * weight) of the `count` gathered tokens in expert_x. */
static void run_expert(struct cpu *cpu, const struct device_experts *x, const struct device_expert *expert,
                       uint32_t count) {
    uint32_t inter = expert->w1.rows;
    const struct matrix *w[] = {&expert->w1, &expert->w3};
    float *out[] = {cpu->gate, cpu->up};
    for (int i = 0; i < 2; i++) /* those that take their input as it is come first: rounding is in place */
        if (!rounds_input(x, w[i]))
            product(cpu, x, w[i], cpu->expert_x, count, out[i]);
    if (rounds_input(x, w[0]) || rounds_input(x, w[1]))
        quantise(cpu, x, cpu->expert_x, count, expert->w1.cols);
    for (int i = 0; i < 2; i++)
        if (rounds_input(x, w[i]))
            product(cpu, x, w[i], cpu->expert_x, count, out[i]);
    for (uint32_t i = 0; i < count; i++)
        cpu->kernels.swiglu(cpu->gate + (size_t)i * inter, cpu->up + (size_t)i * inter, inter, x->limit,
                            cpu->expert_weight[i]);
    if (x->round_storage == FORMAT_BF16)
        cpu->kernels.round_bf16(cpu->gate, (size_t)count * inter);
    if (rounds_input(x, &expert->w2))
        quantise(cpu, x, cpu->gate, count, inter);
    product(cpu, x, &expert->w2, cpu->gate, count, cpu->expert_y);
}

/* Tokens routed to expert e; for e == count, the shared one: all of them, with weight 1. */
static uint32_t gather(struct cpu *cpu, const struct device_experts *x, uint32_t e, uint32_t dim) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < x->rows; s++) {
        const int32_t *index = x->index + (size_t)s * x->active;
        uint32_t j = 0;
        while (e < x->count && j < x->active && index[j] != (int32_t)e)
            j++;
        if (j == x->active)
            continue;
        memcpy(cpu->expert_x + (size_t)n * dim, x->x + (size_t)s * dim, dim * sizeof(float));
        cpu->expert_row[n] = s;
        cpu->expert_weight[n++] = e < x->count ? x->weight[(size_t)s * x->active + j] : 1;
    }
    return n;
}

void cpu_experts(struct device *d, const struct device_experts *x) {
    struct cpu *cpu = cpu_of(d);
    uint32_t dim = x->shared->w1.cols;
    memset(x->y, 0, (size_t)x->rows * dim * sizeof(float));
    for (uint32_t e = 0; e <= x->count; e++) {
        uint32_t n = gather(cpu, x, e, dim);
        if (!n)
            continue;
        run_expert(cpu, x, e < x->count ? &x->experts[e] : x->shared, n);
        for (uint32_t i = 0; i < n; i++)
            cpu->kernels.axpy(x->y + (size_t)cpu->expert_row[i] * dim, cpu->expert_y + (size_t)i * dim, dim, 1);
    }
}
