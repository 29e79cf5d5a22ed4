/*
 * train_plot.c - loss curves of several training runs in one picture.
 *
 *     train_plot OUT.svg NAME=OUT/train/log.jsonl ...
 */
#include <stdio.h>
#include <string.h>

#include "train/run_internal.h"

enum { MOST = 8 };

int main(int argc, char **argv) {
    struct plot_run runs[MOST];
    char names[MOST][64];
    struct sonde_error e;
    if (argc < 3 || argc > 2 + MOST) {
        fprintf(stderr, "usage: train_plot OUT.svg NAME=LOG ... (at most %d)\n", MOST);
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        const char *log = strchr(argv[i], '=');
        if (!log) {
            fprintf(stderr, "train_plot: %s: expected NAME=LOG\n", argv[i]);
            return 2;
        }
        snprintf(names[i - 2], sizeof(names[0]), "%.*s", (int)(log - argv[i]), argv[i]);
        runs[i - 2] = (struct plot_run){log + 1, names[i - 2]};
    }
    if (plot_losses(runs, (size_t)argc - 2, argv[1], &e)) {
        fprintf(stderr, "train_plot: %s\n", e.message);
        return 1;
    }
    return 0;
}
