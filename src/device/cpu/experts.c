/*
 * experts.c - routing, and the experts themselves.
 *
 * The tokens of a step are grouped by expert, so each expert's weights are read once for all of them. Experts run in
 * batches, the shared one in the last, each batch a parallel region of four phases:
 *
 *     inputs   the tokens of each expert are laid out for its matrices
 *     first    rows of all w1 and w3
 *     middle   the gated unit, laid out for w2
 *     second   rows of y, each through the w2 of all experts in ascending order and then the shared one
 *
 * Sums run in that order as the oracle's do, so a token's result does not depend on who shares its step. Every matrix
 * is divided among the workers by rows, which balances the bytes they read whatever the routing.
 */
#include <math.h>

#include "device/cpu/cpu_internal.h"

/* --------------------------------------------------------------------------------------- routing */

static void score_logits(const float *logits, uint32_t n, enum device_scoring scoring, float *score) {
    if (scoring == DEVICE_SOFTMAX) {
        float top = -INFINITY, total = 0;
        for (uint32_t e = 0; e < n; e++)
            top = fmaxf(top, logits[e]);
        for (uint32_t e = 0; e < n; e++)
            total += score[e] = expf(logits[e] - top);
        for (uint32_t e = 0; e < n; e++)
            score[e] /= total;
        return;
    }
    for (uint32_t e = 0; e < n; e++) {
        float z = logits[e];
        if (scoring == DEVICE_SIGMOID)
            score[e] = kernel_sigmoid(z);
        else /* softplus without overflow: max(z, 0) + log(1 + e^-|z|) */
            score[e] = sqrtf((z < 0 ? 0 : z) + log1pf(expf(-fabsf(z))));
    }
}

/* The `active` best of score + bias in descending order; ties go to the lower number. */
static void choose(struct cpu_worker *worker, const float *score, const float *bias, uint32_t n, uint32_t active,
                   int32_t *index) {
    float *value = worker->vector2;
    for (uint32_t e = 0; e < n; e++) {
        value[e] = score[e] + (bias ? bias[e] : 0);
        worker->not_finite |= !isfinite(value[e]);
    }
    for (uint32_t j = 0; j < active; j++) {
        uint32_t best = 0;
        for (uint32_t e = 1; e < n; e++)
            best = value[e] > value[best] ? e : best;
        index[j] = (int32_t)best;
        value[best] = -INFINITY;
    }
}

struct routing {
    const struct device_route *r;
    const float *bias;
};

static void route_row(void *context, struct cpu_worker *worker, uint64_t s) {
    const struct routing *routing = context;
    const struct device_route *r = routing->r;
    int32_t *index = r->index + s * r->active;
    float *weight = r->weight + s * r->active, *score = worker->vector, total = 0;
    score_logits(r->logits + s * r->experts, r->experts, r->scoring, score);
    if (r->forced)
        memcpy(index, r->forced + s * r->active, r->active * sizeof(*index));
    else
        choose(worker, score, routing->bias, r->experts, r->active, index);
    for (uint32_t j = 0; j < r->active; j++)
        total += weight[j] = score[index[j]];
    for (uint32_t j = 0; j < r->active; j++)
        weight[j] = (r->scoring == DEVICE_SOFTMAX ? weight[j] : weight[j] / total) * r->scale;
}

void cpu_route(struct device *d, const struct device_route *r) {
    struct cpu *cpu = cpu_of(d);
    struct routing routing = {r, cpu_vector(&r->bias, cpu->vector)};
    cpu_each(cpu, r->rows, (uint64_t)r->experts * (16 + r->active), route_row, &routing);
}

/* ---------------------------------------------------------------------------------------- experts */

enum { INPUTS, FIRST, MIDDLE, SECOND }; /* phases, and the deals of their items */

/* One expert with the tokens it is to work on: slots [slot, slot + count) of the batch. */
struct expert_run {
    const struct device_expert *expert;
    const uint32_t *row;  /* [count]: of the step */
    const float *weight;  /* [count]; NULL: 1 */
    uint32_t slot, count; /* first in gate and up */
    struct cpu_input in, in3, middle;
    bool apart;             /* w3 wants its input otherwise than w1 */
    uint32_t first[SECOND]; /* where its pieces begin in each phase */
};

size_t cpu_expert_run_bytes(void) {
    return sizeof(struct expert_run);
}

struct batch {
    struct cpu *cpu;
    const struct device_experts *x;
    struct expert_run *runs;
    uint32_t count, dim, inter; /* of runs; D; the widest inter */
    uint32_t pieces[SECOND];    /* in each phase */
};

static uint32_t worker_rows(const struct cpu *cpu, uint32_t rows) {
    return (uint32_t)ceil_div(ceil_div(rows, 16), cpu->worker_count) * 16;
}

/* The run that has piece `at` of a phase. */
static struct expert_run *find_run(const struct batch *b, int phase, uint32_t at) {
    uint32_t low = 0, high = b->count;
    while (high - low > 1) {
        uint32_t half = (low + high) / 2;
        *(b->runs[half].first[phase] <= at ? &low : &high) = half;
    }
    return &b->runs[low];
}

static void prepare_inputs(struct batch *b, struct cpu_worker *worker, uint32_t at) {
    struct expert_run *run = find_run(b, INPUTS, at);
    uint32_t part = at - run->first[INPUTS], parts = cpu_input_parts(&run->in);
    if (part < parts)
        cpu_input_prepare(b->cpu, worker, &run->in, part);
    else
        cpu_input_prepare(b->cpu, worker, &run->in3, part - parts);
}

/* Rows of w1 or w3: items go through the runs, first all of one's w1, then its w3. */
static void multiply_first(struct batch *b, struct cpu_worker *worker, uint32_t owner, uint32_t item) {
    struct expert_run *run = find_run(b, FIRST, item);
    uint32_t inter = run->expert->w1.rows, pieces = (uint32_t)ceil_div(worker_rows(b->cpu, inter), EXPERT_ROWS);
    uint32_t piece = item - run->first[FIRST], from, to;
    bool third = piece >= pieces;
    const struct matrix *w = third ? &run->expert->w3 : &run->expert->w1;
    cpu_part(b->cpu, inter, owner, &from, &to);
    from += (third ? piece - pieces : piece) * EXPERT_ROWS;
    if (from >= to)
        return;
    uint32_t rows = to - from < EXPERT_ROWS ? to - from : EXPERT_ROWS;
    float *y = (third ? b->cpu->up : b->cpu->gate) + (size_t)run->slot * b->inter + from;
    cpu_input_multiply(b->cpu, worker, third && run->apart ? &run->in3 : &run->in, w, from, rows, y, inter);
    if (b->x->round_storage == FORMAT_BF16)
        for (uint32_t i = 0; i < run->count; i++)
            b->cpu->kernels.round_bf16(y + (size_t)i * inter, rows);
}

/* One token's gated unit, or some of its channels. */
static void gate_slot(struct batch *b, const struct expert_run *run, uint32_t i, uint32_t col, uint32_t cols) {
    size_t at = (size_t)run->slot * b->inter + (size_t)i * run->expert->w1.rows + col;
    b->cpu->kernels.swiglu(b->cpu->gate + at, b->cpu->up + at, cols, b->x->limit, run->weight ? run->weight[i] : 1);
    if (b->x->round_storage == FORMAT_BF16)
        b->cpu->kernels.round_bf16(b->cpu->gate + at, cols);
}

enum { MIDDLE_COLS = 4 * STRIP }; /* the columns of a part of an input */

static void prepare_middle(struct batch *b, struct cpu_worker *worker, uint32_t at) {
    struct expert_run *run = find_run(b, MIDDLE, at);
    uint32_t part = at - run->first[MIDDLE], col = part * MIDDLE_COLS, inter = run->expert->w1.rows;
    for (uint32_t i = 0; i < run->count; i++)
        gate_slot(b, run, i, col, inter - col < MIDDLE_COLS ? inter - col : MIDDLE_COLS);
    if (run->middle.data)
        cpu_input_prepare(b->cpu, worker, &run->middle, part);
}

/* Rows [from, from + rows) of all runs' w2, added to y in the order of the runs. */
static void multiply_second(struct batch *b, struct cpu_worker *worker, uint32_t owner, uint32_t item) {
    uint32_t from, to;
    cpu_part(b->cpu, b->dim, owner, &from, &to);
    from += item * EXPERT_ROWS;
    if (from >= to)
        return;
    uint32_t rows = to - from < EXPERT_ROWS ? to - from : EXPERT_ROWS;
    for (uint32_t r = 0; r < b->count; r++) {
        const struct expert_run *run = &b->runs[r];
        cpu_input_multiply(b->cpu, worker, &run->middle, &run->expert->w2, from, rows, worker->outputs, rows);
        if (b->x->round_storage == FORMAT_BF16)
            b->cpu->kernels.round_bf16(worker->outputs, (size_t)run->count * rows);
        for (uint32_t i = 0; i < run->count; i++)
            b->cpu->kernels.axpy(b->x->y + (size_t)run->row[i] * b->dim + from, worker->outputs + (size_t)i * rows,
                                 rows, 1);
    }
}

static void run_batch(void *context, uint32_t number) {
    struct batch *b = context;
    struct pool *pool = b->cpu->pool;
    struct cpu_worker *worker = &b->cpu->workers[number];
    uint32_t owner, item, workers = b->cpu->worker_count;
    while (pool_take(pool, INPUTS, number, &owner, &item))
        if (item * workers + owner < b->pieces[INPUTS])
            prepare_inputs(b, worker, item * workers + owner);
    pool_barrier(pool);
    while (pool_take(pool, FIRST, number, &owner, &item))
        multiply_first(b, worker, owner, item);
    pool_barrier(pool);
    while (pool_take(pool, MIDDLE, number, &owner, &item))
        if (item * workers + owner < b->pieces[MIDDLE])
            prepare_middle(b, worker, item * workers + owner);
    pool_barrier(pool);
    while (pool_take(pool, SECOND, number, &owner, &item))
        multiply_second(b, worker, owner, item);
}

static bool same_kind(const struct matrix *a, const struct matrix *b) {
    return a->format == b->format && a->scale_format == b->scale_format && a->block_rows == b->block_rows &&
           a->block_cols == b->block_cols;
}

/* Adds an expert with its tokens to the batch. */
static void add_run(struct batch *b, const struct device_expert *expert, const uint32_t *row, const float *weight,
                    uint32_t count, uint32_t slot, uint8_t **room) {
    const struct device_experts *x = b->x;
    struct expert_run *run = &b->runs[b->count++];
    uint32_t inter = expert->w1.rows;
    *run = (struct expert_run){.expert = expert, .row = row, .weight = weight, .slot = slot, .count = count};
    struct device_product p = {.w = &expert->w1, .x = x->x, .ldx = b->dim, .block = x->block};
    run->in = cpu_input_of(b->cpu, &p, row, count, x->bf16, room);
    run->apart = !same_kind(&expert->w1, &expert->w3);
    p.w = &expert->w3;
    if (run->apart)
        run->in3 = cpu_input_of(b->cpu, &p, row, count, x->bf16, room);
    p = (struct device_product){
        .w = &expert->w2, .x = b->cpu->gate + (size_t)slot * b->inter, .ldx = inter, .block = x->block};
    run->middle = cpu_input_of(b->cpu, &p, NULL, count, x->bf16, room);
    memcpy(run->first, b->pieces, sizeof(run->first));
    b->pieces[INPUTS] += cpu_input_parts(&run->in) + (run->apart ? cpu_input_parts(&run->in3) : 0);
    b->pieces[FIRST] += 2 * (uint32_t)ceil_div(worker_rows(b->cpu, inter), EXPERT_ROWS);
    b->pieces[MIDDLE] += (uint32_t)ceil_div(inter, MIDDLE_COLS);
}

/* True if another expert is not to be read ahead before those of the batch have run. */
static bool batch_ahead(const struct batch *b) {
    return b->cpu->ahead && b->count && (b->count + 1) * 3 * matrix_bytes(&b->x->experts->w1) > b->cpu->ahead;
}

static void finish_batch(struct batch *b) {
    struct cpu *cpu = b->cpu;
    if (!b->count)
        return;
    for (uint32_t i = 0; cpu->ahead && i < b->count; i++)
        cpu_prefetch_expert(b->runs[i].expert);
    pool_deal(cpu->pool, INPUTS, (uint32_t)ceil_div(b->pieces[INPUTS], cpu->worker_count));
    pool_deal(cpu->pool, FIRST, b->pieces[FIRST]);
    pool_deal(cpu->pool, MIDDLE, (uint32_t)ceil_div(b->pieces[MIDDLE], cpu->worker_count));
    pool_deal(cpu->pool, SECOND, (uint32_t)ceil_div(worker_rows(cpu, b->dim), EXPERT_ROWS));
    pool_run(cpu->pool, run_batch, b);
    b->count = 0;
    memset(b->pieces, 0, sizeof(b->pieces));
}

/* Sorts the routed pairs of token and expert by expert: slot_row, slot_weight, expert_first. */
static void sort_slots(struct cpu *cpu, const struct device_experts *x) {
    uint32_t *first = cpu->expert_first;
    size_t pairs = (size_t)x->rows * x->active;
    memset(first, 0, ((size_t)x->count + 1) * sizeof(*first));
    for (size_t i = 0; i < pairs; i++)
        first[x->index[i] + 1]++;
    for (uint32_t e = 0; e < x->count; e++)
        first[e + 1] += first[e];
    for (size_t i = 0; i < pairs; i++) { /* first[e] runs ahead to where e ends ... */
        uint32_t slot = first[x->index[i]]++;
        cpu->slot_row[slot] = (uint32_t)(i / x->active);
        cpu->slot_weight[slot] = x->weight[i];
    }
    memmove(first + 1, first, x->count * sizeof(*first)); /* ... which is where e + 1 begins */
    first[0] = 0;
}

void cpu_experts(struct device *d, const struct device_experts *x) {
    struct cpu *cpu = cpu_of(d);
    uint32_t slots = x->rows > EXPERT_SLOTS ? x->rows : EXPERT_SLOTS, used = 0;
    struct batch b = {.cpu = cpu, .x = x, .runs = cpu->runs, .dim = x->shared->w1.cols, .inter = cpu->limits.inter};
    uint8_t *room = cpu->slot_inputs;
    memset(x->y, 0, (size_t)x->rows * b.dim * sizeof(float));
    sort_slots(cpu, x);
    for (uint32_t e = 0; e <= x->count; e++) {
        bool shared = e == x->count;
        uint32_t first = shared ? 0 : cpu->expert_first[e], n = shared ? x->rows : cpu->expert_first[e + 1] - first;
        if (used + n > slots || (n && batch_ahead(&b))) {
            finish_batch(&b);
            room = cpu->slot_inputs;
            used = 0;
        }
        if (n)
            add_run(&b, shared ? x->shared : &x->experts[e], shared ? cpu->all_rows : cpu->slot_row + first,
                    shared ? NULL : cpu->slot_weight + first, n, used, &room);
        used += n;
    }
    finish_batch(&b);
}
