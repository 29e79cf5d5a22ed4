/*
 * chat_internal.h - the spellings of the chat format, conversations in turns, prompts, and the reader of tool call
 * markup.
 *
 * DSML is what V4 writes tool calls in:
 *
 *     <|DSML|tool_calls>
 *     <|DSML|invoke name="get_weather">
 *     <|DSML|parameter name="city" string="true">Paris</|DSML|parameter>
 *     </|DSML|invoke>
 *     </|DSML|tool_calls>
 *
 * with bars U+FF5C. A tag is read by itself, dsml_tag_read(); what tags in a row mean is chat_parse.c.
 */
#ifndef TEXT_CHAT_INTERNAL_H
#define TEXT_CHAT_INTERNAL_H

#include "text/text.h"

#define TEXT_BEGIN      "<｜begin▁of▁sentence｜>"
#define TEXT_END        "<｜end▁of▁sentence｜>"
#define USER_BEGIN      "<｜User｜>"
#define ASSISTANT_BEGIN "<｜Assistant｜>"
#define THINK_BEGIN     "<think>"
#define THINK_END       "</think>"
#define DSML            "｜DSML｜"

/* ------------------------------------------------------------------------------------------- turns */

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_REMINDER, ROLE_DEVELOPER, ROLE_COUNT };

/* A part of a user turn. */
struct block {
    const struct jnode *content; /* string, list of blocks, or NULL for nothing */
    const struct jnode *call_id; /* of a result */
    const struct jnode *kind;    /* of a block that is neither text nor result: its "type" */
    bool result, unknown;
    size_t order; /* of the call that a result answers */
};

struct turn {
    enum role role;
    const struct jnode *message;
    size_t index; /* of the message, for messages to the user */
    const char *task;
    size_t first, count; /* blocks, for user turns */
};

/* Nodes belong to the request and must outlive this. */
struct turns {
    struct turn *turns;
    size_t turn_count;
    struct block *blocks;
    size_t block_count, block_cap;
    struct sonde_error *e;
};

/* Reads a list of messages; turns_release() is owed also after a failure. Errors: FORMAT (names message and
 * field), MEMORY. */
int turns_read(const struct jnode *messages, struct turns *c, struct sonde_error *e);
void turns_release(struct turns *c);

/* ------------------------------------------------------------------------------------------ prompt */

/* Where an assistant's message lies in a prompt: its reasoning with the </think> that ends it in [begin, content),
 * empty where it is left out; the rest in [content, end), without the end token, which ends at `ended`. */
struct body {
    size_t message; /* index in "messages" */
    size_t begin, content, end, ended;
};

struct prompt {
    char *text; /* terminated */
    size_t length;
    struct text_range *typed; /* as text_chat_render() tells them */
    struct body *bodies;      /* of all assistants' messages, in order */
    size_t typed_count, body_count;
    bool thinking; /* it ends in the template's <think> */
};

/* Errors: FORMAT (names message and field), MEMORY; prompt_release() is owed only after success. */
int prompt_render(const char *request, size_t bytes, struct prompt *prompt, struct sonde_error *e);
void prompt_release(struct prompt *prompt);

/* ------------------------------------------------------------------------------------------ markup */

enum dsml_kind { DSML_WRAPPER, DSML_INVOKE, DSML_PARAMETER };
enum dsml_string { DSML_UNSAID, DSML_TRUE, DSML_FALSE };

struct dsml_tag {
    enum dsml_kind kind;
    bool closing;            /* </...> */
    bool empty;              /* <.../> */
    size_t end;              /* after the '>' */
    size_t name, name_bytes; /* where the name lies in the text; name 0 if there is none */
    enum dsml_string string;
};

/* No tag is longer, so that broken ones cost no more. */
enum { DSML_TAG_MAX = 4096 };

/*
 * Reads the tag that begins at text[at], which is '<'. Besides the official spelling it takes bars that are
 * ASCII or doubled or tripled, spaces after the marker, the wrapper's other names (toolcalls, function_calls,
 * calls, ...), and quotes that are single, curly or, around plain words, missing. False where this is no whole
 * tag, or one that says anything not understood: so nothing is lost when a tag is dropped.
 */
bool dsml_tag_read(const char *text, size_t bytes, size_t at, struct dsml_tag *tag);

/* The same of a text that may go on. What is WHOLE or NONE stays so whatever follows. */
enum dsml_look { DSML_NONE, DSML_CUT, DSML_WHOLE };
enum dsml_look dsml_tag_look(const char *text, size_t bytes, size_t at, struct dsml_tag *tag);

/* True if text[at] begins a tag as far as its DSML. */
bool dsml_tag_begins(const char *text, size_t bytes, size_t at);

/* True if text[at..bytes) could be the beginning of a tag, cut off by the end of the text: at least a '<', a
 * bar and a 'D'. */
bool dsml_tag_is_cut(const char *text, size_t bytes, size_t at);

#endif
