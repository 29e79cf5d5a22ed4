/*
 * train.h - `sonde train`: a model of the V4 architecture, from nothing or from a checkpoint, on processors.
 *
 *     train_open(path of a config, resume, &run, &error)    reads config and data, makes the network, tells its memory
 *     train_run(run, &progress, &error)                     until all steps are done, interrupted, or a failure
 *     train_close(run)
 *
 * docs/training.md describes configs and what a run leaves.
 */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include "base/base.h"

struct train_run;

struct train_progress {
    uint64_t step, steps;
    double loss, tokens_per_second, seconds_left, peak_share; /* peak_share: of the measured BF16 peak; 0: unknown */
    double validation;                                        /* last, nats a token; 0: none yet */
};

struct train_callbacks {
    void *context;
    void (*progress)(void *context, const struct train_progress *p); /* after each step */
    void (*event)(void *context, const char *line);                  /* something to say: a line */
    bool (*interrupted)(void *context);                              /* asked between steps */
};

/* What a run will take, in bytes, known before it begins. */
struct train_memory {
    uint64_t parameters, gradients, moments, activations, total;
};

/* resume: goes on from the run's last state; without it a directory with a state is refused. Errors: those of the
 * config, the data, the tokenizer, the checkpoint it begins from; MEMORY also where more is wanted than the machine
 * has; ARGUMENT. */
int train_open(const char *config, bool resume, const struct train_callbacks *callbacks, struct train_run **run,
               struct sonde_error *e);
void train_memory(const struct train_run *run, struct train_memory *memory);
/* An interrupted run is saved first and gives CANCELLED. Errors: IO, NUMERIC (a spike, where it is to stop). */
int train_run(struct train_run *run, struct sonde_error *e);
void train_close(struct train_run *run);

#endif
