/* misc.c - JSON in, time, chance, threads, and what the public header keeps with no better home. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

int json_parse(const char *bytes, size_t count, const char *what, json_t **value, struct sonde_error *e) {
    json_error_t why;
    if (count == 0)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: empty, where JSON was expected", what);
    json_t *parsed = json_loadb(bytes, count, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!parsed && json_error_code(&why) == json_error_out_of_memory)
        return err_memory(e);
    if (!parsed)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: not valid JSON, line %d: %s", what, why.line, why.text);
    *value = parsed;
    return SONDE_OK;
}

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void rng_init(struct rng *r, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        r->state[i] = z ^ (z >> 31);
    }
}

static uint64_t rotate_left(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

uint64_t rng_u64(struct rng *r) {
    uint64_t *s = r->state, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double rng_unit(struct rng *r) {
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

/* Box and Muller 1958. */
double rng_normal(struct rng *r) {
    double radius = sqrt(-2 * log(1 - rng_unit(r)));
    return radius * cos(2 * 3.14159265358979323846 * rng_unit(r));
}

#define NAME_MOST 32

/* Edits that make one word of the other: insert, delete, replace, or exchange two neighbours. */
static size_t edit_distance(const char *a, const char *b) {
    size_t rows[3][NAME_MOST + 1], n = strlen(a), m = strlen(b);
    if (n > NAME_MOST || m > NAME_MOST)
        return SIZE_MAX;
    size_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= m; j++)
        above[j] = j;
    for (size_t i = 1; i <= n; i++) {
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            row[j] = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = min_u64(row[j], min_u64(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = min_u64(row[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[m];
}

const char *nearest_name(const char *word, size_t count, const char *(*name)(const void *context, size_t i),
                         const void *context) {
    const char *best = NULL;
    size_t best_distance = strlen(word) > 4 ? 3 : 2;
    for (size_t i = 0; i < count; i++) {
        const char *candidate = name(context, i);
        size_t distance = edit_distance(word, candidate);
        if (distance < best_distance) {
            best_distance = distance;
            best = candidate;
        }
    }
    return best;
}

int thread_create(pthread_t *thread, void *(*run)(void *context), void *context) {
    static const int raised[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t none, before;
    sigfillset(&none);
    for (size_t i = 0; i < COUNT_OF(raised); i++)
        sigdelset(&none, raised[i]);
    pthread_sigmask(SIG_SETMASK, &none, &before);
    int failed = pthread_create(thread, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

void sonde_free(void *memory) {
    free(memory);
}

const char *sonde_version(void) {
    return SONDE_VERSION;
}
