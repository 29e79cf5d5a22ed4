/*
 * checkpoint.c - a directory becomes a shape and one table of tensors.
 *
 * Which shards: the index's weight_map if there is one, for then a missing shard can be told from one that was
 * never there; else model.safetensors; else all *.safetensors in order of name but golden.safetensors, which
 * holds expected results. Whatever else lies in the directory is not looked at. Shard names come from
 * a file that may be hostile, so only plain names are followed: no separators, no "..".
 *
 * Each shard is parsed on its own, then its names are brought to the official spelling and all tensors are
 * indexed together. That finds what no single file shows: one tensor in two shards, or two spellings of one
 * tensor. Then each line of the index is held against the shards; tensors it does not list are fine.
 *
 * Cost: mapping is free, the headers are parsed once (69,187 tensors: about 8 MB of JSON) and dropped; about
 * 150 bytes a tensor stay.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint_internal.h"

#define CONFIG_MOST ((size_t)16 << 20)
#define INDEX_MOST  ((size_t)256 << 20)
#define INDEX_NAME  "model.safetensors.index.json"

struct shard {
    char *name; /* in the directory */
    char *path;
    struct safetensors *file;
};

struct checkpoint {
    char *directory;
    struct shape shape;
    struct shard *shards; /* by name */
    size_t shard_count, shard_cap;
    size_t *start; /* [shard_count + 1]: tensors in the shards before */
    struct tensor_index index;
};

/* --------------------------------------------------------------------------------- which shards */

static int add_shard(struct checkpoint *c, const char *name, struct sonde_error *e) {
    struct buf path = {0};
    if (c->shard_count == c->shard_cap) {
        size_t cap = c->shard_cap ? 2 * c->shard_cap : 16;
        struct shard *grown = realloc(c->shards, cap * sizeof(*grown));
        if (!grown)
            return err_memory(e);
        c->shards = grown;
        c->shard_cap = cap;
    }
    struct shard *s = &c->shards[c->shard_count++];
    *s = (struct shard){.name = strdup(name)};
    file_join(&path, c->directory, name);
    return s->name ? buf_take(&path, &s->path, NULL, e) : err_memory(e);
}

static int by_shard_name(const void *a, const void *b) {
    return strcmp(((const struct shard *)a)->name, ((const struct shard *)b)->name);
}

static bool is_plain_name(const json_t *name) {
    const char *text = json_string_value(name);
    return text && strlen(text) == json_string_length(name) && text[0] && text[0] != '.' && !strpbrk(text, "/\\");
}

/* The shards that weight_map names, each once. `seen` is an object used as a set. */
static int shards_of_index(struct checkpoint *c, const char *path, json_t *map, struct sonde_error *e) {
    const char *tensor;
    json_t *name, *seen = json_object();
    int rc = seen ? SONDE_OK : err_memory(e);
    json_object_foreach(map, tensor, name) {
        if (rc)
            break;
        if (!is_plain_name(name)) {
            rc = err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s: its file is not a plain file name", path, tensor);
        } else if (!json_object_get(seen, json_string_value(name))) {
            rc = json_object_set(seen, json_string_value(name), name) ? err_memory(e)
                                                                      : add_shard(c, json_string_value(name), e);
            if (!rc && !file_exists(c->shards[c->shard_count - 1].path))
                rc = err_set(e, SONDE_ERROR_IO, "%s: names the file %s, which is not there", path,
                             json_string_value(name));
        }
    }
    json_decref(seen);
    if (!rc && !c->shard_count)
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: weight_map names no tensor", path);
    if (!rc)
        qsort(c->shards, c->shard_count, sizeof(*c->shards), by_shard_name);
    return rc;
}

static bool is_shard_name(const char *name) {
    size_t n = strlen(name), suffix = strlen(".safetensors");
    return n > suffix && name[0] != '.' && strcmp(name + n - suffix, ".safetensors") == 0 &&
           strcmp(name, "golden.safetensors") != 0;
}

static int scan_directory(struct checkpoint *c, struct sonde_error *e) {
    int rc = SONDE_OK;
    DIR *directory = opendir(c->directory);
    if (!directory)
        return err_system(e, "%s", c->directory);
    errno = 0;
    for (struct dirent *entry; !rc && (entry = readdir(directory)); errno = 0)
        if (is_shard_name(entry->d_name))
            rc = add_shard(c, entry->d_name, e);
    if (!rc && errno)
        rc = err_system(e, "%s", c->directory);
    closedir(directory);
    return rc;
}

static int shards_of_directory(struct checkpoint *c, struct sonde_error *e) {
    struct buf single = {0};
    file_join(&single, c->directory, "model.safetensors");
    int rc = single.failed              ? err_memory(e)
             : file_exists(single.data) ? add_shard(c, "model.safetensors", e)
                                        : scan_directory(c, e);
    buf_release(&single);
    if (!rc && !c->shard_count)
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: holds no *.safetensors file", c->directory);
    if (!rc)
        qsort(c->shards, c->shard_count, sizeof(*c->shards), by_shard_name);
    return rc;
}

/* --------------------------------------------------------------------------------------- tensors */

/* Gives the tensors of shard i their official names, kept by the shard's file. */
static int rename_tensors(struct safetensors *s, uint32_t file, struct sonde_error *e) {
    struct buf one = {0}, all = {0};
    int rc = SONDE_OK;
    for (size_t i = 0; i < s->count; i++) {
        struct tensor *t = &s->tensors[i];
        t->file = file;
        t->name = name_official(t->spelled, &one);
        if (t->name && t->name == one.data) {
            buf_append(&all, t->name, strlen(t->name) + 1);
            t->name = NULL; /* placed below, once `all` no longer moves */
        }
    }
    if (one.failed || buf_take(&all, &s->mapped, NULL, NULL))
        rc = err_memory(e);
    buf_release(&one);
    const char *at = s->mapped;
    for (size_t i = 0; !rc && i < s->count; i++)
        if (!s->tensors[i].name) {
            s->tensors[i].name = at;
            at += strlen(at) + 1;
        }
    return rc;
}

static int open_shards(struct checkpoint *c, struct sonde_error *e) {
    c->start = calloc(c->shard_count + 1, sizeof(*c->start));
    if (!c->start)
        return err_memory(e);
    for (size_t i = 0; i < c->shard_count; i++) {
        struct shard *s = &c->shards[i];
        int rc = safetensors_open(s->path, &s->file, e);
        if (!rc)
            rc = rename_tensors(s->file, (uint32_t)i, e);
        if (rc)
            return rc;
        c->start[i + 1] = c->start[i] + s->file->count;
    }
    return SONDE_OK;
}

static int index_tensors(struct checkpoint *c, struct sonde_error *e) {
    size_t total = c->start[c->shard_count];
    c->index.sorted = malloc((total + 1) * sizeof(*c->index.sorted));
    if (!c->index.sorted)
        return err_memory(e);
    for (size_t i = 0; i < c->shard_count; i++) {
        struct safetensors *s = c->shards[i].file;
        for (size_t k = 0; k < s->count; k++)
            c->index.sorted[c->index.count++] = &s->tensors[k];
        free(s->index.sorted); /* it was by the file's own spelling */
        s->index = (struct tensor_index){0};
    }
    const struct tensor *const *twice = tensor_index_sort(&c->index);
    if (!twice)
        return SONDE_OK;
    const struct tensor *a = twice[0], *b = twice[1];
    if (a->file > b->file || (a->file == b->file && a->offset > b->offset))
        a = twice[1], b = twice[0];
    if (strcmp(a->spelled, b->spelled) == 0)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is also in %s", checkpoint_file(c, b), b->spelled,
                       checkpoint_file(c, a));
    return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is %s, and so is %s in %s", checkpoint_file(c, b), b->spelled,
                   b->name, a->spelled, checkpoint_file(c, a));
}

/* Every line of the index is true. */
static int check_index(const struct checkpoint *c, const char *path, json_t *map, struct sonde_error *e) {
    const char *spelled;
    json_t *file;
    struct buf b = {0};
    int rc = SONDE_OK;
    json_object_foreach(map, spelled, file) {
        const char *name = name_official(spelled, &b);
        if (!name) {
            rc = err_memory(e);
            break;
        }
        const struct tensor *t = checkpoint_find(c, name);
        const char *wanted = json_string_value(file);
        if (!t)
            rc = err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is not in %s, nor in another file", path, spelled,
                         wanted);
        else if (strcmp(c->shards[t->file].name, wanted) != 0)
            rc = err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is in %s, not in %s", path, spelled,
                         c->shards[t->file].name, wanted);
        if (rc)
            break;
    }
    buf_release(&b);
    return rc;
}

/* -------------------------------------------------------------------------------------- opening */

static int check_directory(const char *directory, struct sonde_error *e) {
    struct stat st;
    if (stat(directory, &st) < 0)
        return err_system(e, "%s", directory);
    if (!S_ISDIR(st.st_mode))
        return err_set(e, SONDE_ERROR_IO, "%s: not a directory; a model is a directory with config.json", directory);
    return SONDE_OK;
}

static int read_shape(struct checkpoint *c, struct sonde_error *e) {
    struct buf path = {0}, text = {0};
    file_join(&path, c->directory, "config.json");
    int rc = path.failed ? err_memory(e) : file_read(path.data, CONFIG_MOST, &text, e);
    if (!rc)
        rc = shape_parse(text.data ? text.data : "", text.len, path.data, &c->shape, e);
    buf_release(&path);
    buf_release(&text);
    return rc;
}

/* *root is NULL and rc 0 when there is no index. */
static int read_index(const char *path, json_t **root, json_t **map, struct sonde_error *e) {
    struct buf text = {0};
    *root = *map = NULL;
    if (!file_exists(path))
        return SONDE_OK;
    int rc = file_read(path, INDEX_MOST, &text, e);
    if (!rc)
        rc = json_parse(text.data ? text.data : "", text.len, path, root, e);
    buf_release(&text);
    if (rc)
        return rc;
    *map = json_object_get(*root, "weight_map");
    if (!json_is_object(*map))
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: field weight_map: expected an object of tensors and files", path);
    return rc;
}

static int read_shards(struct checkpoint *c, struct sonde_error *e) {
    struct buf path = {0};
    json_t *root = NULL, *map = NULL;
    file_join(&path, c->directory, INDEX_NAME);
    int rc = path.failed ? err_memory(e) : read_index(path.data, &root, &map, e);
    if (!rc)
        rc = map ? shards_of_index(c, path.data, map, e) : shards_of_directory(c, e);
    if (!rc)
        rc = open_shards(c, e);
    if (!rc)
        rc = index_tensors(c, e);
    if (!rc && map)
        rc = check_index(c, path.data, map, e);
    json_decref(root);
    buf_release(&path);
    return rc;
}

int checkpoint_open(const char *directory, struct checkpoint **out, struct sonde_error *e) {
    struct checkpoint *c = calloc(1, sizeof(*c));
    if (!c || !(c->directory = strdup(directory))) {
        free(c);
        return err_memory(e);
    }
    int rc = check_directory(directory, e);
    if (!rc)
        rc = read_shape(c, e);
    if (!rc)
        rc = read_shards(c, e);
    if (rc)
        checkpoint_close(c);
    else
        *out = c;
    return rc;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c)
        return;
    for (size_t i = 0; i < c->shard_count; i++) {
        safetensors_close(c->shards[i].file);
        free(c->shards[i].name);
        free(c->shards[i].path);
    }
    free(c->shards);
    free(c->start);
    free(c->index.sorted);
    shape_release(&c->shape);
    free(c->directory);
    free(c);
}

/* --------------------------------------------------------------------------------------- looking */

const char *checkpoint_directory(const struct checkpoint *c) {
    return c->directory;
}

const struct shape *checkpoint_shape(const struct checkpoint *c) {
    return &c->shape;
}

size_t checkpoint_count(const struct checkpoint *c) {
    return c->index.count;
}

const struct tensor *checkpoint_at(const struct checkpoint *c, size_t i) {
    assert(i < c->index.count);
    size_t low = 0, high = c->shard_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (c->start[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    return &c->shards[low].file->tensors[i - c->start[low]];
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name) {
    return tensor_index_find(&c->index, name);
}

const char *checkpoint_file(const struct checkpoint *c, const struct tensor *t) {
    return c->shards[t->file].path;
}
