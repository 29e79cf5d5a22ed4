/*
 * fuzz_image.c - any bytes as an image file: pixels within the limits, or one sentence; then patches.
 *
 * Every pixel of an image that was decoded is read, so that none is left out by a decoder unnoticed by the sanitizers.
 */
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds)
        abort();
}

static void look(const struct image *image, enum image_layout layout) {
    struct image_rules rules;
    struct image_plan plan;
    image_rules_default(layout, &rules);
    rules.max_tokens = 40;
    rules.min_pixels = 500;
    check(image_plan(image->width, image->height, &rules, &plan, NULL) == 0);
    uint64_t count = image_patches_count(&plan, &rules);
    float *patches = malloc(count * sizeof(*patches));
    check(patches && image_patches(image, &rules, &plan, patches, NULL) == 0);
    for (uint64_t i = 0; i < count; i++)
        check(patches[i] >= -1 && patches[i] <= 1);
    free(patches);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct image_limits limits = {.bytes = 60000, .pixels = 100000, .side = 5000};
    struct image image;
    struct sonde_error e = {0};
    int code = image_decode("image", data, size, &limits, &image, &e);
    if (code) {
        check(code == e.code && !image.pixels && strncmp(e.message, "image: ", 7) == 0 && e.message[7]);
        check(!strchr(e.message, '\n'));
        return 0;
    }
    check(size <= limits.bytes && image.width && image.height);
    check(image.width <= limits.side && image.height <= limits.side);
    check((uint64_t)image.width * image.height <= limits.pixels);
    look(&image, size % 2 ? IMAGE_ROWS : IMAGE_PAIRS);
    image_release(&image);
    return 0;
}
