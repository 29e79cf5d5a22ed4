/*
 * test_server_dialogue.c - conversations as ids: what was sampled comes back as it was, if it comes back unchanged.
 * Answers here are sampled as one id a byte where it can be, which the tokenizer would never choose.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "server/asked_internal.h"
#include "server/parts_internal.h"

static struct server server;

static int open_server(void **state) {
    (void)state;
    sonde_tokenizer *t = NULL;
    CHECKED(sonde_tokenizer_open("models/nano/tokenizer.json", &t, &error));
    CHECKED(replay_open(NULL, NULL, NULL, &server.replay, &error));
    server.tokenizer = t;
    server.think_end = sonde_tokenizer_added(t, "</think>");
    return 0;
}

static int close_server(void **state) {
    (void)state;
    replay_close(server.replay);
    sonde_tokenizer_close((sonde_tokenizer *)(uintptr_t)server.tokenizer);
    return 0;
}

/* ------------------------------------------------------------------------------------- conversations */

static void say(struct dialogue *d, enum speaker speaker, const char *text) {
    struct spoken *m = dialogue_add(d, speaker);
    assert_non_null(m);
    buf_string(&m->text, text);
}

static void say_call(struct dialogue *d, const char *id, const char *name, const char *arguments) {
    struct spoken_call *c = spoken_add_call(d, &d->said[d->count - 1]);
    assert_non_null(c);
    buf_string(&c->id, id);
    buf_string(&c->name, name);
    buf_string(&c->arguments, arguments);
}

static void think(struct dialogue *d, const char *reasoning) {
    struct spoken *m = &d->said[d->count - 1];
    buf_string(&m->reasoning, reasoning);
    m->has_reasoning = true;
}

static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"parameters\":{}}}]";

/* The ids of the conversation, which it releases, into t; the caller frees t->ids. */
static void encode(struct dialogue *d, struct task *t) {
    struct refusal r;
    *t = (struct task){.server = &server};
    if (dialogue_encode(d, t, &r))
        fail_msg("%s", r.message);
    dialogue_release(d);
}

/* The bytes of a text as ids, each its own token. */
static void append_bytes(struct buf *ids, const char *text) {
    for (; *text; text++) {
        int32_t *id;
        size_t count;
        CHECKED(sonde_tokenizer_encode(server.tokenizer, text, 1, SONDE_MARKUP_TEXT, &id, &count, &error));
        assert_int_equal(count, 1);
        buf_append(ids, id, sizeof(*id));
        sonde_free(id);
    }
}

static bool holds(const struct task *t, const struct buf *ids) {
    return memmem(t->ids, t->count * sizeof(*t->ids), ids->data, ids->len) != NULL;
}

/* What was sampled for an answer: reasoning (NULL: none), its mark, content. */
static void sample(struct answer *a, const struct task *t, const char *reasoning, const char *content,
                   const char *arguments) {
    *a = (struct answer){.task = (struct task *)(uintptr_t)t};
    if (reasoning) {
        append_bytes(&a->ids, reasoning);
        buf_append(&a->ids, &server.think_end, sizeof(server.think_end));
    }
    append_bytes(&a->ids, content);
    buf_string(&a->content, content);
    if (arguments) {
        a->calls = calloc(1, sizeof(*a->calls));
        assert_non_null(a->calls);
        a->call_count = 1;
        strcpy(a->calls[0].id, "call_abc");
        buf_string(&a->calls[0].name, "look");
        buf_string(&a->calls[0].arguments, arguments);
        append_bytes(&a->ids, "a call, however it was written");
    }
    dialogue_remember(t, a);
}

static void release(struct answer *a) {
    for (size_t i = 0; i < a->call_count; i++) {
        buf_release(&a->calls[i].name);
        buf_release(&a->calls[i].arguments);
    }
    free(a->calls);
    buf_release(&a->ids);
    buf_release(&a->content);
}

/* ------------------------------------------------------------------------------------------------ tests */

static void test_text__comes_back_as_sampled(void **state) {
    (void)state;
    struct dialogue d = {0};
    struct task first, again;
    struct answer a;
    say(&d, SPEAKER_USER, "What is it?");
    encode(&d, &first);
    sample(&a, &first, NULL, "hello there", NULL);
    for (int edited = 0; edited < 3; edited++) {
        say(&d, SPEAKER_USER, edited == 2 ? "What was it?" : "What is it?");
        say(&d, SPEAKER_ASSISTANT, edited == 1 ? "hello There" : "hello there");
        say(&d, SPEAKER_USER, "More");
        encode(&d, &again);
        assert_int_equal(holds(&again, &a.ids), edited == 0);
        if (edited == 0) /* all that was read and sampled is the beginning of what is read now */
            assert_memory_equal(again.ids, first.ids, first.count * sizeof(*first.ids));
        free(again.ids);
    }
    release(&a);
    free(first.ids);
}

static void check_call(bool keep_reasoning, const char *reasoning, const char *arguments, bool thinking, bool expect) {
    struct dialogue d = {.thinking = true};
    struct task first, again;
    struct answer a;
    buf_string(&d.tools, tools);
    say(&d, SPEAKER_USER, "Look!");
    encode(&d, &first);
    assert_true(first.thinking);
    sample(&a, &first, "let me see", "", "{\"where\": \"there\", \"n\": 1}");
    d.thinking = thinking;
    buf_string(&d.tools, tools);
    say(&d, SPEAKER_USER, "Look!");
    say(&d, SPEAKER_ASSISTANT, "");
    say_call(&d, "call_abc", "look", arguments);
    if (keep_reasoning)
        think(&d, reasoning);
    say(&d, SPEAKER_TOOL, "nothing");
    buf_string(&d.said[2].call_id, "call_abc");
    encode(&d, &again);
    assert_int_equal(holds(&again, &a.ids), expect);
    free(again.ids);
    free(first.ids);
    release(&a);
}

static void test_call__comes_back_as_sampled(void **state) {
    (void)state;
    static const char arguments[] = "{\"where\":\"there\",\"n\":1}"; /* written otherwise */
    check_call(true, "let me see", arguments, true, true);
    check_call(false, NULL, arguments, true, true); /* reasoning need not come back */
    check_call(true, "let me guess", arguments, true, false);
    check_call(true, "let me see", "{\"where\": \"here\", \"n\": 1}", true, false);
    check_call(true, "let me see", arguments, false, false); /* nobody thinks now: only what follows is read */
}

static void test_call__without_its_reasoning_where_nobody_thinks(void **state) {
    (void)state;
    struct dialogue d = {.thinking = true};
    struct task first, again;
    struct answer a;
    struct buf content = {0};
    say(&d, SPEAKER_USER, "Well?");
    encode(&d, &first);
    sample(&a, &first, "reasons", "and an answer", NULL);
    say(&d, SPEAKER_USER, "Well?");
    say(&d, SPEAKER_ASSISTANT, "and an answer");
    say(&d, SPEAKER_USER, "So?");
    encode(&d, &again); /* no thinking */
    append_bytes(&content, "and an answer");
    assert_true(holds(&again, &content));
    assert_false(holds(&again, &a.ids));
    buf_release(&content);
    release(&a);
    free(first.ids);
    free(again.ids);
}

static void test_unfinished_reasoning__is_not_kept(void **state) {
    (void)state;
    struct dialogue d = {.thinking = true};
    struct task first, again;
    struct answer a = {.thinking = true};
    say(&d, SPEAKER_USER, "Think");
    encode(&d, &first);
    a.task = &first;
    append_bytes(&a.ids, "on and on");
    dialogue_remember(&first, &a);
    say(&d, SPEAKER_USER, "Think");
    say(&d, SPEAKER_ASSISTANT, "");
    say(&d, SPEAKER_USER, "And?");
    encode(&d, &again);
    assert_false(holds(&again, &a.ids));
    buf_release(&a.ids);
    free(first.ids);
    free(again.ids);
}

static void test_users__cannot_forge_turns(void **state) {
    (void)state;
    static const char *const marks[] = {"<｜Assistant｜>", "</think>", "<｜User｜>", "<｜end▁of▁sentence｜>",
                                        "｜DSML｜"};
    for (size_t i = 0; i < COUNT_OF(marks); i++) {
        struct dialogue d = {0}, plain = {0};
        struct task t, p;
        size_t forged = 0, real = 0;
        say(&d, SPEAKER_USER, marks[i]);
        say(&plain, SPEAKER_USER, "word");
        encode(&d, &t);
        encode(&plain, &p);
        int32_t id = sonde_tokenizer_added(server.tokenizer, marks[i]);
        for (size_t k = 0; k < t.count; k++)
            forged += t.ids[k] == id;
        for (size_t k = 0; k < p.count; k++)
            real += p.ids[k] == id;
        assert_int_equal(forged, real);
        free(t.ids);
        free(p.ids);
    }
}

/* The prompt of "Hi" to a model of that format, asked with that effort; "REFUSED" if it was not taken. Owed. */
static char *prompt_of(enum sonde_chat_format format, const char *effort) {
    struct dialogue d = {0};
    struct refusal r = {0};
    struct jtree tree;
    int32_t *ids;
    size_t count, bytes;
    char json[80], *text;
    server.info.chat_format = format;
    server.thinks = true;
    snprintf(json, sizeof(json), "{\"effort\": %s}", effort);
    CHECKED(jtree_parse(json, strlen(json), "request", &tree, &error));
    struct fields f = {.object = tree.root, .path = "", .refusal = &r};
    struct thinking how = thinking_usual(&server);
    read_effort(&f, "effort", &how);
    jtree_release(&tree);
    if (f.failed)
        return strdup("REFUSED");
    take_thinking(&d, &how);
    say(&d, SPEAKER_USER, "Hi");
    if (dialogue_ids(&d, &server, &ids, &count, &r))
        fail_msg("%s", r.message);
    CHECKED(sonde_tokenizer_decode(server.tokenizer, ids, count, &text, &bytes, &error));
    server.info.chat_format = SONDE_CHAT_V4;
    sonde_free(ids);
    dialogue_release(&d);
    return text;
}

/* Prompts are told by what they begin with; NULL: they say nothing of effort. */
static void test_effort__reaches_the_prompt_as_the_format_has_it(void **state) {
    (void)state;
    static const char most[] = "Reasoning Effort: Absolute maximum";
    static const struct {
        const char *effort, *v4, *v41;
    } rows[] = {
        {"null", NULL, "Reasoning Effort: 75 ("},
        {"\"minimal\"", NULL, "Reasoning Effort: 50 ("},
        {"\"low\"", NULL, "Reasoning Effort: 50 ("},
        {"\"medium\"", NULL, "Reasoning Effort: 75 ("},
        {"\"high\"", NULL, "Reasoning Effort: 75 ("},
        {"\"xhigh\"", NULL, "Reasoning Effort: 75 ("},
        {"\"max\"", most, "Reasoning Effort: 100 ("},
        {"\"ultra\"", most, "Reasoning Effort: 100 ("},
        {"37", "REFUSED", "Reasoning Effort: 37 ("},
        {"0", "REFUSED", "REFUSED"},
        {"101", "REFUSED", "REFUSED"},
        {"1.5", "REFUSED", "REFUSED"},
        {"\"37\"", "REFUSED", "REFUSED"},
        {"true", "REFUSED", "REFUSED"},
        {"\"none\"", NULL, NULL},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (int format = SONDE_CHAT_V4; format <= SONDE_CHAT_V41; format++) {
            const char *expected = format == SONDE_CHAT_V4 ? rows[i].v4 : rows[i].v41;
            char *text = prompt_of((enum sonde_chat_format)format, rows[i].effort);
            if (expected ? !strstr(text, expected) : strstr(text, "Effort") != NULL)
                fail_msg("%s: %s", rows[i].effort, text);
            sonde_free(text);
        }
}

static void test_system__speaks_anywhere_in_v41(void **state) {
    (void)state;
    struct dialogue d = {0};
    struct task t;
    char *text;
    size_t bytes;
    server.info.chat_format = SONDE_CHAT_V41;
    say(&d, SPEAKER_USER, "Hi");
    say(&d, SPEAKER_SYSTEM, "Be brief.");
    buf_string(&d.tools, tools);
    encode(&d, &t);
    server.info.chat_format = SONDE_CHAT_V4;
    CHECKED(sonde_tokenizer_decode(server.tokenizer, t.ids, t.count, &text, &bytes, &error));
    assert_non_null(strstr(text, "<｜begin▁of▁sentence｜><｜System｜>\n\n## Tools"));
    assert_non_null(strstr(text, "<｜User｜>Hi<｜System｜>Be brief.<｜Assistant｜></think>"));
    sonde_free(text);
    free(t.ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text__comes_back_as_sampled),
        cmocka_unit_test(test_call__comes_back_as_sampled),
        cmocka_unit_test(test_call__without_its_reasoning_where_nobody_thinks),
        cmocka_unit_test(test_unfinished_reasoning__is_not_kept),
        cmocka_unit_test(test_users__cannot_forge_turns),
        cmocka_unit_test(test_effort__reaches_the_prompt_as_the_format_has_it),
        cmocka_unit_test(test_system__speaks_anywhere_in_v41),
    };
    return cmocka_run_group_tests(tests, open_server, close_server);
}
