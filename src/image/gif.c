/*
 * gif.c - the first frame of a GIF, through giflib.
 *
 * A frame is a rectangle of the screen; a screen too small for it grows. Around it lies the transparent colour if the
 * frame has one, else colour 0, as in Pillow. Records are read one by one up to the first frame, whose indices turn to
 * colours row by row: later frames, which may be any number, are not read.
 */
#include <stdlib.h>
#include <string.h>

#include <gif_lib.h>

#include "image/image_internal.h"

struct gif_reader {
    struct image_source *source;
    size_t at; /* bytes that were read */
    GifFileType *gif;
    int around; /* the index around the frame */
    uint8_t colors[256][3];
    uint8_t *indices; /* of a row of the frame */
};

static int on_read(GifFileType *gif, GifByteType *to, int count) {
    struct gif_reader *r = gif->UserData;
    size_t n = (size_t)min_u64((uint64_t)count, r->source->count - r->at);
    memcpy(to, r->source->bytes + r->at, n);
    r->at += n;
    return (int)n;
}

static int broken(const struct gif_reader *r, int why) {
    if (why == D_GIF_ERR_NOT_ENOUGH_MEM)
        return err_memory(r->source->e);
    if (why == D_GIF_ERR_READ_FAILED && r->at == r->source->count)
        return image_broken(r->source, "the file ends before the picture does");
    const char *reason = GifErrorString(why);
    return image_broken(r->source, reason ? reason : "cannot be read");
}

/* One extension; of a graphics control block the transparent colour is kept. */
static int read_extension(struct gif_reader *r) {
    int kind;
    GifByteType *block;
    if (DGifGetExtension(r->gif, &kind, &block) == GIF_ERROR)
        return broken(r, r->gif->Error);
    while (block) {
        if (kind == GRAPHICS_EXT_FUNC_CODE && block[0] >= 4)
            r->around = block[1] & 1 ? block[4] : 0;
        if (DGifGetExtensionNext(r->gif, &block) == GIF_ERROR)
            return broken(r, r->gif->Error);
    }
    return 0;
}

static int find_frame(struct gif_reader *r) {
    for (;;) {
        GifRecordType type;
        if (DGifGetRecordType(r->gif, &type) == GIF_ERROR)
            return broken(r, r->gif->Error);
        if (type == TERMINATE_RECORD_TYPE)
            return image_broken(r->source, "holds no picture");
        if (type == IMAGE_DESC_RECORD_TYPE)
            return DGifGetImageDesc(r->gif) == GIF_ERROR ? broken(r, r->gif->Error) : 0;
        int code = read_extension(r);
        if (code)
            return code;
    }
}

/* The frame's colours, else the file's, else a ramp of grey. */
static void find_colors(struct gif_reader *r) {
    const ColorMapObject *map = r->gif->Image.ColorMap ? r->gif->Image.ColorMap : r->gif->SColorMap;
    for (int i = 0; i < 256; i++) {
        if (!map)
            memset(r->colors[i], i, 3);
        else if (i < map->ColorCount)
            memcpy(r->colors[i], (uint8_t[3]){map->Colors[i].Red, map->Colors[i].Green, map->Colors[i].Blue}, 3);
    }
}

static int read_row(struct gif_reader *r, uint32_t y) {
    const GifImageDesc *frame = &r->gif->Image;
    const struct image *image = r->source->image;
    uint8_t *to = image->pixels + 3 * ((size_t)(y + (uint32_t)frame->Top) * image->width + (size_t)frame->Left);
    if (DGifGetLine(r->gif, r->indices, frame->Width) == GIF_ERROR)
        return broken(r, r->gif->Error);
    for (int x = 0; x < frame->Width; x++, to += 3)
        memcpy(to, r->colors[r->indices[x]], 3);
    return 0;
}

/* Interlaced rows come in four passes: every 8th, the 8ths between, the 4ths between, the odd ones. */
static int read_rows(struct gif_reader *r) {
    static const uint8_t first[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    bool interlaced = r->gif->Image.Interlace;
    uint32_t height = (uint32_t)r->gif->Image.Height;
    int code = 0;
    for (int pass = 0; pass < (interlaced ? 4 : 1); pass++) {
        for (uint32_t y = first[pass]; !code && y < height; y += interlaced ? step[pass] : 1)
            code = read_row(r, y);
    }
    return code;
}

static int read_gif(struct gif_reader *r) {
    int code = find_frame(r);
    if (code)
        return code;
    const GifImageDesc *frame = &r->gif->Image;
    if (frame->Width <= 0 || frame->Height <= 0)
        return image_broken(r->source, "the first frame is empty");
    code = image_begin(r->source, max_u64((uint64_t)r->gif->SWidth, (uint64_t)frame->Left + (uint64_t)frame->Width),
                       max_u64((uint64_t)r->gif->SHeight, (uint64_t)frame->Top + (uint64_t)frame->Height));
    if (code)
        return code;
    find_colors(r);
    const struct image *image = r->source->image;
    for (size_t i = 0; i < (size_t)image->width * image->height; i++)
        memcpy(image->pixels + 3 * i, r->colors[r->around], 3);
    r->indices = malloc((size_t)frame->Width);
    return r->indices ? read_rows(r) : err_memory(r->source->e);
}

int image_decode_gif(struct image_source *s) {
    struct gif_reader r = {.source = s};
    int why = 0, code;
    r.gif = DGifOpen(&r, on_read, &why);
    if (!r.gif)
        return broken(&r, why);
    code = read_gif(&r);
    free(r.indices);
    DGifCloseFile(r.gif, &why);
    return code;
}
