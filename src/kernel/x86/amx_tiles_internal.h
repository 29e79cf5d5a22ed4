/*
 * amx_tiles_internal.h - what every loop over tiles is made of: a step of two by two tiles, the turning of 16 by 16
 * dwords, and the packing of floats to pairs of columns.
 */
#ifndef KERNEL_X86_AMX_TILES_INTERNAL_H
#define KERNEL_X86_AMX_TILES_INTERNAL_H

#include <immintrin.h>

#include "kernel/x86/amx_internal.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows become columns: 16 by 16 dwords. */
INLINE void amx_transpose(__m512i x[16]) {
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

/* The strip of `count` <= 16 rows at x, ldx apart, rounded to bf16: four steps of pairs by rows, `across` of them. */
INLINE void amx_pack_strip(const struct pair_order *order, const float *x, size_t ldx, uint32_t count, uint32_t across,
                           uint8_t *to) {
    const __m512i shuffle = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __mmask16 rows = (__mmask16)((1u << across) - 1);
    for (int c = 0; c < 4; c++) {
        __m512i v[16];
        for (uint32_t s = 0; s < 16; s++) {
            const float *from = x + s * ldx + 32 * c;
            v[s] = s < count ? (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from))
                             : _mm512_setzero_si512();
            if (order->shuffled)
                v[s] = _mm512_shuffle_epi8(v[s], shuffle);
        }
        amx_transpose(v);
        for (int i = 0; i < 16; i++)
            _mm512_mask_storeu_epi32(to + (size_t)order->place[c][i] * 4 * across, rows, v[i]);
    }
}

/*
 * Tiles a [step][2] times tiles b [step] and the same `apart` bytes on, into sums 0 (a0 b0), 1 (a1 b0), 2 (a0 b1) and
 * 3 (a1 b1). A step multiplies what the one before it loaded. Four loads for four multiplications are the least that
 * eight tiles allow; their order is for processors that cannot rename a tile, as it looks where another thread of the
 * core uses tiles too: a load then waits for the multiplication that last read its tile. Cycles for a multiplication
 * then: 56, in other orders 60 to 90; otherwise 17.
 */
INLINE void amx_load_step(const uint8_t *a, const uint8_t *b, size_t apart) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_loadd(5, a + TILE, 64);
    _tile_loadd(7, b + apart, 64);
}

/* next_a NULL: there is no next step. */
INLINE void amx_step(const uint8_t *next_a, const uint8_t *next_b, size_t apart) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(1, 5, 6);
    if (next_a) {
        _tile_loadd(4, next_a, 64);
        _tile_loadd(6, next_b, 64);
    }
    _tile_dpbf16ps(3, 5, 7);
    if (next_a) {
        _tile_loadd(5, next_a + TILE, 64);
        _tile_loadd(7, next_b + apart, 64);
    }
}

INLINE void amx_zero_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* The four sums to, and from, floats: those of b0 lie at the beginning, a1's 16 rows behind a0's, rows ld floats apart;
 * those of b1 lie `next` floats on. */
INLINE void amx_keep_sums(float *to, size_t ld, size_t next) {
    _tile_stored(0, to, ld * sizeof(float));
    _tile_stored(1, to + 16 * ld, ld * sizeof(float));
    _tile_stored(2, to + next, ld * sizeof(float));
    _tile_stored(3, to + next + 16 * ld, ld * sizeof(float));
}

INLINE void amx_load_sums(const float *from, size_t ld, size_t next) {
    _tile_loadd(0, from, ld * sizeof(float));
    _tile_loadd(1, from + 16 * ld, ld * sizeof(float));
    _tile_loadd(2, from + next, ld * sizeof(float));
    _tile_loadd(3, from + next + 16 * ld, ld * sizeof(float));
}

#endif
