/* test_base.c - errors, buffers, arenas, files, JSON, chance. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "base/base.h"

static void test_err__keeps_the_sentence_on_one_line(void **state) {
    (void)state;
    struct sonde_error e;
    assert_int_equal(err_set(&e, SONDE_ERROR_FORMAT, "tensor %s: bad", "a\nb\x1b[31m"), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, "tensor a?b?[31m: bad");
    assert_int_equal(e.code, SONDE_ERROR_FORMAT);
    assert_int_equal(err_set(NULL, SONDE_ERROR_IO, "nobody reads"), SONDE_ERROR_IO);
}

static void test_err__shortens_what_is_too_long(void **state) {
    (void)state;
    struct sonde_error e;
    char name[2000];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    err_set(&e, SONDE_ERROR_FORMAT, "%s", name);
    assert_int_equal(strlen(e.message), sizeof(e.message) - 1);
    assert_string_equal(e.message + sizeof(e.message) - 4, "...");
}

static void test_err__names_codes(void **state) {
    (void)state;
    assert_string_equal(sonde_code_name(SONDE_OK), "OK");
    assert_string_equal(sonde_code_name(SONDE_ERROR_CONTEXT), "CONTEXT");
    assert_string_equal(sonde_code_name(-99), "UNKNOWN");
}

static void test_size__refuses_overflow(void **state) {
    (void)state;
    uint64_t out = 7;
    assert_false(size_mul(UINT64_MAX / 2, 3, &out));
    assert_false(size_add(UINT64_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(size_mul(6, 7, &out));
    assert_int_equal(out, 42);
    assert_int_equal(ceil_div(257, 128), 3);
    assert_int_equal(ceil_div(0, 128), 0);
}

static void test_buf__grows_and_is_taken(void **state) {
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "%d,", i % 10);
    buf_string(&b, "end");
    buf_byte(&b, 0);
    assert_int_equal(b.len, 2004);
    char *data;
    size_t n;
    assert_int_equal(buf_take(&b, &data, &n, NULL), 0);
    assert_int_equal(n, 2004);
    assert_memory_equal(data + 1998, "9,end", 6);
    assert_null(b.data);
    free(data);
    assert_int_equal(buf_take(&b, &data, NULL, NULL), 0);
    assert_string_equal(data, "");
    free(data);
}

static void test_buf__failure_sticks(void **state) {
    (void)state;
    struct buf b = {0};
    struct sonde_error e;
    char *data;
    buf_string(&b, "abc");
    b.len = SIZE_MAX - 2; /* the next append cannot be sized */
    buf_string(&b, "def");
    assert_true(b.failed);
    buf_string(&b, "ghi");
    assert_int_equal(buf_take(&b, &data, NULL, &e), SONDE_ERROR_MEMORY);
    assert_string_equal(e.message, "out of memory");
}

static void test_arena__counts_then_places_the_same(void **state) {
    (void)state;
    struct arena count = {0};
    arena_take(&count, 3, 4);
    arena_take(&count, 100, 1);
    assert_int_equal(count.used, 64 + 128);
    struct arena a = {.base = aligned_alloc(64, count.used), .size = count.used};
    uint8_t *first = arena_take(&a, 3, 4), *second = arena_take(&a, 100, 1);
    assert_ptr_equal(first, a.base);
    assert_ptr_equal(second, a.base + 64);
    assert_int_equal(a.used, a.size);
    free(a.base);
}

static void test_file__is_replaced_whole(void **state) {
    (void)state;
    char path[] = "/tmp/sonde-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct sonde_error e;
    assert_int_equal(file_write(path, "hello", 5, &e), 0);
    struct file_map map;
    assert_int_equal(file_map_open(path, &map, &e), 0);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    file_map_close(&map);
    struct buf b = {0};
    assert_int_equal(file_read(path, 4, &b, &e), SONDE_ERROR_FORMAT);
    buf_release(&b);
    assert_int_equal(file_read(path, 5, &b, &e), 0);
    assert_string_equal(b.data, "hello");
    buf_release(&b);
    unlink(path);
    assert_int_equal(file_map_open(path, &map, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, path));
    assert_int_equal(file_map_open("/tmp", &map, &e), SONDE_ERROR_IO);
    assert_int_equal(file_write("/nonexistent/x", "a", 1, &e), SONDE_ERROR_IO);
}

static void test_file__a_full_disk_leaves_the_old_file(void **state) {
    (void)state;
    struct sonde_error e;
    assert_int_equal(file_write("/dev/full/x", "a", 1, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "/dev/full/x"));
}

static void test_json__names_source_and_line(void **state) {
    (void)state;
    struct sonde_error e;
    json_t *v = NULL;
    const char *bad = "{\n\"a\": 1,\n\"a\": 2}";
    assert_int_equal(json_parse(bad, strlen(bad), "config.json", &v, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "config.json: not valid JSON, line 3"));
    assert_null(v);
    assert_int_equal(json_parse("[1]", 3, "x", &v, &e), 0);
    assert_int_equal(json_array_size(v), 1);
    json_decref(v);
}

static void test_rng__is_the_same_everywhere(void **state) {
    (void)state;
    struct rng r;
    rng_init(&r, 0);
    assert_int_equal(rng_u64(&r), 0x99ec5f36cb75f2b4u);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double u = rng_unit(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(sum > 49500 && sum < 50500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err__keeps_the_sentence_on_one_line),
        cmocka_unit_test(test_err__shortens_what_is_too_long),
        cmocka_unit_test(test_err__names_codes),
        cmocka_unit_test(test_size__refuses_overflow),
        cmocka_unit_test(test_buf__grows_and_is_taken),
        cmocka_unit_test(test_buf__failure_sticks),
        cmocka_unit_test(test_arena__counts_then_places_the_same),
        cmocka_unit_test(test_file__is_replaced_whole),
        cmocka_unit_test(test_file__a_full_disk_leaves_the_old_file),
        cmocka_unit_test(test_json__names_source_and_line),
        cmocka_unit_test(test_rng__is_the_same_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
