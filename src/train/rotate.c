/* rotate.c - rotary turning of adjacent pairs of channels, and the Hadamard transform. */
#include "train/rotate_internal.h"

struct turning {
    size_t rows, heads, dim, half;
    const uint32_t *positions;
    const float *frequency;
    const real *turns;
    real *made, *x, sign;
};

static void make_turns(void *context, uint32_t worker, size_t item) {
    const struct turning *p = context;
    size_t end = min_u64(p->rows, (item + 1) * BLOCK);
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++)
        for (size_t i = 0; i < p->half; i++) {
            float angle = (float)p->positions[row] * p->frequency[i];
            real *turn = p->made + 2 * (row * p->half + i);
            turn[0] = r_cos(angle);
            turn[1] = r_sin(angle);
        }
}

void REAL(rotate_turns)(struct team *team, size_t rows, size_t half, const uint32_t *positions, const float *frequency,
                        real *turns) {
    struct turning p = {.rows = rows, .half = half, .positions = positions, .frequency = frequency, .made = turns};
    team_each(team, ceil_div(rows, BLOCK), make_turns, &p);
}

static void turn_vector(size_t half, const real *restrict turn, real sign, real *restrict x) {
    for (size_t i = 0; i < half; i++) {
        real c = turn[2 * i], s = sign * turn[2 * i + 1], even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * c - odd * s;
        x[2 * i + 1] = even * s + odd * c;
    }
}

static void turn_rows(void *context, uint32_t worker, size_t item) {
    const struct turning *p = context;
    size_t end = min_u64(p->rows, (item + 1) * BLOCK);
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++)
        for (size_t head = 0; head < p->heads; head++)
            turn_vector(p->half, p->turns + row * 2 * p->half, p->sign,
                        p->x + (row * p->heads + head + 1) * p->dim - 2 * p->half);
}

void REAL(rotate)(struct team *team, size_t rows, size_t heads, size_t dim, size_t half, const real *turns,
                  int direction, real *x) {
    struct turning p = {
        .rows = rows, .heads = heads, .dim = dim, .half = half, .turns = turns, .x = x, .sign = (real)direction};
    team_each(team, ceil_div(rows, BLOCK), turn_rows, &p);
}

struct transform {
    size_t rows, dim;
    real *x;
};

/* Sums and differences of numbers h apart. */
static inline void butterflies(size_t n, size_t h, real *x) {
    for (size_t i = 0; i < n; i += 2 * h)
        for (size_t j = i; j < i + h; j++) {
            real a = x[j], b = x[j + h];
            x[j] = a + b;
            x[j + h] = a - b;
        }
}

static void transform_vector(size_t n, real scale, real *x) {
    if (n > 1) /* distances that compilers know become shuffles of vectors */
        butterflies(n, 1, x);
    if (n > 2)
        butterflies(n, 2, x);
    if (n > 4)
        butterflies(n, 4, x);
    for (size_t h = 8; h < n; h *= 2)
        butterflies(n, h, x);
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
}

KERNEL_CLONES static void transform_rows(void *context, uint32_t worker, size_t item) {
    const struct transform *p = context;
    size_t end = min_u64(p->rows, (item + 1) * BLOCK);
    (void)worker;
    for (size_t row = item * BLOCK; row < end; row++)
        transform_vector(p->dim, (real)(1 / sqrt((double)p->dim)), p->x + row * p->dim);
}

void REAL(hadamard)(struct team *team, size_t rows, size_t dim, real *x) {
    struct transform p = {rows, dim, x};
    team_each(team, ceil_div(rows, BLOCK), transform_rows, &p);
}
