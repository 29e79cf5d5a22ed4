/*
 * tile_internal.h - small products. May be called inside team_each().
 */
#ifndef TRAIN_TILE_INTERNAL_H
#define TRAIN_TILE_INTERNAL_H

#include "train/real_internal.h"

/* Of rows that lie anywhere against a few that are used again and again: the kernels dots and mix (kernel/kernel.h), of
 * the team's level in float. */
void REAL(tile_dots)(const struct team *team, const real *a, uint32_t m, const real *const *b, uint32_t n, uint32_t dim,
                     real *out);
void REAL(tile_mix)(const struct team *team, const real *w, size_t row, size_t term, const real *const *x, uint32_t n,
                    uint32_t dim, uint32_t m, real *const *out);

/* Of matrices, of which what is used more than once is packed once: the kernels factor and product where `exact`, or
 * else factor_bf16 and product_bf16, of the team's level in float. In double nothing is ever rounded. A packed factor
 * takes tile_bytes(), a multiple of 64, at an address that is one too. */
size_t REAL(tile_bytes)(size_t rows, size_t depth);
void REAL(tile_pack)(const struct team *team, bool exact, const real *x, size_t ld, int how, uint32_t rows,
                     uint32_t depth, void *packed);
void REAL(tile_product)(const struct team *team, bool exact, const void *left, const void *right, uint32_t rows,
                        uint32_t cols, uint32_t depth, bool add, real *c, size_t ldc);

#endif
