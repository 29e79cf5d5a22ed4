/*
 * test_checkpoint_safetensors.c - one file at a time: what is parsed from headers sound and odd, and that what
 * is written comes back. Malformed headers that a checkpoint can meet are in test_checkpoint_malformed.c.
 */
#include <errno.h>
#include <fcntl.h>

#include "checkpoint_scratch.h"

/* Parses a header over `data_bytes` bytes of data that are not there. */
static int parse(const char *json, uint64_t data_bytes, struct safetensors **s, struct sonde_error *e) {
    struct buf b = {0};
    uint64_t n = strlen(json);
    for (int i = 0; i < 8; i++)
        buf_byte(&b, (char)(n >> 8 * i & 255));
    buf_string(&b, json);
    int rc = safetensors_parse((const uint8_t *)b.data, b.len, NULL, b.len + data_bytes, "x", s, e);
    buf_release(&b);
    return rc;
}

static struct safetensors *parsed(const char *json, uint64_t data_bytes) {
    struct safetensors *s = NULL;
    struct sonde_error e;
    if (parse(json, data_bytes, &s, &e))
        fail_msg("%s", e.message);
    return s;
}

static void test_parse__reads_tensors_in_order_of_offset(void **state) {
    (void)state;
    const char *json = "{\"b\": {\"dtype\": \"F32\", \"shape\": [2, 3], \"data_offsets\": [4, 28]}, "
                       "\"__metadata__\": {\"format\": \"pt\"}, "
                       "\"a\": {\"dtype\": \"I16\", \"shape\": [2], \"data_offsets\": [0, 4]}}   ";
    struct safetensors *s = parsed(json, 28);
    assert_int_equal(safetensors_count(s), 2);
    const struct tensor *a = safetensors_at(s, 0), *b = safetensors_at(s, 1);
    assert_string_equal(a->name, "a");
    assert_string_equal(a->spelled, "a");
    assert_int_equal(a->dtype, DTYPE_I16);
    assert_int_equal(a->offset, 8 + strlen(json));
    assert_null(a->data);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_ptr_equal(safetensors_find(s, "b"), b);
    assert_ptr_equal(safetensors_find(s, "a"), a);
    assert_null(safetensors_find(s, "c"));
    assert_null(safetensors_find(s, "__metadata__"));
    safetensors_close(s);
}

static void test_parse__points_into_the_given_bytes(void **state) {
    static const char file[] =
        "\x3c\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}       abc";
    struct safetensors *s;
    (void)state;
    assert_int_equal(safetensors_parse((const uint8_t *)file, sizeof(file) - 1, (const uint8_t *)file, sizeof(file) - 1,
                                       "x", &s, NULL),
                     0);
    assert_memory_equal(safetensors_at(s, 0)->data, "abc", 3);
    safetensors_close(s);
}

static void test_parse__takes_scalars_and_tensors_without_elements(void **state) {
    (void)state;
    struct safetensors *s = parsed("{\"scalar\": {\"dtype\": \"F64\", \"shape\": [], \"data_offsets\": [0, 8]}, "
                                   "\"none\": {\"dtype\": \"F32\", \"shape\": [0, 7], \"data_offsets\": [8, 8]}, "
                                   "\"nil\": {\"dtype\": \"F32\", \"shape\": [7, 0], \"data_offsets\": [0, 0]}}",
                                   8);
    assert_int_equal(safetensors_find(s, "scalar")->rank, 0);
    assert_int_equal(safetensors_find(s, "scalar")->bytes, 8);
    assert_int_equal(safetensors_find(s, "none")->bytes, 0);
    assert_int_equal(safetensors_find(s, "none")->dims[1], 7);
    safetensors_close(s);
    s = parsed("{}", 0);
    assert_int_equal(safetensors_count(s), 0);
    assert_null(safetensors_find(s, "a"));
    safetensors_close(s);
}

static void test_parse__keeps_what_it_does_not_know_as_bytes(void **state) {
    (void)state;
    struct safetensors *s =
        parsed("{\"a\": {\"dtype\": \"F8_E5M2\", \"shape\": [5], \"data_offsets\": [0, 5]}, "
               "\"b\": {\"dtype\": \"F32\", \"shape\": [1, 1, 1, 1, 1, 2], \"data_offsets\": [5, 13]}, "
               "\"c\": {\"dtype\": \"a dtype with a name so long that nobody would print it\", \"shape\": [], "
               "\"data_offsets\": [13, 14]}}",
               14);
    const struct tensor *a = safetensors_find(s, "a"), *b = safetensors_find(s, "b"), *c = safetensors_find(s, "c");
    assert_string_equal(a->foreign, "dtype F8_E5M2");
    assert_int_equal(a->dtype, DTYPE_U8);
    assert_int_equal(a->rank, 1);
    assert_int_equal(a->dims[0], 5);
    assert_string_equal(b->foreign, "6 dimensions");
    assert_int_equal(b->rank, 1);
    assert_int_equal(b->dims[0], 8);
    assert_int_equal(b->dims[1], 0);
    assert_string_equal(c->foreign, "dtype a dtype with a name ");
    safetensors_close(s);
}

static void refused(const char *json, uint64_t data_bytes, const char *message) {
    struct safetensors *s = (struct safetensors *)8;
    struct sonde_error e;
    assert_int_equal(parse(json, data_bytes, &s, &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, message);
    assert_ptr_equal(s, (struct safetensors *)8);
}

/* Of too many dimensions, still of the right size; an empty tensor does not hide in another's bytes. */
static void test_parse__checks_what_it_will_not_use(void **state) {
    (void)state;
    refused("{\"b\": {\"dtype\": \"F32\", \"shape\": [1, 1, 1, 1, 1, 2], \"data_offsets\": [0, 4]}}", 4,
            "x: tensor b: 4 bytes of data, but 2 elements of F32 take 8");
    refused("{\"a\": {\"dtype\": \"F9\", \"shape\": [1], \"data_offsets\": [0, 9]}}", 8,
            "x: tensor a: ends at byte 9 of the data, but the file holds 8; it may be cut short");
    refused("{\"a\": {\"dtype\": \"F64\", \"shape\": [1], \"data_offsets\": [0, 8]}, "
            "\"b\": {\"dtype\": \"U8\", \"shape\": [0], \"data_offsets\": [4, 4]}}",
            8, "x: tensors a and b overlap");
    refused("{\"a\": {\"dtype\": \"U8\", \"shape\": [4611686018427387904, 4, 0], \"data_offsets\": [0, 0]}}", 0,
            "x: tensor a: shape, its product does not fit 64 bits");
}

static void test_parse__wants_the_whole_header(void **state) {
    static const uint8_t part[] = {200, 0, 0, 0, 0, 0, 0, 0, '{'};
    struct safetensors *s;
    struct sonde_error e;
    (void)state;
    assert_int_equal(safetensors_parse(part, sizeof(part), NULL, 1000, "x", &s, &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, "x: states a header of 200 bytes, but only 1 follow; it may be cut short");
}

/* ---------------------------------------------------------------------------------------- writer */

static const struct tensor_spec specs[] = {
    {"logits", DTYPE_F32, 2, {2, 3}},
    {"a \"quoted\" \xc3\xa9", DTYPE_BF16, 1, {1}},
    {"scalar", DTYPE_I64, 0, {0}},
    {"none", DTYPE_U8, 2, {0, 9}},
};

static void test_write__comes_back(void **state) {
    char directory[64], data[24 + 2 + 8];
    struct safetensors_writer *w;
    struct safetensors *s;
    struct sonde_error e;
    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (char)(i * 37);
    scratch_open(directory);
    const char *path = scratch_path(directory, "out.safetensors");
    assert_int_equal(safetensors_create(path, specs, COUNT_OF(specs), &w, &e), 0);
    assert_false(file_exists(path));
    assert_int_equal(safetensors_append(w, data, 5, &e), 0);
    assert_int_equal(safetensors_append(w, data + 5, sizeof(data) - 5, &e), 0);
    assert_int_equal(safetensors_append(w, NULL, 0, &e), 0);
    assert_int_equal(safetensors_finish(w, &e), 0);
    if (safetensors_open(path, &s, &e))
        fail_msg("%s", e.message);
    assert_int_equal(safetensors_count(s), COUNT_OF(specs));
    assert_int_equal(safetensors_at(s, 0)->offset % 8, 0);
    for (size_t i = 0; i < COUNT_OF(specs); i++) {
        const struct tensor *t = safetensors_find(s, specs[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, specs[i].dtype);
        assert_int_equal(t->rank, specs[i].rank);
        assert_memory_equal(t->dims, specs[i].dims, specs[i].rank * sizeof(uint64_t));
    }
    assert_memory_equal(safetensors_find(s, "logits")->data, data, 24);
    assert_memory_equal(safetensors_find(s, "scalar")->data, data + 26, 8);
    safetensors_close(s);
    scratch_close(directory);
}

static size_t count_files(const char *directory) {
    size_t count = 0;
    DIR *d = opendir(directory);
    while (readdir(d))
        count++;
    closedir(d);
    return count - 2;
}

static void test_write__leaves_nothing_when_it_does_not_finish(void **state) {
    char directory[64], data[34] = {0};
    struct safetensors_writer *w;
    struct sonde_error e;
    (void)state;
    scratch_open(directory);
    scratch_write(directory, "out", "old", 3);
    const char *path = scratch_path(directory, "out");
    assert_int_equal(safetensors_create(path, specs, COUNT_OF(specs), &w, &e), 0);
    assert_int_equal(safetensors_append(w, data, 33, &e), 0);
    assert_int_equal(safetensors_finish(w, &e), SONDE_ERROR_ARGUMENT);
    assert_non_null(strstr(e.message, "out: 33 of 34 bytes were written"));
    assert_int_equal(safetensors_create(path, specs, COUNT_OF(specs), &w, &e), 0);
    assert_int_equal(safetensors_append(w, data, 34, &e), 0);
    assert_int_equal(safetensors_append(w, data, 1, &e), SONDE_ERROR_ARGUMENT);
    assert_non_null(strstr(e.message, "out: more bytes than the 34 declared"));
    assert_int_equal(safetensors_finish(w, &e), SONDE_ERROR_ARGUMENT);
    assert_int_equal(safetensors_create(path, specs, COUNT_OF(specs), &w, &e), 0);
    safetensors_cancel(w);
    safetensors_cancel(NULL);
    struct buf b = {0};
    scratch_read(directory, "out", &b);
    assert_string_equal(b.data, "old");
    assert_int_equal(count_files(directory), 1);
    buf_release(&b);
    scratch_close(directory);
}

static void test_write__refuses_specs_that_make_no_file(void **state) {
    static const struct {
        struct tensor_spec specs[2];
        const char *message;
    } bad[] = {
        {{{"a", DTYPE_U8, 0, {0}}, {"a", DTYPE_U8, 0, {0}}}, "out: tensor a is declared twice"},
        {{{"a", DTYPE_U8, 0, {0}}, {"", DTYPE_U8, 0, {0}}}, "out: \"\" cannot name a tensor"},
        {{{"a", DTYPE_U8, 0, {0}}, {"\xff", DTYPE_U8, 0, {0}}}, "out: \"\xff\" cannot name a tensor"},
        {{{"a", DTYPE_U8, 0, {0}}, {"__metadata__", DTYPE_U8, 0, {0}}}, "out: \"__metadata__\" cannot name a tensor"},
        {{{"a", DTYPE_U8, 0, {0}}, {"b", DTYPE_F32, 2, {UINT64_C(1) << 62, 8}}},
         "out: tensor b: its size does not fit a file"},
        {{{"a", DTYPE_U8, 1, {INT64_MAX}}, {"b", DTYPE_U8, 1, {1}}}, "out: tensor b: its size does not fit a file"},
    };
    char directory[64];
    struct safetensors_writer *w;
    struct sonde_error e;
    (void)state;
    scratch_open(directory);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const char *path = scratch_path(directory, "out");
        assert_int_equal(safetensors_create(path, bad[i].specs, 2, &w, &e), SONDE_ERROR_ARGUMENT);
        assert_string_equal(e.message + strlen(directory) + 1, bad[i].message);
    }
    assert_int_equal(count_files(directory), 0);
    assert_int_equal(safetensors_create("/nonexistent/out", specs, 1, &w, &e), SONDE_ERROR_IO);
    assert_string_equal(e.message, "/nonexistent/out: cannot be written: No such file or directory");
    scratch_close(directory);
}

static void test_open__reads_the_golden_results(void **state) {
    struct safetensors *s;
    struct sonde_error e;
    (void)state;
    if (safetensors_open("tests/golden/flash/golden.safetensors", &s, &e))
        fail_msg("%s", e.message);
    assert_true(safetensors_count(s) > 0);
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct tensor *t = safetensors_at(s, i);
        assert_null(t->foreign);
        assert_ptr_equal(safetensors_find(s, t->name), t);
        assert_true(i == 0 || t->offset >= t[-1].offset + t[-1].bytes);
    }
    safetensors_close(s);
    safetensors_close(NULL);
    assert_int_equal(safetensors_open("/nonexistent", &s, &e), SONDE_ERROR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse__reads_tensors_in_order_of_offset),
        cmocka_unit_test(test_parse__points_into_the_given_bytes),
        cmocka_unit_test(test_parse__takes_scalars_and_tensors_without_elements),
        cmocka_unit_test(test_parse__keeps_what_it_does_not_know_as_bytes),
        cmocka_unit_test(test_parse__checks_what_it_will_not_use),
        cmocka_unit_test(test_parse__wants_the_whole_header),
        cmocka_unit_test(test_write__comes_back),
        cmocka_unit_test(test_write__leaves_nothing_when_it_does_not_finish),
        cmocka_unit_test(test_write__refuses_specs_that_make_no_file),
        cmocka_unit_test(test_open__reads_the_golden_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
