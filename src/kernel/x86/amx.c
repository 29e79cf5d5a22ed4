/*
 * amx.c - the amx level: products on the tile units.
 *
 * Eight tiles of 16 rows by 64 bytes; one instruction multiplies 16 weight rows by 16 tokens over 32 columns, 8192
 * multiply-adds in 16 cycles. Weights come as they lie in memory and are unpacked into the first-level cache
 * (amx_decode.c, amx_internal.h has the layout).
 *
 *   up to 16 tokens   weights stream by once: a panel of 16 rows is unpacked a strip ahead of its use and summed in
 *                     four tiles, so that no multiplication waits for the one before.
 *   more              a block of rows is unpacked CHUNK columns at a time, two panels a time, and multiplied by all
 *                     tokens of a block, up to three tiles of them at once; partial sums wait in scratch. Blocks are
 *                     sized for the caches: unpacked weights (32 KB) for the first level, packed tokens (512 KB) and
 *                     partial sums (512 KB) for the second.
 *
 * Sums come out transposed, tokens across, and are turned back 16 by 16.
 */
#include <immintrin.h>

#include "kernel/x86/amx_internal.h"
#include "kernel/x86/x86_internal.h"

enum { CHUNK = 512, BLOCK_ROWS = 256, BLOCK_TILES = 32 };

/* The compiler must not move what it stores to memory past a tile load: its built-in does not say that it reads. */
#define MEMORY_IS_WRITTEN() __asm__ volatile("" ::: "memory")

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* ---------------------------------------------------------------------------------------- tiles */

/* Tiles 0 to 7 of 16 rows; those of tokens (sums 0 to 5 or 0 to 3, inputs) are `tokens` wide. Static, as GCC 12 drops
 * stores to a local one: its built-in claims to read eight bytes. */
struct tile_config {
    uint8_t palette, start, zero[14];
    uint16_t width[16];
    uint8_t rows[16];
};

#define WIDTHS(n)                                                                                                      \
    { 4 * (n), 4 * (n), 4 * (n), 4 * (n), 64, 64, 4 * (n), 4 * (n) }
#define NARROW(n)                                                                                                      \
    {                                                                                                                  \
        1, 0, {0}, WIDTHS(n), {                                                                                        \
            16, 16, 16, 16, 16, 16, 16, 16                                                                             \
        }                                                                                                              \
    }
/* For up to 16 tokens: sums 0 to 3, weights 4 and 5, tokens 6 and 7. At 16 every tile is whole. */
static const _Alignas(64) struct tile_config configs[17] = {
    {0},       NARROW(1),  NARROW(2),  NARROW(3),  NARROW(4),  NARROW(5),  NARROW(6),  NARROW(7), NARROW(8),
    NARROW(9), NARROW(10), NARROW(11), NARROW(12), NARROW(13), NARROW(14), NARROW(15), NARROW(16)};

/* ------------------------------------------------------------------------------------- transpose */

/* Rows become columns: 16 by 16 dwords. */
static inline void transpose(__m512i x[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) { /* x[i], x[i + 4], ...: column i + 4 lane, rows 0..3, 4..7, ... */
        t[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        x[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        x[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* sums [16 rows, 16 tokens] to y [tokens][rows], `height` and `count` of them. */
static void store_sums(const float *sums, uint32_t height, uint32_t count, float *y, size_t ldy) {
    __m512i x[16];
    __mmask16 rows = (__mmask16)((1u << height) - 1);
    for (int i = 0; i < 16; i++)
        x[i] = _mm512_load_si512(sums + 16 * i);
    transpose(x);
    for (uint32_t s = 0; s < count; s++)
        _mm512_mask_storeu_epi32(y + s * ldy, rows, x[s]);
}

/* ------------------------------------------------------------------------------------------ pack */

/*
 * Packed tokens: [chunk of CHUNK columns][tile of 16 tokens][step][16 pairs][token], a pair being two bf16, so that a
 * chunk of all tokens is one run of memory and no two of its tiles compete for the same lines of a cache. The tile of
 * up to 16 tokens in all is as narrow as they are.
 */
struct packing {
    uint32_t tiles, across, steps; /* token tiles, tokens in each, steps of 32 columns */
};

static struct packing packing_of(const struct matrix *w, uint32_t count) {
    return (struct packing){(count + 15) / 16, count < 16 ? count : 16, w->cols / STEP};
}

static size_t tile_bytes(const struct packing *p) {
    return 64 * (size_t)p->across;
}

/* Steps of the chunk that has column `col`. */
static uint32_t chunk_steps(const struct packing *p, uint32_t col) {
    return min_u32(CHUNK / STEP, p->steps - col / CHUNK * (CHUNK / STEP));
}

/* Offset of the step at column `col` for token tile `tile`. */
static size_t packed_at(const struct packing *p, uint32_t tile, uint32_t col) {
    uint32_t first = col / CHUNK * (CHUNK / STEP), within = col / STEP - first;
    return ((size_t)first * p->tiles + (size_t)tile * chunk_steps(p, col) + within) * tile_bytes(p);
}

/* Strip at x, `count` <= 16 rows ldx apart. */
static void pack_strip(const struct pair_order *order, const float *x, size_t ldx, uint32_t count, uint32_t across,
                       uint8_t *to) {
    const __m512i shuffle = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __mmask16 tokens = (__mmask16)((1u << across) - 1);
    for (int c = 0; c < 4; c++) {
        __m512i v[16];
        for (uint32_t s = 0; s < 16; s++) {
            const float *from = x + s * ldx + 32 * c;
            v[s] = s < count ? (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from))
                             : _mm512_setzero_si512();
            if (order->shuffled)
                v[s] = _mm512_shuffle_epi8(v[s], shuffle);
        }
        transpose(v);
        for (int i = 0; i < 16; i++)
            _mm512_mask_storeu_epi32(to + (size_t)order->place[c][i] * 4 * across, tokens, v[i]);
    }
}

static void pack_amx(const struct matrix *w, const float *x, size_t ldx, uint32_t count, uint32_t col, uint32_t cols,
                     void *packed) {
    if (!amx_takes(w)) {
        pack_avx512(w, x, ldx, count, col, cols, packed);
        return;
    }
    struct packing p = packing_of(w, count);
    for (uint32_t t = 0; t < p.tiles; t++)
        for (uint32_t c = col; c < col + cols; c += STRIP)
            pack_strip(amx_order(w->format), x + (size_t)t * 16 * ldx + c, ldx, min_u32(16, count - t * 16), p.across,
                       (uint8_t *)packed + packed_at(&p, t, c));
}

/* ---------------------------------------------------------------------------------- few tokens */

/* One strip in the four sums. The weights' tiles are where the decoder put them, TILE apart. */
static inline void multiply_strip(const uint8_t *weights, const uint8_t *tokens, size_t tile, size_t stride) {
    _tile_loadd(4, weights, 64);
    _tile_loadd(6, tokens, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, weights + TILE, 64);
    _tile_loadd(7, tokens + tile, stride);
    _tile_dpbf16ps(1, 5, 7);
    _tile_loadd(4, weights + 2 * TILE, 64);
    _tile_loadd(6, tokens + 2 * tile, stride);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(5, weights + 3 * TILE, 64);
    _tile_loadd(7, tokens + 3 * tile, stride);
    _tile_dpbf16ps(3, 5, 7);
}

/* Rows of a panel that begins at `row`: up to the next multiple of 16, so that blocks of scales stay whole. */
static uint32_t panel_height(uint32_t row, uint32_t end) {
    return min_u32(PANEL - row % PANEL, end - row);
}

static uint32_t panel_bytes_of_strip(const struct matrix *w) {
    uint32_t bits = w->format == FORMAT_FP4 ? 4 : w->format == FORMAT_FP8 ? 8 : 16;
    return PANEL * STRIP * bits / 8;
}

/* Where the panel at `row` begins, NULL if it is not whole. */
static const uint8_t *panel_ahead(const struct matrix *w, uint32_t row, uint32_t end) {
    if (row + PANEL > end)
        return NULL;
    return (const uint8_t *)w->data + (size_t)row * (panel_bytes_of_strip(w) / PANEL) * (w->cols / STRIP);
}

static void add_sums(float *sums) {
    for (int i = 0; i < 256; i += 16) {
        __m512 a = _mm512_add_ps(_mm512_load_ps(sums + i), _mm512_load_ps(sums + 256 + i));
        __m512 b = _mm512_add_ps(_mm512_load_ps(sums + 512 + i), _mm512_load_ps(sums + 768 + i));
        _mm512_store_ps(sums + i, _mm512_add_ps(a, b));
    }
}

static void gemm_few(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count,
                     float *y, size_t ldy, uint8_t *scratch) {
    struct packing p = packing_of(w, count);
    uint32_t strips = w->cols / STRIP, end = row + rows, ahead_bytes = panel_bytes_of_strip(w);
    size_t tile = tile_bytes(&p), stride = 4 * (size_t)p.across;
    float *sums = (float *)(void *)(scratch + 2 * STEPS * TILE);
    _tile_loadconfig(&configs[count]);
    for (uint32_t r = row, height; r < end; r += height) {
        height = panel_height(r, end);
        const uint8_t *ahead = panel_ahead(w, r + height, end);
        decode_strip *decode = amx_decoder(w, r, height);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        decode(w, r, height, 0, scratch, TILE, ahead);
        for (uint32_t s = 0; s < strips; s++) {
            uint8_t *now = scratch + (s % 2) * STEPS * TILE, *next = scratch + ((s + 1) % 2) * STEPS * TILE;
            MEMORY_IS_WRITTEN();
            multiply_strip(now, packed + s * STEPS * tile, tile, stride);
            if (s + 1 < strips)
                decode(w, r, height, s + 1, next, TILE, ahead ? ahead + (size_t)(s + 1) * ahead_bytes : NULL);
        }
        _tile_stored(0, sums, 64);
        _tile_stored(1, sums + 256, 64);
        _tile_stored(2, sums + 512, 64);
        _tile_stored(3, sums + 768, 64);
        MEMORY_IS_WRITTEN();
        add_sums(sums);
        store_sums(sums, height, count, y + (r - row), ldy);
    }
    _tile_release();
}

/* --------------------------------------------------------------------------------- many tokens */

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

static void unpack_pair(const struct block *b, uint32_t row, uint32_t height, uint32_t col, uint32_t cols) {
    for (uint32_t panel = 0; panel < 2 && panel * PANEL < height; panel++) {
        uint32_t first = row + panel * PANEL, n = min_u32(PANEL, height - panel * PANEL);
        decode_strip *decode = amx_decoder(b->w, first, n);
        const uint8_t *ahead = panel_ahead(b->w, first + 2 * PANEL, b->row + b->rows);
        for (uint32_t c = 0; c < cols; c += STRIP) {
            uint32_t strip = (col + c) / STRIP;
            decode(b->w, first, n, strip, b->weights + (size_t)(c / STEP) * 2 * TILE + panel * TILE, 2 * TILE,
                   ahead ? ahead + (size_t)strip * panel_bytes_of_strip(b->w) : NULL);
        }
    }
}

static void run_block(const struct block *b) {
    const struct packing *p = &b->packing;
    size_t pair_sums = (size_t)b->tiles * 512;
    for (uint32_t col = 0; col < b->w->cols; col += CHUNK) {
        uint32_t cols = min_u32(CHUNK, b->w->cols - col);
        const uint8_t *tokens = b->packed + packed_at(p, b->tile, col);
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
            store_sums(b->sums + ((size_t)(r / 32 * b->tiles + t) * 2 + r / 16 % 2) * 256, min_u32(PANEL, b->rows - r),
                       min_u32(16, count - (b->tile + t) * 16), y + (size_t)(b->tile + t) * 16 * ldy + r, ldy);
}

static void gemm_many(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count,
                      float *y, size_t ldy, uint8_t *scratch) {
    struct block b = {.w = w, .packed = packed, .packing = packing_of(w, count), .weights = scratch};
    b.sums = (float *)(void *)(scratch + CHUNK / STEP * 2 * TILE);
    _tile_loadconfig(&configs[16]);
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

static void gemm_bf16_amx(const struct matrix *w, uint32_t row, uint32_t rows, const void *packed, uint32_t count,
                          float *y, size_t ldy, void *scratch) {
    if (!amx_takes(w))
        gemm_bf16_avx512(w, row, rows, packed, count, y, ldy, scratch);
    else
        (count <= 16 ? gemm_few : gemm_many)(w, row, rows, packed, count, y, ldy, scratch);
}

void kernel_table_init_amx(struct kernel_table *t) {
    t->pack = pack_amx;
    t->gemm_bf16 = gemm_bf16_amx;
}
