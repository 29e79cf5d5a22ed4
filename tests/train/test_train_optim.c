/*
 * test_train_optim.c - Muon against NumPy, Adam against its formula, the same bits with any number of workers, and that
 * all of it finds the bottom of a bowl.
 *
 * In double; test_train_optim_f32.c is the same in float, whose products are rounded to bf16.
 */
#ifndef TEST_FLOAT
#define TRAIN_DOUBLE
#endif
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "muon_table.h"
#include "train/optim_internal.h"

#ifdef TEST_FLOAT
enum { EXACT = 0 };
#else
enum { EXACT = 1 };
#endif

static struct team *team;

static int open_team(void **state) {
    (void)state;
    CHECKED(team_open(2, &team, &error));
    return 0;
}

static int close_team(void **state) {
    (void)state;
    team_close(team);
    return 0;
}

static real *numbers(size_t count) {
    real *x = calloc(count, sizeof(*x));
    assert_non_null(x);
    return x;
}

static real *random_numbers(struct rng *r, size_t count) {
    real *x = numbers(count);
    for (size_t i = 0; i < count; i++)
        x[i] = (real)(2 * rng_unit(r) - 1);
    return x;
}

static void check_near(double got, double want, double error) {
    if (!(fabs(got - want) <= error))
        fail_msg("%.12g instead of %.12g", got, want);
}

/* ------------------------------------------------------------------------------------ learning rate */

static void test_schedule__warms_up_stays_and_falls(void **state) {
    (void)state;
    const struct schedule s = {.peak = 1, .floor = 0.1, .warmup = 4, .decay = 10, .end = 30};
    check_near(schedule_rate(&s, 0), 0.25, 0);
    check_near(schedule_rate(&s, 3), 1, 0);
    check_near(schedule_rate(&s, 19), 1, 0);
    check_near(schedule_rate(&s, 24), 0.55, 1e-12);
    check_near(schedule_rate(&s, 29), 0.1, 1e-12);
    check_near(schedule_rate(&s, 30), 0.1, 0);
    check_near(schedule_rate(&s, UINT64_MAX), 0.1, 0);
    for (uint64_t i = 20; i < 30; i++)
        assert_true(schedule_rate(&s, i) < schedule_rate(&s, i - 1));
    const struct schedule plain = {.peak = 0.5, .end = UINT64_MAX};
    check_near(schedule_rate(&plain, 0), 0.5, 0);
    check_near(schedule_rate(&plain, UINT64_MAX - 1), 0.5, 0);
}

/* ----------------------------------------------------------------------------------------- clipping */

static void test_clip__gradients_longer_than_the_limit(void **state) {
    (void)state;
    for (size_t count = 1; count < 40000; count = count * 7 + 3) {
        real *x = numbers(count);
        double sum = 0;
        for (size_t i = 0; i < count; i++) {
            x[i] = (real)((double)(i % 16) - 7.5);
            sum += (double)x[i] * (double)x[i];
        }
        check_near(REAL(sum_squares)(team, count, x), sum, 0); /* quarters: no sum of them is rounded */
        REAL(scale)(team, count, clip_factor(sqrt(sum), 1), x);
        check_near(REAL(sum_squares)(team, count, x), 1, 1e-5);
        free(x);
    }
    check_near(clip_factor(2, 1), 0.5, 0);
    check_near(clip_factor(0.5, 1), 1, 0);
    check_near(clip_factor(0, 1), 1, 0);
    check_near(clip_factor(100, 0), 1, 0);
}

/* --------------------------------------------------------------------------------------------- Muon */

static void test_muon__is_the_reference(void **state) {
    (void)state;
    struct muon_options o;
    muon_options_default(&o);
    for (size_t t = 0; t < COUNT_OF(muon_table); t++) {
        size_t rows = muon_table[t].rows, cols = muon_table[t].cols, count = 2 * rows * cols;
        real *w = numbers(count), *g = numbers(count), *m = numbers(count);
        real *scratch = numbers(team_workers(team) * muon_scratch(rows, cols));
        for (size_t i = 0; i < count; i++)
            w[i] = ((real)(i * 29 % 32) - (real)15.5) / 32;
        for (size_t step = 0; step < 3; step++) {
            for (size_t i = 0; i < count; i++)
                g[i] = ((real)((i * i * 37 + step * 101 + i * 5) % 64) - (real)31.5) / 64;
            REAL(muon_step)(team, &o, 0.02, 2, rows, cols, g, m, w, scratch);
        }
        for (size_t i = 0; i < count; i++)
            check_near((double)w[i], muon_table[t].weight[i], EXACT ? 1e-13 : 3e-4);
        free(w);
        free(g);
        free(m);
        free(scratch);
    }
}

/* Of x x^T, or x^T x where x is tall: the largest distance from the unit matrix. */
static double distance_from_unit(size_t rows, size_t cols, const real *x) {
    const bool tall = rows > cols;
    const size_t narrow = tall ? cols : rows, wide = tall ? rows : cols, across = tall ? 1 : cols,
                 along = tall ? cols : 1;
    double worst = 0;
    for (size_t i = 0; i < narrow; i++)
        for (size_t j = 0; j < narrow; j++) {
            double sum = 0;
            for (size_t k = 0; k < wide; k++)
                sum += (double)x[i * across + k * along] * (double)x[j * across + k * along];
            worst = fmax(worst, fabs(sum - (i == j)));
        }
    return worst;
}

static void test_orthogonalise__singular_values_are_one(void **state) {
    (void)state;
    static const size_t shapes[][2] = {{16, 40}, {40, 16}, {24, 25}, {1, 7}, {7, 1}, {1, 1}, {33, 100}};
    struct rng r;
    rng_init(&r, 1);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        size_t rows = shapes[i][0], cols = shapes[i][1];
        real *x = random_numbers(&r, rows * cols), *scratch = numbers(muon_scratch(rows, cols));
        REAL(scale)(team, rows * cols, i % 2 ? 1e-12 : 1e6, x);
        REAL(orthogonalise)(team, rows, cols, x, scratch);
        check_near(distance_from_unit(rows, cols, x), 0, EXACT ? 2e-3 : 3e-2);
        free(x);
        free(scratch);
    }
}

static void test_orthogonalise__zero_stays_zero(void **state) {
    (void)state;
    real x[6] = {0}, scratch[6 + 2 * 4];
    REAL(orthogonalise)(team, 2, 3, x, scratch);
    for (size_t i = 0; i < 6; i++)
        assert_true(x[i] == 0);
}

/* --------------------------------------------------------------------------------------------- Adam */

static void test_adam__is_its_formula(void **state) {
    (void)state;
    struct adam_options o;
    struct rng r;
    adam_options_default(&o);
    rng_init(&r, 2);
    real w[5], m[5] = {0}, v[5] = {0}, g[5];
    double ww[5], mm[5] = {0}, vv[5] = {0};
    for (size_t i = 0; i < 5; i++)
        ww[i] = w[i] = (real)i - 2;
    for (uint64_t step = 1; step <= 20; step++) {
        for (size_t i = 0; i < 5; i++)
            g[i] = i == 4 ? 0 : (real)((2 * rng_unit(&r) - 1) * pow(10, -4.0 * (double)i));
        REAL(adam_step)(team, &o, 0.01, step, 5, g, m, v, w);
        for (size_t i = 0; i < 5; i++) {
            mm[i] = 0.9 * mm[i] + 0.1 * (double)g[i];
            vv[i] = 0.95 * vv[i] + 0.05 * (double)g[i] * (double)g[i];
            double mean = mm[i] / (1 - pow(0.9, (double)step)), square = vv[i] / (1 - pow(0.95, (double)step));
            ww[i] -= 0.01 * (mean / (sqrt(square) + 1e-20) + 0.1 * ww[i]);
            check_near((double)w[i], ww[i], EXACT ? 1e-13 : 3e-6);
        }
    }
}

enum { ROWS = 300, WIDTH = 20 };

struct table {
    real *w, *m, *v;
    uint32_t *steps;
};

static struct table table_new(void) {
    struct table t = {numbers(ROWS * WIDTH), numbers(ROWS * WIDTH), numbers(ROWS * WIDTH), calloc(ROWS, 4)};
    assert_non_null(t.steps);
    return t;
}

static void table_free(struct table *t) {
    free(t->w);
    free(t->m);
    free(t->v);
    free(t->steps);
}

static void test_adam_rows__all_rows_are_adam(void **state) {
    (void)state;
    struct adam_options o;
    struct rng r;
    uint32_t rows[ROWS];
    struct table dense = table_new(), sparse = table_new();
    adam_options_default(&o);
    rng_init(&r, 3);
    real *g = numbers(ROWS * WIDTH), *turned = numbers(ROWS * WIDTH);
    for (uint64_t step = 1; step <= 5; step++) {
        for (size_t i = 0; i < ROWS * WIDTH; i++)
            g[i] = (real)(rng_unit(&r) - 0.5);
        for (uint32_t i = 0; i < ROWS; i++) {
            rows[i] = (uint32_t)(i * 7 + step) % ROWS;
            memcpy(turned + i * WIDTH, g + rows[i] * WIDTH, WIDTH * sizeof(*g));
        }
        REAL(adam_step)(team, &o, 0.01, step, ROWS * WIDTH, g, dense.m, dense.v, dense.w);
        REAL(adam_rows_step)(team, &o, 0.01, WIDTH, ROWS, rows, turned, sparse.steps, sparse.m, sparse.v, sparse.w);
        assert_memory_equal(dense.w, sparse.w, ROWS * WIDTH * sizeof(*dense.w));
        assert_memory_equal(dense.v, sparse.v, ROWS * WIDTH * sizeof(*dense.v));
    }
    free(g);
    free(turned);
    table_free(&dense);
    table_free(&sparse);
}

static void test_adam_rows__others_stay_and_late_ones_are_not_behind(void **state) {
    (void)state;
    struct adam_options o;
    struct table t = table_new();
    const uint32_t early[] = {7, 2}, late[] = {2, 250};
    real g[2 * WIDTH];
    adam_options_default(&o);
    o.decay = 0;
    for (size_t i = 0; i < 2 * WIDTH; i++)
        g[i] = i % 2 ? 3 : (real)-1e-6;
    REAL(adam_rows_step)(team, &o, 0.01, WIDTH, 2, early, g, t.steps, t.m, t.v, t.w);
    REAL(adam_rows_step)(team, &o, 0.01, WIDTH, 2, late, g, t.steps, t.m, t.v, t.w);
    for (size_t i = 0; i < WIDTH; i++) {
        assert_memory_equal(&t.w[7 * WIDTH + i], &t.w[250 * WIDTH + i], sizeof(*t.w));
        check_near((double)t.w[7 * WIDTH + i], i % 2 ? -0.01 : 0.01, 1e-8);
        check_near((double)t.w[2 * WIDTH + i], i % 2 ? -0.02 : 0.02, 1e-8);
        assert_true(t.w[8 * WIDTH + i] == 0 && t.m[8 * WIDTH + i] == 0);
    }
    assert_int_equal(t.steps[2], 2);
    assert_int_equal(t.steps[250], 1);
    assert_int_equal(t.steps[8], 0);
    table_free(&t);
}

/* ------------------------------------------------------------------------------------ together */

enum { TALL = 210, BROAD = 170, ALL = TALL * BROAD };

/* Two steps of everything with so many workers; w [2 ALL] is what came of it. */
static void run_with(uint32_t workers, real *w) {
    struct team *some;
    struct muon_options muon;
    struct adam_options adam;
    struct rng r;
    rng_init(&r, 4);
    muon_options_default(&muon);
    adam_options_default(&adam);
    real *g = random_numbers(&r, ALL), *m = numbers(ALL), *v = numbers(ALL), *mean = numbers(ALL);
    real *scratch = numbers(workers * muon_scratch(TALL, BROAD));
    CHECKED(team_open(workers, &some, &error));
    for (uint64_t step = 1; step <= 2; step++) {
        REAL(scale)(some, ALL, clip_factor(sqrt(REAL(sum_squares)(some, ALL, g)), 1), g);
        REAL(muon_step)(some, &muon, 0.01, 1, TALL, BROAD, g, m, w, scratch);
        REAL(muon_step)(some, &muon, 0.01, 7, TALL / 8, BROAD, g, m, w, scratch); /* some by one worker each */
        REAL(adam_step)(some, &adam, 0.01, step, ALL, g, mean, v, w + ALL);
        memcpy(g, w, ALL * sizeof(*g));
    }
    team_close(some);
    free(g);
    free(m);
    free(v);
    free(mean);
    free(scratch);
}

static void test_optim__workers_change_no_bit(void **state) {
    (void)state;
    real *one = numbers(2 * ALL);
    run_with(1, one);
    for (uint32_t workers = 2; workers <= 3; workers++) {
        real *some = numbers(2 * ALL);
        run_with(workers, some);
        assert_memory_equal(one, some, 2 * ALL * sizeof(*one));
        free(some);
    }
    free(one);
}

enum { SIDE = 12 };

/* The bowl |w - aim|^2 / 2 whose axes have curvatures from 1 to 100: its value, and gradient into g. */
static double bowl(const real *w, const real *aim, real *g) {
    double sum = 0;
    for (size_t i = 0; i < SIDE * SIDE; i++) {
        double curvature = pow(100, (double)i / (SIDE * SIDE)), d = (double)w[i] - (double)aim[i];
        g[i] = (real)(curvature * d);
        sum += curvature * d * d / 2;
    }
    return sum;
}

static void test_optim__finds_the_bottom(void **state) {
    (void)state;
    const struct schedule s = {.peak = 0.05, .floor = 0, .warmup = 10, .decay = 350, .end = 400};
    struct muon_options muon;
    struct adam_options adam;
    struct rng r;
    muon_options_default(&muon);
    adam_options_default(&adam);
    muon.decay = adam.decay = 0;
    rng_init(&r, 5);
    for (int by_muon = 0; by_muon < 2; by_muon++) {
        real g[SIDE * SIDE], w[SIDE * SIDE] = {0}, m[SIDE * SIDE] = {0}, v[SIDE * SIDE] = {0};
        real *aim = random_numbers(&r, SIDE * SIDE), scratch[4 * SIDE * SIDE];
        const double first = bowl(w, aim, g);
        for (uint64_t step = 0; step < s.end; step++) {
            bowl(w, aim, g);
            if (by_muon)
                REAL(muon_step)(team, &muon, schedule_rate(&s, step), 1, SIDE, SIDE, g, m, w, scratch);
            else
                REAL(adam_step)(team, &adam, schedule_rate(&s, step), step + 1, SIDE * SIDE, g, m, v, w);
        }
        check_near(bowl(w, aim, g) / first, 0, 1e-4);
        free(aim);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule__warms_up_stays_and_falls),
        cmocka_unit_test(test_clip__gradients_longer_than_the_limit),
        cmocka_unit_test(test_muon__is_the_reference),
        cmocka_unit_test(test_orthogonalise__singular_values_are_one),
        cmocka_unit_test(test_orthogonalise__zero_stays_zero),
        cmocka_unit_test(test_adam__is_its_formula),
        cmocka_unit_test(test_adam_rows__all_rows_are_adam),
        cmocka_unit_test(test_adam_rows__others_stay_and_late_ones_are_not_behind),
        cmocka_unit_test(test_optim__workers_change_no_bit),
        cmocka_unit_test(test_optim__finds_the_bottom),
    };
    return cmocka_run_group_tests(tests, open_team, close_team);
}
