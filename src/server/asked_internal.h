/* asked_internal.h - what the interfaces ask for in the same way: sampling, stops, tools, formats, thinking. */
#ifndef SERVER_ASKED_INTERNAL_H
#define SERVER_ASKED_INTERNAL_H

#include "server/dialogue_internal.h"

#define SAMPLING_FIELDS                                                                                                \
    "temperature|top_p|top_k|min_p|repetition_penalty|presence_penalty|frequency_penalty|seed|logit_bias"

/* The body as a tree; -1: refused. jtree_release() is owed after 0. */
int read_body(struct exchange *x, struct jtree *tree, struct fields *f, struct refusal *r);

/* An interface that generates. */
struct interface {
    const struct voice *voice;
    const char *prefix;             /* of the ids of its answers */
    bool chat;                      /* task.chat */
    size_t own;                     /* bytes of task.context, cleared; 0: none */
    void (*release)(void *context); /* of these; NULL where there are none */
    /* The body into the task and its conversation; -1: refused. */
    int (*read)(struct fields *f, struct task *t, struct dialogue *p);
};

/* From a request's body to its task, submitted, or to a refusal. */
void serve_interface(struct exchange *x, const struct interface *i);

/* The model's name as a JSON string, as most answers tell it. */
void write_model_name(struct buf *b, const struct server *s);

/* SAMPLING_FIELDS into t->sampling and t->bias. */
void read_sampling(struct fields *f, struct task *t);

/* A string or a list of them, at most TASK_STOPS. */
void read_stop(struct fields *f, const char *name, struct task *t);

/* OpenAI's: whether a stream ends with what it took. */
void read_stream_options(struct fields *f, struct task *t);

/* Text: a string, or a list of blocks of which only texts can be read; blank lines between them. */
void read_text(struct fields *f, const char *name, struct buf *to);

/* How the model is to think. */
struct thinking {
    bool on;
    char effort[EFFORT_ROOM]; /* as dialogue.effort */
    enum sonde_chat_format format;
};
/* As the model does unless told otherwise. */
struct thinking thinking_usual(const struct server *s);
/* An effort by any of the names in use, or a number where the format has those; "none" is no thinking. */
void read_effort(struct fields *f, const char *name, struct thinking *how);
/* Into the conversation. */
void take_thinking(struct dialogue *p, const struct thinking *how);

enum tool_choice { CHOICE_AUTO, CHOICE_NONE, CHOICE_ANY, CHOICE_ONE };

/* What was asked of tools. They are gathered in the conversation, as OpenAI's chat writes them. */
struct tools_asked {
    struct buf *list; /* dialogue.tools */
    void *own;        /* the interface's */
    enum tool_choice choice;
    const char *only; /* CHOICE_ONE */
    bool parallel;    /* more than one call may be written */
    bool strict;      /* there is one that is held to its schema */
    bool found;       /* there is one called `only` */
};

/* tool_choice as OpenAI has it; nested: a name is in "function". */
void read_choice(struct fields *f, struct tools_asked *tools, bool nested);

/* The list "tools", each read by one(), which calls note_tool() and puts it into the list. The choice is known. */
void read_tools(struct fields *f, struct dialogue *p, struct tools_asked *tools,
                void (*one)(struct fields *f, void *tools));
/* One more; the list is ready for its text. */
void note_tool(struct tools_asked *tools, const char *name, bool strict);
/* As a function; parameters: JSON, NULL: none. */
void put_tool(struct tools_asked *tools, const struct jnode *name, const struct jnode *description,
              const char *parameters, bool strict);

/* What answers may be (calls of tools, a schema's JSON or any object) and the prompt's ids. -1: refused. */
int take_request(struct task *t, struct dialogue *p, const struct tools_asked *tools, const struct jnode *schema,
                 bool json, struct refusal *r);

/* ------------------------------------------------------------------------------------------- answering */

void write_usage_openai(struct buf *b, const struct task *t);
/* Rows [from, to) of an answer's or a prompt's logprobs as objects of the chat interface, separated by commas. */
void write_logprobs_chat(struct buf *b, const struct task *t, const struct buf *rows, size_t from, size_t to);
size_t logprob_rows(const struct task *t, const struct buf *rows);
const struct sonde_logprob *logprob_row(const struct task *t, const struct buf *rows, size_t i);
/* A token's text as JSON. */
void write_token(struct buf *b, const struct server *s, int32_t id);

/* An event of a stream: "event: NAME" unless NULL, "data: " and the buffer's text, which it releases. */
void send_event(struct task *t, const char *name, struct buf *data);

#endif
