/*
 * learn.c - a step of the optimiser over all parameters: each by its kind.
 *
 * Gradients of all parameters lie in one piece of memory, and so do moments, in the order of parameters.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run_internal.h"

static bool by_muon(const struct learner *l, const struct param_f32 *p) {
    return p->kind == PARAM_MUON && l->config->optimizer == OPTIMIZER_MUON;
}

/* How many arrays of a parameter's size the optimiser keeps. */
static size_t arrays_of(const struct learner *l, const struct param_f32 *p) {
    return p->kind == PARAM_FIXED ? 0 : by_muon(l, p) ? 1 : 2;
}

static size_t numbers_of(const struct param_f32 *p) {
    return ceil_div(param_count_f32(p), 16) * 16;
}

uint64_t learner_bytes(const struct train_config *config, const struct net_f32 *net, uint32_t workers) {
    const struct learner l = {.config = config};
    uint64_t bytes = 0, scratch = 0;
    for (size_t i = 0; i < net->params.count; i++) {
        const struct param_f32 *p = &net->params.list[i];
        bytes += arrays_of(&l, p) * numbers_of(p) * sizeof(float);
        bytes += p->kind == PARAM_TABLE ? p->rows * sizeof(uint32_t) : 0;
        if (by_muon(&l, p))
            scratch = max_u64(scratch, workers * muon_scratch(p->rows, p->cols) * sizeof(float));
    }
    return bytes + scratch;
}

static void place(struct learner *l, size_t i, float **at) {
    const struct param_f32 *p = &l->net->params.list[i];
    struct moments *m = &l->moments[i];
    size_t arrays = arrays_of(l, p);
    if (arrays >= 1)
        m->m = *at;
    if (arrays == 2)
        m->v = *at + numbers_of(p);
    *at += arrays * numbers_of(p);
}

int learner_init(struct learner *l, const struct train_config *config, struct net_f32 *net, uint32_t workers,
                 struct sonde_error *e) {
    size_t scratch = 0;
    *l = (struct learner){.config = config, .net = net};
    l->moments = calloc(net->params.count + 1, sizeof(*l->moments));
    if (!l->moments)
        return err_memory(e);
    for (size_t i = 0; i < net->params.count; i++) {
        const struct param_f32 *p = &net->params.list[i];
        l->numbers += arrays_of(l, p) * numbers_of(p);
        if (by_muon(l, p))
            scratch = max_u64(scratch, workers * muon_scratch(p->rows, p->cols));
        if (p->kind == PARAM_TABLE && !(l->moments[i].steps = calloc(p->rows, sizeof(uint32_t))))
            return err_memory(e);
    }
    l->memory = memory_large(l->numbers * sizeof(float));
    l->scratch = memory_large(scratch * sizeof(float));
    if (!l->memory || !l->scratch)
        return err_memory(e);
    memset(l->memory, 0, l->numbers * sizeof(float));
    float *at = l->memory;
    for (size_t i = 0; i < net->params.count; i++)
        place(l, i, &at);
    return SONDE_OK;
}

void learner_release(struct learner *l) {
    for (size_t i = 0; l->moments && i < l->net->params.count; i++)
        free(l->moments[i].steps);
    free(l->moments);
    free(l->memory);
    free(l->scratch);
    *l = (struct learner){0};
}

double learner_norm(struct team *team, const struct learner *l, const struct step_f32 *s) {
    double sum = 0;
    for (size_t i = 0; i < l->net->params.count; i++) {
        const struct param_f32 *p = &l->net->params.list[i];
        if (p->gradient)
            sum += sum_squares_f32(team, param_count_f32(p), p->gradient);
    }
    size_t tables;
    const struct table_gradient_f32 *t = step_tables_f32(s, &tables);
    for (size_t i = 0; i < tables; i++)
        sum += sum_squares_f32(team, (size_t)t[i].count * t[i].param->cols, t[i].gradient);
    return sqrt(sum);
}

static void step_dense(struct team *team, struct learner *l, uint64_t step, double factor, size_t i) {
    const struct train_config *c = l->config;
    struct param_f32 *p = &l->net->params.list[i];
    struct moments *m = &l->moments[i];
    double rate = schedule_rate(&c->rate, step);
    struct adam_options adam = c->adam;
    if (p->kind == PARAM_STILL)
        adam.decay = 0;
    if (factor != 1)
        scale_f32(team, param_count_f32(p), factor, p->gradient);
    if (by_muon(l, p))
        muon_step_f32(team, &c->muon, rate, p->stack, p->rows, p->cols, p->gradient, m->m, p->value, l->scratch);
    else
        adam_step_f32(team, &adam, rate, step + 1, param_count_f32(p), p->gradient, m->m, m->v, p->value);
}

void learner_step(struct team *team, struct learner *l, const struct step_f32 *s, uint64_t step, double factor) {
    for (size_t i = 0; i < l->net->params.count; i++)
        if (l->net->params.list[i].gradient)
            step_dense(team, l, step, factor, i);
    struct adam_options adam = l->config->adam;
    double rate = schedule_rate(&l->config->rate, step) * l->config->table_rate;
    size_t tables;
    const struct table_gradient_f32 *t = step_tables_f32(s, &tables);
    adam.decay = 0;
    for (size_t i = 0; i < tables; i++) {
        struct moments *m = &l->moments[t[i].param - l->net->params.list];
        if (factor != 1)
            scale_f32(team, (size_t)t[i].count * t[i].param->cols, factor, t[i].gradient);
        adam_rows_step_f32(team, &adam, rate, t[i].param->cols, t[i].count, t[i].rows, t[i].gradient, m->steps, m->m,
                           m->v, t[i].param->value);
    }
}
