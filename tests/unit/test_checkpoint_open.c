/*
 * test_checkpoint_open.c - whole directories: which files count, names across spellings and shards, views of
 * what is found, and that opening a checkpoint of the real size takes neither time nor memory. What broken
 * directories say is in test_checkpoint_malformed.c.
 */
#include "checkpoint_scratch.h"

static struct checkpoint *opened(const char *directory) {
    struct checkpoint *c = NULL;
    struct sonde_error e;
    if (checkpoint_open(directory, &c, &e))
        fail_msg("%s", e.message);
    return c;
}

/* A shard of the given tensors; each byte of tensor i is i + 1. */
static void write_shard(const char *directory, const char *name, const struct tensor_spec *specs, size_t count) {
    struct safetensors_writer *w;
    struct sonde_error e;
    if (safetensors_create(scratch_path(directory, name), specs, count, &w, &e))
        fail_msg("%s", e.message);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = dtype_bytes(specs[i].dtype);
        for (uint32_t k = 0; k < specs[i].rank; k++)
            bytes *= specs[i].dims[k];
        char *data = malloc(bytes + 1);
        memset(data, (int)i + 1, bytes);
        assert_int_equal(safetensors_append(w, data, bytes, &e), 0);
        free(data);
    }
    assert_int_equal(safetensors_finish(w, &e), 0);
}

/* A scratch directory with the config of a golden case and no tensors. */
static void scratch_config(char directory[64], const char *golden) {
    scratch_open(directory);
    scratch_link(directory, golden);
    unlink(scratch_path(directory, GOLDEN_SHARD));
    unlink(scratch_path(directory, GOLDEN_INDEX));
}

/* ------------------------------------------------------------------------------------- directories */

static void test_open__reads_the_golden_cases(void **state) {
    static const struct {
        const char *name;
        size_t count;
    } cases[] = {{"flash", 504},    {"flash-engram", 531}, {"pro", 656},
                 {"base-fp8", 339}, {"bf16", 208},         {"sliding", 149}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct checkpoint *c = opened(scratch_path("tests/golden", cases[i].name));
        assert_int_equal(checkpoint_count(c), cases[i].count);
        for (size_t k = 0; k < checkpoint_count(c); k++) {
            const struct tensor *t = checkpoint_at(c, k);
            assert_ptr_equal(checkpoint_find(c, t->name), t);
            assert_string_equal(t->name, t->spelled);
            assert_null(t->foreign);
        }
        assert_null(checkpoint_find(c, "logits"));
        checkpoint_close(c);
    }
    checkpoint_close(NULL);
}

static const struct tensor_spec one[] = {{"one", DTYPE_U8, 1, {1}}}, two[] = {{"two", DTYPE_U8, 1, {2}}};

static void test_open__takes_all_shards_in_order_of_name(void **state) {
    char directory[64];
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    write_shard(directory, "b.safetensors", one, 1);
    write_shard(directory, "a.safetensors", two, 1);
    scratch_write(directory, "golden.safetensors", "not read", 8);
    scratch_write(directory, ".hidden.safetensors", "not read", 8);
    scratch_write(directory, "c.safetensors.part", "not read", 8);
    struct checkpoint *c = opened(scratch_path(directory, ""));
    assert_int_equal(checkpoint_count(c), 2);
    assert_string_equal(checkpoint_at(c, 0)->name, "two");
    assert_string_equal(checkpoint_at(c, 1)->name, "one");
    assert_string_equal(checkpoint_file(c, checkpoint_at(c, 1)), scratch_path(directory, "b.safetensors"));
    checkpoint_close(c);
    scratch_close(directory);
}

static void test_open__prefers_the_single_file(void **state) {
    char directory[64];
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    write_shard(directory, "a.safetensors", two, 1);
    write_shard(directory, "model.safetensors", one, 1);
    struct checkpoint *c = opened(directory);
    assert_int_equal(checkpoint_count(c), 1);
    assert_string_equal(checkpoint_at(c, 0)->name, "one");
    checkpoint_close(c);
    scratch_close(directory);
}

static void test_open__follows_the_index(void **state) {
    static const struct tensor_spec shard[] = {{"model.norm.weight", DTYPE_BF16, 1, {4}}, {"extra", DTYPE_U8, 1, {1}}};
    static const char index[] = "{\"metadata\": {}, \"weight_map\": {\"model.norm.weight\": \"z.safetensors\", "
                                "\"one\": \"b.safetensors\"}}";
    char directory[64];
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    write_shard(directory, "b.safetensors", one, 1);
    write_shard(directory, "z.safetensors", shard, 2);
    scratch_write(directory, "a.safetensors", "not in the index", 16);
    scratch_write(directory, GOLDEN_INDEX, index, strlen(index));
    struct checkpoint *c = opened(directory);
    assert_int_equal(checkpoint_count(c), 3);
    assert_non_null(checkpoint_find(c, "norm.weight"));
    assert_non_null(checkpoint_find(c, "extra"));
    assert_string_equal(checkpoint_at(c, 0)->name, "one");
    checkpoint_close(c);
    scratch_close(directory);
}

/* A shard that has only foreign spellings, one that mixes: each tensor keeps both names. */
static void test_open__gives_official_names(void **state) {
    static const struct tensor_spec specs[] = {
        {"model.layers.0.self_attn.q_a_proj.weight", DTYPE_BF16, 2, {2, 2}},
        {"model.embed_tokens.weight", DTYPE_BF16, 2, {4, 2}},
        {"layers.0.attn.wkv.weight", DTYPE_BF16, 2, {2, 2}},
        {"model.layers.0.attn.wo_b.weight", DTYPE_BF16, 2, {2, 2}},
        {"model.layers.0.attn_hc.base", DTYPE_F32, 1, {4}},
    };
    static const char *const names[] = {"layers.0.attn.wq_a.weight", "embed.weight", "layers.0.attn.wkv.weight",
                                        "layers.0.attn.wo_b.weight", "layers.0.hc_attn_base"};
    char directory[64];
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    write_shard(directory, "model.safetensors", specs, COUNT_OF(specs));
    struct checkpoint *c = opened(directory);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const struct tensor *t = checkpoint_find(c, names[i]);
        assert_non_null(t);
        assert_string_equal(t->name, names[i]);
        assert_string_equal(t->spelled, specs[i].name);
    }
    struct matrix m;
    struct sonde_error e;
    assert_int_equal(checkpoint_matrix(c, "layers.0.attn.wq_a", 2, 3, &m, &e), SONDE_ERROR_FORMAT);
    assert_non_null(
        strstr(e.message, "tensor model.layers.0.self_attn.q_a_proj.weight: shape [2, 2], expected [2, 3]"));
    checkpoint_close(c);
    scratch_close(directory);
}

/* ----------------------------------------------------------------------------------------- views */

static struct matrix matrix_of(const struct checkpoint *c, const char *name, uint32_t rows, uint32_t cols) {
    struct matrix m;
    struct sonde_error e;
    if (checkpoint_matrix(c, name, rows, cols, &m, &e))
        fail_msg("%s", e.message);
    assert_int_equal(m.rows, rows);
    assert_int_equal(m.cols, cols);
    return m;
}

static void test_matrix__views_each_format(void **state) {
    (void)state;
    struct checkpoint *c = opened("tests/golden/flash");
    struct matrix m = matrix_of(c, "layers.0.attn.wq_b", 384, 128);
    assert_int_equal(m.format, FORMAT_FP8);
    assert_int_equal(m.scale_format, SCALE_E8M0);
    assert_int_equal(m.block_rows, 128);
    assert_int_equal(m.block_cols, 128);
    assert_int_equal(m.scale_cols, 1);
    assert_ptr_equal(m.data, checkpoint_find(c, "layers.0.attn.wq_b.weight")->data);
    assert_ptr_equal(m.scale, checkpoint_find(c, "layers.0.attn.wq_b.scale")->data);
    m = matrix_of(c, "layers.2.ffn.experts.3.w1", 128, 128);
    assert_int_equal(m.format, FORMAT_FP4);
    assert_int_equal(m.block_rows, 1);
    assert_int_equal(m.block_cols, 32);
    assert_int_equal(m.scale_cols, 4);
    m = matrix_of(c, "head", 256, 128);
    assert_int_equal(m.format, FORMAT_BF16);
    assert_int_equal(m.scale_format, SCALE_NONE);
    assert_null(m.scale);
    checkpoint_close(c);
}

static const struct tensor_spec odd_matrices[] = {
    {"odd.weight", DTYPE_F8_E4M3, 2, {130, 257}},
    {"odd.scale", DTYPE_F8_E8M0, 2, {2, 3}},
    {"base.weight", DTYPE_F8_E4M3, 2, {128, 256}},
    {"base.scale", DTYPE_F32, 2, {1, 2}},
    {"half.weight", DTYPE_F16, 2, {3, 5}},
    {"half.scale", DTYPE_F32, 2, {1, 1}},
    {"full.weight", DTYPE_F32, 2, {3, 5}},
    {"bytes.weight", DTYPE_U8, 2, {3, 32}},
    {"bytes.scale", DTYPE_F8_E8M0, 2, {3, 2}},
    {"narrow.weight", DTYPE_I8, 2, {3, 8}},
    {"four.weight", DTYPE_I8, 2, {3, 32}},
    {"four.scale", DTYPE_F32, 2, {3, 2}},
    {"cube", DTYPE_BF16, 3, {4, 1, 3}},
    {"line", DTYPE_F16, 1, {7}},
    {"narrow_ids", DTYPE_I32, 2, {2, 2}},
    {"wide_ids", DTYPE_I64, 1, {2}},
};

static void test_matrix__views_what_is_rarer(void **state) {
    char directory[64];
    struct matrix m;
    struct sonde_error e;
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    write_shard(directory, "model.safetensors", odd_matrices, COUNT_OF(odd_matrices));
    struct checkpoint *c = opened(directory);
    m = matrix_of(c, "odd", 130, 257); /* blocks that stick out */
    assert_int_equal(m.scale_cols, 3);
    m = matrix_of(c, "base", 128, 256);
    assert_int_equal(m.scale_format, SCALE_F32);
    assert_int_equal(m.scale_cols, 2);
    assert_int_equal(matrix_of(c, "half", 3, 5).format, FORMAT_F16);
    assert_null(matrix_of(c, "half", 3, 5).scale);
    assert_int_equal(matrix_of(c, "full", 3, 5).format, FORMAT_F32);
    assert_int_equal(matrix_of(c, "bytes", 3, 64).format, FORMAT_FP4);
    m.rows = 77;
    assert_int_equal(checkpoint_matrix(c, "narrow", 3, 16, &m, &e), SONDE_ERROR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "packed FP4 with 16 columns is not supported, only multiples of 32"));
    assert_int_equal(checkpoint_matrix(c, "four", 3, 64, &m, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "four.scale: dtype F32, expected F8_E8M0 as scale of four.weight"));
    assert_int_equal(m.rows, 77);
    assert_int_equal(checkpoint_matrix(c, "odd", 130, 257, &m, NULL), 0);
    checkpoint_close(c);
    scratch_close(directory);
}

static void test_plain__joins_the_leading_dimensions(void **state) {
    char directory[64];
    struct matrix m;
    struct integers ids;
    struct sonde_error e;
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    write_shard(directory, "model.safetensors", odd_matrices, COUNT_OF(odd_matrices));
    struct checkpoint *c = opened(directory);
    assert_int_equal(checkpoint_plain(c, "cube", 3, (uint64_t[]){4, 1, 3}, &m, &e), 0);
    assert_int_equal(m.rows, 4);
    assert_int_equal(m.cols, 3);
    assert_int_equal(m.format, FORMAT_BF16);
    assert_int_equal(checkpoint_plain(c, "line", 1, (uint64_t[]){7}, &m, &e), 0);
    assert_int_equal(m.rows, 1);
    assert_int_equal(m.cols, 7);
    assert_int_equal(checkpoint_plain(c, "cube", 2, (uint64_t[]){4, 3}, &m, &e), SONDE_ERROR_FORMAT);
    assert_int_equal(checkpoint_plain(c, "wide_ids", 1, (uint64_t[]){2}, &m, &e), SONDE_ERROR_FORMAT);
    assert_int_equal(checkpoint_integers(c, "narrow_ids", 2, (uint64_t[]){2, 2}, &ids, &e), 0);
    assert_int_equal(ids.count, 4);
    assert_int_equal(integers_at(&ids, 3), 0x0f0f0f0f);
    assert_int_equal(checkpoint_integers(c, "wide_ids", 1, (uint64_t[]){2}, &ids, &e), 0);
    assert_int_equal(ids.count, 2);
    assert_int_equal(integers_at(&ids, 1), 0x1010101010101010);
    assert_int_equal(checkpoint_integers(c, "line", 1, (uint64_t[]){7}, &ids, &e), SONDE_ERROR_FORMAT);
    checkpoint_close(c);
    scratch_close(directory);
}

static void test_finite__finds_the_first_bad_value(void **state) {
    static const struct {
        enum dtype dtype;
        uint8_t good[8], bad[8];
    } cases[] = {
        {DTYPE_F8_E8M0, {254}, {255}},
        {DTYPE_F8_E4M3, {0xfe}, {0xff}},
        {DTYPE_F8_E4M3, {0x7e}, {0x7f}},
        {DTYPE_BF16, {0xff, 0x7f - 1}, {0x80, 0x7f}},
        {DTYPE_F16, {0xff, 0x7b}, {0x00, 0xfc}},
        {DTYPE_F32, {0xff, 0xff, 0x7f, 0x7f}, {0, 0, 0x80, 0xff}},
        {DTYPE_F64, {0, 0, 0, 0, 0, 0, 0xef, 0x7f}, {1, 0, 0, 0, 0, 0, 0xf0, 0x7f}},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint8_t data[24];
        size_t size = dtype_bytes(cases[i].dtype);
        uint64_t where = 77;
        struct tensor t = {.dtype = cases[i].dtype, .data = data, .bytes = 3 * size};
        for (size_t k = 0; k < 3; k++)
            memcpy(data + k * size, cases[i].good, size);
        assert_true(tensor_finite(&t, &where));
        assert_int_equal(where, 77);
        memcpy(data + 2 * size, cases[i].bad, size);
        assert_false(tensor_finite(&t, &where));
        assert_int_equal(where, 2);
    }
    struct checkpoint *c = opened("tests/golden/flash");
    assert_null(checkpoint_nonfinite(c, &(uint64_t){0}));
    checkpoint_close(c);
}

/* ------------------------------------------------------------------------------------ real size */

/* As many shards, tensors and bytes as the released Flash has; the bytes are a hole in the file. */
#define SHARDS     46
#define TENSORS    69187
#define DATA_BYTES UINT64_C(159609485896)

static void write_hole(const char *directory, int shard, struct buf *index) {
    struct buf header = {0};
    char name[60];
    size_t first = (size_t)TENSORS * (size_t)shard / SHARDS, end = (size_t)TENSORS * (size_t)(shard + 1) / SHARDS;
    uint64_t each = DATA_BYTES / TENSORS, at = 0;
    snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", shard + 1, SHARDS);
    buf_byte(&header, '{');
    for (size_t i = first; i < end; i++, at += each) {
        buf_printf(&header,
                   "%s\"layers.%zu.ffn.experts.%zu.w1.weight\":{\"dtype\":\"I8\",\"shape\":[%llu],"
                   "\"data_offsets\":[%llu,%llu]}",
                   i > first ? "," : "", i / 1500, i % 1500, (unsigned long long)each, (unsigned long long)at,
                   (unsigned long long)(at + each));
        buf_printf(index, "%s\"layers.%zu.ffn.experts.%zu.w1.weight\":\"%s\"", i ? "," : "", i / 1500, i % 1500, name);
    }
    buf_byte(&header, '}');
    scratch_safetensors(directory, name, header.data, "", 0);
    assert_int_equal(truncate(scratch_path(directory, name), (off_t)(8 + header.len + at)), 0);
    buf_release(&header);
}

static long resident_bytes(void) {
    long pages = -1;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        assert_int_equal(fscanf(f, "%*s %ld", &pages), 1);
        fclose(f);
    }
    return pages * sysconf(_SC_PAGESIZE);
}

static void test_open__is_quick_at_the_real_size(void **state) {
    char directory[64];
    struct buf index = {0};
    (void)state;
    scratch_config(directory, "tests/golden/flash");
    buf_string(&index, "{\"weight_map\":{");
    for (int i = 0; i < SHARDS; i++)
        write_hole(directory, i, &index);
    buf_string(&index, "}}");
    scratch_write(directory, GOLDEN_INDEX, index.data, index.len);
    buf_release(&index);
    long resident = resident_bytes();
    double start = clock_seconds();
    struct checkpoint *c = opened(directory);
    double seconds = clock_seconds() - start;
    long grown = resident_bytes() - resident;
    assert_int_equal(checkpoint_count(c), TENSORS);
    assert_non_null(checkpoint_find(c, "layers.46.ffn.experts.186.w1.weight"));
    checkpoint_close(c);
    scratch_close(directory);
    print_message("# %d tensors in %d shards: %.3f s, %ld MiB\n", TENSORS, SHARDS, seconds, grown >> 20);
    /* Half a second and 34 MiB where nothing is instrumented; far from 160 GB where it is. */
    assert_true(seconds < 10);
    assert_true(grown < (long)256 << 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open__reads_the_golden_cases),
        cmocka_unit_test(test_open__takes_all_shards_in_order_of_name),
        cmocka_unit_test(test_open__prefers_the_single_file),
        cmocka_unit_test(test_open__follows_the_index),
        cmocka_unit_test(test_open__gives_official_names),
        cmocka_unit_test(test_matrix__views_each_format),
        cmocka_unit_test(test_matrix__views_what_is_rarer),
        cmocka_unit_test(test_plain__joins_the_leading_dimensions),
        cmocka_unit_test(test_finite__finds_the_first_bad_value),
        cmocka_unit_test(test_open__is_quick_at_the_real_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
