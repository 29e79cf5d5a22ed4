/*
 * net_internal.h - the network that is trained: its parameters, its passes put together. The specification is the
 * released forward pass (src/model, tests/oracle/model.py), whose names parameters carry.
 *
 *     params.c      what is trained, one piece of memory for all values and one for all gradients
 *     layout.c      which parameters a network of a shape has
 *     attention.c   the attention sublayer       x -> y, and back
 *     block.c       a layer: Engram, attention and experts, each between collapse and spread of the streams
 *     net.c         a step: embeddings, layers, head, multi-token prediction, their losses
 *
 * Saved is what a backward pass wants of its forward pass. With recomputation there is one such piece of memory for
 * all layers: layers keep only the streams that entered them, and are computed again on the way back.
 */
#ifndef TRAIN_NET_INTERNAL_H
#define TRAIN_NET_INTERNAL_H

#include "train/attention_internal.h"
#include "train/hyper_internal.h"
#include "train/shapes_internal.h"

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
    PARAM_TABLE, /* Adam by rows */
    PARAM_FIXED, /* no gradient: router biases are moved by loads */
};

/* How it is stored in a checkpoint, and rounded where training rounds as it will be run. */
enum param_form { FORM_F32, FORM_BF16, FORM_FP8, FORM_FP4 };

struct REAL(param) {
    char name[72];              /* official; for stacked ones the expert's number stands for '#' */
    uint32_t stack, rows, cols; /* `stack` matrices one behind the other */
    enum param_kind kind;
    enum param_form form;
    bool vector;     /* rank 1 in a checkpoint; rows is 1 */
    real *value;     /* [stack, rows, cols] */
    real *gradient;  /* the same; NULL for PARAM_FIXED */
    const real *use; /* what the passes read: value, or that rounded */
};

static inline size_t REAL(param_count)(const struct REAL(param) * p) {
    return (size_t)p->stack * p->rows * p->cols;
}

struct REAL(params) {
    struct REAL(param) * list;
    size_t count, room;
    real *values, *gradients; /* of all, in order */
    size_t numbers;           /* in values */
};

/* NULL: no room for more, which asserts. Its memory comes with params_place(). */
struct REAL(param) * REAL(params_add)(struct REAL(params) * p, enum param_kind kind, enum param_form form,
                                      uint32_t stack, uint32_t rows, uint32_t cols, const char *format, ...)
                         PRINTF_LIKE(7, 8);
int REAL(params_init)(struct REAL(params) * p, size_t room, struct sonde_error *e);
int REAL(params_place)(struct REAL(params) * p, struct sonde_error *e);
void REAL(params_release)(struct REAL(params) * p);
struct REAL(param) * REAL(params_find)(const struct REAL(params) * p, const char *name);

/* ------------------------------------------------------------------------------------------- layers */

struct REAL(compressor) {
    struct REAL(param) * wkv, *wgate, *ape, *norm; /* [width, D] twice, [ratio, width], [dim] */
    uint32_t dim, ratio;
};

struct REAL(hyper_params) {
    struct REAL(param) * fn, *scale, *base;
};

struct REAL(layer) {
    uint32_t ratio; /* 0: window only */
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

struct net_options {
    bool dense;           /* tokens attend to all visible entries, chosen or not */
    float balance_weight; /* of the sequence-wise balance loss */
    float index_weight;   /* of the indexer's loss */
};

struct REAL(net) {
    struct shape shape; /* borrowed pointers in it */
    struct REAL(params) params;
    struct REAL(layer) * layers; /* [L] */
    struct REAL(param) * embed, *head, *norm;
    struct REAL(hyper_params) hyper_head;
    int32_t *tables;     /* [hash layers, V, k] */
    float *frequency[2]; /* [rope / 2]: of window-only layers, of the others */
    struct net_options options;
};

/* Values are not set. The shape's pointers must outlive it. Errors: MEMORY, UNSUPPORTED. */
int REAL(net_init)(struct REAL(net) * n, const struct shape *shape, struct sonde_error *e);
void REAL(net_release)(struct REAL(net) * n);
/* Values of a checkpoint of this shape, decoded. Errors: FORMAT (names the tensor), UNSUPPORTED, MEMORY. */
int REAL(net_load)(struct REAL(net) * n, const struct checkpoint *c, struct sonde_error *e);
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

struct REAL(layer_saved) {
    struct hyper_saved hyper_attn, hyper_ffn;
    real *attn_x, *attn_inverse, *attn_in, *attn_out; /* [T, D], [T], [T, D], [T, D] */
    real *ffn_x, *ffn_inverse, *ffn_in, *ffn_out;
    real *h; /* [T, H, D] between the sublayers */
    struct REAL(attention_saved) attention;
    real *logits, *weights; /* [T, E], [T, k] */
    int32_t *experts;       /* [T, k] */
    struct REAL(experts_saved) mixture;
};

/* Places of a batch: from an arena, for at most as many tokens as lay_places() was told. */
void REAL(places_set)(struct team *team, const struct REAL(net) * n, const struct batch *b, struct REAL(places) * p);

/* Layouts over an arena that counts or places. tokens: the most of a step. */
void REAL(lay_places)(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(places) * p);
void REAL(lay_attention)(struct arena *a, const struct REAL(net) * n, const struct REAL(layer) * l, uint32_t tokens,
                         struct REAL(attention_saved) * s);
void REAL(lay_layer)(struct arena *a, const struct REAL(net) * n, const struct REAL(layer) * l, uint32_t tokens,
                     struct REAL(layer_saved) * s);

/* Scratch of backward passes, shared by all layers. */
struct REAL(work) {
    real *thd, *thd2;        /* [T, H, D] each */
    real *td[6];             /* [T, D] */
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
};
void REAL(lay_work)(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(work) * w);

/* What a step tells besides gradients. Sums over tokens; counts of these. */
struct step_losses {
    double loss, balance, index;
    uint64_t targets;
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

/* block.c: out [T, H, D] from h, and dh (set) from dout. */
struct REAL(layer_call) {
    struct team *team;
    const struct REAL(net) * net;
    const struct REAL(layer) * layer;
    const struct REAL(places) * places;
    const struct REAL(layer_saved) * saved;
    struct REAL(work) * work;
    double share;
};
void REAL(layer_forward)(const struct REAL(layer_call) * c, const real *h, real *out);
void REAL(layer_backward)(const struct REAL(layer_call) * c, const real *h, const real *dout, real *dh,
                          struct step_losses *losses);

/* net.c */
struct REAL(step);
/* Memory for steps of at most `tokens` tokens; recompute: layers are computed again on the way back. Errors: MEMORY. */
int REAL(step_new)(const struct REAL(net) * n, uint32_t tokens, bool recompute, struct REAL(step) * *step,
                   struct sonde_error *e);
void REAL(step_free)(struct REAL(step) * s);
/* Adds the gradients of scale times the batch's summed loss, and of share times its auxiliary losses, to the
 * parameters' (backward), or only computes the loss. */
struct step_losses REAL(step_run)(struct team *team, struct REAL(step) * s, const struct REAL(net) * n,
                                  const struct batch *b, double scale, double share, bool backward);
/* Adds how many tokens chose each expert of each layer to loads [L, E], after a run. */
void REAL(step_loads)(const struct REAL(step) * s, const struct REAL(net) * n, uint64_t *loads);

#endif
