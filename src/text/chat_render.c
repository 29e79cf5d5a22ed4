/*
 * chat_render.c - a conversation becomes the prompt a V4 model expects.
 *
 *     BOS [effort] system text [## Tools] [## Response Format:]
 *     <|User|> text or <tool_result>s, parted by blank lines
 *     <|Assistant|> <think> reasoning </think> content [tool calls] EOS        (thinking)
 *     <|Assistant|> </think> content [tool calls] EOS                          (chat)
 *
 * The prompt must equal the released encoder's (encoding_dsv4.py) byte for byte, as the model was trained on its
 * output; tests/golden/text/chat.json holds it to that. chat_turns.c makes turns of messages; here they are
 * written one by one, and what stands between turns depends on what comes next.
 *
 * drop_thinking leaves out the reasoning of assistant turns before the last user turn, and developer messages
 * there, but not in a conversation with tools.
 *
 * Where the released encoder raises or prints a Python object, this one is either clear about the field or takes
 * what servers send: content as a list of blocks, content null, arguments "" or not an object (docs/formats.md).
 *
 * All that comes out of messages is noted as typed, so that it can be tokenized as text (text.h).
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"

struct rendering {
    struct buf out;
    struct buf ranges; /* struct text_range */
    struct buf bodies; /* struct body */
    struct turns c;
    bool thinking, drop, effort_max;
    size_t think_end; /* behind the last <think> of the template */
    struct sonde_error *e;
};

/* ---------------------------------------------------------------------------------------- templates */

static const char effort_max_text[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, "
    "and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

static const char tools_before[] =
    "## Tools\n\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "
    "\"<" DSML "tool_calls>\" block like the following:\n\n"
    "<" DSML "tool_calls>\n"
    "<" DSML "invoke name=\"$TOOL_NAME\">\n"
    "<" DSML "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</" DSML "parameter>\n"
    "...\n"
    "</" DSML "invoke>\n"
    "<" DSML "invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</" DSML "invoke>\n"
    "</" DSML "tool_calls>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by " THINK_BEGIN
    "), you MUST output your complete reasoning inside " THINK_BEGIN "..." THINK_END
    " BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after " THINK_END " with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";

static const char tools_after[] =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

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

/* "[Unsupported image_url]" */
static void write_unknown(struct rendering *r, const struct jnode *type) {
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

static void write_tools_and_format(struct rendering *r, const struct jnode *message) {
    const struct jnode *tools = jnode_get(message, "tools"), *format = jnode_get(message, "response_format");
    if (jnode_truth(tools)) {
        buf_string(&r->out, "\n\n");
        buf_string(&r->out, tools_before);
        for (const struct jnode *tool = tools->first; tool; tool = tool->next) {
            put_json(r, jnode_get(tool, "function"));
            if (tool->next)
                buf_byte(&r->out, '\n');
        }
        buf_string(&r->out, tools_after);
    }
    if (jnode_truth(format)) {
        buf_string(&r->out, format_before);
        put_json(r, format);
    }
}

static void write_parameter(struct rendering *r, const char *name, size_t length, const struct jnode *value) {
    bool string = value->kind == JNODE_STRING;
    struct jnode key = {.text = name, .length = length};
    buf_string(&r->out, "<" DSML "parameter name=\"");
    put_typed(r, &key);
    buf_printf(&r->out, "\" string=\"%s\">", string ? "true" : "false");
    if (string)
        put_typed(r, value);
    else
        put_json(r, value);
    buf_string(&r->out, "</" DSML "parameter>");
}

static void write_members(struct rendering *r, const struct jnode *object) {
    for (const struct jnode *member = object->first; member; member = member->next) {
        write_parameter(r, member->key, member->key_length, member);
        if (member->next)
            buf_byte(&r->out, '\n');
    }
}

/* Arguments come as an object or as its JSON text. A text that is no object, which some model once wrote, becomes
 * one parameter "arguments", so that the conversation can go on. */
static int write_arguments(struct rendering *r, const struct jnode *arguments) {
    if (jnode_is(arguments, JNODE_OBJECT)) {
        write_members(r, arguments);
        return SONDE_OK;
    }
    if (!arguments || strspn(arguments->text, " \t\r\n") == arguments->length)
        return SONDE_OK;
    struct jtree tree;
    int rc = jtree_parse(arguments->text, arguments->length, "arguments", &tree, NULL);
    if (rc == SONDE_ERROR_MEMORY)
        return err_memory(r->e);
    if (rc || tree.root->kind != JNODE_OBJECT)
        write_parameter(r, "arguments", strlen("arguments"), arguments);
    else
        write_members(r, tree.root);
    if (!rc)
        jtree_release(&tree);
    return SONDE_OK;
}

static int write_calls(struct rendering *r, const struct jnode *calls) {
    buf_string(&r->out, "\n\n<" DSML "tool_calls>\n");
    for (const struct jnode *call = calls->first; call; call = call->next) {
        const struct jnode *function = jnode_get(call, "function");
        buf_string(&r->out, "<" DSML "invoke name=\"");
        put_typed(r, jnode_get(function, "name"));
        buf_string(&r->out, "\">\n");
        int rc = write_arguments(r, jnode_get(function, "arguments"));
        if (rc)
            return rc;
        buf_string(&r->out, "\n</" DSML "invoke>\n");
    }
    buf_string(&r->out, "</" DSML "tool_calls>");
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
        write_content(r, content);
        write_tools_and_format(r, turn->message);
        return SONDE_OK;
    }
}

/* What a turn ends with when the assistant is to speak next: a task's token, or its own and the thinking mark. */
static void write_transition(struct rendering *r, size_t i, size_t last_user) {
    const struct turn *turn = &r->c.turns[i];
    if (i + 1 < r->c.turn_count && r->c.turns[i + 1].role != ROLE_ASSISTANT && r->c.turns[i + 1].role != ROLE_REMINDER)
        return;
    bool asks = turn->role == ROLE_USER || turn->role == ROLE_DEVELOPER;
    bool action = turn->task && strcmp(turn->task, "action") == 0;
    if (action || (asks && !turn->task)) {
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
        if (r->c.turns[i].role == ROLE_USER || r->c.turns[i].role == ROLE_DEVELOPER)
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

static int write_all(struct rendering *r) {
    for (size_t i = 0; i < r->c.turn_count; i++)
        if (r->c.turns[i].role != ROLE_USER && jnode_truth(jnode_get(r->c.turns[i].message, "tools")))
            r->drop = false;
    if (r->thinking && r->drop)
        drop_developers(r);
    size_t last_user = last_asking(r);
    buf_string(&r->out, TEXT_BEGIN);
    if (r->thinking && r->effort_max && r->c.turn_count)
        buf_string(&r->out, effort_max_text);
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

static int read_request(struct rendering *r, const struct jnode *request) {
    const struct jnode *mode = jnode_get(request, "thinking_mode"), *effort = jnode_get(request, "reasoning_effort");
    const struct jnode *drop = jnode_get(request, "drop_thinking"), *messages = jnode_get(request, "messages");
    if (!jnode_is(messages, JNODE_ARRAY))
        return field_error(r->e, "messages", "a list");
    if (mode && !jnode_says(mode, "chat") && !jnode_says(mode, "thinking"))
        return field_error(r->e, "thinking_mode", "\"chat\" or \"thinking\"");
    if (effort && !jnode_says(effort, "high") && !jnode_says(effort, "max"))
        return field_error(r->e, "reasoning_effort", "null, \"high\" or \"max\"");
    if (drop && drop->kind != JNODE_TRUE && drop->kind != JNODE_FALSE)
        return field_error(r->e, "drop_thinking", "true or false");
    r->thinking = jnode_says(mode, "thinking");
    r->effort_max = jnode_says(effort, "max");
    r->drop = !drop || drop->kind == JNODE_TRUE;
    int rc = turns_read(messages, &r->c, r->e);
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

int prompt_render(const char *request, size_t bytes, struct prompt *prompt, struct sonde_error *e) {
    struct jtree tree;
    int rc = jtree_parse(request, bytes, "request", &tree, e);
    if (rc)
        return rc;
    struct rendering r = {.e = e};
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

int text_chat_render(const char *request, size_t bytes, char **prompt, size_t *length, struct text_range **typed,
                     size_t *typed_count, struct sonde_error *e) {
    struct prompt p;
    int rc = prompt_render(request, bytes, &p, e);
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

int sonde_chat_render(const char *request, size_t bytes, char **prompt, size_t *length, struct sonde_error *error) {
    return text_chat_render(request, bytes, prompt, length, NULL, NULL, error);
}
