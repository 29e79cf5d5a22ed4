/* test_text_grammar_schema.c - JSON schemas as grammars: what they take, which are refused and why. */
#include "grammar_takes.h"

/* A schema, texts it takes, texts it does not; lists end with NULL. */
struct example {
    const char *schema, *good[10], *bad[14];
};

static void check_examples(const struct example *examples, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct text_grammar *g = grammar_of(examples[i].schema);
        for (size_t k = 0; k < COUNT_OF(examples[i].good) && examples[i].good[k]; k++)
            check_takes(g, examples[i].schema, examples[i].good[k], true);
        for (size_t k = 0; k < COUNT_OF(examples[i].bad) && examples[i].bad[k]; k++)
            check_takes(g, examples[i].schema, examples[i].bad[k], false);
        text_grammar_free(g);
    }
}

static void test_schema__takes_what_is_valid(void **state) {
    (void)state;
    static const struct example examples[] = {
        {"{}", {"1", "null", "\"x\"", "[]", "{\"a\": 1}", "-1.5e3"}, {"", "x", "1 2", "nul"}},
        {"true", {"1", "{}"}, {"x"}},
        {"{\"type\": \"integer\"}", {"0", "-12", "123456789012345678901"}, {"1.0", "-0", "1e2", "\"1\"", "01"}},
        {"{\"type\": [\"null\", \"boolean\"]}", {"null", "true", "false"}, {"0", "nul", "truefalse"}},
        {"{\"enum\": [\"red\", 1.50, null, {\"a\": [1]}, [true]]}",
         {"\"red\"", "1.5", "null", "{\"a\": [1]}", "[ true ]"},
         {"\"re\"", "\"reds\"", "1", "1.50", "{}", "{\"a\": [2]}", "[]", "[true, true]"}},
        {"{\"const\": \"a\\\"b\\u0001\"}", {"\"a\\\"b\\u0001\""}, {"\"a\"", "\"\\u0061\\\"b\\u0001\""}},
        {"{\"type\": \"string\", \"enum\": [\"a\", \"bb\", 3], \"minLength\": 2}", {"\"bb\""}, {"\"a\"", "3"}},
        {"{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}",
         {"\"ab\"", "\"\xe4\xbd\xa0\xe5\xa5\xbd\"", "\"\\n\\u0041x\"", "\"\\ud83d\\ude00b\""},
         {"\"a\"", "\"abcd\"", "\"\\ud83d\\ude00\"", "\"\xe4\xbd\xa0\""}},
        {"{\"pattern\": \"^[a-c]+$\", \"minLength\": 2, \"maxLength\": 3, \"type\": \"string\"}",
         {"\"ab\"", "\"abc\""},
         {"\"a\"", "\"abca\"", "\"xy\""}},
        {"{\"allOf\": [{\"pattern\": \"^a\"}, {\"pattern\": \"b$\"}], \"type\": \"string\"}",
         {"\"ab\"", "\"aab\""},
         {"\"a\"", "\"b\"", "\"ba\""}},
        {"{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"minItems\": 1, \"maxItems\": 2}",
         {"[1]", "[1, 2]"},
         {"[]", "[1,2,3]", "[\"a\"]"}},
        {"{\"type\": \"array\", \"prefixItems\": [{\"type\": \"string\"}, {\"type\": \"null\"}], \"items\": false}",
         {"[]", "[\"a\"]", "[\"a\",null]"},
         {"[1]", "[\"a\",1]", "[\"a\",null,1]"}},
        {"{\"type\": \"array\", \"items\": [{\"type\": \"string\"}], \"additionalItems\": {\"type\": \"null\"}}",
         {"[]", "[\"a\",null,null]"},
         {"[null]", "[\"a\",1]"}},
        {"{\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"string\", \"maxLength\": 1}, {\"$ref\": \"#\"}]}",
         {"5", "\"x\""},
         {"\"xx\"", "null"}},
        {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"string\"}]}", {"5", "\"x\""}, {"null"}},
        {"{\"not\": {\"type\": [\"string\", \"object\"]}}", {"5", "null", "[]"}, {"\"x\"", "{}"}},
        {"{\"$defs\": {\"a/b\": {\"type\": \"null\"}}, \"$ref\": \"#/$defs/a~1b\", \"x-note\": 1, \"title\": \"T\"}",
         {"null"},
         {"1"}},
        {"{\"type\": \"string\", \"format\": \"date\"}",
         {"\"2024-02-29\"", "\"1999-12-31\""},
         {"\"2023-02-29\"", "\"2024-13-01\"", "\"1900-02-29\""}},
        {"{\"type\": \"string\", \"format\": \"color\"}", {"\"anything\""}, {"1"}},
    };
    check_examples(examples, COUNT_OF(examples));
}

static void test_schema__objects(void **state) {
    (void)state;
    static const struct example examples[] = {
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"ab\": {\"type\": \"string\"}, "
         "\"b\\n\": {}}, \"required\": [\"a\"], \"additionalProperties\": false}",
         {"{\"a\":1}", "{\"ab\":\"x\",\"a\":1}", "{\"b\\n\": [], \"a\": 2, \"ab\": \"\"}"},
         {"{}", "{\"ab\":\"x\"}", "{\"a\":1,\"a\":2}", "{\"a\":\"1\"}", "{\"c\":1}", "{\"a\":1,\"abc\":1}"}},
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}}, \"required\": [\"z\"]}",
         {"{\"z\":1}", "{\"q\":[],\"z\":null,\"a\":1,\"aa\":2}"},
         {"{}", "{\"a\":1}", "{\"z\":1,\"z\":1}", "{\"q\":1,\"z\":1,\"q\":1}", "{\"z\":1,\"a\":\"\"}"}},
        {"{\"type\": \"object\", \"properties\": {\"a\": {}}, \"patternProperties\": {\"^n\": {\"type\": \"null\"}, "
         "\"b$\": {\"type\": [\"null\", \"integer\"]}}, \"additionalProperties\": {\"type\": \"string\"}}",
         {"{\"n\":null,\"b\":1,\"nb\":null,\"a\":1,\"x\":\"\"}"},
         {"{\"n\":1}", "{\"nb\":1}", "{\"x\":1}", "{\"b\":\"\"}"}},
        {"{\"type\": \"object\", \"minProperties\": 1, \"maxProperties\": 2, \"required\": [\"r\"]}",
         {"{\"r\":1}", "{\"r\":1,\"a\":2}", "{\"a\":1,\"r\":2}"},
         {"{}", "{\"a\":1,\"b\":2}", "{\"a\":1,\"b\":2,\"r\":3}", "{\"r\":1,\"a\":2,\"b\":3}"}},
        {"{\"type\": \"object\", \"patternProperties\": {\"^(a|bc)$\": {}}, \"additionalProperties\": false}",
         {"{}", "{\"a\":1,\"bc\":2}"},
         {"{\"a\":1,\"a\":1}", "{\"b\":1}"}},
        {"{\"type\": \"object\", \"propertyNames\": {\"pattern\": \"^[a-z]+$\", \"maxLength\": 2}}",
         {"{}", "{\"a\":1,\"zz\":2}"},
         {"{\"A\":1}", "{\"abc\":1}"}},
        {"{\"type\": \"object\", \"properties\": {\"a\": false, \"b\": true}}", {"{}", "{\"b\":1}"}, {"{\"a\":1}"}},
        {"{\"allOf\": [{\"properties\": {\"a\": {\"minimum\": 3}}}, {\"properties\": {\"a\": {\"type\": \"integer\"}}, "
         "\"required\": [\"a\"], \"type\": \"object\"}]}",
         {"{\"a\":3}", "{\"a\":30,\"b\":1}"},
         {"{\"a\":2}", "{\"a\":3.5}", "{}"}},
        {"{\"oneOf\": [{\"type\": \"object\", \"properties\": {\"k\": {\"const\": 1}, \"x\": {}}, \"required\": "
         "[\"k\", "
         "\"x\"]}, {\"type\": \"object\", \"properties\": {\"k\": {\"const\": 2}}, \"required\": [\"k\"]}]}",
         {"{\"k\":1,\"x\":2}", "{\"k\":2}", "{\"x\":1,\"k\":2}"},
         {"{\"k\":1}", "{\"k\":3}", "{}"}},
        {"{\"type\": \"object\", \"properties\": {\"c\": {\"type\": \"array\", \"items\": {\"$ref\": \"#\"}}}, "
         "\"additionalProperties\": false}",
         {"{}", "{\"c\":[]}", "{\"c\":[{\"c\":[{},{\"c\":[]}]}]}"},
         {"{\"c\":[1]}", "{\"d\":1}"}},
        {"{\"const\": {\"a\": {\"b\": [1, {\"c\": 2}]}, \"d\": \"x\"}}",
         {"{\"a\":{\"b\":[1,{\"c\":2}]},\"d\":\"x\"}", "{\"d\": \"x\", \"a\": {\"b\": [1, {\"c\": 2}]}}"},
         {"{\"a\":{\"b\":[1]},\"d\":\"x\"}", "{\"d\":\"x\"}"}},
    };
    check_examples(examples, COUNT_OF(examples));
}

static void test_schema__says_what_it_refuses(void **state) {
    (void)state;
    static const struct {
        const char *schema, *says;
        int code;
    } cases[] = {
        {"{\"properties\": {\"a\": {\"if\": {}}}}", "schema: #/properties/a: keyword \"if\"", SONDE_ERROR_UNSUPPORTED},
        {"{\"type\": \"array\", \"uniqueItems\": true}", "uniqueItems", SONDE_ERROR_UNSUPPORTED},
        {"{\"nullable\": true}", "keyword \"nullable\"", SONDE_ERROR_UNSUPPORTED},
        {"{\"items\": {\"pattern\": \"(?=a)\"}}", "#/items/pattern", SONDE_ERROR_UNSUPPORTED},
        {"{\"pattern\": \"(a)\\\\1\"}", "escape", SONDE_ERROR_UNSUPPORTED},
        {"{\"pattern\": \"a(\"}", "group", SONDE_ERROR_FORMAT},
        {"{\"pattern\": \"*\"}", "repeat", SONDE_ERROR_FORMAT},
        {"{\"oneOf\": [{\"type\": \"integer\"}, {\"minimum\": 3}]}", "#/oneOf: a oneOf", SONDE_ERROR_UNSUPPORTED},
        {"{\"$ref\": \"#/nowhere\"}", "leads nowhere", SONDE_ERROR_FORMAT},
        {"{\"$ref\": \"other.json\"}", "another document", SONDE_ERROR_UNSUPPORTED},
        {"{\"$ref\": \"#\"}", "without end", SONDE_ERROR_FORMAT},
        {"{\"type\": \"float\"}", "#/type: a type of JSON", SONDE_ERROR_FORMAT},
        {"{\"minLength\": -1}", "whole number", SONDE_ERROR_FORMAT},
        {"{\"required\": [1]}", "list of strings", SONDE_ERROR_FORMAT},
        {"{\"type\": \"string\", \"enum\": [1]}", "no value fits", SONDE_ERROR_FORMAT},
        {"false", "no value fits", SONDE_ERROR_FORMAT},
        {"{\"type\": \"object\", \"required\": [\"a\"], \"properties\": {\"a\": {\"$ref\": \"#\"}}}", "no value fits",
         SONDE_ERROR_FORMAT},
        {"{\"allOf\": []}", "list of schemas", SONDE_ERROR_FORMAT},
        {"3", "a schema is expected", SONDE_ERROR_FORMAT},
        {"{\"not\": {\"type\": \"integer\"}}", "not", SONDE_ERROR_UNSUPPORTED},
        {"{\"type\": \"string\", \"pattern\": \"(((a{1,900}){1,900}){1,900}){1,900}\"}", "too large",
         SONDE_ERROR_UNSUPPORTED},
        {"{\"type\": \"string\", \"pattern\": \"(a|b)*a(a|b){15}\"}", "too large", SONDE_ERROR_UNSUPPORTED},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct sonde_error e;
        int rc;
        struct text_grammar *g = compile(cases[i].schema, &rc, &e);
        assert_null(g);
        if (rc != cases[i].code || !strstr(e.message, cases[i].says))
            fail_msg("%s: %d, %s", cases[i].schema, rc, e.message);
    }
}

/* Schemas made to be dear are either refused or cost little. */
static void test_schema__hostile_ones_end(void **state) {
    (void)state;
    struct buf b = {0};
    struct sonde_error e;
    int rc;
    buf_string(&b, "{\"anyOf\": [");
    for (int i = 0; i < 60; i++)
        buf_printf(&b, "{\"type\": \"array\", \"items\": {\"$ref\": \"#\"}, \"maxItems\": %d}, ", i + 1);
    for (int i = 0; i < 60; i++)
        buf_printf(&b, "{\"pattern\": \"^.{%d}x.{%d}$\"}, ", i, i + 7);
    buf_string(&b, "{\"type\": \"null\"}]}");
    double started = clock_seconds();
    struct text_grammar *g = compile(b.data, &rc, &e);
    if (g) {
        check_takes(g, "hostile", "[[[[[[null]]]]],[]]", true);
        check_takes(g, "hostile", "[[[[[[1", false);
    }
    text_grammar_free(g);
    assert_true(clock_seconds() - started < 60);
    buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schema__takes_what_is_valid),
        cmocka_unit_test(test_schema__objects),
        cmocka_unit_test(test_schema__says_what_it_refuses),
        cmocka_unit_test(test_schema__hostile_ones_end),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
