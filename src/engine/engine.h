/*
 * engine.h - models, sessions, sampling and generation as sonde.h promises them.
 *
 * Implements sonde_model_*, sonde_session_*, sonde_sampler_* and sonde_generate() over the rooms below; docs
 * there. Nothing is needed beyond the public header yet.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/base.h"

#endif
