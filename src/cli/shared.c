/* shared.c - what several commands do the same way: open a model, find the bundled one, read lines of JSON. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

/* -------------------------------------------------------------------------------------- model */

uint64_t seed_random(void) {
    uint64_t seed;
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
    /* short enough to be typed again from --stats */
    return seed & UINT32_MAX;
}

static void fill_unset(float *flag, float value) {
    if (*flag < 0)
        *flag = value;
}

void sampling_resolve(struct sampling_flags *flags, const sonde_model *model) {
    struct sonde_sampling advice;
    sonde_model_sampling(model, &advice);
    fill_unset(&flags->temperature, advice.temperature);
    fill_unset(&flags->top_p, advice.top_p);
    fill_unset(&flags->min_p, advice.min_p);
    fill_unset(&flags->repetition, advice.repetition_penalty);
    if (flags->top_k == TOP_K_UNSET)
        flags->top_k = advice.top_k;
    if (flags->seed == SEED_RANDOM)
        flags->seed = seed_random();
}

void sampling_from_flags(const struct sampling_flags *flags, struct sonde_sampling *sampling) {
    sonde_sampling_default(sampling);
    sampling->temperature = flags->greedy ? 0 : flags->temperature;
    sampling->top_k = (uint32_t)flags->top_k;
    sampling->top_p = flags->top_p;
    sampling->min_p = flags->min_p;
    sampling->repetition_penalty = flags->repetition;
    sampling->presence_penalty = flags->presence;
    sampling->frequency_penalty = flags->frequency;
    sampling->seed = flags->seed;
}

/* "PREFIX/SUFFIX" into b; true if a model is there. */
static bool model_at(struct buf *b, const char *prefix, const char *suffix) {
    struct buf config = {0};
    file_join(b, prefix, suffix);
    if (!b->failed)
        file_join(&config, b->data, "config.json");
    bool found = config.data && file_exists(config.data);
    buf_release(&config);
    return found;
}

int bundled_model(struct buf *b, struct sonde_error *e) {
    const char *chosen = getenv("SONDE_MODEL");
    char program[4096];
    buf_clear(b);
    if (chosen && *chosen) {
        buf_string(b, chosen);
        return b->failed ? err_memory(e) : SONDE_OK;
    }
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (n > 0) {
        program[n] = 0;
        char *slash = strrchr(program, '/');
        *slash = 0;
        if (model_at(b, program, "../models/nano") || model_at(b, program, "../share/sonde/models/nano"))
            return SONDE_OK;
    }
    if (model_at(b, SONDE_DATA_DIRECTORY, "models/nano"))
        return SONDE_OK;
    return err_set(e, SONDE_ERROR_IO, "the bundled model was not found; name a model directory or set SONDE_MODEL");
}

void device_from_flags(const struct device_flags *flags, struct sonde_model_options *options) {
    options->threads = (uint32_t)flags->threads;
    options->level = flags->level ? kernel_level_name((enum kernel_level)(flags->level - 1)) : NULL;
    options->invariant = flags->invariant;
}

static void log_line(void *context, const char *line) {
    (void)context;
    notice("%s", line);
}

static int open_both(const char *path, const struct model_flags *flags, sonde_model **model, sonde_session **session,
                     struct sonde_error *e) {
    struct sonde_model_options options;
    struct sonde_session_options session_options;
    sonde_model_options_default(&options);
    options.precision = (enum sonde_precision)flags->precision;
    options.chunk_tokens = (uint32_t)flags->chunk;
    options.cache_bytes = flags->cache_memory << 20;
    options.cache_disk_bytes = flags->cache_disk << 30;
    options.cache_directory = flags->cache_directory;
    options.released_decode = flags->released_decode;
    options.log = log_line;
    device_from_flags(&flags->device, &options);
    sonde_session_options_default(&session_options);
    session_options.context = flags->context;
    int rc = sonde_model_open(path, &options, model, e);
    if (rc)
        return rc;
    if (!sonde_model_tokenizer(*model))
        rc = err_set(e, SONDE_ERROR_UNSUPPORTED, "%s: has no tokenizer.json, so it cannot read or write text", path);
    if (!rc && session)
        rc = sonde_session_open(*model, &session_options, session, e);
    if (rc)
        sonde_model_close(*model);
    return rc;
}

int model_open_flags(const char *path, const struct model_flags *flags, sonde_model **model, sonde_session **session) {
    struct sonde_error e;
    struct buf bundled = {0};
    int rc = path ? SONDE_OK : bundled_model(&bundled, &e);
    if (!rc)
        rc = open_both(path ? path : bundled.data, flags, model, session, &e);
    buf_release(&bundled);
    return rc ? report(&e) : STATUS_DONE;
}

/* -------------------------------------------------------------------------------------- jsonl */

/* Writes `value` as a line. */
static int write_line(struct output *out, const json_t *value, struct sonde_error *e) {
    char *text = json_dumps(value, JSON_COMPACT);
    if (!text)
        return err_memory(e);
    struct buf b = {0};
    buf_string(&b, text);
    buf_byte(&b, '\n');
    free(text);
    output_buf(out, &b);
    return SONDE_OK;
}

int chat_format_of(const char *directory, enum sonde_chat_format *format) {
    struct sonde_error e;
    *format = SONDE_CHAT_V4;
    return directory && sonde_chat_format_read(directory, format, &e) ? report(&e) : STATUS_DONE;
}

int jsonl_object(const char *text, size_t bytes, json_t **object, struct sonde_error *e) {
    int rc = json_parse(text, bytes, "", object, NULL);
    if (!rc && !json_is_object(*object)) {
        json_decref(*object);
        *object = NULL;
        rc = SONDE_ERROR_FORMAT;
    }
    return rc == SONDE_ERROR_MEMORY ? err_memory(e) : rc ? err_set(e, rc, "not a JSON object") : SONDE_OK;
}

int jsonl_each(int (*line)(void *context, const char *text, size_t bytes, json_t **out, struct sonde_error *e),
               void *context) {
    struct output out = {.fd = STDOUT_FILENO};
    struct sonde_error e;
    char *text = NULL;
    size_t size = 0;
    unsigned long number = 0;
    int rc = SONDE_OK;
    ssize_t n;
    while (!rc && !out.why && (errno = 0, n = getline(&text, &size, stdin)) >= 0) {
        json_t *answer = NULL;
        number++;
        rc = line(context, text, (size_t)n, &answer, &e);
        if (!rc)
            rc = write_line(&out, answer, &e);
        json_decref(answer);
    }
    if (rc)
        notice("standard input: line %lu: %s", number, e.message);
    else if (ferror(stdin) || errno == ENOMEM)
        notice("standard input: %s", strerror(errno));
    bool failed = rc || ferror(stdin) || errno == ENOMEM;
    free(text);
    int status = output_status(&out);
    return failed ? STATUS_WORLD : status;
}

int json_text(const json_t *object, const char *name, const char **text, size_t *bytes, struct sonde_error *e) {
    const json_t *value = json_object_get(object, name);
    if (!json_is_string(value))
        return err_set(e, SONDE_ERROR_FORMAT, "field %s: %s", name, value ? "not a string" : "missing");
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return SONDE_OK;
}
