/*
 * chat_internal.h - chat formats, conversations in turns, prompts, and the reader of tool call markup.
 *
 * DSML is what models write tool calls in, V4 as on the left, V4.1 with a space before each name:
 *
 *     <|DSML|tool_calls>                                       <|DSML| calls>
 *     <|DSML|invoke name="get_weather">                        <|DSML| invoke name="get_weather">
 *     <|DSML|parameter name="city" string="true">Paris         <|DSML| parameter name="city" string="true">Paris
 *     </|DSML|parameter>                                       </|DSML| parameter>
 *     </|DSML|invoke>                                          </|DSML| invoke>
 *     </|DSML|tool_calls>                                      </|DSML| calls>
 *
 * with bars U+FF5C, and the closing tag of a parameter right behind its value. How a format spells them is data, struct
 * chat_format. A tag is read by itself, in any spelling, dsml_tag_read(); what tags in a row mean is chat_parse.c.
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

/* ----------------------------------------------------------------------------------------- formats */

/* Tags as prompts have them: those that stand on a line of their own with its end, names still open. */
enum dsml_spelling {
    SPELL_BLOCK,     /* <calls>\n */
    SPELL_BLOCK_END, /* </calls> */
    SPELL_INVOKE,    /* <invoke name=" */
    SPELL_INVOKE_END,
    SPELL_PARAMETER, /* <parameter name=" */
    SPELL_PARAMETER_END,
    SPELL_COUNT
};

/* A reasoning_effort that has a name. */
struct effort {
    const char *name;
    const char *text; /* between effort_before and effort_after; "": the prompt says nothing of effort */
};

/* One released encoder's format: all in which they differ. Texts that a format has not are "". */
struct chat_format {
    const char *model_type; /* of config.json */
    const char *system;     /* begins each turn of the system's, and stands before an effort. "": no turns, only text */
    bool systems_ask;       /* behind a turn of the system's that is not the first message the assistant speaks */
    bool developers;        /* there is that role */
    bool namespaces;        /* tools may have one: "NAMESPACE::NAME" */
    const char *image;      /* stands for an image; "": images are named as unsupported */
    const char *effort_before, *effort_after;
    const char *effort_default;
    uint32_t effort_most;     /* efforts may be numbers from 1 to this; 0: only names */
    struct effort efforts[4]; /* the last has no name */
    const char *tools_before, *tools_after;
    const char *spelling[SPELL_COUNT];
};

const struct chat_format *chat_format_view(enum sonde_chat_format format);

/* What an effort puts into the prompt: a name, or a number as it was written; NULL: the format does not know it. */
const char *chat_effort_text(const struct chat_format *format, const char *effort, bool number);

/* ------------------------------------------------------------------------------------------- tools */

/* What a tool is called, or the tool of a call. */
struct tool_name {
    const struct jnode *name;  /* a string, which may begin with "NAMESPACE::" */
    const struct jnode *space; /* a string; NULL: no namespace beside the name */
    const struct jnode *about; /* description of the namespace; NULL: none */
};

/* Reads a tool or a call. Formats without namespaces know the name only, and do not look at it; else false: no name, a
 * namespace that is none, or more than one. */
bool tool_name_read(const struct chat_format *format, const struct jnode *tool, struct tool_name *n);
/* "NAMESPACE::NAME", or the name alone. */
void tool_name_write(struct buf *b, const struct tool_name *n);
/* How many bytes the namespace has in what tool_name_write() wrote; 0: there is none. */
size_t tool_name_space(const struct chat_format *format, const char *name, size_t bytes);

/* The JSON of a tool's function as prompts have it. It is an object; tool_name_read() has taken the tool. */
void tool_schema_write(struct buf *b, const struct chat_format *format, const struct jnode *tool);

/* ------------------------------------------------------------------------------------------- turns */

/* Developers come last: formats that have none end before them. */
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
    const struct chat_format *format;
    struct sonde_error *e;
};

/* Reads a list of messages; turns_release() is owed also after a failure. Errors: FORMAT (names message and
 * field), MEMORY. */
int turns_read(const struct chat_format *format, const struct jnode *messages, struct turns *c, struct sonde_error *e);
void turns_release(struct turns *c);

/* True if a block of that "type" is an image to the format. */
bool chat_is_image(const struct chat_format *format, const struct jnode *type);

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
int prompt_render(enum sonde_chat_format format, const char *request, size_t bytes, struct prompt *prompt,
                  struct sonde_error *e);
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
 * Reads the tag that begins at text[at], which is '<'. Besides the official spellings it takes bars that are
 * ASCII or doubled or tripled, spaces after the marker, the wrapper's other names (toolcalls, function_calls,
 * ...), and quotes that are single, curly or, around plain words, missing. False where this is no whole
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
