/* bench.h - times every kernel of a table on the shapes of the released models, one line each. */
#ifndef TESTS_KERNEL_BENCH_H
#define TESTS_KERNEL_BENCH_H

#include "kernel/kernel.h"

/* kernel: what the names of those wanted begin with; NULL: all. False if there is no memory for the weights. */
bool bench_kernels(const struct kernel_table *t, const char *level, const char *kernel);

#endif
