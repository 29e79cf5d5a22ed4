/*
 * run_internal.h - a run: from a config to a trained model on disk. Everything here is float.
 *
 *     learn.c      what the optimiser keeps of each parameter, and its step
 *     rounding.c   values as they will be stored, for passes to use
 *     state.c      all of a run in one file, from which it goes on to the bit
 *     history.c    log.jsonl
 *     plot.c       its curves as SVG
 *     export.c     the model in the official layout
 *     begin.c      everything a run works with, from its config
 *     run.c        the loop
 *
 * A run's directory OUT is a model directory that `sonde run OUT` takes; what belongs to training is in OUT/train:
 *
 *     config.json        the run's config with every default
 *     state.safetensors  the last state saved
 *     log.jsonl          a line a step, validation, event
 *     loss.svg, experts.svg
 */
#ifndef TRAIN_RUN_INTERNAL_H
#define TRAIN_RUN_INTERNAL_H

#include "train/config_internal.h"
#include "train/net_internal.h"
#include "train/train.h"

/* -------------------------------------------------------------------------------------------- learn.c */

/* What the optimiser keeps of one parameter; arrays are NULL where it keeps none. */
struct moments {
    float *m, *v;    /* [as the parameter]; Muon has m alone */
    uint32_t *steps; /* [rows] of tables */
};

struct learner {
    const struct train_config *config;
    struct net_f32 *net;
    struct moments *moments; /* [params.count] */
    float *memory;           /* all m and v, one behind the other */
    size_t numbers;
    float *scratch; /* of Muon */
};

/* What learner_init() would take. */
uint64_t learner_bytes(const struct train_config *config, const struct net_f32 *net, uint32_t workers);
/* The config and the net must outlive it. After a failure too, learner_release() is owed. Errors: MEMORY. */
int learner_init(struct learner *l, const struct train_config *config, struct net_f32 *net, uint32_t workers,
                 struct sonde_error *e);
void learner_release(struct learner *l);
/* Norm of all gradients, those of tables too, after step_end(). */
double learner_norm(struct team *team, const struct learner *l, const struct step_f32 *s);
/* Step `step`, counted from 0, of gradients that are multiplied by factor first. */
void learner_step(struct team *team, struct learner *l, const struct step_f32 *s, uint64_t step, double factor);

/* ------------------------------------------------------------------------------------------ rounding.c */

/* How one of a parameter's stack is stored, or `rows` rows of it from the first of a block on; still without data. */
struct matrix stored_form(const struct shape *shape, const struct param_f32 *p, uint32_t rows);
/* x [rows, cols] in the form m, which is given its data: matrix_bytes(m) at `to`, scales behind the rest. */
void stored_encode(struct matrix *m, const float *x, void *to);
/* That every parameter's sides fit its form. Errors: ARGUMENT (names the tensor). */
int stored_check(const struct net_f32 *net, struct sonde_error *e);

/* `use` of every parameter becomes its value as its form stores it; memory for that is taken the first time, and its
 * parameters must stay where they are. {0} is one that has not begun. Errors: MEMORY, ARGUMENT (names the tensor). */
struct rounding {
    float *values; /* NULL: none yet */
    struct strip *strips;
    size_t strip_count;
};
int rounding_update(struct rounding *r, struct team *team, struct net_f32 *net, struct sonde_error *e);
void rounding_release(struct rounding *r, struct net_f32 *net); /* use is value again */

/* -------------------------------------------------------------------------------------------- state.c */

/* The part of a run's state that is a few numbers; without padding, saved as it is. */
struct run_numbers {
    uint64_t step;    /* next one */
    uint64_t tokens;  /* learnt from so far, those with a target */
    uint64_t rolled;  /* times that a spike was rolled back */
    double mean_loss; /* running mean that spikes are measured by; 0: none yet */
    struct data_position position;
};

/* Writes everything that a run needs to go on: numbers, parameters, moments, hash tables and the Engram plan. Atomic:
 * the file is the old one or the whole new one. Errors: IO, MEMORY. */
int state_save(const char *path, const struct run_numbers *numbers, const struct net_f32 *net, const struct learner *l,
               struct sonde_error *e);
/* The way back, into a net and learner of the same config, whose plan must be that of the state. Nothing is changed
 * before every tensor was checked, against a hash too. Errors: IO, FORMAT (names the tensor), MEMORY. */
int state_load(const char *path, struct run_numbers *numbers, struct net_f32 *net, struct learner *l,
               struct sonde_error *e);
/* The Engram plan in a state of a model of this shape; all NULL if the shape has no Engram. engram_plan_release() is
 * owed. Errors: IO, FORMAT (names the tensor), MEMORY. */
int state_plan(const char *path, const struct shape *shape, struct engram_plan *plan, struct sonde_error *e);

/* ------------------------------------------------------------------------------------------ history.c */

/*
 * log.jsonl: one object a line, each with "step" first.
 *
 *     {"step": 12, "loss": 3.1, "mtp": ..., "balance": ..., "index": ..., "norm": ..., "rate": ..., "tokens": ...,
 *      "seconds": ..., "loads": [[...] a layer] (every tenth step)}
 *     {"step": 200, "validation": 1.9, "per_byte": 0.48}
 *     {"step": 201, "event": "..."}
 *
 * A line with "loss" is that of the step itself; any other carries the step that comes next. So a run that goes on from
 * the state of step n has all losses below n, and what was said up to n, n too.
 */
struct history {
    int fd;
    char *path;
    uint64_t step;   /* that it was opened at */
    struct buf said; /* lines of that step which were there already */
};
/* Opens it for appending, after dropping the lines that a run from `step` on will write again, and those that are not
 * whole, as a crash leaves them. Errors: IO, MEMORY. */
int history_open(const char *path, uint64_t step, struct history *h, struct sonde_error *e);
/* One line, whole; takes the reference. What was said of `step` before it was opened is not said twice. line: NULL
 * counts as exhausted memory. Errors: IO, MEMORY. */
int history_add(struct history *h, json_t *line, struct sonde_error *e);
void history_close(struct history *h);

/* --------------------------------------------------------------------------------------------- plot.c */

/* Curves of one or several runs, smoothed where there are more steps than pixels, with what validation gave, to an SVG.
 * Each is a log and what the legend calls it. Errors: IO, FORMAT (names the line), MEMORY. */
struct plot_run {
    const char *log, *name;
};
int plot_losses(const struct plot_run *runs, size_t count, const char *path, struct sonde_error *e);
/* Shares of tokens that each expert of each layer got over the steps of a run: one band a layer. */
int plot_experts(const char *log, const char *path, struct sonde_error *e);

/* ------------------------------------------------------------------------------------------- export.c */

/* The model in directory `out`, which exists: model.safetensors and config.json, each replaced whole. config: what
 * config.json says besides what follows from how weights are stored, which is added. The tokenizer's files are not
 * touched. Errors: IO, MEMORY, ARGUMENT (a side that does not fit a form; names the tensor). */
int export_model(const struct net_f32 *net, const json_t *config, const char *out, struct sonde_error *e);

/* ---------------------------------------------------------------------------------- begin.c, run.c */

/* The batches of one step, copied: how many targets they have must be known before the first is run. */
struct run_batches {
    struct batch *list; /* [accumulate] */
    int32_t *ids, *targets;
    struct segment *segments;
    uint32_t count; /* 0: the data is over */
    uint64_t targets_count;
};

struct train_run {
    struct train_config config;
    struct train_callbacks callbacks;
    struct buf out, state, log, tokenizer; /* paths */
    json_t *model;                         /* config.json */
    struct shape shape;
    struct engram_plan plan;
    struct team *team;
    struct net_f32 net;
    struct step_f32 *step;
    struct learner learner;
    struct rounding rounding;
    struct data *data, *validation; /* validation NULL: none */
    struct data_position validation_begin;
    double targets_per_byte; /* of validation; 0: it is not plain text */
    struct run_batches batches;
    struct history history;
    bool history_open;
    struct run_numbers numbers;
    struct train_memory memory;
    double peak, flops; /* this machine's operations a second; operations of a token's step */
    uint64_t *loads;    /* [L + MTP, E] */
    double last_validation;
    double mean_seconds, mean_tokens; /* running means of steps, to be told; 0: none yet */
};

#endif
