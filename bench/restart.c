/*
 * restart.c - how soon a long conversation goes on after the program was started again: its first token from what is on
 * disk, against reading it all.
 *
 *     cold      a new model without a directory reads the conversation and the next question
 *     kept      it is read once with the directory, and remembered
 *     again     the model is closed and opened again; the question comes behind the conversation
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"

struct options {
    struct device_flags device;
    uint64_t tokens, question, chunk;
    const char *directory;
};

/* Seconds from the ids to the logits of what comes next; opening counts apart. */
static int read_ids(const struct options *o, const char *path, const char *directory, const int32_t *ids, size_t count,
                    bool keep, double *opening, double *seconds, size_t *reused, struct sonde_error *e) {
    struct sonde_model_options library;
    sonde_model *m = NULL;
    sonde_session *s = NULL;
    double started = clock_seconds();
    sonde_model_options_default(&library);
    device_from_flags(&o->device, &library);
    library.chunk_tokens = (uint32_t)o->chunk;
    library.cache_directory = directory;
    library.cache_disk_bytes = 64ull << 30;
    library.no_tokenizer = 1;
    int rc = sonde_model_open(path, &library, &m, e);
    rc = rc ? rc : sonde_session_open(m, NULL, &s, e);
    *opening = clock_seconds() - started;
    started = clock_seconds();
    rc = rc ? rc : sonde_session_recall(s, ids, count, reused, e);
    if (!rc && *reused < count)
        rc = sonde_session_feed(s, ids + *reused, count - *reused, e);
    *seconds = clock_seconds() - started;
    if (!rc && keep)
        sonde_session_keep(s);
    sonde_session_close(s);
    sonde_model_close(m);
    return rc;
}

static int measure(const struct options *o, const char *path, struct sonde_error *e) {
    struct sonde_model_info info;
    struct sonde_model_options library;
    sonde_model *m;
    struct rng random;
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    size_t all = o->tokens + o->question, reused;
    double opening, cold = 0, kept = 0, again = 0;
    sonde_model_options_default(&library);
    library.no_tokenizer = 1;
    int rc = sonde_model_open(path, &library, &m, e);
    if (rc)
        return rc;
    sonde_model_info(m, &info);
    sonde_model_close(m);
    int32_t *ids = malloc(all * sizeof(*ids));
    if (!ids)
        return err_memory(e);
    rng_init(&random, 1);
    for (size_t i = 0; i < all; i++)
        ids[i] = (int32_t)(rng_u64(&random) % info.vocab);
    rc = read_ids(o, path, o->directory, ids, o->tokens, true, &opening, &kept, &reused, e);
    rc = rc ? rc : read_ids(o, path, NULL, ids, all, false, &opening, &cold, &reused, e);
    buf_printf(&b, "cold     %10.3f s for %zu tokens, all read\n", cold, all);
    buf_printf(&b, "kept     %10.3f s for %zu tokens\n", kept, (size_t)o->tokens);
    for (int i = 0; i < 5 && !rc; i++) {
        rc = read_ids(o, path, o->directory, ids, all, false, &opening, &again, &reused, e);
        buf_printf(&b, "again    %10.3f s, %zu tokens reused; opened in %.3f s; %.0f times as fast as cold\n", again,
                   reused, opening, cold / again);
    }
    if (!rc)
        output_buf(&out, &b);
    buf_release(&b);
    free(ids);
    return rc;
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "tokens", .kind = FLAG_COUNT, .at = offsetof(struct options, tokens), .value = "N", .least = 1,
     .most = 1 << 20, .help = "of the conversation (default 100000)"},
    {.name = "question", .kind = FLAG_COUNT, .at = offsetof(struct options, question), .value = "N", .least = 1,
     .most = 1 << 20, .help = "tokens behind it (default 16)"},
    {.name = "chunk", .kind = FLAG_COUNT, .at = offsetof(struct options, chunk), .value = "N", .least = 1,
     .most = 65536, .help = "tokens of a step (default 2048)"},
    {.name = "directory", .kind = FLAG_STRING, .at = offsetof(struct options, directory), .value = "DIR",
     .help = "where it is kept; should be empty (default: restart-cache)"},
    DEVICE_FLAGS(struct options, device),
};
/* clang-format on */

static const struct command command = {
    .name = "restart",
    .operands = "MODEL",
    .operands_least = 1,
    .operands_most = 1,
    .about = "Measures how soon a long conversation goes on after a restart.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

int main(int argc, char **argv) {
    struct options o = {.tokens = 100000, .question = 16, .chunk = 2048, .directory = "restart-cache"};
    const char *operands[1];
    struct sonde_error e;
    int status = flags_parse(&command, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    return measure(&o, operands[0], &e) ? report(&e) : STATUS_DONE;
}
