/*
 * grammar_vocabulary.c - a tokenizer's tokens as a trie, and those that fit any string set apart.
 *
 * A trie is a list of nodes in the order of a walk from the root: a node, what begins with it, the next. `skip` is how
 * many nodes to jump over when nothing that begins with it is wanted. Added tokens are not in it but for |DSML|, which
 * is one symbol. Neither are tokens with bytes that no UTF-8 has.
 *
 * Most tokens are plain text that changes nothing inside a string but its length. Those that hold whole characters
 * and none that could end a string or line (`plain`) are kept as one mask and in order of length; all others as a trie
 * of their own, which is much smaller than the whole. There are two such divisions, as strings of JSON and texts of
 * parameters are ended by other characters.
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/grammar_vocabulary_internal.h"

struct entry {
    const uint8_t *bytes;
    uint32_t length, id;
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static uint32_t shared_bytes(const struct entry *a, const struct entry *b) {
    uint32_t n = 0;
    while (n < a->length && n < b->length && a->bytes[n] == b->bytes[n])
        n++;
    /* Tokens of equal bytes have a last node each. */
    return n == b->length ? n - 1 : n;
}

/* Makes the trie of sorted entries. */
static bool make_trie(const struct entry *entries, size_t count, struct trie *t) {
    struct buf nodes = {0};
    uint32_t open[TOKEN_BYTES_MAX]; /* the node of each byte of the last entry */
    uint32_t depth = 0, total = 0;
    for (size_t i = 0; i <= count; i++) {
        uint32_t keep = i && i < count ? shared_bytes(&entries[i - 1], &entries[i]) : 0;
        for (; depth > keep; depth--)
            if (!nodes.failed)
                ((struct trie_node *)(void *)nodes.data)[open[depth - 1]].skip = total - open[depth - 1];
        for (; i < count && depth < entries[i].length; depth++) {
            bool last = depth + 1 == entries[i].length;
            struct trie_node node = {
                .token = last ? entries[i].id : TOKEN_NONE, .byte = entries[i].bytes[depth], .depth = (uint8_t)depth};
            open[depth] = total++;
            buf_append(&nodes, &node, sizeof(node));
        }
    }
    char *bytes;
    if (buf_take(&nodes, &bytes, NULL, NULL))
        return false;
    *t = (struct trie){(struct trie_node *)(void *)bytes, total};
    return true;
}

/* A line end, which "." in a pattern leaves out, or a character that is not plain by itself. */
static bool is_plain(const uint8_t *at, size_t length, bool json) {
    if (length == 3)
        return memcmp(at, "\xe2\x80\xa8", 3) != 0 && memcmp(at, "\xe2\x80\xa9", 3) != 0;
    return json ? *at >= 0x20 && *at != '"' && *at != '\\' : *at != '<' && *at != '\n' && *at != '\r';
}

/* Characters of a token that is plain, or 0. */
static uint32_t plain_characters(const struct entry *e, bool json) {
    uint32_t characters = 0;
    for (size_t at = 0; at < e->length; characters++) {
        enum utf8_kind kind;
        size_t length = utf8_next((const char *)e->bytes + at, e->length - at, &kind);
        if (kind != UTF8_WHOLE || !is_plain(e->bytes + at, length, json))
            return 0;
        at += length;
    }
    return characters;
}

static int compare_plain(const void *a, const void *b) {
    const struct plain_token *x = a, *y = b;
    return (x->characters < y->characters) - (x->characters > y->characters);
}

static bool divide(const struct text_vocabulary *v, const struct entry *entries, size_t count, bool json,
                   struct division *d) {
    struct entry *rest = malloc((count + 1) * sizeof(*rest));
    size_t left = 0;
    d->bits = calloc(v->words, sizeof(*d->bits));
    d->plain = malloc((count + 1) * sizeof(*d->plain));
    bool good = rest && d->bits && d->plain;
    for (size_t i = 0; i < count && good; i++) {
        uint32_t characters = plain_characters(&entries[i], json), id = entries[i].id;
        if (!characters) {
            rest[left++] = entries[i];
            continue;
        }
        d->bits[id / 32] |= 1u << id % 32;
        d->plain[d->count++] = (struct plain_token){id, characters};
    }
    if (good) {
        qsort(d->plain, d->count, sizeof(*d->plain), compare_plain);
        good = make_trie(rest, left, &d->rest);
    }
    free(rest);
    return good;
}

/* True if the bytes can be part of UTF-8. */
static bool is_text(const uint8_t *bytes, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        if (bytes[i] == 0xc0 || bytes[i] == 0xc1 || bytes[i] > 0xf4)
            return false;
    return true;
}

static bool mark_added(struct text_vocabulary *v) {
    v->added = calloc(v->words, sizeof(*v->added));
    v->markup = -1;
    for (int set = 0; set < 2 && v->added; set++)
        for (size_t i = 0; i < v->tokenizer->added[set].count; i++) {
            uint32_t id = v->tokenizer->added[set].ids[i];
            const struct token *token = &v->tokenizer->tokens[id];
            if (id >= v->size)
                continue;
            v->added[id / 32] |= 1u << id % 32;
            if (token->length == strlen(DSML) && memcmp(v->tokenizer->pool + token->at, DSML, token->length) == 0)
                v->markup = (int32_t)id;
        }
    return v->added != NULL;
}

static bool fill(struct text_vocabulary *v) {
    static const uint8_t symbol = SYMBOL_DSML;
    uint32_t size = v->tokenizer->size < v->size ? v->tokenizer->size : v->size;
    struct entry *entries = malloc(((size_t)size + 1) * sizeof(*entries));
    size_t count = 0;
    bool good = entries && mark_added(v);
    for (uint32_t id = 0; id < size && good; id++) {
        const struct token *token = &v->tokenizer->tokens[id];
        const uint8_t *bytes = (const uint8_t *)v->tokenizer->pool + token->at;
        bool added = v->added[id / 32] >> id % 32 & 1;
        if (!added && token->length && token->length <= TOKEN_BYTES_MAX && is_text(bytes, token->length))
            entries[count++] = (struct entry){bytes, token->length, id};
    }
    if (good && v->markup >= 0)
        entries[count++] = (struct entry){&symbol, 1, (uint32_t)v->markup};
    if (good) {
        qsort(entries, count, sizeof(*entries), compare_entries);
        good = make_trie(entries, count, &v->all) && divide(v, entries, count, true, &v->json) &&
               divide(v, entries, count, false, &v->values);
    }
    free(entries);
    return good;
}

int text_vocabulary_open(const sonde_tokenizer *tokenizer, uint32_t size, struct text_vocabulary **vocabulary,
                         struct sonde_error *e) {
    struct text_vocabulary *v = calloc(1, sizeof(*v));
    if (!v)
        return err_memory(e);
    v->tokenizer = tokenizer;
    v->size = size;
    v->words = (size + 31) / 32 + 1;
    if (!fill(v)) {
        text_vocabulary_close(v);
        return err_memory(e);
    }
    *vocabulary = v;
    return SONDE_OK;
}

static void release_division(struct division *d) {
    free(d->bits);
    free(d->plain);
    free(d->rest.nodes);
}

void text_vocabulary_close(struct text_vocabulary *v) {
    if (!v)
        return;
    release_division(&v->json);
    release_division(&v->values);
    free(v->all.nodes);
    free(v->added);
    free(v);
}
