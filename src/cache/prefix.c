/*
 * prefix.c - a radix tree: each node has the run of ids that leads to it from its parent.
 *
 *     invariants   a node but the root has ids; its children's runs begin with different ids and are sorted by them;
 *                  a node but the root has a value or at least two children
 *
 * So a node without a value is a fork. Nodes with values are in a ring in order of use, the root's place being between
 * the last used (next) and the one used longest ago (previous).
 */
#include "cache/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *parent, **children;
    uint32_t child_count, child_room;
    int32_t *ids;
    uint64_t count;
    void *value;
    struct node *next, *previous; /* by use; NULL without a value */
};

struct prefix_tree {
    struct node root;
    uint64_t values, ids;
};

/* ---------------------------------------------------------------------------------------- use */

static void unlink_use(struct node *n) {
    n->next->previous = n->previous;
    n->previous->next = n->next;
    n->next = n->previous = NULL;
}

static void link_use(struct prefix_tree *t, struct node *n) {
    n->next = t->root.next;
    n->previous = &t->root;
    n->next->previous = n;
    t->root.next = n;
}

/* -------------------------------------------------------------------------------------- children */

/* Where the child that begins with `id` is, or would be. */
static uint32_t place_of(const struct node *n, int32_t id) {
    uint32_t from = 0, to = n->child_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (n->children[middle]->ids[0] < id)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static struct node *child_of(const struct node *n, int32_t id) {
    uint32_t at = place_of(n, id);
    return at < n->child_count && n->children[at]->ids[0] == id ? n->children[at] : NULL;
}

static bool make_room(struct node *n) {
    if (n->child_count < n->child_room)
        return true;
    uint32_t room = n->child_room ? 2 * n->child_room : 2;
    struct node **children = realloc(n->children, room * sizeof(struct node *));
    if (!children)
        return false;
    n->children = children;
    n->child_room = room;
    return true;
}

/* There is room. */
static void add_child(struct node *n, struct node *child) {
    uint32_t at = place_of(n, child->ids[0]);
    memmove(n->children + at + 1, n->children + at, (n->child_count - at) * sizeof(struct node *));
    n->children[at] = child;
    n->child_count++;
    child->parent = n;
}

static void remove_child(struct node *n, struct node *child) {
    uint32_t at = place_of(n, child->ids[0]);
    assert(n->children[at] == child);
    memmove(n->children + at, n->children + at + 1, (n->child_count - at - 1) * sizeof(struct node *));
    n->child_count--;
}

static void free_node(struct node *n) {
    if (!n)
        return;
    free(n->children);
    free(n->ids);
    free(n);
}

static struct node *new_node(const int32_t *ids, uint64_t count) {
    struct node *n = calloc(1, sizeof(*n));
    int32_t *copy = malloc(count * sizeof(*copy));
    if (!n || !copy) {
        free(n);
        free(copy);
        return NULL;
    }
    memcpy(copy, ids, count * sizeof(*copy));
    n->ids = copy;
    n->count = count;
    return n;
}

/* ------------------------------------------------------------------------------------------ walk */

static uint64_t agreeing(const struct node *n, const int32_t *ids, uint64_t count) {
    uint64_t i = 0, most = n->count < count ? n->count : count;
    while (i < most && n->ids[i] == ids[i])
        i++;
    return i;
}

/* As far down as whole nodes agree; *at ids are used up. */
static struct node *descend(struct prefix_tree *t, const int32_t *ids, uint64_t count, uint64_t *at) {
    struct node *n = &t->root, *child;
    for (*at = 0; *at < count && (child = child_of(n, ids[*at])); n = child) {
        if (agreeing(child, ids + *at, count - *at) < child->count)
            break;
        *at += child->count;
    }
    return n;
}

struct prefix_match prefix_find(struct prefix_tree *t, const int32_t *ids, uint64_t count) {
    struct prefix_match m = {0};
    struct node *n = &t->root, *best = NULL;
    for (uint64_t at = 0;;) {
        if (n->value) {
            best = n;
            m = (struct prefix_match){n->value, at, 0};
        } else if (n->parent) {
            m.fork = at;
        }
        struct node *child = at < count ? child_of(n, ids[at]) : NULL;
        if (!child)
            break;
        uint64_t agree = agreeing(child, ids + at, count - at);
        at += agree;
        if (agree < child->count) {
            m.fork = at;
            break;
        }
        n = child;
    }
    if (best) {
        unlink_use(best);
        link_use(t, best);
    }
    return m;
}

/* ---------------------------------------------------------------------------------------- change */

/* Parts a node after its first `count` ids; the new upper part has no value. */
static struct node *split(struct node *n, uint64_t count) {
    struct node *upper = new_node(n->ids, count);
    if (!upper || !make_room(upper)) {
        free_node(upper);
        return NULL;
    }
    remove_child(n->parent, n);
    add_child(n->parent, upper);
    memmove(n->ids, n->ids + count, (n->count - count) * sizeof(*n->ids));
    n->count -= count;
    add_child(upper, n);
    return upper;
}

/* A node without value and with one child becomes part of it. Without memory for that it stays, which harms nobody. */
static void join(struct node *n) {
    struct node *child = n->children[0];
    int32_t *ids = realloc(child->ids, (n->count + child->count) * sizeof(*ids));
    if (!ids)
        return;
    memmove(ids + n->count, ids, child->count * sizeof(*ids));
    memcpy(ids, n->ids, n->count * sizeof(*ids));
    remove_child(n->parent, n);
    child->ids = ids;
    child->count += n->count;
    add_child(n->parent, child);
    free_node(n);
}

static void tidy(struct prefix_tree *t, struct node *n) {
    while (n->parent && !n->value && n->child_count == 0) {
        struct node *parent = n->parent;
        remove_child(parent, n);
        t->ids -= n->count;
        free_node(n);
        n = parent;
    }
    if (n->parent && !n->value && n->child_count == 1)
        join(n);
}

static int no_memory(struct prefix_tree *t, struct node *n, struct sonde_error *e) {
    tidy(t, n);
    return err_memory(e);
}

int prefix_put(struct prefix_tree *t, const int32_t *ids, uint64_t count, void *value, void **old,
               struct sonde_error *e) {
    uint64_t at;
    struct node *n = descend(t, ids, count, &at), *child = at < count ? child_of(n, ids[at]) : NULL;
    assert(count && value);
    if (child) {
        uint64_t inside = agreeing(child, ids + at, count - at);
        struct node *upper = split(child, inside);
        if (!upper)
            return err_memory(e);
        n = upper;
        at += inside;
    }
    if (at < count) {
        struct node *leaf = make_room(n) ? new_node(ids + at, count - at) : NULL;
        if (!leaf)
            return no_memory(t, n, e);
        add_child(n, leaf);
        t->ids += leaf->count;
        n = leaf;
    }
    *old = n->value;
    if (n->value)
        unlink_use(n);
    else
        t->values++;
    n->value = value;
    link_use(t, n);
    return SONDE_OK;
}

static void *take_value(struct prefix_tree *t, struct node *n) {
    void *value = n->value;
    unlink_use(n);
    n->value = NULL;
    t->values--;
    tidy(t, n);
    return value;
}

void *prefix_remove(struct prefix_tree *t, const int32_t *ids, uint64_t count) {
    uint64_t at;
    struct node *n = descend(t, ids, count, &at);
    return at == count && n->value ? take_value(t, n) : NULL;
}

void *prefix_remove_oldest(struct prefix_tree *t) {
    return t->values ? take_value(t, t->root.previous) : NULL;
}

/* -------------------------------------------------------------------------------- open and close */

int prefix_open(struct prefix_tree **tree, struct sonde_error *e) {
    struct prefix_tree *t = calloc(1, sizeof(*t));
    if (!t)
        return err_memory(e);
    t->root.next = t->root.previous = &t->root;
    *tree = t;
    return SONDE_OK;
}

void prefix_close(struct prefix_tree *t, void (*drop)(void *context, void *value), void *context) {
    if (!t)
        return;
    for (void *value; (value = prefix_remove_oldest(t));)
        if (drop)
            drop(context, value);
    free(t->root.children);
    free(t);
}

uint64_t prefix_values(const struct prefix_tree *t) {
    return t->values;
}

uint64_t prefix_ids(const struct prefix_tree *t) {
    return t->ids;
}

static bool check_node(const struct node *n, uint64_t *values, uint64_t *ids) {
    bool good = !n->parent || (n->count && (n->value || n->child_count > 1));
    good &= !n->parent || !n->value == !n->next;
    *values += n->value != NULL;
    *ids += n->count;
    for (uint32_t i = 0; i < n->child_count; i++)
        good &= n->children[i]->parent == n && (!i || n->children[i - 1]->ids[0] < n->children[i]->ids[0]) &&
                check_node(n->children[i], values, ids);
    return good;
}

bool prefix_check(const struct prefix_tree *t) {
    uint64_t values = 0, ids = 0, used = 0;
    bool good = check_node(&t->root, &values, &ids);
    for (const struct node *u = t->root.next; u != &t->root; u = u->next)
        used++;
    return good && values == t->values && ids == t->ids && used == values;
}
