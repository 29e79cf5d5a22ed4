/* bench_count.c - bytes and operations of a step, from the names and shapes of tensors; what counts is in
 * bench_internal.h. */
#include <stdlib.h>
#include <string.h>

#include "bench_internal.h"

enum { INDEXED_RATIO = 4 }; /* layers of this ratio choose their entries by an indexer */

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static bool begins_with(const char *name, const char *prefix) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* True for what a token multiplies with: not for block scales and integers, whose parameters are 0, nor for
 * vectors, nor for what a compressor adds. */
static uint64_t products_of(const struct tensor *t) {
    return t->rank < 2 || ends_in(t->name, ".ape") ? 0 : tensor_parameters(t);
}

static bool in_layer(const char *name, const struct shape *s) {
    return begins_with(name, "layers.") && strtoul(name + strlen("layers."), NULL, 10) < s->layers;
}

/* Rows of t that each token reads; 0: t is no such table. */
static uint64_t rows_read(const struct tensor *t, const struct shape *s) {
    if (begins_with(t->name, "embed.") || ends_in(t->name, ".ffn.gate.tid2eid"))
        return 1;
    if (strstr(t->name, ".engram.multi_head_embedding.") || strstr(t->name, ".engram.embed."))
        return (uint64_t)(s->engram.orders - 1) * s->engram.heads;
    return 0;
}

void bench_count_add(struct bench_count *c, const struct tensor *t, const struct shape *s) {
    bool head = begins_with(t->name, "head.") || begins_with(t->name, "hc_head_") || begins_with(t->name, "norm.");
    bool layer = in_layer(t->name, s);
    uint64_t rows = rows_read(t, s);
    if (head) {
        c->head_bytes += t->bytes;
        c->head_products += products_of(t);
    } else if (rows && (layer || begins_with(t->name, "embed."))) {
        c->row_bytes += t->dims[0] ? rows * (t->bytes / t->dims[0]) : 0;
    } else if (layer && strstr(t->name, ".ffn.experts.")) {
        c->routed_bytes += t->bytes;
        c->routed_products += products_of(t);
    } else if (layer && t->dtype != DTYPE_I32 && t->dtype != DTYPE_I64) {
        c->fixed_bytes += t->bytes;
        c->fixed_products += products_of(t);
    }
}

double bench_weight_bytes(const struct bench_count *c, const struct shape *s, double experts, uint64_t tokens) {
    return (double)(c->fixed_bytes + c->head_bytes) + (double)c->routed_bytes * experts / s->experts +
           (double)(c->row_bytes * tokens);
}

/* What the token at `position` looks at in a layer. */
struct seen {
    uint64_t window, entries, scored;
};

/* Of V4.1: layers behind the candidate source score what lies in the blocks it kept. */
static struct seen seen_by_choice(const struct shape *s, uint32_t index, uint64_t complete, uint64_t window) {
    const struct v41_shape *v = &s->v41;
    uint64_t scored = v->index_source[index] == index ? complete : 0;
    if (v->candidate_source != V41_NONE && index > v->candidate_source)
        scored = min_u64(scored, (uint64_t)v->candidate_blocks * v->candidate_block);
    return (struct seen){window, min_u64(complete, s->index_topk), scored};
}

static struct seen seen_at(const struct shape *s, uint32_t index, uint64_t position) {
    uint32_t ratio = s->ratios[index];
    uint64_t complete = ratio ? (position + 1) / ratio : 0;
    bool indexed = ratio == INDEXED_RATIO;
    if (s->family == FAMILY_V41)
        return seen_by_choice(s, index, complete, min_u64(position + 1, s->window));
    return (struct seen){min_u64(position + 1, s->window), indexed ? min_u64(complete, s->index_topk) : complete,
                         indexed ? complete : 0};
}

uint64_t bench_cache_bytes(const struct shape *s, enum sonde_precision precision, uint64_t position) {
    struct cache_rows rows = model_cache_rows(s, precision);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->layers; i++) {
        struct seen seen = seen_at(s, i, position);
        bytes += (seen.window + seen.entries) * row_bytes(&rows.key) + seen.scored * row_bytes(&rows.index_key);
    }
    return bytes;
}

double bench_token_flops(const struct bench_count *c, const struct shape *s, uint64_t position) {
    double products = (double)c->fixed_products + (double)c->routed_products * s->active / s->experts;
    for (uint32_t i = 0; i < s->layers; i++) {
        struct seen seen = seen_at(s, i, position);
        products += 2.0 * s->heads * s->head_dim * (double)(seen.window + seen.entries) +
                    (double)s->index_heads * s->index_dim * (double)seen.scored;
    }
    return 2 * products;
}
