/*
 * attention.c - one latent that is both key and value, shared by all heads (V4 report, section 2.3).
 *
 *     q  = per-head-RMSNorm(wq_b RMSNorm(wq_a x)), last rope_dim channels of each head rotated
 *     kv = RMSNorm(wkv x), rotated likewise; stored in the window, and seen only as it is stored
 *     o  = softmax over window and compressed entries of q . kv / sqrt(C), with a sink in the denominator
 *     y  = wo_b concat_g(wo_a[g] o_g)
 *
 * Values carry the rotation of their position, so o is turned back by the query's. Ratio 0 sees the window
 * only; ratio 4 entries chosen by the indexer (CSA); other ratios all complete entries (HCA).
 */
#include <math.h>

#include "model/model_internal.h"

/* q [S, N, C] and the latent it is made from. */
static void queries(struct step *st, const struct attention_weights *w, const float *x, const float *turns) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    uint32_t rows = st->rows;
    uint64_t count = (uint64_t)rows * s->heads * s->head_dim;
    step_linear(st, &w->wq_a, x, rows, t->q_latent);
    step_norm(st, t->q_latent, rows, s->q_rank, &w->q_norm, s->eps, t->q_latent);
    step_linear(st, &w->wq_b, t->q_latent, rows, t->q);
    step_norm(st, t->q, (uint64_t)rows * s->heads, s->head_dim, NULL, s->eps, t->q);
    st->ops->rotate(st->d, t->q, rows, s->heads, s->head_dim, turns, s->rope_dim / 2, 1);
    step_round(st, t->q, count);
}

static void keys(struct step *st, const struct attention_weights *w, const float *x, const float *turns) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    step_linear(st, &w->wkv, x, st->rows, t->key);
    step_norm(st, t->key, st->rows, s->head_dim, &w->kv_norm, s->eps, t->key);
    st->ops->rotate(st->d, t->key, st->rows, 1, s->head_dim, turns, s->rope_dim / 2, 1);
    step_round(st, t->key, (uint64_t)st->rows * s->head_dim);
    st->ops->store_rows(st->d, &st->m->cache_rows.key, t->key, st->rows, t->key_rows);
}

static void attend_segment(struct step *st, const struct attention_weights *w, uint32_t index,
                           const struct segment *g) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    struct cache_layer *cache = &g->sequence->layers[index];
    size_t wide = (size_t)s->heads * s->head_dim, bytes = row_bytes(&st->m->cache_rows.key);
    bool indexed = w->ratio == INDEXED_RATIO;
    struct device_attend a = {.q = t->q + g->row * wide,
                              .format = st->m->cache_rows.key,
                              .fresh = t->key_rows + g->row * bytes,
                              .ring = cache->window,
                              .ring_rows = st->m->specs[index].window,
                              .entries = sequence_entries(g->sequence, index, false),
                              .chosen = indexed ? t->chosen + (size_t)g->row * st->m->top : NULL,
                              .counts = indexed ? t->counts + g->row : NULL,
                              .top = st->m->top,
                              .sink = w->sink,
                              .first = g->first,
                              .rows = g->count,
                              .heads = s->heads,
                              .bf16 = st->m->precision.products_bf16,
                              .window = s->window,
                              .ratio = w->ratio,
                              .scale = 1 / sqrtf((float)s->head_dim),
                              .out = t->attended + g->row * wide};
    st->ops->attend(st->d, &a);
    st->ops->ring_store(st->d, cache->window, a.ring_rows, bytes, a.fresh, g->first, g->count);
}

void attention_output(struct step *st, const struct attention_weights *w, float *y) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    size_t wide = (size_t)s->heads * s->head_dim, low = (size_t)s->o_groups * s->o_rank;
    struct device_product list[DEVICE_PRODUCTS];
    for (uint32_t g = 0, n = 0; g < s->o_groups; g++) {
        list[n++] = (struct device_product){.w = &w->wo_a,
                                            .row = g * s->o_rank,
                                            .rows = s->o_rank,
                                            .x = t->attended + g * (wide / s->o_groups),
                                            .ldx = wide,
                                            .y = t->low + (size_t)g * s->o_rank,
                                            .ldy = low};
        if (n == DEVICE_PRODUCTS || g + 1 == s->o_groups) {
            st->ops->linear(st->d, list, n, st->rows, st->m->precision.products_bf16);
            n = 0;
        }
    }
    step_round(st, t->low, st->rows * low);
    step_linear(st, &w->wo_b, t->low, st->rows, y);
}

/* y [S, D] = attention of layer `index` over x [S, D]; appends to the sequences' caches. */
void attention_run(struct step *st, const struct attention_weights *w, uint32_t index, const float *x, float *y) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    const float *turns = w->ratio ? t->turns_compressed : t->turns;
    uint64_t count = (uint64_t)st->rows * s->heads * s->head_dim;
    queries(st, w, x, turns);
    keys(st, w, x, turns);
    if (w->ratio)
        compressor_run(st, &w->compressor, index, x, false);
    if (w->ratio == INDEXED_RATIO)
        indexer_run(st, &w->indexer, index, x, t->q_latent);
    for (uint32_t i = 0; i < st->segment_count; i++)
        attend_segment(st, w, index, &st->segments[i]);
    step_round(st, t->attended, count);
    st->ops->rotate(st->d, t->attended, st->rows, s->heads, s->head_dim, turns, s->rope_dim / 2, -1);
    step_round(st, t->attended, count);
    attention_output(st, w, y);
}
