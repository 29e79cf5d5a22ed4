/*
 * scheduler.c - many requests, one model, step by step.
 *
 * A request's ids are its prompt and what was drawn since; its sequence has been fed a beginning of them. What is left
 * to feed is a rest of the prompt or the token drawn last: a step treats both alike, and a request that lost its
 * sequence to others starts over from its ids, or from what is remembered of them.
 *
 *     submitted --> waiting --admit--> active --settle, again and again--> done
 *                      ^-----preempt-----/
 *
 * Lists change under the lock; all else of a request belongs to the thread that steps.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"

enum { REQUESTS = 64 };

struct request {
    struct request *next; /* while waiting */
    uint64_t id;
    atomic_bool cancelled;
    struct reply reply;
    void (*done)(void *context, int code, const struct sonde_generated *result, const struct sonde_error *error);
    char **stop, *behind;
    int32_t *end;

    int32_t *ids; /* [count], and behind them drafts */
    uint64_t count, room, prompt;
    struct sequence *sequence; /* NULL while waiting */
    float *logits;             /* [1 + drafts, V] */
    uint64_t shown;            /* tokens of the prompt whose logits the caller has seen */
    uint64_t fork, pause;      /* where to keep a snapshot on the way; where the next is */
    uint32_t drafts;           /* behind ids: guesses, of which the next step tells how many are right */
    uint64_t need;             /* tokens up to the pause */
    uint32_t planned;          /* tokens of the step in work */
    bool prompted;             /* the sampler knows the prompt */
    double submitted, answering;
};

struct sonde_scheduler {
    sonde_model *m;
    struct store *store;
    uint32_t most, drafts;
    uint64_t step_tokens, rows, vocab;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct request *waiting; /* by arrival */
    struct request **active; /* [most] by admission */
    uint32_t active_count;
    uint64_t next_id;
    bool stopping;
    struct sonde_scheduler_status status; /* what others see of `now` */

    struct sonde_scheduler_status now;
    struct model_span *spans;   /* [most] of the step in work */
    struct request **of_span;   /* [most] */
    struct request **readers;   /* [most] */
    struct model_draft *wanted; /* [most] */
    uint32_t span_count;
};

/* ---------------------------------------------------------------------------------------- requests */

static void release(struct request *r) {
    sequence_close(r->sequence);
    reply_close(&r->reply);
    for (size_t i = 0; r->stop && i < r->reply.generation.stop_count; i++)
        free(r->stop[i]);
    free(r->stop);
    free(r->behind);
    free(r->end);
    free(r->ids);
    free(r->logits);
    free(r);
}

/* What the caller's struct points to. */
static bool copy_generation(struct request *r, struct sonde_generation *g) {
    r->end = malloc((g->end_count + 1) * sizeof(*r->end));
    r->stop = calloc(g->stop_count + 1, sizeof(*r->stop));
    r->behind = g->stop_behind ? strdup(g->stop_behind) : NULL;
    if (!r->end || !r->stop || (g->stop_behind && !r->behind))
        return false;
    if (g->end_count)
        memcpy(r->end, g->end, g->end_count * sizeof(*r->end));
    for (size_t i = 0; i < g->stop_count; i++)
        if (!(r->stop[i] = strdup(g->stop[i])))
            return false;
    g->sampling.bias = NULL; /* the sampler has its own */
    g->sampling.bias_count = 0;
    g->stop_behind = r->behind;
    g->end = r->end;
    g->stop = (const char *const *)r->stop;
    return true;
}

/* NULL: *rc says why. */
static struct request *new_request(const sonde_scheduler *s, const struct sonde_request *q, int *rc,
                                   struct sonde_error *e) {
    struct request *r = calloc(1, sizeof(*r));
    *rc = r ? reply_open(&r->reply, s->m, &q->generation, e) : err_memory(e);
    if (!r)
        return NULL;
    r->done = q->done;
    r->submitted = clock_seconds();
    r->count = r->prompt = q->count;
    r->room = q->count + 256;
    r->ids = malloc((r->room + MODEL_MOST_DRAFTS) * sizeof(*r->ids));
    r->logits = malloc((1 + s->drafts) * s->vocab * sizeof(*r->logits));
    if (!*rc && (!r->ids || !r->logits || !copy_generation(r, &r->reply.generation)))
        *rc = err_memory(e);
    if (*rc) {
        release(r);
        return NULL;
    }
    memcpy(r->ids, q->prompt, q->count * sizeof(*r->ids));
    return r;
}

static bool append(struct request *r, int32_t id) {
    if (r->count == r->room) {
        int32_t *ids = realloc(r->ids, (2 * r->room + MODEL_MOST_DRAFTS) * sizeof(*ids));
        if (!ids)
            return false;
        r->ids = ids;
        r->room *= 2;
    }
    r->ids[r->count++] = id;
    return true;
}

/* -------------------------------------------------------------------------------------------- ends */

static void remove_active(sonde_scheduler *s, const struct request *r) {
    uint32_t i = 0;
    while (s->active[i] != r)
        i++;
    pthread_mutex_lock(&s->lock);
    memmove(s->active + i, s->active + i + 1, (s->active_count - i - 1) * sizeof(*s->active));
    s->active_count--;
    pthread_mutex_unlock(&s->lock);
}

/* Tells the caller; the request is in no list any more. */
static void report(sonde_scheduler *s, struct request *r, int code, const struct sonde_error *error) {
    struct sonde_generated *g = &r->reply.result;
    double now = clock_seconds();
    g->generate_seconds = r->answering > 0 ? now - r->answering : 0;
    g->prompt_seconds = (r->answering > 0 ? r->answering : now) - r->submitted;
    s->now.finished++;
    if (r->done)
        r->done(r->reply.generation.context, code, g, error);
    release(r);
}

static void finish(sonde_scheduler *s, struct request *r, int code, const struct sonde_error *error) {
    struct sonde_error late;
    if (!code && (code = reply_end(&r->reply, &late)))
        error = &late;
    if (!code && r->reply.generation.reuse && sequence_length(r->sequence))
        store_keep(s->store, r->sequence, NULL);
    remove_active(s, r);
    report(s, r, code, error);
}

/* Back to the head of those that wait. */
static void put_back(sonde_scheduler *s, struct request *r) {
    remove_active(s, r);
    sequence_close(r->sequence);
    r->sequence = NULL;
    r->drafts = 0;
    pthread_mutex_lock(&s->lock);
    r->next = s->waiting;
    s->waiting = r;
    pthread_mutex_unlock(&s->lock);
}

static void preempt(sonde_scheduler *s, struct request *r) {
    if (r->reply.generation.reuse && sequence_length(r->sequence))
        store_keep(s->store, r->sequence, NULL);
    put_back(s, r);
    s->now.preempted++;
}

/* ------------------------------------------------------------------------------------------- draws */

/* Draws from the logits after the last token drawn, and after each guess behind it that was right: the others have
 * never been. */
static void draw(sonde_scheduler *s, struct request *r) {
    struct sonde_error e;
    size_t drawn = r->reply.result.generated_tokens;
    uint32_t guesses = r->drafts, right = 0;
    int32_t id = -1;
    int rc = SONDE_OK;
    if (r->answering <= 0)
        r->answering = clock_seconds();
    for (;; right++) {
        rc = reply_draw(&r->reply, r->logits + right * s->vocab, &id, &e);
        if (rc || id < 0)
            break;
        bool guessed = right < guesses && r->ids[r->count] == id;
        if (!append(r, id))
            rc = err_memory(&e);
        if (rc || !guessed)
            break;
    }
    r->drafts = 0;
    if (right < guesses)
        sequence_rollback(r->sequence, guesses - right);
    s->now.drafted += guesses;
    s->now.accepted += right;
    s->now.generated_tokens += r->reply.result.generated_tokens - drawn;
    if (!rc && id >= 0 && sequence_length(r->sequence) == sequence_context(r->sequence)) {
        r->reply.result.finish = SONDE_FINISH_CONTEXT;
        id = -1;
    }
    if (rc || id < 0)
        finish(s, r, rc, &e);
}

/* After a step that fed `planned` tokens of it. */
static void settle(sonde_scheduler *s, struct request *r) {
    const struct sonde_generation *g = &r->reply.generation;
    uint64_t length = sequence_length(r->sequence);
    bool reading = r->answering <= 0, complete = length >= r->count;
    if (length - r->planned < r->prompt)
        s->now.prompt_tokens += min_u64(length, r->prompt) - (length - r->planned);
    if (reading && g->progress && g->progress(g->context, min_u64(length, r->prompt), r->prompt))
        r->reply.cancelled = true;
    if (g->reuse && length <= r->prompt && (complete || length == r->pause))
        store_keep(s->store, r->sequence, complete ? r->logits : NULL);
    if (complete || r->reply.cancelled)
        draw(s, r);
}

/* ------------------------------------------------------------------------------------------- admit */

/* Pages it may come to have before others are asked again. */
static uint64_t pages_of(const sonde_scheduler *s, const struct request *r) {
    const struct model *m = s->m->model;
    return model_page_count(m, r->count + model_page_tokens(m)) + 1;
}

static bool has_room(const sonde_scheduler *s, const struct request *r) {
    uint64_t pages = pages_of(s, r);
    for (uint32_t i = 0; i < s->active_count; i++)
        pages += pages_of(s, s->active[i]);
    return s->active_count == 0 || !model_page_bytes(s->m->model) || pages <= model_pages_all(s->m->model);
}

/* Gives a request a sequence and what is remembered of its ids. */
static int begin(sonde_scheduler *s, struct request *r, struct sonde_error *e) {
    int rc = store_sequence(s->store, 0, s->drafts > 0, &r->sequence, e);
    if (rc)
        return rc;
    struct recalled known = {0};
    if (r->reply.generation.reuse)
        known = store_recall(s->store, r->ids, r->count, r->sequence, r->logits);
    r->fork = known.fork;
    if (!r->prompted) {
        for (uint64_t i = 0; i < r->prompt; i++)
            sonde_sampler_prompt(r->reply.sampler, r->ids[i]);
        r->prompted = true;
        r->reply.result.prompt_tokens = r->prompt;
        r->reply.result.reused_tokens = known.length;
        s->now.reused_tokens += known.length;
    }
    return SONDE_OK;
}

static struct request *take_waiting(sonde_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    struct request *r = s->waiting;
    if (r && s->active_count < s->most && has_room(s, r)) {
        s->waiting = r->next;
        s->active[s->active_count++] = r;
    } else {
        r = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* In order of arrival, as long as there is room. */
static void admit(sonde_scheduler *s) {
    struct request *r;
    while ((r = take_waiting(s))) {
        struct sonde_error e;
        int rc = begin(s, r, &e);
        if (rc == SONDE_ERROR_MEMORY && s->active_count > 1) {
            put_back(s, r); /* until another ends */
            return;
        }
        if (rc)
            finish(s, r, rc, &e);
        else if (sequence_length(r->sequence) == r->count)
            draw(s, r); /* all of it is remembered */
    }
}

/* ------------------------------------------------------------------------------------------- plan */

static uint64_t left_of(const struct request *r) {
    return r->count - sequence_length(r->sequence);
}

static bool is_writing(const struct request *r) {
    return r->answering > 0 && left_of(r) == 1;
}

static bool shows_prompt(const struct request *r) {
    return r->reply.generation.prompt && r->shown < r->prompt;
}

static void add_span(sonde_scheduler *s, struct request *r, uint64_t count) {
    r->planned = (uint32_t)count;
    s->of_span[s->span_count] = r;
    s->spans[s->span_count++] = (struct model_span){.sequence = r->sequence,
                                                    .ids = r->ids + sequence_length(r->sequence),
                                                    .count = r->planned,
                                                    .all = r->drafts > 0 || shows_prompt(r),
                                                    .draft = r->drafts > 0};
}

static int by_need(const void *a, const void *b) {
    const struct request *x = *(struct request *const *)a, *y = *(struct request *const *)b;
    return x->need != y->need ? (x->need < y->need ? -1 : 1) : (x->id < y->id ? -1 : x->id > y->id);
}

/* Prompts share what is left of the budget: who needs less than an even share leaves the rest to others. */
static void plan_reading(sonde_scheduler *s, uint64_t budget) {
    struct request **readers = s->readers;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->active_count; i++) {
        struct request *r = s->active[i];
        uint64_t length;
        if (is_writing(r))
            continue;
        length = sequence_length(r->sequence);
        r->pause = r->reply.generation.reuse ? store_pause(s->store, length, r->count, r->fork) : r->count;
        r->need = r->pause - length;
        readers[n++] = r;
    }
    qsort(readers, n, sizeof(struct request *), by_need);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t share = min_u64(readers[i]->need, ceil_div(budget, n - i));
        if (share)
            add_span(s, readers[i], share);
        budget -= share;
    }
}

static void plan(sonde_scheduler *s) {
    uint64_t used = 0;
    s->span_count = 0;
    for (uint32_t i = 0; i < s->active_count; i++)
        if (is_writing(s->active[i])) {
            add_span(s, s->active[i], 1 + s->active[i]->drafts);
            used += 1 + s->active[i]->drafts;
        }
    uint64_t most = used ? max_u64(s->step_tokens, used + 1) : s->rows;
    plan_reading(s, min_u64(most, s->rows) - used);
}

/* Has every page that the planned step needs, or the step is of one request that has all there is. */
static void make_room(sonde_scheduler *s) {
    for (;;) {
        plan(s);
        while (model_pages_lacking(s->m->model, s->spans, s->span_count) && store_drop_oldest(s->store))
            ;
        if (s->active_count == 1 || !model_pages_lacking(s->m->model, s->spans, s->span_count))
            return;
        preempt(s, s->active[s->active_count - 1]);
    }
}

/* -------------------------------------------------------------------------------------------- step */

static void on_logits(void *context, uint32_t span, uint64_t position, const float *logits) {
    sonde_scheduler *s = context;
    struct request *r = s->of_span[span];
    uint64_t row = r->drafts ? position - sequence_length(r->sequence) : 0;
    if (shows_prompt(r) && position >= r->shown) {
        r->shown = position + 1;
        r->reply.generation.prompt(r->reply.generation.context, position, logits);
    }
    memcpy(r->logits + row * s->vocab, logits, s->vocab * sizeof(*logits));
}

/* True if a span of the step is the last of its ids. */
static bool wants_logits(const sonde_scheduler *s) {
    for (uint32_t i = 0; i < s->span_count; i++)
        if (s->spans[i].count >= left_of(s->of_span[i]) || shows_prompt(s->of_span[i]))
            return true;
    return false;
}

static void run(sonde_scheduler *s) {
    struct sonde_error e;
    struct model_outputs outputs = {.context = s, .logits = wants_logits(s) ? on_logits : NULL};
    int rc = model_step(s->m->model, s->spans, s->span_count, &outputs, &e);
    for (uint32_t i = 0; i < s->span_count; i++)
        if (rc)
            finish(s, s->of_span[i], rc, &e);
        else
            settle(s, s->of_span[i]);
}

/* Guesses for the next step, all together. */
static void guess(sonde_scheduler *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->active_count && s->drafts; i++) {
        struct request *r = s->active[i];
        uint64_t length = sequence_length(r->sequence), most = sequence_context(r->sequence) - length - 1;
        if (!is_writing(r) || !length || !most)
            continue;
        r->drafts = (uint32_t)min_u64(s->drafts, most);
        s->of_span[n] = r;
        s->wanted[n++] = (struct model_draft){
            .sequence = r->sequence, .token = r->ids[r->count - 1], .count = r->drafts, .ids = r->ids + r->count};
    }
    struct sonde_error e;
    int rc = n ? model_draft(s->m->model, s->wanted, n, &e) : SONDE_OK;
    for (uint32_t i = 0; i < n && rc; i++)
        finish(s, s->of_span[i], rc, &e);
}

/* ------------------------------------------------------------------------------------ the one thread */

static struct request *take_cancelled(sonde_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    struct request **at = &s->waiting;
    while (*at && !atomic_load(&(*at)->cancelled))
        at = &(*at)->next;
    struct request *r = *at;
    if (r)
        *at = r->next;
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* Ends those whose callers have lost interest, wherever they are. */
static void sweep(sonde_scheduler *s) {
    struct request *r;
    for (uint32_t i = s->active_count; i-- > 0;)
        if (atomic_load(&s->active[i]->cancelled)) {
            s->active[i]->reply.result.finish = SONDE_FINISH_CANCELLED;
            finish(s, s->active[i], SONDE_OK, NULL);
        }
    while ((r = take_cancelled(s))) {
        r->reply.result.finish = SONDE_FINISH_CANCELLED;
        report(s, r, SONDE_OK, NULL);
    }
}

bool sonde_scheduler_step(sonde_scheduler *s) {
    const struct model *m = s->m->model;
    sweep(s);
    admit(s);
    bool works = s->active_count > 0;
    if (works) {
        make_room(s);
        run(s);
        guess(s);
        s->now.steps++;
    }
    s->now.active = s->active_count;
    s->now.cache_pages = model_pages_all(m);
    s->now.cache_pages_used = s->now.cache_pages - model_pages_unused(m);
    pthread_mutex_lock(&s->lock);
    s->status = s->now;
    works |= s->waiting != NULL;
    pthread_mutex_unlock(&s->lock);
    return works;
}

/* ------------------------------------------------------------------------------------ any thread */

static int check_request(const sonde_scheduler *s, const struct sonde_request *q, struct sonde_error *e) {
    const struct model *m = s->m->model;
    uint64_t context = model_context(m), pages = model_page_count(m, q->count);
    if (!q->count)
        return err_set(e, SONDE_ERROR_ARGUMENT, "a prompt of no tokens");
    for (size_t i = 0; i < q->count; i++)
        if (q->prompt[i] < 0 || (uint64_t)q->prompt[i] >= s->vocab)
            return err_set(e, SONDE_ERROR_ARGUMENT, "token id %d, expected 0 to %llu", (int)q->prompt[i],
                           (unsigned long long)s->vocab - 1);
    if (q->count > context)
        return err_set(e, SONDE_ERROR_CONTEXT, "a prompt of %zu tokens does not fit a context of %llu", q->count,
                       (unsigned long long)context);
    if (model_page_bytes(m) && pages > model_pages_all(m))
        return err_set(e, SONDE_ERROR_MEMORY, "a prompt of %zu tokens does not fit the cache: it holds %llu at most",
                       q->count, (unsigned long long)(model_pages_all(m) * model_page_tokens(m)));
    return SONDE_OK;
}

/* Behind all others that wait. *id is written before anybody can take the request up. */
static void put_last(sonde_scheduler *s, struct request *r, uint64_t *id) {
    pthread_mutex_lock(&s->lock);
    struct request **at = &s->waiting;
    *id = r->id = s->next_id++;
    while (*at)
        at = &(*at)->next;
    *at = r;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

int sonde_scheduler_submit(sonde_scheduler *s, const struct sonde_request *request, uint64_t *id,
                           struct sonde_error *error) {
    int rc = check_request(s, request, error);
    struct request *r = rc ? NULL : new_request(s, request, &rc, error);
    if (r)
        put_last(s, r, id);
    return rc;
}

void sonde_scheduler_cancel(sonde_scheduler *s, uint64_t id) {
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->active_count; i++)
        if (s->active[i]->id == id)
            atomic_store(&s->active[i]->cancelled, true);
    for (struct request *r = s->waiting; r; r = r->next)
        if (r->id == id)
            atomic_store(&r->cancelled, true);
    pthread_mutex_unlock(&s->lock);
}

bool sonde_scheduler_wait(sonde_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    while (!s->stopping && !s->active_count && !s->waiting)
        pthread_cond_wait(&s->changed, &s->lock);
    bool goes_on = !s->stopping;
    pthread_mutex_unlock(&s->lock);
    return goes_on;
}

void sonde_scheduler_stop(sonde_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void sonde_scheduler_status(sonde_scheduler *s, struct sonde_scheduler_status *status) {
    pthread_mutex_lock(&s->lock);
    *status = s->status;
    status->active = s->active_count;
    status->waiting = 0;
    for (const struct request *r = s->waiting; r; r = r->next)
        status->waiting++;
    pthread_mutex_unlock(&s->lock);
}

/* -------------------------------------------------------------------------------- open and close */

static int check_options(const sonde_model *m, const struct sonde_scheduler_options *o, struct sonde_error *e) {
    const struct shape *shape = checkpoint_shape(m->checkpoint);
    uint32_t rows = model_rows(m->model);
    if (o->drafts > MODEL_MOST_DRAFTS)
        return err_set(e, SONDE_ERROR_ARGUMENT, "drafts is %u, expected 0 to %d", o->drafts, MODEL_MOST_DRAFTS);
    if (o->drafts && !model_has_mtp(m->model))
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "drafts: the checkpoint has no multi-token-prediction block");
    if (o->drafts && shape->ratios[shape->layers])
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "drafts: the checkpoint's multi-token-prediction block compresses");
    if (o->drafts >= rows)
        return err_set(e, SONDE_ERROR_ARGUMENT, "drafts is %u: a chunk of %u tokens is too small for them", o->drafts,
                       rows);
    if (o->step_tokens > rows)
        return err_set(e, SONDE_ERROR_ARGUMENT, "step_tokens is %u, expected at most the chunk's %u", o->step_tokens,
                       rows);
    return SONDE_OK;
}

int sonde_scheduler_open(sonde_model *model, const struct sonde_scheduler_options *options, sonde_scheduler **scheduler,
                         struct sonde_error *error) {
    static const struct sonde_scheduler_options defaults;
    const struct sonde_scheduler_options *o = options ? options : &defaults;
    int rc = check_options(model, o, error);
    if (rc)
        return rc;
    sonde_scheduler *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(error);
    uint32_t rows = model_rows(model->model);
    *s = (sonde_scheduler){.m = model,
                           .store = model->store,
                           .drafts = o->drafts,
                           .step_tokens = o->step_tokens ? o->step_tokens : rows,
                           .rows = rows,
                           .vocab = checkpoint_shape(model->checkpoint)->vocab,
                           .next_id = 1};
    /* one row is left for a prompt, so that none waits for all answers to end */
    s->most = (uint32_t)max_u64(1, min_u64(o->requests ? o->requests : REQUESTS, (rows - 1) / (1 + o->drafts)));
    s->active = calloc(s->most, sizeof(*s->active));
    s->readers = calloc(s->most, sizeof(*s->readers));
    s->of_span = calloc(s->most, sizeof(*s->of_span));
    s->spans = calloc(s->most, sizeof(*s->spans));
    s->wanted = calloc(s->most, sizeof(*s->wanted));
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (!s->active || !s->readers || !s->of_span || !s->spans || !s->wanted) {
        sonde_scheduler_close(s);
        return err_memory(error);
    }
    *scheduler = s;
    return SONDE_OK;
}

void sonde_scheduler_close(sonde_scheduler *s) {
    if (!s)
        return;
    for (uint32_t i = 0; i < s->active_count; i++)
        atomic_store(&s->active[i]->cancelled, true);
    for (struct request *r = s->waiting; r; r = r->next)
        atomic_store(&r->cancelled, true);
    sweep(s);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->active);
    free(s->readers);
    free(s->of_span);
    free(s->spans);
    free(s->wanted);
    free(s);
}
