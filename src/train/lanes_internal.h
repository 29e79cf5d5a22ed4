/*
 * lanes_internal.h - sums and exponentials in a form that compilers turn into vector instructions.
 *
 * A sum runs over LANES partial sums, one a column modulo LANES, which are added pairwise at the end: its order is
 * fixed by the length alone. Included after real_internal.h.
 */
#ifndef TRAIN_LANES_INTERNAL_H
#define TRAIN_LANES_INTERNAL_H

#include <string.h>

#include "train/real_internal.h"

enum { LANES = 16 };

static inline real lanes_total(real *sums) {
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            sums[j] += sums[j + half];
    return sums[0];
}

static inline real lanes_sum(const real *x, size_t n) {
    real sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += x[i + j];
    for (size_t j = 0; i + j < n; j++)
        sums[j] += x[i + j];
    return lanes_total(sums);
}

/* The largest of `least` and all x; NaN is passed over. Over many partial maxima: with few, compilers keep them in
 * registers one by one. The last of x are met twice rather than one by one. */
static inline real lanes_largest(const real *restrict x, size_t n, real least) {
    enum { WIDE = 64 };
    real tops[WIDE];
    for (size_t j = 0; j < WIDE; j++)
        tops[j] = least;
    for (size_t i = 0; i < n && n >= WIDE; i += WIDE) {
        const real *from = x + (i + WIDE <= n ? i : n - WIDE);
        for (size_t j = 0; j < WIDE; j++)
            tops[j] = from[j] > tops[j] ? from[j] : tops[j];
    }
    for (size_t j = 0; j < n && n < WIDE; j++)
        tops[j] = x[j] > tops[j] ? x[j] : tops[j];
    for (size_t half = WIDE / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            tops[j] = tops[j + half] > tops[j] ? tops[j + half] : tops[j];
    return tops[0];
}

/* sum_i a[i] b[i]; a may be b. */
static inline real lanes_dot(const real *a, const real *b, size_t n) {
    real sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += a[i + j] * b[i + j];
    for (size_t j = 0; i + j < n; j++)
        sums[j] += a[i + j] * b[i + j];
    return lanes_total(sums);
}

/* sum_i a[i] b[i] c[i] */
static inline real lanes_dot3(const real *a, const real *b, const real *c, size_t n) {
    real sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += a[i + j] * b[i + j] * c[i + j];
    for (size_t j = 0; i + j < n; j++)
        sums[j] += a[i + j] * b[i + j] * c[i + j];
    return lanes_total(sums);
}

/* y += a x */
static inline void lanes_axpy(real *restrict y, real a, const real *restrict x, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

/*
 * e^x. In float within 2 units in the last place, 0 below -86, infinity above 88.7; NaN stays. x is n ln 2 + r with
 * |r| <= ln(2) / 2; adding 1.5 2^23 rounds to the integer n and leaves it in the lowest bits; the series of e^r to the
 * seventh power is off by less than 2^-27.
 */
static inline real lanes_exp(real x) {
#ifdef TRAIN_DOUBLE
    return exp(x);
#else
    const float shift = 12582912.0f, high = 0.693359375f, low = -2.12194440e-4f; /* ln 2 = high + low */
    float shifted = x * 1.44269504f + shift, n = shifted - shift, r = (x - n * high) - n * low;
    float p = 1 / 5040.0f;
    p = p * r + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 126) << 23; /* of 2^(n - 1): n = 128 has no bits of its own */
    float power;
    memcpy(&power, &bits, sizeof(power));
    float y = p * power * 2;
    y = x < -86 ? 0 : y;
    return x > 88.7f ? (float)INFINITY : y;
#endif
}

static inline real lanes_sigmoid(real x) {
    return 1 / (1 + lanes_exp(-x));
}

#endif
