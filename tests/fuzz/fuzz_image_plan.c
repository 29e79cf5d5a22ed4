/*
 * fuzz_image_plan.c - any sizes under any rules: refused in a sentence, or a plan that holds what image.h promises.
 *
 * The input is a width, a height, the rules and a position, 32 bytes; what is missing is zero.
 */
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint32_t width, height, patch_size, downsample_ratio, max_tokens, min_pixels;
    float max_wh_ratio;
    uint32_t start; /* the lowest bit is the layout */
};

static void check(bool holds) {
    if (!holds)
        abort();
}

static void check_place(const struct image_plan *p, const struct image_rules *r) {
    uint64_t width = (uint64_t)p->cols * r->patch_size, height = (uint64_t)p->rows * r->patch_size;
    check(p->rows && p->cols && p->width && p->height && p->tokens <= r->max_tokens);
    check((uint64_t)p->x + p->width <= width && (uint64_t)p->y + p->height <= height);
    check(p->width == width || p->height == height);
    check(p->grid_rows == ceil_div(p->rows, r->downsample_ratio));
    check(p->grid_cols == ceil_div(p->cols, r->downsample_ratio));
    check(image_patches_count(p, r) == 3 * width * height);
}

static void check_span(const struct image_plan *p, const struct image_rules *r, uint64_t start) {
    uint32_t count = image_span_tokens(p, r, start), grid = p->grid_rows * p->grid_cols, seen[5] = {0};
    enum image_token *tokens = malloc(count * sizeof(*tokens));
    uint32_t *order = malloc(grid * sizeof(*order));
    bool *met = calloc(grid, sizeof(*met));
    check(tokens && order && met && count <= r->max_tokens);
    image_span(p, r, start, tokens, order);
    for (uint32_t i = 0; i < count; i++)
        seen[tokens[i]]++;
    check(seen[IMAGE_START] == 1 && seen[IMAGE_END] == 1 && tokens[count - 1] == IMAGE_END);
    check(seen[IMAGE_PATCH] == grid && seen[IMAGE_NEWLINE] == p->grid_rows);
    for (uint32_t i = 0; i < grid; i++) {
        check(order[i] < grid && !met[order[i]]);
        met[order[i]] = true;
    }
    free(tokens);
    free(order);
    free(met);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {0};
    struct image_plan plan;
    struct sonde_error e = {0};
    memcpy(&in, data, min_u64(size, sizeof(in)));
    struct image_rules rules = {.layout = in.start & 1 ? IMAGE_PAIRS : IMAGE_ROWS,
                                .patch_size = in.patch_size % 70,
                                .downsample_ratio = in.downsample_ratio % 10,
                                .max_tokens = in.max_tokens % 17000,
                                .min_pixels = in.min_pixels % 17000000,
                                .max_wh_ratio = (double)in.max_wh_ratio};
    int code = image_plan(in.width, in.height, &rules, &plan, &e);
    check(code == 0 || (code == SONDE_ERROR_ARGUMENT && strncmp(e.message, "images: ", 8) == 0));
    if (code == 0) {
        check_place(&plan, &rules);
        check_span(&plan, &rules, in.start);
    }
    return 0;
}
