/*
 * amx_factors.c - products of two packed factors on tiles.
 *
 * A panel is [step of 32 columns][two tiles]. A tile of the left factor is 16 rows of 32 bf16; one of the right factor
 * is 16 pairs of columns by 16 rows, so that a dword is a pair of columns in either, and one is the other turned.
 * Numbers that lie row by row are pairs as soon as they are rounded; of those that lie column by column two columns are
 * interleaved. Columns behind the last are zeros in both factors.
 *
 * Two by two tiles of sums stay in their registers through all columns, and are then stored to where they belong.
 */
#include "kernel/x86/amx_tiles_internal.h"

enum { STEP_BYTES = 2 * TILE, FETCHED = 2 /* rows of c in a step */ };

/* The first n of 16 lanes; n may be more, or negative. */
INLINE __mmask16 first_lanes(int64_t n) {
    return (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1u << n) - 1 : 0);
}

INLINE size_t panel_bytes(uint32_t depth) {
    return (size_t)(depth + STEP - 1) / STEP * STEP_BYTES;
}

/* ----------------------------------------------------------------------------------------- packing */

INLINE __m512i rounded(__m512 high, __m512 low) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* 16 rows, 32 columns: dwords are pairs as soon as they are rounded. */
INLINE void pairs_of_rows(const float *x, size_t ld, __m512i v[16]) {
    for (int i = 0; i < 16; i++, x += ld)
        v[i] = rounded(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
}

/* The same where there are fewer rows or columns. */
INLINE void pairs_of_some_rows(const float *x, size_t ld, int64_t rows, int64_t depth, __m512i v[16]) {
    const __mmask16 low = first_lanes(depth), high = first_lanes(depth - 16);
    for (int i = 0; i < 16; i++, x += ld)
        v[i] = i < rows ? rounded(_mm512_maskz_loadu_ps(high, x + 16), _mm512_maskz_loadu_ps(low, x))
                        : _mm512_setzero_si512();
}

static const _Alignas(64) uint16_t interleaved[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

/* 32 columns, one after another, of 16 rows: columns 2 i and 2 i + 1 become pairs. */
INLINE void pairs_of_columns(const float *x, size_t ld, __m512i v[16]) {
    const __m512i order = _mm512_load_si512(interleaved);
    for (int i = 0; i < 16; i++, x += 2 * ld)
        v[i] = _mm512_permutexvar_epi16(order, rounded(_mm512_loadu_ps(x + ld), _mm512_loadu_ps(x)));
}

INLINE void pairs_of_some_columns(const float *x, size_t ld, int64_t rows, int64_t depth, __m512i v[16]) {
    const __m512i order = _mm512_load_si512(interleaved);
    const __mmask16 lanes = first_lanes(rows);
    for (int i = 0; i < 16; i++, x += 2 * ld) {
        const __mmask16 even = 2 * i < depth ? lanes : 0, odd = 2 * i + 1 < depth ? lanes : 0;
        v[i] = _mm512_permutexvar_epi16(order,
                                        rounded(_mm512_maskz_loadu_ps(odd, x + ld), _mm512_maskz_loadu_ps(even, x)));
    }
}

/* The tile whose first number is at x; `rows` and `depth` are what is left from there. */
INLINE void pack_tile(const float *x, size_t ld, bool turned, bool right, int64_t rows, int64_t depth, uint8_t *to) {
    __m512i v[16];
    if (rows >= PANEL && depth >= STEP)
        (turned ? pairs_of_columns : pairs_of_rows)(x, ld, v);
    else
        (turned ? pairs_of_some_columns : pairs_of_some_rows)(x, ld, rows, depth, v);
    if (turned != right)
        amx_transpose(v);
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(to + 64 * i, v[i]);
}

/* Where the tile of 16 rows from r on, 32 columns from k on, lies. */
INLINE uint8_t *tile_at(uint8_t *packed, uint32_t depth, uint32_t r, uint32_t k) {
    return packed + r / KERNEL_PANEL * panel_bytes(depth) + (size_t)(k / STEP) * STEP_BYTES +
           r % KERNEL_PANEL / PANEL * TILE;
}

static uint32_t whole_panels(uint32_t rows) {
    return (rows + KERNEL_PANEL - 1) / KERNEL_PANEL * KERNEL_PANEL;
}

/* Along the memory of x: all rows of 32 columns, then the next. */
INLINE void pack_turned(const float *x, size_t ld, bool right, uint32_t rows, uint32_t depth, uint8_t *packed) {
    for (uint32_t k = 0; k < depth; k += STEP)
        for (uint32_t r = 0; r < whole_panels(rows); r += PANEL)
            pack_tile(x + k * ld + r, ld, true, right, (int64_t)rows - r, depth - k, tile_at(packed, depth, r, k));
}

static void pack_right(const float *x, size_t ld, uint32_t rows, uint32_t depth, uint8_t *packed) {
    for (uint32_t r = 0; r < whole_panels(rows); r += PANEL)
        for (uint32_t k = 0; k < depth; k += STEP)
            pack_tile(x + r * ld + k, ld, false, true, (int64_t)rows - r, depth - k, tile_at(packed, depth, r, k));
}

/* Row by row: the rows of a tile are those of x. */
static void pack_left(const float *x, size_t ld, uint32_t rows, uint32_t depth, uint8_t *packed) {
    for (uint32_t r = 0; r < whole_panels(rows); r++, x += ld) {
        uint8_t *to = tile_at(packed, depth, r, 0) + r % PANEL * 64;
        uint32_t k = 0;
        for (; r < rows && k + STEP <= depth; k += STEP, to += STEP_BYTES)
            _mm512_store_si512(to, rounded(_mm512_loadu_ps(x + k + 16), _mm512_loadu_ps(x + k)));
        for (; k < depth; k += STEP, to += STEP_BYTES) {
            const int64_t left = r < rows ? depth - k : 0;
            _mm512_store_si512(to, rounded(_mm512_maskz_loadu_ps(first_lanes(left - 16), x + k + 16),
                                           _mm512_maskz_loadu_ps(first_lanes(left), x + k)));
        }
    }
}

void factor_bf16_amx(const float *x, size_t ld, int how, uint32_t rows, uint32_t depth, void *packed) {
    if (how == (KERNEL_RIGHT | KERNEL_TURNED))
        pack_turned(x, ld, true, rows, depth, packed);
    else if (how == KERNEL_TURNED)
        pack_turned(x, ld, false, rows, depth, packed);
    else if (how == KERNEL_RIGHT)
        pack_right(x, ld, rows, depth, packed);
    else
        pack_left(x, ld, rows, depth, packed);
}

/* ---------------------------------------------------------------------------------------- products */

/* Rows of c are fetched while the block before is multiplied. */
struct ahead {
    const float *c; /* of the block to come; NULL: none */
    size_t ldc;
};

INLINE void fetch(const struct ahead *f, uint32_t step) {
    if (!f->c || step >= KERNEL_PANEL / FETCHED)
        return;
    for (uint32_t i = step * FETCHED; i < (step + 1) * FETCHED; i++) {
        __builtin_prefetch(f->c + i * f->ldc);
        __builtin_prefetch(f->c + i * f->ldc + 16);
    }
}

/* Sums 0 to 3 += a left panel times a right one. */
INLINE void multiply_panels(const uint8_t *left, const uint8_t *right, uint32_t steps, const struct ahead *f) {
    amx_load_step(left, right, TILE);
    for (uint32_t s = 0; s + 1 < steps; s++) {
        left += STEP_BYTES;
        right += STEP_BYTES;
        amx_step(left, right, TILE);
        fetch(f, s);
    }
    amx_step(NULL, NULL, TILE);
    fetch(f, steps - 1);
}

/* A pair of panels, of which only `rows` by `cols` sums are in c. */
static void multiply_edge(const uint8_t *left, const uint8_t *right, uint32_t rows, uint32_t cols, uint32_t steps,
                          bool add, float *c, size_t ldc) {
    _Alignas(64) float sums[KERNEL_PANEL * KERNEL_PANEL];
    const __mmask16 low = first_lanes(cols), high = first_lanes((int64_t)cols - 16);
    const struct ahead none = {0};
    memset(sums, 0, sizeof(sums));
    for (uint32_t i = 0; add && i < rows; i++) {
        _mm512_store_ps(sums + i * KERNEL_PANEL, _mm512_maskz_loadu_ps(low, c + i * ldc));
        _mm512_store_ps(sums + i * KERNEL_PANEL + 16, _mm512_maskz_loadu_ps(high, c + i * ldc + 16));
    }
    MEMORY_IS_WRITTEN();
    amx_load_sums(sums, KERNEL_PANEL, 16);
    multiply_panels(left, right, steps, &none);
    amx_keep_sums(sums, KERNEL_PANEL, 16);
    MEMORY_IS_WRITTEN();
    for (uint32_t i = 0; i < rows; i++) {
        _mm512_mask_storeu_ps(c + i * ldc, low, _mm512_load_ps(sums + i * KERNEL_PANEL));
        _mm512_mask_storeu_ps(c + i * ldc + 16, high, _mm512_load_ps(sums + i * KERNEL_PANEL + 16));
    }
}

/* A pair of panels that c has whole. */
INLINE void multiply_whole(const uint8_t *left, const uint8_t *right, uint32_t steps, bool add, float *c, size_t ldc,
                           const float *next) {
    const struct ahead f = {next, ldc};
    if (add)
        amx_load_sums(c, ldc, 16);
    else
        amx_zero_sums();
    multiply_panels(left, right, steps, &f);
    amx_keep_sums(c, ldc, 16);
}

void product_bf16_amx(const void *left, const void *right, uint32_t rows, uint32_t cols, uint32_t depth, bool add,
                      float *c, size_t ldc) {
    const uint32_t steps = (depth + STEP - 1) / STEP;
    const uint8_t *a = left;
    _tile_loadconfig(&amx_configs[16]);
    for (uint32_t i = 0; i < rows; i += KERNEL_PANEL, a += panel_bytes(depth)) {
        const uint8_t *b = right;
        for (uint32_t j = 0; j < cols; j += KERNEL_PANEL, b += panel_bytes(depth)) {
            float *to = c + i * ldc + j;
            if (i + KERNEL_PANEL <= rows && j + KERNEL_PANEL <= cols)
                multiply_whole(a, b, steps, add, to, ldc,
                               j + 2 * KERNEL_PANEL <= cols   ? to + KERNEL_PANEL
                               : i + 2 * KERNEL_PANEL <= rows ? c + (i + KERNEL_PANEL) * ldc
                                                              : NULL);
            else
                multiply_edge(a, b, rows - i < KERNEL_PANEL ? rows - i : KERNEL_PANEL,
                              cols - j < KERNEL_PANEL ? cols - j : KERNEL_PANEL, steps, add, to, ldc);
        }
    }
    _tile_release();
    MEMORY_IS_WRITTEN();
}
