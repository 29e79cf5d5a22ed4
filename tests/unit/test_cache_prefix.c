/* test_cache_prefix.c - the tree over token ids, by example and against a list that does the same the slow way. */
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/base.h"
#include "cache/cache.h"

static struct prefix_tree *tree;

static int set_up(void **state) {
    (void)state;
    struct sonde_error e;
    return prefix_open(&tree, &e);
}

static int tear_down(void **state) {
    (void)state;
    prefix_close(tree, NULL, NULL);
    return 0;
}

static int values[1000];

/* Keys as strings, an id a letter. */
static uint64_t ids_of(const char *key, int32_t *ids) {
    uint64_t n = strlen(key);
    for (uint64_t i = 0; i < n; i++)
        ids[i] = key[i];
    return n;
}

static void *put(const char *key, void *value) {
    int32_t ids[100];
    struct sonde_error e;
    void *old;
    uint64_t n = ids_of(key, ids);
    assert_int_equal(prefix_put(tree, ids, n, value, &old, &e), 0);
    assert_true(prefix_check(tree));
    return old;
}

static struct prefix_match find(const char *key) {
    int32_t ids[100];
    uint64_t n = ids_of(key, ids);
    return prefix_find(tree, ids, n);
}

static void found(const char *key, void *value, uint64_t length, uint64_t fork) {
    struct prefix_match m = find(key);
    assert_ptr_equal(m.value, value);
    assert_int_equal(m.length, length);
    assert_int_equal(m.fork, fork);
}

static void test_find__the_longest_key_that_begins_a_text(void **state) {
    (void)state;
    found("anything", NULL, 0, 0);
    put("system", &values[0]);
    put("system hello", &values[1]);
    found("system hello world", &values[1], 12, 0);
    found("system hello", &values[1], 12, 0);
    found("system help", &values[0], 6, 10);
    found("system", &values[0], 6, 0);
    found("sys", NULL, 0, 3);
    found("other", NULL, 0, 0);
}

static void test_find__tells_where_texts_part(void **state) {
    (void)state;
    put("system one", &values[0]);
    put("system two", &values[1]);
    found("system three", NULL, 0, 8);
    found("system x", NULL, 0, 7);
    put("system ", &values[2]);
    found("system three", &values[2], 7, 8);
    found("system x", &values[2], 7, 0);
}

static void test_put__replaces(void **state) {
    (void)state;
    assert_null(put("key", &values[0]));
    assert_ptr_equal(put("key", &values[1]), &values[0]);
    assert_int_equal(prefix_values(tree), 1);
    assert_int_equal(prefix_ids(tree), 3);
}

static void test_remove_oldest__is_by_last_use(void **state) {
    (void)state;
    put("a", &values[0]);
    put("ab", &values[1]);
    put("b", &values[2]);
    find("a");
    assert_ptr_equal(prefix_remove_oldest(tree), &values[1]);
    assert_ptr_equal(prefix_remove_oldest(tree), &values[2]);
    assert_ptr_equal(prefix_remove_oldest(tree), &values[0]);
    assert_null(prefix_remove_oldest(tree));
    assert_int_equal(prefix_ids(tree), 0);
    assert_true(prefix_check(tree));
}

/* The same in a list. */
enum { KEYS = 1000, LETTERS = 3, LONGEST = 12 };
static struct {
    char key[LONGEST + 1];
    bool there;
} list[KEYS];

static void random_key(struct rng *r, char *key) {
    uint64_t n = 1 + rng_u64(r) % LONGEST;
    for (uint64_t i = 0; i < n; i++)
        key[i] = (char)('a' + rng_u64(r) % LETTERS);
    key[n] = 0;
}

static int listed(const char *key) {
    for (int i = 0; i < KEYS; i++)
        if (list[i].there && strcmp(list[i].key, key) == 0)
            return i;
    return -1;
}

static void put_both(const char *key) {
    int at = listed(key), i = 0;
    while (list[i].there)
        i++;
    void *old = put(key, &values[i]);
    assert_ptr_equal(old, at < 0 ? NULL : &values[at]);
    if (at >= 0)
        list[at].there = false;
    strcpy(list[i].key, key);
    list[i].there = true;
}

static void remove_both(const char *key) {
    int32_t ids[LONGEST];
    uint64_t n = ids_of(key, ids);
    int at = listed(key);
    assert_ptr_equal(prefix_remove(tree, ids, n), at < 0 ? NULL : &values[at]);
    assert_true(prefix_check(tree));
    if (at >= 0)
        list[at].there = false;
}

static void find_both(const char *key) {
    int best = -1;
    for (int i = 0; i < KEYS; i++)
        if (list[i].there && strncmp(key, list[i].key, strlen(list[i].key)) == 0 &&
            (best < 0 || strlen(list[i].key) > strlen(list[best].key)))
            best = i;
    struct prefix_match m = find(key);
    assert_ptr_equal(m.value, best < 0 ? NULL : &values[best]);
    assert_int_equal(m.length, best < 0 ? 0 : strlen(list[best].key));
    assert_true(m.fork == 0 || (m.fork > m.length && m.fork <= strlen(key)));
}

static void test_tree__does_as_a_list_does(void **state) {
    (void)state;
    struct rng r;
    rng_init(&r, 1);
    memset(list, 0, sizeof(list));
    for (int i = 0; i < 5000; i++) {
        char key[LONGEST + 1];
        random_key(&r, key);
        switch (rng_u64(&r) % 4) {
        case 0:
        case 1:
            if (prefix_values(tree) < KEYS / 2)
                put_both(key);
            break;
        case 2:
            remove_both(key);
            break;
        default:
            find_both(key);
        }
    }
    for (void *value; (value = prefix_remove_oldest(tree));)
        list[(int *)value - values].there = false;
    for (int i = 0; i < KEYS; i++)
        assert_false(list[i].there);
}

static void count_drop(void *context, void *value) {
    (void)value;
    ++*(int *)context;
}

static void test_close__drops_every_value(void **state) {
    (void)state;
    int dropped = 0;
    put("one", &values[0]);
    put("one two", &values[1]);
    prefix_close(tree, count_drop, &dropped);
    assert_int_equal(dropped, 2);
    struct sonde_error e;
    assert_int_equal(prefix_open(&tree, &e), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_find__the_longest_key_that_begins_a_text),
        TEST(test_find__tells_where_texts_part),
        TEST(test_put__replaces),
        TEST(test_remove_oldest__is_by_last_use),
        TEST(test_tree__does_as_a_list_does),
        TEST(test_close__drops_every_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
