/*
 * openai_responses.c - /v1/responses as OpenAI defines it, without its memory: a request brings its whole conversation.
 *
 * Nothing is stored, so `store` is ignored and previous_response_id refused. Items of the input: messages, reasoning,
 * function_call and custom_tool_call with their outputs. A custom tool is shown to the model as a function with one
 * string, `input`. Besides OpenAI's fields: thinking_budget, in tokens.
 *
 * The output's items come in the order written: reasoning, message, calls; each is opened, filled and closed in turn.
 * Events are numbered from 0.
 */
#include <stdlib.h>
#include <string.h>

#include "server/asked_internal.h"
#include "server/interfaces_internal.h"
#include "server/parts_internal.h"

static const char known[] = "model|input|instructions|max_output_tokens|reasoning|stream|temperature|top_p|text|tools|"
                            "tool_choice|parallel_tool_calls|top_logprobs|previous_response_id|truncation|background|"
                            "conversation|prompt|thinking_budget";
static const char harmless[] = "store|include|metadata|user|service_tier|prompt_cache_key|prompt_cache_retention|"
                               "safety_identifier|stream_options|max_tool_calls|client_metadata";

enum item { ITEM_NONE = -1, ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL, ITEM_CUSTOM };

/* What only this interface needs of its request. */
struct response {
    struct buf custom;   /* names of custom tools, each with its terminator */
    struct buf echoed;   /* members of the response that repeat the request */
    struct buf finished; /* items of the output that are closed, separated by commas */
    uint64_t number;     /* of the next event */
    char item[48];       /* id of the open one */
    size_t from;         /* where its text begins in the answer's */
    struct buf input;    /* of an open custom call */
};

static void release(void *context) {
    struct response *r = context;
    buf_release(&r->custom);
    buf_release(&r->echoed);
    buf_release(&r->finished);
    buf_release(&r->input);
    free(r);
}

static bool is_custom(const struct response *r, const char *name, size_t bytes) {
    for (size_t at = 0; at < r->custom.len; at += strlen(r->custom.data + at) + 1)
        if (strlen(r->custom.data + at) == bytes && memcmp(r->custom.data + at, name, bytes) == 0)
            return true;
    return false;
}

/* ----------------------------------------------------------------------------------------------- input */

/* The assistant's message that items are gathered in: reasoning, text and calls in a row are one turn. */
static struct spoken *turn_of(struct dialogue *p) {
    if (p->count && p->said[p->count - 1].speaker == SPEAKER_ASSISTANT)
        return &p->said[p->count - 1];
    return dialogue_add(p, SPEAKER_ASSISTANT);
}

static void read_message_item(struct fields *f, struct dialogue *p) {
    static const enum speaker speakers[] = {SPEAKER_USER, SPEAKER_SYSTEM, SPEAKER_SYSTEM};
    int role = field_choice(f, "role", "user|system|developer|assistant");
    if (role < 0)
        field_refuse(f, "role", "a string is expected");
    fields_only(f, "type|role|content", "id|status|phase");
    if (f->failed)
        return;
    struct spoken *m = role == 3 ? turn_of(p) : dialogue_add(p, speakers[role]);
    if (m)
        read_text(f, "content", &m->text);
}

static void read_reasoning_item(struct fields *f, struct dialogue *p) {
    struct spoken *m = turn_of(p);
    const struct jnode *content = field_of(f, "content", JNODE_ARRAY);
    if (!m)
        return;
    for (const struct jnode *n = content ? content->first : NULL; n; n = n->next) {
        const struct jnode *text = jnode_get(n, "text");
        m->has_reasoning = true;
        if (jnode_is(text, JNODE_STRING))
            buf_append(&m->reasoning, text->text, text->length);
    }
}

static void read_call_item(struct fields *f, struct dialogue *p, bool custom) {
    const struct jnode *id = field_of(f, "call_id", JNODE_STRING), *name = field_of(f, "name", JNODE_STRING);
    const struct jnode *text = field_of(f, custom ? "input" : "arguments", JNODE_STRING);
    if (!f->failed && (!id || !name || !text))
        field_refuse(f, !id ? "call_id" : !name ? "name" : custom ? "input" : "arguments", "a string is expected");
    struct spoken *m = turn_of(p);
    struct spoken_call *c = m ? spoken_add_call(p, m) : NULL;
    if (f->failed || !c)
        return;
    buf_append(&c->id, id->text, id->length);
    buf_append(&c->name, name->text, name->length);
    buf_string(&c->arguments, custom ? "{\"input\": " : "");
    if (custom)
        json_write_string(&c->arguments, text->text, text->length);
    else
        buf_append(&c->arguments, text->text, text->length);
    buf_string(&c->arguments, custom ? "}" : "");
}

static void read_output_item(struct fields *f, struct dialogue *p) {
    const struct jnode *id = field_of(f, "call_id", JNODE_STRING);
    if (!f->failed && !id)
        field_refuse(f, "call_id", "a string is expected");
    struct spoken *m = dialogue_add(p, SPEAKER_TOOL);
    if (f->failed || !m)
        return;
    buf_append(&m->call_id, id->text, id->length);
    read_text(f, "output", &m->text);
}

static void read_item(struct fields *f, void *context) {
    struct dialogue *p = context;
    static const char types[] = "message|reasoning|function_call|function_call_output|custom_tool_call|"
                                "custom_tool_call_output";
    int type = jnode_get(f->object, "type") ? field_choice(f, "type", types) : 0;
    switch (f->failed ? -1 : type) {
    case 0:
        read_message_item(f, p);
        break;
    case 1:
        read_reasoning_item(f, p);
        break;
    case 2:
    case 4:
        read_call_item(f, p, type == 4);
        break;
    case 3:
    case 5:
        read_output_item(f, p);
        break;
    }
}

static void read_input(struct fields *f, struct dialogue *p) {
    const struct jnode *instructions = field_of(f, "instructions", JNODE_STRING), *input = field(f, "input");
    struct spoken *m = instructions ? dialogue_add(p, SPEAKER_SYSTEM) : NULL;
    if (m)
        buf_append(&m->text, instructions->text, instructions->length);
    if (jnode_is(input, JNODE_STRING)) {
        m = dialogue_add(p, SPEAKER_USER);
        if (m)
            buf_append(&m->text, input->text, input->length);
        return;
    }
    if (!jnode_is(input, JNODE_ARRAY) || !input->count) {
        field_refuse(f, "input", "a string or a list of items is expected");
        return;
    }
    fields_each(f, "input", read_item, p);
    if (p->count && p->said[p->count - 1].speaker == SPEAKER_ASSISTANT)
        field_refuse(f, "input", "the last item must be for the model to answer");
}

/* ----------------------------------------------------------------------------------------------- tools */

static void read_tool(struct fields *f, void *context) {
    struct tools_asked *tools = context;
    struct response *r = tools->own;
    const struct jnode *name = field_of(f, "name", JNODE_STRING), *parameters = field(f, "parameters");
    struct buf text = {0};
    bool custom = field_choice(f, "type", "function|custom") == 1;
    if (!f->failed && !name)
        field_refuse(f, "name", "a string is expected");
    if (custom && jnode_says(jnode_get(field(f, "format"), "type"), "grammar"))
        field_refuse(f, "format", "grammars are not supported");
    if (f->failed)
        return;
    if (custom) {
        buf_append(&r->custom, name->text, name->length + 1);
        buf_string(&text, "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},"
                          "\"required\":[\"input\"],\"additionalProperties\":false}");
    } else if (parameters) {
        jnode_write(&text, parameters);
    }
    put_tool(tools, name, field(f, "description"), text.data, jnode_truth(field(f, "strict")));
    buf_release(&text);
}

/* ------------------------------------------------------------------------------------- what is asked for */

static void read_format(struct fields *f, struct dialogue *p, const struct jnode **schema, bool *json) {
    struct fields text = {.object = field_of(f, "text", JNODE_OBJECT), .path = "text.", .refusal = f->refusal};
    fields_only(&text, "format|verbosity", NULL);
    field_choice(&text, "verbosity", "medium"); /* as much as the model says by itself */
    const struct jnode *format = field_of(&text, "format", JNODE_OBJECT);
    f->failed |= text.failed;
    if (!format)
        return;
    struct fields inner = {.object = format, .path = "text.format.", .refusal = f->refusal, .failed = f->failed};
    int type = field_choice(&inner, "type", "text|json_object|json_schema");
    fields_only(&inner, "type|schema", "name|description|strict");
    if (type < 0)
        field_refuse(&inner, "type", "a string is expected");
    *json = type == 1;
    if (type == 2 && !(*schema = field(&inner, "schema")))
        field_refuse(&inner, "schema", "a schema is expected");
    if (*schema)
        jnode_write(&p->format, *schema);
    f->failed |= inner.failed;
}

static void refuse_memory(struct fields *f) {
    static const char *const names[] = {"previous_response_id", "conversation", "prompt"};
    bool background = false;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (field(f, names[i]))
            field_refuse(f, names[i], "nothing is stored here: send the whole conversation as input");
    field_bool(f, "background", &background);
    if (background)
        field_refuse(f, "background", "answers are given at once");
    field_choice(f, "truncation", "disabled");
}

static void read_thinking(struct fields *f, struct task *t, struct dialogue *p) {
    struct thinking how = thinking_usual(t->server);
    const struct jnode *reasoning = field_of(f, "reasoning", JNODE_OBJECT);
    if (reasoning) {
        struct fields inner = {.object = reasoning, .path = "reasoning.", .refusal = f->refusal, .failed = f->failed};
        fields_only(&inner, "effort", "summary|generate_summary");
        read_effort(&inner, "effort", &how);
        f->failed |= inner.failed;
    }
    field_count(f, "thinking_budget", 0, UINT32_MAX, &t->thinking_budget);
    take_thinking(p, &how);
}

/* What the response says of its request. */
static void echo_request(struct fields *f, struct buf *b) {
    static const char *const names[] = {"instructions", "max_output_tokens",
                                        "metadata",     "parallel_tool_calls",
                                        "reasoning",    "temperature",
                                        "text",         "tool_choice",
                                        "tools",        "top_p",
                                        "user"};
    static const char *const defaults[] = {"null",
                                           "null",
                                           "{}",
                                           "true",
                                           "{\"effort\":null,\"summary\":null}",
                                           "1.0",
                                           "{\"format\":{\"type\":\"text\"}}",
                                           "\"auto\"",
                                           "[]",
                                           "1.0",
                                           "null"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const struct jnode *n = field(f, names[i]);
        buf_printf(b, ",\"%s\":", names[i]);
        if (n)
            jnode_write(b, n);
        else
            buf_string(b, defaults[i]);
    }
}

static int read_request(struct fields *f, struct task *t, struct dialogue *p) {
    struct response *r = t->context;
    struct tools_asked tools = {.parallel = true, .own = r};
    const struct jnode *schema = NULL;
    bool json = false;
    uint64_t top = 0;
    fields_only(f, known, harmless);
    refuse_memory(f);
    read_input(f, p);
    read_thinking(f, t, p);
    field_count(f, "max_output_tokens", 1, UINT32_MAX, &t->max_tokens);
    field_count(f, "top_logprobs", 0, 0, &top);
    field_bool(f, "stream", &t->stream);
    field_real(f, "temperature", 0, 100, &t->sampling.temperature);
    field_real(f, "top_p", 1e-6, 1, &t->sampling.top_p);
    read_format(f, p, &schema, &json);
    field_bool(f, "parallel_tool_calls", &tools.parallel);
    read_choice(f, &tools, false);
    read_tools(f, p, &tools, read_tool);
    echo_request(f, &r->echoed);
    return f->failed ? -1 : take_request(t, p, &tools, schema, json, f->refusal);
}

/* ----------------------------------------------------------------------------------------------- items */

/* The item that is open, as it stands: empty, or whole. */
static void write_item(struct buf *b, const struct answer *a, bool whole) {
    const struct response *r = a->task->context;
    const struct call *c = a->call_count ? &a->calls[a->call_count - 1] : NULL;
    const struct buf *text = a->block == ITEM_REASONING ? &a->reasoning : &a->content;
    const char *status = whole ? "completed" : "in_progress";
    buf_printf(b, "{\"id\":\"%s\",", r->item);
    if (a->block >= ITEM_CALL) {
        bool custom = a->block == ITEM_CUSTOM;
        buf_printf(b, "\"type\":\"%s\",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":",
                   custom ? "custom_tool_call" : "function_call", status, c->id);
        json_write_string(b, c->name.data, c->name.len);
        buf_string(b, custom ? ",\"input\":" : ",\"arguments\":");
        const struct buf *given = custom ? &r->input : &c->arguments;
        json_write_string(b, given->data, whole ? given->len : 0);
        buf_byte(b, '}');
        return;
    }
    if (a->block == ITEM_REASONING)
        buf_printf(b, "\"type\":\"reasoning\",\"status\":\"%s\",\"summary\":[],\"content\":[", status);
    else
        buf_printf(b, "\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[", status);
    if (whole) {
        buf_printf(b, "{\"type\":\"%s\",\"text\":", a->block == ITEM_REASONING ? "reasoning_text" : "output_text");
        json_write_string(b, text->data ? text->data + r->from : "", text->len - r->from);
        buf_string(b, a->block == ITEM_REASONING ? "}" : ",\"annotations\":[],\"logprobs\":[]}");
    }
    buf_string(b, "]}");
}

/* {"type": name, "sequence_number": ..., and what follows. */
static void open_event(struct buf *b, struct task *t, const char *name) {
    struct response *r = t->context;
    buf_printf(b, "{\"type\":\"%s\",\"sequence_number\":%llu", name, (unsigned long long)r->number++);
}

static void send_named(struct task *t, const char *name, struct buf *b) {
    buf_byte(b, '}');
    send_event(t, name, b);
}

/* "item_id", "output_index" and, for text, "content_index". */
static void put_place(struct buf *b, const struct answer *a) {
    const struct response *r = a->task->context;
    buf_printf(b, ",\"item_id\":\"%s\",\"output_index\":%zu", r->item, a->blocks - 1);
    if (a->block < ITEM_CALL)
        buf_string(b, ",\"content_index\":0");
}

static void send_item(struct answer *a, const char *name, bool whole) {
    struct buf b = {0};
    open_event(&b, a->task, name);
    buf_printf(&b, ",\"output_index\":%zu,\"item\":", a->blocks - 1);
    write_item(&b, a, whole);
    send_named(a->task, name, &b);
}

static void put_part(struct buf *b, const struct answer *a, const char *text, size_t bytes) {
    bool reasoning = a->block == ITEM_REASONING;
    buf_printf(b, ",\"part\":{\"type\":\"%s\",\"text\":", reasoning ? "reasoning_text" : "output_text");
    json_write_string(b, text, bytes);
    buf_string(b, reasoning ? "}" : ",\"annotations\":[],\"logprobs\":[]}");
}

/* "response.output_text.done" and the like, then the part's end. */
static void send_text_done(struct answer *a) {
    const struct response *r = a->task->context;
    bool reasoning = a->block == ITEM_REASONING;
    const struct buf *all = reasoning ? &a->reasoning : &a->content;
    const char *name = reasoning ? "response.reasoning_text.done" : "response.output_text.done";
    const char *text = all->data ? all->data + r->from : "";
    struct buf b = {0};
    open_event(&b, a->task, name);
    put_place(&b, a);
    buf_string(&b, ",\"text\":");
    json_write_string(&b, text, all->len - r->from);
    buf_string(&b, reasoning ? "" : ",\"logprobs\":[]");
    send_named(a->task, name, &b);
    open_event(&b, a->task, "response.content_part.done");
    put_place(&b, a);
    put_part(&b, a, text, all->len - r->from);
    send_named(a->task, "response.content_part.done", &b);
}

static void send_call_done(struct answer *a) {
    struct response *r = a->task->context;
    const struct call *c = &a->calls[a->call_count - 1];
    bool custom = a->block == ITEM_CUSTOM;
    const char *name = custom ? "response.custom_tool_call_input.done" : "response.function_call_arguments.done";
    const struct buf *given = custom ? &r->input : &c->arguments;
    struct buf b = {0};
    open_event(&b, a->task, name);
    put_place(&b, a);
    if (!custom) {
        buf_string(&b, ",\"name\":");
        json_write_string(&b, c->name.data, c->name.len);
    }
    buf_string(&b, custom ? ",\"input\":" : ",\"arguments\":");
    json_write_string(&b, given->data, given->len);
    send_named(a->task, name, &b);
}

/* What the model wrote as {"input": ...} is the input itself. */
static void read_custom_input(struct answer *a) {
    struct response *r = a->task->context;
    const struct call *c = &a->calls[a->call_count - 1];
    struct jtree tree;
    buf_clear(&r->input);
    if (!c->arguments.len || jtree_parse(c->arguments.data, c->arguments.len, "arguments", &tree, NULL))
        return;
    const struct jnode *input = jnode_get(tree.root, "input");
    if (jnode_is(input, JNODE_STRING))
        buf_append(&r->input, input->text, input->length);
    else
        buf_append(&r->input, c->arguments.data, c->arguments.len);
    jtree_release(&tree);
}

static void close_item(struct answer *a) {
    struct response *r = a->task->context;
    if (a->block == ITEM_NONE)
        return;
    if (a->block == ITEM_CUSTOM)
        read_custom_input(a);
    if (a->task->stream && a->block < ITEM_CALL)
        send_text_done(a);
    else if (a->task->stream)
        send_call_done(a);
    buf_string(&r->finished, r->finished.len ? "," : "");
    write_item(&r->finished, a, true);
    if (a->task->stream)
        send_item(a, "response.output_item.done", true);
    a->block = ITEM_NONE;
}

/* from: where the item's text begins in what has been gathered. */
static void open_item(struct answer *a, enum item item, size_t from) {
    static const char *const prefixes[] = {"rs_", "msg_", "fc_", "ctc_"};
    struct response *r = a->task->context;
    struct buf b = {0};
    close_item(a);
    a->block = item;
    a->blocks++;
    r->from = from;
    make_id(r->item, sizeof(r->item), prefixes[item]);
    if (!a->task->stream)
        return;
    send_item(a, "response.output_item.added", false);
    if (item >= ITEM_CALL)
        return;
    open_event(&b, a->task, "response.content_part.added");
    put_place(&b, a);
    put_part(&b, a, "", 0);
    send_named(a->task, "response.content_part.added", &b);
}

/* ------------------------------------------------------------------------------------------------ voice */

static void write_usage(struct buf *b, const struct task *t) {
    unsigned long long generated = task_generated(t);
    buf_printf(b,
               "{\"input_tokens\":%zu,\"input_tokens_details\":{\"cached_tokens\":%llu},\"output_tokens\":%llu,"
               "\"output_tokens_details\":{\"reasoning_tokens\":%llu},\"total_tokens\":%llu}",
               t->count, (unsigned long long)t->reused, generated, (unsigned long long)task_reasoning(t),
               t->count + generated);
}

static const char *why_incomplete(const struct task *t) {
    const char *finish = answer_finish(&t->answers[0]);
    return strcmp(finish, "length") == 0 || strcmp(finish, "insufficient_system_resource") == 0 ? "max_output_tokens"
                                                                                                : NULL;
}

static void write_response(struct buf *b, const struct task *t, const char *status) {
    const struct response *r = t->context;
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"error\":null,", t->id,
               (long long)t->created, status);
    if (strcmp(status, "incomplete") == 0)
        buf_printf(b, "\"incomplete_details\":{\"reason\":\"%s\"},", why_incomplete(t));
    else
        buf_string(b, "\"incomplete_details\":null,");
    buf_string(b, "\"model\":");
    write_model_name(b, t->server);
    buf_append(b, r->echoed.data, r->echoed.len);
    buf_string(b, ",\"previous_response_id\":null,\"store\":false,\"truncation\":\"disabled\",\"output\":[");
    buf_append(b, r->finished.data, r->finished.len);
    buf_string(b, "],\"usage\":");
    if (strcmp(status, "in_progress") == 0)
        buf_string(b, "null");
    else
        write_usage(b, t);
    buf_byte(b, '}');
}

static void send_response(struct task *t, const char *name, const char *status) {
    struct buf b = {0};
    open_event(&b, t, name);
    buf_string(&b, ",\"response\":");
    write_response(&b, t, status);
    send_named(t, name, &b);
}

static void responses_begin(struct task *t) {
    send_response(t, "response.created", "in_progress");
    send_response(t, "response.in_progress", "in_progress");
}

static enum item item_of(const struct answer *a, const struct text_event *event) {
    if (event->kind == TEXT_REASONING)
        return ITEM_REASONING;
    if (event->kind == TEXT_CONTENT)
        return ITEM_MESSAGE;
    const struct call *c = &a->calls[a->call_count - 1];
    return is_custom(a->task->context, c->name.data, c->name.len) ? ITEM_CUSTOM : ITEM_CALL;
}

static void responses_event(struct answer *a, const struct text_event *event) {
    static const char *const names[] = {"response.reasoning_text.delta", "response.output_text.delta",
                                        "response.function_call_arguments.delta"};
    enum item item = item_of(a, event);
    struct buf b = {0};
    if (event->kind == TEXT_CALL_END) {
        close_item(a);
        return;
    }
    if (event->kind == TEXT_CALL || a->block != (int)item)
        open_item(a, item,
                  (item == ITEM_REASONING ? a->reasoning.len : a->content.len) - (item < ITEM_CALL ? event->bytes : 0));
    if (event->kind == TEXT_CALL || item == ITEM_CUSTOM) /* a custom call's input is known when it is whole */
        return;
    open_event(&b, a->task, names[item]);
    put_place(&b, a);
    buf_string(&b, ",\"delta\":");
    json_write_string(&b, event->text, event->bytes);
    buf_string(&b, item == ITEM_MESSAGE ? ",\"logprobs\":[]" : "");
    send_named(a->task, names[item], &b);
}

static void responses_ended(struct answer *a) {
    close_item(a);
}

/* The items of an answer that did not stream. */
static void gather(struct answer *a) {
    size_t calls = a->call_count;
    if (a->reasoning.len)
        open_item(a, ITEM_REASONING, 0);
    if (a->content.len)
        open_item(a, ITEM_MESSAGE, 0);
    for (size_t i = 1; i <= calls; i++) {
        close_item(a);
        a->call_count = i; /* an item is of the last call */
        open_item(a, item_of(a, &(struct text_event){.kind = TEXT_CALL}), 0);
    }
    close_item(a);
}

static void responses_done(struct task *t) {
    const char *status = why_incomplete(t) ? "incomplete" : "completed";
    struct buf b = {0};
    if (t->stream) {
        send_response(t, why_incomplete(t) ? "response.incomplete" : "response.completed", status);
        return;
    }
    gather(&t->answers[0]);
    write_response(&b, t, status);
    buf_byte(&b, '\n');
    exchange_reply_json(t->exchange, 200, &b);
}

static void responses_failed(struct task *t, const struct refusal *why) {
    struct buf b = {0};
    open_event(&b, t, "error");
    buf_string(&b, ",\"code\":\"server_error\",\"param\":null,\"message\":");
    json_write_string(&b, why->message, strlen(why->message));
    send_named(t, "error", &b);
}

void serve_responses(struct exchange *x) {
    static const struct voice voice = {responses_begin, responses_event, responses_ended, responses_done,
                                       responses_failed};
    static const struct interface responses = {.voice = &voice,
                                               .prefix = "resp_",
                                               .chat = true,
                                               .own = sizeof(struct response),
                                               .release = release,
                                               .read = read_request};
    serve_interface(x, &responses);
}
