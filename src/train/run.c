/*
 * run.c - the loop of a run: batches, gradients, a step of the optimiser, and what is told and kept of it.
 *
 * What a step does depends on the state before it alone, and a state holds all of that. So a run that was killed goes
 * on from its last state through the same steps to the same bits. What depends on the clock is told, never used.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/run_internal.h"
#include "train/train.h"

enum { LOADS_EVERY = 10, MOST_ROLLBACKS = 10, STEADY = 50 };

#define SMOOTH 0.1

static void say(struct train_run *r, const char *format, ...) PRINTF_LIKE(2, 3);

static void say(struct train_run *r, const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (r->callbacks.event)
        r->callbacks.event(r->callbacks.context, line);
}

static int note(struct train_run *r, const char *text, struct sonde_error *e) {
    say(r, "step %llu: %s", (unsigned long long)r->numbers.step, text);
    return history_add(&r->history, json_pack("{s:I, s:s}", "step", (json_int_t)r->numbers.step, "event", text), e);
}

/* ------------------------------------------------------------------------------------------- batches */

static void keep_batch(struct run_batches *k, const struct batch *b, size_t room) {
    size_t at = k->count * room;
    struct batch *to = &k->list[k->count++];
    *to = *b;
    memcpy(k->ids + at, b->ids, b->tokens * sizeof(*b->ids));
    memcpy(k->targets + at, b->targets, b->tokens * sizeof(*b->targets));
    memcpy(k->segments + at, b->segments, b->segment_count * sizeof(*b->segments));
    to->ids = k->ids + at;
    to->targets = k->targets + at;
    to->segments = k->segments + at;
    for (uint32_t i = 0; i < b->tokens; i++)
        k->targets_count += b->targets[i] >= 0;
}

static void next_batches(struct train_run *r) {
    struct run_batches *k = &r->batches;
    struct batch b;
    k->count = 0;
    k->targets_count = 0;
    while (k->count < r->config.accumulate) {
        data_next(r->data, &b);
        if (!b.tokens)
            return;
        keep_batch(k, &b, r->config.tokens);
    }
}

/* -------------------------------------------------------------------------------------------- phases */

static bool rounds(const struct train_run *r, uint64_t step) {
    return step >= r->config.round_from;
}

static void set_phase(struct train_run *r) {
    const struct train_config *c = &r->config;
    uint64_t step = r->numbers.step;
    bool decays = step + c->rate.decay >= c->rate.end;
    r->net.options = (struct net_options){.dense = step < c->dense,
                                          .balance_weight = (float)c->balance_weight,
                                          .index_weight = (float)c->index_weight,
                                          .mtp_weight = (float)(decays ? c->mtp_decay_weight : c->mtp_weight)};
}

/* ---------------------------------------------------------------------------------------- validation */

struct validated {
    double loss; /* nats a token */
    uint64_t targets;
};

static struct validated run_validation(struct train_run *r, struct sonde_error *e, int *rc) {
    struct net_options kept = r->net.options;
    struct validated v = {0};
    uint64_t seen = 0, most = r->config.validation_tokens ? r->config.validation_tokens : UINT64_MAX;
    struct batch b;
    r->net.options = (struct net_options){0};
    *rc = data_seek(r->validation, &r->validation_begin, e);
    for (data_next(r->validation, &b); !*rc && b.tokens && seen < most; data_next(r->validation, &b)) {
        struct step_losses l = step_run_f32(r->team, r->step, &r->net, &b, 1, 1, false);
        v.loss += l.loss;
        v.targets += l.targets;
        seen += b.tokens;
    }
    r->net.options = kept;
    v.loss /= (double)max_u64(v.targets, 1);
    return v;
}

/* name: of the loss in the log. */
static int validate_as(struct train_run *r, const char *name, struct sonde_error *e) {
    int rc;
    struct validated v = run_validation(r, e, &rc);
    if (rc)
        return rc;
    if (!isfinite(v.loss))
        return err_set(e, SONDE_ERROR_NUMERIC, "step %llu: the %s loss is not finite",
                       (unsigned long long)r->numbers.step, name);
    json_t *line = json_pack("{s:I, s:f}", "step", (json_int_t)r->numbers.step, name, v.loss);
    r->last_validation = v.loss;
    if (r->targets_per_byte > 0) {
        json_object_set_new(line, "per_byte", json_real(v.loss * r->targets_per_byte));
        say(r, "step %llu: %s %.4f nats a token, %.4f a byte", (unsigned long long)r->numbers.step, name, v.loss,
            v.loss * r->targets_per_byte);
    } else {
        say(r, "step %llu: %s %.4f nats a token", (unsigned long long)r->numbers.step, name, v.loss);
    }
    return history_add(&r->history, line, e);
}

static int validate(struct train_run *r, struct sonde_error *e) {
    return r->validation ? validate_as(r, "validation", e) : SONDE_OK;
}

/* ------------------------------------------------------------------------------------------- keeping */

static int save_state(struct train_run *r, struct sonde_error *e) {
    data_tell(r->data, &r->numbers.position);
    return state_save(r->state.data, &r->numbers, &r->net, &r->learner, e);
}

static int draw(struct train_run *r, struct sonde_error *e) {
    struct buf path = {0};
    file_join(&path, r->out.data, "train/loss.svg");
    const struct plot_run run = {r->history.path, "training"};
    int rc = path.failed ? err_memory(e) : plot_losses(&run, 1, path.data, e);
    file_join(&path, r->out.data, "train/experts.svg");
    if (!rc)
        rc = path.failed ? err_memory(e) : plot_experts(r->history.path, path.data, e);
    buf_release(&path);
    return rc;
}

/* The state first: a model is made of it again, not the other way round. */
static int save(struct train_run *r, struct sonde_error *e) {
    int rc = save_state(r, e);
    if (!rc)
        rc = export_model(&r->net, r->model, r->out.data, e);
    return rc ? rc : draw(r, e);
}

/* -------------------------------------------------------------------------------------------- spikes */

/* Back to the last state, but on in the data: what made it spike is not seen again. */
static int roll_back(struct train_run *r, const char *why, struct sonde_error *e) {
    uint64_t step = r->numbers.step, rolled = r->numbers.rolled + 1;
    struct data_position on;
    char text[256];
    if (r->config.on_spike == SPIKE_STOP || rolled > MOST_ROLLBACKS)
        return err_set(e, SONDE_ERROR_NUMERIC, "step %llu: %s; the last state is that of %s", (unsigned long long)step,
                       why, r->state.data);
    data_tell(r->data, &on);
    int rc = state_load(r->state.data, &r->numbers, &r->net, &r->learner, e);
    if (rc)
        return rc;
    snprintf(text, sizeof(text), "%s in step %llu: back to here, without the data in between (roll-back %llu)", why,
             (unsigned long long)step, (unsigned long long)rolled);
    r->numbers.rolled = rolled;
    r->numbers.position = on;
    rc = state_save(r->state.data, &r->numbers, &r->net, &r->learner, e);
    history_close(&r->history);
    if (!rc)
        rc = history_open(r->log.data, r->numbers.step, &r->history, e);
    if (!rc && rounds(r, r->numbers.step))
        rc = rounding_update(&r->rounding, r->team, &r->net, e);
    else if (!rc)
        rounding_release(&r->rounding, &r->net);
    return rc ? rc : note(r, text, e);
}

/* Says what is wrong with a step; false: nothing is. */
static bool in_trouble(const struct train_run *r, double loss, double norm, char *why, size_t room) {
    double mean = r->numbers.mean_loss;
    if (!isfinite(loss) || !isfinite(norm)) {
        snprintf(why, room, "a value that is not finite");
        return true;
    }
    if (r->numbers.step < STEADY || !(mean > 0) || loss <= r->config.spike_factor * mean)
        return false;
    snprintf(why, room, "a spike of the loss, %.4f where the mean was %.4f", loss, mean);
    return true;
}

/* ------------------------------------------------------------------------------------------ one step */

static void add(struct step_losses *sum, const struct step_losses *l) {
    sum->loss += l->loss;
    sum->mtp += l->mtp;
    sum->balance += l->balance;
    sum->index += l->index;
    sum->targets += l->targets;
    sum->mtp_targets += l->mtp_targets;
    sum->index_tokens += l->index_tokens;
}

static struct step_losses gradients(struct train_run *r) {
    const struct run_batches *k = &r->batches;
    struct step_losses sum = {0};
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < k->count; i++)
        tokens += k->list[i].tokens;
    memset(r->loads, 0, (size_t)net_blocks_f32(&r->net) * r->shape.experts * sizeof(*r->loads));
    params_clear_f32(&r->net.params);
    step_begin_f32(r->step);
    for (uint32_t i = 0; i < k->count; i++) {
        struct step_losses l =
            step_run_f32(r->team, r->step, &r->net, &k->list[i], 1 / (double)max_u64(k->targets_count, 1),
                         (double)k->list[i].tokens / (double)tokens, true);
        step_loads_f32(r->step, &r->net, r->loads);
        add(&sum, &l);
    }
    step_end_f32(r->team, r->step, &r->net);
    return sum;
}

static json_t *loads_of(const struct train_run *r) {
    json_t *all = json_array();
    for (uint32_t i = 0; i < net_blocks_f32(&r->net); i++) {
        json_t *layer = json_array();
        for (uint32_t k = 0; k < r->shape.experts; k++)
            json_array_append_new(layer, json_integer((json_int_t)r->loads[(size_t)i * r->shape.experts + k]));
        json_array_append_new(all, layer);
    }
    return all;
}

static int log_step(struct train_run *r, const struct step_losses *l, double norm, double seconds,
                    struct sonde_error *e) {
    json_t *line = json_pack(
        "{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f}", "step", (json_int_t)r->numbers.step, "loss",
        l->loss / (double)max_u64(l->targets, 1), "mtp", l->mtp / (double)max_u64(l->mtp_targets, 1), "balance",
        l->balance, "index", l->index / (double)max_u64(l->index_tokens, 1), "norm", norm, "rate",
        schedule_rate(&r->config.rate, r->numbers.step), "tokens", (json_int_t)l->targets, "seconds", seconds);
    if (line && r->numbers.step % LOADS_EVERY == 0)
        json_object_set_new(line, "loads", loads_of(r));
    return line ? history_add(&r->history, line, e) : err_memory(e);
}

static void balance(struct train_run *r) {
    for (uint32_t i = 0; i < net_blocks_f32(&r->net); i++) {
        struct param_f32 *bias = net_bias_f32(&r->net, i);
        if (bias)
            route_adjust_bias_f32(r->shape.experts, r->loads + (size_t)i * r->shape.experts,
                                  (float)r->config.balance_speed, bias->value);
    }
}

/* A batch may be short, and a step slow: what is told of speed is a running mean. */
static void tell(struct train_run *r, double loss, double seconds) {
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < r->batches.count; i++)
        tokens += r->batches.list[i].tokens;
    bool first = !(r->mean_seconds > 0);
    r->mean_seconds += (first ? 1 : SMOOTH) * (seconds - r->mean_seconds);
    r->mean_tokens += (first ? 1 : SMOOTH) * ((double)tokens - r->mean_tokens);
    double speed = r->mean_tokens / r->mean_seconds;
    struct train_progress p = {.step = r->numbers.step,
                               .steps = r->config.steps,
                               .loss = loss,
                               .tokens_per_second = speed,
                               .seconds_left = (double)(r->config.steps - r->numbers.step) * r->mean_seconds,
                               .peak_share = r->peak > 0 ? speed * r->flops / r->peak : 0,
                               .validation = r->last_validation};
    if (r->callbacks.progress)
        r->callbacks.progress(r->callbacks.context, &p);
}

/* At the step where rounding begins: what the weights are worth before and after. */
static int begin_rounding(struct train_run *r, struct sonde_error *e) {
    int rc = r->validation ? validate_as(r, "validation_unrounded", e) : SONDE_OK;
    if (!rc)
        rc = rounding_update(&r->rounding, r->team, &r->net, e);
    if (!rc && r->validation)
        rc = validate_as(r, "validation_rounded", e);
    return rc ? rc : note(r, "weights are used as they will be stored from here on", e);
}

static int one_step(struct train_run *r, struct sonde_error *e) {
    double started = clock_seconds();
    int rc = SONDE_OK;
    set_phase(r);
    if (r->numbers.step == r->config.round_from && (rc = begin_rounding(r, e)))
        return rc;
    next_batches(r);
    if (!r->batches.count)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: the data holds no tokens", r->config.data[0].path);
    struct step_losses l = gradients(r);
    if (team_failed(r->team))
        return err_memory(e);
    double loss = l.loss / (double)max_u64(l.targets, 1), norm = learner_norm(r->team, &r->learner, r->step);
    char why[128];
    if (in_trouble(r, loss, norm, why, sizeof(why)))
        return roll_back(r, why, e);
    learner_step(r->team, &r->learner, r->step, r->numbers.step, clip_factor(norm, r->config.clip));
    balance(r);
    double seconds = clock_seconds() - started;
    rc = log_step(r, &l, norm, seconds, e);
    r->numbers.mean_loss = r->numbers.mean_loss > 0 ? 0.98 * r->numbers.mean_loss + 0.02 * loss : loss;
    r->numbers.tokens += l.targets;
    r->numbers.step++;
    if (!rc && rounds(r, r->numbers.step) && r->numbers.step != r->config.round_from)
        rc = rounding_update(&r->rounding, r->team, &r->net, e);
    tell(r, loss, seconds);
    return rc;
}

static bool due(uint64_t step, uint64_t every) {
    return every && step % every == 0;
}

int train_run(struct train_run *r, struct sonde_error *e) {
    const struct train_config *c = &r->config;
    int rc = SONDE_OK;
    if (r->numbers.step > c->round_from)
        rc = rounding_update(&r->rounding, r->team, &r->net, e);
    if (!rc && r->numbers.step == 0)
        rc = save_state(r, e); /* there is always one to go back to */
    while (!rc && r->numbers.step < c->steps) {
        if (r->callbacks.interrupted && r->callbacks.interrupted(r->callbacks.context)) {
            rc = save(r, e);
            return rc ? rc : err_set(e, SONDE_ERROR_CANCELLED, "interrupted");
        }
        rc = one_step(r, e);
        bool last = r->numbers.step == c->steps;
        if (!rc && (last || due(r->numbers.step, c->validate_every)))
            rc = validate(r, e);
        if (!rc && (last || due(r->numbers.step, c->save_every)))
            rc = save(r, e);
    }
    return rc;
}
