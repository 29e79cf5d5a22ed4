/*
 * bpe.c - byte-pair encoding is learnt from texts.
 *
 * Texts are kept as words: each distinct piece once, and how often it occurs. While merging, a word is the row of its
 * tokens, which gets shorter. The invariant: a pair's count is, over all words, how often the word occurs times how
 * often the pair stands in it (in "aaa" the pair "aa" stands twice), and every word in which it stands is among the
 * pair's places, perhaps beside others.
 *
 * No two merges give the same bytes: bytes that no token crosses the borders of are cut the same way wherever they
 * stand, so when they first became one token they became it everywhere. A pair therefore begins to stand in words in
 * one merge, the one that makes the later of its tokens, and from then on its count can only fall.
 *
 * So a heap with one entry for each pair gives the most frequent one. Entries are not told of counts that fall; one
 * that comes up with a count that no longer holds goes back in with the right one. A merge costs what the words cost in
 * which its pair stands.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "train/bpe_internal.h"

#define NONE UINT32_MAX

struct word {
    uint64_t at; /* its first byte, and later token, among those of all words */
    uint64_t count;
    uint32_t length;
};

/* Rows of numbers, found by a hash and compared by their owner; NONE: empty. At most half full. */
struct table {
    uint32_t *rows;
    uint32_t mask, used;
};

struct bpe {
    sonde_tokenizer *splitter;
    struct buf bytes; /* of all words */
    struct buf words; /* struct word */
    struct table table;
    struct sonde_error *e; /* of the call under way */
};

/* ------------------------------------------------------------------------------------------- tables */

static bool table_init(struct table *t, uint32_t rows) {
    t->rows = malloc(rows * sizeof(*t->rows));
    if (!t->rows)
        return false;
    memset(t->rows, 0xff, rows * sizeof(*t->rows));
    t->mask = rows - 1;
    t->used = 0;
    return true;
}

/* Puts a number in the first free row. */
static void table_put(struct table *t, uint64_t hash, uint32_t number) {
    uint32_t row = (uint32_t)hash & t->mask;
    while (t->rows[row] != NONE)
        row = (row + 1) & t->mask;
    t->rows[row] = number;
    t->used++;
}

/* Room for one more; hash_of() tells the hashes of those that are there. */
static bool table_reserve(struct table *t, uint64_t (*hash_of)(const void *owner, uint32_t number), const void *owner) {
    if (2 * (t->used + 1) <= t->mask)
        return true;
    struct table larger;
    if (t->mask >= UINT32_MAX / 4 || !table_init(&larger, 2 * (t->mask + 1)))
        return false;
    for (uint32_t row = 0; row <= t->mask; row++)
        if (t->rows[row] != NONE)
            table_put(&larger, hash_of(owner, t->rows[row]), t->rows[row]);
    free(t->rows);
    *t = larger;
    return true;
}

static uint64_t hash_bytes(const char *bytes, size_t count) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* -------------------------------------------------------------------------------------------- words */

static struct word *words_of(const struct bpe *b) {
    return (struct word *)(void *)b->words.data;
}

static uint32_t word_count(const struct bpe *b) {
    return (uint32_t)(b->words.len / sizeof(struct word));
}

static uint64_t word_hash(const void *owner, uint32_t number) {
    const struct bpe *b = owner;
    const struct word *w = &words_of(b)[number];
    return hash_bytes(b->bytes.data + w->at, w->length);
}

static int add_word(struct bpe *b, const char *bytes, size_t count, uint64_t hash) {
    struct word word = {b->bytes.len, 1, (uint32_t)count};
    uint32_t number = word_count(b);
    if (number >= UINT32_MAX / 4 || !table_reserve(&b->table, word_hash, b))
        return err_memory(b->e);
    buf_append(&b->bytes, bytes, count);
    buf_append(&b->words, &word, sizeof(word));
    if (b->bytes.failed || b->words.failed)
        return err_memory(b->e);
    table_put(&b->table, hash, number);
    return SONDE_OK;
}

/* A piece of a text; there are none longer than 2^30 bytes. */
static int count_piece(void *context, const char *bytes, size_t count) {
    struct bpe *b = context;
    uint64_t hash = hash_bytes(bytes, count);
    for (uint32_t row = (uint32_t)hash & b->table.mask; b->table.rows[row] != NONE; row = (row + 1) & b->table.mask) {
        struct word *w = &words_of(b)[b->table.rows[row]];
        if (w->length == count && memcmp(b->bytes.data + w->at, bytes, count) == 0) {
            w->count++;
            return SONDE_OK;
        }
    }
    return add_word(b, bytes, count, hash);
}

int bpe_add(struct bpe *b, const char *text, size_t bytes, struct sonde_error *e) {
    if (b->bytes.failed || b->words.failed)
        return err_memory(e);
    b->e = e;
    return text_tokenizer_split(b->splitter, text, bytes, count_piece, b, e);
}

/* A tokenizer that knows no merges cuts as one that knows them. */
static int open_splitter(struct bpe *b, struct sonde_error *e) {
    struct lexicon bytes;
    char *json = NULL;
    size_t length;
    lexicon_init(&bytes);
    int rc = lexicon_write(&bytes, &json, &length, e);
    if (!rc)
        rc = text_tokenizer_parse(json, length, "tokenizer without merges", &b->splitter, e);
    free(json);
    lexicon_release(&bytes);
    return rc;
}

int bpe_open(struct bpe **bpe, struct sonde_error *e) {
    struct bpe *b = calloc(1, sizeof(*b));
    if (!b)
        return err_memory(e);
    int rc = table_init(&b->table, 1 << 12) ? open_splitter(b, e) : err_memory(e);
    if (rc)
        bpe_close(b);
    else
        *bpe = b;
    return rc;
}

void bpe_close(struct bpe *b) {
    if (!b)
        return;
    sonde_tokenizer_close(b->splitter);
    buf_release(&b->bytes);
    buf_release(&b->words);
    free(b->table.rows);
    free(b);
}

/* -------------------------------------------------------------------------------------------- pairs */

struct pair {
    uint32_t left, right;
    uint64_t count;
    uint32_t places; /* the first, or NONE */
    bool rose;       /* in the merge under way */
};

struct place {
    uint32_t word, next;
};

struct entry {
    uint64_t count;
    uint32_t pair;
};

struct learning {
    const struct bpe *b;
    uint32_t *tokens;                      /* of all words */
    uint32_t *lengths;                     /* of each */
    struct buf pairs, places, heap, risen; /* of struct pair, place, entry; numbers of pairs */
    struct table table;                    /* of pairs */
    struct lexicon lexicon;
    bool failed;
};

static struct pair *pair_at(const struct learning *l, uint32_t number) {
    return (struct pair *)(void *)l->pairs.data + number;
}

static uint64_t hash_pair(uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static uint64_t pair_hash(const void *owner, uint32_t number) {
    const struct pair *p = pair_at(owner, number);
    return hash_pair(p->left, p->right);
}

/* The number of a pair, which is made if it is not there; NONE: no memory. */
static uint32_t find_pair(struct learning *l, uint32_t left, uint32_t right) {
    uint64_t hash = hash_pair(left, right);
    for (uint32_t row = (uint32_t)hash & l->table.mask; l->table.rows[row] != NONE; row = (row + 1) & l->table.mask) {
        const struct pair *p = pair_at(l, l->table.rows[row]);
        if (p->left == left && p->right == right)
            return l->table.rows[row];
    }
    struct pair pair = {.left = left, .right = right, .places = NONE};
    uint32_t number = (uint32_t)(l->pairs.len / sizeof(pair));
    if (table_reserve(&l->table, pair_hash, l))
        buf_append(&l->pairs, &pair, sizeof(pair));
    else
        l->failed = true;
    l->failed |= l->pairs.failed;
    if (l->failed)
        return NONE;
    table_put(&l->table, hash, number);
    return number;
}

/* The pair stands once more in a word. */
static void gain(struct learning *l, uint32_t left, uint32_t right, uint32_t word) {
    uint32_t number = find_pair(l, left, right);
    if (number == NONE)
        return;
    struct pair *p = pair_at(l, number);
    p->count += words_of(l->b)[word].count;
    if (!p->rose)
        buf_append(&l->risen, &number, sizeof(number));
    p->rose = true;
    const struct place *places = (const struct place *)(const void *)l->places.data;
    if (p->places != NONE && places[p->places].word == word)
        return;
    struct place place = {word, p->places};
    p->places = (uint32_t)(l->places.len / sizeof(place));
    buf_append(&l->places, &place, sizeof(place));
    l->failed |= l->risen.failed || l->places.failed || p->places >= NONE - 1;
}

static void lose(struct learning *l, uint32_t left, uint32_t right, uint32_t word) {
    uint32_t number = find_pair(l, left, right);
    if (number != NONE)
        pair_at(l, number)->count -= words_of(l->b)[word].count;
}

/* --------------------------------------------------------------------------------------------- heap */

static bool before(const struct learning *l, struct entry a, struct entry b) {
    const struct pair *p = pair_at(l, a.pair), *q = pair_at(l, b.pair);
    if (a.count != b.count)
        return a.count > b.count;
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static void push(struct learning *l, uint32_t pair) {
    struct entry entry = {pair_at(l, pair)->count, pair};
    size_t i = l->heap.len / sizeof(entry);
    buf_append(&l->heap, &entry, sizeof(entry));
    l->failed |= l->heap.failed;
    if (l->failed)
        return;
    struct entry *heap = (struct entry *)(void *)l->heap.data;
    for (; i && before(l, entry, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
}

/* The heap is not empty. */
static struct entry pop(struct learning *l) {
    struct entry *heap = (struct entry *)(void *)l->heap.data, top = heap[0];
    l->heap.len -= sizeof(*heap);
    size_t i = 0, count = l->heap.len / sizeof(*heap);
    struct entry last = heap[count];
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && before(l, heap[child + 1], heap[child]))
            child++;
        if (!before(l, heap[child], last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void push_risen(struct learning *l) {
    const uint32_t *risen = (const uint32_t *)(const void *)l->risen.data;
    for (size_t i = 0; i < l->risen.len / sizeof(*risen) && !l->failed; i++) {
        pair_at(l, risen[i])->rose = false;
        if (pair_at(l, risen[i])->count)
            push(l, risen[i]);
    }
    buf_clear(&l->risen);
}

/* The most frequent pair; NONE: there is none. */
static uint32_t most_frequent(struct learning *l) {
    while (l->heap.len && !l->failed) {
        struct entry top = pop(l);
        uint64_t count = pair_at(l, top.pair)->count;
        if (count == top.count)
            return top.pair;
        if (count)
            push(l, top.pair);
    }
    return NONE;
}

/* ------------------------------------------------------------------------------------------ merging */

/* Merges a pair wherever it stands in a word, from left to right. */
static void merge_word(struct learning *l, struct bpe_rule rule, uint32_t word) {
    uint32_t *t = l->tokens + words_of(l->b)[word].at, length = l->lengths[word], kept = 0;
    for (uint32_t i = 0; i < length; i++) {
        if (t[i] != rule.left || i + 1 == length || t[i + 1] != rule.right) {
            t[kept++] = t[i];
            continue;
        }
        lose(l, rule.left, rule.right, word);
        if (kept) {
            lose(l, t[kept - 1], rule.left, word);
            gain(l, t[kept - 1], rule.token, word);
        }
        if (i + 2 < length) {
            lose(l, rule.right, t[i + 2], word);
            gain(l, rule.token, t[i + 2], word);
        }
        t[kept++] = rule.token;
        i++;
    }
    l->lengths[word] = kept;
}

static void merge(struct learning *l, uint32_t pair) {
    const struct pair *p = pair_at(l, pair);
    struct bpe_rule rule = {p->left, p->right, 0};
    uint32_t place = p->places;
    rule.token = lexicon_join(&l->lexicon, rule.left, rule.right);
    buf_append(&l->lexicon.rules, &rule, sizeof(rule));
    l->failed |= lexicon_failed(&l->lexicon);
    while (place != NONE && !l->failed) {
        struct place at = ((const struct place *)(const void *)l->places.data)[place];
        merge_word(l, rule, at.word);
        place = at.next;
    }
    assert(l->failed || pair_at(l, pair)->count == 0);
    push_risen(l);
}

/* ----------------------------------------------------------------------------------------- together */

/* Words as bytes, and all pairs in them. */
static void begin(struct learning *l) {
    const struct bpe *b = l->b;
    uint32_t numbers[BPE_BYTES];
    for (unsigned i = 0; i < BPE_BYTES; i++)
        numbers[i] = lexicon_byte((unsigned char)i);
    for (size_t i = 0; i < b->bytes.len; i++)
        l->tokens[i] = numbers[(unsigned char)b->bytes.data[i]];
    for (uint32_t i = 0; i < word_count(b) && !l->failed; i++) {
        const struct word *w = &words_of(b)[i];
        l->lengths[i] = w->length;
        for (uint32_t k = 0; k + 1 < w->length && !l->failed; k++)
            gain(l, l->tokens[w->at + k], l->tokens[w->at + k + 1], i);
    }
    push_risen(l);
}

static int learn(struct learning *l, uint32_t size, struct sonde_error *e) {
    uint32_t wanted = size - BPE_FIRST - BPE_MARKUP;
    l->tokens = malloc((l->b->bytes.len + 1) * sizeof(*l->tokens));
    l->lengths = malloc((word_count(l->b) + 1) * sizeof(*l->lengths));
    if (!l->tokens || !l->lengths || !table_init(&l->table, 1 << 12))
        return err_memory(e);
    begin(l);
    while (lexicon_size(&l->lexicon) < wanted && !l->failed) {
        uint32_t pair = most_frequent(l);
        if (pair == NONE)
            break;
        merge(l, pair);
    }
    uint32_t made = lexicon_size(&l->lexicon);
    if (l->failed)
        return err_memory(e);
    if (made < wanted)
        return err_set(e, SONDE_ERROR_ARGUMENT,
                       "the texts give a vocabulary of %u tokens and no more, where %u are wanted",
                       made + BPE_FIRST + BPE_MARKUP, size);
    return SONDE_OK;
}

int bpe_train(struct bpe *b, uint32_t size, char **json, size_t *length, struct sonde_error *e) {
    if (size < BPE_SMALLEST || size > BPE_LARGEST)
        return err_set(e, SONDE_ERROR_ARGUMENT, "a vocabulary of %u tokens: %d to %d are expected", size, BPE_SMALLEST,
                       BPE_LARGEST);
    if (b->bytes.failed || b->words.failed)
        return err_memory(e);
    struct learning l = {.b = b};
    lexicon_init(&l.lexicon);
    l.failed = lexicon_failed(&l.lexicon);
    int rc = learn(&l, size, e);
    if (!rc)
        rc = lexicon_write(&l.lexicon, json, length, e);
    lexicon_release(&l.lexicon);
    buf_release(&l.pairs);
    buf_release(&l.places);
    buf_release(&l.heap);
    buf_release(&l.risen);
    free(l.table.rows);
    free(l.tokens);
    free(l.lengths);
    return rc;
}

/* -------------------------------------------------------------------------------------------- files */

/* What is said in a conversation, without the markup around it. */
static int add_chat(struct bpe *b, const struct document *d, struct sonde_error *e) {
    char *prompt;
    size_t length, count;
    struct text_range *typed;
    int rc = text_chat_render(SONDE_CHAT_V4, d->text, d->bytes, &prompt, &length, &typed, &count, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < count; i++)
        rc = bpe_add(b, prompt + typed[i].begin, typed[i].end - typed[i].begin, e);
    free(prompt);
    free(typed);
    return rc;
}

static int add_source(struct bpe *b, const struct data_source *source, struct sonde_error *e) {
    struct documents documents;
    struct document d;
    struct sonde_error why;
    int rc = documents_open(source, &documents, e);
    if (rc)
        return rc;
    while ((rc = documents_next(&documents, &d, e)) == 1) {
        rc = d.chat ? add_chat(b, &d, &why) : bpe_add(b, d.text, d.bytes, &why);
        if (rc) {
            rc = err_set(e, rc, "%s:%zu: %s", source->path, d.line, why.message);
            break;
        }
    }
    documents_close(&documents);
    return rc;
}

int train_tokenizer(const struct data_source *sources, uint32_t source_count, uint32_t size, const char *path,
                    struct sonde_error *e) {
    struct bpe *b;
    char *json = NULL;
    size_t length;
    int rc = bpe_open(&b, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; !rc && i < source_count; i++)
        rc = add_source(b, &sources[i], e);
    if (!rc)
        rc = bpe_train(b, size, &json, &length, e);
    if (!rc)
        rc = file_write(path, json, length, e);
    free(json);
    bpe_close(b);
    return rc;
}
