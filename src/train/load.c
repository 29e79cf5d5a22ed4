/* load.c - a checkpoint's values into a network of its shape, for going on from it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/net_internal.h"

/* Values of a matrix, row by row. */
static int take(const struct matrix *m, real *to, struct sonde_error *e) {
    float *row = malloc((m->cols + 1) * sizeof(*row));
    if (!row)
        return err_memory(e);
    for (uint32_t i = 0; i < m->rows; i++) {
        matrix_decode(m, i, 0, m->cols, row);
        for (uint32_t k = 0; k < m->cols; k++)
            to[(size_t)i * m->cols + k] = row[k];
    }
    free(row);
    return SONDE_OK;
}

/* Where an Engram layer has biases some may be missing: they are 0. */
static bool may_lack(const struct REAL(param) * p) {
    return p->vector && strstr(p->name, ".engram.") && strstr(p->name, ".bias");
}

static int load_one(const struct checkpoint *c, const struct REAL(param) * p, uint32_t number, struct sonde_error *e) {
    char name[96];
    struct matrix m;
    REAL(param_name)(p, number, name, sizeof(name));
    size_t n = strlen(name), suffix = strlen(".weight");
    const uint64_t dims[] = {p->rows, p->cols}, conv[] = {p->rows, 1, p->cols};
    int rc;
    if (may_lack(p) && !checkpoint_find(c, name))
        return SONDE_OK;
    if (p->conv)
        rc = checkpoint_plain(c, name, 3, conv, &m, e);
    else if (p->vector)
        rc = checkpoint_plain(c, name, 1, dims + 1, &m, e);
    else if (n > suffix && strcmp(name + n - suffix, ".weight") == 0) {
        name[n - suffix] = 0;
        rc = checkpoint_matrix(c, name, p->rows, p->cols, &m, e);
    } else {
        rc = checkpoint_plain(c, name, 2, dims, &m, e);
    }
    return rc ? rc : take(&m, p->value + (size_t)number * p->rows * p->cols, e);
}

static int load_tables(struct REAL(net) * n, const struct checkpoint *c, struct sonde_error *e) {
    const struct shape *s = &n->shape;
    const uint64_t dims[] = {s->vocab, s->active};
    for (uint32_t i = 0; i < s->hash_layers && i < s->layers; i++) {
        char name[64];
        struct integers v;
        snprintf(name, sizeof(name), "layers.%u.ffn.gate.tid2eid", i);
        int rc = checkpoint_integers(c, name, 2, dims, &v, e);
        if (rc)
            return rc;
        int32_t *table = n->tables + (size_t)i * s->vocab * s->active;
        for (uint64_t k = 0; k < v.count; k++) {
            int64_t expert = integers_at(&v, k);
            if (expert < 0 || expert >= s->experts)
                return err_set(e, SONDE_ERROR_FORMAT, "tensor %s: %lld is not an expert", name, (long long)expert);
            table[k] = (int32_t)expert;
        }
    }
    return SONDE_OK;
}

int REAL(net_load)(struct REAL(net) * n, const struct checkpoint *c, struct sonde_error *e) {
    int rc = SONDE_OK;
    for (size_t i = 0; !rc && i < n->params.count; i++)
        for (uint32_t k = 0; !rc && k < n->params.list[i].stack; k++)
            rc = load_one(c, &n->params.list[i], k, e);
    return rc ? rc : load_tables(n, c, e);
}
