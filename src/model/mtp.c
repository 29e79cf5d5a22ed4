/*
 * mtp.c - multi-token prediction: one more block that, from the residual at t and the token at t + 1, predicts
 * t + 2 (V3 report, section 2.2; V4 keeps it with hyper-connections).
 *
 *     h' = e_proj RMSNorm(embed(token t+1)), to every stream, + h_proj RMSNorm(h_t), stream by stream
 *     h' -> block -> its own collapse and norm -> the shared head
 *
 * It lags by one: a step that appends positions [first, first + n) gives predictions from positions
 * [first - 1, first + n - 1), so the residual of the last token waits in the sequence.
 */
#include "model/model_internal.h"

/* The pairs (t, t + 1) this step completes, as segments of their own, and their residuals in `previous`. */
static void pair_up(struct step *st, struct step *pairs, struct segment *segments) {
    struct model *m = st->m;
    struct scratch *t = &m->scratch;
    size_t wide = (size_t)m->shape->streams * m->shape->hidden;
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        struct sequence *sequence = g->sequence;
        uint32_t lag = g->first ? 1 : 0, count = g->count - 1 + lag;
        if (!sequence->mtp)
            continue;
        float *to = t->previous + pairs->rows * wide, *from = t->h + g->row * wide;
        if (lag)
            st->ops->copy(st->d, to, sequence->hidden, wide);
        st->ops->copy(st->d, to + lag * wide, from, (g->count - 1) * wide);
        st->ops->copy(st->d, sequence->hidden, from + (g->count - 1) * wide, wide);
        if (!count)
            continue;
        segments[pairs->segment_count++] =
            (struct segment){sequence, g->first - lag, pairs->rows, count, .span = g->span, .all = true};
        for (uint32_t j = 0; j < count; j++)
            m->ids[pairs->rows + j] = sequence->tokens[g->first - lag + j + 1];
        pairs->rows += count;
    }
}

static void enter(struct step *st) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    struct scratch *t = &m->scratch;
    uint64_t streams = (uint64_t)st->rows * s->streams;
    st->ops->embed(st->d, &m->embed, m->ids, st->rows, t->x, s->hidden);
    step_round(st, t->x, (uint64_t)st->rows * s->hidden);
    step_norm(st, t->x, st->rows, s->hidden, &m->mtp->enorm, s->eps, t->x);
    step_linear(st, &m->mtp->e_proj, t->x, st->rows, t->y);
    step_norm(st, t->previous, streams, s->hidden, &m->mtp->hnorm, s->eps, t->previous);
    step_linear(st, &m->mtp->h_proj, t->previous, streams, t->h);
    for (uint32_t j = 0; j < s->streams; j++)
        st->ops->add(st->d, t->h + (size_t)j * s->hidden, (size_t)s->streams * s->hidden, t->y, s->hidden, st->rows,
                     s->hidden);
    step_round(st, t->h, streams * s->hidden);
}

/* Runs the block for those sequences of the step that want it. Destroys h. */
void mtp_run(struct step *st) {
    struct model *m = st->m;
    struct step pairs = {
        .m = m, .ops = st->ops, .d = st->d, .segments = m->mtp_segments, .outputs = st->outputs, .e = st->e};
    pair_up(st, &pairs, m->mtp_segments);
    if (!pairs.rows)
        return;
    step_positions(&pairs);
    enter(&pairs);
    block_run(&pairs, &m->mtp->block, m->shape->layers);
    if (st->outputs->mtp && !pairs.rc)
        head_emit(&pairs, &m->mtp->hc_head, &m->mtp->norm, st->outputs->mtp);
    st->rc = pairs.rc;
}
