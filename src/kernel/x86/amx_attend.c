/*
 * amx_attend.c - attention of one token, and index scores of several, on the tiles.
 *
 * Packed keys become bf16, which holds e4m3 and e2m1 times a power of two exactly; queries and the softmax's numerators
 * are rounded to it. Attention runs through CHUNK keys at a time, 32 heads at a time:
 *
 *   scores    S^T = K Q^T   A: keys as rows [16, 32 channels]        B: queries as pairs of channels [16 pairs, 16
 * heads] weights                 S^T has heads across, so the softmax is lane by lane; pairs of keys, turned, are P mix
 * O += P V      A: P [16 heads, 32 keys]                 B: the keys again, as pairs of keys [16, 16 channels]
 *
 * so keys are unpacked once into both layouts. From chunk to chunk each head keeps its largest score and the sum of
 * its numerators, and what is mixed already is scaled when a larger score comes; the sink is the first score seen.
 *
 * The order of channels within 32 is the one from which interleaving two keys gives 16 neighbouring channels: dwords
 * 0 1 8 9 2 3 10 11 and so on. Queries are packed in it too.
 */
#include "kernel/x86/avx512_internal.h"

#include "kernel/wide_math_internal.h"
#include "kernel/x86/amx_tiles_internal.h"
#include "kernel/x86/amx_unpack_internal.h"

enum {
    KEYS = 256, /* of a chunk */
    HEADS = 32, /* multiplied together */
    MOST_HEADS = 128,
    MOST_DIM = 512,
    QUERY_BYTES = 1 << 19 /* of packed ones that are scored together: what half the second-level cache has room for */
};

/* 128 columns of q as pairs in the order of channels above. */
#define PLACES(c)                                                                                                      \
    {                                                                                                                  \
        16 * (c), 16 * (c) + 1, 16 * (c) + 4, 16 * (c) + 5, 16 * (c) + 8, 16 * (c) + 9, 16 * (c) + 12, 16 * (c) + 13,  \
            16 * (c) + 2, 16 * (c) + 3, 16 * (c) + 6, 16 * (c) + 7, 16 * (c) + 10, 16 * (c) + 11, 16 * (c) + 14,       \
            16 * (c) + 15                                                                                              \
    }
static const struct pair_order channel_order = {false, {PLACES(0), PLACES(1), PLACES(2), PLACES(3)}};

/* --------------------------------------------------------------------------------------- unpack */

struct key_tables {
    __m512i low[2], high[2]; /* bytes of the bf16 of e4m3 codes, exponents raised by FP8_BIAS - 127 */
    __m512i bytes, dwords;   /* the order of channels, before two interleavings and of words */
    struct row_places places;
    uint32_t plain, dim; /* channels of e4m3; all */
};

static void key_tables_init(struct key_tables *t, const struct row_format *f) {
    _Alignas(64) uint8_t bytes[64];
    _Alignas(64) int32_t dwords[16];
    struct strip_tables unscaled;
    for (int i = 0; i < 16; i++) {
        int lane = i / 4, pair = i % 4;
        dwords[i] = pair < 2 ? 2 * lane + pair : 8 + 2 * lane + pair - 2;
        for (int b = 0; b < 2; b++) { /* the low half of a lane is its part of the first 32 channels */
            bytes[16 * lane + 2 * pair + b] = (uint8_t)(2 * dwords[i] + b);
            bytes[16 * lane + 8 + 2 * pair + b] = (uint8_t)(32 + 2 * dwords[i] + b);
        }
    }
    t->bytes = _mm512_load_si512(bytes);
    t->dwords = _mm512_load_si512(dwords);
    amx_fp8_tables(&unscaled, FP8_BIAS);
    memcpy(t->low, unscaled.low, sizeof(t->low));
    memcpy(t->high, unscaled.high, sizeof(t->high));
    t->places = row_places(f);
    t->dim = f->dim;
    t->plain = f->dim - f->rotated;
}

/* 64 codes to two vectors. */
INLINE void unpack_64(const struct key_tables *t, const uint8_t *codes, uint8_t scale, __m512i to[2]) {
    const __m512i sign = _mm512_set1_epi8((char)0x80), down = _mm512_set1_epi16((short)((FP8_BIAS - scale) << 7));
    __m512i x = _mm512_permutexvar_epi8(t->bytes, _mm512_loadu_si512(codes));
    __m512i low = _mm512_permutex2var_epi8(t->low[0], x, t->low[1]);
    __m512i high = _mm512_permutex2var_epi8(t->high[0], x, t->high[1]), zero = _mm512_setzero_si512();
    x = _mm512_and_si512(x, sign);
    for (int i = 0; i < 2; i++) { /* subtracting stops at 0, so 0 stays */
        __m512i words = i ? _mm512_unpackhi_epi8(low, high) : _mm512_unpacklo_epi8(low, high);
        __m512i signs = i ? _mm512_unpackhi_epi8(zero, x) : _mm512_unpacklo_epi8(zero, x);
        to[i] = _mm512_or_si512(_mm512_subs_epu16(words, down), signs);
    }
}

/* Any key: rounded from its floats. */
static void unpack_slowly(const struct key_tables *t, const struct row_format *f, const void *row, __m512i *to) {
    float x[MOST_DIM];
    row_decode(f, row, 0, f->dim, x);
    for (uint32_t c = 0; c < f->dim; c += 32) {
        __m512i words = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + c + 16), _mm512_loadu_ps(x + c));
        to[c / 32] = _mm512_permutexvar_epi32(t->dwords, words);
    }
}

INLINE void unpack_key(const struct key_tables *t, const struct row_format *f, const void *row, __m512i *to) {
    const uint8_t *codes = row, *scales = codes + t->places.scales, *rotated = codes + t->places.tail;
    const uint32_t blocks = t->plain / ROW_KEY_BLOCK;
    bool plain = true;
    for (uint32_t b = 0; b < blocks; b++)
        plain &= amx_scale_within(scales[b], FP8_LEAST, FP8_MOST);
    if (!plain) {
        unpack_slowly(t, f, row, to);
        return;
    }
    for (uint32_t b = 0; b < blocks; b++)
        unpack_64(t, codes + 64 * b, scales[b], to + 2 * b);
    for (uint32_t c = t->plain; c < t->dim; c += 32)
        to[c / 32] = _mm512_permutexvar_epi32(t->dwords, _mm512_loadu_si512(rotated + 2 * (size_t)(c - t->plain)));
}

/* `count` keys to rows [pair of 16 keys][step][2] and pairs of keys [16 channels][step of 32 keys]; up to the next
 * multiple of 32 they are 0. */
static void unpack_keys(const struct key_tables *t, const struct row_format *f, const void *const *keys, uint32_t count,
                        uint8_t *rows, uint8_t *pairs) {
    const uint32_t steps = f->dim / STEP, key_steps = (count + 31) / 32;
    for (uint32_t k = 0; k < 32 * key_steps; k += 2) {
        __m512i key[2][MOST_DIM / STEP];
        for (uint32_t i = 0; i < 2; i++)
            if (k + i < count)
                unpack_key(t, f, keys[k + i], key[i]);
            else
                memset(key[i], 0, sizeof(key[i]));
        uint8_t *row = rows + (size_t)k / 32 * steps * 2 * TILE + k / 16 % 2 * TILE + (size_t)k % 16 * 64;
        uint8_t *pair = pairs + (size_t)k / 32 * TILE + (size_t)k % 32 / 2 * 64;
        for (uint32_t s = 0; s < steps; s++, row += 2 * TILE, pair += 2 * (size_t)key_steps * TILE) {
            _mm512_store_si512(row, key[0][s]);
            _mm512_store_si512(row + 64, key[1][s]);
            _mm512_store_si512(pair, _mm512_unpacklo_epi16(key[0][s], key[1][s]));
            _mm512_store_si512(pair + key_steps * (size_t)TILE, _mm512_unpackhi_epi16(key[0][s], key[1][s]));
        }
    }
}

/* ------------------------------------------------------------------------------------- attention */

/* What is known of each head so far. */
struct softmax {
    float most[MOST_HEADS], sum[MOST_HEADS];
};

/* sums += a [step][2] times b [step] and that `apart` bytes on. */
static void multiply(const uint8_t *a, const uint8_t *b, size_t apart, uint32_t steps) {
    amx_load_step(a, b, apart);
    for (uint32_t s = 1; s <= steps; s++)
        amx_step(s < steps ? a + (size_t)s * 2 * TILE : NULL, b + (size_t)s * TILE, apart);
}

/* Scores [count, HEADS] to P [step of 32 keys][2 tiles of 16 heads]; what was mixed so far is brought to the new
 * largest scores. */
static void weigh_scores(const float *scores, uint32_t count, float scale, struct softmax *state, uint32_t head,
                         uint8_t *p, float *out, uint32_t dim) {
    for (uint32_t half = 0; half < 2; half++, head += 16, scores += 16, out += 16 * (size_t)dim, p += TILE) {
        vf before = v_load(state->most + head), most = before, sum = v_load(state->sum + head);
        for (uint32_t k = 0; k < count; k++)
            most = v_max(most, v_load(scores + (size_t)k * HEADS) * scale);
        vf shrink = v_exp(before - most);
        sum *= shrink;
        for (uint32_t k = 0; k < count; k += 32) {
            __m512i turned[16];
            for (uint32_t i = 0; i < 16; i++) {
                vf e[2] = {{0}, {0}};
                for (uint32_t j = 0; j < 2 && k + 2 * i + j < count; j++) {
                    e[j] = v_exp(v_load(scores + (size_t)(k + 2 * i + j) * HEADS) * scale - most);
                    sum += e[j];
                }
                __m512i even = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(e[0]));
                __m512i odd = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(e[1]));
                turned[i] = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
            }
            amx_transpose(turned);
            for (uint32_t i = 0; i < 16; i++)
                _mm512_store_si512(p + (size_t)k / 32 * 2 * TILE + (size_t)i * 64, turned[i]);
        }
        v_store(state->most + head, most);
        v_store(state->sum + head, sum);
        for (uint32_t i = 0; i < 16; i++)
            if (shrink[i] != 1) /* or is NaN */
                for (uint32_t c = 0; c < dim; c += LANES)
                    v_store(out + (size_t)i * dim + c, v_load(out + (size_t)i * dim + c) * shrink[i]);
    }
}

/* A chunk of `count` unpacked keys for HEADS heads from `head` on; q: their two packed tiles of heads. */
static void attend_chunk(const uint8_t *rows, const uint8_t *pairs, uint32_t count, const uint8_t *q, uint32_t dim,
                         float scale, struct softmax *state, uint32_t head, bool first, float *scores, uint8_t *p,
                         float *out) {
    const uint32_t steps = dim / STEP, key_steps = (count + 31) / 32;
    MEMORY_IS_WRITTEN();
    for (uint32_t k = 0; k < key_steps; k++) {
        amx_zero_sums();
        multiply(rows + (size_t)k * steps * 2 * TILE, q, (size_t)steps * TILE, steps);
        amx_keep_sums(scores + (size_t)k * 32 * HEADS, HEADS, 16);
    }
    MEMORY_IS_WRITTEN();
    weigh_scores(scores, count, scale, state, head, p, out, first ? 0 : dim);
    MEMORY_IS_WRITTEN();
    for (uint32_t c = 0; c < dim; c += 32) {
        if (first)
            amx_zero_sums();
        else
            amx_load_sums(out + c, dim, 16);
        multiply(p, pairs + (size_t)c / 16 * key_steps * TILE, key_steps * (size_t)TILE, key_steps);
        amx_keep_sums(out + c, dim, 16);
    }
    MEMORY_IS_WRITTEN();
}

bool amx_attends(const struct row_format *f, uint32_t heads) {
    return f->kind == ROW_KEY && f->dim % STRIP == 0 && f->dim <= MOST_DIM && f->rotated % 32 == 0 &&
           (f->dim - f->rotated) % ROW_KEY_BLOCK == 0 && heads % HEADS == 0;
}

/* Up to MOST_HEADS of them. */
static void attend_heads(const float *q, uint32_t heads, const struct row_format *f, const void *const *keys,
                         uint32_t count, const float *sink, float scale, float *out, uint8_t *scratch) {
    const uint32_t dim = f->dim, steps = dim / STEP;
    uint8_t *rows = scratch, *pairs = rows + (size_t)KEYS * MOST_DIM * 2, *packed = pairs + (size_t)KEYS * MOST_DIM * 2;
    uint8_t *p = packed + (size_t)MOST_HEADS * MOST_DIM * 2;
    float *scores = (float *)(void *)(p + (size_t)KEYS * HEADS * 2);
    struct key_tables tables;
    struct softmax state;
    key_tables_init(&tables, f);
    for (uint32_t h = 0; h < heads; h++) {
        state.most[h] = sink[h];
        state.sum[h] = 1;
    }
    for (uint32_t h = 0; h < heads; h += 16)
        for (uint32_t c = 0; c < dim; c += STRIP)
            amx_pack_strip(&channel_order, q + (size_t)h * dim + c, dim, 16, 16,
                           packed + ((size_t)h / 16 * steps + c / STEP) * TILE);
    _tile_loadconfig(&amx_configs[16]);
    for (uint32_t k = 0; k < count; k += KEYS) {
        uint32_t some = count - k < KEYS ? count - k : KEYS;
        unpack_keys(&tables, f, keys + k, some, rows, pairs);
        for (uint32_t h = 0; h < heads; h += HEADS)
            attend_chunk(rows, pairs, some, packed + (size_t)h / 16 * steps * TILE, dim, scale, &state, h, k == 0,
                         scores, p, out + (size_t)h * dim);
    }
    _tile_release();
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t c = 0; c < dim; c += LANES)
            v_store(out + (size_t)h * dim + c, v_load(out + (size_t)h * dim + c) * (1 / state.sum[h]));
}

void amx_attend(const float *q, uint32_t heads, const struct row_format *f, const void *const *keys, uint32_t count,
                const float *sink, float scale, float *out, uint8_t *scratch) {
    for (uint32_t h = 0; h < heads; h += MOST_HEADS)
        attend_heads(q + (size_t)h * f->dim, least(MOST_HEADS, heads - h), f, keys, count, sink + h, scale,
                     out + (size_t)h * f->dim, scratch);
}

/* ----------------------------------------------------------------------------------- index scores */

/* score of 16 keys: sum over heads of w max(match, 0); matches [16, heads]. A NaN stays. */
INLINE __m512 add_heads(const float *matches, const float *w, uint32_t heads) {
    __m512i partial[16];
    __m512 sum = _mm512_setzero_ps();
    for (int k = 0; k < 16; k++, matches += heads) {
        vf some = {0};
        for (uint32_t h = 0; h < heads; h += LANES)
            some = v_fma(v_load(w + h), v_max(v_set(0), v_load(matches + h)), some);
        partial[k] = (__m512i)some;
    }
    amx_transpose(partial);
    for (int k = 0; k < 16; k++)
        sum = _mm512_add_ps(sum, (__m512)partial[k]);
    return sum;
}

bool amx_scores_index(const struct row_format *f, uint32_t heads) {
    return f->kind == ROW_INDEX && f->dim % STRIP == 0 && f->dim <= MOST_DIM && heads % HEADS == 0 &&
           heads <= MOST_HEADS;
}

/* Up to 32 keys from `from` on to rows [step][2]. Returned is a bit for each key that has a scale which
 * amx_unpack_row() does not take. */
static uint32_t unpack_index(const struct strip_tables *t, const struct row_format *f, size_t bytes,
                             const uint8_t *from, uint32_t count, uint8_t *rows) {
    uint32_t odd = 0;
    for (uint32_t k = 0; k < 32; k++) {
        uint8_t *row = rows + k / 16 * TILE + (size_t)k % 16 * 64;
        const uint8_t *key = from + k * bytes, *scales = key + f->dim / 2;
        for (uint32_t s = 0; s < f->dim / STRIP; s++, row += (size_t)STEPS * 2 * TILE)
            if (k < count)
                amx_unpack_row(t, FORMAT_FP4, key + (size_t)s * 64, scales + (size_t)s * 4, row, 2 * TILE);
        for (uint32_t i = 0; i < f->dim / 32 && k < count; i++)
            odd |= (uint32_t)!amx_scale_within(scales[i], FP4_LEAST, FP4_MOST) << k;
    }
    return odd;
}

/* scores of up to 32 keys for one row of queries: `rows` are the keys' tiles, `packed` the queries'. */
static void score_keys(const uint8_t *rows, const uint8_t *packed, uint32_t steps, const float *w, uint32_t heads,
                       uint32_t count, float *matches, float *scores) {
    MEMORY_IS_WRITTEN();
    for (uint32_t h = 0; h < heads; h += HEADS) {
        amx_zero_sums();
        multiply(rows, packed + (size_t)h / 16 * steps * TILE, (size_t)steps * TILE, steps);
        amx_keep_sums(matches + h, heads, 16);
    }
    MEMORY_IS_WRITTEN();
    for (uint32_t i = 0; i < count; i += 16)
        _mm512_mask_storeu_ps(scores + i, (__mmask16)(count - i < 16 ? (1u << (count - i)) - 1 : 0xffff),
                              add_heads(matches + (size_t)i * heads, w, heads));
}

/* Of rows whose packed queries fit their room. */
static void score_rows(const float *q, const float *w, uint32_t rows, uint32_t heads, const struct row_format *f,
                       const uint8_t *keys, uint32_t count, float *scores, size_t ldscores, uint8_t *scratch) {
    const uint32_t steps = f->dim / STEP, all = rows * heads;
    const size_t bytes = row_bytes(f);
    uint8_t *packed = scratch, *tiles = packed + QUERY_BYTES;
    float *matches = (float *)(void *)(tiles + (size_t)32 * MOST_DIM * 2);
    struct strip_tables tables;
    amx_tables_init(&tables, FORMAT_FP4);
    for (uint32_t h = 0; h < all; h += 16)
        for (uint32_t c = 0; c < f->dim; c += STRIP)
            amx_pack_strip(amx_order(FORMAT_FP4), q + (size_t)h * f->dim + c, f->dim, 16, 16,
                           packed + ((size_t)h / 16 * steps + c / STEP) * TILE);
    _tile_loadconfig(&amx_configs[16]);
    for (uint32_t k = 0; k < count; k += 32) {
        const uint32_t some = least(32, count - k);
        const uint8_t *from = keys + k * bytes;
        uint32_t odd = unpack_index(&tables, f, bytes, from, some, tiles);
        for (uint32_t r = 0; r < rows; r++)
            score_keys(tiles, packed + (size_t)r * heads * f->dim * 2, steps, w + (size_t)r * heads, heads, some,
                       matches, scores + r * ldscores + k);
        for (uint32_t i = 0; odd; i++, odd >>= 1) /* whatever keys are beside them */
            if (odd & 1)
                index_scores_avx512(q, w, rows, heads, f, from + i * bytes, 1, scores + k + i, ldscores);
    }
    _tile_release();
}

void amx_index_scores(const float *q, const float *w, uint32_t rows, uint32_t heads, const struct row_format *f,
                      const void *keys, uint32_t count, float *scores, size_t ldscores, uint8_t *scratch) {
    const size_t width = (size_t)heads * f->dim;
    const uint32_t most = (uint32_t)(QUERY_BYTES / (2 * width));
    for (uint32_t r = 0; r < rows; r += most)
        score_rows(q + r * width, w + (size_t)r * heads, least(most, rows - r), heads, f, keys, count,
                   scores + r * ldscores, ldscores, scratch);
}
