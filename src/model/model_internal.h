/*
 * model_internal.h - the network's weights by the names of the paper, and the state of one step.
 */
#ifndef MODEL_MODEL_INTERNAL_H
#define MODEL_MODEL_INTERNAL_H

#include "cache/cache.h"
#include "model/model.h"

/* ------------------------------------------------------------------------------------- rounding */

/* What is rounded on the way, as the oracle's Precision. */
struct precision {
    bool
        activations_fp8; /* inputs of FP8 and FP4 matrices: e4m3 in blocks of channels, as wide as the architecture's */
    bool kv_fp8;         /* the channels of a key that are not rotated: e4m3 per 64 */
    bool kv_bf16;        /* and the rotated ones: bf16 */
    bool index_fp4;      /* index queries and keys after the Hadamard transform: e2m1 per 32 */
    bool bf16;           /* every stored activation */
    bool products_bf16;  /* inputs of products with matrices that are not F32 */
};

/* -------------------------------------------------------------------------------------- weights */

struct hyper_weights {
    struct matrix fn, scale, base;
};

/* Gated pooling of `ratio` tokens into one entry. */
struct compressor {
    uint32_t ratio, dim, wide; /* wide: 2 dim where blocks overlap */
    bool overlap;
    struct matrix wkv, wgate, ape, norm;
};

struct indexer {
    struct matrix wq_b, weights_proj;
    struct compressor compressor;
};

struct attention_weights {
    uint32_t ratio;
    struct matrix wq_a, q_norm, wq_b, wkv, kv_norm, wo_a, wo_b, sink;
    struct compressor compressor; /* ratio > 0 */
    struct indexer indexer;       /* ratio is INDEXED_RATIO */
};

struct router {
    struct matrix gate, bias; /* bias.data NULL: by token id */
    struct integers by_token; /* [V, k] */
    const struct tensor *by_token_tensor;
};

struct engram {
    struct integers token_map;       /* [V]: ids to compact ids */
    int64_t *multipliers;            /* [orders] */
    int64_t *sizes;                  /* [columns]: rows of each hash head's table; they follow each other */
    uint32_t columns;                /* (orders - 1) * heads */
    struct matrix table;             /* [sum of sizes, width / heads] */
    struct matrix value, value_bias; /* [D, hidden], [1, D] */
    struct matrix *keys, *key_biases, *key_norms, *query_norms, *conv_norms; /* [H] each */
    struct matrix conv;                                                      /* [H D, taps] */
};

struct layer {
    struct hyper_weights hc_attn, hc_ffn;
    struct matrix attn_norm, ffn_norm;
    struct attention_weights attn;
    struct router router;
    struct device_expert *experts; /* [E] */
    struct device_expert shared;
    struct engram *engram; /* NULL: none */
};

struct mtp {
    struct matrix e_proj, h_proj, enorm, hnorm, norm;
    struct hyper_weights hc_head;
    struct layer block;
};

/* Ratio 4 overlaps its blocks and chooses entries by an indexer; every other ratio does neither. */
enum { INDEXED_RATIO = 4 };

/* --------------------------------------------------------------------------------------- scratch */

enum { LOGIT_ROWS = 32 }; /* rows of logits computed at once */

/* Device memory of one step; S = model.rows. */
struct scratch {
    float *h;                         /* [S, H, D] residual streams */
    float *x;                         /* [S, D] collapsed, then normed */
    float *post, *comb;               /* [S, H], [S, H, H] */
    float *y;                         /* [S, D] output of a sublayer */
    float *q_latent;                  /* [S, R] */
    float *q;                         /* [S, N, C] */
    float *key;                       /* [S, C] */
    uint8_t *key_rows;                /* [S] rows of the cache: the same as stored */
    float *attended;                  /* [S, N, C] */
    float *low;                       /* [S, G rank] */
    float *pool_values, *pool_scores; /* [S, widest compressor] */
    float *entries;                   /* [S, max(C, Ci)]: fresh ones, of a segment */
    float *index_q, *index_w;         /* [S, Hi, Ci], [S, Hi] */
    int32_t *chosen, *counts;         /* [S, top], [S] */
    float *router;                    /* [S, E] */
    int32_t *experts;                 /* [S, k] */
    float *expert_weights;            /* [S, k] */
    float *turns, *turns_compressed;  /* [S, rope / 2, 2] of the rows' positions, by either frequency set */
    float *turns_entries;             /* [S, rope / 2, 2] of entries' positions */
    float *engram_rows;               /* [S, hidden of Engram] */
    float *engram_key, *engram_value; /* [S, D] */
    float *engram_out, *engram_conv;  /* [S, H, D] */
    float *previous;                  /* [S, H, D]: multi-token prediction's input residual */
    float *head_rows, *logits;        /* [LOGIT_ROWS, H, D], [LOGIT_ROWS, V] */
};

struct step;

/* What tells one architecture from another, behind the one face of model.h. */
struct architecture {
    uint32_t activation_block; /* channels that `official` precision rounds together */
    uint32_t least_ratio;      /* tokens an entry that is chosen, at least */
    /* Weights, and what is made of them at once. What failed is released like what did not. */
    int (*bind)(struct model *m, struct sonde_error *e);
    void (*release)(struct model *m);
    struct cache_rows (*cache_rows)(const struct shape *s, const struct precision *p);
    struct cache_layer_spec (*layer_spec)(const struct shape *s, const struct cache_rows *rows, uint32_t index);
    void (*lay_out_scratch)(struct model *m, struct arena *a);      /* beyond struct scratch; NULL: nothing */
    void (*limits)(const struct model *m, struct device_limits *l); /* raises what hangs on ratios */
    /* From the tokens of st's segments to its outputs. */
    void (*step)(struct step *st);
};

extern const struct architecture architecture_v4, architecture_v41;

/* Rings have a row more for each token that sequence_rollback() may take back. */
enum { RING_SPARE = MODEL_MOST_DRAFTS };

struct model {
    const struct checkpoint *checkpoint;
    const struct shape *shape;
    const struct architecture *architecture;
    struct device *device;
    struct precision precision;
    uint32_t rows;
    uint64_t context;
    uint32_t top; /* entries the indexer keeps: index_topk, or all there can be */
    struct cache_rows cache_rows;

    struct matrix embed, head, norm;
    struct hyper_weights hc_head;
    struct layer *layers;
    struct mtp *mtp;                /* NULL: none */
    struct v41 *v41;                /* of architecture_v41 */
    bool released_decode;           /* struct model_options */
    struct cache_layer_spec *specs; /* [layers + 1 if mtp] */
    struct cache_page_part *parts;  /* of a page, for each of specs */
    uint64_t page_tokens, page_bytes;
    struct cache_pages *pages;
    void *page_memory; /* device: of all pages */
    size_t page_memory_bytes;
    uint64_t state_bytes, state_limit;       /* of sequences and snapshots */
    uint64_t sequence_bytes[2];              /* of a sequence's state, without and with multi-token prediction */
    uint32_t blocks;                         /* of specs */
    float *frequency, *frequency_compressed; /* [rope / 2] host */

    struct scratch scratch;
    void *memory;
    size_t memory_bytes;

    /* host scratch of one step */
    uint64_t *positions;                     /* [S] */
    int64_t *ids, *engram_ids;               /* [S], [S, columns] */
    int32_t *forced;                         /* [S, k] */
    float *host_logits, *host_layer;         /* [LOGIT_ROWS, V], [S, H, D] */
    int32_t *host_experts;                   /* [S, k] */
    struct segment *segments, *mtp_segments; /* [S] each: of the step in work */
};

struct sequence {
    struct model *model;
    uint64_t length, context;
    bool mtp;
    int32_t *tokens;            /* [context + MODEL_MOST_DRAFTS]: from `length` on, what drafts are made upon */
    struct cache_layer *layers; /* [blocks] */
    uint32_t *pages;            /* [page_count] held, of [context] tokens' worth */
    uint32_t page_count;
    /* multi-token prediction: residuals of the last tokens, over which its block has not run */
    float *owed; /* [1 + MODEL_MOST_DRAFTS, H, D] device */
    uint32_t owed_count;
    int32_t paired;    /* the block has run over the last residual all the same, with this token next; -1: it has not */
    uint32_t undoable; /* tokens that sequence_rollback() may still forget */
    void *memory;
    size_t memory_bytes;
};

/* -------------------------------------------------------------------------------------- one step */

/* Consecutive tokens of one sequence: rows [row, row + count) are positions [first, first + count). */
struct segment {
    struct sequence *sequence;
    uint64_t first;
    uint32_t row, count;
    uint32_t span; /* of the step's */
    bool all;      /* logits after every token; else after the last */
    bool draft;    /* struct model_span */
};

struct step {
    struct model *m;
    const struct device_ops *ops;
    struct device *d;
    struct segment *segments;
    uint32_t segment_count, rows;
    const struct model_outputs *outputs;
    int rc;                /* first failure found on the host */
    struct sonde_error *e; /* where its sentence goes */
};

/* weights.c */
int weights_bind(struct model *m, struct sonde_error *e);
void weights_release(struct model *m);
bool layer_has_engram(const struct shape *s, uint32_t layer);

/* pages.c */
enum { PAGE_TOKENS = 1024 }; /* at least, unless options say otherwise */
int pages_open(struct model *m, const struct model_options *options, struct sonde_error *e);
void pages_close(struct model *m);
/* Counts memory for the state of a sequence or snapshot; false: that would be more than the limit. */
bool state_take(struct model *m, uint64_t bytes);
void state_return(struct model *m, uint64_t bytes);
/* Gives back the pages behind so many tokens. */
void sequence_trim_pages(struct sequence *s, uint64_t tokens);
void sequence_share_pages(struct sequence *to, const struct sequence *from);
/* Before a step: sequences get the pages it will write, for themselves. MEMORY: there are too few; nothing has changed.
 */
int sequences_prepare(struct model *m, const struct model_span *spans, uint32_t count, struct sonde_error *e);
/* Where the entries, or index keys, of layer `index` are. */
struct device_pages sequence_entries(const struct sequence *s, uint32_t index, bool for_index);

/* step.c */
/* positions and their turns for the rows of st's segments */
void step_positions(struct step *st);
/* h [S, H, D]: the tokens' embeddings, in every stream */
void step_embed(struct step *st);
void step_trace_layer(struct step *st, uint32_t layer);
/* NUMERIC if h is not finite */
void step_check_streams(struct step *st);
typedef void logits_callback(void *context, uint32_t span, uint64_t position, const float *logits);
/* How streams become what the head reads: x [count, D] from these rows of the step. */
struct head {
    void (*collapse)(struct step *st, const struct head *head, const uint32_t *rows, uint32_t count, float *x);
    const struct hyper_weights *hyper;
    const struct matrix *norm;
};
/* Logits of the rows the segments want, LOGIT_ROWS at a time whoever's they are. */
void head_emit(struct step *st, const struct head *head, logits_callback *emit);
/* Waits for the device; returns what failed first, if anything did. */
int step_finish(struct step *st);
/* y [rows, w.rows] = w x of contiguous rows, for the list of a step_products(). A quantised w's inputs are rounded as
 * `official` says: of all products but few. */
struct device_product step_product(const struct step *st, const struct matrix *w, const float *x, float *y);
/* Runs a list; outputs are rounded as the precision says. */
void step_products(struct step *st, const struct device_product *list, uint32_t count, uint64_t rows);
/* A list of one. */
void step_linear(struct step *st, const struct matrix *w, const float *x, uint64_t rows, float *y);
void step_norm(struct step *st, const float *x, uint64_t rows, uint32_t n, const struct matrix *w, float eps, float *y);
void step_round(struct step *st, float *x, uint64_t count);

/* forward.c */
void block_run(struct step *st, const struct layer *l, uint32_t index);
/* A head's collapse by its own hyper-connection. */
void hyper_head_rows(struct step *st, const struct head *head, const uint32_t *rows, uint32_t count, float *x);

/* post and comb as for hyper_collapse(), and pre [S, H], from h [S, H, D], which is not collapsed. */
void hyper_mixes(struct step *st, const struct hyper_weights *w, const float *h, float *pre);
/* attention.c: y [S, D] from the heads' outputs, turned back: a product for each group of heads, then one for all. */
void attention_output(struct step *st, const struct attention_weights *w, float *y);
/* compressor.c: packs `count` entries, x [count, dim], to their places from entry `first` on, page by page. */
void entries_store(struct step *st, const struct row_format *format, struct device_pages pages, const float *x,
                   uint64_t first, uint64_t count);

/* hyper.c, attention.c, compressor.c, indexer.c, experts.c, engram.c, mtp.c: see there */
void hyper_collapse(struct step *st, const struct hyper_weights *w, const float *h, float *x);
void hyper_spread(struct step *st, const float *y, float *h);
void hyper_head(struct step *st, const struct hyper_weights *w, const float *h, uint32_t rows, float *x);
void attention_run(struct step *st, const struct attention_weights *w, uint32_t index, const float *x, float *y);
void compressor_run(struct step *st, const struct compressor *c, uint32_t index, const float *x, bool for_index);
void indexer_run(struct step *st, const struct indexer *ix, uint32_t index, const float *x, const float *q_latent);
void experts_run(struct step *st, const struct layer *l, uint32_t index, const float *x, float *y);
void engram_run(struct step *st, const struct engram *g, uint32_t index, float *h);
/* True if a sequence of so many tokens, not 0, can be in this state between steps. */
bool mtp_can_owe(const struct model *m, uint64_t length, uint32_t owed, int32_t paired);
void mtp_catch_up(struct step *st);
void mtp_run(struct step *st);

#endif
