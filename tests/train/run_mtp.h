/* run_mtp.h - the entrance of multi-token prediction. */
#include "run_real.h"
#include "train/mtp_internal.h"

struct mtp_run {
    struct mtp_shape shape;
    const struct mtp_pairs *pairs;
};

enum { MTP_H, MTP_EMBEDDED, MTP_ENORM, MTP_HNORM, MTP_E_PROJ, MTP_H_PROJ };

void REAL(run_mtp)(struct run *run);

void REAL(run_mtp)(struct run *run) {
    const struct mtp_run *m = run->shape;
    struct bag b = {0};
    struct run_reals r = run_begin(run, &b);
    real **x = r.x, **d = r.dx;
    const size_t pairs = m->pairs->batch.tokens, n = m->shape.streams, dim = m->shape.dim;
    const struct mtp_weights w = {x[MTP_ENORM], x[MTP_HNORM], x[MTP_E_PROJ], x[MTP_H_PROJ]};
    const struct mtp_gradients g = {d[MTP_ENORM], d[MTP_HNORM], d[MTP_E_PROJ], d[MTP_H_PROJ]};
    const struct mtp_saved saved = {reals(&b, pairs * dim), reals(&b, pairs), reals(&b, pairs * n * dim),
                                    reals(&b, pairs * n)};
    real *work = reals(&b, mtp_work(&m->shape, (uint32_t)pairs));
    const real *h = x[MTP_H], *e = x[MTP_EMBEDDED];
    real *dh = d[MTP_H], *de = d[MTP_EMBEDDED];
    REAL(mtp_forward)(run->team, &m->shape, m->pairs, h, e, &w, work, r.y[0], &saved);
    if (!run->forward_only)
        REAL(mtp_backward)(run->team, &m->shape, m->pairs, h, e, &w, &saved, r.dy[0], work, dh, de, &g);
    run_end(run, &r, &b);
}
