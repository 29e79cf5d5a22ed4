/* test_train_state.c - states of runs: every bit comes back, and nothing from a file that is damaged or another's. */
#include <fcntl.h>

#include "train_scratch.h"

#include "train/run_internal.h"

enum { VOCAB = 11, ACTIVE = 2, EXPERTS = 4, HASHED = 2 };

/* A run of four parameters: with both moments, one, none, and rows that are counted. */
struct run {
    struct shape shape;
    struct engram_plan plan;
    struct net_f32 net;
    struct learner learner;
    struct run_numbers numbers;
    struct moments moments[4];
    float m[4][60], v[4][60];
    uint32_t steps[7];
    int32_t tables[HASHED * VOCAB * ACTIVE];
    int64_t token_map[VOCAB], multipliers[2 * 3], sizes[2 * 4];
    uint32_t engram_layers[2];
};

static void fill(void *to, size_t bytes, struct rng *r) {
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = (uint8_t)rng_u64(r);
}

/* Everything of it by chance, NaN among the floats. */
static void shake(struct run *r, uint64_t seed) {
    struct rng rng;
    rng_init(&rng, seed);
    fill(&r->numbers, sizeof(r->numbers), &rng);
    fill(r->net.params.values, r->net.params.numbers * sizeof(float), &rng);
    fill(r->m, sizeof(r->m), &rng);
    fill(r->v, sizeof(r->v), &rng);
    fill(r->steps, sizeof(r->steps), &rng);
    for (size_t i = 0; i < COUNT_OF(r->tables); i++)
        r->tables[i] = (int32_t)(rng_u64(&rng) % EXPERTS);
}

static void run_open(struct run *r, bool engram) {
    *r = (struct run){.shape = {.vocab = VOCAB, .active = ACTIVE, .experts = EXPERTS, .hash_layers = HASHED}};
    r->plan = (struct engram_plan){.token_map = r->token_map, .multipliers = r->multipliers, .sizes = r->sizes};
    for (size_t i = 0; i < COUNT_OF(r->sizes); i++)
        r->sizes[i] = 5 + (int64_t)i;
    for (size_t i = 0; i < VOCAB; i++)
        r->token_map[i] = (int64_t)(i / 2);
    if (engram)
        r->shape.engram = (struct engram_shape){.count = 2, .layers = r->engram_layers, .orders = 3, .heads = 2};
    r->net = (struct net_f32){.shape = r->shape, .plan = engram ? &r->plan : NULL, .tables = r->tables};
    CHECKED(params_init_f32(&r->net.params, 4, &error));
    params_add_f32(&r->net.params, PARAM_ADAM, FORM_BF16, 1, 5, 4, "embed.weight");
    params_add_f32(&r->net.params, PARAM_MUON, FORM_FP4, 3, 4, 5, "layers.0.ffn.experts.#.w1.weight");
    params_add_f32(&r->net.params, PARAM_FIXED, FORM_F32, 1, 1, 7, "layers.0.ffn.gate.bias");
    params_add_f32(&r->net.params, PARAM_TABLE, FORM_FP8, 1, 7, 2, "table.weight");
    CHECKED(params_place_f32(&r->net.params, &error));
    r->learner = (struct learner){.net = &r->net, .moments = r->moments};
    r->moments[0] = (struct moments){.m = r->m[0], .v = r->v[0]};
    r->moments[1] = (struct moments){.m = r->m[1]};
    r->moments[3] = (struct moments){.m = r->m[3], .v = r->v[3], .steps = r->steps};
}

static void run_close(struct run *r) {
    params_release_f32(&r->net.params);
}

static void save(const struct run *r) {
    CHECKED(state_save(scratch_path("state"), &r->numbers, &r->net, &r->learner, &error));
}

static int load(struct run *r, struct sonde_error *e) {
    return state_load(scratch_path("state"), &r->numbers, &r->net, &r->learner, e);
}

/* All that a state holds of a run as bytes. */
static void snapshot(const struct run *r, struct buf *b) {
    buf_append(b, &r->numbers, sizeof(r->numbers));
    for (size_t i = 0; i < r->net.params.count; i++) {
        const struct param_f32 *p = &r->net.params.list[i];
        size_t bytes = param_count_f32(p) * sizeof(float);
        buf_append(b, p->value, bytes);
        if (r->moments[i].m)
            buf_append(b, r->moments[i].m, bytes);
        if (r->moments[i].v)
            buf_append(b, r->moments[i].v, bytes);
    }
    buf_append(b, r->steps, sizeof(r->steps));
    buf_append(b, r->tables, sizeof(r->tables));
    assert_false(b->failed);
}

static bool same(const struct run *r, const struct buf *before) {
    struct buf now = {0};
    snapshot(r, &now);
    bool equal = now.len == before->len && memcmp(now.data, before->data, now.len) == 0;
    buf_release(&now);
    return equal;
}

static void comes_back(bool engram) {
    struct run r;
    struct buf before = {0};
    run_open(&r, engram);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        buf_clear(&before);
        shake(&r, seed);
        snapshot(&r, &before);
        save(&r);
        shake(&r, seed + 100);
        assert_false(same(&r, &before));
        CHECKED(load(&r, &error));
        assert_true(same(&r, &before));
    }
    buf_release(&before);
    run_close(&r);
}

static void test_state__comes_back_to_the_bit(void **state) {
    (void)state;
    comes_back(true);
    comes_back(false);
}

static void test_state__gives_its_plan(void **state) {
    (void)state;
    struct run r;
    struct engram_plan plan;
    run_open(&r, true);
    save(&r);
    CHECKED(state_plan(scratch_path("state"), &r.shape, &plan, &error));
    assert_memory_equal(plan.token_map, r.token_map, sizeof(r.token_map));
    assert_memory_equal(plan.multipliers, r.multipliers, sizeof(r.multipliers));
    assert_memory_equal(plan.sizes, r.sizes, sizeof(r.sizes));
    assert_false(plan.biases);
    engram_plan_release(&plan);
    strcpy(r.net.params.list[2].name, "layers.0.engram.value_proj.bias");
    save(&r);
    CHECKED(state_plan(scratch_path("state"), &r.shape, &plan, &error));
    assert_true(plan.biases);
    engram_plan_release(&plan);
    r.shape.engram.count = 0;
    CHECKED(state_plan(scratch_path("no such file"), &r.shape, &plan, &error));
    assert_null(plan.token_map);
    run_close(&r);
}

/* Loading fails so, and changes nothing. */
static void refused(struct run *r, const char *message) {
    struct sonde_error e = {0};
    struct buf before = {0};
    char text[400];
    shake(r, 7);
    snapshot(r, &before);
    assert_int_equal(load(r, &e), SONDE_ERROR_FORMAT);
    snprintf(text, sizeof(text), "%.100s: %.200s", scratch_path("state"), message);
    assert_string_equal(e.message, text);
    assert_true(same(r, &before));
    buf_release(&before);
}

static void test_state__of_another_config_is_refused(void **state) {
    (void)state;
    struct run r;
    run_open(&r, true);
    save(&r);
    r.moments[1].v = r.v[1];
    refused(&r, "tensor v.layers.0.ffn.experts.#.w1.weight is not there: a state of another config");
    r.moments[1].v = NULL;
    r.moments[0].v = NULL;
    refused(&r, "16 tensors, expected 15: a state of another config");
    r.moments[0].v = r.v[0];
    r.net.params.list[0].rows = 4;
    r.net.params.list[0].cols = 5;
    refused(&r, "tensor value.embed.weight has another dtype or shape: a state of another config");
    r.net.params.list[0].rows = 5;
    r.net.params.list[0].cols = 4;
    r.sizes[3]++;
    refused(&r, "tensor plan.sizes is not that of this run");
    r.sizes[3]--;
    r.tables[5] = EXPERTS;
    save(&r);
    refused(&r, "tensor tables: 4 is not an expert");
    run_close(&r);
}

static void refused_unchanged(struct run *r, const struct buf *before, size_t at) {
    struct sonde_error e = {0};
    if (load(r, &e) == 0)
        fail_msg("byte %zu may be another, or the last", at);
    assert_int_equal(e.code, SONDE_ERROR_FORMAT);
    assert_true(e.message[0] && same(r, before));
}

/* The file with each byte changed, then cut before each byte. Written in place: no waiting for the disk. */
static void test_state__damaged_is_refused(void **state) {
    (void)state;
    struct run r;
    struct buf file = {0}, before = {0};
    run_open(&r, true);
    shake(&r, 1);
    save(&r);
    CHECKED(file_read(scratch_path("state"), 1 << 20, &file, &error));
    shake(&r, 2);
    snapshot(&r, &before);
    int fd = open(scratch_path("state"), O_WRONLY);
    for (size_t i = 0; i < file.len; i++) {
        char changed = file.data[i] ^ 0x10;
        assert_int_equal(pwrite(fd, &changed, 1, (off_t)i), 1);
        refused_unchanged(&r, &before, i);
        assert_int_equal(pwrite(fd, &file.data[i], 1, (off_t)i), 1);
    }
    CHECKED(load(&r, &error));
    shake(&r, 2);
    for (size_t i = file.len; i-- > 0;) {
        assert_int_equal(ftruncate(fd, (off_t)i), 0);
        refused_unchanged(&r, &before, i);
    }
    close(fd);
    buf_release(&file);
    buf_release(&before);
    run_close(&r);
}

static void test_state__names_the_damaged_tensor(void **state) {
    (void)state;
    struct run r;
    struct buf file = {0};
    struct safetensors *s;
    run_open(&r, true);
    save(&r);
    CHECKED(safetensors_open(scratch_path("state"), &s, &error));
    size_t at = safetensors_find(s, "m.table.weight")->offset;
    safetensors_close(s);
    CHECKED(file_read(scratch_path("state"), 1 << 20, &file, &error));
    file.data[at + 9] ^= 1;
    CHECKED(file_write(scratch_path("state"), file.data, file.len, &error));
    refused(&r, "tensor m.table.weight: its hash is not that of its bytes, so the state is damaged");
    buf_release(&file);
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state__comes_back_to_the_bit),        cmocka_unit_test(test_state__gives_its_plan),
        cmocka_unit_test(test_state__of_another_config_is_refused), cmocka_unit_test(test_state__damaged_is_refused),
        cmocka_unit_test(test_state__names_the_damaged_tensor),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
