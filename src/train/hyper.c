/*
 * hyper.c - hyper-connections forward and backward.
 *
 * What is done token by token is done for LANES tokens an item, whose matrices go through Sinkhorn's
 * iterations together. The iterations are run again on the way back instead of being kept.
 */
#include <assert.h>
#include <string.h>

#include "train/hyper_internal.h"
#include "train/lanes_internal.h"
#include "train/sinkhorn_internal.h"

struct collapse {
    struct team *team;
    const struct hyper_shape *shape;
    const real *h;
    const struct hyper_weights *w;
    const struct hyper_saved *saved;
    real *x; /* forward */
    const real *dx;
    real *dmixes, *dh;
};

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

KERNEL_CLONES static void collapse_group(void *context, uint32_t worker, size_t item) {
    const struct collapse *c = context;
    const size_t n = c->shape->streams, dim = c->shape->dim, mixes = hyper_mixes(c->shape);
    struct group g;
    if (!group_begin(c, worker, item, &g))
        return;
    for (size_t token = g.first; token < g.first + g.count; token++) {
        const real *pre = c->saved->mixes + token * mixes;
        mix_forward(c, token);
        memset(c->x + token * dim, 0, dim * sizeof(real));
        for (size_t j = 0; j < n; j++)
            lanes_axpy(c->x + token * dim, pre[j], c->h + (token * n + j) * dim, dim);
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
    REAL(gemm)(team, GEMM_BT | GEMM_EXACT, s->tokens, hyper_mixes(s), (size_t)s->streams * s->dim, h, w->fn, saved->m);
    team_each(team, ceil_div(s->tokens, LANES), collapse_group, &c);
}

/* ----------------------------------------------------------------------------------------- backward */

/* dmixes of a token, its pre and post: from the gradient of the mixes to that of scale m + base. */
static void mix_backward(const struct collapse *c, size_t token) {
    const size_t n = c->shape->streams, dim = c->shape->dim, mixes = hyper_mixes(c->shape);
    const real *mix = c->saved->mixes + token * mixes;
    real *d = c->dmixes + token * mixes;
    for (size_t j = 0; j < n; j++) {
        real sigmoid = mix[j] - (real)c->shape->eps;
        d[j] += lanes_dot(c->dx + token * dim, c->h + (token * n + j) * dim, dim);
        d[j] *= sigmoid * (1 - sigmoid);
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

/* To the streams, what comes through the collapse and through the norm; what comes through fn is a product. */
static void streams_backward(const struct collapse *c, size_t token) {
    const size_t n = c->shape->streams, dim = c->shape->dim, mixes = hyper_mixes(c->shape);
    const real *d = c->dmixes + token * mixes, *m = c->saved->m + token * mixes, *pre = c->saved->mixes + token * mixes;
    const real *dx = c->dx + token * dim;
    real inverse = c->saved->inverse[token], along = 0;
    for (size_t i = 0; i < mixes; i++)
        along += d[i] * c->w->scale[scale_of(i, n)] * m[i];
    along *= -inverse * inverse / (real)(n * dim);
    for (size_t j = 0; j < n; j++) {
        const real *restrict h = c->h + (token * n + j) * dim;
        real *restrict dh = c->dh + (token * n + j) * dim;
        for (size_t i = 0; i < dim; i++)
            dh[i] += pre[j] * dx[i] + along * h[i];
    }
}

KERNEL_CLONES static void collapse_group_back(void *context, uint32_t worker, size_t item) {
    const struct collapse *c = context;
    struct group g;
    if (!group_begin(c, worker, item, &g))
        return;
    for (size_t token = g.first; token < g.first + g.count; token++)
        mix_backward(c, token);
    if (c->shape->iterations)
        comb_backward(c, &g);
    for (size_t token = g.first; c->dh && token < g.first + g.count; token++)
        streams_backward(c, token);
}

/* Sums over tokens, and dmixes from the gradient of scale m + base to that of the products h fn^T. */
static void sum_tokens(const struct collapse *c, const struct hyper_gradients *g) {
    const size_t n = c->shape->streams, mixes = hyper_mixes(c->shape);
    real base[(2 + HYPER_MOST_STREAMS) * HYPER_MOST_STREAMS] = {0}, scaled[COUNT_OF(base)] = {0};
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

void REAL(hyper_collapse_backward)(struct team *team, const struct hyper_shape *s, const real *h,
                                   const struct hyper_weights *w, const struct hyper_saved *saved, const real *dx,
                                   real *dmixes, real *dh, const struct hyper_gradients *g) {
    const size_t mixes = hyper_mixes(s), wide = (size_t)s->streams * s->dim;
    struct collapse c = {
        .team = team, .shape = s, .h = h, .w = w, .saved = saved, .dx = dx, .dmixes = dmixes, .dh = dh};
    team_each(team, ceil_div(s->tokens, LANES), collapse_group_back, &c);
    sum_tokens(&c, g);
    if (dh)
        REAL(gemm)(team, GEMM_ADD | GEMM_EXACT, s->tokens, wide, mixes, dmixes, w->fn, dh);
    if (g->fn)
        REAL(gemm)(team, GEMM_AT | GEMM_ADD | GEMM_EXACT, mixes, wide, s->tokens, dmixes, h, g->fn);
}

/* ------------------------------------------------------------------------------------------- spread */

struct spread {
    const struct hyper_shape *shape;
    const real *h, *y, *mixes, *dout;
    real *out; /* forward */
    real *dh, *dy, *dmixes;
};

static void spread_token(const struct spread *p, size_t token) {
    const size_t n = p->shape->streams, dim = p->shape->dim;
    const real *post = p->mixes + token * hyper_mixes(p->shape) + n, *comb = post + n;
    for (size_t k = 0; k < n; k++) {
        real *out = p->out + (token * n + k) * dim;
        memset(out, 0, dim * sizeof(real));
        lanes_axpy(out, post[k], p->y + token * dim, dim);
        for (size_t j = 0; j < n; j++)
            lanes_axpy(out, comb[j * n + k], p->h + (token * n + j) * dim, dim);
    }
}

static void spread_token_back(const struct spread *p, size_t token) {
    const size_t n = p->shape->streams, dim = p->shape->dim, mixes = hyper_mixes(p->shape);
    const real *post = p->mixes + token * mixes + n, *comb = post + n;
    real *dpost = p->dmixes + token * mixes + n, *dcomb = dpost + n;
    for (size_t k = 0; k < n; k++) {
        const real *dout = p->dout + (token * n + k) * dim;
        dpost[k] += lanes_dot(dout, p->y + token * dim, dim);
        if (p->dy)
            lanes_axpy(p->dy + token * dim, post[k], dout, dim);
        for (size_t j = 0; j < n; j++) {
            dcomb[j * n + k] += lanes_dot(dout, p->h + (token * n + j) * dim, dim);
            if (p->dh)
                lanes_axpy(p->dh + (token * n + j) * dim, comb[j * n + k], dout, dim);
        }
    }
}

KERNEL_CLONES static void spread_block(void *context, uint32_t worker, size_t item) {
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
    struct spread p = {.shape = s, .h = h, .y = y, .mixes = mixes, .out = out};
    team_each(team, ceil_div(s->tokens, BLOCK), spread_block, &p);
}

void REAL(hyper_spread_backward)(struct team *team, const struct hyper_shape *s, const real *h, const real *y,
                                 const real *mixes, const real *dout, real *dh, real *dy, real *dmixes) {
    struct spread p = {.shape = s, .h = h, .y = y, .mixes = mixes, .dout = dout, .dh = dh, .dy = dy, .dmixes = dmixes};
    team_each(team, ceil_div(s->tokens, BLOCK), spread_block, &p);
}

/* ------------------------------------------------------------------------------------ initial values */

/* Normal with mean 0 and deviation 1 (Box and Muller). */
static double normal(struct rng *r) {
    double radius = sqrt(-2 * log(1 - rng_unit(r)));
    return radius * cos(2 * 3.14159265358979323846 * rng_unit(r));
}

void REAL(hyper_init)(const struct hyper_shape *s, struct rng *r, real *fn, real *scale, real *base) {
    const size_t n = s->streams, mixes = hyper_mixes(s);
    /* sigmoid(mean) = 1 / H; of one stream, nearly all */
    const double mean = n > 1 ? -log((double)(n - 1)) : 10, apart = -5;
    for (size_t i = 0; i < mixes * n * s->dim; i++)
        fn[i] = (real)(1e-4 * normal(r));
    for (size_t i = 0; i < (s->iterations ? 3 : 1); i++)
        scale[i] = (real)0.01;
    memset(base, 0, mixes * sizeof(real));
    for (size_t j = 0; j < n; j++)
        base[j] = (real)mean;
    for (size_t i = 0; i < n * n && s->iterations; i++)
        base[2 * n + i] = (real)(i % (n + 1) ? apart : 0);
}
