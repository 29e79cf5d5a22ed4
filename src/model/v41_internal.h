/*
 * v41_internal.h - what DeepSeek-V4.1 has besides the pieces it shares with V4.
 *
 * In model.layers a layer's attention has a compressor if it is a key source (wkv, norm, and wgate where the ratio is
 * more than 1) and an indexer if it is an index source (wq_b, weights_proj); engram is NULL.
 */
#ifndef MODEL_V41_INTERNAL_H
#define MODEL_V41_INTERNAL_H

#include "model/model_internal.h"

/* Roundings of keys: the window's e4m3, entries e2m1 with a scale of e4m3, index keys and queries e2m1. */
enum { V41_WINDOW_BLOCK = 32, V41_ENTRY_BLOCK = 16, V41_INDEX_BLOCK = 32 };

struct v41_engram {
    struct engram_hash hash;
    uint32_t columns;       /* (orders - 1) * heads */
    struct matrix table;    /* [rows, width / heads] */
    struct matrix wkv;      /* [(H + 1) D, (orders - 1) * width]: keys of all streams, then the value */
    struct matrix *keys;    /* [H]: norm weights [1, D] of each stream's key */
    struct matrix *queries; /* [H]: and of the stream */
};

struct v41_layer {
    struct matrix wk, k_norm;  /* of key sources: from entries, not rotated yet, to index keys */
    struct v41_engram *engram; /* NULL: none */
};

struct v41 {
    struct v41_layer *layers; /* [L] */
    int64_t *token_map;       /* [V]: compact ids; NULL: no Engram */
    int64_t *multipliers;     /* [engram.count, orders] */
    int64_t *sizes;           /* [engram.count, columns] */

    /* device memory of one step; S = model.rows. chosen and blocks stand until the next layer that chooses. */
    float *mix, *mine;              /* [S, H]: what the next sublayer collapses the streams with */
    float *index_keys;              /* [S, Ci]: fresh ones */
    float *engram_kv;               /* [S, (H + 1) D] */
    int32_t *blocks, *block_counts; /* [S, candidate_blocks], [S] */

    /* host */
    float *first_mix;                   /* [S, H]: stream 0 */
    int32_t *host_chosen, *host_counts; /* [S, top], [S] */
};

/* v41_weights.c */
int v41_bind(struct model *m, struct sonde_error *e);
void v41_release(struct model *m);

/* v41_attention.c: y [S, D] = attention of layer `index` over x [S, D]; appends to the sequences' caches. */
void v41_attention_run(struct step *st, uint32_t index, const float *x, float *y);

/* v41_engram.c: h [S, H, D] takes in what the n-grams that end at each token recall. */
void v41_engram_run(struct step *st, uint32_t index, float *h);

#endif
