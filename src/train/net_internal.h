/*
 * net_internal.h - the network that is trained: its parameters, its passes put together. The specification is the
 * released forward pass (src/model, tests/oracle/model.py), whose names parameters carry.
 *
 *     params.c        what is trained, one piece of memory for all values and one for all gradients
 *     layout.c        which parameters a network of a shape has, and what they begin with
 *     load.c          the values of a checkpoint
 *     attention.c     the attention sublayer: x -> y, and back
 *     block.c         a layer: Engram, then attention and experts, each between collapse and spread of the streams
 *     step_memory.c   all memory of a step, and where in it everything lies
 *     net.c           a step: embeddings, layers, head, multi-token prediction, their losses
 *
 * Saved is what a backward pass wants of its forward pass. With recomputation there is one such piece of memory for
 * all layers: layers keep only the streams that entered them, and are computed again on the way back.
 *
 * Passes read a parameter's `use` alone, which may be led elsewhere between steps.
 */
#ifndef TRAIN_NET_INTERNAL_H
#define TRAIN_NET_INTERNAL_H

#include "train/attention_internal.h"
#include "train/engram_internal.h"
#include "train/hyper_internal.h"
#include "train/mtp_internal.h"
#include "train/shapes_internal.h"

#include "train/engram_plan_internal.h"
#include "train/experts_internal.h"
#include "train/loss_internal.h"
#include "train/norm_internal.h"
#include "train/rotate_internal.h"
#include "train/route_internal.h"

/* ---------------------------------------------------------------------------------------- parameters */

/* Who changes it. */
enum param_kind {
    PARAM_MUON,  /* matrices */
    PARAM_ADAM,  /* AdamW with decay */
    PARAM_STILL, /* Adam without decay: biases, gates, sinks */
    PARAM_TABLE, /* Adam by rows, of which a step's gradient has few: step_tables() */
    PARAM_FIXED, /* no gradient: router biases are moved by loads */
};

/* How it is stored in a checkpoint, and rounded where training rounds as it will be run. */
enum param_form { FORM_F32, FORM_BF16, FORM_FP8, FORM_FP4 };

struct REAL(param) {
    char name[72];              /* official; of stacked ones the expert's or stream's number stands for '#' */
    uint32_t stack, rows, cols; /* `stack` matrices one behind the other */
    enum param_kind kind;
    enum param_form form;
    bool vector;     /* rank 1 in a checkpoint; rows is 1 */
    bool conv;       /* [rows, 1, cols] in a checkpoint */
    real *value;     /* [stack, rows, cols] */
    real *gradient;  /* the same; NULL for PARAM_FIXED and PARAM_TABLE */
    const real *use; /* what the passes read: value, or that rounded */
};

static inline size_t REAL(param_count)(const struct REAL(param) * p) {
    return (size_t)p->stack * p->rows * p->cols;
}

/* Numbers that it takes in memory: whatever lies behind it begins on a line of the cache. */
static inline size_t REAL(param_room)(const struct REAL(param) * p) {
    return ceil_div(REAL(param_count)(p), 16) * 16;
}

struct REAL(params) {
    struct REAL(param) * list;
    size_t count, room;
    real *values, *gradients; /* of all, in order */
    size_t numbers, learnt;   /* in values, in gradients */
};

/* NULL: no room for more, which asserts. Its memory comes with params_place(). */
struct REAL(param) * REAL(params_add)(struct REAL(params) * p, enum param_kind kind, enum param_form form,
                                      uint32_t stack, uint32_t rows, uint32_t cols, const char *format, ...)
                         PRINTF_LIKE(7, 8);
int REAL(params_init)(struct REAL(params) * p, size_t room, struct sonde_error *e);
int REAL(params_place)(struct REAL(params) * p, struct sonde_error *e);
void REAL(params_release)(struct REAL(params) * p);
/* The name of one of a stack: its number for the '#'. */
void REAL(param_name)(const struct REAL(param) * p, uint32_t number, char *name, size_t room);
/* All dense gradients become 0. */
void REAL(params_clear)(struct REAL(params) * p);

/* ------------------------------------------------------------------------------------------- layers */

struct REAL(compressor) {
    struct REAL(param) * wkv, *wgate, *ape, *norm; /* [width, D] twice, [ratio, width], [dim] */
    uint32_t dim, ratio;
};

struct REAL(hyper_params) {
    struct REAL(param) * fn, *scale, *base;
};

/* Keys of all streams are one matrix [H D, inputs], and so are norms; biases NULL: none. */
struct REAL(engram) {
    struct REAL(param) * keys, *key_bias, *value, *value_bias, *key_norm, *query_norm, *conv_norm, *conv, *table;
    struct engram_hash hash; /* borrowed from the plan */
};

struct REAL(layer) {
    uint32_t ratio;               /* 0: window only */
    struct REAL(engram) * engram; /* NULL: none */
    struct REAL(hyper_params) hyper_attn, hyper_ffn;
    struct REAL(param) * attn_norm, *ffn_norm;
    struct REAL(param) * wq_a, *q_norm, *wq_b, *wkv, *kv_norm, *sink, *wo_a, *wo_b;
    struct REAL(compressor) entries;                /* where ratio is not 0 */
    struct REAL(compressor) keys;                   /* where ratio is 4: the indexer's */
    struct REAL(param) * index_wq_b, *index_weight; /* the same */
    struct REAL(param) * gate, *bias;               /* bias NULL: routed by token id */
    struct REAL(param) * w1, *w3, *w2, *shared_w1, *shared_w3, *shared_w2;
    const int32_t *table; /* [V, k]; NULL: routed by score */
};

/* What stands between the last streams and the head. */
struct REAL(ending) {
    struct REAL(hyper_params) hyper;
    struct REAL(param) * norm;
};

/* Multi-token prediction, beside its block. */
struct REAL(mtp) {
    struct REAL(param) * enorm, *hnorm, *e_proj, *h_proj;
    struct REAL(ending) ending;
};

struct net_options {
    bool dense;           /* tokens attend to all visible entries, chosen or not */
    float balance_weight; /* of the sequence-wise balance loss */
    float index_weight;   /* of the indexer's loss */
    float mtp_weight;     /* of multi-token prediction; 0: its block is not run */
};

struct REAL(net) {
    struct shape shape;             /* borrowed pointers in it */
    const struct engram_plan *plan; /* borrowed; NULL: no Engram */
    struct REAL(params) params;
    struct REAL(layer) * layers;  /* [net_blocks()] */
    struct REAL(engram) * engram; /* [shape.engram.count] */
    struct REAL(mtp) mtp;         /* where there is one */
    struct REAL(param) * embed, *head;
    struct REAL(ending) ending;
    int32_t *tables;     /* [hash layers, V, k] */
    float *frequency[2]; /* [rope / 2]: of window-only layers, of the others */
    struct net_options options;
};

/* Lays the parameters out, of any size: takes no memory for values yet. plan: NULL where the shape has no Engram. The
 * shape's pointers and the plan must outlive it. Errors: MEMORY, UNSUPPORTED. */
int REAL(net_init)(struct REAL(net) * n, const struct shape *shape, const struct engram_plan *plan,
                   struct sonde_error *e);
/* Memory for values and gradients, all zero; before anything below. Errors: MEMORY. */
int REAL(net_place)(struct REAL(net) * n, struct sonde_error *e);
/* Layers and, behind them, the block of multi-token prediction if there is one; the router's bias of one of them, NULL
 * where it is routed by token id. */
uint32_t REAL(net_blocks)(const struct REAL(net) * n);
struct REAL(param) * REAL(net_bias)(const struct REAL(net) * n, uint32_t block);
void REAL(net_release)(struct REAL(net) * n);
/* Values of a checkpoint of this shape, decoded. Errors: FORMAT (names the tensor), UNSUPPORTED, MEMORY. */
int REAL(net_load)(struct REAL(net) * n, const struct checkpoint *c, struct sonde_error *e);
/* Of the matrices' products, forward and backward, for each token: 6 for each of their numbers that it meets. What
 * attention does with keys is left out. */
double REAL(net_operations)(const struct REAL(net) * n);
/* Values for training from nothing, the same for the same seed in both types. */
void REAL(net_start)(struct REAL(net) * n, uint64_t seed);

/* --------------------------------------------------------------------------------------------- steps */

/* What the step's batch alone decides. */
struct REAL(places) {
    const struct batch *batch;
    uint32_t *positions;    /* [T] within segments */
    real *turns[2];         /* [T, rope / 2, 2] by kind of frequency */
    uint32_t *begins[2];    /* [segments + 1] by entries_layout(), of ratio 4 and of the other */
    uint32_t ratios[2];     /* these two; 0: no such layers */
    real *entry_turns[2];   /* [entries, rope / 2, 2] */
    uint32_t *entry_places; /* [entries] scratch */
};

/* One compressor's forward pass. */
struct REAL(compressed) {
    real *kv, *score; /* [T, width] */
    real *pooled;     /* [entries, dim] */
    real *inverse;    /* [entries] */
    real *entry;      /* [entries, dim] normed and turned */
};

struct REAL(attention_saved) {
    real *q_low, *q_low_inverse, *q_latent; /* [T, R], [T], [T, R] */
    real *q_raw, *q_inverse, *q;            /* [T, N, C], [T, N], [T, N, C] */
    real *kv_raw, *kv_inverse, *kv;         /* [T, C], [T], [T, C] */
    struct REAL(compressed) entries, keys;
    real *index_q, *index_w; /* [T, HI, CI], [T, HI] */
    uint32_t *chosen, *counts;
    real *out, *log_sum; /* [T, N, C], [T, N] */
    real *grouped, *low; /* [G, T, N C / G], [T, G RO] */
};

/* Engram's forward pass. */
struct REAL(recalled) {
    real *e;                  /* [T, inputs] rows of the table */
    struct engram_saved pass; /* of engram.c */
    real *h;                  /* [T, H, D] streams behind it */
};

struct REAL(layer_saved) {
    struct REAL(recalled) engram; /* of an Engram layer */
    struct hyper_saved hyper_attn, hyper_ffn;
    real *attn_x, *attn_inverse, *attn_in, *attn_out; /* [T, D], [T], [T, D], [T, D] */
    real *ffn_x, *ffn_inverse, *ffn_in, *ffn_out;
    real *h; /* [T, H, D] between the sublayers */
    struct REAL(attention_saved) attention;
    real *logits, *weights; /* [T, E], [T, k] */
    int32_t *experts;       /* [T, k] */
    struct REAL(experts_saved) mixture;
};

/* Scratch of backward passes, shared by all layers. */
struct REAL(work) {
    real *thd, *thd2;        /* [T, H, D] each */
    real *td[3];             /* [T, D] */
    real *mixes;             /* [T, (2 + H) H] */
    real *tnc[3];            /* [T, N C] */
    real *tc[2];             /* [T, C] */
    real *tr[2];             /* [T, R] */
    real *low;               /* [T, G RO] */
    real *delta;             /* [T, N] */
    real *entry[2];          /* [entries, C] or [entries, CI] */
    real *wide[2];           /* [T, compressor width] */
    real *shares, *losses;   /* [T, entries], [T] */
    real *index_q, *index_w; /* [T, HI CI], [T, HI] */
    real *logits, *weights;  /* [T, E], [T, k] */
    real *balance, *experts; /* as route.c and experts.c want */
    real *loss;              /* as loss.c wants */
    uint32_t *embed;         /* as loss.c wants */
    real *engram, *mtp;      /* as engram.c and mtp.c want */
};

/* What a step tells besides gradients. Sums over tokens; counts of these. */
struct step_losses {
    double loss, mtp, balance, index;
    uint64_t targets, mtp_targets;
    uint32_t index_tokens;
};

/* attention.c: y [T, D] from x [T, D], and gradients from dy: dx is added to. scale: of the indexer's loss, which is
 * added to *losses unless it is NULL (then nothing is done for it). */
struct REAL(attention_call) {
    struct team *team;
    const struct REAL(net) * net;
    const struct REAL(layer) * layer;
    const struct REAL(places) * places;
    const struct REAL(attention_saved) * saved;
    struct REAL(work) * work;
    double share; /* of the step's tokens in this batch: what auxiliary losses, which are means, count for */
};
void REAL(attention_forward)(const struct REAL(attention_call) * c, const real *x, real *y);
void REAL(attention_backward)(const struct REAL(attention_call) * c, const real *x, const real *dy, real *dx,
                              struct step_losses *losses);

/* What the tokens of a batch recall in an Engram layer. */
struct REAL(recall) {
    struct engram_rows rows; /* of this batch alone; not sorted */
    real *de;                /* [T, inputs] set by the way back */
};

/* block.c: out [T, H, D] from h, and dh (set) from dout, which is lost. */
struct REAL(layer_call) {
    struct team *team;
    const struct REAL(net) * net;
    const struct REAL(layer) * layer;
    const struct REAL(places) * places;
    const struct REAL(recall) * recall; /* of an Engram layer */
    const struct REAL(layer_saved) * saved;
    struct REAL(work) * work;
    double share;
};
void REAL(layer_forward)(const struct REAL(layer_call) * c, const real *h, real *out);
void REAL(layer_backward)(const struct REAL(layer_call) * c, const real *h, real *dout, real *dh,
                          struct step_losses *losses);

/*
 * net.c. A step of the optimiser takes the gradients of some batches:
 *
 *     step_begin      no table has a gradient
 *     step_run ...    a batch each; gradients add up in the parameters, where the caller has cleared them
 *     step_end        gradients of tables are put together, and are step_tables() until the next step_begin
 *
 * Runs that are not backward change nothing of that and may come at any time. Without Engram runs alone will do.
 */
struct REAL(step);

/* Memory for steps of at most `batches` batches of at most `tokens` tokens; recompute: layers are computed again on the
 * way back. step_bytes(): what that is. Errors: MEMORY, ARGUMENT (2^31 rows of a table or more). */
size_t REAL(step_bytes)(const struct REAL(net) * n, uint32_t tokens, uint32_t batches, bool recompute);
int REAL(step_new)(const struct REAL(net) * n, uint32_t tokens, uint32_t batches, bool recompute,
                   struct REAL(step) * *step, struct sonde_error *e);
void REAL(step_free)(struct REAL(step) * s);

void REAL(step_begin)(struct REAL(step) * s);
/* Adds the gradients of scale times the batch's summed loss, that of multi-token prediction times its weight, and of
 * share times its auxiliary losses, to the parameters' (backward), or only computes the loss. */
struct step_losses REAL(step_run)(struct team *team, struct REAL(step) * s, const struct REAL(net) * n,
                                  const struct batch *b, double scale, double share, bool backward);
void REAL(step_end)(struct team *team, struct REAL(step) * s, const struct REAL(net) * n);

/* A table's gradient is of the rows alone that were read. One for each Engram layer. */
struct REAL(table_gradient) {
    struct REAL(param) * param;
    uint32_t count;
    const uint32_t *rows; /* [count] ascending */
    real *gradient;       /* [count, cols] */
};
const struct REAL(table_gradient) * REAL(step_tables)(const struct REAL(step) * s, size_t *count);

/* Adds how many tokens chose each expert of each block in the last run to loads [net_blocks(), E]; of multi-token
 * prediction these are pairs. */
void REAL(step_loads)(const struct REAL(step) * s, const struct REAL(net) * n, uint64_t *loads);

#endif
