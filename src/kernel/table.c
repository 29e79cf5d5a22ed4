/* table.c - which level is there, and its table. */
#include "kernel/kernel_internal.h"

static void (*const init[])(struct kernel_table *) = {[KERNEL_LEVEL_C] = kernel_table_init_c};
static const char *const names[] = {[KERNEL_LEVEL_C] = "c"};

void kernel_table_init(struct kernel_table *t, enum kernel_level level) {
    for (int i = 0; i <= (int)level; i++)
        init[i](t);
}

enum kernel_level kernel_level_best(void) {
    return KERNEL_LEVEL_C;
}

const char *kernel_level_name(enum kernel_level level) {
    return names[level];
}
