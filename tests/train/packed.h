/*
 * packed.h - batches of a few segments, numbers for them, and entries that tokens have chosen by chance.
 *
 * Included after TRAIN_DOUBLE is said and the room's headers are.
 */
#ifndef TESTS_TRAIN_PACKED_H
#define TESTS_TRAIN_PACKED_H

#include <stdlib.h>
#include <string.h>

#include "gradient.h"

#include "train/attention_internal.h"

enum { SEGMENTS = 6, ARRAYS = 64 };

struct packed {
    struct segment segments[SEGMENTS];
    uint32_t begin[SEGMENTS + 1];
    struct batch batch;
    struct entries entries;
    void *arrays[ARRAYS]; /* freed with it */
    uint32_t array_count;
};

static inline void *packed_bytes(struct packed *p, size_t bytes) {
    void *memory = calloc(1, bytes + 1);
    assert_non_null(memory);
    assert_in_range(p->array_count, 0, ARRAYS - 1);
    p->arrays[p->array_count++] = memory;
    return memory;
}

static inline double *packed_zeros(struct packed *p, size_t count) {
    return packed_bytes(p, count * sizeof(double));
}

static inline double *packed_numbers(struct packed *p, struct rng *r, size_t count, double scale) {
    double *x = packed_zeros(p, count);
    fill_random(r, x, count, scale);
    return x;
}

static inline float *packed_floats(struct packed *p, const double *x, size_t count) {
    float *f = packed_bytes(p, count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        f[i] = (float)x[i];
    return f;
}

/* Every token chooses up to `top` of what is visible to it. */
static inline void packed_choose(struct packed *p, struct rng *r, uint32_t top) {
    struct entries *e = &p->entries;
    e->top = top;
    e->chosen = packed_bytes(p, (size_t)p->batch.tokens * top * sizeof(*e->chosen));
    e->counts = packed_bytes(p, p->batch.tokens * sizeof(*e->counts));
    for (uint32_t t = 0; t < p->batch.tokens; t++) {
        uint32_t visible = entries_visible(e, segment_of(&p->batch, t), t);
        for (uint32_t i = 0; i < visible && e->counts[t] < top; i++)
            if (rng_unit(r) < 0.6)
                e->chosen[(size_t)t * top + e->counts[t]++] = i;
    }
}

/* lengths: of the segments, up to the first 0. top 0: tokens see all entries. */
static inline void packed_init(struct packed *p, struct rng *r, const uint32_t *lengths, uint32_t ratio, uint32_t top) {
    *p = (struct packed){0};
    p->batch.segments = p->segments;
    for (; p->batch.segment_count < SEGMENTS && lengths[p->batch.segment_count]; p->batch.segment_count++) {
        uint32_t length = lengths[p->batch.segment_count];
        p->segments[p->batch.segment_count] = (struct segment){p->batch.tokens, length};
        p->batch.tokens += length;
    }
    entries_layout(&p->batch, ratio, p->begin);
    p->entries = (struct entries){.batch = &p->batch, .ratio = ratio, .begin = p->begin};
    if (top)
        packed_choose(p, r, top);
}

static inline void packed_release(struct packed *p) {
    for (uint32_t i = 0; i < p->array_count; i++)
        free(p->arrays[i]);
}

/* The larger of the relative and the absolute error of floats. */
static inline void check_close(const char *what, const float *got, const double *want, size_t count, double error) {
    for (size_t i = 0; i < count; i++)
        if (!(fabs(got[i] - want[i]) <= error * fmax(1, fabs(want[i]))))
            fail_msg("%s[%zu]: %.9g instead of %.9g", what, i, got[i], want[i]);
}

#endif
