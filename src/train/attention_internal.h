/*
 * attention_internal.h - attention and what it looks at: compressed entries, the choice among them, the choice's loss.
 *
 *     entries.c    where entries lie, which of them a token sees
 *     compress.c   every `ratio` tokens of a segment are pooled into an entry
 *     attend.c     attention over the window and the entries seen
 *     index.c      the lightning indexer: which entries a token sees, and what it is taught
 *     tile.c       the small products all of this is made of
 *
 * No pass holds anything of [T, T]: probabilities are made where they are needed, from queries and keys and the
 * logarithm of their sum, and made again in the backward pass. Attention works on blocks of neighbouring tokens and all
 * keys that any of them sees; what they give to the gradients of keys is laid aside and added in the order of tokens.
 * The indexer makes gradients of keys KEYS keys at a time, each over the tokens that saw it in ascending order. So sums
 * have an order of their own, and the bits are the same with any number of workers.
 */
#ifndef TRAIN_ATTENTION_INTERNAL_H
#define TRAIN_ATTENTION_INTERNAL_H

#include "train/real_internal.h"

/* Keys whose gradients the indexer makes in one piece. */
enum { KEYS = 32 };

/* -------------------------------------------------------------------------------------------- entries */

/*
 * Compressed entries of a batch, those of all segments behind each other, and which of them its tokens see. Entry i of
 * a segment is of its tokens [i * ratio, (i + 1) * ratio), and visible from the last of them on. A token at place p of
 * its segment sees the first (p + 1) / ratio of them, or those it has chosen among these.
 *
 * Entries are numbered from 0 in every segment. Arrays are the caller's.
 */
struct entries {
    const struct batch *batch;
    uint32_t ratio;        /* > 0 */
    const uint32_t *begin; /* [segments + 1] by entries_layout() */
    uint32_t top;          /* entries a token chooses at most; 0: it sees all that are visible */
    uint32_t *chosen;      /* [T, top] ascending; not read where top is 0, as the next */
    uint32_t *counts;      /* [T] */
};

/* Where each segment's entries begin; begin[segments] is the number of all. */
void entries_layout(const struct batch *b, uint32_t ratio, uint32_t *begin);

/* The most entries a token may see: the length of a row of what is kept by token and entry seen. */
uint32_t entries_most(const struct entries *e);

/* The segment of a token. */
const struct segment *segment_of(const struct batch *b, uint32_t token);

/* The tokens of a block of BLOCK, each with its segment:
 * for (struct walk w = walk_block(b, block); w.token < w.end; walk_on(&w)) */
struct walk {
    const struct segment *segment;
    uint32_t token, end;
};

static inline struct walk walk_block(const struct batch *b, size_t block) {
    uint32_t first = (uint32_t)block * BLOCK;
    return (struct walk){segment_of(b, first), first, (uint32_t)min_u64(b->tokens, first + BLOCK)};
}
static inline void walk_on(struct walk *w) {
    w->segment += ++w->token == w->segment->begin + w->segment->length;
}

static inline uint32_t entries_total(const struct entries *e) {
    return e->begin[e->batch->segment_count];
}

/* Which entry of all is the first of a segment. */
static inline uint32_t entries_first(const struct entries *e, const struct segment *g) {
    return e->begin[g - e->batch->segments];
}

/* How many entries of its segment are complete when the token is there. */
static inline uint32_t entries_visible(const struct entries *e, const struct segment *g, uint32_t token) {
    return (token - g->begin + 1) / e->ratio;
}

/* How many entries the token sees, and the one at place `at` among them. */
static inline uint32_t entries_seen(const struct entries *e, const struct segment *g, uint32_t token) {
    return e->top ? e->counts[token] : entries_visible(e, g, token);
}
static inline uint32_t entries_at(const struct entries *e, uint32_t token, uint32_t at) {
    return e->top ? e->chosen[(size_t)token * e->top + at] : at;
}

/* Calls see() for every token that sees any of the entries [first, end), counted over all segments: tokens ascending,
 * `count` of what the token sees, from place `at`. */
struct seer {
    const struct segment *segment;
    uint32_t token, at, count;
};
void entries_each_seer(const struct entries *e, uint32_t first, uint32_t end,
                       void (*see)(void *context, const struct seer *s), void *context);

/* --------------------------------------------------------------------------------------------- compress */

/*
 * Gated pooling (V4 report, section 2.3). Channel by channel an entry is the mean of its tokens' kv, weighted by the
 * softmax of score + ape over them. Ratio 4 overlaps: kv, score and ape are twice as wide, and an entry pools the first
 * half of the channels of the block before together with the second half of its own; the first block of a segment has
 * none before it.
 *
 *     kv, score   [T, width]      width: dim, or 2 dim where the ratio is 4
 *     ape         [ratio, width]  added to the score, by place in the block
 *     entry       [entries, dim]
 */
static inline uint32_t compress_width(uint32_t ratio, uint32_t dim) {
    return ratio == 4 ? 2 * dim : dim;
}
void REAL(compress_forward)(struct team *team, const struct entries *e, uint32_t dim, const real *kv, const real *score,
                            const real *ape, real *entry);
void REAL(compress_backward)(struct team *team, const struct entries *e, uint32_t dim, const real *kv,
                             const real *score, const real *ape, const real *d_entry, real *d_kv, real *d_score,
                             real *d_ape);

/* ----------------------------------------------------------------------------------------------- attend */

/*
 * Attention of N heads over one row per token that is key and value at once: a token sees the last `window` tokens of
 * its segment, itself among them, and entries.
 *
 *     p[j] = exp(q . key[j] / sqrt(C)) / (sum_j exp(q . key[j] / sqrt(C)) + exp(sink))      out = sum_j p[j] key[j]
 *
 *     q, out      [T, N, C]
 *     kv          [T, C]
 *     entry       [entries, C]
 *     sink        [N]
 *     log_sum     [T, N] logarithm of the denominator, saved by the forward pass
 *     delta       [T, N] for the backward pass to work in
 *
 * In float the factors of products (queries, keys, probabilities, gradients) are rounded to bf16 and sums are float32,
 * at every level of kernels, as those of REAL(gemm) are; softmax, log_sum and delta are float32. In double nothing is
 * rounded.
 */
struct attention {
    const struct batch *batch;
    uint32_t heads, dim, window;
    const struct entries *entries; /* NULL: none */
    bool exact;                    /* nothing is rounded in float either: for comparisons */
};
void REAL(attend_forward)(struct team *team, const struct attention *a, const real *q, const real *kv,
                          const real *entry, const real *sink, real *out, real *log_sum);
void REAL(attend_backward)(struct team *team, const struct attention *a, const real *q, const real *kv,
                           const real *entry, const real *sink, const real *out, const real *log_sum, const real *d_out,
                           real *delta, real *d_q, real *d_kv, real *d_entry, real *d_sink);

/* What the entries seen have of a token's attention: shares[t, i] = sum_h p[t, h, i], i in the order in which they are
 * seen; shares [T, entries_most()], the rest of a row is not set. */
void REAL(attend_shares)(struct team *team, const struct attention *a, const real *q, const real *entry,
                         const real *log_sum, real *shares);

/* ------------------------------------------------------------------------------------------------ index */

/*
 * The lightning indexer: score[t, i] = sum_h w[t, h] max(q[t, h] . k[i], 0), k one row an entry.
 *
 *     q   [T, heads, dim]
 *     w   [T, heads] scaled already
 *     k   [entries, dim]
 *
 * Its loss is that of DeepSeek V3.2: KL(target || softmax(score)) over the entries a token sees, where target is what
 * attention gave them, summed over heads and divided by its sum, and constant; the mean over the tokens that see at
 * least two. The choice itself is constant too, so that the loss is all the indexer learns from.
 */
struct indexer {
    const struct entries *entries;
    uint32_t heads, dim;
};

/* Fills chosen and counts: the `top` best of the visible entries, of equal ones the earlier. */
void REAL(index_choose)(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k);

/* Returns the mean; tokens: over how many, 0 if there is none. shares come from attend_shares() and leave as the
 * gradient of the mean by score; losses [T] are those of each token, undefined where it sees fewer than two. A token
 * whose attention gave its entries nothing at all has nothing to learn and loss 0. */
double REAL(index_loss)(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k,
                        real *shares, real *losses, uint32_t *tokens);

/* Gradients of factor times that mean; slopes are what index_loss() has left in shares. */
void REAL(index_backward)(struct team *team, const struct indexer *ix, const real *q, const real *w, const real *k,
                          const real *slopes, real factor, real *d_q, real *d_w, real *d_k);

#endif
