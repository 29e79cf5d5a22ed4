/*
 * answer.c - one answer: feed what the session lacks, generate, divide reasoning from text, keep the ids.
 *
 * A session can only be extended. If its tokens are the beginning of the new prompt, the rest is fed, which
 * is what a growing conversation gives; if they are not (an earlier answer was taken back, or reasoning is
 * dropped from the prompt as the model was trained to expect), it begins anew.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "talk_internal.h"

#define THINK_END       "</think>"
#define THINK_END_BYTES (sizeof(THINK_END) - 1)

/* -------------------------------------------------------------------------------------- splitter */

static size_t mark_prefix(const char *text, size_t bytes) {
    size_t n = min_u64(bytes, THINK_END_BYTES - 1);
    while (n && memcmp(text + bytes - n, THINK_END, n) != 0)
        n--;
    return n;
}

void think_splitter_push(struct think_splitter *s, const char *text, size_t bytes, bool finish,
                         void (*show)(void *context, bool reasoning, const char *text, size_t bytes), void *context) {
    if (!s->thinking) {
        if (bytes)
            show(context, false, text, bytes);
        return;
    }
    buf_append(&s->held, text, bytes);
    if (!s->held.len)
        return;
    char *data = s->held.data, *mark = memmem(data, s->held.len, THINK_END, THINK_END_BYTES);
    size_t clear = mark ? (size_t)(mark - data) : s->held.len - (finish ? 0 : mark_prefix(data, s->held.len));
    size_t rest = s->held.len - clear - (mark ? THINK_END_BYTES : 0);
    if (clear)
        show(context, true, data, clear);
    if (mark) {
        s->thinking = false;
        if (rest)
            show(context, false, mark + THINK_END_BYTES, rest);
        buf_release(&s->held);
    } else {
        memmove(data, data + clear, rest);
        s->held.len = rest;
    }
}

/* ------------------------------------------------------------------------------------ generation */

/* A small model may write both sides of the conversation: its answer is over where another turn begins. */
static const char *const turn_tokens[] = {"<｜User｜>", "<｜Assistant｜>", "<｜System｜>", "<｜begin▁of▁sentence｜>"};

struct running {
    const struct answer_request *request;
    struct answer *answer;
    struct think_splitter splitter;
    struct progress progress;
    int stop;
};

static void on_part(void *context, bool reasoning, const char *text, size_t bytes) {
    struct running *r = context;
    buf_append(reasoning ? &r->answer->reasoning : &r->answer->text, text, bytes);
    r->stop |= r->request->show(r->request->context, reasoning, text, bytes);
}

static int on_text(void *context, const char *text, size_t bytes) {
    struct running *r = context;
    progress_end(&r->progress);
    think_splitter_push(&r->splitter, text, bytes, false, on_part, r);
    return r->stop || interrupted();
}

static int on_progress(void *context, size_t done, size_t total) {
    struct running *r = context;
    progress_step(&r->progress, done, total);
    return interrupted();
}

/* How many of the prompt's tokens the session holds; resets it if they are not the prompt's beginning. */
static size_t session_reuse(sonde_session *session, const int32_t *ids, size_t count) {
    size_t held;
    const int32_t *tokens = sonde_session_tokens(session, &held);
    if (held <= count && (!held || memcmp(tokens, ids, held * sizeof(*ids)) == 0))
        return held;
    sonde_session_reset(session);
    return 0;
}

int answer_generate(const struct answer_request *request, struct answer *a, struct sonde_error *e) {
    struct running r = {.request = request, .answer = a, .splitter = {.thinking = request->thinking}};
    struct sonde_generation generation = request->generation;
    size_t held = session_reuse(request->session, request->ids, request->count);
    generation.context = &r;
    generation.text = on_text;
    generation.progress = on_progress;
    generation.reuse = 1;
    int32_t ends[COUNT_OF(turn_tokens)];
    generation.end = ends;
    generation.end_count = 0;
    for (size_t i = 0; request->turns && i < COUNT_OF(turn_tokens); i++)
        if ((ends[generation.end_count] = sonde_tokenizer_added(request->turns, turn_tokens[i])) >= 0)
            generation.end_count++;
    progress_init(&r.progress, "reading");
    interrupt_arm();
    int rc = sonde_generate(request->session, request->ids + held, request->count - held, &generation, &a->result, e);
    interrupt_disarm();
    progress_end(&r.progress);
    think_splitter_push(&r.splitter, NULL, 0, true, on_part, &r);
    a->thought = request->thinking;
    a->thinking = r.splitter.thinking;
    if (!rc && (a->text.failed || a->reasoning.failed || r.splitter.held.failed))
        rc = err_memory(e);
    buf_release(&r.splitter.held);
    return rc;
}

void answer_release(struct answer *a) {
    buf_release(&a->text);
    buf_release(&a->reasoning);
}

/* ------------------------------------------------------------------------------------- keeping it */

/*
 * The generated ids of the text: those after </think>, if the model was to think. The session lacks the last
 * token where generation was cut short, and holds more than the text where it was ended by a stop string;
 * so what it holds is decoded, must be the beginning of the text, and the rest of the text is encoded. Where
 * that fails (a character was cut in two) the ids stay NULL and the text will be encoded as a whole.
 */
static int keep_ids(struct message *m, const int32_t *ids, size_t count, const sonde_tokenizer *tokenizer,
                    struct sonde_error *e) {
    char *decoded = NULL;
    int32_t *rest = NULL;
    size_t bytes, rest_count = 0;
    int rc = sonde_tokenizer_decode(tokenizer, ids, count, &decoded, &bytes, e);
    if (rc)
        return rc;
    if (bytes > m->text.len || (bytes && memcmp(decoded, m->text.data, bytes) != 0))
        goto out;
    if (bytes < m->text.len)
        rc = sonde_tokenizer_encode(tokenizer, m->text.data + bytes, m->text.len - bytes, SONDE_MARKUP_TEXT, &rest,
                                    &rest_count, e);
    int32_t *all = rc ? NULL : malloc((count + rest_count + 1) * sizeof(*all));
    if (!rc && !all)
        rc = err_memory(e);
    if (all) {
        memcpy(all, ids, count * sizeof(*all));
        if (rest_count)
            memcpy(all + count, rest, rest_count * sizeof(*all));
        m->ids = all;
        m->id_count = count + rest_count;
    }
out:
    sonde_free(decoded);
    sonde_free(rest);
    return rc;
}

int answer_keep(struct answer *a, sonde_session *session, const sonde_tokenizer *tokenizer, size_t prompt_count,
                struct conversation *c, struct sonde_error *e) {
    size_t held, from = prompt_count;
    const int32_t *tokens = sonde_session_tokens(session, &held);
    int32_t think_end = sonde_tokenizer_added(tokenizer, THINK_END);
    struct message *m = conversation_add(c, SPEAKER_ASSISTANT);
    if (!m)
        return err_memory(e);
    if (a->thought) /* the first </think> ended it, as in think_splitter_push() */
        while (from < held && tokens[from++] != think_end) {
        }
    m->text = a->text;
    m->reasoning = a->reasoning;
    a->text = a->reasoning = (struct buf){0};
    if (from >= held || a->thinking)
        return SONDE_OK;
    return keep_ids(m, tokens + from, held - from, tokenizer, e);
}

/* --------------------------------------------------------------------------------- showing reasoning */

static void show_string(struct output *out, const char *text) {
    output_write(out, text, strlen(text));
}

void reasoning_show(struct reasoning_style *s, const char *text, size_t bytes) {
    if (!s->open)
        show_string(s->out, s->dim ? "\033[2m" : "[thinking]\n");
    s->open = true;
    output_write(s->out, text, bytes);
}

void reasoning_end(struct reasoning_style *s) {
    if (!s->open)
        return;
    s->open = false;
    if (s->dim)
        show_string(s->out, "\033[22m");
    show_string(s->out, s->out->last == '\n' ? "" : "\n");
    show_string(s->out, s->dim ? "\n" : "[answer]\n");
}
