/* test_levels.c - the levels of kernels that run here are those named on the command line, and no others. */
#include <stdio.h>

#include "kernel/kernel.h"

static bool is_named(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return false;
}

int main(int argc, char **argv) {
    bool all = true;
    printf("1..%d\n", (int)KERNEL_LEVEL_COUNT);
    for (int i = 0; i < KERNEL_LEVEL_COUNT; i++) {
        const char *name = kernel_level_name((enum kernel_level)i);
        bool wanted = is_named(argc, argv, name), good = kernel_level_runs((enum kernel_level)i) == wanted;
        printf("%sok %d - level %s %s\n", good ? "" : "not ", i + 1, name, wanted ? "runs" : "does not run");
        all &= good;
    }
    return all ? 0 : 1;
}
