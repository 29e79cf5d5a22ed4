/*
 * test_text_grammar_walks.c - whatever is said at random within a grammar has a way on, and ends in what is valid.
 *
 * The judges are other readers: the strict JSON parser, the schema said again in C, the parser of calls.
 */
#include "grammar_takes.h"

/* The token to say next: any that is allowed, but rather markup and what closes something, the more so the later. */
static int32_t draw(const uint32_t *allowed, struct rng *r, bool late, bool in_tag) {
    int32_t ids[5000], closing[5000], slash = (int32_t)tokenizer->byte_ids['/'];
    size_t count = 0, closing_count = 0;
    for (int32_t id = 0; id < (int32_t)sonde_tokenizer_size(tokenizer); id++) {
        const struct token *t = &tokenizer->tokens[id];
        if (!in_mask(allowed, id))
            continue;
        ids[count++] = id;
        if (t->length == 1 && strchr("]}\"<", tokenizer->pool[t->at]))
            closing[closing_count++] = id;
    }
    if (!count)
        return -1;
    if (in_tag && late && in_mask(allowed, slash))
        return slash;
    if (in_mask(allowed, vocabulary->markup))
        return vocabulary->markup;
    if (closing_count && rng_unit(r) < (late ? 0.9 : 0.3))
        return closing[rng_u64(r) % closing_count];
    return ids[rng_u64(r) % count];
}

/* Says tokens at random until the end or `most` of them; there must always be a way on. True at an end. What was said
 * is appended to `text`. */
static bool wander(struct text_grammar *g, struct rng *r, size_t most, struct buf *text) {
    struct text_constraint *c;
    bool ended = false, may_end;
    CHECKED(text_constraint_open(g, vocabulary, &c, &error));
    for (size_t n = 0; n < most && !ended; n++) {
        bool in_tag = text->len && text->data[text->len - 1] == '<';
        int32_t id = draw(text_constraint_allowed(c, &may_end), r, n > most / 3, in_tag);
        if (id < 0 && !may_end)
            fail_msg("no way on from: %s", text->data);
        ended = may_end && (id < 0 || rng_unit(r) < 0.2);
        if (ended)
            break;
        buf_append(text, tokenizer->pool + tokenizer->tokens[id].at, tokenizer->tokens[id].length);
        assert_true(text_constraint_push(c, id));
    }
    text_constraint_close(c);
    return ended;
}

static bool is_whole(const struct jnode *n, long low, long high) {
    return jnode_is(n, JNODE_NUMBER) && !strpbrk(n->text, ".eE") && atol(n->text) >= low && atol(n->text) <= high;
}

/* What the schema of the next test says, said again. */
static void check_order(const struct jnode *order) {
    assert_true(jnode_is(order, JNODE_OBJECT));
    assert_in_range(order->count, 2, 5);
    assert_true(is_whole(schema_member(order, "id"), 1, 99));
    const struct jnode *items = schema_member(order, "items"), *note = schema_member(order, "note");
    assert_true(jnode_is(items, JNODE_ARRAY) && items->count >= 1 && items->count <= 3);
    for (const struct jnode *n = items->first; n; n = n->next) {
        const struct jnode *sku = schema_member(n, "sku"), *color = schema_member(n, "color");
        assert_true(jnode_is(sku, JNODE_STRING) && sku->length >= 3 && sku->length <= 5);
        assert_int_equal(strspn(sku->text, "ABC-"), sku->length);
        assert_true(!color || jnode_says(color, "red") || jnode_says(color, "green"));
        assert_int_equal(n->count, 1 + (color != NULL));
    }
    assert_true(!note || note->kind == JNODE_NULL || (note->kind == JNODE_STRING && note->length <= 4 * 8));
    for (const struct jnode *n = order->first; n; n = n->next)
        if (strncmp(n->key, "f_", 2) == 0)
            assert_true(n->kind == JNODE_TRUE || n->kind == JNODE_FALSE);
}

static void test_walks__end_in_what_is_valid(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of(
        "{\"type\": \"object\", \"properties\": {\"id\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 99}, "
        "\"items\": {\"type\": \"array\", \"minItems\": 1, \"maxItems\": 3, \"items\": {\"type\": \"object\", "
        "\"properties\": {\"sku\": {\"type\": \"string\", \"pattern\": \"^[A-C-]{3,5}$\"}, \"color\": {\"enum\": "
        "[\"red\", \"green\"]}}, \"required\": [\"sku\"], \"additionalProperties\": false}}, \"note\": {\"anyOf\": "
        "[{\"type\": \"null\"}, {\"type\": \"string\", \"maxLength\": 8}]}}, \"patternProperties\": {\"^f_\": "
        "{\"type\": \"boolean\"}}, \"additionalProperties\": false, \"required\": [\"id\", \"items\"], "
        "\"maxProperties\": 5}");
    struct rng r;
    size_t ended = 0;
    rng_init(&r, 7);
    for (int i = 0; i < 300; i++) {
        struct buf text = {0};
        struct jtree tree;
        if (wander(g, &r, 300, &text)) {
            ended++;
            CHECKED(jtree_parse(text.data, text.len, "walk", &tree, &error));
            check_order(tree.root);
            jtree_release(&tree);
        }
        buf_release(&text);
    }
    assert_in_range(ended, 200, 300);
    text_grammar_free(g);
}

/* Whatever object comes out can be read by the strict reader, which knows no duplicate keys. */
static void test_walks__any_object_is_readable(void **state) {
    (void)state;
    struct text_grammar *g;
    struct rng r;
    size_t ended = 0;
    rng_init(&r, 11);
    CHECKED(text_grammar_schema(NULL, "x", &g, &error));
    for (int i = 0; i < 200; i++) {
        struct buf text = {0};
        struct jtree tree;
        if (wander(g, &r, 200, &text)) {
            ended++;
            CHECKED(jtree_parse(text.data, text.len, "walk", &tree, &error));
            jtree_release(&tree);
        }
        buf_release(&text);
    }
    assert_in_range(ended, 100, 200);
    text_grammar_free(g);
}

/* Calls are read back by the parser as they were meant: all of them, and nothing is left over. */
static void walk_calls(enum sonde_chat_format format, const char *invoke) {
    struct text_grammar *g =
        tools_of(tools, (struct text_tools_options){.format = format, .choice = TEXT_TOOLS_REQUIRED});
    struct rng r;
    size_t ended = 0;
    rng_init(&r, 3);
    for (int i = 0; i < 200; i++) {
        struct buf text = {0};
        if (wander(g, &r, 400, &text)) {
            char *message;
            json_t *m;
            size_t calls = 0;
            ended++;
            CHECKED(sonde_chat_parse(format, text.data, text.len, false, &message, &error));
            CHECKED(json_parse(message, strlen(message), "message", &m, &error));
            for (const char *at = text.data; (at = strstr(at, invoke)); at++)
                calls++;
            if (json_array_size(json_object_get(m, "tool_calls")) != calls ||
                json_string_length(json_object_get(m, "content")) != 0)
                fail_msg("%s", text.data);
            json_decref(m);
            sonde_free(message);
        }
        buf_release(&text);
    }
    assert_in_range(ended, 50, 200);
    text_grammar_free(g);
}

static void test_walks__calls_are_parsed(void **state) {
    (void)state;
    walk_calls(SONDE_CHAT_V4, "<" DSML "invoke");
    walk_calls(SONDE_CHAT_V41, "<" DSML " invoke");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walks__end_in_what_is_valid),
        cmocka_unit_test(test_walks__any_object_is_readable),
        cmocka_unit_test(test_walks__calls_are_parsed),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
