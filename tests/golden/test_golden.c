/*
 * test_golden.c - the forward pass against the oracle: every case of tests/golden at every level that runs here.
 *
 * At f32 everything is held to 1e-4 relative at every position. At kv and official a small random model is
 * chaotic, so the yardstick is the oracle's distance from itself: at most twice that, of logits and layer by
 * layer. `fast` differs from kv by rounding the inputs of products, which may move the logits by 2 %, and always by
 * less than official's roundings do. V4.1 keeps entries so coarsely that this, too, is held to what the oracle does
 * when its activations move as much. How many workers share the work changes no bit.
 *
 * `test_golden --table [LEVEL]` prints the table of docs/numerics.md.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "golden/golden.h"

#define TOLERANCE 1e-4
#define FAST_MOST 0.02 /* of the logits' length: what rounding the inputs of products may change */

enum { WORKERS = 2 };

/* A case at a level: what each test is given. */
struct subject {
    const char *name;
    enum kernel_level level;
};

static double worst(const float *a, const float *b, uint32_t rows, size_t n) {
    double most = 0;
    for (uint32_t s = 0; s < rows; s++) {
        double d = golden_distance(a + s * n, b + s * n, n);
        most = d > most || isnan(d) ? d : most;
    }
    return most;
}

static void run(struct golden *g, const struct subject *subject, enum sonde_precision precision, uint32_t threads) {
    golden_open(g, &(struct golden_options){
                       .name = subject->name, .precision = precision, .level = subject->level, .threads = threads});
    g->trace = true;
    golden_feed(g, g->ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
}

/* ------------------------------------------------------------------------------------------- f32 */

static struct golden f32;
static const struct subject *f32_of; /* whose results those are; NULL: nobody's */

static int forget_f32(void **state) {
    (void)state;
    if (f32_of)
        golden_close(&f32);
    f32_of = NULL;
    return 0;
}

/* The f32 results of a subject, which several tests look at, run once. */
static struct golden *run_f32(const struct subject *subject) {
    if (f32_of != subject) {
        forget_f32(NULL);
        run(&f32, subject, SONDE_PRECISION_F32, WORKERS);
        f32_of = subject;
    }
    return &f32;
}

static void test_f32__logits_are_the_oracles(void **state) {
    struct golden *g = run_f32(*state);
    double d = worst(g->logits, golden_floats(g, "logits.f32"), GOLDEN_TOKENS, g->shape->vocab);
    print_message("# logits %.1e\n", d);
    assert_true(d < TOLERANCE);
}

static void test_f32__layers_are_the_oracles(void **state) {
    struct golden *g = run_f32(*state);
    const int32_t *positions = golden_integers(g, "positions");
    for (uint32_t n = 0; n < g->shape->layers; n++) {
        const float *expected = golden_floats(g, "layers.%u.f32", n);
        for (int i = 0; i < GOLDEN_POSITIONS; i++)
            assert_true(golden_distance(g->layers + (n * GOLDEN_TOKENS + (size_t)positions[i]) * g->residual,
                                        expected + (size_t)i * g->residual, g->residual) < TOLERANCE);
    }
}

static int ascending(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

static void test_f32__routes_are_the_oracles(void **state) {
    struct golden *g = run_f32(*state);
    char name[64];
    for (uint32_t n = 0; n < g->shape->layers; n++) {
        snprintf(name, sizeof(name), "layers.%u.experts", n);
        const int32_t *expected = golden_integers(g, name);
        for (uint32_t s = 0; s < GOLDEN_TOKENS; s++) {
            int32_t *got = g->routes + ((size_t)n * GOLDEN_TOKENS + s) * g->shape->active;
            qsort(got, g->shape->active, sizeof(*got), ascending);
            assert_memory_equal(got, expected + (size_t)s * g->shape->active, g->shape->active * sizeof(*got));
        }
    }
}

/* Which layers choose, and which have Engram, the golden file knows. */
static void test_f32__choices_are_the_oracles(void **state) {
    struct golden *g = run_f32(*state);
    size_t top = g->shape->index_topk;
    char name[64];
    if (g->shape->family != FAMILY_V41)
        skip();
    for (uint32_t n = 0; n < g->shape->layers; n++) {
        snprintf(name, sizeof(name), "layers.%u.chosen", n);
        if (g->shape->v41.index_source[n] != n)
            continue;
        const int32_t *got = g->chosen + n * GOLDEN_TOKENS * top, *expected = golden_integers(g, name);
        for (size_t s = 0; s < GOLDEN_TOKENS; s++)
            if (memcmp(got + s * top, expected + s * top, top * sizeof(*got)) != 0)
                fail_msg("layer %u chooses other entries for token %zu", n, s);
    }
}

static void test_f32__looks_up_the_oracles_rows(void **state) {
    struct golden *g = run_f32(*state);
    char name[64];
    if (g->shape->family != FAMILY_V41)
        skip();
    assert_true(g->shape->engram.count > 0);
    for (uint32_t i = 0; i < g->shape->engram.count; i++) {
        uint32_t n = g->shape->engram.layers[i], columns = (g->shape->engram.orders - 1) * g->shape->engram.heads;
        snprintf(name, sizeof(name), "layers.%u.rows", n);
        const int64_t *got = g->looked + (size_t)n * GOLDEN_TOKENS * GOLDEN_COLUMNS;
        const int32_t *expected = golden_integers(g, name);
        for (size_t k = 0; k < (size_t)GOLDEN_TOKENS * columns; k++)
            assert_int_equal(got[k], expected[k]);
    }
}

static void test_f32__predictions_are_the_oracles(void **state) {
    struct golden *g = run_f32(*state);
    if (g->shape->family == FAMILY_V41)
        skip();
    assert_true(model_has_mtp(g->model));
    double d = worst(g->mtp, golden_floats(g, "mtp.f32"), GOLDEN_TOKENS - 1, g->shape->vocab);
    print_message("# multi-token prediction %.1e\n", d);
    assert_true(d < TOLERANCE);
}

static void test_f32__greedy_is_the_oracles(void **state) {
    const struct subject *subject = *state;
    struct golden g;
    golden_open(
        &g, &(struct golden_options){
                .name = subject->name, .precision = SONDE_PRECISION_F32, .level = subject->level, .threads = WORKERS});
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

static const char *const suffixes[] = {[SONDE_PRECISION_KV] = "kv", [SONDE_PRECISION_OFFICIAL] = "official"};

static struct verdict judge(const struct subject *subject, enum sonde_precision precision) {
    struct golden g;
    struct verdict v = {0};
    run(&g, subject, precision, WORKERS);
    const float *noise = golden_floats(&g, "noise.%s", suffixes[precision]);
    v.median = golden_apart(&g, g.logits, golden_floats(&g, "logits.%s", suffixes[precision]), &v.agree);
    v.allowed_median = 2 * (double)noise[0];
    v.allowed_agree = 1 - 2 * (1 - (double)noise[1]);
    if (precision == SONDE_PRECISION_OFFICIAL) {
        const int32_t *positions = golden_integers(&g, "positions");
        const float *layer_noise = golden_floats(&g, "noise.layers.official");
        v.layer_count = g.shape->layers;
        for (uint32_t n = 0; n < g.shape->layers; n++) {
            const float *layer = golden_floats(&g, "layers.%u.official", n);
            double distances[GOLDEN_POSITIONS];
            for (int i = 0; i < GOLDEN_POSITIONS; i++)
                distances[i] = golden_distance(g.layers + (n * GOLDEN_TOKENS + (size_t)positions[i]) * g.residual,
                                               layer + (size_t)i * g.residual, g.residual);
            v.layers[n] = golden_median(distances, GOLDEN_POSITIONS);
            v.allowed_layers[n] = 2 * (double)layer_noise[n];
        }
    }
    golden_close(&g);
    return v;
}

static void test_kv__is_as_near_as_the_oracle_to_itself(void **state) {
    struct verdict v = judge(*state, SONDE_PRECISION_KV);
    print_message("# median %.4f of %.4f, agree %.3f of %.3f\n", v.median, v.allowed_median, v.agree, v.allowed_agree);
    assert_true(v.median <= v.allowed_median);
    assert_true(v.agree >= v.allowed_agree);
}

static void test_official__is_as_near_as_the_oracle_to_itself(void **state) {
    struct verdict v = judge(*state, SONDE_PRECISION_OFFICIAL);
    print_message("# median %.4f of %.4f, agree %.3f of %.3f\n", v.median, v.allowed_median, v.agree, v.allowed_agree);
    assert_true(v.median <= v.allowed_median);
    assert_true(v.agree >= v.allowed_agree);
    for (uint32_t n = 0; n < v.layer_count; n++) {
        print_message("#   layer %u: %.2e of %.2e\n", n, v.layers[n], v.allowed_layers[n]);
        assert_true(v.layers[n] <= v.allowed_layers[n]);
    }
}

/* ------------------------------------------------------------------------------------------ fast */

/*
 * The oracle has no fast, but the two precisions it lies between. kv is fast without its rounding: the distance is
 * that rounding's, and must stay below FAST_MOST over the oracle's noise, and below what official's roundings do.
 * official is as far from kv as its own coarser roundings take it: fast must not be farther from it than that, up
 * to official's noise.
 */
struct fast_verdict {
    double from_kv, allowed_from_kv, agree_kv;
    double from_official, allowed_from_official, agree_official;
    double official_from_kv;
};

static struct fast_verdict judge_fast(const struct subject *subject) {
    struct golden g;
    struct fast_verdict v = {0};
    double agree;
    run(&g, subject, SONDE_PRECISION_FAST, WORKERS);
    const float *kv = golden_floats(&g, "logits.kv"), *official = golden_floats(&g, "logits.official");
    v.from_kv = golden_apart(&g, g.logits, kv, &v.agree_kv);
    v.from_official = golden_apart(&g, g.logits, official, &v.agree_official);
    v.official_from_kv = golden_apart(&g, official, kv, &agree);
    v.allowed_from_kv = golden_floats(&g, "noise.kv")[0] + FAST_MOST;
    if (g.shape->family == FAMILY_V41)
        v.allowed_from_kv = 2 * (double)golden_floats(&g, "noise.bf16")[0];
    v.allowed_from_official = golden_apart(&g, kv, official, &agree) + golden_floats(&g, "noise.official")[0];
    golden_close(&g);
    return v;
}

static void test_fast__costs_less_than_official_rounding(void **state) {
    struct fast_verdict v = judge_fast(*state);
    print_message("# from kv %.4f of %.4f, from official %.4f of %.4f\n", v.from_kv, v.allowed_from_kv, v.from_official,
                  v.allowed_from_official);
    assert_true(v.from_kv <= v.allowed_from_kv);
    assert_true(v.from_kv <= v.official_from_kv);
    assert_true(v.from_official <= v.allowed_from_official);
}

/* --------------------------------------------------------------------------------------- workers */

static void compare_workers(const struct subject *subject, enum sonde_precision precision, const struct golden *two) {
    static const uint32_t counts[] = {3, 1};
    size_t bytes = (size_t)GOLDEN_TOKENS * two->shape->vocab * sizeof(float);
    for (size_t i = 0; i < COUNT_OF(counts); i += golden_stride()) {
        struct golden g;
        run(&g, subject, precision, counts[i]);
        assert_memory_equal(g.logits, two->logits, bytes);
        assert_memory_equal(g.mtp, two->mtp, bytes);
        golden_close(&g);
    }
}

static void test_workers__change_no_bit(void **state) {
    struct golden fast;
    compare_workers(*state, SONDE_PRECISION_F32, run_f32(*state));
    run(&fast, *state, SONDE_PRECISION_FAST, WORKERS);
    compare_workers(*state, SONDE_PRECISION_FAST, &fast);
    golden_close(&fast);
}

/* ----------------------------------------------------------------------------------------- table */

static void table_rows(const struct subject *subject) {
    static const enum sonde_precision precisions[] = {SONDE_PRECISION_KV, SONDE_PRECISION_OFFICIAL};
    for (size_t p = 0; p < COUNT_OF(precisions); p++) {
        struct verdict v = judge(subject, precisions[p]);
        printf("| %s | %s | %.2e | %.2e | %.1f %% | %.1f %% |", subject->name, suffixes[precisions[p]], v.median,
               v.allowed_median, 100 * v.agree, 100 * v.allowed_agree);
        for (uint32_t n = 0; n < v.layer_count; n++)
            printf(" %.1e (%.1e)", v.layers[n], v.allowed_layers[n]);
        puts(" |");
    }
    struct fast_verdict v = judge_fast(subject);
    printf("| %s | fast from kv | %.2e | %.2e | %.1f %% | | |\n", subject->name, v.from_kv, v.allowed_from_kv,
           100 * v.agree_kv);
    printf("| %s | fast from official | %.2e | %.2e | %.1f %% | | |\n", subject->name, v.from_official,
           v.allowed_from_official, 100 * v.agree_official);
}

static int table(const char *level_name) {
    enum kernel_level level;
    if (!kernel_level_parse(level_name, &level) || !kernel_level_runs(level)) {
        print_error("no level %s runs here\n", level_name);
        return 2;
    }
    puts("| case | precision | median distance | allowed | equal argmax | allowed | by layer (allowed) |");
    puts("| --- | --- | --- | --- | --- | --- | --- |");
    for (int i = 0; i < GOLDEN_CASES; i++)
        table_rows(&(struct subject){golden_cases[i], level});
    return 0;
}

/* ------------------------------------------------------------------------------------------ main */

#define TEST(function)                                                                                                 \
    { #function, function }

static const struct {
    const char *name;
    CMUnitTestFunction function;
} all_tests[] = {
    TEST(test_f32__logits_are_the_oracles),
    TEST(test_f32__layers_are_the_oracles),
    TEST(test_f32__routes_are_the_oracles),
    TEST(test_f32__choices_are_the_oracles),
    TEST(test_f32__looks_up_the_oracles_rows),
    TEST(test_f32__predictions_are_the_oracles),
    TEST(test_f32__greedy_is_the_oracles),
    TEST(test_workers__change_no_bit),
    TEST(test_kv__is_as_near_as_the_oracle_to_itself),
    TEST(test_official__is_as_near_as_the_oracle_to_itself),
    TEST(test_fast__costs_less_than_official_rounding),
};

enum { SUBJECTS = KERNEL_LEVEL_COUNT * GOLDEN_CASES };

int main(int argc, char **argv) {
    static struct subject subjects[SUBJECTS];
    static struct CMUnitTest tests[SUBJECTS * COUNT_OF(all_tests)];
    static char names[SUBJECTS * COUNT_OF(all_tests)][96];
    if (argc > 1 && strcmp(argv[1], "--table") == 0)
        return table(argc > 2 ? argv[2] : "c");
    size_t count = 0, subject_count = 0;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++)
        for (int i = 0; i < GOLDEN_CASES && kernel_level_runs((enum kernel_level)level); i++) {
            struct subject *subject = &subjects[subject_count++];
            *subject = (struct subject){golden_cases[i], (enum kernel_level)level};
            for (size_t j = 0; j < COUNT_OF(all_tests); j++, count++) {
                snprintf(names[count], sizeof(names[count]), "%s %s: %s", kernel_level_name(subject->level),
                         subject->name, all_tests[j].name);
                tests[count] = (struct CMUnitTest){names[count], all_tests[j].function, NULL, NULL, subject};
            }
        }
    return _cmocka_run_group_tests("test_golden", tests, count, NULL, forget_f32);
}
