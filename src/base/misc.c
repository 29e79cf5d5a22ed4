/* misc.c - JSON in, time, chance, threads, and what the public header keeps with no better home. */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <stdlib.h>
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
