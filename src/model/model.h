/*
 * model.h - the DeepSeek-V4 forward pass over a checkpoint, a device and sequences.
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
 * Files, in the order a token meets them: forward.c, engram.c, hyper.c, attention.c, compressor.c, indexer.c,
 * experts.c, mtp.c; weights.c binds, sequence.c remembers.
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
    uint64_t cache_bytes; /* most that the entries of all sequences take; 0: half of the machine's memory */
    uint32_t page_tokens; /* least tokens of a page of entries; 0: 1024 */
};

/* Binds the checkpoint, which must outlive the model, to the device, which the model then uses alone. Reads no
 * weights. Errors: FORMAT (a tensor is missing or not as the shape demands), UNSUPPORTED, MEMORY. */
int model_open(const struct checkpoint *c, struct device *d, const struct model_options *options, struct model **model,
               struct sonde_error *e);
void model_close(struct model *m);

/* True if the checkpoint has a multi-token-prediction block that can be run. */
bool model_has_mtp(const struct model *m);

/* Most rows of a step. */
uint32_t model_rows(const struct model *m);

/* An empty sequence of at most `context` tokens; 0: as many as the model takes. Errors: MEMORY, ARGUMENT (more than
 * that), UNSUPPORTED (mtp without the block). */
int sequence_open(struct model *m, uint64_t context, bool mtp, struct sequence **sequence, struct sonde_error *e);
/* A sequence that goes on from where `from` is, for itself; entries are shared until one of both writes. Errors:
 * MEMORY. */
int sequence_fork(struct sequence *from, struct sequence **sequence, struct sonde_error *e);
void sequence_close(struct sequence *s);
void sequence_reset(struct sequence *s);
uint64_t sequence_length(const struct sequence *s);
uint64_t sequence_context(const struct sequence *s);
const int32_t *sequence_tokens(const struct sequence *s); /* [length] */

/* `count` > 0 tokens to append to a sequence. A sequence stands in at most one span of a step. */
struct model_span {
    struct sequence *sequence;
    const int32_t *ids;
    uint32_t count;
    bool all; /* logits after every token; else only after the last */
};

/*
 * Where results go. Rows are valid during the call. layer and route are for looking inside (golden tests,
 * training data); NULL costs nothing.
 */
struct model_outputs {
    void *context;
    /* logits [V] after the token at `position` of span `span`. */
    void (*logits)(void *context, uint32_t span, uint64_t position, const float *logits);
    /* multi-token prediction from position and position + 1, for position + 2; of every token. */
    void (*mtp)(void *context, uint32_t span, uint64_t position, const float *logits);
    /* residual streams [rows, H, D] after a layer, and the experts [rows, k] it chose. */
    void (*layer)(void *context, uint32_t layer, uint32_t rows, const float *h);
    void (*route)(void *context, uint32_t layer, uint32_t rows, const int32_t *experts);
};

/* Errors: ARGUMENT (an id outside the vocabulary, too many rows), CONTEXT (a sequence is too short), MEMORY (no page of
 * entries is left): nothing has changed. NUMERIC (a value that is not finite; names the tensor at fault where one is),
 * FORMAT (a token's expert that is not there) and device errors: the sequences of the step must be reset. */
int model_step(struct model *m, const struct model_span *spans, uint32_t count, const struct model_outputs *outputs,
               struct sonde_error *e);

/* How a precision keeps keys (entries too) and index keys in the cache. */
struct cache_rows {
    struct row_format key, index_key;
};
struct cache_rows model_cache_rows(const struct shape *shape, enum sonde_precision precision);

/* What the cache of a sequence of this checkpoint takes: bytes at any length, and bytes of `tokens` tokens. */
int model_cache_bytes(const struct shape *shape, enum sonde_precision precision, uint64_t tokens, uint64_t *fixed,
                      uint64_t *growing, struct sonde_error *e);

#endif
