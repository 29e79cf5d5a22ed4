/*
 * fuzz_request.c - any bytes as the body of a request that generates, to a server that is real but for its network.
 *
 * The first byte says which interface reads the rest: "0" chat, "1" completions, "2" responses, "3" messages, "4"
 * messages to be counted. What is understood is submitted, and its time is over before a step is made, so that the
 * answer is written as it stands and the model computes nothing. Every reply must be JSON, every event of a stream too,
 * and no fault the server's.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_internal.h"
#include "server/interfaces_internal.h"
#include "server/parts_internal.h"

#ifndef MODEL
#define MODEL "models/nano"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct server *server;

static const struct route routes[] = {
    {"POST", "/chat/completions", serve_chat, DIALECT_OPENAI, false, false},
    {"POST", "/completions", serve_completions, DIALECT_OPENAI, false, false},
    {"POST", "/responses", serve_responses, DIALECT_OPENAI, false, false},
    {"POST", "/messages", serve_messages, DIALECT_ANTHROPIC, false, false},
    {"POST", "/messages/count_tokens", serve_count_tokens, DIALECT_ANTHROPIC, false, false},
};

static void check(bool holds) {
    if (!holds)
        abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    struct server_options options;
    struct sonde_error e;
    sonde_model *model;
    (void)argc;
    (void)argv;
    server_options_default(&options);
    options.port = 0;
    check(sonde_model_open(MODEL, NULL, &model, &e) == 0);
    check(server_open(model, &options, &server, &e) == 0);
    return 0;
}

static void check_json(const char *text, size_t bytes) {
    struct jtree tree;
    check(jtree_parse(text, bytes, "reply", &tree, NULL) == 0);
    jtree_release(&tree);
}

/* Lines "data: JSON" with names and blank lines between; the last may say that it is done. */
static void check_events(const char *text, size_t bytes) {
    static const char data[] = "data: ", done[] = "[DONE]";
    const char *end = text + bytes;
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        check(stop != NULL);
        if (strncmp(text, data, sizeof(data) - 1) == 0) {
            text += sizeof(data) - 1;
            if ((size_t)(stop - text) != strlen(done) || memcmp(text, done, strlen(done)) != 0)
                check_json(text, (size_t)(stop - text));
        }
        text = stop + 1;
    }
}

/* Its time is over: the next step gives it up. */
static void answer(void) {
    while (server->tasks) {
        task_check(server->tasks, INFINITY, false);
        sonde_scheduler_step(server->scheduler);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct exchange *x = calloc(1, sizeof(*x));
    check(x != NULL);
    x->http = server->http;
    x->route = &routes[(size ? (uint8_t)(data[0] - '0') : 0) % COUNT_OF(routes)];
    x->method = x->route->method;
    x->path = strdup(x->route->path);
    x->fd = -1;
    x->started = x->completed = true; /* nobody is there who could go away */
    atomic_init(&x->holders, 2);      /* the network's, and ours */
    pthread_mutex_init(&x->lock, NULL);
    if (size)
        buf_append(&x->body, data + 1, size - 1);
    x->route->serve(x);
    exchange_drop(x);
    answer();
    check(x->ready && x->ended && x->status < 500);
    if (x->streaming)
        check_events(x->out.data, x->out.len);
    else
        check_json(x->out.data, x->out.len);
    exchange_drop(x);
    return 0;
}
