/* test_train_compress.c - pooling: its gradients, float as double, the same bits with any number of workers. */
#define TRAIN_DOUBLE
#include "packed.h"

void compress_forward_f32(struct team *team, const struct entries *e, uint32_t dim, const float *kv, const float *score,
                          const float *ape, float *entry);
void compress_backward_f32(struct team *team, const struct entries *e, uint32_t dim, const float *kv,
                           const float *score, const float *ape, const float *d_entry, float *d_kv, float *d_score,
                           float *d_ape);

struct example {
    struct packed p;
    struct team *team;
    uint32_t dim, width;
    size_t inputs, biases, outputs; /* numbers of kv or score, of ape, of entries */
    double *kv, *score, *ape, *entry, *d_entry, *d_kv, *d_score, *d_ape;
};

static void example_init(struct example *x, uint64_t seed, uint32_t workers, const uint32_t *lengths, uint32_t ratio,
                         uint32_t dim) {
    struct rng r;
    rng_init(&r, seed);
    *x = (struct example){.dim = dim, .width = compress_width(ratio, dim)};
    packed_init(&x->p, &r, lengths, ratio, 0);
    CHECKED(team_open(workers, &x->team, &error));
    x->inputs = (size_t)x->p.batch.tokens * x->width;
    x->biases = (size_t)ratio * x->width;
    x->outputs = (size_t)entries_total(&x->p.entries) * dim;
    x->kv = packed_numbers(&x->p, &r, x->inputs, 2);
    x->score = packed_numbers(&x->p, &r, x->inputs, 2);
    x->ape = packed_numbers(&x->p, &r, x->biases, 1);
    x->d_entry = packed_numbers(&x->p, &r, x->outputs, 1);
    x->entry = packed_zeros(&x->p, x->outputs);
    x->d_kv = packed_zeros(&x->p, x->inputs);
    x->d_score = packed_zeros(&x->p, x->inputs);
    x->d_ape = packed_zeros(&x->p, x->biases);
}

static void example_release(struct example *x) {
    team_close(x->team);
    packed_release(&x->p);
}

static double loss(void *context) {
    struct example *x = context;
    compress_forward_f64(x->team, &x->p.entries, x->dim, x->kv, x->score, x->ape, x->entry);
    return dot(x->entry, x->d_entry, x->outputs);
}

static void backward(struct example *x) {
    compress_backward_f64(x->team, &x->p.entries, x->dim, x->kv, x->score, x->ape, x->d_entry, x->d_kv, x->d_score,
                          x->d_ape);
}

static const struct {
    uint32_t ratio, dim, lengths[SEGMENTS + 1];
} cases[] = {
    {4, 3, {1}},
    {4, 2, {3}},
    {4, 3, {4}},
    {4, 1, {5}},
    {4, 3, {8, 1, 3, 11, 4}},
    {4, 17, {9}},
    {4, 2, {7, 127, 6}},
    {128, 2, {127}},
    {128, 1, {128}},
    {128, 2, {129, 5, 1}},
    {128, 1, {257}},
    {128, 2, {1, 130, 128}},
    {8, 5, {8, 20, 7}},
};

static void test_compress__gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            struct example x;
            example_init(&x, seed, 1, cases[i].lengths, cases[i].ratio, cases[i].dim);
            backward(&x);
            const struct checked list[] = {{"kv", x.kv, x.d_kv, x.inputs},
                                           {"score", x.score, x.d_score, x.inputs},
                                           {"ape", x.ape, x.d_ape, x.biases}};
            check_gradients(list, 3, loss, &x);
            example_release(&x);
        }
}

/* Entry by entry from the definition. */
static void test_compress__pools_its_own_block_and_the_one_before(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 3, 1, (const uint32_t[]){10, 3, 8, 0}, 4, 3);
    loss(&x);
    for (uint32_t g = 0, entry = 0; g < x.p.batch.segment_count; g++)
        for (uint32_t i = 0; i < x.p.segments[g].length / 4; i++, entry++)
            for (uint32_t c = 0; c < x.dim; c++) {
                double sum = 0, total = 0;
                for (int32_t j = i ? -4 : 0; j < 4; j++) {
                    size_t col = c + (j < 0 ? 0 : x.dim);
                    size_t at = (size_t)((int32_t)(x.p.segments[g].begin + 4 * i) + j) * x.width + col;
                    double weight = exp(x.score[at] + x.ape[(size_t)(j < 0 ? j + 4 : j) * x.width + col]);
                    sum += weight * x.kv[at];
                    total += weight;
                }
                assert_true(fabs(x.entry[(size_t)entry * x.dim + c] - sum / total) < 1e-12);
            }
    example_release(&x);
}

static void test_compress__adds_to_gradients(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 4, 2, (const uint32_t[]){9, 4, 0}, 4, 5);
    backward(&x);
    double *once = packed_zeros(&x.p, x.biases);
    memcpy(once, x.d_ape, x.biases * sizeof(*once));
    compress_backward_f64(x.team, &x.p.entries, x.dim, x.kv, x.score, x.ape, x.d_entry, NULL, NULL, x.d_ape);
    for (size_t i = 0; i < x.biases; i++)
        assert_true(fabs(x.d_ape[i] - 2 * once[i]) < 1e-12);
    example_release(&x);
}

static void test_compress__float_is_double(void **state) {
    struct example x;
    (void)state;
    example_init(&x, 5, 2, (const uint32_t[]){70, 3, 129, 0}, 4, 37);
    loss(&x);
    backward(&x);
    float *kv = packed_floats(&x.p, x.kv, x.inputs), *score = packed_floats(&x.p, x.score, x.inputs);
    float *ape = packed_floats(&x.p, x.ape, x.biases), *d_entry = packed_floats(&x.p, x.d_entry, x.outputs);
    float *entry = packed_bytes(&x.p, x.outputs * sizeof(float)), *d_kv = packed_bytes(&x.p, x.inputs * sizeof(float));
    float *d_score = packed_bytes(&x.p, x.inputs * sizeof(float)),
          *d_ape = packed_bytes(&x.p, x.biases * sizeof(float));
    compress_forward_f32(x.team, &x.p.entries, x.dim, kv, score, ape, entry);
    compress_backward_f32(x.team, &x.p.entries, x.dim, kv, score, ape, d_entry, d_kv, d_score, d_ape);
    check_close("entry", entry, x.entry, x.outputs, 1e-5);
    check_close("d_kv", d_kv, x.d_kv, x.inputs, 1e-5);
    check_close("d_score", d_score, x.d_score, x.inputs, 1e-5);
    check_close("d_ape", d_ape, x.d_ape, x.biases, 1e-4);
    example_release(&x);
}

static void test_compress__same_bits_with_any_workers(void **state) {
    struct example x[3];
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        example_init(&x[i], 6, i + 1, (const uint32_t[]){130, 3, 257, 0}, 128, 50);
        loss(&x[i]);
        backward(&x[i]);
        assert_memory_equal(x[i].entry, x[0].entry, x[0].outputs * sizeof(double));
        assert_memory_equal(x[i].d_kv, x[0].d_kv, x[0].inputs * sizeof(double));
        assert_memory_equal(x[i].d_score, x[0].d_score, x[0].inputs * sizeof(double));
        assert_memory_equal(x[i].d_ape, x[0].d_ape, x[0].biases * sizeof(double));
    }
    for (uint32_t i = 0; i < 3; i++)
        example_release(&x[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compress__gradients),
        cmocka_unit_test(test_compress__pools_its_own_block_and_the_one_before),
        cmocka_unit_test(test_compress__adds_to_gradients),
        cmocka_unit_test(test_compress__float_is_double),
        cmocka_unit_test(test_compress__same_bits_with_any_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
