/*
 * pattern.c - split patterns: Oniguruma's language, PCRE2's engine.
 *
 * Hugging Face tokenizers compile their patterns with Oniguruma in Ruby syntax. Most of what tokenizers use
 * means the same to PCRE2, some of it silently does not. translate() lets through what is known to mean the
 * same, rewrites what can be rewritten, and refuses the rest, so that no file splits otherwise than it was
 * trained:
 *
 *     \s \S       White_Space; under UCP PCRE2 would add U+180E            rewritten
 *     ^ $         always match at lines                                    PCRE2_MULTILINE, newline is LF
 *     .           all but LF                                               newline is LF
 *     \v          vertical tab; a class in PCRE2                           rewritten
 *     \uHHHH                                                               rewritten
 *     \p{Han}     the script; script extensions in PCRE2 since 10.40       rewritten to \p{sc:Han}
 *     \w \b \h \H other sets than PCRE2's                                  refused
 *     [a[b]] &&   set operations                                           refused
 *     {n}? {n}+   no lazy or possessive forms in Ruby syntax               refused
 *     \S in []    cannot be written as a class                             refused
 *
 * A pattern that runs wild on some text is stopped by the match limit, which grows with the text: patterns that
 * look at each byte a few times never reach it.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

#define SPACE_SET "\\t-\\r\\x{85}\\p{Z}"

struct pattern {
    pcre2_code *code;
};

struct matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

/* ------------------------------------------------------------------------------------ translate */

struct translation {
    const char *s;
    size_t count, at;
    bool in_class;
    struct buf *out;
    const char *what;
    struct sonde_error *e;
};

static int refuse(const struct translation *t, const char *construct) {
    return err_set(t->e, SONDE_ERROR_UNSUPPORTED, "%s: %s at byte %zu of the pattern is not supported", t->what,
                   construct, t->at);
}

static int peek(const struct translation *t, size_t ahead) {
    return t->at + ahead < t->count ? (unsigned char)t->s[t->at + ahead] : -1;
}

static void copy(struct translation *t, size_t count) {
    buf_append(t->out, t->s + t->at, count);
    t->at += count;
}

static bool is_hex(int c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \p{Name} and \P{Name}: general categories as they are, all else as a script. */
static int property(struct translation *t) {
    size_t name = t->at + 3, end = name;
    while (end < t->count && t->s[end] != '}')
        end++;
    if (peek(t, 2) != '{' || end == t->count || end - name > 40)
        return refuse(t, "a property without braces");
    bool negated = end > name && t->s[name] == '^';
    size_t length = end - name - negated;
    if (length > 2) {
        buf_append(t->out, t->s + t->at, 3);
        buf_printf(t->out, "%ssc:%.*s}", negated ? "^" : "", (int)length, t->s + name + negated);
        t->at = end + 1;
    } else {
        copy(t, end + 1 - t->at);
    }
    return SONDE_OK;
}

/* \uHHHH and \x{H...}. */
static int code_point(struct translation *t) {
    size_t digits = 0;
    if (peek(t, 1) == 'u') {
        while (digits < 4 && is_hex(peek(t, 2 + digits)))
            digits++;
        if (digits < 4)
            return refuse(t, "this escape");
        buf_printf(t->out, "\\x{%.4s}", t->s + t->at + 2);
        t->at += 6;
        return SONDE_OK;
    }
    while (is_hex(peek(t, 3 + digits)))
        digits++;
    if (peek(t, 2) != '{' || !digits || digits > 6 || peek(t, 3 + digits) != '}')
        return refuse(t, "this escape");
    copy(t, 4 + digits);
    return SONDE_OK;
}

static int escape(struct translation *t) {
    int c = peek(t, 1);
    switch (c) {
    case 's':
        buf_printf(t->out, t->in_class ? "%s" : "[%s]", SPACE_SET);
        t->at += 2;
        return SONDE_OK;
    case 'S':
        if (t->in_class)
            return refuse(t, "\\S inside []");
        buf_string(t->out, "[^" SPACE_SET "]");
        t->at += 2;
        return SONDE_OK;
    case 'v':
        buf_string(t->out, "\\x0b");
        t->at += 2;
        return SONDE_OK;
    case 'p':
    case 'P':
        return property(t);
    case 'u':
    case 'x':
        return code_point(t);
    case 'A':
    case 'z':
    case 'Z':
        if (t->in_class)
            return refuse(t, "this escape");
        copy(t, 2);
        return SONDE_OK;
    default:
        if (c < 0x20 || c >= 0x7f || (c >= '0' && c <= '9') ||
            (((c | 0x20) >= 'a' && (c | 0x20) <= 'z') && !strchr("nrtfaedD", c)))
            return refuse(t, "this escape");
        copy(t, 2);
        return SONDE_OK;
    }
}

static int group(struct translation *t) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (peek(t, 1) == '*')
        return refuse(t, "(*");
    if (peek(t, 1) != '?') {
        copy(t, 1);
        return SONDE_OK;
    }
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        size_t length = strlen(known[i]);
        if (t->count - t->at >= length && memcmp(t->s + t->at, known[i], length) == 0) {
            copy(t, length);
            return SONDE_OK;
        }
    }
    return refuse(t, "this kind of group");
}

/* {n} {n,} {n,m} */
static int repeat(struct translation *t) {
    size_t n = 1, digits = 0;
    for (; peek(t, n) >= '0' && peek(t, n) <= '9'; n++)
        digits++;
    if (peek(t, n) == ',')
        for (n++; peek(t, n) >= '0' && peek(t, n) <= '9';)
            n++;
    if (!digits || peek(t, n) != '}' || peek(t, n + 1) == '?' || peek(t, n + 1) == '+')
        return refuse(t, "this repetition");
    copy(t, n + 1);
    return SONDE_OK;
}

static int open_class(struct translation *t) {
    t->in_class = true;
    copy(t, peek(t, 1) == '^' ? 2 : 1);
    return peek(t, 0) == ']' ? refuse(t, "[]") : SONDE_OK;
}

static int in_class(struct translation *t) {
    int c = peek(t, 0);
    if (c == '[')
        return refuse(t, "[ inside []");
    if (c == '&' && peek(t, 1) == '&')
        return refuse(t, "&&");
    if (c == ']')
        t->in_class = false;
    copy(t, 1);
    return SONDE_OK;
}

static int translate(struct translation *t) {
    int rc = SONDE_OK;
    while (!rc && t->at < t->count) {
        char c = t->s[t->at];
        if (c == '\\')
            rc = escape(t);
        else if (t->in_class)
            rc = in_class(t);
        else if (c == '[')
            rc = open_class(t);
        else if (c == '(')
            rc = group(t);
        else if (c == '{')
            rc = repeat(t);
        else
            copy(t, 1);
    }
    return rc;
}

/* ---------------------------------------------------------------------------------------- compile */

static int compile(const char *source, size_t bytes, bool literal, const char *what, struct pattern *p,
                   struct sonde_error *e) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return err_memory(e);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int code;
    PCRE2_SIZE at;
    p->code = pcre2_compile((PCRE2_SPTR)source, bytes, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!p->code) {
        PCRE2_UCHAR why[120];
        pcre2_get_error_message(code, why, sizeof(why));
        return err_set(e, code == PCRE2_ERROR_NOMEMORY ? SONDE_ERROR_MEMORY : SONDE_ERROR_UNSUPPORTED,
                       "%s: the pattern cannot be compiled: %s", what, (const char *)why);
    }
    /* Where the system forbids generated code the interpreter serves. */
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
    return SONDE_OK;
}

int pattern_open(const char *source, size_t bytes, bool literal, const char *what, struct pattern **pattern,
                 struct sonde_error *e) {
    enum { LONGEST = 1 << 16 };
    if (!bytes || bytes > LONGEST)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: a pattern of 1 to %d bytes is expected", what, LONGEST);
    struct buf translated = {0};
    struct pattern *p = calloc(1, sizeof(*p));
    int rc = p ? SONDE_OK : err_memory(e);
    if (!rc && !literal) {
        struct translation t = {.s = source, .count = bytes, .out = &translated, .what = what, .e = e};
        rc = translate(&t);
        if (!rc && translated.failed)
            rc = err_memory(e);
    }
    if (!rc)
        rc = compile(literal ? source : translated.data, literal ? bytes : translated.len, literal, what, p, e);
    buf_release(&translated);
    if (rc) {
        pattern_close(p);
        return rc;
    }
    *pattern = p;
    return SONDE_OK;
}

void pattern_close(struct pattern *p) {
    if (p)
        pcre2_code_free(p->code);
    free(p);
}

/* ------------------------------------------------------------------------------------------ match */

struct matcher *matcher_new(size_t longest) {
    struct matcher *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    if (!m->data || !m->context) {
        matcher_free(m);
        return NULL;
    }
    pcre2_set_match_limit(m->context, (uint32_t)min_u64(1000000 + 8 * (uint64_t)longest, UINT32_MAX));
    return m;
}

void matcher_free(struct matcher *m) {
    if (m) {
        pcre2_match_data_free(m->data);
        pcre2_match_context_free(m->context);
    }
    free(m);
}

static int search(const struct pattern *p, struct matcher *m, const char *text, size_t count, size_t at) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = pcre2_match(p->code, subject, count, at, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, subject, count, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
    return rc;
}

int pattern_next(const struct pattern *p, struct matcher *m, const char *text, size_t count, struct pattern_walk *walk,
                 size_t *begin, size_t *end, struct sonde_error *e) {
    while (walk->at <= count) {
        int rc = search(p, m, text, count, walk->at);
        if (rc == PCRE2_ERROR_NOMATCH)
            return 0;
        if (rc == PCRE2_ERROR_NOMEMORY)
            return err_memory(e);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->data);
        if (rc < 0 || at[1] < at[0] || at[0] < walk->at || at[1] > count)
            return err_set(e, SONDE_ERROR_UNSUPPORTED,
                           "the tokenizer's split pattern needs too many steps on this text");
        if (at[0] == at[1] && walk->any && walk->last_end == at[0]) {
            enum utf8_kind kind;
            walk->at += walk->at < count ? utf8_next(text + walk->at, count - walk->at, &kind) : 1;
            continue;
        }
        *begin = at[0];
        *end = at[1];
        *walk = (struct pattern_walk){.at = at[1], .last_end = at[1], .any = true};
        return 1;
    }
    return 0;
}
