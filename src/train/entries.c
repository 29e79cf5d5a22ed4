/* entries.c - where compressed entries lie, and which tokens see them. */
#include "train/attention_internal.h"

void entries_layout(const struct batch *b, uint32_t ratio, uint32_t *begin) {
    begin[0] = 0;
    for (uint32_t s = 0; s < b->segment_count; s++)
        begin[s + 1] = begin[s] + b->segments[s].length / ratio;
}

uint32_t entries_most(const struct entries *e) {
    uint32_t most = 0;
    if (e->top)
        return e->top;
    for (uint32_t s = 0; s < e->batch->segment_count; s++)
        most = (uint32_t)max_u64(most, e->begin[s + 1] - e->begin[s]);
    return most;
}

const struct segment *segment_of(const struct batch *b, uint32_t token) {
    uint32_t low = 0, high = b->segment_count; /* the last that begins at or before the token is in [low, high) */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (b->segments[middle].begin <= token)
            low = middle;
        else
            high = middle;
    }
    return &b->segments[low];
}

/* How many of the entries that the token sees come before `entry`. */
static uint32_t seen_before(const struct entries *e, const struct segment *g, uint32_t token, uint32_t entry) {
    uint32_t low = 0, high = entries_seen(e, g, token);
    if (!e->top)
        return (uint32_t)min_u64(high, entry);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (entries_at(e, token, middle) < entry)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void entries_each_seer(const struct entries *e, uint32_t first, uint32_t end,
                       void (*see)(void *context, const struct seer *s), void *context) {
    const struct batch *b = e->batch;
    for (const struct segment *g = b->segments; g < b->segments + b->segment_count; g++) {
        uint32_t begin = entries_first(e, g), stop = e->begin[g - b->segments + 1];
        uint32_t from = (uint32_t)max_u64(first, begin), to = (uint32_t)min_u64(end, stop);
        if (from >= to)
            continue;
        for (uint32_t t = g->begin + (from - begin + 1) * e->ratio - 1; t < g->begin + g->length; t++) {
            struct seer s = {.segment = g, .token = t, .at = seen_before(e, g, t, from - begin)};
            s.count = seen_before(e, g, t, to - begin) - s.at;
            if (s.count)
                see(context, &s);
        }
    }
}
