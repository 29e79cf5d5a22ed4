/*
 * test_pages.c - sequences that share pages, and a cache that is full.
 *
 * A fork goes on as if it had read the text itself, whatever the sequence it came from does meanwhile. Pages hold 128
 * tokens here, so that the 272 of a case begin three.
 */
#include "golden/golden.h"

#include "base/base.h"

static struct golden whole, parts;

static void set_up(const char *name) {
    struct golden_options options = {
        .name = name, .precision = SONDE_PRECISION_FAST, .level = KERNEL_LEVEL_c, .threads = 1};
    golden_open(&whole, &options);
    golden_open(&parts, &options);
    golden_feed(&whole, whole.ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
}

static void tear_down(void) {
    golden_close(&whole);
    golden_close(&parts);
}

/* Feeds ids [from, to) to the sequence, keeping results by position, `chunk` at a time. */
static void feed(struct sequence *s, const int32_t *ids, uint32_t from, uint32_t to, uint32_t chunk) {
    for (uint32_t at = from; at < to; at += chunk) {
        struct model_span span = {
            .sequence = s, .ids = ids + at, .count = to - at < chunk ? to - at : chunk, .all = true};
        golden_step(&parts, &span, 1, 0);
    }
}

static void check(const char *what, uint32_t at, uint32_t from) {
    size_t v = whole.shape->vocab, first = from * v, n = (GOLDEN_TOKENS - from) * v;
    if (memcmp(parts.logits + first, whole.logits + first, n * sizeof(float)) != 0)
        fail_msg("%s at %u: logits differ", what, at);
}

/* Both the fork and its origin read on, the other one something else before. */
static void fork_at(uint32_t at) {
    struct sequence *fork;
    struct sonde_error e;
    for (int both = 0; both < 2; both++) {
        sequence_reset(parts.sequence);
        feed(parts.sequence, whole.ids, 0, at, GOLDEN_TOKENS);
        assert_int_equal(sequence_fork(parts.sequence, &fork, &e), 0);
        assert_int_equal(sequence_length(fork), at);
        assert_memory_equal(sequence_tokens(fork), whole.ids, at * sizeof(int32_t));
        struct sequence *aside = both ? parts.sequence : fork, *on = both ? fork : parts.sequence;
        feed(aside, whole.ids + 1, at, GOLDEN_TOKENS - 1, 50);
        feed(on, whole.ids, at, GOLDEN_TOKENS, 31);
        check(both ? "fork" : "origin of a fork", at, at);
        sequence_close(fork);
    }
}

static void test_fork__goes_on_alone(void **state) {
    (void)state;
    static const uint32_t places[] = {1, 4, 5, 127, 128, 129, 131, 200, 256, 271};
    static const char *const names[] = {"flash", "flash-engram", "v41-flash"};
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        set_up(names[n]);
        for (size_t i = 0; i<COUNT_OF(places); i += golden_stride()> 1 ? 4 : 1)
            fork_at(places[i]);
        tear_down();
    }
}

/* Steps of 128 until there is no page; returns the length. */
static uint64_t fill(struct sequence *s, const int32_t *ids, struct sonde_error *e) {
    struct model_span span = {.sequence = s, .ids = ids, .count = 128};
    while (model_step(parts.model, &span, 1, NULL, e) == SONDE_OK)
        assert_true(sequence_length(s) < sequence_context(s));
    return sequence_length(s);
}

static void test_cache__that_is_full_says_so(void **state) {
    (void)state;
    struct golden_options options = {.name = "flash",
                                     .precision = SONDE_PRECISION_FAST,
                                     .level = KERNEL_LEVEL_c,
                                     .threads = 1,
                                     .cache_bytes = 100000};
    struct sonde_error e = {0};
    struct sequence *other;
    golden_open(&parts, &options);
    uint64_t length = fill(parts.sequence, parts.ids, &e);
    assert_true(length > 0 && length % 128 == 0);
    assert_int_equal(e.code, SONDE_ERROR_MEMORY);
    assert_string_equal(e.message, "the cache is full: all 9 pages of 128 tokens are taken, 1 are lacking");
    assert_int_equal(sequence_open(parts.model, 0, false, &other, &e), 0);
    assert_int_equal(fill(other, parts.ids, &e), 0);
    sequence_reset(parts.sequence);
    assert_int_equal(fill(other, parts.ids, &e), length);
    sequence_close(other);
    assert_int_equal(fill(parts.sequence, parts.ids, &e), length);
    golden_close(&parts);
}

static void test_cache__smaller_than_a_page_is_refused(void **state) {
    (void)state;
    struct sonde_error e;
    struct checkpoint *c;
    struct device *d;
    struct model *m;
    assert_int_equal(checkpoint_open("tests/golden/flash", &c, &e), 0);
    assert_int_equal(device_cpu_open(&(struct device_cpu_options){.threads = 1}, &d, &e), 0);
    assert_int_equal(model_open(c, d, &(struct model_options){.rows = 1, .cache_bytes = 1}, &m, &e),
                     SONDE_ERROR_MEMORY);
    d->ops->close(d);
    checkpoint_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork__goes_on_alone),
        cmocka_unit_test(test_cache__that_is_full_says_so),
        cmocka_unit_test(test_cache__smaller_than_a_page_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
