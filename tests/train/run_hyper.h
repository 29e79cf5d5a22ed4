/* run_hyper.h - a hyper-connection around a sublayer whose output is given: outputs are x and the new streams. The last
 * collapse has neither y nor new streams. */
#include "run_real.h"
#include "train/hyper_internal.h"

enum { HYPER_H, HYPER_FN, HYPER_SCALE, HYPER_BASE, HYPER_Y };

void REAL(run_hyper)(struct run *run);

static void hyper_back(const struct run *run, const struct run_reals *r, const struct hyper_saved *saved,
                       real *dmixes) {
    const struct hyper_shape *s = run->shape;
    const struct hyper_weights w = {r->x[HYPER_FN], r->x[HYPER_SCALE], r->x[HYPER_BASE]};
    const struct hyper_gradients g = {r->dx[HYPER_FN], r->dx[HYPER_SCALE], r->dx[HYPER_BASE]};
    const real *h = r->x[HYPER_H], *y = r->x[HYPER_Y], *dout = r->dy[1];
    real *dh = r->dx[HYPER_H], *dy = r->dx[HYPER_Y];
    if (s->iterations)
        REAL(hyper_spread_backward)(run->team, s, h, y, saved->mixes, dout, dh, dy, dmixes);
    REAL(hyper_collapse_backward)(run->team, s, h, &w, saved, r->dy[0], dmixes, dh, &g);
}

void REAL(run_hyper)(struct run *run) {
    const struct hyper_shape *s = run->shape;
    struct bag b = {0};
    struct run_reals r = run_begin(run, &b);
    const size_t numbers = (size_t)s->tokens * hyper_mixes(s);
    const struct hyper_weights w = {r.x[HYPER_FN], r.x[HYPER_SCALE], r.x[HYPER_BASE]};
    const struct hyper_saved saved = {reals(&b, numbers), reals(&b, s->tokens), reals(&b, numbers)};
    REAL(hyper_collapse_forward)(run->team, s, r.x[HYPER_H], &w, r.y[0], &saved);
    if (s->iterations)
        REAL(hyper_spread_forward)(run->team, s, r.x[HYPER_H], r.x[HYPER_Y], saved.mixes, r.y[1]);
    if (!run->forward_only)
        hyper_back(run, &r, &saved, reals(&b, numbers));
    run_end(run, &r, &b);
}
