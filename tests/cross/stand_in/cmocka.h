/*
 * cmocka.h - as much of cmocka as the tests of numbers and kernels use, for processors whose cmocka is not there.
 *
 * Prints TAP. A failed assertion says where it stands and ends the program, so at most one case fails at a time.
 */
#ifndef TESTS_CROSS_CMOCKA_H
#define TESTS_CROSS_CMOCKA_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

/* The case that runs, for whoever ends it. */
struct stand_in_case {
    size_t number;
    const char *name;
};

static inline struct stand_in_case *stand_in_current(void) {
    static struct stand_in_case current;
    return &current;
}

static inline void stand_in_report(const char *verdict) {
    const struct stand_in_case *c = stand_in_current();
    printf("%s %zu - %s\n", verdict, c->number, c->name);
    fflush(stdout);
}

#define fail_msg(...)                                                                                                  \
    do {                                                                                                               \
        stand_in_report("not ok");                                                                                     \
        printf("# %s:%d: ", __FILE__, __LINE__);                                                                       \
        printf(__VA_ARGS__);                                                                                           \
        printf("\n");                                                                                                  \
        exit(1);                                                                                                       \
    } while (0)

#define assert_true(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fail_msg("%s is not so", #condition);                                                                      \
    } while (0)
#define assert_false(condition)  assert_true(!(condition))
#define assert_non_null(pointer) assert_true((pointer) != NULL)
#define assert_int_equal(a, b)                                                                                         \
    do {                                                                                                               \
        uintmax_t stand_in_got = (uintmax_t)(a), stand_in_want = (uintmax_t)(b);                                       \
        if (stand_in_got != stand_in_want)                                                                             \
            fail_msg("%s is %#" PRIxMAX ", not %#" PRIxMAX, #a, stand_in_got, stand_in_want);                          \
    } while (0)
#define assert_memory_equal(a, b, bytes) assert_true(memcmp(a, b, bytes) == 0)

#define print_message(...) printf(__VA_ARGS__)
#define print_error(...)   fprintf(stderr, __VA_ARGS__)

#define cmocka_unit_test(function)                                                                                     \
    { #function, function }
#define cmocka_run_group_tests(tests, set_up, tear_down)                                                               \
    stand_in_run(tests, sizeof(tests) / sizeof((tests)[0]), set_up, tear_down)

/* The number of cases that failed. */
static inline int stand_in_run(const struct CMUnitTest *tests, size_t count, int (*set_up)(void **state),
                               int (*tear_down)(void **state)) {
    void *state = NULL;
    printf("1..%zu\n", count);
    if (set_up && set_up(&state)) {
        printf("# the tests could not be set up\n");
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        *stand_in_current() = (struct stand_in_case){i + 1, tests[i].name};
        tests[i].run(&state);
        stand_in_report("ok");
    }
    return tear_down && tear_down(&state) ? 1 : 0;
}

#endif
