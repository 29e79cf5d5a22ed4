/* test_train_plot.c - pictures of logs: what is drawn where, how large they get, which logs are refused. */
#include <math.h>

#include "train_scratch.h"

#include "train/run_internal.h"

static FILE *log_file(const char *name) {
    FILE *f = fopen(scratch_path(name), "w");
    assert_non_null(f);
    return f;
}

/* To be freed. */
static char *picture(const char *name) {
    struct buf b = {0};
    char *text;
    CHECKED(file_read(scratch_path(name), 1 << 24, &b, &error));
    CHECKED(buf_take(&b, &text, NULL, &error));
    assert_int_equal(strncmp(text, "<svg xmlns=", 11), 0);
    assert_non_null(strstr(text, "</svg>\n"));
    return text;
}

static size_t count_of(const char *text, const char *part) {
    size_t count = 0;
    while ((text = strstr(text, part))) {
        count++;
        text++;
    }
    return count;
}

static char *losses(const struct plot_run *runs, size_t count) {
    CHECKED(plot_losses(runs, count, scratch_path("loss.svg"), &error));
    return picture("loss.svg");
}

static char *experts(void) {
    CHECKED(plot_experts(scratch_path("log"), scratch_path("experts.svg"), &error));
    return picture("experts.svg");
}

/* A few steps are drawn one by one, from the left edge to the right one. */
static void test_losses__few_steps_are_all_drawn(void **state) {
    (void)state;
    scratch_write("log", "{\"step\": 0, \"loss\": 8}\n{\"step\": 1, \"loss\": 4}\n{\"step\": 2, \"event\": \"x\"}\n"
                         "{\"step\": 2, \"validation\": 3}\n{\"step\": 2, \"loss\": 2}\n{\"step\": 3, \"lo");
    char *text = losses(&(struct plot_run){scratch_path("log"), "a <b> & \"c\""}, 1);
    const char *curve = strstr(text, "stroke-linejoin");
    double x[3], y[3];
    assert_non_null(curve);
    assert_int_equal(
        sscanf(strstr(curve, "d=\""), "d=\"M%lf %lfL%lf %lfL%lf %lf\"", &x[0], &y[0], &x[1], &y[1], &x[2], &y[2]), 6);
    assert_true(x[0] == 52 && x[1] == 418 && x[2] == 784);
    assert_true(y[0] > 30 && y[2] < 396);
    /* Logarithmic: halves lie equally far from each other. */
    assert_true(fabs((y[1] - y[0]) - (y[2] - y[1])) < 0.11);
    assert_non_null(strstr(text, "a &#60;b&#62; &#38; &#34;c&#34;, validation 3<"));
    assert_int_equal(count_of(text, "h0"), 2);
    free(text);
}

static void write_long_log(const char *name, int steps, double last) {
    FILE *f = log_file(name);
    for (int i = 0; i < steps; i++) {
        fprintf(f, "{\"step\": %d, \"loss\": %.6f}\n", i, last + 8.0 / (1 + i / 20.0) + 0.1 * (i % 7));
        if (i % 10 == 9)
            fprintf(f, "{\"step\": %d, \"validation\": %.6f}\n", i + 1, last + i % 3);
    }
    fclose(f);
}

static void test_losses__long_runs_stay_small(void **state) {
    (void)state;
    write_long_log("log", 30001, 1.25);
    write_long_log("other", 500, 1.5);
    const struct plot_run runs[] = {{scratch_path("log"), "one"}, {scratch_path("other"), "two"}};
    char *text = losses(runs, 2);
    assert_true(strlen(text) < 30000);
    assert_int_equal(count_of(text, "stroke-linejoin"), 2);
    /* The last validation, at step 30000, is one of the dots. */
    assert_non_null(strstr(text, "one, validation 3.25<"));
    assert_non_null(strstr(text, ">30k<"));
    free(text);
}

static void test_losses__of_nothing_is_a_picture(void **state) {
    (void)state;
    scratch_write("log", "");
    char *text = losses(&(struct plot_run){scratch_path("log"), "none"}, 1);
    assert_null(strstr(text, "nan"));
    free(text);
    scratch_write("log", "{\"step\": 0, \"loss\": 2}\n");
    text = losses(&(struct plot_run){scratch_path("log"), "one"}, 1);
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    free(text);
    free(losses(NULL, 0));
}

static void test_experts__far_from_even_is_drawn(void **state) {
    (void)state;
    FILE *f = log_file("log");
    for (int i = 0; i < 40; i++)
        fprintf(f, "{\"step\": %d, \"loss\": 1, \"loads\": [[10, 10, 10, 10], [0, 10, 12, %d]]}\n", 10 * i,
                i < 20 ? 10 : 200);
    fclose(f);
    char *text = experts();
    assert_int_equal(count_of(text, "class=\"band\""), 2);
    /* Layer 0 is even. In layer 1 the first expert gets nothing, the others less than 1/4 once the last gets most. */
    const char *second = strstr(strstr(text, "<g ") + 1, "<g ");
    char first[400];
    snprintf(first, sizeof(first), "%.399s", strstr(text, "<g "));
    assert_int_equal(count_of(first, " d=\"M"), 0);
    assert_non_null(strstr(second, "d=\"M0 0h40M20 1h20M20 2h20\""));
    assert_non_null(strstr(second, "d=\"M0 2h20\""));
    assert_non_null(strstr(second, "d=\"M20 3h20\""));
    free(text);
}

static void test_experts__many_stay_small(void **state) {
    (void)state;
    FILE *f = log_file("log");
    for (int i = 0; i < 150; i++) {
        fprintf(f, "{\"step\": %d, \"loss\": 1, \"loads\": [", 10 * i);
        for (int l = 0; l < 8; l++) {
            fprintf(f, l ? ", [" : "[");
            for (int k = 0; k < 64; k++)
                fprintf(f, "%s%d", k ? ", " : "", (i * 7 + l * 3 + k * 11) % 13 * ((i + k) % 2));
            fprintf(f, "]");
        }
        fprintf(f, "]}\n");
    }
    fclose(f);
    char *text = experts();
    assert_true(strlen(text) < 100000);
    free(text);
    scratch_write("log", "{\"step\": 0, \"loss\": 2}\n{\"step\": 1, \"loads\": []}\n");
    text = experts();
    assert_non_null(strstr(text, "No loads"));
    free(text);
}

static void test_plots__say_which_line_is_wrong(void **state) {
    (void)state;
    struct sonde_error e = {0};
    struct plot_run run = {scratch_path("log"), "x"};
    char text[200];
    scratch_write("log", "{\"step\": 0, \"loss\": 2}\n{\"step\"\n{\"step\": 1, \"loss\": 2}\n");
    snprintf(text, sizeof(text), "%.100s: line 2: not an object with a step", scratch_path("log"));
    assert_int_equal(plot_losses(&run, 1, scratch_path("loss.svg"), &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, text);
    assert_int_equal(plot_experts(run.log, scratch_path("loss.svg"), &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, text);
    run.log = "/nowhere/log";
    assert_int_equal(plot_losses(&run, 1, scratch_path("loss.svg"), &e), SONDE_ERROR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses__few_steps_are_all_drawn), cmocka_unit_test(test_losses__long_runs_stay_small),
        cmocka_unit_test(test_losses__of_nothing_is_a_picture), cmocka_unit_test(test_experts__far_from_even_is_drawn),
        cmocka_unit_test(test_experts__many_stay_small),        cmocka_unit_test(test_plots__say_which_line_is_wrong),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
