/*
 * decode.c - which format a file has, and the limits that hold for all of them.
 *
 * The first bytes decide, never a name or a declared type: what is called image/png may be anything. Decoders ask here
 * before they take memory that depends on the picture's size.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image_internal.h"

void image_limits_default(struct image_limits *limits) {
    *limits = (struct image_limits){.bytes = 48u << 20, .pixels = 50000000, .side = 65535};
}

void image_release(struct image *image) {
    free(image->pixels);
    *image = (struct image){0};
}

int image_broken(const struct image_source *s, const char *reason) {
    return err_set(s->e, SONDE_ERROR_FORMAT, "%s: %s: %s: %s", s->name, s->format, s->stage, reason);
}

int image_unsupported(const struct image_source *s, const char *reason) {
    return err_set(s->e, SONDE_ERROR_UNSUPPORTED, "%s: %s: %s: %s", s->name, s->format, s->stage, reason);
}

/* "50 million" or "4096", into `text`. */
static const char *spelled(uint64_t number, char text[32]) {
    bool millions = number && number % 1000000 == 0;
    snprintf(text, 32, "%llu%s", (unsigned long long)(millions ? number / 1000000 : number),
             millions ? " million" : "");
    return text;
}

int image_begin(struct image_source *s, uint64_t width, uint64_t height) {
    const struct image_limits *l = s->limits;
    char limit[32], reason[128];
    unsigned long long w = width, h = height;
    uint64_t pixels, bytes;
    bool side = width > l->side || height > l->side;
    if (!width || !height) {
        snprintf(reason, sizeof(reason), "%llu x %llu pixels, expected at least 1 x 1", w, h);
        return image_broken(s, reason);
    }
    if (side || !size_mul(width, height, &pixels) || pixels > l->pixels) {
        snprintf(reason, sizeof(reason), "%llu x %llu pixels, at most %s%s", w, h,
                 spelled(side ? l->side : l->pixels, limit), side ? " a side" : "");
        return image_unsupported(s, reason);
    }
    if (!size_mul(pixels, 3, &bytes) || bytes > SIZE_MAX || !(s->image->pixels = malloc((size_t)bytes)))
        return err_memory(s->e);
    s->image->width = (uint32_t)width;
    s->image->height = (uint32_t)height;
    s->stage = "picture";
    return 0;
}

static bool begins(const struct image_source *s, size_t at, const char *text, size_t length) {
    return s->count >= at + length && memcmp(s->bytes + at, text, length) == 0;
}

static int decode_unknown(const struct image_source *s) {
    static const char expected[] = "expected a JPEG, PNG, GIF or WebP image";
    char first[4 * 3 + 1] = "";
    if (!s->count)
        return err_set(s->e, SONDE_ERROR_FORMAT, "%s: empty, %s", s->name, expected);
    for (size_t i = 0; i < s->count && i < 4; i++)
        snprintf(first + 3 * i, 4, " %02x", s->bytes[i]);
    return err_set(s->e, SONDE_ERROR_FORMAT, "%s: begins with%s, %s", s->name, first, expected);
}

static int decode(struct image_source *s) {
    char limit[32];
    if (s->count > s->limits->bytes)
        return err_set(s->e, SONDE_ERROR_UNSUPPORTED, "%s: %zu bytes, at most %s", s->name, s->count,
                       spelled(s->limits->bytes, limit));
    s->stage = "image header";
    if (begins(s, 0, "\xff\xd8\xff", 3))
        return s->format = "JPEG", image_decode_jpeg(s);
    if (begins(s, 0, "\x89PNG\r\n\x1a\n", 8))
        return s->format = "PNG", image_decode_png(s);
    if (begins(s, 0, "GIF87a", 6) || begins(s, 0, "GIF89a", 6))
        return s->format = "GIF", image_decode_gif(s);
    if (begins(s, 0, "RIFF", 4) && begins(s, 8, "WEBP", 4))
        return s->format = "WebP", image_decode_webp(s);
    return decode_unknown(s);
}

int image_decode(const char *name, const void *bytes, size_t count, const struct image_limits *limits,
                 struct image *image, struct sonde_error *e) {
    struct image_limits defaults;
    image_limits_default(&defaults);
    *image = (struct image){0};
    struct image_source s = {
        .name = name, .bytes = bytes, .count = count, .limits = limits ? limits : &defaults, .image = image, .e = e};
    int code = decode(&s);
    if (code)
        image_release(image);
    return code;
}
