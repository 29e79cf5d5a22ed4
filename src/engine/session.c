/* session.c - one growing sequence: tokens in, logits out, in steps of at most the model's chunk. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"

void sonde_session_options_default(struct sonde_session_options *options) {
    *options = (struct sonde_session_options){0};
}

int sonde_session_open(sonde_model *model, const struct sonde_session_options *options, sonde_session **session,
                       struct sonde_error *error) {
    struct sonde_session_options defaults = {0};
    options = options ? options : &defaults;
    sonde_session *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(error);
    s->model = model;
    s->logits = calloc(checkpoint_shape(model->checkpoint)->vocab, sizeof(*s->logits));
    int rc = s->logits ? SONDE_OK : err_memory(error);
    if (!rc)
        rc = sequence_open(model->model, options->context, options->mtp != 0, &s->sequence, error);
    if (rc)
        sonde_session_close(s);
    else
        *session = s;
    return rc;
}

void sonde_session_close(sonde_session *session) {
    if (!session)
        return;
    sequence_close(session->sequence);
    free(session->logits);
    free(session);
}

void sonde_session_reset(sonde_session *session) {
    sequence_reset(session->sequence);
    session->logits_at = 0;
    session->broken = false;
}

/* One call of sonde_session_observe(): what its callbacks need. */
struct observation {
    sonde_session *session;
    const struct sonde_observer *observer;
    uint64_t last; /* position whose logits the session keeps */
    int stop;      /* first nonzero answer of a callback */
};

static void on_logits(void *context, uint32_t span, uint64_t position, const float *logits) {
    struct observation *o = context;
    (void)span;
    if (position == o->last) {
        memcpy(o->session->logits, logits, checkpoint_shape(o->session->model->checkpoint)->vocab * sizeof(*logits));
        o->session->logits_at = position + 1;
    }
    if (o->observer->logits && !o->stop)
        o->stop = o->observer->logits(o->observer->context, position, logits);
}

static void on_mtp(void *context, uint32_t span, uint64_t position, const float *logits) {
    struct observation *o = context;
    (void)span;
    if (!o->stop)
        o->stop = o->observer->mtp(o->observer->context, position, logits);
}

static int check(const sonde_session *s, const int32_t *ids, size_t count, struct sonde_error *e) {
    uint32_t vocab = checkpoint_shape(s->model->checkpoint)->vocab;
    uint64_t length = sequence_length(s->sequence), context = sequence_context(s->sequence);
    if (s->broken)
        return err_set(e, SONDE_ERROR_ARGUMENT, "the session failed in an earlier call: reset it first");
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return err_set(e, SONDE_ERROR_ARGUMENT, "token id %d, expected 0 to %u", (int)ids[i], vocab - 1);
    if (count > context - length)
        return err_set(e, SONDE_ERROR_CONTEXT, "%zu more tokens do not fit: %llu of the context's %llu are taken",
                       count, (unsigned long long)length, (unsigned long long)context);
    return SONDE_OK;
}

int sonde_session_observe(sonde_session *session, const int32_t *ids, size_t count,
                          const struct sonde_observer *observer, struct sonde_error *error) {
    static const struct sonde_observer nobody;
    struct observation o = {.session = session, .observer = observer ? observer : &nobody};
    int rc = check(session, ids, count, error);
    uint32_t chunk = model_rows(session->model->model);
    struct model_outputs outputs = {.context = &o, .mtp = o.observer->mtp ? on_mtp : NULL};
    for (size_t done = 0; done < count && !rc;) {
        uint32_t n = count - done < chunk ? (uint32_t)(count - done) : chunk;
        bool last = done + n == count;
        struct model_span span = {session->sequence, ids + done, n, o.observer->logits != NULL};
        /* logits cost a head: only where someone looks, and after the last token */
        outputs.logits = last || o.observer->logits ? on_logits : NULL;
        o.last = sequence_length(session->sequence) + n - 1;
        rc = model_step(session->model->model, &span, 1, &outputs, error);
        session->broken = rc != SONDE_OK;
        done += n;
        if (!rc && !o.stop && o.observer->progress)
            o.stop = o.observer->progress(o.observer->context, done, count);
        if (!rc && o.stop)
            rc = err_set(error, SONDE_ERROR_CANCELLED, "cancelled after %zu of %zu tokens", done, count);
    }
    return rc;
}

int sonde_session_feed(sonde_session *session, const int32_t *ids, size_t count, struct sonde_error *error) {
    return sonde_session_observe(session, ids, count, NULL, error);
}

const float *sonde_session_logits(const sonde_session *session) {
    uint64_t length = sequence_length(session->sequence);
    return length && session->logits_at == length ? session->logits : NULL;
}

const int32_t *sonde_session_tokens(const sonde_session *session, size_t *count) {
    *count = sequence_length(session->sequence);
    return sequence_tokens(session->sequence);
}
