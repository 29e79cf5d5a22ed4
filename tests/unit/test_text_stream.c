/*
 * test_text_stream.c - completions parsed while they stream: the message of the whole text in whatever pieces it comes,
 * text as early as it can be known, and nothing lost of what is malformed.
 */
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
#define V(name)        "<｜DSML｜parameter name=\"" name "\" string=\"true\">"
#define P_             "</｜DSML｜parameter>\n"
#define P(name, value) V(name) value P_
#define J(name, value) "<｜DSML｜parameter name=\"" name "\" string=\"false\">" value P_
#define EOS            "<｜end▁of▁sentence｜>"
#define CALL           "\n\n" W I("weather") P("city", "Paris") I_ W_
#define PARIS          "weather({\"city\": \"Paris\"});"

/* ------------------------------------------------------------------------------------------ assembling */

/* What events made so far. calls: "name(arguments);", with '!' before the ';' of calls that were not whole. */
struct assembled {
    struct buf reasoning, content, calls, arguments;
    json_t *list;
    bool calling;
    size_t events;
};

static void release(struct assembled *a) {
    buf_release(&a->reasoning);
    buf_release(&a->content);
    buf_release(&a->calls);
    buf_release(&a->arguments);
    json_decref(a->list);
}

static const char *text_of(const struct buf *b) {
    return b->data ? b->data : "";
}

static void begin_call(struct assembled *a, const struct text_event *event) {
    assert_false(a->calling);
    a->calling = true;
    buf_clear(&a->arguments);
    buf_append(&a->calls, event->text, event->bytes);
    buf_byte(&a->calls, '(');
    json_array_append_new(a->list, json_pack("{s:s, s:{s:o}}", "type", "function", "function", "name",
                                             json_stringn(event->text, event->bytes)));
}

static void end_call(struct assembled *a, const struct text_event *event) {
    struct jtree tree;
    assert_true(a->calling);
    a->calling = false;
    buf_append(&a->calls, a->arguments.data, a->arguments.len);
    buf_string(&a->calls, event->whole ? ");" : ")!;");
    CHECKED(jtree_parse(a->arguments.data, a->arguments.len, a->calls.data, &tree, &error));
    assert_int_equal(tree.root->kind, JNODE_OBJECT);
    jtree_release(&tree);
    json_t *function = json_object_get(json_array_get(a->list, event->call), "function");
    assert_int_equal(json_object_set_new(function, "arguments", json_stringn(a->arguments.data, a->arguments.len)), 0);
}

static void on_event(void *context, const struct text_event *event) {
    struct assembled *a = context;
    a->events++;
    for (size_t at = 0; at < event->bytes;) {
        enum utf8_kind kind;
        at += utf8_next(event->text + at, event->bytes - at, &kind);
        assert_int_equal(kind, UTF8_WHOLE);
    }
    assert_int_equal(event->bytes > 0, event->kind != TEXT_CALL_END);
    switch (event->kind) {
    case TEXT_REASONING:
        buf_append(&a->reasoning, event->text, event->bytes);
        break;
    case TEXT_CONTENT:
        assert_false(a->calling);
        buf_append(&a->content, event->text, event->bytes);
        break;
    case TEXT_CALL:
        assert_int_equal(event->call, json_array_size(a->list));
        begin_call(a, event);
        break;
    case TEXT_ARGUMENTS:
        assert_true(a->calling);
        buf_append(&a->arguments, event->text, event->bytes);
        break;
    case TEXT_CALL_END:
        end_call(a, event);
    }
}

/* Returns the length of the next piece of what is left. */
typedef size_t (*cutter)(void *context, size_t left);

static struct assembled stream(const char *text, size_t bytes, struct text_stream_options options, cutter cut,
                               void *context) {
    struct assembled a = {.list = json_array()};
    struct text_stream *s;
    CHECKED(text_stream_open(&options, &s, &error));
    for (size_t at = 0, n; at < bytes; at += n) {
        n = cut(context, bytes - at);
        CHECKED(text_stream_push(s, text + at, n, on_event, &a, &error));
    }
    CHECKED(text_stream_finish(s, on_event, &a, &error));
    assert_false(a.calling);
    text_stream_close(s);
    return a;
}

static size_t cut_never(void *context, size_t left) {
    (void)context;
    return left;
}

static size_t cut_bytes(void *context, size_t left) {
    (void)context;
    (void)left;
    return 1;
}

/* In two: context is the length of the first piece, and is used up. */
static size_t cut_once(void *context, size_t left) {
    size_t *first = context, n = *first ? *first : left;
    *first = 0;
    return n;
}

static size_t cut_anywhere(void *context, size_t left) {
    struct rng *r = context;
    return min_u64(left, rng_u64(r) % 4 ? 1 + rng_u64(r) % 12 : 1 + rng_u64(r) % 200);
}

/* ------------------------------------------------------------------------------------------- comparing */

static json_t *parse(const char *text, size_t bytes, bool thinking) {
    char *message;
    json_t *m;
    CHECKED(sonde_chat_parse(SONDE_CHAT_V4, text, bytes, thinking, &message, &error));
    CHECKED(json_parse(message, strlen(message), "message", &m, &error));
    sonde_free(message);
    return m;
}

static json_t *message_of(const struct assembled *a) {
    return json_pack("{s:s, s:s%, s:s%, s:O}", "role", "assistant", "content", text_of(&a->content), a->content.len,
                     "reasoning_content", text_of(&a->reasoning), a->reasoning.len, "tool_calls", a->list);
}

static void expect_message(const json_t *expected, const struct assembled *a, const char *text, const char *how) {
    json_t *m = message_of(a);
    if (!json_equal(m, expected))
        fail_msg("%s: %s\nis       %s\nexpected %s", how, text, json_dumps(m, JSON_SORT_KEYS),
                 json_dumps(expected, JSON_SORT_KEYS));
    json_decref(m);
}

/* Compares the stream with `expected` whole, in single bytes and in random pieces. */
static void expect_in_pieces(const json_t *expected, const char *text, size_t bytes, struct text_stream_options o,
                             struct rng *r) {
    struct assembled a = stream(text, bytes, o, cut_never, NULL);
    expect_message(expected, &a, text, "whole");
    release(&a);
    a = stream(text, bytes, o, cut_bytes, NULL);
    expect_message(expected, &a, text, "in bytes");
    release(&a);
    for (int round = 0; round < 8; round++) {
        a = stream(text, bytes, o, cut_anywhere, r);
        expect_message(expected, &a, text, "in pieces");
        release(&a);
    }
}

/* As sonde_chat_parse() gives it, and in V4.1's spelling too. */
static void expect_as_parsed(const char *text, size_t bytes, bool thinking, struct rng *r) {
    struct text_stream_options o = {.thinking = thinking, .tools = true};
    json_t *expected = parse(text, bytes, thinking);
    expect_in_pieces(expected, text, bytes, o, r);
    json_decref(expected);
    char *spaced = spelled_v41(text);
    expected = parse(spaced, strlen(spaced), thinking);
    expect_in_pieces(expected, spaced, strlen(spaced), o, r);
    json_decref(expected);
    free(spaced);
}

/* Streams say names whole. */
static void join_namespaces(json_t *message) {
    json_t *call;
    size_t i;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
        json_t *space = json_object_get(call, "namespace"), *function = json_object_get(call, "function");
        if (!space)
            continue;
        json_object_set_new(
            function, "name",
            json_sprintf("%s::%s", json_string_value(space), json_string_value(json_object_get(function, "name"))));
        json_object_del(call, "namespace");
    }
}

static void check_golden(const char *path, size_t count) {
    struct buf file = {0};
    struct rng r;
    json_t *golden, *row;
    size_t i;
    rng_init(&r, 1);
    assert_int_equal(file_read(path, 1 << 24, &file, NULL), 0);
    assert_int_equal(json_parse(file.data, file.len, path, &golden, NULL), 0);
    json_array_foreach(json_object_get(golden, "parse"), i, row) {
        const char *text = json_string_value(json_object_get(row, "text"));
        json_t *expected = json_object_get(row, "message");
        join_namespaces(expected);
        size_t bytes = json_string_length(json_object_get(row, "text")), eos = strlen(EOS);
        bool thinking = strcmp(json_string_value(json_object_get(row, "thinking_mode")), "thinking") == 0;
        struct text_stream_options o = {.thinking = thinking, .tools = true};
        expect_in_pieces(expected, text, bytes, o, &r);
        expect_in_pieces(expected, text, bytes - eos, o, &r);
        for (size_t cut = 1; cut < bytes; cut++) {
            size_t first = cut;
            struct assembled a = stream(text, bytes, o, cut_once, &first);
            expect_message(expected, &a, text, "in two");
            release(&a);
        }
    }
    assert_int_equal(i, count);
    json_decref(golden);
    buf_release(&file);
}

static void test_stream__gives_the_released_parsers_messages(void **state) {
    (void)state;
    check_golden(GOLDEN, 40);
    check_golden(GOLDEN_V41, 13);
}

static void add_pieces(struct buf *b, struct rng *r, const char *const *pieces, size_t count, uint64_t most) {
    for (uint64_t n = rng_u64(r) % most; n; n--)
        buf_string(b, pieces[rng_u64(r) % count]);
}

/* Markup in values, but no closing tag of a parameter, and no opening tag where a line begins. */
static void add_value(struct buf *b, struct rng *r) {
    static const char *const pieces[] = {
        "a",    "\n.", "é",        "\"", "\\",           "<",   "</",  "</｜DSML｜invoke>",
        "x" W_, "<b>", "</think>", " ",  "<｜DSML｜par", "```", "\x01"};
    static const char *const values[] = {"3", "[1, {\"a\": null}]", "\"s\"", "-1.5e3", " true "};
    bool string = rng_u64(r) % 2;
    buf_printf(b, "<｜DSML｜parameter name=\"p%zu\" string=\"%s\">", b->len, string ? "true" : "false");
    if (string)
        add_pieces(b, r, pieces, COUNT_OF(pieces), 12);
    else
        buf_string(b, values[rng_u64(r) % COUNT_OF(values)]);
    buf_string(b, P_);
}

static void add_well_formed(struct buf *b, struct rng *r, bool thinking) {
    static const char *const pieces[] = {
        "so", "\n",     "\n\n", " ",          "<",        "</thin", "`a`", "\n```\nx\n```\n",
        "é👍", "<｜DSM", "</",   "<｜User｜>", EOS "more", ">"};
    if (thinking) {
        add_pieces(b, r, pieces, COUNT_OF(pieces), 10);
        buf_string(b, rng_u64(r) % 2 ? "\n\n" W I("quoted") P("x", "1") I_ W_ "</think>" : "</think>");
    }
    add_pieces(b, r, pieces, COUNT_OF(pieces), 10);
    if (rng_u64(r) % 4) {
        buf_string(b, "\n\n" W);
        for (uint64_t calls = 1 + rng_u64(r) % 3; calls; calls--) {
            buf_string(b, I("f"));
            for (uint64_t n = rng_u64(r) % 4; n; n--)
                add_value(b, r);
            buf_string(b, I_);
        }
        buf_string(b, W_);
    }
    buf_string(b, rng_u64(r) % 2 ? EOS : "");
}

static void test_stream__gives_the_messages_of_well_formed_texts(void **state) {
    (void)state;
    struct rng r;
    rng_init(&r, 2);
    for (int round = 0; round < 3000; round++) {
        struct buf b = {0};
        bool thinking = round & 1;
        buf_append(&b, "", 0);
        add_well_formed(&b, &r, thinking);
        buf_byte(&b, 0);
        expect_as_parsed(b.data, b.len - 1, thinking, &r);
        buf_release(&b);
    }
}

/* Malformed, but as sonde_chat_parse() takes it. */
static void test_stream__mends_as_the_parser_does(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool thinking;
    } rows[] = {
        {"", true},
        {"Hello" EOS EOS "\n", false},
        {"a" EOS "b" EOS " ", false},
        {"a" EOS "<｜end", false},
        {"<think>why</think>so", false},
        {" <think>why</think>\n</think>\nso", true},
        {"\n</think>so", false},
        {"why </thin", true},
        {I("weather") P("city", "Paris") I_, false},
        {"Hi\n\n" W W_, false},
        {"Hi\n\n" W, false},
        {"Hi " W_, false},
        {CALL "\nDone.\n", false},
        {CALL " \n ", false},
        {CALL "\n" W, false},
        {CALL "</｜DSML｜tool_c", false},
        {"A" CALL "and\n" I("weather") P("city", "Paris") I_ W_ "B", false},
        {"A\n\n" W I("f") I_ "and\n" I("weather") P("city", "Paris") I_ W_ "B", false},
        {"\n\n" W I("weather") P("city", "Paris"), false},
        {"\n\n" W I("weather") V("city") "Paris", false},
        {"\n\n" W I("weather") V("city") "Paris\n" I_ W_, false},
        {"\n\n" W I("weather") V("city") "Paris</｜DSML｜para", false},
        {"\n\n" W I("weather") V("city") "Paris\n" J("days", "3") I_ W_, false},
        {"\n\n" W I("f") V("x") "a" W_ "b" I_ "c\n" J("days", "3") I_ W_, false},
        {"\n\n" W I("f") V("x") "a\n" J("y", "1") V("z") "b" W_ "c" P_ I_ W_, false},
        {"\n\n" W I("weather") P("city", "Paris") I("weather") P("city", "Paris") I_ W_, false},
        {"\n\n" W I("weather") P("city", "Paris") P_ I_ W_, false},
        {"\n\n" W "<｜DSML｜invoke name=\"now\"/>" W_, false},
        {"\n\n" W I("f") J("x", "not json") J("y", "") I_ W_, false},
        {"\n\n" W I("f") "{\"x\": [1, {}]}\n" I_ W_, false},
        {"\n\n" W I("f") "{\"x\": [1, {}]\n" I_ W_ "end", false},
        {"\n\n" W I("f") "{\"x\": [1", false},
        {"\n\n" W I("f") "{}" P("x", "1") I_ W_, false},
        {"\n\n" W I("f") "junk" P("x", "1") I_ W_, false},
        {"\n\n" W I("weather") P("city", "Paris") I_ I("f") "junk " P("x", "Y") I_ W_, false},
        {"\n\n" W "<｜DSML｜invoke name=\"\">\n" I_ W_, false},
        {P("x", "1"), false},
        {"<｜DSML｜invoke name=\"f", false},
        {"<｜DSML｜invoke name=\"a <｜DSML｜tool_callsX\">" I_, false},
        {"`<｜DSML｜invoke name=\"f\"></｜DSML｜invoke>`", false},
        {"Like\n```\n" CALL "\n```\nthat.", false},
        {"Like\n```" CALL, false},
        {"I see." CALL EOS, true},
        {"Not" CALL " but" CALL "\n", true},
        {"I could" CALL "\nbut no", true},
        {"I could" CALL "\nbut no</think>No.", true},
        {"I could\n\n" W I("f</think>No.") I_, true},
        {"I could\n\n" W I("f") V("x") "a</think>No.", true},
        {"I see.\n\n" W I("weather") V("city") "Par", true},
        {"a\xff</think>b\xe2\x82", true},
    };
    struct rng r;
    rng_init(&r, 3);
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        expect_as_parsed(rows[i].text, strlen(rows[i].text), rows[i].thinking, &r);
}

/* What is said differently than by sonde_chat_parse(), and whether calls were whole. */
static void test_stream__keeps_what_it_has_said(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool thinking;
        const char *reasoning, *content, *calls;
    } rows[] = {
        {CALL, false, "", "", PARIS},
        {"<think>why", false, "why", "", ""},
        {"\n\n" W I("weather") V("city") "Par", false, "", "", "weather({\"city\": \"Par\"})!;"},
        {"\n\n" W I("weather") J("days", "3"), false, "", "", "weather({\"days\": 3})!;"},
        {"\n\n" W I("f") J("x", "1") J("x", "2") I_ I("g") I_ W_, false, "", J("x", "2") "</｜DSML｜invoke>",
         "f({\"x\": 1})!;g({});"},
        {"\n\n" W I("f") J("x", "1") "junk" I_ W_ "end", false, "", "junk</｜DSML｜invoke>\nend", "f({\"x\": 1})!;"},
        {"A\n\n" W I("f") "junk" I_ CALL, false, "", "A\n\n" W I("f") "junk" I_, PARIS},
        {"\n\n" W I("f") "<｜DSML｜parameter name=\"x\" string=\"maybe\">1", false, "",
         "<｜DSML｜parameter name=\"x\" string=\"maybe\">1", "f({})!;"},
        {"Like\n```" CALL " that", false, "", "Like\n```" CALL " that", ""},
        {"I see." CALL I("f") "junk" I_, true, "I see." CALL I("f") "junk" I_, "", ""},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        for (int single = 0; single < 2; single++) {
            struct assembled a = stream(rows[i].text, strlen(rows[i].text),
                                        (struct text_stream_options){.thinking = rows[i].thinking, .tools = true},
                                        single ? cut_bytes : cut_never, NULL);
            const char *reasoning = text_of(&a.reasoning), *content = text_of(&a.content), *calls = text_of(&a.calls);
            if (strcmp(reasoning, rows[i].reasoning) || strcmp(content, rows[i].content) ||
                strcmp(calls, rows[i].calls))
                fail_msg("row %zu\nreasoning: %s\ncontent: %s\ncalls: %s", i, reasoning, content, calls);
            release(&a);
        }
    }
}

/* --------------------------------------------------------------------------------------- early as known */

struct early {
    const char *push, *reasoning, *content, *arguments;
    size_t calls;
    bool is_reasoning;
};

static void check_early(const struct early *rows, size_t count, struct text_stream_options options) {
    struct assembled a = {.list = json_array()};
    struct text_stream *s;
    CHECKED(text_stream_open(&options, &s, &error));
    for (size_t i = 0; i < count; i++) {
        CHECKED(text_stream_push(s, rows[i].push, strlen(rows[i].push), on_event, &a, &error));
        const char *reasoning = text_of(&a.reasoning), *content = text_of(&a.content);
        const char *arguments = text_of(&a.arguments);
        size_t calls = json_array_size(a.list);
        if (strcmp(reasoning, rows[i].reasoning) || strcmp(content, rows[i].content) ||
            strcmp(arguments, rows[i].arguments) || calls != rows[i].calls ||
            text_stream_is_reasoning(s) != rows[i].is_reasoning)
            fail_msg("after %zu: %s\nreasoning: %s\ncontent: %s\narguments: %s, %zu calls", i, rows[i].push, reasoning,
                     content, arguments, calls);
    }
    CHECKED(text_stream_finish(s, on_event, &a, &error));
    text_stream_close(s);
    release(&a);
}

static void test_stream__says_text_when_it_is_known(void **state) {
    (void)state;
    static const struct early rows[] = {
        {"I wo", "I wo", "", "", 0, true},
        {"nder <", "I wonder ", "", "", 0, true},
        {"b> \xf0\x9f", "I wonder <b> ", "", "", 0, true},
        {"\x91\x8d</th", "I wonder <b> 👍", "", "", 0, true},
        {"ink>\n\n", "I wonder <b> 👍", "", "", 0, false},
        {"So", "I wonder <b> 👍", "\n\nSo", "", 0, false},
        {": <｜DS", "I wonder <b> 👍", "\n\nSo: ", "", 0, false},
        {"M \n", "I wonder <b> 👍", "\n\nSo: <｜DSM ", "", 0, false},
        {"\n\n" W I("get"), "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "", 0, false},
        {"<｜DSML｜para", "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "", 1, false},
        {"meter name=\"q\" string=\"true\">", "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "{\"q\": \"", 1, false},
        {"a\"", "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "{\"q\": \"a\\\"", 1, false},
        {"\n", "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "{\"q\": \"a\\\"", 1, false},
        {"b", "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "{\"q\": \"a\\\"\\nb", 1, false},
        {P_ "<｜DSML｜parameter name=\"n\" string=\"false\">[1,", "I wonder <b> 👍", "\n\nSo: <｜DSM \n",
         "{\"q\": \"a\\\"\\nb\", \"n\": ", 1, false},
        {"2]" P_, "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "{\"q\": \"a\\\"\\nb\", \"n\": [1,2]", 1, false},
        {I_, "I wonder <b> 👍", "\n\nSo: <｜DSM \n", "{\"q\": \"a\\\"\\nb\", \"n\": [1,2]}", 1, false},
    };
    check_early(rows, COUNT_OF(rows), (struct text_stream_options){.thinking = true, .tools = true});
}

static void test_stream__calls_in_reasoning_wait(void **state) {
    (void)state;
    static const struct early rows[] = {
        {"Say" CALL, "Say", "", "", 0, true},
        {" maybe", "Say" CALL " maybe", "", "", 0, true},
        {CALL "\n", "Say" CALL " maybe", "", "", 0, true},
        {"</think>", "Say" CALL " maybe" CALL "\n", "", "", 0, false},
        {CALL, "Say" CALL " maybe" CALL "\n", "", "{\"city\": \"Paris\"}", 1, false},
    };
    check_early(rows, COUNT_OF(rows), (struct text_stream_options){.thinking = true, .tools = true});
}

static void test_stream__without_tools_markup_is_text(void **state) {
    (void)state;
    static const struct early rows[] = {
        {"a\n\n<", "a\n\n", "", "", 0, true},
        {"｜DSML｜tool_calls></th", "a\n\n<｜DSML｜tool_calls>", "", "", 0, true},
        {"ink>b\n\n", "a\n\n<｜DSML｜tool_calls>", "b\n\n", "", 0, false},
        {CALL, "a\n\n<｜DSML｜tool_calls>", "b\n\n" CALL, "", 0, false},
    };
    check_early(rows, COUNT_OF(rows), (struct text_stream_options){.thinking = true});
}

/* ------------------------------------------------------------------------------------------- malformed */

static void tally(const char *text, size_t bytes, size_t seen[256]) {
    for (size_t i = 0; i < bytes; i++)
        seen[(unsigned char)text[i]]++;
}

/* Letters that no markup and no JSON escape is written with must come through, each as often as it came in. */
static bool nothing_lost(const char *text, size_t bytes, const struct assembled *a) {
    size_t in[256] = {0}, out[256] = {0};
    tally(text, bytes, in);
    tally(a->reasoning.data, a->reasoning.len, out);
    tally(a->content.data, a->content.len, out);
    tally(a->calls.data, a->calls.len, out);
    for (const char *c = "BCGHIJKNOPQVWXYZjqxz"; *c; c++)
        if (in[(unsigned char)*c] != out[(unsigned char)*c])
            return false;
    return true;
}

static void test_stream__loses_nothing_of_random_markup(void **state) {
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
                                         P_,
                                         "<|DSML|invoke name=G>",
                                         V("J"),
                                         "\n",
                                         "\xe2\x82"};
    struct rng r;
    rng_init(&r, 4);
    for (int round = 0; round < 30000; round++) {
        struct buf b = {0};
        struct text_stream_options o = {.thinking = round & 1, .tools = true};
        add_pieces(&b, &r, pieces, COUNT_OF(pieces), 24);
        struct assembled whole = stream(b.data, b.len, o, cut_never, NULL);
        struct assembled cut = stream(b.data, b.len, o, round % 3 ? cut_anywhere : cut_bytes, &r);
        json_t *expected = message_of(&whole);
        expect_message(expected, &cut, text_of(&b), "in pieces");
        assert_string_equal(text_of(&whole.calls), text_of(&cut.calls));
        if (!nothing_lost(b.data, b.len, &whole))
            fail_msg("%s\n%s", b.data, json_dumps(expected, 0));
        json_decref(expected);
        release(&whole);
        release(&cut);
        buf_release(&b);
    }
}

/* Texts that make a careless parser look at everything again and again. */
static void test_stream__hostile_texts_take_no_time(void **state) {
    (void)state;
    static const char *const units[] = {
        W,
        W_,
        I("f"),
        I("f") "junk",
        "<｜DSML｜invoke name=\"",
        "<｜DSML｜invoke name=\">>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>",
        V("x"),
        I("f") V("x"),
        I("f") V("x") I_,
        I("f") P("x", "1") P("x", "2"),
        W I("f") P("x", "1") I_ W_ " ",
        "<think>",
        "</think>",
        "\n```\n" I("f") I_,
        "<",
        "\n",
        EOS,
        I("f") "{"};
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        struct buf b = {0};
        buf_string(&b, i % 2 ? CALL : "");
        while (b.len < 1 << 18)
            buf_string(&b, units[i]);
        for (int way = 0; way < 4; way++) {
            double start = clock_seconds();
            struct text_stream_options o = {.thinking = way & 1, .tools = true};
            struct assembled a = stream(b.data, b.len, o, way & 2 ? cut_bytes : cut_never, NULL);
            if (clock_seconds() - start > 20) /* a second or two under the sanitizers; quadratic takes minutes */
                fail_msg("unit %zu takes %.1f s", i, clock_seconds() - start);
            release(&a);
        }
        buf_release(&b);
    }
}

static void test_stream__a_call_of_many_parameters_takes_no_time(void **state) {
    (void)state;
    struct buf b = {0};
    buf_string(&b, "\n\n" W I("f"));
    for (int i = 0; i < 60000; i++)
        buf_printf(&b, P("p%06d", "1"), i);
    buf_string(&b, I_ W_);
    double start = clock_seconds();
    struct assembled a = stream(b.data, b.len, (struct text_stream_options){.tools = true}, cut_bytes, NULL);
    if (clock_seconds() - start > 20)
        fail_msg("%.1f s", clock_seconds() - start);
    assert_int_equal(json_array_size(a.list), 1);
    release(&a);
    buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream__gives_the_released_parsers_messages),
        cmocka_unit_test(test_stream__gives_the_messages_of_well_formed_texts),
        cmocka_unit_test(test_stream__mends_as_the_parser_does),
        cmocka_unit_test(test_stream__keeps_what_it_has_said),
        cmocka_unit_test(test_stream__says_text_when_it_is_known),
        cmocka_unit_test(test_stream__calls_in_reasoning_wait),
        cmocka_unit_test(test_stream__without_tools_markup_is_text),
        cmocka_unit_test(test_stream__loses_nothing_of_random_markup),
        cmocka_unit_test(test_stream__hostile_texts_take_no_time),
        cmocka_unit_test(test_stream__a_call_of_many_parameters_takes_no_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
