/*
 * checkpoint_internal.h - what the files of this room share: a parsed file laid open, the index of tensors by
 * name, and the spelling of names.
 */
#ifndef CHECKPOINT_CHECKPOINT_INTERNAL_H
#define CHECKPOINT_CHECKPOINT_INTERNAL_H

#include "checkpoint/checkpoint.h"

/* A header longer than this is refused, as the format's own library does. */
#define SAFETENSORS_HEADER_MOST 100000000

/* Longest tensor name read or written. */
#define SAFETENSORS_NAME_MOST 4096

/* Tensors in order of name, for lookups by bisection: no worse for names chosen to collide. */
struct tensor_index {
    const struct tensor **sorted;
    size_t count;
};

/* Sorts what index->sorted[0 .. count) holds. Returns the first of two neighbours of one name, or NULL. */
const struct tensor *const *tensor_index_sort(struct tensor_index *index);
const struct tensor *tensor_index_find(const struct tensor_index *index, const char *name);

struct safetensors {
    struct file_map map;    /* {0} when the caller of safetensors_parse() keeps the bytes */
    struct tensor *tensors; /* by offset */
    size_t count;
    char *names;  /* what tensors[i].spelled and .foreign point into */
    char *mapped; /* what those .name that are not within .spelled point into; the checkpoint's doing */
    struct tensor_index index;
};

/* "[4, 128]" into text, which is returned. */
struct shape_text {
    char text[100];
};
const char *shape_describe(struct shape_text *out, uint32_t rank, const uint64_t *dims);

/*
 * The official spelling of a tensor's name. Returns a pointer into `spelled` where dropping a prefix is all it
 * takes, else into b, which is cleared first and may have failed: NULL then.
 */
const char *name_official(const char *spelled, struct buf *b);

#endif
