/*
 * grammar_json.c - the machine inside JSON: values, strings with their escapes, arrays, objects, keys.
 *
 * Space   nothing, one space, or a newline and up to SPACE_MAX blanks: behind '{', '[', ',' and ':', before '}' and
 *         ']', and before the answer. None before ',' and ':', and none after the answer.
 * Escapes in strings that may hold any text all of them, half surrogate pairs excepted. In keys and in strings with
 *         a pattern or listed values only what must be escaped, and that in one way, so that each text has one
 *         spelling: \" \\ \b \f \n \r \t, and \u00hh in lower case for other control characters.
 * Numbers end where something else begins; the frame below takes the byte.
 * Keys    may come in any order. An automaton tells the class of a key; what is alive in it is what can still become
 *         a name that did not come yet, or some other key that did not come yet (`residue` holds those that did and
 *         begin like this one).
 *
 * Below GRAMMAR_DEPTH containers hold only what they must, and of alternatives only those of the least height come.
 */
#include <string.h>

#include "text/grammar_internal.h"

enum { SPACE_NONE, SPACE_ONE, SPACE_LINE, SPACE_MAX = 64 };

uint8_t space_step(uint8_t space, uint8_t symbol) {
    if (space == SPACE_NONE)
        return symbol == ' ' ? SPACE_ONE : symbol == '\n' ? SPACE_LINE : 0;
    bool more = space >= SPACE_LINE && space < SPACE_LINE + SPACE_MAX && (symbol == ' ' || symbol == '\t');
    return more ? (uint8_t)(space + 1) : 0;
}

static const struct shape *shape_of(const struct machine *m, const struct frame *f) {
    return m->g->shapes[f->shape];
}

static bool is_lean(const struct frame *f) {
    return f->depth >= GRAMMAR_DEPTH;
}

/* f with other space; true if that is what the symbol is. */
static bool emit_space(struct machine *m, const struct frame *f, uint8_t phase, uint8_t symbol) {
    struct frame next = *f;
    next.space = space_step(f->phase == phase ? f->space : 0, symbol);
    next.phase = phase;
    if (next.space)
        frame_emit(m, &next);
    return next.space != 0;
}

/* ------------------------------------------------------------------------------------------ values */

static void start_scalar(struct machine *m, const struct shape *s, struct frame f, uint8_t symbol) {
    f.kind = FRAME_SCALAR;
    for (uint8_t i = 0; i < 2; i++) {
        uint32_t state = s->scalars[i] ? dfa_step(s->scalars[i], 0, symbol) : DFA_DEAD;
        f.phase = i;
        f.at = state;
        if (state != DFA_DEAD)
            frame_emit(m, &f);
    }
}

void value_start(struct machine *m, uint32_t node, const struct frame *behind, uint8_t symbol) {
    const struct gnode *n = &m->g->nodes[node];
    struct frame f = {.parent = frame_alone(m, behind), .depth = behind->depth};
    uint32_t highest = is_lean(behind) ? n->height : NONE - 1;
    for (uint32_t i = 0; i < n->shape_count; i++) {
        const struct shape *s = n->shapes[i];
        f.shape = s->number;
        f.depth = behind->depth + 1;
        if (symbol == '"') {
            f.kind = FRAME_STRING;
            if (s->string.texts)
                frame_emit(m, &f);
        } else if (symbol == '[') {
            f.kind = FRAME_ARRAY;
            if (s->array && s->array->height <= highest)
                frame_emit(m, &f);
        } else if (symbol == '{') {
            f.kind = FRAME_OBJECT;
            if (s->object && s->object->height <= highest)
                frame_emit(m, &f);
        } else {
            start_scalar(m, s, f, symbol);
        }
    }
}

static void scalar_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    const struct dfa *d = shape_of(m, f)->scalars[f->phase];
    struct frame next = *f;
    next.at = dfa_step(d, f->at, symbol);
    if (next.at != DFA_DEAD)
        frame_emit(m, &next);
    else if (d->label[f->at])
        state_go_on(m, f->parent, symbol);
}

/* ----------------------------------------------------------------------------------------- escapes */

/* What was read of an escape that has one spelling: one of these beginnings. */
static const char *const beginnings[] = {"", "\\", "\\u", "\\u0", "\\u00", "\\u000", "\\u001"};

/* The one spelling of a character that must be escaped; its length. */
static size_t spell_escape(unsigned c, char out[8]) {
    static const char special[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    static const char hex[] = "0123456789abcdef";
    const char *at = c ? strchr(special, (int)c) : NULL;
    if (at) {
        out[0] = '\\';
        out[1] = letter[at - special];
        return 2;
    }
    memcpy(out, "\\u00", 4);
    out[4] = hex[c >> 4];
    out[5] = hex[c & 15];
    return 6;
}

static bool must_escape(unsigned c) {
    return c < 0x20 || c == '"' || c == '\\';
}

/* Asks whether a string goes on after an escaped character, of whose spelling `rest` is still to come. */
typedef bool goes_on(struct machine *m, const struct frame *f, unsigned c, const char *rest, size_t count);

/* One more byte of an escape. True with *whole set to the character, or -1 with *escape what was read of it. */
static bool escape_step(struct machine *m, const struct frame *f, uint8_t symbol, goes_on *alive, int *whole,
                        uint8_t *escape) {
    char read[8], spelled[8];
    size_t count = strlen(beginnings[f->escape]);
    memcpy(read, beginnings[f->escape], count);
    read[count++] = (char)symbol;
    bool possible = false;
    for (unsigned c = 0; c <= '\\'; c++) {
        if (!must_escape(c))
            continue;
        size_t length = spell_escape(c, spelled);
        if (length < count || memcmp(spelled, read, count) != 0 || !alive(m, f, c, spelled + count, length - count))
            continue;
        *whole = (int)c;
        if (length == count)
            return true;
        possible = true;
    }
    *whole = -1;
    for (uint8_t i = 0; i < COUNT_OF(beginnings) && possible; i++)
        if (strlen(beginnings[i]) == count && memcmp(beginnings[i], read, count) == 0)
            *escape = i;
    return possible;
}

/* Escapes of any spelling, where nobody asks what they mean. */
enum free_escape {
    FREE_BACKSLASH = 16,
    FREE_U,  /* four digits are to come */
    FREE_U1, /* three, two, one */
    FREE_U2,
    FREE_U3,
    FREE_D,    /* after a first 'd': it may be half a pair */
    FREE_PAIR, /* the first half, two digits to come */
    FREE_PAIR1,
    FREE_PAIR2, /* \u and the second half are to come */
    FREE_PAIR3,
    FREE_PAIR4,
    FREE_PAIR5,
    FREE_DONE,
};

static bool is_hex(uint8_t c) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* 0: the symbol may not come. */
static uint8_t free_escape_step(uint8_t escape, uint8_t c) {
    uint8_t lower = c | 0x20;
    switch ((enum free_escape)escape) {
    case FREE_BACKSLASH:
        return c == 'u' ? FREE_U : c && strchr("\"\\/bfnrt", c) ? FREE_DONE : 0;
    case FREE_U:
        return !is_hex(c) ? 0 : lower == 'd' ? FREE_D : FREE_U1;
    case FREE_D:
        return c >= '0' && c <= '7' ? FREE_U2 : c == '8' || c == '9' || lower == 'a' || lower == 'b' ? FREE_PAIR : 0;
    case FREE_PAIR2:
        return c == '\\' ? FREE_PAIR3 : 0;
    case FREE_PAIR3:
        return c == 'u' ? FREE_PAIR4 : 0;
    case FREE_PAIR4:
        return lower == 'd' ? FREE_PAIR5 : 0;
    case FREE_PAIR5:
        return lower >= 'c' && lower <= 'f' && is_hex(c) ? FREE_U2 : 0;
    case FREE_U3:
        return is_hex(c) ? FREE_DONE : 0;
    default:
        return is_hex(c) ? (uint8_t)(escape + 1) : 0;
    }
}

/* ----------------------------------------------------------------------------------------- strings */

static bool string_goes_on(struct machine *m, const struct frame *f, unsigned c, const char *rest, size_t count) {
    (void)rest;
    (void)count;
    return dfa_step(shape_of(m, f)->string.texts, f->at, (uint8_t)c) != DFA_DEAD;
}

/* Emits f after a whole character or its first byte, unless there are too many. */
static void emit_character(struct machine *m, const struct frame *f, uint8_t byte, uint32_t state) {
    const struct string_part *s = &shape_of(m, f)->string;
    struct frame next = *f;
    next.at = state;
    next.escape = 0;
    if ((byte & 0xc0) != 0x80 && (s->min || s->max != UNBOUNDED)) {
        if (f->count >= s->max)
            return;
        next.count = s->max == UNBOUNDED && f->count >= s->min ? s->min : f->count + 1;
    }
    if (state != DFA_DEAD)
        frame_emit(m, &next);
}

void text_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    emit_character(m, f, symbol, dfa_step(shape_of(m, f)->string.texts, f->at, symbol));
}

static void string_escape(struct machine *m, const struct frame *f, uint8_t symbol) {
    const struct string_part *s = &shape_of(m, f)->string;
    struct frame next = *f;
    int whole = -1;
    if (!f->escape && f->count >= s->max)
        return;
    if (s->free) {
        bool begins = !f->escape && dfa_step(s->texts, f->at, 'a') != DFA_DEAD;
        next.escape = f->escape ? free_escape_step(f->escape, symbol) : begins ? FREE_BACKSLASH : 0;
        if (next.escape == FREE_DONE)
            emit_character(m, f, 'a', dfa_step(s->texts, f->at, 'a'));
        else if (next.escape)
            frame_emit(m, &next);
    } else if (escape_step(m, f, symbol, string_goes_on, &whole, &next.escape)) {
        if (whole >= 0)
            emit_character(m, f, (uint8_t)whole, dfa_step(s->texts, f->at, (uint8_t)whole));
        else
            frame_emit(m, &next);
    }
}

static void string_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    const struct string_part *s = &shape_of(m, f)->string;
    if (f->escape || symbol == '\\') {
        string_escape(m, f, symbol);
    } else if (symbol == '"') {
        if (s->texts->label[f->at] && f->count >= s->min)
            state_enter(m, f->parent);
    } else if (symbol >= 0x20) {
        text_step(m, f, symbol);
    }
}

/* ------------------------------------------------------------------------------------------ arrays */

static void start_item(struct machine *m, const struct frame *f, uint8_t symbol) {
    const struct array_part *a = shape_of(m, f)->array;
    struct frame behind = *f;
    uint32_t enough = a->min > a->prefix_count ? a->min : a->prefix_count;
    behind.phase = PHASE_AFTER;
    behind.space = 0;
    behind.count = a->max == UNBOUNDED && f->count >= enough ? enough : f->count + 1;
    value_start(m, f->count < a->prefix_count ? a->prefix[f->count] : a->items, &behind, symbol);
}

static void array_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    const struct array_part *a = shape_of(m, f)->array;
    bool closes = f->count >= a->min && f->phase != PHASE_NEXT, more = f->count < (is_lean(f) ? a->min : a->max);
    struct frame next = *f;
    if (symbol == ']') {
        if (closes)
            state_enter(m, f->parent);
        return;
    }
    if (f->phase == PHASE_AFTER && symbol == ',' && more) {
        next.phase = PHASE_NEXT;
        frame_emit(m, &next);
        return;
    }
    bool before_item = f->phase == PHASE_FIRST || f->phase == PHASE_NEXT;
    if ((before_item || closes) && emit_space(m, f, before_item ? f->phase : PHASE_CLOSE, symbol))
        return;
    if (before_item && more)
        start_item(m, f, symbol);
}

/* -------------------------------------------------------------------------------------------- keys */

const struct object_part *frame_object(const struct machine *m, const struct frame *f) {
    return m->g->shapes[f->shape]->object;
}

static const uint64_t *seen_names(const struct machine *m, const struct frame *f) {
    return interned_at(&m->sets, f->seen);
}

static uint32_t missing_names(const struct machine *m, const struct frame *f) {
    const struct object_part *o = frame_object(m, f);
    uint32_t missing = 0;
    for (uint32_t w = 0; w < o->words; w++)
        missing += (uint32_t)__builtin_popcountll(o->required[w] & ~seen_names(m, f)[w]);
    return missing;
}

/* True if there is room for required members only, or nothing else is to come. */
static bool required_only(const struct machine *m, const struct frame *f) {
    const struct object_part *o = frame_object(m, f);
    uint32_t missing = missing_names(m, f);
    return (o->max != UNBOUNDED && o->max - f->count <= missing) || (is_lean(f) && f->count + missing >= o->min);
}

bool object_may_close(const struct machine *m, const struct frame *f) {
    return f->count >= frame_object(m, f)->min && missing_names(m, f) == 0;
}

/* True if some key that may come goes through a state of the automaton. */
static bool key_is_alive(struct machine *m, const struct frame *f, uint32_t state, uint32_t residue) {
    const struct object_part *o = frame_object(m, f);
    bool only = required_only(m, f);
    if (state == DFA_DEAD)
        return false;
    for (uint32_t w = 0; w < o->words; w++)
        if (o->reach[(size_t)state * o->words + w] & ~seen_names(m, f)[w] & (only ? o->required[w] : ~0ull))
            return true;
    if (only || o->others[state] == ENDLESS)
        return !only;
    return f->keys != KEYS_UNKNOWN && o->others[state] > keys_count(&m->keys, residue);
}

bool key_may_come(struct machine *m, const struct frame *f) {
    const struct object_part *o = frame_object(m, f);
    if (!o->keys->count || f->count >= o->max)
        return false;
    return key_is_alive(m, f, 0, f->keys);
}

void key_begin(struct frame *f) {
    f->phase = PHASE_KEY;
    f->space = 0;
    f->at = 0;
    f->residue = f->keys == KEYS_UNKNOWN ? 0 : f->keys;
}

static bool key_goes_on(struct machine *m, const struct frame *f, unsigned c, const char *rest, size_t count) {
    uint32_t residue = keys_run(&m->keys, f->residue, rest, count);
    return key_is_alive(m, f, dfa_step(frame_object(m, f)->keys, f->at, (uint8_t)c), residue);
}

bool key_step(struct machine *m, struct frame *f, uint8_t symbol) {
    const struct dfa *keys = frame_object(m, f)->keys;
    f->residue = keys_step(&m->keys, f->residue, symbol);
    if (f->kind == FRAME_OBJECT && (f->escape || symbol == '\\')) {
        int whole;
        uint8_t escape = 0;
        if (!escape_step(m, f, symbol, key_goes_on, &whole, &escape))
            return false;
        f->escape = escape;
        if (whole >= 0)
            f->at = dfa_step(keys, f->at, (uint8_t)whole);
        return true;
    }
    if (symbol < 0x20)
        return false;
    f->at = dfa_step(keys, f->at, symbol);
    return key_is_alive(m, f, f->at, f->residue);
}

/* The set with the key that ends now. */
static uint32_t remember_key(struct machine *m, uint32_t keys) {
    uint32_t set = m->said ? keys_add(&m->keys, keys, m->said, m->said_count) : KEYS_UNKNOWN;
    m->failed |= set == NONE;
    return set == NONE ? 0 : set;
}

static uint32_t remember_name(struct machine *m, const struct frame *f, uint32_t name) {
    uint64_t set[(GRAMMAR_NAMES + 63) / 64] = {0};
    memcpy(set, seen_names(m, f), m->sets.record);
    set[name / 64] |= 1ull << name % 64;
    uint32_t id = interned_id(&m->sets, set);
    m->failed |= id == NONE;
    return id == NONE ? 0 : id;
}

bool key_end(struct machine *m, struct frame *f) {
    const struct object_part *o = frame_object(m, f);
    uint32_t class = o->keys->label[f->at] - 1;
    bool only = required_only(m, f);
    if (f->escape || !o->keys->label[f->at])
        return false;
    if (class < o->names) {
        uint64_t bit = 1ull << class % 64;
        if (seen_names(m, f)[class / 64] & bit || (only && !(o->required[class / 64] & bit)))
            return false;
        f->seen = remember_name(m, f, class);
    } else {
        if (only || f->keys == KEYS_UNKNOWN || keys_end(&m->keys, f->residue))
            return false;
        f->keys = remember_key(m, f->keys);
    }
    f->count = o->max == UNBOUNDED && f->count >= o->min ? o->min : f->count + 1;
    f->residue = 0;
    f->at = class;
    return true;
}

uint32_t key_room(struct machine *m, const struct frame *f) {
    return f->escape || required_only(m, f) ? 0 : frame_object(m, f)->room[f->at];
}

/* ----------------------------------------------------------------------------------------- objects */

static void object_key(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    if (symbol == '"' && !f->escape) {
        next.phase = PHASE_COLON;
        if (key_end(m, &next))
            frame_emit(m, &next);
    } else if (key_step(m, &next, symbol)) {
        frame_emit(m, &next);
    }
}

static void object_value(struct machine *m, const struct frame *f, uint8_t symbol) {
    if (emit_space(m, f, PHASE_VALUE, symbol))
        return;
    struct frame behind = *f;
    behind.phase = PHASE_AFTER;
    behind.space = 0;
    behind.at = 0;
    value_start(m, frame_object(m, f)->classes[f->at].value, &behind, symbol);
}

/* Between members. */
static void object_between(struct machine *m, const struct frame *f, uint8_t symbol) {
    bool before_key = f->phase == PHASE_FIRST || f->phase == PHASE_NEXT;
    bool closes = f->phase != PHASE_NEXT && object_may_close(m, f);
    struct frame next = *f;
    if (symbol == '}') {
        if (closes)
            state_enter(m, f->parent);
    } else if (symbol == '"') {
        if (before_key && key_may_come(m, f)) {
            key_begin(&next);
            frame_emit(m, &next);
        }
    } else if (symbol == ',') {
        next.phase = PHASE_NEXT;
        if (f->phase == PHASE_AFTER && key_may_come(m, f))
            frame_emit(m, &next);
    } else if (before_key || closes) {
        emit_space(m, f, before_key ? f->phase : PHASE_CLOSE, symbol);
    }
}

static void object_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    switch (f->phase) {
    case PHASE_KEY:
        object_key(m, f, symbol);
        break;
    case PHASE_COLON:
        next.phase = PHASE_VALUE;
        if (symbol == ':')
            frame_emit(m, &next);
        break;
    case PHASE_VALUE:
        object_value(m, f, symbol);
        break;
    default:
        object_between(m, f, symbol);
    }
}

/* ---------------------------------------------------------------------------------------- together */

static void root_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame end = {.kind = FRAME_ROOT, .phase = ROOT_END};
    if (f->phase == ROOT_BEGIN && !emit_space(m, f, ROOT_BEGIN, symbol))
        value_start(m, m->g->root, &end, symbol);
}

void json_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    switch ((enum frame_kind)f->kind) {
    case FRAME_ROOT:
        root_step(m, f, symbol);
        break;
    case FRAME_STRING:
        string_step(m, f, symbol);
        break;
    case FRAME_SCALAR:
        scalar_step(m, f, symbol);
        break;
    case FRAME_ARRAY:
        array_step(m, f, symbol);
        break;
    default:
        object_step(m, f, symbol);
    }
}
