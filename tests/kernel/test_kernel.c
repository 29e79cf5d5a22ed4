/*
 * test_kernel.c - every kernel of every level against a plain double-precision reading of its contract.
 *
 * inputs.c makes the inputs, in guarded memory; check_products.c, check_attention.c and check_vectors.c have a check
 * for each kernel, which is run here with random inputs at every level; a signal names the kernel. invariance.c holds
 * results to what must not change them; faults.c sabotages each kernel in turn and expects its check to notice.
 *
 * The seed is printed; SONDE_TEST_SEED repeats one; SONDE_TEST_ROUNDS says how many random inputs each kernel gets.
 * `test_kernel --bench [LEVEL [KERNEL]]` times them instead (bench.c), `--bench-invariant` those of invariant tables.
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "test_kernel.h"

#include "base/base.h"
#include "bench.h"
#include "checks.h"
#include "inputs.h"

int rounds = 400;

/* ------------------------------------------------------------------------------ levels and signals */

const char *running_kernel, *running_level;

static void say(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

static void on_signal(int number) {
    say(number == SIGILL ? "\nSIGILL in " : number == SIGSEGV ? "\nSIGSEGV in " : "\nSIGBUS or SIGFPE in ");
    say(running_kernel);
    say("_");
    say(running_level);
    say("\n");
    _exit(1);
}

void name_signals(const char *level) {
    static const int numbers[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    running_level = level;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        signal(numbers[i], on_signal);
}

bool enter_level(int level, bool invariant, struct kernel_table *t) {
    if (!kernel_level_runs((enum kernel_level)level))
        return false;
    name_signals(kernel_level_name((enum kernel_level)level));
    kernel_table_init(t, (enum kernel_level)level, invariant);
    return true;
}

/* --------------------------------------------------------------------------------------- contracts */

/* Kernels that have an invariant twin, the first of all. */
enum {
#define COUNT_PRODUCT(name, returns, parameters) PRODUCT_##name,
    KERNEL_PRODUCTS(COUNT_PRODUCT)
#undef COUNT_PRODUCT
        PRODUCTS
};

static const struct {
    const char *name;
    bool (*run)(const struct kernel_table *t);
} checks[] = {
#define CHECK_ROW(name, returns, parameters) {#name, check_##name},
    KERNELS(CHECK_ROW)
#undef CHECK_ROW
};

bool check_holds(size_t check, const struct kernel_table *t) {
    bool good = true;
    running_kernel = checks[check].name;
    for (int i = 0; i < rounds && good; i++) {
        good = checks[check].run(t);
        good &= floats_release();
    }
    return good;
}

static void test_kernels__keep_their_contracts(void **state) {
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!enter_level(level, false, &t))
            continue;
        for (size_t i = 0; i < COUNT_OF(checks); i++)
            if (!check_holds(i, &t))
                fail_msg("%s_%s breaks its contract", checks[i].name, running_level);
        kernel_table_init(&t, (enum kernel_level)level, true);
        for (size_t i = 0; i < PRODUCTS; i++)
            if (!check_holds(i, &t))
                fail_msg("%s_invariant_%s breaks its contract", checks[i].name, running_level);
    }
}

/* ------------------------------------------------------------------------------------ command line */

/* --bench [LEVEL [KERNEL]]: figures instead of tests, of the level or of all that run, of the kernel or of all. */
static int bench(int argc, char **argv, bool invariant) {
    enum kernel_level only = KERNEL_LEVEL_COUNT;
    if (argc > 2 && !kernel_level_parse(argv[2], &only)) {
        print_error("no level is called %s\n", argv[2]);
        return 2;
    }
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!kernel_level_runs((enum kernel_level)level) || (argc > 2 && level != (int)only))
            continue;
        kernel_table_init(&t, (enum kernel_level)level, invariant);
        if (!bench_kernels(&t, kernel_level_name((enum kernel_level)level), argc > 3 ? argv[3] : NULL))
            return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strncmp(argv[1], "--bench", 7) == 0)
        return bench(argc, argv, strcmp(argv[1] + 7, "-invariant") == 0);
    const char *given = getenv("SONDE_TEST_SEED"), *fewer = getenv("SONDE_TEST_ROUNDS");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)(clock_seconds() * 1e6);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels__keep_their_contracts),
        cmocka_unit_test(test_products__are_the_same_beside_any_others),
        cmocka_unit_test(test_attention__heads_and_keys_do_not_touch),
        cmocka_unit_test(test_kernels__a_fault_is_noticed),
    };
    if (fewer && atoi(fewer) > 0)
        rounds = atoi(fewer);
    rng_init(&rng, seed);
    print_message("# SONDE_TEST_SEED=%llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
