/*
 * tokenizer_decode.c - ids to text, at once or as they come.
 *
 * A token is bytes, and a character may be spread over several tokens. The decoder keeps the at most three
 * bytes that may still become a character and hands out the rest; decoding at once is the same loop.
 */
#include <stdlib.h>

#include "text/text_internal.h"

struct sonde_decoder {
    const sonde_tokenizer *tokenizer;
    struct buf bytes; /* of tokens, not yet shown */
    struct buf text;  /* shown by the last call */
};

uint32_t sonde_tokenizer_size(const sonde_tokenizer *tokenizer) {
    return tokenizer->size;
}

void text_token_bytes(const sonde_tokenizer *t, int32_t id, const char **bytes, size_t *count) {
    bool known = id >= 0 && (uint32_t)id < t->size;
    *bytes = known ? t->pool + t->tokens[id].at : "";
    *count = known ? t->tokens[id].length : 0;
}

static int append_token(const sonde_tokenizer *t, int32_t id, struct buf *bytes, struct sonde_error *e) {
    const char *token;
    size_t count;
    text_token_bytes(t, id, &token, &count);
    if (!count)
        return err_set(e, SONDE_ERROR_ARGUMENT, "%d is not the id of a token", id);
    buf_append(bytes, token, count);
    return bytes->failed ? err_memory(e) : SONDE_OK;
}

int sonde_tokenizer_decode(const sonde_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                           size_t *bytes, struct sonde_error *error) {
    struct buf raw = {0}, clean = {0};
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < count; i++)
        rc = append_token(tokenizer, ids[i], &raw, error);
    if (!rc) {
        utf8_append(&clean, raw.data, raw.len);
        rc = buf_take(&clean, text, bytes, error);
    }
    buf_release(&raw);
    buf_release(&clean);
    return rc;
}

int sonde_decoder_open(const sonde_tokenizer *tokenizer, sonde_decoder **decoder, struct sonde_error *error) {
    sonde_decoder *d = calloc(1, sizeof(*d));
    if (!d)
        return err_memory(error);
    d->tokenizer = tokenizer;
    *decoder = d;
    return SONDE_OK;
}

void sonde_decoder_close(sonde_decoder *decoder) {
    if (!decoder)
        return;
    buf_release(&decoder->bytes);
    buf_release(&decoder->text);
    free(decoder);
}

/* Where the bytes that may still become a character begin. */
static size_t settled(const struct buf *b) {
    size_t at = b->len > 3 ? b->len - 3 : 0;
    /* A character cut short begins with a lead byte among the last three. */
    for (; at < b->len; at++) {
        enum utf8_kind kind;
        if ((unsigned char)b->data[at] >= 0xc2 && utf8_next(b->data + at, b->len - at, &kind) == b->len - at &&
            kind == UTF8_CUT)
            return at;
    }
    return b->len;
}

static int show(sonde_decoder *d, size_t count, const char **text, size_t *bytes, struct sonde_error *e) {
    buf_clear(&d->text);
    utf8_append(&d->text, d->bytes.data, count);
    if (d->text.failed)
        return err_memory(e);
    size_t kept = d->bytes.len - count;
    char tail[4] = {0};
    for (size_t i = 0; i < kept; i++)
        tail[i] = d->bytes.data[count + i];
    buf_clear(&d->bytes);
    buf_append(&d->bytes, tail, kept);
    *text = d->text.data;
    *bytes = d->text.len;
    return SONDE_OK;
}

int sonde_decoder_push(sonde_decoder *decoder, int32_t id, const char **text, size_t *bytes,
                       struct sonde_error *error) {
    int rc = append_token(decoder->tokenizer, id, &decoder->bytes, error);
    return rc ? rc : show(decoder, settled(&decoder->bytes), text, bytes, error);
}

int sonde_decoder_finish(sonde_decoder *decoder, const char **text, size_t *bytes, struct sonde_error *error) {
    return show(decoder, decoder->bytes.len, text, bytes, error);
}
