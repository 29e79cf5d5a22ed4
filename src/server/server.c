/*
 * server.c - one server: its parts opened, run, drained and closed.
 *
 * server_run() steps the scheduler on the caller's thread. Draining goes in two stages: first no new work is taken and
 * what runs may end; when its time is over, or at the second call, what still runs is cancelled and its clients get
 * what there is.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/parts_internal.h"

void server_options_default(struct server_options *options) {
    *options = (struct server_options){.host = "127.0.0.1",
                                       .port = 8080,
                                       .name = "sonde",
                                       .requests = 64,
                                       .queue = 256,
                                       .timeout = 3600,
                                       .drain = 30,
                                       .body_bytes = (uint64_t)48 << 20};
}

void server_record(struct server *s, const struct record *r) {
    metrics_record(s->metrics, r);
    log_record(s, r);
}

/* ---------------------------------------------------------------------------------------------- opening */

/* Each string on its own; what fails is told by the last check. */
static int copy_options(struct server *s, const struct server_options *o, struct sonde_error *e) {
    const char **const strings[] = {&s->options.host,
                                    &s->options.name,
                                    &s->options.key_file,
                                    &s->options.tls_key,
                                    &s->options.tls_certificate,
                                    &s->options.cors,
                                    &s->options.cache_directory};
    bool failed = false;
    s->options = *o;
    for (size_t i = 0; i < COUNT_OF(strings); i++)
        if (*strings[i]) {
            *strings[i] = strdup(*strings[i]);
            failed |= !*strings[i];
        }
    return failed ? err_memory(e) : SONDE_OK;
}

static void release_options(struct server *s) {
    const char *const strings[] = {
        s->options.host, s->options.name,           s->options.key_file, s->options.tls_key, s->options.tls_certificate,
        s->options.cors, s->options.cache_directory};
    for (size_t i = 0; i < COUNT_OF(strings); i++)
        free((void *)(uintptr_t)strings[i]);
}

/* The ids that mean something to a server. */
static void read_tokens(struct server *s) {
    static const char *const turns[] = {"<｜User｜>", "<｜Assistant｜>", "<｜System｜>", "<｜latest_reminder｜>",
                                        "<｜begin▁of▁sentence｜>"};
    s->think_end = sonde_tokenizer_added(s->tokenizer, "</think>");
    s->dsml = sonde_tokenizer_added(s->tokenizer, "｜DSML｜");
    for (size_t i = 0; i < COUNT_OF(turns); i++) {
        int32_t id = sonde_tokenizer_added(s->tokenizer, turns[i]);
        if (id >= 0)
            s->turn_ids[s->turn_count++] = id;
    }
}

static int open_parts(struct server *s, struct sonde_error *e) {
    struct sonde_scheduler_options o = {.requests = s->options.requests, .drafts = s->options.drafts};
    const struct server_options *p = &s->options;
    int rc = text_vocabulary_open(s->tokenizer, s->info.vocab, &s->vocabulary, e);
    rc = rc ? rc : sonde_scheduler_open(s->model, &o, &s->scheduler, e);
    rc = rc ? rc : replay_open(p->cache_directory, p->log ? p->log : NULL, p->log_context, &s->replay, e);
    if (!rc && p->key_file)
        rc = apikeys_read(p->key_file, &s->keys, e);
    s->metrics = metrics_new();
    return !rc && !s->metrics ? err_memory(e) : rc;
}

static void *tick(void *context) {
    struct server *s = context;
    struct timespec until;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        pthread_mutex_unlock(&s->lock);
        http_tick(s->http);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 250000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_mutex_lock(&s->lock);
        if (!s->stopping)
            pthread_cond_timedwait(&s->changed, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int check_options(const struct server *s, struct sonde_error *e) {
    if (!s->tokenizer)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "the model has no tokenizer.json, so it cannot be served");
    if (s->options.context > s->info.context)
        return err_set(e, SONDE_ERROR_ARGUMENT, "a context of %llu is more than the checkpoint's %u",
                       (unsigned long long)s->options.context, s->info.context);
    return SONDE_OK;
}

int server_open(sonde_model *model, const struct server_options *options, struct server **server,
                struct sonde_error *e) {
    struct server *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->model = model;
    s->tokenizer = sonde_model_tokenizer(model);
    s->began = clock_seconds();
    s->created = (int64_t)time(NULL);
    sonde_model_info(model, &s->info);
    s->context = options->context ? options->context : s->info.context;
    int rc = copy_options(s, options, e);
    rc = rc ? rc : check_options(s, e);
    if (!rc) {
        read_tokens(s);
        s->thinks =
            options->thinking == SERVER_THINKING_MODEL ? s->info.thinks != 0 : options->thinking == SERVER_THINKING_ON;
        rc = open_parts(s, e);
    }
    rc = rc ? rc : http_open(s, &s->http, e);
    if (!rc && thread_create(&s->ticker, tick, s))
        rc = err_system(e, "no thread can be made");
    else
        s->ticking = !rc;
    if (rc)
        server_close(s);
    else
        *server = s;
    return rc;
}

uint16_t server_port(const struct server *s) {
    return http_port(s->http);
}

/* ---------------------------------------------------------------------------------------------- running */

static bool is_idle(struct server *s) {
    pthread_mutex_lock(&s->lock);
    bool idle = s->task_count == 0;
    pthread_mutex_unlock(&s->lock);
    return idle;
}

void server_run(struct server *s) {
    while (sonde_scheduler_wait(s->scheduler))
        while (sonde_scheduler_step(s->scheduler) && atomic_load(&s->draining) < 2)
            ;
}

/* Waits until nothing runs, the time is over, or nobody wants to wait any more. */
static void *wait_drained(void *context) {
    struct server *s = context;
    double end = clock_seconds() + s->options.drain;
    const struct timespec pause = {.tv_nsec = 20000000};
    while (!is_idle(s) && clock_seconds() < end && atomic_load(&s->draining) < 2)
        nanosleep(&pause, NULL);
    atomic_store(&s->draining, 2);
    sonde_scheduler_stop(s->scheduler);
    return NULL;
}

void server_drain(struct server *s) {
    pthread_t thread;
    if (atomic_fetch_add(&s->draining, 1) > 0)
        return;
    http_quiesce(s->http);
    bool failed = thread_create(&thread, wait_drained, s) != 0;
    if (failed)
        wait_drained(s);
    else
        s->drainer = thread;
    s->drains = !failed;
}

int server_reload(struct server *s, struct sonde_error *e) {
    struct apikeys *fresh = NULL, *old;
    int rc = s->options.key_file ? apikeys_read(s->options.key_file, &fresh, e) : SONDE_OK;
    if (rc || !fresh)
        return rc;
    pthread_mutex_lock(&s->lock);
    old = s->keys;
    s->keys = fresh;
    pthread_mutex_unlock(&s->lock);
    apikeys_free(old);
    return SONDE_OK;
}

void server_close(struct server *s) {
    if (!s)
        return;
    if (s->drains)
        pthread_join(s->drainer, NULL);
    atomic_store(&s->draining, 2);
    http_finish(s->http);
    sonde_scheduler_close(s->scheduler);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->ticking)
        pthread_join(s->ticker, NULL);
    http_close(s->http);
    replay_close(s->replay);
    apikeys_free(s->keys);
    metrics_free(s->metrics);
    text_vocabulary_close(s->vocabulary);
    release_options(s);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
