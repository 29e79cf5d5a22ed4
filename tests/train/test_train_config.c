/* test_train_config.c - configs of runs: defaults, what is refused and how it is said, and that text comes back. */
#include <string.h>

#include "test.h"

#include "train/config_internal.h"

#define SMALLEST                                                                                                       \
    "\"out\": \"runs/a\", \"model\": {\"hidden_size\": 64}, \"steps\": 2000, \"data\": [{\"path\": \"a.txt\"}]"

static struct train_config parsed(const char *json) {
    struct train_config c;
    CHECKED(train_config_parse(json, strlen(json), "c.json", &c, &error));
    return c;
}

static void refused(const char *json, const char *message) {
    struct train_config c;
    struct sonde_error e = {0};
    assert_int_equal(train_config_parse(json, strlen(json), "c.json", &c, &e), SONDE_ERROR_FORMAT);
    assert_int_equal(e.code, SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, message);
}

static void test_config__has_defaults(void **state) {
    (void)state;
    struct train_config c = parsed("{" SMALLEST "}");
    assert_string_equal(c.out, "runs/a");
    assert_null(c.from);
    assert_null(c.tokenizer);
    assert_string_equal(c.cache, "runs/a/train/cache");
    assert_int_equal(json_integer_value(json_object_get(c.model, "hidden_size")), 64);
    assert_int_equal(c.data_count, 1);
    assert_string_equal(c.data[0].path, "a.txt");
    assert_int_equal(c.data[0].kind, DATA_TEXT);
    assert_string_equal(c.data[0].separator, "<|endoftext|>");
    assert_true(c.data[0].weight == 1 && c.data[0].flags == 0);
    assert_int_equal(c.validation_count, 0);
    assert_true(c.seed == 1 && c.steps == 2000 && c.tokens == 4096 && c.accumulate == 1);
    assert_true(c.rate.peak == 2e-3 && c.rate.floor == 2e-4);
    assert_true(c.rate.warmup == 100 && c.rate.decay == 400 && c.rate.end == 2000);
    assert_int_equal(c.optimizer, OPTIMIZER_MUON);
    assert_true(c.muon.momentum == 0.95 && c.muon.decay == 0.1 && c.muon.scale == 0.18);
    assert_true(c.adam.beta1 == 0.9 && c.adam.beta2 == 0.95 && c.adam.eps == 1e-20 && c.adam.decay == 0.1);
    assert_true(c.table_rate == 5 && c.clip == 1 && c.balance_speed == 1e-3 && c.balance_weight == 1e-4);
    assert_true(c.mtp_weight == 0.3 && c.mtp_decay_weight == 0.1 && c.index_weight == 1);
    assert_true(c.dense == 200 && c.round_from == 1600);
    assert_true(c.validate_every == 200 && c.save_every == 200 && c.validation_tokens == 0);
    assert_true(c.on_spike == SPIKE_ROLL_BACK && c.spike_factor == 3 && !c.recompute && c.threads == 0);
    train_config_release(&c);
}

static void test_config__short_runs_warm_up_shortly(void **state) {
    (void)state;
    struct train_config c = parsed("{\"out\": \"o\", \"from\": \"m\", \"steps\": 50, \"data\": [{\"path\": \"a\"}]}");
    assert_true(c.rate.warmup == 5 && c.rate.decay == 10 && c.dense == 5 && c.round_from == 40);
    train_config_release(&c);
}

static void test_config__null_is_missing(void **state) {
    (void)state;
    struct train_config c =
        parsed("{" SMALLEST ", \"rate\": null, \"seed\": null, \"from\": null, \"validation\": null,"
               " \"recompute\": null, \"optimizer\": null, \"mtp\": {\"weight\": null}}");
    assert_true(c.rate.peak == 2e-3 && c.seed == 1 && !c.from && !c.recompute && c.mtp_weight == 0.3);
    train_config_release(&c);
}

static void test_config__data_follow_their_format(void **state) {
    (void)state;
    struct train_config c =
        parsed("{\"out\": \"o\", \"from\": \"m\", \"steps\": 10, \"data\": [{\"path\": \"a.jsonl\", \"weight\": 0.5},"
               " {\"path\": \"b.txt\", \"format\": \"jsonl\", \"learn\": \"all\", \"whole\": true},"
               " {\"path\": \"c\", \"separator\": null}, {\"path\": \"d\", \"separator\": \"--\"}],"
               " \"validation\": [{\"path\": \"v.jsonl\"}]}");
    assert_int_equal(c.data_count, 4);
    assert_true(c.data[0].kind == DATA_JSONL && c.data[0].flags == DATA_ANSWERS && c.data[0].weight == 0.5);
    assert_true(c.data[1].kind == DATA_JSONL && c.data[1].flags == DATA_WHOLE && c.data[1].weight == 1);
    assert_true(c.data[2].kind == DATA_TEXT && !c.data[2].separator);
    assert_string_equal(c.data[3].separator, "--");
    assert_int_equal(c.validation_count, 1);
    assert_true(c.validation[0].kind == DATA_JSONL && c.validation[0].flags == DATA_ANSWERS);
    train_config_release(&c);
}

static void same_source(const struct data_source *a, const struct data_source *b) {
    assert_string_equal(a->path, b->path);
    assert_true(!a->separator == !b->separator);
    if (a->separator)
        assert_string_equal(a->separator, b->separator);
    assert_true(a->kind == b->kind && a->weight == b->weight && a->flags == b->flags);
}

static void same_text(const char *a, const char *b) {
    assert_true(!a == !b);
    if (a)
        assert_string_equal(a, b);
}

/* All that is not behind a pointer is compared as bytes, so that a field that is added here later is compared too. */
static void same_config(const struct train_config *a, const struct train_config *b) {
    struct train_config x = *a, y = *b;
    same_text(x.out, y.out);
    same_text(x.from, y.from);
    same_text(x.tokenizer, y.tokenizer);
    same_text(x.cache, y.cache);
    assert_true(x.model == y.model || json_equal(x.model, y.model));
    assert_true(x.data_count == y.data_count && x.validation_count == y.validation_count);
    for (uint32_t i = 0; i < DATA_SOURCES; i++) {
        if (i < x.data_count)
            same_source(&x.data[i], &y.data[i]);
        if (i < x.validation_count)
            same_source(&x.validation[i], &y.validation[i]);
    }
    memset(x.data, 0, sizeof(x.data)), memset(y.data, 0, sizeof(y.data));
    memset(x.validation, 0, sizeof(x.validation)), memset(y.validation, 0, sizeof(y.validation));
    x.out = y.out = x.from = y.from = x.tokenizer = y.tokenizer = x.cache = y.cache = NULL;
    x.model = y.model = NULL;
    assert_memory_equal(&x, &y, sizeof(x));
}

static void round_trip(const char *json) {
    char *text, *again;
    size_t length, second;
    struct train_config a = parsed(json), b;
    CHECKED(train_config_text(&a, &text, &length, &error));
    assert_int_equal(length, strlen(text));
    b = parsed(text);
    same_config(&a, &b);
    CHECKED(train_config_text(&b, &again, &second, &error));
    assert_string_equal(text, again);
    free(text);
    free(again);
    train_config_release(&a);
    train_config_release(&b);
}

static void test_config__text_comes_back(void **state) {
    (void)state;
    round_trip("{" SMALLEST "}");
    round_trip("{\"out\": \"o\", \"from\": \"m\", \"steps\": 7, \"data\": [{\"path\": \"a\"}]}");
    round_trip(
        "{\"out\": \"\\u00e4 b\", \"model\": {\"x\": 0.30000000000000004, \"y\": \"\\u0000\"}, \"steps\": 1000000000,"
        " \"tokenizer\": \"t.json\", \"cache\": \"c\", \"seed\": 9007199254740992, \"threads\": 3, \"recompute\": true,"
        " \"data\": [{\"path\": \"a.jsonl\", \"learn\": \"all\", \"whole\": true, \"weight\": 0.1},"
        "  {\"path\": \"b\", \"separator\": null, \"learn\": \"answers\"}, {\"path\": \"c\", \"separator\": "
        "\"\\u2014\"}],"
        " \"validation\": [{\"path\": \"v\"}, {\"path\": \"w.jsonl\"}],"
        " \"batch\": {\"tokens\": 1, \"accumulate\": 2}, \"optimizer\": \"adamw\", \"validation_tokens\": 5,"
        " \"rate\": {\"peak\": 0.1234567890123456789, \"floor\": 0, \"warmup\": 1, \"decay\": 2},"
        " \"muon\": {\"momentum\": 0, \"decay\": 0, \"scale\": 3}, \"table_rate\": 0, \"clip\": 0,"
        " \"adam\": {\"beta1\": 0.5, \"beta2\": 0.25, \"eps\": 1e-300, \"decay\": 7}, \"index_weight\": 0.7,"
        " \"balance\": {\"speed\": 0.5, \"weight\": 0.6}, \"mtp\": {\"weight\": 1, \"decay_weight\": 2},"
        " \"dense\": 3, \"round_from\": 4, \"every\": {\"validate\": 0, \"save\": 9},"
        " \"spike\": {\"action\": \"stop\", \"factor\": 1.5}}");
}

static void test_config__numbers_are_written_short(void **state) {
    (void)state;
    char *text;
    size_t length;
    struct train_config c = parsed("{" SMALLEST "}");
    CHECKED(train_config_text(&c, &text, &length, &error));
    assert_non_null(strstr(text, "\"floor\": 0.0002,"));
    assert_non_null(strstr(text, "\"momentum\": 0.95,"));
    assert_non_null(strstr(text, "\"round_from\": 1600,"));
    free(text);
    train_config_release(&c);
}

static void test_config__unknown_fields_are_refused(void **state) {
    (void)state;
    refused("{" SMALLEST ", \"batch\": {\"token\": 3}}",
            "c.json: field batch.token: there is no such field, but there is batch.tokens");
    refused("{" SMALLEST ", \"warmup\": 3}", "c.json: field warmup: there is no such field, but there is rate.warmup");
    refused("{" SMALLEST ", \"optimiser\": 3}",
            "c.json: field optimiser: there is no such field, but there is optimizer");
    refused("{" SMALLEST ", \"modle\": 3}", "c.json: field modle: there is no such field, but there is model");
    refused("{" SMALLEST ", \"colour\": 3}", "c.json: field colour: there is no such field");
    refused("{" SMALLEST ", \"rate.peak\": 1}", "c.json: field rate.peak: there is no such field");
    refused("{" SMALLEST ", \"validation\": [{\"path\": \"a\", \"weight\": 1}]}",
            "c.json: field validation[0].weight: there is no such field");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": [{\"path\": \"a\"}, {\"pat\": \"a\"}]}",
            "c.json: field data[1].pat: there is no such field, but there is data[1].path");
}

static void test_config__values_out_of_bounds_are_refused(void **state) {
    (void)state;
    refused("{" SMALLEST ", \"rate\": {\"peak\": \"x\"}}",
            "c.json: field rate.peak: expected a number above 0 and at most 1, not \"x\"");
    refused("{" SMALLEST ", \"rate\": {\"peak\": 0}}",
            "c.json: field rate.peak: expected a number above 0 and at most 1, not 0");
    refused("{" SMALLEST ", \"adam\": {\"beta1\": 1}}",
            "c.json: field adam.beta1: expected a number from 0 to below 1, not 1");
    refused("{" SMALLEST ", \"batch\": {\"tokens\": 1.5}}",
            "c.json: field batch.tokens: expected an integer from 1 to 16777216, not 1.5");
    refused("{" SMALLEST ", \"seed\": -1}",
            "c.json: field seed: expected an integer from 0 to 9007199254740992, not -1");
    refused("{" SMALLEST ", \"batch\": 3}", "c.json: field batch: expected an object, not 3");
    refused("{" SMALLEST ", \"recompute\": 1}", "c.json: field recompute: expected true or false, not 1");
    refused("{" SMALLEST ", \"optimizer\": \"sgd\"}",
            "c.json: field optimizer: expected \"muon\" or \"adamw\", not \"sgd\"");
    refused("{" SMALLEST ", \"cache\": \"\"}", "c.json: field cache: expected a text of at least one letter, not \"\"");
    refused("{" SMALLEST ", \"cache\": \"a\\u0000b\"}",
            "c.json: field cache: expected a text of at least one letter, not \"a\\u0000b\"");
    refused("[]", "c.json: not an object");
}

static void test_config__what_is_needed_must_be_there(void **state) {
    (void)state;
    refused("{}", "c.json: field out: expected a text, not nothing");
    refused("{\"out\": \"o\", \"from\": \"m\", \"data\": [{\"path\": \"a\"}]}",
            "c.json: field steps: expected an integer from 1 to 1000000000, not nothing");
    refused("{\"out\": \"o\", \"steps\": 1, \"data\": [{\"path\": \"a\"}]}",
            "c.json: field model: expected an object, or field from, not nothing");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1}",
            "c.json: field data: expected an array of 1 to 16 objects, not nothing");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": []}",
            "c.json: field data: expected an array of 1 to 16 objects, not an array of 0");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": [{}]}",
            "c.json: field data[0].path: expected a text, not nothing");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": [7]}",
            "c.json: field data[0]: expected an object, not 7");
}

static void test_config__fields_fit_each_other(void **state) {
    (void)state;
    refused("{" SMALLEST ", \"from\": \"m\"}",
            "c.json: field model: expected none, for field from is given, not an object");
    refused("{" SMALLEST ", \"rate\": {\"warmup\": 1900, \"decay\": 101}}",
            "c.json: field rate: expected warmup and decay of 2000 steps or less together, not 1900 and 101");
    refused("{" SMALLEST ", \"rate\": {\"peak\": 0.001, \"floor\": 0.01}}",
            "c.json: field rate.floor: expected at most rate.peak, 0.001, not 0.01");
    refused(
        "{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": [{\"path\": \"a.jsonl\", \"separator\": \"x\"}]}",
        "c.json: field data[0].separator: expected none, for the format is jsonl, not \"x\"");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": [{\"path\": \"a\", \"separator\": \"x\\n\"}]}",
            "c.json: field data[0].separator: expected a text without line ends, not \"x\\n\"");
    refused("{\"out\": \"o\", \"from\": \"m\", \"steps\": 1, \"data\": [{\"path\": \"a\", \"weight\": 0}]}",
            "c.json: field data[0].weight: expected a number above 0 and at most 1000000000, not 0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config__has_defaults),
        cmocka_unit_test(test_config__short_runs_warm_up_shortly),
        cmocka_unit_test(test_config__null_is_missing),
        cmocka_unit_test(test_config__data_follow_their_format),
        cmocka_unit_test(test_config__text_comes_back),
        cmocka_unit_test(test_config__numbers_are_written_short),
        cmocka_unit_test(test_config__unknown_fields_are_refused),
        cmocka_unit_test(test_config__values_out_of_bounds_are_refused),
        cmocka_unit_test(test_config__what_is_needed_must_be_there),
        cmocka_unit_test(test_config__fields_fit_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
