/*
 * spill_scratch.h - a store of pieces in a directory of its own, and pieces whose bytes follow from their keys.
 *
 * The store's thread is held up where a test needs it by a log that waits: a piece larger than the limit is a line.
 */
#ifndef TESTS_UNIT_SPILL_SCRATCH_H
#define TESTS_UNIT_SPILL_SCRATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "cache/spill_internal.h"

/* ------------------------------------------------------------------------------------ a directory */

static char scratch[64]; /* holds the store's directory and nothing else */
static char store_path[80];
static struct spill *store;

struct lines {
    int count;
    char last[512];
    sem_t *hold; /* not NULL: the next line posts `held` and waits for this */
    sem_t *held;
};

static struct lines lines;

static inline void take_line(void *context, const char *line) {
    struct lines *l = context;
    l->count++;
    snprintf(l->last, sizeof(l->last), "%s", line);
    if (l->hold) {
        sem_t *wait_for = l->hold;
        l->hold = NULL;
        sem_post(l->held);
        sem_wait(wait_for);
    }
}

static inline const char *path_of(const char *name) {
    static char path[400];
    snprintf(path, sizeof(path), "%s/%s", store_path, name);
    return path;
}

static inline struct spill_options options_of(uint64_t limit, uint8_t identity) {
    struct spill_options o = {.directory = store_path, .limit = limit, .log = take_line, .context = &lines};
    memset(o.identity, identity, sizeof(o.identity));
    return o;
}

static inline void open_as(uint64_t limit, uint8_t identity) {
    struct spill_options o = options_of(limit, identity);
    CHECKED(spill_open(&o, &store, &error));
}

static inline void open_store(uint64_t limit) {
    open_as(limit, 7);
}

static inline void close_store(void) {
    spill_close(store);
    store = NULL;
}

static inline int set_up(void **state) {
    (void)state;
    strcpy(scratch, "/tmp/sonde-spill-XXXXXX");
    if (!mkdtemp(scratch))
        return -1;
    snprintf(store_path, sizeof(store_path), "%s/store", scratch);
    memset(&lines, 0, sizeof(lines));
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    close_store();
    DIR *d = opendir(store_path);
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove(path_of(entry->d_name));
    if (d)
        closedir(d);
    remove(store_path);
    return rmdir(scratch);
}

/* Files whose names end so; the last one's name is copied unless NULL. */
static inline int files_ending(const char *end, char name[256]) {
    int count = 0;
    DIR *d = opendir(store_path);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        size_t n = strlen(entry->d_name), m = strlen(end);
        if (n < m || strcmp(entry->d_name + n - m, end) != 0)
            continue;
        if (name)
            snprintf(name, 256, "%s", entry->d_name);
        count++;
    }
    closedir(d);
    return count;
}

static inline void write_file(const char *name, const void *bytes, size_t count) {
    unlink(path_of(name));
    int fd = open(path_of(name), O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), count);
    close(fd);
}

/* ----------------------------------------------------------------------------------------- pieces */

static inline struct spill_key key_of(uint8_t kind, uint64_t length, uint64_t n) {
    return (struct spill_key){kind, length, {n * 0x9e3779b97f4a7c15, n}};
}

/* The bytes of piece n: noise, or a short pattern over and over. */
static inline void fill(uint8_t *bytes, size_t count, uint64_t n, bool noise) {
    struct rng r;
    rng_init(&r, n);
    for (size_t i = 0; i < count; i++)
        bytes[i] = noise ? (uint8_t)rng_u64(&r) : (uint8_t)(i % 7 + n);
}

static inline void put_into(struct spill *s, struct spill_key key, size_t bytes, bool noise) {
    uint8_t *data = malloc(bytes + 1);
    assert_non_null(data);
    fill(data, bytes, key.hash[1], noise);
    struct spill_part parts[3] = {{data, bytes / 3}, {NULL, 0}, {data + bytes / 3, bytes - bytes / 3}};
    CHECKED(spill_put(s, &key, parts, COUNT_OF(parts), &error));
    free(data);
}

static inline void put(struct spill_key key, size_t bytes) {
    put_into(store, key, bytes, true);
}

/* False if there is none; what is found must be what was put. */
static inline bool get(struct spill_key key, size_t bytes, bool noise) {
    void *data = NULL;
    size_t count = 0;
    bool found;
    CHECKED(spill_get(store, &key, &data, &count, &found, &error));
    if (!found)
        return false;
    uint8_t *expected = malloc(bytes + 1);
    assert_non_null(expected);
    fill(expected, bytes, key.hash[1], noise);
    assert_int_equal(count, bytes);
    assert_int_equal((uintptr_t)data % 64, 0);
    assert_memory_equal(data, expected, bytes);
    free(expected);
    free(data);
    return true;
}

static inline bool has(struct spill_key key) {
    return spill_has(store, &key);
}

/* Holds the store's thread up until release(): a piece too large to store is logged, and the log waits. */
static sem_t hold, held;

static inline void hold_up(void) {
    sem_init(&hold, 0, 0);
    sem_init(&held, 0, 0);
    lines.hold = &hold;
    lines.held = &held;
    put(key_of('z', 0, 999999), 1 << 20);
    sem_wait(&held);
}

static inline void release(void) {
    sem_post(&hold);
}

static inline void there_are(const char *expected) {
    char text[40] = "";
    for (uint64_t n = 0; n < 10; n++)
        if (has(key_of('p', 1, n)))
            snprintf(text + strlen(text), sizeof(text) - strlen(text), "%llu", (unsigned long long)n);
    assert_string_equal(text, expected);
}

static inline void lengths_are(uint8_t kind, uint64_t most, const char *expected) {
    uint64_t *lengths;
    size_t count;
    char text[200] = "";
    CHECKED(spill_lengths(store, kind, most, &lengths, &count, &error));
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%llu ", (unsigned long long)lengths[i]);
    assert_string_equal(text, expected);
    assert_true(count || !lengths);
    free(lengths);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
