/* test_train_lanes.c - float exponentials against libm's in double, and sums in lanes. */
#include "numbers.h"

#include "train/lanes_internal.h"

/* Units in the last place between a float and what it should be. */
static double units(float got, double exact) {
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1, exponent - 24);
}

static void test_exp__is_within_two_units(void **state) {
    double worst = 0;
    (void)state;
    for (double x = -86; x <= 88.7; x += 1.37e-4)
        worst = fmax(worst, units(lanes_exp((float)x), exp((double)(float)x)));
    if (!(worst <= 2))
        fail_msg("%.2f units in the last place", worst);
}

static void test_exp__at_its_ends(void **state) {
    (void)state;
    assert_true(lanes_exp(0) == 1);
    assert_true(lanes_exp(-86.01f) == 0 && lanes_exp(-1e30f) == 0 && lanes_exp(-INFINITY) == 0);
    assert_true(isinf(lanes_exp(88.71f)) && isinf(lanes_exp(1e30f)) && isinf(lanes_exp(INFINITY)));
    assert_true(isnan(lanes_exp(NAN)));
    assert_true(lanes_sigmoid(0) == 0.5f && lanes_sigmoid(-1e9f) == 0 && lanes_sigmoid(1e9f) == 1);
}

static void test_dot__takes_every_length(void **state) {
    float a[100];
    (void)state;
    for (size_t n = 0; n <= COUNT_OF(a); n++) {
        for (size_t i = 0; i < n; i++)
            a[i] = (float)(i + 1);
        assert_true(lanes_dot(a, a, n) == (float)(n * (n + 1) * (2 * n + 1) / 6));
    }
}

static void test_largest__is_found_at_every_place(void **state) {
    float a[200];
    (void)state;
    for (size_t n = 1; n <= COUNT_OF(a); n++)
        for (size_t at = 0; at < n; at++) {
            for (size_t i = 0; i < n; i++)
                a[i] = i % 7 == 3 ? NAN : -(float)i;
            a[at] = 2;
            assert_true(lanes_largest(a, n, 1) == 2 && lanes_largest(a, n, 3) == 3);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp__is_within_two_units),
        cmocka_unit_test(test_exp__at_its_ends),
        cmocka_unit_test(test_dot__takes_every_length),
        cmocka_unit_test(test_largest__is_found_at_every_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
