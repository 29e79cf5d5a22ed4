/*
 * bench_internal.h - what `sonde bench` counts and what it measures.
 */
#ifndef CLI_BENCH_INTERNAL_H
#define CLI_BENCH_INTERNAL_H

#include "cli/cli.h"
#include "model/model.h"

/* --------------------------------------------------------------------------------------- counted */

/*
 * Bytes and multiply-adds of a checkpoint by how often a step needs them. Multi-token prediction takes no part, nor
 * does what is not a weight of the text model; tables of integers that are read when the model opens are left out.
 *
 *     fixed    all of a layer but its routed experts: read once a step, used by every token
 *     routed   the routed experts: of each layer a step reads those that its tokens chose, a token uses k of E
 *     head     the last collapse, norm and head: once for each token whose logits are wanted
 *     row      tables of which a token reads a row: embedding, experts by token, Engram
 *
 * Products are counted where all of them are useful: each weight of a matrix once a token, attention over the keys
 * that a token sees and the index scores of the entries that are complete; no vectors, softmaxes or norms.
 */
struct bench_count {
    uint64_t fixed_bytes, routed_bytes, head_bytes, row_bytes;
    uint64_t fixed_products, routed_products, head_products;
};

void bench_count_add(struct bench_count *c, const struct tensor *t, const struct shape *s);

/* Of all weights that a step with logits reads: `experts` distinct ones in each layer (a mean), `tokens` tokens. */
double bench_weight_bytes(const struct bench_count *c, const struct shape *s, double experts, uint64_t tokens);

/* Of the cache that the token at `position` reads in all layers: window, entries seen, index keys scored. */
uint64_t bench_cache_bytes(const struct shape *s, enum sonde_precision precision, uint64_t position);

/* Operations, two for a multiply-add, of the token at `position`, without the head. */
double bench_token_flops(const struct bench_count *c, const struct shape *s, uint64_t position);

/* -------------------------------------------------------------------------------------- measured */

struct bench_options {
    struct device_flags device;
    int precision;                             /* enum sonde_precision */
    uint64_t prompt, context, generate, batch; /* context 0: as long as the prompt */
    uint64_t chunk;                            /* 0: the prompt at once, up to 4096 tokens */
    uint64_t read;                             /* of the context; its pages are repeated for the rest. 0: all */
    bool json;
};

struct bench_result {
    enum kernel_level level;
    uint32_t threads, limit_samples;
    uint64_t context, chunk;                /* tokens before the first decoded; of a prefill step */
    double prefill_seconds;                 /* of the prompt: a median */
    double prefill_bytes, prefill_flops;    /* of the prompt */
    double decode_seconds;                  /* of a step of `batch` tokens: a median */
    double decode_bytes;                    /* of a token: weights shared by the batch, and its cache */
    double prefill_experts, decode_experts; /* distinct ones a step and layer */
    double read_bandwidth, peak_flops;      /* bytes and operations a second */
    double cache_bytes_per_token;
    uint64_t cache_fixed_bytes;
};

/* Errors: of opening and of steps; CONTEXT (the model holds less than is asked for); CANCELLED (Ctrl-C). */
int bench_measure(const char *path, const struct bench_options *o, struct bench_result *r, struct sonde_error *e);

#endif
