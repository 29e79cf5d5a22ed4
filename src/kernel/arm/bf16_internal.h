/*
 * bf16_internal.h - how weights and tokens lie for BFMMLA.
 *
 * The instruction adds to a square of four sums the products of two rows by two tokens over four columns, so a register
 * of either factor is a pair of rows or of tokens, four columns of the first, then of the second: a group.
 *
 *     packed tokens   [chunk of CHUNK columns][pair][group]
 *     a panel         [slice of SLICE rows][group][pair]
 *
 * Both keep the columns in order. All tokens of a chunk are one run of memory, as pairs whole rows apart would share
 * the sets of a cache.
 */
#ifndef KERNEL_ARM_BF16_INTERNAL_H
#define KERNEL_ARM_BF16_INTERNAL_H

#include "kernel/arm/neon_decode_internal.h"

enum {
    COLUMNS = 4,         /* of a group */
    GROUP = 2 * COLUMNS, /* numbers of a group */
    CHUNK = 256,         /* columns of a panel */
    UNIT = 32,           /* columns decoded at a time, with one scale */
    SLICE = 8,
    PAIRS = SLICE / 2, /* rows that are multiplied together */
    SLICES = 4,
    ROWS = SLICES * SLICE,
};

struct panel {
    _Alignas(64) uint16_t w[SLICES][CHUNK / COLUMNS][PAIRS][GROUP];
};

/* True if w's values are bf16 numbers, in whole units. */
bool bf16_takes(const struct matrix *w);

/* Columns [col, col + cols) of rows [row, row + height), which becomes an even number by the last once more. */
void bf16_unpack(const struct matrix *w, uint32_t row, uint32_t height, uint32_t col, uint32_t cols, struct panel *p);

#endif
