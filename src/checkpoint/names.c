/*
 * names.c - the spellings a tensor's name is met in, and the official one.
 *
 *     model.layers.3.self_attn.q_a_proj.weight_scale_inv   ->   layers.3.attn.wq_a.scale
 *
 * Three layers of spelling are undone at once, component by component, so that files that mix them are read
 * too: the `model.` prefix; the names of DeepSeek-V3's files that the released converter still maps (self_attn,
 * mlp, weight_scale_inv, e_score_correction_bias, *_proj, *_layernorm); and those of transformers' module tree
 * (attn_hc.fn, sinks, position_bias, kv_norm of a compressor).
 *
 * The tree nests differently around the compressor, which is why components are not simply replaced:
 *
 *     transformers                                     official
 *     self_attn.compressor.gate_proj                   attn.compressor.wgate
 *     self_attn.compressor.indexer.q_b_proj            attn.indexer.wq_b
 *     self_attn.compressor.indexer.gate_proj           attn.indexer.compressor.wgate
 *     self_attn.compressor.indexer.scorer.weights_proj attn.indexer.weights_proj
 *
 * so `compressor` is held back until it is known that no `indexer` follows, and an indexer's own pooling
 * weights get theirs even if the file lost it. A gate_proj is a compressor's gate there and an expert's w1
 * everywhere else. Official names pass unchanged. Names that mean nothing here pass too: nobody will ask.
 */
#include <string.h>

#include "checkpoint/checkpoint_internal.h"

struct rename {
    const char *from, *to;
};

/* Anywhere. */
static const struct rename plain[] = {
    {"self_attn", "attn"},
    {"mlp", "ffn"},
    {"weight_scale_inv", "scale"},
    {"e_score_correction_bias", "bias"},
    {"embed_tokens", "embed"},
    {"lm_head", "head"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"q_a_proj", "wq_a"},
    {"q_a_layernorm", "q_norm"},
    {"q_a_norm", "q_norm"},
    {"q_b_proj", "wq_b"},
    {"kv_proj", "wkv"},
    {"kv_a_layernorm", "kv_norm"},
    {"o_a_proj", "wo_a"},
    {"o_b_proj", "wo_b"},
    {"sinks", "attn_sink"},
    {"gate_proj", "w1"},
    {"down_proj", "w2"},
    {"up_proj", "w3"},
};

/* Within a compressor. The official spellings stand here too: they tell a compressor's part in an indexer. */
static const struct rename pooling[] = {
    {"kv_proj", "wkv"}, {"gate_proj", "wgate"}, {"position_bias", "ape"}, {"kv_norm", "norm"},
    {"wkv", "wkv"},     {"wgate", "wgate"},     {"ape", "ape"},           {"norm", "norm"},
};

/* Joined to the component that follows: attn_hc.fn is hc_attn_fn. */
static const struct rename joined[] = {
    {"attn_hc", "hc_attn_"},
    {"ffn_hc", "hc_ffn_"},
    {"hc_head", "hc_head_"},
};

struct component {
    const char *at;
    size_t length;
};

static bool is(struct component c, const char *word) {
    return strlen(word) == c.length && memcmp(c.at, word, c.length) == 0;
}

static const char *lookup(const struct rename *table, size_t count, struct component c) {
    for (size_t i = 0; i < count; i++)
        if (*c.at == *table[i].from && is(c, table[i].from)) /* the first test alone settles most */
            return table[i].to;
    return NULL;
}

/* Where in the tree the walk is. */
struct place {
    bool attention, indexer;
    bool held;       /* a `compressor` not yet written */
    bool compressor; /* inside one */
    bool join;       /* the next component follows without a dot */
};

static void put(struct buf *b, struct place *p, const char *text, size_t length) {
    if (b->len && !p->join)
        buf_byte(b, '.');
    p->join = false;
    buf_append(b, text, length);
}

static void put_component(struct buf *b, struct place *p, struct component c) {
    const char *to;
    if (p->held || (p->indexer && !p->compressor && lookup(pooling, COUNT_OF(pooling), c))) {
        put(b, p, "compressor", 10);
        p->held = false;
        p->compressor = true;
    }
    to = p->compressor ? lookup(pooling, COUNT_OF(pooling), c) : NULL;
    if (!to)
        to = lookup(plain, COUNT_OF(plain), c);
    put(b, p, to ? to : c.at, to ? strlen(to) : c.length);
    if (is(c, "attn") || is(c, "self_attn"))
        p->attention = true;
}

/* `last`: nothing follows, so what would be joined stands alone. */
static void walk(struct buf *b, struct place *p, struct component c, bool last) {
    const char *prefix = last ? NULL : lookup(joined, COUNT_OF(joined), c);
    if (prefix) {
        put(b, p, prefix, strlen(prefix));
        p->join = true;
    } else if (p->join && c.length > 3 && memcmp(c.at, "hc_", 3) == 0) {
        put(b, p, c.at + 3, c.length - 3); /* hc_head.hc_fn */
    } else if (p->attention && is(c, "compressor")) {
        p->held = true;
    } else if (p->attention && is(c, "indexer")) {
        p->held = false;
        put(b, p, c.at, c.length);
        p->indexer = true;
    } else if (!(p->indexer && is(c, "scorer"))) {
        put_component(b, p, c);
    }
}

const char *name_official(const char *spelled, struct buf *b) {
    const char *bare = strncmp(spelled, "model.", 6) == 0 && spelled[6] ? spelled + 6 : spelled;
    struct place p = {0};
    buf_clear(b);
    for (const char *at = bare; at;) {
        const char *dot = strchr(at, '.');
        struct component c = {at, dot ? (size_t)(dot - at) : strlen(at)};
        walk(b, &p, c, !dot);
        at = dot ? dot + 1 : NULL;
    }
    if (p.held)
        put(b, &p, "compressor", 10);
    if (b->failed)
        return NULL;
    return b->data && strcmp(b->data, bare) == 0 ? bare : b->data;
}
