/*
 * test_train_engram_plan.c - Engram's integers: which tokens count as one (as the oracle has it, for odd texts, the
 * bundled tokenizer and the released one where it is), sizes and multipliers of new tables, and those of a checkpoint.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train_scratch.h"

#include "train/bpe_internal.h"
#include "train/engram_plan_internal.h"

#include "token_map_table.h"

#define NANO     "models/nano/tokenizer.json"
#define RELEASED "../shared/tokenizer/tokenizer.json"
#define GOLDEN   "tests/golden/flash-engram"

/* A shape with two Engram layers of 3-grams and 2 heads. */
static uint32_t layers[] = {1, 4};

static struct shape shape_of(uint32_t vocab) {
    return (struct shape){.vocab = vocab, .engram = {.count = 2, .layers = layers, .orders = 3, .heads = 2}};
}

static const int64_t least[] = {100, 103};

static uint64_t hash_of(const int64_t *ids, size_t count) {
    uint64_t h = 0;
    for (size_t i = 0; i < count; i++)
        h = h * 1000003 + (uint64_t)ids[i] + 1;
    return h;
}

/* ---------------------------------------------------------------------------------------- token map */

static void put_token(struct buf *b, const char *bytes, size_t count, size_t id) {
    struct buf spelling = {0};
    text_spell(&spelling, bytes, count);
    buf_string(b, id ? ", " : "");
    json_write_string(b, spelling.data, spelling.len);
    buf_printf(b, ": %zu", id);
    buf_release(&spelling);
}

/* A tokenizer of the 256 bytes and the table's texts. */
static const char *odd_tokenizer(void) {
    struct buf b = {0};
    buf_string(&b, "{\"added_tokens\": [], \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                   "\"use_regex\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                   "\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {");
    for (size_t i = 0; i < 256; i++)
        put_token(&b, &(char){(char)i}, 1, i);
    for (size_t i = 0; i < COUNT_OF(token_map_table); i++)
        put_token(&b, token_map_table[i].text, strlen(token_map_table[i].text), 256 + i);
    buf_string(&b, "}}}");
    scratch_write("tokenizer.json", b.data);
    buf_release(&b);
    return scratch_path("tokenizer.json");
}

static void test_token_map__folds_as_the_oracle_does(void **state) {
    (void)state;
    const uint32_t vocab = 256 + COUNT_OF(token_map_table) + 2; /* two without a token */
    struct shape shape = shape_of(vocab);
    struct engram_plan plan;
    int64_t most = 0;
    CHECKED(engram_plan_make(&shape, least, odd_tokenizer(), 1, &plan, &error));
    assert_true(hash_of(plan.token_map, 256) == token_map_bytes);
    for (size_t i = 0; i < COUNT_OF(token_map_table); i++) {
        int64_t id = plan.token_map[256 + i];
        if (id != token_map_table[i].id)
            fail_msg("\"%s\" has the id %lld, expected %lld", token_map_table[i].text, (long long)id,
                     (long long)token_map_table[i].id);
        most = id > most ? id : most;
    }
    assert_int_equal(plan.token_map[vocab - 2], most + 1);
    assert_int_equal(plan.token_map[vocab - 1], most + 1);
    assert_false(plan.biases);
    engram_plan_release(&plan);
}

static void check_file(const char *path, size_t number) {
    struct shape shape = shape_of((uint32_t)token_map_files[number].tokens);
    struct engram_plan plan;
    int64_t most = 0;
    CHECKED(engram_plan_make(&shape, least, path, 1, &plan, &error));
    for (uint32_t i = 0; i < shape.vocab; i++)
        most = plan.token_map[i] > most ? plan.token_map[i] : most;
    assert_int_equal(most + 1, token_map_files[number].ids);
    assert_true(hash_of(plan.token_map, shape.vocab) == token_map_files[number].hash);
    engram_plan_release(&plan);
}

static void test_token_map__of_the_bundled_tokenizer(void **state) {
    (void)state;
    check_file(NANO, 0);
}

static void test_token_map__of_the_released_tokenizer(void **state) {
    (void)state;
    if (!file_exists(RELEASED))
        skip();
    check_file(RELEASED, 1);
}

static void test_token_map__tokens_beyond_the_vocabulary_are_left_out(void **state) {
    (void)state;
    struct shape small = shape_of(1000), large = shape_of(4096);
    struct engram_plan some, all;
    CHECKED(engram_plan_make(&small, least, NANO, 1, &some, &error));
    CHECKED(engram_plan_make(&large, least, NANO, 1, &all, &error));
    assert_memory_equal(some.token_map, all.token_map, 1000 * sizeof(int64_t));
    engram_plan_release(&some);
    engram_plan_release(&all);
}

/* ------------------------------------------------------------------------------ sizes and multipliers */

static void test_sizes__are_the_next_primes_that_no_table_has(void **state) {
    (void)state;
    static const int64_t expected[] = {101, 103, 107, 109, 113, 127, 131, 137};
    struct shape shape = shape_of(4096);
    struct engram_plan plan;
    CHECKED(engram_plan_make(&shape, least, NANO, 1, &plan, &error));
    assert_memory_equal(plan.sizes, expected, sizeof(expected));
    engram_plan_release(&plan);
}

static void test_sizes__that_are_too_large_are_refused(void **state) {
    (void)state;
    static const int64_t wrong[][2] = {{100, 0}, {-1, 100}, {100, (int64_t)1 << 32}, {INT64_MAX, 100}};
    struct shape shape = shape_of(4096);
    struct engram_plan plan;
    struct sonde_error e;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        assert_int_equal(engram_plan_make(&shape, wrong[i], NANO, 1, &plan, &e), SONDE_ERROR_ARGUMENT);
        assert_non_null(strstr(e.message, "expected 1 to 2^32 - 1"));
    }
    assert_int_equal(engram_plan_make(&shape, (int64_t[]){1 << 30, (int64_t)3 << 30}, NANO, 1, &plan, &e),
                     SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, "Engram: layer 1 would have 2^32 rows of tables or more");
    assert_null(plan.sizes);
}

/* Odd, and a multiplier times the largest id is below 2^63. */
static void test_multipliers__belong_to_layer_and_seed(void **state) {
    (void)state;
    struct shape shape = shape_of(4096);
    struct engram_plan one, same, other;
    CHECKED(engram_plan_make(&shape, least, NANO, 1, &one, &error));
    CHECKED(engram_plan_make(&shape, least, NANO, 1, &same, &error));
    CHECKED(engram_plan_make(&shape, least, NANO, 2, &other, &error));
    assert_memory_equal(one.multipliers, same.multipliers, 6 * sizeof(int64_t));
    for (size_t i = 0; i < 6; i++) {
        assert_true(one.multipliers[i] % 2 == 1);
        assert_true(one.multipliers[i] <= INT64_MAX / (token_map_files[0].ids - 1));
        assert_true(one.multipliers[i] != other.multipliers[i]);
        for (size_t j = 0; j < i; j++)
            assert_true(one.multipliers[i] != one.multipliers[j]);
    }
    engram_plan_release(&one);
    engram_plan_release(&same);
    engram_plan_release(&other);
}

static void test_plan__of_a_shape_without_engram_is_empty(void **state) {
    (void)state;
    struct shape shape = {.vocab = 4096};
    struct engram_plan plan;
    CHECKED(engram_plan_make(&shape, NULL, "no such file", 1, &plan, &error));
    assert_null(plan.token_map);
    engram_plan_release(&plan);
}

static void test_plan__a_tokenizer_that_is_not_there_is_named(void **state) {
    (void)state;
    struct shape shape = shape_of(4096);
    struct engram_plan plan;
    struct sonde_error e;
    assert_int_equal(engram_plan_make(&shape, least, "no such file", 1, &plan, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "no such file"));
}

/* -------------------------------------------------------------------------------------- checkpoints */

/* The oracle's checkpoint maps each two neighbours to one id; its sizes are the primes from 499 and from 503. */
static void test_load__gives_what_the_checkpoint_says(void **state) {
    (void)state;
    struct checkpoint *c;
    struct engram_plan plan;
    CHECKED(checkpoint_open(GOLDEN, &c, &error));
    CHECKED(engram_plan_load(c, &plan, &error));
    for (uint32_t i = 0; i < checkpoint_shape(c)->vocab; i++)
        assert_int_equal(plan.token_map[i], i / 2);
    assert_memory_equal(plan.sizes, ((const int64_t[]){499, 503, 509, 521}), 4 * sizeof(int64_t));
    for (size_t i = 0; i < 3; i++)
        assert_true(plan.multipliers[i] % 2 == 1);
    assert_true(plan.biases);
    engram_plan_release(&plan);
    checkpoint_close(c);
}

/* Copies the golden checkpoint with another first size. */
static void write_with_size(int64_t size) {
    struct checkpoint *c;
    struct buf b = {0};
    CHECKED(checkpoint_open(GOLDEN, &c, &error));
    const struct tensor *t = checkpoint_find(c, "layers.1.engram.head_sizes");
    CHECKED(file_read(checkpoint_file(c, t), SIZE_MAX, &b, &error));
    memcpy(b.data + t->offset, &size, sizeof(size));
    CHECKED(file_write(scratch_path("model.safetensors"), b.data, b.len, &error));
    buf_clear(&b);
    CHECKED(file_read(GOLDEN "/config.json", SIZE_MAX, &b, &error));
    scratch_write("config.json", b.data);
    buf_release(&b);
    checkpoint_close(c);
}

static void test_load__refuses_sizes_that_rows_cannot_be_numbered_by(void **state) {
    (void)state;
    static const int64_t wrong[] = {0, -1, UINT32_MAX, INT64_MAX};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct checkpoint *c;
        struct engram_plan plan;
        struct sonde_error e;
        write_with_size(wrong[i]);
        CHECKED(checkpoint_open(scratch_directory, &c, &error));
        assert_int_equal(engram_plan_load(c, &plan, &e), SONDE_ERROR_FORMAT);
        assert_string_equal(e.message, "tensor layers.1.engram.head_sizes: expected sizes above 0, together below "
                                       "2^32");
        assert_null(plan.token_map);
        checkpoint_close(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_map__folds_as_the_oracle_does),
        cmocka_unit_test(test_token_map__of_the_bundled_tokenizer),
        cmocka_unit_test(test_token_map__of_the_released_tokenizer),
        cmocka_unit_test(test_token_map__tokens_beyond_the_vocabulary_are_left_out),
        cmocka_unit_test(test_sizes__are_the_next_primes_that_no_table_has),
        cmocka_unit_test(test_sizes__that_are_too_large_are_refused),
        cmocka_unit_test(test_multipliers__belong_to_layer_and_seed),
        cmocka_unit_test(test_plan__of_a_shape_without_engram_is_empty),
        cmocka_unit_test(test_plan__a_tokenizer_that_is_not_there_is_named),
        cmocka_unit_test(test_load__gives_what_the_checkpoint_says),
        cmocka_unit_test(test_load__refuses_sizes_that_rows_cannot_be_numbered_by),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
