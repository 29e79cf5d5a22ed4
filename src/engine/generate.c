/*
 * generate.c - the loop around a session: prompt in, text out, until something ends it.
 *
 * Text leaves as whole UTF-8 (the decoder holds back what is not), and never the beginning of a stop string:
 * the longest tail that could still become one waits in `held`.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"

struct generating {
    const struct sonde_generation *options;
    struct buf held; /* text that could begin a stop string */
    bool stopped;    /* a stop string came */
    bool cancelled;  /* a callback said so */
};

void sonde_generation_default(struct sonde_generation *generation) {
    *generation = (struct sonde_generation){0};
    sonde_sampling_default(&generation->sampling);
}

/* First place in text at which a stop string begins; `bytes` if none does. */
static size_t find_stop(const struct sonde_generation *g, const char *text, size_t bytes) {
    size_t first = bytes;
    for (size_t i = 0; i < g->stop_count; i++) {
        const char *at = memmem(text, bytes, g->stop[i], strlen(g->stop[i]));
        if (at && (size_t)(at - text) < first)
            first = (size_t)(at - text);
    }
    return first;
}

/* Length of the longest end of text that begins a stop string. */
static size_t could_stop(const struct sonde_generation *g, const char *text, size_t bytes) {
    size_t longest = 0;
    for (size_t i = 0; i < g->stop_count; i++)
        for (size_t n = min_u64(bytes, strlen(g->stop[i]) - 1); n > longest; n--)
            if (memcmp(text + bytes - n, g->stop[i], n) == 0)
                longest = n;
    return longest;
}

/* Sends the first n held bytes. Stop strings may begin inside a character only if they are not UTF-8
 * themselves, so pieces stay whole. */
static void send(struct generating *g, size_t n) {
    if (n && g->options->text && !g->cancelled) {
        char next = g->held.data[n];
        g->held.data[n] = 0;
        g->cancelled = g->options->text(g->options->context, g->held.data, n) != 0;
        g->held.data[n] = next;
    }
    if (n) {
        memmove(g->held.data, g->held.data + n, g->held.len - n + 1);
        g->held.len -= n;
    }
}

static void take_text(struct generating *g, const char *text, size_t bytes, bool last) {
    buf_append(&g->held, text, bytes);
    if (g->held.failed || g->stopped)
        return;
    size_t stop = find_stop(g->options, g->held.data, g->held.len);
    g->stopped = stop < g->held.len;
    send(g, g->stopped || last ? stop : g->held.len - could_stop(g->options, g->held.data, g->held.len));
}

static int on_progress(void *context, size_t done, size_t total) {
    struct generating *g = context;
    if (g->options->progress && g->options->progress(g->options->context, done, total))
        g->cancelled = true;
    return g->cancelled;
}

static int read_prompt(struct generating *g, sonde_session *session, const int32_t *prompt, size_t count,
                       struct sonde_error *e) {
    struct sonde_observer observer = {.context = g, .progress = on_progress};
    int rc = sonde_session_observe(session, prompt, count, &observer, e);
    return rc == SONDE_ERROR_CANCELLED ? SONDE_OK : rc;
}

struct loop {
    struct generating g;
    sonde_session *session;
    sonde_sampler *sampler;
    sonde_decoder *decoder;
    struct sonde_generated result;
};

static bool is_end(const struct loop *l, int32_t id) {
    const struct sonde_generation *o = l->g.options;
    for (size_t i = 0; i < o->end_count; i++)
        if (o->end[i] == id)
            return true;
    return id == checkpoint_shape(l->session->model->checkpoint)->eos;
}

/* Draws, shows and feeds tokens until something ends it; the reason goes to result.finish. */
static int generate(struct loop *l, struct sonde_error *e) {
    struct generating *g = &l->g;
    struct sequence *sequence = l->session->sequence;
    const char *text;
    size_t bytes;
    int rc = SONDE_OK;
    while (!rc) {
        if (g->cancelled || g->stopped) {
            l->result.finish = g->stopped ? SONDE_FINISH_STOP : SONDE_FINISH_CANCELLED;
            break;
        }
        if (g->options->max_tokens && l->result.generated_tokens == g->options->max_tokens) {
            l->result.finish = SONDE_FINISH_LENGTH;
            break;
        }
        int32_t id = sonde_sampler_draw(l->sampler, sonde_session_logits(l->session));
        if (is_end(l, id)) {
            l->result.finish = SONDE_FINISH_END;
            break;
        }
        l->result.generated_tokens++;
        rc = sonde_decoder_push(l->decoder, id, &text, &bytes, e);
        if (rc == SONDE_ERROR_ARGUMENT) /* a vocabulary padded beyond its tokenizer: a token without text */
            rc = SONDE_OK;
        else if (!rc)
            take_text(g, text, bytes, false);
        if (rc || g->stopped || g->cancelled || l->result.generated_tokens == g->options->max_tokens)
            continue;
        if (sequence_length(sequence) == sequence_context(sequence)) {
            l->result.finish = SONDE_FINISH_CONTEXT;
            break;
        }
        rc = sonde_session_feed(l->session, &id, 1, e);
    }
    if (!rc)
        rc = sonde_decoder_finish(l->decoder, &text, &bytes, e);
    if (!rc)
        take_text(g, text, bytes, true);
    return !rc && g->held.failed ? err_memory(e) : rc;
}

static int check(const sonde_session *session, size_t count, const struct sonde_generation *g, struct sonde_error *e) {
    if (!session->model->tokenizer)
        return err_set(e, SONDE_ERROR_ARGUMENT, "the model has no tokenizer.json, which generating text needs");
    if (!count && !sonde_session_logits(session))
        return err_set(e, SONDE_ERROR_ARGUMENT,
                       "nothing to continue: no prompt, and the session has no logits after its last token");
    for (size_t i = 0; i < g->stop_count; i++)
        if (!g->stop[i] || !*g->stop[i])
            return err_set(e, SONDE_ERROR_ARGUMENT, "stop string %zu is empty", i);
    return SONDE_OK;
}

int sonde_generate(sonde_session *session, const int32_t *prompt, size_t count,
                   const struct sonde_generation *generation, struct sonde_generated *result,
                   struct sonde_error *error) {
    struct loop l = {.g.options = generation, .session = session};
    uint32_t vocab = checkpoint_shape(session->model->checkpoint)->vocab;
    int rc = check(session, count, generation, error);
    if (!rc)
        rc = sonde_sampler_open(&generation->sampling, vocab, &l.sampler, error);
    if (!rc)
        rc = sonde_decoder_open(session->model->tokenizer, &l.decoder, error);
    uint64_t held = sequence_length(session->sequence);
    double start = clock_seconds();
    if (!rc)
        rc = read_prompt(&l.g, session, prompt, count, error);
    l.result.prompt_seconds = clock_seconds() - start;
    l.result.prompt_tokens = sequence_length(session->sequence) - held;
    if (!rc) {
        size_t n;
        const int32_t *ids = sonde_session_tokens(session, &n);
        for (size_t i = 0; i < n; i++)
            sonde_sampler_prompt(l.sampler, ids[i]);
        start = clock_seconds();
        rc = generate(&l, error);
        l.result.generate_seconds = clock_seconds() - start;
    }
    if (!rc && result)
        *result = l.result;
    buf_release(&l.g.held);
    sonde_decoder_close(l.decoder);
    sonde_sampler_close(l.sampler);
    return rc;
}
