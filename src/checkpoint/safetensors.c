/*
 * safetensors.c - reading one safetensors file: nothing in it is believed before it is checked.
 *
 *     bytes            what
 *     0 .. 7           n, the header's length, little-endian
 *     8 .. 8+n-1       JSON: {"name": {"dtype": "BF16", "shape": [4, 128], "data_offsets": [begin, end]}, ...,
 *                      "__metadata__": {...}}, spaces at the end allowed
 *     8+n ..           the data; offsets count from here
 *
 * (Format: huggingface/safetensors README.) As there, the data is covered without overlap and without gap to
 * the file's very end, so a file cut short is noticed when it is opened, not when the last layer is read.
 * Names are unique: JSON with a key twice is refused. A tensor without elements is fine and takes no bytes.
 *
 * After parsing, the JSON is dropped; what remains of a header is a struct tensor and a name for each tensor,
 * in order of offset, and an index by name.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_internal.h"

#define LENGTH_BYTES 8
#define METADATA     "__metadata__"

/* A header being read. */
struct reading {
    const char *what;
    struct safetensors *s;
    char *names; /* where the next string goes */
    const uint8_t *base;
    uint64_t data_start, data_bytes;
    struct sonde_error *e;
};

/* --------------------------------------------------------------------------------------- index */

static int by_name(const void *a, const void *b) {
    return strcmp((*(const struct tensor *const *)a)->name, (*(const struct tensor *const *)b)->name);
}

const struct tensor *const *tensor_index_sort(struct tensor_index *index) {
    if (index->count)
        qsort(index->sorted, index->count, sizeof(*index->sorted), by_name);
    for (size_t i = 1; i < index->count; i++)
        if (strcmp(index->sorted[i - 1]->name, index->sorted[i]->name) == 0)
            return &index->sorted[i - 1];
    return NULL;
}

const struct tensor *tensor_index_find(const struct tensor_index *index, const char *name) {
    size_t low = 0, high = index->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, index->sorted[middle]->name);
        if (order == 0)
            return index->sorted[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *shape_describe(struct shape_text *out, uint32_t rank, const uint64_t *dims) {
    size_t used = (size_t)snprintf(out->text, sizeof(out->text), "[");
    for (uint32_t i = 0; i < rank; i++)
        used += (size_t)snprintf(out->text + used, sizeof(out->text) - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)dims[i]);
    snprintf(out->text + used, sizeof(out->text) - used, "]");
    return out->text;
}

/* -------------------------------------------------------------------------------------- tensors */

static char *keep(struct reading *r, const char *string) {
    size_t size = strlen(string) + 1;
    char *kept = memcpy(r->names, string, size);
    r->names += size;
    return kept;
}

static int read_offsets(struct reading *r, const char *name, const json_t *pair, struct tensor *t) {
    const json_t *begin = json_array_get(pair, 0), *end = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: data_offsets, expected two integers", r->what, name);
    long long from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from)
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: data_offsets [%lld, %lld] are no range", r->what, name,
                       from, to);
    if ((uint64_t)to > r->data_bytes)
        return err_set(r->e, SONDE_ERROR_FORMAT,
                       "%s: tensor %s: ends at byte %lld of the data, but the file holds %llu; it may be cut short",
                       r->what, name, to, (unsigned long long)r->data_bytes);
    t->offset = r->data_start + (uint64_t)from;
    t->bytes = (uint64_t)(to - from);
    t->data = r->base ? r->base + t->offset : NULL;
    return SONDE_OK;
}

/* Fills rank and dims; *elements is their product. Of a rank too high only the product is kept. */
static int read_dims(struct reading *r, const char *name, const json_t *shape, struct tensor *t, uint64_t *elements) {
    if (!json_is_array(shape))
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: shape, expected an array", r->what, name);
    t->rank = (uint32_t)json_array_size(shape);
    *elements = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: shape, expected non-negative integers", r->what,
                           name);
        if (!size_mul(*elements, (uint64_t)json_integer_value(dim), elements))
            return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: shape, its product does not fit 64 bits", r->what,
                           name);
        if (i < TENSOR_RANK)
            t->dims[i] = (uint64_t)json_integer_value(dim);
    }
    return SONDE_OK;
}

static int check_size(struct reading *r, const char *name, const struct tensor *t, uint64_t elements) {
    uint64_t bytes;
    if (!size_mul(elements, dtype_bytes(t->dtype), &bytes))
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: shape, its size does not fit 64 bits", r->what, name);
    if (bytes != t->bytes)
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: %llu bytes of data, but %llu elements of %s take %llu",
                       r->what, name, (unsigned long long)t->bytes, (unsigned long long)elements, dtype_name(t->dtype),
                       (unsigned long long)bytes);
    return SONDE_OK;
}

/* Room for "dtype " or a count before it, see string_bytes(). */
#define FOREIGN_BYTES 32

static void make_foreign(struct reading *r, struct tensor *t, const char *dtype) {
    char text[FOREIGN_BYTES];
    if (dtype)
        snprintf(text, sizeof(text), "dtype %.20s", dtype);
    else
        snprintf(text, sizeof(text), "%u dimensions", t->rank);
    t->foreign = keep(r, text);
    t->dtype = DTYPE_U8;
    t->rank = 1;
    memset(t->dims, 0, sizeof(t->dims));
    t->dims[0] = t->bytes;
}

static int read_tensor(struct reading *r, const char *name, const json_t *value, struct tensor *t) {
    uint64_t elements = 0;
    const json_t *dtype = json_object_get(value, "dtype");
    if (!name[0] || strlen(name) > SAFETENSORS_NAME_MOST)
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: a tensor's name is %s", r->what, name[0] ? "too long" : "empty");
    if (!json_is_object(value))
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: expected an object", r->what, name);
    if (!json_is_string(dtype))
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: dtype, expected a string", r->what, name);
    int rc = read_offsets(r, name, json_object_get(value, "data_offsets"), t);
    if (!rc)
        rc = read_dims(r, name, json_object_get(value, "shape"), t, &elements);
    if (rc)
        return rc;
    t->name = t->spelled = keep(r, name);
    if (!dtype_parse(json_string_value(dtype), json_string_length(dtype), &t->dtype)) {
        make_foreign(r, t, json_string_value(dtype));
        return SONDE_OK;
    }
    rc = check_size(r, name, t, elements);
    if (!rc && t->rank > TENSOR_RANK)
        make_foreign(r, t, NULL);
    return rc;
}

/* ---------------------------------------------------------------------------------------- layout */

static int by_offset(const void *a, const void *b) {
    const struct tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The sorted tensors cover the data exactly. */
static int check_cover(const struct reading *r) {
    uint64_t at = r->data_start, end = r->data_start + r->data_bytes;
    for (size_t i = 0; i < r->s->count; i++) {
        const struct tensor *t = &r->s->tensors[i];
        if (t->offset < at)
            return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensors %s and %s overlap", r->what, t[-1].name, t->name);
        if (t->offset > at)
            return err_set(r->e, SONDE_ERROR_FORMAT, "%s: tensor %s: %llu bytes before it belong to no tensor", r->what,
                           t->name, (unsigned long long)(t->offset - at));
        at += t->bytes;
    }
    if (at != end)
        return err_set(r->e, SONDE_ERROR_FORMAT, "%s: %llu bytes at the end belong to no tensor", r->what,
                       (unsigned long long)(end - at));
    return SONDE_OK;
}

/* How much keep() will be asked for, at most. */
static size_t string_bytes(json_t *root) {
    const char *name;
    json_t *value;
    size_t bytes = 0;
    json_object_foreach(root, name, value) bytes += strlen(name) + 1 + FOREIGN_BYTES;
    return bytes;
}

static int read_tensors(struct reading *r, json_t *root) {
    const char *name;
    json_t *value;
    struct safetensors *s = r->s;
    size_t most = json_object_size(root);
    s->tensors = calloc(most + 1, sizeof(*s->tensors));
    s->names = r->names = malloc(string_bytes(root) + 1);
    s->index.sorted = malloc((most + 1) * sizeof(*s->index.sorted));
    if (!s->tensors || !s->names || !s->index.sorted)
        return err_memory(r->e);
    json_object_foreach(root, name, value) {
        if (strcmp(name, METADATA) == 0)
            continue;
        int rc = read_tensor(r, name, value, &s->tensors[s->count]);
        if (rc)
            return rc;
        s->count++;
    }
    qsort(s->tensors, s->count, sizeof(*s->tensors), by_offset);
    for (size_t i = 0; i < s->count; i++)
        s->index.sorted[i] = &s->tensors[i];
    s->index.count = s->count;
    tensor_index_sort(&s->index);
    return check_cover(r);
}

/* The header's JSON text as [*json, *json + *n), out of the first `held` bytes of the file. */
static int find_header(const uint8_t *file, size_t held, uint64_t file_bytes, const char *what, const char **json,
                       uint64_t *n, struct sonde_error *e) {
    if (file_bytes < LENGTH_BYTES || held < LENGTH_BYTES)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: %llu bytes are too few for a safetensors file", what,
                       (unsigned long long)file_bytes);
    for (int i = 0; i < LENGTH_BYTES; i++)
        *n |= (uint64_t)file[i] << 8 * i;
    if (memcmp(file, "version ", LENGTH_BYTES) == 0)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: a Git LFS pointer, not the file it stands for; fetch that first",
                       what);
    if (*n > SAFETENSORS_HEADER_MOST)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: states a header of %llu bytes, more than %d; not a safetensors file",
                       what, (unsigned long long)*n, SAFETENSORS_HEADER_MOST);
    if (*n > file_bytes - LENGTH_BYTES || *n > held - LENGTH_BYTES)
        return err_set(e, SONDE_ERROR_FORMAT,
                       "%s: states a header of %llu bytes, but only %llu follow; it may be cut short", what,
                       (unsigned long long)*n, (unsigned long long)min_u64(file_bytes, held) - LENGTH_BYTES);
    *json = (const char *)file + LENGTH_BYTES;
    return SONDE_OK;
}

int safetensors_parse(const uint8_t *header, size_t header_bytes, const uint8_t *base, uint64_t file_bytes,
                      const char *what, struct safetensors **out, struct sonde_error *e) {
    const char *json = NULL;
    uint64_t n = 0;
    json_t *root = NULL;
    struct safetensors *s = NULL;
    int rc = find_header(header, header_bytes, file_bytes, what, &json, &n, e);
    if (!rc)
        rc = json_parse(json, n, what, &root, e);
    if (rc)
        return rc;
    s = calloc(1, sizeof(*s));
    struct reading r = {.what = what,
                        .s = s,
                        .base = base,
                        .data_start = LENGTH_BYTES + n,
                        .data_bytes = file_bytes - LENGTH_BYTES - n,
                        .e = e};
    if (!s)
        rc = err_memory(e);
    else if (!json_is_object(root))
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: the header is not a JSON object", what);
    else
        rc = read_tensors(&r, root);
    json_decref(root);
    if (rc)
        safetensors_close(s);
    else
        *out = s;
    return rc;
}

/* ----------------------------------------------------------------------------------------- face */

int safetensors_open(const char *path, struct safetensors **out, struct sonde_error *e) {
    struct file_map map;
    struct safetensors *s;
    int rc = file_map_open(path, &map, e);
    if (rc)
        return rc;
    rc = safetensors_parse(map.data, map.size, map.data, map.size, path, &s, e);
    if (rc) {
        file_map_close(&map);
        return rc;
    }
    s->map = map;
    *out = s;
    return SONDE_OK;
}

void safetensors_close(struct safetensors *s) {
    if (!s)
        return;
    free(s->index.sorted);
    free(s->mapped);
    free(s->names);
    free(s->tensors);
    file_map_close(&s->map);
    free(s);
}

size_t safetensors_count(const struct safetensors *s) {
    return s->count;
}

const struct tensor *safetensors_at(const struct safetensors *s, size_t i) {
    assert(i < s->count);
    return &s->tensors[i];
}

const struct tensor *safetensors_find(const struct safetensors *s, const char *name) {
    return tensor_index_find(&s->index, name);
}
