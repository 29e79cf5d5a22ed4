/*
 * products.c - lists of matrix products.
 *
 * A list is one parallel region of two phases: the inputs are laid out, once for all products that share them, then
 * rows of all matrices are multiplied. Every matrix is divided among the workers in the same way every time, so that
 * each reads the same pages of it; a worker's part is cut into items small enough for another to take over.
 */
#include "device/cpu/cpu_internal.h"

enum { PART_COLS = 4 * STRIP, ITEM_ROWS = 256 };

/* ---------------------------------------------------------------------------------------- inputs */

static uint32_t padded(uint32_t cols) {
    return (cols + 31) / 32 * 32;
}

struct cpu_input cpu_input_of(const struct cpu *cpu, const struct device_product *p, const uint32_t *index,
                              uint32_t count, bool bf16, uint8_t **room) {
    const uint32_t block = matrix_quantised(p->w) ? p->block : 0;
    struct cpu_input in = {.like = p->w,
                           .x = p->x,
                           .ldx = p->ldx,
                           .index = index,
                           .count = count,
                           .block = block,
                           .bf16 = bf16 && p->w->format != FORMAT_F32};
    if (block && count == 1 && !cpu->invariant) /* bf16 holds what is rounded to e4m3; the integers of pack() do not */
        in.bf16 = false;
    if (in.bf16 || in.index || in.block) {
        in.data = *room;
        in.ld = padded(p->w->cols);
        *room += cpu_input_bytes(p->w->cols, count);
    } else {
        in.ld = in.ldx; /* x as it is */
    }
    return in;
}

/* True if what is prepared for one is what the other wants. */
static bool same_input(const struct cpu_input *a, const struct cpu_input *b) {
    return a->x == b->x && a->ldx == b->ldx && a->index == b->index && a->count == b->count && a->block == b->block &&
           a->bf16 == b->bf16 && a->like->cols == b->like->cols &&
           (!a->bf16 || (a->like->format == b->like->format && a->like->scale_format == b->like->scale_format &&
                         a->like->block_rows == b->like->block_rows && a->like->block_cols == b->like->block_cols));
}

uint32_t cpu_input_parts(const struct cpu_input *in) {
    return in->data ? (in->like->cols + PART_COLS - 1) / PART_COLS : 0;
}

/* Columns [col, col + cols) of all rows, in the worker's strip, `cols` apart, rounded to blocks. */
static void gather_strip(struct cpu *cpu, struct cpu_worker *worker, const struct cpu_input *in, uint32_t col,
                         uint32_t cols) {
    for (uint32_t s = 0; s < in->count; s++) {
        const float *from = in->x + (in->index ? in->index[s] : s) * in->ldx + col;
        float *to = worker->strip + (size_t)s * cols;
        memcpy(to, from, cols * sizeof(float));
        if (in->block)
            cpu->kernels.fake_e4m3(to, cols, in->block);
    }
}

static void prepare_strip(struct cpu *cpu, struct cpu_worker *worker, const struct cpu_input *in, uint32_t col,
                          uint32_t cols) {
    bool as_it_is = in->bf16 && !in->index && !in->block;
    if (!as_it_is)
        gather_strip(cpu, worker, in, col, cols);
    if (!in->bf16)
        for (uint32_t s = 0; s < in->count; s++)
            memcpy((float *)in->data + s * in->ld + col, worker->strip + (size_t)s * cols, cols * sizeof(float));
    else if (as_it_is)
        cpu->kernels.pack(in->like, in->x + col, in->ldx, in->count, col, cols, in->data);
    else
        cpu->kernels.pack(in->like, worker->strip, cols, in->count, col, cols, in->data);
}

void cpu_input_prepare(struct cpu *cpu, struct cpu_worker *worker, const struct cpu_input *in, uint32_t part) {
    uint32_t first = part * PART_COLS, last = first + PART_COLS < in->like->cols ? first + PART_COLS : in->like->cols;
    for (uint32_t col = first; col < last; col += STRIP)
        prepare_strip(cpu, worker, in, col, last - col < STRIP ? last - col : STRIP);
}

void cpu_input_multiply(struct cpu *cpu, struct cpu_worker *worker, const struct cpu_input *in, const struct matrix *w,
                        uint32_t row, uint32_t rows, float *y, size_t ldy) {
    if (in->bf16)
        cpu->kernels.gemm_bf16(w, row, rows, in->data, in->count, y, ldy, worker->scratch);
    else
        cpu->kernels.gemm(w, row, rows, in->data ? in->data : in->x, in->ld, in->count, y, ldy);
}

/* ----------------------------------------------------------------------------------------- lists */

enum { PREPARE, MULTIPLY }; /* deals */

struct list {
    struct cpu *cpu;
    const struct device_product *products;
    uint32_t count, from;                        /* of products; first token */
    uint32_t inputs, parts[DEVICE_PRODUCTS + 1]; /* distinct inputs; where each one's parts begin */
    struct cpu_input input[DEVICE_PRODUCTS];
    uint32_t input_of[DEVICE_PRODUCTS];
    uint32_t items[DEVICE_PRODUCTS + 1]; /* where each product's items begin in a hand */
};

void cpu_part(const struct cpu *cpu, uint32_t rows, uint32_t owner, uint32_t *from, uint32_t *to) {
    uint64_t panels = (rows + 15) / 16, workers = cpu->worker_count;
    *from = (uint32_t)min_u64(rows, panels * owner / workers * 16);
    *to = (uint32_t)min_u64(rows, panels * (owner + 1) / workers * 16);
}

/* The entry of `starts`, ascending, that `at` lies behind. */
static uint32_t find(const uint32_t *starts, uint32_t at) {
    uint32_t i = 0;
    while (at >= starts[i + 1])
        i++;
    return i;
}

static void run_list(void *context, uint32_t number) {
    struct list *l = context;
    struct cpu *cpu = l->cpu;
    struct cpu_worker *worker = &cpu->workers[number];
    uint32_t owner, item;
    if (l->parts[l->inputs]) {
        while (pool_take(cpu->pool, PREPARE, number, &owner, &item)) {
            uint32_t part = item * cpu->worker_count + owner;
            if (part >= l->parts[l->inputs])
                continue;
            uint32_t i = find(l->parts, part);
            cpu_input_prepare(cpu, worker, &l->input[i], part - l->parts[i]);
        }
        pool_barrier(cpu->pool);
    }
    while (pool_take(cpu->pool, MULTIPLY, number, &owner, &item)) {
        uint32_t i = find(l->items, item), from, to;
        const struct device_product *p = &l->products[i];
        cpu_part(cpu, p->rows, owner, &from, &to);
        from += (item - l->items[i]) * ITEM_ROWS;
        if (from >= to)
            continue;
        cpu_input_multiply(cpu, worker, &l->input[l->input_of[i]], p->w, p->row + from,
                           to - from < ITEM_ROWS ? to - from : ITEM_ROWS, p->y + l->from * p->ldy + from, p->ldy);
    }
}

static void add_input(struct list *l, uint32_t product, uint32_t tokens, bool bf16, uint8_t **room) {
    struct device_product p = l->products[product];
    uint8_t *before = *room;
    p.x += l->from * p.ldx;
    struct cpu_input in = cpu_input_of(l->cpu, &p, NULL, tokens, bf16, room);
    uint32_t i = 0;
    while (i < l->inputs && !same_input(&l->input[i], &in))
        i++;
    l->input_of[product] = i;
    if (i < l->inputs) {
        *room = before;
        return;
    }
    l->input[i] = in;
    l->parts[++l->inputs] = l->parts[i] + cpu_input_parts(&in);
}

static void run_tokens(struct cpu *cpu, const struct device_product *products, uint32_t count, uint32_t from,
                       uint32_t tokens, bool bf16) {
    struct list l = {.cpu = cpu, .products = products, .count = count, .from = from};
    uint8_t *room = cpu->inputs;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t most = (uint32_t)ceil_div(ceil_div(products[i].rows, 16), cpu->worker_count) * 16;
        add_input(&l, i, tokens, bf16, &room);
        l.items[i + 1] = l.items[i] + (uint32_t)ceil_div(most, ITEM_ROWS);
    }
    pool_deal(cpu->pool, PREPARE, (uint32_t)ceil_div(l.parts[l.inputs], cpu->worker_count));
    pool_deal(cpu->pool, MULTIPLY, l.items[count]);
    pool_run(cpu->pool, run_list, &l);
}

void cpu_linear(struct device *d, const struct device_product *list, uint32_t products, uint32_t rows, bool bf16) {
    struct cpu *cpu = cpu_of(d);
    for (uint32_t from = 0; from < rows; from += BLOCK_TOKENS)
        run_tokens(cpu, list, products, from, rows - from < BLOCK_TOKENS ? rows - from : BLOCK_TOKENS, bf16);
}
