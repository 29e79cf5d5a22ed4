/*
 * amx_internal.h - how weights become tiles.
 *
 * A product is computed as its transpose: weights are the A operand, rows as they lie in memory, and activations
 * the B operand, pairs of columns by tokens. One step is 32 columns; a strip is the 128 columns that a block of FP8
 * scales, four blocks of FP4 scales and one load of FP4 have, four steps. Within a strip the order of columns is
 * free as long as both operands agree, so each format takes the order in which it unpacks fastest, and pack() lays
 * out activations by it.
 */
#ifndef KERNEL_X86_AMX_INTERNAL_H
#define KERNEL_X86_AMX_INTERNAL_H

#include "kernel/kernel_internal.h"

enum { PANEL = 16, STEP = 32, STRIP = 128, STEPS = STRIP / STEP, TILE = 1024 };

/* Rows [row, row + height) of w, height <= PANEL, columns of strip `strip`, as the A tiles of its four steps, `apart`
 * bytes between them; rows behind height keep what they held. Fetches the strip's share of the panel at `ahead` (NULL:
 * nothing) into the second-level cache meanwhile. */
typedef void decode_strip(const struct matrix *w, uint32_t row, uint32_t height, uint32_t strip, uint8_t *tiles,
                          size_t apart, const uint8_t *ahead);

/* The decoder of panels of w that begin at `row`; chosen anew for each panel, as extreme scales take a slow one. */
decode_strip *amx_decoder(const struct matrix *w, uint32_t row, uint32_t height);

/* True if w's products can be made of tiles. */
bool amx_takes(const struct matrix *w);

/* Where a pair of columns goes: dword i of the 32 columns [32 c, 32 c + 32) of a strip, after the words of each
 * 16 bytes are shuffled if `shuffled`, is row place % 16 of step place / 16. */
struct pair_order {
    bool shuffled; /* words 0 4 1 5 2 6 3 7 */
    uint8_t place[4][16];
};

const struct pair_order *amx_order(enum format format);

#endif
