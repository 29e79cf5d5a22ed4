/*
 * cpu.c - the CPU as a device: memory, and the operations that are a loop over a kernel.
 *
 * Memory comes from anonymous maps without reservation, so a session for a million tokens costs pages only
 * as it fills. Weights are used where they are mapped.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "device/cpu/cpu_internal.h"

/* --------------------------------------------------------------------------------------- memory */

static void *cpu_alloc(struct device *d, size_t bytes) {
    (void)d;
    void *memory =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void cpu_release(struct device *d, void *memory, size_t bytes) {
    (void)d;
    if (memory)
        munmap(memory, bytes ? bytes : 1);
}

static void cpu_download(struct device *d, void *to, const void *from, size_t bytes) {
    (void)d;
    memcpy(to, from, bytes);
}

static int cpu_prepare(struct device *d, struct matrix *m, struct sonde_error *e) {
    (void)d, (void)m, (void)e;
    return SONDE_OK;
}

static void layout(struct cpu *cpu, struct arena *a) {
    const struct device_limits *l = &cpu->limits;
    cpu->vector = arena_take(a, l->width, sizeof(float));
    cpu->vector2 = arena_take(a, l->width, sizeof(float));
    cpu->weights = arena_take(a, l->keys * l->heads, sizeof(float));
    cpu->keys = arena_take(a, max_u64(l->keys, 2 * (uint64_t)l->pool_rows), sizeof(float *));
    cpu->bias = arena_take(a, l->pool_rows, l->entry * sizeof(float));
    cpu->scores = arena_take(a, l->scored, sizeof(float));
    cpu->ranks = arena_take(a, l->scored, sizeof(uint64_t));
    cpu->order = arena_take(a, l->scored, sizeof(uint64_t));
    cpu->expert_x = arena_take(a, l->rows, l->width * sizeof(float));
    cpu->expert_y = arena_take(a, l->rows, l->width * sizeof(float));
    cpu->gate = arena_take(a, l->rows, l->inter * sizeof(float));
    cpu->up = arena_take(a, l->rows, l->inter * sizeof(float));
    cpu->expert_row = arena_take(a, l->rows, sizeof(uint32_t));
    cpu->expert_weight = arena_take(a, l->rows, sizeof(float));
}

static int cpu_reserve(struct device *d, const struct device_limits *limits, struct sonde_error *e) {
    struct cpu *cpu = cpu_of(d);
    struct arena a = {0};
    cpu->limits = *limits;
    layout(cpu, &a);
    void *memory = cpu_alloc(d, a.used);
    if (!memory)
        return err_memory(e);
    cpu_release(d, cpu->memory, cpu->memory_bytes);
    cpu->memory = memory;
    cpu->memory_bytes = a.used;
    a = (struct arena){.base = memory, .size = a.used};
    layout(cpu, &a);
    return SONDE_OK;
}

static int cpu_finish(struct device *d, struct sonde_error *e) {
    bool bad = cpu_of(d)->not_finite;
    cpu_of(d)->not_finite = false;
    return bad ? err_set(e, SONDE_ERROR_NUMERIC, "a score is not finite") : SONDE_OK;
}

static void cpu_close(struct device *d) {
    struct cpu *cpu = cpu_of(d);
    pool_close(cpu->pool);
    cpu_release(d, cpu->memory, cpu->memory_bytes);
    free(cpu);
}

const float *cpu_vector(const struct matrix *m, float *out) {
    if (!m || !m->data)
        return NULL;
    matrix_decode(m, 0, 0, m->cols, out);
    return out;
}

/* ---------------------------------------------------------------------------- loops over kernels */

static void cpu_linear(struct device *d, const struct matrix *w, uint32_t row, uint32_t rows, const float *x,
                       size_t ldx, uint32_t count, float *y, size_t ldy) {
    cpu_of(d)->kernels.gemm(w, row, rows, x, ldx, count, y, ldy);
}

static void cpu_embed(struct device *d, const struct matrix *table, const int64_t *ids, uint32_t count, float *out,
                      size_t ldout) {
    (void)d;
    for (uint32_t s = 0; s < count; s++)
        matrix_decode(table, (uint32_t)ids[s], 0, table->cols, out + s * ldout);
}

static void cpu_norm(struct device *d, const float *x, size_t ldx, uint32_t rows, uint32_t n,
                     const struct matrix *weight, float eps, float *y, size_t ldy) {
    struct cpu *cpu = cpu_of(d);
    const float *w = cpu_vector(weight, cpu->vector);
    for (uint32_t s = 0; s < rows; s++)
        cpu->kernels.rms_norm(x + s * ldx, n, w, eps, y + s * ldy);
}

static void cpu_angles(struct device *d, const float *frequency, uint32_t half, const uint64_t *positions,
                       uint32_t rows, float *turns) {
    (void)d;
    for (uint32_t s = 0; s < rows; s++)
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)positions[s] * frequency[i], *turn = turns + 2 * ((size_t)s * half + i);
            turn[0] = cosf(angle);
            turn[1] = sinf(angle);
        }
}

static void cpu_rotate(struct device *d, float *x, uint32_t rows, uint32_t heads, uint32_t dim, const float *turns,
                       uint32_t half, int direction) {
    struct cpu *cpu = cpu_of(d);
    for (uint32_t s = 0; s < rows; s++)
        for (uint32_t h = 0; h < heads; h++)
            cpu->kernels.rotate(x + ((size_t)s * heads + h + 1) * dim - 2 * (size_t)half, half,
                                turns + 2 * (size_t)s * half, (float)direction);
}

static void cpu_hadamard(struct device *d, float *x, uint64_t rows, uint32_t n) {
    for (uint64_t s = 0; s < rows; s++)
        cpu_of(d)->kernels.hadamard(x + s * n, n);
}

static void cpu_fake_e4m3(struct device *d, float *x, uint64_t rows, size_t ld, uint32_t n, uint32_t block) {
    for (uint64_t s = 0; s < rows; s++)
        cpu_of(d)->kernels.fake_e4m3(x + s * ld, n, block);
}

static void cpu_fake_e2m1(struct device *d, float *x, uint64_t count, uint32_t block) {
    cpu_of(d)->kernels.fake_e2m1(x, count, block);
}

static void cpu_round_bf16(struct device *d, float *x, uint64_t count) {
    cpu_of(d)->kernels.round_bf16(x, count);
}

static void cpu_scale(struct device *d, float *x, uint64_t count, float factor) {
    (void)d;
    for (uint64_t i = 0; i < count; i++)
        x[i] *= factor;
}

static void cpu_copy(struct device *d, float *to, const float *from, uint64_t count) {
    (void)d;
    memmove(to, from, count * sizeof(float));
}

static void cpu_add(struct device *d, float *y, size_t ldy, const float *x, size_t ldx, uint64_t rows, uint32_t n) {
    for (uint64_t s = 0; s < rows; s++)
        cpu_of(d)->kernels.axpy(y + s * ldy, x + s * ldx, n, 1);
}

static void cpu_repeat(struct device *d, float *to, const float *from, uint32_t rows, uint32_t streams, uint32_t n) {
    (void)d;
    for (uint32_t s = 0; s < rows; s++)
        for (uint32_t j = 0; j < streams; j++)
            memcpy(to + ((size_t)s * streams + j) * n, from + (size_t)s * n, n * sizeof(float));
}

static void cpu_ring_store(struct device *d, float *ring, uint32_t capacity, uint32_t width, const float *rows,
                           uint64_t first, uint32_t count) {
    (void)d;
    for (uint32_t s = count > capacity ? count - capacity : 0; s < count; s++)
        memcpy(ring + (first + s) % capacity * width, rows + (size_t)s * width, width * sizeof(float));
}

/* ------------------------------------------------------------------------------ hyper-connections */

static void cpu_hyper(struct device *d, const struct device_hyper *h) {
    struct cpu *cpu = cpu_of(d);
    uint32_t n = h->streams, mixes = h->fn.rows, wide = n * h->dim;
    float m[(2 + HC_MAX_STREAMS) * HC_MAX_STREAMS], base[(2 + HC_MAX_STREAMS) * HC_MAX_STREAMS], scale[3];
    cpu_vector(&h->base, base);
    cpu_vector(&h->scale, scale);
    for (uint32_t s = 0; s < h->rows; s++) {
        const float *streams = h->h + (size_t)s * wide;
        cpu->kernels.rms_norm(streams, wide, NULL, h->norm_eps, cpu->vector);
        cpu->kernels.gemm(&h->fn, 0, mixes, cpu->vector, wide, 1, m, mixes);
        if (h->iterations)
            cpu->kernels.hc_weights(m, n, scale, base, h->iterations, h->eps, h->post + (size_t)s * n,
                                    h->comb + (size_t)s * n * n);
        else
            for (uint32_t j = 0; j < n; j++)
                m[j] = kernel_sigmoid(m[j] * scale[0] + base[j]) + h->eps;
        cpu->kernels.hc_collapse(streams, n, h->dim, m, h->x + (size_t)s * h->dim);
    }
}

static void cpu_spread(struct device *d, float *h, const float *y, const float *post, const float *comb, uint32_t rows,
                       uint32_t streams, uint32_t dim) {
    for (uint32_t s = 0; s < rows; s++)
        cpu_of(d)->kernels.hc_spread(h + (size_t)s * streams * dim, streams, dim, y + (size_t)s * dim,
                                     post + (size_t)s * streams, comb + (size_t)s * streams * streams);
}

static bool cpu_finite(struct device *d, const float *x, uint64_t count) {
    (void)d;
    float sum = 0; /* x - x is 0 for finite x, NaN otherwise */
    for (uint64_t i = 0; i < count; i++)
        sum += x[i] - x[i];
    return sum == 0;
}

static const struct device_ops ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .download = cpu_download,
    .prepare = cpu_prepare,
    .reserve = cpu_reserve,
    .finish = cpu_finish,
    .linear = cpu_linear,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .angles = cpu_angles,
    .rotate = cpu_rotate,
    .hadamard = cpu_hadamard,
    .fake_e4m3 = cpu_fake_e4m3,
    .fake_e2m1 = cpu_fake_e2m1,
    .round_bf16 = cpu_round_bf16,
    .scale = cpu_scale,
    .copy = cpu_copy,
    .add = cpu_add,
    .repeat = cpu_repeat,
    .ring_store = cpu_ring_store,
    .attend = cpu_attend,
    .pool = cpu_pool,
    .select = cpu_select,
    .route = cpu_route,
    .experts = cpu_experts,
    .hyper = cpu_hyper,
    .spread = cpu_spread,
    .engram_gate = cpu_engram_gate,
    .engram_conv = cpu_engram_conv,
    .finite = cpu_finite,
};

static int choose_level(const char *name, enum kernel_level *level, struct sonde_error *e) {
    *level = kernel_level_best();
    if (!name)
        return SONDE_OK;
    if (!kernel_level_parse(name, level))
        return err_set(e, SONDE_ERROR_ARGUMENT, "there is no kernel level '%s'", name);
    if (!kernel_level_runs(*level))
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "this processor does not run kernel level '%s'", name);
    return SONDE_OK;
}

int device_cpu_open(const struct device_cpu_options *options, struct device **d, struct sonde_error *e) {
    enum kernel_level level;
    int rc = choose_level(options->level, &level, e);
    if (rc)
        return rc;
    struct cpu *cpu = calloc(1, sizeof(*cpu));
    if (!cpu)
        return err_memory(e);
    cpu->device.ops = &ops;
    kernel_table_init(&cpu->kernels, level);
    rc = pool_open(options->threads, &cpu->pool, e);
    if (rc)
        cpu_close(&cpu->device);
    else
        *d = &cpu->device;
    return rc;
}
