/* asked.c - what the interfaces ask for and answer in the same way. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/asked_internal.h"
#include "server/parts_internal.h"

int read_body(struct exchange *x, struct jtree *tree, struct fields *f, struct refusal *r) {
    const struct buf *body = exchange_body(x);
    struct sonde_error e;
    if (jtree_parse(body->len ? body->data : "", body->len, "the request", tree, &e))
        return refuse_error(r, &e);
    *f = (struct fields){.object = tree->root, .path = "", .refusal = r};
    if (jnode_is(tree->root, JNODE_OBJECT))
        return 0;
    jtree_release(tree);
    return refuse(r, 400, NULL, "the request: an object is expected");
}

static int read_task(struct exchange *x, const struct interface *i, struct task *t, struct refusal *r) {
    struct dialogue p = {0};
    struct fields f;
    struct jtree tree;
    t->chat = i->chat;
    t->context = i->own ? calloc(1, i->own) : NULL;
    t->release = t->context ? i->release : NULL;
    if (i->own && !t->context)
        return refuse(r, 500, NULL, "out of memory");
    int rc = read_body(x, &tree, &f, r);
    if (rc)
        return rc;
    rc = i->read(&f, t, &p);
    jtree_release(&tree);
    dialogue_release(&p);
    return rc;
}

void serve_interface(struct exchange *x, const struct interface *i) {
    struct task *t = task_new(x, i->voice, i->prefix);
    struct refusal r = {0};
    if (!t)
        return;
    if (!read_task(x, i, t, &r)) {
        task_submit(t);
        return;
    }
    exchange_refuse(x, &r);
    task_free(t);
}

void write_model_name(struct buf *b, const struct server *s) {
    json_write_string(b, s->options.name, strlen(s->options.name));
}

/* -------------------------------------------------------------------------------------------- sampling */

static void read_bias(struct fields *f, struct task *t) {
    const struct jnode *all = field_of(f, "logit_bias", JNODE_OBJECT);
    if (!all || !all->count)
        return;
    t->bias = calloc(all->count, sizeof(*t->bias));
    if (!t->bias) {
        field_refuse(f, "logit_bias", "out of memory");
        return;
    }
    for (const struct jnode *n = all->first; n; n = n->next) {
        char *end;
        long id = strtol(n->key, &end, 10);
        double value;
        if (*end || end == n->key || id < 0 || (unsigned long)id >= t->server->info.vocab) {
            field_refuse(f, "logit_bias", "\"%.40s\" is not the id of a token", n->key);
            return;
        }
        if (!jnode_number(n, &value) || !(value >= -100 && value <= 100)) {
            field_refuse(f, "logit_bias", "for %ld a number from -100 to 100 is expected", id);
            return;
        }
        /* the ends of the range mean never and only */
        t->bias[t->bias_count++] = (struct sonde_bias){(int32_t)id, value <= -100  ? -1e9f
                                                                    : value >= 100 ? 1e9f
                                                                                   : (float)value};
    }
}

void read_sampling(struct fields *f, struct task *t) {
    struct sonde_sampling *s = &t->sampling;
    uint64_t top_k = s->top_k;
    field_real(f, "temperature", 0, 100, &s->temperature);
    field_real(f, "top_p", 0, 1, &s->top_p);
    if (s->top_p <= 0)
        s->top_p = 1e-6f;
    field_count(f, "top_k", 0, UINT32_MAX, &top_k);
    s->top_k = (uint32_t)top_k;
    field_real(f, "min_p", 0, 1, &s->min_p);
    field_real(f, "repetition_penalty", 1e-3, 1e3, &s->repetition_penalty);
    field_real(f, "presence_penalty", -100, 100, &s->presence_penalty);
    field_real(f, "frequency_penalty", -100, 100, &s->frequency_penalty);
    const struct jnode *seed = field_of(f, "seed", JNODE_NUMBER);
    double x;
    if (seed && (!jnode_number(seed, &x) || x != floor(x) || fabs(x) > 9.3e18))
        field_refuse(f, "seed", "a whole number is expected");
    else if (seed)
        s->seed =
            seed->text[strcspn(seed->text, ".eE")] ? (uint64_t)(int64_t)x : (uint64_t)strtoll(seed->text, NULL, 10);
    read_bias(f, t);
}

static void add_stop(struct fields *f, const char *name, const struct jnode *node, struct task *t) {
    if (!jnode_is(node, JNODE_STRING) || !node->length || strlen(node->text) != node->length) {
        field_refuse(f, name, "strings that are not empty are expected");
    } else if (t->stop_count == TASK_STOPS) {
        field_refuse(f, name, "at most %d strings are possible", TASK_STOPS);
    } else if (!(t->stop[t->stop_count] = strdup(node->text))) {
        field_refuse(f, name, "out of memory");
    } else {
        t->stop_count++;
    }
}

void read_stop(struct fields *f, const char *name, struct task *t) {
    const struct jnode *node = field(f, name);
    if (!node)
        return;
    if (node->kind != JNODE_ARRAY)
        add_stop(f, name, node, t);
    else
        for (const struct jnode *n = node->first; n && !f->failed; n = n->next)
            add_stop(f, name, n, t);
}

void read_stream_options(struct fields *f, struct task *t) {
    const struct jnode *options = field_of(f, "stream_options", JNODE_OBJECT);
    if (!options)
        return;
    struct fields inner = {.object = options, .path = "stream_options.", .refusal = f->refusal, .failed = f->failed};
    field_bool(&inner, "include_usage", &t->usage);
    fields_only(&inner, "include_usage", "include_obfuscation|continuous_usage_stats");
    f->failed |= inner.failed;
}

/* ------------------------------------------------------------------------------------------------ text */

void read_text(struct fields *f, const char *name, struct buf *to) {
    const struct jnode *node = field(f, name);
    size_t i = 0;
    if (!node)
        return;
    if (node->kind == JNODE_STRING) {
        buf_append(to, node->text, node->length);
        return;
    }
    if (node->kind != JNODE_ARRAY) {
        field_refuse(f, name, "a string or a list of content blocks is expected");
        return;
    }
    for (const struct jnode *n = node->first; n; n = n->next, i++) {
        const struct jnode *type = jnode_get(n, "type"), *text = jnode_get(n, "text");
        bool is_text = jnode_says(type, "text") || jnode_says(type, "input_text") || jnode_says(type, "output_text") ||
                       jnode_says(type, "refusal");
        if (jnode_says(type, "refusal"))
            text = jnode_get(n, "refusal");
        if (!is_text || !jnode_is(text, JNODE_STRING)) {
            field_refuse(f, name, "block %zu: %.60s is not supported: this model reads text", i,
                         jnode_is(type, JNODE_STRING) ? type->text : "a block without a type");
            return;
        }
        if (i)
            buf_string(to, "\n\n");
        buf_append(to, text->text, text->length);
    }
}

struct thinking thinking_usual(const struct server *s) {
    return (struct thinking){.on = s->thinks, .format = s->info.chat_format};
}

/* Names in use are those of DeepSeek's interface and others; each stands for one that formats may have. */
void read_effort(struct fields *f, const char *name, struct thinking *how) {
    static const char words[] = "none|minimal|low|medium|high|xhigh|max|ultra";
    static const char *const efforts[] = {"", "low", "low", "high", "high", "high", "max", "max"};
    const struct jnode *node = field(f, name);
    if (jnode_is(node, JNODE_NUMBER)) {
        if (!text_chat_takes_effort(how->format, node->text)) {
            field_refuse(f, name, "%.20s is no effort of this model", node->text);
            return;
        }
        how->on = true;
        snprintf(how->effort, sizeof(how->effort), "%s", node->text);
        return;
    }
    int i = field_choice(f, name, words);
    if (i < 0)
        return;
    how->on = i > 0;
    *how->effort = 0;
    if (text_chat_takes_effort(how->format, efforts[i]))
        snprintf(how->effort, sizeof(how->effort), "\"%s\"", efforts[i]);
}

void take_thinking(struct dialogue *p, const struct thinking *how) {
    p->thinking = how->on;
    snprintf(p->effort, sizeof(p->effort), "%s", how->effort);
}

/* ----------------------------------------------------------------------------------------------- tools */

void read_choice(struct fields *f, struct tools_asked *tools, bool nested) {
    const struct jnode *choice = field(f, "tool_choice");
    if (!jnode_is(choice, JNODE_OBJECT)) {
        int i = field_choice(f, "tool_choice", "auto|none|required");
        tools->choice = i < 0 ? CHOICE_AUTO : (enum tool_choice)i;
        return;
    }
    const struct jnode *type = jnode_get(choice, "type");
    const struct jnode *name = jnode_get(nested ? jnode_get(choice, "function") : choice, "name");
    tools->choice = CHOICE_ONE;
    if ((jnode_says(type, "function") || (!nested && jnode_says(type, "custom"))) && jnode_is(name, JNODE_STRING))
        tools->only = name->text;
    else
        field_refuse(f, "tool_choice", "%s is expected",
                     nested ? "{\"type\": \"function\", \"function\": {\"name\": NAME}}"
                            : "{\"type\": \"function\", \"name\": NAME}");
}

void read_tools(struct fields *f, struct dialogue *p, struct tools_asked *tools,
                void (*one)(struct fields *f, void *tools)) {
    tools->list = &p->tools;
    fields_each(f, "tools", one, tools);
    if (p->tools.len)
        buf_byte(&p->tools, ']');
    else if (tools->choice == CHOICE_ANY || tools->choice == CHOICE_ONE)
        field_refuse(f, "tool_choice", "there are no tools");
    if (tools->choice == CHOICE_ONE && !tools->found)
        field_refuse(f, "tool_choice", "no tool is called %.60s", tools->only ? tools->only : "");
}

void note_tool(struct tools_asked *tools, const char *name, bool strict) {
    buf_byte(tools->list, tools->list->len ? ',' : '[');
    tools->strict |= strict;
    tools->found |= tools->only && strcmp(tools->only, name) == 0;
}

void put_tool(struct tools_asked *tools, const struct jnode *name, const struct jnode *description,
              const char *parameters, bool strict) {
    struct buf *b = tools->list;
    note_tool(tools, name->text, strict);
    buf_string(b, "{\"type\":\"function\",\"function\":{\"name\":");
    jnode_write(b, name);
    if (description) {
        buf_string(b, ",\"description\":");
        jnode_write(b, description);
    }
    if (parameters) {
        buf_string(b, ",\"parameters\":");
        buf_string(b, parameters);
    }
    buf_string(b, strict ? ",\"strict\":true}}" : "}}");
}

/* --------------------------------------------------------------------------------------------- grammars */

/* The mark that every call begins with never comes. */
static int ban_calls(struct task *t, struct refusal *r) {
    struct sonde_bias *all = realloc(t->bias, (t->bias_count + 1) * sizeof(*all));
    if (!all)
        return refuse(r, 500, NULL, "out of memory");
    t->bias = all;
    all[t->bias_count++] = (struct sonde_bias){t->server->dsml, -1e9f};
    return 0;
}

/* Calls and another form together are two grammars, any of which an answer may follow. list NULL: no tools. */
static int set_grammars(struct task *t, const struct jnode *list, const struct tools_asked *tools,
                        const struct jnode *schema, bool json, struct refusal *r) {
    struct sonde_error e;
    bool called = tools->choice == CHOICE_ANY || tools->choice == CHOICE_ONE, formed = (schema || json) && !called;
    if (formed && text_grammar_schema(schema, "response_format", &t->grammars[0], &e))
        return refuse_error(r, &e);
    if (list && tools->choice == CHOICE_NONE)
        return ban_calls(t, r);
    t->tools = list != NULL;
    if (!list || (!formed && !called && tools->parallel && !tools->strict))
        return 0;
    struct text_tools_options how = {.format = t->server->info.chat_format,
                                     .choice = called || formed ? TEXT_TOOLS_REQUIRED : TEXT_TOOLS_AUTO,
                                     .only = tools->only,
                                     .single = !tools->parallel};
    return text_grammar_tools(list, &how, "tools", &t->grammars[formed], &e) ? refuse_error(r, &e) : 0;
}

int take_request(struct task *t, struct dialogue *p, const struct tools_asked *tools, const struct jnode *schema,
                 bool json, struct refusal *r) {
    struct jtree tree = {0};
    struct sonde_error e;
    if (p->tools.failed)
        return refuse(r, 500, NULL, "out of memory");
    if (p->tools.len && jtree_parse(p->tools.data, p->tools.len, "tools", &tree, &e))
        return refuse_error(r, &e);
    int rc = set_grammars(t, tree.root, tools, schema, json, r);
    if (tree.root)
        jtree_release(&tree);
    return rc ? rc : dialogue_encode(p, t, r);
}

/* -------------------------------------------------------------------------------------------- answering */

void write_usage_openai(struct buf *b, const struct task *t) {
    unsigned long long prompt = t->count, reused = t->reused, generated = task_generated(t);
    buf_printf(b,
               "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
               "\"prompt_cache_hit_tokens\":%llu,\"prompt_cache_miss_tokens\":%llu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":%llu}}",
               prompt, generated, prompt + generated, reused, prompt - reused, reused,
               (unsigned long long)task_reasoning(t));
}

void write_token(struct buf *b, const struct server *s, int32_t id) {
    const char *bytes;
    size_t count;
    text_token_bytes(s->tokenizer, id, &bytes, &count);
    json_write_string(b, bytes, count);
}

static size_t row_bytes(const struct task *t) {
    return (1 + t->top_logprobs) * sizeof(struct sonde_logprob);
}

size_t logprob_rows(const struct task *t, const struct buf *rows) {
    return rows->len / row_bytes(t);
}

const struct sonde_logprob *logprob_row(const struct task *t, const struct buf *rows, size_t i) {
    return (const struct sonde_logprob *)(const void *)(rows->data + i * row_bytes(t));
}

static void write_logprob(struct buf *b, const struct server *s, const struct sonde_logprob *p) {
    const char *bytes;
    size_t count;
    text_token_bytes(s->tokenizer, p->id, &bytes, &count);
    buf_string(b, "{\"token\":");
    json_write_string(b, bytes, count);
    buf_printf(b, ",\"logprob\":%.6g,\"bytes\":[", p->logprob < -9999 ? -9999.0 : (double)p->logprob);
    for (size_t i = 0; i < count; i++)
        buf_printf(b, "%s%u", i ? "," : "", (unsigned char)bytes[i]);
    buf_byte(b, ']');
}

void write_logprobs_chat(struct buf *b, const struct task *t, const struct buf *rows, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        const struct sonde_logprob *row = logprob_row(t, rows, i);
        buf_string(b, i > from ? "," : "");
        write_logprob(b, t->server, row);
        buf_string(b, ",\"top_logprobs\":[");
        for (uint32_t k = 1; k <= t->top_logprobs; k++) {
            buf_string(b, k > 1 ? "," : "");
            write_logprob(b, t->server, &row[k]);
            buf_byte(b, '}');
        }
        buf_string(b, "]}");
    }
}

void send_event(struct task *t, const char *name, struct buf *data) {
    struct buf b = {0};
    if (name)
        buf_printf(&b, "event: %s\n", name);
    buf_string(&b, "data: ");
    buf_append(&b, data->data, data->len);
    buf_string(&b, "\n\n");
    if (b.failed || data->failed || !exchange_write(t->exchange, b.data, b.len))
        atomic_store(&t->gone, true);
    buf_release(&b);
    buf_release(data);
}
