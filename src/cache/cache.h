/*
 * cache.h - what a sequence remembers, layer by layer. No maths here: only which floats there are and where.
 *
 * A layer keeps
 *
 *   window        [W, C]        keys of the last W tokens, position p in row p % W
 *   entries       [n, C]        one compressed key for each `ratio` tokens          (ratio > 0)
 *   tail values,  [T, wide]     compressor projections of the last T tokens, position p in row p % T: what the
 *   tail scores                 next entry will pool. T is ratio, or twice that where blocks overlap
 *   index keys    [n, Ci]       and their own tail                                  (layers with an indexer)
 *   conv          [rows, wide]  Engram: what its convolution still looks back on
 *
 * so its size is fixed but for entries and index keys, which grow by a row each `ratio` tokens up to what the
 * context needs. All lie in one piece of memory, placed by cache_layout(); the same function sizes it.
 */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include "base/base.h"

/* A ring of the last tokens' compressor projections. rows 0: none. */
struct cache_tail_spec {
    uint32_t rows, width;
};

struct cache_layer_spec {
    uint32_t window, key; /* W, C */
    uint32_t ratio;       /* 0: no entries */
    uint32_t index_key;   /* Ci; 0: no indexer */
    struct cache_tail_spec tail, index_tail;
    uint32_t conv_rows, conv_width; /* 0: no Engram */
};

struct cache_tail {
    float *values, *scores;
};

struct cache_layer {
    float *window, *entries, *index_keys, *conv;
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
