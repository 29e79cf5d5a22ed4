/*
 * cgroup.c - what the control groups of this process allow it.
 *
 * A process is in a group, and that in others up to the root; the least of their limits holds. /proc/self/cgroup has a
 * line for each hierarchy: "0::/group" of version 2, "4:cpu,cpuacct:/group" of version 1, where every hierarchy has
 * controllers of its own. Both are found where systems mount them. A group whose name is too long for `path` is left
 * out. https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

/* The first two numbers in a file, from a folder; false where the first is missing ("max"). */
static bool numbers(const char *directory, const char *name, double value[2]) {
    char path[1024];
    if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
        return false;
    FILE *f = fopen(path, "re");
    bool there = f && fscanf(f, "%lf %lf", &value[0], &value[1]) >= 1;
    if (f)
        fclose(f);
    return there;
}

static double processors_of(const char *directory, bool second) {
    double quota[2] = {0, 0}, period[2] = {0, 0};
    if (second)
        return numbers(directory, "cpu.max", quota) && quota[1] > 0 ? quota[0] / quota[1] : INFINITY;
    bool bounded = numbers(directory, "cpu.cfs_quota_us", quota) && quota[0] > 0; /* -1: no bound */
    return bounded && numbers(directory, "cpu.cfs_period_us", period) && period[0] > 0 ? quota[0] / period[0]
                                                                                       : INFINITY;
}

static double memory_of(const char *directory, bool second) {
    double bytes[2];
    return numbers(directory, second ? "memory.max" : "memory.limit_in_bytes", bytes) ? bytes[0] : INFINITY;
}

static bool has_controller(const char *list, const char *controller) {
    size_t n = strlen(controller);
    const char *at = list;
    while (strncmp(at, controller, n) != 0 || (at[n] != ',' && at[n] != 0)) {
        at = strchr(at, ',');
        if (!at)
            return false;
        at++;
    }
    return true;
}

/* The least that limit() gives for the group and those it is in: the folders from root/group up to root. */
static double least_of(const char *root, char *group, bool second, double (*limit)(const char *, bool)) {
    char path[1024];
    double least = INFINITY;
    for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
        *end = 0;
        if (snprintf(path, sizeof(path), "%s%s", root, group) < (int)sizeof(path))
            least = fmin(least, limit(path, second));
    }
    return least;
}

static double least_limit(const char *controller, double (*limit)(const char *directory, bool second)) {
    char line[512], root[64];
    double least = INFINITY;
    FILE *f = fopen("/proc/self/cgroup", "re");
    snprintf(root, sizeof(root), "/sys/fs/cgroup/%s", controller);
    while (f && fgets(line, sizeof(line), f)) {
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        if (!list[1])
            least = fmin(least, least_of("/sys/fs/cgroup", group, true, limit));
        else if (has_controller(list + 1, controller))
            least = fmin(least, least_of(root, group, false, limit));
    }
    if (f)
        fclose(f);
    return least;
}

double cgroup_processors(void) {
    return least_limit("cpu", processors_of);
}

double cgroup_memory(void) {
    return least_limit("memory", memory_of);
}

uint64_t memory_total(void) {
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    return (uint64_t)fmin(bytes, cgroup_memory());
}

enum { HUGE_PAGE = 1 << 21 };

void *memory_large(size_t bytes) {
    size_t page = bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : 64, size = ceil_div(bytes + 1, page) * page;
    void *memory = aligned_alloc(page, size);
#ifdef MADV_HUGEPAGE
    if (memory && page == HUGE_PAGE)
        madvise(memory, size, MADV_HUGEPAGE); /* small pages work too */
#endif
    return memory;
}
