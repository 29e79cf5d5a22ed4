/*
 * test_image_patches.c - drawn pictures against Pillow's bytes, and how they are cut into numbers.
 *
 * tests/images/canvases.txt holds hashes of what Pillow made of the picture below (tests/images/make_images.py).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "test.h"

#include "image/image_internal.h"

/* picture() of the generator script: noise on a slope. */
static struct image picture(uint32_t width, uint32_t height) {
    struct image image = {width, height, NULL};
    uint64_t count = (uint64_t)3 * width * height;
    image.pixels = malloc(count);
    assert_non_null(image.pixels);
    for (uint64_t i = 0; i < count; i++)
        image.pixels[i] = (uint8_t)((i * i * 2654435761u >> 13 & 127) + i * 128 / count);
    return image;
}

static uint64_t fnv(const uint8_t *bytes, size_t count) {
    uint64_t value = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        value = (value ^ bytes[i]) * 0x100000001b3u;
    return value;
}

static void check_canvas(const char *line) {
    struct image_rules r;
    struct image_plan plan, want = {0};
    uint32_t width, height;
    unsigned long long hash;
    int layout;
    assert_int_equal(sscanf(line, "%d %u %u %u %u %lf %u %u %u %u %u %u %u %u %u %llx", &layout, &r.patch_size,
                            &r.downsample_ratio, &r.max_tokens, &r.min_pixels, &r.max_wh_ratio, &width, &height,
                            &want.rows, &want.cols, &want.tokens, &want.x, &want.y, &want.width, &want.height, &hash),
                     16);
    r.layout = layout ? IMAGE_PAIRS : IMAGE_ROWS;
    CHECKED(image_plan(width, height, &r, &plan, &error));
    assert_int_equal(plan.rows, want.rows);
    assert_int_equal(plan.cols, want.cols);
    if (plan.x != want.x || plan.y != want.y || plan.width != want.width || plan.height != want.height)
        fail_msg("drawn at %u, %u, %u x %u, expected: %s", plan.x, plan.y, plan.width, plan.height, line);
    size_t bytes = (size_t)3 * plan.rows * plan.cols * r.patch_size * r.patch_size;
    struct image image = picture(width, height);
    uint8_t *canvas = malloc(bytes);
    assert_non_null(canvas);
    CHECKED(image_draw(&image, &r, &plan, canvas, &error));
    if (fnv(canvas, bytes) != hash)
        fail_msg("other bytes than Pillow's: %s", line);
    free(canvas);
    image_release(&image);
}

static void test_draw__gives_pillows_bytes(void **state) {
    (void)state;
    FILE *file = fopen("tests/images/canvases.txt", "r");
    char line[300];
    int lines = 0;
    assert_non_null(file);
    for (; fgets(line, sizeof(line), file); lines++)
        check_canvas(line);
    fclose(file);
    assert_int_equal(lines, 20);
}

/* What the release makes of a byte: float32, then bf16. */
static float value_of(uint8_t byte) {
    float exact = ((float)byte / 255 - 0.5f) / 0.5f;
    float ulp = exact != 0 ? ldexpf(1, ilogbf(exact) - 7) : 1;
    return rintf(exact / ulp) * ulp;
}

static void test_patches__are_cut_in_reading_order(void **state) {
    (void)state;
    enum { PATCH = 5, ROWS = 3, COLS = 4 };
    const struct image_rules rules = {IMAGE_ROWS, PATCH, 2, 20, 0, 0};
    struct image image = picture(COLS * PATCH, ROWS * PATCH);
    struct image_plan plan;
    float patches[ROWS * COLS][3][PATCH][PATCH];
    CHECKED(image_plan(image.width, image.height, &rules, &plan, &error));
    assert_int_equal(image_patches_count(&plan, &rules), sizeof(patches) / sizeof(float));
    CHECKED(image_patches(&image, &rules, &plan, &patches[0][0][0][0], &error));
    for (uint32_t y = 0; y < image.height; y++) {
        for (uint32_t x = 0; x < image.width; x++) {
            for (uint32_t c = 0; c < 3; c++) {
                float got = patches[y / PATCH * COLS + x / PATCH][c][y % PATCH][x % PATCH];
                assert_float_equal(got, value_of(image.pixels[3 * (y * image.width + x) + c]), 0);
            }
        }
    }
    image_release(&image);
}

/* Values from the release's arithmetic in NumPy and its bfloat16. */
static void test_patches__are_the_releases_numbers(void **state) {
    (void)state;
    static const struct {
        uint8_t byte;
        float value;
    } known[] = {{0, -1},           {1, -0x1.fcp-1f},  {64, -0x1.fep-2f}, {127, -0x1.02p-8f},
                 {128, 0x1.02p-8f}, {200, 0x1.24p-1f}, {255, 1}};
    const struct image_rules rules = {IMAGE_ROWS, 1, 1, 16, 0, 0};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        uint8_t pixel[3] = {known[i].byte, 0, 255};
        struct image image = {1, 1, pixel};
        struct image_plan plan;
        float got[3];
        CHECKED(image_plan(1, 1, &rules, &plan, &error));
        CHECKED(image_patches(&image, &rules, &plan, got, &error));
        if (got[0] != known[i].value)
            fail_msg("byte %d: %a, expected %a", known[i].byte, (double)got[0], (double)known[i].value);
        assert_true(got[1] == -1 && got[2] == 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draw__gives_pillows_bytes),
        cmocka_unit_test(test_patches__are_cut_in_reading_order),
        cmocka_unit_test(test_patches__are_the_releases_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
