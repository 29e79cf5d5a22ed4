/*
 * grammar_schema.c - what a JSON schema says becomes nodes: keywords, references, choices.
 *
 * A node stands for a conjunction: schemas that a value must fulfil together. Beside $ref and allOf, whose schemas
 * simply join, it is taken apart until only own keywords are left (PART_OWN), and choices (PART_CHOICE: anyOf and
 * oneOf), of which one at a time is spread over kids:
 *
 *     { {type: object, allOf: [A, {$ref: B}], anyOf: [C, D]} }   own {type}, own A, own B, choice [C, D]
 *     kids: own {type}, own A, own B, own C                      and the same with D
 *
 * Conjunctions are sets, and each has one node, so that recursive schemas become cycles. What is below a value (its
 * members and items) is a conjunction again: allOf needs no rules of its own for merging.
 *
 * A oneOf is a choice whose branches exclude each other. That is proved: the conjunction of any two must turn out to
 * have no values (grammar_finish.c).
 *
 * Every keyword is known and done, known and without effect on what is valid, or refused.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

enum { BUDGET = 30000000, NESTING = 128, PARTS_MAX = 2000 };

/* ------------------------------------------------------------------------------------------- errors */

/* Appends the way from `from` down to `node` as a JSON pointer. */
static bool find_place(const struct jnode *from, const struct jnode *node, struct buf *path) {
    if (from == node)
        return true;
    size_t before = path->len, index = 0;
    for (const struct jnode *n = from->first; n; n = n->next, index++) {
        buf_byte(path, '/');
        if (!n->key)
            buf_printf(path, "%zu", index);
        for (const char *c = n->key; c && c < n->key + n->key_length; c++) {
            if (*c == '~' || *c == '/')
                buf_string(path, *c == '~' ? "~0" : "~1");
            else
                buf_byte(path, *c);
        }
        if (find_place(n, node, path))
            return true;
        if (!path->failed)
            path->len = before;
    }
    return false;
}

static int fail(struct build *b, int code, const struct jnode *node, const char *end, const char *why, va_list args) {
    struct buf path = {0};
    char what[256];
    vsnprintf(what, sizeof(what), why, args);
    if (!b->root || !find_place(b->root, node, &path))
        buf_clear(&path);
    int rc = err_set(b->budget.e, code, "%s: #%s: %s%s", b->budget.what, path.len ? path.data : "", what, end);
    buf_release(&path);
    return rc;
}

int build_refuse(struct build *b, const struct jnode *node, const char *why, ...) {
    va_list args;
    va_start(args, why);
    int rc = fail(b, SONDE_ERROR_UNSUPPORTED, node, " is not supported", why, args);
    va_end(args);
    return rc;
}

int build_malformed(struct build *b, const struct jnode *node, const char *why, ...) {
    va_list args;
    va_start(args, why);
    int rc = fail(b, SONDE_ERROR_FORMAT, node, "", why, args);
    va_end(args);
    return rc;
}

/* ----------------------------------------------------------------------------------------- keywords */

enum keyword_class { KEYWORD_OWN, KEYWORD_COMBINES, KEYWORD_SAYS_NOTHING };

#define IS(kind)  (1u << (kind))
#define IS_SCHEMA (IS(JNODE_OBJECT) | IS(JNODE_TRUE) | IS(JNODE_FALSE))
#define IS_BOOL   (IS(JNODE_TRUE) | IS(JNODE_FALSE))
#define IS_ANY    (~0u)

static const struct keyword {
    const char *name;
    enum keyword_class class;
    unsigned kinds; /* of values it may have */
    const char *expected;
} keywords[] = {
    {"type", KEYWORD_OWN, IS(JNODE_STRING) | IS(JNODE_ARRAY), "a type or a list of types"},
    {"enum", KEYWORD_OWN, IS(JNODE_ARRAY), "a list"},
    {"const", KEYWORD_OWN, IS_ANY, ""},
    {"properties", KEYWORD_OWN, IS(JNODE_OBJECT), "an object"},
    {"required", KEYWORD_OWN, IS(JNODE_ARRAY), "a list of strings"},
    {"additionalProperties", KEYWORD_OWN, IS_SCHEMA, "a schema"},
    {"patternProperties", KEYWORD_OWN, IS(JNODE_OBJECT), "an object"},
    {"propertyNames", KEYWORD_OWN, IS_SCHEMA, "a schema"},
    {"minProperties", KEYWORD_OWN, IS(JNODE_NUMBER), "a whole number"},
    {"maxProperties", KEYWORD_OWN, IS(JNODE_NUMBER), "a whole number"},
    {"items", KEYWORD_OWN, IS_SCHEMA | IS(JNODE_ARRAY), "a schema"},
    {"prefixItems", KEYWORD_OWN, IS(JNODE_ARRAY), "a list of schemas"},
    {"additionalItems", KEYWORD_OWN, IS_SCHEMA, "a schema"},
    {"minItems", KEYWORD_OWN, IS(JNODE_NUMBER), "a whole number"},
    {"maxItems", KEYWORD_OWN, IS(JNODE_NUMBER), "a whole number"},
    {"uniqueItems", KEYWORD_OWN, IS_BOOL, "true or false"},
    {"minLength", KEYWORD_OWN, IS(JNODE_NUMBER), "a whole number"},
    {"maxLength", KEYWORD_OWN, IS(JNODE_NUMBER), "a whole number"},
    {"pattern", KEYWORD_OWN, IS(JNODE_STRING), "a string"},
    {"format", KEYWORD_OWN, IS(JNODE_STRING), "a string"},
    {"minimum", KEYWORD_OWN, IS(JNODE_NUMBER), "a number"},
    {"maximum", KEYWORD_OWN, IS(JNODE_NUMBER), "a number"},
    {"exclusiveMinimum", KEYWORD_OWN, IS(JNODE_NUMBER), "a number"},
    {"exclusiveMaximum", KEYWORD_OWN, IS(JNODE_NUMBER), "a number"},
    {"multipleOf", KEYWORD_OWN, IS(JNODE_NUMBER), "a number"},
    {"not", KEYWORD_OWN, IS_SCHEMA, "a schema"},
    {"$ref", KEYWORD_COMBINES, IS(JNODE_STRING), "a string"},
    {"allOf", KEYWORD_COMBINES, IS(JNODE_ARRAY), "a list of schemas"},
    {"anyOf", KEYWORD_COMBINES, IS(JNODE_ARRAY), "a list of schemas"},
    {"oneOf", KEYWORD_COMBINES, IS(JNODE_ARRAY), "a list of schemas"},
    {"$comment", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"$anchor", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"$defs", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"definitions", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"title", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"description", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"default", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"examples", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"example", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"deprecated", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"readOnly", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"writeOnly", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"contentEncoding", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"contentMediaType", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"contentSchema", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"discriminator", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"externalDocs", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
    {"xml", KEYWORD_SAYS_NOTHING, IS_ANY, ""},
};

const struct jnode *schema_member(const struct jnode *schema, const char *key) {
    size_t length = strlen(key);
    for (const struct jnode *n = schema->kind == JNODE_OBJECT ? schema->first : NULL; n; n = n->next)
        if (n->key_length == length && memcmp(n->key, key, length) == 0)
            return n;
    return NULL;
}

static bool is_key(const struct jnode *member, const char *key) {
    return member->key_length == strlen(key) && memcmp(member->key, key, member->key_length) == 0;
}

/* One member of a schema; *own is set if it is a keyword that limits values by itself. */
static int check_keyword(struct build *b, const struct jnode *schema, const struct jnode *member, bool *own) {
    for (size_t i = 0; i < COUNT_OF(keywords); i++) {
        if (!is_key(member, keywords[i].name))
            continue;
        *own |= keywords[i].class == KEYWORD_OWN;
        return keywords[i].kinds & IS(member->kind)
                   ? SONDE_OK
                   : build_malformed(b, member, "%s is expected", keywords[i].expected);
    }
    if (is_key(member, "$schema")) {
        bool known = member->kind == JNODE_STRING && strstr(member->text, "://json-schema.org/draft");
        return known ? SONDE_OK : build_refuse(b, member, "a dialect of one's own");
    }
    if (is_key(member, "$id") || is_key(member, "id")) /* which moves what references mean */
        return schema == b->root ? SONDE_OK : build_refuse(b, schema, "a schema with an $id inside another");
    if (member->key_length >= 2 && memcmp(member->key, "x-", 2) == 0)
        return SONDE_OK;
    return build_refuse(b, schema, "keyword \"%.*s\"", (int)min_u64(member->key_length, 100), member->key);
}

/* --------------------------------------------------------------------------------------- references */

static int hex_value(int c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One name of a JSON pointer in a URI: %HH, ~0 and ~1 are undone. */
static void decode_name(const char *s, size_t count, struct buf *name) {
    buf_clear(name);
    buf_string(name, "");
    for (size_t i = 0; i < count; i++) {
        char c = s[i];
        if (c == '%' && i + 2 < count && hex_value(s[i + 1]) >= 0 && hex_value(s[i + 2]) >= 0) {
            c = (char)(hex_value(s[i + 1]) * 16 + hex_value(s[i + 2]));
            i += 2;
        }
        if (c == '~' && i + 1 < count && (s[i + 1] == '0' || s[i + 1] == '1'))
            c = s[++i] == '0' ? '~' : '/';
        buf_byte(name, c);
    }
}

static const struct jnode *child_named(const struct jnode *node, const struct buf *name) {
    size_t index = 0;
    for (const struct jnode *n = node->first; n; n = n->next, index++) {
        char number[24];
        snprintf(number, sizeof(number), "%zu", index);
        if (node->kind == JNODE_OBJECT ? n->key_length == name->len && memcmp(n->key, name->data, name->len) == 0
                                       : strcmp(number, name->data) == 0)
            return n;
    }
    return NULL;
}

static const struct jnode *find_anchor(const struct jnode *from, const char *name) {
    if (jnode_says(jnode_get(from, "$anchor"), name))
        return from;
    const struct jnode *found = NULL;
    for (const struct jnode *n = from->first; n && !found; n = n->next)
        if (from->kind == JNODE_ARRAY || (!is_key(n, "enum") && !is_key(n, "const")))
            found = find_anchor(n, name);
    return found;
}

/* The schema that "#", "#/a/b" or "#anchor" means, behind the root's own $id or nothing. */
static int resolve(struct build *b, const struct jnode *ref, const struct jnode **target) {
    const struct jnode *id = jnode_get(b->root, "$id");
    const char *s = ref->text;
    if (jnode_is(id, JNODE_STRING) && strncmp(s, id->text, id->length) == 0 && s[id->length] == '#')
        s += id->length;
    if (*s != '#')
        return build_refuse(b, ref, "a reference to another document");
    const struct jnode *at = b->root;
    struct buf name = {0};
    if (s[1] && s[1] != '/') {
        at = find_anchor(b->root, s + 1);
    } else {
        for (s++; at && *s == '/'; s += strcspn(s, "/")) {
            s++;
            decode_name(s, strcspn(s, "/"), &name);
            at = name.failed ? NULL : child_named(at, &name);
        }
    }
    int rc = name.failed ? err_memory(b->budget.e) : SONDE_OK;
    if (!rc && !at)
        rc = build_malformed(b, ref, "the reference \"%.100s\" leads nowhere", ref->text);
    buf_release(&name);
    *target = at;
    return rc;
}

/* -------------------------------------------------------------------------------------- conjunctions */

int conjunction_add(struct build *b, struct conjunction *c, enum part_kind kind, const struct jnode *node) {
    int rc = budget_spend(&b->budget, c->count / 8 + 1);
    for (uint32_t i = 0; i < c->count; i++)
        if (c->parts[i].node == node && c->parts[i].kind == kind)
            return rc;
    if (rc || c->count >= PARTS_MAX)
        return rc ? rc : build_refuse(b, node, "a schema made of so many others");
    if (c->count == c->cap) {
        uint32_t cap = c->cap ? 2 * c->cap : 4;
        struct part *parts = realloc(c->parts, cap * sizeof(*parts));
        if (!parts)
            return err_memory(b->budget.e);
        c->parts = parts;
        c->cap = cap;
    }
    c->parts[c->count++] = (struct part){node, kind};
    return SONDE_OK;
}

void conjunction_release(struct conjunction *c) {
    free(c->parts);
    *c = (struct conjunction){0};
}

/* The schemas that are being expanded, innermost first: one that comes to itself means nothing. */
struct active {
    const struct active *outer;
    const struct jnode *schema;
    int depth;
};

static int expand_schema(struct build *b, const struct jnode *schema, const struct active *outer,
                         struct conjunction *to);

static int expand_list(struct build *b, const struct jnode *list, const struct active *active, struct conjunction *to) {
    if (!list->first)
        return build_malformed(b, list, "a list of schemas is expected");
    int rc = SONDE_OK;
    for (const struct jnode *s = list->first; s && !rc; s = s->next)
        rc = expand_schema(b, s, active, to);
    return rc;
}

static int note_exclusive(struct build *b, const struct jnode *schema, const struct jnode *branches) {
    const struct exclusive *known = (const struct exclusive *)(const void *)b->exclusive.data;
    for (size_t i = 0; i < b->exclusive.len / sizeof(*known); i++)
        if (known[i].branches == branches)
            return SONDE_OK;
    struct exclusive new = {schema, branches};
    buf_append(&b->exclusive, &new, sizeof(new));
    return b->exclusive.failed ? err_memory(b->budget.e) : SONDE_OK;
}

static int expand_member(struct build *b, const struct jnode *schema, const struct jnode *member,
                         const struct active *active, struct conjunction *to) {
    if (is_key(member, "$ref")) {
        const struct jnode *target = NULL;
        int rc = resolve(b, member, &target);
        return rc ? rc : expand_schema(b, target, active, to);
    }
    if (is_key(member, "allOf"))
        return expand_list(b, member, active, to);
    bool one = is_key(member, "oneOf");
    if (!one && !is_key(member, "anyOf"))
        return SONDE_OK;
    if (!member->first)
        return build_malformed(b, member, "a list of schemas is expected");
    if (member->count > GRAMMAR_BRANCHES)
        return build_refuse(b, member, "a choice among so many");
    int rc = one ? note_exclusive(b, schema, member) : SONDE_OK;
    return rc ? rc : conjunction_add(b, to, PART_CHOICE, member);
}

static int expand_schema(struct build *b, const struct jnode *schema, const struct active *outer,
                         struct conjunction *to) {
    struct active active = {outer, schema, outer ? outer->depth + 1 : 0};
    if (schema->kind == JNODE_TRUE)
        return SONDE_OK;
    if (schema->kind == JNODE_FALSE)
        return conjunction_add(b, to, PART_OWN, schema);
    if (schema->kind != JNODE_OBJECT)
        return build_malformed(b, schema, "a schema is expected");
    for (const struct active *a = outer; a; a = a->outer)
        if (a->schema == schema)
            return build_malformed(b, schema, "this schema refers to itself without end");
    if (active.depth > NESTING)
        return build_refuse(b, schema, "a schema nested so deeply");
    bool own = false;
    int rc = budget_spend(&b->budget, schema->count + 1);
    for (const struct jnode *m = schema->first; m && !rc; m = m->next)
        rc = check_keyword(b, schema, m, &own);
    for (const struct jnode *m = schema->first; m && !rc; m = m->next)
        rc = expand_member(b, schema, m, &active, to);
    return !rc && own ? conjunction_add(b, to, PART_OWN, schema) : rc;
}

static int compare_parts(const void *a, const void *b) {
    const struct part *x = a, *y = b;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return ((uintptr_t)x->node > (uintptr_t)y->node) - ((uintptr_t)x->node < (uintptr_t)y->node);
}

int build_expand(struct build *b, const struct conjunction *from, struct conjunction *to) {
    int rc = SONDE_OK;
    to->mode = from->mode;
    for (uint32_t i = 0; i < from->count && !rc; i++) {
        const struct part *part = &from->parts[i];
        rc = part->kind == PART_SCHEMA ? expand_schema(b, part->node, NULL, to)
                                       : conjunction_add(b, to, (enum part_kind)part->kind, part->node);
    }
    if (!rc && to->count)
        qsort(to->parts, to->count, sizeof(*to->parts), compare_parts);
    return rc;
}

/* ------------------------------------------------------------------------------------------- nodes */

static uint32_t hash_meaning(const struct conjunction *c) {
    uint64_t h = c->mode + 1;
    for (uint32_t i = 0; i < c->count; i++)
        h = (h ^ (uintptr_t)c->parts[i].node ^ c->parts[i].kind) * 0xff51afd7ed558ccdu;
    return (uint32_t)(h >> 32);
}

static bool same_meaning(const struct conjunction *a, const struct conjunction *b) {
    if (a->mode != b->mode || a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (a->parts[i].node != b->parts[i].node || a->parts[i].kind != b->parts[i].kind)
            return false;
    return true;
}

static int grow_nodes(struct build *b) {
    uint32_t cap = b->g->node_cap ? 2 * b->g->node_cap : 32;
    struct gnode *nodes = realloc(b->g->nodes, cap * sizeof(*nodes));
    if (!nodes)
        return err_memory(b->budget.e);
    b->g->nodes = nodes;
    struct conjunction *meaning = realloc(b->meaning, cap * sizeof(*meaning));
    if (!meaning)
        return err_memory(b->budget.e);
    b->meaning = meaning;
    b->g->node_cap = cap;
    return SONDE_OK;
}

/* Takes the meaning over. */
static int new_node(struct build *b, struct conjunction *meaning, uint32_t row) {
    if (b->g->node_count >= GRAMMAR_NODES)
        return err_set(b->budget.e, SONDE_ERROR_UNSUPPORTED, "%s: too large to be compiled", b->budget.what);
    int rc = b->g->node_count == b->g->node_cap ? grow_nodes(b) : SONDE_OK;
    if (rc)
        return rc;
    b->g->nodes[b->g->node_count] = (struct gnode){.height = NONE};
    b->meaning[b->g->node_count] = *meaning;
    *meaning = (struct conjunction){0};
    b->table[row] = ++b->g->node_count;
    return SONDE_OK;
}

int build_node(struct build *b, struct conjunction *c, uint32_t *node) {
    struct conjunction meaning = {0};
    int rc = build_expand(b, c, &meaning);
    uint32_t row = hash_meaning(&meaning) & b->table_mask;
    while (!rc && b->table[row] && !same_meaning(&b->meaning[b->table[row] - 1], &meaning))
        row = (row + 1) & b->table_mask;
    if (!rc && !b->table[row])
        rc = new_node(b, &meaning, row);
    if (!rc)
        *node = b->table[row] - 1;
    conjunction_release(&meaning);
    conjunction_release(c);
    return rc;
}

int build_kid(struct build *b, uint32_t node, uint32_t kid) {
    struct gnode *n = &b->g->nodes[node];
    if ((n->kid_count & (n->kid_count - 1)) == 0) { /* full at powers of two */
        uint32_t *kids = realloc(n->kids, (n->kid_count ? 2 * n->kid_count : 1) * sizeof(*kids));
        if (!kids)
            return err_memory(b->budget.e);
        n->kids = kids;
    }
    n->kids[n->kid_count++] = kid;
    return SONDE_OK;
}

/* One kid for each branch of a node's first choice, all else as it is. */
static int spread_choice(struct build *b, uint32_t node, uint32_t choice) {
    const struct jnode *branches = b->meaning[node].parts[choice].node;
    int rc = SONDE_OK;
    for (const struct jnode *branch = branches->first; branch && !rc; branch = branch->next) {
        struct conjunction c = {.mode = b->meaning[node].mode};
        uint32_t kid;
        for (uint32_t i = 0; i < b->meaning[node].count && !rc; i++)
            if (i != choice)
                rc = conjunction_add(b, &c, (enum part_kind)b->meaning[node].parts[i].kind,
                                     b->meaning[node].parts[i].node);
        if (!rc)
            rc = conjunction_add(b, &c, PART_SCHEMA, branch);
        if (rc)
            conjunction_release(&c);
        else
            rc = build_node(b, &c, &kid);
        if (!rc)
            rc = build_kid(b, node, kid);
    }
    return rc;
}

/* A node for each two branches of a oneOf, to be found without values. */
static int pair_branches(struct build *b, struct exclusive x) {
    int rc = SONDE_OK;
    for (const struct jnode *first = x.branches->first; first && !rc; first = first->next)
        for (const struct jnode *second = first->next; second && !rc; second = second->next) {
            struct conjunction c = {.mode = NODE_JSON};
            struct disjoint pair = {.branches = x.branches};
            rc = conjunction_add(b, &c, PART_OWN, x.schema);
            rc = rc ? rc : conjunction_add(b, &c, PART_SCHEMA, first);
            rc = rc ? rc : conjunction_add(b, &c, PART_SCHEMA, second);
            if (rc)
                conjunction_release(&c);
            else
                rc = build_node(b, &c, &pair.node);
            buf_append(&b->disjoint, &pair, sizeof(pair));
            if (!rc && b->disjoint.failed)
                rc = err_memory(b->budget.e);
        }
    return rc;
}

static int build_pending(struct build *b) {
    size_t paired = 0;
    int rc = SONDE_OK;
    while (!rc) {
        if (b->done < b->g->node_count) {
            uint32_t node = b->done++, choice = 0;
            while (choice < b->meaning[node].count && b->meaning[node].parts[choice].kind != PART_CHOICE)
                choice++;
            struct conjunction meaning = b->meaning[node]; /* whose place may move */
            rc = choice < meaning.count ? spread_choice(b, node, choice) : build_shape(b, &meaning, node);
        } else if (paired < b->exclusive.len / sizeof(struct exclusive)) {
            rc = pair_branches(b, ((const struct exclusive *)(const void *)b->exclusive.data)[paired++]);
        } else {
            break;
        }
    }
    buf_clear(&b->exclusive);
    return rc;
}

int build_schema(struct build *b, const struct jnode *schema, uint32_t mode, uint32_t *node) {
    struct conjunction c = {.mode = mode};
    b->root = schema;
    int rc = conjunction_add(b, &c, PART_SCHEMA, schema);
    if (!rc && mode == NODE_CALL)
        rc = conjunction_add(b, &c, PART_SCHEMA, build_builtin(b, "object"));
    if (rc)
        conjunction_release(&c);
    rc = rc ? rc : build_node(b, &c, node);
    return rc ? rc : build_pending(b);
}

/* ---------------------------------------------------------------------------------------- together */

const struct jnode *build_builtin(const struct build *b, const char *name) {
    return schema_member(b->builtin.root, name);
}

int build_keep(struct build *b, struct dfa *d, const struct dfa **kept) {
    struct text_grammar *g = b->g;
    if (g->automaton_count == g->automaton_cap) {
        uint32_t cap = g->automaton_cap ? 2 * g->automaton_cap : 32;
        struct dfa **all = realloc(g->automata, cap * sizeof(struct dfa *));
        if (!all) {
            dfa_free(d);
            return err_memory(b->budget.e);
        }
        g->automata = all;
        g->automaton_cap = cap;
    }
    g->automata[g->automaton_count++] = d;
    *kept = d;
    return SONDE_OK;
}

static int open_texts(struct build *b) {
    static const char any[] = "^[^]*$", plain[] = "^[^\\x00-\\x1f\"\\\\\\u2028\\u2029]*$";
    static const char no_tag[] = "^[^<\\n\\r\\u2028\\u2029]*$";
    static const char tag[] = "</?[|｜]{1,3}DSML[|｜]";
    struct dfa *all = NULL, *tagged = NULL, *untagged = NULL;
    int rc = dfa_regex(any, strlen(any), "any", &b->budget, &all);
    rc = rc ? rc : build_keep(b, all, &b->g->texts);
    rc = rc ? rc : dfa_regex(plain, strlen(plain), "plain", &b->budget, &b->plain);
    rc = rc ? rc : dfa_regex(no_tag, strlen(no_tag), "plain", &b->budget, &b->plain_value);
    rc = rc ? rc : dfa_regex(tag, strlen(tag), "tag", &b->budget, &tagged);
    rc = rc ? rc : dfa_product(b->g->texts, tagged, DFA_MINUS, &b->budget, &untagged);
    dfa_free(tagged);
    return rc ? rc : build_keep(b, untagged, &b->g->values);
}

int build_open(struct build *b, struct text_grammar *g, const char *what, struct sonde_error *e) {
    static const char builtin[] =
        "{\"any\": {}, \"object\": {\"type\": \"object\"}, \"string\": {\"type\": \"string\"},"
        "\"other\": {\"type\": [\"null\", \"boolean\", \"number\", \"array\", \"object\"]},"
        "\"none\": {\"type\": \"object\", \"additionalProperties\": false}}";
    *b = (struct build){.g = g, .budget = {.work = BUDGET, .what = what, .e = e}, .table_mask = 4 * GRAMMAR_NODES - 1};
    b->table = calloc((size_t)b->table_mask + 1, sizeof(*b->table));
    if (!b->table)
        return err_memory(e);
    int rc = jtree_parse(builtin, strlen(builtin), "builtin", &b->builtin, e);
    return rc ? rc : open_texts(b);
}

void build_release(struct build *b) {
    for (uint32_t i = 0; b->meaning && i < b->g->node_count; i++)
        conjunction_release(&b->meaning[i]);
    free(b->meaning);
    free(b->table);
    buf_release(&b->exclusive);
    buf_release(&b->disjoint);
    buf_release(&b->patterns);
    jtree_release(&b->builtin);
    dfa_free(b->plain);
    dfa_free(b->plain_value);
}
