/*
 * compressor.c - every `ratio` tokens become one entry (V4 report, section 2.3).
 *
 * Two projections of the layer's input, values and scores; a block's rows are pooled, channel by channel, by
 * the softmax of scores plus a bias by place in the block. Where blocks overlap (ratio 4) the projections are
 * twice as wide: an entry pools its own block through the second half of the channels and the block before
 * through the first. Then RMSNorm, and the rotation of the block's first position.
 *
 * An entry exists once its last token is there. Projections of tokens whose block is not complete, or is the
 * block before, wait in the cache's tail.
 */
#include "model/model_internal.h"

/* Turns of the positions (first + i) * ratio, i < count, into turns_entries. */
static void entry_turns(struct step *st, uint64_t first, uint64_t count, uint32_t ratio) {
    struct model *m = st->m;
    for (uint64_t i = 0; i < count; i++)
        m->positions[i] = (first + i) * ratio;
    st->ops->angles(st->d, m->frequency_compressed, m->shape->rope_dim / 2, m->positions, (uint32_t)count,
                    m->scratch.turns_entries);
}

/* Norm and rotation of `count` fresh entries. */
static void finish_entries(struct step *st, const struct compressor *c, float *entries, uint64_t first, uint64_t count,
                           bool for_index) {
    const struct shape *s = st->m->shape;
    step_round(st, entries, count * c->dim);
    step_norm(st, entries, count, c->dim, &c->norm, s->eps, entries);
    entry_turns(st, first, count, c->ratio);
    st->ops->rotate(st->d, entries, (uint32_t)count, 1, c->dim, st->m->scratch.turns_entries, s->rope_dim / 2, 1);
    step_round(st, entries, count * c->dim);
    if (for_index) {
        st->ops->hadamard(st->d, entries, count, c->dim);
        step_round(st, entries, count * c->dim);
    }
}

void entries_store(struct step *st, const struct row_format *format, struct device_pages pages, const float *x,
                   uint64_t first, uint64_t count) {
    for (uint64_t left; count; first += left, count -= left, x += left * format->dim) {
        const void *row = device_page_row(&pages, first, row_bytes(format), &left);
        left = min_u64(left, count);
        st->ops->store_rows(st->d, format, x, left, (void *)(uintptr_t)row);
    }
}

/* Appends the entries that x [S, D] completes to the caches of layer `index`: keys, or index keys. */
void compressor_run(struct step *st, const struct compressor *c, uint32_t index, const float *x, bool for_index) {
    struct scratch *t = &st->m->scratch;
    const struct row_format *format = for_index ? &st->m->cache_rows.index_key : &st->m->cache_rows.key;
    struct device_product list[] = {step_product(st, &c->wkv, x, t->pool_values),
                                    step_product(st, &c->wgate, x, t->pool_scores)};
    list[0].block = list[1].block = 0;
    st->ops->linear(st->d, list, 2, st->rows, st->m->precision.products_bf16);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        struct cache_layer *cache = &g->sequence->layers[index];
        struct cache_tail *tail = for_index ? &cache->index_tail : &cache->tail;
        const struct cache_layer_spec *spec = &st->m->specs[index];
        uint32_t ring_rows = for_index ? spec->index_tail.rows : spec->tail.rows;
        uint64_t first = g->first / c->ratio, count = (g->first + g->count) / c->ratio - first;
        struct device_pool p = {.values = t->pool_values + (size_t)g->row * c->wide,
                                .scores = t->pool_scores + (size_t)g->row * c->wide,
                                .ring_values = tail->values,
                                .ring_scores = tail->scores,
                                .bias = c->ape,
                                .first = g->first,
                                .first_entry = first,
                                .count = count,
                                .ratio = c->ratio,
                                .ring_rows = ring_rows,
                                .width = c->wide,
                                .dim = c->dim,
                                .overlap = c->overlap,
                                .out = t->entries};
        if (count) {
            st->ops->pool(st->d, &p);
            finish_entries(st, c, p.out, first, count, for_index);
            entries_store(st, format, sequence_entries(g->sequence, index, for_index), p.out, first, count);
        }
        st->ops->ring_store(st->d, tail->values, ring_rows, c->wide * sizeof(float), p.values, g->first, g->count);
        st->ops->ring_store(st->d, tail->scores, ring_rows, c->wide * sizeof(float), p.scores, g->first, g->count);
    }
}
