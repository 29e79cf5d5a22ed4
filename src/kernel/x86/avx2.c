/* avx2.c - the avx2 level: the shared kernels, eight lanes wide. Products are in avx2_products.c. */
#include "kernel/x86/avx2_internal.h"

#include "kernel/wide_internal.h"

#include "kernel/wide_factors_internal.h"

#include "kernel/wide_tiles_internal.h"

void kernel_table_init_avx2(struct kernel_table *t, bool invariant) {
#define KERNEL_SET(name, returns, parameters) t->name = name##_avx2;
    KERNELS(KERNEL_SET)
#undef KERNEL_SET
#define KERNEL_SET(name, returns, parameters) t->name = name##_invariant_avx2;
    if (invariant) {
        KERNEL_PRODUCTS(KERNEL_SET)
    }
#undef KERNEL_SET
}
