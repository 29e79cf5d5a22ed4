/*
 * data_internal.h - what a model learns from: documents, their tokens, the batches of a run.
 *
 *     files -> documents (documents.c) -> tokens, once, in a cache file (tokens.c) -> batches (data.c)
 *
 * What a run sees is a pure function of its sources, the tokenizer, the options and the position: no clock, no order
 * of arrival, no number of workers. A position is a few numbers; a run that goes on from one gets the batches that it
 * would have got.
 */
#ifndef TRAIN_DATA_INTERNAL_H
#define TRAIN_DATA_INTERNAL_H

#include "text/text.h"
#include "train/train_internal.h"

#define TOKEN_BEGIN "<｜begin▁of▁sentence｜>"
#define TOKEN_END   "<｜end▁of▁sentence｜>"
#define TOKEN_PAD   "<｜▁pad▁｜>"

/* ----------------------------------------------------------------------------------------- documents */

enum data_kind {
    /* Plain text: documents are parted by lines that hold the separator and nothing else. */
    DATA_TEXT,
    /* JSON, an object a line, each a document, by what it has:
     *     "messages"      a conversation, with the fields of sonde_chat_render()
     *     "q", "a"        one of a question and its answer
     *     "text"          plain text
     * Other fields are not looked at; lines of nothing but white space are left out. */
    DATA_JSONL,
};

enum {
    DATA_ANSWERS = 1, /* of conversations only what the assistant says is learnt; plain text is learnt whole */
    DATA_WHOLE = 2,   /* a document that does not fit in what is left of a batch begins the next one */
};

struct data_source {
    const char *path;
    enum data_kind kind;
    const char *separator; /* of DATA_TEXT; NULL: the file is one document */
    double weight;         /* its share of the tokens of a run, in proportion to the other sources'; more than 0 */
    uint32_t flags;        /* DATA_ANSWERS, DATA_WHOLE */
};

struct document {
    const char *text; /* valid until the next one is read; not terminated */
    size_t bytes;
    bool chat;   /* text is a conversation, as sonde_chat_render() takes it */
    size_t line; /* where it begins in the file, from 1 */
};

/* The documents of a file, in order. Line ends at the beginning and the end of a plain text are not part of it, and
 * texts of which nothing is left are left out. */
struct documents {
    const struct data_source *source;
    struct file_map map;
    size_t at, line;
    struct jtree tree;    /* of the line that was read last */
    struct buf converted; /* a question and its answer as messages */
};

/* The source must outlive it. Errors: IO, ARGUMENT (an empty separator, or one with a line end). */
int documents_open(const struct data_source *source, struct documents *d, struct sonde_error *e);
void documents_close(struct documents *d);

/* 1 and a document, or 0: there is none left. Errors: FORMAT (names file and line), MEMORY. */
int documents_next(struct documents *d, struct document *document, struct sonde_error *e);

/* -------------------------------------------------------------------------------------------- tokens */

/* Set in a token that an assistant did not say, in a conversation. */
#define TOKEN_UNSAID 0x80000000u

/* The documents of a source as tokens, mapped. A plain text is TOKEN_BEGIN, its ids, TOKEN_END; a conversation is its
 * prompt (text_chat_encode_answers()). */
struct tokens {
    struct file_map map;
    const uint32_t *ids;    /* [count], some with TOKEN_UNSAID */
    const uint64_t *begins; /* [documents + 1] where each begins in ids; the last is count */
    uint64_t count, documents;
    uint64_t identity[2]; /* hash of the source and the tokenizer */
};

struct tokenizer_file {
    const sonde_tokenizer *tokenizer;
    uint64_t identity[2]; /* hash of its tokenizer.json */
    const char *path;
};

/* Opens the cache file of a source in `directory`, which is made if it is not there. A file that is missing or damaged
 * is made first, which takes as long as the text is. Errors: IO, FORMAT (names file and line; a source without
 * documents), UNSUPPORTED (the tokenizer lacks TOKEN_BEGIN or TOKEN_END), MEMORY. */
int tokens_open(const struct data_source *source, const struct tokenizer_file *tokenizer, const char *directory,
                struct tokens *t, struct sonde_error *e);
void tokens_close(struct tokens *t);

/* The name of that file; to be freed by the caller. Errors: IO (of the source), MEMORY. */
int tokens_path(const struct data_source *source, const struct tokenizer_file *tokenizer, const char *directory,
                char **path, uint64_t identity[2], struct sonde_error *e);

/* ------------------------------------------------------------------------------------------- batches */

/*
 * Documents longer than T tokens are pieces of T tokens, so that a book does not fill a hundred batches in a row. Each
 * epoch takes every piece of a source once, in an order of its own. Pieces stand one behind the other in batches, each
 * a segment. One that does not fit is split: its rest begins the next batch as a segment of its own, unless the source
 * is DATA_WHOLE: then what is left of the batch is padding. No token is dropped.
 *
 * The next piece comes from the source that is furthest behind its share, the first among equals; so shares hold at
 * any time, to within a piece.
 *
 * A target is the id that follows in the document, also where a piece or segment ends; -1 at the document's last token,
 * in padding, and with DATA_ANSWERS before a token that no assistant says.
 */
struct data;

enum { DATA_SOURCES = 16 };

struct data_options {
    const struct data_source *sources;
    uint32_t source_count; /* 1 to DATA_SOURCES */
    uint32_t tokens;       /* T of a batch, at least 1 */
    const char *tokenizer; /* a tokenizer.json */
    const char *cache;     /* a directory */
    uint64_t seed;         /* of the orders */
    uint64_t epochs;       /* of each source, 0: without end. Who is done leaves its share to the others */
};

/* Where a run is. A struct of numbers without padding, to be saved as it is. */
struct data_position {
    uint64_t seed, length; /* of the options: seed and T */
    uint64_t batches;      /* given so far */
    uint64_t source;       /* of the piece that is begun, if one is */
    uint64_t offset;       /* tokens of it that are given; 0: none is begun */
    struct {
        uint64_t identity[2]; /* of its tokens; 0 beyond the last source */
        uint64_t epoch, next; /* `next` counts pieces of this epoch; the one begun counts as next */
        uint64_t tokens;      /* given so far */
    } sources[DATA_SOURCES];
};

/* Errors: ARGUMENT (an option), and those of tokens_open() and sonde_tokenizer_open(). */
int data_open(const struct data_options *options, struct data **data, struct sonde_error *e);
void data_close(struct data *data);

/* The next batch of T tokens, valid until the call after; batch->tokens is 0 when all epochs are over. */
void data_next(struct data *data, struct batch *batch);

/* Where the next batch begins; and there again. Errors: FORMAT (not a position in this data: a source, the tokenizer,
 * the seed or T is another). */
void data_tell(const struct data *data, struct data_position *position);
int data_seek(struct data *data, const struct data_position *position, struct sonde_error *e);

/* Ids are below this. */
uint32_t data_vocabulary(const struct data *data);

/* Of one epoch of a source. */
uint64_t data_tokens(const struct data *data, uint32_t source);
uint64_t data_documents(const struct data *data, uint32_t source);

/* What stands at place `index` < count in the order `order`: for each order another permutation of 0 to count - 1. */
uint64_t data_shuffled(uint64_t order, uint64_t count, uint64_t index);

#endif
