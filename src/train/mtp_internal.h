/*
 * mtp_internal.h - the entrance of multi-token prediction: what its block takes from the layers (V3 report, section
 * 2.2; V4 keeps it with hyper-connections; forward: src/model/mtp.c).
 *
 *     h'_j = e_proj RMSNorm(embed(token t + 1)) + h_proj RMSNorm(h_t,j)
 *
 * A pair is a token and its successor in the same segment, so a segment has one pair less than tokens. The pairs are a
 * batch of their own, shorter by one token a segment: its ids are those of the successors, its targets theirs. The
 * block, its last collapse, norm and loss run over that batch like any layer.
 */
#ifndef TRAIN_MTP_INTERNAL_H
#define TRAIN_MTP_INTERNAL_H

#include "train/real_internal.h"

/* The caller's memory, for a batch of T tokens in n segments; segments without a pair are left out. */
struct mtp_pairs {
    struct batch batch;       /* of pairs; points to what follows */
    int32_t *ids, *targets;   /* [T] */
    struct segment *segments; /* [n] */
    uint32_t *from;           /* [n]: the token of a segment's first pair */
};

/* pairs.c */
void mtp_pairs_fill(struct mtp_pairs *p, const struct batch *b);

struct mtp_shape {
    uint32_t streams, dim; /* H, D */
    double eps;
};

/* enorm, hnorm [D]; e_proj, h_proj [D, D] */
struct mtp_weights {
    const real *enorm, *hnorm, *e_proj, *h_proj;
};

struct mtp_gradients {
    real *enorm, *hnorm, *e_proj, *h_proj;
};

/* P pairs. */
struct mtp_saved {
    real *e, *e_inverse; /* [P, D], [P]: normed embeddings */
    real *h, *h_inverse; /* [P, H, D], [P, H]: normed streams */
};

/* Numbers of work that mtp_forward() and mtp_backward() want. */
static inline size_t mtp_work(const struct mtp_shape *s, uint32_t pairs) {
    return (size_t)pairs * (s->streams + 2) * s->dim;
}

/* out [P, H, D] from h [T, H, D] and embedded [P, D], the embeddings of the pairs' ids. */
void REAL(mtp_forward)(struct team *team, const struct mtp_shape *s, const struct mtp_pairs *pairs, const real *h,
                       const real *embedded, const struct mtp_weights *w, real *work, real *out,
                       const struct mtp_saved *saved);

void REAL(mtp_backward)(struct team *team, const struct mtp_shape *s, const struct mtp_pairs *pairs, const real *h,
                        const real *embedded, const struct mtp_weights *w, const struct mtp_saved *saved,
                        const real *dout, real *work, real *dh, real *dembedded, const struct mtp_gradients *g);

#endif
