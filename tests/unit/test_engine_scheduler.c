/*
 * test_engine_scheduler.c - many requests at once answer as each would alone; nobody starves, nobody is lost. On the
 * golden Flash, whose tokens must be the same alone and together: at the C level, and at the best one told to be
 * invariant.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "sonde.h"

enum { MOST = 600, VOCAB = 256 };

/* One request and what came of it. */
struct asked {
    uint64_t id;
    int32_t prompt[16384];
    size_t count;
    int32_t drawn[4096];
    size_t drawn_count, stop_after;
    size_t progress;
    int done, code;
    struct sonde_generated result;
    struct sonde_error error;
};

static int take_token(void *context, int32_t id, const float *logits) {
    (void)logits;
    struct asked *a = context;
    a->drawn[a->drawn_count++] = id;
    return a->stop_after && a->drawn_count == a->stop_after;
}

static int take_progress(void *context, size_t done, size_t total) {
    struct asked *a = context;
    assert_int_equal(total, a->count);
    assert_true(done > a->progress || (a->progress == 0 && done == 0));
    a->progress = done;
    return 0;
}

static void take_done(void *context, int code, const struct sonde_generated *result, const struct sonde_error *error) {
    struct asked *a = context;
    a->done++;
    a->code = code;
    a->result = *result;
    if (code)
        a->error = *error;
}

static struct asked *ask(uint32_t seed, size_t count) {
    struct asked *a = calloc(1, sizeof(*a));
    assert_non_null(a);
    a->count = count;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525 + 1013904223;
        a->prompt[i] = (int32_t)(seed >> 24);
    }
    return a;
}

static struct sonde_request request_of(struct asked *a, uint64_t tokens, float temperature) {
    struct sonde_request r = {.prompt = a->prompt, .count = a->count, .done = take_done};
    sonde_generation_default(&r.generation);
    r.generation.sampling.temperature = temperature;
    r.generation.sampling.seed = 7;
    r.generation.max_tokens = tokens;
    r.generation.context = a;
    r.generation.token = take_token;
    r.generation.progress = take_progress;
    return r;
}

static void submit(sonde_scheduler *s, struct asked *a, const struct sonde_request *r) {
    CHECKED(sonde_scheduler_submit(s, r, &a->id, &error));
}

/* Pages of 128 tokens, so that few of them are many. One worker: tests run side by side. */
static sonde_model *open_model(const char *level, uint32_t chunk, uint64_t cache_bytes) {
    sonde_model *m = NULL;
    struct sonde_model_options options;
    sonde_model_options_default(&options);
    options.level = level;
    options.invariant = !level;
    options.chunk_tokens = chunk;
    options.cache_bytes = cache_bytes;
    options.page_tokens = 128;
    options.threads = 1;
    CHECKED(sonde_model_open("tests/golden/flash", &options, &m, &error));
    return m;
}

static sonde_scheduler *open_scheduler(sonde_model *m, uint32_t requests, uint32_t step_tokens, uint32_t drafts) {
    sonde_scheduler *s = NULL;
    struct sonde_scheduler_options options = {requests, step_tokens, drafts};
    CHECKED(sonde_scheduler_open(m, &options, &s, &error));
    return s;
}

static void run_all(sonde_scheduler *s) {
    while (sonde_scheduler_step(s))
        ;
}

/* What the request draws when it has the model for itself. */
static void answer_alone(sonde_model *m, struct asked *a, const struct sonde_request *r) {
    sonde_session *session = NULL;
    struct sonde_generation g = r->generation;
    CHECKED(sonde_session_open(m, NULL, &session, &error));
    g.context = a;
    g.progress = NULL;
    CHECKED(sonde_generate(session, a->prompt, a->count, &g, &a->result, &error));
    sonde_session_close(session);
}

static void check_same(const struct asked *a, const struct asked *alone) {
    assert_int_equal(a->done, 1);
    assert_int_equal(a->code, 0);
    assert_int_equal(a->result.finish, alone->result.finish);
    assert_int_equal(a->drawn_count, alone->drawn_count);
    assert_int_equal(a->result.generated_tokens, alone->result.generated_tokens);
    assert_memory_equal(a->drawn, alone->drawn, a->drawn_count * sizeof(*a->drawn));
}

/* ------------------------------------------------------------------------------------------- results */

static void check_together(const char *level, uint32_t drafts, float temperature, uint32_t reuse) {
    static const size_t lengths[] = {1, 300, 5, 129, 64, 17, 200, 4};
    struct asked *a[8], *alone[8];
    sonde_model *m = open_model(level, 64, 0);
    sonde_scheduler *s = open_scheduler(m, 5, 40, drafts);
    for (uint32_t i = 0; i < 8; i++) {
        a[i] = ask(i, lengths[i]);
        alone[i] = ask(i, lengths[i]);
        struct sonde_request r = request_of(a[i], 10 + 5 * i, temperature);
        r.generation.reuse = reuse;
        submit(s, a[i], &r);
        r.generation.reuse = 0;
        answer_alone(m, alone[i], &r);
    }
    run_all(s);
    for (uint32_t i = 0; i < 8; i++) {
        check_same(a[i], alone[i]);
        assert_int_equal(a[i]->progress, a[i]->count);
        assert_int_equal(a[i]->result.prompt_tokens, a[i]->count);
        free(a[i]);
        free(alone[i]);
    }
    struct sonde_scheduler_status status;
    sonde_scheduler_status(s, &status);
    assert_int_equal(status.finished, 8);
    assert_int_equal(status.waiting + status.active, 0);
    assert_int_equal(status.prompt_tokens + status.reused_tokens, 1 + 300 + 5 + 129 + 64 + 17 + 200 + 4);
    assert_true(drafts ? status.drafted > 0 : status.drafted == 0);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

static void test_together__as_alone(void **state) {
    (void)state;
    check_together("c", 0, 0, 0);
}

static void test_together__as_alone_when_drawn_by_chance(void **state) {
    (void)state;
    check_together("c", 0, 1, 1);
}

static void test_together__as_alone_at_the_best_level(void **state) {
    (void)state;
    check_together(NULL, 0, 1, 0);
    check_together(NULL, 2, 1, 1);
}

static void test_drafts__change_nothing(void **state) {
    (void)state;
    check_together("c", 1, 0, 0);
    check_together("c", 3, 1, 1);
}

static void test_reuse__of_what_others_have_read(void **state) {
    (void)state;
    sonde_model *m = open_model("c", 64, 0);
    sonde_scheduler *s = open_scheduler(m, 4, 0, 0);
    struct asked *first = ask(1, 250), *second = ask(1, 250), *third = ask(1, 260);
    struct sonde_request r = request_of(first, 5, 0);
    r.generation.reuse = 1;
    submit(s, first, &r);
    run_all(s);
    r = request_of(second, 5, 0);
    r.generation.reuse = 1;
    r.generation.progress = NULL;
    submit(s, second, &r);
    run_all(s);
    check_same(second, first);
    assert_int_equal(first->result.reused_tokens, 0);
    assert_int_equal(second->result.reused_tokens, 250);
    memcpy(third->prompt + 250, first->drawn, 4 * sizeof(int32_t)); /* the answer too, but its last token */
    r = request_of(third, 5, 0);
    r.generation.reuse = 1;
    submit(s, third, &r);
    run_all(s);
    assert_int_equal(third->result.reused_tokens, 254);
    free(first);
    free(second);
    free(third);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

/* ------------------------------------------------------------------------------------------ fairness */

/* While a long prompt is read, an answer goes on by a token in every step. */
static void test_fairness__a_prompt_stalls_no_answer(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, 64, 0);
    sonde_scheduler *s = open_scheduler(m, 4, 16, 0);
    struct asked *writer = ask(1, 3), *reader = ask(2, 500);
    struct sonde_request r = request_of(writer, 400, 0.5f);
    submit(s, writer, &r);
    sonde_scheduler_step(s);
    assert_int_equal(writer->drawn_count, 1);
    r = request_of(reader, 1, 0);
    submit(s, reader, &r);
    size_t steps = 0;
    for (; !reader->done && !writer->done; steps++) {
        size_t before = writer->drawn_count, read = reader->progress;
        sonde_scheduler_step(s);
        assert_int_equal(writer->drawn_count, before + 1);
        assert_true(reader->progress <= read + 15); /* the budget, less the answer's token */
    }
    assert_true(steps >= 500 / 15);
    sonde_scheduler_close(s);
    free(writer);
    free(reader);
    sonde_model_close(m);
}

/* A short prompt behind a long one is answered long before it. */
static void test_fairness__prompts_share_steps(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, 64, 0);
    sonde_scheduler *s = open_scheduler(m, 4, 0, 0);
    struct asked *longer = ask(1, 3000), *shorter = ask(2, 60);
    struct sonde_request r = request_of(longer, 1, 0);
    submit(s, longer, &r);
    r = request_of(shorter, 1, 0);
    submit(s, shorter, &r);
    for (int i = 0; i < 3; i++)
        sonde_scheduler_step(s);
    assert_int_equal(shorter->done, 1);
    assert_true(longer->progress >= 100); /* and what the short one left was not wasted */
    run_all(s);
    assert_int_equal(longer->done, 1);
    free(longer);
    free(shorter);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

/* --------------------------------------------------------------------------------------------- memory */

/* The cache holds two prompts, not two answers: somebody has to wait half-way. */
static void test_memory__who_finds_none_waits(void **state) {
    (void)state;
    enum { REQUESTS = 3, TOKENS = 500 };
    struct asked *a[REQUESTS];
    sonde_model *m = open_model(NULL, 256, 1700 << 10);
    sonde_scheduler *s = open_scheduler(m, REQUESTS, 0, 0);
    struct sonde_scheduler_status status;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        a[i] = ask(i, i < 2 ? 7400 : 3);
        struct sonde_request r = request_of(a[i], TOKENS, 0);
        r.generation.ignore_end = 1;
        submit(s, a[i], &r);
    }
    uint64_t most = 0;
    do {
        sonde_scheduler_status(s, &status);
        assert_true(status.cache_pages_used <= status.cache_pages);
        most = status.active > most ? status.active : most;
    } while (sonde_scheduler_step(s));
    sonde_scheduler_status(s, &status);
    assert_true(most > 1);
    assert_true(most < REQUESTS);
    assert_true(status.preempted > 0);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(a[i]->done, 1);
        assert_int_equal(a[i]->code, 0);
        assert_int_equal(a[i]->drawn_count, TOKENS);
        free(a[i]);
    }
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

/* Alone it may outgrow all there is: then it ends with what it has, and says why. */
static void test_memory__one_that_outgrows_all(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, 256, 900 << 10);
    sonde_scheduler *s = open_scheduler(m, 4, 0, 0);
    struct sonde_scheduler_status status;
    struct sonde_error e;
    sonde_scheduler_step(s);
    sonde_scheduler_status(s, &status);
    struct asked *a = ask(1, status.cache_pages * 128 - 5);
    struct sonde_request r = request_of(a, 0, 0);
    r.generation.ignore_end = 1;
    submit(s, a, &r);
    run_all(s);
    assert_int_equal(a->done, 1);
    assert_int_equal(a->code, SONDE_ERROR_MEMORY);
    assert_non_null(strstr(a->error.message, "the cache is full"));
    assert_int_equal(a->drawn_count, 6);
    a->count += 6;
    r = request_of(a, 0, 0);
    assert_int_equal(sonde_scheduler_submit(s, &r, &a->id, &e), SONDE_ERROR_MEMORY);
    free(a);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

/* --------------------------------------------------------------------------------------------- ends */

static void test_cancel__wherever_it_is(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, 64, 0);
    sonde_scheduler *s = open_scheduler(m, 2, 0, 0);
    struct asked *writing = ask(1, 3), *reading = ask(2, 3000), *waiting = ask(3, 3), *by_itself = ask(4, 3);
    struct sonde_request r = request_of(writing, 1000, 1);
    submit(s, writing, &r);
    r = request_of(reading, 10, 1);
    submit(s, reading, &r);
    r = request_of(waiting, 10, 1);
    submit(s, waiting, &r);
    sonde_scheduler_step(s);
    sonde_scheduler_cancel(s, writing->id);
    sonde_scheduler_cancel(s, reading->id);
    sonde_scheduler_cancel(s, waiting->id);
    sonde_scheduler_cancel(s, 12345);
    sonde_scheduler_step(s);
    struct asked *all[] = {writing, reading, waiting};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(all[i]->done, 1);
        assert_int_equal(all[i]->result.finish, SONDE_FINISH_CANCELLED);
    }
    by_itself->stop_after = 4; /* by its callback */
    r = request_of(by_itself, 100, 1);
    submit(s, by_itself, &r);
    run_all(s);
    assert_int_equal(by_itself->drawn_count, 4);
    assert_int_equal(by_itself->result.finish, SONDE_FINISH_CANCELLED);
    for (int i = 0; i < 3; i++)
        free(all[i]);
    free(by_itself);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

static void test_close__cancels_what_is_left(void **state) {
    (void)state;
    sonde_model *m = open_model(NULL, 64, 0);
    sonde_scheduler *s = open_scheduler(m, 1, 0, 0);
    struct asked *a = ask(1, 3), *b = ask(2, 3);
    struct sonde_request r = request_of(a, 1000, 1);
    submit(s, a, &r);
    r = request_of(b, 1000, 1);
    submit(s, b, &r);
    sonde_scheduler_step(s);
    sonde_scheduler_close(s);
    assert_int_equal(a->done, 1);
    assert_int_equal(b->done, 1);
    assert_int_equal(b->result.finish, SONDE_FINISH_CANCELLED);
    free(a);
    free(b);
    sonde_model_close(m);
}

static void test_options__out_of_range(void **state) {
    (void)state;
    static const struct {
        struct sonde_scheduler_options options;
        const char *says;
    } wrong[] = {{{0, 0, 4}, "drafts is 4"}, {{0, 65, 0}, "step_tokens is 65"}};
    sonde_model *m = open_model(NULL, 64, 0);
    for (int i = 0; i < 2; i++) {
        sonde_scheduler *s;
        struct sonde_error e;
        assert_int_equal(sonde_scheduler_open(m, &wrong[i].options, &s, &e), SONDE_ERROR_ARGUMENT);
        assert_non_null(strstr(e.message, wrong[i].says));
    }
    sonde_scheduler *s = open_scheduler(m, 0, 0, 0);
    struct asked *a = ask(1, 3);
    struct sonde_request r = request_of(a, 1, 1);
    struct sonde_error e;
    r.count = 0;
    assert_int_equal(sonde_scheduler_submit(s, &r, &a->id, &e), SONDE_ERROR_ARGUMENT);
    r.count = 3;
    a->prompt[1] = VOCAB;
    assert_int_equal(sonde_scheduler_submit(s, &r, &a->id, &e), SONDE_ERROR_ARGUMENT);
    assert_non_null(strstr(e.message, "token id 256"));
    sonde_scheduler_close(s);
    free(a);
    sonde_model_close(m);
}

/* ------------------------------------------------------------------------------------------ threads */

static void *step_on(void *context) {
    while (sonde_scheduler_wait(context))
        sonde_scheduler_step(context);
    return NULL;
}

static void test_threads__submit_while_it_steps(void **state) {
    (void)state;
    enum { REQUESTS = 40 };
    sonde_model *m = open_model(NULL, 64, 0);
    sonde_scheduler *s = open_scheduler(m, 8, 0, 0);
    struct asked *a[REQUESTS];
    struct sonde_scheduler_status status;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, step_on, s), 0);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        a[i] = ask(i, 1 + i % 7);
        struct sonde_request r = request_of(a[i], 20, 1);
        submit(s, a[i], &r);
        if (i % 5 == 0)
            sonde_scheduler_cancel(s, a[i]->id);
    }
    do
        sonde_scheduler_status(s, &status);
    while (status.waiting + status.active);
    sonde_scheduler_stop(s);
    pthread_join(thread, NULL);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(a[i]->done, 1);
        assert_int_equal(a[i]->code, 0);
        free(a[i]);
    }
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

/* ----------------------------------------------------------------------------------------------- hooks */

struct hooked {
    struct asked *asked;
    uint32_t bits[VOCAB / 32];
    uint64_t shown;
    float *rows; /* logits of the prompt, to compare with */
    float worst;
};

static const uint32_t *only_these(void *context) {
    struct hooked *h = context;
    return h->bits;
}

static int hooked_token(void *context, int32_t id, const float *logits) {
    struct hooked *h = context;
    assert_true(h->bits[id / 32] >> id % 32 & 1);
    for (int32_t i = 0; i < VOCAB; i++) /* greedy: the likeliest that may be */
        assert_false((h->bits[i / 32] >> i % 32 & 1) && logits[i] > logits[id]);
    return take_token(h->asked, id, logits);
}

static void hooked_done(void *context, int code, const struct sonde_generated *result,
                        const struct sonde_error *error) {
    struct hooked *h = context;
    take_done(h->asked, code, result, error);
}

static void hooked_prompt(void *context, uint64_t position, const float *logits) {
    struct hooked *h = context;
    assert_int_equal(position, h->shown++);
    for (uint32_t i = 0; i < VOCAB; i++) {
        float off = logits[i] - h->rows[position * VOCAB + i];
        h->worst = off > h->worst ? off : -off > h->worst ? -off : h->worst;
    }
}

static int keep_row(void *context, uint64_t position, const float *logits) {
    struct hooked *h = context;
    memcpy(h->rows + position * VOCAB, logits, VOCAB * sizeof(*logits));
    return 0;
}

static void check_allowed(uint32_t drafts) {
    sonde_model *m = open_model("c", 64, 0);
    sonde_scheduler *s = open_scheduler(m, 4, 0, drafts);
    struct asked *other = ask(2, 30);
    struct hooked h = {.asked = ask(1, 40), .bits = {1u << 5 | 1u << 9, 0, 1u << 31}};
    struct sonde_request r = request_of(h.asked, 30, 0), plain = request_of(other, 30, 0);
    r.generation.context = &h;
    r.generation.progress = NULL;
    r.generation.allowed = only_these;
    r.generation.token = hooked_token;
    r.done = hooked_done;
    submit(s, h.asked, &r);
    submit(s, other, &plain);
    run_all(s);
    assert_int_equal(h.asked->drawn_count, 30);
    free(h.asked);
    free(other);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

static void test_allowed__nothing_else_is_drawn(void **state) {
    (void)state;
    check_allowed(0);
    check_allowed(3);
}

static void test_prompt__shows_the_logits_of_every_token(void **state) {
    (void)state;
    sonde_model *m = open_model("c", 32, 0);
    sonde_scheduler *s = open_scheduler(m, 4, 0, 0);
    struct hooked h = {.asked = ask(3, 150), .rows = malloc(150 * VOCAB * sizeof(float))};
    assert_non_null(h.rows);
    struct sonde_observer observer = {.context = &h, .logits = keep_row};
    sonde_session *session = NULL;
    CHECKED(sonde_session_open(m, NULL, &session, &error));
    CHECKED(sonde_session_observe(session, h.asked->prompt, h.asked->count, &observer, &error));
    struct sonde_request r = request_of(h.asked, 3, 0);
    r.generation.context = &h;
    r.generation.progress = NULL;
    r.generation.token = NULL;
    r.generation.prompt = hooked_prompt;
    r.done = hooked_done;
    submit(s, h.asked, &r);
    run_all(s);
    assert_int_equal(h.shown, 150);
    assert_true(h.worst == 0);
    h.shown = 0;
    sonde_session_reset(session);
    CHECKED(sonde_generate(session, h.asked->prompt, h.asked->count, &r.generation, NULL, &error));
    assert_int_equal(h.shown, 150);
    sonde_session_close(session);
    free(h.rows);
    free(h.asked);
    sonde_scheduler_close(s);
    sonde_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together__as_alone),
        cmocka_unit_test(test_together__as_alone_when_drawn_by_chance),
        cmocka_unit_test(test_together__as_alone_at_the_best_level),
        cmocka_unit_test(test_drafts__change_nothing),
        cmocka_unit_test(test_reuse__of_what_others_have_read),
        cmocka_unit_test(test_fairness__a_prompt_stalls_no_answer),
        cmocka_unit_test(test_fairness__prompts_share_steps),
        cmocka_unit_test(test_memory__who_finds_none_waits),
        cmocka_unit_test(test_memory__one_that_outgrows_all),
        cmocka_unit_test(test_cancel__wherever_it_is),
        cmocka_unit_test(test_close__cancels_what_is_left),
        cmocka_unit_test(test_options__out_of_range),
        cmocka_unit_test(test_threads__submit_while_it_steps),
        cmocka_unit_test(test_allowed__nothing_else_is_drawn),
        cmocka_unit_test(test_prompt__shows_the_logits_of_every_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
