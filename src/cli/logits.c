/*
 * logits.c - `sonde logits`: the logits after every token of a text, into a safetensors file.
 *
 * Rows are written as they come; only the rows of multi-token prediction wait in memory, since a file
 * holds one tensor after the other.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "cli/cli.h"

#define IDS_MOST ((size_t)1 << 28) /* bytes of an ids file */

struct logits_options {
    const char *ids, *out;
    int precision;
    uint64_t chunk, decode_from;
    bool released_decode;
    struct device_flags device;
    bool mtp;
};

/* ------------------------------------------------------------------------------------------- ids */

static bool blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int parse_id(const char *word, size_t length, uint32_t vocab, int32_t *id) {
    uint64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (word[i] < '0' || word[i] > '9')
            return -1;
        value = 10 * value + (uint64_t)(word[i] - '0');
        if (value >= vocab)
            return -1;
    }
    *id = (int32_t)value;
    return 0;
}

/* Token ids below `vocab`, separated by white space, appended to ids as int32_t. */
static int parse_ids(const char *name, const struct buf *text, uint32_t vocab, struct buf *ids, struct sonde_error *e) {
    unsigned long line = 1, word = 0;
    const char *at = text->data, *end = at + text->len;
    while (at < end) {
        if (blank(*at)) {
            if (*at++ == '\n') {
                line++;
                word = 0;
            }
            continue;
        }
        const char *start = at;
        int32_t id;
        while (at < end && !blank(*at))
            at++;
        word++;
        if (parse_id(start, (size_t)(at - start), vocab, &id))
            return err_set(e, SONDE_ERROR_FORMAT, "%s: line %lu, word %lu: '%.*s' is not a token id below %u", name,
                           line, word, (int)min_u64((uint64_t)(at - start), 40), start, vocab);
        buf_append(ids, &id, sizeof(id));
    }
    if (!ids->len && !ids->failed)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: holds no token ids", name);
    return ids->failed ? err_memory(e) : SONDE_OK;
}

/* ------------------------------------------------------------------------------------------- rows */

struct rows {
    struct safetensors_writer *writer;
    size_t row_bytes;
    uint64_t count; /* of logits so far */
    uint8_t *mtp;   /* NULL: not wanted */
    uint64_t mtp_count;
    struct progress progress;
    size_t before, total;   /* tokens fed by earlier calls, and altogether */
    int rc;                 /* of a callback that failed */
    struct sonde_error why; /* its own, since the call it ends tells of the end in its */
};

static int on_logits(void *context, uint64_t position, const float *logits) {
    struct rows *r = context;
    if (!r->rc && position != r->count)
        r->rc = err_set(&r->why, SONDE_ERROR_ARGUMENT, "logits came out of order");
    if (!r->rc)
        r->rc = safetensors_append(r->writer, logits, r->row_bytes, &r->why);
    r->count++;
    return r->rc || interrupted();
}

static int on_mtp(void *context, uint64_t position, const float *logits) {
    struct rows *r = context;
    if (r->mtp && position + 1 < r->total) {
        memcpy(r->mtp + position * r->row_bytes, logits, r->row_bytes);
        r->mtp_count++;
    }
    return 0;
}

static int on_progress(void *context, size_t done, size_t total) {
    struct rows *r = context;
    (void)total;
    progress_step(&r->progress, r->before + done, r->total);
    return interrupted();
}

/* Feeds tokens from..to at once. */
static int observe(struct rows *r, sonde_session *session, const int32_t *ids, size_t from, size_t to,
                   struct sonde_error *e) {
    struct sonde_observer observer = {.context = r, .logits = on_logits, .mtp = on_mtp, .progress = on_progress};
    r->before = from;
    int rc = from < to ? sonde_session_observe(session, ids + from, to - from, &observer, e) : SONDE_OK;
    if (r->rc && e)
        *e = r->why;
    return r->rc ? r->rc : rc;
}

static int feed(const struct logits_options *o, struct rows *r, sonde_session *session, const int32_t *ids,
                struct sonde_error *e) {
    size_t from = (size_t)min_u64(o->decode_from, r->total);
    int rc = observe(r, session, ids, 0, from, e);
    for (size_t i = from; !rc && i < r->total; i++)
        rc = observe(r, session, ids, i, i + 1, e);
    if (!rc && r->mtp)
        rc = safetensors_append(r->writer, r->mtp, (r->total - 1) * r->row_bytes, e);
    return rc;
}

static int write_file(const struct logits_options *o, sonde_session *session, const struct buf *ids, uint32_t vocab,
                      struct sonde_error *e) {
    size_t count = ids->len / sizeof(int32_t);
    struct rows r = {.row_bytes = vocab * sizeof(float), .total = count};
    const struct tensor_spec specs[] = {
        {.name = "logits", .dtype = DTYPE_F32, .rank = 2, .dims = {count, vocab}},
        {.name = "mtp", .dtype = DTYPE_F32, .rank = 2, .dims = {count - 1, vocab}},
    };
    if (o->mtp) {
        r.mtp = calloc(count, r.row_bytes);
        if (!r.mtp)
            return err_memory(e);
    }
    interrupt_arm_all(); /* else the temporary file would stay behind */
    int rc = safetensors_create(o->out, specs, o->mtp ? 2 : 1, &r.writer, e);
    if (rc)
        goto out;
    progress_init(&r.progress, "computing");
    rc = feed(o, &r, session, (const int32_t *)(const void *)ids->data, e);
    progress_end(&r.progress);
    if (rc)
        safetensors_cancel(r.writer);
    else
        rc = safetensors_finish(r.writer, e);
out:
    interrupt_disarm();
    free(r.mtp);
    return rc;
}

/* ---------------------------------------------------------------------------------------- command */

static int with_model(const struct logits_options *o, sonde_model *model, struct sonde_error *e) {
    struct sonde_model_info info;
    struct sonde_session_options options;
    sonde_session *session = NULL;
    struct buf text = {0}, ids = {0};
    sonde_model_info(model, &info);
    int rc = file_read_input(o->ids, IDS_MOST, &text, e);
    if (!rc)
        rc = parse_ids(strcmp(o->ids, "-") ? o->ids : "standard input", &text, info.vocab, &ids, e);
    buf_release(&text);
    sonde_session_options_default(&options);
    options.context = ids.len / sizeof(int32_t);
    options.mtp = o->mtp;
    if (!rc)
        rc = sonde_session_open(model, &options, &session, e);
    if (!rc)
        rc = write_file(o, session, &ids, info.vocab, e);
    sonde_session_close(session);
    buf_release(&ids);
    return rc;
}

static int logits(int argc, char **argv) {
    struct logits_options o = {.precision = SONDE_PRECISION_F32, .chunk = 256, .decode_from = UINT64_MAX};
    struct sonde_model_options options;
    struct sonde_error e;
    sonde_model *model;
    const char *operands[1];
    int status = flags_parse(&command_logits, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (!o.ids || !o.out)
        return usage_error("logits", "--%s is missing", o.ids ? "out" : "ids");
    sonde_model_options_default(&options);
    options.precision = (enum sonde_precision)o.precision;
    options.chunk_tokens = (uint32_t)o.chunk;
    options.released_decode = o.released_decode;
    options.no_tokenizer = 1;
    device_from_flags(&o.device, &options);
    if (sonde_model_open(operands[0], &options, &model, &e))
        return report(&e);
    int rc = with_model(&o, model, &e);
    sonde_model_close(model);
    if (!rc)
        return STATUS_DONE;
    return interrupted() ? interrupt_status() : report(&e);
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "ids", .kind = FLAG_STRING, .at = offsetof(struct logits_options, ids), .value = "FILE",
     .help = "token ids as text, separated by white space"},
    {.name = "out", .kind = FLAG_STRING, .at = offsetof(struct logits_options, out), .value = "FILE",
     .help = "safetensors file to write"},
    {.name = "precision", .kind = FLAG_CHOICE, .at = offsetof(struct logits_options, precision),
     .value = PRECISION_CHOICES, .help = "what is rounded on the way (default f32)"},
    CHUNK_FLAG(struct logits_options, chunk),
    {.name = "decode-from", .kind = FLAG_COUNT, .at = offsetof(struct logits_options, decode_from), .value = "P",
     .most = UINT32_MAX, .help = "feed the tokens from P on one by one"},
    {.name = "mtp", .kind = FLAG_SWITCH, .at = offsetof(struct logits_options, mtp),
     .help = "multi-token prediction too"},
    RELEASED_DECODE_FLAG(struct logits_options, released_decode),
    DEVICE_FLAGS(struct logits_options, device),
};
/* clang-format on */

const struct command command_logits = {
    .name = "logits",
    .operands = "MODEL",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "logits of every token of a text, to a file",
    .about = "Feeds the ids and writes tensor logits, F32 [tokens, vocabulary], row i computed after token\n"
             "i; with --mtp also tensor mtp, F32 [tokens - 1, vocabulary], row i predicted from tokens\n"
             "i and i + 1. The file appears under its name only when it is whole.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = logits,
};
