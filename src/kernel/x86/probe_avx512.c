/* probe_avx512.c - how fast the avx512 level could be: vectors of 512 bits. */
#define PROBE_BYTES 64
#include "kernel/probe_lanes_internal.h"

const struct kernel_probe kernel_probe_of_avx512 = {probe_flops, probe_read};
