#!/usr/bin/env python3
"""Write the images that tests of the image room read, and what must become of them.

    make_images.py [OUT_DIR]       needs NumPy and Pillow (10 to 12, see src/image/resize.c)

  good/NAME, good/NAME.ppm   an image, and its pixels as Image.convert("RGB") of Pillow gives them
  broken/NAME                images that are none, are cut short, lie or are far too large; tests/unit/
                             test_image_decode.c says what is to be said of each
  plans.txt                  how large images are drawn: layout, patch_size, downsample_ratio, max_tokens, min_pixels,
                             max_wh_ratio, width, height; rows and cols of patches, tokens
  spans.txt                  what stands at the tokens of a grid: layout, rows, cols, start; S start, P patch,
                             N newline, E end, - padding; the order of the patches
  canvases.txt               a plan as above, then the place of the picture on the canvas (x, y, width, height) and a
                             hash (FNV-1a) of the canvas: picture(), resized and padded by Pillow
"""
import io
import math
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps

WIDTH, HEIGHT = 21, 13


def picture(width, height, channels=3):
    """Noise on a slope, the same in C: byte i is a hash of i and a bit of i's place."""
    i = np.arange(width * height * channels, dtype=np.uint64)
    noise = (i * i * np.uint64(2654435761) >> np.uint64(13)) & np.uint64(127)
    slope = i * np.uint64(128) // np.uint64(max(1, width * height * channels))
    return (noise + slope).astype(np.uint8).reshape(height, width, channels)


def smooth():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 12, y * 19, 255 - x * 6 - y * 5], -1).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- files, byte by byte

def chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_header(width, height, depth=8, kind=2, interlaced=0, crc=None):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced), crc)


def png(width, height, depth, kind, raw, before=b"", interlaced=0):
    return (SIGNATURE + png_header(width, height, depth, kind, interlaced) + before
            + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def rows(a):
    return b"".join(b"\0" + row.tobytes() for row in a)


def adam7(a):
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return b"".join(rows(a[y::dy, x::dx]) for y, x, dy, dx in passes if a[y::dy, x::dx].size)


def lzw(indices, bits):
    """GIF's code, without compressing: the table is cleared before codes would grow."""
    clear, out, used = 1 << bits, 0, 0
    codes = []
    for k, index in enumerate(indices):
        codes += ([clear] if k % (clear - 2) == 0 else []) + [index]
    for code in codes + [clear + 1]:
        out |= code << used
        used += bits + 1
    data = out.to_bytes((used + 7) // 8, "little")
    blocks = [data[i:i + 255] for i in range(0, len(data), 255)]
    return bytes([bits]) + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0"


def gif_header(width, height, colors=b""):
    flags = 0x80 | (len(colors) // 3).bit_length() - 2 if colors else 0
    return b"GIF89a" + struct.pack("<HHBBB", width, height, flags, 0, 0) + colors


def gif_frame(x, y, width, height, data, colors=b"", transparent=None, interlaced=False):
    flags = (0x80 | (len(colors) // 3).bit_length() - 2 if colors else 0) | 0x40 * interlaced
    control = b"" if transparent is None else b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    return control + b"," + struct.pack("<HHHHB", x, y, width, height, flags) + colors + data


def riff(*chunks):
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(d)) + d + b"\0" * (len(d) % 2) for k, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(width, height, flags):
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def without(data, marker):
    """A JPEG without its segments of one kind."""
    out, at = data[:2], 2
    while data[at + 1] != 0xda:
        size = 2 + int.from_bytes(data[at + 2:at + 4], "big")
        out += b"" if data[at + 1] == marker else data[at:at + size]
        at += size
    return out + data[at:]


def edited(data, find, skip, new):
    at = data.index(find) + skip
    return data[:at] + new + data[at + len(new):]


# ---------------------------------------------------------------- good ones

COLORS = bytes([10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 110, 20])
FOUR = [i * i % 4 for i in range(12)]


def good_png():
    a, s = picture(WIDTH, HEIGHT), smooth()
    alpha = np.dstack([s, picture(WIDTH, HEIGHT, 1)])
    grey, wide = s[..., 0], np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) * 239
    palette = Image.fromarray(s).quantize(16)
    yield "rgb.png", saved(Image.fromarray(a), "PNG")
    yield "rgba.png", saved(Image.fromarray(alpha), "PNG")
    yield "grey.png", saved(Image.fromarray(grey), "PNG")
    yield "grey_alpha.png", png(WIDTH, HEIGHT, 8, 4, rows(alpha[..., 1:3].reshape(HEIGHT, -1)))
    for bits in (1, 2, 4):
        packed = (np.arange(HEIGHT * (-(-WIDTH * bits // 8))) * 37 % 256).astype(np.uint8).reshape(HEIGHT, -1)
        yield f"grey{bits}.png", png(WIDTH, HEIGHT, bits, 0, rows(packed))
    yield "grey16.png", png(WIDTH, HEIGHT, 16, 0, rows(wide.astype(">u2")))
    yield "rgb16.png", png(7, HEIGHT, 16, 2, rows(wide.astype(">u2")))
    yield "palette.png", saved(palette, "PNG", transparency=bytes(range(16)))
    yield "palette2.png", png(4, 3, 2, 3, b"\0\x1b\0\xe4\0\x00", chunk(b"PLTE", COLORS))
    yield "palette_short.png", png(4, 1, 8, 3, bytes([0, 0, 1, 2, 200]), chunk(b"PLTE", COLORS[:6]))
    yield "interlaced.png", png(WIDTH, HEIGHT, 8, 2, adam7(a), interlaced=1)
    yield "no_end.png", saved(Image.fromarray(a), "PNG")[:-12]


def good_jpeg():
    image = Image.fromarray(smooth())
    exif = image.getexif()
    exif[0x112] = 6
    yield "rgb.jpg", saved(image, "JPEG", quality=85)
    yield "full.jpg", saved(image, "JPEG", quality=95, subsampling=0)
    yield "grey.jpg", saved(image.convert("L"), "JPEG")
    yield "progressive.jpg", saved(image, "JPEG", progressive=True)
    yield "cmyk.jpg", saved(image.convert("CMYK"), "JPEG", quality=95)
    yield "turned.jpg", saved(image, "JPEG", exif=exif)


def good_gif():
    palette = Image.fromarray(smooth()).quantize(16)
    later = Image.fromarray(picture(WIDTH, HEIGHT)).quantize(16)
    data = lzw(FOUR[:6], 2)
    yield "plain.gif", saved(palette, "GIF", interlace=0)
    yield "interlaced.gif", gif_header(1, 12, COLORS) + gif_frame(0, 0, 1, 12, lzw(FOUR, 2), interlaced=True) + b";"
    yield "animated.gif", saved(palette, "GIF", save_all=True, append_images=[later, palette])
    yield "local.gif", gif_header(5, 4, COLORS) + gif_frame(1, 1, 3, 2, data, COLORS[::-1]) + b";"
    yield "transparent.gif", gif_header(5, 4, COLORS) + gif_frame(1, 1, 3, 2, data, transparent=3) + b";"
    yield "beyond.gif", gif_header(2, 1, COLORS) + gif_frame(1, 2, 3, 2, data) + b";"
    yield "no_palette.gif", gif_header(3, 2) + gif_frame(0, 0, 3, 2, data) + b";"
    yield "short_palette.gif", gif_header(3, 2, COLORS[:6]) + gif_frame(0, 0, 3, 2, data) + b";"


def good_webp():
    image = Image.fromarray(smooth())
    alpha = Image.fromarray(np.dstack([smooth(), picture(WIDTH, HEIGHT, 1)]))
    small = Image.new("RGBA", (8, 6))
    frames = [small.copy(), small.copy()]
    frames[0].paste((200, 10, 20, 255), (2, 2, 6, 4))
    frames[1].paste((20, 200, 30, 128), (0, 0, 6, 4))
    yield "lossy.webp", saved(image, "WEBP", quality=80)
    yield "lossless.webp", saved(image, "WEBP", lossless=True)
    yield "alpha.webp", saved(alpha, "WEBP", lossless=True, exact=True)
    yield "lossy_alpha.webp", saved(alpha, "WEBP", quality=80, exact=True)
    yield "animated.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


def decoded(name, data):
    if name == "grey16.png":                            # Pillow makes everything above 255 white
        high = np.asarray(Image.open(io.BytesIO(data))).astype(np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    return Image.open(io.BytesIO(data)).convert("RGB")


# ---------------------------------------------------------------- broken ones

def broken_png():
    head, end = SIGNATURE + png_header(4, 4), chunk(b"IEND", b"")
    raw = rows(np.zeros((4, 12), np.uint8))
    whole = saved(Image.fromarray(picture(WIDTH, HEIGHT)), "PNG")
    yield "signature.png", SIGNATURE
    yield "cut_header.png", whole[:20]
    yield "cut.png", whole[:300]
    yield "crc_header.png", SIGNATURE + png_header(4, 4, crc=1) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "crc_data.png", head + chunk(b"IDAT", zlib.compress(raw), 1) + end
    yield "huge.png", SIGNATURE + png_header(60000, 60000) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "hugest.png", SIGNATURE + png_header(2 ** 31 - 1, 2 ** 31 - 1) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "wide.png", SIGNATURE + png_header(70000, 1) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "no_width.png", SIGNATURE + png_header(0, 4) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "no_palette.png", SIGNATURE + png_header(4, 4, 8, 3) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "depth.png", SIGNATURE + png_header(4, 4, 3) + chunk(b"IDAT", zlib.compress(raw)) + end
    yield "filter.png", head + chunk(b"IDAT", zlib.compress(b"\x09" + raw[1:])) + end
    yield "few.png", head + chunk(b"IDAT", zlib.compress(raw[:20])) + end
    yield "no_data.png", head + end
    yield "not_deflated.png", head + chunk(b"IDAT", b"not deflated at all") + end


def scan_bomb(data, scans):
    """A progressive JPEG whose first scan comes again and again."""
    first = data.index(b"\xff\xda")
    after = data.index(b"\xff", first + 2)
    while data[after + 1] == 0:
        after = data.index(b"\xff", after + 2)
    return data[:after] + data[first:after] * scans + b"\xff\xd9"


def broken_jpeg():
    image = Image.fromarray(smooth())
    whole, slow = saved(image, "JPEG"), saved(image, "JPEG", progressive=True)
    yield "start.jpg", whole[:3]
    yield "cut_header.jpg", whole[:100]
    yield "cut.jpg", whole[:-40]
    yield "cut_progressive.jpg", slow[:-60]
    yield "no_height.jpg", edited(whole, b"\xff\xc0", 5, b"\0\0")
    yield "huge.jpg", edited(whole, b"\xff\xc0", 5, struct.pack(">HH", 60000, 60000))
    yield "huge_progressive.jpg", edited(slow, b"\xff\xc2", 5, struct.pack(">HH", 60000, 60000))
    yield "tallest.jpg", edited(whole, b"\xff\xc0", 5, struct.pack(">HH", 65535, 1))
    yield "no_tables.jpg", without(whole, 0xdb)
    yield "two_channels.jpg", (b"\xff\xd8\xff\xc0\x00\x0e\x08\x00\x08\x00\x08\x02\x01\x11\x00\x02\x11\x00"
                               b"\xff\xda\x00\x0a\x02\x01\x00\x02\x00\x00\x3f\x00\0\0\xff\xd9")
    yield "twelve_bits.jpg", edited(whole, b"\xff\xc0", 4, b"\x0c")
    yield "lossless.jpg", edited(whole, b"\xff\xc0", 1, b"\xc3")
    yield "scans.jpg", scan_bomb(slow, 150)


def broken_gif():
    data = lzw(FOUR[:6], 2)
    whole = gif_header(3, 2, COLORS) + gif_frame(0, 0, 3, 2, data) + b";"
    yield "header.gif", b"GIF89a"
    yield "no_frame.gif", gif_header(3, 2, COLORS) + b";"
    yield "cut.gif", whole[:-6]
    yield "no_width.gif", gif_header(3, 2, COLORS) + gif_frame(0, 0, 0, 2, data) + b";"
    yield "huge.gif", gif_header(65535, 65535, COLORS) + gif_frame(0, 0, 3, 2, data) + b";"
    yield "huge_frame.gif", gif_header(3, 2, COLORS) + gif_frame(60000, 60000, 3, 2, data) + b";"
    yield "code.gif", gif_header(3, 2, COLORS) + gif_frame(0, 0, 3, 2, b"\x02\x02\xfc\xff\x00") + b";"
    yield "code_size.gif", gif_header(3, 2, COLORS) + gif_frame(0, 0, 3, 2, b"\x0d\x02\xfc\xff\x00") + b";"
    yield "record.gif", gif_header(3, 2, COLORS) + b"??"


def broken_webp():
    image = Image.fromarray(smooth())
    lossy, lossless = saved(image, "WEBP"), saved(image, "WEBP", lossless=True)
    frame = riff((b"VP8L", lossless[20:]))[12:]
    placed = bytes(3) + bytes(3) + (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little") + bytes(4)
    yield "riff.webp", lossy[:12]
    yield "cut.webp", lossy[:-30]
    yield "cut_data.webp", riff((b"VP8 ", lossy[20:60]))
    yield "bits.webp", riff((b"VP8L", lossless[20:27] + b"\xff" * 60))
    yield "huge.webp", riff(vp8x(2 ** 16, 2 ** 15, 2), (b"ANIM", bytes(6)), (b"ANMF", placed + frame))
    yield "huge_lossless.webp", riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + lossless[25:]))
    yield "outside.webp", riff(vp8x(8, 8, 2), (b"ANIM", bytes(6)), (b"ANMF", placed + frame))
    yield "no_frame.webp", riff(vp8x(8, 8, 0))


def broken_others():
    yield "empty", b""
    yield "text.png", b"There is no picture here.\n"
    yield "picture.bmp", saved(Image.fromarray(smooth()), "BMP")[:60]
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>\n'
    yield "one_byte.jpg", b"\xff"


# ---------------------------------------------------------------- plans, as the releases make them

ROWS, PAIRS = (0, 14, 3, 1024, 295936, 0), (1, 14, 3, 384, 147456, 8)
SMALL_ROWS, SMALL_PAIRS, SQUEEZED = (0, 4, 2, 20, 100, 0), (1, 4, 2, 24, 100, 4), (0, 5, 3, 30, 300, 2.5)


def tokens_of(layout, high, wide):
    if layout == 0:
        return high * (wide + 1) + 2
    high += high % 2
    return high * (wide + 1) + 2 + high // 2 * (wide + 1) % 2 * 2


def shrunk(layout, width, height, cell, merge, budget):
    step = 1 + layout
    ratio = height / width
    wide = math.sqrt((budget - 2) / ratio + 0.25) - 0.5
    high = wide * ratio
    if wide < 1:
        return (budget - 2) // 2 // step * step * merge, merge
    if high < step:
        return step * merge, ((budget - 2) // step - 1) * merge
    zoom = min(math.floor(wide) * cell / width, math.floor(high) // step * step * cell / height)
    patch = cell // merge
    return math.floor(height * zoom / patch), math.floor(width * zoom / patch)


def plan(rules, width, height):
    layout, patch, merge, limit, least, ratio = rules
    if ratio and width > height * ratio:
        width = height * ratio
    if 0 < width * height < least:
        grow = (least / (width * height)) ** 0.5
        width, height = int(width * grow), int(height * grow)
    high, wide = math.ceil(height / patch), math.ceil(width / patch)
    limit -= 3 * layout
    budget = limit
    while tokens_of(layout, -(-high // merge), -(-wide // merge)) > limit:
        high, wide = shrunk(layout, width, height, patch * merge, merge, budget)
        budget -= 1
    return high, wide, tokens_of(layout, -(-high // merge), -(-wide // merge))


def plans():
    rng = np.random.default_rng(41)
    sides = [1, 2, 13, 14, 15, 41, 42, 43, 127, 544, 1302, 2814, 7000, 65535]
    for rules in (ROWS, PAIRS, SMALL_ROWS, SMALL_PAIRS, SQUEEZED):
        sizes = [(w, h) for w in sides for h in sides] + [(630, 2814), (42882, 42), (42, 42882)]
        sizes += [tuple(int(2 ** rng.uniform(0, 13)) for _ in "wh") for _ in range(200)]
        for width, height in sizes:
            yield [*rules, width, height, *plan(rules, width, height)]


def spans():
    for layout, high, wide, start in ((0, 1, 1, 0), (0, 2, 3, 5), (0, 3, 2, 0), (1, 1, 1, 0), (1, 2, 3, 5),
                                      (1, 3, 2, 6), (1, 4, 1, 3), (1, 1, 4, 7), (1, 5, 3, 4)):
        step = 1 + layout
        letters = [["P"] * wide + ["N"] for _ in range(high)] + [["-"] * (wide + 1)] * (-high % step)
        numbers = [[r * wide + c for c in range(wide)] + [-1] for r in range(len(letters))]
        text, order = "", []
        for first in range(0, len(letters), step):
            for c in range(wide + 1):
                for r in range(first, first + step):
                    text += letters[r][c]
                    order += [numbers[r][c]] if letters[r][c] == "P" else []
        pad = "-" * (len(letters) // 2 * (wide + 1) % 2 * 2) if layout else ""
        lead = "-" * (3 - start % 4) if layout else ""
        yield [layout, high, wide, start, lead + "S" + text + pad + "E", *order]


def canvas(rules, width, height):
    """-> plan, place, pixels of the canvas"""
    high, wide, tokens = plan(rules, width, height)
    image, size = Image.fromarray(picture(width, height)), (wide * rules[1], high * rules[1])
    if rules[5] and width >= rules[5] * height:
        return (high, wide, tokens), (0, 0, *size), image.resize(size, Image.Resampling.BICUBIC)
    try:
        inner = ImageOps.contain(image, size)
    except ValueError:                                   # too thin: one pixel at least
        inner = image.resize((max(1, round(width / height * size[1])) if width < height else size[0],
                              max(1, round(height / width * size[0])) if height < width else size[1]))
        out = Image.new("RGB", size, (127, 127, 127))
        at = (round((size[0] - inner.width) * 0.5), round((size[1] - inner.height) * 0.5))
        out.paste(inner, at)
        return (high, wide, tokens), (*at, *inner.size), out
    at = (round((size[0] - inner.width) * 0.5), round((size[1] - inner.height) * 0.5))
    return (high, wide, tokens), (*at, *inner.size), ImageOps.pad(image, size, color=(127, 127, 127))


def fnv(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return value


def canvases():
    for rules, width, height in ((SMALL_ROWS, 16, 12), (SMALL_ROWS, 8, 20), (SMALL_ROWS, 5, 3), (SMALL_ROWS, 301, 200),
                                 (SMALL_ROWS, 33, 700), (SMALL_ROWS, 3, 700), (SMALL_ROWS, 900, 7),
                                 (SMALL_ROWS, 2000, 1), (SMALL_ROWS, 1, 2000), (SMALL_PAIRS, 123, 77),
                                 (SMALL_PAIRS, 400, 90), (SMALL_PAIRS, 9, 90), (SQUEEZED, 250, 100),
                                 (SQUEEZED, 251, 100), (SQUEEZED, 249, 100), (ROWS, 640, 480), (ROWS, 100, 75),
                                 (ROWS, 1700, 1301), (PAIRS, 640, 480), (PAIRS, 1200, 130)):
        made, place, image = canvas(rules, width, height)
        yield [*rules, width, height, *made, *place, f"{fnv(image.tobytes()):016x}"]


# ---------------------------------------------------------------- all of it

def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def write_lines(path, lines):
    write(path, "".join(" ".join(str(x) for x in line) + "\n" for line in lines).encode())


def main(out):
    for folder in ("good", "broken"):
        os.makedirs(os.path.join(out, folder), exist_ok=True)
    for name, data in [*good_png(), *good_jpeg(), *good_gif(), *good_webp()]:
        write(os.path.join(out, "good", name), data)
        decoded(name, data).save(os.path.join(out, "good", name + ".ppm"))
    for name, data in [*broken_png(), *broken_jpeg(), *broken_gif(), *broken_webp(), *broken_others()]:
        write(os.path.join(out, "broken", name), data)
    for name, lines in (("plans", plans()), ("spans", spans()), ("canvases", canvases())):
        write_lines(os.path.join(out, name + ".txt"), lines)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
