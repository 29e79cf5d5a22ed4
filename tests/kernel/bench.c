/*
 * bench.c - times every kernel of a table on the shapes of the released models.
 *
 * Weights lie in a pool far larger than any cache, in pages of 4 KB as those of a mapped file do, and every call takes
 * the next matrix, so that gemm's rates at one token are those of memory. All else works on what the caches hold.
 * A line is the median over samples: at least SAMPLES of them, for SECONDS.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/base.h"
#include "bench.h"

enum { SAMPLES = 5, MOST_SAMPLES = 400, ROWS = 2048, COLS = 4096, TOKENS = 512 };
enum {
    HEADS = 64,
    HEAD_DIM = 512,
    KEYS = 640,
    INDEX_DIM = 128,
    INDEX_KEYS = 8192,
    STREAMS = 4,
    BLOCK = 128,
    SIDE = 512
};
#define SECONDS    0.05
#define POOL_BYTES ((size_t)2 << 30)
#define WORK       ((size_t)TOKENS * COLS)
/* Of a row of queries against all index keys. */
#define SCORE_FLOPS (2.0 * HEADS * INDEX_DIM * INDEX_KEYS)

static const char *level_name, *only;
static const struct kernel_table *kernels;
static uint8_t *pool, *scales;
static float *in, *out, *other, *packed;
static void *scratch;
static double samples[MOST_SAMPLES];

static bool wanted(const char *name) {
    return !only || strncmp(name, only, strlen(only)) == 0;
}

static int compare(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Median seconds of one of `times` calls of run(arg). */
static double seconds_of(void (*run)(size_t arg), size_t arg, int times) {
    double start = clock_seconds();
    int n = 0;
    run(arg);
    while (n < MOST_SAMPLES && (n < SAMPLES || clock_seconds() - start < SECONDS)) {
        double before = clock_seconds();
        for (int i = 0; i < times; i++)
            run(arg);
        samples[n++] = (clock_seconds() - before) / times;
    }
    qsort(samples, (size_t)n, sizeof(*samples), compare);
    return samples[n / 2];
}

/* ----------------------------------------------------------------------------------------- products */

static struct matrix w;
static size_t next; /* matrix of the pool */

static void take_next(void) {
    size_t bytes = (size_t)ROWS * COLS *
                   (w.format == FORMAT_FP4   ? 1
                    : w.format == FORMAT_FP8 ? 2
                    : w.format == FORMAT_F32 ? 8
                                             : 4) /
                   2;
    size_t at = next++ % (POOL_BYTES / bytes);
    w.data = pool + at * bytes;
    w.scale = matrix_quantised(&w) ? scales + (w.format == FORMAT_FP4 ? at % 64 * (ROWS * COLS / 32) : 0) : NULL;
}

static void run_gemm(size_t count) {
    take_next();
    kernels->gemm(&w, 0, ROWS, in, COLS, (uint32_t)count, out, ROWS);
}

static void run_gemm_bf16(size_t count) {
    take_next();
    kernels->gemm_bf16(&w, 0, ROWS, packed, (uint32_t)count, out, ROWS, scratch);
}

static void run_pack(size_t count) {
    kernels->pack(&w, in, COLS, (uint32_t)count, 0, COLS, packed);
}

static void matrix_of(enum format f) {
    uint32_t rows = f == FORMAT_FP8 ? BLOCK : 1, cols = f == FORMAT_FP8 ? BLOCK : 32;
    w = (struct matrix){.format = f, .rows = ROWS, .cols = COLS};
    if (matrix_quantised(&w)) {
        w.scale_format = SCALE_E8M0;
        w.block_rows = rows;
        w.block_cols = cols;
        w.scale_cols = COLS / cols;
    }
    take_next();
}

static void bench_products(void) {
    static const struct {
        const char *name;
        enum format format;
    } formats[] = {
        {"fp4", FORMAT_FP4}, {"fp8", FORMAT_FP8}, {"bf16", FORMAT_BF16}, {"f16", FORMAT_F16}, {"f32", FORMAT_F32}};
    static const size_t counts[] = {1, 2, 4, 8, 16, 64, TOKENS};
    static const struct {
        const char *name;
        void (*run)(size_t count);
    } kinds[] = {{"gemm", run_gemm}, {"gemm_bf16", run_gemm_bf16}};
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        for (size_t f = 0; f < COUNT_OF(formats); f++)
            for (size_t i = 0; i < COUNT_OF(counts); i++) {
                if (!wanted(kinds[k].name))
                    continue;
                matrix_of(formats[f].format);
                run_pack(counts[i]);
                double s = seconds_of(kinds[k].run, counts[i], 1);
                printf("%-8s %-10s %-5s %4zu tokens %10.3f ms %8.2f GB/s of weights %8.1f GFLOP/s\n", level_name,
                       kinds[k].name, formats[f].name, counts[i], s * 1e3, (double)matrix_bytes(&w) / s / 1e9,
                       2e-9 * ROWS * COLS * (double)counts[i] / s);
                fflush(stdout);
            }
}

/* ------------------------------------------------------------------------------------------- others */

static const float *blocks[BLOCK];

static void run_rms_norm(size_t n) {
    kernels->rms_norm(in, (uint32_t)n, other, 1e-6f, out);
}
static float turn[64];

static void run_rotate(size_t n) {
    kernels->rotate(out, (uint32_t)n / 2, turn, 1);
}
static void run_hadamard(size_t n) {
    kernels->hadamard(out, (uint32_t)n);
}
static void run_fake_e4m3(size_t n) {
    kernels->fake_e4m3(out, n, 64);
}
static void run_fake_e2m1(size_t n) {
    kernels->fake_e2m1(out, n, 32);
}
static void run_round_bf16(size_t n) {
    kernels->round_bf16(out, n);
}
static void run_factor_left(size_t n) {
    kernels->factor_bf16(in, SIDE, 0, (uint32_t)n, SIDE, packed);
}
static void run_factor_right(size_t n) {
    kernels->factor_bf16(in, SIDE, KERNEL_RIGHT, (uint32_t)n, SIDE, packed);
}
static void run_product(size_t n) {
    kernels->factor(in, SIDE, 0, SIDE, SIDE, packed);
    kernels->product(packed, packed, (uint32_t)n, (uint32_t)n, SIDE, false, out, SIDE);
}
static void run_product_bf16(size_t n) {
    kernels->factor_bf16(in, SIDE, 0, SIDE, SIDE, packed);
    kernels->product_bf16(packed, packed, (uint32_t)n, (uint32_t)n, SIDE, false, out, SIDE);
}
/* Keys as floats, and packed. */
static const struct row_format float_keys = {ROW_F32, HEAD_DIM, 0}, packed_keys = {ROW_KEY, HEAD_DIM, 64},
                               float_index = {ROW_F32, INDEX_DIM, 0}, packed_index = {ROW_INDEX, INDEX_DIM, 0};
static const void *keys[KEYS], *stored[KEYS], *index_rows;
static const float *key_rows[KEYS]; /* keys */

static void run_store_key(size_t n) {
    kernels->store_row(&packed_keys, in + n, out);
}
static void run_store_index(size_t n) {
    kernels->store_row(&packed_index, in + n, out);
}
static void run_attend(size_t heads) {
    kernels->attend(in, (uint32_t)heads, &float_keys, keys, KEYS, other, 0.04f, out, out + WORK / 2);
}
static void run_attend_packed(size_t heads) {
    kernels->attend(in, (uint32_t)heads, &packed_keys, stored, KEYS, other, 0.04f, out, out + WORK / 2);
}
static void run_attend_bf16(size_t heads) {
    kernels->attend_bf16(in, (uint32_t)heads, &packed_keys, stored, KEYS, other, 0.04f, out, out + WORK / 2, scratch);
}
static void run_index_scores(size_t n) {
    kernels->index_scores(in, in, (uint32_t)n, HEADS, &float_index, other, INDEX_KEYS, out, INDEX_KEYS);
}
static void run_index_scores_packed(size_t n) {
    kernels->index_scores(in, in, (uint32_t)n, HEADS, &packed_index, index_rows, INDEX_KEYS, out, INDEX_KEYS);
}
static void run_index_scores_bf16(size_t n) {
    kernels->index_scores_bf16(in, in, (uint32_t)n, HEADS, &packed_index, index_rows, INDEX_KEYS, out, INDEX_KEYS,
                               scratch);
}
static void run_pool(size_t rows) {
    kernels->pool(blocks, blocks, other, HEAD_DIM, (uint32_t)rows, HEAD_DIM, out);
}
static void run_hc_weights(size_t streams) {
    memcpy(out, in, (2 + streams) * streams * sizeof(float));
    kernels->hc_weights(out, (uint32_t)streams, in, in, 20, 1e-6f, out + 64, out + 128);
}
static void run_hc_collapse(size_t n) {
    kernels->hc_collapse(in, STREAMS, (uint32_t)n, in, out);
}
static void run_hc_spread(size_t n) {
    static const float post[STREAMS] = {0.1f, 0.2f, 0.1f, 0.1f};
    static const float comb[STREAMS * STREAMS] = {0.25f, 0.2f, 0.1f, 0.2f, 0.2f, 0.2f, 0.1f, 0.1f,
                                                  0.2f,  0.2f, 0.2f, 0.2f, 0.1f, 0.1f, 0.1f, 0.1f};
    kernels->hc_spread(out, STREAMS, (uint32_t)n, in, post, comb);
}
static void run_swiglu(size_t n) {
    memcpy(out, other, n * sizeof(float)); /* else it shrinks until it is subnormal */
    kernels->swiglu(out, in, n, 10, 0.5f);
}
static void run_axpy(size_t n) {
    kernels->axpy(out, in, n, 0.001f);
}

/* As attention of eight heads in training: over all keys, and 16 keys' gradients from a token's eight heads. */
static void run_dots(size_t n) {
    kernels->dots(in, 8, key_rows, KEYS, (uint32_t)n, out);
}
static void run_mix(size_t n) {
    float *rows[8];
    for (size_t i = 0; i < 8; i++)
        rows[i] = out + i * n;
    kernels->mix(in, KEYS, 1, key_rows, KEYS, (uint32_t)n, 8, rows);
}
static void run_mix_turned(size_t n) {
    float *rows[16];
    for (size_t i = 0; i < 16; i++)
        rows[i] = out + i * n;
    kernels->mix(in, 1, 16, key_rows, 16, (uint32_t)n, 16, rows);
}

/* The rows of `other`, and the same packed. */
static void place_keys(void) {
    static uint8_t rows[KEYS * 4 * HEAD_DIM + INDEX_KEYS * INDEX_DIM];
    uint8_t *to = rows;
    for (size_t i = 0; i < KEYS; i++) {
        keys[i] = key_rows[i] = other + (i * 7919 % KEYS) * HEAD_DIM;
        stored[i] = to + (i * 7919 % KEYS) * row_bytes(&packed_keys);
    }
    for (size_t i = 0; i < KEYS; i++, to += row_bytes(&packed_keys))
        row_encode(&packed_keys, other + i * HEAD_DIM, to);
    index_rows = to;
    for (size_t i = 0; i < INDEX_KEYS; i++, to += row_bytes(&packed_index))
        row_encode(&packed_index, other + i * INDEX_DIM, to);
}

static void bench_others(void) {
    static const struct {
        const char *name;
        void (*run)(size_t n);
        size_t n;
        int times;
        double bytes, flops; /* of a call; 0: not told */
    } rows[] = {
        {"attend, 64 heads", run_attend, HEADS, 1, 0, 4.0 * HEADS * HEAD_DIM * KEYS},
        {"attend, 16 heads", run_attend, 16, 1, 0, 4.0 * 16 * HEAD_DIM * KEYS},
        {"attend packed, 64", run_attend_packed, HEADS, 1, 0, 4.0 * HEADS * HEAD_DIM * KEYS},
        {"attend packed, 16", run_attend_packed, 16, 1, 0, 4.0 * 16 * HEAD_DIM * KEYS},
        {"attend_bf16, 64", run_attend_bf16, HEADS, 1, 0, 4.0 * HEADS * HEAD_DIM * KEYS},
        {"attend_bf16, 32", run_attend_bf16, 32, 1, 0, 4.0 * 32 * HEAD_DIM * KEYS},
        {"index_scores, 1 row", run_index_scores, 1, 1, 0, SCORE_FLOPS},
        {"index_scores, 8", run_index_scores, 8, 1, 0, 8 * SCORE_FLOPS},
        {"index_scores packed, 1", run_index_scores_packed, 1, 1, 0, SCORE_FLOPS},
        {"index_scores packed, 8", run_index_scores_packed, 8, 1, 0, 8 * SCORE_FLOPS},
        {"index_scores_bf16, 1", run_index_scores_bf16, 1, 1, 0, SCORE_FLOPS},
        {"index_scores_bf16, 8", run_index_scores_bf16, 8, 1, 0, 8 * SCORE_FLOPS},
        {"factor_bf16, left", run_factor_left, SIDE, 1, 4.0 * SIDE * SIDE, 0},
        {"factor_bf16, right", run_factor_right, SIDE, 1, 4.0 * SIDE * SIDE, 0},
        {"product, packing", run_product, SIDE, 1, 0, 2.0 * SIDE * SIDE * SIDE},
        {"product_bf16, packing", run_product_bf16, SIDE, 1, 0, 2.0 * SIDE * SIDE * SIDE},
        {"store_row, key", run_store_key, 0, 1000, 4.0 * HEAD_DIM, 0},
        {"store_row, index key", run_store_index, 0, 1000, 4.0 * INDEX_DIM, 0},
        {"pack, 64 tokens", run_pack, 64, 1, 8.0 * 64 * COLS, 0},
        {"rms_norm", run_rms_norm, COLS, 100, 12.0 * COLS, 0},
        {"rotate", run_rotate, 64, 1000, 12.0 * 64, 0},
        {"hadamard", run_hadamard, INDEX_DIM, 1000, 8.0 * INDEX_DIM, 0},
        {"fake_e4m3", run_fake_e4m3, 448, 1000, 8.0 * 448, 0},
        {"fake_e2m1", run_fake_e2m1, INDEX_DIM, 1000, 8.0 * INDEX_DIM, 0},
        {"round_bf16", run_round_bf16, COLS, 100, 8.0 * COLS, 0},
        {"pool, 8 rows", run_pool, 8, 10, 12.0 * 8 * HEAD_DIM, 0},
        {"pool, 128 rows", run_pool, BLOCK, 1, 12.0 * BLOCK * HEAD_DIM, 0},
        {"hc_weights", run_hc_weights, STREAMS, 100, 0, 0},
        {"hc_collapse", run_hc_collapse, COLS, 100, 4.0 * (STREAMS + 1) * COLS, 0},
        {"hc_spread", run_hc_spread, COLS, 100, 4.0 * (2 * STREAMS + 1) * COLS, 0},
        {"swiglu", run_swiglu, 2048, 100, 12.0 * 2048, 0},
        {"axpy", run_axpy, COLS, 100, 12.0 * COLS, 0},
        {"dots, 8 rows of 64", run_dots, 64, 10, 0, 2.0 * 8 * KEYS * 64},
        {"mix, 8 rows of 64", run_mix, 64, 10, 0, 2.0 * 8 * KEYS * 64},
        {"mix, 16 rows of 64", run_mix_turned, 64, 10, 0, 2.0 * 16 * 16 * 64},
    };
    place_keys();
    for (size_t i = 0; i < BLOCK; i++)
        blocks[i] = in + i * HEAD_DIM;
    for (size_t i = 0; i < COUNT_OF(turn); i += 2)
        turn[i] = 1; /* by nothing */
    matrix_of(FORMAT_BF16);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!wanted(rows[i].name))
            continue;
        memcpy(out, in, WORK * sizeof(float));
        double s = seconds_of(rows[i].run, rows[i].n, rows[i].times);
        printf("%-8s %-21s %17.3f us", level_name, rows[i].name, s * 1e6);
        if (rows[i].bytes > 0)
            printf(" %8.2f GB/s", rows[i].bytes / s / 1e9);
        if (rows[i].flops > 0)
            printf(" %30.1f GFLOP/s", rows[i].flops / s / 1e9);
        printf("\n");
        fflush(stdout);
    }
}

/* -------------------------------------------------------------------------------------------- setup */

/* Codes of any format: a word of 16 bits is a bf16 or half of modest size, two e4m3 codes or four e2m1 ones. */
static void fill_pool(struct rng *rng) {
    enum { REPEATED = 1 << 20 };
    for (size_t i = 0; i < REPEATED; i += 2) {
        uint16_t word = (uint16_t)(rng_u64(rng) & 0x83ff) | 0x3800;
        memcpy(pool + i, &word, sizeof(word));
    }
    for (size_t at = REPEATED; at < POOL_BYTES; at += REPEATED)
        memcpy(pool + at, pool, REPEATED);
}

static float *random_floats(struct rng *rng) {
    float *x = aligned_alloc(64, WORK * sizeof(float));
    for (size_t i = 0; x && i < WORK; i++)
        x[i] = (float)(2 * rng_unit(rng) - 1);
    return x;
}

bool bench_kernels(const struct kernel_table *t, const char *level, const char *kernel) {
    size_t scale_bytes = (size_t)64 * ROWS * COLS / 32;
    struct rng rng;
    rng_init(&rng, 1);
    kernels = t;
    level_name = level;
    only = kernel;
    pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    scales = malloc(scale_bytes);
    in = random_floats(&rng);
    out = random_floats(&rng);
    other = random_floats(&rng);
    packed = aligned_alloc(64, kernel_packed_bytes(COLS, TOKENS));
    scratch = aligned_alloc(64, KERNEL_SCRATCH_BYTES);
    bool good = pool != MAP_FAILED && scales && in && out && other && packed && scratch;
    if (good) {
        madvise(pool, POOL_BYTES, MADV_NOHUGEPAGE);
        fill_pool(&rng);
        for (size_t i = 0; i < scale_bytes; i++)
            scales[i] = (uint8_t)(120 + rng_u64(&rng) % 8);
        bench_others();
        bench_products();
    }
    if (pool != MAP_FAILED)
        munmap(pool, POOL_BYTES);
    free(scales);
    free(in);
    free(out);
    free(other);
    free(packed);
    free(scratch);
    return good;
}
