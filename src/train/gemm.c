/*
 * gemm.c - products of float matrices, whichever of them is stored transposed, on the kernels of packed factors.
 *
 * First the workers pack all of b, in areas of up to COLS columns and DEPTH terms; then each takes rows of c: it packs
 * their part of a, DEPTH terms at a time, into scratch of its own and multiplies that with every area. The packed rows
 * and an area lie in the second-level cache while they meet; an area is as broad as that allows, because rows of c are
 * written in pieces of its breadth.
 *
 * An element of c is made by one worker, chunk after chunk of its terms, so its bits depend on no partition.
 */
#include <string.h>

#include "train/real_internal.h"

enum {
    COLS = 512,     /* most columns of an area */
    DEPTH = 512,    /* most terms of an area */
    ROWS = 256,     /* most rows of an item */
    SQUARE = 64,    /* rows and columns of the blocks of a symmetric c */
    ALONE = 1 << 16 /* multiply-adds that are not worth waking others for */
};

struct product {
    struct team *team;
    int how;
    size_t m, n, k;
    const float *a, *b;
    float *c;
    void (*pack)(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed);
    void (*multiply)(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                     float *c, size_t ldc);
    size_t cols;           /* of an area */
    size_t blocks, chunks; /* of so many columns, of DEPTH terms */
    size_t rows, spans;    /* rows of an item; items that share them, each with its own blocks */
    size_t area, packed;   /* bytes of an area of b, and of an item's packed rows */
    uint8_t *right, *left; /* areas [block][chunk]; worker 0's packed rows */
};

static uint32_t part(size_t total, size_t begin, size_t most) {
    return (uint32_t)min_u64(total - begin, most);
}

static uint8_t *area_of(const struct product *p, size_t block, size_t chunk) {
    return p->right + (block * p->chunks + chunk) * p->area;
}

static void pack_area(void *context, uint32_t worker, size_t item) {
    const struct product *p = context;
    const size_t block = item / p->chunks, chunk = item % p->chunks, j = block * p->cols, l = chunk * DEPTH;
    const uint32_t cols = part(p->n, j, p->cols), depth = part(p->k, l, DEPTH);
    (void)worker;
    if (p->how & GEMM_BT)
        p->pack(p->b + j * p->k + l, p->k, KERNEL_RIGHT, cols, depth, area_of(p, block, chunk));
    else
        p->pack(p->b + l * p->n + j, p->n, KERNEL_RIGHT | KERNEL_TURNED, cols, depth, area_of(p, block, chunk));
}

static void multiply_rows(void *context, uint32_t worker, size_t item) {
    const struct product *p = context;
    const size_t i = item / p->spans * p->rows, span = item % p->spans;
    const size_t diagonal = p->how & GEMM_SYMMETRIC ? i / p->cols : 0;
    const size_t first = max_u64(diagonal, p->blocks * span / p->spans), end = p->blocks * (span + 1) / p->spans;
    const uint32_t rows = part(p->m, i, p->rows);
    uint8_t *left = worker ? team_scratch(p->team, worker, p->packed) : p->left;
    if (!left)
        return;
    for (size_t chunk = 0; chunk < p->chunks; chunk++) {
        const size_t l = chunk * DEPTH;
        const uint32_t depth = part(p->k, l, DEPTH);
        const bool add = chunk || p->how & GEMM_ADD;
        if (p->how & GEMM_AT)
            p->pack(p->a + l * p->m + i, p->m, KERNEL_TURNED, rows, depth, left);
        else
            p->pack(p->a + i * p->k + l, p->k, 0, rows, depth, left);
        for (size_t block = first; block < end; block++)
            p->multiply(left, area_of(p, block, chunk), rows, part(p->n, block * p->cols, p->cols), depth, add,
                        p->c + i * p->n + block * p->cols, p->n);
    }
}

typedef float four __attribute__((vector_size(16)));

/* Four rows of four, turned; rows of both are ld apart. */
static inline void turn_four(const float *from, float *to, size_t ld) {
    four x[4];
    for (size_t i = 0; i < 4; i++)
        memcpy(&x[i], from + i * ld, sizeof(x[i]));
    const four a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5), b = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
    const four c = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7), d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
    x[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    x[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    x[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    x[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
    for (size_t i = 0; i < 4; i++)
        memcpy(to + i * ld, &x[i], sizeof(x[i]));
}

/* What lies below the diagonal, from what was computed above it. */
static void mirror_rows(void *context, uint32_t worker, size_t item) {
    const struct product *p = context;
    const size_t i = item * SQUARE, n = p->n, end = i + part(p->m, i, SQUARE), whole = end - end % 4;
    (void)worker;
    for (size_t j = 0; j < i; j += 4)
        for (size_t r = i; r < whole; r += 4)
            turn_four(p->c + j * n + r, p->c + r * n + j, n);
    for (size_t r = whole; r < end; r++)
        for (size_t j = 0; j < i; j++)
            p->c[r * n + j] = p->c[j * n + r];
}

/* Work for all workers, or done here if there is little of it. */
static void each(const struct product *p, size_t count, void (*work)(void *context, uint32_t worker, size_t item)) {
    if (p->m * p->n * p->k > ALONE) {
        team_each(p->team, count, work, (void *)(uintptr_t)p);
        return;
    }
    for (size_t i = 0; i < count; i++)
        work((void *)(uintptr_t)p, 0, i);
}

/* A share of `total`, in whole panels. */
static size_t piece(size_t total, size_t shares, size_t most) {
    return min_u64(most, ceil_div(ceil_div(total, shares), KERNEL_PANEL) * KERNEL_PANEL);
}

/* As few items as keep all workers busy: each reads the whole packed b, or its span of that. */
static void divide(struct product *p) {
    const size_t workers = team_workers(p->team);
    const bool symmetric = p->how & GEMM_SYMMETRIC;
    p->cols = symmetric ? SQUARE : piece(p->n, workers, COLS);
    p->rows = symmetric ? SQUARE : piece(p->m, workers, ROWS);
    p->blocks = ceil_div(p->n, p->cols);
    p->chunks = ceil_div(p->k, DEPTH);
    p->spans = symmetric ? 1 : min_u64(p->blocks, ceil_div(workers, ceil_div(p->m, p->rows)));
    p->area = kernel_factor_bytes(p->cols, min_u64(p->k, DEPTH));
    p->packed = kernel_factor_bytes(p->rows, min_u64(p->k, DEPTH));
}

void gemm_f32(struct team *team, int how, size_t m, size_t n, size_t k, const float *a, const float *b, float *c) {
    const struct kernel_table *t = team_kernels(team);
    const bool exact = how & GEMM_EXACT;
    struct product p = {.team = team, .how = how, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c};
    p.pack = exact ? t->factor : t->factor_bf16;
    p.multiply = exact ? t->product : t->product_bf16;
    if (!m || !n)
        return;
    if (!k) {
        if (!(how & GEMM_ADD))
            memset(c, 0, m * n * sizeof(*c));
        return;
    }
    divide(&p);
    const size_t areas = p.blocks * p.chunks;
    p.right = team_scratch(team, 0, areas * p.area + p.packed);
    if (!p.right)
        return;
    p.left = p.right + areas * p.area;
    each(&p, areas, pack_area);
    each(&p, ceil_div(m, p.rows) * p.spans, multiply_rows);
    if (how & GEMM_SYMMETRIC)
        each(&p, ceil_div(m, SQUARE), mirror_rows);
}
