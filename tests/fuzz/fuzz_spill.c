/*
 * fuzz_spill.c - any bytes as the file of a stored piece: what is found after opening is what the file says, and a file
 * that is not taken is logged in one line and gone.
 *
 * The first byte of the input makes the rest right, for no mutation guesses a hash:
 *
 *     bit 0      magic, version, key, identity and the body's size
 *     bit 1      the body's hash
 *     bit 2      the header's hash
 *     bit 3      the body is read by itself, before which a header is put that is all 0 but for the byte's bits 4 to 7
 *                and the next two bytes: how it is stored, and the piece's size
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "cache/cache.h"

enum { HEADER = 128, NAME = 91 };

static const struct spill_key key = {'p', 0x400, {1, 2}};
static const char name[NAME] = "p-0000000000000400-00000000000000010000000000000002-"
                               "00000000000000000000000000000000.sonde";
static char directory[64], path[64 + 1 + NAME];

static void must(int condition) {
    if (!condition)
        abort();
}

static void count_line(void *context, const char *line) {
    must(line[0] && strstr(line, name));
    ++*(int *)context;
}

static void leave(void) {
    char lock[80];
    snprintf(lock, sizeof(lock), "%s/lock", directory);
    unlink(path);
    unlink(lock);
    rmdir(directory);
}

/* In memory where there is such a directory: thousands of files a second. */
static void enter(void) {
    snprintf(directory, sizeof(directory), "%s/sonde-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    must(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    atexit(leave);
}

static void put_number(uint8_t *at, int bytes, uint64_t value) {
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static void put_hash(uint8_t *at, const uint8_t *bytes, size_t count) {
    XXH128_hash_t h = XXH3_128bits(bytes, count);
    put_number(at, 8, h.low64);
    put_number(at + 8, 8, h.high64);
}

static void make_right(uint8_t *file, size_t count, unsigned what) {
    if (what & 1) {
        memcpy(file, "SONDEPCE", 8);
        put_number(file + 8, 4, 1);
        file[12] = key.kind;
        memset(file + 16, 0, 16);
        put_number(file + 32, 8, key.length);
        put_number(file + 40, 8, key.hash[0]);
        put_number(file + 48, 8, key.hash[1]);
        put_number(file + 64, 8, count - HEADER);
    }
    if (what & 2)
        put_hash(file + 80, file + HEADER, count - HEADER);
    if (what & 4)
        put_hash(file + 112, file, 112);
}

/* The file that the input describes; the caller frees it. */
static uint8_t *file_of(const uint8_t *bytes, size_t size, size_t *count) {
    unsigned what = bytes[0];
    size_t skip = what & 8 && size >= 3 ? 3 : 1, header = skip == 3 ? HEADER : 0;
    uint8_t *file = calloc(1, header + size - skip + 1);
    must(file != NULL);
    memcpy(file + header, bytes + skip, size - skip);
    *count = header + size - skip;
    if (header) {
        file[13] = (uint8_t)(what >> 4);
        put_number(file + 56, 8, bytes[1] | (uint64_t)bytes[2] << 8);
    }
    if (*count >= HEADER)
        make_right(file, *count, what);
    return file;
}

static void store_file(const uint8_t *file, size_t count) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0 && write(fd, file, count) == (ssize_t)count);
    close(fd);
}

/* A piece that was found is as large as its header says, and if it is not compressed it is the body. */
static void check_piece(const uint8_t *file, const uint8_t *data, size_t bytes) {
    uint64_t stated = 0;
    for (int i = 0; i < 8; i++)
        stated |= (uint64_t)file[56 + i] << 8 * i;
    must(bytes == stated && (uintptr_t)data % 64 == 0);
    if (file[13] == 0)
        must(memcmp(data, file + HEADER, bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    int lines = 0;
    size_t count, found_bytes = 0;
    void *data = NULL;
    bool found;
    struct spill *s;
    if (size == 0)
        return 0;
    if (!directory[0])
        enter();
    uint8_t *file = file_of(bytes, size, &count);
    store_file(file, count);
    struct spill_options o = {.directory = directory, .limit = 1 << 20, .log = count_line, .context = &lines};
    must(spill_open(&o, &s, NULL) == 0);
    must(spill_get(s, &key, &data, &found_bytes, &found, NULL) == 0);
    if (found)
        check_piece(file, data, found_bytes);
    must(found == spill_has(s, &key) && lines == !found);
    must(found == (access(path, F_OK) == 0) && spill_bytes(s) == (found ? count : 0));
    spill_close(s);
    free(data);
    free(file);
    return 0;
}
