/*
 * exchange.c - one request's response, written from any thread.
 *
 * MHD suspends a connection that has nothing to send and must be told to go on. `suspended` says that it waits, and
 * changes only under the lock together with MHD's own state, so no wake-up is lost and none comes twice.
 *
 * A reader that is slower than the model leaves bytes behind here; one that leaves more than PENDING is given up.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_internal.h"
#include "server/parts_internal.h"

#define PENDING ((size_t)4 << 20)

/* ----------------------------------------------------------------------------------------- the request */

struct server *exchange_server(const struct exchange *x) {
    return x->http->server;
}

const struct route *exchange_route(const struct exchange *x) {
    return x->route;
}

const char *exchange_path(const struct exchange *x) {
    return x->path;
}

const char *exchange_id(const struct exchange *x) {
    return x->id;
}

struct apikey *exchange_key(const struct exchange *x) {
    return x->key;
}

const struct buf *exchange_body(const struct exchange *x) {
    return &x->body;
}

double exchange_began(const struct exchange *x) {
    return x->began;
}

struct exchange_facts *exchange_facts(struct exchange *x) {
    return &x->facts;
}

const char *exchange_header(const struct exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

/* ---------------------------------------------------------------------------------------- the response */

/* Under the lock: MHD has something to do. */
static void wake(struct exchange *x) {
    if (x->suspended && x->connection) {
        x->suspended = false;
        MHD_resume_connection(x->connection);
    }
}

void exchange_reply(struct exchange *x, int status, const char *type, const char *bytes, size_t count) {
    pthread_mutex_lock(&x->lock);
    if (!x->ready) {
        x->status = status;
        x->type = type;
        buf_append(&x->out, bytes, count);
        x->bytes = count;
        x->ready = x->ended = true;
        x->over = clock_seconds();
        wake(x);
    }
    pthread_mutex_unlock(&x->lock);
}

void exchange_reply_json(struct exchange *x, int status, struct buf *b) {
    static const char lost[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}\n";
    if (b->failed)
        exchange_reply(x, 500, "application/json", lost, sizeof(lost) - 1);
    else
        exchange_reply(x, status, "application/json", b->data, b->len);
    buf_release(b);
}

void exchange_refuse(struct exchange *x, const struct refusal *r) {
    struct buf b = {0};
    snprintf(x->facts.error, sizeof(x->facts.error), "%.255s", r->message);
    x->refusal.retry = r->retry;
    write_refusal(&b, x, r);
    exchange_reply_json(x, r->status, &b);
}

void exchange_stream(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->status = 200;
    x->type = "text/event-stream; charset=utf-8";
    x->ready = x->streaming = true;
    x->quiet = clock_seconds();
    wake(x);
    pthread_mutex_unlock(&x->lock);
}

/* Under the lock: what was sent makes room, whether the reader ever catches up or not. */
static void forget_sent(struct exchange *x) {
    if (x->sent < x->out.len / 2 || !x->sent)
        return;
    x->out.len -= x->sent;
    memmove(x->out.data, x->out.data + x->sent, x->out.len);
    x->sent = 0;
}

bool exchange_write(struct exchange *x, const char *bytes, size_t count) {
    pthread_mutex_lock(&x->lock);
    if (!x->gone && !x->ended) {
        forget_sent(x);
        buf_append(&x->out, bytes, count);
        x->bytes += count;
        x->quiet = clock_seconds();
        x->gone |= x->out.failed || x->out.len - x->sent > PENDING;
        wake(x);
    }
    bool there = !x->gone;
    pthread_mutex_unlock(&x->lock);
    return there;
}

void exchange_end(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->ended = true;
    x->over = clock_seconds();
    wake(x);
    pthread_mutex_unlock(&x->lock);
}

/* The peer has closed its side: nobody who waits for an answer does. */
static bool hung_up(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

bool exchange_is_gone(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    /* until completed the descriptor is this connection's */
    if (!x->gone && !x->completed && !x->ended)
        x->gone = hung_up(x->fd);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone;
}

/* ---------------------------------------------------------------------------------------- for the network */

static ssize_t read_stream(void *context, uint64_t position, char *to, size_t most) {
    struct exchange *x = context;
    (void)position;
    pthread_mutex_lock(&x->lock);
    size_t n = min_u64(most, x->out.len - x->sent);
    ssize_t result = (ssize_t)n;
    if (n) {
        memcpy(to, x->out.data + x->sent, n);
        x->sent += n;
    } else if (x->gone) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (x->ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return result;
}

struct MHD_Response *exchange_response(struct exchange *x) {
    struct MHD_Response *r;
    if (x->streaming)
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, x, NULL);
    else
        r = MHD_create_response_from_buffer(x->out.len, (void *)x->out.data, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return NULL;
    MHD_add_response_header(r, "Content-Type", x->type);
    MHD_add_response_header(r, "X-Request-Id", x->id);
    if (x->streaming) {
        MHD_add_response_header(r, "Cache-Control", "no-store");
        MHD_add_response_header(r, "X-Accel-Buffering", "no"); /* proxies are to pass events on as they come */
    }
    if (x->refusal.retry > 0) {
        char seconds[32];
        snprintf(seconds, sizeof(seconds), "%.0f", x->refusal.retry < 1 ? 1 : x->refusal.retry);
        MHD_add_response_header(r, "Retry-After", seconds);
    }
    return r;
}

/* --------------------------------------------------------------------------------------------- holders */

void exchange_hold(struct exchange *x, struct task *t) {
    atomic_fetch_add(&x->holders, 1);
    buf_release(&x->body);
    pthread_mutex_lock(&x->lock);
    x->task = t;
    pthread_mutex_unlock(&x->lock);
}

void exchange_leave(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->task = NULL;
    pthread_mutex_unlock(&x->lock);
}

static void exchange_free(struct exchange *x) {
    apikey_drop(x->key);
    buf_release(&x->body);
    buf_release(&x->out);
    pthread_mutex_destroy(&x->lock);
    free(x->path);
    free(x);
}

void exchange_drop(struct exchange *x) {
    if (atomic_fetch_sub(&x->holders, 1) != 1)
        return;
    server_record(x->http->server, &(struct record){.exchange = x,
                                                    .method = x->method,
                                                    .path = x->path,
                                                    .peer = x->peer,
                                                    .status = x->ready && !(x->streaming && x->gone) ? x->status : 499,
                                                    .bytes = x->bytes,
                                                    .arrived = x->arrived,
                                                    .facts = &x->facts});
    exchange_free(x);
}
