/*
 * test_engine_store.c - no beginning of a text is read twice, in one process and over several: through the public
 * header, on the golden Flash. At the C level what is taken up gives the bits that reading gives.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

#include "sonde.h"

enum { TOKENS = 5000, VOCAB = 256 };

static int32_t ids[TOKENS];
static char directory[64];
static char logged[4096];

static void take_line(void *context, const char *line) {
    (void)context;
    strncat(logged, line, sizeof(logged) - strlen(logged) - 2);
    strcat(logged, "\n");
}

static sonde_model *open_model(const char *level, const char *cache_directory, uint64_t cache_bytes) {
    sonde_model *m = NULL;
    struct sonde_model_options options;
    sonde_model_options_default(&options);
    options.level = level;
    options.cache_directory = cache_directory;
    options.cache_bytes = cache_bytes;
    options.threads = 1; /* tests run side by side */
    options.log = take_line;
    logged[0] = 0;
    CHECKED(sonde_model_open("tests/golden/flash", &options, &m, &error));
    return m;
}

static sonde_session *open_session(sonde_model *m, uint32_t mtp) {
    sonde_session *s = NULL;
    struct sonde_session_options options = {.mtp = mtp};
    CHECKED(sonde_session_open(m, &options, &s, &error));
    return s;
}

static void feed(sonde_session *s, size_t from, size_t to) {
    CHECKED(sonde_session_feed(s, ids + from, to - from, &error));
}

static size_t recall(sonde_session *s, size_t count) {
    size_t reused = SIZE_MAX, held;
    CHECKED(sonde_session_recall(s, ids, count, &reused, &error));
    sonde_session_tokens(s, &held);
    assert_int_equal(held, reused);
    return reused;
}

/* The logits after ids [0, count), read from nothing. */
static void read_all(sonde_model *m, size_t count, float *logits) {
    sonde_session *s = open_session(m, 0);
    feed(s, 0, count);
    memcpy(logits, sonde_session_logits(s), VOCAB * sizeof(float));
    sonde_session_close(s);
}

/* Reads and keeps ids [0, count). */
static void keep(sonde_model *m, size_t count, uint32_t mtp) {
    sonde_session *s = open_session(m, mtp);
    feed(s, 0, count);
    sonde_session_keep(s);
    sonde_session_close(s);
}

static int make_ids(void **state) {
    (void)state;
    uint32_t x = 1;
    for (int i = 0; i < TOKENS; i++) {
        x = x * 1664525 + 1013904223;
        ids[i] = (int32_t)(x >> 24);
    }
    return 0;
}

static int set_up(void **state) {
    (void)state;
    snprintf(directory, sizeof(directory), "%s", "test-store-XXXXXX");
    return mkdtemp(directory) == NULL;
}

/* Calls with the path of each file that is a piece of this kind; 0: of any. */
static int each_piece(char kind, void (*call)(const char *path)) {
    int count = 0;
    DIR *d = opendir(directory);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[400];
        if (entry->d_name[0] == '.' || entry->d_name[1] != '-' || (kind && entry->d_name[0] != kind))
            continue;
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        call(path);
        count++;
    }
    closedir(d);
    return count;
}

static void remove_file(const char *path) {
    assert_int_equal(unlink(path), 0);
}

static int tear_down(void **state) {
    (void)state;
    char lock[400];
    each_piece(0, remove_file);
    snprintf(lock, sizeof(lock), "%s/lock", directory);
    unlink(lock);
    return rmdir(directory);
}

/* ------------------------------------------------------------------------------------- in memory */

/* Lengths at which blocks and windows do and do not end. */
static void test_recall__goes_on_as_if_read(void **state) {
    (void)state;
    static const size_t lengths[] = {1, 4, 127, 129, 1024, 1027};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        sonde_model *m = open_model("c", NULL, 0);
        float expected[VOCAB];
        keep(m, lengths[i], 0);
        read_all(m, lengths[i] + 9, expected);
        for (int again = 0; again < 2; again++) {
            sonde_session *s = open_session(m, 0);
            assert_int_equal(recall(s, lengths[i] + 9), lengths[i]);
            feed(s, lengths[i], lengths[i] + 9);
            assert_memory_equal(sonde_session_logits(s), expected, sizeof(expected));
            sonde_session_close(s);
        }
        sonde_model_close(m);
    }
}

static void test_recall__of_a_whole_text_has_what_comes_next(void **state) {
    (void)state;
    sonde_model *m = open_model("c", NULL, 0);
    float expected[VOCAB];
    read_all(m, 200, expected);
    keep(m, 200, 0);
    sonde_session *s = open_session(m, 0);
    assert_int_equal(recall(s, 200), 200);
    assert_memory_equal(sonde_session_logits(s), expected, sizeof(expected));
    sonde_session_close(s);
    sonde_model_close(m);
}

static void test_recall__of_another_text_is_nothing(void **state) {
    (void)state;
    sonde_model *m = open_model("c", NULL, 0);
    keep(m, 200, 0);
    sonde_session *s = open_session(m, 0);
    size_t reused;
    struct sonde_error e;
    CHECKED(sonde_session_recall(s, ids + 1, 199, &reused, &error));
    assert_int_equal(reused, 0);
    assert_int_equal(recall(s, 199), 0); /* shorter than what is remembered */
    feed(s, 0, 2);
    assert_int_equal(sonde_session_recall(s, ids, 200, &reused, &e), SONDE_ERROR_ARGUMENT);
    assert_non_null(strstr(e.message, "has tokens"));
    sonde_session_reset(s);
    int32_t wrong[] = {1, 9999};
    assert_int_equal(sonde_session_recall(s, wrong, 2, &reused, &e), SONDE_ERROR_ARGUMENT);
    sonde_session_close(s);
    sonde_model_close(m);
}

/* Predictions after what was taken up are those after what was read. */
static int take_prediction(void *context, uint64_t position, const float *logits) {
    (void)position;
    memcpy(context, logits, VOCAB * sizeof(float));
    return 0;
}

static void test_recall__with_predictions(void **state) {
    (void)state;
    sonde_model *m = open_model("c", NULL, 0);
    float expected[VOCAB] = {0}, got[VOCAB] = {1};
    struct sonde_observer observer = {.context = expected, .mtp = take_prediction};
    sonde_session *whole = open_session(m, 1), *resumed = open_session(m, 1), *without = open_session(m, 0);
    keep(m, 130, 1);
    CHECKED(sonde_session_observe(whole, ids, 140, &observer, &error));
    assert_int_equal(recall(resumed, 140), 130);
    observer.context = got;
    CHECKED(sonde_session_observe(resumed, ids + 130, 10, &observer, &error));
    assert_memory_equal(got, expected, sizeof(expected));
    assert_int_equal(recall(without, 140), 0); /* another kind of session */
    sonde_session_close(whole);
    sonde_session_close(resumed);
    sonde_session_close(without);
    sonde_model_close(m);
}

static struct sonde_generated generate(sonde_model *m, const int32_t *prompt, size_t count) {
    struct sonde_generation g;
    struct sonde_generated result;
    sonde_session *s = open_session(m, 0);
    sonde_generation_default(&g);
    g.max_tokens = 4;
    g.reuse = 1;
    CHECKED(sonde_generate(s, prompt, count, &g, &result, &error));
    sonde_session_close(s);
    return result;
}

static void test_generate__reuses_prompts_answers_and_forks(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, NULL, 0);
    int32_t prompt[TOKENS];
    memcpy(prompt, ids, sizeof(ids));
    assert_int_equal(generate(m, prompt, 700).reused_tokens, 0);
    assert_int_equal(generate(m, prompt, 700).reused_tokens, 700); /* the end of a prompt */
    assert_int_equal(generate(m, prompt, 720).reused_tokens, 700);
    prompt[690] ^= 1; /* the end of the prompt was rendered otherwise: the place a little before serves */
    assert_int_equal(generate(m, prompt, 710).reused_tokens, 640);
    prompt[300] ^= 1; /* parts from the others at 300, where nothing is remembered yet */
    assert_int_equal(generate(m, prompt, 400).reused_tokens, 0);
    prompt[300] ^= 3; /* parts there too: now something is */
    assert_int_equal(generate(m, prompt, 400).reused_tokens, 300);
    assert_int_equal(generate(m, ids, 4600).reused_tokens, 720);
    prompt[300] = ids[300];
    prompt[690] = ids[690];
    prompt[4300] ^= 1; /* every 4096 tokens */
    assert_int_equal(generate(m, prompt, 4400).reused_tokens, 4096);
    sonde_model_close(m);
}

static void test_keep__makes_room_by_age(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, NULL, 10 << 20);
    int32_t prompt[TOKENS];
    memcpy(prompt, ids, sizeof(ids));
    for (int i = 0; i < 30; i++) { /* far more than there is memory for */
        prompt[0] = i;
        assert_int_equal(generate(m, prompt, 500).reused_tokens, 0);
        prompt[0] = 0;
        assert_int_equal(generate(m, prompt, 500).reused_tokens, 500);
    }
    prompt[0] = 1; /* used longest ago */
    assert_int_equal(generate(m, prompt, 500).reused_tokens, 0);
    prompt[0] = 29;
    assert_int_equal(generate(m, prompt, 500).reused_tokens, 500);
    sonde_model_close(m);
}

/* --------------------------------------------------------------------------------------- on disk */

static size_t recall_once(sonde_model *m, size_t count, const float *expected) {
    sonde_session *s = open_session(m, 0);
    size_t reused = recall(s, count);
    feed(s, reused, count);
    if (expected)
        assert_memory_equal(sonde_session_logits(s), expected, VOCAB * sizeof(float));
    sonde_session_close(s);
    return reused;
}

static void test_disk__outlives_the_process(void **state) {
    (void)state;
    float expected[VOCAB];
    sonde_model *m = open_model("c", directory, 0);
    keep(m, 1500, 0);
    keep(m, 2600, 0); /* shares a page */
    read_all(m, 2610, expected);
    sonde_model_close(m);
    m = open_model("c", directory, 0);
    assert_int_equal(recall_once(m, 2610, expected), 2600);
    assert_int_equal(recall_once(m, 1510, NULL), 1500);
    assert_int_equal(recall_once(m, 1400, NULL), 0);
    assert_string_equal(logged, "");
    sonde_model_close(m);
}

static void test_disk__of_another_level_is_foreign(void **state) {
    (void)state;
    sonde_model *m = open_model("c", directory, 0);
    keep(m, 600, 0);
    sonde_model_close(m);
    struct sonde_model_options options;
    sonde_model_options_default(&options);
    options.level = "c";
    options.precision = SONDE_PRECISION_F32;
    options.cache_directory = directory;
    options.log = take_line;
    CHECKED(sonde_model_open("tests/golden/flash", &options, &m, &error));
    assert_int_equal(recall_once(m, 610, NULL), 0);
    assert_non_null(strstr(logged, directory));
    sonde_model_close(m);
}

static void spoil(const char *path) {
    struct stat s;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    char byte;
    assert_int_equal(pread(fd, &byte, 1, s.st_size - 20), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, s.st_size - 20), 1);
    close(fd);
}

static void test_disk__a_damaged_piece_costs_reading(void **state) {
    (void)state;
    float expected[VOCAB];
    static const char kinds[] = {'p', 's'};
    for (int i = 0; i < 2; i++) {
        sonde_model *m = open_model("c", directory, 0);
        keep(m, 1030, 0);
        read_all(m, 1040, expected);
        sonde_model_close(m);
        assert_true(each_piece(kinds[i], spoil) > 0);
        m = open_model("c", directory, 0);
        assert_int_equal(recall_once(m, 1040, expected), 0);
        assert_non_null(strstr(logged, directory));
        sonde_model_close(m);
    }
}

/* The damaged page is gone, the snapshot with it; the next keep writes both again. */
static void test_disk__is_written_again(void **state) {
    (void)state;
    sonde_model *m = open_model("c", directory, 0);
    keep(m, 1500, 0);
    sonde_model_close(m);
    m = open_model("c", directory, 0);
    assert_int_equal(recall_once(m, 1510, NULL), 1500);
    sonde_model_close(m);
}

static void test_disk__more_than_memory_holds(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, directory, 3 << 20);
    int32_t prompt[TOKENS];
    memcpy(prompt, ids, sizeof(ids));
    for (int i = 0; i < 20; i++) {
        prompt[0] = i;
        assert_int_equal(generate(m, prompt, 500).reused_tokens, 0);
    }
    for (int i = 0; i < 18; i++) { /* the last may still be on their way */
        prompt[0] = i;
        assert_int_equal(generate(m, prompt, 500).reused_tokens, 500);
    }
    sonde_model_close(m);
}

static void test_open__names_a_directory_that_cannot_be(void **state) {
    (void)state;
    struct sonde_model_options options;
    struct sonde_error e;
    sonde_model *m;
    sonde_model_options_default(&options);
    options.cache_directory = "tests/golden/flash/config.json";
    assert_int_equal(sonde_model_open("tests/golden/flash", &options, &m, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "config.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recall__goes_on_as_if_read),
        cmocka_unit_test(test_recall__of_a_whole_text_has_what_comes_next),
        cmocka_unit_test(test_recall__of_another_text_is_nothing),
        cmocka_unit_test(test_recall__with_predictions),
        cmocka_unit_test(test_generate__reuses_prompts_answers_and_forks),
        cmocka_unit_test(test_keep__makes_room_by_age),
        cmocka_unit_test_setup_teardown(test_disk__outlives_the_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_disk__of_another_level_is_foreign, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_disk__a_damaged_piece_costs_reading, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_disk__is_written_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_disk__more_than_memory_holds, set_up, tear_down),
        cmocka_unit_test(test_open__names_a_directory_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, make_ids, NULL);
}
