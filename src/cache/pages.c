/* pages.c - who holds which page: a count for each, and a stack of those that nobody holds. */
#include <assert.h>
#include <stdlib.h>

#include "cache/cache.h"

struct cache_pages {
    uint32_t count, unused;
    uint32_t *stack;   /* [unused] */
    uint32_t *holders; /* [count] */
};

int cache_pages_open(uint32_t count, struct cache_pages **pages, struct sonde_error *e) {
    struct cache_pages *p = calloc(1, sizeof(*p));
    if (p) {
        p->stack = malloc((count + (size_t)1) * sizeof(*p->stack));
        p->holders = calloc(count + (size_t)1, sizeof(*p->holders));
    }
    if (!p || !p->stack || !p->holders) {
        cache_pages_close(p);
        return err_memory(e);
    }
    p->count = p->unused = count;
    for (uint32_t i = 0; i < count; i++)
        p->stack[i] = count - 1 - i;
    *pages = p;
    return SONDE_OK;
}

void cache_pages_close(struct cache_pages *p) {
    if (!p)
        return;
    free(p->stack);
    free(p->holders);
    free(p);
}

uint32_t cache_pages_unused(const struct cache_pages *p) {
    return p->unused;
}

uint32_t cache_pages_take(struct cache_pages *p) {
    assert(p->unused);
    uint32_t page = p->stack[--p->unused];
    p->holders[page] = 1;
    return page;
}

void cache_pages_share(struct cache_pages *p, uint32_t page) {
    assert(p->holders[page]);
    p->holders[page]++;
}

void cache_pages_drop(struct cache_pages *p, uint32_t page) {
    assert(p->holders[page]);
    if (--p->holders[page] == 0)
        p->stack[p->unused++] = page;
}

bool cache_pages_shared(const struct cache_pages *p, uint32_t page) {
    return p->holders[page] > 1;
}
