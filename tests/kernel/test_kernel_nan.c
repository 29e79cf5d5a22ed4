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

enum { ROWS = 5, COLS = 200 };

static struct matrix matrix_of(enum format f) {
    static const uint16_t one[] = {[FORMAT_BF16] = 0x3f80, [FORMAT_F16] = 0x3c00};
    struct matrix w = {.format = f, .rows = ROWS, .cols = COLS, .data = codes};
    memset(codes, f == FORMAT_FP8 ? 0x38 : 0x22, sizeof(codes)); /* ones */
    memset(scales, 127, sizeof(scales));
    for (size_t i = 0; f == FORMAT_F32 && i < (size_t)ROWS * COLS; i++)
        memcpy(codes + 4 * i, &(float){1}, 4);
    for (size_t i = 0; (f == FORMAT_BF16 || f == FORMAT_F16) && i < (size_t)ROWS * COLS; i++)
        memcpy(codes + 2 * i, &one[f], 2);
    if (matrix_quantised(&w)) {
        w.scale = scales;
        w.scale_format = SCALE_E8M0;
        w.block_rows = f == FORMAT_FP4 ? 1 : 128;
        w.block_cols = f == FORMAT_FP4 ? 32 : 128;
        w.scale_cols = (COLS + w.block_cols - 1) / w.block_cols;
    }
    return w;
}

static bool inputs_reach(const struct matrix *w, uint32_t count, uint32_t col) {
    bool good = true;
    fill();
    a[(count - 1) * COLS + col] = NAN;
    kernels->gemm(w, 0, ROWS, a, COLS, count, out, ROWS);
    good &= nan_only(out, (size_t)count * ROWS, (size_t)(count - 1) * ROWS, (size_t)count * ROWS, 1);
    kernels->pack(w, a, COLS, count, 0, COLS, packed);
    kernels->gemm_bf16(w, 0, ROWS, packed, count, out, ROWS, scratch);
    return good && nan_only(out, (size_t)count * ROWS, (size_t)(count - 1) * ROWS, (size_t)count * ROWS, 1);
}

/* Of a weight in row `row`. */
static bool weights_reach(const struct matrix *w, uint32_t count, uint32_t row) {
    fill();
    kernels->gemm(w, 0, ROWS, a, COLS, count, out, ROWS);
    if (!nan_only(out, (size_t)count * ROWS, row, (size_t)count * ROWS, ROWS))
        return false;
    kernels->pack(w, a, COLS, count, 0, COLS, packed);
    kernels->gemm_bf16(w, 0, ROWS, packed, count, out, ROWS, scratch);
    return nan_only(out, (size_t)count * ROWS, row, (size_t)count * ROWS, ROWS);
}

static bool products_keep(enum format f) {
    static const uint32_t counts[] = {1, 3, 4, 5, 20}, cols[] = {0, 17, 100, 130, COLS - 1};
    static const size_t bits[] = {[FORMAT_F32] = 32, [FORMAT_BF16] = 16, [FORMAT_F16] = 16, [FORMAT_FP8] = 8};
    bool good = true;
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        for (size_t j = 0; j < COUNT_OF(cols); j++) {
            struct matrix w = matrix_of(f);
            good &= inputs_reach(&w, counts[i], cols[j]);
            if (f == FORMAT_FP4)
                scales[3 * w.scale_cols + cols[j] / 32] = 255;
            else
                memset(codes + (3 * COLS + cols[j]) * bits[f] / 8, 0xff, bits[f] / 8);
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

static bool attention_keeps(size_t at) {
    enum { HEADS = 3, KEYS = 40 };
    const float *keys[KEYS];
    float sink[HEADS] = {0};
    bool good = true;
    for (size_t k = 0; k < KEYS; k++)
        keys[k] = b + k * N;
    fill();
    a[N + at] = NAN;
    kernels->attend(a, HEADS, N, keys, KEYS, sink, 0.1f, weights, out);
    good &= nan_only(out, HEADS * N, N, 2 * N, 1);
    kernels->index_scores(a, c, HEADS, N, b, KEYS, out);
    good &= nan_only(out, KEYS, 0, KEYS, 1);
    fill();
    b[(at % KEYS) * N + at] = NAN;
    kernels->attend(a, HEADS, N, keys, KEYS, sink, 0.1f, weights, out);
    good &= nan_only(out, HEADS * N, 0, HEADS * N, 1);
    kernels->index_scores(a, c, HEADS, N, b, KEYS, out);
    good &= nan_only(out, KEYS, at % KEYS, at % KEYS + 1, 1);
    fill();
    sink[1] = NAN;
    kernels->attend(a, HEADS, N, keys, KEYS, sink, 0.1f, weights, out);
    good &= nan_only(out, HEADS * N, N, 2 * N, 1);
    c[1] = NAN;
    kernels->index_scores(a, c, HEADS, N, b, KEYS, out);
    return good && nan_only(out, KEYS, 0, KEYS, 1);
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
    } groups[] = {{"norms", norms_keep},      {"roundings", roundings_keep},      {"attention", attention_keeps},
                  {"pooling", pooling_keeps}, {"hyper-connections", hyper_keeps}, {"experts", experts_keep}};
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        const char *name = kernel_level_name((enum kernel_level)level);
        if (!kernel_level_runs((enum kernel_level)level))
            continue;
        kernel_table_init(&t, (enum kernel_level)level);
        kernels = &t;
        for (int f = FORMAT_F32; f <= FORMAT_FP4; f++)
            if (!products_keep((enum format)f))
                fail_msg("products of format %d lose a NaN at level %s", f, name);
        for (size_t i = 0; i < COUNT_OF(groups); i++)
            if (!all_keep(groups[i].keeps))
                fail_msg("%s lose a NaN at level %s", groups[i].name, name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kernels__a_nan_stays)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
