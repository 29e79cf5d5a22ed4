/*
 * history.c - log.jsonl, which grows by a line at a time and is cut where a run goes on from an earlier state.
 *
 * A line is written by one call, so a crash leaves at most one that is not whole, at the end. What is dropped on
 * opening may stand before what stays (a loss before a validation that was made before the same state), so the file is
 * then replaced, whole as ever, and not truncated.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/run_internal.h"

enum { DIGITS = 9 };
#define LARGEST ((size_t)1 << 32)

enum verdict { DROPPED, KEPT, KEPT_SAID };

/* What becomes of a line when a run goes on from `step`. */
static enum verdict judge(const char *line, size_t count, uint64_t step) {
    json_t *object = json_loadb(line, count, 0, NULL);
    const json_t *at = json_object_get(object, "step");
    json_int_t n = json_is_integer(at) ? json_integer_value(at) : -1;
    enum verdict verdict = DROPPED;
    if (n >= 0 && (uint64_t)n < step)
        verdict = KEPT;
    else if (n >= 0 && (uint64_t)n == step && !json_object_get(object, "loss"))
        verdict = KEPT_SAID;
    json_decref(object);
    return verdict;
}

/* Appends what stays of a log to *kept, and what of it is of the step itself to *said. */
static void sift(const struct buf *log, uint64_t step, struct buf *kept, struct buf *said) {
    const char *at = log->data, *end = log->data + log->len, *stop;
    for (; at < end && (stop = memchr(at, '\n', (size_t)(end - at))); at = stop + 1) {
        enum verdict verdict = judge(at, (size_t)(stop - at), step);
        if (verdict != DROPPED)
            buf_append(kept, at, (size_t)(stop + 1 - at));
        if (verdict == KEPT_SAID)
            buf_append(said, at, (size_t)(stop + 1 - at));
    }
}

/* Cuts the log at a path, if there is one. */
static int cut(const char *path, uint64_t step, struct buf *said, struct sonde_error *e) {
    struct buf log = {0}, kept = {0};
    if (!file_exists(path))
        return SONDE_OK;
    int rc = file_read(path, LARGEST, &log, e);
    if (!rc)
        sift(&log, step, &kept, said);
    if (!rc && (kept.failed || said->failed))
        rc = err_memory(e);
    if (!rc && kept.len != log.len)
        rc = file_write(path, kept.data, kept.len, e);
    buf_release(&log);
    buf_release(&kept);
    return rc;
}

int history_open(const char *path, uint64_t step, struct history *h, struct sonde_error *e) {
    *h = (struct history){.fd = -1, .step = step, .path = strdup(path)};
    int rc = h->path ? cut(path, step, &h->said, e) : err_memory(e);
    if (!rc) {
        h->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (h->fd < 0)
            rc = err_system(e, "%s: cannot be written", path);
    }
    if (rc)
        history_close(h);
    return rc;
}

static bool was_said(const struct history *h, const struct buf *line) {
    const char *at = h->said.data, *end = at + h->said.len, *stop;
    for (; at < end && (stop = memchr(at, '\n', (size_t)(end - at))); at = stop + 1)
        if ((size_t)(stop + 1 - at) == line->len && memcmp(at, line->data, line->len) == 0)
            return true;
    return false;
}

static int write_all(const struct history *h, const char *bytes, size_t count, struct sonde_error *e) {
    while (count) {
        ssize_t n = write(h->fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_system(e, "%s", h->path);
        bytes += n;
        count -= (size_t)n;
    }
    return SONDE_OK;
}

int history_add(struct history *h, json_t *line, struct sonde_error *e) {
    char *text = line ? json_dumps(line, JSON_REAL_PRECISION(DIGITS)) : NULL;
    struct buf b = {0};
    json_decref(line);
    if (!text)
        return err_memory(e);
    buf_string(&b, text);
    buf_byte(&b, '\n');
    free(text);
    int rc = b.failed ? err_memory(e) : was_said(h, &b) ? SONDE_OK : write_all(h, b.data, b.len, e);
    buf_release(&b);
    return rc;
}

void history_close(struct history *h) {
    if (h->fd >= 0)
        close(h->fd);
    free(h->path);
    buf_release(&h->said);
    *h = (struct history){.fd = -1};
}
