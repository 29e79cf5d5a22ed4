/*
 * limits.c - prints what this machine can do at a level, one limit a line, and what a region of the thread pool costs.
 *
 * Medians of as many samples as fit two seconds; `sonde bench` measures the same beside a model.
 */
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/limits_internal.h"

struct options {
    struct device_flags device;
};

static int print(enum kernel_level level, struct limits *l) {
    double region, barrier, started = clock_seconds();
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    do
        limits_measure(l);
    while (limits_samples(l) < 5 || clock_seconds() - started < 2);
    limits_latency(l, &region, &barrier);
    buf_printf(&b, "level           %s\nthreads         %u\n", kernel_level_name(level), limits_threads(l));
    buf_printf(&b, "read bandwidth  %.2f GB/s\n", limits_read_bandwidth(l) * 1e-9);
    buf_printf(&b, "peak            %.1f GFLOP/s\n", limits_peak_flops(l) * 1e-9);
    buf_printf(&b, "empty region    %.0f ns\nbarrier         %.0f ns\n", region, barrier);
    buf_printf(&b, "samples         %u\n", limits_samples(l));
    output_buf(&out, &b);
    return output_status(&out);
}

static const struct flag flags[] = {DEVICE_FLAGS(struct options, device)};

static const struct command command = {
    .name = "limits",
    .operands = "",
    .about = "Measures read bandwidth and peak operations of this machine.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

int main(int argc, char **argv) {
    struct options o = {0};
    struct limits *l;
    struct sonde_error e;
    int status = flags_parse(&command, argc, argv, &o, NULL);
    if (status >= 0)
        return status;
    enum kernel_level level = kernel_level_best();
    if (o.device.level)
        level = (enum kernel_level)(o.device.level - 1);
    if (!kernel_level_runs(level))
        return usage_error("limits", "level %s does not run here", kernel_level_name(level));
    if (limits_open(level, (uint32_t)o.device.threads, &l, &e))
        return report(&e);
    status = print(level, l);
    limits_close(l);
    return status;
}
