/* probe.c - how fast this machine could be: the loops of each level, or of the nearest below that has them. */
#include "kernel/probe_internal.h"

static const struct {
    enum kernel_level below;
    const struct kernel_probe *probe; /* NULL: none */
} levels[] = {
#define PROBE_ROW(name, below) {KERNEL_LEVEL_##below, KERNEL_PROBE_##name},
    KERNEL_LEVELS(PROBE_ROW)
#undef PROBE_ROW
};

uint64_t kernel_probe_flops(enum kernel_level level, uint64_t rounds) {
    while (!levels[level].probe || !levels[level].probe->flops)
        level = levels[level].below;
    return levels[level].probe->flops(rounds);
}

uint64_t kernel_probe_read(enum kernel_level level, const void *memory, size_t bytes, uint32_t streams) {
    while (!levels[level].probe || !levels[level].probe->read)
        level = levels[level].below;
    return levels[level].probe->read(memory, bytes, streams);
}
