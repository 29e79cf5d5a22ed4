/*
 * task.c - a request that generates: its answers, their limits, the scheduler's callbacks.
 *
 * The first answer is submitted alone; the others follow with its first token, when the prompt has been read and is
 * remembered, so that it is read once.
 *
 * Reasoning is told from content by ids, not by text: </think> is a token that nothing else spells. Constraints hold
 * from there on. A thinking budget that is spent leaves </think> as the only token that may come.
 *
 * A task ends early when its time is over or its client is gone: the ticker finds out between steps, the callbacks with
 * every token. Either way its slot is free one step later.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/dialogue_internal.h"
#include "server/parts_internal.h"

static void submit_answer(struct task *t, uint32_t index);

void make_id(char *id, size_t room, const char *prefix) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint8_t chance[24];
    size_t n = strlen(prefix);
    if (getrandom(chance, sizeof(chance), 0) != sizeof(chance))
        memset(chance, 0, sizeof(chance));
    snprintf(id, room, "%s", prefix);
    for (size_t i = 0; i < sizeof(chance) && n + 1 < room; i++)
        id[n++] = letters[chance[i] % (sizeof(letters) - 1)];
    id[n] = 0;
}

/* --------------------------------------------------------------------------------------- new and free */

/* What the server and the client's key allow. */
static int admit(struct exchange *x, struct refusal *r) {
    struct server *s = exchange_server(x);
    struct sonde_scheduler_status now;
    const char *what;
    if (atomic_load(&s->draining)) {
        refuse(r, 503, NULL, "the server is shutting down");
        r->retry = 5;
        return -1;
    }
    sonde_scheduler_status(s->scheduler, &now);
    if (now.active + now.waiting >= s->options.requests + s->options.queue) {
        refuse(r, 429, NULL, "%u requests are waiting already", now.waiting);
        r->retry = 2;
        return -1;
    }
    double wait = exchange_key(x) ? apikey_begin(exchange_key(x), clock_seconds(), &what) : 0;
    if (wait > 0) {
        refuse(r, 429, NULL, "the key's limit of %s is reached", what);
        r->retry = ceil(wait);
        return -1;
    }
    return 0;
}

struct task *task_new(struct exchange *x, const struct voice *voice, const char *prefix) {
    struct server *s = exchange_server(x);
    struct refusal r = {0};
    struct task *t = calloc(1, sizeof(*t));
    if (!t)
        refuse(&r, 500, NULL, "out of memory");
    if (!t || admit(x, &r)) {
        exchange_refuse(x, &r);
        free(t);
        return NULL;
    }
    t->server = s;
    t->exchange = x;
    t->voice = voice;
    t->charged = exchange_key(x) != NULL;
    t->created = (int64_t)time(NULL);
    t->deadline = s->options.timeout > 0 ? exchange_began(x) + s->options.timeout : INFINITY;
    t->n = 1;
    sonde_model_sampling(s->model, &t->sampling);
    if (getrandom(&t->sampling.seed, sizeof(t->sampling.seed), 0) < 0)
        t->sampling.seed = (uint64_t)t->created;
    make_id(t->id, sizeof(t->id), prefix);
    return t;
}

static void release_answer(struct answer *a) {
    text_stream_close(a->stream);
    for (size_t i = 0; i < COUNT_OF(a->constraints); i++)
        text_constraint_close(a->constraints[i]);
    for (size_t i = 0; i < a->call_count; i++) {
        buf_release(&a->calls[i].name);
        buf_release(&a->calls[i].arguments);
    }
    free(a->calls);
    free(a->mask);
    buf_release(&a->reasoning);
    buf_release(&a->content);
    buf_release(&a->ids);
    buf_release(&a->logprobs);
}

void task_free(struct task *t) {
    if (!t)
        return;
    for (uint32_t i = 0; i < TASK_ANSWERS; i++)
        release_answer(&t->answers[i]);
    for (size_t i = 0; i < t->stop_count; i++)
        free(t->stop[i]);
    for (size_t i = 0; i < COUNT_OF(t->grammars); i++)
        text_grammar_free(t->grammars[i]);
    if (t->release)
        t->release(t->context);
    if (t->charged)
        apikey_end(exchange_key(t->exchange));
    buf_release(&t->prompt_rows);
    free(t->bias);
    sonde_free(t->ids);
    free(t);
}

/* -------------------------------------------------------------------------------------------- numbers */

uint64_t task_generated(const struct task *t) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->n; i++)
        sum += t->answers[i].ids.len / sizeof(int32_t);
    return sum;
}

uint64_t task_reasoning(const struct task *t) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->n; i++)
        sum += t->answers[i].reasoning_tokens;
    return sum;
}

const char *answer_finish(const struct answer *a) {
    if (a->finish == SONDE_FINISH_CANCELLED)
        return a->looping ? "length" : "insufficient_system_resource";
    if (a->finish == SONDE_FINISH_LENGTH || a->finish == SONDE_FINISH_CONTEXT)
        return "length";
    return a->call_count ? "tool_calls" : "stop";
}

/* --------------------------------------------------------------------------------------------- the end */

static void tell_facts(struct task *t) {
    struct exchange_facts *f = exchange_facts(t->exchange);
    f->prompt_tokens = t->count;
    f->reused_tokens = t->reused;
    f->generated_tokens = task_generated(t);
    f->reasoning_tokens = task_reasoning(t);
    f->finish = t->failed ? "error" : atomic_load(&t->gone) ? "gone" : answer_finish(&t->answers[0]);
    if (exchange_key(t->exchange))
        apikey_tokens(exchange_key(t->exchange), clock_seconds(), t->count - t->reused + f->generated_tokens);
}

static void fail(struct task *t) {
    struct exchange_facts *f = exchange_facts(t->exchange);
    if (!t->stream) {
        exchange_refuse(t->exchange, &t->failure);
        return;
    }
    snprintf(f->error, sizeof(f->error), "%.255s", t->failure.message);
    t->voice->failed(t, &t->failure);
    exchange_end(t->exchange);
}

/* The last answer has ended, or none ever began. */
static void complete(struct task *t) {
    struct server *s = t->server;
    struct exchange *x = t->exchange;
    tell_facts(t);
    if (t->failed)
        fail(t);
    else
        t->voice->done(t);
    if (t->stream)
        exchange_end(x);
    pthread_mutex_lock(&s->lock);
    if (t->prev)
        t->prev->next = t->next;
    else
        s->tasks = t->next;
    if (t->next)
        t->next->prev = t->prev;
    s->task_count--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    exchange_leave(x);
    task_free(t);
    exchange_drop(x);
}

void task_check(struct task *t, double now, bool gone) {
    if (now > t->deadline)
        atomic_store(&t->late, true);
    if (gone)
        atomic_store(&t->gone, true);
    if (!atomic_load(&t->late) && !atomic_load(&t->gone))
        return;
    pthread_mutex_lock(&t->server->lock);
    for (uint32_t i = 0; i < t->n; i++)
        if (t->answers[i].request)
            sonde_scheduler_cancel(t->server->scheduler, t->answers[i].request);
    pthread_mutex_unlock(&t->server->lock);
}

static bool is_over(struct task *t) {
    if (exchange_is_gone(t->exchange))
        atomic_store(&t->gone, true);
    return t->failed || atomic_load(&t->late) || atomic_load(&t->gone);
}

/* ---------------------------------------------------------------------------------------------- events */

static struct call *add_call(struct answer *a) {
    struct call *calls = realloc(a->calls, (a->call_count + 1) * sizeof(*calls));
    if (!calls)
        return NULL;
    a->calls = calls;
    struct call *c = &calls[a->call_count++];
    *c = (struct call){0};
    make_id(c->id, sizeof(c->id), exchange_route(a->task->exchange)->dialect == DIALECT_ANTHROPIC ? "toolu_" : "call_");
    return c;
}

static void out_of_memory(struct task *t) {
    t->failed = true;
    refuse(&t->failure, 500, NULL, "out of memory");
}

static void begin(struct task *t) {
    if (t->begun || !t->stream)
        return;
    t->begun = true;
    t->voice->begin(t);
}

static void on_event(void *context, const struct text_event *event) {
    struct answer *a = context;
    struct call *c = event->kind == TEXT_CALL ? add_call(a) : a->call_count ? &a->calls[a->call_count - 1] : NULL;
    if (event->kind >= TEXT_CALL && !c) {
        out_of_memory(a->task);
        return;
    }
    switch (event->kind) {
    case TEXT_REASONING:
        buf_append(&a->reasoning, event->text, event->bytes);
        break;
    case TEXT_CONTENT:
        buf_append(&a->content, event->text, event->bytes);
        break;
    case TEXT_CALL:
        buf_append(&c->name, event->text, event->bytes);
        break;
    case TEXT_ARGUMENTS:
        buf_append(&c->arguments, event->text, event->bytes);
        break;
    case TEXT_CALL_END:
        c->whole = event->whole;
    }
    if (a->task->stream) {
        begin(a->task);
        a->task->voice->event(a, event);
    }
}

static int on_text(void *context, const char *text, size_t bytes) {
    struct answer *a = context;
    struct sonde_error e;
    if (!a->stream)
        on_event(a, &(struct text_event){.kind = TEXT_CONTENT, .text = text, .bytes = bytes});
    else if (text_stream_push(a->stream, text, bytes, on_event, a, &e))
        out_of_memory(a->task);
    return a->task->failed;
}

static int on_progress(void *context, size_t done, size_t total) {
    struct task *t = ((struct answer *)context)->task;
    (void)total;
    atomic_store(&t->state, TASK_READING);
    atomic_store(&t->progress, done);
    begin(t);
    return is_over(t);
}

/* ---------------------------------------------------------------------------------------------- tokens */

/* The last ids are the same few again and again: a period of at most 128, at least 8 times and 96 ids long. */
static bool repeats(const struct answer *a) {
    const int32_t *ids = (const int32_t *)(const void *)a->ids.data;
    size_t count = a->ids.len / sizeof(*ids);
    for (size_t period = 1; period <= 128; period++) {
        size_t length = max_u64(96, 8 * period), same = 0;
        if (length + period > count)
            break;
        while (same < length && ids[count - 1 - same] == ids[count - 1 - same - period])
            same++;
        if (same == length)
            return true;
    }
    return false;
}

/* A row for a token: its own probability and the likeliest ones. */
static void add_row(const struct task *t, struct buf *rows, int32_t id, const float *logits) {
    struct sonde_logprob row[1 + TASK_TOP_LOGPROBS] = {{.id = id}};
    sonde_logprobs(logits, t->server->info.vocab, id, &row[0].logprob, row + 1, t->top_logprobs);
    buf_append(rows, row, (1 + t->top_logprobs) * sizeof(*row));
}

/* Constraints that the token does not fit are over; one always fits, as it was drawn from their masks. */
static void push_constraints(struct answer *a, int32_t id) {
    for (size_t i = 0; i < COUNT_OF(a->constraints); i++)
        if (a->constraints[i] && !text_constraint_push(a->constraints[i], id)) {
            text_constraint_close(a->constraints[i]);
            a->constraints[i] = NULL;
        }
}

static void note_times(struct answer *a) {
    struct exchange_facts *f = exchange_facts(a->task->exchange);
    double now = clock_seconds();
    if (f->first_token <= 0)
        f->first_token = now;
    if (a->last_token > 0)
        metrics_gap(a->task->server->metrics, now - a->last_token);
    a->last_token = now;
    atomic_store(&a->task->state, TASK_WRITING);
    atomic_fetch_add(&a->task->generated, 1);
}

static int on_token(void *context, int32_t id, const float *logits) {
    struct answer *a = context;
    struct task *t = a->task;
    note_times(a);
    buf_append(&a->ids, &id, sizeof(id));
    if (!t->others) {
        t->others = true;
        for (uint32_t i = 1; i < t->n; i++)
            submit_answer(t, i);
    }
    if (a->thinking && id == t->server->think_end) {
        a->thinking = false;
    } else if (a->thinking) {
        a->reasoning_tokens++;
    } else {
        push_constraints(a, id);
        if (t->logprobs)
            add_row(t, &a->logprobs, id, logits);
    }
    if (t->server->options.stop_loops && a->ids.len / sizeof(id) % 16 == 0)
        a->looping = repeats(a);
    return a->looping || is_over(t);
}

static void on_prompt(void *context, uint64_t position, const float *logits) {
    struct task *t = ((struct answer *)context)->task;
    if (position + 1 < t->count)
        add_row(t, &t->prompt_rows, t->ids[position + 1], logits);
}

/* --------------------------------------------------------------------------------------------- masks */

static void allow(uint32_t *mask, int32_t id) {
    if (id >= 0)
        mask[id / 32] |= 1u << id % 32;
}

static void forbid(uint32_t *mask, int32_t id) {
    if (id >= 0)
        mask[id / 32] &= ~(1u << id % 32);
}

/* Thinking must come to its end, as what is asked of the answer holds only behind it. */
static const uint32_t *allowed_thinking(struct answer *a, size_t words) {
    const struct server *s = a->task->server;
    bool spent = a->task->thinking_budget && a->reasoning_tokens >= a->task->thinking_budget;
    memset(a->mask, spent ? 0 : 0xff, words * sizeof(*a->mask));
    allow(a->mask, s->think_end);
    forbid(a->mask, s->info.eos);
    for (size_t i = 0; i < s->turn_count; i++)
        forbid(a->mask, s->turn_ids[i]);
    return a->mask;
}

static const uint32_t *on_allowed(void *context) {
    struct answer *a = context;
    const struct server *s = a->task->server;
    size_t words = ceil_div(s->info.vocab, 32);
    bool any = false;
    if (a->thinking)
        return allowed_thinking(a, words);
    memset(a->mask, 0, words * sizeof(*a->mask));
    for (size_t i = 0; i < COUNT_OF(a->constraints); i++) {
        bool may_end = false;
        if (!a->constraints[i])
            continue;
        const uint32_t *bits = text_constraint_allowed(a->constraints[i], &may_end);
        if (!bits)
            return NULL;
        any = true;
        for (size_t w = 0; w < words; w++)
            a->mask[w] |= bits[w];
        if (may_end)
            allow(a->mask, s->info.eos);
    }
    return any ? a->mask : NULL;
}

/* -------------------------------------------------------------------------------------------- answers */

static void remember_answer(const struct answer *a) {
    if (a->task->chat)
        dialogue_remember(a->task, a);
}

static void on_done(void *context, int code, const struct sonde_generated *result, const struct sonde_error *error) {
    struct answer *a = context;
    struct task *t = a->task;
    struct sonde_error e;
    a->done = true;
    a->finish = result->finish;
    a->stop = result->stop;
    if (a->index == 0)
        t->reused = result->reused_tokens;
    if (!code && a->stream && text_stream_finish(a->stream, on_event, a, &e))
        out_of_memory(t);
    if (code && !t->failed) {
        t->failed = true;
        refuse_error(&t->failure, error);
        if (code == SONDE_ERROR_MEMORY)
            t->failure.status = 503;
    }
    if (a->reasoning.failed || a->content.failed || a->ids.failed || a->logprobs.failed)
        out_of_memory(t);
    if (!t->failed && !atomic_load(&t->gone)) {
        remember_answer(a);
        begin(t);
        if (t->stream)
            t->voice->ended(a);
    }
    t->left--;
    /* the others were to follow the first's first token, which did not come */
    for (uint32_t i = 1; !t->others && i < t->n; i++) {
        t->answers[i].finish = a->finish;
        t->answers[i].done = true;
        t->left--;
        if (t->stream && !t->failed)
            t->voice->ended(&t->answers[i]);
    }
    if (!t->left)
        complete(t);
}

static int open_answer(struct answer *a, struct sonde_error *e) {
    const struct task *t = a->task;
    struct text_stream_options options = {.thinking = t->thinking, .tools = t->tools};
    bool masks = t->grammars[0] || (t->thinking && t->thinking_budget);
    int rc = t->chat ? text_stream_open(&options, &a->stream, e) : SONDE_OK;
    for (size_t i = 0; !rc && i < COUNT_OF(t->grammars); i++)
        if (t->grammars[i])
            rc = text_constraint_open(t->grammars[i], t->server->vocabulary, &a->constraints[i], e);
    a->mask = masks ? malloc(ceil_div(t->server->info.vocab, 32) * sizeof(*a->mask)) : NULL;
    a->thinking = t->thinking;
    return !rc && masks && !a->mask ? err_memory(e) : rc;
}

static struct sonde_request request_of(struct answer *a) {
    const struct task *t = a->task;
    const struct server *s = t->server;
    struct sonde_request q = {.prompt = t->ids, .count = t->count, .done = on_done};
    struct sonde_generation *g = &q.generation;
    sonde_generation_default(g);
    g->sampling = t->sampling;
    g->sampling.seed += a->index;
    g->sampling.bias = t->bias;
    g->sampling.bias_count = t->bias_count;
    g->max_tokens = t->max_tokens;
    g->end = t->chat ? s->turn_ids : NULL;
    g->end_count = t->chat ? s->turn_count : 0;
    g->stop = (const char *const *)t->stop;
    g->stop_count = t->stop_count;
    g->stop_behind = t->thinking ? "</think>" : NULL;
    g->context = a;
    g->text = on_text;
    g->token = on_token;
    g->progress = a->index == 0 ? on_progress : NULL;
    g->allowed = a->mask ? on_allowed : NULL;
    g->prompt = t->prompt_logprobs && a->index == 0 ? on_prompt : NULL;
    g->reuse = !t->prompt_logprobs;
    return q;
}

/* The scheduler calls back in any case: an answer that cannot be asked for ends at once. */
static void submit_answer(struct task *t, uint32_t index) {
    struct answer *a = &t->answers[index];
    struct sonde_error e;
    int rc = open_answer(a, &e);
    struct sonde_request q = request_of(a);
    struct server *s = t->server; /* once submitted, the task may be over at any time */
    pthread_mutex_lock(&s->lock);
    if (!rc)
        rc = sonde_scheduler_submit(s->scheduler, &q, &a->request, &e);
    pthread_mutex_unlock(&s->lock);
    if (rc)
        on_done(a, rc, &(struct sonde_generated){.finish = SONDE_FINISH_CANCELLED}, &e);
}

/* ---------------------------------------------------------------------------------------------- submit */

static int check_room(struct task *t, struct refusal *r) {
    uint64_t context = t->server->context, left;
    if (t->count >= context) {
        refuse(r, 400, "messages", "the prompt has %zu tokens, and the model's context holds %llu with the answer",
               t->count, (unsigned long long)context);
        r->code = "context_length_exceeded";
        return -1;
    }
    left = context - t->count;
    if (!t->max_tokens || t->max_tokens > left)
        t->max_tokens = left;
    return 0;
}

void task_submit(struct task *t) {
    struct server *s = t->server;
    struct exchange *x = t->exchange;
    struct refusal r = {0};
    if (check_room(t, &r)) {
        exchange_refuse(x, &r);
        task_free(t);
        return;
    }
    pthread_mutex_lock(&s->lock);
    t->next = s->tasks;
    if (t->next)
        t->next->prev = t;
    s->tasks = t;
    s->task_count++;
    pthread_mutex_unlock(&s->lock);
    t->left = t->n;
    for (uint32_t i = 0; i < t->n; i++)
        t->answers[i] = (struct answer){.task = t, .index = i, .block = -1};
    exchange_hold(x, t);
    if (t->stream)
        exchange_stream(x);
    submit_answer(t, 0);
}
