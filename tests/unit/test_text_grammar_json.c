/* test_text_grammar_json.c - any JSON: its spelling, its white space, keys that come once, how deep it may nest. */
#include "grammar_takes.h"

static void test_json__is_any_object(void **state) {
    (void)state;
    struct text_grammar *g;
    static const char *const good[] = {"{}",
                                       "{ }",
                                       "\n{}",
                                       "{\"a\":1}",
                                       "{\"a\": [1, 2.5e-3, {\"b\": null}], \"\": \"\\u00e9\\n\\/\"}",
                                       "{\n  \"a\": true,\n  \"b\": [\n    false\n  ]\n}",
                                       "{\"\xe4\xbd\xa0\": \"\xf0\x9f\x98\x80 \\ud83d\\ude00\"}",
                                       "{\"a\\nb\": -0.0, \"A\": 0}",
                                       "{\"a\":\"tool <\xef\xbd\x9c|DSML\"}"};
    static const char *const bad[] = {"[]",
                                      "1",
                                      "\"a\"",
                                      "{",
                                      "{}}",
                                      "{} ",
                                      "{\"a\":1,}",
                                      "{,}",
                                      "{\"a\" :1}",
                                      "{\"a\":1 ,\"b\":2}",
                                      "{\"a\":01}",
                                      "{\"a\":+1}",
                                      "{\"a\":1.}",
                                      "{\"a\":.5}",
                                      "{'a':1}",
                                      "{\"a\":tru}",
                                      "{\"a\":\"\t\"}",
                                      "{\"a\":\"\\x41\"}",
                                      "{\"a\":\"\\ud83d\"}",
                                      "{\"a\":\"\\udc00\"}",
                                      "{\"a\":\"\\ud83d\\u0041\"}",
                                      "{\"a\":\"\xff\"}",
                                      "{\"a\":\"\xc0\xaf\"}",
                                      "{\"a\":\"\xed\xa0\x80\"}",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"ab\":1,\"a\":2,\"ab\":3}",
                                      "{\"a\":NaN}",
                                      "{\"a\":1e1000}",
                                      "{\"\\u0061\":1}",
                                      "{\"a\":[1,]}",
                                      "{\"a\":[,1]}",
                                      "{\"a\":\"" DSML "\"}"};
    CHECKED(text_grammar_schema(NULL, "response_format", &g, &error));
    for (size_t i = 0; i < COUNT_OF(good); i++)
        check_takes(g, "any object", good[i], true);
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        check_takes(g, "any object", bad[i], false);
    text_grammar_free(g);
}

static void test_json__space_is_bounded(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of("{\"type\": \"array\"}");
    char text[200];
    for (size_t blanks = 60; blanks < 70; blanks++) {
        snprintf(text, sizeof(text), "[\n%*s1\n%*s]", (int)blanks, "", (int)blanks, "");
        check_takes(g, "array", text, blanks <= 64);
    }
    static const char *const bad[] = {"[  1]", "[\n\n1]", "[1\n\n]", "[ \n1]", "[\r\n1]", "[1 , 2]", "[\t1]"};
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        check_takes(g, "array", bad[i], false);
    check_takes(g, "array", "[\n\t\t1, 2,\n 3\n]", true);
    text_grammar_free(g);
}

/* Keys are remembered as they are said, also in tokens that hold more than the key. */
static void test_json__keys_come_once(void **state) {
    (void)state;
    struct text_grammar *g;
    struct buf text = {0};
    CHECKED(text_grammar_schema(NULL, "x", &g, &error));
    buf_byte(&text, '{');
    for (int i = 0; i < 300; i++)
        buf_printf(&text, "\"key%d\": {\"key%d\": %d}, ", i, i, i);
    size_t kept = text.len;
    buf_string(&text, "\"key30\\n\": 1}");
    assert_true(takes(g, text.data, text.len));
    text.len = kept;
    buf_string(&text, "\"key30\": 1}");
    assert_false(takes(g, text.data, text.len));
    text.len = kept;
    buf_string(&text, "\"key300\": 1}");
    assert_true(takes(g, text.data, text.len));
    buf_release(&text);
    text_grammar_free(g);
}

static void test_json__nesting_is_bounded(void **state) {
    (void)state;
    struct text_grammar *g = grammar_of("{\"type\": \"array\"}");
    char text[2 * GRAMMAR_DEPTH + 20];
    for (size_t depth = GRAMMAR_DEPTH - 2; depth < GRAMMAR_DEPTH + 4; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(takes(g, text, 2 * depth), depth <= GRAMMAR_DEPTH);
    }
    text_grammar_free(g);
    /* What a schema demands is there at any depth. */
    g = grammar_of("{\"$ref\": \"#/$defs/n\", \"$defs\": {\"n\": {\"type\": \"object\", \"required\": [\"v\"], "
                   "\"properties\": {\"v\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/$defs/n\"}}}, "
                   "\"additionalProperties\": false}}}");
    struct text_constraint *c;
    int32_t ids[16];
    bool may_end;
    CHECKED(text_constraint_open(g, vocabulary, &c, &error));
    size_t count = byte_ids("{\"v\":[", 6, ids), deep = 0;
    while (say_ids(c, ids, count, &may_end))
        deep++;
    assert_in_range(deep, GRAMMAR_DEPTH / 2 - 2, GRAMMAR_DEPTH / 2 + 2);
    assert_false(may_end);
    text_constraint_close(c);
    text_grammar_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json__is_any_object),
        cmocka_unit_test(test_json__space_is_bounded),
        cmocka_unit_test(test_json__keys_come_once),
        cmocka_unit_test(test_json__nesting_is_bounded),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
