/*
 * test_device_select.c - the entries that the CPU device chooses for several tokens, against a plain reading.
 *
 * Tokens are scored in groups, by one worker each or by all together, over keys that lie in pages in any order. None of
 * that may show: a token's entries are those of the greatest scores that the level's kernel gives it alone.
 */
#include <math.h>
#include <stdlib.h>

#include "test.h"

#include "device/device.h"
#include "kernel/kernel.h"

enum { ROWS = 24, HEADS = 32, DIM = 128, KEYS = 1300, RATIO = 4, TOP = 600, PER_PAGE = 100, PAGES = KEYS / PER_PAGE };

static const struct row_format format = {ROW_INDEX, DIM, 0};
static float q[ROWS * HEADS * DIM], w[ROWS * HEADS], scores[KEYS];
static _Alignas(64) uint8_t scratch[KERNEL_SCRATCH_BYTES];
static uint8_t keys[2 * KEYS * DIM];
static uint32_t pages[PAGES];
static int32_t chosen[ROWS * TOP], counts[ROWS];
static struct device_select call;

static float random_float(struct rng *rng) {
    return (float)(2 * rng_unit(rng) - 1);
}

static uint8_t *key_at(uint64_t i) {
    uint64_t left;
    return (uint8_t *)(uintptr_t)device_page_row(&call.keys, i, row_bytes(&format), &left);
}

/* Every tenth key is that before it, so that scores are equal. */
static void fill(void) {
    float x[DIM];
    struct rng rng;
    rng_init(&rng, 7);
    for (size_t i = 0; i < COUNT_OF(q); i++)
        q[i] = random_float(&rng);
    for (size_t i = 0; i < COUNT_OF(w); i++)
        w[i] = random_float(&rng);
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = i * 5 % PAGES;
    for (uint32_t i = 0; i < KEYS; i++) {
        for (uint32_t c = 0; c < DIM && (i % 10 || !i); c++)
            x[c] = random_float(&rng);
        row_encode(&format, x, key_at(i));
    }
}

static int set_up(void **state) {
    (void)state;
    call = (struct device_select){
        .q = q,
        .w = w,
        .format = format,
        .keys = {keys, PER_PAGE * row_bytes(&format) + 64, 32, pages, PER_PAGE},
        .heads = HEADS,
        .ratio = RATIO,
        .top = TOP,
        .chosen = chosen,
        .counts = counts,
    };
    assert_true(PAGES * call.keys.page_bytes <= sizeof(keys));
    fill();
    return 0;
}

static struct device *open_device(enum kernel_level level, uint32_t threads) {
    struct device_cpu_options options = {.threads = threads, .level = kernel_level_name(level)};
    struct device_limits limits = {.rows = ROWS, .scored = KEYS};
    struct device *d = NULL;
    CHECKED(device_cpu_open(&options, &d, &error));
    CHECKED(d->ops->reserve(d, &limits, &error));
    return d;
}

/* Scores of all entries that the row sees, for it alone. */
static void score(const struct kernel_table *t, uint32_t row, uint64_t seen) {
    const float *queries = q + (size_t)row * HEADS * DIM, *weights = w + (size_t)row * HEADS;
    for (uint64_t i = 0; i < seen; i += PER_PAGE) {
        uint32_t n = (uint32_t)min_u64(PER_PAGE, seen - i);
        if (call.bf16)
            t->index_scores_bf16(queries, weights, 1, HEADS, &format, key_at(i), n, scores + i, n, scratch);
        else
            t->index_scores(queries, weights, 1, HEADS, &format, key_at(i), n, scores + i, n);
    }
}

/* True if entry i is among the best of those seen; of equal ones the first are. */
static bool is_best(uint64_t i, uint64_t seen) {
    uint32_t better = 0;
    for (uint64_t j = 0; j < seen; j++)
        better += scores[j] > scores[i] || (j < i && scores[j] == scores[i]);
    return better < TOP;
}

static void check_row(const struct kernel_table *t, const char *level, uint32_t threads, uint32_t row) {
    uint64_t seen = (call.first + row + 1) / RATIO;
    int32_t count = 0;
    score(t, row, seen);
    for (uint64_t i = 0; i < seen; i++)
        if (is_best(i, seen) && (count >= counts[row] || chosen[row * TOP + count++] != (int32_t)i))
            fail_msg("%s, %u workers, row %u of %u from %llu on: entry %llu is missing", level, threads, row, call.rows,
                     (unsigned long long)call.first, (unsigned long long)i);
    assert_int_equal(count, counts[row]);
}

/* Rows that begin to choose within a group, that have more entries than an item, and that come to the last key. */
static void check_device(enum kernel_level level, uint32_t threads) {
    static const uint32_t rows[] = {1, 2, 11, ROWS};
    const uint64_t ends[] = {RATIO * (TOP + 1) + 2, (uint64_t)RATIO * KEYS};
    struct device *d = open_device(level, threads);
    struct kernel_table t;
    kernel_table_init(&t, level, false);
    for (size_t i = 0; i < 2 * COUNT_OF(rows) * COUNT_OF(ends); i++) {
        call.bf16 = i % 2;
        call.rows = rows[i / 2 % COUNT_OF(rows)];
        call.first = ends[i / 2 / COUNT_OF(rows)] - call.rows;
        uint32_t step = call.rows > 2 ? 3 : 1;
        memset(counts, -1, sizeof(counts));
        d->ops->select(d, &call);
        CHECKED(d->ops->finish(d, &error));
        for (uint32_t r = 0; r < call.rows; r += step)
            check_row(&t, kernel_level_name(level), threads, r);
    }
    d->ops->close(d);
}

static void test_select__takes_the_best_of_each_row(void **state) {
    static const uint32_t threads[] = {1, 3, 12};
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++)
        for (size_t i = 0; i < COUNT_OF(threads) && kernel_level_runs((enum kernel_level)level); i++)
            check_device((enum kernel_level)level, threads[i]);
}

/* What was written for a block that is not complete counts for nothing, also beside a row that sees more. */
static void test_select__looks_only_at_what_a_row_may_see(void **state) {
    static const uint32_t threads[] = {1, 12};
    float x[DIM] = {NAN};
    struct sonde_error e;
    (void)state;
    row_encode(&format, x, key_at(KEYS - 1));
    for (size_t i = 0; i < COUNT_OF(threads); i++) {
        struct device *d = open_device(kernel_level_best(), threads[i]);
        call.rows = 6;
        call.first = RATIO * KEYS - 1 - call.rows;
        d->ops->select(d, &call);
        CHECKED(d->ops->finish(d, &error));
        call.first++;
        d->ops->select(d, &call);
        assert_int_equal(d->ops->finish(d, &e), SONDE_ERROR_NUMERIC);
        for (uint32_t r = 0; r + 1 < call.rows; r++)
            assert_int_equal(counts[r], TOP);
        d->ops->close(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_select__takes_the_best_of_each_row, set_up),
        cmocka_unit_test_setup(test_select__looks_only_at_what_a_row_may_see, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
