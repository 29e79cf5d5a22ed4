/* test_cli_bench.c - bytes and operations of a step, against sums made by hand; the machine's limits are sane. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "cli/bench_internal.h"
#include "cli/limits_internal.h"

static uint32_t ratios[] = {4, 8, 0};

static const struct shape shape = {.vocab = 100,
                                   .hidden = 8,
                                   .layers = 3,
                                   .heads = 2,
                                   .head_dim = 32,
                                   .window = 3,
                                   .ratios = ratios,
                                   .index_heads = 5,
                                   .index_dim = 16,
                                   .index_topk = 2,
                                   .experts = 4,
                                   .active = 2,
                                   .engram = {.orders = 3, .heads = 2}};

static void add(struct bench_count *c, const char *name, enum dtype dtype, uint32_t rank, uint64_t rows,
                uint64_t cols) {
    struct tensor t = {.name = name, .dtype = dtype, .rank = rank, .dims = {rows, cols}};
    t.bytes = rows * (rank > 1 ? cols : 1) * dtype_bytes(dtype);
    bench_count_add(c, &t, &shape);
}

static void test_count__matrices_with_their_scales(void **state) {
    (void)state;
    struct bench_count c = {0};
    add(&c, "layers.0.attn.wq_a.weight", DTYPE_F8_E4M3, 2, 6, 8);
    add(&c, "layers.0.attn.wq_a.scale", DTYPE_F8_E8M0, 2, 1, 1);
    assert_int_equal(c.fixed_bytes, 49);
    assert_int_equal(c.fixed_products, 48);
    add(&c, "layers.2.ffn.shared_experts.w1.weight", DTYPE_BF16, 2, 4, 8);
    assert_int_equal(c.fixed_bytes, 49 + 64);
    assert_int_equal(c.fixed_products, 48 + 32);
    add(&c, "layers.1.ffn.experts.3.w1.weight", DTYPE_I8, 2, 32, 16); /* 32 x 32 in FP4 */
    add(&c, "layers.1.ffn.experts.3.w1.scale", DTYPE_F8_E8M0, 2, 32, 1);
    assert_int_equal(c.routed_bytes, 512 + 32);
    assert_int_equal(c.routed_products, 1024);
    assert_int_equal(c.fixed_bytes, 49 + 64);
}

static void test_count__vectors_are_read_but_multiply_nothing(void **state) {
    (void)state;
    struct bench_count c = {0};
    add(&c, "layers.0.attn_norm.weight", DTYPE_F32, 1, 8, 0);
    add(&c, "layers.0.attn.compressor.ape", DTYPE_F32, 2, 4, 64);
    assert_int_equal(c.fixed_bytes, 32 + 1024);
    assert_int_equal(c.fixed_products, 0);
}

static void test_count__the_head_is_apart(void **state) {
    (void)state;
    struct bench_count c = {0};
    add(&c, "head.weight", DTYPE_BF16, 2, 100, 8);
    add(&c, "hc_head_fn", DTYPE_F32, 2, 2, 16);
    add(&c, "norm.weight", DTYPE_F32, 1, 8, 0);
    assert_int_equal(c.head_bytes, 1600 + 128 + 32);
    assert_int_equal(c.head_products, 800 + 32);
    assert_int_equal(c.fixed_bytes, 0);
}

static void test_count__rows_of_tables(void **state) {
    (void)state;
    struct bench_count c = {0};
    add(&c, "embed.weight", DTYPE_BF16, 2, 100, 8);
    assert_int_equal(c.row_bytes, 16);
    add(&c, "layers.0.ffn.gate.tid2eid", DTYPE_I64, 2, 100, 2);
    assert_int_equal(c.row_bytes, 16 + 16);
    add(&c, "layers.0.engram.multi_head_embedding.embedding.weight", DTYPE_F32, 2, 50, 4); /* (3 - 1) * 2 rows */
    assert_int_equal(c.row_bytes, 16 + 16 + 4 * 16);
    assert_int_equal(c.fixed_bytes + c.head_bytes + c.routed_bytes, 0);
    assert_int_equal(c.fixed_products + c.head_products + c.routed_products, 0);
}

static void test_count__leaves_out_what_takes_no_part(void **state) {
    (void)state;
    struct bench_count c = {0}, none = {0};
    add(&c, "mtp.0.attn.wq_a.weight", DTYPE_F8_E4M3, 2, 6, 8);
    add(&c, "mtp.0.ffn.experts.0.w1.weight", DTYPE_I8, 2, 32, 16);
    add(&c, "layers.3.attn.wq_a.weight", DTYPE_F8_E4M3, 2, 6, 8); /* of three layers */
    add(&c, "layers.3.ffn.gate.tid2eid", DTYPE_I64, 2, 100, 2);
    add(&c, "vision.patch.weight", DTYPE_BF16, 2, 6, 8);
    add(&c, "engram.token_map", DTYPE_I64, 1, 100, 0);
    add(&c, "layers.0.engram.head_sizes", DTYPE_I64, 1, 4, 0);
    assert_memory_equal(&c, &none, sizeof(c));
}

static void test_bytes__of_a_step(void **state) {
    (void)state;
    struct bench_count c = {.fixed_bytes = 1000, .routed_bytes = 400, .head_bytes = 70, .row_bytes = 3};
    assert_true(bench_weight_bytes(&c, &shape, 2, 1) == 1000 + 200 + 70 + 3);
    assert_true(bench_weight_bytes(&c, &shape, 3.5, 2) == 1000 + 350 + 70 + 6);
}

static void test_bytes__of_the_cache(void **state) {
    (void)state;
    /* a key and an entry: 32 floats; an index key: 16. Three layers have a window of three */
    assert_int_equal(bench_cache_bytes(&shape, SONDE_PRECISION_F32, 0), 3 * 1 * 128);
    assert_int_equal(bench_cache_bytes(&shape, SONDE_PRECISION_F32, 2), 3 * 3 * 128);
    assert_int_equal(bench_cache_bytes(&shape, SONDE_PRECISION_F32, 3), 9 * 128 + 1 * (128 + 64));
    assert_int_equal(bench_cache_bytes(&shape, SONDE_PRECISION_F32, 6), 9 * 128 + 1 * (128 + 64));
    assert_int_equal(bench_cache_bytes(&shape, SONDE_PRECISION_F32, 7), 9 * 128 + 2 * (128 + 64) + 1 * 128);
    /* token 41 has 10 complete blocks of 4, of which it sees two but scores all, and 5 of 8 */
    assert_int_equal(bench_cache_bytes(&shape, SONDE_PRECISION_F32, 41), 9 * 128 + 2 * 128 + 10 * 64 + 5 * 128);
}

/* 43 layers of V4-Flash: two with a window only, then ratios 4 and 128 in turn; the next is multi-token prediction. */
static void test_bytes__of_a_long_context(void **state) {
    (void)state;
    enum { LAYERS = 43, TOKENS = 1 << 20 };
    uint32_t ratio[LAYERS] = {0, 0};
    for (uint32_t i = 2; i < LAYERS; i++)
        ratio[i] = i % 2 ? 128 : 4;
    struct shape flash = {
        .layers = LAYERS, .ratios = ratio, .head_dim = 512, .rope_dim = 64, .index_dim = 128, .window = 128};
    uint64_t fixed, growing;
    struct sonde_error e;
    assert_int_equal(model_cache_bytes(&flash, SONDE_PRECISION_FAST, TOKENS, &fixed, &growing, &e), 0);
    assert_int_equal(growing, (uint64_t)21 * TOKENS / 4 * (584 + 68) + (uint64_t)20 * TOKENS / 128 * 584);
    assert_true(growing / TOKENS < 3600);
    assert_int_equal(model_cache_bytes(&flash, SONDE_PRECISION_OFFICIAL, TOKENS, &fixed, &growing, &e), 0);
    assert_true(growing / TOKENS < 3600);
    assert_int_equal(model_cache_bytes(&flash, SONDE_PRECISION_F32, TOKENS, &fixed, &growing, &e), 0);
    assert_int_equal(growing, (uint64_t)21 * TOKENS / 4 * 4 * (512 + 128) + (uint64_t)20 * TOKENS / 128 * 4 * 512);
}

static void test_flops__of_a_token(void **state) {
    (void)state;
    struct bench_count c = {.fixed_products = 1000, .routed_products = 400, .head_products = 70};
    /* a key costs 2 heads * 32 channels, once for the score and once for the sum */
    assert_true(bench_token_flops(&c, &shape, 0) == 2 * (1000 + 200 + 3 * 1 * 128));
    assert_true(bench_token_flops(&c, &shape, 41) == 2 * (1000 + 200 + (9 + 2 + 5) * 128 + 10 * 5 * 16));
}

static void test_median__of_odd_and_even(void **state) {
    (void)state;
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2}, one[] = {7};
    assert_true(median(odd, 3) == 2);
    assert_true(median(even, 4) == 2.5);
    assert_true(median(one, 1) == 7);
}

static void test_limits__are_those_of_a_machine(void **state) {
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct limits *l;
        struct sonde_error e;
        if (!kernel_level_runs((enum kernel_level)level))
            continue;
        assert_int_equal(limits_open((enum kernel_level)level, 2, &l, &e), 0);
        assert_int_equal(limits_threads(l), 2);
        limits_measure(l);
        assert_int_equal(limits_samples(l), 1);
        assert_true(limits_read_bandwidth(l) > 1e7 && limits_read_bandwidth(l) < 1e13);
        assert_true(limits_peak_flops(l) > 1e7 && limits_peak_flops(l) < 1e15);
        limits_close(l);
    }
    limits_close(NULL);
}

/* The levels differ in how they read, not in what. */
static void test_probe__reads_everything(void **state) {
    (void)state;
    static _Alignas(64) uint64_t memory[1024];
    uint64_t all = 0;
    struct rng r;
    rng_init(&r, 3);
    for (size_t i = 0; i < COUNT_OF(memory); i++)
        all ^= memory[i] = rng_u64(&r);
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++)
        for (uint32_t streams = 1; streams <= 8; streams += streams == 1 ? 3 : 4)
            if (kernel_level_runs((enum kernel_level)level))
                assert_true(kernel_probe_read((enum kernel_level)level, memory, sizeof(memory), streams) == all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_count__matrices_with_their_scales),
        cmocka_unit_test(test_count__vectors_are_read_but_multiply_nothing),
        cmocka_unit_test(test_count__the_head_is_apart),
        cmocka_unit_test(test_count__rows_of_tables),
        cmocka_unit_test(test_count__leaves_out_what_takes_no_part),
        cmocka_unit_test(test_bytes__of_a_step),
        cmocka_unit_test(test_bytes__of_the_cache),
        cmocka_unit_test(test_bytes__of_a_long_context),
        cmocka_unit_test(test_flops__of_a_token),
        cmocka_unit_test(test_median__of_odd_and_even),
        cmocka_unit_test(test_limits__are_those_of_a_machine),
        cmocka_unit_test(test_probe__reads_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
