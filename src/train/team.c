/* team.c - the workers of a trainer: items of a loop dealt to a pool of threads, scratch for each. */
#include <stdlib.h>
#include <string.h>

#include "train/train_internal.h"

struct scratch {
    void *memory;
    size_t bytes;
};

struct team {
    struct pool *pool;
    struct scratch *scratch;
    uint32_t workers;
    struct team **alone; /* [workers]; NULL in these teams themselves */
    bool failed;
    struct kernel_table kernels;
    void (*work)(void *context, uint32_t worker, size_t item);
    void *context;
};

static int open_plain(uint32_t workers, struct team **team, struct sonde_error *e) {
    struct team *t = calloc(1, sizeof(*t));
    if (!t)
        return err_memory(e);
    int rc = pool_open(workers, &t->pool, e);
    if (!rc) {
        t->workers = pool_workers(t->pool);
        t->scratch = calloc(t->workers, sizeof(*t->scratch));
        rc = t->scratch ? SONDE_OK : err_memory(e);
    }
    if (rc) {
        team_close(t);
        return rc;
    }
    team_set_level(t, kernel_level_best());
    *team = t;
    return SONDE_OK;
}

int team_open(uint32_t workers, struct team **team, struct sonde_error *e) {
    struct team *t = NULL;
    int rc = open_plain(workers, &t, e);
    if (rc)
        return rc;
    t->alone = calloc(t->workers, sizeof(struct team *));
    rc = t->alone ? SONDE_OK : err_memory(e);
    for (uint32_t i = 0; !rc && i < t->workers; i++)
        rc = open_plain(1, &t->alone[i], e);
    if (rc)
        team_close(t);
    else
        *team = t;
    return rc;
}

void team_close(struct team *t) {
    if (!t)
        return;
    for (uint32_t i = 0; t->scratch && i < t->workers; i++)
        free(t->scratch[i].memory);
    for (uint32_t i = 0; t->alone && i < t->workers; i++)
        team_close(t->alone[i]);
    free(t->alone);
    free(t->scratch);
    pool_close(t->pool);
    free(t);
}

uint32_t team_workers(const struct team *t) {
    return t->workers;
}

/* Hands are contiguous parts of the items: worker w's begins at count · w / workers. */
static size_t first_of(const struct team *t, size_t count, uint32_t worker) {
    return count * worker / t->workers;
}

struct region {
    struct team *team;
    size_t count;
};

static void run(void *context, uint32_t worker) {
    const struct region *r = context;
    struct team *t = r->team;
    uint32_t owner, item;
    while (pool_take(t->pool, 0, worker, &owner, &item)) {
        size_t at = first_of(t, r->count, owner) + item;
        if (at < first_of(t, r->count, owner + 1))
            t->work(t->context, worker, at);
    }
}

void team_each(struct team *t, size_t count, void (*work)(void *context, uint32_t worker, size_t item), void *context) {
    struct region r = {t, count};
    if (!count)
        return;
    t->work = work;
    t->context = context;
    pool_deal(t->pool, 0, (uint32_t)ceil_div(count, t->workers));
    pool_run(t->pool, run, &r);
}

enum { CLEARED = 1 << 16 }; /* bytes of an item */

struct clearing {
    uint8_t *memory;
    size_t bytes;
};

static void clear_piece(void *context, uint32_t worker, size_t item) {
    const struct clearing *c = context;
    size_t at = item * CLEARED;
    (void)worker;
    memset(c->memory + at, 0, min_u64(CLEARED, c->bytes - at));
}

void team_clear(struct team *t, void *memory, size_t bytes) {
    struct clearing c = {memory, bytes};
    if (bytes <= CLEARED)
        memset(memory, 0, bytes);
    else
        team_each(t, ceil_div(bytes, CLEARED), clear_piece, &c);
}

void *team_scratch(struct team *t, uint32_t worker, size_t bytes) {
    struct scratch *s = &t->scratch[worker];
    if (s->bytes < bytes) {
        free(s->memory);
        s->bytes = ceil_div(bytes, 64) * 64;
        s->memory = memory_large(s->bytes);
        if (!s->memory) {
            s->bytes = 0;
            t->failed = true;
        }
    }
    return s->memory;
}

bool team_failed(const struct team *t) {
    bool failed = t->failed;
    for (uint32_t i = 0; t->alone && i < t->workers; i++)
        failed |= t->alone[i]->failed;
    return failed;
}

struct team *team_alone(struct team *t, uint32_t worker) {
    return t->alone[worker];
}

const struct kernel_table *team_kernels(const struct team *t) {
    return &t->kernels;
}

void team_set_level(struct team *t, enum kernel_level level) {
    kernel_table_init(&t->kernels, level, false);
    for (uint32_t i = 0; t->alone && i < t->workers; i++)
        team_set_level(t->alone[i], level);
}
