/*
 * train_step.c - how fast a step of training is: tokens a second, and the operations of its matrices' products beside
 * what the same processors do, in the same seconds, with tiles that never leave their registers.
 *
 *     train_step [--threads N] [--level L] [--tokens T] [--steps N] MODEL
 *
 * The network is that of a model's directory, with its Engram and its multi-token prediction; what it begins with is
 * by chance. The batch is random ids in texts of about 230 tokens. A step is forward, backward and the optimiser, as
 * `sonde train` does them; a figure is the median over steps. Counted are 6 operations a token and number of the
 * matrices that it meets, so that all else that a step does counts as time alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/limits_internal.h"
#include "train/run_internal.h"

enum { MOST_STEPS = 100, TEXT = 230 };

struct options {
    struct device_flags device;
    uint64_t tokens, steps;
    bool recompute;
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
    {.name = "recompute",
     .kind = FLAG_SWITCH,
     .at = offsetof(struct options, recompute),
     .help = "compute layers twice to save memory"},
};

static const struct command command = {
    .name = "train_step",
    .operands = "MODEL",
    .operands_least = 1,
    .operands_most = 1,
    .about = "Measures steps of training a network like MODEL's.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

/* ------------------------------------------------------------------------------------------- a run */

struct measured {
    struct train_config config;
    struct checkpoint *model; /* owns the shape */
    struct engram_plan plan;
    struct team *team;
    struct net_f32 net;
    struct learner learner;
    struct step_f32 *step;
    struct batch batch;
    int32_t *ids, *targets;
    struct segment *segments;
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
        x->ids[i] = (int32_t)(rng_u64(&r) % x->net.shape.vocab);
    for (uint32_t i = 0; i < tokens; i++)
        x->targets[i] = i + 1 < tokens ? x->ids[i + 1] : -1;
    for (uint32_t g = 0; g < count; g++)
        x->targets[x->segments[g].begin + x->segments[g].length - 1] = -1;
    x->batch = (struct batch){tokens, x->ids, x->targets, x->segments, count};
}

static void close_run(struct measured *x) {
    step_free_f32(x->step);
    if (x->learner.moments)
        learner_release(&x->learner);
    net_release_f32(&x->net);
    engram_plan_release(&x->plan);
    checkpoint_close(x->model);
    train_config_release(&x->config);
    team_close(x->team);
    free(x->ids);
    free(x->targets);
    free(x->segments);
}

/* The defaults of a run. */
static int read_defaults(struct measured *x, struct sonde_error *e) {
    static const char text[] = "{\"out\": \"-\", \"from\": \"-\", \"data\": [{\"path\": \"-\"}], \"steps\": 1000}";
    return train_config_parse(text, strlen(text), "defaults", &x->config, e);
}

static int lay_out(struct measured *x, const char *directory, struct sonde_error *e) {
    int rc = checkpoint_open(directory, &x->model, e);
    if (rc)
        return rc;
    const struct shape *shape = checkpoint_shape(x->model);
    if (shape->engram.count)
        rc = engram_plan_load(x->model, &x->plan, e);
    return rc ? rc : net_init_f32(&x->net, shape, shape->engram.count ? &x->plan : NULL, e);
}

static int open_run(struct measured *x, const struct options *o, const char *model, enum kernel_level level,
                    struct sonde_error *e) {
    uint32_t tokens = (uint32_t)o->tokens;
    int rc = team_open((uint32_t)o->device.threads, &x->team, e);
    if (!rc)
        rc = read_defaults(x, e);
    if (!rc)
        rc = lay_out(x, model, e);
    if (!rc)
        rc = net_place_f32(&x->net, e);
    if (!rc)
        rc = learner_init(&x->learner, &x->config, &x->net, team_workers(x->team), e);
    if (rc)
        return rc;
    team_set_level(x->team, level);
    x->net.options = (struct net_options){.balance_weight = (float)x->config.balance_weight,
                                          .index_weight = (float)x->config.index_weight,
                                          .mtp_weight = (float)x->config.mtp_weight};
    net_start_f32(&x->net, 1);
    x->ids = calloc(tokens, sizeof(*x->ids));
    x->targets = calloc(tokens, sizeof(*x->targets));
    x->segments = calloc(tokens, sizeof(*x->segments));
    if (!x->ids || !x->targets || !x->segments)
        return err_memory(e);
    fill_batch(x, tokens);
    return step_new_f32(&x->net, tokens, 1, o->recompute, &x->step, e);
}

/* ----------------------------------------------------------------------------------------- figures */

/* Medians of seconds: forward alone, with backward, and of the optimiser. */
struct figures {
    double forward, both, learn;
};

static void one_step(struct measured *x, uint64_t step, struct figures *f) {
    double scale = 1 / (double)x->batch.tokens, started = clock_seconds();
    step_run_f32(x->team, x->step, &x->net, &x->batch, scale, 1, false);
    double ran = clock_seconds();
    params_clear_f32(&x->net.params);
    step_begin_f32(x->step);
    step_run_f32(x->team, x->step, &x->net, &x->batch, scale, 1, true);
    step_end_f32(x->team, x->step, &x->net);
    double back = clock_seconds();
    double norm = learner_norm(x->team, &x->learner, x->step);
    learner_step(x->team, &x->learner, x->step, step, clip_factor(norm, x->config.clip));
    *f = (struct figures){ran - started, back - ran, clock_seconds() - back};
}

static struct figures measure(struct measured *x, struct limits *limits, uint64_t steps) {
    double forward[MOST_STEPS], both[MOST_STEPS], learnt[MOST_STEPS];
    for (uint64_t i = 0; i <= steps; i++) { /* the first warms up, and its place is taken by the next */
        uint64_t at = i ? i - 1 : 0;
        struct figures f;
        limits_measure(limits);
        one_step(x, i, &f);
        forward[at] = f.forward;
        both[at] = f.both;
        learnt[at] = f.learn;
    }
    return (struct figures){median(forward, steps), median(both, steps), median(learnt, steps)};
}

static void print(const struct measured *x, const struct options *o, const struct figures *f,
                  const struct limits *limits) {
    double tokens = x->batch.tokens, operations = net_operations_f32(&x->net), seconds = f->both + f->learn;
    size_t bytes = step_bytes_f32(&x->net, (uint32_t)o->tokens, 1, o->recompute);
    printf("threads            %10u\n", team_workers(x->team));
    printf("numbers            %10.2f million\n", (double)x->net.params.numbers * 1e-6);
    printf("operations a token %10.2f million\n", operations * 1e-6);
    printf("memory of a step   %10.1f MB\n", (double)bytes * 1e-6);
    printf("forward alone      %10.1f ms\n", f->forward * 1e3);
    printf("forward, backward  %10.1f ms\n", f->both * 1e3);
    printf("optimiser          %10.1f ms\n", f->learn * 1e3);
    printf("tokens a second    %10.0f\n", tokens / seconds);
    printf("of the peak        %10.2f %% of %.0f GFLOP/s\n",
           100 * operations * tokens / seconds / limits_peak_flops(limits), limits_peak_flops(limits) * 1e-9);
}

static int run(const struct options *o, const char *model, enum kernel_level level) {
    struct measured x = {0};
    struct limits *limits = NULL;
    struct sonde_error e;
    int rc = open_run(&x, o, model, level, &e);
    if (!rc)
        rc = limits_open(level, (uint32_t)o->device.threads, &limits, &e);
    if (!rc) {
        struct figures f = measure(&x, limits, o->steps);
        print(&x, o, &f, limits);
    }
    limits_close(limits);
    close_run(&x);
    return rc ? report(&e) : 0;
}

int main(int argc, char **argv) {
    struct options o = {.tokens = 4096, .steps = 10};
    const char *operands[1];
    int status = flags_parse(&command, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    enum kernel_level level = o.device.level ? (enum kernel_level)(o.device.level - 1) : kernel_level_best();
    if (!kernel_level_runs(level))
        return usage_error("train_step", "level %s does not run here", kernel_level_name(level));
    return run(&o, operands[0], level);
}
