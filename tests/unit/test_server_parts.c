/*
 * test_server_parts.c - what a server is made of, without a network: fields of requests, keys and their limits, answers
 * remembered, paths.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

#include "server/parts_internal.h"

/* -------------------------------------------------------------------------------------------- fields */

struct reading {
    struct jtree tree;
    struct refusal refusal;
    struct fields f;
};

static struct reading reading_of(const char *json) {
    struct reading r = {.refusal = {0}};
    CHECKED(jtree_parse(json, strlen(json), "test", &r.tree, &error));
    return r;
}

static void begin_reading(struct reading *r) {
    r->f = (struct fields){.object = r->tree.root, .path = "outer.", .refusal = &r->refusal};
}

static void end_refused(struct reading *r, const char *sentence) {
    assert_true(r->f.failed);
    assert_int_equal(r->refusal.status, 400);
    assert_string_equal(r->refusal.message, sentence);
    jtree_release(&r->tree);
}

static void test_fields__values(void **state) {
    (void)state;
    struct reading r = reading_of("{\"n\": 7, \"x\": 0.5, \"b\": true, \"s\": \"word\", \"null\": null}");
    begin_reading(&r);
    uint64_t n = 1, none = 3;
    float x = 0;
    bool b = false;
    const char *s = NULL;
    field_count(&r.f, "n", 0, 10, &n);
    field_count(&r.f, "null", 5, 10, &none);
    field_count(&r.f, "missing", 5, 10, &none);
    field_real(&r.f, "x", 0, 1, &x);
    field_bool(&r.f, "b", &b);
    field_string(&r.f, "s", &s);
    assert_int_equal(field_choice(&r.f, "s", "some|word|other"), 1);
    assert_int_equal(field_choice(&r.f, "missing", "some|word"), -1);
    fields_only(&r.f, "n|x|b", "s");
    assert_false(r.f.failed);
    assert_int_equal(n, 7);
    assert_int_equal(none, 3);
    assert_true(x == 0.5f && b && strcmp(s, "word") == 0);
    jtree_release(&r.tree);
}

static void test_fields__refusals_name_the_field(void **state) {
    (void)state;
    uint64_t n = 0;
    float x = 0;
    bool b = false;
    const char *s = NULL;
    static const char json[] = "{\"n\": 7.5, \"x\": 2, \"b\": 1, \"s\": \"a\\u0000b\", \"word\": \"thing\"}";
    struct reading r = reading_of(json);
    begin_reading(&r);
    field_count(&r.f, "n", 0, 10, &n);
    field_real(&r.f, "x", 0, 1, &x); /* the first stays */
    end_refused(&r, "outer.n: a whole number from 0 to 10 is expected, not 7.5");
    assert_string_equal(r.refusal.param, "outer.n");
    r = reading_of(json);
    begin_reading(&r);
    field_real(&r.f, "x", 0, 1, &x);
    end_refused(&r, "outer.x: a number from 0 to 1 is expected, not 2");
    r = reading_of(json);
    begin_reading(&r);
    field_bool(&r.f, "b", &b);
    end_refused(&r, "outer.b: a boolean is expected");
    r = reading_of(json);
    begin_reading(&r);
    field_string(&r.f, "s", &s);
    end_refused(&r, "outer.s: it holds a NUL character");
    r = reading_of(json);
    begin_reading(&r);
    field_choice(&r.f, "word", "one|two");
    end_refused(&r, "outer.word: one of one|two is expected, not \"thing\"");
    r = reading_of(json);
    begin_reading(&r);
    fields_only(&r.f, "n|x|b", "wor|words|s");
    end_refused(&r, "outer.word: this field is not supported");
}

/* ---------------------------------------------------------------------------------------------- keys */

/* Messages begin with the path, which is cut off. */
static int read_keys(const char *text, struct apikeys **keys, struct sonde_error *e) {
    char path[] = "/tmp/sonde-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    int rc = file_write(path, text, strlen(text), e);
    rc = rc ? rc : apikeys_read(path, keys, e);
    unlink(path);
    if (rc) {
        assert_memory_equal(e->message, path, strlen(path));
        memmove(e->message, e->message + strlen(path), strlen(e->message + strlen(path)) + 1);
    }
    return rc;
}

static void test_keys__are_found_by_all_of_them(void **state) {
    (void)state;
    struct apikeys *k = NULL;
    CHECKED(read_keys("# people\n\nsecret-one name=alice\n  secret-two\trequests=2 rpm=60 tpm=1000\n", &k, &error));
    struct apikey *one = apikeys_find(k, "secret-one"), *two = apikeys_find(k, "secret-two");
    assert_string_equal(apikey_name(one), "alice");
    assert_string_equal(apikey_name(two), "key-2");
    assert_null(apikeys_find(k, "secret-on"));
    assert_null(apikeys_find(k, "secret-one "));
    assert_null(apikeys_find(k, ""));
    apikeys_free(k); /* what is held stays */
    assert_string_equal(apikey_name(one), "alice");
    apikey_drop(one);
    apikey_drop(two);
    apikey_drop(NULL);
}

static void test_keys__bad_lines_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"short\n", ": line 1: a key of 8 to 256 characters is expected, not of 5"},
        {"long-enough\nlong-enough-2 rps=3\n", ": line 2: 'rps=3': name=NAME, requests=N, rpm=N or tpm=N is expected"},
        {"long-enough rpm=\n", ": line 1: 'rpm=': name=NAME, requests=N, rpm=N or tpm=N is expected"},
        {"long-enough rpm=-1\n", ": line 1: 'rpm=-1': name=NAME, requests=N, rpm=N or tpm=N is expected"},
        {"# nobody\n", ": there is no key in it"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct apikeys *k = NULL;
        struct sonde_error e;
        assert_int_equal(read_keys(cases[i].text, &k, &e), SONDE_ERROR_FORMAT);
        assert_string_equal(e.message, cases[i].sentence);
        assert_null(k);
    }
}

static void test_keys__limits(void **state) {
    (void)state;
    struct apikeys *k = NULL;
    const char *what = NULL;
    CHECKED(read_keys("at-once-2 requests=2\nminute-3 rpm=3\ntokens-100 tpm=100\n", &k, &error));
    struct apikey *once = apikeys_find(k, "at-once-2"), *minute = apikeys_find(k, "minute-3"),
                  *tokens = apikeys_find(k, "tokens-100");
    assert_true(apikey_begin(once, 0, &what) == 0 && apikey_begin(once, 0, &what) == 0);
    assert_true(apikey_begin(once, 0, &what) > 0);
    assert_string_equal(what, "requests at once");
    apikey_end(once);
    assert_true(apikey_begin(once, 0, &what) == 0);
    for (int i = 0; i < 3; i++) {
        assert_true(apikey_begin(minute, 1000, &what) == 0);
        apikey_end(minute);
    }
    double wait = apikey_begin(minute, 1000, &what);
    assert_string_equal(what, "requests a minute");
    assert_true(fabs(wait - 20) < 1e-6);
    assert_true(apikey_begin(minute, 1000 + wait + 0.01, &what) == 0);
    assert_true(apikey_begin(tokens, 0, &what) == 0);
    apikey_tokens(tokens, 0, 200); /* known only afterwards */
    wait = apikey_begin(tokens, 0, &what);
    assert_string_equal(what, "tokens a minute");
    assert_true(wait > 60 && wait < 62);
    assert_true(apikey_begin(tokens, wait, &what) == 0);
    apikey_drop(once);
    apikey_drop(minute);
    apikey_drop(tokens);
    apikeys_free(k);
}

/* -------------------------------------------------------------------------------------------- replay */

static char said[512];

static void hear(void *context, const char *line) {
    (void)context;
    snprintf(said, sizeof(said), "%s", line);
}

static struct replay *open_replay(const char *directory) {
    struct replay *r = NULL;
    said[0] = 0;
    CHECKED(replay_open(directory, hear, NULL, &r, &error));
    return r;
}

static bool knows(struct replay *r, uint64_t key, uint64_t check, int32_t first, size_t count) {
    struct buf ids = {0};
    bool found = replay_get(r, key, check, &ids);
    if (found) {
        assert_int_equal(ids.len, count * sizeof(int32_t));
        assert_int_equal(((const int32_t *)(const void *)ids.data)[0], first);
    }
    buf_release(&ids);
    return found;
}

static void put(struct replay *r, uint64_t key, uint64_t check, int32_t first, size_t count) {
    int32_t *ids = calloc(count + 1, sizeof(*ids));
    assert_non_null(ids);
    ids[0] = first;
    replay_put(r, key, check, ids, count);
    free(ids);
}

static void test_replay__is_found_unchanged_only(void **state) {
    (void)state;
    struct replay *r = open_replay(NULL);
    put(r, 1, 10, 100, 5);
    put(r, 1 + (1 << 14), 20, 200, 3); /* in the same chain */
    assert_true(knows(r, 1, 10, 100, 5));
    assert_true(knows(r, 1 + (1 << 14), 20, 200, 3));
    assert_false(knows(r, 1, 11, 0, 0));
    assert_false(knows(r, 2, 10, 0, 0));
    put(r, 1, 12, 101, 6); /* said anew */
    assert_true(knows(r, 1, 12, 101, 6));
    assert_false(knows(r, 1, 10, 0, 0));
    put(r, 7, 7, 7, 0); /* nothing was said */
    assert_false(knows(r, 7, 7, 0, 0));
    replay_close(r);
}

static void test_replay__memory_is_bounded(void **state) {
    (void)state;
    struct replay *r = open_replay(NULL);
    for (uint64_t i = 0; i < 100; i++) {
        put(r, i, i, (int32_t)i, 1 << 18);       /* a MiB each */
        assert_true(knows(r, 0, 0, 0, 1 << 18)); /* in use all the time */
    }
    assert_true(knows(r, 99, 99, 99, 1 << 18));
    assert_false(knows(r, 1, 1, 0, 0));
    replay_close(r);
}

static void make_directory(char *path) {
    strcpy(path, "/tmp/sonde-test-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static void remove_directory(const char *path) {
    char file[64];
    snprintf(file, sizeof(file), "%s/answers", path);
    unlink(file);
    rmdir(path);
}

static void test_replay__outlives_the_process(void **state) {
    (void)state;
    char path[32];
    make_directory(path);
    struct replay *r = open_replay(path);
    put(r, 1, 10, 100, 5);
    put(r, 2, 20, 200, 50);
    struct replay *second = open_replay(path); /* another process */
    assert_non_null(strstr(said, "in use by another process"));
    assert_false(knows(second, 1, 10, 0, 0));
    replay_close(second);
    replay_close(r);
    r = open_replay(path);
    assert_string_equal(said, "");
    assert_true(knows(r, 1, 10, 100, 5));
    assert_true(knows(r, 2, 20, 200, 50));
    replay_close(r);
    remove_directory(path);
}

/* Cut at every place, and with every byte changed: what is whole before is known, nothing wrong ever. */
static void test_replay__damage_is_passed_over(void **state) {
    (void)state;
    char path[32], file[64];
    struct buf whole = {0};
    make_directory(path);
    snprintf(file, sizeof(file), "%s/answers", path);
    struct replay *r = open_replay(path);
    put(r, 1, 10, 100, 3);
    put(r, 2, 20, 200, 4);
    replay_close(r);
    CHECKED(file_read(file, 1 << 20, &whole, &error));
    for (size_t i = 0; i < 2 * whole.len; i++) {
        bool cut = i < whole.len;
        size_t at = i % whole.len, first = 8 + 32 + 12; /* the first record's end */
        if (!cut)
            whole.data[at] ^= 0x20;
        CHECKED(file_write(file, whole.data, cut ? at : whole.len, &error));
        r = open_replay(path);
        assert_int_equal(knows(r, 1, 10, 100, 3), at >= first);
        assert_false(knows(r, 2, 20, 200, 4));
        put(r, 3, 30, 300, 2); /* goes on behind what is whole */
        replay_close(r);
        r = open_replay(path);
        assert_true(knows(r, 3, 30, 300, 2));
        replay_close(r);
        if (!cut)
            whole.data[at] ^= 0x20;
    }
    buf_release(&whole);
    remove_directory(path);
}

/* -------------------------------------------------------------------------------------------- routes */

static void test_routes__bases_of_many_shapes(void **state) {
    (void)state;
    static const struct {
        const char *method, *path, *found, *allow;
    } cases[] = {
        {"POST", "/v1/chat/completions", "/chat/completions", NULL},
        {"POST", "/chat/completions", "/chat/completions", NULL},
        {"POST", "/beta/completions", "/completions", NULL},
        {"POST", "/beta/v1/completions", "/completions", NULL},
        {"POST", "/anthropic/v1/messages", "/messages", NULL},
        {"POST", "/v1/messages/count_tokens", "/messages/count_tokens", NULL},
        {"GET", "/v1/models/some/name", "/models/", NULL},
        {"GET", "/v1/models", "/models", NULL},
        {"GET", "/", "/", NULL},
        {"GET", "/v1/chat/completions", NULL, "POST"},
        {"POST", "/health", NULL, "GET"},
        {"POST", "/page.css", NULL, "GET"},
        {"GET", "/v1", NULL, ""},
        {"GET", "/v1/", NULL, ""},
        {"GET", "/v1/models/", NULL, ""},
        {"GET", "/../etc/passwd", NULL, ""},
        {"GET", "/chat/completions/", NULL, ""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct buf allow = {0};
        const struct route *r = route_find(cases[i].method, cases[i].path, &allow);
        if (cases[i].found) {
            assert_non_null(r);
            assert_string_equal(r->path, cases[i].found);
        } else {
            assert_null(r);
            assert_string_equal(allow.data ? allow.data : "", cases[i].allow);
        }
        buf_release(&allow);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields__values),
        cmocka_unit_test(test_fields__refusals_name_the_field),
        cmocka_unit_test(test_keys__are_found_by_all_of_them),
        cmocka_unit_test(test_keys__bad_lines_are_named),
        cmocka_unit_test(test_keys__limits),
        cmocka_unit_test(test_replay__is_found_unchanged_only),
        cmocka_unit_test(test_replay__memory_is_bounded),
        cmocka_unit_test(test_replay__outlives_the_process),
        cmocka_unit_test(test_replay__damage_is_passed_over),
        cmocka_unit_test(test_routes__bases_of_many_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
