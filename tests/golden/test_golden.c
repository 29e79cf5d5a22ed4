/*
 * test_golden.c - the forward pass against the oracle, on every case of tests/golden.
 *
 * At f32 everything is held to 1e-4 relative at every position. At kv and official a small random model is
 * chaotic, so the yardstick is the oracle's distance from itself: at most twice that, of logits and layer by
 * layer. `test_golden --table` prints the table of docs/numerics.md.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "golden/golden.h"

#define TOLERANCE 1e-4

static double worst(const float *a, const float *b, uint32_t rows, size_t n) {
    double most = 0;
    for (uint32_t s = 0; s < rows; s++) {
        double d = golden_distance(a + s * n, b + s * n, n);
        most = d > most || isnan(d) ? d : most;
    }
    return most;
}

static void run(struct golden *g, const char *name, enum sonde_precision precision) {
    golden_open(g, name, precision, GOLDEN_TOKENS);
    g->trace = true;
    golden_feed(g, g->ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
}

/* ------------------------------------------------------------------------------------------- f32 */

static void test_f32__logits_are_the_oracles(void **state) {
    struct golden g;
    run(&g, *state, SONDE_PRECISION_F32);
    double d = worst(g.logits, golden_floats(&g, "logits.f32"), GOLDEN_TOKENS, g.shape->vocab);
    print_message("# %s: logits %.1e\n", (char *)*state, d);
    assert_true(d < TOLERANCE);
    golden_close(&g);
}

static void test_f32__layers_are_the_oracles(void **state) {
    struct golden g;
    run(&g, *state, SONDE_PRECISION_F32);
    const int32_t *positions = golden_integers(&g, "positions");
    for (uint32_t n = 0; n < g.shape->layers; n++) {
        const float *expected = golden_floats(&g, "layers.%u.f32", n);
        for (int i = 0; i < 9; i++)
            assert_true(golden_distance(g.layers + (n * GOLDEN_TOKENS + (size_t)positions[i]) * g.residual,
                                        expected + (size_t)i * g.residual, g.residual) < TOLERANCE);
    }
    golden_close(&g);
}

static int ascending(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

static void test_f32__routes_are_the_oracles(void **state) {
    struct golden g;
    char name[64];
    run(&g, *state, SONDE_PRECISION_F32);
    for (uint32_t n = 0; n < g.shape->layers; n++) {
        snprintf(name, sizeof(name), "layers.%u.experts", n);
        const int32_t *expected = golden_integers(&g, name);
        for (uint32_t s = 0; s < GOLDEN_TOKENS; s++) {
            int32_t *got = g.routes + ((size_t)n * GOLDEN_TOKENS + s) * g.shape->active;
            qsort(got, g.shape->active, sizeof(*got), ascending);
            assert_memory_equal(got, expected + (size_t)s * g.shape->active, g.shape->active * sizeof(*got));
        }
    }
    golden_close(&g);
}

static void test_f32__predictions_are_the_oracles(void **state) {
    struct golden g;
    run(&g, *state, SONDE_PRECISION_F32);
    assert_true(model_has_mtp(g.model));
    double d = worst(g.mtp, golden_floats(&g, "mtp.f32"), GOLDEN_TOKENS - 1, g.shape->vocab);
    print_message("# %s: multi-token prediction %.1e\n", (char *)*state, d);
    assert_true(d < TOLERANCE);
    golden_close(&g);
}

static void test_f32__greedy_is_the_oracles(void **state) {
    struct golden g;
    golden_open(&g, *state, SONDE_PRECISION_F32, GOLDEN_TOKENS);
    const int32_t *expected = golden_integers(&g, "greedy.ids");
    golden_feed(&g, expected, 0, 32, 32);
    for (uint32_t at = 32; at < 48; at++) {
        int32_t next = golden_argmax(g.logits + (size_t)(at - 1) * g.shape->vocab, g.shape->vocab);
        assert_int_equal(next, expected[at]);
        golden_feed(&g, expected, at, at + 1, 1);
    }
    golden_close(&g);
}

/* ------------------------------------------------------------------------------- kv and official */

struct verdict {
    double median, agree, allowed_median, allowed_agree;
    double layers[GOLDEN_LAYERS], allowed_layers[GOLDEN_LAYERS]; /* official only */
    uint32_t layer_count;
};

static struct verdict judge(const char *name, enum sonde_precision precision, const char *suffix) {
    struct golden g;
    struct verdict v = {0};
    double distances[GOLDEN_TOKENS];
    run(&g, name, precision);
    size_t vocab = g.shape->vocab;
    const float *expected = golden_floats(&g, "logits.%s", suffix), *noise = golden_floats(&g, "noise.%s", suffix);
    for (uint32_t s = 0; s < GOLDEN_TOKENS; s++) {
        distances[s] = golden_distance(g.logits + s * vocab, expected + s * vocab, vocab);
        v.agree += golden_argmax(g.logits + s * vocab, vocab) == golden_argmax(expected + s * vocab, vocab);
    }
    v.median = golden_median(distances, GOLDEN_TOKENS);
    v.agree /= GOLDEN_TOKENS;
    v.allowed_median = 2 * (double)noise[0];
    v.allowed_agree = 1 - 2 * (1 - (double)noise[1]);
    if (precision == SONDE_PRECISION_OFFICIAL) {
        const int32_t *positions = golden_integers(&g, "positions");
        const float *layer_noise = golden_floats(&g, "noise.layers.official");
        v.layer_count = g.shape->layers;
        for (uint32_t n = 0; n < g.shape->layers; n++) {
            const float *layer = golden_floats(&g, "layers.%u.official", n);
            for (int i = 0; i < 9; i++)
                distances[i] = golden_distance(g.layers + (n * GOLDEN_TOKENS + (size_t)positions[i]) * g.residual,
                                               layer + (size_t)i * g.residual, g.residual);
            v.layers[n] = golden_median(distances, 9);
            v.allowed_layers[n] = 2 * (double)layer_noise[n];
        }
    }
    golden_close(&g);
    return v;
}

static void test_kv__is_as_near_as_the_oracle_to_itself(void **state) {
    struct verdict v = judge(*state, SONDE_PRECISION_KV, "kv");
    print_message("# %s kv: median %.4f of %.4f, agree %.3f of %.3f\n", (char *)*state, v.median, v.allowed_median,
                  v.agree, v.allowed_agree);
    assert_true(v.median <= v.allowed_median);
    assert_true(v.agree >= v.allowed_agree);
}

static void test_official__is_as_near_as_the_oracle_to_itself(void **state) {
    struct verdict v = judge(*state, SONDE_PRECISION_OFFICIAL, "official");
    print_message("# %s official: median %.4f of %.4f, agree %.3f of %.3f\n", (char *)*state, v.median,
                  v.allowed_median, v.agree, v.allowed_agree);
    assert_true(v.median <= v.allowed_median);
    assert_true(v.agree >= v.allowed_agree);
    for (uint32_t n = 0; n < v.layer_count; n++) {
        print_message("#   layer %u: %.2e of %.2e\n", n, v.layers[n], v.allowed_layers[n]);
        assert_true(v.layers[n] <= v.allowed_layers[n]);
    }
}

/* ----------------------------------------------------------------------------------------- table */

static int table(void) {
    puts("| case | precision | median distance | allowed | equal argmax | allowed | by layer (allowed) |");
    puts("| --- | --- | --- | --- | --- | --- | --- |");
    for (int i = 0; i < GOLDEN_CASES; i++)
        for (int p = 0; p < 2; p++) {
            struct verdict v =
                judge(golden_cases[i], p ? SONDE_PRECISION_OFFICIAL : SONDE_PRECISION_KV, p ? "official" : "kv");
            printf("| %s | %s | %.2e | %.2e | %.1f %% | %.1f %% |", golden_cases[i], p ? "official" : "kv", v.median,
                   v.allowed_median, 100 * v.agree, 100 * v.allowed_agree);
            for (uint32_t n = 0; n < v.layer_count; n++)
                printf(" %.1e (%.1e)", v.layers[n], v.allowed_layers[n]);
            puts(" |");
        }
    return 0;
}

/* a string literal is not const where cmocka wants it */
#define CASE(test, name)                                                                                               \
    { name ": " #test, test, NULL, NULL, (void *)(uintptr_t)name }
#define CASES(name)                                                                                                    \
    CASE(test_f32__logits_are_the_oracles, name), CASE(test_f32__layers_are_the_oracles, name),                        \
        CASE(test_f32__routes_are_the_oracles, name), CASE(test_f32__predictions_are_the_oracles, name),               \
        CASE(test_f32__greedy_is_the_oracles, name), CASE(test_kv__is_as_near_as_the_oracle_to_itself, name),          \
        CASE(test_official__is_as_near_as_the_oracle_to_itself, name)

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--table") == 0)
        return table();
    const struct CMUnitTest tests[] = {CASES("flash"), CASES("pro"),     CASES("base-fp8"),
                                       CASES("bf16"),  CASES("sliding"), CASES("flash-engram")};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
