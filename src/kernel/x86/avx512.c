/* avx512.c - the avx512 level: the shared kernels, sixteen lanes wide. Products are in avx512_products.c. */
#include "kernel/x86/avx512_internal.h"

#include "kernel/wide_internal.h"

#include "kernel/wide_factors_internal.h"

#include "kernel/wide_tiles_internal.h"

void kernel_table_init_avx512(struct kernel_table *t, bool invariant) {
#define KERNEL_SET(name, returns, parameters) t->name = name##_avx512;
    KERNELS(KERNEL_SET)
#undef KERNEL_SET
#define KERNEL_SET(name, returns, parameters) t->name = name##_invariant_avx512;
    if (invariant) {
        KERNEL_PRODUCTS(KERNEL_SET)
    }
#undef KERNEL_SET
}
