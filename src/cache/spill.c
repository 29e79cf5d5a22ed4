/*
 * spill.c - the store of pieces: what is asked of it, and the thread that writes.
 *
 *     the caller's thread    asks, reads files, stamps and removes those it was told to; adds writes at the end of
 *                            the queue
 *     the store's thread     takes writes from the front: compresses, makes room, writes, and only then lets the index
 *                            know the piece
 *     under the mutex        the index, the queue, the clock
 *
 * A piece is in the index from its put on, but counts as there only when its write has been settled. The mutex is not
 * held while the store's thread waits for the disk, nor while a file is read. So a file may be removed to make room
 * just before it is read: then the piece is not found. A piece that was taken out while it waits keeps its place in the
 * queue and nothing else: its write is settled by leaving nothing behind.
 *
 * Times of use only grow, whatever the clock does, so that order in the index and order on disk are the same.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/spill_internal.h"

enum { QUEUE_MOST = 64 << 20 };

struct spill_write {
    struct spill_write *next;
    struct spill_key key;
    uint32_t at; /* its piece in the index; SPILL_NONE: taken out since */
    int64_t created;
    uint64_t bytes;
    uint8_t data[];
};

struct spill {
    struct spill_directory directory;
    uint64_t limit;
    void (*log)(void *context, const char *line);
    void *context;
    bool failing; /* the last write failed, which has been said; the store's thread's */
    bool threaded;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t queued, settled;
    struct spill_index index;
    struct spill_write *first, **last; /* first: being written */
    uint64_t waiting;                  /* bytes in the queue */
    int64_t clock;                     /* time of the last use */
    bool quit;
};

/* --------------------------------------------------------------------------------------- helpers */

static void say(const struct spill *s, const char *line) {
    if (s->log)
        s->log(s->context, line);
}

/* Mutex held. */
static int64_t next_time(struct spill *s) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t now = spill_time(t);
    s->clock = now > s->clock ? now : s->clock + 1;
    return s->clock;
}

/* What a write takes of the queue. */
static uint64_t weight(uint64_t bytes) {
    return sizeof(struct spill_write) + bytes;
}

/* A file that is broken goes, and a line says so. */
static void discard(const struct spill *s, const struct spill_key *key, const struct sonde_error *why) {
    struct sonde_error e, line;
    bool removed = !spill_file_remove(&s->directory, key, &e);
    err_set(&line, SONDE_ERROR_FORMAT, "%s; %s", why->message, removed ? "removed" : e.message);
    say(s, line.message);
}

/* Removes what is worth least until `bytes` more are within the limit. Mutex not held. Errors: IO. */
static int make_room(struct spill *s, uint64_t bytes, struct sonde_error *e) {
    int rc = SONDE_OK;
    if (bytes > s->limit)
        return err_set(e, SONDE_ERROR_IO, "%s: a piece of %llu bytes, where all may have %llu", s->directory.path,
                       (unsigned long long)bytes, (unsigned long long)s->limit);
    pthread_mutex_lock(&s->mutex);
    while (!rc && spill_index_bytes(&s->index) > s->limit - bytes) {
        uint32_t at = spill_index_victim(&s->index, s->limit);
        struct spill_key key = s->index.pieces[at].key;
        spill_index_remove(&s->index, at);
        pthread_mutex_unlock(&s->mutex);
        rc = spill_file_remove(&s->directory, &key, e);
        pthread_mutex_lock(&s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* --------------------------------------------------------------------------------------- writing */

/* Brings a piece to the disk; *bytes of it are there then. Errors: IO. */
static int write_piece(struct spill *s, const struct spill_write *w, int64_t used, uint64_t *bytes,
                       struct sonde_error *e) {
    struct spill_image m;
    int fd;
    spill_image_make(&m, &s->directory, &w->key, w->created, w->data, w->bytes);
    *bytes = SPILL_HEADER + m.body_bytes;
    int rc = spill_file_create(&s->directory, &w->key, &fd, e);
    if (!rc && (rc = make_room(s, *bytes, e)))
        spill_file_cancel(&s->directory, &w->key, fd);
    else if (!rc)
        rc = spill_file_finish(&s->directory, &w->key, fd, &m, used, e);
    spill_image_release(&m);
    return rc;
}

/* The first failure is said, those that follow it are not. */
static void tell(struct spill *s, int rc, const struct sonde_error *e) {
    struct sonde_error line;
    if (rc && !s->failing) {
        err_set(&line, rc, "%s; pieces are dropped until one can be written", e->message);
        say(s, line.message);
    }
    s->failing = rc != SONDE_OK;
}

/* Makes the index agree with what has become of a write whose file says that it was used last at `used`. Mutex held. */
static void settle(struct spill *s, const struct spill_write *w, int rc, uint64_t bytes, int64_t used) {
    if (w->at == SPILL_NONE) {
        if (!rc)
            spill_file_remove(&s->directory, &w->key, NULL);
        return;
    }
    if (rc) {
        spill_index_remove(&s->index, w->at);
        return;
    }
    spill_index_stored(&s->index, w->at, bytes);
    if (s->index.pieces[w->at].used != used)
        spill_file_stamp(&s->directory, &w->key, s->index.pieces[w->at].used);
}

/* Writes the first of the queue. Mutex held, but let go meanwhile. */
static void write_first(struct spill *s) {
    struct spill_write *w = s->first;
    if (w->at != SPILL_NONE) {
        struct sonde_error e;
        uint64_t bytes;
        int64_t used = s->index.pieces[w->at].used;
        pthread_mutex_unlock(&s->mutex);
        int rc = write_piece(s, w, used, &bytes, &e);
        tell(s, rc, &e);
        pthread_mutex_lock(&s->mutex);
        settle(s, w, rc, bytes, used);
    }
    s->first = w->next;
    if (!s->first)
        s->last = &s->first;
    s->waiting -= weight(w->bytes);
    pthread_cond_signal(&s->settled);
    free(w);
}

static void *write_queue(void *argument) {
    struct spill *s = argument;
    pthread_mutex_lock(&s->mutex);
    while (s->first || !s->quit)
        if (s->first)
            write_first(s);
        else
            pthread_cond_wait(&s->queued, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* ------------------------------------------------------------------------------- open and close */

/* Takes one name of the directory into account. Errors: MEMORY. */
static int take_name(struct spill *s, const char *name, uint64_t *foreign, struct sonde_error *e) {
    struct sonde_error why;
    struct spill_key key;
    struct spill_piece piece;
    enum spill_name kind = spill_name_parse(&s->directory, name, &key);
    *foreign += kind == SPILL_NAME_FOREIGN;
    if (kind == SPILL_NAME_TEMPORARY)
        unlinkat(s->directory.fd, name, 0);
    if (kind != SPILL_NAME_PIECE)
        return SONDE_OK;
    int rc = spill_file_look(&s->directory, &key, &piece, &why);
    if (rc == SONDE_ERROR_FORMAT)
        discard(s, &key, &why);
    else if (rc)
        say(s, why.message);
    if (rc)
        return SONDE_OK;
    s->clock = piece.used > s->clock ? piece.used : s->clock;
    return spill_index_push(&s->index, &piece, e);
}

static int take_names(struct spill *s, DIR *d, uint64_t *foreign, struct sonde_error *e) {
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(d);
        if (!entry)
            return errno ? err_system(e, "%s", s->directory.path) : SONDE_OK;
        if (take_name(s, entry->d_name, foreign, e))
            return SONDE_ERROR_MEMORY;
    }
}

static int scan(struct spill *s, struct sonde_error *e) {
    struct sonde_error line;
    uint64_t foreign = 0;
    int fd = openat(s->directory.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    int rc = d ? take_names(s, d, &foreign, e) : err_system(e, "%s", s->directory.path);
    if (d)
        closedir(d);
    else if (fd >= 0)
        close(fd);
    if (rc)
        return rc;
    if (foreign) {
        err_set(&line, SONDE_OK, "%s: %llu pieces that are not this model's are left alone", s->directory.path,
                (unsigned long long)foreign);
        say(s, line.message);
    }
    spill_index_build(&s->index);
    if (make_room(s, 0, &line))
        say(s, line.message);
    return SONDE_OK;
}

static int start(struct spill *s, struct sonde_error *e) {
    errno = thread_create(&s->thread, write_queue, s);
    s->threaded = errno == 0;
    return s->threaded ? SONDE_OK : err_system(e, "%s: no thread to write it", s->directory.path);
}

int spill_open(const struct spill_options *options, struct spill **spill, struct sonde_error *e) {
    struct spill *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    s->limit = options->limit;
    s->log = options->log;
    s->context = options->context;
    s->last = &s->first;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->queued, NULL);
    pthread_cond_init(&s->settled, NULL);
    spill_index_init(&s->index);
    int rc = spill_directory_open(&s->directory, options->directory, options->identity, e);
    if (!rc)
        rc = scan(s, e);
    if (!rc)
        rc = start(s, e);
    if (rc)
        spill_close(s);
    else
        *spill = s;
    return rc;
}

void spill_close(struct spill *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->mutex);
    s->quit = true;
    pthread_cond_signal(&s->queued);
    pthread_mutex_unlock(&s->mutex);
    if (s->threaded)
        pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->settled);
    pthread_cond_destroy(&s->queued);
    pthread_mutex_destroy(&s->mutex);
    spill_index_release(&s->index);
    spill_directory_close(&s->directory);
    free(s);
}

/* ---------------------------------------------------------------------------------------- asking */

/* A use of a piece that is in the index. Mutex held. */
static void use(struct spill *s, uint32_t at) {
    spill_index_use(&s->index, at, next_time(s));
    const struct spill_piece *p = &s->index.pieces[at];
    if (!p->write)
        spill_file_stamp(&s->directory, &p->key, p->used);
}

/* Takes a piece out of the index and its write, if it waits, out of account. True if it has a file. Mutex held. */
static bool forget(struct spill *s, uint32_t at) {
    struct spill_write *w = s->index.pieces[at].write;
    if (w)
        w->at = SPILL_NONE;
    spill_index_remove(&s->index, at);
    return !w;
}

bool spill_has(struct spill *s, const struct spill_key *key) {
    pthread_mutex_lock(&s->mutex);
    uint32_t at = spill_index_find(&s->index, key);
    bool there = at != SPILL_NONE && !s->index.pieces[at].write;
    pthread_mutex_unlock(&s->mutex);
    return there;
}

int spill_lengths(struct spill *s, uint8_t kind, uint64_t most, uint64_t **lengths, size_t *count,
                  struct sonde_error *e) {
    pthread_mutex_lock(&s->mutex);
    int rc = spill_index_lengths(&s->index, kind, most, lengths, count, e);
    pthread_mutex_unlock(&s->mutex);
    return rc;
}

void spill_touch(struct spill *s, const struct spill_key *key) {
    pthread_mutex_lock(&s->mutex);
    uint32_t at = spill_index_find(&s->index, key);
    if (at != SPILL_NONE)
        use(s, at);
    pthread_mutex_unlock(&s->mutex);
}

void spill_remove(struct spill *s, const struct spill_key *key) {
    struct sonde_error e;
    pthread_mutex_lock(&s->mutex);
    uint32_t at = spill_index_find(&s->index, key);
    bool file = at != SPILL_NONE && forget(s, at);
    int rc = file ? spill_file_remove(&s->directory, key, &e) : SONDE_OK;
    pthread_mutex_unlock(&s->mutex);
    if (rc)
        say(s, e.message);
}

uint64_t spill_bytes(struct spill *s) {
    pthread_mutex_lock(&s->mutex);
    uint64_t bytes = spill_index_bytes(&s->index);
    pthread_mutex_unlock(&s->mutex);
    return bytes;
}

/* The piece's file turned out to be gone (why NULL) or broken. Unless it was removed meanwhile to make room. */
static void lose(struct spill *s, const struct spill_key *key, const struct sonde_error *why) {
    pthread_mutex_lock(&s->mutex);
    uint32_t at = spill_index_find(&s->index, key);
    if (at != SPILL_NONE)
        forget(s, at);
    pthread_mutex_unlock(&s->mutex);
    if (why)
        discard(s, key, why);
}

static int read_piece(struct spill *s, const struct spill_key *key, void **data, size_t *bytes, bool *found,
                      struct sonde_error *e) {
    struct sonde_error why;
    int rc = spill_file_read(&s->directory, key, data, bytes, &why);
    *found = !rc && *data;
    if (rc == SONDE_ERROR_MEMORY)
        return err_memory(e);
    if (rc == SONDE_ERROR_FORMAT)
        lose(s, key, &why);
    else if (rc)
        say(s, why.message);
    else if (!*found)
        lose(s, key, NULL);
    return SONDE_OK;
}

static int copy_piece(const struct spill_write *w, void **data, size_t *bytes, bool *found, struct sonde_error *e) {
    *data = spill_memory(w->bytes);
    if (!*data)
        return err_memory(e);
    memcpy(*data, w->data, w->bytes);
    *bytes = w->bytes;
    *found = true;
    return SONDE_OK;
}

int spill_get(struct spill *s, const struct spill_key *key, void **data, size_t *bytes, bool *found,
              struct sonde_error *e) {
    int rc = SONDE_OK;
    *found = false;
    pthread_mutex_lock(&s->mutex);
    uint32_t at = spill_index_find(&s->index, key);
    const struct spill_write *w = at == SPILL_NONE ? NULL : s->index.pieces[at].write;
    if (at != SPILL_NONE)
        use(s, at);
    if (w)
        rc = copy_piece(w, data, bytes, found, e);
    pthread_mutex_unlock(&s->mutex);
    return at == SPILL_NONE || w ? rc : read_piece(s, key, data, bytes, found, e);
}

/* --------------------------------------------------------------------------------------- putting */

static int total_of(const struct spill_part *parts, size_t count, uint64_t *bytes, struct sonde_error *e) {
    *bytes = 0;
    for (size_t i = 0; i < count; i++)
        if (!size_add(*bytes, parts[i].bytes, bytes) || *bytes > SPILL_MOST)
            return err_set(e, SONDE_ERROR_ARGUMENT, "a piece to be stored has more than %llu bytes",
                           (unsigned long long)SPILL_MOST);
    return SONDE_OK;
}

static struct spill_write *new_write(const struct spill_key *key, const struct spill_part *parts, size_t count,
                                     uint64_t bytes) {
    struct spill_write *w = malloc(weight(bytes));
    if (!w)
        return NULL;
    *w = (struct spill_write){.key = *key, .bytes = bytes};
    uint8_t *to = w->data;
    for (size_t i = 0; i < count; to += parts[i++].bytes)
        if (parts[i].bytes)
            memcpy(to, parts[i].data, parts[i].bytes);
    return w;
}

/* Mutex held. Errors: MEMORY. */
static int enqueue(struct spill *s, struct spill_write *w, struct sonde_error *e) {
    if (spill_index_reserve(&s->index, e))
        return SONDE_ERROR_MEMORY;
    w->created = next_time(s);
    w->at = spill_index_add(&s->index, &w->key, w->created, w);
    *s->last = w;
    s->last = &w->next;
    s->waiting += weight(w->bytes);
    pthread_cond_signal(&s->queued);
    return SONDE_OK;
}

int spill_put(struct spill *s, const struct spill_key *key, const struct spill_part *parts, size_t count,
              struct sonde_error *e) {
    assert(key->kind >= 'a' && key->kind <= 'z');
    uint64_t bytes;
    if (total_of(parts, count, &bytes, e))
        return SONDE_ERROR_ARGUMENT;
    pthread_mutex_lock(&s->mutex);
    uint32_t at = spill_index_find(&s->index, key);
    if (at != SPILL_NONE)
        use(s, at);
    while (at == SPILL_NONE && s->waiting && s->waiting + weight(bytes) > QUEUE_MOST)
        pthread_cond_wait(&s->settled, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    if (at != SPILL_NONE)
        return SONDE_OK;
    struct spill_write *w = new_write(key, parts, count, bytes); /* nobody else puts, so there is still room */
    if (!w)
        return err_memory(e);
    pthread_mutex_lock(&s->mutex);
    int rc = enqueue(s, w, e);
    pthread_mutex_unlock(&s->mutex);
    if (rc)
        free(w);
    return rc;
}

void spill_flush(struct spill *s) {
    pthread_mutex_lock(&s->mutex);
    while (s->first)
        pthread_cond_wait(&s->settled, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}
