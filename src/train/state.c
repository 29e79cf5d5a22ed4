/*
 * state.c - all of a run in one safetensors file.
 *
 *     numbers                        U8 [sizeof(struct run_numbers)]
 *     plan.token_map, .multipliers, .sizes      I64, where the model has Engram
 *     tables                         I32 [hash layers, V, k], where there are such layers
 *     value.NAME, m.NAME, v.NAME     F32 [stack, rows, cols] of each parameter, moments where there are any
 *     steps.NAME                     I32 [rows] of each table
 *     hashes                         I64 [tensors before it]: XXH3 of each one's bytes, with that of its name as seed
 *
 * One list of pieces says all that, for writing as for reading, so that the two cannot differ. Numbers are as the
 * machine has them. Reading checks every shape and every hash before it changes anything: a run never goes on from a
 * state that is damaged, or of another config.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "train/run_internal.h"

#define HASHES "hashes"

struct piece {
    char name[80];
    struct tensor_spec spec; /* its name is set by specs_of() */
    void *bytes;
    size_t size;
    bool fixed; /* must be in a file as it is in memory */
};

struct pieces {
    struct piece *list;
    size_t count;
};

/* dims: three, of which the last `rank` count. */
static void add(struct pieces *p, enum dtype dtype, uint32_t rank, const uint64_t dims[3], void *bytes,
                const char *prefix, const char *name) {
    struct piece *x = &p->list[p->count++];
    *x = (struct piece){.spec = {.dtype = dtype, .rank = rank}, .bytes = bytes, .size = dtype_bytes(dtype)};
    for (uint32_t i = 0; i < rank; i++) {
        x->spec.dims[i] = dims[3 - rank + i];
        x->size *= x->spec.dims[i];
    }
    snprintf(x->name, sizeof(x->name), "%s%s", prefix, name);
}

static void add_plan(struct pieces *p, const struct shape *s, const struct engram_plan *plan) {
    const struct engram_shape *g = &s->engram;
    size_t first = p->count;
    add(p, DTYPE_I64, 1, (uint64_t[3]){0, 0, s->vocab}, plan->token_map, "plan.", "token_map");
    add(p, DTYPE_I64, 2, (uint64_t[3]){0, g->count, g->orders}, plan->multipliers, "plan.", "multipliers");
    add(p, DTYPE_I64, 2, (uint64_t[3]){0, g->count, (uint64_t)(g->orders - 1) * g->heads}, plan->sizes, "plan.",
        "sizes");
    for (size_t i = first; i < p->count; i++)
        p->list[i].fixed = true;
}

static void add_parameter(struct pieces *p, const struct param_f32 *x, const struct moments *m) {
    const uint64_t dims[3] = {x->stack, x->rows, x->cols};
    add(p, DTYPE_F32, 3, dims, x->value, "value.", x->name);
    if (m->m)
        add(p, DTYPE_F32, 3, dims, m->m, "m.", x->name);
    if (m->v)
        add(p, DTYPE_F32, 3, dims, m->v, "v.", x->name);
    if (m->steps)
        add(p, DTYPE_I32, 1, (uint64_t[3]){0, 0, x->rows}, m->steps, "steps.", x->name);
}

/* p->list is to be freed. */
static int pieces_of(struct run_numbers *numbers, const struct net_f32 *net, const struct learner *l, struct pieces *p,
                     struct sonde_error *e) {
    const struct shape *s = &net->shape;
    *p = (struct pieces){.list = malloc((5 + 4 * net->params.count) * sizeof(*p->list))};
    if (!p->list)
        return err_memory(e);
    add(p, DTYPE_U8, 1, (uint64_t[3]){0, 0, sizeof(*numbers)}, numbers, "", "numbers");
    if (net->plan)
        add_plan(p, s, net->plan);
    if (s->hash_layers)
        add(p, DTYPE_I32, 3, (uint64_t[3]){s->hash_layers, s->vocab, s->active}, net->tables, "", "tables");
    for (size_t i = 0; i < net->params.count; i++)
        add_parameter(p, &net->params.list[i], &l->moments[i]);
    return SONDE_OK;
}

static int64_t hash_of(const struct piece *x, const void *bytes) {
    return (int64_t)XXH3_64bits_withSeed(bytes, x->size, XXH3_64bits(x->name, strlen(x->name)));
}

/* -------------------------------------------------------------------------------------------- writing */

/* Of all pieces and, behind them, their hashes. To be freed; NULL: no memory. */
static struct tensor_spec *specs_of(const struct pieces *p) {
    struct tensor_spec *specs = malloc((p->count + 1) * sizeof(*specs));
    for (size_t i = 0; specs && i < p->count; i++) {
        specs[i] = p->list[i].spec;
        specs[i].name = p->list[i].name;
    }
    if (specs)
        specs[p->count] = (struct tensor_spec){.name = HASHES, .dtype = DTYPE_I64, .rank = 1, .dims = {p->count}};
    return specs;
}

static int write_pieces(const char *path, const struct pieces *p, const struct tensor_spec *specs, int64_t *hashes,
                        struct sonde_error *e) {
    struct safetensors_writer *w;
    int rc = safetensors_create(path, specs, p->count + 1, &w, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < p->count; i++) {
        hashes[i] = hash_of(&p->list[i], p->list[i].bytes);
        rc = safetensors_append(w, p->list[i].bytes, p->list[i].size, e);
    }
    if (!rc)
        rc = safetensors_append(w, hashes, p->count * sizeof(*hashes), e);
    if (!rc)
        return safetensors_finish(w, e);
    safetensors_cancel(w);
    return rc;
}

int state_save(const char *path, const struct run_numbers *numbers, const struct net_f32 *net, const struct learner *l,
               struct sonde_error *e) {
    struct run_numbers copy = *numbers;
    struct pieces p;
    int rc = pieces_of(&copy, net, l, &p, e);
    if (rc)
        return rc;
    struct tensor_spec *specs = specs_of(&p);
    int64_t *hashes = malloc(p.count * sizeof(*hashes));
    rc = specs && hashes ? write_pieces(path, &p, specs, hashes, e) : err_memory(e);
    free(hashes);
    free(specs);
    free(p.list);
    return rc;
}

/* -------------------------------------------------------------------------------------------- reading */

/* The piece as the file has it, if it is of the right dtype and shape. */
static int find(const char *path, const struct safetensors *s, const struct piece *x, const struct tensor **tensor,
                struct sonde_error *e) {
    const struct tensor *t = safetensors_find(s, x->name);
    if (!t)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is not there: a state of another config", path, x->name);
    bool same = !t->foreign && t->dtype == x->spec.dtype && t->rank == x->spec.rank && t->bytes == x->size;
    for (uint32_t k = 0; same && k < t->rank; k++)
        same = t->dims[k] == x->spec.dims[k];
    if (!same)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s has another dtype or shape: a state of another config",
                       path, x->name);
    *tensor = t;
    return SONDE_OK;
}

/* That the i-th tensor of a state holds what was written. */
static int check_hash(const char *path, const struct safetensors *s, const struct piece *x, size_t i,
                      const struct tensor *t, struct sonde_error *e) {
    const struct tensor *hashes = safetensors_find(s, HASHES);
    int64_t hash;
    if (!hashes || hashes->foreign || hashes->dtype != DTYPE_I64 || hashes->bytes < (i + 1) * sizeof(hash))
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s does not hold a hash of every tensor", path, HASHES);
    memcpy(&hash, hashes->data + i * sizeof(hash), sizeof(hash));
    if (hash == hash_of(x, t->data))
        return SONDE_OK;
    return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s: its hash is not that of its bytes, so the state is damaged",
                   path, x->name);
}

static int check_experts(const char *path, const struct net_f32 *net, const uint8_t *bytes, struct sonde_error *e) {
    size_t count = (size_t)net->shape.hash_layers * net->shape.vocab * net->shape.active;
    for (size_t i = 0; i < count; i++) {
        int32_t expert;
        memcpy(&expert, bytes + i * sizeof(expert), sizeof(expert));
        if (expert < 0 || (uint32_t)expert >= net->shape.experts)
            return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor tables: %d is not an expert", path, (int)expert);
    }
    return SONDE_OK;
}

static int check_piece(const char *path, const struct net_f32 *net, const struct piece *x, const uint8_t *bytes,
                       struct sonde_error *e) {
    if (x->fixed && memcmp(x->bytes, bytes, x->size) != 0)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is not that of this run", path, x->name);
    return x->bytes == net->tables ? check_experts(path, net, bytes, e) : SONDE_OK;
}

/* tensors [p->count]: to be set. */
static int check_pieces(const char *path, const struct safetensors *s, const struct net_f32 *net,
                        const struct pieces *p, const struct tensor **tensors, struct sonde_error *e) {
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < p->count; i++)
        rc = find(path, s, &p->list[i], &tensors[i], e);
    if (!rc && safetensors_count(s) != p->count + 1)
        rc = err_set(e, SONDE_ERROR_FORMAT, "%s: %zu tensors, expected %zu: a state of another config", path,
                     safetensors_count(s), p->count + 1);
    for (size_t i = 0; !rc && i < p->count; i++) {
        rc = check_hash(path, s, &p->list[i], i, tensors[i], e);
        if (!rc)
            rc = check_piece(path, net, &p->list[i], tensors[i]->data, e);
    }
    return rc;
}

static int read_pieces(const char *path, const struct safetensors *s, const struct net_f32 *net, const struct pieces *p,
                       struct sonde_error *e) {
    const struct tensor **tensors = malloc(p->count * sizeof(*tensors));
    int rc = tensors ? check_pieces(path, s, net, p, tensors, e) : err_memory(e);
    for (size_t i = 0; !rc && i < p->count; i++)
        if (!p->list[i].fixed)
            memcpy(p->list[i].bytes, tensors[i]->data, p->list[i].size);
    free(tensors);
    return rc;
}

int state_load(const char *path, struct run_numbers *numbers, struct net_f32 *net, struct learner *l,
               struct sonde_error *e) {
    struct safetensors *s;
    struct pieces p;
    int rc = safetensors_open(path, &s, e);
    if (rc)
        return rc;
    rc = pieces_of(numbers, net, l, &p, e);
    if (!rc)
        rc = read_pieces(path, s, net, &p, e);
    free(p.list);
    safetensors_close(s);
    return rc;
}

/* ----------------------------------------------------------------------------------------------- plan */

/* What stands right behind "numbers", whose size and hash matter only to who loads them. */
static int read_plan(const char *path, const struct safetensors *s, const struct shape *shape, struct engram_plan *plan,
                     struct sonde_error *e) {
    struct piece list[3];
    struct pieces p = {.list = list};
    const struct tensor *t;
    int rc = SONDE_OK;
    add_plan(&p, shape, plan);
    for (size_t i = 0; !rc && i < p.count; i++) {
        rc = find(path, s, &list[i], &t, e);
        if (!rc)
            rc = check_hash(path, s, &list[i], i + 1, t, e);
        if (!rc)
            memcpy(list[i].bytes, t->data, list[i].size);
    }
    return rc;
}

int state_plan(const char *path, const struct shape *shape, struct engram_plan *plan, struct sonde_error *e) {
    const struct engram_shape *g = &shape->engram;
    struct safetensors *s;
    char bias[64];
    *plan = (struct engram_plan){0};
    if (!g->count)
        return SONDE_OK;
    int rc = safetensors_open(path, &s, e);
    if (rc)
        return rc;
    size_t multipliers = (size_t)g->count * g->orders, columns = (size_t)(g->orders - 1) * g->heads;
    plan->token_map = malloc(shape->vocab * sizeof(*plan->token_map));
    plan->multipliers = malloc(multipliers * sizeof(*plan->multipliers));
    plan->sizes = malloc(g->count * columns * sizeof(*plan->sizes));
    snprintf(bias, sizeof(bias), "value.layers.%u.engram.value_proj.bias", g->layers[0]);
    plan->biases = safetensors_find(s, bias);
    rc = plan->token_map && plan->multipliers && plan->sizes ? read_plan(path, s, shape, plan, e) : err_memory(e);
    for (size_t i = 0; !rc && i < g->count * columns; i++)
        if (plan->sizes[i] < 1)
            rc = err_set(e, SONDE_ERROR_FORMAT, "%s: tensor plan.sizes: expected sizes above 0", path);
    if (rc)
        engram_plan_release(plan);
    safetensors_close(s);
    return rc;
}
