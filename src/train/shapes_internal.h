/* shapes_internal.h - shapes of the passes that work on each token by itself, whichever type they compute in. */
#ifndef TRAIN_SHAPES_INTERNAL_H
#define TRAIN_SHAPES_INTERNAL_H

#include "train/train_internal.h"

/* route.c */
struct route_shape {
    uint32_t tokens, dim, experts, active; /* T, D, E, k */
    enum scoring scoring;
    float scale;
};

static inline size_t route_balance_work(const struct route_shape *s, uint32_t segment_count) {
    return (size_t)segment_count * s->experts + s->tokens;
}

/* experts.c */
struct experts_shape {
    uint32_t tokens, dim, experts, active; /* T, D, E, k */
    uint32_t inter, shared_inter;          /* channels inside an expert and inside the shared one, 0: there is none */
    float limit;                           /* of gate and up; 0: no clamp */
};

/* Numbers of work that experts_forward() and experts_backward() want. */
static inline size_t experts_work(const struct experts_shape *s) {
    return (size_t)s->tokens * (2 * (size_t)s->dim + 2 * max_u64(s->inter, s->shared_inter));
}

/* loss.c: tokens whose logits exist at one time. */
enum { LOSS_CHUNK = 16 * BLOCK };

struct loss_shape {
    uint32_t tokens, dim, vocab; /* T, D, V */
};

/* Numbers of work that loss() wants. */
static inline size_t loss_work(const struct loss_shape *s) {
    return LOSS_CHUNK * ((size_t)s->vocab + 2 * (size_t)s->dim);
}

struct loss_sum {
    double loss;    /* of all counted tokens, in nats */
    uint64_t count; /* tokens that have a target */
};

/* Numbers of work that embed_backward() wants. */
static inline size_t embed_work(uint32_t vocab, uint32_t tokens) {
    return (size_t)vocab + 1 + tokens;
}

#endif
