/*
 * begin.c - everything a run works with, from its config: directories, tokenizer, shape, network, data, state.
 *
 * A network is laid out first, which costs nothing, so that the memory of the whole run is known before any of it is
 * taken.
 */
#include <stdlib.h>
#include <string.h>

#include "train/bpe_internal.h"
#include "train/run_internal.h"
#include "train/train.h"

enum { CONFIG_MOST = 1 << 24, TOKENIZER_MOST = 1 << 28 };

/* ------------------------------------------------------------------------------------------- files */

static int copy_file(const char *from, const char *to, struct sonde_error *e) {
    struct buf b = {0};
    int rc = file_read(from, TOKENIZER_MOST, &b, e);
    if (!rc)
        rc = file_write(to, b.data, b.len, e);
    buf_release(&b);
    return rc;
}

/* DIRECTORY/NAME to OUT/NAME, if it is there. */
static int copy_beside(const struct train_run *r, const char *directory, const char *name, struct sonde_error *e) {
    struct buf from = {0}, to = {0};
    file_join(&from, directory, name);
    file_join(&to, r->out.data, name);
    int rc = from.failed || to.failed ? err_memory(e) : SONDE_OK;
    if (!rc && file_exists(from.data))
        rc = copy_file(from.data, to.data, e);
    buf_release(&from);
    buf_release(&to);
    return rc;
}

/* A model that is there already may be somebody's only copy. */
static int refuse_model(const struct train_run *r, struct sonde_error *e) {
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    struct buf path = {0};
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < COUNT_OF(names); i++) {
        file_join(&path, r->out.data, names[i]);
        if (path.failed)
            rc = err_memory(e);
        else if (file_exists(path.data))
            rc = err_set(e, SONDE_ERROR_ARGUMENT, "%s: there is a model already; field out: expected a new directory",
                         path.data);
    }
    buf_release(&path);
    return rc;
}

static int find_paths(struct train_run *r, bool resume, struct sonde_error *e) {
    struct buf train = {0};
    buf_string(&r->out, r->config.out);
    file_join(&train, r->config.out, "train");
    file_join(&r->state, r->config.out, "train/state.safetensors");
    file_join(&r->log, r->config.out, "train/log.jsonl");
    file_join(&r->tokenizer, r->config.out, "tokenizer.json");
    bool failed = r->out.failed || train.failed || r->state.failed || r->log.failed || r->tokenizer.failed;
    int rc = failed ? err_memory(e) : SONDE_OK;
    if (!rc && resume && !file_exists(r->state.data))
        rc = err_set(e, SONDE_ERROR_IO, "%s: there is no state to go on from", r->state.data);
    if (!rc && !resume && file_exists(r->state.data))
        rc = err_set(e, SONDE_ERROR_ARGUMENT, "%s: a run was here before; --resume goes on with it", r->out.data);
    if (!rc && !resume)
        rc = refuse_model(r, e);
    if (!rc)
        rc = file_make_directory(train.data, 0777, e);
    buf_release(&train);
    return rc;
}

/* Before anything takes time. */
static int find_sources(const struct data_source *sources, uint32_t count, struct sonde_error *e) {
    for (uint32_t i = 0; i < count; i++)
        if (!file_exists(sources[i].path))
            return err_set(e, SONDE_ERROR_IO, "%s: there is no such file", sources[i].path);
    return SONDE_OK;
}

static int write_config(const struct train_run *r, struct sonde_error *e) {
    struct buf path = {0};
    char *text = NULL;
    size_t length;
    file_join(&path, r->out.data, "train/config.json");
    int rc = path.failed ? err_memory(e) : train_config_text(&r->config, &text, &length, e);
    if (!rc)
        rc = file_write(path.data, text, length, e);
    free(text);
    buf_release(&path);
    return rc;
}

/* ------------------------------------------------------------------------------------------- model */

static int read_json(const char *directory, const char *name, json_t **value, struct sonde_error *e) {
    struct buf path = {0}, text = {0};
    file_join(&path, directory, name);
    int rc = path.failed ? err_memory(e) : file_read(path.data, CONFIG_MOST, &text, e);
    if (!rc)
        rc = json_parse(text.data ? text.data : "", text.len, path.data, value, e);
    buf_release(&path);
    buf_release(&text);
    return rc;
}

static int read_shape(struct train_run *r, const char *what, struct sonde_error *e) {
    char *text = json_dumps(r->model, 0);
    int rc = text ? shape_parse(text, strlen(text), what, &r->shape, e) : err_memory(e);
    free(text);
    if (!rc && r->shape.family != FAMILY_V4)
        rc = err_set(e, SONDE_ERROR_UNSUPPORTED, "%s: field model_type: training takes only deepseek_v4", what);
    return rc;
}

/* The tokenizer is there, or is made of the data. */
static int make_tokenizer(struct train_run *r, bool resume, struct sonde_error *e) {
    const struct train_config *c = &r->config;
    if (resume)
        return SONDE_OK;
    if (c->tokenizer)
        return copy_file(c->tokenizer, r->tokenizer.data, e);
    if (c->from)
        return copy_beside(r, c->from, "tokenizer.json", e);
    if (r->callbacks.event)
        r->callbacks.event(r->callbacks.context, "training a tokenizer");
    return train_tokenizer(c->data, c->data_count, r->shape.vocab, r->tokenizer.data, e);
}

/* What a chat program should know: our models answer without thinking first. */
static int write_generation(const struct train_run *r, struct sonde_error *e) {
    struct buf path = {0};
    if (r->config.from)
        return copy_beside(r, r->config.from, "generation_config.json", e);
    file_join(&path, r->out.data, "generation_config.json");
    json_t *o = json_pack("{s:i, s:i, s:b, s:f, s:f, s:b}", "bos_token_id", r->shape.bos, "eos_token_id", r->shape.eos,
                          "do_sample", 1, "temperature", 0.6, "top_p", 0.95, "thinking", 0);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    int rc = path.failed || !text ? err_memory(e) : file_write(path.data, text, strlen(text), e);
    free(text);
    json_decref(o);
    buf_release(&path);
    return rc;
}

/* Least rows of the tables of each order: "engram": {"vocab_size": [...]}. */
static int new_plan(struct train_run *r, struct sonde_error *e) {
    const json_t *sizes = json_object_get(json_object_get(r->model, "engram"), "vocab_size");
    int64_t least[ENGRAM_MOST_ORDERS];
    uint32_t count = r->shape.engram.orders - 1;
    for (uint32_t i = 0; i < count; i++) {
        const json_t *size = json_array_get(sizes, i);
        least[i] = json_integer_value(size);
        if (json_array_size(sizes) != count || least[i] < 2)
            return err_set(
                e, SONDE_ERROR_FORMAT,
                "field model.engram.vocab_size: expected %u numbers above 1, of n-grams of 2 tokens and more", count);
    }
    return engram_plan_make(&r->shape, least, r->tokenizer.data, r->config.seed, &r->plan, e);
}

static int find_plan(struct train_run *r, bool resume, const struct checkpoint *from, struct sonde_error *e) {
    if (!r->shape.engram.count)
        return SONDE_OK;
    if (resume)
        return state_plan(r->state.data, &r->shape, &r->plan, e);
    return from ? engram_plan_load(from, &r->plan, e) : new_plan(r, e);
}

/* ------------------------------------------------------------------------------------------- memory */

static int estimate(struct train_run *r, struct sonde_error *e) {
    struct train_memory *m = &r->memory;
    const struct params_f32 *p = &r->net.params;
    for (size_t i = 0; i < p->count; i++) {
        uint64_t bytes = param_count_f32(&p->list[i]) * sizeof(float);
        bool table = p->list[i].kind == PARAM_TABLE;
        m->parameters += r->config.round_from < r->config.steps ? 2 * bytes : bytes;
        m->gradients += table || p->list[i].kind == PARAM_FIXED ? 0 : bytes;
    }
    m->moments = learner_bytes(&r->config, &r->net, team_workers(r->team));
    m->activations =
        step_bytes_f32(&r->net, (uint32_t)r->config.tokens, (uint32_t)r->config.accumulate, r->config.recompute);
    m->total = m->parameters + m->gradients + m->moments + m->activations;
    uint64_t have = memory_total();
    if (m->total > have)
        return err_set(e, SONDE_ERROR_MEMORY,
                       "training would take %.1f GB of memory, this machine has %.1f; smaller batches or \"recompute\" "
                       "take less",
                       (double)m->total / 1e9, (double)have / 1e9);
    return SONDE_OK;
}

struct peak {
    enum kernel_level level;
    uint64_t rounds, done[256];
};

static void multiply(void *context, uint32_t worker, size_t item) {
    struct peak *p = context;
    (void)item;
    p->done[worker % COUNT_OF(p->done)] += kernel_probe_flops(p->level, p->rounds);
}

static double measure_peak(struct team *team) {
    struct peak p = {.level = kernel_level_best(), .rounds = 1000};
    double best = 0;
    for (int i = 0; i < 40; i++) {
        uint64_t sum = 0;
        double started = clock_seconds();
        memset(p.done, 0, sizeof(p.done));
        team_each(team, 64, multiply, &p);
        for (size_t k = 0; k < COUNT_OF(p.done); k++)
            sum += p.done[k];
        best = best > (double)sum / (clock_seconds() - started) ? best : (double)sum / (clock_seconds() - started);
    }
    return best;
}

/* -------------------------------------------------------------------------------------------- parts */

static int open_network(struct train_run *r, bool resume, const struct checkpoint *from, struct sonde_error *e) {
    int rc = find_plan(r, resume, from, e);
    if (!rc)
        rc = net_init_f32(&r->net, &r->shape, r->shape.engram.count ? &r->plan : NULL, e);
    if (!rc)
        rc = stored_check(&r->net, e); /* now, not when the first hours are to be saved */
    if (!rc)
        rc = estimate(r, e);
    if (!rc)
        rc = net_place_f32(&r->net, e);
    if (!rc && from)
        rc = net_load_f32(&r->net, from, e);
    else if (!rc)
        net_start_f32(&r->net, r->config.seed);
    if (!rc)
        rc = learner_init(&r->learner, &r->config, &r->net, team_workers(r->team), e);
    if (!rc)
        rc = step_new_f32(&r->net, (uint32_t)r->config.tokens, (uint32_t)r->config.accumulate, r->config.recompute,
                          &r->step, e);
    r->flops = net_operations_f32(&r->net);
    r->loads = calloc((size_t)net_blocks_f32(&r->net) * r->shape.experts + 1, sizeof(*r->loads));
    return rc || r->loads ? rc : err_memory(e);
}

static int open_model(struct train_run *r, bool resume, struct sonde_error *e) {
    const struct train_config *c = &r->config;
    struct checkpoint *from = NULL;
    int rc = SONDE_OK;
    if (c->from) {
        rc = read_json(c->from, "config.json", &r->model, e);
        if (!rc)
            rc = checkpoint_open(c->from, &from, e);
    } else {
        r->model = json_incref(c->model);
    }
    if (!rc)
        rc = read_shape(r, c->from ? c->from : "model", e);
    if (!rc)
        rc = make_tokenizer(r, resume, e);
    if (!rc && !resume)
        rc = write_generation(r, e);
    if (!rc)
        rc = open_network(r, resume, resume ? NULL : from, e);
    checkpoint_close(from);
    return rc;
}

/* Tokens that validation predicts for each byte of its texts; 0 if there are conversations among them. */
static int count_validation(struct train_run *r, struct sonde_error *e) {
    uint64_t bytes = 0, targets = 0;
    struct batch b;
    int rc = SONDE_OK;
    for (uint32_t i = 0; !rc && i < r->config.validation_count; i++) {
        struct documents d;
        struct document document;
        rc = documents_open(&r->config.validation[i], &d, e);
        if (rc)
            return rc;
        while ((rc = documents_next(&d, &document, e)) > 0) {
            bytes += document.bytes;
            if (document.chat) {
                documents_close(&d);
                return SONDE_OK;
            }
        }
        documents_close(&d);
    }
    for (data_next(r->validation, &b); !rc && b.tokens; data_next(r->validation, &b))
        for (uint32_t i = 0; i < b.tokens; i++)
            targets += b.targets[i] >= 0;
    r->targets_per_byte = (double)targets / (double)max_u64(bytes, 1);
    return rc;
}

static int open_data(struct train_run *r, struct sonde_error *e) {
    const struct train_config *c = &r->config;
    struct data_options o = {.sources = c->data,
                             .source_count = c->data_count,
                             .tokens = (uint32_t)c->tokens,
                             .tokenizer = r->tokenizer.data,
                             .cache = c->cache,
                             .seed = c->seed};
    int rc = data_open(&o, &r->data, e);
    if (!rc && data_vocabulary(r->data) > r->shape.vocab)
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: %u tokens, the model has room for %u", r->tokenizer.data,
                     data_vocabulary(r->data), r->shape.vocab);
    if (rc || !c->validation_count)
        return rc;
    o.sources = c->validation;
    o.source_count = c->validation_count;
    o.epochs = 1;
    rc = data_open(&o, &r->validation, e);
    if (rc)
        return rc;
    data_tell(r->validation, &r->validation_begin);
    return count_validation(r, e);
}

static int open_batches(struct train_run *r, struct sonde_error *e) {
    struct run_batches *k = &r->batches;
    size_t count = r->config.accumulate, room = r->config.tokens;
    k->list = calloc(count, sizeof(*k->list));
    k->ids = calloc(count * room, sizeof(*k->ids));
    k->targets = calloc(count * room, sizeof(*k->targets));
    k->segments = calloc(count * room, sizeof(*k->segments));
    return k->list && k->ids && k->targets && k->segments ? SONDE_OK : err_memory(e);
}

static int open_rest(struct train_run *r, bool resume, struct sonde_error *e) {
    int rc = open_data(r, e);
    if (!rc)
        rc = open_batches(r, e);
    if (!rc && resume)
        rc = state_load(r->state.data, &r->numbers, &r->net, &r->learner, e);
    if (!rc && resume)
        rc = data_seek(r->data, &r->numbers.position, e);
    if (!rc)
        rc = history_open(r->log.data, r->numbers.step, &r->history, e);
    r->history_open = !rc;
    return rc ? rc : write_config(r, e);
}

/* ---------------------------------------------------------------------------------------- the whole */

static int read_config(struct train_run *r, const char *path, struct sonde_error *e) {
    struct buf text = {0};
    int rc = file_read_input(path, CONFIG_MOST, &text, e);
    if (!rc)
        rc = train_config_parse(text.data ? text.data : "", text.len, path, &r->config, e);
    buf_release(&text);
    return rc;
}

int train_open(const char *config, bool resume, const struct train_callbacks *callbacks, struct train_run **run,
               struct sonde_error *e) {
    struct train_run *r = calloc(1, sizeof(*r));
    if (!r)
        return err_memory(e);
    r->callbacks = *callbacks;
    int rc = read_config(r, config, e);
    if (!rc)
        rc = find_sources(r->config.data, r->config.data_count, e);
    if (!rc)
        rc = find_sources(r->config.validation, r->config.validation_count, e);
    if (!rc)
        rc = find_paths(r, resume, e);
    if (!rc)
        rc = team_open(r->config.threads, &r->team, e);
    if (!rc)
        rc = open_model(r, resume, e);
    if (!rc)
        rc = open_rest(r, resume, e);
    if (rc) {
        train_close(r);
        return rc;
    }
    r->peak = measure_peak(r->team);
    *run = r;
    return SONDE_OK;
}

void train_memory(const struct train_run *r, struct train_memory *memory) {
    *memory = r->memory;
}

void train_close(struct train_run *r) {
    if (!r)
        return;
    if (r->history_open)
        history_close(&r->history);
    rounding_release(&r->rounding, &r->net);
    step_free_f32(r->step);
    if (r->learner.moments)
        learner_release(&r->learner);
    net_release_f32(&r->net);
    engram_plan_release(&r->plan);
    shape_release(&r->shape);
    data_close(r->data);
    data_close(r->validation);
    team_close(r->team);
    json_decref(r->model);
    free(r->batches.list);
    free(r->batches.ids);
    free(r->batches.targets);
    free(r->batches.segments);
    free(r->loads);
    buf_release(&r->out);
    buf_release(&r->state);
    buf_release(&r->log);
    buf_release(&r->tokenizer);
    train_config_release(&r->config);
    free(r);
}
