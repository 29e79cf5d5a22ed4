/*
 * grammar.c - what constrained answers cost: compiling a grammar, and a mask and a push for each token.
 *
 *     grammar [TOKENIZER]
 *
 * Each case says one answer, cut as the tokenizer cuts it, and again from the beginning with a fresh constraint, as
 * each request has one. Times are of single tokens: mask and push together.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/text.h"

enum { ROUNDS = 20 };

static const char order[] =
    "{\"type\": \"object\", \"properties\": {\"id\": {\"type\": \"integer\", \"minimum\": 1}, \"name\": {\"type\": "
    "\"string\", \"maxLength\": 80}, \"kind\": {\"enum\": [\"standard\", \"express\", \"pickup\"]}, \"items\": "
    "{\"type\": \"array\", \"maxItems\": 20, \"items\": {\"type\": \"object\", \"properties\": {\"sku\": {\"type\": "
    "\"string\", \"pattern\": \"^[A-Z]{3}-[0-9]{4}$\"}, \"count\": {\"type\": \"integer\"}, \"note\": {\"type\": "
    "[\"string\", \"null\"]}}, \"required\": [\"sku\", \"count\", \"note\"], \"additionalProperties\": false}}}, "
    "\"required\": [\"id\", \"name\", \"kind\", \"items\"], \"additionalProperties\": ";

static const char answer[] =
    "{\"id\": 4711, \"name\": \"Order of the day for the people upstairs\", \"kind\": \"express\", \"items\": "
    "[{\"sku\": "
    "\"ABC-1234\", \"count\": 2, \"note\": \"Please ring twice, the bell is broken.\"}, {\"sku\": \"XYZ-0001\", "
    "\"count\": 1, \"note\": null}]}";

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"strict\": true, \"parameters\": {\"type\": "
    "\"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"days\": {\"type\": \"integer\"}}, \"required\": "
    "[\"city\", \"days\"], \"additionalProperties\": false}}}]";

static const char calls[] =
    "\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"weather\">\n<" DSML
    "parameter name=\"city\" string=\"true\">San Francisco, by the bay</" DSML "parameter>\n<" DSML
    "parameter name=\"days\" string=\"false\">3</" DSML "parameter>\n</" DSML "invoke>\n</" DSML "tool_calls>";

static int compile(int which, struct text_grammar **g, struct sonde_error *e) {
    struct jtree tree = {0};
    struct buf text = {0};
    static const char *const schemas[] = {"null", NULL, NULL, "{\"type\": \"string\", \"pattern\": \"^.{1,300}$\"}"};
    struct text_tools_options options = {.choice = TEXT_TOOLS_REQUIRED};
    if (which == 1 || which == 2)
        buf_printf(&text, "%s%s}", order, which == 1 ? "false" : "true");
    else
        buf_string(&text, which == 4 ? tools : schemas[which]);
    int rc = jtree_parse(text.data, text.len, "schema", &tree, e);
    if (!rc && which == 4)
        rc = text_grammar_tools(tree.root, &options, "tools", g, e);
    else if (!rc)
        rc = text_grammar_schema(which ? tree.root : NULL, "schema", g, e);
    jtree_release(&tree);
    buf_release(&text);
    return rc;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of each token of an answer. */
static int say(struct text_grammar *g, const struct text_vocabulary *v, const int32_t *ids, size_t count,
               double *seconds, struct sonde_error *e) {
    struct text_constraint *c;
    bool may_end;
    int rc = text_constraint_open(g, v, &c, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++) {
        double started = clock_seconds();
        text_constraint_allowed(c, &may_end);
        bool taken = text_constraint_push(c, ids[i]);
        seconds[i] = clock_seconds() - started;
        if (!taken && !rc)
            rc = err_set(e, SONDE_ERROR_ARGUMENT, "token %zu of the answer was not allowed", i);
    }
    text_constraint_close(c);
    return rc;
}

static int measure(int which, const sonde_tokenizer *t, const struct text_vocabulary *v, struct sonde_error *e) {
    static const char *const names[] = {"any object", "schema, closed", "schema, open", "string, pattern", "calls"};
    static const char *const answers[] = {answer, answer, answer, "\"It was a bright cold day in April.\"", calls};
    struct text_grammar *g = NULL;
    int32_t *ids;
    size_t count;
    double started = clock_seconds();
    int rc = compile(which, &g, e);
    double compiled = clock_seconds() - started;
    rc = rc ? rc
            : sonde_tokenizer_encode(t, answers[which], strlen(answers[which]), SONDE_MARKUP_TOKENS, &ids, &count, e);
    if (rc) {
        text_grammar_free(g);
        return rc;
    }
    double *seconds = calloc(ROUNDS * count + 1, sizeof(*seconds));
    for (size_t i = 0; i < ROUNDS && seconds && !rc; i++)
        rc = say(g, v, ids, count, seconds + i * count, e);
    if (seconds && !rc) {
        qsort(seconds, ROUNDS * count, sizeof(*seconds), compare);
        printf("%-16s  compiled in %7.2f ms   %3zu tokens: median %8.1f us, 99 %% %8.1f us, worst %8.1f us\n",
               names[which], compiled * 1e3, count, seconds[ROUNDS * count / 2] * 1e6,
               seconds[ROUNDS * count * 99 / 100] * 1e6, seconds[ROUNDS * count - 1] * 1e6);
    }
    free(seconds);
    sonde_free(ids);
    text_grammar_free(g);
    return rc;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "models/nano/tokenizer.json";
    sonde_tokenizer *t = NULL;
    struct text_vocabulary *v = NULL;
    struct sonde_error e;
    int rc = sonde_tokenizer_open(path, &t, &e);
    double started = clock_seconds();
    rc = rc ? rc : text_vocabulary_open(t, sonde_tokenizer_size(t), &v, &e);
    if (!rc)
        printf("vocabulary of %u tokens, laid out in %.1f ms\n", sonde_tokenizer_size(t),
               (clock_seconds() - started) * 1e3);
    for (int which = 0; which < 5 && !rc; which++)
        rc = measure(which, t, v, &e);
    if (rc)
        fprintf(stderr, "grammar: %s\n", e.message);
    text_vocabulary_close(v);
    sonde_tokenizer_close(t);
    return rc != 0;
}
