/*
 * chat_render.c - a conversation becomes the prompt a V4 model expects.
 *
 *     BOS [effort] system text [## Tools] [## Response Format:]
 *     <|User|> text or <tool_result>s, parted by blank lines
 *     <|Assistant|> <think> reasoning </think> content [tool calls] EOS        (thinking)
 *     <|Assistant|> </think> content [tool calls] EOS                          (chat)
 *
 * The prompt must equal the released encoder's (encoding_dsv4.py) byte for byte, as the model was trained on its
 * output; tests/golden/text/chat.json holds it to that. Three passes:
 *
 *     gather   messages become turns: tool results move into user turns, user messages that follow one another
 *              become one turn
 *     sort     the results of a turn come in the order of the calls they answer
 *     write    turn by turn; what stands between turns depends on what comes next
 *
 * drop_thinking leaves out the reasoning of assistant turns before the last user turn, and developer messages
 * there, but not in a conversation with tools.
 *
 * Where the released encoder raises or prints a Python object, this one is either clear about the field or takes
 * what servers send: content as a list of blocks, content null, arguments "" or not an object (docs/text.md).
 *
 * All that comes out of messages is noted as typed, so that it can be tokenized as text (text.h).
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/json_internal.h"
#include "text/text.h"

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_REMINDER, ROLE_DEVELOPER, ROLE_COUNT };

static const char *const role_names[ROLE_COUNT] = {"system",          "user",     "assistant", "tool",
                                                   "latest_reminder", "developer"};
static const char *const tasks[] = {"action", "query", "authority", "domain", "title", "read_url"};

/* A part of a user turn. */
struct block {
    const struct jnode *content; /* string, list of blocks, or NULL for nothing */
    const struct jnode *call_id; /* of a result */
    const struct jnode *kind;    /* of a block that is neither text nor result: its "type" */
    bool result, unknown;
    size_t order; /* of the call that a result answers */
};

struct turn {
    enum role role;
    const struct jnode *message;
    size_t index; /* of the message, for messages to the user */
    const char *task;
    size_t first, count; /* blocks, for user turns */
};

struct rendering {
    struct buf out;
    struct buf ranges; /* struct text_range */
    struct turn *turns;
    size_t turn_count;
    struct block *blocks;
    size_t block_count, block_cap;
    bool thinking, drop, effort_max;
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

/* ------------------------------------------------------------------------------------------ checks */

static int wrong(struct rendering *r, size_t message, const char *field, const char *expected) {
    return err_set(r->e, SONDE_ERROR_FORMAT, "messages[%zu].%s: %s is expected", message, field, expected);
}

static int string_or_absent(struct rendering *r, size_t message, const struct jnode *object, const char *field) {
    const struct jnode *value = jnode_get(object, field);
    return !value || value->kind == JNODE_STRING ? SONDE_OK : wrong(r, message, field, "a string");
}

/* A content that is a string, or a list of blocks each of which is an object with a type; or absent. */
static int check_content(struct rendering *r, size_t message, const struct jnode *content, const char *field) {
    if (!content || content->kind == JNODE_STRING)
        return SONDE_OK;
    if (content->kind != JNODE_ARRAY)
        return wrong(r, message, field, "a string or a list of blocks");
    for (const struct jnode *block = content->first; block; block = block->next) {
        const struct jnode *text = jnode_get(block, "text"), *type = jnode_get(block, "type");
        if (block->kind != JNODE_OBJECT || (type && type->kind != JNODE_STRING))
            return wrong(r, message, field, "a block with a \"type\"");
        if (text && text->kind != JNODE_STRING)
            return wrong(r, message, field, "a block whose \"text\" is a string");
    }
    return SONDE_OK;
}

static bool text_is(const struct jnode *node, const char *text) {
    return jnode_is(node, JNODE_STRING) && node->length == strlen(text) && memcmp(node->text, text, node->length) == 0;
}

static int read_role(struct rendering *r, size_t index, const struct jnode *message, enum role *role) {
    const struct jnode *name = jnode_get(message, "role");
    for (int i = 0; i < ROLE_COUNT; i++)
        if (text_is(name, role_names[i])) {
            *role = (enum role)i;
            return SONDE_OK;
        }
    return wrong(r, index, "role", "system, user, assistant, tool, latest_reminder or developer");
}

static int read_task(struct rendering *r, size_t index, const struct jnode *message, const char **task) {
    const struct jnode *name = jnode_get(message, "task");
    *task = NULL;
    for (size_t i = 0; name && i < COUNT_OF(tasks); i++)
        if (text_is(name, tasks[i]))
            *task = tasks[i];
    return !name || *task ? SONDE_OK : wrong(r, index, "task", "action, query, authority, domain, title or read_url");
}

static int check_tools(struct rendering *r, size_t index, const struct jnode *message) {
    const struct jnode *tools = jnode_get(message, "tools");
    if (!jnode_truth(tools))
        return SONDE_OK;
    if (tools->kind != JNODE_ARRAY)
        return wrong(r, index, "tools", "a list");
    for (const struct jnode *tool = tools->first; tool; tool = tool->next)
        if (!jnode_is(jnode_get(tool, "function"), JNODE_OBJECT))
            return wrong(r, index, "tools", "a \"function\" object in each");
    return SONDE_OK;
}

static int check_calls(struct rendering *r, size_t index, const struct jnode *message) {
    const struct jnode *calls = jnode_get(message, "tool_calls");
    if (!jnode_truth(calls))
        return SONDE_OK;
    if (calls->kind != JNODE_ARRAY)
        return wrong(r, index, "tool_calls", "a list");
    for (const struct jnode *call = calls->first; call; call = call->next) {
        const struct jnode *function = jnode_get(call, "function"), *arguments = jnode_get(function, "arguments");
        if (!jnode_is(jnode_get(function, "name"), JNODE_STRING))
            return wrong(r, index, "tool_calls", "a \"function\" with a \"name\" in each");
        if (arguments && arguments->kind != JNODE_STRING && arguments->kind != JNODE_OBJECT)
            return wrong(r, index, "tool_calls", "\"arguments\" that are an object or its JSON text");
    }
    return SONDE_OK;
}

static int check_message(struct rendering *r, const struct turn *turn) {
    const struct jnode *content = jnode_get(turn->message, "content");
    int rc = check_content(r, turn->index, content, "content");
    if (!rc && turn->role == ROLE_DEVELOPER && !jnode_truth(content))
        rc = wrong(r, turn->index, "content", "a text that is not empty");
    if (!rc && turn->role == ROLE_USER)
        rc = check_content(r, turn->index, jnode_get(turn->message, "content_blocks"), "content_blocks");
    if (!rc)
        rc = string_or_absent(r, turn->index, turn->message, "reasoning_content");
    if (!rc)
        rc = check_tools(r, turn->index, turn->message);
    return rc ? rc : check_calls(r, turn->index, turn->message);
}

/* ------------------------------------------------------------------------------------------ gather */

static int add_block(struct rendering *r, struct turn *turn, struct block block) {
    if (r->block_count == r->block_cap) {
        size_t cap = r->block_cap ? 2 * r->block_cap : 64;
        struct block *blocks = realloc(r->blocks, cap * sizeof(*blocks));
        if (!blocks)
            return err_memory(r->e);
        r->blocks = blocks;
        r->block_cap = cap;
    }
    r->blocks[r->block_count++] = block;
    turn->count++;
    return SONDE_OK;
}

/* A user message is its blocks, or one block of its content. */
static int add_user_blocks(struct rendering *r, struct turn *turn, const struct jnode *message, size_t index) {
    const struct jnode *list = jnode_get(message, "content_blocks"), *content = jnode_get(message, "content");
    if (!jnode_is(list, JNODE_ARRAY) || !list->count)
        list = jnode_is(content, JNODE_ARRAY) ? content : NULL;
    if (!list)
        return add_block(r, turn, (struct block){.content = content});
    for (const struct jnode *node = list->first; node; node = node->next) {
        const struct jnode *type = jnode_get(node, "type");
        struct block block = {.content = jnode_get(node, "text")};
        if (text_is(type, "tool_result"))
            block = (struct block){
                .result = true, .content = jnode_get(node, "content"), .call_id = jnode_get(node, "tool_use_id")};
        else if (!text_is(type, "text"))
            block = (struct block){.unknown = true, .kind = type};
        int rc = block.result ? check_content(r, index, block.content, "content_blocks") : SONDE_OK;
        if (!rc)
            rc = add_block(r, turn, block);
        if (rc)
            return rc;
    }
    return SONDE_OK;
}

/* Puts a message into the turn before it where the encoder merges them, or into a turn of its own. A user message
 * that is merged loses its task there, and so it does here. */
static int gather_message(struct rendering *r, size_t index, const struct jnode *message) {
    struct turn next = {.message = message, .index = index, .first = r->block_count};
    int rc =
        message->kind == JNODE_OBJECT ? read_role(r, index, message, &next.role) : wrong(r, index, "role", "an object");
    if (!rc)
        rc = read_task(r, index, message, &next.task);
    if (!rc)
        rc = check_message(r, &next);
    if (rc)
        return rc;
    bool result = next.role == ROLE_TOOL;
    struct turn *last = r->turn_count ? &r->turns[r->turn_count - 1] : NULL;
    bool merges = last && last->role == ROLE_USER && (result || (next.role == ROLE_USER && !last->task));
    if (!merges) {
        last = &r->turns[r->turn_count++];
        *last = next;
    }
    if (result) {
        last->role = ROLE_USER;
        last->task = merges ? last->task : NULL;
        return add_block(r, last,
                         (struct block){.result = true,
                                        .content = jnode_get(message, "content"),
                                        .call_id = jnode_get(message, "tool_call_id")});
    }
    return next.role == ROLE_USER ? add_user_blocks(r, last, message, index) : SONDE_OK;
}

static int gather(struct rendering *r, const struct jnode *messages) {
    r->turns = malloc((messages->count + 1) * sizeof(*r->turns));
    if (!r->turns)
        return err_memory(r->e);
    size_t index = 0;
    for (const struct jnode *message = messages->first; message; message = message->next) {
        int rc = gather_message(r, index++, message);
        if (rc)
            return rc;
    }
    return SONDE_OK;
}

/* -------------------------------------------------------------------------------------------- sort */

struct call_order {
    const struct jnode *id;
    size_t order;
};

static int compare_ids(const struct jnode *x, const struct jnode *y) {
    int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static int compare_calls(const void *a, const void *b) {
    const struct call_order *x = a, *y = b;
    int order = compare_ids(x->id, y->id);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

static int compare_blocks(const void *a, const void *b) {
    const struct block *x = a, *y = b;
    return x->order != y->order ? (x->order > y->order) - (x->order < y->order) : 0;
}

/* The order of the call with this id; of equal ids the last counts, and unknown ones are as the first call. */
static size_t order_of(const struct call_order *calls, size_t count, const struct jnode *id) {
    if (!jnode_is(id, JNODE_STRING))
        return 0;
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_ids(calls[middle].id, id) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && compare_ids(calls[low - 1].id, id) == 0 ? calls[low - 1].order : 0;
}

static int read_calls(struct rendering *r, const struct jnode *list, struct call_order **calls, size_t *count) {
    free(*calls);
    *count = 0;
    *calls = malloc((list->count + 1) * sizeof(**calls));
    if (!*calls)
        return err_memory(r->e);
    size_t order = 0;
    for (const struct jnode *call = list->first; call; call = call->next, order++) {
        const struct jnode *id = jnode_get(call, "id");
        if (!jnode_truth(id))
            id = jnode_get(jnode_get(call, "function"), "id");
        if (jnode_is(id, JNODE_STRING) && id->length)
            (*calls)[(*count)++] = (struct call_order){id, order};
    }
    qsort(*calls, *count, sizeof(**calls), compare_calls);
    return SONDE_OK;
}

/* Sorts the results of a turn among the places where results stand; texts keep theirs. */
static int sort_turn(struct rendering *r, const struct turn *turn, const struct call_order *calls, size_t count) {
    struct block *blocks = r->blocks + turn->first, *results = malloc((turn->count + 1) * sizeof(*results));
    if (!results)
        return err_memory(r->e);
    size_t n = 0, k = 0;
    for (size_t i = 0; i < turn->count; i++)
        if (blocks[i].result) {
            results[n] = blocks[i];
            results[n++].order = order_of(calls, count, blocks[i].call_id) * turn->count + i;
        }
    qsort(results, n, sizeof(*results), compare_blocks);
    for (size_t i = 0; i < turn->count; i++)
        if (blocks[i].result)
            blocks[i] = results[k++];
    free(results);
    return SONDE_OK;
}

static int sort_results(struct rendering *r) {
    struct call_order *calls = NULL;
    size_t count = 0;
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < r->turn_count; i++) {
        const struct turn *turn = &r->turns[i];
        const struct jnode *list = jnode_get(turn->message, "tool_calls");
        if (turn->role == ROLE_ASSISTANT && jnode_truth(list))
            rc = read_calls(r, list, &calls, &count);
        else if (turn->role == ROLE_USER && turn->count > 1 && count)
            rc = sort_turn(r, turn, calls, count);
    }
    free(calls);
    return rc;
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
        if (text_is(type, "text"))
            put_typed(r, jnode_get(block, "text"));
        else
            write_unknown(r, type);
        if (block->next)
            buf_string(&r->out, "\n\n");
    }
}

static void write_user(struct rendering *r, const struct turn *turn) {
    for (size_t i = 0; i < turn->count; i++) {
        const struct block *block = &r->blocks[turn->first + i];
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
    const struct jnode *message = r->turns[i].message, *calls = jnode_get(message, "tool_calls");
    bool answers_task = i && r->turns[i - 1].task;
    if (r->thinking && !answers_task && (!r->drop || last_user == SIZE_MAX || i > last_user)) {
        put_typed(r, jnode_get(message, "reasoning_content"));
        buf_string(&r->out, THINK_END);
    }
    write_content(r, jnode_get(message, "content"));
    int rc = jnode_truth(calls) ? write_calls(r, calls) : SONDE_OK;
    if (!jnode_truth(jnode_get(message, "wo_eos")))
        buf_string(&r->out, TEXT_END);
    return rc;
}

static int write_turn(struct rendering *r, size_t i, size_t last_user) {
    const struct turn *turn = &r->turns[i];
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
    const struct turn *turn = &r->turns[i];
    if (i + 1 < r->turn_count && r->turns[i + 1].role != ROLE_ASSISTANT && r->turns[i + 1].role != ROLE_REMINDER)
        return;
    bool asks = turn->role == ROLE_USER || turn->role == ROLE_DEVELOPER;
    bool action = turn->task && strcmp(turn->task, "action") == 0;
    if (action || (asks && !turn->task)) {
        bool think = r->thinking && (action || !r->drop || i >= last_user);
        buf_string(&r->out, ASSISTANT_BEGIN);
        buf_string(&r->out, think ? THINK_BEGIN : THINK_END);
    }
    if (turn->task)
        buf_printf(&r->out, "<｜%s｜>", turn->task);
}

/* The last turn that asks, or SIZE_MAX. */
static size_t last_asking(const struct rendering *r) {
    for (size_t i = r->turn_count; i--;)
        if (r->turns[i].role == ROLE_USER || r->turns[i].role == ROLE_DEVELOPER)
            return i;
    return SIZE_MAX;
}

static void drop_developers(struct rendering *r) {
    size_t last = last_asking(r), kept = 0;
    for (size_t i = 0; i < r->turn_count; i++)
        if (r->turns[i].role != ROLE_DEVELOPER || i == last)
            r->turns[kept++] = r->turns[i];
    r->turn_count = kept;
}

static int write_all(struct rendering *r) {
    for (size_t i = 0; i < r->turn_count; i++)
        if (r->turns[i].role != ROLE_USER && jnode_truth(jnode_get(r->turns[i].message, "tools")))
            r->drop = false;
    if (r->thinking && r->drop)
        drop_developers(r);
    size_t last_user = last_asking(r);
    buf_string(&r->out, TEXT_BEGIN);
    if (r->thinking && r->effort_max && r->turn_count)
        buf_string(&r->out, effort_max_text);
    for (size_t i = 0; i < r->turn_count; i++) {
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
    if (mode && !text_is(mode, "chat") && !text_is(mode, "thinking"))
        return field_error(r->e, "thinking_mode", "\"chat\" or \"thinking\"");
    if (effort && !text_is(effort, "high") && !text_is(effort, "max"))
        return field_error(r->e, "reasoning_effort", "null, \"high\" or \"max\"");
    if (drop && drop->kind != JNODE_TRUE && drop->kind != JNODE_FALSE)
        return field_error(r->e, "drop_thinking", "true or false");
    r->thinking = text_is(mode, "thinking");
    r->effort_max = text_is(effort, "max");
    r->drop = !drop || drop->kind == JNODE_TRUE;
    int rc = gather(r, messages);
    if (!rc)
        rc = sort_results(r);
    return rc ? rc : write_all(r);
}

int text_chat_render(const char *request, size_t bytes, char **prompt, size_t *length, struct text_range **typed,
                     size_t *typed_count, struct sonde_error *e) {
    struct jtree tree;
    int rc = jtree_parse(request, bytes, "request", &tree, e);
    if (rc)
        return rc;
    struct rendering r = {.e = e};
    rc = read_request(&r, tree.root);
    if (!rc && r.ranges.failed)
        rc = err_memory(e);
    char *text = NULL, *ranges = NULL;
    size_t text_length = 0, ranges_length = 0;
    if (!rc)
        rc = buf_take(&r.out, &text, &text_length, e);
    if (!rc && typed)
        rc = buf_take(&r.ranges, &ranges, &ranges_length, e);
    if (rc)
        free(text);
    else
        *prompt = text;
    if (!rc && length)
        *length = text_length;
    if (!rc && typed) {
        *typed = (struct text_range *)(void *)ranges;
        *typed_count = ranges_length / sizeof(**typed);
    }
    buf_release(&r.out);
    buf_release(&r.ranges);
    free(r.turns);
    free(r.blocks);
    jtree_release(&tree);
    return rc;
}

int sonde_chat_render(const char *request, size_t bytes, char **prompt, size_t *length, struct sonde_error *error) {
    return text_chat_render(request, bytes, prompt, length, NULL, NULL, error);
}
