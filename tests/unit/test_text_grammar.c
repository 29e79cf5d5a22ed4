/* test_text_grammar.c - schemas and tools as grammars: what is taken, what is refused, no way into a dead end. */
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "text/chat_internal.h"
#include "text/grammar_vocabulary_internal.h"

/* The macros below write official markup. */
#define W              "<" DSML "tool_calls>\n"
#define W_             "</" DSML "tool_calls>"
#define I(name)        "<" DSML "invoke name=\"" name "\">\n"
#define I_             "</" DSML "invoke>\n"
#define P(name, value) "<" DSML "parameter name=\"" name "\" string=\"true\">" value "</" DSML "parameter>\n"
#define J(name, value) "<" DSML "parameter name=\"" name "\" string=\"false\">" value "</" DSML "parameter>\n"

static sonde_tokenizer *tokenizer;
static struct text_vocabulary *vocabulary;

/* -------------------------------------------------------------------------------------- helpers */

static int open_nano(void **state) {
    (void)state;
    return sonde_tokenizer_open("models/nano/tokenizer.json", &tokenizer, NULL) ||
           text_vocabulary_open(tokenizer, sonde_tokenizer_size(tokenizer) + 40, &vocabulary, NULL);
}

static int close_nano(void **state) {
    (void)state;
    text_vocabulary_close(vocabulary);
    sonde_tokenizer_close(tokenizer);
    return 0;
}

/* The grammar of a schema; NULL where it is refused, with the reason in *e. */
static struct text_grammar *compile(const char *schema, int *rc, struct sonde_error *e) {
    struct text_grammar *g = NULL;
    struct jtree tree;
    assert_int_equal(jtree_parse(schema, strlen(schema), "schema", &tree, e), 0);
    *rc = text_grammar_schema(tree.root, "schema", &g, e);
    jtree_release(&tree);
    return g;
}

static struct text_grammar *grammar_of(const char *schema) {
    struct sonde_error e;
    int rc;
    struct text_grammar *g = compile(schema, &rc, &e);
    if (rc)
        fail_msg("%s: %s", schema, e.message);
    return g;
}

static struct text_grammar *tools_of(const char *tools, struct text_tools_options options) {
    struct text_grammar *g;
    struct jtree tree;
    CHECKED(jtree_parse(tools, strlen(tools), "tools", &tree, &error));
    CHECKED(text_grammar_tools(tree.root, &options, "tools", &g, &error));
    jtree_release(&tree);
    return g;
}

static bool in_mask(const uint32_t *allowed, int32_t id) {
    return !allowed || (allowed[id / 32] >> id % 32 & 1);
}

/* Says ids as long as they are taken; masks must agree with pushes. True if all were, with *may_end behind them. */
static bool say_ids(struct text_constraint *c, const int32_t *ids, size_t count, bool *may_end) {
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
static size_t byte_ids(const char *text, size_t bytes, int32_t *ids) {
    size_t count = 0;
    for (size_t i = 0; i < bytes;) {
        bool markup = bytes - i >= strlen(DSML) && memcmp(text + i, DSML, strlen(DSML)) == 0;
        ids[count++] = markup ? sonde_tokenizer_added(tokenizer, DSML) : (int32_t)tokenizer->byte_ids[(uint8_t)text[i]];
        i += markup ? strlen(DSML) : 1;
    }
    return count;
}

/* True if the whole text is taken and may end, said by bytes and then as the tokenizer would cut it. */
static bool takes(struct text_grammar *g, const char *text, size_t bytes) {
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

static void check_takes(struct text_grammar *g, const char *what, const char *text, bool expected) {
    if (takes(g, text, strlen(text)) != expected)
        fail_msg("%s: %s '%s'", what, expected ? "does not take" : "takes", text);
}

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

/* ------------------------------------------------------------------------------------------ JSON */

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

/* ---------------------------------------------------------------------------------------- schemas */

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

/* ----------------------------------------------------------------------------- patterns and numbers */

static void test_regex__is_that_of_the_specification(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *good[4], *bad[4];
    } cases[] = {
        {"b", {"abc", "b"}, {"", "ac"}},
        {"^b", {"bc"}, {"ab", ""}},
        {"b$", {"ab"}, {"ba", ""}},
        {"^$", {""}, {"a"}},
        {"", {"", "x"}, {NULL}},
        {"^a|b$", {"ax", "xb", "ab"}, {"xa", "bx", ""}},
        {"^(a|bc)*$", {"", "abca", "bcbc"}, {"b", "abcb"}},
        {"^a{2,3}$", {"aa", "aaa"}, {"a", "aaaa"}},
        {"^a{2}$", {"aa"}, {"a", "aaa"}},
        {"^a{2,}$", {"aa", "aaaaaa"}, {"a"}},
        {"^a{,2}$", {"a{,2}"}, {"a", "aa"}},
        {"^a+?b*?c??$", {"a", "aabbc"}, {"", "bc"}},
        {"^[^a-c\\d]$", {"d", "\xe4\xbd\xa0"}, {"a", "5", "dd"}},
        {"^[\\w-]+$", {"a_B-9"}, {"\xc3\xa9", "a b"}},
        {"^\\S+\\s\\S+$", {"a b", "a\xe3\x80\x80z"}, {"ab", "a  b"}},
        {"^.$", {"a", "\xf0\x9f\x98\x80", "\xc2\xa0"}, {"\n", "\xe2\x80\xa8", "ab"}},
        {"^[^]$", {"\n", "x"}, {"", "xx"}},
        {"^\\u4f60\\x41\\u{1F600}\\cA$",
         {"\xe4\xbd\xa0"
          "A\xf0\x9f\x98\x80\x01"},
         {"A"}},
        {"^\\ud83d\\ude00$", {"\xf0\x9f\x98\x80"}, {"\xf0\x9f\x98\x81"}},
        {"^[\xce\xb1-\xcf\x89]+$", {"\xce\xb1\xce\xb2"}, {"a"}},
        {"^(?:a(?<n>b))+$", {"abab"}, {"aba"}},
        {"^\\/\\.\\*\\[\\]\\{\\}\\-$", {"/.*[]{}-"}, {"/x*[]{}-"}},
        {"^[a\\-z\\]]+$", {"a-z]"}, {"b"}},
        {"$^", {""}, {"a"}},
        {"a^b", {NULL}, {"ab", "a^b"}},
        {"^[\\u0800-\\uffff]$", {"\xe0\xa0\x80", "\xee\x80\x80", "\xef\xbf\xbf"}, {"\xdf\xbf", "\xf0\x90\x80\x80"}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct budget g = {.work = 10000000, .what = "test"};
        struct sonde_error e;
        struct dfa *d;
        g.e = &e;
        if (dfa_regex(cases[i].pattern, strlen(cases[i].pattern), "pattern", &g, &d))
            fail_msg("%s: %s", cases[i].pattern, e.message);
        for (size_t k = 0; k < 8; k++) {
            const char *text = k < 4 ? cases[i].good[k] : cases[i].bad[k - 4];
            uint32_t s = text ? dfa_run(d, text, strlen(text)) : DFA_DEAD;
            if (text && (s != DFA_DEAD && d->label[s]) != (k < 4))
                fail_msg("/%s/ and '%s'", cases[i].pattern, text);
        }
        dfa_free(d);
    }
}

/* Bounds and divisors in hundredths, against arithmetic. */
static void test_numbers__are_exact(void **state) {
    (void)state;
    static const struct {
        const char *schema;
        double low, high; /* both included */
        int step;         /* hundredths */
    } cases[] = {
        {"{\"type\": \"integer\", \"minimum\": -17, \"maximum\": 123}", -17, 123, 100},
        {"{\"type\": \"integer\", \"exclusiveMinimum\": 0, \"exclusiveMaximum\": 100}", 1, 99, 100},
        {"{\"type\": \"integer\", \"minimum\": 9.5, \"maximum\": 105.5, \"multipleOf\": 7}", 14, 105, 700},
        {"{\"type\": \"number\", \"minimum\": -1.25, \"maximum\": 10.05}", -1.25, 10.05, 1},
        {"{\"type\": \"number\", \"exclusiveMinimum\": -1.25, \"exclusiveMaximum\": 1e1}", -1.24, 9.99, 1},
        {"{\"type\": \"number\", \"multipleOf\": 0.25, \"maximum\": 3}", -12, 3, 25},
        {"{\"type\": \"number\", \"multipleOf\": 2.5, \"minimum\": -5}", -5, 12, 250},
        {"{\"type\": \"integer\", \"multipleOf\": 1.5}", -12, 12, 300},
        {"{\"type\": \"integer\", \"maximum\": -3}", -12, -3, 100},
        {"{\"allOf\": [{\"minimum\": 0.5}, {\"minimum\": 2, \"maximum\": 4}], \"type\": \"number\"}", 2, 4, 1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text_grammar *g = grammar_of(cases[i].schema);
        bool whole = strstr(cases[i].schema, "integer") != NULL;
        for (int hundredths = -1200; hundredths <= 1200; hundredths += whole ? 100 : 1) {
            char text[32];
            struct jnode n = {.text = text};
            struct decimal d;
            struct buf b = {0};
            n.length = (size_t)snprintf(text, sizeof(text), "%.2f", hundredths / 100.0);
            assert_true(decimal_read(text, n.length, &d));
            decimal_write(&d, &b);
            bool fits = hundredths >= cases[i].low * 100 - 1e-6 && hundredths <= cases[i].high * 100 + 1e-6 &&
                        hundredths % cases[i].step == 0;
            check_takes(g, cases[i].schema, b.data, fits);
            buf_release(&b);
        }
        text_grammar_free(g);
    }
    struct text_grammar *g =
        grammar_of("{\"type\": \"number\", \"minimum\": 0.1, \"maximum\": 12345678901234567890.5}");
    check_takes(g, "wide", "12345678901234567890.50", true);
    check_takes(g, "wide", "12345678901234567890.51", false);
    check_takes(g, "wide", "0.1000", true);
    check_takes(g, "wide", "0.0999999999999999999999999999999999999", false);
    check_takes(g, "wide", "-0.5", false);
    text_grammar_free(g);
}

/* ------------------------------------------------------------------------------------------ tools */

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"strict\": true, \"parameters\": {\"type\": "
    "\"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"unit\": {\"enum\": [\"C\", \"F\"]}, \"days\": "
    "{\"type\": [\"integer\", \"null\"]}, \"tag\": {\"type\": [\"string\", \"integer\"], \"maxLength\": 3}}, "
    "\"required\": [\"city\", \"days\"], \"additionalProperties\": false}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"now\"}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"loose\", \"parameters\": {\"type\": \"object\", "
    "\"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"if\": {}}}, \"required\": [\"a\"]}}}]";

#define PARIS I("weather") P("city", "Paris") J("days", "3") I_

static void check_tools(struct text_tools_options options, const char *const *good, const char *const *bad) {
    struct text_grammar *g = tools_of(tools, options);
    for (; *good; good++)
        check_takes(g, "tools", *good, true);
    for (; *bad; bad++)
        check_takes(g, "tools", *bad, false);
    text_grammar_free(g);
}

static void test_tools__required_is_a_block(void **state) {
    (void)state;
    static const char *const good[] = {W PARIS W_,
                                       "\n\n" W PARIS W_,
                                       W PARIS PARIS W_,
                                       W I("weather") J("days", "null") P("unit", "F")
                                           P("city", "a < b </x> <\xef\xbd\x9c \"q\"\n\nz") I_ W_,
                                       W I("weather") J("days", "1") P("city", "") P("tag", "abc") I_ W_,
                                       W I("weather") J("days", "1") P("city", "") J("tag", "12") I_ W_,
                                       W I("now") "\n" I_ W_,
                                       W I("now") I_ W_,
                                       W I("loose") J("b", "{\"x\": [1, 2]}") J("a", "1") P("zz", "more") I_ W_,
                                       W I("loose") J("a", "1") P("b", "text") "\n" I_ W_,
                                       NULL};
    static const char *const bad[] = {
        "",
        "hello",
        "\n\n\n" W PARIS W_,
        W W_,
        W PARIS W_ "\n",
        W PARIS,
        W I("weather") P("city", "Paris") I_ W_,                                  /* days is required */
        W I("weather") P("city", "Paris") P("days", "3") I_ W_,                   /* which is no string */
        W I("weather") P("city", "Paris") J("days", "\"3\"") I_ W_,               /* nor in JSON */
        W I("weather") P("city", "Paris") P("city", "Rome") J("days", "3") I_ W_, /* twice */
        W I("weather") P("city", "Paris") J("days", "3") P("more", "x") I_ W_,    /* not additional */
        W I("weather") P("city", "Paris") J("days", "3") P("unit", "K") I_ W_,
        W I("weather") P("city", "Paris") J("days", "3") P("tag", "abcd") I_ W_,
        W I("weather") J("city", "\"Paris\"") J("days", "3") I_ W_,
        W I("weather") P("city", "a<" DSML "b") J("days", "3") I_ W_,
        W I("weather") P("city", "a</|DSML|parameter>") J("days", "3") I_ W_,
        W I("weathers") P("city", "Paris") J("days", "3") I_ W_,
        W I("now") P("x", "y") I_ W_,
        W I("loose") P("a", "1") I_ W_,
        W I("loose") J("b", "1") I_ W_,
        W I("loose") J("a", "1") P("c", "1") P("c", "2") I_ W_,
        NULL};
    check_tools((struct text_tools_options){.choice = TEXT_TOOLS_REQUIRED}, good, bad);
}

static void test_tools__auto_begins_with_text(void **state) {
    (void)state;
    static const char *const good[] = {"",
                                       "Hello there.",
                                       "a < b, <| and <"
                                       "tool_calls>",
                                       "Let me see.\n\n" W PARIS W_,
                                       W PARIS PARIS W_,
                                       "<<" DSML "tool_calls>\n" PARIS W_,
                                       "The marker " DSML " alone.",
                                       NULL};
    static const char *const bad[] = {"x" W,
                                      "x" W PARIS,
                                      "x" W PARIS W_ " ",
                                      "x<" DSML "invoke name=\"now\">\n",
                                      "x" W I("weather") J("days", "3") I_ W_,
                                      NULL};
    check_tools((struct text_tools_options){.choice = TEXT_TOOLS_AUTO}, good, bad);
}

static void test_tools__may_be_narrowed(void **state) {
    (void)state;
    static const char *const one[] = {W PARIS W_, NULL}, *const two[] = {W PARIS PARIS W_, NULL};
    static const char *const named[] = {W I("now") I_ W_, W I("now") "\n" I_ I("now") "\n" I_ W_, NULL};
    static const char *const other[] = {W PARIS W_, NULL};
    check_tools((struct text_tools_options){.choice = TEXT_TOOLS_REQUIRED, .single = true}, one, two);
    check_tools((struct text_tools_options){.choice = TEXT_TOOLS_REQUIRED, .only = "now"}, named, other);
}

static void test_tools__refuses_clearly(void **state) {
    (void)state;
    static const struct {
        const char *tools, *only, *says;
        int code;
    } cases[] = {
        {"[]", NULL, "tools: there is no tool", SONDE_ERROR_ARGUMENT},
        {"[{\"function\": {\"name\": \"a\"}}]", "b", "there is no tool \"b\"", SONDE_ERROR_ARGUMENT},
        {"{}", NULL, "a list", SONDE_ERROR_FORMAT},
        {"[{\"function\": {}}]", NULL, "tools[0].function.name", SONDE_ERROR_FORMAT},
        {"[{\"function\": {\"name\": \"a b\"}}]", NULL, "tools[0].function.name", SONDE_ERROR_UNSUPPORTED},
        {"[{\"function\": {\"name\": \"a\"}}, {\"function\": {\"name\": \"a\"}}]", NULL, "twice", SONDE_ERROR_FORMAT},
        {"[{\"function\": {\"name\": \"a\"}}, {\"function\": {\"name\": \"b\", \"strict\": true, \"parameters\": "
         "{\"properties\": {\"x\": {\"contains\": 1}}}}}]",
         NULL, "tools[1].function.parameters: #/properties/x: keyword \"contains\"", SONDE_ERROR_UNSUPPORTED},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text_tools_options options = {.only = cases[i].only};
        struct text_grammar *g = NULL;
        struct sonde_error e;
        struct jtree tree;
        CHECKED(jtree_parse(cases[i].tools, strlen(cases[i].tools), "tools", &tree, &error));
        int rc = text_grammar_tools(tree.root, &options, "tools", &g, &e);
        if (rc != cases[i].code || !strstr(e.message, cases[i].says))
            fail_msg("%s: %d, %s", cases[i].tools, rc, e.message);
        jtree_release(&tree);
    }
}

/* A tool whose schema is no schema can still be called. */
static void test_tools__loose_ones_always_compile(void **state) {
    (void)state;
    static const char *const schemas[] = {"3",
                                          "{\"properties\": 3}",
                                          "{\"$ref\": \"#/x\"}",
                                          "{\"required\": 1}",
                                          "{\"type\": \"string\"}",
                                          "{\"properties\": {\"p\": {\"type\": 3}}}"};
    for (size_t i = 0; i < COUNT_OF(schemas); i++) {
        char list[200];
        snprintf(list, sizeof(list), "[{\"function\": {\"name\": \"f\", \"parameters\": %s}}]", schemas[i]);
        struct text_grammar *g = tools_of(list, (struct text_tools_options){.choice = TEXT_TOOLS_REQUIRED});
        check_takes(g, schemas[i], W I("f") P("p", "x") I_ W_, true);
        text_grammar_free(g);
    }
}

/* Where the vocabulary has the marker, nothing else spells it; where it has not, its bytes do. */
static void test_tools__the_marker_is_a_token(void **state) {
    (void)state;
    struct text_grammar *g = tools_of(tools, (struct text_tools_options){.choice = TEXT_TOOLS_REQUIRED});
    struct text_constraint *c;
    bool may_end;
    int32_t ids[64];
    CHECKED(text_constraint_open(g, vocabulary, &c, &error));
    assert_true(say_ids(c, ids, byte_ids("<", 1, ids), &may_end));
    const uint32_t *allowed = text_constraint_allowed(c, &may_end);
    for (int32_t id = 0; id < (int32_t)sonde_tokenizer_size(tokenizer); id++)
        assert_int_equal(in_mask(allowed, id), id == sonde_tokenizer_added(tokenizer, DSML));
    text_constraint_close(c);
    text_grammar_free(g);
}

/* --------------------------------------------------------------------------------------- walks */

/* The token to say next: any that is allowed; of markup and of what closes something rather more, the more the later.
 */
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

/* Says tokens at random until the end or `most`. True at an end, with what was said in `text`. There must always be a
 * way on. */
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
static void test_walks__calls_are_parsed(void **state) {
    (void)state;
    struct text_grammar *g = tools_of(tools, (struct text_tools_options){.choice = TEXT_TOOLS_REQUIRED});
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
            CHECKED(sonde_chat_parse(text.data, text.len, false, &message, &error));
            CHECKED(json_parse(message, strlen(message), "message", &m, &error));
            for (const char *at = text.data; (at = strstr(at, "<" DSML "invoke")); at++)
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

/* ------------------------------------------------------------------------------------ constraints */

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
        cmocka_unit_test(test_json__is_any_object),
        cmocka_unit_test(test_json__space_is_bounded),
        cmocka_unit_test(test_json__keys_come_once),
        cmocka_unit_test(test_json__nesting_is_bounded),
        cmocka_unit_test(test_schema__takes_what_is_valid),
        cmocka_unit_test(test_schema__objects),
        cmocka_unit_test(test_schema__says_what_it_refuses),
        cmocka_unit_test(test_schema__hostile_ones_end),
        cmocka_unit_test(test_regex__is_that_of_the_specification),
        cmocka_unit_test(test_numbers__are_exact),
        cmocka_unit_test(test_tools__required_is_a_block),
        cmocka_unit_test(test_tools__auto_begins_with_text),
        cmocka_unit_test(test_tools__may_be_narrowed),
        cmocka_unit_test(test_tools__refuses_clearly),
        cmocka_unit_test(test_tools__loose_ones_always_compile),
        cmocka_unit_test(test_tools__the_marker_is_a_token),
        cmocka_unit_test(test_walks__end_in_what_is_valid),
        cmocka_unit_test(test_walks__any_object_is_readable),
        cmocka_unit_test(test_walks__calls_are_parsed),
        cmocka_unit_test(test_constraint__after_a_token_that_was_not_allowed),
        cmocka_unit_test(test_constraint__ids_without_tokens),
        cmocka_unit_test(test_constraint__lengths_are_exact),
        cmocka_unit_test(test_constraint__long_answers),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
