/*
 * text.h - from text to token ids and back, from conversations to prompts, from completions to messages.
 *
 * Implements the text half of sonde.h (sonde_tokenizer_*, sonde_decoder_*, sonde_chat_*); docs there and in
 * docs/formats.md. This face adds what the library needs inside: a tokenizer from memory, and prompts in which
 * what people typed stays apart from the markup around it.
 */
#ifndef TEXT_TEXT_H
#define TEXT_TEXT_H

#include "base/base.h"

/* ---------------------------------------------------------------------------------- tokenizer */

/* sonde_tokenizer_open() of a tokenizer.json held in memory. `what` names it in messages. */
int text_tokenizer_parse(const char *json, size_t bytes, const char *what, sonde_tokenizer **tokenizer,
                         struct sonde_error *e);

/* Bytes [begin, end) of a text. */
struct text_range {
    size_t begin, end;
};

/* sonde_tokenizer_encode() with SONDE_MARKUP_TOKENS, except that added tokens which begin inside one of
 * `typed` (ascending, disjoint) are text like any other. Pieces still run across the borders of ranges, so
 * that where nobody typed markup the ids are those of the whole prompt. Errors: ARGUMENT (text too long),
 * UNSUPPORTED (a split pattern gives up on this text), MEMORY. */
int text_tokenizer_encode_typed(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                                const struct text_range *typed, size_t typed_count, int32_t **ids, size_t *count,
                                struct sonde_error *e);

/* --------------------------------------------------------------------------------------- chat */

/* sonde_chat_render() that also tells which bytes of the prompt came out of messages: *typed (the caller
 * free()s it) for text_tokenizer_encode_typed(). So a user who types "<|User|>" cannot forge a turn. The commands do
 * not use it: they keep the ids a model generated, which ranges alone cannot name. It is for callers without such
 * ids. */
int text_chat_render(const char *request, size_t bytes, char **prompt, size_t *length, struct text_range **typed,
                     size_t *typed_count, struct sonde_error *e);

#endif
