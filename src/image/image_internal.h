/*
 * image_internal.h - inside the room: what decoders are given and must do, and the drawing of a picture.
 *
 * A decoder reads the size, has it checked and the pixels allocated by image_begin(), and fills them. It holds no
 * memory when it returns; the pixels belong to image_decode(), after an error too.
 */
#ifndef IMAGE_IMAGE_INTERNAL_H
#define IMAGE_IMAGE_INTERNAL_H

#include "image/image.h"

/* A file on its way. `stage` is what is being read, for messages. */
struct image_source {
    const char *name, *format, *stage;
    const uint8_t *bytes;
    size_t count;
    const struct image_limits *limits;
    struct image *image;
    struct sonde_error *e;
};

/* "NAME: FORMAT: STAGE: REASON", code FORMAT. */
int image_broken(const struct image_source *s, const char *reason);

/* The same with code UNSUPPORTED. */
int image_unsupported(const struct image_source *s, const char *reason);

/* Holds the size against the limits, takes memory for the pixels and goes on to the stage "picture".
 * Errors: FORMAT (a side is 0), UNSUPPORTED (beyond a limit), MEMORY. */
int image_begin(struct image_source *s, uint64_t width, uint64_t height);

int image_decode_jpeg(struct image_source *s);
int image_decode_png(struct image_source *s);
int image_decode_gif(struct image_source *s);
int image_decode_webp(struct image_source *s);

/* Pillow's bicubic resize: pixels [width, height] of 3 bytes to `to` [to_width, to_height], whose rows are `pitch`
 * bytes apart. All sizes are at least 1. Errors: MEMORY. */
int image_resize(const struct image *from, uint8_t *to, size_t pitch, uint32_t to_width, uint32_t to_height,
                 struct sonde_error *e);

/* The planned canvas, rows * cols patches of 3 bytes a pixel. Errors: MEMORY. */
int image_draw(const struct image *image, const struct image_rules *rules, const struct image_plan *plan,
               uint8_t *canvas, struct sonde_error *e);

#endif
