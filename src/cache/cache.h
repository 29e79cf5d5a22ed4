/*
 * cache.h - what a sequence remembers, layer by layer, and which texts are remembered. No maths here: only which rows
 * there are and where.
 *
 * A layer keeps
 *
 *   window        [R] keys           of the last R tokens, position p in row p % R
 *   entries       [n] keys           one compressed key for each `ratio` tokens          (ratio > 0)
 *   tail values,  float [T, wide]    compressor projections of the last T tokens, position p in row p % T: what the
 *   tail scores                      next entry will pool, ratio of them, or twice that where blocks overlap
 *   index keys    [n] index keys     and their own tail                                  (layers with an indexer)
 *   conv          float [rows, wide] Engram: what its convolution still looks back on
 *
 * Rings (window, tails, conv) may have more rows than are looked back on: as many as the last tokens that can be taken
 * back, since each of those took the row of an older one.
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
    uint32_t window;                   /* rows of the ring */
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

/* -------------------------------------------------------------------------------- pieces on disk */

/*
 * A directory of pieces: bytes under a key, which outlive the process. What a piece means is the caller's business.
 *
 *   whole or not at all   a piece is written under another name, made durable and renamed, whenever the process or the
 *                         machine stops; every byte is checked when it is read, and a broken piece is none
 *   in the background     a thread of the store's own compresses and writes
 *   never in the way      what goes wrong with the disk costs pieces and a logged line, nothing else
 *   bounded               the files of all pieces have at most `limit` bytes
 *
 * Room for a new piece is made by removing others. Those that were used again after they were stored are worth more: as
 * long as the others make up more than a quarter of the limit, of those the one used longest ago goes, else of all. Of
 * pieces used at the same time, as a coarse clock makes them, kinds go from z to a, then longer texts before shorter
 * ones. A use is a put, a get or a touch; the time of the last one is on disk, but not forced there.
 *
 * Several identities may share a directory, one after another: each sees its own pieces only, leaves the others alone
 * and has a limit of its own. docs/formats.md has the layout of the files. Calls come from one thread at a time.
 */
struct spill;

struct spill_key {
    uint8_t kind;    /* a lower-case letter */
    uint64_t length; /* of the text the piece belongs to, in tokens */
    uint64_t hash[2];
};

struct spill_options {
    const char *directory;                        /* made if it is not there; its parent must be */
    uint64_t limit;                               /* bytes on disk at most */
    uint8_t identity[16];                         /* whose pieces */
    void (*log)(void *context, const char *line); /* a line, without its end, for each thing worth knowing; comes from
                                                   * the store's thread too. NULL: none */
    void *context;
};

/* Reads the names and headers of all files; removes those of its own that are broken or unfinished, and what is more
 * than the limit. Errors: IO (also: another process has the directory), MEMORY. */
int spill_open(const struct spill_options *options, struct spill **spill, struct sonde_error *e);
/* Writes what waits first. NULL is allowed. */
void spill_close(struct spill *s);

/* True if the piece is on disk, durable. No use. */
bool spill_has(struct spill *s, const struct spill_key *key);

/* The lengths, up to `most`, that pieces of a kind on disk have: each once, ascending; *lengths is the caller's, to be
 * freed, NULL if there is none. For finding the longest stored beginning of a text. Errors: MEMORY. */
int spill_lengths(struct spill *s, uint8_t kind, uint64_t most, uint64_t **lengths, size_t *count,
                  struct sonde_error *e);

struct spill_part {
    const void *data;
    size_t bytes;
};

/* Copies the parts, one after another a piece of at most 2^34 bytes, and returns; the store's thread writes it. A piece
 * that is there, or waits to be written, is only used. Pieces that wait have 64 MiB together, or one of them is alone:
 * until there is room for this one, this waits. Errors: MEMORY, ARGUMENT (too large). */
int spill_put(struct spill *s, const struct spill_key *key, const struct spill_part *parts, size_t count,
              struct sonde_error *e);

/* Finds a piece, also one that waits: *data [*bytes] is aligned to 64 bytes and the caller's, to be freed. A file that
 * is gone or broken is *found false, no error; a broken one is logged and removed. Errors: MEMORY. */
int spill_get(struct spill *s, const struct spill_key *key, void **data, size_t *bytes, bool *found,
              struct sonde_error *e);

/* A use without reading; nothing if there is no such piece. */
void spill_touch(struct spill *s, const struct spill_key *key);

/* Removes a piece, on disk or waiting, if there is one. */
void spill_remove(struct spill *s, const struct spill_key *key);

/* Waits until every piece put before is durable, so that spill_has() knows it, or has failed. */
void spill_flush(struct spill *s);

/* Bytes of all files of pieces. */
uint64_t spill_bytes(struct spill *s);

#endif
