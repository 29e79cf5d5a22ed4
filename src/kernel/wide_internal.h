/*
 * wide_internal.h - the kernels that are one loop over vectors, written once for every width.
 *
 * A level's file includes this after its vectors (x86/avx512_internal.h says which operations those are) and gets
 * the kernels under its own names, LEVEL(rms_norm) and so on. What is left over at the end of an array is loaded and
 * stored in part, so that one body serves whole vectors and tails.
 */
#ifndef KERNEL_WIDE_INTERNAL_H
#define KERNEL_WIDE_INTERNAL_H

#include "kernel/wide_math_internal.h"

/* -------------------------------------------------------------------------------- norms and rotations */

/* Four sums, as one would wait for each addition. */
static float sum_squares(const float *x, size_t n) {
    vf sums[4] = {{0}};
    size_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int k = 0; k < 4; k++) {
            vf v = v_load(x + i + k * LANES);
            sums[k] = v_fma(v, v, sums[k]);
        }
    for (; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i);
        sums[0] = v_fma(v, v, sums[0]);
    }
    return v_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void LEVEL(rms_norm)(const float *x, uint32_t n, const float *weight, float eps, float *y) {
    vf scale = v_set(1 / sqrtf(sum_squares(x, n) / (float)n + eps));
    for (size_t i = 0; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i) * scale;
        v_store_some(y + i, n - i, weight ? v * v_load_some(weight + i, n - i) : v);
    }
}

/* (even, odd) (c, s) -> (even c - odd s, odd c + even s): the pair swapped times s, its sign by lane. */
void LEVEL(rotate)(float *x, uint32_t half, const float *turn, float direction) {
    vi lane = v_lanes();
    vf sign = v_pick((lane & 1) == 0, v_set(-direction), v_set(direction));
    size_t n = 2 * (size_t)half;
    for (size_t i = 0; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i), t = v_load_some(turn + i, n - i);
        v_store_some(x + i, n - i, v_fma(v, v_even(t), v_permute(v, lane ^ 1) * (v_odd(t) * sign)));
    }
}

/* Butterflies of lanes h apart within a vector: (a + b, a - b), as (other + this, other - this). */
static inline vf butterfly(vf v, int h) {
    vi lane = v_lanes();
    return v_fma(v, v_pick((lane & h) == 0, v_set(1), v_set(-1)), v_permute(v, lane ^ h));
}

void LEVEL(hadamard)(float *x, uint32_t n) {
    vf scale = v_set((float)(1 / sqrt((double)n)));
    for (uint32_t i = 0; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i);
        for (int h = 1; h < LANES && (uint32_t)h < n; h *= 2)
            v = butterfly(v, h);
        v_store_some(x + i, n - i, v * scale);
    }
    for (uint32_t h = LANES; h < n; h *= 2)
        for (uint32_t i = 0; i < n; i += 2 * h)
            for (uint32_t j = i; j < i + h; j += LANES) {
                vf a = v_load(x + j), b = v_load(x + j + h);
                v_store(x + j, a + b);
                v_store(x + j + h, a - b);
            }
}

/* -------------------------------------------------------------------------------------------- rounding */

/*
 * To the nearest of a small float's values: `bits` of mantissa, of which those below 2^0 `smallest` are evenly
 * spaced. Adding the power of two whose last place is the grid's step, and taking it away again, rounds to
 * that step, ties to even.
 */
static inline vf round_to(vf x, int bits, vf smallest, vf largest) {
    vi sign = (vi)x & INT32_MIN;
    vf magnitude = v_min(largest, (vf)((vi)x & INT32_MAX));
    vf power = v_max(smallest, (vf)((vi)magnitude & 0x7f800000));
    vf push = power * (float)(1 << (23 - bits));
    return (vf)((vi)((magnitude + push) - push) | sign);
}

/* The bits of the largest magnitude; of a NaN if there is any, as those are above all else. */
static int32_t largest_bits(const float *x, size_t n) {
    vi most = {0};
    for (size_t i = 0; i < n; i += LANES)
        most = v_ilarger(most, (vi)v_load_some(x + i, n - i) & INT32_MAX);
    return v_largest(most);
}

/* What a small float is to the kernels below; scales are powers of two whose inverse is one as well. */
struct grid {
    float (*scale_of)(float amax);
    int bits, sign; /* of mantissa; place of the sign in a code */
    float smallest, largest;
};

static const struct grid e4m3_grid = {e4m3_scale, 3, 7, 0x1p-6f, 448}, e2m1_grid = {e2m1_scale, 1, 3, 1, 6};

/* Of a block; NaN where a value is not finite. */
static float block_scale(const struct grid *g, const float *x, size_t n) {
    int32_t amax = largest_bits(x, n);
    return amax < 0x7f800000 ? g->scale_of(bits_float((uint32_t)amax)) : NAN;
}

/* Quantises blocks and comes back. */
ALWAYS_INLINE void fake(const struct grid *g, float *x, size_t count, size_t block) {
    for (; count >= block; x += block, count -= block) {
        float scale = block_scale(g, x, block);
        vf up = v_set(1 / scale), down = v_set(scale);
        for (size_t i = 0; i < block; i += LANES) {
            vf v = round_to(v_load_some(x + i, block - i) * up, g->bits, v_set(g->smallest), v_set(g->largest));
            v_store_some(x + i, block - i, v * down);
        }
    }
}

void LEVEL(fake_e4m3)(float *x, size_t count, size_t block) {
    fake(&e4m3_grid, x, count, block);
}

void LEVEL(fake_e2m1)(float *x, size_t count, size_t block) {
    fake(&e2m1_grid, x, count, block);
}

void LEVEL(round_bf16)(float *x, size_t count) {
    for (size_t i = 0; i < count; i += LANES)
        v_store_some(x + i, count - i, v_round_bf16(v_load_some(x + i, count - i)));
}

/* ------------------------------------------------------------------------------------- rows of the cache */

/*
 * The code of a value on the grid. Where the exponent is not 0 it is the float's bits, brought down; else the mantissa
 * counts steps, and halfway between the value and the smallest power is a float whose bits say so, as the decoders
 * have it (plain_unpack_fp8).
 */
ALWAYS_INLINE vi code_of(const struct grid *g, vf v) {
    vf magnitude = (vf)((vi)v & INT32_MAX), read = v_max(magnitude, (magnitude + g->smallest) * 0.5f);
    vi code = ((vi)read - (int32_t)float_bits(g->smallest / 2)) >> (23 - g->bits);
    return code | (vi)((vu)v >> 31 << g->sign);
}

/* The codes of up to a block, a byte each; returns its scale's. */
ALWAYS_INLINE uint8_t store_block(const struct grid *g, const float *x, size_t n, uint8_t *codes) {
    float scale = block_scale(g, x, n);
    if (isnan(scale)) {
        memset(codes, 0, n);
        return 255;
    }
    for (size_t i = 0; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i) * v_set(1 / scale);
        v_store_bytes(codes + i, n - i, code_of(g, round_to(v, g->bits, v_set(g->smallest), v_set(g->largest))));
    }
    return e8m0_encode(scale);
}

static void store_key(const struct row_format *f, const float *x, uint8_t *row) {
    struct row_places at = row_places(f);
    uint8_t *scale = row + at.scales, *tail = row + at.tail;
    uint32_t plain = at.plain.cols;
    for (uint32_t c = 0; c < plain; c += ROW_KEY_BLOCK)
        *scale++ = store_block(&e4m3_grid, x + c, least(ROW_KEY_BLOCK, plain - c), row + c);
    memset(scale, 0, (size_t)(tail - scale));
    if (f->kind == ROW_KEY_F32)
        memcpy(tail, x + plain, f->rotated * sizeof(*x));
    for (size_t i = 0; f->kind == ROW_KEY && i < f->rotated; i += LANES)
        v_store_bf16(tail + 2 * i, f->rotated - i, v_load_some(x + plain + i, f->rotated - i));
}

static void store_index(const struct row_format *f, const float *x, uint8_t *row) {
    uint8_t *scale = row + row_places(f).scales, codes[ROW_INDEX_BLOCK];
    for (uint32_t c = 0; c < f->dim; c += ROW_INDEX_BLOCK) {
        uint32_t n = least(ROW_INDEX_BLOCK, f->dim - c);
        *scale++ = store_block(&e2m1_grid, x + c, n, codes);
        if (n % 2)
            codes[n] = 0;
        for (uint32_t i = 0; i < n; i += 2)
            row[(c + i) / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    }
}

void LEVEL(store_row)(const struct row_format *format, const float *x, void *row) {
    if (format->kind == ROW_F32)
        memcpy(row, x, format->dim * sizeof(*x));
    else if (format->kind == ROW_INDEX)
        store_index(format, x, row);
    else
        store_key(format, x, row);
}

/* --------------------------------------------------------------------------------------------- pooling */

void LEVEL(pool)(const float *const *values, const float *const *scores, const float *bias, size_t bias_stride,
                 uint32_t count, uint32_t dim, float *out) {
    for (size_t c = 0; c < dim; c += LANES) {
        size_t n = dim - c;
        vf top = v_set(-INFINITY), total = {0}, sum = {0};
        for (uint32_t r = 0; r < count; r++)
            if (scores[r])
                top = v_max(top, v_load_some(scores[r] + c, n) + v_load_some(bias + r * bias_stride + c, n));
        for (uint32_t r = 0; r < count; r++)
            if (scores[r]) {
                vf score = v_load_some(scores[r] + c, n) + v_load_some(bias + r * bias_stride + c, n);
                vf weight = v_exp(score - top);
                total += weight;
                sum = v_fma(weight, v_load_some(values[r] + c, n), sum);
            }
        v_store_some(out + c, n, sum / total);
    }
}

/* ------------------------------------------------------------------------------------ hyper-connections */

/* Four streams, as all released models have: the residual mix is four rows of four. */
typedef float four __attribute__((vector_size(16)));
enum { FOUR = 4, MIXES = (2 + FOUR) * FOUR };

static inline void columns_to_one(four row[FOUR], float eps) {
    four sum = row[0] + row[1] + row[2] + row[3] + eps;
    for (int j = 0; j < FOUR; j++)
        row[j] /= sum;
}

static inline void transpose_four(four row[FOUR]) {
    four a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5),
         b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    four c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7),
         d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    row[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    row[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    row[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    row[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

static inline void rows_to_one(four row[FOUR], float eps) {
    transpose_four(row);
    columns_to_one(row, eps);
    transpose_four(row);
}

/* e^x of all mixes at once: of the negated arguments of the sigmoids, of the distances from the row's largest. */
static void exponentials(const float *m, const float *scale, const float *base, float e[MIXES]) {
    for (int i = 0; i < 2 * FOUR; i++)
        e[i] = -(m[i] * scale[i / FOUR] + base[i]);
    for (int j = 2 * FOUR; j < MIXES; j += FOUR) {
        float top = -INFINITY;
        for (int i = j; i < j + FOUR; i++) {
            e[i] = m[i] * scale[2] + base[i];
            top = e[i] > top ? e[i] : top;
        }
        for (int i = j; i < j + FOUR; i++)
            e[i] -= top;
    }
    for (size_t i = 0; i < MIXES; i += LANES)
        v_store_some(e + i, MIXES - i, v_exp(v_load_some(e + i, MIXES - i)));
}

void LEVEL(hc_weights)(float *m, uint32_t streams, const float *scale, const float *base, uint32_t iterations,
                       float eps, float *post, float *comb) {
    if (streams != FOUR) {
        struct kernel_table c;
        kernel_table_init_c(&c, false);
        c.hc_weights(m, streams, scale, base, iterations, eps, post, comb);
        return;
    }
    float e[MIXES];
    four row[FOUR];
    exponentials(m, scale, base, e);
    for (int j = 0; j < FOUR; j++) {
        m[j] = 1 / (1 + e[j]) + eps;
        post[j] = 2 / (1 + e[FOUR + j]);
    }
    memcpy(row, e + 2 * FOUR, sizeof(row));
    rows_to_one(row, 0);
    for (int j = 0; j < FOUR; j++)
        row[j] += eps;
    columns_to_one(row, eps);
    for (uint32_t i = 1; i < iterations; i++) {
        rows_to_one(row, eps);
        columns_to_one(row, eps);
    }
    memcpy(comb, row, sizeof(row));
}

void LEVEL(hc_collapse)(const float *h, uint32_t streams, uint32_t dim, const float *pre, float *x) {
    for (size_t d = 0; d < dim; d += LANES) {
        vf sum = {0};
        for (uint32_t j = 0; j < streams; j++)
            sum = v_fma(v_set(pre[j]), v_load_some(h + (size_t)j * dim + d, dim - d), sum);
        v_store_some(x + d, dim - d, sum);
    }
}

ALWAYS_INLINE void spread(float *h, uint32_t n, uint32_t dim, const float *y, const float *post, const float *comb) {
    for (size_t d = 0; d < dim; d += LANES) {
        vf old[HC_MAX_STREAMS], in = v_load_some(y + d, dim - d);
        for (uint32_t i = 0; i < n; i++)
            old[i] = v_load_some(h + (size_t)i * dim + d, dim - d);
        for (uint32_t j = 0; j < n; j++) {
            vf mixed = v_set(post[j]) * in;
            for (uint32_t i = 0; i < n; i++)
                mixed = v_fma(v_set(comb[i * n + j]), old[i], mixed);
            v_store_some(h + (size_t)j * dim + d, dim - d, mixed);
        }
    }
}

void LEVEL(hc_spread)(float *h, uint32_t streams, uint32_t dim, const float *y, const float *post, const float *comb) {
    if (streams == FOUR)
        spread(h, FOUR, dim, y, post, comb);
    else
        spread(h, streams, dim, y, post, comb);
}

/* --------------------------------------------------------------------------------------------- experts */

void LEVEL(swiglu)(float *gate, const float *up, size_t count, float limit, float weight) {
    vf most = v_set(limit > 0 ? limit : INFINITY);
    for (size_t i = 0; i < count; i += LANES) {
        vf g = v_min(most, v_load_some(gate + i, count - i));
        vf u = v_max(-most, v_min(most, v_load_some(up + i, count - i)));
        v_store_some(gate + i, count - i, g / (1 + v_exp(-g)) * u * weight);
    }
}

void LEVEL(axpy)(float *y, const float *x, size_t count, float a) {
    vf factor = v_set(a);
    for (size_t i = 0; i < count; i += LANES)
        v_store_some(y + i, count - i, v_fma(factor, v_load_some(x + i, count - i), v_load_some(y + i, count - i)));
}

#endif
