/*
 * keys.c - who may ask, and how much.
 *
 * Keys are compared by their hashes, all of them and whole, so that the time taken tells nothing about any. Limits by
 * the minute are leaky buckets: what was used drains at the rate allowed, and a minute's worth may be used at once.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "server/parts_internal.h"

enum { KEY_LEAST = 8, KEY_MOST = 256, KEYS_MOST = 4096 };

struct apikey {
    atomic_uint holders;
    XXH128_hash_t hash;
    char name[64];
    uint32_t at_once;            /* 0: no limit, as for the others */
    double requests_m, tokens_m; /* a minute */
    pthread_mutex_t lock;
    uint32_t running;
    double requests_used, tokens_used, since;
};

struct apikeys {
    struct apikey **keys;
    size_t count;
    uint64_t seed; /* of the hashes: what was sent cannot be chosen to collide */
};

static void hold(struct apikey *k) {
    atomic_fetch_add(&k->holders, 1);
}

void apikey_drop(struct apikey *k) {
    if (!k || atomic_fetch_sub(&k->holders, 1) != 1)
        return;
    pthread_mutex_destroy(&k->lock);
    free(k);
}

void apikeys_free(struct apikeys *k) {
    if (!k)
        return;
    for (size_t i = 0; i < k->count; i++)
        apikey_drop(k->keys[i]);
    free(k->keys);
    free(k);
}

const char *apikey_name(const struct apikey *k) {
    return k->name;
}

/* ---------------------------------------------------------------------------------------------- file */

/* "requests=4" and the like; false: not understood. */
static bool read_setting(struct apikey *key, const char *word) {
    const char *value = strchr(word, '=');
    char *end;
    if (!value || !value[1])
        return false;
    size_t n = (size_t)(value++ - word);
    if (n == 4 && memcmp(word, "name", 4) == 0) {
        snprintf(key->name, sizeof(key->name), "%s", value);
        return strlen(value) < sizeof(key->name);
    }
    unsigned long long number = strtoull(value, &end, 10);
    if (*end || *value < '0' || *value > '9' || number > UINT32_MAX)
        return false;
    if (n == 8 && memcmp(word, "requests", 8) == 0)
        key->at_once = (uint32_t)number;
    else if (n == 3 && memcmp(word, "rpm", 3) == 0)
        key->requests_m = (double)number;
    else if (n == 3 && memcmp(word, "tpm", 3) == 0)
        key->tokens_m = (double)number;
    else
        return false;
    return true;
}

static int read_line(struct apikeys *k, char *line, const char *path, size_t number, struct sonde_error *e) {
    static const char spaces[] = " \t\r";
    char *rest, *word = strtok_r(line, spaces, &rest);
    if (!word || *word == '#')
        return SONDE_OK;
    size_t n = strlen(word);
    if (n < KEY_LEAST || n > KEY_MOST)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: line %zu: a key of %d to %d characters is expected, not of %zu",
                       path, number, KEY_LEAST, KEY_MOST, n);
    struct apikey *key = calloc(1, sizeof(*key));
    struct apikey **keys = realloc(k->keys, (k->count + 1) * sizeof(struct apikey *));
    if (keys)
        k->keys = keys;
    if (!key || !keys) {
        free(key);
        return err_memory(e);
    }
    atomic_init(&key->holders, 1);
    pthread_mutex_init(&key->lock, NULL);
    key->hash = XXH3_128bits_withSeed(word, n, k->seed);
    snprintf(key->name, sizeof(key->name), "key-%zu", k->count + 1);
    k->keys[k->count++] = key;
    while ((word = strtok_r(NULL, spaces, &rest)))
        if (!read_setting(key, word))
            return err_set(e, SONDE_ERROR_FORMAT,
                           "%s: line %zu: '%.40s': name=NAME, requests=N, rpm=N or tpm=N is expected", path, number,
                           word);
    return SONDE_OK;
}

int apikeys_read(const char *path, struct apikeys **keys, struct sonde_error *e) {
    struct buf text = {0};
    struct apikeys *k = calloc(1, sizeof(*k));
    struct rng rng;
    int rc = k ? file_read(path, 1 << 20, &text, e) : err_memory(e);
    rng_init(&rng, (uint64_t)(clock_seconds() * 1e9) ^ (uint64_t)(uintptr_t)k);
    if (k)
        k->seed = rng_u64(&rng);
    char *rest = text.data;
    for (size_t number = 1; !rc && rest && *rest; number++) {
        char *line = rest, *end = strchr(rest, '\n');
        rest = end ? end + 1 : NULL;
        if (end)
            *end = 0;
        rc = k->count < KEYS_MOST ? read_line(k, line, path, number, e)
                                  : err_set(e, SONDE_ERROR_FORMAT, "%s: more than %d keys", path, KEYS_MOST);
    }
    if (!rc && !k->count)
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: there is no key in it", path);
    if (text.data)
        memset(text.data, 0, text.len);
    buf_release(&text);
    if (rc)
        apikeys_free(k);
    else
        *keys = k;
    return rc;
}

struct apikey *apikeys_find(struct apikeys *k, const char *sent) {
    XXH128_hash_t hash = XXH3_128bits_withSeed(sent, strlen(sent), k->seed);
    struct apikey *found = NULL;
    for (size_t i = 0; i < k->count; i++) {
        uint64_t different = (hash.low64 ^ k->keys[i]->hash.low64) | (hash.high64 ^ k->keys[i]->hash.high64);
        found = different ? found : k->keys[i];
    }
    if (found)
        hold(found);
    return found;
}

/* -------------------------------------------------------------------------------------------- limits */

static void drain(struct apikey *k, double now) {
    double minutes = (now - k->since) / 60;
    k->since = now;
    k->requests_used -= minutes * k->requests_m;
    k->tokens_used -= minutes * k->tokens_m;
    if (k->requests_used < 0)
        k->requests_used = 0;
    if (k->tokens_used < 0)
        k->tokens_used = 0;
}

double apikey_begin(struct apikey *k, double now, const char **what) {
    double wait = 0;
    pthread_mutex_lock(&k->lock);
    drain(k, now);
    if (k->at_once && k->running >= k->at_once) {
        *what = "requests at once";
        wait = 1;
    } else if (k->requests_m > 0 && k->requests_used + 1 > k->requests_m) {
        *what = "requests a minute";
        wait = (k->requests_used + 1 - k->requests_m) / k->requests_m * 60;
    } else if (k->tokens_m > 0 && k->tokens_used >= k->tokens_m) {
        *what = "tokens a minute";
        wait = (k->tokens_used - k->tokens_m) / k->tokens_m * 60 + 1;
    } else {
        k->running++;
        k->requests_used += k->requests_m > 0;
    }
    pthread_mutex_unlock(&k->lock);
    return wait;
}

void apikey_end(struct apikey *k) {
    pthread_mutex_lock(&k->lock);
    k->running--;
    pthread_mutex_unlock(&k->lock);
}

void apikey_tokens(struct apikey *k, double now, uint64_t tokens) {
    pthread_mutex_lock(&k->lock);
    drain(k, now);
    if (k->tokens_m > 0)
        k->tokens_used += (double)tokens;
    pthread_mutex_unlock(&k->lock);
}
