/* engine_internal.h - what stands behind the public handles. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include "engine/engine.h"
#include "model/model.h"

struct sonde_model {
    struct checkpoint *checkpoint;
    struct device *device;
    struct model *model;
    sonde_tokenizer *tokenizer;     /* NULL: none */
    struct sonde_sampling sampling; /* as generation_config.json recommends */
};

struct sonde_session {
    sonde_model *model;
    struct sequence *sequence;
    float *logits;      /* [V] */
    uint64_t logits_at; /* the length whose last token they follow; 0: none */
    bool broken;        /* a step failed half-way: only reset helps */
};

/* sampling.c: every field in its range. Errors: ARGUMENT (names the field). */
int sampling_check(const struct sonde_sampling *s, struct sonde_error *e);

#endif
