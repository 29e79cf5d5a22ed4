/*
 * gemm_f64.c - products of double matrices, for the tests of gradients: plain loops, HEIGHT rows of c abreast, each
 * element's terms in order. A transposed b is turned first, so that the inner loop runs along rows.
 */
#include <string.h>

#include "train/real_internal.h"

enum { HEIGHT = 4 };

struct product {
    int how;
    size_t m, n, k;
    const double *a, *b; /* b [k, n] */
    double *c;
};

static double left_at(const struct product *p, size_t i, size_t l) {
    return p->how & GEMM_AT ? p->a[l * p->m + i] : p->a[i * p->k + l];
}

static void add_row(double *restrict c, const double *restrict b, size_t n, double a) {
    for (size_t j = 0; j < n; j++)
        c[j] += a * b[j];
}

static void add_rows(double *restrict c, const double *restrict b, size_t n, const double a[HEIGHT]) {
    double *c1 = c + n, *c2 = c + 2 * n, *c3 = c + 3 * n;
    for (size_t j = 0; j < n; j++) {
        const double x = b[j];
        c[j] += a[0] * x;
        c1[j] += a[1] * x;
        c2[j] += a[2] * x;
        c3[j] += a[3] * x;
    }
}

static void rows(void *context, uint32_t worker, size_t item) {
    const struct product *p = context;
    const size_t begin = item * HEIGHT, height = min_u64(HEIGHT, p->m - begin);
    double *c = p->c + begin * p->n;
    (void)worker;
    if (!(p->how & GEMM_ADD))
        memset(c, 0, height * p->n * sizeof(*c));
    for (size_t l = 0; l < p->k; l++) {
        double a[HEIGHT];
        for (size_t i = 0; i < height; i++)
            a[i] = left_at(p, begin + i, l);
        if (height == HEIGHT)
            add_rows(c, p->b + l * p->n, p->n, a);
        else
            for (size_t i = 0; i < height; i++)
                add_row(c + i * p->n, p->b + l * p->n, p->n, a[i]);
    }
}

void gemm_f64(struct team *team, int how, size_t m, size_t n, size_t k, const double *a, const double *b, double *c) {
    struct product p = {how, m, n, k, a, b, c};
    if (how & GEMM_BT && n && k) {
        double *turned = team_scratch(team, 0, n * k * sizeof(*turned));
        if (!turned)
            return;
        for (size_t j = 0; j < n; j++)
            for (size_t l = 0; l < k; l++)
                turned[l * n + j] = b[j * k + l];
        p.b = turned;
    }
    team_each(team, ceil_div(m, HEIGHT), rows, &p);
}
