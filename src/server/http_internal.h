/* http_internal.h - an exchange from inside: for http.c, which moves it, and exchange.c, through which others speak. */
#ifndef SERVER_HTTP_INTERNAL_H
#define SERVER_HTTP_INTERNAL_H

#include <microhttpd.h>

#include "server/server_internal.h"

enum { PEER = 64 };

/* One network connection; requests follow each other on it. */
struct connection {
    struct connection *next, *prev;
    int fd;
    double since; /* it opened, or its last response ended */
    bool asking;  /* a request's head has come */
    char peer[PEER];
};

/*
 * Belongs to the connection until MHD says it is completed, and to a task: the last one to drop it logs and frees it.
 * What follows `lock` is guarded by it.
 */
struct exchange {
    struct http *http;
    struct exchange *next, *prev;      /* among all */
    struct exchange *queued;           /* next in the workers' queue */
    struct MHD_Connection *connection; /* NULL once completed */
    const struct route *route;
    char *path;
    const char *method;
    char id[32], peer[PEER];
    struct apikey *key;
    struct buf body;
    double arrived, began; /* its head, its last byte; clock_seconds() */
    struct exchange_facts facts;
    struct refusal refusal; /* status not 0: decided from the head alone */
    int fd;
    bool started;
    atomic_uint holders;

    pthread_mutex_t lock;
    bool suspended, ready, responded, streaming, ended, completed, gone;
    int status;
    const char *type;
    struct buf out;
    size_t sent;
    uint64_t bytes;     /* of the body, so far */
    double quiet, over; /* last written to; ended */
    struct task *task;
};

struct http {
    struct server *server;
    struct MHD_Daemon *daemon;
    int listening;
    uint16_t port;
    bool loopback;
    char *certificate, *key;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct connection *connections;
    struct exchange *exchanges;
    struct exchange *first, *last; /* the workers' queue */
    bool stopping;
    pthread_t workers[2];
    uint32_t worker_count;
    atomic_uint_fast64_t next_id;
};

/* exchange.c: what MHD asks for. */
struct MHD_Response *exchange_response(struct exchange *x); /* ready; NULL: out of memory */

#endif
