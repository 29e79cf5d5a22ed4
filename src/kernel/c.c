/*
 * c.c - the C level: portable, and the specification of every other.
 *
 * Sums run over sixteen partial sums, one a column modulo sixteen, which are added pairwise at the end. The
 * order is fixed by the length alone, so the result for a token does not depend on its neighbours, and the
 * compiler can keep the partial sums in vector registers without being allowed to reorder anything.
 * Matrices are decoded a tile of four rows by 256 columns at a time, into the stack, and every token of the
 * chunk uses the tile while it is there.
 */
#include <math.h>

#include "kernel/kernel_internal.h"

enum { LANES = 16, TILE_ROWS = 4, TILE_COLS = 256 };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static inline lanes load(const float *x) {
    lanes v;
    memcpy(&v, x, sizeof(v));
    return v;
}

/* The first `count` < LANES values, zeros behind them. */
static inline lanes load_tail(const float *x, uint32_t count) {
    lanes v = {0};
    memcpy(&v, x, count * sizeof(float));
    return v;
}

static inline float sum_lanes(lanes v) {
    float s[LANES];
    memcpy(s, &v, sizeof(s));
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            s[i] += s[i + width];
    return s[0];
}

static float dot(const float *a, const float *b, uint32_t n) {
    lanes sum = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += load(a + i) * load(b + i);
    if (i < n)
        sum += load_tail(a + i, n - i) * load_tail(b + i, n - i);
    return sum_lanes(sum);
}

static float largest(const float *x, uint32_t n) {
    float most = x[0];
    for (uint32_t i = 1; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

static float sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

/* -------------------------------------------------------------------------------------- products */

/* One tile against one token: y[0..4) += tile[row] . x, each sum in the order of dot(). */
static inline void tile_dot(const float tile[TILE_ROWS][TILE_COLS], const float *x, uint32_t cols, float *y) {
    lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    uint32_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        lanes v = load(x + c);
        s0 += load(tile[0] + c) * v;
        s1 += load(tile[1] + c) * v;
        s2 += load(tile[2] + c) * v;
        s3 += load(tile[3] + c) * v;
    }
    if (c < cols) {
        lanes v = load_tail(x + c, cols - c);
        s0 += load_tail(tile[0] + c, cols - c) * v;
        s1 += load_tail(tile[1] + c, cols - c) * v;
        s2 += load_tail(tile[2] + c, cols - c) * v;
        s3 += load_tail(tile[3] + c, cols - c) * v;
    }
    y[0] += sum_lanes(s0);
    y[1] += sum_lanes(s1);
    y[2] += sum_lanes(s2);
    y[3] += sum_lanes(s3);
}

static void gemm_c(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                   float *y, size_t ldy) {
    float tile[TILE_ROWS][TILE_COLS];
    for (uint32_t r = 0; r < rows; r += TILE_ROWS) {
        uint32_t height = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
        for (uint32_t s = 0; s < count; s++)
            memset(y + s * ldy + r, 0, height * sizeof(float));
        for (uint32_t c = 0; c < w->cols; c += TILE_COLS) {
            uint32_t width = w->cols - c < TILE_COLS ? w->cols - c : TILE_COLS;
            for (uint32_t i = 0; i < TILE_ROWS; i++) /* a short tile repeats its last row */
                matrix_decode(w, row + r + (i < height ? i : height - 1), c, width, tile[i]);
            for (uint32_t s = 0; s < count; s++) {
                float sums[TILE_ROWS] = {0};
                tile_dot((const float(*)[TILE_COLS])tile, x + s * ldx + c, width, sums);
                for (uint32_t i = 0; i < height; i++)
                    y[s * ldy + r + i] += sums[i];
            }
        }
    }
}

/* --------------------------------------------------------------------------- norms and rotations */

static void rms_norm_c(const float *x, uint32_t n, const float *weight, float eps, float *y) {
    float scale = 1 / sqrtf(dot(x, x, n) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = weight ? x[i] * scale * weight[i] : x[i] * scale;
}

static void rotate_c(float *x, uint32_t half, const float *turn, float direction) {
    for (uint32_t i = 0; i < half; i++) {
        float c = turn[2 * i], s = direction * turn[2 * i + 1], even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * c - odd * s;
        x[2 * i + 1] = even * s + odd * c;
    }
}

static void hadamard_c(float *x, uint32_t n) {
    for (uint32_t h = 1; h < n; h *= 2)
        for (uint32_t i = 0; i < n; i += 2 * h)
            for (uint32_t j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
    float scale = (float)(1 / sqrt((double)n));
    for (uint32_t i = 0; i < n; i++)
        x[i] *= scale;
}

/* -------------------------------------------------------------------------------------- rounding */

static void fake_e4m3_c(float *x, size_t count, size_t block) {
    e4m3_fake(x, count, block);
}

static void fake_e2m1_c(float *x, size_t count, size_t block) {
    e2m1_fake(x, count, block);
}

static void round_bf16_c(float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] = bf16_round(x[i]);
}

/* ------------------------------------------------------------------------------------- attention */

static void axpy_c(float *y, const float *x, size_t count, float a) {
    for (size_t i = 0; i < count; i++)
        y[i] += a * x[i];
}

static void attend_c(const float *q, uint32_t heads, uint32_t dim, const float *const *keys, uint32_t count,
                     const float *sink, float scale, float *weights, float *out) {
    memset(out, 0, (size_t)heads * dim * sizeof(float));
    for (uint32_t k = 0; k < count; k++)
        for (uint32_t h = 0; h < heads; h++)
            weights[(size_t)h * count + k] = dot(q + (size_t)h * dim, keys[k], dim) * scale;
    for (uint32_t h = 0; h < heads; h++) {
        float *w = weights + (size_t)h * count, top = largest(w, count), total = 0;
        top = sink[h] > top ? sink[h] : top;
        for (uint32_t k = 0; k < count; k++)
            total += w[k] = expf(w[k] - top);
        total += expf(sink[h] - top);
        for (uint32_t k = 0; k < count; k++)
            w[k] /= total;
    }
    for (uint32_t k = 0; k < count; k++)
        for (uint32_t h = 0; h < heads; h++)
            axpy_c(out + (size_t)h * dim, keys[k], dim, weights[(size_t)h * count + k]);
}

static float index_score_c(const float *q, const float *w, uint32_t heads, uint32_t dim, const float *key) {
    float score = 0;
    for (uint32_t h = 0; h < heads; h++) {
        float match = dot(q + (size_t)h * dim, key, dim);
        score += w[h] * (match > 0 ? match : 0);
    }
    return score;
}

static void pool_c(const float *const *values, const float *const *scores, const float *bias, size_t bias_stride,
                   uint32_t count, uint32_t dim, float *out) {
    for (uint32_t c = 0; c < dim; c++) {
        float top = -INFINITY, total = 0, sum = 0;
        for (uint32_t r = 0; r < count; r++)
            if (scores[r])
                top = fmaxf(top, scores[r][c] + bias[r * bias_stride + c]);
        for (uint32_t r = 0; r < count; r++)
            if (scores[r]) {
                float weight = expf(scores[r][c] + bias[r * bias_stride + c] - top);
                total += weight;
                sum += weight * values[r][c];
            }
        out[c] = sum / total;
    }
}

/* ------------------------------------------------------------------------------ hyper-connections */

static void divide_rows(float *comb, uint32_t n, float eps) {
    for (uint32_t j = 0; j < n; j++) {
        float sum = 0;
        for (uint32_t k = 0; k < n; k++)
            sum += comb[j * n + k];
        for (uint32_t k = 0; k < n; k++)
            comb[j * n + k] /= sum + eps;
    }
}

static void divide_columns(float *comb, uint32_t n, float eps) {
    for (uint32_t k = 0; k < n; k++) {
        float sum = 0;
        for (uint32_t j = 0; j < n; j++)
            sum += comb[j * n + k];
        for (uint32_t j = 0; j < n; j++)
            comb[j * n + k] /= sum + eps;
    }
}

static void hc_weights_c(float *m, uint32_t streams, const float *scale, const float *base, uint32_t iterations,
                         float eps, float *post, float *comb) {
    uint32_t n = streams;
    for (uint32_t j = 0; j < n; j++) {
        m[j] = sigmoid(m[j] * scale[0] + base[j]) + eps;
        post[j] = 2 * sigmoid(m[n + j] * scale[1] + base[n + j]);
    }
    for (uint32_t j = 0; j < n; j++) { /* softmax over each row */
        float *row = comb + j * n, total = 0;
        for (uint32_t k = 0; k < n; k++) {
            uint32_t i = 2 * n + j * n + k;
            row[k] = m[i] * scale[2] + base[i];
        }
        float top = largest(row, n);
        for (uint32_t k = 0; k < n; k++)
            total += row[k] = expf(row[k] - top);
        for (uint32_t k = 0; k < n; k++)
            row[k] = row[k] / total + eps;
    }
    divide_columns(comb, n, eps);
    for (uint32_t i = 1; i < iterations; i++) {
        divide_rows(comb, n, eps);
        divide_columns(comb, n, eps);
    }
}

static void hc_collapse_c(const float *h, uint32_t streams, uint32_t dim, const float *pre, float *x) {
    memset(x, 0, dim * sizeof(float));
    for (uint32_t j = 0; j < streams; j++)
        axpy_c(x, h + (size_t)j * dim, dim, pre[j]);
}

static void hc_spread_c(float *h, uint32_t streams, uint32_t dim, const float *y, const float *post,
                        const float *comb) {
    for (uint32_t d = 0; d < dim; d++) {
        float mixed[HC_MAX_STREAMS];
        for (uint32_t j = 0; j < streams; j++) {
            mixed[j] = post[j] * y[d];
            for (uint32_t i = 0; i < streams; i++)
                mixed[j] += comb[i * streams + j] * h[(size_t)i * dim + d];
        }
        for (uint32_t j = 0; j < streams; j++)
            h[(size_t)j * dim + d] = mixed[j];
    }
}

/* --------------------------------------------------------------------------------------- experts */

static void swiglu_c(float *gate, const float *up, size_t count, float limit, float weight) {
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], u = up[i];
        if (limit > 0) {
            g = g > limit ? limit : g;
            u = u > limit ? limit : u < -limit ? -limit : u;
        }
        gate[i] = g * sigmoid(g) * u * weight;
    }
}

void kernel_table_init_c(struct kernel_table *t) {
#define KERNEL_SET(name, returns, parameters) t->name = name##_c;
    KERNELS(KERNEL_SET)
#undef KERNEL_SET
}
