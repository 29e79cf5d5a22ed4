/*
 * index.c - the lightning indexer: scores of entries, the choice of the best, and its loss.
 *
 * Scores are made token by token and never kept. What is kept between loss and backward pass is the loss's gradient by
 * the score of each entry seen.
 */
#include <string.h>

#include "train/attention_internal.h"
#include "train/lanes_internal.h"
#include "train/tile_internal.h"

enum { COLUMNS = 64 }; /* entries that are scored at a time */

struct index {
    struct team *team;
    const struct indexer *ix;
    const real *q, *w, *k, *slopes;
    real *shares, *losses;
    real *d_q, *d_w, *d_k;
    uint32_t most; /* entries that a token sees at most, or may choose from */
    uint32_t tokens;
    real factor;
};

/* A worker's scratch. */
struct room {
    real *scores, *others; /* [most] */
    real *dots;            /* [heads, COLUMNS] */
    const real **keys;     /* [COLUMNS] */
    const real **terms;    /* [heads] */
    real **rows;           /* [heads + KEYS] */
};

static bool take_room(const struct index *x, uint32_t worker, struct room *r) {
    size_t heads = x->ix->heads, numbers = (2 * (size_t)x->most + heads * COLUMNS) * sizeof(real);
    numbers = ceil_div(numbers, 64) * 64;
    uint8_t *memory = team_scratch(x->team, worker, numbers + (COLUMNS + KEYS + 2 * heads) * sizeof(void *));
    if (!memory)
        return false;
    void **pointers = (void *)(memory + numbers);
    r->scores = (void *)memory;
    r->others = r->scores + x->most;
    r->dots = r->others + x->most;
    r->keys = (void *)pointers;
    r->terms = (void *)(pointers += COLUMNS);
    r->rows = (void *)(pointers += heads);
    return true;
}

static struct index begin(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k) {
    struct entries all = *ix->entries;
    all.top = 0;
    return (struct index){
        .team = team, .ix = ix, .q = q, .w = w, .k = k, .most = (uint32_t)max_u64(1, entries_most(&all))};
}

/* Pointers to the `n` keys from place `at` on, of all visible ones or of those the token sees. */
static void keys_of(const struct index *x, const struct segment *g, uint32_t t, bool visible, uint32_t at, uint32_t n,
                    const real **keys) {
    const struct entries *e = x->ix->entries;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t entry = visible ? at + i : entries_at(e, t, at + i);
        keys[i] = x->k + (size_t)(entries_first(e, g) + entry) * x->ix->dim;
    }
}

static void dots_of(const struct index *x, uint32_t t, uint32_t n, const struct room *r) {
    uint32_t heads = x->ix->heads, dim = x->ix->dim;
    REAL(tile_dots)(x->team, x->q + (size_t)t * heads * dim, heads, r->keys, n, dim, r->dots);
}

/* The token's scores of n entries. */
static void score(const struct index *x, const struct segment *g, uint32_t t, bool visible, uint32_t n,
                  const struct room *r) {
    const real *w = x->w + (size_t)t * x->ix->heads;
    memset(r->scores, 0, n * sizeof(*r->scores));
    for (uint32_t at = 0, m; at < n; at += m) {
        m = (uint32_t)min_u64(COLUMNS, n - at);
        keys_of(x, g, t, visible, at, m, r->keys);
        dots_of(x, t, m, r);
        for (uint32_t h = 0; h < x->ix->heads; h++)
            for (uint32_t i = 0; i < m; i++) {
                real d = r->dots[(size_t)h * m + i];
                r->scores[at + i] += w[h] * (d > 0 ? d : 0);
            }
    }
}

/* What a pass does with each token of a block. */
static void each_token(struct index *x, uint32_t worker, size_t block,
                       void (*work)(const struct index *x, const struct segment *g, uint32_t t, const struct room *r)) {
    const struct batch *b = x->ix->entries->batch;
    struct room r;
    if (take_room(x, worker, &r))
        for (struct walk w = walk_block(b, block); w.token < w.end; walk_on(&w))
            work(x, w.segment, w.token, &r);
}

/* -------------------------------------------------------------------------------------------- choosing */

/* The value that `rank` of n values are greater than or come before, by Hoare's selection; x is reordered. */
static real ranked(real *x, uint32_t n, uint32_t rank) {
    int64_t low = 0, high = (int64_t)n - 1;
    while (low < high) {
        real pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                real swap = x[i];
                x[i++] = x[j];
                x[j--] = swap;
            }
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return x[rank];
}

/* The best `top` of n scores, of equal ones the first: their places, ascending. Returns how many. */
static uint32_t best(const real *scores, uint32_t n, uint32_t top, real *others, uint32_t *chosen) {
    uint32_t greater = 0, count = 0;
    memcpy(others, scores, n * sizeof(*others));
    real least = ranked(others, n, top - 1);
    for (uint32_t i = 0; i < n; i++)
        greater += scores[i] > least;
    for (uint32_t i = 0, equal = top - greater; i < n && count < top; i++)
        if (scores[i] > least || (scores[i] == least && equal && equal--))
            chosen[count++] = i;
    return count;
}

static void choose_token(const struct index *x, const struct segment *g, uint32_t t, const struct room *r) {
    const struct entries *e = x->ix->entries;
    uint32_t n = entries_visible(e, g, t), *chosen = e->chosen + (size_t)t * e->top;
    e->counts[t] = n;
    if (n > e->top) {
        score(x, g, t, true, n, r);
        e->counts[t] = best(r->scores, n, e->top, r->others, chosen);
    } else
        for (uint32_t i = 0; i < n; i++)
            chosen[i] = i;
}

KERNEL_CLONES static void choose_block(void *context, uint32_t worker, size_t item) {
    each_token(context, worker, item, choose_token);
}

void REAL(index_choose)(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k) {
    struct index x = begin(team, ix, q, w, k);
    team_each(team, ceil_div(ix->entries->batch->tokens, BLOCK), choose_block, &x);
}

/* ------------------------------------------------------------------------------------------------ loss */

/* Turns scores into the logarithms of their softmax. */
static void log_softmax(real *s, uint32_t n) {
    const real top = lanes_largest(s, n, s[0]);
    real sum = lanes_exp(s[0] - top);
    for (uint32_t i = 1; i < n; i++)
        sum += lanes_exp(s[i] - top);
    sum = top + r_log(sum);
    for (uint32_t i = 0; i < n; i++)
        s[i] -= sum;
}

static void loss_token(const struct index *x, const struct segment *g, uint32_t t, const struct room *r) {
    uint32_t n = entries_seen(x->ix->entries, g, t);
    real *shares = x->shares + (size_t)t * entries_most(x->ix->entries), sum = 0, loss = 0;
    if (n < 2) {
        memset(shares, 0, n * sizeof(*shares));
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        sum += shares[i];
    score(x, g, t, false, n, r);
    log_softmax(r->scores, n);
    for (uint32_t i = 0; i < n; i++) {
        real target = sum > 0 ? shares[i] / sum : 0;
        if (target > 0)
            loss += target * (r_log(target) - r->scores[i]);
        shares[i] = sum > 0 ? (lanes_exp(r->scores[i]) - target) / (real)x->tokens : 0;
    }
    x->losses[t] = loss;
}

KERNEL_CLONES static void loss_block(void *context, uint32_t worker, size_t item) {
    each_token(context, worker, item, loss_token);
}

/* How many tokens see at least two entries, or the sum of their losses. */
static double over_tokens(const struct entries *e, const real *losses) {
    const struct batch *b = e->batch;
    double sum = 0;
    for (const struct segment *g = b->segments; g < b->segments + b->segment_count; g++)
        for (uint32_t t = g->begin; t < g->begin + g->length; t++)
            if (entries_seen(e, g, t) >= 2)
                sum += losses ? (double)losses[t] : 1;
    return sum;
}

double REAL(index_loss)(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k,
                        real *shares, real *losses, uint32_t *tokens) {
    struct index x = begin(team, ix, q, w, k);
    x.shares = shares;
    x.losses = losses;
    *tokens = x.tokens = (uint32_t)over_tokens(ix->entries, NULL);
    team_each(team, ceil_div(ix->entries->batch->tokens, BLOCK), loss_block, &x);
    return x.tokens ? over_tokens(ix->entries, losses) / x.tokens : 0;
}

/* -------------------------------------------------------------------------------------------- backward */

/*
 * From the token's dots with n keys, those it sees from place `at`: leaves in dots their gradients, and adds to d_w if
 * it is there.
 */
static void slopes_of(const struct index *x, uint32_t t, uint32_t at, uint32_t n, const struct room *r, real *d_w) {
    const real *slopes = x->slopes + (size_t)t * entries_most(x->ix->entries) + at;
    for (uint32_t h = 0; h < x->ix->heads; h++) {
        real *restrict d = r->dots + (size_t)h * n, w = x->w[(size_t)t * x->ix->heads + h] * x->factor;
        for (uint32_t i = 0; i < n; i++)
            d[i] = d[i] > 0 ? d[i] : 0;
        if (d_w)
            d_w[h] += lanes_dot(slopes, d, n) * x->factor;
        for (uint32_t i = 0; i < n; i++)
            d[i] = d[i] > 0 ? slopes[i] * w : 0;
    }
}

static void query_token(const struct index *x, const struct segment *g, uint32_t t, const struct room *r) {
    uint32_t heads = x->ix->heads, dim = x->ix->dim, seen = entries_seen(x->ix->entries, g, t);
    for (uint32_t at = 0, n; at < seen; at += n) {
        n = (uint32_t)min_u64(COLUMNS, seen - at);
        keys_of(x, g, t, false, at, n, r->keys);
        dots_of(x, t, n, r);
        slopes_of(x, t, at, n, r, x->d_w ? x->d_w + (size_t)t * heads : NULL);
        if (!x->d_q)
            continue;
        for (uint32_t h = 0; h < heads; h++)
            r->rows[h] = x->d_q + ((size_t)t * heads + h) * dim;
        REAL(tile_mix)(x->team, r->dots, n, 1, r->keys, n, dim, heads, r->rows);
    }
}

KERNEL_CLONES static void query_block(void *context, uint32_t worker, size_t item) {
    each_token(context, worker, item, query_token);
}

struct giving {
    const struct index *x;
    struct room r;
};

/* Adds what the token gives to the gradients of keys it sees. */
KERNEL_CLONES static void give(void *context, const struct seer *s) {
    const struct giving *v = context;
    const struct index *x = v->x;
    uint32_t heads = x->ix->heads, dim = x->ix->dim;
    keys_of(x, s->segment, s->token, false, s->at, s->count, v->r.keys);
    dots_of(x, s->token, s->count, &v->r);
    slopes_of(x, s->token, s->at, s->count, &v->r, NULL);
    for (uint32_t h = 0; h < heads; h++)
        v->r.terms[h] = x->q + ((size_t)s->token * heads + h) * dim;
    for (uint32_t i = 0; i < s->count; i++)
        v->r.rows[i] = x->d_k + (v->r.keys[i] - x->k);
    REAL(tile_mix)(x->team, v->r.dots, 1, s->count, v->r.terms, heads, dim, s->count, v->r.rows);
}

static void key_block(void *context, uint32_t worker, size_t item) {
    struct giving v = {.x = context};
    const struct entries *e = v.x->ix->entries;
    uint32_t first = (uint32_t)item * KEYS, end = (uint32_t)min_u64(entries_total(e), first + KEYS);
    if (take_room(v.x, worker, &v.r))
        entries_each_seer(e, first, end, give, &v);
}

void REAL(index_backward)(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k,
                          const real *slopes, real factor, real *d_q, real *d_w, real *d_k) {
    struct index x = begin(team, ix, q, w, k);
    x.slopes = slopes;
    x.factor = factor;
    x.d_q = d_q;
    x.d_w = d_w;
    x.d_k = d_k;
    if (d_q || d_w)
        team_each(team, ceil_div(ix->entries->batch->tokens, BLOCK), query_block, &x);
    if (d_k)
        team_each(team, ceil_div(entries_total(ix->entries), KEYS), key_block, &x);
}
