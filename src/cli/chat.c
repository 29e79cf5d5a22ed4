/*
 * chat.c - `sonde chat`: the interactive conversation.
 *
 * On a terminal: a line editor, dim reasoning, answers as they come. Elsewhere it can be scripted: a line
 * is a message, answers go to standard output, no prompt, no reasoning. What commands say goes to standard
 * error, so that standard output is the model's words alone.
 *
 * The session follows the conversation: each prompt is rendered whole, and what the session already holds
 * of it is not computed again (answer.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat_internal.h"

#define LOAD_MOST ((size_t)1 << 28) /* bytes of a saved conversation */

/* --------------------------------------------------------------------------------------- answers */

struct shown {
    struct chat *chat;
    struct reasoning_style style;
};

static int show(void *context, bool reasoning, const char *text, size_t bytes) {
    struct shown *s = context;
    if (reasoning) {
        if (s->chat->terminal)
            reasoning_show(&s->style, text, bytes);
        return s->chat->out.why != 0;
    }
    reasoning_end(&s->style);
    output_write(&s->chat->out, text, bytes);
    return s->chat->out.why != 0;
}

/* Generates and shows an answer to the ids; what came, even if cut short, becomes the next message. */
static int answer_ids(struct chat *chat, const int32_t *ids, size_t count, struct sonde_error *e) {
    struct shown shown = {chat, {.out = &chat->out, .dim = terminal_styles(STDOUT_FILENO)}};
    struct answer answer = {0};
    struct answer_request request = {.session = chat->session,
                                     .ids = ids,
                                     .count = count,
                                     .thinking = chat->conversation.effort != EFFORT_OFF,
                                     .turns = sonde_model_tokenizer(chat->model),
                                     .show = show,
                                     .context = &shown};
    sonde_generation_default(&request.generation);
    sampling_from_flags(&chat->sampling, &request.generation.sampling);
    request.generation.max_tokens = chat->tokens;
    chat->out.last = 0;
    int rc = answer_generate(&request, &answer, e);
    reasoning_end(&shown.style);
    if (chat->out.last && chat->out.last != '\n')
        output_write(&chat->out, "\n", 1);
    if (!rc && answer.thinking && answer.result.finish != SONDE_FINISH_CANCELLED)
        notice("no answer: the model was still thinking when it came to the end");
    chat->sampling.seed++;
    chat->last = answer.result;
    if (!rc)
        rc = answer_keep(&answer, chat->session, sonde_model_tokenizer(chat->model), count, &chat->conversation, e);
    answer_release(&answer);
    return rc;
}

int chat_answer(struct chat *chat) {
    struct sonde_error e;
    int32_t *ids = NULL;
    size_t count, messages = chat->conversation.count;
    int rc = conversation_prompt(&chat->conversation, sonde_model_tokenizer(chat->model), &ids, &count, &e);
    if (!rc)
        rc = answer_ids(chat, ids, count, &e);
    free(ids);
    if (!rc)
        return STATUS_DONE;
    if (rc == SONDE_ERROR_CONTEXT)
        notice("%s; /undo or /reset makes room", e.message);
    else
        report(&e);
    /* the question that could not be answered is taken back, and the session's state is not relied upon */
    while (chat->conversation.count >= messages)
        conversation_drop(&chat->conversation);
    sonde_session_reset(chat->session);
    return STATUS_WORLD;
}

static int say(struct chat *chat, const struct buf *text) {
    struct message *m = conversation_add(&chat->conversation, SPEAKER_USER);
    if (m)
        buf_append(&m->text, text->data, text->len);
    if (m && !m->text.failed)
        return chat_answer(chat);
    if (m)
        conversation_drop(&chat->conversation);
    notice("out of memory");
    return STATUS_WORLD;
}

/* --------------------------------------------------------------------------------------- the loop */

/* A message: a line, and further ones while lines end in a backslash. If the input ends there, what was typed is
 * the message. */
static enum editor_result read_message(struct chat *chat, struct buf *text) {
    struct buf line = {0};
    buf_clear(text);
    enum editor_result result = editor_read(chat->editor, "> ", &line);
    while (result == EDITOR_LINE && line.len && line.data[line.len - 1] == '\\') {
        buf_append(text, line.data, line.len - 1);
        result = editor_read(chat->editor, ". ", &line);
        if (result == EDITOR_LINE)
            buf_byte(text, '\n');
    }
    if (result == EDITOR_LINE)
        buf_append(text, line.data ? line.data : "", line.len);
    else if (result == EDITOR_END && text->len)
        result = EDITOR_LINE; /* the end is met again */
    buf_release(&line);
    return result;
}

static int chat_loop(struct chat *chat) {
    struct buf text = {0};
    int worst = STATUS_DONE;
    while (!chat->over && !chat->out.why) {
        enum editor_result result = read_message(chat, &text);
        if (result == EDITOR_INTERRUPT)
            continue;
        if (result == EDITOR_FAILED) {
            notice("standard input: %s", strerror(errno));
            worst = STATUS_WORLD;
        }
        if (result == EDITOR_END || result == EDITOR_FAILED)
            break;
        int status = STATUS_DONE;
        if (text.len && text.data[0] == '/')
            status = chat_command(chat, text.data);
        else if (text.len)
            status = say(chat, &text);
        if (status && !chat->terminal)
            worst = status;
        if (interrupted() && !chat->terminal) {
            worst = STATUS_INTERRUPTED;
            break;
        }
    }
    buf_release(&text);
    int status = output_status(&chat->out);
    return status ? status : worst;
}

struct chat_options {
    struct sampling_flags sampling;
    struct model_flags model;
    const char *system, *load;
    int effort;
    uint64_t tokens;
    bool no_history, think;
};

static int chat_start(struct chat *chat, const struct chat_options *o) {
    struct buf history = {0};
    struct sonde_model_info info;
    sonde_model_info(chat->model, &info);
    chat->conversation.format = info.chat_format;
    chat->out = (struct output){.fd = STDOUT_FILENO};
    chat->sampling = o->sampling;
    sampling_resolve(&chat->sampling, chat->model);
    chat->tokens = o->tokens;
    chat->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    chat->conversation.effort = (enum effort)o->effort;
    if (o->system)
        buf_string(&chat->conversation.system, o->system);
    bool keep = chat->terminal && !o->no_history && history_path(&history);
    chat->editor = editor_open(chat->terminal, keep ? history.data : NULL);
    buf_release(&history);
    if (!chat->editor) {
        notice("out of memory");
        return STATUS_WORLD;
    }
    return o->load ? chat_load(chat, o->load) : STATUS_DONE;
}

static int chat_main(int argc, char **argv) {
    struct chat_options o = {.sampling = SAMPLING_DEFAULT, .model = MODEL_DEFAULT};
    struct chat chat = {0};
    const char *operands[1];
    int status = flags_parse(&command_chat, argc, argv, &o, operands);
    if (status >= 0)
        return status;
    if (o.think && o.effort == EFFORT_OFF)
        o.effort = EFFORT_ON;
    status = model_open_flags(operands[0], &o.model, &chat.model, &chat.session);
    if (status)
        return status;
    status = chat_start(&chat, &o);
    if (!status && chat.terminal)
        notice("/help lists the commands, Ctrl-C ends an answer, Ctrl-D the conversation");
    if (!status)
        status = chat_loop(&chat);
    editor_close(chat.editor);
    conversation_release(&chat.conversation);
    sonde_session_close(chat.session);
    sonde_model_close(chat.model);
    return status;
}

int chat_load(struct chat *chat, const char *path) {
    struct buf text = {0};
    struct sonde_error e;
    int rc = file_read_input(path, LOAD_MOST, &text, &e);
    if (!rc)
        rc = conversation_load(&chat->conversation, text.data ? text.data : "", text.len, path, &e);
    buf_release(&text);
    return rc ? report(&e) : STATUS_DONE;
}

/* clang-format off */
static const struct flag flags[] = {
    {.name = "system", .kind = FLAG_STRING, .at = offsetof(struct chat_options, system), .value = "TEXT",
     .help = "instructions that stand before the conversation"},
    {.name = "think", .kind = FLAG_SWITCH, .at = offsetof(struct chat_options, think),
     .help = "let the model think first"},
    {.name = "effort", .kind = FLAG_CHOICE, .at = offsetof(struct chat_options, effort), .value = EFFORT_CHOICES,
     .help = "how hard the model thinks first (default off)"},
    {.name = "load", .kind = FLAG_STRING, .at = offsetof(struct chat_options, load), .value = "FILE",
     .help = "go on with a conversation saved by /save"},
    {.letter = 'n', .name = "max-tokens", .kind = FLAG_COUNT, .at = offsetof(struct chat_options, tokens),
     .value = "N", .most = UINT32_MAX, .help = "stop each answer after N tokens"},
    SAMPLING_FLAGS(struct chat_options, sampling),
    MODEL_FLAGS(struct chat_options, model),
    {.name = "no-history", .kind = FLAG_SWITCH, .at = offsetof(struct chat_options, no_history),
     .help = "neither read nor keep lines typed before"},
};
/* clang-format on */

const struct command command_chat = {
    .name = "chat",
    .operands = "[MODEL]",
    .operands_most = 1,
    .summary = "a conversation",
    .about = "Talks with the model. A line is a message; one that ends in a backslash goes on in the\n"
             "next. Lines that begin with / are commands: /help lists them. When standard input is\n"
             "not a terminal its lines are the messages, and standard output holds the answers alone.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = chat_main,
};
