/*
 * loss_internal.h - the two ends of the network, where it meets the vocabulary: embeddings of tokens, and the
 * cross-entropy of what follows them. Without a guard, so that a test can declare the functions of both types.
 */
#include "train/real_internal.h"
#include "train/shapes_internal.h"

/* x [T, D] = rows ids [T] of table [V, D]; ids are in [0, V). */
void REAL(embed_forward)(struct team *team, size_t tokens, size_t dim, const int32_t *ids, const real *table, real *x);

/* dtable [V, D] += dx [T, D], for each id over its tokens in order. work: embed_work() numbers. */
void REAL(embed_backward)(struct team *team, uint32_t tokens, uint32_t dim, uint32_t vocab, const int32_t *ids,
                          const real *dx, uint32_t *work, real *dtable);

/*
 * Cross-entropy of targets [T] given logits = x [T, D] . head [V, D]^T; a target of -1 is skipped, others are in
 * [0, V). Logits exist for LOSS_CHUNK tokens at a time. Adds scale times the gradient of the summed loss to dx and
 * dhead; NULL: not wanted, and with both NULL nothing is done for them (validation). work: loss_work() numbers.
 */
struct loss_sum REAL(loss)(struct team *team, const struct loss_shape *s, const real *x, const real *head,
                           const int32_t *targets, real scale, real *work, real *dx, real *dhead);
