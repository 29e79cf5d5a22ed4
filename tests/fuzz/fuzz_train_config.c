/*
 * fuzz_train_config.c - any bytes as the config of a run: one that is accepted is written out as text that means the
 * same and is written out the same again; one that is not has a sentence.
 */
#include <stdlib.h>
#include <string.h>

#include "train/config_internal.h"

static void must(int condition) {
    if (!condition)
        abort();
}

static void check(const struct train_config *c) {
    must(c->out && c->cache && !c->model != !c->from && c->steps && c->tokens && c->accumulate);
    must(c->data_count >= 1 && c->data_count <= DATA_SOURCES && c->validation_count <= DATA_SOURCES);
    must(c->rate.peak > 0 && c->rate.floor <= c->rate.peak && c->rate.warmup + c->rate.decay <= c->steps);
    for (uint32_t i = 0; i < c->data_count; i++)
        must(c->data[i].path && c->data[i].weight > 0);
}

static int taken(const char *json, size_t bytes, char **text, size_t *length) {
    struct train_config c;
    struct sonde_error e = {0};
    int rc = train_config_parse(json, bytes, "fuzz", &c, &e);
    if (rc) {
        must(rc == e.code && e.message[0]);
        return 0;
    }
    check(&c);
    must(train_config_text(&c, text, length, &e) == 0);
    train_config_release(&c);
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    char *once, *twice;
    size_t length, again;
    if (!taken((const char *)bytes, size, &once, &length))
        return 0;
    must(taken(once, length, &twice, &again));
    must(length == again && memcmp(once, twice, length) == 0);
    free(once);
    free(twice);
    return 0;
}
