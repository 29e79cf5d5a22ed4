/*
 * v41_forward.c - DeepSeek-V4.1 as an architecture: its blocks, its step, and what it keeps of each layer.
 *
 * Read block() first; it is the network. What differs from V4: a sublayer collapses the streams with weights that the
 * sublayer before computed, the first one with stream 0 alone, the head with the last ones; keys, and the choice among
 * them, are shared by the layers up to the next source (v41_attention.c); Engram has no convolution (v41_engram.c); no
 * layer routes by token id.
 */
#include "model/v41_internal.h"

/* -------------------------------------------------------------------------------------- the step */

/* x [S, D]: the streams, collapsed with mix [S, H] and normed. */
static void enter(struct step *st, const float *mix, const struct matrix *norm) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    st->ops->collapse(st->d, t->h, mix, st->rows, s->streams, s->hidden, t->x);
    step_round(st, t->x, (uint64_t)st->rows * s->hidden);
    step_norm(st, t->x, st->rows, s->hidden, norm, s->eps, t->x);
}

static void block(struct step *st, uint32_t index) {
    struct model *m = st->m;
    const struct layer *l = &m->layers[index];
    struct scratch *t = &m->scratch;
    if (m->v41->layers[index].engram)
        v41_engram_run(st, index, t->h);

    hyper_mixes(st, &l->hc_attn, t->h, m->v41->mine);
    enter(st, m->v41->mix, &l->attn_norm);
    v41_attention_run(st, index, t->x, t->y);
    hyper_spread(st, t->y, t->h);

    hyper_mixes(st, &l->hc_ffn, t->h, m->v41->mix);
    enter(st, m->v41->mine, &l->ffn_norm);
    experts_run(st, l, index, t->x, t->y);
    hyper_spread(st, t->y, t->h);
}

/* The head's collapse, with what the last layer left. */
static void collapse_rows(struct step *st, const struct head *head, const uint32_t *rows, uint32_t count, float *x) {
    const struct shape *s = st->m->shape;
    (void)head;
    for (uint32_t i = 0; i < count; i++)
        st->ops->collapse(st->d, st->m->scratch.h + (size_t)rows[i] * s->streams * s->hidden,
                          st->m->v41->mix + (size_t)rows[i] * s->streams, 1, s->streams, s->hidden,
                          x + (size_t)i * s->hidden);
    step_round(st, x, (uint64_t)count * s->hidden);
}

static void step(struct step *st) {
    struct model *m = st->m;
    const struct head head = {collapse_rows, NULL, &m->norm};
    step_positions(st);
    step_embed(st);
    st->ops->upload(st->d, m->v41->mix, m->v41->first_mix, (size_t)st->rows * m->shape->streams * sizeof(float));
    for (uint32_t i = 0; i < m->shape->layers && !st->rc; i++) {
        block(st, i);
        step_trace_layer(st, i);
    }
    step_check_streams(st);
    if (!st->rc && st->outputs->logits)
        head_emit(st, &head, st->outputs->logits);
}

/* ----------------------------------------------------------------------------------- what is kept */

/* Keys are rounded before they are stored, and stored as floats. */
static struct cache_rows cache_rows(const struct shape *s, const struct precision *p) {
    (void)p;
    return (struct cache_rows){.key = {ROW_F32, s->head_dim, s->rope_dim},
                               .index_key = {.kind = ROW_F32, .dim = s->index_dim}};
}

/* Entries and index keys are their source's. */
static struct cache_layer_spec layer_spec(const struct shape *s, const struct cache_rows *rows, uint32_t index) {
    struct cache_layer_spec spec = {.window = s->window + RING_SPARE, .key_bytes = row_bytes(&rows->key)};
    if (s->v41.key_source[index] != index)
        return spec;
    spec.ratio = s->ratios[index];
    spec.index_key_bytes = row_bytes(&rows->index_key);
    if (spec.ratio > 1)
        spec.tail = (struct cache_tail_spec){spec.ratio + RING_SPARE, s->head_dim};
    return spec;
}

static void lay_out_scratch(struct model *m, struct arena *a) {
    const struct shape *s = m->shape;
    struct v41 *v = m->v41;
    v->mix = arena_take(a, m->rows, s->streams * sizeof(float));
    v->mine = arena_take(a, m->rows, s->streams * sizeof(float));
    v->index_keys = arena_take(a, m->rows, s->index_dim * sizeof(float));
    v->blocks = arena_take(a, m->rows, s->v41.candidate_blocks * sizeof(int32_t));
    v->block_counts = arena_take(a, m->rows, sizeof(int32_t));
    if (s->engram.count)
        v->engram_kv = arena_take(a, m->rows, (s->streams + 1) * (size_t)s->hidden * sizeof(float));
}

static void limits(const struct model *m, struct device_limits *l) {
    const struct shape *s = m->shape;
    for (uint32_t i = 0; i < s->layers; i++)
        if (s->ratios[i]) {
            l->keys = max_u64(l->keys, s->window + (uint64_t)m->top);
            l->scored = max_u64(l->scored, m->context / s->ratios[i]);
            l->pool_rows = (uint32_t)max_u64(l->pool_rows, s->ratios[i]);
        }
}

const struct architecture architecture_v41 = {
    .activation_block = 32,
    .least_ratio = 1,
    .bind = v41_bind,
    .release = v41_release,
    .cache_rows = cache_rows,
    .layer_spec = layer_spec,
    .lay_out_scratch = lay_out_scratch,
    .limits = limits,
    .step = step,
};
