/*
 * cache.h - what a sequence remembers, layer by layer. No maths here: only which rows there are and where.
 *
 * A layer keeps
 *
 *   window        [W] keys           of the last W tokens, position p in row p % W
 *   entries       [n] keys           one compressed key for each `ratio` tokens          (ratio > 0)
 *   tail values,  float [T, wide]    compressor projections of the last T tokens, position p in row p % T: what the
 *   tail scores                      next entry will pool. T is ratio, or twice that where blocks overlap
 *   index keys    [n] index keys     and their own tail                                  (layers with an indexer)
 *   conv          float [rows, wide] Engram: what its convolution still looks back on
 *
 * Keys and index keys are rows of bytes, one after another; what is in them number.h tells (struct row_format). What
 * is summed later, the tails, stays as it is. So a layer's size is fixed but for entries and index keys, which grow by
 * a row each `ratio` tokens up to what the context needs. All lie in one piece of memory, placed by cache_layout(); the
 * same function sizes it.
 */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include "base/base.h"

/* A ring of the last tokens' compressor projections. rows 0: none. */
struct cache_tail_spec {
    uint32_t rows, width;
};

struct cache_layer_spec {
    uint32_t window;                   /* W */
    uint32_t ratio;                    /* 0: no entries */
    size_t key_bytes, index_key_bytes; /* of a row; no index keys: 0 */
    struct cache_tail_spec tail, index_tail;
    uint32_t conv_rows, conv_width; /* 0: no Engram */
};

struct cache_tail {
    float *values, *scores;
};

struct cache_layer {
    uint8_t *window, *entries, *index_keys;
    float *conv;
    struct cache_tail tail, index_tail;
};

/* Places the layers of a sequence of at most `context` tokens in the arena, or counts them (base.h: base
 * NULL). layers [count]. */
void cache_layout(const struct cache_layer_spec *specs, uint32_t count, uint64_t context, struct arena *a,
                  struct cache_layer *layers);

/* Bytes that do not depend on the context, and bytes that `tokens` tokens add. */
uint64_t cache_fixed_bytes(const struct cache_layer_spec *specs, uint32_t count);
uint64_t cache_token_bytes(const struct cache_layer_spec *specs, uint32_t count, uint64_t tokens);

#endif
