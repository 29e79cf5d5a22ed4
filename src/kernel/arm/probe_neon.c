/* probe_neon.c - how fast the neon level could be: vectors of 128 bits, multiplied and added in one instruction. */
#define PROBE_BYTES 16
#include "kernel/probe_lanes_internal.h"

const struct kernel_probe kernel_probe_of_neon = {probe_flops, probe_read};
