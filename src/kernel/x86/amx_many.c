/*
 * amx_many.c - products of more than three tiles of tokens.
 *
 * A job is a pair of panels, CHUNK columns of them, against a block of tokens. Its weights are unpacked while the job
 * before multiplies, a few rows between any two steps, so that the vector units unpack while the tile unit multiplies;
 * sums wait in scratch between one chunk of a pair and the next. Tokens that fit the second-level cache whole meet pair
 * after pair, and weights are read as they lie. Of more tokens only a chunk fits: all pairs of a block of rows meet it
 * before the next.
 *
 * A step is two panels by two tiles of tokens.
 */
#include "kernel/x86/amx_tiles_internal.h"
#include "kernel/x86/amx_unpack_internal.h"

enum {
    PAIR = 2 * PANEL,
    BLOCK_ROWS = 256,
    BLOCK_TILES = 32,
    RESIDENT = 1 << 20, /* bytes of tokens that stay in the second-level cache */
    WEIGHTS_BYTES = CHUNK / STEP * 2 * TILE
};

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Rows [row, end) against tokens [16 tile, 16 (tile + tiles)). */
struct block {
    const struct matrix *w;
    const uint8_t *packed;
    struct packing packing;
    uint32_t row, end, tile, tiles;
    uint32_t pairs, chunks;
    bool by_chunks; /* all pairs meet a chunk before the next */
    uint32_t plain; /* a bit for each pair: amx_plain() */
    float *sums;    /* [pair, or one][tile, and one more if those are odd][panel] of 256 floats */
    uint8_t *weights;
};

/* ------------------------------------------------------------------------------------------ jobs */

struct job {
    uint32_t pair, row, height, col, cols;
};

/* Pairs begin at multiples of PAIR rows, but for the first, so that blocks of FP8 scales stay whole. */
static struct job job_at(const struct block *b, uint32_t i) {
    struct job j = {.pair = b->by_chunks ? i % b->pairs : i / b->chunks};
    uint32_t first = (b->row / PAIR + j.pair) * PAIR;
    j.row = first > b->row ? first : b->row;
    j.height = min_u32(first + PAIR, b->end) - j.row;
    j.col = (b->by_chunks ? i / b->pairs : i % b->chunks) * CHUNK;
    j.cols = min_u32(CHUNK, b->w->cols - j.col);
    return j;
}

static float *sums_of(const struct block *b, uint32_t pair) {
    return b->sums + (b->by_chunks ? (size_t)pair * (b->tiles + b->tiles % 2) * 512 : 0);
}

/* The job to come: its weights go to [step][panel] tiles. */
struct feed {
    const struct matrix *w;
    struct job job;
    uint32_t strips; /* 0: there is none */
    bool plain;
    size_t ahead; /* from a row to the one whose bytes are fetched meanwhile; 0: none */
    uint8_t *to;
};

static struct feed feed_for(const struct block *b, uint32_t i) {
    struct feed f = {.w = b->w};
    if (i < b->pairs * b->chunks) {
        f.job = job_at(b, i);
        f.strips = f.job.cols / STRIP;
        f.plain = b->plain >> f.job.pair & 1;
        f.ahead =
            f.job.row + 2 * PAIR <= b->end ? (size_t)PAIR * (b->w->cols / STRIP) * amx_strip_bytes(b->w->format) : 0;
        f.to = b->weights + i % 2 * (size_t)WEIGHTS_BYTES;
    }
    return f;
}

/* `rows` rows of a strip from `from` on, all of one panel; t is the strip's. */
INLINE void feed_rows(const struct feed *f, const struct strip_tables *t, enum format format, uint32_t strip,
                      uint32_t from, uint32_t rows) {
    if (from >= f->job.height)
        return;
    rows = rows < f->job.height - from ? rows : f->job.height - from;
    uint8_t *to = f->to + (size_t)strip * STEPS * 2 * TILE + from / PANEL * TILE + from % PANEL * 64;
    strip += f->job.col / STRIP;
    if (f->plain) {
        amx_unpack_rows(t, format, amx_strip_rows(format, f->w, f->job.row + from, strip), rows, to, 2 * TILE,
                        f->ahead);
        return;
    }
    for (uint32_t r = 0; r < rows; r++)
        amx_unpack_slowly(f->w, f->job.row + from + r, strip, to + (size_t)r * 64, 2 * TILE);
}

INLINE void feed_strips(const struct feed *f, enum format format, uint32_t first) {
    struct strip_tables t;
    amx_tables_init(&t, format);
    for (uint32_t s = first; s < f->strips; s++) {
        amx_tables_strip(&t, format, f->w, f->job.row, f->job.col / STRIP + s);
        feed_rows(f, &t, format, s, 0, PANEL);
        feed_rows(f, &t, format, s, PANEL, PANEL);
    }
}

/* --------------------------------------------------------------------------------------- multiply */

/* A chunk of `strips` against the last, odd tile of tokens: sums 0 and 1. */
static void multiply_1(const uint8_t *w, const uint8_t *x, uint32_t strips) {
    for (uint32_t s = 0; s < strips * STEPS; s++, w += 2 * TILE, x += TILE) {
        _tile_loadd(6, x, 64);
        _tile_loadd(4, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, w + TILE, 64);
        _tile_dpbf16ps(1, 5, 6);
    }
}

/* A chunk of `strips` against two tiles of tokens. Meanwhile the panel from row `from` on of the next job is unpacked
 * if `feeding`. */
INLINE void multiply_2(const uint8_t *w, const uint8_t *x, size_t apart, uint32_t strips, const struct feed *f,
                       enum format format, bool feeding, uint32_t from) {
    struct strip_tables t;
    amx_tables_init(&t, format);
    amx_load_step(w, x, apart);
    for (uint32_t s = 0; s < strips; s++, w += STEPS * 2 * TILE, x += STEPS * TILE) {
        const bool feed = feeding && s < f->strips;
        if (feed)
            amx_tables_strip(&t, format, f->w, f->job.row, f->job.col / STRIP + s);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < STEPS; j++) {
            amx_step(j + 1 < STEPS || s + 1 < strips ? w + (j + 1) * 2 * TILE : NULL, x + (j + 1) * TILE, apart);
            if (feed)
                feed_rows(f, &t, format, s, from + j * PANEL / STEPS, PANEL / STEPS);
        }
    }
}

/* A job against all tokens of the block. The next job's panels are unpacked by the first two rounds, one each. */
INLINE void run_job(const struct block *b, uint32_t i, enum format format) {
    const struct job j = job_at(b, i);
    const struct feed f = feed_for(b, i + 1);
    const uint8_t *w = b->weights + i % 2 * (size_t)WEIGHTS_BYTES;
    const uint8_t *x = b->packed + amx_packed_at(&b->packing, b->tile, j.col);
    const uint32_t strips = j.cols / STRIP;
    const size_t apart = j.cols / STEP * (size_t)TILE;
    float *sums = sums_of(b, j.pair);
    for (uint32_t t = 0; t < b->tiles; t += 2, x += 2 * apart, sums += 1024) {
        if (j.col == 0)
            amx_zero_sums();
        else
            amx_load_sums(sums, 16, 512);
        if (t + 1 == b->tiles)
            multiply_1(w, x, strips);
        else if (t <= 2)
            multiply_2(w, x, apart, strips, &f, format, true, t / 2 * PANEL);
        else
            multiply_2(w, x, apart, strips, &f, format, false, 0);
        amx_keep_sums(sums, 16, 512);
    }
    feed_strips(&f, format, b->tiles / 2 > 1 ? strips : 0);
    MEMORY_IS_WRITTEN();
}

/* ----------------------------------------------------------------------------------------- blocks */

static void store_pair(const struct block *b, const struct job *j, uint32_t row, uint32_t count, float *y, size_t ldy) {
    float *sums = sums_of(b, j->pair);
    for (uint32_t t = 0; t < b->tiles; t++, sums += 512) {
        uint32_t first = (b->tile + t) * 16;
        for (uint32_t p = 0; p * PANEL < j->height; p++)
            amx_store_sums(sums + (size_t)p * 256, min_u32(PANEL, j->height - p * PANEL), min_u32(16, count - first),
                           y + first * ldy + (j->row - row) + p * PANEL, ldy);
    }
}

INLINE void run_block(struct block *b, enum format format, uint32_t row, uint32_t count, float *y, size_t ldy) {
    b->plain = 0;
    for (uint32_t p = 0; p < b->pairs; p++) {
        struct job j = job_at(b, b->by_chunks ? p : p * b->chunks);
        b->plain |= (uint32_t)amx_plain(b->w, j.row, j.height) << p;
    }
    struct feed first = feed_for(b, 0);
    feed_strips(&first, format, 0);
    MEMORY_IS_WRITTEN();
    for (uint32_t i = 0; i < b->pairs * b->chunks; i++) {
        struct job j = job_at(b, i);
        run_job(b, i, format);
        if (j.col + j.cols == b->w->cols)
            store_pair(b, &j, row, count, y, ldy);
    }
}

void amx_gemm_many(const struct matrix *w, uint32_t row, uint32_t rows, const uint8_t *packed, uint32_t count, float *y,
                   size_t ldy, uint8_t *scratch) {
    struct block b = {.w = w, .packed = packed, .packing = amx_packing(w, count), .weights = scratch};
    b.sums = (float *)(void *)(scratch + (size_t)2 * WEIGHTS_BYTES);
    b.chunks = (w->cols + CHUNK - 1) / CHUNK;
    b.by_chunks = (size_t)count * w->cols * 2 > RESIDENT;
    _tile_loadconfig(&amx_configs[16]);
    for (b.tile = 0; b.tile < b.packing.tiles; b.tile += b.tiles) {
        b.tiles = min_u32(BLOCK_TILES, b.packing.tiles - b.tile);
        for (b.row = row; b.row < row + rows; b.row = b.end) {
            b.end = min_u32((b.row / BLOCK_ROWS + 1) * BLOCK_ROWS, row + rows);
            b.pairs = (b.end - 1) / PAIR - b.row / PAIR + 1;
            WITH_FORMAT(w, format, run_block(&b, format, row, count, y, ldy));
        }
    }
    _tile_release();
}
