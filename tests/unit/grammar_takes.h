/*
 * grammar_takes.h - grammars of schemas and of tools over the tokens of nano, and which texts they take.
 *
 * A text is said twice, by bytes and as the tokenizer cuts it, and at every token the mask must agree with what is then
 * taken. Everything here asserts: a test whose preparation fails has failed.
 */
#ifndef TESTS_UNIT_GRAMMAR_TAKES_H
#define TESTS_UNIT_GRAMMAR_TAKES_H

#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "text/chat_internal.h"
#include "text/grammar_vocabulary_internal.h"

/* Open between open_nano() and close_nano(), which are the set-up and tear-down of a group of tests. */
static sonde_tokenizer *tokenizer;
static struct text_vocabulary *vocabulary;

static inline int open_nano(void **state) {
    (void)state;
    return sonde_tokenizer_open("models/nano/tokenizer.json", &tokenizer, NULL) ||
           text_vocabulary_open(tokenizer, sonde_tokenizer_size(tokenizer) + 40, &vocabulary, NULL);
}

static inline int close_nano(void **state) {
    (void)state;
    text_vocabulary_close(vocabulary);
    sonde_tokenizer_close(tokenizer);
    return 0;
}

/* The grammar of a schema; NULL where it is refused, with the reason in *e. */
static inline struct text_grammar *compile(const char *schema, int *rc, struct sonde_error *e) {
    struct text_grammar *g = NULL;
    struct jtree tree;
    assert_int_equal(jtree_parse(schema, strlen(schema), "schema", &tree, e), 0);
    *rc = text_grammar_schema(tree.root, "schema", &g, e);
    jtree_release(&tree);
    return g;
}

static inline struct text_grammar *grammar_of(const char *schema) {
    struct sonde_error e;
    int rc;
    struct text_grammar *g = compile(schema, &rc, &e);
    if (rc)
        fail_msg("%s: %s", schema, e.message);
    return g;
}

static inline bool in_mask(const uint32_t *allowed, int32_t id) {
    return !allowed || (allowed[id / 32] >> id % 32 & 1);
}

/* Says ids as long as they are taken; masks must agree with pushes. True if all were, with *may_end behind them. */
static inline bool say_ids(struct text_constraint *c, const int32_t *ids, size_t count, bool *may_end) {
    for (size_t i = 0; i < count; i++) {
        bool allowed = in_mask(text_constraint_allowed(c, may_end), ids[i]);
        assert_int_equal(text_constraint_push(c, ids[i]), allowed);
        if (!allowed)
            return false;
    }
    text_constraint_allowed(c, may_end);
    return true;
}

/* A byte at a time, but markup by its token. */
static inline size_t byte_ids(const char *text, size_t bytes, int32_t *ids) {
    size_t count = 0;
    for (size_t i = 0; i < bytes;) {
        bool markup = bytes - i >= strlen(DSML) && memcmp(text + i, DSML, strlen(DSML)) == 0;
        ids[count++] = markup ? sonde_tokenizer_added(tokenizer, DSML) : (int32_t)tokenizer->byte_ids[(uint8_t)text[i]];
        i += markup ? strlen(DSML) : 1;
    }
    return count;
}

/* True if the whole text is taken and may end, said by bytes and then as the tokenizer would cut it. */
static inline bool takes(struct text_grammar *g, const char *text, size_t bytes) {
    struct text_constraint *c;
    int32_t *ids = malloc((bytes + 1) * sizeof(*ids)), *cut;
    size_t count = byte_ids(text, bytes, ids);
    bool ends = false, cut_ends = false;
    CHECKED(text_constraint_open(g, vocabulary, &c, &error));
    bool taken = say_ids(c, ids, count, &ends) && ends;
    text_constraint_close(c);
    free(ids);
    CHECKED(sonde_tokenizer_encode(tokenizer, text, bytes, SONDE_MARKUP_TOKENS, &cut, &count, &error));
    CHECKED(text_constraint_open(g, vocabulary, &c, &error));
    bool cut_taken = say_ids(c, cut, count, &cut_ends) && cut_ends;
    assert_int_equal(taken, cut_taken);
    text_constraint_close(c);
    sonde_free(cut);
    return taken;
}

static inline void check_takes(struct text_grammar *g, const char *what, const char *text, bool expected) {
    if (takes(g, text, strlen(text)) != expected)
        fail_msg("%s: %s '%s'", what, expected ? "does not take" : "takes", text);
}

/* Tools to call: one whose schema is strict, one without parameters, one whose schema is loose. */
static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"strict\": true, \"parameters\": {\"type\": "
    "\"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"unit\": {\"enum\": [\"C\", \"F\"]}, \"days\": "
    "{\"type\": [\"integer\", \"null\"]}, \"tag\": {\"type\": [\"string\", \"integer\"], \"maxLength\": 3}}, "
    "\"required\": [\"city\", \"days\"], \"additionalProperties\": false}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"now\"}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"loose\", \"parameters\": {\"type\": \"object\", "
    "\"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"if\": {}}}, \"required\": [\"a\"]}}}]";

static inline struct text_grammar *tools_of(const char *list, struct text_tools_options options) {
    struct text_grammar *g;
    struct jtree tree;
    CHECKED(jtree_parse(list, strlen(list), "tools", &tree, &error));
    CHECKED(text_grammar_tools(tree.root, &options, "tools", &g, &error));
    jtree_release(&tree);
    return g;
}

#endif
