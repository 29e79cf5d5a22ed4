/*
 * prefetch.c - models larger than memory.
 *
 * Weights are mapped, and the kernel decides which of their pages stay. It does that well: what every token reads is
 * used again before its turn to go comes, so dense weights stay and experts come and go, the least recently used
 * first. What it cannot know is what comes next. A page fault finds that out late and guesses the rest: it reads as
 * much around the page as the disk's read-ahead says, neighbours that nobody asked for among it, and one such piece at
 * a time. The router does know. So once it has spoken the ranges of all chosen experts are asked for, and only then
 * does the first of them run; the disk has all of them to work on meanwhile, and reads nothing else. Rows of an
 * embedding are asked for in the same way: around one of them a fault would read a thousand that are not wanted.
 *
 * Asking for what is there already costs time too. So it is decided once, when weights are known and before the first
 * step, whether they may be larger than the memory this process can have; a model that fits never comes here.
 *
 *     experts of one batch <= cpu->ahead bytes     what has been read must not be evicted before it is used
 *     one request          <= REQUEST bytes        madvise() cuts longer ones short, at the disk's read-ahead or its
 *                                                  largest transfer, whichever is more, and does not say so
 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/cpu/cpu_internal.h"

enum { REQUEST = 128 << 10 };

/* ---------------------------------------------------------------------------------------- memory */

/* Bytes this process can have, pages of files that can be dropped among them; UINT64_MAX: unknown. */
static uint64_t memory_room(void) {
    char line[128];
    unsigned long long kilobytes;
    double bound = cgroup_memory();
    uint64_t room = UINT64_MAX;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %llu", &kilobytes) == 1)
            room = (uint64_t)kilobytes << 10;
    if (f)
        fclose(f);
    return bound < (double)room ? (uint64_t)bound : room;
}

void cpu_prefetch_decide(struct cpu *cpu) {
    uint64_t room = memory_room();
    bool fits = cpu->weights_bytes <= room - room / 8; /* caches and scratch want some too */
    cpu->ahead = fits ? 0 : room / 8;
}

/* --------------------------------------------------------------------------------------- reading */

/* Starts reading what is not there; only advice, so that failure does not matter. */
static void ask(const void *at, uint64_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)at / page * page, to = (uintptr_t)at + bytes;
    for (; from < to; from += REQUEST)
        madvise((void *)from, min_u64(REQUEST, to - from), MADV_WILLNEED);
}

static void ask_matrix(const struct matrix *m) {
    struct matrix bare = *m;
    bare.scale_format = SCALE_NONE;
    uint64_t bytes = matrix_bytes(&bare);
    if (m->scale)
        ask(m->scale, matrix_bytes(m) - bytes);
    ask(m->data, bytes);
}

void cpu_prefetch_expert(const struct device_expert *x) {
    ask_matrix(&x->w1);
    ask_matrix(&x->w3);
    ask_matrix(&x->w2);
}

void cpu_prefetch_rows(const struct matrix *m, const int64_t *ids, uint32_t count) {
    struct matrix row = *m;
    row.rows = 1;
    row.scale_format = SCALE_NONE; /* scales are small */
    uint64_t bytes = matrix_bytes(&row);
    for (uint32_t i = 0; i < count; i++)
        ask((const uint8_t *)m->data + (uint64_t)ids[i] * bytes, bytes);
}
