/*
 * norm_internal.h - RMS norm of rows. Without a guard, so that a test can declare the functions of both types.
 */
#include "train/real_internal.h"

/* y = x / sqrt(mean(x^2) + eps) * weight, row by row. x, y [rows, dim]; weight [dim], NULL: 1; y may be x if x is not
 * wanted any more. inverse [rows]: what x was multiplied by, for the backward pass; NULL: not wanted. */
void REAL(norm_forward)(struct team *team, size_t rows, size_t dim, real eps, const real *x, const real *weight,
                        real *y, real *inverse);

/* From dy adds to dx [rows, dim] and dweight [dim]; either may be NULL, dweight is where weight is. */
void REAL(norm_backward)(struct team *team, size_t rows, size_t dim, const real *x, const real *weight,
                         const real *inverse, const real *dy, real *dx, real *dweight);
