/* tally.c - parameters and bytes of tensors; the conventions are in inspect_internal.h. */
#include <string.h>

#include "inspect_internal.h"

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* DeepSeek-V4.1: what text alone does not use, images and drafting blocks. */
static bool beside_text(const char *name) {
    static const char *const parts[] = {"mtp.", "vision.", "aligner.", "image_"};
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (strncmp(name, parts[i], strlen(parts[i])) == 0)
            return true;
    return false;
}

void tally_add(struct tally *t, const struct tensor *tensor, const struct shape *shape) {
    uint64_t count = tensor_parameters(tensor), active = count;
    bool beside = shape->family == FAMILY_V41 && beside_text(tensor->name);
    if (beside)
        active = 0;
    else if (strstr(tensor->name, ".ffn.experts."))
        t->routed += count;
    if ((ends_in(tensor->name, ".multi_head_embedding.embedding.weight") ||
         ends_in(tensor->name, ".engram.embed.weight")) &&
        tensor->dims[0]) {
        uint64_t rows = (uint64_t)(shape->engram.orders - 1) * shape->engram.heads;
        active = count / tensor->dims[0] * min_u64(rows, tensor->dims[0]);
    }
    t->tensors++;
    t->parameters += count;
    t->active += active;
    t->bytes[tensor->dtype] += tensor->bytes;
    t->total_bytes += tensor->bytes;
}

void tally_finish(struct tally *t, const struct shape *shape) {
    if (shape->experts)
        t->active -= t->routed / shape->experts * (shape->experts - shape->active);
}
