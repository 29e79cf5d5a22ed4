/*
 * bpe_internal.h - training of a tokenizer: byte-pair encoding over the bytes of texts.
 *
 *     bpe_open, bpe_add for every text, bpe_train, bpe_close        or train_tokenizer(), which does all of it
 *
 * Pairs of neighbouring tokens are merged, the most frequent first, within the pieces that the tokenizer's own patterns
 * cut a text into. Among equally frequent pairs the one with the lower left token wins, then the lower right one, where
 * bytes come in the order of their letters in the byte-level alphabet and merged tokens behind them in the order of
 * their making. So the result depends on nothing but how often each piece occurs, and it is that of Hugging Face's
 * BpeTrainer over the same texts (tests/e2e/test_bpe.sh).
 *
 * Patterns, added tokens and the order of ids are those of DeepSeek-V4's tokenizers of small vocabulary:
 *
 *     0 to 2         begin of sentence, end of sentence, padding
 *     3 to 258       the bytes 0 to 255
 *     259 to V - 11  merged tokens, in the order of their making
 *     V - 10 to V    markup: <|User|>, <|Assistant|>, <think>, ...
 */
#ifndef TRAIN_BPE_INTERNAL_H
#define TRAIN_BPE_INTERNAL_H

#include "train/data_internal.h"

enum { BPE_FIRST = 3, BPE_BYTES = 256, BPE_MARKUP = 10, BPE_SMALLEST = BPE_FIRST + BPE_BYTES + BPE_MARKUP };
enum { BPE_LARGEST = 1 << 20 };

/* ----------------------------------------------------------------------------------------- lexicon */

/* A merge: tokens left and right, next to each other, become one. */
struct bpe_rule {
    uint32_t left, right, token;
};

/* What training makes. Tokens are numbered as they were made: the bytes in the order of their letters, then what was
 * merged. */
struct lexicon {
    struct buf bytes; /* of all tokens */
    struct buf spans; /* struct text_range of each token in bytes */
    struct buf rules; /* struct bpe_rule, in order */
};

/* One of nothing but the bytes. Memory is checked when it is used: lexicon_failed(). */
void lexicon_init(struct lexicon *x);
void lexicon_release(struct lexicon *x);
bool lexicon_failed(const struct lexicon *x);

/* Appends the token left · right and returns its number. */
uint32_t lexicon_join(struct lexicon *x, uint32_t left, uint32_t right);

static inline uint32_t lexicon_size(const struct lexicon *x) {
    return (uint32_t)(x->spans.len / sizeof(struct text_range));
}

static inline struct text_range lexicon_span(const struct lexicon *x, uint32_t token) {
    return ((const struct text_range *)(const void *)x->spans.data)[token];
}

/* The number of the token that is one byte. */
uint32_t lexicon_byte(unsigned char byte);

/* tokenizer.json of a lexicon, in Hugging Face's format. Errors: MEMORY. */
int lexicon_write(const struct lexicon *x, char **json, size_t *length, struct sonde_error *e);

/* ---------------------------------------------------------------------------------------- training */

struct bpe;

int bpe_open(struct bpe **bpe, struct sonde_error *e);
void bpe_close(struct bpe *bpe); /* NULL is fine */

/* Counts the pieces of a text, in which markup is text like any other; it is not needed afterwards. Errors: ARGUMENT
 * (too long), MEMORY. */
int bpe_add(struct bpe *bpe, const char *text, size_t bytes, struct sonde_error *e);

/* tokenizer.json of a vocabulary of `size`, BPE_SMALLEST to BPE_LARGEST, from the texts so far; *json is to be freed.
 * The time goes with the length of distinct pieces, not of texts. Errors: ARGUMENT (the size; the texts have nothing
 * left to merge), MEMORY. */
int bpe_train(struct bpe *bpe, uint32_t size, char **json, size_t *length, struct sonde_error *e);

/* The same from files to a file. Of conversations what people and assistants say is learnt from. Weights and flags of
 * sources are not looked at. Errors: ARGUMENT, IO, FORMAT, MEMORY. */
int train_tokenizer(const struct data_source *sources, uint32_t source_count, uint32_t size, const char *path,
                    struct sonde_error *e);

#endif
