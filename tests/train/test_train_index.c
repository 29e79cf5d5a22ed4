/* test_train_index.c - the indexer: the best are chosen, its loss and gradients, the same bits with any workers. */
#define TRAIN_DOUBLE
#include "packed.h"

double index_loss_f32(struct team *team, const struct indexer *ix, const float *q, const float *w, const float *k,
                      float *shares, float *losses, uint32_t *tokens);
void index_backward_f32(struct team *team, const struct indexer *ix, const float *q, const float *w, const float *k,
                        const float *slopes, float factor, float *d_q, float *d_w, float *d_k);

struct sizes {
    uint32_t heads, dim, ratio, top;
    uint32_t lengths[SEGMENTS + 1];
};

struct example {
    struct packed p;
    struct team *team;
    struct indexer ix;
    uint32_t tokens;
    size_t queries, weights, keys, kept; /* numbers of q, of w, of k, of shares */
    double *q, *w, *k, *shares, *slopes, *losses, *d_q, *d_w, *d_k;
};

static const double factor = 0.7;

static void example_init(struct example *x, uint64_t seed, uint32_t workers, const struct sizes *s) {
    struct rng r;
    rng_init(&r, seed);
    packed_init(&x->p, &r, s->lengths, s->ratio, s->top);
    CHECKED(team_open(workers, &x->team, &error));
    x->ix = (struct indexer){&x->p.entries, s->heads, s->dim};
    x->weights = (size_t)x->p.batch.tokens * s->heads;
    x->queries = x->weights * s->dim;
    x->keys = (size_t)entries_total(&x->p.entries) * s->dim;
    x->kept = (size_t)x->p.batch.tokens * entries_most(&x->p.entries);
    x->q = packed_numbers(&x->p, &r, x->queries, 1);
    x->w = packed_numbers(&x->p, &r, x->weights, 1);
    x->k = packed_numbers(&x->p, &r, x->keys, 1);
    x->shares = packed_numbers(&x->p, &r, x->kept, 1);
    for (size_t i = 0; i < x->kept; i++)
        x->shares[i] = fabs(x->shares[i]);
    x->slopes = packed_zeros(&x->p, x->kept);
    x->losses = packed_zeros(&x->p, x->p.batch.tokens);
    x->d_q = packed_zeros(&x->p, x->queries);
    x->d_w = packed_zeros(&x->p, x->weights);
    x->d_k = packed_zeros(&x->p, x->keys);
}

static void example_release(struct example *x) {
    team_close(x->team);
    packed_release(&x->p);
}

static double loss(void *context) {
    struct example *x = context;
    memcpy(x->slopes, x->shares, x->kept * sizeof(double));
    return factor * index_loss_f64(x->team, &x->ix, x->q, x->w, x->k, x->slopes, x->losses, &x->tokens);
}

static void backward(struct example *x) {
    index_backward_f64(x->team, &x->ix, x->q, x->w, x->k, x->slopes, factor, x->d_q, x->d_w, x->d_k);
}

static const struct sizes shapes[] = {
    {1, 1, 4, 0, {1}},     {2, 3, 4, 0, {3, 8, 1}}, {4, 2, 4, 0, {13, 4}},    {1, 4, 4, 2, {25}},
    {3, 5, 4, 3, {17, 9}}, {2, 2, 1, 0, {80}},      {2, 2, 128, 0, {257, 3}}, {2, 3, 2, 5, {2, 31, 5}},
};

static void test_index__gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            struct example x;
            example_init(&x, seed, 1, &shapes[i]);
            loss(&x);
            backward(&x);
            const struct checked list[] = {
                {"q", x.q, x.d_q, x.queries}, {"w", x.w, x.d_w, x.weights}, {"k", x.k, x.d_k, x.keys}};
            check_gradients(list, 3, loss, &x);
            example_release(&x);
        }
}

static double score(const struct example *x, uint32_t t, uint32_t entry) {
    const struct segment *g = segment_of(&x->p.batch, t);
    uint32_t dim = x->ix.dim;
    double sum = 0;
    for (uint32_t h = 0; h < x->ix.heads; h++) {
        size_t row = (size_t)t * x->ix.heads + h;
        sum += x->w[row] *
               fmax(0, dot(x->q + row * dim, x->k + (size_t)(x->p.begin[g - x->p.segments] + entry) * dim, dim));
    }
    return sum;
}

static void test_index__loss_is_its_definition(void **state) {
    struct example x;
    double sum = 0;
    uint32_t tokens = 0;
    (void)state;
    example_init(&x, 3, 1, &(struct sizes){3, 5, 4, 3, {41, 9}});
    double got = loss(&x);
    for (uint32_t t = 0; t < x.p.batch.tokens; t++) {
        uint32_t n = x.p.entries.counts[t];
        const double *share = x.shares + (size_t)t * x.p.entries.top;
        double given = 0, total = 0;
        if (n < 2)
            continue;
        tokens++;
        for (uint32_t i = 0; i < n; i++) {
            given += share[i];
            total += exp(score(&x, t, entries_at(&x.p.entries, t, i)));
        }
        for (uint32_t i = 0; i < n; i++) {
            double target = share[i] / given;
            sum += target * log(target * total / exp(score(&x, t, entries_at(&x.p.entries, t, i))));
        }
    }
    assert_int_equal(x.tokens, tokens);
    assert_true(tokens > 5);
    assert_true(fabs(got - factor * sum / tokens) < 1e-12);
    example_release(&x);
}

static void test_index__nothing_to_learn(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 4, 1, &shapes[2]);
    memset(x.shares, 0, x.kept * sizeof(double));
    assert_true(loss(&x) == 0);
    assert_true(x.tokens > 0);
    backward(&x);
    for (size_t i = 0; i < x.keys; i++)
        assert_true(x.d_k[i] == 0);
    example_release(&x);
    example_init(&x, 4, 1, &shapes[0]);
    assert_true(loss(&x) == 0);
    assert_int_equal(x.tokens, 0);
    example_release(&x);
}

/* How many entries are chosen before this one: greater scores, or equal ones with lower numbers. */
static uint32_t rank(const struct example *x, uint32_t t, uint32_t entry, uint32_t visible) {
    uint32_t before = 0;
    double own = score(x, t, entry);
    for (uint32_t i = 0; i < visible; i++) {
        double other = score(x, t, i);
        before += other > own || (other == own && i < entry);
    }
    return before;
}

/* Small integers, so that many scores are equal, and exactly. */
static void make_ties(struct example *x) {
    for (size_t i = 0; i < x->queries; i++)
        x->q[i] = round(x->q[i] * 2);
    for (size_t i = 0; i < x->keys; i++)
        x->k[i] = round(x->k[i]);
    for (size_t i = 0; i < x->weights; i++)
        x->w[i] = round(x->w[i] * 2);
}

static void check_choice(const struct example *x) {
    const struct entries *e = &x->p.entries;
    for (uint32_t t = 0; t < x->p.batch.tokens; t++) {
        uint32_t visible = entries_visible(e, segment_of(&x->p.batch, t), t), count = 0;
        for (uint32_t i = 0; i < visible; i++)
            if (rank(x, t, i, visible) < e->top) {
                assert_true(count < e->counts[t]);
                assert_int_equal(e->chosen[(size_t)t * e->top + count], i);
                count++;
            }
        assert_int_equal(e->counts[t], count);
    }
}

static void test_index__chooses_the_best_and_of_equals_the_first(void **state) {
    const struct sizes s[] = {
        {2, 3, 4, 3, {61, 5, 140}}, {4, 5, 4, 1, {33}}, {1, 1, 1, 7, {150}}, {2, 2, 128, 2, {600}}};
    (void)state;
    for (size_t i = 0; i < sizeof(s) / sizeof(*s); i++)
        for (int ties = 0; ties < 2; ties++) {
            struct example x;
            example_init(&x, 5, 2, &s[i]);
            if (ties)
                make_ties(&x);
            index_choose_f64(x.team, &x.ix, x.q, x.w, x.k);
            check_choice(&x);
            example_release(&x);
        }
}

/* A run that has diverged still ends. */
static void test_index__survives_what_is_not_a_number(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 6, 1, &(struct sizes){2, 3, 1, 3, {40}});
    for (size_t i = 0; i < x.keys; i += 7)
        x.k[i] = NAN;
    index_choose_f64(x.team, &x.ix, x.q, x.w, x.k);
    for (uint32_t t = 0; t < x.p.batch.tokens; t++)
        assert_in_range(x.p.entries.counts[t], 0, 3);
    example_release(&x);
}

static const struct sizes longer = {5, 19, 4, 9, {130, 3, 257, 64}};

static void test_index__float_is_double(void **state) {
    struct example x;
    uint32_t tokens;
    (void)state;
    example_init(&x, 7, 2, &longer);
    double want = loss(&x) / factor;
    backward(&x);
    float *q = packed_floats(&x.p, x.q, x.queries), *w = packed_floats(&x.p, x.w, x.weights);
    float *k = packed_floats(&x.p, x.k, x.keys), *shares = packed_floats(&x.p, x.shares, x.kept);
    float *losses = packed_bytes(&x.p, x.p.batch.tokens * sizeof(float));
    float *d_q = packed_bytes(&x.p, x.queries * sizeof(float)), *d_w = packed_bytes(&x.p, x.weights * sizeof(float));
    float *d_k = packed_bytes(&x.p, x.keys * sizeof(float));
    double got = index_loss_f32(x.team, &x.ix, q, w, k, shares, losses, &tokens);
    index_backward_f32(x.team, &x.ix, q, w, k, shares, (float)factor, d_q, d_w, d_k);
    assert_int_equal(tokens, x.tokens);
    assert_true(fabs(got - want) < 1e-5);
    check_close("d_q", d_q, x.d_q, x.queries, 1e-6);
    check_close("d_w", d_w, x.d_w, x.weights, 1e-6);
    check_close("d_k", d_k, x.d_k, x.keys, 1e-6);
    example_release(&x);
}

static void test_index__same_bits_with_any_workers(void **state) {
    struct example x[3];
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        example_init(&x[i], 8, i + 1, &longer);
        index_choose_f64(x[i].team, &x[i].ix, x[i].q, x[i].w, x[i].k);
        assert_true(loss(&x[i]) == loss(&x[0]));
        backward(&x[i]);
        assert_memory_equal(x[i].p.entries.chosen, x[0].p.entries.chosen, x[0].kept * sizeof(uint32_t));
        assert_memory_equal(x[i].d_q, x[0].d_q, x[0].queries * sizeof(double));
        assert_memory_equal(x[i].d_w, x[0].d_w, x[0].weights * sizeof(double));
        assert_memory_equal(x[i].d_k, x[0].d_k, x[0].keys * sizeof(double));
    }
    for (uint32_t i = 0; i < 3; i++)
        example_release(&x[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index__gradients),
        cmocka_unit_test(test_index__loss_is_its_definition),
        cmocka_unit_test(test_index__nothing_to_learn),
        cmocka_unit_test(test_index__chooses_the_best_and_of_equals_the_first),
        cmocka_unit_test(test_index__survives_what_is_not_a_number),
        cmocka_unit_test(test_index__float_is_double),
        cmocka_unit_test(test_index__same_bits_with_any_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
