/* test_text_grammar_calls.c - calls of tools as grammars: blocks of them, text before them, tools that are refused. */
#include "grammar_takes.h"
#include "spelling.h"

/* Official markup: a block of calls, a call, a parameter that is a string and one that is JSON. */
#define W              "<" DSML "tool_calls>\n"
#define W_             "</" DSML "tool_calls>"
#define I(name)        "<" DSML "invoke name=\"" name "\">\n"
#define I_             "</" DSML "invoke>\n"
#define P(name, value) "<" DSML "parameter name=\"" name "\" string=\"true\">" value "</" DSML "parameter>\n"
#define J(name, value) "<" DSML "parameter name=\"" name "\" string=\"false\">" value "</" DSML "parameter>\n"
#define PARIS          I("weather") P("city", "Paris") J("days", "3") I_

/* Texts are in V4's spelling. V4.1's grammar takes them in its own; each takes the other's only where the two are the
 * same. */
static void check_tools(struct text_tools_options options, const char *const *good, const char *const *bad) {
    struct text_grammar *g = tools_of(tools, options);
    options.format = SONDE_CHAT_V41;
    struct text_grammar *g41 = tools_of(tools, options);
    for (size_t i = 0; good[i]; i++) {
        char *spaced = spelled_v41(good[i]);
        bool same = strcmp(good[i], spaced) == 0;
        check_takes(g, "tools", good[i], true);
        check_takes(g41, "tools of V4.1", spaced, true);
        check_takes(g, "tools", spaced, same);
        check_takes(g41, "tools of V4.1", good[i], same);
        free(spaced);
    }
    for (size_t i = 0; bad[i]; i++) {
        char *spaced = spelled_v41(bad[i]);
        check_takes(g, "tools", bad[i], false);
        check_takes(g41, "tools of V4.1", spaced, false);
        free(spaced);
    }
    text_grammar_free(g);
    text_grammar_free(g41);
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
        enum sonde_chat_format format;
    } cases[] = {
        {"[{\"namespace\": \"n\", \"function\": {\"name\": \"m::a\"}}]", NULL,
         "tools[0].namespace: one namespace at most", SONDE_ERROR_FORMAT, SONDE_CHAT_V41},
        {"[{\"namespace\": 3, \"function\": {\"name\": \"a\"}}]", NULL, "tools[0].namespace", SONDE_ERROR_FORMAT,
         SONDE_CHAT_V41},
        {"[{\"namespace\": \"n\", \"function\": {\"name\": \"a\"}}, {\"function\": {\"name\": \"n::a\"}}]", NULL,
         "\"n::a\" comes twice", SONDE_ERROR_FORMAT, SONDE_CHAT_V41},
        {"[{\"namespace\": \"a b\", \"function\": {\"name\": \"a\"}}]", NULL, "tools[0].function.name",
         SONDE_ERROR_UNSUPPORTED, SONDE_CHAT_V41},
        {"[]", NULL, "tools: there is no tool", SONDE_ERROR_ARGUMENT, SONDE_CHAT_V4},
        {"[{\"function\": {\"name\": \"a\"}}]", "b", "there is no tool \"b\"", SONDE_ERROR_ARGUMENT, SONDE_CHAT_V4},
        {"{}", NULL, "a list", SONDE_ERROR_FORMAT, SONDE_CHAT_V4},
        {"[{\"function\": {}}]", NULL, "tools[0].function.name", SONDE_ERROR_FORMAT, SONDE_CHAT_V4},
        {"[{\"function\": {\"name\": \"a b\"}}]", NULL, "tools[0].function.name", SONDE_ERROR_UNSUPPORTED,
         SONDE_CHAT_V4},
        {"[{\"function\": {\"name\": \"a\"}}, {\"function\": {\"name\": \"a\"}}]", NULL, "twice", SONDE_ERROR_FORMAT,
         SONDE_CHAT_V4},
        {"[{\"function\": {\"name\": \"a\"}}, {\"function\": {\"name\": \"b\", \"strict\": true, \"parameters\": "
         "{\"properties\": {\"x\": {\"contains\": 1}}}}}]",
         NULL, "tools[1].function.parameters: #/properties/x: keyword \"contains\"", SONDE_ERROR_UNSUPPORTED,
         SONDE_CHAT_V4},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text_tools_options options = {.format = cases[i].format, .only = cases[i].only};
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

/* Calls are held to the name that prompts have; who asks for one tool may leave its namespace out. */
static void test_tools__may_be_in_namespaces(void **state) {
    (void)state;
    static const char list[] = "[{\"namespace\": \"n\", \"function\": {\"name\": \"f\"}}, "
                               "{\"function\": {\"name\": \"f\"}}, {\"function\": {\"name\": \"m::f\"}}, "
                               "{\"namespace\": {\"name\": \"n\"}, \"function\": {\"name\": \"g\"}}]";
    static const struct {
        const char *only, *name;
        bool taken;
    } rows[] = {{NULL, "f", true},    {NULL, "n::f", true},  {NULL, "m::f", true},   {NULL, "n::g", true},
                {NULL, "g", false},   {NULL, "m::g", false}, {"n::g", "n::g", true}, {"g", "n::g", true},
                {"n::g", "f", false}, {"f", "n::f", true},   {"f", "n::g", false}};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char text[200];
        struct text_grammar *g = tools_of(
            list,
            (struct text_tools_options){.format = SONDE_CHAT_V41, .choice = TEXT_TOOLS_REQUIRED, .only = rows[i].only});
        snprintf(text, sizeof(text),
                 "<" DSML " calls>\n<" DSML " invoke name=\"%s\">\n</" DSML " invoke>\n</" DSML " calls>",
                 rows[i].name);
        check_takes(g, rows[i].only ? rows[i].only : "any", text, rows[i].taken);
        text_grammar_free(g);
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
        cmocka_unit_test(test_tools__required_is_a_block),   cmocka_unit_test(test_tools__auto_begins_with_text),
        cmocka_unit_test(test_tools__may_be_narrowed),       cmocka_unit_test(test_tools__may_be_in_namespaces),
        cmocka_unit_test(test_tools__refuses_clearly),       cmocka_unit_test(test_tools__loose_ones_always_compile),
        cmocka_unit_test(test_tools__the_marker_is_a_token),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
