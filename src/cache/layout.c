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

static void place_growing(const struct cache_layer_spec *spec, uint64_t tokens, struct arena *a,
                          struct cache_layer *layer) {
    uint64_t entries = spec->ratio ? tokens / spec->ratio : 0;
    layer->entries = arena_take(a, entries, spec->key_bytes);
    layer->index_keys = arena_take(a, entries, spec->index_key_bytes);
}

void cache_layout(const struct cache_layer_spec *specs, uint32_t count, uint64_t context, struct arena *a,
                  struct cache_layer *layers) {
    for (uint32_t i = 0; i < count; i++) {
        place_fixed(&specs[i], a, &layers[i]);
        place_growing(&specs[i], context, a, &layers[i]);
    }
}

uint64_t cache_fixed_bytes(const struct cache_layer_spec *specs, uint32_t count) {
    struct arena a = {0};
    struct cache_layer unused;
    for (uint32_t i = 0; i < count; i++)
        place_fixed(&specs[i], &a, &unused);
    return a.used;
}

uint64_t cache_token_bytes(const struct cache_layer_spec *specs, uint32_t count, uint64_t tokens) {
    struct arena a = {0};
    struct cache_layer unused;
    for (uint32_t i = 0; i < count; i++)
        place_growing(&specs[i], tokens, &a, &unused);
    return a.used;
}
