/*
 * options.c - flags: parsed, checked and explained from one table.
 *
 * Longer than getopt and worth it: the table knows kinds and ranges, so every command refuses the same
 * mistake with the same words, and --help is made from what the parser reads.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

int usage_error(const char *command, const char *format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (command)
        notice("%s: %s; try: sonde %s --help", command, text, command);
    else
        notice("%s; try: sonde help", text);
    return STATUS_USAGE;
}

static const char *flag_name(const void *context, size_t i) {
    return ((const struct flag *)context)[i].name;
}

/* --------------------------------------------------------------------------------------- values */

static bool parse_count(const char *text, uint64_t *value) {
    if (*text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return !errno && !*end;
}

static bool parse_real(const char *text, float *value) {
    if (!*text || !strchr("+-.0123456789", *text))
        return false;
    char *end;
    *value = strtof(text, &end);
    return !*end && isfinite(*value);
}

/* Index of `text` among words separated by '|'; -1 if it is none of them. */
static int parse_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (int i = 0;; i++) {
        size_t length = strcspn(choices, "|");
        if (length == n && memcmp(choices, text, n) == 0)
            return i;
        if (!choices[length])
            return -1;
        choices += length + 1;
    }
}

static int refuse(const struct command *c, const struct flag *f, const char *text) {
    switch (f->kind) {
    case FLAG_COUNT:
        return usage_error(c->name, "--%s takes a whole number from %llu to %llu, not '%s'", f->name,
                           (unsigned long long)f->least, (unsigned long long)f->most, text);
    case FLAG_REAL:
        return usage_error(c->name, "--%s takes a number from %g to %g, not '%s'", f->name, (double)f->low,
                           (double)f->high, text);
    case FLAG_CHOICE:
        return usage_error(c->name, "--%s takes one of %s, not '%s'", f->name, f->value, text);
    default:
        return usage_error(c->name, "--%s takes 1 to %d texts that are not empty", f->name, LIST_MOST);
    }
}

/* Checks and stores; returns -1 to go on. Integers are printed by their letter, so a flag is named as --name
 * in messages even when its letter was used: the help lists both. */
static int store(const struct command *c, const struct flag *f, const char *text, void *values) {
    char *at = (char *)values + f->at;
    uint64_t count;
    float real;
    int choice;
    switch (f->kind) {
    case FLAG_SWITCH:
        *(bool *)at = true;
        return -1;
    case FLAG_STRING:
        memcpy(at, &text, sizeof(text));
        return -1;
    case FLAG_LIST: {
        struct strings *list = (struct strings *)(void *)at;
        if (!*text || list->count == LIST_MOST)
            return refuse(c, f, text);
        list->at[list->count++] = text;
        return -1;
    }
    case FLAG_COUNT:
        if (!parse_count(text, &count) || count < f->least || count > f->most)
            return refuse(c, f, text);
        memcpy(at, &count, sizeof(count));
        return -1;
    case FLAG_REAL:
        if (!parse_real(text, &real) || real < f->low || real > f->high)
            return refuse(c, f, text);
        memcpy(at, &real, sizeof(real));
        return -1;
    case FLAG_CHOICE:
        choice = parse_choice(f->value, text);
        if (choice < 0)
            return refuse(c, f, text);
        memcpy(at, &choice, sizeof(choice));
        return -1;
    }
    return -1;
}

/* -------------------------------------------------------------------------------------- parsing */

struct arguments {
    const struct command *command;
    int argc, next;
    char **argv;
    void *values;
};

static int unknown(const struct command *c, const char *name, size_t length) {
    char word[64];
    snprintf(word, sizeof(word), "%.*s", (int)min_u64(length, sizeof(word) - 1), name);
    const char *near = nearest_name(word, c->flag_count, flag_name, c->flags);
    if (near)
        return usage_error(c->name, "unknown option --%s (did you mean --%s?)", word, near);
    return usage_error(c->name, "unknown option --%s", word);
}

/* Stores f with the value in the same word, or, where that is NULL, in the next one. */
static int take_value(struct arguments *a, const struct flag *f, const char *value) {
    if (!value && a->next == a->argc)
        return usage_error(a->command->name, "--%s needs a value: %s", f->name, f->value);
    return store(a->command, f, value ? value : a->argv[a->next++], a->values);
}

static int parse_long(struct arguments *a, const char *word) {
    const struct command *c = a->command;
    size_t length = strcspn(word, "=");
    for (size_t i = 0; i < c->flag_count; i++) {
        const struct flag *f = &c->flags[i];
        if (strlen(f->name) != length || memcmp(f->name, word, length) != 0)
            continue;
        if (f->kind == FLAG_SWITCH && word[length])
            return usage_error(c->name, "--%s takes no value", f->name);
        if (f->kind == FLAG_SWITCH)
            return store(c, f, NULL, a->values);
        return take_value(a, f, word[length] ? word + length + 1 : NULL);
    }
    return unknown(c, word, length);
}

/* "-n5", "-n 5", or switches run together. */
static int parse_letters(struct arguments *a, const char *letters) {
    const struct command *c = a->command;
    for (; *letters; letters++) {
        const struct flag *f = NULL;
        for (size_t i = 0; i < c->flag_count && !f; i++)
            if (c->flags[i].letter == *letters)
                f = &c->flags[i];
        if (!f)
            return usage_error(c->name, "unknown option -%c", *letters);
        if (f->kind != FLAG_SWITCH)
            return take_value(a, f, letters[1] ? letters + 1 : NULL);
        store(c, f, NULL, a->values);
    }
    return -1;
}

int flags_parse(const struct command *c, int argc, char **argv, void *values, const char **operands) {
    struct arguments a = {c, argc, 1, argv, values};
    int count = 0;
    bool flags_over = false;
    for (int i = 0; i < c->operands_most; i++)
        operands[i] = NULL;
    while (a.next < argc) {
        const char *word = argv[a.next++];
        int status = -1;
        if (flags_over || word[0] != '-' || !word[1]) {
            if (count == c->operands_most)
                return usage_error(c->name, "'%s' is one argument too many", word);
            operands[count++] = word;
        } else if (strcmp(word, "--") == 0) {
            flags_over = true;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            return command_help(c);
        } else if (word[1] == '-') {
            status = parse_long(&a, word + 2);
        } else {
            status = parse_letters(&a, word + 1);
        }
        if (status >= 0)
            return status;
    }
    if (count < c->operands_least)
        return usage_error(c->name, "%.*s is missing", (int)strcspn(c->operands, " "), c->operands);
    return -1;
}

/* ----------------------------------------------------------------------------------------- help */

#define HELP_COLUMN 30

static void help_row(struct buf *b, const struct flag *f) {
    size_t start = b->len;
    if (f->letter)
        buf_printf(b, "  -%c, --%s", f->letter, f->name);
    else
        buf_printf(b, "      --%s", f->name);
    if (f->value)
        buf_printf(b, " %s", f->value);
    if (b->len - start >= HELP_COLUMN - 1) {
        buf_byte(b, '\n');
        start = b->len;
    }
    buf_printf(b, "%*s%s\n", (int)(HELP_COLUMN - (b->len - start)), "", f->help);
}

int command_help(const struct command *c) {
    static const struct flag help = {.letter = 'h', .name = "help", .help = "this text"};
    struct output out = {.fd = STDOUT_FILENO};
    struct buf b = {0};
    buf_printf(&b, "usage: sonde %s [options]%s%s\n\n%s\n\n", c->name, *c->operands ? " " : "", c->operands, c->about);
    for (size_t i = 0; i < c->flag_count; i++)
        help_row(&b, &c->flags[i]);
    help_row(&b, &help);
    output_buf(&out, &b);
    return output_status(&out);
}
