/* tokenize.c - `sonde tokenize`: text to token ids and back, a line of JSON at a time. */
#include "cli/cli.h"

struct tokenize_options {
    bool jsonl;
};

/* {"text": ...} to {"ids": [...], "text": decoded again}. */
static int tokenize_line(void *context, const char *line, size_t length, json_t **out, struct sonde_error *e) {
    const sonde_tokenizer *tokenizer = context;
    const char *text;
    size_t bytes, count = 0, decoded_bytes = 0;
    int32_t *ids = NULL;
    char *decoded = NULL;
    json_t *in = NULL;
    int rc = jsonl_object(line, length, &in, e);
    if (!rc)
        rc = json_text(in, "text", &text, &bytes, e);
    if (!rc)
        rc = sonde_tokenizer_encode(tokenizer, text, bytes, SONDE_MARKUP_TOKENS, &ids, &count, e);
    if (!rc)
        rc = sonde_tokenizer_decode(tokenizer, ids, count, &decoded, &decoded_bytes, e);
    json_t *list = rc ? NULL : json_array();
    for (size_t i = 0; !rc && i < count; i++)
        if (json_array_append_new(list, json_integer(ids[i])) < 0)
            rc = err_memory(e);
    if (!rc) {
        *out = json_pack("{s:O, s:s%}", "ids", list, "text", decoded, decoded_bytes);
        if (!*out)
            rc = err_memory(e);
    }
    json_decref(list);
    json_decref(in);
    sonde_free(ids);
    sonde_free(decoded);
    return rc;
}

static int tokenize(int argc, char **argv) {
    struct tokenize_options o = {0};
    const char *operands[1];
    sonde_tokenizer *tokenizer;
    struct sonde_error e;
    int status = flags_parse(&command_tokenize, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (!o.jsonl)
        return usage_error("tokenize", "say which form the input has: --jsonl");
    if (sonde_tokenizer_open(operands[0], &tokenizer, &e))
        return report(&e);
    status = jsonl_each(tokenize_line, tokenizer);
    sonde_tokenizer_close(tokenizer);
    return status;
}

static const struct flag flags[] = {
    {.name = "jsonl",
     .kind = FLAG_SWITCH,
     .at = offsetof(struct tokenize_options, jsonl),
     .help = "one JSON object a line, in and out"},
};

const struct command command_tokenize = {
    .name = "tokenize",
    .operands = "TOKENIZER.json",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "text to token ids and back",
    .about = "Reads lines {\"text\": ...} from standard input and writes lines\n"
             "{\"ids\": [...], \"text\": the ids decoded again}. Special tokens that are spelled out\n"
             "in the text, such as <think>, become the tokens they name.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = tokenize,
};
