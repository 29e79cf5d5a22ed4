/*
 * grammar_keys.c - which keys an object has had: sets of texts that share what they have in common.
 *
 * A set is a tree of nodes, one for each beginning that some text of it has; a node lists the bytes that go on from it
 * as cells in ascending order. Nodes and cells are records that are kept once, so a set with one more text shares all
 * but the way to it, and equal sets have one number. Children are made before their parents and have lower numbers.
 */
#include <stdlib.h>

#include "text/grammar_internal.h"

struct key_node {
    uint32_t cells, count; /* texts below, its own among them */
    uint32_t ends;         /* 1: a text ends here */
};

struct key_cell {
    uint32_t next, byte, node;
};

bool keys_open(struct key_sets *k) {
    static const struct key_node nothing;
    static const struct key_cell none;
    static const struct key_node unknown = {NONE, NONE, 0};
    k->nodes.record = sizeof(struct key_node);
    k->cells.record = sizeof(struct key_cell);
    return interned_id(&k->nodes, &nothing) == 0 && interned_id(&k->nodes, &unknown) == KEYS_UNKNOWN &&
           interned_id(&k->cells, &none) == 0;
}

void keys_release(struct key_sets *k) {
    interned_release(&k->nodes);
    interned_release(&k->cells);
}

static struct key_node node_at(const struct key_sets *k, uint32_t node) {
    return *(const struct key_node *)interned_at(&k->nodes, node);
}

static struct key_cell cell_at(const struct key_sets *k, uint32_t cell) {
    return *(const struct key_cell *)interned_at(&k->cells, cell);
}

uint32_t keys_step(const struct key_sets *k, uint32_t node, uint8_t byte) {
    if (node <= KEYS_UNKNOWN)
        return 0;
    for (uint32_t cell = node_at(k, node).cells; cell; cell = cell_at(k, cell).next)
        if (cell_at(k, cell).byte == byte)
            return cell_at(k, cell).node;
    return 0;
}

uint32_t keys_run(const struct key_sets *k, uint32_t node, const char *bytes, size_t count) {
    for (size_t i = 0; i < count && node; i++)
        node = keys_step(k, node, (uint8_t)bytes[i]);
    return node;
}

uint32_t keys_count(const struct key_sets *k, uint32_t node) {
    return node <= KEYS_UNKNOWN ? 0 : node_at(k, node).count;
}

bool keys_end(const struct key_sets *k, uint32_t node) {
    return node > KEYS_UNKNOWN && node_at(k, node).ends;
}

/* The list of cells with that of one byte put in or replaced. */
static uint32_t put_cell(struct key_sets *k, uint32_t list, uint8_t byte, uint32_t node) {
    struct key_cell before[256], cell = {list, byte, node};
    uint32_t count = 0, id;
    for (; cell.next && cell_at(k, cell.next).byte < byte; cell.next = before[count++].next)
        before[count] = cell_at(k, cell.next);
    if (cell.next && cell_at(k, cell.next).byte == byte)
        cell.next = cell_at(k, cell.next).next;
    id = interned_id(&k->cells, &cell);
    while (count-- && id != NONE) {
        before[count].next = id;
        id = interned_id(&k->cells, &before[count]);
    }
    return id;
}

/* `path` has the nodes of the text's beginnings, 0 where the set has none. */
static uint32_t add_along(struct key_sets *k, const uint32_t *path, const char *text, size_t count) {
    struct key_node node = node_at(k, path[count]);
    node.ends = 1;
    node.count++;
    uint32_t id = interned_id(&k->nodes, &node);
    for (size_t i = count; i-- && id != NONE;) {
        node = node_at(k, path[i]);
        node.count++;
        node.cells = put_cell(k, node.cells, (uint8_t)text[i], id);
        id = node.cells == NONE ? NONE : interned_id(&k->nodes, &node);
    }
    return id;
}

uint32_t keys_add(struct key_sets *k, uint32_t set, const char *text, size_t count) {
    uint32_t *path = malloc((count + 1) * sizeof(*path)), id = NONE;
    if (path) {
        path[0] = set;
        for (size_t i = 0; i < count; i++)
            path[i + 1] = keys_step(k, path[i], (uint8_t)text[i]);
        id = add_along(k, path, text, count);
    }
    free(path);
    return id;
}

/* Copies those nodes below `set` that are marked, children first. */
static uint32_t copy_marked(struct key_sets *to, const struct key_sets *from, uint32_t set, uint32_t *copies) {
    for (uint32_t id = KEYS_UNKNOWN + 1; id <= set; id++) {
        struct key_node node = node_at(from, id);
        uint32_t cells = 0;
        for (uint32_t cell = copies[id] ? node.cells : 0; cell && cells != NONE; cell = cell_at(from, cell).next)
            cells = put_cell(to, cells, (uint8_t)cell_at(from, cell).byte, copies[cell_at(from, cell).node]);
        node.cells = cells;
        if (copies[id])
            copies[id] = cells == NONE ? NONE : interned_id(&to->nodes, &node);
        if (copies[id] == NONE)
            return NONE;
    }
    return copies[set];
}

uint32_t keys_copy(struct key_sets *to, const struct key_sets *from, uint32_t set) {
    if (set <= KEYS_UNKNOWN)
        return set;
    uint32_t *copies = calloc(set + 1, sizeof(*copies)), id = NONE;
    if (copies) {
        copies[set] = 1;
        for (uint32_t i = set; i > KEYS_UNKNOWN; i--)
            for (uint32_t cell = copies[i] ? node_at(from, i).cells : 0; cell; cell = cell_at(from, cell).next)
                copies[cell_at(from, cell).node] = 1;
        id = copy_marked(to, from, set, copies);
    }
    free(copies);
    return id;
}
