/*
 * mtp.c - the entrance of multi-token prediction, forward and backward.
 *
 * Pairs of a segment follow each other as its tokens do, so their streams are normed where they are, segment by
 * segment; everything else is done for all pairs at once.
 */
#include <string.h>

#include "train/lanes_internal.h"
#include "train/mtp_internal.h"
#include "train/norm_internal.h"

struct join {
    const struct mtp_shape *shape;
    size_t pairs;
    const real *y; /* [P, D]: the embeddings' part; the gradient of it in dy */
    real *out;     /* [P, H, D] */
    const real *dout;
    real *dy;
};

static void join_block(void *context, uint32_t worker, size_t item) {
    const struct join *p = context;
    const size_t n = p->shape->streams, dim = p->shape->dim, end = min_u64(p->pairs, (item + 1) * BLOCK);
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++)
        for (size_t j = 0; j < n; j++)
            if (p->out)
                lanes_axpy(p->out + (i * n + j) * dim, 1, p->y + i * dim, dim);
            else
                lanes_axpy(p->dy + i * dim, 1, p->dout + (i * n + j) * dim, dim);
}

void REAL(mtp_forward)(struct team *team, const struct mtp_shape *s, const struct mtp_pairs *pairs, const real *h,
                       const real *embedded, const struct mtp_weights *w, real *work, real *out,
                       const struct mtp_saved *saved) {
    const size_t n = s->streams, dim = s->dim, count = pairs->batch.tokens;
    const real eps = (real)s->eps;
    struct join p = {.shape = s, .pairs = count, .y = work, .out = out};
    REAL(norm_forward)(team, count, dim, eps, embedded, w->enorm, saved->e, saved->e_inverse);
    REAL(gemm)(team, GEMM_BT, count, dim, dim, saved->e, w->e_proj, work);
    for (uint32_t i = 0; i < pairs->batch.segment_count; i++) {
        const size_t at = pairs->segments[i].begin * n, rows = pairs->segments[i].length * n;
        const real *x = h + pairs->from[i] * n * dim;
        REAL(norm_forward)(team, rows, dim, eps, x, w->hnorm, saved->h + at * dim, saved->h_inverse + at);
    }
    REAL(gemm)(team, GEMM_BT, count * n, dim, dim, saved->h, w->h_proj, out);
    team_each(team, ceil_div(count, BLOCK), join_block, &p);
}

/* The embeddings' side. dy [P, D], dnormed [P, D] are work. */
static void embedded_back(struct team *team, struct join *p, const real *embedded, const struct mtp_weights *w,
                          const struct mtp_saved *saved, real *dnormed, real *dembedded,
                          const struct mtp_gradients *g) {
    const size_t dim = p->shape->dim, count = p->pairs;
    memset(p->dy, 0, count * dim * sizeof(real));
    team_each(team, ceil_div(count, BLOCK), join_block, p);
    if (g->e_proj)
        REAL(gemm)(team, GEMM_AT | GEMM_ADD, dim, dim, count, p->dy, saved->e, g->e_proj);
    REAL(gemm)(team, 0, count, dim, dim, p->dy, w->e_proj, dnormed);
    REAL(norm_backward)(team, count, dim, embedded, w->enorm, saved->e_inverse, dnormed, dembedded, g->enorm);
}

void REAL(mtp_backward)(struct team *team, const struct mtp_shape *s, const struct mtp_pairs *pairs, const real *h,
                        const real *embedded, const struct mtp_weights *w, const struct mtp_saved *saved,
                        const real *dout, real *work, real *dh, real *dembedded, const struct mtp_gradients *g) {
    const size_t n = s->streams, dim = s->dim, count = pairs->batch.tokens;
    struct join p = {.shape = s, .pairs = count, .dout = dout, .dy = work};
    real *dnormed = work + 2 * count * dim;
    embedded_back(team, &p, embedded, w, saved, work + count * dim, dembedded, g);
    if (g->h_proj)
        REAL(gemm)(team, GEMM_AT | GEMM_ADD, dim, dim, count * n, dout, saved->h, g->h_proj);
    REAL(gemm)(team, 0, count * n, dim, dim, dout, w->h_proj, dnormed);
    for (uint32_t i = 0; i < pairs->batch.segment_count; i++) {
        const size_t at = pairs->segments[i].begin * n, rows = pairs->segments[i].length * n;
        const size_t from = pairs->from[i] * n * dim;
        const real *inverse = saved->h_inverse + at, *dy = dnormed + at * dim;
        real *dx = dh ? dh + from : NULL;
        REAL(norm_backward)(team, rows, dim, h + from, w->hnorm, inverse, dy, dx, g->hnorm);
    }
}
