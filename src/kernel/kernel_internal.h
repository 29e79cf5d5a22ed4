/*
 * kernel_internal.h - what a level gives: an initialiser, which overrides the entries it does better, and whether
 * it runs here.
 *
 * The build defines KERNEL_X86 or KERNEL_ARM for the family whose files are in it.
 */
#ifndef KERNEL_KERNEL_INTERNAL_H
#define KERNEL_KERNEL_INTERNAL_H

#include "kernel/kernel.h"

/* A statement for a matrix of a format that has loops of its own, FP4, FP8 or BF16, in which F is that format and
 * constant. */
#define WITH_FORMAT(matrix, F, ...)                                                                                    \
    do {                                                                                                               \
        if ((matrix)->format == FORMAT_FP4) {                                                                          \
            const enum format F = FORMAT_FP4;                                                                          \
            __VA_ARGS__;                                                                                               \
        } else if ((matrix)->format == FORMAT_FP8) {                                                                   \
            const enum format F = FORMAT_FP8;                                                                          \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            const enum format F = FORMAT_BF16;                                                                         \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

void kernel_table_init_c(struct kernel_table *t, bool invariant);
static inline bool kernel_runs_c(void) {
    return true;
}
#define KERNEL_INIT_c kernel_table_init_c
#define KERNEL_RUNS_c kernel_runs_c

#ifdef KERNEL_X86
void kernel_table_init_avx2(struct kernel_table *t, bool invariant);
void kernel_table_init_avx512(struct kernel_table *t, bool invariant);
void kernel_table_init_amx(struct kernel_table *t, bool invariant);
/* x86/detect.c: the processor has the instructions and the operating system keeps their registers. */
bool kernel_runs_avx2(void);
bool kernel_runs_avx512(void);
bool kernel_runs_amx(void);
#define KERNEL_INIT_avx2   kernel_table_init_avx2
#define KERNEL_INIT_avx512 kernel_table_init_avx512
#define KERNEL_INIT_amx    kernel_table_init_amx
#define KERNEL_RUNS_avx2   kernel_runs_avx2
#define KERNEL_RUNS_avx512 kernel_runs_avx512
#define KERNEL_RUNS_amx    kernel_runs_amx
#else
#define KERNEL_INIT_avx2   NULL
#define KERNEL_INIT_avx512 NULL
#define KERNEL_INIT_amx    NULL
#define KERNEL_RUNS_avx2   NULL
#define KERNEL_RUNS_avx512 NULL
#define KERNEL_RUNS_amx    NULL
#endif

#ifdef KERNEL_ARM
void kernel_table_init_neon(struct kernel_table *t, bool invariant);
void kernel_table_init_bf16(struct kernel_table *t, bool invariant);
/* arm/detect.c */
bool kernel_runs_neon(void);
bool kernel_runs_bf16(void);
#define KERNEL_INIT_neon kernel_table_init_neon
#define KERNEL_INIT_bf16 kernel_table_init_bf16
#define KERNEL_RUNS_neon kernel_runs_neon
#define KERNEL_RUNS_bf16 kernel_runs_bf16
#else
#define KERNEL_INIT_neon NULL
#define KERNEL_INIT_bf16 NULL
#define KERNEL_RUNS_neon NULL
#define KERNEL_RUNS_bf16 NULL
#endif

#endif
