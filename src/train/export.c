/*
 * export.c - the network as a model directory: one safetensors file in the official layout, and config.json.
 *
 * Tensors are planned first, wider dtypes before narrower ones so that each is aligned to its elements, then written in
 * that order, encoded one at a time. Each file is replaced whole, the config last: without one a directory is no model,
 * and from one step of a run to the next it stays the same.
 */
#include <stdlib.h>
#include <string.h>

#include "train/run_internal.h"

/* ---------------------------------------------------------------------------------------- the plan */

/* What a tensor is made of. */
enum source { WEIGHT, SCALE, TABLE, INTEGERS };

struct piece {
    char name[96];
    struct tensor_spec spec; /* but for the name */
    enum source source;
    const struct param_f32 *param; /* of a weight, and which of its stack; its scale is the next piece */
    uint32_t number;
    const int64_t *integers;
    const int32_t *table; /* [V, k] */
};

struct pieces {
    const struct net_f32 *net;
    struct piece *list;
    size_t count;
};

/* How many tensors there are at most. */
static size_t most(const struct net_f32 *n) {
    size_t count = n->shape.hash_layers + 2 * (size_t)n->shape.engram.count + 1;
    for (size_t i = 0; i < n->params.count; i++)
        count += 2 * (size_t)n->params.list[i].stack;
    return count;
}

static struct piece *add(struct pieces *all, enum source source, enum dtype dtype, uint32_t rank, uint64_t rows,
                         uint64_t cols) {
    struct piece *x = &all->list[all->count++];
    *x = (struct piece){.source = source, .spec = {.dtype = dtype, .rank = rank, .dims = {rows, cols}}};
    if (rank == 1)
        x->spec.dims[0] = cols;
    return x;
}

static void add_integers(struct pieces *all, const int64_t *integers, uint64_t count, const char *name) {
    struct piece *x = add(all, INTEGERS, DTYPE_I64, 1, 1, count);
    x->integers = integers;
    snprintf(x->name, sizeof(x->name), "%s", name);
}

static void add_tables(struct pieces *all) {
    const struct net_f32 *n = all->net;
    const struct shape *s = &n->shape;
    const struct engram_shape *g = &s->engram;
    size_t columns = (size_t)(g->orders - 1) * g->heads;
    char name[64];
    for (uint32_t i = 0; i < s->layers; i++)
        if (n->layers[i].table) {
            struct piece *x = add(all, TABLE, DTYPE_I64, 2, s->vocab, s->active);
            x->table = n->layers[i].table;
            snprintf(x->name, sizeof(x->name), "layers.%u.ffn.gate.tid2eid", i);
        }
    for (uint32_t i = 0; i < g->count; i++) {
        snprintf(name, sizeof(name), "layers.%u.engram.multipliers", g->layers[i]);
        add_integers(all, n->plan->multipliers + (size_t)i * g->orders, g->orders, name);
        snprintf(name, sizeof(name), "layers.%u.engram.head_sizes", g->layers[i]);
        add_integers(all, n->plan->sizes + i * columns, columns, name);
    }
    if (g->count)
        add_integers(all, n->plan->token_map, s->vocab, "engram.token_map");
}

/* A matrix of a parameter, with its scales where it has any. */
static void add_weight(struct pieces *all, const struct param_f32 *p, uint32_t number) {
    static const enum dtype dtypes[] = {
        [FORM_F32] = DTYPE_F32, [FORM_BF16] = DTYPE_BF16, [FORM_FP8] = DTYPE_F8_E4M3, [FORM_FP4] = DTYPE_I8};
    struct matrix m = stored_form(&all->net->shape, p, p->rows);
    struct piece *x = add(all, WEIGHT, dtypes[p->form], p->vector ? 1 : 2, p->rows, p->cols);
    x->param = p;
    x->number = number;
    param_name_f32(p, number, x->name, sizeof(x->name));
    if (p->form == FORM_FP4)
        x->spec.dims[1] = p->cols / 2;
    if (p->conv) {
        x->spec.rank = 3;
        x->spec.dims[1] = 1;
        x->spec.dims[2] = p->cols;
    }
    if (!matrix_quantised(&m))
        return;
    struct piece *scale = add(all, SCALE, DTYPE_F8_E8M0, 2, ceil_div(m.rows, m.block_rows), m.scale_cols);
    param_name_f32(p, number, scale->name, sizeof(scale->name));
    size_t stem = strlen(scale->name) - strlen(".weight");
    snprintf(scale->name + stem, sizeof(scale->name) - stem, ".scale");
}

static int plan(const struct net_f32 *net, struct pieces *all, struct sonde_error *e) {
    static const enum param_form forms[] = {FORM_F32, FORM_BF16, FORM_FP8, FORM_FP4}; /* widest first */
    *all = (struct pieces){.net = net, .list = calloc(most(net), sizeof(*all->list))};
    if (!all->list)
        return err_memory(e);
    add_tables(all);
    for (size_t f = 0; f < COUNT_OF(forms); f++)
        for (size_t i = 0; i < net->params.count; i++)
            for (uint32_t k = 0; net->params.list[i].form == forms[f] && k < net->params.list[i].stack; k++)
                add_weight(all, &net->params.list[i], k);
    return SONDE_OK;
}

/* ------------------------------------------------------------------------------------------ writing */

/* A weight, encoded to `room`, and the scales behind it. */
static int write_weight(struct safetensors_writer *w, const struct pieces *all, const struct piece *x, void *room,
                        struct sonde_error *e) {
    const struct param_f32 *p = x->param;
    struct matrix m = stored_form(&all->net->shape, p, p->rows);
    stored_encode(&m, p->value + (size_t)x->number * p->rows * p->cols, room);
    return safetensors_append(w, room, matrix_bytes(&m), e);
}

static int write_table(struct safetensors_writer *w, const struct pieces *all, const struct piece *x,
                       struct sonde_error *e) {
    int64_t wide[64];
    size_t count = (size_t)all->net->shape.vocab * all->net->shape.active;
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < count;) {
        size_t n = 0;
        for (; n < COUNT_OF(wide) && i < count; n++, i++)
            wide[n] = x->table[i];
        rc = safetensors_append(w, wide, n * sizeof(*wide), e);
    }
    return rc;
}

/* Bytes of the largest weight with its scales. */
static size_t room_for(const struct pieces *all) {
    size_t room = 0;
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].source == WEIGHT) {
            const struct param_f32 *p = all->list[i].param;
            struct matrix m = stored_form(&all->net->shape, p, p->rows);
            room = max_u64(room, matrix_bytes(&m));
        }
    return room;
}

static int write_pieces(struct safetensors_writer *w, const struct pieces *all, struct sonde_error *e) {
    void *room = malloc(room_for(all) + 1);
    int rc = room ? SONDE_OK : err_memory(e);
    for (size_t i = 0; !rc && i < all->count; i++) {
        const struct piece *x = &all->list[i];
        if (x->source == WEIGHT)
            rc = write_weight(w, all, x, room, e);
        else if (x->source == TABLE)
            rc = write_table(w, all, x, e);
        else if (x->source == INTEGERS)
            rc = safetensors_append(w, x->integers, x->spec.dims[0] * sizeof(*x->integers), e);
    }
    free(room);
    return rc;
}

static int write_model(const struct net_f32 *net, const char *path, struct sonde_error *e) {
    struct pieces all;
    struct safetensors_writer *w = NULL;
    int rc = plan(net, &all, e);
    struct tensor_spec *specs = rc ? NULL : calloc(all.count, sizeof(*specs));
    if (!rc && !specs)
        rc = err_memory(e);
    for (size_t i = 0; !rc && i < all.count; i++) {
        specs[i] = all.list[i].spec;
        specs[i].name = all.list[i].name;
    }
    if (!rc)
        rc = safetensors_create(path, specs, all.count, &w, e);
    if (!rc && (rc = write_pieces(w, &all, e)))
        safetensors_cancel(w);
    else if (!rc)
        rc = safetensors_finish(w, e);
    free(specs);
    free(all.list);
    return rc;
}

/* ----------------------------------------------------------------------------------------- config.json */

static bool has_form(const struct net_f32 *net, enum param_form form) {
    for (size_t i = 0; i < net->params.count; i++)
        if (net->params.list[i].form == form)
            return true;
    return false;
}

/* What follows from the forms, spelled as the released configs do. To be json_decref()ed; NULL: no memory. */
static json_t *config_of(const struct net_f32 *net, const json_t *config) {
    json_t *c = json_copy((json_t *)(uintptr_t)config);
    int failed = json_object_set_new(c, "torch_dtype", json_string("bfloat16"));
    json_object_del(c, "expert_dtype");
    json_object_del(c, "quantization_config");
    if (has_form(net, FORM_FP4))
        failed |= json_object_set_new(c, "expert_dtype", json_string("fp4"));
    if (has_form(net, FORM_FP8))
        failed |= json_object_set_new(c, "quantization_config",
                                      json_pack("{s:s, s:s, s:s, s:s, s:[I, I]}", "activation_scheme", "dynamic", "fmt",
                                                "e4m3", "quant_method", "fp8", "scale_fmt", "ue8m0",
                                                "weight_block_size", (json_int_t)net->shape.fp8_block_rows,
                                                (json_int_t)net->shape.fp8_block_cols));
    if (!failed)
        return c;
    json_decref(c);
    return NULL;
}

static int write_config(const struct net_f32 *net, const json_t *config, const char *path, struct sonde_error *e) {
    json_t *c = config_of(net, config);
    char *text = c ? json_dumps(c, JSON_INDENT(2)) : NULL;
    struct buf b = {0};
    if (text) {
        buf_string(&b, text);
        buf_byte(&b, '\n');
    }
    int rc = text && !b.failed ? file_write(path, b.data, b.len, e) : err_memory(e);
    buf_release(&b);
    free(text);
    json_decref(c);
    return rc;
}

/* ------------------------------------------------------------------------------------------- model */

int export_model(const struct net_f32 *net, const json_t *config, const char *out, struct sonde_error *e) {
    struct buf path = {0};
    int rc = stored_check(net, e);
    file_join(&path, out, "model.safetensors");
    if (!rc)
        rc = path.failed ? err_memory(e) : write_model(net, path.data, e);
    file_join(&path, out, "config.json");
    if (!rc)
        rc = path.failed ? err_memory(e) : write_config(net, config, path.data, e);
    buf_release(&path);
    return rc;
}
