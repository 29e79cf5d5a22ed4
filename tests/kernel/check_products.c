/*
 * check_products.c - the kernels of products: gemm of whole inputs and of packed ones, and products of two factors.
 *
 * The truth is summed in double precision over weights as matrix_decode() reads them.
 */
#include <math.h>
#include <stdlib.h>

#include "checks.h"

enum { MOST_COLS = 20000 };

/* --------------------------------------------------------------------------- of a matrix of weights */

/* Scales of random blocks; FP8 blocks are the released 128 by 128 where `released`, else 16 by 32. */
static void random_scales(struct matrix *m, bool released) {
    static uint8_t bytes[1 << 16];
    bool fp4 = m->format == FORMAT_FP4;
    m->block_rows = fp4 ? 1 : released ? 128 : 16;
    m->block_cols = fp4 || !released ? 32 : 128;
    m->scale_cols = (m->cols + m->block_cols - 1) / m->block_cols;
    m->scale_format = fp4 || rng_u64(&rng) % 4 ? SCALE_E8M0 : SCALE_F32;
    size_t count = (size_t)m->scale_cols * ((m->rows + m->block_rows - 1) / m->block_rows);
    bool extreme = rng_u64(&rng) % 8 == 0; /* scales at the ends of their range, but for products that overflow */
    assert_true(count * sizeof(float) <= sizeof(bytes));
    for (size_t i = 0; i < count; i++) {
        uint8_t exponent = (uint8_t)(extreme ? rng_u64(&rng) % 200 : 120 + rng_u64(&rng) % 12);
        float scale = random_float();
        if (m->scale_format == SCALE_E8M0)
            bytes[i] = exponent;
        else
            memcpy(bytes + i * sizeof(float), &scale, sizeof(scale));
    }
    m->scale = bytes;
}

static struct matrix random_matrix(enum format format, uint32_t rows, uint32_t cols) {
    size_t bits[] = {[FORMAT_F32] = 32, [FORMAT_BF16] = 16, [FORMAT_F16] = 16, [FORMAT_FP8] = 8, [FORMAT_FP4] = 4};
    size_t size = (size_t)rows * cols * bits[format] / 8, odd = rng_u64(&rng) & 1 ? rng_u64(&rng) % 4 : 0;
    uint8_t *bytes = (uint8_t *)floats((size + odd + 3) / 4);
    bytes += (size + odd + 3) / 4 * 4 - size - odd; /* any alignment; up to the end of readable memory if odd is 0 */
    struct matrix m = {.format = format, .rows = rows, .cols = cols, .data = bytes};
    if (format == FORMAT_FP8 || format == FORMAT_FP4) {
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)(rng_u64(&rng) % 127 | (rng_u64(&rng) & 128)); /* no NaN */
        random_scales(&m, rng_u64(&rng) & 1);
    } else if (format != FORMAT_F32) {
        for (size_t i = 0; i < size; i += 2) { /* modest exponents in both half formats */
            uint16_t half = (uint16_t)((rng_u64(&rng) & 0x83ff) | (format == FORMAT_F16 ? 0x3800 : 0x3f00));
            memcpy(bytes + i, &half, sizeof(half));
        }
    } else {
        for (size_t i = 0; i < size; i += 4) {
            float x = random_float();
            memcpy(bytes + i, &x, sizeof(x));
        }
    }
    return m;
}

struct product product_of(enum format format, uint32_t total, uint32_t cols, uint32_t count) {
    struct product p = {.count = count};
    p.row = rng_u64(&rng) & 1 ? 0 : up_to(total) - 1;
    p.rows = up_to(total - p.row);
    p.ldx = cols + up_to(3) - 1;
    p.ldy = p.rows + up_to(3) - 1;
    p.w = random_matrix(format, total, cols);
    p.x = floats((p.count - 1) * p.ldx + cols);
    p.y = floats((p.count - 1) * p.ldy + p.rows);
    return p;
}

struct product random_product(void) {
    enum format format = (enum format)(rng_u64(&rng) % 5);
    uint32_t cols = rng_u64(&rng) & 1 ? 128 * up_to(5) : format == FORMAT_FP4 ? 2 * up_to(300) : up_to(600);
    uint32_t total = rng_u64(&rng) % 4 ? up_to(20) : up_to(80);
    uint32_t count = rng_u64(&rng) % 4 ? up_to(9) : up_to(100);
    if (rng_u64(&rng) % 16 == 0) {
        cols = 4000 + 2 * up_to(MOST_COLS / 2 - 2000);
        total = up_to(3);
    }
    return product_of(format, total, cols, count);
}

/* Most that x[c] changes when the 32 columns it is among become bf16 or 8-bit integers times a scale. */
static double integer_rounding(const float *x, uint32_t cols, uint32_t c) {
    double most = 0;
    for (uint32_t i = c / 32 * 32; i < c / 32 * 32 + 32 && i < cols; i++)
        most = fmax(most, fabs((double)x[i]));
    return most / 254 * 1.000001 + fabs((double)x[c]) / 256 + 0x1p-119;
}

static bool product_holds(const struct product *p, bool rounded) {
    static float decoded[MOST_COLS];
    bool good = true;
    for (uint32_t r = 0; r < p->rows; r++) {
        matrix_decode(&p->w, p->row + r, 0, p->w.cols, decoded);
        for (uint32_t s = 0; s < p->count; s++) {
            double want = 0, magnitude = 0, vanishing = 0; /* of what may count as 0, or be rounded */
            for (uint32_t c = 0; c < p->w.cols; c++) {
                float x = rounded ? bf16_round(p->x[s * p->ldx + c]) : p->x[s * p->ldx + c];
                if (rounded && p->count == 1 && p->w.format == FORMAT_FP4)
                    vanishing += fabs((double)decoded[c]) * integer_rounding(p->x, p->w.cols, c);
                double term = (double)x * decoded[c];
                want += term;
                magnitude += fabs(term);
                if (rounded && (fabsf(decoded[c]) < 0x1p-126f || fabsf(x) < 0x1p-126f))
                    vanishing += fabs(term);
            }
            double got = p->y[s * p->ldy + r];
            good &= fabs(got - want) <= dot_error(magnitude, p->w.cols) + vanishing;
        }
    }
    return good;
}

bool check_gemm(const struct kernel_table *t) {
    struct product p = random_product();
    t->gemm(&p.w, p.row, p.rows, p.x, p.ldx, p.count, p.y, p.ldy);
    return product_holds(&p, false);
}

void multiply_packed(const struct kernel_table *t, const struct product *p) {
    size_t bytes = kernel_packed_bytes(p->w.cols, p->count);
    void *packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(packed);
    memset(packed, 0xff, bytes); /* NaN in all that is not packed */
    for (uint32_t c = 0, n; c < p->w.cols; c += n) {
        n = KERNEL_PACK_COLS * up_to(3);
        n = n < p->w.cols - c ? n : p->w.cols - c;
        t->pack(&p->w, p->x + c, p->ldx, p->count, c, n, packed);
    }
    t->gemm_bf16(&p->w, p->row, p->rows, packed, p->count, p->y, p->ldy, scratch);
    free(packed);
}

bool check_gemm_bf16(const struct kernel_table *t) {
    struct product p = random_product();
    multiply_packed(t, &p);
    return product_holds(&p, true);
}

bool check_pack(const struct kernel_table *t) {
    return check_gemm_bf16(t);
}

/* ----------------------------------------------------------------------------------- of two factors */

/* Two factors in whatever order they lie, and c, which may be added to. */
struct factors {
    uint32_t rows, cols, depth;
    int left_how, right_how;
    size_t left_ld, right_ld, ldc;
    float *left, *right, *c;
    bool add;
};

static size_t random_factor(int how, uint32_t rows, uint32_t depth, float **x) {
    const uint32_t along = how & KERNEL_TURNED ? rows : depth, across = how & KERNEL_TURNED ? depth : rows;
    const size_t ld = along + up_to(20) - 1;
    *x = floats((across - 1) * ld + along);
    return ld;
}

static struct factors random_factors(void) {
    struct factors f = {.rows = up_to(100), .cols = up_to(100), .depth = up_to(up_to(4) == 1 ? 600 : 70)};
    f.left_how = rng_u64(&rng) % 2 ? KERNEL_TURNED : 0;
    f.right_how = KERNEL_RIGHT | (rng_u64(&rng) % 2 ? KERNEL_TURNED : 0);
    f.left_ld = random_factor(f.left_how, f.rows, f.depth, &f.left);
    f.right_ld = random_factor(f.right_how, f.cols, f.depth, &f.right);
    f.ldc = f.cols + up_to(20) - 1;
    f.c = floats((f.rows - 1) * f.ldc + f.cols);
    f.add = rng_u64(&rng) % 2;
    return f;
}

static double factor_at(const float *x, size_t ld, int how, uint32_t row, uint32_t k, bool rounded) {
    float value = how & KERNEL_TURNED ? x[k * ld + row] : x[row * ld + k];
    return (double)(rounded ? bf16_round(value) : value);
}

/* True if c is what came of `before`, and nothing between its rows is touched. */
static bool factors_hold(const struct factors *f, const float *before, bool rounded) {
    bool good = true;
    for (size_t i = 0; i < (f->rows - 1) * f->ldc + f->cols; i++) {
        const uint32_t row = (uint32_t)(i / f->ldc), col = (uint32_t)(i % f->ldc);
        if (col >= f->cols) {
            good &= float_bits(f->c[i]) == float_bits(before[i]);
            continue;
        }
        double want = f->add ? (double)before[i] : 0, magnitude = fabs(want);
        for (uint32_t k = 0; k < f->depth; k++) {
            double term = factor_at(f->left, f->left_ld, f->left_how, row, k, rounded) *
                          factor_at(f->right, f->right_ld, f->right_how, col, k, rounded);
            want += term;
            magnitude += fabs(term);
        }
        good &= near_dot(f->c[i], want, magnitude, f->depth + 1);
    }
    return good;
}

static bool check_factors(const struct kernel_table *t, bool rounded) {
    struct factors f = random_factors();
    const size_t left_bytes = kernel_factor_bytes(f.rows, f.depth), right_bytes = kernel_factor_bytes(f.cols, f.depth);
    const size_t count = (f.rows - 1) * f.ldc + f.cols;
    float *before = malloc(count * sizeof(float));
    uint8_t *left = aligned_alloc(64, left_bytes), *right = aligned_alloc(64, right_bytes);
    assert_true(before && left && right);
    memset(left, 0xff, left_bytes); /* NaN in all that is not packed */
    memset(right, 0xff, right_bytes);
    memcpy(before, f.c, count * sizeof(float));
    (rounded ? t->factor_bf16 : t->factor)(f.left, f.left_ld, f.left_how, f.rows, f.depth, left);
    (rounded ? t->factor_bf16 : t->factor)(f.right, f.right_ld, f.right_how, f.cols, f.depth, right);
    (rounded ? t->product_bf16 : t->product)(left, right, f.rows, f.cols, f.depth, f.add, f.c, f.ldc);
    const bool good = factors_hold(&f, before, rounded);
    free(before);
    free(left);
    free(right);
    return good;
}

bool check_factor(const struct kernel_table *t) {
    return check_factors(t, false);
}

bool check_product(const struct kernel_table *t) {
    return check_factors(t, false);
}

bool check_factor_bf16(const struct kernel_table *t) {
    return check_factors(t, true);
}

bool check_product_bf16(const struct kernel_table *t) {
    return check_factors(t, true);
}
