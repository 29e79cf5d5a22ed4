/* kernel_internal.h - one initialiser a level: each overrides the entries it does better. */
#ifndef KERNEL_KERNEL_INTERNAL_H
#define KERNEL_KERNEL_INTERNAL_H

#include "kernel/kernel.h"

void kernel_table_init_c(struct kernel_table *t);

#endif
