/*
 * train_step.c - how fast a step of training is: tokens a second, and the operations of its matrices' products beside
 * what the same processors do, in the same seconds, with tiles that never leave their registers.
 *
 *     train_step [--threads N] [--level L] [--tokens T] [--steps N]
 *
 * The network is that of the stories run without its Engram and multi-token prediction: 5 layers of 256 channels, 4
 * streams, 8 experts of which a token has 2 and the shared one. The batch is random ids in texts of about 230 tokens.
 * A step is forward, backward and the optimiser; a figure is the median over steps. Counted are 6 operations a token
 * and number of the matrices that it meets, so that all else that a step does counts as time alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/limits_internal.h"
#include "train/net_internal.h"
#include "train/optim_internal.h"

enum { MOST_STEPS = 100, TEXT = 230 };

static uint32_t ratios[] = {0, 0, 4, 128, 4};

static const struct shape stories = {.vocab = 4096,
                                     .hidden = 256,
                                     .layers = COUNT_OF(ratios),
                                     .heads = 4,
                                     .head_dim = 96,
                                     .rope_dim = 32,
                                     .q_rank = 128,
                                     .o_groups = 2,
                                     .o_rank = 128,
                                     .window = 128,
                                     .ratios = ratios,
                                     .index_heads = 8,
                                     .index_dim = 64,
                                     .index_topk = 128,
                                     .experts = 8,
                                     .active = 2,
                                     .shared_experts = 1,
                                     .inter = 256,
                                     .hash_layers = 1,
                                     .scoring = SCORING_SQRTSOFTPLUS,
                                     .route_scale = 1.5f,
                                     .swiglu_limit = 10,
                                     .streams = 4,
                                     .sinkhorn_iters = 20,
                                     .eps = 1e-6f,
                                     .hc_eps = 1e-6f,
                                     .rope_theta = 10000,
                                     .compress_theta = 40000};

struct options {
    struct device_flags device;
    uint64_t tokens, steps;
};

static const struct flag flags[] = {
    DEVICE_FLAGS(struct options, device),
    {.name = "tokens",
     .kind = FLAG_COUNT,
     .at = offsetof(struct options, tokens),
     .value = "T",
     .least = TEXT,
     .most = 1 << 16,
     .help = "tokens of a step (4096)"},
    {.name = "steps",
     .kind = FLAG_COUNT,
     .at = offsetof(struct options, steps),
     .value = "N",
     .least = 1,
     .most = MOST_STEPS,
     .help = "steps that are measured (10)"},
};

static const struct command command = {
    .name = "train_step",
    .operands = "",
    .about = "Measures steps of training.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

/* ------------------------------------------------------------------------------------------- a run */

struct measured {
    struct team *team;
    struct net_f32 net;
    struct step_f32 *step;
    struct batch batch;
    int32_t *ids, *targets;
    struct segment *segments;
    float *m, *v, *scratch; /* of the optimiser: as long as the gradients; of the largest matrix */
    size_t learnt;          /* numbers that have a gradient */
};

/* Random ids, texts of 115 to 344 tokens, the last cut. */
static void fill_batch(struct measured *x, uint32_t tokens) {
    struct rng r;
    uint32_t count = 0;
    rng_init(&r, 1);
    for (uint32_t at = 0; at < tokens; count++) {
        uint32_t length = (uint32_t)min_u64(tokens - at, TEXT / 2 + rng_u64(&r) % TEXT);
        x->segments[count] = (struct segment){at, length};
        at += length;
    }
    for (uint32_t i = 0; i < tokens; i++)
        x->ids[i] = (int32_t)(rng_u64(&r) % stories.vocab);
    for (uint32_t i = 0; i < tokens; i++)
        x->targets[i] = i + 1 < tokens ? x->ids[i + 1] : -1;
    for (uint32_t g = 0; g < count; g++)
        x->targets[x->segments[g].begin + x->segments[g].length - 1] = -1;
    x->batch = (struct batch){tokens, x->ids, x->targets, x->segments, count};
}

static void close_run(struct measured *x) {
    void *const owned[] = {x->ids, x->targets, x->segments, x->m, x->v, x->scratch};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
    step_free_f32(x->step);
    net_release_f32(&x->net);
    team_close(x->team);
}

static int open_run(struct measured *x, const struct options *o, enum kernel_level level, struct sonde_error *e) {
    uint32_t tokens = (uint32_t)o->tokens;
    size_t scratch = 0;
    int rc = team_open((uint32_t)o->device.threads, &x->team, e);
    if (!rc)
        rc = net_init_f32(&x->net, &stories, NULL, e);
    if (!rc)
        rc = net_place_f32(&x->net, e);
    if (rc)
        return rc;
    team_set_level(x->team, level);
    x->net.options = (struct net_options){.balance_weight = 1e-4f, .index_weight = 1};
    net_start_f32(&x->net, 1);
    for (size_t i = 0; i < x->net.params.count; i++) {
        const struct param_f32 *p = &x->net.params.list[i];
        x->learnt += p->gradient ? param_count_f32(p) : 0;
        if (p->kind == PARAM_MUON)
            scratch = max_u64(scratch, team_workers(x->team) * muon_scratch(p->rows, p->cols));
    }
    x->ids = calloc(tokens, sizeof(*x->ids));
    x->targets = calloc(tokens, sizeof(*x->targets));
    x->segments = calloc(tokens, sizeof(*x->segments));
    x->m = calloc(x->learnt, sizeof(*x->m));
    x->v = calloc(x->learnt, sizeof(*x->v));
    x->scratch = calloc(scratch, sizeof(*x->scratch));
    if (!x->ids || !x->targets || !x->segments || !x->m || !x->v || !x->scratch)
        return err_memory(e);
    fill_batch(x, tokens);
    return step_new_f32(&x->net, tokens, 1, false, &x->step, e);
}

/* One step of the optimiser; gradients are cleared. */
static void learn(struct measured *x, uint64_t step) {
    struct muon_options muon;
    struct adam_options adam;
    size_t at = 0;
    muon_options_default(&muon);
    adam_options_default(&adam);
    for (size_t i = 0; i < x->net.params.count; i++) {
        const struct param_f32 *p = &x->net.params.list[i];
        size_t count = param_count_f32(p);
        if (!p->gradient)
            continue;
        if (p->kind == PARAM_MUON)
            muon_step_f32(x->team, &muon, 2e-3, p->stack, p->rows, p->cols, p->gradient, x->m + at, p->value,
                          x->scratch);
        else
            adam_step_f32(x->team, &adam, 2e-3, step, count, p->gradient, x->m + at, x->v + at, p->value);
        memset(p->gradient, 0, count * sizeof(*p->gradient));
        at += count;
    }
}

/* Numbers of the matrices that a token meets: of the experts those that it chooses; the embedding is no product. */
static double active_numbers(const struct net_f32 *n) {
    double sum = 0;
    for (size_t i = 0; i < n->params.count; i++) {
        const struct param_f32 *p = &n->params.list[i];
        if (p->kind == PARAM_MUON || p == n->head)
            sum += (double)p->rows * p->cols * (p->stack > 1 ? n->shape.active : 1);
    }
    return sum;
}

/* ----------------------------------------------------------------------------------------- figures */

/* Medians of seconds, of tokens forward, with backward, and of the optimiser. */
struct figures {
    double forward, both, learn;
};

static struct figures measure(struct measured *x, struct limits *limits, uint64_t steps) {
    double forward[MOST_STEPS], both[MOST_STEPS], learnt[MOST_STEPS], scale = 1 / (double)x->batch.tokens;
    for (uint64_t i = 0; i <= steps; i++) { /* the first warms up, and its place is taken by the next */
        uint64_t at = i ? i - 1 : 0;
        limits_measure(limits);
        double started = clock_seconds();
        step_run_f32(x->team, x->step, &x->net, &x->batch, scale, 1, false);
        double ran = clock_seconds();
        step_run_f32(x->team, x->step, &x->net, &x->batch, scale, 1, true);
        double back = clock_seconds();
        learn(x, i + 1);
        learnt[at] = clock_seconds() - back;
        both[at] = back - ran;
        forward[at] = ran - started;
    }
    return (struct figures){median(forward, steps), median(both, steps), median(learnt, steps)};
}

static void print(const struct measured *x, const struct figures *f, const struct limits *limits) {
    double tokens = x->batch.tokens, operations = 6 * active_numbers(&x->net), seconds = f->both + f->learn;
    printf("threads            %10u\n", team_workers(x->team));
    printf("numbers learnt     %10.2f million\n", (double)x->learnt * 1e-6);
    printf("operations a token %10.2f million\n", operations * 1e-6);
    printf("forward alone      %10.1f ms\n", f->forward * 1e3);
    printf("forward, backward  %10.1f ms\n", f->both * 1e3);
    printf("optimiser          %10.1f ms\n", f->learn * 1e3);
    printf("tokens a second    %10.0f\n", tokens / seconds);
    printf("of the peak        %10.2f %% of %.0f GFLOP/s\n",
           100 * operations * tokens / seconds / limits_peak_flops(limits), limits_peak_flops(limits) * 1e-9);
}

static int run(const struct options *o, enum kernel_level level) {
    struct measured x = {0};
    struct limits *limits = NULL;
    struct sonde_error e;
    int rc = open_run(&x, o, level, &e);
    if (!rc)
        rc = limits_open(level, (uint32_t)o->device.threads, &limits, &e);
    if (!rc) {
        struct figures f = measure(&x, limits, o->steps);
        print(&x, &f, limits);
    }
    limits_close(limits);
    close_run(&x);
    return rc ? report(&e) : 0;
}

int main(int argc, char **argv) {
    struct options o = {.tokens = 4096, .steps = 10};
    int status = flags_parse(&command, argc, argv, &o, NULL);
    if (status >= 0)
        return status;
    enum kernel_level level = o.device.level ? (enum kernel_level)(o.device.level - 1) : kernel_level_best();
    if (!kernel_level_runs(level))
        return usage_error("train_step", "level %s does not run here", kernel_level_name(level));
    return run(&o, level);
}
