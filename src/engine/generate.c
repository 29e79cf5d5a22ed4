/* generate.c - a session and a reply: prompt in, text out. */
#include "engine/engine_internal.h"

static int on_progress(void *context, size_t done, size_t total) {
    struct reply *r = context;
    if (r->generation.progress && r->generation.progress(r->generation.context, done, total))
        r->cancelled = true;
    return r->cancelled;
}

static int on_prompt(void *context, uint64_t position, const float *logits) {
    struct reply *r = context;
    r->generation.prompt(r->generation.context, position, logits);
    return 0;
}

/* What is remembered of the prompt is taken up, the rest is read. */
static int read_prompt(struct reply *r, sonde_session *session, const int32_t *prompt, size_t count,
                       struct sonde_error *e) {
    struct sonde_observer observer = {.context = r, .progress = on_progress};
    if (r->generation.prompt)
        observer.logits = on_prompt;
    struct recalled known = {0};
    bool remembers = r->generation.reuse;
    if (remembers && sequence_length(session->sequence) == 0)
        known = session_recall(session, prompt, count);
    r->result.reused_tokens = known.length;
    int rc = session_read(session, prompt + known.length, count - known.length, remembers ? &known.fork : NULL,
                          &observer, e);
    r->result.prompt_tokens = sequence_length(session->sequence);
    if (rc == SONDE_ERROR_CANCELLED)
        return SONDE_OK;
    if (!rc && remembers)
        sonde_session_keep(session);
    return rc;
}

/* Draws and feeds tokens until something ends it; the reason goes to result.finish. */
static int write_reply(struct reply *r, sonde_session *session, struct sonde_error *e) {
    struct sequence *sequence = session->sequence;
    int32_t id;
    int rc = reply_draw(r, sonde_session_logits(session), &id, e);
    while (!rc && id >= 0) {
        if (sequence_length(sequence) == sequence_context(sequence)) {
            r->result.finish = SONDE_FINISH_CONTEXT;
            break;
        }
        rc = sonde_session_feed(session, &id, 1, e);
        rc = rc ? rc : reply_draw(r, sonde_session_logits(session), &id, e);
    }
    rc = rc ? rc : reply_end(r, e);
    if (!rc && r->generation.reuse)
        sonde_session_keep(session);
    return rc;
}

int sonde_generate(sonde_session *session, const int32_t *prompt, size_t count,
                   const struct sonde_generation *generation, struct sonde_generated *result,
                   struct sonde_error *error) {
    struct reply r;
    uint64_t held = sequence_length(session->sequence);
    if (!count && !sonde_session_logits(session))
        return err_set(error, SONDE_ERROR_ARGUMENT,
                       "nothing to continue: no prompt, and the session has no logits after its last token");
    int rc = reply_open(&r, session->model, generation, error);
    double start = clock_seconds();
    if (!rc)
        rc = read_prompt(&r, session, prompt, count, error);
    r.result.prompt_seconds = clock_seconds() - start;
    r.result.prompt_tokens -= held;
    if (!rc) {
        size_t n;
        const int32_t *ids = sonde_session_tokens(session, &n);
        for (size_t i = 0; i < n; i++)
            sonde_sampler_prompt(r.sampler, ids[i]);
        start = clock_seconds();
        rc = write_reply(&r, session, error);
        r.result.generate_seconds = clock_seconds() - start;
    }
    if (!rc && result)
        *result = r.result;
    reply_close(&r);
    return rc;
}
