/*
 * engine.h - models, sessions, sampling and generation as sonde.h promises them.
 *
 * Implements sonde_model_*, sonde_session_*, sonde_sampler_* and sonde_generate() over the rooms below; docs
 * there. What the commands and the server need beyond the public header is here.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/base.h"

struct checkpoint;

/* The open checkpoint behind a model, owned by it. */
const struct checkpoint *engine_checkpoint(const sonde_model *model);

#endif
