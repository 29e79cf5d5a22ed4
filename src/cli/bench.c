/*
 * bench.c - `sonde bench`: how fast a model reads and writes here, and how fast it could.
 *
 * Bytes and operations are counted from the checkpoint (bench_count.c), limits are this machine's, measured in the
 * same minute by as many threads (limits.c). Decoding is held against read bandwidth, since every token reads its
 * weights anew; prefill against whichever of bandwidth and operations allows less.
 */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench_internal.h"

/* ---------------------------------------------------------------------------------------- results */

/* What follows from a result. */
struct speeds {
    double decode, decode_ratio; /* tokens a second; of read bandwidth */
    double prefill, roofline, peak;
};

static struct speeds speeds(const struct bench_options *o, const struct bench_result *r) {
    struct speeds s = {.decode = (double)o->batch / r->decode_seconds,
                       .prefill = (double)o->prompt / r->prefill_seconds};
    s.decode_ratio = r->decode_bytes * s.decode / r->read_bandwidth;
    s.roofline = fmax(r->prefill_bytes / r->read_bandwidth, r->prefill_flops / r->peak_flops) / r->prefill_seconds;
    s.peak = r->prefill_flops / r->prefill_seconds / r->peak_flops;
    return s;
}

static json_t *as_json(const struct bench_options *o, const struct bench_result *r) {
    struct speeds s = speeds(o, r);
    const struct {
        const char *name;
        double value;
        bool whole;
    } numbers[] = {
        {"threads", r->threads, true},
        {"context", (double)r->context, true},
        {"batch", (double)o->batch, true},
        {"prompt", (double)o->prompt, true},
        {"chunk", (double)r->chunk, true},
        {"decode_tokens_per_s", s.decode, false},
        {"decode_bytes_per_token", r->decode_bytes, true},
        {"decode_experts_per_layer", r->decode_experts, false},
        {"decode_bandwidth_ratio", s.decode_ratio, false},
        {"prefill_tokens_per_s", s.prefill, false},
        {"prefill_flops_per_token", r->prefill_flops / (double)o->prompt, true},
        {"prefill_bytes_per_token", r->prefill_bytes / (double)o->prompt, true},
        {"prefill_roofline_ratio", s.roofline, false},
        {"prefill_peak_ratio", s.peak, false},
        {"read_bandwidth", r->read_bandwidth, true},
        {"peak_flops", r->peak_flops, true},
        {"limit_samples", r->limit_samples, true},
        {"cache_bytes_per_token", r->cache_bytes_per_token, false},
        {"cache_fixed_bytes", (double)r->cache_fixed_bytes, true},
    };
    json_t *all = json_pack("{s:s}", "level", kernel_level_name(r->level));
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        json_object_set_new(all, numbers[i].name,
                            numbers[i].whole ? json_integer((json_int_t)llround(numbers[i].value))
                                             : json_real(numbers[i].value));
    return all;
}

static void print_json(struct buf *b, const struct bench_options *o, const struct bench_result *r) {
    json_t *all = as_json(o, r);
    char *text = all ? json_dumps(all, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    buf_printf(b, "%s\n", text ? text : "");
    b->failed |= !text;
    free(text);
    json_decref(all);
}

static void print_text(struct buf *b, const struct bench_options *o, const struct bench_result *r) {
    struct speeds s = speeds(o, r);
    buf_printf(b, "level      %s, %u thread%s\n", kernel_level_name(r->level), r->threads, r->threads == 1 ? "" : "s");
    buf_printf(b, "limits     %8.2f GB/s read, %.1f GFLOP/s, medians of %u\n", r->read_bandwidth * 1e-9,
               r->peak_flops * 1e-9, r->limit_samples);
    buf_printf(b, "decode     %8.2f tokens/s after %llu tokens, %llu at once\n", s.decode,
               (unsigned long long)r->context, (unsigned long long)o->batch);
    buf_printf(b, "           %8.1f MB a token: %.1f %% of read bandwidth\n", r->decode_bytes * 1e-6,
               100 * s.decode_ratio);
    buf_printf(b, "prefill    %8.2f tokens/s, %llu tokens in chunks of %llu\n", s.prefill,
               (unsigned long long)o->prompt, (unsigned long long)r->chunk);
    buf_printf(b, "           %8.1f MFLOP and %.1f MB a token: %.1f %% of the roofline, %.1f %% of peak\n",
               r->prefill_flops / (double)o->prompt * 1e-6, r->prefill_bytes / (double)o->prompt * 1e-6,
               100 * s.roofline, 100 * s.peak);
    buf_printf(b, "cache      %8.0f bytes a token, and %.2f MB\n", r->cache_bytes_per_token,
               (double)r->cache_fixed_bytes * 1e-6);
}

/* ---------------------------------------------------------------------------------------- command */

static int bench(int argc, char **argv) {
    struct bench_options o = {.precision = SONDE_PRECISION_FAST, .prompt = 512, .generate = 32, .batch = 1};
    struct bench_result result;
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    struct sonde_error e;
    const char *operands[1];
    int status = flags_parse(&command_bench, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    interrupt_arm();
    int rc = bench_measure(operands[0], &o, &result, &e);
    interrupt_disarm();
    if (interrupted())
        return interrupt_status();
    if (rc)
        return report(&e);
    if (o.json)
        print_json(&b, &o, &result);
    else
        print_text(&b, &o, &result);
    output_buf(&out, &b);
    return output_status(&out);
}

/* clang-format off */
static const struct flag flags[] = {
    DEVICE_FLAGS(struct bench_options, device),
    {.name = "precision", .kind = FLAG_CHOICE, .at = offsetof(struct bench_options, precision),
     .value = PRECISION_CHOICES, .help = "what is rounded on the way (default fast)"},
    {.name = "prompt", .kind = FLAG_COUNT, .at = offsetof(struct bench_options, prompt), .value = "N", .least = 1,
     .most = 1 << 24, .help = "tokens to prefill (default 512)"},
    {.name = "chunk", .kind = FLAG_COUNT, .at = offsetof(struct bench_options, chunk), .value = "N", .least = 1,
     .most = 65536, .help = "tokens computed at once (default: the prompt, at most 4096)"},
    {.name = "context", .kind = FLAG_COUNT, .at = offsetof(struct bench_options, context), .value = "N",
     .most = 1 << 24, .help = "tokens before the first decoded (default 0: the prompt)"},
    {.name = "read", .kind = FLAG_COUNT, .at = offsetof(struct bench_options, read), .value = "N",
     .most = UINT32_MAX, .help = "tokens of the context that are computed; the rest repeats their pages\n"
                                 "                              (default: all)"},
    {.name = "generate", .kind = FLAG_COUNT, .at = offsetof(struct bench_options, generate), .value = "N", .least = 1,
     .most = 1 << 24, .help = "tokens to decode, in five groups (default 32)"},
    {.name = "batch", .kind = FLAG_COUNT, .at = offsetof(struct bench_options, batch), .value = "N", .least = 1,
     .most = 4096, .help = "sequences decoded together (default 1)"},
    {.name = "json", .kind = FLAG_SWITCH, .at = offsetof(struct bench_options, json), .help = "one JSON object"},
};
/* clang-format on */

const struct command command_bench = {
    .name = "bench",
    .operands = "MODEL",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "speed, and how much of the machine's it is",
    .about = "Measures prefill and decoding on random tokens, after one run to warm up: medians of five.\n"
             "What this machine can do at most, with as many threads, is measured in between; bytes and\n"
             "operations are counted from the shapes. Nothing else should run meanwhile.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = bench,
};
