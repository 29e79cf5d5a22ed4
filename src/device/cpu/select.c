/*
 * select.c - the indexer's choice: which entries, and which blocks of them, score highest for each token.
 *
 * Entries are scored by the kernels in long runs of keys. Of two levels the first scores all entries like any other
 * choice and keeps blocks besides; the second scores, token by token, only what lies in them.
 */
#include <math.h>

#include "device/cpu/cpu_internal.h"

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
 * few all workers score one group after another, KEYS_OF_ITEM keys (or BLOCKS_OF_ITEM blocks) an item, in the first
 * one's room. CHOOSING: cost of ranking a score. */
enum { KEYS_OF_ITEM = 512, BLOCKS_OF_ITEM = 64, CHOOSING = 16 };

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

/* score() of `count` keys that lie one after another, each number on the way rounded to bf16. */
static void score_rounded(const struct device_select *s, struct cpu_worker *worker, uint64_t row, uint64_t rows,
                          const uint8_t *keys, uint64_t count, float *scores, size_t ld) {
    uint32_t dim = s->format.dim;
    for (uint64_t i = 0; i < count; i++, keys += row_bytes(&s->format)) {
        row_decode(&s->format, keys, 0, dim, worker->vector);
        for (uint64_t r = row; r < row + rows; r++) {
            const float *q = s->q + r * s->heads * dim, *w = s->w + r * s->heads;
            float sum = 0;
            for (uint32_t h = 0; h < s->heads; h++, q += dim) {
                float dot = 0;
                for (uint32_t c = 0; c < dim; c++)
                    dot += q[c] * worker->vector[c];
                dot = bf16_round(dot);
                sum += bf16_round(dot > 0 || isnan(dot) ? dot * w[h] : 0);
            }
            scores[(r - row) * ld + i] = bf16_round(sum);
        }
    }
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
        if (s->round)
            score_rounded(s, worker, row, rows, keys, left, scores, ld);
        else if (s->bf16)
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

/* worker->ranks [n] of scores, by their place. */
static void rank(struct cpu_worker *worker, const float *scores, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        worker->not_finite |= !isfinite(scores[i]);
        worker->ranks[i] = rank_key(scores[i], (uint32_t)i);
    }
}

/* The blocks of a row whose entries are scored, which are more than are kept. */
static void choose_blocks(const struct device_select *s, struct cpu_worker *worker, uint64_t row, const float *scores) {
    uint64_t n = complete(s, row), blocks = ceil_div(n, s->block), kept = 0;
    for (uint64_t b = 0; b < blocks; b++) {
        float best = scores[b * s->block];
        for (uint64_t i = b * s->block; i < min_u64(n, (b + 1) * s->block); i++)
            best = fmaxf(best, scores[i]);
        worker->ranks[b] = rank_key(b + 1 < blocks ? best : INFINITY, (uint32_t)b);
    }
    uint64_t limit = rank_limit(worker, blocks, s->most_blocks);
    for (uint64_t b = 0; b < blocks; b++)
        if (worker->ranks[b] <= limit)
            s->blocks[row * s->most_blocks + kept++] = (int32_t)b;
    s->block_counts[row] = (int32_t)kept;
}

/* All blocks of a row. */
static void keep_blocks(const struct device_select *s, uint64_t row, uint64_t blocks) {
    for (uint64_t b = 0; b < blocks; b++)
        s->blocks[row * s->most_blocks + b] = (int32_t)b;
    s->block_counts[row] = (int32_t)blocks;
}

/* What a row chooses; scores: of all its entries, if it has more than may be chosen. */
static void choose_entries(const struct device_select *s, struct cpu_worker *worker, uint64_t row,
                           const float *scores) {
    uint64_t n = complete(s, row), limit = UINT64_MAX;
    int32_t *chosen = s->chosen + row * s->top, count = 0;
    if (n > s->top) {
        rank(worker, scores, n);
        limit = rank_limit(worker, n, s->top);
    }
    for (uint64_t i = 0; i < n; i++)
        if (n <= s->top || worker->ranks[i] <= limit)
            chosen[count++] = (int32_t)i;
    s->counts[row] = count;
    if (!s->blocks)
        return;
    if (ceil_div(n, s->block) <= s->most_blocks)
        keep_blocks(s, row, ceil_div(n, s->block));
    else
        choose_blocks(s, worker, row, scores);
}

/* ----------------------------------------------------------------------------------- within blocks */

/* Entries of the first `count` blocks of a row: all are whole but that of the newest entry. */
static uint64_t entries_of(const struct device_select *s, uint64_t row, uint64_t count) {
    const int32_t *blocks = s->blocks + row * s->most_blocks;
    uint64_t n = complete(s, row);
    return count ? (count - 1) * s->block + min_u64(s->block, n - (uint64_t)blocks[count - 1] * s->block) : 0;
}

/* Scores of what lies in blocks [from, to) of a row's, `n` entries in all; scores: of the first of its blocks. */
static void score_blocks(const struct selection *t, struct cpu_worker *worker, uint64_t row, uint64_t from, uint64_t to,
                         uint64_t n, float *scores) {
    const struct device_select *s = t->s;
    const int32_t *blocks = s->blocks + row * s->most_blocks;
    for (uint64_t i = from; i < to; i++)
        score(t, worker, row, 1, (uint64_t)blocks[i] * s->block, min_u64(s->block, n - i * s->block),
              scores + i * s->block);
}

/* What a row chooses of the n entries in its blocks; scores: if these are more than may be chosen. */
static void choose_within(const struct device_select *s, struct cpu_worker *worker, uint64_t row, uint64_t n,
                          const float *scores) {
    const int32_t *blocks = s->blocks + row * s->most_blocks;
    int32_t *chosen = s->chosen + row * s->top, kept = 0;
    uint64_t limit = UINT64_MAX;
    if (n > s->top) {
        rank(worker, scores, n);
        limit = rank_limit(worker, n, s->top);
    }
    for (uint64_t i = 0; i < n; i++)
        if (n <= s->top || worker->ranks[i] <= limit)
            chosen[kept++] = (int32_t)((uint64_t)blocks[i / s->block] * s->block + i % s->block);
    s->counts[row] = kept;
}

/* A row, by one worker. */
static void within_item(void *context, struct cpu_worker *worker, uint64_t row) {
    const struct selection *t = context;
    uint64_t count = (uint64_t)t->s->block_counts[row], n = entries_of(t->s, row, count);
    if (n > t->s->top)
        score_blocks(t, worker, row, 0, count, n, worker->scores);
    choose_within(t->s, worker, row, n, worker->scores);
}

/* Some blocks of the row that all score. */
static void score_blocks_item(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct selection *t = context;
    uint64_t count = (uint64_t)t->s->block_counts[t->first], from = i * BLOCKS_OF_ITEM;
    score_blocks(t, worker, t->first, from, min_u64(count, from + BLOCKS_OF_ITEM), entries_of(t->s, t->first, count),
                 t->cpu->workers[0].scores);
}

static void select_within(struct selection *t, uint64_t cost) {
    struct cpu *cpu = t->cpu;
    const struct device_select *s = t->s;
    if (s->rows >= cpu->worker_count) {
        cpu_each(cpu, s->rows, (uint64_t)s->most_blocks * s->block * cost, within_item, t);
        return;
    }
    for (t->first = 0; t->first < s->rows; t->first++) {
        uint64_t count = (uint64_t)s->block_counts[t->first], n = entries_of(s, t->first, count);
        if (n > s->top)
            cpu_each(cpu, ceil_div(count, BLOCKS_OF_ITEM), BLOCKS_OF_ITEM * s->block * cost, score_blocks_item, t);
        choose_within(s, &cpu->workers[0], t->first, n, cpu->workers[0].scores);
    }
}

/* ------------------------------------------------------------------------------------ among all */

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
    if (s->within) {
        select_within(&t, cost);
        return;
    }
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
