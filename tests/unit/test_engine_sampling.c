/* test_engine_sampling.c - from logits to tokens: what each option keeps, and how often it is drawn. */
#include <math.h>
#include <string.h>

#include "test.h"

#include "engine/engine.h"

enum { VOCAB = 6 };
static const float logits[VOCAB] = {1, 3, 0, 2, -1, 3}; /* 1 and 5 are equal */

static sonde_sampler *sampler(struct sonde_sampling s) {
    sonde_sampler *out = NULL;
    struct sonde_error e;
    if (sonde_sampler_open(&s, VOCAB, &out, &e))
        fail_msg("%s", e.message);
    return out;
}

static struct sonde_sampling plain(void) {
    struct sonde_sampling s;
    sonde_sampling_default(&s);
    return s;
}

/* Counts of `draws` draws, each from a fresh sampler so that penalties do not come in. */
static void count(struct sonde_sampling s, int draws, int counts[VOCAB]) {
    memset(counts, 0, VOCAB * sizeof(int));
    for (int i = 0; i < draws; i++) {
        s.seed = (uint64_t)i;
        sonde_sampler *x = sampler(s);
        counts[sonde_sampler_draw(x, logits)]++;
        sonde_sampler_close(x);
    }
}

static void test_greedy__takes_the_lowest_of_the_largest(void **state) {
    (void)state;
    struct sonde_sampling s = plain();
    s.temperature = 0;
    sonde_sampler *x = sampler(s);
    assert_int_equal(sonde_sampler_draw(x, logits), 1);
    assert_int_equal(sonde_sampler_draw(x, logits), 1);
    sonde_sampler_close(x);
}

static void test_draw__follows_the_softmax(void **state) {
    (void)state;
    const int draws = 40000;
    int counts[VOCAB];
    struct sonde_sampling s = plain();
    s.temperature = 1.5f;
    double total = 0;
    for (int i = 0; i < VOCAB; i++)
        total += exp(logits[i] / 1.5);
    count(s, draws, counts);
    for (int i = 0; i < VOCAB; i++) {
        double want = draws * exp(logits[i] / 1.5) / total;
        assert_true(fabs(counts[i] - want) < 5 * sqrt(want)); /* five sigma; seeds are fixed */
    }
}

static void test_top_k__keeps_k(void **state) {
    (void)state;
    int counts[VOCAB];
    struct sonde_sampling s = plain();
    s.top_k = 3;
    count(s, 2000, counts);
    assert_true(counts[1] > 0 && counts[5] > 0 && counts[3] > 0);
    assert_int_equal(counts[0] + counts[2] + counts[4], 0);
    s.top_k = 1;
    count(s, 100, counts);
    assert_int_equal(counts[1], 100);
}

static void test_top_p__keeps_the_fewest_that_reach_p(void **state) {
    (void)state;
    int counts[VOCAB];
    struct sonde_sampling s = plain();
    s.top_p = 0.5f; /* 1 and 5 have 0.39 each */
    count(s, 2000, counts);
    assert_true(counts[1] > 0 && counts[5] > 0);
    assert_int_equal(counts[1] + counts[5], 2000);
    s.top_p = 0.01f;
    count(s, 100, counts);
    assert_int_equal(counts[1], 100);
}

static void test_min_p__is_relative_to_the_best(void **state) {
    (void)state;
    int counts[VOCAB];
    struct sonde_sampling s = plain();
    s.min_p = 0.3f; /* e^-1 = 0.37 stays, e^-2 = 0.14 goes */
    count(s, 2000, counts);
    assert_true(counts[3] > 0);
    assert_int_equal(counts[0] + counts[2] + counts[4], 0);
}

static void test_cuts__come_in_their_order(void **state) {
    (void)state;
    int counts[VOCAB];
    struct sonde_sampling s = plain();
    s.top_k = 3; /* 1, 5 and 3: 0.42, 0.42, 0.16 of what is left */
    s.top_p = 0.5f;
    count(s, 1000, counts);
    assert_int_equal(counts[1] + counts[5], 1000);
    s.top_p = 0.9f; /* needs all three of them, though the best four would reach it before */
    count(s, 1000, counts);
    assert_true(counts[3] > 0);
    s.min_p = 0.4f; /* and then the third goes after all */
    count(s, 1000, counts);
    assert_int_equal(counts[3], 0);
    assert_true(counts[1] > 0 && counts[5] > 0);
}

static int32_t once(struct sonde_sampling s, const float *x) {
    sonde_sampler *sampler_of_it = sampler(s);
    int32_t id = sonde_sampler_draw(sampler_of_it, x);
    sonde_sampler_close(sampler_of_it);
    return id;
}

static void test_draw__takes_what_is_not_finite(void **state) {
    (void)state;
    const float infinite[VOCAB] = {1, 2, INFINITY, 0, INFINITY, -3},
                impossible[VOCAB] = {-INFINITY, NAN, 2, -INFINITY, NAN, NAN};
    const float nothing[VOCAB] = {NAN, NAN, NAN, NAN, NAN, NAN};
    struct sonde_sampling s = plain();
    for (int cut = 0; cut < 4; cut++) {
        s.temperature = cut == 3 ? 0 : 1;
        s.top_k = cut == 1 ? 4 : 0;
        s.top_p = cut == 2 ? 0.9f : 1;
        for (s.seed = 0; s.seed < 50; s.seed++) {
            int32_t id = once(s, infinite);
            assert_true(id == 2 || (id == 4 && cut != 3));
            assert_int_equal(once(s, impossible), 2);
            id = once(s, nothing);
            assert_true(id >= 0 && id < VOCAB);
        }
    }
}

static void test_penalties__count_what_they_say(void **state) {
    (void)state;
    struct sonde_sampling s = plain();
    s.temperature = 0;
    s.presence_penalty = 1.5f;
    sonde_sampler *x = sampler(s);
    assert_int_equal(sonde_sampler_draw(x, logits), 1);
    assert_int_equal(sonde_sampler_draw(x, logits), 5);
    assert_int_equal(sonde_sampler_draw(x, logits), 3);
    assert_int_equal(sonde_sampler_draw(x, logits), 1); /* once only: 1.5 is the most left */
    sonde_sampler_close(x);

    s.presence_penalty = 0;
    s.frequency_penalty = 2;
    x = sampler(s);
    const int32_t want[] = {1, 5, 3, 0, 1};
    for (int i = 0; i < 5; i++)
        assert_int_equal(sonde_sampler_draw(x, logits), want[i]);
    sonde_sampler_close(x);

    s.frequency_penalty = 0;
    s.repetition_penalty = 2;
    x = sampler(s);
    sonde_sampler_prompt(x, 1);
    assert_int_equal(sonde_sampler_draw(x, logits), 5);
    assert_int_equal(sonde_sampler_draw(x, logits), 3);
    sonde_sampler_close(x);
    s.repetition_penalty = 1;
    s.presence_penalty = 9;
    x = sampler(s);
    sonde_sampler_prompt(x, 1); /* presence is of generated tokens, not of the prompt's */
    assert_int_equal(sonde_sampler_draw(x, logits), 1);
    sonde_sampler_close(x);
}

static void test_seed__gives_the_same_again(void **state) {
    (void)state;
    struct sonde_sampling s = plain();
    int different = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        s.seed = seed;
        sonde_sampler *a = sampler(s), *b = sampler(s);
        s.seed = seed + 1000;
        sonde_sampler *c = sampler(s);
        for (int i = 0; i < 50; i++) {
            int32_t id = sonde_sampler_draw(a, logits);
            assert_int_equal(id, sonde_sampler_draw(b, logits));
            different += id != sonde_sampler_draw(c, logits);
        }
        sonde_sampler_close(a);
        sonde_sampler_close(b);
        sonde_sampler_close(c);
    }
    assert_true(different > 100);
}

static void refused(struct sonde_sampling s, const char *sentence) {
    sonde_sampler *x = NULL;
    struct sonde_error e;
    assert_int_equal(sonde_sampler_open(&s, VOCAB, &x, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, sentence);
    assert_null(x);
}

static void test_options__out_of_range_are_named(void **state) {
    (void)state;
    struct sonde_sampling s = plain();
    s.temperature = -1;
    refused(s, "temperature is -1, expected 0 or more");
    s = plain();
    s.temperature = NAN;
    refused(s, "temperature is nan, expected 0 or more");
    s = plain();
    s.top_p = 0;
    refused(s, "top_p is 0, expected more than 0, at most 1");
    s = plain();
    s.min_p = 1.5f;
    refused(s, "min_p is 1.5, expected 0 to 1");
    s = plain();
    s.repetition_penalty = 0;
    refused(s, "repetition_penalty is 0, expected more than 0");
    s = plain();
    s.frequency_penalty = INFINITY;
    refused(s, "frequency_penalty is inf, expected a finite number");
}

static void test_bias__is_added_first(void **state) {
    (void)state;
    float flat[VOCAB] = {0};
    struct sonde_bias bias[] = {{3, 5}, {4, 6}, {-1, 50}, {VOCAB, 50}};
    struct sonde_sampling s = plain();
    s.temperature = 0;
    s.bias = bias;
    s.bias_count = 4;
    s.presence_penalty = 2;
    sonde_sampler *x = sampler(s);
    memset(bias, 0, sizeof(bias)); /* it has its own */
    assert_int_equal(sonde_sampler_draw(x, flat), 4);
    assert_int_equal(sonde_sampler_draw(x, flat), 3);
    sonde_sampler_close(x);
    bias[0].value = NAN;
    refused(s, "the bias of token 0 is nan, expected a finite number");
}

static void test_logprobs__are_of_the_softmax(void **state) {
    (void)state;
    float row[VOCAB], own;
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        row[i] = (float)((i * 7) % VOCAB) / 4;
        sum += exp((double)row[i]);
    }
    row[2] = row[5];
    sum += exp((double)row[5]) - exp(14 % VOCAB / 4.0);
    struct sonde_logprob top[VOCAB];
    sonde_logprobs(row, VOCAB, 3, &own, top, VOCAB);
    assert_float_equal(own, (double)row[3] - log(sum), 1e-5);
    for (int i = 0; i < VOCAB; i++) {
        assert_float_equal(top[i].logprob, (double)row[top[i].id] - log(sum), 1e-5);
        assert_true(!i || top[i].logprob < top[i - 1].logprob ||
                    (top[i].logprob == top[i - 1].logprob && top[i].id > top[i - 1].id));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy__takes_the_lowest_of_the_largest),
        cmocka_unit_test(test_draw__follows_the_softmax),
        cmocka_unit_test(test_top_k__keeps_k),
        cmocka_unit_test(test_top_p__keeps_the_fewest_that_reach_p),
        cmocka_unit_test(test_min_p__is_relative_to_the_best),
        cmocka_unit_test(test_cuts__come_in_their_order),
        cmocka_unit_test(test_draw__takes_what_is_not_finite),
        cmocka_unit_test(test_penalties__count_what_they_say),
        cmocka_unit_test(test_seed__gives_the_same_again),
        cmocka_unit_test(test_options__out_of_range_are_named),
        cmocka_unit_test(test_bias__is_added_first),
        cmocka_unit_test(test_logprobs__are_of_the_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
