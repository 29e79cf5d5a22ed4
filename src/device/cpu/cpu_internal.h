/*
 * cpu_internal.h - the CPU device's own state, shared by its files.
 *
 * Host memory is device memory; every operation is done when it returns. Scratch is taken from one arena
 * made by reserve(), sized by running the same layout twice.
 */
#ifndef DEVICE_CPU_CPU_INTERNAL_H
#define DEVICE_CPU_CPU_INTERNAL_H

#include "device/device.h"
#include "kernel/kernel.h"

struct cpu {
    struct device device; /* first: a struct device * is a struct cpu * */
    struct kernel_table kernels;
    struct pool *pool;
    struct device_limits limits;
    void *memory; /* of the scratch below */
    size_t memory_bytes;
    float *vector;        /* [width]: a decoded norm weight, bias ... */
    float *vector2;       /* [width] */
    float *weights;       /* [heads, keys]: attention */
    const float **keys;   /* [max(keys, 2 pool_rows)] */
    float *bias;          /* [pool_rows, entry]: of a pool */
    bool not_finite;      /* a value that only chooses was not finite; finish() tells */
    float *scores;        /* [scored] */
    uint64_t *ranks;      /* [scored] */
    uint64_t *order;      /* [scored]: ranks, partly sorted */
    float *expert_x;      /* [rows, width]: tokens gathered for one expert */
    float *gate, *up;     /* [rows, inter] */
    float *expert_y;      /* [rows, width] */
    uint32_t *expert_row; /* [rows] */
    float *expert_weight; /* [rows] */
};

static inline struct cpu *cpu_of(struct device *d) {
    return (struct cpu *)d;
}

/* The decoded single row of m into `out`, or NULL when m has no data. */
const float *cpu_vector(const struct matrix *m, float *out);

void cpu_attend(struct device *d, const struct device_attend *a);
void cpu_pool(struct device *d, const struct device_pool *p);
void cpu_select(struct device *d, const struct device_select *s);
void cpu_route(struct device *d, const struct device_route *r);
void cpu_experts(struct device *d, const struct device_experts *x);
void cpu_engram_gate(struct device *d, const struct device_engram_gate *g);
void cpu_engram_conv(struct device *d, const struct device_engram_conv *c);

#endif
