/*
 * checks.h - for each kernel one check: a random call of it, compared with a plain reading of its contract.
 *
 * check_products.c, check_attention.c and check_vectors.c have them. The random calls that other tests make too are
 * declared here; their arrays come from floats() and live as long.
 */
#ifndef TESTS_KERNEL_CHECKS_H
#define TESTS_KERNEL_CHECKS_H

#include "inputs.h"

/* bool check_<kernel>(t): false if this call breaks the contract. */
#define CHECK_PROTOTYPE(name, returns, parameters) bool check_##name(const struct kernel_table *t);
KERNELS(CHECK_PROTOTYPE)
#undef CHECK_PROTOTYPE

/* A random product: its matrix, the rows of it that are wanted, x [count, w.cols] and y [count, rows]. */
struct product {
    struct matrix w;
    uint32_t row, rows, count;
    size_t ldx, ldy;
    float *x, *y;
};

/* Of some rows of a matrix of `total`. */
struct product product_of(enum format format, uint32_t total, uint32_t cols, uint32_t count);

/* Widths of every tail, or what real matrices have: multiples of 128. Now and then one too wide for any scratch. */
struct product random_product(void);

/* gemm_bf16 of inputs packed in pieces. */
void multiply_packed(const struct kernel_table *t, const struct product *p);

/* Shapes as released, or any the format allows. */
struct row_format random_format(enum row_kind kind, uint32_t dim);

enum { MOST_KEYS = 300 };

/* A random attention: its queries, and keys picked from random rows, with what those hold. */
struct attention {
    uint32_t heads, count;
    struct row_format format;
    float *q, *sink, *weights, *out, scale;
    const void *keys[MOST_KEYS];
    const float *decoded[MOST_KEYS];
};

void random_attention(struct attention *a, struct row_format format, uint32_t heads, uint32_t count);

/* A random call of index_scores: scores lie `ld` apart, and what is between them is as it was before. */
struct scoring {
    uint32_t rows, heads, count;
    size_t ld;
    struct row_format format;
    float *q, *w, *keys, *scores, *before;
    const uint8_t *stored; /* the keys in their format */
};

void random_scoring(struct scoring *s, struct row_format format, uint32_t rows, uint32_t heads, uint32_t count);

/* Rows [row, row + rows) against keys [key, key + count), into their places of `scores`. */
void score_some(const struct kernel_table *t, const struct scoring *s, bool bf16, uint32_t row, uint32_t rows,
                uint32_t key, uint32_t count, float *scores);

#endif
