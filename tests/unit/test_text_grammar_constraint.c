/* test_text_grammar_constraint.c - one text on its way: masks, tokens that were not allowed, ids without tokens. */
#include "grammar_takes.h"

static void test_constraint__after_a_token_that_was_not_allowed(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of("{\"type\": \"null\"}");
    struct text_constraint *c;
    bool may_end;
    CHECKED(text_constraint_open(g, vocabulary, &c, &error));
    text_grammar_free(g); /* the constraint keeps it */
    assert_false(text_constraint_push(c, (int32_t)tokenizer->byte_ids['x']));
    const uint32_t *allowed = text_constraint_allowed(c, &may_end);
    assert_true(may_end);
    for (uint32_t id = 0; id < sonde_tokenizer_size(tokenizer); id++)
        assert_false(in_mask(allowed, (int32_t)id));
    assert_false(text_constraint_push(c, (int32_t)tokenizer->byte_ids['n']));
    text_constraint_close(c);
}

static void test_constraint__ids_without_tokens(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of("{\"type\": \"string\"}");
    int32_t wrong[] = {-1, (int32_t)sonde_tokenizer_size(tokenizer), 1 << 30, 0, 1};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct text_constraint *c;
        bool may_end;
        int32_t quote = (int32_t)tokenizer->byte_ids['"'];
        CHECKED(text_constraint_open(g, vocabulary, &c, &error));
        assert_true(say_ids(c, &quote, 1, &may_end));
        assert_false(text_constraint_push(c, wrong[i]));
        text_constraint_close(c);
    }
    text_grammar_free(g);
}

/* Inside a string of bounded length the mask is exact for each length that is left. */
static void test_constraint__lengths_are_exact(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of("{\"type\": \"string\", \"maxLength\": 5}");
    for (int said = 0; said <= 5; said++) {
        struct text_constraint *c;
        int32_t ids[8];
        bool may_end;
        CHECKED(text_constraint_open(g, vocabulary, &c, &error));
        assert_true(say_ids(c, ids, byte_ids("\"aaaaa", (size_t)said + 1, ids), &may_end));
        const uint32_t *allowed = text_constraint_allowed(c, &may_end);
        for (uint32_t id = 0; id < sonde_tokenizer_size(tokenizer); id++) {
            struct text_constraint *other;
            const struct token *t = &tokenizer->tokens[id];
            if (t->length > 8)
                continue;
            CHECKED(text_constraint_open(g, vocabulary, &other, &error));
            for (int i = 0; i <= said; i++)
                assert_true(text_constraint_push(other, ids[i]));
            if (in_mask(allowed, (int32_t)id) != text_constraint_push(other, (int32_t)id))
                fail_msg("%.*s after %d", (int)t->length, tokenizer->pool + t->at, said);
            text_constraint_close(other);
        }
        text_constraint_close(c);
    }
    text_grammar_free(g);
}

/* States are forgotten on the way, and what was said is not. */
static void test_constraint__long_answers(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of("{\"type\": \"object\", \"required\": [\"z\"], \"properties\": {\"z\": {}}}");
    struct buf text = {0};
    buf_byte(&text, '{');
    for (int i = 0; i < 1000; i++)
        buf_printf(&text, "\"k%d\": [%d], ", i, i * 7919 % 1000);
    size_t kept = text.len;
    buf_string(&text, "\"z\": 1}");
    assert_true(takes(g, text.data, text.len));
    text.len = kept;
    buf_string(&text, "\"k5\": 1, \"z\": 1}");
    assert_false(takes(g, text.data, text.len));
    buf_release(&text);
    text_grammar_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constraint__after_a_token_that_was_not_allowed),
        cmocka_unit_test(test_constraint__ids_without_tokens),
        cmocka_unit_test(test_constraint__lengths_are_exact),
        cmocka_unit_test(test_constraint__long_answers),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
