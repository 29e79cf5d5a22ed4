/*
 * device.h - what a processor offers the model, as one struct of operations.
 *
 * The model (src/model) is written once against these operations; a processor is supported by filling the
 * struct. device/cpu is the first. Rules that let a device with its own memory implement them:
 *
 *   - Parameters marked [device] lie in memory from alloc(); the model computes addresses in it but never reads or
 *     writes through them. download() brings results to the host.
 *   - Parameters marked [host] are plain memory, read before the operation returns.
 *   - Matrices become usable through prepare(), once, when the model opens.
 *   - Operations run in order of their calls and cannot fail at the call: what goes wrong is kept and
 *     returned by finish(), which also waits until all is done. NUMERIC: a value that only chooses (a
 *     router's score, an index score) was not finite; others show in what they make.
 *
 * Row-major throughout; letters as in docs/numerics.md: S rows (tokens), D hidden, H streams, N heads,
 * C head dimension, E experts, k experts a token, W window.
 */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include "base/base.h"
#include "number/number.h"

struct device;

/*
 * y[s] = w[row .. row + rows) x[s]; rows of x are ldx apart, of y ldy. Products listed together are independent.
 *
 * How exact a product is: with `bf16` its inputs are rounded to bf16, unless w is F32, so that the processor's matrix
 * units can do it; a quantised w's inputs are first rounded to e4m3 in blocks of `block` columns, if that is not 0.
 */
struct device_product {
    const struct matrix *w;
    uint32_t row, rows;
    const float *x; /* [S, w.cols] device */
    size_t ldx;
    float *y; /* [S, rows] device */
    size_t ldy;
    uint32_t block;
};

enum { DEVICE_PRODUCTS = 32 }; /* most in one list */

/* One expert: w1 and w3 [inter, D], w2 [D, inter]. */
struct device_expert {
    struct matrix w1, w2, w3;
};

/* Rows of the cache that lie in pages: row i is row i % per_page of those that page number page[i / per_page] holds
 * from `offset` on. */
struct device_pages {
    const void *base; /* device: of page 0 */
    size_t page_bytes, offset;
    const uint32_t *page; /* host */
    uint32_t per_page;
};

/* Address [device] of row i, and in *left how many rows lie there one after another, itself included. */
static inline const void *device_page_row(const struct device_pages *p, uint64_t i, size_t row_bytes, uint64_t *left) {
    uint64_t within = i % p->per_page;
    *left = p->per_page - within;
    return (const uint8_t *)p->base + p->page[i / p->per_page] * p->page_bytes + p->offset + within * row_bytes;
}

/* Attention of S consecutive tokens of one sequence over window and compressed entries. */
struct device_attend {
    const float *q;              /* [S, N, C] device */
    struct row_format format;    /* of all keys; its dim is C */
    const void *fresh;           /* [S] rows device: keys of these tokens */
    const void *ring;            /* [ring_rows] rows device: keys of earlier tokens, position p in row p % ring_rows */
    struct device_pages entries; /* all complete; not if ratio is 0 */
    const int32_t *chosen,
        *counts; /* [S, top], [S] device: entries each token may see, ascending; NULL: all complete */
    uint32_t top;
    struct matrix sink; /* [1, N] */
    uint64_t first;     /* position of row 0 */
    uint32_t rows, heads, window, ratio;
    uint32_t ring_rows; /* at least W */
    bool bf16;          /* queries, and the numerators of the softmax, may be rounded to it */
    float scale;
    float *out; /* [S, N, C] device */
};

/* Gated pooling of complete blocks of `ratio` tokens into entries [first_entry, first_entry + count). */
struct device_pool {
    const float *values, *scores; /* [S, width] device: of the new tokens */
    const float *ring_values,
        *ring_scores;   /* [ring_rows, width] device: earlier tokens, position p in row p % ring_rows */
    struct matrix bias; /* [ratio, width]: added to scores by place in the block; data NULL: none */
    uint64_t first;     /* position of row 0 of the new tokens */
    uint64_t first_entry, count;
    uint32_t ratio, ring_rows, width;
    uint32_t dim;     /* of an entry; width is 2 dim when blocks overlap */
    uint32_t overlap; /* 1: an entry also pools the block before, through the first dim channels */
    float *out;       /* [count, dim] device */
};

/*
 * The `top` complete entries that each token's index query scores highest; ties go to the lower entry.
 *
 * In two levels: a first call keeps, besides, the `most_blocks` blocks of `block` entries whose best entry scores
 * highest, that of the newest entry always among them; ties go to the lower block. Later ones, of other queries and
 * the same rows, look `within` them only. most_blocks * block is at least top.
 */
struct device_select {
    const float *q;           /* [S, heads, dim] device */
    const float *w;           /* [S, heads] device */
    struct row_format format; /* of the keys; has dim */
    struct device_pages keys; /* all complete */
    uint64_t first;           /* position of row 0 */
    uint32_t rows, heads, ratio, top;
    bool bf16;   /* queries may be rounded to it */
    bool round;  /* every number on the way to a score is rounded to bf16 */
    bool within; /* blocks are given */
    uint32_t block, most_blocks;
    int32_t *blocks, *block_counts; /* [S, most_blocks], [S] device: ascending; NULL: one level */
    int32_t *chosen;                /* [S, top] device: ascending */
    int32_t *counts;                /* [S] device */
};

enum device_scoring { DEVICE_SQRTSOFTPLUS, DEVICE_SIGMOID, DEVICE_SOFTMAX };

/* From router logits to experts and their weights. */
struct device_route {
    const float *logits;   /* [S, E] device */
    struct matrix bias;    /* [1, E], added for the choice only; data NULL: none */
    const int32_t *forced; /* [S, k] host: experts by token id; NULL: the k best */
    enum device_scoring scoring;
    uint32_t rows, experts, active;
    float scale;
    int32_t *index; /* [S, k] device */
    float *weight;  /* [S, k] device */
};

/* y[s] = sum_j expert(index[s][j])(x[s]) * weight[s][j] + shared(x[s]), experts in ascending order. */
struct device_experts {
    const float *x; /* [S, D] device */
    const struct device_expert *experts, *shared;
    const int32_t *index; /* [S, k] device */
    const float *weight;  /* [S, k] device */
    uint32_t rows, count, active;
    float limit; /* of the clamped SwiGLU; 0: none */
    bool bf16;   /* struct device_product has both */
    uint32_t block;
    enum format round_storage; /* FORMAT_F32 or FORMAT_BF16: how intermediate results are stored */
    float *y;                  /* [S, D] device */
};

/* mHC mixes of S tokens: m = rms(h) fn^T -> pre, post, comb, and x = sum_j pre_j h_j, if there is an x. */
struct device_hyper {
    const float *h;              /* [S, H, D] device */
    struct matrix fn;            /* [(2 + H) H, H D]; [H, H D] for the head */
    struct matrix scale, base;   /* [1, 3], [1, (2 + H) H]; [1, 1], [1, H] for the head */
    uint32_t rows, streams, dim; /* H <= 16 */
    uint32_t iterations;         /* of Sinkhorn; 0: the head, which has pre only */
    float norm_eps, eps;
    float *x;    /* [S, D] device; NULL: not wanted */
    float *pre;  /* [S, H] device; NULL: not wanted */
    float *post; /* [S, H] device; not for the head */
    float *comb; /* [S, H, H] device; not for the head */
};

/* Engram: gate = sigmoid(signed sqrt of norm1(key) . norm2(h_j) / sqrt(D)); value_j = gate * value. */
struct device_engram_gate {
    const float *key;                   /* [S, D] device: of stream j */
    const float *value;                 /* [S, D] device */
    size_t ld;                          /* from a row of key, or value, to the next */
    const float *h;                     /* [S, H, D] device */
    struct matrix key_norm, query_norm; /* [1, D] */
    uint32_t rows, streams, dim, stream;
    float eps;
    float *out; /* [S, H, D] device: stream j is written */
};

/* Causal depthwise convolution over time of S tokens: out += silu(sum_t kernel[c][t] * x at s - (taps-1-t) * dilation).
 */
struct device_engram_conv {
    const float *x;       /* [S, channels] device */
    const float *ring;    /* [ring_rows, channels] device: earlier tokens, position p in row p % ring_rows */
    struct matrix kernel; /* [channels, taps] */
    uint64_t first;
    uint32_t rows, channels, taps, dilation;
    uint32_t ring_rows; /* at least (taps - 1) * dilation */
    float *out;         /* [S, channels] device */
};

/* The largest step: what reserve() sizes scratch by. */
struct device_limits {
    uint32_t rows;      /* S */
    uint64_t inputs;    /* most input channels of a list of products, all of their x added up */
    uint32_t width;     /* most channels of any vector that is normed, quantised or mixed */
    uint32_t hidden;    /* D */
    uint32_t inter;     /* most channels inside an expert */
    uint32_t experts;   /* E */
    uint32_t active;    /* k */
    uint32_t heads;     /* most heads of any attention */
    uint32_t pool_rows; /* most tokens one entry pools: ratio, or twice that where blocks overlap */
    uint32_t entry;     /* channels of an entry */
    uint64_t keys;      /* most keys one token attends to */
    uint64_t scored;    /* most entries one token scores */
};

struct device_ops {
    const char *name;
    void (*close)(struct device *d);

    /* Zeroed memory, 64-byte aligned, physical only once touched where the device can. NULL when exhausted. */
    void *(*alloc)(struct device *d, size_t bytes);
    void (*release)(struct device *d, void *memory, size_t bytes);
    void (*download)(struct device *d, void *to, const void *from, size_t bytes); /* waits */
    void (*upload)(struct device *d, void *to, const void *from, size_t bytes);   /* waits */
    int (*prepare)(struct device *d, struct matrix *m, struct sonde_error *e);
    /* Scratch for steps of at most `rows` rows of these widths is made here, so that steps allocate nothing. */
    int (*reserve)(struct device *d, const struct device_limits *limits, struct sonde_error *e);
    int (*finish)(struct device *d, struct sonde_error *e);

    /* `products` <= DEVICE_PRODUCTS of S rows each. */
    void (*linear)(struct device *d, const struct device_product *list, uint32_t products, uint32_t rows, bool bf16);
    void (*embed)(struct device *d, const struct matrix *table, const int64_t *ids /* [S] host */, uint32_t count,
                  float *out, size_t ldout);
    /* Rows of n floats; weight [1, n], data NULL: none. y may be x. */
    void (*norm)(struct device *d, const float *x, size_t ldx, uint32_t rows, uint32_t n, const struct matrix *weight,
                 float eps, float *y, size_t ldy);
    /* turns [rows, half, 2]: cosine and sine of float32(position) * frequency. */
    void (*angles)(struct device *d, const float *frequency /* [half] host */, uint32_t half,
                   const uint64_t *positions /* [rows] host */, uint32_t rows, float *turns);
    /* The trailing 2 half channels of each of `heads` vectors of dim floats in each row. direction +1 or -1. */
    void (*rotate)(struct device *d, float *x, uint32_t rows, uint32_t heads, uint32_t dim, const float *turns,
                   uint32_t half, int direction);
    void (*hadamard)(struct device *d, float *x, uint64_t rows, uint32_t n);
    /* What storing x in blocks does to it: number.h's e4m3_fake(), e2m1_fake(), e2m1_e4m3_fake(). */
    void (*fake_e4m3)(struct device *d, float *x, uint64_t count, uint32_t block);
    void (*fake_e2m1)(struct device *d, float *x, uint64_t count, uint32_t block);
    void (*fake_e2m1_e4m3)(struct device *d, float *x, uint64_t count, uint32_t block);
    void (*round_bf16)(struct device *d, float *x, uint64_t count);
    void (*scale)(struct device *d, float *x, uint64_t count, float factor);
    void (*copy)(struct device *d, float *to, const float *from, uint64_t count);
    /* y [rows, n] (ldy apart) += x; ldx 0 adds the same row to all. */
    void (*add)(struct device *d, float *y, size_t ldy, const float *x, size_t ldx, uint64_t rows, uint32_t n);
    /* to[s][j] = from[s] for j < streams. */
    void (*repeat)(struct device *d, float *to, const float *from, uint32_t rows, uint32_t streams, uint32_t n);
    /* x [rows, dim], rounded and packed as the cache keeps them, to [rows] device. */
    void (*store_rows)(struct device *d, const struct row_format *format, const float *x, uint64_t rows, void *to);
    /* ring row (first + s) % capacity = rows[s], of so many bytes each, for the last min(S, capacity) rows. */
    void (*ring_store)(struct device *d, void *ring, uint32_t capacity, size_t bytes, const void *rows, uint64_t first,
                       uint32_t count);

    void (*attend)(struct device *d, const struct device_attend *a);
    void (*pool)(struct device *d, const struct device_pool *p);
    void (*select)(struct device *d, const struct device_select *s);
    void (*route)(struct device *d, const struct device_route *r);
    void (*experts)(struct device *d, const struct device_experts *x);
    void (*hyper)(struct device *d, const struct device_hyper *h);
    /* x[s] = sum_j pre[s][j] h[s][j] */
    void (*collapse)(struct device *d, const float *h, const float *pre, uint32_t rows, uint32_t streams, uint32_t dim,
                     float *x);
    /* h[s][j] <- post[s][j] y[s] + sum_i comb[s][i][j] h[s][i], in place. */
    void (*spread)(struct device *d, float *h, const float *y, const float *post, const float *comb, uint32_t rows,
                   uint32_t streams, uint32_t dim);
    void (*engram_gate)(struct device *d, const struct device_engram_gate *g);
    void (*engram_conv)(struct device *d, const struct device_engram_conv *c);
    /* Waits; true if every one of the count floats is finite. */
    bool (*finite)(struct device *d, const float *x, uint64_t count);
};

struct device {
    const struct device_ops *ops;
};

struct device_cpu_options {
    uint32_t threads;  /* workers; 0: one for each processor this process may use */
    const char *level; /* of kernel.h's KERNEL_LEVELS; NULL: the best that runs here */
    bool invariant;    /* a row's results have the same bits whatever rows share the call, at the cost of speed */
};

/* The processor this program runs on. Errors: ARGUMENT (no such level), UNSUPPORTED (it does not run here), MEMORY, IO
 * (no threads). */
int device_cpu_open(const struct device_cpu_options *options, struct device **d, struct sonde_error *e);

#endif
