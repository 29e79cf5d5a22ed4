/*
 * base.h - what every room stands on: errors, growable bytes, step memory, files, JSON, time, chance.
 *
 * Knows no tensors. Errors are the public ones (sonde.h): functions that can fail return 0 or a negative
 * enum sonde_code and take a trailing `struct sonde_error *e`, which may be NULL.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sonde.h"

#define PRINTF_LIKE(at, first) __attribute__((format(printf, at, first)))
#define COUNT_OF(array)        (sizeof(array) / sizeof((array)[0]))

/* ------------------------------------------------------------------------------------- errors */

/* Fills e (if not NULL) and returns code, so that a failure reads `return err_set(e, SONDE_ERROR_FORMAT,
 * "%s: tensor %s: ...", file, name);`. Too long a sentence ends in a whole character and "...". Control characters
 * (C0, DEL, and C1 in UTF-8), which hostile names may hold, are shown as '?'. */
int err_set(struct sonde_error *e, int code, const char *format, ...) PRINTF_LIKE(3, 4);

/* The same with code IO and ": " strerror(errno) at the end. */
int err_system(struct sonde_error *e, const char *format, ...) PRINTF_LIKE(2, 3);

/* The one sentence for exhausted memory; returns SONDE_ERROR_MEMORY. */
int err_memory(struct sonde_error *e);

/* -------------------------------------------------------------------------- checked arithmetic */

/* True when the result fits; *out is written only then. */
static inline bool size_add(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t sum;
    return !__builtin_add_overflow(a, b, &sum) && (*out = sum, true);
}

static inline bool size_mul(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t product;
    return !__builtin_mul_overflow(a, b, &product) && (*out = product, true);
}

static inline uint64_t ceil_div(uint64_t a, uint64_t b) {
    return a / b + (a % b != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ------------------------------------------------------------------------------ growable bytes */

/*
 * A string or byte array that grows. {0} is an empty one. Appends never fail visibly: when memory is
 * exhausted the buffer turns `failed`, drops everything and ignores what follows; whoever takes the
 * result checks once. While not failed and once appended to, data is terminated by a zero byte that len
 * does not count.
 */
struct buf {
    char *data;
    size_t len, cap;
    bool failed;
};

void buf_release(struct buf *b); /* frees and makes it {0} */
void buf_clear(struct buf *b);   /* keeps the memory */
void buf_append(struct buf *b, const void *bytes, size_t count);
void buf_string(struct buf *b, const char *string);
void buf_byte(struct buf *b, char byte);
void buf_printf(struct buf *b, const char *format, ...) PRINTF_LIKE(2, 3);

/* Hands over the terminated bytes ("" if nothing was appended) and makes b {0}. length may be NULL.
 * Errors: MEMORY. */
int buf_take(struct buf *b, char **data, size_t *length, struct sonde_error *e);

/* ---------------------------------------------------------------------------------- step memory */

/*
 * A bump allocator for memory that lives one step. The size and the placement come from the same code: run
 * the layout once over an arena with base NULL, which only counts, allocate `used` bytes, then run it again.
 */
struct arena {
    uint8_t *base; /* NULL: count only */
    size_t size, used;
};

/* `count` items of `size` bytes, aligned to 64; NULL while counting. Running past the end of a placed
 * arena is a programmer's bug and asserts. */
void *arena_take(struct arena *a, size_t count, size_t size);

/* ---------------------------------------------------------------------------------------- files */

struct file_map {
    const uint8_t *data; /* NULL when size is 0 */
    size_t size;
};

/* Maps a regular file for reading; anything else is refused at once, a FIFO too. Errors: IO (names the path). */
int file_map_open(const char *path, struct file_map *map, struct sonde_error *e);
void file_map_close(struct file_map *map);

/* Appends the whole of a regular file to b; refuses more than `limit` bytes. Anything else is refused at once, so
 * that a FIFO among the files of a checkpoint holds nobody up. Errors: IO, FORMAT (too large), MEMORY. */
int file_read(const char *path, size_t limit, struct buf *b, struct sonde_error *e);

/* The same for input that a user named: pipes, FIFOs (which are waited for) and devices too, and "-" for standard
 * input. Directories are refused. */
int file_read_input(const char *path, size_t limit, struct buf *b, struct sonde_error *e);

/*
 * A file on its way to replacing another. What is there:
 *
 *     nothing, a regular file   written beside it under a name nobody else has, fsynced, renamed: the path holds
 *                               the old file or the whole new one, never a part. The new file takes on no more
 *                               permissions than the old one had
 *     a symbolic link           followed; what it leads to is replaced, and must exist
 *     character device, FIFO    cannot be replaced; is written to as bytes come
 *     anything else             refused
 *
 * open, write as often as wanted, then commit or cancel; {0} may be cancelled. All messages name the path.
 */
struct file_replacement {
    char *path;      /* as given, for messages */
    char *target;    /* with symbolic links followed */
    char *temporary; /* NULL: the target is written to directly */
    int fd;          /* -1: closed */
};

int file_replacement_open(struct file_replacement *r, const char *path, struct sonde_error *e); /* IO, MEMORY */
int file_replacement_write(struct file_replacement *r, const void *bytes, size_t count, struct sonde_error *e); /* IO */
int file_replacement_commit(struct file_replacement *r, struct sonde_error *e); /* IO; releases r whatever happens */
void file_replacement_cancel(struct file_replacement *r);                       /* removes what was written */

/* Replaces path by the given bytes, as above. Errors: IO, MEMORY. */
int file_write(const char *path, const void *bytes, size_t count, struct sonde_error *e);

/* True if path names something that exists. */
bool file_exists(const char *path);

/* Makes a directory and those above it, with that mode, where they are not there. Errors: IO (names it), MEMORY. */
int file_make_directory(const char *path, unsigned mode, struct sonde_error *e);

/* "directory/name" into b, which is cleared first. */
void file_join(struct buf *b, const char *directory, const char *name);

/* What the control groups of this process leave it: processors' worth of time, bytes of memory. INFINITY: no bound. */
double cgroup_processors(void);
double cgroup_memory(void);

/* Memory that is aligned to 64 bytes and, where there are megabytes of it, lies on huge pages if the system has any;
 * for free(). NULL: there is none. */
void *memory_large(size_t bytes);

/* Bytes of memory that this machine has, or that this process may have if that is less. */
uint64_t memory_total(void);

/* ----------------------------------------------------------------------------------------- JSON */

/* Parses one JSON value (strings may hold NUL; duplicate keys are refused). `what` names the source in the
 * message: "config.json: not valid JSON, line 3: ...". The caller json_decref()s *value. Errors: FORMAT, MEMORY. */
int json_parse(const char *bytes, size_t count, const char *what, json_t **value, struct sonde_error *e);

/* -------------------------------------------------------------------------------------- suggestions */

/* Of `count` names reached through name(i), the one nearest to `word`; NULL if none is near. */
const char *nearest_name(const char *word, size_t count, const char *(*name)(const void *context, size_t i),
                         const void *context);

/* -------------------------------------------------------------------------------------- workers */

/* pthread_create() of a thread that takes no signals, which are for the program's own threads, but those that an
 * instruction of it raises. Returns what pthread_create() does. */
int thread_create(pthread_t *thread, void *(*run)(void *context), void *context);

/*
 * A thread pool that runs one region at a time: the same function on every worker, the caller being worker 0.
 * Where there is one for each processor the process may use, workers but the caller are pinned; between regions they
 * spin for a moment and then sleep, so that a region right after another starts within a microsecond and an idle
 * program costs nothing.
 *
 * Inside a region workers take items: every worker has a hand of its own, always the same part of the work (so
 * that it reads the same pages of the same weights every time), and who is done helps the others. A worker that
 * has lost its processor therefore holds nobody up for longer than one item.
 */
struct pool;

/* workers 0: one for each processor this process may run on, and no more than its control group's quota pays for.
 * Errors: ARGUMENT (more than 4096), MEMORY, IO (threads refused). */
int pool_open(uint32_t workers, struct pool **pool, struct sonde_error *e);
void pool_close(struct pool *pool);
uint32_t pool_workers(const struct pool *pool);

/* work(context, worker) on all workers; returns when all have. Regions do not nest; only the thread that opened the
 * pool runs them, or one that is alone in doing so. */
void pool_run(struct pool *pool, void (*work)(void *context, uint32_t worker), void *context);

/* Inside a region: waits until all workers have come here. What was written before is seen after. */
void pool_barrier(struct pool *pool);

enum { POOL_DEALS = 8 };

/* Before a region (or inside, by one worker, with barriers on both sides): every worker's hand in deal `deal` <
 * POOL_DEALS becomes items [0, items). */
void pool_deal(struct pool *pool, uint32_t deal, uint32_t items);

/* Inside a region: the next item of this worker's hand, and when that is empty of another's, *owner's. False when
 * there is nothing left. Each item of each hand is given exactly once. */
bool pool_take(struct pool *pool, uint32_t deal, uint32_t worker, uint32_t *owner, uint32_t *item);

/* ------------------------------------------------------------------------------- time and chance */

/* Seconds on a clock that only goes forward. */
double clock_seconds(void);

/* xoshiro256**, seeded through splitmix64: the same numbers on every machine. Blackman and Vigna 2018. */
struct rng {
    uint64_t state[4];
};

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r);   /* uniform on [0, 1), 53 bits */
double rng_normal(struct rng *r); /* mean 0, deviation 1 */

#endif
