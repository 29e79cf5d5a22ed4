/*
 * golden.h - runs the checkpoints under tests/golden through the model room and keeps what comes out.
 *
 * tests/oracle/make_golden.py made them, and make_golden_v41.py those of DeepSeek-V4.1, which have no predictions and
 * whose names begin with "v41": `make_golden.py tests/golden`. Each case holds ids [272] and, from the
 * NumPy oracle, logits, layers, routes, predictions, a greedy continuation, and how far the oracle is from
 * itself when every stored activation moves by one part in ten million.
 */
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include "test.h"

#include "kernel/kernel.h"
#include "model/model.h"

enum { GOLDEN_COLUMNS = 8 };
enum { GOLDEN_TOKENS = 272, GOLDEN_LAYERS = 9, GOLDEN_POSITIONS = 9 /* whose layers are kept */ };

extern const char *const golden_cases[];
enum { GOLDEN_CASES = 8 };

struct golden {
    struct safetensors *file;
    struct checkpoint *checkpoint;
    struct device *device;
    struct model *model;
    struct sequence *sequence;
    const struct shape *shape;
    const int32_t *ids;
    size_t residual; /* H D */
    float *logits;   /* [272, V] */
    float *mtp;      /* [272, V] */
    float *layers;   /* [GOLDEN_LAYERS, 272, H D] */
    int32_t *routes; /* [GOLDEN_LAYERS, 272, k] */
    int32_t *chosen; /* [GOLDEN_LAYERS, 272, index_topk]: then -1 */
    int64_t *looked; /* [GOLDEN_LAYERS, 272, GOLDEN_COLUMNS]: rows of Engram's tables */
    uint32_t keep;   /* the span whose results are kept */
    bool trace;      /* keep layers, routes, choices of the next runs, which must begin at position 0 */
};

/* How a case is run. */
struct golden_options {
    const char *name;
    enum sonde_precision precision;
    enum kernel_level level; /* must run here */
    bool invariant;          /* struct device_cpu_options */
    uint32_t threads;        /* 0: one for each processor */
    uint64_t cache_bytes;    /* of all pages; 0: as many as there is memory for */
    bool released_decode;    /* struct model_options */
};

/* Opens a case; fails the test when it cannot. */
void golden_open(struct golden *g, const struct golden_options *options);
void golden_close(struct golden *g);

/* The data of a tensor of the golden file; fails the test if it is missing. */
const float *golden_floats(const struct golden *g, const char *format, ...);
const int32_t *golden_integers(const struct golden *g, const char *name);

/* Appends ids [from, to) in steps of at most `chunk` tokens; results go to their place by position. */
void golden_feed(struct golden *g, const int32_t *ids, uint32_t from, uint32_t to, uint32_t chunk);

/* One step of several spans; results of span `keep` go to their place by position. */
void golden_step(struct golden *g, const struct model_span *spans, uint32_t count, uint32_t keep);

/* Of many alike a test looks at every n-th, n from SONDE_TEST_STRIDE, which instrumented builds set; else 1. */
uint32_t golden_stride(void);

/* |a - b| / |b| over n values. */
double golden_distance(const float *a, const float *b, size_t n);
double golden_median(double *values, size_t n); /* sorts */
int golden_argmax(const float *x, size_t n);

/* Of logits [272, V]: the median over positions of the distance of a from b, and the share whose argmax is equal. */
double golden_apart(const struct golden *g, const float *a, const float *b, double *agree);

#endif
