/*
 * grammar_scalar.c - strings and numbers: what schemas that hold together leave of them.
 *
 * Each keyword is an automaton, and all of them together their product. Lengths alone are counted by the machine;
 * beside patterns and formats they go into the product too, since not every length may be possible.
 *
 * Formats that are regular and commonly meant are enforced; all others are annotations, as the specification has them.
 */
#include <string.h>

#include "text/grammar_internal.h"

#define DAY31     "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
#define DAY30     "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
#define DAY28     "02-(0[1-9]|1[0-9]|2[0-8])"
#define LEAP_YEAR "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
#define DATE      "([0-9]{4}-(" DAY31 "|" DAY30 "|" DAY28 ")|" LEAP_YEAR "-02-29)"
#define HOUR      "([01][0-9]|2[0-3])"
#define SECONDS   ":[0-5][0-9](\\.[0-9]+)?([Zz]|[+-]" HOUR ":[0-5][0-9])"
#define LEAP      "23:59:60(\\.[0-9]+)?([Zz]|[+-]00:00)"
#define TIME      "(" HOUR ":[0-5][0-9]" SECONDS "|" LEAP ")"
#define TIME_SPAN "T([0-9]+S|[0-9]+M([0-9]+S)?|[0-9]+H([0-9]+M([0-9]+S)?)?)"
#define DATE_SPAN "([0-9]+D|[0-9]+M([0-9]+D)?|[0-9]+Y([0-9]+M([0-9]+D)?)?)"
#define ATOM      "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define LABEL     "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define BYTE      "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define IPV4      BYTE "(\\." BYTE "){3}"
#define H         "[0-9A-Fa-f]{1,4}"
/* Groups, then "::", then at most so many that there is still something for it to stand for. */
#define IPV6_HEX                                                                                                       \
    "(" H ":){7}" H "|(" H ":){1,7}:|(" H ":){1,6}:" H "|(" H ":){1,5}(:" H "){2}|(" H ":){1,4}(:" H "){3}|(" H        \
    ":){1,3}(:" H "){4}|(" H ":){1,2}(:" H "){5}|" H ":(:" H "){6}|:((:" H "){1,7}|:)"
#define IPV6_IPV4                                                                                                      \
    "((" H ":){6}|::(" H ":){0,5}|" H "::(" H ":){0,4}|(" H ":){2}:(" H ":){0,3}|(" H ":){3}:(" H ":){0,2}|(" H        \
    ":){4}:(" H ":)?|(" H ":){5}:)" IPV4

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "[Tt]" TIME "$"},
    {"duration", "^P([0-9]+W|" DATE_SPAN "(" TIME_SPAN ")?|" TIME_SPAN ")$"},
    {"uuid", "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"},
    {"email", "^" ATOM "(\\." ATOM ")*@" LABEL "(\\." LABEL ")*$"},
    {"ipv4", "^" IPV4 "$"},
    {"ipv6", "^(" IPV6_HEX "|" IPV6_IPV4 ")$"},
};

/* ---------------------------------------------------------------------------------------- patterns */

struct known_pattern {
    const char *source;
    size_t bytes;
    const struct dfa *texts;
};

int build_pattern(struct build *b, const struct jnode *place, const char *source, size_t bytes, const struct dfa **d) {
    struct known_pattern *known = (struct known_pattern *)(void *)b->patterns.data, new = {source, bytes, NULL};
    for (size_t i = 0; i < b->patterns.len / sizeof(*known); i++)
        if (known[i].bytes == bytes && memcmp(known[i].source, source, bytes) == 0) {
            *d = known[i].texts;
            return SONDE_OK;
        }
    struct dfa *texts;
    struct sonde_error *e = b->budget.e, why;
    b->budget.e = &why; /* whose message goes behind the place */
    int rc = dfa_regex(source, bytes, "pattern", &b->budget, &texts);
    b->budget.e = e;
    if (rc == SONDE_ERROR_UNSUPPORTED)
        return build_refuse(b, place, "%.200s, which", why.message);
    if (rc == SONDE_ERROR_FORMAT)
        return build_malformed(b, place, "%.200s", why.message);
    rc = rc ? err_memory(e) : build_keep(b, texts, &new.texts);
    if (rc)
        return rc;
    buf_append(&b->patterns, &new, sizeof(new));
    *d = new.texts;
    return b->patterns.failed ? err_memory(e) : SONDE_OK;
}

/* *d is NULL for a format that is an annotation. */
static int build_format(struct build *b, const struct jnode *name, const struct dfa **d) {
    *d = NULL;
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (jnode_says(name, formats[i].name))
            return build_pattern(b, name, formats[i].pattern, strlen(formats[i].pattern), d);
    return SONDE_OK;
}

/* *all, NULL for anything, becomes what d accepts too; NULL for d changes nothing. */
static int narrow(struct build *b, const struct dfa **all, const struct dfa *d) {
    struct dfa *both;
    if (!*all || !d) {
        *all = d ? d : *all;
        return SONDE_OK;
    }
    int rc = dfa_product(*all, d, DFA_AND, &b->budget, &both);
    return rc ? rc : build_keep(b, both, all);
}

/* ---------------------------------------------------------------------------------------- bounds */

/* A whole number that is not negative; more than UNBOUNDED - 1 counts as that. */
static int read_count(struct build *b, const struct jnode *n, uint32_t *value) {
    struct decimal d;
    uint64_t count = 0;
    if (!decimal_read(n->text, n->length, &d) || d.negative || (d.count && d.point < (int32_t)d.count))
        return build_malformed(b, n, "a whole number that is not negative is expected");
    for (int32_t i = 0; i < (d.count ? d.point : 0); i++)
        count = min_u64(count * 10 + (i < (int32_t)d.count ? d.digits[i] : 0), UNBOUNDED - 1);
    *value = (uint32_t)count;
    return SONDE_OK;
}

int build_bounds(struct build *b, const struct conjunction *c, const char *least, const char *most, uint32_t *min,
                 uint32_t *max) {
    int rc = SONDE_OK;
    *min = 0;
    *max = UNBOUNDED;
    for (uint32_t i = 0; i < c->count && !rc; i++) {
        const struct jnode *low = NULL, *high = NULL;
        uint32_t value;
        if (c->parts[i].kind == PART_OWN) {
            low = schema_member(c->parts[i].node, least);
            high = schema_member(c->parts[i].node, most);
        }
        if (low && !(rc = read_count(b, low, &value)))
            *min = value > *min ? value : *min;
        if (high && !rc && !(rc = read_count(b, high, &value)))
            *max = value < *max ? value : *max;
    }
    return rc;
}

/* ---------------------------------------------------------------------------------------- strings */

static int narrow_by_schema(struct build *b, const struct jnode *schema, const struct dfa **all) {
    const struct jnode *pattern = schema_member(schema, "pattern"), *format = schema_member(schema, "format");
    const struct dfa *d = NULL;
    int rc = pattern ? build_pattern(b, pattern, pattern->text, pattern->length, &d) : SONDE_OK;
    rc = rc ? rc : narrow(b, all, d);
    d = NULL;
    if (!rc && format)
        rc = build_format(b, format, &d);
    return rc ? rc : narrow(b, all, d);
}

int build_strings(struct build *b, const struct conjunction *c, struct string_part *part) {
    const struct dfa *all = NULL, *any = c->mode == NODE_VALUE ? b->g->values : b->g->texts;
    *part = (struct string_part){0};
    int rc = build_bounds(b, c, "minLength", "maxLength", &part->min, &part->max);
    for (uint32_t i = 0; i < c->count && !rc; i++)
        if (c->parts[i].kind == PART_OWN)
            rc = narrow_by_schema(b, c->parts[i].node, &all);
    if (rc || part->min > part->max)
        return rc;
    if (!all) {
        part->texts = any;
        part->free = true;
        return SONDE_OK;
    }
    if (part->min > 0 || part->max != UNBOUNDED) {
        struct dfa *lengths;
        const struct dfa *kept;
        rc = dfa_lengths(part->min, part->max, &b->budget, &lengths);
        rc = rc ? rc : build_keep(b, lengths, &kept);
        rc = rc ? rc : narrow(b, &all, kept);
        part->min = 0;
        part->max = UNBOUNDED;
    }
    if (!rc && c->mode == NODE_VALUE)
        rc = narrow(b, &all, any);
    part->texts = all && all->count ? all : NULL;
    return rc;
}

/* ---------------------------------------------------------------------------------------- numbers */

static int narrow_by_number(struct build *b, const struct jnode *schema, const char *key, bool whole,
                            const struct dfa **all) {
    const struct jnode *n = schema_member(schema, key);
    struct number_range range = {.whole = whole};
    struct decimal value;
    struct dfa *d;
    const struct dfa *kept;
    if (!n)
        return SONDE_OK;
    if (!decimal_read(n->text, n->length, &value))
        return build_refuse(b, n, "a number of so many digits");
    if (strcmp(key, "multipleOf") == 0)
        range.multiple = &value;
    else if (strstr(key, "inimum"))
        range.low = &value;
    else
        range.high = &value;
    range.above = range.below = key[0] == 'e';
    if (range.multiple && (value.negative || !value.count))
        return build_malformed(b, n, "a number above 0 is expected");
    struct sonde_error *e = b->budget.e, why;
    b->budget.e = &why;
    int rc = dfa_numbers(&range, key, &b->budget, &d);
    b->budget.e = e;
    if (rc)
        return rc == SONDE_ERROR_MEMORY ? err_memory(e) : build_refuse(b, n, "a number of so many digits");
    rc = build_keep(b, d, &kept);
    return rc ? rc : narrow(b, all, kept);
}

int build_numbers(struct build *b, const struct conjunction *c, bool whole, const struct dfa **numbers) {
    static const char *const keys[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};
    static const char integer[] = "^(0|-?[1-9][0-9]*)$";
    static const char number[] = "^-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$";
    const struct dfa *all = NULL;
    int rc = SONDE_OK;
    for (uint32_t i = 0; i < c->count; i++)
        for (size_t k = 0; k < COUNT_OF(keys) && !rc && c->parts[i].kind == PART_OWN; k++)
            rc = narrow_by_number(b, c->parts[i].node, keys[k], whole, &all);
    if (!rc && !all)
        rc = whole ? build_pattern(b, NULL, integer, strlen(integer), &all)
                   : build_pattern(b, NULL, number, strlen(number), &all);
    *numbers = all && all->count ? all : NULL;
    return rc;
}
