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
 *
 * All of this is products of matrices: rows are the heads of a block of QUERIES tokens, columns the keys that any of
 * them sees, in two groups: tokens' own keys, and entries, of which all that are visible are computed. What a token
 * does not see is masked. Keys are packed once a block.
 *
 * A worker takes a span of blocks at a time, and lays what they give to the gradients of keys aside, in rows of the
 * span's own: the keys of tokens, then the entries. Then each key adds its rows in the order of spans. Spans and blocks
 * begin with their segment.
 */
#include <string.h>

#include "train/attention_internal.h"
#include "train/lanes_internal.h"
#include "train/tile_internal.h"

enum {
    QUERIES = 32,   /* tokens of a block */
    SPANS = 64,     /* of a batch that is one text: many enough for workers, few for what is laid aside */
    HELD = 1 << 16, /* scores that are held at a time, about */
    ROWS = 32       /* but of no fewer rows */
};

/* Tokens of a segment and what any of them sees: the keys of tokens [key, end) and the first `entries` entries. */
struct stretch {
    const struct segment *segment;
    uint32_t first, end, key, entries;
};

struct span {
    struct stretch tokens;
    size_t row; /* the first that is laid aside for it, of end - key + entries */
};

struct attend {
    struct team *team;
    const struct attention *a;
    const real *q, *kv, *entry, *sink, *out, *log_sum, *d_out;
    real *to_out, *to_log_sum, *delta, *shares;
    real *d_q, *d_kv, *d_entry, *d_sink;
    real scale;
    uint32_t span_length, at_once;    /* tokens of a span; tokens whose scores are held at a time */
    uint32_t most_keys, most_entries; /* that a block sees */
    struct span *spans;
    size_t span_count, aside_rows;
    real *aside;    /* [aside_rows, C], where gradients of keys are wanted */
    uint8_t *first; /* worker 0's room */
};

/* A group of the columns. */
struct source {
    const real *x; /* [count, C] */
    real *d_x;     /* what is laid aside for them; NULL: not wanted */
    uint32_t count, column;
    void *rows, *turned; /* right factors, over channels and over keys */
};

/* A worker's scratch. */
struct room {
    struct stretch block;
    struct source sources[2]; /* keys of tokens, entries; without entries count is 0 */
    uint32_t columns;
    real *p, *d;              /* [at_once N, columns]: scores, or probabilities; slopes */
    real *mask;               /* [columns]: 0, or minus infinity */
    void *left, *out, *query; /* a left factor; d_out and q as right factors over rows */
};

/* ----------------------------------------------------------------------------------------------- layout */

static uint32_t window_begin(const struct attend *x, const struct segment *g, uint32_t token) {
    return token - g->begin >= x->a->window ? token + 1 - x->a->window : g->begin;
}

/* Keys begin with a block, so that most blocks see whole panels. */
static struct stretch stretch_of(const struct attend *x, const struct segment *g, uint32_t first, uint32_t end) {
    struct stretch s = {.segment = g, .first = first, .end = end};
    s.key = g->begin + (window_begin(x, g, first) - g->begin) / QUERIES * QUERIES;
    s.entries = x->a->entries ? entries_visible(x->a->entries, g, end - 1) : 0;
    return s;
}

/* Counts spans and rows, and writes the spans where there are to be any. */
static void lay_spans(struct attend *x) {
    const struct batch *b = x->a->batch;
    x->span_count = x->aside_rows = 0;
    for (const struct segment *g = b->segments; g < b->segments + b->segment_count; g++) {
        const uint32_t end = g->begin + g->length;
        for (uint32_t t = g->begin, next; t < end; t = next) {
            next = (uint32_t)min_u64(end, (uint64_t)t + x->span_length);
            struct span s = {stretch_of(x, g, t, next), x->aside_rows};
            if (x->spans)
                x->spans[x->span_count] = s;
            x->span_count++;
            x->aside_rows += s.tokens.end - s.tokens.key + s.tokens.entries;
        }
    }
}

/* The next `bytes` of memory, or of none; *at counts them. */
static void *carve(uint8_t *memory, size_t *at, size_t bytes) {
    void *piece = memory ? memory + *at : NULL;
    *at += ceil_div(bytes, 64) * 64;
    return piece;
}

static size_t lay_room(const struct attend *x, uint8_t *memory, struct room *r) {
    const size_t rows = (size_t)x->at_once * x->a->heads, dim = x->a->dim;
    const uint32_t most[2] = {x->most_keys, x->most_entries};
    size_t at = 0, columns = (size_t)x->most_keys + x->most_entries;
    *r = (struct room){0};
    r->p = carve(memory, &at, rows * columns * sizeof(real));
    r->d = carve(memory, &at, rows * columns * sizeof(real));
    r->mask = carve(memory, &at, columns * sizeof(real));
    r->left = carve(memory, &at, REAL(tile_bytes)(rows, max_u64(dim, max_u64(most[0], most[1]))));
    r->out = carve(memory, &at, REAL(tile_bytes)(dim, rows));
    r->query = carve(memory, &at, REAL(tile_bytes)(dim, rows));
    for (int i = 0; i < 2; i++) {
        r->sources[i].rows = carve(memory, &at, REAL(tile_bytes)(most[i], dim));
        r->sources[i].turned = carve(memory, &at, REAL(tile_bytes)(dim, most[i]));
    }
    return at;
}

/* Worker 0's scratch is what all of them share, and its room. */
static bool begin(struct attend *x, bool aside) {
    const struct attention *a = x->a;
    struct entries all = {0};
    struct room r;
    if (a->entries)
        all = *a->entries;
    all.top = 0;
    x->scale = 1 / r_sqrt((real)a->dim);
    x->most_keys = (uint32_t)min_u64(a->batch->tokens, (uint64_t)a->window + 2 * QUERIES);
    x->most_entries = a->entries ? entries_most(&all) : 0;
    const uint64_t row = (uint64_t)max_u64(1, x->most_keys + (uint64_t)x->most_entries) * a->heads;
    x->at_once = (uint32_t)min_u64(QUERIES, max_u64(HELD / row, ceil_div(ROWS, a->heads)));
    x->span_length = (uint32_t)(ceil_div(ceil_div(a->batch->tokens, SPANS), QUERIES) * QUERIES);
    lay_spans(x);
    size_t at = 0, spans = x->span_count * sizeof(*x->spans);
    size_t rows = aside ? x->aside_rows * a->dim * sizeof(real) : 0;
    carve(NULL, &at, spans);
    carve(NULL, &at, rows);
    uint8_t *memory = team_scratch(x->team, 0, at + lay_room(x, NULL, &r));
    if (!memory)
        return false;
    at = 0;
    x->spans = carve(memory, &at, spans);
    x->aside = carve(memory, &at, rows);
    x->first = memory + at;
    lay_spans(x);
    return true;
}

/* --------------------------------------------------------------------------------------------- products */

static void pack(const struct attend *x, const real *from, size_t ld, int how, uint32_t rows, uint32_t depth,
                 void *to) {
    REAL(tile_pack)(x->team, x->a->exact, from, ld, how, rows, depth, to);
}

static void multiply(const struct attend *x, const void *left, const void *right, uint32_t rows, uint32_t cols,
                     uint32_t depth, bool add, real *c, size_t ldc) {
    REAL(tile_product)(x->team, x->a->exact, left, right, rows, cols, depth, add, c, ldc);
}

/* to [rows, columns] = a [rows, C] times the keys. */
static void dots(const struct attend *x, const struct room *r, const real *a, uint32_t rows, real *to) {
    pack(x, a, x->a->dim, 0, rows, x->a->dim, r->left);
    for (const struct source *s = r->sources; s < r->sources + 2; s++)
        if (s->count)
            multiply(x, r->left, s->rows, rows, s->count, x->a->dim, false, to + s->column, r->columns);
}

/* to [rows, C] (+)= w [rows, columns] times the keys. */
static void mix(const struct attend *x, const struct room *r, const real *w, uint32_t rows, bool add, real *to) {
    for (const struct source *s = r->sources; s < r->sources + 2; s++)
        if (s->count) {
            pack(x, w + s->column, r->columns, 0, rows, s->count, r->left);
            multiply(x, r->left, s->turned, rows, x->a->dim, s->count, add || s > r->sources, to, x->a->dim);
        }
}

/* What is laid aside for the keys += w [rows, columns] turned, times a right factor [rows, C]. */
static void give(const struct attend *x, const struct room *r, const real *w, uint32_t rows, const void *right) {
    for (const struct source *s = r->sources; s < r->sources + 2; s++)
        if (s->count && s->d_x) {
            pack(x, w + s->column, r->columns, KERNEL_TURNED, s->count, rows, r->left);
            multiply(x, r->left, right, s->count, x->a->dim, rows, true, s->d_x, x->a->dim);
        }
}

/* ----------------------------------------------------------------------------------------------- blocks */

static void pack_source(const struct attend *x, struct source *s) {
    if (!s->count)
        return;
    pack(x, s->x, x->a->dim, KERNEL_RIGHT, s->count, x->a->dim, s->rows);
    if (!x->shares)
        pack(x, s->x, x->a->dim, KERNEL_RIGHT | KERNEL_TURNED, x->a->dim, s->count, s->turned);
}

/* The columns of a block. */
static void open_block(const struct attend *x, const struct stretch *block, struct room *r) {
    struct source *own = &r->sources[0], *entries = &r->sources[1];
    r->block = *block;
    own->x = x->kv ? x->kv + (size_t)block->key * x->a->dim : NULL;
    own->count = x->kv ? block->end - block->key : 0;
    entries->count = block->entries;
    entries->column = own->count;
    if (entries->count)
        entries->x = x->entry + (size_t)entries_first(x->a->entries, block->segment) * x->a->dim;
    r->columns = own->count + entries->count;
    pack_source(x, own);
    pack_source(x, entries);
}

/* Where a block of the span lays the gradients of its keys. */
static void open_aside(const struct attend *x, const struct span *s, struct room *r) {
    real *rows = x->aside + s->row * x->a->dim;
    r->sources[0].d_x = x->d_kv ? rows + (size_t)(r->block.key - s->tokens.key) * x->a->dim : NULL;
    r->sources[1].d_x = x->d_entry ? rows + (size_t)(s->tokens.end - s->tokens.key) * x->a->dim : NULL;
}

/* What a pass does with the tokens of a span, blocks of them in order, as many at a time as are held. */
static void each_block(const struct attend *x, uint32_t worker, const struct span *s,
                       void (*work)(const struct attend *x, uint32_t t, uint32_t count, const struct room *r)) {
    struct room r;
    uint8_t *memory = worker ? team_scratch(x->team, worker, lay_room(x, NULL, &r)) : x->first;
    if (!memory)
        return;
    lay_room(x, memory, &r);
    for (uint32_t t = s->tokens.first, end; t < s->tokens.end; t = end) {
        end = (uint32_t)min_u64(s->tokens.end, (uint64_t)t + QUERIES);
        struct stretch block = stretch_of(x, s->tokens.segment, t, end);
        open_block(x, &block, &r);
        if (x->aside)
            open_aside(x, s, &r);
        for (uint32_t at = t; at < end; at += x->at_once)
            work(x, at, (uint32_t)min_u64(x->at_once, end - at), &r);
    }
}

/* What is added to the scores of a token: minus infinity for what it does not see. */
static void mask_of(const struct attend *x, uint32_t t, const struct room *r) {
    const struct entries *e = x->a->entries;
    const struct segment *g = r->block.segment;
    real *entries = r->mask + r->sources[1].column;
    for (uint32_t j = 0; j < r->columns; j++)
        r->mask[j] = -(real)INFINITY;
    for (uint32_t key = window_begin(x, g, t); key <= t; key++)
        r->mask[key - r->block.key] = 0;
    const uint32_t seen = e ? entries_seen(e, g, t) : 0;
    for (uint32_t i = 0; i < seen; i++)
        entries[entries_at(e, t, i)] = 0;
}

/* -------------------------------------------------------------------------------------------- forward */

/* Scores of a head to probabilities; returns the logarithm of the denominator. */
static real softmax(real *restrict s, const real *restrict mask, uint32_t n, real scale, real sink) {
    for (uint32_t j = 0; j < n; j++)
        s[j] = s[j] * scale + mask[j];
    const real top = lanes_largest(s, n, sink);
    for (uint32_t j = 0; j < n; j++)
        s[j] = lanes_exp(s[j] - top);
    const real sum = lanes_sum(s, n) + lanes_exp(sink - top), part = 1 / sum;
    for (uint32_t j = 0; j < n; j++)
        s[j] *= part;
    return top + r_log(sum);
}

static void attend_tokens(const struct attend *x, uint32_t t, uint32_t count, const struct room *r) {
    const uint32_t heads = x->a->heads;
    const size_t row = (size_t)t * heads;
    real *s = r->p;
    dots(x, r, x->q + row * x->a->dim, count * heads, r->p);
    for (uint32_t i = 0; i < count; i++) {
        mask_of(x, t + i, r);
        for (uint32_t h = 0; h < heads; h++, s += r->columns)
            x->to_log_sum[row + i * heads + h] = softmax(s, r->mask, r->columns, x->scale, x->sink[h]);
    }
    mix(x, r, r->p, count * heads, false, x->to_out + row * x->a->dim);
}

KERNEL_CLONES static void forward_span(void *context, uint32_t worker, size_t item) {
    const struct attend *x = context;
    each_block(x, worker, &x->spans[item], attend_tokens);
}

void REAL(attend_forward)(struct team *team, const struct attention *a, const real *q, const real *kv,
                          const real *entry, const real *sink, real *out, real *log_sum) {
    struct attend x = {.team = team, .a = a, .q = q, .kv = kv, .entry = entry, .sink = sink};
    x.to_out = out;
    x.to_log_sum = log_sum;
    if (begin(&x, false))
        team_each(team, x.span_count, forward_span, &x);
}

/* ------------------------------------------------------------------------------------------- backward */

/* Of a head: p from scores and d s / sqrt(C) from d p. */
static void slopes(real *restrict p, real *restrict d, const real *restrict mask, uint32_t n, real scale, real log_sum,
                   real delta) {
    for (uint32_t j = 0; j < n; j++) {
        p[j] = lanes_exp(p[j] * scale + mask[j] - log_sum);
        d[j] = p[j] * (d[j] - delta) * scale;
    }
}

static void slope_tokens(const struct attend *x, uint32_t t, uint32_t count, const struct room *r) {
    const uint32_t heads = x->a->heads, dim = x->a->dim, rows = count * heads;
    const size_t row = (size_t)t * heads;
    const real *q = x->q + row * dim, *d_out = x->d_out + row * dim;
    real *p = r->p, *d = r->d;
    for (size_t i = row; i < row + rows; i++)
        x->delta[i] = lanes_dot(x->d_out + i * dim, x->out + i * dim, dim);
    dots(x, r, q, rows, r->p);
    dots(x, r, d_out, rows, r->d);
    for (uint32_t i = 0; i < rows; i++, p += r->columns, d += r->columns) {
        if (i % heads == 0)
            mask_of(x, t + i / heads, r);
        slopes(p, d, r->mask, r->columns, x->scale, x->log_sum[row + i], x->delta[row + i]);
    }
    if (x->d_q)
        mix(x, r, r->d, rows, true, x->d_q + row * dim);
    if (!x->aside)
        return;
    pack(x, d_out, dim, KERNEL_RIGHT | KERNEL_TURNED, dim, rows, r->out);
    pack(x, q, dim, KERNEL_RIGHT | KERNEL_TURNED, dim, rows, r->query);
    give(x, r, r->p, rows, r->out);
    give(x, r, r->d, rows, r->query);
}

KERNEL_CLONES static void backward_span(void *context, uint32_t worker, size_t item) {
    const struct attend *x = context;
    const struct span *s = &x->spans[item];
    if (x->aside)
        memset(x->aside + s->row * x->a->dim, 0,
               ((size_t)s->tokens.end - s->tokens.key + s->tokens.entries) * x->a->dim * sizeof(real));
    each_block(x, worker, s, slope_tokens);
}

/* Adds rows [first, end), of which `aside` holds [from, to). */
static void add_rows(real *sums, uint32_t first, uint32_t end, const real *aside, uint32_t from, uint32_t to,
                     size_t dim) {
    const uint32_t low = first > from ? first : from, high = end < to ? end : to;
    if (low < high)
        lanes_axpy(sums + low * dim, 1, aside + (low - from) * dim, (high - low) * dim);
}

/* The gradients of a span's tokens and of the entries that end in it: it and spans behind it have seen them. */
KERNEL_CLONES static void sum_span(void *context, uint32_t worker, size_t item) {
    const struct attend *x = context;
    const struct span *s = &x->spans[item], *end = x->spans + x->span_count;
    const struct segment *g = s->tokens.segment;
    const size_t dim = x->a->dim;
    const uint32_t before = s->tokens.first > g->begin ? s[-1].tokens.entries : 0;
    (void)worker;
    for (const struct span *from = s; from < end && from->tokens.segment == g; from++) {
        const real *aside = x->aside + from->row * dim;
        const struct stretch *seen = &from->tokens;
        if (x->d_kv)
            add_rows(x->d_kv, s->tokens.first, s->tokens.end, aside, seen->key, seen->end, dim);
        if (x->d_entry && s->tokens.entries > before)
            add_rows(x->d_entry + entries_first(x->a->entries, g) * dim, before, s->tokens.entries,
                     aside + (seen->end - seen->key) * dim, 0, seen->entries, dim);
    }
}

static void sink_head(void *context, uint32_t worker, size_t h) {
    const struct attend *x = context;
    real sum = 0;
    (void)worker;
    for (size_t at = h; at < (size_t)x->a->batch->tokens * x->a->heads; at += x->a->heads)
        sum -= lanes_exp(x->sink[h] - x->log_sum[at]) * x->delta[at];
    x->d_sink[h] += sum;
}

void REAL(attend_backward)(struct team *team, const struct attention *a, const real *q, const real *kv,
                           const real *entry, const real *sink, const real *out, const real *log_sum, const real *d_out,
                           real *delta, real *d_q, real *d_kv, real *d_entry, real *d_sink) {
    struct attend x = {.team = team, .a = a, .q = q, .kv = kv, .entry = entry, .sink = sink};
    x.out = out;
    x.log_sum = log_sum;
    x.d_out = d_out;
    x.delta = delta;
    x.d_q = d_q;
    x.d_kv = d_kv;
    x.d_entry = a->entries ? d_entry : NULL;
    x.d_sink = d_sink;
    const bool aside = x.d_kv || x.d_entry;
    if (!begin(&x, aside))
        return;
    team_each(team, x.span_count, backward_span, &x);
    if (aside)
        team_each(team, x.span_count, sum_span, &x);
    if (d_sink)
        team_each(team, a->heads, sink_head, &x);
}

/* --------------------------------------------------------------------------------------------- shares */

/* Leaves the scores of a token's entries in the order in which they are seen. */
static void gather(const struct entries *e, uint32_t t, uint32_t seen, real *s) {
    for (uint32_t i = 0; i < seen; i++)
        s[i] = s[entries_at(e, t, i)];
}

static void share_tokens(const struct attend *x, uint32_t t, uint32_t count, const struct room *r) {
    const struct entries *e = x->a->entries;
    const uint32_t heads = x->a->heads;
    const real *log_sum = x->log_sum + (size_t)t * heads;
    real *s = r->p;
    dots(x, r, x->q + (size_t)t * heads * x->a->dim, count * heads, r->p);
    for (uint32_t end = t + count; t < end; t++) {
        const uint32_t seen = entries_seen(e, r->block.segment, t);
        real *restrict shares = x->shares + (size_t)t * entries_most(e);
        memset(shares, 0, seen * sizeof(*shares));
        for (uint32_t h = 0; h < heads; h++, s += r->columns, log_sum++) {
            if (seen < entries_visible(e, r->block.segment, t))
                gather(e, t, seen, s);
            for (uint32_t i = 0; i < seen; i++)
                shares[i] += lanes_exp(s[i] * x->scale - *log_sum);
        }
    }
}

KERNEL_CLONES static void share_span(void *context, uint32_t worker, size_t item) {
    const struct attend *x = context;
    each_block(x, worker, &x->spans[item], share_tokens);
}

void REAL(attend_shares)(struct team *team, const struct attention *a, const real *q, const real *entry,
                         const real *log_sum, real *shares) {
    struct attend x = {.team = team, .a = a, .q = q, .entry = entry, .log_sum = log_sum, .shares = shares};
    if (begin(&x, false))
        team_each(team, x.span_count, share_span, &x);
}
