/* test.h - what every test program begins with: cmocka and the headers it wants before it. */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A call of the library that must succeed; its last argument is &error. */
#define CHECKED(call)                                                                                                  \
    do {                                                                                                               \
        struct sonde_error error = {0};                                                                                \
        if (call)                                                                                                      \
            fail_msg("%s: %s", #call, error.message);                                                                  \
    } while (0)

#endif
