/* params.c - what is trained: names, shapes, and one piece of memory each for all values and all gradients. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/net_internal.h"

int REAL(params_init)(struct REAL(params) * p, size_t room, struct sonde_error *e) {
    *p = (struct REAL(params)){.room = room};
    p->list = calloc(room, sizeof(*p->list));
    return p->list ? SONDE_OK : err_memory(e);
}

struct REAL(param) * REAL(params_add)(struct REAL(params) * p, enum param_kind kind, enum param_form form,
                                      uint32_t stack, uint32_t rows, uint32_t cols, const char *format, ...) {
    assert(p->count < p->room);
    struct REAL(param) *x = &p->list[p->count++];
    va_list args;
    *x = (struct REAL(param)){.kind = kind, .form = form, .stack = stack, .rows = rows, .cols = cols};
    va_start(args, format);
    int n = vsnprintf(x->name, sizeof(x->name), format, args);
    va_end(args);
    assert(n > 0 && (size_t)n < sizeof(x->name));
    (void)n;
    return x;
}

static bool has_gradient(const struct REAL(param) * p) {
    return p->kind != PARAM_FIXED && p->kind != PARAM_TABLE;
}

int REAL(params_place)(struct REAL(params) * p, struct sonde_error *e) {
    p->numbers = p->learnt = 0;
    for (size_t i = 0; i < p->count; i++) {
        p->numbers += REAL(param_room)(&p->list[i]);
        p->learnt += has_gradient(&p->list[i]) ? REAL(param_room)(&p->list[i]) : 0;
    }
    p->values = memory_large(p->numbers * sizeof(real));
    p->gradients = memory_large(p->learnt * sizeof(real));
    if (!p->values || !p->gradients)
        return err_memory(e);
    memset(p->values, 0, p->numbers * sizeof(real));
    REAL(params_clear)(p);
    real *value = p->values, *gradient = p->gradients;
    for (size_t i = 0; i < p->count; i++) {
        struct REAL(param) *x = &p->list[i];
        x->value = value;
        x->use = value;
        value += REAL(param_room)(x);
        if (!has_gradient(x))
            continue;
        x->gradient = gradient;
        gradient += REAL(param_room)(x);
    }
    return SONDE_OK;
}

void REAL(params_release)(struct REAL(params) * p) {
    free(p->list);
    free(p->values);
    free(p->gradients);
    *p = (struct REAL(params)){0};
}

void REAL(params_clear)(struct REAL(params) * p) {
    memset(p->gradients, 0, p->learnt * sizeof(real));
}

void REAL(param_name)(const struct REAL(param) * p, uint32_t number, char *name, size_t room) {
    const char *at = strchr(p->name, '#');
    if (at)
        snprintf(name, room, "%.*s%u%s", (int)(at - p->name), p->name, number, at + 1);
    else
        snprintf(name, room, "%s", p->name);
}
