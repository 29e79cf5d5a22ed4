/*
 * attention.c - what each token looks at: gathering keys, pooling blocks. select.c chooses entries.
 *
 * A token's keys come from three places: the ring of earlier tokens, the fresh keys of this step, the
 * compressed entries. They are gathered as pointers, oldest first, so nothing is copied and the order of the
 * sums is that of the positions, whatever the division into steps.
 */
#include <math.h>

#include "device/cpu/cpu_internal.h"

/* Keys of row s into worker->keys; returns how many. */
static uint32_t gather(struct cpu_worker *worker, const struct device_attend *a, uint64_t s) {
    uint64_t at = a->first + s, from = at + 1 > a->window ? at + 1 - a->window : 0;
    const uint8_t *fresh = a->fresh, *ring = a->ring;
    size_t bytes = row_bytes(&a->format);
    uint64_t left;
    uint32_t n = 0;
    for (uint64_t p = from; p <= at; p++)
        worker->keys[n++] = p >= a->first ? fresh + (p - a->first) * bytes : ring + p % a->ring_rows * bytes;
    if (a->chosen) {
        const int32_t *chosen = a->chosen + s * a->top;
        for (int32_t i = 0; i < a->counts[s]; i++)
            worker->keys[n++] = device_page_row(&a->entries, (uint32_t)chosen[i], bytes, &left);
    } else if (a->ratio) {
        for (uint64_t i = 0, all = (at + 1) / a->ratio; i < all;) {
            const uint8_t *row = device_page_row(&a->entries, i, bytes, &left);
            for (uint64_t end = min_u64(all, i + left); i < end; i++, row += bytes)
                worker->keys[n++] = row;
        }
    }
    return n;
}

/* Items are some heads of a row: all of them where there are rows enough for the workers. */
struct attention {
    struct cpu *cpu;
    const struct device_attend *a;
    const float *sink;
    uint32_t heads, per_row; /* of an item; items of a row */
};

static void attend_item(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct attention *t = context;
    const struct device_attend *a = t->a;
    uint64_t s = i / t->per_row;
    uint32_t head = (uint32_t)(i % t->per_row) * t->heads;
    uint32_t heads = a->heads - head < t->heads ? a->heads - head : t->heads, n = gather(worker, a, s);
    size_t at = (s * a->heads + head) * a->format.dim;
    const struct kernel_table *k = &t->cpu->kernels;
    if (a->bf16)
        k->attend_bf16(a->q + at, heads, &a->format, worker->keys, n, t->sink + head, a->scale, worker->weights,
                       a->out + at, worker->scratch);
    else
        k->attend(a->q + at, heads, &a->format, worker->keys, n, t->sink + head, a->scale, worker->weights,
                  a->out + at);
}

void cpu_attend(struct device *d, const struct device_attend *a) {
    struct cpu *cpu = cpu_of(d);
    struct attention t = {cpu, a, cpu_vector(&a->sink, cpu->vector), a->heads, 1};
    bool divisible = !a->bf16 || a->heads % KERNEL_ATTEND_HEADS == 0; /* into items in which heads keep their bits */
    if (divisible && a->rows < 4 * cpu->worker_count) {
        uint64_t least = a->bf16 ? KERNEL_ATTEND_HEADS : 4;
        uint64_t heads = ceil_div((uint64_t)a->heads * a->rows, 4 * (uint64_t)cpu->worker_count);
        t.heads = (uint32_t)min_u64(ceil_div(heads, least) * least, a->heads);
        t.per_row = (uint32_t)ceil_div(a->heads, t.heads);
    }
    uint64_t keys = a->window + (a->chosen ? a->top : a->ratio ? (a->first + a->rows) / a->ratio : 0);
    cpu_each(cpu, (uint64_t)a->rows * t.per_row, keys * a->format.dim * t.heads / 8, attend_item, &t);
}

/* ------------------------------------------------------------------------------------- compressor */

/* The row of `fresh` or `ring` that holds position p; NULL before the text begins. */
static const float *row_at(const struct device_pool *p, const float *fresh, const float *ring, int64_t position) {
    if (position < 0)
        return NULL;
    if ((uint64_t)position >= p->first)
        return fresh + ((uint64_t)position - p->first) * p->width;
    return ring + (uint64_t)position % p->ring_rows * p->width;
}

struct pooling {
    struct cpu *cpu;
    const struct device_pool *p;
};

static void pool_item(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct pooling *t = context;
    const struct device_pool *p = t->p;
    uint32_t n = p->ratio, rows = 0;
    const float **values = worker->pooled, **scores = worker->pooled + t->cpu->limits.pool_rows;
    int64_t block = (int64_t)((p->first_entry + i) * n);
    for (int64_t at = p->overlap ? block - (int64_t)n : block; at < block + (int64_t)n; at++, rows++) {
        /* overlapping: the block before through the first half of the channels, this one through the second */
        size_t half = p->overlap && at >= block ? p->dim : 0;
        const float *value = row_at(p, p->values, p->ring_values, at);
        values[rows] = value ? value + half : NULL;
        scores[rows] = value ? row_at(p, p->scores, p->ring_scores, at) + half : NULL;
    }
    t->cpu->kernels.pool(values, scores, t->cpu->bias, p->dim, rows, p->dim, p->out + i * p->dim);
}

void cpu_pool(struct device *d, const struct device_pool *p) {
    struct cpu *cpu = cpu_of(d);
    struct pooling t = {cpu, p};
    uint32_t n = p->ratio;
    if (!p->bias.data)
        memset(cpu->bias, 0, (size_t)(p->overlap ? 2 : 1) * n * p->dim * sizeof(float));
    for (uint32_t r = 0; p->bias.data && r < n; r++) {
        matrix_decode(&p->bias, r, 0, p->dim, cpu->bias + (size_t)r * p->dim);
        if (p->overlap)
            matrix_decode(&p->bias, r, p->dim, p->dim, cpu->bias + (size_t)(n + r) * p->dim);
    }
    cpu_each(cpu, p->count, (uint64_t)n * p->dim * 4, pool_item, &t);
}
