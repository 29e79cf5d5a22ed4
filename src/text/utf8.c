/*
 * utf8.c - where characters end, and what is none.
 *
 * The well-formed sequences are those of table 3-7 of the Unicode standard: besides continuation bytes in
 * general, four lead bytes narrow the range of the second byte, which keeps out overlong forms, surrogates and
 * what lies above U+10FFFF:
 *
 *     E0: A0..BF    ED: 80..9F    F0: 90..BF    F4: 80..8F
 */
#include "text/text_internal.h"

static size_t sequence_length(unsigned char lead) {
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static bool second_fits(unsigned char lead, unsigned char second) {
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return second >= low && second <= high;
}

size_t utf8_next(const char *s, size_t count, enum utf8_kind *kind) {
    const unsigned char *u = (const unsigned char *)s;
    size_t length = sequence_length(u[0]);
    *kind = UTF8_BROKEN;
    if (!length)
        return 1;
    for (size_t i = 1; i < length; i++) {
        if (i == count) {
            *kind = UTF8_CUT;
            return i;
        }
        if (i == 1 ? !second_fits(u[0], u[1]) : (u[i] & 0xc0) != 0x80)
            return i;
    }
    *kind = UTF8_WHOLE;
    return length;
}

void utf8_append(struct buf *b, const char *s, size_t count) {
    size_t clean = 0, at = 0;
    if (!count)
        s = ""; /* may be NULL */
    while (at < count) {
        enum utf8_kind kind;
        size_t length = utf8_next(s + at, count - at, &kind);
        if (kind != UTF8_WHOLE) {
            buf_append(b, s + clean, at - clean);
            buf_string(b, "\xef\xbf\xbd");
            clean = at + length;
        }
        at += length;
    }
    buf_append(b, s + clean, at - clean);
}
