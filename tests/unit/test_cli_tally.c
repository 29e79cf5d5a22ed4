/*
 * test_cli_tally.c - the parameter count reproduces the released figures.
 *
 * The tensors of the released checkpoints are made up from their names and shapes, 69,187 of them for
 * V4-Flash, without data.
 */
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "cli/inspect_internal.h"

struct released {
    uint32_t hidden, heads, q_rank, o_groups, experts, inter, layers, first_ratio;
    uint64_t tensors, parameters, active, bytes;
};

struct making {
    const struct released *r;
    struct shape shape;
    struct tally tally;
    char prefix[64];
};

#define VOCAB    129280
#define HEAD_DIM 512
#define O_RANK   1024

static void add(struct making *m, const char *suffix, enum dtype dtype, uint64_t rows, uint64_t cols) {
    char name[128];
    snprintf(name, sizeof(name), "%s%s", m->prefix, suffix);
    struct tensor t = {
        .name = name, .dtype = dtype, .rank = 2, .dims = {rows, cols}, .bytes = rows * cols * dtype_bytes(dtype)};
    tally_add(&m->tally, &t, &m->shape);
}

/* A matrix with its scales. */
static void add_fp8(struct making *m, const char *name, uint64_t rows, uint64_t cols) {
    char full[128];
    snprintf(full, sizeof(full), "%s.weight", name);
    add(m, full, DTYPE_F8_E4M3, rows, cols);
    snprintf(full, sizeof(full), "%s.scale", name);
    add(m, full, DTYPE_F8_E8M0, ceil_div(rows, 128), ceil_div(cols, 128));
}

static void add_fp4(struct making *m, const char *name, uint64_t rows, uint64_t cols) {
    char full[128];
    snprintf(full, sizeof(full), "%s.weight", name);
    add(m, full, DTYPE_I8, rows, cols / 2);
    snprintf(full, sizeof(full), "%s.scale", name);
    add(m, full, DTYPE_F8_E8M0, rows, cols / 32);
}

static void add_compressor(struct making *m, const char *at, uint64_t ratio, uint64_t dim) {
    char name[64];
    uint64_t wide = ratio == 4 ? 2 * dim : dim;
    snprintf(name, sizeof(name), "%s.ape", at);
    add(m, name, DTYPE_F32, ratio, wide);
    snprintf(name, sizeof(name), "%s.wkv.weight", at);
    add(m, name, DTYPE_BF16, wide, m->r->hidden);
    snprintf(name, sizeof(name), "%s.wgate.weight", at);
    add(m, name, DTYPE_BF16, wide, m->r->hidden);
    snprintf(name, sizeof(name), "%s.norm.weight", at);
    add(m, name, DTYPE_BF16, dim, 1);
}

static void add_attention(struct making *m, uint64_t ratio) {
    const struct released *r = m->r;
    add(m, "attn.attn_sink", DTYPE_F32, r->heads, 1);
    add_fp8(m, "attn.wq_a", r->q_rank, r->hidden);
    add_fp8(m, "attn.wq_b", (uint64_t)r->heads * HEAD_DIM, r->q_rank);
    add_fp8(m, "attn.wkv", HEAD_DIM, r->hidden);
    add_fp8(m, "attn.wo_a", (uint64_t)r->o_groups * O_RANK, (uint64_t)r->heads * HEAD_DIM / r->o_groups);
    add_fp8(m, "attn.wo_b", r->hidden, (uint64_t)r->o_groups * O_RANK);
    add(m, "attn.q_norm.weight", DTYPE_BF16, r->q_rank, 1);
    add(m, "attn.kv_norm.weight", DTYPE_BF16, HEAD_DIM, 1);
    if (ratio)
        add_compressor(m, "attn.compressor", ratio, HEAD_DIM);
    if (ratio != 4)
        return;
    add_fp8(m, "attn.indexer.wq_b", 64 * 128, r->q_rank);
    add(m, "attn.indexer.weights_proj.weight", DTYPE_BF16, 64, r->hidden);
    add_compressor(m, "attn.indexer.compressor", 4, 128);
}

static void add_hyper(struct making *m, const char *part) {
    char name[64];
    snprintf(name, sizeof(name), "hc_%s_fn", part);
    add(m, name, DTYPE_F32, 24, 4 * (uint64_t)m->r->hidden);
    snprintf(name, sizeof(name), "hc_%s_base", part);
    add(m, name, DTYPE_F32, 24, 1);
    snprintf(name, sizeof(name), "hc_%s_scale", part);
    add(m, name, DTYPE_F32, 3, 1);
}

static void add_head(struct making *m) {
    add(m, "norm.weight", DTYPE_BF16, m->r->hidden, 1);
    add(m, "hc_head_fn", DTYPE_F32, 4, 4 * (uint64_t)m->r->hidden);
    add(m, "hc_head_base", DTYPE_F32, 4, 1);
    add(m, "hc_head_scale", DTYPE_F32, 1, 1);
}

static void add_block(struct making *m, uint64_t ratio, bool hashed) {
    const struct released *r = m->r;
    char name[64];
    add(m, "attn_norm.weight", DTYPE_BF16, r->hidden, 1);
    add(m, "ffn_norm.weight", DTYPE_BF16, r->hidden, 1);
    add_hyper(m, "attn");
    add_hyper(m, "ffn");
    add_attention(m, ratio);
    add(m, "ffn.gate.weight", DTYPE_BF16, r->experts, r->hidden);
    if (hashed)
        add(m, "ffn.gate.tid2eid", DTYPE_I64, VOCAB, 6);
    else
        add(m, "ffn.gate.bias", DTYPE_F32, r->experts, 1);
    for (int w = 1; w <= 3; w++) {
        uint64_t rows = w == 2 ? r->hidden : r->inter, cols = w == 2 ? r->inter : r->hidden;
        snprintf(name, sizeof(name), "ffn.shared_experts.w%d", w);
        add_fp8(m, name, rows, cols);
        for (uint32_t e = 0; e < r->experts; e++) {
            snprintf(name, sizeof(name), "ffn.experts.%u.w%d", e, w);
            add_fp4(m, name, rows, cols);
        }
    }
}

static void add_model(struct making *m) {
    const struct released *r = m->r;
    add(m, "embed.weight", DTYPE_BF16, VOCAB, r->hidden);
    add(m, "head.weight", DTYPE_BF16, VOCAB, r->hidden);
    add_head(m);
    for (uint32_t i = 0; i < r->layers; i++) {
        snprintf(m->prefix, sizeof(m->prefix), "layers.%u.", i);
        add_block(m, i < 2 ? r->first_ratio : i % 2 ? 128 : 4, i < 3);
    }
    snprintf(m->prefix, sizeof(m->prefix), "mtp.0.");
    add_block(m, 0, false);
    add_fp8(m, "e_proj", r->hidden, r->hidden);
    add_fp8(m, "h_proj", r->hidden, r->hidden);
    add(m, "enorm.weight", DTYPE_BF16, r->hidden, 1);
    add(m, "hnorm.weight", DTYPE_BF16, r->hidden, 1);
    add_head(m);
}

static void check(const struct released *r) {
    struct making m = {.r = r, .shape = {.experts = r->experts, .active = 6}};
    add_model(&m);
    tally_finish(&m.tally, &m.shape);
    assert_int_equal(m.tally.parameters, r->parameters);
    assert_int_equal(m.tally.active, r->active);
    if (r->tensors)
        assert_int_equal(m.tally.tensors, r->tensors);
    uint64_t sum = 0;
    for (int d = 0; d < DTYPE_COUNT; d++)
        sum += m.tally.bytes[d];
    assert_int_equal(sum, m.tally.total_bytes);
    if (r->bytes)
        assert_in_range(m.tally.total_bytes, r->bytes - 10000000, r->bytes); /* the files hold headers too */
}

static void test_tally__is_that_of_flash(void **state) {
    (void)state;
    check(&(struct released){.hidden = 4096,
                             .heads = 64,
                             .q_rank = 1024,
                             .o_groups = 8,
                             .experts = 256,
                             .inter = 2048,
                             .layers = 43,
                             .tensors = 69187,
                             .parameters = 290942289362,
                             .active = 14118225362,
                             .bytes = 159609485896});
}

static void test_tally__is_that_of_pro(void **state) {
    (void)state;
    check(&(struct released){.hidden = 7168,
                             .heads = 128,
                             .q_rank = 1536,
                             .o_groups = 16,
                             .experts = 384,
                             .inter = 3072,
                             .layers = 61,
                             .first_ratio = 128,
                             .parameters = 1598837347742,
                             .active = 50648438174});
}

static void test_tally__counts_engram_rows_that_are_looked_up(void **state) {
    (void)state;
    struct making m = {.shape = {.engram = {.orders = 3, .heads = 2}}};
    add(&m, "layers.1.engram.multi_head_embedding.embedding.weight", DTYPE_BF16, 2032, 16);
    add(&m, "layers.1.engram.multipliers", DTYPE_I64, 3, 1);
    tally_finish(&m.tally, &m.shape);
    assert_int_equal(m.tally.parameters, 2032 * 16);
    assert_int_equal(m.tally.active, 4 * 16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tally__is_that_of_flash),
        cmocka_unit_test(test_tally__is_that_of_pro),
        cmocka_unit_test(test_tally__counts_engram_rows_that_are_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
