/*
 * amx_many.c - products of many tokens.
 *
 * A block of rows is unpacked CHUNK columns at a time, two panels a time, and multiplied by all tokens of a block, up
 * to three tiles of them at once; partial sums wait in scratch. Blocks are sized for the caches: unpacked weights
 * (32 KB) for the first level, packed tokens (512 KB) and partial sums (512 KB) for the second.
 */
#include "kernel/x86/amx_unpack_internal.h"

enum { BLOCK_ROWS = 256, BLOCK_TILES = 32 };

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/*
 * Two panels by one, two or three tiles of tokens over `steps` steps. Weights: [step][panel] tiles; tokens: a tile
 * each step, `apart` bytes between tiles of tokens. Sums: [tile][panel] of 256 floats, added to unless `fresh`.
 */
static inline void load_sums(const float *sums, int tiles, bool fresh) {
    if (fresh) {
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
        return;
    }
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + 256, 64);
    if (tiles > 1) {
        _tile_loadd(2, sums + 512, 64);
        _tile_loadd(3, sums + 768, 64);
    }
    if (tiles > 2) {
        _tile_loadd(4, sums + 1024, 64);
        _tile_loadd(5, sums + 1280, 64);
    }
}

static inline void keep_sums(float *sums, int tiles) {
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

static void multiply_1(const uint8_t *weights, const uint8_t *tokens, size_t apart, uint32_t steps) {
    (void)apart;
    for (uint32_t s = 0; s < steps; s++, weights += 2 * TILE, tokens += TILE) {
        _tile_loadd(7, tokens, 64);
        _tile_loadd(4, weights, 64);
        _tile_dpbf16ps(0, 4, 7);
        _tile_loadd(5, weights + TILE, 64);
        _tile_dpbf16ps(1, 5, 7);
    }
}

static void multiply_2(const uint8_t *weights, const uint8_t *tokens, size_t apart, uint32_t steps) {
    for (uint32_t s = 0; s < steps; s++, weights += 2 * TILE, tokens += TILE) {
        _tile_loadd(6, tokens, 64);
        _tile_loadd(4, weights, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, weights + TILE, 64);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, tokens + apart, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static void multiply_3(const uint8_t *weights, const uint8_t *tokens, size_t apart, uint32_t steps) {
    for (uint32_t s = 0; s < steps; s++, weights += 2 * TILE, tokens += TILE) {
        _tile_loadd(6, weights, 64);
        _tile_loadd(7, tokens, 64);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(7, tokens + apart, 64);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(7, tokens + 2 * apart, 64);
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(6, weights + TILE, 64);
        _tile_dpbf16ps(5, 6, 7);
        _tile_loadd(7, tokens, 64);
        _tile_dpbf16ps(1, 6, 7);
        _tile_loadd(7, tokens + apart, 64);
        _tile_dpbf16ps(3, 6, 7);
    }
}

/* All token tiles of a block against two unpacked panels. */
static void multiply_block(const uint8_t *weights, const uint8_t *tokens, size_t apart, uint32_t tiles, uint32_t steps,
                           float *sums, bool fresh) {
    for (uint32_t t = 0; t < tiles;) {
        uint32_t n = tiles - t == 4 ? 2 : min_u32(3, tiles - t); /* four are two and two */
        float *part = sums + (size_t)t * 512;
        const uint8_t *from = tokens + t * apart;
        load_sums(part, (int)n, fresh);
        (n == 1 ? multiply_1 : n == 2 ? multiply_2 : multiply_3)(weights, from, apart, steps);
        keep_sums(part, (int)n);
        t += n;
    }
}

/* What one call of gemm_many() works on: tokens [tile, tile + tiles) of the packed ones, rows of at most BLOCK_ROWS. */
struct block {
    const struct matrix *w;
    const uint8_t *packed;
    struct packing packing;
    uint32_t row, rows, tile, tiles;
    float *sums;      /* [pair of panels][tile][2][256] */
    uint8_t *weights; /* [CHUNK / STEP][2] tiles */
};

/* Columns [col, col + cols) of the two panels at `row`, the bytes of the next two fetched meanwhile. */
static inline __attribute__((always_inline)) void unpack_as(const struct block *b, enum format format, uint32_t row,
                                                            uint32_t height, uint32_t col, uint32_t cols) {
    struct strip_tables t;
    size_t bytes = amx_strip_bytes(format), stride = bytes * (b->w->cols / STRIP);
    bool plain = amx_plain(b->w, row, height), more = row + 4 * PANEL <= b->row + b->rows;
    amx_tables_init(&t, format);
    for (uint32_t c = 0; c < cols; c += STRIP) {
        uint32_t strip = (col + c) / STRIP;
        uint8_t *tiles = b->weights + (size_t)(c / STEP) * 2 * TILE;
        amx_tables_strip(&t, format, b->w, row, strip);
        for (uint32_t p = 0; p * PANEL < height; p++) {
            uint32_t rows = min_u32(PANEL, height - p * PANEL);
            const uint8_t *ahead =
                (const uint8_t *)b->w->data + (row + (2 + p) * PANEL) * stride + strip * rows * bytes;
            if (plain)
                amx_unpack_rows(&t, format, amx_strip_rows(format, b->w, row + p * PANEL, strip), rows,
                                tiles + (size_t)p * TILE, 2 * TILE, more ? ahead : NULL);
            for (uint32_t r = 0; r < rows && !plain; r++)
                amx_unpack_slowly(b->w, row + p * PANEL + r, strip, tiles + (size_t)p * TILE + (size_t)r * 64,
                                  2 * TILE);
        }
    }
}

static void unpack_pair(const struct block *b, uint32_t row, uint32_t height, uint32_t col, uint32_t cols) {
    if (b->w->format == FORMAT_FP4)
        unpack_as(b, FORMAT_FP4, row, height, col, cols);
    else if (b->w->format == FORMAT_FP8)
        unpack_as(b, FORMAT_FP8, row, height, col, cols);
    else
        unpack_as(b, FORMAT_BF16, row, height, col, cols);
}

static void run_block(const struct block *b) {
    const struct packing *p = &b->packing;
    size_t pair_sums = (size_t)b->tiles * 512;
    for (uint32_t col = 0; col < b->w->cols; col += CHUNK) {
        uint32_t cols = min_u32(CHUNK, b->w->cols - col);
        const uint8_t *tokens = b->packed + amx_packed_at(p, b->tile, col);
        for (uint32_t r = 0; r < b->rows; r += 2 * PANEL) {
            unpack_pair(b, b->row + r, min_u32(2 * PANEL, b->rows - r), col, cols);
            MEMORY_IS_WRITTEN();
            multiply_block(b->weights, tokens, cols / STEP * (size_t)TILE, b->tiles, cols / STEP,
                           b->sums + r / (2 * PANEL) * pair_sums, col == 0);
        }
    }
    MEMORY_IS_WRITTEN();
}

static void store_block(const struct block *b, uint32_t count, float *y, size_t ldy) {
    for (uint32_t r = 0; r < b->rows; r += PANEL)
        for (uint32_t t = 0; t < b->tiles; t++)
            amx_store_sums(b->sums + ((size_t)(r / 32 * b->tiles + t) * 2 + r / 16 % 2) * 256,
                           min_u32(PANEL, b->rows - r), min_u32(16, count - (b->tile + t) * 16),
                           y + (size_t)(b->tile + t) * 16 * ldy + r, ldy);
}

void amx_gemm_many(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count, float *y,
                   size_t ldy, uint8_t *scratch) {
    struct block b = {.w = w, .packed = packed, .packing = amx_packing(w, count), .weights = scratch};
    b.sums = (float *)(void *)(scratch + CHUNK / STEP * 2 * TILE);
    _tile_loadconfig(&amx_configs[16]);
    for (b.tile = 0; b.tile < b.packing.tiles; b.tile += BLOCK_TILES) {
        b.tiles = min_u32(BLOCK_TILES, b.packing.tiles - b.tile);
        for (uint32_t r = 0; r < rows; r += b.rows) { /* the first block ends at a multiple of a panel */
            b.row = row + r;
            b.rows = min_u32(BLOCK_ROWS - b.row % PANEL, rows - r);
            run_block(&b);
            store_block(&b, count, y + r, ldy);
        }
    }
    _tile_release();
}
