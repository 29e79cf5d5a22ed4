/*
 * chat_render.c - a conversation becomes the prompt its model expects.
 *
 *     BOS [effort] system text [## Tools] [## Response Format:]
 *     <|User|> text or <tool_result>s, parted by blank lines
 *     <|Assistant|> <think> reasoning </think> content [tool calls] EOS        (thinking)
 *     <|Assistant|> </think> content [tool calls] EOS                          (chat)
 *
 * V4.1 begins what the system says with <|System|>, at the beginning and anywhere else, and there the assistant answers
 * the system as it answers the user.
 *
 * The prompt must equal the released encoder's byte for byte, as the model was trained on its output;
 * tests/golden/text/chat.json and chat-v41.json hold it to that. In what formats differ, chat_format.c says.
 * chat_turns.c makes turns of messages; here they are written one by one, and what stands between turns depends on
 * what comes next.
 *
 * drop_thinking leaves out the reasoning of assistant turns before the last turn that asks, and developer messages
 * there, but not in a conversation with tools.
 *
 * Where the released encoder raises or prints a Python object, this one is either clear about the field or takes
 * what servers send: content as a list of blocks, content null, arguments "" or not an object (docs/formats.md).
 *
 * All that comes out of messages is noted as typed, so that it can be tokenized as text (text.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"

struct rendering {
    const struct chat_format *format;
    struct buf out;
    struct buf ranges; /* struct text_range */
    struct buf bodies; /* struct body */
    struct turns c;
    bool thinking, drop;
    const char *effort; /* what stands in the format's sentence; "": the sentence is left out */
    size_t think_end;   /* behind the last <think> of the template */
    struct sonde_error *e;
};

static const char format_before[] =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

/* -------------------------------------------------------------------------------------------- typed */

static void begin_typed(struct rendering *r, struct text_range *range) {
    range->begin = r->out.len;
}

static void end_typed(struct rendering *r, struct text_range *range) {
    range->end = r->out.len;
    if (range->end > range->begin)
        buf_append(&r->ranges, range, sizeof(*range));
}

static void put_spelled(struct rendering *r, enum dsml_spelling which) {
    buf_string(&r->out, r->format->spelling[which]);
}

static void put_typed(struct rendering *r, const struct jnode *text) {
    struct text_range range;
    begin_typed(r, &range);
    if (text)
        buf_append(&r->out, text->text, text->length);
    end_typed(r, &range);
}

static void put_json(struct rendering *r, const struct jnode *node) {
    struct text_range range;
    begin_typed(r, &range);
    jnode_write(&r->out, node);
    end_typed(r, &range);
}

/* ------------------------------------------------------------------------------------------- write */

/* An image, where the format has them, or "[Unsupported image_url]". */
static void write_unknown(struct rendering *r, const struct jnode *type) {
    if (chat_is_image(r->format, type)) {
        buf_string(&r->out, r->format->image);
        return;
    }
    buf_string(&r->out, "[Unsupported ");
    if (type)
        put_typed(r, type);
    else
        buf_string(&r->out, "None");
    buf_byte(&r->out, ']');
}

/* Text, or the texts of a list of blocks with blank lines between. */
static void write_content(struct rendering *r, const struct jnode *content) {
    if (!jnode_is(content, JNODE_ARRAY)) {
        put_typed(r, content);
        return;
    }
    for (const struct jnode *block = content->first; block; block = block->next) {
        const struct jnode *type = jnode_get(block, "type");
        if (jnode_says(type, "text"))
            put_typed(r, jnode_get(block, "text"));
        else
            write_unknown(r, type);
        if (block->next)
            buf_string(&r->out, "\n\n");
    }
}

static void write_user(struct rendering *r, const struct turn *turn) {
    for (size_t i = 0; i < turn->count; i++) {
        const struct block *block = &r->c.blocks[turn->first + i];
        if (i)
            buf_string(&r->out, "\n\n");
        if (block->unknown)
            write_unknown(r, block->kind);
        else if (block->result) {
            buf_string(&r->out, "<tool_result>");
            write_content(r, block->content);
            buf_string(&r->out, "</tool_result>");
        } else {
            put_typed(r, block->content);
        }
    }
}

static void put_schema(struct rendering *r, const struct jnode *tool) {
    struct text_range range;
    begin_typed(r, &range);
    tool_schema_write(&r->out, r->format, tool);
    end_typed(r, &range);
}

static void write_tools_and_format(struct rendering *r, const struct jnode *message) {
    const struct jnode *tools = jnode_get(message, "tools"), *format = jnode_get(message, "response_format");
    if (jnode_truth(tools)) {
        buf_string(&r->out, "\n\n");
        buf_string(&r->out, r->format->tools_before);
        for (const struct jnode *tool = tools->first; tool; tool = tool->next) {
            put_schema(r, tool);
            if (tool->next)
                buf_byte(&r->out, '\n');
        }
        buf_string(&r->out, r->format->tools_after);
    }
    if (jnode_truth(format)) {
        buf_string(&r->out, format_before);
        put_json(r, format);
    }
}

static void write_parameter(struct rendering *r, const char *name, size_t length, const struct jnode *value) {
    bool string = value->kind == JNODE_STRING;
    struct jnode key = {.text = name, .length = length};
    put_spelled(r, SPELL_PARAMETER);
    put_typed(r, &key);
    buf_printf(&r->out, "\" string=\"%s\">", string ? "true" : "false");
    if (string)
        put_typed(r, value);
    else
        put_json(r, value);
    put_spelled(r, SPELL_PARAMETER_END);
}

/* A line each; an empty one where there are none. */
static void write_members(struct rendering *r, const struct jnode *object) {
    if (!object->first)
        buf_byte(&r->out, '\n');
    for (const struct jnode *member = object->first; member; member = member->next)
        write_parameter(r, member->key, member->key_length, member);
}

/* Arguments come as an object, as its JSON text, or as the JSON text of that. A text that is no object, which some
 * model once wrote, becomes one parameter "arguments", so that the conversation can go on. */
static int write_arguments(struct rendering *r, const struct jnode *arguments) {
    struct jtree tree[2] = {{0}};
    const struct jnode *object = arguments;
    int rc = SONDE_OK;
    for (size_t i = 0; i < COUNT_OF(tree) && !rc && jnode_is(object, JNODE_STRING); i++) {
        rc = jtree_parse(object->text, object->length, "arguments", &tree[i], NULL);
        object = rc ? NULL : tree[i].root;
    }
    if (jnode_is(object, JNODE_OBJECT))
        write_members(r, object);
    else if (!arguments || strspn(arguments->text, " \t\r\n") == arguments->length)
        buf_byte(&r->out, '\n');
    else
        write_parameter(r, "arguments", strlen("arguments"), arguments);
    for (size_t i = 0; i < COUNT_OF(tree); i++)
        jtree_release(&tree[i]);
    return rc == SONDE_ERROR_MEMORY ? err_memory(r->e) : SONDE_OK;
}

static void put_name(struct rendering *r, const struct jnode *call) {
    struct text_range range;
    struct tool_name name;
    tool_name_read(r->format, call, &name);
    begin_typed(r, &range);
    tool_name_write(&r->out, &name);
    end_typed(r, &range);
}

static int write_calls(struct rendering *r, const struct jnode *calls) {
    buf_string(&r->out, "\n\n");
    put_spelled(r, SPELL_BLOCK);
    for (const struct jnode *call = calls->first; call; call = call->next) {
        put_spelled(r, SPELL_INVOKE);
        put_name(r, call);
        buf_string(&r->out, "\">\n");
        int rc = write_arguments(r, jnode_get(jnode_get(call, "function"), "arguments"));
        if (rc)
            return rc;
        put_spelled(r, SPELL_INVOKE_END);
    }
    put_spelled(r, SPELL_BLOCK_END);
    return SONDE_OK;
}

/* The answer to a task token holds no thinking. */
static int write_assistant(struct rendering *r, size_t i, size_t last_user) {
    const struct jnode *message = r->c.turns[i].message, *calls = jnode_get(message, "tool_calls");
    struct body body = {.message = r->c.turns[i].index, .begin = r->out.len};
    bool answers_task = i && r->c.turns[i - 1].task;
    if (r->thinking && !answers_task && (!r->drop || last_user == SIZE_MAX || i > last_user)) {
        put_typed(r, jnode_get(message, "reasoning_content"));
        buf_string(&r->out, THINK_END);
    }
    body.content = r->out.len;
    write_content(r, jnode_get(message, "content"));
    int rc = jnode_truth(calls) ? write_calls(r, calls) : SONDE_OK;
    body.end = r->out.len;
    if (!jnode_truth(jnode_get(message, "wo_eos")))
        buf_string(&r->out, TEXT_END);
    body.ended = r->out.len;
    buf_append(&r->bodies, &body, sizeof(body));
    return rc;
}

static int write_turn(struct rendering *r, size_t i, size_t last_user) {
    const struct turn *turn = &r->c.turns[i];
    const struct jnode *content = jnode_get(turn->message, "content");
    switch (turn->role) {
    case ROLE_ASSISTANT:
        return write_assistant(r, i, last_user);
    case ROLE_USER:
        buf_string(&r->out, USER_BEGIN);
        write_user(r, turn);
        return SONDE_OK;
    case ROLE_REMINDER:
        buf_string(&r->out, "<｜latest_reminder｜>");
        write_content(r, content);
        return SONDE_OK;
    default:
        if (turn->role == ROLE_DEVELOPER)
            buf_string(&r->out, USER_BEGIN);
        else if (i) /* the first begins with the prompt */
            buf_string(&r->out, r->format->system);
        write_content(r, content);
        write_tools_and_format(r, turn->message);
        return SONDE_OK;
    }
}

/* Turns that the assistant answers. */
static bool asks(const struct rendering *r, size_t i) {
    enum role role = r->c.turns[i].role;
    return role == ROLE_USER || role == ROLE_DEVELOPER || (role == ROLE_SYSTEM && i && r->format->systems_ask);
}

/* What a turn ends with when the assistant is to speak next: a task's token, or its own and the thinking mark. */
static void write_transition(struct rendering *r, size_t i, size_t last_user) {
    const struct turn *turn = &r->c.turns[i];
    if (i + 1 < r->c.turn_count && r->c.turns[i + 1].role != ROLE_ASSISTANT && r->c.turns[i + 1].role != ROLE_REMINDER)
        return;
    bool action = turn->task && strcmp(turn->task, "action") == 0;
    if (action || (asks(r, i) && !turn->task)) {
        bool think = r->thinking && (action || !r->drop || i >= last_user);
        buf_string(&r->out, ASSISTANT_BEGIN);
        buf_string(&r->out, think ? THINK_BEGIN : THINK_END);
        if (think)
            r->think_end = r->out.len;
    }
    if (turn->task)
        buf_printf(&r->out, "<｜%s｜>", turn->task);
}

/* The last turn that asks, or SIZE_MAX. */
static size_t last_asking(const struct rendering *r) {
    for (size_t i = r->c.turn_count; i--;)
        if (asks(r, i))
            return i;
    return SIZE_MAX;
}

static void drop_developers(struct rendering *r) {
    size_t last = last_asking(r), kept = 0;
    for (size_t i = 0; i < r->c.turn_count; i++)
        if (r->c.turns[i].role != ROLE_DEVELOPER || i == last)
            r->c.turns[kept++] = r->c.turns[i];
    r->c.turn_count = kept;
}

/* All before the first turn's own text. */
static void write_opening(struct rendering *r) {
    bool effort = r->thinking && *r->effort;
    buf_string(&r->out, TEXT_BEGIN);
    if (!r->c.turn_count)
        return;
    if (effort || r->c.turns[0].role == ROLE_SYSTEM)
        buf_string(&r->out, r->format->system);
    if (effort)
        buf_printf(&r->out, "%s%s%s", r->format->effort_before, r->effort, r->format->effort_after);
}

static int write_all(struct rendering *r) {
    for (size_t i = 0; i < r->c.turn_count; i++)
        if (r->c.turns[i].role != ROLE_USER && jnode_truth(jnode_get(r->c.turns[i].message, "tools")))
            r->drop = false;
    if (r->thinking && r->drop)
        drop_developers(r);
    size_t last_user = last_asking(r);
    write_opening(r);
    for (size_t i = 0; i < r->c.turn_count; i++) {
        int rc = write_turn(r, i, last_user);
        if (rc)
            return rc;
        write_transition(r, i, last_user);
    }
    return SONDE_OK;
}

/* ---------------------------------------------------------------------------------------- together */

static int field_error(struct sonde_error *e, const char *field, const char *expected) {
    return err_set(e, SONDE_ERROR_FORMAT, "%s: %s is expected", field, expected);
}

static int read_effort(struct rendering *r, const struct jnode *effort) {
    const struct chat_format *f = r->format;
    bool number = jnode_is(effort, JNODE_NUMBER);
    r->effort = f->effort_default;
    if (!effort)
        return SONDE_OK;
    r->effort = number || effort->kind == JNODE_STRING ? chat_effort_text(f, effort->text, number) : NULL;
    if (r->effort)
        return SONDE_OK;
    char expected[128];
    int used = snprintf(expected, sizeof(expected), "null");
    for (size_t i = 0; f->efforts[i].name; i++)
        used += snprintf(expected + used, sizeof(expected) - (size_t)used, "%s\"%s\"",
                         f->efforts[i + 1].name || f->effort_most ? ", " : " or ", f->efforts[i].name);
    if (f->effort_most)
        snprintf(expected + used, sizeof(expected) - (size_t)used, " or an integer from 1 to %u", f->effort_most);
    return field_error(r->e, "reasoning_effort", expected);
}

static int read_request(struct rendering *r, const struct jnode *request) {
    const struct jnode *mode = jnode_get(request, "thinking_mode"), *effort = jnode_get(request, "reasoning_effort");
    const struct jnode *drop = jnode_get(request, "drop_thinking"), *messages = jnode_get(request, "messages");
    if (!jnode_is(messages, JNODE_ARRAY))
        return field_error(r->e, "messages", "a list");
    if (mode && !jnode_says(mode, "chat") && !jnode_says(mode, "thinking"))
        return field_error(r->e, "thinking_mode", "\"chat\" or \"thinking\"");
    if (drop && drop->kind != JNODE_TRUE && drop->kind != JNODE_FALSE)
        return field_error(r->e, "drop_thinking", "true or false");
    r->thinking = jnode_says(mode, "thinking");
    r->drop = !drop || drop->kind == JNODE_TRUE;
    int rc = read_effort(r, effort);
    rc = rc ? rc : turns_read(r->format, messages, &r->c, r->e);
    return rc ? rc : write_all(r);
}

/* Hands over what was written. */
static int take_all(struct rendering *r, struct prompt *p) {
    char *typed = NULL, *bodies = NULL;
    size_t typed_length = 0, bodies_length = 0;
    bool thinking = r->think_end && r->think_end == r->out.len;
    *p = (struct prompt){.thinking = thinking};
    int rc = buf_take(&r->out, &p->text, &p->length, r->e);
    if (!rc)
        rc = buf_take(&r->ranges, &typed, &typed_length, r->e);
    if (!rc)
        rc = buf_take(&r->bodies, &bodies, &bodies_length, r->e);
    p->typed = (struct text_range *)(void *)typed;
    p->typed_count = typed_length / sizeof(*p->typed);
    p->bodies = (struct body *)(void *)bodies;
    p->body_count = bodies_length / sizeof(*p->bodies);
    if (rc)
        prompt_release(p);
    return rc;
}

int prompt_render(enum sonde_chat_format format, const char *request, size_t bytes, struct prompt *prompt,
                  struct sonde_error *e) {
    struct jtree tree;
    int rc = jtree_parse(request, bytes, "request", &tree, e);
    if (rc)
        return rc;
    struct rendering r = {.format = chat_format_view(format), .e = e};
    rc = read_request(&r, tree.root);
    if (!rc)
        rc = take_all(&r, prompt);
    buf_release(&r.out);
    buf_release(&r.ranges);
    buf_release(&r.bodies);
    turns_release(&r.c);
    jtree_release(&tree);
    return rc;
}

void prompt_release(struct prompt *prompt) {
    free(prompt->text);
    free(prompt->typed);
    free(prompt->bodies);
    *prompt = (struct prompt){0};
}

int text_chat_render(enum sonde_chat_format format, const char *request, size_t bytes, char **prompt, size_t *length,
                     struct text_range **typed, size_t *typed_count, struct sonde_error *e) {
    struct prompt p;
    int rc = prompt_render(format, request, bytes, &p, e);
    if (rc)
        return rc;
    *prompt = p.text;
    p.text = NULL;
    if (length)
        *length = p.length;
    if (typed) {
        *typed = p.typed;
        *typed_count = p.typed_count;
        p.typed = NULL;
    }
    prompt_release(&p);
    return SONDE_OK;
}

int sonde_chat_render(enum sonde_chat_format format, const char *request, size_t bytes, char **prompt, size_t *length,
                      struct sonde_error *error) {
    return text_chat_render(format, request, bytes, prompt, length, NULL, NULL, error);
}
