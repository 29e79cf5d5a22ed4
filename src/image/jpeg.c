/*
 * jpeg.c - JPEG through libjpeg (libjpeg-turbo where there is one).
 *
 * Damage that the library can conceal is accepted, as by Pillow and browsers; a file that ends too early is not. A
 * progressive file may ask for any number of passes over the whole picture, each of a few bytes: there is a bound.
 */
#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include <jerror.h>

#include "image/image_internal.h"

enum { MOST_SCANS = 100 };

/* What the library and its callbacks need; client_data of the library's object points here. */
struct jpeg_reader {
    struct jpeg_error_mgr error;
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct jpeg;
    struct image_source *source;
    jmp_buf failed;
    int code; /* why the library failed */
};

static struct jpeg_reader *reader_of(j_common_ptr jpeg) {
    return jpeg->client_data;
}

static void on_error(j_common_ptr jpeg) {
    struct jpeg_reader *r = reader_of(jpeg);
    char reason[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, reason);
    if (jpeg->err->msg_code == JERR_OUT_OF_MEMORY)
        r->code = err_memory(r->source->e);
    else
        r->code = image_broken(r->source, reason);
    longjmp(r->failed, 1);
}

/* Warnings have a negative level. */
static void on_message(j_common_ptr jpeg, int level) {
    struct jpeg_reader *r = reader_of(jpeg);
    if (level >= 0 || jpeg->err->msg_code != JWRN_JPEG_EOF)
        return;
    r->code = image_broken(r->source, "the file ends before the picture does");
    longjmp(r->failed, 1);
}

static void on_progress(j_common_ptr jpeg) {
    struct jpeg_reader *r = reader_of(jpeg);
    if (r->jpeg.input_scan_number <= MOST_SCANS)
        return;
    r->code = image_unsupported(r->source, "more than 100 scans");
    longjmp(r->failed, 1);
}

/* (a * b) / 255, rounded. */
static uint8_t scaled(uint32_t a, uint32_t b) {
    uint32_t product = a * b + 128;
    return (uint8_t)((product + (product >> 8)) >> 8);
}

/* Four inverted inks a pixel to three colours: ink c under black k leaves k - (255 - c) * k / 255. */
static void inks_to_rgb(uint8_t *to, const uint8_t *from, uint32_t width) {
    for (uint32_t x = 0; x < width; x++, from += 4, to += 3) {
        for (int c = 0; c < 3; c++)
            to[c] = (uint8_t)(from[3] - scaled(255u - from[c], from[3]));
    }
}

static void read_rows(struct jpeg_reader *r) {
    struct image *image = r->source->image;
    struct jpeg_decompress_struct *jpeg = &r->jpeg;
    JSAMPARRAY inks = NULL;
    if (jpeg->out_color_space == JCS_CMYK)
        inks = jpeg->mem->alloc_sarray((j_common_ptr)jpeg, JPOOL_IMAGE, image->width * 4, 1);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *row = image->pixels + (size_t)3 * image->width * jpeg->output_scanline;
        jpeg_read_scanlines(jpeg, inks ? inks : &row, 1);
        if (inks)
            inks_to_rgb(row, inks[0], image->width);
    }
}

/* The callbacks come back here when the library fails. */
static int read_jpeg(struct jpeg_reader *r) {
    struct image_source *s = r->source;
    struct jpeg_decompress_struct *jpeg = &r->jpeg;
    if (setjmp(r->failed))
        return r->code;
    jpeg_create_decompress(jpeg);
    jpeg->progress = &r->progress;
    jpeg_mem_src(jpeg, s->bytes, (unsigned long)s->count);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->num_components != 1 && jpeg->num_components != 3 && jpeg->num_components != 4)
        return image_unsupported(s, "expected 1, 3 or 4 channels");
    int code = image_begin(s, jpeg->image_width, jpeg->image_height);
    if (code)
        return code;
    jpeg->out_color_space = jpeg->num_components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(jpeg);
    read_rows(r);
    return 0;
}

int image_decode_jpeg(struct image_source *s) {
    struct jpeg_reader r = {.source = s};
    r.jpeg.err = jpeg_std_error(&r.error);
    r.jpeg.client_data = &r;
    r.error.error_exit = on_error;
    r.error.emit_message = on_message;
    r.progress.progress_monitor = on_progress;
    int code = read_jpeg(&r);
    jpeg_destroy_decompress(&r.jpeg);
    return code;
}
