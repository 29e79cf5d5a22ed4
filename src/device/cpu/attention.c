/*
 * attention.c - what each token looks at: gathering keys, pooling blocks, choosing entries.
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
    for (uint32_t r = 0; r < n; r++) {
        matrix_decode(&p->bias, r, 0, p->dim, cpu->bias + (size_t)r * p->dim);
        if (p->overlap)
            matrix_decode(&p->bias, r, p->dim, p->dim, cpu->bias + (size_t)(n + r) * p->dim);
    }
    cpu_each(cpu, p->count, (uint64_t)n * p->dim * 4, pool_item, &t);
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

/* Rows are scored in groups, as a key then is unpacked once for all of them. Of many rows a group is one worker's; of
 * few all workers score one group after another, KEYS_OF_ITEM keys an item, in the first one's room. CHOOSING: cost of
 * ranking a score. */
enum { KEYS_OF_ITEM = 512, CHOOSING = 16 };

struct selection {
    struct cpu *cpu;
    const struct device_select *s;
    uint32_t group;       /* most rows of one, where each is one worker's */
    uint64_t first, rows; /* of the group that all score: only those that have entries to choose among */
};

static uint64_t complete(const struct device_select *s, uint64_t row) {
    return (s->first + row + 1) / s->ratio;
}

/* First of rows [row, to) that has entries to choose among; to: none has. */
static uint64_t first_choosing(const struct device_select *s, uint64_t row, uint64_t to) {
    while (row < to && complete(s, row) <= s->top)
        row++;
    return row;
}

/* Scores of rows [row, row + rows) for keys [from, from + count); rows are as far apart as the room for scores. */
static void score(const struct selection *t, struct cpu_worker *worker, uint64_t row, uint64_t rows, uint64_t from,
                  uint64_t count, float *scores) {
    const struct device_select *s = t->s;
    const struct kernel_table *k = &t->cpu->kernels;
    const float *q = s->q + row * s->heads * s->format.dim, *w = s->w + row * s->heads;
    const size_t ld = t->cpu->limits.scored;
    for (uint64_t left; count; from += left, count -= left, scores += left) {
        const uint8_t *keys = device_page_row(&s->keys, from, row_bytes(&s->format), &left);
        left = min_u64(left, count);
        if (s->bf16)
            k->index_scores_bf16(q, w, (uint32_t)rows, s->heads, &s->format, keys, (uint32_t)left, scores, ld,
                                 worker->scratch);
        else
            k->index_scores(q, w, (uint32_t)rows, s->heads, &s->format, keys, (uint32_t)left, scores, ld);
    }
}

/* The k-th smallest of worker->ranks [n]; they are distinct. */
static uint64_t rank_limit(struct cpu_worker *worker, uint64_t n, uint64_t k) {
    uint64_t limit = 0;
    memcpy(worker->order, worker->ranks, n * sizeof(*worker->order));
    select_smallest(worker->order, n, k);
    for (uint64_t i = 0; i < k; i++)
        limit = max_u64(limit, worker->order[i]);
    return limit;
}

/* chosen and count of a row; scores: of all its entries, if it has more than may be chosen. */
static void choose_entries(const struct device_select *s, struct cpu_worker *worker, uint64_t row,
                           const float *scores) {
    uint64_t n = complete(s, row), limit = UINT64_MAX;
    int32_t *chosen = s->chosen + row * s->top, count = 0;
    if (n > s->top) {
        for (uint64_t i = 0; i < n; i++) {
            worker->not_finite |= !isfinite(scores[i]);
            worker->ranks[i] = rank_key(scores[i], (uint32_t)i);
        }
        limit = rank_limit(worker, n, s->top);
    }
    for (uint64_t i = 0; i < n; i++)
        if (n <= s->top || worker->ranks[i] <= limit)
            chosen[count++] = (int32_t)i;
    s->counts[row] = count;
}

/* A group, by one worker. */
static void select_item(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct selection *t = context;
    const struct device_select *s = t->s;
    uint64_t row = i * t->group, end = min_u64(row + t->group, s->rows), from = first_choosing(s, row, end);
    if (from < end)
        score(t, worker, from, end - from, 0, complete(s, end - 1), worker->scores);
    for (; row < end; row++)
        choose_entries(s, worker, row, row < from ? NULL : worker->scores + (row - from) * t->cpu->limits.scored);
}

/* Some keys, for the group that all score. */
static void score_item(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct selection *t = context;
    uint64_t from = i * KEYS_OF_ITEM, n = complete(t->s, t->first + t->rows - 1);
    score(t, worker, t->first, t->rows, from, min_u64(KEYS_OF_ITEM, n - from), t->cpu->workers[0].scores + from);
}

static void choose_item(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct selection *t = context;
    choose_entries(t->s, worker, t->first + i, t->cpu->workers[0].scores + i * t->cpu->limits.scored);
}

/* Rows of a group of many rows: groups are alike, and as many for each worker. */
static uint32_t group_of(const struct cpu *cpu, uint32_t rows) {
    uint64_t groups = ceil_div(ceil_div(rows, SELECT_ROWS), cpu->worker_count) * cpu->worker_count;
    return (uint32_t)ceil_div(rows, groups);
}

void cpu_select(struct device *d, const struct device_select *s) {
    struct cpu *cpu = cpu_of(d);
    struct selection t = {.cpu = cpu, .s = s};
    uint64_t n = complete(s, s->rows - 1), cost = (uint64_t)s->heads * s->format.dim / 8;
    if (s->rows >= cpu->worker_count || n <= s->top) {
        t.group = group_of(cpu, s->rows);
        cpu_each(cpu, ceil_div(s->rows, t.group), t.group * (n <= s->top ? n : n * cost), select_item, &t);
        return;
    }
    for (t.first = 0; t.first < s->rows; t.first += t.rows) {
        uint64_t end = min_u64(t.first + SELECT_ROWS, s->rows), from = first_choosing(s, t.first, end);
        for (; t.first < from; t.first++)
            choose_entries(s, &cpu->workers[0], t.first, NULL);
        t.rows = end - from;
        if (!t.rows)
            continue;
        n = complete(s, end - 1);
        cpu_each(cpu, ceil_div(n, KEYS_OF_ITEM), KEYS_OF_ITEM * t.rows * cost, score_item, &t);
        cpu_each(cpu, t.rows, n * CHOOSING, choose_item, &t);
    }
}
