/* test_train_engram.c - Engram: which rows are read, gradients, the oracle, float against double, numbers of workers.
 */
#define TRAIN_DOUBLE
#include "run_engram.h"

#include "streams_table.h"

void run_engram_f32(struct run *run);

enum { MOST_TOKENS = 80, VOCAB = 30, PAD = 2 };

struct engram_case {
    struct bag bag;
    struct segment segments[8];
    int32_t ids[MOST_TOKENS];
    int64_t token_map[VOCAB];
    struct batch batch;
    struct engram_hash hash;
    struct engram_rows rows;
    struct engram_run shape;
};

/* `lengths` ends in 0. Ids are those of the oracle's table. */
static void case_open(struct engram_case *c, const struct engram_hash *hash, const uint32_t *lengths) {
    *c = (struct engram_case){.hash = *hash};
    for (uint32_t n; (n = lengths[c->batch.segment_count]); c->batch.tokens += n)
        c->segments[c->batch.segment_count++] = (struct segment){c->batch.tokens, n};
    for (int32_t i = 0; i < MOST_TOKENS; i++)
        c->ids[i] = (7 * i * i + 3 * i) % VOCAB;
    for (int32_t i = 0; i < VOCAB; i++)
        c->token_map[i] = i / 2;
    c->batch.ids = c->ids;
    c->batch.segments = c->segments;
    const size_t columns = (hash->orders - 1) * hash->heads;
    CHECKED(engram_rows_init(&c->rows, c->batch.tokens * columns, &error));
    engram_rows_add(&c->rows, hash, c->token_map, PAD, &c->batch);
    engram_rows_sort(&c->rows);
    c->shape.rows = &c->rows;
}

static void case_close(struct engram_case *c) {
    engram_rows_release(&c->rows);
    bag_release(&c->bag);
}

/* A run with arrays of zeros. */
static struct run case_run(struct engram_case *c, uint32_t streams, uint32_t dim, uint32_t width, bool biases,
                           struct rng *r) {
    const size_t columns = (c->hash.orders - 1) * c->hash.heads, wide = (size_t)streams * dim;
    const size_t inputs = columns * width, tokens = c->batch.tokens;
    struct bag *b = &c->bag;
    struct run run = {.shape = &c->shape, .pass = run_engram_f64};
    size_t table = 0;
    for (size_t i = 0; i < columns; i++)
        table += (size_t)c->hash.sizes[i];
    c->shape.width = width;
    c->shape.sizes = (struct engram_sizes){c->batch.tokens, streams, dim,  (uint32_t)inputs, 4,
                                           c->hash.orders,  1e-7,    1e-5, c->segments,      c->batch.segment_count};
    run_input(&run, "h", doubles(b, tokens * wide), tokens * wide);
    run_input(&run, "table", doubles(b, table * width), table * width);
    run_input(&run, "keys", doubles(b, wide * inputs), wide * inputs);
    run_input(&run, "value", doubles(b, dim * inputs), dim * inputs);
    run_input(&run, "key_norm", doubles(b, wide), wide);
    run_input(&run, "query_norm", doubles(b, wide), wide);
    run_input(&run, "conv_norm", doubles(b, wide), wide);
    run_input(&run, "conv", doubles(b, wide * 4), wide * 4);
    if (biases) {
        run_input(&run, "key_bias", doubles(b, wide), wide);
        run_input(&run, "value_bias", doubles(b, dim), dim);
    }
    run_output(&run, b, r, "new streams", tokens * wide);
    return run;
}

/* --------------------------------------------------------------------------------------- integers */

static const int64_t SMALL[] = {5, 7, 11, 13};
static const int64_t MULTIPLIERS[] = {0x1d2c3b4a59687761, 77777777777, 0x7f6e5d4c3b2a1909};

/* Rows by the definition. */
static int64_t row_of(const struct engram_case *c, const struct segment *g, uint32_t t, uint32_t order, uint32_t head) {
    uint64_t mix = 0;
    int64_t column = (int64_t)(order - 2) * c->hash.heads + head, offset = 0;
    for (uint32_t back = 0; back < order; back++) {
        int32_t id = back > t ? PAD : c->ids[g->begin + t - back];
        mix ^= (uint64_t)c->token_map[id] * (uint64_t)c->hash.multipliers[back];
    }
    for (int64_t i = 0; i < column; i++)
        offset += c->hash.sizes[i];
    const int64_t size = c->hash.sizes[column];
    return offset + ((int64_t)mix % size + size) % size;
}

static void test_engram__rows_look_back_to_the_segment_only(void **state) {
    struct engram_case c;
    (void)state;
    case_open(&c, &(struct engram_hash){3, 2, MULTIPLIERS, SMALL}, (uint32_t[]){4, 1, 2, 20, 0});
    size_t at = 0;
    for (uint32_t i = 0; i < c.batch.segment_count; i++)
        for (uint32_t t = 0; t < c.segments[i].length; t++)
            for (uint32_t column = 0; column < 4; column++)
                assert_int_equal(c.rows.rows[at++], row_of(&c, &c.segments[i], t, 2 + column / 2, column % 2));
    assert_int_equal(c.rows.slots, at);
    case_close(&c);
}

/* Every slot stands once, under its row, in order. */
static void test_engram__sorts_slots_by_row(void **state) {
    static const int64_t large[] = {1000003, 70001, 300007, 900001};
    static const int64_t *const sizes[] = {SMALL, large};
    (void)state;
    for (size_t k = 0; k < COUNT_OF(sizes); k++) {
        struct engram_case c;
        case_open(&c, &(struct engram_hash){3, 2, MULTIPLIERS, sizes[k]}, (uint32_t[]){33, 40, 0});
        const struct engram_rows *r = &c.rows;
        assert_int_equal(r->first[0], 0);
        assert_int_equal(r->first[r->count], r->slots);
        for (size_t i = 0; i < r->count; i++) {
            assert_true(r->first[i] < r->first[i + 1]);
            assert_true(!i || r->unique[i - 1] < r->unique[i]);
            for (size_t s = r->first[i]; s < r->first[i + 1]; s++) {
                assert_int_equal(r->rows[r->by_row[s]], r->unique[i]);
                assert_true(s == r->first[i] || r->by_row[s - 1] < r->by_row[s]);
            }
        }
        case_close(&c);
    }
}

static void test_engram__batches_are_one_list(void **state) {
    struct engram_case whole, parts;
    const struct engram_hash hash = {3, 2, MULTIPLIERS, SMALL};
    (void)state;
    case_open(&whole, &hash, (uint32_t[]){9, 5, 0});
    case_open(&parts, &hash, (uint32_t[]){9, 5, 0});
    engram_rows_clear(&parts.rows);
    struct batch second = {5, parts.ids + 9, NULL, &(struct segment){0, 5}, 1};
    parts.batch = (struct batch){9, parts.ids, NULL, parts.segments, 1};
    engram_rows_add(&parts.rows, &hash, parts.token_map, PAD, &parts.batch);
    engram_rows_add(&parts.rows, &hash, parts.token_map, PAD, &second);
    engram_rows_sort(&parts.rows);
    assert_int_equal(parts.rows.count, whole.rows.count);
    assert_memory_equal(parts.rows.rows, whole.rows.rows, whole.rows.slots * sizeof(int64_t));
    assert_memory_equal(parts.rows.by_row, whole.rows.by_row, whole.rows.slots * sizeof(uint32_t));
    case_close(&whole);
    case_close(&parts);
}

static void test_engram__makes_primes_and_multipliers(void **state) {
    static const int64_t expected[] = {2, 3, 5, 7, 11, 13, 17};
    int64_t sizes[7], multipliers[64], again[64];
    struct rng r;
    (void)state;
    engram_make_sizes(0, 7, sizes);
    assert_memory_equal(sizes, expected, sizeof(sizes));
    engram_make_sizes(384000000 / 24, 2, sizes);
    assert_int_equal(sizes[0], 16000057);
    for (int64_t ids = 1; ids < 1000000; ids = ids * 7 + 3) {
        rng_init(&r, 5);
        engram_make_multipliers(&r, ids, 64, multipliers);
        rng_init(&r, 5);
        engram_make_multipliers(&r, ids, 64, again);
        assert_memory_equal(multipliers, again, sizeof(multipliers));
        for (size_t i = 0; i < 64; i++) {
            assert_true(multipliers[i] > 0 && multipliers[i] % 2 == 1);
            assert_true(multipliers[i] <= INT64_MAX / ids);
        }
    }
}

/* ----------------------------------------------------------------------------------------- passes */

static void check_passes(const uint32_t *lengths, uint32_t streams, uint32_t dim, bool biases, uint64_t seed) {
    struct engram_case c;
    struct rng r;
    rng_init(&r, seed);
    case_open(&c, &(struct engram_hash){3, 2, MULTIPLIERS, SMALL}, lengths);
    struct run run = case_run(&c, streams, dim, 2, biases, &r);
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = random_bf16(&c.bag, &r, run.inputs[i].count);
    check_run_float(&run, &c.bag, run_engram_f32, 1e-2);
    check_run_gradients(&run, &c.bag);
    case_close(&c);
}

static void test_engram__gradients(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        check_passes((uint32_t[]){1, 0}, 4, 5, true, seed);
        check_passes((uint32_t[]){3, 1, 10, 9, 0}, 4, 3, false, seed);
        check_passes((uint32_t[]){66, 4, 0}, 1, 4, true, seed);
        check_passes((uint32_t[]){4, 0}, 2, 130, true, seed);
    }
}

/* Below the least agreement a gate stands still and passes no gradient on, however steep the root is. */
static void test_engram__gates_without_agreement_stand_still(void **state) {
    struct engram_case c;
    struct rng r;
    size_t total;
    (void)state;
    rng_init(&r, 1);
    case_open(&c, &(struct engram_hash){3, 2, MULTIPLIERS, SMALL}, (uint32_t[]){5, 0});
    struct run run = case_run(&c, 2, 4, 2, false, &r);
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = random_doubles(&c.bag, &r, run.inputs[i].count, i == ENGRAM_KEY_NORM ? 1e-8 : 1);
    const struct run_tensor *out = &run.outputs[0];
    double *dh = run_all(&c.bag, &run, run_engram_f64, 1, RUN_INPUTS, &total) + out->count, *dnorm = dh;
    for (size_t i = 0; i < ENGRAM_KEY_NORM; i++)
        dnorm += run.inputs[i].count;
    take_ones(dh, out->count);
    check_near("h", dh, out->gradient, out->count, 1e-15);
    for (size_t i = 0; i < run.inputs[ENGRAM_KEY_NORM].count; i++)
        assert_true(dnorm[i] == 1);
    case_close(&c);
}

/* With the shapes and phases of tests/oracle/make_streams_table.py. */
static void test_engram__oracle(void **state) {
    static const int64_t sizes[] = {31, 37, 41, 43};
    static const double phases[] = {9, 11, 15, 12, 16, 17, 18, 14, 19, 13};
    struct engram_case c;
    (void)state;
    case_open(&c, &(struct engram_hash){3, 2, MULTIPLIERS, sizes}, (uint32_t[]){23, 0});
    struct run run = case_run(&c, 4, 8, 4, true, NULL);
    for (size_t i = 0; i < run.input_count; i++)
        run.inputs[i].x = wave(&c.bag, run.inputs[i].count, phases[i], 1);
    CHECKED(team_open(2, &run.team, &error));
    run.forward_only = true;
    run_engram_f64(&run);
    check_near("new streams", run.outputs[0].x, table_engram, COUNT_OF(table_engram), 2e-6);
    team_close(run.team);
    case_close(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engram__rows_look_back_to_the_segment_only),
        cmocka_unit_test(test_engram__sorts_slots_by_row),
        cmocka_unit_test(test_engram__batches_are_one_list),
        cmocka_unit_test(test_engram__makes_primes_and_multipliers),
        cmocka_unit_test(test_engram__gradients),
        cmocka_unit_test(test_engram__gates_without_agreement_stand_still),
        cmocka_unit_test(test_engram__oracle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
