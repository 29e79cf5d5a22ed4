/* open.c - a model directory behind one handle. */
#include <stdlib.h>

#include "engine/engine_internal.h"
#include "kernel/kernel.h"

void sonde_model_options_default(struct sonde_model_options *options) {
    *options = (struct sonde_model_options){.precision = SONDE_PRECISION_FAST, .chunk_tokens = 256};
}

static int check(const struct sonde_model_options *o, struct sonde_error *e) {
    if (o->precision > SONDE_PRECISION_OFFICIAL)
        return err_set(e, SONDE_ERROR_ARGUMENT, "precision %d is not one of enum sonde_precision", (int)o->precision);
    if (o->chunk_tokens < 1 || o->chunk_tokens > 65536)
        return err_set(e, SONDE_ERROR_ARGUMENT, "chunk_tokens is %u, expected 1 to 65536", o->chunk_tokens);
    return SONDE_OK;
}

static int open_tokenizer(sonde_model *m, const char *path, struct sonde_error *e) {
    struct buf file = {0};
    file_join(&file, path, "tokenizer.json");
    int rc = file.failed ? err_memory(e) : SONDE_OK;
    if (!rc && file_exists(file.data))
        rc = sonde_tokenizer_open(file.data, &m->tokenizer, e);
    if (!rc && m->tokenizer && sonde_tokenizer_size(m->tokenizer) > checkpoint_shape(m->checkpoint)->vocab)
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: %u tokens, but the model's vocab_size is %u", file.data,
                     sonde_tokenizer_size(m->tokenizer), checkpoint_shape(m->checkpoint)->vocab);
    buf_release(&file);
    return rc;
}

/* A number of generation_config.json into *value, where it stands. */
static int read_number(const json_t *object, const char *name, const char *what, float *value, struct sonde_error *e) {
    const json_t *number = json_object_get(object, name);
    if (!number || json_is_null(number))
        return SONDE_OK;
    if (!json_is_number(number))
        return err_set(e, SONDE_ERROR_FORMAT, "%s: field %s: not a number", what, name);
    *value = (float)json_number_value(number);
    return SONDE_OK;
}

/* What generation_config.json says of sampling, where it is there; the sampler checks the values. */
static int read_sampling(const char *what, const json_t *config, struct sonde_sampling *s, struct sonde_error *e) {
    float top_k = (float)s->top_k;
    if (!json_is_object(config))
        return err_set(e, SONDE_ERROR_FORMAT, "%s: not an object", what);
    int rc = read_number(config, "temperature", what, &s->temperature, e);
    rc = rc ? rc : read_number(config, "top_p", what, &s->top_p, e);
    rc = rc ? rc : read_number(config, "min_p", what, &s->min_p, e);
    rc = rc ? rc : read_number(config, "repetition_penalty", what, &s->repetition_penalty, e);
    rc = rc ? rc : read_number(config, "top_k", what, &top_k, e);
    s->top_k = top_k > 0 && top_k < 1e6f ? (uint32_t)top_k : 0;
    if (json_is_false(json_object_get(config, "do_sample")))
        s->temperature = 0;
    struct sonde_error why;
    if (!rc && sampling_check(s, &why))
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: %s", what, why.message);
    return rc;
}

static int open_generation(sonde_model *m, const char *path, struct sonde_error *e) {
    struct buf file = {0}, text = {0};
    json_t *config = NULL;
    sonde_sampling_default(&m->sampling);
    file_join(&file, path, "generation_config.json");
    int rc = file.failed ? err_memory(e) : SONDE_OK;
    if (!rc && file_exists(file.data)) {
        rc = file_read(file.data, 1 << 20, &text, e);
        rc = rc ? rc : json_parse(text.data ? text.data : "", text.len, file.data, &config, e);
        rc = rc ? rc : read_sampling(file.data, config, &m->sampling, e);
        m->quick = json_is_false(json_object_get(config, "thinking"));
    }
    json_decref(config);
    buf_release(&text);
    buf_release(&file);
    return rc;
}

int sonde_model_open(const char *path, const struct sonde_model_options *options, sonde_model **model,
                     struct sonde_error *error) {
    struct sonde_model_options defaults;
    sonde_model_options_default(&defaults);
    options = options ? options : &defaults;
    int rc = check(options, error);
    if (rc)
        return rc;
    sonde_model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_memory(error);
    uint64_t states = options->cache_bytes / 4;
    struct model_options inner = {.precision = options->precision,
                                  .rows = options->chunk_tokens,
                                  .cache_bytes = options->cache_bytes - states,
                                  .state_bytes = states,
                                  .page_tokens = options->page_tokens,
                                  .released_decode = options->released_decode};
    struct device_cpu_options cpu = {
        .threads = options->threads, .level = options->level, .invariant = options->invariant};
    rc = checkpoint_open(path, &m->checkpoint, error);
    if (!rc)
        rc = device_cpu_open(&cpu, &m->device, error);
    if (!rc)
        rc = model_open(m->checkpoint, m->device, &inner, &m->model, error);
    if (!rc && !options->no_tokenizer)
        rc = open_tokenizer(m, path, error);
    if (!rc)
        rc = sonde_chat_format_read(path, &m->chat_format, error);
    if (!rc)
        rc = open_generation(m, path, error);
    if (!rc)
        rc = store_open(m, options, options->level ? options->level : kernel_level_name(kernel_level_best()), &m->store,
                        error);
    if (rc)
        sonde_model_close(m);
    else
        *model = m;
    return rc;
}

void sonde_model_sampling(const sonde_model *model, struct sonde_sampling *sampling) {
    *sampling = model->sampling;
}

void sonde_model_close(sonde_model *model) {
    if (!model)
        return;
    sonde_tokenizer_close(model->tokenizer);
    store_close(model->store);
    model_close(model->model);
    if (model->device)
        model->device->ops->close(model->device);
    checkpoint_close(model->checkpoint);
    free(model);
}

const sonde_tokenizer *sonde_model_tokenizer(const sonde_model *model) {
    return model->tokenizer;
}

void sonde_model_info(const sonde_model *model, struct sonde_model_info *info) {
    const struct shape *s = checkpoint_shape(model->checkpoint);
    *info = (struct sonde_model_info){.vocab = s->vocab,
                                      .layers = s->layers,
                                      .hidden = s->hidden,
                                      .experts = s->experts,
                                      .active = s->active,
                                      .mtp_blocks = model_has_mtp(model->model),
                                      .context = (uint32_t)min_u64(s->context, UINT32_MAX),
                                      .bos = s->bos,
                                      .eos = s->eos,
                                      .thinks = !model->quick,
                                      .chat_format = model->chat_format};
    for (size_t i = 0; i < checkpoint_count(model->checkpoint); i++) {
        const struct tensor *t = checkpoint_at(model->checkpoint, i);
        info->parameters += tensor_parameters(t);
        info->weights_bytes += t->bytes;
    }
}
