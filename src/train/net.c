/*
 * net.c - a step: from the ids of a batch to its losses and the gradients of all parameters.
 *
 * Layers keep the streams that entered them; what else a backward pass wants is kept too, or made again where memory is
 * short (recompute). The way back of multi-token prediction comes first, whose block was the last to run: what it saved
 * is there in any case. On the way down, the place of the streams behind a layer takes the gradient of those before it.
 */
#include <assert.h>
#include <string.h>

#include "train/lanes_internal.h"
#include "train/step_internal.h"

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

static void set_places(struct team *team, const struct REAL(net) * n, const struct batch *b, struct REAL(places) * p) {
    p->batch = b;
    p->ratios[0] = p->ratios[1] = 0;
    for (uint32_t i = 0; i < REAL(net_blocks)(n); i++)
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

/* ------------------------------------------------------------------------------------------- tables */

void REAL(step_begin)(struct REAL(step) * s) {
    for (size_t i = 0; i < s->table_count; i++) {
        engram_rows_clear(&s->reads[i].rows);
        s->tables[i].count = 0;
    }
}

/* Which rows a batch reads: behind those of the step's other batches. */
static void set_recalls(struct REAL(step) * s, const struct REAL(net) * n, const struct batch *b) {
    for (size_t i = 0; i < s->table_count; i++) {
        struct engram_rows *rows = &s->reads[i].rows;
        const struct REAL(engram) *g = &n->engram[i];
        size_t at = rows->slots;
        engram_rows_add(rows, &g->hash, n->plan->token_map, (int32_t)n->shape.engram.pad, b);
        s->recalls[i] = (struct REAL(recall)){.rows = {.slots = rows->slots - at, .rows = rows->rows + at},
                                              .de = s->reads[i].de + at * g->table->cols};
    }
}

/* A batch that is not run backward has read nothing. */
static void drop_recalls(struct REAL(step) * s) {
    for (size_t i = 0; i < s->table_count; i++)
        s->reads[i].rows.slots -= s->recalls[i].rows.slots;
}

static void sort_reads(void *context, uint32_t worker, size_t item) {
    struct REAL(step) *s = context;
    (void)worker;
    engram_rows_sort(&s->reads[item].rows);
}

void REAL(step_end)(struct team *team, struct REAL(step) * s, const struct REAL(net) * n) {
    team_each(team, s->table_count, sort_reads, s);
    for (size_t i = 0; i < s->table_count; i++) {
        const struct REAL(table_reads) *reads = &s->reads[i];
        uint32_t width = n->engram[i].table->cols;
        s->tables[i].count = (uint32_t)reads->rows.count;
        s->tables[i].rows = reads->rows.unique;
        team_clear(team, reads->gradient, reads->rows.count * width * sizeof(real));
        REAL(engram_table_gradient)(team, &reads->rows, width, reads->de, reads->gradient);
    }
}

const struct REAL(table_gradient) * REAL(step_tables)(const struct REAL(step) * s, size_t *count) {
    *count = s->table_count;
    return s->tables;
}

/* ------------------------------------------------------------------------------------------ the ends */

struct running {
    struct team *team;
    struct REAL(step) * s;
    const struct REAL(net) * n;
    const struct batch *b;
    double scale, share;
    bool backward;
};

/* Between the streams and the vectors of all of them, tokens dealt in blocks. */
struct entering {
    const struct running *r;
    real *streams; /* [T, H, D] */
    const real *gradient;
    real *sum; /* [T, D] */
};

/* All streams of a token begin as its embedding. */
static void enter_block(void *context, uint32_t worker, size_t item) {
    const struct entering *p = context;
    const struct shape *h = &p->r->n->shape;
    size_t end = min_u64(p->r->b->tokens, (item + 1) * BLOCK);
    (void)worker;
    for (size_t t = item * BLOCK; t < end; t++) {
        const real *from = p->r->n->embed->use + (size_t)p->r->b->ids[t] * h->hidden;
        for (uint32_t j = 0; j < h->streams; j++)
            memcpy(p->streams + (t * h->streams + j) * h->hidden, from, h->hidden * sizeof(real));
    }
}

static void sum_block(void *context, uint32_t worker, size_t item) {
    const struct entering *p = context;
    const struct shape *h = &p->r->n->shape;
    size_t end = min_u64(p->r->b->tokens, (item + 1) * BLOCK);
    (void)worker;
    for (size_t t = item * BLOCK; t < end; t++) {
        const real *from = p->gradient + t * h->streams * h->hidden;
        memcpy(p->sum + t * h->hidden, from, h->hidden * sizeof(real));
        for (uint32_t j = 1; j < h->streams; j++)
            lanes_axpy(p->sum + t * h->hidden, 1, from + (size_t)j * h->hidden, h->hidden);
    }
}

static void enter(const struct running *r) {
    struct entering p = {.r = r, .streams = r->s->entered[0]};
    team_each(r->team, ceil_div(r->b->tokens, BLOCK), enter_block, &p);
}

static void embed_back(const struct running *r, const struct batch *b, const real *dx) {
    const struct shape *h = &r->n->shape;
    REAL(embed_backward)
    (r->team, b->tokens, h->hidden, h->vocab, b->ids, dx, r->s->work.embed, r->n->embed->gradient);
}

static void enter_back(const struct running *r, const real *dh) {
    struct entering p = {.r = r, .gradient = dh, .sum = r->s->work.td[0]};
    team_each(r->team, ceil_div(r->b->tokens, BLOCK), sum_block, &p);
    embed_back(r, r->b, p.sum);
}

static struct hyper_shape ending_shape(const struct running *r, uint32_t tokens) {
    const struct shape *h = &r->n->shape;
    return (struct hyper_shape){
        .tokens = tokens, .streams = h->streams, .dim = h->hidden, .norm_eps = h->eps, .eps = h->hc_eps};
}

/* From the last streams h [T, H, D] to what the head takes. */
static void end_streams(const struct running *r, const struct REAL(ending) * end, uint32_t tokens, const real *h,
                        struct REAL(ending_saved) * s) {
    struct hyper_shape hs = ending_shape(r, tokens);
    struct hyper_weights hw = {end->hyper.fn->use, end->hyper.scale->use, end->hyper.base->use};
    REAL(hyper_collapse_forward)(r->team, &hs, h, &hw, s->x, &s->mixes);
    REAL(norm_forward)(r->team, tokens, hs.dim, (real)r->n->shape.eps, s->x, end->norm->use, s->in, s->inverse);
}

/* The loss of a batch's targets; if it is run backward, scale times its gradient is added to dh [T, H, D], that of the
 * last streams. */
static struct loss_sum end_back(const struct running *r, const struct REAL(ending) * end, const struct batch *b,
                                double scale, const real *h, const struct REAL(ending_saved) * s, real *dh) {
    struct hyper_shape hs = ending_shape(r, b->tokens);
    struct loss_shape ls = {b->tokens, hs.dim, r->n->shape.vocab};
    struct hyper_weights hw = {end->hyper.fn->use, end->hyper.scale->use, end->hyper.base->use};
    struct hyper_gradients hg = {end->hyper.fn->gradient, end->hyper.scale->gradient, end->hyper.base->gradient};
    struct REAL(work) *w = &r->s->work;
    real *dx = w->td[1], *d_in = w->td[2];
    size_t td = (size_t)hs.tokens * hs.dim;
    team_clear(r->team, d_in, td * sizeof(real));
    struct loss_sum sum = REAL(loss)(r->team, &ls, s->in, r->n->head->use, b->targets, (real)scale, w->loss,
                                     r->backward ? d_in : NULL, r->backward ? r->n->head->gradient : NULL);
    if (!r->backward)
        return sum;
    team_clear(r->team, dx, td * sizeof(real));
    team_clear(r->team, w->mixes, (size_t)hs.tokens * hyper_mixes(&hs) * sizeof(real));
    REAL(norm_backward)(r->team, hs.tokens, hs.dim, s->x, end->norm->use, s->inverse, d_in, dx, end->norm->gradient);
    REAL(hyper_collapse_backward)(r->team, &hs, h, &hw, &s->mixes, dx, w->mixes, dh, &hg);
    return sum;
}

/* ------------------------------------------------------------------------------------------ layers */

static struct REAL(layer_call) call_of(const struct running *r, uint32_t block) {
    const struct REAL(layer) *l = &r->n->layers[block];
    return (struct REAL(layer_call)){.team = r->team,
                                     .net = r->n,
                                     .layer = l,
                                     .places = block < r->n->shape.layers ? &r->s->places : &r->s->mtp.places,
                                     .recall = l->engram ? &r->s->recalls[l->engram - r->n->engram] : NULL,
                                     .saved = &r->s->saved[block],
                                     .work = &r->s->work,
                                     .share = r->share};
}

static void run_block(const struct running *r, uint32_t block, const real *h, real *out) {
    struct REAL(layer_call) c = call_of(r, block);
    REAL(layer_forward)(&c, h, out);
    memcpy(r->s->experts[block], c.saved->experts,
           (size_t)c.places->batch->tokens * r->n->shape.active * sizeof(int32_t));
}

static void forward(const struct running *r) {
    struct REAL(step) *s = r->s;
    uint32_t layers = r->n->shape.layers;
    set_places(r->team, r->n, r->b, &s->places);
    set_recalls(s, r->n, r->b);
    enter(r);
    for (uint32_t i = 0; i < layers; i++)
        run_block(r, i, s->entered[i], s->entered[i + 1]);
    end_streams(r, &r->n->ending, r->b->tokens, s->entered[layers], &s->ending);
    s->ran = r->b->tokens;
}

/* From the gradient of the last streams, which is lost, down to the embedding. */
static void backward(const struct running *r, real *dh, struct step_losses *losses) {
    struct REAL(step) *s = r->s;
    for (uint32_t i = r->n->shape.layers; i-- > 0;) {
        struct REAL(layer_call) c = call_of(r, i);
        if (s->recompute)
            REAL(layer_forward)(&c, s->entered[i], s->entered[i + 1]);
        REAL(layer_backward)(&c, s->entered[i], dh, s->entered[i + 1], losses);
        dh = s->entered[i + 1];
    }
    enter_back(r, dh);
}

/* ---------------------------------------------------------------------------- multi-token prediction */

static struct mtp_shape mtp_shape_of(const struct running *r) {
    return (struct mtp_shape){.streams = r->n->shape.streams, .dim = r->n->shape.hidden, .eps = r->n->shape.eps};
}

static void predict(const struct running *r) {
    const struct REAL(net) *n = r->n;
    struct REAL(predicted) *p = &r->s->mtp;
    struct mtp_shape ms = mtp_shape_of(r);
    struct mtp_weights w = {n->mtp.enorm->use, n->mtp.hnorm->use, n->mtp.e_proj->use, n->mtp.h_proj->use};
    const struct batch *b = &p->pairs.batch;
    uint32_t layers = n->shape.layers;
    set_places(r->team, n, b, &p->places);
    REAL(embed_forward)(r->team, b->tokens, ms.dim, b->ids, n->embed->use, p->embedded);
    REAL(mtp_forward)
    (r->team, &ms, &p->pairs, r->s->entered[layers], p->embedded, &w, r->s->work.mtp, p->entered, &p->saved);
    run_block(r, layers, p->entered, p->left);
    end_streams(r, &n->mtp.ending, b->tokens, p->left, &p->ending);
}

/* dh [T, H, D], of the block's streams, becomes that of the streams behind the layers. */
static void predict_back(const struct running *r, real *dh, struct step_losses *losses) {
    const struct REAL(net) *n = r->n;
    struct REAL(predicted) *p = &r->s->mtp;
    struct mtp_shape ms = mtp_shape_of(r);
    struct mtp_weights w = {n->mtp.enorm->use, n->mtp.hnorm->use, n->mtp.e_proj->use, n->mtp.h_proj->use};
    struct mtp_gradients g = {n->mtp.enorm->gradient, n->mtp.hnorm->gradient, n->mtp.e_proj->gradient,
                              n->mtp.h_proj->gradient};
    struct REAL(layer_call) c = call_of(r, n->shape.layers);
    const struct batch *b = &p->pairs.batch;
    real *d_entered = p->left, *d_embedded = r->s->work.td[0];
    size_t td = (size_t)ms.dim * sizeof(real);
    REAL(layer_backward)(&c, p->entered, dh, d_entered, losses);
    team_clear(r->team, dh, r->b->tokens * ms.streams * td);
    team_clear(r->team, d_embedded, b->tokens * td);
    REAL(mtp_backward)
    (r->team, &ms, &p->pairs, r->s->entered[n->shape.layers], p->embedded, &w, &p->saved, d_entered, r->s->work.mtp, dh,
     d_embedded, &g);
    embed_back(r, b, d_embedded);
}

/* dh [T, H, D], zeros, becomes the gradient of the streams behind the layers. */
static void look_further(const struct running *r, real *dh, struct step_losses *losses) {
    const struct REAL(net) *n = r->n;
    struct REAL(predicted) *p = &r->s->mtp;
    double weight = (double)n->options.mtp_weight;
    r->s->paired = 0;
    if (!n->shape.mtp_blocks || !(weight > 0))
        return;
    mtp_pairs_fill(&p->pairs, r->b);
    r->s->paired = p->pairs.batch.tokens;
    if (!r->s->paired)
        return;
    predict(r);
    struct loss_sum sum = end_back(r, &n->mtp.ending, &p->pairs.batch, r->scale * weight, p->left, &p->ending, dh);
    losses->mtp = sum.loss;
    losses->mtp_targets = sum.count;
    if (r->backward)
        predict_back(r, dh, losses);
}

/* -------------------------------------------------------------------------------------------- a batch */

struct step_losses REAL(step_run)(struct team *team, struct REAL(step) * s, const struct REAL(net) * n,
                                  const struct batch *b, double scale, double share, bool backwards) {
    struct running r = {team, s, n, b, scale, share, backwards};
    struct step_losses losses = {0};
    real *dh = s->work.thd2;
    assert(b->tokens <= s->tokens);
    if (backwards)
        team_clear(team, dh, (size_t)b->tokens * n->shape.streams * n->shape.hidden * sizeof(real));
    forward(&r);
    look_further(&r, dh, &losses);
    struct loss_sum sum = end_back(&r, &n->ending, b, scale, s->entered[n->shape.layers], &s->ending, dh);
    losses.loss = sum.loss;
    losses.targets = sum.count;
    if (backwards)
        backward(&r, dh, &losses);
    else
        drop_recalls(s);
    return losses;
}

void REAL(step_loads)(const struct REAL(step) * s, const struct REAL(net) * n, uint64_t *loads) {
    struct route_shape rs = {.experts = n->shape.experts, .active = n->shape.active};
    for (uint32_t i = 0; i < REAL(net_blocks)(n); i++) {
        rs.tokens = i < n->shape.layers ? s->ran : s->paired;
        REAL(route_loads)(&rs, s->experts[i], loads + (size_t)i * n->shape.experts);
    }
}
