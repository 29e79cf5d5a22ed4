/* run_real.h - between a run's doubles and a pass's numbers. */
#ifndef TESTS_TRAIN_RUN_REAL_H
#define TESTS_TRAIN_RUN_REAL_H

#include "run.h"
#include "train/real_internal.h"

static inline real *reals(struct bag *b, size_t count) {
    return bag_take(b, count, sizeof(real));
}

/* NULL stays. */
static inline real *to_real(struct bag *b, const double *x, size_t count) {
    real *y = x ? reals(b, count) : NULL;
    for (size_t i = 0; x && i < count; i++)
        y[i] = (real)x[i];
    return y;
}

static inline void from_real(double *y, const real *x, size_t count) {
    for (size_t i = 0; y && i < count; i++)
        y[i] = (double)x[i];
}

/* Every input and its gradient, and every output's gradient, as reals. */
struct run_reals {
    real *x[RUN_INPUTS], *dx[RUN_INPUTS], *y[RUN_OUTPUTS], *dy[RUN_OUTPUTS];
};

static inline struct run_reals run_begin(const struct run *run, struct bag *b) {
    struct run_reals r = {0};
    for (size_t i = 0; i < run->input_count; i++) {
        r.x[i] = to_real(b, run->inputs[i].x, run->inputs[i].count);
        r.dx[i] = to_real(b, run->inputs[i].gradient, run->inputs[i].count);
    }
    for (size_t i = 0; i < run->output_count; i++) {
        r.y[i] = reals(b, run->outputs[i].count);
        r.dy[i] = to_real(b, run->outputs[i].gradient, run->outputs[i].count);
    }
    return r;
}

static inline void run_end(struct run *run, const struct run_reals *r, struct bag *b) {
    for (size_t i = 0; i < run->input_count && !run->forward_only; i++)
        from_real(run->inputs[i].gradient, r->dx[i], run->inputs[i].count);
    for (size_t i = 0; i < run->output_count; i++)
        from_real(run->outputs[i].x, r->y[i], run->outputs[i].count);
    bag_release(b);
}

#endif
