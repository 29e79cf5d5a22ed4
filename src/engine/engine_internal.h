/* engine_internal.h - what stands behind the public handles. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include "engine/engine.h"
#include "model/model.h"

struct sonde_model {
    struct checkpoint *checkpoint;
    struct device *device;
    struct model *model;
    sonde_tokenizer *tokenizer; /* NULL: none */
};

struct sonde_session {
    sonde_model *model;
    struct sequence *sequence;
    float *logits; /* [V] after the last token */
    bool broken;   /* a step failed half-way: only reset helps */
};

#endif
