/*
 * v41_engram.c - Engram as DeepSeek-V4.1 has it: the value is one for all streams, key and gate belong to each, and
 * what is recalled at a token does not reach the ones behind it.
 *
 *     h_j <- h_j + sigmoid(signed sqrt of RMSNorm(key_j) . RMSNorm(h_j) / sqrt(D)) * value
 *
 * The rows looked up are known from the tokens alone; before the text stands padding.
 */
#include "model/v41_internal.h"

static void look_up(struct step *st, const struct v41_engram *g) {
    struct model *m = st->m;
    const int64_t *map = m->v41->token_map;
    int64_t compact[ENGRAM_MOST_ORDERS];
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *seg = &st->segments[i];
        const int32_t *tokens = seg->sequence->tokens;
        for (uint32_t j = 0; j < seg->count; j++) {
            uint64_t at = seg->first + j;
            for (uint32_t back = 0; back < g->hash.orders; back++)
                compact[back] = map[at >= back ? (uint32_t)tokens[at - back] : m->shape->engram.pad];
            engram_hash_rows(&g->hash, compact, m->engram_ids + (size_t)(seg->row + j) * g->columns);
        }
    }
    st->ops->embed(st->d, &g->table, m->engram_ids, st->rows * g->columns, m->scratch.engram_rows, g->table.cols);
}

void v41_engram_run(struct step *st, uint32_t index, float *h) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    const struct v41_engram *g = m->v41->layers[index].engram;
    struct scratch *t = &m->scratch;
    uint32_t wide = s->streams * s->hidden;
    look_up(st, g);
    if (st->outputs->engram)
        st->outputs->engram(st->outputs->context, index, st->rows, g->columns, m->engram_ids);
    step_linear(st, &g->wkv, t->engram_rows, st->rows, m->v41->engram_kv);
    for (uint32_t j = 0; j < s->streams; j++) {
        struct device_engram_gate gate = {.key = m->v41->engram_kv + (size_t)j * s->hidden,
                                          .value = m->v41->engram_kv + wide,
                                          .ld = wide + (size_t)s->hidden,
                                          .h = h,
                                          .key_norm = g->keys[j],
                                          .query_norm = g->queries[j],
                                          .rows = st->rows,
                                          .streams = s->streams,
                                          .dim = s->hidden,
                                          .stream = j,
                                          .eps = s->engram.norm_eps,
                                          .out = t->engram_out};
        st->ops->engram_gate(st->d, &gate);
    }
    st->ops->add(st->d, h, wide, t->engram_out, wide, st->rows, wide);
    step_round(st, h, (uint64_t)st->rows * wide);
}
