/*
 * test_train_forward.c - the network that is trained is the network that is run: its loss on the golden checkpoints
 * equals the one that the library's logits give, which are held to the oracle; that of multi-token prediction too.
 */
#define TRAIN_DOUBLE

#include <stdlib.h>
#include <string.h>

#include "gradient.h"

#include "train/net_internal.h"

enum { TOKENS = 300 };

struct losses {
    double loss, mtp;
};

struct summed {
    const int32_t *ids;
    uint32_t vocab;
    struct losses losses;
};

/* Cross-entropy of the token at place `at`; none at the text's end. */
static double entropy(const struct summed *s, uint64_t at, const float *logits) {
    double most = (double)logits[0], sum = 0;
    if (at >= TOKENS)
        return 0;
    for (uint32_t i = 0; i < s->vocab; i++)
        most = fmax(most, (double)logits[i]);
    for (uint32_t i = 0; i < s->vocab; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum) - (double)logits[s->ids[at]];
}

static int add_loss(void *context, uint64_t position, const float *logits) {
    struct summed *s = context;
    s->losses.loss += entropy(s, position + 1, logits);
    return 0;
}

static int add_mtp(void *context, uint64_t position, const float *logits) {
    struct summed *s = context;
    s->losses.mtp += entropy(s, position + 2, logits);
    return 0;
}

static struct losses losses_of_library(const char *path, const int32_t *ids) {
    struct sonde_model_options options;
    struct sonde_model_info info;
    struct summed s = {.ids = ids};
    sonde_model *m = NULL;
    sonde_session *session = NULL;
    struct sonde_session_options session_options;
    sonde_model_options_default(&options);
    sonde_session_options_default(&session_options);
    session_options.mtp = 1;
    options.precision = SONDE_PRECISION_F32;
    options.level = "c";
    options.threads = 1;
    CHECKED(sonde_model_open(path, &options, &m, &error));
    sonde_model_info(m, &info);
    s.vocab = info.vocab;
    CHECKED(sonde_session_open(m, &session_options, &session, &error));
    struct sonde_observer observer = {.context = &s, .logits = add_loss, .mtp = add_mtp};
    CHECKED(sonde_session_observe(session, ids, TOKENS, &observer, &error));
    sonde_session_close(session);
    sonde_model_close(m);
    return s.losses;
}

static struct losses losses_of_network(const char *path, const int32_t *ids) {
    struct checkpoint *c = NULL;
    struct team *team = NULL;
    struct engram_plan plan;
    struct REAL(net) net;
    struct REAL(step) *step = NULL;
    int32_t targets[TOKENS];
    struct segment all = {0, TOKENS};
    memcpy(targets, ids + 1, (TOKENS - 1) * sizeof(*ids));
    targets[TOKENS - 1] = -1;
    struct batch batch = {TOKENS, ids, targets, &all, 1};
    CHECKED(checkpoint_open(path, &c, &error));
    CHECKED(team_open(1, &team, &error));
    CHECKED(engram_plan_load(c, &plan, &error));
    CHECKED(REAL(net_init)(&net, checkpoint_shape(c), &plan, &error));
    CHECKED(REAL(net_place)(&net, &error));
    CHECKED(REAL(net_load)(&net, c, &error));
    CHECKED(REAL(step_new)(&net, TOKENS, 1, true, &step, &error));
    net.options.mtp_weight = 0.5f;
    struct step_losses l = REAL(step_run)(team, step, &net, &batch, 1, 1, false);
    assert_int_equal(l.targets, TOKENS - 1);
    assert_int_equal(l.mtp_targets, TOKENS - 2);
    REAL(step_free)(step);
    REAL(net_release)(&net);
    engram_plan_release(&plan);
    team_close(team);
    checkpoint_close(c);
    return (struct losses){l.loss, l.mtp};
}

static void check_one(const char *path, const char *name, double library, double network) {
    if (!(fabs(library - network) < 1e-5 * library))
        fail_msg("%s: %s %.9g, the library's %.9g", path, name, network, library);
}

static void check(const char *path) {
    int32_t ids[TOKENS];
    struct rng r;
    rng_init(&r, 5);
    for (size_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(rng_u64(&r) % 256);
    struct losses library = losses_of_library(path, ids), network = losses_of_network(path, ids);
    check_one(path, "loss", library.loss, network.loss);
    check_one(path, "loss of multi-token prediction", library.mtp, network.mtp);
}

static void test_forward__is_the_library_s(void **state) {
    (void)state;
    check("tests/golden/sliding");
    check("tests/golden/flash");
    check("tests/golden/flash-engram");
    check("tests/golden/pro");
    check("tests/golden/base-fp8");
    check("tests/golden/bf16");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward__is_the_library_s)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
