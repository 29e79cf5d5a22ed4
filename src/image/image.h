/*
 * image.h - the bytes of an image file in, normalised patches for the vision tower out.
 *
 *     image_decode()    a JPEG, PNG, GIF or WebP file -> pixels
 *     image_plan()      their width and height -> where they are drawn, on how many patches, in how many tokens
 *     image_span()      what stands at each of those tokens
 *     image_patches()   the drawn picture in patches, -1 .. 1
 *
 * What is done to a picture is what inference/image_processor.py of the released checkpoints does, which leaves
 * decoding and resizing to Pillow; the tests hold this room to Pillow's pixels. In particular
 *
 *     transparency      is dropped, not flattened onto a colour: what the file says below it is seen
 *     EXIF orientation  is not looked at; neither are colour profiles and gamma
 *     animations        their first frame
 *     palettes, grey    become RGB; a colour that a palette lacks is black
 *     CMYK              is taken to be inverted, as Adobe writes it
 *
 * It departs from the release in two places, where that would lose the picture: of 16-bit grey the high byte counts
 * (Pillow turns everything above 255 white), and a line too thin to be drawn is drawn one pixel thick.
 *
 * Nothing in a file is believed: sizes are held against the limits before memory is taken for them, and whatever a
 * library says of a broken file ends in one sentence that begins with the name it was given. No function keeps state;
 * all may run at the same time.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include "base/base.h"

/* ----------------------------------------------------------------------------------- decoding */

/* Rows from the top, pixels from the left, red, green, blue: 3 * width * height bytes. {0} is no image. */
struct image {
    uint32_t width, height; /* at least 1 */
    uint8_t *pixels;        /* owned */
};

/* The largest that is decoded. */
struct image_limits {
    uint64_t bytes;  /* of the file */
    uint64_t pixels; /* width * height; decoding takes up to 12 bytes for each */
    uint32_t side;   /* width, and height */
};

/* 48 MiB, 50 million pixels, 65,535 a side. */
void image_limits_default(struct image_limits *limits);

/*
 * Decodes a file by what its first bytes say it is; `name` (a path, "image 2 of message 1") begins every message:
 *
 *     NAME: PNG: image header: 60000 x 60000 pixels, at most 50 million
 *
 * limits NULL: the defaults. What `image` held before is not released; after an error it is {0}.
 * Errors: FORMAT (none of the four formats, broken, cut short), UNSUPPORTED (beyond a limit, a kind of these formats
 * that is not read), MEMORY.
 */
int image_decode(const char *name, const void *bytes, size_t count, const struct image_limits *limits,
                 struct image *image, struct sonde_error *e);

/* Frees the pixels and makes it {0}. */
void image_release(struct image *image);

/* ----------------------------------------------------------------------------------- planning */

/* How the tokens of an image follow each other. */
enum image_layout {
    IMAGE_ROWS, /* V4.1: row by row */
    IMAGE_PAIRS /* V4-Flash-Vision-Exp: two rows at a time, column by column; padded so that the compressor's blocks of
                 * four tokens begin with the image */
};

/* The fields of a checkpoint's vision_config that say how images are prepared. */
struct image_rules {
    enum image_layout layout;
    uint32_t patch_size;       /* pixels a side, 1 to 64 */
    uint32_t downsample_ratio; /* so many patches a side become one token, 1 to 8 */
    uint32_t max_tokens;       /* of an image, 16 to 16384 */
    uint32_t min_pixels;       /* smaller images are enlarged; at most 2^24 */
    double max_wh_ratio;       /* wider ones are squeezed; 0: none are */
};

/* As released: ROWS {14, 3, 1024, 295936, 0}, PAIRS {14, 3, 384, 147456, 8}. */
void image_rules_default(enum image_layout layout, struct image_rules *rules);

/* The canvas has cols * patch_size by rows * patch_size pixels. */
struct image_plan {
    uint32_t rows, cols;           /* patches, at least 1 */
    uint32_t grid_rows, grid_cols; /* tokens that show something: patches / downsample_ratio, rounded up */
    uint32_t tokens;               /* from the start to the end token; padding before them is not counted */
    uint32_t x, y, width, height;  /* the picture's place on the canvas, in pixels; around it the canvas is grey */
};

/* How an image of that size is drawn; pure. Errors: ARGUMENT (a side is 0; a rule is out of range, which is named). */
int image_plan(uint32_t width, uint32_t height, const struct image_rules *rules, struct image_plan *plan,
               struct sonde_error *e);

/* What stands at a token: a vector of the checkpoint, or for PATCH one the vision tower makes. */
enum image_token { IMAGE_START, IMAGE_PATCH, IMAGE_NEWLINE, IMAGE_END, IMAGE_PADDING };

/* Tokens of the image if the first of them comes at position `start` of the text: plan->tokens, and for PAIRS the
 * padding before them, so that never more than max_tokens are counted. */
uint32_t image_span_tokens(const struct image_plan *plan, const struct image_rules *rules, uint64_t start);

/* What stands at each: `tokens` [image_span_tokens()], and which row of the tower's output the PATCH tokens take, in
 * order: `order` [grid_rows * grid_cols], numbers into the grid in reading order. Either may be NULL. */
void image_span(const struct image_plan *plan, const struct image_rules *rules, uint64_t start,
                enum image_token *tokens, uint32_t *order);

/* ------------------------------------------------------------------------------------ patches */

/* Numbers that image_patches() writes: rows * cols * 3 * patch_size^2. */
uint64_t image_patches_count(const struct image_plan *plan, const struct image_rules *rules);

/*
 * Draws the image as planned and cuts it into patches [rows * cols, 3, patch_size, patch_size], in reading order:
 * bicubic as Pillow resizes, so bytes, then (byte / 255 - 0.5) / 0.5 in float32, rounded to bf16 as the release
 * rounds. `plan` is the one of this image's width and height and of these rules. Errors: MEMORY.
 */
int image_patches(const struct image *image, const struct image_rules *rules, const struct image_plan *plan,
                  float *patches, struct sonde_error *e);

#endif
