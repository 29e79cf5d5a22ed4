/*
 * sessions.c - what many sessions at once get from the scheduler: 1, 8 and 64 of them on one model.
 *
 * Every session has a random prompt of its own and writes a fixed number of tokens; all come at once. Of five rounds
 * the medians: tokens written a second by all together, the wait for the first token, and between tokens of an answer
 * that is being written. Memory is the most that was resident, and what of that the cache had in use.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/limits_internal.h"

enum { ROUNDS = 5, SESSIONS_MOST = 1024 };

struct options {
    struct device_flags device;
    uint64_t prompt, generate, sessions, chunk, step, cache, drafts;
};

struct one {
    double submitted, last, first, longest; /* seconds */
    uint64_t tokens;
    int code;
};

struct round {
    double seconds, first, longest, typical; /* worst first token and gap of any; mean gap */
};

static int take_token(void *context, int32_t id, const float *logits) {
    (void)logits;
    struct one *o = context;
    double now = clock_seconds();
    (void)id;
    if (!o->tokens++)
        o->first = now - o->submitted;
    else if (now - o->last > o->longest)
        o->longest = now - o->last;
    o->last = now;
    return 0;
}

static void take_end(void *context, int code, const struct sonde_generated *result, const struct sonde_error *error) {
    struct one *o = context;
    (void)result;
    o->code = code;
    if (code)
        notice("%s", error->message);
}

static int submit_all(sonde_scheduler *s, const struct options *o, uint64_t sessions, struct one *all, uint32_t vocab,
                      uint64_t seed, struct sonde_error *e) {
    struct rng random;
    int32_t *ids = malloc(o->prompt * sizeof(*ids));
    int rc = ids ? SONDE_OK : err_memory(e);
    rng_init(&random, seed);
    for (uint64_t i = 0; i < sessions && !rc; i++) {
        uint64_t id;
        struct sonde_request r = {.prompt = ids, .count = o->prompt, .done = take_end};
        for (uint64_t j = 0; j < o->prompt; j++)
            ids[j] = (int32_t)(rng_u64(&random) % vocab);
        all[i] = (struct one){.submitted = clock_seconds()};
        sonde_generation_default(&r.generation);
        r.generation.sampling.seed = i;
        r.generation.max_tokens = o->generate;
        r.generation.ignore_end = 1;
        r.generation.context = &all[i];
        r.generation.token = take_token;
        rc = sonde_scheduler_submit(s, &r, &id, e);
    }
    free(ids);
    return rc;
}

static int run_round(sonde_scheduler *s, const struct options *o, uint64_t sessions, uint32_t vocab, uint64_t seed,
                     struct round *round, struct sonde_error *e) {
    static struct one all[SESSIONS_MOST];
    double started = clock_seconds(), gaps = 0;
    int rc = submit_all(s, o, sessions, all, vocab, seed, e);
    while (!rc && sonde_scheduler_step(s))
        if (interrupted())
            return err_set(e, SONDE_ERROR_CANCELLED, "interrupted");
    *round = (struct round){.seconds = clock_seconds() - started};
    for (uint64_t i = 0; i < sessions && !rc; i++) {
        if (all[i].code || all[i].tokens != o->generate)
            rc = err_set(e, SONDE_ERROR_NUMERIC, "session %d wrote %d tokens", (int)i, (int)all[i].tokens);
        round->first = all[i].first > round->first ? all[i].first : round->first;
        round->longest = all[i].longest > round->longest ? all[i].longest : round->longest;
        if (o->generate > 1)
            gaps += (all[i].last - all[i].submitted - all[i].first) / (double)(o->generate - 1);
    }
    round->typical = gaps / (double)sessions;
    return rc;
}

static int measure(sonde_scheduler *s, const struct options *o, uint64_t sessions, uint32_t vocab, struct output *out,
                   struct sonde_error *e) {
    double seconds[ROUNDS], first[ROUNDS], longest[ROUNDS], typical[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        struct round r = {0};
        int rc = run_round(s, o, sessions, vocab, (uint64_t)i + 1, &r, e);
        if (rc)
            return rc;
        seconds[i] = r.seconds;
        first[i] = r.first;
        longest[i] = r.longest;
        typical[i] = r.typical;
    }
    struct rusage usage;
    struct sonde_scheduler_status status;
    struct buf b = {0};
    getrusage(RUSAGE_SELF, &usage);
    sonde_scheduler_status(s, &status);
    buf_printf(&b, "%8d %12.1f %12.3f %12.2f %12.2f %12.1f %10d %8d %8d\n", (int)sessions,
               (double)(sessions * o->generate) / median(seconds, ROUNDS), median(first, ROUNDS),
               1e3 * median(typical, ROUNDS), 1e3 * median(longest, ROUNDS), (double)usage.ru_maxrss / 1024,
               (int)status.preempted, (int)status.drafted, (int)status.accepted);
    output_buf(out, &b);
    return SONDE_OK;
}

static int run_all(const struct options *o, const char *path, struct sonde_error *e) {
    static const uint64_t sizes[] = {1, 8, 64};
    struct output out = {.fd = STDOUT_FILENO};
    struct sonde_model_options library;
    struct sonde_model_info info = {0};
    sonde_model *m = NULL;
    sonde_scheduler *s = NULL;
    struct buf head = {0};
    sonde_model_options_default(&library);
    device_from_flags(&o->device, &library);
    library.chunk_tokens = (uint32_t)o->chunk;
    library.cache_bytes = o->cache << 20;
    library.no_tokenizer = 1;
    struct sonde_scheduler_options options = {SESSIONS_MOST, (uint32_t)o->step, (uint32_t)o->drafts};
    int rc = sonde_model_open(path, &library, &m, e);
    rc = rc ? rc : sonde_scheduler_open(m, &options, &s, e);
    if (!rc) {
        sonde_model_info(m, &info);
        buf_printf(&head, "%8s %12s %12s %12s %12s %12s %10s %8s %8s\n", "sessions", "tokens/s", "first, s", "gap, ms",
                   "longest, ms", "resident MiB", "preempted", "guessed", "right");
        output_buf(&out, &head);
    }
    if (!rc && o->sessions)
        rc = measure(s, o, o->sessions, info.vocab, &out, e);
    for (size_t i = 0; i < COUNT_OF(sizes) && !rc && !o->sessions; i++)
        rc = measure(s, o, sizes[i], info.vocab, &out, e);
    sonde_scheduler_close(s);
    sonde_model_close(m);
    return rc;
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "prompt", .kind = FLAG_COUNT, .at = offsetof(struct options, prompt), .value = "N", .least = 1,
     .most = 1 << 20, .help = "tokens of each prompt (default 64)"},
    {.name = "generate", .kind = FLAG_COUNT, .at = offsetof(struct options, generate), .value = "N", .least = 1,
     .most = 1 << 20, .help = "tokens of each answer (default 64)"},
    {.name = "sessions", .kind = FLAG_COUNT, .at = offsetof(struct options, sessions), .value = "N", .least = 1,
     .most = SESSIONS_MOST, .help = "so many at once (default: 1, 8 and 64, one after another)"},
    {.name = "chunk", .kind = FLAG_COUNT, .at = offsetof(struct options, chunk), .value = "N", .least = 2,
     .most = 65536, .help = "most tokens of a step (default 256)"},
    {.name = "step", .kind = FLAG_COUNT, .at = offsetof(struct options, step), .value = "N",
     .most = 65536, .help = "most of a step while answers are written (default: the chunk)"},
    {.name = "cache", .kind = FLAG_COUNT, .at = offsetof(struct options, cache), .value = "N",
     .most = 1 << 24, .help = "MiB for the cache (default: half of memory)"},
    {.name = "drafts", .kind = FLAG_COUNT, .at = offsetof(struct options, drafts), .value = "N",
     .most = 3, .help = "tokens guessed ahead (default 0)"},
    DEVICE_FLAGS(struct options, device),
};
/* clang-format on */

static const struct command command = {
    .name = "sessions",
    .operands = "MODEL",
    .operands_least = 1,
    .operands_most = 1,
    .about = "Measures many sessions at once: tokens a second, waits, memory.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

int main(int argc, char **argv) {
    struct options o = {.prompt = 64, .generate = 64, .chunk = 256};
    const char *operands[1];
    struct sonde_error e;
    int status = flags_parse(&command, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    return run_all(&o, operands[0], &e) ? report(&e) : STATUS_DONE;
}
