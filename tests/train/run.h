/*
 * run.h - a pass forward and backward as one function of arrays of doubles, which is compiled in both types.
 *
 * A run has inputs (weights too), each with a place for its gradient, and outputs, each with the gradient that the
 * loss has of it: the loss is the sum of all outputs times these. check_run() asks of such a function everything that
 * is asked of a pass.
 */
#ifndef TESTS_TRAIN_RUN_H
#define TESTS_TRAIN_RUN_H

#include "numbers.h"
#include "train/train_internal.h"

enum { RUN_INPUTS = 12, RUN_OUTPUTS = 2 };

struct run_tensor {
    const char *name;
    size_t count;
    double *x;
    double *gradient; /* of an input: added to; NULL: not wanted */
};

struct run {
    struct team *team;
    const void *shape;
    struct run_tensor inputs[RUN_INPUTS], outputs[RUN_OUTPUTS];
    size_t input_count, output_count;
    bool forward_only;
    void (*pass)(struct run *run);
};

static inline void run_input(struct run *run, const char *name, double *x, size_t count) {
    assert_true(run->input_count < RUN_INPUTS);
    run->inputs[run->input_count++] = (struct run_tensor){.name = name, .count = count, .x = x};
}

static inline void run_output(struct run *run, struct bag *b, struct rng *r, const char *name, size_t count) {
    assert_true(run->output_count < RUN_OUTPUTS);
    run->outputs[run->output_count++] = (struct run_tensor){name, count, doubles(b, count), NULL};
    if (r)
        run->outputs[run->output_count - 1].gradient = random_doubles(b, r, count, 1);
}

static inline double run_loss(void *context) {
    struct run *run = context;
    double sum = 0;
    run->forward_only = true;
    run->pass(run);
    for (size_t i = 0; i < run->output_count; i++)
        sum += dot(run->outputs[i].x, run->outputs[i].gradient, run->outputs[i].count);
    return sum;
}

/* Both ways, gradients starting from 1, with so many workers. All that comes out, inputs' gradients behind outputs,
 * in one array; `without`: the input whose gradient is not asked for. */
static inline double *run_all(struct bag *b, const struct run *model, void (*pass)(struct run *run), uint32_t workers,
                              size_t without, size_t *total) {
    struct run run = *model;
    size_t at = 0;
    *total = 0;
    for (size_t i = 0; i < run.output_count; i++)
        *total += run.outputs[i].count;
    for (size_t i = 0; i < run.input_count; i++)
        *total += run.inputs[i].count;
    double *all = ones(b, *total);
    for (size_t i = 0; i < run.output_count; at += run.outputs[i++].count)
        run.outputs[i].x = all + at;
    for (size_t i = 0; i < run.input_count; at += run.inputs[i++].count)
        run.inputs[i].gradient = i == without ? NULL : all + at;
    CHECKED(team_open(workers, &run.team, &error));
    run.forward_only = false;
    pass(&run);
    assert_false(team_failed(run.team));
    team_close(run.team);
    return all;
}

/* The gradients in double against differences. */
static inline void check_run_gradients(struct run *run, struct bag *b) {
    struct checked list[RUN_INPUTS];
    size_t total, at = 0;
    double *all = run_all(b, run, run->pass, 2, RUN_INPUTS, &total);
    for (size_t i = 0; i < run->output_count; i++)
        at += run->outputs[i].count;
    take_ones(all + at, total - at);
    for (size_t i = 0; i < run->input_count; at += run->inputs[i++].count)
        list[i] = (struct checked){run->inputs[i].name, run->inputs[i].x, all + at, run->inputs[i].count};
    CHECKED(team_open(2, &run->team, &error));
    check_gradients(list, run->input_count, run_loss, run);
    team_close(run->team);
}

/* Float as near to double as `tolerance`, array by array, with the same bits from 1, 2 and 3 workers, whatever
 * gradient is left out. */
static inline void check_run_float(const struct run *run, struct bag *b, void (*pass)(struct run *run),
                                   double tolerance) {
    size_t total, at = 0;
    double *wide = run_all(b, run, run->pass, 1, RUN_INPUTS, &total);
    double *narrow = run_all(b, run, pass, 1, RUN_INPUTS, &total);
    for (uint32_t workers = 2; workers <= 3; workers++)
        assert_memory_equal(narrow, run_all(b, run, pass, workers, RUN_INPUTS, &total), total * sizeof(double));
    for (size_t i = 0; i < run->output_count; at += run->outputs[i++].count)
        check_near(run->outputs[i].name, narrow + at, wide + at, run->outputs[i].count, tolerance);
    for (size_t i = 0; i < run->input_count; at += run->inputs[i++].count) {
        double *less = run_all(b, run, pass, 2, i, &total);
        check_near(run->inputs[i].name, narrow + at, wide + at, run->inputs[i].count, tolerance);
        memcpy(less + at, narrow + at, run->inputs[i].count * sizeof(double));
        assert_memory_equal(narrow, less, total * sizeof(double));
    }
}

#endif
