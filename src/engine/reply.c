/*
 * reply.c - one reply being written: from logits to tokens, from tokens to text, until something ends it.
 *
 * Text leaves as whole UTF-8 (the decoder holds back what is not), and never the beginning of a stop string: the
 * longest tail that could still become one waits in `held`.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"

void sonde_generation_default(struct sonde_generation *generation) {
    *generation = (struct sonde_generation){0};
    sonde_sampling_default(&generation->sampling);
}

/* ------------------------------------------------------------------------------------------ text */

/* First place in text at which a stop string begins, and which; `bytes` if none does. */
static size_t find_stop(const struct sonde_generation *g, const char *text, size_t bytes, size_t *which) {
    size_t first = bytes;
    for (size_t i = 0; i < g->stop_count; i++) {
        const char *at = memmem(text, bytes, g->stop[i], strlen(g->stop[i]));
        if (at && (size_t)(at - text) < first) {
            first = (size_t)(at - text);
            *which = i;
        }
    }
    return first;
}

/* Length of the longest end of text that begins a word without being it. */
static size_t could_begin(const char *word, const char *text, size_t bytes) {
    size_t n = min_u64(bytes, strlen(word) - 1);
    while (n && memcmp(text + bytes - n, word, n) != 0)
        n--;
    return n;
}

/* ... that begins a stop string. */
static size_t could_stop(const struct sonde_generation *g, const char *text, size_t bytes) {
    size_t longest = 0;
    for (size_t i = 0; i < g->stop_count; i++)
        longest = max_u64(longest, could_begin(g->stop[i], text, bytes));
    return longest;
}

/* Sends the first n held bytes. Stop strings may begin inside a character only if they are not UTF-8
 * themselves, so pieces stay whole. */
static void send(struct reply *r, size_t n) {
    if (n && r->generation.text && !r->cancelled) {
        char next = r->held.data[n];
        r->held.data[n] = 0;
        r->cancelled = r->generation.text(r->generation.context, r->held.data, n) != 0;
        r->held.data[n] = next;
    }
    if (n) {
        memmove(r->held.data, r->held.data + n, r->held.len - n + 1);
        r->held.len -= n;
    }
}

/* Sends what is before stop strings count, and the mark itself. True: they do. */
static bool arm(struct reply *r, bool last) {
    const char *mark = r->generation.stop_behind;
    if (r->armed || !mark || !r->held.len)
        return r->armed = r->armed || !mark;
    const char *at = memmem(r->held.data, r->held.len, mark, strlen(mark));
    r->armed = at != NULL;
    send(r, at     ? (size_t)(at - r->held.data) + strlen(mark)
            : last ? r->held.len
                   : r->held.len - could_begin(mark, r->held.data, r->held.len));
    return r->armed;
}

static void take_text(struct reply *r, const char *text, size_t bytes, bool last) {
    buf_append(&r->held, text, bytes);
    if (r->held.failed || r->stopped || !arm(r, last))
        return;
    size_t stop = find_stop(&r->generation, r->held.data, r->held.len, &r->result.stop);
    r->stopped = stop < r->held.len;
    send(r, r->stopped || last ? stop : r->held.len - could_stop(&r->generation, r->held.data, r->held.len));
}

/* ---------------------------------------------------------------------------------------- tokens */

static int check(const sonde_model *model, const struct sonde_generation *g, struct sonde_error *e) {
    if (!model->tokenizer && (g->text || g->stop_count))
        return err_set(e, SONDE_ERROR_ARGUMENT, "the model has no tokenizer.json, which generating text needs");
    for (size_t i = 0; i < g->stop_count; i++)
        if (!g->stop[i] || !*g->stop[i])
            return err_set(e, SONDE_ERROR_ARGUMENT, "stop string %zu is empty", i);
    if (g->stop_behind && !*g->stop_behind)
        return err_set(e, SONDE_ERROR_ARGUMENT, "stop_behind is empty");
    return SONDE_OK;
}

int reply_open(struct reply *r, const sonde_model *model, const struct sonde_generation *generation,
               struct sonde_error *e) {
    *r = (struct reply){.model = model, .generation = *generation};
    int rc = check(model, generation, e);
    if (!rc)
        rc = sonde_sampler_open(&generation->sampling, checkpoint_shape(model->checkpoint)->vocab, &r->sampler, e);
    return rc || !model->tokenizer ? rc : sonde_decoder_open(model->tokenizer, &r->decoder, e);
}

void reply_close(struct reply *r) {
    buf_release(&r->held);
    sonde_decoder_close(r->decoder);
    sonde_sampler_close(r->sampler);
}

static bool is_end(const struct reply *r, int32_t id) {
    if (r->generation.ignore_end)
        return false;
    for (size_t i = 0; i < r->generation.end_count; i++)
        if (r->generation.end[i] == id)
            return true;
    return id == checkpoint_shape(r->model->checkpoint)->eos;
}

static bool over(struct reply *r) {
    const uint64_t most = r->generation.max_tokens;
    if (r->stopped)
        r->result.finish = SONDE_FINISH_STOP;
    else if (r->cancelled)
        r->result.finish = SONDE_FINISH_CANCELLED;
    else if (most && r->result.generated_tokens == most)
        r->result.finish = SONDE_FINISH_LENGTH;
    else
        return false;
    return true;
}

static int show(struct reply *r, int32_t id, const float *logits, struct sonde_error *e) {
    const char *text;
    size_t bytes;
    if (r->generation.token && r->generation.token(r->generation.context, id, logits))
        r->cancelled = true;
    if (!r->decoder)
        return SONDE_OK;
    int rc = sonde_decoder_push(r->decoder, id, &text, &bytes, e);
    if (rc == SONDE_ERROR_ARGUMENT) /* a vocabulary padded beyond its tokenizer: a token without text */
        return SONDE_OK;
    if (!rc)
        take_text(r, text, bytes, false);
    return rc;
}

int reply_draw(struct reply *r, const float *logits, int32_t *id, struct sonde_error *e) {
    *id = -1;
    if (over(r))
        return SONDE_OK;
    const struct sonde_generation *g = &r->generation;
    int32_t drawn = sampler_draw_among(r->sampler, logits, g->allowed ? g->allowed(g->context) : NULL);
    if (is_end(r, drawn)) {
        r->result.finish = SONDE_FINISH_END;
        return SONDE_OK;
    }
    r->result.generated_tokens++;
    int rc = show(r, drawn, logits, e);
    if (!rc && !over(r))
        *id = drawn;
    return rc;
}

int reply_end(struct reply *r, struct sonde_error *e) {
    const char *text;
    size_t bytes;
    int rc = SONDE_OK;
    if (r->decoder)
        rc = sonde_decoder_finish(r->decoder, &text, &bytes, e);
    if (!rc && r->decoder)
        take_text(r, text, bytes, true);
    return !rc && r->held.failed ? err_memory(e) : rc;
}
