/* finite.c - looks at every value of a checkpoint: what opening never does. */
#include <math.h>

#include "checkpoint/checkpoint.h"

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
