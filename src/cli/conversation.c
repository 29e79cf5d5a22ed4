/*
 * conversation.c - messages to the prompt's ids, and to JSON and back.
 *
 * The way from messages to ids, with `|` for cuts and U+E000 n U+E001 for the placeholder of text n:
 *
 *     messages    user "is <think> a tag?"
 *     template    <bos><User>(0)<Assistant></think>          sonde_chat_render() over placeholders
 *     cut         <bos> | <User> | (0) | <Assistant> | </think>
 *     ids         0, 128803, encode("is <think> a tag?", as text), 128804, 128822
 *
 * Plain text of the template that stands directly beside a message's text is encoded together with it: a
 * tokenizer may join characters across that seam.
 */
#include <stdlib.h>
#include <string.h>

#include "talk_internal.h"

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

/*
 * The request for sonde_chat_render(), with the texts themselves or with placeholders for them. Slots are
 * numbered: 0 the system text, 2i+1 the text of message i, 2i+2 its reasoning.
 */
#define OPEN  "\xee\x80\x80"
#define CLOSE "\xee\x80\x81"
#define EDGE  3 /* bytes of each */

static json_t *slot_value(const struct buf *text, size_t slot, bool placeholders) {
    if (!placeholders)
        return json_stringn(text->data ? text->data : "", text->len);
    return json_sprintf(OPEN "%zu" CLOSE, slot);
}

static int add_message(json_t *messages, const char *role, json_t *content, json_t *reasoning) {
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
    if (message && reasoning && json_object_set_new(message, "reasoning_content", reasoning) < 0) {
        json_decref(message);
        message = NULL;
    }
    return message ? json_array_append_new(messages, message) : -1;
}

static json_t *request_new(const struct conversation *c, bool placeholders) {
    json_t *messages = json_array();
    int bad = !messages;
    if (c->system.len)
        bad |= add_message(messages, "system", slot_value(&c->system, 0, placeholders), NULL);
    for (size_t i = 0; i < c->count; i++) {
        const struct message *m = &c->messages[i];
        json_t *reasoning = m->reasoning.len ? slot_value(&m->reasoning, 2 * i + 2, placeholders) : NULL;
        bad |= add_message(messages, m->speaker == SPEAKER_USER ? "user" : "assistant",
                           slot_value(&m->text, 2 * i + 1, placeholders), reasoning);
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
    struct conversation fresh = {0};
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

struct assembly {
    const struct conversation *conversation;
    const sonde_tokenizer *tokenizer;
    struct buf run; /* plain text not yet encoded */
    struct buf ids; /* int32_t each */
};

static void assembly_id(struct assembly *a, int32_t id) {
    buf_append(&a->ids, &id, sizeof(id));
}

/* Encodes the plain text gathered so far. */
static int assembly_flush(struct assembly *a, struct sonde_error *e) {
    int32_t *ids;
    size_t count;
    if (a->run.failed)
        return err_memory(e);
    if (!a->run.len)
        return SONDE_OK;
    int rc = sonde_tokenizer_encode(a->tokenizer, a->run.data, a->run.len, SONDE_MARKUP_TEXT, &ids, &count, e);
    if (rc)
        return rc;
    buf_append(&a->ids, ids, count * sizeof(*ids));
    sonde_free(ids);
    buf_clear(&a->run);
    return SONDE_OK;
}

/* The special token that begins at `at`, and its bytes; -1 if none does. Those of the template are written
 * in angle brackets. */
static int32_t special_at(const sonde_tokenizer *tokenizer, const char *at, const char *end, size_t *bytes) {
    char name[64];
    if (*at != '<')
        return -1;
    for (size_t n = 1; n < sizeof(name) - 1 && at + n < end; n++) {
        if (at[n] != '>')
            continue;
        memcpy(name, at, n + 1);
        name[n + 1] = 0;
        *bytes = n + 1;
        return sonde_tokenizer_added(tokenizer, name);
    }
    return -1;
}

/* The number in the placeholder that begins at `at`, and its bytes; false if none does. */
static bool slot_at(const char *at, const char *end, size_t *slot, size_t *bytes) {
    if ((size_t)(end - at) < 2 * EDGE + 1 || memcmp(at, OPEN, EDGE) != 0)
        return false;
    char *after;
    *slot = strtoull(at + EDGE, &after, 10);
    *bytes = (size_t)(after - at) + EDGE;
    return (size_t)(end - after) >= EDGE && memcmp(after, CLOSE, EDGE) == 0;
}

static int assembly_slot(struct assembly *a, size_t slot, struct sonde_error *e) {
    const struct conversation *c = a->conversation;
    if (slot == 0) {
        buf_append(&a->run, c->system.data, c->system.len);
        return SONDE_OK;
    }
    const struct message *m = &c->messages[(slot - 1) / 2];
    const struct buf *text = slot % 2 ? &m->text : &m->reasoning;
    if (slot % 2 == 0 || !m->ids) {
        buf_append(&a->run, text->data, text->len);
        return SONDE_OK;
    }
    int rc = assembly_flush(a, e);
    if (!rc)
        buf_append(&a->ids, m->ids, m->id_count * sizeof(*m->ids));
    return rc;
}

static int assemble(struct assembly *a, const char *prompt, size_t length, struct sonde_error *e) {
    const char *at = prompt, *end = prompt + length;
    int rc = SONDE_OK;
    while (!rc && at < end) {
        size_t bytes = 1, slot = 0;
        int32_t id = special_at(a->tokenizer, at, end, &bytes);
        if (id >= 0) {
            rc = assembly_flush(a, e);
            assembly_id(a, id);
        } else if (slot_at(at, end, &slot, &bytes) && slot <= 2 * a->conversation->count) {
            rc = assembly_slot(a, slot, e);
        } else {
            bytes = 1;
            buf_byte(&a->run, *at);
        }
        at += bytes;
    }
    return rc ? rc : assembly_flush(a, e);
}

int conversation_prompt(const struct conversation *c, const sonde_tokenizer *tokenizer, int32_t **ids, size_t *count,
                        struct sonde_error *e) {
    struct assembly a = {.conversation = c, .tokenizer = tokenizer};
    char *prompt = NULL, *taken;
    size_t length, bytes;
    json_t *request = request_new(c, true);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    int rc = text ? sonde_chat_render(text, strlen(text), &prompt, &length, e) : err_memory(e);
    if (!rc)
        rc = assemble(&a, prompt, length, e);
    if (!rc)
        rc = buf_take(&a.ids, &taken, &bytes, e);
    if (!rc) {
        *ids = (int32_t *)(void *)taken;
        *count = bytes / sizeof(int32_t);
    }
    json_decref(request);
    free(text);
    sonde_free(prompt);
    buf_release(&a.run);
    buf_release(&a.ids);
    return rc;
}
