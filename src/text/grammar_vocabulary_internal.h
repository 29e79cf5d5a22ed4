/* grammar_vocabulary_internal.h - tokens as masks are made of them; grammar_vocabulary.c says how they lie. */
#ifndef TEXT_GRAMMAR_VOCABULARY_INTERNAL_H
#define TEXT_GRAMMAR_VOCABULARY_INTERNAL_H

#include "text/grammar_internal.h"

/* Longer tokens are never allowed where there is a grammar. */
enum { TOKEN_BYTES_MAX = 255 };

struct trie_node {
    uint32_t skip, token; /* TOKEN_NONE: no token ends here */
    uint8_t byte, depth;
};

struct trie {
    struct trie_node *nodes;
    uint32_t count;
};

struct plain_token {
    uint32_t id, characters;
};

struct division {
    uint32_t *bits;            /* of plain tokens */
    struct plain_token *plain; /* the longest first */
    uint32_t count;
    struct trie rest; /* all others */
};

struct text_vocabulary {
    const sonde_tokenizer *tokenizer;
    uint32_t size, words; /* logits; words of a mask */
    int32_t markup;       /* the token |DSML|, -1: there is none */
    uint32_t *added;      /* bits */
    struct trie all;
    struct division json, values; /* strings of JSON; texts of parameters */
};

#endif
