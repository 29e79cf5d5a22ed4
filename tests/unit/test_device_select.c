/*
 * test_device_select.c - the entries that the CPU device chooses for several tokens, against a plain reading.
 *
 * Tokens are scored in groups, by one worker each or by all together, over keys that lie in pages in any order. None of
 * that may show: a token's entries are those of the greatest scores that the level's kernel gives it alone. Of two
 * levels the blocks kept are those of the greatest of their scores, and the entries within them the greatest of all.
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
enum { BLOCK = 8, BLOCKS = 100, FEW = 40 }; /* blocks kept of 163; entries chosen within them */
static int32_t blocks[ROWS * BLOCKS], block_counts[ROWS];
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
    struct device_limits limits = {.rows = ROWS, .scored = KEYS, .width = DIM};
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

/* -------------------------------------------------------------------------------------- two levels */

/* The greatest score in block b; that of the newest entry is above all. */
static float best_of(uint64_t b, uint64_t seen) {
    float best = scores[b * BLOCK];
    for (uint64_t i = b * BLOCK; i < min_u64(seen, (b + 1) * BLOCK); i++)
        best = fmaxf(best, scores[i]);
    return (b + 1) * BLOCK >= seen ? INFINITY : best;
}

/* kept [blocks]: whether block b is among the best. */
static void best_blocks(uint64_t seen, bool *kept) {
    uint64_t count = ceil_div(seen, BLOCK);
    float best[KEYS / BLOCK + 1];
    for (uint64_t b = 0; b < count; b++)
        best[b] = best_of(b, seen);
    for (uint64_t b = 0; b < count; b++) {
        uint32_t better = 0;
        for (uint64_t j = 0; j < count; j++)
            better += best[j] > best[b] || (j < b && best[j] == best[b]);
        kept[b] = better < BLOCKS;
    }
}

static void check_blocks(uint32_t row, uint64_t seen, const bool *kept) {
    int32_t count = 0;
    for (uint64_t b = 0; b < ceil_div(seen, BLOCK); b++)
        if (kept[b] && (count >= block_counts[row] || blocks[row * BLOCKS + (uint32_t)count++] != (int32_t)b))
            fail_msg("row %u of %u: block %llu is missing", row, call.rows, (unsigned long long)b);
    assert_int_equal(count, block_counts[row]);
}

/* Entries outside the blocks do not count. */
static void check_within(uint32_t row, uint64_t seen, const bool *kept) {
    int32_t count = 0;
    for (uint64_t i = 0; i < seen; i++) {
        uint32_t better = 0;
        for (uint64_t j = 0; j < seen; j++)
            better += kept[j / BLOCK] && (scores[j] > scores[i] || (j < i && scores[j] == scores[i]));
        if (kept[i / BLOCK] && better < call.top &&
            (count >= counts[row] || chosen[row * call.top + (uint32_t)count++] != (int32_t)i))
            fail_msg("row %u of %u: entry %llu is missing", row, call.rows, (unsigned long long)i);
    }
    assert_int_equal(count, counts[row]);
}

static void check_two_levels(enum kernel_level level, uint32_t threads, uint32_t rows, uint64_t end) {
    struct device *d = open_device(level, threads);
    struct kernel_table t;
    kernel_table_init(&t, level, false);
    call.bf16 = false;
    call.rows = rows;
    call.first = end - rows;
    for (int within = 0; within < 2; within++) {
        call.within = within;
        call.top = within ? FEW : TOP;
        memset(counts, -1, sizeof(counts));
        d->ops->select(d, &call);
        CHECKED(d->ops->finish(d, &error));
        for (uint32_t r = 0; r<rows; r += rows> 2 ? 7 : 1) {
            bool kept[KEYS / BLOCK + 1];
            uint64_t seen = (call.first + r + 1) / RATIO;
            score(&t, r, seen);
            best_blocks(seen, kept);
            check_blocks(r, seen, kept);
            if (within)
                check_within(r, seen, kept);
            else
                check_row(&t, kernel_level_name(level), threads, r);
        }
    }
    d->ops->close(d);
}

/* Tokens that see fewer entries than are chosen, fewer blocks than are kept, and more; the last block is not whole. */
static void test_select__keeps_blocks_and_looks_within_them(void **state) {
    static const uint32_t threads[] = {1, 3}, rows[] = {1, ROWS};
    static const uint64_t ends[] = {RATIO * 30, RATIO * TOP + 10, RATIO * BLOCK * BLOCKS + 5, RATIO * (KEYS - 3)};
    (void)state;
    call.block = BLOCK;
    call.most_blocks = BLOCKS;
    call.blocks = blocks;
    call.block_counts = block_counts;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++)
        for (size_t i = 0; i < 16 && kernel_level_runs((enum kernel_level)level); i++)
            check_two_levels((enum kernel_level)level, threads[i % 2], rows[i / 2 % 2], ends[i / 4]);
}

/* Scores that are equal once they are rounded to bf16 go to the first of their entries. */
static void test_select__rounds_scores_if_asked(void **state) {
    (void)state;
    struct device *d = open_device(KERNEL_LEVEL_c, 1);
    call.round = true;
    call.rows = 1;
    call.first = (uint64_t)RATIO * KEYS - 1;
    for (uint32_t i = 0; i < KEYS; i++) {
        float sum = 0, x[DIM];
        row_decode(&format, key_at(i), 0, DIM, x);
        for (uint32_t h = 0; h < HEADS; h++) {
            float dot = 0;
            for (uint32_t c = 0; c < DIM; c++)
                dot += q[h * DIM + c] * x[c];
            sum += bf16_round(fmaxf(bf16_round(dot), 0) * w[h]);
        }
        scores[i] = bf16_round(sum);
    }
    d->ops->select(d, &call);
    int32_t count = 0;
    for (uint64_t i = 0; i < KEYS; i++)
        if (is_best(i, KEYS) && chosen[count++] != (int32_t)i)
            fail_msg("entry %llu is missing", (unsigned long long)i);
    assert_int_equal(count, TOP);
    d->ops->close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_select__takes_the_best_of_each_row, set_up),
        cmocka_unit_test_setup(test_select__looks_only_at_what_a_row_may_see, set_up),
        cmocka_unit_test_setup(test_select__keeps_blocks_and_looks_within_them, set_up),
        cmocka_unit_test_setup(test_select__rounds_scores_if_asked, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
