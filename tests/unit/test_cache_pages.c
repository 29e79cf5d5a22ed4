/* test_cache_pages.c - pages: who holds them, how large they are. */
#include "test.h"

#include "cache/cache.h"

static void test_pages__return_when_nobody_holds_them(void **state) {
    (void)state;
    struct cache_pages *p;
    struct sonde_error e;
    assert_int_equal(cache_pages_open(3, &p, &e), 0);
    uint32_t a = cache_pages_take(p), b = cache_pages_take(p), c = cache_pages_take(p);
    assert_true(a < 3 && b < 3 && c < 3 && a != b && b != c && a != c);
    assert_int_equal(cache_pages_unused(p), 0);
    cache_pages_share(p, b);
    assert_true(cache_pages_shared(p, b));
    cache_pages_drop(p, b);
    assert_false(cache_pages_shared(p, b));
    assert_int_equal(cache_pages_unused(p), 0);
    cache_pages_drop(p, b);
    assert_int_equal(cache_pages_unused(p), 1);
    assert_int_equal(cache_pages_take(p), b);
    cache_pages_close(p);
}

static void test_page__ends_between_entries_of_all_layers(void **state) {
    (void)state;
    static const struct cache_layer_spec released[] = {{.ratio = 0}, {.ratio = 4}, {.ratio = 128}};
    static const struct cache_layer_spec odd[] = {{.ratio = 3}, {.ratio = 4}, {.ratio = 5}};
    static const struct cache_layer_spec large[] = {{.ratio = 65537}, {.ratio = 65539}};
    assert_int_equal(cache_page_tokens(released, 3, 1), 128);
    assert_int_equal(cache_page_tokens(released, 3, 1000), 1024);
    assert_int_equal(cache_page_tokens(odd, 3, 1), 1920);
    assert_int_equal(cache_page_tokens(large, 2, 1), 0);
}

static void test_page__has_room_for_every_layer(void **state) {
    (void)state;
    static const struct cache_layer_spec specs[] = {
        {.ratio = 0, .key_bytes = 584},
        {.ratio = 4, .key_bytes = 584, .index_key_bytes = 68},
        {.ratio = 128, .key_bytes = 584},
    };
    struct cache_page_part parts[3];
    uint64_t bytes = cache_page_layout(specs, 3, 1024, parts);
    assert_int_equal(bytes, 256 * (584 + 68) + 8 * 584);
    assert_int_equal(parts[0].rows, 0);
    assert_int_equal(parts[1].rows, 256);
    assert_int_equal(parts[1].index_keys - parts[1].entries, 256 * 584);
    assert_int_equal(parts[2].rows, 8);
    assert_int_equal(parts[2].entries - parts[1].index_keys, 256 * 68);
    assert_int_equal(cache_page_layout(specs, 3, 1024, NULL), bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages__return_when_nobody_holds_them),
        cmocka_unit_test(test_page__ends_between_entries_of_all_layers),
        cmocka_unit_test(test_page__has_room_for_every_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
