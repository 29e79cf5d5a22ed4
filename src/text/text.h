/*
 * text.h - from text to token ids and back, from conversations to prompts, from completions to messages.
 *
 * Implements the text half of sonde.h (sonde_tokenizer_*, sonde_decoder_*, sonde_chat_*); docs there.
 * This face adds what the library needs inside.
 */
#ifndef TEXT_TEXT_H
#define TEXT_TEXT_H

#include "base/base.h"

#endif
