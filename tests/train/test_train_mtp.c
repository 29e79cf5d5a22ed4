/* test_train_mtp.c - the entrance of multi-token prediction: pairs, gradients, the oracle, float against double,
 * numbers of workers. */
#define TRAIN_DOUBLE
#include "run_mtp.h"

#include "streams_table.h"

void run_mtp_f32(struct run *run);

enum { MOST_TOKENS = 80, MOST_SEGMENTS = 8 };

struct mtp_case {
    struct bag bag;
    struct segment segments[MOST_SEGMENTS], pair_segments[MOST_SEGMENTS];
    int32_t ids[MOST_TOKENS], targets[MOST_TOKENS], pair_ids[MOST_TOKENS], pair_targets[MOST_TOKENS];
    uint32_t from[MOST_SEGMENTS];
    struct batch batch;
    struct mtp_pairs pairs;
    struct mtp_run shape;
};

/* `lengths` ends in 0. */
static void case_open(struct mtp_case *c, const uint32_t *lengths) {
    *c = (struct mtp_case){0};
    for (uint32_t n; (n = lengths[c->batch.segment_count]); c->batch.tokens += n)
        c->segments[c->batch.segment_count++] = (struct segment){c->batch.tokens, n};
    for (int32_t i = 0; i < MOST_TOKENS; i++) {
        c->ids[i] = 100 + i;
        c->targets[i] = 101 + i;
    }
    c->batch.ids = c->ids;
    c->batch.targets = c->targets;
    c->batch.segments = c->segments;
    c->pairs = (struct mtp_pairs){
        .ids = c->pair_ids, .targets = c->pair_targets, .segments = c->pair_segments, .from = c->from};
    mtp_pairs_fill(&c->pairs, &c->batch);
    c->shape.pairs = &c->pairs;
}

/* A run with arrays of zeros. */
static struct run case_run(struct mtp_case *c, uint32_t streams, uint32_t dim, struct rng *r) {
    struct run run = {.shape = &c->shape, .pass = run_mtp_f64};
    const size_t tokens = c->batch.tokens, pairs = c->pairs.batch.tokens, square = (size_t)dim * dim;
    struct bag *b = &c->bag;
    c->shape.shape = (struct mtp_shape){streams, dim, 1e-6};
    run_input(&run, "h", doubles(b, tokens * streams * dim), tokens * streams * dim);
    run_input(&run, "embedded", doubles(b, pairs * dim), pairs * dim);
    run_input(&run, "enorm", doubles(b, dim), dim);
    run_input(&run, "hnorm", doubles(b, dim), dim);
    run_input(&run, "e_proj", doubles(b, square), square);
    run_input(&run, "h_proj", doubles(b, square), square);
    run_output(&run, b, r, "out", pairs * streams * dim);
    return run;
}

static void test_mtp__pairs_stay_in_their_segments(void **state) {
    static const int32_t ids[] = {101, 102, 105, 107, 108, 109};
    struct mtp_case c;
    (void)state;
    case_open(&c, (uint32_t[]){3, 1, 2, 4, 1, 0});
    const struct batch *b = &c.pairs.batch;
    assert_int_equal(b->tokens, 6);
    assert_int_equal(b->segment_count, 3);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(b->ids[i], ids[i]);
        assert_int_equal(b->targets[i], ids[i] + 1);
    }
    static const struct segment segments[] = {{0, 2}, {2, 1}, {3, 3}};
    static const uint32_t from[] = {0, 4, 6};
    assert_memory_equal(b->segments, segments, sizeof(segments));
    assert_memory_equal(c.from, from, sizeof(from));
}

static void check_passes(const uint32_t *lengths, uint32_t streams, uint32_t dim, uint64_t seed) {
    struct mtp_case c;
    struct rng r;
    rng_init(&r, seed);
    case_open(&c, lengths);
    struct run run = case_run(&c, streams, dim, &r);
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = random_bf16(&c.bag, &r, run.inputs[i].count);
    check_run_float(&run, &c.bag, run_mtp_f32, 1e-2);
    check_run_gradients(&run, &c.bag);
    bag_release(&c.bag);
}

static void test_mtp__gradients(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        check_passes((uint32_t[]){2, 0}, 4, 5, seed);
        check_passes((uint32_t[]){3, 1, 10, 2, 1, 0}, 4, 7, seed);
        check_passes((uint32_t[]){66, 4, 0}, 1, 3, seed);
        check_passes((uint32_t[]){1, 1, 0}, 2, 3, seed);
    }
}

/* With the shapes and phases of tests/oracle/make_streams_table.py, where the streams' last token has a pair too. */
static void test_mtp__oracle(void **state) {
    static const double phases[] = {7, 21, 22, 23, 24, 25};
    struct mtp_case c;
    (void)state;
    case_open(&c, (uint32_t[]){6, 0});
    struct run run = case_run(&c, 4, 8, NULL);
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = wave(&c.bag, run.inputs[i].count, phases[i], 1);
    CHECKED(team_open(2, &run.team, &error));
    run.forward_only = true;
    run_mtp_f64(&run);
    check_near("out", run.outputs[0].x, table_entrance, COUNT_OF(table_entrance), 2e-6);
    team_close(run.team);
    bag_release(&c.bag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mtp__pairs_stay_in_their_segments),
        cmocka_unit_test(test_mtp__gradients),
        cmocka_unit_test(test_mtp__oracle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
