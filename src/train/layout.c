/*
 * layout.c - which parameters a network of a shape has, and what they begin with.
 *
 * Matrices begin normal with deviation 0.5 / sqrt(columns), those that write into the streams with as much less as
 * there are sublayers (divided by sqrt(2 L)), so that the sum over layers begins near the size of an embedding; the
 * head, the embedding and Engram's tables with 0.02, which the released config says of the first two. Norms begin at 1,
 * sinks, biases and Engram's convolution at 0.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "train/net_internal.h"

enum { PARAMS_PER_LAYER = 48, PARAMS_BESIDE = 16 };

/* ------------------------------------------------------------------------------------------- shapes */

struct binder {
    struct REAL(net) * n;
    char prefix[32];
    struct sonde_error *e;
    int rc; /* the first failure */
};

static struct REAL(param) * add(struct binder *b, enum param_kind kind, enum param_form form, uint32_t stack,
                                uint32_t rows, uint32_t cols, const char *part) {
    return REAL(params_add)(&b->n->params, kind, form, stack, rows, cols, "%s%s", b->prefix, part);
}

static struct REAL(param) *
    matrix(struct binder *b, enum param_form form, uint32_t rows, uint32_t cols, const char *part) {
    return add(b, PARAM_MUON, form, 1, rows, cols, part);
}

static struct REAL(param) *
    vector(struct binder *b, enum param_kind kind, enum param_form form, uint32_t count, const char *part) {
    struct REAL(param) *p = add(b, kind, form, 1, 1, count, part);
    p->vector = true;
    return p;
}

static void bind_hyper(struct binder *b, uint32_t mixes, uint32_t scales, const char *fn, const char *scale,
                       const char *base, struct REAL(hyper_params) * h) {
    const struct shape *s = &b->n->shape;
    h->fn = add(b, PARAM_MUON, FORM_F32, 1, mixes, s->streams * s->hidden, fn);
    h->scale = vector(b, PARAM_STILL, FORM_F32, scales, scale);
    h->base = vector(b, PARAM_STILL, FORM_F32, mixes, base);
}

static void bind_compressor(struct binder *b, uint32_t ratio, uint32_t dim, const char *const names[4],
                            struct REAL(compressor) * c) {
    uint32_t width = compress_width(ratio, dim);
    c->ratio = ratio;
    c->dim = dim;
    c->wkv = matrix(b, FORM_BF16, width, b->n->shape.hidden, names[0]);
    c->wgate = matrix(b, FORM_BF16, width, b->n->shape.hidden, names[1]);
    c->ape = add(b, PARAM_STILL, FORM_F32, 1, ratio, width, names[2]);
    c->norm = vector(b, PARAM_ADAM, FORM_BF16, dim, names[3]);
}

static void bind_attention(struct binder *b, struct REAL(layer) * l) {
    static const char *const entries[] = {"attn.compressor.wkv.weight", "attn.compressor.wgate.weight",
                                          "attn.compressor.ape", "attn.compressor.norm.weight"};
    static const char *const keys[] = {"attn.indexer.compressor.wkv.weight", "attn.indexer.compressor.wgate.weight",
                                       "attn.indexer.compressor.ape", "attn.indexer.compressor.norm.weight"};
    const struct shape *s = &b->n->shape;
    uint32_t wide = s->heads * s->head_dim;
    l->wq_a = matrix(b, FORM_FP8, s->q_rank, s->hidden, "attn.wq_a.weight");
    l->q_norm = vector(b, PARAM_ADAM, FORM_BF16, s->q_rank, "attn.q_norm.weight");
    l->wq_b = matrix(b, FORM_FP8, wide, s->q_rank, "attn.wq_b.weight");
    l->wkv = matrix(b, FORM_FP8, s->head_dim, s->hidden, "attn.wkv.weight");
    l->kv_norm = vector(b, PARAM_ADAM, FORM_BF16, s->head_dim, "attn.kv_norm.weight");
    l->sink = vector(b, PARAM_STILL, FORM_F32, s->heads, "attn.attn_sink");
    l->wo_a = matrix(b, FORM_FP8, s->o_groups * s->o_rank, wide / s->o_groups, "attn.wo_a.weight");
    l->wo_b = matrix(b, FORM_FP8, s->hidden, s->o_groups * s->o_rank, "attn.wo_b.weight");
    if (l->ratio)
        bind_compressor(b, l->ratio, s->head_dim, entries, &l->entries);
    if (l->ratio == 4) {
        l->index_wq_b = matrix(b, FORM_FP8, s->index_heads * s->index_dim, s->q_rank, "attn.indexer.wq_b.weight");
        l->index_weight = matrix(b, FORM_BF16, s->index_heads, s->hidden, "attn.indexer.weights_proj.weight");
        bind_compressor(b, l->ratio, s->index_dim, keys, &l->keys);
    }
}

static void bind_experts(struct binder *b, bool hashed, struct REAL(layer) * l) {
    const struct shape *s = &b->n->shape;
    uint32_t shared = s->inter * s->shared_experts;
    l->gate = matrix(b, FORM_BF16, s->experts, s->hidden, "ffn.gate.weight");
    l->bias = hashed ? NULL : vector(b, PARAM_FIXED, FORM_F32, s->experts, "ffn.gate.bias");
    l->w1 = add(b, PARAM_MUON, FORM_FP4, s->experts, s->inter, s->hidden, "ffn.experts.#.w1.weight");
    l->w3 = add(b, PARAM_MUON, FORM_FP4, s->experts, s->inter, s->hidden, "ffn.experts.#.w3.weight");
    l->w2 = add(b, PARAM_MUON, FORM_FP4, s->experts, s->hidden, s->inter, "ffn.experts.#.w2.weight");
    l->shared_w1 = matrix(b, FORM_FP8, shared, s->hidden, "ffn.shared_experts.w1.weight");
    l->shared_w3 = matrix(b, FORM_FP8, shared, s->hidden, "ffn.shared_experts.w3.weight");
    l->shared_w2 = matrix(b, FORM_FP8, s->hidden, shared, "ffn.shared_experts.w2.weight");
}

/* A vector for each stream. */
static struct REAL(param) * vectors(struct binder *b, enum param_kind kind, const char *part) {
    struct REAL(param) *p = vector(b, kind, FORM_BF16, b->n->shape.hidden, part);
    p->stack = b->n->shape.streams;
    return p;
}

/* Rows of the table that all hashes of an Engram layer share. */
static uint32_t table_rows(struct binder *b, const struct engram_hash *hash) {
    int64_t rows = 0;
    for (uint32_t i = 0; i < (hash->orders - 1) * hash->heads; i++)
        rows += hash->sizes[i];
    if (rows > UINT32_MAX && !b->rc)
        b->rc = err_set(b->e, SONDE_ERROR_UNSUPPORTED, "%sengram: a table of %lld rows, training takes less than 2^32",
                        b->prefix, (long long)rows);
    return (uint32_t)rows;
}

static void bind_engram(struct binder *b, uint32_t place, struct REAL(engram) * g) {
    const struct shape *s = &b->n->shape;
    const struct engram_shape *x = &s->engram;
    const struct engram_plan *plan = b->n->plan;
    uint32_t orders = x->orders, columns = (orders - 1) * x->heads, inputs = (orders - 1) * x->width;
    g->hash = (struct engram_hash){orders, x->heads, plan->multipliers + (size_t)place * orders,
                                   plan->sizes + (size_t)place * columns};
    g->table = add(b, PARAM_TABLE, FORM_FP8, 1, table_rows(b, &g->hash), x->width / x->heads,
                   "engram.multi_head_embedding.embedding.weight");
    g->keys = add(b, PARAM_MUON, FORM_BF16, s->streams, s->hidden, inputs, "engram.key_projs.#.weight");
    g->value = matrix(b, FORM_BF16, s->hidden, inputs, "engram.value_proj.weight");
    if (plan->biases) {
        g->key_bias = vectors(b, PARAM_STILL, "engram.key_projs.#.bias");
        g->value_bias = vector(b, PARAM_STILL, FORM_BF16, s->hidden, "engram.value_proj.bias");
    }
    g->key_norm = vectors(b, PARAM_ADAM, "engram.norm1.#.weight");
    g->query_norm = vectors(b, PARAM_ADAM, "engram.norm2.#.weight");
    g->conv_norm = vectors(b, PARAM_ADAM, "engram.short_conv.norms.#.weight");
    g->conv = add(b, PARAM_STILL, FORM_BF16, 1, s->streams * s->hidden, x->taps, "engram.short_conv.conv.weight");
    g->conv->conv = true;
}

static void bind_layer(struct binder *b, uint32_t index, bool hashed, struct REAL(layer) * l) {
    const struct shape *s = &b->n->shape;
    uint32_t mixes = (2 + s->streams) * s->streams;
    l->ratio = s->ratios[index];
    bind_hyper(b, mixes, 3, "hc_attn_fn", "hc_attn_scale", "hc_attn_base", &l->hyper_attn);
    bind_hyper(b, mixes, 3, "hc_ffn_fn", "hc_ffn_scale", "hc_ffn_base", &l->hyper_ffn);
    l->attn_norm = vector(b, PARAM_ADAM, FORM_BF16, s->hidden, "attn_norm.weight");
    l->ffn_norm = vector(b, PARAM_ADAM, FORM_BF16, s->hidden, "ffn_norm.weight");
    for (uint32_t i = 0; i < s->engram.count && index < s->layers; i++)
        if (s->engram.layers[i] == index)
            bind_engram(b, i, l->engram = &b->n->engram[i]);
    bind_attention(b, l);
    bind_experts(b, hashed, l);
}

static void bind_ending(struct binder *b, struct REAL(ending) * end) {
    const struct shape *s = &b->n->shape;
    end->norm = vector(b, PARAM_ADAM, FORM_BF16, s->hidden, "norm.weight");
    bind_hyper(b, s->streams, 1, "hc_head_fn", "hc_head_scale", "hc_head_base", &end->hyper);
}

static void bind_mtp(struct binder *b, struct REAL(mtp) * m) {
    const struct shape *s = &b->n->shape;
    m->e_proj = matrix(b, FORM_FP8, s->hidden, s->hidden, "e_proj.weight");
    m->h_proj = matrix(b, FORM_FP8, s->hidden, s->hidden, "h_proj.weight");
    m->enorm = vector(b, PARAM_ADAM, FORM_BF16, s->hidden, "enorm.weight");
    m->hnorm = vector(b, PARAM_ADAM, FORM_BF16, s->hidden, "hnorm.weight");
    bind_ending(b, &m->ending);
}

/* ---------------------------------------------------------------------------------------- the whole */

static int check(const struct shape *s, struct sonde_error *e) {
    uint32_t ratio = 0;
    if (s->mtp_blocks > 1)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "num_nextn_predict_layers is %u, training takes at most 1",
                       s->mtp_blocks);
    for (uint32_t i = 0; i < s->layers + s->mtp_blocks; i++) {
        if (s->ratios[i] && s->ratios[i] != 4 && ratio && s->ratios[i] != ratio)
            return err_set(e, SONDE_ERROR_UNSUPPORTED, "compress_ratios: training takes one ratio besides 0 and 4");
        ratio = s->ratios[i] && s->ratios[i] != 4 ? s->ratios[i] : ratio;
    }
    if (s->streams > HYPER_MOST_STREAMS)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "hc_mult is %u, training takes at most %d", s->streams,
                       HYPER_MOST_STREAMS);
    return SONDE_OK;
}

static int take_lists(struct REAL(net) * n, struct sonde_error *e) {
    const struct shape *s = &n->shape;
    uint32_t blocks = REAL(net_blocks)(n);
    int rc = REAL(params_init)(&n->params, (size_t)PARAMS_PER_LAYER * blocks + PARAMS_BESIDE, e);
    n->layers = calloc(blocks, sizeof(*n->layers));
    n->engram = calloc((size_t)s->engram.count + 1, sizeof(*n->engram));
    n->tables = calloc((size_t)s->hash_layers * s->vocab * s->active + 1, sizeof(*n->tables));
    for (int i = 0; i < 2; i++)
        n->frequency[i] = calloc(s->rope_dim / 2 + 1, sizeof(float));
    if (rc || !n->layers || !n->engram || !n->tables || !n->frequency[0] || !n->frequency[1])
        return rc ? rc : err_memory(e);
    rotary_frequencies(s->rope_dim, s->rope_theta, NULL, n->frequency[0]);
    rotary_frequencies(s->rope_dim, s->compress_theta, s->yarn.factor > 0 ? &s->yarn : NULL, n->frequency[1]);
    return SONDE_OK;
}

int REAL(net_init)(struct REAL(net) * n, const struct shape *shape, const struct engram_plan *plan,
                   struct sonde_error *e) {
    assert(plan || !shape->engram.count);
    *n = (struct REAL(net)){.shape = *shape, .plan = shape->engram.count ? plan : NULL};
    int rc = check(shape, e);
    if (!rc)
        rc = take_lists(n, e);
    if (rc)
        return rc;
    struct binder b = {.n = n, .e = e};
    n->embed = add(&b, PARAM_ADAM, FORM_BF16, 1, shape->vocab, shape->hidden, "embed.weight");
    n->head = add(&b, PARAM_ADAM, FORM_BF16, 1, shape->vocab, shape->hidden, "head.weight");
    bind_ending(&b, &n->ending);
    for (uint32_t i = 0; i < shape->layers; i++) {
        snprintf(b.prefix, sizeof(b.prefix), "layers.%u.", i);
        bind_layer(&b, i, i < shape->hash_layers, &n->layers[i]);
        if (i < shape->hash_layers)
            n->layers[i].table = n->tables + (size_t)i * shape->vocab * shape->active;
    }
    if (shape->mtp_blocks) {
        snprintf(b.prefix, sizeof(b.prefix), "mtp.0.");
        bind_layer(&b, shape->layers, false, &n->layers[shape->layers]);
        bind_mtp(&b, &n->mtp);
    }
    return b.rc;
}

int REAL(net_place)(struct REAL(net) * n, struct sonde_error *e) {
    return REAL(params_place)(&n->params, e);
}

uint32_t REAL(net_blocks)(const struct REAL(net) * n) {
    return n->shape.layers + n->shape.mtp_blocks;
}

struct REAL(param) * REAL(net_bias)(const struct REAL(net) * n, uint32_t block) {
    return n->layers[block].bias;
}

double REAL(net_operations)(const struct REAL(net) * n) {
    double sum = 0;
    for (size_t i = 0; i < n->params.count; i++) {
        const struct REAL(param) *p = &n->params.list[i];
        double count = (double)REAL(param_count)(p);
        if (p == n->embed || p->vector || p->kind == PARAM_TABLE)
            continue;
        sum += strstr(p->name, ".experts.") ? count * n->shape.active / n->shape.experts : count;
        sum += p == n->head && n->shape.mtp_blocks ? count : 0;
    }
    return 6 * sum;
}

void REAL(net_release)(struct REAL(net) * n) {
    REAL(params_release)(&n->params);
    free(n->layers);
    free(n->engram);
    free(n->tables);
    free(n->frequency[0]);
    free(n->frequency[1]);
    *n = (struct REAL(net)){0};
}

/* --------------------------------------------------------------------------------------------- start */

static void fill(struct rng *r, const struct REAL(param) * p, double deviation) {
    for (size_t i = 0; i < REAL(param_count)(p); i++)
        p->value[i] = (real)(deviation * rng_normal(r));
}

static void fill_ones(const struct REAL(param) * p) {
    for (size_t i = 0; i < REAL(param_count)(p); i++)
        p->value[i] = 1;
}

static void start_hyper(const struct REAL(net) * n, struct rng *r, uint32_t iterations,
                        const struct REAL(hyper_params) * h) {
    struct hyper_shape s = {.streams = n->shape.streams, .dim = n->shape.hidden, .iterations = iterations};
    REAL(hyper_init)(&s, r, h->fn->value, h->scale->value, h->base->value);
}

static bool is_norm(const struct REAL(param) * p) {
    return p->vector && p->kind == PARAM_ADAM;
}

static bool writes_streams(const struct REAL(net) * n, const struct REAL(param) * p) {
    for (uint32_t i = 0; i < REAL(net_blocks)(n); i++)
        if (p == n->layers[i].wo_b || p == n->layers[i].w2 || p == n->layers[i].shared_w2)
            return true;
    return false;
}

/* The experts of a token are k different ones, by chance. */
static void start_tables(struct REAL(net) * n, struct rng *r) {
    const struct shape *s = &n->shape;
    for (size_t row = 0; row < (size_t)s->hash_layers * s->vocab; row++) {
        int32_t *experts = n->tables + row * s->active;
        for (uint32_t i = 0; i < s->active; i++) {
            bool again = true;
            while (again) {
                experts[i] = (int32_t)(rng_u64(r) % s->experts);
                again = false;
                for (uint32_t j = 0; j < i; j++)
                    again |= experts[j] == experts[i];
            }
        }
    }
}

void REAL(net_start)(struct REAL(net) * n, uint64_t seed) {
    const struct shape *s = &n->shape;
    struct rng r;
    rng_init(&r, seed);
    for (size_t i = 0; i < n->params.count; i++) {
        const struct REAL(param) *p = &n->params.list[i];
        bool small = p == n->embed || p == n->head || p->kind == PARAM_TABLE;
        double deviation = small ? 0.02 : 0.5 / sqrt(p->cols);
        if (is_norm(p))
            fill_ones(p);
        else if (p->kind == PARAM_MUON || p->kind == PARAM_ADAM || p->kind == PARAM_TABLE)
            fill(&r, p, writes_streams(n, p) ? deviation / sqrt(2.0 * s->layers) : deviation);
    }
    for (uint32_t i = 0; i < REAL(net_blocks)(n); i++) {
        start_hyper(n, &r, s->sinkhorn_iters, &n->layers[i].hyper_attn);
        start_hyper(n, &r, s->sinkhorn_iters, &n->layers[i].hyper_ffn);
    }
    start_hyper(n, &r, 0, &n->ending.hyper);
    if (s->mtp_blocks)
        start_hyper(n, &r, 0, &n->mtp.ending.hyper);
    start_tables(n, &r);
}
