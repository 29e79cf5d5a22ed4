/*
 * amx_few.c - products of a few tokens: weights stream by, unpacked where they are multiplied.
 *
 * A group of two panels is unpacked a strip ahead of its use, a few rows between any two steps of multiplications, so
 * that the vector units unpack while the tile unit multiplies. It meets up to three tiles of tokens, each tile of whose
 * sums takes the steps in order: one tile of tokens waits for its sums no longer than for the unpacking. The bytes of
 * the next group are fetched meanwhile.
 */
#include "kernel/x86/amx_tiles_internal.h"
#include "kernel/x86/amx_unpack_internal.h"

/* One group of panels: rows [row, row + height) against all tokens. */
struct group {
    const struct matrix *w;
    const uint8_t *packed;
    struct packing packing;
    uint32_t row, height;
    bool plain;
    size_t ahead;   /* from a row to the one whose bytes are fetched meanwhile; 0: none */
    uint8_t *tiles; /* [2][panels][STEPS] */
    float *sums;    /* [sums][256] */
};

enum { PANELS = 2 }; /* of a group */

/* `rows` rows from `from` on of the group's strip `strip`, all of one panel. */
INLINE void unpack(const struct group *g, const struct strip_tables *t, enum format format, uint32_t strip,
                   uint32_t from, uint32_t rows, uint8_t *tiles) {
    if (from >= g->height)
        return;
    rows = rows < g->height - from ? rows : g->height - from;
    tiles += (size_t)(from / PANEL) * STEPS * TILE + (size_t)(from % PANEL) * 64;
    if (g->plain) {
        amx_unpack_rows(t, format, amx_strip_rows(format, g->w, g->row + from, strip), rows, tiles, TILE, g->ahead);
        return;
    }
    for (uint32_t r = 0; r < rows; r++)
        amx_unpack_slowly(g->w, g->row + from + r, strip, tiles + (size_t)r * 64, TILE);
}

/* One step. w: the first panel's tile of it; x: the tokens' tiles, `apart` bytes between them. */
INLINE void step_1(const uint8_t *w, const uint8_t *x, size_t stride) {
    _tile_loadd(7, x, stride);
    _tile_loadd(4, w, 64);
    _tile_dpbf16ps(0, 4, 7);
    _tile_loadd(5, w + STEPS * TILE, 64);
    _tile_dpbf16ps(1, 5, 7);
}

INLINE void step_2(const uint8_t *w, const uint8_t *x, size_t apart, size_t stride) {
    _tile_loadd(6, x, stride);
    _tile_loadd(4, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, w + STEPS * TILE, 64);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(7, x + apart, stride);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
}

INLINE void step_3(const uint8_t *w, const uint8_t *x, size_t apart, size_t stride) {
    _tile_loadd(6, w, 64);
    _tile_loadd(7, x, stride);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, x + apart, stride);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(7, x + 2 * apart, stride);
    _tile_dpbf16ps(4, 6, 7);
    _tile_loadd(6, w + STEPS * TILE, 64);
    _tile_dpbf16ps(5, 6, 7);
    _tile_loadd(7, x, stride);
    _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, x + apart, stride);
    _tile_dpbf16ps(3, 6, 7);
}

INLINE void clear_sums(int tiles) {
    _tile_zero(0);
    _tile_zero(1);
    if (tiles > 1) {
        _tile_zero(2);
        _tile_zero(3);
    }
    if (tiles > 2) {
        _tile_zero(4);
        _tile_zero(5);
    }
}

INLINE void keep_sums(float *sums, int tiles) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (tiles > 1) {
        _tile_stored(2, sums + 512, 64);
        _tile_stored(3, sums + 768, 64);
    }
    if (tiles > 2) {
        _tile_stored(4, sums + 1024, 64);
        _tile_stored(5, sums + 1280, 64);
    }
}

/* Sums of the group: [tile][panel]. */
INLINE void run_group(const struct group *g, enum format format, int tiles) {
    const uint32_t share = PANELS * PANEL / STEPS, strips = g->w->cols / STRIP;
    const size_t bytes = amx_tile_bytes(&g->packing), stride = 4 * (size_t)g->packing.across;
    struct strip_tables t;
    amx_tables_init(&t, format);
    amx_tables_strip(&t, format, g->w, g->row, 0);
    for (uint32_t p = 0; p < PANELS; p++)
        unpack(g, &t, format, 0, p * PANEL, PANEL, g->tiles);
    clear_sums(tiles);
    for (uint32_t s = 0; s < strips; s++) {
        const uint8_t *now = g->tiles + (size_t)(s % 2) * PANELS * STEPS * TILE;
        uint8_t *next = g->tiles + (size_t)((s + 1) % 2) * PANELS * STEPS * TILE;
        const uint8_t *x = g->packed + amx_packed_at(&g->packing, 0, s * STRIP);
        const size_t apart = amx_chunk_steps(&g->packing, s * STRIP) * bytes;
        if (s + 1 < strips)
            amx_tables_strip(&t, format, g->w, g->row, s + 1);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < STEPS; j++) {
            MEMORY_IS_WRITTEN();
            if (tiles == 1)
                step_1(now + j * TILE, x + j * bytes, stride);
            else if (tiles == 2)
                step_2(now + j * TILE, x + j * bytes, apart, stride);
            else
                step_3(now + j * TILE, x + j * bytes, apart, stride);
            if (s + 1 < strips)
                unpack(g, &t, format, s + 1, j * share, share, next);
        }
    }
    keep_sums(g->sums, tiles);
    MEMORY_IS_WRITTEN();
}

/* Rows of a group that begins at `row`: to the next multiple of a group's, so that blocks of scales stay whole. */
static uint32_t group_height(uint32_t row, uint32_t end, uint32_t most) {
    uint32_t height = most - row % most;
    return height < end - row ? height : end - row;
}

/* All groups of rows, and their sums to where they belong. */
INLINE void run_rows(struct group *g, enum format format, int tiles, uint32_t row, uint32_t rows, uint32_t count,
                     float *y, size_t ldy) {
    const uint32_t end = row + rows;
    for (g->row = row; g->row < end; g->row += g->height) {
        g->height = group_height(g->row, end, PANELS * PANEL);
        g->plain = amx_plain(g->w, g->row, g->height);
        g->ahead =
            g->row + 2 * g->height <= end ? (size_t)g->height * amx_strip_bytes(format) * (g->w->cols / STRIP) : 0;
        run_group(g, format, tiles);
        for (uint32_t p = 0; p < PANELS && p * PANEL < g->height; p++)
            for (uint32_t t = 0; t < (uint32_t)tiles; t++) {
                uint32_t height = g->height - p * PANEL, tokens = count - 16 * t;
                amx_store_sums(g->sums + ((size_t)t * PANELS + p) * 256, height < PANEL ? height : PANEL,
                               tokens < 16 ? tokens : 16, y + (size_t)16 * t * ldy + (g->row - row) + p * PANEL, ldy);
            }
    }
}

INLINE void run_format(struct group *g, enum format format, uint32_t row, uint32_t rows, uint32_t count, float *y,
                       size_t ldy) {
    if (g->packing.tiles == 1)
        run_rows(g, format, 1, row, rows, count, y, ldy);
    else if (g->packing.tiles == 2)
        run_rows(g, format, 2, row, rows, count, y, ldy);
    else
        run_rows(g, format, 3, row, rows, count, y, ldy);
}

void amx_gemm_few(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count, float *y,
                  size_t ldy, uint8_t *scratch) {
    struct group g = {.w = w, .packed = packed, .packing = amx_packing(w, count), .tiles = scratch};
    g.sums = (float *)(void *)(scratch + (size_t)2 * PANELS * STEPS * TILE);
    _tile_loadconfig(&amx_configs[g.packing.across]);
    WITH_FORMAT(w, format, run_format(&g, format, row, rows, count, y, ldy));
    _tile_release();
}
