/*
 * shape_v41.c - config.json of DeepSeek-V4.1: what all share stands in text_config, under V4's names; which layers make
 * entries and which choose among them is told by lists of layers.
 *
 * bos_token_id, eos_token_id and quantization_config stand beside text_config. vision_config and the fields of DSpark,
 * whose blocks are mtp.*, are not looked at: text needs neither.
 */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/shape_internal.h"

/* FP8 and FP4 forms of keys are in blocks of this. */
enum { KEY_BLOCK = 32 };

static uint32_t *array_of(const struct config *c, size_t count) {
    uint32_t *list = *c->rc ? NULL : calloc(count ? count : 1, sizeof(*list));
    if (!list && !*c->rc)
        *c->rc = err_memory(c->e);
    return list;
}

/* Entry i of the array `name` as an integer, or its sentence. */
static int64_t entry_of(const struct config *c, const char *name, const json_t *list, size_t i, int64_t least,
                        int64_t most) {
    char where[64];
    int64_t x = least;
    const json_t *value = json_array_get(list, i);
    snprintf(where, sizeof(where), "%s[%zu]", name, i);
    if (!config_as_integer(value, least, most, &x))
        config_wrong(c, where, value, "an integer from %lld to %lld", (long long)least, (long long)most);
    return x;
}

/* ------------------------------------------------------------------------------------------ rotation */

static void read_rope(const struct config *c, struct shape *s) {
    struct config scaling;
    s->rope_dim = shape_size(c, "qk_rope_head_dim", SHAPE_MOST);
    if (s->rope_dim % 2 || s->rope_dim > s->head_dim)
        config_wrong(c, "qk_rope_head_dim", config_get(c, "qk_rope_head_dim"),
                     "an even number from 2 to head_dim, which is %u", s->head_dim);
    s->rope_theta = config_number(c, "rope_theta", 1.001, 1e15, 10000);
    s->compress_theta = config_number(c, "compress_rope_theta", 1.001, 1e15, 160000);
    if (config_child(c, "rope_scaling", "text_config.rope_scaling.", &scaling))
        shape_read_yarn(&scaling, &s->yarn);
}

/* ------------------------------------------------------------------------------------------- sources */

/* Entries beyond the layers are those of drafting blocks, and ignored. */
static void read_ratios(const struct config *c, struct shape *s) {
    const json_t *list = config_array(c, "compress_ratios", s->layers, SIZE_MAX);
    if (!list)
        config_wrong(c, "compress_ratios", NULL, "%u integers", s->layers);
    s->ratios = array_of(c, (size_t)s->layers + 1);
    for (uint32_t i = 0; !*c->rc && i < s->layers; i++)
        s->ratios[i] = (uint32_t)entry_of(c, "compress_ratios", list, i, 0, SHAPE_MOST_RATIO);
}

/* Marks the layers that the ascending list `name` has. is [layers] */
static void read_layers(const struct config *c, const char *name, const struct shape *s, bool *is) {
    const json_t *list = config_array(c, name, 0, s->layers);
    int64_t least = 0;
    if (!list)
        config_wrong(c, name, config_get(c, name), "an array of layers");
    for (size_t i = 0; !*c->rc && i < json_array_size(list); i++) {
        int64_t layer = entry_of(c, name, list, i, least, s->layers - 1);
        least = layer + 1;
        if (!*c->rc)
            is[layer] = true;
    }
}

/* Layer i, whose ratio is not 0, has the sources that the layers up to it leave it. *chooser: the last index source. */
static void set_sources(const struct config *c, struct shape *s, uint32_t i, bool makes, bool chooses,
                        uint32_t *chooser) {
    struct v41_shape *v = &s->v41;
    const json_t *ratios = config_get(c, "compress_ratios");
    if (makes)
        v->last_key_source = i;
    if (chooses)
        *chooser = i;
    v->key_source[i] = v->last_key_source;
    v->index_source[i] = *chooser;
    if (makes && !chooses)
        config_refuse(c, "kv_source_layer_ids", config_get(c, "kv_source_layer_ids"),
                      "layer %u makes entries, so it has to be in index_source_layer_ids too", i);
    else if (v->key_source[i] == V41_NONE)
        config_refuse(c, "compress_ratios", ratios, "layer %u reads entries, but no layer up to it makes them", i);
    else if (s->ratios[v->key_source[i]] != s->ratios[i])
        config_refuse(c, "compress_ratios", ratios, "layer %u has ratio %u, and layer %u, whose entries it reads, %u",
                      i, s->ratios[i], v->key_source[i], s->ratios[v->key_source[i]]);
    else if (makes && v->candidate_source != V41_NONE && i > v->candidate_source)
        config_refuse(c, "candidate_source_layer_id", config_get(c, "candidate_source_layer_id"),
                      "layer %u behind it makes entries", i);
}

static void read_sources(const struct config *c, struct shape *s) {
    struct v41_shape *v = &s->v41;
    bool *makes = calloc(s->layers + 1, sizeof(*makes)), *chooses = calloc(s->layers + 1, sizeof(*chooses));
    uint32_t chooser = V41_NONE;
    v->key_source = array_of(c, s->layers);
    v->index_source = array_of(c, s->layers);
    if ((!makes || !chooses) && !*c->rc)
        *c->rc = err_memory(c->e);
    if (!*c->rc) {
        read_layers(c, "kv_source_layer_ids", s, makes);
        read_layers(c, "index_source_layer_ids", s, chooses);
    }
    for (uint32_t i = 0; !*c->rc && i < s->layers; i++) {
        const char *field = makes[i] ? "kv_source_layer_ids" : "index_source_layer_ids";
        v->key_source[i] = v->index_source[i] = V41_NONE;
        if (s->ratios[i])
            set_sources(c, s, i, makes[i], chooses[i], &chooser);
        else if (makes[i] || chooses[i])
            config_refuse(c, field, config_get(c, field), "layer %u has no entries: its ratio is 0", i);
    }
    free(makes);
    free(chooses);
}

static void read_candidates(const struct config *c, struct shape *s) {
    struct v41_shape *v = &s->v41;
    int64_t source = config_integer(c, "candidate_source_layer_id", -1, s->layers - 1, -1);
    v->candidate_source = source < 0 ? (uint32_t)V41_NONE : (uint32_t)source;
    if (source < 0)
        return;
    v->candidate_blocks = shape_size(c, "candidate_topk_blocks", 1 << 24);
    v->candidate_block = shape_size(c, "candidate_block_size", 1 << 16);
    if ((uint64_t)v->candidate_blocks * v->candidate_block < s->index_topk)
        config_wrong(c, "candidate_topk_blocks", config_get(c, "candidate_topk_blocks"),
                     "blocks of candidate_block_size entries that have index_topk together, which is %u",
                     s->index_topk);
}

static void read_indexer(const struct config *c, struct shape *s) {
    bool any = false;
    for (uint32_t i = 0; s->ratios && i < s->layers; i++)
        any |= s->ratios[i] != 0;
    s->v41.candidate_source = s->v41.last_key_source = V41_NONE;
    if (any) {
        s->index_heads = shape_size(c, "index_n_heads", SHAPE_MOST);
        s->index_dim = shape_size(c, "index_head_dim", SHAPE_MOST);
        s->index_topk = shape_size(c, "index_topk", 1 << 24);
        if (s->index_dim % KEY_BLOCK || s->index_dim < s->rope_dim)
            config_wrong(c, "index_head_dim", config_get(c, "index_head_dim"),
                         "a multiple of %d, at least qk_rope_head_dim, which is %u", KEY_BLOCK, s->rope_dim);
        read_candidates(c, s);
    }
    if (!*c->rc)
        read_sources(c, s);
    uint32_t source = s->v41.candidate_source;
    if (!*c->rc && source != V41_NONE && s->v41.index_source[source] != source)
        config_refuse(c, "candidate_source_layer_id", config_get(c, "candidate_source_layer_id"),
                      "it is not in index_source_layer_ids");
}

/* -------------------------------------------------------------------------------------------- Engram */

static void read_engram(const struct config *c, struct shape *s) {
    struct engram_shape *g = &s->engram;
    const json_t *list = config_array(c, "engram_layer_ids", 0, s->layers);
    size_t count = json_array_size(list);
    if (*c->rc || !count)
        return;
    g->layers = array_of(c, count);
    for (size_t i = 0; !*c->rc && i < count; i++)
        g->layers[i] = (uint32_t)entry_of(c, "engram_layer_ids", list, i, i ? g->layers[i - 1] + 1 : 0, s->layers - 1);
    g->count = (uint32_t)count;
    g->orders = (uint32_t)config_integer(c, "engram_max_ngram_size", 2, 64, CONFIG_REQUIRED);
    g->heads = shape_size(c, "engram_n_heads", 64);
    g->width = g->heads * shape_size(c, "engram_head_dim", 4096);
    g->pad = (uint32_t)config_integer(c, "engram_pad_token_id", 0, s->vocab - 1, CONFIG_REQUIRED);
    g->norm_eps = s->eps;
    s->v41.engram_ids = (uint32_t)config_integer(c, "engram_compressed_vocab_size", 1, s->vocab, CONFIG_REQUIRED);
    s->v41.engram_least = config_integer(c, "engram_vocab_size", 2, UINT32_MAX, CONFIG_REQUIRED);
    list = config_array(c, "engram_num_embeddings", count, count);
    if (!list)
        config_wrong(c, "engram_num_embeddings", NULL, "%zu integers, rows of each layer's table", count);
    s->v41.engram_rows = *c->rc ? NULL : calloc(count, sizeof(*s->v41.engram_rows));
    if (!*c->rc && !s->v41.engram_rows)
        *c->rc = err_memory(c->e);
    for (size_t i = 0; !*c->rc && i < count; i++)
        s->v41.engram_rows[i] = (uint64_t)entry_of(c, "engram_num_embeddings", list, i, 1, UINT32_MAX);
}

/* --------------------------------------------------------------------------------------------- whole */

void shape_read_v41(const struct config *root, struct shape *s) {
    static const char *const scoring[] = {"sqrtsoftplus"};
    struct config c;
    shape_check_architecture(root, "DeepseekV41ForCausalLM");
    if (!config_child(root, "text_config", "text_config.", &c)) {
        config_wrong(root, "text_config", NULL, "an object");
        return;
    }
    shape_check_fixed(&c);
    shape_read_quantization(root, s);
    shape_read_sizes(&c, s);
    shape_read_constants(&c, s);
    config_choice(&c, "scoring_func", scoring, 1, 0);
    s->bos = (int32_t)config_integer(root, "bos_token_id", 0, s->vocab - 1, s->bos);
    s->eos = (int32_t)config_integer(root, "eos_token_id", 0, s->vocab - 1, s->eos);
    s->mtp_blocks = 0; /* mtp.* are DSpark's */
    read_rope(&c, s);
    if (!*c.rc && s->head_dim % KEY_BLOCK)
        config_wrong(&c, "head_dim", config_get(&c, "head_dim"), "a multiple of %d", KEY_BLOCK);
    read_ratios(&c, s);
    read_indexer(&c, s);
    read_engram(&c, s);
    shape_check_relations(&c, s);
}
