/*
 * replay.c - what answers were as ids, in memory and in a log beside the cache's pieces.
 *
 *     8 bytes          "SONDEANS"
 *     and for each     u64 key, u64 check, u64 XXH3 of key, check, count and ids, u32 count, u32 0
 *                      i32 ids [count]
 *
 * Little-endian, as all of the cache. Entries are found through chains by key and forgotten in the order of last use.
 * A record is one write(); a torn one at the end, after a crash, has a wrong checksum and ends the reading. Losing a
 * record costs a prompt that is read again, so nothing is synced.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "server/parts_internal.h"

#define MEMORY_MOST ((uint64_t)64 << 20) /* bytes of ids */
#define FILE_MOST   (4 * MEMORY_MOST)

static const char magic[8] = "SONDEANS";

enum { CHAINS = 1 << 14, IDS_MOST = 1 << 24 };

struct entry {
    struct entry *chain, *newer, *older;
    uint64_t key, check;
    uint32_t count;
    int32_t ids[];
};

struct head {
    uint64_t key, check, sum;
    uint32_t count, zero;
};

struct replay {
    pthread_mutex_t lock;
    struct entry *chains[CHAINS];
    struct entry *newest, *oldest;
    uint64_t bytes, file_bytes;
    int fd; /* -1: memory alone */
    char *path;
    void (*log)(void *context, const char *line);
    void *context;
};

uint64_t replay_hash(uint64_t seed, const void *bytes, size_t count) {
    return XXH3_64bits_withSeed(bytes, count, seed);
}

/* ------------------------------------------------------------------------------------------- entries */

static struct entry **place_of(struct replay *r, uint64_t key) {
    struct entry **at = &r->chains[key % CHAINS];
    while (*at && (*at)->key != key)
        at = &(*at)->chain;
    return at;
}

static void unlink_age(struct replay *r, struct entry *x) {
    if (x->newer)
        x->newer->older = x->older;
    else
        r->newest = x->older;
    if (x->older)
        x->older->newer = x->newer;
    else
        r->oldest = x->newer;
}

static void link_newest(struct replay *r, struct entry *x) {
    x->newer = NULL;
    x->older = r->newest;
    if (x->older)
        x->older->newer = x;
    else
        r->oldest = x;
    r->newest = x;
}

static void forget(struct replay *r, struct entry *x) {
    struct entry **at = place_of(r, x->key);
    *at = x->chain;
    unlink_age(r, x);
    r->bytes -= sizeof(*x) + x->count * sizeof(*x->ids);
    free(x);
}

static bool remember(struct replay *r, const struct head *head, const int32_t *ids) {
    struct entry *old = *place_of(r, head->key);
    if (old)
        forget(r, old);
    struct entry *x = malloc(sizeof(*x) + head->count * sizeof(*ids));
    if (!x)
        return false;
    x->key = head->key;
    x->check = head->check;
    x->count = head->count;
    memcpy(x->ids, ids, head->count * sizeof(*ids));
    struct entry **at = place_of(r, x->key);
    x->chain = *at;
    *at = x;
    link_newest(r, x);
    r->bytes += sizeof(*x) + x->count * sizeof(*ids);
    while (r->bytes > MEMORY_MOST && r->oldest != x)
        forget(r, r->oldest);
    return true;
}

/* ---------------------------------------------------------------------------------------------- file */

static uint64_t sum_of(const struct head *head, const int32_t *ids) {
    const uint64_t words[] = {head->key, head->check, head->count};
    return XXH3_64bits_withSeed(ids, head->count * sizeof(*ids), XXH3_64bits(words, sizeof(words)));
}

static void append(struct buf *b, struct head head, const int32_t *ids) {
    head.sum = sum_of(&head, ids);
    buf_append(b, &head, sizeof(head));
    buf_append(b, ids, head.count * sizeof(*ids));
}

/* A line of JSON, as all of the log is. */
static void say(const struct replay *r, const char *what) {
    struct buf text = {0}, line = {0};
    buf_printf(&text, "%s: %s", r->path, what);
    buf_string(&line, "{\"notice\":");
    json_write_string(&line, text.data, text.len);
    buf_byte(&line, '}');
    if (r->log && !text.failed && !line.failed)
        r->log(r->context, line.data);
    buf_release(&text);
    buf_release(&line);
}

/* Everything known in one piece, oldest first, instead of the log that has grown. */
static void write_anew(struct replay *r) {
    struct buf b = {0};
    buf_append(&b, magic, sizeof(magic));
    for (const struct entry *x = r->oldest; x; x = x->newer)
        append(&b, (struct head){.key = x->key, .check = x->check, .count = x->count}, x->ids);
    /* in place, as the lock is on this file; a crash in between loses answers, and no more */
    if (b.failed || ftruncate(r->fd, 0) || pwrite(r->fd, b.data, b.len, 0) != (ssize_t)b.len) {
        say(r, "it cannot be written; answers are kept in memory alone from now on");
        close(r->fd);
        r->fd = -1;
    }
    r->file_bytes = b.len;
    buf_release(&b);
}

static void write_record(struct replay *r, const struct head *head, const int32_t *ids) {
    struct buf b = {0};
    append(&b, *head, ids);
    /* at a known place: what a full disk left half-written is written over by the next */
    if (!b.failed && pwrite(r->fd, b.data, b.len, (off_t)r->file_bytes) == (ssize_t)b.len)
        r->file_bytes += b.len;
    buf_release(&b);
    if (r->file_bytes > FILE_MOST)
        write_anew(r);
}

/* Takes in records until the end or the first damaged one; returns where that was. */
static size_t read_records(struct replay *r, const char *bytes, size_t count) {
    size_t at = sizeof(magic);
    for (;;) {
        struct head head;
        if (count - at < sizeof(head))
            return at;
        memcpy(&head, bytes + at, sizeof(head));
        size_t size = (size_t)head.count * sizeof(int32_t);
        if (head.count > IDS_MOST || count - at - sizeof(head) < size)
            return at;
        const int32_t *ids = (const int32_t *)(const void *)(bytes + at + sizeof(head)); /* heads are 8 times 4 bytes */
        if (head.zero || sum_of(&head, ids) != head.sum || !remember(r, &head, ids))
            return at;
        at += sizeof(head) + size;
    }
}

static int read_file(struct replay *r, struct sonde_error *e) {
    struct buf b = {0};
    int rc = file_read(r->path, SIZE_MAX / 2, &b, e);
    if (rc)
        return rc;
    bool ours = b.len >= sizeof(magic) && memcmp(b.data, magic, sizeof(magic)) == 0;
    r->file_bytes = ours ? read_records(r, b.data, b.len) : 0;
    if (b.len && r->file_bytes < b.len)
        say(r, ours ? "the end is damaged and passed over" : "not a file of answers, written anew");
    buf_release(&b);
    if (!ours)
        write_anew(r);
    return SONDE_OK;
}

static int open_file(struct replay *r, const char *directory, struct sonde_error *e) {
    struct buf path = {0};
    file_join(&path, directory, "answers");
    int rc = buf_take(&path, &r->path, NULL, e);
    if (rc)
        return rc;
    r->fd = open(r->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (r->fd < 0)
        return err_system(e, "%s", r->path);
    if (flock(r->fd, LOCK_EX | LOCK_NB)) {
        say(r, "in use by another process, so answers are kept in memory alone");
        close(r->fd);
        r->fd = -1;
        return SONDE_OK;
    }
    return read_file(r, e);
}

/* --------------------------------------------------------------------------------------------- face */

int replay_open(const char *directory, void (*log)(void *context, const char *line), void *context,
                struct replay **replay, struct sonde_error *e) {
    struct replay *r = calloc(1, sizeof(*r));
    if (!r)
        return err_memory(e);
    r->fd = -1;
    r->log = log;
    r->context = context;
    pthread_mutex_init(&r->lock, NULL);
    int rc = directory ? open_file(r, directory, e) : SONDE_OK;
    if (rc)
        replay_close(r);
    else
        *replay = r;
    return rc;
}

void replay_close(struct replay *r) {
    if (!r)
        return;
    while (r->oldest)
        forget(r, r->oldest);
    if (r->fd >= 0)
        close(r->fd);
    pthread_mutex_destroy(&r->lock);
    free(r->path);
    free(r);
}

void replay_put(struct replay *r, uint64_t key, uint64_t check, const int32_t *ids, size_t count) {
    struct head head = {.key = key, .check = check, .count = (uint32_t)count};
    if (!count || count > IDS_MOST)
        return;
    pthread_mutex_lock(&r->lock);
    const struct entry *old = *place_of(r, key);
    bool same = old && old->check == check && old->count == count && !memcmp(old->ids, ids, count * sizeof(*ids));
    if (!same && remember(r, &head, ids) && r->fd >= 0)
        write_record(r, &head, ids);
    pthread_mutex_unlock(&r->lock);
}

bool replay_get(struct replay *r, uint64_t key, uint64_t check, struct buf *ids) {
    pthread_mutex_lock(&r->lock);
    struct entry *x = *place_of(r, key);
    bool found = x && x->check == check;
    if (found) {
        buf_append(ids, x->ids, x->count * sizeof(*x->ids));
        unlink_age(r, x);
        link_newest(r, x);
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}
