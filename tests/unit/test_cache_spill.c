/*
 * test_cache_spill.c - the store of pieces: what was put is found, by the next process too; the limit is kept as
 * cache.h says, against a list that does the same the slow way; and a process is killed while it writes, over and over.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "spill_scratch.h"

/* ------------------------------------------------------------------------------------ round trips */

static const size_t sizes[] = {0, 1, 63, 64, 65, 1000, 70000, 5000000};

static void each_size(void (*each)(struct spill_key key, size_t bytes, bool noise)) {
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        for (int noise = 0; noise < 2; noise++)
            each(key_of('p', i * 1024, 2 * i + (size_t)noise), sizes[i], noise);
}

static void put_one(struct spill_key key, size_t bytes, bool noise) {
    put_into(store, key, bytes, noise);
}

static void is_there(struct spill_key key, size_t bytes, bool noise) {
    assert_true(get(key, bytes, noise));
}

static void is_durable(struct spill_key key, size_t bytes, bool noise) {
    assert_true(has(key));
    assert_true(get(key, bytes, noise));
}

static void test_get__gives_what_was_put(void **state) {
    (void)state;
    open_store(1 << 30);
    each_size(put_one);
    each_size(is_there);
    spill_flush(store);
    each_size(is_durable);
    assert_false(has(key_of('q', 0, 0)));
    assert_false(get(key_of('p', 1, 0), 0, false));
    uint64_t bytes = spill_bytes(store);
    close_store();
    open_store(1 << 30);
    each_size(is_durable);
    assert_int_equal(spill_bytes(store), bytes);
    assert_int_equal(lines.count, 0);
}

static void test_put__compresses_where_that_pays(void **state) {
    (void)state;
    open_store(1 << 30);
    put_into(store, key_of('a', 1, 1), 100000, true);
    spill_flush(store);
    assert_int_equal(spill_bytes(store), SPILL_HEADER + 100000);
    put_into(store, key_of('a', 1, 2), 100000, false);
    spill_flush(store);
    assert_in_range(spill_bytes(store), 2 * SPILL_HEADER + 100001, 2 * SPILL_HEADER + 101000);
}

static void test_put__of_the_same_key_is_only_a_use(void **state) {
    (void)state;
    struct spill_part other = {"other", 5};
    struct spill_key key = key_of('a', 1, 1);
    open_store(1000000);
    put(key, 1000);
    CHECKED(spill_put(store, &key, &other, 1, &error));
    spill_flush(store);
    CHECKED(spill_put(store, &key, &other, 1, &error));
    spill_flush(store);
    assert_true(get(key, 1000, true));
    assert_int_equal(spill_bytes(store), SPILL_HEADER + 1000);
}

static void test_put__refuses_what_is_too_large(void **state) {
    (void)state;
    struct sonde_error e;
    struct spill_key key = key_of('a', 1, 1);
    struct spill_part much[2] = {{NULL, (size_t)1 << 34}, {"x", 1}}, more[2] = {{NULL, SIZE_MAX}, {NULL, SIZE_MAX}};
    open_store(1000);
    assert_int_equal(spill_put(store, &key, much, 2, &e), SONDE_ERROR_ARGUMENT);
    assert_int_equal(spill_put(store, &key, more, 2, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, "a piece to be stored has more than 17179869184 bytes");
}

static void test_lengths__of_a_kind(void **state) {
    (void)state;
    open_store(1000000);
    static const uint64_t put_in[] = {2048, 1024, UINT64_MAX, 2048, 0, 512};
    for (size_t i = 0; i < COUNT_OF(put_in); i++)
        put(key_of('p', put_in[i], i), 100);
    put(key_of('s', 77, 1), 100);
    put(key_of('a', 99, 1), 100);
    spill_flush(store);
    for (int i = 0; i < 2; i++) {
        lengths_are('p', UINT64_MAX, "0 512 1024 2048 18446744073709551615 ");
        lengths_are('p', 2048, "0 512 1024 2048 ");
        lengths_are('p', 2047, "0 512 1024 ");
        lengths_are('p', 0, "0 ");
        lengths_are('s', 1000, "77 ");
        lengths_are('s', 76, "");
        lengths_are('q', 1000, "");
        close_store();
        open_store(1000000);
    }
    spill_remove(store, &(struct spill_key){'p', 2048, {key_of('p', 0, 0).hash[0], 0}});
    lengths_are('p', 5000, "0 512 1024 2048 ");
    struct spill_key other = key_of('p', 2048, 3);
    spill_remove(store, &other);
    lengths_are('p', 5000, "0 512 1024 ");
}

/* ------------------------------------------------------------------------------------- in between */

static void test_queue__counts_only_what_is_durable(void **state) {
    (void)state;
    open_store(100000);
    hold_up();
    put(key_of('p', 5, 1), 1000);
    assert_false(has(key_of('p', 5, 1)));
    lengths_are('p', 100, "");
    assert_int_equal(spill_bytes(store), 0);
    assert_true(get(key_of('p', 5, 1), 1000, true));
    release();
    spill_flush(store);
    assert_true(has(key_of('p', 5, 1)));
    lengths_are('p', 100, "5 ");
}

static void test_remove__also_what_waits(void **state) {
    (void)state;
    open_store(100000);
    hold_up();
    for (uint64_t n = 0; n < 4; n++)
        put(key_of('p', 5, n), 1000);
    struct spill_key first = key_of('p', 5, 0), second = key_of('p', 5, 1);
    spill_remove(store, &first);
    spill_remove(store, &second);
    assert_false(get(first, 1000, true));
    put(second, 1000);
    release();
    spill_flush(store);
    assert_false(has(first));
    assert_true(has(second));
    assert_int_equal(files_ending(".sonde", NULL), 3);
    spill_remove(store, &second);
    spill_remove(store, &second);
    assert_false(get(second, 1000, true));
    assert_int_equal(files_ending(".sonde", NULL), 2);
    assert_int_equal(spill_bytes(store), 2 * (SPILL_HEADER + 1000));
}

static void test_remove__while_it_is_written(void **state) {
    (void)state;
    open_store((uint64_t)1 << 30);
    for (uint64_t n = 0; n < 40; n++) {
        struct spill_key key = key_of('p', 5, n);
        put(key, 200000);
        usleep((unsigned)(n * 37 % 400));
        spill_remove(store, &key);
    }
    spill_flush(store);
    assert_int_equal(spill_bytes(store), 0);
    assert_int_equal(files_ending(".sonde", NULL) + files_ending(".tmp", NULL), 0);
}

/* True if the only file's time of modification is later than its creation. */
static bool file_was_used_again(void) {
    char name[256];
    struct stat st;
    struct buf b = {0};
    int64_t created;
    assert_int_equal(files_ending(".sonde", name), 1);
    assert_int_equal(stat(path_of(name), &st), 0);
    CHECKED(file_read(path_of(name), 1 << 20, &b, &error));
    memcpy(&created, b.data + 72, sizeof(created));
    buf_release(&b);
    return spill_time(st.st_mtim) > created;
}

static void test_touch__while_it_is_written(void **state) {
    (void)state;
    open_store((uint64_t)1 << 30);
    for (uint64_t n = 0; n < 60; n++) {
        struct spill_key key = key_of('p', 5, n);
        put(key, 200000);
        usleep((unsigned)(n * 37 % 1000));
        if (n)
            spill_touch(store, &key);
        spill_flush(store);
        assert_int_equal(file_was_used_again(), n > 0);
        spill_remove(store, &key);
    }
}

static void test_close__writes_what_waits(void **state) {
    (void)state;
    open_store(1 << 30);
    for (uint64_t n = 0; n < 50; n++)
        put(key_of('p', n, n), 5000);
    close_store();
    open_store(1 << 30);
    for (uint64_t n = 0; n < 50; n++)
        assert_true(get(key_of('p', n, n), 5000, true));
}

struct late {
    atomic_int done;
    void *zeros;
};

enum { MUCH = 40 << 20 };

static void *put_late(void *context) {
    struct late *late = context;
    struct spill_key key = key_of('p', 1, 2);
    struct spill_part part = {late->zeros, MUCH};
    spill_put(store, &key, &part, 1, NULL);
    atomic_store(&late->done, 1);
    return NULL;
}

static void test_queue__is_bounded(void **state) {
    (void)state;
    pthread_t thread;
    struct late late = {.zeros = calloc(1, MUCH)};
    struct spill_part half = {late.zeros, MUCH};
    struct spill_key key = key_of('p', 1, 1);
    assert_non_null(late.zeros);
    open_store(1 << 20); /* zeros, so that even these fit compressed */
    hold_up();
    CHECKED(spill_put(store, &key, &half, 1, &error));
    assert_int_equal(pthread_create(&thread, NULL, put_late, &late), 0);
    usleep(100000);
    assert_false(atomic_load(&late.done));
    release();
    pthread_join(thread, NULL);
    struct spill_part alone[2] = {half, half};
    struct spill_key large = key_of('p', 1, 3);
    CHECKED(spill_put(store, &large, alone, 2, &error));
    spill_flush(store);
    assert_true(has(key) && has(key_of('p', 1, 2)) && has(large));
    free(late.zeros);
}

/* ------------------------------------------------------------------------------------ the limit */

/* The rule of cache.h over a list. */
struct listed {
    struct spill_key key;
    uint64_t bytes;
    uint64_t used; /* 0: not there */
    bool again;
};

enum { KEYS = 60 };

static struct listed list[KEYS];
static uint64_t now;

static uint64_t listed_bytes(bool once_only) {
    uint64_t sum = 0;
    for (int i = 0; i < KEYS; i++)
        if (list[i].used && !(once_only && list[i].again))
            sum += list[i].bytes;
    return sum;
}

static void list_put(struct listed *l, uint64_t limit) {
    while (listed_bytes(false) + l->bytes > limit) {
        bool once_only = listed_bytes(true) > limit / 4;
        struct listed *victim = NULL;
        for (int i = 0; i < KEYS; i++)
            if (list[i].used && !(once_only && list[i].again) && (!victim || list[i].used < victim->used))
                victim = &list[i];
        assert_non_null(victim);
        victim->used = 0;
    }
    l->used = ++now;
    l->again = false;
}

static void list_use(struct listed *l) {
    if (!l->used)
        return;
    l->used = ++now;
    l->again = true;
}

static void same_as_list(uint64_t limit) {
    for (int i = 0; i < KEYS; i++)
        if (has(list[i].key) != (list[i].used != 0))
            fail_msg("piece %d", i);
    assert_int_equal(spill_bytes(store), listed_bytes(false));
    assert_true(spill_bytes(store) <= limit);
}

static void do_one(struct rng *r, uint64_t limit) {
    struct listed *l = &list[rng_u64(r) % KEYS];
    size_t size = (size_t)l->bytes - SPILL_HEADER;
    switch (rng_u64(r) % 8) {
    case 0:
        assert_int_equal(get(l->key, size, true), l->used != 0);
        list_use(l);
        break;
    case 1:
        spill_touch(store, &l->key);
        list_use(l);
        break;
    case 2:
        if (rng_u64(r) % 4)
            return;
        spill_remove(store, &l->key);
        l->used = 0;
        break;
    case 3:
        if (rng_u64(r) % 8)
            return;
        close_store();
        open_store(limit);
        break;
    default:
        put(l->key, size);
        spill_flush(store);
        if (l->used)
            list_use(l);
        else
            list_put(l, limit);
    }
}

static void test_limit__keeps_what_a_list_keeps(void **state) {
    (void)state;
    struct rng r;
    const uint64_t limit = 40000;
    rng_init(&r, 11);
    for (uint64_t i = 0; i < KEYS; i++)
        list[i] =
            (struct listed){key_of((uint8_t)('a' + i % 3), i % 5, i), SPILL_HEADER + rng_u64(&r) % 3000, 0, false};
    open_store(limit);
    for (int i = 0; i < 1000; i++) {
        do_one(&r, limit);
        same_as_list(limit);
    }
    assert_int_equal(lines.count, 0);
}

/* Pieces of 1000 bytes with their headers. */
static void put_thousand(uint64_t n) {
    put(key_of('p', 1, n), 1000 - SPILL_HEADER);
    spill_flush(store);
}

static void test_limit__what_was_used_again_stays_longer(void **state) {
    (void)state;
    open_store(8000);
    for (uint64_t n = 0; n < 8; n++)
        put_thousand(n);
    for (uint64_t n = 0; n < 5; n++) {
        struct spill_key key = key_of('p', 1, n);
        spill_touch(store, &key);
    }
    put_thousand(8); /* 5, 6, 7 were used once: more than a quarter */
    there_are("01234678");
    close_store();
    open_store(8000);
    put_thousand(9);
    there_are("01234789");
    struct spill_key seven = key_of('p', 1, 7);
    spill_touch(store, &seven);
    put_thousand(5); /* 8 and 9 are a quarter: of all, 0 was used longest ago */
    there_are("12345789");
}

static void test_limit__holds_for_what_is_found(void **state) {
    (void)state;
    open_store(8000);
    for (uint64_t n = 0; n < 8; n++)
        put_thousand(n);
    close_store();
    open_store(3500);
    there_are("567");
    assert_int_equal(spill_bytes(store), 3000);
    assert_int_equal(files_ending(".sonde", NULL), 3);
}

static void test_limit__of_pieces_used_at_the_same_time(void **state) {
    (void)state;
    static const struct timespec same[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    struct spill_key keys[4] = {key_of('b', 9, 0), key_of('b', 3, 1), key_of('a', 9, 2), key_of('a', 3, 3)};
    open_store(4000);
    for (size_t i = 0; i < 4; i++)
        put(keys[3 - i], 1000 - SPILL_HEADER);
    close_store();
    DIR *d = opendir(store_path);
    for (struct dirent *entry; (entry = readdir(d));)
        if (strstr(entry->d_name, ".sonde"))
            assert_int_equal(utimensat(AT_FDCWD, path_of(entry->d_name), same, 0), 0);
    closedir(d);
    open_store(4000);
    for (size_t gone = 1; gone <= 4; gone++) {
        put(key_of('p', 1, gone), 1000 - SPILL_HEADER);
        spill_flush(store);
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(has(keys[i]), i >= gone);
    }
}

static void test_limit__a_piece_larger_than_it(void **state) {
    (void)state;
    open_store(8000);
    put_thousand(1);
    put(key_of('p', 1, 2), 8000);
    spill_flush(store);
    there_are("1");
    assert_int_equal(lines.count, 1);
    assert_non_null(strstr(lines.last, "a piece of 8128 bytes, where all may have 8000"));
    assert_int_equal(files_ending(".tmp", NULL), 0);
}

/* ------------------------------------------------------------------------------------------ kill -9 */

enum { ROUNDS = 64, FLUSH = 5 };

static size_t killed_bytes(uint64_t n) {
    return (size_t)(n * 7919 % 60000);
}

static struct spill_key killed_key(uint64_t n) {
    return key_of((uint8_t)('a' + n % 3), n % 40, n);
}

/* Puts pieces from n on, and says which are durable, until it is killed. */
static void put_until_killed(uint64_t n, int pipe) {
    struct spill_options o = options_of((uint64_t)1 << 40, 7);
    uint8_t *data = malloc(60000);
    if (!data || spill_open(&o, &store, NULL))
        _exit(1);
    for (;; n++) {
        struct spill_key key = killed_key(n);
        struct spill_part part = {data, killed_bytes(n)};
        fill(data, part.bytes, n, n % 2);
        spill_put(store, &key, &part, 1, NULL);
        if (n % FLUSH)
            continue;
        spill_flush(store);
        if (write(pipe, &n, sizeof(n)) != sizeof(n))
            _exit(1);
    }
}

/* One child's life: it ends at any moment, at once or after it has told of something. Pieces below the result
 * were durable. */
static uint64_t live_and_die(uint64_t from, bool patient, struct rng *r) {
    int ends[2], status;
    uint64_t durable = from, n;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        put_until_killed(from, ends[1]);
    close(ends[1]);
    if (patient && read(ends[0], &n, sizeof(n)) == sizeof(n))
        durable = n + 1;
    usleep((unsigned)(rng_u64(r) % 30000));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    while (read(ends[0], &n, sizeof(n)) == sizeof(n))
        durable = n + 1;
    close(ends[0]);
    return durable;
}

/* Durable pieces are there; the others whole or not at all. Where the next child begins: behind all of them. */
static uint64_t look_after(uint64_t from, uint64_t durable) {
    uint64_t next = durable;
    open_store((uint64_t)1 << 40);
    assert_int_equal(files_ending(".tmp", NULL), 0);
    for (uint64_t n = from; n < durable + 2 * FLUSH; n++) {
        bool there = get(killed_key(n), killed_bytes(n), n % 2);
        if (n < durable && !there)
            fail_msg("piece %llu was durable and is not there", (unsigned long long)n);
        next = there && n >= next ? n + 1 : next;
    }
    close_store();
    return next;
}

static void test_kill__what_was_durable_is_there_and_all_is_whole(void **state) {
    (void)state;
    struct rng r;
    uint64_t next = 1;
    static bool durable[1 << 20];
    rng_init(&r, (uint64_t)(clock_seconds() * 1e6));
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t from = next, until = live_and_die(from, round % 2, &r);
        assert_true(until > from || round % 2 == 0);
        next = look_after(from, until);
        for (uint64_t n = from; n < until && n < COUNT_OF(durable); n++)
            durable[n] = true;
    }
    open_store((uint64_t)1 << 40);
    for (uint64_t n = 0; n < next && n < COUNT_OF(durable); n++)
        if (!get(killed_key(n), killed_bytes(n), n % 2) && durable[n])
            fail_msg("piece %llu was durable and is gone", (unsigned long long)n);
    assert_int_equal(lines.count, 0);
}

/* ---------------------------------------------------------------------------------------- scale */

static void test_index__a_hundred_thousand_pieces(void **state) {
    (void)state;
    enum { PIECES = 100000 };
    struct spill_index x;
    spill_index_init(&x);
    for (uint64_t n = 0; n < PIECES; n++) {
        struct spill_piece p = {.key = key_of('p', n * 7919 % 5000, n), .bytes = 10, .used = (int64_t)(n * 31 % 1000)};
        p.again = n % 3 == 0;
        CHECKED(spill_index_push(&x, &p, &error));
    }
    spill_index_build(&x);
    uint64_t bytes = (uint64_t)x.room * (sizeof(*x.pieces) + sizeof(*x.lengths)) + x.slot_count * sizeof(*x.slots);
    assert_true(bytes < (uint64_t)200 * PIECES);
    for (uint64_t n = 0; n < PIECES; n++) {
        struct spill_key key = key_of('p', n * 7919 % 5000, n);
        uint32_t at = spill_index_find(&x, &key);
        assert_int_not_equal(at, SPILL_NONE);
        assert_int_equal(x.pieces[at].used, n * 31 % 1000);
    }
    int64_t last = 0;
    for (uint64_t left = PIECES; left; left--) {
        assert_int_equal(spill_index_bytes(&x), 10 * left);
        uint32_t at = spill_index_victim(&x, 10 * PIECES);
        if (x.once.bytes <= 10 * PIECES / 4)
            break;
        assert_true(!x.pieces[at].again && x.pieces[at].used >= last);
        last = x.pieces[at].used;
        spill_index_remove(&x, at);
    }
    for (uint32_t at; (at = spill_index_victim(&x, 10 * PIECES)) != SPILL_NONE;)
        spill_index_remove(&x, at);
    assert_int_equal(x.length_count, 0);
    assert_int_equal(spill_index_bytes(&x), 0);
    spill_index_release(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_get__gives_what_was_put),
        TEST(test_put__compresses_where_that_pays),
        TEST(test_put__of_the_same_key_is_only_a_use),
        TEST(test_put__refuses_what_is_too_large),
        TEST(test_lengths__of_a_kind),
        TEST(test_queue__counts_only_what_is_durable),
        TEST(test_remove__also_what_waits),
        TEST(test_remove__while_it_is_written),
        TEST(test_touch__while_it_is_written),
        TEST(test_close__writes_what_waits),
        TEST(test_queue__is_bounded),
        TEST(test_limit__keeps_what_a_list_keeps),
        TEST(test_limit__what_was_used_again_stays_longer),
        TEST(test_limit__holds_for_what_is_found),
        TEST(test_limit__of_pieces_used_at_the_same_time),
        TEST(test_limit__a_piece_larger_than_it),
        TEST(test_kill__what_was_durable_is_there_and_all_is_whole),
        TEST(test_index__a_hundred_thousand_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
