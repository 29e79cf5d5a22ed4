/*
 * fuzz_schema.c - any bytes as a schema or a list of tools, and as the choices of whoever answers by it.
 *
 * The bytes before the first 0 are the schema, or the tools if they are a list; each byte behind it draws among the
 * tokens that are allowed. There must always be a way on, whatever is allowed must be taken, JSON that may end must be
 * JSON, and compiling must not take long.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_vocabulary_internal.h"

#ifndef MODEL /* the build says where it is; seen from the source root otherwise */
#define MODEL "models/nano"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds)
        abort();
}

static const struct text_vocabulary *vocabulary(void) {
    static struct text_vocabulary *v;
    static sonde_tokenizer *t;
    if (!v) {
        check(sonde_tokenizer_open(MODEL "/tokenizer.json", &t, NULL) == 0);
        check(text_vocabulary_open(t, sonde_tokenizer_size(t), &v, NULL) == 0);
    }
    return v;
}

/* One that is allowed, by a number; -1: none is. */
static int32_t draw(const uint32_t *allowed, uint32_t choice) {
    uint32_t size = vocabulary()->size;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t id = (choice * 257 + i) % size;
        if (!allowed || (allowed[id / 32] >> id % 32 & 1))
            return (int32_t)id;
    }
    return -1;
}

static void check_json(const struct buf *text) {
    struct jtree tree;
    check(jtree_parse(text->data, text->len, "answer", &tree, NULL) == 0);
    jtree_release(&tree);
}

static void answer(struct text_grammar *g, const uint8_t *choices, size_t count) {
    const sonde_tokenizer *t = vocabulary()->tokenizer;
    struct text_constraint *c;
    struct buf text = {0};
    bool may_end;
    check(text_constraint_open(g, vocabulary(), &c, NULL) == 0);
    for (size_t i = 0; i < count; i++) {
        const uint32_t *allowed = text_constraint_allowed(c, &may_end);
        int32_t id = draw(allowed, choices[i]);
        if (may_end && g->kind == GRAMMAR_JSON)
            check_json(&text);
        if (id < 0)
            check(may_end);
        if (id < 0 || !allowed)
            break;
        check(text_constraint_push(c, id));
        buf_append(&text, t->pool + t->tokens[id].at, t->tokens[id].length);
    }
    text_constraint_close(c);
    buf_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    size_t bytes = end ? (size_t)(end - data) : size;
    struct text_tools_options options = {
        .format = bytes & 2 ? SONDE_CHAT_V41 : SONDE_CHAT_V4, .choice = TEXT_TOOLS_REQUIRED, .single = bytes & 1};
    struct text_grammar *g = NULL;
    struct jtree tree;
    struct sonde_error e;
    if (jtree_parse((const char *)data, bytes, "schema", &tree, NULL))
        return 0;
    double started = clock_seconds();
    int rc = tree.root->kind == JNODE_ARRAY ? text_grammar_tools(tree.root, &options, "tools", &g, &e)
                                            : text_grammar_schema(tree.root, "schema", &g, &e);
    check(clock_seconds() - started < 20);
    if (rc)
        check(rc == SONDE_ERROR_FORMAT || rc == SONDE_ERROR_UNSUPPORTED || rc == SONDE_ERROR_ARGUMENT);
    else
        answer(g, data + bytes + (end != NULL), size - bytes - (end != NULL));
    text_grammar_free(g);
    jtree_release(&tree);
    return 0;
}
