/* err.c - one sentence for whoever must read it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

static void sentence(struct sonde_error *e, int code, const char *format, va_list args, const char *reason) {
    size_t size = sizeof(e->message);
    e->code = code;
    int n = vsnprintf(e->message, size, format, args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (reason && used < size)
        used += (size_t)snprintf(e->message + used, size - used, ": %s", reason);
    if (used >= size)
        memcpy(e->message + size - 4, "...", 4);
    for (char *c = e->message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
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
