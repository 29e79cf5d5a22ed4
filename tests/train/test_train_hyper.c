/* test_train_hyper.c - hyper-connections: gradients, the oracle, float against double, numbers of workers, how a new
 * layer begins. */
#define TRAIN_DOUBLE
#include "run_hyper.h"

#include "streams_table.h"

void run_hyper_f32(struct run *run);

/* A run with arrays of zeros. */
static struct run hyper_run(const struct hyper_shape *s, struct bag *b, struct rng *r) {
    struct run run = {.shape = s, .pass = run_hyper_f64};
    const size_t rows = (size_t)s->tokens * s->dim, wide = rows * s->streams, mixes = hyper_mixes(s);
    const size_t weights = mixes * s->streams * s->dim, scales = s->iterations ? 3 : 1;
    run_input(&run, "h", doubles(b, wide), wide);
    run_input(&run, "fn", doubles(b, weights), weights);
    run_input(&run, "scale", doubles(b, scales), scales);
    run_input(&run, "base", doubles(b, mixes), mixes);
    run_output(&run, b, r, "x", rows);
    if (s->iterations) {
        run_input(&run, "y", doubles(b, rows), rows);
        run_output(&run, b, r, "new streams", wide);
    }
    return run;
}

static void check_shape(struct hyper_shape s, uint64_t seed) {
    struct bag bag = {0};
    struct rng r;
    s.norm_eps = s.eps = 1e-6;
    rng_init(&r, seed);
    struct run run = hyper_run(&s, &bag, &r);
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = random_doubles(&bag, &r, run.inputs[i].count, 1);
    check_run_float(&run, &bag, run_hyper_f32, 1e-4);
    check_run_gradients(&run, &bag);
    bag_release(&bag);
}

static void test_hyper__gradients(void **state) {
    static const struct hyper_shape shapes[] = {
        {1, 4, 5, 20, 0, 0}, {17, 4, 3, 3, 0, 0}, {3, 1, 7, 20, 0, 0},
        {70, 2, 2, 1, 0, 0}, {2, 8, 4, 20, 0, 0}, {16, 3, 18, 2, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (uint64_t seed = 1; seed <= 2; seed++)
            check_shape(shapes[i], seed);
}

static void test_hyper__gradients_of_the_last_collapse(void **state) {
    static const struct hyper_shape shapes[] = {{1, 4, 5, 0, 0, 0}, {33, 1, 3, 0, 0, 0}, {66, 4, 2, 0, 0, 0}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (uint64_t seed = 1; seed <= 2; seed++)
            check_shape(shapes[i], seed);
}

/* With the shapes and phases of tests/oracle/make_streams_table.py. */
static void test_hyper__oracle(void **state) {
    const struct hyper_shape shape = {5, 4, 8, 20, 1e-6, 1e-6}, last = {5, 4, 8, 0, 1e-6, 1e-6};
    struct bag bag = {0};
    struct run run = hyper_run(&shape, &bag, NULL), head = hyper_run(&last, &bag, NULL);
    static const double phases[] = {7, 1, 2, 3, 8}, head_phases[] = {7, 4, 5, 6};
    (void)state;
    run.forward_only = head.forward_only = true;
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = wave(&bag, run.inputs[i].count, phases[i], 1);
    for (size_t i = 0; i < head.input_count; i++)
        head.inputs[i].x = wave(&bag, head.inputs[i].count, head_phases[i], 1);
    CHECKED(team_open(2, &run.team, &error));
    head.team = run.team;
    run_hyper_f64(&run);
    run_hyper_f64(&head);
    check_near("collapsed", run.outputs[0].x, table_collapsed, COUNT_OF(table_collapsed), 2e-6);
    check_near("spread", run.outputs[1].x, table_spread, COUNT_OF(table_spread), 2e-6);
    check_near("head", head.outputs[0].x, table_head, COUNT_OF(table_head), 2e-6);
    team_close(run.team);
    bag_release(&bag);
}

/* Equal streams give themselves to the sublayer, take its output whole, and stay (nearly) equal. */
static void test_hyper__begins_as_a_residual(void **state) {
    (void)state;
    for (uint32_t streams = 1; streams <= 8; streams++) {
        const struct hyper_shape s = {3, streams, 6, 20, 1e-6, 1e-6};
        struct bag bag = {0};
        struct rng r;
        rng_init(&r, streams);
        struct run run = hyper_run(&s, &bag, NULL);
        hyper_init_f64(&s, &r, run.inputs[HYPER_FN].x, run.inputs[HYPER_SCALE].x, run.inputs[HYPER_BASE].x);
        double *x = random_doubles(&bag, &r, 18, 1), *y = run.inputs[HYPER_Y].x = random_doubles(&bag, &r, 18, 1);
        double *expected = doubles(&bag, 18 * streams);
        for (size_t i = 0; i < 18 * streams; i++) {
            size_t of = i / 6 / streams * 6 + i % 6;
            run.inputs[HYPER_H].x[i] = x[of];
            expected[i] = x[of] + y[of];
        }
        CHECKED(team_open(1, &run.team, &error));
        run.forward_only = true;
        run_hyper_f64(&run);
        check_near("x", run.outputs[0].x, x, 18, 1e-4);
        check_near("new streams", run.outputs[1].x, expected, 18 * streams, 1e-4);
        team_close(run.team);
        bag_release(&bag);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hyper__gradients),
        cmocka_unit_test(test_hyper__gradients_of_the_last_collapse),
        cmocka_unit_test(test_hyper__oracle),
        cmocka_unit_test(test_hyper__begins_as_a_residual),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
