/* test_kernel.h - what the tests of test_kernel share: the level that is run, names for signals, rounds of a check. */
#ifndef TESTS_KERNEL_TEST_KERNEL_H
#define TESTS_KERNEL_TEST_KERNEL_H

#include "test.h"

#include "kernel/kernel.h"

/* Random inputs a kernel gets; SONDE_TEST_ROUNDS. */
extern int rounds;

/* What a signal interrupts. A test sets the kernel, name_signals() the level. */
extern const char *running_kernel, *running_level;

/* From here to the end of the test a fatal signal prints "SIGILL in KERNEL_LEVEL" and ends the program. */
void name_signals(const char *level);

/* False if this machine cannot run the level; otherwise *t is its table, and signals are named. */
bool enter_level(int level, bool invariant, struct kernel_table *t);

/* False as soon as one of `rounds` random inputs breaks the contract of a kernel: that at place `check` of KERNELS. */
bool check_holds(size_t check, const struct kernel_table *t);

/* invariance.c, faults.c */
void test_products__are_the_same_beside_any_others(void **state);
void test_attention__heads_and_keys_do_not_touch(void **state);
void test_kernels__a_fault_is_noticed(void **state);

#endif
