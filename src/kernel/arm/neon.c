/* neon.c - the neon level: the shared kernels, four lanes wide. Products are in neon_products.c. */
#include "kernel/arm/neon_internal.h"

#include "kernel/wide_internal.h"

#include "kernel/wide_factors_internal.h"

#include "kernel/wide_tiles_internal.h"

void kernel_table_init_neon(struct kernel_table *t, bool invariant) {
#define KERNEL_SET(name, returns, parameters) t->name = name##_neon;
    KERNELS(KERNEL_SET)
#undef KERNEL_SET
#define KERNEL_SET(name, returns, parameters) t->name = name##_invariant_neon;
    if (invariant) {
        KERNEL_PRODUCTS(KERNEL_SET)
    }
#undef KERNEL_SET
}
