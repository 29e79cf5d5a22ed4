/* test_train_optim_f32.c - test_train_optim.c in float. */
#define TEST_FLOAT
#include "test_train_optim.c"
