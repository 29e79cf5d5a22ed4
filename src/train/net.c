/*
 * net.c - a step: from the ids of a batch to its losses and the gradients of all parameters.
 *
 * Layers keep the streams that entered them; what else a backward pass wants is kept too, or made again where memory is
 * short (recompute). Sizes and places of all memory come from one set of layouts, run twice.
 */
#include <stdlib.h>
#include <string.h>

#include "train/net_internal.h"

struct REAL(step) {
    uint8_t *memory;
    uint32_t tokens; /* room */
    bool recompute;
    struct REAL(places) places;
    struct REAL(layer_saved) * saved; /* [L], all the same memory where layers are computed again */
    struct REAL(work) work;
    real **entered; /* [L + 1]: [T, H, D] */
    struct hyper_saved head_mixes;
    real *head_x, *head_inverse, *head_in; /* [T, D], [T], [T, D] */
    int32_t **experts;                     /* [L]: [T, k], as chosen in the last run */
};

/* ------------------------------------------------------------------------------------------- layouts */

#define NUMBERS(a, count) arena_take(a, (count), sizeof(real))

static size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

void REAL(lay_places)(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(places) * p) {
    size_t half = n->shape.rope_dim / 2;
    p->positions = arena_take(a, tokens, sizeof(uint32_t));
    for (int i = 0; i < 2; i++) {
        p->turns[i] = NUMBERS(a, tokens * half * 2);
        p->entry_turns[i] = NUMBERS(a, tokens * half * 2);
        p->begins[i] = arena_take(a, (size_t)tokens + 1, sizeof(uint32_t));
    }
    p->entry_places = arena_take(a, tokens, sizeof(uint32_t));
}

static void lay_compressed(struct arena *a, const struct REAL(compressor) * k, uint32_t tokens,
                           struct REAL(compressed) * c) {
    size_t width = compress_width(k->ratio, k->dim), entries = tokens / k->ratio;
    c->kv = NUMBERS(a, tokens * width);
    c->score = NUMBERS(a, tokens * width);
    c->pooled = NUMBERS(a, entries * k->dim);
    c->entry = NUMBERS(a, entries * k->dim);
    c->inverse = NUMBERS(a, entries);
}

void REAL(lay_attention)(struct arena *a, const struct REAL(net) * n, const struct REAL(layer) * l, uint32_t tokens,
                         struct REAL(attention_saved) * s) {
    const struct shape *h = &n->shape;
    size_t t = tokens, nc = (size_t)h->heads * h->head_dim;
    s->q_low = NUMBERS(a, t * h->q_rank);
    s->q_low_inverse = NUMBERS(a, t);
    s->q_latent = NUMBERS(a, t * h->q_rank);
    s->q_raw = NUMBERS(a, t * nc);
    s->q_inverse = NUMBERS(a, t * h->heads);
    s->q = NUMBERS(a, t * nc);
    s->kv_raw = NUMBERS(a, t * h->head_dim);
    s->kv_inverse = NUMBERS(a, t);
    s->kv = NUMBERS(a, t * h->head_dim);
    if (l->ratio)
        lay_compressed(a, &l->entries, tokens, &s->entries);
    if (l->ratio == 4) {
        lay_compressed(a, &l->keys, tokens, &s->keys);
        s->index_q = NUMBERS(a, t * h->index_heads * h->index_dim);
        s->index_w = NUMBERS(a, t * h->index_heads);
        s->chosen = arena_take(a, t * h->index_topk, sizeof(uint32_t));
        s->counts = arena_take(a, t, sizeof(uint32_t));
    }
    s->out = NUMBERS(a, t * nc);
    s->log_sum = NUMBERS(a, t * h->heads);
    s->grouped = NUMBERS(a, t * nc);
    s->low = NUMBERS(a, t * h->o_groups * h->o_rank);
}

static void lay_hyper(struct arena *a, size_t tokens, size_t mixes, struct hyper_saved *s) {
    s->m = NUMBERS(a, tokens * mixes);
    s->mixes = NUMBERS(a, tokens * mixes);
    s->inverse = NUMBERS(a, tokens);
}

void REAL(lay_layer)(struct arena *a, const struct REAL(net) * n, const struct REAL(layer) * l, uint32_t tokens,
                     struct REAL(layer_saved) * s) {
    const struct shape *h = &n->shape;
    size_t t = tokens, mixes = (2 + (size_t)h->streams) * h->streams, shared = (size_t)h->inter * h->shared_experts;
    lay_hyper(a, t, mixes, &s->hyper_attn);
    lay_hyper(a, t, mixes, &s->hyper_ffn);
    real **const td[] = {&s->attn_x, &s->attn_in, &s->attn_out, &s->ffn_x, &s->ffn_in, &s->ffn_out};
    for (size_t i = 0; i < COUNT_OF(td); i++)
        *td[i] = NUMBERS(a, t * h->hidden);
    s->attn_inverse = NUMBERS(a, t);
    s->ffn_inverse = NUMBERS(a, t);
    s->h = NUMBERS(a, t * h->streams * h->hidden);
    REAL(lay_attention)(a, n, l, tokens, &s->attention);
    s->logits = NUMBERS(a, t * h->experts);
    s->weights = NUMBERS(a, t * h->active);
    s->experts = arena_take(a, t * h->active, sizeof(int32_t));
    s->mixture.order = arena_take(a, t * h->active, sizeof(uint32_t));
    s->mixture.begin = arena_take(a, (size_t)h->experts + 1, sizeof(uint32_t));
    s->mixture.gate = NUMBERS(a, t * h->active * h->inter);
    s->mixture.up = NUMBERS(a, t * h->active * h->inter);
    s->mixture.shared_gate = NUMBERS(a, t * shared);
    s->mixture.shared_up = NUMBERS(a, t * shared);
}

void REAL(lay_work)(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(work) * w) {
    const struct shape *h = &n->shape;
    size_t t = tokens, groups = (size_t)h->o_groups * h->o_rank, nc = (size_t)h->heads * h->head_dim;
    size_t dim = most(h->head_dim, h->index_dim);
    struct route_shape rs = {.tokens = tokens, .experts = h->experts};
    struct experts_shape xs = {
        .tokens = tokens, .dim = h->hidden, .inter = h->inter, .shared_inter = h->inter * h->shared_experts};
    struct loss_shape ls = {tokens, h->hidden, h->vocab};
    w->thd = NUMBERS(a, t * h->streams * h->hidden);
    w->thd2 = NUMBERS(a, t * h->streams * h->hidden);
    for (size_t i = 0; i < COUNT_OF(w->td); i++)
        w->td[i] = NUMBERS(a, t * h->hidden);
    w->mixes = NUMBERS(a, t * (2 + (size_t)h->streams) * h->streams);
    for (size_t i = 0; i < COUNT_OF(w->tnc); i++)
        w->tnc[i] = NUMBERS(a, t * most(nc, groups));
    for (size_t i = 0; i < 2; i++) {
        w->tc[i] = NUMBERS(a, t * h->head_dim);
        w->tr[i] = NUMBERS(a, t * h->q_rank);
        w->entry[i] = NUMBERS(a, t * dim);
        w->wide[i] = NUMBERS(a, t * 2 * dim);
    }
    w->low = NUMBERS(a, t * groups);
    w->delta = NUMBERS(a, t * h->heads);
    w->shares = NUMBERS(a, t * (t / 4 + 1));
    w->losses = NUMBERS(a, t);
    w->index_q = NUMBERS(a, t * h->index_heads * h->index_dim);
    w->index_w = NUMBERS(a, t * h->index_heads);
    w->logits = NUMBERS(a, t * h->experts);
    w->weights = NUMBERS(a, t * h->active);
    w->balance = NUMBERS(a, route_balance_work(&rs, tokens));
    w->experts = NUMBERS(a, experts_work(&xs));
    w->loss = NUMBERS(a, loss_work(&ls));
    w->embed = arena_take(a, embed_work(h->vocab, tokens), sizeof(uint32_t));
}

static void lay_step(struct arena *a, const struct REAL(net) * n, struct REAL(step) * s) {
    const struct shape *h = &n->shape;
    size_t t = s->tokens;
    REAL(lay_places)(a, n, s->tokens, &s->places);
    REAL(lay_work)(a, n, s->tokens, &s->work);
    for (uint32_t i = 0; i <= h->layers; i++)
        s->entered[i] = NUMBERS(a, t * h->streams * h->hidden);
    lay_hyper(a, t, h->streams, &s->head_mixes);
    s->head_x = NUMBERS(a, t * h->hidden);
    s->head_inverse = NUMBERS(a, t);
    s->head_in = NUMBERS(a, t * h->hidden);
    size_t begin = a->used, end = begin;
    for (uint32_t i = 0; i < h->layers; i++) {
        if (s->recompute)
            a->used = begin;
        REAL(lay_layer)(a, n, &n->layers[i], s->tokens, &s->saved[i]);
        end = most(end, a->used);
    }
    a->used = end;
    for (uint32_t i = 0; i < h->layers; i++)
        s->experts[i] = arena_take(a, t * h->active, sizeof(int32_t));
}

int REAL(step_new)(const struct REAL(net) * n, uint32_t tokens, bool recompute, struct REAL(step) * *step,
                   struct sonde_error *e) {
    struct REAL(step) *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    s->tokens = tokens;
    s->recompute = recompute;
    s->saved = calloc(n->shape.layers, sizeof(*s->saved));
    s->entered = calloc((size_t)n->shape.layers + 1, sizeof(*s->entered));
    s->experts = calloc(n->shape.layers, sizeof(*s->experts));
    struct arena a = {0};
    if (s->saved && s->entered && s->experts) {
        lay_step(&a, n, s);
        s->memory = aligned_alloc(64, ceil_div(a.used, 64) * 64 + 64);
    }
    if (!s->memory) {
        REAL(step_free)(s);
        return err_memory(e);
    }
    a = (struct arena){.base = s->memory, .size = ceil_div(a.used, 64) * 64 + 64};
    lay_step(&a, n, s);
    *step = s;
    return SONDE_OK;
}

void REAL(step_free)(struct REAL(step) * s) {
    if (!s)
        return;
    free(s->memory);
    free(s->saved);
    free(s->entered);
    free(s->experts);
    free(s);
}

/* -------------------------------------------------------------------------------------------- places */

/* Positions of entries: the first of their tokens. */
static void set_entries(struct team *team, const struct REAL(net) * n, struct REAL(places) * p, int kind) {
    const struct batch *b = p->batch;
    uint32_t ratio = p->ratios[kind], at = 0;
    entries_layout(b, ratio, p->begins[kind]);
    for (uint32_t g = 0; g < b->segment_count; g++)
        for (uint32_t i = 0; i < b->segments[g].length / ratio; i++)
            p->entry_places[at++] = i * ratio;
    REAL(rotate_turns)(team, at, n->shape.rope_dim / 2, p->entry_places, n->frequency[1], p->entry_turns[kind]);
}

void REAL(places_set)(struct team *team, const struct REAL(net) * n, const struct batch *b, struct REAL(places) * p) {
    p->batch = b;
    p->ratios[0] = p->ratios[1] = 0;
    for (uint32_t i = 0; i < n->shape.layers; i++)
        if (n->layers[i].ratio)
            p->ratios[n->layers[i].ratio != 4] = n->layers[i].ratio;
    for (uint32_t g = 0; g < b->segment_count; g++)
        for (uint32_t i = 0; i < b->segments[g].length; i++)
            p->positions[b->segments[g].begin + i] = i;
    for (int i = 0; i < 2; i++)
        REAL(rotate_turns)(team, b->tokens, n->shape.rope_dim / 2, p->positions, n->frequency[i], p->turns[i]);
    for (int i = 0; i < 2; i++)
        if (p->ratios[i])
            set_entries(team, n, p, i);
}

/* ---------------------------------------------------------------------------------------------- a step */

struct running {
    struct team *team;
    struct REAL(step) * s;
    const struct REAL(net) * n;
    const struct batch *b;
    double share;
};

static struct REAL(layer_call) call_of(const struct running *r, uint32_t layer) {
    return (struct REAL(layer_call)){.team = r->team,
                                     .net = r->n,
                                     .layer = &r->n->layers[layer],
                                     .places = &r->s->places,
                                     .saved = &r->s->saved[layer],
                                     .work = &r->s->work,
                                     .share = r->share};
}

/* All streams of a token begin as its embedding. */
static void enter(const struct running *r) {
    const struct shape *h = &r->n->shape;
    real *x = r->s->work.td[0], *to = r->s->entered[0];
    REAL(embed_forward)(r->team, r->b->tokens, h->hidden, r->b->ids, r->n->embed->use, x);
    for (size_t t = 0; t < r->b->tokens; t++)
        for (uint32_t j = 0; j < h->streams; j++)
            memcpy(to + (t * h->streams + j) * h->hidden, x + t * h->hidden, h->hidden * sizeof(real));
}

static void enter_back(const struct running *r, const real *dh) {
    const struct shape *h = &r->n->shape;
    real *dx = r->s->work.td[0];
    for (size_t t = 0; t < r->b->tokens; t++)
        for (uint32_t c = 0; c < h->hidden; c++) {
            real sum = 0;
            for (uint32_t j = 0; j < h->streams; j++)
                sum += dh[(t * h->streams + j) * h->hidden + c];
            dx[t * h->hidden + c] = sum;
        }
    REAL(embed_backward)
    (r->team, r->b->tokens, h->hidden, h->vocab, r->b->ids, dx, r->s->work.embed, r->n->embed->gradient);
}

static struct hyper_shape head_shape(const struct running *r) {
    const struct shape *h = &r->n->shape;
    return (struct hyper_shape){
        .tokens = r->b->tokens, .streams = h->streams, .dim = h->hidden, .norm_eps = h->eps, .eps = h->hc_eps};
}

static void forward(const struct running *r) {
    const struct REAL(net) *n = r->n;
    struct REAL(step) *s = r->s;
    struct hyper_shape hs = head_shape(r);
    struct hyper_weights hw = {n->hyper_head.fn->use, n->hyper_head.scale->use, n->hyper_head.base->use};
    enter(r);
    for (uint32_t i = 0; i < n->shape.layers; i++) {
        struct REAL(layer_call) c = call_of(r, i);
        REAL(layer_forward)(&c, s->entered[i], s->entered[i + 1]);
        memcpy(s->experts[i], s->saved[i].experts, (size_t)r->b->tokens * n->shape.active * sizeof(int32_t));
    }
    REAL(hyper_collapse_forward)(r->team, &hs, s->entered[n->shape.layers], &hw, s->head_x, &s->head_mixes);
    REAL(norm_forward)
    (r->team, hs.tokens, hs.dim, (real)n->shape.eps, s->head_x, n->norm->use, s->head_in, s->head_inverse);
}

/* From the gradient of the head's input down to the embedding. */
static void backward(const struct running *r, const real *d_in, struct step_losses *losses) {
    const struct REAL(net) *n = r->n;
    struct REAL(step) *s = r->s;
    struct hyper_shape hs = head_shape(r);
    struct hyper_weights hw = {n->hyper_head.fn->use, n->hyper_head.scale->use, n->hyper_head.base->use};
    struct hyper_gradients hg = {n->hyper_head.fn->gradient, n->hyper_head.scale->gradient,
                                 n->hyper_head.base->gradient};
    size_t td = (size_t)hs.tokens * hs.dim;
    real *dx = s->work.td[1], *dh = s->work.thd2, *above = s->entered[n->shape.layers];
    memset(dx, 0, td * sizeof(real));
    memset(dh, 0, td * hs.streams * sizeof(real));
    memset(s->work.mixes, 0, (size_t)hs.tokens * hyper_mixes(&hs) * sizeof(real));
    REAL(norm_backward)
    (r->team, hs.tokens, hs.dim, s->head_x, n->norm->use, s->head_inverse, d_in, dx, n->norm->gradient);
    REAL(hyper_collapse_backward)(r->team, &hs, above, &hw, &s->head_mixes, dx, s->work.mixes, dh, &hg);
    for (uint32_t i = n->shape.layers; i-- > 0;) {
        struct REAL(layer_call) c = call_of(r, i);
        if (s->recompute)
            REAL(layer_forward)(&c, s->entered[i], above); /* what was there is not wanted any more */
        /* the streams above are not wanted either: their place takes the gradient of those below */
        REAL(layer_backward)(&c, s->entered[i], dh, s->entered[i + 1], losses);
        memcpy(dh, s->entered[i + 1], td * hs.streams * sizeof(real));
        above = s->entered[i];
    }
    enter_back(r, dh);
}

struct step_losses REAL(step_run)(struct team *team, struct REAL(step) * s, const struct REAL(net) * n,
                                  const struct batch *b, double scale, double share, bool backwards) {
    struct running r = {team, s, n, b, share};
    struct step_losses losses = {0};
    struct loss_shape ls = {b->tokens, n->shape.hidden, n->shape.vocab};
    real *d_in = s->work.td[2];
    REAL(places_set)(team, n, b, &s->places);
    forward(&r);
    memset(d_in, 0, (size_t)b->tokens * ls.dim * sizeof(real));
    struct loss_sum sum = REAL(loss)(team, &ls, s->head_in, n->head->use, b->targets, (real)scale, s->work.loss,
                                     backwards ? d_in : NULL, backwards ? n->head->gradient : NULL);
    losses.loss = sum.loss;
    losses.targets = sum.count;
    if (backwards)
        backward(&r, d_in, &losses);
    return losses;
}

void REAL(step_loads)(const struct REAL(step) * s, const struct REAL(net) * n, uint64_t *loads) {
    struct route_shape rs = {.tokens = s->places.batch->tokens, .experts = n->shape.experts, .active = n->shape.active};
    for (uint32_t i = 0; i < n->shape.layers; i++)
        REAL(route_loads)(&rs, s->experts[i], loads + (size_t)i * n->shape.experts);
}
