/*
 * numbers.h - arrays for tests of passes: random ones, copies in float, comparisons.
 *
 * A test compiled for double declares the float functions too by including the passes' headers once more behind
 * float_side.h. Arrays belong to a bag and go with it.
 */
#ifndef TESTS_TRAIN_NUMBERS_H
#define TESTS_TRAIN_NUMBERS_H

#include <stdlib.h>
#include <string.h>

#include "gradient.h"

enum { BAG_ITEMS = 256 };

struct bag {
    void *items[BAG_ITEMS];
    size_t count;
};

/* Zeroed; count 0 gives one item nobody uses. */
static inline void *bag_take(struct bag *b, size_t count, size_t size) {
    void *p = calloc(count + (count == 0), size);
    assert_non_null(p);
    assert_true(b->count < BAG_ITEMS);
    return b->items[b->count++] = p;
}

static inline void bag_release(struct bag *b) {
    while (b->count)
        free(b->items[--b->count]);
}

static inline double *doubles(struct bag *b, size_t count) {
    return bag_take(b, count, sizeof(double));
}

static inline float *floats(struct bag *b, size_t count) {
    return bag_take(b, count, sizeof(float));
}

/* Numbers that a float holds exactly, so that both types start from the same. */
static inline double *random_doubles(struct bag *b, struct rng *r, size_t count, double scale) {
    double *x = doubles(b, count);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(scale * (2 * rng_unit(r) - 1));
    return x;
}

/* Numbers that bf16 holds exactly, so that products in float round nothing. */
static inline double *random_bf16(struct bag *b, struct rng *r, size_t count) {
    double *x = doubles(b, count);
    for (size_t i = 0; i < count; i++)
        x[i] = ((double)(rng_u64(r) % 127) - 63) / 64;
    return x;
}

static inline float *float_copy(struct bag *b, const double *x, size_t count) {
    float *y = floats(b, count);
    for (size_t i = 0; i < count; i++)
        y[i] = (float)x[i];
    return y;
}

/* What both sides of a table are computed from: sin(phase + 12.9898 i), as a float. */
static inline double *wave(struct bag *b, size_t count, double phase, double scale) {
    double *x = doubles(b, count);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(scale * sin(phase + 12.9898 * (double)i));
    return x;
}

/* Gradients are added: they start from this and have it taken off again before they are compared. */
static inline double *ones(struct bag *b, size_t count) {
    double *x = doubles(b, count);
    for (size_t i = 0; i < count; i++)
        x[i] = 1;
    return x;
}

static inline void take_ones(double *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] -= 1;
}

/* Every a within `tolerance` of b, relative to the largest b. */
static inline void check_near(const char *what, const double *a, const double *b, size_t count, double tolerance) {
    double most = 0;
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs(b[i]));
    for (size_t i = 0; i < count; i++)
        if (!(fabs(a[i] - b[i]) <= tolerance * most))
            fail_msg("%s: number %zu of %zu is %.9g, expected %.9g", what, i, count, a[i], b[i]);
}

static inline void check_near_float(const char *what, const float *a, const double *b, size_t count, double tolerance) {
    struct bag bag = {0};
    double *wide = doubles(&bag, count);
    for (size_t i = 0; i < count; i++)
        wide[i] = (double)a[i];
    check_near(what, wide, b, count, tolerance);
    bag_release(&bag);
}

/* Bit for bit. */
static inline void check_same(const char *what, const float *a, const float *b, size_t count) {
    if (memcmp(a, b, count * sizeof(*a)))
        fail_msg("%s: depends on the number of workers", what);
}

#endif
