/* avx512.c - the avx512 level. */
#include "kernel/kernel_internal.h"

void kernel_table_init_avx512(struct kernel_table *t) {
    (void)t;
}
