/*
 * v41_hash.c - the multipliers that Engram of DeepSeek-V4.1 hashes by.
 *
 * The released code draws them from numpy.random.default_rng(10007 * layer).integers(0, bound): a SeedSequence spreads
 * the seed over 256 bits, PCG64 (XSL-RR 128/64) begins from these, and Lemire's method makes its 64 bits a number below
 * the bound. No file holds them, so this is part of the model.
 */
#include "model/model.h"

/* ------------------------------------------------------------------------------------- seed sequence */

enum { POOL = 4, WORDS = 8 };

/* One round of the hash, whose constant goes on. */
static uint32_t hash_word(uint32_t value, uint32_t *constant, uint32_t multiplier) {
    value ^= *constant;
    *constant *= multiplier;
    value *= *constant;
    return value ^ value >> 16;
}

static uint32_t mix_words(uint32_t x, uint32_t y) {
    uint32_t mixed = 0xca01f9ddu * x - 0x4973f715u * y;
    return mixed ^ mixed >> 16;
}

/* words [WORDS] of a seed below 2^64. */
static void seed_words(uint64_t seed, uint32_t *words) {
    const uint32_t entropy[POOL] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t pool[POOL], constant = 0x43b0d7e5u;
    for (int i = 0; i < POOL; i++)
        pool[i] = hash_word(entropy[i], &constant, 0x931e8875u);
    for (int from = 0; from < POOL; from++)
        for (int to = 0; to < POOL; to++)
            if (from != to)
                pool[to] = mix_words(pool[to], hash_word(pool[from], &constant, 0x931e8875u));
    constant = 0x8b51f9ddu;
    for (int i = 0; i < WORDS; i++)
        words[i] = hash_word(pool[i % POOL], &constant, 0x58f38dedu);
}

/* ---------------------------------------------------------------------------------------------- PCG64 */

__extension__ typedef unsigned __int128 wide;

struct pcg {
    wide state, increment;
};

static wide join(uint64_t high, uint64_t low) {
    return (wide)high << 64 | low;
}

static uint64_t pcg_next(struct pcg *p) {
    p->state = p->state * join(0x2360ed051fc65da4u, 0x4385df649fccf645u) + p->increment;
    uint64_t folded = (uint64_t)(p->state >> 64) ^ (uint64_t)p->state;
    unsigned turn = (unsigned)(p->state >> 122);
    return folded >> turn | folded << (-turn & 63);
}

static void pcg_init(struct pcg *p, uint64_t seed) {
    uint32_t words[WORDS];
    uint64_t part[WORDS / 2];
    seed_words(seed, words);
    for (int i = 0; i < WORDS / 2; i++)
        part[i] = words[2 * i] | (uint64_t)words[2 * i + 1] << 32;
    p->increment = join(part[2], part[3]) << 1 | 1;
    p->state = 0;
    pcg_next(p);
    p->state += join(part[0], part[1]);
    pcg_next(p);
}

/* A number below bound, which is above 2^32: NumPy takes another way below that. */
static uint64_t pcg_below(struct pcg *p, uint64_t bound) {
    uint64_t rest = -bound % bound;
    wide product;
    do
        product = (wide)pcg_next(p) * bound;
    while ((uint64_t)product < rest);
    return (uint64_t)(product >> 64);
}

void engram_v41_multipliers(uint32_t layer, uint32_t ids, uint32_t orders, int64_t *multipliers) {
    struct pcg p;
    pcg_init(&p, (uint64_t)10007 * layer);
    for (uint32_t i = 0; i < orders; i++)
        multipliers[i] = (int64_t)(2 * pcg_below(&p, (uint64_t)INT64_MAX / ids / 2) + 1);
}
