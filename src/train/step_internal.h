/* step_internal.h - all memory of a step: what step_memory.c places and net.c fills. */
#ifndef TRAIN_STEP_INTERNAL_H
#define TRAIN_STEP_INTERNAL_H

#include "train/net_internal.h"

struct REAL(ending_saved) {
    struct hyper_saved mixes;
    real *x, *inverse, *in; /* [T, D], [T], [T, D] */
};

/* Multi-token prediction, over the pairs of a batch. */
struct REAL(predicted) {
    struct mtp_pairs pairs;
    struct REAL(places) places;
    real *embedded; /* [P, D] */
    struct mtp_saved saved;
    real *entered, *left; /* [P, H, D] streams before and behind the block */
    struct REAL(ending_saved) ending;
};

/* What is read of the table of an Engram layer in all batches of a step. Rows have room for one batch more, which is
 * not run backward. */
struct REAL(table_reads) {
    struct engram_rows rows;
    real *de, *gradient; /* [slots, cols] both: of each slot; of each row that was read */
};

struct REAL(step) {
    uint8_t *memory;
    uint32_t tokens, batches; /* room */
    bool recompute;
    struct REAL(places) places;
    struct REAL(layer_saved) * saved; /* [blocks], all the same memory where layers are computed again */
    struct REAL(work) work;
    real **entered; /* [L + 1]: [T, H, D] */
    struct REAL(ending_saved) ending;
    struct REAL(predicted) mtp;
    int32_t **experts;                /* [blocks]: [T, k], as chosen in the last run */
    uint32_t ran, paired;             /* tokens and pairs of that run */
    struct REAL(recall) * recalls;    /* [Engram layers] of the batch that is run */
    struct REAL(table_reads) * reads; /* [Engram layers] */
    struct REAL(table_gradient) * tables;
    size_t table_count;
};

#endif
