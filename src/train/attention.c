/*
 * attention.c - the attention sublayer: from normed tokens to what is added to the streams, and back (V4 report,
 * section 2.3; forward: src/model/attention.c).
 *
 *     q_latent = norm(x wq_a)                    kv = turn(norm(x wkv))          entries = turn(norm(pool(x)))
 *     q = turn(unit(q_latent wq_b))              out = attend(q, kv, entries)
 *     low_g = turn back(out)_g wo_a_g            y = low wo_b
 *
 * The indexer learns from its own loss alone: nothing flows from it into x or q_latent, and nothing of the main loss
 * into it, as what it chooses is a constant there.
 */
#include <math.h>
#include <string.h>

#include "train/net_internal.h"

#define CALL const struct REAL(attention_call) * c

/* Sizes by their letters. */
struct sizes {
    size_t t, d, n, ch, nc, r, g, ro, half, hi, ci;
};

static struct sizes sizes_of(CALL) {
    const struct shape *s = &c->net->shape;
    return (struct sizes){.t = c->places->batch->tokens,
                          .d = s->hidden,
                          .n = s->heads,
                          .ch = s->head_dim,
                          .nc = (size_t)s->heads * s->head_dim,
                          .r = s->q_rank,
                          .g = s->o_groups,
                          .ro = s->o_rank,
                          .half = s->rope_dim / 2,
                          .hi = s->index_heads,
                          .ci = s->index_dim};
}

static size_t place_of(CALL) {
    return c->layer->ratio == 4 ? 0 : 1;
}

static const real *turns_of(CALL) {
    return c->places->turns[c->layer->ratio != 0];
}

static struct entries entries_of(CALL) {
    return (struct entries){.batch = c->places->batch,
                            .ratio = c->layer->ratio,
                            .begin = c->places->begins[place_of(c)],
                            .top = c->layer->ratio == 4 && !c->net->options.dense ? c->net->shape.index_topk : 0,
                            .chosen = c->saved->chosen,
                            .counts = c->saved->counts};
}

/* What a checkpoint keeps unrounded is multiplied unrounded too: compressors and the indexer's weights. */
static int exact(const struct REAL(param) * w) {
    return w->form == FORM_BF16 ? GEMM_EXACT : 0;
}

/* y = x w^T */
static void project(CALL, const struct REAL(param) * w, size_t rows, const real *x, real *y) {
    REAL(gemm)(c->team, GEMM_BT | exact(w), rows, w->rows, w->cols, x, w->use, y);
}

/* dx += dy w, dw += dy^T x; dx may be NULL. */
static void project_back(CALL, const struct REAL(param) * w, size_t rows, const real *x, const real *dy, real *dx) {
    if (dx)
        REAL(gemm)(c->team, GEMM_ADD | exact(w), rows, w->cols, w->rows, dy, w->use, dx);
    REAL(gemm)(c->team, GEMM_AT | GEMM_ADD | exact(w), w->rows, w->cols, rows, dy, x, w->gradient);
}

/* ------------------------------------------------------------------------------------------ compression */

static void compress(CALL, const struct REAL(compressor) * k, const real *x, bool index,
                     const struct REAL(compressed) * to) {
    struct sizes z = sizes_of(c);
    struct entries e = entries_of(c);
    size_t count = entries_total(&e);
    project(c, k->wkv, z.t, x, to->kv);
    project(c, k->wgate, z.t, x, to->score);
    REAL(compress_forward)(c->team, &e, k->dim, to->kv, to->score, k->ape->use, to->pooled);
    REAL(norm_forward)
    (c->team, count, k->dim, (real)c->net->shape.eps, to->pooled, k->norm->use, to->entry, to->inverse);
    REAL(rotate)(c->team, count, 1, k->dim, z.half, c->places->entry_turns[place_of(c)], 1, to->entry);
    if (index)
        REAL(hadamard)(c->team, count, k->dim, to->entry);
}

/* d_entry is lost. dx may be NULL. */
static void compress_back(CALL, const struct REAL(compressor) * k, const real *x, bool index,
                          const struct REAL(compressed) * of, real *d_entry, real *dx) {
    struct sizes z = sizes_of(c);
    struct entries e = entries_of(c);
    size_t count = entries_total(&e), width = compress_width(k->ratio, k->dim);
    real *d_pooled = c->work->entry[1], *d_kv = c->work->wide[0], *d_score = c->work->wide[1];
    if (index)
        REAL(hadamard)(c->team, count, k->dim, d_entry);
    REAL(rotate)(c->team, count, 1, k->dim, z.half, c->places->entry_turns[place_of(c)], -1, d_entry);
    memset(d_pooled, 0, count * k->dim * sizeof(real));
    memset(d_kv, 0, z.t * width * sizeof(real));
    memset(d_score, 0, z.t * width * sizeof(real));
    REAL(norm_backward)
    (c->team, count, k->dim, of->pooled, k->norm->use, of->inverse, d_entry, d_pooled, k->norm->gradient);
    REAL(compress_backward)
    (c->team, &e, k->dim, of->kv, of->score, k->ape->use, d_pooled, d_kv, d_score, k->ape->gradient);
    project_back(c, k->wkv, z.t, x, d_kv, dx);
    project_back(c, k->wgate, z.t, x, d_score, dx);
}

/* ---------------------------------------------------------------------------------------------- indexer */

static struct indexer indexer_of(CALL, const struct entries *e) {
    return (struct indexer){e, c->net->shape.index_heads, c->net->shape.index_dim};
}

static void choose(CALL, const real *x) {
    const struct REAL(attention_saved) *s = c->saved;
    struct sizes z = sizes_of(c);
    struct entries e = entries_of(c);
    struct indexer ix = indexer_of(c, &e);
    project(c, c->layer->index_wq_b, z.t, s->q_latent, s->index_q);
    REAL(rotate)(c->team, z.t, z.hi, z.ci, z.half, turns_of(c), 1, s->index_q);
    REAL(hadamard)(c->team, z.t * z.hi, z.ci, s->index_q);
    project(c, c->layer->index_weight, z.t, x, s->index_w);
    real scale = (real)(1 / sqrt((double)z.ci * (double)z.hi));
    for (size_t i = 0; i < z.t * z.hi; i++)
        s->index_w[i] *= scale;
    compress(c, &c->layer->keys, x, true, &s->keys);
    if (e.top)
        REAL(index_choose)(c->team, &ix, s->index_q, s->index_w, s->keys.entry);
}

/* The indexer's own loss, and its gradients. */
static void teach(CALL, const real *x, struct step_losses *losses) {
    const struct REAL(attention_saved) *s = c->saved;
    struct REAL(work) *w = c->work;
    struct sizes z = sizes_of(c);
    struct entries e = entries_of(c);
    struct indexer ix = indexer_of(c, &e);
    struct attention a = {c->places->batch, (uint32_t)z.n, (uint32_t)z.ch, c->net->shape.window, &e, false};
    uint32_t tokens = 0;
    real scale = (real)(1 / sqrt((double)z.ci * (double)z.hi));
    REAL(attend_shares)(c->team, &a, s->q, s->entries.entry, s->log_sum, w->shares);
    double loss = REAL(index_loss)(c->team, &ix, s->index_q, s->index_w, s->keys.entry, w->shares, w->losses, &tokens);
    if (!tokens)
        return;
    losses->index += loss * tokens;
    losses->index_tokens += tokens;
    memset(w->index_q, 0, z.t * z.hi * z.ci * sizeof(real));
    memset(w->index_w, 0, z.t * z.hi * sizeof(real));
    memset(w->entry[0], 0, entries_total(&e) * z.ci * sizeof(real));
    REAL(index_backward)
    (c->team, &ix, s->index_q, s->index_w, s->keys.entry, w->shares,
     (real)(c->share * (double)c->net->options.index_weight), w->index_q, w->index_w, w->entry[0]);
    for (size_t i = 0; i < z.t * z.hi; i++)
        w->index_w[i] *= scale;
    project_back(c, c->layer->index_weight, z.t, x, w->index_w, NULL);
    REAL(hadamard)(c->team, z.t * z.hi, z.ci, w->index_q);
    REAL(rotate)(c->team, z.t, z.hi, z.ci, z.half, turns_of(c), -1, w->index_q);
    project_back(c, c->layer->index_wq_b, z.t, s->q_latent, w->index_q, NULL);
    compress_back(c, &c->layer->keys, x, true, &s->keys, w->entry[0], NULL);
}

/* ----------------------------------------------------------------------------------------------- output */

/* [T, G, width] to [G, T, width], or back. */
struct regroup {
    size_t t, g, width;
    const real *from;
    real *to;
    bool back;
};

static void regroup_token(void *context, uint32_t worker, size_t t) {
    const struct regroup *r = context;
    (void)worker;
    for (size_t g = 0; g < r->g; g++) {
        size_t by_token = (t * r->g + g) * r->width, by_group = (g * r->t + t) * r->width;
        memcpy(r->to + (r->back ? by_token : by_group), r->from + (r->back ? by_group : by_token),
               r->width * sizeof(real));
    }
}

static void regroup(CALL, size_t width, const real *from, real *to, bool back) {
    struct sizes z = sizes_of(c);
    struct regroup r = {z.t, z.g, width, from, to, back};
    team_each(c->team, z.t, regroup_token, &r);
}

static void put_out(CALL, real *y) {
    const struct REAL(attention_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct sizes z = sizes_of(c);
    size_t width = z.nc / z.g;
    real *turned = c->work->tnc[0], *low = c->work->low;
    memcpy(turned, s->out, z.t * z.nc * sizeof(real));
    REAL(rotate)(c->team, z.t, z.n, z.ch, z.half, turns_of(c), -1, turned);
    regroup(c, width, turned, s->grouped, false);
    for (size_t g = 0; g < z.g; g++)
        REAL(gemm)
    (c->team, GEMM_BT, z.t, z.ro, width, s->grouped + g * z.t * width, l->wo_a->use + g * z.ro * width,
     low + g * z.t * z.ro);
    regroup(c, z.ro, low, s->low, true);
    project(c, l->wo_b, z.t, s->low, y);
}

/* d_out [T, N, C] is set. */
static void put_out_back(CALL, const real *dy, real *d_out) {
    const struct REAL(attention_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct REAL(work) *w = c->work;
    struct sizes z = sizes_of(c);
    size_t width = z.nc / z.g;
    real *d_low = w->low, *grouped_low = w->tnc[1], *d_grouped = w->tnc[2];
    memset(d_low, 0, z.t * z.g * z.ro * sizeof(real));
    project_back(c, l->wo_b, z.t, s->low, dy, d_low);
    regroup(c, z.ro, d_low, grouped_low, false);
    for (size_t g = 0; g < z.g; g++) {
        const real *dl = grouped_low + g * z.t * z.ro, *in = s->grouped + g * z.t * width;
        size_t at = g * z.ro * width;
        REAL(gemm)(c->team, 0, z.t, width, z.ro, dl, l->wo_a->use + at, d_grouped + g * z.t * width);
        REAL(gemm)(c->team, GEMM_AT | GEMM_ADD, z.ro, width, z.t, dl, in, l->wo_a->gradient + at);
    }
    regroup(c, width, d_grouped, d_out, true);
    REAL(rotate)(c->team, z.t, z.n, z.ch, z.half, turns_of(c), 1, d_out);
}

/* ------------------------------------------------------------------------------------------ the sublayer */

void REAL(attention_forward)(CALL, const real *x, real *y) {
    const struct REAL(attention_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct sizes z = sizes_of(c);
    struct entries e = entries_of(c);
    struct attention a = {c->places->batch,     (uint32_t)z.n,        (uint32_t)z.ch,
                          c->net->shape.window, l->ratio ? &e : NULL, false};
    real eps = (real)c->net->shape.eps;
    project(c, l->wq_a, z.t, x, s->q_low);
    REAL(norm_forward)(c->team, z.t, z.r, eps, s->q_low, l->q_norm->use, s->q_latent, s->q_low_inverse);
    project(c, l->wq_b, z.t, s->q_latent, s->q_raw);
    REAL(norm_forward)(c->team, z.t * z.n, z.ch, eps, s->q_raw, NULL, s->q, s->q_inverse);
    REAL(rotate)(c->team, z.t, z.n, z.ch, z.half, turns_of(c), 1, s->q);
    project(c, l->wkv, z.t, x, s->kv_raw);
    REAL(norm_forward)(c->team, z.t, z.ch, eps, s->kv_raw, l->kv_norm->use, s->kv, s->kv_inverse);
    REAL(rotate)(c->team, z.t, 1, z.ch, z.half, turns_of(c), 1, s->kv);
    if (l->ratio)
        compress(c, &l->entries, x, false, &s->entries);
    if (l->ratio == 4)
        choose(c, x);
    REAL(attend_forward)(c->team, &a, s->q, s->kv, s->entries.entry, l->sink->use, s->out, s->log_sum);
    put_out(c, y);
}

void REAL(attention_backward)(CALL, const real *x, const real *dy, real *dx, struct step_losses *losses) {
    const struct REAL(attention_saved) *s = c->saved;
    const struct REAL(layer) *l = c->layer;
    struct REAL(work) *w = c->work;
    struct sizes z = sizes_of(c);
    struct entries e = entries_of(c);
    struct attention a = {c->places->batch,     (uint32_t)z.n,        (uint32_t)z.ch,
                          c->net->shape.window, l->ratio ? &e : NULL, false};
    real *d_out = w->tnc[0], *d_q = w->tnc[1], *d_raw = w->tnc[2], *d_kv = w->tc[0], *d_kv_raw = w->tc[1];
    if (l->ratio == 4)
        teach(c, x, losses);
    put_out_back(c, dy, d_out);
    memset(d_q, 0, z.t * z.nc * sizeof(real));
    memset(d_kv, 0, z.t * z.ch * sizeof(real));
    memset(d_kv_raw, 0, z.t * z.ch * sizeof(real));
    if (l->ratio)
        memset(w->entry[0], 0, entries_total(&e) * z.ch * sizeof(real));
    REAL(attend_backward)
    (c->team, &a, s->q, s->kv, s->entries.entry, l->sink->use, s->out, s->log_sum, d_out, w->delta, d_q, d_kv,
     w->entry[0], l->sink->gradient);
    if (l->ratio)
        compress_back(c, &l->entries, x, false, &s->entries, w->entry[0], dx);
    REAL(rotate)(c->team, z.t, 1, z.ch, z.half, turns_of(c), -1, d_kv);
    REAL(norm_backward)
    (c->team, z.t, z.ch, s->kv_raw, l->kv_norm->use, s->kv_inverse, d_kv, d_kv_raw, l->kv_norm->gradient);
    project_back(c, l->wkv, z.t, x, d_kv_raw, dx);
    REAL(rotate)(c->team, z.t, z.n, z.ch, z.half, turns_of(c), -1, d_q);
    memset(d_raw, 0, z.t * z.nc * sizeof(real));
    REAL(norm_backward)(c->team, z.t * z.n, z.ch, s->q_raw, NULL, s->q_inverse, d_q, d_raw, NULL);
    memset(w->tr[0], 0, z.t * z.r * sizeof(real));
    memset(w->tr[1], 0, z.t * z.r * sizeof(real));
    project_back(c, l->wq_b, z.t, s->q_latent, d_raw, w->tr[0]);
    REAL(norm_backward)
    (c->team, z.t, z.r, s->q_low, l->q_norm->use, s->q_low_inverse, w->tr[0], w->tr[1], l->q_norm->gradient);
    project_back(c, l->wq_a, z.t, x, w->tr[1], dx);
}
