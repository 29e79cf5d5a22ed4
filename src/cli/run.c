/*
 * run.c - `sonde run`: one prompt, one answer.
 *
 * The answer goes to standard output as it is generated, with a newline at the end if it lacks one. With
 * --raw that newline is added only on a terminal: what continues a text should be what the model wrote.
 * With --think the reasoning is shown, dim, on standard error and only where that is a terminal.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "talk_internal.h"

#define PROMPT_MOST ((size_t)1 << 28) /* bytes of a prompt on standard input */

struct run_options {
    const char *prompt, *system;
    uint64_t tokens;
    struct sampling_flags sampling;
    struct model_flags model;
    struct strings stop;
    bool raw, think, stats;
    int effort; /* enum effort */
};

/* The prompt's text: -p, or standard input less one final newline. Returns -1 to go on, else a status. */
static int read_prompt(const struct run_options *o, struct buf *prompt) {
    struct sonde_error e;
    bool input = o->prompt ? strcmp(o->prompt, "-") == 0 : !isatty(STDIN_FILENO);
    if (!o->prompt && !input)
        return usage_error("run", "give the prompt with -p TEXT or on standard input");
    if (!input)
        buf_string(prompt, o->prompt);
    else if (file_read_input("-", PROMPT_MOST, prompt, &e))
        return report(&e);
    if (input && prompt->len && prompt->data[prompt->len - 1] == '\n')
        prompt->len--;
    if (!prompt->len && !o->raw)
        return usage_error("run", "the prompt is empty");
    return -1;
}

/* --raw: the text itself, special tokens included, begun with the token that begins texts. */
static int raw_ids(const sonde_model *model, const struct buf *text, int32_t **ids, size_t *count,
                   struct sonde_error *e) {
    struct sonde_model_info info;
    const sonde_tokenizer *tokenizer = sonde_model_tokenizer(model);
    struct buf all = {0};
    int32_t *encoded;
    size_t n;
    char *taken;
    sonde_model_info(model, &info);
    int rc =
        sonde_tokenizer_encode(tokenizer, text->len ? text->data : "", text->len, SONDE_MARKUP_TOKENS, &encoded, &n, e);
    if (rc)
        return rc;
    if (info.bos >= 0 && (!n || encoded[0] != info.bos))
        buf_append(&all, &info.bos, sizeof(info.bos));
    buf_append(&all, encoded, n * sizeof(*encoded));
    sonde_free(encoded);
    *count = all.len / sizeof(**ids);
    rc = buf_take(&all, &taken, NULL, e);
    if (!rc)
        *ids = (int32_t *)(void *)taken;
    return rc;
}

static int chat_ids(const struct run_options *o, const sonde_model *model, const struct buf *text, int32_t **ids,
                    size_t *count, struct sonde_error *e) {
    struct sonde_model_info info;
    sonde_model_info(model, &info);
    struct conversation c = {.effort = (enum effort)o->effort, .format = info.chat_format};
    if (o->system)
        buf_string(&c.system, o->system);
    struct message *m = conversation_add(&c, SPEAKER_USER);
    if (m)
        buf_append(&m->text, text->data, text->len);
    int rc = m && !m->text.failed && !c.system.failed
                 ? conversation_prompt(&c, sonde_model_tokenizer(model), ids, count, e)
                 : err_memory(e);
    conversation_release(&c);
    return rc;
}

struct shown {
    struct output *out, *aside;
    struct reasoning_style style;
    bool terminal; /* standard error is one */
};

static int show(void *context, bool reasoning, const char *text, size_t bytes) {
    struct shown *s = context;
    if (reasoning && s->terminal)
        reasoning_show(&s->style, text, bytes);
    if (reasoning)
        return 0;
    reasoning_end(&s->style);
    output_write(s->out, text, bytes);
    return s->out->why != 0;
}

static const char *finish_name(enum sonde_finish finish) {
    static const char *const names[] = {"end of turn", "stop string", "token limit", "context full", "interrupted"};
    return names[finish];
}

static void print_stats(const struct run_options *o, const struct sonde_generated *g) {
    size_t read = g->prompt_tokens - g->reused_tokens;
    double prompt_rate = g->prompt_seconds > 0 ? (double)read / g->prompt_seconds : 0;
    double rate = g->generate_seconds > 0 ? (double)g->generated_tokens / g->generate_seconds : 0;
    notice("prompt %zu tokens, %zu of them remembered, in %.3f s, %.1f a second; answer %zu tokens in %.3f s, %.1f a "
           "second; %s; seed %llu",
           g->prompt_tokens, g->reused_tokens, g->prompt_seconds, prompt_rate, g->generated_tokens, g->generate_seconds,
           rate, finish_name(g->finish), (unsigned long long)o->sampling.seed);
}

/* Generates and shows; returns a status. */
static int run_answer(struct run_options *o, sonde_session *session, const sonde_tokenizer *tokenizer,
                      const int32_t *ids, size_t count) {
    struct output out = {.fd = STDOUT_FILENO}, aside = {.fd = STDERR_FILENO};
    struct shown shown = {.out = &out, .aside = &aside, .terminal = isatty(STDERR_FILENO)};
    struct answer answer = {0};
    struct sonde_error e;
    shown.style = (struct reasoning_style){.out = &aside, .dim = terminal_styles(STDERR_FILENO)};
    struct answer_request request = {.session = session,
                                     .ids = ids,
                                     .count = count,
                                     .thinking = !o->raw && o->effort != EFFORT_OFF,
                                     .turns = o->raw ? NULL : tokenizer,
                                     .show = show,
                                     .context = &shown};
    sonde_generation_default(&request.generation);
    sampling_from_flags(&o->sampling, &request.generation.sampling);
    request.generation.max_tokens = o->tokens;
    request.generation.stop = o->stop.at;
    request.generation.stop_count = o->stop.count;
    int rc = answer_generate(&request, &answer, &e);
    reasoning_end(&shown.style);
    if (out.last && out.last != '\n' && (!o->raw || isatty(STDOUT_FILENO)))
        output_write(&out, "\n", 1);
    int status = rc ? report(&e) : output_status(&out);
    if (!rc && answer.thinking && answer.result.finish != SONDE_FINISH_CANCELLED) {
        notice("no answer: the model was still thinking when it came to the end (%s)",
               finish_name(answer.result.finish));
        status = STATUS_WORLD;
    }
    if (!rc && o->stats)
        print_stats(o, &answer.result);
    if (!status && interrupted())
        status = STATUS_INTERRUPTED;
    answer_release(&answer);
    return status;
}

static int run_prompt(struct run_options *o, const char *path, const struct buf *prompt) {
    sonde_model *model;
    sonde_session *session;
    struct sonde_error e;
    int32_t *ids = NULL;
    size_t count = 0;
    int status = model_open_flags(path, &o->model, &model, &session);
    if (status)
        return status;
    sampling_resolve(&o->sampling, model);
    int rc = o->raw ? raw_ids(model, prompt, &ids, &count, &e) : chat_ids(o, model, prompt, &ids, &count, &e);
    status = rc ? report(&e) : run_answer(o, session, sonde_model_tokenizer(model), ids, count);
    sonde_free(ids);
    sonde_session_close(session);
    sonde_model_close(model);
    return status;
}

static int run(int argc, char **argv) {
    struct run_options o = {.sampling = SAMPLING_DEFAULT, .model = MODEL_DEFAULT};
    struct buf prompt = {0};
    const char *operands[1];
    int status = flags_parse(&command_run, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (o.think && o.effort == EFFORT_OFF)
        o.effort = EFFORT_ON;
    if (o.raw && (o.effort || o.system))
        return usage_error("run", "--raw has no conversation, so it does not go with --%s",
                           o.system  ? "system"
                           : o.think ? "think"
                                     : "effort");
    status = read_prompt(&o, &prompt);
    if (status < 0)
        status = run_prompt(&o, operands[0], &prompt);
    buf_release(&prompt);
    return status;
}

/* clang-format off */
static const struct flag flags[] = {
    {.letter = 'p', .name = "prompt", .kind = FLAG_STRING, .at = offsetof(struct run_options, prompt), .value = "TEXT",
     .help = "the prompt; - or none: standard input"},
    {.letter = 'n', .name = "max-tokens", .kind = FLAG_COUNT, .at = offsetof(struct run_options, tokens), .value = "N",
     .most = UINT32_MAX, .help = "stop after N tokens; 0: when the model does (default)"},
    {.name = "system", .kind = FLAG_STRING, .at = offsetof(struct run_options, system), .value = "TEXT",
     .help = "instructions that stand before the conversation"},
    {.name = "raw", .kind = FLAG_SWITCH, .at = offsetof(struct run_options, raw),
     .help = "continue the text instead of chatting"},
    {.name = "think", .kind = FLAG_SWITCH, .at = offsetof(struct run_options, think),
     .help = "let the model think first; shown only on a terminal"},
    {.name = "effort", .kind = FLAG_CHOICE, .at = offsetof(struct run_options, effort), .value = EFFORT_CHOICES,
     .help = "how hard it thinks (default off)"},
    {.name = "stop", .kind = FLAG_LIST, .at = offsetof(struct run_options, stop), .value = "TEXT",
     .help = "end before TEXT appears; may be repeated"},
    SAMPLING_FLAGS(struct run_options, sampling),
    MODEL_FLAGS(struct run_options, model),
    {.name = "stats", .kind = FLAG_SWITCH, .at = offsetof(struct run_options, stats),
     .help = "speed and seed, on standard error"},
};
/* clang-format on */

const struct command command_run = {
    .name = "run",
    .operands = "[MODEL]",
    .operands_most = 1,
    .summary = "one answer to one prompt",
    .about = "Answers the prompt on standard output, with nothing else there. With --raw the text is\n"
             "continued as it stands, special tokens such as <think> included; without, what you\n"
             "type is text and nothing but text. Ctrl-C ends the answer; the exit status is then 130.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = run,
};
