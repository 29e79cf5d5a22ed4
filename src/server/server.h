/*
 * server.h - `sonde serve`: one model behind HTTP, as OpenAI's, Anthropic's and DeepSeek's clients expect it.
 *
 *     server_open(model, &options, &server, &error)      listens; requests wait until somebody runs
 *     server_run(server)                                 works until drained; the one thread that uses the model
 *     server_drain(server)                               from another thread: no new work, running work may end
 *     server_close(server)
 *
 * docs/server.md describes the interfaces. The model must have a tokenizer and outlive the server.
 */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "base/base.h"

struct server;

struct server_options {
    const char *host;     /* address or name to listen on; "::" takes IPv4 too */
    uint16_t port;        /* 0: any that is free, see server_port() */
    const char *name;     /* of the model, as clients see it */
    uint64_t context;     /* most tokens of a prompt and its answer; 0: as many as the checkpoint states */
    const char *key_file; /* who may ask, keys.c has its lines; NULL: everybody */
    const char *tls_certificate, *tls_key; /* PEM files; NULL: no TLS. Both or none */
    const char *cors;                      /* origin that pages of other sites may ask from, "*": any; NULL: none */
    uint32_t requests;                     /* answered at once */
    uint32_t queue;                        /* waiting beyond these; more are refused with 429 */
    uint32_t drafts;                       /* tokens guessed ahead, sonde_scheduler_options */
    double timeout;                        /* seconds a request may take from its last byte to its answer's; 0: any */
    double drain;                          /* seconds that running answers get after server_drain() */
    uint64_t body_bytes;                   /* largest body of a request */
    bool stop_loops;                       /* end answers that do nothing but repeat themselves */
    enum { SERVER_THINKING_MODEL, SERVER_THINKING_ON, SERVER_THINKING_OFF } thinking; /* where a request is silent */
    const char *cache_directory; /* where sampled answers are remembered beyond the process; NULL: nowhere */
    void (*log)(void *context, const char *line); /* one JSON line for each request, whole; from any thread; NULL */
    void *log_context;
};

/* 127.0.0.1:8080, 64 requests, 256 waiting, an hour, 30 seconds, 48 MiB, everything else off. */
void server_options_default(struct server_options *options);

/* Strings of *options are copied. Errors: IO (address, files), FORMAT (key file), ARGUMENT, UNSUPPORTED, MEMORY. */
int server_open(sonde_model *model, const struct server_options *options, struct server **server,
                struct sonde_error *e);

/* The port it listens on. */
uint16_t server_port(const struct server *s);

/* Answers requests until server_drain() has been called and what ran then has ended, or its time is over. */
void server_run(struct server *s);

/* From any thread, more than once: the second call ends what still runs at once. */
void server_drain(struct server *s);

/* From any thread: reads the key file again. Errors: those of opening; the old keys stay. */
int server_reload(struct server *s, struct sonde_error *e);

void server_close(struct server *s);

#endif
