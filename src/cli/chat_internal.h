/* chat_internal.h - the state of `sonde chat`, shared by its loop and its slash commands. */
#ifndef CLI_CHAT_INTERNAL_H
#define CLI_CHAT_INTERNAL_H

#include "editor_internal.h"
#include "talk_internal.h"

struct chat {
    sonde_model *model;
    sonde_session *session;
    struct conversation conversation;
    struct sampling_flags sampling; /* seed: of the next answer; grows by one with each */
    uint64_t tokens;                /* most of an answer; 0: no limit */
    struct editor *editor;
    struct output out;
    struct sonde_generated last;
    bool terminal, over;
};

/* Answers the conversation, whose last message is the user's. On failure says why and takes that message
 * back. Returns a status. */
int chat_answer(struct chat *chat);

/* Replaces the conversation by a saved one. Returns a status. */
int chat_load(struct chat *chat, const char *path);

/* Runs "/name argument". Returns a status: STATUS_USAGE for what it does not know. */
int chat_command(struct chat *chat, char *line);

#endif
