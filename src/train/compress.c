/*
 * compress.c - gated pooling of blocks of tokens into entries.
 *
 * Channels have nothing to do with each other, so work is shared by channels: a worker takes a few of them through all
 * blocks in order, and so the gradient of ape, a sum over blocks, needs no partial sums. Each number of kv and score
 * belongs to one entry at most: the first half of a row to the entry after its own, the second half to its own.
 */
#include "train/attention_internal.h"
#include "train/lanes_internal.h"

enum { CHANNELS = 16 };

struct pooling {
    struct team *team;
    const struct entries *e;
    uint32_t dim, width;
    const real *kv, *score, *ape;
    real *entry; /* forward only; the rest backward only */
    const real *d_entry;
    real *d_kv, *d_score, *d_ape;
};

/* The rows of an entry: `count` from `token` on, the first of them at place `place` of twice the ratio; its places
 * below the ratio are the block before, where blocks overlap. */
struct rows {
    size_t token;
    uint32_t place, count;
};

static struct rows rows_of(const struct pooling *p, const struct segment *g, uint32_t entry) {
    uint32_t ratio = p->e->ratio, own = g->begin + entry * ratio;
    bool before = p->width > p->dim && entry > 0;
    return before ? (struct rows){own - ratio, 0, 2 * ratio} : (struct rows){own, ratio, ratio};
}

/* Where a row's channels lie in ape, from the first of the entry's on; in kv and score it is column() likewise. */
static size_t column(const struct pooling *p, uint32_t place) {
    return p->width > p->dim && place >= p->e->ratio ? p->dim : 0;
}
static size_t ape_at(const struct pooling *p, uint32_t place) {
    return (size_t)(place % p->e->ratio) * p->width + column(p, place);
}
static size_t row_at(const struct pooling *p, const struct rows *r, uint32_t i) {
    return (r->token + i) * p->width + column(p, r->place + i);
}

/* weights[r][j] = softmax over the rows of channel first + j. */
static void weigh(const struct pooling *p, const struct rows *r, size_t first, size_t n, real (*weights)[CHANNELS]) {
    real top[CHANNELS], sum[CHANNELS] = {0};
    for (size_t j = 0; j < n; j++)
        top[j] = -(real)INFINITY;
    for (uint32_t i = 0; i < r->count; i++) {
        const real *restrict score = p->score + row_at(p, r, i) + first;
        const real *restrict ape = p->ape + ape_at(p, r->place + i) + first;
        real *restrict w = weights[i];
        for (size_t j = 0; j < n; j++) {
            w[j] = score[j] + ape[j];
            top[j] = w[j] > top[j] ? w[j] : top[j];
        }
    }
    for (uint32_t i = 0; i < r->count; i++) {
        real *restrict w = weights[i];
        for (size_t j = 0; j < n; j++) {
            w[j] = lanes_exp(w[j] - top[j]);
            sum[j] += w[j];
        }
    }
    for (uint32_t i = 0; i < r->count; i++)
        for (size_t j = 0; j < n; j++)
            weights[i][j] /= sum[j];
}

static void pool_rows(const struct pooling *p, const struct rows *r, size_t first, size_t n, real (*weights)[CHANNELS],
                      real *out) {
    for (size_t j = 0; j < n; j++)
        out[j] = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        const real *kv = p->kv + row_at(p, r, i) + first;
        for (size_t j = 0; j < n; j++)
            out[j] += weights[i][j] * kv[j];
    }
}

/* to += x, where to is wanted. */
static void add(real *restrict to, const real *restrict x, size_t n) {
    if (to)
        for (size_t j = 0; j < n; j++)
            to[j] += x[j];
}

static real *from(real *x, size_t at) {
    return x ? x + at : NULL;
}

/* Gradients through one entry: d kv = w g, d score = d ape = w g (kv - pooled). */
static void spread(const struct pooling *p, const struct rows *r, size_t first, size_t n, real (*weights)[CHANNELS],
                   const real *g) {
    real pooled[CHANNELS], value[CHANNELS], slope[CHANNELS];
    pool_rows(p, r, first, n, weights, pooled);
    for (uint32_t i = 0; i < r->count; i++) {
        size_t at = row_at(p, r, i) + first, ape = ape_at(p, r->place + i) + first;
        for (size_t j = 0; j < n; j++) {
            value[j] = weights[i][j] * g[j];
            slope[j] = value[j] * (p->kv[at + j] - pooled[j]);
        }
        add(from(p->d_kv, at), value, n);
        add(from(p->d_score, at), slope, n);
        add(from(p->d_ape, ape), slope, n);
    }
}

/* The channels of an item through all entries. */
KERNEL_CLONES static void channels(void *context, uint32_t worker, size_t item) {
    const struct pooling *p = context;
    const struct batch *b = p->e->batch;
    size_t first = item * CHANNELS, n = min_u64(CHANNELS, p->dim - first);
    real(*weights)[CHANNELS] = team_scratch(p->team, worker, 2 * (size_t)p->e->ratio * sizeof(*weights));
    if (!weights)
        return;
    for (const struct segment *g = b->segments; g < b->segments + b->segment_count; g++)
        for (uint32_t i = 0; i < g->length / p->e->ratio; i++) {
            struct rows r = rows_of(p, g, i);
            size_t at = (size_t)(entries_first(p->e, g) + i) * p->dim + first;
            weigh(p, &r, first, n, weights);
            if (p->entry)
                pool_rows(p, &r, first, n, weights, p->entry + at);
            else
                spread(p, &r, first, n, weights, p->d_entry + at);
        }
}

void REAL(compress_forward)(struct team *team, const struct entries *e, uint32_t dim, const real *kv, const real *score,
                            const real *ape, real *entry) {
    struct pooling p = {team,           e,          dim,           compress_width(e->ratio, dim), .kv = kv,
                        .score = score, .ape = ape, .entry = entry};
    team_each(team, ceil_div(dim, CHANNELS), channels, &p);
}

void REAL(compress_backward)(struct team *team, const struct entries *e, uint32_t dim, const real *kv,
                             const real *score, const real *ape, const real *d_entry, real *d_kv, real *d_score,
                             real *d_ape) {
    struct pooling p = {.team = team,
                        .e = e,
                        .dim = dim,
                        .width = compress_width(e->ratio, dim),
                        .kv = kv,
                        .score = score,
                        .ape = ape,
                        .d_entry = d_entry,
                        .d_kv = d_kv,
                        .d_score = d_score,
                        .d_ape = d_ape};
    team_each(team, ceil_div(dim, CHANNELS), channels, &p);
}
