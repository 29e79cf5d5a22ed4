/*
 * grammar_regex.c - regular expressions as JSON Schema has them become automata.
 *
 * The language is ECMA-262 with the u flag, less what is not regular or needs tables of Unicode:
 *
 *     . [...] [^...] \d \D \w \W \s \S, escapes, \xHH \uHHHH \u{H...} \cX        taken
 *     (...) (?:...) (?<name>...) |                                              taken; groups capture nothing
 *     * + ? {n} {n,} {n,m} and their lazy forms                                 taken; lazy or not is the same set
 *     ^ $                                                                       taken, wherever they stand
 *     (?=...) (?!...) (?<=...) (?<!...) \1 \k \b \B \p{...} (?i:...)            refused
 *
 * The source is read into a tree; the tree becomes a nondeterministic automaton over the bytes of UTF-8, which becomes
 * a deterministic one by the construction of subsets. A pattern may be found anywhere, so any text may come before and
 * behind it. ^ is an edge that is only taken before the first byte, $ one that is only taken after the last.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

enum { TREE_DEPTH = 200, STATES_MAX = 60000, REPEAT_MAX = 4000, UNICODE_LAST = 0x10ffff };

enum tree_kind { TREE_EMPTY, TREE_SET, TREE_THEN, TREE_OR, TREE_REPEAT, TREE_BEGIN, TREE_END };

/* Children are numbers of nodes. */
struct tree {
    enum tree_kind kind;
    uint32_t a, b;        /* THEN, OR: both; REPEAT: a; SET: ranges [a, b) */
    uint32_t least, most; /* REPEAT */
};

struct range {
    uint32_t low, high; /* code points */
};

enum state_kind { STATE_BYTES, STATE_SPLIT, STATE_BEGIN, STATE_END, STATE_MATCH };

struct state {
    enum state_kind kind;
    uint8_t low, high; /* BYTES */
    uint32_t to, other;
};

struct regex {
    const char *s, *where;
    size_t count, at;
    struct buf trees, ranges, states; /* struct tree, struct range, struct state */
    struct budget *g;
    int rc;
};

static struct tree *tree_at(const struct regex *r, uint32_t id) {
    return (struct tree *)(void *)r->trees.data + id;
}

static struct state *state_at(const struct regex *r, uint32_t id) {
    return (struct state *)(void *)r->states.data + id;
}

static uint32_t range_count(const struct regex *r) {
    return (uint32_t)(r->ranges.len / sizeof(struct range));
}

static void fail(struct regex *r, int code, const char *why) {
    if (!r->rc)
        r->rc = err_set(r->g->e, code, "%s: %s at byte %zu of the regular expression", r->where, why, r->at);
}

static uint32_t new_tree(struct regex *r, struct tree t) {
    buf_append(&r->trees, &t, sizeof(t));
    if (r->trees.failed && !r->rc)
        r->rc = err_memory(r->g->e);
    return r->rc ? 0 : (uint32_t)(r->trees.len / sizeof(t) - 1);
}

static int peek(const struct regex *r, size_t ahead) {
    return r->at + ahead < r->count ? (unsigned char)r->s[r->at + ahead] : -1;
}

static bool take(struct regex *r, const char *word) {
    size_t n = strlen(word);
    if (r->count - r->at < n || memcmp(r->s + r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

/* -------------------------------------------------------------------------------------- characters */

static void add_range(struct regex *r, uint32_t low, uint32_t high) {
    struct range range = {low, high};
    buf_append(&r->ranges, &range, sizeof(range));
    if (r->ranges.failed && !r->rc)
        r->rc = err_memory(r->g->e);
}

static int compare_ranges(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* Makes the ranges from `first` on sorted and disjoint, or what they leave out. */
static void settle_ranges(struct regex *r, uint32_t first, bool negated) {
    if (r->rc)
        return;
    uint32_t count = range_count(r) - first, kept = 0, next = 0;
    if (!count && !negated)
        return;
    add_range(r, UNICODE_LAST + 1, UNICODE_LAST + 1); /* room for one more, and an end */
    if (r->rc)
        return;
    struct range *all = (struct range *)(void *)r->ranges.data + first;
    qsort(all, count, sizeof(*all), compare_ranges);
    for (uint32_t i = 0; i < count; i++) {
        if (kept && all[i].low <= all[kept - 1].high + 1)
            all[kept - 1].high = all[i].high > all[kept - 1].high ? all[i].high : all[kept - 1].high;
        else
            all[kept++] = all[i];
    }
    if (negated) {
        uint32_t gaps = 0;
        for (uint32_t i = 0; i <= kept; i++) {
            struct range this = i < kept ? all[i] : (struct range){UNICODE_LAST + 1, UNICODE_LAST + 1};
            if (this.low > next)
                all[gaps++] = (struct range){next, this.low - 1};
            next = this.high + 1;
        }
        kept = gaps;
    }
    r->ranges.len = (first + kept) * sizeof(*all);
}

static const struct range digits[] = {{'0', '9'}}, word_letters[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                          spaces[] = {{9, 13},          {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680},
                                      {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
                                      {0x3000, 0x3000}, {0xfeff, 0xfeff}},
                          line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

static void add_class(struct regex *r, const struct range *ranges, size_t count, bool negated) {
    uint32_t next = 0;
    for (size_t i = 0; i < count; i++) {
        if (!negated)
            add_range(r, ranges[i].low, ranges[i].high);
        else if (ranges[i].low > next)
            add_range(r, next, ranges[i].low - 1);
        next = ranges[i].high + 1;
    }
    if (negated)
        add_range(r, next, UNICODE_LAST);
}

/* \d and its kin, after the backslash. */
static bool take_class(struct regex *r) {
    int c = peek(r, 0);
    if (c == 'd' || c == 'D')
        add_class(r, digits, COUNT_OF(digits), c == 'D');
    else if (c == 'w' || c == 'W')
        add_class(r, word_letters, COUNT_OF(word_letters), c == 'W');
    else if (c == 's' || c == 'S')
        add_class(r, spaces, COUNT_OF(spaces), c == 'S');
    else
        return false;
    r->at++;
    return true;
}

/* `count` hexadecimal digits, or as many as come before a brace with count 0. */
static uint32_t take_hex(struct regex *r, size_t count) {
    uint32_t value = 0;
    size_t n = 0;
    for (; count ? n < count : peek(r, 0) != '}'; n++, r->at++) {
        int c = peek(r, 0), lower = c | 0x20;
        bool digit = c >= '0' && c <= '9';
        if (!digit && !(lower >= 'a' && lower <= 'f')) {
            fail(r, SONDE_ERROR_FORMAT, "a hexadecimal digit is expected");
            return 0;
        }
        value = value * 16 + (uint32_t)(digit ? c - '0' : lower - 'a' + 10);
        if (value > UNICODE_LAST)
            fail(r, SONDE_ERROR_FORMAT, "no such character");
    }
    if (!n)
        fail(r, SONDE_ERROR_FORMAT, "a hexadecimal digit is expected");
    return value;
}

/* \uHHHH, also two that are a surrogate pair, and \u{H...}; after the 'u'. */
static uint32_t take_unicode(struct regex *r) {
    if (take(r, "{")) {
        uint32_t c = take_hex(r, 0);
        r->at++;
        return c;
    }
    uint32_t high = take_hex(r, 4);
    if (high < 0xd800 || high > 0xdbff || peek(r, 0) != '\\' || peek(r, 1) != 'u')
        return high;
    r->at += 2;
    uint32_t low = take_hex(r, 4);
    if (low < 0xdc00 || low > 0xdfff)
        fail(r, SONDE_ERROR_FORMAT, "half a surrogate pair");
    return 0x10000 + ((high - 0xd800) << 10) + ((low - 0xdc00) & 0x3ff);
}

/* An escape that is one character, after the backslash. */
static uint32_t take_escape(struct regex *r, bool in_class) {
    static const char from[] = "tnvfr", to[] = "\t\n\v\f\r";
    int c = peek(r, 0);
    const char *at = c > 0 ? strchr(from, c) : NULL;
    if (c < 0) {
        fail(r, SONDE_ERROR_FORMAT, "a lone backslash");
        return 0;
    }
    r->at++;
    if (at)
        return (uint32_t)(unsigned char)to[at - from];
    if (c == 'x')
        return take_hex(r, 2);
    if (c == 'u')
        return take_unicode(r);
    if (c == 'b' && in_class)
        return '\b';
    if (c == '0' && !(peek(r, 0) >= '0' && peek(r, 0) <= '9'))
        return 0;
    int letter = c | 0x20, next = peek(r, 0) | 0x20;
    if (c == 'c' && next >= 'a' && next <= 'z') {
        r->at++;
        return (uint32_t)(next - 'a' + 1);
    }
    if ((letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9') || c >= 0x80)
        fail(r, SONDE_ERROR_UNSUPPORTED, "an escape that is not supported");
    return (uint32_t)c;
}

/* A character as it stands. */
static uint32_t take_character(struct regex *r) {
    enum utf8_kind kind;
    const unsigned char *u = (const unsigned char *)r->s + r->at;
    size_t n = utf8_next(r->s + r->at, r->count - r->at, &kind);
    r->at += n;
    if (kind != UTF8_WHOLE)
        fail(r, SONDE_ERROR_FORMAT, "not UTF-8");
    uint32_t c = n == 1 ? u[0] : u[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (u[i] & 0x3f);
    return c;
}

/* One end of a range. False: it was a class. */
static bool take_class_atom(struct regex *r, uint32_t *c) {
    if (!take(r, "\\")) {
        *c = take_character(r);
        return true;
    }
    if (take_class(r))
        return false;
    if (take(r, "-"))
        *c = '-';
    else
        *c = take_escape(r, true);
    return true;
}

/* [...], after the bracket. */
static uint32_t take_set(struct regex *r) {
    uint32_t first = range_count(r), low = 0, high = 0;
    bool negated = take(r, "^");
    while (!r->rc && peek(r, 0) != ']') {
        if (r->at >= r->count) {
            fail(r, SONDE_ERROR_FORMAT, "a class that does not end");
            break;
        }
        bool single = take_class_atom(r, &low);
        high = low;
        if (peek(r, 0) == '-' && peek(r, 1) != ']' && peek(r, 1) >= 0) {
            r->at++;
            if (!single || !take_class_atom(r, &high) || high < low)
                fail(r, SONDE_ERROR_FORMAT, "a range without ends in order");
        }
        if (single)
            add_range(r, low, high);
    }
    r->at++;
    settle_ranges(r, first, negated);
    return new_tree(r, (struct tree){.kind = TREE_SET, .a = first, .b = range_count(r)});
}

static uint32_t new_set(struct regex *r, const struct range *ranges, size_t count, bool negated) {
    uint32_t first = range_count(r);
    add_class(r, ranges, count, negated);
    return new_tree(r, (struct tree){.kind = TREE_SET, .a = first, .b = range_count(r)});
}

/* ------------------------------------------------------------------------------------------- tree */

static uint32_t take_or(struct regex *r, int depth);

/* (...), after the parenthesis. */
static uint32_t take_group(struct regex *r, int depth) {
    if (take(r, "?")) {
        if (take(r, "<") && peek(r, 0) != '=' && peek(r, 0) != '!') {
            while (peek(r, 0) >= 0 && peek(r, 0) != '>')
                r->at++;
            r->at++;
        } else if (!take(r, ":")) {
            fail(r, SONDE_ERROR_UNSUPPORTED, "lookaround or another kind of group that is not supported");
            return 0;
        }
    }
    uint32_t t = take_or(r, depth + 1);
    if (!take(r, ")"))
        fail(r, SONDE_ERROR_FORMAT, "a group that does not end");
    return t;
}

static uint32_t take_atom(struct regex *r, int depth) {
    int c = peek(r, 0);
    if (take(r, "("))
        return take_group(r, depth);
    if (take(r, "["))
        return take_set(r);
    if (take(r, "."))
        return new_set(r, line_ends, COUNT_OF(line_ends), true);
    if (take(r, "^"))
        return new_tree(r, (struct tree){.kind = TREE_BEGIN});
    if (take(r, "$"))
        return new_tree(r, (struct tree){.kind = TREE_END});
    if (c == '*' || c == '+' || c == '?')
        fail(r, SONDE_ERROR_FORMAT, "nothing to repeat");
    uint32_t first = range_count(r);
    if (!take(r, "\\")) {
        uint32_t character = take_character(r);
        add_range(r, character, character);
    } else if (!take_class(r)) {
        uint32_t character = take_escape(r, false);
        add_range(r, character, character);
    }
    return new_tree(r, (struct tree){.kind = TREE_SET, .a = first, .b = range_count(r)});
}

static bool take_count(struct regex *r, uint32_t *value) {
    size_t before = r->at;
    *value = 0;
    for (; peek(r, 0) >= '0' && peek(r, 0) <= '9'; r->at++)
        *value = *value > 1000000 ? *value : *value * 10 + (uint32_t)(peek(r, 0) - '0');
    return r->at > before;
}

/* A quantifier, if one is there. A brace that is none is a character. */
static bool take_quantifier(struct regex *r, uint32_t *least, uint32_t *most) {
    size_t before = r->at;
    *least = 0;
    *most = UNBOUNDED;
    if (take(r, "?")) {
        *most = 1;
    } else if (take(r, "+")) {
        *least = 1;
    } else if (!take(r, "*")) {
        if (!take(r, "{"))
            return false;
        bool counted = take_count(r, least);
        *most = *least;
        if (counted && take(r, ",") && !take_count(r, most))
            *most = UNBOUNDED;
        if (!counted || !take(r, "}")) {
            r->at = before;
            return false;
        }
    }
    take(r, "?");
    if (*most < *least)
        fail(r, SONDE_ERROR_FORMAT, "a repetition with its bounds out of order");
    if (*least > REPEAT_MAX || (*most != UNBOUNDED && *most > REPEAT_MAX))
        fail(r, SONDE_ERROR_UNSUPPORTED, "a repetition of so many");
    return true;
}

static uint32_t take_then(struct regex *r, int depth) {
    uint32_t all = new_tree(r, (struct tree){.kind = TREE_EMPTY});
    while (!r->rc && r->at < r->count && peek(r, 0) != '|' && peek(r, 0) != ')') {
        uint32_t least, most, t = take_atom(r, depth);
        if (take_quantifier(r, &least, &most))
            t = new_tree(r, (struct tree){.kind = TREE_REPEAT, .a = t, .least = least, .most = most});
        all = new_tree(r, (struct tree){.kind = TREE_THEN, .a = all, .b = t});
    }
    return all;
}

static uint32_t take_or(struct regex *r, int depth) {
    if (depth > TREE_DEPTH)
        fail(r, SONDE_ERROR_UNSUPPORTED, "groups nested too deeply");
    uint32_t all = take_then(r, depth);
    while (!r->rc && take(r, "|")) {
        uint32_t t = take_then(r, depth);
        all = new_tree(r, (struct tree){.kind = TREE_OR, .a = all, .b = t});
    }
    return all;
}

/* ---------------------------------------------------------------------------------------- states */

/* States are made from the end to the beginning: what follows is known. */
static uint32_t new_state(struct regex *r, struct state s) {
    if (r->states.len / sizeof(s) >= STATES_MAX)
        fail(r, SONDE_ERROR_UNSUPPORTED, "too large a pattern");
    buf_append(&r->states, &s, sizeof(s));
    if (r->states.failed && !r->rc)
        r->rc = err_memory(r->g->e);
    return r->rc ? 0 : (uint32_t)(r->states.len / sizeof(s) - 1);
}

static uint32_t new_split(struct regex *r, uint32_t a, uint32_t b) {
    if (a == NONE || b == NONE)
        return a == NONE ? b : a;
    return new_state(r, (struct state){.kind = STATE_SPLIT, .to = a, .other = b});
}

static uint32_t new_bytes(struct regex *r, uint8_t low, uint8_t high, uint32_t to) {
    return new_state(r, (struct state){.kind = STATE_BYTES, .low = low, .high = high, .to = to});
}

static uint8_t utf8_byte(uint32_t c, int bytes, int index) {
    if (index == 0)
        return (uint8_t)((bytes == 1 ? 0 : bytes == 2 ? 0xc0 : bytes == 3 ? 0xe0 : 0xf0) | c >> (6 * (bytes - 1)));
    return (uint8_t)(0x80 | (c >> (6 * (bytes - 1 - index)) & 0x3f));
}

/*
 * Code points low to high, all of `bytes` bytes. As long as more than the last byte differs, ends that do not cover
 * all of a byte's continuations are cut off, so that what is left is one range for each byte.
 */
static uint32_t encode_range(struct regex *r, uint32_t low, uint32_t high, int bytes, uint32_t to) {
    for (int k = 1; k < bytes; k++) {
        uint32_t mask = (1u << (6 * k)) - 1;
        if ((low & ~mask) == (high & ~mask))
            continue;
        if (low & mask)
            return new_split(r, encode_range(r, low, low | mask, bytes, to),
                             encode_range(r, (low | mask) + 1, high, bytes, to));
        if ((high & mask) != mask)
            return new_split(r, encode_range(r, low, (high & ~mask) - 1, bytes, to),
                             encode_range(r, high & ~mask, high, bytes, to));
    }
    for (int i = bytes; i--;)
        to = new_bytes(r, utf8_byte(low, bytes, i), utf8_byte(high, bytes, i), to);
    return to;
}

/* NONE for no character. */
static uint32_t encode_set(struct regex *r, const struct tree *t, uint32_t to) {
    static const struct range lengths[] = {
        {0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, UNICODE_LAST}};
    static const int bytes_of[] = {1, 2, 3, 3, 4};
    uint32_t all = NONE;
    for (uint32_t i = t->a; i < t->b && !r->rc; i++) {
        struct range range = ((const struct range *)(const void *)r->ranges.data)[i];
        for (size_t k = 0; k < COUNT_OF(lengths); k++) {
            uint32_t low = range.low > lengths[k].low ? range.low : lengths[k].low;
            uint32_t high = range.high < lengths[k].high ? range.high : lengths[k].high;
            if (low <= high)
                all = new_split(r, all, encode_range(r, low, high, bytes_of[k], to));
        }
    }
    return all;
}

/* The first state of a tree that goes on at `to`; NONE if it matches nothing. */
static uint32_t encode(struct regex *r, uint32_t id, uint32_t to) {
    if (!r->rc)
        r->rc = budget_spend(r->g, 1);
    if (r->rc || to == NONE)
        return NONE;
    struct tree t = *tree_at(r, id);
    if (t.kind == TREE_SET)
        return encode_set(r, &t, to);
    if (t.kind == TREE_THEN) {
        /* Left-leaning, as sequences are long and what they hold is not deep. */
        while (t.kind == TREE_THEN && to != NONE) {
            to = encode(r, t.b, to);
            t = *tree_at(r, id = t.a);
        }
        return encode(r, id, to);
    }
    if (t.kind == TREE_OR) {
        uint32_t all = NONE;
        for (; t.kind == TREE_OR; t = *tree_at(r, id = t.a))
            all = new_split(r, all, encode(r, t.b, to));
        return new_split(r, all, encode(r, id, to));
    }
    if (t.kind == TREE_BEGIN || t.kind == TREE_END)
        return new_state(r, (struct state){.kind = t.kind == TREE_BEGIN ? STATE_BEGIN : STATE_END, .to = to});
    if (t.kind == TREE_EMPTY)
        return to;
    if (t.most == UNBOUNDED) {
        uint32_t loop = new_state(r, (struct state){.kind = STATE_SPLIT, .to = NONE, .other = to});
        uint32_t body = encode(r, t.a, loop);
        if (r->rc)
            return NONE;
        state_at(r, loop)->to = body;
        to = loop;
    } else {
        uint32_t end = to;
        for (uint32_t i = t.least; i < t.most && !r->rc; i++)
            to = new_split(r, end, encode(r, t.a, to));
    }
    for (uint32_t i = 0; i < t.least && !r->rc; i++)
        to = encode(r, t.a, to);
    return to;
}

/* --------------------------------------------------------------------------------------- subsets */

/* Sets of states as strings of numbers, each kept once: [at, at + count) of `members`. */
struct subset {
    uint32_t at, count;
};

struct subsets {
    struct regex *r;
    struct buf members, sets; /* uint32_t, struct subset */
    uint32_t *table, mask, stamp;
    uint32_t *stamps, *stack; /* by state */
    struct buf fresh;         /* the set being made */
    uint32_t classes;
    uint8_t class_of[256], byte_of[256];
    struct buf rows; /* uint16_t */
};

static uint32_t subset_count(const struct subsets *s) {
    return (uint32_t)(s->sets.len / sizeof(struct subset));
}

/* Adds a state and all that is reached from it without a byte. */
static void close_over(struct subsets *s, uint32_t id, bool begin, bool end) {
    uint32_t depth = 0;
    for (s->stack[depth++] = id; depth;) {
        id = s->stack[--depth];
        if (id == NONE || s->stamps[id] == s->stamp)
            continue;
        s->stamps[id] = s->stamp;
        const struct state *state = state_at(s->r, id);
        if (state->kind == STATE_SPLIT) {
            s->stack[depth++] = state->other;
            s->stack[depth++] = state->to;
        } else if (state->kind == STATE_BEGIN) {
            if (begin)
                s->stack[depth++] = state->to;
        } else {
            buf_append(&s->fresh, &id, sizeof(id));
            if (state->kind == STATE_END && end)
                s->stack[depth++] = state->to;
        }
    }
}

static int compare_ids(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The number of the set in `fresh`, new or known. */
static uint32_t intern_subset(struct subsets *s) {
    uint32_t *ids = (uint32_t *)(void *)s->fresh.data, count = (uint32_t)(s->fresh.len / sizeof(*ids));
    if (count)
        qsort(ids, count, sizeof(*ids), compare_ids);
    uint32_t hash = count * 0x9e3779b9u;
    for (uint32_t i = 0; i < count; i++)
        hash = (hash ^ ids[i]) * 0x85ebca6bu ^ hash >> 15;
    uint32_t row = (hash ^ hash >> 13) & s->mask;
    for (; s->table[row]; row = (row + 1) & s->mask) {
        const struct subset *set = (const struct subset *)(const void *)s->sets.data + s->table[row] - 1;
        if (set->count == count &&
            (!count || memcmp((const uint32_t *)(const void *)s->members.data + set->at, ids, s->fresh.len) == 0))
            return s->table[row] - 1;
    }
    struct subset set = {(uint32_t)(s->members.len / sizeof(*ids)), count};
    if (subset_count(s) >= DFA_STATES) {
        fail(s->r, SONDE_ERROR_UNSUPPORTED, "too large a pattern");
        return NONE;
    }
    buf_append(&s->members, ids, s->fresh.len);
    buf_append(&s->sets, &set, sizeof(set));
    if (s->members.failed || s->sets.failed) {
        s->r->rc = err_memory(s->r->g->e);
        return NONE;
    }
    s->table[row] = subset_count(s);
    return subset_count(s) - 1;
}

/* Bytes that no state tells apart are one class. */
static void find_classes(struct subsets *s) {
    bool begins[257] = {[0] = true};
    uint32_t count = (uint32_t)(s->r->states.len / sizeof(struct state));
    for (uint32_t i = 0; i < count; i++)
        if (state_at(s->r, i)->kind == STATE_BYTES)
            begins[state_at(s->r, i)->low] = begins[state_at(s->r, i)->high + 1] = true;
    for (int byte = 0; byte < 256; byte++) {
        if (begins[byte])
            s->byte_of[s->classes++] = (uint8_t)byte;
        s->class_of[byte] = (uint8_t)(s->classes - 1);
    }
}

static uint32_t subset_step(struct subsets *s, struct subset set, uint8_t byte) {
    buf_clear(&s->fresh);
    s->stamp++;
    for (uint32_t i = 0; i < set.count; i++) {
        const struct state *state = state_at(s->r, ((const uint32_t *)(const void *)s->members.data)[set.at + i]);
        if (state->kind == STATE_BYTES && byte >= state->low && byte <= state->high)
            close_over(s, state->to, false, false);
    }
    if (s->fresh.failed) {
        s->r->rc = err_memory(s->r->g->e);
        return NONE;
    }
    return s->fresh.len ? intern_subset(s) : DFA_DEAD;
}

static void explore(struct subsets *s, uint32_t start) {
    buf_clear(&s->fresh);
    s->stamp++;
    close_over(s, start, true, false);
    if (!s->r->rc)
        intern_subset(s);
    memset(s->table, 0, ((size_t)s->mask + 1) * sizeof(*s->table)); /* no other set is before the first byte */
    for (uint32_t i = 0; i < subset_count(s) && !s->r->rc; i++) {
        struct subset set = ((const struct subset *)(const void *)s->sets.data)[i];
        s->r->rc = budget_spend(s->r->g, s->classes + (uint64_t)set.count * s->classes / 4);
        for (uint32_t c = 0; c < s->classes && !s->r->rc; c++) {
            uint16_t cell = (uint16_t)subset_step(s, set, s->byte_of[c]);
            buf_append(&s->rows, &cell, sizeof(cell));
        }
        if (s->rows.failed && !s->r->rc)
            s->r->rc = err_memory(s->r->g->e);
    }
}

/* True if a set accepts: the end of the text is there, so $ is passed. */
static bool accepts(struct subsets *s, uint32_t id) {
    struct subset set = ((const struct subset *)(const void *)s->sets.data)[id];
    buf_clear(&s->fresh);
    s->stamp++;
    bool begin = id == 0;
    for (uint32_t i = 0; i < set.count; i++)
        close_over(s, ((const uint32_t *)(const void *)s->members.data)[set.at + i], begin, true);
    for (size_t i = 0; i < s->fresh.len / sizeof(uint32_t); i++)
        if (state_at(s->r, ((const uint32_t *)(const void *)s->fresh.data)[i])->kind == STATE_MATCH)
            return true;
    return false;
}

static struct dfa *collect(struct subsets *s) {
    struct dfa *d = dfa_new(subset_count(s), s->classes);
    if (!d)
        return NULL;
    memcpy(d->class_of, s->class_of, sizeof(d->class_of));
    memcpy(d->next, s->rows.data, s->rows.len);
    for (uint32_t i = 0; i < d->count; i++)
        d->label[i] = accepts(s, i);
    return d;
}

static struct dfa *determine(struct regex *r, uint32_t start) {
    uint32_t count = (uint32_t)(r->states.len / sizeof(struct state));
    struct subsets s = {.r = r, .mask = (1u << 16) - 1};
    struct dfa *d = NULL;
    s.table = calloc((size_t)s.mask + 1, sizeof(*s.table));
    s.stamps = calloc(count + 1, sizeof(*s.stamps));
    s.stack = malloc(((size_t)2 * count + 2) * sizeof(*s.stack));
    if (s.table && s.stamps && s.stack) {
        find_classes(&s);
        explore(&s, start);
        d = r->rc ? NULL : collect(&s);
    }
    if (!d && !r->rc)
        r->rc = err_memory(r->g->e);
    free(s.table);
    free(s.stamps);
    free(s.stack);
    buf_release(&s.members);
    buf_release(&s.sets);
    buf_release(&s.fresh);
    buf_release(&s.rows);
    return d;
}

/* ------------------------------------------------------------------------------------- together */

/* Any text, the pattern, any text. */
static uint32_t build_states(struct regex *r, uint32_t pattern) {
    uint32_t any = new_set(r, NULL, 0, true), match = new_state(r, (struct state){.kind = STATE_MATCH});
    uint32_t loop = new_tree(r, (struct tree){.kind = TREE_REPEAT, .a = any, .most = UNBOUNDED});
    uint32_t first = encode(r, pattern, r->rc ? NONE : encode(r, loop, match));
    if (r->rc || first == NONE)
        return NONE;
    return encode(r, loop, first);
}

int dfa_regex(const char *source, size_t bytes, const char *where, struct budget *g, struct dfa **out) {
    struct regex r = {.s = bytes ? source : "", .where = where, .count = bytes, .g = g};
    struct dfa *d = NULL;
    uint32_t tree = take_or(&r, 0);
    if (!r.rc && r.at < r.count)
        fail(&r, SONDE_ERROR_FORMAT, "an unmatched ')'");
    uint32_t start = r.rc ? NONE : build_states(&r, tree);
    if (!r.rc && start == NONE)
        d = dfa_new(0, 1);
    else if (!r.rc)
        d = determine(&r, start);
    if (!d && !r.rc)
        r.rc = err_memory(g->e);
    if (!r.rc)
        r.rc = dfa_trim(d, g);
    if (r.rc)
        dfa_free(d);
    else
        *out = d;
    buf_release(&r.trees);
    buf_release(&r.ranges);
    buf_release(&r.states);
    return r.rc;
}
