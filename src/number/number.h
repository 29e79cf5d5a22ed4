/*
 * number.h - the one truth about rounding and decoding.
 *
 * Every number format a V4 checkpoint stores or its forward pass rounds to, scalar and exact:
 *
 *   bf16   1-8-7   the top half of a float32
 *   f16    1-5-10  IEEE half
 *   e4m3   1-4-3   float8 "fn": no infinities, 0x7f and 0xff are NaN, largest 448, smallest 2^-9
 *   e2m1   1-2-1   float4: 0 0.5 1 1.5 2 3 4 6 and their negatives; two a byte, even column low nibble
 *   e8m0   0-8-0   a power of two: byte b is 2^(b-127), 255 is NaN
 *
 * Rounding is to nearest, ties to even, and saturates at the largest finite value. The rules are OCP MX
 * v1.0 and OFP8 v1.0; tests hold them, bit for bit, to the oracle. Kernels at every level must reproduce
 * these functions; docs/numerics.md says where each is applied.
 */
#ifndef NUMBER_NUMBER_H
#define NUMBER_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* -------------------------------------------------------------------------------------- dtypes */

/* X(name, bytes): the dtypes of safetensors, spelled as there. */
#define DTYPES(X)                                                                                                      \
    X(F64, 8)                                                                                                          \
    X(F32, 4)                                                                                                          \
    X(F16, 2) X(BF16, 2) X(F8_E4M3, 1) X(F8_E8M0, 1) X(I64, 8) X(I32, 4) X(I16, 2) X(I8, 1) X(U8, 1) X(BOOL, 1)

enum dtype {
#define DTYPE_ENUM(name, bytes) DTYPE_##name,
    DTYPES(DTYPE_ENUM)
#undef DTYPE_ENUM
        DTYPE_COUNT
};

size_t dtype_bytes(enum dtype d);
const char *dtype_name(enum dtype d);
/* False if the spelling is unknown. */
bool dtype_parse(const char *name, size_t length, enum dtype *d);

/* -------------------------------------------------------------------------------- one at a time */

static inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}

static inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

static inline float bf16_decode(uint16_t h) {
    return bits_float((uint32_t)h << 16);
}

/* NaN stays NaN (quiet); all else is nearest-even, overflow becomes infinity. */
static inline uint16_t bf16_encode(float x) {
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_round(float x) {
    return bf16_decode(bf16_encode(x));
}

float f16_decode(uint16_t h);

/* value of every code; NaN at 0x7f and 0xff */
extern const float e4m3_value[256];
/* value of every code, sign in bit 3 */
extern const float e2m1_value[16];

/* Nearest code, saturating at 448 (infinities too); NaN gives 0x7f with the sign of x. */
uint8_t e4m3_encode(float x);
/* Nearest code, saturating at 6; NaN gives 6 with the sign of x, having no code of its own. */
uint8_t e2m1_encode(float x);

static inline float e8m0_decode(uint8_t b) {
    return b == 255 ? bits_float(0x7fc00000u) : bits_float(b ? (uint32_t)b << 23 : 0x00400000u);
}

/* x a power of two from 2^-127 to 2^127. */
static inline uint8_t e8m0_encode(float x) {
    return (uint8_t)(float_bits(x) >> 23);
}

/* Smallest power of two >= x, for finite x > 0, x <= 2^127. */
float pow2_ceil(float x);

/* ------------------------------------------------------------------------------- block quantisers */

/*
 * Scales of the activation quantisers, from the block's largest magnitude (Source: released kernels):
 *   e4m3   2^ceil(log2(max(amax, 1e-4) / 448))
 *   e2m1   2^ceil(log2(max(amax, 6 * 2^-126) / 6))
 * computed with float32 products as the oracle does.
 */
float e4m3_scale(float amax);
float e2m1_scale(float amax);

/* Quantise and come back, in place: what storing `count` values in blocks of `block` does to them. count is a
 * multiple of block. A block with a NaN or an infinity becomes NaN. */
void e4m3_fake(float *x, size_t count, size_t block);
void e2m1_fake(float *x, size_t count, size_t block);
/* Likewise e2m1 with an e4m3 scale: that nearest to max(amax, 6 * 2^-9) / 6. */
void e2m1_e4m3_fake(float *x, size_t count, size_t block);

/* ------------------------------------------------------------------------------------- matrices */

/* How the elements of a weight matrix are stored, and how its block scales are. */
enum format { FORMAT_F32, FORMAT_BF16, FORMAT_F16, FORMAT_FP8, FORMAT_FP4 };
enum scale_format { SCALE_NONE, SCALE_E8M0, SCALE_F32 };

/*
 * A weight matrix [rows, cols], row-major, as it lies in a mapped file: borrowed, read-only.
 *
 *   FP8   a byte an element; scale[r / block_rows][c / block_cols], scale_cols of them a row; e8m0 as a rule,
 *         F32 in the released Base checkpoints
 *   FP4   two elements a byte, even column in the low nibble, rows of cols/2 bytes; scales likewise, with
 *         block_rows 1 and block_cols 32
 *   else  scale is NULL
 *
 * data may be unaligned: safetensors promises 8 bytes only for the header's end, and nothing if the
 * writer did not pad.
 */
struct matrix {
    enum format format;
    uint32_t rows, cols;
    const void *data;
    enum scale_format scale_format;
    const void *scale;
    uint32_t block_rows, block_cols, scale_cols;
};

/* Elements [col, col + count) of a row as float32: exact, except that subnormal products of FP8 or FP4
 * with scales near 2^-127 round as a float32 product does. For FP4 col is even. */
void matrix_decode(const struct matrix *m, uint32_t row, uint32_t col, uint32_t count, float *out);

/* Bytes of storage, scales included. */
uint64_t matrix_bytes(const struct matrix *m);

/* True for FP8 and FP4: inputs of such matrices are quantised in `official` precision. */
static inline bool matrix_quantised(const struct matrix *m) {
    return m->format == FORMAT_FP8 || m->format == FORMAT_FP4;
}

/* ------------------------------------------------------------------------------ rows of the cache */

/*
 * How a sequence remembers a vector of `dim` channels, of which the last `rotated` carry its position:
 *
 *   F32       float [dim]
 *   KEY       e4m3 [n] | e8m0 [ceil(n / 64)] | zeros to a multiple of 2 | bf16 [rotated],  n = dim - rotated
 *   KEY_F32   e4m3 [n] | e8m0 [ceil(n / 64)] | zeros to a multiple of 4 | float [rotated]
 *   INDEX     e2m1 [dim], two a byte | e8m0 [ceil(dim / 32)]
 *
 * so a KEY of 512 channels, 64 of them rotated, takes 584 bytes and an index key of 128 takes 68. What is read is what
 * e4m3_fake(), bf16_round() and e2m1_fake() make of what was stored, bit for bit; a last block may be shorter. A block
 * that is not finite has the scale 255 and codes of 0.
 */
enum row_kind { ROW_F32, ROW_KEY, ROW_KEY_F32, ROW_INDEX };
enum { ROW_KEY_BLOCK = 64, ROW_INDEX_BLOCK = 32 };

struct row_format {
    enum row_kind kind;
    uint32_t dim, rotated; /* rotated: of keys only */
};

/* Where the parts of a row are. Each part is a matrix of one row, here without its data. */
struct row_places {
    struct matrix plain, rotated; /* the channels before the rotated ones, of F32 and INDEX all; those */
    size_t scales, tail;          /* offsets in bytes: of plain's scales, of the rotated channels; plain is first */
    size_t bytes;
};

struct row_places row_places(const struct row_format *f);
size_t row_bytes(const struct row_format *f);
void row_encode(const struct row_format *f, const float *x, void *row);
/* Channels [col, col + count); for INDEX col is even. */
void row_decode(const struct row_format *f, const void *row, uint32_t col, uint32_t count, float *out);

#endif
