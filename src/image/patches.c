/*
 * patches.c - the canvas of a planned image, and its pixels as numbers.
 *
 * Only 256 numbers can occur, so they are made once an image and looked up.
 */
#include <stdlib.h>
#include <string.h>

#include "image/image_internal.h"

enum { GREY = 127 };

int image_draw(const struct image *image, const struct image_rules *rules, const struct image_plan *plan,
               uint8_t *canvas, struct sonde_error *e) {
    size_t pitch = (size_t)3 * plan->cols * rules->patch_size;
    memset(canvas, GREY, pitch * plan->rows * rules->patch_size);
    return image_resize(image, canvas + pitch * plan->y + (size_t)3 * plan->x, pitch, plan->width, plan->height, e);
}

/* The nearest bf16, halves to even. */
static float round_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof(bits));
    return x;
}

/* One patch [3, size, size] from its first pixel on the canvas. */
static void cut(const uint8_t *from, size_t pitch, uint32_t size, const float values[256], float *patch) {
    for (uint32_t c = 0; c < 3; c++) {
        for (uint32_t y = 0; y < size; y++) {
            for (uint32_t x = 0; x < size; x++)
                *patch++ = values[from[pitch * y + 3 * x + c]];
        }
    }
}

uint64_t image_patches_count(const struct image_plan *plan, const struct image_rules *rules) {
    return (uint64_t)plan->rows * plan->cols * 3 * rules->patch_size * rules->patch_size;
}

int image_patches(const struct image *image, const struct image_rules *rules, const struct image_plan *plan,
                  float *patches, struct sonde_error *e) {
    uint32_t size = rules->patch_size;
    size_t pitch = (size_t)3 * plan->cols * size, step = (size_t)3 * size * size;
    float values[256];
    uint8_t *canvas = malloc(pitch * plan->rows * size);
    int code = canvas ? image_draw(image, rules, plan, canvas, e) : err_memory(e);
    for (int i = 0; i < 256; i++)
        values[i] = round_bf16(((float)i / 255 - 0.5f) / 0.5f);
    for (uint32_t row = 0; !code && row < plan->rows; row++) {
        for (uint32_t col = 0; col < plan->cols; col++, patches += step)
            cut(canvas + pitch * row * size + (size_t)3 * col * size, pitch, size, values, patches);
    }
    free(canvas);
    return code;
}
