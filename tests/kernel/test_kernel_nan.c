/*
 * test_kernel_nan.c - no kernel of any level loses a NaN.
 *
 * The caller looks for values that are not finite only in what comes out, so one NaN among the inputs must reach every
 * output that depends on it, whatever clamps, maxima and look-ups it meets. Each kernel is given one in each of its
 * inputs in turn, at every place that vectors and tails treat differently.
 */
#include <math.h>

#include "test.h"

#include "base/base.h"
#include "kernel/kernel.h"

enum { MOST = 1 << 14 };

static float a[MOST], b[MOST], c[MOST], out[MOST], weights[MOST];
static _Alignas(64) float packed[MOST];
static _Alignas(64) uint8_t scratch[KERNEL_SCRATCH_BYTES];
static uint8_t codes[MOST], scales[MOST];
static const struct kernel_table *kernels;

/* Modest values everywhere, the same in each run. */
static void fill(void) {
    for (int i = 0; i < MOST; i++) {
        a[i] = (float)(i * 37 % 64 - 32) / 32;
        b[i] = (float)(i * 29 % 64 - 32) / 32;
        c[i] = (float)(i * 23 % 64 - 32) / 32;
        out[i] = 0;
    }
}

/* True if exactly the outputs [from, to) of `count`, `step` apart, are NaN. */
static bool nan_only(const float *x, size_t count, size_t from, size_t to, size_t step) {
    bool good = true;
    for (size_t i = 0; i < count; i++)
        good &= !isnan(x[i]) == !(i >= from && i < to && (i - from) % step == 0);
    return good;
}

/* ---------------------------------------------------------------------------------------- products */

enum { ROWS = 5 };

static struct matrix matrix_of(enum format f, uint32_t width) {
    static const uint16_t one[] = {[FORMAT_BF16] = 0x3f80, [FORMAT_F16] = 0x3c00};
    struct matrix w = {.format = f, .rows = ROWS, .cols = width, .data = codes};
    memset(codes, f == FORMAT_FP8 ? 0x38 : 0x22, sizeof(codes)); /* ones */
    memset(scales, 127, sizeof(scales));
    for (size_t i = 0; f == FORMAT_F32 && i < (size_t)ROWS * width; i++)
        memcpy(codes + 4 * i, &(float){1}, 4);
    for (size_t i = 0; (f == FORMAT_BF16 || f == FORMAT_F16) && i < (size_t)ROWS * width; i++)
        memcpy(codes + 2 * i, &one[f], 2);
    if (matrix_quantised(&w)) {
        w.scale = scales;
        w.scale_format = SCALE_E8M0;
        w.block_rows = f == FORMAT_FP4 ? 1 : 128;
        w.block_cols = f == FORMAT_FP4 ? 32 : 128;
        w.scale_cols = (width + w.block_cols - 1) / w.block_cols;
    }
    return w;
}

static bool inputs_reach(const struct matrix *w, uint32_t count, uint32_t col) {
    bool good = true;
    fill();
    a[(count - 1) * w->cols + col] = NAN;
    kernels->gemm(w, 0, ROWS, a, w->cols, count, out, ROWS);
    good &= nan_only(out, (size_t)count * ROWS, (size_t)(count - 1) * ROWS, (size_t)count * ROWS, 1);
    kernels->pack(w, a, w->cols, count, 0, w->cols, packed);
    kernels->gemm_bf16(w, 0, ROWS, packed, count, out, ROWS, scratch);
    return good && nan_only(out, (size_t)count * ROWS, (size_t)(count - 1) * ROWS, (size_t)count * ROWS, 1);
}

/* Of a weight in row `row`. */
static bool weights_reach(const struct matrix *w, uint32_t count, uint32_t row) {
    fill();
    kernels->gemm(w, 0, ROWS, a, w->cols, count, out, ROWS);
    if (!nan_only(out, (size_t)count * ROWS, row, (size_t)count * ROWS, ROWS))
        return false;
    kernels->pack(w, a, w->cols, count, 0, w->cols, packed);
    kernels->gemm_bf16(w, 0, ROWS, packed, count, out, ROWS, scratch);
    return nan_only(out, (size_t)count * ROWS, row, (size_t)count * ROWS, ROWS);
}

/* At a width that ends within a block, and at one of whole blocks, which some levels take otherwise. */
static bool products_keep(enum format f, uint32_t width) {
    static const uint32_t counts[] = {1, 3, 4, 5, 20};
    const uint32_t cols[] = {0, 17, 100, 130, width - 1};
    static const size_t bits[] = {[FORMAT_F32] = 32, [FORMAT_BF16] = 16, [FORMAT_F16] = 16, [FORMAT_FP8] = 8};
    bool good = true;
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        for (size_t j = 0; j < COUNT_OF(cols); j++) {
            struct matrix w = matrix_of(f, width);
            good &= inputs_reach(&w, counts[i], cols[j]);
            if (f == FORMAT_FP4)
                scales[3 * w.scale_cols + cols[j] / 32] = 255;
            else
                memset(codes + (3 * width + cols[j]) * bits[f] / 8, 0xff, bits[f] / 8);
            good &= weights_reach(&w, counts[i], 3);
        }
    return good;
}

/* ------------------------------------------------------------------------------------------ others */

enum { N = 77 };

static bool norms_keep(size_t at) {
    bool good = true;
    fill();
    a[at] = NAN;
    kernels->rms_norm(a, N, NULL, 1e-6f, out);
    good &= nan_only(out, N, 0, N, 1);
    kernels->rotate(a, (N + 1) / 2, b, 1);
    good &= nan_only(a, N + 1, at / 2 * 2, at / 2 * 2 + 2, 1);
    fill();
    a[at] = NAN;
    kernels->hadamard(a, 128);
    return good && nan_only(a, 128, 0, 128, 1);
}

static bool roundings_keep(size_t at) {
    static const float lost[] = {NAN, INFINITY};
    bool good = true;
    for (int i = 0; i < 2; i++) {
        fill();
        a[at] = b[at] = lost[i];
        kernels->fake_e4m3(a, 128, 64);
        good &= nan_only(a, 128, at / 64 * 64, at / 64 * 64 + 64, 1);
        kernels->fake_e2m1(b, 128, 32);
        good &= nan_only(b, 128, at / 32 * 32, at / 32 * 32 + 32, 1);
    }
    fill();
    a[at] = NAN;
    kernels->round_bf16(a, N);
    return good && nan_only(a, N, at, at + 1, 1);
}

enum { HEADS = 3, MOST_HEADS = 32, KEYS = 40 };

static const struct row_format formats[] = {{ROW_F32, N, 0}, {ROW_KEY, N, 10}, {ROW_KEY_F32, N, 10}, {ROW_INDEX, N, 0}};

/* A NaN or an infinity makes its block NaN, a rotated channel itself only. */
static bool rows_keep(size_t at) {
    static const size_t blocks[] = {1, ROW_KEY_BLOCK, ROW_KEY_BLOCK, ROW_INDEX_BLOCK};
    uint8_t row[N * sizeof(float)];
    bool good = true;
    for (size_t i = 0; i < COUNT_OF(formats); i++) {
        size_t plain = row_places(&formats[i]).plain.cols, from = at / blocks[i] * blocks[i], to = from + blocks[i];
        fill();
        a[at] = NAN;
        kernels->store_row(&formats[i], a, row);
        row_decode(&formats[i], row, 0, N, out);
        good &= at < plain ? nan_only(out, N, from, to < plain ? to : plain, 1) : nan_only(out, N, at, at + 1, 1);
    }
    return good;
}

/* The kernels of attention, for what `fast` and other precisions ask of them. */
static void attend(bool bf16, const struct row_format *f, uint32_t heads, const void *const *keys, const float *sink) {
    if (bf16)
        kernels->attend_bf16(a, heads, f, keys, KEYS, sink, 0.1f, weights, out, scratch);
    else
        kernels->attend(a, heads, f, keys, KEYS, sink, 0.1f, weights, out);
}

static void index_scores(bool bf16, const struct row_format *f, uint32_t heads, const void *rows) {
    if (bf16)
        kernels->index_scores_bf16(a, c, 1, heads, f, rows, KEYS, out, KEYS, scratch);
    else
        kernels->index_scores(a, c, 1, heads, f, rows, KEYS, out, KEYS);
}

/* Both with keys [KEYS, dim] of b, stored: one of head 1's outputs, or of all of them. */
static bool attention_reaches(bool bf16, const struct row_format *f, uint32_t heads, const float *sink, size_t key) {
    static uint8_t rows[KEYS * 128 * sizeof(float)];
    const void *keys[KEYS];
    const size_t dim = f->dim;
    for (size_t k = 0; k < KEYS; k++) {
        keys[k] = rows + k * row_bytes(f);
        kernels->store_row(f, b + k * dim, rows + k * row_bytes(f));
    }
    attend(bf16, f, heads, keys, sink);
    bool good =
        key < KEYS ? nan_only(out, heads * dim, 0, heads * dim, 1) : nan_only(out, heads * dim, dim, 2 * dim, 1);
    index_scores(bf16, f, heads, rows);
    return good && (key < KEYS ? nan_only(out, KEYS, key, key + 1, 1) : nan_only(out, KEYS, 0, KEYS, 1));
}

static bool attention_of_format_keeps(bool bf16, const struct row_format *f, uint32_t heads, size_t at) {
    float sink[MOST_HEADS] = {0};
    fill();
    a[f->dim + at] = NAN;
    bool good = attention_reaches(bf16, f, heads, sink, KEYS);
    fill();
    b[(at % KEYS) * f->dim + at] = NAN;
    good &= attention_reaches(bf16, f, heads, sink, at % KEYS);
    fill();
    sink[1] = c[1] = NAN;
    return good & attention_reaches(bf16, f, heads, sink, KEYS);
}

static bool attention_keeps(size_t at) {
    static const struct row_format key = {ROW_KEY, 128, 64}, index = {ROW_INDEX, 128, 0}; /* that tiles take */
    bool good = true;
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        good &= attention_of_format_keeps(false, &formats[i], HEADS, at) &
                attention_of_format_keeps(true, &formats[i], HEADS, at);
    return good & attention_of_format_keeps(true, &key, MOST_HEADS, at) &
           attention_of_format_keeps(true, &index, MOST_HEADS, at);
}

static bool pooling_keeps(size_t at) {
    enum { BLOCKS = 4 };
    const float *values[BLOCKS], *scores[BLOCKS];
    bool good = true;
    for (size_t r = 0; r < BLOCKS; r++) {
        values[r] = a + r * N;
        scores[r] = b + r * N;
    }
    float *inputs[] = {a, b, c};
    for (int i = 0; i < 3; i++) {
        fill();
        inputs[i][2 * N + at] = NAN;
        kernels->pool(values, scores, c, N, BLOCKS, N, out);
        good &= nan_only(out, N, at, at + 1, 1);
    }
    return good;
}

static bool hyper_keeps(size_t at) {
    enum { H = 4 };
    float scale[3] = {1, 1, 1}, post[H], comb[H * H];
    size_t m = at % (2 + H) * H;
    bool good = true;
    fill();
    a[m] = NAN;
    kernels->hc_weights(a, H, scale, b, 20, 1e-6f, post, comb);
    good &= nan_only(a, H, m, m + 1, 1) && nan_only(post, H, m - H, m < H ? 0 : m - H + 1, 1);
    good &= nan_only(comb, (size_t)H * H, 0, m < (size_t)2 * H ? 0 : (size_t)H * H, 1);
    fill();
    a[N + at] = NAN;
    kernels->hc_collapse(a, H, N, b, out);
    good &= nan_only(out, N, at, at + 1, 1);
    kernels->hc_spread(a, H, N, b, c, c);
    good &= nan_only(a, (size_t)H * N, at, (size_t)H * N, N);
    fill();
    b[at] = NAN;
    kernels->hc_spread(a, H, N, b, c, c);
    return good && nan_only(a, (size_t)H * N, at, (size_t)H * N, N);
}

static bool experts_keep(size_t at) {
    bool good = true;
    for (int i = 0; i < 4; i++) {
        fill();
        (i % 2 ? a : b)[at] = NAN;
        kernels->swiglu(a, b, N, i / 2 ? 10 : 0, 1);
        good &= nan_only(a, N, at, at + 1, 1);
        fill();
        (i % 2 ? a : b)[at] = NAN;
        kernels->axpy(a, b, N, i / 2 ? 0 : 1);
        good &= nan_only(a, N, at, at + 1, 1);
    }
    return good;
}

static bool all_keep(bool (*keeps)(size_t at)) {
    static const size_t places[] = {0, 5, 15, 16, 31, 40, 63, 64, 71, 72, N - 1};
    bool good = true;
    for (size_t i = 0; i < COUNT_OF(places); i++)
        good &= keeps(places[i]);
    return good;
}

static void test_kernels__a_nan_stays(void **state) {
    static const struct {
        const char *name;
        bool (*keeps)(size_t at);
    } groups[] = {{"norms", norms_keep},          {"roundings", roundings_keep}, {"rows", rows_keep},
                  {"attention", attention_keeps}, {"pooling", pooling_keeps},    {"hyper-connections", hyper_keeps},
                  {"experts", experts_keep}};
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        const char *name = kernel_level_name((enum kernel_level)level);
        if (!kernel_level_runs((enum kernel_level)level))
            continue;
        kernels = &t;
        for (int invariant = 0; invariant < 2; invariant++) {
            kernel_table_init(&t, (enum kernel_level)level, invariant);
            for (int f = FORMAT_F32; f <= FORMAT_FP4; f++)
                if (!products_keep((enum format)f, 200) || !products_keep((enum format)f, 256))
                    fail_msg("products of format %d lose a NaN at level %s", f, name);
        }
        for (size_t i = 0; i < COUNT_OF(groups); i++)
            if (!all_keep(groups[i].keeps))
                fail_msg("%s lose a NaN at level %s", groups[i].name, name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kernels__a_nan_stays)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
