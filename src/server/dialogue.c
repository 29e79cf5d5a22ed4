/*
 * dialogue.c - messages to ids, answers as they were sampled.
 *
 * An answer with calls is known by the id of its first call, which this server made and nobody else has; an answer
 * without by a hash of all that was said before it, as the client tells it, and of what it says. Either way its content
 * and calls must come back unchanged (arguments as JSON, however written): what a client has edited is read as edited.
 * Reasoning may be left out, as most clients do, but if it comes it must be what was thought.
 */
#include <stdlib.h>
#include <string.h>

#include "server/dialogue_internal.h"
#include "server/parts_internal.h"

/* -------------------------------------------------------------------------------------------- messages */

struct spoken *dialogue_add(struct dialogue *p, enum speaker speaker) {
    if (p->count == p->room) {
        size_t room = p->room ? 2 * p->room : 16;
        struct spoken *said = realloc(p->said, room * sizeof(*said));
        p->failed |= !said;
        if (!said)
            return NULL;
        p->said = said;
        p->room = room;
    }
    struct spoken *m = &p->said[p->count++];
    *m = (struct spoken){.speaker = speaker};
    return m;
}

struct spoken_call *spoken_add_call(struct dialogue *p, struct spoken *m) {
    struct spoken_call *calls = realloc(m->calls, (m->call_count + 1) * sizeof(*calls));
    p->failed |= !calls;
    if (!calls)
        return NULL;
    m->calls = calls;
    calls[m->call_count] = (struct spoken_call){0};
    return &calls[m->call_count++];
}

void dialogue_release(struct dialogue *p) {
    for (size_t i = 0; i < p->count; i++) {
        struct spoken *m = &p->said[i];
        for (size_t j = 0; j < m->call_count; j++) {
            buf_release(&m->calls[j].id);
            buf_release(&m->calls[j].name);
            buf_release(&m->calls[j].arguments);
        }
        free(m->calls);
        buf_release(&m->text);
        buf_release(&m->reasoning);
        buf_release(&m->call_id);
    }
    free(p->said);
    buf_release(&p->tools);
    buf_release(&p->format);
    *p = (struct dialogue){0};
}

/* ---------------------------------------------------------------------------------------------- hashes */

static uint64_t hash_text(uint64_t seed, const struct buf *b) {
    return replay_hash(seed + 1, b->len ? b->data : "", b->len);
}

/* JSON however it is written; what is none, as it is. */
static uint64_t hash_json(uint64_t seed, const struct buf *b) {
    struct jtree tree;
    struct buf written = {0};
    if (!b->len || jtree_parse(b->data, b->len, "arguments", &tree, NULL))
        return hash_text(seed, b);
    jnode_write(&written, tree.root);
    jtree_release(&tree);
    seed = hash_text(seed, &written);
    buf_release(&written);
    return seed;
}

static uint64_t hash_spoken(uint64_t seed, const struct spoken *m) {
    seed = hash_text(seed + m->speaker, &m->text);
    for (size_t i = 0; i < m->call_count; i++)
        seed = hash_json(hash_text(seed, &m->calls[i].name), &m->calls[i].arguments);
    return seed;
}

/* The same of an answer as it is given. */
static uint64_t hash_answer(const struct answer *a) {
    uint64_t seed = hash_text(SPEAKER_ASSISTANT, &a->content);
    for (size_t i = 0; i < a->call_count; i++)
        seed = hash_json(hash_text(seed, &a->calls[i].name), &a->calls[i].arguments);
    return seed;
}

static uint64_t call_key(const char *id, size_t bytes) {
    return replay_hash(1, id, bytes);
}

static uint64_t text_key(uint64_t before, uint64_t check) {
    return replay_hash(before, &check, sizeof(check));
}

static uint64_t hash_all(struct dialogue *p) {
    uint64_t hash = 0;
    for (size_t i = 0; i < p->count; i++) {
        p->said[i].before = hash;
        hash = hash_spoken(hash, &p->said[i]);
    }
    return hash;
}

/* -------------------------------------------------------------------------------------------- replaying */

struct replaying {
    struct dialogue *p;
    struct server *s;
    struct buf list; /* struct text_replay */
    struct buf *ids; /* [messages], of those that are in the list */
};

/* How many of the ids are reasoning, </think> included; 0: none are. */
static size_t reasoning_of(const struct server *s, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] == s->think_end)
            return i + 1;
    return 0;
}

/* True if the client sent no reasoning, or what these ids say. */
static bool same_reasoning(const struct replaying *y, const struct spoken *m, const int32_t *ids, size_t count) {
    char *text;
    size_t bytes;
    if (!m->has_reasoning || !m->reasoning.len)
        return true;
    if (sonde_tokenizer_decode(y->s->tokenizer, ids, count, &text, &bytes, NULL))
        return false;
    bool same = bytes == m->reasoning.len && memcmp(text, m->reasoning.data, bytes) == 0;
    sonde_free(text);
    return same;
}

/* Puts message i as it was sampled into the list, if it is known. */
static void find_replay(struct replaying *y, size_t i) {
    const struct spoken *m = &y->p->said[i];
    uint64_t check = hash_spoken(0, m);
    uint64_t key = m->call_count ? call_key(m->calls[0].id.data ? m->calls[0].id.data : "", m->calls[0].id.len)
                                 : text_key(m->before, check);
    if (!replay_get(y->s->replay, key, check, &y->ids[i]) || y->ids[i].failed)
        return;
    struct text_replay found = {
        .message = i, .ids = (const int32_t *)(const void *)y->ids[i].data, .count = y->ids[i].len / sizeof(int32_t)};
    found.reasoning = reasoning_of(y->s, found.ids, found.count);
    if (found.reasoning && !same_reasoning(y, m, found.ids, found.reasoning - 1)) {
        found.ids += found.reasoning;
        found.count -= found.reasoning;
        found.reasoning = 0;
    }
    buf_append(&y->list, &found, sizeof(found));
}

static int find_replays(struct replaying *y) {
    y->ids = calloc(y->p->count + 1, sizeof(*y->ids));
    if (!y->ids)
        return -1;
    for (size_t i = 0; i < y->p->count; i++)
        if (y->p->said[i].speaker == SPEAKER_ASSISTANT && !y->p->said[i].open)
            find_replay(y, i);
    return y->list.failed ? -1 : 0;
}

static void release_replays(struct replaying *y) {
    for (size_t i = 0; y->ids && i < y->p->count; i++)
        buf_release(&y->ids[i]);
    free(y->ids);
    buf_release(&y->list);
}

void dialogue_remember(const struct task *t, const struct answer *a) {
    if (a->thinking) /* it never came to an answer */
        return;
    uint64_t check = hash_answer(a);
    uint64_t key = a->call_count ? call_key(a->calls[0].id, strlen(a->calls[0].id)) : text_key(t->before, check);
    replay_put(t->server->replay, key, check, (const int32_t *)(const void *)a->ids.data, a->ids.len / sizeof(int32_t));
}

/* --------------------------------------------------------------------------------------------- the request */

static void put(struct buf *b, const char *name, const struct buf *text) {
    buf_printf(b, ",\"%s\":", name);
    json_write_string(b, text->data, text->len);
}

static void put_calls(struct buf *b, const struct spoken *m) {
    buf_string(b, ",\"tool_calls\":[");
    for (size_t i = 0; i < m->call_count; i++) {
        buf_printf(b, "%s{\"type\":\"function\",\"id\":", i ? "," : "");
        json_write_string(b, m->calls[i].id.data, m->calls[i].id.len);
        buf_string(b, ",\"function\":{\"name\":");
        json_write_string(b, m->calls[i].name.data, m->calls[i].name.len);
        put(b, "arguments", &m->calls[i].arguments);
        buf_string(b, "}}");
    }
    buf_byte(b, ']');
}

static void put_message(struct buf *b, const struct dialogue *p, size_t i) {
    static const char *const roles[] = {"system", "user", "tool", "assistant", "latest_reminder"};
    const struct spoken *m = &p->said[i];
    buf_printf(b, "%s{\"role\":\"%s\"", i ? "," : "", roles[m->speaker]);
    put(b, "content", &m->text);
    if (i == 0 && p->tools.len)
        buf_printf(b, ",\"tools\":%s", p->tools.data);
    if (i == 0 && p->format.len)
        buf_printf(b, ",\"response_format\":%s", p->format.data);
    if (m->speaker == SPEAKER_TOOL)
        put(b, "tool_call_id", &m->call_id);
    if (m->speaker == SPEAKER_ASSISTANT && m->has_reasoning)
        put(b, "reasoning_content", &m->reasoning);
    if (m->call_count)
        put_calls(b, m);
    if (m->open)
        buf_string(b, ",\"wo_eos\":true");
    buf_byte(b, '}');
}

static void put_request(struct buf *b, const struct dialogue *p) {
    buf_string(b, "{\"messages\":[");
    for (size_t i = 0; i < p->count; i++)
        put_message(b, p, i);
    buf_printf(b, "],\"thinking_mode\":\"%s\",\"reasoning_effort\":%s}", p->thinking ? "thinking" : "chat",
               p->thinking && *p->effort ? p->effort : "null");
}

/* Tools and formats stand in the first message, which is the system's. */
static void begin_with_system(struct dialogue *p) {
    if ((!p->tools.len && !p->format.len) || (p->count && p->said[0].speaker == SPEAKER_SYSTEM))
        return;
    if (!dialogue_add(p, SPEAKER_SYSTEM))
        return;
    struct spoken system = p->said[p->count - 1];
    memmove(p->said + 1, p->said, (p->count - 1) * sizeof(*p->said));
    p->said[0] = system;
}

/* A text that memory ran out for is empty, and must not be read as if it were. */
static bool is_whole(const struct dialogue *p) {
    bool failed = p->failed || p->tools.failed || p->format.failed;
    for (size_t i = 0; i < p->count && !p->failed; i++) {
        const struct spoken *m = &p->said[i];
        failed |= m->text.failed || m->reasoning.failed || m->call_id.failed;
        for (size_t j = 0; j < m->call_count; j++)
            failed |= m->calls[j].id.failed || m->calls[j].name.failed || m->calls[j].arguments.failed;
    }
    return !failed;
}

static int encode(struct dialogue *p, struct server *s, int32_t **ids, size_t *count, bool *thinking, uint64_t *before,
                  struct refusal *r) {
    struct buf request = {0};
    struct replaying y = {.p = p, .s = s};
    struct sonde_error e;
    begin_with_system(p);
    *before = hash_all(p);
    put_request(&request, p);
    int rc = !is_whole(p) || request.failed || find_replays(&y) ? err_memory(&e) : SONDE_OK;
    if (!rc)
        rc = text_chat_encode(s->tokenizer, s->info.chat_format, request.data, request.len,
                              (const struct text_replay *)(const void *)y.list.data,
                              y.list.len / sizeof(struct text_replay), ids, count, thinking, &e);
    release_replays(&y);
    buf_release(&request);
    return rc ? refuse_error(r, &e) : 0;
}

int dialogue_encode(struct dialogue *p, struct task *t, struct refusal *r) {
    return encode(p, t->server, &t->ids, &t->count, &t->thinking, &t->before, r);
}

int dialogue_ids(struct dialogue *p, struct server *s, int32_t **ids, size_t *count, struct refusal *r) {
    bool thinking;
    uint64_t before;
    return encode(p, s, ids, count, &thinking, &before, r);
}
