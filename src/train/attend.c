/*
 * attend.c - attention over the window and compressed entries, one row for key and value.
 *
 * With s = q . key / sqrt(C) and p = exp(s - log_sum), gradients are
 *
 *     d p[j]    = d_out . key[j]
 *     d s[j]    = p[j] (d p[j] - delta)            delta = sum_j p[j] d p[j] = d_out . out
 *     d q       = sum_j d s[j] key[j] / sqrt(C)
 *     d key[j]  = sum over tokens and heads of p[j] d_out + d s[j] q / sqrt(C)
 *     d sink    = sum over tokens of -exp(sink - log_sum) delta
 *
 * A key is both key and value, so it gets both terms.
 */
#include <string.h>

#include "train/attention_internal.h"
#include "train/lanes_internal.h"
#include "train/tile_internal.h"

struct attend {
    struct team *team;
    const struct attention *a;
    const real *q, *kv, *entry, *sink, *out, *log_sum, *d_out;
    real *to_out, *to_log_sum, *delta, *shares;
    real *d_q, *d_kv, *d_entry, *d_sink;
    uint32_t most; /* keys that a token sees at most */
    real scale;
};

/* A worker's scratch. */
struct room {
    real *w;            /* [2 N, most]: scores, or p and d s behind it */
    const real **keys;  /* [most] */
    real **d_keys;      /* [KEYS] */
    const real **terms; /* [2 N] */
    real **rows;        /* [N] */
};

static bool take_room(const struct attend *x, uint32_t worker, struct room *r) {
    size_t heads = x->a->heads, numbers = 2 * heads * x->most * sizeof(real);
    numbers = ceil_div(numbers, 64) * 64;
    uint8_t *memory = team_scratch(x->team, worker, numbers + (x->most + KEYS + 3 * heads) * sizeof(void *));
    if (!memory)
        return false;
    void **pointers = (void *)(memory + numbers);
    r->w = (void *)memory;
    r->keys = (void *)pointers;
    r->d_keys = (void *)(pointers += x->most);
    r->terms = (void *)(pointers += KEYS);
    r->rows = (void *)(pointers += 2 * heads);
    return true;
}

static struct attend begin(struct team *team, const struct attention *a) {
    uint32_t most = (uint32_t)min_u64(a->window, a->batch->tokens) + (a->entries ? entries_most(a->entries) : 0);
    return (struct attend){
        .team = team, .a = a, .most = (uint32_t)max_u64(most, KEYS), .scale = 1 / r_sqrt((real)a->dim)};
}

/* Pointers to the heads of a token. */
static void heads_of(const struct attend *x, real *rows, uint32_t token, real **list) {
    for (uint32_t h = 0; h < x->a->heads; h++)
        list[h] = rows + ((size_t)token * x->a->heads + h) * x->a->dim;
}

static uint32_t window_begin(const struct attend *x, const struct segment *g, uint32_t token) {
    return token - g->begin >= x->a->window ? token + 1 - x->a->window : g->begin;
}

/* Pointers to `count` of the entries that the token sees, from place `at`. */
static void entry_rows(const struct attend *x, const struct segment *g, uint32_t token, uint32_t at, uint32_t count,
                       const real *entries, const real **rows) {
    const struct entries *e = x->a->entries;
    for (uint32_t i = 0; i < count; i++)
        rows[i] = entries + (size_t)(entries_first(e, g) + entries_at(e, token, at + i)) * x->a->dim;
}

/* All keys of a token: its window, then its entries. Returns how many. */
static uint32_t keys_of(const struct attend *x, const struct segment *g, uint32_t token, const real **keys) {
    uint32_t first = window_begin(x, g, token), window = token + 1 - first, entries = 0;
    for (uint32_t i = 0; i < window; i++)
        keys[i] = x->kv + (size_t)(first + i) * x->a->dim;
    if (x->a->entries) {
        entries = entries_seen(x->a->entries, g, token);
        entry_rows(x, g, token, 0, entries, x->entry, keys + window);
    }
    return window + entries;
}

/* -------------------------------------------------------------------------------------------- forward */

/* Scores of a head to probabilities; returns the logarithm of the denominator. */
static real softmax(real *s, uint32_t n, real scale, real sink) {
    for (uint32_t j = 0; j < n; j++)
        s[j] *= scale;
    const real top = lanes_largest(s, n, sink);
    for (uint32_t j = 0; j < n; j++)
        s[j] = lanes_exp(s[j] - top);
    const real sum = lanes_sum(s, n) + lanes_exp(sink - top);
    for (uint32_t j = 0; j < n; j++)
        s[j] /= sum;
    return top + r_log(sum);
}

static void attend_token(const struct attend *x, const struct segment *g, uint32_t t, const struct room *r) {
    uint32_t heads = x->a->heads, dim = x->a->dim, n = keys_of(x, g, t, r->keys);
    size_t row = (size_t)t * heads;
    REAL(tile_dots)(x->team, x->q + row * dim, heads, r->keys, n, dim, r->w);
    for (uint32_t h = 0; h < heads; h++)
        x->to_log_sum[row + h] = softmax(r->w + (size_t)h * n, n, x->scale, x->sink[h]);
    memset(x->to_out + row * dim, 0, heads * dim * sizeof(real));
    heads_of(x, x->to_out, t, r->rows);
    REAL(tile_mix)(x->team, r->w, n, 1, r->keys, n, dim, heads, r->rows);
}

/* What a pass does with each token of a block. */
static void each_token(struct attend *x, uint32_t worker, size_t block,
                       void (*work)(const struct attend *x, const struct segment *g, uint32_t t,
                                    const struct room *r)) {
    const struct batch *b = x->a->batch;
    struct room r;
    if (take_room(x, worker, &r))
        for (struct walk w = walk_block(b, block); w.token < w.end; walk_on(&w))
            work(x, w.segment, w.token, &r);
}

KERNEL_CLONES static void forward_block(void *context, uint32_t worker, size_t item) {
    each_token(context, worker, item, attend_token);
}

void REAL(attend_forward)(struct team *team, const struct attention *a, const real *q, const real *kv,
                          const real *entry, const real *sink, real *out, real *log_sum) {
    struct attend x = begin(team, a);
    x.q = q;
    x.kv = kv;
    x.entry = entry;
    x.sink = sink;
    x.to_out = out;
    x.to_log_sum = log_sum;
    team_each(team, ceil_div(a->batch->tokens, BLOCK), forward_block, &x);
}

/* ------------------------------------------------------------------------------------------- backward */

/* p [N, n] and d s / sqrt(C) [N, n] behind it, of a token and some of its keys. */
static void slopes(const struct attend *x, uint32_t t, uint32_t n, const struct room *r) {
    uint32_t heads = x->a->heads, dim = x->a->dim;
    size_t row = (size_t)t * heads;
    real *restrict p = r->w, *restrict d = r->w + (size_t)heads * n;
    REAL(tile_dots)(x->team, x->q + row * dim, heads, r->keys, n, dim, p);
    REAL(tile_dots)(x->team, x->d_out + row * dim, heads, r->keys, n, dim, d);
    for (uint32_t h = 0; h < heads; h++, p += n, d += n) {
        real log_sum = x->log_sum[row + h], delta = x->delta[row + h];
        for (uint32_t j = 0; j < n; j++) {
            p[j] = lanes_exp(p[j] * x->scale - log_sum);
            d[j] = p[j] * (d[j] - delta) * x->scale;
        }
    }
}

static void query_token(const struct attend *x, const struct segment *g, uint32_t t, const struct room *r) {
    uint32_t heads = x->a->heads, dim = x->a->dim;
    size_t row = (size_t)t * heads;
    for (uint32_t h = 0; h < heads; h++)
        x->delta[row + h] = lanes_dot(x->d_out + (row + h) * dim, x->out + (row + h) * dim, dim);
    if (!x->d_q)
        return;
    uint32_t n = keys_of(x, g, t, r->keys);
    slopes(x, t, n, r);
    heads_of(x, x->d_q, t, r->rows);
    REAL(tile_mix)(x->team, r->w + (size_t)heads * n, n, 1, r->keys, n, dim, heads, r->rows);
}

KERNEL_CLONES static void query_block(void *context, uint32_t worker, size_t item) {
    each_token(context, worker, item, query_token);
}

static void sink_head(void *context, uint32_t worker, size_t h) {
    const struct attend *x = context;
    real sum = 0;
    (void)worker;
    for (size_t at = h; at < (size_t)x->a->batch->tokens * x->a->heads; at += x->a->heads)
        sum -= lanes_exp(x->sink[h] - x->log_sum[at]) * x->delta[at];
    x->d_sink[h] += sum;
}

/* Adds what the token gives to the gradients of `n` of its keys. */
static void give(const struct attend *x, uint32_t t, uint32_t n, const struct room *r) {
    uint32_t heads = x->a->heads;
    size_t row = (size_t)t * heads;
    slopes(x, t, n, r);
    for (size_t h = 0; h < heads; h++) {
        r->terms[h] = x->d_out + (row + h) * x->a->dim;
        r->terms[heads + h] = x->q + (row + h) * x->a->dim;
    }
    REAL(tile_mix)(x->team, r->w, 1, n, r->terms, 2 * heads, x->a->dim, n, r->d_keys);
}

/* The gradients of KEYS tokens' own keys, from those tokens that have them in their window. */
KERNEL_CLONES static void window_keys(void *context, uint32_t worker, size_t item) {
    const struct attend *x = context;
    const struct batch *b = x->a->batch;
    uint32_t first = (uint32_t)item * KEYS, end = (uint32_t)min_u64(b->tokens, first + KEYS);
    uint32_t stop = (uint32_t)min_u64(b->tokens, (uint64_t)end + x->a->window - 1);
    const struct segment *g = segment_of(b, first);
    struct room r;
    if (!take_room(x, worker, &r))
        return;
    for (uint32_t t = first; t < stop; t++) {
        while (t >= g->begin + g->length)
            g++;
        uint32_t from = (uint32_t)max_u64(first, window_begin(x, g, t)), to = (uint32_t)min_u64(end, t + 1);
        if (from >= to)
            continue;
        for (uint32_t j = from; j < to; j++) {
            r.keys[j - from] = x->kv + (size_t)j * x->a->dim;
            r.d_keys[j - from] = x->d_kv + (size_t)j * x->a->dim;
        }
        give(x, t, to - from, &r);
    }
}

struct giving {
    const struct attend *x;
    struct room r;
};

KERNEL_CLONES static void give_entries(void *context, const struct seer *s) {
    const struct giving *v = context;
    entry_rows(v->x, s->segment, s->token, s->at, s->count, v->x->entry, v->r.keys);
    for (uint32_t i = 0; i < s->count; i++)
        v->r.d_keys[i] = v->x->d_entry + (v->r.keys[i] - v->x->entry);
    give(v->x, s->token, s->count, &v->r);
}

static void entry_keys(void *context, uint32_t worker, size_t item) {
    struct giving v = {.x = context};
    const struct entries *e = v.x->a->entries;
    uint32_t first = (uint32_t)item * KEYS, end = (uint32_t)min_u64(entries_total(e), first + KEYS);
    if (take_room(v.x, worker, &v.r))
        entries_each_seer(e, first, end, give_entries, &v);
}

void REAL(attend_backward)(struct team *team, const struct attention *a, const real *q, const real *kv,
                           const real *entry, const real *sink, const real *out, const real *log_sum, const real *d_out,
                           real *delta, real *d_q, real *d_kv, real *d_entry, real *d_sink) {
    struct attend x = begin(team, a);
    x.q = q;
    x.kv = kv;
    x.entry = entry;
    x.sink = sink;
    x.out = out;
    x.log_sum = log_sum;
    x.d_out = d_out;
    x.delta = delta;
    x.d_q = d_q;
    x.d_kv = d_kv;
    x.d_entry = d_entry;
    x.d_sink = d_sink;
    team_each(team, ceil_div(a->batch->tokens, BLOCK), query_block, &x);
    if (d_sink)
        team_each(team, a->heads, sink_head, &x);
    if (d_kv)
        team_each(team, ceil_div(a->batch->tokens, KEYS), window_keys, &x);
    if (a->entries && d_entry)
        team_each(team, ceil_div(entries_total(a->entries), KEYS), entry_keys, &x);
}

/* --------------------------------------------------------------------------------------------- shares */

static void share_token(const struct attend *x, const struct segment *g, uint32_t t, const struct room *r) {
    uint32_t heads = x->a->heads, dim = x->a->dim, n = entries_seen(x->a->entries, g, t);
    size_t row = (size_t)t * heads;
    real *shares = x->shares + (size_t)t * entries_most(x->a->entries);
    entry_rows(x, g, t, 0, n, x->entry, r->keys);
    REAL(tile_dots)(x->team, x->q + row * dim, heads, r->keys, n, dim, r->w);
    memset(shares, 0, n * sizeof(*shares));
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t j = 0; j < n; j++)
            shares[j] += lanes_exp(r->w[(size_t)h * n + j] * x->scale - x->log_sum[row + h]);
}

KERNEL_CLONES static void share_block(void *context, uint32_t worker, size_t item) {
    each_token(context, worker, item, share_token);
}

void REAL(attend_shares)(struct team *team, const struct attention *a, const real *q, const real *entry,
                         const real *log_sum, real *shares) {
    struct attend x = begin(team, a);
    x.q = q;
    x.entry = entry;
    x.log_sum = log_sum;
    x.shares = shares;
    team_each(team, ceil_div(a->batch->tokens, BLOCK), share_block, &x);
}
