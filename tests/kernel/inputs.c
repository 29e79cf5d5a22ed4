/*
 * inputs.c - random floats in guarded memory.
 *
 * A buffer is a mapping of its own: guard words, the data, and an unreadable page, so that a read past the end faults;
 * for half of the buffers further guard words lie before that page, so that starts are aligned to a float and no more.
 */
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inputs.h"

enum { BUFFERS = 12, GUARD = 16 };
#define GUARD_WORD 0x5eed5eedu

static struct guarded {
    uint8_t *map;
    size_t map_bytes, count, slack; /* floats behind the data */
    float *data;
} buffers[BUFFERS];
static int used;

struct rng rng;
_Alignas(64) uint8_t scratch[KERNEL_SCRATCH_BYTES];

uint32_t up_to(uint32_t n) {
    return 1 + (uint32_t)(rng_u64(&rng) % n);
}

float random_float(void) {
    float x = (float)(2 * rng_unit(&rng) - 1);
    switch (rng_u64(&rng) % 32) {
    case 0:
        return 0;
    case 1:
        return x * 1e4f;
    case 2:
        return x * 1e-6f;
    default:
        return x;
    }
}

void make_extreme(float *x, size_t n) {
    uint32_t exponent = (uint32_t)(rng_u64(&rng) % 254), kind = (uint32_t)(rng_u64(&rng) % 8);
    for (size_t i = 0; i < n && kind < 4; i++) {
        uint32_t bits = (uint32_t)rng_u64(&rng);
        x[i] = bits_float(kind ? (bits & 0x81ffffff) + (exponent << 23) : bits);
    }
}

float *floats(size_t count) {
    assert_true(used < BUFFERS);
    struct guarded *g = &buffers[used++];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (count + 2 * GUARD) * sizeof(float);
    g->map_bytes = (bytes + page - 1) / page * page + page;
    g->map = mmap(NULL, g->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g->map != MAP_FAILED);
    assert_int_equal(mprotect(g->map + g->map_bytes - page, page, PROT_NONE), 0);
    g->count = count;
    g->slack = rng_u64(&rng) & 1 ? rng_u64(&rng) % GUARD : 0;
    g->data = (float *)(void *)(g->map + g->map_bytes - page) - count - g->slack;
    for (int i = 1; i <= GUARD; i++)
        g->data[-i] = bits_float(GUARD_WORD);
    for (size_t i = 0; i < g->slack; i++)
        g->data[count + i] = bits_float(GUARD_WORD);
    for (size_t i = 0; i < count; i++)
        g->data[i] = random_float();
    return g->data;
}

bool floats_release(void) {
    bool whole = true;
    while (used) {
        struct guarded *g = &buffers[--used];
        for (int i = 1; i <= GUARD; i++)
            whole &= float_bits(g->data[-i]) == GUARD_WORD;
        for (size_t i = 0; i < g->slack; i++)
            whole &= float_bits(g->data[g->count + i]) == GUARD_WORD;
        munmap(g->map, g->map_bytes);
    }
    return whole;
}

double dot_error(double magnitude, size_t n) {
    return 16 * UNIT * magnitude * (1 + (double)n / 128) + (double)n * 0x1p-126;
}

bool near_dot(float got, double want, double magnitude, size_t n) {
    return fabs((double)got - want) <= dot_error(magnitude, n);
}

bool near_ulp(float got, double want, double ulps) {
    return fabs((double)got - want) <= ulps * 2 * UNIT * fabs(want) + 1e-38;
}
