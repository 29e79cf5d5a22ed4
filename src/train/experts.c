/*
 * experts.c - the mixture of experts: tokens gathered by expert, three products an expert, and their sums scattered.
 *
 * The shared expert is one more that takes all tokens as they lie, with weight 1. Work is divided in four: `in` and
 * `out` [T, D] for an expert's gathered tokens and what becomes of them, `h` and `dh` [T, inter] for its inside. In
 * the backward pass the gradients of gate and up take the place of h and dh.
 *
 *     a = silu(g) u, h = a w:   dw = dh . a,   du = dh w silu(g),   dg = dh w u s (1 + g (1 - s)), s = sigmoid(g)
 *
 * where g and u are clamped; outside the clamps their gradients are 0.
 */
#include "train/experts_internal.h"
#include "train/lanes_internal.h"

/* One expert over its tokens. */
struct expert {
    struct team *team;
    size_t count, dim, inter, active;
    const uint32_t *order; /* [count]; NULL: the shared expert, all tokens */
    const real *w1, *w3, *w2;
    const real *x, *dy, *weights;
    real *gate, *up;         /* [count, inter] */
    real *in, *out, *h, *dh; /* work */
    real *y, *dx, *dweights; /* [T, D], [T, D], [T, k] */
    real *dw1, *dw3, *dw2;   /* NULL: not wanted */
    real limit;              /* infinity: no clamp */
    const real *from;        /* gather: of these rows */
    real *to;                /* gather: into these; scatter: out is added to these */
};

/* ------------------------------------------------------------------------------ gather and scatter */

static void each_block(struct expert *p, void (*work)(void *context, uint32_t worker, size_t item)) {
    team_each(p->team, ceil_div(p->count, BLOCK), work, p);
}

static void gather_rows(void *context, uint32_t worker, size_t item) {
    const struct expert *p = context;
    size_t end = min_u64(p->count, (item + 1) * BLOCK);
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++)
        memcpy(p->to + i * p->dim, p->from + p->order[i] / p->active * p->dim, p->dim * sizeof(real));
}

/* The expert's tokens of `from`, through `to`; the rows themselves if it takes all. */
static const real *gather(struct expert *p, const real *from, real *to) {
    if (!p->order)
        return from;
    p->from = from;
    p->to = to;
    each_block(p, gather_rows);
    return to;
}

KERNEL_CLONES static void scatter_rows(void *context, uint32_t worker, size_t item) {
    const struct expert *p = context;
    size_t end = min_u64(p->count, (item + 1) * BLOCK);
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++) {
        const real *restrict from = p->out + i * p->dim;
        real *restrict to = p->to + p->order[i] / p->active * p->dim;
        for (size_t j = 0; j < p->dim; j++)
            to[j] += from[j];
    }
}

static void scatter(struct expert *p, real *to) {
    p->to = to;
    each_block(p, scatter_rows);
}

/* Counting sort of the T k choices by expert, stable. */
static void sort_by_expert(const struct experts_shape *s, const int32_t *experts, uint32_t *order, uint32_t *begin) {
    uint32_t count = s->tokens * s->active;
    memset(begin, 0, ((size_t)s->experts + 1) * sizeof(*begin));
    for (uint32_t i = 0; i < count; i++)
        begin[experts[i] + 1]++;
    for (uint32_t e = 0; e < s->experts; e++)
        begin[e + 1] += begin[e];
    for (uint32_t i = 0; i < count; i++)
        order[begin[experts[i]]++] = i;
    memmove(begin + 1, begin, s->experts * sizeof(*begin)); /* where each ended is where the next began */
    begin[0] = 0;
}

/* -------------------------------------------------------------------------------------- the unit */

static inline real clamp_gate(real x, real limit) {
    return x > limit ? limit : x;
}

static inline real clamp_up(real x, real limit) {
    return x > limit ? limit : x < -limit ? -limit : x;
}

KERNEL_CLONES static void swiglu_rows(void *context, uint32_t worker, size_t item) {
    const struct expert *p = context;
    size_t end = min_u64(p->count, (item + 1) * BLOCK), n = p->inter;
    real limit = p->limit;
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++) {
        const real *restrict gate = p->gate + row * n, *restrict up = p->up + row * n;
        real *restrict h = p->h + row * n, weight = p->order ? p->weights[p->order[row]] : 1;
        for (size_t i = 0; i < n; i++) {
            real g = clamp_gate(gate[i], limit), u = clamp_up(up[i], limit);
            h[i] = g * lanes_sigmoid(g) * u * weight;
        }
    }
}

/* One channel: dh becomes the gradient of up, *h that of gate; returns that of the weight. */
static inline real swiglu_back(real gate, real up, real weight, real limit, real *h, real *dh) {
    real g = clamp_gate(gate, limit), u = clamp_up(up, limit), s = lanes_sigmoid(g), d = *dh, inside = d * weight;
    *h = gate <= limit ? inside * u * s * (1 + g * (1 - s)) : 0;
    *dh = up <= limit && up >= -limit ? inside * g * s : 0;
    return d * g * s * u;
}

static real swiglu_back_row(size_t n, const real *restrict gate, const real *restrict up, real weight, real limit,
                            real *restrict h, real *restrict dh) {
    real sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += swiglu_back(gate[i + j], up[i + j], weight, limit, &h[i + j], &dh[i + j]);
    for (size_t j = 0; i + j < n; j++)
        sums[j] += swiglu_back(gate[i + j], up[i + j], weight, limit, &h[i + j], &dh[i + j]);
    return lanes_total(sums);
}

KERNEL_CLONES static void swiglu_back_rows(void *context, uint32_t worker, size_t item) {
    const struct expert *p = context;
    size_t end = min_u64(p->count, (item + 1) * BLOCK), n = p->inter;
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++) {
        real weight = p->order ? p->weights[p->order[row]] : 1;
        real dweight =
            swiglu_back_row(n, p->gate + row * n, p->up + row * n, weight, p->limit, p->h + row * n, p->dh + row * n);
        if (p->order && p->dweights)
            p->dweights[p->order[row]] += dweight;
    }
}

/* ----------------------------------------------------------------------------------- one expert */

static void expert_forward(struct expert *p) {
    const real *in = gather(p, p->x, p->in);
    REAL(gemm)(p->team, GEMM_BT, p->count, p->inter, p->dim, in, p->w1, p->gate);
    REAL(gemm)(p->team, GEMM_BT, p->count, p->inter, p->dim, in, p->w3, p->up);
    each_block(p, swiglu_rows);
    REAL(gemm)(p->team, GEMM_BT, p->count, p->dim, p->inter, p->h, p->w2, p->order ? p->out : p->y);
    if (p->order)
        scatter(p, p->y);
}

static void expert_backward(struct expert *p) {
    const real *in = gather(p, p->x, p->in), *dout = gather(p, p->dy, p->out);
    if (p->dw2) {
        each_block(p, swiglu_rows);
        REAL(gemm)(p->team, GEMM_AT | GEMM_ADD, p->dim, p->inter, p->count, dout, p->h, p->dw2);
    }
    REAL(gemm)(p->team, 0, p->count, p->inter, p->dim, dout, p->w2, p->dh);
    each_block(p, swiglu_back_rows);
    if (p->dw1)
        REAL(gemm)(p->team, GEMM_AT | GEMM_ADD, p->inter, p->dim, p->count, p->h, in, p->dw1);
    if (p->dw3)
        REAL(gemm)(p->team, GEMM_AT | GEMM_ADD, p->inter, p->dim, p->count, p->dh, in, p->dw3);
    if (p->dx) {
        real *din = p->order ? p->out : p->dx;
        REAL(gemm)(p->team, p->order ? 0 : GEMM_ADD, p->count, p->dim, p->inter, p->h, p->w1, din);
        REAL(gemm)(p->team, GEMM_ADD, p->count, p->dim, p->inter, p->dh, p->w3, din);
        if (p->order)
            scatter(p, p->dx);
    }
}

/* ---------------------------------------------------------------------------------------- all */

static struct expert begin_experts(struct team *team, const struct experts_shape *s, const real *x, const real *weights,
                                   real *work) {
    size_t rows = s->tokens, widest = max_u64(s->inter, s->shared_inter);
    return (struct expert){.team = team,
                           .dim = s->dim,
                           .active = s->active,
                           .x = x,
                           .weights = weights,
                           .in = work,
                           .out = work + rows * s->dim,
                           .h = work + 2 * rows * s->dim,
                           .dh = work + rows * (2 * s->dim + widest),
                           .limit = s->limit > 0 ? (real)s->limit : (real)INFINITY};
}

/* p becomes the one that takes all tokens. */
static void take_shared(struct expert *p, const struct experts_shape *s, const struct REAL(experts_weights) * w,
                        const struct REAL(experts_saved) * saved) {
    p->order = NULL;
    p->count = s->tokens;
    p->inter = s->shared_inter;
    p->w1 = w->shared_w1;
    p->w3 = w->shared_w3;
    p->w2 = w->shared_w2;
    p->gate = saved->shared_gate;
    p->up = saved->shared_up;
}

/* p becomes expert e; false if no token chose it. */
static bool take_expert(struct expert *p, const struct experts_shape *s, const struct REAL(experts_weights) * w,
                        const struct REAL(experts_saved) * saved, uint32_t e) {
    size_t matrix = (size_t)s->inter * s->dim, begin = saved->begin[e];
    p->order = saved->order + begin;
    p->count = saved->begin[e + 1] - begin;
    p->inter = s->inter;
    p->w1 = w->w1 + e * matrix;
    p->w3 = w->w3 + e * matrix;
    p->w2 = w->w2 + e * matrix;
    p->gate = saved->gate + begin * s->inter;
    p->up = saved->up + begin * s->inter;
    return p->count > 0;
}

static real *matrix_at(real *matrices, size_t at) {
    return matrices ? matrices + at : NULL;
}

void REAL(experts_forward)(struct team *team, const struct experts_shape *s, const real *x, const int32_t *experts,
                           const real *weights, const struct REAL(experts_weights) * w,
                           const struct REAL(experts_saved) * saved, real *work, real *y) {
    struct expert p = begin_experts(team, s, x, weights, work);
    p.y = y;
    sort_by_expert(s, experts, saved->order, saved->begin);
    if (s->shared_inter) {
        take_shared(&p, s, w, saved);
        expert_forward(&p);
    } else {
        memset(y, 0, (size_t)s->tokens * s->dim * sizeof(*y));
    }
    for (uint32_t e = 0; e < s->experts; e++)
        if (take_expert(&p, s, w, saved, e))
            expert_forward(&p);
}

void REAL(experts_backward)(struct team *team, const struct experts_shape *s, const real *x, const real *weights,
                            const struct REAL(experts_weights) * w, const struct REAL(experts_saved) * saved,
                            real *work, const real *dy, real *dx, real *dweights,
                            const struct REAL(experts_weights) * dw) {
    struct expert p = begin_experts(team, s, x, weights, work);
    size_t matrix = (size_t)s->inter * s->dim;
    p.dy = dy;
    p.dx = dx;
    p.dweights = dweights;
    if (s->shared_inter) {
        take_shared(&p, s, w, saved);
        p.dw1 = dw->shared_w1;
        p.dw3 = dw->shared_w3;
        p.dw2 = dw->shared_w2;
        expert_backward(&p);
    }
    for (uint32_t e = 0; e < s->experts; e++) {
        if (!take_expert(&p, s, w, saved, e))
            continue;
        p.dw1 = matrix_at(dw->w1, e * matrix);
        p.dw3 = matrix_at(dw->w3, e * matrix);
        p.dw2 = matrix_at(dw->w2, e * matrix);
        expert_backward(&p);
    }
}
