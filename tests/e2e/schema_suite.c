/*
 * schema_suite.c - grammars against files of the JSON Schema Test Suite.
 *
 *     schema_suite TOKENIZER FILE...
 *
 * Each schema is compiled, or refused as not supported. Instances are written compactly, with whole numbers in digits,
 * and said to the grammar a byte at a time; each byte must be in the mask exactly if it is taken. Valid ones must be
 * taken to the end, invalid ones must not. Prints what came out and fails if anything was wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

struct counts {
    unsigned schemas, refused, instances, wrong;
};

static void write_instance(struct buf *b, const struct jnode *n) {
    struct decimal d;
    bool object = n->kind == JNODE_OBJECT;
    if (n->kind == JNODE_NUMBER && decimal_read(n->text, n->length, &d)) {
        decimal_write(&d, b);
    } else if (object || n->kind == JNODE_ARRAY) {
        buf_byte(b, object ? '{' : '[');
        for (const struct jnode *child = n->first; child; child = child->next) {
            if (object) {
                json_write_string(b, child->key, child->key_length);
                buf_byte(b, ':');
            }
            write_instance(b, child);
            if (child->next)
                buf_byte(b, ',');
        }
        buf_byte(b, object ? '}' : ']');
    } else {
        jnode_write(b, n);
    }
}

/* True if the whole text is taken. *honest is false if a mask said otherwise than what a push did. */
static bool takes(struct text_grammar *g, const struct text_vocabulary *v, const sonde_tokenizer *t,
                  const struct buf *text, bool *honest) {
    struct text_constraint *c;
    bool taken = true, may_end;
    struct sonde_error e;
    if (text_constraint_open(g, v, &c, &e)) {
        fprintf(stderr, "%s\n", e.message);
        exit(1);
    }
    for (size_t i = 0; i < text->len && taken; i++) {
        uint32_t id = t->byte_ids[(uint8_t)text->data[i]];
        const uint32_t *allowed = text_constraint_allowed(c, &may_end);
        bool said = allowed[id / 32] >> id % 32 & 1;
        taken = text_constraint_push(c, (int32_t)id);
        *honest &= said == taken;
    }
    if (taken)
        text_constraint_allowed(c, &taken);
    text_constraint_close(c);
    return taken;
}

static const char *text_of(const struct jnode *object, const char *key) {
    const struct jnode *n = jnode_get(object, key);
    return jnode_is(n, JNODE_STRING) ? n->text : "";
}

static void run_schema(const struct jnode *suite, const struct text_vocabulary *v, const sonde_tokenizer *t,
                       struct counts *counts) {
    struct text_grammar *g = NULL;
    struct sonde_error e;
    int rc = text_grammar_schema(schema_member(suite, "schema"), "schema", &g, &e);
    bool nothing = rc == SONDE_ERROR_FORMAT && strstr(e.message, "no value fits");
    counts->schemas++;
    if (rc && !nothing) {
        counts->refused++;
        printf("# refused: %s: %s\n", text_of(suite, "description"), e.message);
        return;
    }
    const struct jnode *tests = jnode_get(suite, "tests");
    for (const struct jnode *n = tests ? tests->first : NULL; n; n = n->next) {
        struct buf text = {0};
        bool honest = true, valid = jnode_is(schema_member(n, "valid"), JNODE_TRUE);
        write_instance(&text, schema_member(n, "data"));
        bool taken = !nothing && takes(g, v, t, &text, &honest);
        counts->instances++;
        if (taken != valid || !honest) {
            counts->wrong++;
            printf("# wrong: %s: %s: %s %s%s\n", text_of(suite, "description"), text_of(n, "description"),
                   taken ? "took" : "did not take", text.data, honest ? "" : ", and a mask differs from a push");
        }
        buf_release(&text);
    }
    text_grammar_free(g);
}

static bool run_file(const char *path, const struct text_vocabulary *v, const sonde_tokenizer *t,
                     struct counts *counts) {
    struct buf file = {0};
    struct jtree tree;
    struct sonde_error e;
    int rc = file_read(path, 1 << 24, &file, &e);
    rc = rc ? rc : jtree_parse(file.data, file.len, path, &tree, &e);
    buf_release(&file);
    if (rc) {
        printf("# not read: %s\n", e.message);
        return false;
    }
    for (const struct jnode *n = tree.root->first; n; n = n->next)
        run_schema(n, v, t, counts);
    jtree_release(&tree);
    return true;
}

int main(int argc, char **argv) {
    sonde_tokenizer *t;
    struct text_vocabulary *v;
    struct sonde_error e;
    struct counts counts = {0};
    bool read = argc > 2;
    if (!read || sonde_tokenizer_open(argv[1], &t, &e) || text_vocabulary_open(t, sonde_tokenizer_size(t), &v, &e)) {
        fprintf(stderr, "schema_suite: %s\n", read ? e.message : "a tokenizer and files are expected");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        read &= run_file(argv[i], v, t, &counts);
    printf("# %u schemas: %u compiled, %u refused; %u instances, %u wrong\n", counts.schemas,
           counts.schemas - counts.refused, counts.refused, counts.instances, counts.wrong);
    text_vocabulary_close(v);
    sonde_tokenizer_close(t);
    return read && !counts.wrong && counts.instances ? 0 : 1;
}
