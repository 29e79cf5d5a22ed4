/* amx.c - the amx level. */
#include "kernel/kernel_internal.h"

void kernel_table_init_amx(struct kernel_table *t) {
    (void)t;
}
