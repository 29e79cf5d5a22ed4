/*
 * editor.c - libedit with history, UTF-8 and Ctrl-C that clears the line.
 *
 * libedit retries its read once after a signal, so that Ctrl-C would need two presses; characters are
 * therefore read here. Ctrl-C gives up the line, a changed window is redrawn.
 */
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "editor_internal.h"

#define HISTORY_LINES 1000

struct editor {
    EditLine *edit; /* NULL: plain lines */
    History *history;
    char *history_file;
    const char *prompt;
    char *plain;
    size_t plain_size;
};

/* ------------------------------------------------------------------------------------- history */

bool history_path(struct buf *b) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && *state == '/')
        buf_printf(b, "%s/sonde/history", state);
    else if (home && *home == '/')
        buf_printf(b, "%s/.local/state/sonde/history", home);
    if (b->failed || !b->len)
        return false;
    char *name = strrchr(b->data, '/');
    *name = 0;
    int rc = file_make_directory(b->data, 0700, NULL);
    *name = '/';
    return rc == SONDE_OK;
}

static void history_start(struct editor *e, const char *file) {
    HistEvent event;
    e->history = history_init();
    if (!e->history)
        return;
    history(e->history, &event, H_SETSIZE, HISTORY_LINES);
    history(e->history, &event, H_SETUNIQUE, 1);
    el_set(e->edit, EL_HIST, history, e->history);
    if (!file)
        return;
    e->history_file = strdup(file);
    history(e->history, &event, H_LOAD, file);
}

/* -------------------------------------------------------------------------------------- terminal */

static void on_resize(int signal_number) {
    (void)signal_number;
}

static char *show_prompt(EditLine *edit) {
    struct editor *e = NULL;
    el_get(edit, EL_CLIENTDATA, &e);
    return (char *)(uintptr_t)e->prompt;
}

/* A character from the terminal: 1, 0 at the end, -1 on Ctrl-C. Bytes that are not UTF-8 are passed over. */
static int read_character(EditLine *edit, wchar_t *out) {
    mbstate_t state = {0};
    for (;;) {
        char byte;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR && !interrupted()) {
            el_resize(edit);
            continue;
        }
        if (n <= 0)
            return (int)n;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-1)
            memset(&state, 0, sizeof(state));
        else if (used != (size_t)-2)
            return 1;
    }
}

static struct termios found; /* the terminal's modes before libedit changed them */

static void on_kill(int signal) {
    tcsetattr(STDIN_FILENO, TCSANOW, &found);
    raise(signal); /* SA_RESETHAND: now it kills */
}

/* Killed at the prompt, the terminal would keep libedit's modes: nothing typed would show. */
static void restore_when_killed(void) {
    static const int signals[] = {SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction kill = {.sa_handler = on_kill, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&kill.sa_mask);
    for (size_t i = 0; tcgetattr(STDIN_FILENO, &found) == 0 && i < COUNT_OF(signals); i++)
        sigaction(signals[i], &kill, NULL);
}

static bool start_edit(struct editor *e, const char *history) {
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    e->edit = el_init("sonde", stdin, stdout, stderr);
    if (!e->edit)
        return false;
    restore_when_killed();
    struct sigaction resized = {.sa_handler = on_resize};
    sigemptyset(&resized.sa_mask);
    sigaction(SIGWINCH, &resized, NULL);
    el_set(e->edit, EL_CLIENTDATA, e);
    el_set(e->edit, EL_PROMPT, show_prompt);
    el_set(e->edit, EL_EDITOR, "emacs");
    el_set(e->edit, EL_GETCFN, read_character);
    el_set(e->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    history_start(e, history);
    return true;
}

struct editor *editor_open(bool terminal, const char *history) {
    struct editor *e = calloc(1, sizeof(*e));
    if (e && terminal && !start_edit(e, history)) {
        free(e);
        e = NULL;
    }
    return e;
}

void editor_close(struct editor *e) {
    HistEvent event;
    if (!e)
        return;
    if (e->history && e->history_file)
        history(e->history, &event, H_SAVE, e->history_file);
    if (e->edit)
        el_end(e->edit);
    if (e->history)
        history_end(e->history);
    free(e->history_file);
    free(e->plain);
    free(e);
}

/* --------------------------------------------------------------------------------------- reading */

static enum editor_result take_line(struct buf *line, const char *text, size_t n) {
    if (n && text[n - 1] == '\n')
        n--;
    buf_append(line, text, n);
    return EDITOR_LINE;
}

enum editor_result editor_read(struct editor *e, const char *prompt, struct buf *line) {
    HistEvent event;
    int count = 0;
    buf_clear(line);
    if (!e->edit) {
        ssize_t n = getline(&e->plain, &e->plain_size, stdin);
        if (n < 0)
            return feof(stdin) ? EDITOR_END : EDITOR_FAILED;
        return take_line(line, e->plain, (size_t)n);
    }
    e->prompt = prompt;
    interrupt_arm();
    const char *text = el_gets(e->edit, &count);
    interrupt_disarm();
    if (!text || count <= 0) {
        fputs("\n", stdout);
        fflush(stdout);
        return interrupted() ? EDITOR_INTERRUPT : EDITOR_END;
    }
    if (e->history && count > 1)
        history(e->history, &event, H_ENTER, text);
    return take_line(line, text, (size_t)count);
}
