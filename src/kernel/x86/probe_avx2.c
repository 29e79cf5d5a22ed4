/* probe_avx2.c - how fast the avx2 level could be: vectors of 256 bits. */
#define PROBE_BYTES 32
#include "kernel/probe_lanes_internal.h"

const struct kernel_probe kernel_probe_of_avx2 = {probe_flops, probe_read};
