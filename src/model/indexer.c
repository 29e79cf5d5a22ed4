/*
 * indexer.c - the lightning indexer: which entries a token may attend to.
 *
 * A small attention of its own, many narrow heads over narrow keys made by a compressor of its own, gives each
 * complete entry the score sum_h w_h relu(q_h . k); the best index_topk are attended to. Queries and keys pass
 * a Hadamard transform, which changes no product but spreads outliers before they are rounded to e2m1.
 */
#include <math.h>

#include "model/model_internal.h"

static void queries(struct step *st, const struct indexer *ix, const float *x, const float *q_latent) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    uint32_t heads = s->index_heads, dim = s->index_dim;
    uint64_t count = (uint64_t)st->rows * heads * dim;
    step_linear(st, &ix->wq_b, q_latent, st->rows, t->index_q);
    st->ops->rotate(st->d, t->index_q, st->rows, heads, dim, t->turns_compressed, s->rope_dim / 2, 1);
    step_round(st, t->index_q, count);
    st->ops->hadamard(st->d, t->index_q, (uint64_t)st->rows * heads, dim);
    step_round(st, t->index_q, count);
    if (st->m->precision.index_fp4)
        st->ops->fake_e2m1(st->d, t->index_q, count, ROW_INDEX_BLOCK);
    step_linear(st, &ix->weights_proj, x, st->rows, t->index_w);
    st->ops->scale(st->d, t->index_w, (uint64_t)st->rows * heads, (float)(1 / sqrt((double)dim) / sqrt((double)heads)));
}

/* Fills chosen and counts for every row, after adding the index keys that x [S, D] completes. */
void indexer_run(struct step *st, const struct indexer *ix, uint32_t index, const float *x, const float *q_latent) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    queries(st, ix, x, q_latent);
    compressor_run(st, &ix->compressor, index, x, true);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        struct device_select select = {.q = t->index_q + (size_t)g->row * s->index_heads * s->index_dim,
                                       .w = t->index_w + (size_t)g->row * s->index_heads,
                                       .format = st->m->cache_rows.index_key,
                                       .keys = sequence_entries(g->sequence, index, true),
                                       .first = g->first,
                                       .rows = g->count,
                                       .heads = s->index_heads,
                                       .bf16 = st->m->precision.products_bf16,
                                       .ratio = ix->compressor.ratio,
                                       .top = st->m->top,
                                       .chosen = t->chosen + (size_t)g->row * st->m->top,
                                       .counts = t->counts + g->row};
        st->ops->select(st->d, &select);
    }
}
