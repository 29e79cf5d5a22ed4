/*
 * v41_attention.c - keys and choices that several layers share (DeepSeek-V4.1).
 *
 *     key source     makes an entry of every `ratio` tokens of its own input, and an index key of each entry
 *     index source   chooses, for every token, entries of the last key source
 *     every layer    attends to its own window and, if its ratio is not 0, to what was chosen last
 *
 * So a layer is both sources, or chooses anew among older entries, or takes choice and entries as they are. From the
 * candidate source on choosing has two levels: it keeps blocks of entries, and those behind it look within these.
 *
 * An entry stands at the position of its first token. Blocks do not overlap; of ratio 1 the entry is a projection,
 * else the channels of its tokens are weighed by the softmax of their gates. Its index key is made of it before it is
 * rotated. Queries are not normed by head, and neither queries nor keys are spread by a Hadamard transform.
 */
#include <math.h>

#include "model/v41_internal.h"

/* --------------------------------------------------------------------------------- queries and window */

/* q [S, N, C] and the latent that the indexer shares. */
static void queries(struct step *st, const struct attention_weights *w, const float *x, const float *turns) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    step_linear(st, &w->wq_a, x, st->rows, t->q_latent);
    step_norm(st, t->q_latent, st->rows, s->q_rank, &w->q_norm, s->eps, t->q_latent);
    step_linear(st, &w->wq_b, t->q_latent, st->rows, t->q);
    st->ops->rotate(st->d, t->q, st->rows, s->heads, s->head_dim, turns, s->rope_dim / 2, 1);
    step_round(st, t->q, (uint64_t)st->rows * s->heads * s->head_dim);
}

static void window_keys(struct step *st, const struct attention_weights *w, const float *x, const float *turns) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    uint64_t count = (uint64_t)st->rows * s->head_dim;
    step_linear(st, &w->wkv, x, st->rows, t->key);
    step_norm(st, t->key, st->rows, s->head_dim, &w->kv_norm, s->eps, t->key);
    st->ops->rotate(st->d, t->key, st->rows, 1, s->head_dim, turns, s->rope_dim / 2, 1);
    step_round(st, t->key, count);
    if (st->m->precision.kv_fp8)
        st->ops->fake_e4m3(st->d, t->key, count, V41_WINDOW_BLOCK);
    st->ops->store_rows(st->d, &st->m->cache_rows.key, t->key, st->rows, t->key_rows);
}

/* -------------------------------------------------------------------------------------------- entries */

/* Index of the first entry that a segment completes, and how many it does. */
static uint64_t completed(const struct segment *g, uint32_t ratio, uint64_t *first) {
    *first = g->first / ratio;
    return (g->first + g->count) / ratio - *first;
}

/* Entries that the segments complete, one behind the other, before their norm; returns how many. */
static uint64_t pool(struct step *st, const struct compressor *c, uint32_t index, const float *x) {
    struct scratch *t = &st->m->scratch;
    struct device_product list[] = {step_product(st, &c->wkv, x, t->pool_values),
                                    step_product(st, &c->wgate, x, t->pool_scores)};
    uint64_t total = 0, first;
    list[0].block = list[1].block = 0;
    st->ops->linear(st->d, list, 2, st->rows, st->m->precision.products_bf16);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        const struct cache_tail *tail = &g->sequence->layers[index].tail;
        uint32_t ring_rows = st->m->specs[index].tail.rows;
        struct device_pool p = {.values = t->pool_values + (size_t)g->row * c->dim,
                                .scores = t->pool_scores + (size_t)g->row * c->dim,
                                .ring_values = tail->values,
                                .ring_scores = tail->scores,
                                .first = g->first,
                                .ratio = c->ratio,
                                .ring_rows = ring_rows,
                                .width = c->dim,
                                .dim = c->dim,
                                .out = t->entries + total * c->dim};
        p.count = completed(g, c->ratio, &first);
        p.first_entry = first;
        if (p.count)
            st->ops->pool(st->d, &p);
        total += p.count;
        st->ops->ring_store(st->d, tail->values, ring_rows, c->dim * sizeof(float), p.values, g->first, g->count);
        st->ops->ring_store(st->d, tail->scores, ring_rows, c->dim * sizeof(float), p.scores, g->first, g->count);
    }
    step_round(st, t->entries, total * c->dim);
    return total;
}

/* Turns of the first positions of all fresh entries, into turns_entries. */
static void entry_turns(struct step *st, uint32_t ratio) {
    struct model *m = st->m;
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->segment_count; i++) {
        uint64_t first, count = completed(&st->segments[i], ratio, &first);
        for (uint64_t j = 0; j < count; j++)
            m->positions[n++] = (first + j) * ratio;
    }
    st->ops->angles(st->d, m->frequency_compressed, m->shape->rope_dim / 2, m->positions, n, m->scratch.turns_entries);
}

/* Rotates and rounds fresh entries, and the index keys made of them, as the cache keeps them. */
static void finish_entries(struct step *st, uint64_t count) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    float *keys = st->m->v41->index_keys;
    uint32_t half = s->rope_dim / 2;
    st->ops->rotate(st->d, t->entries, (uint32_t)count, 1, s->head_dim, t->turns_entries, half, 1);
    step_round(st, t->entries, count * s->head_dim);
    if (st->m->precision.kv_fp8)
        st->ops->fake_e2m1_e4m3(st->d, t->entries, count * s->head_dim, V41_ENTRY_BLOCK);
    st->ops->rotate(st->d, keys, (uint32_t)count, 1, s->index_dim, t->turns_entries, half, 1);
    step_round(st, keys, count * s->index_dim);
    if (st->m->precision.index_fp4)
        st->ops->fake_e2m1(st->d, keys, count * s->index_dim, V41_INDEX_BLOCK);
}

/* Appends the entries that x [S, D] completes, and their index keys, to the caches of layer `index`. */
static void publish(struct step *st, uint32_t index, const float *x) {
    const struct shape *s = st->m->shape;
    const struct compressor *c = &st->m->layers[index].attn.compressor;
    const struct v41_layer *l = &st->m->v41->layers[index];
    struct scratch *t = &st->m->scratch;
    float *keys = st->m->v41->index_keys;
    uint64_t count = st->rows, at = 0;
    if (c->ratio == 1)
        step_linear(st, &c->wkv, x, count, t->entries);
    else
        count = pool(st, c, index, x);
    if (!count)
        return;
    step_norm(st, t->entries, count, s->head_dim, &c->norm, s->eps, t->entries);
    step_linear(st, &l->wk, t->entries, count, keys);
    step_norm(st, keys, count, s->index_dim, &l->k_norm, s->eps, keys);
    entry_turns(st, c->ratio);
    finish_entries(st, count);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        uint64_t first, fresh = completed(g, c->ratio, &first);
        entries_store(st, &st->m->cache_rows.key, sequence_entries(g->sequence, index, false),
                      t->entries + at * s->head_dim, first, fresh);
        entries_store(st, &st->m->cache_rows.index_key, sequence_entries(g->sequence, index, true),
                      keys + at * s->index_dim, first, fresh);
        at += fresh;
    }
}

/* --------------------------------------------------------------------------------------------- choice */

static void index_queries(struct step *st, const struct indexer *ix, const float *x) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    uint64_t heads = (uint64_t)st->rows * s->index_heads, count = heads * s->index_dim;
    step_linear(st, &ix->wq_b, t->q_latent, st->rows, t->index_q);
    st->ops->rotate(st->d, t->index_q, st->rows, s->index_heads, s->index_dim, t->turns_compressed, s->rope_dim / 2, 1);
    step_round(st, t->index_q, count);
    if (st->m->precision.index_fp4)
        st->ops->fake_e2m1(st->d, t->index_q, count, V41_INDEX_BLOCK);
    step_linear(st, &ix->weights_proj, x, st->rows, t->index_w);
    st->ops->scale(st->d, t->index_w, heads, (float)(1 / sqrt((double)s->index_dim) / sqrt((double)s->index_heads)));
    step_round(st, t->index_w, heads);
}

/* The layer whose index keys a segment is scored against. */
static uint32_t scored_layer(const struct step *st, const struct segment *g, uint32_t index) {
    const struct v41_shape *v = &st->m->shape->v41;
    bool stale = st->m->released_decode && g->count == 1 && g->first && (g->first + 1) % st->m->shape->ratios[index];
    return stale ? v->last_key_source : v->key_source[index];
}

static void trace_choice(struct step *st, uint32_t index) {
    struct model *m = st->m;
    struct v41 *v = m->v41;
    if (!st->outputs->chosen)
        return;
    st->ops->download(st->d, v->host_chosen, m->scratch.chosen, (size_t)st->rows * m->top * sizeof(int32_t));
    st->ops->download(st->d, v->host_counts, m->scratch.counts, st->rows * sizeof(int32_t));
    st->outputs->chosen(st->outputs->context, index, st->rows, m->top, v->host_chosen, v->host_counts);
}

/* Fills chosen and counts for every row. */
static void choose(struct step *st, uint32_t index, const float *x) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    const struct v41_shape *v = &s->v41;
    struct scratch *t = &m->scratch;
    bool two_levels = v->candidate_source != V41_NONE && index >= v->candidate_source;
    index_queries(st, &m->layers[index].attn.indexer, x);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        struct device_select select = {.q = t->index_q + (size_t)g->row * s->index_heads * s->index_dim,
                                       .w = t->index_w + (size_t)g->row * s->index_heads,
                                       .format = m->cache_rows.index_key,
                                       .keys = sequence_entries(g->sequence, scored_layer(st, g, index), true),
                                       .first = g->first,
                                       .rows = g->count,
                                       .heads = s->index_heads,
                                       .bf16 = m->precision.products_bf16,
                                       .round = m->precision.bf16,
                                       .ratio = s->ratios[index],
                                       .top = m->top,
                                       .chosen = t->chosen + (size_t)g->row * m->top,
                                       .counts = t->counts + g->row};
        if (two_levels) {
            select.within = index > v->candidate_source;
            select.block = v->candidate_block;
            select.most_blocks = v->candidate_blocks;
            select.blocks = m->v41->blocks + (size_t)g->row * v->candidate_blocks;
            select.block_counts = m->v41->block_counts + g->row;
        }
        st->ops->select(st->d, &select);
    }
    trace_choice(st, index);
}

/* ------------------------------------------------------------------------------------------ attention */

static void attend_segment(struct step *st, const struct attention_weights *w, uint32_t index,
                           const struct segment *g) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    struct scratch *t = &m->scratch;
    struct cache_layer *cache = &g->sequence->layers[index];
    size_t wide = (size_t)s->heads * s->head_dim, bytes = row_bytes(&m->cache_rows.key);
    struct device_attend a = {.q = t->q + g->row * wide,
                              .format = m->cache_rows.key,
                              .fresh = t->key_rows + g->row * bytes,
                              .ring = cache->window,
                              .ring_rows = m->specs[index].window,
                              .top = m->top,
                              .sink = w->sink,
                              .first = g->first,
                              .rows = g->count,
                              .heads = s->heads,
                              .bf16 = m->precision.products_bf16,
                              .window = s->window,
                              .ratio = w->ratio,
                              .scale = 1 / sqrtf((float)s->head_dim),
                              .out = t->attended + g->row * wide};
    if (w->ratio) {
        a.entries = sequence_entries(g->sequence, s->v41.key_source[index], false);
        a.chosen = t->chosen + (size_t)g->row * m->top;
        a.counts = t->counts + g->row;
    }
    st->ops->attend(st->d, &a);
    st->ops->ring_store(st->d, cache->window, a.ring_rows, bytes, a.fresh, g->first, g->count);
}

void v41_attention_run(struct step *st, uint32_t index, const float *x, float *y) {
    const struct shape *s = st->m->shape;
    const struct attention_weights *w = &st->m->layers[index].attn;
    struct scratch *t = &st->m->scratch;
    const float *turns = w->ratio ? t->turns_compressed : t->turns;
    uint64_t count = (uint64_t)st->rows * s->heads * s->head_dim;
    queries(st, w, x, turns);
    window_keys(st, w, x, turns);
    if (s->v41.key_source[index] == index)
        publish(st, index, x);
    if (s->v41.index_source[index] == index)
        choose(st, index, x);
    for (uint32_t i = 0; i < st->segment_count; i++)
        attend_segment(st, w, index, &st->segments[i]);
    step_round(st, t->attended, count);
    st->ops->rotate(st->d, t->attended, st->rows, s->heads, s->head_dim, turns, s->rope_dim / 2, -1);
    step_round(st, t->attended, count);
    attention_output(st, w, y);
}
