/*
 * train_gemm.c - how fast the trainer's products are, by shape: operations a second and their share of what the same
 * processors do, in the same seconds, with tiles that never leave their registers.
 *
 *     train_gemm [--threads N]
 *
 * A line is the median of ROUNDS rounds. Before each the limit is measured once more, and the product made once for
 * nothing, so that its matrices are in the caches as far as they fit, as those are that a pass has just written.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/limits_internal.h"
#include "train/real_internal.h"

enum { ROUNDS = 9, MOST = 4096 * 1024 };

static const struct line {
    const char *name;
    int how;
    size_t m, n, k;
} lines[] = {
    {"forward, 256 to 256", GEMM_BT, 4096, 256, 256},
    {"forward, 256 to 1024", GEMM_BT, 4096, 1024, 256},
    {"forward, 512 to 1024", GEMM_BT, 4096, 1024, 512},
    {"input, 256 from 1024", GEMM_ADD, 4096, 256, 1024},
    {"weight, 1024 x 256", GEMM_AT | GEMM_ADD, 1024, 256, 4096},
    {"weight, 256 x 256", GEMM_AT | GEMM_ADD, 256, 256, 4096},
    {"expert, 200 tokens", GEMM_BT, 200, 256, 256},
    {"expert, 2000 tokens", GEMM_BT, 2000, 256, 256},
    {"expert's weight, 200", GEMM_AT | GEMM_ADD, 256, 256, 200},
    {"head, 256 tokens", GEMM_BT, 256, 4096, 256},
    {"head, 1024 tokens", GEMM_BT, 1024, 4096, 256},
    {"x x^T, 256", GEMM_BT, 256, 256, 256},
    {"x x^T, 1024", GEMM_BT, 1024, 1024, 1024},
    {"exact, 24 of 1024", GEMM_BT | GEMM_EXACT, 4096, 24, 1024},
    {"exact, 256 to 256", GEMM_BT | GEMM_EXACT, 4096, 256, 256},
};

static float *random_floats(void) {
    struct rng r;
    float *x = aligned_alloc(64, MOST * sizeof(*x));
    rng_init(&r, 1);
    for (size_t i = 0; x && i < MOST; i++)
        x[i] = (float)(2 * rng_unit(&r) - 1);
    return x;
}

struct matrices {
    float *a, *b, *c;
};

/* Median operations a second. */
static double measure(const struct line *l, struct team *team, struct limits *limits, const struct matrices *x) {
    double seconds[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        limits_measure(limits);
        gemm_f32(team, l->how, l->m, l->n, l->k, x->a, x->b, x->c);
        double started = clock_seconds();
        gemm_f32(team, l->how, l->m, l->n, l->k, x->a, x->b, x->c);
        seconds[i] = clock_seconds() - started;
    }
    return 2.0 * (double)l->m * (double)l->n * (double)l->k / median(seconds, ROUNDS);
}

struct options {
    struct device_flags device;
};

static const struct flag flags[] = {DEVICE_FLAGS(struct options, device)};

static const struct command command = {
    .name = "train_gemm",
    .operands = "",
    .about = "Measures the trainer's products of matrices.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

static int print(const struct options *o, enum kernel_level level, struct team *team, const struct matrices *x) {
    struct sonde_error e;
    printf("level %s, threads %u\n%-22s %6s %6s %6s %14s %14s\n", kernel_level_name(level), team_workers(team), "", "m",
           "n", "k", "GFLOP/s", "of the peak");
    for (size_t i = 0; i < COUNT_OF(lines); i++) {
        struct limits *limits;
        if (limits_open(level, (uint32_t)o->device.threads, &limits, &e))
            return report(&e);
        double flops = measure(&lines[i], team, limits, x);
        printf("%-22s %6zu %6zu %6zu %14.1f %12.1f %%\n", lines[i].name, lines[i].m, lines[i].n, lines[i].k,
               flops * 1e-9, 100 * flops / limits_peak_flops(limits));
        fflush(stdout);
        limits_close(limits);
    }
    return 0;
}

int main(int argc, char **argv) {
    struct options o = {0};
    struct team *team;
    struct sonde_error e;
    int status = flags_parse(&command, argc, argv, &o, NULL);
    if (status >= 0)
        return status;
    enum kernel_level level = o.device.level ? (enum kernel_level)(o.device.level - 1) : kernel_level_best();
    if (!kernel_level_runs(level))
        return usage_error("train_gemm", "level %s does not run here", kernel_level_name(level));
    if (team_open((uint32_t)o.device.threads, &team, &e))
        return report(&e);
    team_set_level(team, level);
    struct matrices x = {random_floats(), random_floats(), random_floats()};
    status = x.a && x.b && x.c ? print(&o, level, team, &x) : (err_memory(&e), report(&e));
    free(x.a);
    free(x.b);
    free(x.c);
    team_close(team);
    return status;
}
