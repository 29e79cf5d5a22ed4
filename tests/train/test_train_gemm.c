/*
 * test_train_gemm.c - products of matrices in every form against plain sums in double, at every level that runs, and
 * the same bits with any number of workers.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "train/real_internal.h"

/* as real_internal.h declares it for double */
void gemm_f64(struct team *team, int how, size_t m, size_t n, size_t k, const double *a, const double *b, double *c);

static const struct size {
    size_t m, n, k;
} sizes[] = {{1, 1, 1},    {1, 40, 3},    {5, 1, 70},   {7, 9, 0},     {0, 5, 4},     {33, 31, 65}, {64, 24, 512},
             {64, 128, 7}, {200, 96, 33}, {31, 300, 9}, {600, 40, 33}, {20, 8, 1300}, {1, 700, 100}};

struct problem {
    struct size s;
    int how;
    float *a, *b, *before, *c;
    double *want, *magnitude; /* of c; of what its terms sum to */
};

static float *floats(struct rng *r, size_t count) {
    float *x = malloc((count + 1) * sizeof(*x));
    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(2 * rng_unit(r) - 1);
    return x;
}

static float rounded(int how, float x) {
    return how & GEMM_EXACT ? x : bf16_round(x);
}

static void expect(const struct problem *p) {
    const size_t m = p->s.m, n = p->s.n, k = p->s.k;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = p->how & GEMM_ADD ? (double)p->before[i * n + j] : 0, magnitude = fabs(sum);
            for (size_t l = 0; l < k; l++) {
                float a = rounded(p->how, p->how & GEMM_AT ? p->a[l * m + i] : p->a[i * k + l]);
                float b = rounded(p->how, p->how & GEMM_BT ? p->b[j * k + l] : p->b[l * n + j]);
                sum += (double)a * (double)b;
                magnitude += fabs((double)a * (double)b);
            }
            p->want[i * n + j] = sum;
            p->magnitude[i * n + j] = magnitude;
        }
}

static struct problem problem_new(struct rng *r, struct size s, int how) {
    struct problem p = {.s = s, .how = how, .a = floats(r, s.m * s.k), .b = floats(r, s.k * s.n)};
    p.before = floats(r, s.m * s.n);
    p.c = floats(r, s.m * s.n);
    p.want = malloc((s.m * s.n + 1) * sizeof(double));
    p.magnitude = malloc((s.m * s.n + 1) * sizeof(double));
    assert_true(p.want && p.magnitude);
    return p;
}

static void problem_free(struct problem *p) {
    free(p->a);
    free(p->b);
    free(p->before);
    free(p->c);
    free(p->want);
    free(p->magnitude);
}

static void run(struct problem *p, struct team *team) {
    memcpy(p->c, p->before, p->s.m * p->s.n * sizeof(float));
    gemm_f32(team, p->how, p->s.m, p->s.n, p->s.k, p->a, p->b, p->c);
}

static void check(const struct problem *p) {
    for (size_t i = 0; i < p->s.m * p->s.n; i++)
        if (!(fabs((double)p->c[i] - p->want[i]) <= 0x1p-20 * p->magnitude[i]))
            fail_msg("how %d, %zu x %zu x %zu: %g instead of %g", p->how, p->s.m, p->s.n, p->s.k, (double)p->c[i],
                     p->want[i]);
}

static void test_gemm__every_form_at_every_level(void **state) {
    (void)state;
    struct team *team;
    struct rng r;
    rng_init(&r, 1);
    CHECKED(team_open(2, &team, &error));
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        for (int how = 0; how < 16; how++) {
            struct problem p = problem_new(&r, sizes[i], how);
            expect(&p);
            for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
                if (!kernel_level_runs((enum kernel_level)level))
                    continue;
                team_set_level(team, (enum kernel_level)level);
                run(&p, team);
                check(&p);
            }
            problem_free(&p);
        }
    team_close(team);
}

/* x x^T, x^T x, and the square of the first, by half of their elements: the bits of all of them. */
static void test_gemm__half_of_a_symmetric_product_is_enough(void **state) {
    (void)state;
    static const size_t sides[][2] = {{1, 3}, {40, 20}, {64, 64}, {130, 700}, {257, 64}};
    struct team *team;
    struct rng r;
    rng_init(&r, 3);
    CHECKED(team_open(2, &team, &error));
    for (size_t i = 0; i < COUNT_OF(sides); i++) {
        const size_t m = sides[i][0], k = sides[i][1], bytes = m * m * sizeof(float);
        float *x = floats(&r, m * k), *whole = floats(&r, m * m), *half = floats(&r, m * m),
              *square = floats(&r, m * m);
        for (int how = 1; how <= 2; how++) {
            gemm_f32(team, how, m, m, k, x, x, whole);
            gemm_f32(team, how | GEMM_SYMMETRIC, m, m, k, x, x, half);
            assert_memory_equal(whole, half, bytes);
            gemm_f32(team, 0, m, m, m, whole, whole, half);
            gemm_f32(team, GEMM_SYMMETRIC, m, m, m, whole, whole, square);
            assert_memory_equal(half, square, bytes);
        }
        free(x);
        free(whole);
        free(half);
        free(square);
    }
    team_close(team);
}

static void test_gemm__workers_change_no_bit(void **state) {
    (void)state;
    static const struct size s[] = {{300, 200, 700}, {40, 600, 100}};
    struct team *teams[3];
    struct rng r;
    rng_init(&r, 2);
    for (uint32_t w = 0; w < 3; w++)
        CHECKED(team_open(w + 1, &teams[w], &error));
    for (size_t i = 0; i < COUNT_OF(s); i++)
        for (int how = 0; how < 16; how++) {
            struct problem p = problem_new(&r, s[i], how);
            const size_t bytes = s[i].m * s[i].n * sizeof(float);
            float *one = malloc(bytes);
            assert_non_null(one);
            run(&p, teams[0]);
            memcpy(one, p.c, bytes);
            for (uint32_t w = 1; w < 3; w++) {
                run(&p, teams[w]);
                assert_memory_equal(one, p.c, bytes);
            }
            free(one);
            problem_free(&p);
        }
    for (uint32_t w = 0; w < 3; w++)
        team_close(teams[w]);
}

static double *doubles(const float *x, size_t count) {
    double *d = malloc((count + 1) * sizeof(*d));
    assert_non_null(d);
    for (size_t i = 0; i < count; i++)
        d[i] = (double)x[i];
    return d;
}

static void test_gemm__double_is_not_rounded(void **state) {
    (void)state;
    struct team *team;
    struct rng r;
    rng_init(&r, 3);
    CHECKED(team_open(2, &team, &error));
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        for (int how = 0; how < 8; how++) {
            const struct size s = sizes[i];
            struct problem p = problem_new(&r, s, how | GEMM_EXACT);
            expect(&p);
            double *a = doubles(p.a, s.m * s.k), *b = doubles(p.b, s.k * s.n), *c = doubles(p.before, s.m * s.n);
            gemm_f64(team, how, s.m, s.n, s.k, a, b, c);
            for (size_t j = 0; j < s.m * s.n; j++)
                assert_true(fabs(c[j] - p.want[j]) <= 1e-14 * (1 + p.magnitude[j]));
            free(a);
            free(b);
            free(c);
            problem_free(&p);
        }
    team_close(team);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm__every_form_at_every_level),
        cmocka_unit_test(test_gemm__half_of_a_symmetric_product_is_enough),
        cmocka_unit_test(test_gemm__workers_change_no_bit),
        cmocka_unit_test(test_gemm__double_is_not_rounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
