/*
 * engram_plan.c - the integers that Engram hashes by: made for a new model, or read from a checkpoint.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/engram_internal.h"
#include "train/engram_plan_internal.h"

/* *count: how many ids there are. */
static int map_tokens(const char *path, uint32_t vocab, int64_t *map, int64_t *count, struct sonde_error *e) {
    sonde_tokenizer *t = NULL;
    int rc = sonde_tokenizer_open(path, &t, e);
    if (!rc)
        rc = text_compact_ids(t, vocab, map, count, e);
    sonde_tokenizer_close(t);
    return rc;
}

/* -------------------------------------------------------------------------------------------- sizes */

static bool is_there(const int64_t *sizes, size_t count, int64_t size) {
    for (size_t i = 0; i < count; i++)
        if (sizes[i] == size)
            return true;
    return false;
}

/* Rows of a layer's table, or -1 where they are too many to be numbered in 32 bits. */
static int64_t rows_of(const int64_t *sizes, size_t columns) {
    int64_t rows = 0;
    for (size_t i = 0; i < columns; i++) {
        if (sizes[i] <= 0 || sizes[i] > UINT32_MAX - rows)
            return -1;
        rows += sizes[i];
    }
    return rows;
}

/* Layer by layer, order by order, head by head: the next prime that no table has yet. */
static int make_sizes(const struct engram_shape *g, const int64_t *least, int64_t *sizes, struct sonde_error *e) {
    size_t columns = (size_t)(g->orders - 1) * g->heads;
    for (size_t i = 0; i < columns; i++)
        if (least[i / g->heads] < 1 || least[i / g->heads] > UINT32_MAX)
            return err_set(e, SONDE_ERROR_ARGUMENT, "Engram: %lld rows of a table, expected 1 to 2^32 - 1",
                           (long long)least[i / g->heads]);
    for (size_t i = 0; i < columns * g->count; i++) {
        int64_t next = least[i % columns / g->heads];
        do {
            engram_make_sizes(next, 1, &sizes[i]);
            next = sizes[i] + 1;
        } while (is_there(sizes, i, sizes[i]));
    }
    return SONDE_OK;
}

/* -------------------------------------------------------------------------------------------- plans */

static int take_memory(const struct shape *shape, struct engram_plan *plan, struct sonde_error *e) {
    const struct engram_shape *g = &shape->engram;
    size_t columns = (size_t)(g->orders - 1) * g->heads;
    plan->token_map = calloc(shape->vocab, sizeof(int64_t));
    plan->multipliers = calloc((size_t)g->count * g->orders, sizeof(int64_t));
    plan->sizes = calloc(g->count * columns, sizeof(int64_t));
    return plan->token_map && plan->multipliers && plan->sizes ? SONDE_OK : err_memory(e);
}

int engram_plan_make(const struct shape *shape, const int64_t *least, const char *tokenizer, uint64_t seed,
                     struct engram_plan *plan, struct sonde_error *e) {
    const struct engram_shape *g = &shape->engram;
    size_t columns = (size_t)(g->orders - 1) * g->heads;
    struct rng r;
    int64_t ids = 0;
    *plan = (struct engram_plan){0};
    if (!g->count)
        return SONDE_OK;
    int rc = take_memory(shape, plan, e);
    if (!rc)
        rc = make_sizes(g, least, plan->sizes, e);
    for (uint32_t i = 0; !rc && i < g->count; i++)
        if (rows_of(plan->sizes + i * columns, columns) < 0)
            rc = err_set(e, SONDE_ERROR_ARGUMENT, "Engram: layer %u would have 2^32 rows of tables or more",
                         g->layers[i]);
    if (!rc)
        rc = map_tokens(tokenizer, shape->vocab, plan->token_map, &ids, e);
    rng_init(&r, seed);
    for (uint32_t i = 0; !rc && i < g->count; i++)
        engram_make_multipliers(&r, ids, g->orders, plan->multipliers + (size_t)i * g->orders);
    if (rc)
        engram_plan_release(plan);
    return rc;
}

/* A tensor of `count` integers. layer: of "layers.N.engram."; NULL: that of the whole model. */
static int load(const struct checkpoint *c, const uint32_t *layer, const char *part, uint64_t count, int64_t *to,
                struct sonde_error *e) {
    char name[64];
    struct integers v;
    if (layer)
        snprintf(name, sizeof(name), "layers.%u.engram.%s", *layer, part);
    else
        snprintf(name, sizeof(name), "engram.%s", part);
    int rc = checkpoint_integers(c, name, 1, &count, &v, e);
    for (uint64_t i = 0; !rc && i < count; i++)
        to[i] = integers_at(&v, i);
    return rc;
}

/* Whether any Engram layer has any bias. */
static bool has_biases(const struct checkpoint *c) {
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const char *part = strstr(checkpoint_at(c, i)->name, ".engram.");
        if (part && strstr(part, ".bias"))
            return true;
    }
    return false;
}

int engram_plan_load(const struct checkpoint *c, struct engram_plan *plan, struct sonde_error *e) {
    const struct shape *shape = checkpoint_shape(c);
    const struct engram_shape *g = &shape->engram;
    size_t columns = (size_t)(g->orders - 1) * g->heads;
    *plan = (struct engram_plan){0};
    if (!g->count)
        return SONDE_OK;
    int rc = take_memory(shape, plan, e);
    if (!rc)
        rc = load(c, NULL, "token_map", shape->vocab, plan->token_map, e);
    for (uint32_t i = 0; !rc && i < g->count; i++) {
        int64_t *sizes = plan->sizes + i * columns;
        rc = load(c, &g->layers[i], "multipliers", g->orders, plan->multipliers + (size_t)i * g->orders, e);
        if (!rc)
            rc = load(c, &g->layers[i], "head_sizes", columns, sizes, e);
        if (!rc && rows_of(sizes, columns) < 0)
            rc = err_set(e, SONDE_ERROR_FORMAT,
                         "tensor layers.%u.engram.head_sizes: expected sizes above 0, together below 2^32",
                         g->layers[i]);
    }
    plan->biases = has_biases(c);
    if (rc)
        engram_plan_release(plan);
    return rc;
}

void engram_plan_release(struct engram_plan *p) {
    free(p->token_map);
    free(p->multipliers);
    free(p->sizes);
    *p = (struct engram_plan){0};
}
