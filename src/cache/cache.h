/*
 * cache.h - what a sequence remembers, layer by layer, and which texts are remembered. No maths here: only which rows
 * there are and where.
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
 * is summed later, the tails, stays as it is. Entries and index keys grow by a row each `ratio` tokens and lie in
 * pages; all else has a fixed size, the state of a sequence, and lies in one piece of memory of its own.
 *
 * A page holds what the same run of tokens has made in all layers, so that sequences that begin alike can hold the same
 * pages. All pages are equal in size and come from one piece of memory, whose size is the limit; a page is known by its
 * number, and returns when nobody holds it any more. Who wants to write in a page that others hold copies it first.
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
    uint8_t *window;
    float *conv;
    struct cache_tail tail, index_tail;
};

/* Places the state of a sequence in the arena, or counts it (base.h: base NULL). layers [count]. */
void cache_layout(const struct cache_layer_spec *specs, uint32_t count, struct arena *a, struct cache_layer *layers);
uint64_t cache_fixed_bytes(const struct cache_layer_spec *specs, uint32_t count);

/* ----------------------------------------------------------------------------------------- pages */

/* A layer's part of a page: `rows` entries from `entries` on, and as many index keys; offsets in bytes. */
struct cache_page_part {
    size_t entries, index_keys;
    uint32_t rows;
};

/* Tokens a page holds, so that it ends between entries of every layer: the least multiple of 128 and of all ratios that
 * is not less than `least`; 0 if that is 2^31 or more. */
uint64_t cache_page_tokens(const struct cache_layer_spec *specs, uint32_t count, uint64_t least);

/* Bytes of a page; fills parts [count] unless NULL. */
uint64_t cache_page_layout(const struct cache_layer_spec *specs, uint32_t count, uint64_t page_tokens,
                           struct cache_page_part *parts);

/* Numbers of pages, [0, count), and who holds them. One thread at a time. */
struct cache_pages;

int cache_pages_open(uint32_t count, struct cache_pages **pages, struct sonde_error *e);
void cache_pages_close(struct cache_pages *p);
uint32_t cache_pages_unused(const struct cache_pages *p);
/* A page nobody holds, now held once. There must be one. */
uint32_t cache_pages_take(struct cache_pages *p);
/* One more holder of a page that is held; one fewer. */
void cache_pages_share(struct cache_pages *p, uint32_t page);
void cache_pages_drop(struct cache_pages *p, uint32_t page);
/* True if more than one holds it. */
bool cache_pages_shared(const struct cache_pages *p, uint32_t page);

/* ----------------------------------------------------------------------------------- prefix tree */

/*
 * Which stored text does a new one begin with? Keys are runs of token ids, values pointers of the caller's. Keys with a
 * common beginning share it, so the tree is as large as the texts in it differ, and finding takes time by the length of
 * what agrees, whatever else is stored. Where keys part without one of them ending there is a fork: a place that
 * several texts went through, worth a value of its own. Values are in order of their last use, for whoever has to make
 * room. One thread at a time.
 */
struct prefix_tree;

int prefix_open(struct prefix_tree **tree, struct sonde_error *e);
/* drop(context, value) is called for every value left; NULL: no call. */
void prefix_close(struct prefix_tree *tree, void (*drop)(void *context, void *value), void *context);

/* How far ids [count] are known. */
struct prefix_match {
    void *value;     /* of the longest key that ids begin with; NULL: of none */
    uint64_t length; /* of that key */
    uint64_t fork;   /* the furthest place behind that where ids part from a stored key or others do: a value put there
                      * would serve more than one text. 0: none */
};

/* Finding a value is a use of it. */
struct prefix_match prefix_find(struct prefix_tree *tree, const int32_t *ids, uint64_t count);

/* Stores a value, not NULL, under ids [count], count > 0, as the last used; *old is what was stored there, or NULL.
 * Errors: MEMORY: nothing has changed. */
int prefix_put(struct prefix_tree *tree, const int32_t *ids, uint64_t count, void *value, void **old,
               struct sonde_error *e);

/* Takes out what is stored under exactly these ids; NULL: nothing is. */
void *prefix_remove(struct prefix_tree *tree, const int32_t *ids, uint64_t count);

/* Takes out the value used longest ago; NULL: there is none. */
void *prefix_remove_oldest(struct prefix_tree *tree);

uint64_t prefix_values(const struct prefix_tree *tree);
/* Ids held, for estimates of memory. */
uint64_t prefix_ids(const struct prefix_tree *tree);

/* True if the tree's own invariants hold. For tests: walks all of it. */
bool prefix_check(const struct prefix_tree *tree);

#endif
