/*
 * fuzz_stream.c - any bytes as a completion that comes in any pieces.
 *
 * The first byte says how the text is cut, its two low bits what options the stream has. Reported pieces are whole
 * characters, calls come one after the other, arguments are JSON objects, no letter is lost (but those markup is
 * written with), and the pieces make no difference to the message.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Everything reported: reasoning and content as they are, calls one behind the other. */
struct report {
    struct buf reasoning, content, calls, arguments;
    size_t call_count;
    bool calling;
};

static void check(bool holds) {
    if (!holds)
        abort();
}

static void end_call(struct report *r, bool whole) {
    struct jtree tree;
    check(jtree_parse(r->arguments.data, r->arguments.len, "arguments", &tree, NULL) == 0);
    check(tree.root->kind == JNODE_OBJECT);
    jtree_release(&tree);
    buf_append(&r->calls, r->arguments.data, r->arguments.len);
    buf_byte(&r->calls, whole ? '.' : '!');
    buf_clear(&r->arguments);
    r->call_count++;
}

static void on_event(void *context, const struct text_event *event) {
    struct report *r = context;
    bool of_call = event->kind == TEXT_ARGUMENTS || event->kind == TEXT_CALL_END;
    for (size_t at = 0; at < event->bytes;) {
        enum utf8_kind kind;
        at += utf8_next(event->text + at, event->bytes - at, &kind);
        check(kind == UTF8_WHOLE);
    }
    check((event->bytes > 0) == (event->kind != TEXT_CALL_END) && r->calling == of_call);
    if (of_call || event->kind == TEXT_CALL)
        check(event->call == r->call_count);
    struct buf *const to[] = {&r->reasoning, &r->content, &r->calls, &r->arguments};
    if (event->kind == TEXT_CALL_END)
        end_call(r, event->whole);
    else
        buf_append(to[event->kind], event->text, event->bytes);
    r->calling = event->kind == TEXT_CALL || event->kind == TEXT_ARGUMENTS;
}

/* `cut` 0: whole. */
static void stream(const char *text, size_t bytes, struct text_stream_options options, uint8_t cut, struct report *r) {
    struct text_stream *s;
    uint32_t chance = cut;
    check(text_stream_open(&options, &s, NULL) == 0);
    for (size_t at = 0, n; at < bytes; at += n) {
        chance = chance * 1664525 + 1013904223;
        n = cut ? min_u64(bytes - at, 1 + (chance >> 16) % (1 + cut / 4)) : bytes;
        check(text_stream_push(s, text + at, n, on_event, r, NULL) == 0);
    }
    check(text_stream_finish(s, on_event, r, NULL) == 0 && !r->calling);
    text_stream_close(s);
}

static void tally(const struct buf *b, size_t seen[256]) {
    for (size_t i = 0; i < b->len; i++)
        seen[(unsigned char)b->data[i]]++;
}

static bool equal(const struct buf *x, const struct buf *y) {
    return x->len == y->len && (!x->len || memcmp(x->data, y->data, x->len) == 0);
}

static void release(struct report *r) {
    buf_release(&r->reasoning);
    buf_release(&r->content);
    buf_release(&r->calls);
    buf_release(&r->arguments);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size)
        return 0;
    struct text_stream_options options = {.thinking = data[0] & 1, .tools = !(data[0] & 2)};
    struct report whole = {0}, cut = {0};
    size_t in[256] = {0}, out[256] = {0};
    struct buf text = {0};
    buf_append(&text, data + 1, size - 1);
    stream(text.data, text.len, options, 0, &whole);
    stream(text.data, text.len, options, data[0] | 4, &cut);
    check(equal(&whole.reasoning, &cut.reasoning) && equal(&whole.content, &cut.content));
    check(equal(&whole.calls, &cut.calls));
    tally(&text, in);
    tally(&whole.reasoning, out);
    tally(&whole.content, out);
    tally(&whole.calls, out);
    for (const char *c = "BCGHIJKNOPQVWXYZjqxz"; *c; c++)
        check(in[(unsigned char)*c] == out[(unsigned char)*c]);
    release(&whole);
    release(&cut);
    buf_release(&text);
    return 0;
}
