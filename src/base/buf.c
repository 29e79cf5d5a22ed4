/* buf.c - bytes that grow by doubling, step memory that does not. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static bool reserve(struct buf *b, size_t extra) {
    if (b->failed)
        return false;
    size_t need;
    if (__builtin_add_overflow(b->len, extra, &need) || __builtin_add_overflow(need, 1, &need))
        goto failed;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        if (__builtin_mul_overflow(cap, 2, &cap))
            goto failed;
    char *data = realloc(b->data, cap);
    if (!data)
        goto failed;
    b->data = data;
    b->cap = cap;
    return true;
failed:
    buf_release(b);
    b->failed = true;
    return false;
}

void buf_release(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b) {
    b->len = 0;
    if (b->data)
        b->data[0] = 0;
}

void buf_append(struct buf *b, const void *bytes, size_t count) {
    if (!reserve(b, count))
        return;
    if (count)
        memcpy(b->data + b->len, bytes, count);
    b->len += count;
    b->data[b->len] = 0;
}

void buf_string(struct buf *b, const char *string) {
    buf_append(b, string, strlen(string));
}

void buf_byte(struct buf *b, char byte) {
    buf_append(b, &byte, 1);
}

void buf_printf(struct buf *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(b, (size_t)n))
        return;
    va_start(args, format);
    vsnprintf(b->data + b->len, (size_t)n + 1, format, args);
    va_end(args);
    b->len += (size_t)n;
}

int buf_take(struct buf *b, char **data, size_t *length, struct sonde_error *e) {
    if (!b->data)
        buf_append(b, "", 0);
    if (b->failed)
        return err_memory(e);
    *data = b->data;
    if (length)
        *length = b->len;
    *b = (struct buf){0};
    return SONDE_OK;
}

void *arena_take(struct arena *a, size_t count, size_t size) {
    uint64_t bytes = 0, end = 0;
    bool fits =
        size_mul(count, size, &bytes) && size_add(bytes, 63, &bytes) && size_add(a->used, bytes & ~(uint64_t)63, &end);
    assert(fits);
    (void)fits;
    void *at = a->base ? a->base + a->used : NULL;
    a->used = end;
    assert(!a->base || a->used <= a->size);
    return at;
}
