/*
 * test_engine_session.c - models and sessions through the public header, on the bundled and a golden model.
 *
 * Linked with malloc and mmap wrapped, so that what a step allocates can be counted: nothing.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

#include "sonde.h"

static sonde_model *nano, *flash;

static int set_up(void **state) {
    (void)state;
    struct sonde_error e;
    return sonde_model_open("models/nano", NULL, &nano, &e) || sonde_model_open("tests/golden/flash", NULL, &flash, &e);
}

static int tear_down(void **state) {
    (void)state;
    sonde_model_close(nano);
    sonde_model_close(flash);
    return 0;
}

static sonde_session *session(sonde_model *m, uint64_t context, uint32_t mtp) {
    sonde_session *s = NULL;
    struct sonde_error e;
    struct sonde_session_options options = {context, mtp};
    if (sonde_session_open(m, &options, &s, &e))
        fail_msg("%s", e.message);
    return s;
}

/* ------------------------------------------------------------------------------------ allocations */

static int allocations;
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t n) {
    allocations++;
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
    allocations++;
    return __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
    allocations++;
    return __real_realloc(p, n);
}
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
    allocations++;
    return __real_mmap(at, n, prot, flags, fd, offset);
}

static void test_feed__allocates_nothing(void **state) {
    (void)state;
    sonde_session *s = session(flash, 1000, 1);
    int32_t ids[300];
    for (int i = 0; i < 300; i++)
        ids[i] = (i * 7) % 250;
    assert_true(allocations > 0); /* the wrapper works */
    allocations = 0;
    assert_int_equal(sonde_session_feed(s, ids, 300, NULL), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(sonde_session_feed(s, ids + i, 1, NULL), 0);
    assert_int_equal(allocations, 0);
    sonde_session_close(s);
}

/* --------------------------------------------------------------------------------------- sessions */

/* Long enough that the bundled model's indexer has to choose. */
static void test_feed__allocates_nothing_while_choosing(void **state) {
    (void)state;
    static int32_t ids[600];
    sonde_session *s = session(nano, 0, 0);
    sonde_sampler *x;
    struct sonde_sampling sampling;
    sonde_sampling_default(&sampling);
    sampling.top_p = 0.9f;
    for (int i = 0; i < 600; i++)
        ids[i] = 3 + (i * 37) % 4000;
    assert_int_equal(sonde_sampler_open(&sampling, 4096, &x, NULL), 0);
    allocations = 0;
    assert_int_equal(sonde_session_feed(s, ids, 600, NULL), 0);
    int32_t id = sonde_sampler_draw(x, sonde_session_logits(s));
    assert_int_equal(sonde_session_feed(s, &id, 1, NULL), 0);
    assert_int_equal(allocations, 0);
    sonde_sampler_close(x);
    sonde_session_close(s);
}

static void test_model__tells_what_it_is(void **state) {
    (void)state;
    struct sonde_model_info info;
    sonde_model_info(flash, &info);
    assert_int_equal(info.vocab, 256);
    assert_int_equal(info.layers, 5);
    assert_int_equal(info.mtp_blocks, 1);
    assert_int_equal(info.context, 1048576);
    assert_null(sonde_model_tokenizer(flash));
    sonde_model_info(nano, &info);
    assert_int_equal(info.eos, 1);
    assert_non_null(sonde_model_tokenizer(nano));
    assert_true(info.parameters > 10000000 && info.parameters < 30000000);
}

static void test_model__errors_name_the_directory(void **state) {
    (void)state;
    struct sonde_error e;
    sonde_model *m = NULL;
    assert_int_equal(sonde_model_open("tests/nowhere", NULL, &m, &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "tests/nowhere"));
    struct sonde_model_options options;
    sonde_model_options_default(&options);
    options.chunk_tokens = 0;
    assert_int_equal(sonde_model_open("models/nano", &options, &m, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, "chunk_tokens is 0, expected 1 to 65536");
    sonde_model_options_default(&options);
    options.precision = (enum sonde_precision)9;
    assert_int_equal(sonde_model_open("models/nano", &options, &m, &e), SONDE_ERROR_ARGUMENT);
    assert_null(m);
}

static void test_feed__refuses_and_changes_nothing(void **state) {
    (void)state;
    struct sonde_error e;
    size_t n;
    sonde_session *s = session(flash, 4, 0);
    assert_null(sonde_session_logits(s));
    assert_int_equal(sonde_session_feed(s, (int32_t[]){1, 256}, 2, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, "token id 256, expected 0 to 255");
    assert_int_equal(sonde_session_feed(s, (int32_t[]){-1}, 1, &e), SONDE_ERROR_ARGUMENT);
    assert_int_equal(sonde_session_feed(s, (int32_t[]){1, 2, 3, 4, 5}, 5, &e), SONDE_ERROR_CONTEXT);
    assert_string_equal(e.message, "5 more tokens do not fit: 0 of the context's 4 are taken");
    sonde_session_tokens(s, &n);
    assert_int_equal(n, 0);
    assert_int_equal(sonde_session_feed(s, (int32_t[]){1, 2, 3, 4}, 4, &e), 0);
    assert_int_equal(sonde_session_feed(s, (int32_t[]){5}, 1, &e), SONDE_ERROR_CONTEXT);
    assert_memory_equal(sonde_session_tokens(s, &n), ((int32_t[]){1, 2, 3, 4}), 16);
    assert_int_equal(n, 4);
    assert_int_equal(sonde_session_feed(s, NULL, 0, &e), 0);
    sonde_session_close(s);
    sonde_session *none = NULL;
    struct sonde_session_options options = {1u << 21, 0};
    assert_int_equal(sonde_session_open(flash, &options, &none, &e), SONDE_ERROR_ARGUMENT);
}

static void test_reset__begins_anew(void **state) {
    (void)state;
    float first[256];
    sonde_session *s = session(flash, 0, 0);
    const int32_t ids[] = {5, 6, 7, 8, 9, 10, 11, 12, 13};
    assert_int_equal(sonde_session_feed(s, ids, 9, NULL), 0);
    memcpy(first, sonde_session_logits(s), sizeof(first));
    assert_int_equal(sonde_session_feed(s, ids, 3, NULL), 0);
    assert_memory_not_equal(sonde_session_logits(s), first, sizeof(first));
    sonde_session_reset(s);
    assert_null(sonde_session_logits(s));
    assert_int_equal(sonde_session_feed(s, ids, 9, NULL), 0);
    assert_memory_equal(sonde_session_logits(s), first, sizeof(first));
    sonde_session_close(s);
}

static void test_sessions__of_one_model_do_not_touch(void **state) {
    (void)state;
    float alone[256];
    const int32_t ids[] = {50, 60, 70, 80, 90, 100};
    sonde_session *a = session(flash, 0, 0), *b = session(flash, 0, 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(sonde_session_feed(a, ids + i, 1, NULL), 0);
    memcpy(alone, sonde_session_logits(a), sizeof(alone));
    sonde_session_reset(a);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(sonde_session_feed(b, ids + 5 - i, 1, NULL), 0);
        assert_int_equal(sonde_session_feed(a, ids + i, 1, NULL), 0);
    }
    assert_memory_equal(sonde_session_logits(a), alone, sizeof(alone));
    sonde_session_close(a);
    sonde_session_close(b);
}

/* Opens a directory with the golden checkpoint `flash` and this generation_config.json. */
static int open_with(const char *json, sonde_model **m, struct sonde_error *e) {
    static const char *const files[] = {"config.json", "model-00001-of-00001.safetensors",
                                        "model.safetensors.index.json"};
    char directory[] = "/tmp/sonde-test-XXXXXX", here[4096], from[4200], to[300];
    assert_non_null(mkdtemp(directory));
    assert_non_null(getcwd(here, sizeof(here)));
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof(from), "%s/tests/golden/flash/%s", here, files[i]);
        snprintf(to, sizeof(to), "%s/%s", directory, files[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(to, sizeof(to), "%s/generation_config.json", directory);
    FILE *f = fopen(to, "w");
    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    int rc = sonde_model_open(directory, NULL, m, e);
    unlink(to);
    for (int i = 0; i < 3; i++) {
        snprintf(to, sizeof(to), "%s/%s", directory, files[i]);
        unlink(to);
    }
    rmdir(directory);
    return rc;
}

static void test_sampling__is_the_checkpoints_recommendation(void **state) {
    (void)state;
    struct sonde_sampling s;
    struct sonde_error e;
    sonde_model *m;
    sonde_model_sampling(flash, &s);
    assert_true(s.temperature == 1 && s.top_p == 1 && s.top_k == 0); /* none: the defaults */
    sonde_model_sampling(nano, &s);
    assert_true(s.temperature == 0.6f && s.top_p == 0.95f);
    assert_int_equal(
        open_with("{\"temperature\": 0.3, \"top_k\": 40, \"min_p\": null, \"eos_token_id\": [1, 2]}", &m, &e), 0);
    sonde_model_sampling(m, &s);
    assert_true(s.temperature == 0.3f && s.top_p == 1 && s.top_k == 40);
    sonde_model_close(m);
    assert_int_equal(open_with("{\"temperature\": 0.3, \"do_sample\": false}", &m, &e), 0);
    sonde_model_sampling(m, &s);
    assert_true(s.temperature == 0);
    sonde_model_close(m);
    assert_int_equal(open_with("{\"top_p\": 7}", &m, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "generation_config.json: top_p is 7, expected more than 0, at most 1"));
    assert_int_equal(open_with("{\"temperature\": \"hot\"}", &m, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "generation_config.json: field temperature: not a number"));
    assert_int_equal(open_with("{", &m, NULL), SONDE_ERROR_FORMAT);
    assert_int_equal(open_with("[]", &m, NULL), SONDE_ERROR_FORMAT);
}

/* -------------------------------------------------------------------------------------- observers */

struct seen {
    uint64_t logits, mtp, progress;
    float last[256];
    int stop_at;
};

static int see_logits(void *context, uint64_t position, const float *logits) {
    struct seen *s = context;
    assert_int_equal(position, s->logits++);
    memcpy(s->last, logits, sizeof(s->last));
    return 0;
}

static int see_mtp(void *context, uint64_t position, const float *logits) {
    struct seen *s = context;
    assert_int_equal(position, s->mtp++);
    assert_true(isfinite(logits[0]));
    return 0;
}

static int see_progress(void *context, size_t done, size_t total) {
    struct seen *s = context;
    assert_int_equal(total, 600);
    s->progress = done;
    return s->stop_at && done >= (size_t)s->stop_at;
}

static void test_observe__shows_every_token(void **state) {
    (void)state;
    int32_t ids[600];
    struct seen seen = {0};
    struct sonde_observer observer = {&seen, see_logits, see_mtp, see_progress};
    sonde_session *s = session(flash, 0, 1);
    for (int i = 0; i < 600; i++)
        ids[i] = (i * 31) % 256;
    assert_int_equal(sonde_session_observe(s, ids, 600, &observer, NULL), 0);
    assert_int_equal(seen.logits, 600);
    assert_int_equal(seen.mtp, 599);
    assert_int_equal(seen.progress, 600);
    assert_memory_equal(seen.last, sonde_session_logits(s), sizeof(seen.last));
    sonde_session_close(s);
}

static void test_observe__stops_after_the_chunk_in_work(void **state) {
    (void)state;
    int32_t ids[600] = {0};
    struct sonde_error e;
    size_t n;
    struct seen seen = {.stop_at = 256};
    struct sonde_observer observer = {.context = &seen, .progress = see_progress};
    sonde_session *s = session(flash, 0, 0);
    assert_int_equal(sonde_session_observe(s, ids, 600, &observer, &e), SONDE_ERROR_CANCELLED);
    sonde_session_tokens(s, &n);
    assert_int_equal(n, 256);
    assert_null(sonde_session_logits(s));                     /* nobody asked for those of the chunk in work */
    assert_int_equal(sonde_session_feed(s, ids, 344, &e), 0); /* it can go on */
    assert_non_null(sonde_session_logits(s));
    sonde_session_close(s);
}

/* ------------------------------------------------------------------------------------- generation */

struct answer {
    char text[8192];
    size_t bytes;
    int pieces, stop_after;
};

static int take(void *context, const char *text, size_t bytes) {
    struct answer *a = context;
    assert_int_equal(strlen(text), bytes);
    assert_true(a->bytes + bytes < sizeof(a->text));
    memcpy(a->text + a->bytes, text, bytes + 1);
    a->bytes += bytes;
    return a->stop_after && ++a->pieces >= a->stop_after;
}

static struct sonde_generated generate(struct sonde_generation *g, struct answer *a, uint64_t context) {
    struct sonde_generated result;
    struct sonde_error e;
    int32_t *ids;
    size_t count;
    const char *prompt = "<｜begin▁of▁sentence｜>Once upon a time";
    sonde_session *s = session(nano, context, 0);
    *a = (struct answer){.stop_after = a->stop_after};
    g->context = a;
    g->text = take;
    assert_int_equal(sonde_tokenizer_encode(sonde_model_tokenizer(nano), prompt, strlen(prompt), SONDE_MARKUP_TOKENS,
                                            &ids, &count, &e),
                     0);
    if (sonde_generate(s, ids, count, g, &result, &e))
        fail_msg("%s", e.message);
    sonde_free(ids);
    sonde_session_close(s);
    return result;
}

static void test_generate__is_the_loop_by_hand(void **state) {
    (void)state;
    struct sonde_generation g;
    struct answer a = {0}, b = {0};
    sonde_generation_default(&g);
    g.max_tokens = 60;
    g.sampling.seed = 11;
    struct sonde_generated r = generate(&g, &a, 0);
    assert_int_equal(r.finish, SONDE_FINISH_LENGTH);
    assert_int_equal(r.generated_tokens, 60);
    generate(&g, &b, 0);
    assert_string_equal(a.text, b.text); /* same seed, same text */

    int32_t *ids, id;
    size_t count, bytes;
    char *text;
    const char *prompt = "<｜begin▁of▁sentence｜>Once upon a time";
    sonde_session *s = session(nano, 0, 0);
    sonde_sampler *x;
    int32_t drawn[60];
    assert_int_equal(sonde_tokenizer_encode(sonde_model_tokenizer(nano), prompt, strlen(prompt), SONDE_MARKUP_TOKENS,
                                            &ids, &count, NULL),
                     0);
    assert_int_equal(sonde_sampler_open(&g.sampling, 4096, &x, NULL), 0);
    assert_int_equal(sonde_session_feed(s, ids, count, NULL), 0);
    for (int i = 0; i < 60; i++) {
        drawn[i] = id = sonde_sampler_draw(x, sonde_session_logits(s));
        assert_int_equal(sonde_session_feed(s, &id, 1, NULL), 0);
    }
    assert_int_equal(sonde_tokenizer_decode(sonde_model_tokenizer(nano), drawn, 60, &text, &bytes, NULL), 0);
    assert_string_equal(a.text, text);
    sonde_free(text);
    sonde_free(ids);
    sonde_sampler_close(x);
    sonde_session_close(s);
}

static void test_generate__ends_before_a_stop_string(void **state) {
    (void)state;
    struct sonde_generation g;
    struct answer whole = {0}, cut = {0};
    sonde_generation_default(&g);
    g.sampling.temperature = 0;
    g.max_tokens = 80;
    generate(&g, &whole, 0);
    char stop[32] = {0}; /* eleven bytes from the middle: across tokens */
    memcpy(stop, whole.text + whole.bytes / 2, 11);
    g.stop = (const char *const[]){"never to be found", stop};
    g.stop_count = 2;
    struct sonde_generated r = generate(&g, &cut, 0);
    assert_int_equal(r.finish, SONDE_FINISH_STOP);
    assert_int_equal(r.stop, 1);
    assert_int_equal(cut.bytes, strstr(whole.text, stop) - whole.text);
    assert_memory_equal(cut.text, whole.text, cut.bytes);
    /* a beginning that never becomes the whole is shown after all */
    g.stop = (const char *const[]){"e quantum flux"};
    g.stop_count = 1;
    generate(&g, &cut, 0);
    assert_string_equal(cut.text, whole.text);
}

static void test_generate__stops_only_behind_a_mark(void **state) {
    (void)state;
    struct sonde_generation g;
    struct answer whole = {0}, cut = {0};
    sonde_generation_default(&g);
    g.sampling.temperature = 0;
    g.max_tokens = 80;
    generate(&g, &whole, 0);
    char mark[16] = {0}; /* across tokens; the stop string stands before it and behind it */
    memcpy(mark, whole.text + whole.bytes / 3, 9);
    const char *behind = strstr(whole.text, mark) + strlen(mark), *stop = " the ";
    assert_true(strstr(whole.text, stop) < behind && strstr(behind, stop));
    g.stop = &stop;
    g.stop_count = 1;
    g.stop_behind = mark;
    struct sonde_generated r = generate(&g, &cut, 0);
    assert_int_equal(r.finish, SONDE_FINISH_STOP);
    assert_int_equal(cut.bytes, strstr(behind, stop) - whole.text);
    g.stop_behind = "a mark that never comes";
    generate(&g, &cut, 0);
    assert_string_equal(cut.text, whole.text);
}

static void test_generate__ends_at_the_ids_it_is_told(void **state) {
    (void)state;
    struct sonde_generation g;
    struct answer whole = {0}, cut = {0};
    sonde_generation_default(&g);
    g.sampling.temperature = 0;
    g.max_tokens = 40;
    generate(&g, &whole, 0);
    int32_t *ids;
    size_t count;
    assert_int_equal(sonde_tokenizer_encode(sonde_model_tokenizer(nano), whole.text, whole.bytes, SONDE_MARKUP_TEXT,
                                            &ids, &count, NULL),
                     0);
    int32_t ends[] = {4095, ids[count / 2]};
    sonde_free(ids);
    g.end = ends;
    g.end_count = 2;
    struct sonde_generated r = generate(&g, &cut, 0);
    assert_int_equal(r.finish, SONDE_FINISH_END);
    assert_true(cut.bytes < whole.bytes && r.generated_tokens < 40);
    assert_memory_equal(cut.text, whole.text, cut.bytes);
}

static void test_generate__ends_with_the_context_or_the_caller(void **state) {
    (void)state;
    struct sonde_generation g;
    struct answer a = {0};
    sonde_generation_default(&g);
    g.sampling.temperature = 0;
    struct sonde_generated r = generate(&g, &a, 20);
    assert_int_equal(r.finish, SONDE_FINISH_CONTEXT);
    assert_int_equal(r.prompt_tokens + r.generated_tokens, 21); /* the last is drawn but not fed */
    a.stop_after = 3;
    r = generate(&g, &a, 0);
    assert_int_equal(r.finish, SONDE_FINISH_CANCELLED);
    assert_int_equal(a.pieces, 3);
}

static void test_generate__refuses_what_makes_no_sense(void **state) {
    (void)state;
    struct sonde_generation g;
    struct sonde_error e;
    sonde_generation_default(&g);
    sonde_session *s = session(nano, 0, 0), *f = session(flash, 0, 0);
    assert_int_equal(sonde_generate(s, NULL, 0, &g, NULL, &e), SONDE_ERROR_ARGUMENT);
    g.text = take;
    assert_int_equal(sonde_generate(f, (int32_t[]){1}, 1, &g, NULL, &e), SONDE_ERROR_ARGUMENT);
    assert_non_null(strstr(e.message, "tokenizer.json"));
    g.stop = (const char *const[]){""};
    g.stop_count = 1;
    assert_int_equal(sonde_generate(s, (int32_t[]){1}, 1, &g, NULL, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, "stop string 0 is empty");
    sonde_session_close(s);
    sonde_session_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_feed__allocates_nothing),
        cmocka_unit_test(test_feed__allocates_nothing_while_choosing),
        cmocka_unit_test(test_model__tells_what_it_is),
        cmocka_unit_test(test_model__errors_name_the_directory),
        cmocka_unit_test(test_feed__refuses_and_changes_nothing),
        cmocka_unit_test(test_reset__begins_anew),
        cmocka_unit_test(test_sessions__of_one_model_do_not_touch),
        cmocka_unit_test(test_sampling__is_the_checkpoints_recommendation),
        cmocka_unit_test(test_observe__shows_every_token),
        cmocka_unit_test(test_observe__stops_after_the_chunk_in_work),
        cmocka_unit_test(test_generate__is_the_loop_by_hand),
        cmocka_unit_test(test_generate__ends_before_a_stop_string),
        cmocka_unit_test(test_generate__stops_only_behind_a_mark),
        cmocka_unit_test(test_generate__ends_at_the_ids_it_is_told),
        cmocka_unit_test(test_generate__ends_with_the_context_or_the_caller),
        cmocka_unit_test(test_generate__refuses_what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
