/*
 * grammar_constraint.c - one answer: where its grammar is, and which tokens go on from there.
 *
 * A mask is made by walking the trie of tokens from the state, leaving out what dies. Where the state is inside a
 * string that takes any text, plain tokens are allowed by their length alone and only the others are walked. Masks of
 * the last states are kept, as states come again.
 *
 * A walk that costs too much (a hostile schema can make each step dear) is given up for one over single bytes, which
 * are tokens all: fewer tokens are allowed then, but all that are may come, and there is always one.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_vocabulary_internal.h"

/* ROOM_LEAST: with less room too many tokens would have to be tried one by one. */
enum { ROOM_LEAST = 12, MASKS = 32, WALK_MAX = 1 << 19, FRAMES_KEPT = 1 << 15, ROWS_KEPT = 2048 };

struct mask {
    uint32_t state; /* 0: none */
    uint32_t *bits;
};

struct text_constraint {
    struct text_grammar *g;
    const struct text_vocabulary *v;
    struct machine m;
    uint32_t state; /* 0: nothing but the end may come */
    struct buf key; /* what was said of the key that is being read */
    struct mask masks[MASKS];
    uint32_t *nothing;                    /* a mask */
    uint32_t states[TOKEN_BYTES_MAX + 1]; /* of the walk, by depth */
};

int text_constraint_open(struct text_grammar *grammar, const struct text_vocabulary *vocabulary,
                         struct text_constraint **constraint, struct sonde_error *e) {
    struct text_constraint *c = calloc(1, sizeof(*c));
    if (!c)
        return err_memory(e);
    c->v = vocabulary;
    c->nothing = calloc(vocabulary->words, sizeof(*c->nothing));
    int rc = c->nothing ? machine_open(&c->m, grammar, vocabulary->markup >= 0, &c->state, e) : err_memory(e);
    if (rc) {
        machine_release(&c->m);
        free(c->nothing);
        free(c);
        return rc;
    }
    atomic_fetch_add(&grammar->references, 1);
    c->g = grammar;
    *constraint = c;
    return SONDE_OK;
}

void text_constraint_close(struct text_constraint *c) {
    if (!c)
        return;
    machine_release(&c->m);
    buf_release(&c->key);
    for (int i = 0; i < MASKS; i++)
        free(c->masks[i].bits);
    free(c->nothing);
    text_grammar_free(c->g);
    free(c);
}

/* ------------------------------------------------------------------------------------------- masks */

static void set_bit(uint32_t *bits, uint32_t id) {
    bits[id / 32] |= 1u << id % 32;
}

/* False: it was given up. */
static bool walk(struct text_constraint *c, const struct trie *t, uint32_t *bits) {
    c->states[0] = c->state;
    for (uint32_t i = 0; i < t->count;) {
        const struct trie_node *n = &t->nodes[i];
        uint32_t next = machine_step(&c->m, c->states[n->depth], n->byte);
        if (c->m.work > WALK_MAX || c->m.failed)
            return false;
        if (!next) {
            i += n->skip;
            continue;
        }
        c->states[n->depth + 1] = next;
        if (n->token != TOKEN_NONE)
            set_bit(bits, n->token);
        i++;
    }
    return true;
}

static void walk_bytes(struct text_constraint *c, uint32_t *bits) {
    for (int byte = 0; byte < SYMBOL_DSML; byte++) {
        uint32_t id = c->v->tokenizer->byte_ids[byte];
        if (id < c->v->size && machine_step(&c->m, c->state, (uint8_t)byte))
            set_bit(bits, id);
    }
    if (c->v->markup >= 0 && machine_step(&c->m, c->state, SYMBOL_DSML))
        set_bit(bits, (uint32_t)c->v->markup);
}

/* What is known of a frame inside a string: it takes plain tokens of a division up to `room` characters. */
struct taking {
    const struct division *division; /* NULL: nothing is known */
    uint32_t room;
    bool exact; /* and none that is longer */
};

static struct taking takes_plain(struct text_constraint *c, const struct frame *f) {
    struct taking t = {NULL, 0, false};
    if (f->kind == FRAME_OBJECT && f->phase == PHASE_KEY) {
        t.division = &c->v->json;
        t.room = key_room(&c->m, f);
    } else if ((f->kind == FRAME_STRING || f->kind == FRAME_VALUE) && !f->escape) {
        const struct string_part *s = &c->g->shapes[f->shape]->string;
        t.division = f->kind == FRAME_STRING ? &c->v->json : &c->v->values;
        t.room = s->room[f->at];
        t.exact = t.room == ENDLESS && s->max != UNBOUNDED;
        t.room = t.exact ? s->max - f->count : t.room;
    }
    if (t.room == ENDLESS && !t.exact)
        t.room = UNBOUNDED;
    return t;
}

static bool takes_token(struct text_constraint *c, uint32_t id) {
    const struct token *t = &c->v->tokenizer->tokens[id];
    uint32_t state = c->state;
    for (uint32_t i = 0; i < t->length && state; i++)
        state = machine_step(&c->m, state, (uint8_t)c->v->tokenizer->pool[t->at + i]);
    return state != 0;
}

/* Allows what can be allowed without a walk, and tries the few plain tokens that are too long to be sure of. What is
 * left to be walked is returned. */
static const struct trie *allow_plain(struct text_constraint *c, uint32_t *bits) {
    uint32_t cell = c->state, frames = 0;
    struct taking best = {NULL, 0, false};
    for (const struct frame *f; (f = machine_next(&c->m, &cell)); frames++) {
        struct frame copy = *f;
        struct taking t = takes_plain(c, &copy);
        best = t.division && (!best.division || t.room > best.room) ? t : best;
    }
    best.exact &= frames == 1;
    if (!best.division || (best.room < ROOM_LEAST && !best.exact))
        return &c->v->all;
    memcpy(bits, best.division->bits, c->v->words * sizeof(*bits));
    const struct plain_token *plain = best.division->plain, *end = plain + best.division->count;
    for (; plain < end && plain->characters > best.room; plain++)
        if (best.exact || !takes_token(c, plain->id))
            bits[plain->id / 32] &= ~(1u << plain->id % 32);
    return &best.division->rest;
}

static void make_mask(struct text_constraint *c, uint32_t *bits) {
    memset(bits, 0, c->v->words * sizeof(*bits));
    c->m.work = 0;
    const struct trie *rest = allow_plain(c, bits);
    if (!walk(c, rest, bits)) {
        if (rest == &c->v->all)
            memset(bits, 0, c->v->words * sizeof(*bits));
        walk_bytes(c, bits);
    }
    for (uint32_t cell = c->state; cell;)
        if (machine_next(&c->m, &cell)->kind == FRAME_FREE)
            for (uint32_t w = 0; w < c->v->words; w++)
                bits[w] |= c->v->added[w];
}

/* True in text outside of calls, where any token may come: what begins a block is a token of its own, or was not yet
 * begun. */
static bool is_free(const struct text_constraint *c) {
    uint32_t cell = c->state;
    for (const struct frame *f; (f = machine_next(&c->m, &cell));)
        if (f->kind == FRAME_FREE)
            return c->v->markup >= 0 || f->at == 0;
    return false;
}

const uint32_t *text_constraint_allowed(struct text_constraint *c, bool *may_end) {
    struct mask *mask = &c->masks[c->state % MASKS];
    if (is_free(c)) {
        *may_end = true;
        return NULL;
    }
    if (c->state && !mask->bits)
        mask->bits = malloc(c->v->words * sizeof(*mask->bits));
    if (c->state && mask->bits && mask->state != c->state) {
        make_mask(c, mask->bits);
        mask->state = c->state;
    }
    if (c->m.failed || !mask->bits)
        c->state = 0;
    *may_end = !c->state || machine_may_end(&c->m, c->state);
    return c->state ? mask->bits : c->nothing;
}

/* -------------------------------------------------------------------------------------------- push */

/* A symbol that was said, with the keys that it is part of. */
static void say(struct text_constraint *c, uint8_t symbol) {
    bool before = machine_in_key(&c->m, c->state);
    if (before && symbol == '"')
        c->state = machine_step_said(&c->m, c->state, symbol, c->key.len ? c->key.data : "", c->key.len);
    else
        c->state = machine_step(&c->m, c->state, symbol);
    bool after = machine_in_key(&c->m, c->state);
    if (!before && after)
        buf_clear(&c->key);
    else if (before && after)
        buf_byte(&c->key, (char)symbol);
    if (c->m.failed || c->key.failed)
        c->state = 0;
}

/* Forgets states once there are many. */
static void tidy(struct text_constraint *c) {
    bool many = c->m.frames.count > FRAMES_KEPT || c->m.cells.count > FRAMES_KEPT || c->m.row_count > ROWS_KEPT;
    if (!many || !c->state || machine_in_key(&c->m, c->state) || !machine_renew(&c->m, &c->state))
        return;
    for (int i = 0; i < MASKS; i++)
        c->masks[i].state = 0;
}

bool text_constraint_push(struct text_constraint *c, int32_t id) {
    const sonde_tokenizer *t = c->v->tokenizer;
    bool known = id >= 0 && (uint32_t)id < t->size && (uint32_t)id < c->v->size;
    bool added = known && c->v->added[id / 32] >> id % 32 & 1;
    if (id == c->v->markup && known) {
        say(c, SYMBOL_DSML);
    } else if (!known || (added && !is_free(c))) {
        c->state = is_free(c) ? c->state : 0;
    } else {
        for (uint32_t i = 0; i < t->tokens[id].length && c->state; i++) {
            uint8_t byte = (uint8_t)t->pool[t->tokens[id].at + i];
            say(c, byte == SYMBOL_DSML ? SYMBOL_NEVER : byte);
        }
    }
    tidy(c);
    return c->state != 0;
}
