/* asked_internal.h - what the interfaces ask for in the same way: sampling, stops, tools, formats, thinking. */
#ifndef SERVER_ASKED_INTERNAL_H
#define SERVER_ASKED_INTERNAL_H

#include "server/dialogue_internal.h"

#define SAMPLING_FIELDS                                                                                                \
    "temperature|top_p|top_k|min_p|repetition_penalty|presence_penalty|frequency_penalty|seed|logit_bias"

/* The body as a tree; -1: refused. jtree_release() is owed after 0. */
int read_body(struct exchange *x, struct jtree *tree, struct fields *f, struct refusal *r);

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
    bool on, most; /* most: as hard as it can */
};
/* An effort by any of the names in use; "none" is no thinking. */
void read_effort(struct fields *f, const char *name, struct thinking *how);

enum tool_choice { CHOICE_AUTO, CHOICE_NONE, CHOICE_ANY, CHOICE_ONE };

struct tools_asked {
    struct jtree tree; /* of p->tools; {0}: none */
    enum tool_choice choice;
    const char *only; /* CHOICE_ONE */
    bool parallel, strict;
};

/* What answers may be: grammars for tools (p->tools, parsed), a schema or any object. Refuses what cannot be kept. */
int set_grammars(struct task *t, const struct tools_asked *tools, const struct jnode *schema, bool json,
                 struct refusal *r);

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
