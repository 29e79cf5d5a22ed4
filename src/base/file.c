/* file.c - mapped, read whole, replaced atomically. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

int file_map_open(const char *path, struct file_map *map, struct sonde_error *e) {
    int rc = SONDE_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_system(e, "%s", path);
    struct stat st;
    if (fstat(fd, &st) < 0) {
        rc = err_system(e, "%s", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, SONDE_ERROR_IO, "%s: not a regular file", path);
        goto out;
    }
    void *data = NULL;
    if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            rc = err_system(e, "%s: cannot map %lld bytes", path, (long long)st.st_size);
            goto out;
        }
    }
    *map = (struct file_map){data, (size_t)st.st_size};
out:
    close(fd);
    return rc;
}

void file_map_close(struct file_map *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){0};
}

int file_read(const char *path, size_t limit, struct buf *b, struct sonde_error *e) {
    bool input = strcmp(path, "-") == 0;
    const char *name = input ? "standard input" : path;
    int rc = SONDE_OK;
    int fd = input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_system(e, "%s", name);
    char part[65536];
    size_t total = 0;
    for (;;) {
        ssize_t n = read(fd, part, sizeof(part));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_system(e, "%s", name);
        if (n <= 0)
            break;
        total += (size_t)n;
        if (total > limit) {
            rc = err_set(e, SONDE_ERROR_FORMAT, "%s: larger than %zu bytes", name, limit);
            break;
        }
        buf_append(b, part, (size_t)n);
    }
    if (!rc && b->failed)
        rc = err_memory(e);
    if (!input)
        close(fd);
    return rc;
}

static int write_all(int fd, const char *bytes, size_t count) {
    while (count) {
        ssize_t n = write(fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes += n;
        count -= (size_t)n;
    }
    return 0;
}

int file_write(const char *path, const void *bytes, size_t count, struct sonde_error *e) {
    int rc = SONDE_OK;
    struct buf temporary = {0};
    buf_printf(&temporary, "%s.%ld.tmp", path, (long)getpid());
    if (temporary.failed)
        return err_memory(e);
    int fd = open(temporary.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = err_system(e, "%s: cannot be written", path);
        goto out;
    }
    if (write_all(fd, bytes, count) < 0 || fsync(fd) < 0) {
        rc = err_system(e, "%s: cannot be written", path);
        close(fd);
    } else if (close(fd) < 0 || rename(temporary.data, path) < 0) {
        rc = err_system(e, "%s: cannot be written", path);
    }
    if (rc)
        unlink(temporary.data);
out:
    buf_release(&temporary);
    return rc;
}

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

void file_join(struct buf *b, const char *directory, const char *name) {
    size_t n = strlen(directory);
    buf_clear(b);
    buf_printf(b, "%s%s%s", directory, n && directory[n - 1] == '/' ? "" : "/", name);
}
