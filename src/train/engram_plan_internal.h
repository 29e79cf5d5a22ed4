/*
 * engram_plan_internal.h - the integers that Engram hashes by: they belong to a model like its weights, and no step
 * changes them.
 */
#ifndef TRAIN_ENGRAM_PLAN_INTERNAL_H
#define TRAIN_ENGRAM_PLAN_INTERNAL_H

#include "text/text.h"
#include "train/train_internal.h"

/* Of a shape with `count` Engram layers of `orders` and `heads`; columns = (orders - 1) heads. All NULL: no Engram. */
struct engram_plan {
    int64_t *token_map;   /* [V] token to compact id: tokens that differ in case, accents or blanks only share one */
    int64_t *multipliers; /* [count, orders], of the newest token first */
    int64_t *sizes;       /* [count, columns]: rows of each hash's part of a layer's table */
    bool biases;          /* keys and values have biases: in some checkpoints, not in a new model */
};

/* For a model that is new. least [orders - 1]: rows of a table of each order at least; no two tables have as many.
 * tokenizer: path of a tokenizer.json, whose tokens beyond the vocabulary are left out. Errors: IO, FORMAT, MEMORY,
 * ARGUMENT (a size that is too large). */
int engram_plan_make(const struct shape *shape, const int64_t *least, const char *tokenizer, uint64_t seed,
                     struct engram_plan *plan, struct sonde_error *e);

/* That of a checkpoint. Errors: FORMAT (names the tensor), MEMORY. */
int engram_plan_load(const struct checkpoint *c, struct engram_plan *plan, struct sonde_error *e);
void engram_plan_release(struct engram_plan *p);

#endif
