/*
 * probe_internal.h - what a level gives to measure the machine by: a loop that does nothing but the level's fastest
 * multiply-adds, and one that does nothing but read. NULL: as the level it stands on.
 */
#ifndef KERNEL_PROBE_INTERNAL_H
#define KERNEL_PROBE_INTERNAL_H

#include "kernel/kernel.h"

struct kernel_probe {
    uint64_t (*flops)(uint64_t rounds);
    uint64_t (*read)(const void *memory, size_t bytes, uint32_t streams);
};

extern const struct kernel_probe kernel_probe_of_c;
#define KERNEL_PROBE_c &kernel_probe_of_c

#ifdef KERNEL_X86
extern const struct kernel_probe kernel_probe_of_avx2, kernel_probe_of_avx512, kernel_probe_of_amx;
#define KERNEL_PROBE_avx2   &kernel_probe_of_avx2
#define KERNEL_PROBE_avx512 &kernel_probe_of_avx512
#define KERNEL_PROBE_amx    &kernel_probe_of_amx
#else
#define KERNEL_PROBE_avx2   NULL
#define KERNEL_PROBE_avx512 NULL
#define KERNEL_PROBE_amx    NULL
#endif

#ifdef KERNEL_ARM
extern const struct kernel_probe kernel_probe_of_neon, kernel_probe_of_bf16;
#define KERNEL_PROBE_neon &kernel_probe_of_neon
#define KERNEL_PROBE_bf16 &kernel_probe_of_bf16
#else
#define KERNEL_PROBE_neon NULL
#define KERNEL_PROBE_bf16 NULL
#endif

#endif
