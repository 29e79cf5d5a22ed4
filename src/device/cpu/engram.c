/* engram.c - the gate and the convolution of an Engram layer. */
#include <math.h>

#include "device/cpu/cpu_internal.h"

void cpu_engram_gate(struct device *d, const struct device_engram_gate *g) {
    struct cpu *cpu = cpu_of(d);
    const struct kernel_table *k = &cpu->kernels;
    uint32_t dim = g->dim;
    const float *key_norm = cpu_vector(&g->key_norm, cpu->vector),
                *query_norm = cpu_vector(&g->query_norm, cpu->vector2);
    float *key = cpu->workers[0].vector, *query = cpu->workers[0].vector2;
    for (uint32_t s = 0; s < g->rows; s++) {
        size_t at = ((size_t)s * g->streams + g->stream) * dim;
        k->rms_norm(g->key + s * g->ld, dim, key_norm, g->eps, key);
        k->rms_norm(g->h + at, dim, query_norm, g->eps, query);
        float dot = 0;
        for (uint32_t c = 0; c < dim; c++)
            dot += key[c] * query[c];
        dot /= sqrtf((float)dim);
        float root = sqrtf(fmaxf(fabsf(dot), 1e-6f));
        float gate = kernel_sigmoid(dot > 0 ? root : dot < 0 ? -root : dot); /* NaN stays */
        for (uint32_t c = 0; c < dim; c++)
            g->out[at + c] = gate * g->value[s * g->ld + c];
    }
}

void cpu_engram_conv(struct device *d, const struct device_engram_conv *c) {
    (void)d;
    float taps[64];
    for (uint32_t ch = 0; ch < c->channels; ch++) {
        matrix_decode(&c->kernel, ch, 0, c->taps, taps);
        for (uint32_t s = 0; s < c->rows; s++) {
            uint64_t at = c->first + s;
            float sum = 0;
            for (uint32_t t = 0; t < c->taps; t++) {
                uint64_t back = (uint64_t)(c->taps - 1 - t) * c->dilation;
                if (back > at)
                    continue;
                const float *row = at - back >= c->first ? c->x + (at - back - c->first) * c->channels
                                                         : c->ring + (at - back) % c->ring_rows * c->channels;
                sum += row[ch] * taps[t];
            }
            c->out[(size_t)s * c->channels + ch] += sum * kernel_sigmoid(sum);
        }
    }
}
