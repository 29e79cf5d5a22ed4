/* schedule.c - the learning rate of a step, and the recipe's numbers. */
#include <math.h>

#include "train/optim_internal.h"

double schedule_rate(const struct schedule *s, uint64_t step) {
    if (step < s->warmup)
        return s->peak * ((double)step + 1) / (double)s->warmup;
    if (step >= s->end)
        return s->floor;
    uint64_t left = s->end - step;
    if (left > s->decay)
        return s->peak;
    double done = (double)(s->decay - left + 1) / (double)s->decay;
    return s->floor + (s->peak - s->floor) * 0.5 * (1 + cos(acos(-1) * done));
}

void muon_options_default(struct muon_options *o) {
    *o = (struct muon_options){.momentum = 0.95, .decay = 0.1, .scale = 0.18};
}

void adam_options_default(struct adam_options *o) {
    *o = (struct adam_options){.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-20, .decay = 0.1};
}
