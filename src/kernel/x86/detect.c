/*
 * detect.c - which x86 levels run here.
 *
 * CPUID tells what the processor has, XGETBV which registers the operating system saves, and Linux gives the tile
 * registers, 8 KB a thread, only to a process that asks (arch_prctl, Documentation/arch/x86/xstate.rst).
 */
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/kernel_internal.h"

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

/* bits of XCR0 */
enum { STATE_AVX = 0x6, STATE_AVX512 = 0xe6, STATE_AMX = 0x60000 };

struct features {
    unsigned leaf1_c, leaf7_b, leaf7_c, leaf7_d, leaf7_1_a;
    unsigned state;
};

static struct features features(void) {
    struct features f = {0};
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return f;
    f.leaf1_c = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        f.leaf7_b = b;
        f.leaf7_c = c;
        f.leaf7_d = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            f.leaf7_1_a = a;
    }
    if (f.leaf1_c & bit_OSXSAVE) {
        unsigned high;
        __asm__("xgetbv" : "=a"(f.state), "=d"(high) : "c"(0));
    }
    return f;
}

static bool has(unsigned word, unsigned bits) {
    return (word & bits) == bits;
}

bool kernel_runs_avx2(void) {
    struct features f = features();
    return has(f.state, STATE_AVX) && has(f.leaf1_c, bit_AVX | bit_FMA | bit_F16C) && has(f.leaf7_b, bit_AVX2);
}

bool kernel_runs_avx512(void) {
    struct features f = features();
    return has(f.state, STATE_AVX512) && has(f.leaf7_b, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
           has(f.leaf7_c, bit_AVX512VBMI | bit_AVX512VNNI);
}

bool kernel_runs_amx(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AVX512_BF16 = 1 << 5 };
    struct features f = features();
    return has(f.state, STATE_AMX) && has(f.leaf7_d, AMX_BF16 | AMX_TILE) && has(f.leaf7_1_a, AVX512_BF16) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
