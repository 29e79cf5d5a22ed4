/*
 * synth_fill.c - random numbers in the formats of a checkpoint, at the speed of a disk.
 *
 * The generator is splitmix64 (Steele, Lea and Flood 2014) read at any place: word i is the mixed value of
 * key + (i + 1) * gamma. Two multiplications give eight FP4 or FP8 bytes or one normal number.
 */
#include <math.h>
#include <string.h>

#include "synth_internal.h"

#define GAMMA UINT64_C(0x9e3779b97f4a7c15)

static inline uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t word(uint64_t key, uint64_t i) {
    return mix(key + (i + 1) * GAMMA);
}

uint64_t synth_key(uint64_t seed, const char *name) {
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
    return mix(mix(seed + GAMMA) ^ h);
}

/* ---------------------------------------------------------------------------------------- scales */

/*
 * Mean squares of the codes: E2M1 over 0 0.5 1 1.5 2 3 4 6; E4M3 over the exponents 2^1 to 2^4, of which each
 * has (1 + m/8)^2 for m = 0 to 7.
 */
#define FP4_MEAN_SQUARE (68.5 / 8)
#define FP8_MEAN_SQUARE (85 * (137.5 / 64))

/* With scale 2^x for a share 1 - p of the blocks and 2^(x+1) for the rest, squares are scaled by 4^x (1 + 3p). */
void synth_scale_for(struct synth_tensor *scale, enum synth_recipe codes, double std) {
    double ratio = std * std / (codes == SYNTH_FP4 ? FP4_MEAN_SQUARE : FP8_MEAN_SQUARE);
    int x = (int)floor(log2(ratio) / 2);
    double p = (ldexp(ratio, -2 * x) - 1) / 3;
    scale->recipe = SYNTH_SCALE;
    scale->exponent = (uint8_t)(127 + x);
    scale->chance = (uint8_t)min_u64(255, (uint64_t)(p * 256 + 0.5));
}

/* --------------------------------------------------------------------------------------- recipes */

/* Variance 1 about 0, from the four uniform numbers of a word. */
static inline float normal(uint64_t w) {
    int sum = (int)(w & 0xffff) + (int)(w >> 16 & 0xffff) + (int)(w >> 32 & 0xffff) + (int)(w >> 48);
    return (float)(sum - 2 * 0xffff) * (1 / 37837.227f);
}

static void fill_bf16(const struct synth_tensor *t, uint64_t at, size_t count, uint8_t *out) {
    for (size_t i = 0; i < count / 2; i++) {
        uint16_t h = bf16_encode(t->mean + t->std * normal(word(t->key, at / 2 + i)));
        memcpy(out + 2 * i, &h, sizeof(h));
    }
}

static void fill_f32(const struct synth_tensor *t, uint64_t at, size_t count, uint8_t *out) {
    for (size_t i = 0; i < count / 4; i++) {
        float x = t->mean + t->std * normal(word(t->key, at / 4 + i));
        memcpy(out + 4 * i, &x, sizeof(x));
    }
}

/* Eight bytes a word, of which `keep` stay as they are and `set` are ones. */
static void fill_codes(const struct synth_tensor *t, uint64_t at, size_t count, uint64_t keep, uint64_t set,
                       uint8_t *out) {
    for (size_t i = 0; i < (count + 7) / 8; i++) {
        uint64_t w = (word(t->key, at / 8 + i) & keep) | set;
        memcpy(out + 8 * i, &w, sizeof(w));
    }
}

static void fill_scale(const struct synth_tensor *t, uint64_t at, size_t count, uint8_t *out) {
    fill_codes(t, at, count, UINT64_MAX, 0, out);
    for (size_t i = 0; i < count; i++)
        out[i] = (uint8_t)(t->exponent + (out[i] < t->chance));
}

/* k different numbers below n, by Floyd's sampling: draws among growing ranges, a repetition is replaced by the
 * range's last number, which cannot have come before. */
static void draw_route(const struct synth_tensor *t, uint64_t row, int64_t *out) {
    for (uint32_t i = 0; i < t->active; i++) {
        uint32_t range = t->experts - t->active + i + 1;
        uint64_t w = word(t->key, row * t->active + i);
        int64_t pick = (int64_t)((w >> 32) * range >> 32);
        for (uint32_t j = 0; j < i; j++)
            if (out[j] == pick)
                pick = range - 1;
        out[i] = pick;
    }
}

static void fill_routes(const struct synth_tensor *t, uint64_t at, size_t count, uint8_t *out) {
    size_t row_bytes = t->active * sizeof(int64_t);
    for (size_t i = 0; i < count / row_bytes; i++)
        draw_route(t, at / row_bytes + i, (int64_t *)(void *)(out + i * row_bytes));
}

size_t synth_piece(const struct synth_tensor *t, size_t room) {
    size_t unit = t->recipe == SYNTH_ROUTES ? t->active * sizeof(int64_t) : sizeof(uint64_t);
    return room / unit * unit;
}

void synth_fill(const struct synth_tensor *t, uint64_t at, size_t count, uint8_t *out) {
    switch (t->recipe) {
    case SYNTH_NORMAL:
        (t->dtype == DTYPE_BF16 ? fill_bf16 : fill_f32)(t, at, count, out);
        break;
    case SYNTH_FP8: /* sign, exponent field 8 to 11, mantissa */
        fill_codes(t, at, count, UINT64_C(0x9f9f9f9f9f9f9f9f), UINT64_C(0x4040404040404040), out);
        break;
    case SYNTH_FP4:
        fill_codes(t, at, count, UINT64_MAX, 0, out);
        break;
    case SYNTH_SCALE:
        fill_scale(t, at, count, out);
        break;
    case SYNTH_ROUTES:
        fill_routes(t, at, count, out);
        break;
    }
}
