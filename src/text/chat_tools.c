/*
 * chat_tools.c - what tools are called in prompts, and their schemas there.
 *
 * Where a format has namespaces, a tool or a call may name one, {"namespace": "search"} beside "function" or inside it,
 * of tools also {"namespace": {"name": "search", "description": ...}}; it is then called search::NAME. The name itself
 * may be written so too. There is one namespace at most, however often it is said.
 */
#include <string.h>

#include "text/chat_internal.h"
#include "text/text_internal.h"

static const char parting[] = "::";

static const char *find_parting(const struct jnode *name) {
    return memmem(name->text, name->length, parting, strlen(parting));
}

/* True if the name is in no namespace, or in one, which is `space` if that is given. */
static bool is_in_one(const struct jnode *name, const struct jnode *space) {
    const char *parted = find_parting(name);
    if (space && find_parting(space))
        return false;
    if (!parted)
        return true;
    const char *bare = parted + strlen(parting);
    size_t before = (size_t)(parted - name->text), rest = name->length - before - strlen(parting);
    return !memmem(bare, rest, parting, strlen(parting)) &&
           (!space || (space->length == before && memcmp(space->text, name->text, before) == 0));
}

bool tool_name_read(const struct chat_format *format, const struct jnode *tool, struct tool_name *n) {
    const struct jnode *function = jnode_get(tool, "function"), *space = jnode_get(tool, "namespace");
    *n = (struct tool_name){.name = jnode_get(function, "name")};
    if (!format->namespaces)
        return true;
    if (!jnode_truth(space))
        space = jnode_get(function, "namespace");
    if (!jnode_truth(space))
        space = NULL;
    n->space = jnode_is(space, JNODE_OBJECT) ? jnode_get(space, "name") : space;
    n->about = jnode_get(space, "description");
    return jnode_is(n->name, JNODE_STRING) && (!space || jnode_is(n->space, JNODE_STRING)) &&
           (!n->about || n->about->kind == JNODE_STRING) && is_in_one(n->name, n->space);
}

void tool_name_write(struct buf *b, const struct tool_name *n) {
    if (n->space && !find_parting(n->name)) {
        buf_append(b, n->space->text, n->space->length);
        buf_string(b, parting);
    }
    buf_append(b, n->name->text, n->name->length);
}

size_t tool_name_space(const struct chat_format *format, const char *name, size_t bytes) {
    struct jnode whole = {.kind = JNODE_STRING, .text = name, .length = bytes};
    const char *parted = format->namespaces && is_in_one(&whole, NULL) ? find_parting(&whole) : NULL;
    return parted && parted + strlen(parting) < name + bytes ? (size_t)(parted - name) : 0;
}

/* ------------------------------------------------------------------------------------------- schemas */

static void write_member(struct buf *b, const char *key, size_t key_bytes, const struct buf *text) {
    buf_string(b, b->data[b->len - 1] == '{' ? "" : ", ");
    json_write_string(b, key, key_bytes);
    buf_string(b, ": ");
    if (text)
        json_write_string(b, text->data, text->len);
}

/* The namespace's description, and below it the function's own. */
static void write_description(struct buf *b, const struct tool_name *n, const struct jnode *own) {
    struct buf text = {0};
    buf_append(&text, n->about->text, n->about->length);
    buf_byte(&text, '\n');
    if (jnode_is(own, JNODE_STRING))
        buf_append(&text, own->text, own->length);
    write_member(b, "description", strlen("description"), &text);
    b->failed |= text.failed;
    buf_release(&text);
}

static void write_whole_name(struct buf *b, const struct tool_name *n) {
    struct buf text = {0};
    tool_name_write(&text, n);
    write_member(b, "name", strlen("name"), &text);
    b->failed |= text.failed;
    buf_release(&text);
}

static bool is_member(const struct jnode *member, const char *key) {
    return member->key_length == strlen(key) && memcmp(member->key, key, member->key_length) == 0;
}

void tool_schema_write(struct buf *b, const struct chat_format *format, const struct jnode *tool) {
    const struct jnode *function = jnode_get(tool, "function");
    struct tool_name n;
    if (!format->namespaces || !tool_name_read(format, tool, &n)) {
        jnode_write(b, function);
        return;
    }
    bool described = !jnode_truth(n.about);
    buf_byte(b, '{');
    for (const struct jnode *member = function->first; member; member = member->next) {
        if (is_member(member, "namespace"))
            continue;
        if (is_member(member, "name")) {
            write_whole_name(b, &n);
        } else if (!described && is_member(member, "description")) {
            write_description(b, &n, member);
            described = true;
        } else {
            write_member(b, member->key, member->key_length, NULL);
            jnode_write(b, member);
        }
    }
    if (!described)
        write_description(b, &n, NULL);
    buf_byte(b, '}');
}
