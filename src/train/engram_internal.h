/*
 * engram_internal.h - Engram: hashed n-gram memory, added to the streams of a few layers (arXiv 2601.07372; forward:
 * src/model/engram.c). In the order of a step:
 *
 *     engram_rows_add, _sort    which rows of the table the n-grams are hashed to, known from the ids alone
 *     engram_look_up            e = those rows, side by side
 *     engram_forward            h_j <- h_j + v_j + silu(conv(RMSNorm(v))_j),  v_j = gate_j value
 *     engram_backward           de, dh and the gradients of all weights but the table
 *     engram_table_gradient     from de: one row for each row of the table that was read
 *
 * A batch's rows depend on the layer (its multipliers and sizes), on no weight.
 */
#ifndef TRAIN_ENGRAM_INTERNAL_H
#define TRAIN_ENGRAM_INTERNAL_H

#include "model/model.h"
#include "train/real_internal.h"

/* ------------------------------------------------------------------------- engram_rows.c: the integers */

/*
 * The rows that the tokens of a step read. A slot is one row of one token: slot t * columns + c is column c of token t,
 * columns being (orders - 1) * heads. Several batches, where gradients are summed over them, are one list of slots.
 */
struct engram_rows {
    size_t slots, room;
    int64_t *rows; /* [slots] */
    /* After sorting: row unique[i] of the table is read by slots[first[i]] to slots[first[i + 1] - 1], ascending. */
    size_t count;
    uint32_t *unique;  /* [count], ascending */
    uint32_t *first;   /* [count + 1] */
    uint32_t *by_row;  /* [slots] */
    uint32_t *scratch; /* [slots] */
};

/* room: most slots. Errors: MEMORY, ARGUMENT (2^31 slots or more). */
int engram_rows_init(struct engram_rows *r, size_t room, struct sonde_error *e);
void engram_rows_release(struct engram_rows *r);
size_t engram_rows_bytes(size_t room); /* what a list takes */
void engram_rows_clear(struct engram_rows *r);

/* Appends the slots of a batch, for which there is room. token_map [V] gives compact ids; `pad`, an id, stands before
 * every segment. All rows must be below 2^32. */
void engram_rows_add(struct engram_rows *r, const struct engram_hash *hash, const int64_t *token_map, int32_t pad,
                     const struct batch *batch);

/* After the last batch. */
void engram_rows_sort(struct engram_rows *r);

/* Odd multipliers [orders] of a new layer, such that a multiplier times a compact id below `ids` is below 2^63. */
void engram_make_multipliers(struct rng *r, int64_t ids, uint32_t orders, int64_t *multipliers);

/* --------------------------------------------------------------------------------- engram.c: the passes */

struct engram_sizes {
    uint32_t tokens, streams, dim; /* T, H, D */
    uint32_t inputs;               /* channels of e */
    uint32_t taps, dilation;       /* of the convolution */
    double norm_eps, conv_eps;
    const struct segment *segments;
    uint32_t segment_count;
};

/* The projections of all streams are one matrix. A bias that is NULL is not there. */
struct engram_weights {
    const real *keys, *key_bias;                   /* [H D, inputs], [H D] */
    const real *value, *value_bias;                /* [D, inputs], [D] */
    const real *key_norm, *query_norm, *conv_norm; /* [H D] each */
    const real *conv;                              /* [H D, taps] */
};

struct engram_gradients {
    real *keys, *key_bias;
    real *value, *value_bias;
    real *key_norm, *query_norm, *conv_norm;
    real *conv;
};

/* What is known of a token and a stream. */
struct engram_gate {
    real key_inverse, query_inverse; /* 1 / RMS */
    real agreement;                  /* of the normed key and stream: their product / sqrt(D) */
    real gate;
    real conv_input; /* what the value is multiplied by to be normed: gate / RMS(gate value) */
};

struct engram_saved {
    real *key;                 /* [T, H D] */
    real *value;               /* [T, D] */
    struct engram_gate *gates; /* [T, H] */
};

/* Numbers of work that engram_backward() wants. */
static inline size_t engram_work(const struct engram_sizes *s) {
    return (size_t)s->tokens * ((2 * (size_t)s->streams + 1) * s->dim + s->streams);
}

/* e [slots, width] from the table [rows, width]: as [T, inputs], T tokens. */
void REAL(engram_look_up)(struct team *team, const struct engram_rows *r, uint32_t width, const real *table, real *e);

/* gradient [count, width]: of the rows `unique` of the table, from de [slots, width]. */
void REAL(engram_table_gradient)(struct team *team, const struct engram_rows *r, uint32_t width, const real *de,
                                 real *gradient);

/* out [T, H, D], which is not h, from h [T, H, D] and e [T, inputs]. */
void REAL(engram_forward)(struct team *team, const struct engram_sizes *s, const real *h, const real *e,
                          const struct engram_weights *w, real *out, const struct engram_saved *saved);
void REAL(engram_backward)(struct team *team, const struct engram_sizes *s, const real *h, const real *e,
                           const struct engram_weights *w, const struct engram_saved *saved, const real *dout,
                           real *work, real *dh, real *de, const struct engram_gradients *g);

#endif
