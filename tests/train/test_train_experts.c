/*
 * test_train_experts.c - the mixture of experts: the oracle's, gradients, the kernels' C level, experts without tokens,
 * float against double, numbers of workers.
 */
#define TRAIN_DOUBLE
#include "numbers.h"

#include "kernel/kernel.h"
#include "token_table.h"

#include "train/experts_internal.h"

#include "float_side.h"

#include "train/experts_internal.h"

/* In float, products round their inputs to bf16 where that is faster. */
static const double PRODUCTS = 2e-2;

/* Numbers of each matrix, in the order of struct experts_weights. */
enum { MATRICES = 6 };

struct sizes {
    size_t of[MATRICES];
};

static struct sizes sizes_of(const struct experts_shape *s) {
    size_t routed = (size_t)s->experts * s->inter * s->dim, shared = (size_t)s->shared_inter * s->dim;
    return (struct sizes){{routed, routed, routed, shared, shared, shared}};
}

static struct experts_weights_f64 weights_of(double *const m[MATRICES]) {
    return (struct experts_weights_f64){m[0], m[1], m[2], m[3], m[4], m[5]};
}

static struct experts_saved_f64 take_saved(struct bag *bag, const struct experts_shape *s) {
    size_t routed = (size_t)s->tokens * s->active * s->inter, shared = (size_t)s->tokens * s->shared_inter;
    return (struct experts_saved_f64){bag_take(bag, (size_t)s->tokens * s->active, sizeof(uint32_t)),
                                      bag_take(bag, s->experts + 1, sizeof(uint32_t)),
                                      doubles(bag, routed),
                                      doubles(bag, routed),
                                      doubles(bag, shared),
                                      doubles(bag, shared)};
}

/* k different experts for each token; expert 1, where there are more, gets none. */
static int32_t *random_experts(struct bag *bag, struct rng *r, const struct experts_shape *s) {
    int32_t *experts = bag_take(bag, (size_t)s->tokens * s->active, sizeof(*experts));
    uint32_t spare = s->experts > s->active;
    for (uint32_t t = 0; t < s->tokens; t++) {
        uint64_t first = rng_u64(r);
        for (uint32_t j = 0; j < s->active; j++) {
            uint32_t e = (uint32_t)((first + j) % (s->experts - spare));
            experts[t * s->active + j] = (int32_t)(spare && e > 0 ? e + 1 : e);
        }
    }
    return experts;
}

struct experts_case {
    struct team *team;
    struct experts_shape s;
    double *x, *weights, *matrix[MATRICES], *work, *y, *wanted;
    int32_t *experts;
    struct experts_saved_f64 saved;
};

static void fill_case(struct bag *bag, struct rng *r, struct experts_case *c) {
    size_t rows = (size_t)c->s.tokens * c->s.dim;
    struct sizes sizes = sizes_of(&c->s);
    c->x = random_doubles(bag, r, rows, 1);
    c->weights = random_doubles(bag, r, (size_t)c->s.tokens * c->s.active, 1);
    c->wanted = random_doubles(bag, r, rows, 1);
    c->y = doubles(bag, rows);
    c->work = doubles(bag, experts_work(&c->s));
    c->experts = random_experts(bag, r, &c->s);
    c->saved = take_saved(bag, &c->s);
    for (size_t i = 0; i < MATRICES; i++)
        c->matrix[i] = random_doubles(bag, r, sizes.of[i], 1);
}

static void forward(struct experts_case *c) {
    struct experts_weights_f64 w = weights_of(c->matrix);
    experts_forward_f64(c->team, &c->s, c->x, c->experts, c->weights, &w, &c->saved, c->work, c->y);
}

static double experts_loss(void *context) {
    struct experts_case *c = context;
    forward(c);
    return dot(c->y, c->wanted, (size_t)c->s.tokens * c->s.dim);
}

/* ------------------------------------------------------------------------------------- gradients */

static void check_case(struct experts_shape s, uint64_t seed) {
    static const char *const names[MATRICES] = {"w1", "w3", "w2", "shared w1", "shared w3", "shared w2"};
    struct bag bag = {0};
    struct rng r;
    struct experts_case c = {.s = s};
    size_t rows = (size_t)s.tokens * s.dim, choices = (size_t)s.tokens * s.active;
    struct sizes sizes = sizes_of(&s);
    double *d[MATRICES];
    struct checked list[MATRICES + 2];
    rng_init(&r, seed);
    CHECKED(team_open(2, &c.team, &error));
    fill_case(&bag, &r, &c);
    double *dx = ones(&bag, rows), *dweights = ones(&bag, choices);
    for (size_t i = 0; i < MATRICES; i++)
        d[i] = ones(&bag, sizes.of[i]);
    forward(&c);
    struct experts_weights_f64 w = weights_of(c.matrix), dw = weights_of(d);
    experts_backward_f64(c.team, &s, c.x, c.weights, &w, &c.saved, c.work, c.wanted, dx, dweights, &dw);
    for (size_t i = 0; i < MATRICES; i++) {
        take_ones(d[i], sizes.of[i]);
        list[i] = (struct checked){names[i], c.matrix[i], d[i], sizes.of[i]};
    }
    take_ones(dx, rows);
    take_ones(dweights, choices);
    list[MATRICES] = (struct checked){"x", c.x, dx, rows};
    list[MATRICES + 1] = (struct checked){"weights", c.weights, dweights, choices};
    check_gradients(list, COUNT_OF(list), experts_loss, &c);
    team_close(c.team);
    bag_release(&bag);
}

static void test_experts__gradients(void **state) {
    static const struct experts_shape shapes[] = {
        {1, 3, 2, 1, 4, 5, 0},     {9, 4, 5, 2, 3, 6, 0.3f}, {70, 2, 3, 1, 2, 1, 0.5f},
        {6, 5, 3, 3, 17, 0, 0.2f}, {5, 3, 1, 1, 2, 19, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        check_case(shapes[i], 1 + i);
        check_case(shapes[i], 21 + i);
    }
}

/* ----------------------------------------------------------------------------------- the forward */

static void test_experts__are_those_of_the_oracle(void **state) {
    struct bag bag = {0};
    struct experts_case c = {.s = {TABLE_T, TABLE_D, TABLE_E, TABLE_K, TABLE_INTER, TABLE_SHARED, (float)TABLE_LIMIT}};
    struct sizes sizes = sizes_of(&c.s);
    (void)state;
    CHECKED(team_open(2, &c.team, &error));
    c.x = wave(&bag, TABLE_T * TABLE_D, 1, 1);
    for (size_t i = 0; i < MATRICES; i++) /* w1, w3, w2, then the shared ones */
        c.matrix[i] = wave(&bag, sizes.of[i], (double)(4 + i), 0.5);
    c.weights = doubles(&bag, TABLE_T * TABLE_K);
    memcpy(c.weights, table_weights_sqrtsoftplus, sizeof(table_weights_sqrtsoftplus));
    c.experts = bag_take(&bag, TABLE_T * TABLE_K, sizeof(int32_t));
    memcpy(c.experts, table_experts_sqrtsoftplus, sizeof(table_experts_sqrtsoftplus));
    c.saved = take_saved(&bag, &c.s);
    c.work = doubles(&bag, experts_work(&c.s));
    c.y = doubles(&bag, TABLE_T * TABLE_D);
    forward(&c);
    check_near("mixture", c.y, table_mixture, TABLE_T * TABLE_D, 1e-6);
    team_close(c.team);
    bag_release(&bag);
}

/* A unit whose w1, w3 and w2 are the identity shows the activation itself. */
static void test_experts__unit_is_that_of_the_kernels(void **state) {
    enum { N = 50 };
    struct bag bag = {0};
    struct rng r;
    struct kernel_table kernels;
    struct team *team;
    struct experts_shape s = {1, N, 1, 1, N, 0, 1.5f};
    float *identity = floats(&bag, N * N), *y = floats(&bag, N), *work = floats(&bag, experts_work(&s)), weight = 0.75f;
    int32_t expert = 0;
    uint32_t order, begin[2];
    (void)state;
    rng_init(&r, 1);
    kernel_table_init(&kernels, KERNEL_LEVEL_c, false);
    CHECKED(team_open(1, &team, &error));
    float *x = floats(&bag, N), *expected = floats(&bag, N);
    for (size_t i = 0; i < N; i++) {
        identity[i * N + i] = 1;
        x[i] = expected[i] = (float)((double)i - 25) / 8; /* bf16 numbers */
    }
    struct experts_weights_f32 w = {.w1 = identity, .w3 = identity, .w2 = identity};
    struct experts_saved_f32 saved = {.order = &order, .begin = begin, .gate = floats(&bag, N), .up = floats(&bag, N)};
    experts_forward_f32(team, &s, x, &expert, &weight, &w, &saved, work, y);
    kernels.swiglu(expected, x, N, s.limit, weight);
    for (size_t i = 0; i < N; i++)
        if (fabsf(y[i] - expected[i]) > 1e-2f * fabsf(expected[i]))
            fail_msg("channel %zu: %.9g, expected %.9g", i, (double)y[i], (double)expected[i]);
    team_close(team);
    bag_release(&bag);
}

/* --------------------------------------------------------------------------- types and workers */

/* Without a clamp, whose gradient jumps where rounding takes a number across it. */
static const struct experts_shape shape = {300, 40, 7, 3, 24, 20, 0};

struct result {
    float *y, *dx, *dweights, *d[MATRICES];
};

static struct result run_float(struct bag *bag, uint32_t workers, const struct experts_case *c) {
    size_t rows = (size_t)shape.tokens * shape.dim, choices = (size_t)shape.tokens * shape.active;
    struct sizes sizes = sizes_of(&shape);
    struct result o = {.y = floats(bag, rows), .dx = floats(bag, rows), .dweights = floats(bag, choices)};
    float *m[MATRICES], *x = float_copy(bag, c->x, rows), *weights = float_copy(bag, c->weights, choices);
    float *work = floats(bag, experts_work(&shape));
    struct team *team;
    struct experts_saved_f32 saved = {.order = c->saved.order,
                                      .begin = c->saved.begin,
                                      .gate = floats(bag, choices * shape.inter),
                                      .up = floats(bag, choices * shape.inter),
                                      .shared_gate = floats(bag, (size_t)shape.tokens * shape.shared_inter),
                                      .shared_up = floats(bag, (size_t)shape.tokens * shape.shared_inter)};
    for (size_t i = 0; i < MATRICES; i++) {
        m[i] = float_copy(bag, c->matrix[i], sizes.of[i]);
        o.d[i] = floats(bag, sizes.of[i]);
    }
    struct experts_weights_f32 w = {m[0], m[1], m[2], m[3], m[4], m[5]};
    struct experts_weights_f32 dw = {o.d[0], o.d[1], o.d[2], o.d[3], o.d[4], o.d[5]};
    CHECKED(team_open(workers, &team, &error));
    experts_forward_f32(team, &shape, x, c->experts, weights, &w, &saved, work, o.y);
    experts_backward_f32(team, &shape, x, weights, &w, &saved, work, float_copy(bag, c->wanted, rows), o.dx, o.dweights,
                         &dw);
    team_close(team);
    return o;
}

static void check_workers(const struct experts_case *c, const struct result *one) {
    size_t rows = (size_t)shape.tokens * shape.dim, choices = (size_t)shape.tokens * shape.active;
    struct sizes sizes = sizes_of(&shape);
    for (uint32_t workers = 2; workers <= 3; workers++) {
        struct bag bag = {0};
        struct result other = run_float(&bag, workers, c);
        check_same("y", other.y, one->y, rows);
        check_same("dx", other.dx, one->dx, rows);
        check_same("dweights", other.dweights, one->dweights, choices);
        for (size_t i = 0; i < MATRICES; i++)
            check_same("a matrix", other.d[i], one->d[i], sizes.of[i]);
        bag_release(&bag);
    }
}

static void test_experts__same_in_both_types_and_with_any_workers(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct experts_case c = {.s = shape};
    struct sizes sizes = sizes_of(&shape);
    size_t rows = (size_t)shape.tokens * shape.dim, choices = (size_t)shape.tokens * shape.active;
    double *d[MATRICES], *dx = doubles(&bag, rows), *dweights = doubles(&bag, choices);
    (void)state;
    rng_init(&r, 6);
    CHECKED(team_open(1, &c.team, &error));
    fill_case(&bag, &r, &c);
    for (size_t i = 0; i < MATRICES; i++)
        d[i] = doubles(&bag, sizes.of[i]);
    forward(&c);
    struct experts_weights_f64 w = weights_of(c.matrix), dw = weights_of(d);
    experts_backward_f64(c.team, &shape, c.x, c.weights, &w, &c.saved, c.work, c.wanted, dx, dweights, &dw);
    struct result one = run_float(&bag, 1, &c);
    check_near_float("y", one.y, c.y, rows, PRODUCTS);
    check_near_float("dx", one.dx, dx, rows, PRODUCTS);
    check_near_float("dweights", one.dweights, dweights, choices, PRODUCTS);
    for (size_t i = 0; i < MATRICES; i++)
        check_near_float("a matrix", one.d[i], d[i], sizes.of[i], PRODUCTS);
    check_workers(&c, &one);
    team_close(c.team);
    bag_release(&bag);
}

/* What is not wanted is not touched, and changes nothing else. */
static void test_experts__wanted_gradients_only(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct experts_case c = {.s = {9, 4, 5, 2, 3, 6, 0.3f}};
    size_t rows = (size_t)c.s.tokens * c.s.dim;
    struct sizes sizes = sizes_of(&c.s);
    double *d[MATRICES], *dx = doubles(&bag, rows), *again = doubles(&bag, rows);
    (void)state;
    rng_init(&r, 7);
    CHECKED(team_open(1, &c.team, &error));
    fill_case(&bag, &r, &c);
    for (size_t i = 0; i < MATRICES; i++)
        d[i] = doubles(&bag, sizes.of[i]);
    forward(&c);
    struct experts_weights_f64 w = weights_of(c.matrix), all = weights_of(d), none = {0};
    experts_backward_f64(c.team, &c.s, c.x, c.weights, &w, &c.saved, c.work, c.wanted, dx, NULL, &all);
    experts_backward_f64(c.team, &c.s, c.x, c.weights, &w, &c.saved, c.work, c.wanted, again, NULL, &none);
    assert_memory_equal(again, dx, rows * sizeof(*dx));
    struct experts_weights_f64 only = {.w2 = doubles(&bag, sizes.of[2])};
    experts_backward_f64(c.team, &c.s, c.x, c.weights, &w, &c.saved, c.work, c.wanted, NULL, NULL, &only);
    assert_memory_equal(only.w2, d[2], sizes.of[2] * sizeof(double));
    team_close(c.team);
    bag_release(&bag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts__gradients),
        cmocka_unit_test(test_experts__are_those_of_the_oracle),
        cmocka_unit_test(test_experts__unit_is_that_of_the_kernels),
        cmocka_unit_test(test_experts__same_in_both_types_and_with_any_workers),
        cmocka_unit_test(test_experts__wanted_gradients_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
