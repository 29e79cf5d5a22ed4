/* test_base_pool.c - the thread pool: every item once, nobody held up, whatever number of workers. */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "base/base.h"

enum { ITEMS = 1000, MOST = 64 };

static struct pool *opened(uint32_t workers) {
    struct pool *pool = NULL;
    struct sonde_error e;
    assert_int_equal(pool_open(workers, &pool, &e), 0);
    if (workers)
        assert_int_equal(pool_workers(pool), workers);
    return pool;
}

static uint32_t processors(void) {
    return (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Numbers of workers that differ in kind: alone, one each, more than there are. */
static void each_size(void (*check)(uint32_t workers)) {
    const uint32_t sizes[] = {1, 2, 3, processors(), 4 * processors()};
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        check(sizes[i] < MOST ? sizes[i] : MOST);
}

struct shared {
    struct pool *pool;
    uint32_t deal, items;
    atomic_uint given[MOST][ITEMS]; /* by owner */
    atomic_uint by[MOST];           /* by who took */
    uint32_t phase[MOST];           /* not atomic: the pool orders what is written here */
    atomic_uint bad;
};

static struct shared *shared(uint32_t workers) {
    struct shared *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->pool = opened(workers);
    return s;
}

static void done(struct shared *s) {
    pool_close(s->pool);
    free(s);
}

/* -------------------------------------------------------------------------------------- regions */

static void count_worker(void *context, uint32_t worker) {
    struct shared *s = context;
    s->phase[worker]++;
}

static void every_worker_runs(uint32_t workers) {
    struct shared *s = shared(workers);
    for (uint32_t run = 1; run <= 100; run++) {
        pool_run(s->pool, count_worker, s);
        for (uint32_t w = 0; w < MOST; w++)
            assert_int_equal(s->phase[w], w < workers ? run : 0);
    }
    done(s);
}

static void test_run__calls_every_worker_once(void **state) {
    (void)state;
    each_size(every_worker_runs);
}

static void nothing(void *context, uint32_t worker) {
    (void)context, (void)worker;
}

static void thousands_of_regions(uint32_t workers) {
    struct pool *pool = opened(workers);
    double started = clock_seconds();
    for (int run = 0; run < 5000; run++)
        pool_run(pool, nothing, NULL);
    assert_true(clock_seconds() - started < 20);
    pool_close(pool);
}

static void test_run__thousands_of_empty_regions(void **state) {
    (void)state;
    each_size(thousands_of_regions);
}

static void test_run__wakes_workers_that_sleep(void **state) {
    (void)state;
    struct shared *s = shared(3);
    for (uint32_t run = 1; run <= 20; run++) {
        usleep(3000); /* longer than anybody looks */
        pool_run(s->pool, count_worker, s);
        assert_int_equal(s->phase[2], run);
    }
    done(s);
}

static void test_open__again_and_again(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct pool *pool = opened(3), *other = opened(2);
        if (i % 2) {
            pool_run(pool, nothing, NULL);
            pool_run(other, nothing, NULL);
        }
        pool_close(pool);
        pool_close(other);
    }
    pool_close(NULL);
}

static void test_open__counts_this_process_s_processors(void **state) {
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    struct pool *pool = opened(0);
    assert_in_range(pool_workers(pool), 1, (uint32_t)CPU_COUNT(&before));
    pool_close(pool);
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE && CPU_COUNT(&one) == 0; c++)
        if (CPU_ISSET(c, &before))
            CPU_SET(c, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    pool = opened(0);
    assert_int_equal(pool_workers(pool), 1);
    pool_close(pool);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

static void test_open__refuses_too_many(void **state) {
    (void)state;
    struct pool *pool = NULL;
    struct sonde_error e;
    assert_int_equal(pool_open(UINT32_MAX, &pool, &e), SONDE_ERROR_ARGUMENT);
    assert_null(pool);
}

static void test_run__leaves_the_caller_s_processors_alone(void **state) {
    (void)state;
    cpu_set_t before, after, one;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    struct pool *pool = opened(0);
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, &before))
            continue;
        CPU_ZERO(&one); /* wherever the caller is when a region starts, and whatever it may do */
        CPU_SET(c, &one);
        assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
        assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
        pool_run(pool, nothing, NULL);
        assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
        assert_true(CPU_EQUAL(&before, &after));
        assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
        pool_run(pool, nothing, NULL);
        assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
        assert_true(CPU_EQUAL(&one, &after));
        assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    }
    pool_close(pool);
}

static void see_mask(void *context, uint32_t worker) {
    struct shared *s = context;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    s->phase[worker] = (uint32_t)sigismember(&mask, SIGINT) + 2 * (uint32_t)sigismember(&mask, SIGSEGV);
}

static void test_run__signals_are_for_the_caller(void **state) {
    (void)state;
    struct shared *s = shared(2);
    pool_run(s->pool, see_mask, s);
    assert_int_equal(s->phase[0], 0);
    assert_int_equal(s->phase[1], 1);
    done(s);
}

/* ---------------------------------------------------------------------------------------- deals */

static void take_all(void *context, uint32_t worker) {
    struct shared *s = context;
    uint32_t owner, item;
    while (pool_take(s->pool, s->deal, worker, &owner, &item)) {
        if (owner >= pool_workers(s->pool) || item >= s->items)
            atomic_fetch_add(&s->bad, 1);
        else
            atomic_fetch_add(&s->given[owner][item], 1);
        atomic_fetch_add(&s->by[worker], 1);
    }
}

static void assert_each_once(struct shared *s, unsigned times) {
    assert_int_equal(s->bad, 0);
    for (uint32_t w = 0; w < MOST; w++)
        for (uint32_t i = 0; i < ITEMS; i++)
            assert_int_equal(s->given[w][i], w < pool_workers(s->pool) && i < s->items ? times : 0);
}

static void items_once(uint32_t workers) {
    const uint32_t counts[] = {0, 1, 7, ITEMS};
    for (size_t c = 0; c < COUNT_OF(counts); c++)
        for (uint32_t deal = 0; deal < POOL_DEALS; deal += POOL_DEALS - 1) {
            struct shared *s = shared(workers);
            s->deal = deal;
            s->items = counts[c];
            for (unsigned times = 1; times <= 3; times++) {
                pool_deal(s->pool, deal, s->items);
                pool_run(s->pool, take_all, s);
                assert_each_once(s, times);
            }
            done(s);
        }
}

static void test_take__gives_each_item_once(void **state) {
    (void)state;
    each_size(items_once);
}

static void test_take__own_hand_first_and_in_order(void **state) {
    (void)state;
    struct shared *s = shared(3);
    pool_deal(s->pool, 2, 5);
    static const uint32_t owners[] = {1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0};
    for (uint32_t i = 0; i < COUNT_OF(owners); i++) {
        uint32_t owner, item;
        assert_true(pool_take(s->pool, 2, 1, &owner, &item));
        assert_int_equal(owner, owners[i]);
        assert_int_equal(item, i % 5);
    }
    uint32_t owner, item;
    assert_false(pool_take(s->pool, 2, 0, &owner, &item));
    done(s);
}

static void first_sleeps(void *context, uint32_t worker) {
    struct shared *s = context;
    uint32_t owner, item;
    if (worker == 0 && pool_take(s->pool, s->deal, 0, &owner, &item)) {
        atomic_fetch_add(&s->given[owner][item], 1);
        usleep(200000);
    }
    take_all(context, worker);
}

static void test_take__helps_a_worker_that_sleeps(void **state) {
    (void)state;
    struct shared *s = shared(2);
    s->items = 100;
    pool_deal(s->pool, 0, s->items);
    pool_run(s->pool, first_sleeps, s);
    assert_each_once(s, 1);
    assert_int_equal(s->by[0], 0);
    assert_int_equal(s->by[1], 2 * s->items - 1);
    done(s);
}

/* -------------------------------------------------------------------------------------- barrier */

/* Each writes its phase and, after the barrier, must see everybody's. */
static void phases(void *context, uint32_t worker) {
    struct shared *s = context;
    uint32_t workers = pool_workers(s->pool);
    for (uint32_t phase = 1; phase <= s->items; phase++) {
        s->phase[worker] = phase;
        pool_barrier(s->pool);
        for (uint32_t w = 0; w < workers; w++)
            if (s->phase[w] != phase)
                atomic_fetch_add(&s->bad, 1);
        pool_barrier(s->pool);
    }
}

static void barriers_order(uint32_t workers) {
    struct shared *s = shared(workers);
    s->items = 500;
    double started = clock_seconds();
    for (int run = 0; run < 3; run++)
        pool_run(s->pool, phases, s);
    assert_int_equal(s->bad, 0);
    assert_true(clock_seconds() - started < 20);
    done(s);
}

static void test_barrier__orders_what_is_written(void **state) {
    (void)state;
    each_size(barriers_order);
}

/* Two deals of one region, the second dealt inside it. */
static void deal_inside(void *context, uint32_t worker) {
    struct shared *s = context;
    take_all(s, worker);
    pool_barrier(s->pool);
    if (worker == 1)
        pool_deal(s->pool, s->deal, s->items);
    pool_barrier(s->pool);
    take_all(s, worker);
}

static void test_deal__inside_a_region(void **state) {
    (void)state;
    struct shared *s = shared(2);
    s->items = ITEMS;
    for (unsigned run = 1; run <= 20; run++) {
        pool_deal(s->pool, 0, s->items);
        pool_run(s->pool, deal_inside, s);
        assert_each_once(s, 2 * run);
    }
    done(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run__calls_every_worker_once),
        cmocka_unit_test(test_run__thousands_of_empty_regions),
        cmocka_unit_test(test_run__wakes_workers_that_sleep),
        cmocka_unit_test(test_run__leaves_the_caller_s_processors_alone),
        cmocka_unit_test(test_run__signals_are_for_the_caller),
        cmocka_unit_test(test_open__again_and_again),
        cmocka_unit_test(test_open__counts_this_process_s_processors),
        cmocka_unit_test(test_open__refuses_too_many),
        cmocka_unit_test(test_take__gives_each_item_once),
        cmocka_unit_test(test_take__own_hand_first_and_in_order),
        cmocka_unit_test(test_take__helps_a_worker_that_sleeps),
        cmocka_unit_test(test_barrier__orders_what_is_written),
        cmocka_unit_test(test_deal__inside_a_region),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
