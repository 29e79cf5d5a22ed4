/* tensor.c - what is said of a tensor as a whole: how many parameters it holds, whether its values are finite. */
#include <math.h>

#include "checkpoint/checkpoint.h"

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

uint64_t tensor_parameters(const struct tensor *t) {
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

static bool value_finite(enum dtype d, const uint8_t *at) {
    float f;
    double wide;
    uint16_t half;
    switch (d) {
    case DTYPE_F8_E8M0:
        return *at != 255;
    case DTYPE_F8_E4M3:
        return (*at & 0x7f) != 0x7f;
    case DTYPE_F32:
        memcpy(&f, at, sizeof(f));
        return isfinite(f);
    case DTYPE_F64:
        memcpy(&wide, at, sizeof(wide));
        return isfinite(wide);
    case DTYPE_BF16:
    case DTYPE_F16:
        memcpy(&half, at, sizeof(half));
        return isfinite(d == DTYPE_BF16 ? bf16_decode(half) : f16_decode(half));
    default:
        return true;
    }
}

bool tensor_finite(const struct tensor *t, uint64_t *where) {
    size_t size = dtype_bytes(t->dtype);
    if (t->foreign)
        return true;
    for (uint64_t i = 0; i < t->bytes / size; i++)
        if (!value_finite(t->dtype, t->data + i * size)) {
            *where = i;
            return false;
        }
    return true;
}

const struct tensor *checkpoint_nonfinite(const struct checkpoint *c, uint64_t *where) {
    for (size_t i = 0; i < checkpoint_count(c); i++)
        if (!tensor_finite(checkpoint_at(c, i), where))
            return checkpoint_at(c, i);
    return NULL;
}
