/*
 * grammar_machine.c - states, and steps from one to the next.
 *
 * A frame is one thing that is being read. A state is a set of frames: alternatives, as anyOf leaves them open. What
 * goes on behind a frame, its parent, is a state too, so that alternatives which read the same thing are one frame
 * with several ways to go on: they do not multiply with the depth of an answer. Frames and states are kept once, by
 * number; so stacks share what is below, and states that come again are known again, with all transitions that were
 * taken from them.
 *
 * Sets are lists of cells in ascending order of frames, and a cell is kept once too: its number is the state.
 *
 * A key that schemas do not name must not come twice, so objects remember theirs. While tokens are only tried, what a
 * key said is not at hand; the set is then KEYS_UNKNOWN, and no other such key can end in the same token. Once bytes
 * are really said, machine_step_said() puts the key in the set.
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/grammar_internal.h"

/* Alternatives, and ways on from one, beyond these are given up: answers that only they allow are not then, but
 * nothing is that should not be. */
enum { FRAMES_MAX = 32, PARENTS_MAX = 64, ROWS_MAX = 4096 };

struct cell {
    uint32_t frame, next;
};

/* ------------------------------------------------------------------------------------------ tables */

/* Number 0 is nothing in each, so that 0 can end lists. */
static bool open_tables(struct machine *m) {
    static const struct frame nothing;
    uint64_t *names = calloc(m->g->words + 1, sizeof(*names));
    m->frames.record = sizeof(struct frame);
    m->cells.record = sizeof(struct cell);
    m->sets.record = (m->g->words ? m->g->words : 1) * sizeof(uint64_t);
    m->out = malloc(FRAMES_MAX * sizeof(*m->out));
    bool good = names && m->out && interned_id(&m->sets, names) == 0 && interned_id(&m->frames, &nothing) == 0 &&
                interned_id(&m->cells, &nothing) == 0 && keys_open(&m->keys);
    free(names);
    return good;
}

static void release_tables(struct machine *m) {
    interned_release(&m->frames);
    interned_release(&m->cells);
    interned_release(&m->sets);
    keys_release(&m->keys);
    free(m->row_of);
    free(m->rows);
    free(m->out);
}

void machine_release(struct machine *m) {
    release_tables(m);
    *m = (struct machine){0};
}

/* ------------------------------------------------------------------------------------------ frames */

static struct cell cell_at(const struct machine *m, uint32_t cell) {
    return *(const struct cell *)interned_at(&m->cells, cell);
}

static uint32_t put_cell(struct machine *m, uint32_t frame, uint32_t next) {
    struct cell c = {frame, next};
    uint32_t id = frame == NONE || next == NONE ? NONE : interned_id(&m->cells, &c);
    m->failed |= id == NONE;
    return m->failed ? 0 : id;
}

/* The state with the frames of both. */
static uint32_t join(struct machine *m, uint32_t a, uint32_t b) {
    uint32_t frames[PARENTS_MAX], count = 0, state = 0;
    if (a == b)
        return a;
    while ((a || b) && count < PARENTS_MAX) {
        struct cell x = a ? cell_at(m, a) : (struct cell){NONE, 0}, y = b ? cell_at(m, b) : (struct cell){NONE, 0};
        frames[count++] = x.frame < y.frame ? x.frame : y.frame;
        a = x.frame <= y.frame ? x.next : a;
        b = y.frame <= x.frame ? y.next : b;
    }
    while (count--)
        state = put_cell(m, frames[count], state);
    return state;
}

static bool same_but_parent(const struct frame *a, const struct frame *b) {
    struct frame c = *a;
    c.parent = b->parent;
    return memcmp(&c, b, sizeof(c)) == 0;
}

void frame_emit(struct machine *m, const struct frame *f) {
    for (uint32_t i = 0; i < m->out_count; i++)
        if (same_but_parent(&m->out[i], f)) {
            m->out[i].parent = join(m, m->out[i].parent, f->parent);
            return;
        }
    if (m->out_count < FRAMES_MAX)
        m->out[m->out_count++] = *f;
}

uint32_t frame_alone(struct machine *m, const struct frame *f) {
    return put_cell(m, interned_id(&m->frames, f), 0);
}

static void frame_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    bool json = f->kind == FRAME_STRING || f->kind == FRAME_SCALAR || f->kind == FRAME_ARRAY || f->kind == FRAME_OBJECT;
    m->work++;
    if (json || (f->kind == FRAME_ROOT && m->g->kind == GRAMMAR_JSON))
        json_step(m, f, symbol);
    else
        call_step(m, f, symbol);
}

/* ------------------------------------------------------------------------------------------ states */

const struct frame *machine_next(const struct machine *m, uint32_t *cell) {
    if (!*cell)
        return NULL;
    struct cell c = cell_at(m, *cell);
    *cell = c.next;
    return interned_at(&m->frames, c.frame);
}

/* Frames are copied, as their place may move. */
void state_enter(struct machine *m, uint32_t state) {
    for (const struct frame *at; (at = machine_next(m, &state));) {
        struct frame f = *at;
        if (!call_enter(m, &f))
            frame_emit(m, &f);
    }
}

void state_go_on(struct machine *m, uint32_t state, uint8_t symbol) {
    for (const struct frame *at; (at = machine_next(m, &state));) {
        struct frame f = *at;
        frame_step(m, &f, symbol);
    }
}

static int compare_ids(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The state of the frames that were emitted. */
static uint32_t collect(struct machine *m) {
    uint32_t ids[FRAMES_MAX] = {0}, state = 0;
    for (uint32_t i = 0; i < m->out_count; i++)
        ids[i] = interned_id(&m->frames, &m->out[i]);
    qsort(ids, m->out_count, sizeof(*ids), compare_ids);
    for (uint32_t i = m->out_count; i--;)
        state = put_cell(m, ids[i], state);
    return m->failed ? 0 : state;
}

static uint32_t step(struct machine *m, uint32_t state, uint8_t symbol) {
    m->out_count = 0;
    state_go_on(m, state, symbol);
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
        if (f->kind == FRAME_FREE || (f->kind == FRAME_ROOT && f->phase == ROOT_END))
            return true;
        if (f->kind == FRAME_SCALAR && m->g->shapes[f->shape]->scalars[f->phase]->label[f->at] &&
            machine_may_end(m, f->parent))
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

/* A copy of one state in a new machine. `copies` has those that were made, by state, NONE for the others: states share
 * much. */
static uint32_t copy_state(struct machine *to, const struct machine *from, uint32_t state, uint32_t *copies) {
    if (copies[state] != NONE || to->failed)
        return copies[state];
    uint32_t ids[PARENTS_MAX] = {0}, count = 0, copy = 0;
    for (uint32_t cell = state; cell && count < PARENTS_MAX; cell = cell_at(from, cell).next) {
        struct frame f = *(const struct frame *)interned_at(&from->frames, cell_at(from, cell).frame);
        f.parent = copy_state(to, from, f.parent, copies);
        f.keys = keys_copy(&to->keys, &from->keys, f.keys);
        f.seen = interned_id(&to->sets, interned_at(&from->sets, f.seen));
        to->failed |= f.keys == NONE || f.seen == NONE;
        ids[count++] = interned_id(&to->frames, &f);
    }
    qsort(ids, count, sizeof(*ids), compare_ids);
    while (count--)
        copy = put_cell(to, ids[count], copy);
    return copies[state] = copy;
}

bool machine_renew(struct machine *m, uint32_t *state) {
    struct machine new = {.g = m->g, .markup = m->markup, .work = m->work};
    uint32_t *copies = malloc(m->cells.count * sizeof(*copies)), copy = 0;
    if (copies && open_tables(&new)) {
        memset(copies, 0xff, m->cells.count * sizeof(*copies)); /* NONE */
        copies[0] = 0;
        copy = copy_state(&new, m, *state, copies);
    }
    free(copies);
    if (!copy || new.failed) {
        release_tables(&new);
        return false;
    }
    release_tables(m);
    *m = new;
    *state = copy;
    return true;
}
