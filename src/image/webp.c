/*
 * webp.c - the first frame of a WebP, lossy or not, through libwebp.
 *
 * A frame is a rectangle of the canvas, black around it; the library writes its colours straight into the pixels. What
 * lies under transparency is kept, so the frame is not blended with anything.
 */
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "image/image_internal.h"

static int broken(const struct image_source *s, VP8StatusCode why) {
    static const char *const reasons[] = {
        [VP8_STATUS_OK] = "cannot be read",
        [VP8_STATUS_INVALID_PARAM] = "cannot be read",
        [VP8_STATUS_BITSTREAM_ERROR] = "the bitstream is broken",
        [VP8_STATUS_UNSUPPORTED_FEATURE] = "uses a feature that is not supported",
        [VP8_STATUS_SUSPENDED] = "the file ends before the picture does",
        [VP8_STATUS_USER_ABORT] = "cannot be read",
        [VP8_STATUS_NOT_ENOUGH_DATA] = "the file ends before the picture does",
    };
    if (why == VP8_STATUS_OUT_OF_MEMORY)
        return err_memory(s->e);
    return image_broken(s, (size_t)why < COUNT_OF(reasons) && reasons[why] ? reasons[why] : "cannot be read");
}

static int decode_frame(struct image_source *s, const WebPIterator *frame) {
    struct image *image = s->image;
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return image_unsupported(s, "this libwebp is not the one that sonde was built for");
    VP8StatusCode status = WebPGetFeatures(frame->fragment.bytes, frame->fragment.size, &config.input);
    if (status != VP8_STATUS_OK)
        return broken(s, status);
    uint64_t right = (uint64_t)frame->x_offset + (uint64_t)config.input.width;
    uint64_t below = (uint64_t)frame->y_offset + (uint64_t)config.input.height;
    if (frame->x_offset < 0 || frame->y_offset < 0 || right > image->width || below > image->height)
        return image_broken(s, "the first frame lies outside of the canvas");
    size_t pitch = (size_t)3 * image->width, skip = pitch * (size_t)frame->y_offset + 3 * (size_t)frame->x_offset;
    memset(image->pixels, 0, pitch * image->height);
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = image->pixels + skip;
    config.output.u.RGBA.stride = (int)pitch;
    config.output.u.RGBA.size = pitch * image->height - skip;
    status = WebPDecode(frame->fragment.bytes, frame->fragment.size, &config);
    WebPFreeDecBuffer(&config.output);
    return status == VP8_STATUS_OK ? 0 : broken(s, status);
}

static int decode_first(struct image_source *s, const WebPDemuxer *demuxer) {
    WebPIterator frame;
    int code =
        image_begin(s, WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH), WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT));
    if (code)
        return code;
    if (!WebPDemuxGetFrame(demuxer, 1, &frame))
        return image_broken(s, "holds no picture");
    code = decode_frame(s, &frame);
    WebPDemuxReleaseIterator(&frame);
    return code;
}

int image_decode_webp(struct image_source *s) {
    WebPData data = {s->bytes, s->count};
    WebPDemuxState state;
    WebPDemuxer *demuxer = WebPDemuxPartial(&data, &state);
    int code;
    if (state == WEBP_DEMUX_DONE && demuxer)
        code = decode_first(s, demuxer);
    else
        code = image_broken(s, state == WEBP_DEMUX_PARSE_ERROR ? "the container is broken"
                                                               : "the file ends before the picture does");
    WebPDemuxDelete(demuxer);
    return code;
}
