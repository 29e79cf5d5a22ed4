/*
 * experts_internal.h - the mixture of experts over routed tokens. Without a guard, so that a test can declare the
 * functions of both types.
 *
 *     y = shared(x) + sum over the k experts of (w2 h),   h = silu(min(w1 x, limit)) clamp(w3 x, -limit, limit) weight
 *
 * Tokens are gathered by expert, in the order of tokens, and experts run one after the other in ascending order, each
 * over all its tokens; a token's sum is made in that order whoever the workers are.
 */
#include "train/real_internal.h"
#include "train/shapes_internal.h"

/* Matrices, or their gradients, of which any may be NULL. The experts' lie one behind the other. */
struct REAL(experts_weights) {
    real *w1, *w3;               /* [E, inter, D] */
    real *w2;                    /* [E, D, inter] */
    real *shared_w1, *shared_w3; /* [shared_inter, D] */
    real *shared_w2;             /* [D, shared_inter] */
};

/* What the forward pass leaves for the backward pass; memory of the caller's. */
struct REAL(experts_saved) {
    uint32_t *order;               /* [T k] token * k + slot, by expert, tokens ascending */
    uint32_t *begin;               /* [E + 1] where an expert's begin in it */
    real *gate, *up;               /* [T k, inter] w1 x and w3 x, in that order */
    real *shared_gate, *shared_up; /* [T, shared_inter] */
};

/* x [T, D]; experts [T, k], of a token all different, and weights [T, k] from the router; y [T, D] is set. */
void REAL(experts_forward)(struct team *team, const struct experts_shape *s, const real *x, const int32_t *experts,
                           const real *weights, const struct REAL(experts_weights) * w,
                           const struct REAL(experts_saved) * saved, real *work, real *y);

/* From dy [T, D] adds to dx [T, D], dweights [T, k] and the matrices' dw. dx and dweights may be NULL. */
void REAL(experts_backward)(struct team *team, const struct experts_shape *s, const real *x, const real *weights,
                            const struct REAL(experts_weights) * w, const struct REAL(experts_saved) * saved,
                            real *work, const real *dy, real *dx, real *dweights,
                            const struct REAL(experts_weights) * dw);
