/* rotary.c - rotary frequencies, stretched by YaRN where the config says so (arXiv 2309.00071, no mscale). */
#include <math.h>

#include "model/model_internal.h"

/* The channel at which a frequency turns `rotations` times over the original context. */
static double channel_of(double rotations, uint32_t dim, double theta, double context) {
    return dim * log(context / (rotations * 2 * M_PI)) / (2 * log(theta));
}

void rotary_frequencies(uint32_t rope_dim, double theta, const struct yarn *yarn, float *frequency) {
    double low = 0, high = 0;
    if (yarn) {
        low = fmax(floor(channel_of(yarn->beta_fast, rope_dim, theta, yarn->original_context)), 0);
        high = fmin(ceil(channel_of(yarn->beta_slow, rope_dim, theta, yarn->original_context)), rope_dim - 1.0);
    }
    for (uint32_t i = 0; i < rope_dim / 2; i++) {
        float f = 1 / (float)pow(theta, (float)(2 * i) / (float)rope_dim);
        if (yarn) {
            float ramp = ((float)i - (float)low) / (float)fmax(high - low, 0.001);
            ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
            f = f / (float)yarn->factor * ramp + f * (1 - ramp);
        }
        frequency[i] = f;
    }
}
