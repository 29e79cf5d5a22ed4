/*
 * grammar_machine.c - states, and steps from one to the next.
 *
 * A frame is one thing that is being read, with the frame that goes on behind it as its parent. A state is a set of
 * frames: alternatives, as anyOf leaves them open. Frames and states are kept once, by number, so stacks share what
 * is below and states that come again are known again, with all transitions that were taken from them.
 *
 * Sets are lists of cells in ascending order of frames, and a cell is kept once too: its number is the state.
 *
 * A key that schemas do not name must not come twice, so objects remember theirs. While tokens are only tried, what a
 * key said is not at hand; the list is then KEYS_UNKNOWN, and no other such key can end in the same token. Once bytes
 * are really said, machine_step_said() puts the key in the list.
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/grammar_internal.h"

/* Alternatives beyond these are given up: answers that only they allow are not, but no others are either. */
enum { FRAMES_MAX = 32, ROWS_MAX = 4096 };

struct cell {
    uint32_t frame, next;
};

/* ------------------------------------------------------------------------------------------ tables */

/* Number 0 is nothing in each, so that 0 can end lists. */
static bool open_tables(struct machine *m) {
    uint64_t *names = calloc(m->g->words + 1, sizeof(*names));
    static const uint32_t nothing[sizeof(struct frame) / sizeof(uint32_t)];
    static const struct key unknown = {NONE, NONE, NONE};
    m->frames.record = sizeof(struct frame);
    m->cells.record = sizeof(struct cell);
    m->sets.record = (m->g->words ? m->g->words : 1) * sizeof(uint64_t);
    m->keys.record = sizeof(struct key);
    m->residues.record = sizeof(struct residue);
    bool good = names && interned_id(&m->sets, names) == 0 && interned_id(&m->frames, nothing) == 0 &&
                interned_id(&m->cells, nothing) == 0 && interned_id(&m->keys, nothing) == 0 &&
                interned_id(&m->keys, &unknown) == KEYS_UNKNOWN && interned_id(&m->residues, nothing) == 0;
    buf_string(&m->texts, "");
    m->out = malloc(FRAMES_MAX * sizeof(*m->out));
    free(names);
    return good && m->out;
}

static void release_tables(struct machine *m) {
    interned_release(&m->frames);
    interned_release(&m->cells);
    interned_release(&m->sets);
    interned_release(&m->keys);
    interned_release(&m->residues);
    buf_release(&m->texts);
    free(m->row_of);
    free(m->rows);
    free(m->out);
}

void machine_release(struct machine *m) {
    release_tables(m);
    *m = (struct machine){0};
}

/* ------------------------------------------------------------------------------------------ frames */

uint32_t frame_id(struct machine *m, const struct frame *f) {
    uint32_t id = interned_id(&m->frames, f);
    m->failed |= id == NONE;
    return id == NONE ? 0 : id;
}

void frame_add(struct machine *m, uint32_t id) {
    uint32_t at = m->out_count;
    for (uint32_t i = 0; i < m->out_count; i++)
        if (m->out[i] == id)
            return;
    if (!id || m->out_count == FRAMES_MAX)
        return;
    for (; at && m->out[at - 1] > id; at--)
        m->out[at] = m->out[at - 1];
    m->out[at] = id;
    m->out_count++;
}

void frame_enter(struct machine *m, uint32_t id) {
    struct frame f = *(const struct frame *)interned_at(&m->frames, id);
    if (f.kind == FRAME_CALLS || f.kind == FRAME_CALL)
        call_enter(m, id, &f);
    else
        frame_add(m, id);
}

void frame_emit(struct machine *m, const struct frame *f) {
    frame_add(m, frame_id(m, f));
}

void frame_step(struct machine *m, uint32_t id, uint8_t symbol) {
    struct frame f = *(const struct frame *)interned_at(&m->frames, id); /* which may move */
    m->work++;
    switch ((enum frame_kind)f.kind) {
    case FRAME_VALUE:
    case FRAME_LITERAL:
    case FRAME_FREE:
    case FRAME_CALLS:
    case FRAME_CALL:
        call_step(m, &f, symbol);
        break;
    case FRAME_ROOT:
        if (m->g->kind == GRAMMAR_TOOLS)
            call_step(m, &f, symbol);
        else
            json_step(m, &f, symbol);
        break;
    default:
        json_step(m, &f, symbol);
    }
}

/* ------------------------------------------------------------------------------------------ states */

const struct frame *machine_next(const struct machine *m, uint32_t *cell) {
    if (!*cell)
        return NULL;
    const struct cell *c = interned_at(&m->cells, *cell);
    *cell = c->next;
    return interned_at(&m->frames, c->frame);
}

/* The state of the frames in out. */
static uint32_t collect(struct machine *m) {
    uint32_t state = 0;
    for (uint32_t i = m->out_count; i--;) {
        struct cell c = {m->out[i], state};
        state = interned_id(&m->cells, &c);
        if (state == NONE) {
            m->failed = true;
            return 0;
        }
    }
    return m->failed ? 0 : state;
}

static uint32_t step(struct machine *m, uint32_t state, uint8_t symbol) {
    m->out_count = 0;
    for (uint32_t cell = state; cell;) {
        struct cell c = *(const struct cell *)interned_at(&m->cells, cell);
        frame_step(m, c.frame, symbol);
        cell = c.next;
    }
    return collect(m);
}

/* The row of a state, or NULL where there is no room for more. */
static uint32_t *row_for(struct machine *m, uint32_t state) {
    if (state >= m->row_of_cap) {
        uint32_t cap = state < 512 ? 1024 : 2 * state;
        uint32_t *row_of = realloc(m->row_of, cap * sizeof(*row_of));
        if (!row_of)
            return NULL;
        memset(row_of + m->row_of_cap, 0, (cap - m->row_of_cap) * sizeof(*row_of));
        m->row_of = row_of;
        m->row_of_cap = cap;
    }
    if (!m->row_of[state]) {
        if (m->row_count == ROWS_MAX)
            return NULL;
        if (m->row_count == m->row_cap) {
            uint32_t cap = m->row_cap ? 2 * m->row_cap : 16;
            uint32_t *rows = realloc(m->rows, (size_t)cap * 256 * sizeof(*rows));
            if (!rows)
                return NULL;
            m->rows = rows;
            m->row_cap = cap;
        }
        memset(m->rows + (size_t)m->row_count * 256, 0xff, 256 * sizeof(*m->rows)); /* NONE */
        m->row_of[state] = ++m->row_count;
    }
    return m->rows + (size_t)(m->row_of[state] - 1) * 256;
}

uint32_t machine_step(struct machine *m, uint32_t state, uint8_t symbol) {
    uint32_t *row = row_for(m, state);
    if (row && row[symbol] != NONE)
        return row[symbol];
    uint32_t next = step(m, state, symbol);
    if (row && !m->failed)
        row[symbol] = next;
    return next;
}

uint32_t machine_step_said(struct machine *m, uint32_t state, uint8_t symbol, const char *said, size_t count) {
    m->said = said;
    m->said_count = count;
    uint32_t next = step(m, state, symbol);
    m->said = NULL;
    return next;
}

bool machine_in_key(const struct machine *m, uint32_t state) {
    for (const struct frame *f; (f = machine_next(m, &state));)
        if ((f->kind == FRAME_OBJECT || f->kind == FRAME_CALL) && f->phase == PHASE_KEY)
            return true;
    return false;
}

bool machine_may_end(struct machine *m, uint32_t state) {
    for (const struct frame *f; (f = machine_next(m, &state));) {
        if (f->kind == FRAME_SCALAR) {
            const struct dfa *d = m->g->shapes[f->shape]->scalars[f->phase];
            if (!d->label[f->at])
                continue;
            f = interned_at(&m->frames, f->parent);
        }
        if (f->kind == FRAME_FREE || (f->kind == FRAME_ROOT && f->phase == ROOT_END))
            return true;
    }
    return false;
}

/* ----------------------------------------------------------------------------------- open and renew */

int machine_open(struct machine *m, const struct text_grammar *g, bool markup, uint32_t *start, struct sonde_error *e) {
    *m = (struct machine){.g = g, .markup = markup};
    struct frame root = {.kind = FRAME_ROOT, .phase = ROOT_BEGIN};
    if (g->kind == GRAMMAR_TOOLS && !g->required)
        root = (struct frame){.kind = FRAME_FREE};
    if (!open_tables(m))
        return err_memory(e);
    frame_emit(m, &root);
    *start = collect(m);
    return m->failed ? err_memory(e) : SONDE_OK;
}

/* A list of keys in the other machine, made of the last one first. */
static uint32_t copy_keys(struct machine *to, const struct machine *from, uint32_t list) {
    struct buf order = {0};
    uint32_t copy = 0;
    for (uint32_t id = list; id > KEYS_UNKNOWN;) {
        const struct key *key = interned_at(&from->keys, id);
        buf_append(&order, key, sizeof(*key));
        id = key->next;
    }
    for (size_t i = order.len / sizeof(struct key); i-- && !order.failed;) {
        struct key key = ((const struct key *)(const void *)order.data)[i];
        buf_append(&to->texts, from->texts.data + key.at, key.length);
        key.next = copy;
        key.at = (uint32_t)(to->texts.len - key.length);
        copy = interned_id(&to->keys, &key);
        to->failed |= copy == NONE;
    }
    to->failed |= order.failed || to->texts.failed;
    buf_release(&order);
    return copy;
}

static uint32_t copy_frame(struct machine *to, const struct machine *from, uint32_t id) {
    struct frame f = *(const struct frame *)interned_at(&from->frames, id);
    if (!id || to->failed)
        return 0;
    f.parent = copy_frame(to, from, f.parent);
    f.keys = copy_keys(to, from, f.keys);
    f.seen = interned_id(&to->sets, interned_at(&from->sets, f.seen));
    to->failed |= f.seen == NONE;
    return frame_id(to, &f);
}

bool machine_renew(struct machine *m, uint32_t *state) {
    struct machine new = {.g = m->g, .markup = m->markup, .work = m->work};
    bool good = open_tables(&new);
    for (uint32_t cell = *state; cell && good;) {
        struct cell c = *(const struct cell *)interned_at(&m->cells, cell);
        frame_add(&new, copy_frame(&new, m, c.frame));
        cell = c.next;
    }
    uint32_t copy = good ? collect(&new) : 0;
    if (!copy) {
        release_tables(&new);
        return false;
    }
    release_tables(m);
    *m = new;
    *state = copy;
    return true;
}
