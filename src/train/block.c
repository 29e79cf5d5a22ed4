/*
 * block.c - a layer: Engram where it has one, then attention and experts, each between collapse and spread of the
 * streams.
 *
 *     h = h + engram(h)
 *     x, mixes = collapse(h)      h' = spread(h, attention(norm(x)), mixes)
 *     x, mixes = collapse(h')     out = spread(h', experts(norm(x)), mixes)
 */
#include "train/net_internal.h"

#define CALL const struct REAL(layer_call) * c

static size_t tokens_of(CALL) {
    return c->places->batch->tokens;
}

static struct hyper_shape hyper_shape_of(CALL) {
    const struct shape *s = &c->net->shape;
    return (struct hyper_shape){.tokens = c->places->batch->tokens,
                                .streams = s->streams,
                                .dim = s->hidden,
                                .iterations = s->sinkhorn_iters,
                                .norm_eps = s->eps,
                                .eps = s->hc_eps};
}

static struct hyper_weights weights_of(const struct REAL(hyper_params) * p) {
    return (struct hyper_weights){p->fn->use, p->scale->use, p->base->use};
}

static struct hyper_gradients gradients_of(const struct REAL(hyper_params) * p) {
    return (struct hyper_gradients){p->fn->gradient, p->scale->gradient, p->base->gradient};
}

static struct route_shape route_shape_of(CALL) {
    const struct shape *s = &c->net->shape;
    return (struct route_shape){.tokens = c->places->batch->tokens,
                                .dim = s->hidden,
                                .experts = s->experts,
                                .active = s->active,
                                .scoring = s->scoring,
                                .scale = s->route_scale};
}

static struct experts_shape experts_shape_of(CALL) {
    const struct shape *s = &c->net->shape;
    return (struct experts_shape){.tokens = c->places->batch->tokens,
                                  .dim = s->hidden,
                                  .experts = s->experts,
                                  .active = s->active,
                                  .inter = s->inter,
                                  .shared_inter = s->inter * s->shared_experts,
                                  .limit = s->swiglu_limit};
}

/* The passes take weights and gradients in one kind of struct. */
static struct REAL(experts_weights) expert_weights(const struct REAL(layer) * l, bool gradients) {
    struct REAL(param) *const p[] = {l->w1, l->w3, l->w2, l->shared_w1, l->shared_w3, l->shared_w2};
    real *at[6];
    for (int i = 0; i < 6; i++)
        at[i] = gradients ? p[i]->gradient : (real *)(uintptr_t)p[i]->use;
    return (struct REAL(experts_weights)){
        .w1 = at[0], .w3 = at[1], .w2 = at[2], .shared_w1 = at[3], .shared_w3 = at[4], .shared_w2 = at[5]};
}

static struct REAL(attention_call) attention_of(CALL) {
    return (struct REAL(attention_call)){.team = c->team,
                                         .net = c->net,
                                         .layer = c->layer,
                                         .places = c->places,
                                         .saved = &c->saved->attention,
                                         .work = c->work,
                                         .share = c->share};
}

static struct engram_sizes engram_sizes_of(CALL) {
    const struct engram_shape *s = &c->net->shape.engram;
    const struct batch *b = c->places->batch;
    return (struct engram_sizes){.tokens = b->tokens,
                                 .streams = c->net->shape.streams,
                                 .dim = c->net->shape.hidden,
                                 .inputs = (s->orders - 1) * s->width,
                                 .taps = s->taps,
                                 .dilation = s->orders,
                                 .norm_eps = (double)s->norm_eps,
                                 .conv_eps = (double)s->conv_eps,
                                 .segments = b->segments,
                                 .segment_count = b->segment_count};
}

static struct engram_weights engram_weights_of(const struct REAL(engram) * g) {
    return (struct engram_weights){.keys = g->keys->use,
                                   .key_bias = g->key_bias ? g->key_bias->use : NULL,
                                   .value = g->value->use,
                                   .value_bias = g->value_bias ? g->value_bias->use : NULL,
                                   .key_norm = g->key_norm->use,
                                   .query_norm = g->query_norm->use,
                                   .conv_norm = g->conv_norm->use,
                                   .conv = g->conv->use};
}

static struct engram_gradients engram_gradients_of(const struct REAL(engram) * g) {
    return (struct engram_gradients){.keys = g->keys->gradient,
                                     .key_bias = g->key_bias ? g->key_bias->gradient : NULL,
                                     .value = g->value->gradient,
                                     .value_bias = g->value_bias ? g->value_bias->gradient : NULL,
                                     .key_norm = g->key_norm->gradient,
                                     .query_norm = g->query_norm->gradient,
                                     .conv_norm = g->conv_norm->gradient,
                                     .conv = g->conv->gradient};
}

/* The streams that attention works on: what the layer was given, or what recall has made of it. */
static const real *streams_of(CALL, const real *h) {
    return c->layer->engram ? c->saved->engram.h : h;
}

/* ------------------------------------------------------------------------------------------- forward */

static void recall(CALL, const real *h) {
    const struct REAL(engram) *g = c->layer->engram;
    const struct REAL(recalled) *s = &c->saved->engram;
    struct engram_sizes sizes = engram_sizes_of(c);
    struct engram_weights w = engram_weights_of(g);
    REAL(engram_look_up)(c->team, &c->recall->rows, g->table->cols, g->table->use, s->e);
    REAL(engram_forward)(c->team, &sizes, h, s->e, &w, s->h, &s->pass);
}

static void attend(CALL, const real *h) {
    const struct REAL(layer_saved) *s = c->saved;
    struct hyper_shape hs = hyper_shape_of(c);
    struct hyper_weights hw = weights_of(&c->layer->hyper_attn);
    struct REAL(attention_call) a = attention_of(c);
    REAL(hyper_collapse_forward)(c->team, &hs, h, &hw, s->attn_x, &s->hyper_attn);
    REAL(norm_forward)
    (c->team, tokens_of(c), hs.dim, (real)c->net->shape.eps, s->attn_x, c->layer->attn_norm->use, s->attn_in,
     s->attn_inverse);
    REAL(attention_forward)(&a, s->attn_in, s->attn_out);
    REAL(hyper_spread_forward)(c->team, &hs, h, s->attn_out, s->hyper_attn.mixes, s->h);
}

void REAL(layer_forward)(CALL, const real *h, real *out) {
    const struct REAL(layer_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct hyper_shape hs = hyper_shape_of(c);
    struct hyper_weights hw = weights_of(&l->hyper_ffn);
    struct route_shape rs = route_shape_of(c);
    struct experts_shape xs = experts_shape_of(c);
    struct REAL(experts_weights) w = expert_weights(l, false);
    if (l->engram)
        recall(c, h);
    attend(c, streams_of(c, h));
    REAL(hyper_collapse_forward)(c->team, &hs, s->h, &hw, s->ffn_x, &s->hyper_ffn);
    REAL(norm_forward)
    (c->team, tokens_of(c), hs.dim, (real)c->net->shape.eps, s->ffn_x, l->ffn_norm->use, s->ffn_in, s->ffn_inverse);
    REAL(route_forward)
    (c->team, &rs, s->ffn_in, l->gate->use, l->bias ? l->bias->use : NULL, l->table, c->places->batch->ids, s->logits,
     s->experts, s->weights);
    REAL(experts_forward)
    (c->team, &xs, s->ffn_in, s->experts, s->weights, &w, &s->mixture, c->work->experts, s->ffn_out);
    REAL(hyper_spread_forward)(c->team, &hs, s->h, s->ffn_out, s->hyper_ffn.mixes, out);
}

/* ------------------------------------------------------------------------------------------ backward */

static void clear(CALL, real *x, size_t count) {
    team_clear(c->team, x, count * sizeof(*x));
}

/* The router's losses and gradients; dx is added to. */
static void route_back(CALL, real *dx, struct step_losses *losses) {
    const struct REAL(layer_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct REAL(work) *w = c->work;
    struct route_shape rs = route_shape_of(c);
    const struct batch *b = c->places->batch;
    clear(c, w->logits, (size_t)rs.tokens * rs.experts);
    if (!l->table && c->net->options.balance_weight > 0)
        losses->balance +=
            REAL(route_balance)(c->team, &rs, b->segments, b->segment_count, s->logits, s->experts,
                                (real)(c->share * (double)c->net->options.balance_weight), w->balance, w->logits);
    REAL(route_backward)
    (c->team, &rs, s->ffn_in, l->gate->use, s->logits, s->experts, s->weights, w->weights, w->logits, dx,
     l->gate->gradient);
}

/* dh [T, H, D] is set from dout. */
static void experts_back(CALL, const real *dout, real *dh, struct step_losses *losses) {
    const struct REAL(layer_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct REAL(work) *w = c->work;
    struct hyper_shape hs = hyper_shape_of(c);
    struct hyper_weights hw = weights_of(&l->hyper_ffn);
    struct hyper_gradients hg = gradients_of(&l->hyper_ffn);
    struct experts_shape xs = experts_shape_of(c);
    struct REAL(experts_weights) weights = expert_weights(l, false), gradients = expert_weights(l, true);
    size_t td = (size_t)hs.tokens * hs.dim;
    real *dy = w->td[0], *dx_norm = w->td[1], *dx = w->td[2];
    clear(c, dh, td * hs.streams);
    clear(c, dy, td);
    clear(c, dx_norm, td);
    clear(c, dx, td);
    clear(c, w->mixes, (size_t)hs.tokens * hyper_mixes(&hs));
    clear(c, w->weights, (size_t)hs.tokens * xs.active);
    REAL(hyper_spread_backward)(c->team, &hs, s->h, s->ffn_out, s->hyper_ffn.mixes, dout, dh, dy, w->mixes);
    REAL(experts_backward)
    (c->team, &xs, s->ffn_in, s->weights, &weights, &s->mixture, w->experts, dy, dx_norm, w->weights, &gradients);
    route_back(c, dx_norm, losses);
    REAL(norm_backward)
    (c->team, hs.tokens, hs.dim, s->ffn_x, l->ffn_norm->use, s->ffn_inverse, dx_norm, dx, l->ffn_norm->gradient);
    REAL(hyper_collapse_backward)(c->team, &hs, s->h, &hw, &s->hyper_ffn, dx, w->mixes, dh, &hg);
}

/* dh [T, H, D] is set from dout. */
static void attend_back(CALL, const real *h, const real *dout, real *dh, struct step_losses *losses) {
    const struct REAL(layer_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct REAL(work) *w = c->work;
    struct hyper_shape hs = hyper_shape_of(c);
    struct hyper_weights hw = weights_of(&l->hyper_attn);
    struct hyper_gradients hg = gradients_of(&l->hyper_attn);
    struct REAL(attention_call) a = attention_of(c);
    size_t td = (size_t)hs.tokens * hs.dim;
    real *dy = w->td[0], *dx_norm = w->td[1], *dx = w->td[2];
    clear(c, dh, td * hs.streams);
    clear(c, dy, td);
    clear(c, dx_norm, td);
    clear(c, dx, td);
    clear(c, w->mixes, (size_t)hs.tokens * hyper_mixes(&hs));
    REAL(hyper_spread_backward)(c->team, &hs, h, s->attn_out, s->hyper_attn.mixes, dout, dh, dy, w->mixes);
    REAL(attention_backward)(&a, s->attn_in, dy, dx_norm, losses);
    REAL(norm_backward)
    (c->team, hs.tokens, hs.dim, s->attn_x, l->attn_norm->use, s->attn_inverse, dx_norm, dx, l->attn_norm->gradient);
    REAL(hyper_collapse_backward)(c->team, &hs, h, &hw, &s->hyper_attn, dx, w->mixes, dh, &hg);
}

/* dh [T, H, D] is set from dout. */
static void recall_back(CALL, const real *h, const real *dout, real *dh) {
    const struct REAL(recalled) *s = &c->saved->engram;
    struct engram_sizes sizes = engram_sizes_of(c);
    struct engram_weights w = engram_weights_of(c->layer->engram);
    struct engram_gradients g = engram_gradients_of(c->layer->engram);
    real *de = c->recall->de;
    clear(c, dh, (size_t)sizes.tokens * sizes.streams * sizes.dim);
    clear(c, de, (size_t)sizes.tokens * sizes.inputs);
    REAL(engram_backward)(c->team, &sizes, h, s->e, &w, &s->pass, dout, c->work->engram, dh, de, &g);
}

void REAL(layer_backward)(CALL, const real *h, real *dout, real *dh, struct step_losses *losses) {
    real *middle = c->work->thd, *streams = c->layer->engram ? dout : dh;
    experts_back(c, dout, middle, losses);
    attend_back(c, streams_of(c, h), middle, streams, losses);
    if (c->layer->engram)
        recall_back(c, h, streams, dh);
}
