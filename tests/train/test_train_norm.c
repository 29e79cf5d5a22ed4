/* test_train_norm.c - RMS norm: gradients, the kernels' C level, float against double, numbers of workers. */
#define TRAIN_DOUBLE
#include "numbers.h"

#include "kernel/kernel.h"
#include "train/norm_internal.h"

#include "float_side.h"

#include "train/norm_internal.h"

static const double EPS = 1e-6;

struct norm_case {
    struct team *team;
    size_t rows, dim;
    double *x, *weight, *y, *inverse, *wanted;
};

static double norm_loss(void *context) {
    struct norm_case *c = context;
    norm_forward_f64(c->team, c->rows, c->dim, EPS, c->x, c->weight, c->y, c->inverse);
    return dot(c->y, c->wanted, c->rows * c->dim);
}

static void check_case(size_t rows, size_t dim, bool weighted, uint64_t seed) {
    struct bag bag = {0};
    struct rng r;
    struct norm_case c = {.rows = rows, .dim = dim};
    size_t count = rows * dim;
    rng_init(&r, seed);
    CHECKED(team_open(2, &c.team, &error));
    c.x = random_doubles(&bag, &r, count, 2);
    c.weight = weighted ? random_doubles(&bag, &r, dim, 1) : NULL;
    c.wanted = random_doubles(&bag, &r, count, 1);
    c.y = doubles(&bag, count);
    c.inverse = doubles(&bag, rows);
    double *dx = ones(&bag, count), *dweight = weighted ? ones(&bag, dim) : NULL;
    norm_loss(&c);
    norm_backward_f64(c.team, rows, dim, c.x, c.weight, c.inverse, c.wanted, dx, dweight);
    take_ones(dx, count);
    if (weighted)
        take_ones(dweight, dim);
    struct checked list[] = {{"x", c.x, dx, count}, {"weight", c.weight, dweight, dim}};
    check_gradients(list, weighted ? 2 : 1, norm_loss, &c);
    team_close(c.team);
    bag_release(&bag);
}

static void test_norm__gradients(void **state) {
    static const size_t shapes[][2] = {{1, 1}, {1, 7}, {3, 64}, {65, 5}, {130, 16}, {10, 130}, {64, 33}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            check_case(shapes[i][0], shapes[i][1], true, seed);
            check_case(shapes[i][0], shapes[i][1], false, seed);
        }
}

static void test_norm__is_that_of_the_kernels(void **state) {
    enum { ROWS = 70, DIM = 130 };
    struct bag bag = {0};
    struct rng r;
    struct team *team;
    struct kernel_table kernels;
    (void)state;
    rng_init(&r, 3);
    kernel_table_init(&kernels, KERNEL_LEVEL_c, false);
    CHECKED(team_open(1, &team, &error));
    float *x = float_copy(&bag, random_doubles(&bag, &r, ROWS * DIM, 3), ROWS * DIM);
    float *weight = float_copy(&bag, random_doubles(&bag, &r, DIM, 1), DIM), *y = floats(&bag, ROWS * DIM);
    norm_forward_f32(team, ROWS, DIM, 1e-6f, x, weight, y, NULL);
    for (size_t row = 0; row < ROWS; row++) {
        float expected[DIM];
        kernels.rms_norm(x + row * DIM, DIM, weight, 1e-6f, expected);
        for (size_t i = 0; i < DIM; i++)
            if (fabsf(y[row * DIM + i] - expected[i]) > 1e-6f * fabsf(expected[i]))
                fail_msg("row %zu, channel %zu: %.9g, expected %.9g", row, i, (double)y[row * DIM + i],
                         (double)expected[i]);
    }
    team_close(team);
    bag_release(&bag);
}

enum { ROWS = 200, DIM = 150 };

struct result {
    float *y, *inverse, *dx, *dweight;
};

static struct result run_float(struct bag *bag, uint32_t workers, const double *x, const double *weight,
                               const double *dy) {
    struct result o = {floats(bag, ROWS * DIM), floats(bag, ROWS), floats(bag, ROWS * DIM), floats(bag, DIM)};
    float *x32 = float_copy(bag, x, ROWS * DIM), *w32 = float_copy(bag, weight, DIM);
    struct team *team;
    CHECKED(team_open(workers, &team, &error));
    norm_forward_f32(team, ROWS, DIM, 1e-6f, x32, w32, o.y, o.inverse);
    norm_backward_f32(team, ROWS, DIM, x32, w32, o.inverse, float_copy(bag, dy, ROWS * DIM), o.dx, o.dweight);
    team_close(team);
    return o;
}

static void test_norm__same_in_both_types_and_with_any_workers(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct team *team;
    (void)state;
    rng_init(&r, 4);
    double *x = random_doubles(&bag, &r, ROWS * DIM, 2), *weight = random_doubles(&bag, &r, DIM, 1);
    double *dy = random_doubles(&bag, &r, ROWS * DIM, 1), *y = doubles(&bag, ROWS * DIM);
    double *inverse = doubles(&bag, ROWS), *dx = doubles(&bag, ROWS * DIM), *dweight = doubles(&bag, DIM);
    CHECKED(team_open(1, &team, &error));
    norm_forward_f64(team, ROWS, DIM, EPS, x, weight, y, inverse);
    norm_backward_f64(team, ROWS, DIM, x, weight, inverse, dy, dx, dweight);
    team_close(team);
    struct result one = run_float(&bag, 1, x, weight, dy);
    check_near_float("y", one.y, y, ROWS * DIM, 1e-6);
    check_near_float("dx", one.dx, dx, ROWS * DIM, 1e-6);
    check_near_float("dweight", one.dweight, dweight, DIM, 1e-6);
    for (uint32_t workers = 2; workers <= 3; workers++) {
        struct result other = run_float(&bag, workers, x, weight, dy);
        check_same("y", other.y, one.y, ROWS * DIM);
        check_same("dx", other.dx, one.dx, ROWS * DIM);
        check_same("dweight", other.dweight, one.dweight, DIM);
    }
    bag_release(&bag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm__gradients),
        cmocka_unit_test(test_norm__is_that_of_the_kernels),
        cmocka_unit_test(test_norm__same_in_both_types_and_with_any_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
