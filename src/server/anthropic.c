/*
 * anthropic.c - /v1/messages and /v1/messages/count_tokens as Anthropic defines them.
 *
 * Thinking is off unless asked for. A last message of the assistant's is continued. Thinking blocks that come back are
 * reasoning; their signatures mean nothing here and are empty. What Anthropic's own servers would run (web search,
 * code, computers) is refused. cache_control changes no answer and is ignored: every prefix is cached.
 */
#include <stdlib.h>
#include <string.h>

#include "server/asked_internal.h"
#include "server/interfaces_internal.h"
#include "server/parts_internal.h"

static const char known[] = "model|messages|system|max_tokens|stop_sequences|stream|temperature|top_p|top_k|tools|"
                            "tool_choice|thinking|output_config|output_format|thread|context_management";
static const char harmless[] = "metadata|service_tier|inference_geo|"
                               "cache_control";

/* ---------------------------------------------------------------------------------------------- blocks */

/* The message that is being read. */
struct reading {
    struct dialogue *p;
    struct spoken *m; /* an assistant's */
    size_t open;      /* a user's: where texts in a row are gathered; SIZE_MAX: nowhere yet */
};

static void read_tool_use(struct fields *f, struct dialogue *p, struct spoken *m) {
    const struct jnode *id = field_of(f, "id", JNODE_STRING), *name = field_of(f, "name", JNODE_STRING);
    const struct jnode *input = field(f, "input");
    if (!f->failed && (!id || !name))
        field_refuse(f, id ? "name" : "id", "a string is expected");
    struct spoken_call *c = spoken_add_call(p, m);
    if (f->failed || !c)
        return;
    buf_append(&c->id, id->text, id->length);
    buf_append(&c->name, name->text, name->length);
    if (input)
        jnode_write(&c->arguments, input);
    else
        buf_string(&c->arguments, "{}");
}

static void read_assistant_block(struct fields *f, void *context) {
    const struct reading *r = context;
    struct spoken *m = r->m;
    const struct jnode *text = jnode_get(f->object, "text"), *thinking = jnode_get(f->object, "thinking");
    switch (field_choice(f, "type", "text|thinking|redacted_thinking|tool_use")) {
    case -1:
        field_refuse(f, "type", "a string is expected");
        return;
    case 0:
        if (!jnode_is(text, JNODE_STRING)) {
            field_refuse(f, "text", "a string is expected");
            return;
        }
        buf_append(&m->text, text->text, text->length);
        return;
    case 1:
        m->has_reasoning = true;
        if (jnode_is(thinking, JNODE_STRING))
            buf_append(&m->reasoning, thinking->text, thinking->length);
        return;
    case 3:
        read_tool_use(f, r->p, m);
        return;
    default: /* redacted thinking was not this model's */
        return;
    }
}

static void read_tool_result(struct fields *f, struct dialogue *p) {
    const struct jnode *id = field_of(f, "tool_use_id", JNODE_STRING);
    bool error = false;
    fields_only(f, "type|tool_use_id|content|is_error", "cache_control");
    field_bool(f, "is_error", &error);
    struct spoken *m = dialogue_add(p, SPEAKER_TOOL);
    if (!m)
        return;
    if (id)
        buf_append(&m->call_id, id->text, id->length);
    if (error)
        buf_string(&m->text, "Error: ");
    read_text(f, "content", &m->text);
}

/* Results stand for themselves; texts in a row are one message, with blank lines between. */
static void read_user_block(struct fields *f, void *context) {
    struct reading *r = context;
    const struct jnode *type = jnode_get(f->object, "type"), *text = jnode_get(f->object, "text");
    if (jnode_says(type, "tool_result")) {
        r->open = SIZE_MAX;
        read_tool_result(f, r->p);
        return;
    }
    if (!jnode_says(type, "text") || !jnode_is(text, JNODE_STRING)) {
        field_refuse(f, "type", "%.60s is not supported: this model reads text",
                     jnode_is(type, JNODE_STRING) ? type->text : "a block without a type");
        return;
    }
    bool more = r->open != SIZE_MAX;
    if (!more) {
        r->open = r->p->count;
        if (!dialogue_add(r->p, SPEAKER_USER))
            return;
    }
    struct buf *to = &r->p->said[r->open].text;
    buf_string(to, more ? "\n\n" : "");
    buf_append(to, text->text, text->length);
}

static void read_message(struct fields *f, void *context) {
    struct dialogue *p = context;
    const struct jnode *content = field(f, "content");
    int role = field_choice(f, "role", "user|assistant|system");
    fields_only(f, "role|content", NULL);
    if (role < 0)
        field_refuse(f, "role", "a string is expected");
    if (f->failed)
        return;
    if (role < 2 && jnode_is(content, JNODE_ARRAY)) {
        struct reading r = {.p = p, .m = role == 1 ? dialogue_add(p, SPEAKER_ASSISTANT) : NULL, .open = SIZE_MAX};
        if (!p->failed)
            fields_each(f, "content", role == 1 ? read_assistant_block : read_user_block, &r);
    } else {
        static const enum speaker speakers[] = {SPEAKER_USER, SPEAKER_ASSISTANT, SPEAKER_SYSTEM};
        struct spoken *m = dialogue_add(p, speakers[role]);
        if (m)
            read_text(f, "content", &m->text);
    }
    if (role == 1 && !f->object->next && p->count)
        p->said[p->count - 1].open = true;
}

static void read_system(struct fields *f, struct dialogue *p) {
    const struct jnode *system = field(f, "system");
    if (!system)
        return;
    struct spoken *m = dialogue_add(p, SPEAKER_SYSTEM);
    if (m)
        read_text(f, "system", &m->text);
}

/* ----------------------------------------------------------------------------------------------- tools */

static void read_tool(struct fields *f, void *context) {
    const struct jnode *name = field_of(f, "name", JNODE_STRING), *type = jnode_get(f->object, "type");
    const struct jnode *description = field_of(f, "description", JNODE_STRING), *schema = field(f, "input_schema");
    struct buf parameters = {0};
    bool strict = false;
    if (type && !jnode_says(type, "custom"))
        field_refuse(f, "type", "only tools of the client's own are supported");
    fields_only(f, "type|name|description|input_schema|strict", "cache_control|input_examples|eager_input_streaming");
    field_bool(f, "strict", &strict);
    if (!f->failed && !name)
        field_refuse(f, "name", "a string is expected");
    if (f->failed)
        return;
    if (schema)
        jnode_write(&parameters, schema);
    put_tool(context, name, description, parameters.data, strict);
    buf_release(&parameters);
}

static void read_tool_choice(struct fields *f, struct tools_asked *tools) {
    static const enum tool_choice choices[] = {CHOICE_AUTO, CHOICE_ANY, CHOICE_ONE, CHOICE_NONE};
    const struct jnode *choice = field_of(f, "tool_choice", JNODE_OBJECT);
    if (!choice)
        return;
    struct fields inner = {.object = choice, .path = "tool_choice.", .refusal = f->refusal, .failed = f->failed};
    bool serial = false;
    fields_only(&inner, "type|name|disable_parallel_tool_use", NULL);
    int i = field_choice(&inner, "type", "auto|any|tool|none");
    field_string(&inner, "name", &tools->only);
    field_bool(&inner, "disable_parallel_tool_use", &serial);
    if (i == 2 && !tools->only)
        field_refuse(&inner, "name", "a string is expected");
    tools->choice = i < 0 ? CHOICE_AUTO : choices[i];
    tools->parallel = !serial;
    f->failed |= inner.failed;
}

/* ------------------------------------------------------------------------------------- what is asked for */

/* output_config {effort, format} and the older output_format. */
static void read_output(struct fields *f, struct dialogue *p, struct thinking *how, const struct jnode **schema) {
    const struct jnode *config = field_of(f, "output_config", JNODE_OBJECT), *format = field(f, "output_format");
    struct thinking effort = *how;
    if (config) {
        struct fields inner = {.object = config, .path = "output_config.", .refusal = f->refusal, .failed = f->failed};
        fields_only(&inner, "effort|format", NULL);
        read_effort(&inner, "effort", &effort);
        f->failed |= inner.failed;
        memcpy(how->effort, effort.effort, sizeof(how->effort));
        format = jnode_get(config, "format") ? jnode_get(config, "format") : format;
    }
    if (!format)
        return;
    *schema = jnode_get(format, "schema");
    if (!jnode_says(jnode_get(format, "type"), "json_schema") || !*schema)
        field_refuse(f, "output_config.format", "{\"type\": \"json_schema\", \"schema\": ...} is expected");
    else
        jnode_write(&p->format, *schema);
}

static void read_thinking(struct fields *f, struct task *t, struct thinking *how) {
    const struct jnode *thinking = field_of(f, "thinking", JNODE_OBJECT);
    uint64_t budget = 0;
    if (!thinking)
        return;
    struct fields inner = {.object = thinking, .path = "thinking.", .refusal = f->refusal, .failed = f->failed};
    fields_only(&inner, "type|budget_tokens", "display");
    how->on = field_choice(&inner, "type", "disabled|enabled|adaptive") > 0;
    field_count(&inner, "budget_tokens", 1, UINT32_MAX, &budget);
    f->failed |= inner.failed;
    if (t)
        t->thinking_budget = budget;
}

/* Old thinking that is kept changes nothing; whatever else is to be cut out of the conversation would. */
static void check_edit(struct fields *f, void *context) {
    (void)context;
    if (!jnode_says(jnode_get(f->object, "type"), "clear_thinking_20251015") ||
        !jnode_says(jnode_get(f->object, "keep"), "all"))
        field_refuse(f, "type", "the conversation is read as it is sent: nothing is cleared here");
}

static void check_context(struct fields *f) {
    const struct jnode *context = field_of(f, "context_management", JNODE_OBJECT);
    struct fields inner = {.object = context, .path = "context_management.", .refusal = f->refusal};
    fields_only(&inner, "edits", NULL);
    fields_each(&inner, "edits", check_edit, NULL);
    f->failed |= inner.failed;
}

/* By this code clients know that they must bring the whole conversation, and do. */
static void refuse_thread(struct fields *f) {
    if (!field(f, "thread"))
        return;
    field_refuse(f, "thread", "nothing is stored here: send the whole conversation as messages");
    f->refusal->code = "thread_unsupported_request";
}

/* The conversation; t may be NULL where only its tokens are counted. */
static void read_conversation(struct fields *f, const struct server *s, struct task *t, struct dialogue *p,
                              struct tools_asked *tools, const struct jnode **schema) {
    struct thinking how = {.format = s->info.chat_format};
    size_t before;
    fields_only(f, known, harmless);
    refuse_thread(f);
    check_context(f);
    read_system(f, p);
    before = p->count;
    fields_each(f, "messages", read_message, p);
    if (p->count == before)
        field_refuse(f, "messages", "a list of at least one message is expected");
    read_thinking(f, t, &how);
    read_output(f, p, &how, schema);
    read_tool_choice(f, tools);
    read_tools(f, p, tools, read_tool);
    take_thinking(p, &how);
}

static int read_request(struct fields *f, struct task *t, struct dialogue *p) {
    struct tools_asked tools = {.parallel = true};
    const struct jnode *schema = NULL;
    uint64_t top_k = t->sampling.top_k;
    field_count(f, "max_tokens", 1, UINT32_MAX, &t->max_tokens);
    if (!f->failed && !t->max_tokens)
        field_refuse(f, "max_tokens", "a whole number is expected");
    field_real(f, "temperature", 0, 1, &t->sampling.temperature);
    field_real(f, "top_p", 1e-6, 1, &t->sampling.top_p);
    field_count(f, "top_k", 0, UINT32_MAX, &top_k);
    t->sampling.top_k = (uint32_t)top_k;
    field_bool(f, "stream", &t->stream);
    read_stop(f, "stop_sequences", t);
    read_conversation(f, t->server, t, p, &tools, &schema);
    return f->failed ? -1 : take_request(t, p, &tools, schema, false, f->refusal);
}

/* ------------------------------------------------------------------------------------------------ voice */

enum block { BLOCK_NONE = -1, BLOCK_THINKING, BLOCK_TEXT, BLOCK_CALL };

static const char *stop_reason(const struct answer *a) {
    const char *finish = answer_finish(a);
    if (strcmp(finish, "tool_calls") == 0)
        return "tool_use";
    if (strcmp(finish, "stop") == 0)
        return a->finish == SONDE_FINISH_STOP ? "stop_sequence" : "end_turn";
    return a->finish == SONDE_FINISH_CONTEXT ? "model_context_window_exceeded" : "max_tokens";
}

static void write_stop(struct buf *b, const struct answer *a) {
    buf_printf(b, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(a));
    if (a->finish == SONDE_FINISH_STOP)
        json_write_string(b, a->task->stop[a->stop], strlen(a->task->stop[a->stop]));
    else
        buf_string(b, "null");
}

static void write_usage(struct buf *b, const struct task *t) {
    buf_printf(b,
               "{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%llu,"
               "\"output_tokens\":%llu}",
               (unsigned long long)(t->count - t->reused), (unsigned long long)t->reused,
               (unsigned long long)task_generated(t));
}

static void open_message(struct buf *b, const struct task *t) {
    buf_printf(b, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", t->id);
    write_model_name(b, t->server);
    buf_string(b, ",\"content\":[");
}

static void messages_begin(struct task *t) {
    struct buf b = {0};
    buf_string(&b, "{\"type\":\"message_start\",\"message\":");
    open_message(&b, t);
    buf_string(&b, "],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    write_usage(&b, t);
    buf_string(&b, "}}");
    send_event(t, "message_start", &b);
    buf_string(&b, "{\"type\":\"ping\"}");
    send_event(t, "ping", &b);
}

static void close_block(struct answer *a) {
    struct buf b = {0};
    if (a->block == BLOCK_NONE)
        return;
    if (a->block == BLOCK_THINKING) {
        buf_printf(&b,
                   "{\"type\":\"content_block_delta\",\"index\":%zu,\"delta\":{\"type\":\"signature_delta\","
                   "\"signature\":\"\"}}",
                   a->blocks - 1);
        send_event(a->task, "content_block_delta", &b);
    }
    buf_printf(&b, "{\"type\":\"content_block_stop\",\"index\":%zu}", a->blocks - 1);
    send_event(a->task, "content_block_stop", &b);
    a->block = BLOCK_NONE;
}

static void open_block(struct answer *a, enum block block, const char *name, size_t bytes) {
    struct buf b = {0};
    close_block(a);
    a->block = block;
    buf_printf(&b, "{\"type\":\"content_block_start\",\"index\":%zu,\"content_block\":", a->blocks++);
    if (block == BLOCK_THINKING)
        buf_string(&b, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}");
    else if (block == BLOCK_TEXT)
        buf_string(&b, "{\"type\":\"text\",\"text\":\"\"}}");
    else {
        buf_printf(&b, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", a->calls[a->call_count - 1].id);
        json_write_string(&b, name, bytes);
        buf_string(&b, ",\"input\":{}}}");
    }
    send_event(a->task, "content_block_start", &b);
}

static void messages_event(struct answer *a, const struct text_event *event) {
    static const char *const kinds[] = {"thinking_delta\",\"thinking", "text_delta\",\"text",
                                        "input_json_delta\",\"partial_json"};
    struct buf b = {0};
    enum block block = event->kind == TEXT_REASONING ? BLOCK_THINKING
                       : event->kind == TEXT_CONTENT ? BLOCK_TEXT
                                                     : BLOCK_CALL;
    if (event->kind == TEXT_CALL_END) {
        close_block(a);
        return;
    }
    if (event->kind == TEXT_CALL || a->block != (int)block)
        open_block(a, block, event->text, event->bytes);
    if (event->kind == TEXT_CALL)
        return;
    buf_printf(&b, "{\"type\":\"content_block_delta\",\"index\":%zu,\"delta\":{\"type\":\"%s\":", a->blocks - 1,
               kinds[block]);
    json_write_string(&b, event->text, event->bytes);
    buf_string(&b, "}}");
    send_event(a->task, "content_block_delta", &b);
}

static void messages_ended(struct answer *a) {
    struct buf b = {0};
    close_block(a);
    buf_string(&b, "{\"type\":\"message_delta\",\"delta\":{");
    write_stop(&b, a);
    buf_string(&b, "},\"usage\":");
    write_usage(&b, a->task);
    buf_byte(&b, '}');
    send_event(a->task, "message_delta", &b);
}

static void write_content(struct buf *b, const struct answer *a) {
    const char *comma = "";
    if (a->reasoning.len) {
        buf_string(b, "{\"type\":\"thinking\",\"thinking\":");
        json_write_string(b, a->reasoning.data, a->reasoning.len);
        buf_string(b, ",\"signature\":\"\"}");
        comma = ",";
    }
    if (a->content.len) {
        buf_printf(b, "%s{\"type\":\"text\",\"text\":", comma);
        json_write_string(b, a->content.data, a->content.len);
        buf_byte(b, '}');
        comma = ",";
    }
    for (size_t i = 0; i < a->call_count; i++) {
        const struct call *c = &a->calls[i];
        buf_printf(b, "%s{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", comma, c->id);
        json_write_string(b, c->name.data, c->name.len);
        buf_printf(b, ",\"input\":%s}", c->arguments.len ? c->arguments.data : "{}");
        comma = ",";
    }
}

static void messages_done(struct task *t) {
    struct buf b = {0};
    if (t->stream) {
        buf_string(&b, "{\"type\":\"message_stop\"}");
        send_event(t, "message_stop", &b);
        return;
    }
    open_message(&b, t);
    write_content(&b, &t->answers[0]);
    buf_string(&b, "],");
    write_stop(&b, &t->answers[0]);
    buf_string(&b, ",\"usage\":");
    write_usage(&b, t);
    buf_string(&b, "}\n");
    exchange_reply_json(t->exchange, 200, &b);
}

static void messages_failed(struct task *t, const struct refusal *r) {
    struct buf b = {0};
    write_refusal(&b, t->exchange, r);
    while (b.len && b.data[b.len - 1] == '\n')
        b.len--;
    send_event(t, "error", &b);
}

/* --------------------------------------------------------------------------------------------- requests */

void serve_messages(struct exchange *x) {
    static const struct voice voice = {messages_begin, messages_event, messages_ended, messages_done, messages_failed};
    static const struct interface messages = {.voice = &voice, .prefix = "msg_", .chat = true, .read = read_request};
    serve_interface(x, &messages);
}

void serve_count_tokens(struct exchange *x) {
    struct tools_asked tools = {.parallel = true};
    const struct jnode *schema = NULL;
    struct dialogue p = {0};
    struct refusal r = {0};
    struct fields f;
    struct jtree tree;
    struct buf b = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    int rc = read_body(x, &tree, &f, &r);
    if (!rc) {
        read_conversation(&f, exchange_server(x), NULL, &p, &tools, &schema);
        rc = f.failed ? -1 : 0;
        jtree_release(&tree);
    }
    if (!rc)
        rc = dialogue_ids(&p, exchange_server(x), &ids, &count, &r);
    dialogue_release(&p);
    sonde_free(ids);
    if (rc) {
        exchange_refuse(x, &r);
        return;
    }
    buf_printf(&b, "{\"input_tokens\":%zu}\n", count);
    exchange_reply_json(x, 200, &b);
}
