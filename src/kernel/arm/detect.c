/*
 * detect.c - which Arm levels run here: Linux says in two words what the processor has and the system keeps
 * (Documentation/arch/arm64/elf_hwcaps.rst).
 */
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "kernel/kernel_internal.h"

static bool has(unsigned long type, unsigned long bits) {
    return (getauxval(type) & bits) == bits;
}

bool kernel_runs_neon(void) {
    return has(AT_HWCAP, HWCAP_ASIMD);
}

bool kernel_runs_bf16(void) {
    return has(AT_HWCAP2, HWCAP2_BF16 | HWCAP2_I8MM);
}
