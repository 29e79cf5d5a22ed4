/* probe_c.c - how fast the c level could be: vectors of 128 bits. */
#define PROBE_BYTES 16
#include "kernel/probe_lanes_internal.h"

const struct kernel_probe kernel_probe_of_c = {probe_flops, probe_read};
