/*
 * resize.c - bicubic resizing to the bytes that Pillow gives.
 *
 * An output pixel is a weighted sum of the inputs around its centre: Keys' cubic (a = -1/2), which is stretched over
 * more of them where the image shrinks. Width comes first, then height, with bytes in between; the other way round for
 * images that are more than 100 times as high as wide and shrink. Weights sum to 1 and are held as integers of 2^22; a
 * sum of 255 times all their absolute values (at most 1.3) still fits 32 bits. Any of these choices made otherwise
 * shows in the bytes, as it does between versions of Pillow: this is what 10 to 12 do.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image/image_internal.h"

enum { BITS = 22 };

/* Where output i of one axis comes from: weights[i * most ..] of inputs first[i], first[i] + 1, ... */
struct taps {
    uint32_t most;
    uint32_t *first, *count;
    int32_t *weights;
};

static double cubic(double x) {
    x = fabs(x);
    if (x < 1)
        return ((1.5 * x - 2.5) * x) * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static void taps_release(struct taps *t) {
    free(t->first);
    free(t->count);
    free(t->weights);
}

/* The weights of output i; `exact` is scratch for `most` of them. */
static void weigh(struct taps *t, uint32_t i, uint32_t from, double scale, double *exact) {
    double stretch = fmax(scale, 1), support = 2 * stretch, centre = (i + 0.5) * scale, sum = 0;
    double low = fmax(centre - support + 0.5, 0), high = fmin(centre + support + 0.5, from);
    uint32_t first = (uint32_t)low, count = (uint32_t)high - first;
    int32_t *weights = t->weights + (size_t)i * t->most;
    for (uint32_t k = 0; k < count; k++) {
        exact[k] = cubic((k + first - centre + 0.5) * (1 / stretch));
        sum += exact[k];
    }
    for (uint32_t k = 0; k < count; k++) {
        double w = (sum != 0 ? exact[k] / sum : exact[k]) * (1 << BITS);
        weights[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
    t->first[i] = first;
    t->count[i] = count;
}

/* Of an axis that goes from `from` to `to` pixels. All fields may be released after a failure. */
static int taps_init(struct taps *t, uint32_t from, uint32_t to, struct sonde_error *e) {
    double scale = (double)from / to;
    t->most = (uint32_t)ceil(2 * fmax(scale, 1)) * 2 + 1;
    t->first = malloc(to * sizeof(*t->first));
    t->count = malloc(to * sizeof(*t->count));
    t->weights = malloc((size_t)to * t->most * sizeof(*t->weights));
    double *exact = malloc(t->most * sizeof(*exact));
    bool whole = t->first && t->count && t->weights && exact;
    for (uint32_t i = 0; whole && i < to; i++)
        weigh(t, i, from, scale, exact);
    free(exact);
    return whole ? 0 : err_memory(e);
}

static uint8_t to_byte(int32_t sum) {
    int32_t value = sum >> BITS;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

static void resize_row(const uint8_t *from, uint8_t *to, uint32_t to_width, const struct taps *t) {
    for (uint32_t x = 0; x < to_width; x++, to += 3) {
        const uint8_t *in = from + (size_t)3 * t->first[x];
        const int32_t *w = t->weights + (size_t)x * t->most;
        int32_t sum[3] = {1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)};
        for (uint32_t k = 0; k < t->count[x]; k++, in += 3) {
            for (int c = 0; c < 3; c++)
                sum[c] += in[c] * w[k];
        }
        for (int c = 0; c < 3; c++)
            to[c] = to_byte(sum[c]);
    }
}

/* Output row y of `bytes` bytes from the rows of `from`. */
static void resize_column(const uint8_t *from, uint8_t *to, size_t bytes, uint32_t y, const struct taps *t) {
    const uint8_t *in = from + bytes * t->first[y];
    const int32_t *w = t->weights + (size_t)y * t->most;
    for (size_t i = 0; i < bytes; i++) {
        int32_t sum = 1 << (BITS - 1);
        for (uint32_t k = 0; k < t->count[y]; k++)
            sum += in[i + bytes * k] * w[k];
        to[i] = to_byte(sum);
    }
}

/* An image of the new width; rows of `to` are `pitch` bytes apart. Errors: MEMORY. */
static int resize_width(const struct image *from, uint8_t *to, size_t pitch, uint32_t to_width, struct sonde_error *e) {
    struct taps t = {0};
    size_t bytes = (size_t)3 * from->width;
    int code = from->width == to_width ? 0 : taps_init(&t, from->width, to_width, e);
    for (uint32_t y = 0; !code && y < from->height; y++) {
        if (from->width == to_width)
            memcpy(to + pitch * y, from->pixels + bytes * y, bytes);
        else
            resize_row(from->pixels + bytes * y, to + pitch * y, to_width, &t);
    }
    taps_release(&t);
    return code;
}

/* The same of the new height. */
static int resize_height(const struct image *from, uint8_t *to, size_t pitch, uint32_t to_height,
                         struct sonde_error *e) {
    struct taps t = {0};
    size_t bytes = (size_t)3 * from->width;
    int code = from->height == to_height ? 0 : taps_init(&t, from->height, to_height, e);
    for (uint32_t y = 0; !code && y < to_height; y++) {
        if (from->height == to_height)
            memcpy(to + pitch * y, from->pixels + bytes * y, bytes);
        else
            resize_column(from->pixels, to + pitch * y, bytes, y, &t);
    }
    taps_release(&t);
    return code;
}

int image_resize(const struct image *from, uint8_t *to, size_t pitch, uint32_t to_width, uint32_t to_height,
                 struct sonde_error *e) {
    bool height_first = from->height > (uint64_t)100 * from->width && to_height < from->height;
    struct image middle = {.width = height_first ? from->width : to_width,
                           .height = height_first ? to_height : from->height};
    size_t bytes = (size_t)3 * middle.width;
    int code;
    middle.pixels = malloc(bytes * middle.height);
    if (!middle.pixels)
        return err_memory(e);
    if (height_first) {
        code = resize_height(from, middle.pixels, bytes, to_height, e);
        code = code ? code : resize_width(&middle, to, pitch, to_width, e);
    } else {
        code = resize_width(from, middle.pixels, bytes, to_width, e);
        code = code ? code : resize_height(&middle, to, pitch, to_height, e);
    }
    image_release(&middle);
    return code;
}
