/*
 * test_train_net.c - the whole network: gradients of every parameter against central differences, in double, with all
 * mechanisms on; recomputation and workers change no bit.
 *
 * The indexer learns from its own loss and nothing else does, so its parameters are checked against that, all others
 * against the rest.
 */
#define TRAIN_DOUBLE

#include <stdlib.h>
#include <string.h>

#include "gradient.h"

#include "train/net_internal.h"

enum { VOCAB = 24, LAYERS = 4, SOME = 2 };

static uint32_t ratios[LAYERS + 1] = {0, 4, 8, 4, 0};
static uint32_t engram_layers[] = {1, 2};
static int64_t token_map[VOCAB], multipliers[] = {7, 11, 13, 3, 5, 9};
static int64_t sizes[] = {5, 7, 11, 13, 17, 19, 23, 29}; /* few rows, so that several tokens read one */
static struct engram_plan plan = {token_map, multipliers, sizes, .biases = true};

static struct shape small_shape(void) {
    return (struct shape){.vocab = VOCAB,
                          .hidden = 12,
                          .layers = LAYERS,
                          .mtp_blocks = 1,
                          .heads = 4,
                          .head_dim = 8,
                          .rope_dim = 4,
                          .q_rank = 6,
                          .o_groups = 2,
                          .o_rank = 5,
                          .window = 5,
                          .ratios = ratios,
                          .index_heads = 3,
                          .index_dim = 8,
                          .index_topk = 3,
                          .experts = 5,
                          .active = 2,
                          .shared_experts = 1,
                          .inter = 7,
                          .hash_layers = 1,
                          .scoring = SCORING_SQRTSOFTPLUS,
                          .route_scale = 1.5f,
                          .swiglu_limit = 10,
                          .streams = 3,
                          .sinkhorn_iters = 5,
                          .eps = 1e-6f,
                          .hc_eps = 1e-6f,
                          .rope_theta = 100,
                          .compress_theta = 160,
                          .engram = {.count = 2,
                                     .layers = engram_layers,
                                     .orders = 3,
                                     .heads = 2,
                                     .width = 6,
                                     .taps = 3,
                                     .pad = 2,
                                     .norm_eps = 1e-6f,
                                     .conv_eps = 1e-5f}};
}

struct checking {
    struct REAL(net) net;
    struct REAL(step) * step;
    struct team *team;
    struct batch batch;
    int32_t ids[64], targets[64];
    struct segment segments[5];
    bool index; /* look at the indexer's loss */
};

static void open_net(struct checking *c, uint32_t workers, bool dense, bool recompute, uint64_t seed) {
    static struct shape shape;
    static const uint32_t lengths[] = {29, 1, 3, 17};
    struct rng r;
    shape = small_shape();
    for (int64_t i = 0; i < VOCAB; i++)
        token_map[i] = i * 5 % 17;
    *c = (struct checking){.index = false};
    CHECKED(team_open(workers, &c->team, &error));
    CHECKED(REAL(net_init)(&c->net, &shape, &plan, &error));
    CHECKED(REAL(net_place)(&c->net, &error));
    REAL(net_start)(&c->net, seed);
    rng_init(&r, seed);
    /* away from where symmetries and zeros make it easy */
    for (size_t i = 0; i < c->net.params.count; i++) {
        struct REAL(param) *p = &c->net.params.list[i];
        for (size_t k = 0; k < REAL(param_count)(p); k++)
            p->value[k] += (real)(0.3 * (2 * rng_unit(&r) - 1));
    }
    c->net.options =
        (struct net_options){.dense = dense, .balance_weight = 0.3f, .index_weight = 0.7f, .mtp_weight = 0.6f};
    uint32_t at = 0;
    for (uint32_t g = 0; g < COUNT_OF(lengths); g++) {
        c->segments[g] = (struct segment){at, lengths[g]};
        at += lengths[g];
    }
    for (uint32_t i = 0; i < at; i++) {
        c->ids[i] = (int32_t)(rng_u64(&r) % VOCAB);
        c->targets[i] = i % 7 == 6 ? -1 : (int32_t)(rng_u64(&r) % VOCAB);
    }
    c->batch = (struct batch){at, c->ids, c->targets, c->segments, COUNT_OF(lengths)};
    CHECKED(REAL(step_new)(&c->net, 64, 2, recompute, &c->step, &error));
}

static void close_net(struct checking *c) {
    REAL(step_free)(c->step);
    REAL(net_release)(&c->net);
    team_close(c->team);
}

/* Forward, with what the backward pass adds to the losses; gradients are not looked at. */
static double total(void *context) {
    struct checking *c = context;
    REAL(step_begin)(c->step);
    struct step_losses l = REAL(step_run)(c->team, c->step, &c->net, &c->batch, 0.05, 1, true);
    return c->index ? l.index : 0.05 * (l.loss + (double)c->net.options.mtp_weight * l.mtp) + l.balance;
}

static bool is_indexer(const struct REAL(param) * p) {
    return strstr(p->name, "attn.indexer.") != NULL;
}

/* A table's gradient, with zeros in rows that were not read. */
static void spread_table(const struct checking *c, const struct REAL(param) * p, double *to) {
    size_t tables;
    const struct REAL(table_gradient) *t = REAL(step_tables)(c->step, &tables);
    memset(to, 0, REAL(param_count)(p) * sizeof(*to));
    while (t->param != p && tables-- > 0)
        t++;
    assert_true(tables > 0 && t->count > 10);
    for (uint32_t i = 0; i < t->count; i++) {
        assert_true(t->rows[i] < p->rows && (!i || t->rows[i - 1] < t->rows[i]));
        memcpy(to + (size_t)t->rows[i] * p->cols, t->gradient + (size_t)i * p->cols, p->cols * sizeof(*to));
    }
}

/* Of one run, where values lie: the losses that are differenced run backward too, and add to them. */
static double *copy_gradients(const struct checking *c) {
    const struct REAL(params) *all = &c->net.params;
    double *copy = calloc(all->numbers, sizeof(*copy));
    assert_non_null(copy);
    for (size_t i = 0; i < all->count; i++) {
        const struct REAL(param) *p = &all->list[i];
        double *to = copy + (p->value - all->values);
        if (p->kind == PARAM_TABLE)
            spread_table(c, p, to);
        else if (p->gradient)
            memcpy(to, p->gradient, REAL(param_count)(p) * sizeof(*to));
    }
    return copy;
}

static double shifted(struct checking *c, real *x, double by) {
    real kept = *x;
    *x += by;
    double loss = total(c);
    *x = kept;
    return loss;
}

/* Differences of the fourth order, wide ones first: rounding is small beside them, and some gradients are nothing but
 * rounding (where the streams are still alike, how they are mixed does not matter). A wide step may make a token choose
 * other experts or entries, a narrow one hardly. */
static void check_number(struct checking *c, const struct REAL(param) * p, size_t k, double gradient) {
    const double floor = 1e-7;
    real *x = p->value + k;
    double expected = 0, error = 1;
    for (double d = 1e-3; error >= 1e-4 && d > 5e-6; d /= 10) {
        double near = shifted(c, x, d) - shifted(c, x, -d), far = shifted(c, x, 2 * d) - shifted(c, x, -2 * d);
        expected = (8 * near - far) / (12 * d);
        error = fabs(gradient - expected) / fmax(fmax(fabs(gradient), fabs(expected)), floor);
    }
    if (!(error < 1e-4))
        fail_msg("%s[%zu]: gradient %.9g, expected %.9g", p->name, k, gradient, expected);
}

/* Numbers [at, at + SOME) of a parameter, or all it has. */
static void check_some(struct checking *c, const struct REAL(param) * p, struct rng *r, const double *gradient) {
    size_t count = REAL(param_count)(p), some = min_u64(count, SOME), at = rng_u64(r) % (count - some + 1);
    for (size_t k = at; k < at + some; k++)
        check_number(c, p, k, gradient[k]);
}

static void check_all(bool dense, uint32_t mtp_ratio, uint64_t seed) {
    struct checking c;
    struct rng r;
    ratios[LAYERS] = mtp_ratio;
    plan.biases = !dense;
    open_net(&c, 1, dense, false, seed);
    REAL(params_clear)(&c.net.params);
    REAL(step_begin)(c.step);
    struct step_losses l = REAL(step_run)(c.team, c.step, &c.net, &c.batch, 0.05, 1, true);
    REAL(step_end)(c.team, c.step, &c.net);
    assert_true(l.targets > 30 && l.mtp_targets > 30 && l.index_tokens > 20 && l.index > 0 && l.balance > 0);
    /* the indexer's loss is a mean in each of two layers, which see the same tokens */
    double index_factor = 0.7 / (l.index_tokens / 2.0);
    double *all = copy_gradients(&c);
    rng_init(&r, seed);
    for (size_t i = 0; i < c.net.params.count; i++) {
        struct REAL(param) *p = &c.net.params.list[i];
        double *gradient = all + (p->value - c.net.params.values);
        if (p->kind == PARAM_FIXED)
            continue;
        c.index = is_indexer(p);
        for (size_t k = 0; k < REAL(param_count)(p) && c.index; k++)
            gradient[k] /= index_factor;
        check_some(&c, p, &r, gradient);
    }
    free(all);
    close_net(&c);
}

static void test_gradients__of_every_parameter(void **state) {
    (void)state;
    check_all(false, 0, 1);
    check_all(true, 8, 2);
}

/* Gradients of two batches of different lengths add up. */
static void run_two(struct checking *c, struct step_losses losses[2]) {
    struct batch shorter = c->batch;
    shorter.segment_count--;
    shorter.tokens -= c->segments[shorter.segment_count].length;
    REAL(params_clear)(&c->net.params);
    REAL(step_begin)(c->step);
    losses[0] = REAL(step_run)(c->team, c->step, &c->net, &c->batch, 0.1, 0.5, true);
    REAL(step_run)(c->team, c->step, &c->net, &c->batch, 0.1, 0.5, false); /* changes nothing */
    losses[1] = REAL(step_run)(c->team, c->step, &c->net, &shorter, 0.1, 0.5, true);
    REAL(step_end)(c->team, c->step, &c->net);
}

static void same_bits(uint32_t workers, bool recompute) {
    struct checking a, b;
    struct step_losses x[2], y[2];
    open_net(&a, 1, false, false, 3);
    open_net(&b, workers, false, recompute, 3);
    run_two(&a, x);
    run_two(&b, y);
    assert_memory_equal(x, y, sizeof(x));
    double *p = copy_gradients(&a), *q = copy_gradients(&b);
    assert_memory_equal(p, q, a.net.params.numbers * sizeof(*p));
    free(p);
    free(q);
    uint64_t loads[(LAYERS + 1) * 5] = {0}, sum = 0;
    REAL(step_loads)(b.step, &b.net, loads);
    for (size_t i = 0; i < COUNT_OF(loads); i++)
        sum += loads[i];
    assert_int_equal(sum, LAYERS * 2 * 33 + 2 * 30); /* of the shorter batch; 30 pairs */
    close_net(&a);
    close_net(&b);
}

/* Two batches in one step give what they give one by one. */
static void test_batches__add_up(void **state) {
    struct checking c;
    struct step_losses losses[2];
    (void)state;
    open_net(&c, 2, false, false, 4);
    run_two(&c, losses);
    double *both = copy_gradients(&c), *sum = calloc(c.net.params.numbers, sizeof(*sum));
    struct batch batches[2] = {c.batch, c.batch};
    batches[1].tokens -= c.segments[--batches[1].segment_count].length;
    for (int i = 0; i < 2; i++) {
        REAL(params_clear)(&c.net.params);
        REAL(step_begin)(c.step);
        REAL(step_run)(c.team, c.step, &c.net, &batches[i], 0.1, 0.5, true);
        REAL(step_end)(c.team, c.step, &c.net);
        double *one = copy_gradients(&c);
        for (size_t k = 0; k < c.net.params.numbers; k++)
            sum[k] += one[k];
        free(one);
    }
    for (size_t k = 0; k < c.net.params.numbers; k++)
        assert_true(fabs(both[k] - sum[k]) <= 1e-12 * fmax(1, fabs(sum[k])));
    free(both);
    free(sum);
    close_net(&c);
}

/* A weight of 0 leaves multi-token prediction out, and so does a batch without pairs. */
static void test_mtp__is_left_out(void **state) {
    struct checking c;
    struct segment single = {0, 1};
    (void)state;
    open_net(&c, 1, false, true, 5);
    struct batch one = {1, c.ids, c.targets, &single, 1};
    struct step_losses with = REAL(step_run)(c.team, c.step, &c.net, &c.batch, 1, 1, false);
    assert_true(with.mtp > 0 && with.mtp_targets > 30);
    struct step_losses without = REAL(step_run)(c.team, c.step, &c.net, &one, 1, 1, false);
    assert_true(without.mtp == 0 && !without.mtp_targets && without.targets == 1);
    c.net.options.mtp_weight = 0;
    without = REAL(step_run)(c.team, c.step, &c.net, &c.batch, 1, 1, false);
    assert_true(without.mtp == 0 && !without.mtp_targets && without.loss == with.loss);
    close_net(&c);
}

static void test_recomputation__changes_no_bit(void **state) {
    (void)state;
    same_bits(1, true);
}

static void test_workers__change_no_bit(void **state) {
    (void)state;
    same_bits(2, false);
    same_bits(3, true);
}

/* Layers that share their memory take less of it, more batches more for what they read of tables. */
static void test_step_bytes__follows_what_is_kept(void **state) {
    struct checking c;
    (void)state;
    open_net(&c, 1, false, false, 6);
    size_t kept = REAL(step_bytes)(&c.net, 64, 1, false), slots = 2 * 64 * 4;
    assert_true(REAL(step_bytes)(&c.net, 64, 1, true) < kept);
    assert_true(REAL(step_bytes)(&c.net, 64, 2, false) - kept >= slots * (2 * 3 * sizeof(real) + 24));
    close_net(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients__of_every_parameter),
        cmocka_unit_test(test_recomputation__changes_no_bit),
        cmocka_unit_test(test_workers__change_no_bit),
        cmocka_unit_test(test_batches__add_up),
        cmocka_unit_test(test_mtp__is_left_out),
        cmocka_unit_test(test_step_bytes__follows_what_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
