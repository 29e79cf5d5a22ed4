/*
 * test_kernel.c - every kernel of every level against a plain double-precision reading of its contract.
 *
 * Buffers end at an unreadable page, so a read past the end faults, or for half of them at some float before it, so
 * that starts are aligned to a float and no more; guard words before and behind must survive. A signal names the
 * kernel. Lengths run through every tail. The seed is printed; SONDE_TEST_SEED repeats one; SONDE_TEST_ROUNDS says how
 * many random inputs each kernel gets. The last test sabotages each kernel in turn and expects the check to notice.
 * `test_kernel --bench [LEVEL [KERNEL]]` times them instead (bench.c), `--bench-invariant` those of invariant tables.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

#include "base/base.h"
#include "bench.h"
#include "kernel/kernel.h"

/* --------------------------------------------------------------------------------------- buffers */

enum { BUFFERS = 12, GUARD = 16, MOST_COLS = 20000 };
#define GUARD_WORD 0x5eed5eedu

static struct guarded {
    uint8_t *map;
    size_t map_bytes, count, slack; /* floats behind the data */
    float *data;
} buffers[BUFFERS];
static int used;
static struct rng rng;

static float random_float(void) {
    float x = (float)(2 * rng_unit(&rng) - 1);
    switch (rng_u64(&rng) % 32) {
    case 0:
        return 0;
    case 1:
        return x * 1e4f;
    case 2:
        return x * 1e-6f;
    default:
        return x;
    }
}

/* `count` random floats whose end is the end of readable memory or up to GUARD floats before. */
static float *floats(size_t count) {
    assert_true(used < BUFFERS);
    struct guarded *g = &buffers[used++];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (count + 2 * GUARD) * sizeof(float);
    g->map_bytes = (bytes + page - 1) / page * page + page;
    g->map = mmap(NULL, g->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g->map != MAP_FAILED);
    assert_int_equal(mprotect(g->map + g->map_bytes - page, page, PROT_NONE), 0);
    g->count = count;
    g->slack = rng_u64(&rng) & 1 ? rng_u64(&rng) % GUARD : 0;
    g->data = (float *)(void *)(g->map + g->map_bytes - page) - count - g->slack;
    for (int i = 1; i <= GUARD; i++)
        g->data[-i] = bits_float(GUARD_WORD);
    for (size_t i = 0; i < g->slack; i++)
        g->data[count + i] = bits_float(GUARD_WORD);
    for (size_t i = 0; i < count; i++)
        g->data[i] = random_float();
    return g->data;
}

/* Frees all buffers; false if a guard word was written. */
static bool release(void) {
    bool whole = true;
    while (used) {
        struct guarded *g = &buffers[--used];
        for (int i = 1; i <= GUARD; i++)
            whole &= float_bits(g->data[-i]) == GUARD_WORD;
        for (size_t i = 0; i < g->slack; i++)
            whole &= float_bits(g->data[g->count + i]) == GUARD_WORD;
        munmap(g->map, g->map_bytes);
    }
    return whole;
}

static double unit = 0x1p-24;

/* The dot contract for n terms whose magnitudes sum to `magnitude`. */
static double dot_error(double magnitude, size_t n) {
    return 16 * unit * magnitude * (1 + (double)n / 256) + (double)n * 0x1p-126;
}

static bool near_dot(float got, double want, double magnitude, size_t n) {
    return fabs((double)got - want) <= dot_error(magnitude, n);
}

static bool near_ulp(float got, double want, double ulps) {
    return fabs((double)got - want) <= ulps * 2 * unit * fabs(want) + 1e-38;
}

static uint32_t up_to(uint32_t n) {
    return 1 + (uint32_t)(rng_u64(&rng) % n);
}

/* ---------------------------------------------------------------------------------------- checks */

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

/* A random product: its matrix, the part of it that is wanted, its inputs and outputs. */
struct product {
    struct matrix w;
    uint32_t row, rows, count;
    size_t ldx, ldy;
    float *x, *y;
};

/* Of some rows of a matrix of `total`. */
static struct product product_of(enum format format, uint32_t total, uint32_t cols, uint32_t count) {
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

/* Widths of every tail, or what real matrices have: multiples of 128. Now and then one too wide for any scratch. */
static struct product random_product(void) {
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

static bool check_gemm(const struct kernel_table *t) {
    struct product p = random_product();
    t->gemm(&p.w, p.row, p.rows, p.x, p.ldx, p.count, p.y, p.ldy);
    return product_holds(&p, false);
}

static _Alignas(64) uint8_t scratch[KERNEL_SCRATCH_BYTES];

/* gemm_bf16 of inputs packed in pieces. */
static void multiply_packed(const struct kernel_table *t, const struct product *p) {
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

static bool check_gemm_bf16(const struct kernel_table *t) {
    struct product p = random_product();
    multiply_packed(t, &p);
    return product_holds(&p, true);
}

static bool check_pack(const struct kernel_table *t) {
    return check_gemm_bf16(t);
}

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

static bool check_factor(const struct kernel_table *t) {
    return check_factors(t, false);
}

static bool check_product(const struct kernel_table *t) {
    return check_factors(t, false);
}

static bool check_factor_bf16(const struct kernel_table *t) {
    return check_factors(t, true);
}

static bool check_product_bf16(const struct kernel_table *t) {
    return check_factors(t, true);
}

static bool check_rms_norm(const struct kernel_table *t) {
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

static bool check_rotate(const struct kernel_table *t) {
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
        double allowed = 4 * unit * fmax(fabs(a), fabs(b)) + 1e-38;
        good &= fabs(x[2 * i] - (a * c - b * s)) <= allowed && fabs(x[2 * i + 1] - (a * s + b * c)) <= allowed;
    }
    return good;
}

static bool check_hadamard(const struct kernel_table *t) {
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

static bool same(float a, float b) {
    return float_bits(a) == float_bits(b) || (isnan(a) && isnan(b));
}

/* Any bits at all, or values of one exponent and those near it. */
static void make_extreme(float *x, size_t n) {
    uint32_t exponent = (uint32_t)(rng_u64(&rng) % 254), kind = (uint32_t)(rng_u64(&rng) % 8);
    for (size_t i = 0; i < n && kind < 4; i++) {
        uint32_t bits = (uint32_t)rng_u64(&rng);
        x[i] = bits_float(kind ? (bits & 0x81ffffff) + (exponent << 23) : bits);
    }
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

static bool check_fake_e4m3(const struct kernel_table *t) {
    return check_exact(t->fake_e4m3, e4m3_fake, rng_u64(&rng) & 1 ? 64 : 128);
}

static bool check_fake_e2m1(const struct kernel_table *t) {
    return check_exact(t->fake_e2m1, e2m1_fake, 32);
}

static bool check_round_bf16(const struct kernel_table *t) {
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

/* Shapes as released, or any the format allows. */
static struct row_format random_format(enum row_kind kind, uint32_t dim) {
    struct row_format f = {kind, dim, 0};
    if (kind == ROW_KEY || kind == ROW_KEY_F32)
        f.rotated = dim > 64 && rng_u64(&rng) & 1 ? dim % 64 + 64 : up_to(dim);
    return f;
}

/* `count` rows of the format at any address, of modest floats, and in `decoded` [count, dim] what they hold. */
static const uint8_t *random_rows(const struct row_format *f, uint32_t count, float **decoded) {
    size_t bytes = row_bytes(f), words = (count * bytes + 3) / 4;
    float *x = floats((size_t)count * f->dim);
    uint8_t *rows = (uint8_t *)floats(words);
    rows += f->kind != ROW_F32 && rng_u64(&rng) & 1 ? words * 4 - count * bytes : 0;
    for (uint32_t i = 0; i < count; i++) {
        float *row = x + (size_t)i * f->dim;
        for (uint32_t c = 0; c < f->dim; c++)
            row[c] = fmaxf(-2, fminf(2, row[c]));
        row_encode(f, row, rows + i * bytes);
        row_decode(f, rows + i * bytes, 0, f->dim, row);
    }
    *decoded = x;
    return rows;
}

static bool check_store_row(const struct kernel_table *t) {
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), rng_u64(&rng) % 8 ? up_to(200) : 512);
    size_t bytes = row_bytes(&f), words = (bytes + 3) / 4;
    float *x = floats(f.dim);
    uint8_t want[4 * 512], *row = (uint8_t *)floats(words) + words * 4 - bytes;
    make_extreme(x, f.dim);
    row_encode(&f, x, want);
    t->store_row(&f, x, row);
    return memcmp(row, want, bytes) == 0;
}

/* A random attention: its queries, and keys picked from random rows. */
struct attention {
    uint32_t heads, count;
    struct row_format format;
    float *q, *sink, *weights, *out, scale;
    const void *keys[300];
    const float *decoded[300];
};

static void random_attention(struct attention *a, struct row_format format, uint32_t heads, uint32_t count) {
    *a = (struct attention){.heads = heads, .count = count, .format = format};
    uint32_t dim = format.dim;
    a->scale = 1 / sqrtf((float)dim);
    a->q = floats((size_t)heads * dim);
    a->sink = floats(heads);
    a->weights = floats((size_t)heads * count);
    a->out = floats((size_t)heads * dim);
    float *all;
    const uint8_t *rows = random_rows(&format, count, &all);
    for (uint32_t i = 0; i < heads * dim; i++)
        a->q[i] = fmaxf(-2, fminf(2, a->q[i]));
    for (uint32_t h = 0; h < heads; h++)
        a->sink[h] = fmaxf(-3, fminf(3, a->sink[h]));
    for (uint32_t k = 0; k < count; k++) {
        uint32_t i = up_to(count) - 1;
        a->keys[k] = rows + i * row_bytes(&format);
        a->decoded[k] = all + (size_t)i * dim;
    }
}

/* `rounding` is what weights may be off, relative to themselves. */
static bool attend_holds(const struct attention *a, double rounding) {
    const uint32_t dim = a->format.dim;
    bool good = true;
    for (uint32_t h = 0; h<a->heads; h += a->heads> 16 ? 16 : 1) { /* the truth takes its time */
        double w[300], total = exp((double)a->sink[h]);
        for (uint32_t k = 0; k < a->count; k++) {
            double logit = 0;
            for (uint32_t c = 0; c < dim; c++)
                logit += (double)a->q[h * dim + c] * a->decoded[k][c];
            total += w[k] = exp(logit * (double)a->scale);
        }
        for (uint32_t c = 0; c < dim; c++) {
            double want = 0, magnitude = 0;
            for (uint32_t k = 0; k < a->count; k++) {
                want += w[k] / total * a->decoded[k][c];
                magnitude += w[k] / total * fabs((double)a->decoded[k][c]);
            }
            good &=
                fabs(a->out[h * dim + c] - want) <= dot_error(16 * magnitude, dim + a->count) + rounding * magnitude;
        }
    }
    return good;
}

/* Packed keys give the bits that the same keys as floats give. */
static bool check_attend(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 32 == 0; /* as released */
    uint32_t heads = large ? up_to(130) : up_to(5), dim = large ? 512 : up_to(200), count = up_to(large ? 300 : 40);
    struct row_format plain = {ROW_F32, dim, 0};
    struct attention a;
    random_attention(&a, random_format((enum row_kind)(rng_u64(&rng) % 4), dim), heads, count);
    float *again = floats((size_t)heads * dim);
    t->attend(a.q, heads, &a.format, a.keys, count, a.sink, a.scale, a.weights, a.out);
    for (uint32_t k = 0; k < count; k++)
        a.keys[k] = a.decoded[k];
    t->attend(a.q, heads, &plain, a.keys, count, a.sink, a.scale, a.weights, again);
    return attend_holds(&a, 0) && memcmp(a.out, again, (size_t)heads * dim * sizeof(*again)) == 0;
}

/* A shape that fast kernels are made for, or any. Half the scales of keys are extreme now and then. */
static bool check_attend_bf16(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 16 == 0;
    uint32_t heads = large ? 32 * up_to(4) : up_to(5), dim = large ? 128 * up_to(4) : up_to(200);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim);
    struct attention a;
    if (large)
        f = (struct row_format){ROW_KEY, dim, 64};
    random_attention(&a, f, heads, up_to(large ? 300 : 40));
    for (uint32_t i = 0; i < heads * dim; i++)
        a.q[i] = bf16_round(a.q[i]);
    t->attend_bf16(a.q, heads, &f, a.keys, a.count, a.sink, a.scale, a.weights, a.out, scratch);
    return attend_holds(&a, 0x1p-8);
}

/* What `lost` queries' channels add may be missing: those below 2^-126. */
static bool scores_hold(const float *q, const float *w, uint32_t heads, uint32_t dim, const float *keys, uint32_t count,
                        const float *scores, double lost) {
    bool good = true;
    for (uint32_t i = 0; i < count; i++) {
        double want = 0, magnitude = 0, missing = 0;
        for (uint32_t h = 0; h < heads; h++) {
            double match = 0, sum = 0;
            for (uint32_t c = 0; c < dim; c++) {
                double term = (double)q[h * dim + c] * keys[i * dim + c];
                match += term;
                sum += fabs(term);
                if (fabs((double)q[h * dim + c]) < 0x1p-126)
                    missing += lost * fabs(w[h] * term);
            }
            want += w[h] * fmax(match, 0);
            magnitude += fabs((double)w[h]) * sum;
        }
        good &= fabs(scores[i] - want) <= dot_error(2 * magnitude, dim + heads) + missing;
    }
    return good;
}

/* A random call of index_scores: scores lie `ld` apart, and what is between them is as it was before. */
struct scoring {
    uint32_t rows, heads, count;
    size_t ld;
    struct row_format format;
    float *q, *w, *keys, *scores, *before;
    const uint8_t *stored;
};

static void random_scoring(struct scoring *s, struct row_format format, uint32_t rows, uint32_t heads, uint32_t count) {
    *s = (struct scoring){rows, heads, count, .ld = count + up_to(20) - 1, .format = format};
    size_t all = (rows - 1) * s->ld + count;
    s->q = floats((size_t)rows * heads * format.dim);
    s->w = floats((size_t)rows * heads);
    s->stored = random_rows(&format, count, &s->keys);
    s->scores = floats(all);
    s->before = floats(all);
    memcpy(s->before, s->scores, all * sizeof(float));
}

/* Rows [row, row + rows) against keys [key, key + count). */
static void score_some(const struct kernel_table *t, const struct scoring *s, bool bf16, uint32_t row, uint32_t rows,
                       uint32_t key, uint32_t count, float *scores) {
    const float *q = s->q + (size_t)row * s->heads * s->format.dim, *w = s->w + (size_t)row * s->heads;
    const uint8_t *keys = s->stored + key * row_bytes(&s->format);
    scores += row * s->ld + key;
    if (bf16)
        t->index_scores_bf16(q, w, rows, s->heads, &s->format, keys, count, scores, s->ld, scratch);
    else
        t->index_scores(q, w, rows, s->heads, &s->format, keys, count, scores, s->ld);
}

static bool all_scores_hold(const struct scoring *s, double lost) {
    const uint32_t heads = s->heads, dim = s->format.dim;
    bool good = true;
    for (uint32_t r = 0; r < s->rows; r++) {
        const float *scores = s->scores + r * s->ld;
        good &= scores_hold(s->q + (size_t)r * heads * dim, s->w + (size_t)r * heads, heads, dim, s->keys, s->count,
                            scores, lost);
        if (r + 1 < s->rows)
            good &=
                memcmp(scores + s->count, s->before + r * s->ld + s->count, (s->ld - s->count) * sizeof(float)) == 0;
    }
    return good;
}

/* Packed keys give the bits that the same keys as floats give. */
static bool check_index_scores(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 32 == 0, wide = rng_u64(&rng) % 32 == 0;
    uint32_t heads = up_to(large ? 130 : 20), dim = large ? 128 : up_to(wide ? 600 : 130);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim), plain = {ROW_F32, dim, 0};
    struct scoring s;
    random_scoring(&s, f, up_to(large ? 3 : 7), heads, up_to(large ? 150 : 9));
    score_some(t, &s, false, 0, s.rows, 0, s.count, s.scores);
    bool good = all_scores_hold(&s, 0);
    t->index_scores(s.q, s.w, s.rows, heads, &plain, s.keys, s.count, s.before, s.ld);
    return good && memcmp(s.scores, s.before, ((s.rows - 1) * s.ld + s.count) * sizeof(float)) == 0;
}

static bool check_index_scores_bf16(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 16 == 0;
    uint32_t heads = large ? 32 * up_to(4) : up_to(20), dim = large ? 128 * up_to(2) : up_to(130);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim);
    struct scoring s;
    if (large)
        f = (struct row_format){ROW_INDEX, dim, 0};
    random_scoring(&s, f, up_to(large ? 3 : 7), heads, up_to(large ? 100 : 9));
    for (uint32_t i = 0; i < s.rows * heads * dim; i++)
        s.q[i] = bf16_round(s.q[i]);
    score_some(t, &s, true, 0, s.rows, 0, s.count, s.scores);
    return all_scores_hold(&s, 1);
}

static bool check_pool(const struct kernel_table *t) {
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

static bool check_hc_weights(const struct kernel_table *t) {
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

static bool check_hc_collapse(const struct kernel_table *t) {
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

static bool check_hc_spread(const struct kernel_table *t) {
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

static bool check_swiglu(const struct kernel_table *t) {
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

static bool check_axpy(const struct kernel_table *t) {
    size_t n = up_to(100);
    float *x = floats(n), *y = floats(n), a = random_float(), before[100];
    bool good = true;
    memcpy(before, y, n * sizeof(float));
    t->axpy(y, x, n, a);
    for (size_t i = 0; i < n; i++) {
        double term = (double)a * x[i], larger = fmax(fabs(term), fabs((double)before[i]));
        good &= fabs(y[i] - (before[i] + term)) <= 4 * unit * larger + 1e-38;
    }
    return good;
}

/* The numbers are also those of each row by itself. */
static bool check_dots(const struct kernel_table *t) {
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
static bool check_mix(const struct kernel_table *t) {
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

/* ------------------------------------------------------------------------------------ the checks */

/* Kernels that have an invariant twin, the first of all. */
enum {
#define COUNT_PRODUCT(name, returns, parameters) PRODUCT_##name,
    KERNEL_PRODUCTS(COUNT_PRODUCT)
#undef COUNT_PRODUCT
        PRODUCTS
};

static const struct {
    const char *name;
    bool (*run)(const struct kernel_table *t);
} checks[] = {
#define CHECK_ROW(name, returns, parameters) {#name, check_##name},
    KERNELS(CHECK_ROW)
#undef CHECK_ROW
};

static int rounds = 400;

/* What a signal interrupts. */
static const char *running_kernel, *running_level;

static void say(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

static void on_signal(int number) {
    say(number == SIGILL ? "\nSIGILL in " : number == SIGSEGV ? "\nSIGSEGV in " : "\nSIGBUS or SIGFPE in ");
    say(running_kernel);
    say("_");
    say(running_level);
    say("\n");
    _exit(1);
}

static void name_signals(void) {
    static const int numbers[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        signal(numbers[i], on_signal);
}

/* False as soon as one of `rounds` random inputs breaks the contract of a kernel. */
static bool holds(size_t check, const struct kernel_table *t) {
    bool good = true;
    running_kernel = checks[check].name;
    for (int i = 0; i < rounds && good; i++) {
        good = checks[check].run(t);
        good &= release();
    }
    return good;
}

static void test_kernels__keep_their_contracts(void **state) {
    (void)state;
    name_signals();
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!kernel_level_runs((enum kernel_level)level))
            continue;
        running_level = kernel_level_name((enum kernel_level)level);
        kernel_table_init(&t, (enum kernel_level)level, false);
        for (size_t i = 0; i < COUNT_OF(checks); i++)
            if (!holds(i, &t))
                fail_msg("%s_%s breaks its contract", checks[i].name, running_level);
        kernel_table_init(&t, (enum kernel_level)level, true);
        for (size_t i = 0; i < PRODUCTS; i++)
            if (!holds(i, &t))
                fail_msg("%s_invariant_%s breaks its contract", checks[i].name, running_level);
    }
}

/* ------------------------------------------------------------------------------------ invariance */

static void multiply_plainly(const struct kernel_table *t, const struct product *p) {
    t->gemm(&p->w, p->row, p->rows, p->x, p->ldx, p->count, p->y, p->ldy);
}

/* True if a product has the same bits when some tokens and some rows at a time are multiplied. */
static bool parts_agree(const struct kernel_table *t,
                        void (*multiply)(const struct kernel_table *t, const struct product *p)) {
    bool long_one = rng_u64(&rng) % 32 == 0; /* more than any level multiplies at once */
    struct product p =
        long_one ? product_of((enum format)(rng_u64(&rng) % 5), up_to(80), 1152, 500 + up_to(100)) : random_product();
    struct product part = p;
    float *again = floats((p.count - 1) * p.ldy + p.rows);
    bool good = true;
    multiply(t, &p);
    for (uint32_t s = 0; s < p.count; s += part.count) {
        part.count = up_to(rng_u64(&rng) & 1 ? 3 : p.count);
        part.count = part.count < p.count - s ? part.count : p.count - s;
        part.x = p.x + s * p.ldx;
        for (uint32_t r = 0; r < p.rows; r += part.rows) {
            part.row = p.row + r;
            part.rows = up_to(p.rows - r);
            part.y = again + s * p.ldy + r;
            multiply(t, &part);
        }
    }
    for (uint32_t s = 0; s < p.count; s++)
        good &= memcmp(p.y + s * p.ldy, again + s * p.ldy, p.rows * sizeof(float)) == 0;
    return good;
}

static void test_products__are_the_same_beside_any_others(void **state) {
    (void)state;
    name_signals();
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!kernel_level_runs((enum kernel_level)level))
            continue;
        running_level = kernel_level_name((enum kernel_level)level);
        running_kernel = "products in parts";
        kernel_table_init(&t, (enum kernel_level)level, true);
        for (int i = 0; i < rounds; i++) {
            bool plain = parts_agree(&t, multiply_plainly), packed = release() && parts_agree(&t, multiply_packed);
            if (!plain || !packed || !release())
                fail_msg("%s at level %s depends on what else is multiplied", plain ? "gemm_bf16" : "gemm",
                         running_level);
        }
    }
}

static void attend_some(const struct kernel_table *t, const struct attention *a, bool bf16, uint32_t head,
                        uint32_t heads, float *out) {
    size_t at = (size_t)head * a->format.dim;
    if (bf16)
        t->attend_bf16(a->q + at, heads, &a->format, a->keys, a->count, a->sink + head, a->scale, a->weights, out + at,
                       scratch);
    else
        t->attend(a->q + at, heads, &a->format, a->keys, a->count, a->sink + head, a->scale, a->weights, out + at);
}

/* True if a head has the same bits when some heads at a time attend: any, or with attend_bf16 those it is made for. */
static bool heads_agree(const struct kernel_table *t, bool bf16) {
    const uint32_t step = bf16 ? KERNEL_ATTEND_HEADS : 1, heads = step * up_to(6), dim = 128 * up_to(2);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim);
    struct attention a;
    if (bf16)
        f = (struct row_format){ROW_KEY, dim, 64};
    random_attention(&a, f, heads, up_to(300));
    float *again = floats((size_t)heads * dim);
    attend_some(t, &a, bf16, 0, heads, a.out);
    for (uint32_t h = 0, n; h < heads; h += n) {
        n = step * up_to((heads - h) / step);
        attend_some(t, &a, bf16, h, n, again);
    }
    return memcmp(a.out, again, (size_t)heads * dim * sizeof(float)) == 0;
}

/* True if a row and a key have the same score when some rows at a time meet some keys at a time. Now and then a key is
 * 0. */
static bool scores_agree(const struct kernel_table *t, bool bf16) {
    bool many = rng_u64(&rng) % 4 == 0;
    uint32_t heads = many ? 128 : bf16 ? 32 * up_to(4) : up_to(20);
    uint32_t rows = up_to(many ? 20 : 6), count = up_to(many ? 40 : 200);
    struct row_format f = {ROW_INDEX, 64 * up_to(5), 0};
    struct scoring s;
    random_scoring(&s, f, rows, heads, count);
    if (rng_u64(&rng) & 1)
        row_encode(&f, memset(s.keys, 0, f.dim * sizeof(float)),
                   (void *)(uintptr_t)(s.stored + (up_to(count) - 1) * row_bytes(&f)));
    score_some(t, &s, bf16, 0, rows, 0, count, s.scores);
    for (uint32_t r = 0, some; r < rows; r += some) {
        some = up_to(rows - r);
        for (uint32_t k = 0, n; k < count; k += n) {
            n = up_to(count - k);
            score_some(t, &s, bf16, r, some, k, n, s.before);
        }
    }
    return memcmp(s.scores, s.before, ((rows - 1) * s.ld + count) * sizeof(float)) == 0;
}

static void test_attention__heads_and_keys_do_not_touch(void **state) {
    (void)state;
    name_signals();
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!kernel_level_runs((enum kernel_level)level))
            continue;
        running_level = kernel_level_name((enum kernel_level)level);
        running_kernel = "attention in parts";
        kernel_table_init(&t, (enum kernel_level)level, false);
        for (int i = 0; i < rounds / 8; i++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                bool heads = heads_agree(&t, bf16), scores = release() && scores_agree(&t, bf16);
                if (!heads || !scores || !release())
                    fail_msg("%s%s_%s depends on what is beside", heads ? "index_scores" : "attend",
                             bf16 ? "_bf16" : "", running_level);
            }
    }
}

/* ---------------------------------------------------------------------------------------- faults */

static struct kernel_table real;

static void nudge(float *x) {
    *x = *x * 1.001f + 1e-3f;
}

static void gemm_fault(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                       float *y, size_t ldy) {
    real.gemm(w, row, rows, x, ldx, count, y, ldy);
    nudge(&y[(count - 1) * ldy + rows - 1]);
}
static void pack_fault(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                       void *packed) {
    real.pack(w, x, ldx, count, col, cols, packed);
    nudge(packed);
}
static void gemm_bf16_fault(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                            float *y, size_t ldy, void *room) {
    real.gemm_bf16(w, row, rows, packed, count, y, ldy, room);
    nudge(&y[(count - 1) * ldy + rows - 1]);
}
static void factor_fault(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    real.factor(x, ld, how, rows, depth, packed);
    nudge((float *)packed + (size_t)(depth - 1) * KERNEL_PANEL);
}
static void product_fault(const void *left, const void *right, uint32_t n, uint32_t cols, uint32_t depth, bool add,
                          float *c, size_t ldc) {
    real.product(left, right, n, cols, depth, add, c, ldc);
    nudge(&c[(n - 1) * ldc + cols - 1]);
}
static void factor_bf16_fault(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    real.factor_bf16(x, ld, how, rows, depth, packed);
    nudge((float *)packed + (size_t)(depth - 1) * KERNEL_PANEL);
}
static void product_bf16_fault(const void *left, const void *right, uint32_t n, uint32_t cols, uint32_t depth, bool add,
                               float *c, size_t ldc) {
    real.product_bf16(left, right, n, cols, depth, !add, c, ldc);
}
static void rms_norm_fault(const float *x, uint32_t n, const float *weight, float eps, float *y) {
    real.rms_norm(x, n, weight, eps, y);
    nudge(&y[n - 1]);
}
static void rotate_fault(float *x, uint32_t half, const float *turn, float direction) {
    real.rotate(x, half, turn, direction);
    nudge(&x[2 * half - 1]);
}
static void hadamard_fault(float *x, uint32_t n) {
    real.hadamard(x, n);
    nudge(&x[n - 1]);
}
static void fake_e4m3_fault(float *x, size_t count, size_t block) {
    real.fake_e4m3(x, count, block);
    nudge(&x[count - 1]);
}
static void fake_e2m1_fault(float *x, size_t count, size_t block) {
    real.fake_e2m1(x, count, block);
    nudge(&x[count - 1]);
}
static void round_bf16_fault(float *x, size_t count) {
    real.round_bf16(x, count);
    nudge(&x[count - 1]);
}
static void store_row_fault(const struct row_format *format, const float *x, void *row) {
    real.store_row(format, x, row);
    ((uint8_t *)row)[row_bytes(format) - 1] ^= 1;
}
static void attend_fault(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                         uint32_t count, const float *sink, float scale, float *weights, float *out) {
    real.attend(q, heads, format, keys, count, sink, scale, weights, out);
    nudge(&out[heads * format->dim - 1]);
}
static void index_scores_fault(const float *q, const float *w, uint32_t rows, uint32_t heads,
                               const struct row_format *format, const void *keys, uint32_t count, float *scores,
                               size_t ldscores) {
    real.index_scores(q, w, rows, heads, format, keys, count, scores, ldscores);
    nudge(&scores[(rows - 1) * ldscores + count - 1]);
}
static void attend_bf16_fault(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                              uint32_t count, const float *sink, float scale, float *weights, float *out, void *room) {
    real.attend_bf16(q, heads, format, keys, count, sink, scale, weights, out, room);
    for (uint32_t i = 0; i < heads * format->dim; i++)
        out[i] *= 1.01f;
}
static void index_scores_bf16_fault(const float *q, const float *w, uint32_t rows, uint32_t heads,
                                    const struct row_format *format, const void *keys, uint32_t count, float *scores,
                                    size_t ldscores, void *room) {
    real.index_scores_bf16(q, w, rows, heads, format, keys, count, scores, ldscores, room);
    nudge(&scores[(rows - 1) * ldscores + count - 1]);
}
static void pool_fault(const float *const *values, const float *const *scores, const float *bias, size_t bias_stride,
                       uint32_t count, uint32_t dim, float *out) {
    real.pool(values, scores, bias, bias_stride, count, dim, out);
    nudge(&out[dim - 1]);
}
static void hc_weights_fault(float *m, uint32_t streams, const float *scale, const float *base, uint32_t iterations,
                             float eps, float *post, float *comb) {
    real.hc_weights(m, streams, scale, base, iterations, eps, post, comb);
    nudge(&comb[streams * streams - 1]);
}
static void hc_collapse_fault(const float *h, uint32_t streams, uint32_t dim, const float *pre, float *x) {
    real.hc_collapse(h, streams, dim, pre, x);
    nudge(&x[dim - 1]);
}
static void hc_spread_fault(float *h, uint32_t streams, uint32_t dim, const float *y, const float *post,
                            const float *comb) {
    real.hc_spread(h, streams, dim, y, post, comb);
    nudge(&h[streams * dim - 1]);
}
static void swiglu_fault(float *gate, const float *up, size_t count, float limit, float weight) {
    real.swiglu(gate, up, count, limit, weight);
    nudge(&gate[count - 1]);
}
static void axpy_fault(float *y, const float *x, size_t count, float a) {
    real.axpy(y, x, count, a);
    nudge(&y[count - 1]);
}

static void dots_fault(const float *a, uint32_t m, const float *const *b, uint32_t n, uint32_t dim, float *out) {
    real.dots(a, m, b, n, dim, out);
    nudge(&out[(size_t)m * n - 1]);
}
static void mix_fault(const float *w, size_t row, size_t term, const float *const *x, uint32_t n, uint32_t dim,
                      uint32_t m, float *const *out) {
    real.mix(w, row, term, x, n, dim, m, out);
    nudge(&out[m - 1][dim - 1]);
}

static void test_kernels__a_fault_is_noticed(void **state) {
    (void)state;
    size_t i = 0;
    name_signals();
    running_level = "c with a fault";
    kernel_table_init(&real, KERNEL_LEVEL_c, false);
#define FAULT(name, returns, parameters)                                                                               \
    {                                                                                                                  \
        struct kernel_table t = real;                                                                                  \
        t.name = name##_fault;                                                                                         \
        if (holds(i++, &t))                                                                                            \
            fail_msg("a fault in " #name " goes unnoticed");                                                           \
    }
    KERNELS(FAULT)
#undef FAULT
}

/* --bench [LEVEL [KERNEL]]: figures instead of tests, of the level or of all that run, of the kernel or of all. */
static int bench(int argc, char **argv, bool invariant) {
    enum kernel_level only = KERNEL_LEVEL_COUNT;
    if (argc > 2 && !kernel_level_parse(argv[2], &only)) {
        print_error("no level is called %s\n", argv[2]);
        return 2;
    }
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!kernel_level_runs((enum kernel_level)level) || (argc > 2 && level != (int)only))
            continue;
        kernel_table_init(&t, (enum kernel_level)level, invariant);
        if (!bench_kernels(&t, kernel_level_name((enum kernel_level)level), argc > 3 ? argv[3] : NULL))
            return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strncmp(argv[1], "--bench", 7) == 0)
        return bench(argc, argv, strcmp(argv[1] + 7, "-invariant") == 0);
    const char *given = getenv("SONDE_TEST_SEED"), *fewer = getenv("SONDE_TEST_ROUNDS");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)(clock_seconds() * 1e6);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels__keep_their_contracts),
        cmocka_unit_test(test_products__are_the_same_beside_any_others),
        cmocka_unit_test(test_attention__heads_and_keys_do_not_touch),
        cmocka_unit_test(test_kernels__a_fault_is_noticed),
    };
    if (fewer && atoi(fewer) > 0)
        rounds = atoi(fewer);
    rng_init(&rng, seed);
    print_message("# SONDE_TEST_SEED=%llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
