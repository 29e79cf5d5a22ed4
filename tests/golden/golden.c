/* golden.c - see golden.h. */
#include "golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *const golden_cases[] = {"flash",   "pro",          "base-fp8",  "bf16",
                                    "sliding", "flash-engram", "v41-flash", "v41-text"};

static void *zeroed(size_t count, size_t size) {
    void *memory = calloc(count, size);
    assert_non_null(memory);
    return memory;
}

void golden_open(struct golden *g, const struct golden_options *options) {
    const char *name = options->name;
    char path[256];
    *g = (struct golden){0};
    snprintf(path, sizeof(path), "tests/golden/%s/golden.safetensors", name);
    CHECKED(safetensors_open(path, &g->file, &error));
    snprintf(path, sizeof(path), "tests/golden/%s", name);
    CHECKED(checkpoint_open(path, &g->checkpoint, &error));
    struct device_cpu_options device = {
        .threads = options->threads, .level = kernel_level_name(options->level), .invariant = options->invariant};
    CHECKED(device_cpu_open(&device, &g->device, &error));
    struct model_options model = {.precision = options->precision,
                                  .rows = GOLDEN_TOKENS,
                                  .context = 4096,
                                  .cache_bytes = options->cache_bytes,
                                  .released_decode = options->released_decode,
                                  .page_tokens = 128};
    CHECKED(model_open(g->checkpoint, g->device, &model, &g->model, &error));
    CHECKED(sequence_open(g->model, 0, model_has_mtp(g->model), &g->sequence, &error));
    g->shape = checkpoint_shape(g->checkpoint);
    g->ids = golden_integers(g, "ids");
    g->residual = (size_t)g->shape->streams * g->shape->hidden;
    assert_true(g->shape->layers <= GOLDEN_LAYERS);
    g->logits = zeroed((size_t)GOLDEN_TOKENS * g->shape->vocab, sizeof(float));
    g->mtp = zeroed((size_t)GOLDEN_TOKENS * g->shape->vocab, sizeof(float));
    g->layers = zeroed(GOLDEN_LAYERS * GOLDEN_TOKENS * g->residual, sizeof(float));
    g->chosen = zeroed((size_t)GOLDEN_LAYERS * GOLDEN_TOKENS * (g->shape->index_topk + 1), sizeof(int32_t));
    g->looked = zeroed((size_t)GOLDEN_LAYERS * GOLDEN_TOKENS * GOLDEN_COLUMNS, sizeof(int64_t));
    g->routes = zeroed((size_t)GOLDEN_LAYERS * GOLDEN_TOKENS * g->shape->active, sizeof(int32_t));
}

void golden_close(struct golden *g) {
    sequence_close(g->sequence);
    model_close(g->model);
    g->device->ops->close(g->device);
    checkpoint_close(g->checkpoint);
    safetensors_close(g->file);
    free(g->logits);
    free(g->mtp);
    free(g->layers);
    free(g->routes);
    free(g->chosen);
    free(g->looked);
}

static const struct tensor *tensor(const struct golden *g, const char *name) {
    const struct tensor *t = safetensors_find(g->file, name);
    if (!t)
        fail_msg("the golden file has no %s", name);
    return t;
}

const float *golden_floats(const struct golden *g, const char *format, ...) {
    char name[64];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    const struct tensor *t = tensor(g, name);
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal((uintptr_t)t->data % 4, 0);
    return (const float *)(const void *)t->data;
}

const int32_t *golden_integers(const struct golden *g, const char *name) {
    const struct tensor *t = tensor(g, name);
    assert_int_equal(t->dtype, DTYPE_I32);
    assert_int_equal((uintptr_t)t->data % 4, 0);
    return (const int32_t *)(const void *)t->data;
}

static void keep_logits(void *context, uint32_t span, uint64_t position, const float *logits) {
    struct golden *g = context;
    if (span == g->keep)
        memcpy(g->logits + position * g->shape->vocab, logits, g->shape->vocab * sizeof(float));
}

static void keep_mtp(void *context, uint32_t span, uint64_t position, const float *logits) {
    struct golden *g = context;
    if (span == g->keep)
        memcpy(g->mtp + position * g->shape->vocab, logits, g->shape->vocab * sizeof(float));
}

static void keep_layer(void *context, uint32_t layer, uint32_t rows, const float *h) {
    struct golden *g = context;
    memcpy(g->layers + (size_t)layer * GOLDEN_TOKENS * g->residual, h, rows * g->residual * sizeof(float));
}

static void keep_route(void *context, uint32_t layer, uint32_t rows, const int32_t *experts) {
    struct golden *g = context;
    memcpy(g->routes + (size_t)layer * GOLDEN_TOKENS * g->shape->active, experts,
           (size_t)rows * g->shape->active * sizeof(int32_t));
}

static void keep_chosen(void *context, uint32_t layer, uint32_t rows, uint32_t top, const int32_t *chosen,
                        const int32_t *counts) {
    struct golden *g = context;
    int32_t *to = g->chosen + (size_t)layer * GOLDEN_TOKENS * g->shape->index_topk;
    for (uint32_t s = 0; s < rows; s++, to += g->shape->index_topk)
        for (uint32_t i = 0; i < g->shape->index_topk; i++)
            to[i] = i < (uint32_t)counts[s] ? chosen[s * top + i] : -1;
}

static void keep_looked(void *context, uint32_t layer, uint32_t rows, uint32_t columns, const int64_t *looked_up) {
    struct golden *g = context;
    assert_true(columns <= GOLDEN_COLUMNS);
    memcpy(g->looked + (size_t)layer * GOLDEN_TOKENS * GOLDEN_COLUMNS, looked_up,
           (size_t)rows * columns * sizeof(int64_t));
}

void golden_step(struct golden *g, const struct model_span *spans, uint32_t count, uint32_t keep) {
    struct model_outputs outputs = {.context = g, .logits = keep_logits, .mtp = keep_mtp};
    g->keep = keep;
    if (g->trace) {
        outputs.layer = keep_layer;
        outputs.route = keep_route;
        outputs.chosen = keep_chosen;
        outputs.engram = keep_looked;
    }
    CHECKED(model_step(g->model, spans, count, &outputs, &error));
}

void golden_feed(struct golden *g, const int32_t *ids, uint32_t from, uint32_t to, uint32_t chunk) {
    while (from < to) {
        uint32_t n = to - from < chunk ? to - from : chunk;
        struct model_span span = {.sequence = g->sequence, .ids = ids + from, .count = n, .all = true};
        golden_step(g, &span, 1, 0);
        from += n;
    }
}

uint32_t golden_stride(void) {
    const char *value = getenv("SONDE_TEST_STRIDE");
    return value && atoi(value) > 1 ? (uint32_t)atoi(value) : 1;
}

double golden_distance(const float *a, const float *b, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double golden_median(double *values, size_t n) {
    qsort(values, n, sizeof(*values), ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

int golden_argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int)best;
}

double golden_apart(const struct golden *g, const float *a, const float *b, double *agree) {
    double distances[GOLDEN_TOKENS];
    size_t vocab = g->shape->vocab;
    int equal = 0;
    for (uint32_t s = 0; s < GOLDEN_TOKENS; s++, a += vocab, b += vocab) {
        distances[s] = golden_distance(a, b, vocab);
        equal += golden_argmax(a, vocab) == golden_argmax(b, vocab);
    }
    *agree = (double)equal / GOLDEN_TOKENS;
    return golden_median(distances, GOLDEN_TOKENS);
}
