/*
 * cpu_internal.h - the CPU device's own state, shared by its files.
 *
 * Host memory is device memory; every operation is done when it returns. An operation is a loop over items, dealt to
 * the workers of a pool, each of which has scratch of its own. Scratch is taken from one arena made by reserve(),
 * sized by running the same layout twice; what an operation does not touch costs address space only.
 */
#ifndef DEVICE_CPU_CPU_INTERNAL_H
#define DEVICE_CPU_CPU_INTERNAL_H

#include "device/device.h"
#include "kernel/kernel.h"

struct cpu_worker {
    float *vector, *vector2; /* [width] */
    float *strip;            /* [input_rows, STRIP]: inputs on their way into their places */
    float *outputs;          /* [rows, EXPERT_ROWS]: of one expert */
    float *weights;          /* [heads, keys]: attention */
    const void **keys;       /* [keys] */
    const float **pooled;    /* [2 pool_rows] */
    float *scores;           /* [SELECT_ROWS, scored] */
    uint64_t *ranks, *order; /* [scored]: ranks of the scores, and partly sorted */
    void *scratch;           /* KERNEL_SCRATCH_BYTES */
    bool not_finite;         /* a value that only chooses was not finite; finish() tells */
};

/* Tokens of a list of products that are worked on at once, rows of an expert's second matrix that are one item, routed
 * tokens whose experts run between two barriers, and tokens that meet an index key together. */
enum { STRIP = KERNEL_PACK_COLS, BLOCK_TOKENS = 1024, EXPERT_ROWS = 256, EXPERT_SLOTS = 2048, SELECT_ROWS = 8 };

struct cpu {
    struct device device; /* first: a struct device * is a struct cpu * */
    struct kernel_table kernels;
    bool invariant; /* struct device_cpu_options */
    struct pool *pool;
    uint32_t worker_count;
    struct cpu_worker *workers; /* [worker_count] */
    struct device_limits limits;
    uint64_t weights_bytes; /* of all matrices */
    uint64_t ahead;         /* bytes of experts to read ahead of a batch; 0: weights stay in memory by themselves */
    void *memory;           /* of the scratch below and the workers' */
    size_t memory_bytes;
    float *vector, *vector2; /* [width]: a decoded norm weight, bias ..., read by all workers */
    float *bias;             /* [pool_rows, entry]: of a pool */
    uint8_t *inputs;         /* of lists of products */
    uint8_t *slot_inputs;    /* [slots, max(D, inter)] packed; slots: max(rows, EXPERT_SLOTS) */
    float *gate, *up;        /* [slots, inter] */
    uint32_t *slot_row;      /* [rows, k]: token of each routed slot, by expert */
    float *slot_weight;      /* [rows, k] */
    uint32_t *expert_first;  /* [E + 1]: each expert's slots in those */
    uint32_t *all_rows;      /* [rows]: 0, 1, 2 ... */
    struct expert_run *runs; /* [E + 1] */
};

static inline struct cpu *cpu_of(struct device *d) {
    return (struct cpu *)d;
}

/* The decoded single row of m into `out`, or NULL when m has no data. */
const float *cpu_vector(const struct matrix *m, float *out);

/*
 * Runs item(context, worker, i) for all i < items, each once, on all workers where the work is worth waking them for:
 * cost is of one item, in multiply-adds or the like. Each worker's hand is its own part of the range.
 */
void cpu_each(struct cpu *cpu, uint64_t items, uint64_t cost,
              void (*item)(void *context, struct cpu_worker *worker, uint64_t i), void *context);

/* Rows that worker `owner` has of [0, rows): a range whose ends are multiples of 16. */
void cpu_part(const struct cpu *cpu, uint32_t rows, uint32_t owner, uint32_t *from, uint32_t *to);

/* products.c: the inputs of products, gathered, rounded and laid out as the kernels want them. */
struct cpu_input {
    const struct matrix *like; /* a matrix they are for */
    const float *x;
    size_t ldx;
    const uint32_t *index; /* [count]: rows of x; NULL: consecutive ones */
    uint32_t count, block;
    bool bf16; /* data is packed; else floats, or x itself */
    void *data;
    size_t ld; /* of floats */
};

/* An input for products with w; takes its memory from *room and moves that on. */
struct cpu_input cpu_input_of(const struct cpu *cpu, const struct device_product *p, const uint32_t *index,
                              uint32_t count, bool bf16, uint8_t **room);
/* Preparing is done in parts, by anybody. */
uint32_t cpu_input_parts(const struct cpu_input *in);
void cpu_input_prepare(struct cpu *cpu, struct cpu_worker *worker, const struct cpu_input *in, uint32_t part);
void cpu_input_multiply(struct cpu *cpu, struct cpu_worker *worker, const struct cpu_input *in, const struct matrix *w,
                        uint32_t row, uint32_t rows, float *y, size_t ldy);
/* Bytes of data for a width and a count. */
static inline size_t cpu_input_bytes(uint32_t cols, uint32_t count) {
    return (kernel_packed_bytes(cols, count) + 63) / 64 * 64;
}

/* prefetch.c: reading weights before they are wanted, where they do not all fit in memory. decide() sets ahead. */
void cpu_prefetch_decide(struct cpu *cpu);
void cpu_prefetch_expert(const struct device_expert *x);
void cpu_prefetch_rows(const struct matrix *m, const int64_t *ids, uint32_t count);

void cpu_linear(struct device *d, const struct device_product *list, uint32_t products, uint32_t rows, bool bf16);
void cpu_attend(struct device *d, const struct device_attend *a);
void cpu_pool(struct device *d, const struct device_pool *p);
void cpu_select(struct device *d, const struct device_select *s);
void cpu_route(struct device *d, const struct device_route *r);
void cpu_experts(struct device *d, const struct device_experts *x);
size_t cpu_expert_run_bytes(void);
void cpu_hyper(struct device *d, const struct device_hyper *h);
void cpu_engram_gate(struct device *d, const struct device_engram_gate *g);
void cpu_engram_conv(struct device *d, const struct device_engram_conv *c);

#endif
