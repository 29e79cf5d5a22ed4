/*
 * json_internal.h - JSON that comes out as it went in.
 *
 * Prompts hold JSON as the released encoder writes it, which is Python's json.dumps(ensure_ascii=False): members
 * in the order given, integers of any size, floats as Python prints them. So numbers are kept as the lexemes
 * they were, which the JSON of base.h does not. Reading is strict: no duplicate keys, no lone surrogates, no NaN,
 * no bytes that are not UTF-8, no nesting beyond JNODE_DEPTH.
 */
#ifndef TEXT_JSON_INTERNAL_H
#define TEXT_JSON_INTERNAL_H

#include "base/base.h"

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

/* A node of that kind, or the string `text`; false for NULL. */
bool jnode_is(const struct jnode *node, enum jkind kind);
bool jnode_says(const struct jnode *node, const char *text);

/* json.dumps(ensure_ascii=False), and the same of a string; what is not UTF-8 becomes U+FFFD. */
void jnode_write(struct buf *b, const struct jnode *node);
void json_write_string(struct buf *b, const char *text, size_t count);

#endif
