/*
 * tokenizer_encode.c - text to ids.
 *
 * Four stages, each handing pieces to the next, all from left to right:
 *
 *     added tokens   the longest that begins at the leftmost place; first those with normalized false in the
 *                    whole text, then the others in what is left between them
 *     broken bytes   a run of bytes that is not UTF-8 is a piece of its own and goes straight to merging: the
 *                    patterns are defined on characters only
 *     patterns       each cuts every piece the one before left; where the file wants it, a piece that reaches
 *                    ByteLevel gets a space in front before ByteLevel's own pattern cuts it
 *     merging        byte-pair encoding within a piece: the pair with the strongest rule first, leftmost among
 *                    equals
 *
 * Merging keeps the pieces' symbols in a linked list and the candidates in a heap of (rank, position); an entry
 * whose pair is gone by the time it comes up is skipped. That is O(n log n) for a piece of n bytes.
 *
 * The tokenizer is only read; all that changes lives in struct encoding, on one thread's stack.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

#define TEXT_LIMIT (1u << 30) /* positions and heap entries are 32 bits */

struct symbol {
    uint32_t id, before, after; /* id TOKEN_NONE: merged into its left neighbour */
};

struct encoding {
    const sonde_tokenizer *t;
    struct matcher *matcher;
    const char *text;
    const struct text_range *typed, *typed_end;
    struct sonde_error *e;
    int32_t *ids;
    size_t count, cap;
    struct symbol *symbols;
    uint64_t *heap; /* rank << 32 | position of the left symbol; three entries for every symbol suffice */
    size_t heap_count, room;
    struct buf prefixed;                                          /* a piece behind the space that prefix_level wants */
    int (*piece)(void *context, const char *bytes, size_t count); /* takes pieces in place of merging, or NULL */
    void *context;
};

/* ------------------------------------------------------------------------------------------ tables */

uint32_t tokenizer_pair_hash(uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32) ^ (uint32_t)h >> 7;
}

const struct merge *tokenizer_merge(const sonde_tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t row = tokenizer_pair_hash(left, right) & t->merge_mask;
    for (; t->merges[row].id != TOKEN_NONE; row = (row + 1) & t->merge_mask)
        if (t->merges[row].left == left && t->merges[row].right == right)
            return &t->merges[row];
    return NULL;
}

/* FNV-1a. */
uint32_t tokenizer_bytes_hash(const char *bytes, size_t count) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

uint32_t tokenizer_whole(const sonde_tokenizer *t, const char *bytes, size_t count) {
    uint32_t row = tokenizer_bytes_hash(bytes, count) & t->whole_mask;
    for (; t->whole[row] != TOKEN_NONE; row = (row + 1) & t->whole_mask) {
        const struct token *token = &t->tokens[t->whole[row]];
        if (token->length == count && memcmp(t->pool + token->at, bytes, count) == 0)
            return t->whole[row];
    }
    return TOKEN_NONE;
}

/* The first of set->ids[low..high) whose byte at `depth` is at least `byte`; those in between agree with the
 * text in the bytes before, and shorter ones come first. */
static size_t narrow(const sonde_tokenizer *t, const struct added *set, size_t low, size_t high, size_t depth,
                     int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct token *token = &t->tokens[set->ids[middle]];
        int at = depth < token->length ? (unsigned char)t->pool[token->at + depth] : -1;
        if (at < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t tokenizer_added_at(const sonde_tokenizer *t, const struct added *set, const char *text, size_t count) {
    uint32_t best = TOKEN_NONE;
    size_t low = 0, high = set->count;
    for (size_t depth = 0; depth < count && low < high; depth++) {
        int byte = (unsigned char)text[depth];
        low = narrow(t, set, low, high, depth, byte);
        high = narrow(t, set, low, high, depth, byte + 1);
        if (low < high && t->tokens[set->ids[low]].length == depth + 1)
            best = set->ids[low];
    }
    return best;
}

int32_t sonde_tokenizer_added(const sonde_tokenizer *tokenizer, const char *content) {
    size_t length = strlen(content);
    for (int s = 0; s < 2; s++) {
        uint32_t id = tokenizer_added_at(tokenizer, &tokenizer->added[s], content, length);
        if (id != TOKEN_NONE && tokenizer->tokens[id].length == length)
            return (int32_t)id;
    }
    return -1;
}

/* ----------------------------------------------------------------------------------------- merging */

static int put_id(struct encoding *n, uint32_t id) {
    if (n->count == n->cap) {
        size_t cap = n->cap ? 2 * n->cap : 64;
        int32_t *ids = realloc(n->ids, cap * sizeof(*ids));
        if (!ids)
            return err_memory(n->e);
        n->ids = ids;
        n->cap = cap;
    }
    n->ids[n->count++] = (int32_t)id;
    return SONDE_OK;
}

static void heap_push(struct encoding *n, uint64_t entry) {
    size_t i = n->heap_count++;
    for (; i && n->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        n->heap[i] = n->heap[(i - 1) / 2];
    n->heap[i] = entry;
}

static uint64_t heap_pop(struct encoding *n) {
    uint64_t top = n->heap[0], last = n->heap[--n->heap_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n->heap_count; i = child) {
        if (child + 1 < n->heap_count && n->heap[child + 1] < n->heap[child])
            child++;
        if (n->heap[child] >= last)
            break;
        n->heap[i] = n->heap[child];
    }
    n->heap[i] = last;
    return top;
}

static const struct merge *rule_at(const struct encoding *n, uint32_t left) {
    uint32_t right = n->symbols[left].after;
    return right == TOKEN_NONE ? NULL : tokenizer_merge(n->t, n->symbols[left].id, n->symbols[right].id);
}

static void push_rule(struct encoding *n, uint32_t left) {
    const struct merge *rule = left == TOKEN_NONE ? NULL : rule_at(n, left);
    if (rule)
        heap_push(n, (uint64_t)rule->rank << 32 | left);
}

static int reserve_symbols(struct encoding *n, size_t count) {
    if (count <= n->room)
        return SONDE_OK;
    size_t room = count < 256 ? 256 : count;
    free(n->symbols);
    free(n->heap);
    n->symbols = malloc(room * sizeof(*n->symbols));
    n->heap = malloc(3 * room * sizeof(*n->heap));
    n->room = n->symbols && n->heap ? room : 0;
    return n->room ? SONDE_OK : err_memory(n->e);
}

static void merge_symbols(struct encoding *n) {
    while (n->heap_count) {
        uint64_t top = heap_pop(n);
        uint32_t left = (uint32_t)top;
        const struct merge *rule = n->symbols[left].id == TOKEN_NONE ? NULL : rule_at(n, left);
        if (!rule || rule->rank != top >> 32)
            continue;
        uint32_t right = n->symbols[left].after, after = n->symbols[right].after;
        n->symbols[left].id = rule->id;
        n->symbols[left].after = after;
        n->symbols[right].id = TOKEN_NONE;
        if (after != TOKEN_NONE)
            n->symbols[after].before = left;
        push_rule(n, n->symbols[left].before);
        push_rule(n, left);
    }
}

static int encode_piece(struct encoding *n, const char *piece, size_t count) {
    if (n->piece)
        return n->piece(n->context, piece, count);
    if (count == 1)
        return put_id(n, n->t->byte_ids[(unsigned char)piece[0]]);
    uint32_t whole = n->t->whole ? tokenizer_whole(n->t, piece, count) : TOKEN_NONE;
    if (whole != TOKEN_NONE)
        return put_id(n, whole);
    int rc = reserve_symbols(n, count);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < count; i++)
        n->symbols[i] = (struct symbol){n->t->byte_ids[(unsigned char)piece[i]], i ? i - 1 : TOKEN_NONE,
                                        i + 1 < count ? i + 1 : TOKEN_NONE};
    n->heap_count = 0;
    for (uint32_t i = 0; i < count; i++)
        push_rule(n, i);
    merge_symbols(n);
    for (uint32_t i = 0; !rc && i != TOKEN_NONE; i = n->symbols[i].after)
        rc = put_id(n, n->symbols[i].id);
    return rc;
}

/* --------------------------------------------------------------------------------------- splitting */

static int split(struct encoding *n, size_t level, const char *piece, size_t count);

static int split_part(struct encoding *n, size_t level, const char *piece, size_t count, bool matched) {
    const struct splitter *s = &n->t->splitters[level];
    if (!count || (s->removed && matched != s->invert))
        return SONDE_OK;
    return split(n, level + 1, piece, count);
}

/* Puts a space before a piece that has none. n->prefixed is not used again before the piece is done: there is one
 * level that does this. */
static int prefix(struct encoding *n, const char **piece, size_t *count) {
    buf_clear(&n->prefixed);
    buf_byte(&n->prefixed, ' ');
    buf_append(&n->prefixed, *piece, *count);
    *piece = n->prefixed.data;
    *count = n->prefixed.len;
    return n->prefixed.failed ? err_memory(n->e) : SONDE_OK;
}

/* Recursion is as deep as there are patterns: PATTERNS_MAX at most. */
static int split(struct encoding *n, size_t level, const char *piece, size_t count) {
    int rc = level == n->t->prefix_level && piece[0] != ' ' ? prefix(n, &piece, &count) : SONDE_OK;
    if (rc || level == n->t->splitter_count)
        return rc ? rc : encode_piece(n, piece, count);
    struct pattern_walk walk = {0};
    size_t done = 0, begin, end;
    for (;;) {
        rc = pattern_next(n->t->splitters[level].pattern, n->matcher, piece, count, &walk, &begin, &end, n->e);
        if (rc < 0)
            return rc;
        if (!rc)
            return split_part(n, level, piece + done, count - done, false);
        rc = split_part(n, level, piece + done, begin - done, false);
        if (!rc)
            rc = split_part(n, level, piece + begin, end - begin, true);
        if (rc)
            return rc;
        done = end;
    }
}

/* Cuts [begin, end) where it begins and ceases to be UTF-8. */
static int encode_text(struct encoding *n, size_t begin, size_t end) {
    while (begin < end) {
        enum utf8_kind kind;
        size_t at = begin + utf8_next(n->text + begin, end - begin, &kind);
        bool whole = kind == UTF8_WHOLE;
        while (at < end) {
            size_t length = utf8_next(n->text + at, end - at, &kind);
            if ((kind == UTF8_WHOLE) != whole)
                break;
            at += length;
        }
        int rc = whole ? split(n, 0, n->text + begin, at - begin) : encode_piece(n, n->text + begin, at - begin);
        if (rc)
            return rc;
        begin = at;
    }
    return SONDE_OK;
}

/* True if somebody typed the byte at `at`. Places come from left to right within one set of added tokens; the
 * second set goes back only as far as the gap it works on, so ranges are searched and not walked. */
static bool is_typed(const struct encoding *n, size_t at) {
    size_t low = 0, high = (size_t)(n->typed_end - n->typed);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (n->typed[middle].end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return n->typed + low < n->typed_end && n->typed[low].begin <= at;
}

/* Finds the added tokens of set s, and in the gaps those of the sets after it. */
static int encode_marked(struct encoding *n, int s, size_t begin, size_t end) {
    if (s == 2)
        return encode_text(n, begin, end);
    size_t done = begin;
    for (size_t at = begin; at < end;) {
        uint32_t id = tokenizer_added_at(n->t, &n->t->added[s], n->text + at, end - at);
        if (id == TOKEN_NONE || is_typed(n, at)) {
            at++;
            continue;
        }
        int rc = encode_marked(n, s + 1, done, at);
        if (!rc)
            rc = put_id(n, id);
        if (rc)
            return rc;
        done = at += n->t->tokens[id].length;
    }
    return encode_marked(n, s + 1, done, end);
}

static int check_length(size_t bytes, struct sonde_error *e) {
    if (bytes <= TEXT_LIMIT)
        return SONDE_OK;
    return err_set(e, SONDE_ERROR_ARGUMENT, "a text of %zu bytes is too long: at most %u are tokenized", bytes,
                   TEXT_LIMIT);
}

int text_tokenizer_encode_typed(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                                const struct text_range *typed, size_t typed_count, int32_t **ids, size_t *count,
                                struct sonde_error *e) {
    struct encoding n = {
        .t = tokenizer, .text = text, .e = e, .typed = typed, .typed_end = typed ? typed + typed_count : typed};
    int rc = check_length(bytes, e);
    if (rc)
        return rc;
    n.cap = bytes / 4 + 16;
    n.ids = malloc(n.cap * sizeof(*n.ids));
    n.matcher = matcher_new(bytes);
    rc = n.ids && n.matcher ? encode_marked(&n, 0, 0, bytes) : err_memory(e);
    matcher_free(n.matcher);
    free(n.symbols);
    free(n.heap);
    buf_release(&n.prefixed);
    if (rc) {
        free(n.ids);
        return rc;
    }
    *ids = n.ids;
    *count = n.count;
    return SONDE_OK;
}

int text_tokenizer_split(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                         int (*piece)(void *context, const char *bytes, size_t count), void *context,
                         struct sonde_error *e) {
    struct encoding n = {.t = tokenizer, .text = text, .e = e, .piece = piece, .context = context};
    int rc = check_length(bytes, e);
    if (rc)
        return rc;
    n.matcher = matcher_new(bytes);
    rc = n.matcher ? encode_text(&n, 0, bytes) : err_memory(e);
    matcher_free(n.matcher);
    buf_release(&n.prefixed);
    return rc;
}

int sonde_tokenizer_encode(const sonde_tokenizer *tokenizer, const char *text, size_t bytes, enum sonde_markup markup,
                           int32_t **ids, size_t *count, struct sonde_error *error) {
    struct text_range all = {0, bytes};
    return text_tokenizer_encode_typed(tokenizer, text, bytes, &all, markup == SONDE_MARKUP_TEXT, ids, count, error);
}
