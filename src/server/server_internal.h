/*
 * server_internal.h - what the files of this room share.
 *
 * From the network inwards:
 *
 *     http.c       connections, bodies, time limits: an exchange is one request and its response
 *     routes.c     which path is whose; keys and limits
 *     fields.c     reading what a client asked, and refusing it with a sentence
 *     openai_*.c, anthropic.c, responses.c   one interface each: its request to a task, a task's events to its response
 *     task.c       a request that generates: its answers, their limits, the scheduler's callbacks
 *     dialogue.c     messages to ids, with earlier answers as they were sampled (replay.c)
 *     metrics.c, log.c, keys.c, page.c
 *
 * Threads: libmicrohttpd's own (connections; it never computes), two workers (parsing, rendering, tokenizing), the
 * ticker (time limits, clients that went away), and the one that steps the scheduler and calls back into tasks.
 */
#ifndef SERVER_SERVER_INTERNAL_H
#define SERVER_SERVER_INTERNAL_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "server/server.h"
#include "text/text.h"

struct server;
struct exchange;
struct task;

/* ------------------------------------------------------------------------------------------ refusals */

/* Why a request is not answered: becomes an error object of the interface that was asked. */
struct refusal {
    int status;       /* HTTP */
    const char *code; /* "context_length_exceeded", ...; NULL: none */
    double retry;     /* seconds, for Retry-After; 0: none */
    char param[96];   /* the field at fault; "": none */
    char message[512];
};

/* Fills *r and returns -1. */
int refuse(struct refusal *r, int status, const char *param, const char *format, ...) PRINTF_LIKE(4, 5);
int refuse_error(struct refusal *r, const struct sonde_error *e); /* 400 for the client's fault, 500 for ours */

/* ------------------------------------------------------------------------------------------ exchange */

enum dialect { DIALECT_OPENAI, DIALECT_ANTHROPIC };

struct route {
    const char *method, *path; /* a path that ends in / stands for all that begin with it */
    void (*serve)(struct exchange *x);
    enum dialect dialect;
    bool open;    /* no key is asked for */
    bool at_once; /* cheap: served on the connection's thread, not by a worker */
};

/* The route of a path, or NULL; *allow: other methods it has ("GET, POST"), "" if there is no such path. */
const struct route *route_find(const char *method, const char *path, struct buf *allow);

/* The request. Strings live as long as the exchange. */
struct server *exchange_server(const struct exchange *x);
const struct route *exchange_route(const struct exchange *x);
const char *exchange_path(const struct exchange *x);
const char *exchange_id(const struct exchange *x); /* "req-..." */
struct apikey *exchange_key(const struct exchange *x);
const struct buf *exchange_body(const struct exchange *x);
const char *exchange_header(const struct exchange *x, const char *name); /* only while it is being served; NULL: none */
double exchange_began(const struct exchange *x); /* clock_seconds() when the request was whole */

/* What its line in the log and the metrics tell besides. */
struct exchange_facts {
    uint64_t prompt_tokens, reused_tokens, generated_tokens, reasoning_tokens;
    double first_token; /* clock_seconds(); 0: none */
    const char *finish; /* NULL: none */
    char error[256];
};
struct exchange_facts *exchange_facts(struct exchange *x);

/* One of these, once; bytes are copied. From any thread. */
void exchange_reply(struct exchange *x, int status, const char *type, const char *bytes, size_t count);
void exchange_reply_json(struct exchange *x, int status, struct buf *b); /* releases b; a failed one becomes 500 */
void exchange_refuse(struct exchange *x, const struct refusal *r);
void exchange_stream(struct exchange *x); /* 200, server-sent events; then: */
/* False: the client has gone, or is so slow that it is given up. */
bool exchange_write(struct exchange *x, const char *bytes, size_t count);
void exchange_end(struct exchange *x);

/* True once nobody waits for the answer any more. */
bool exchange_is_gone(struct exchange *x);

/* A task that outlives serve() holds on to its exchange until it drops it, and hears from the ticker until it leaves.
 * The request's body has been read by then and is let go of. */
void exchange_hold(struct exchange *x, struct task *t);
void exchange_leave(struct exchange *x);
void exchange_drop(struct exchange *x); /* the last holder's call logs and frees it */

/* Error objects as the dialects write them. */
void write_refusal(struct buf *b, const struct exchange *x, const struct refusal *r);

struct http;
int http_open(struct server *s, struct http **h, struct sonde_error *e);
uint16_t http_port(const struct http *h);
void http_quiesce(struct http *h); /* no new connections */
void http_finish(struct http *h);  /* no new requests: those that workers have are the last */
void http_close(struct http *h);   /* waits a moment for responses on their way */
/* Every quarter of a second: gives up clients that are too slow, tells tasks whose time is over or whose client went.
 */
void http_tick(struct http *h);

/* -------------------------------------------------------------------------------------------- fields */

/*
 * An object of a request being read. Each getter leaves *value as it is where the member is missing or null, and
 * refuses, naming it, what is of another kind or out of range; after the first refusal all do nothing.
 */
struct fields {
    const struct jnode *object;
    const char *path; /* before names in messages: "", "messages[3]." */
    struct refusal *refusal;
    bool failed;
};

const struct jnode *field(const struct fields *f, const char *name);
void field_bool(struct fields *f, const char *name, bool *value);
void field_count(struct fields *f, const char *name, uint64_t least, uint64_t most, uint64_t *value);
void field_real(struct fields *f, const char *name, double low, double high, float *value);
void field_string(struct fields *f, const char *name, const char **value);
const struct jnode *field_of(struct fields *f, const char *name, enum jkind kind); /* NULL: missing */
/* Index of the string among words separated by '|'; -1 where missing. */
int field_choice(struct fields *f, const char *name, const char *words);
void field_refuse(struct fields *f, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

/* Reads the items of the list `name` one by one, as fields of their own ("messages[3]."), until one refuses; nothing is
 * done where the list is missing. An item is the last if object->next is NULL. */
void fields_each(struct fields *f, const char *name, void (*read)(struct fields *item, void *context), void *context);

/* Every member must be in one of two lists of names separated by '|': known ones, and ones that change no answer. */
void fields_only(struct fields *f, const char *known, const char *harmless);

/* ---------------------------------------------------------------------------------------------- task */

/*
 * A task is a request that generates: one prompt, up to TASK_ANSWERS answers. The interface fills in what was asked and
 * submits it; from then on everything happens on the scheduler's thread, through the interface's voice, and the task
 * frees itself when its last answer has ended.
 */
enum { TASK_ANSWERS = 16, TASK_STOPS = 16, TASK_TOP_LOGPROBS = 20 };

struct call {
    char id[40];
    struct buf name, arguments;
    bool whole; /* it was closed as it should be */
};

/* One answer of a task. What it says is gathered here whether it streams or not. */
struct answer {
    struct task *task;
    uint32_t index;
    uint64_t request;                       /* the scheduler's, under the server's lock; 0: not submitted */
    struct text_stream *stream;             /* NULL: the text is content as it comes */
    struct text_constraint *constraints[2]; /* what it may be: any of them; none: anything */
    uint32_t *mask;                         /* [ceil(V / 32)] */
    struct buf reasoning, content;
    struct call *calls;
    size_t call_count;
    struct buf ids;       /* int32_t each, as sampled */
    struct buf logprobs;  /* rows of 1 + top_logprobs struct sonde_logprob, its own first, for content */
    size_t logprobs_sent; /* rows that the voice has shown */
    uint64_t reasoning_tokens;
    bool thinking; /* inside its reasoning, as its ids tell */
    bool looping, done;
    enum sonde_finish finish;
    size_t stop; /* which stop string, for SONDE_FINISH_STOP */
    double last_token;
    int block; /* for the voice: what is open in its stream; -1: nothing */
    size_t blocks;
};

/* How an interface speaks. begin, event and ended are called where it streams. */
struct voice {
    void (*begin)(struct task *t); /* before all others */
    void (*event)(struct answer *a, const struct text_event *event);
    void (*ended)(struct answer *a);
    void (*done)(struct task *t); /* all have ended; it replies, or writes the stream's last words */
    void (*failed)(struct task *t, const struct refusal *r); /* in a stream, instead of done */
};

enum task_state { TASK_WAITING, TASK_READING, TASK_WRITING };

struct task {
    struct server *server;
    struct exchange *exchange;
    const struct voice *voice;
    struct task *next, *prev; /* among all of the server's, under its lock */
    char id[64];
    int64_t created; /* Unix time */

    /* What is asked. Zeros are what nobody asked for. */
    int32_t *ids; /* [count], the prompt; owned */
    size_t count;
    struct sonde_sampling sampling;
    struct sonde_bias *bias; /* owned; sampling.bias is set from it */
    size_t bias_count;
    uint64_t max_tokens;      /* 0: as many as the context has room for */
    uint64_t thinking_budget; /* tokens of reasoning; 0: any */
    uint32_t n, top_logprobs;
    bool logprobs, prompt_logprobs, stream, usage;
    bool thinking;          /* the prompt ends in <think> */
    bool chat;              /* answers have reasoning, content and calls; else they are text */
    bool tools, no_tools;   /* calls may be written; there are tools, but calls may not be written */
    char *stop[TASK_STOPS]; /* owned */
    size_t stop_count;
    struct text_grammar *grammars[2]; /* of content, any of them; owned */
    uint64_t before;                  /* what replay.c knows the conversation by */
    struct buf prompt_rows;           /* as answer.logprobs, of the prompt's tokens but the first */
    void *context;                    /* the interface's own, freed with release() */
    void (*release)(void *context);

    /* What becomes of it. */
    struct answer answers[TASK_ANSWERS];
    uint32_t left; /* answers that have not ended */
    bool begun, others, failed;
    struct refusal failure;
    double deadline; /* clock_seconds(); INFINITY: none */
    bool charged;    /* its key counts it */
    atomic_bool late, gone;
    atomic_int state;
    atomic_uint_fast64_t progress, generated;
    uint64_t reused;
};

/* NULL: the client was refused (server shuts down, too many wait, its key's limits). */
struct task *task_new(struct exchange *x, const struct voice *voice, const char *prefix);
void task_free(struct task *t); /* instead of task_submit() */
/* Takes the task; what goes wrong from here on is told to the client. */
void task_submit(struct task *t);
/* By the ticker, under the exchange's lock: its time may be over, its client gone. */
void task_check(struct task *t, double now, bool gone);
/* OpenAI's word for why it ended: "stop", "length", "tool_calls" or "insufficient_system_resource". */
const char *answer_finish(const struct answer *a);
uint64_t task_generated(const struct task *t);
uint64_t task_reasoning(const struct task *t);

/* prefix and 24 characters that nobody has had. */
void make_id(char *id, size_t room, const char *prefix);

#endif
