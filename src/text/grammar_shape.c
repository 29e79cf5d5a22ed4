/*
 * grammar_shape.c - own keywords that hold together become a shape: what is left of each type of JSON.
 *
 * Where values are listed (enum, const) each is tried against everything else that is said. Scalars that are left
 * are spelled out in automata. An array or object that is left becomes a kid whose conjunction has the value as one
 * more part (PART_LITERAL), and from there on down the same happens with its items and members, so that they may be
 * written with space between them and in any order like all others.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

enum types {
    TYPE_NULL = 1,
    TYPE_BOOL = 2,
    TYPE_WHOLE = 4,
    TYPE_FRACTION = 8,
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_ALL = 127,
};

enum { ITEMS_MAX = 2000, LITERAL_DEPTH = 100 };

struct shaping {
    struct build *b;
    const struct conjunction *c;
    uint32_t node;
    unsigned types;
    struct shape shape;
};

/* ------------------------------------------------------------------------------------------- types */

static unsigned type_named(const struct jnode *name) {
    static const struct {
        const char *name;
        unsigned types;
    } names[] = {{"null", TYPE_NULL},     {"boolean", TYPE_BOOL},
                 {"integer", TYPE_WHOLE}, {"number", TYPE_WHOLE | TYPE_FRACTION},
                 {"string", TYPE_STRING}, {"array", TYPE_ARRAY},
                 {"object", TYPE_OBJECT}};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (jnode_says(name, names[i].name))
            return names[i].types;
    return 0;
}

/* What the keyword "type" leaves; all without one. */
static int types_of(struct build *b, const struct jnode *schema, unsigned *types) {
    const struct jnode *type = schema_member(schema, "type");
    *types = TYPE_ALL;
    if (!type)
        return SONDE_OK;
    *types = 0;
    const struct jnode *first = type->kind == JNODE_ARRAY ? type->first : type;
    for (const struct jnode *n = first; n; n = n == type ? NULL : n->next) {
        unsigned one = type_named(n);
        if (!one)
            return build_malformed(b, type, "a type of JSON is expected");
        *types |= one;
    }
    return SONDE_OK;
}

/* What "not" leaves, where it names types or everything. */
static int types_but(struct build *b, const struct jnode *schema, unsigned *types) {
    const struct jnode *no = schema_member(schema, "not");
    *types = TYPE_ALL;
    if (!no || no->kind == JNODE_FALSE)
        return SONDE_OK;
    bool understood = no->kind == JNODE_TRUE || no->count == (schema_member(no, "type") != NULL);
    unsigned taken;
    int rc = understood ? types_of(b, no, &taken) : build_refuse(b, no, "\"not\" of anything but types");
    if (rc)
        return rc;
    if ((taken & (TYPE_WHOLE | TYPE_FRACTION)) == TYPE_WHOLE)
        return build_refuse(b, no, "\"not\" of integers alone");
    *types = TYPE_ALL & ~taken;
    return SONDE_OK;
}

static int find_types(struct shaping *s) {
    s->types = TYPE_ALL;
    for (uint32_t i = 0; i < s->c->count; i++) {
        const struct jnode *schema = s->c->parts[i].node, *unique;
        unsigned is, is_not;
        if (s->c->parts[i].kind != PART_OWN)
            continue;
        if (schema->kind == JNODE_FALSE) {
            s->types = 0;
            continue;
        }
        int rc = types_of(s->b, schema, &is);
        rc = rc ? rc : types_but(s->b, schema, &is_not);
        if (rc)
            return rc;
        s->types &= is & is_not;
        if ((unique = schema_member(schema, "uniqueItems")) && unique->kind == JNODE_TRUE)
            return build_refuse(s->b, unique, "\"uniqueItems\"");
    }
    return SONDE_OK;
}

/* -------------------------------------------------------------------------------------- literals */

static bool literals_equal(const struct jnode *a, const struct jnode *b, int depth) {
    struct decimal x, y;
    if (a->kind != b->kind || a->count != b->count || depth > LITERAL_DEPTH)
        return false;
    switch (a->kind) {
    case JNODE_NUMBER:
        return decimal_read(a->text, a->length, &x) && decimal_read(b->text, b->length, &y) && decimal_equal(&x, &y);
    case JNODE_STRING:
        return a->length == b->length && memcmp(a->text, b->text, a->length) == 0;
    case JNODE_ARRAY:
        for (a = a->first, b = b->first; a; a = a->next, b = b->next)
            if (!literals_equal(a, b, depth + 1))
                return false;
        return true;
    case JNODE_OBJECT:
        for (a = a->first; a; a = a->next) {
            const struct jnode *other = schema_member(b, a->key);
            if (!other || strlen(a->key) != a->key_length || !literals_equal(a, other, depth + 1))
                return false;
        }
        return true;
    default:
        return true;
    }
}

/* One list of values: of a literal, a const, or an enum. */
struct listed {
    const struct jnode *first, *end; /* end NULL: to the end of the list */
};

/* The list that part i gives, if any; with `other`, its enum where it has a const too. */
static bool listed_by(const struct part *part, bool other, struct listed *list) {
    const struct jnode *n = part->node;
    if (part->kind == PART_OWN)
        n = schema_member(part->node, other ? "enum" : "const");
    else if (other)
        return false;
    if (!n)
        return false;
    *list = part->kind == PART_OWN && other ? (struct listed){n->first, NULL} : (struct listed){n, n->next};
    return true;
}

static int in_all_lists(struct shaping *s, const struct jnode *value, bool *in) {
    *in = true;
    for (uint32_t i = 0; i < 2 * s->c->count && *in; i++) {
        struct listed list;
        if (!listed_by(&s->c->parts[i / 2], i & 1, &list))
            continue;
        *in = false;
        for (const struct jnode *n = list.first; n != list.end && !*in; n = n->next) {
            int rc = budget_spend(&s->b->budget, 1 + n->count);
            if (rc)
                return rc;
            *in = literals_equal(n, value, 0);
        }
    }
    return SONDE_OK;
}

/* Scalars that are left, to be spelled out. */
struct spelled {
    struct buf texts, words[3]; /* characters; struct word: strings, numbers, names (null, true, false) */
};

/* Texts move as they grow, so words hold offsets until all are there. */
static void spell(struct spelled *l, int list, const char *text, size_t bytes) {
    struct word w = {.text = NULL, .length = bytes, .label = (uint32_t)l->texts.len};
    buf_append(&l->words[list], &w, sizeof(w));
    buf_append(&l->texts, text, bytes);
}

static size_t count_characters(const char *s, size_t bytes) {
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += (s[i] & 0xc0) != 0x80;
    return n;
}

static bool accepted(const struct dfa *d, const char *bytes, size_t count) {
    uint32_t state = d ? dfa_run(d, bytes, count) : DFA_DEAD;
    return state != DFA_DEAD && d->label[state];
}

static int spell_number(struct shaping *s, struct spelled *l, const struct jnode *value) {
    struct decimal d;
    struct buf b = {0};
    if (!decimal_read(value->text, value->length, &d))
        return build_refuse(s->b, value, "a number of so many digits");
    decimal_write(&d, &b);
    if (!b.failed && accepted(s->shape.scalars[0], b.data, b.len))
        spell(l, 1, b.data, b.len);
    int rc = b.failed ? err_memory(s->b->budget.e) : SONDE_OK;
    buf_release(&b);
    return rc;
}

/* A value that is listed everywhere: kept if all else allows it. */
static int keep_literal(struct shaping *s, struct spelled *l, const struct jnode *value) {
    const struct string_part *string = &s->shape.string;
    size_t characters;
    switch (value->kind) {
    case JNODE_NULL:
        if (s->types & TYPE_NULL)
            spell(l, 2, "null", 4);
        return SONDE_OK;
    case JNODE_TRUE:
    case JNODE_FALSE:
        if (s->types & TYPE_BOOL)
            spell(l, 2, value->kind == JNODE_TRUE ? "true" : "false", value->kind == JNODE_TRUE ? 4 : 5);
        return SONDE_OK;
    case JNODE_NUMBER:
        return spell_number(s, l, value);
    case JNODE_STRING:
        characters = count_characters(value->text, value->length);
        if (accepted(string->texts, value->text, value->length) && characters >= string->min &&
            characters <= string->max)
            spell(l, 0, value->text, value->length);
        return SONDE_OK;
    default:
        break;
    }
    struct conjunction c = {.mode = s->c->mode};
    uint32_t kid = 0;
    int rc = SONDE_OK;
    for (uint32_t i = 0; i < s->c->count && !rc; i++)
        rc = conjunction_add(s->b, &c, (enum part_kind)s->c->parts[i].kind, s->c->parts[i].node);
    rc = rc ? rc : conjunction_add(s->b, &c, PART_LITERAL, value);
    if (rc)
        conjunction_release(&c);
    else
        rc = build_node(s->b, &c, &kid);
    return rc ? rc : build_kid(s->b, s->node, kid);
}

static int make_words(struct shaping *s, struct spelled *l, int list, const struct dfa **out) {
    struct word *words = (struct word *)(void *)l->words[list].data;
    size_t count = l->words[list].len / sizeof(*words);
    struct dfa *d;
    *out = NULL;
    if (!count)
        return SONDE_OK;
    for (size_t i = 0; i < count; i++)
        words[i] = (struct word){l->texts.data + words[i].label, words[i].length, 1};
    int rc = dfa_words(words, count, &s->b->budget, &d);
    return rc ? rc : build_keep(s->b, d, out);
}

/* Replaces the shape by the listed values that fit it. */
static int list_literals(struct shaping *s, struct listed list) {
    struct spelled l = {{0}, {{0}}};
    int rc = SONDE_OK;
    for (const struct jnode *n = list.first; n != list.end && !rc; n = n->next) {
        bool in;
        rc = in_all_lists(s, n, &in);
        if (!rc && in)
            rc = keep_literal(s, &l, n);
    }
    if (!rc && (l.texts.failed || l.words[0].failed || l.words[1].failed || l.words[2].failed))
        rc = err_memory(s->b->budget.e);
    s->shape = (struct shape){.string = {.max = UNBOUNDED}};
    buf_string(&l.texts, ""); /* so that there is something to point to */
    rc = rc ? rc : make_words(s, &l, 0, &s->shape.string.texts);
    rc = rc ? rc : make_words(s, &l, 1, &s->shape.scalars[0]);
    rc = rc ? rc : make_words(s, &l, 2, &s->shape.scalars[1]);
    buf_release(&l.texts);
    for (int i = 0; i < 3; i++)
        buf_release(&l.words[i]);
    return rc;
}

/* ------------------------------------------------------------------------------------------ arrays */

/* Items of one schema: those before `rest` each their own; *rest is NULL if anything may follow. */
static const struct jnode *item_list(const struct jnode *schema, const struct jnode **rest) {
    const struct jnode *prefix = schema_member(schema, "prefixItems"), *items = schema_member(schema, "items");
    *rest = items;
    if (!jnode_is(items, JNODE_ARRAY))
        return prefix;
    *rest = schema_member(schema, "additionalItems");
    return items;
}

static const struct jnode *nth(const struct jnode *list, uint32_t index) {
    const struct jnode *n = list ? list->first : NULL;
    while (n && index--)
        n = n->next;
    return n;
}

/* What item `index` must be; with index NONE, what follows all that are listed. */
static int item_node(struct build *b, const struct conjunction *c, const struct jnode *literal, uint32_t index,
                     uint32_t *node) {
    struct conjunction item = {.mode = NODE_JSON};
    int rc = SONDE_OK;
    for (uint32_t i = 0; i < c->count && !rc; i++) {
        const struct jnode *rest, *list, *own;
        if (c->parts[i].kind != PART_OWN)
            continue;
        list = item_list(c->parts[i].node, &rest);
        own = index == NONE ? NULL : nth(list, index);
        rc = budget_spend(&b->budget, list && index != NONE ? index + 1 : 1);
        if (!rc && (own || rest))
            rc = conjunction_add(b, &item, PART_SCHEMA, own ? own : rest);
    }
    if (!rc && literal)
        rc = conjunction_add(b, &item, PART_LITERAL, nth(literal, index));
    if (rc)
        conjunction_release(&item);
    return rc ? rc : build_node(b, &item, node);
}

int build_array(struct build *b, const struct conjunction *c, const struct jnode *literal, struct array_part **part) {
    struct array_part a = {.items = NONE, .height = NONE};
    int rc = build_bounds(b, c, "minItems", "maxItems", &a.min, &a.max);
    size_t listed = literal ? literal->count : 0;
    for (uint32_t i = 0; i < c->count && !rc && !literal; i++) {
        const struct jnode *rest, *list = c->parts[i].kind == PART_OWN ? item_list(c->parts[i].node, &rest) : NULL;
        listed = list && list->count > listed ? list->count : listed;
    }
    if (rc || a.min > a.max || (literal && (listed < a.min || listed > a.max)))
        return rc;
    if (literal)
        a.min = a.max = (uint32_t)min_u64(listed, ITEMS_MAX + 1);
    a.prefix_count = (uint32_t)min_u64(listed, a.max);
    if (a.prefix_count > ITEMS_MAX)
        return build_refuse(b, c->parts[0].node, "an array of so many items, each its own,");
    a.prefix = malloc((a.prefix_count + 1) * sizeof(*a.prefix));
    *part = malloc(sizeof(**part));
    rc = a.prefix && *part ? SONDE_OK : err_memory(b->budget.e);
    for (uint32_t i = 0; i < a.prefix_count && !rc; i++)
        rc = item_node(b, c, literal, i, &a.prefix[i]);
    if (!rc && a.prefix_count < a.max)
        rc = item_node(b, c, NULL, NONE, &a.items);
    if (rc) {
        free(a.prefix);
        free(*part);
        *part = NULL;
        return rc;
    }
    **part = a;
    return SONDE_OK;
}

/* --------------------------------------------------------------------------------------- together */

static int spell_words(struct shaping *s) {
    static const struct word all[] = {{"null", 4, 1}, {"true", 4, 1}, {"false", 5, 1}};
    bool null = s->types & TYPE_NULL, boolean = s->types & TYPE_BOOL;
    struct dfa *d;
    if (!null && !boolean)
        return SONDE_OK;
    int rc = dfa_words(all + !null, (size_t)null + 2 * (size_t)boolean, &s->b->budget, &d);
    return rc ? rc : build_keep(s->b, d, &s->shape.scalars[1]);
}

static int keep_shape(struct shaping *s) {
    struct text_grammar *g = s->b->g;
    struct shape *own = malloc(sizeof(*own));
    if (own && g->shape_count == g->shape_cap) {
        uint32_t cap = g->shape_cap ? 2 * g->shape_cap : 32;
        struct shape **all = realloc(g->shapes, cap * sizeof(struct shape *));
        if (!all) {
            free(own);
            own = NULL;
        } else {
            g->shapes = all;
            g->shape_cap = cap;
        }
    }
    if (!own)
        return err_memory(s->b->budget.e);
    *own = s->shape;
    own->number = g->shape_count;
    s->shape = (struct shape){0};
    g->shapes[g->shape_count++] = own;
    g->nodes[s->node].own = own;
    return SONDE_OK;
}

/* A conjunction with an array or object in it holds that value only, if at all. */
static const struct jnode *container_literal(const struct conjunction *c) {
    for (uint32_t i = 0; i < c->count; i++)
        if (c->parts[i].kind == PART_LITERAL &&
            (c->parts[i].node->kind == JNODE_ARRAY || c->parts[i].node->kind == JNODE_OBJECT))
            return c->parts[i].node;
    return NULL;
}

static int shape_container(struct shaping *s, const struct jnode *literal) {
    bool in;
    int rc = in_all_lists(s, literal, &in);
    if (rc || !in)
        return rc;
    if (literal->kind == JNODE_ARRAY && s->types & TYPE_ARRAY)
        return build_array(s->b, s->c, literal, &s->shape.array);
    if (literal->kind == JNODE_OBJECT && s->types & TYPE_OBJECT)
        return build_object(s->b, s->c, literal, &s->shape.object);
    return SONDE_OK;
}

static int shape_scalars(struct shaping *s) {
    int rc = s->types & TYPE_STRING ? build_strings(s->b, s->c, &s->shape.string) : SONDE_OK;
    if (!rc && s->types & TYPE_WHOLE)
        rc = build_numbers(s->b, s->c, !(s->types & TYPE_FRACTION), &s->shape.scalars[0]);
    return rc;
}

static int shape_all(struct shaping *s) {
    const struct jnode *literal = container_literal(s->c);
    struct listed list;
    int rc = find_types(s);
    if (rc || literal)
        return rc ? rc : shape_container(s, literal);
    rc = shape_scalars(s);
    for (uint32_t i = 0; i < 2 * s->c->count && !rc; i++)
        if (listed_by(&s->c->parts[i / 2], i & 1, &list))
            return list_literals(s, list);
    rc = rc ? rc : spell_words(s);
    if (!rc && s->types & TYPE_ARRAY)
        rc = build_array(s->b, s->c, NULL, &s->shape.array);
    if (!rc && s->types & TYPE_OBJECT)
        rc = build_object(s->b, s->c, NULL, &s->shape.object);
    return rc;
}

int build_shape(struct build *b, const struct conjunction *c, uint32_t node) {
    struct shaping s = {.b = b, .c = c, .node = node};
    int rc = shape_all(&s);
    rc = rc ? rc : keep_shape(&s);
    if (s.shape.array)
        free(s.shape.array->prefix);
    free(s.shape.array);
    object_free(s.shape.object);
    return rc;
}
