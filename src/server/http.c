/*
 * http.c - connections, bodies, time limits.
 *
 * libmicrohttpd speaks HTTP on one thread of its own, which must never wait: a request that needs work is suspended
 * and put into the workers' queue as soon as its last byte is there.
 *
 * Whoever is slow on purpose is cut off by the ticker: a head must come within HEAD seconds, a body at BODY_RATE, a
 * response that is complete must be fetched at FETCH_RATE. MHD's own limit only sees connections that do nothing at
 * all. A descriptor is shut down, not closed: it stays MHD's, which notices and cleans up.
 *
 * Pages of other sites cannot use the server behind the back of whoever reads them: a request with an Origin that is
 * neither its own nor allowed is refused, and a server that listens on the loopback address alone answers only to
 * names of that address.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http_internal.h"
#include "server/parts_internal.h"

enum { HEAD = 60, BODY_GRACE = 30, BODY_RATE = 16384, FETCH_GRACE = 60, FETCH_RATE = 4096, IDLE = 75, QUIET = 10 };

/* --------------------------------------------------------------------------------------- connections */

static void name_peer(struct MHD_Connection *connection, char *peer) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    peer[0] = 0;
    if (a && a->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, peer, PEER);
    if (a && a->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, peer, PEER);
}

static void open_connection(struct http *h, struct MHD_Connection *connection, void **slot) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct connection *c = calloc(1, sizeof(*c));
    *slot = c;
    if (!c)
        return;
    c->fd = info ? info->connect_fd : -1;
    c->since = clock_seconds();
    name_peer(connection, c->peer);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* every token is a packet */
    pthread_mutex_lock(&h->lock);
    c->next = h->connections;
    if (c->next)
        c->next->prev = c;
    h->connections = c;
    pthread_mutex_unlock(&h->lock);
}

static void close_connection(struct http *h, struct connection *c) {
    if (!c)
        return;
    pthread_mutex_lock(&h->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        h->connections = c->next;
    if (c->next)
        c->next->prev = c->prev;
    pthread_mutex_unlock(&h->lock);
    free(c);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code) {
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        open_connection(context, connection, slot);
    else
        close_connection(context, *slot);
}

static struct connection *connection_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* ------------------------------------------------------------------------------------------ exchanges */

static struct exchange *new_exchange(struct http *h, struct MHD_Connection *connection, const char *path,
                                     const char *method) {
    struct exchange *x = calloc(1, sizeof(*x));
    struct connection *c = connection_of(connection);
    if (!x || !c || !(x->path = strdup(path))) {
        free(x);
        return NULL;
    }
    x->http = h;
    x->connection = connection;
    x->arrived = clock_seconds();
    x->fd = c->fd;
    x->type = "application/json";
    x->method = strcmp(method, "POST") == 0      ? "POST"
                : strcmp(method, "GET") == 0     ? "GET"
                : strcmp(method, "HEAD") == 0    ? "HEAD"
                : strcmp(method, "OPTIONS") == 0 ? "OPTIONS"
                                                 : "other";
    memcpy(x->peer, c->peer, PEER);
    snprintf(x->id, sizeof(x->id), "req-%llu", (unsigned long long)atomic_fetch_add(&h->next_id, 1) + 1);
    atomic_init(&x->holders, 1);
    pthread_mutex_init(&x->lock, NULL);
    pthread_mutex_lock(&h->lock);
    c->asking = true;
    x->next = h->exchanges;
    if (x->next)
        x->next->prev = x;
    h->exchanges = x;
    pthread_mutex_unlock(&h->lock);
    return x;
}

static void on_completed(void *context, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code) {
    struct http *h = context;
    struct exchange *x = *slot;
    struct connection *c = connection_of(connection);
    if (!x)
        return;
    *slot = NULL;
    pthread_mutex_lock(&h->lock);
    if (c) {
        c->asking = false;
        c->since = clock_seconds();
    }
    if (x->prev)
        x->prev->next = x->next;
    else
        h->exchanges = x->next;
    if (x->next)
        x->next->prev = x->prev;
    pthread_mutex_unlock(&h->lock);
    pthread_mutex_lock(&x->lock);
    x->completed = true;
    x->connection = NULL;
    x->gone |= code != MHD_REQUEST_TERMINATED_COMPLETED_OK;
    pthread_mutex_unlock(&x->lock);
    exchange_drop(x);
}

/* -------------------------------------------------------------------------------------------- workers */

static void *work(void *context) {
    struct http *h = context;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (!h->first && !h->stopping)
            pthread_cond_wait(&h->changed, &h->lock);
        struct exchange *x = h->first;
        if (!x)
            break;
        h->first = x->queued;
        if (!h->first)
            h->last = NULL;
        pthread_mutex_unlock(&h->lock);
        x->route->serve(x);
        exchange_drop(x);
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* Suspended before it is in the queue: from there on its response may come at any time. False: there are no workers
 * any more. */
static bool hand_on(struct exchange *x) {
    struct http *h = x->http;
    pthread_mutex_lock(&h->lock);
    bool works = !h->stopping;
    if (!works) {
        pthread_mutex_unlock(&h->lock);
        return false;
    }
    pthread_mutex_lock(&x->lock);
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    pthread_mutex_unlock(&x->lock);
    atomic_fetch_add(&x->holders, 1);
    if (h->last)
        h->last->queued = x;
    else
        h->first = x;
    h->last = x;
    pthread_cond_signal(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return true;
}

/* ------------------------------------------------------------------------------------ who may ask what */

/* The name in "name:port", "[address]:port" or "scheme://name:port" into to[256]; "" where it is too long. */
static void host_of(const char *text, char *to) {
    const char *scheme = strstr(text, "://");
    if (scheme)
        text = scheme + 3;
    size_t n = *text == '[' ? strcspn(text, "]") + 1 : strcspn(text, ":/");
    snprintf(to, 256, "%.*s", n < 256 ? (int)n : 0, text);
}

/* An address that only looks like one, 127.example.org, is a name. */
static bool is_local(const char *name) {
    struct in_addr a;
    bool four = inet_pton(AF_INET, name, &a) == 1 && ntohl(a.s_addr) >> 24 == 127;
    return four || strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0;
}

static int check_origin(struct exchange *x) {
    const struct server_options *o = &x->http->server->options;
    const char *host = exchange_header(x, "Host"), *origin = exchange_header(x, "Origin");
    char name[256] = "", from[256] = "";
    host_of(host ? host : "", name);
    if (x->http->loopback && host && !is_local(name) && strcasecmp(name, o->host) != 0)
        return refuse(&x->refusal, 403, NULL, "this server answers to localhost, not to %s", name);
    if (!origin)
        return 0;
    const char *after = strstr(origin, "://");
    host_of(origin, from);
    if (host && after && strcasecmp(after + 3, host) == 0)
        return 0;
    if (o->cors && (strcmp(o->cors, "*") == 0 || strcmp(o->cors, origin) == 0))
        return 0;
    return refuse(&x->refusal, 403, NULL, "pages of %s may not use this server", from);
}

static int check_key(struct exchange *x) {
    struct server *s = x->http->server;
    const char *bearer = exchange_header(x, "Authorization"), *sent = exchange_header(x, "x-api-key");
    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0)
        sent = bearer + 7;
    pthread_mutex_lock(&s->lock);
    bool asked = s->keys != NULL;
    x->key = asked ? apikeys_find(s->keys, sent ? sent : "") : NULL;
    pthread_mutex_unlock(&s->lock);
    if (asked && !x->key)
        return refuse(&x->refusal, 401, NULL, sent ? "the API key is not known" : "an API key is needed");
    return 0;
}

static int check_length(struct exchange *x) {
    const char *length = exchange_header(x, "Content-Length");
    uint64_t most = x->http->server->options.body_bytes;
    if (length && strtoull(length, NULL, 10) > most)
        return refuse(&x->refusal, 413, NULL, "the request is larger than %llu bytes", (unsigned long long)most);
    return 0;
}

/* All that the head alone decides; -1: refused. */
static int check_head(struct exchange *x) {
    struct buf allow = {0};
    const char *method = strcmp(x->method, "HEAD") == 0 ? "GET" : x->method;
    x->route = route_find(method, x->path, &allow);
    int rc = 0;
    if (!x->route && allow.len)
        rc = refuse(&x->refusal, 405, NULL, "%s is for %s", x->path, allow.data);
    else if (!x->route)
        rc = refuse(&x->refusal, 404, NULL, "there is nothing at %s", x->path);
    buf_release(&allow);
    rc = rc ? rc : check_origin(x);
    if (!rc && !x->route->open)
        rc = check_key(x);
    return rc;
}

/* -------------------------------------------------------------------------------------------- requests */

/* Nothing from elsewhere, no script that is not the page's own. */
static const char page_policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                                  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/* The methods that the path has, where the one asked for is none of them. */
static void add_allow(const struct exchange *x, struct MHD_Response *r) {
    struct buf allow = {0};
    route_find(x->method, x->path, &allow);
    if (allow.len && !allow.failed)
        MHD_add_response_header(r, "Allow", allow.data);
    buf_release(&allow);
}

static enum MHD_Result respond(struct exchange *x) {
    const char *cors = x->http->server->options.cors;
    struct MHD_Response *r = exchange_response(x);
    if (!r)
        return MHD_NO;
    if (cors) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", cors);
        MHD_add_response_header(r, "Vary", "Origin");
    }
    if (x->status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (x->status == 405)
        add_allow(x, r);
    if (atomic_load(&x->http->server->draining))
        MHD_add_response_header(r, "Connection", "close");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (x->route && x->route->open)
        MHD_add_response_header(r, "Content-Security-Policy", page_policy);
    x->responded = true;
    enum MHD_Result rc = MHD_queue_response(x->connection, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return rc;
}

/* A browser asks whether a page of another site may ask. */
static enum MHD_Result respond_options(struct exchange *x) {
    const char *cors = x->http->server->options.cors;
    struct MHD_Response *r = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    if (cors) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", cors);
        MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
        MHD_add_response_header(r, "Access-Control-Allow-Headers",
                                "Authorization, Content-Type, x-api-key, anthropic-version, anthropic-beta");
        MHD_add_response_header(r, "Access-Control-Max-Age", "86400");
    }
    pthread_mutex_lock(&x->lock);
    x->status = cors ? 204 : 403;
    x->over = x->began;
    x->ready = x->ended = x->responded = true;
    pthread_mutex_unlock(&x->lock);
    enum MHD_Result rc = MHD_queue_response(x->connection, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return rc;
}

/* What is refused is read to its end, so that the client hears why, but not for ever: false ends the connection. */
static bool take_body(struct exchange *x, const char *bytes, size_t count) {
    pthread_mutex_lock(&x->lock);
    uint64_t all = x->bytes += count, most = x->http->server->options.body_bytes;
    pthread_mutex_unlock(&x->lock);
    if (x->refusal.status)
        return all <= 2 * most;
    if (all > most) {
        refuse(&x->refusal, 413, NULL, "the request is larger than %llu bytes", (unsigned long long)most);
        buf_release(&x->body);
    } else {
        buf_append(&x->body, bytes, count);
    }
    return true;
}

/* All of it is there. */
static enum MHD_Result start(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->started = true;
    x->began = clock_seconds();
    x->bytes = 0;
    pthread_mutex_unlock(&x->lock);
    if (strcmp(x->method, "OPTIONS") == 0)
        return respond_options(x);
    if (x->body.failed && !x->refusal.status)
        refuse(&x->refusal, 500, NULL, "out of memory");
    if (x->refusal.status)
        exchange_refuse(x, &x->refusal);
    else if (x->route->at_once)
        x->route->serve(x);
    if (x->ready)
        return respond(x);
    if (hand_on(x))
        return MHD_YES;
    refuse(&x->refusal, 503, NULL, "the server is shutting down");
    x->refusal.retry = 5;
    exchange_refuse(x, &x->refusal);
    return respond(x);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *bytes, size_t *count,
                                  void **slot) {
    struct exchange *x = *slot;
    (void)version;
    if (!x) {
        x = *slot = new_exchange(context, connection, path, method);
        if (!x)
            return MHD_NO;
        if (strcmp(x->method, "OPTIONS") == 0)
            return MHD_YES;
        check_head(x);
        if (check_length(x)) { /* at once: what it would send is not worth waiting for */
            x->started = true;
            exchange_refuse(x, &x->refusal);
            return respond(x);
        }
        return MHD_YES;
    }
    if (*count) {
        bool goes_on = take_body(x, bytes, *count);
        *count = 0;
        return goes_on ? MHD_YES : MHD_NO;
    }
    if (!x->started)
        return start(x);
    return x->ready && !x->responded ? respond(x) : MHD_YES;
}

/* --------------------------------------------------------------------------------------------- ticker */

static bool is_slow(const struct exchange *x, double now) {
    if (!x->started)
        return now - x->arrived > BODY_GRACE + (double)x->bytes / BODY_RATE;
    return x->ended && now - x->over > FETCH_GRACE + (double)x->bytes / FETCH_RATE;
}

/* Under the lists' lock: none of these is freed meanwhile. */
static void tick_exchange(struct exchange *x, double now) {
    pthread_mutex_lock(&x->lock);
    bool started = x->started, quiet;
    pthread_mutex_unlock(&x->lock);
    bool gone = started && exchange_is_gone(x);
    pthread_mutex_lock(&x->lock);
    if (is_slow(x, now)) {
        x->gone = true;
        shutdown(x->fd, SHUT_RDWR);
    }
    quiet = x->streaming && !x->ended && now - x->quiet > QUIET;
    if (x->task)
        task_check(x->task, now, gone);
    pthread_mutex_unlock(&x->lock);
    if (quiet)
        exchange_write(x, ": keep-alive\n\n", strlen(": keep-alive\n\n"));
}

void http_tick(struct http *h) {
    double now = clock_seconds();
    pthread_mutex_lock(&h->lock);
    for (struct connection *c = h->connections; c; c = c->next)
        if (!c->asking && now - c->since > HEAD)
            shutdown(c->fd, SHUT_RDWR);
    for (struct exchange *x = h->exchanges; x; x = x->next)
        tick_exchange(x, now);
    pthread_mutex_unlock(&h->lock);
}

/* ------------------------------------------------------------------------------------- open and close */

static int listen_on(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (a->ai_family == AF_INET6) /* "::" is IPv4 too */
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static bool is_loopback(const struct sockaddr *a) {
    static const uint8_t six[16] = {[15] = 1};
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, six, sizeof(six)) == 0;
}

static int open_socket(struct http *h, const char *host, uint16_t port, struct sonde_error *e) {
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    int why = getaddrinfo(host, service, &wanted, &found);
    if (why)
        return err_set(e, SONDE_ERROR_IO, "%s: %s", host, gai_strerror(why));
    h->listening = -1;
    for (const struct addrinfo *a = found; a && h->listening < 0; a = a->ai_next) {
        h->listening = listen_on(a);
        h->loopback = is_loopback(a->ai_addr);
    }
    freeaddrinfo(found);
    if (h->listening < 0)
        return err_system(e, "cannot listen on %s port %u", host, port);
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof(bound);
    getsockname(h->listening, (struct sockaddr *)&bound, &size);
    h->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                                                : ((struct sockaddr_in *)(void *)&bound)->sin_port);
    return SONDE_OK;
}

static int read_pem(const char *path, char **text, struct sonde_error *e) {
    struct buf b = {0};
    int rc = file_read(path, 1 << 20, &b, e);
    rc = rc ? rc : buf_take(&b, text, NULL, e);
    buf_release(&b);
    return rc;
}

static int read_tls(struct http *h, const struct server_options *o, struct sonde_error *e) {
    if (!o->tls_certificate && !o->tls_key)
        return SONDE_OK;
    if (!o->tls_certificate || !o->tls_key)
        return err_set(e, SONDE_ERROR_ARGUMENT, "TLS needs a certificate and its key, only one of them is named");
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "this libmicrohttpd was built without TLS");
    int rc = read_pem(o->tls_certificate, &h->certificate, e);
    return rc ? rc : read_pem(o->tls_key, &h->key, e);
}

/* Descriptors are for files too. */
static unsigned most_connections(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == RLIM_INFINITY)
        return 4096;
    return (unsigned)min_u64(4096, limit.rlim_cur > 256 ? limit.rlim_cur - 128 : limit.rlim_cur / 2);
}

static void be_silent(void *context, const char *format, va_list args) {
    (void)context;
    (void)format;
    (void)args;
}

static int start_daemon(struct http *h, struct sonde_error *e) {
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, h->certificate},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, h->key},
                                   {MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_EPOLL | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (h->certificate)
        flags |= MHD_USE_TLS;
    h->daemon = MHD_start_daemon(flags, h->port, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, be_silent, NULL,
                                 MHD_OPTION_LISTEN_SOCKET, h->listening, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_CONNECTION_TIMEOUT,
                                 (unsigned)IDLE, MHD_OPTION_CONNECTION_LIMIT, most_connections(), MHD_OPTION_ARRAY,
                                 h->certificate ? tls : tls + 2, MHD_OPTION_END);
    if (h->daemon)
        return SONDE_OK;
    return err_set(e, SONDE_ERROR_IO,
                   h->certificate ? "HTTPS does not start: the certificate and its key are not usable"
                                  : "the HTTP server does not start");
}

int http_open(struct server *s, struct http **http, struct sonde_error *e) {
    struct http *h = calloc(1, sizeof(*h));
    if (!h)
        return err_memory(e);
    h->server = s;
    h->listening = -1;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    int rc = read_tls(h, &s->options, e);
    rc = rc ? rc : open_socket(h, s->options.host, s->options.port, e);
    while (!rc && h->worker_count < COUNT_OF(h->workers)) {
        if (thread_create(&h->workers[h->worker_count], work, h))
            rc = err_system(e, "no thread can be made");
        else
            h->worker_count++;
    }
    *http = h; /* requests may come at once */
    rc = rc ? rc : start_daemon(h, e);
    if (rc) {
        *http = NULL;
        http_close(h);
    }
    return rc;
}

uint16_t http_port(const struct http *h) {
    return h->port;
}

void http_quiesce(struct http *h) {
    MHD_socket fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
    h->listening = -1;
}

/* Responses that are complete have a moment to leave. */
static void wait_for_responses(struct http *h) {
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&h->lock);
        bool any = h->exchanges != NULL;
        pthread_mutex_unlock(&h->lock);
        if (!any)
            return;
        usleep(10000);
    }
}

void http_finish(struct http *h) {
    if (!h)
        return;
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    for (uint32_t i = 0; i < h->worker_count; i++)
        pthread_join(h->workers[i], NULL);
    h->worker_count = 0;
}

void http_close(struct http *h) {
    if (!h)
        return;
    http_finish(h);
    if (h->daemon)
        wait_for_responses(h);
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    if (h->listening >= 0 && !h->daemon)
        close(h->listening);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    free(h->certificate);
    free(h->key);
    free(h);
}
