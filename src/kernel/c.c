/*
 * c.c - the C level: portable, and the specification of every other.
 *
 * Sums run over eight partial sums, one a column modulo eight, which are added pairwise at the end. The
 * order is fixed by the length alone, so the result for a token does not depend on its neighbours, and the
 * compiler can keep the partial sums in vector registers without being allowed to reorder anything.
 * Matrices are decoded a tile of four rows by 256 columns at a time, into the stack, and every token of the
 * chunk uses the tile while it is there.
 */
#include <math.h>

#include "kernel/kernel_internal.h"

enum { LANES = 8, TILE_ROWS = 4, TILE_COLS = 256 };

/* Four floats: what every processor's vectors hold. LANES of them are two. */
typedef float four __attribute__((vector_size(16)));
struct lanes {
    four low, high;
};

static inline four load(const float *x) {
    four v;
    memcpy(&v, x, sizeof(v));
    return v;
}

/* sums += a * b over LANES columns */
static inline void multiply_add(struct lanes *sums, const float *a, four low, four high) {
    sums->low += load(a) * low;
    sums->high += load(a + 4) * high;
}

/* The sums of four sets of lanes, pairwise: (i, i + 4), then (i, i + 2), then (0, 1). */
static inline four sum_lanes(const struct lanes v[4]) {
    four a = v[0].low + v[0].high, b = v[1].low + v[1].high, c = v[2].low + v[2].high, d = v[3].low + v[3].high;
    four ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    four cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
    return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}

/* x[0 .. n) and zeros up to LANES. */
static inline void pad(float out[LANES], const float *x, uint32_t n) {
    memset(out, 0, LANES * sizeof(float));
    memcpy(out, x, n * sizeof(float));
}

static float dot(const float *a, const float *b, uint32_t n) {
    struct lanes sums[4] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        multiply_add(sums, a + i, load(b + i), load(b + i + 4));
    if (i < n) {
        float x[LANES], y[LANES];
        pad(x, a + i, n - i);
        pad(y, b + i, n - i);
        multiply_add(sums, x, load(y), load(y + 4));
    }
    return sum_lanes(sums)[0];
}

static float largest(const float *x, uint32_t n) {
    float most = x[0];
    for (uint32_t i = 1; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

/* -------------------------------------------------------------------------------------- products */

/* One tile against one token: the dot() of each of its rows. Rows are padded with zeros to LANES. */
static inline four tile_dot(const float tile[TILE_ROWS][TILE_COLS], const float *x, uint32_t cols) {
    struct lanes sums[TILE_ROWS] = {0};
    uint32_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        four low = load(x + c), high = load(x + c + 4);
        for (int i = 0; i < TILE_ROWS; i++)
            multiply_add(&sums[i], tile[i] + c, low, high);
    }
    if (c < cols) {
        float last[LANES];
        pad(last, x + c, cols - c);
        for (int i = 0; i < TILE_ROWS; i++)
            multiply_add(&sums[i], tile[i] + c, load(last), load(last + 4));
    }
    return sum_lanes(sums);
}

/* Rows [row, row + TILE_ROWS) of w, the last of `height` repeated, columns [col, col + cols), zeros behind. */
static void decode_tile(const struct matrix *w, uint32_t row, uint32_t height, uint32_t col, uint32_t cols,
                        float tile[TILE_ROWS][TILE_COLS]) {
    uint32_t padded = (cols + LANES - 1) / LANES * LANES;
    for (uint32_t i = 0; i < TILE_ROWS; i++) {
        matrix_decode(w, row + (i < height ? i : height - 1), col, cols, tile[i]);
        memset(tile[i] + cols, 0, (padded - cols) * sizeof(float));
    }
}

static void gemm_c(const struct matrix *w, uint32_t row, uint32_t rows, const float *x, size_t ldx, uint32_t count,
                   float *y, size_t ldy) {
    float tile[TILE_ROWS][TILE_COLS];
    for (uint32_t r = 0; r < rows; r += TILE_ROWS) {
        uint32_t height = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
        for (uint32_t c = 0; c < w->cols; c += TILE_COLS) {
            uint32_t width = w->cols - c < TILE_COLS ? w->cols - c : TILE_COLS;
            decode_tile(w, row + r, height, c, width, tile);
            for (uint32_t s = 0; s < count; s++) {
                four sums = tile_dot((const float(*)[TILE_COLS])tile, x + s * ldx + c, width);
                float *out = y + s * ldy + r;
                for (uint32_t i = 0; i < height; i++)
                    out[i] = c ? out[i] + sums[i] : sums[i];
            }
        }
    }
}

/* Packed inputs of this level: float rows, a multiple of 32 apart. */
static uint32_t packed_stride(const struct matrix *w) {
    return (w->cols + 31) / 32 * 32;
}

static void pack_c(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                   void *packed) {
    for (uint32_t s = 0; s < count; s++) {
        float *to = (float *)packed + (size_t)s * packed_stride(w) + col;
        for (uint32_t c = 0; c < cols; c++)
            to[c] = bf16_round(x[s * ldx + c]);
    }
}

static void gemm_bf16_c(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                        float *y, size_t ldy, void *scratch) {
    (void)scratch;
    gemm_c(w, row, rows, packed, packed_stride(w), count, y, ldy);
}

/* ------------------------------------------------------------------------- products of two factors */

/* Column k of a panel's rows lies together: [panel][k][row]. */
static void factor_c(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    const size_t along = how & KERNEL_TURNED ? ld : 1, down = how & KERNEL_TURNED ? 1 : ld;
    float *to = packed;
    for (uint32_t panel = 0; panel < rows; panel += KERNEL_PANEL)
        for (uint32_t k = 0; k < depth; k++)
            for (uint32_t r = panel; r < panel + KERNEL_PANEL; r++)
                *to++ = r < rows ? x[r * down + k * along] : 0;
}

/* Of one row of c, the columns of a panel. */
static void product_row(const float *left, const float *right, uint32_t cols, uint32_t depth, bool add, float *c) {
    float sums[KERNEL_PANEL] = {0};
    for (uint32_t k = 0; k < depth; k++, left += KERNEL_PANEL, right += KERNEL_PANEL)
        for (uint32_t j = 0; j < KERNEL_PANEL; j++)
            sums[j] += *left * right[j];
    for (uint32_t j = 0; j < cols; j++)
        c[j] = add ? c[j] + sums[j] : sums[j];
}

static void product_c(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                      float *c, size_t ldc) {
    for (uint32_t i = 0; i < rows; i++) {
        const float *a = (const float *)left + (size_t)(i / KERNEL_PANEL) * KERNEL_PANEL * depth + i % KERNEL_PANEL;
        for (uint32_t j = 0; j < cols; j += KERNEL_PANEL)
            product_row(a, (const float *)right + (size_t)j * depth, cols - j < KERNEL_PANEL ? cols - j : KERNEL_PANEL,
                        depth, add, c + i * ldc + j);
    }
}

static void factor_bf16_c(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    const size_t count = (size_t)(rows + KERNEL_PANEL - 1) / KERNEL_PANEL * KERNEL_PANEL * depth;
    float *to = packed;
    factor_c(x, ld, how, rows, depth, packed);
    for (size_t i = 0; i < count; i++)
        to[i] = bf16_round(to[i]);
}

static void product_bf16_c(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                           float *c, size_t ldc) {
    product_c(left, right, rows, cols, depth, add, c, ldc);
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

static void store_row_c(const struct row_format *format, const float *x, void *row) {
    row_encode(format, x, row);
}

/* ------------------------------------------------------------------------------------- attention */

static void axpy_c(float *y, const float *x, size_t count, float a) {
    for (size_t i = 0; i < count; i++)
        y[i] += a * x[i];
}

/* Channels [c, c + count) of a stored row: where they lie or, packed, decoded into `room`. */
static const float *row_piece(const struct row_format *f, const uint8_t *row, uint32_t c, uint32_t count, float *room) {
    if (f->kind == ROW_F32)
        return (const float *)(const void *)row + c;
    row_decode(f, row, c, count, room);
    return room;
}

static uint32_t piece_of(uint32_t dim, uint32_t c) {
    return dim - c < TILE_COLS ? dim - c : TILE_COLS;
}

static void attend_c(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                     uint32_t count, const float *sink, float scale, float *weights, float *out) {
    uint32_t dim = format->dim;
    float room[TILE_COLS];
    memset(out, 0, (size_t)heads * dim * sizeof(float));
    memset(weights, 0, (size_t)heads * count * sizeof(float));
    for (uint32_t k = 0; k < count; k++)
        for (uint32_t c = 0, n; c < dim; c += n) {
            n = piece_of(dim, c);
            const float *key = row_piece(format, keys[k], c, n, room);
            for (uint32_t h = 0; h < heads; h++)
                weights[(size_t)h * count + k] += dot(q + (size_t)h * dim + c, key, n);
        }
    for (uint32_t h = 0; h < heads; h++) {
        float *w = weights + (size_t)h * count, total = 0;
        for (uint32_t k = 0; k < count; k++)
            w[k] *= scale;
        float top = largest(w, count);
        top = sink[h] > top ? sink[h] : top;
        for (uint32_t k = 0; k < count; k++)
            total += w[k] = expf(w[k] - top);
        total += expf(sink[h] - top);
        for (uint32_t k = 0; k < count; k++)
            w[k] /= total;
    }
    for (uint32_t k = 0; k < count; k++)
        for (uint32_t c = 0, n; c < dim; c += n) {
            n = piece_of(dim, c);
            const float *key = row_piece(format, keys[k], c, n, room);
            for (uint32_t h = 0; h < heads; h++)
                axpy_c(out + (size_t)h * dim + c, key, n, weights[(size_t)h * count + k]);
        }
}

/* The score of one key; it is decoded once where it fits the room, else for every head. */
static float index_score(const float *q, const float *w, uint32_t heads, const struct row_format *f,
                         const uint8_t *row) {
    const float *key = NULL;
    float room[TILE_COLS], score = 0;
    for (uint32_t h = 0; h < heads; h++) {
        float match = 0;
        for (uint32_t c = 0, n; c < f->dim; c += n) {
            n = piece_of(f->dim, c);
            if (!h || f->dim > TILE_COLS)
                key = row_piece(f, row, c, n, room);
            match += dot(q + (size_t)h * f->dim + c, key, n);
        }
        score += w[h] * (match < 0 ? 0 : match); /* NaN stays */
    }
    return score;
}

static void index_scores_c(const float *q, const float *w, uint32_t rows, uint32_t heads,
                           const struct row_format *format, const void *keys, uint32_t count, float *scores,
                           size_t ldscores) {
    size_t bytes = row_bytes(format), width = (size_t)heads * format->dim;
    for (size_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < count; i++)
            scores[r * ldscores + i] =
                index_score(q + r * width, w + r * heads, heads, format, (const uint8_t *)keys + i * bytes);
}

static void attend_bf16_c(const float *q, uint32_t heads, const struct row_format *format, const void *const *keys,
                          uint32_t count, const float *sink, float scale, float *weights, float *out, void *scratch) {
    (void)scratch;
    attend_c(q, heads, format, keys, count, sink, scale, weights, out);
}

static void index_scores_bf16_c(const float *q, const float *w, uint32_t rows, uint32_t heads,
                                const struct row_format *format, const void *keys, uint32_t count, float *scores,
                                size_t ldscores, void *scratch) {
    (void)scratch;
    index_scores_c(q, w, rows, heads, format, keys, count, scores, ldscores);
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

/* Divides each of n lines of n items by its sum; lines are `line` floats apart, items of one `item`. */
static void normalise(float *comb, uint32_t n, uint32_t line, uint32_t item, float eps) {
    for (uint32_t j = 0; j < n; j++) {
        float sum = 0;
        for (uint32_t k = 0; k < n; k++)
            sum += comb[j * line + k * item];
        for (uint32_t k = 0; k < n; k++)
            comb[j * line + k * item] /= sum + eps;
    }
}

static void hc_weights_c(float *m, uint32_t streams, const float *scale, const float *base, uint32_t iterations,
                         float eps, float *post, float *comb) {
    uint32_t n = streams;
    for (uint32_t j = 0; j < n; j++) {
        m[j] = kernel_sigmoid(m[j] * scale[0] + base[j]) + eps;
        post[j] = 2 * kernel_sigmoid(m[n + j] * scale[1] + base[n + j]);
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
    normalise(comb, n, 1, n, eps); /* columns; then rows and columns in turn */
    for (uint32_t i = 1; i < iterations; i++) {
        normalise(comb, n, n, 1, eps);
        normalise(comb, n, 1, n, eps);
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

/* ------------------------------------------------------------------------- products of rows anywhere */

static void dots_c(const float *a, uint32_t m, const float *const *b, uint32_t n, uint32_t dim, float *out) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            out[i * n + j] = dot(a + i * dim, b[j], dim);
}

static void mix_c(const float *w, size_t row, size_t term, const float *const *x, uint32_t n, uint32_t dim, uint32_t m,
                  float *const *out) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            axpy_c(out[i], x[j], dim, w[i * row + j * term]);
}

/* --------------------------------------------------------------------------------------- experts */

static void swiglu_c(float *gate, const float *up, size_t count, float limit, float weight) {
    for (size_t i = 0; i < count; i++) {
        float g = gate[i], u = up[i];
        if (limit > 0) {
            g = g > limit ? limit : g;
            u = u > limit ? limit : u < -limit ? -limit : u;
        }
        gate[i] = g * kernel_sigmoid(g) * u * weight;
    }
}

void kernel_table_init_c(struct kernel_table *t, bool invariant) {
    (void)invariant; /* it always is */
#define KERNEL_SET(name, returns, parameters) t->name = name##_c;
    KERNELS(KERNEL_SET)
#undef KERNEL_SET
}
