/*
 * safetensors.c - as much of the checkpoint room as test_number needs: a golden file, found name by name, without a
 * JSON parser. The file is one of the tree's own, and is believed.
 */
#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"

struct safetensors {
    uint8_t *bytes;       /* of the file */
    char *header;         /* the JSON, terminated */
    struct tensor *found; /* the last that was asked for */
};

enum { LENGTH_BYTES = 8 };

static uint8_t *read_all(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        return NULL;
    size_t size = (size_t)ftell(file);
    uint8_t *bytes = malloc(size);
    rewind(file);
    if (bytes && fread(bytes, 1, size, file) != size) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return bytes;
}

int safetensors_open(const char *path, struct safetensors **s, struct sonde_error *e) {
    struct safetensors *opened = calloc(1, sizeof(*opened));
    uint64_t length;
    (void)e;
    if (!opened || !(opened->bytes = read_all(path)))
        return SONDE_ERROR_IO;
    memcpy(&length, opened->bytes, sizeof(length));
    opened->header = strndup((const char *)opened->bytes + LENGTH_BYTES, length);
    opened->found = calloc(1, sizeof(*opened->found));
    *s = opened;
    return opened->header && opened->found ? SONDE_OK : SONDE_ERROR_MEMORY;
}

void safetensors_close(struct safetensors *s) {
    free(s->found);
    free(s->header);
    free(s->bytes);
    free(s);
}

/* The first number of the list that `key` has in the entry. */
static uint64_t first_number(const char *entry, const char *key) {
    const char *list = strstr(entry, key);
    return list ? strtoull(strchr(list, '[') + 1, NULL, 10) : 0;
}

/* Good until the next is asked for; data and the first dimension are all there is. */
const struct tensor *safetensors_find(const struct safetensors *s, const char *name) {
    char quoted[64];
    snprintf(quoted, sizeof(quoted), "\"%s\":", name);
    const char *entry = strstr(s->header, quoted);
    if (!entry)
        return NULL;
    s->found->dims[0] = first_number(entry, "\"shape\"");
    s->found->data = s->bytes + LENGTH_BYTES + strlen(s->header) + first_number(entry, "\"data_offsets\"");
    return s->found;
}
