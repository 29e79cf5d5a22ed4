/*
 * step.c - one step of any architecture: its tokens join their sequences, its results leave.
 *
 * What happens in between is the architecture's own. Here is what all of them share: every stored activation passes
 * step_round(), every product step_linear() where its inputs may be quantised: all that tells `official` from `f32` is
 * there.
 */
#include "model/model_internal.h"

/* ---------------------------------------------------------------------------------- small pieces */

void step_round(struct step *st, float *x, uint64_t count) {
    if (st->m->precision.bf16)
        st->ops->round_bf16(st->d, x, count);
}

struct device_product step_product(const struct step *st, const struct matrix *w, const float *x, float *y) {
    uint32_t block = st->m->precision.activations_fp8 ? st->m->architecture->activation_block : 0;
    return (struct device_product){
        .w = w, .rows = w->rows, .x = x, .ldx = w->cols, .y = y, .ldy = w->rows, .block = block};
}

void step_products(struct step *st, const struct device_product *list, uint32_t count, uint64_t rows) {
    st->ops->linear(st->d, list, count, (uint32_t)rows, st->m->precision.products_bf16);
    for (uint32_t i = 0; i < count; i++)
        if (list[i].ldy == list[i].rows) /* others are parts of rows, which who lists them rounds as a whole */
            step_round(st, list[i].y, rows * list[i].rows);
}

void step_linear(struct step *st, const struct matrix *w, const float *x, uint64_t rows, float *y) {
    struct device_product p = step_product(st, w, x, y);
    step_products(st, &p, 1, rows);
}

void step_norm(struct step *st, const float *x, uint64_t rows, uint32_t n, const struct matrix *w, float eps,
               float *y) {
    st->ops->norm(st->d, x, n, (uint32_t)rows, n, w, eps, y, n);
    step_round(st, y, rows * n);
}

void step_positions(struct step *st) {
    struct model *m = st->m;
    for (uint32_t i = 0; i < st->segment_count; i++)
        for (uint32_t j = 0; j < st->segments[i].count; j++)
            m->positions[st->segments[i].row + j] = st->segments[i].first + j;
    uint32_t half = m->shape->rope_dim / 2;
    st->ops->angles(st->d, m->frequency, half, m->positions, st->rows, m->scratch.turns);
    st->ops->angles(st->d, m->frequency_compressed, half, m->positions, st->rows, m->scratch.turns_compressed);
}

/* -------------------------------------------------------------------------------------- the head */

/* Logits of `count` rows of the step, on the host. */
static const float *head_rows(struct step *st, const struct head *head, const uint32_t *rows, uint32_t count) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    struct scratch *t = &m->scratch;
    head->collapse(st, head, rows, count, t->x);
    step_norm(st, t->x, count, s->hidden, head->norm, s->eps, t->x);
    struct device_product p = step_product(st, &m->head, t->x, t->logits);
    st->ops->linear(st->d, &p, 1, count, m->precision.products_bf16);
    if (!st->ops->finite(st->d, t->logits, (uint64_t)count * s->vocab) && !st->rc)
        st->rc = SONDE_ERROR_NUMERIC;
    st->ops->download(st->d, m->host_logits, t->logits, (size_t)count * s->vocab * sizeof(float));
    return m->host_logits;
}

void head_emit(struct step *st, const struct head *head, logits_callback *emit) {
    struct model *m = st->m;
    struct {
        uint32_t span;
        uint64_t position;
    } of[LOGIT_ROWS];
    uint32_t rows[LOGIT_ROWS], n = 0;
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        for (uint32_t at = g->all ? 0 : g->count - 1; at < g->count && !st->rc; at++) {
            rows[n] = g->row + at;
            of[n].span = g->span;
            of[n++].position = g->first + at;
            if (n < LOGIT_ROWS && !(i + 1 == st->segment_count && at + 1 == g->count))
                continue;
            const float *logits = head_rows(st, head, rows, n);
            for (uint32_t j = 0; j < n && !st->rc; j++)
                emit(st->outputs->context, of[j].span, of[j].position, logits + (size_t)j * m->shape->vocab);
            n = 0;
        }
    }
}

/* -------------------------------------------------------------------------------------- the step */

void step_embed(struct step *st) {
    struct model *m = st->m;
    const struct shape *s = m->shape;
    for (uint32_t i = 0; i < st->segment_count; i++)
        for (uint32_t j = 0; j < st->segments[i].count; j++)
            m->ids[st->segments[i].row + j] = st->segments[i].sequence->tokens[st->segments[i].first + j];
    st->ops->embed(st->d, &m->embed, m->ids, st->rows, m->scratch.x, s->hidden);
    step_round(st, m->scratch.x, (uint64_t)st->rows * s->hidden);
    st->ops->repeat(st->d, m->scratch.h, m->scratch.x, st->rows, s->streams, s->hidden);
}

void step_trace_layer(struct step *st, uint32_t layer) {
    struct model *m = st->m;
    if (!st->outputs->layer)
        return;
    size_t count = (size_t)st->rows * m->shape->streams * m->shape->hidden;
    st->ops->download(st->d, m->host_layer, m->scratch.h, count * sizeof(float));
    st->outputs->layer(st->outputs->context, layer, st->rows, m->host_layer);
}

void step_check_streams(struct step *st) {
    const struct shape *s = st->m->shape;
    if (!st->rc && !st->ops->finite(st->d, st->m->scratch.h, (uint64_t)st->rows * s->streams * s->hidden))
        st->rc = SONDE_ERROR_NUMERIC;
}

/* Says which tensor made a result that is not finite, if one did: the first of the whole checkpoint, all of which is
 * read for it. It may be one that took no part; the checkpoint is broken all the same. */
static int blame(const struct model *m, struct sonde_error *e) {
    uint64_t where;
    const struct tensor *t = checkpoint_nonfinite(m->checkpoint, &where);
    if (t)
        return err_set(e, SONDE_ERROR_NUMERIC, "%s: tensor %s: value %llu is not finite",
                       checkpoint_file(m->checkpoint, t), t->name, (unsigned long long)where);
    return err_set(e, SONDE_ERROR_NUMERIC,
                   "the forward pass overflowed: a result is not finite, though every weight is");
}

static int check(const struct model *m, const struct model_span *spans, uint32_t count, struct sonde_error *e) {
    uint64_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct model_span *span = &spans[i];
        rows += span->count;
        if (span->count == 0 || rows > m->rows)
            return err_set(e, SONDE_ERROR_ARGUMENT, "a step of %llu tokens, expected 1 to %u", (unsigned long long)rows,
                           m->rows);
        if (span->count > span->sequence->context - span->sequence->length)
            return err_set(e, SONDE_ERROR_CONTEXT, "%llu tokens and %u more do not fit a context of %llu",
                           (unsigned long long)span->sequence->length, span->count,
                           (unsigned long long)span->sequence->context);
        for (uint32_t j = 0; j < span->count; j++)
            if (span->ids[j] < 0 || (uint32_t)span->ids[j] >= m->shape->vocab)
                return err_set(e, SONDE_ERROR_ARGUMENT, "token id %d, expected 0 to %u", (int)span->ids[j],
                               m->shape->vocab - 1);
    }
    return SONDE_OK;
}

static void begin(struct step *st, const struct model_span *spans, uint32_t count) {
    struct model *m = st->m;
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *sequence = spans[i].sequence;
        m->segments[i] = (struct segment){.sequence = sequence,
                                          .first = sequence->length,
                                          .row = st->rows,
                                          .count = spans[i].count,
                                          .span = i,
                                          .all = spans[i].all,
                                          .draft = spans[i].draft};
        memcpy(sequence->tokens + sequence->length, spans[i].ids, spans[i].count * sizeof(int32_t));
        st->rows += spans[i].count;
    }
}

/* The spans' tokens are part of their sequences. */
static void end(struct step *st) {
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *g = &st->segments[i];
        g->sequence->length += g->count;
        g->sequence->undoable = g->draft ? (uint32_t)min_u64(g->count - 1, MODEL_MOST_DRAFTS) : 0;
        g->sequence->paired = -1;
    }
}

int step_finish(struct step *st) {
    struct sonde_error late;
    int finished = st->ops->finish(st->d, &late);
    if (finished && !st->rc) {
        st->rc = finished;
        if (st->e)
            *st->e = late;
    }
    if (st->rc == SONDE_ERROR_NUMERIC)
        st->rc = blame(st->m, st->e);
    return st->rc;
}

int model_step(struct model *m, const struct model_span *spans, uint32_t count, const struct model_outputs *outputs,
               struct sonde_error *e) {
    static const struct model_outputs nowhere;
    int rc = check(m, spans, count, e);
    if (!rc)
        rc = sequences_prepare(m, spans, count, e);
    if (rc || count == 0)
        return rc;
    struct step st = {.m = m,
                      .ops = m->device->ops,
                      .d = m->device,
                      .segments = m->segments,
                      .segment_count = count,
                      .outputs = outputs ? outputs : &nowhere,
                      .e = e};
    begin(&st, spans, count);
    m->architecture->step(&st);
    if (!step_finish(&st))
        end(&st);
    return st.rc;
}
