/* render.c - `sonde render`: conversations to the prompts their model expects, a line of JSON at a time. */
#include "cli/cli.h"

struct render_options {
    bool jsonl;
};

/* {"messages": ...} to {"prompt": ...}. */
static int render_line(void *context, const char *line, size_t bytes, json_t **out, struct sonde_error *e) {
    const enum sonde_chat_format *format = context;
    char *prompt = NULL;
    size_t length;
    int rc = sonde_chat_render(*format, line, bytes, &prompt, &length, e);
    if (!rc) {
        *out = json_pack("{s:s%}", "prompt", prompt, length);
        if (!*out)
            rc = err_memory(e);
    }
    sonde_free(prompt);
    return rc;
}

static int render(int argc, char **argv) {
    struct render_options o = {0};
    const char *operands[1];
    enum sonde_chat_format format;
    int status = flags_parse(&command_render, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (!o.jsonl)
        return usage_error("render", "say which form the input has: --jsonl");
    status = chat_format_of(operands[0], &format);
    return status ? status : jsonl_each(render_line, &format);
}

static const struct flag flags[] = {
    {.name = "jsonl",
     .kind = FLAG_SWITCH,
     .at = offsetof(struct render_options, jsonl),
     .help = "one JSON object a line, in and out"},
};

const struct command command_render = {
    .name = "render",
    .operands = "[MODEL]",
    .operands_most = 1,
    .summary = "conversations to prompts",
    .about = "Reads lines {\"messages\": [...], \"thinking_mode\": \"chat\"|\"thinking\",\n"
             "\"reasoning_effort\": null|\"high\"|\"max\", \"drop_thinking\": true|false} from standard\n"
             "input and writes lines {\"prompt\": ...}. All but messages may be left out.\n\n"
             "The prompt is in the format of MODEL, a checkpoint directory whose config.json says\n"
             "which; without one V4's. V4.1's efforts are also \"low\" and integers from 1 to 100.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = render,
};
