/*
 * weights.c - binds tensors to their places: names, dtypes and shapes are checked here, values never read.
 *
 * A binder carries the first failure; what follows it does nothing, so binding reads as a list.
 */
#include <stdio.h>
#include <stdlib.h>

#include "kernel/kernel.h"
#include "model/weights_internal.h"

static const char *named(struct binder *b, const char *part) {
    snprintf(b->name, sizeof(b->name), "%s%s%s", b->prefix, *b->prefix ? "." : "", part);
    return b->name;
}

/* Path of the shard that holds part, which is there. */
static const char *file_of(struct binder *b, const char *part) {
    return checkpoint_file(b->c, checkpoint_find(b->c, named(b, part)));
}

/* `official` precision rounds the inputs of quantised matrices in blocks, which must divide them. */
static void check_blocks(struct binder *b, const struct matrix *m) {
    uint32_t block = b->m->architecture->activation_block;
    if (!b->rc && b->m->precision.activations_fp8 && matrix_quantised(m) && m->cols % block)
        b->rc =
            err_set(b->e, SONDE_ERROR_UNSUPPORTED,
                    "tensor %s.weight: %u columns; official precision needs a multiple of %u", b->name, m->cols, block);
}

void bind_prepare(struct binder *b, struct matrix *m) {
    if (!b->rc)
        b->rc = b->m->device->ops->prepare(b->m->device, m, b->e);
}

/* part.weight [rows, cols] */
void bind_matrix(struct binder *b, const char *part, uint64_t rows, uint64_t cols, struct matrix *m) {
    if (b->rc)
        return;
    b->rc = checkpoint_matrix(b->c, named(b, part), (uint32_t)rows, (uint32_t)cols, m, b->e);
    bind_prepare(b, m);
}

/* A matrix whose inputs step_linear() and the experts round. */
void bind_rounding_matrix(struct binder *b, const char *part, uint64_t rows, uint64_t cols, struct matrix *m) {
    bind_matrix(b, part, rows, cols, m);
    check_blocks(b, m);
}

/* part, not quantised, of this shape */
void bind_plain(struct binder *b, const char *part, uint32_t rank, const uint64_t *dims, struct matrix *m) {
    if (b->rc)
        return;
    b->rc = checkpoint_plain(b->c, named(b, part), rank, dims, m, b->e);
    bind_prepare(b, m);
}

void bind_vector(struct binder *b, const char *part, uint64_t n, struct matrix *m) {
    bind_plain(b, part, 1, &n, m);
}

static void integers(struct binder *b, const char *part, uint32_t rank, const uint64_t *dims, struct integers *out) {
    if (!b->rc)
        b->rc = checkpoint_integers(b->c, named(b, part), rank, dims, out, b->e);
}

/* calloc that reports through the binder. */
void *bind_array(struct binder *b, size_t count, size_t size) {
    void *memory = b->rc ? NULL : calloc(count ? count : 1, size);
    if (!b->rc && !memory)
        b->rc = err_memory(b->e);
    return memory;
}

/* ------------------------------------------------------------------------------------- the parts */

void bind_hyper(struct binder *b, const char *part, uint64_t mixes, uint64_t scales, struct hyper_weights *w) {
    char name[64];
    snprintf(name, sizeof(name), "%s_fn", part);
    bind_plain(b, name, 2, (uint64_t[]){mixes, (uint64_t)b->s->streams * b->s->hidden}, &w->fn);
    snprintf(name, sizeof(name), "%s_scale", part);
    bind_vector(b, name, scales, &w->scale);
    snprintf(name, sizeof(name), "%s_base", part);
    bind_vector(b, name, mixes, &w->base);
}

static void bind_compressor(struct binder *b, const char *part, uint32_t ratio, uint32_t dim, struct compressor *c) {
    char name[64];
    c->ratio = ratio;
    c->dim = dim;
    c->overlap = ratio == INDEXED_RATIO;
    c->wide = dim * (c->overlap ? 2 : 1);
    snprintf(name, sizeof(name), "%s.wkv", part);
    bind_matrix(b, name, c->wide, b->s->hidden, &c->wkv);
    snprintf(name, sizeof(name), "%s.wgate", part);
    bind_matrix(b, name, c->wide, b->s->hidden, &c->wgate);
    snprintf(name, sizeof(name), "%s.ape", part);
    bind_plain(b, name, 2, (uint64_t[]){ratio, c->wide}, &c->ape);
    snprintf(name, sizeof(name), "%s.norm.weight", part);
    bind_vector(b, name, dim, &c->norm);
}

void bind_attention(struct binder *b, uint32_t ratio, struct attention_weights *w) {
    const struct shape *s = b->s;
    uint64_t wide = (uint64_t)s->heads * s->head_dim;
    w->ratio = ratio;
    bind_rounding_matrix(b, "attn.wq_a", s->q_rank, s->hidden, &w->wq_a);
    bind_vector(b, "attn.q_norm.weight", s->q_rank, &w->q_norm);
    bind_rounding_matrix(b, "attn.wq_b", wide, s->q_rank, &w->wq_b);
    bind_rounding_matrix(b, "attn.wkv", s->head_dim, s->hidden, &w->wkv);
    bind_vector(b, "attn.kv_norm.weight", s->head_dim, &w->kv_norm);
    bind_vector(b, "attn.attn_sink", s->heads, &w->sink);
    bind_matrix(b, "attn.wo_a", (uint64_t)s->o_groups * s->o_rank, wide / s->o_groups, &w->wo_a);
    bind_rounding_matrix(b, "attn.wo_b", s->hidden, (uint64_t)s->o_groups * s->o_rank, &w->wo_b);
}

static void bind_entries(struct binder *b, uint32_t ratio, struct attention_weights *w) {
    const struct shape *s = b->s;
    if (ratio)
        bind_compressor(b, "attn.compressor", ratio, s->head_dim, &w->compressor);
    if (ratio == INDEXED_RATIO) {
        bind_rounding_matrix(b, "attn.indexer.wq_b", (uint64_t)s->index_heads * s->index_dim, s->q_rank,
                             &w->indexer.wq_b);
        bind_rounding_matrix(b, "attn.indexer.weights_proj", s->index_heads, s->hidden, &w->indexer.weights_proj);
        bind_compressor(b, "attn.indexer.compressor", ratio, s->index_dim, &w->indexer.compressor);
    }
}

static void bind_expert(struct binder *b, const char *part, uint64_t inter, struct device_expert *x) {
    char name[64];
    snprintf(name, sizeof(name), "%s.w1", part);
    bind_rounding_matrix(b, name, inter, b->s->hidden, &x->w1);
    snprintf(name, sizeof(name), "%s.w2", part);
    bind_rounding_matrix(b, name, b->s->hidden, inter, &x->w2);
    snprintf(name, sizeof(name), "%s.w3", part);
    bind_rounding_matrix(b, name, inter, b->s->hidden, &x->w3);
}

void bind_experts(struct binder *b, uint32_t index, struct layer *l) {
    const struct shape *s = b->s;
    char name[64];
    bind_matrix(b, "ffn.gate", s->experts, s->hidden, &l->router.gate);
    if (index < s->hash_layers) {
        integers(b, "ffn.gate.tid2eid", 2, (uint64_t[]){s->vocab, s->active}, &l->router.by_token);
        l->router.by_token_tensor = b->rc ? NULL : checkpoint_find(b->c, b->name);
    } else {
        bind_vector(b, "ffn.gate.bias", s->experts, &l->router.bias);
    }
    l->experts = bind_array(b, s->experts, sizeof(*l->experts));
    for (uint32_t e = 0; e < s->experts && !b->rc; e++) {
        snprintf(name, sizeof(name), "ffn.experts.%u", e);
        bind_expert(b, name, s->inter, &l->experts[e]);
    }
    bind_expert(b, "ffn.shared_experts", (uint64_t)s->inter * s->shared_experts, &l->shared);
}

static void optional_bias(struct binder *b, const char *part, uint64_t n, struct matrix *m) {
    if (!b->rc && checkpoint_find(b->c, named(b, part)))
        bind_vector(b, part, n, m);
}

/* One vector or matrix for each stream: "engram.norm1.0.weight" ... */
static struct matrix *streams_of(struct binder *b, const char *format, uint64_t n, bool optional) {
    struct matrix *m = bind_array(b, b->s->streams, sizeof(*m));
    char name[64];
    for (uint32_t j = 0; j < b->s->streams && !b->rc; j++) {
        snprintf(name, sizeof(name), format, j);
        if (optional)
            optional_bias(b, name, n, &m[j]);
        else
            bind_vector(b, name, n, &m[j]);
    }
    return m;
}

/* The few integers that hashing needs are read here: sums of sizes must be known to check the table. */
static void bind_hashes(struct binder *b, struct engram *g) {
    const struct engram_shape *s = &b->s->engram;
    struct integers multipliers = {0}, sizes = {0};
    uint64_t rows = 0, columns = (uint64_t)(s->orders - 1) * s->heads;
    g->columns = (uint32_t)columns;
    integers(b, "engram.multipliers", 1, (uint64_t[]){s->orders}, &multipliers);
    integers(b, "engram.head_sizes", 1, &columns, &sizes);
    g->multipliers = bind_array(b, s->orders, sizeof(int64_t));
    g->sizes = bind_array(b, columns, sizeof(int64_t));
    for (uint32_t i = 0; i < s->orders && !b->rc; i++)
        g->multipliers[i] = integers_at(&multipliers, i);
    for (uint32_t i = 0; i < columns && !b->rc; i++) {
        g->sizes[i] = integers_at(&sizes, i);
        if (g->sizes[i] <= 0 || g->sizes[i] > UINT32_MAX - (int64_t)rows)
            b->rc = err_set(b->e, SONDE_ERROR_FORMAT, "%s: tensor %s: size %lld of hash head %u is out of range",
                            file_of(b, "engram.head_sizes"), b->name, (long long)g->sizes[i], i);
        rows += (uint64_t)g->sizes[i];
    }
    bind_matrix(b, "engram.multi_head_embedding.embedding", rows, s->width / s->heads, &g->table);
}

static void bind_engram(struct binder *b, struct layer *l) {
    const struct shape *s = b->s;
    const struct engram_shape *shape = &s->engram;
    uint64_t hidden = (uint64_t)(shape->orders - 1) * shape->width, wide = (uint64_t)s->streams * s->hidden;
    struct engram *g = l->engram = bind_array(b, 1, sizeof(*g));
    char name[64];
    if (!g)
        return;
    if (!b->rc)
        b->rc = checkpoint_integers(b->c, "engram.token_map", 1, (uint64_t[]){s->vocab}, &g->token_map, b->e);
    bind_hashes(b, g);
    bind_matrix(b, "engram.value_proj", s->hidden, hidden, &g->value);
    optional_bias(b, "engram.value_proj.bias", s->hidden, &g->value_bias);
    g->keys = bind_array(b, s->streams, sizeof(*g->keys));
    for (uint32_t j = 0; j < s->streams && !b->rc; j++) {
        snprintf(name, sizeof(name), "engram.key_projs.%u", j);
        bind_matrix(b, name, s->hidden, hidden, &g->keys[j]);
    }
    g->key_biases = streams_of(b, "engram.key_projs.%u.bias", s->hidden, true);
    g->key_norms = streams_of(b, "engram.norm1.%u.weight", s->hidden, false);
    g->query_norms = streams_of(b, "engram.norm2.%u.weight", s->hidden, false);
    g->conv_norms = streams_of(b, "engram.short_conv.norms.%u.weight", s->hidden, false);
    bind_plain(b, "engram.short_conv.conv.weight", 3, (uint64_t[]){wide, 1, shape->taps}, &g->conv);
    g->conv.rows = (uint32_t)wide; /* [H D, 1, taps] is [H D, taps] */
    g->conv.cols = shape->taps;
}

static void bind_layer(struct binder *b, const char *kind, uint32_t number, uint32_t index, struct layer *l) {
    const struct shape *s = b->s;
    uint64_t mixes = (uint64_t)(2 + s->streams) * s->streams;
    snprintf(b->prefix, sizeof(b->prefix), "%s.%u", kind, number);
    bind_hyper(b, "hc_attn", mixes, 3, &l->hc_attn);
    bind_hyper(b, "hc_ffn", mixes, 3, &l->hc_ffn);
    bind_vector(b, "attn_norm.weight", s->hidden, &l->attn_norm);
    bind_vector(b, "ffn_norm.weight", s->hidden, &l->ffn_norm);
    bind_attention(b, s->ratios[index], &l->attn);
    bind_entries(b, s->ratios[index], &l->attn);
    bind_experts(b, index, l);
    if (index < s->layers && layer_has_engram(s, index))
        bind_engram(b, l);
}

/* The block is there if its entry projection is: some checkpoints use the name mtp.* for other things. */
static void bind_mtp(struct binder *b) {
    const struct shape *s = b->s;
    if (b->rc || !s->mtp_blocks || !checkpoint_find(b->c, "mtp.0.e_proj.weight"))
        return;
    struct mtp *p = b->m->mtp = bind_array(b, 1, sizeof(*p));
    if (!p)
        return;
    bind_layer(b, "mtp", 0, s->layers, &p->block);
    bind_rounding_matrix(b, "e_proj", s->hidden, s->hidden, &p->e_proj);
    bind_rounding_matrix(b, "h_proj", s->hidden, s->hidden, &p->h_proj);
    bind_vector(b, "enorm.weight", s->hidden, &p->enorm);
    bind_vector(b, "hnorm.weight", s->hidden, &p->hnorm);
    bind_vector(b, "norm.weight", s->hidden, &p->norm);
    bind_hyper(b, "hc_head", s->streams, 1, &p->hc_head);
}

/* ------------------------------------------------------------------------------------- the whole */

bool layer_has_engram(const struct shape *s, uint32_t layer) {
    for (uint32_t i = 0; i < s->engram.count; i++)
        if (s->engram.layers[i] == layer)
            return true;
    return false;
}

_Static_assert(HC_MAX_STREAMS == 16, "shape_parse() bounds hc_mult by this");
_Static_assert(ENGRAM_MOST_ORDERS == 64, "shape_parse() bounds max_ngram_size by this");

int weights_bind(struct model *m, struct sonde_error *e) {
    const struct shape *s = m->shape;
    struct binder b = {.m = m, .c = m->checkpoint, .s = s, .e = e};
    bind_matrix(&b, "embed", s->vocab, s->hidden, &m->embed);
    bind_matrix(&b, "head", s->vocab, s->hidden, &m->head);
    bind_vector(&b, "norm.weight", s->hidden, &m->norm);
    bind_hyper(&b, "hc_head", s->streams, 1, &m->hc_head);
    m->layers = bind_array(&b, s->layers, sizeof(*m->layers));
    for (uint32_t i = 0; i < s->layers && !b.rc; i++)
        bind_layer(&b, "layers", i, i, &m->layers[i]);
    bind_mtp(&b);
    return b.rc;
}

static void release_layer(struct layer *l) {
    free(l->experts);
    if (l->engram) {
        struct engram *g = l->engram;
        void *owned[] = {g->multipliers, g->sizes, g->keys, g->key_biases, g->key_norms, g->query_norms, g->conv_norms};
        for (size_t i = 0; i < COUNT_OF(owned); i++)
            free(owned[i]);
        free(g);
    }
}

void weights_release(struct model *m) {
    for (uint32_t i = 0; m->layers && i < m->shape->layers; i++)
        release_layer(&m->layers[i]);
    free(m->layers);
    if (m->mtp)
        release_layer(&m->mtp->block);
    free(m->mtp);
}
