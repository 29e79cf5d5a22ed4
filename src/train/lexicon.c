/*
 * lexicon.c - tokens and merges, and how they are written as a tokenizer.json.
 *
 * In the byte-level alphabet each byte is a character: one that prints in Latin-1 stands for itself, the others are
 * U+0100 and on, in order. Ordered by these characters, bytes that print come first.
 */
#include <string.h>

#include "train/bpe_internal.h"

/* Split patterns and added tokens of DeepSeek-V4. */
static const char *const patterns[] = {
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};
static const char *const first[BPE_FIRST] = {TOKEN_BEGIN, TOKEN_END, TOKEN_PAD};
static const char *const markup[BPE_MARKUP] = {
    "<｜User｜>",     "<｜Assistant｜>", "<think>",       "</think>",    "｜DSML｜", "<｜latest_reminder｜>",
    "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜image｜>",
};

enum { PRINTING = 188 }; /* bytes that do */

static bool prints(unsigned byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* ------------------------------------------------------------------------------------------ tokens */

uint32_t lexicon_byte(unsigned char byte) {
    uint32_t number = prints(byte) ? 0 : PRINTING;
    for (unsigned b = 0; b < byte; b++)
        number += prints(b) == prints(byte);
    return number;
}

static void add_token(struct lexicon *x, size_t begin) {
    struct text_range span = {begin, x->bytes.len};
    buf_append(&x->spans, &span, sizeof(span));
}

void lexicon_init(struct lexicon *x) {
    *x = (struct lexicon){0};
    for (int printing = 1; printing >= 0; printing--)
        for (unsigned b = 0; b < BPE_BYTES; b++)
            if (prints(b) == printing) {
                buf_byte(&x->bytes, (char)b);
                add_token(x, x->bytes.len - 1);
            }
}

void lexicon_release(struct lexicon *x) {
    buf_release(&x->bytes);
    buf_release(&x->spans);
    buf_release(&x->rules);
}

bool lexicon_failed(const struct lexicon *x) {
    return x->bytes.failed || x->spans.failed || x->rules.failed;
}

uint32_t lexicon_join(struct lexicon *x, uint32_t left, uint32_t right) {
    struct text_range l = lexicon_span(x, left), r = lexicon_span(x, right);
    size_t begin = x->bytes.len;
    for (size_t i = l.begin; i < l.end && !x->bytes.failed; i++)
        buf_byte(&x->bytes, x->bytes.data[i]);
    for (size_t i = r.begin; i < r.end && !x->bytes.failed; i++)
        buf_byte(&x->bytes, x->bytes.data[i]);
    add_token(x, begin);
    return lexicon_size(x) - 1;
}

/* --------------------------------------------------------------------------------------------- JSON */

/* The characters of a token. */
static void spell(struct buf *b, const struct lexicon *x, uint32_t token) {
    struct text_range span = lexicon_span(x, token);
    text_spell(b, x->bytes.data + span.begin, span.end - span.begin);
}

static void put_string(struct buf *b, const char *text) {
    json_write_string(b, text, strlen(text));
}

static void put_added(struct buf *b, const char *content, uint32_t id, bool special) {
    buf_printf(b, "%s{\"id\": %u, \"content\": ", id ? ", " : "", id);
    put_string(b, content);
    buf_string(b, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, ");
    buf_printf(b, "\"normalized\": %s, \"special\": %s}", special ? "false" : "true", special ? "true" : "false");
}

static void put_pipeline(struct buf *b) {
    buf_string(b, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []}, "
                  "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [");
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        buf_string(b, "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        put_string(b, patterns[i]);
        buf_string(b, "}, \"behavior\": \"Isolated\", \"invert\": false}, ");
    }
    buf_string(b, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                  "\"use_regex\": false}]}, "
                  "\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                  "\"trim_offsets\": false, \"use_regex\": true}, "
                  "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
                  "\"use_regex\": true}, ");
}

/* The bytes by their value, then merged tokens. */
static void put_vocab(struct buf *b, const struct lexicon *x, struct buf *spelling) {
    uint32_t id = 0;
    for (; id < BPE_FIRST; id++) {
        buf_string(b, id ? ", " : "");
        put_string(b, first[id]);
        buf_printf(b, ": %u", id);
    }
    for (uint32_t i = 0; i < lexicon_size(x); i++, id++) {
        buf_clear(spelling);
        spell(spelling, x, i < BPE_BYTES ? lexicon_byte((unsigned char)i) : i);
        buf_string(b, ", ");
        json_write_string(b, spelling->data, spelling->len);
        buf_printf(b, ": %u", id);
    }
}

static void put_merges(struct buf *b, const struct lexicon *x, struct buf *spelling) {
    const struct bpe_rule *rules = (const struct bpe_rule *)(const void *)x->rules.data;
    for (size_t i = 0; i < x->rules.len / sizeof(*rules); i++) {
        buf_clear(spelling);
        spell(spelling, x, rules[i].left);
        buf_byte(spelling, ' ');
        spell(spelling, x, rules[i].right);
        buf_string(b, i ? ", " : "");
        json_write_string(b, spelling->data, spelling->len);
    }
}

int lexicon_write(const struct lexicon *x, char **json, size_t *length, struct sonde_error *e) {
    struct buf b = {0}, spelling = {0};
    if (lexicon_failed(x))
        return err_memory(e);
    buf_string(&b, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [");
    for (uint32_t i = 0; i < BPE_FIRST; i++)
        put_added(&b, first[i], i, true);
    for (uint32_t i = 0; i < BPE_MARKUP; i++)
        put_added(&b, markup[i], BPE_FIRST + lexicon_size(x) + i, false);
    buf_string(&b, "], ");
    put_pipeline(&b);
    buf_string(&b, "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                   "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                   "\"byte_fallback\": false, \"vocab\": {");
    put_vocab(&b, x, &spelling);
    buf_string(&b, "}, \"merges\": [");
    put_merges(&b, x, &spelling);
    buf_string(&b, "]}}");
    int rc = spelling.failed ? err_memory(e) : buf_take(&b, json, length, e);
    buf_release(&spelling);
    buf_release(&b);
    return rc;
}
