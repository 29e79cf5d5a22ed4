/*
 * train_internal.h - what all files of this room share: workers, the packed tokens of a step, shapes.
 *
 * A step works on T tokens: documents one behind the other, none of which sees another. A document, or the part of one
 * that fits, is a segment; whatever looks back along a text (attention, compression, convolution, n-grams) works
 * segment by segment, everything else on all T tokens alike.
 *
 * Letters of shapes are those of docs/numerics.md: T tokens of a step, D hidden, H streams, N heads, C head dim, E
 * experts, R rank, V vocabulary.
 */
#ifndef TRAIN_TRAIN_INTERNAL_H
#define TRAIN_TRAIN_INTERNAL_H

#include "base/base.h"
#include "checkpoint/checkpoint.h"
#include "kernel/kernel.h"

/* -------------------------------------------------------------------------------------------- workers */

/* team.c: a pool of threads, and scratch for each. */
struct team;

int team_open(uint32_t workers, struct team **team, struct sonde_error *e); /* 0: one for each processor */
void team_close(struct team *team);
uint32_t team_workers(const struct team *team);

/* work(context, worker, item) for items 0 to count - 1, each once, by any worker in any order. Does not nest. */
void team_each(struct team *team, size_t count, void (*work)(void *context, uint32_t worker, size_t item),
               void *context);

/* Sets memory to zero, by all workers. */
void team_clear(struct team *team, void *memory, size_t bytes);

/* A team of nobody but that worker, which may use it inside team_each(): where there are many small pieces of work, one
 * whole piece a worker is faster than all workers at each. It has no such teams itself. */
struct team *team_alone(struct team *team, uint32_t worker);

/* Scratch of at least `bytes` for a worker, aligned to 64, its own until the next call for the same worker; its
 * contents are undefined. Exhausted memory ends the program's run: team_failed() is true from then on and the scratch
 * is NULL. */
void *team_scratch(struct team *team, uint32_t worker, size_t bytes);
bool team_failed(const struct team *team);

/* The kernels of the level that the team works at: the best that runs here, unless it is told another, which must run.
 */
const struct kernel_table *team_kernels(const struct team *team);
void team_set_level(struct team *team, enum kernel_level level);

/* Tokens that are summed in one piece, so that results do not depend on workers. */
enum { BLOCK = 64 };

/* ----------------------------------------------------------------------------------------- the tokens */

struct segment {
    uint32_t begin, length; /* of tokens; segments follow each other and cover all of them */
};

struct batch {
    uint32_t tokens;        /* T */
    const int32_t *ids;     /* [T] */
    const int32_t *targets; /* [T] the id that follows; -1: nothing is to be learnt there */
    const struct segment *segments;
    uint32_t segment_count;
};

#endif
