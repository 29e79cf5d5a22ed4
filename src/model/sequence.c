/*
 * sequence.c - a model's memory: scratch of a step, and what each sequence keeps.
 *
 * Each is one piece from the device, laid out by a function that is run twice: to count, then to place.
 */
#include <assert.h>
#include <stdlib.h>

#include "model/model_internal.h"

/* --------------------------------------------------------------------------------- what is kept */

static struct precision precision_of(enum sonde_precision p) {
    switch (p) {
    case SONDE_PRECISION_F32:
        return (struct precision){0};
    case SONDE_PRECISION_OFFICIAL: /* whose products have bf16 inputs of themselves */
        return (struct precision){true, true, true, true, true, true};
    case SONDE_PRECISION_KV:
        return (struct precision){.kv_fp8 = true, .index_fp4 = true};
    case SONDE_PRECISION_FAST:
        break;
    }
    return (struct precision){.kv_fp8 = true, .kv_bf16 = true, .index_fp4 = true, .products_bf16 = true};
}

static const struct architecture *architecture_of(const struct shape *s) {
    static const struct architecture *const all[] = {[FAMILY_V4] = &architecture_v4, [FAMILY_V41] = &architecture_v41};
    return all[s->family];
}

struct cache_rows model_cache_rows(const struct shape *shape, enum sonde_precision precision) {
    struct precision p = precision_of(precision);
    return architecture_of(shape)->cache_rows(shape, &p);
}

/* [blocks]; NULL when memory is exhausted. */
static struct cache_layer_spec *layer_specs(const struct shape *s, const struct cache_rows *rows, uint32_t blocks) {
    struct cache_layer_spec *specs = calloc(blocks, sizeof(*specs));
    for (uint32_t i = 0; specs && i < blocks; i++)
        specs[i] = architecture_of(s)->layer_spec(s, rows, i);
    return specs;
}

int model_cache_bytes(const struct shape *shape, enum sonde_precision precision, uint64_t tokens, uint64_t *fixed,
                      uint64_t *growing, struct sonde_error *e) {
    struct cache_rows rows = model_cache_rows(shape, precision);
    struct cache_layer_spec *specs = layer_specs(shape, &rows, shape->layers);
    if (!specs)
        return err_memory(e);
    *fixed = cache_fixed_bytes(specs, shape->layers);
    uint64_t page = cache_page_tokens(specs, shape->layers, PAGE_TOKENS);
    *growing = page ? ceil_div(tokens, page) * cache_page_layout(specs, shape->layers, page, NULL) : 0;
    free(specs);
    return SONDE_OK;
}

/* --------------------------------------------------------------------------------------- scratch */

struct widths {
    uint64_t pool, engram; /* widest compressor, Engram's hidden */
};

static struct widths widths_of(const struct shape *s) {
    struct widths w = {0};
    w.pool = 2 * (uint64_t)max_u64(s->head_dim, s->index_dim);
    w.engram = s->engram.count ? (uint64_t)(s->engram.orders - 1) * s->engram.width : 0;
    return w;
}

static void *floats(struct arena *a, uint64_t rows, uint64_t width) {
    return arena_take(a, rows, width * sizeof(float));
}

static void lay_out_scratch(struct model *m, struct arena *a) {
    const struct shape *s = m->shape;
    struct scratch *t = &m->scratch;
    struct widths w = widths_of(s);
    uint64_t S = m->rows, D = s->hidden, H = s->streams, wide = (uint64_t)s->heads * s->head_dim;
    t->h = floats(a, S, H * D);
    t->x = floats(a, S, D);
    t->post = floats(a, S, H);
    t->comb = floats(a, S, H * H);
    t->y = floats(a, S, D);
    t->q_latent = floats(a, S, s->q_rank);
    t->q = floats(a, S, wide);
    t->key = floats(a, S, s->head_dim);
    t->key_rows = arena_take(a, S, row_bytes(&m->cache_rows.key));
    t->attended = floats(a, S, wide);
    t->low = floats(a, S, (uint64_t)s->o_groups * s->o_rank);
    t->pool_values = floats(a, S, w.pool);
    t->pool_scores = floats(a, S, w.pool);
    t->entries = floats(a, S, max_u64(s->head_dim, s->index_dim));
    t->index_q = floats(a, S, (uint64_t)s->index_heads * s->index_dim);
    t->index_w = floats(a, S, s->index_heads);
    t->chosen = arena_take(a, S, m->top * sizeof(int32_t));
    t->counts = arena_take(a, S, sizeof(int32_t));
    t->router = floats(a, S, s->experts);
    t->experts = arena_take(a, S, s->active * sizeof(int32_t));
    t->expert_weights = floats(a, S, s->active);
    t->turns = floats(a, S, s->rope_dim);
    t->turns_compressed = floats(a, S, s->rope_dim);
    t->turns_entries = floats(a, S, s->rope_dim);
    t->head_rows = floats(a, LOGIT_ROWS, H * D);
    t->logits = floats(a, LOGIT_ROWS, s->vocab);
    if (m->mtp)
        t->previous = floats(a, S, H * D);
    if (s->engram.count) {
        t->engram_rows = floats(a, S, w.engram);
        t->engram_key = floats(a, S, D);
        t->engram_value = floats(a, S, D);
        t->engram_out = floats(a, S, H * D);
        t->engram_conv = floats(a, S, H * D);
    }
}

static void lay_out(struct model *m, struct arena *a) {
    lay_out_scratch(m, a);
    if (m->architecture->lay_out_scratch)
        m->architecture->lay_out_scratch(m, a);
}

/* The largest of everything a step of this model asks of the device. */
static struct device_limits limits_of(const struct model *m) {
    const struct shape *s = m->shape;
    struct device_limits l = {.rows = m->rows,
                              .heads = s->heads,
                              .hidden = s->hidden,
                              .experts = s->experts,
                              .active = s->active,
                              .entry = (uint32_t)max_u64(s->head_dim, s->index_dim)};
    uint64_t width = max_u64((uint64_t)s->streams * s->hidden, (uint64_t)s->q_rank);
    width = max_u64(max_u64(width, s->head_dim), max_u64(s->experts, s->heads));
    l.width = (uint32_t)max_u64(width, max_u64(s->inter, s->index_dim));
    l.inter = s->inter * s->shared_experts;
    /* the lists: all heads' outputs at once; what takes a layer's input, in two roundings; Engram's rows; wo_b */
    l.inputs = max_u64((uint64_t)s->heads * s->head_dim, 2 * (uint64_t)s->hidden);
    l.inputs = max_u64(max_u64(l.inputs, widths_of(s).engram), (uint64_t)s->o_groups * s->o_rank);
    l.inputs = max_u64(l.inputs, s->q_rank);
    l.keys = s->window;
    m->architecture->limits(m, &l);
    return l;
}

static int allocate_host(struct model *m, struct sonde_error *e) {
    const struct shape *s = m->shape;
    uint64_t S = m->rows, columns = s->engram.count ? (uint64_t)(s->engram.orders - 1) * s->engram.heads : 0;
    m->positions = calloc(S, sizeof(*m->positions));
    m->ids = calloc(S, sizeof(*m->ids));
    m->engram_ids = calloc(S * columns + 1, sizeof(*m->engram_ids));
    m->forced = calloc(S * s->active, sizeof(*m->forced));
    m->host_logits = calloc((uint64_t)LOGIT_ROWS * s->vocab, sizeof(float));
    m->host_layer = calloc(S * s->streams * s->hidden, sizeof(float));
    m->host_experts = calloc(S * s->active, sizeof(int32_t));
    m->segments = calloc(S, sizeof(*m->segments));
    m->mtp_segments = calloc(S, sizeof(*m->mtp_segments));
    m->frequency = calloc(s->rope_dim / 2 + 1, sizeof(float));
    m->frequency_compressed = calloc(s->rope_dim / 2 + 1, sizeof(float));
    m->specs = layer_specs(s, &m->cache_rows, m->blocks);
    if (!m->positions || !m->ids || !m->engram_ids || !m->forced || !m->host_logits || !m->host_layer ||
        !m->host_experts || !m->segments || !m->mtp_segments || !m->frequency || !m->frequency_compressed || !m->specs)
        return err_memory(e);
    rotary_frequencies(s->rope_dim, s->rope_theta, NULL, m->frequency);
    rotary_frequencies(s->rope_dim, s->compress_theta, s->yarn.factor > 0 ? &s->yarn : NULL, m->frequency_compressed);
    return SONDE_OK;
}

/* ------------------------------------------------------------------------------------- sequences */

static void lay_out_sequence(struct sequence *s, struct arena *a) {
    const struct model *m = s->model;
    cache_layout(m->specs, m->shape->layers + s->mtp, a, s->layers);
    if (s->mtp)
        s->owed = floats(a, 1 + MODEL_MOST_DRAFTS, (uint64_t)m->shape->streams * m->shape->hidden);
}

static int count_sequences(struct model *m, struct sonde_error *e) {
    struct sequence s = {.model = m, .layers = calloc(m->blocks, sizeof(*s.layers))};
    if (!s.layers)
        return err_memory(e);
    for (int mtp = 0; mtp < (m->mtp ? 2 : 1); mtp++) {
        struct arena a = {0};
        s.mtp = mtp;
        lay_out_sequence(&s, &a);
        m->sequence_bytes[mtp] = a.used;
    }
    free(s.layers);
    return SONDE_OK;
}

/* ----------------------------------------------------------------------------------------- model */

static int allocate(struct model *m, const struct model_options *options, struct sonde_error *e) {
    struct arena a = {0};
    m->blocks = m->shape->layers + (m->mtp ? 1 : 0);
    m->top = (uint32_t)min_u64(m->shape->index_topk, m->context / m->architecture->least_ratio + 1);
    int rc = allocate_host(m, e);
    if (rc)
        return rc;
    lay_out(m, &a);
    m->memory_bytes = a.used;
    m->memory = m->device->ops->alloc(m->device, m->memory_bytes);
    if (!m->memory)
        return err_memory(e);
    a = (struct arena){.base = m->memory, .size = m->memory_bytes};
    lay_out(m, &a);
    struct device_limits limits = limits_of(m);
    rc = m->device->ops->reserve(m->device, &limits, e);
    rc = rc ? rc : count_sequences(m, e);
    return rc ? rc : pages_open(m, options, e);
}

int model_open(const struct checkpoint *c, struct device *d, const struct model_options *options, struct model **model,
               struct sonde_error *e) {
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_memory(e);
    m->checkpoint = c;
    m->shape = checkpoint_shape(c);
    m->device = d;
    m->precision = precision_of(options->precision);
    m->cache_rows = model_cache_rows(m->shape, options->precision);
    m->released_decode = options->released_decode;
    m->rows = options->rows;
    m->context = options->context ? options->context : m->shape->context;
    m->architecture = architecture_of(m->shape);
    int rc = SONDE_OK;
    if (m->released_decode && m->shape->family != FAMILY_V41)
        rc = err_set(e, SONDE_ERROR_UNSUPPORTED, "released_decode: only DeepSeek-V4.1 was released with such a decode");
    if (!rc)
        rc = m->architecture->bind(m, e);
    if (!rc)
        rc = allocate(m, options, e);
    if (rc)
        model_close(m);
    else
        *model = m;
    return rc;
}

void model_close(struct model *m) {
    if (!m)
        return;
    m->architecture->release(m);
    pages_close(m);
    if (m->memory)
        m->device->ops->release(m->device, m->memory, m->memory_bytes);
    void *owned[] = {m->positions,    m->ids,        m->engram_ids,           m->forced,
                     m->host_logits,  m->host_layer, m->host_experts,         m->segments,
                     m->mtp_segments, m->frequency,  m->frequency_compressed, m->specs};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
    free(m);
}

bool model_has_mtp(const struct model *m) {
    return m->mtp != NULL;
}

uint32_t model_rows(const struct model *m) {
    return m->rows;
}

uint64_t model_context(const struct model *m) {
    return m->context;
}

int sequence_open(struct model *m, uint64_t context, bool mtp, struct sequence **sequence, struct sonde_error *e) {
    if (mtp && !m->mtp)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "the checkpoint has no multi-token-prediction block");
    if (context > m->context)
        return err_set(e, SONDE_ERROR_ARGUMENT, "a context of %llu tokens, expected at most %llu",
                       (unsigned long long)context, (unsigned long long)m->context);
    struct sequence *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    *s = (struct sequence){.model = m, .context = context ? context : m->context, .mtp = mtp, .paired = -1};
    s->layers = calloc(m->blocks, sizeof(*s->layers));
    s->tokens = malloc((s->context + MODEL_MOST_DRAFTS) * sizeof(*s->tokens));
    s->pages = calloc(ceil_div(s->context, m->page_tokens), sizeof(*s->pages));
    if (!s->layers || !s->tokens || !s->pages)
        goto failed;
    if (!state_take(m, m->sequence_bytes[mtp]))
        goto failed;
    s->memory_bytes = m->sequence_bytes[mtp];
    s->memory = m->device->ops->alloc(m->device, s->memory_bytes);
    if (!s->memory)
        goto failed;
    struct arena a = {.base = s->memory, .size = s->memory_bytes};
    lay_out_sequence(s, &a);
    *sequence = s;
    return SONDE_OK;
failed:
    sequence_close(s);
    return err_set(e, SONDE_ERROR_MEMORY, "out of memory: a sequence of up to %llu tokens needs %llu bytes",
                   (unsigned long long)(context ? context : m->context), (unsigned long long)m->sequence_bytes[mtp]);
}

int sequence_fork(struct sequence *from, struct sequence **sequence, struct sonde_error *e) {
    struct device *d = from->model->device;
    struct sequence *s;
    int rc = sequence_open(from->model, from->context, from->mtp, &s, e);
    if (rc)
        return rc;
    d->ops->copy(d, s->memory, from->memory, from->memory_bytes / sizeof(float));
    memcpy(s->tokens, from->tokens, from->length * sizeof(*s->tokens));
    sequence_share_pages(s, from);
    s->length = from->length;
    s->owed_count = from->owed_count;
    s->undoable = from->undoable;
    s->paired = from->paired;
    *sequence = s;
    return SONDE_OK;
}

void sequence_close(struct sequence *s) {
    if (!s)
        return;
    sequence_trim_pages(s, 0);
    if (s->memory)
        s->model->device->ops->release(s->model->device, s->memory, s->memory_bytes);
    state_return(s->model, s->memory_bytes);
    free(s->pages);
    free(s->layers);
    free(s->tokens);
    free(s);
}

void sequence_reset(struct sequence *s) {
    sequence_trim_pages(s, 0);
    s->length = 0; /* nothing before position 0 is ever read */
    s->owed_count = s->undoable = 0;
    s->paired = -1;
}

void sequence_rollback(struct sequence *s, uint32_t count) {
    assert(count <= s->undoable);
    s->undoable -= count;
    s->length -= count;
    if (s->mtp)
        s->owed_count -= count;
    sequence_trim_pages(s, s->length);
}

uint64_t sequence_length(const struct sequence *s) {
    return s->length;
}

uint64_t sequence_context(const struct sequence *s) {
    return s->context;
}

const int32_t *sequence_tokens(const struct sequence *s) {
    return s->tokens;
}

bool sequence_mtp(const struct sequence *s) {
    return s->mtp;
}
