/*
 * test_chunks.c CASE - a text divided into steps in any way gives what it gives all at once.
 *
 * Every place to split 272 tokens in two (so every length modulo 4 and modulo 128 on both sides), and steps of
 * 1, 3, 4, 5, 127, 128 and 129 tokens: logits and predictions of every token, bit for bit, which is what the C
 * level promises (kernel.h); 1e-5 would do.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "golden/golden.h"

static const char *name;
static struct golden whole, parts;

static int set_up(void **state) {
    (void)state;
    golden_open(&whole, name, SONDE_PRECISION_F32, GOLDEN_TOKENS);
    golden_open(&parts, name, SONDE_PRECISION_F32, GOLDEN_TOKENS);
    golden_feed(&whole, whole.ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    golden_close(&whole);
    golden_close(&parts);
    return 0;
}

static void begin(void) {
    sequence_reset(parts.sequence);
    memset(parts.logits, 0, (size_t)GOLDEN_TOKENS * parts.shape->vocab * sizeof(float));
    memset(parts.mtp, 0, (size_t)GOLDEN_TOKENS * parts.shape->vocab * sizeof(float));
}

static void compare(const char *what, uint32_t n) {
    size_t vocab = whole.shape->vocab;
    for (uint32_t s = 0; s < GOLDEN_TOKENS; s++) {
        if (memcmp(parts.logits + s * vocab, whole.logits + s * vocab, vocab * sizeof(float)) != 0)
            fail_msg("%s %u: logits of token %u differ by %g", what, n, s,
                     golden_distance(parts.logits + s * vocab, whole.logits + s * vocab, vocab));
        if (s + 1 < GOLDEN_TOKENS && memcmp(parts.mtp + s * vocab, whole.mtp + s * vocab, vocab * sizeof(float)) != 0)
            fail_msg("%s %u: predictions of token %u differ by %g", what, n, s,
                     golden_distance(parts.mtp + s * vocab, whole.mtp + s * vocab, vocab));
    }
}

static void test_split__every_place(void **state) {
    (void)state;
    const char *stride = getenv("SONDE_TEST_STRIDE"); /* instrumented builds look at every n-th */
    uint32_t step = stride && atoi(stride) > 1 ? (uint32_t)atoi(stride) : 1;
    for (uint32_t at = 1; at < GOLDEN_TOKENS; at += step) {
        begin();
        golden_feed(&parts, whole.ids, 0, at, GOLDEN_TOKENS);
        golden_feed(&parts, whole.ids, at, GOLDEN_TOKENS, GOLDEN_TOKENS);
        compare("split at", at);
    }
}

static void test_steps__of_every_awkward_size(void **state) {
    (void)state;
    static const uint32_t sizes[] = {1, 3, 4, 5, 127, 128, 129};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        begin();
        golden_feed(&parts, whole.ids, 0, GOLDEN_TOKENS, sizes[i]);
        compare("steps of", sizes[i]);
    }
}

/* Rounding to few bits would make any difference in the sums a large one. */
static void test_steps__at_official_precision(void **state) {
    (void)state;
    struct golden kept[2] = {whole, parts};
    golden_open(&whole, name, SONDE_PRECISION_OFFICIAL, GOLDEN_TOKENS);
    golden_open(&parts, name, SONDE_PRECISION_OFFICIAL, GOLDEN_TOKENS);
    golden_feed(&whole, whole.ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
    static const uint32_t sizes[] = {1, 5, 128};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        begin();
        golden_feed(&parts, whole.ids, 0, GOLDEN_TOKENS, sizes[i]);
        compare("official steps of", sizes[i]);
    }
    golden_close(&whole);
    golden_close(&parts);
    whole = kept[0];
    parts = kept[1];
}

/* Two texts in the same steps, at different places and of different lengths, do not see each other. */
static void test_batch__sequences_do_not_touch(void **state) {
    (void)state;
    struct sequence *other;
    struct sonde_error e;
    begin();
    assert_int_equal(sequence_open(parts.model, 0, model_has_mtp(parts.model), &other, &e), 0);
    golden_feed(&parts, whole.ids, 0, 7, 7);
    for (uint32_t at = 7, there = 0; at < GOLDEN_TOKENS; at += 53, there += 29) {
        uint32_t n = GOLDEN_TOKENS - at < 53 ? GOLDEN_TOKENS - at : 53;
        struct model_span spans[] = {{other, whole.ids + 100 + there, 29, false},
                                     {parts.sequence, whole.ids + at, n, true}};
        golden_step(&parts, spans, 2, 1);
    }
    compare("batched", 2);
    sequence_close(other);
}

int main(int argc, char **argv) {
    name = argc > 1 ? argv[1] : "flash";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split__every_place),
        cmocka_unit_test(test_steps__of_every_awkward_size),
        cmocka_unit_test(test_steps__at_official_precision),
        cmocka_unit_test(test_batch__sequences_do_not_touch),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
