/* chat_commands.c - the slash commands of `sonde chat`. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat_internal.h"

struct slash {
    const char *name, *argument, *help;
    int (*run)(struct chat *chat, const char *argument);
};

static int slash_help(struct chat *chat, const char *argument);

static int slash_think(struct chat *chat, const char *argument) {
    static const char *const names[] = {"off", "on", "high", "max"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(argument, names[i]) == 0)
            chat->conversation.effort = (enum effort)i;
    bool known = !*argument || strcmp(argument, names[chat->conversation.effort]) == 0;
    if (known)
        notice("thinking: %s", names[chat->conversation.effort]);
    else
        notice("/think takes on, off, high or max, not '%s'", argument);
    return known ? STATUS_DONE : STATUS_USAGE;
}

static int slash_reset(struct chat *chat, const char *argument) {
    (void)argument;
    conversation_clear(&chat->conversation);
    sonde_session_reset(chat->session);
    notice("a new conversation");
    return STATUS_DONE;
}

static int slash_save(struct chat *chat, const char *argument) {
    struct buf text = {0};
    struct sonde_error e;
    if (!*argument) {
        notice("/save needs the name of a file");
        return STATUS_USAGE;
    }
    int rc = conversation_save(&chat->conversation, &text, &e);
    if (!rc)
        rc = file_write(argument, text.data, text.len, &e);
    if (!rc)
        notice("%zu messages in %s", chat->conversation.count, argument);
    buf_release(&text);
    return rc ? report(&e) : STATUS_DONE;
}

static int slash_load(struct chat *chat, const char *argument) {
    if (!*argument) {
        notice("/load needs the name of a file");
        return STATUS_USAGE;
    }
    int status = chat_load(chat, argument);
    if (!status)
        notice("%zu messages from %s", chat->conversation.count, argument);
    return status;
}

static int slash_system(struct chat *chat, const char *argument) {
    buf_clear(&chat->conversation.system);
    buf_string(&chat->conversation.system, argument);
    notice(*argument ? "system text set" : "no system text");
    return STATUS_DONE;
}

static int slash_temp(struct chat *chat, const char *argument) {
    char *end;
    float value = strtof(argument, &end);
    bool given = *argument != 0, good = end != argument && !*end && value >= 0 && value <= 100;
    if (given && !good) {
        notice("/temp takes a number from 0 to 100, not '%s'", argument);
        return STATUS_USAGE;
    }
    if (given) {
        chat->sampling.temperature = value;
        chat->sampling.greedy = false;
    }
    notice("temperature %g", chat->sampling.greedy ? 0 : (double)chat->sampling.temperature);
    return STATUS_DONE;
}

static int slash_seed(struct chat *chat, const char *argument) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(argument, &end, 10);
    bool good = *argument >= '0' && *argument <= '9' && !*end && !errno && value != SEED_RANDOM;
    if (*argument && !good) {
        notice("/seed takes a whole number, not '%s'", argument);
        return STATUS_USAGE;
    }
    if (*argument)
        chat->sampling.seed = value;
    notice("seed of the next answer: %llu", (unsigned long long)chat->sampling.seed);
    return STATUS_DONE;
}

static double rate(size_t tokens, double seconds) {
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static int slash_stats(struct chat *chat, const char *argument) {
    (void)argument;
    struct sonde_model_info info;
    size_t held;
    sonde_model_info(chat->model, &info);
    sonde_session_tokens(chat->session, &held);
    notice("%zu messages, %zu tokens held, the model states %u", chat->conversation.count, held, info.context);
    size_t read = chat->last.prompt_tokens - chat->last.reused_tokens;
    notice("last answer: read %zu tokens, %.1f a second; wrote %zu, %.1f a second", read,
           rate(read, chat->last.prompt_seconds), chat->last.generated_tokens,
           rate(chat->last.generated_tokens, chat->last.generate_seconds));
    return STATUS_DONE;
}

/* Drops the answers behind the last question. False, and nothing is dropped, if there is no question. */
static bool drop_answers(struct conversation *c) {
    size_t asked = c->count;
    while (asked && c->messages[asked - 1].speaker == SPEAKER_ASSISTANT)
        asked--;
    while (asked && c->count > asked)
        conversation_drop(c);
    return asked > 0;
}

static int slash_retry(struct chat *chat, const char *argument) {
    (void)argument;
    if (!drop_answers(&chat->conversation)) {
        notice("there is nothing to answer again");
        return STATUS_USAGE;
    }
    return chat_answer(chat);
}

static int slash_undo(struct chat *chat, const char *argument) {
    (void)argument;
    if (!drop_answers(&chat->conversation)) {
        notice("there is nothing to take back");
        return STATUS_USAGE;
    }
    conversation_drop(&chat->conversation);
    notice("the last question and its answer are taken back");
    return STATUS_DONE;
}

static int slash_exit(struct chat *chat, const char *argument) {
    (void)argument;
    chat->over = true;
    return STATUS_DONE;
}

static const struct slash slashes[] = {
    {"help", "", "this list", slash_help},
    {"think", " on|off|high|max", "whether and how hard the model thinks first", slash_think},
    {"system", " TEXT", "instructions before the conversation; none without TEXT", slash_system},
    {"temp", " T", "temperature", slash_temp},
    {"seed", " N", "seed of the next answer", slash_seed},
    {"retry", "", "another answer to the last question", slash_retry},
    {"undo", "", "take back the last question and its answer", slash_undo},
    {"reset", "", "begin a new conversation", slash_reset},
    {"save", " FILE", "the conversation as JSON", slash_save},
    {"load", " FILE", "go on with a saved one", slash_load},
    {"stats", "", "tokens and speed", slash_stats},
    {"exit", "", "leave, as Ctrl-D does", slash_exit},
};

static int slash_help(struct chat *chat, const char *argument) {
    (void)chat;
    (void)argument;
    for (size_t i = 0; i < COUNT_OF(slashes); i++) {
        char left[32];
        snprintf(left, sizeof(left), "/%s%s", slashes[i].name, slashes[i].argument);
        fprintf(stderr, "%-24s%s\n", left, slashes[i].help);
    }
    return STATUS_DONE;
}

static const char *slash_name(const void *context, size_t i) {
    (void)context;
    return slashes[i].name;
}

int chat_command(struct chat *chat, char *line) {
    char *name = line + 1;
    size_t length = strcspn(name, " \t\n");
    const char *argument = name + length + strspn(name + length, " \t\n");
    for (char *end = line + strlen(line); end > argument && strchr(" \t\n", end[-1]); end--)
        end[-1] = 0;
    name[length] = 0;
    for (size_t i = 0; i < COUNT_OF(slashes); i++)
        if (strcmp(slashes[i].name, name) == 0)
            return slashes[i].run(chat, argument);
    const char *near = nearest_name(name, COUNT_OF(slashes), slash_name, NULL);
    if (near)
        notice("there is no /%s (did you mean /%s?); /help lists the commands", name, near);
    else
        notice("there is no /%s; /help lists the commands", name);
    return STATUS_USAGE;
}
