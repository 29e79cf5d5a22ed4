/* test_train_history.c - the log of a run, over its interruptions. */
#include "train_scratch.h"

#include "train/run_internal.h"

static struct history opened(uint64_t step) {
    struct history h;
    CHECKED(history_open(scratch_path("log"), step, &h, &error));
    return h;
}

static void holds(const char *text) {
    struct buf b = {0};
    CHECKED(file_read(scratch_path("log"), 1 << 20, &b, &error));
    buf_append(&b, "", 0);
    assert_string_equal(b.len ? b.data : "", text);
    buf_release(&b);
}

static void add_loss(struct history *h, int step, double loss) {
    CHECKED(history_add(h, json_pack("{s:i, s:f}", "step", step, "loss", loss), &error));
}

static void add_validation(struct history *h, int step, double loss) {
    CHECKED(history_add(h, json_pack("{s:i, s:f}", "step", step, "validation", loss), &error));
}

#define LOSS_0  "{\"step\": 0, \"loss\": 0.1}\n"
#define LOSS_1  "{\"step\": 1, \"loss\": 1.5}\n"
#define VALID_2 "{\"step\": 2, \"validation\": 3.25}\n"
#define EVENT_2 "{\"step\": 2, \"event\": \"x\"}\n"
#define LOSS_2  "{\"step\": 2, \"loss\": 4.5}\n"
#define VALID_3 "{\"step\": 3, \"validation\": 5.5}\n"

static void test_history__grows_by_lines(void **state) {
    (void)state;
    unlink(scratch_path("log"));
    struct history h = opened(0);
    holds("");
    add_loss(&h, 0, 0.1);
    holds(LOSS_0);
    add_loss(&h, 1, 1.5);
    add_validation(&h, 2, 3.25);
    add_loss(&h, 2, 4.5);
    holds(LOSS_0 LOSS_1 VALID_2 LOSS_2);
    history_close(&h);
    struct sonde_error e = {0};
    h = opened(3);
    holds(LOSS_0 LOSS_1 VALID_2 LOSS_2);
    assert_int_equal(history_add(&h, NULL, &e), SONDE_ERROR_MEMORY);
    history_close(&h);
}

static void test_history__goes_on_from_a_state(void **state) {
    (void)state;
    scratch_write("log", LOSS_0 LOSS_1 VALID_2 EVENT_2 LOSS_2 VALID_3);
    struct history h = opened(2);
    holds(LOSS_0 LOSS_1 VALID_2 EVENT_2);
    add_loss(&h, 2, 4.5);
    add_validation(&h, 3, 5.5);
    holds(LOSS_0 LOSS_1 VALID_2 EVENT_2 LOSS_2 VALID_3);
    history_close(&h);
    h = opened(0);
    holds("");
    history_close(&h);
}

/* A line of step 2 may have been written after the state of step 2, and be written again. */
static void test_history__says_nothing_twice(void **state) {
    (void)state;
    scratch_write("log", LOSS_1 VALID_2 EVENT_2 LOSS_2);
    struct history h = opened(2);
    add_validation(&h, 2, 3.25);
    CHECKED(history_add(&h, json_pack("{s:i, s:s}", "step", 2, "event", "x"), &error));
    CHECKED(history_add(&h, json_pack("{s:i, s:s}", "step", 2, "event", "y"), &error));
    holds(LOSS_1 VALID_2 EVENT_2 "{\"step\": 2, \"event\": \"y\"}\n");
    history_close(&h);
}

static void test_history__drops_lines_that_are_not_whole(void **state) {
    (void)state;
    scratch_write("log", LOSS_0 LOSS_1 "{\"step\": 1, \"los");
    struct history h = opened(5);
    add_loss(&h, 2, 4.5);
    holds(LOSS_0 LOSS_1 LOSS_2);
    history_close(&h);
    scratch_write("log", LOSS_0 "{\"step\": 1, \"lo\n{\"loss\": 3}\n[]\n{\"step\": -1}\n\n" LOSS_1);
    h = opened(5);
    holds(LOSS_0 LOSS_1);
    history_close(&h);
}

static void test_history__says_what_it_cannot_open(void **state) {
    (void)state;
    struct history h;
    struct sonde_error e = {0};
    assert_int_equal(history_open("/nowhere/log", 0, &h, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "/nowhere/log"));
    assert_int_equal(history_open(scratch_directory, 0, &h, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, scratch_directory));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_history__grows_by_lines),
        cmocka_unit_test(test_history__goes_on_from_a_state),
        cmocka_unit_test(test_history__says_nothing_twice),
        cmocka_unit_test(test_history__drops_lines_that_are_not_whole),
        cmocka_unit_test(test_history__says_what_it_cannot_open),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
