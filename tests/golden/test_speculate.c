/*
 * test_speculate.c CASE [STRIDE] - drafts are what multi-token prediction says, and tokens taken back leave no trace.
 *
 * The text is the case's; a draft is wrong where a test says so. At the C level everything is bit for bit what ordinary
 * steps give: logits, predictions and later drafts after taking back one to three tokens at every place, so at every
 * length modulo 4, around windows, blocks of 128 and pages, which hold 128 tokens here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden/golden.h"

#include "base/base.h"

static const char *name;
static uint32_t stride; /* of many alike every so many are looked at */
static struct golden whole, parts;
static int32_t drafts[GOLDEN_TOKENS][MODEL_MOST_DRAFTS]; /* by ordinary steps: what follows whole.ids[0 .. i] */

/* ------------------------------------------------------------------------------------------ steps */

/* Feeds `count` tokens from `at` on, as a draft span the last `wrong` of them not the text's, which are taken back.
 * Returns the length. */
static uint32_t feed(struct sequence *s, uint32_t at, uint32_t count, uint32_t wrong, bool draft) {
    int32_t ids[GOLDEN_TOKENS];
    uint32_t vocab = whole.shape->vocab;
    assert_true(at + count <= GOLDEN_TOKENS && wrong < count);
    memcpy(ids, whole.ids + at, count * sizeof(*ids));
    for (uint32_t i = count - wrong; i < count; i++)
        ids[i] = (int32_t)(((uint32_t)ids[i] + 1 + (at + i) % (vocab - 1)) % vocab);
    struct model_span span = {.sequence = s, .ids = ids, .count = count, .all = true, .draft = draft};
    golden_step(&parts, &span, 1, 0);
    sequence_rollback(s, wrong);
    assert_int_equal(sequence_length(s), at + count - wrong);
    return at + count - wrong;
}

static void begin(uint32_t length) {
    size_t bytes = (size_t)GOLDEN_TOKENS * whole.shape->vocab * sizeof(float);
    sequence_reset(parts.sequence);
    memset(parts.logits, 0, bytes);
    memset(parts.mtp, 0, bytes);
    if (length)
        feed(parts.sequence, 0, length, 0, false);
}

static void draft(struct sequence *s, int32_t token, uint32_t count, int32_t *ids) {
    struct model_draft list = {.sequence = s, .token = token, .count = count, .ids = ids};
    CHECKED(model_draft(parts.model, &list, 1, &error));
}

/* Drafts after the text's token `at` are those of ordinary steps. */
static void check_draft(struct sequence *s, uint32_t at, uint32_t count) {
    int32_t ids[MODEL_MOST_DRAFTS];
    draft(s, whole.ids[at], count, ids);
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] != drafts[at][i])
            fail_msg("at %u: draft %u is %d, expected %d", at, i, (int)ids[i], (int)drafts[at][i]);
}

static void check_rows(const char *what, const float *got, const float *expected, uint32_t rows) {
    size_t vocab = whole.shape->vocab;
    for (uint32_t i = 0; i < rows; i++)
        if (memcmp(got + i * vocab, expected + i * vocab, vocab * sizeof(float)) != 0)
            fail_msg("%s of token %u differ by %g", what, i,
                     golden_distance(got + i * vocab, expected + i * vocab, vocab));
}

/* All logits are the text's. */
static void check_logits(const char *what, uint32_t a, uint32_t b, uint32_t c) {
    char text[80];
    snprintf(text, sizeof(text), "%s %u, %u, %u: logits", what, a, b, c);
    check_rows(text, parts.logits, whole.logits, GOLDEN_TOKENS);
}

/* A page of entries for each 128 tokens begun, and no other. */
static void check_pages(uint64_t tokens) {
    assert_int_equal(model_pages_all(parts.model) - model_pages_unused(parts.model),
                     model_page_count(parts.model, tokens));
}

/* ------------------------------------------------------------------------------------------ set-up */

static void open_both(enum sonde_precision precision) {
    struct golden_options options = {.name = name, .precision = precision, .level = KERNEL_LEVEL_c, .threads = 1};
    golden_open(&whole, &options);
    golden_open(&parts, &options);
    assert_true(model_has_mtp(whole.model));
    golden_feed(&whole, whole.ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
    begin(0);
    for (uint32_t at = 0; at < GOLDEN_TOKENS; at++) {
        if (at)
            draft(parts.sequence, whole.ids[at], MODEL_MOST_DRAFTS, drafts[at]);
        feed(parts.sequence, at, 1, 0, false);
    }
    check_logits("ordinary steps among drafts", 0, 0, 0);
    check_rows("predictions among drafts", parts.mtp, whole.mtp, GOLDEN_TOKENS - 1);
}

static int set_up(void **state) {
    (void)state;
    open_both(SONDE_PRECISION_F32);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    golden_close(&whole);
    golden_close(&parts);
    return 0;
}

/* ------------------------------------------------------------------------------------------ drafts */

static void test_draft__is_the_likeliest_prediction(void **state) {
    (void)state;
    size_t vocab = whole.shape->vocab;
    for (uint32_t at = 1; at < GOLDEN_TOKENS; at++)
        assert_int_equal(drafts[at][0], golden_argmax(whole.mtp + (at - 1) * vocab, vocab));
    for (uint32_t at = 1; at < GOLDEN_TOKENS; at += 13 * stride) {
        begin(at);
        check_draft(parts.sequence, at, MODEL_MOST_DRAFTS);
        check_draft(parts.sequence, at, 1);
    }
}

/* Model.drafts() of tests/oracle/model.py, for ids[0 .. at]. */
static const struct {
    const char *name;
    uint32_t at;
    int32_t ids[MODEL_MOST_DRAFTS];
} oracles[] = {
    {"flash", 1, {175, 7, 97}},          {"flash", 63, {93, 167, 43}},         {"flash", 257, {48, 207, 138}},
    {"pro", 1, {202, 187, 166}},         {"pro", 63, {63, 112, 41}},           {"pro", 257, {5, 38, 170}},
    {"flash-engram", 1, {173, 181, 86}}, {"flash-engram", 63, {126, 69, 100}}, {"flash-engram", 257, {36, 86, 70}},
    {"base-fp8", 63, {215, 146, 25}},    {"base-fp8", 257, {9, 242, 214}},     {"bf16", 63, {96, 22, 187}},
    {"bf16", 257, {32, 114, 94}},        {"sliding", 63, {242, 51, 229}},      {"sliding", 257, {134, 117, 150}},
};

static void test_draft__is_the_oracles(void **state) {
    (void)state;
    int seen = 0;
    for (size_t i = 0; i < COUNT_OF(oracles); i++)
        if (strcmp(oracles[i].name, name) == 0) {
            assert_memory_equal(drafts[oracles[i].at], oracles[i].ids, sizeof(oracles[i].ids));
            seen++;
        }
    assert_true(seen >= 2);
}

static void test_draft__of_a_token_that_is_none_is_refused(void **state) {
    (void)state;
    struct sonde_error e;
    int32_t id;
    begin(5);
    struct model_draft list = {parts.sequence, (int32_t)whole.shape->vocab, 1, &id};
    assert_int_equal(model_draft(parts.model, &list, 1, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, "token id 256, expected 0 to 255");
    check_draft(parts.sequence, 5, 1);
}

/* Sequences at different places that owe one to four pairs, in steps of at most `rows` rows, which is less than they
 * owe together. */
static void draft_together(uint32_t rows) {
    enum { COUNT = 5 };
    static const uint32_t at[COUNT] = {3, 18, 33, 36, 50}, owed[COUNT] = {1, 3, 4, 2, 4},
                          counts[COUNT] = {2, 3, 1, 3, 3};
    struct model_options options = {.precision = SONDE_PRECISION_F32, .rows = rows, .context = 512, .page_tokens = 128};
    struct device_cpu_options cpu = {.threads = 1, .level = kernel_level_name(KERNEL_LEVEL_c)};
    struct model_draft list[COUNT];
    int32_t ids[COUNT][MODEL_MOST_DRAFTS];
    struct device *d;
    struct model *m;
    CHECKED(device_cpu_open(&cpu, &d, &error));
    CHECKED(model_open(whole.checkpoint, d, &options, &m, &error));
    for (int i = 0; i < COUNT; i++) {
        list[i] = (struct model_draft){.token = whole.ids[at[i]], .count = counts[i], .ids = ids[i]};
        CHECKED(sequence_open(m, 0, true, &list[i].sequence, &error));
        for (uint32_t n = 0, step; n < at[i]; n += step) {
            bool last = n + owed[i] > at[i]; /* token by token, as draft spans */
            step = last ? 1 : (uint32_t)min_u64(rows, at[i] + 1 - owed[i] - n);
            struct model_span span = {.sequence = list[i].sequence, .ids = whole.ids + n, .count = step, .draft = last};
            CHECKED(model_step(m, &span, 1, NULL, &error));
        }
    }
    for (int again = 0; again < 2; again++) {
        CHECKED(model_draft(m, list, COUNT, &error));
        for (int i = 0; i < COUNT; i++)
            assert_memory_equal(ids[i], drafts[at[i]], counts[i] * sizeof(int32_t));
        memset(ids, 0, sizeof(ids));
    }
    for (int i = 0; i < COUNT; i++)
        sequence_close(list[i].sequence);
    model_close(m);
    d->ops->close(d);
}

static void test_draft__of_several_sequences(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 3, 4, 7, 64};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        draft_together(rows[i]);
}

/* ---------------------------------------------------------------------------------------- rollback */

/* Rounds of so many drafts of which the last are wrong, from a prompt of `start` tokens on. */
static void speculate(uint32_t count, uint32_t wrong, uint32_t start) {
    struct sequence *s = parts.sequence;
    uint32_t at = start;
    begin(start);
    while (at + 1 + count <= GOLDEN_TOKENS) {
        check_draft(s, at, count);
        at = feed(s, at, 1 + count, wrong, true);
        check_pages(at);
    }
    if (at < GOLDEN_TOKENS)
        feed(s, at, GOLDEN_TOKENS - at, 0, false);
    check_logits("drafts, wrong, from", count, wrong, start);
}

/* Wrong drafts at every length modulo 4: a round of an even number of tokens takes two starts to get there. */
static void test_rollback__leaves_no_trace(void **state) {
    (void)state;
    static const uint32_t rounds[][3] = {{3, 3, 1}, {2, 1, 1}, {2, 1, 2}, {3, 0, 1}, {1, 1, 1}, {3, 1, 1},
                                         {3, 2, 1}, {3, 2, 2}, {2, 2, 1}, {2, 0, 1}, {1, 0, 1}};
    for (size_t i = 0; i < COUNT_OF(rounds); i += stride)
        speculate(rounds[i][0], rounds[i][1], rounds[i][2]);
}

/* The sequence never drafts: what draft spans owe is run over when there is no room for more, and at last. */
static void test_predictions__of_draft_spans_come_later(void **state) {
    (void)state;
    for (uint32_t count = 1; count <= 7; count += 2 * stride) {
        for (uint32_t wrong = 0; wrong < count && wrong <= MODEL_MOST_DRAFTS; wrong += 2) {
            uint32_t at = 0;
            begin(0);
            while (at + count < GOLDEN_TOKENS)
                at = feed(parts.sequence, at, count, wrong, true);
            feed(parts.sequence, at, GOLDEN_TOKENS - at, 0, false);
            check_logits("spans of, wrong", count, wrong, 0);
            check_rows("predictions after draft spans", parts.mtp, whole.mtp, GOLDEN_TOKENS - 1);
        }
    }
}

/* A draft upon a token is done with one span that begins with it, not with every one. */
static void test_predictions__of_one_token_again_and_again(void **state) {
    (void)state;
    static const int32_t token = 7;
    int32_t expected[MODEL_MOST_DRAFTS], got[MODEL_MOST_DRAFTS];
    for (int drafted = 0; drafted < 2; drafted++) {
        struct model_span span = {.sequence = parts.sequence, .ids = &token, .count = 1, .draft = drafted};
        begin(20);
        for (int i = 0; i < 6; i++) {
            if (drafted && i % 3 == 0)
                draft(parts.sequence, token, 2, got);
            CHECKED(model_step(parts.model, &span, 1, NULL, &error));
        }
        draft(parts.sequence, token, MODEL_MOST_DRAFTS, drafted ? got : expected);
    }
    assert_memory_equal(got, expected, sizeof(got));
}

static void test_rollback__without_multi_token_prediction(void **state) {
    (void)state;
    struct sequence *s;
    begin(0);
    CHECKED(sequence_open(parts.model, 0, false, &s, &error));
    for (uint32_t at = 0; at < GOLDEN_TOKENS;)
        at = at + 4 <= GOLDEN_TOKENS ? feed(s, at, 4, 3, true) : feed(s, at, 1, 0, false);
    check_logits("without multi-token prediction", 0, 0, 0);
    sequence_close(s);
}

/* ------------------------------------------------------------------------------------------- forks */

/* Reads what is not the text, over the ends of rings and blocks. */
static void wander(struct sequence *s) {
    for (int i = 0; i < 4; i++) {
        uint64_t from = (sequence_length(s) * 7 + 5) % (GOLDEN_TOKENS - 9);
        struct model_span span = {.sequence = s, .ids = whole.ids + from, .count = 9};
        CHECKED(model_step(parts.model, &span, 1, NULL, &error));
    }
}

/* One of both reads something else, the other one the text, after taking back three tokens before the fork or both for
 * themselves. */
static void fork_at(uint32_t at, bool after_rollback, bool origin_stays) {
    struct sequence *fork, *aside, *on;
    begin(at);
    feed(parts.sequence, at, 4, after_rollback ? 3 : 0, true);
    CHECKED(sequence_fork(parts.sequence, &fork, &error));
    aside = origin_stays ? fork : parts.sequence;
    on = origin_stays ? parts.sequence : fork;
    if (!after_rollback) {
        sequence_rollback(aside, 3);
        sequence_rollback(on, 1);
        sequence_rollback(on, 2);
    }
    wander(aside);
    check_draft(on, at + 1, MODEL_MOST_DRAFTS);
    feed(on, at + 1, 3, 1, true);
    feed(on, at + 3, GOLDEN_TOKENS - at - 3, 0, false);
    check_logits("fork at, after rollback, origin stays", at, after_rollback, origin_stays);
    sequence_close(fork);
}

static void test_fork__goes_on_alone_after_rollback(void **state) {
    (void)state;
    static const uint32_t places[] = {1, 62, 124, 126, 127, 128, 252, 253};
    for (size_t i = 0; i < COUNT_OF(places); i++)
        for (int how = (int)(i % stride); how < 4; how += (int)stride)
            fork_at(places[i], how & 1, how & 2);
}

/* ------------------------------------------------------------------------------------- all together */

static uint32_t chance(uint32_t *seed, uint32_t below) {
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % below;
}

/* A fork drafts, reads what is not the text, and is gone. */
static void stray(struct sequence *s, uint32_t at, uint32_t *seed) {
    struct sequence *fork;
    int32_t ids[MODEL_MOST_DRAFTS];
    CHECKED(sequence_fork(s, &fork, &error));
    draft(fork, (int32_t)chance(seed, whole.shape->vocab), 3, ids);
    struct model_span span = {.sequence = fork, .ids = ids, .count = 3, .draft = chance(seed, 2)};
    CHECKED(model_step(parts.model, &span, 1, NULL, &error));
    draft(fork, whole.ids[at], 2, ids);
    sequence_close(fork);
}

/* Ordinary steps, draft spans of any length, drafts upon tokens that are fed, others that are not, and forks. */
static void mix(uint32_t seed) {
    struct sequence *s = parts.sequence;
    int32_t ids[MODEL_MOST_DRAFTS];
    uint32_t at = 1 + chance(&seed, 140);
    begin(at);
    memcpy(parts.mtp, whole.mtp, (size_t)GOLDEN_TOKENS * whole.shape->vocab * sizeof(float)); /* not all will come */
    while (at < GOLDEN_TOKENS) {
        uint32_t count = 1 + chance(&seed, chance(&seed, 4) ? 4 : 12), what = chance(&seed, 8);
        count = (uint32_t)min_u64(count, GOLDEN_TOKENS - at);
        uint32_t wrong = chance(&seed, (uint32_t)min_u64(count, 1 + MODEL_MOST_DRAFTS));
        if (what < 4)
            check_draft(s, at, 1 + chance(&seed, MODEL_MOST_DRAFTS));
        else if (what == 4)
            draft(s, (int32_t)chance(&seed, whole.shape->vocab), MODEL_MOST_DRAFTS, ids);
        else if (what == 5)
            stray(s, at, &seed);
        at = chance(&seed, 3) ? feed(s, at, count, wrong, true) : feed(s, at, count, 0, false);
    }
    check_logits("mix", seed, 0, 0);
    check_rows("predictions of a mix", parts.mtp, whole.mtp, GOLDEN_TOKENS - 1);
}

static void test_rounds__and_ordinary_steps_in_any_order(void **state) {
    (void)state;
    for (uint32_t seed = 1; seed <= 12; seed += stride)
        mix(seed);
}

/* Rounding to few bits would make any difference in the sums a large one. */
static void test_rounds__at_other_precisions(void **state) {
    (void)state;
    static const enum sonde_precision precisions[] = {SONDE_PRECISION_FAST, SONDE_PRECISION_OFFICIAL};
    for (size_t i = 0; i < COUNT_OF(precisions); i++) {
        tear_down(NULL);
        open_both(precisions[i]);
        speculate(3, 2, 1);
        mix(100);
    }
}

int main(int argc, char **argv) {
    name = argc > 1 ? argv[1] : "flash";
    stride = (uint32_t)max_u64(argc > 2 ? (uint64_t)atoi(argv[2]) : 1, golden_stride() > 1 ? 8 : 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draft__is_the_likeliest_prediction),
        cmocka_unit_test(test_draft__is_the_oracles),
        cmocka_unit_test(test_draft__of_a_token_that_is_none_is_refused),
        cmocka_unit_test(test_draft__of_several_sequences),
        cmocka_unit_test(test_rollback__leaves_no_trace),
        cmocka_unit_test(test_predictions__of_draft_spans_come_later),
        cmocka_unit_test(test_predictions__of_one_token_again_and_again),
        cmocka_unit_test(test_rollback__without_multi_token_prediction),
        cmocka_unit_test(test_fork__goes_on_alone_after_rollback),
        cmocka_unit_test(test_rounds__and_ordinary_steps_in_any_order),
        cmocka_unit_test(test_rounds__at_other_precisions), /* last: the others want f32 */
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
