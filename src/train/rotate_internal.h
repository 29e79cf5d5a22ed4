/*
 * rotate_internal.h - rotary positions and the Hadamard transform, in place. Without a guard, so that a test can
 * declare the functions of both types.
 *
 * Both are orthogonal, so the backward pass is the way back: it turns the gradient of the result, in place, into the
 * gradient of what was turned.
 */
#include "train/real_internal.h"

/* Cosines and sines: turns [rows, half, 2] of float32(position) times frequency, as the released models take it.
 * positions [rows], within their segments; frequency [half] from rotary_frequencies() of the model's room. */
void REAL(rotate_turns)(struct team *team, size_t rows, size_t half, const uint32_t *positions, const float *frequency,
                        real *turns);

/* Turns the last 2 half channels of each of `heads` vectors of a row, in adjacent pairs, by the row's angles; direction
 * 1, or -1: back. x [rows, heads, dim]. */
void REAL(rotate)(struct team *team, size_t rows, size_t heads, size_t dim, size_t half, const real *turns,
                  int direction, real *x);

/* Orthonormal Walsh-Hadamard transform of each row, its own inverse. x [rows, dim], dim a power of two. */
void REAL(hadamard)(struct team *team, size_t rows, size_t dim, real *x);
