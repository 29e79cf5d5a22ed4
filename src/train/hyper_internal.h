/*
 * hyper_internal.h - hyper-connections: H residual streams, mixed anew before and after each sublayer
 * (arXiv 2512.24880; V4 report, section 2.2; forward: src/model/hyper.c).
 *
 *     m    = RMSNorm(h, all H D channels, no weight) fn^T
 *     pre  = sigmoid(scale_0 m + base) + eps          x  = sum_j pre_j h_j                   collapse
 *     post = 2 sigmoid(scale_1 m + base)              h'_k = post_k y + sum_j comb_jk h_j    spread
 *     comb = Sinkhorn(scale_2 m + base)
 *
 * The mixes of a token, pre [H], post [H] and comb [H, H], lie behind each other as the columns of m do. The last
 * collapse, before the final norm, is one of `iterations` 0: it has pre only.
 *
 * A sublayer F and its way back, where d... are gradients, cleared first but for dh_out:
 *
 *     collapse_forward(h) -> x, mixes         spread_backward(dh_out) -> dh, dy, dmixes
 *     y = F(x)                                dx from dy through F
 *     spread_forward(h, y, mixes) -> h_out    collapse_backward(dx, dmixes) -> dh
 */
#ifndef TRAIN_HYPER_INTERNAL_H
#define TRAIN_HYPER_INTERNAL_H

#include "train/real_internal.h"

enum { HYPER_MOST_STREAMS = 8 };

struct hyper_shape {
    uint32_t tokens, streams, dim; /* T, H <= HYPER_MOST_STREAMS, D */
    uint32_t iterations;           /* of Sinkhorn; 0: the last collapse */
    double norm_eps, eps;
};

/* Columns of m. */
static inline uint32_t hyper_mixes(const struct hyper_shape *s) {
    return s->iterations ? (2 + s->streams) * s->streams : s->streams;
}

/* fn [mixes, H D], scale [3] (the last collapse: [1]), base [mixes] */
struct hyper_weights {
    const real *fn, *scale, *base;
};

struct hyper_gradients {
    real *fn, *scale, *base;
};

struct hyper_saved {
    real *m;       /* [T, mixes] */
    real *inverse; /* [T]: 1 / RMS of the streams */
    real *mixes;   /* [T, mixes] */
};

/* x [T, D] from h [T, H, D]. */
void REAL(hyper_collapse_forward)(struct team *team, const struct hyper_shape *s, const real *h,
                                  const struct hyper_weights *w, real *x, const struct hyper_saved *saved);

/* dmixes [T, mixes]: the gradient of post and comb as spread left it, zeros where none; its contents are lost. */
void REAL(hyper_collapse_backward)(struct team *team, const struct hyper_shape *s, const real *h,
                                   const struct hyper_weights *w, const struct hyper_saved *saved, const real *dx,
                                   real *dmixes, real *dh, const struct hyper_gradients *g);

/* out [T, H, D], which is not h, from y [T, D]. */
void REAL(hyper_spread_forward)(struct team *team, const struct hyper_shape *s, const real *h, const real *y,
                                const real *mixes, real *out);
void REAL(hyper_spread_backward)(struct team *team, const struct hyper_shape *s, const real *h, const real *y,
                                 const real *mixes, const real *dout, real *dh, real *dy, real *dmixes);

/* Weights of a new layer: the streams start as one, read as their mean and written to alike, each kept nearly to
 * itself; fn, normal with deviation 1e-4, is what sets them apart. */
void REAL(hyper_init)(const struct hyper_shape *s, struct rng *r, real *fn, real *scale, real *base);

#endif
