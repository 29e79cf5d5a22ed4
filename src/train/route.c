/*
 * route.c - the router.
 *
 * With S the sum of the k scores s and weights w = scale s / S:
 *
 *     ds_j = (scale dw_j - sum_i dw_i w_i) / S        of the k that were chosen, 0 of the others
 *     dz   = ds sigmoid(z) / 2s                       of sqrt(softplus(z)); ds s (1 - s) of the sigmoid;
 *            s (ds - sum_i ds_i s_i)                  of the softmax
 */
#include "train/lanes_internal.h"
#include "train/route_internal.h"

struct routing {
    const struct route_shape *s;
    struct team *team;
    const real *bias, *logits, *weights, *dweights;
    const int32_t *table, *ids, *experts;
    int32_t *chosen;
    real *made, *dlogits;
    /* of the balance loss */
    const struct segment *segments;
    real alpha, *frequencies, *losses;
};

/* ---------------------------------------------------------------------------------------- scores */

static real sqrt_softplus(real z) {
    return r_sqrt((z < 0 ? 0 : z) + r_log1p(r_exp(-r_fabs(z)))); /* no overflow */
}

static void softmax_row(size_t n, const real *z, real *score) {
    real top = z[0], total = 0;
    for (size_t e = 1; e < n; e++)
        top = z[e] > top ? z[e] : top;
    for (size_t e = 0; e < n; e++)
        total += score[e] = r_exp(z[e] - top);
    for (size_t e = 0; e < n; e++)
        score[e] /= total;
}

static void score_row(enum scoring scoring, size_t n, const real *z, real *score) {
    if (scoring == SCORING_SOFTMAX)
        softmax_row(n, z, score);
    else
        for (size_t e = 0; e < n; e++)
            score[e] = scoring == SCORING_SIGMOID ? 1 / (1 + r_exp(-z[e])) : sqrt_softplus(z[e]);
}

/* dz += what ds wants. A score that underflowed to 0 is flat. */
static void score_back(enum scoring scoring, size_t n, const real *z, const real *score, const real *ds, real *dz) {
    real mean = scoring == SCORING_SOFTMAX ? lanes_dot(ds, score, n) : 0;
    for (size_t e = 0; e < n; e++) {
        if (scoring == SCORING_SOFTMAX)
            dz[e] += score[e] * (ds[e] - mean);
        else if (ds[e] != 0 && score[e] > 0)
            dz[e] += ds[e] *
                     (scoring == SCORING_SIGMOID ? score[e] * (1 - score[e]) : 1 / (1 + r_exp(-z[e])) / (2 * score[e]));
    }
}

/* --------------------------------------------------------------------------------------- forward */

/* The k best of value, descending; value is used up. */
static void choose(size_t n, size_t k, real *value, int32_t *experts) {
    for (size_t j = 0; j < k; j++) {
        size_t best = 0;
        for (size_t e = 1; e < n; e++)
            best = value[e] > value[best] ? e : best;
        experts[j] = (int32_t)best;
        value[best] = -(real)INFINITY;
    }
}

static void forward_row(const struct routing *p, size_t row, real *score, real *value) {
    const struct route_shape *s = p->s;
    size_t n = s->experts, k = s->active;
    int32_t *experts = p->chosen + row * k;
    real *weights = p->made + row * k, total = 0;
    score_row(s->scoring, n, p->logits + row * n, score);
    if (p->table) {
        memcpy(experts, p->table + (size_t)p->ids[row] * k, k * sizeof(*experts));
    } else {
        for (size_t e = 0; e < n; e++)
            value[e] = p->bias ? score[e] + p->bias[e] : score[e];
        choose(n, k, value, experts);
    }
    for (size_t j = 0; j < k; j++)
        total += weights[j] = score[experts[j]];
    for (size_t j = 0; j < k; j++)
        weights[j] = (s->scoring == SCORING_SOFTMAX ? weights[j] : weights[j] / total) * s->scale;
}

static void forward_rows(void *context, uint32_t worker, size_t item) {
    const struct routing *p = context;
    size_t end = min_u64(p->s->tokens, (item + 1) * BLOCK), n = p->s->experts;
    real *score = team_scratch(p->team, worker, 2 * n * sizeof(real));
    for (size_t row = item * BLOCK; score && row < end; row++)
        forward_row(p, row, score, score + n);
}

void REAL(route_forward)(struct team *team, const struct route_shape *s, const real *x, const real *gate,
                         const real *bias, const int32_t *table, const int32_t *ids, real *logits, int32_t *experts,
                         real *weights) {
    struct routing p = {.s = s,
                        .team = team,
                        .bias = bias,
                        .table = table,
                        .ids = ids,
                        .logits = logits,
                        .chosen = experts,
                        .made = weights};
    REAL(gemm)(team, GEMM_BT | GEMM_EXACT, s->tokens, s->experts, s->dim, x, gate, logits);
    team_each(team, ceil_div(s->tokens, BLOCK), forward_rows, &p);
}

/* -------------------------------------------------------------------------------------- backward */

static void backward_row(const struct routing *p, size_t row, real *score, real *ds) {
    const struct route_shape *s = p->s;
    size_t n = s->experts, k = s->active;
    const int32_t *experts = p->experts + row * k;
    const real *z = p->logits + row * n, *w = p->weights + row * k, *dw = p->dweights + row * k;
    real total = 0, common = 0;
    score_row(s->scoring, n, z, score);
    memset(ds, 0, n * sizeof(*ds));
    for (size_t j = 0; j < k; j++) {
        total += score[experts[j]];
        common += dw[j] * w[j];
    }
    for (size_t j = 0; j < k; j++)
        ds[experts[j]] = s->scoring == SCORING_SOFTMAX ? s->scale * dw[j] : (s->scale * dw[j] - common) / total;
    score_back(s->scoring, n, z, score, ds, p->dlogits + row * n);
}

static void backward_rows(void *context, uint32_t worker, size_t item) {
    const struct routing *p = context;
    size_t end = min_u64(p->s->tokens, (item + 1) * BLOCK), n = p->s->experts;
    real *score = team_scratch(p->team, worker, 2 * n * sizeof(real));
    for (size_t row = item * BLOCK; score && row < end; row++)
        backward_row(p, row, score, score + n);
}

void REAL(route_backward)(struct team *team, const struct route_shape *s, const real *x, const real *gate,
                          const real *logits, const int32_t *experts, const real *weights, const real *dweights,
                          real *dlogits, real *dx, real *dgate) {
    struct routing p = {.s = s,
                        .team = team,
                        .logits = logits,
                        .experts = experts,
                        .weights = weights,
                        .dweights = dweights,
                        .dlogits = dlogits};
    team_each(team, ceil_div(s->tokens, BLOCK), backward_rows, &p);
    if (dx)
        REAL(gemm)(team, GEMM_ADD | GEMM_EXACT, s->tokens, s->dim, s->experts, dlogits, gate, dx);
    if (dgate)
        REAL(gemm)(team, GEMM_AT | GEMM_ADD | GEMM_EXACT, s->experts, s->dim, s->tokens, dlogits, x, dgate);
}

/* --------------------------------------------------------------------------------------- balance */

/* f_e of a segment. */
static void count_segment(void *context, uint32_t worker, size_t item) {
    const struct routing *p = context;
    const struct route_shape *s = p->s;
    struct segment g = p->segments[item];
    real *f = p->frequencies + item * s->experts;
    size_t k = s->active;
    (void)worker;
    memset(f, 0, s->experts * sizeof(*f));
    for (size_t i = g.begin * k; i < ((size_t)g.begin + g.length) * k; i++)
        f[p->experts[i]] += 1;
    for (size_t e = 0; g.length && e < s->experts; e++)
        f[e] *= (real)s->experts / ((real)k * (real)g.length);
}

/* With q = s / S the shares in a token's scores, its part of the loss is alpha / T sum_e f_e q_e, and
 * ds_e = alpha / (T S) (f_e - sum_i f_i q_i). */
static void balance_row(const struct routing *p, const real *f, size_t row, real *score, real *ds) {
    const struct route_shape *s = p->s;
    size_t n = s->experts;
    const real *z = p->logits + row * n;
    real total = 0, each = p->alpha / (real)s->tokens;
    score_row(s->scoring, n, z, score);
    for (size_t e = 0; e < n; e++)
        total += score[e];
    real mean = total > 0 ? lanes_dot(f, score, n) / total : 0;
    p->losses[row] = each * mean;
    if (!p->dlogits || !(total > 0))
        return;
    for (size_t e = 0; e < n; e++)
        ds[e] = each / total * (f[e] - mean);
    score_back(s->scoring, n, z, score, ds, p->dlogits + row * n);
}

static void balance_rows(void *context, uint32_t worker, size_t item) {
    const struct routing *p = context;
    size_t end = min_u64(p->s->tokens, (item + 1) * BLOCK), n = p->s->experts;
    real *score = team_scratch(p->team, worker, 2 * n * sizeof(real));
    const struct segment *g = p->segments;
    for (size_t row = item * BLOCK; score && row < end; row++) {
        while (row >= (size_t)g->begin + g->length)
            g++;
        balance_row(p, p->frequencies + (size_t)(g - p->segments) * n, row, score, score + n);
    }
}

double REAL(route_balance)(struct team *team, const struct route_shape *s, const struct segment *segments,
                           uint32_t segment_count, const real *logits, const int32_t *experts, real alpha, real *work,
                           real *dlogits) {
    struct routing p = {.s = s,
                        .team = team,
                        .logits = logits,
                        .experts = experts,
                        .segments = segments,
                        .alpha = alpha,
                        .frequencies = work,
                        .losses = work + (size_t)segment_count * s->experts,
                        .dlogits = dlogits};
    double loss = 0;
    team_each(team, segment_count, count_segment, &p);
    team_each(team, ceil_div(s->tokens, BLOCK), balance_rows, &p);
    for (size_t t = 0; t < s->tokens; t++)
        loss += p.losses[t];
    return loss;
}

void REAL(route_loads)(const struct route_shape *s, const int32_t *experts, uint64_t *loads) {
    for (size_t i = 0; i < (size_t)s->tokens * s->active; i++)
        loads[experts[i]]++;
}

void REAL(route_adjust_bias)(uint32_t count, const uint64_t *loads, real speed, real *bias) {
    uint64_t total = 0;
    for (uint32_t e = 0; e < count; e++)
        total += loads[e];
    for (uint32_t e = 0; e < count; e++) {
        uint64_t load = loads[e] * count; /* against the mean, times count */
        bias[e] += load < total ? speed : load > total ? -speed : 0;
    }
}
