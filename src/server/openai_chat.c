/*
 * openai_chat.c - /v1/chat/completions as OpenAI and DeepSeek define it.
 *
 * Besides OpenAI's fields: thinking {type, budget_tokens}, reasoning_content in messages and deltas, prefix on a last
 * message of the assistant's, top_k, min_p, repetition_penalty, chat_template_kwargs {thinking, enable_thinking}.
 */
#include <stdlib.h>
#include <string.h>

#include "server/asked_internal.h"
#include "server/interfaces_internal.h"
#include "server/parts_internal.h"

static const char known[] = "model|messages|thinking|thinking_budget|reasoning_effort|max_tokens|max_completion_tokens|"
                            "response_format|stop|stream|stream_options|logprobs|top_logprobs|n|tools|tool_choice|"
                            "parallel_tool_calls|chat_template_kwargs|modalities|verbosity|" SAMPLING_FIELDS;
static const char harmless[] = "user|user_id|metadata|store|service_tier|prompt_cache_key|prompt_cache_retention|"
                               "safety_identifier|prediction";

/* --------------------------------------------------------------------------------------------- messages */

/* The message that is being read. */
struct reading {
    struct dialogue *p;
    struct spoken *m;
};

static void read_call(struct fields *f, void *context) {
    const struct reading *r = context;
    fields_only(f, "id|type|function", "index");
    struct fields function = *f;
    function.object = field_of(f, "function", JNODE_OBJECT);
    const struct jnode *name = field_of(&function, "name", JNODE_STRING), *id = field_of(f, "id", JNODE_STRING);
    const struct jnode *arguments = field(&function, "arguments");
    if (!f->failed && !name)
        field_refuse(f, "function.name", "a string is expected");
    struct spoken_call *c = spoken_add_call(r->p, r->m);
    f->failed |= function.failed;
    if (f->failed || !c)
        return;
    buf_append(&c->name, name->text, name->length);
    if (id)
        buf_append(&c->id, id->text, id->length);
    if (jnode_is(arguments, JNODE_STRING))
        buf_append(&c->arguments, arguments->text, arguments->length);
    else if (jnode_is(arguments, JNODE_OBJECT))
        jnode_write(&c->arguments, arguments);
    else if (arguments)
        field_refuse(f, "function.arguments", "a string is expected");
}

static void read_assistant(struct fields *f, struct dialogue *p, struct spoken *m, bool last) {
    const struct jnode *reasoning = field_of(f, "reasoning_content", JNODE_STRING);
    bool prefix = false;
    field_bool(f, "prefix", &prefix);
    if (prefix && !last)
        field_refuse(f, "prefix", "only the last message can be continued");
    if (last && !prefix)
        field_refuse(f, "prefix", "a last message of the assistant's is continued with \"prefix\": true");
    m->open = prefix;
    m->has_reasoning = reasoning != NULL;
    if (reasoning)
        buf_append(&m->reasoning, reasoning->text, reasoning->length);
    fields_each(f, "tool_calls", read_call, &(struct reading){p, m});
}

static void read_message(struct fields *f, void *context) {
    struct dialogue *p = context;
    static const enum speaker speakers[] = {SPEAKER_SYSTEM, SPEAKER_SYSTEM,    SPEAKER_USER,
                                            SPEAKER_TOOL,   SPEAKER_ASSISTANT, SPEAKER_REMINDER};
    if (!jnode_is(f->object, JNODE_OBJECT))
        field_refuse(f, "", "an object is expected");
    int role = field_choice(f, "role", "system|developer|user|tool|assistant|latest_reminder");
    if (role < 0 && !f->failed)
        field_refuse(f, "role", "a string is expected");
    if (f->failed)
        return;
    struct spoken *m = dialogue_add(p, speakers[role]);
    if (!m)
        return;
    read_text(f, "content", &m->text);
    if (m->speaker == SPEAKER_ASSISTANT) {
        fields_only(f, "role|content|reasoning_content|tool_calls|prefix", "name|refusal|annotations|audio|reasoning");
        read_assistant(f, p, m, !f->object->next);
    } else if (m->speaker == SPEAKER_TOOL) {
        const struct jnode *id = field_of(f, "tool_call_id", JNODE_STRING);
        fields_only(f, "role|content|tool_call_id", "name");
        if (id)
            buf_append(&m->call_id, id->text, id->length);
    } else {
        fields_only(f, "role|content", "name");
    }
}

/* ------------------------------------------------------------------------------------- what is asked for */

static void read_thinking(struct fields *f, struct task *t, struct dialogue *p) {
    struct thinking how = thinking_usual(t->server);
    const struct jnode *thinking = field_of(f, "thinking", JNODE_OBJECT);
    const struct jnode *template = field_of(f, "chat_template_kwargs", JNODE_OBJECT);
    field_count(f, "thinking_budget", 0, UINT32_MAX, &t->thinking_budget);
    if (thinking) {
        struct fields inner = {.object = thinking, .path = "thinking.", .refusal = f->refusal, .failed = f->failed};
        fields_only(&inner, "type|budget_tokens", NULL);
        int type = field_choice(&inner, "type", "enabled|disabled|auto|adaptive");
        field_count(&inner, "budget_tokens", 1, UINT32_MAX, &t->thinking_budget);
        f->failed |= inner.failed;
        how.on = type != 1;
    }
    if (template) {
        struct fields inner = {
            .object = template, .path = "chat_template_kwargs.", .refusal = f->refusal, .failed = f->failed};
        fields_only(&inner, "thinking|enable_thinking|reasoning_effort", NULL);
        field_bool(&inner, "thinking", &how.on);
        field_bool(&inner, "enable_thinking", &how.on);
        read_effort(&inner, "reasoning_effort", &how);
        f->failed |= inner.failed;
    }
    bool off = thinking && !how.on;
    read_effort(f, "reasoning_effort", &how);
    how.on &= !off;
    take_thinking(p, &how);
}

/* As it was written: the model reads it so. */
static void read_tool(struct fields *f, void *context) {
    struct tools_asked *tools = context;
    const struct jnode *function = jnode_get(f->object, "function"), *name = jnode_get(function, "name");
    if (!jnode_says(jnode_get(f->object, "type"), "function"))
        field_refuse(f, "type", "only \"function\" is supported");
    else if (!jnode_is(name, JNODE_STRING) || !name->length)
        field_refuse(f, "function.name", "a string is expected");
    if (f->failed)
        return;
    note_tool(tools, name->text, jnode_truth(jnode_get(function, "strict")));
    jnode_write(tools->list, f->object);
}

/* Into *schema, or *json for any object. */
static void read_format(struct fields *f, struct dialogue *p, const struct jnode **schema, bool *json) {
    const struct jnode *format = field_of(f, "response_format", JNODE_OBJECT);
    if (!format)
        return;
    struct fields inner = {.object = format, .path = "response_format.", .refusal = f->refusal, .failed = f->failed};
    int type = field_choice(&inner, "type", "text|json_object|json_schema");
    fields_only(&inner, "type|json_schema", NULL);
    if (type < 0)
        field_refuse(&inner, "type", "a string is expected");
    if (type == 2) {
        const struct jnode *outer = field_of(&inner, "json_schema", JNODE_OBJECT);
        *schema = jnode_get(outer, "schema");
        if (!*schema)
            field_refuse(&inner, "json_schema.schema", "a schema is expected");
        else
            jnode_write(&p->format, *schema);
    }
    *json = type == 1;
    f->failed |= inner.failed;
}

static void read_lengths(struct fields *f, struct task *t) {
    uint64_t n = 1, top = 0;
    field_count(f, "max_tokens", 1, UINT32_MAX, &t->max_tokens);
    field_count(f, "max_completion_tokens", 1, UINT32_MAX, &t->max_tokens);
    field_count(f, "n", 1, TASK_ANSWERS, &n);
    field_bool(f, "logprobs", &t->logprobs);
    field_count(f, "top_logprobs", 0, TASK_TOP_LOGPROBS, &top);
    if (top && !t->logprobs)
        field_refuse(f, "top_logprobs", "\"logprobs\": true is needed too");
    t->n = (uint32_t)n;
    t->top_logprobs = (uint32_t)min_u64(top, t->server->info.vocab);
    field_bool(f, "stream", &t->stream);
    read_stream_options(f, t);
}

static void check_modalities(struct fields *f) {
    const struct jnode *list = field_of(f, "modalities", JNODE_ARRAY);
    for (const struct jnode *n = list ? list->first : NULL; n; n = n->next)
        if (!jnode_says(n, "text"))
            field_refuse(f, "modalities", "only \"text\" is supported");
}

/* The whole request into t and p; -1: refused. */
static int read_request(struct fields *f, struct task *t, struct dialogue *p) {
    struct tools_asked tools = {.parallel = true};
    const struct jnode *schema = NULL;
    bool json = false;
    fields_only(f, known, harmless);
    fields_each(f, "messages", read_message, p);
    if (!p->count)
        field_refuse(f, "messages", "a list of at least one message is expected");
    read_thinking(f, t, p);
    read_lengths(f, t);
    read_sampling(f, t);
    read_stop(f, "stop", t);
    read_format(f, p, &schema, &json);
    check_modalities(f);
    field_choice(f, "verbosity", "medium"); /* as much as the model says by itself */
    field_bool(f, "parallel_tool_calls", &tools.parallel);
    read_choice(f, &tools, true);
    read_tools(f, p, &tools, read_tool);
    return f->failed ? -1 : take_request(t, p, &tools, schema, json, f->refusal);
}

/* ------------------------------------------------------------------------------------------------ voice */

static void open_object(struct buf *b, const struct task *t, const char *object) {
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", t->id, object, (long long)t->created);
    write_model_name(b, t->server);
    buf_printf(b, ",\"system_fingerprint\":\"sonde-%s\"", sonde_version());
}

static void open_delta(struct buf *b, const struct answer *a) {
    open_object(b, a->task, "chat.completion.chunk");
    buf_printf(b, ",\"choices\":[{\"index\":%u,\"delta\":{", a->index);
}

/* Logprobs of tokens since the last chunk come with the next that has content. */
static void close_delta(struct buf *b, struct answer *a, bool content, const char *finish) {
    size_t rows = a->task->logprobs ? logprob_rows(a->task, &a->logprobs) : 0;
    buf_byte(b, '}');
    if (a->task->logprobs && rows > a->logprobs_sent && (content || finish)) {
        buf_string(b, ",\"logprobs\":{\"content\":[");
        write_logprobs_chat(b, a->task, &a->logprobs, a->logprobs_sent, rows);
        buf_string(b, "]}");
        a->logprobs_sent = rows;
    } else {
        buf_string(b, ",\"logprobs\":null");
    }
    if (finish)
        buf_printf(b, ",\"finish_reason\":\"%s\"}]}", finish);
    else
        buf_string(b, ",\"finish_reason\":null}]}");
    send_event(a->task, NULL, b);
}

static void chat_begin(struct task *t) {
    for (uint32_t i = 0; i < t->n; i++) {
        struct buf b = {0};
        struct answer *a = &t->answers[i];
        open_delta(&b, a);
        buf_string(&b, "\"role\":\"assistant\",\"content\":\"\"");
        close_delta(&b, a, false, NULL);
    }
}

static void chat_event(struct answer *a, const struct text_event *event) {
    struct buf b = {0};
    const struct call *c = a->call_count ? &a->calls[a->call_count - 1] : NULL;
    if (event->kind == TEXT_CALL_END)
        return;
    open_delta(&b, a);
    if (event->kind == TEXT_REASONING || event->kind == TEXT_CONTENT) {
        buf_string(&b, event->kind == TEXT_REASONING ? "\"reasoning_content\":" : "\"content\":");
        json_write_string(&b, event->text, event->bytes);
    } else {
        buf_printf(&b, "\"tool_calls\":[{\"index\":%zu,", event->call);
        if (event->kind == TEXT_CALL) {
            buf_printf(&b, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", c->id);
            json_write_string(&b, event->text, event->bytes);
            buf_string(&b, ",\"arguments\":\"\"}}]");
        } else {
            buf_string(&b, "\"function\":{\"arguments\":");
            json_write_string(&b, event->text, event->bytes);
            buf_string(&b, "}}]");
        }
    }
    close_delta(&b, a, event->kind == TEXT_CONTENT, NULL);
}

static void chat_ended(struct answer *a) {
    struct buf b = {0};
    open_delta(&b, a);
    close_delta(&b, a, false, answer_finish(a));
}

static void write_choice(struct buf *b, const struct answer *a) {
    const struct task *t = a->task;
    buf_printf(b, "{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", a->index);
    if (a->content.len || !a->call_count)
        json_write_string(b, a->content.data, a->content.len);
    else
        buf_string(b, "null");
    if (t->thinking || a->reasoning.len) {
        buf_string(b, ",\"reasoning_content\":");
        json_write_string(b, a->reasoning.data, a->reasoning.len);
    }
    if (a->call_count)
        buf_string(b, ",\"tool_calls\":[");
    for (size_t i = 0; i < a->call_count; i++) {
        const struct call *c = &a->calls[i];
        buf_printf(b, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", i ? "," : "", c->id);
        json_write_string(b, c->name.data, c->name.len);
        buf_string(b, ",\"arguments\":");
        json_write_string(b, c->arguments.data, c->arguments.len);
        buf_string(b, "}}");
    }
    buf_string(b, a->call_count ? "]}" : "}");
    if (t->logprobs) {
        buf_string(b, ",\"logprobs\":{\"content\":[");
        write_logprobs_chat(b, t, &a->logprobs, 0, logprob_rows(t, &a->logprobs));
        buf_string(b, "]}");
    } else {
        buf_string(b, ",\"logprobs\":null");
    }
    buf_printf(b, ",\"finish_reason\":\"%s\"}", answer_finish(a));
}

static void chat_done(struct task *t) {
    struct buf b = {0};
    if (t->stream && t->usage) {
        open_object(&b, t, "chat.completion.chunk");
        buf_string(&b, ",\"choices\":[],\"usage\":");
        write_usage_openai(&b, t);
        buf_byte(&b, '}');
        send_event(t, NULL, &b);
    }
    if (t->stream) {
        buf_string(&b, "[DONE]");
        send_event(t, NULL, &b);
        return;
    }
    open_object(&b, t, "chat.completion");
    buf_string(&b, ",\"choices\":[");
    for (uint32_t i = 0; i < t->n; i++) {
        buf_string(&b, i ? "," : "");
        write_choice(&b, &t->answers[i]);
    }
    buf_string(&b, "],\"usage\":");
    write_usage_openai(&b, t);
    buf_string(&b, "}\n");
    exchange_reply_json(t->exchange, 200, &b);
}

void openai_failed(struct task *t, const struct refusal *r) {
    struct buf b = {0};
    write_refusal(&b, t->exchange, r);
    while (b.len && b.data[b.len - 1] == '\n')
        b.len--;
    send_event(t, NULL, &b);
}

void serve_chat(struct exchange *x) {
    static const struct voice voice = {chat_begin, chat_event, chat_ended, chat_done, openai_failed};
    static const struct interface chat = {.voice = &voice, .prefix = "chatcmpl-", .chat = true, .read = read_request};
    serve_interface(x, &chat);
}
