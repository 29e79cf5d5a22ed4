/*
 * grammar_dfa.c - automata over bytes: products, words, lengths; and records that are kept once.
 *
 * Products are explored from the pair of starts, so only pairs that can be reached cost anything, and each costs its
 * budget. Byte classes of a product are the pairs of classes that occur together.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

/* --------------------------------------------------------------------------------------- records */

static uint32_t hash_record(const uint8_t *bytes, size_t count) {
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < count; i += 4) {
        uint32_t word = 0;
        memcpy(&word, bytes + i, min_u64(4, count - i));
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 16);
}

static bool interned_grow(struct interned *t) {
    uint32_t cap = t->cap ? 2 * t->cap : 64;
    uint8_t *data = cap < 1u << 30 ? realloc(t->data, cap * t->record) : NULL;
    if (!data)
        return false;
    t->data = data;
    uint32_t *rows = calloc((size_t)2 * cap, sizeof(*rows));
    if (!rows)
        return false;
    free(t->rows);
    t->rows = rows;
    t->cap = cap;
    t->mask = 2 * cap - 1;
    for (uint32_t id = 0; id < t->count; id++) {
        uint32_t row = hash_record(t->data + id * t->record, t->record) & t->mask;
        while (rows[row])
            row = (row + 1) & t->mask;
        rows[row] = id + 1;
    }
    return true;
}

uint32_t interned_id(struct interned *t, const void *record) {
    if (t->count == t->cap && !interned_grow(t))
        return NONE;
    uint32_t row = hash_record(record, t->record) & t->mask;
    for (; t->rows[row]; row = (row + 1) & t->mask)
        if (memcmp(t->data + (t->rows[row] - 1) * t->record, record, t->record) == 0)
            return t->rows[row] - 1;
    memcpy(t->data + t->count * t->record, record, t->record);
    t->rows[row] = ++t->count;
    return t->count - 1;
}

void interned_release(struct interned *t) {
    free(t->data);
    free(t->rows);
    *t = (struct interned){.record = t->record};
}

int budget_spend(struct budget *b, uint64_t work) {
    if (b->work < work)
        return err_set(b->e, SONDE_ERROR_UNSUPPORTED, "%s: too large to be compiled", b->what);
    b->work -= work;
    return SONDE_OK;
}

/* -------------------------------------------------------------------------------------- automata */

struct dfa *dfa_new(uint32_t count, uint32_t classes) {
    struct dfa *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->count = count;
    d->classes = classes;
    size_t cells = (size_t)count * classes;
    d->next = malloc((cells ? cells : 1) * sizeof(*d->next));
    d->label = calloc(count ? count : 1, sizeof(*d->label));
    if (!d->next || !d->label) {
        dfa_free(d);
        return NULL;
    }
    memset(d->next, 0xff, cells * sizeof(*d->next)); /* DFA_DEAD */
    return d;
}

void dfa_free(struct dfa *d) {
    if (d) {
        free(d->next);
        free(d->label);
    }
    free(d);
}

uint32_t dfa_run(const struct dfa *d, const char *bytes, size_t count) {
    uint32_t state = d->count ? 0 : DFA_DEAD;
    for (size_t i = 0; i < count && state != DFA_DEAD; i++)
        state = dfa_step(d, state, (uint8_t)bytes[i]);
    return state;
}

/* Marks states that reach one that accepts. Sweeps backwards, as states mostly lead to later ones. */
static int mark_alive(const struct dfa *d, struct budget *g, uint8_t *alive) {
    for (bool changed = true; changed;) {
        int rc = budget_spend(g, d->count);
        if (rc)
            return rc;
        changed = false;
        for (uint32_t s = d->count; s--;) {
            bool lives = d->label[s] != 0;
            for (uint32_t c = 0; !alive[s] && !lives && c < d->classes; c++) {
                uint32_t to = d->next[s * d->classes + c];
                lives = to != DFA_DEAD && alive[to];
            }
            if (lives && !alive[s])
                alive[s] = changed = true;
        }
    }
    return SONDE_OK;
}

int dfa_trim(struct dfa *d, struct budget *g) {
    uint8_t *alive = calloc(d->count + 1, 1);
    uint16_t *number = malloc((d->count + 1) * sizeof(*number));
    uint32_t count = 0;
    int rc = alive && number ? mark_alive(d, g, alive) : err_memory(g->e);
    for (uint32_t s = 0; s < d->count && !rc; s++)
        number[s] = alive[s] ? (uint16_t)count++ : DFA_DEAD;
    for (uint32_t s = 0; s < d->count && !rc; s++) {
        if (!alive[s])
            continue;
        d->label[number[s]] = d->label[s];
        for (uint32_t c = 0; c < d->classes; c++) {
            uint32_t to = d->next[s * d->classes + c];
            d->next[(uint32_t)number[s] * d->classes + c] = to == DFA_DEAD ? DFA_DEAD : number[to];
        }
    }
    if (!rc)
        d->count = d->count && alive[0] ? count : 0;
    free(alive);
    free(number);
    return rc;
}

/* --------------------------------------------------------------------------------------- product */

struct pair {
    uint16_t a, b;
};

struct product {
    const struct dfa *a, *b;
    int op;
    struct interned pairs; /* struct pair: states */
    struct buf rows;       /* uint16_t: transitions, DFA_DEAD or a pair */
    uint32_t limit, classes;
    uint8_t byte_of[256]; /* of each class */
};

/* One class for each pair of classes that some byte has; a byte of each. */
static uint32_t join_classes(const struct dfa *a, const struct dfa *b, uint8_t class_of[256], uint8_t byte_of[256]) {
    uint32_t classes = 0;
    for (int byte = 0; byte < 256; byte++) {
        int first = 0;
        while (a->class_of[first] != a->class_of[byte] || b->class_of[first] != b->class_of[byte])
            first++;
        if (first == byte)
            byte_of[classes++] = (uint8_t)byte;
        class_of[byte] = first == byte ? (uint8_t)(classes - 1) : class_of[first];
    }
    return classes;
}

static uint32_t product_label(const struct product *p, struct pair at) {
    uint32_t a = p->a->label[at.a], b = at.b == DFA_DEAD ? 0 : p->b->label[at.b];
    if (p->op >= DFA_TAG)
        return a ? a | b << (p->op - DFA_TAG) : 0;
    return (p->op == DFA_AND) == (b != 0) ? a : 0;
}

/* Adds the rows of all pairs that have none yet, and of those that they lead to. */
static int product_rows(struct product *p, struct budget *g) {
    for (size_t s = p->rows.len / sizeof(uint16_t) / p->classes; s < p->pairs.count; s++) {
        struct pair at = *(const struct pair *)interned_at(&p->pairs, (uint32_t)s);
        int rc = budget_spend(g, p->classes);
        if (rc)
            return rc;
        for (uint32_t c = 0; c < p->classes; c++) {
            struct pair to = {(uint16_t)dfa_step(p->a, at.a, p->byte_of[c]),
                              at.b == DFA_DEAD ? DFA_DEAD : (uint16_t)dfa_step(p->b, at.b, p->byte_of[c])};
            bool dead = to.a == DFA_DEAD || (to.b == DFA_DEAD && p->op == DFA_AND);
            uint32_t id = dead ? DFA_DEAD : interned_id(&p->pairs, &to);
            if (id == NONE)
                return err_memory(g->e);
            if (!dead && id >= p->limit)
                return err_set(g->e, SONDE_ERROR_UNSUPPORTED, "%s: too large to be compiled", g->what);
            uint16_t cell = (uint16_t)id;
            buf_append(&p->rows, &cell, sizeof(cell));
        }
    }
    return p->rows.failed ? err_memory(g->e) : SONDE_OK;
}

int dfa_product(const struct dfa *a, const struct dfa *b, int op, struct budget *g, struct dfa **out) {
    struct product p = {.a = a, .b = b, .op = op, .pairs = {.record = sizeof(struct pair)}, .limit = DFA_STATES};
    uint8_t class_of[256] = {0};
    p.classes = join_classes(a, b, class_of, p.byte_of);
    struct pair start = {0, b->count ? 0 : DFA_DEAD};
    bool empty = !a->count || (!b->count && op == DFA_AND);
    int rc = !empty && interned_id(&p.pairs, &start) == NONE ? err_memory(g->e) : SONDE_OK;
    if (!rc)
        rc = product_rows(&p, g);
    struct dfa *d = rc ? NULL : dfa_new(p.pairs.count, p.classes);
    if (d) {
        memcpy(d->class_of, class_of, sizeof(class_of));
        if (p.rows.len)
            memcpy(d->next, p.rows.data, p.rows.len);
        for (uint32_t s = 0; s < d->count; s++)
            d->label[s] = product_label(&p, *(const struct pair *)interned_at(&p.pairs, s));
        rc = dfa_trim(d, g);
    } else if (!rc) {
        rc = err_memory(g->e);
    }
    if (rc)
        dfa_free(d);
    else
        *out = d;
    buf_release(&p.rows);
    interned_release(&p.pairs);
    return rc;
}

/* ------------------------------------------------------------------------------- words and lengths */

int dfa_words(const struct word *words, size_t count, struct budget *g, struct dfa **out) {
    uint64_t states = 1;
    bool used[256] = {false};
    for (size_t i = 0; i < count; i++) {
        states += words[i].length;
        for (size_t k = 0; k < words[i].length; k++)
            used[(uint8_t)words[i].text[k]] = true;
    }
    uint32_t classes = 1;
    uint8_t class_of[256] = {0};
    for (int byte = 0; byte < 256; byte++)
        if (used[byte] && classes < 256)
            class_of[byte] = (uint8_t)classes++;
    if (states > DFA_STATES)
        return err_set(g->e, SONDE_ERROR_UNSUPPORTED, "%s: more than %d bytes of names or values in one place", g->what,
                       DFA_STATES);
    int rc = budget_spend(g, states * classes);
    struct dfa *d = rc ? NULL : dfa_new((uint32_t)states, classes);
    if (!d)
        return rc ? rc : err_memory(g->e);
    memcpy(d->class_of, class_of, sizeof(class_of));
    d->count = count ? 1 : 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t at = 0;
        for (size_t k = 0; k < words[i].length; k++) {
            uint16_t *cell = &d->next[at * classes + class_of[(uint8_t)words[i].text[k]]];
            if (*cell == DFA_DEAD)
                *cell = (uint16_t)d->count++;
            at = *cell;
        }
        d->label[at] = words[i].label;
    }
    *out = d;
    return SONDE_OK;
}

/* States are counts; continuation bytes do not count. */
int dfa_lengths(uint32_t min, uint32_t max, struct budget *g, struct dfa **out) {
    uint32_t last = max == UNBOUNDED ? min : max;
    if (last >= DFA_STATES)
        return err_set(g->e, SONDE_ERROR_UNSUPPORTED, "%s: a length of more than %d beside a pattern", g->what,
                       DFA_STATES - 1);
    struct dfa *d = dfa_new(last + 1, 2);
    if (!d)
        return err_memory(g->e);
    for (int byte = 0; byte < 256; byte++)
        d->class_of[byte] = (byte & 0xc0) == 0x80;
    for (uint32_t s = 0; s <= last; s++) {
        d->next[s * 2] = (uint16_t)(s < last ? s + 1 : max == UNBOUNDED ? s : DFA_DEAD);
        d->next[s * 2 + 1] = (uint16_t)s;
        d->label[s] = s >= min;
    }
    *out = d;
    return SONDE_OK;
}

/* ------------------------------------------------------------------------------------------ room */

/* The room of a pair by that of those it leads to: the least over all bytes of plain text. */
static uint8_t least_room(const struct product *p, uint32_t s, const uint8_t *room) {
    const uint16_t *row = (const uint16_t *)(const void *)p->rows.data + (size_t)s * p->classes;
    struct pair at = *(const struct pair *)interned_at(&p->pairs, s);
    uint32_t least = ENDLESS;
    for (uint32_t c = 0; c < p->classes && least; c++) {
        if (row[c] == DFA_DEAD) {
            if (dfa_step(p->a, at.a, p->byte_of[c]) != DFA_DEAD)
                least = 0;
            continue;
        }
        bool whole = p->a->label[((const struct pair *)interned_at(&p->pairs, row[c]))->a] != 0;
        uint32_t behind = room[row[c]] + (uint32_t)whole;
        least = behind < least ? behind : least;
    }
    return (uint8_t)least;
}

/* From ENDLESS everywhere down to what can be kept. */
static int find_room(const struct product *p, const uint8_t *fits, struct budget *g, uint8_t *room) {
    for (uint32_t s = 0; s < p->pairs.count; s++)
        room[s] = !fits || fits[((const struct pair *)interned_at(&p->pairs, s))->b] ? ENDLESS : 0;
    for (bool changed = true; changed;) {
        int rc = budget_spend(g, p->pairs.count);
        if (rc)
            return rc;
        changed = false;
        for (uint32_t s = p->pairs.count; s--;) {
            uint8_t least = room[s] ? least_room(p, s, room) : 0;
            changed |= least < room[s];
            room[s] = least < room[s] ? least : room[s];
        }
    }
    return SONDE_OK;
}

/* Texts begin between any two characters, which is where `plain` is at its start. Pairs are met in the order of a walk
 * from the start, so that sweeping backwards finds most at once. */
int dfa_room(const struct dfa *d, const struct dfa *plain, const uint8_t *fits, struct budget *g, uint8_t **room) {
    struct product p = {.a = plain, .b = d, .op = DFA_AND, .pairs = {.record = sizeof(struct pair)}, .limit = DFA_DEAD};
    uint8_t class_of[256] = {0}, *all = NULL, *result = malloc(d->count + 1);
    p.classes = join_classes(plain, d, class_of, p.byte_of);
    int rc = result ? SONDE_OK : err_memory(g->e);
    for (uint32_t s = 0; !rc && s < d->count; s++) {
        struct pair start = {0, (uint16_t)s};
        rc = interned_id(&p.pairs, &start) == NONE ? err_memory(g->e) : product_rows(&p, g);
    }
    if (!rc && !(all = malloc(p.pairs.count + 1)))
        rc = err_memory(g->e);
    rc = rc ? rc : find_room(&p, fits, g, all);
    for (uint32_t s = 0; !rc && s < d->count; s++) {
        struct pair start = {0, (uint16_t)s};
        result[s] = all[interned_id(&p.pairs, &start)];
    }
    if (rc)
        free(result);
    else
        *room = result;
    free(all);
    buf_release(&p.rows);
    interned_release(&p.pairs);
    return rc;
}
