/* test_text_parse.c - completions to messages: the released parser's results, what models really write, nothing lost.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "spelling.h"
#include "text/text_internal.h"

#define GOLDEN     "tests/golden/text/chat.json"
#define GOLDEN_V41 "tests/golden/text/chat-v41.json"

/* The macros below write official markup. */
#define W              "<｜DSML｜tool_calls>\n"
#define W_             "</｜DSML｜tool_calls>"
#define I(name)        "<｜DSML｜invoke name=\"" name "\">\n"
#define I_             "</｜DSML｜invoke>\n"
#define P(name, value) "<｜DSML｜parameter name=\"" name "\" string=\"true\">" value "</｜DSML｜parameter>\n"
#define J(name, value) "<｜DSML｜parameter name=\"" name "\" string=\"false\">" value "</｜DSML｜parameter>\n"
#define EOS            "<｜end▁of▁sentence｜>"
#define PARIS          "weather({\"city\": \"Paris\"});"

/* -------------------------------------------------------------------------------------- helpers */

static json_t *parse_as(enum sonde_chat_format format, const char *text, size_t bytes, bool thinking) {
    char *message;
    struct sonde_error e;
    if (sonde_chat_parse(format, text, bytes, thinking, &message, &e))
        fail_msg("%s", e.message);
    json_t *m;
    if (json_parse(message, strlen(message), "message", &m, &e))
        fail_msg("%s: %s", e.message, message);
    sonde_free(message);
    return m;
}

static json_t *parse(const char *text, size_t bytes, bool thinking) {
    return parse_as(SONDE_CHAT_V4, text, bytes, thinking);
}

/* "name(arguments);" for each call. */
static void spell_calls(const json_t *message, struct buf *b) {
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
        const json_t *function = json_object_get(call, "function");
        assert_string_equal(json_string_value(json_object_get(call, "type")), "function");
        buf_printf(b, "%s(%s);", json_string_value(json_object_get(function, "name")),
                   json_string_value(json_object_get(function, "arguments")));
    }
}

static void tally(const char *text, size_t bytes, size_t seen[256]) {
    for (size_t i = 0; i < bytes; i++)
        seen[(unsigned char)text[i]]++;
}

/* Letters that no markup and no JSON escape is written with must come through, each as often as it came in. */
static bool nothing_lost(const char *text, size_t bytes, const json_t *m) {
    size_t in[256] = {0}, out[256] = {0}, i;
    tally(text, bytes, in);
    static const char *const fields[] = {"content", "reasoning_content"};
    for (i = 0; i < COUNT_OF(fields); i++)
        tally(json_string_value(json_object_get(m, fields[i])), json_string_length(json_object_get(m, fields[i])), out);
    struct buf calls = {0};
    spell_calls(m, &calls);
    tally(calls.data, calls.len, out);
    buf_release(&calls);
    for (const char *c = "BCGHIJKNOPQVWXYZjqxz"; *c; c++)
        if (in[(unsigned char)*c] != out[(unsigned char)*c])
            return false;
    return true;
}

/* --------------------------------------------------------------------------------------- golden */

static void check_golden(enum sonde_chat_format format, const char *path, size_t count) {
    struct buf file = {0};
    json_t *golden, *row;
    size_t i, equal = 0;
    assert_int_equal(file_read(path, 1 << 24, &file, NULL), 0);
    assert_int_equal(json_parse(file.data, file.len, path, &golden, NULL), 0);
    const json_t *rows = json_object_get(golden, "parse");
    json_array_foreach(rows, i, row) {
        const json_t *text = json_object_get(row, "text");
        bool thinking = strcmp(json_string_value(json_object_get(row, "thinking_mode")), "thinking") == 0;
        size_t eos = strlen(EOS), bytes = json_string_length(text);
        json_t *m = parse_as(format, json_string_value(text), bytes, thinking);
        json_t *without_eos = parse_as(format, json_string_value(text), bytes - eos, thinking);
        if (json_equal(m, json_object_get(row, "message")))
            equal++;
        else
            print_error("differs: %s\n", json_string_value(text));
        assert_true(json_equal(m, without_eos));
        assert_true(nothing_lost(json_string_value(text), bytes, m));
        json_decref(m);
        json_decref(without_eos);
    }
    assert_int_equal(json_array_size(rows), count);
    assert_int_equal(equal, count);
    json_decref(golden);
    buf_release(&file);
}

static void test_parse__gives_the_released_parsers_messages(void **state) {
    (void)state;
    check_golden(SONDE_CHAT_V4, GOLDEN, 40);
    check_golden(SONDE_CHAT_V41, GOLDEN_V41, 13);
}

/* ------------------------------------------------------------------------ what models really write */

struct row {
    const char *text;
    bool thinking;
    const char *reasoning, *content, *calls;
};

static const struct row rows[] = {
    /* plain */
    {"", false, "", "", ""},
    {"", true, "", "", ""},
    {"Hello", false, "", "Hello", ""},
    {"Hello" EOS EOS "\n", false, "", "Hello", ""},
    {"a" EOS "b", false, "", "a" EOS "b", ""},
    {"1 < 2 and <b>x</b>", false, "", "1 < 2 and <b>x</b>", ""},
    /* thinking marks */
    {"why</think>so", true, "why", "so", ""},
    {"why", true, "why", "", ""},
    {"<think>why</think>so", true, "why", "so", ""},
    {"<think>why</think>so", false, "why", "so", ""},
    {"<think>why", false, "", "<think>why", ""},
    {"</think>so", false, "", "so", ""},
    {"why</think></think>so", true, "why", "so", ""},
    {"why</think>\n</think>\nso", true, "why", "\nso", ""},
    {"why</think>the </think> tag", true, "why", "the </think> tag", ""},
    {"say </think> or not", false, "", "say </think> or not", ""},
    /* wrapper missing, doubled, misspelt, left open */
    {I("weather") P("city", "Paris") I_, false, "", "", PARIS},
    {"Let me see.\n\n" I("weather") P("city", "Paris") I_ W_, false, "", "Let me see.", PARIS},
    {"\n\n" W W I("weather") P("city", "Paris") I_ W_ W_, false, "", "", PARIS},
    {"\n\n" W I("weather") P("city", "Paris") I_ W_ "\n" W I("weather") P("city", "Paris") I_ W_, false, "", "",
     PARIS PARIS},
    {"\n\n" W I("weather") P("city", "Paris") I_, false, "", "", PARIS},
    {"\n\n<｜DSML｜toolcalls>\n" I("weather") P("city", "Paris") I_ "</｜DSML｜toolcalls>", false, "", "", PARIS},
    {"\n\n<｜DSML｜function_calls>\n" I("weather") P("city", "Paris") I_ "</｜DSML｜function_calls>", false, "", "",
     PARIS},
    {"\n\n<｜DSML｜ calls>\n<｜DSML｜ invoke name=\"weather\">\n<｜DSML｜ parameter name=\"city\" "
     "string=\"true\">Paris</｜DSML｜ "
     "parameter>\n</｜DSML｜ invoke>\n</｜DSML｜ calls>",
     false, "", "", PARIS},
    {"Hi\n\n" W W_, false, "", "Hi", ""},
    {"Hi\n\n" W, false, "", "Hi\n\n" W, ""},
    {"Hi " W_, false, "", "Hi " W_, ""},
    {"See." W I("weather") P("city", "Paris") I_ W_, false, "", "See.", PARIS},
    {"\n\n" W I("weather") P("city", "Paris") I_ W_ "\nDone.", false, "", "\nDone.", PARIS},
    {"A\n\n" W I("weather") P("city", "Paris") I_ "and\n" I("weather") P("city", "Paris") I_ W_ "B", false, "",
     "A\nand\nB", PARIS PARIS},
    /* blocks and parameters left open */
    {"\n\n" W I("weather") P("city", "Paris"), false, "", "", PARIS},
    {"\n\n" W I("weather") "<｜DSML｜parameter name=\"city\" string=\"true\">Paris", false, "", "", PARIS},
    {"\n\n" W I("weather") "<｜DSML｜parameter name=\"city\" string=\"true\">Paris\n" I_ W_, false, "", "", PARIS},
    {"\n\n" W I("weather") "<｜DSML｜parameter name=\"city\" string=\"true\">Paris</｜DSML｜para", false, "", "",
     PARIS},
    {"\n\n" W I("weather") "<｜DSML｜parameter name=\"city\" string=\"true\">Paris\n" J("days", "3") I_ W_, false, "",
     "", "weather({\"city\": \"Paris\", \"days\": 3});"},
    {"\n\n" W I("weather") P("city", "Paris") I("weather") P("city", "Paris") I_ W_, false, "", "", PARIS PARIS},
    {"\n\n" W I("weather") P("city", "Paris") "</｜DSML｜parameter>" I_ W_, false, "", "", PARIS},
    {"\n\n" W I("weather") P("city", "Paris") "</｜DSML｜inv", false, "", "", PARIS},
    /* bars and quotes */
    {"\n\n<|DSML|tool_calls>\n<|DSML|invoke name=\"weather\">\n<|DSML|parameter name=\"city\" "
     "string=\"true\">Paris</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|tool_calls>",
     false, "", "", PARIS},
    {"\n\n<｜｜DSML｜｜tool_calls>\n<｜｜DSML｜｜invoke name=“weather”>\n<｜｜DSML｜｜parameter name=“city” "
     "string=“true”>Paris</｜｜DSML｜｜parameter>\n</｜｜DSML｜｜invoke>\n</｜｜DSML｜｜tool_calls>",
     false, "", "", PARIS},
    {"<｜DSML｜invoke name='weather'><｜DSML｜parameter name=city string=True>Paris</|DSML|parameter></｜DSML｜invoke>",
     false, "", "", PARIS},
    {"<｜DSML｜invoke name=\"weather\"><｜DSML｜parameter string=\"true\" name=\"city\" >Paris</｜DSML｜parameter "
     "></｜DSML｜invoke>",
     false, "", "", PARIS},
    /* arguments */
    {"\n\n" W I("now") "\n" I_ W_, false, "", "", "now({});"},
    {"\n\n" W "<｜DSML｜invoke name=\"now\"></｜DSML｜invoke>" W_, false, "", "", "now({});"},
    {"\n\n" W "<｜DSML｜invoke name=\"now\"/>" W_, false, "", "", "now({});"},
    {"\n\n" W I("weather") P("city", "") I_ W_, false, "", "", "weather({\"city\": \"\"});"},
    {"\n\n" W I("f") J("x", "not json") I_ W_, false, "", "", "f({\"x\": \"not json\"});"},
    {"\n\n" W I("f") J("x", "") J("y", "NaN") I_ W_, false, "", "", "f({\"x\": \"\", \"y\": \"NaN\"});"},
    {"\n\n" W I("f") J("x", " [1,2] ") J("y", "123456789012345678901234567890") I_ W_, false, "", "",
     "f({\"x\":  [1,2] , \"y\": 123456789012345678901234567890});"},
    {"\n\n" W I("f") "<｜DSML｜parameter name=\"x\">3</｜DSML｜parameter><｜DSML｜parameter "
                     "name=\"y\">three</｜DSML｜parameter>" I_ W_,
     false, "", "", "f({\"x\": 3, \"y\": \"three\"});"},
    {"\n\n" W I("f") P("x", "a \"b\" \\ \n <｜DSML｜invoke name=\"g\"> </b>") I_ W_, false, "", "",
     "f({\"x\": \"a \\\"b\\\" \\\\ \\n <｜DSML｜invoke name=\\\"g\\\"> </b>\"});"},
    {"\n\n" W I("f") P("a\"b", "1") I_ W_, false, "", "", "f({\"a\\\"b\": \"1\"});"},
    {"\n\n" W I("f") "{\"x\": [1, {}]}\n" I_ W_, false, "", "", "f({\"x\": [1, {}]});"},
    /* what is no call stays as it is */
    {"\n\n" W I("weather") P("city", "Paris") I_ I("f") "junk " P("x", "Y") I_ W_, false, "",
     I("f") "junk " P("x", "Y") "</｜DSML｜invoke>", PARIS},
    {"\n\n" W "<｜DSML｜invoke nam=\"g\">\n" P("x", "Y") I_ I("weather") P("city", "Paris") I_ W_, false, "",
     "\n\n" W "<｜DSML｜invoke nam=\"g\">\n" P("x", "Y") "</｜DSML｜invoke>", PARIS},
    {"\n\n" W I("f") P("x", "1") P("x", "2") I_ I("weather") P("city", "Paris") I_ W_, false, "",
     I("f") P("x", "1") P("x", "2") "</｜DSML｜invoke>", PARIS},
    {"\n\n" W I("f") "junk" I_ W_, false, "", "\n\n" W I("f") "junk" I_ W_, ""},
    {"\n\n" W "<｜DSML｜invoke name=\"\">\n" I_ W_, false, "", "\n\n" W "<｜DSML｜invoke name=\"\">\n" I_ W_, ""},
    {"\n\n" W I("f") "<｜DSML｜parameter name=\"x\" string=\"maybe\">1</｜DSML｜parameter>" I_ W_, false, "",
     "\n\n" W I("f") "<｜DSML｜parameter name=\"x\" string=\"maybe\">1</｜DSML｜parameter>" I_ W_, ""},
    {P("x", "1"), false, "", P("x", "1"), ""},
    {I("g") "<｜DSML｜parameter name=x>Z</｜DSML｜Xara", false, "", "", "g({\"x\": \"Z</｜DSML｜Xara\"});"},
    {"<｜DSML｜invoke name=\"f", false, "", "<｜DSML｜invoke name=\"f", ""},
    /* quoted */
    {"Write `<｜DSML｜invoke name=\"f\"></｜DSML｜invoke>` to call.", false, "",
     "Write `<｜DSML｜invoke name=\"f\"></｜DSML｜invoke>` to call.", ""},
    {"Like\n```\n" W I("weather") P("city", "Paris") I_ W_ "\n```\nthat.", false, "",
     "Like\n```\n" W I("weather") P("city", "Paris") I_ W_ "\n```\nthat.", ""},
    {"```\ncode\n```\n\n" W I("weather") P("city", "```\n") I_ W_, false, "", "```\ncode\n```",
     "weather({\"city\": \"```\\n\"});"},
    {"I could\n\n" W I("weather") P("city", "Paris") I_ W_ "\nbut no</think>No.", true,
     "I could\n\n" W I("weather") P("city", "Paris") I_ W_ "\nbut no", "No.", ""},
    {W I("weather") P("city", "Paris") I_ W_ "</think>", true, W I("weather") P("city", "Paris") I_ W_, "", ""},
    /* </think> missing */
    {"I see.\n\n" W I("weather") P("city", "Paris") I_ W_ EOS, true, "I see.", "", PARIS},
    {"\n\n" I("weather") P("city", "Paris") I_, true, "", "", PARIS},
    {"Not " W I("weather") P("city", "Rome") I_ W_ " but\n\n" W I("weather") P("city", "Paris") I_ W_ "\n", true,
     "Not " W I("weather") P("city", "Rome") I_ W_ " but", "", PARIS},
    {"I could\n\n" W I("weather") P("city", "Paris") I_ W_ "\nbut no", true,
     "I could\n\n" W I("weather") P("city", "Paris") I_ W_ "\nbut no", "", ""},
    /* not UTF-8 */
    {"a\xff</think>b\xe2\x82", true, "a\xef\xbf\xbd", "b\xef\xbf\xbd", ""},
    {"\n\n" W I("f") P("x", "\xff") I_ W_, false, "", "", "f({\"x\": \"\xef\xbf\xbd\"});"},
};

static void check_row(enum sonde_chat_format format, const struct row *row, size_t index) {
    json_t *m = parse_as(format, row->text, strlen(row->text), row->thinking);
    struct buf calls = {0};
    spell_calls(m, &calls);
    const char *reasoning = json_string_value(json_object_get(m, "reasoning_content"));
    const char *content = json_string_value(json_object_get(m, "content")), *called = calls.data ? calls.data : "";
    if (strcmp(reasoning, row->reasoning) != 0 || strcmp(content, row->content) != 0 || strcmp(called, row->calls) != 0)
        fail_msg("row %zu: %s\nreasoning: %s\ncontent: %s\ncalls: %s", index, row->text, reasoning, content, called);
    assert_string_equal(json_string_value(json_object_get(m, "role")), "assistant");
    assert_true(nothing_lost(row->text, strlen(row->text), m));
    buf_release(&calls);
    json_decref(m);
}

static void test_parse__takes_what_models_really_write(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        check_row(SONDE_CHAT_V4, &rows[i], i);
}

/* Either format's parser takes the other's spelling; so nothing depends on which a model mixes up. */
static void test_parse__takes_the_same_in_v41s_spelling(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *text = spelled_v41(rows[i].text), *reasoning = spelled_v41(rows[i].reasoning);
        char *content = spelled_v41(rows[i].content), *calls = spelled_v41(rows[i].calls);
        struct row spaced = {text, rows[i].thinking, reasoning, content, calls};
        check_row(SONDE_CHAT_V41, &spaced, i);
        check_row(SONDE_CHAT_V4, &spaced, i);
        check_row(SONDE_CHAT_V41, &rows[i], i);
        free(text);
        free(reasoning);
        free(content);
        free(calls);
    }
}

/* A namespace is one, with a name behind it; what is no namespace stays in the name. */
static void test_parse__divides_namespaces_of_v41_only(void **state) {
    (void)state;
    static const struct {
        const char *said, *space, *name;
    } names[] = {{"f", NULL, "f"},     {"n::f", "n", "f"}, {"n::f:g", "n", "f:g"},       {"::f", NULL, "::f"},
                 {"n::", NULL, "n::"}, {"::", NULL, "::"}, {"a::b::c", NULL, "a::b::c"}, {"a:::b", "a", ":b"},
                 {"n:f", NULL, "n:f"}};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char text[200];
        snprintf(text, sizeof(text), "<｜DSML｜ invoke name=\"%s\">\n</｜DSML｜ invoke>", names[i].said);
        for (int format = SONDE_CHAT_V4; format <= SONDE_CHAT_V41; format++) {
            bool divided = format == SONDE_CHAT_V41 && names[i].space;
            json_t *m = parse_as((enum sonde_chat_format)format, text, strlen(text), false);
            const json_t *call = json_array_get(json_object_get(m, "tool_calls"), 0);
            const json_t *name = json_object_get(json_object_get(call, "function"), "name");
            assert_string_equal(json_string_value(name), divided ? names[i].name : names[i].said);
            if (divided)
                assert_string_equal(json_string_value(json_object_get(call, "namespace")), names[i].space);
            else
                assert_null(json_object_get(call, "namespace"));
            json_decref(m);
        }
    }
}

/* Every text of the table, cut off anywhere, doubled, and put behind every other. */
static void test_parse__loses_nothing_of_cut_and_joined_texts(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t bytes = strlen(rows[i].text);
        for (size_t cut = 0; cut <= bytes; cut++) {
            json_t *m = parse(rows[i].text, cut, cut & 1);
            if (!nothing_lost(rows[i].text, cut, m))
                fail_msg("row %zu cut at %zu", i, cut);
            json_decref(m);
        }
        for (size_t k = 0; k < COUNT_OF(rows); k++) {
            struct buf b = {0};
            buf_printf(&b, "%sXQ%s%s", rows[i].text, rows[k].text, k % 3 ? "" : rows[i].text);
            json_t *m = parse(b.data, b.len, k & 1);
            if (!nothing_lost(b.data, b.len, m))
                fail_msg("rows %zu and %zu", i, k);
            json_decref(m);
            buf_release(&b);
        }
    }
}

/* Pieces of markup in any order. */
static void test_parse__loses_nothing_of_random_markup(void **state) {
    (void)state;
    static const char *const pieces[] = {W,
                                         W_,
                                         I("f"),
                                         I_,
                                         P("x", "Q"),
                                         J("y", "{\"Z\": 1}"),
                                         "</think>",
                                         "<think>",
                                         "text XZ",
                                         "\n\n",
                                         "`",
                                         "\n```\n",
                                         "<｜DSML｜",
                                         "parameter",
                                         "{\"K\": 2}",
                                         EOS,
                                         "<",
                                         "\" > '",
                                         "string=\"true\"",
                                         "</｜DSML｜parameter>",
                                         "<|DSML|invoke name=G>",
                                         "<｜DSML｜parameter name=\"J\" string=\"true\">"};
    struct rng r;
    rng_init(&r, 1);
    for (int round = 0; round < 20000; round++) {
        struct buf b = {0};
        for (uint64_t n = rng_u64(&r) % 20; n; n--)
            buf_string(&b, pieces[rng_u64(&r) % COUNT_OF(pieces)]);
        json_t *m = parse(b.data, b.len, round & 1);
        if (!nothing_lost(b.data, b.len, m))
            fail_msg("%s\n%s", b.data, json_dumps(m, 0));
        json_decref(m);
        buf_release(&b);
    }
}

/* Texts that make a careless parser look at everything again and again. */
static void test_parse__hostile_texts_take_no_time(void **state) {
    (void)state;
    static const char *const units[] = {W,
                                        W_,
                                        I("f"),
                                        I("f") "junk",
                                        "<｜DSML｜invoke name=\"",
                                        "<｜DSML｜parameter name=\"x\" string=\"true\">",
                                        I("f") "<｜DSML｜parameter name=\"x\" string=\"true\">",
                                        I("f") P("x", "1") P("x", "2"),
                                        W I("f") P("x", "1") I_ W_ " ",
                                        "<think>",
                                        "</think>",
                                        "\n```\n" I("f") I_,
                                        "<",
                                        "<｜DSML｜invoke name=\"f\">{"};
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        struct buf b = {0};
        while (b.len < 1 << 19)
            buf_string(&b, units[i]);
        for (int thinking = 0; thinking < 2; thinking++) {
            double start = clock_seconds();
            json_decref(parse(b.data, b.len, thinking));
            if (clock_seconds() - start > 10) /* quadratic parsing takes minutes */
                fail_msg("unit %zu takes %.1f s", i, clock_seconds() - start);
        }
        buf_release(&b);
    }
}

/* 40,000 parameters, in which a name twice is found wherever it is. */
static void test_parse__a_call_of_many_parameters_takes_no_time(void **state) {
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        struct buf b = {0};
        buf_string(&b, "\n\n" W I("f"));
        for (int i = 0; i < 120000; i++)
            buf_printf(&b, P("p%06d", "1"), twice && i == 119999 ? 7 : i);
        buf_string(&b, I_ W_);
        double start = clock_seconds();
        json_t *m = parse(b.data, b.len, false);
        double seconds = clock_seconds() - start;
        if (seconds > 30) /* 1 s; 6 s under the sanitizers; looking through all names for each takes a minute */
            fail_msg("%.1f s", seconds);
        assert_int_equal(json_array_size(json_object_get(m, "tool_calls")), !twice);
        json_decref(m);
        buf_release(&b);
    }
}

static void test_parse__keeps_zero_bytes(void **state) {
    (void)state;
    json_t *m = parse("a\0b</think>c\0", 13, true);
    assert_int_equal(json_string_length(json_object_get(m, "reasoning_content")), 3);
    assert_int_equal(json_string_length(json_object_get(m, "content")), 2);
    json_decref(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse__gives_the_released_parsers_messages),
        cmocka_unit_test(test_parse__takes_what_models_really_write),
        cmocka_unit_test(test_parse__takes_the_same_in_v41s_spelling),
        cmocka_unit_test(test_parse__divides_namespaces_of_v41_only),
        cmocka_unit_test(test_parse__loses_nothing_of_cut_and_joined_texts),
        cmocka_unit_test(test_parse__loses_nothing_of_random_markup),
        cmocka_unit_test(test_parse__hostile_texts_take_no_time),
        cmocka_unit_test(test_parse__a_call_of_many_parameters_takes_no_time),
        cmocka_unit_test(test_parse__keeps_zero_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
