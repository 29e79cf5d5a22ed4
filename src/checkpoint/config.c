/*
 * config.c - fields of an unchecked JSON object, each read with its bounds and its sentence.
 *
 * jansson has already refused what is not JSON, duplicate keys and numbers that fit neither 64 bits nor a
 * double; what is left to check here is the type and the range.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/config_internal.h"

/* Enough of a value to recognise it by; long ones end in "...". */
static const char *excerpt(const json_t *value, char text[49]) {
    if (!value)
        return "missing";
    if (json_is_object(value) || json_is_array(value))
        return json_is_object(value) ? "an object" : "an array";
    char *json = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    if (!json)
        return "a value";
    bool whole = strlen(json) < 48;
    snprintf(text, 49, whole ? "%s" : "%.45s...", json);
    free(json);
    return text;
}

static void report(const struct config *c, int code, const char *name, const json_t *value, const char *between,
                   const char *format, va_list args) {
    char text[49], expected[256];
    if (*c->rc)
        return;
    vsnprintf(expected, sizeof(expected), format, args);
    *c->rc =
        err_set(c->e, code, "%s: field %s%s: %s%s%s", c->what, c->path, name, excerpt(value, text), between, expected);
}

void config_wrong(const struct config *c, const char *name, const json_t *value, const char *format, ...) {
    va_list args;
    va_start(args, format);
    report(c, SONDE_ERROR_FORMAT, name, value, ", expected ", format, args);
    va_end(args);
}

void config_refuse(const struct config *c, const char *name, const json_t *value, const char *format, ...) {
    va_list args;
    va_start(args, format);
    report(c, SONDE_ERROR_UNSUPPORTED, name, value, " is not supported, ", format, args);
    va_end(args);
}

const json_t *config_get(const struct config *c, const char *name) {
    const json_t *value = json_object_get(c->object, name);
    return json_is_null(value) ? NULL : value;
}

bool config_as_integer(const json_t *value, int64_t least, int64_t most, int64_t *out) {
    int64_t x;
    if (json_is_integer(value)) {
        x = json_integer_value(value);
    } else if (json_is_real(value)) {
        double real = json_real_value(value);
        if (!(fabs(real) <= 0x1p53) || real != floor(real))
            return false;
        x = (int64_t)real;
    } else {
        return false;
    }
    if (x < least || x > most)
        return false;
    *out = x;
    return true;
}

int64_t config_integer(const struct config *c, const char *name, int64_t least, int64_t most, int64_t fallback) {
    const json_t *value = config_get(c, name);
    int64_t x;
    if (!value && fallback != CONFIG_REQUIRED)
        return fallback;
    if (value && config_as_integer(value, least, most, &x))
        return x;
    config_wrong(c, name, value, "an integer from %lld to %lld", (long long)least, (long long)most);
    return least;
}

double config_number(const struct config *c, const char *name, double least, double most, double fallback) {
    const json_t *value = config_get(c, name);
    if (!value && !isnan(fallback))
        return fallback;
    double x = json_is_number(value) ? json_number_value(value) : NAN;
    if (x >= least && x <= most)
        return x;
    config_wrong(c, name, value, "a number from %g to %g", least, most);
    return least;
}

void config_flag(const struct config *c, const char *name, bool wanted) {
    const json_t *value = config_get(c, name);
    if (value && !json_is_boolean(value))
        config_wrong(c, name, value, "true or false");
    else if (value && json_is_true(value) != wanted)
        config_refuse(c, name, value, "only %s", wanted ? "true" : "false");
}

size_t config_choice(const struct config *c, const char *name, const char *const *choices, size_t count,
                     size_t fallback) {
    const json_t *value = config_get(c, name);
    if (!value)
        return fallback;
    if (!json_is_string(value)) {
        config_wrong(c, name, value, "a string");
        return fallback;
    }
    for (size_t i = 0; i < count; i++)
        if (strcmp(json_string_value(value), choices[i]) == 0)
            return i;
    char list[200] = "";
    for (size_t i = 0, used = 0; i < count && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
                                 i == 0          ? ""
                                 : i + 1 < count ? ", "
                                                 : " or ",
                                 choices[i]);
    config_refuse(c, name, value, "only %s", list);
    return fallback;
}

bool config_child(const struct config *c, const char *name, const char *path, struct config *child) {
    const json_t *value = config_get(c, name);
    if (value && !json_is_object(value))
        config_wrong(c, name, value, "an object");
    *child = *c;
    child->object = value;
    child->path = path;
    return json_is_object(value);
}

const json_t *config_array(const struct config *c, const char *name, size_t least, size_t most) {
    const json_t *value = config_get(c, name);
    if (!value)
        return NULL;
    size_t count = json_array_size(value);
    if (json_is_array(value) && count >= least && count <= most)
        return value;
    if (!json_is_array(value)) {
        config_wrong(c, name, value, "an array");
    } else if (!*c->rc) {
        size_t wanted = count < least ? least : most;
        const char *how = least == most ? "" : count < least ? "at least " : "at most ";
        *c->rc = err_set(c->e, SONDE_ERROR_FORMAT, "%s: field %s%s: has %zu entries, expected %s%zu", c->what, c->path,
                         name, count, how, wanted);
    }
    return NULL;
}
