/*
 * synth_plan.c - the shapes of DeepSeek-V4 Flash and Pro and of a tiny model, as config.json and as tensors.
 *
 * Names, dtypes and the order of tensors are those of the released checkpoints. Weights have variance 1 /
 * columns, so that activations keep their size; norms lie near 1, the mixing of the residual streams near its
 * base, router scores apart and its bias small, so that tokens spread over the experts.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "synth_internal.h"

/* ---------------------------------------------------------------------------------------- config */

/* What differs between the kinds. The first two layers have ratio `first`; then 4 and 128 take turns. */
struct kind {
    uint32_t vocab, layers, hidden, heads, head_dim, rope_dim, q_rank, o_groups, o_rank, window;
    uint32_t index_heads, index_dim, index_topk, experts, active, inter, hash_layers, first;
    double route_scale;
    uint64_t shard_bytes;
};

/* In the order of SYNTH_KINDS. */
/* clang-format off */
static const struct kind kinds[] = {
    {.vocab = 129280, .layers = 43, .hidden = 4096, .heads = 64, .head_dim = 512, .rope_dim = 64, .q_rank = 1024,
     .o_groups = 8, .o_rank = 1024, .window = 128, .index_heads = 64, .index_dim = 128, .index_topk = 512,
     .experts = 256, .active = 6, .inter = 2048, .hash_layers = 3, .first = 0, .route_scale = 1.5,
     .shard_bytes = UINT64_C(4000000000)},
    {.vocab = 129280, .layers = 61, .hidden = 7168, .heads = 128, .head_dim = 512, .rope_dim = 64, .q_rank = 1536,
     .o_groups = 16, .o_rank = 1024, .window = 128, .index_heads = 64, .index_dim = 128, .index_topk = 1024,
     .experts = 384, .active = 6, .inter = 3072, .hash_layers = 3, .first = 128, .route_scale = 2.5,
     .shard_bytes = UINT64_C(4000000000)},
    {.vocab = 256, .layers = 5, .hidden = 128, .heads = 4, .head_dim = 96, .rope_dim = 32, .q_rank = 128,
     .o_groups = 2, .o_rank = 64, .window = 16, .index_heads = 16, .index_dim = 64, .index_topk = 8,
     .experts = 8, .active = 2, .inter = 128, .hash_layers = 1, .first = 0, .route_scale = 1.5,
     .shard_bytes = 400000},
};
/* clang-format on */

uint32_t synth_least_experts(int kind) {
    return kinds[kind].active;
}

static uint32_t given(uint32_t value, uint32_t otherwise) {
    return value ? value : otherwise;
}

/* The released pattern shows its kinds of attention within four layers; fewer layers take them in turn. */
static json_t *ratios(const struct kind *k, uint32_t layers, bool mtp) {
    static const uint32_t few[] = {0, 4, 128};
    json_t *list = json_array();
    for (uint32_t i = 0; i < layers; i++) {
        uint32_t real = i < 2 ? k->first : i % 2 ? 128 : 4;
        json_array_append_new(list, json_integer(layers <= COUNT_OF(few) ? few[i] : real));
    }
    if (mtp)
        json_array_append_new(list, json_integer(0));
    return list;
}

/* The fields that all released models agree on. */
static json_t *common_fields(void) {
    json_t *yarn = json_pack("{s:s, s:i, s:i, s:i, s:i}", "type", "yarn", "factor", 16, "beta_fast", 32, "beta_slow", 1,
                             "original_max_position_embeddings", 65536);
    json_t *fp8 = json_pack("{s:s, s:s, s:s, s:s, s:[i, i]}", "activation_scheme", "dynamic", "fmt", "e4m3",
                            "quant_method", "fp8", "scale_fmt", "ue8m0", "weight_block_size", 128, 128);
    json_t *c =
        json_pack("{s:[s], s:s, s:s, s:b, s:f, s:i, s:i, s:s, s:f}", "architectures", "DeepseekV4ForCausalLM",
                  "model_type", "deepseek_v4", "torch_dtype", "bfloat16", "attention_bias", 0, "attention_dropout", 0.0,
                  "bos_token_id", 0, "eos_token_id", 1, "hidden_act", "silu", "initializer_range", 0.02);
    json_t *more =
        json_pack("{s:i, s:b, s:i, s:i, s:f, s:i, s:i, s:b, s:s, s:s, s:f, s:b, s:i, s:i, s:f}",
                  "max_position_embeddings", 1048576, "norm_topk_prob", 1, "num_key_value_heads", 1, "n_shared_experts",
                  1, "rms_norm_eps", 1e-6, "rope_theta", 10000, "compress_rope_theta", 160000, "tie_word_embeddings", 0,
                  "topk_method", "noaux_tc", "scoring_func", "sqrtsoftplus", "swiglu_limit", 10.0, "use_cache", 1,
                  "hc_mult", 4, "hc_sinkhorn_iters", 20, "hc_eps", 1e-6);
    json_object_update(c, more);
    json_decref(more);
    json_object_set_new(c, "rope_scaling", yarn);
    json_object_set_new(c, "quantization_config", fp8);
    json_object_set_new(c, "expert_dtype", json_string("fp4"));
    return c;
}

static char *config_text(const struct synth_request *r) {
    const struct kind *k = &kinds[r->kind];
    uint32_t layers = given(r->layers, k->layers);
    const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {
        {"vocab_size", given(r->vocab, k->vocab)},
        {"hidden_size", k->hidden},
        {"moe_intermediate_size", k->inter},
        {"num_hidden_layers", layers},
        {"num_attention_heads", k->heads},
        {"head_dim", k->head_dim},
        {"qk_rope_head_dim", k->rope_dim},
        {"q_lora_rank", k->q_rank},
        {"o_groups", k->o_groups},
        {"o_lora_rank", k->o_rank},
        {"sliding_window", k->window},
        {"n_routed_experts", given(r->experts, k->experts)},
        {"num_experts_per_tok", k->active},
        {"num_hash_layers", (uint32_t)min_u64(k->hash_layers, layers)},
        {"index_n_heads", k->index_heads},
        {"index_head_dim", k->index_dim},
        {"index_topk", k->index_topk},
        {"num_nextn_predict_layers", r->mtp},
    };
    json_t *c = common_fields();
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        json_object_set_new(c, sizes[i].name, json_integer(sizes[i].value));
    json_object_set_new(c, "routed_scaling_factor", json_real(k->route_scale));
    json_object_set_new(c, "compress_ratios", ratios(k, layers, r->mtp));
    char *text = json_dumps(c, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(6));
    json_decref(c);
    return text;
}

/* --------------------------------------------------------------------------------------- tensors */

/* Collects tensors; their names begin with `prefix` ("layers.3."). */
struct list {
    struct buf tensors; /* of struct synth_tensor */
    const struct shape *s;
    uint64_t seed;
    char prefix[24];
};

static void add(struct list *l, struct synth_tensor t, const char *part, const char *suffix) {
    snprintf(t.name, sizeof(t.name), "%s%s%s", l->prefix, part, suffix);
    t.rank = t.dims[1] ? 2 : 1;
    t.bytes = dtype_bytes(t.dtype) * t.dims[0] * (t.dims[1] ? t.dims[1] : 1);
    t.key = synth_key(l->seed, t.name);
    t.order = (uint32_t)(l->tensors.len / sizeof(t));
    buf_append(&l->tensors, &t, sizeof(t));
}

/* dims[1] is 0 for a vector */
static void numbers(struct list *l, const char *part, enum dtype dtype, uint64_t rows, uint64_t cols, double mean,
                    double std) {
    struct synth_tensor t = {.dtype = dtype, .recipe = SYNTH_NORMAL, .dims = {rows, cols}};
    t.mean = (float)mean;
    t.std = (float)std;
    add(l, t, part, "");
}

static void norm(struct list *l, const char *part, uint64_t n) {
    struct synth_tensor t = {.dtype = DTYPE_BF16, .recipe = SYNTH_NORMAL, .dims = {n}, .mean = 1, .std = 0.1f};
    add(l, t, part, ".weight");
}

static void bf16(struct list *l, const char *part, uint64_t rows, uint64_t cols) {
    struct synth_tensor t = {.dtype = DTYPE_BF16, .recipe = SYNTH_NORMAL, .dims = {rows, cols}};
    t.std = (float)(1 / sqrt((double)cols));
    add(l, t, part, ".weight");
}

static void fp8(struct list *l, const char *part, uint64_t rows, uint64_t cols) {
    uint64_t block_rows = l->s->fp8_block_rows, block_cols = l->s->fp8_block_cols;
    struct synth_tensor t = {.dtype = DTYPE_F8_E4M3, .recipe = SYNTH_FP8, .dims = {rows, cols}};
    struct synth_tensor scale = {.dtype = DTYPE_F8_E8M0,
                                 .dims = {ceil_div(rows, block_rows), ceil_div(cols, block_cols)}};
    synth_scale_for(&scale, t.recipe, 1 / sqrt((double)cols));
    add(l, t, part, ".weight");
    add(l, scale, part, ".scale");
}

static void fp4(struct list *l, const char *part, uint64_t rows, uint64_t cols) {
    struct synth_tensor t = {.dtype = DTYPE_I8, .recipe = SYNTH_FP4, .dims = {rows, cols / 2}};
    struct synth_tensor scale = {.dtype = DTYPE_F8_E8M0, .dims = {rows, cols / 32}};
    synth_scale_for(&scale, t.recipe, 1 / sqrt((double)cols));
    add(l, t, part, ".weight");
    add(l, scale, part, ".scale");
}

static void hyper(struct list *l, const char *part, uint64_t mixes, uint64_t scales) {
    uint64_t wide = (uint64_t)l->s->streams * l->s->hidden;
    char name[32];
    snprintf(name, sizeof(name), "%s_fn", part);
    numbers(l, name, DTYPE_F32, mixes, wide, 0, 0.5 / sqrt((double)wide));
    snprintf(name, sizeof(name), "%s_base", part);
    numbers(l, name, DTYPE_F32, mixes, 0, 0, 0.5);
    snprintf(name, sizeof(name), "%s_scale", part);
    numbers(l, name, DTYPE_F32, scales, 0, 0.5, 0.05);
}

static void compressor(struct list *l, const char *part, uint32_t ratio, uint32_t dim) {
    uint64_t wide = ratio == 4 ? 2 * (uint64_t)dim : dim;
    char name[48];
    snprintf(name, sizeof(name), "%s.ape", part);
    numbers(l, name, DTYPE_F32, ratio, wide, 0, 0.5);
    snprintf(name, sizeof(name), "%s.wkv", part);
    bf16(l, name, wide, l->s->hidden);
    snprintf(name, sizeof(name), "%s.wgate", part);
    bf16(l, name, wide, l->s->hidden);
    snprintf(name, sizeof(name), "%s.norm", part);
    norm(l, name, dim);
}

static void attention(struct list *l, uint32_t ratio) {
    const struct shape *s = l->s;
    uint64_t wide = (uint64_t)s->heads * s->head_dim, low = (uint64_t)s->o_groups * s->o_rank;
    numbers(l, "attn.attn_sink", DTYPE_F32, s->heads, 0, 0, 1);
    fp8(l, "attn.wq_a", s->q_rank, s->hidden);
    norm(l, "attn.q_norm", s->q_rank);
    fp8(l, "attn.wq_b", wide, s->q_rank);
    fp8(l, "attn.wkv", s->head_dim, s->hidden);
    norm(l, "attn.kv_norm", s->head_dim);
    fp8(l, "attn.wo_a", low, wide / s->o_groups);
    fp8(l, "attn.wo_b", s->hidden, low);
    if (ratio)
        compressor(l, "attn.compressor", ratio, s->head_dim);
    if (ratio == 4) {
        fp8(l, "attn.indexer.wq_b", (uint64_t)s->index_heads * s->index_dim, s->q_rank);
        bf16(l, "attn.indexer.weights_proj", s->index_heads, s->hidden);
        compressor(l, "attn.indexer.compressor", ratio, s->index_dim);
    }
}

static void expert(struct list *l, const char *part, uint64_t inter,
                   void (*matrix)(struct list *l, const char *part, uint64_t rows, uint64_t cols)) {
    char name[48];
    for (int i = 1; i <= 3; i++) {
        snprintf(name, sizeof(name), "%s.w%d", part, i);
        matrix(l, name, i == 2 ? l->s->hidden : inter, i == 2 ? inter : l->s->hidden);
    }
}

static void experts(struct list *l, bool by_token) {
    const struct shape *s = l->s;
    char name[32];
    bf16(l, "ffn.gate", s->experts, s->hidden);
    if (by_token)
        add(l,
            (struct synth_tensor){.dtype = DTYPE_I64,
                                  .recipe = SYNTH_ROUTES,
                                  .dims = {s->vocab, s->active},
                                  .experts = s->experts,
                                  .active = s->active},
            "ffn.gate.tid2eid", "");
    else
        numbers(l, "ffn.gate.bias", DTYPE_F32, s->experts, 0, 0, 0.05);
    for (uint32_t i = 0; i < s->experts; i++) {
        snprintf(name, sizeof(name), "ffn.experts.%u", i);
        expert(l, name, s->inter, fp4);
    }
    expert(l, "ffn.shared_experts", (uint64_t)s->inter * s->shared_experts, fp8);
}

static void block(struct list *l, const char *kind, uint32_t number, uint32_t index) {
    const struct shape *s = l->s;
    uint64_t mixes = (uint64_t)(2 + s->streams) * s->streams;
    snprintf(l->prefix, sizeof(l->prefix), "%s.%u.", kind, number);
    attention(l, s->ratios[index]);
    experts(l, index < s->hash_layers);
    norm(l, "attn_norm", s->hidden);
    norm(l, "ffn_norm", s->hidden);
    hyper(l, "hc_attn", mixes, 3);
    hyper(l, "hc_ffn", mixes, 3);
}

static void list_all(struct list *l) {
    const struct shape *s = l->s;
    numbers(l, "embed.weight", DTYPE_BF16, s->vocab, s->hidden, 0, 1);
    for (uint32_t i = 0; i < s->layers; i++)
        block(l, "layers", i, i);
    l->prefix[0] = 0;
    norm(l, "norm", s->hidden);
    bf16(l, "head", s->vocab, s->hidden);
    hyper(l, "hc_head", s->streams, 1);
    for (uint32_t i = 0; i < s->mtp_blocks; i++) {
        block(l, "mtp", i, s->layers + i);
        fp8(l, "e_proj", s->hidden, s->hidden);
        fp8(l, "h_proj", s->hidden, s->hidden);
        norm(l, "enorm", s->hidden);
        norm(l, "hnorm", s->hidden);
        norm(l, "norm", s->hidden);
        hyper(l, "hc_head", s->streams, 1);
    }
}

/* ---------------------------------------------------------------------------------------- shards */

static int compare(const void *x, const void *y) {
    const struct synth_tensor *a = x, *b = y;
    size_t wide_a = dtype_bytes(a->dtype), wide_b = dtype_bytes(b->dtype);
    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    if (wide_a != wide_b)
        return wide_a > wide_b ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* A shard is full when the next tensor would take it over the limit; scales stay with their weights. */
static void divide(struct synth_plan *p, uint64_t limit) {
    uint64_t filled = 0;
    uint32_t shard = 0;
    for (size_t i = 0; i < p->count; i++) {
        struct synth_tensor *t = &p->tensors[i];
        if (filled && filled + t->bytes > limit && t->recipe != SYNTH_SCALE) {
            shard++;
            filled = 0;
        }
        t->shard = shard;
        filled += t->bytes;
        p->bytes += t->bytes;
    }
    p->shards = shard + 1;
    qsort(p->tensors, p->count, sizeof(*p->tensors), compare);
}

void synth_shard_name(struct buf *b, uint32_t shard, uint32_t shards) {
    buf_clear(b);
    buf_printf(b, "model-%05u-of-%05u.safetensors", shard + 1, shards);
}

static char *index_text(const struct synth_plan *p) {
    struct buf name = {0};
    char *text = NULL;
    json_t *map = json_object();
    for (size_t i = 0; i < p->count && !name.failed; i++) {
        synth_shard_name(&name, p->tensors[i].shard, p->shards);
        if (!name.failed)
            json_object_set_new(map, p->tensors[i].name, json_string(name.data));
    }
    json_t *all = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->bytes, "weight_map", map);
    if (!name.failed && json_object_size(map) == p->count)
        text = json_dumps(all, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(all);
    buf_release(&name);
    return text;
}

/* ----------------------------------------------------------------------------------------- whole */

int synth_plan_init(struct synth_plan *plan, const struct synth_request *r, struct sonde_error *e) {
    const struct kind *k = &kinds[r->kind];
    uint64_t experts = (uint64_t)given(r->layers, k->layers) * given(r->experts, k->experts);
    if (experts > SYNTH_EXPERTS_MOST)
        return err_set(e, SONDE_ERROR_ARGUMENT, "%llu experts in all layers together; at most %d can be written",
                       (unsigned long long)experts, SYNTH_EXPERTS_MOST);
    struct synth_plan p = {.config = config_text(r)};
    struct shape shape = {0};
    struct list l = {.s = &shape, .seed = r->seed};
    int rc = p.config ? shape_parse(p.config, strlen(p.config), "config.json", &shape, e) : err_memory(e);
    if (!rc) {
        char *tensors;
        size_t bytes;
        list_all(&l);
        rc = buf_take(&l.tensors, &tensors, &bytes, e);
        if (!rc) {
            p.tensors = (struct synth_tensor *)(void *)tensors;
            p.count = bytes / sizeof(*p.tensors);
            divide(&p, k->shard_bytes);
            p.index = index_text(&p);
            rc = p.index ? SONDE_OK : err_memory(e);
        }
    }
    buf_release(&l.tensors);
    shape_release(&shape);
    if (rc)
        synth_plan_release(&p);
    else
        *plan = p;
    return rc;
}

void synth_plan_release(struct synth_plan *p) {
    free(p->config);
    free(p->index);
    free(p->tensors);
    *p = (struct synth_plan){0};
}
