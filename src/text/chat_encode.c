/*
 * chat_encode.c - a conversation becomes the ids of its prompt.
 *
 * The prompt is cut where answers are replayed; what lies between is tokenized as a whole, with what came out of
 * messages as text. Ids of an answer go in as they are: the same text may be written with other ids than the
 * tokenizer gives, and then a session that holds the answer could not be extended.
 */
#include <stdlib.h>

#include "text/chat_internal.h"

struct encoded {
    const sonde_tokenizer *tokenizer;
    const struct prompt *prompt;
    size_t done;       /* bytes of the prompt that are ids */
    size_t typed;      /* ranges before this one are done */
    struct buf ranges; /* those of a part, counted from where it begins */
    struct buf ids;
    struct sonde_error *e;
};

/* Tokenizes the prompt up to `end`. No range crosses the border of a part. */
static int encode_to(struct encoded *n, size_t end) {
    const struct prompt *p = n->prompt;
    size_t begin = n->done, count;
    int32_t *ids;
    buf_clear(&n->ranges);
    for (; n->typed < p->typed_count && p->typed[n->typed].end <= end; n->typed++) {
        struct text_range range = p->typed[n->typed];
        range.begin -= begin;
        range.end -= begin;
        buf_append(&n->ranges, &range, sizeof(range));
    }
    n->done = end;
    if (n->ranges.failed)
        return err_memory(n->e);
    if (end == begin)
        return SONDE_OK;
    int rc = text_tokenizer_encode_typed(n->tokenizer, p->text + begin, end - begin,
                                         (const struct text_range *)(const void *)n->ranges.data,
                                         n->ranges.len / sizeof(struct text_range), &ids, &count, n->e);
    if (rc)
        return rc;
    buf_append(&n->ids, ids, count * sizeof(*ids));
    free(ids);
    return SONDE_OK;
}

/* Passes over text that is not tokenized, and its ranges. */
static void skip_to(struct encoded *n, size_t end) {
    while (n->typed < n->prompt->typed_count && n->prompt->typed[n->typed].end <= end)
        n->typed++;
    n->done = end;
}

static int put_replay(struct encoded *n, const struct body *body, const struct text_replay *replay) {
    bool reasons = body->content > body->begin, replayed = reasons && replay->reasoning;
    size_t first = replayed ? 0 : replay->reasoning;
    int rc = encode_to(n, replayed ? body->begin : body->content);
    if (rc)
        return rc;
    if (replay->count > first)
        buf_append(&n->ids, replay->ids + first, (replay->count - first) * sizeof(*replay->ids));
    skip_to(n, body->end);
    return SONDE_OK;
}

static int check_replay(const struct text_replay *replays, size_t i, struct sonde_error *e) {
    if (i && replays[i].message <= replays[i - 1].message)
        return err_set(e, SONDE_ERROR_ARGUMENT, "replay %zu: messages[%zu] is not behind messages[%zu]", i,
                       replays[i].message, replays[i - 1].message);
    if (replays[i].reasoning > replays[i].count)
        return err_set(e, SONDE_ERROR_ARGUMENT, "replay %zu: %zu ids of reasoning are more than its %zu ids", i,
                       replays[i].reasoning, replays[i].count);
    return SONDE_OK;
}

static int encode_all(struct encoded *n, const struct text_replay *replays, size_t replay_count) {
    const struct prompt *p = n->prompt;
    size_t k = 0;
    for (size_t i = 0; i < replay_count; i++) {
        int rc = check_replay(replays, i, n->e);
        while (k < p->body_count && p->bodies[k].message < replays[i].message)
            k++;
        if (!rc && (k == p->body_count || p->bodies[k].message != replays[i].message))
            rc = err_set(n->e, SONDE_ERROR_ARGUMENT, "replay %zu: messages[%zu] is not an assistant's", i,
                         replays[i].message);
        if (!rc)
            rc = put_replay(n, &p->bodies[k], &replays[i]);
        if (rc)
            return rc;
    }
    return encode_to(n, p->length);
}

/* Hands over the ids, or with `rc` lets go of them; releases the rest. */
static int finish(struct encoded *n, int rc, int32_t **ids, size_t *count) {
    char *taken;
    size_t length;
    if (!rc)
        rc = buf_take(&n->ids, &taken, &length, n->e);
    if (!rc) {
        *ids = (int32_t *)(void *)taken;
        *count = length / sizeof(**ids);
    }
    buf_release(&n->ranges);
    buf_release(&n->ids);
    return rc;
}

int text_chat_encode(const sonde_tokenizer *tokenizer, enum sonde_chat_format format, const char *request, size_t bytes,
                     const struct text_replay *replays, size_t replay_count, int32_t **ids, size_t *count,
                     bool *thinking, struct sonde_error *e) {
    struct prompt prompt;
    int rc = prompt_render(format, request, bytes, &prompt, e);
    if (rc)
        return rc;
    struct encoded n = {.tokenizer = tokenizer, .prompt = &prompt, .e = e};
    rc = finish(&n, encode_all(&n, replays, replay_count), ids, count);
    if (!rc && thinking)
        *thinking = prompt.thinking;
    prompt_release(&prompt);
    return rc;
}

/* Tokenizes part by part, an answer being one, and appends to `answers` which ids they became. */
static int encode_answers(struct encoded *n, struct buf *answers) {
    const struct prompt *p = n->prompt;
    for (size_t i = 0; i < p->body_count; i++) {
        int rc = encode_to(n, p->bodies[i].begin);
        struct text_range range = {.begin = n->ids.len / sizeof(int32_t)};
        if (!rc)
            rc = encode_to(n, p->bodies[i].ended);
        if (rc)
            return rc;
        range.end = n->ids.len / sizeof(int32_t);
        buf_append(answers, &range, sizeof(range));
    }
    return encode_to(n, p->length);
}

int text_chat_encode_answers(const sonde_tokenizer *tokenizer, enum sonde_chat_format format, const char *request,
                             size_t bytes, int32_t **ids, size_t *count, struct text_range **answers,
                             size_t *answer_count, struct sonde_error *e) {
    struct prompt prompt;
    int rc = prompt_render(format, request, bytes, &prompt, e);
    if (rc)
        return rc;
    struct encoded n = {.tokenizer = tokenizer, .prompt = &prompt, .e = e};
    struct buf ranges = {0};
    char *taken = NULL;
    size_t length = 0;
    rc = encode_answers(&n, &ranges);
    if (!rc)
        rc = buf_take(&ranges, &taken, &length, e);
    rc = finish(&n, rc, ids, count);
    if (rc) {
        free(taken);
    } else {
        *answers = (struct text_range *)(void *)taken;
        *answer_count = length / sizeof(**answers);
    }
    buf_release(&ranges);
    prompt_release(&prompt);
    return rc;
}
