/*
 * editor_internal.h - where chat reads its lines: a line editor on a terminal, plain lines elsewhere.
 */
#ifndef CLI_EDITOR_INTERNAL_H
#define CLI_EDITOR_INTERNAL_H

#include "cli/cli.h"

struct editor;

enum editor_result { EDITOR_LINE, EDITOR_END, EDITOR_INTERRUPT, EDITOR_FAILED };

/* terminal: standard input and output are one. history: file that lines are kept in, or NULL. NULL when
 * memory is exhausted. */
struct editor *editor_open(bool terminal, const char *history);
void editor_close(struct editor *e); /* saves the history */

/* A line without its newline into `line`, which is cleared first. The prompt is shown on terminals only.
 * EDITOR_FAILED: errno says why. */
enum editor_result editor_read(struct editor *e, const char *prompt, struct buf *line);

/* $XDG_STATE_HOME/sonde/history or ~/.local/state/sonde/history into b, its directory made; false if there is
 * no place for it. */
bool history_path(struct buf *b);

#endif
