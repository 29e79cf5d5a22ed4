/*
 * neon_products.c - decoding for the products of the neon level (neon_decode_internal.h).
 *
 * A 16-byte load is a block: 32 columns of FP4, which share a scale, 16 of FP8, 8 of BF16. Thirty-two registers hold
 * the sums of 16 rows times 6 tokens. One token is neon_stream.c's where rows are whole blocks.
 */
#include "kernel/arm/neon_decode_internal.h"

enum { VECTORS = 4, TILE = 6, FEW_TOKENS = 4 };
#define MORE_FEW_COUNTS(X)

static inline vf v_load_f16(const uint8_t *p) {
    return vcvt_f32_f16((float16x4_t)vld1_u8(p));
}

static inline vi v_load_bytes(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof(four));
    return (vi)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}

static inline vi v_load_words(const uint8_t *p) {
    return (vi)vmovl_u16((uint16x4_t)vld1_u8(p));
}

ALWAYS_INLINE void unpack_fp4(vi x, vf out[8]) {
    fp4_values((uint8x16_t)x, out);
}

/* The first bytes of all dwords come first. */
ALWAYS_INLINE void unpack_fp8(vi x, vf out[4]) {
    const uint8x16_t turn = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    fp8_values(vqtbl1q_u8((uint8x16_t)x, turn), out);
}

/* ------------------------------------------------------------------------------------------ few tokens */

static void order_fp4(const float *x, float *out) {
    fp4_order(x, out);
}

static void order_fp8(const float *x, float *out) {
    memcpy(out, x, FP8_BLOCK * sizeof(float));
}

static void order_bf16(const float *x, float *out) {
    memcpy(out, x, BF16_BLOCK * sizeof(float));
}

/* Up to four blocks, whose scales are `scale`. */
ALWAYS_INLINE void four_fp4(const uint8_t *codes, vf scale, const size_t blocks, const float *x, size_t apart,
                            size_t ahead, const int tokens, vf sums[]) {
    for (size_t b = 0; b < blocks; b++) {
        vf value[8];
        fp4_values(load_codes(codes + b * 16, ahead), value);
        for (int t = 0; t < tokens; t++) {
            const float *in = x + t * apart + b * FP4_BLOCK;
            vf part = inner_product(value, in, 8);
            sums[t] = v_fma(part, v_set(scale[b]), sums[t]);
        }
    }
}

ALWAYS_INLINE void row_fp4(const uint8_t *codes, const uint8_t *scales, size_t blocks, const float *x, size_t apart,
                           size_t ahead, const int tokens, vf sums[]) {
    size_t b = 0;
    for (; b + 4 <= blocks; b += 4)
        four_fp4(codes + b * 16, four_scales(scales + b), 4, x + b * FP4_BLOCK, apart, ahead, tokens, sums);
    for (; b < blocks; b++)
        four_fp4(codes + b * 16, v_set(e8m0_decode(scales[b])), 1, x + b * FP4_BLOCK, apart, ahead, tokens, sums);
}

ALWAYS_INLINE void row_fp8(const uint8_t *codes, const float *scales, size_t blocks, const float *x, size_t apart,
                           size_t ahead, const int tokens, vf sums[]) {
    uint8x16_t most = {0};
    for (size_t b = 0; b < blocks; b++) {
        uint8x16_t c = load_codes(codes + b * 16, ahead);
        vf value[4];
        fp8_over_256(c, value);
        most = vmaxq_u8(most, c | 0x80);
        for (int t = 0; t < tokens; t++) {
            const float *in = x + t * apart + b * FP8_BLOCK;
            vf part = inner_product(value, in, 4);
            sums[t] = v_fma(part * 256, v_set(scales[b]), sums[t]);
        }
    }
    for (int t = 0; t < tokens; t++)
        sums[t] = nan_if(most, sums[t]);
}

ALWAYS_INLINE void load_bf16(const uint8_t *codes, size_t ahead, vf out[2]) {
    bf16_values(load_codes(codes, ahead), out);
}

#define STREAM_TAKES stream_takes_neon
#define STREAM       stream_neon
#include "kernel/wide_products_internal.h"
