/*
 * optim.c - Muon, AdamW and the sums that clipping needs.
 *
 * Loops over numbers are cut into chunks that workers take; a number is changed by itself. The one sum, of squares, is
 * made of PARTS parts whatever their length, each in LANES partial sums, added in order.
 */
#include "train/optim_internal.h"

enum { CHUNK = 1 << 14, PARTS = 256, LANES = 8 };

/* ------------------------------------------------------------------------------------------ chunks */

/* An operation on arrays, of which a worker does numbers [begin, begin + count). */
struct sweep {
    void (*work)(const struct sweep *s, size_t begin, size_t count);
    size_t count;
    const real *from;
    real *to, *m, *v;
    real keep, add, rate; /* factors, as the operation says */
    const struct moments *moments;
};

static void chunk(void *context, uint32_t worker, size_t item) {
    const struct sweep *s = context;
    size_t begin = item * CHUNK;
    (void)worker;
    s->work(s, begin, (size_t)min_u64(CHUNK, s->count - begin));
}

static void sweep(struct team *team, struct sweep s) {
    team_each(team, ceil_div(s.count, CHUNK), chunk, &s);
}

/* to = keep to + add from */
KERNEL_CLONES static void mix(const struct sweep *s, size_t begin, size_t count) {
    real *restrict to = s->to + begin;
    const real *restrict from = s->from + begin;
    const real keep = s->keep, add = s->add;
    for (size_t i = 0; i < count; i++)
        to[i] = keep * to[i] + add * from[i];
}

/* to = add from, which may be the same */
KERNEL_CLONES static void set(const struct sweep *s, size_t begin, size_t count) {
    real *to = s->to + begin;
    const real *from = s->from + begin, add = s->add;
    for (size_t i = 0; i < count; i++)
        to[i] = add * from[i];
}

void REAL(scale)(struct team *team, size_t count, double factor, real *x) {
    sweep(team, (struct sweep){.work = set, .count = count, .from = x, .to = x, .add = (real)factor});
}

/* ----------------------------------------------------------------------------------------- squares */

struct squares {
    const real *x;
    size_t count;
    double parts[PARTS];
};

KERNEL_CLONES static void sum_part(void *context, uint32_t worker, size_t item) {
    struct squares *s = context;
    size_t i = s->count * item / PARTS, end = s->count * (item + 1) / PARTS;
    double lanes[LANES] = {0}, sum = 0;
    (void)worker;
    for (; i + LANES <= end; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += (double)s->x[i + l] * (double)s->x[i + l];
    for (; i < end; i++)
        sum += (double)s->x[i] * (double)s->x[i];
    for (size_t l = 0; l < LANES; l++)
        sum += lanes[l];
    s->parts[item] = sum;
}

double REAL(sum_squares)(struct team *team, size_t count, const real *x) {
    struct squares s = {.x = x, .count = count};
    double sum = 0;
    team_each(team, PARTS, sum_part, &s);
    for (size_t i = 0; i < PARTS; i++)
        sum += s.parts[i];
    return sum;
}

/* -------------------------------------------------------------------------------------------- Muon */

/* The polynomial of an iteration: a x + b (x x^T) x + c (x x^T)^2 x. */
struct polynomial {
    double a, b, c;
};

/*
 * y becomes the polynomial of x. The square matrix x x^T is made on the narrow side of x: for a tall x it is x^T x,
 * from the right, which is the same polynomial. gram and square are [narrow, narrow].
 */
static void iterate(struct team *team, const struct polynomial *p, size_t rows, size_t cols, const real *x, real *y,
                    real *gram, real *square) {
    const bool tall = rows > cols;
    const size_t narrow = tall ? cols : rows, wide = tall ? rows : cols;
    REAL(gemm)(team, GEMM_SYMMETRIC | (tall ? GEMM_AT : GEMM_BT), narrow, narrow, wide, x, x, gram);
    REAL(gemm)(team, GEMM_SYMMETRIC, narrow, narrow, narrow, gram, gram, square);
    sweep(
        team,
        (struct sweep){
            .work = mix, .count = narrow * narrow, .from = gram, .to = square, .keep = (real)p->c, .add = (real)p->b});
    sweep(team, (struct sweep){.work = set, .count = rows * cols, .from = x, .to = y, .add = (real)p->a});
    REAL(gemm)(team, GEMM_ADD, rows, cols, narrow, tall ? x : square, tall ? square : x, y);
}

void REAL(orthogonalise)(struct team *team, size_t rows, size_t cols, real *x, real *scratch) {
    static const struct polynomial lift = {3.4445, -4.7750, 2.0315}, settle = {2, -1.5, 0.5};
    const size_t count = rows * cols, narrow = (size_t)min_u64(rows, cols);
    real *y = scratch, *gram = scratch + count, *square = gram + narrow * narrow;
    const double norm = sqrt(REAL(sum_squares)(team, count, x));
    REAL(scale)(team, count, norm < 1e-30 ? 0 : 1 / norm, x);
    for (int i = 0; i < 10; i += 2) {
        const struct polynomial *p = i < 8 ? &lift : &settle;
        iterate(team, p, rows, cols, x, y, gram, square);
        iterate(team, p, rows, cols, y, x, gram, square);
    }
}

/* m = keep m + from, to = keep m + from */
KERNEL_CLONES static void look_ahead(const struct sweep *s, size_t begin, size_t count) {
    real *restrict m = s->m + begin, *restrict to = s->to + begin;
    const real *restrict from = s->from + begin;
    const real keep = s->keep;
    for (size_t i = 0; i < count; i++) {
        m[i] = keep * m[i] + from[i];
        to[i] = keep * m[i] + from[i];
    }
}

struct matrices {
    struct team *team;
    const struct muon_options *o;
    double rate, length;
    size_t rows, cols, scratch; /* numbers of scratch for each worker */
    const real *gradient;
    real *momentum, *weight, *memory;
};

static void step_matrix(struct team *team, const struct matrices *s, size_t i, real *x) {
    const size_t size = s->rows * s->cols;
    sweep(team, (struct sweep){.work = look_ahead,
                               .count = size,
                               .from = s->gradient + i * size,
                               .to = x,
                               .m = s->momentum + i * size,
                               .keep = (real)s->o->momentum});
    REAL(orthogonalise)(team, s->rows, s->cols, x, x + size);
    sweep(team, (struct sweep){.work = mix,
                               .count = size,
                               .from = x,
                               .to = s->weight + i * size,
                               .keep = (real)(1 - s->rate * s->o->decay),
                               .add = (real)-s->length});
}

static void step_alone(void *context, uint32_t worker, size_t item) {
    const struct matrices *s = context;
    step_matrix(team_alone(s->team, worker), s, item, s->memory + worker * s->scratch);
}

void REAL(muon_step)(struct team *team, const struct muon_options *o, double rate, size_t count, size_t rows,
                     size_t cols, const real *gradient, real *momentum, real *weight, real *scratch) {
    struct matrices s = {.team = team,
                         .o = o,
                         .rate = rate,
                         .length = rate * o->scale * sqrt((double)max_u64(rows, cols)),
                         .rows = rows,
                         .cols = cols,
                         .scratch = muon_scratch(rows, cols),
                         .gradient = gradient,
                         .momentum = momentum,
                         .weight = weight,
                         .memory = scratch};
    const size_t together = count < 2 * (size_t)team_workers(team) ? 0 : count - count % team_workers(team);
    team_each(team, together, step_alone, &s);
    for (size_t i = together; i < count; i++)
        step_matrix(team, &s, i, scratch);
}

/* -------------------------------------------------------------------------------------------- Adam */

/* The factors of a step, which depend on how many there were. */
struct moments {
    real beta1, beta2, eps;
    real rate;   /* over 1 - beta1^step */
    real spread; /* 1 / sqrt(1 - beta2^step) */
    real keep;   /* of the weight */
};

static struct moments moments_at(const struct adam_options *o, double rate, uint64_t step) {
    return (struct moments){.beta1 = (real)o->beta1,
                            .beta2 = (real)o->beta2,
                            .eps = (real)o->eps,
                            .rate = (real)(rate / (1 - pow(o->beta1, (double)step))),
                            .spread = (real)(1 / sqrt(1 - pow(o->beta2, (double)step))),
                            .keep = (real)(1 - rate * o->decay)};
}

static void adam(const struct moments *f, size_t count, const real *restrict g, real *restrict m, real *restrict v,
                 real *restrict w) {
    const struct moments k = *f;
    for (size_t i = 0; i < count; i++) {
        m[i] = k.beta1 * m[i] + (1 - k.beta1) * g[i];
        v[i] = k.beta2 * v[i] + (1 - k.beta2) * (g[i] * g[i]);
        w[i] = k.keep * w[i] - k.rate * m[i] / (r_sqrt(v[i]) * k.spread + k.eps);
    }
}

KERNEL_CLONES static void adam_chunk(const struct sweep *s, size_t begin, size_t count) {
    adam(s->moments, count, s->from + begin, s->m + begin, s->v + begin, s->to + begin);
}

void REAL(adam_step)(struct team *team, const struct adam_options *o, double rate, uint64_t step, size_t count,
                     const real *gradient, real *m, real *v, real *weight) {
    const struct moments f = moments_at(o, rate, step);
    sweep(team, (struct sweep){
                    .work = adam_chunk, .count = count, .from = gradient, .to = weight, .m = m, .v = v, .moments = &f});
}

struct rows {
    const struct adam_options *o;
    double rate;
    size_t width, touched;
    const uint32_t *rows;
    const real *gradient;
    uint32_t *steps;
    real *m, *v, *weight;
};

KERNEL_CLONES static void adam_rows(void *context, uint32_t worker, size_t item) {
    const struct rows *r = context;
    size_t end = (size_t)min_u64(r->touched, (item + 1) * BLOCK);
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++) {
        const size_t row = r->rows[i], at = row * r->width;
        if (r->steps[row] < UINT32_MAX)
            r->steps[row]++;
        const struct moments f = moments_at(r->o, r->rate, r->steps[row]);
        adam(&f, r->width, r->gradient + i * r->width, r->m + at, r->v + at, r->weight + at);
    }
}

void REAL(adam_rows_step)(struct team *team, const struct adam_options *o, double rate, size_t width, size_t touched,
                          const uint32_t *rows, const real *gradient, uint32_t *steps, real *m, real *v, real *weight) {
    struct rows r = {o, rate, width, touched, rows, gradient, steps, m, v, weight};
    team_each(team, ceil_div(touched, BLOCK), adam_rows, &r);
}
