/*
 * hyper.c - manifold-constrained hyper-connections: H residual streams, mixed anew before and after each
 * sublayer (arXiv 2512.24880; V4 report, section 2.2).
 *
 *     x  = sum_j pre_j h_j          what the sublayer sees
 *     h_k <- post_k F(x) + sum_j comb_jk h_j
 *
 * pre, post and comb come from the streams themselves; comb is made doubly stochastic by Sinkhorn's
 * iterations. It is applied transposed: the sum runs over its first index.
 */
#include "model/model_internal.h"

static struct device_hyper arguments(struct step *st, const struct hyper_weights *w, const float *h, uint32_t rows,
                                     float *x) {
    const struct shape *s = st->m->shape;
    return (struct device_hyper){.h = h,
                                 .fn = w->fn,
                                 .scale = w->scale,
                                 .base = w->base,
                                 .rows = rows,
                                 .streams = s->streams,
                                 .dim = s->hidden,
                                 .norm_eps = s->eps,
                                 .eps = s->hc_eps,
                                 .x = x};
}

/* x [S, D] from h [S, H, D]; keeps post and comb for hyper_spread(). */
void hyper_collapse(struct step *st, const struct hyper_weights *w, const float *h, float *x) {
    struct device_hyper a = arguments(st, w, h, st->rows, x);
    a.iterations = st->m->shape->sinkhorn_iters;
    a.post = st->m->scratch.post;
    a.comb = st->m->scratch.comb;
    st->ops->hyper(st->d, &a);
    step_round(st, x, (uint64_t)st->rows * a.dim);
}

void hyper_mixes(struct step *st, const struct hyper_weights *w, const float *h, float *pre) {
    struct device_hyper a = arguments(st, w, h, st->rows, NULL);
    a.iterations = st->m->shape->sinkhorn_iters;
    a.pre = pre;
    a.post = st->m->scratch.post;
    a.comb = st->m->scratch.comb;
    st->ops->hyper(st->d, &a);
}

/* h [S, H, D] takes in y [S, D]. */
void hyper_spread(struct step *st, const float *y, float *h) {
    const struct shape *s = st->m->shape;
    st->ops->spread(st->d, h, y, st->m->scratch.post, st->m->scratch.comb, st->rows, s->streams, s->hidden);
    step_round(st, h, (uint64_t)st->rows * s->streams * s->hidden);
}

/* The last collapse, before the final norm: weights without Sinkhorn. */
void hyper_head(struct step *st, const struct hyper_weights *w, const float *h, uint32_t rows, float *x) {
    struct device_hyper a = arguments(st, w, h, rows, x);
    st->ops->hyper(st->d, &a);
    step_round(st, x, (uint64_t)rows * a.dim);
}
