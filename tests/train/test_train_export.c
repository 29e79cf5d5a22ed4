/*
 * test_train_export.c - a network on disk: its tensors are those of the oracle's checkpoint of the same config, each
 * decodes to what rounding let the passes use, and the library and the oracle find the loss that training finds.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "train_scratch.h"

#include "train/run_internal.h"

/* Every kind of layer, Engram and multi-token prediction. */
#define GOLDEN "tests/golden/flash-engram"

enum { TOKENS = 200 };

struct model {
    struct checkpoint *golden; /* whose shape it has */
    json_t *config;
    struct engram_plan plan;
    struct net_f32 net;
};

static json_t *read_json(const char *path) {
    struct buf b = {0};
    json_t *json = NULL;
    CHECKED(file_read(path, SIZE_MAX, &b, &error));
    CHECKED(json_parse(b.data, b.len, path, &json, &error));
    buf_release(&b);
    return json;
}

/* What roundings find hard: a block of zeros, negative zeros, ties, what is tiny or huge beside the rest. */
static void make_awkward(const struct param_f32 *p, struct rng *r) {
    static const float odd[] = {0,     -0.0f, 1e-30f, -1e-20f, 0.4375f, 0.21875f,
                                1.25f, -2.5f, 5,      3.5f,    0x1p-9f, 0x1.8p-9f};
    size_t count = param_count_f32(p), zeros = min_u64(count / 2, 64);
    for (size_t i = 0; i < count; i += 1 + rng_u64(r) % 97)
        p->value[i] *= (float)exp(4 * rng_unit(r) - 2);
    for (size_t i = 0; i < COUNT_OF(odd) && i < count; i++)
        p->value[count - 1 - i] = odd[i];
    memset(p->value, 0, zeros * sizeof(float));
}

static void model_make(struct model *m) {
    struct rng r;
    CHECKED(checkpoint_open(GOLDEN, &m->golden, &error));
    CHECKED(engram_plan_load(m->golden, &m->plan, &error));
    CHECKED(net_init_f32(&m->net, checkpoint_shape(m->golden), &m->plan, &error));
    CHECKED(net_place_f32(&m->net, &error));
    net_start_f32(&m->net, 3);
    m->config = read_json(GOLDEN "/config.json");
    rng_init(&r, 4);
    for (size_t i = 0; i < m->net.params.count; i++) {
        const struct param_f32 *p = &m->net.params.list[i];
        for (size_t k = 0; p->kind == PARAM_STILL && k < param_count_f32(p); k++)
            p->value[k] += (float)(0.2 * rng_unit(&r) - 0.1);
    }
}

static void model_release(struct model *m) {
    net_release_f32(&m->net);
    engram_plan_release(&m->plan);
    checkpoint_close(m->golden);
    json_decref(m->config);
}

static void round_with(struct rounding *r, uint32_t workers, struct net_f32 *net) {
    struct team *team = NULL;
    CHECKED(team_open(workers, &team, &error));
    CHECKED(rounding_update(r, team, net, &error));
    team_close(team);
}

/* ------------------------------------------------------------------------------------------ tensors */

static void test_export__writes_the_tensors_of_the_official_layout(void **state) {
    (void)state;
    struct model m;
    struct checkpoint *c = NULL;
    model_make(&m);
    CHECKED(export_model(&m.net, m.config, scratch_directory, &error));
    CHECKED(checkpoint_open(scratch_directory, &c, &error));
    /* all but the scale of Engram's table, which the golden one stores as BF16 */
    assert_int_equal(checkpoint_count(c), checkpoint_count(m.golden) + 1);
    for (size_t i = 0; i < checkpoint_count(m.golden); i++) {
        const struct tensor *expected = checkpoint_at(m.golden, i), *t = checkpoint_find(c, expected->name);
        if (!t)
            fail_msg("%s is missing", expected->name);
        bool table = strstr(t->name, "multi_head_embedding") != NULL;
        assert_string_equal(t->spelled, expected->spelled);
        assert_int_equal(t->dtype, table ? DTYPE_F8_E4M3 : expected->dtype);
        assert_int_equal(t->rank, expected->rank);
        assert_memory_equal(t->dims, expected->dims, t->rank * sizeof(*t->dims));
        assert_int_equal(t->offset % dtype_bytes(t->dtype), 0);
    }
    checkpoint_close(c);
    model_release(&m);
}

/* Compares what a checkpoint gives with what the passes use. */
static void check_values(const struct net_f32 *loaded, const struct net_f32 *net) {
    for (size_t i = 0; i < net->params.count; i++) {
        const struct param_f32 *p = &net->params.list[i], *q = &loaded->params.list[i];
        for (size_t k = 0; k < param_count_f32(p); k++)
            if (memcmp(&q->value[k], &p->use[k], sizeof(float)) != 0)
                fail_msg("%s: number %zu was %.9g, is used as %.9g and came back as %.9g", p->name, k,
                         (double)p->value[k], (double)p->use[k], (double)q->value[k]);
    }
}

static void test_rounding__is_what_a_checkpoint_gives_back(void **state) {
    (void)state;
    struct model m;
    struct checkpoint *c = NULL;
    struct engram_plan plan;
    struct net_f32 loaded;
    struct rounding rounding = {0};
    struct rng r;
    model_make(&m);
    rng_init(&r, 8);
    for (size_t i = 0; i < m.net.params.count; i++)
        make_awkward(&m.net.params.list[i], &r);
    round_with(&rounding, 2, &m.net);
    CHECKED(export_model(&m.net, m.config, scratch_directory, &error));
    CHECKED(checkpoint_open(scratch_directory, &c, &error));
    CHECKED(engram_plan_load(c, &plan, &error));
    CHECKED(net_init_f32(&loaded, checkpoint_shape(c), &plan, &error));
    CHECKED(net_place_f32(&loaded, &error));
    CHECKED(net_load_f32(&loaded, c, &error));
    check_values(&loaded, &m.net);
    const struct shape *s = &m.net.shape;
    assert_memory_equal(loaded.tables, m.net.tables, (size_t)s->hash_layers * s->vocab * s->active * sizeof(int32_t));
    assert_memory_equal(plan.token_map, m.plan.token_map, s->vocab * sizeof(int64_t));
    assert_memory_equal(plan.multipliers, m.plan.multipliers, s->engram.orders * sizeof(int64_t));
    assert_memory_equal(plan.sizes, m.plan.sizes, (size_t)(s->engram.orders - 1) * s->engram.heads * sizeof(int64_t));
    rounding_release(&rounding, &m.net);
    net_release_f32(&loaded);
    engram_plan_release(&plan);
    checkpoint_close(c);
    model_release(&m);
}

/* Values that a form stores already come back as they are, and follow the value once it changes. */
static void test_rounding__again_changes_nothing(void **state) {
    (void)state;
    struct model m;
    struct rounding rounding = {0};
    model_make(&m);
    round_with(&rounding, 1, &m.net);
    for (size_t i = 0; i < m.net.params.count; i++) {
        const struct param_f32 *p = &m.net.params.list[i];
        assert_true((p->use == p->value) == (p->form == FORM_F32));
        if (p->form != FORM_F32)
            memcpy(p->value, p->use, param_count_f32(p) * sizeof(float));
    }
    round_with(&rounding, 3, &m.net);
    for (size_t i = 0; i < m.net.params.count; i++) {
        const struct param_f32 *p = &m.net.params.list[i];
        assert_memory_equal(p->use, p->value, param_count_f32(p) * sizeof(float));
    }
    m.net.embed->value[7] = 0.3f;
    round_with(&rounding, 2, &m.net);
    assert_true(m.net.embed->use[7] == bf16_round(0.3f));
    rounding_release(&rounding, &m.net);
    for (size_t i = 0; i < m.net.params.count; i++)
        assert_true(m.net.params.list[i].use == m.net.params.list[i].value);
    model_release(&m);
}

/* ------------------------------------------------------------------------------------------ encoder */

/* Codes are those of number.h, under the smallest scale that holds the block. */
static void check_encoder(enum param_form form, uint32_t rows, uint32_t cols, float most, struct rng *r) {
    const struct shape shape = {.fp8_block_rows = 128, .fp8_block_cols = 128};
    const struct param_f32 p = {.form = form, .stack = 1, .rows = rows, .cols = cols};
    struct matrix m = stored_form(&shape, &p, rows);
    float *x = malloc((size_t)rows * cols * sizeof(*x)), top = form == FORM_FP8 ? 448 : 6;
    uint8_t *to = malloc(matrix_bytes(&m));
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        x[i] = most * (float)((2 * rng_unit(r) - 1) * exp2(-12 * rng_unit(r)));
    stored_encode(&m, x, to);
    const uint8_t *codes = m.data, *scales = m.scale;
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t j = 0; j < cols; j++) {
            size_t at = (size_t)i * cols + j;
            float scale = e8m0_decode(scales[i / m.block_rows * m.scale_cols + j / m.block_cols]);
            uint8_t code = form == FORM_FP8 ? codes[at] : codes[at / 2] >> 4 * (at % 2) & 15;
            assert_int_equal(code, form == FORM_FP8 ? e4m3_encode(x[at] / scale) : e2m1_encode(x[at] / scale));
            assert_true(fabsf(x[at]) <= top * scale);
        }
    for (size_t i = 0; i < ceil_div(rows, m.block_rows) * m.scale_cols; i++) {
        float largest = 0;
        uint32_t first = (uint32_t)(i / m.scale_cols) * m.block_rows,
                 left = (uint32_t)(i % m.scale_cols) * m.block_cols;
        for (uint32_t a = first; a < first + m.block_rows && a < rows; a++)
            for (uint32_t b = left; b < left + m.block_cols && b < cols; b++)
                largest = fmaxf(largest, fabsf(x[(size_t)a * cols + b]));
        assert_true(largest > top * e8m0_decode(scales[i]) / 2);
    }
    free(x);
    free(to);
}

static void test_encoder__gives_the_nearest_codes(void **state) {
    (void)state;
    static const float most[] = {1, 448, 6, 0.3f, 1e-9f, 1e30f};
    struct rng r;
    rng_init(&r, 12);
    for (size_t i = 0; i < COUNT_OF(most); i++) {
        check_encoder(FORM_FP8, 128, 256, most[i], &r);
        check_encoder(FORM_FP8, 130, 131, most[i], &r);
        check_encoder(FORM_FP8, 1, 1, most[i], &r);
        check_encoder(FORM_FP4, 5, 96, most[i], &r);
    }
}

/* Floats of either sign near all codes and ties, up to `top`, in blocks whose scale is 1. */
static void check_codes(enum param_form form, uint32_t cols, float top) {
    const struct shape shape = {.fp8_block_rows = 128, .fp8_block_cols = 128};
    const struct param_f32 p = {.form = form, .cols = cols};
    struct matrix m = stored_form(&shape, &p, 1);
    uint8_t to[160];
    float x[128];
    for (uint32_t at = 0, end = float_bits(top) >> 12; at < end; at += cols - 1) {
        for (uint32_t i = 0; i + 1 < cols; i++)
            x[i] = bits_float((uint32_t)min_u64(at + i, end) << 12 | i << 31);
        x[cols - 1] = top;
        stored_encode(&m, x, to);
        for (uint32_t i = 0; i < cols; i++)
            if (form == FORM_FP8)
                assert_int_equal(to[i], e4m3_encode(x[i]));
            else
                assert_int_equal(to[i / 2] >> i % 2 * 4 & 15, e2m1_encode(x[i]));
    }
}

static void test_encoder__gives_every_code(void **state) {
    (void)state;
    check_codes(FORM_FP8, 128, 448);
    check_codes(FORM_FP4, 32, 6);
}

/* Negative zeros too; and what is beyond the least scale becomes zero. */
static void test_encoder__blocks_of_zeros_stay(void **state) {
    (void)state;
    const struct shape shape = {.fp8_block_rows = 128, .fp8_block_cols = 128};
    static const enum param_form forms[] = {FORM_FP8, FORM_FP4};
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        const struct param_f32 p = {.form = forms[i], .cols = 128};
        struct matrix m = stored_form(&shape, &p, 1);
        const float x[128] = {[3] = -0.0f, [4] = 1e-38f, [70] = 1e-44f};
        float y[128];
        uint8_t to[160];
        stored_encode(&m, x, to);
        matrix_decode(&m, 0, 0, 128, y);
        for (size_t k = 0; k < 128; k++)
            assert_true(y[k] == 0 && !signbit(y[k]) == (k != 3));
        assert_true(*(const uint8_t *)m.scale > 0 && *(const uint8_t *)m.scale < 127);
    }
}

static void test_encoder__blocks_that_are_not_finite_are_nan(void **state) {
    (void)state;
    const struct shape shape = {.fp8_block_rows = 128, .fp8_block_cols = 128};
    static const enum param_form forms[] = {FORM_FP8, FORM_FP4};
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < COUNT_OF(forms) * COUNT_OF(bad); i++) {
        const struct param_f32 p = {.form = forms[i / 3], .cols = 256};
        struct matrix m = stored_form(&shape, &p, 1);
        float x[256] = {[5] = bad[i % 3], [250] = 1}, y[256];
        uint8_t to[300];
        stored_encode(&m, x, to);
        matrix_decode(&m, 0, 0, 256, y);
        assert_true(isnan(y[0]) && isnan(y[5]) && y[250] == 1);
    }
}

/* ------------------------------------------------------------------------------------------- config */

static void test_export__the_config_says_how_weights_are_stored(void **state) {
    (void)state;
    struct model m;
    model_make(&m);
    json_t *golden = json_deep_copy(m.config);
    json_object_del(m.config, "torch_dtype");
    json_object_del(m.config, "expert_dtype");
    json_object_set_new(m.config, "quantization_config", json_string("none"));
    json_t *given = json_deep_copy(m.config);
    CHECKED(export_model(&m.net, m.config, scratch_directory, &error));
    json_t *config = read_json(scratch_path("config.json"));
    assert_true(json_equal(config, golden));
    assert_true(json_equal(m.config, given));
    json_decref(golden);
    json_decref(given);
    json_decref(config);
    model_release(&m);
}

/* --------------------------------------------------------------------------------------------- loss */

struct losses {
    double next, after_next;
};

static void make_ids(int32_t *ids) {
    struct rng r;
    rng_init(&r, 5);
    for (size_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(rng_u64(&r) % 256);
}

/* Of rounded weights, as training does. */
static struct losses loss_of_network(struct net_f32 *net) {
    struct team *team = NULL;
    struct step_f32 *step = NULL;
    struct rounding rounding = {0};
    int32_t ids[TOKENS], targets[TOKENS];
    struct segment all = {0, TOKENS};
    struct batch batch = {TOKENS, ids, targets, &all, 1};
    make_ids(ids);
    memcpy(targets, ids + 1, (TOKENS - 1) * sizeof(*ids));
    targets[TOKENS - 1] = -1;
    round_with(&rounding, 2, net);
    net->options.mtp_weight = 1;
    CHECKED(team_open(2, &team, &error));
    CHECKED(step_new_f32(net, TOKENS, 1, false, &step, &error));
    struct step_losses l = step_run_f32(team, step, net, &batch, 1, 1, false);
    assert_int_equal(l.targets, TOKENS - 1);
    assert_int_equal(l.mtp_targets, TOKENS - 2);
    step_free_f32(step);
    team_close(team);
    rounding_release(&rounding, net);
    return (struct losses){l.loss, l.mtp};
}

struct summed {
    int32_t ids[TOKENS];
    struct losses losses;
};

static double cross_entropy(const float *logits, int32_t target) {
    double most = (double)logits[0], sum = 0;
    for (uint32_t i = 0; i < 256; i++)
        most = fmax(most, (double)logits[i]);
    for (uint32_t i = 0; i < 256; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum) - (double)logits[target];
}

static int add_next(void *context, uint64_t position, const float *logits) {
    struct summed *s = context;
    if (position + 1 < TOKENS)
        s->losses.next += cross_entropy(logits, s->ids[position + 1]);
    return 0;
}

static int add_after_next(void *context, uint64_t position, const float *logits) {
    struct summed *s = context;
    if (position + 2 < TOKENS)
        s->losses.after_next += cross_entropy(logits, s->ids[position + 2]);
    return 0;
}

static struct losses loss_of_library(const char *path) {
    struct sonde_model_options options;
    struct sonde_session_options how;
    struct summed s = {.losses = {0, 0}};
    struct sonde_observer observer = {.context = &s, .logits = add_next, .mtp = add_after_next};
    sonde_model *m = NULL;
    sonde_session *session = NULL;
    make_ids(s.ids);
    sonde_model_options_default(&options);
    options.precision = SONDE_PRECISION_F32;
    sonde_session_options_default(&how);
    how.mtp = 1;
    CHECKED(sonde_model_open(path, &options, &m, &error));
    CHECKED(sonde_session_open(m, &how, &session, &error));
    CHECKED(sonde_session_observe(session, s.ids, TOKENS, &observer, &error));
    sonde_session_close(session);
    sonde_model_close(m);
    return s.losses;
}

static struct losses loss_of_oracle(const char *path) {
    struct losses l;
    struct buf command = {0};
    int32_t ids[TOKENS];
    make_ids(ids);
    buf_printf(&command, "/usr/bin/python3 -B tests/oracle/print_loss.py %s", path);
    for (size_t i = 0; i < TOKENS; i++)
        buf_printf(&command, " %d", ids[i]);
    FILE *f = popen(command.data, "r");
    assert_non_null(f);
    int read = fscanf(f, "%lf %lf", &l.next, &l.after_next);
    pclose(f);
    assert_int_equal(read, 2);
    buf_release(&command);
    return l;
}

static void check_losses(struct losses a, struct losses b) {
    if (!(fabs(a.next - b.next) < 1e-3 * b.next && fabs(a.after_next - b.after_next) < 1e-3 * b.after_next))
        fail_msg("losses %.9g and %.9g, expected %.9g and %.9g", a.next, a.after_next, b.next, b.after_next);
}

static void test_export__the_library_finds_the_same_loss(void **state) {
    (void)state;
    struct model m;
    model_make(&m);
    CHECKED(export_model(&m.net, m.config, scratch_directory, &error));
    check_losses(loss_of_library(scratch_directory), loss_of_network(&m.net));
    model_release(&m);
}

static void test_export__the_oracle_finds_the_same_loss(void **state) {
    (void)state;
    struct model m;
    if (system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0)
        skip();
    model_make(&m);
    CHECKED(export_model(&m.net, m.config, scratch_directory, &error));
    check_losses(loss_of_oracle(scratch_directory), loss_of_network(&m.net));
    model_release(&m);
}

/* ---------------------------------------------------------------------------------------- refusals */

static void test_export__says_where_it_could_not_write(void **state) {
    (void)state;
    struct model m;
    struct sonde_error e;
    char full[128];
    model_make(&m);
    assert_int_equal(export_model(&m.net, m.config, "/proc/none", &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, "/proc/none/model.safetensors"));
    assert_int_equal(export_model(&m.net, m.config, GOLDEN "/config.json", &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, GOLDEN "/config.json/model.safetensors"));
    /* a full disk; the config is not written */
    strcpy(full, scratch_path("cache"));
    assert_int_equal(mkdir(full, 0700), 0);
    strcat(full, "/model.safetensors");
    assert_int_equal(symlink("/dev/full", full), 0);
    assert_int_equal(export_model(&m.net, m.config, scratch_path("cache"), &e), SONDE_ERROR_IO);
    assert_non_null(strstr(e.message, full));
    strcpy(full, scratch_path("cache"));
    strcat(full, "/config.json");
    assert_false(file_exists(full));
    model_release(&m);
}

/* One that is there stays until the new one is whole. */
static void test_export__a_failure_leaves_the_old_model(void **state) {
    (void)state;
    struct model m;
    struct sonde_error e;
    struct team *team = NULL;
    struct rounding rounding = {0};
    struct buf before = {0}, after = {0};
    static const char refusal[] = "tensor layers.0.ffn.experts.0.w1.weight has 48 columns; FP4 is stored in blocks of "
                                  "32, expected a multiple of it";
    model_make(&m);
    CHECKED(export_model(&m.net, m.config, scratch_directory, &error));
    CHECKED(file_read(scratch_path("model.safetensors"), SIZE_MAX, &before, &error));
    m.net.layers[0].w1->cols = 48;
    m.net.embed->value[0] += 1;
    assert_int_equal(export_model(&m.net, m.config, scratch_directory, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, refusal);
    CHECKED(file_read(scratch_path("model.safetensors"), SIZE_MAX, &after, &error));
    assert_int_equal(after.len, before.len);
    assert_memory_equal(after.data, before.data, before.len);
    CHECKED(team_open(1, &team, &error));
    assert_int_equal(rounding_update(&rounding, team, &m.net, &e), SONDE_ERROR_ARGUMENT);
    assert_string_equal(e.message, refusal);
    team_close(team);
    buf_release(&before);
    buf_release(&after);
    model_release(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export__writes_the_tensors_of_the_official_layout),
        cmocka_unit_test(test_rounding__is_what_a_checkpoint_gives_back),
        cmocka_unit_test(test_rounding__again_changes_nothing),
        cmocka_unit_test(test_encoder__gives_the_nearest_codes),
        cmocka_unit_test(test_encoder__gives_every_code),
        cmocka_unit_test(test_encoder__blocks_of_zeros_stay),
        cmocka_unit_test(test_encoder__blocks_that_are_not_finite_are_nan),
        cmocka_unit_test(test_export__the_config_says_how_weights_are_stored),
        cmocka_unit_test(test_export__the_library_finds_the_same_loss),
        cmocka_unit_test(test_export__the_oracle_finds_the_same_loss),
        cmocka_unit_test(test_export__says_where_it_could_not_write),
        cmocka_unit_test(test_export__a_failure_leaves_the_old_model),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
