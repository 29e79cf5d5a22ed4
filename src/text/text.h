/*
 * text.h - from text to token ids and back, from conversations to prompts, from completions to messages.
 *
 * Implements the text half of sonde.h (sonde_tokenizer_*, sonde_decoder_*, sonde_chat_*); docs there and in
 * docs/formats.md. This face adds what the library needs inside: JSON that comes out as it went in, a tokenizer from
 * memory, and prompts in which what people typed stays apart from the markup around it.
 */
#ifndef TEXT_TEXT_H
#define TEXT_TEXT_H

#include "base/base.h"

/* ------------------------------------------------------------------------ JSON as it was written */

/*
 * Prompts hold JSON as the released encoder writes it, which is Python's json.dumps(ensure_ascii=False): members
 * in the order given, integers of any size, floats as Python prints them. So numbers are kept as the lexemes
 * they were, which the JSON of base.h does not. Reading is strict: no duplicate keys, no lone surrogates, no NaN,
 * no bytes that are not UTF-8, no nesting beyond JNODE_DEPTH.
 */
enum { JNODE_DEPTH = 512 };

enum jkind { JNODE_NULL, JNODE_FALSE, JNODE_TRUE, JNODE_NUMBER, JNODE_STRING, JNODE_ARRAY, JNODE_OBJECT };

struct jnode {
    enum jkind kind;
    const char *key; /* of a member, decoded, terminated; else NULL */
    size_t key_length;
    const char *text; /* a string, decoded and terminated, or a number's lexeme */
    size_t length;
    struct jnode *first, *next; /* of an array or object, in order */
    size_t count;
};

/* A document owns its nodes and texts; the input may go once it is parsed. */
struct jtree {
    struct jnode *root;
    char *text;
    struct jnode_block *blocks;
};

/* `what` begins the message of a failure. Errors: FORMAT, MEMORY. */
int jtree_parse(const char *bytes, size_t count, const char *what, struct jtree *tree, struct sonde_error *e);
void jtree_release(struct jtree *tree);

/* The member of an object, or NULL: also for a node that is NULL, null or no object, and for a member that is
 * null. */
const struct jnode *jnode_get(const struct jnode *object, const char *key);

/* What Python takes for true: neither null, false, 0, "" nor empty; NULL is not. */
bool jnode_truth(const struct jnode *node);

/* The value of a number as a double; false for anything else. */
bool jnode_number(const struct jnode *node, double *value);

/* A node of that kind, or the string `text`; false for NULL. */
bool jnode_is(const struct jnode *node, enum jkind kind);
bool jnode_says(const struct jnode *node, const char *text);

/* json.dumps(ensure_ascii=False), and the same of a string; what is not UTF-8 becomes U+FFFD. */
void jnode_write(struct buf *b, const struct jnode *node);
void json_write_string(struct buf *b, const char *text, size_t count);

/* ---------------------------------------------------------------------------------- tokenizer */

/* sonde_tokenizer_open() of a tokenizer.json held in memory. `what` names it in messages. */
int text_tokenizer_parse(const char *json, size_t bytes, const char *what, sonde_tokenizer **tokenizer,
                         struct sonde_error *e);

/* Bytes [begin, end) of a text. */
struct text_range {
    size_t begin, end;
};

/* sonde_tokenizer_encode() with SONDE_MARKUP_TOKENS, except that added tokens which begin inside one of
 * `typed` (ascending, disjoint) are text like any other. Pieces still run across the borders of ranges, so
 * that where nobody typed markup the ids are those of the whole prompt. Errors: ARGUMENT (text too long),
 * UNSUPPORTED (a split pattern gives up on this text), MEMORY. */
int text_tokenizer_encode_typed(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                                const struct text_range *typed, size_t typed_count, int32_t **ids, size_t *count,
                                struct sonde_error *e);

/* --------------------------------------------------------------------------------------- chat */

/* sonde_chat_render() that also tells which bytes of the prompt came out of messages: *typed (the caller
 * free()s it) for text_tokenizer_encode_typed(). So a user who types "<|User|>" cannot forge a turn. The commands do
 * not use it: they keep the ids a model generated, which ranges alone cannot name. It is for callers without such
 * ids. */
int text_chat_render(const char *request, size_t bytes, char **prompt, size_t *length, struct text_range **typed,
                     size_t *typed_count, struct sonde_error *e);

#endif
