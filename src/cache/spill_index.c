/*
 * spill_index.c - which pieces there are, and which of them is worth least.
 *
 *     invariants   a key is in one place, and one slot leads there; pieces on disk are in one of two orders, each
 * sorted by last use; `lengths` counts the pieces on disk and has room for as many lengths as there are places, so that
 * storing a piece cannot fail for memory
 *
 * The pieces used once and those used again are in orders of their own, each with the sum of its bytes: whatever the
 * rule takes next, it is the first of one of the two. A piece takes 72 bytes, its length 16 at most, its slot 8 to 16.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cache/spill_internal.h"

void spill_index_init(struct spill_index *x) {
    struct spill_order empty = {SPILL_NONE, SPILL_NONE, 0};
    *x = (struct spill_index){.unused = SPILL_NONE, .once = empty, .again = empty};
}

void spill_index_release(struct spill_index *x) {
    free(x->pieces);
    free(x->slots);
    free(x->lengths);
    spill_index_init(x);
}

/* ---------------------------------------------------------------------------------------- slots */

static bool same_key(const struct spill_key *a, const struct spill_key *b) {
    return a->kind == b->kind && a->length == b->length && a->hash[0] == b->hash[0] && a->hash[1] == b->hash[1];
}

static uint32_t home_of(const struct spill_index *x, const struct spill_key *key) {
    uint64_t words[4] = {key->kind, key->length, key->hash[0], key->hash[1]};
    return (uint32_t)XXH3_64bits(words, sizeof(words)) & (x->slot_count - 1);
}

static uint32_t following(const struct spill_index *x, uint32_t slot) {
    return (slot + 1) & (x->slot_count - 1);
}

/* The slot that leads to the key, or the empty one where it would be. */
static uint32_t slot_of(const struct spill_index *x, const struct spill_key *key) {
    uint32_t slot = home_of(x, key);
    while (x->slots[slot] && !same_key(&x->pieces[x->slots[slot] - 1].key, key))
        slot = following(x, slot);
    return slot;
}

static void fill_slots(struct spill_index *x) {
    memset(x->slots, 0, x->slot_count * sizeof(*x->slots));
    for (uint32_t at = 0; at < x->top; at++)
        if (x->pieces[at].key.kind)
            x->slots[slot_of(x, &x->pieces[at].key)] = at + 1;
}

/* Empties a slot and moves those behind it up, as far as they would no longer be found. */
static void empty_slot(struct spill_index *x, uint32_t slot) {
    uint32_t mask = x->slot_count - 1;
    for (uint32_t from = following(x, slot); x->slots[from]; from = following(x, from)) {
        uint32_t home = home_of(x, &x->pieces[x->slots[from] - 1].key);
        if (((from - home) & mask) < ((from - slot) & mask))
            continue;
        x->slots[slot] = x->slots[from];
        slot = from;
    }
    x->slots[slot] = 0;
}

uint32_t spill_index_find(const struct spill_index *x, const struct spill_key *key) {
    return x->slot_count ? x->slots[slot_of(x, key)] - 1 : SPILL_NONE; /* of an empty slot: 0 - 1 */
}

/* ------------------------------------------------------------------------------------------ room */

static bool grow_places(struct spill_index *x) {
    uint32_t room = x->room + x->room / 2 + 64;
    if (room > UINT32_MAX / 4)
        return false;
    struct spill_length *lengths = realloc(x->lengths, room * sizeof(*lengths));
    if (!lengths)
        return false;
    x->lengths = lengths;
    struct spill_piece *pieces = realloc(x->pieces, room * sizeof(*pieces));
    if (!pieces)
        return false;
    x->pieces = pieces;
    x->room = room;
    return true;
}

static bool grow_slots(struct spill_index *x) {
    uint32_t count = x->slot_count ? 2 * x->slot_count : 128;
    uint32_t *slots = realloc(x->slots, count * sizeof(*slots));
    if (!slots)
        return false;
    x->slots = slots;
    x->slot_count = count;
    fill_slots(x);
    return true;
}

int spill_index_reserve(struct spill_index *x, struct sonde_error *e) {
    if (x->unused != SPILL_NONE)
        return SONDE_OK;
    if (x->top == x->room && !grow_places(x))
        return err_memory(e);
    if (x->top >= x->slot_count / 2 && !grow_slots(x))
        return err_memory(e);
    return SONDE_OK;
}

/* --------------------------------------------------------------------------------------- lengths */

static int compare(uint64_t a, uint64_t b) {
    return (a > b) - (a < b);
}

/* Where this kind and length are, or would be. */
static uint32_t length_place(const struct spill_index *x, uint8_t kind, uint64_t length) {
    uint32_t from = 0, to = x->length_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        const struct spill_length *l = &x->lengths[middle];
        if (l->kind < kind || (l->kind == kind && l->length < length))
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static void count_length(struct spill_index *x, const struct spill_key *key) {
    uint32_t at = length_place(x, key->kind, key->length);
    struct spill_length *l = &x->lengths[at];
    if (at == x->length_count || l->kind != key->kind || l->length != key->length) {
        memmove(l + 1, l, (x->length_count++ - at) * sizeof(*l));
        *l = (struct spill_length){key->length, 0, key->kind};
    }
    l->pieces++;
}

static void discount_length(struct spill_index *x, const struct spill_key *key) {
    uint32_t at = length_place(x, key->kind, key->length);
    struct spill_length *l = &x->lengths[at];
    assert(at < x->length_count && l->kind == key->kind && l->length == key->length);
    if (--l->pieces == 0)
        memmove(l, l + 1, (--x->length_count - at) * sizeof(*l));
}

int spill_index_lengths(const struct spill_index *x, uint8_t kind, uint64_t most, uint64_t **lengths, size_t *count,
                        struct sonde_error *e) {
    uint32_t from = length_place(x, kind, 0), to = length_place(x, kind, most);
    if (to < x->length_count && x->lengths[to].kind == kind && x->lengths[to].length == most)
        to++;
    uint64_t *out = to > from ? malloc((to - from) * sizeof(*out)) : NULL;
    if (to > from && !out)
        return err_memory(e);
    for (uint32_t i = from; i < to; i++)
        out[i - from] = x->lengths[i].length;
    *lengths = out;
    *count = to - from;
    return SONDE_OK;
}

/* ----------------------------------------------------------------------------------------- order */

/* Less than 0: a goes before b. Of pieces used at the same time greater letters go first, then longer texts, which
 * fewer others begin with. */
static int by_use(const void *left, const void *right) {
    const struct spill_piece *a = left, *b = right;
    int order = (a->used > b->used) - (a->used < b->used);
    order = order ? order : b->key.kind - a->key.kind;
    order = order ? order : compare(b->key.length, a->key.length);
    order = order ? order : compare(a->key.hash[0], b->key.hash[0]);
    return order ? order : compare(a->key.hash[1], b->key.hash[1]);
}

static int by_length(const void *left, const void *right) {
    const struct spill_piece *a = left, *b = right;
    int order = a->key.kind - b->key.kind;
    return order ? order : compare(a->key.length, b->key.length);
}

static struct spill_order *order_of(struct spill_index *x, const struct spill_piece *p) {
    return p->again ? &x->again : &x->once;
}

/* Few were used between a piece's last use and now, so its place is looked for from the end. */
static void link_use(struct spill_index *x, uint32_t at) {
    struct spill_piece *p = &x->pieces[at];
    struct spill_order *o = order_of(x, p);
    p->next = SPILL_NONE;
    p->previous = o->last;
    while (p->previous != SPILL_NONE && by_use(&x->pieces[p->previous], p) > 0) {
        p->next = p->previous;
        p->previous = x->pieces[p->next].previous;
    }
    *(p->previous == SPILL_NONE ? &o->first : &x->pieces[p->previous].next) = at;
    *(p->next == SPILL_NONE ? &o->last : &x->pieces[p->next].previous) = at;
    o->bytes += p->bytes;
}

static void unlink_use(struct spill_index *x, uint32_t at) {
    struct spill_piece *p = &x->pieces[at];
    struct spill_order *o = order_of(x, p);
    *(p->previous == SPILL_NONE ? &o->first : &x->pieces[p->previous].next) = p->next;
    *(p->next == SPILL_NONE ? &o->last : &x->pieces[p->next].previous) = p->previous;
    o->bytes -= p->bytes;
}

uint64_t spill_index_bytes(const struct spill_index *x) {
    return x->once.bytes + x->again.bytes;
}

uint32_t spill_index_victim(const struct spill_index *x, uint64_t limit) {
    uint32_t once = x->once.first, again = x->again.first;
    if (once == SPILL_NONE || again == SPILL_NONE)
        return once == SPILL_NONE ? again : once;
    if (x->once.bytes > limit / 4)
        return once;
    return by_use(&x->pieces[once], &x->pieces[again]) < 0 ? once : again;
}

/* ---------------------------------------------------------------------------------------- pieces */

uint32_t spill_index_add(struct spill_index *x, const struct spill_key *key, int64_t used, struct spill_write *write) {
    uint32_t at = x->unused;
    if (at == SPILL_NONE)
        at = x->top++;
    else
        x->unused = x->pieces[at].next;
    x->pieces[at] = (struct spill_piece){.key = *key, .used = used, .write = write};
    x->slots[slot_of(x, key)] = at + 1;
    return at;
}

void spill_index_stored(struct spill_index *x, uint32_t at, uint64_t bytes) {
    x->pieces[at].bytes = bytes;
    x->pieces[at].write = NULL;
    link_use(x, at);
    count_length(x, &x->pieces[at].key);
}

void spill_index_use(struct spill_index *x, uint32_t at, int64_t now) {
    struct spill_piece *p = &x->pieces[at];
    if (!p->write)
        unlink_use(x, at);
    p->used = now;
    p->again = true;
    if (!p->write)
        link_use(x, at);
}

void spill_index_remove(struct spill_index *x, uint32_t at) {
    struct spill_piece *p = &x->pieces[at];
    if (!p->write) {
        unlink_use(x, at);
        discount_length(x, &p->key);
    }
    empty_slot(x, slot_of(x, &p->key));
    *p = (struct spill_piece){.next = x->unused};
    x->unused = at;
}

int spill_index_push(struct spill_index *x, const struct spill_piece *piece, struct sonde_error *e) {
    if (spill_index_reserve(x, e))
        return SONDE_ERROR_MEMORY;
    x->pieces[x->top++] = *piece;
    return SONDE_OK;
}

/* Sorted first by length, so that each new length goes to the end, then by use, so that each piece does. */
void spill_index_build(struct spill_index *x) {
    if (x->top == 0)
        return;
    qsort(x->pieces, x->top, sizeof(*x->pieces), by_length);
    for (uint32_t at = 0; at < x->top; at++)
        count_length(x, &x->pieces[at].key);
    qsort(x->pieces, x->top, sizeof(*x->pieces), by_use);
    for (uint32_t at = 0; at < x->top; at++)
        link_use(x, at);
    fill_slots(x);
}
