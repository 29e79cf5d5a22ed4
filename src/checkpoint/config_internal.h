/*
 * config_internal.h - reading fields of a JSON object that nobody has checked.
 *
 * A reader remembers the first failure: once *rc is not 0 every further read gives its fallback and reports
 * nothing, so a long list of fields reads as a list, and the caller looks at *rc before trusting any number.
 * A field that is null counts as missing. Sentences name the source, the field with the path to it, what
 * stands there and what was expected:
 *
 *     DIR/config.json: field rope_scaling.factor: "x", expected a number from 1 to 1e+09
 */
#ifndef CHECKPOINT_CONFIG_INTERNAL_H
#define CHECKPOINT_CONFIG_INTERNAL_H

#include "base/base.h"

struct config {
    const json_t *object;
    const char *path; /* "" or "rope_scaling." */
    const char *what; /* the file */
    int *rc;
    struct sonde_error *e;
};

/* A fallback that makes the field one that must be there. */
#define CONFIG_REQUIRED        INT64_MIN
#define CONFIG_REQUIRED_NUMBER NAN

/* The value, or NULL if it is missing or null. */
const json_t *config_get(const struct config *c, const char *name);

/* Reports field `name`, holding `value` (NULL: missing). */
void config_wrong(const struct config *c, const char *name, const json_t *value, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* "NAME: VALUE is not supported, ...": UNSUPPORTED. */
void config_refuse(const struct config *c, const char *name, const json_t *value, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* An integer from least to most; 3.0 is one. */
int64_t config_integer(const struct config *c, const char *name, int64_t least, int64_t most, int64_t fallback);

/* `value` as such an integer; false if it is none. */
bool config_as_integer(const json_t *value, int64_t least, int64_t most, int64_t *out);

/* A finite number from least to most. */
double config_number(const struct config *c, const char *name, double least, double most, double fallback);

/* A field that, if present, must be true or must be false (`wanted`): anything else is not supported. */
void config_flag(const struct config *c, const char *name, bool wanted);

/* Which of `count` choices the string field is; fallback if missing; anything else is not supported. */
size_t config_choice(const struct config *c, const char *name, const char *const *choices, size_t count,
                     size_t fallback);

/* An object field to read on. False if it is missing, or not an object (reported). `path` is what stands before
 * the names of its fields and stays the caller's. */
bool config_child(const struct config *c, const char *name, const char *path, struct config *child);

/* An array field of least to most entries: NULL if missing or reported. */
const json_t *config_array(const struct config *c, const char *name, size_t least, size_t most);

#endif
