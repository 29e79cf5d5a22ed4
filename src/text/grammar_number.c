/*
 * grammar_number.c - ranges and multiples of numbers become automata over their spellings.
 *
 * A number is spelled [-] integer [. fraction], without an exponent and without "-0", and read a digit at a time
 * beside the bounds. What is remembered is a few small numbers, so states are few:
 *
 *     against a bound   how many digits of the integer came, and how the digits so far compare with the bound's; in
 *                       the fraction, once undecided, how many digits of the bound's were equal
 *     against a divisor k * 10^-n: the number so far, times 10^(fraction digits), modulo k; digits behind the n-th
 *                       of the fraction must be 0
 *
 * Everything is exact: bounds are decimals as the schema has them, never floating point.
 */
#include <stdlib.h>
#include <string.h>

#include "text/grammar_internal.h"

enum { DIGITS_MAX = 64, DIVISOR_MAX = 1 << 14 };

/* -------------------------------------------------------------------------------------- decimals */

/* The exponent behind an 'e'; far beyond all bounds if it has many digits. */
static int32_t read_exponent(const char *s, size_t bytes) {
    int32_t value = 0;
    size_t at = bytes && (s[0] == '-' || s[0] == '+');
    for (; at < bytes; at++)
        value = value > 100000 ? value : value * 10 + (s[at] - '0');
    return bytes && s[0] == '-' ? -value : value;
}

bool decimal_read(const char *lexeme, size_t bytes, struct decimal *d) {
    *d = (struct decimal){0};
    size_t at = d->negative = bytes && lexeme[0] == '-';
    bool fraction = false;
    int32_t point = 0, zeros = 0;
    for (; at < bytes && (lexeme[at] | 0x20) != 'e'; at++) {
        if (lexeme[at] == '.') {
            fraction = true;
            continue;
        }
        point += !fraction && (d->count || zeros || lexeme[at] != '0');
        if (lexeme[at] == '0') {
            if (d->count)
                zeros++;
            else
                point -= fraction;
            continue;
        }
        if (d->count + (uint32_t)zeros >= DIGITS_MAX)
            return false;
        d->count += (uint32_t)zeros; /* zeros between digits; those at the end are never written */
        zeros = 0;
        d->digits[d->count++] = (uint8_t)(lexeme[at] - '0');
    }
    if (at < bytes)
        point += read_exponent(lexeme + at + 1, bytes - at - 1);
    if (!d->count)
        *d = (struct decimal){0};
    else
        d->point = point;
    return d->point >= -DIGITS_MAX && d->point <= DIGITS_MAX;
}

bool decimal_equal(const struct decimal *a, const struct decimal *b) {
    return a->negative == b->negative && a->count == b->count && a->point == b->point &&
           memcmp(a->digits, b->digits, a->count) == 0;
}

/* Digit i of the integer or fraction, counted from the point: 0 is the first of the fraction, -1 the last of the
 * integer. */
static int digit_at(const struct decimal *d, int32_t i) {
    int32_t index = i + d->point;
    return index >= 0 && index < (int32_t)d->count ? d->digits[index] : 0;
}

static int32_t whole_digits(const struct decimal *d) {
    return d->point > 0 ? d->point : 0;
}

static int32_t fraction_digits(const struct decimal *d) {
    int32_t n = (int32_t)d->count - d->point;
    return n > 0 ? n : 0;
}

void decimal_write(const struct decimal *d, struct buf *b) {
    if (d->negative)
        buf_byte(b, '-');
    for (int32_t i = -whole_digits(d); i < 0; i++)
        buf_byte(b, (char)('0' + digit_at(d, i)));
    if (!whole_digits(d))
        buf_byte(b, '0');
    for (int32_t i = 0; i < fraction_digits(d); i++) {
        if (i == 0)
            buf_byte(b, '.');
        buf_byte(b, (char)('0' + digit_at(d, i)));
    }
}

/* ----------------------------------------------------------------------------------------- reading */

enum spelling { SPELLING_START, SPELLING_SIGN, SPELLING_ZERO, SPELLING_WHOLE, SPELLING_POINT, SPELLING_FRACTION };
enum order { LESS, EQUAL, GREATER };

/* How the magnitude read so far stands to that of a bound. */
struct beside {
    uint8_t order, at; /* of the digits so far; in the integer: how many; in the fraction: how many while EQUAL */
    uint8_t decided;   /* in the fraction: the integers differ, or its digits */
    uint8_t unused;
};

struct reading {
    uint8_t spelling, negative, nonzero, places; /* places: digits of the fraction, up to the divisor's */
    struct beside low, high;
    uint32_t rest; /* modulo the divisor */
};

struct divisor {
    uint32_t k;
    int32_t places; /* k * 10^-places */
};

struct numbers {
    const struct number_range *r;
    struct divisor divisor; /* k 0: none */
    struct interned states; /* struct reading */
    struct buf rows;        /* uint16_t, by class: '-', '.', '0' to '9' */
};

enum { CLASS_MINUS = 1, CLASS_POINT, CLASS_DIGIT, CLASSES = CLASS_DIGIT + 10 };

/* One digit of the integer. */
static void beside_digit(struct beside *c, const struct decimal *bound, int digit) {
    int32_t whole = whole_digits(bound);
    if (c->at <= whole && c->at < DIGITS_MAX) {
        int other = c->at < whole ? digit_at(bound, c->at - whole) : 0;
        if (c->order == EQUAL && digit != other)
            c->order = digit < other ? LESS : GREATER;
        c->at++;
    }
}

/* The integer is whole. */
static void beside_point(struct beside *c, const struct decimal *bound) {
    int32_t whole = whole_digits(bound);
    if (c->at != whole)
        c->order = c->at < whole ? LESS : GREATER;
    c->decided = c->order != EQUAL;
    c->at = 0;
}

static void beside_fraction(struct beside *c, const struct decimal *bound, int digit) {
    if (c->decided)
        return;
    int other = digit_at(bound, c->at);
    if (digit != other) {
        c->order = digit < other ? LESS : GREATER;
        c->decided = 1;
        c->at = 0;
    } else if (c->at < fraction_digits(bound)) {
        c->at++;
    }
}

/* As the number stands, were it to end here. */
static enum order beside_end(struct beside c, const struct decimal *bound, bool fraction) {
    if (!fraction)
        beside_point(&c, bound);
    return !c.decided && c.at < fraction_digits(bound) ? LESS : (enum order)c.order;
}

/* The same of the signed number and bound. */
static enum order signed_order(const struct reading *n, struct beside c, const struct decimal *bound) {
    if (n->negative != bound->negative)
        return n->negative ? LESS : GREATER;
    enum order o = beside_end(c, bound, n->spelling >= SPELLING_POINT);
    return n->negative ? (enum order)(GREATER - o) : o;
}

static bool divides(const struct numbers *s, const struct reading *n) {
    uint64_t rest = n->rest;
    if (!s->divisor.k)
        return true;
    for (int32_t i = n->places; i < s->divisor.places; i++)
        rest = rest * 10 % s->divisor.k;
    return rest == 0;
}

static bool number_accepts(const struct numbers *s, const struct reading *n) {
    if (n->spelling != SPELLING_ZERO && n->spelling != SPELLING_WHOLE && n->spelling != SPELLING_FRACTION)
        return false;
    if ((n->negative && !n->nonzero) || !divides(s, n))
        return false;
    const struct decimal *low = s->r->low, *high = s->r->high;
    enum order least = low ? signed_order(n, n->low, low) : GREATER;
    enum order most = high ? signed_order(n, n->high, high) : LESS;
    return least != LESS && most != GREATER && !(least == EQUAL && s->r->above) && !(most == EQUAL && s->r->below);
}

static void take_digit(const struct numbers *s, struct reading *n, int digit) {
    bool fraction = n->spelling >= SPELLING_POINT;
    n->nonzero |= digit != 0;
    if (fraction) {
        if (s->r->low)
            beside_fraction(&n->low, s->r->low, digit);
        if (s->r->high)
            beside_fraction(&n->high, s->r->high, digit);
        n->spelling = SPELLING_FRACTION;
    } else if (n->spelling < SPELLING_WHOLE && digit == 0) {
        n->spelling = SPELLING_ZERO;
    } else {
        if (s->r->low)
            beside_digit(&n->low, s->r->low, digit);
        if (s->r->high)
            beside_digit(&n->high, s->r->high, digit);
        n->spelling = SPELLING_WHOLE;
    }
    if (s->divisor.k && (!fraction || n->places < s->divisor.places)) {
        n->rest = (uint32_t)(((uint64_t)n->rest * 10 + (uint64_t)digit) % s->divisor.k);
        n->places = (uint8_t)(n->places + fraction);
    }
}

/* False: the character may not come. */
static bool reading_step(const struct numbers *s, struct reading *n, int class) {
    if (class == CLASS_MINUS) {
        n->negative = 1;
        bool first = n->spelling == SPELLING_START;
        n->spelling = SPELLING_SIGN;
        return first;
    }
    if (class == CLASS_POINT) {
        if (s->r->whole || (n->spelling != SPELLING_ZERO && n->spelling != SPELLING_WHOLE))
            return false;
        n->spelling = SPELLING_POINT;
        if (s->r->low)
            beside_point(&n->low, s->r->low);
        if (s->r->high)
            beside_point(&n->high, s->r->high);
        return true;
    }
    int digit = class - CLASS_DIGIT;
    bool behind = n->spelling >= SPELLING_POINT && n->places >= s->divisor.places && s->divisor.k;
    if (class < CLASS_DIGIT || n->spelling == SPELLING_ZERO || (behind && digit != 0))
        return false;
    take_digit(s, n, digit);
    return true;
}

/* ----------------------------------------------------------------------------------------- together */

static bool read_divisor(const struct decimal *d, struct divisor *out) {
    uint64_t k = 0;
    *out = (struct divisor){0};
    if (!d)
        return true;
    for (uint32_t i = 0; i < d->count && k <= DIVISOR_MAX; i++)
        k = k * 10 + d->digits[i];
    int32_t zeros = d->point - (int32_t)d->count;
    for (int32_t i = 0; i < zeros && k <= DIVISOR_MAX; i++)
        k *= 10;
    *out = (struct divisor){(uint32_t)k, zeros < 0 ? -zeros : 0};
    return k > 0 && k <= DIVISOR_MAX && !d->negative;
}

static int number_rows(struct numbers *s, struct budget *g, const char *where) {
    for (uint32_t i = 0; i < s->states.count; i++) {
        int rc = budget_spend(g, CLASSES);
        for (int class = 0; class < CLASSES && !rc; class ++) {
            struct reading n = *(const struct reading *)interned_at(&s->states, i);
            uint32_t to = reading_step(s, &n, class) ? interned_id(&s->states, &n) : DFA_DEAD;
            uint16_t cell = (uint16_t)to;
            if (to == NONE)
                rc = err_memory(g->e);
            else if (to != DFA_DEAD && to >= DFA_STATES)
                rc = err_set(g->e, SONDE_ERROR_UNSUPPORTED, "%s: a range and divisor of so many digits", where);
            buf_append(&s->rows, &cell, sizeof(cell));
        }
        if (rc)
            return rc;
    }
    return s->rows.failed ? err_memory(g->e) : SONDE_OK;
}

int dfa_numbers(const struct number_range *r, const char *where, struct budget *g, struct dfa **out) {
    struct numbers s = {.r = r, .states = {.record = sizeof(struct reading)}};
    struct reading start = {.low = {.order = EQUAL}, .high = {.order = EQUAL}};
    if (!read_divisor(r->multiple, &s.divisor))
        return err_set(g->e, SONDE_ERROR_UNSUPPORTED, "%s: a divisor that is not above 0 or of too many digits", where);
    int rc = interned_id(&s.states, &start) == NONE ? err_memory(g->e) : number_rows(&s, g, where);
    struct dfa *d = rc ? NULL : dfa_new(s.states.count, CLASSES);
    if (!rc && !d)
        rc = err_memory(g->e);
    if (d) {
        d->class_of['-'] = CLASS_MINUS;
        d->class_of['.'] = CLASS_POINT;
        for (int digit = 0; digit < 10; digit++)
            d->class_of['0' + digit] = (uint8_t)(CLASS_DIGIT + digit);
        memcpy(d->next, s.rows.data, s.rows.len);
        for (uint32_t i = 0; i < d->count; i++)
            d->label[i] = number_accepts(&s, interned_at(&s.states, i));
        rc = dfa_trim(d, g);
    }
    if (rc)
        dfa_free(d);
    else
        *out = d;
    buf_release(&s.rows);
    interned_release(&s.states);
    return rc;
}
