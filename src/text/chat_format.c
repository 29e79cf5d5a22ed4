/*
 * chat_format.c - the released chat formats, and which of them a checkpoint wants.
 *
 * A format is that of the encoder released with the weights (encoding_dsv4.py of V4, encoding.py of V4.1), as the
 * model was trained on its output. All in which they differ stands here as data; the code that writes and reads
 * conversations knows none by name. docs/decisions/0018-chat-formats-are-data.md says which sources were followed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"

/* A space before the names is V4.1's. */
#define SPELLING(calls, space)                                                                                         \
    {                                                                                                                  \
        [SPELL_BLOCK] = "<" DSML calls ">\n", [SPELL_BLOCK_END] = "</" DSML calls ">",                                 \
        [SPELL_INVOKE] = "<" DSML space "invoke name=\"", [SPELL_INVOKE_END] = "</" DSML space "invoke>\n",            \
        [SPELL_PARAMETER] = "<" DSML space "parameter name=\"",                                                        \
        [SPELL_PARAMETER_END] = "</" DSML space "parameter>\n",                                                        \
    }

#define TOOLS_BEFORE(calls, space)                                                                                     \
    "## Tools\n\n"                                                                                                     \
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "         \
    "\"<" DSML calls ">\" block like the following:\n\n"                                                               \
    "<" DSML calls ">\n"                                                                                               \
    "<" DSML space "invoke name=\"$TOOL_NAME\">\n"                                                                     \
    "<" DSML space "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE"                         \
    "</" DSML space "parameter>\n"                                                                                     \
    "...\n"                                                                                                            \
    "</" DSML space "invoke>\n"                                                                                        \
    "<" DSML space "invoke name=\"$TOOL_NAME2\">\n"                                                                    \
    "...\n"                                                                                                            \
    "</" DSML space "invoke>\n"                                                                                        \
    "</" DSML calls ">\n\n"                                                                                            \
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, "            \
    "booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"                        \
    "If thinking_mode is enabled (triggered by " THINK_BEGIN                                                           \
    "), you MUST output your complete reasoning inside " THINK_BEGIN "..." THINK_END                                   \
    " BEFORE any tool calls or final response.\n\n"                                                                    \
    "Otherwise, output directly after " THINK_END " with tool calls or final response.\n\n"                            \
    "### Available Tool Schemas\n\n"

#define TOOLS_AFTER                                                                                                    \
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"

#define EFFORT_MAX_TEXT                                                                                                \
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"                                                \
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root "        \
    "cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial "            \
    "scenarios.\n"                                                                                                     \
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "          \
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n"

static const struct chat_format formats[] = {
    [SONDE_CHAT_V4] = {.model_type = "deepseek_v4",
                       .system = "",
                       .developers = true,
                       .image = "",
                       .effort_before = "",
                       .effort_after = "",
                       .effort_default = "",
                       .efforts = {{"high", ""}, {"max", EFFORT_MAX_TEXT}},
                       .tools_before = TOOLS_BEFORE("tool_calls", ""),
                       .tools_after = TOOLS_AFTER,
                       .spelling = SPELLING("tool_calls", "")},
    [SONDE_CHAT_V41] = {.model_type = "deepseek_v41",
                        .system = "<｜System｜>",
                        .systems_ask = true,
                        .namespaces = true,
                        .image = "<｜deepseek_image｜>",
                        .effort_before = "Reasoning Effort: ",
                        .effort_after = " (range 1-100, the higher the value, the more thorough the reasoning)\n\n",
                        .effort_default = "75",
                        .effort_most = 100,
                        .efforts = {{"low", "50"}, {"high", "75"}, {"max", "100"}},
                        .tools_before = TOOLS_BEFORE(" calls", " "),
                        .tools_after = TOOLS_AFTER,
                        .spelling = SPELLING(" calls", " ")},
};

const struct chat_format *chat_format_view(enum sonde_chat_format format) {
    return &formats[format];
}

/* -------------------------------------------------------------------------------------------- choice */

/* "deepseek_v4" or "deepseek_v41". */
static const char *all_types(char list[64]) {
    int used = 0;
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        used += snprintf(list + used, 64 - (size_t)used, "%s%s", i ? " or " : "", formats[i].model_type);
    return list;
}

static int find_type(const json_t *config, const char *what, enum sonde_chat_format *format, struct sonde_error *e) {
    const json_t *type = json_object_get(config, "model_type");
    const char *name = json_string_value(type);
    char list[64];
    if (!type || json_is_null(type)) {
        *format = SONDE_CHAT_V4;
        return SONDE_OK;
    }
    for (size_t i = 0; name && i < COUNT_OF(formats); i++)
        if (strcmp(name, formats[i].model_type) == 0) {
            *format = (enum sonde_chat_format)i;
            return SONDE_OK;
        }
    if (!name)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: field model_type: a string is expected", what);
    return err_set(e, SONDE_ERROR_UNSUPPORTED, "%s: field model_type: no chat format of \"%.60s\" is known, only of %s",
                   what, name, all_types(list));
}

int sonde_chat_format_read(const char *directory, enum sonde_chat_format *format, struct sonde_error *error) {
    struct buf file = {0}, text = {0};
    json_t *config = NULL;
    file_join(&file, directory, "config.json");
    int rc = file.failed ? err_memory(error) : file_read(file.data, 1 << 24, &text, error);
    rc = rc ? rc : json_parse(text.data ? text.data : "", text.len, file.data, &config, error);
    if (!rc && !json_is_object(config))
        rc = err_set(error, SONDE_ERROR_FORMAT, "%s: an object is expected", file.data);
    rc = rc ? rc : find_type(config, file.data, format, error);
    json_decref(config);
    buf_release(&text);
    buf_release(&file);
    return rc;
}

/* ------------------------------------------------------------------------------------------- efforts */

const char *chat_effort_text(const struct chat_format *format, const char *effort, bool number) {
    if (number) {
        size_t digits = strspn(effort, "0123456789");
        long value = !effort[digits] && digits < 10 ? strtol(effort, NULL, 10) : 0;
        return value > 0 && value <= (long)format->effort_most ? effort : NULL;
    }
    for (const struct effort *e = format->efforts; e->name; e++)
        if (strcmp(effort, e->name) == 0)
            return e->text;
    return NULL;
}

bool text_chat_takes_effort(enum sonde_chat_format format, const char *effort) {
    bool number = *effort >= '0' && *effort <= '9';
    return chat_effort_text(&formats[format], effort, number) != NULL;
}
