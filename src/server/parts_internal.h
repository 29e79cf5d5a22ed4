/* parts_internal.h - what a server has beside its interfaces: keys, records of requests, metrics, remembered answers.
 */
#ifndef SERVER_PARTS_INTERNAL_H
#define SERVER_PARTS_INTERNAL_H

#include "server/server_internal.h"

/* ---------------------------------------------------------------------------------------------- keys */

/*
 * keys.c. A file of lines "KEY [name=NAME] [requests=N] [rpm=N] [tpm=N]": requests at once, requests a minute, tokens
 * a minute (read and written). Empty lines and lines that begin with # say nothing. A key is 8 to 256 characters
 * without spaces.
 */
struct apikeys;
struct apikey;

int apikeys_read(const char *path, struct apikeys **keys, struct sonde_error *e);
void apikeys_free(struct apikeys *k);

/* The key a client sent, held until apikey_drop(); NULL: none of these. Takes as long for any. */
struct apikey *apikeys_find(struct apikeys *k, const char *sent);
const char *apikey_name(const struct apikey *k);
void apikey_drop(struct apikey *k); /* NULL is allowed */

/* A request begins: 0, or seconds until it may, with *what naming the limit. apikey_end() is owed after 0. */
double apikey_begin(struct apikey *k, double now, const char **what);
void apikey_end(struct apikey *k);
void apikey_tokens(struct apikey *k, double now, uint64_t tokens); /* that a request took */

/* ------------------------------------------------------------------------------------------- records */

/* A request that is over. */
struct record {
    struct exchange *exchange;
    const char *method, *path, *peer;
    int status; /* 499: the client went away before */
    uint64_t bytes;
    double arrived;
    const struct exchange_facts *facts;
};

/* Into the log and the metrics. */
void server_record(struct server *s, const struct record *r);

void log_record(const struct server *s, const struct record *r); /* log.c */

/* metrics.c: counters and histograms, in Prometheus' text format (version 0.0.4). From any thread. */
struct metrics;
struct metrics *metrics_new(void); /* NULL: out of memory */
void metrics_free(struct metrics *m);
void metrics_record(struct metrics *m, const struct record *r);
void metrics_gap(struct metrics *m, double seconds); /* between two tokens of an answer */
void metrics_write(struct metrics *m, const struct server *s, struct buf *b);

/* -------------------------------------------------------------------------------------------- replay */

/*
 * replay.c: what answers were as ids when they were sampled, so that a conversation that comes back is the text that
 * was read before, to the last id, and nothing of it is read twice.
 *
 * An answer is found by a hash of what the client was given of it. With calls that is their ids, which nobody else
 * has; the client may then leave out the reasoning. Beyond the process it is kept in `answers` in the cache's
 * directory, a log that only grows until it is written anew; every record has a checksum, and what is damaged is
 * passed over.
 */
struct replay;

int replay_open(const char *directory /* NULL: memory alone */, void (*log)(void *context, const char *line),
                void *context, struct replay **r, struct sonde_error *e);
void replay_close(struct replay *r);

uint64_t replay_hash(uint64_t seed, const void *bytes, size_t count);
/* Remembers ids under a key, and a hash of all that the client was given, to tell whether it is sent back unchanged. */
void replay_put(struct replay *r, uint64_t key, uint64_t check, const int32_t *ids, size_t count);
/* Appends the ids to `ids`; false: not known, or not with this check. */
bool replay_get(struct replay *r, uint64_t key, uint64_t check, struct buf *ids);

/* -------------------------------------------------------------------------------------------- server */

struct server {
    struct server_options options; /* strings owned */
    sonde_model *model;
    const sonde_tokenizer *tokenizer;
    struct sonde_model_info info;
    struct text_vocabulary *vocabulary;
    sonde_scheduler *scheduler;
    struct http *http;
    struct metrics *metrics;
    struct replay *replay;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct apikeys *keys;
    struct task *tasks;
    uint32_t task_count;
    bool stopping;
    pthread_t ticker, drainer;
    bool ticking, drains;
    atomic_int draining; /* 1: no new work; 2: running work ends */
    uint64_t context;
    double began; /* clock_seconds() */
    int64_t created;
    int32_t think_end, dsml; /* ids of "</think>" and the mark of tool calls; -1: none */
    int32_t turn_ids[8];     /* that end an answer besides eos */
    size_t turn_count;
    bool thinks; /* where a request is silent */
};

#endif
