/*
 * train.c - `sonde train`: a model from a config.
 *
 * Standard error says what happens, and on a terminal how far it is, on one line that is written over. Ctrl-C saves the
 * run and ends it; --resume goes on.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "train/train.h"

struct train_flags {
    bool resume;
};

struct showing {
    bool terminal, shown;
    double last;
    struct train_progress progress; /* the last that was told */
};

/* "2 h 05 min", "3 min 20 s", "41 s" */
static void write_time(char *to, size_t room, double seconds) {
    unsigned long s = seconds < 1e9 ? (unsigned long)seconds : 999999999;
    if (s >= 3600)
        snprintf(to, room, "%lu h %02lu min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(to, room, "%lu min %02lu s", s / 60, s % 60);
    else
        snprintf(to, room, "%lu s", s);
}

static void write_line(const struct train_progress *p, char *to, size_t room) {
    char left[32], share[32] = "", validation[48] = "";
    write_time(left, sizeof(left), p->seconds_left);
    if (p->peak_share > 0)
        snprintf(share, sizeof(share), ", %.0f %% of peak", 100 * p->peak_share);
    if (p->validation > 0)
        snprintf(validation, sizeof(validation), " (validation %.3f)", p->validation);
    snprintf(to, room, "step %llu of %llu: loss %.3f%s, %.0f tokens/s%s, %s left", (unsigned long long)p->step,
             (unsigned long long)p->steps, p->loss, validation, p->tokens_per_second, share, left);
}

/* Not wider than the terminal, so that it can be written over. */
static void show(struct showing *s, const struct train_progress *p) {
    char line[256];
    unsigned columns = terminal_columns(STDERR_FILENO);
    write_line(p, line, sizeof(line));
    if (columns && strlen(line) >= columns)
        line[columns - 1] = 0;
    fprintf(stderr, "\r\x1b[K%s", line);
    s->shown = true;
}

static void on_progress(void *context, const struct train_progress *p) {
    struct showing *s = context;
    double now = clock_seconds();
    s->progress = *p;
    if (s->terminal && now - s->last >= 0.2) {
        show(s, p);
        s->last = now;
    }
}

static void wipe(struct showing *s) {
    if (s->shown)
        fputs("\r\x1b[K", stderr);
    s->shown = false;
}

static void on_event(void *context, const char *line) {
    wipe(context);
    notice("%s", line);
}

static bool on_interrupted(void *context) {
    (void)context;
    return interrupted();
}

static void say_memory(const struct train_run *run) {
    struct train_memory m;
    train_memory(run, &m);
    notice("takes %.2f GB of memory: parameters %.2f, gradients %.2f, optimiser %.2f, activations %.2f",
           (double)m.total / 1e9, (double)m.parameters / 1e9, (double)m.gradients / 1e9, (double)m.moments / 1e9,
           (double)m.activations / 1e9);
}

static int train(int argc, char **argv) {
    struct train_flags flags = {0};
    struct showing s = {.terminal = terminal_styles(STDERR_FILENO)};
    const struct train_callbacks callbacks = {
        .context = &s, .progress = on_progress, .event = on_event, .interrupted = on_interrupted};
    const char *operands[1];
    struct train_run *run;
    struct sonde_error e;
    int status = flags_parse(&command_train, argc, argv, &flags, operands);
    if (status >= 0)
        return status;
    if (train_open(operands[0], flags.resume, &callbacks, &run, &e))
        return report(&e);
    say_memory(run);
    interrupt_arm_all();
    int rc = train_run(run, &e);
    interrupt_disarm();
    wipe(&s);
    train_close(run);
    if (rc == SONDE_ERROR_CANCELLED && interrupted()) {
        notice("saved; --resume goes on");
        return interrupt_status();
    }
    return rc ? report(&e) : STATUS_DONE;
}

static const struct flag flags[] = {
    {.name = "resume",
     .kind = FLAG_SWITCH,
     .at = offsetof(struct train_flags, resume),
     .help = "go on from the run's last state"},
};

const struct command command_train = {
    .name = "train",
    .operands = "CONFIG.json",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "train a model, from nothing or from a checkpoint",
    .about = "Trains as the config says and leaves a model directory that `sonde run` takes, with the run's\n"
             "state, log and curves in its train/. docs/training.md explains the config. Ctrl-C saves the\n"
             "run first.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
    .run = train,
};
