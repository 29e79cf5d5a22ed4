/*
 * fields.c - reading what a client asked, and refusing it with a sentence.
 *
 * Nothing is guessed: a member of the wrong kind is refused, not converted, and one that nobody knows is refused too,
 * as it may have been meant to change the answer. Each interface names the members it ignores on purpose.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/server_internal.h"

static void fill(struct refusal *r, int status, const char *param, const char *format, va_list args) {
    *r = (struct refusal){.status = status};
    snprintf(r->param, sizeof(r->param), "%s", param ? param : "");
    vsnprintf(r->message, sizeof(r->message), format, args);
}

int refuse(struct refusal *r, int status, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(r, status, param, format, args);
    va_end(args);
    return -1;
}

int refuse_error(struct refusal *r, const struct sonde_error *e) {
    bool theirs = e->code == SONDE_ERROR_ARGUMENT || e->code == SONDE_ERROR_FORMAT ||
                  e->code == SONDE_ERROR_UNSUPPORTED || e->code == SONDE_ERROR_CONTEXT;
    return refuse(r, theirs ? 400 : 500, NULL, "%s", e->message);
}

void field_refuse(struct fields *f, const char *name, const char *format, ...) {
    char param[96], text[400];
    va_list args;
    if (f->failed)
        return;
    f->failed = true;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(param, sizeof(param), "%s%s", f->path, name);
    refuse(f->refusal, 400, param, "%s: %s", param, text);
}

const struct jnode *field(const struct fields *f, const char *name) {
    return f->failed ? NULL : jnode_get(f->object, name);
}

static const char *kind_name(enum jkind kind) {
    static const char *const names[] = {"null",     "a boolean", "a boolean", "a number",
                                        "a string", "a list",    "an object"};
    return names[kind];
}

const struct jnode *field_of(struct fields *f, const char *name, enum jkind kind) {
    const struct jnode *node = field(f, name);
    if (node && node->kind != kind) {
        field_refuse(f, name, "%s is expected", kind_name(kind));
        return NULL;
    }
    return node;
}

void field_bool(struct fields *f, const char *name, bool *value) {
    const struct jnode *node = field(f, name);
    if (!node)
        return;
    if (node->kind != JNODE_TRUE && node->kind != JNODE_FALSE)
        field_refuse(f, name, "a boolean is expected");
    else
        *value = node->kind == JNODE_TRUE;
}

void field_count(struct fields *f, const char *name, uint64_t least, uint64_t most, uint64_t *value) {
    const struct jnode *node = field_of(f, name, JNODE_NUMBER);
    double x;
    if (!node)
        return;
    if (!jnode_number(node, &x) || x != floor(x) || x < (double)least || x > (double)most)
        field_refuse(f, name, "a whole number from %llu to %llu is expected, not %.40s", (unsigned long long)least,
                     (unsigned long long)most, node->text);
    else
        *value = (uint64_t)x;
}

void field_real(struct fields *f, const char *name, double low, double high, float *value) {
    const struct jnode *node = field_of(f, name, JNODE_NUMBER);
    double x;
    if (!node)
        return;
    if (!jnode_number(node, &x) || !(x >= low && x <= high))
        field_refuse(f, name, "a number from %g to %g is expected, not %.40s", low, high, node->text);
    else
        *value = (float)x;
}

void field_string(struct fields *f, const char *name, const char **value) {
    const struct jnode *node = field_of(f, name, JNODE_STRING);
    if (!node)
        return;
    if (strlen(node->text) != node->length)
        field_refuse(f, name, "it holds a NUL character");
    else
        *value = node->text;
}

/* Index of a word among words separated by '|'; -1 if it is none. */
static int word_of(const char *words, const char *word, size_t length) {
    for (int i = 0;; i++) {
        size_t n = strcspn(words, "|");
        if (n == length && memcmp(words, word, n) == 0)
            return i;
        if (!words[n])
            return -1;
        words += n + 1;
    }
}

int field_choice(struct fields *f, const char *name, const char *words) {
    const struct jnode *node = field_of(f, name, JNODE_STRING);
    if (!node)
        return -1;
    int i = word_of(words, node->text, node->length);
    if (i < 0)
        field_refuse(f, name, "one of %s is expected, not \"%.60s\"", words, node->text);
    return i;
}

void fields_each(struct fields *f, const char *name, void (*read)(struct fields *item, void *context), void *context) {
    const struct jnode *list = field_of(f, name, JNODE_ARRAY);
    size_t i = 0;
    for (const struct jnode *n = list ? list->first : NULL; n && !f->failed; n = n->next, i++) {
        char path[96];
        snprintf(path, sizeof(path), "%s%s[%zu].", f->path, name, i);
        struct fields item = {.object = n, .path = path, .refusal = f->refusal};
        read(&item, context);
        f->failed |= item.failed;
    }
}

void fields_only(struct fields *f, const char *known, const char *harmless) {
    if (f->failed || !jnode_is(f->object, JNODE_OBJECT))
        return;
    for (const struct jnode *n = f->object->first; n; n = n->next) {
        if (n->kind == JNODE_NULL || word_of(known, n->key, n->key_length) >= 0 ||
            (harmless && word_of(harmless, n->key, n->key_length) >= 0))
            continue;
        char name[64];
        snprintf(name, sizeof(name), "%s", n->key);
        field_refuse(f, name, "this field is not supported");
        return;
    }
}
