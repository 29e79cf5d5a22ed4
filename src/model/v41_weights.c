/*
 * v41_weights.c - DeepSeek-V4.1's tensors in their places, and the integers of Engram, which no tensor holds: they
 * follow from config.json and tokenizer.json.
 */
#include <stdio.h>
#include <stdlib.h>

#include "model/v41_internal.h"
#include "model/weights_internal.h"
#include "text/text.h"

/* ---------------------------------------------------------------------------------- Engram's integers */

/* Compact ids of all tokens. Ids that the tokenizer lacks count as padding. */
static void map_tokens(struct binder *b, int64_t *map) {
    const struct shape *s = b->s;
    struct buf path = {0};
    sonde_tokenizer *t = NULL;
    int64_t count = 0;
    file_join(&path, checkpoint_directory(b->c), "tokenizer.json");
    if (!b->rc)
        b->rc = path.failed ? err_memory(b->e) : sonde_tokenizer_open(path.data, &t, b->e);
    if (!b->rc) {
        uint32_t known = (uint32_t)min_u64(sonde_tokenizer_size(t), s->vocab);
        b->rc = text_compact_ids(t, known, map, &count, b->e);
        for (uint32_t i = known; i < s->vocab; i++)
            map[i] = s->engram.pad < known ? map[s->engram.pad] : 0;
    }
    if (!b->rc && count != s->v41.engram_ids)
        b->rc = err_set(b->e, SONDE_ERROR_FORMAT,
                        "%s: its tokens are %lld different words, but text_config.engram_compressed_vocab_size is %u",
                        path.data, (long long)count, s->v41.engram_ids);
    sonde_tokenizer_close(t);
    buf_release(&path);
}

/* Sizes of all hash tables are the next primes, layer by layer. */
static void check_rows(struct binder *b, const int64_t *sizes, uint32_t columns) {
    const struct shape *s = b->s;
    for (uint32_t i = 0; i < s->engram.count && !b->rc; i++) {
        uint64_t rows = 0;
        for (uint32_t k = 0; k < columns; k++)
            rows += (uint64_t)sizes[i * columns + k];
        if (rows != s->v41.engram_rows[i])
            b->rc = err_set(b->e, SONDE_ERROR_FORMAT,
                            "%s/config.json: field text_config.engram_num_embeddings[%u]: %llu, expected %llu, as "
                            "engram_vocab_size says",
                            checkpoint_directory(b->c), i, (unsigned long long)s->v41.engram_rows[i],
                            (unsigned long long)rows);
    }
}

static void make_hashes(struct binder *b) {
    const struct engram_shape *g = &b->s->engram;
    struct v41 *v = b->m->v41;
    uint32_t columns = (g->orders - 1) * g->heads;
    v->token_map = bind_array(b, b->s->vocab, sizeof(int64_t));
    v->multipliers = bind_array(b, (size_t)g->count * g->orders, sizeof(int64_t));
    v->sizes = bind_array(b, (size_t)g->count * columns, sizeof(int64_t));
    if (b->rc)
        return;
    engram_make_sizes(b->s->v41.engram_least, (size_t)g->count * columns, v->sizes);
    for (uint32_t i = 0; i < g->count; i++)
        engram_v41_multipliers(g->layers[i], b->s->v41.engram_ids, g->orders, v->multipliers + (size_t)i * g->orders);
    check_rows(b, v->sizes, columns);
    map_tokens(b, v->token_map);
}

/* -------------------------------------------------------------------------------------------- tensors */

/* part [H, D] as a vector for each stream. */
static struct matrix *bind_streams(struct binder *b, const char *part) {
    const struct shape *s = b->s;
    struct matrix all = {0}, *each = bind_array(b, s->streams, sizeof(*each));
    bind_plain(b, part, 2, (uint64_t[]){s->streams, s->hidden}, &all);
    for (uint32_t j = 0; j < s->streams && !b->rc; j++) {
        each[j] = all;
        each[j].rows = 1;
        each[j].data = (const uint8_t *)all.data + j * (matrix_bytes(&all) / s->streams);
    }
    return each;
}

static void bind_engram(struct binder *b, uint32_t number, struct v41_layer *l) {
    const struct shape *s = b->s;
    const struct engram_shape *shape = &s->engram;
    const struct v41 *v = b->m->v41;
    struct v41_engram *g = l->engram = bind_array(b, 1, sizeof(*g));
    if (!g)
        return;
    g->columns = (shape->orders - 1) * shape->heads;
    g->hash = (struct engram_hash){shape->orders, shape->heads, v->multipliers + (size_t)number * shape->orders,
                                   v->sizes + (size_t)number * g->columns};
    snprintf(b->name, sizeof(b->name), "%s.engram.embed", b->prefix);
    if (!b->rc)
        b->rc = checkpoint_table(b->c, b->name, (uint32_t)s->v41.engram_rows[number], shape->width / shape->heads,
                                 &g->table, b->e);
    bind_prepare(b, &g->table);
    bind_rounding_matrix(b, "engram.wkv", (uint64_t)(s->streams + 1) * s->hidden,
                         (uint64_t)(shape->orders - 1) * shape->width, &g->wkv);
    g->keys = bind_streams(b, "engram.k_weight");
    g->queries = bind_streams(b, "engram.q_weight");
}

static void bind_sources(struct binder *b, uint32_t index, struct attention_weights *w, struct v41_layer *l) {
    const struct shape *s = b->s;
    struct compressor *c = &w->compressor;
    if (s->v41.index_source[index] == index) {
        bind_rounding_matrix(b, "attn.indexer.wq_b", (uint64_t)s->index_heads * s->index_dim, s->q_rank,
                             &w->indexer.wq_b);
        bind_rounding_matrix(b, "attn.indexer.weights_proj", s->index_heads, s->hidden, &w->indexer.weights_proj);
    }
    if (s->v41.key_source[index] != index)
        return;
    c->ratio = s->ratios[index];
    c->dim = c->wide = s->head_dim;
    bind_rounding_matrix(b, "attn.compressor.wkv", s->head_dim, s->hidden, &c->wkv);
    if (c->ratio > 1)
        bind_matrix(b, "attn.compressor.wgate", s->head_dim, s->hidden, &c->wgate);
    bind_vector(b, "attn.compressor.norm.weight", s->head_dim, &c->norm);
    bind_rounding_matrix(b, "attn.indexer.wk", s->index_dim, s->head_dim, &l->wk);
    bind_vector(b, "attn.indexer.k_norm.weight", s->index_dim, &l->k_norm);
}

static void bind_layer(struct binder *b, uint32_t index) {
    const struct shape *s = b->s;
    uint64_t mixes = (uint64_t)(2 + s->streams) * s->streams;
    struct layer *l = &b->m->layers[index];
    snprintf(b->prefix, sizeof(b->prefix), "layers.%u", index);
    bind_hyper(b, "hc_attn", mixes, 3, &l->hc_attn);
    bind_hyper(b, "hc_ffn", mixes, 3, &l->hc_ffn);
    bind_vector(b, "attn_norm.weight", s->hidden, &l->attn_norm);
    bind_vector(b, "ffn_norm.weight", s->hidden, &l->ffn_norm);
    bind_attention(b, s->ratios[index], &l->attn);
    bind_sources(b, index, &l->attn, &b->m->v41->layers[index]);
    bind_experts(b, index, l);
    for (uint32_t i = 0; i < s->engram.count; i++)
        if (s->engram.layers[i] == index)
            bind_engram(b, i, &b->m->v41->layers[index]);
}

static void bind_host(struct binder *b) {
    struct model *m = b->m;
    struct v41 *v = m->v41;
    v->first_mix = bind_array(b, (size_t)m->rows * b->s->streams, sizeof(float));
    for (uint32_t i = 0; i < m->rows && !b->rc; i++)
        v->first_mix[(size_t)i * b->s->streams] = 1;
    v->host_chosen = bind_array(b, (size_t)m->rows * b->s->index_topk, sizeof(int32_t));
    v->host_counts = bind_array(b, m->rows, sizeof(int32_t));
}

int v41_bind(struct model *m, struct sonde_error *e) {
    const struct shape *s = m->shape;
    struct binder b = {.m = m, .c = m->checkpoint, .s = s, .e = e};
    m->v41 = bind_array(&b, 1, sizeof(*m->v41));
    if (!m->v41)
        return b.rc;
    m->v41->layers = bind_array(&b, s->layers, sizeof(*m->v41->layers));
    m->layers = bind_array(&b, s->layers, sizeof(*m->layers));
    bind_host(&b);
    bind_matrix(&b, "embed", s->vocab, s->hidden, &m->embed);
    bind_matrix(&b, "head", s->vocab, s->hidden, &m->head);
    bind_vector(&b, "norm.weight", s->hidden, &m->norm);
    if (s->engram.count)
        make_hashes(&b);
    for (uint32_t i = 0; i < s->layers && !b.rc; i++)
        bind_layer(&b, i);
    return b.rc;
}

void v41_release(struct model *m) {
    struct v41 *v = m->v41;
    weights_release(m);
    if (!v)
        return;
    for (uint32_t i = 0; v->layers && i < m->shape->layers; i++)
        if (v->layers[i].engram) {
            free(v->layers[i].engram->keys);
            free(v->layers[i].engram->queries);
            free(v->layers[i].engram);
        }
    void *owned[] = {v->layers, v->token_map, v->multipliers, v->sizes, v->first_mix, v->host_chosen, v->host_counts};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
    free(v);
}
