/*
 * forward.c - DeepSeek-V4 as an architecture: its blocks, its step, and what it keeps of each layer.
 *
 * Read block_run() first; it is the network.
 */
#include "model/model_internal.h"

/* -------------------------------------------------------------------------------------- the step */

void block_run(struct step *st, const struct layer *l, uint32_t index) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    if (l->engram)
        engram_run(st, l->engram, index, t->h);

    hyper_collapse(st, &l->hc_attn, t->h, t->x);
    step_norm(st, t->x, st->rows, s->hidden, &l->attn_norm, s->eps, t->x);
    attention_run(st, &l->attn, index, t->x, t->y);
    hyper_spread(st, t->y, t->h);

    hyper_collapse(st, &l->hc_ffn, t->h, t->x);
    step_norm(st, t->x, st->rows, s->hidden, &l->ffn_norm, s->eps, t->x);
    experts_run(st, l, index, t->x, t->y);
    hyper_spread(st, t->y, t->h);
}

void hyper_head_rows(struct step *st, const struct head *head, const uint32_t *rows, uint32_t count, float *x) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    size_t wide = (size_t)s->streams * s->hidden;
    for (uint32_t i = 0; i < count; i++)
        st->ops->copy(st->d, t->head_rows + i * wide, t->h + rows[i] * wide, wide);
    hyper_head(st, head->hyper, t->head_rows, count, x);
}

static void step(struct step *st) {
    struct model *m = st->m;
    const struct head head = {hyper_head_rows, &m->hc_head, &m->norm};
    if (m->mtp)
        mtp_catch_up(st);
    step_positions(st);
    step_embed(st);
    for (uint32_t i = 0; i < m->shape->layers && !st->rc; i++) {
        block_run(st, &m->layers[i], i);
        step_trace_layer(st, i);
    }
    step_check_streams(st);
    if (!st->rc && st->outputs->logits)
        head_emit(st, &head, st->outputs->logits);
    if (!st->rc && m->mtp)
        mtp_run(st);
}

/* ----------------------------------------------------------------------------------- what is kept */

static struct cache_rows cache_rows(const struct shape *s, const struct precision *p) {
    return (struct cache_rows){
        .key = {!p->kv_fp8   ? ROW_F32
                : p->kv_bf16 ? ROW_KEY
                             : ROW_KEY_F32,
                s->head_dim, s->rope_dim},
        .index_key = {.kind = p->index_fp4 ? ROW_INDEX : ROW_F32, .dim = s->index_dim},
    };
}

static struct cache_layer_spec layer_spec(const struct shape *s, const struct cache_rows *rows, uint32_t index) {
    uint32_t ratio = s->ratios[index];
    struct cache_layer_spec spec = {
        .window = s->window + RING_SPARE, .ratio = ratio, .key_bytes = row_bytes(&rows->key)};
    bool indexed = ratio == INDEXED_RATIO;
    uint32_t tail_rows = (indexed ? 2 * ratio : ratio) + RING_SPARE;
    if (ratio)
        spec.tail = (struct cache_tail_spec){tail_rows, indexed ? 2 * s->head_dim : s->head_dim};
    if (indexed) {
        spec.index_key_bytes = row_bytes(&rows->index_key);
        spec.index_tail = (struct cache_tail_spec){tail_rows, 2 * s->index_dim};
    }
    if (index < s->layers && layer_has_engram(s, index)) {
        spec.conv_rows = (s->engram.taps - 1) * s->engram.orders + RING_SPARE;
        spec.conv_width = s->streams * s->hidden;
    }
    return spec;
}

static void limits(const struct model *m, struct device_limits *l) {
    const struct shape *s = m->shape;
    for (uint32_t i = 0; i < m->blocks; i++) {
        uint32_t ratio = s->ratios[i];
        uint64_t entries = ratio ? m->context / ratio : 0;
        bool indexed = ratio == INDEXED_RATIO;
        l->keys = max_u64(l->keys, s->window + (indexed ? min_u64(entries, m->top) : entries));
        l->scored = max_u64(l->scored, indexed ? entries : 0);
        l->pool_rows = (uint32_t)max_u64(l->pool_rows, indexed ? 2 * ratio : ratio);
    }
}

const struct architecture architecture_v4 = {
    .activation_block = 128,
    .least_ratio = INDEXED_RATIO,
    .bind = weights_bind,
    .release = weights_release,
    .cache_rows = cache_rows,
    .layer_spec = layer_spec,
    .limits = limits,
    .step = step,
};
