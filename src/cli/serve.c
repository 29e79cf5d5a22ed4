/*
 * serve.c - `sonde serve`: a model behind HTTP.
 *
 * Signals come to a thread of their own: SIGTERM and Ctrl-C let running answers end, a second one ends them; SIGHUP
 * reads the key file and opens the log again, as log rotation wants it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "server/server.h"

struct serve_options {
    struct model_flags model;
    const char *host, *name, *key_file, *certificate, *key, *cors, *log;
    uint64_t port, requests, queue, timeout, drain, body, drafts;
    int thinking;
    bool stop_loops;
};

/* The log, and the signals that concern it. */
struct serving {
    struct server *server;
    const char *log;
    pthread_mutex_t lock;
    int fd;   /* -1: no log */
    int last; /* the signal that ended it; 0: none */
};

static void write_line(void *context, const char *line) {
    struct serving *s = context;
    struct buf b = {0};
    buf_printf(&b, "%s\n", line);
    pthread_mutex_lock(&s->lock);
    if (s->fd >= 0 && !b.failed && write(s->fd, b.data, b.len) < 0) {
        /* a full disk must not stop the answers */
    }
    pthread_mutex_unlock(&s->lock);
    buf_release(&b);
}

/* "-" is standard error, "none" nowhere. Appends, so that others may rotate. */
static int open_log(struct serving *s) {
    int fd = strcmp(s->log, "-") == 0      ? STDERR_FILENO
             : strcmp(s->log, "none") == 0 ? -1
                                           : open(s->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0 && strcmp(s->log, "none") != 0) {
        notice("%s: %s", s->log, strerror(errno));
        return STATUS_WORLD;
    }
    pthread_mutex_lock(&s->lock);
    int old = s->fd;
    s->fd = fd;
    pthread_mutex_unlock(&s->lock);
    if (old > STDERR_FILENO)
        close(old);
    return STATUS_DONE;
}

static void reload(struct serving *s) {
    struct sonde_error e;
    open_log(s);
    if (server_reload(s->server, &e))
        notice("%s; the keys stay as they were", e.message);
}

/* The signals it waits for are blocked in every thread. */
static void *take_signals(void *context) {
    struct serving *s = context;
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1); /* from ourselves: it is over */
    while (sigwait(&set, &number) == 0 && number != SIGUSR1) {
        if (number == SIGHUP) {
            reload(s);
            continue;
        }
        notice(s->last ? "ending" : "ending when running answers have; once more ends them now");
        s->last = number;
        server_drain(s->server);
    }
    return NULL;
}

static void block_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* The last part of the path: what clients see. */
static const char *name_of(const char *path, char *name, size_t room) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/')
        from--;
    snprintf(name, room, "%.*s", (int)min_u64(n - from, room - 1), path + from);
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || !*name ? "sonde" : name;
}

static void fill_options(const struct serve_options *o, const char *name, struct serving *s,
                         struct server_options *to) {
    server_options_default(to);
    to->host = o->host;
    to->port = (uint16_t)o->port;
    to->name = o->name ? o->name : name;
    to->context = o->model.context;
    to->key_file = o->key_file;
    to->tls_certificate = o->certificate;
    to->tls_key = o->key;
    to->cors = o->cors;
    to->requests = (uint32_t)o->requests;
    to->queue = (uint32_t)o->queue;
    to->drafts = (uint32_t)o->drafts;
    to->timeout = (double)o->timeout;
    to->drain = (double)o->drain;
    to->body_bytes = o->body << 20;
    to->stop_loops = o->stop_loops;
    to->thinking = o->thinking;
    to->cache_directory = o->model.cache_directory;
    to->log = write_line;
    to->log_context = s;
}

static int run_server(const struct serve_options *o, struct serving *s, sonde_model *model, const char *name) {
    struct server_options options;
    struct sonde_error e;
    pthread_t signals;
    fill_options(o, name, s, &options);
    int status = open_log(s);
    if (status)
        return status;
    if (server_open(model, &options, &s->server, &e))
        return report(&e);
    if (thread_create(&signals, take_signals, s)) {
        notice("no thread can be made");
        server_close(s->server);
        return STATUS_WORLD;
    }
    const char *bracket = strchr(o->host, ':') ? "[" : "";
    notice("serving %s at %s://%s%s%s:%u", options.name, o->certificate ? "https" : "http", bracket, o->host,
           *bracket ? "]" : "", server_port(s->server));
    server_run(s->server);
    pthread_kill(signals, SIGUSR1);
    pthread_join(signals, NULL);
    server_close(s->server);
    if (s->fd > STDERR_FILENO)
        close(s->fd);
    return STATUS_DONE;
}

static int serve(int argc, char **argv) {
    struct serve_options o = {.model = MODEL_DEFAULT,
                              .host = "127.0.0.1",
                              .log = "-",
                              .port = 8080,
                              .requests = 64,
                              .queue = 256,
                              .timeout = 3600,
                              .drain = 30,
                              .body = 48};
    struct serving s = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};
    const char *operands[1];
    char name[128];
    sonde_model *model;
    struct buf path = {0};
    struct sonde_error e;
    int status = flags_parse(&command_serve, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (!o.certificate != !o.key)
        return usage_error("serve", "--tls-cert and --tls-key go together");
    block_signals();
    if (operands[0])
        buf_string(&path, operands[0]);
    else if (bundled_model(&path, &e))
        return report(&e);
    status = model_open_flags(path.data, &o.model, &model, NULL);
    if (!status) {
        s.log = o.log;
        status = run_server(&o, &s, model, name_of(path.data, name, sizeof(name)));
        sonde_model_close(model);
    }
    buf_release(&path);
    return status;
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "host", .kind = FLAG_STRING, .at = offsetof(struct serve_options, host), .value = "ADDRESS",
     .help = "listen there (default 127.0.0.1; :: is every address)"},
    {.name = "port", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, port), .value = "N", .most = 65535,
     .help = "and there (default 8080; 0: any free one)"},
    {.name = "name", .kind = FLAG_STRING, .at = offsetof(struct serve_options, name), .value = "NAME",
     .help = "of the model, for clients (default: its directory's)"},
    {.name = "api-key-file", .kind = FLAG_STRING, .at = offsetof(struct serve_options, key_file), .value = "FILE",
     .help = "keys that may ask, one a line, with limits"},
    {.name = "tls-cert", .kind = FLAG_STRING, .at = offsetof(struct serve_options, certificate), .value = "FILE",
     .help = "HTTPS with this certificate (PEM)"},
    {.name = "tls-key", .kind = FLAG_STRING, .at = offsetof(struct serve_options, key), .value = "FILE",
     .help = "and its key (PEM)"},
    {.name = "cors", .kind = FLAG_STRING, .at = offsetof(struct serve_options, cors), .value = "ORIGIN",
     .help = "pages of this site may ask too; *: of any"},
    {.name = "requests", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, requests), .value = "N", .least = 1,
     .most = 4096, .help = "answered at once (default 64)"},
    {.name = "queue", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, queue), .value = "N", .most = 1u << 20,
     .help = "waiting beyond these; more are refused (default 256)"},
    {.name = "timeout", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, timeout), .value = "SECONDS",
     .most = UINT32_MAX, .help = "a request may take (default 3600; 0: any)"},
    {.name = "drain", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, drain), .value = "SECONDS",
     .most = UINT32_MAX, .help = "running answers get at the end (default 30)"},
    {.name = "body", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, body), .value = "MIB", .least = 1,
     .most = 4096, .help = "largest request (default 48)"},
    {.name = "thinking", .kind = FLAG_CHOICE, .at = offsetof(struct serve_options, thinking), .value = "model|on|off",
     .help = "where a request does not say (default model)"},
    {.name = "drafts", .kind = FLAG_COUNT, .at = offsetof(struct serve_options, drafts), .value = "N", .most = 3,
     .help = "tokens guessed ahead, if the model can (default 0)"},
    {.name = "loop-stop", .kind = FLAG_SWITCH, .at = offsetof(struct serve_options, stop_loops),
     .help = "end answers that only repeat themselves"},
    {.name = "log", .kind = FLAG_STRING, .at = offsetof(struct serve_options, log), .value = "FILE",
     .help = "a JSON line a request; - standard error (default), none"},
    MODEL_FLAGS(struct serve_options, model),
};
/* clang-format on */

const struct command command_serve = {
    .name = "serve",
    .operands = "[MODEL]",
    .operands_most = 1,
    .summary = "answer over HTTP, as OpenAI's and Anthropic's clients expect",
    .about = "Serves the model until SIGTERM or Ctrl-C: chat, completions, responses and messages as OpenAI,\n"
             "DeepSeek and Anthropic define them, a page to chat at /, metrics at /metrics. Running answers\n"
             "end first; a second signal ends them. SIGHUP reads the keys and opens the log again.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = serve,
};
