/* test_text_grammar_calls.c - calls of tools as grammars: blocks of them, text before them, tools that are refused. */
#include "grammar_takes.h"

/* Official markup: a block of calls, a call, a parameter that is a string and one that is JSON. */
#define W              "<" DSML "tool_calls>\n"
#define W_             "</" DSML "tool_calls>"
#define I(name)        "<" DSML "invoke name=\"" name "\">\n"
#define I_             "</" DSML "invoke>\n"
#define P(name, value) "<" DSML "parameter name=\"" name "\" string=\"true\">" value "</" DSML "parameter>\n"
#define J(name, value) "<" DSML "parameter name=\"" name "\" string=\"false\">" value "</" DSML "parameter>\n"
#define PARIS          I("weather") P("city", "Paris") J("days", "3") I_

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tools__required_is_a_block),       cmocka_unit_test(test_tools__auto_begins_with_text),
        cmocka_unit_test(test_tools__may_be_narrowed),           cmocka_unit_test(test_tools__refuses_clearly),
        cmocka_unit_test(test_tools__loose_ones_always_compile), cmocka_unit_test(test_tools__the_marker_is_a_token),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
