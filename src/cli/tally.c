/* tally.c - parameters and bytes of tensors; the conventions are in inspect_internal.h. */
#include <string.h>

#include "inspect_internal.h"

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* The numbers of a weight that the tensor stores. */
static uint64_t parameters(const struct tensor *t) {
    uint64_t stored = t->bytes / dtype_bytes(t->dtype);
    if (t->foreign) /* nobody knows how many */
        return 0;
    switch (t->dtype) {
    case DTYPE_F64:
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16:
    case DTYPE_F8_E4M3:
        return ends_in(t->name, ".scale") ? 0 : stored;
    case DTYPE_I8:
    case DTYPE_U8: /* packed FP4 */
        return ends_in(t->name, ".weight") ? 2 * stored : 0;
    default:
        return 0;
    }
}

void tally_add(struct tally *t, const struct tensor *tensor, const struct shape *shape) {
    uint64_t count = parameters(tensor), active = count;
    if (strstr(tensor->name, ".ffn.experts."))
        t->routed += count;
    if (ends_in(tensor->name, ".multi_head_embedding.embedding.weight") && tensor->dims[0]) {
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
