/* layout.c - the one place that knows how large a sequence's memory is. */
#include "cache/cache.h"

static struct cache_tail place_tail(const struct cache_tail_spec *spec, struct arena *a) {
    size_t row = spec->width * sizeof(float);
    struct cache_tail tail = {0};
    tail.values = arena_take(a, spec->rows, row);
    tail.scores = arena_take(a, spec->rows, row);
    return tail;
}

static void place_fixed(const struct cache_layer_spec *spec, struct arena *a, struct cache_layer *layer) {
    layer->window = arena_take(a, spec->window, spec->key_bytes);
    layer->tail = place_tail(&spec->tail, a);
    layer->index_tail = place_tail(&spec->index_tail, a);
    layer->conv = arena_take(a, spec->conv_rows, spec->conv_width * sizeof(float));
}

void cache_layout(const struct cache_layer_spec *specs, uint32_t count, struct arena *a, struct cache_layer *layers) {
    for (uint32_t i = 0; i < count; i++)
        place_fixed(&specs[i], a, &layers[i]);
}

uint64_t cache_fixed_bytes(const struct cache_layer_spec *specs, uint32_t count) {
    struct arena a = {0};
    struct cache_layer unused;
    for (uint32_t i = 0; i < count; i++)
        place_fixed(&specs[i], &a, &unused);
    return a.used;
}

/* ----------------------------------------------------------------------------------------- pages */

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

uint64_t cache_page_tokens(const struct cache_layer_spec *specs, uint32_t count, uint64_t least) {
    uint64_t tokens = 128;
    for (uint32_t i = 0; i < count && tokens <= INT32_MAX; i++)
        if (specs[i].ratio)
            tokens *= specs[i].ratio / common_divisor(tokens, specs[i].ratio);
    tokens *= ceil_div(max_u64(least, 1), tokens);
    return tokens <= INT32_MAX ? tokens : 0;
}

uint64_t cache_page_layout(const struct cache_layer_spec *specs, uint32_t count, uint64_t page_tokens,
                           struct cache_page_part *parts) {
    struct arena a = {0};
    for (uint32_t i = 0; i < count; i++) {
        uint64_t rows = specs[i].ratio ? page_tokens / specs[i].ratio : 0;
        struct cache_page_part part = {.entries = a.used, .rows = (uint32_t)rows};
        arena_take(&a, rows, specs[i].key_bytes);
        part.index_keys = a.used;
        arena_take(&a, rows, specs[i].index_key_bytes);
        if (parts)
            parts[i] = part;
    }
    return a.used;
}
