/*
 * tile_internal.h - products of rows that lie anywhere against a few that are used again and again. May be called
 * inside team_each().
 */
#ifndef TRAIN_TILE_INTERNAL_H
#define TRAIN_TILE_INTERNAL_H

#include "train/real_internal.h"

/* The kernels dots and mix (kernel/kernel.h), of the team's level in float. */
void REAL(tile_dots)(const struct team *team, const real *a, uint32_t m, const real *const *b, uint32_t n, uint32_t dim,
                     real *out);
void REAL(tile_mix)(const struct team *team, const real *w, size_t row, size_t term, const real *const *x, uint32_t n,
                    uint32_t dim, uint32_t m, real *const *out);

#endif
