/*
 * test_train_rotate.c - rotary turning and the Hadamard transform: the kernels' C level, the oracle, there and back,
 * gradients, numbers of workers.
 */
#define TRAIN_DOUBLE
#include "numbers.h"

#include "kernel/kernel.h"
#include "model/model.h"
#include "token_table.h"
#include "train/rotate_internal.h"

#include "float_side.h"

#include "train/rotate_internal.h"

enum { ROWS = 70, HEADS = 3, DIM = 16, HALF = 4, COUNT = ROWS * HEADS * DIM };

static const float frequency[HALF] = {1, 0.3f, 0.05f, 0.001f};

static void fill_positions(uint32_t *positions) {
    for (uint32_t i = 0; i < ROWS; i++)
        positions[i] = i < 50 ? i : 4 * (i - 50); /* two segments, and steps of compressed entries */
}

struct rotate_case {
    struct team *team;
    double *x, *y, *turns, *wanted;
    int direction;
};

static double rotate_loss(void *context) {
    struct rotate_case *c = context;
    memcpy(c->y, c->x, COUNT * sizeof(*c->y));
    rotate_f64(c->team, ROWS, HEADS, DIM, HALF, c->turns, c->direction, c->y);
    return dot(c->y, c->wanted, COUNT);
}

static double hadamard_loss(void *context) {
    struct rotate_case *c = context;
    memcpy(c->y, c->x, COUNT * sizeof(*c->y));
    hadamard_f64(c->team, ROWS * HEADS, DIM, c->y);
    return dot(c->y, c->wanted, COUNT);
}

static void test_rotate__gradient_is_the_way_back(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct rotate_case c;
    uint32_t positions[ROWS];
    (void)state;
    rng_init(&r, 1);
    fill_positions(positions);
    CHECKED(team_open(2, &c.team, &error));
    c.x = random_doubles(&bag, &r, COUNT, 1);
    c.wanted = random_doubles(&bag, &r, COUNT, 1);
    c.y = doubles(&bag, COUNT);
    c.turns = doubles(&bag, ROWS * 2 * HALF);
    rotate_turns_f64(c.team, ROWS, HALF, positions, frequency, c.turns);
    double *dx = doubles(&bag, COUNT);
    struct checked list = {"x", c.x, dx, COUNT};
    for (c.direction = -1; c.direction <= 1; c.direction += 2) {
        memcpy(dx, c.wanted, COUNT * sizeof(*dx));
        rotate_f64(c.team, ROWS, HEADS, DIM, HALF, c.turns, -c.direction, dx);
        check_gradients(&list, 1, rotate_loss, &c);
    }
    memcpy(dx, c.wanted, COUNT * sizeof(*dx));
    hadamard_f64(c.team, ROWS * HEADS, DIM, dx);
    check_gradients(&list, 1, hadamard_loss, &c);
    team_close(c.team);
    bag_release(&bag);
}

static void run_float(uint32_t workers, const float *x, float *turns, float *y, float *h) {
    uint32_t positions[ROWS];
    struct team *team;
    fill_positions(positions);
    CHECKED(team_open(workers, &team, &error));
    rotate_turns_f32(team, ROWS, HALF, positions, frequency, turns);
    memcpy(y, x, COUNT * sizeof(*y));
    memcpy(h, x, COUNT * sizeof(*h));
    rotate_f32(team, ROWS, HEADS, DIM, HALF, turns, 1, y);
    hadamard_f32(team, ROWS * HEADS, DIM, h);
    team_close(team);
}

static void test_rotate__is_that_of_the_kernels_with_any_workers(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct kernel_table kernels;
    (void)state;
    rng_init(&r, 2);
    kernel_table_init(&kernels, KERNEL_LEVEL_c, false);
    float *x = float_copy(&bag, random_doubles(&bag, &r, COUNT, 1), COUNT);
    for (uint32_t workers = 1; workers <= 3; workers++) {
        float *turns = floats(&bag, ROWS * 2 * HALF), *y = floats(&bag, COUNT), *h = floats(&bag, COUNT);
        run_float(workers, x, turns, y, h);
        for (size_t i = 0; i < ROWS * HEADS; i++) {
            float turned[DIM], transformed[DIM];
            memcpy(turned, x + i * DIM, sizeof(turned));
            memcpy(transformed, x + i * DIM, sizeof(transformed));
            kernels.rotate(turned + DIM - 2 * HALF, HALF, turns + i / HEADS * 2 * HALF, 1);
            kernels.hadamard(transformed, DIM);
            assert_memory_equal(y + i * DIM, turned, sizeof(turned));
            assert_memory_equal(h + i * DIM, transformed, sizeof(transformed));
        }
    }
    bag_release(&bag);
}

/* token_table.h: frequencies, plain and stretched by YaRN, and a turned vector at a far position. */
static void test_rotate__is_that_of_the_oracle(void **state) {
    static const struct yarn yarn = {16, 32, 1, 4096};
    struct bag bag = {0};
    struct team *team;
    uint32_t positions[] = {0, 1, 5, 100, 40000};
    float plain[TABLE_HALF], stretched[TABLE_HALF];
    double turns[5 * 2 * TABLE_HALF];
    (void)state;
    rotary_frequencies(2 * TABLE_HALF, 10000, NULL, plain);
    rotary_frequencies(2 * TABLE_HALF, 160000, &yarn, stretched);
    check_near_float("frequencies", plain, table_frequency, TABLE_HALF, 1e-6);
    check_near_float("frequencies with YaRN", stretched, table_frequency_yarn, TABLE_HALF, 1e-6);
    CHECKED(team_open(1, &team, &error));
    double *x = wave(&bag, 5 * TABLE_ROTATE_DIM, 0.5, 1);
    rotate_turns_f64(team, 5, TABLE_HALF, positions, stretched, turns);
    rotate_f64(team, 5, 1, TABLE_ROTATE_DIM, TABLE_HALF, turns, 1, x);
    check_near("turned", x, table_rotated, 5 * TABLE_ROTATE_DIM, 1e-5);
    hadamard_f64(team, 5, TABLE_ROTATE_DIM, x);
    check_near("transformed", x, table_transformed, 5 * TABLE_ROTATE_DIM, 1e-5);
    team_close(team);
    bag_release(&bag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotate__gradient_is_the_way_back),
        cmocka_unit_test(test_rotate__is_that_of_the_kernels_with_any_workers),
        cmocka_unit_test(test_rotate__is_that_of_the_oracle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
