/*
 * probe_amx.c - how fast the amx level could be: bf16 products of tiles that never leave their registers.
 *
 * Two by two tiles of sums need two tiles of either factor, which is how far eight tiles go; four independent sums
 * cover the latency of one product. Factors are ordinary numbers: a multiplier fed with zeros draws less power and
 * may be clocked higher than any real product could be.
 */
#include <immintrin.h>

#include "kernel/probe_internal.h"

enum { ROWS = 16, ROW_BYTES = 64, PAIRS = ROW_BYTES / 4, REPEATS = 8 };

/* as _tile_loadconfig reads it; static, for GCC 12 drops stores to one on the stack */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tiles = {.palette = 1,
           .row_bytes = {ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES, ROW_BYTES},
           .rows = {ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS}};

static uint64_t flops(uint64_t rounds) {
    _Alignas(64) uint16_t factor[ROWS * ROW_BYTES / 2];
    _Alignas(64) float sum[ROWS * PAIRS];
    for (size_t i = 0; i < sizeof(factor) / sizeof(*factor); i++)
        factor[i] = bf16_encode((float)((int)(i * 37 % 255) - 127) / 128);
    _tile_loadconfig(&tiles);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, factor, ROW_BYTES);
    _tile_loadd(5, factor, ROW_BYTES);
    _tile_loadd(6, factor, ROW_BYTES);
    _tile_loadd(7, factor, ROW_BYTES);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < REPEATS / 4; i++) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    _tile_stored(0, sum, ROW_BYTES);
    _tile_release();
    volatile float sink = sum[0];
    (void)sink;
    return rounds * REPEATS * (2 * ROWS * PAIRS * 2 * PAIRS);
}

const struct kernel_probe kernel_probe_of_amx = {.flops = flops};
