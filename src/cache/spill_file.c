/*
 * spill_file.c - a piece as a file: its name, its header, its bytes.
 *
 *     name        KIND-LENGTH-HASH-IDENTITY.sonde: a letter, 16 digits, 32 digits, 32 digits, hexadecimal, lower case
 *     temporary   the same and ".tmp"
 *
 *     header   0  8  "SONDEPCE"
 *              8  4  version, 1
 *             12  1  kind
 *             13  1  how the body is stored: 0 as it is, 1 as a frame of zstd
 *             14  2  0
 *             16 16  identity
 *             32  8  length
 *             40 16  hash
 *             56  8  bytes of the piece
 *             64  8  bytes of the body
 *             72  8  time of creation, nanoseconds since 1970
 *             80 16  XXH3-128 of the body, low half first
 *             96 16  0
 *            112 16  XXH3-128 of bytes 0 to 111
 *     body   128
 *
 * Numbers are little-endian. The identity is in the name so that two of them cannot want the same name, and in the
 * header, with the key, so that a renamed file is noticed. The header has a hash of its own, for at opening nothing
 * else is read. The file's time of modification is the time of its last use.
 *
 * What is checked before memory is taken: sizes in the header fit the file's size and each other, and the zstd frame
 * says the same size and is no longer or shorter than the body.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "cache/spill_internal.h"

static const char magic[8] = {'S', 'O', 'N', 'D', 'E', 'P', 'C', 'E'};

enum { VERSION = 1, LEVEL = 1 };

enum { PLAIN, COMPRESSED }; /* how a body is stored */

enum {
    AT_VERSION = 8,
    AT_KIND = 12,
    AT_CODING = 13,
    AT_IDENTITY = 16,
    AT_LENGTH = 32,
    AT_HASH = 40,
    AT_PIECE_BYTES = 56,
    AT_BODY_BYTES = 64,
    AT_CREATED = 72,
    AT_BODY_HASH = 80,
    AT_HEADER_HASH = 112,
};

/* A block of 128 KiB takes four bytes of a frame at least: what claims more is broken. */
#define MOST_EXPANSION 32768

/* --------------------------------------------------------------------------------------- numbers */

static void put_number(uint8_t *at, int bytes, uint64_t value) {
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get_number(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void put_hash_of(uint8_t *at, const void *data, uint64_t bytes) {
    XXH128_hash_t h = XXH3_128bits(data, bytes);
    put_number(at, 8, h.low64);
    put_number(at + 8, 8, h.high64);
}

static bool hash_is(const uint8_t *at, const void *data, uint64_t bytes) {
    uint8_t h[16];
    put_hash_of(h, data, bytes);
    return memcmp(at, h, sizeof(h)) == 0;
}

/* ----------------------------------------------------------------------------------------- names */

static void name_of(const struct spill_directory *d, const struct spill_key *key, char name[SPILL_NAME]) {
    snprintf(name, SPILL_NAME, "%c-%016llx-%016llx%016llx%s", key->kind, (unsigned long long)key->length,
             (unsigned long long)key->hash[0], (unsigned long long)key->hash[1], d->suffix);
}

static void temporary_name(const struct spill_directory *d, const struct spill_key *key, char name[SPILL_NAME]) {
    name_of(d, key, name);
    strcat(name, ".tmp");
}

/* Reads 16 digits. */
static bool take_hex(const char *digits, uint64_t *value) {
    *value = 0;
    for (int i = 0; i < 16; i++) {
        char c = digits[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *value = *value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

enum spill_name spill_name_parse(const struct spill_directory *d, const char *name, struct spill_key *key) {
    enum { LENGTH = 2, HASH = 19, IDENTITY = 52, END = 84, WHOLE = 90 };
    uint64_t ignored;
    struct spill_key k;
    size_t n = strlen(name);
    bool temporary = n == WHOLE + 4 && strcmp(name + WHOLE, ".tmp") == 0;
    if (n != WHOLE && !temporary)
        return SPILL_NAME_OTHER;
    k.kind = (uint8_t)name[0];
    bool ours = name[0] >= 'a' && name[0] <= 'z' && name[1] == '-' && take_hex(name + LENGTH, &k.length) &&
                name[HASH - 1] == '-' && take_hex(name + HASH, &k.hash[0]) && take_hex(name + HASH + 16, &k.hash[1]) &&
                name[IDENTITY - 1] == '-' && take_hex(name + IDENTITY, &ignored) &&
                take_hex(name + IDENTITY + 16, &ignored) && strncmp(name + END, ".sonde", WHOLE - END) == 0;
    if (!ours)
        return SPILL_NAME_OTHER;
    if (temporary)
        return SPILL_NAME_TEMPORARY;
    if (strcmp(name + IDENTITY - 1, d->suffix) != 0)
        return SPILL_NAME_FOREIGN;
    *key = k;
    return SPILL_NAME_PIECE;
}

/* ------------------------------------------------------------------------------------- directory */

static void write_suffix(struct spill_directory *d) {
    char *at = d->suffix;
    *at++ = '-';
    for (size_t i = 0; i < sizeof(d->identity); i++)
        at += snprintf(at, 3, "%02x", d->identity[i]);
    memcpy(at, ".sonde", sizeof(".sonde"));
}

/* What was renamed into the directory stays there. Some file systems cannot be told, and say EINVAL. */
static bool directory_durable(int fd) {
    return fsync(fd) == 0 || errno == EINVAL;
}

/* A directory of our own making is private: pieces hold what somebody wrote. */
static int make_directory(struct spill_directory *d, struct sonde_error *e) {
    bool made = mkdir(d->path, 0700) == 0;
    if (!made && errno != EEXIST)
        return err_system(e, "%s", d->path);
    d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0)
        return err_system(e, "%s", d->path);
    int parent = made ? openat(d->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (parent >= 0) {
        fsync(parent);
        close(parent);
    }
    return SONDE_OK;
}

/* The lock goes with the process, however it ends. */
static int lock_directory(struct spill_directory *d, struct sonde_error *e) {
    d->lock = openat(d->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (d->lock < 0)
        return err_system(e, "%s/lock", d->path);
    if (flock(d->lock, LOCK_EX | LOCK_NB) == 0)
        return SONDE_OK;
    if (errno == EWOULDBLOCK)
        return err_set(e, SONDE_ERROR_IO, "%s: another process uses it", d->path);
    return err_system(e, "%s/lock", d->path);
}

int spill_directory_open(struct spill_directory *d, const char *path, const uint8_t identity[16],
                         struct sonde_error *e) {
    *d = (struct spill_directory){.fd = -1, .lock = -1, .path = strdup(path), .compressor = ZSTD_createCCtx()};
    memcpy(d->identity, identity, sizeof(d->identity));
    write_suffix(d);
    if (!d->path || !d->compressor)
        return err_memory(e);
    ZSTD_CCtx_setParameter(d->compressor, ZSTD_c_compressionLevel, LEVEL);
    int rc = make_directory(d, e);
    return rc ? rc : lock_directory(d, e);
}

void spill_directory_close(struct spill_directory *d) {
    if (d->lock >= 0)
        close(d->lock);
    if (d->fd >= 0)
        close(d->fd);
    ZSTD_freeCCtx(d->compressor);
    free(d->path);
    *d = (struct spill_directory){.fd = -1, .lock = -1};
}

/* --------------------------------------------------------------------------------------- reading */

struct opened {
    int fd; /* -1: there is no such file */
    char name[SPILL_NAME];
    uint8_t header[SPILL_HEADER];
    uint64_t piece_bytes, body_bytes;
    int64_t modified;
};

static int broken(const struct spill_directory *d, const struct opened *o, const char *why, struct sonde_error *e) {
    return err_set(e, SONDE_ERROR_FORMAT, "%s/%s: %s", d->path, o->name, why);
}

/* Errors: FORMAT. */
static int read_at(const struct spill_directory *d, const struct opened *o, void *data, uint64_t bytes, uint64_t from,
                   struct sonde_error *e) {
    uint8_t *at = data;
    while (bytes) {
        ssize_t n = pread(o->fd, at, bytes, (off_t)from);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return broken(d, o, n ? strerror(errno) : "shorter than its header says", e);
        at += n;
        from += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return SONDE_OK;
}

static bool header_is_for(const struct spill_directory *d, const struct spill_key *key, const uint8_t *header) {
    return header[AT_KIND] == key->kind && get_number(header + AT_LENGTH, 8) == key->length &&
           get_number(header + AT_HASH, 8) == key->hash[0] && get_number(header + AT_HASH + 8, 8) == key->hash[1] &&
           memcmp(header + AT_IDENTITY, d->identity, sizeof(d->identity)) == 0;
}

static bool sizes_fit(const struct opened *o, uint64_t file_bytes) {
    uint64_t piece = o->piece_bytes, body = o->body_bytes;
    if (piece > SPILL_MOST || body > SPILL_MOST || file_bytes != SPILL_HEADER + body)
        return false;
    return o->header[AT_CODING] == PLAIN ? body == piece : body < piece && piece / MOST_EXPANSION <= body;
}

static int check_header(const struct spill_directory *d, const struct spill_key *key, struct opened *o,
                        uint64_t file_bytes, struct sonde_error *e) {
    if (file_bytes < SPILL_HEADER)
        return broken(d, o, "too short for a header", e);
    int rc = read_at(d, o, o->header, SPILL_HEADER, 0, e);
    if (rc)
        return rc;
    o->piece_bytes = get_number(o->header + AT_PIECE_BYTES, 8);
    o->body_bytes = get_number(o->header + AT_BODY_BYTES, 8);
    if (memcmp(o->header, magic, sizeof(magic)) != 0)
        return broken(d, o, "does not begin as a piece does", e);
    if (get_number(o->header + AT_VERSION, 4) != VERSION)
        return broken(d, o, "its version is not 1", e);
    if (!hash_is(o->header + AT_HEADER_HASH, o->header, AT_HEADER_HASH))
        return broken(d, o, "its header is damaged", e);
    if (!header_is_for(d, key, o->header))
        return broken(d, o, "its header belongs to another name", e);
    if (o->header[AT_CODING] > COMPRESSED || !sizes_fit(o, file_bytes))
        return broken(d, o, "its header and its size do not fit each other", e);
    return SONDE_OK;
}

static void close_file(struct opened *o) {
    if (o->fd >= 0)
        close(o->fd);
}

/* Opens and checks the header. Errors: FORMAT, IO; then nothing is open. */
static int open_file(const struct spill_directory *d, const struct spill_key *key, struct opened *o,
                     struct sonde_error *e) {
    struct stat st;
    *o = (struct opened){.fd = -1};
    name_of(d, key, o->name);
    o->fd = openat(d->fd, o->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (o->fd < 0 && errno == ENOENT)
        return SONDE_OK;
    if (o->fd < 0 && (errno == ELOOP || errno == ENXIO)) /* a symbolic link, a socket */
        return broken(d, o, "not a regular file", e);
    if (o->fd < 0 || fstat(o->fd, &st) < 0) {
        int rc = err_system(e, "%s/%s", d->path, o->name);
        close_file(o);
        return rc;
    }
    o->modified = spill_time(st.st_mtim);
    int rc =
        S_ISREG(st.st_mode) ? check_header(d, key, o, (uint64_t)st.st_size, e) : broken(d, o, "not a regular file", e);
    if (rc)
        close_file(o);
    return rc;
}

int spill_file_look(const struct spill_directory *d, const struct spill_key *key, struct spill_piece *piece,
                    struct sonde_error *e) {
    struct opened o;
    int rc = open_file(d, key, &o, e);
    if (rc)
        return rc;
    if (o.fd < 0)
        return err_set(e, SONDE_ERROR_IO, "%s/%s: is gone", d->path, o.name);
    bool again = (uint64_t)o.modified > get_number(o.header + AT_CREATED, 8);
    *piece =
        (struct spill_piece){.key = *key, .bytes = SPILL_HEADER + o.body_bytes, .used = o.modified, .again = again};
    close_file(&o);
    return SONDE_OK;
}

void *spill_memory(uint64_t bytes) {
    enum { LINE = 64 };
    return aligned_alloc(LINE, (bytes / LINE + 1) * LINE);
}

static int read_body(const struct spill_directory *d, const struct opened *o, void *body, struct sonde_error *e) {
    int rc = read_at(d, o, body, o->body_bytes, SPILL_HEADER, e);
    if (!rc && !hash_is(o->header + AT_BODY_HASH, body, o->body_bytes))
        rc = broken(d, o, "its bytes are damaged", e);
    return rc;
}

/* The frame says of itself what the header says of it. */
static bool frame_fits(const struct opened *o, const void *body) {
    return ZSTD_getFrameContentSize(body, o->body_bytes) == o->piece_bytes &&
           ZSTD_findFrameCompressedSize(body, o->body_bytes) == o->body_bytes;
}

static int decompress(const struct spill_directory *d, const struct opened *o, const void *body, void **data,
                      struct sonde_error *e) {
    if (!frame_fits(o, body))
        return broken(d, o, "its header and its frame do not fit each other", e);
    int rc = SONDE_OK;
    void *piece = spill_memory(o->piece_bytes);
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!piece || !z)
        rc = err_memory(e);
    else if (ZSTD_decompressDCtx(z, piece, o->piece_bytes, body, o->body_bytes) != o->piece_bytes)
        rc = broken(d, o, "its frame is damaged", e);
    ZSTD_freeDCtx(z);
    if (rc)
        free(piece);
    else
        *data = piece;
    return rc;
}

int spill_file_read(const struct spill_directory *d, const struct spill_key *key, void **data, size_t *bytes,
                    struct sonde_error *e) {
    struct opened o;
    *data = NULL;
    int rc = open_file(d, key, &o, e);
    if (rc || o.fd < 0)
        return rc;
    void *body = spill_memory(o.body_bytes);
    rc = body ? read_body(d, &o, body, e) : err_memory(e);
    if (!rc && o.header[AT_CODING] == COMPRESSED) {
        rc = decompress(d, &o, body, data, e);
    } else if (!rc) {
        *data = body;
        body = NULL;
    }
    *bytes = o.piece_bytes;
    free(body);
    close_file(&o);
    return rc;
}

/* --------------------------------------------------------------------------------------- writing */

/* A piece that does not fit seven eighths of its bytes stays as it is. */
static void compress(struct spill_image *m, const struct spill_directory *d, const void *data, uint64_t bytes) {
    uint64_t most = bytes - ceil_div(bytes, 8);
    void *out = most ? malloc(most) : NULL;
    size_t n = out ? ZSTD_compress2(d->compressor, out, most, data, bytes) : 0;
    if (!out || ZSTD_isError(n)) {
        free(out);
        return;
    }
    m->body = m->compressed = out;
    m->body_bytes = n;
}

void spill_image_make(struct spill_image *m, const struct spill_directory *d, const struct spill_key *key,
                      int64_t created, const void *data, uint64_t bytes) {
    *m = (struct spill_image){.body = data, .body_bytes = bytes};
    compress(m, d, data, bytes);
    uint8_t *header = m->header;
    memcpy(header, magic, sizeof(magic));
    put_number(header + AT_VERSION, 4, VERSION);
    header[AT_KIND] = key->kind;
    header[AT_CODING] = m->compressed ? COMPRESSED : PLAIN;
    memcpy(header + AT_IDENTITY, d->identity, sizeof(d->identity));
    put_number(header + AT_LENGTH, 8, key->length);
    put_number(header + AT_HASH, 8, key->hash[0]);
    put_number(header + AT_HASH + 8, 8, key->hash[1]);
    put_number(header + AT_PIECE_BYTES, 8, bytes);
    put_number(header + AT_BODY_BYTES, 8, m->body_bytes);
    put_number(header + AT_CREATED, 8, (uint64_t)created);
    put_hash_of(header + AT_BODY_HASH, m->body, m->body_bytes);
    put_hash_of(header + AT_HEADER_HASH, header, AT_HEADER_HASH);
}

void spill_image_release(struct spill_image *m) {
    free(m->compressed);
}

static struct timespec timespec_of(int64_t time) {
    return (struct timespec){.tv_sec = (time_t)(time / SPILL_SECOND), .tv_nsec = (long)(time % SPILL_SECOND)};
}

void spill_file_stamp(const struct spill_directory *d, const struct spill_key *key, int64_t used) {
    char name[SPILL_NAME];
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, timespec_of(used)};
    name_of(d, key, name);
    utimensat(d->fd, name, times, AT_SYMLINK_NOFOLLOW);
}

int spill_file_remove(const struct spill_directory *d, const struct spill_key *key, struct sonde_error *e) {
    char name[SPILL_NAME];
    name_of(d, key, name);
    if (unlinkat(d->fd, name, 0) == 0 || errno == ENOENT)
        return SONDE_OK;
    return err_system(e, "%s/%s: cannot be removed", d->path, name);
}

static int cannot_write(const struct spill_directory *d, const char *name, struct sonde_error *e) {
    return err_system(e, "%s/%s: cannot be written", d->path, name);
}

int spill_file_create(const struct spill_directory *d, const struct spill_key *key, int *fd, struct sonde_error *e) {
    char name[SPILL_NAME];
    temporary_name(d, key, name);
    *fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    return *fd < 0 ? cannot_write(d, name, e) : SONDE_OK;
}

void spill_file_cancel(const struct spill_directory *d, const struct spill_key *key, int fd) {
    char name[SPILL_NAME];
    temporary_name(d, key, name);
    if (fd >= 0)
        close(fd);
    unlinkat(d->fd, name, 0);
}

static bool write_all(int fd, const void *data, uint64_t bytes) {
    const uint8_t *at = data;
    while (bytes) {
        ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        at += n;
        bytes -= (uint64_t)n;
    }
    return true;
}

int spill_file_finish(const struct spill_directory *d, const struct spill_key *key, int fd, const struct spill_image *m,
                      int64_t used, struct sonde_error *e) {
    char name[SPILL_NAME], temporary[SPILL_NAME];
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, timespec_of(used)};
    name_of(d, key, name);
    temporary_name(d, key, temporary);
    bool written = write_all(fd, m->header, SPILL_HEADER) && write_all(fd, m->body, m->body_bytes) &&
                   futimens(fd, times) == 0 && fsync(fd) == 0 && renameat(d->fd, temporary, d->fd, name) == 0;
    int rc = written && directory_durable(d->fd) ? SONDE_OK : cannot_write(d, name, e);
    if (rc && written)
        unlinkat(d->fd, name, 0);
    if (rc)
        spill_file_cancel(d, key, fd);
    else
        close(fd);
    return rc;
}
