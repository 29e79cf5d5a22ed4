/* avx2.c - the avx2 level. */
#include "kernel/kernel_internal.h"

void kernel_table_init_avx2(struct kernel_table *t) {
    (void)t;
}
