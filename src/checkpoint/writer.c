/*
 * writer.c - a safetensors file written in one pass: sizes first, then bytes, visible only when whole.
 *
 * The header is known before any data is, because all tensors are declared at the start; so nothing is kept in
 * memory and nothing is written twice. A crash leaves NAME.SUFFIX.tmp at worst, never a NAME that looks like a
 * checkpoint and is not (struct file_replacement).
 */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_internal.h"

struct safetensors_writer {
    struct file_replacement file;
    uint64_t declared, written; /* bytes of data */
    bool failed;
};

/* Adds {"dtype", "shape", "data_offsets"} of one tensor; moves *at past its bytes. */
static int declare(json_t *root, const struct tensor_spec *spec, const char *path, uint64_t *at,
                   struct sonde_error *e) {
    uint64_t bytes = dtype_bytes(spec->dtype), end;
    bool fits = true;
    if (!spec->name[0] || strlen(spec->name) > SAFETENSORS_NAME_MOST || strcmp(spec->name, "__metadata__") == 0)
        return err_set(e, SONDE_ERROR_ARGUMENT, "%s: \"%s\" cannot name a tensor", path, spec->name);
    if (json_object_get(root, spec->name))
        return err_set(e, SONDE_ERROR_ARGUMENT, "%s: tensor %s is declared twice", path, spec->name);
    json_t *shape = json_array();
    for (uint32_t i = 0; i < spec->rank; i++) {
        fits = fits && spec->dims[i] <= INT64_MAX && size_mul(bytes, spec->dims[i], &bytes);
        json_array_append_new(shape, json_integer((json_int_t)spec->dims[i]));
    }
    if (!fits || !size_add(*at, bytes, &end) || end > INT64_MAX) {
        json_decref(shape);
        return err_set(e, SONDE_ERROR_ARGUMENT, "%s: tensor %s: its size does not fit a file", path, spec->name);
    }
    json_t *value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(spec->dtype), "shape", shape, "data_offsets",
                              (json_int_t)*at, (json_int_t)end);
    *at = end;
    if (!value)
        return err_memory(e);
    if (json_object_set_new(root, spec->name, value))
        return err_set(e, SONDE_ERROR_ARGUMENT, "%s: \"%s\" cannot name a tensor", path, spec->name);
    return SONDE_OK;
}

static int write_header(struct safetensors_writer *w, json_t *root, struct sonde_error *e) {
    char *json = json_dumps(root, JSON_COMPACT);
    struct buf b = {0};
    if (!json)
        return err_memory(e);
    uint64_t n = (strlen(json) + 7) & ~(uint64_t)7;
    for (int i = 0; i < 8; i++)
        buf_byte(&b, (char)(n >> 8 * i & 255));
    buf_string(&b, json);
    while (b.len % 8)
        buf_byte(&b, ' ');
    free(json);
    int rc = b.failed ? err_memory(e) : file_replacement_write(&w->file, b.data, b.len, e);
    buf_release(&b);
    return rc;
}

int safetensors_create(const char *path, const struct tensor_spec *specs, size_t count, struct safetensors_writer **out,
                       struct sonde_error *e) {
    int rc = SONDE_OK;
    struct safetensors_writer *w = calloc(1, sizeof(*w));
    json_t *root = json_object();
    if (!w || !root)
        rc = err_memory(e);
    for (size_t i = 0; !rc && i < count; i++)
        rc = declare(root, &specs[i], path, &w->declared, e);
    if (!rc)
        rc = file_replacement_open(&w->file, path, e);
    if (!rc)
        rc = write_header(w, root, e);
    json_decref(root);
    if (rc)
        safetensors_cancel(w);
    else
        *out = w;
    return rc;
}

int safetensors_append(struct safetensors_writer *w, const void *bytes, size_t count, struct sonde_error *e) {
    if (count > w->declared - w->written) {
        w->failed = true;
        return err_set(e, SONDE_ERROR_ARGUMENT, "%s: more bytes than the %llu declared", w->file.path,
                       (unsigned long long)w->declared);
    }
    int rc = file_replacement_write(&w->file, bytes, count, e);
    w->written += count;
    w->failed |= rc != SONDE_OK;
    return rc;
}

int safetensors_finish(struct safetensors_writer *w, struct sonde_error *e) {
    int rc;
    if (w->failed || w->written != w->declared) {
        rc = err_set(e, SONDE_ERROR_ARGUMENT, "%s: %llu of %llu bytes were written", w->file.path,
                     (unsigned long long)w->written, (unsigned long long)w->declared);
        file_replacement_cancel(&w->file);
    } else {
        rc = file_replacement_commit(&w->file, e);
    }
    free(w);
    return rc;
}

void safetensors_cancel(struct safetensors_writer *w) {
    if (w)
        file_replacement_cancel(&w->file);
    free(w);
}
