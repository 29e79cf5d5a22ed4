/*
 * jansson.h - as much of Jansson as base.h and misc.c name, so that they can be compiled for a processor whose Jansson
 * is not there. Nothing of it is called; the linker drops what would.
 */
#ifndef TESTS_CROSS_JANSSON_H
#define TESTS_CROSS_JANSSON_H

#include <stddef.h>

typedef struct json_t json_t;
typedef struct {
    int line;
    char text[160];
} json_error_t;

enum json_error_code { json_error_out_of_memory };
enum { JSON_REJECT_DUPLICATES = 1, JSON_DECODE_ANY = 4, JSON_ALLOW_NUL = 16 };

json_t *json_loadb(const char *bytes, size_t count, size_t flags, json_error_t *why);
enum json_error_code json_error_code(const json_error_t *why);

#endif
