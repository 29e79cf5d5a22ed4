/*
 * png.c - PNG through libpng.
 *
 * The library is asked for 8-bit RGB: palettes and few bits expanded, the low byte of 16 bits and transparency dropped.
 * Chunks that do not change that (texts, profiles, times: a text may inflate to anything) are skipped unread.
 */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "image/image_internal.h"

struct png_reader {
    struct image_source *source;
    size_t at; /* bytes that were read */
    png_structp png;
    png_infop info;
    png_bytepp rows;
    jmp_buf failed;
    int code; /* why the library failed */
};

static void on_error(png_structp png, png_const_charp reason) {
    struct png_reader *r = png_get_error_ptr(png);
    r->code = image_broken(r->source, reason);
    longjmp(r->failed, 1);
}

static void on_warning(png_structp png, png_const_charp reason) {
    (void)png;
    (void)reason;
}

static void on_read(png_structp png, png_bytep to, size_t count) {
    struct png_reader *r = png_get_io_ptr(png);
    if (count > r->source->count - r->at)
        png_error(png, "the file ends before the picture does");
    memcpy(to, r->source->bytes + r->at, count);
    r->at += count;
}

static void ask_for_rgb(struct png_reader *r) {
    png_set_expand(r->png); /* transparency of a palette or a colour becomes a channel, which goes with the others */
    png_set_strip_16(r->png);
    png_set_strip_alpha(r->png);
    png_set_gray_to_rgb(r->png);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
}

/* on_error() comes back here. */
static int read_png(struct png_reader *r) {
    struct image *image = r->source->image;
    if (setjmp(r->failed))
        return r->code;
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(r->png, r->info);
    int code = image_begin(r->source, png_get_image_width(r->png, r->info), png_get_image_height(r->png, r->info));
    if (code)
        return code;
    ask_for_rgb(r);
    size_t pitch = (size_t)3 * image->width;
    if (png_get_rowbytes(r->png, r->info) != pitch)
        return image_unsupported(r->source, "cannot be made 8-bit RGB");
    r->rows = malloc(image->height * sizeof(*r->rows));
    if (!r->rows)
        return err_memory(r->source->e);
    for (uint32_t y = 0; y < image->height; y++)
        r->rows[y] = image->pixels + pitch * y;
    png_read_image(r->png, r->rows);
    return 0;
}

int image_decode_png(struct image_source *s) {
    struct png_reader r = {.source = s};
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    int code = r.info ? read_png(&r) : err_memory(s->e);
    free(r.rows);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    return code;
}
