/*
 * spill_internal.h - the two halves that spill.c joins: which pieces there are (spill_index.c), and their files
 * (spill_file.c).
 */
#ifndef CACHE_SPILL_INTERNAL_H
#define CACHE_SPILL_INTERNAL_H

#include <time.h>

#include "cache/cache.h"

/* Bytes of a piece at most. */
#define SPILL_MOST ((uint64_t)1 << 34)

/* Times are nanoseconds since 1970. What the system says beyond the last, which is in 2116, is taken for it, so that
 * there is always a later one. */
#define SPILL_SECOND    ((int64_t)1000000000)
#define SPILL_LAST_TIME ((int64_t)1 << 62)

/* --------------------------------------------------------------------------------- which there are */

#define SPILL_NONE UINT32_MAX

struct spill_write; /* a piece on its way to the disk; spill.c */

struct spill_piece {
    struct spill_key key;      /* kind 0: the place is unused */
    uint64_t bytes;            /* of its file */
    int64_t used;              /* last use */
    struct spill_write *write; /* what will bring it to the disk; NULL: it is there */
    uint32_t next, previous;   /* by last use, among the pieces on disk that are alike in `again` */
    bool again;                /* used after it was stored */
};

/* Pieces on disk from the one used longest ago to the one used last. */
struct spill_order {
    uint32_t first, last;
    uint64_t bytes;
};

/* How many pieces on disk have this kind and length. */
struct spill_length {
    uint64_t length;
    uint32_t pieces;
    uint8_t kind;
};

/*
 * All pieces, on disk or on their way there, each known by its place in `pieces` until it is removed. `slots` finds it:
 * open addressing, at most half full, 0 is empty, n + 1 is place n.
 */
struct spill_index {
    struct spill_piece *pieces; /* [room], of which [0, top) have been in use */
    uint32_t top, room, unused; /* unused: the first of the unused places below top, joined by `next` */
    uint32_t *slots;            /* [slot_count], a power of two */
    uint32_t slot_count;
    struct spill_order once, again;
    struct spill_length *lengths; /* [length_count] of [room], by kind and length */
    uint32_t length_count;
};

void spill_index_init(struct spill_index *x);
void spill_index_release(struct spill_index *x);

/* Room for one piece more. Errors: MEMORY. */
int spill_index_reserve(struct spill_index *x, struct sonde_error *e);

/* The place of a piece, or SPILL_NONE. */
uint32_t spill_index_find(const struct spill_index *x, const struct spill_key *key);

/* A piece on its way to the disk. Room is reserved, the key is not there. */
uint32_t spill_index_add(struct spill_index *x, const struct spill_key *key, int64_t used, struct spill_write *write);

/* It is on disk now, in a file of so many bytes. */
void spill_index_stored(struct spill_index *x, uint32_t at, uint64_t bytes);

/* A use at a time later than all before. */
void spill_index_use(struct spill_index *x, uint32_t at, int64_t now);

void spill_index_remove(struct spill_index *x, uint32_t at);

/* At opening, instead of all that: pieces on disk are pushed in any order, each key once, then built. Errors: MEMORY.
 */
int spill_index_push(struct spill_index *x, const struct spill_piece *piece, struct sonde_error *e);
void spill_index_build(struct spill_index *x);

/* Of the pieces on disk, all files. */
uint64_t spill_index_bytes(const struct spill_index *x);

/* The piece on disk that is worth least (cache.h), or SPILL_NONE. */
uint32_t spill_index_victim(const struct spill_index *x, uint64_t limit);

/* As spill_lengths(). */
int spill_index_lengths(const struct spill_index *x, uint8_t kind, uint64_t most, uint64_t **lengths, size_t *count,
                        struct sonde_error *e);

/* ------------------------------------------------------------------------------------------ files */

/* The time in nanoseconds, within bounds. */
static inline int64_t spill_time(struct timespec t) {
    int64_t seconds = t.tv_sec < 0 ? 0 : (int64_t)t.tv_sec;
    return seconds >= SPILL_LAST_TIME / SPILL_SECOND ? SPILL_LAST_TIME : seconds * SPILL_SECOND + t.tv_nsec;
}

enum {
    SPILL_HEADER = 128,
    SPILL_NAME = 96, /* room for a file's name, the longest being a temporary's of 94 letters */
    SPILL_SUFFIX = 40,
};

struct spill_directory {
    int fd, lock;
    char *path; /* for messages */
    uint8_t identity[16];
    char suffix[SPILL_SUFFIX];      /* what all names of its pieces end in: "-IDENTITY.sonde" */
    struct ZSTD_CCtx_s *compressor; /* for the thread that writes */
};

/* Makes the directory unless it is there, opens and locks it. Errors: IO, MEMORY; d can be closed after those too. */
int spill_directory_open(struct spill_directory *d, const char *path, const uint8_t identity[16],
                         struct sonde_error *e);
void spill_directory_close(struct spill_directory *d);

/* What a file's name says of it. */
enum spill_name {
    SPILL_NAME_OTHER,     /* none of ours */
    SPILL_NAME_TEMPORARY, /* left by a process that was killed, whichever its identity */
    SPILL_NAME_FOREIGN,   /* a piece of another identity */
    SPILL_NAME_PIECE,     /* ours; *key is written */
};

enum spill_name spill_name_parse(const struct spill_directory *d, const char *name, struct spill_key *key);

/* Looks at a file's header and size: fills all of piece but its links. Errors: FORMAT (the file is broken), IO (it
 * cannot be opened). */
int spill_file_look(const struct spill_directory *d, const struct spill_key *key, struct spill_piece *piece,
                    struct sonde_error *e);

/* Memory aligned to 64 bytes, for free(); also for none. NULL: there is none. */
void *spill_memory(uint64_t bytes);

/* Reads and checks all of it: *data is 64-byte aligned and the caller's, NULL if there is no such file. Errors: FORMAT
 * (the file is broken), IO (it cannot be opened), MEMORY. */
int spill_file_read(const struct spill_directory *d, const struct spill_key *key, void **data, size_t *bytes,
                    struct sonde_error *e);

/* Sets the time of last use. Failure does no harm and is not told. */
void spill_file_stamp(const struct spill_directory *d, const struct spill_key *key, int64_t used);

/* Errors: IO. That it is not there is none. */
int spill_file_remove(const struct spill_directory *d, const struct spill_key *key, struct sonde_error *e);

/* A file as it will be: compressed where that pays. */
struct spill_image {
    uint8_t header[SPILL_HEADER];
    const void *body; /* the caller's data, or `compressed` */
    void *compressed; /* NULL: it is not */
    uint64_t body_bytes;
};

void spill_image_make(struct spill_image *m, const struct spill_directory *d, const struct spill_key *key,
                      int64_t created, const void *data, uint64_t bytes);
void spill_image_release(struct spill_image *m);

/* Writing is in two steps, so that room is made in between: an empty temporary file, which shows that the directory
 * takes files; then its bytes, and its place. finish closes fd and leaves either the whole durable file or nothing;
 * cancel leaves nothing. Errors: IO. */
int spill_file_create(const struct spill_directory *d, const struct spill_key *key, int *fd, struct sonde_error *e);
int spill_file_finish(const struct spill_directory *d, const struct spill_key *key, int fd, const struct spill_image *m,
                      int64_t used, struct sonde_error *e);
void spill_file_cancel(const struct spill_directory *d, const struct spill_key *key, int fd);

#endif
