/* pool.c - the thread pool. */
#include <stdlib.h>

#include "base/base.h"

struct pool {
    uint32_t next[POOL_DEALS], items[POOL_DEALS];
};

int pool_open(uint32_t workers, struct pool **pool, struct sonde_error *e) {
    (void)workers;
    *pool = calloc(1, sizeof(**pool));
    return *pool ? SONDE_OK : err_memory(e);
}

void pool_close(struct pool *pool) {
    free(pool);
}

uint32_t pool_workers(const struct pool *pool) {
    (void)pool;
    return 1;
}

void pool_run(struct pool *pool, void (*work)(void *context, uint32_t worker), void *context) {
    (void)pool;
    work(context, 0);
}

void pool_barrier(struct pool *pool) {
    (void)pool;
}

void pool_deal(struct pool *pool, uint32_t deal, uint32_t items) {
    pool->next[deal] = 0;
    pool->items[deal] = items;
}

bool pool_take(struct pool *pool, uint32_t deal, uint32_t worker, uint32_t *owner, uint32_t *item) {
    *owner = worker;
    *item = pool->next[deal];
    return pool->next[deal] < pool->items[deal] ? pool->next[deal]++, true : false;
}
