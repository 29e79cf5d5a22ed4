/*
 * probe_bf16.c - how fast the bf16 level could be: BFMMLA on registers alone.
 *
 * Twelve sums, as the level's tiles have, cover the latency of one product.
 */
#include <arm_neon.h>

#include "kernel/probe_internal.h"

enum { SUMS = 12, SQUARE = 4, TERMS = 4 };

static uint64_t flops(uint64_t rounds) {
    uint16_t factor[8];
    float32x4_t sum[SUMS], all = vdupq_n_f32(0);
    for (int i = 0; i < 8; i++)
        factor[i] = bf16_encode((float)(i - 4) / 8);
    bfloat16x8_t x = vreinterpretq_bf16_u16(vld1q_u16(factor));
    for (int i = 0; i < SUMS; i++)
        sum[i] = vdupq_n_f32((float)i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++)
            sum[i] = vbfmmlaq_f32(sum[i], x, x);
    for (int i = 0; i < SUMS; i++)
        all += sum[i];
    volatile float sink = vaddvq_f32(all);
    (void)sink;
    return rounds * SUMS * SQUARE * TERMS * 2;
}

const struct kernel_probe kernel_probe_of_bf16 = {.flops = flops};
