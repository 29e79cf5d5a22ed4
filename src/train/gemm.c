/* gemm.c - products of matrices, whichever of them is stored transposed. */
#include <string.h>

#include "train/real_internal.h"

struct product {
    int how;
    size_t m, n, k;
    const real *a, *b;
    real *c;
};

/* Rows [begin, begin + BLOCK) of the result, one after the other, terms in order. */
static void rows(void *context, uint32_t worker, size_t item) {
    const struct product *p = context;
    size_t end = min_u64(p->m, (item + 1) * BLOCK);
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++) {
        real *c = p->c + i * p->n;
        if (!(p->how & GEMM_ADD))
            memset(c, 0, p->n * sizeof(*c));
        for (size_t l = 0; l < p->k; l++) {
            real a = p->how & GEMM_AT ? p->a[l * p->m + i] : p->a[i * p->k + l];
            for (size_t j = 0; j < p->n; j++)
                c[j] += a * (p->how & GEMM_BT ? p->b[j * p->k + l] : p->b[l * p->n + j]);
        }
    }
}

void REAL(gemm)(struct team *team, int how, size_t m, size_t n, size_t k, const real *a, const real *b, real *c) {
    struct product p = {how, m, n, k, a, b, c};
    team_each(team, ceil_div(m, BLOCK), rows, &p);
}
