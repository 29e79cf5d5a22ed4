/*
 * mtp.c - multi-token prediction: one more block that, from the residual at t and the token at t + 1, predicts
 * t + 2 (V3 report, section 2.2; V4 keeps it with hyper-connections).
 *
 *     h' = e_proj RMSNorm(embed(token t+1)), to every stream, + h_proj RMSNorm(h_t), stream by stream
 *     h' -> block -> its own collapse and norm -> the shared head
 *
 * It lags behind the layers: by one token, as a token's successor comes with the next step, and by more after draft
 * spans, whose last tokens may be taken back. Residuals of the tokens in between wait in the sequence. So, between
 * steps, of a sequence of n tokens that owes k:
 *
 *     the block has run over pairs (t, t + 1) for all t < n - k, and keeps nothing else that will be read
 *     owed [k, H, D] are the residuals of the tokens [n - k, n); k > 0 if n > 0, and k <= most_owed()
 *     if paired >= 0, then k = 1, and it has run over (n - 1, n) too, taking `paired` for token n
 *
 * To draft is to run it on over its own residual and its own likeliest token. What that leaves in its window lies
 * behind the last true pair, and is written anew before it can be read, like the rows of tokens taken back.
 */
#include <assert.h>

#include "model/model_internal.h"

static size_t residual(const struct model *m) {
    return (size_t)m->shape->streams * m->shape->hidden;
}

/* Never more than a step has rows. */
static uint32_t most_owed(const struct model *m) {
    return (uint32_t)min_u64(1 + MODEL_MOST_DRAFTS, m->rows);
}

bool mtp_can_owe(const struct model *m, uint64_t length, uint32_t owed, int32_t paired) {
    return length && owed && owed <= length && owed <= most_owed(m) && paired >= -1 && (paired < 0 || owed == 1);
}

/* ----------------------------------------------------------------------------------- steps of pairs */

/* A step of the block alone, of no pairs yet. Its segments' positions are of the pairs' first tokens. */
static struct step pairs_begin(struct model *m, const struct model_outputs *outputs, struct sonde_error *e) {
    return (struct step){
        .m = m, .ops = m->device->ops, .d = m->device, .segments = m->mtp_segments, .outputs = outputs, .e = e};
}

static bool pairs_fit(const struct step *pairs, uint32_t count) {
    return count <= pairs->m->rows - pairs->rows;
}

/* Appends a segment, whose row is set; returns where its residuals go. */
static float *pairs_append(struct step *pairs, struct segment g) {
    struct model *m = pairs->m;
    g.row = pairs->rows;
    for (uint32_t i = 0; i < g.count; i++)
        m->ids[g.row + i] = g.sequence->tokens[g.first + i + 1];
    pairs->segments[pairs->segment_count++] = g;
    pairs->rows += g.count;
    return m->scratch.previous + g.row * residual(m);
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

/* Runs the block over the pairs; their residuals are in h then. */
static void pairs_run(struct step *pairs, logits_callback *emit) {
    struct model *m = pairs->m;
    if (!pairs->rows || pairs->rc)
        return;
    step_positions(pairs);
    enter(pairs);
    block_run(pairs, &m->mtp->block, m->shape->layers);
    if (emit && !pairs->rc)
        head_emit(pairs, &(struct head){hyper_head_rows, &m->mtp->hc_head, &m->mtp->norm}, emit);
}

static void pairs_clear(struct step *pairs) {
    pairs->rows = pairs->segment_count = 0;
}

/* ------------------------------------------------------------------------------- beside the layers */

/* The first `count` of the residuals a sequence owes are owed no more. */
static void settle(struct sequence *s, uint32_t count) {
    struct model *m = s->model;
    size_t wide = residual(m);
    s->owed_count -= count;
    if (count)
        m->device->ops->copy(m->device, s->owed, s->owed + count * wide, s->owed_count * wide);
}

/* Pairs that a sequence owes and that cannot wait for the step's end: there is no room beside what a draft span adds;
 * an ordinary one, which runs over its own pairs, takes one along. */
static uint32_t overdue(const struct segment *g) {
    const struct sequence *s = g->sequence;
    uint32_t most = most_owed(s->model), room = g->draft ? most - (uint32_t)min_u64(g->count, most) : 1;
    return s->owed_count > room ? s->owed_count - room : 0;
}

/* Before the layers: runs the block over pairs that are overdue. Destroys h and ids. */
void mtp_catch_up(struct step *st) {
    struct step pairs = pairs_begin(st->m, st->outputs, st->e);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        struct sequence *s = g->sequence;
        if (g->draft && s->paired == s->tokens[g->first])
            s->owed_count = 0; /* as it was drafted on */
        uint32_t count = overdue(g);
        if (!count)
            continue;
        if (!pairs_fit(&pairs, count)) {
            pairs_run(&pairs, st->outputs->mtp);
            pairs_clear(&pairs);
        }
        float *to = pairs_append(
            &pairs, (struct segment){s, g->first - s->owed_count, .count = count, .span = g->span, .all = true});
        st->ops->copy(st->d, to, s->owed, count * residual(st->m));
        settle(s, count);
    }
    pairs_run(&pairs, st->outputs->mtp);
    st->rc = pairs.rc;
}

/* Pairs that a segment completes, and what its sequence owes then: its last residual, or all those of a draft span,
 * which overdue() has made room for. */
static void pair_up(struct step *st, const struct segment *g, struct step *pairs) {
    struct sequence *s = g->sequence;
    size_t wide = residual(st->m);
    const float *fresh = st->m->scratch.h + g->row * wide;
    uint32_t owed = s->owed_count, all = owed + g->count;
    uint32_t keep = g->draft ? (uint32_t)min_u64(all, most_owed(st->m)) : 1, count = all - keep;
    if (count) {
        float *to =
            pairs_append(pairs, (struct segment){s, g->first - owed, .count = count, .span = g->span, .all = true});
        st->ops->copy(st->d, to, s->owed, owed * wide);
        st->ops->copy(st->d, to + owed * wide, fresh, (count - owed) * wide);
        owed = 0;
    }
    st->ops->copy(st->d, s->owed + owed * wide, fresh + (g->count + owed - keep) * wide, (keep - owed) * wide);
    s->owed_count = keep;
}

/* After the layers: runs the block for those sequences of the step that want it. Destroys h. */
void mtp_run(struct step *st) {
    struct step pairs = pairs_begin(st->m, st->outputs, st->e);
    for (uint32_t i = 0; i < st->segment_count; i++)
        if (st->segments[i].sequence->mtp)
            pair_up(st, &st->segments[i], &pairs);
    pairs_run(&pairs, st->outputs->mtp);
    st->rc = pairs.rc;
}

/* ------------------------------------------------------------------------------------------ drafts */

/* Keeps the likeliest token after `position`: context is the list of drafts. */
static void choose(void *context, uint32_t span, uint64_t position, const float *logits) {
    const struct model_draft *draft = (const struct model_draft *)context + span;
    const struct sequence *s = draft->sequence;
    int32_t best = 0;
    for (uint32_t i = 1; i < s->model->shape->vocab; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    draft->ids[position + 1 - s->length] = best;
}

/* Runs the block over what draft_round() has gathered. The last token's residual is all that is owed then; behind it
 * lies the draft's own, for the next round. */
static void draft_run(struct step *pairs) {
    size_t wide = residual(pairs->m);
    pairs_run(pairs, choose);
    for (uint32_t i = 0; i < pairs->segment_count; i++) {
        const struct segment *g = &pairs->segments[i];
        struct sequence *s = g->sequence;
        settle(s, s->owed_count - 1);
        pairs->ops->copy(pairs->d, s->owed + wide, pairs->m->scratch.h + (g->row + g->count - 1) * wide, wide);
    }
    pairs_clear(pairs);
}

/* Id `round` of all drafts that want so many: from the pairs owed, then from the draft's own residual and id. */
static void draft_round(struct step *pairs, const struct model_draft *drafts, uint32_t count, uint32_t round) {
    size_t wide = residual(pairs->m);
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *s = drafts[i].sequence;
        uint32_t rows = round ? 1 : s->owed_count;
        if (drafts[i].count <= round)
            continue;
        if (!pairs_fit(pairs, rows))
            draft_run(pairs);
        s->tokens[s->length + round] = round ? drafts[i].ids[round - 1] : drafts[i].token;
        float *to = pairs_append(pairs, (struct segment){s, s->length + round - rows, .count = rows, .span = i});
        pairs->ops->copy(pairs->d, to, s->owed + (round ? wide : 0), rows * wide);
    }
    draft_run(pairs);
}

static int check(const struct model *m, const struct model_draft *drafts, uint32_t count, struct sonde_error *e) {
    for (uint32_t i = 0; i < count; i++) {
        assert(drafts[i].sequence->mtp && drafts[i].sequence->length);
        assert(drafts[i].count && drafts[i].count <= MODEL_MOST_DRAFTS);
        if (drafts[i].token < 0 || (uint32_t)drafts[i].token >= m->shape->vocab)
            return err_set(e, SONDE_ERROR_ARGUMENT, "token id %d, expected 0 to %u", (int)drafts[i].token,
                           m->shape->vocab - 1);
    }
    uint32_t ratio = m->mtp->block.attn.ratio;
    if (ratio) /* entries of tokens that were never fed would have no place */
        return err_set(e, SONDE_ERROR_UNSUPPORTED,
                       "config.json: field compress_ratios: %u for the multi-token-prediction block, which can only "
                       "draft with 0",
                       ratio);
    return SONDE_OK;
}

int model_draft(struct model *m, const struct model_draft *drafts, uint32_t count, struct sonde_error *e) {
    struct model_outputs outputs = {.context = (void *)(uintptr_t)drafts};
    struct step pairs = pairs_begin(m, &outputs, e);
    int rc = count ? check(m, drafts, count, e) : SONDE_OK;
    if (rc || !count)
        return rc;
    for (uint32_t round = 0; round < MODEL_MOST_DRAFTS && !pairs.rc; round++)
        draft_round(&pairs, drafts, count, round);
    for (uint32_t i = 0; i < count; i++) {
        drafts[i].sequence->paired = drafts[i].token;
        drafts[i].sequence->undoable = 0;
    }
    return step_finish(&pairs);
}
