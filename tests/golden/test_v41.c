/*
 * test_v41.c - what DeepSeek-V4.1 has besides what all models are tested for (test_golden, test_chunks, test_pages):
 * the integers of Engram, the released decode, tokens taken back without predictions, snapshots, and what is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "golden/golden.h"

#include "text/text.h"

static const char *const names[] = {"v41-flash", "v41-text"};

static void open_case(struct golden *g, const char *name, bool released_decode) {
    golden_open(g, &(struct golden_options){.name = name,
                                            .precision = SONDE_PRECISION_F32,
                                            .level = KERNEL_LEVEL_c,
                                            .threads = 1,
                                            .released_decode = released_decode});
}

/* ------------------------------------------------------------------------------------------ integers */

static const int64_t *golden_wide(const struct golden *g, const char *name) {
    const struct tensor *t = safetensors_find(g->file, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, DTYPE_I64);
    return (const int64_t *)(const void *)t->data;
}

static void test_engram__integers_are_the_oracles(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct golden g;
        open_case(&g, names[i], false);
        const struct engram_shape *e = &g.shape->engram;
        const int64_t *sizes = golden_wide(&g, "engram.sizes"), *multipliers = golden_wide(&g, "engram.multipliers");
        int64_t made[64];
        size_t count = (size_t)e->count * (e->orders - 1) * e->heads;
        assert_true(count <= COUNT_OF(made));
        engram_make_sizes(g.shape->v41.engram_least, count, made);
        assert_memory_equal(made, sizes, count * sizeof(*made));
        for (uint32_t k = 0; k < e->count; k++) {
            engram_v41_multipliers(e->layers[k], g.shape->v41.engram_ids, e->orders, made);
            assert_memory_equal(made, multipliers + (size_t)k * e->orders, e->orders * sizeof(*made));
        }
        golden_close(&g);
    }
}

/* Those of V4.1-Flash, as they were published. */
static void test_engram__multipliers_are_the_released_ones(void **state) {
    static const struct {
        uint32_t layer;
        int64_t expected[4];
    } layers[] = {{1, {76632096046245, 4839876093313, 35959672319349, 73987337458391}},
                  {14, {67716810739261, 51510806800915, 30921347202721, 82619226485591}}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(layers); i++) {
        int64_t made[4];
        engram_v41_multipliers(layers[i].layer, 99092, 4, made);
        assert_memory_equal(made, layers[i].expected, sizeof(made));
    }
}

static void test_engram__compact_ids_are_the_oracles(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct golden g;
        sonde_tokenizer *t;
        char path[64];
        open_case(&g, names[i], false);
        snprintf(path, sizeof(path), "tests/golden/%s/tokenizer.json", names[i]);
        CHECKED(sonde_tokenizer_open(path, &t, &error));
        const int32_t *expected = golden_integers(&g, "engram.token_map");
        int64_t *map = calloc(g.shape->vocab, sizeof(*map)), count;
        assert_non_null(map);
        CHECKED(text_compact_ids(t, g.shape->vocab, map, &count, &error));
        assert_int_equal(count, g.shape->v41.engram_ids);
        for (uint32_t k = 0; k < g.shape->vocab; k++)
            assert_int_equal(map[k], expected[k]);
        free(map);
        sonde_tokenizer_close(t);
        golden_close(&g);
    }
}

/* ---------------------------------------------------------------------------------- the released decode */

enum { PROMPT = 33, DECODED = 16 };

/* The greatest distance of the decoded tokens' logits. */
static double decoded_apart(const struct golden *g, const float *expected) {
    double most = 0;
    size_t vocab = g->shape->vocab;
    for (size_t i = 0; i < DECODED; i++) {
        double d = golden_distance(g->logits + (PROMPT + i) * vocab, expected + i * vocab, vocab);
        most = d > most ? d : most;
    }
    return most;
}

static void test_released_decode__is_the_oracles(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        for (int released = 0; released < 2; released++) {
            struct golden g;
            open_case(&g, names[i], released);
            golden_feed(&g, g.ids, 0, PROMPT, PROMPT);
            golden_feed(&g, g.ids, PROMPT, PROMPT + DECODED, 1);
            const float *stale = golden_floats(&g, "released.logits"),
                        *meant = golden_floats(&g, "logits.f32") + (size_t)PROMPT * g.shape->vocab;
            assert_true(decoded_apart(&g, released ? stale : meant) < 1e-4);
            assert_true(decoded_apart(&g, released ? meant : stale) > 1e-3);
            golden_close(&g);
        }
}

/* ------------------------------------------------------------------------------------- going back and on */

static struct golden whole, parts;

static void open_both(const char *name) {
    open_case(&whole, name, false);
    open_case(&parts, name, false);
    golden_feed(&whole, whole.ids, 0, GOLDEN_TOKENS, GOLDEN_TOKENS);
}

static void close_both(void) {
    golden_close(&whole);
    golden_close(&parts);
}

static void compare(const char *what, uint32_t at, uint32_t from, uint32_t to) {
    size_t v = whole.shape->vocab;
    if (memcmp(parts.logits + from * v, whole.logits + from * v, (to - from) * v * sizeof(float)) != 0)
        fail_msg("%s at %u: logits differ", what, at);
}

/* A draft span whose last tokens are not the text's, which are taken back. */
static void feed_wrong(uint32_t at, uint32_t count, uint32_t wrong) {
    int32_t ids[8];
    memcpy(ids, whole.ids + at, count * sizeof(*ids));
    for (uint32_t i = count - wrong; i < count; i++)
        ids[i] = (ids[i] + 1 + (int32_t)at) % (int32_t)whole.shape->vocab;
    struct model_span span = {.sequence = parts.sequence, .ids = ids, .count = count, .all = true, .draft = true};
    golden_step(&parts, &span, 1, 0);
    sequence_rollback(parts.sequence, wrong);
}

static void test_rollback__leaves_no_trace(void **state) {
    (void)state;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        open_both(names[n]);
        for (uint32_t wrong = 1; wrong <= MODEL_MOST_DRAFTS; wrong++) {
            uint32_t at = 0;
            sequence_reset(parts.sequence);
            for (; at + wrong + 1 < GOLDEN_TOKENS; at++) /* a token stays of each step */
                feed_wrong(at, 1 + wrong, wrong);
            compare("taken back", wrong, 0, at);
        }
        close_both();
    }
}

static void test_snapshot__is_gone_on_from(void **state) {
    static const uint32_t places[] = {1, 2, 16, 33, 127, 128, 129, 255};
    (void)state;
    open_both("v41-flash");
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        struct snapshot *s;
        sequence_reset(parts.sequence);
        golden_feed(&parts, whole.ids, 0, places[i], 50);
        CHECKED(snapshot_take(parts.sequence, NULL, &s, &error));
        golden_feed(&parts, whole.ids, 0, 9, 4);
        CHECKED(snapshot_resume(s, whole.ids, parts.sequence, &error));
        snapshot_drop(s);
        golden_feed(&parts, whole.ids, places[i], GOLDEN_TOKENS, 31);
        compare("snapshot", places[i], places[i], GOLDEN_TOKENS);
    }
    close_both();
}

/* ------------------------------------------------------------------------------------------- refusals */

static void test_mtp__is_refused(void **state) {
    struct golden g;
    struct sequence *s;
    struct sonde_error e;
    (void)state;
    open_case(&g, "v41-flash", false);
    assert_false(model_has_mtp(g.model));
    assert_int_equal(sequence_open(g.model, 0, true, &s, &e), SONDE_ERROR_UNSUPPORTED);
    assert_string_equal(e.message, "the checkpoint has no multi-token-prediction block");
    golden_close(&g);
}

/* Opens a model of a directory that must be refused. */
static void refused(const char *directory, bool released_decode, int code, const char *message) {
    struct checkpoint *c;
    struct device *d;
    struct model *m;
    struct sonde_error e;
    CHECKED(checkpoint_open(directory, &c, &error));
    CHECKED(device_cpu_open(&(struct device_cpu_options){.threads = 1}, &d, &error));
    assert_int_equal(model_open(c, d, &(struct model_options){.rows = 1, .released_decode = released_decode}, &m, &e),
                     code);
    assert_string_equal(e.message, message);
    d->ops->close(d);
    checkpoint_close(c);
}

static void test_released_decode__is_refused_for_v4(void **state) {
    (void)state;
    refused("tests/golden/flash", true, SONDE_ERROR_UNSUPPORTED,
            "released_decode: only DeepSeek-V4.1 was released with such a decode");
}

/* v41-flash beside a config.json in which `from` has become `to`, and a tokenizer if `tokenizer`. */
static void refused_edit(const char *from, const char *to, bool tokenizer, int code, const char *format) {
    static const char *const files[] = {"model-00001-of-00001.safetensors", "model.safetensors.index.json",
                                        "tokenizer.json"};
    char directory[] = "/tmp/sonde-v41-XXXXXX", here[200], path[300], target[400], message[400];
    struct buf config = {0}, edited = {0};
    struct sonde_error e;
    assert_non_null(mkdtemp(directory));
    assert_non_null(getcwd(here, sizeof(here)));
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(target, sizeof(target), "%s/tests/golden/v41-flash/%s", here, files[i]);
        snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
        if (i < 2 || tokenizer)
            assert_int_equal(symlink(target, path), 0);
    }
    assert_int_equal(file_read("tests/golden/v41-flash/config.json", 1 << 20, &config, &e), 0);
    const char *at = strstr(config.data, from);
    assert_non_null(at);
    buf_append(&edited, config.data, (size_t)(at - config.data));
    buf_string(&edited, to);
    buf_string(&edited, at + strlen(from));
    snprintf(path, sizeof(path), "%s/config.json", directory);
    assert_int_equal(file_write(path, edited.data, edited.len, &e), 0);
    snprintf(message, sizeof(message), format, directory);
    refused(directory, false, code, message);
    unlink(path);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
    buf_release(&config);
    buf_release(&edited);
}

static void test_engram__integers_that_do_not_fit_are_refused(void **state) {
    (void)state;
    refused_edit(
        "\"engram_compressed_vocab_size\": 266", "\"engram_compressed_vocab_size\": 267", true, SONDE_ERROR_FORMAT,
        "%s/tokenizer.json: its tokens are 266 different words, but text_config.engram_compressed_vocab_size is "
        "267");
    refused_edit("\"engram_vocab_size\": 97", "\"engram_vocab_size\": 98", true, SONDE_ERROR_FORMAT,
                 "%s/config.json: field text_config.engram_num_embeddings[0]: 630, expected 660, as engram_vocab_size "
                 "says");
    refused_edit("\"bos_token_id\": 0", "\"bos_token_id\": 0", false, SONDE_ERROR_IO,
                 "%s/tokenizer.json: No such file or directory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engram__integers_are_the_oracles),
        cmocka_unit_test(test_engram__multipliers_are_the_released_ones),
        cmocka_unit_test(test_engram__compact_ids_are_the_oracles),
        cmocka_unit_test(test_released_decode__is_the_oracles),
        cmocka_unit_test(test_rollback__leaves_no_trace),
        cmocka_unit_test(test_snapshot__is_gone_on_from),
        cmocka_unit_test(test_mtp__is_refused),
        cmocka_unit_test(test_released_decode__is_refused_for_v4),
        cmocka_unit_test(test_engram__integers_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
