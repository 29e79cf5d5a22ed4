/*
 * conversation.c - messages to the prompt's ids, and to JSON and back.
 *
 * Both ways from messages lead through the request that `sonde render` reads: the text room makes ids of it, with
 * what was typed as text and the ids of answers as they were generated.
 */
#include <stdlib.h>
#include <string.h>

#include "talk_internal.h"
#include "text/text.h"

/* ------------------------------------------------------------------------------------- messages */

static void message_release(struct message *m) {
    buf_release(&m->text);
    buf_release(&m->reasoning);
    free(m->ids);
    *m = (struct message){0};
}

void conversation_clear(struct conversation *c) {
    while (c->count)
        conversation_drop(c);
}

void conversation_release(struct conversation *c) {
    conversation_clear(c);
    buf_release(&c->system);
    free(c->messages);
    *c = (struct conversation){0};
}

struct message *conversation_add(struct conversation *c, enum speaker speaker) {
    if (c->count == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 16;
        struct message *grown = realloc(c->messages, capacity * sizeof(*grown));
        if (!grown)
            return NULL;
        c->messages = grown;
        c->capacity = capacity;
    }
    c->messages[c->count] = (struct message){.speaker = speaker};
    return &c->messages[c->count++];
}

void conversation_drop(struct conversation *c) {
    message_release(&c->messages[--c->count]);
}

/* ----------------------------------------------------------------------------------- as JSON */

/* A text as JSON; NULL if it is not UTF-8, unless `mend` is set, which puts U+FFFD where it is not. */
static json_t *text_value(const struct buf *text, bool mend) {
    struct buf b = {0};
    if (!mend)
        return json_stringn(text->data ? text->data : "", text->len);
    json_write_string(&b, text->data, text->len);
    json_t *value = b.failed ? NULL : json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    buf_release(&b);
    return value;
}

static int add_message(json_t *messages, const char *role, json_t *content, json_t *reasoning) {
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
    if (message && reasoning && json_object_set_new(message, "reasoning_content", reasoning) < 0) {
        json_decref(message);
        message = NULL;
    }
    return message ? json_array_append_new(messages, message) : -1;
}

/* What sonde_chat_render() takes; NULL: text is not UTF-8, or memory is exhausted. */
static json_t *request_new(const struct conversation *c, bool mend) {
    json_t *messages = json_array();
    int bad = !messages;
    if (c->system.len)
        bad |= add_message(messages, "system", text_value(&c->system, mend), NULL);
    for (size_t i = 0; i < c->count; i++) {
        const struct message *m = &c->messages[i];
        json_t *reasoning = m->reasoning.len ? text_value(&m->reasoning, mend) : NULL;
        bad |= add_message(messages, m->speaker == SPEAKER_USER ? "user" : "assistant", text_value(&m->text, mend),
                           reasoning);
    }
    const char *effort = c->effort == EFFORT_HIGH ? "high" : c->effort == EFFORT_MAX ? "max" : NULL;
    json_t *request = bad ? NULL
                          : json_pack("{s:O, s:s, s:s?}", "messages", messages, "thinking_mode",
                                      c->effort ? "thinking" : "chat", "reasoning_effort", effort);
    json_decref(messages);
    return request;
}

int conversation_save(const struct conversation *c, struct buf *b, struct sonde_error *e) {
    json_t *request = request_new(c, false);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!text) /* jansson takes only UTF-8 */
        return err_set(e, SONDE_ERROR_FORMAT, "the conversation holds text that is not UTF-8, or memory is exhausted");
    buf_printf(b, "%s\n", text);
    free(text);
    return b->failed ? err_memory(e) : SONDE_OK;
}

static int load_text(const json_t *message, const char *field, struct buf *b, const char *what, size_t index,
                     struct sonde_error *e) {
    const json_t *value = json_object_get(message, field);
    if (!json_is_string(value))
        return err_set(e, SONDE_ERROR_FORMAT, "%s: message %zu: %s is not a string", what, index, field);
    buf_append(b, json_string_value(value), json_string_length(value));
    return b->failed ? err_memory(e) : SONDE_OK;
}

/* The first field of `object` that is not in `kept` (ended by NULL), or NULL. */
static const char *other_field(const json_t *object, const char *const *kept) {
    for (void *at = json_object_iter((json_t *)(uintptr_t)object); at;
         at = json_object_iter_next((json_t *)(uintptr_t)object, at)) {
        const char *const *k = kept;
        while (*k && strcmp(*k, json_object_iter_key(at)) != 0)
            k++;
        if (!*k)
            return json_object_iter_key(at);
    }
    return NULL;
}

static int load_message(struct conversation *c, const json_t *value, size_t index, const char *what,
                        struct sonde_error *e) {
    static const char *const plain[] = {"role", "content", NULL};
    static const char *const answer[] = {"role", "content", "reasoning_content", NULL};
    const char *role = json_string_value(json_object_get(value, "role"));
    bool system = role && strcmp(role, "system") == 0 && index == 0, user = role && strcmp(role, "user") == 0;
    bool assistant = role && strcmp(role, "assistant") == 0;
    if (!system && !user && !assistant)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: message %zu: role is not user or assistant", what, index);
    const char *other = other_field(value, assistant ? answer : plain);
    if (other)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: message %zu: field %s cannot be kept in a conversation", what, index,
                       other);
    if (system)
        return load_text(value, "content", &c->system, what, index, e);
    struct message *m = conversation_add(c, user ? SPEAKER_USER : SPEAKER_ASSISTANT);
    if (!m)
        return err_memory(e);
    int rc = load_text(value, "content", &m->text, what, index, e);
    if (!rc && json_object_get(value, "reasoning_content"))
        rc = load_text(value, "reasoning_content", &m->reasoning, what, index, e);
    return rc;
}

static int bad_field(const char *what, const char *field, const char *expected, struct sonde_error *e) {
    return err_set(e, SONDE_ERROR_FORMAT, "%s: field %s: expected %s", what, field, expected);
}

/* thinking_mode and reasoning_effort, as conversation_save() writes them. An effort only counts while thinking. */
static int load_effort(const json_t *request, enum effort *effort, const char *what, struct sonde_error *e) {
    const json_t *mode = json_object_get(request, "thinking_mode");
    const json_t *level = json_object_get(request, "reasoning_effort");
    const char *mode_name = mode ? json_string_value(mode) : "chat", *level_name = json_string_value(level);
    bool thinking = mode_name && strcmp(mode_name, "thinking") == 0;
    if (!thinking && !(mode_name && strcmp(mode_name, "chat") == 0))
        return bad_field(what, "thinking_mode", "\"chat\" or \"thinking\"", e);
    bool none = !level || json_is_null(level), most = level_name && strcmp(level_name, "max") == 0;
    if (!none && !most && !(level_name && strcmp(level_name, "high") == 0))
        return bad_field(what, "reasoning_effort", "\"high\", \"max\" or null", e);
    if (!none && !thinking)
        return bad_field(what, "reasoning_effort", "none where thinking_mode is not \"thinking\"", e);
    *effort = !thinking ? EFFORT_OFF : none ? EFFORT_ON : most ? EFFORT_MAX : EFFORT_HIGH;
    return SONDE_OK;
}

static int load_request(struct conversation *c, const json_t *request, const char *what, struct sonde_error *e) {
    static const char *const kept[] = {"messages", "thinking_mode", "reasoning_effort", "drop_thinking", NULL};
    const json_t *messages = json_object_get(request, "messages"), *drop = json_object_get(request, "drop_thinking");
    if (!json_is_array(messages))
        return bad_field(what, "messages", "an array", e);
    const char *other = other_field(request, kept);
    if (other)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: field %s cannot be kept in a conversation", what, other);
    if (drop && !json_is_true(drop)) /* true is what leaving it out means */
        return bad_field(what, "drop_thinking", "true, or nothing", e);
    int rc = load_effort(request, &c->effort, what, e);
    for (size_t i = 0; !rc && i < json_array_size(messages); i++)
        rc = load_message(c, json_array_get(messages, i), i, what, e);
    return rc;
}

int conversation_load(struct conversation *c, const char *bytes, size_t count, const char *what,
                      struct sonde_error *e) {
    struct conversation fresh = {.format = c->format};
    json_t *request = NULL;
    int rc = json_parse(bytes, count, what, &request, e);
    if (rc)
        return rc;
    rc = load_request(&fresh, request, what, e);
    json_decref(request);
    struct conversation old = rc ? fresh : *c;
    if (!rc)
        *c = fresh;
    conversation_release(&old);
    return rc;
}

/* ------------------------------------------------------------------------------------ as tokens */

/* The answers whose ids are known. */
static void list_replays(const struct conversation *c, struct buf *replays) {
    for (size_t i = 0; i < c->count; i++) {
        const struct message *m = &c->messages[i];
        struct text_replay replay = {.message = i + (c->system.len > 0), .ids = m->ids, .count = m->id_count};
        if (m->ids)
            buf_append(replays, &replay, sizeof(replay));
    }
}

int conversation_prompt(const struct conversation *c, const sonde_tokenizer *tokenizer, int32_t **ids, size_t *count,
                        struct sonde_error *e) {
    struct buf replays = {0};
    json_t *request = request_new(c, true);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    list_replays(c, &replays);
    int rc = !text || replays.failed ? err_memory(e)
                                     : text_chat_encode(tokenizer, c->format, text, strlen(text),
                                                        (const struct text_replay *)(void *)replays.data,
                                                        replays.len / sizeof(struct text_replay), ids, count, NULL, e);
    json_decref(request);
    free(text);
    buf_release(&replays);
    return rc;
}
