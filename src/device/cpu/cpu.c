/*
 * cpu.c - the CPU as a device: memory, sharing work, and the operations that are a loop over a kernel.
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
    (void)e;
    cpu_of(d)->weights_bytes += matrix_bytes(m);
    return SONDE_OK;
}

static void lay_out_worker(const struct device_limits *l, struct cpu_worker *w, struct arena *a) {
    w->vector = arena_take(a, l->width, sizeof(float));
    w->vector2 = arena_take(a, l->width, sizeof(float));
    w->strip = arena_take(a, max_u64(l->rows, BLOCK_TOKENS), STRIP * sizeof(float));
    w->outputs = arena_take(a, l->rows, EXPERT_ROWS * sizeof(float));
    w->weights = arena_take(a, l->keys * l->heads, sizeof(float));
    w->keys = arena_take(a, l->keys, sizeof(*w->keys));
    w->pooled = arena_take(a, 2 * (size_t)l->pool_rows, sizeof(*w->pooled));
    w->scores = arena_take(a, SELECT_ROWS * l->scored, sizeof(float));
    w->ranks = arena_take(a, l->scored, sizeof(uint64_t));
    w->order = arena_take(a, l->scored, sizeof(uint64_t));
    w->scratch = arena_take(a, KERNEL_SCRATCH_BYTES, 1);
}

static void lay_out(struct cpu *cpu, struct arena *a) {
    const struct device_limits *l = &cpu->limits;
    uint64_t slots = max_u64(l->rows, EXPERT_SLOTS), pairs = (uint64_t)l->rows * l->active;
    cpu->vector = arena_take(a, l->width, sizeof(float));
    cpu->vector2 = arena_take(a, l->width, sizeof(float));
    cpu->bias = arena_take(a, l->pool_rows, l->entry * sizeof(float));
    cpu->inputs = arena_take(a, BLOCK_TOKENS, kernel_packed_bytes((uint32_t)l->inputs, 1) + DEVICE_PRODUCTS * 64);
    /* w1's, perhaps w3's and w2's; each begins at a multiple of 64 */
    cpu->slot_inputs =
        arena_take(a, slots + l->experts + 1,
                   2 * kernel_packed_bytes(l->hidden, 1) + kernel_packed_bytes(l->inter, 1) + (size_t)3 * 64);
    cpu->gate = arena_take(a, slots, l->inter * sizeof(float));
    cpu->up = arena_take(a, slots, l->inter * sizeof(float));
    cpu->slot_row = arena_take(a, pairs, sizeof(uint32_t));
    cpu->slot_weight = arena_take(a, pairs, sizeof(float));
    cpu->expert_first = arena_take(a, (size_t)l->experts + 2, sizeof(uint32_t));
    cpu->all_rows = arena_take(a, l->rows, sizeof(uint32_t));
    cpu->runs = arena_take(a, (size_t)l->experts + 1, cpu_expert_run_bytes());
    for (uint32_t i = 0; i < cpu->worker_count; i++)
        lay_out_worker(l, &cpu->workers[i], a);
}

static int cpu_reserve(struct device *d, const struct device_limits *limits, struct sonde_error *e) {
    struct cpu *cpu = cpu_of(d);
    struct arena a = {0};
    cpu->limits = *limits;
    cpu_prefetch_decide(cpu);
    lay_out(cpu, &a);
    void *memory = cpu_alloc(d, a.used);
    if (!memory)
        return err_memory(e);
    cpu_release(d, cpu->memory, cpu->memory_bytes);
    cpu->memory = memory;
    cpu->memory_bytes = a.used;
    a = (struct arena){.base = memory, .size = a.used};
    lay_out(cpu, &a);
    for (uint32_t i = 0; i < limits->rows; i++)
        cpu->all_rows[i] = i;
    return SONDE_OK;
}

static int cpu_finish(struct device *d, struct sonde_error *e) {
    struct cpu *cpu = cpu_of(d);
    bool bad = false;
    for (uint32_t i = 0; i < cpu->worker_count; i++) {
        bad |= cpu->workers[i].not_finite;
        cpu->workers[i].not_finite = false;
    }
    return bad ? err_set(e, SONDE_ERROR_NUMERIC, "a score is not finite") : SONDE_OK;
}

static void cpu_close(struct device *d) {
    struct cpu *cpu = cpu_of(d);
    pool_close(cpu->pool);
    cpu_release(d, cpu->memory, cpu->memory_bytes);
    free(cpu->workers);
    free(cpu);
}

const float *cpu_vector(const struct matrix *m, float *out) {
    if (!m || !m->data)
        return NULL;
    matrix_decode(m, 0, 0, m->cols, out);
    return out;
}

/* ---------------------------------------------------------------------------------- many workers */

/* Work below this, in multiply-adds or so, is done sooner by one worker than others are woken. */
enum { WORTH_SHARING = 1 << 15, ITEMS_OF_HAND = 16 };

struct each {
    struct cpu *cpu;
    void (*item)(void *context, struct cpu_worker *worker, uint64_t i);
    void *context;
    uint64_t items, grain; /* grain: consecutive ones that are taken together */
};

static void run_each(void *context, uint32_t number) {
    struct each *e = context;
    uint32_t owner, taken;
    while (pool_take(e->cpu->pool, 0, number, &owner, &taken)) {
        uint64_t from = e->items * owner / e->cpu->worker_count, to = e->items * (owner + 1) / e->cpu->worker_count;
        from += taken * e->grain;
        to = min_u64(to, from + e->grain);
        for (; from < to; from++)
            e->item(e->context, &e->cpu->workers[number], from);
    }
}

void cpu_each(struct cpu *cpu, uint64_t items, uint64_t cost,
              void (*item)(void *context, struct cpu_worker *worker, uint64_t i), void *context) {
    struct each e = {cpu, item, context, items, 1};
    if (items < 2 || items * cost < WORTH_SHARING || cpu->worker_count < 2) {
        for (uint64_t i = 0; i < items; i++)
            item(context, &cpu->workers[0], i);
        return;
    }
    uint64_t hand = ceil_div(items, cpu->worker_count);
    e.grain = ceil_div(hand, ITEMS_OF_HAND);
    pool_deal(cpu->pool, 0, (uint32_t)ceil_div(hand, e.grain));
    pool_run(cpu->pool, run_each, &e);
}

/* ---------------------------------------------------------------------------- loops over kernels */

/* A kernel over rows: what each operation below gives to its item function. */
struct rows {
    const struct kernel_table *kernels;
    float *x, *y;
    const float *from, *weight, *more;
    size_t ldx, ldy;
    uint32_t n, heads, block;
    float eps, factor;
};

static void cpu_embed(struct device *d, const struct matrix *table, const int64_t *ids, uint32_t count, float *out,
                      size_t ldout) {
    if (cpu_of(d)->ahead)
        cpu_prefetch_rows(table, ids, count);
    for (uint32_t s = 0; s < count; s++)
        matrix_decode(table, (uint32_t)ids[s], 0, table->cols, out + s * ldout);
}

static void norm_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->rms_norm(r->from + s * r->ldx, r->n, r->weight, r->eps, r->y + s * r->ldy);
}

static void cpu_norm(struct device *d, const float *x, size_t ldx, uint32_t rows, uint32_t n,
                     const struct matrix *weight, float eps, float *y, size_t ldy) {
    struct cpu *cpu = cpu_of(d);
    struct rows r = {.kernels = &cpu->kernels, .from = x, .ldx = ldx, .n = n, .eps = eps, .y = y, .ldy = ldy};
    r.weight = cpu_vector(weight, cpu->vector);
    cpu_each(cpu, rows, n, norm_row, &r);
}

struct turning {
    const float *frequency;
    const uint64_t *positions;
    uint32_t half;
    float *turns;
};

static void turn_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct turning *t = context;
    (void)worker;
    for (uint32_t i = 0; i < t->half; i++) {
        float angle = (float)t->positions[s] * t->frequency[i], *turn = t->turns + 2 * (s * t->half + i);
        turn[0] = cosf(angle);
        turn[1] = sinf(angle);
    }
}

static void cpu_angles(struct device *d, const float *frequency, uint32_t half, const uint64_t *positions,
                       uint32_t rows, float *turns) {
    struct turning t = {frequency, positions, half, turns};
    cpu_each(cpu_of(d), rows, (uint64_t)half * 64, turn_row, &t);
}

static void rotate_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct rows *r = context;
    uint32_t half = r->block;
    (void)worker;
    for (uint32_t h = 0; h < r->heads; h++)
        r->kernels->rotate(r->x + (s * r->heads + h + 1) * r->n - 2 * (size_t)half, half, r->more + 2 * s * half,
                           r->factor);
}

static void cpu_rotate(struct device *d, float *x, uint32_t rows, uint32_t heads, uint32_t dim, const float *turns,
                       uint32_t half, int direction) {
    struct cpu *cpu = cpu_of(d);
    struct rows r = {.kernels = &cpu->kernels, .x = x, .heads = heads, .n = dim, .more = turns, .block = half};
    r.factor = (float)direction;
    cpu_each(cpu, rows, (uint64_t)heads * half * 2, rotate_row, &r);
}

static void hadamard_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->hadamard(r->x + s * r->n, r->n);
}

static void cpu_hadamard(struct device *d, float *x, uint64_t rows, uint32_t n) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .x = x, .n = n};
    cpu_each(cpu_of(d), rows, (uint64_t)n * 4, hadamard_row, &r);
}

/* What has no rows is cut into pieces of this many floats, a multiple of every block. */
enum { PIECE = 8192 };

static void fake_e2m1_piece(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->fake_e2m1(r->x + i * PIECE, min_u64(PIECE, r->ldx - i * PIECE), r->block);
}

static void cpu_fake_e2m1(struct device *d, float *x, uint64_t count, uint32_t block) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .x = x, .ldx = count, .block = block};
    cpu_each(cpu_of(d), ceil_div(count, PIECE), PIECE, fake_e2m1_piece, &r);
}

static void fake_e4m3_piece(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->fake_e4m3(r->x + i * PIECE, min_u64(PIECE, r->ldx - i * PIECE), r->block);
}

static void cpu_fake_e4m3(struct device *d, float *x, uint64_t count, uint32_t block) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .x = x, .ldx = count, .block = block};
    cpu_each(cpu_of(d), ceil_div(count, PIECE), PIECE, fake_e4m3_piece, &r);
}

static void fake_e2m1_e4m3_piece(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct rows *r = context;
    (void)worker;
    e2m1_e4m3_fake(r->x + i * PIECE, min_u64(PIECE, r->ldx - i * PIECE), r->block);
}

static void cpu_fake_e2m1_e4m3(struct device *d, float *x, uint64_t count, uint32_t block) {
    struct rows r = {.x = x, .ldx = count, .block = block};
    cpu_each(cpu_of(d), ceil_div(count, PIECE), PIECE, fake_e2m1_e4m3_piece, &r);
}

static void round_bf16_piece(void *context, struct cpu_worker *worker, uint64_t i) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->round_bf16(r->x + i * PIECE, min_u64(PIECE, r->ldx - i * PIECE));
}

static void cpu_round_bf16(struct device *d, float *x, uint64_t count) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .x = x, .ldx = count};
    cpu_each(cpu_of(d), ceil_div(count, PIECE), PIECE, round_bf16_piece, &r);
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

static void add_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->axpy(r->y + s * r->ldy, r->from + s * r->ldx, r->n, 1);
}

static void cpu_add(struct device *d, float *y, size_t ldy, const float *x, size_t ldx, uint64_t rows, uint32_t n) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .from = x, .ldx = ldx, .y = y, .ldy = ldy, .n = n};
    cpu_each(cpu_of(d), rows, n, add_row, &r);
}

static void cpu_repeat(struct device *d, float *to, const float *from, uint32_t rows, uint32_t streams, uint32_t n) {
    (void)d;
    for (uint32_t s = 0; s < rows; s++)
        for (uint32_t j = 0; j < streams; j++)
            memcpy(to + ((size_t)s * streams + j) * n, from + (size_t)s * n, n * sizeof(float));
}

struct storing {
    const struct kernel_table *kernels;
    const struct row_format *format;
    const float *x;
    uint8_t *to;
    size_t bytes;
};

static void store_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct storing *t = context;
    (void)worker;
    t->kernels->store_row(t->format, t->x + s * t->format->dim, t->to + s * t->bytes);
}

static void cpu_store_rows(struct device *d, const struct row_format *format, const float *x, uint64_t rows, void *to) {
    struct storing t = {&cpu_of(d)->kernels, format, x, to, row_bytes(format)};
    cpu_each(cpu_of(d), rows, (uint64_t)format->dim * 2, store_row, &t);
}

static void cpu_ring_store(struct device *d, void *ring, uint32_t capacity, size_t bytes, const void *rows,
                           uint64_t first, uint32_t count) {
    (void)d;
    for (uint32_t s = count > capacity ? count - capacity : 0; s < count; s++)
        memcpy((uint8_t *)ring + (first + s) % capacity * bytes, (const uint8_t *)rows + s * bytes, bytes);
}

/* pre in more */
static void collapse_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct rows *r = context;
    (void)worker;
    r->kernels->hc_collapse(r->from + s * r->heads * r->n, r->heads, r->n, r->more + s * r->heads, r->y + s * r->n);
}

static void cpu_collapse(struct device *d, const float *h, const float *pre, uint32_t rows, uint32_t streams,
                         uint32_t dim, float *x) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .from = h, .more = pre, .heads = streams, .n = dim, .y = x};
    cpu_each(cpu_of(d), rows, (uint64_t)streams * dim, collapse_row, &r);
}

/* post and comb in more and weight */
static void spread_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct rows *r = context;
    uint32_t streams = r->heads;
    (void)worker;
    r->kernels->hc_spread(r->x + s * streams * r->n, streams, r->n, r->from + s * r->n, r->more + s * streams,
                          r->weight + s * streams * streams);
}

static void cpu_spread(struct device *d, float *h, const float *y, const float *post, const float *comb, uint32_t rows,
                       uint32_t streams, uint32_t dim) {
    struct rows r = {.kernels = &cpu_of(d)->kernels, .x = h, .from = y, .more = post, .weight = comb};
    r.heads = streams;
    r.n = dim;
    cpu_each(cpu_of(d), rows, (uint64_t)streams * streams * dim, spread_row, &r);
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
    .upload = cpu_download, /* its memory is the host's */
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
    .fake_e2m1_e4m3 = cpu_fake_e2m1_e4m3,
    .round_bf16 = cpu_round_bf16,
    .scale = cpu_scale,
    .copy = cpu_copy,
    .add = cpu_add,
    .repeat = cpu_repeat,
    .store_rows = cpu_store_rows,
    .ring_store = cpu_ring_store,
    .attend = cpu_attend,
    .pool = cpu_pool,
    .select = cpu_select,
    .route = cpu_route,
    .experts = cpu_experts,
    .hyper = cpu_hyper,
    .collapse = cpu_collapse,
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
    cpu->invariant = options->invariant;
    kernel_table_init(&cpu->kernels, level, cpu->invariant);
    rc = pool_open(options->threads, &cpu->pool, e);
    if (!rc) {
        cpu->worker_count = pool_workers(cpu->pool);
        cpu->workers = calloc(cpu->worker_count, sizeof(*cpu->workers));
        rc = cpu->workers ? SONDE_OK : err_memory(e);
    }
    if (rc)
        cpu_close(&cpu->device);
    else
        *d = &cpu->device;
    return rc;
}
