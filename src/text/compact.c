/*
 * compact.c - the vocabulary that Engram hashes: tokens that people would call the same word share a compact id.
 *
 * Two do where their texts fold alike:
 *
 *     compatibility forms become plain ones and accented letters are taken apart (NFKD), marks are dropped (all of
 *     Unicode's category M), letters are lowered one by one, runs of blanks become one, those at the ends are dropped
 *
 * A text that is one blank stays, and one of which nothing is left counts as it was. Half characters have nothing to
 * fold: such tokens count as they are spelled in the byte-level alphabet. Ids are given by first appearance, in the
 * order of tokens. So the released tokenizers' 129280 tokens have 99092 ids.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>
#include <xxhash.h>

#include "text/text_internal.h"

/* -------------------------------------------------------------------------------------------- folding */

static bool is_blank(int32_t c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* What Python's strip() takes off. */
static bool is_space(int32_t c) {
    static const int32_t others[] = {0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000};
    bool space = (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= ' ') || (c >= 0x2000 && c <= 0x200a);
    for (size_t i = 0; i < COUNT_OF(others); i++)
        space |= c == others[i];
    return space;
}

/* True if the bytes are whole characters, none of them U+FFFD, which stands for what was none. */
static bool is_text(const char *bytes, size_t count) {
    while (count) {
        int32_t c;
        ssize_t n = utf8proc_iterate((const uint8_t *)bytes, (ssize_t)count, &c);
        if (n <= 0 || c == 0xfffd)
            return false;
        bytes += n;
        count -= (size_t)n;
    }
    return true;
}

static void put(struct buf *b, int32_t c) {
    uint8_t bytes[4];
    buf_append(b, bytes, (size_t)utf8proc_encode_char(c, bytes));
}

/* Appends what is left of `count` characters, which are changed. */
static void fold_characters(int32_t *c, size_t count, struct buf *b) {
    size_t kept = 0, begin = 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_blank(c[i]))
            c[kept++] = utf8proc_tolower(c[i]);
        else if (!kept || c[kept - 1] != ' ')
            c[kept++] = ' ';
    }
    if (kept == 1 && c[0] == ' ') {
        put(b, ' ');
        return;
    }
    while (kept && is_space(c[kept - 1]))
        kept--;
    while (begin < kept && is_space(c[begin]))
        begin++;
    for (; begin < kept; begin++)
        put(b, c[begin]);
}

/* Appends what a token counts as. */
static int fold(const char *bytes, size_t count, struct buf *b, struct sonde_error *e) {
    const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE | UTF8PROC_STRIPMARK;
    const uint8_t *text = (const uint8_t *)bytes;
    size_t before = b->len;
    if (!is_text(bytes, count)) {
        text_spell(b, bytes, count);
        return SONDE_OK;
    }
    ssize_t characters = utf8proc_decompose(text, (ssize_t)count, NULL, 0, how);
    int32_t *c = characters < 0 ? NULL : calloc((size_t)characters + 1, sizeof(*c));
    if (!c)
        return err_memory(e);
    utf8proc_decompose(text, (ssize_t)count, c, characters, how);
    fold_characters(c, (size_t)characters, b);
    free(c);
    if (b->len == before)
        buf_append(b, bytes, count);
    return SONDE_OK;
}

/* ---------------------------------------------------------------------------------------- token map */

/* Ids of folded texts: a table with open addressing, of 1 + an index into spans, 0 where nobody is. */
struct ids {
    struct buf texts;         /* one behind the other */
    struct text_range *spans; /* [count] by id */
    uint32_t *table;          /* [mask + 1], at most half full */
    uint32_t count, mask;
};

static int ids_init(struct ids *ids, uint32_t most, struct sonde_error *e) {
    *ids = (struct ids){.mask = 15};
    while (ids->mask / 2 < most)
        ids->mask = 2 * ids->mask + 1;
    ids->spans = calloc((size_t)most + 1, sizeof(*ids->spans));
    ids->table = calloc((size_t)ids->mask + 1, sizeof(*ids->table));
    return ids->spans && ids->table ? SONDE_OK : err_memory(e);
}

static void ids_release(struct ids *ids) {
    buf_release(&ids->texts);
    free(ids->spans);
    free(ids->table);
}

/* The id of the text that was appended from `begin` on, which is dropped if it was there before. */
static uint32_t id_of(struct ids *ids, size_t begin) {
    const char *text = ids->texts.data;
    size_t count = ids->texts.len - begin;
    uint32_t at = (uint32_t)XXH3_64bits(text + begin, count) & ids->mask;
    for (; ids->table[at]; at = (at + 1) & ids->mask) {
        const struct text_range *s = &ids->spans[ids->table[at] - 1];
        if (s->end - s->begin == count && memcmp(text + s->begin, text + begin, count) == 0) {
            ids->texts.len = begin;
            return ids->table[at] - 1;
        }
    }
    ids->spans[ids->count] = (struct text_range){begin, begin + count};
    ids->table[at] = ++ids->count;
    return ids->count - 1;
}

int text_compact_ids(const sonde_tokenizer *t, uint32_t vocab, int64_t *map, int64_t *count, struct sonde_error *e) {
    struct ids ids;
    int rc = ids_init(&ids, vocab, e);
    buf_append(&ids.texts, "", 0); /* a place for a first text that is empty */
    for (uint32_t i = 0; !rc && i < vocab; i++) {
        const char *bytes;
        size_t length, begin = ids.texts.len;
        text_token_bytes(t, (int32_t)i, &bytes, &length);
        rc = fold(bytes, length, &ids.texts, e);
        if (!rc && ids.texts.failed)
            rc = err_memory(e);
        if (!rc)
            map[i] = id_of(&ids, begin);
    }
    *count = ids.count;
    ids_release(&ids);
    return rc;
}
