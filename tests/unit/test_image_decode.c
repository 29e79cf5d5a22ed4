/*
 * test_image_decode.c - files of tests/images: the good ones give Pillow's pixels, the broken ones a sentence.
 *
 * tests/images/make_images.py made both. A '*' at the end of an expected sentence stands for the words of a library.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "test.h"

#include "image/image.h"

#define GOOD   "tests/images/good/"
#define BROKEN "tests/images/broken/"

enum { LARGEST = 1 << 20 };

static void read_all(const char *directory, const char *name, const char *ending, struct buf *b) {
    char path[200];
    snprintf(path, sizeof(path), "%s%s%s", directory, name, ending);
    CHECKED(file_read(path, LARGEST, b, &error));
}

/* ---------------------------------------------------------------------------------- good ones */

/* `off`: how far a byte may be from Pillow's, where another version of a lossy decoder may round otherwise. */
static const struct good {
    const char *name;
    int off;
} good[] = {
    {"rgb.png", 0},       {"rgba.png", 0},        {"grey.png", 0},          {"grey_alpha.png", 0},
    {"grey1.png", 0},     {"grey2.png", 0},       {"grey4.png", 0},         {"grey16.png", 0},
    {"rgb16.png", 0},     {"palette.png", 0},     {"palette2.png", 0},      {"palette_short.png", 0},
    {"no_end.png", 0},    {"interlaced.png", 0},  {"rgb.jpg", 2},           {"full.jpg", 2},
    {"grey.jpg", 2},      {"progressive.jpg", 2}, {"cmyk.jpg", 2},          {"turned.jpg", 2},
    {"plain.gif", 0},     {"interlaced.gif", 0},  {"animated.gif", 0},      {"local.gif", 0},
    {"beyond.gif", 0},    {"transparent.gif", 0}, {"short_palette.gif", 0}, {"no_palette.gif", 0},
    {"lossy.webp", 2},    {"lossless.webp", 0},   {"alpha.webp", 0},        {"lossy_alpha.webp", 2},
    {"animated.webp", 0},
};

/* The header of a PPM file with 255 values; the pixels begin at the returned place. */
static size_t read_ppm_header(const struct buf *b, unsigned *width, unsigned *height) {
    int at = 0;
    assert_int_equal(sscanf(b->data, "P6 %u %u 255%n", width, height, &at), 2);
    return (size_t)at + 1;
}

static void check_pixels(const struct good *g, const struct image *image) {
    struct buf expected = {0};
    unsigned width, height;
    read_all(GOOD, g->name, ".ppm", &expected);
    size_t at = read_ppm_header(&expected, &width, &height), count = (size_t)3 * width * height;
    if (image->width != width || image->height != height || expected.len != at + count)
        fail_msg("%s: %u x %u, expected %u x %u", g->name, image->width, image->height, width, height);
    for (size_t i = 0; i < count; i++) {
        int want = (uint8_t)expected.data[at + i];
        if (abs(image->pixels[i] - want) > g->off)
            fail_msg("%s: byte %zu is %d, expected %d", g->name, i, image->pixels[i], want);
    }
    buf_release(&expected);
}

static void test_decode__gives_pillows_pixels(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        struct buf file = {0};
        struct image image;
        read_all(GOOD, good[i].name, "", &file);
        CHECKED(image_decode(good[i].name, file.data, file.len, NULL, &image, &error));
        check_pixels(&good[i], &image);
        image_release(&image);
        assert_null(image.pixels);
        buf_release(&file);
    }
}

/* ------------------------------------------------------------------------------- broken ones */

static const struct broken {
    const char *name;
    int code;
    const char *message; /* after "NAME: " */
} broken[] = {
    {"empty", SONDE_ERROR_FORMAT, "empty, expected a JPEG, PNG, GIF or WebP image"},
    {"text.png", SONDE_ERROR_FORMAT, "begins with 54 68 65 72, expected a JPEG, PNG, GIF or WebP image"},
    {"picture.bmp", SONDE_ERROR_FORMAT, "begins with 42 4d 76 03, expected a JPEG, PNG, GIF or WebP image"},
    {"drawing.svg", SONDE_ERROR_FORMAT, "begins with 3c 73 76 67, expected a JPEG, PNG, GIF or WebP image"},
    {"one_byte.jpg", SONDE_ERROR_FORMAT, "begins with ff, expected a JPEG, PNG, GIF or WebP image"},

    {"signature.png", SONDE_ERROR_FORMAT, "PNG: image header: the file ends before the picture does"},
    {"cut_header.png", SONDE_ERROR_FORMAT, "PNG: image header: the file ends before the picture does"},
    {"cut.png", SONDE_ERROR_FORMAT, "PNG: picture: the file ends before the picture does"},
    {"crc_header.png", SONDE_ERROR_FORMAT, "PNG: image header: *"},
    {"crc_data.png", SONDE_ERROR_FORMAT, "PNG: picture: *"},
    {"huge.png", SONDE_ERROR_UNSUPPORTED, "PNG: image header: 60000 x 60000 pixels, at most 50 million"},
    {"hugest.png", SONDE_ERROR_UNSUPPORTED, "PNG: image header: 2147483647 x 2147483647 pixels, at most 65535 a side"},
    {"wide.png", SONDE_ERROR_UNSUPPORTED, "PNG: image header: 70000 x 1 pixels, at most 65535 a side"},
    {"no_width.png", SONDE_ERROR_FORMAT, "PNG: image header: *"},
    {"no_palette.png", SONDE_ERROR_FORMAT, "PNG: image header: *"},
    {"depth.png", SONDE_ERROR_FORMAT, "PNG: image header: *"},
    {"filter.png", SONDE_ERROR_FORMAT, "PNG: picture: *"},
    {"few.png", SONDE_ERROR_FORMAT, "PNG: picture: *"},
    {"no_data.png", SONDE_ERROR_FORMAT, "PNG: image header: *"},
    {"not_deflated.png", SONDE_ERROR_FORMAT, "PNG: picture: *"},

    {"start.jpg", SONDE_ERROR_FORMAT, "JPEG: image header: the file ends before the picture does"},
    {"cut_header.jpg", SONDE_ERROR_FORMAT, "JPEG: image header: the file ends before the picture does"},
    {"cut.jpg", SONDE_ERROR_FORMAT, "JPEG: picture: the file ends before the picture does"},
    {"cut_progressive.jpg", SONDE_ERROR_FORMAT, "JPEG: picture: the file ends before the picture does"},
    {"no_height.jpg", SONDE_ERROR_FORMAT, "JPEG: image header: *"},
    {"huge.jpg", SONDE_ERROR_UNSUPPORTED, "JPEG: image header: 60000 x 60000 pixels, at most 50 million"},
    {"huge_progressive.jpg", SONDE_ERROR_UNSUPPORTED, "JPEG: image header: 60000 x 60000 pixels, at most 50 million"},
    {"tallest.jpg", SONDE_ERROR_FORMAT, "JPEG: image header: *"},
    {"no_tables.jpg", SONDE_ERROR_FORMAT, "JPEG: picture: *"},
    {"two_channels.jpg", SONDE_ERROR_UNSUPPORTED, "JPEG: image header: expected 1, 3 or 4 channels"},
    {"twelve_bits.jpg", SONDE_ERROR_FORMAT, "JPEG: image header: *"},
    {"lossless.jpg", SONDE_ERROR_FORMAT, "JPEG: image header: *"},
    {"scans.jpg", SONDE_ERROR_UNSUPPORTED, "JPEG: picture: more than 100 scans"},

    {"header.gif", SONDE_ERROR_FORMAT, "GIF: image header: *"},
    {"no_frame.gif", SONDE_ERROR_FORMAT, "GIF: image header: holds no picture"},
    {"cut.gif", SONDE_ERROR_FORMAT, "GIF: picture: the file ends before the picture does"},
    {"no_width.gif", SONDE_ERROR_FORMAT, "GIF: image header: the first frame is empty"},
    {"huge.gif", SONDE_ERROR_UNSUPPORTED, "GIF: image header: 65535 x 65535 pixels, at most 50 million"},
    {"huge_frame.gif", SONDE_ERROR_UNSUPPORTED, "GIF: image header: 60003 x 60002 pixels, at most 50 million"},
    {"code.gif", SONDE_ERROR_FORMAT, "GIF: picture: *"},
    {"code_size.gif", SONDE_ERROR_FORMAT, "GIF: image header: *"},
    {"record.gif", SONDE_ERROR_FORMAT, "GIF: image header: *"},

    {"riff.webp", SONDE_ERROR_FORMAT, "WebP: image header: the file ends before the picture does"},
    {"cut.webp", SONDE_ERROR_FORMAT, "WebP: image header: the file ends before the picture does"},
    {"cut_data.webp", SONDE_ERROR_FORMAT, "WebP: picture: the file ends before the picture does"},
    {"bits.webp", SONDE_ERROR_FORMAT, "WebP: picture: the bitstream is broken"},
    {"huge.webp", SONDE_ERROR_UNSUPPORTED, "WebP: image header: 65536 x 32768 pixels, at most 65535 a side"},
    {"huge_lossless.webp", SONDE_ERROR_UNSUPPORTED, "WebP: image header: 16384 x 16384 pixels, at most 50 million"},
    {"outside.webp", SONDE_ERROR_FORMAT, "WebP: *"},
    {"no_frame.webp", SONDE_ERROR_FORMAT, "WebP: *"},
};

static void check_message(const char *name, const char *message, const char *expected) {
    size_t length = strlen(expected), prefix = strlen(name);
    bool open = expected[length - 1] == '*';
    if (strncmp(message, name, prefix) != 0 || strncmp(message + prefix, ": ", 2) != 0)
        fail_msg("%s: does not begin with its name: %s", name, message);
    if (strchr(message, '\n') || (open && strlen(message + prefix + 2) < length))
        fail_msg("%s: not one sentence: %s", name, message);
    if (open ? strncmp(message + prefix + 2, expected, length - 1) : strcmp(message + prefix + 2, expected))
        fail_msg("%s, expected: %s", message, expected);
}

static long peak_kib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* None of them is given memory for the pixels it speaks of: 60000 x 60000 would be 10 GiB. */
static void test_decode__says_what_is_wrong(void **state) {
    (void)state;
    long before = peak_kib();
    for (size_t i = 0; i < COUNT_OF(broken); i++) {
        const struct broken *row = &broken[i];
        struct buf file = {0};
        struct image image;
        struct sonde_error e = {0};
        read_all(BROKEN, row->name, "", &file);
        assert_int_equal(image_decode(row->name, file.data, file.len, NULL, &image, &e), row->code);
        assert_int_equal(e.code, row->code);
        check_message(row->name, e.message, row->message);
        assert_null(image.pixels);
        buf_release(&file);
    }
    assert_in_range(peak_kib() - before, 0, 64 << 10);
}

/* Ends early at any byte: either that byte was not needed, or the sentence comes. */
static void test_decode__survives_any_end(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        struct buf file = {0};
        size_t refused = 0;
        read_all(GOOD, good[i].name, "", &file);
        for (size_t end = 0; end < file.len; end++) {
            uint8_t *part = malloc(end + !end); /* of its own, so that sanitizers see what lies behind it */
            struct image image;
            struct sonde_error e = {0};
            assert_non_null(part);
            memcpy(part, file.data, end);
            int code = image_decode("part", part, end, NULL, &image, &e);
            if (code)
                check_message("part", e.message, "*");
            refused += code != 0;
            image_release(&image);
            free(part);
        }
        assert_true(refused > file.len / 4); /* later frames are not read */
        buf_release(&file);
    }
}

/* Any byte is another one. */
static void test_decode__survives_any_damage(void **state) {
    (void)state;
    struct image_limits limits;
    image_limits_default(&limits);
    limits.pixels = 1 << 20;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        struct buf file = {0};
        read_all(GOOD, good[i].name, "", &file);
        for (size_t at = 0; at < file.len; at++) {
            struct image image;
            struct sonde_error e = {0};
            file.data[at] ^= (char)(1 << at % 8);
            if (image_decode("damaged", file.data, file.len, &limits, &image, &e))
                check_message("damaged", e.message, "*");
            image_release(&image);
            file.data[at] ^= (char)(1 << at % 8);
        }
        buf_release(&file);
    }
}

/* ------------------------------------------------------------------------------------- limits */

static void check_limits(struct image_limits limits, const char *message) {
    struct buf file = {0};
    struct image image;
    struct sonde_error e = {0};
    read_all(GOOD, "rgb.png", "", &file);
    int code = image_decode("rgb.png", file.data, file.len, &limits, &image, &e);
    if (message) {
        assert_int_equal(code, SONDE_ERROR_UNSUPPORTED);
        check_message("rgb.png", e.message, message);
    } else if (code) {
        fail_msg("%s", e.message);
    }
    image_release(&image);
    buf_release(&file);
}

/* rgb.png is 21 x 13. */
static void test_decode__holds_to_limits(void **state) {
    (void)state;
    struct image_limits standard;
    image_limits_default(&standard);
    assert_int_equal(standard.pixels, 50000000);
    check_limits((struct image_limits){.bytes = 1 << 20, .pixels = 273, .side = 21}, NULL);
    check_limits((struct image_limits){.bytes = 100, .pixels = 273, .side = 21}, "900 bytes, at most 100");
    check_limits((struct image_limits){.bytes = 1 << 20, .pixels = 272, .side = 21},
                 "PNG: image header: 21 x 13 pixels, at most 272");
    check_limits((struct image_limits){.bytes = 1 << 20, .pixels = 273, .side = 20},
                 "PNG: image header: 21 x 13 pixels, at most 20 a side");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode__gives_pillows_pixels), cmocka_unit_test(test_decode__says_what_is_wrong),
        cmocka_unit_test(test_decode__survives_any_end),     cmocka_unit_test(test_decode__survives_any_damage),
        cmocka_unit_test(test_decode__holds_to_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
