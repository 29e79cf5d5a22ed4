/*
 * model.h - the forward pass of DeepSeek-V4 and V4.1 over a checkpoint, a device and sequences.
 *
 * A model binds a checkpoint's tensors to the places they have in the network, checking every name, dtype and
 * shape, and holds the scratch memory of one step. A sequence is what the model remembers of one text. A step
 * runs some tokens of some sequences through all layers:
 *
 *     ids --embed--> H streams --[ Engram | mHC attention | mHC experts ] x L--> mHC head --> logits
 *
 * Rows of a step are all tokens of its spans, one after another; what mixes tokens (attention, compressors,
 * Engram) works span by span, everything else on all rows at once. The result for a token does not depend on
 * how its text was divided into steps or on what else was in the step.
 *
 * Files, in the order a token meets them: step.c, forward.c, engram.c, hyper.c, attention.c, compressor.c, indexer.c,
 * experts.c, mtp.c; weights.c binds, sequence.c, pages.c and snapshot.c remember. Of V4.1 what differs lies in v41_*.c.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "checkpoint/checkpoint.h"
#include "device/device.h"

struct model;
struct sequence;

struct model_options {
    enum sonde_precision precision;
    uint32_t rows;        /* most rows of a step */
    uint64_t context;     /* most tokens of a sequence; 0: the checkpoint's */
    uint64_t cache_bytes; /* most that the entries of all sequences take; 0: 3/8 of the machine's memory */
    uint64_t state_bytes; /* most that the states of sequences and snapshots take; 0: 1/8 of it */
    uint32_t page_tokens; /* least tokens of a page of entries; 0: 1024 */
    /* DeepSeek-V4.1 only. Its released code keeps the newest index keys in one place. When a text goes on by a single
     * token that completes no entry, layers of ratio 2 have none to put there, and score against the keys of the last
     * layer that makes some, left by the step before. true: steps of single tokens do the same; which tokens an entry
     * is chosen for then depends on how a text was divided. */
    bool released_decode;
};

/* Binds the checkpoint, which must outlive the model, to the device, which the model then uses alone. Reads no
 * weights. Errors: FORMAT (a tensor is missing or not as the shape demands), UNSUPPORTED, MEMORY. */
int model_open(const struct checkpoint *c, struct device *d, const struct model_options *options, struct model **model,
               struct sonde_error *e);
void model_close(struct model *m);

/* True if the checkpoint has a multi-token-prediction block that can be run. */
bool model_has_mtp(const struct model *m);

/* Most rows of a step; most tokens of a sequence. */
uint32_t model_rows(const struct model *m);
uint64_t model_context(const struct model *m);

/* An empty sequence of at most `context` tokens; 0: as many as the model takes. Errors: MEMORY, ARGUMENT (more than
 * that), UNSUPPORTED (mtp without the block). */
int sequence_open(struct model *m, uint64_t context, bool mtp, struct sequence **sequence, struct sonde_error *e);
/* A sequence that goes on from where `from` is, for itself; entries are shared until one of both writes. Errors:
 * MEMORY. */
int sequence_fork(struct sequence *from, struct sequence **sequence, struct sonde_error *e);
void sequence_close(struct sequence *s);
void sequence_reset(struct sequence *s);
/* Forgets the last `count` tokens, as if they had never been fed. They must be of the last step, which must have been a
 * `draft` span of more tokens than that; at most MODEL_MOST_DRAFTS, and before model_draft() runs over them. */
void sequence_rollback(struct sequence *s, uint32_t count);
uint64_t sequence_length(const struct sequence *s);
uint64_t sequence_context(const struct sequence *s);
const int32_t *sequence_tokens(const struct sequence *s); /* [length] */
bool sequence_mtp(const struct sequence *s);

/* `count` > 0 tokens to append to a sequence. A sequence stands in at most one span of a step. */
struct model_span {
    struct sequence *sequence;
    const int32_t *ids;
    uint32_t count;
    bool all;   /* logits after every token; else only after the last */
    bool draft; /* last tokens may be taken back: multi-token prediction waits for those that stay */
};

/*
 * Where results go. Rows are valid during the call. layer and route are for looking inside (golden tests,
 * training data); NULL costs nothing.
 */
struct model_outputs {
    void *context;
    /* logits [V] after the token at `position` of span `span`. */
    void (*logits)(void *context, uint32_t span, uint64_t position, const float *logits);
    /* multi-token prediction from position and position + 1, for position + 2; of every token, some steps later where
     * those were drafts, but not of pairs that model_draft() has completed. */
    void (*mtp)(void *context, uint32_t span, uint64_t position, const float *logits);
    /* residual streams [rows, H, D] after a layer, and the experts [rows, k] it chose. */
    void (*layer)(void *context, uint32_t layer, uint32_t rows, const float *h);
    void (*route)(void *context, uint32_t layer, uint32_t rows, const int32_t *experts);
    /* DeepSeek-V4.1: entries [rows, top] a layer chose for its tokens and those of the layers behind it that choose
     * none, ascending, the first counts [rows] of each; rows [rows, columns] of its table that Engram looked up. */
    void (*chosen)(void *context, uint32_t layer, uint32_t rows, uint32_t top, const int32_t *chosen,
                   const int32_t *counts);
    void (*engram)(void *context, uint32_t layer, uint32_t rows, uint32_t columns, const int64_t *looked_up);
};

/* Errors: ARGUMENT (an id outside the vocabulary, too many rows), CONTEXT (a sequence is too short), MEMORY (no page of
 * entries is left): nothing has changed. NUMERIC (a value that is not finite; names the tensor at fault where one is),
 * FORMAT (a token's expert that is not there) and device errors: the sequences of the step must be reset. */
int model_step(struct model *m, const struct model_span *spans, uint32_t count, const struct model_outputs *outputs,
               struct sonde_error *e);

/* ----------------------------------------------------------------------------------------- Engram */

/* How n-grams find their rows of a table: orders 2 to `orders` by `heads` hashes each. */
enum { ENGRAM_MOST_ORDERS = 64 };

struct engram_hash {
    uint32_t orders, heads;
    const int64_t *multipliers; /* [orders], of the newest token first */
    const int64_t *sizes;       /* [(orders - 1) * heads]: rows of each hash's part of the table */
};

/* rows [(orders - 1) * heads] that the n-grams ending at a token are hashed to, parts one behind the other; compact
 * [orders]: compact ids of that token and of those before it. */
void engram_hash_rows(const struct engram_hash *hash, const int64_t *compact, int64_t *rows);

/* Sizes of the hash heads' tables of several layers: the first `count` primes that are not below `least`, so that no
 * two tables of any layers have one size. */
void engram_make_sizes(int64_t least, size_t count, int64_t *sizes);

/* Multipliers [orders] of layer `layer` of DeepSeek-V4.1, whose tokens have `ids` compact ids: odd, and such that one
 * times a compact id is below 2^63. They are what NumPy's default generator gives for a seed of the layer's. */
void engram_v41_multipliers(uint32_t layer, uint32_t ids, uint32_t orders, int64_t *multipliers);

/* ------------------------------------------------------------------------------------ speculation */

/*
 * A draft is what multi-token prediction expects to come. One round for a sequence that has one token drawn:
 *
 *     model_draft         from the token, d drafts
 *     model_step          [token, drafts] as a span with `all` and `draft`: logits after each of these
 *     sequence_rollback   of the drafts from the first on that is not what those logits give
 *     draw a token        from the logits of the last that is left
 *
 * As a text's result does not depend on its division into steps, nor on what was taken back, drawing is all that
 * decides what is said: drafts only make it come sooner. Rounds and ordinary steps may follow each other in any way.
 *
 * A sequence keeps the residuals of tokens over which the prediction's block has not run: of its last token, whose
 * successor is not known, and of those that draft spans fed, up to 1 + MODEL_MOST_DRAFTS in all. Each owes a pair
 * (residual, next token); model_draft() runs over them, and so does an ordinary step.
 */
enum { MODEL_MOST_DRAFTS = 3 };

struct model_draft {
    struct sequence *sequence; /* with mtp, not empty */
    int32_t token;             /* drawn after the sequence's last, not fed yet */
    uint32_t count;            /* 1 to MODEL_MOST_DRAFTS */
    int32_t *ids;              /* [count]: the likeliest after token, one after another; the lowest of equals */
};

/*
 * Drafts for sequences of which none is named twice; the block runs over all together. Of a draft nothing is
 * remembered, whatever is fed next; of the owed pairs, that they are done. Errors: ARGUMENT (an id outside the
 * vocabulary), UNSUPPORTED (a block that compresses): nothing has changed. NUMERIC and device errors: the sequences
 * must be reset.
 */
int model_draft(struct model *m, const struct model_draft *drafts, uint32_t count, struct sonde_error *e);

/* ------------------------------------------------------------------------------------- the cache */

/* Pages of a text of `tokens` tokens; bytes and tokens of one; how many nobody holds. A model whose sequences keep no
 * entries has pages of 0 bytes, and none. */
uint64_t model_page_count(const struct model *m, uint64_t tokens);
uint64_t model_page_bytes(const struct model *m);
uint64_t model_page_tokens(const struct model *m);
uint32_t model_pages_unused(const struct model *m);
uint32_t model_pages_all(const struct model *m);
/* Pages that a step of these spans needs and that are not there; 0: it has what it needs. */
uint64_t model_pages_lacking(const struct model *m, const struct model_span *spans, uint32_t count);

/*
 * A snapshot is a sequence as it was: its pages, shared, and a copy of its state on the host, within the model's limit
 * for states. It can be gone on from as often as wanted, and be made of bytes again that were written to files.
 */
struct snapshot;

/* logits [V], of what comes next, are kept with it; NULL: they are not. Errors: MEMORY. */
int snapshot_take(const struct sequence *from, const float *logits, struct snapshot **snapshot, struct sonde_error *e);
void snapshot_drop(struct snapshot *s);
/* `to` is what was taken; ids [snapshot_length] are its tokens. Errors: CONTEXT, ARGUMENT (one has multi-token
 * prediction and the other has not): nothing has changed. */
int snapshot_resume(const struct snapshot *s, const int32_t *ids, struct sequence *to, struct sonde_error *e);
uint64_t snapshot_length(const struct snapshot *s);
const float *snapshot_logits(const struct snapshot *s); /* [V] or NULL */
uint64_t snapshot_bytes(const struct snapshot *s);      /* of memory, without pages */

struct snapshot_header {
    uint64_t length, state_bytes;
    uint32_t mtp, logits; /* 0 or 1: there are */
    uint32_t owed;        /* as the sequence's: residuals over which the prediction's block has not run */
    int32_t paired;
};

/* As bytes: its header, and *rest. Borrowed. */
const struct snapshot_header *snapshot_parts(const struct snapshot *s, const void **rest, size_t *rest_bytes);
/* Bytes of page `index` as they are at the snapshot's length, to `to` [model_page_bytes]. */
void snapshot_page(const struct snapshot *s, uint32_t index, void *to);

/* The way back: a snapshot without pages, then its pages in order. Errors: FORMAT (not of this model), MEMORY. */
int snapshot_from_bytes(struct model *m, const struct snapshot_header *h, const void *rest, size_t rest_bytes,
                        struct snapshot **snapshot, struct sonde_error *e);
/* Pages it has. */
uint32_t snapshot_pages(const struct snapshot *s);
/* It has the complete pages of `base` too, whose tokens are the same as far as both go. */
void snapshot_share(struct snapshot *s, const struct snapshot *base);
/* False: no page is left. */
bool snapshot_add_page(struct snapshot *s, const void *data /* [model_page_bytes] */);

/* How a precision keeps keys (entries too) and index keys in the cache. */
struct cache_rows {
    struct row_format key, index_key;
};
struct cache_rows model_cache_rows(const struct shape *shape, enum sonde_precision precision);

/* What the cache of a sequence of this checkpoint takes: bytes at any length, and bytes of `tokens` tokens. */
int model_cache_bytes(const struct shape *shape, enum sonde_precision precision, uint64_t tokens, uint64_t *fixed,
                      uint64_t *growing, struct sonde_error *e);

/* rotary.c: [rope_dim / 2] angular frequencies; yarn NULL: none. */
void rotary_frequencies(uint32_t rope_dim, double theta, const struct yarn *yarn, float *frequency);

#endif
