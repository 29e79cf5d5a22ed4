/*
 * invariance.c - results that do not depend on what else is computed: the same bits alone, beside others, in any parts.
 *
 * Of products that is promised by invariant tables, of attention and scores by every table.
 */
#include "test_kernel.h"

#include "checks.h"
#include "inputs.h"

/* ----------------------------------------------------------------------------------------- products */

static void multiply_plainly(const struct kernel_table *t, const struct product *p) {
    t->gemm(&p->w, p->row, p->rows, p->x, p->ldx, p->count, p->y, p->ldy);
}

/* True if a product has the same bits when some tokens and some rows at a time are multiplied. */
static bool parts_agree(const struct kernel_table *t,
                        void (*multiply)(const struct kernel_table *t, const struct product *p)) {
    bool long_one = rng_u64(&rng) % 32 == 0; /* more than any level multiplies at once */
    struct product p =
        long_one ? product_of((enum format)(rng_u64(&rng) % 5), up_to(80), 1152, 500 + up_to(100)) : random_product();
    struct product part = p;
    float *again = floats((p.count - 1) * p.ldy + p.rows);
    bool good = true;
    multiply(t, &p);
    for (uint32_t s = 0; s < p.count; s += part.count) {
        part.count = up_to(rng_u64(&rng) & 1 ? 3 : p.count);
        part.count = part.count < p.count - s ? part.count : p.count - s;
        part.x = p.x + s * p.ldx;
        for (uint32_t r = 0; r < p.rows; r += part.rows) {
            part.row = p.row + r;
            part.rows = up_to(p.rows - r);
            part.y = again + s * p.ldy + r;
            multiply(t, &part);
        }
    }
    for (uint32_t s = 0; s < p.count; s++)
        good &= memcmp(p.y + s * p.ldy, again + s * p.ldy, p.rows * sizeof(float)) == 0;
    return good;
}

void test_products__are_the_same_beside_any_others(void **state) {
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!enter_level(level, true, &t))
            continue;
        running_kernel = "products in parts";
        for (int i = 0; i < rounds; i++) {
            bool plain = parts_agree(&t, multiply_plainly),
                 packed = floats_release() && parts_agree(&t, multiply_packed);
            if (!plain || !packed || !floats_release())
                fail_msg("%s at level %s depends on what else is multiplied", plain ? "gemm_bf16" : "gemm",
                         running_level);
        }
    }
}

/* ---------------------------------------------------------------------------------------- attention */

static void attend_some(const struct kernel_table *t, const struct attention *a, bool bf16, uint32_t head,
                        uint32_t heads, float *out) {
    size_t at = (size_t)head * a->format.dim;
    if (bf16)
        t->attend_bf16(a->q + at, heads, &a->format, a->keys, a->count, a->sink + head, a->scale, a->weights, out + at,
                       scratch);
    else
        t->attend(a->q + at, heads, &a->format, a->keys, a->count, a->sink + head, a->scale, a->weights, out + at);
}

/* True if a head has the same bits when some heads at a time attend: any, or with attend_bf16 those it is made for. */
static bool heads_agree(const struct kernel_table *t, bool bf16) {
    const uint32_t step = bf16 ? KERNEL_ATTEND_HEADS : 1, heads = step * up_to(6), dim = 128 * up_to(2);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim);
    struct attention a;
    if (bf16)
        f = (struct row_format){ROW_KEY, dim, 64};
    random_attention(&a, f, heads, up_to(MOST_KEYS));
    float *again = floats((size_t)heads * dim);
    attend_some(t, &a, bf16, 0, heads, a.out);
    for (uint32_t h = 0, n; h < heads; h += n) {
        n = step * up_to((heads - h) / step);
        attend_some(t, &a, bf16, h, n, again);
    }
    return memcmp(a.out, again, (size_t)heads * dim * sizeof(float)) == 0;
}

/* True if a row and a key have the same score when some rows at a time meet some keys at a time. A key may be 0. */
static bool scores_agree(const struct kernel_table *t, bool bf16) {
    bool many = rng_u64(&rng) % 4 == 0;
    uint32_t heads = many ? 128 : bf16 ? 32 * up_to(4) : up_to(20);
    uint32_t rows = up_to(many ? 20 : 6), count = up_to(many ? 40 : 200);
    struct row_format f = {ROW_INDEX, 64 * up_to(5), 0};
    struct scoring s;
    random_scoring(&s, f, rows, heads, count);
    if (rng_u64(&rng) & 1)
        row_encode(&f, memset(s.keys, 0, f.dim * sizeof(float)),
                   (void *)(uintptr_t)(s.stored + (up_to(count) - 1) * row_bytes(&f)));
    score_some(t, &s, bf16, 0, rows, 0, count, s.scores);
    for (uint32_t r = 0, some; r < rows; r += some) {
        some = up_to(rows - r);
        for (uint32_t k = 0, n; k < count; k += n) {
            n = up_to(count - k);
            score_some(t, &s, bf16, r, some, k, n, s.before);
        }
    }
    return memcmp(s.scores, s.before, ((rows - 1) * s.ld + count) * sizeof(float)) == 0;
}

void test_attention__heads_and_keys_do_not_touch(void **state) {
    (void)state;
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++) {
        struct kernel_table t;
        if (!enter_level(level, false, &t))
            continue;
        running_kernel = "attention in parts";
        for (int i = 0; i < rounds / 8; i++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                bool heads = heads_agree(&t, bf16), scores = floats_release() && scores_agree(&t, bf16);
                if (!heads || !scores || !floats_release())
                    fail_msg("%s%s_%s depends on what is beside", heads ? "index_scores" : "attend",
                             bf16 ? "_bf16" : "", running_level);
            }
    }
}
