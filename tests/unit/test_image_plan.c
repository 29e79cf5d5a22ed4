/*
 * test_image_plan.c - sizes and tokens of images, against tables that tests/images/make_images.py made from the
 * formulas of the releases.
 */
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "image/image.h"

/* Reads the fields of `rules`, and width and height, from a line; returns what follows. */
static const char *read_case(const char *line, struct image_rules *rules, uint32_t *width, uint32_t *height) {
    int layout, at = 0;
    assert_int_equal(sscanf(line, "%d %u %u %u %u %lf %u %u%n", &layout, &rules->patch_size, &rules->downsample_ratio,
                            &rules->max_tokens, &rules->min_pixels, &rules->max_wh_ratio, width, height, &at),
                     8);
    rules->layout = layout ? IMAGE_PAIRS : IMAGE_ROWS;
    return line + at;
}

static void test_plan__is_the_releases(void **state) {
    (void)state;
    FILE *file = fopen("tests/images/plans.txt", "r");
    char line[200];
    int lines = 0;
    assert_non_null(file);
    for (; fgets(line, sizeof(line), file); lines++) {
        struct image_rules rules;
        struct image_plan plan;
        uint32_t width, height, rows, cols, tokens;
        const char *rest = read_case(line, &rules, &width, &height);
        assert_int_equal(sscanf(rest, "%u %u %u", &rows, &cols, &tokens), 3);
        CHECKED(image_plan(width, height, &rules, &plan, &error));
        if (plan.rows != rows || plan.cols != cols || plan.tokens != tokens)
            fail_msg("%u x %u patches, %u tokens, expected: %s", plan.rows, plan.cols, plan.tokens, line);
        assert_int_equal(plan.grid_rows, ceil_div(rows, rules.downsample_ratio));
        assert_int_equal(plan.grid_cols, ceil_div(cols, rules.downsample_ratio));
        assert_true(plan.x + plan.width <= cols * rules.patch_size && plan.width);
        assert_true(plan.y + plan.height <= rows * rules.patch_size && plan.height);
    }
    fclose(file);
    assert_true(lines > 1900);
}

/* The largest images of V4.1-Flash, as users of other engines report them. */
static void test_plan__known_sizes(void **state) {
    (void)state;
    static const uint32_t known[][4] = {{1302, 1302, 8649, 994}, {2814, 630, 9045, 1022}, {42882, 42, 9189, 1024}};
    struct image_rules rules;
    struct image_plan plan;
    image_rules_default(IMAGE_ROWS, &rules);
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        CHECKED(image_plan(known[i][0], known[i][1], &rules, &plan, &error));
        assert_int_equal(plan.rows * plan.cols, known[i][2]);
        assert_int_equal(plan.tokens, known[i][3]);
    }
}

/* ------------------------------------------------------------------------------------- spans */

static void check_span(const char *line) {
    static const char letters[] = {
        [IMAGE_START] = 'S', [IMAGE_PATCH] = 'P', [IMAGE_NEWLINE] = 'N', [IMAGE_END] = 'E', [IMAGE_PADDING] = '-'};
    struct image_rules rules = {.patch_size = 4, .downsample_ratio = 2, .max_tokens = 100};
    struct image_plan plan;
    enum image_token tokens[100];
    uint32_t order[100], rows, cols;
    char expected[100], got[101] = "";
    int layout, start, at;
    assert_int_equal(sscanf(line, "%d %u %u %d %99s%n", &layout, &rows, &cols, &start, expected, &at), 5);
    rules.layout = layout ? IMAGE_PAIRS : IMAGE_ROWS;
    CHECKED(image_plan(cols * 8, rows * 8 - 7, &rules, &plan, &error));
    assert_int_equal(plan.grid_rows, rows);
    assert_int_equal(plan.grid_cols, cols);
    uint32_t count = image_span_tokens(&plan, &rules, (uint64_t)start);
    image_span(&plan, &rules, (uint64_t)start, tokens, order);
    for (uint32_t i = 0; i < count; i++)
        got[i] = letters[tokens[i]];
    assert_string_equal(got, expected);
    for (uint32_t i = 0; i < rows * cols; i++) {
        int number, next;
        assert_int_equal(sscanf(line + at, "%d%n", &number, &next), 1);
        assert_int_equal(order[i], number);
        at += next;
    }
}

static void test_span__is_the_releases(void **state) {
    (void)state;
    FILE *file = fopen("tests/images/spans.txt", "r");
    char line[400];
    int lines = 0;
    assert_non_null(file);
    for (; fgets(line, sizeof(line), file); lines++)
        check_span(line);
    fclose(file);
    assert_int_equal(lines, 9);
}

/* Wherever it starts, an image of V4-Flash-Vision-Exp puts its first row of tokens on a whole block of four. */
static void test_span__begins_with_a_block(void **state) {
    (void)state;
    struct image_rules rules;
    struct image_plan plan;
    enum image_token tokens[384];
    image_rules_default(IMAGE_PAIRS, &rules);
    CHECKED(image_plan(1000, 1000, &rules, &plan, &error));
    for (uint64_t start = 0; start < 8; start++) {
        uint32_t count = image_span_tokens(&plan, &rules, start);
        assert_in_range(count, 1, rules.max_tokens);
        image_span(&plan, &rules, start, tokens, NULL);
        uint32_t at = 0;
        while (tokens[at] == IMAGE_PADDING)
            at++;
        assert_int_equal(tokens[at], IMAGE_START);
        assert_int_equal((start + at + 1) % 4, 0);
    }
}

/* ------------------------------------------------------------------------------------- rules */

static void refuse(struct image_rules rules, uint32_t width, const char *message) {
    struct image_plan plan;
    struct sonde_error e = {0};
    assert_int_equal(image_plan(width, 10, &rules, &plan, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, message);
}

static void test_plan__refuses_what_no_checkpoint_has(void **state) {
    (void)state;
    const struct image_rules fine = {IMAGE_ROWS, 14, 3, 1024, 295936, 0};
    struct image_rules r = fine;
    refuse(fine, 0, "images: 0 x 10 pixels, expected at least 1 x 1");
    r.patch_size = 0;
    refuse(r, 10, "images: field patch_size: 0, expected an integer from 1 to 64");
    r = fine, r.downsample_ratio = 9;
    refuse(r, 10, "images: field downsample_ratio: 9, expected an integer from 1 to 8");
    r = fine, r.max_tokens = 15;
    refuse(r, 10, "images: field max_tokens: 15, expected an integer from 16 to 16384");
    r = fine, r.min_pixels = (1 << 24) + 1;
    refuse(r, 10, "images: field min_pixels: 16777217, expected an integer from 0 to 16777216");
    r = fine, r.max_wh_ratio = 0.5;
    refuse(r, 10, "images: field max_wh_ratio: 0.5, expected 0 or a number from 1 to 65536");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan__is_the_releases),
        cmocka_unit_test(test_plan__known_sizes),
        cmocka_unit_test(test_span__is_the_releases),
        cmocka_unit_test(test_span__begins_with_a_block),
        cmocka_unit_test(test_plan__refuses_what_no_checkpoint_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
