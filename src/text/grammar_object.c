/*
 * grammar_object.c - objects: one automaton tells what kind of member a key is.
 *
 * Keys that schemas name are classes of their own (they may come once, and some must); all others are told apart by
 * which patternProperties they match, a class for each combination that occurs. The automaton of keys is any text,
 * tagged with the names and with each pattern, and its labels are classes. What a member of a class may hold is the
 * conjunction of what each schema says of such keys, its additionalProperties where it says nothing else.
 *
 * Parameters of calls are the same but for their names, which stand in quotation marks without escapes, and their
 * values, whose strings are written apart from everything else.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

enum { NAME_SHIFT = 16 }; /* labels: bit 0 any key, bits 1 to GRAMMAR_PATTERNS patterns, above this name + 1 */

/* Names that can be written in a tag and read again. */
static const char parameter_names[] = "^[^\\x00-\\x1f\\x7f\"<“”„‟″＂]+$";

struct members {
    struct build *b;
    const struct conjunction *c;
    const struct jnode *literal;
    struct buf names; /* struct word */
    const struct jnode *patterns[GRAMMAR_PATTERNS];
    const struct dfa *matches[GRAMMAR_PATTERNS];
    uint32_t pattern_count;
    struct object_part part;
};

static const struct word *name_at(const struct members *m, uint32_t index) {
    return (const struct word *)(const void *)m->names.data + index;
}

static uint32_t name_count(const struct members *m) {
    return (uint32_t)(m->names.len / sizeof(struct word));
}

static bool same_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    return a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0;
}

/* ---------------------------------------------------------------------------------------- gathering */

/* The index of a name, or NONE. */
static uint32_t find_name(const struct members *m, const char *text, size_t length) {
    for (uint32_t i = 0; i < name_count(m); i++)
        if (same_text(name_at(m, i)->text, name_at(m, i)->length, text, length))
            return i;
    return NONE;
}

static int add_name(struct members *m, const struct jnode *place, const char *text, size_t length) {
    int rc = budget_spend(&m->b->budget, 1 + name_count(m) / 8);
    if (rc || find_name(m, text, length) != NONE)
        return rc;
    if (name_count(m) >= GRAMMAR_NAMES)
        return build_refuse(m->b, place, "an object of so many properties");
    struct word w = {text, length, name_count(m) + 1};
    buf_append(&m->names, &w, sizeof(w));
    return m->names.failed ? err_memory(m->b->budget.e) : SONDE_OK;
}

static int add_pattern(struct members *m, const struct jnode *member) {
    for (uint32_t i = 0; i < m->pattern_count; i++)
        if (same_text(m->patterns[i]->key, m->patterns[i]->key_length, member->key, member->key_length))
            return SONDE_OK;
    if (m->pattern_count == GRAMMAR_PATTERNS)
        return build_refuse(m->b, member, "\"patternProperties\" of so many patterns");
    m->patterns[m->pattern_count] = member;
    return build_pattern(m->b, member, member->key, member->key_length, &m->matches[m->pattern_count++]);
}

static int gather_schema(struct members *m, const struct jnode *schema) {
    const struct jnode *list = schema_member(schema, "properties");
    int rc = SONDE_OK;
    for (const struct jnode *n = list && !m->literal ? list->first : NULL; n && !rc; n = n->next)
        rc = add_name(m, n, n->key, n->key_length);
    list = schema_member(schema, "required");
    for (const struct jnode *n = list ? list->first : NULL; n && !rc; n = n->next) {
        if (n->kind != JNODE_STRING)
            return build_malformed(m->b, list, "a list of strings is expected");
        if (!m->literal)
            rc = add_name(m, n, n->text, n->length);
    }
    list = schema_member(schema, "patternProperties");
    for (const struct jnode *n = list ? list->first : NULL; n && !rc; n = n->next)
        rc = add_pattern(m, n);
    return rc;
}

static int gather(struct members *m) {
    int rc = SONDE_OK;
    for (const struct jnode *n = m->literal ? m->literal->first : NULL; n && !rc; n = n->next)
        rc = add_name(m, n, n->key, n->key_length);
    for (uint32_t i = 0; i < m->c->count && !rc; i++)
        if (m->c->parts[i].kind == PART_OWN)
            rc = gather_schema(m, m->c->parts[i].node);
    return rc;
}

/* -------------------------------------------------------------------------------------------- keys */

/* What propertyNames says, as an automaton: only keywords about texts. */
static int narrow_names(struct members *m, const struct jnode *schema, struct dfa **keys) {
    static const char *const known[] = {"pattern", "format", "minLength", "maxLength", "title", "description"};
    struct conjunction from = {0}, to = {0};
    struct string_part texts = {0};
    struct dfa *lengths = NULL, *both = NULL;
    int rc = conjunction_add(m->b, &from, PART_SCHEMA, schema);
    rc = rc ? rc : build_expand(m->b, &from, &to);
    for (uint32_t i = 0; i < to.count && !rc; i++) {
        bool good = to.parts[i].kind == PART_OWN && to.parts[i].node->kind == JNODE_OBJECT;
        for (const struct jnode *n = good ? to.parts[i].node->first : NULL; n && good; n = n->next) {
            good = strcmp(n->key, "type") == 0 && jnode_says(n, "string");
            for (size_t k = 0; k < COUNT_OF(known); k++)
                good |= strcmp(n->key, known[k]) == 0;
        }
        rc = good ? SONDE_OK : build_refuse(m->b, schema, "\"propertyNames\" that says more than pattern and length");
    }
    rc = rc ? rc : build_strings(m->b, &to, &texts);
    rc = rc ? rc : dfa_lengths(texts.min, texts.max, &m->b->budget, &lengths);
    if (!rc && texts.texts && !texts.free)
        rc = dfa_product(*keys, texts.texts, DFA_AND, &m->b->budget, &both);
    else if (!rc)
        rc = dfa_product(*keys, lengths, DFA_AND, &m->b->budget, &both);
    if (!rc && !texts.texts)
        both->count = 0;
    dfa_free(lengths);
    conjunction_release(&from);
    conjunction_release(&to);
    if (!rc) {
        dfa_free(*keys);
        *keys = both;
    }
    return rc;
}

/* True if keys without a name can be left out from the beginning. */
static bool is_closed(const struct members *m) {
    bool closed = m->literal != NULL;
    for (uint32_t i = 0; i < m->c->count && !closed && !m->pattern_count; i++)
        if (m->c->parts[i].kind == PART_OWN) {
            const struct jnode *more = schema_member(m->c->parts[i].node, "additionalProperties");
            closed = more && more->kind == JNODE_FALSE;
        }
    return closed;
}

static int tag_keys(struct members *m, const struct dfa *tags, int op, struct dfa **keys) {
    struct dfa *tagged;
    int rc = dfa_product(*keys ? *keys : m->b->g->texts, tags, op, &m->b->budget, &tagged);
    if (!rc) {
        dfa_free(*keys);
        *keys = tagged;
    }
    return rc;
}

/* The automaton with its first labels. */
static int make_keys(struct members *m, struct dfa **keys) {
    struct dfa *names = NULL;
    const struct dfa *writable = NULL;
    int rc = dfa_words((const struct word *)(const void *)m->names.data, name_count(m), &m->b->budget, &names);
    if (!rc && is_closed(m)) {
        for (uint32_t s = 0; s < names->count; s++)
            names->label[s] <<= NAME_SHIFT;
        *keys = names;
    } else {
        rc = rc ? rc : tag_keys(m, names, DFA_TAG + NAME_SHIFT, keys);
        for (uint32_t i = 0; i < m->pattern_count && !rc; i++)
            rc = tag_keys(m, m->matches[i], DFA_TAG + 1 + (int)i, keys);
        dfa_free(names);
    }
    for (uint32_t i = 0; i < m->c->count && !rc; i++) {
        const struct jnode *n =
            m->c->parts[i].kind == PART_OWN ? schema_member(m->c->parts[i].node, "propertyNames") : NULL;
        rc = n ? narrow_names(m, n, keys) : SONDE_OK;
    }
    if (!rc && m->c->mode == NODE_CALL)
        rc = build_pattern(m->b, NULL, parameter_names, strlen(parameter_names), &writable);
    return !rc && writable ? tag_keys(m, writable, DFA_AND, keys) : rc;
}

/* ----------------------------------------------------------------------------------------- classes */

static bool pattern_holds(const struct members *m, uint32_t matched, const struct jnode *member) {
    for (uint32_t i = 0; i < m->pattern_count; i++)
        if (same_text(m->patterns[i]->key, m->patterns[i]->key_length, member->key, member->key_length))
            return matched >> i & 1;
    return false;
}

/* What one schema says of a key: by its name, if it has one, and the patterns it matches. */
static int add_sayings(struct members *m, const struct jnode *schema, const struct word *name, uint32_t matched,
                       struct conjunction *c) {
    const struct jnode *list = schema_member(schema, "properties");
    bool any = false;
    int rc = SONDE_OK;
    for (const struct jnode *n = list && name ? list->first : NULL; n && !rc; n = n->next)
        if (same_text(n->key, n->key_length, name->text, name->length)) {
            rc = conjunction_add(m->b, c, PART_SCHEMA, n);
            any = true;
        }
    rc = rc ? rc : budget_spend(&m->b->budget, list ? 1 + list->count / 4 : 1);
    list = schema_member(schema, "patternProperties");
    for (const struct jnode *n = list ? list->first : NULL; n && !rc; n = n->next)
        if (pattern_holds(m, matched, n)) {
            rc = conjunction_add(m->b, c, PART_SCHEMA, n);
            any = true;
        }
    list = schema_member(schema, "additionalProperties");
    return !rc && !any && list ? conjunction_add(m->b, c, PART_SCHEMA, list) : rc;
}

/* The node of what such members hold, with one more schema beside (or NULL), in a mode. */
static int member_node(struct members *m, const struct word *name, uint32_t matched, const char *beside, uint32_t mode,
                       uint32_t *node) {
    struct conjunction c = {.mode = mode};
    int rc = SONDE_OK;
    for (uint32_t i = 0; i < m->c->count && !rc; i++)
        if (m->c->parts[i].kind == PART_OWN)
            rc = add_sayings(m, m->c->parts[i].node, name, matched, &c);
    for (const struct jnode *n = m->literal ? m->literal->first : NULL; n && !rc; n = n->next)
        if (name && same_text(n->key, n->key_length, name->text, name->length))
            rc = conjunction_add(m->b, &c, PART_LITERAL, n);
    if (!rc && beside)
        rc = conjunction_add(m->b, &c, PART_SCHEMA, build_builtin(m->b, beside));
    if (rc)
        conjunction_release(&c);
    return rc ? rc : build_node(m->b, &c, node);
}

static int add_class(struct members *m, const struct word *name, uint32_t matched) {
    struct key_class class = {.text = NONE};
    bool call = m->c->mode == NODE_CALL;
    int rc = member_node(m, name, matched, call ? "other" : NULL, NODE_JSON, &class.value);
    if (!rc && call)
        rc = member_node(m, name, matched, "string", NODE_VALUE, &class.text);
    uint32_t n = m->part.class_count;
    if (!rc && (n & (n - 1)) == 0) { /* full at powers of two */
        struct key_class *classes = realloc(m->part.classes, (n ? 2 * n : 1) * sizeof(*classes));
        if (!classes)
            return err_memory(m->b->budget.e);
        m->part.classes = classes;
    }
    if (!rc)
        m->part.classes[m->part.class_count++] = class;
    return rc;
}

static int name_classes(struct members *m) {
    int rc = SONDE_OK;
    for (uint32_t i = 0; i < name_count(m) && !rc; i++) {
        const struct word *name = name_at(m, i);
        uint32_t matched = 0;
        for (uint32_t k = 0; k < m->pattern_count; k++) {
            uint32_t state = dfa_run(m->matches[k], name->text, name->length);
            matched |= (uint32_t)(state != DFA_DEAD && m->matches[k]->label[state]) << k;
        }
        rc = add_class(m, name, matched);
    }
    return rc;
}

/* Turns labels into classes, making those of keys without a name as they are met. */
static int other_classes(struct members *m, struct dfa *keys) {
    uint32_t class_of[1 << GRAMMAR_PATTERNS] = {0}; /* + 1 */
    int rc = SONDE_OK;
    for (uint32_t s = 0; s < keys->count && !rc; s++) {
        uint32_t label = keys->label[s], matched = label >> 1 & ((1 << GRAMMAR_PATTERNS) - 1);
        if (!label || label >> NAME_SHIFT) {
            keys->label[s] = label >> NAME_SHIFT;
            continue;
        }
        if (!class_of[matched]) {
            rc = add_class(m, NULL, matched);
            class_of[matched] = m->part.class_count;
        }
        keys->label[s] = class_of[matched];
    }
    return rc;
}

static int find_required(struct members *m) {
    struct object_part *o = &m->part;
    o->words = (o->names + 63) / 64;
    o->required = calloc(o->words + 1, sizeof(*o->required));
    if (!o->required)
        return err_memory(m->b->budget.e);
    for (uint32_t i = 0; i < m->c->count; i++) {
        const struct jnode *list =
            m->c->parts[i].kind == PART_OWN ? schema_member(m->c->parts[i].node, "required") : NULL;
        for (const struct jnode *n = list ? list->first : NULL; n; n = n->next) {
            uint32_t name = find_name(m, n->text, n->length);
            int rc = budget_spend(&m->b->budget, 1 + o->names / 8);
            if (rc)
                return rc;
            if (name == NONE) /* of a literal that lacks it */
                o->min = 1, o->max = 0;
            else
                o->required[name / 64] |= 1ull << name % 64;
        }
    }
    for (uint32_t i = 0; i < o->names && m->literal; i++)
        o->required[i / 64] |= 1ull << i % 64;
    for (uint32_t i = 0; i < o->words; i++)
        o->required_count += (uint32_t)__builtin_popcountll(o->required[i]);
    return SONDE_OK;
}

/* --------------------------------------------------------------------------------------- together */

static int make_object(struct members *m) {
    struct object_part *o = &m->part;
    struct dfa *keys = NULL;
    int rc = build_bounds(m->b, m->c, "minProperties", "maxProperties", &o->min, &o->max);
    rc = rc ? rc : gather(m);
    o->names = name_count(m);
    rc = rc ? rc : find_required(m);
    rc = rc ? rc : make_keys(m, &keys);
    rc = rc ? rc : name_classes(m);
    rc = rc ? rc : other_classes(m, keys);
    if (!rc)
        return build_keep(m->b, keys, &o->keys);
    dfa_free(keys);
    return rc;
}

int build_object(struct build *b, const struct conjunction *c, const struct jnode *literal, struct object_part **part) {
    struct members m = {.b = b, .c = c, .literal = literal, .part = {.height = NONE}};
    int rc = make_object(&m);
    bool possible = m.part.min <= m.part.max && m.part.required_count <= m.part.max;
    struct object_part *kept = !rc && possible ? malloc(sizeof(*kept)) : NULL;
    buf_release(&m.names);
    if (!rc && possible && !kept)
        rc = err_memory(b->budget.e);
    if (kept) {
        *kept = m.part;
        *part = kept;
    } else {
        free(m.part.classes);
        free(m.part.required);
    }
    return rc;
}

void object_free(struct object_part *o) {
    if (o) {
        free(o->classes);
        free(o->required);
        free(o->reach);
        free(o->others);
        free(o->room);
    }
    free(o);
}
