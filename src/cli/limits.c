/* limits.c - how fast this machine can read and multiply. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/limits_internal.h"

enum { MOST_SAMPLES = 1000, WAYS = 3, FLOPS_ITEMS = 16 };

#define HUGE_PAGE ((size_t)2 << 20)
#define PIECE     ((size_t)4 << 20) /* what a worker reads before it looks for the next */
#define USUAL     ((uint64_t)1 << 30)

static const uint32_t ways[WAYS] = {1, 4, 8}; /* streams of a worker */

struct limits {
    struct pool *pool;
    enum kernel_level level;
    uint8_t *memory; /* [workers, pieces, PIECE], on huge pages where the system gives them */
    void *map;
    size_t map_bytes;
    uint32_t pieces; /* a worker's own */
    uint64_t rounds; /* of an item of multiply-adds: about a millisecond */
    double bandwidth[WAYS][MOST_SAMPLES], flops[MOST_SAMPLES];
    uint32_t samples;
    /* the region in work */
    uint32_t streams;
    struct share {
        _Alignas(64) uint64_t sum; /* of what was read, or operations done */
    } * shares;
};

/* ----------------------------------------------------------------------------------------- memory */

/* What the system could give without swapping; 0 if it does not say. */
static uint64_t available_bytes(void) {
    char line[128];
    unsigned long long kilobytes = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    if (f)
        fclose(f);
    return (uint64_t)kilobytes << 10;
}

static uint64_t wanted_bytes(void) {
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    uint64_t bytes = max_u64(USUAL, 4 * (uint64_t)(cache > 0 ? cache : 0)), free_bytes = available_bytes();
    return free_bytes ? min_u64(bytes, free_bytes / 4) : bytes;
}

static void touch(void *context, uint32_t worker) {
    struct limits *l = context;
    uint32_t owner, item;
    while (pool_take(l->pool, 0, worker, &owner, &item))
        memset(l->memory + ((size_t)owner * l->pieces + item) * PIECE, (int)(owner + item) | 1, PIECE);
}

static int take_memory(struct limits *l, struct sonde_error *e) {
    uint32_t workers = pool_workers(l->pool);
    l->pieces = (uint32_t)max_u64(1, wanted_bytes() / PIECE / workers);
    l->map_bytes = workers * (size_t)l->pieces * PIECE + HUGE_PAGE;
    l->map = mmap(NULL, l->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (l->map == MAP_FAILED) {
        l->map = NULL;
        return err_memory(e);
    }
    uintptr_t start = ((uintptr_t)l->map + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    l->memory = (uint8_t *)start;
    madvise(l->memory, l->map_bytes - HUGE_PAGE, MADV_HUGEPAGE); /* small pages work too */
    pool_deal(l->pool, 0, l->pieces);
    pool_run(l->pool, touch, l);
    return SONDE_OK;
}

/* ---------------------------------------------------------------------------------------- samples */

static void read_pieces(void *context, uint32_t worker) {
    struct limits *l = context;
    uint32_t owner, item;
    while (pool_take(l->pool, 0, worker, &owner, &item))
        l->shares[worker].sum ^=
            kernel_probe_read(l->level, l->memory + ((size_t)owner * l->pieces + item) * PIECE, PIECE, l->streams);
}

static double sample_bandwidth(struct limits *l, uint32_t streams) {
    l->streams = streams;
    pool_deal(l->pool, 0, l->pieces);
    double started = clock_seconds();
    pool_run(l->pool, read_pieces, l);
    return (double)pool_workers(l->pool) * l->pieces * (double)PIECE / (clock_seconds() - started);
}

static void multiply(void *context, uint32_t worker) {
    struct limits *l = context;
    uint32_t owner, item;
    l->shares[worker].sum = 0;
    while (pool_take(l->pool, 0, worker, &owner, &item))
        l->shares[worker].sum += kernel_probe_flops(l->level, l->rounds);
}

static double sample_flops(struct limits *l) {
    uint64_t done = 0;
    pool_deal(l->pool, 0, FLOPS_ITEMS);
    double started = clock_seconds();
    pool_run(l->pool, multiply, l);
    double seconds = clock_seconds() - started;
    for (uint32_t w = 0; w < pool_workers(l->pool); w++)
        done += l->shares[w].sum;
    return (double)done / seconds;
}

/* Rounds of about a millisecond. */
static uint64_t calibrate(enum kernel_level level) {
    for (uint64_t rounds = 1000;; rounds *= 2) {
        double started = clock_seconds();
        kernel_probe_flops(level, rounds);
        if (clock_seconds() - started > 1e-3)
            return rounds;
    }
}

void limits_measure(struct limits *l) {
    if (l->samples == MOST_SAMPLES)
        return;
    for (int w = 0; w < WAYS; w++)
        l->bandwidth[w][l->samples] = sample_bandwidth(l, ways[w]);
    l->flops[l->samples] = sample_flops(l);
    l->samples++;
}

/* ---------------------------------------------------------------------------------------- results */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, size_t count) {
    qsort(values, count, sizeof(*values), by_value);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static double median_of(const double *values, uint32_t count) {
    double sorted[MOST_SAMPLES];
    memcpy(sorted, values, count * sizeof(*values));
    return median(sorted, count);
}

double limits_read_bandwidth(const struct limits *l) {
    double best = 0;
    for (int w = 0; w < WAYS; w++) {
        double middle = median_of(l->bandwidth[w], l->samples);
        best = middle > best ? middle : best;
    }
    return best;
}

double limits_peak_flops(const struct limits *l) {
    return median_of(l->flops, l->samples);
}

uint32_t limits_threads(const struct limits *l) {
    return pool_workers(l->pool);
}

uint32_t limits_samples(const struct limits *l) {
    return l->samples;
}

/* ---------------------------------------------------------------------------------------- latency */

enum { LATENCY_TIMES = 2000, LATENCY_SAMPLES = 9 };

static void do_nothing(void *context, uint32_t worker) {
    (void)context, (void)worker;
}

static void meet(void *context, uint32_t worker) {
    struct limits *l = context;
    (void)worker;
    for (int i = 0; i < LATENCY_TIMES; i++)
        pool_barrier(l->pool);
}

void limits_latency(struct limits *l, double *region, double *barrier) {
    double regions[LATENCY_SAMPLES], barriers[LATENCY_SAMPLES];
    for (int s = 0; s < LATENCY_SAMPLES; s++) {
        double started = clock_seconds();
        for (int i = 0; i < LATENCY_TIMES; i++)
            pool_run(l->pool, do_nothing, l);
        double middle = clock_seconds();
        pool_run(l->pool, meet, l);
        regions[s] = (middle - started) * 1e9 / LATENCY_TIMES;
        barriers[s] = (clock_seconds() - middle) * 1e9 / LATENCY_TIMES;
    }
    *region = median(regions, LATENCY_SAMPLES);
    *barrier = median(barriers, LATENCY_SAMPLES);
}

/* --------------------------------------------------------------------------------- open and close */

int limits_open(enum kernel_level level, uint32_t threads, struct limits **limits, struct sonde_error *e) {
    struct limits *l = calloc(1, sizeof(*l));
    if (!l)
        return err_memory(e);
    l->level = level;
    int rc = pool_open(threads, &l->pool, e);
    if (!rc) {
        size_t bytes = pool_workers(l->pool) * sizeof(*l->shares);
        l->shares = aligned_alloc(sizeof(*l->shares), bytes);
        rc = l->shares ? SONDE_OK : err_memory(e);
        if (l->shares)
            memset(l->shares, 0, bytes);
    }
    if (!rc)
        rc = take_memory(l, e);
    if (rc) {
        limits_close(l);
        return rc;
    }
    l->rounds = calibrate(level);
    *limits = l;
    return SONDE_OK;
}

void limits_close(struct limits *l) {
    if (!l)
        return;
    if (l->map)
        munmap(l->map, l->map_bytes);
    pool_close(l->pool);
    free(l->shares);
    free(l);
}
