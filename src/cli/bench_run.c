/*
 * bench_run.c - the measuring of `sonde bench`.
 *
 *     warm up    the prompt, and on to 512 tokens, which meet nearly every expert: weights come into memory here
 *     prefill    the prompt from nothing, five times; only its last token's logits are computed
 *     decode     one token a step for each of `batch` sequences after `context` tokens, in five groups
 *
 * with a sample of the machine's limits after each. Token ids are random, and the same every time; sequence i of a
 * batch reads the same ids from the i-th on. Like `sonde logits` this looks below the public header: a step takes
 * several sequences, and tells which experts its tokens chose.
 */
#include <stdlib.h>
#include <string.h>

#include "bench_internal.h"
#include "limits_internal.h"

enum { REPEATS = 5, CHUNK_MOST = 4096, CONTEXT_CHUNK = 2048, WARM_TOKENS = 512, WARM_SECONDS = 20 };

struct bench {
    const struct bench_options *o;
    struct bench_result *r;
    struct checkpoint *checkpoint;
    const struct shape *shape;
    struct device *device;
    struct model *model;
    struct limits *limits;
    struct sequence **sequences; /* [batch] */
    struct model_span *spans;    /* [batch] */
    int32_t *ids;                /* [longest + batch] */
    uint64_t longest;            /* tokens of the longest sequence */
    uint64_t context_chunk;
    uint64_t decoded; /* tokens of a sequence that are decoded: groups of equal size */
    struct bench_count count;
    uint8_t *chosen;           /* [experts]: by the step in work */
    uint64_t distinct, layers; /* experts chosen, summed over so many layers of steps */
    struct progress progress;
    uint64_t done, total; /* tokens */
};

/* ------------------------------------------------------------------------------------------ steps */

static void nobody_looks(void *context, uint32_t span, uint64_t position, const float *logits) {
    (void)context, (void)span, (void)position, (void)logits;
}

static void count_experts(void *context, uint32_t layer, uint32_t rows, const int32_t *experts) {
    struct bench *b = context;
    (void)layer;
    memset(b->chosen, 0, b->shape->experts);
    for (uint64_t i = 0; i < (uint64_t)rows * b->shape->active; i++) {
        b->distinct += !b->chosen[experts[i]];
        b->chosen[experts[i]] = 1;
    }
    b->layers++;
}

/* Distinct experts a step and layer since the last call. */
static double mean_experts(struct bench *b) {
    double mean = b->layers ? (double)b->distinct / (double)b->layers : 0;
    b->distinct = b->layers = 0;
    return mean;
}

static int step(struct bench *b, uint32_t spans, bool logits, struct sonde_error *e) {
    struct model_outputs outputs = {.context = b, .logits = logits ? nobody_looks : NULL, .route = count_experts};
    if (interrupted())
        return err_set(e, SONDE_ERROR_CANCELLED, "interrupted");
    int rc = model_step(b->model, b->spans, spans, &outputs, e);
    for (uint32_t i = 0; i < spans; i++)
        b->done += b->spans[i].count;
    progress_step(&b->progress, min_u64(b->done, b->total), b->total);
    return rc;
}

/* Feeds sequence i up to `length` tokens. */
static int feed(struct bench *b, uint32_t i, uint64_t length, uint64_t chunk, struct sonde_error *e) {
    struct sequence *sequence = b->sequences[i];
    int rc = SONDE_OK;
    for (uint64_t at = sequence_length(sequence); at < length && !rc; at = sequence_length(sequence)) {
        uint64_t count = min_u64(chunk, length - at);
        b->spans[0] = (struct model_span){.sequence = sequence, .ids = b->ids + i + at, .count = (uint32_t)count};
        rc = step(b, 1, at + count == length, e);
    }
    return rc;
}

/* A sequence that has read some whole pages becomes one of `length` tokens, whose pages are copies of those. */
static int repeat_pages(struct bench *b, uint32_t i, uint64_t length, struct sonde_error *e) {
    struct snapshot *read, *longer = NULL;
    const void *rest;
    size_t rest_bytes;
    void *page = malloc(model_page_bytes(b->model) + 1);
    int rc = page ? snapshot_take(b->sequences[i], NULL, &read, e) : err_memory(e);
    if (rc) {
        free(page);
        return rc;
    }
    struct snapshot_header h = *snapshot_parts(read, &rest, &rest_bytes);
    uint64_t there = snapshot_pages(read);
    h.length = length;
    rc = snapshot_from_bytes(b->model, &h, rest, rest_bytes, &longer, e);
    for (uint64_t n = 0; n < model_page_count(b->model, length) && !rc; n++) {
        snapshot_page(read, (uint32_t)(n % there), page);
        if (!snapshot_add_page(longer, page))
            rc = err_set(e, SONDE_ERROR_MEMORY, "out of memory: the cache has no room for %llu tokens",
                         (unsigned long long)length);
    }
    rc = rc ? rc : snapshot_resume(longer, b->ids + i, b->sequences[i], e);
    snapshot_drop(longer);
    snapshot_drop(read);
    free(page);
    return rc;
}

/* The context of sequence i: read, all of it or whole pages up to what was asked for, which are repeated then. */
static int feed_context(struct bench *b, uint32_t i, struct sonde_error *e) {
    uint64_t page = model_page_tokens(b->model), context = b->r->context;
    uint64_t read = b->o->read ? ceil_div(b->o->read, page) * page : context;
    if (read >= context)
        return feed(b, i, context, b->context_chunk, e);
    int rc = feed(b, i, read, b->context_chunk, e);
    return rc ? rc : repeat_pages(b, i, context, e);
}

/* Adds a token to each sequence. */
static int decode(struct bench *b, struct sonde_error *e) {
    for (uint32_t i = 0; i < b->o->batch; i++)
        b->spans[i] = (struct model_span){
            .sequence = b->sequences[i], .ids = b->ids + i + sequence_length(b->sequences[i]), .count = 1};
    return step(b, (uint32_t)b->o->batch, true, e);
}

/* -------------------------------------------------------------------------------------- measuring */

/* Tokens beyond the prompt are left if they take long. */
static int warm_up(struct bench *b, struct sonde_error *e) {
    double started = clock_seconds();
    uint64_t least = min_u64(WARM_TOKENS, b->longest);
    int rc = feed(b, 0, b->o->prompt, b->r->chunk, e);
    while (!rc && sequence_length(b->sequences[0]) < least && clock_seconds() - started < WARM_SECONDS)
        rc = feed(b, 0, min_u64(least, sequence_length(b->sequences[0]) + b->r->chunk), b->r->chunk, e);
    mean_experts(b);
    return rc;
}

static int measure_prefill(struct bench *b, struct sonde_error *e) {
    const struct bench_options *o = b->o;
    double seconds[REPEATS], chunks = (double)ceil_div(o->prompt, b->r->chunk);
    int rc = SONDE_OK;
    for (int i = 0; i < REPEATS && !rc; i++) {
        limits_measure(b->limits);
        sequence_reset(b->sequences[0]);
        double started = clock_seconds();
        rc = feed(b, 0, o->prompt, b->r->chunk, e);
        seconds[i] = clock_seconds() - started;
    }
    if (rc)
        return rc;
    b->r->prefill_seconds = median(seconds, REPEATS);
    b->r->prefill_experts = mean_experts(b);
    /* every chunk reads the layers, the last one the head too */
    b->r->prefill_bytes = chunks * bench_weight_bytes(&b->count, b->shape, b->r->prefill_experts, 0) -
                          (chunks - 1) * (double)b->count.head_bytes + (double)(o->prompt * b->count.row_bytes);
    b->r->prefill_flops = 2 * (double)b->count.head_products;
    for (uint64_t at = 0; at < o->prompt; at++)
        b->r->prefill_flops += bench_token_flops(&b->count, b->shape, at);
    return SONDE_OK;
}

static int measure_decode(struct bench *b, struct sonde_error *e) {
    double seconds[REPEATS], cache = 0;
    uint64_t group = b->decoded / REPEATS, context = b->r->context;
    int rc = SONDE_OK;
    if (sequence_length(b->sequences[0]) > context)
        sequence_reset(b->sequences[0]);
    for (uint32_t i = 0; i < b->o->batch && !rc; i++)
        rc = feed_context(b, i, e);
    mean_experts(b);
    for (int i = 0; i < REPEATS && !rc; i++) {
        limits_measure(b->limits);
        double started = clock_seconds();
        for (uint64_t k = 0; k < group && !rc; k++)
            rc = decode(b, e);
        seconds[i] = (clock_seconds() - started) / (double)group;
    }
    if (rc)
        return rc;
    b->r->decode_seconds = median(seconds, REPEATS);
    b->r->decode_experts = mean_experts(b);
    for (uint64_t at = context; at < context + b->decoded; at++)
        cache += (double)bench_cache_bytes(b->shape, (enum sonde_precision)b->o->precision, at) / (double)b->decoded;
    b->r->decode_bytes =
        bench_weight_bytes(&b->count, b->shape, b->r->decode_experts, b->o->batch) / (double)b->o->batch + cache;
    return SONDE_OK;
}

static int measure(struct bench *b, struct sonde_error *e) {
    int rc = warm_up(b, e);
    limits_measure(b->limits);
    if (!rc)
        rc = measure_prefill(b, e);
    if (!rc)
        rc = measure_decode(b, e);
    if (rc)
        return rc;
    limits_measure(b->limits);
    limits_measure(b->limits);
    b->r->threads = limits_threads(b->limits);
    b->r->limit_samples = limits_samples(b->limits);
    b->r->read_bandwidth = limits_read_bandwidth(b->limits);
    b->r->peak_flops = limits_peak_flops(b->limits);
    return SONDE_OK;
}

/* -------------------------------------------------------------------------------- open and close */

/* Lengths of everything, from what was asked for. */
static int plan(struct bench *b, const char *path, struct sonde_error *e) {
    const struct bench_options *o = b->o;
    struct bench_result *r = b->r;
    r->context = o->context ? o->context : o->prompt;
    r->chunk = min_u64(o->prompt, o->chunk ? o->chunk : CHUNK_MOST);
    b->context_chunk = min_u64(r->context, o->chunk ? o->chunk : o->context ? CONTEXT_CHUNK : r->chunk);
    b->decoded = REPEATS * ceil_div(o->generate, REPEATS);
    b->longest = max_u64(o->prompt, r->context + b->decoded);
    if (b->longest > b->shape->context)
        return err_set(e, SONDE_ERROR_CONTEXT, "%s: holds %llu tokens, fewer than the %llu to be measured", path,
                       (unsigned long long)b->shape->context, (unsigned long long)b->longest);
    b->longest = max_u64(b->longest, min_u64(WARM_TOKENS, b->shape->context));
    b->total = max_u64(o->prompt, WARM_TOKENS) + REPEATS * o->prompt +
               o->batch * ((o->read ? min_u64(o->read, r->context) : r->context) + b->decoded);
    return SONDE_OK;
}

static int count(struct bench *b, struct sonde_error *e) {
    uint64_t growing;
    for (size_t i = 0; i < checkpoint_count(b->checkpoint); i++)
        bench_count_add(&b->count, checkpoint_at(b->checkpoint, i), b->shape);
    int rc = model_cache_bytes(b->shape, (enum sonde_precision)b->o->precision, b->shape->context,
                               &b->r->cache_fixed_bytes, &growing, e);
    if (!rc)
        b->r->cache_bytes_per_token = (double)growing / (double)b->shape->context;
    return rc;
}

static int allocate(struct bench *b, struct sonde_error *e) {
    struct rng random;
    uint64_t ids = b->longest + b->o->batch;
    b->sequences = calloc(b->o->batch, sizeof(*b->sequences));
    b->spans = calloc(b->o->batch, sizeof(*b->spans));
    b->ids = malloc(ids * sizeof(*b->ids));
    b->chosen = malloc(b->shape->experts);
    if (!b->sequences || !b->spans || !b->ids || !b->chosen)
        return err_memory(e);
    rng_init(&random, 1);
    for (uint64_t i = 0; i < ids; i++)
        b->ids[i] = (int32_t)(rng_u64(&random) % b->shape->vocab);
    int rc = SONDE_OK;
    for (uint32_t i = 0; i < b->o->batch && !rc; i++)
        rc = sequence_open(b->model, b->longest, false, &b->sequences[i], e);
    return rc;
}

static int open_all(struct bench *b, const char *path, struct sonde_error *e) {
    const struct bench_options *o = b->o;
    struct sonde_model_options library = {0};
    device_from_flags(&o->device, &library);
    int rc = checkpoint_open(path, &b->checkpoint, e);
    if (rc)
        return rc;
    b->shape = checkpoint_shape(b->checkpoint);
    rc = plan(b, path, e);
    struct device_cpu_options cpu = {
        .threads = library.threads, .level = library.level, .invariant = library.invariant};
    if (!rc)
        rc = device_cpu_open(&cpu, &b->device, e);
    uint64_t rows = max_u64(max_u64(b->r->chunk, b->context_chunk), o->batch);
    struct model_options model = {
        .precision = (enum sonde_precision)o->precision, .rows = (uint32_t)rows, .context = b->longest};
    if (!rc)
        rc = model_open(b->checkpoint, b->device, &model, &b->model, e);
    b->r->level = o->device.level ? (enum kernel_level)(o->device.level - 1) : kernel_level_best();
    if (!rc)
        rc = limits_open(b->r->level, library.threads, &b->limits, e);
    if (!rc)
        rc = count(b, e);
    return rc ? rc : allocate(b, e);
}

static void close_all(struct bench *b) {
    for (uint64_t i = 0; b->sequences && i < b->o->batch; i++)
        sequence_close(b->sequences[i]);
    free(b->sequences);
    free(b->spans);
    free(b->ids);
    free(b->chosen);
    limits_close(b->limits);
    model_close(b->model);
    if (b->device)
        b->device->ops->close(b->device);
    checkpoint_close(b->checkpoint);
}

int bench_measure(const char *path, const struct bench_options *o, struct bench_result *r, struct sonde_error *e) {
    struct bench b = {.o = o, .r = r};
    *r = (struct bench_result){0};
    progress_init(&b.progress, "measuring");
    int rc = open_all(&b, path, e);
    if (!rc)
        rc = measure(&b, e);
    progress_end(&b.progress);
    close_all(&b);
    return rc;
}
