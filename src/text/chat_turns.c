/*
 * chat_turns.c - messages become turns.
 *
 * Every field that rendering will use is checked here, so that writing cannot meet anything unexpected. Then tool
 * results move into user turns, user messages that follow one another become one turn, and the results of a turn
 * are put in the order of the calls they answer. All of it as the released encoder does, in its odd corners too
 * (docs/formats.md).
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"

static const char *const role_names[ROLE_COUNT] = {"system",          "user",     "assistant", "tool",
                                                   "latest_reminder", "developer"};
static const char *const tasks[] = {"action", "query", "authority", "domain", "title", "read_url"};

/* ------------------------------------------------------------------------------------------ checks */

static int wrong(struct turns *c, size_t message, const char *field, const char *expected) {
    return err_set(c->e, SONDE_ERROR_FORMAT, "messages[%zu].%s: %s is expected", message, field, expected);
}

static int string_or_absent(struct turns *c, size_t message, const struct jnode *object, const char *field) {
    const struct jnode *value = jnode_get(object, field);
    return !value || value->kind == JNODE_STRING ? SONDE_OK : wrong(c, message, field, "a string");
}

bool chat_is_image(const struct chat_format *format, const struct jnode *type) {
    return *format->image && (jnode_says(type, "image") || jnode_says(type, "image_url"));
}

/* An image is told by one of three fields, or in an image_url, which may be the address itself. */
static bool has_source(const struct jnode *block) {
    const struct jnode *at = jnode_get(block, "image_url");
    if (jnode_says(jnode_get(block, "type"), "image_url"))
        return jnode_truth(jnode_is(at, JNODE_STRING) ? at : jnode_get(at, "url"));
    return jnode_truth(jnode_get(block, "source")) || jnode_truth(jnode_get(block, "url")) ||
           jnode_truth(jnode_get(block, "data"));
}

/* A content that is a string, or a list of blocks each of which is an object with a type; or absent. */
static int check_content(struct turns *c, size_t message, const struct jnode *content, const char *field) {
    if (!content || content->kind == JNODE_STRING)
        return SONDE_OK;
    if (content->kind != JNODE_ARRAY)
        return wrong(c, message, field, "a string or a list of blocks");
    for (const struct jnode *block = content->first; block; block = block->next) {
        const struct jnode *text = jnode_get(block, "text"), *type = jnode_get(block, "type");
        if (block->kind != JNODE_OBJECT || (type && type->kind != JNODE_STRING))
            return wrong(c, message, field, "a block with a \"type\"");
        if (text && text->kind != JNODE_STRING)
            return wrong(c, message, field, "a block whose \"text\" is a string");
        if (chat_is_image(c->format, type) && !has_source(block))
            return wrong(c, message, field, "an image with a \"source\", \"url\" or \"data\"");
    }
    return SONDE_OK;
}

static int read_role(struct turns *c, size_t index, const struct jnode *message, enum role *role) {
    const struct jnode *name = jnode_get(message, "role");
    int known = c->format->developers ? ROLE_COUNT : ROLE_DEVELOPER;
    for (int i = 0; i < known; i++)
        if (jnode_says(name, role_names[i])) {
            *role = (enum role)i;
            return SONDE_OK;
        }
    return wrong(c, index, "role",
                 c->format->developers ? "system, user, assistant, tool, latest_reminder or developer"
                                       : "system, user, assistant, tool or latest_reminder");
}

static int read_task(struct turns *c, size_t index, const struct jnode *message, const char **task) {
    const struct jnode *name = jnode_get(message, "task");
    *task = NULL;
    for (size_t i = 0; name && i < COUNT_OF(tasks); i++)
        if (jnode_says(name, tasks[i]))
            *task = tasks[i];
    return !name || *task ? SONDE_OK : wrong(c, index, "task", "action, query, authority, domain, title or read_url");
}

static int check_tools(struct turns *c, size_t index, const struct jnode *message) {
    const struct jnode *tools = jnode_get(message, "tools");
    if (!jnode_truth(tools))
        return SONDE_OK;
    if (tools->kind != JNODE_ARRAY)
        return wrong(c, index, "tools", "a list");
    for (const struct jnode *tool = tools->first; tool; tool = tool->next) {
        struct tool_name name;
        if (!jnode_is(jnode_get(tool, "function"), JNODE_OBJECT))
            return wrong(c, index, "tools", "a \"function\" object in each");
        if (!tool_name_read(c->format, tool, &name))
            return wrong(c, index, "tools", "a \"name\" in each, in one namespace at most");
    }
    return SONDE_OK;
}

static int check_calls(struct turns *c, size_t index, const struct jnode *message) {
    const struct jnode *calls = jnode_get(message, "tool_calls");
    if (!jnode_truth(calls))
        return SONDE_OK;
    if (calls->kind != JNODE_ARRAY)
        return wrong(c, index, "tool_calls", "a list");
    for (const struct jnode *call = calls->first; call; call = call->next) {
        const struct jnode *function = jnode_get(call, "function"), *arguments = jnode_get(function, "arguments");
        if (!jnode_is(jnode_get(function, "name"), JNODE_STRING))
            return wrong(c, index, "tool_calls", "a \"function\" with a \"name\" in each");
        struct tool_name name;
        if (!tool_name_read(c->format, call, &name))
            return wrong(c, index, "tool_calls", "a \"name\" in each, in one namespace at most");
        if (arguments && arguments->kind != JNODE_STRING && arguments->kind != JNODE_OBJECT)
            return wrong(c, index, "tool_calls", "\"arguments\" that are an object or its JSON text");
    }
    return SONDE_OK;
}

static int check_message(struct turns *c, const struct turn *turn) {
    const struct jnode *content = jnode_get(turn->message, "content");
    int rc = check_content(c, turn->index, content, "content");
    if (!rc && turn->role == ROLE_DEVELOPER && !jnode_truth(content))
        rc = wrong(c, turn->index, "content", "a text that is not empty");
    if (!rc && turn->role == ROLE_USER)
        rc = check_content(c, turn->index, jnode_get(turn->message, "content_blocks"), "content_blocks");
    if (!rc)
        rc = string_or_absent(c, turn->index, turn->message, "reasoning_content");
    if (!rc)
        rc = check_tools(c, turn->index, turn->message);
    return rc ? rc : check_calls(c, turn->index, turn->message);
}

/* ------------------------------------------------------------------------------------------ gather */

static int add_block(struct turns *c, struct turn *turn, struct block block) {
    if (c->block_count == c->block_cap) {
        size_t cap = c->block_cap ? 2 * c->block_cap : 64;
        struct block *blocks = realloc(c->blocks, cap * sizeof(*blocks));
        if (!blocks)
            return err_memory(c->e);
        c->blocks = blocks;
        c->block_cap = cap;
    }
    c->blocks[c->block_count++] = block;
    turn->count++;
    return SONDE_OK;
}

/* A user message is its blocks, or one block of its content. */
static int add_user_blocks(struct turns *c, struct turn *turn, const struct jnode *message, size_t index) {
    const struct jnode *list = jnode_get(message, "content_blocks"), *content = jnode_get(message, "content");
    if (!jnode_is(list, JNODE_ARRAY) || !list->count)
        list = jnode_is(content, JNODE_ARRAY) ? content : NULL;
    if (!list)
        return add_block(c, turn, (struct block){.content = content});
    for (const struct jnode *node = list->first; node; node = node->next) {
        const struct jnode *type = jnode_get(node, "type");
        struct block block = {.content = jnode_get(node, "text")};
        if (jnode_says(type, "tool_result"))
            block = (struct block){
                .result = true, .content = jnode_get(node, "content"), .call_id = jnode_get(node, "tool_use_id")};
        else if (!jnode_says(type, "text"))
            block = (struct block){.unknown = true, .kind = type};
        int rc = block.result ? check_content(c, index, block.content, "content_blocks") : SONDE_OK;
        if (!rc)
            rc = add_block(c, turn, block);
        if (rc)
            return rc;
    }
    return SONDE_OK;
}

/* Puts a message into the turn before it where the encoder merges them, or into a turn of its own. A user message
 * that is merged loses its task there, and so it does here. */
static int gather_message(struct turns *c, size_t index, const struct jnode *message) {
    struct turn next = {.message = message, .index = index, .first = c->block_count};
    int rc =
        message->kind == JNODE_OBJECT ? read_role(c, index, message, &next.role) : wrong(c, index, "role", "an object");
    if (!rc)
        rc = read_task(c, index, message, &next.task);
    if (!rc)
        rc = check_message(c, &next);
    if (rc)
        return rc;
    bool result = next.role == ROLE_TOOL;
    struct turn *last = c->turn_count ? &c->turns[c->turn_count - 1] : NULL;
    bool merges = last && last->role == ROLE_USER && (result || (next.role == ROLE_USER && !last->task));
    if (!merges) {
        last = &c->turns[c->turn_count++];
        *last = next;
    }
    if (result) {
        last->role = ROLE_USER;
        last->task = merges ? last->task : NULL;
        return add_block(c, last,
                         (struct block){.result = true,
                                        .content = jnode_get(message, "content"),
                                        .call_id = jnode_get(message, "tool_call_id")});
    }
    return next.role == ROLE_USER ? add_user_blocks(c, last, message, index) : SONDE_OK;
}

static int gather(struct turns *c, const struct jnode *messages) {
    c->turns = malloc((messages->count + 1) * sizeof(*c->turns));
    if (!c->turns)
        return err_memory(c->e);
    size_t index = 0;
    for (const struct jnode *message = messages->first; message; message = message->next) {
        int rc = gather_message(c, index++, message);
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

static int read_calls(struct turns *c, const struct jnode *list, struct call_order **calls, size_t *count) {
    free(*calls);
    *count = 0;
    *calls = malloc((list->count + 1) * sizeof(**calls));
    if (!*calls)
        return err_memory(c->e);
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
static int sort_turn(struct turns *c, const struct turn *turn, const struct call_order *calls, size_t count) {
    struct block *blocks = c->blocks + turn->first, *results = malloc((turn->count + 1) * sizeof(*results));
    if (!results)
        return err_memory(c->e);
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

static int sort_results(struct turns *c) {
    struct call_order *calls = NULL;
    size_t count = 0;
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < c->turn_count; i++) {
        const struct turn *turn = &c->turns[i];
        const struct jnode *list = jnode_get(turn->message, "tool_calls");
        if (turn->role == ROLE_ASSISTANT && jnode_truth(list))
            rc = read_calls(c, list, &calls, &count);
        else if (turn->role == ROLE_USER && turn->count > 1 && count)
            rc = sort_turn(c, turn, calls, count);
    }
    free(calls);
    return rc;
}

int turns_read(const struct chat_format *format, const struct jnode *messages, struct turns *c, struct sonde_error *e) {
    *c = (struct turns){.format = format, .e = e};
    int rc = gather(c, messages);
    return rc ? rc : sort_results(c);
}

void turns_release(struct turns *c) {
    free(c->turns);
    free(c->blocks);
    *c = (struct turns){0};
}
