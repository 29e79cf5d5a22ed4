/* train_scratch.h - a directory of a test's own, for the files it learns from. */
#ifndef TESTS_TRAIN_TRAIN_SCRATCH_H
#define TESTS_TRAIN_TRAIN_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "base/base.h"

static char scratch_directory[64];

/* For cmocka's groups. */
static inline int scratch_open(void **state) {
    (void)state;
    strcpy(scratch_directory, "/tmp/sonde-train-XXXXXX");
    return mkdtemp(scratch_directory) ? 0 : -1;
}

/* Removes a directory of files. */
static inline void scratch_remove(const char *directory) {
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[400];
        snprintf(path, sizeof(path), "%s/%.255s", directory, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(directory);
}

/* The path of a file there, the same string for the same name as long as the program runs. */
static inline const char *scratch_path(const char *name) {
    static char paths[16][128];
    char path[128];
    snprintf(path, sizeof(path), "%s/%.60s", scratch_directory, name);
    for (int i = 0; i < 16; i++) {
        if (!*paths[i])
            strcpy(paths[i], path);
        if (strcmp(paths[i], path) == 0)
            return paths[i];
    }
    fail_msg("more than 16 names of files");
    return NULL;
}

static inline int scratch_close(void **state) {
    (void)state;
    scratch_remove(scratch_path("cache"));
    scratch_remove(scratch_directory);
    return 0;
}

static inline void scratch_write(const char *name, const char *text) {
    CHECKED(file_write(scratch_path(name), text, strlen(text), &error));
}

#endif
