/*
 * shape.c - config.json to a shape: every number bounded, every field that would change the result understood
 * or refused. shape_v41.c reads what DeepSeek-V4.1 says otherwise.
 *
 * Three spellings are read. The released one (compress_ratios, num_hash_layers, rope_scaling, rope_theta);
 * what transformers writes for the same model (layer_types with compress_rates, mlp_layer_types,
 * rope_parameters.{main, compress}, partial_rotary_factor); and both of rope_scaling's names for its kind
 * ("type", "rope_type"). Where two are there the released one counts.
 *
 * Fields that size a tensor must be there, but those that every released model agrees on (four streams, one
 * shared expert); so must what differs between the released models (routed_scaling_factor). Constants that
 * are the same in all of them have those as defaults. The format of the weights is not taken from here:
 * expert_dtype is absent in some released revisions and wrong in some casts, so the dtypes in the files decide.
 *
 * Bounds are far beyond any model, but such that no side of a matrix leaves 32 bits.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/shape_internal.h"

uint32_t shape_size(const struct config *c, const char *name, uint32_t most) {
    return (uint32_t)config_integer(c, name, 1, most, CONFIG_REQUIRED);
}

/* `name`, or where that is missing and `other` is not, the other spelling. */
static const char *spelling(const struct config *c, const char *name, const char *other) {
    return !config_get(c, name) && config_get(c, other) ? other : name;
}

/* ------------------------------------------------------------------------------ what is not V4 */

void shape_check_architecture(const struct config *c, const char *wanted) {
    const json_t *names = config_get(c, "architectures"), *first = json_array_get(names, 0);
    if (!names)
        return;
    if (!json_is_string(first))
        config_wrong(c, "architectures", names, "an array of strings");
    else if (strcmp(json_string_value(first), wanted) != 0)
        config_refuse(c, "architectures", first, "only %s", wanted);
}

static void check_one(const struct config *c, const char *name) {
    const json_t *value = config_get(c, name);
    int64_t x;
    if (value && !(config_as_integer(value, INT64_MIN + 1, INT64_MAX, &x) && x == 1))
        config_refuse(c, name, value, "only 1");
}

/* Fields with one value that the forward pass implements. */
void shape_check_fixed(const struct config *c) {
    static const char *const silu[] = {"silu"}, *const topk[] = {"noaux_tc"};
    static const char *const experts[] = {"fp4", "fp8", "bf16", "bfloat16", "float16", "float32"};
    config_choice(c, "hidden_act", silu, 1, 0);
    config_choice(c, "topk_method", topk, 1, 0);
    config_choice(c, "expert_dtype", experts, COUNT_OF(experts), 0);
    config_flag(c, "attention_bias", false);
    config_flag(c, "mlp_bias", false);
    config_flag(c, "tie_word_embeddings", false);
    config_flag(c, "norm_topk_prob", true);
    check_one(c, "num_key_value_heads");
    check_one(c, "n_group");
}

void shape_read_quantization(const struct config *c, struct shape *s) {
    static const char *const method[] = {"fp8"}, *const fmt[] = {"e4m3"}, *const scale[] = {"ue8m0"},
                             *const scheme[] = {"dynamic"};
    struct config q;
    s->fp8_block_rows = s->fp8_block_cols = 128;
    if (!config_child(c, "quantization_config", "quantization_config.", &q))
        return;
    if (!config_get(&q, "quant_method"))
        config_wrong(&q, "quant_method", NULL, "\"fp8\"");
    config_choice(&q, "quant_method", method, 1, 0);
    config_choice(&q, "fmt", fmt, 1, 0);
    config_choice(&q, "scale_fmt", scale, 1, 0);
    config_choice(&q, "activation_scheme", scheme, 1, 0);
    const json_t *block = config_array(&q, "weight_block_size", 2, 2);
    int64_t rows = 128, cols = 128;
    if (block && !(config_as_integer(json_array_get(block, 0), 1, SHAPE_MOST, &rows) &&
                   config_as_integer(json_array_get(block, 1), 1, SHAPE_MOST, &cols)))
        config_wrong(&q, "weight_block_size", block, "two integers from 1 to %d", SHAPE_MOST);
    s->fp8_block_rows = (uint32_t)rows;
    s->fp8_block_cols = (uint32_t)cols;
}

/* --------------------------------------------------------------------------------------- sizes */

void shape_read_sizes(const struct config *c, struct shape *s) {
    s->vocab = shape_size(c, "vocab_size", 1 << 24);
    s->hidden = shape_size(c, "hidden_size", 1 << 20);
    s->layers = shape_size(c, "num_hidden_layers", 4096);
    s->mtp_blocks = (uint32_t)config_integer(c, "num_nextn_predict_layers", 0, 64, 0);
    s->heads = shape_size(c, "num_attention_heads", SHAPE_MOST);
    s->head_dim = shape_size(c, "head_dim", SHAPE_MOST);
    s->q_rank = shape_size(c, "q_lora_rank", SHAPE_MOST);
    s->o_groups = shape_size(c, "o_groups", SHAPE_MOST);
    s->o_rank = shape_size(c, "o_lora_rank", SHAPE_MOST);
    s->window = shape_size(c, "sliding_window", 1 << 24);
    s->experts = shape_size(c, spelling(c, "n_routed_experts", "num_local_experts"), SHAPE_MOST);
    s->active = shape_size(c, "num_experts_per_tok", SHAPE_MOST);
    s->shared_experts = (uint32_t)config_integer(c, "n_shared_experts", 1, 256, 1);
    s->inter = shape_size(c, spelling(c, "moe_intermediate_size", "intermediate_size"), 1 << 20);
    s->streams = (uint32_t)config_integer(c, "hc_mult", 1, 16, 4);
    s->sinkhorn_iters = (uint32_t)config_integer(c, "hc_sinkhorn_iters", 1, 1000, 20);
    s->context = (uint64_t)config_integer(c, "max_position_embeddings", 1, INT64_C(1) << 40, 1 << 20);
    s->bos = (int32_t)config_integer(c, "bos_token_id", 0, s->vocab - 1, 0);
    s->eos = (int32_t)config_integer(c, "eos_token_id", 0, s->vocab - 1, s->vocab > 1);
}

void shape_read_constants(const struct config *c, struct shape *s) {
    static const char *const scoring[] = {"sqrtsoftplus", "sigmoid", "softmax"};
    s->scoring = (enum scoring)config_choice(c, "scoring_func", scoring, COUNT_OF(scoring), SCORING_SQRTSOFTPLUS);
    s->route_scale = (float)config_number(c, "routed_scaling_factor", 1e-6, 1e6, CONFIG_REQUIRED_NUMBER);
    s->swiglu_limit = (float)config_number(c, "swiglu_limit", 0, 1e30, 10);
    s->eps = (float)config_number(c, "rms_norm_eps", 1e-30, 1, 1e-6);
    s->hc_eps = (float)config_number(c, "hc_eps", 1e-30, 1, 1e-6);
}

/* qk_rope_head_dim, or the share of head_dim that transformers writes. */
static void read_rope_dim(const struct config *c, const struct config *rope, struct shape *s) {
    const struct config *from = rope->object && config_get(rope, "partial_rotary_factor") ? rope : c;
    if (config_get(c, "qk_rope_head_dim") || !config_get(from, "partial_rotary_factor")) {
        s->rope_dim = shape_size(c, "qk_rope_head_dim", SHAPE_MOST);
    } else {
        double factor = config_number(from, "partial_rotary_factor", 0, 1, CONFIG_REQUIRED_NUMBER);
        s->rope_dim = (uint32_t)(s->head_dim * factor + 0.5);
    }
    const json_t *value = config_get(c, "qk_rope_head_dim");
    if (s->rope_dim < 2 || s->rope_dim % 2 || s->rope_dim > s->head_dim)
        config_wrong(c, "qk_rope_head_dim", value, "an even number from 2 to head_dim, which is %u", s->head_dim);
    if ((s->head_dim - s->rope_dim) % 64)
        config_wrong(c, "qk_rope_head_dim", value,
                     "head_dim - qk_rope_head_dim to be a multiple of 64, but head_dim is %u", s->head_dim);
}

/* ------------------------------------------------------------------------------------- rotation */

/* A yarn object. One of kind "default" says that nothing is stretched. */
void shape_read_yarn(const struct config *r, struct yarn *y) {
    static const char *const kinds[] = {"yarn", "default"};
    const char *kind = spelling(r, "type", "rope_type");
    if (!config_get(r, kind))
        config_wrong(r, kind, NULL, "\"yarn\"");
    if (config_choice(r, kind, kinds, COUNT_OF(kinds), 0) == 1)
        return;
    y->factor = config_number(r, "factor", 1, 1e6, CONFIG_REQUIRED_NUMBER);
    y->original_context = config_number(r, "original_max_position_embeddings", 1, 0x1p40, CONFIG_REQUIRED_NUMBER);
    y->beta_fast = config_number(r, "beta_fast", 1e-3, 1e6, 32);
    y->beta_slow = config_number(r, "beta_slow", 1e-3, 1e6, 1);
    const json_t *slow = config_get(r, "beta_slow"), *scale = config_get(r, "attention_factor");
    if (y->beta_slow > y->beta_fast)
        config_wrong(r, "beta_slow", slow, "at most beta_fast, which is %g", y->beta_fast);
    if (scale && json_number_value(scale) != 1)
        config_refuse(r, "attention_factor", scale, "only 1");
}

static void read_rope(const struct config *c, struct shape *s) {
    static const char *const plain[] = {"default"};
    struct config all, main, compress, scaling;
    bool nested = config_child(c, "rope_parameters", "rope_parameters.", &all);
    bool has_main = nested && config_child(&all, "main", "rope_parameters.main.", &main);
    bool has_compress = nested && config_child(&all, "compress", "rope_parameters.compress.", &compress);
    if (has_main)
        config_choice(&main, "rope_type", plain, 1, 0);
    else
        main = (struct config){NULL, "", c->what, c->rc, c->e};
    read_rope_dim(c, &main, s);
    const struct config *base = has_main && !config_get(c, "rope_theta") ? &main : c;
    s->rope_theta = config_number(base, "rope_theta", 1.001, 1e15, 10000);
    if (has_compress && !config_get(c, "compress_rope_theta"))
        s->compress_theta = config_number(&compress, "rope_theta", 1.001, 1e15, 160000);
    else
        s->compress_theta = config_number(c, "compress_rope_theta", 1.001, 1e15, 160000);
    if (config_child(c, "rope_scaling", "rope_scaling.", &scaling))
        shape_read_yarn(&scaling, &s->yarn);
    else if (has_compress)
        shape_read_yarn(&compress, &s->yarn);
}

/* --------------------------------------------------------------------------------- kinds of layer */

static void read_ratio_list(const struct config *c, const json_t *list, struct shape *s) {
    size_t count = min_u64(json_array_size(list), s->layers + s->mtp_blocks);
    for (size_t i = 0; i < count; i++) {
        int64_t ratio = 0;
        const json_t *value = json_array_get(list, i);
        if (!config_as_integer(value, 0, SHAPE_MOST_RATIO, &ratio) || ratio == 1) {
            char name[40];
            snprintf(name, sizeof(name), "compress_ratios[%zu]", i);
            config_wrong(c, name, value, "0 or an integer from 2 to %d", SHAPE_MOST_RATIO);
        }
        s->ratios[i] = (uint32_t)ratio;
    }
}

/* The index of string entry i among the choices. */
static size_t kind_of_layer(const struct config *c, const char *field, const json_t *list, size_t i,
                            const char *const *choices, size_t count) {
    const json_t *value = json_array_get(list, i);
    const char *kind = json_is_string(value) ? json_string_value(value) : "";
    for (size_t k = 0; k < count; k++)
        if (strcmp(kind, choices[k]) == 0)
            return k;
    char name[40];
    snprintf(name, sizeof(name), "%s[%zu]", field, i);
    if (json_is_string(value))
        config_refuse(c, name, value, "it is no layer of DeepSeek-V4");
    else
        config_wrong(c, name, value, "a string");
    return 0;
}

static void read_layer_types(const struct config *c, const json_t *list, struct shape *s) {
    static const char *const kinds[] = {"sliding_attention", "compressed_sparse_attention",
                                        "heavily_compressed_attention"};
    uint32_t rates[] = {0, 4, 128};
    struct config by_kind;
    bool has = config_child(c, "compress_rates", "compress_rates.", &by_kind);
    for (int k = 1; has && k < 3; k++)
        rates[k] = (uint32_t)config_integer(&by_kind, kinds[k], 2, SHAPE_MOST_RATIO, rates[k]);
    for (size_t i = 0; i < s->layers; i++)
        s->ratios[i] = rates[kind_of_layer(c, "layer_types", list, i, kinds, COUNT_OF(kinds))];
}

/* Entries beyond the layers are those of the MTP blocks: 0 where missing, ignored where too many. */
static void read_ratios(const struct config *c, struct shape *s) {
    const json_t *ratios = config_get(c, "compress_ratios");
    const char *name = spelling(c, "compress_ratios", "layer_types");
    const json_t *list = config_array(c, name, 0, SIZE_MAX);
    if (!list) {
        config_wrong(c, name, NULL, "%u integers", s->layers);
    } else if (json_array_size(list) < s->layers && !*c->rc) {
        *c->rc = err_set(c->e, SONDE_ERROR_FORMAT, "%s: field %s: has %zu entries, expected %u, one a layer%s", c->what,
                         name, json_array_size(list), s->layers + s->mtp_blocks, s->mtp_blocks ? " and MTP block" : "");
    }
    if (*c->rc)
        return;
    s->ratios = calloc(s->layers + s->mtp_blocks, sizeof(*s->ratios));
    if (!s->ratios)
        *c->rc = err_memory(c->e);
    else if (ratios)
        read_ratio_list(c, list, s);
    else
        read_layer_types(c, list, s);
}

static void read_hash_layers(const struct config *c, struct shape *s) {
    static const char *const kinds[] = {"moe", "hash_moe"};
    const json_t *list = config_get(c, "mlp_layer_types");
    if (config_get(c, "num_hash_layers") || !list) {
        s->hash_layers = (uint32_t)config_integer(c, "num_hash_layers", 0, s->layers, CONFIG_REQUIRED);
        return;
    }
    list = config_array(c, "mlp_layer_types", s->layers, SIZE_MAX);
    for (size_t i = 0; list && i < s->layers; i++) {
        if (kind_of_layer(c, "mlp_layer_types", list, i, kinds, COUNT_OF(kinds)) == 0)
            continue;
        if (s->hash_layers < i)
            config_refuse(c, "mlp_layer_types", list, "only hash_moe layers before all moe layers");
        s->hash_layers = (uint32_t)i + 1;
    }
}

static bool has_indexer(const struct shape *s) {
    for (size_t i = 0; s->ratios && i < s->layers + s->mtp_blocks; i++)
        if (s->ratios[i] == 4)
            return true;
    return false;
}

static void read_indexer(const struct config *c, struct shape *s) {
    if (!has_indexer(s))
        return;
    s->index_heads = shape_size(c, "index_n_heads", SHAPE_MOST);
    s->index_dim = shape_size(c, "index_head_dim", SHAPE_MOST);
    s->index_topk = shape_size(c, "index_topk", 1 << 24);
    uint32_t dim = s->index_dim;
    if (dim < 32 || (dim & (dim - 1)) || dim < s->rope_dim)
        config_wrong(c, "index_head_dim", config_get(c, "index_head_dim"),
                     "a power of two, at least 32 and qk_rope_head_dim, which is %u", s->rope_dim);
}

/* -------------------------------------------------------------------------------------- Engram */

static void read_engram_layers(const struct config *c, uint32_t layers, struct engram_shape *g) {
    const json_t *list = config_array(c, "layer_ids", 0, layers);
    size_t count = json_array_size(list);
    if (!list)
        config_wrong(c, "layer_ids", config_get(c, "layer_ids"), "an array of layers");
    if (*c->rc || !count)
        return;
    g->layers = calloc(count, sizeof(*g->layers));
    if (!g->layers)
        *c->rc = err_memory(c->e);
    for (size_t i = 0; !*c->rc && i < count; i++) {
        char name[40];
        int64_t id = 0, least = i ? (int64_t)g->layers[i - 1] + 1 : 0;
        snprintf(name, sizeof(name), "layer_ids[%zu]", i);
        if (!config_as_integer(json_array_get(list, i), least, layers - 1, &id))
            config_wrong(c, name, json_array_get(list, i), "a layer below %u, in ascending order", layers);
        g->layers[i] = (uint32_t)id;
    }
    g->count = (uint32_t)count;
}

static void read_engram(const struct config *c, struct shape *s) {
    struct config in;
    struct engram_shape *g = &s->engram;
    if (!config_child(c, "engram", "engram.", &in))
        return;
    read_engram_layers(&in, s->layers, g);
    g->orders = (uint32_t)config_integer(&in, "max_ngram_size", 2, 64, CONFIG_REQUIRED);
    g->heads = shape_size(&in, "n_head_per_ngram", 1024);
    g->width = shape_size(&in, "n_embed_per_ngram", SHAPE_MOST);
    g->taps = shape_size(&in, "kernel_size", 64);
    g->pad = (uint32_t)config_integer(&in, "pad_id", 0, s->vocab - 1, CONFIG_REQUIRED);
    g->norm_eps = (float)config_number(&in, "norm_eps", 1e-30, 1, 1.1920929e-07);
    g->conv_eps = (float)config_number(&in, "conv_norm_eps", 1e-30, 1, 1e-5);
    if (g->heads && g->width % g->heads)
        config_wrong(&in, "n_embed_per_ngram", config_get(&in, "n_embed_per_ngram"),
                     "a multiple of n_head_per_ngram, which is %u", g->heads);
}

/* ---------------------------------------------------------------------------------------- whole */

void shape_check_relations(const struct config *c, const struct shape *s) {
    if (s->heads % s->o_groups)
        config_wrong(c, "o_groups", config_get(c, "o_groups"), "a divisor of num_attention_heads, which is %u",
                     s->heads);
    if (s->active > s->experts)
        config_wrong(c, "num_experts_per_tok", config_get(c, "num_experts_per_tok"),
                     "at most the number of experts, which is %u", s->experts);
}

/* DSpark checkpoints state one next-token block, but their mtp.* tensors are drafting stages of another kind. */
static bool has_dspark(json_t *object) {
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value) if (strncmp(name, "dspark_", 7) == 0 && !json_is_null(value)) return true;
    return false;
}

static void read_v4(const struct config *c, struct shape *s) {
    shape_check_architecture(c, "DeepseekV4ForCausalLM");
    shape_check_fixed(c);
    shape_read_quantization(c, s);
    shape_read_sizes(c, s);
    shape_read_constants(c, s);
    read_rope(c, s);
    if (has_dspark((json_t *)(uintptr_t)c->object))
        s->mtp_blocks = 0;
    read_ratios(c, s);
    read_hash_layers(c, s);
    read_indexer(c, s);
    read_engram(c, s);
    shape_check_relations(c, s);
}

int shape_parse(const char *json, size_t bytes, const char *what, struct shape *shape, struct sonde_error *e) {
    static const char *const types[] = {[FAMILY_V4] = "deepseek_v4", [FAMILY_V41] = "deepseek_v41"};
    json_t *root = NULL;
    int rc = json_parse(json, bytes, what, &root, e);
    if (rc)
        return rc;
    struct shape s = {0};
    struct config c = {root, "", what, &rc, e};
    if (!json_is_object(root))
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: not a JSON object", what);
    s.family = (enum family)config_choice(&c, "model_type", types, COUNT_OF(types), FAMILY_V4);
    if (s.family == FAMILY_V41)
        shape_read_v41(&c, &s);
    else
        read_v4(&c, &s);
    json_decref(root);
    if (rc)
        shape_release(&s);
    else
        *shape = s;
    return rc;
}

void shape_release(struct shape *shape) {
    free(shape->ratios);
    free(shape->engram.layers);
    free(shape->v41.key_source);
    free(shape->v41.index_source);
    free(shape->v41.engram_rows);
    *shape = (struct shape){0};
}
