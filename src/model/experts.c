/*
 * experts.c - mixture of experts: k of E by the router, and one that always runs.
 *
 * The router scores experts by sqrt(softplus(gate . x)); the k best of score plus balancing bias are taken,
 * weighed by their scores alone. The first layers take experts by the token's id from a table instead.
 */
#include "model/model_internal.h"

/* The two lists are one: the device's room does not know the checkpoint's. */
_Static_assert((int)SCORING_SQRTSOFTPLUS == (int)DEVICE_SQRTSOFTPLUS && (int)SCORING_SIGMOID == (int)DEVICE_SIGMOID &&
                   (int)SCORING_SOFTMAX == (int)DEVICE_SOFTMAX,
               "scorings differ");

/* Experts of each row from the table by token id, checked: the table is data of a file. */
static bool by_token(struct step *st, const struct router *r) {
    struct model *m = st->m;
    const struct tensor *t = r->by_token_tensor;
    uint32_t k = m->shape->active;
    for (uint32_t row = 0; row < st->rows; row++)
        for (uint32_t j = 0; j < k; j++) {
            int64_t expert = integers_at(&r->by_token, (uint64_t)m->ids[row] * k + j);
            if (expert < 0 || expert >= m->shape->experts) {
                if (!st->rc)
                    st->rc = err_set(st->e, SONDE_ERROR_FORMAT,
                                     "%s: tensor %s: token %lld has expert %lld, expected 0 to %u",
                                     checkpoint_file(m->checkpoint, t), t->name, (long long)m->ids[row],
                                     (long long)expert, m->shape->experts - 1);
                return false;
            }
            m->forced[(size_t)row * k + j] = (int32_t)expert;
        }
    return true;
}

static void trace(struct step *st, uint32_t index) {
    struct model *m = st->m;
    if (!st->outputs->route || index >= m->shape->layers)
        return;
    st->ops->download(st->d, m->host_experts, m->scratch.experts,
                      (size_t)st->rows * m->shape->active * sizeof(int32_t));
    st->outputs->route(st->outputs->context, index, st->rows, m->host_experts);
}

/* y [S, D] = experts of layer `index` over x [S, D]. */
void experts_run(struct step *st, const struct layer *l, uint32_t index, const float *x, float *y) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    struct scratch *t = &m->scratch;
    const struct router *r = &l->router;
    bool forced = !r->bias.data;
    if (forced && !by_token(st, r))
        return;
    struct device_product scores = step_product(st, &r->gate, x, t->router);
    scores.block = 0;
    st->ops->linear(st->d, &scores, 1, st->rows, m->precision.products_bf16);
    struct device_route route = {.logits = t->router,
                                 .bias = r->bias,
                                 .forced = forced ? m->forced : NULL,
                                 .scoring = (enum device_scoring)s->scoring,
                                 .rows = st->rows,
                                 .experts = s->experts,
                                 .active = s->active,
                                 .scale = s->route_scale,
                                 .index = t->experts,
                                 .weight = t->expert_weights};
    st->ops->route(st->d, &route);
    trace(st, index);
    struct device_experts run = {.x = x,
                                 .experts = l->experts,
                                 .shared = &l->shared,
                                 .index = t->experts,
                                 .weight = t->expert_weights,
                                 .rows = st->rows,
                                 .count = s->experts,
                                 .active = s->active,
                                 .limit = s->swiglu_limit,
                                 .bf16 = m->precision.products_bf16,
                                 .block = m->precision.activations_fp8 ? m->architecture->activation_block : 0,
                                 .round_storage = m->precision.bf16 ? FORMAT_BF16 : FORMAT_F32,
                                 .y = y};
    st->ops->experts(st->d, &run);
    step_round(st, y, (uint64_t)st->rows * s->hidden);
}
