/*
 * file.c - mapped, read whole, replaced atomically.
 *
 * What is opened for reading is opened with O_NONBLOCK and looked at first: opening a FIFO would otherwise wait for
 * a writer, for ever where a hostile directory holds one. Regular files take no notice of the flag.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

/* Opens without waiting. */
static int open_at_once(const char *path, int *out, struct stat *st, struct sonde_error *e) {
    *out = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (*out >= 0 && fstat(*out, st) == 0)
        return SONDE_OK;
    int rc = err_system(e, "%s", path);
    if (*out >= 0)
        close(*out);
    return rc;
}

static int not_regular(const char *path, struct sonde_error *e) {
    return err_set(e, SONDE_ERROR_IO, "%s: not a regular file", path);
}

int file_map_open(const char *path, struct file_map *map, struct sonde_error *e) {
    struct stat st;
    int fd, rc = open_at_once(path, &fd, &st, e);
    if (rc)
        return rc;
    void *data = NULL;
    if (!S_ISREG(st.st_mode)) {
        rc = not_regular(path, e);
        goto out;
    }
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

/* Reads fd to its end; `name` is for messages. */
static int read_all(int fd, const char *name, size_t limit, struct buf *b, struct sonde_error *e) {
    char part[65536];
    size_t total = 0;
    for (;;) {
        ssize_t n = read(fd, part, sizeof(part));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_system(e, "%s", name);
        if (n == 0)
            break;
        total += (size_t)n;
        if (total > limit)
            return err_set(e, SONDE_ERROR_FORMAT, "%s: larger than %zu bytes", name, limit);
        buf_append(b, part, (size_t)n);
    }
    return b->failed ? err_memory(e) : SONDE_OK;
}

int file_read(const char *path, size_t limit, struct buf *b, struct sonde_error *e) {
    struct stat st;
    int fd, rc = open_at_once(path, &fd, &st, e);
    if (rc)
        return rc;
    bool readable = S_ISREG(st.st_mode) || S_ISDIR(st.st_mode); /* of a directory: EISDIR */
    rc = readable ? read_all(fd, path, limit, b, e) : not_regular(path, e);
    close(fd);
    return rc;
}

int file_read_input(const char *path, size_t limit, struct buf *b, struct sonde_error *e) {
    if (strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "standard input", limit, b, e);
    int fd = open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return err_system(e, "%s", path);
    int rc = read_all(fd, path, limit, b, e); /* of a directory: EISDIR */
    close(fd);
    return rc;
}

/* ------------------------------------------------------------------------------------- replacing */

static int cannot(const struct file_replacement *r, struct sonde_error *e) {
    return err_system(e, "%s: cannot be written", r->path);
}

/* Creates "TARGET.SUFFIX.tmp" under a name that nothing had. */
static int open_temporary(struct file_replacement *r, mode_t mode, struct sonde_error *e) {
    struct rng rng;
    rng_init(&rng, (uint64_t)(clock_seconds() * 1e9) ^ (uint64_t)getpid() << 32);
    for (int i = 0; i < 100; i++) {
        struct buf name = {0};
        buf_printf(&name, "%s.%08llx.tmp", r->target, (unsigned long long)(rng_u64(&rng) >> 32));
        if (buf_take(&name, &r->temporary, NULL, e))
            return SONDE_ERROR_MEMORY;
        int fd = open(r->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd >= 0) {
            r->fd = fd;
            return SONDE_OK;
        }
        free(r->temporary);
        r->temporary = NULL;
        if (errno != EEXIST)
            break;
    }
    return cannot(r, e);
}

static int open_target(struct file_replacement *r, struct sonde_error *e) {
    struct stat st;
    bool there = lstat(r->path, &st) == 0;
    bool link = there && S_ISLNK(st.st_mode);
    r->target = link ? realpath(r->path, NULL) : strdup(r->path);
    if (!r->target)
        return errno == ENOMEM ? err_memory(e) : cannot(r, e);
    if (link && stat(r->target, &st) < 0)
        return cannot(r, e);
    if (!there || S_ISREG(st.st_mode))
        return open_temporary(r, there ? st.st_mode & 0666 : 0666, e);
    if (!S_ISCHR(st.st_mode) && !S_ISFIFO(st.st_mode))
        return err_set(e, SONDE_ERROR_IO, "%s: cannot be written: %s", r->path,
                       S_ISDIR(st.st_mode) ? "is a directory" : "not a file, a character device or a FIFO");
    int fd = open(r->target, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return cannot(r, e);
    r->fd = fd;
    return SONDE_OK;
}

static void replacement_release(struct file_replacement *r) {
    free(r->path);
    free(r->target);
    free(r->temporary);
    *r = (struct file_replacement){0};
}

int file_replacement_open(struct file_replacement *r, const char *path, struct sonde_error *e) {
    *r = (struct file_replacement){.path = strdup(path), .fd = -1};
    int rc = r->path ? open_target(r, e) : err_memory(e);
    if (rc)
        file_replacement_cancel(r);
    return rc;
}

int file_replacement_write(struct file_replacement *r, const void *bytes, size_t count, struct sonde_error *e) {
    const char *at = bytes;
    while (count) {
        ssize_t n = write(r->fd, at, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return cannot(r, e);
        at += n;
        count -= (size_t)n;
    }
    return SONDE_OK;
}

int file_replacement_commit(struct file_replacement *r, struct sonde_error *e) {
    int rc = r->temporary && fsync(r->fd) < 0 ? cannot(r, e) : SONDE_OK;
    if (!rc) {
        int fd = r->fd;
        r->fd = -1;
        if (close(fd) < 0 || (r->temporary && rename(r->temporary, r->target) < 0))
            rc = cannot(r, e);
    }
    if (rc)
        file_replacement_cancel(r);
    else
        replacement_release(r);
    return rc;
}

void file_replacement_cancel(struct file_replacement *r) {
    if (r->path && r->fd >= 0)
        close(r->fd);
    if (r->temporary)
        unlink(r->temporary);
    replacement_release(r);
}

int file_write(const char *path, const void *bytes, size_t count, struct sonde_error *e) {
    struct file_replacement r;
    int rc = file_replacement_open(&r, path, e);
    if (rc)
        return rc;
    rc = file_replacement_write(&r, bytes, count, e);
    if (!rc)
        return file_replacement_commit(&r, e);
    file_replacement_cancel(&r);
    return rc;
}

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

int file_make_directory(const char *path, unsigned mode, struct sonde_error *e) {
    char *part = strdup(path), *end = part;
    int rc = part ? SONDE_OK : err_memory(e);
    while (!rc && *end) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char kept = *end;
        *end = 0;
        if (*part && mkdir(part, (mode_t)mode) && errno != EEXIST)
            rc = err_system(e, "%s", part);
        *end = kept;
    }
    free(part);
    return rc;
}

void file_join(struct buf *b, const char *directory, const char *name) {
    size_t n = strlen(directory);
    buf_clear(b);
    buf_printf(b, "%s%s%s", directory, n && directory[n - 1] == '/' ? "" : "/", name);
}
