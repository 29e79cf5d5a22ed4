/*
 * route_internal.h - the router: which experts a token goes to, with what weight, and what keeps them evenly loaded.
 * Without a guard, so that a test can declare the functions of both types.
 *
 *     scores   sqrt(softplus(x . gate)), or the sigmoid or softmax of it
 *     choice   the k best of score plus bias, lowest expert among equals; or from a table by the token's id
 *     weights  score / sum of the k scores * scale (softmax: score * scale)
 *
 * The choice is a constant to the backward pass. The bias has no gradient: route_adjust_bias() moves it by the loads
 * (auxiliary-loss-free balancing, arXiv 2408.15664); route_balance() is the sequence-wise loss of DeepSeek-V3 (arXiv
 * 2412.19437, equations 17 to 20).
 */
#include "train/real_internal.h"
#include "train/shapes_internal.h"

/*
 * x [T, D], gate [E, D] -> logits [T, E], kept for the backward passes, experts [T, k] in descending order of score
 * plus bias, weights [T, k]. bias [E], NULL: none. table [V, k] with ids [T]: experts of the tokens, distinct, in
 * [0, E); NULL: by score.
 */
void REAL(route_forward)(struct team *team, const struct route_shape *s, const real *x, const real *gate,
                         const real *bias, const int32_t *table, const int32_t *ids, real *logits, int32_t *experts,
                         real *weights);

/* From dweights [T, k] adds to dx and dgate, either of which may be NULL. dlogits [T, E] holds what else wants the
 * logits changed, such as the balance loss, or zeros; what the weights want is added to it. */
void REAL(route_backward)(struct team *team, const struct route_shape *s, const real *x, const real *gate,
                          const real *logits, const int32_t *experts, const real *weights, const real *dweights,
                          real *dlogits, real *dx, real *dgate);

/*
 * Sequence-wise balance loss: for each segment alpha sum_e f_e P_e, with f_e = E / (k length) times the tokens that
 * chose e, and P_e the mean of its share in a token's scores. Segments count by their length, so that each token has
 * the same say: the sum is over segments of length / T times that. Adds its gradient to dlogits [T, E] unless that is
 * NULL. work: route_balance_work() numbers.
 */
double REAL(route_balance)(struct team *team, const struct route_shape *s, const struct segment *segments,
                           uint32_t segment_count, const real *logits, const int32_t *experts, real alpha, real *work,
                           real *dlogits);

/* loads[e] += tokens that chose e. */
void REAL(route_loads)(const struct route_shape *s, const int32_t *experts, uint64_t *loads);

/* bias[e] += speed where its load is below the mean, -= where above. */
void REAL(route_adjust_bias)(uint32_t count, const uint64_t *loads, real speed, real *bias);
