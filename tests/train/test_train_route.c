/*
 * test_train_route.c - the router: the oracle's choices, gradients, ties, tables by token id, the balance loss and the
 * bias, float against double, numbers of workers.
 */
#define TRAIN_DOUBLE
#include "numbers.h"

#include "token_table.h"
#include "train/route_internal.h"

#include "float_side.h"

#include "train/route_internal.h"

static const enum scoring scorings[] = {SCORING_SQRTSOFTPLUS, SCORING_SIGMOID, SCORING_SOFTMAX};

/* ------------------------------------------------------------------------------------ the oracle */

static void check_table(struct team *team, enum scoring scoring, const int32_t *table, const int32_t *experts,
                        const double *weights, const double *balance) {
    static const int32_t ids[TABLE_T] = {3, 1, 4, 1, 5, 9, 2};
    static const struct segment segments[] = {{0, 3}, {3, 4}};
    struct route_shape s = {TABLE_T, TABLE_D, TABLE_E, TABLE_K, scoring, (float)TABLE_SCALE};
    struct bag bag = {0};
    double *logits = doubles(&bag, TABLE_T * TABLE_E), *w = doubles(&bag, TABLE_T * TABLE_K);
    int32_t *chosen = bag_take(&bag, TABLE_T * TABLE_K, sizeof(*chosen));
    route_forward_f64(team, &s, wave(&bag, TABLE_T * TABLE_D, 1, 1), wave(&bag, TABLE_E * TABLE_D, 2, 1),
                      wave(&bag, TABLE_E, 3, 0.3), table, ids, logits, chosen, w);
    assert_memory_equal(chosen, experts, TABLE_T * TABLE_K * sizeof(*chosen));
    check_near("weights", w, weights, TABLE_T * TABLE_K, 1e-6);
    if (balance) {
        double *work = doubles(&bag, route_balance_work(&s, 2));
        double loss = route_balance_f64(team, &s, segments, 2, logits, chosen, TABLE_ALPHA, work, NULL);
        check_near("balance loss", &loss, balance, 1, 1e-6);
    }
    bag_release(&bag);
}

static void test_route__is_that_of_the_oracle(void **state) {
    enum { VOCAB = 11 };
    int32_t table[VOCAB * TABLE_K];
    struct team *team;
    (void)state;
    for (int32_t v = 0; v < VOCAB; v++) {
        table[v * TABLE_K] = v % TABLE_E;
        table[v * TABLE_K + 1] = (v + 2) % TABLE_E;
        table[v * TABLE_K + 2] = (v + 3) % TABLE_E;
    }
    CHECKED(team_open(2, &team, &error));
    check_table(team, SCORING_SQRTSOFTPLUS, NULL, table_experts_sqrtsoftplus, table_weights_sqrtsoftplus,
                table_balance_sqrtsoftplus);
    check_table(team, SCORING_SIGMOID, NULL, table_experts_sigmoid, table_weights_sigmoid, table_balance_sigmoid);
    check_table(team, SCORING_SOFTMAX, NULL, table_experts_softmax, table_weights_softmax, table_balance_softmax);
    check_table(team, SCORING_SQRTSOFTPLUS, table, table_experts_by_token, table_weights_by_token, NULL);
    team_close(team);
}

/* ------------------------------------------------------------------------------------- gradients */

/* Loss: a combination of the weights, and the balance loss. While numbers move by 1e-5 no choice may change, so choices
 * are made once and then come by token id, each token having an id of its own. */
struct route_case {
    struct team *team;
    struct route_shape s;
    double *x, *gate, *logits, *weights, *wanted, *work, alpha;
    int32_t *experts, *again, *ids;
    struct segment segments[3];
};

static double balance(struct route_case *c, double *dlogits) {
    return route_balance_f64(c->team, &c->s, c->segments, COUNT_OF(c->segments), c->logits, c->experts, c->alpha,
                             c->work, dlogits);
}

static double route_loss(void *context) {
    struct route_case *c = context;
    route_forward_f64(c->team, &c->s, c->x, c->gate, NULL, c->experts, c->ids, c->logits, c->again, c->weights);
    return dot(c->weights, c->wanted, (size_t)c->s.tokens * c->s.active) + balance(c, NULL);
}

static void fill_case(struct bag *bag, struct rng *r, struct route_case *c) {
    size_t tokens = c->s.tokens, experts = c->s.experts, choices = tokens * c->s.active;
    uint32_t first = c->s.tokens / 3, second = c->s.tokens > 1 ? 1 : 0;
    c->x = random_doubles(bag, r, tokens * c->s.dim, 2);
    c->gate = random_doubles(bag, r, experts * c->s.dim, 1);
    c->logits = doubles(bag, tokens * experts);
    c->weights = doubles(bag, choices);
    c->wanted = random_doubles(bag, r, choices, 1);
    c->experts = bag_take(bag, choices, sizeof(int32_t));
    c->again = bag_take(bag, choices, sizeof(int32_t));
    c->ids = bag_take(bag, tokens, sizeof(int32_t));
    c->segments[0] = (struct segment){0, first};
    c->segments[1] = (struct segment){first, second};
    c->segments[2] = (struct segment){first + second, c->s.tokens - first - second};
    c->work = doubles(bag, route_balance_work(&c->s, COUNT_OF(c->segments)));
    for (uint32_t t = 0; t < tokens; t++)
        c->ids[t] = (int32_t)t;
}

static void check_case(struct route_shape s, uint64_t seed) {
    struct bag bag = {0};
    struct rng r;
    struct route_case c = {.s = s, .alpha = 0.7};
    size_t xs = (size_t)s.tokens * s.dim, gates = (size_t)s.experts * s.dim;
    rng_init(&r, seed);
    CHECKED(team_open(2, &c.team, &error));
    fill_case(&bag, &r, &c);
    double *bias = random_doubles(&bag, &r, s.experts, 0.2), *dx = ones(&bag, xs), *dgate = ones(&bag, gates);
    double *dlogits = doubles(&bag, (size_t)s.tokens * s.experts);
    route_forward_f64(c.team, &s, c.x, c.gate, bias, NULL, NULL, c.logits, c.experts, c.weights);
    balance(&c, dlogits);
    route_backward_f64(c.team, &s, c.x, c.gate, c.logits, c.experts, c.weights, c.wanted, dlogits, dx, dgate);
    take_ones(dx, xs);
    take_ones(dgate, gates);
    struct checked list[] = {{"x", c.x, dx, xs}, {"gate", c.gate, dgate, gates}};
    check_gradients(list, 2, route_loss, &c);
    assert_memory_equal(c.again, c.experts, (size_t)s.tokens * s.active * sizeof(int32_t));
    team_close(c.team);
    bag_release(&bag);
}

static void test_route__gradients(void **state) {
    static const uint32_t shapes[][4] = {{1, 3, 2, 1}, {5, 4, 6, 3}, {67, 3, 5, 5}, {20, 8, 9, 2}, {3, 1, 1, 1}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (size_t j = 0; j < COUNT_OF(scorings); j++) {
            struct route_shape s = {shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], scorings[j], 1.5f};
            check_case(s, 1 + i);
            check_case(s, 11 + i);
        }
}

/* ------------------------------------------------------------------------------ choice and loads */

static void test_route__lowest_expert_among_equals(void **state) {
    struct route_shape s = {1, 1, 5, 3, SCORING_SIGMOID, 1};
    double x = 1, gate[5] = {0, 0.5, 0.5, 0, 0}, bias[5] = {0}, logits[5], weights[3];
    int32_t experts[3];
    struct team *team;
    (void)state;
    CHECKED(team_open(1, &team, &error));
    route_forward_f64(team, &s, &x, gate, bias, NULL, NULL, logits, experts, weights);
    assert_true(experts[0] == 1 && experts[1] == 2 && experts[2] == 0);
    bias[4] = 5; /* moves the choice, not the weight */
    route_forward_f64(team, &s, &x, gate, bias, NULL, NULL, logits, experts, weights);
    assert_true(experts[0] == 4 && experts[1] == 1 && experts[2] == 2);
    assert_true(weights[0] < weights[1] && fabs(weights[0] + weights[1] + weights[2] - 1) < 1e-12);
    team_close(team);
}

/* Logits far below and above: scores underflow or grow, gradients stay finite. */
static void test_route__extreme_logits(void **state) {
    struct bag bag = {0};
    struct route_shape s = {1, 1, 3, 2, SCORING_SQRTSOFTPLUS, 1};
    float x = 1, gate[3] = {-400, 90, 1000}, logits[3], weights[2], dweights[2] = {1, -1}, dlogits[3] = {0}, dx = 0;
    int32_t experts[2];
    struct team *team;
    (void)state;
    CHECKED(team_open(1, &team, &error));
    route_forward_f32(team, &s, &x, gate, NULL, NULL, NULL, logits, experts, weights);
    assert_true(experts[0] == 2 && experts[1] == 1);
    float *work = floats(&bag, route_balance_work(&s, 1));
    struct segment all = {0, 1};
    double loss = route_balance_f32(team, &s, &all, 1, logits, experts, 1, work, dlogits);
    route_backward_f32(team, &s, &x, gate, logits, experts, weights, dweights, dlogits, &dx, NULL);
    assert_true(isfinite(loss) && isfinite(dx) && isfinite(weights[0]) && isfinite(weights[1]));
    team_close(team);
    bag_release(&bag);
}

static void test_loads__move_the_bias(void **state) {
    struct route_shape s = {4, 1, 4, 2, SCORING_SQRTSOFTPLUS, 1};
    int32_t experts[8] = {0, 1, 0, 2, 0, 1, 0, 2};
    uint64_t loads[4] = {0};
    double bias[4] = {0, 0.5, 0, 0};
    (void)state;
    route_loads_f64(&s, experts, loads);
    assert_true(loads[0] == 4 && loads[1] == 2 && loads[2] == 2 && loads[3] == 0);
    route_adjust_bias_f64(4, loads, 0.001, bias);
    assert_true(bias[0] == -0.001 && bias[1] == 0.5 && bias[2] == 0 && bias[3] == 0.001);
}

/* Even loads give the least balance loss there is: alpha. */
static void test_balance__of_even_loads_is_alpha(void **state) {
    struct bag bag = {0};
    struct route_shape s = {4, 1, 4, 1, SCORING_SIGMOID, 1};
    struct segment all = {0, 4};
    double logits[16] = {0}, dlogits[16] = {0};
    int32_t experts[4] = {0, 1, 2, 3};
    struct team *team;
    (void)state;
    CHECKED(team_open(1, &team, &error));
    double *work = doubles(&bag, route_balance_work(&s, 1));
    double loss = route_balance_f64(team, &s, &all, 1, logits, experts, 0.25, work, dlogits);
    assert_true(fabs(loss - 0.25) < 1e-12);
    for (size_t i = 0; i < 16; i++)
        assert_true(fabs(dlogits[i]) < 1e-12);
    team_close(team);
    bag_release(&bag);
}

/* --------------------------------------------------------------------------- types and workers */

enum { T = 150, D = 24, E = 10, K = 3 };

static const struct route_shape shape = {T, D, E, K, SCORING_SQRTSOFTPLUS, 2};
static const struct segment two[] = {{0, 100}, {100, 50}};

struct result {
    float *logits, *weights, *dx, *dgate;
    int32_t *experts;
};

static struct result run_float(struct bag *bag, uint32_t workers, const double *x, const double *gate,
                               const double *dweights) {
    struct result o = {floats(bag, T * E), floats(bag, T * K), floats(bag, T * D), floats(bag, E * D),
                       bag_take(bag, T * K, sizeof(int32_t))};
    float *x32 = float_copy(bag, x, T * D), *gate32 = float_copy(bag, gate, E * D), *dlogits = floats(bag, T * E);
    struct team *team;
    CHECKED(team_open(workers, &team, &error));
    route_forward_f32(team, &shape, x32, gate32, NULL, NULL, NULL, o.logits, o.experts, o.weights);
    route_balance_f32(team, &shape, two, 2, o.logits, o.experts, 0.1f, floats(bag, route_balance_work(&shape, 2)),
                      dlogits);
    route_backward_f32(team, &shape, x32, gate32, o.logits, o.experts, o.weights, float_copy(bag, dweights, T * K),
                       dlogits, o.dx, o.dgate);
    team_close(team);
    return o;
}

static void test_route__same_in_both_types_and_with_any_workers(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct team *team;
    (void)state;
    rng_init(&r, 5);
    double *x = random_doubles(&bag, &r, T * D, 1), *gate = random_doubles(&bag, &r, E * D, 1);
    double *dweights = random_doubles(&bag, &r, T * K, 1), *logits = doubles(&bag, T * E);
    double *weights = doubles(&bag, T * K), *dlogits = doubles(&bag, T * E);
    double *dx = doubles(&bag, T * D), *dgate = doubles(&bag, E * D);
    int32_t *experts = bag_take(&bag, T * K, sizeof(*experts));
    CHECKED(team_open(1, &team, &error));
    route_forward_f64(team, &shape, x, gate, NULL, NULL, NULL, logits, experts, weights);
    route_balance_f64(team, &shape, two, 2, logits, experts, 0.1, doubles(&bag, route_balance_work(&shape, 2)),
                      dlogits);
    route_backward_f64(team, &shape, x, gate, logits, experts, weights, dweights, dlogits, dx, dgate);
    team_close(team);
    struct result one = run_float(&bag, 1, x, gate, dweights);
    assert_memory_equal(one.experts, experts, T * K * sizeof(*experts));
    check_near_float("weights", one.weights, weights, T * K, 1e-5);
    check_near_float("dx", one.dx, dx, T * D, 1e-5);
    check_near_float("dgate", one.dgate, dgate, E * D, 1e-5);
    for (uint32_t workers = 2; workers <= 3; workers++) {
        struct result other = run_float(&bag, workers, x, gate, dweights);
        assert_memory_equal(other.experts, experts, T * K * sizeof(*experts));
        check_same("weights", other.weights, one.weights, T * K);
        check_same("dx", other.dx, one.dx, T * D);
        check_same("dgate", other.dgate, one.dgate, E * D);
    }
    bag_release(&bag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route__is_that_of_the_oracle),
        cmocka_unit_test(test_route__gradients),
        cmocka_unit_test(test_route__lowest_expert_among_equals),
        cmocka_unit_test(test_route__extreme_logits),
        cmocka_unit_test(test_loads__move_the_bias),
        cmocka_unit_test(test_balance__of_even_loads_is_alpha),
        cmocka_unit_test(test_route__same_in_both_types_and_with_any_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
