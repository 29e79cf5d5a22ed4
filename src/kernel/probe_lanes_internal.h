/*
 * probe_lanes_internal.h - both probing loops over vectors of PROBE_BYTES bytes, which the including file defines.
 *
 * The compiler's own vectors are enough: the including file's flags make of them the widest loads there are, and one
 * fused multiply-add where contraction is allowed. Twelve sums cover four cycles of latency on two or three units and
 * leave registers for the factors on machines with sixteen.
 */
#include "kernel/probe_internal.h"

typedef float probe_floats __attribute__((vector_size(PROBE_BYTES)));
typedef uint64_t probe_words __attribute__((vector_size(PROBE_BYTES)));

enum { PROBE_SUMS = 12, PROBE_TURN = 128 /* bytes of a stream read at a time */ };

/* Where results go that nobody wants, so that they must be computed. */
static inline void probe_keep(probe_floats x) {
    volatile float sink = x[0];
    (void)sink;
}

static uint64_t probe_flops(uint64_t rounds) {
    volatile float nearly_one = 0.999f, small = 0.001f;
    probe_floats factor = nearly_one - (probe_floats){0}, term = small - (probe_floats){0}, sum[PROBE_SUMS];
    for (int i = 0; i < PROBE_SUMS; i++)
        sum[i] = term * (float)i;
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < PROBE_SUMS; i++)
            sum[i] = sum[i] * factor + term;
    for (int i = 1; i < PROBE_SUMS; i++)
        sum[0] += sum[i];
    probe_keep(sum[0]);
    return rounds * PROBE_SUMS * 2 * (PROBE_BYTES / sizeof(float));
}

/* `streams` of them, a constant where this is called, each through a part of its own. */
static inline __attribute__((always_inline)) uint64_t probe_streams(const uint8_t *memory, size_t bytes,
                                                                    const int streams) {
    size_t part = bytes / (size_t)streams;
    probe_words sum[8] = {{0}};
    for (size_t at = 0; at < part; at += PROBE_TURN)
        for (int s = 0; s < streams; s++)
            for (int i = 0; i < PROBE_TURN; i += PROBE_BYTES)
                sum[s] ^= *(const probe_words *)(const void *)(memory + (size_t)s * part + at + (size_t)i);
    for (int s = 1; s < streams; s++)
        sum[0] ^= sum[s];
    uint64_t all = 0;
    for (size_t i = 0; i < PROBE_BYTES / sizeof(uint64_t); i++)
        all ^= sum[0][i];
    return all;
}

static uint64_t probe_read(const void *memory, size_t bytes, uint32_t streams) {
    switch (streams) {
    case 8:
        return probe_streams(memory, bytes, 8);
    case 4:
        return probe_streams(memory, bytes, 4);
    default:
        return probe_streams(memory, bytes, 1);
    }
}
