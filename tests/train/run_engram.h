/* run_engram.h - a table looked up and its Engram layer; the output is the new streams. */
#include "run_real.h"
#include "train/engram_internal.h"

struct engram_run {
    struct engram_sizes sizes;
    const struct engram_rows *rows;
    uint32_t width; /* of a row */
};

enum {
    ENGRAM_H,
    ENGRAM_TABLE,
    ENGRAM_KEYS,
    ENGRAM_VALUE,
    ENGRAM_KEY_NORM,
    ENGRAM_QUERY_NORM,
    ENGRAM_CONV_NORM,
    ENGRAM_CONV,
    ENGRAM_KEY_BIAS, /* these two: or not there */
    ENGRAM_VALUE_BIAS,
};

void REAL(run_engram)(struct run *run);

/* The table's gradient is made of the rows that were read, and none of the others'. */
static void table_back(const struct run *run, const struct run_reals *r, const real *de, struct bag *b) {
    const struct engram_run *e = run->shape;
    real *gradient = reals(b, e->rows->count * e->width);
    REAL(engram_table_gradient)(run->team, e->rows, e->width, de, gradient);
    for (size_t i = 0; r->dx[ENGRAM_TABLE] && i < e->rows->count; i++)
        for (size_t k = 0; k < e->width; k++)
            r->dx[ENGRAM_TABLE][(size_t)e->rows->unique[i] * e->width + k] += gradient[i * e->width + k];
}

void REAL(run_engram)(struct run *run) {
    const struct engram_run *e = run->shape;
    const struct engram_sizes *s = &e->sizes;
    struct bag b = {0};
    struct run_reals r = run_begin(run, &b);
    real **x = r.x, **d = r.dx;
    const size_t wide = (size_t)s->streams * s->dim, inputs = (size_t)s->tokens * s->inputs;
    const struct engram_weights w = {x[ENGRAM_KEYS],       x[ENGRAM_KEY_BIAS], x[ENGRAM_VALUE],
                                     x[ENGRAM_VALUE_BIAS], x[ENGRAM_KEY_NORM], x[ENGRAM_QUERY_NORM],
                                     x[ENGRAM_CONV_NORM],  x[ENGRAM_CONV]};
    const struct engram_gradients g = {d[ENGRAM_KEYS],       d[ENGRAM_KEY_BIAS], d[ENGRAM_VALUE],
                                       d[ENGRAM_VALUE_BIAS], d[ENGRAM_KEY_NORM], d[ENGRAM_QUERY_NORM],
                                       d[ENGRAM_CONV_NORM],  d[ENGRAM_CONV]};
    const struct engram_saved saved = {reals(&b, s->tokens * wide), reals(&b, (size_t)s->tokens * s->dim),
                                       bag_take(&b, (size_t)s->tokens * s->streams, sizeof(*saved.gates))};
    real *looked_up = reals(&b, inputs), *de = reals(&b, inputs), *work = reals(&b, engram_work(s));
    REAL(engram_look_up)(run->team, e->rows, e->width, x[ENGRAM_TABLE], looked_up);
    REAL(engram_forward)(run->team, s, x[ENGRAM_H], looked_up, &w, r.y[0], &saved);
    if (!run->forward_only) {
        REAL(engram_backward)(run->team, s, x[ENGRAM_H], looked_up, &w, &saved, r.dy[0], work, d[ENGRAM_H], de, &g);
        table_back(run, &r, de, &b);
    }
    run_end(run, &r, &b);
}
