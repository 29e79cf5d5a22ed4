/* parse.c - `sonde parse`: what a model wrote to a message, tool calls included, a line of JSON at a time. */
#include <string.h>

#include "cli/cli.h"

struct parse_options {
    bool jsonl;
};

/* {"text": ..., "thinking_mode": ...} to {"message": {...}}. */
static int parse_line(void *context, const char *line, size_t length, json_t **out, struct sonde_error *e) {
    const enum sonde_chat_format *format = context;
    const char *text, *mode = "chat";
    size_t bytes, mode_bytes;
    char *message = NULL;
    json_t *in = NULL, *parsed = NULL;
    int rc = jsonl_object(line, length, &in, e);
    if (!rc)
        rc = json_text(in, "text", &text, &bytes, e);
    if (!rc && json_object_get(in, "thinking_mode"))
        rc = json_text(in, "thinking_mode", &mode, &mode_bytes, e);
    bool thinking = strcmp(mode, "thinking") == 0;
    if (!rc && !thinking && strcmp(mode, "chat") != 0)
        rc = err_set(e, SONDE_ERROR_FORMAT, "field thinking_mode: \"chat\" or \"thinking\" expected, not \"%s\"", mode);
    if (!rc)
        rc = sonde_chat_parse(*format, text, bytes, thinking, &message, e);
    if (!rc)
        rc = json_parse(message, strlen(message), "message", &parsed, e);
    if (!rc) {
        *out = json_pack("{s:o}", "message", parsed);
        if (!*out)
            rc = err_memory(e);
    }
    sonde_free(message);
    json_decref(in);
    return rc;
}

static int parse(int argc, char **argv) {
    struct parse_options o = {0};
    const char *operands[1];
    enum sonde_chat_format format;
    int status = flags_parse(&command_parse, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (!o.jsonl)
        return usage_error("parse", "say which form the input has: --jsonl");
    status = chat_format_of(operands[0], &format);
    return status ? status : jsonl_each(parse_line, &format);
}

static const struct flag flags[] = {
    {.name = "jsonl",
     .kind = FLAG_SWITCH,
     .at = offsetof(struct parse_options, jsonl),
     .help = "one JSON object a line, in and out"},
};

const struct command command_parse = {
    .name = "parse",
    .operands = "[MODEL]",
    .operands_most = 1,
    .summary = "what a model wrote to a message with tool calls",
    .about = "Reads lines {\"text\": ..., \"thinking_mode\": \"chat\"|\"thinking\"} from standard input and\n"
             "writes lines {\"message\": {...}} with content, reasoning_content and tool_calls. What\n"
             "cannot be understood as a tool call stays in content. With MODEL, a checkpoint directory\n"
             "whose config.json says that it is V4.1's, calls of tools in namespaces have those apart.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = parse,
};
