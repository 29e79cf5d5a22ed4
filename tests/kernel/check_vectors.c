/*
 * check_vectors.c - the kernels of plain vectors: norms, turns, roundings, pooling, hyper-connections, and sums.
 *
 * Each contract is read here as a loop over doubles, or, of roundings, as number.h has it.
 */
#include <math.h>

#include "checks.h"

/* ------------------------------------------------------------------------------ norms and rotations */

bool check_rms_norm(const struct kernel_table *t) {
    uint32_t n = up_to(300);
    float *x = floats(n), *weight = rng_u64(&rng) & 1 ? floats(n) : NULL, *y = floats(n);
    double square = 0;
    bool good = true;
    for (uint32_t i = 0; i < n; i++)
        square += (double)x[i] * x[i];
    t->rms_norm(x, n, weight, 1e-6f, y);
    for (uint32_t i = 0; i < n; i++)
        good &= near_ulp(y[i], x[i] / sqrt(square / n + (double)1e-6f) * (weight ? weight[i] : 1), 8);
    return good;
}

bool check_rotate(const struct kernel_table *t) {
    uint32_t half = up_to(40);
    float *x = floats(2 * half), *turn = floats(2 * half), direction = rng_u64(&rng) & 1 ? 1 : -1, before[80];
    bool good = true;
    for (uint32_t i = 0; i < half; i++) {
        double angle = 100 * rng_unit(&rng);
        turn[2 * i] = (float)cos(angle);
        turn[2 * i + 1] = (float)sin(angle);
    }
    memcpy(before, x, 2 * half * sizeof(float));
    t->rotate(x, half, turn, direction);
    for (uint32_t i = 0; i < half; i++) {
        double c = turn[2 * i], s = (double)direction * turn[2 * i + 1], a = before[2 * i], b = before[2 * i + 1];
        double allowed = 4 * UNIT * fmax(fabs(a), fabs(b)) + 1e-38;
        good &= fabs(x[2 * i] - (a * c - b * s)) <= allowed && fabs(x[2 * i + 1] - (a * s + b * c)) <= allowed;
    }
    return good;
}

bool check_hadamard(const struct kernel_table *t) {
    uint32_t n = 1u << (rng_u64(&rng) % 8);
    float *x = floats(n), before[128];
    bool good = true;
    memcpy(before, x, n * sizeof(float));
    t->hadamard(x, n);
    for (uint32_t i = 0; i < n; i++) {
        double want = 0, magnitude = 0;
        for (uint32_t j = 0; j < n; j++) {
            want += __builtin_parity(i & j) ? -(double)before[j] : (double)before[j];
            magnitude += fabs((double)before[j]);
        }
        good &= near_dot(x[i], want / sqrt(n), magnitude / sqrt(n), n);
    }
    return good;
}

/* ---------------------------------------------------------------------------------------- roundings */

static bool same(float a, float b) {
    return float_bits(a) == float_bits(b) || (isnan(a) && isnan(b));
}

static bool check_exact(void (*kernel)(float *, size_t, size_t), void (*truth)(float *, size_t, size_t), size_t block) {
    size_t n = block * up_to(5);
    float *x = floats(n), want[128 * 5];
    bool good = true;
    make_extreme(x, n);
    memcpy(want, x, n * sizeof(float));
    truth(want, n, block);
    kernel(x, n, block);
    for (size_t i = 0; i < n; i++)
        good &= same(x[i], want[i]);
    return good;
}

bool check_fake_e4m3(const struct kernel_table *t) {
    return check_exact(t->fake_e4m3, e4m3_fake, rng_u64(&rng) & 1 ? 64 : 128);
}

bool check_fake_e2m1(const struct kernel_table *t) {
    return check_exact(t->fake_e2m1, e2m1_fake, 32);
}

bool check_round_bf16(const struct kernel_table *t) {
    size_t n = up_to(100);
    float *x = floats(n), before[100];
    bool good = true;
    make_extreme(x, n);
    memcpy(before, x, n * sizeof(float));
    t->round_bf16(x, n);
    for (size_t i = 0; i < n; i++)
        good &= same(x[i], bf16_round(before[i]));
    return good;
}

/* -------------------------------------------------------------------- pooling and hyper-connections */

bool check_pool(const struct kernel_table *t) {
    uint32_t rows = up_to(20), dim = up_to(50), missing = up_to(rows) - 1;
    float *values = floats((size_t)rows * dim), *scores = floats((size_t)rows * dim),
          *bias = floats((size_t)rows * dim);
    float *out = floats(dim);
    const float *v[20], *s[20];
    bool good = true;
    for (uint32_t i = 0; i < rows * dim; i++)
        scores[i] = fmaxf(-5, fminf(5, scores[i]));
    for (uint32_t i = 0; i < rows * dim; i++)
        bias[i] = fmaxf(-5, fminf(5, bias[i]));
    for (uint32_t r = 0; r < rows; r++) {
        v[r] = r < missing ? NULL : values + (size_t)r * dim;
        s[r] = r < missing ? NULL : scores + (size_t)r * dim;
    }
    t->pool(v, s, bias, dim, rows, dim, out);
    for (uint32_t c = 0; c < dim; c++) {
        double total = 0, want = 0, magnitude = 0;
        for (uint32_t r = missing; r < rows; r++) {
            double w = exp((double)scores[r * dim + c] + bias[r * dim + c]);
            total += w;
            want += w * values[r * dim + c];
            magnitude += w * fabs((double)values[r * dim + c]);
        }
        good &= near_dot(out[c], want / total, magnitude / total, rows);
    }
    return good;
}

static double logistic(double x) {
    return 1 / (1 + exp(-x));
}

bool check_hc_weights(const struct kernel_table *t) {
    uint32_t n = up_to(6), mixes = (2 + n) * n, iterations = up_to(20);
    float *m = floats(mixes), *scale = floats(3), *base = floats(mixes), *post = floats(n),
          *comb = floats((size_t)n * n);
    double want[36], eps = (double)1e-6f;
    float raw[48];
    bool good = true;
    for (uint32_t i = 0; i < mixes; i++)
        m[i] = fmaxf(-3, fminf(3, m[i]));
    for (int i = 0; i < 3; i++)
        scale[i] = fmaxf(-2, fminf(2, scale[i]));
    for (uint32_t i = 0; i < mixes; i++)
        base[i] = fmaxf(-3, fminf(3, base[i]));
    memcpy(raw, m, mixes * sizeof(float));
    t->hc_weights(m, n, scale, base, iterations, 1e-6f, post, comb);
    for (uint32_t j = 0; j < n; j++) {
        good &= near_ulp(m[j], logistic((double)raw[j] * scale[0] + base[j]) + eps, 64);
        good &= near_ulp(post[j], 2 * logistic((double)raw[n + j] * scale[1] + base[n + j]), 64);
        double total = 0;
        for (uint32_t k = 0; k < n; k++)
            total += want[j * n + k] = exp((double)raw[2 * n + j * n + k] * scale[2] + base[2 * n + j * n + k]);
        for (uint32_t k = 0; k < n; k++)
            want[j * n + k] = want[j * n + k] / total + eps;
    }
    for (uint32_t i = 0; i < 2 * iterations - 1; i++) /* columns, then rows and columns in turn */
        for (uint32_t a = 0; a < n; a++) {
            double sum = eps;
            for (uint32_t b = 0; b < n; b++)
                sum += want[i % 2 ? a * n + b : b * n + a];
            for (uint32_t b = 0; b < n; b++)
                want[i % 2 ? a * n + b : b * n + a] /= sum;
        }
    for (uint32_t i = 0; i < n * n; i++)
        good &= near_ulp(comb[i], want[i], 64);
    return good;
}

bool check_hc_collapse(const struct kernel_table *t) {
    uint32_t n = up_to(8), dim = up_to(70);
    float *h = floats((size_t)n * dim), *pre = floats(n), *x = floats(dim);
    bool good = true;
    t->hc_collapse(h, n, dim, pre, x);
    for (uint32_t d = 0; d < dim; d++) {
        double want = 0, magnitude = 0;
        for (uint32_t j = 0; j < n; j++) {
            want += (double)pre[j] * h[j * dim + d];
            magnitude += fabs((double)pre[j] * h[j * dim + d]);
        }
        good &= near_dot(x[d], want, magnitude, n);
    }
    return good;
}

bool check_hc_spread(const struct kernel_table *t) {
    uint32_t n = up_to(8), dim = up_to(70);
    float *h = floats((size_t)n * dim), *y = floats(dim), *post = floats(n), *comb = floats((size_t)n * n),
          before[8 * 70];
    bool good = true;
    memcpy(before, h, (size_t)n * dim * sizeof(float));
    t->hc_spread(h, n, dim, y, post, comb);
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t d = 0; d < dim; d++) {
            double want = (double)post[k] * y[d], magnitude = fabs(want);
            for (uint32_t j = 0; j < n; j++) {
                want += (double)comb[j * n + k] * before[j * dim + d];
                magnitude += fabs((double)comb[j * n + k] * before[j * dim + d]);
            }
            good &= near_dot(h[k * dim + d], want, magnitude, n);
        }
    return good;
}

/* ----------------------------------------------------------------------------- experts, sums of rows */

bool check_swiglu(const struct kernel_table *t) {
    size_t n = up_to(100);
    float *gate = floats(n), *up = floats(n), limit = rng_u64(&rng) & 1 ? 10 : 0, weight = random_float(), before[100];
    bool good = true;
    for (size_t i = 0; i < n; i++)
        gate[i] *= 10;
    memcpy(before, gate, n * sizeof(float));
    t->swiglu(gate, up, n, limit, weight);
    for (size_t i = 0; i < n; i++) {
        double g = before[i], u = up[i];
        if (limit > 0) {
            g = fmin(g, (double)limit);
            u = fmax(fmin(u, (double)limit), -(double)limit);
        }
        double want = g * logistic(g) * u * (double)weight, vanished = fabs(g * u * (double)weight) * 0x1p-120;
        good &= near_ulp(gate[i], want, 16) || fabs(gate[i] - want) <= vanished;
    }
    return good;
}

bool check_axpy(const struct kernel_table *t) {
    size_t n = up_to(100);
    float *x = floats(n), *y = floats(n), a = random_float(), before[100];
    bool good = true;
    memcpy(before, y, n * sizeof(float));
    t->axpy(y, x, n, a);
    for (size_t i = 0; i < n; i++) {
        double term = (double)a * x[i], larger = fmax(fabs(term), fabs((double)before[i]));
        good &= fabs(y[i] - (before[i] + term)) <= 4 * UNIT * larger + 1e-38;
    }
    return good;
}

/* The numbers are also those of each row by itself. */
bool check_dots(const struct kernel_table *t) {
    uint32_t m = up_to(11), n = up_to(11), dim = up_to(rng_u64(&rng) % 4 ? 40 : 300);
    float *a = floats((size_t)m * dim), *rows = floats((size_t)n * dim), *out = floats((size_t)m * n);
    const float *b[11];
    bool good = true;
    for (uint32_t j = 0; j < n; j++)
        b[j] = rows + (size_t)(n - 1 - j) * dim;
    t->dots(a, m, b, n, dim, out);
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j++) {
            double want = 0, magnitude = 0;
            float alone;
            for (uint32_t c = 0; c < dim; c++) {
                want += (double)a[i * dim + c] * b[j][c];
                magnitude += fabs((double)a[i * dim + c] * b[j][c]);
            }
            t->dots(a + i * dim, 1, b + j, 1, dim, &alone);
            good &= near_dot(out[i * n + j], want, magnitude, dim) && alone == out[i * n + j];
        }
    return good;
}

/* Weights lie by rows or by terms. */
bool check_mix(const struct kernel_table *t) {
    uint32_t m = up_to(11), n = up_to(11), dim = up_to(rng_u64(&rng) % 4 ? 40 : 300);
    bool turned = rng_u64(&rng) & 1;
    size_t row = turned ? 1 : n, term = turned ? m : 1, size = (size_t)m * dim;
    float *w = floats((size_t)m * n), *terms = floats((size_t)n * dim), *rows = floats(size), *alone = floats(dim);
    float before[11 * 300], *out[11];
    const float *x[11];
    bool good = true;
    memcpy(before, rows, size * sizeof(float));
    for (uint32_t j = 0; j < n; j++)
        x[j] = terms + (size_t)(n - 1 - j) * dim;
    for (uint32_t i = 0; i < m; i++)
        out[i] = rows + (size_t)(m - 1 - i) * dim;
    t->mix(w, row, term, x, n, dim, m, out);
    for (uint32_t i = 0; i < m; i++) {
        const float *old = before + (out[i] - rows);
        memcpy(alone, old, dim * sizeof(float));
        t->mix(w + i * row, row, term, x, n, dim, 1, &alone);
        good &= memcmp(alone, out[i], dim * sizeof(float)) == 0;
        for (uint32_t c = 0; c < dim; c++) {
            double want = old[c], magnitude = fabs(want);
            for (uint32_t j = 0; j < n; j++) {
                want += (double)w[i * row + j * term] * x[j][c];
                magnitude += fabs((double)w[i * row + j * term] * x[j][c]);
            }
            good &= near_dot(out[i][c], want, magnitude, n + 1);
        }
    }
    return good;
}
