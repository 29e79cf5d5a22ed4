/* test_train_attend.c - attention: from its definition, its gradients, float as double, the same bits with any workers.
 */
#define TRAIN_DOUBLE
#include "packed.h"

void attend_forward_f32(struct team *team, const struct attention *a, const float *q, const float *kv,
                        const float *entry, const float *sink, float *out, float *log_sum);
void attend_backward_f32(struct team *team, const struct attention *a, const float *q, const float *kv,
                         const float *entry, const float *sink, const float *out, const float *log_sum,
                         const float *d_out, float *delta, float *d_q, float *d_kv, float *d_entry, float *d_sink);
void attend_shares_f32(struct team *team, const struct attention *a, const float *q, const float *entry,
                       const float *log_sum, float *shares);

struct sizes {
    uint32_t heads, dim, window, ratio, top; /* ratio 0: no entries; top 0: all that are visible */
    uint32_t lengths[SEGMENTS + 1];
};

struct example {
    struct packed p;
    struct team *team;
    struct attention a;
    size_t queries, keys, entries, sums; /* numbers of q, of kv, of entry, of log_sum */
    double *q, *kv, *entry, *sink, *out, *log_sum, *d_out, *delta, *d_q, *d_kv, *d_entry, *d_sink;
};

static void example_init(struct example *x, uint64_t seed, uint32_t workers, const struct sizes *s) {
    struct rng r;
    rng_init(&r, seed);
    packed_init(&x->p, &r, s->lengths, s->ratio ? s->ratio : 1u << 20, s->top);
    x->a = (struct attention){&x->p.batch, s->heads, s->dim, s->window, s->ratio ? &x->p.entries : NULL, true};
    CHECKED(team_open(workers, &x->team, &error));
    x->sums = (size_t)x->p.batch.tokens * s->heads;
    x->queries = x->sums * s->dim;
    x->keys = (size_t)x->p.batch.tokens * s->dim;
    x->entries = (size_t)entries_total(&x->p.entries) * s->dim;
    x->q = packed_numbers(&x->p, &r, x->queries, 2);
    x->kv = packed_numbers(&x->p, &r, x->keys, 2);
    x->entry = packed_numbers(&x->p, &r, x->entries, 2);
    x->sink = packed_numbers(&x->p, &r, s->heads, 1);
    x->d_out = packed_numbers(&x->p, &r, x->queries, 1);
    x->out = packed_zeros(&x->p, x->queries);
    x->log_sum = packed_zeros(&x->p, x->sums);
    x->delta = packed_zeros(&x->p, x->sums);
    x->d_q = packed_zeros(&x->p, x->queries);
    x->d_kv = packed_zeros(&x->p, x->keys);
    x->d_entry = packed_zeros(&x->p, x->entries);
    x->d_sink = packed_zeros(&x->p, s->heads);
}

static void example_release(struct example *x) {
    team_close(x->team);
    packed_release(&x->p);
}

static double loss(void *context) {
    struct example *x = context;
    attend_forward_f64(x->team, &x->a, x->q, x->kv, x->entry, x->sink, x->out, x->log_sum);
    return dot(x->out, x->d_out, x->queries);
}

static void backward(struct example *x) {
    attend_backward_f64(x->team, &x->a, x->q, x->kv, x->entry, x->sink, x->out, x->log_sum, x->d_out, x->delta, x->d_q,
                        x->d_kv, x->d_entry, x->d_sink);
}

static const struct sizes shapes[] = {
    {1, 1, 1, 0, 0, {1}},          {1, 3, 4, 0, 0, {9}},
    {4, 5, 3, 0, 0, {2, 7, 1, 4}}, {4, 2, 8, 4, 0, {3, 1, 13}},
    {4, 5, 3, 4, 2, {17, 4}},      {3, 4, 5, 4, 3, {5, 12, 3}},
    {5, 9, 2, 2, 4, {9, 2}},       {2, 2, 7, 8, 1, {16, 7, 9}},
    {1, 2, 40, 1, 0, {35}}, /* more keys than are given gradients in one piece */
    {1, 1, 128, 128, 0, {131, 2}}, {2, 1, 100, 4, 0, {127}},
};

static void test_attend__gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            struct example x;
            example_init(&x, seed, 1, &shapes[i]);
            loss(&x);
            backward(&x);
            const struct checked list[] = {{"q", x.q, x.d_q, x.queries},
                                           {"kv", x.kv, x.d_kv, x.keys},
                                           {"entry", x.entry, x.d_entry, x.entries},
                                           {"sink", x.sink, x.d_sink, x.a.heads}};
            check_gradients(list, 4, loss, &x);
            example_release(&x);
        }
}

static double exp_score(const struct example *x, size_t row, const double *key) {
    return exp(dot(x->q + row * x->a.dim, key, x->a.dim) / sqrt(x->a.dim));
}

/* One head of one token from the definition. */
static void check_head(const struct example *x, const double *shares, uint32_t t, uint32_t h) {
    const struct segment *g = segment_of(&x->p.batch, t);
    uint32_t dim = x->a.dim, seen = x->a.entries ? entries_seen(x->a.entries, g, t) : 0;
    size_t row = (size_t)t * x->a.heads + h;
    double out[16] = {0}, total = exp(x->sink[h]), share = 0;
    for (uint32_t j = g->begin; j <= t; j++) {
        double e = j + x->a.window > t ? exp_score(x, row, x->kv + (size_t)j * dim) : 0;
        total += e;
        for (uint32_t c = 0; c < dim; c++)
            out[c] += e * x->kv[(size_t)j * dim + c];
    }
    for (uint32_t i = 0; i < seen; i++) {
        const double *key = x->entry + (size_t)(entries_first(x->a.entries, g) + entries_at(x->a.entries, t, i)) * dim;
        double e = exp_score(x, row, key);
        total += e;
        share = i + 1 == seen ? e : 0;
        for (uint32_t c = 0; c < dim; c++)
            out[c] += e * key[c];
    }
    for (uint32_t c = 0; c < dim; c++)
        assert_true(fabs(x->out[row * dim + c] - out[c] / total) < 1e-12);
    assert_true(fabs(x->log_sum[row] - log(total)) < 1e-12);
    if (seen && x->a.heads == 1)
        assert_true(fabs(shares[(size_t)t * entries_most(x->a.entries) + seen - 1] - share / total) < 1e-12);
}

static void test_attend__is_its_definition(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        struct example x;
        double *shares = NULL;
        example_init(&x, 3, 1, &shapes[i]);
        loss(&x);
        if (x.a.entries) {
            shares = packed_zeros(&x.p, (size_t)x.p.batch.tokens * entries_most(x.a.entries));
            attend_shares_f64(x.team, &x.a, x.q, x.entry, x.log_sum, shares);
        }
        for (uint32_t t = 0; t < x.p.batch.tokens; t++)
            for (uint32_t h = 0; h < x.a.heads; h++)
                check_head(&x, shares, t, h);
        example_release(&x);
    }
}

/* Over a window of one and no sink to speak of, all entries and the token share each head's one. */
static void test_attend__shares_are_summed_over_heads(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 4, 1, &(struct sizes){3, 4, 1, 4, 3, {30}});
    for (uint32_t h = 0; h < 3; h++)
        x.sink[h] = -1e3;
    loss(&x);
    double *shares = packed_zeros(&x.p, (size_t)x.p.batch.tokens * 3);
    attend_shares_f64(x.team, &x.a, x.q, x.entry, x.log_sum, shares);
    for (uint32_t t = 0; t < x.p.batch.tokens; t++) {
        double sum = 0;
        for (uint32_t h = 0; h < 3; h++)
            sum += exp_score(&x, (size_t)t * 3 + h, x.kv + (size_t)t * 4) / exp(x.log_sum[(size_t)t * 3 + h]);
        for (uint32_t i = 0; i < x.p.entries.counts[t]; i++)
            sum += shares[(size_t)t * 3 + i];
        assert_true(fabs(sum - 3) < 1e-12);
    }
    example_release(&x);
}

static void test_attend__adds_to_gradients_that_are_wanted(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 5, 2, &(struct sizes){4, 5, 3, 4, 2, {17, 4}});
    loss(&x);
    backward(&x);
    double *d_kv = packed_zeros(&x.p, x.keys), *d_sink = packed_zeros(&x.p, x.a.heads);
    memcpy(d_kv, x.d_kv, x.keys * sizeof(double));
    memcpy(d_sink, x.d_sink, x.a.heads * sizeof(double));
    attend_backward_f64(x.team, &x.a, x.q, x.kv, x.entry, x.sink, x.out, x.log_sum, x.d_out, x.delta, NULL, x.d_kv,
                        NULL, x.d_sink);
    for (size_t i = 0; i < x.keys; i++)
        assert_true(fabs(x.d_kv[i] - 2 * d_kv[i]) < 1e-12);
    for (size_t i = 0; i < x.a.heads; i++)
        assert_true(fabs(x.d_sink[i] - 2 * d_sink[i]) < 1e-12);
    example_release(&x);
}

static const struct sizes longer = {6, 19, 33, 4, 9, {130, 3, 257, 64}};

/* What a head gives is its own; gradients of keys are sums over heads. By the same seed tokens choose the same entries.
 * There are so many heads that a block is worked on in pieces. */
static void test_attend__heads_are_independent(void **state) {
    enum { HEADS = 40, DIM = 2 };
    static const struct sizes many = {HEADS, DIM, 33, 4, 9, {130, 3, 65}}, one = {1, DIM, 33, 4, 9, {130, 3, 65}};
    struct example all, x;
    (void)state;
    example_init(&all, 8, 2, &many);
    loss(&all);
    backward(&all);
    for (uint32_t h = 0; h < HEADS; h++) {
        example_init(&x, 8, 1, &one);
        memcpy(x.kv, all.kv, x.keys * sizeof(double));
        memcpy(x.entry, all.entry, x.entries * sizeof(double));
        x.sink[0] = all.sink[h];
        for (size_t t = 0; t < all.p.batch.tokens; t++) {
            memcpy(x.q + t * DIM, all.q + (t * HEADS + h) * DIM, DIM * sizeof(double));
            memcpy(x.d_out + t * DIM, all.d_out + (t * HEADS + h) * DIM, DIM * sizeof(double));
        }
        loss(&x);
        backward(&x);
        for (size_t i = 0; i < x.queries; i++) {
            size_t at = (i / DIM * HEADS + h) * DIM + i % DIM;
            assert_true(fabs(x.out[i] - all.out[at]) < 1e-12 && fabs(x.d_q[i] - all.d_q[at]) < 1e-12);
        }
        for (size_t i = 0; i < x.keys; i++)
            all.d_kv[i] -= x.d_kv[i];
        for (size_t i = 0; i < x.entries; i++)
            all.d_entry[i] -= x.d_entry[i];
        example_release(&x);
    }
    for (size_t i = 0; i < all.keys; i++)
        assert_true(fabs(all.d_kv[i]) < 1e-11);
    for (size_t i = 0; i < all.entries; i++)
        assert_true(fabs(all.d_entry[i]) < 1e-11);
    example_release(&all);
}

static void same(const double *got, const double *want, size_t count) {
    for (size_t i = 0; i < count; i++)
        assert_true(fabs(got[i] - want[i]) < 1e-11);
}

/* Though in a long batch tokens are worked on in larger spans. By the same seed they choose the same entries. */
static void test_attend__a_text_is_the_same_in_any_batch(void **state) {
    struct example alone, among;
    (void)state;
    example_init(&alone, 9, 1, &(struct sizes){2, 3, 33, 4, 9, {230}});
    example_init(&among, 9, 2, &(struct sizes){2, 3, 33, 4, 9, {230, 4000}});
    memcpy(among.q, alone.q, alone.queries * sizeof(double));
    memcpy(among.kv, alone.kv, alone.keys * sizeof(double));
    memcpy(among.entry, alone.entry, alone.entries * sizeof(double));
    memcpy(among.sink, alone.sink, alone.a.heads * sizeof(double));
    memcpy(among.d_out, alone.d_out, alone.queries * sizeof(double));
    loss(&alone);
    backward(&alone);
    loss(&among);
    backward(&among);
    same(among.out, alone.out, alone.queries);
    same(among.d_q, alone.d_q, alone.queries);
    same(among.d_kv, alone.d_kv, alone.keys);
    same(among.d_entry, alone.d_entry, alone.entries);
    example_release(&alone);
    example_release(&among);
}

/* A forward and a backward pass in float, of the same numbers. */
struct floats {
    float *out, *d_q, *d_kv, *d_entry, *d_sink, *shares;
};

static struct floats run_float(struct example *x) {
    struct packed *p = &x->p;
    struct floats f;
    const float *q = packed_floats(p, x->q, x->queries), *kv = packed_floats(p, x->kv, x->keys);
    const float *entry = packed_floats(p, x->entry, x->entries), *sink = packed_floats(p, x->sink, x->a.heads);
    const float *d_out = packed_floats(p, x->d_out, x->queries);
    float *log_sum = packed_bytes(p, x->sums * sizeof(float)), *delta = packed_bytes(p, x->sums * sizeof(float));
    f.out = packed_bytes(p, x->queries * sizeof(float));
    f.d_q = packed_bytes(p, x->queries * sizeof(float));
    f.d_kv = packed_bytes(p, x->keys * sizeof(float));
    f.d_entry = packed_bytes(p, x->entries * sizeof(float));
    f.d_sink = packed_bytes(p, x->a.heads * sizeof(float));
    f.shares = packed_bytes(p, (size_t)p->batch.tokens * entries_most(x->a.entries) * sizeof(float));
    attend_forward_f32(x->team, &x->a, q, kv, entry, sink, f.out, log_sum);
    attend_backward_f32(x->team, &x->a, q, kv, entry, sink, f.out, log_sum, d_out, delta, f.d_q, f.d_kv, f.d_entry,
                        f.d_sink);
    attend_shares_f32(x->team, &x->a, q, entry, log_sum, f.shares);
    return f;
}

/* fine: the error of what is one token's; coarse: of what is summed over tokens. */
static void check_float(enum kernel_level level, bool exact, double fine, double coarse) {
    struct example x;
    example_init(&x, 6, 2, &longer);
    team_set_level(x.team, level);
    x.a.exact = exact;
    size_t shares = (size_t)x.p.batch.tokens * entries_most(x.a.entries);
    double *wide = packed_zeros(&x.p, shares);
    loss(&x);
    backward(&x);
    attend_shares_f64(x.team, &x.a, x.q, x.entry, x.log_sum, wide);
    struct floats f = run_float(&x);
    check_close("out", f.out, x.out, x.queries, fine);
    check_close("d_q", f.d_q, x.d_q, x.queries, fine);
    check_close("shares", f.shares, wide, shares, fine);
    check_close("d_kv", f.d_kv, x.d_kv, x.keys, coarse);
    check_close("d_entry", f.d_entry, x.d_entry, x.entries, coarse);
    check_close("d_sink", f.d_sink, x.d_sink, x.a.heads, coarse);
    example_release(&x);
}

static void test_attend__float_is_double(void **state) {
    (void)state;
    for (enum kernel_level level = 0; level < KERNEL_LEVEL_COUNT; level++)
        if (kernel_level_runs(level)) {
            check_float(level, true, 1e-5, 1e-4);
            check_float(level, false, 0.02, 0.05);
        }
}

static void test_attend__same_bits_with_any_workers(void **state) {
    struct example x[3];
    struct floats f[3];
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        example_init(&x[i], 7, i + 1, &longer);
        loss(&x[i]);
        backward(&x[i]);
        assert_memory_equal(x[i].out, x[0].out, x[0].queries * sizeof(double));
        assert_memory_equal(x[i].d_q, x[0].d_q, x[0].queries * sizeof(double));
        assert_memory_equal(x[i].d_kv, x[0].d_kv, x[0].keys * sizeof(double));
        assert_memory_equal(x[i].d_entry, x[0].d_entry, x[0].entries * sizeof(double));
        assert_memory_equal(x[i].d_sink, x[0].d_sink, x[0].a.heads * sizeof(double));
        x[i].a.exact = false;
        f[i] = run_float(&x[i]);
        assert_memory_equal(f[i].out, f[0].out, x[0].queries * sizeof(float));
        assert_memory_equal(f[i].d_q, f[0].d_q, x[0].queries * sizeof(float));
        assert_memory_equal(f[i].d_kv, f[0].d_kv, x[0].keys * sizeof(float));
        assert_memory_equal(f[i].d_entry, f[0].d_entry, x[0].entries * sizeof(float));
        assert_memory_equal(f[i].d_sink, f[0].d_sink, x[0].a.heads * sizeof(float));
    }
    for (uint32_t i = 0; i < 3; i++)
        example_release(&x[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attend__gradients),
        cmocka_unit_test(test_attend__is_its_definition),
        cmocka_unit_test(test_attend__shares_are_summed_over_heads),
        cmocka_unit_test(test_attend__adds_to_gradients_that_are_wanted),
        cmocka_unit_test(test_attend__heads_are_independent),
        cmocka_unit_test(test_attend__a_text_is_the_same_in_any_batch),
        cmocka_unit_test(test_attend__float_is_double),
        cmocka_unit_test(test_attend__same_bits_with_any_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
