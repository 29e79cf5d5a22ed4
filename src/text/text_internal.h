/* text_internal.h - what the files of this room share: UTF-8, the tokenizer's tables, split patterns. */
#ifndef TEXT_TEXT_INTERNAL_H
#define TEXT_TEXT_INTERNAL_H

#include "text/text.h"

/* ---------------------------------------------------------------------------------------- UTF-8 */

enum utf8_kind {
    UTF8_WHOLE,  /* a well-formed character */
    UTF8_BROKEN, /* bytes that no continuation makes one: a maximal subpart (Unicode 15, section 3.9) */
    UTF8_CUT,    /* well-formed so far, but the text ends */
};

/* How many of the `count` >= 1 bytes at s belong together, 1 to 4, and what they are. */
size_t utf8_next(const char *s, size_t count, enum utf8_kind *kind);

/* Appends s with one U+FFFD for each maximal subpart that is not UTF-8, as Python's errors="replace". */
void utf8_append(struct buf *b, const char *s, size_t count);

/* -------------------------------------------------------------------------------- split patterns */

struct pattern; /* compiled, read-only, shared by threads */

/* Compiles a regular expression written for Oniguruma, as Hugging Face files are, or with `literal` set a
 * string to be found as it is. Errors: FORMAT, UNSUPPORTED, MEMORY; the message begins with `what`. */
int pattern_open(const char *source, size_t bytes, bool literal, const char *what, struct pattern **pattern,
                 struct sonde_error *e);
void pattern_close(struct pattern *p);

/* Room for the matches of one thread. */
struct matcher;
struct matcher *matcher_new(size_t longest); /* longest text in bytes; NULL: out of memory */
void matcher_free(struct matcher *m);

/* Walks the matches of a pattern from left to right: at most one empty match at a place, and none where
 * the match before ended. Begin with {0}. */
struct pattern_walk {
    size_t at, last_end;
    bool any;
};

/* 1 and [*begin, *end), or 0 when there is no further match. text is well-formed UTF-8. Errors:
 * UNSUPPORTED (the pattern needs too many steps), MEMORY. */
int pattern_next(const struct pattern *p, struct matcher *m, const char *text, size_t count, struct pattern_walk *walk,
                 size_t *begin, size_t *end, struct sonde_error *e);

/* ------------------------------------------------------------------------------------- tokenizer */

#define TOKEN_NONE UINT32_MAX

enum { PATTERNS_MAX = 16 };

/* A token's bytes: pool[at .. at + length). length is 0 for ids that name no token. */
struct token {
    uint32_t at, length;
};

/* One rule "left right": a row of an open hash table. id is TOKEN_NONE in empty rows. */
struct merge {
    uint32_t left, right, rank, id;
};

/* Added tokens in byte order of their spellings: ids into tokens. */
struct added {
    uint32_t *ids;
    size_t count;
};

struct splitter {
    struct pattern *pattern;
    bool removed; /* what matches (or with invert: what does not) is dropped, instead of standing alone */
    bool invert;
};

struct sonde_tokenizer {
    uint32_t size; /* highest id + 1 */
    struct token *tokens;
    char *pool;
    uint32_t byte_ids[256];
    struct merge *merges;
    uint32_t merge_mask; /* rows - 1, rows a power of two */
    uint32_t *whole;     /* ids by the hash of their bytes, for ignore_merges; else NULL */
    uint32_t whole_mask;
    struct added added[2]; /* [0] found first (normalized false), [1] in what is left (normalized true) */
    struct splitter splitters[PATTERNS_MAX];
    size_t splitter_count;
    size_t prefix_level; /* a piece gets a space before splitters[prefix_level]; SIZE_MAX: never */
};

/* The rule for a pair, or NULL. */
const struct merge *tokenizer_merge(const sonde_tokenizer *t, uint32_t left, uint32_t right);
uint32_t tokenizer_pair_hash(uint32_t left, uint32_t right);

/* Looks bytes up among all tokens of the vocabulary; TOKEN_NONE if absent. Only where t->whole. */
uint32_t tokenizer_whole(const sonde_tokenizer *t, const char *bytes, size_t count);
uint32_t tokenizer_bytes_hash(const char *bytes, size_t count);

/* The longest added token of a set that `text` begins with, or TOKEN_NONE. */
uint32_t tokenizer_added_at(const sonde_tokenizer *t, const struct added *set, const char *text, size_t count);

#endif
