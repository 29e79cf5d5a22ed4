/*
 * dialogue_internal.h - a conversation as the model reads it.
 *
 * Interfaces add messages in order, whatever they call them; dialogue_encode() makes ids of all. What clients sent is
 * data and never markup. An answer that this server gave comes back as the ids it was, if it comes back as it was
 * given; its reasoning may be missing.
 */
#ifndef SERVER_DIALOGUE_INTERNAL_H
#define SERVER_DIALOGUE_INTERNAL_H

#include "server/server_internal.h"

enum speaker { SPEAKER_SYSTEM, SPEAKER_USER, SPEAKER_TOOL, SPEAKER_ASSISTANT, SPEAKER_REMINDER };

struct spoken_call {
    struct buf id, name, arguments;
};

struct spoken {
    enum speaker speaker;
    struct buf text;      /* content */
    struct buf reasoning; /* an assistant's */
    bool has_reasoning;   /* the client sent some */
    bool open;            /* the last message, to be continued */
    struct buf call_id;   /* a tool's: the call it answers */
    struct spoken_call *calls;
    size_t call_count;
    uint64_t before; /* hash of all before it */
};

enum { EFFORT_ROOM = 16 };

struct dialogue {
    struct spoken *said;
    size_t count, room;
    struct buf tools;  /* JSON list in OpenAI's form; empty: none */
    struct buf format; /* JSON schema the answer is to follow; empty: none */
    bool thinking;
    char effort[EFFORT_ROOM]; /* JSON: a name or a number that the model's format has; empty: the usual one */
    bool failed;              /* out of memory */
};

struct spoken *dialogue_add(struct dialogue *p, enum speaker speaker); /* NULL: out of memory, p->failed */
struct spoken_call *spoken_add_call(struct dialogue *p, struct spoken *m);
void dialogue_release(struct dialogue *p);

/* Fills in t->ids, count, thinking, before. */
int dialogue_encode(struct dialogue *p, struct task *t, struct refusal *r);

/* The text that dialogue_encode() would read, for /tokenize and count_tokens: ids alone. */
int dialogue_ids(struct dialogue *p, struct server *s, int32_t **ids, size_t *count, struct refusal *r);

/* An answer has been given: it may come back. */
void dialogue_remember(const struct task *t, const struct answer *a);

#endif
