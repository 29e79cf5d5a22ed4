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
        rc = store_sequence(model->store, options->context, options->mtp != 0, &s->sequence, error);
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

int session_read(sonde_session *session, const int32_t *ids, size_t count, const uint64_t *fork,
                 const struct sonde_observer *observer, struct sonde_error *error) {
    static const struct sonde_observer nobody;
    struct observation o = {.session = session, .observer = observer ? observer : &nobody};
    int rc = check(session, ids, count, error);
    struct store *store = session->model->store;
    uint64_t chunk = model_rows(session->model->model), first = sequence_length(session->sequence);
    struct model_outputs outputs = {.context = &o, .mtp = o.observer->mtp ? on_mtp : NULL};
    for (size_t done = 0; done < count && !rc;) {
        uint64_t pause = fork ? store_pause(store, first + done, first + count, *fork) : first + count;
        uint32_t n = (uint32_t)min_u64(pause - first - done, chunk);
        bool last = done + n == count;
        struct model_span span = {
            .sequence = session->sequence, .ids = ids + done, .count = n, .all = o.observer->logits != NULL};
        /* logits cost a head: only where someone looks, and after the last token */
        outputs.logits = last || o.observer->logits ? on_logits : NULL;
        o.last = sequence_length(session->sequence) + n - 1;
        rc = store_step(store, &span, 1, &outputs, error);
        session->broken = rc != SONDE_OK;
        done += n;
        if (!rc && !last && first + done == pause)
            store_keep(store, session->sequence, NULL);
        if (!rc && !o.stop && o.observer->progress)
            o.stop = o.observer->progress(o.observer->context, done, count);
        if (!rc && o.stop)
            rc = err_set(error, SONDE_ERROR_CANCELLED, "cancelled after %zu of %zu tokens", done, count);
    }
    return rc;
}

int sonde_session_observe(sonde_session *session, const int32_t *ids, size_t count,
                          const struct sonde_observer *observer, struct sonde_error *error) {
    return session_read(session, ids, count, NULL, observer, error);
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

/* -------------------------------------------------------------------------------- what is remembered */

struct recalled session_recall(sonde_session *session, const int32_t *ids, size_t count) {
    struct recalled r = store_recall(session->model->store, ids, count, session->sequence, session->logits);
    session->logits_at = r.logits ? r.length : 0;
    return r;
}

int sonde_session_recall(sonde_session *session, const int32_t *ids, size_t count, size_t *reused,
                         struct sonde_error *error) {
    if (sequence_length(session->sequence))
        return err_set(error, SONDE_ERROR_ARGUMENT, "the session has tokens already: reset it first");
    int rc = check(session, ids, count, error);
    if (!rc)
        *reused = session_recall(session, ids, count).length;
    return rc;
}

void sonde_session_keep(sonde_session *session) {
    if (sequence_length(session->sequence) && !session->broken)
        store_keep(session->model->store, session->sequence, sonde_session_logits(session));
}
