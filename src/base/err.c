/* err.c - one sentence for whoever must read it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

/* Ends a message that fills its `size` bytes in "...", after a whole character. */
static void cut(char *message, size_t size) {
    size_t at = size - 4;
    for (int i = 0; i < 3 && ((unsigned char)message[at] & 0xc0) == 0x80; i++)
        at--;
    memcpy(message + at, "...", 4);
}

/* One '?' for each control character. C1 is 0xc2 0x80..0x9f in UTF-8. */
static void hide_controls(char *message) {
    const unsigned char *from = (const unsigned char *)message;
    char *to = message;
    for (; *from; from++) {
        bool c1 = from[0] == 0xc2 && from[1] >= 0x80 && from[1] <= 0x9f;
        *to++ = *from < 0x20 || *from == 0x7f || c1 ? '?' : (char)*from;
        from += c1;
    }
    *to = 0;
}

static void sentence(struct sonde_error *e, int code, const char *format, va_list args, const char *reason) {
    size_t size = sizeof(e->message);
    e->code = code;
    int n = vsnprintf(e->message, size, format, args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (reason && used < size)
        used += (size_t)snprintf(e->message + used, size - used, ": %s", reason);
    if (used >= size)
        cut(e->message, size);
    hide_controls(e->message);
}

int err_set(struct sonde_error *e, int code, const char *format, ...) {
    if (e) {
        va_list args;
        va_start(args, format);
        sentence(e, code, format, args, NULL);
        va_end(args);
    }
    return code;
}

int err_system(struct sonde_error *e, const char *format, ...) {
    const char *reason = strerror(errno);
    if (e) {
        va_list args;
        va_start(args, format);
        sentence(e, SONDE_ERROR_IO, format, args, reason);
        va_end(args);
    }
    return SONDE_ERROR_IO;
}

int err_memory(struct sonde_error *e) {
    return err_set(e, SONDE_ERROR_MEMORY, "out of memory");
}

const char *sonde_code_name(int code) {
    static const struct {
        int code;
        const char *name;
    } names[] = {
#define ROW(name, code, meaning) {(code), #name},
        SONDE_CODES(ROW)
#undef ROW
    };
    if (code == SONDE_OK)
        return "OK";
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (names[i].code == code)
            return names[i].name;
    return "UNKNOWN";
}
