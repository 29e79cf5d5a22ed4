/*
 * checkpoint_scratch.h - temporary directories that the checkpoint tests fill, break and drop.
 *
 * Everything here asserts: a test whose preparation fails has failed.
 */
#ifndef TESTS_UNIT_CHECKPOINT_SCRATCH_H
#define TESTS_UNIT_CHECKPOINT_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

#include "checkpoint/checkpoint.h"

#define GOLDEN_SHARD "model-00001-of-00001.safetensors"
#define GOLDEN_INDEX "model.safetensors.index.json"

/* "DIRECTORY/NAME" in one of a few static buffers: good for the statement it stands in. */
static inline const char *scratch_path(const char *directory, const char *name) {
    static char paths[4][600];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

static inline void scratch_open(char directory[64]) {
    strcpy(directory, "/tmp/sonde-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(directory));
}

static inline void scratch_close(const char *directory) {
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove(scratch_path(directory, entry->d_name));
    if (d)
        closedir(d);
    remove(directory);
}

static inline void scratch_write(const char *directory, const char *name, const void *bytes, size_t count) {
    const char *path = scratch_path(directory, name);
    struct sonde_error e;
    unlink(path);
    if (file_write(path, bytes, count, &e))
        fail_msg("%s", e.message);
}

static inline void scratch_read(const char *directory, const char *name, struct buf *b) {
    struct sonde_error e;
    buf_clear(b);
    if (file_read(scratch_path(directory, name), (size_t)1 << 30, b, &e))
        fail_msg("%s", e.message);
}

/* Links the files of a golden case into the directory, which is then a checkpoint at no cost. Editing replaces
 * the link, never the case. */
static inline void scratch_link(const char *directory, const char *golden) {
    static const char *const names[] = {"config.json", GOLDEN_SHARD, GOLDEN_INDEX};
    char from[300], here[200];
    assert_non_null(getcwd(here, sizeof(here)));
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        snprintf(from, sizeof(from), "%s/%s/%.40s", here, golden, names[i]);
        assert_int_equal(symlink(from, scratch_path(directory, names[i])), 0);
    }
}

/* A safetensors file out of a header and what follows it; the length says what is there. */
static inline void scratch_safetensors(const char *directory, const char *name, const char *header, const void *data,
                                       size_t count) {
    struct buf b = {0};
    uint64_t n = strlen(header);
    for (int i = 0; i < 8; i++)
        buf_byte(&b, (char)(n >> 8 * i & 255));
    buf_string(&b, header);
    buf_append(&b, data, count);
    assert_false(b.failed);
    scratch_write(directory, name, b.data, b.len);
    buf_release(&b);
}

#endif
