/*
 * json.c - reading and writing JSON without changing it.
 *
 * A decoded string and its terminator are shorter than its source with quotes, and a number is followed by a
 * separator or the end; so one block of the input's size plus one holds all text. Nodes come in blocks and do not
 * move.
 */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

enum { BLOCK = 128 };

struct jnode_block {
    struct jnode_block *next;
    size_t used;
    struct jnode nodes[BLOCK];
};

struct reader {
    const char *s, *what;
    size_t count, at;
    char *text; /* where the next string goes */
    struct jtree *tree;
    struct sonde_error *e;
};

/* ----------------------------------------------------------------------------------------- reading */

static int malformed(const struct reader *r, const char *why) {
    return err_set(r->e, SONDE_ERROR_FORMAT, "%s: not valid JSON, byte %zu: %s", r->what, r->at, why);
}

static int peek(const struct reader *r) {
    return r->at < r->count ? (unsigned char)r->s[r->at] : -1;
}

static void skip_space(struct reader *r) {
    while (r->at < r->count && memchr(" \t\n\r", r->s[r->at], 4))
        r->at++;
}

static struct jnode *new_node(struct reader *r) {
    struct jnode_block *block = r->tree->blocks;
    if (!block || block->used == BLOCK) {
        block = malloc(sizeof(*block));
        if (!block)
            return NULL;
        block->used = 0;
        block->next = r->tree->blocks;
        r->tree->blocks = block;
    }
    struct jnode *node = &block->nodes[block->used++];
    *node = (struct jnode){0};
    return node;
}

static int hex4(const struct reader *r, size_t at) {
    int value = 0;
    for (size_t i = at; i < at + 4; i++) {
        int c = i < r->count ? r->s[i] : 0, digit;
        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (c | 0x20) - 'a' + 10;
        else
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static void put_character(struct reader *r, uint32_t c) {
    if (c < 0x80) {
        *r->text++ = (char)c;
        return;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    *r->text++ = (char)((more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0) | c >> (6 * more));
    while (more--)
        *r->text++ = (char)(0x80 | (c >> (6 * more) & 0x3f));
}

/* \uHHHH, and the second half of a surrogate pair with it; r->at is at the 'u'. */
static int read_unicode(struct reader *r) {
    int c = hex4(r, r->at + 1);
    if (c < 0)
        return malformed(r, "four hexadecimal digits are expected");
    if (c >= 0xdc00 && c < 0xe000)
        return malformed(r, "half a surrogate pair");
    if (c >= 0xd800 && c < 0xdc00) {
        bool escaped = r->at + 6 < r->count && r->s[r->at + 5] == '\\' && r->s[r->at + 6] == 'u';
        int low = escaped ? hex4(r, r->at + 7) : -1;
        if (low < 0xdc00 || low >= 0xe000)
            return malformed(r, "half a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        r->at += 6;
    }
    put_character(r, (uint32_t)c);
    r->at += 5;
    return SONDE_OK;
}

static int read_escape(struct reader *r) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    r->at++;
    int c = peek(r);
    if (c == 'u')
        return read_unicode(r);
    const char *at = c > 0 ? strchr(from, c) : NULL;
    if (!at)
        return malformed(r, "an unknown escape");
    *r->text++ = to[at - from];
    r->at++;
    return SONDE_OK;
}

static int read_string(struct reader *r, const char **text, size_t *length) {
    *text = r->text;
    r->at++;
    for (int c; (c = peek(r)) != '"';) {
        if (c < 0x20)
            return malformed(r, c < 0 ? "a string does not end" : "a control character in a string");
        if (c == '\\') {
            int rc = read_escape(r);
            if (rc)
                return rc;
            continue;
        }
        enum utf8_kind kind;
        size_t n = utf8_next(r->s + r->at, r->count - r->at, &kind);
        if (kind != UTF8_WHOLE)
            return malformed(r, "not UTF-8");
        memcpy(r->text, r->s + r->at, n);
        r->text += n;
        r->at += n;
    }
    *length = (size_t)(r->text - *text);
    *r->text++ = 0;
    r->at++;
    return SONDE_OK;
}

static size_t digits(const struct reader *r, size_t at) {
    size_t n = 0;
    while (at + n < r->count && r->s[at + n] >= '0' && r->s[at + n] <= '9')
        n++;
    return n;
}

static int read_number(struct reader *r, struct jnode *node) {
    size_t at = r->at + (peek(r) == '-'), whole = digits(r, at);
    bool good = whole == 1 || (whole > 1 && r->s[at] != '0');
    at += whole;
    if (good && at < r->count && r->s[at] == '.') {
        size_t n = digits(r, at + 1);
        good = n > 0;
        at += 1 + n;
    }
    if (good && at < r->count && (r->s[at] | 0x20) == 'e') {
        at++;
        at += at < r->count && (r->s[at] == '+' || r->s[at] == '-');
        size_t n = digits(r, at);
        good = n > 0;
        at += n;
    }
    if (!good)
        return malformed(r, "a value is expected");
    node->kind = JNODE_NUMBER;
    node->length = at - r->at;
    node->text = r->text;
    memcpy(r->text, r->s + r->at, node->length);
    r->text += node->length;
    *r->text++ = 0;
    r->at = at;
    return SONDE_OK;
}

static int compare_keys(const void *a, const void *b) {
    const struct jnode *x = *(struct jnode *const *)a, *y = *(struct jnode *const *)b;
    int order = memcmp(x->key, y->key, x->key_length < y->key_length ? x->key_length : y->key_length);
    return order ? order : (x->key_length > y->key_length) - (x->key_length < y->key_length);
}

static int check_keys(const struct reader *r, const struct jnode *object) {
    if (object->count < 2)
        return SONDE_OK;
    const struct jnode **sorted = malloc(object->count * sizeof(*sorted));
    if (!sorted)
        return err_memory(r->e);
    size_t n = 0;
    int rc = SONDE_OK;
    for (const struct jnode *member = object->first; member; member = member->next)
        sorted[n++] = member;
    qsort(sorted, n, sizeof(*sorted), compare_keys);
    for (size_t i = 1; !rc && i < n; i++)
        if (compare_keys(&sorted[i - 1], &sorted[i]) == 0)
            rc = err_set(r->e, SONDE_ERROR_FORMAT, "%s: not valid JSON: duplicate key \"%s\"", r->what, sorted[i]->key);
    free(sorted);
    return rc;
}

static int read_value(struct reader *r, int depth, struct jnode **out);

static int read_key(struct reader *r, const char **key, size_t *length) {
    skip_space(r);
    if (peek(r) != '"')
        return malformed(r, "a key is expected");
    int rc = read_string(r, key, length);
    if (rc)
        return rc;
    skip_space(r);
    if (peek(r) != ':')
        return malformed(r, "':' is expected");
    r->at++;
    return SONDE_OK;
}

/* Arrays and objects; r->at is at the bracket. */
static int read_members(struct reader *r, int depth, struct jnode *parent, char close) {
    struct jnode **link = &parent->first;
    bool object = close == '}';
    r->at++;
    skip_space(r);
    if (peek(r) == close) {
        r->at++;
        return SONDE_OK;
    }
    for (;; r->at++) {
        const char *key = NULL;
        size_t key_length = 0;
        int rc = object ? read_key(r, &key, &key_length) : SONDE_OK;
        if (!rc)
            rc = read_value(r, depth + 1, link);
        if (rc)
            return rc;
        (*link)->key = key;
        (*link)->key_length = key_length;
        link = &(*link)->next;
        parent->count++;
        skip_space(r);
        if (peek(r) == close)
            break;
        if (peek(r) != ',')
            return malformed(r, object ? "',' or '}' is expected" : "',' or ']' is expected");
    }
    r->at++;
    return object ? check_keys(r, parent) : SONDE_OK;
}

static int read_word(struct reader *r, const char *word, enum jkind kind, struct jnode *node) {
    size_t n = strlen(word);
    if (r->count - r->at < n || memcmp(r->s + r->at, word, n) != 0)
        return malformed(r, "a value is expected");
    r->at += n;
    node->kind = kind;
    return SONDE_OK;
}

static int read_value(struct reader *r, int depth, struct jnode **out) {
    if (depth > JNODE_DEPTH)
        return malformed(r, "nested too deeply");
    struct jnode *node = *out = new_node(r);
    if (!node)
        return err_memory(r->e);
    skip_space(r);
    switch (peek(r)) {
    case '{':
        node->kind = JNODE_OBJECT;
        return read_members(r, depth, node, '}');
    case '[':
        node->kind = JNODE_ARRAY;
        return read_members(r, depth, node, ']');
    case '"':
        node->kind = JNODE_STRING;
        return read_string(r, &node->text, &node->length);
    case 't':
        return read_word(r, "true", JNODE_TRUE, node);
    case 'f':
        return read_word(r, "false", JNODE_FALSE, node);
    case 'n':
        return read_word(r, "null", JNODE_NULL, node);
    default:
        return read_number(r, node);
    }
}

int jtree_parse(const char *bytes, size_t count, const char *what, struct jtree *tree, struct sonde_error *e) {
    struct jtree parsed = {0};
    uint64_t room;
    parsed.text = size_add(count, 1, &room) ? malloc(room) : NULL;
    if (!parsed.text)
        return err_memory(e);
    struct reader r = {.s = bytes, .what = what, .count = count, .text = parsed.text, .tree = &parsed, .e = e};
    int rc = read_value(&r, 0, &parsed.root);
    skip_space(&r);
    if (!rc && r.at < r.count)
        rc = malformed(&r, "the end is expected");
    if (rc)
        jtree_release(&parsed);
    else
        *tree = parsed;
    return rc;
}

void jtree_release(struct jtree *tree) {
    for (struct jnode_block *block = tree->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(tree->text);
    *tree = (struct jtree){0};
}

/* ------------------------------------------------------------------------------------------ asking */

const struct jnode *jnode_get(const struct jnode *object, const char *key) {
    if (!jnode_is(object, JNODE_OBJECT))
        return NULL;
    size_t length = strlen(key);
    for (const struct jnode *n = object->first; n; n = n->next)
        if (n->key_length == length && memcmp(n->key, key, length) == 0)
            return n->kind == JNODE_NULL ? NULL : n;
    return NULL;
}

bool jnode_is(const struct jnode *node, enum jkind kind) {
    return node && node->kind == kind;
}

bool jnode_says(const struct jnode *node, const char *text) {
    return jnode_is(node, JNODE_STRING) && node->length == strlen(text) && memcmp(node->text, text, node->length) == 0;
}

/* Numbers are read and printed with a point whatever the program's locale has. */
static double number_of(const char *lexeme) {
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before = uselocale(c);
    double x = strtod(lexeme, NULL);
    uselocale(before);
    if (c)
        freelocale(c);
    return x;
}

bool jnode_number(const struct jnode *node, double *value) {
    if (!jnode_is(node, JNODE_NUMBER))
        return false;
    *value = number_of(node->text);
    return true;
}

bool jnode_truth(const struct jnode *node) {
    if (!node)
        return false;
    switch (node->kind) {
    case JNODE_NULL:
    case JNODE_FALSE:
        return false;
    case JNODE_TRUE:
        return true;
    case JNODE_NUMBER:
        return strspn(node->text, "-0.") < strcspn(node->text, "eE");
    case JNODE_STRING:
        return node->length > 0;
    default:
        return node->count > 0;
    }
}

/* ----------------------------------------------------------------------------------------- writing */

void json_write_string(struct buf *b, const char *text, size_t count) {
    static const char special[] = "\"\\\n\r\t\f\b", letter[] = "\"\\nrtfb";
    size_t clean = 0;
    if (!count)
        text = ""; /* may be NULL */
    buf_byte(b, '"');
    for (size_t i = 0; i < count; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        utf8_append(b, text + clean, i - clean);
        clean = i + 1;
        const char *at = c ? strchr(special, c) : NULL;
        if (at)
            buf_printf(b, "\\%c", letter[at - special]);
        else
            buf_printf(b, "\\u%04x", c);
    }
    utf8_append(b, text + clean, count - clean);
    buf_byte(b, '"');
}

/* A finite float as Python's repr: the fewest digits that read back as the same number, written out where the
 * decimal exponent is from -4 to 15 and as d.ddde+XX otherwise. */
static void write_finite(struct buf *b, double x) {
    char digit[32];
    int precision = 0;
    do
        snprintf(digit, sizeof(digit), "%.*e", precision, x);
    while (strtod(digit, NULL) != x && ++precision < 17);
    int exponent = atoi(strchr(digit, 'e') + 1);
    if (exponent < -4 || exponent >= 16)
        buf_string(b, digit);
    else
        buf_printf(b, "%.*f%s", precision > exponent ? precision - exponent : 0, x, precision > exponent ? "" : ".0");
}

/* The same when printed. */
static void write_float(struct buf *b, const char *lexeme) {
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before = uselocale(c);
    double x = strtod(lexeme, NULL);
    if (x - x != 0)
        buf_string(b, x > 0 ? "Infinity" : "-Infinity");
    else
        write_finite(b, x);
    uselocale(before);
    if (c)
        freelocale(c);
}

static void write_number(struct buf *b, const struct jnode *node) {
    if (node->text[strcspn(node->text, ".eE")])
        write_float(b, node->text);
    else
        buf_string(b, strcmp(node->text, "-0") == 0 ? "0" : node->text);
}

static void write_members(struct buf *b, const struct jnode *node) {
    bool object = node->kind == JNODE_OBJECT;
    buf_byte(b, object ? '{' : '[');
    for (const struct jnode *n = node->first; n; n = n->next) {
        if (object) {
            json_write_string(b, n->key, n->key_length);
            buf_string(b, ": ");
        }
        jnode_write(b, n);
        if (n->next)
            buf_string(b, ", ");
    }
    buf_byte(b, object ? '}' : ']');
}

/* Recursion is as deep as reading was: JNODE_DEPTH. */
void jnode_write(struct buf *b, const struct jnode *node) {
    switch (node->kind) {
    case JNODE_NULL:
        buf_string(b, "null");
        break;
    case JNODE_FALSE:
        buf_string(b, "false");
        break;
    case JNODE_TRUE:
        buf_string(b, "true");
        break;
    case JNODE_NUMBER:
        write_number(b, node);
        break;
    case JNODE_STRING:
        json_write_string(b, node->text, node->length);
        break;
    default:
        write_members(b, node);
    }
}
