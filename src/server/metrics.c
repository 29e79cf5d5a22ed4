/*
 * metrics.c - what a monitoring system reads at /metrics: counters and histograms in Prometheus' text format
 * (version 0.0.4), all under one lock that is held for nanoseconds.
 */
#include <stdlib.h>
#include <string.h>

#include "server/parts_internal.h"

enum { BOUNDS = 13, PATHS = 32, CODES = 16 };

static const double bounds[BOUNDS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600};

struct histogram {
    uint64_t buckets[BOUNDS + 1], count;
    double sum;
};

struct metrics {
    pthread_mutex_t lock;
    struct {
        const struct route *route;
        struct {
            int status;
            uint64_t count;
        } codes[CODES];
    } paths[PATHS];
    struct histogram seconds, first_token, gap;
};

struct metrics *metrics_new(void) {
    struct metrics *m = calloc(1, sizeof(*m));
    if (m)
        pthread_mutex_init(&m->lock, NULL);
    return m;
}

void metrics_free(struct metrics *m) {
    if (m)
        pthread_mutex_destroy(&m->lock);
    free(m);
}

static void observe(struct histogram *h, double x) {
    size_t i = 0;
    while (i < BOUNDS && x > bounds[i])
        i++;
    h->buckets[i]++;
    h->count++;
    h->sum += x;
}

static void count(struct metrics *m, const struct route *route, int status) {
    size_t i = 0, j = 0;
    while (i < PATHS - 1 && m->paths[i].route != route && m->paths[i].codes[0].count)
        i++;
    m->paths[i].route = route;
    while (j < CODES - 1 && m->paths[i].codes[j].status != status && m->paths[i].codes[j].count)
        j++;
    m->paths[i].codes[j].status = status;
    m->paths[i].codes[j].count++;
}

void metrics_record(struct metrics *m, const struct record *r) {
    pthread_mutex_lock(&m->lock);
    count(m, exchange_route(r->exchange), r->status);
    if (r->facts->prompt_tokens) {
        observe(&m->seconds, clock_seconds() - exchange_began(r->exchange));
        if (r->facts->first_token > 0)
            observe(&m->first_token, r->facts->first_token - exchange_began(r->exchange));
    }
    pthread_mutex_unlock(&m->lock);
}

void metrics_gap(struct metrics *m, double seconds) {
    pthread_mutex_lock(&m->lock);
    observe(&m->gap, seconds);
    pthread_mutex_unlock(&m->lock);
}

/* ------------------------------------------------------------------------------------------- writing */

static void write_head(struct buf *b, const char *name, const char *kind, const char *help) {
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static void write_histogram(struct buf *b, const struct histogram *h, const char *name, const char *help) {
    uint64_t sum = 0;
    write_head(b, name, "histogram", help);
    for (size_t i = 0; i < BOUNDS; i++) {
        sum += h->buckets[i];
        buf_printf(b, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)sum);
    }
    buf_printf(b, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name, (unsigned long long)h->count, name,
               h->sum, name, (unsigned long long)h->count);
}

static void write_number(struct buf *b, const char *name, const char *kind, const char *help, double value) {
    write_head(b, name, kind, help);
    buf_printf(b, "%s %.15g\n", name, value);
}

static void write_requests(struct buf *b, const struct metrics *m) {
    write_head(b, "sonde_requests_total", "counter", "Requests that are over, by path and status.");
    for (size_t i = 0; i < PATHS; i++)
        for (size_t j = 0; j < CODES; j++)
            if (m->paths[i].codes[j].count)
                buf_printf(b, "sonde_requests_total{path=\"%s\",status=\"%d\"} %llu\n",
                           m->paths[i].route ? m->paths[i].route->path : "none", m->paths[i].codes[j].status,
                           (unsigned long long)m->paths[i].codes[j].count);
}

static void write_scheduler(struct buf *b, const struct sonde_scheduler_status *now) {
    const struct {
        const char *name, *kind, *help;
        uint64_t value;
    } rows[] = {
        {"sonde_requests_active", "gauge", "Answers being read for or written.", now->active},
        {"sonde_requests_waiting", "gauge", "Answers waiting for room.", now->waiting},
        {"sonde_preemptions_total", "counter", "Times an answer went back to waiting.", now->preempted},
        {"sonde_steps_total", "counter", "Steps of the model.", now->steps},
        {"sonde_prompt_tokens_total", "counter", "Prompt tokens computed.", now->prompt_tokens},
        {"sonde_reused_tokens_total", "counter", "Prompt tokens taken from the cache.", now->reused_tokens},
        {"sonde_generated_tokens_total", "counter", "Tokens generated.", now->generated_tokens},
        {"sonde_drafted_tokens_total", "counter", "Tokens guessed ahead.", now->drafted},
        {"sonde_accepted_tokens_total", "counter", "Guesses that were right.", now->accepted},
        {"sonde_cache_pages", "gauge", "Pages that the cache may have.", now->cache_pages},
        {"sonde_cache_pages_used", "gauge", "Pages in use.", now->cache_pages_used},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        write_number(b, rows[i].name, rows[i].kind, rows[i].help, (double)rows[i].value);
}

void metrics_write(struct metrics *m, const struct server *s, struct buf *b) {
    struct sonde_scheduler_status now;
    sonde_scheduler_status(s->scheduler, &now);
    pthread_mutex_lock(&m->lock);
    write_requests(b, m);
    write_histogram(b, &m->seconds, "sonde_request_seconds", "From a request's last byte to its end.");
    write_histogram(b, &m->first_token, "sonde_first_token_seconds", "From a request's last byte to its first token.");
    write_histogram(b, &m->gap, "sonde_token_gap_seconds", "Between two tokens of an answer.");
    pthread_mutex_unlock(&m->lock);
    write_scheduler(b, &now);
    write_number(b, "sonde_uptime_seconds", "gauge", "Since the server began.", clock_seconds() - s->began);
}
