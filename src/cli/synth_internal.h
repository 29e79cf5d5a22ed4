/*
 * synth_internal.h - random checkpoints: which tensors there are, what they hold, and in which shard.
 *
 * A plan is made from a config.json that is put together first and read by shape_parse() like any other: the
 * shapes of the tensors follow from what was read, so config and tensors cannot disagree.
 *
 * Numbers come from a counter: word i of a tensor is a function of the seed, the tensor's name and i alone. A
 * part of a tensor can be made without what comes before it, and a layer holds the same numbers whatever the
 * number of layers around it.
 */
#ifndef CLI_SYNTH_INTERNAL_H
#define CLI_SYNTH_INTERNAL_H

#include "checkpoint/checkpoint.h"

/* What a tensor is filled with. `std` and `mean` are of the weights that result. */
enum synth_recipe {
    SYNTH_NORMAL, /* BF16 or F32 about `mean`: a sum of four uniform numbers, so within 3.5 standard deviations */
    SYNTH_FP8,    /* E4M3 codes of magnitude 2 to 30, evenly over exponents; neither zero nor NaN */
    SYNTH_FP4,    /* pairs of E2M1 codes, all alike frequent */
    SYNTH_SCALE,  /* E8M0: one of two neighbouring powers of two, so mixed that weights have the wanted std */
    SYNTH_ROUTES, /* I64: rows of `active` different numbers below `experts` */
};

struct synth_tensor {
    char name[64];
    enum dtype dtype;
    enum synth_recipe recipe;
    uint32_t rank;
    uint64_t dims[2];
    uint64_t bytes, key;
    float mean, std;          /* NORMAL */
    uint8_t exponent, chance; /* SCALE: the lower of the two codes; the other comes in chance/256 of cases */
    uint32_t experts, active; /* ROUTES */
    uint32_t shard, order;
};

struct synth_request {
    int kind;                        /* index among SYNTH_KINDS */
    uint32_t layers, experts, vocab; /* 0: what the kind has */
    bool mtp;
    uint64_t seed;
};

#define SYNTH_KINDS "flash|pro|tiny"

struct synth_plan {
    char *config; /* config.json */
    char *index;  /* model.safetensors.index.json */
    struct synth_tensor *tensors;
    size_t count;    /* sorted by shard; in each, wider elements first, so that all lie aligned */
    uint32_t shards; /* at least 1 */
    uint64_t bytes;  /* of all tensors */
};

/* Fewest experts that a kind can have: as many as a token is sent to. */
uint32_t synth_least_experts(int kind);

#define SYNTH_EXPERTS_MOST (1 << 18) /* of all layers together; a plan's memory grows with them */

/* On success synth_plan_release() is owed. Errors: ARGUMENT (too many experts), MEMORY, those of shape_parse(). */
int synth_plan_init(struct synth_plan *plan, const struct synth_request *request, struct sonde_error *e);
void synth_plan_release(struct synth_plan *plan);

/* "model-00001-of-00004.safetensors" for shard 0 of 4, into b, which is cleared first. */
void synth_shard_name(struct buf *b, uint32_t shard, uint32_t shards);

/* The scales of FP8 or FP4 codes with which weights have standard deviation std. */
void synth_scale_for(struct synth_tensor *scale, enum synth_recipe codes, double std);

/* Where the numbers of a tensor come from. */
uint64_t synth_key(uint64_t seed, const char *name);

/* The most bytes that synth_fill() can make at a time, at most `room`: whole words, whole rows of routes. */
size_t synth_piece(const struct synth_tensor *t, size_t room);

/* Bytes [at, at + count) of t. `at` is a multiple of synth_piece(t, any); out is aligned to 8 and has room for
 * count rounded up to 8. */
void synth_fill(const struct synth_tensor *t, uint64_t at, size_t count, uint8_t *out);

#endif
