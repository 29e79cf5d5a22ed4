/*
 * openai_completions.c - /v1/completions: a text and how it goes on.
 *
 * prompt is a text, ids, or a list of one of these. suffix asks for what belongs between the two (fill in the middle).
 * With echo the prompt comes back before the answer, with logprobs those of its tokens too. A text begins with the
 * model's first token; special tokens written in it are those tokens, as this interface is for people who know them.
 */
#include <stdlib.h>
#include <string.h>

#include "server/asked_internal.h"
#include "server/interfaces_internal.h"
#include "server/parts_internal.h"

enum { DEFAULT_TOKENS = 16, LOGPROBS_MOST = 20 };

static const char known[] =
    "model|prompt|suffix|echo|max_tokens|n|best_of|stop|stream|stream_options|logprobs|" SAMPLING_FIELDS;
static const char harmless[] = "user|user_id|metadata";

/* What only this interface needs of its request. */
struct completion {
    bool echo, score; /* score: nothing but the prompt is asked for */
    char *prompt;     /* with echo: its text, which may hold zero bytes */
    size_t prompt_bytes;
};

static void release(void *context) {
    struct completion *c = context;
    sonde_free(c->prompt);
    free(c);
}

/* --------------------------------------------------------------------------------------------- prompts */

static int append_text(struct buf *ids, const struct server *s, const char *text, size_t bytes,
                       enum sonde_markup markup, struct sonde_error *e) {
    int32_t *list;
    size_t count;
    int rc = sonde_tokenizer_encode(s->tokenizer, text, bytes, markup, &list, &count, e);
    if (rc)
        return rc;
    buf_append(ids, list, count * sizeof(*list));
    sonde_free(list);
    return SONDE_OK;
}

static void append_id(struct buf *ids, int32_t id) {
    buf_append(ids, &id, sizeof(id));
}

static void read_ids(struct fields *f, const struct jnode *list, const struct server *s, struct buf *ids) {
    for (const struct jnode *n = list->first; n && !f->failed; n = n->next) {
        double x;
        if (!jnode_number(n, &x) || x != (double)(int32_t)x || x < 0 || x >= s->info.vocab)
            field_refuse(f, "prompt", "ids from 0 to %u are expected", s->info.vocab - 1);
        else
            append_id(ids, (int32_t)x);
    }
}

/* prefix and suffix as the model was trained to see them, so that the middle comes next. */
static int fill_in(struct fields *f, const struct server *s, const struct jnode *prompt, const char *suffix,
                   struct buf *ids, struct sonde_error *e) {
    int32_t begin = sonde_tokenizer_added(s->tokenizer, "<｜fim▁begin｜>");
    int32_t hole = sonde_tokenizer_added(s->tokenizer, "<｜fim▁hole｜>");
    int32_t end = sonde_tokenizer_added(s->tokenizer, "<｜fim▁end｜>");
    if (begin < 0 || hole < 0 || end < 0) {
        field_refuse(f, "suffix", "this model's tokenizer has no tokens for filling in");
        return SONDE_OK;
    }
    append_id(ids, begin);
    int rc = append_text(ids, s, prompt->text, prompt->length, SONDE_MARKUP_TEXT, e);
    append_id(ids, hole);
    rc = rc ? rc : append_text(ids, s, suffix, strlen(suffix), SONDE_MARKUP_TEXT, e);
    append_id(ids, end);
    return rc;
}

static int read_prompt(struct fields *f, struct task *t, const char *suffix, struct sonde_error *e) {
    const struct server *s = t->server;
    const struct jnode *prompt = field(f, "prompt");
    struct buf ids = {0};
    char *taken;
    size_t bytes;
    int rc = SONDE_OK;
    if (jnode_is(prompt, JNODE_ARRAY) && prompt->count == 1 && prompt->first->kind != JNODE_NUMBER)
        prompt = prompt->first;
    if (jnode_is(prompt, JNODE_ARRAY) && prompt->count && prompt->first->kind != JNODE_NUMBER)
        field_refuse(f, "prompt", "one prompt is answered at a time, not %zu", prompt->count);
    if (!jnode_is(prompt, JNODE_STRING) && !jnode_is(prompt, JNODE_ARRAY))
        field_refuse(f, "prompt", "a string or a list of ids is expected");
    if (suffix && !jnode_is(prompt, JNODE_STRING))
        field_refuse(f, "suffix", "the prompt must be a string then");
    if (f->failed)
        return SONDE_OK;
    if (prompt->kind == JNODE_ARRAY) {
        read_ids(f, prompt, s, &ids);
    } else {
        size_t n = strlen("<｜begin▁of▁sentence｜>");
        bool begun = prompt->length >= n && memcmp(prompt->text, "<｜begin▁of▁sentence｜>", n) == 0;
        if (s->info.bos >= 0 && !begun)
            append_id(&ids, s->info.bos);
        rc = suffix ? fill_in(f, s, prompt, suffix, &ids, e)
                    : append_text(&ids, s, prompt->text, prompt->length, SONDE_MARKUP_TOKENS, e);
    }
    if (!rc && !f->failed && !ids.len)
        field_refuse(f, "prompt", "it is empty");
    rc = rc ? rc : buf_take(&ids, &taken, &bytes, e);
    buf_release(&ids);
    if (rc)
        return rc;
    t->ids = (int32_t *)(void *)taken;
    t->count = bytes / sizeof(*t->ids);
    return SONDE_OK;
}

/* The text of the prompt, for echo. */
static int read_echo(struct task *t, struct completion *c, struct sonde_error *e) {
    bool begun = t->count && t->ids[0] == t->server->info.bos;
    return sonde_tokenizer_decode(t->server->tokenizer, t->ids + begun, t->count - begun, &c->prompt, &c->prompt_bytes,
                                  e);
}

static int read_request(struct fields *f, struct task *t, struct dialogue *p) {
    struct completion *c = t->context;
    const char *suffix = NULL;
    struct sonde_error e;
    uint64_t n = 1, best_of = 0, top = UINT64_MAX;
    (void)p; /* a text is no conversation */
    fields_only(f, known, harmless);
    field_string(f, "suffix", &suffix);
    field_bool(f, "echo", &c->echo);
    t->max_tokens = DEFAULT_TOKENS;
    field_count(f, "max_tokens", 0, UINT32_MAX, &t->max_tokens);
    field_count(f, "n", 1, TASK_ANSWERS, &n);
    field_count(f, "best_of", 1, TASK_ANSWERS, &best_of);
    field_count(f, "logprobs", 0, LOGPROBS_MOST, &top);
    field_bool(f, "stream", &t->stream);
    if (best_of && best_of != n)
        field_refuse(f, "best_of", "only the value of n is supported");
    if (c->echo && suffix)
        field_refuse(f, "echo", "it does not go with suffix");
    read_stream_options(f, t);
    read_sampling(f, t);
    read_stop(f, "stop", t);
    int rc = f->failed ? SONDE_OK : read_prompt(f, t, suffix, &e);
    if (!rc && !f->failed && t->max_tokens == 0 && !c->echo)
        field_refuse(f, "max_tokens", "0 needs \"echo\": true");
    c->score = t->max_tokens == 0;
    t->max_tokens += c->score; /* the model says something in any case; it is not shown */
    t->n = (uint32_t)n;
    t->logprobs = top != UINT64_MAX;
    t->top_logprobs = t->logprobs ? (uint32_t)min_u64(top, t->server->info.vocab) : 0;
    t->prompt_logprobs = t->logprobs && c->echo;
    if (!rc && !f->failed && c->echo)
        rc = read_echo(t, c, &e);
    if (rc)
        return refuse_error(f->refusal, &e);
    return f->failed ? -1 : 0;
}

/* ------------------------------------------------------------------------------------------------ voice */

static void open_object(struct buf *b, const struct task *t) {
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,\"model\":", t->id,
               (long long)t->created);
    write_model_name(b, t->server);
    buf_printf(b, ",\"system_fingerprint\":\"sonde-%s\",\"choices\":[", sonde_version());
}

/* Rows of the prompt (behind its first token, which nothing precedes) and of the answer, as one list. */
struct rows {
    const struct task *t;
    const struct answer *a;
    size_t prompt, from, to; /* rows of the prompt; of the answer */
};

static const struct sonde_logprob *row_at(const struct rows *r, size_t i) {
    return i < r->prompt ? logprob_row(r->t, &r->t->prompt_rows, i)
                         : logprob_row(r->t, &r->a->logprobs, r->from + i - r->prompt);
}

static void write_value(struct buf *b, float x) {
    buf_printf(b, "%.6g", x < -9999 ? -9999.0 : (double)x);
}

static void write_tops(struct buf *b, const struct rows *r, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const struct sonde_logprob *row = row_at(r, i);
        buf_string(b, i || r->prompt ? ",{" : "{");
        for (uint32_t k = 1; k <= r->t->top_logprobs; k++) {
            buf_string(b, k > 1 ? "," : "");
            write_token(b, r->t->server, row[k].id);
            buf_byte(b, ':');
            write_value(b, row[k].logprob);
        }
        buf_byte(b, '}');
    }
}

static void write_offsets(struct buf *b, const struct rows *r, size_t count, size_t at) {
    for (size_t i = 0; i < count; i++) {
        const char *bytes;
        size_t n;
        buf_printf(b, "%s%zu", i || r->prompt ? "," : "", at);
        text_token_bytes(r->t->server->tokenizer, row_at(r, i)->id, &bytes, &n);
        at += n;
    }
}

/* The first token of an echoed prompt has null for its probability. */
static void write_logprobs(struct buf *b, const struct rows *r, size_t at) {
    size_t count = r->prompt + r->to - r->from;
    buf_string(b, "{\"tokens\":[");
    if (r->prompt)
        write_token(b, r->t->server, r->t->ids[0]);
    for (size_t i = 0; i < count; i++) {
        buf_string(b, i || r->prompt ? "," : "");
        write_token(b, r->t->server, row_at(r, i)->id);
    }
    buf_string(b, r->prompt ? "],\"token_logprobs\":[null" : "],\"token_logprobs\":[");
    for (size_t i = 0; i < count; i++) {
        buf_string(b, i || r->prompt ? "," : "");
        write_value(b, row_at(r, i)->logprob);
    }
    buf_string(b, r->prompt ? "],\"top_logprobs\":[null" : "],\"top_logprobs\":[");
    write_tops(b, r, count);
    buf_string(b, r->prompt ? "],\"text_offset\":[0" : "],\"text_offset\":[");
    write_offsets(b, r, count, at);
    buf_string(b, "]}");
}

/* echo: the prompt stands before it. */
static void write_choice(struct buf *b, struct answer *a, bool echo, const char *text, size_t bytes,
                         const char *finish) {
    const struct task *t = a->task;
    const struct completion *c = t->context;
    struct buf all = {0};
    bytes = c->score ? 0 : bytes;
    if (echo)
        buf_append(&all, c->prompt, c->prompt_bytes);
    buf_append(&all, text, bytes);
    buf_printf(b, "{\"index\":%u,\"text\":", a->index);
    json_write_string(b, all.data, all.len);
    buf_release(&all);
    buf_string(b, ",\"logprobs\":");
    size_t rows = t->logprobs && !c->score ? logprob_rows(t, &a->logprobs) : 0;
    struct rows r = {t, a, echo ? logprob_rows(t, &t->prompt_rows) : 0, a->logprobs_sent, rows};
    if (t->logprobs)
        write_logprobs(b, &r, c->score ? 0 : a->content.len - bytes);
    else
        buf_string(b, "null");
    a->logprobs_sent = rows;
    if (finish)
        buf_printf(b, ",\"finish_reason\":\"%s\"}", finish);
    else
        buf_string(b, ",\"finish_reason\":null}");
}

static bool echoes(const struct task *t) {
    const struct completion *c = t->context;
    return c->echo;
}

static void send_choice(struct answer *a, bool echo, const char *text, size_t bytes, const char *finish) {
    struct buf b = {0};
    open_object(&b, a->task);
    write_choice(&b, a, echo, text, bytes, finish);
    buf_string(&b, "]}");
    send_event(a->task, NULL, &b);
}

static void text_begin(struct task *t) {
    (void)t;
}

static void text_event(struct answer *a, const struct text_event *event) {
    bool first = a->content.len == event->bytes;
    send_choice(a, first && echoes(a->task), event->text, event->bytes, NULL);
}

static void text_ended(struct answer *a) {
    send_choice(a, !a->content.len && echoes(a->task), "", 0, answer_finish(a));
}

static void text_done(struct task *t) {
    struct buf b = {0};
    open_object(&b, t);
    for (uint32_t i = 0; i < t->n && !t->stream; i++) {
        struct answer *a = &t->answers[i];
        buf_string(&b, i ? "," : "");
        write_choice(&b, a, echoes(t), a->content.data, a->content.len, answer_finish(a));
    }
    buf_string(&b, "],\"usage\":");
    write_usage_openai(&b, t);
    buf_string(&b, t->stream ? "}" : "}\n");
    if (!t->stream) {
        exchange_reply_json(t->exchange, 200, &b);
        return;
    }
    if (t->usage)
        send_event(t, NULL, &b);
    buf_release(&b);
    buf_string(&b, "[DONE]");
    send_event(t, NULL, &b);
}

void serve_completions(struct exchange *x) {
    static const struct voice voice = {text_begin, text_event, text_ended, text_done, openai_failed};
    static const struct interface completions = {
        .voice = &voice, .prefix = "cmpl-", .own = sizeof(struct completion), .release = release, .read = read_request};
    serve_interface(x, &completions);
}
