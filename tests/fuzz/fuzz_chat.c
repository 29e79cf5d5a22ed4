/*
 * fuzz_chat.c - any bytes as a completion, and as a conversation.
 *
 * In either format: a completion must parse in both modes into JSON that loses no letter (but those markup is written
 * with). A conversation that renders must give UTF-8, with typed ranges in order and inside of it.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds)
        abort();
}

static void tally(const char *text, size_t bytes, size_t seen[256]) {
    for (size_t i = 0; i < bytes; i++)
        seen[(unsigned char)text[i]]++;
}

static void tally_string(const struct jnode *node, size_t seen[256]) {
    check(jnode_is(node, JNODE_STRING));
    tally(node->text, node->length, seen);
}

static void try_parse(enum sonde_chat_format format, const char *text, size_t bytes, bool thinking) {
    char *message;
    struct jtree tree, arguments;
    size_t in[256] = {0}, out[256] = {0};
    check(sonde_chat_parse(format, text, bytes, thinking, &message, NULL) == 0);
    check(jtree_parse(message, strlen(message), "message", &tree, NULL) == 0);
    tally(text, bytes, in);
    tally_string(jnode_get(tree.root, "content"), out);
    tally_string(jnode_get(tree.root, "reasoning_content"), out);
    for (const struct jnode *call = jnode_get(tree.root, "tool_calls")->first; call; call = call->next) {
        const struct jnode *function = jnode_get(call, "function"), *said = jnode_get(function, "arguments");
        tally_string(jnode_get(function, "name"), out);
        if (jnode_get(call, "namespace"))
            tally_string(jnode_get(call, "namespace"), out);
        tally_string(said, out);
        check(jtree_parse(said->text, said->length, "arguments", &arguments, NULL) == 0);
        check(arguments.root->kind == JNODE_OBJECT);
        jtree_release(&arguments);
    }
    for (const char *c = "BCGHIJKNOPQVWXYZjqxz"; *c; c++)
        check(in[(unsigned char)*c] == out[(unsigned char)*c]);
    jtree_release(&tree);
    sonde_free(message);
}

static void try_render(enum sonde_chat_format format, const char *request, size_t bytes) {
    char *prompt;
    size_t length, count;
    struct text_range *typed;
    int rc = text_chat_render(format, request, bytes, &prompt, &length, &typed, &count, NULL);
    check(rc == 0 || rc == SONDE_ERROR_FORMAT);
    if (rc)
        return;
    for (size_t at = 0; at < length;) {
        enum utf8_kind kind;
        at += utf8_next(prompt + at, length - at, &kind);
        check(kind == UTF8_WHOLE);
    }
    for (size_t i = 0; i < count; i++)
        check(typed[i].begin < typed[i].end && typed[i].end <= length && (!i || typed[i - 1].end <= typed[i].begin));
    free(typed);
    free(prompt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    for (int format = SONDE_CHAT_V4; format <= SONDE_CHAT_V41; format++) {
        try_parse((enum sonde_chat_format)format, text, size, false);
        try_parse((enum sonde_chat_format)format, text, size, true);
        try_render((enum sonde_chat_format)format, text, size);
    }
    return 0;
}
