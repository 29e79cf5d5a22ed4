/*
 * test_train_attention.c - the attention of whole layers against the oracle, for each kind of layer.
 *
 * attention_table.h holds rows of what tests/oracle/make_attention.py computes; input and weights are numbers of a
 * formula that both have. The text stands in the batch twice, so that a segment behind another is held to the same
 * rows. Products, norms and rotations are the test's own and the library's kernels': what is tested is how the passes
 * of this room fit together.
 */
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "attention_table.h"
#include "kernel/kernel.h"
#include "train/attention_internal.h"

enum {
    TOKENS = 261, /* of a segment */
    TEXTS = 2,
    ALL = TOKENS * TEXTS,
    HIDDEN = 16,
    HEADS = 4,
    DIM = 16,
    ROPE = 8,
    RANK = 12,
    GROUPS = 2,
    LOW = 6,
    INDEX_HEADS = 2,
    INDEX_DIM = 8,
    TOP = 3,
    WINDOW = 8
};
static const float eps = 1e-6f;

static struct kernel_table kernels;
static struct team *team;
static const struct segment segments[TEXTS] = {{0, TOKENS}, {TOKENS, TOKENS}};
static const struct batch batch = {.tokens = ALL, .segments = segments, .segment_count = TEXTS};

/* ------------------------------------------------------------------------------------------- numbers */

static float *arrays[128];
static uint32_t array_count;

static float *zeros(size_t count) {
    float *x = calloc(count, sizeof(*x));
    assert_non_null(x);
    assert_in_range(array_count, 0, 127);
    return arrays[array_count++] = x;
}

/* make_attention.py's numbers() of the next tensor. */
static const float *tensor(uint32_t *seed, size_t count, float scale, float offset) {
    float *out = zeros(count);
    for (size_t i = 0; i < count; i++) {
        uint32_t x = (*seed << 20) + (uint32_t)i;
        x ^= x >> 16;
        x *= 0x7feb352du;
        x ^= x >> 15;
        x *= 0x846ca68bu;
        x ^= x >> 16;
        out[i] = offset + scale * ((float)(x >> 8) * 0x1p-23f - 1);
    }
    ++*seed;
    return out;
}

struct compressor {
    const float *wkv, *wgate, *ape, *norm;
};
struct layer {
    uint32_t ratio;
    const float *wq_a, *q_norm, *wq_b, *wkv, *kv_norm, *sink, *index_wq_b, *index_weights, *wo_a, *wo_b;
    struct compressor entries, index;
};

static struct compressor make_compressor(uint32_t *seed, uint32_t ratio, uint32_t dim) {
    struct compressor c;
    size_t width = compress_width(ratio, dim);
    c.wkv = tensor(seed, width * HIDDEN, 0.5f, 0);
    c.wgate = tensor(seed, width * HIDDEN, 0.5f, 0);
    c.ape = tensor(seed, ratio * width, 1, 0);
    c.norm = tensor(seed, dim, 0.5f, 1);
    return c;
}

static struct layer make_layer(uint32_t *seed, uint32_t ratio) {
    struct layer l = {.ratio = ratio};
    l.wq_a = tensor(seed, RANK * HIDDEN, 0.5f, 0);
    l.q_norm = tensor(seed, RANK, 0.5f, 1);
    l.wq_b = tensor(seed, HEADS * DIM * RANK, 0.5f, 0);
    l.wkv = tensor(seed, DIM * HIDDEN, 0.5f, 0);
    l.kv_norm = tensor(seed, DIM, 0.5f, 1);
    l.sink = tensor(seed, HEADS, 1, 0);
    if (ratio)
        l.entries = make_compressor(seed, ratio, DIM);
    if (ratio == 4) {
        l.index_wq_b = tensor(seed, INDEX_HEADS * INDEX_DIM * RANK, 0.5f, 0);
        l.index_weights = tensor(seed, INDEX_HEADS * HIDDEN, 0.5f, 0);
        l.index = make_compressor(seed, ratio, INDEX_DIM);
    }
    l.wo_a = tensor(seed, LOW * HEADS * DIM, 0.5f, 0);
    l.wo_b = tensor(seed, HIDDEN * GROUPS * LOW, 0.5f, 0);
    return l;
}

/* ------------------------------------------------------------------------------------- small pieces */

/* rows of x, ldx apart, times w [out, in]^T, to rows ldy apart. */
static void linear(const float *x, size_t ldx, size_t rows, const float *w, size_t in, size_t out, float *y,
                   size_t ldy) {
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < out; o++) {
            float sum = 0;
            for (size_t i = 0; i < in; i++)
                sum += x[r * ldx + i] * w[o * in + i];
            y[r * ldy + o] = sum;
        }
}

static float *product(const float *x, size_t in, const float *w, size_t out) {
    float *y = zeros(ALL * out);
    linear(x, in, ALL, w, in, out, y, out);
    return y;
}

static void norm(float *x, size_t rows, uint32_t dim, const float *weight) {
    for (size_t r = 0; r < rows; r++)
        kernels.rms_norm(x + r * dim, dim, weight, eps, x + r * dim);
}

/* Turns the last channels of `heads` rows by the angles of a position. */
static void rotate(float *x, uint32_t heads, uint32_t dim, uint32_t position, float theta, float direction) {
    float turn[ROPE];
    for (uint32_t i = 0; i < ROPE / 2; i++) {
        float angle = (float)position / powf(theta, (float)(2 * i) / ROPE);
        turn[2 * i] = cosf(angle);
        turn[2 * i + 1] = sinf(angle);
    }
    for (uint32_t h = 0; h < heads; h++)
        kernels.rotate(x + h * dim + dim - ROPE, ROPE / 2, turn, direction);
}

static void rotate_tokens(float *x, uint32_t heads, uint32_t dim, float theta, float direction) {
    for (uint32_t t = 0; t < ALL; t++)
        rotate(x + (size_t)t * heads * dim, heads, dim, t % TOKENS, theta, direction);
}

static void hadamard(float *x, size_t rows, uint32_t dim) {
    for (size_t r = 0; r < rows; r++)
        kernels.hadamard(x + r * dim, dim);
}

/* ------------------------------------------------------------------------------------------ the layer */

static float *compress(const struct compressor *c, const struct entries *e, uint32_t dim, const float *x, float theta) {
    size_t width = compress_width(e->ratio, dim), total = entries_total(e);
    float *entry = zeros(total * dim);
    compress_forward_f32(team, e, dim, product(x, HIDDEN, c->wkv, width), product(x, HIDDEN, c->wgate, width), c->ape,
                         entry);
    norm(entry, total, dim, c->norm);
    for (uint32_t s = 0; s < TEXTS; s++)
        for (uint32_t i = 0; i < TOKENS / e->ratio; i++)
            rotate(entry + (size_t)(e->begin[s] + i) * dim, 1, dim, i * e->ratio, theta, 1);
    return entry;
}

static void choose(const struct layer *l, const struct entries *e, const float *x, const float *q_latent, float theta) {
    struct indexer ix = {e, INDEX_HEADS, INDEX_DIM};
    float *q = product(q_latent, RANK, l->index_wq_b, INDEX_HEADS * INDEX_DIM);
    float *w = product(x, HIDDEN, l->index_weights, INDEX_HEADS);
    float *k = compress(&l->index, e, INDEX_DIM, x, theta);
    rotate_tokens(q, INDEX_HEADS, INDEX_DIM, theta, 1);
    hadamard(q, ALL * INDEX_HEADS, INDEX_DIM);
    hadamard(k, entries_total(e), INDEX_DIM);
    for (size_t i = 0; i < ALL * INDEX_HEADS; i++)
        w[i] *= 1 / sqrtf(INDEX_DIM * INDEX_HEADS);
    index_choose_f32(team, &ix, q, w, k);
}

static float *output(const struct layer *l, const float *out) {
    float *low = zeros(ALL * GROUPS * LOW);
    size_t wide = HEADS * DIM / GROUPS;
    for (size_t g = 0; g < GROUPS; g++)
        linear(out + g * wide, HEADS * DIM, ALL, l->wo_a + g * LOW * wide, wide, LOW, low + g * LOW, GROUPS * LOW);
    return product(low, GROUPS * LOW, l->wo_b, HIDDEN);
}

static float *attention(const struct layer *l, const float *x) {
    static uint32_t begin[TEXTS + 1], chosen[ALL * TOP], counts[ALL];
    struct entries e = {&batch, l->ratio, begin, l->ratio == 4 ? TOP : 0, chosen, counts};
    struct attention a = {&batch, HEADS, DIM, WINDOW, l->ratio ? &e : NULL, true};
    float theta = l->ratio ? 160000 : 10000, *entry = NULL, *out = zeros(ALL * HEADS * DIM);
    float *q_latent = product(x, HIDDEN, l->wq_a, RANK);
    norm(q_latent, ALL, RANK, l->q_norm);
    float *q = product(q_latent, RANK, l->wq_b, HEADS * DIM), *kv = product(x, HIDDEN, l->wkv, DIM);
    norm(q, ALL * HEADS, DIM, NULL);
    rotate_tokens(q, HEADS, DIM, theta, 1);
    norm(kv, ALL, DIM, l->kv_norm);
    rotate_tokens(kv, 1, DIM, theta, 1);
    if (l->ratio) {
        entries_layout(&batch, l->ratio, begin);
        entry = compress(&l->entries, &e, DIM, x, theta);
        if (e.top)
            choose(l, &e, x, q_latent, theta);
    }
    attend_forward_f32(team, &a, q, kv, entry, l->sink, out, zeros(ALL * HEADS));
    rotate_tokens(out, HEADS, DIM, theta, -1);
    return output(l, out);
}

static void test_attention__is_the_oracles(void **state) {
    const uint32_t ratios[] = {0, 4, 128}, places = sizeof(table_places) / sizeof(*table_places);
    uint32_t seed = 0;
    double worst = 0;
    (void)state;
    float *x = zeros(ALL * HIDDEN);
    memcpy(x, tensor(&seed, TOKENS * HIDDEN, 1, 0), TOKENS * HIDDEN * sizeof(*x));
    memcpy(x + TOKENS * HIDDEN, x, TOKENS * HIDDEN * sizeof(*x));
    for (uint32_t i = 0; i < 3; i++) {
        struct layer l = make_layer(&seed, ratios[i]);
        float *y = attention(&l, x);
        for (uint32_t p = 0; p < TEXTS * places; p++)
            for (uint32_t d = 0; d < HIDDEN; d++) {
                size_t token = table_places[p % places] + (p < places ? 0 : TOKENS);
                worst = fmax(worst, fabs(y[token * HIDDEN + d] - table_rows[i][p % places][d]));
            }
        if (!(worst < 2e-5))
            fail_msg("ratio %u: off by %.2e", ratios[i], worst);
    }
    print_message("largest difference: %.2e\n", worst);
}

static int open_team(void **state) {
    (void)state;
    kernel_table_init(&kernels, KERNEL_LEVEL_c, false);
    CHECKED(team_open(2, &team, &error));
    return 0;
}

static int close_team(void **state) {
    (void)state;
    team_close(team);
    for (uint32_t i = 0; i < array_count; i++)
        free(arrays[i]);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention__is_the_oracles)};
    return cmocka_run_group_tests(tests, open_team, close_team);
}
