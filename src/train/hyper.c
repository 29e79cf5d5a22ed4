/*
 * hyper.c - hyper-connections forward and backward.
 *
 * What is done token by token is done for LANES tokens an item, whose matrices go through Sinkhorn's
 * iterations together. The iterations are run again on the way back instead of being kept.
 *
 * All is bound by how often the streams are read, which are H times as wide as anything else. The products with fn have
 * few columns, and are made of rows where they lie, by the kernels dots and mix, without packing any.
 */
#include <assert.h>
#include <string.h>

#include "train/hyper_internal.h"
#include "train/lanes_internal.h"
#include "train/sinkhorn_internal.h"
#include "train/tile_internal.h"

struct collapse {
    struct team *team;
    const struct hyper_shape *shape;
    const real *h;
    const struct hyper_weights *w;
    const struct hyper_saved *saved;
    real *x; /* forward */
    const real *dx;
    real *dmixes, *dh, *dfn;
};

enum { MOST_MIXES = (2 + HYPER_MOST_STREAMS) * HYPER_MOST_STREAMS };

/* Pointers to `count` rows of `width` that lie one behind the other. */
static void rows_of(const real *x, size_t width, size_t count, const real **rows) {
    for (size_t i = 0; i < count; i++)
        rows[i] = x + i * width;
}

/* The same, to be written. */
static void places_of(real *x, size_t width, size_t count, real **rows) {
    for (size_t i = 0; i < count; i++)
        rows[i] = x + i * width;
}

/* Tokens of an item, and memory for them: matrices for Sinkhorn and for their gradient. */
struct group {
    size_t first, count;
    struct sinkhorn sinkhorn;
    real *d; /* [H, H, LANES] */
};

/* False: memory is exhausted. */
static bool group_begin(const struct collapse *c, uint32_t worker, size_t item, struct group *g) {
    const struct hyper_shape *s = c->shape;
    *g = (struct group){.first = item * LANES};
    g->count = min_u64(LANES, s->tokens - g->first);
    if (!s->iterations)
        return true;
    size_t reals = sinkhorn_reals(s->streams, s->iterations), square = (size_t)s->streams * s->streams * LANES;
    real *memory = team_scratch(c->team, worker, (reals + square) * sizeof(real));
    if (!memory)
        return false;
    g->sinkhorn = sinkhorn_place(s->streams, s->iterations, s->eps, memory);
    g->d = memory + reals;
    return true;
}

/* comb of the tokens, in lanes. */
static void group_forward(const struct collapse *c, const struct group *g) {
    const size_t n = c->shape->streams, mixes = hyper_mixes(c->shape);
    const real *base = c->w->base + 2 * n;
    memset(g->sinkhorn.matrix, 0, n * n * LANES * sizeof(real)); /* tokens that are not there */
    for (size_t t = 0; t < g->count; t++) {
        const real *m = c->saved->m + (g->first + t) * mixes + 2 * n;
        for (size_t i = 0; i < n * n; i++)
            g->sinkhorn.matrix[i * LANES + t] = m[i] * c->w->scale[2] + base[i];
    }
    REAL(sinkhorn_forward)(&g->sinkhorn);
}

/* ------------------------------------------------------------------------------------------ forward */

static real inverse_rms(const real *x, size_t n, double eps) {
    return 1 / r_sqrt(lanes_dot(x, x, n) / (real)n + (real)eps);
}

/* pre and post of a token, after its products have been divided by the norm. */
static void mix_forward(const struct collapse *c, size_t token) {
    const size_t n = c->shape->streams, mixes = hyper_mixes(c->shape), wide = n * c->shape->dim;
    real *m = c->saved->m + token * mixes, *out = c->saved->mixes + token * mixes;
    const real *base = c->w->base;
    real inverse = c->saved->inverse[token] = inverse_rms(c->h + token * wide, wide, c->shape->norm_eps);
    for (size_t i = 0; i < mixes; i++)
        m[i] *= inverse;
    for (size_t j = 0; j < n; j++)
        out[j] = lanes_sigmoid(m[j] * c->w->scale[0] + base[j]) + (real)c->shape->eps;
    for (size_t j = n; j < 2 * n && j < mixes; j++)
        out[j] = 2 * lanes_sigmoid(m[j] * c->w->scale[1] + base[j]);
}

/* m = h fn^T of the group. */
static void project(const struct collapse *c, const struct group *g) {
    const uint32_t mixes = hyper_mixes(c->shape), wide = c->shape->streams * c->shape->dim;
    const real *fn[MOST_MIXES];
    rows_of(c->w->fn, wide, mixes, fn);
    REAL(tile_dots)
    (c->team, c->h + g->first * wide, (uint32_t)g->count, fn, mixes, wide, c->saved->m + g->first * mixes);
}

/* x = sum_j pre_j h_j */
static void collapse_token(const struct collapse *c, size_t token) {
    const uint32_t n = c->shape->streams, dim = c->shape->dim;
    const real *h[HYPER_MOST_STREAMS];
    real *x = c->x + token * dim;
    rows_of(c->h + token * n * dim, dim, n, h);
    memset(x, 0, dim * sizeof(real));
    REAL(tile_mix)(c->team, c->saved->mixes + token * hyper_mixes(c->shape), 0, 1, h, n, dim, 1, &x);
}

KERNEL_CLONES static void collapse_group(void *context, uint32_t worker, size_t item) {
    const struct collapse *c = context;
    const size_t n = c->shape->streams, mixes = hyper_mixes(c->shape);
    struct group g;
    if (!group_begin(c, worker, item, &g))
        return;
    project(c, &g);
    for (size_t token = g.first; token < g.first + g.count; token++) {
        mix_forward(c, token);
        collapse_token(c, token);
    }
    if (!c->shape->iterations)
        return;
    group_forward(c, &g);
    const real *comb = sinkhorn_result(&g.sinkhorn);
    for (size_t t = 0; t < g.count; t++)
        for (size_t i = 0; i < n * n; i++)
            c->saved->mixes[(g.first + t) * mixes + 2 * n + i] = comb[i * LANES + t];
}

void REAL(hyper_collapse_forward)(struct team *team, const struct hyper_shape *s, const real *h,
                                  const struct hyper_weights *w, real *x, const struct hyper_saved *saved) {
    struct collapse c = {.team = team, .shape = s, .h = h, .w = w, .saved = saved, .x = x};
    assert(s->streams <= HYPER_MOST_STREAMS);
    team_each(team, ceil_div(s->tokens, LANES), collapse_group, &c);
}

/* ----------------------------------------------------------------------------------------- backward */

/* dmixes of a token, its pre and post: from the gradient of the mixes to that of scale m + base. */
static void mix_backward(const struct collapse *c, size_t token) {
    const uint32_t n = c->shape->streams, dim = c->shape->dim, mixes = hyper_mixes(c->shape);
    const real *mix = c->saved->mixes + token * mixes, *h[HYPER_MOST_STREAMS];
    real *d = c->dmixes + token * mixes, dpre[HYPER_MOST_STREAMS];
    rows_of(c->h + token * n * dim, dim, n, h);
    REAL(tile_dots)(c->team, c->dx + token * dim, 1, h, n, dim, dpre);
    for (size_t j = 0; j < n; j++) {
        real sigmoid = mix[j] - (real)c->shape->eps;
        d[j] = (d[j] + dpre[j]) * sigmoid * (1 - sigmoid);
    }
    for (size_t j = n; j < 2 * n && j < mixes; j++)
        d[j] *= mix[j] * (1 - mix[j] / 2);
}

/* The same of comb, of all the group's tokens. */
static void comb_backward(const struct collapse *c, const struct group *g) {
    const size_t n = c->shape->streams, mixes = hyper_mixes(c->shape);
    group_forward(c, g);
    memset(g->d, 0, n * n * LANES * sizeof(real));
    for (size_t t = 0; t < g->count; t++)
        for (size_t i = 0; i < n * n; i++)
            g->d[i * LANES + t] = c->dmixes[(g->first + t) * mixes + 2 * n + i];
    REAL(sinkhorn_backward)(&g->sinkhorn, g->d);
    for (size_t t = 0; t < g->count; t++)
        for (size_t i = 0; i < n * n; i++)
            c->dmixes[(g->first + t) * mixes + 2 * n + i] = g->d[i * LANES + t];
}

/* Which scale column i of m has. */
static size_t scale_of(size_t i, size_t streams) {
    return i < streams ? 0 : i < 2 * streams ? 1 : 2;
}

KERNEL_CLONES static void mixes_group_back(void *context, uint32_t worker, size_t item) {
    const struct collapse *c = context;
    struct group g;
    if (!group_begin(c, worker, item, &g))
        return;
    for (size_t token = g.first; token < g.first + g.count; token++)
        mix_backward(c, token);
    if (c->shape->iterations)
        comb_backward(c, &g);
}

/* Sums over tokens, and dmixes from the gradient of scale m + base to that of the products h fn^T. */
static void sum_tokens(const struct collapse *c, const struct hyper_gradients *g) {
    const size_t n = c->shape->streams, mixes = hyper_mixes(c->shape);
    real base[MOST_MIXES] = {0}, scaled[MOST_MIXES] = {0};
    for (size_t token = 0; token < c->shape->tokens; token++) {
        const real *m = c->saved->m + token * mixes;
        real *d = c->dmixes + token * mixes;
        for (size_t i = 0; i < mixes; i++) {
            base[i] += d[i];
            scaled[i] += d[i] * m[i];
            d[i] *= c->w->scale[scale_of(i, n)] * c->saved->inverse[token];
        }
    }
    for (size_t i = 0; i < mixes; i++) {
        if (g->base)
            g->base[i] += base[i];
        if (g->scale)
            g->scale[scale_of(i, n)] += scaled[i];
    }
}

/* To the streams of a token, what comes through the collapse and through the norm. */
static void streams_backward(const struct collapse *c, size_t token) {
    const size_t n = c->shape->streams, dim = c->shape->dim, mixes = hyper_mixes(c->shape);
    const real *d = c->dmixes + token * mixes, *m = c->saved->m + token * mixes, *pre = c->saved->mixes + token * mixes;
    const real *dx = c->dx + token * dim;
    real along = 0;
    for (size_t i = 0; i < mixes; i++)
        along += d[i] * m[i];
    along *= -c->saved->inverse[token] / (real)(n * dim);
    for (size_t j = 0; j < n; j++) {
        const real *restrict h = c->h + (token * n + j) * dim;
        real *restrict dh = c->dh + (token * n + j) * dim;
        for (size_t i = 0; i < dim; i++)
            dh[i] += pre[j] * dx[i] + along * h[i];
    }
}

/* And what comes through fn. */
KERNEL_CLONES static void streams_group_back(void *context, uint32_t worker, size_t item) {
    const struct collapse *c = context;
    const uint32_t mixes = hyper_mixes(c->shape), wide = c->shape->streams * c->shape->dim;
    const size_t first = item * LANES, count = min_u64(LANES, c->shape->tokens - first);
    const real *fn[MOST_MIXES];
    real *dh[LANES];
    (void)worker;
    for (size_t token = first; token < first + count; token++)
        streams_backward(c, token);
    rows_of(c->w->fn, wide, mixes, fn);
    places_of(c->dh + first * wide, wide, count, dh);
    REAL(tile_mix)(c->team, c->dmixes + first * mixes, mixes, 1, fn, mixes, wide, (uint32_t)count, dh);
}

/* dfn += dmixes^T h: some columns, over all tokens in order. */
enum { SLICE = 64 };

static void fn_slice_back(void *context, uint32_t worker, size_t item) {
    const struct collapse *c = context;
    const uint32_t mixes = hyper_mixes(c->shape), wide = c->shape->streams * c->shape->dim;
    const size_t column = item * SLICE;
    const uint32_t width = (uint32_t)min_u64(SLICE, wide - column);
    const real *h[BLOCK];
    real *dfn[MOST_MIXES];
    (void)worker;
    places_of(c->dfn + column, wide, mixes, dfn);
    for (size_t first = 0; first < c->shape->tokens; first += BLOCK) {
        const uint32_t count = (uint32_t)min_u64(BLOCK, c->shape->tokens - first);
        rows_of(c->h + first * wide + column, wide, count, h);
        REAL(tile_mix)(c->team, c->dmixes + first * mixes, 1, mixes, h, count, width, mixes, dfn);
    }
}

void REAL(hyper_collapse_backward)(struct team *team, const struct hyper_shape *s, const real *h,
                                   const struct hyper_weights *w, const struct hyper_saved *saved, const real *dx,
                                   real *dmixes, real *dh, const struct hyper_gradients *g) {
    struct collapse c = {
        .team = team, .shape = s, .h = h, .w = w, .saved = saved, .dx = dx, .dmixes = dmixes, .dh = dh, .dfn = g->fn};
    const size_t groups = ceil_div(s->tokens, LANES);
    team_each(team, groups, mixes_group_back, &c);
    sum_tokens(&c, g);
    if (dh)
        team_each(team, groups, streams_group_back, &c);
    if (g->fn)
        team_each(team, ceil_div((size_t)s->streams * s->dim, SLICE), fn_slice_back, &c);
}

/* ------------------------------------------------------------------------------------------- spread */

struct spread {
    const struct team *team;
    const struct hyper_shape *shape;
    const real *h, *y, *mixes, *dout;
    real *out; /* forward */
    real *dh, *dy, *dmixes;
};

/*
 * post and, behind it, comb are together a matrix [1 + H, H] of what y and the streams give to the streams:
 * h'_k = sum_j post[j H + k] of j = 0: y, j > 0: h_(j - 1).
 */
static void sources_of(const struct spread *p, size_t token, const real **from) {
    const size_t n = p->shape->streams, dim = p->shape->dim;
    from[0] = p->y + token * dim;
    rows_of(p->h + token * n * dim, dim, n, from + 1);
}

static void spread_token(const struct spread *p, size_t token) {
    const uint32_t n = p->shape->streams, dim = p->shape->dim;
    const real *from[1 + HYPER_MOST_STREAMS];
    real *out[HYPER_MOST_STREAMS];
    sources_of(p, token, from);
    places_of(p->out + token * n * dim, dim, n, out);
    memset(p->out + token * n * dim, 0, (size_t)n * dim * sizeof(real));
    REAL(tile_mix)(p->team, p->mixes + token * hyper_mixes(p->shape) + n, 1, n, from, 1 + n, dim, n, out);
}

static void spread_token_back(const struct spread *p, size_t token) {
    const uint32_t n = p->shape->streams, dim = p->shape->dim, mixes = hyper_mixes(p->shape);
    const real *post = p->mixes + token * mixes + n, *from[1 + HYPER_MOST_STREAMS], *dout[HYPER_MOST_STREAMS];
    real *dpost = p->dmixes + token * mixes + n, products[HYPER_MOST_STREAMS * (1 + HYPER_MOST_STREAMS)];
    real *to[HYPER_MOST_STREAMS];
    sources_of(p, token, from);
    rows_of(p->dout + token * n * dim, dim, n, dout);
    REAL(tile_dots)(p->team, p->dout + token * n * dim, n, from, 1 + n, dim, products);
    for (size_t k = 0; k < n; k++)
        for (size_t j = 0; j <= n; j++)
            dpost[j * n + k] += products[k * (1 + n) + j];
    if (p->dy) {
        to[0] = p->dy + token * dim;
        REAL(tile_mix)(p->team, post, n, 1, dout, n, dim, 1, to);
    }
    if (p->dh) {
        places_of(p->dh + token * n * dim, dim, n, to);
        REAL(tile_mix)(p->team, post + n, n, 1, dout, n, dim, n, to);
    }
}

static void spread_block(void *context, uint32_t worker, size_t item) {
    const struct spread *p = context;
    size_t end = min_u64(p->shape->tokens, (item + 1) * BLOCK);
    (void)worker;
    for (size_t token = item * BLOCK; token < end; token++)
        if (p->out)
            spread_token(p, token);
        else
            spread_token_back(p, token);
}

void REAL(hyper_spread_forward)(struct team *team, const struct hyper_shape *s, const real *h, const real *y,
                                const real *mixes, real *out) {
    struct spread p = {.team = team, .shape = s, .h = h, .y = y, .mixes = mixes, .out = out};
    team_each(team, ceil_div(s->tokens, BLOCK), spread_block, &p);
}

void REAL(hyper_spread_backward)(struct team *team, const struct hyper_shape *s, const real *h, const real *y,
                                 const real *mixes, const real *dout, real *dh, real *dy, real *dmixes) {
    struct spread p = {
        .team = team, .shape = s, .h = h, .y = y, .mixes = mixes, .dout = dout, .dh = dh, .dy = dy, .dmixes = dmixes};
    team_each(team, ceil_div(s->tokens, BLOCK), spread_block, &p);
}

/* ------------------------------------------------------------------------------------ initial values */

void REAL(hyper_init)(const struct hyper_shape *s, struct rng *r, real *fn, real *scale, real *base) {
    const size_t n = s->streams, mixes = hyper_mixes(s);
    /* sigmoid(mean) = 1 / H; of one stream, nearly all */
    const double mean = n > 1 ? -log((double)(n - 1)) : 10, apart = -5;
    for (size_t i = 0; i < mixes * n * s->dim; i++)
        fn[i] = (real)(1e-4 * rng_normal(r));
    for (size_t i = 0; i < (s->iterations ? 3 : 1); i++)
        scale[i] = (real)0.01;
    memset(base, 0, mixes * sizeof(real));
    for (size_t j = 0; j < n; j++)
        base[j] = (real)mean;
    for (size_t i = 0; i < n * n && s->iterations; i++)
        base[2 * n + i] = (real)(i % (n + 1) ? apart : 0);
}
