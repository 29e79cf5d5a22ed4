/*
 * grammar_finish.c - which nodes have values at all, and what follows from it.
 *
 * The height of a node is how many containers its lowest value nests; NONE if it has no value. Heights are a least
 * fixpoint: all begin at NONE, and what needs a member or item of height h has h + 1. So a schema whose every value
 * would have to be infinite has none, and one that may end has the height it can end at.
 *
 * Then members and items without values are taken out, so that no key is begun that could not go on, and for each
 * state of an automaton of keys it is noted which names, and how many other keys, can still come of it.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

enum { OTHERS_MANY = ENDLESS - 1 };

static uint32_t node_height(const struct build *b, uint32_t node) {
    return node == NONE ? NONE : b->g->nodes[node].height;
}

static uint32_t class_height(const struct build *b, const struct key_class *class) {
    uint32_t value = node_height(b, class->value), text = node_height(b, class->text);
    return value < text ? value : text;
}

/* -------------------------------------------------------------------------------------- other keys */

struct counting {
    const struct dfa *keys;
    uint8_t *others;
    uint32_t weight[256]; /* bytes of each class */
    uint32_t names;
    const bool *usable; /* classes that count; NULL: all */
};

/* How many keys without a name come of a state, as far as is known; at most OTHERS_MANY. */
static uint32_t sum_others(const struct counting *c, uint32_t state) {
    uint32_t label = c->keys->label[state], sum = label > c->names && (!c->usable || c->usable[label - 1]);
    for (uint32_t k = 0; k < c->keys->classes && sum < OTHERS_MANY; k++) {
        uint32_t to = c->keys->next[state * c->keys->classes + k];
        if (to != DFA_DEAD)
            sum += c->weight[k] * c->others[to];
    }
    return sum < OTHERS_MANY ? sum : OTHERS_MANY;
}

/* Counts up to OTHERS_MANY, which stands for at least so many; *others has a byte a state. A cycle reaches it. */
static int count_others(struct build *b, const struct object_part *o, const bool *usable, uint8_t **others) {
    struct counting c = {.keys = o->keys, .others = calloc(o->keys->count + 1, 1), .names = o->names, .usable = usable};
    int rc = c.others ? SONDE_OK : err_memory(b->budget.e);
    for (int byte = 0; byte < 256; byte++)
        c.weight[o->keys->class_of[byte]]++;
    for (bool changed = true; changed && !rc;) {
        rc = budget_spend(&b->budget, (uint64_t)o->keys->count * 4 + 1);
        changed = false;
        for (uint32_t s = o->keys->count; s-- && !rc;) {
            uint32_t sum = sum_others(&c, s);
            changed |= sum != c.others[s];
            c.others[s] = (uint8_t)sum;
        }
    }
    if (rc)
        free(c.others);
    else
        *others = c.others;
    return rc;
}

/* --------------------------------------------------------------------------------------- heights */

static uint32_t array_height(const struct build *b, const struct array_part *a) {
    uint32_t highest = 0;
    for (uint32_t i = 0; i < a->prefix_count && i < a->min; i++) {
        uint32_t h = node_height(b, a->prefix[i]);
        if (h == NONE)
            return NONE;
        highest = h > highest ? h : highest;
    }
    if (a->min > a->prefix_count) {
        uint32_t h = node_height(b, a->items);
        if (h == NONE)
            return NONE;
        highest = h > highest ? h : highest;
    }
    return highest + 1;
}

/* Classes that have both keys and values. */
static void usable_classes(const struct build *b, const struct object_part *o, bool *usable) {
    memset(usable, 0, o->class_count);
    for (uint32_t s = 0; s < o->keys->count; s++)
        if (o->keys->label[s])
            usable[o->keys->label[s] - 1] = true;
    for (uint32_t i = 0; i < o->class_count; i++)
        usable[i] &= class_height(b, &o->classes[i]) != NONE;
}

/* True if there are enough different keys for the least members. */
static int enough_keys(struct build *b, struct object_part *o, const bool *usable, bool *enough) {
    uint32_t named = 0;
    uint8_t *others = NULL;
    for (uint32_t i = 0; i < o->names; i++)
        named += usable[i];
    *enough = o->min <= named;
    if (*enough || o->names == o->class_count)
        return SONDE_OK;
    int rc = count_others(b, o, usable, &others);
    *enough = !rc && (others[0] == OTHERS_MANY || named + others[0] >= o->min);
    free(others);
    return rc;
}

static int object_height(struct build *b, struct object_part *o, uint32_t *height) {
    bool *usable = malloc(o->class_count + 1), enough = false;
    uint32_t highest = 0;
    int rc = usable ? budget_spend(&b->budget, o->keys->count / 8 + 1) : err_memory(b->budget.e);
    *height = NONE;
    if (!rc)
        usable_classes(b, o, usable);
    rc = rc ? rc : enough_keys(b, o, usable, &enough);
    for (uint32_t i = 0; i < o->class_count && !rc; i++) {
        bool required = i < o->names && (o->required[i / 64] >> i % 64 & 1);
        enough &= usable[i] || !required;
        uint32_t h = class_height(b, &o->classes[i]);
        if (usable[i] && (required || o->min > o->required_count))
            highest = h > highest ? h : highest;
    }
    if (!rc && enough)
        *height = highest + 1;
    free(usable);
    return rc;
}

/* *changed is set if a part has a height that had none. */
static int shape_height(struct build *b, struct shape *s, uint32_t *height, bool *changed) {
    int rc = SONDE_OK;
    *height = s->scalars[0] || s->scalars[1] || s->string.texts ? 0 : NONE;
    if (s->array && s->array->height == NONE) {
        s->array->height = array_height(b, s->array);
        *changed |= s->array->height != NONE;
    }
    if (s->object && s->object->height == NONE) {
        rc = object_height(b, s->object, &s->object->height);
        *changed |= s->object->height != NONE;
    }
    if (s->array && s->array->height < *height)
        *height = s->array->height;
    if (s->object && s->object->height < *height)
        *height = s->object->height;
    return rc;
}

/* A height that was found stays: it is above those it was made of, which is all that is asked of it. */
static int find_heights(struct build *b) {
    for (bool changed = true; changed;) {
        int rc = budget_spend(&b->budget, b->g->node_count);
        changed = false;
        for (uint32_t i = b->g->node_count; i-- && !rc;) {
            struct gnode *n = &b->g->nodes[i];
            uint32_t height = NONE;
            if (n->own)
                rc = shape_height(b, n->own, &height, &changed);
            for (uint32_t k = 0; k < n->kid_count && n->height == NONE; k++)
                height = node_height(b, n->kids[k]) < height ? node_height(b, n->kids[k]) : height;
            if (n->height == NONE && height != NONE) {
                n->height = height;
                changed = true;
            }
        }
        if (rc)
            return rc;
    }
    return SONDE_OK;
}

int build_check(struct build *b, uint32_t node) {
    const struct disjoint *pairs = (const struct disjoint *)(const void *)b->disjoint.data;
    int rc = find_heights(b);
    for (size_t i = 0; i < b->disjoint.len / sizeof(*pairs) && !rc; i++)
        if (node_height(b, pairs[i].node) != NONE)
            rc = build_refuse(b, pairs[i].branches, "a oneOf of which two branches can hold at once");
    buf_clear(&b->disjoint);
    if (!rc && node_height(b, node) == NONE)
        rc = build_malformed(b, b->root, "no value fits this schema");
    return rc;
}

/* -------------------------------------------------------------------------------------- dead ends */

static void prune_array(struct build *b, struct array_part *a) {
    for (uint32_t i = 0; i < a->prefix_count; i++)
        if (i < a->max && node_height(b, a->prefix[i]) == NONE)
            a->max = i;
    if (node_height(b, a->items) == NONE && a->max > a->prefix_count)
        a->max = a->prefix_count;
}

static int prune_keys(struct build *b, struct object_part *o) {
    struct dfa *keys = (struct dfa *)(uintptr_t)o->keys;
    for (uint32_t s = 0; s < keys->count; s++)
        if (keys->label[s] && class_height(b, &o->classes[keys->label[s] - 1]) == NONE)
            keys->label[s] = 0;
    return dfa_trim(keys, &b->budget);
}

/* Names that each state may still become. */
static int find_reach(struct build *b, struct object_part *o) {
    const struct dfa *keys = o->keys;
    o->reach = calloc((size_t)keys->count * o->words + 1, sizeof(*o->reach));
    if (!o->reach)
        return err_memory(b->budget.e);
    for (bool changed = o->words > 0; changed;) {
        int rc = budget_spend(&b->budget, (uint64_t)keys->count * (o->words + 4));
        if (rc)
            return rc;
        changed = false;
        for (uint32_t s = keys->count; s--;) {
            uint64_t *row = o->reach + (size_t)s * o->words;
            uint32_t name = keys->label[s] - 1;
            if (keys->label[s] && name < o->names && !(row[name / 64] >> name % 64 & 1)) {
                row[name / 64] |= 1ull << name % 64;
                changed = true;
            }
            for (uint32_t c = 0; c < keys->classes; c++) {
                uint32_t to = keys->next[s * keys->classes + c];
                for (uint32_t w = 0; to != DFA_DEAD && w < o->words; w++) {
                    uint64_t more = o->reach[(size_t)to * o->words + w] & ~row[w];
                    row[w] |= more;
                    changed |= more != 0;
                }
            }
        }
    }
    return SONDE_OK;
}

/* A state has keys without end if it cannot be taken away leaf by leaf, as those can that have only so many. */
static int find_others(struct build *b, struct object_part *o) {
    int rc = count_others(b, o, NULL, &o->others);
    uint8_t *ends = rc ? NULL : calloc(o->keys->count + 1, 1);
    if (!rc && !ends)
        rc = err_memory(b->budget.e);
    for (bool changed = true; changed && !rc;) {
        rc = budget_spend(&b->budget, (uint64_t)o->keys->count * 4 + 1);
        changed = false;
        for (uint32_t s = o->keys->count; s-- && !rc;) {
            bool leaf = !ends[s];
            for (uint32_t c = 0; c < o->keys->classes && leaf; c++) {
                uint32_t to = o->keys->next[s * o->keys->classes + c];
                leaf = to == DFA_DEAD || ends[to] || !o->others[to];
            }
            if (leaf)
                ends[s] = changed = true;
        }
    }
    for (uint32_t s = 0; s < o->keys->count && !rc; s++)
        if (!ends[s])
            o->others[s] = ENDLESS;
    free(ends);
    return rc;
}

static int finish_object(struct build *b, struct object_part *o) {
    int rc = prune_keys(b, o);
    rc = rc ? rc : find_reach(b, o);
    rc = rc ? rc : find_others(b, o);
    uint8_t *endless = rc ? NULL : malloc(o->keys->count + 1);
    if (!rc && !endless)
        rc = err_memory(b->budget.e);
    for (uint32_t s = 0; s < o->keys->count && !rc; s++)
        endless[s] = o->others[s] == ENDLESS;
    if (!rc)
        rc = dfa_room(o->keys, b->plain, endless, &b->budget, &o->room);
    free(endless);
    b->g->words = o->words > b->g->words ? o->words : b->g->words;
    return rc;
}

static int finish_shape(struct build *b, struct shape *s, uint32_t mode) {
    const struct dfa *plain = mode == NODE_VALUE ? b->plain_value : b->plain;
    int rc = SONDE_OK;
    if (s->array && s->array->height == NONE) {
        free(s->array->prefix);
        free(s->array);
        s->array = NULL;
    }
    if (s->object && s->object->height == NONE) {
        object_free(s->object);
        s->object = NULL;
    }
    if (s->array)
        prune_array(b, s->array);
    if (s->object)
        rc = finish_object(b, s->object);
    if (!rc && s->string.texts)
        rc = dfa_room(s->string.texts, plain, NULL, &b->budget, &s->string.room);
    return rc;
}

/* -------------------------------------------------------------------------------------- reaching */

struct reaching {
    struct build *b;
    uint8_t *reached;
    uint32_t *list, count;
};

static void reach(struct reaching *r, uint32_t node) {
    if (node_height(r->b, node) != NONE && !r->reached[node]) {
        r->reached[node] = 1;
        r->list[r->count++] = node;
    }
}

static void reach_from(struct reaching *r, const struct gnode *n) {
    for (uint32_t i = 0; i < n->kid_count; i++)
        reach(r, n->kids[i]);
    for (uint32_t i = 0; n->own && n->own->array && i < n->own->array->prefix_count; i++)
        reach(r, n->own->array->prefix[i]);
    if (n->own && n->own->array)
        reach(r, n->own->array->items);
    for (uint32_t i = 0; n->own && n->own->object && i < n->own->object->class_count; i++) {
        reach(r, n->own->object->classes[i].value);
        reach(r, n->own->object->classes[i].text);
    }
}

static bool has_values(const struct shape *s) {
    return s->scalars[0] || s->scalars[1] || s->string.texts || s->array || s->object;
}

/* All shapes of a node and of its kids. Kids may lead back, as left recursion does. */
static int flatten(struct build *b, uint32_t node, uint32_t *seen, uint32_t *stack) {
    struct gnode *n = &b->g->nodes[node];
    uint32_t depth = 0, count = 0;
    struct shape **shapes = NULL;
    for (stack[depth++] = node, seen[node] = node + 1; depth;) {
        struct gnode *at = &b->g->nodes[stack[--depth]];
        if (at->own && has_values(at->own)) {
            struct shape **more = realloc(shapes, (count + 1) * sizeof(struct shape *));
            if (!more) {
                free(shapes);
                return err_memory(b->budget.e);
            }
            shapes = more;
            shapes[count++] = at->own;
        }
        for (uint32_t i = at->kid_count; i--;)
            if (seen[at->kids[i]] != node + 1 && node_height(b, at->kids[i]) != NONE) {
                seen[at->kids[i]] = node + 1;
                stack[depth++] = at->kids[i];
            }
    }
    n->shapes = shapes;
    n->shape_count = count;
    return budget_spend(&b->budget, 1 + count);
}

int build_finish(struct build *b, const uint32_t *roots, size_t count) {
    uint32_t nodes = b->g->node_count, *seen = calloc(nodes + 1, sizeof(*seen));
    uint32_t *stack = malloc((nodes + 1) * sizeof(*stack));
    struct reaching r = {.b = b, .reached = calloc(nodes + 1, 1), .list = malloc((nodes + 1) * sizeof(*r.list))};
    int rc = seen && stack && r.reached && r.list ? SONDE_OK : err_memory(b->budget.e);
    for (size_t i = 0; i < count && !rc; i++)
        reach(&r, roots[i]);
    for (uint32_t i = 0; i < r.count && !rc; i++) {
        struct gnode *n = &b->g->nodes[r.list[i]];
        if (n->own)
            rc = finish_shape(b, n->own, b->meaning[r.list[i]].mode);
        reach_from(&r, n);
    }
    for (uint32_t i = 0; i < r.count && !rc; i++)
        rc = flatten(b, r.list[i], seen, stack);
    free(seen);
    free(stack);
    free(r.reached);
    free(r.list);
    return rc;
}
