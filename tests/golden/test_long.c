/*
 * test_long.c - steps longer than anything the device works on at once.
 *
 * 1,500 tokens in one step: products take a block of them at a time, experts more than one batch, logits many rows. The
 * result is that of steps of 97 tokens: at the C level bit for bit, at the others within 1e-5 of the largest logit.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/base.h"
#include "kernel/kernel.h"

#define MOST 1e-5f

enum { TOKENS = 1500, STEP = 97 };

struct kept {
    float *logits; /* [TOKENS, V] */
    uint32_t vocab;
};

static int keep(void *context, uint64_t position, const float *logits) {
    struct kept *k = context;
    memcpy(k->logits + position * k->vocab, logits, k->vocab * sizeof(float));
    return 0;
}

static struct kept run(enum kernel_level level, enum sonde_precision precision, uint32_t step) {
    struct sonde_model_options options;
    struct sonde_model_info info;
    struct sonde_error e = {0};
    sonde_model *model;
    sonde_session *session;
    int32_t ids[TOKENS];
    sonde_model_options_default(&options);
    options.precision = precision;
    options.chunk_tokens = step;
    options.level = kernel_level_name(level);
    if (sonde_model_open("tests/golden/flash", &options, &model, &e) ||
        sonde_session_open(model, &(struct sonde_session_options){TOKENS, 0}, &session, &e))
        fail_msg("%s", e.message);
    sonde_model_info(model, &info);
    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(i * i % 241 % info.vocab);
    struct kept k = {calloc((size_t)TOKENS * info.vocab, sizeof(float)), info.vocab};
    assert_non_null(k.logits);
    if (sonde_session_observe(session, ids, TOKENS, &(struct sonde_observer){.context = &k, .logits = keep}, &e))
        fail_msg("%s", e.message);
    sonde_session_close(session);
    sonde_model_close(model);
    return k;
}

static void check(enum kernel_level level, enum sonde_precision precision, float most) {
    struct kept a = run(level, precision, TOKENS), b = run(level, precision, STEP);
    float apart = 0, largest = 0;
    for (size_t i = 0; i < (size_t)TOKENS * a.vocab; i++) {
        apart = fmaxf(apart, fabsf(a.logits[i] - b.logits[i]));
        largest = fmaxf(largest, fabsf(b.logits[i]));
    }
    print_message("# %s: %.1e of the largest logit\n", kernel_level_name(level), (double)(apart / largest));
    assert_true(largest > 0 && apart <= most * largest);
    free(a.logits);
    free(b.logits);
}

static void test_long_step__is_the_same_at_every_level(void **state) {
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++)
        if (kernel_level_runs((enum kernel_level)level))
            check((enum kernel_level)level, SONDE_PRECISION_F32, level == KERNEL_LEVEL_c ? 0 : MOST);
}

static void test_long_step__is_the_same_with_rounded_inputs(void **state) {
    (void)state;
    check(KERNEL_LEVEL_c, SONDE_PRECISION_FAST, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_step__is_the_same_at_every_level),
        cmocka_unit_test(test_long_step__is_the_same_with_rounded_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
