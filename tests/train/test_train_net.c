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

enum { VOCAB = 24, LAYERS = 4, SOME = 4 };

static uint32_t ratios[LAYERS + 1] = {0, 4, 8, 4, 0};

static struct shape small_shape(void) {
    return (struct shape){.vocab = VOCAB,
                          .hidden = 12,
                          .layers = LAYERS,
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
                          .compress_theta = 160};
}

struct checking {
    struct REAL(net) net;
    struct REAL(step) * step;
    struct team *team;
    struct batch batch;
    int32_t ids[64], targets[64];
    struct segment segments[4];
    bool index; /* look at the indexer's loss */
};

static void open_net(struct checking *c, uint32_t workers, bool dense, bool recompute, uint64_t seed) {
    static struct shape shape;
    static const uint32_t lengths[] = {29, 3, 17};
    struct rng r;
    shape = small_shape();
    *c = (struct checking){.index = false};
    CHECKED(team_open(workers, &c->team, &error));
    CHECKED(REAL(net_init)(&c->net, &shape, &error));
    REAL(net_start)(&c->net, seed);
    rng_init(&r, seed);
    /* away from where symmetries and zeros make it easy */
    for (size_t i = 0; i < c->net.params.count; i++) {
        struct REAL(param) *p = &c->net.params.list[i];
        for (size_t k = 0; k < REAL(param_count)(p); k++)
            p->value[k] += (real)(0.3 * (2 * rng_unit(&r) - 1));
    }
    c->net.options = (struct net_options){.dense = dense, .balance_weight = 0.3f, .index_weight = 0.7f};
    uint32_t at = 0;
    for (uint32_t g = 0; g < 3; g++) {
        c->segments[g] = (struct segment){at, lengths[g]};
        at += lengths[g];
    }
    for (uint32_t i = 0; i < at; i++) {
        c->ids[i] = (int32_t)(rng_u64(&r) % VOCAB);
        c->targets[i] = i % 7 == 6 ? -1 : (int32_t)(rng_u64(&r) % VOCAB);
    }
    c->batch = (struct batch){at, c->ids, c->targets, c->segments, 3};
    CHECKED(REAL(step_new)(&c->net, 64, recompute, &c->step, &error));
}

static void close_net(struct checking *c) {
    REAL(step_free)(c->step);
    REAL(net_release)(&c->net);
    team_close(c->team);
}

static void clear_gradients(struct checking *c) {
    for (size_t i = 0; i < c->net.params.count; i++) {
        struct REAL(param) *p = &c->net.params.list[i];
        if (p->gradient)
            memset(p->gradient, 0, REAL(param_count)(p) * sizeof(real));
    }
}

/* Forward, with what the backward pass adds to the losses; gradients are not looked at. */
static double total(void *context) {
    struct checking *c = context;
    struct step_losses l = REAL(step_run)(c->team, c->step, &c->net, &c->batch, 0.05, 1, true);
    return c->index ? l.index : 0.05 * l.loss + l.balance;
}

static bool is_indexer(const struct REAL(param) * p) {
    return strstr(p->name, "attn.indexer.") != NULL;
}

/* Of one run: the losses that are differenced run backward too, and add to them. */
static double *copy_gradients(const struct checking *c) {
    double *all = malloc(c->net.params.numbers * sizeof(*all)), *to = all;
    assert_non_null(all);
    for (size_t i = 0; i < c->net.params.count; i++) {
        const struct REAL(param) *p = &c->net.params.list[i];
        size_t count = p->gradient ? REAL(param_count)(p) : 0;
        if (count)
            memcpy(to, p->gradient, count * sizeof(*to));
        to += count;
    }
    return all;
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

static void check_all(bool dense, uint64_t seed) {
    struct checking c;
    open_net(&c, 1, dense, false, seed);
    clear_gradients(&c);
    struct step_losses l = REAL(step_run)(c.team, c.step, &c.net, &c.batch, 0.05, 1, true);
    assert_true(l.targets > 30 && l.index_tokens > 20 && l.index > 0 && l.balance > 0);
    /* the indexer's loss is a mean in each of two layers, which see the same tokens */
    double index_factor = 0.7 / (l.index_tokens / 2.0);
    double *all = copy_gradients(&c), *gradient = all;
    struct rng r;
    rng_init(&r, seed);
    for (size_t i = 0; i < c.net.params.count; i++) {
        struct REAL(param) *p = &c.net.params.list[i];
        size_t count = REAL(param_count)(p);
        if (!p->gradient)
            continue;
        c.index = is_indexer(p);
        for (size_t k = 0; k < count && c.index; k++)
            gradient[k] /= index_factor;
        /* a run of numbers somewhere in each: a difference costs two steps of the whole network */
        size_t some = min_u64(count, SOME), at = rng_u64(&r) % (count - some + 1);
        for (size_t k = at; k < at + some; k++)
            check_number(&c, p, k, gradient[k]);
        gradient += count;
    }
    free(all);
    close_net(&c);
}

static void test_gradients__of_every_parameter(void **state) {
    (void)state;
    check_all(false, 1);
    check_all(true, 2);
}

static void same_bits(uint32_t workers, bool recompute) {
    struct checking a, b;
    open_net(&a, 1, false, false, 3);
    open_net(&b, workers, false, recompute, 3);
    clear_gradients(&a);
    clear_gradients(&b);
    for (int run = 0; run < 2; run++) { /* gradients of two batches add up */
        struct step_losses x = REAL(step_run)(a.team, a.step, &a.net, &a.batch, 0.1, 0.5, true);
        struct step_losses y = REAL(step_run)(b.team, b.step, &b.net, &b.batch, 0.1, 0.5, true);
        assert_memory_equal(&x, &y, sizeof(x));
    }
    for (size_t i = 0; i < a.net.params.count; i++) {
        struct REAL(param) *p = &a.net.params.list[i], *q = &b.net.params.list[i];
        if (p->gradient)
            assert_memory_equal(p->gradient, q->gradient, REAL(param_count)(p) * sizeof(real));
    }
    uint64_t loads[LAYERS * 5] = {0}, sum = 0;
    REAL(step_loads)(b.step, &b.net, loads);
    for (size_t i = 0; i < COUNT_OF(loads); i++)
        sum += loads[i];
    assert_int_equal(sum, LAYERS * 2 * 49);
    close_net(&a);
    close_net(&b);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients__of_every_parameter),
        cmocka_unit_test(test_recomputation__changes_no_bit),
        cmocka_unit_test(test_workers__change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
