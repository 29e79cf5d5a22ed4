/*
 * output.c - standard output and standard error: written at once, failing loudly, quiet about closed pipes.
 *
 * stdio is not used for answers: text must appear as it is generated, and a full disk must be noticed at
 * the byte it swallowed. SIGPIPE keeps its default, so a reader that closes the pipe ends the program as it
 * ends any filter; where the caller had it ignored, EPIPE ends it as quietly.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

void output_write(struct output *o, const char *bytes, size_t count) {
    if (count && !o->why)
        o->last = bytes[count - 1];
    while (count && !o->why) {
        ssize_t n = write(o->fd, bytes, count);
        if (n < 0 && errno != EINTR)
            o->why = errno;
        if (n > 0) {
            bytes += n;
            count -= (size_t)n;
        }
    }
}

void output_buf(struct output *o, struct buf *b) {
    if (b->failed)
        o->why = ENOMEM;
    output_write(o, b->data, b->len);
    buf_release(b);
}

int output_status(const struct output *o) {
    if (!o->why)
        return STATUS_DONE;
    if (o->why != EPIPE)
        notice("standard output: %s", strerror(o->why));
    return STATUS_WORLD;
}

int report(const struct sonde_error *e) {
    notice("%s", e->message);
    return STATUS_WORLD;
}

void notice(const char *format, ...) {
    char text[1024];
    struct sonde_error line;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    /* err_set() shows control characters as '?', so the line stays one line */
    err_set(&line, SONDE_OK, "%s", text);
    fprintf(stderr, "sonde: %s\n", line.message);
}

bool terminal_styles(int fd) {
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fd) && !(no_color && *no_color) && term && *term && strcmp(term, "dumb") != 0;
}

uint32_t terminal_columns(int fd) {
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) < 0 ? 0 : size.ws_col;
}

/* ------------------------------------------------------------------------------------- progress */

#define BLINK_SECONDS 0.4
#define STEP_SECONDS  0.1
#define PROGRESS_WIDE 48 /* columns that the line may need */

void progress_init(struct progress *p, const char *what) {
    *p = (struct progress){.what = what, .start = clock_seconds()};
}

void progress_step(struct progress *p, uint64_t done, uint64_t total) {
    double now = clock_seconds();
    if (now - p->start < BLINK_SECONDS || now - p->last < STEP_SECONDS)
        return;
    p->last = now;
    uint32_t columns = terminal_columns(STDERR_FILENO);
    if (!isatty(STDERR_FILENO) || (columns && columns < PROGRESS_WIDE))
        return;
    fprintf(stderr, "\r%.16s %llu of %llu ", p->what, (unsigned long long)done, (unsigned long long)total);
    p->shown = true;
}

void progress_end(struct progress *p) {
    if (p->shown)
        fprintf(stderr, "\r%*s\r", PROGRESS_WIDE - 1, "");
    p->shown = false;
}

/* --------------------------------------------------------------------------------------- Ctrl-C */

/* The one variable of the program: a signal handler has no other way to speak. The signal, 0: none. */
static volatile sig_atomic_t interrupt_flag;

static void on_interrupt(int signal_number) {
    interrupt_flag = signal_number;
}

static void arm(int signal_number) {
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

/* Installed even where the caller had SIGINT ignored: shells ignore it for jobs in the background, and
 * whoever sends it to one by name means it. */
void interrupt_arm(void) {
    interrupt_flag = 0;
    arm(SIGINT);
}

void interrupt_arm_all(void) {
    interrupt_arm();
    arm(SIGTERM);
}

void interrupt_disarm(void) {
    signal(SIGINT, SIG_DFL);
    struct sigaction action;
    if (sigaction(SIGTERM, NULL, &action) == 0 && action.sa_handler == on_interrupt)
        signal(SIGTERM, SIG_DFL);
}

bool interrupted(void) {
    return interrupt_flag != 0;
}

int interrupt_status(void) {
    return interrupt_flag == SIGTERM ? STATUS_TERMINATED : interrupt_flag ? STATUS_INTERRUPTED : STATUS_DONE;
}
