/*
 * config_internal.h - the config of a run: one JSON object, of which everything but a few fields has a default.
 * docs/training.md explains the fields; config.c has their names, bounds and defaults in one table.
 *
 *     {"out": "runs/stories", "model": {...}, "data": [{"path": "stories.txt"}], "steps": 2000}
 *
 * Unknown fields are refused, so that a slip of the pen does not become a default. Paths are relative to the current
 * directory.
 */
#ifndef TRAIN_CONFIG_INTERNAL_H
#define TRAIN_CONFIG_INTERNAL_H

#include "train/data_internal.h"
#include "train/optim_internal.h"

enum spike_action { SPIKE_STOP, SPIKE_ROLL_BACK };

struct train_config {
    char *out;       /* "out": directory of the model and, in its train/, of the run */
    json_t *model;   /* "model": what config.json will say; NULL where `from` is given */
    char *from;      /* "from": a model directory to go on from: shape, weights and tokenizer; NULL: none */
    char *tokenizer; /* "tokenizer": a tokenizer.json; NULL: trained from the data, or that of `from` */
    char *cache;     /* "cache": directory for the tokens of the data; default OUT/train/cache */

    /* "data", "validation": arrays of objects, each
     *     "path"
     *     "format"      "text" or "jsonl"; default by the path's ending
     *     "separator"   of text; default "<|endoftext|>"; null: the file is one document
     *     "weight"      default 1; not in validation
     *     "learn"       "all" or "answers"; default "answers" for jsonl
     *     "whole"       a document is not split over batches; default false
     * The strings belong to the config. */
    struct data_source data[DATA_SOURCES], validation[DATA_SOURCES];
    uint32_t data_count, validation_count; /* validation may be empty */

    uint64_t seed;       /* "seed": of first values, hashes and the order of documents; 1 */
    uint64_t steps;      /* "steps" of the optimiser */
    uint64_t tokens;     /* "batch": {"tokens": T of one pass, 4096; */
    uint64_t accumulate; /*           "accumulate": passes whose gradients are summed in a step, 1} */

    struct schedule rate; /* "rate": {"peak" 2e-3, "floor" a tenth of it, "warmup" steps 100, or a tenth of all if that
                           * is less, "decay" steps: a fifth of all}; end is `steps` */
    enum { OPTIMIZER_MUON, OPTIMIZER_ADAMW } optimizer; /* "optimizer": "muon" or "adamw" for the matrices */
    struct muon_options muon;                           /* "muon": {"momentum", "decay", "scale"} */
    struct adam_options adam;                           /* "adam": {"beta1", "beta2", "eps", "decay"} */
    double table_rate;                                  /* "table_rate": 5, times the rate, of Engram tables */
    double clip;                                        /* "clip": 1; 0: none */

    double balance_speed, balance_weight; /* "balance": {"speed" 1e-3 of router biases, "weight" 1e-4 of the loss} */
    double mtp_weight, mtp_decay_weight;  /* "mtp": {"weight" 0.3, "decay_weight" 0.1 once the rate decays} */
    double index_weight;                  /* "index_weight": of the indexer's loss, 1 */
    uint64_t dense;                       /* "dense": first steps with attention to all entries; a tenth of all */
    uint64_t round_from;                  /* "round_from": from this step on weights are used as they will be stored,
                                           * gradients pass straight through; default four fifths of all; `steps`:
                                           * never */
    uint64_t validate_every, save_every;  /* "every": {"validate" 200, "save" 200} steps; 0: only at the end */
    uint64_t validation_tokens; /* "validation_tokens": most tokens of a validation; 0, the default: all of them */
    enum spike_action on_spike; /* "spike": {"action": "stop" or "roll back" (default), */
    double spike_factor;        /*           "factor": loss above this times its running mean, 3} */
    bool recompute;             /* "recompute": layers are computed twice to save memory; false */
    uint32_t threads;           /* "threads": 0: one for each processor */
};

/* From the text of a config. what: its name, for messages. *config is owed to train_config_release() on success.
 * Errors: FORMAT ("FILE: field rate.peak: expected a number above 0, not \"x\""), MEMORY. */
int train_config_parse(const char *json, size_t bytes, const char *what, struct train_config *config,
                       struct sonde_error *e);
void train_config_release(struct train_config *config);

/* The same with every field written out, as indented text, which parses to the same config. To be freed. Errors:
 * MEMORY. */
int train_config_text(const struct train_config *config, char **json, size_t *length, struct sonde_error *e);

#endif
