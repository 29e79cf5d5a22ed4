/*
 * table.c - the levels: which are built, which run here, and their tables.
 *
 * A level that is not built for this processor's family has no init function and is never said to run.
 */
#include "kernel/kernel_internal.h"

static const struct level {
    const char *name;
    enum kernel_level below;
    void (*init)(struct kernel_table *t, bool invariant); /* NULL: not built */
    bool (*runs)(void);
} levels[] = {
#define LEVEL_ROW(name, below) {#name, KERNEL_LEVEL_##below, KERNEL_INIT_##name, KERNEL_RUNS_##name},
    KERNEL_LEVELS(LEVEL_ROW)
#undef LEVEL_ROW
};

void kernel_table_init(struct kernel_table *t, enum kernel_level level, bool invariant) {
    if (levels[level].below != level)
        kernel_table_init(t, levels[level].below, invariant);
    if (levels[level].init)
        levels[level].init(t, invariant);
}

bool kernel_level_runs(enum kernel_level level) {
    const struct level *l = &levels[level];
    return l->init && l->runs() && (l->below == level || kernel_level_runs(l->below));
}

enum kernel_level kernel_level_best(void) {
    enum kernel_level best = KERNEL_LEVEL_c;
    for (int i = 0; i < KERNEL_LEVEL_COUNT; i++)
        if (kernel_level_runs((enum kernel_level)i))
            best = (enum kernel_level)i;
    return best;
}

const char *kernel_level_name(enum kernel_level level) {
    return levels[level].name;
}

bool kernel_level_parse(const char *name, enum kernel_level *level) {
    for (int i = 0; i < KERNEL_LEVEL_COUNT; i++)
        if (strcmp(name, levels[i].name) == 0) {
            *level = (enum kernel_level)i;
            return true;
        }
    return false;
}
