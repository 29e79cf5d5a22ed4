/* pairs.c - the batch of pairs that multi-token prediction learns from. */
#include "train/mtp_internal.h"

void mtp_pairs_fill(struct mtp_pairs *p, const struct batch *b) {
    uint32_t count = 0, segments = 0;
    for (uint32_t i = 0; i < b->segment_count; i++) {
        const struct segment *g = &b->segments[i];
        if (g->length < 2)
            continue;
        p->from[segments] = g->begin;
        p->segments[segments++] = (struct segment){.begin = count, .length = g->length - 1};
        for (uint32_t t = g->begin + 1; t < g->begin + g->length; t++, count++) {
            p->ids[count] = b->ids[t];
            p->targets[count] = b->targets[t];
        }
    }
    p->batch = (struct batch){
        .tokens = count, .ids = p->ids, .targets = p->targets, .segments = p->segments, .segment_count = segments};
}
