/*
 * attention.c - what each token looks at: gathering keys, pooling blocks, choosing entries.
 *
 * A token's keys come from three places: the ring of earlier tokens, the fresh keys of this step, the
 * compressed entries. They are gathered as pointers, oldest first, so nothing is copied and the order of the
 * sums is that of the positions, whatever the division into steps.
 */
#include <math.h>

#include "device/cpu/cpu_internal.h"

static uint32_t gather(struct cpu *cpu, const struct device_attend *a, uint32_t s) {
    uint64_t at = a->first + s, from = at + 1 > a->window ? at + 1 - a->window : 0;
    uint32_t n = 0;
    for (uint64_t p = from; p <= at; p++)
        cpu->keys[n++] = p >= a->first ? a->fresh + (p - a->first) * a->dim : a->ring + p % a->window * a->dim;
    if (a->chosen) {
        const int32_t *chosen = a->chosen + (size_t)s * a->top;
        for (int32_t i = 0; i < a->counts[s]; i++)
            cpu->keys[n++] = a->entries + (size_t)chosen[i] * a->dim;
    } else if (a->ratio) {
        for (uint64_t i = 0; i < (at + 1) / a->ratio; i++)
            cpu->keys[n++] = a->entries + i * a->dim;
    }
    return n;
}

void cpu_attend(struct device *d, const struct device_attend *a) {
    struct cpu *cpu = cpu_of(d);
    const float *sink = cpu_vector(&a->sink, cpu->vector);
    size_t wide = (size_t)a->heads * a->dim;
    for (uint32_t s = 0; s < a->rows; s++) {
        uint32_t n = gather(cpu, a, s);
        cpu->kernels.attend(a->q + s * wide, a->heads, a->dim, cpu->keys, n, sink, a->scale, cpu->weights,
                            a->out + s * wide);
    }
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

void cpu_pool(struct device *d, const struct device_pool *p) {
    struct cpu *cpu = cpu_of(d);
    uint32_t n = p->ratio;
    const float **values = cpu->keys, **scores = cpu->keys + cpu->limits.pool_rows;
    float *bias = cpu->bias;
    for (uint32_t r = 0; r < n; r++) {
        matrix_decode(&p->bias, r, 0, p->dim, bias + (size_t)r * p->dim);
        if (p->overlap)
            matrix_decode(&p->bias, r, p->dim, p->dim, bias + (size_t)(n + r) * p->dim);
    }
    for (uint64_t i = 0; i < p->count; i++) {
        int64_t block = (int64_t)((p->first_entry + i) * n);
        uint32_t rows = 0;
        for (int64_t at = p->overlap ? block - (int64_t)n : block; at < block + (int64_t)n; at++, rows++) {
            /* overlapping: the block before through the first half of the channels, this one through the second */
            size_t half = p->overlap && at >= block ? p->dim : 0;
            const float *value = row_at(p, p->values, p->ring_values, at);
            values[rows] = value ? value + half : NULL;
            scores[rows] = value ? row_at(p, p->scores, p->ring_scores, at) + half : NULL;
        }
        cpu->kernels.pool(values, scores, bias, p->dim, rows, p->dim, p->out + i * p->dim);
    }
}

/* --------------------------------------------------------------------------------------- indexer */

/*
 * Sort keys whose ascending order is descending score, ties by ascending entry: the float's bits made
 * monotone and inverted above the entry number.
 */
static uint64_t rank_key(float score, uint32_t entry) {
    uint32_t u = float_bits(score + 0.0f); /* -0 becomes 0: equal scores must be equal bits */
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)~u << 32 | entry;
}

static void swap(uint64_t *a, uint64_t *b) {
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

/* Moves the k smallest of n to the front, in no order. Middle-element pivots; keys are distinct. */
static void select_smallest(uint64_t *x, uint64_t n, uint64_t k) {
    uint64_t lo = 0, hi = n;
    while (hi - lo > 1 && k > lo && k < hi) {
        swap(&x[lo], &x[lo + (hi - lo) / 2]);
        uint64_t pivot = x[lo], at = lo;
        for (uint64_t i = lo + 1; i < hi; i++)
            if (x[i] < pivot)
                swap(&x[++at], &x[i]);
        swap(&x[lo], &x[at]);
        if (k <= at)
            hi = at;
        else
            lo = at + 1;
    }
}

/* Ranks of all n entries of row r into cpu->ranks. */
static void rank_entries(struct cpu *cpu, const struct device_select *s, uint32_t r, uint64_t n) {
    const float *q = s->q + (size_t)r * s->heads * s->dim, *w = s->w + (size_t)r * s->heads;
    cpu->kernels.index_scores(q, w, s->heads, s->dim, s->keys, (uint32_t)n, cpu->scores);
    for (uint64_t i = 0; i < n; i++) {
        cpu->not_finite |= !isfinite(cpu->scores[i]);
        cpu->ranks[i] = rank_key(cpu->scores[i], (uint32_t)i);
    }
}

/* The k-th smallest of cpu->ranks [n]; they are distinct. */
static uint64_t rank_limit(struct cpu *cpu, uint64_t n, uint64_t k) {
    uint64_t limit = 0;
    memcpy(cpu->order, cpu->ranks, n * sizeof(*cpu->order));
    select_smallest(cpu->order, n, k);
    for (uint64_t i = 0; i < k; i++)
        limit = max_u64(limit, cpu->order[i]);
    return limit;
}

void cpu_select(struct device *d, const struct device_select *s) {
    struct cpu *cpu = cpu_of(d);
    for (uint32_t r = 0; r < s->rows; r++) {
        uint64_t n = (s->first + r + 1) / s->ratio, limit = UINT64_MAX;
        int32_t *chosen = s->chosen + (size_t)r * s->top, count = 0;
        if (n > s->top) {
            rank_entries(cpu, s, r, n);
            limit = rank_limit(cpu, n, s->top);
        }
        for (uint64_t i = 0; i < n; i++)
            if (n <= s->top || cpu->ranks[i] <= limit)
                chosen[count++] = (int32_t)i;
        s->counts[r] = count;
    }
}
