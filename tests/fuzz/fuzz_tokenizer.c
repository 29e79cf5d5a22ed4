/*
 * fuzz_tokenizer.c - any bytes as tokenizer.json, then texts through what opened.
 *
 * Input: a file, perhaps followed by a zero byte and a text. A file that opens must encode that text, and one of
 * its own, into ids it has. Where no pattern removes or adds anything, the ids must decode to the text again, in
 * pieces as at once.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds)
        abort();
}

static bool changes_text(const sonde_tokenizer *t) {
    bool changes = t->prefix_level != SIZE_MAX;
    for (size_t i = 0; i < t->splitter_count; i++)
        changes |= t->splitters[i].removed;
    return changes;
}

static void check_pieces(const sonde_tokenizer *t, const int32_t *ids, size_t count, const char *whole, size_t bytes) {
    sonde_decoder *d;
    struct buf all = {0};
    const char *text;
    size_t length;
    check(sonde_decoder_open(t, &d, NULL) == 0);
    for (size_t i = 0; i <= count; i++) {
        check((i < count ? sonde_decoder_push(d, ids[i], &text, &length, NULL)
                         : sonde_decoder_finish(d, &text, &length, NULL)) == 0);
        buf_append(&all, text, length);
    }
    check(all.len == bytes && memcmp(all.data, whole, bytes) == 0);
    buf_release(&all);
    sonde_decoder_close(d);
}

static void try_text(const sonde_tokenizer *t, const char *text, size_t bytes, enum sonde_markup markup) {
    int32_t *ids;
    size_t count, back_bytes;
    char *back;
    struct sonde_error e;
    int rc = sonde_tokenizer_encode(t, text, bytes, markup, &ids, &count, &e);
    check(rc == 0 || rc == SONDE_ERROR_UNSUPPORTED);
    if (rc)
        return;
    for (size_t i = 0; i < count; i++)
        check(ids[i] >= 0 && (uint32_t)ids[i] < sonde_tokenizer_size(t));
    check(sonde_tokenizer_decode(t, ids, count, &back, &back_bytes, NULL) == 0);
    struct buf clean = {0};
    utf8_append(&clean, text, bytes);
    if (!changes_text(t))
        check(clean.len == back_bytes && memcmp(clean.data, back, back_bytes) == 0);
    check_pieces(t, ids, count, back, back_bytes);
    buf_release(&clean);
    free(back);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *json = (const char *)data, *zero = memchr(json, 0, size);
    size_t bytes = zero ? (size_t)(zero - json) : size;
    sonde_tokenizer *t;
    struct sonde_error e;
    if (text_tokenizer_parse(json, bytes, "fuzz", &t, &e))
        return 0;
    static const char own[] = "Hello, w\xc3\xb6rld!  <think>\n12 \xff\xe2\x82 don't</think>";
    for (int markup = 0; markup < 2; markup++) {
        try_text(t, own, sizeof(own) - 1, markup);
        if (zero)
            try_text(t, zero + 1, size - bytes - 1, markup);
    }
    sonde_tokenizer_close(t);
    return 0;
}
