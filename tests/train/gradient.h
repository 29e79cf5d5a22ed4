/*
 * gradient.h - gradients against central differences, in double precision.
 *
 * A test has a loss: a fixed random combination of what a pass gives, so that every output counts. The pass's own
 * gradients of it must equal (loss(x + d) - loss(x - d)) / 2d for every number of every input and parameter.
 */
#ifndef TESTS_TRAIN_GRADIENT_H
#define TESTS_TRAIN_GRADIENT_H

#include <math.h>

#include "test.h"

#include "base/base.h"

struct checked {
    const char *name;
    double *x;              /* changed, and put back */
    const double *gradient; /* as the pass tells it */
    size_t count;
};

/* The largest error, relative to the larger of the two or to a thousandth of the tensor's largest gradient. */
static inline double gradient_error(const struct checked *c, double (*loss)(void *context), void *context) {
    double most = 0, worst = 0;
    for (size_t i = 0; i < c->count; i++)
        most = fmax(most, fabs(c->gradient[i]));
    for (size_t i = 0; i < c->count; i++) {
        double x = c->x[i], d = 1e-5 * fmax(1, fabs(x));
        c->x[i] = x + d;
        double above = loss(context);
        c->x[i] = x - d;
        double below = loss(context);
        c->x[i] = x;
        double expected = (above - below) / (2 * d), g = c->gradient[i];
        worst = fmax(worst, fabs(g - expected) / fmax(fmax(fabs(g), fabs(expected)), fmax(1e-3 * most, 1e-8)));
    }
    return worst;
}

static inline void check_gradients(const struct checked *list, size_t count, double (*loss)(void *context),
                                   void *context) {
    for (size_t i = 0; i < count; i++) {
        double worst = gradient_error(&list[i], loss, context);
        if (!(worst < 1e-4))
            fail_msg("gradient of %s: relative error %.2e", list[i].name, worst);
    }
}

/* Uniform in (-scale, scale). */
static inline void fill_random(struct rng *r, double *x, size_t count, double scale) {
    for (size_t i = 0; i < count; i++)
        x[i] = scale * (2 * rng_unit(r) - 1);
}

static inline double dot(const double *a, const double *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

#endif
