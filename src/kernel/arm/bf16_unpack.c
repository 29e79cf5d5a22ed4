/*
 * bf16_unpack.c - weights into panels of bf16, exactly.
 *
 * Every FP4 or FP8 value times a power of two is a bf16 number, unless it is below 2^-126 and may count as 0.
 *
 *   FP4   a table has the values with their exponents raised by BIAS and zeros as the word 0; BIAS less the scale's
 *         exponent is subtracted from the words' with unsigned saturation, which leaves zeros alone. Scales for which
 *         a result would leave the range of normal numbers, and NaN, go by way of the one truth
 *   FP8   becomes floats, is multiplied by its scale, and the upper halves are what is wanted
 *   BF16  is copied
 */
#include "kernel/arm/bf16_internal.h"

/* A row: where its codes and scales begin. */
struct row {
    const struct matrix *w;
    uint32_t index;
    const uint8_t *codes, *scales;
};

/* A unit of it, in order. */
struct unit {
    uint16x8_t w[UNIT / 8];
};

static struct row row_of(const struct matrix *w, uint32_t index) {
    size_t bits = w->format == FORMAT_FP4 ? 4 : w->format == FORMAT_FP8 ? 8 : 16;
    struct row r = {.w = w, .index = index, .codes = (const uint8_t *)w->data + index * (w->cols * bits / 8)};
    if (matrix_quantised(w))
        r.scales = (const uint8_t *)w->scale + (size_t)(index / w->block_rows) * w->scale_cols;
    return r;
}

/* The upper halves of eight floats. */
static inline uint16x8_t upper_halves(vf a, vf b) {
    return vuzp2q_u16((uint16x8_t)a, (uint16x8_t)b);
}

static struct unit unit_any(const struct row *r, uint32_t col) {
    float x[UNIT];
    struct unit u;
    matrix_decode(r->w, r->index, col, UNIT, x);
    for (int i = 0; i < UNIT / 8; i++)
        u.w[i] = upper_halves(v_load(x + 8 * i), v_load(x + 8 * i + LANES));
    return u;
}

/* ------------------------------------------------------------------------------------------------- FP4 */

/* BIAS is what brings 6 to the largest exponent; 0.5 has exponent 126, 6 has 129. */
enum { BIAS = 253, LEAST = 2, MOST = BIAS - 1 };

/* Columns 2i are in the low nibbles, 2i + 1 in the high ones. `scale`: which of the row's the unit has. */
static inline struct unit unit_fp4(const struct row *r, uint32_t col, size_t scale) {
    /* bytes of 0, 0.5, 1, 1.5, 2, 3, 4, 6 as bf16, to whose exponents BIAS - 127 = 126 is added: 63 to the high byte */
    const uint8x16_t high = {0, 0x7e, 0x7e, 0x7e, 0x7f, 0x7f, 0x7f, 0x7f, 0, 0xfe, 0xfe, 0xfe, 0xff, 0xff, 0xff, 0xff};
    const uint8x16_t low = {0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0, 0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0};
    uint8_t exponent = r->scales[scale];
    if (exponent < LEAST || exponent > MOST)
        return unit_any(r, col);
    struct unit u;
    uint16x8_t down = vdupq_n_u16((uint16_t)((BIAS - exponent) << 7));
    uint8x16_t codes = load_codes(r->codes + col / 2, CHUNK / 2), even = codes & 15, odd = codes >> 4;
    const uint8x16_t in_order[] = {vzip1q_u8(even, odd), vzip2q_u8(even, odd)};
    for (int i = 0; i < 2; i++) {
        uint8x16_t h = vqtbl1q_u8(high, in_order[i]), l = vqtbl1q_u8(low, in_order[i]);
        u.w[2 * i] = vqsubq_u16((uint16x8_t)vzip1q_u8(l, h), down);
        u.w[2 * i + 1] = vqsubq_u16((uint16x8_t)vzip2q_u8(l, h), down);
    }
    return u;
}

/* ---------------------------------------------------------------------------------------- FP8 and BF16 */

static inline struct unit unit_fp8(const struct row *r, uint32_t col, size_t scale) {
    vf factor = v_set(e8m0_decode(r->scales[scale]));
    struct unit u;
    for (int i = 0; i < 2; i++) {
        vf value[4];
        fp8_values(load_codes(r->codes + col + 16 * i, CHUNK), value);
        u.w[2 * i] = upper_halves(value[0] * factor, value[1] * factor);
        u.w[2 * i + 1] = upper_halves(value[2] * factor, value[3] * factor);
    }
    return u;
}

static inline struct unit unit_bf16(const struct row *r, uint32_t col, size_t scale) {
    struct unit u;
    (void)scale;
    for (int i = 0; i < UNIT / 8; i++)
        u.w[i] = (uint16x8_t)load_codes(r->codes + 2 * (size_t)col + 16 * i, 2 * CHUNK);
    return u;
}

/* ---------------------------------------------------------------------------------------------- panels */

/* A unit of two rows into its groups, which are PAIRS of them apart. */
static inline void store_pair(struct unit a, struct unit b, uint16_t *to) {
    for (int i = 0; i < UNIT / 8; i++, to += 2 * PAIRS * GROUP) {
        vst1q_u16(to, (uint16x8_t)vzip1q_u64((uint64x2_t)a.w[i], (uint64x2_t)b.w[i]));
        vst1q_u16(to + PAIRS * GROUP, (uint16x8_t)vzip2q_u64((uint64x2_t)a.w[i], (uint64x2_t)b.w[i]));
    }
}

ALWAYS_INLINE void unpack(const struct matrix *w, struct unit (*unit)(const struct row *, uint32_t, size_t),
                          uint32_t row, uint32_t height, uint32_t col, uint32_t cols, struct panel *p) {
    size_t scale[CHUNK / UNIT] = {0};
    for (uint32_t c = 0; c < cols && matrix_quantised(w); c += UNIT)
        scale[c / UNIT] = (col + c) / w->block_cols;
    for (uint32_t r = 0; r < height; r += 2) {
        struct row first = row_of(w, row + r), second = row_of(w, row + least(r + 1, height - 1));
        for (uint32_t c = 0; c < cols; c += UNIT)
            store_pair(unit(&first, col + c, scale[c / UNIT]), unit(&second, col + c, scale[c / UNIT]),
                       p->w[r / SLICE][c / COLUMNS][r % SLICE / 2]);
    }
}

void bf16_unpack(const struct matrix *w, uint32_t row, uint32_t height, uint32_t col, uint32_t cols, struct panel *p) {
    if (w->format == FORMAT_FP4)
        unpack(w, unit_fp4, row, height, col, cols, p);
    else if (w->format == FORMAT_FP8)
        unpack(w, unit_fp8, row, height, col, cols, p);
    else
        unpack(w, unit_bf16, row, height, col, cols, p);
}

bool bf16_takes(const struct matrix *w) {
    if (w->cols % UNIT)
        return false;
    if (matrix_quantised(w))
        return w->scale_format == SCALE_E8M0 && w->block_cols % UNIT == 0;
    return w->format == FORMAT_BF16;
}
