/*
 * talk_internal.h - conversations: kept as messages, turned into tokens, answered.
 *
 * What people type is data: "<think>" typed by a user reaches the model as seven characters, unchanged, and never
 * as a token (text_chat_encode()).
 *
 * What the model wrote is kept as the ids it wrote: decoding and encoding again may give other ids for the
 * same text, and then a session that already holds the answer could not be extended.
 */
#ifndef CLI_TALK_INTERNAL_H
#define CLI_TALK_INTERNAL_H

#include "cli/cli.h"

enum speaker { SPEAKER_USER, SPEAKER_ASSISTANT };

struct message {
    enum speaker speaker;
    struct buf text, reasoning;
    int32_t *ids; /* of an answer's text, as generated; NULL: encode the text */
    size_t id_count;
};

enum effort { EFFORT_OFF, EFFORT_ON, EFFORT_HIGH, EFFORT_MAX }; /* how the model is asked to think */

#define EFFORT_CHOICES "off|on|high|max"

struct conversation {
    struct buf system; /* empty: none */
    struct message *messages;
    size_t count, capacity;
    enum effort effort;
    enum sonde_chat_format format; /* the model's */
};

void conversation_release(struct conversation *c);
void conversation_clear(struct conversation *c); /* forgets messages, keeps the rest */

/* Appends a message and returns it, to be filled in; NULL when memory is exhausted. Valid until the next
 * call. */
struct message *conversation_add(struct conversation *c, enum speaker speaker);
void conversation_drop(struct conversation *c); /* the last message; there is one */

/* The prompt that asks for the next answer, as ids; returned with free(). Text that is not UTF-8 has U+FFFD there.
 * Errors: those of text_chat_encode(). */
int conversation_prompt(const struct conversation *c, const sonde_tokenizer *tokenizer, int32_t **ids, size_t *count,
                        struct sonde_error *e);

/* The conversation as one line of JSON, in the form `sonde render` reads, and back. Loading replaces
 * messages, system and effort; on failure c is as it was. Roles are system (first only), user, assistant. What
 * a conversation does not keep (tools, tool calls, drop_thinking that is not true, ...) is refused, so that loading
 * and saving loses nothing. Errors: FORMAT (names message and field), MEMORY. */
int conversation_save(const struct conversation *c, struct buf *b, struct sonde_error *e);
int conversation_load(struct conversation *c, const char *bytes, size_t count, const char *what, struct sonde_error *e);

/* ------------------------------------------------------------------------------------- answers */

/* Divides a stream of text at "</think>", which may come in pieces. */
struct think_splitter {
    bool thinking;
    struct buf held; /* reasoning that could be the beginning of the mark */
};

/* Hands on what is clear by now through show(); finish: nothing more will come. */
void think_splitter_push(struct think_splitter *s, const char *text, size_t bytes, bool finish,
                         void (*show)(void *context, bool reasoning, const char *text, size_t bytes), void *context);

struct answer {
    struct buf text, reasoning;
    struct sonde_generated result;
    bool thought;  /* the prompt ended in <think> */
    bool thinking; /* the answer ended inside its reasoning */
};

void answer_release(struct answer *a);

/* Shows a piece of reasoning or text as it comes; nonzero ends the generation. */
typedef int (*answer_show)(void *context, bool reasoning, const char *text, size_t bytes);

struct answer_request {
    sonde_session *session;
    const int32_t *ids; /* the whole prompt; what the session already holds of it is not fed again */
    size_t count;
    struct sonde_generation generation; /* its callbacks are set by answer_generate() */
    bool thinking;                      /* the prompt ended in <think> */
    const sonde_tokenizer *turns;       /* whose tokens that begin a turn end the answer too; NULL: they do not */
    answer_show show;
    void *context;
};

/* Generates into a, which begins empty. Ctrl-C ends it as if cancelled. Errors: those of sonde_generate(). */
int answer_generate(const struct answer_request *request, struct answer *a, struct sonde_error *e);

/* Moves an answer into a message of the conversation, with its ids as the session holds them. prompt_count:
 * tokens of the prompt it followed. */
int answer_keep(struct answer *a, sonde_session *session, const sonde_tokenizer *tokenizer, size_t prompt_count,
                struct conversation *c, struct sonde_error *e);

/* Shows reasoning on a terminal: dim where it has styles, between marks where not. */
struct reasoning_style {
    struct output *out;
    bool dim, open;
};

void reasoning_show(struct reasoning_style *s, const char *text, size_t bytes);
void reasoning_end(struct reasoning_style *s); /* closes what is open */

#endif
