/*
 * fuzz_safetensors.c - any bytes as a safetensors file: parsed with and without data behind the header, and
 * whatever is accepted must keep the promises of checkpoint.h.
 *
 * The first byte of the input shapes the rest, for few mutations keep a length or an end of data right:
 *
 *     bit 0      the rest is a header, before which its length is put; else it is the file as it stands
 *     bits 1-7   the file is stated to be eight times so many bytes longer than what is there
 *
 * Without base, nothing of those bytes is read.
 */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"

/* Not assert(): it must hold in every build. */
static void must(int condition) {
    if (!condition)
        abort();
}

static void check_tensor(const struct tensor *t, const uint8_t *base, uint64_t file_bytes) {
    uint64_t elements = 1;
    must(t->name && t->name == t->spelled && t->name[0]);
    must(t->rank <= TENSOR_RANK && t->dtype < DTYPE_COUNT);
    must(t->offset <= file_bytes && t->bytes <= file_bytes - t->offset);
    must(t->data == (base ? base + t->offset : NULL));
    for (uint32_t i = 0; i < t->rank; i++)
        must(size_mul(elements, t->dims[i], &elements));
    must(elements * dtype_bytes(t->dtype) == t->bytes);
}

/* Reads what a view would read. */
static unsigned touch(const struct tensor *t) {
    unsigned sum = 0;
    for (uint64_t i = 0; i < t->bytes; i++)
        sum += t->data[i];
    return sum;
}

static volatile unsigned touched; /* so that no read is left out */

static void check_file(const struct safetensors *s, const uint8_t *base, uint64_t file_bytes) {
    uint64_t end = 0;
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct tensor *t = safetensors_at(s, i);
        check_tensor(t, base, file_bytes);
        must(i == 0 || t->offset == end); /* in order, no overlap, no gap */
        end = t->offset + t->bytes;
        must(safetensors_find(s, t->name) == t);
        if (base)
            touched += touch(t);
    }
    must(safetensors_count(s) == 0 || end == file_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    struct safetensors *s = NULL;
    struct sonde_error e = {0};
    if (size == 0)
        return 0;
    size_t prefix = bytes[0] & 1 ? 8 : 0, held = size - 1 + prefix;
    uint64_t beyond = (uint64_t)(bytes[0] >> 1) * 8;
    uint8_t *file = malloc(held ? held : 1); /* a copy of its own, so that a byte too far is noticed */
    must(file != NULL);
    for (size_t i = 0; i < prefix; i++)
        file[i] = (uint8_t)((uint64_t)(size - 1) >> 8 * i);
    memcpy(file + prefix, bytes + 1, size - 1);
    int rc = safetensors_parse(file, held, NULL, held + beyond, "fuzz", &s, &e);
    if (rc)
        must(rc == e.code && e.message[0] && !s);
    else
        check_file(s, NULL, held + beyond);
    safetensors_close(s);
    s = NULL;
    if (!safetensors_parse(file, held, file, held, "fuzz", &s, &e))
        check_file(s, file, held);
    safetensors_close(s);
    free(file);
    return 0;
}
