/*
 * engram_rows.c - the rows of an Engram table that tokens read, and what hashes a new table.
 *
 * Gradients of the table are sums over the slots that read a row. Slots are sorted by row (by radix, which keeps slots
 * of a row in order), so that every row's sum is made by one worker in the order of the text.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "train/engram_internal.h"

int engram_rows_init(struct engram_rows *r, size_t room, struct sonde_error *e) {
    *r = (struct engram_rows){.room = room};
    if (room > INT32_MAX)
        return err_set(e, SONDE_ERROR_ARGUMENT, "%zu rows of an Engram table in one step, expected less than 2^31",
                       room);
    r->rows = calloc(room + 1, sizeof(*r->rows));
    r->unique = calloc(room + 1, sizeof(*r->unique));
    r->first = calloc(room + 1, sizeof(*r->first));
    r->by_row = calloc(room + 1, sizeof(*r->by_row));
    r->scratch = calloc(room + 1, sizeof(*r->scratch));
    if (r->rows && r->unique && r->first && r->by_row && r->scratch)
        return SONDE_OK;
    engram_rows_release(r);
    return err_memory(e);
}

void engram_rows_release(struct engram_rows *r) {
    free(r->rows);
    free(r->unique);
    free(r->first);
    free(r->by_row);
    free(r->scratch);
    *r = (struct engram_rows){0};
}

size_t engram_rows_bytes(size_t room) {
    const struct engram_rows *r = NULL;
    return (room + 1) *
           (sizeof(*r->rows) + sizeof(*r->unique) + sizeof(*r->first) + sizeof(*r->by_row) + sizeof(*r->scratch));
}

void engram_rows_clear(struct engram_rows *r) {
    r->slots = r->count = 0;
}

void engram_rows_add(struct engram_rows *r, const struct engram_hash *hash, const int64_t *token_map, int32_t pad,
                     const struct batch *batch) {
    const size_t columns = (size_t)(hash->orders - 1) * hash->heads;
    int64_t compact[ENGRAM_MOST_ORDERS];
    assert(batch->tokens * columns <= r->room - r->slots);
    for (uint32_t i = 0; i < batch->segment_count; i++) {
        const struct segment *g = &batch->segments[i];
        for (uint32_t t = 0; t < g->length; t++) {
            for (uint32_t back = 0; back < hash->orders; back++)
                compact[back] = token_map[back <= t ? batch->ids[g->begin + t - back] : pad];
            engram_hash_rows(hash, compact, r->rows + r->slots);
            r->slots += columns;
        }
    }
}

/* One pass of the sort: slots `from` in the order of 8 bits of their rows, to `to`. */
static void sort_by(const struct engram_rows *r, uint32_t shift, const uint32_t *from, uint32_t *to) {
    size_t begin[257] = {0};
    for (size_t i = 0; i < r->slots; i++)
        begin[(r->rows[i] >> shift & 255) + 1]++;
    for (size_t i = 0; i < 256; i++)
        begin[i + 1] += begin[i];
    for (size_t i = 0; i < r->slots; i++)
        to[begin[r->rows[from[i]] >> shift & 255]++] = from[i];
}

void engram_rows_sort(struct engram_rows *r) {
    for (size_t i = 0; i < r->slots; i++)
        r->by_row[i] = (uint32_t)i;
    for (uint32_t shift = 0; shift < 32; shift += 16) {
        sort_by(r, shift, r->by_row, r->scratch);
        sort_by(r, shift + 8, r->scratch, r->by_row);
    }
    r->count = 0;
    for (size_t i = 0; i < r->slots; i++) {
        uint32_t row = (uint32_t)r->rows[r->by_row[i]];
        if (i && r->unique[r->count - 1] == row)
            continue;
        r->unique[r->count] = row;
        r->first[r->count++] = (uint32_t)i;
    }
    r->first[r->count] = (uint32_t)r->slots;
}

/* ------------------------------------------------------------------------------------- a new table */

void engram_make_multipliers(struct rng *r, int64_t ids, uint32_t orders, int64_t *multipliers) {
    uint64_t bound = max_u64(1, (uint64_t)(INT64_MAX / ids / 2));
    for (uint32_t i = 0; i < orders; i++)
        multipliers[i] = (int64_t)(rng_u64(r) % bound * 2 + 1);
}
