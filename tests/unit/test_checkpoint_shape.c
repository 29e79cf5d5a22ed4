/*
 * test_checkpoint_shape.c - config.json to a shape: the released configs, what transformers makes of them, the
 * small golden ones, and the rules at their edges. What malformed configs say is in test_checkpoint_malformed.c.
 */
#include "checkpoint_scratch.h"

/* The fields that the released configs have in common, as they spell them. */
#define COMMON                                                                                                         \
    "\"architectures\": [\"DeepseekV4ForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0, "          \
    "\"bos_token_id\": 0, \"eos_token_id\": 1, \"hc_eps\": 1e-06, \"hc_mult\": 4, \"hc_sinkhorn_iters\": 20, "         \
    "\"head_dim\": 512, \"hidden_act\": \"silu\", \"index_head_dim\": 128, \"index_n_heads\": 64, "                    \
    "\"initializer_range\": 0.02, \"max_position_embeddings\": 1048576, \"model_type\": \"deepseek_v4\", "             \
    "\"n_shared_experts\": 1, \"norm_topk_prob\": true, \"num_experts_per_tok\": 6, \"num_key_value_heads\": 1, "      \
    "\"o_lora_rank\": 1024, \"qk_rope_head_dim\": 64, \"quantization_config\": {\"activation_scheme\": \"dynamic\", "  \
    "\"fmt\": \"e4m3\", \"quant_method\": \"fp8\", \"scale_fmt\": \"ue8m0\", \"weight_block_size\": [128, 128]}, "     \
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 16, "                \
    "\"original_max_position_embeddings\": 65536, \"type\": \"yarn\"}, \"rope_theta\": 10000, "                        \
    "\"scoring_func\": \"sqrtsoftplus\", \"sliding_window\": 128, \"swiglu_limit\": 10.0, "                            \
    "\"tie_word_embeddings\": false, \"topk_method\": \"noaux_tc\", \"torch_dtype\": \"bfloat16\", "                   \
    "\"transformers_version\": \"4.57.1\", \"use_cache\": true, \"vocab_size\": 129280, "                              \
    "\"compress_rope_theta\": 160000, \"num_hash_layers\": 3, \"num_nextn_predict_layers\": 1"
#define FLASH                                                                                                          \
    COMMON ", \"hidden_size\": 4096, \"index_topk\": 512, \"moe_intermediate_size\": 2048, "                           \
           "\"n_routed_experts\": 256, \"num_attention_heads\": 64, \"num_hidden_layers\": 43, \"o_groups\": 8, "      \
           "\"q_lora_rank\": 1024, \"routed_scaling_factor\": 1.5"
#define PRO                                                                                                            \
    COMMON ", \"hidden_size\": 7168, \"index_topk\": 1024, \"moe_intermediate_size\": 3072, "                          \
           "\"n_routed_experts\": 384, \"num_attention_heads\": 128, \"num_hidden_layers\": 61, \"o_groups\": 16, "    \
           "\"q_lora_rank\": 1536, \"routed_scaling_factor\": 2.5"

static struct shape parsed(const char *json) {
    struct shape s;
    struct sonde_error e;
    if (shape_parse(json, strlen(json), "config.json", &s, &e))
        fail_msg("%s", e.message);
    return s;
}

/* {fields, "compress_ratios": [first, first, 4, 128, ..., 4, 0 x tail]} for `layers` layers */
static struct shape released(const char *fields, unsigned layers, unsigned first, unsigned tail) {
    struct buf b = {0};
    buf_printf(&b, "{%s, \"compress_ratios\": [%u, %u", fields, first, first);
    for (unsigned i = 2; i < layers; i++)
        buf_string(&b, i % 2 ? ", 128" : ", 4");
    for (unsigned i = 0; i < tail; i++)
        buf_string(&b, ", 0");
    buf_string(&b, "]}");
    struct shape s = parsed(b.data);
    buf_release(&b);
    return s;
}

static void test_shape__reads_flash(void **state) {
    (void)state;
    struct shape s = released(FLASH ", \"expert_dtype\": \"fp4\"", 43, 0, 1);
    assert_int_equal(s.vocab, 129280);
    assert_int_equal(s.hidden, 4096);
    assert_int_equal(s.layers, 43);
    assert_int_equal(s.mtp_blocks, 1);
    assert_int_equal(s.heads, 64);
    assert_int_equal(s.head_dim, 512);
    assert_int_equal(s.rope_dim, 64);
    assert_int_equal(s.q_rank, 1024);
    assert_int_equal(s.o_groups, 8);
    assert_int_equal(s.o_rank, 1024);
    assert_int_equal(s.window, 128);
    assert_int_equal(s.index_heads, 64);
    assert_int_equal(s.index_dim, 128);
    assert_int_equal(s.index_topk, 512);
    assert_int_equal(s.experts, 256);
    assert_int_equal(s.active, 6);
    assert_int_equal(s.shared_experts, 1);
    assert_int_equal(s.inter, 2048);
    assert_int_equal(s.hash_layers, 3);
    assert_int_equal(s.scoring, SCORING_SQRTSOFTPLUS);
    assert_true(s.route_scale == 1.5f && s.swiglu_limit == 10.0f && s.eps == 1e-6f && s.hc_eps == 1e-6f);
    assert_int_equal(s.streams, 4);
    assert_int_equal(s.sinkhorn_iters, 20);
    assert_true(s.rope_theta == 10000 && s.compress_theta == 160000);
    assert_true(s.yarn.factor == 16 && s.yarn.beta_fast == 32 && s.yarn.beta_slow == 1);
    assert_true(s.yarn.original_context == 65536);
    assert_int_equal(s.context, 1048576);
    assert_int_equal(s.fp8_block_rows, 128);
    assert_int_equal(s.fp8_block_cols, 128);
    assert_int_equal(s.bos, 0);
    assert_int_equal(s.eos, 1);
    assert_int_equal(s.engram.count, 0);
    assert_int_equal(s.ratios[1], 0);
    assert_int_equal(s.ratios[2], 4);
    assert_int_equal(s.ratios[41], 128);
    assert_int_equal(s.ratios[42], 4);
    assert_int_equal(s.ratios[43], 0);
    shape_release(&s);
    assert_null(s.ratios);
}

static void test_shape__reads_flash_base(void **state) {
    (void)state;
    struct shape s = released(FLASH ", \"expert_dtype\": \"fp8\"", 43, 0, 1);
    assert_int_equal(s.layers, 43);
    shape_release(&s);
}

/* Three zeros for three drafting stages, which are not next-token blocks although one is stated. */
static void test_shape__counts_no_mtp_block_with_dspark(void **state) {
    (void)state;
    struct shape s = released(FLASH ", \"dspark_block_size\": 5, \"dspark_noise_token_id\": 128799, "
                                    "\"dspark_target_layer_ids\": [40, 41, 42], \"dspark_markov_rank\": 256",
                              43, 0, 3);
    assert_int_equal(s.mtp_blocks, 0);
    assert_int_equal(s.ratios[42], 4);
    shape_release(&s);
}

static void test_shape__reads_pro(void **state) {
    (void)state;
    struct shape s = released(PRO, 61, 128, 1);
    assert_int_equal(s.hidden, 7168);
    assert_int_equal(s.heads, 128);
    assert_int_equal(s.experts, 384);
    assert_int_equal(s.index_topk, 1024);
    assert_true(s.route_scale == 2.5f);
    assert_int_equal(s.ratios[0], 128);
    assert_int_equal(s.ratios[60], 4);
    shape_release(&s);
}

/* Sizes and nothing else: whatever has one value in all released models may be left out. */
#define SIZES                                                                                                          \
    "\"vocab_size\": 300, \"hidden_size\": 256, \"num_hidden_layers\": 3, \"num_attention_heads\": 4, "                \
    "\"head_dim\": 128, \"q_lora_rank\": 64, \"o_groups\": 2, \"o_lora_rank\": 32, \"sliding_window\": 16, "           \
    "\"num_experts_per_tok\": 2, \"routed_scaling_factor\": 1.5"
#define OURS "\"n_routed_experts\": 8, \"moe_intermediate_size\": 64, \"num_hash_layers\": 1, \"qk_rope_head_dim\": 64"

static void test_shape__has_the_released_defaults(void **state) {
    (void)state;
    struct shape s = parsed("{" SIZES ", " OURS ", \"compress_ratios\": [0, 128, 0], \"rope_scaling\": null, "
                            "\"n_shared_experts\": null, \"hc_eps\": null}");
    assert_int_equal(s.mtp_blocks, 0);
    assert_int_equal(s.index_heads, 0);
    assert_int_equal(s.shared_experts, 1);
    assert_int_equal(s.streams, 4);
    assert_int_equal(s.sinkhorn_iters, 20);
    assert_int_equal(s.context, 1048576);
    assert_int_equal(s.eos, 1);
    assert_true(s.swiglu_limit == 10 && s.eps == 1e-6f && s.hc_eps == 1e-6f);
    assert_true(s.rope_theta == 10000 && s.compress_theta == 160000 && s.yarn.factor == 0);
    assert_int_equal(s.fp8_block_cols, 128);
    shape_release(&s);
}

static void test_shape__takes_whole_reals_for_integers(void **state) {
    (void)state;
    struct shape s = parsed("{" SIZES ", " OURS ", \"compress_ratios\": [0.0, 128.0, 0], \"max_position_embeddings\": "
                            "4096.0, \"rope_theta\": 20000.0, \"swiglu_limit\": 0}");
    assert_int_equal(s.context, 4096);
    assert_int_equal(s.ratios[1], 128);
    assert_true(s.rope_theta == 20000 && s.swiglu_limit == 0);
    shape_release(&s);
}

static void test_shape__fills_missing_mtp_ratios_with_0(void **state) {
    (void)state;
    struct shape s = parsed("{" SIZES ", " OURS ", \"compress_ratios\": [0, 128, 2], \"num_nextn_predict_layers\": 2}");
    assert_int_equal(s.mtp_blocks, 2);
    assert_int_equal(s.ratios[2], 2);
    assert_int_equal(s.ratios[3], 0);
    assert_int_equal(s.ratios[4], 0);
    shape_release(&s);
}

static void test_shape__reads_what_transformers_writes(void **state) {
    (void)state;
    struct shape s =
        parsed("{" SIZES ", \"num_local_experts\": 8, \"intermediate_size\": 64, \"num_nextn_predict_layers\": 1, "
               "\"layer_types\": [\"heavily_compressed_attention\", \"sliding_attention\", "
               "\"compressed_sparse_attention\"], \"compress_rates\": {\"heavily_compressed_attention\": 64}, "
               "\"mlp_layer_types\": [\"hash_moe\", \"hash_moe\", \"moe\"], \"index_n_heads\": 4, "
               "\"index_head_dim\": 64, \"index_topk\": 8, \"mlp_bias\": false, \"dtype\": \"bfloat16\", "
               "\"rope_parameters\": {\"main\": {\"rope_type\": \"default\", \"rope_theta\": 11000.0, "
               "\"partial_rotary_factor\": 0.5}, \"compress\": {\"rope_type\": \"yarn\", \"rope_theta\": 170000.0, "
               "\"factor\": 8.0, \"original_max_position_embeddings\": 4096, \"attention_factor\": 1.0}}}");
    assert_int_equal(s.experts, 8);
    assert_int_equal(s.inter, 64);
    assert_int_equal(s.ratios[0], 64);
    assert_int_equal(s.ratios[1], 0);
    assert_int_equal(s.ratios[2], 4);
    assert_int_equal(s.ratios[3], 0);
    assert_int_equal(s.hash_layers, 2);
    assert_int_equal(s.rope_dim, 64);
    assert_true(s.rope_theta == 11000 && s.compress_theta == 170000);
    assert_true(s.yarn.factor == 8 && s.yarn.original_context == 4096 && s.yarn.beta_fast == 32);
    shape_release(&s);
}

static void test_shape__takes_a_default_rope_type_for_none(void **state) {
    (void)state;
    struct shape s =
        parsed("{" SIZES ", " OURS ", \"compress_ratios\": [0, 0, 0], \"rope_scaling\": {\"rope_type\": \"default\"}}");
    assert_true(s.yarn.factor == 0);
    shape_release(&s);
}

static void refused(const char *json, int code, const char *message) {
    struct shape s = {.vocab = 77};
    struct sonde_error e;
    assert_int_equal(shape_parse(json, strlen(json), "config.json", &s, &e), code);
    assert_string_equal(e.message, message);
    assert_int_equal(s.vocab, 77);
}

static void test_shape__refuses_layers_that_are_not_v4(void **state) {
    (void)state;
    refused("{" SIZES ", " OURS ", \"layer_types\": [\"sliding_attention\", \"full_attention\", \"x\"]}",
            SONDE_ERROR_UNSUPPORTED,
            "config.json: field layer_types[1]: \"full_attention\" is not supported, it is no layer of DeepSeek-V4");
    refused("{" SIZES ", " OURS ", \"layer_types\": [\"sliding_attention\", 4, 4]}", SONDE_ERROR_FORMAT,
            "config.json: field layer_types[1]: 4, expected a string");
    refused("{" SIZES ", " OURS ", \"layer_types\": [\"sliding_attention\"]}", SONDE_ERROR_FORMAT,
            "config.json: field layer_types: has 1 entries, expected 3, one a layer");
    refused(
        "{" SIZES ", \"n_routed_experts\": 8, \"moe_intermediate_size\": 64, \"qk_rope_head_dim\": 64, "
        "\"compress_ratios\": [0, 0, 0], \"mlp_layer_types\": [\"moe\", \"hash_moe\", \"moe\"]}",
        SONDE_ERROR_UNSUPPORTED,
        "config.json: field mlp_layer_types: an array is not supported, only hash_moe layers before all moe layers");
    refused("{" SIZES ", \"n_routed_experts\": 8, \"moe_intermediate_size\": 64, \"qk_rope_head_dim\": 64, "
            "\"compress_ratios\": [0, 0, 0], \"mlp_layer_types\": [\"moe\"]}",
            SONDE_ERROR_FORMAT, "config.json: field mlp_layer_types: has 1 entries, expected at least 3");
}

/* No side of a matrix leaves 32 bits, whatever the fields. */
static void test_shape__bounds_products(void **state) {
    (void)state;
    struct shape s = parsed("{\"vocab_size\": 16777216, \"hidden_size\": 1048576, \"num_hidden_layers\": 1, "
                            "\"num_attention_heads\": 32768, \"head_dim\": 32768, \"q_lora_rank\": 32768, "
                            "\"o_groups\": 32768, \"o_lora_rank\": 32768, \"sliding_window\": 1, "
                            "\"num_experts_per_tok\": 32768, \"routed_scaling_factor\": 1, \"hc_mult\": 16, "
                            "\"n_routed_experts\": 32768, \"moe_intermediate_size\": 1048576, \"num_hash_layers\": 0, "
                            "\"n_shared_experts\": 256, \"qk_rope_head_dim\": 64, \"compress_ratios\": [4], "
                            "\"index_n_heads\": 32768, \"index_head_dim\": 32768, \"index_topk\": 1}");
    assert_true((uint64_t)s.heads * s.head_dim <= INT32_MAX && (uint64_t)s.o_groups * s.o_rank <= INT32_MAX);
    assert_true((uint64_t)s.index_heads * s.index_dim <= INT32_MAX && (uint64_t)s.streams * s.hidden <= INT32_MAX);
    assert_true((uint64_t)s.shared_experts * s.inter <= INT32_MAX);
    shape_release(&s);
}

static void test_shape__shortens_long_values_in_messages(void **state) {
    (void)state;
    refused("{\"model_type\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
            SONDE_ERROR_UNSUPPORTED,
            "config.json: field model_type: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... is not supported, only "
            "deepseek_v4 or deepseek_v41");
}

static struct shape of_file(const char *directory) {
    struct buf b = {0};
    scratch_read(directory, "config.json", &b);
    struct shape s = parsed(b.data);
    buf_release(&b);
    return s;
}

static void test_shape__reads_golden_engram(void **state) {
    (void)state;
    struct shape s = of_file("tests/golden/flash-engram");
    const struct engram_shape *g = &s.engram;
    assert_int_equal(g->count, 1);
    assert_int_equal(g->layers[0], 1);
    assert_int_equal(g->orders, 3);
    assert_int_equal(g->heads, 2);
    assert_int_equal(g->width, 32);
    assert_int_equal(g->taps, 4);
    assert_int_equal(g->pad, 2);
    assert_true(g->norm_eps == 1.1920929e-07f && g->conv_eps == 1e-5f);
    shape_release(&s);
}

static void test_shape__reads_golden_configs(void **state) {
    static const struct {
        const char *name;
        uint32_t layers, hash_layers, index_dim;
    } cases[] = {
        {"flash", 5, 1, 64}, {"pro", 5, 1, 64}, {"base-fp8", 3, 1, 64}, {"bf16", 3, 1, 64}, {"sliding", 2, 0, 0}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct shape s = of_file(scratch_path("tests/golden", cases[i].name));
        assert_int_equal(s.layers, cases[i].layers);
        assert_int_equal(s.mtp_blocks, 1);
        assert_int_equal(s.hash_layers, cases[i].hash_layers);
        assert_int_equal(s.index_dim, cases[i].index_dim);
        shape_release(&s);
    }
}

static void test_shape__reads_the_bundled_model(void **state) {
    (void)state;
    if (!file_exists("models/nano/config.json"))
        skip();
    struct shape s = of_file("models/nano");
    assert_true(s.layers > 0);
    shape_release(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape__reads_flash),
        cmocka_unit_test(test_shape__reads_flash_base),
        cmocka_unit_test(test_shape__counts_no_mtp_block_with_dspark),
        cmocka_unit_test(test_shape__reads_pro),
        cmocka_unit_test(test_shape__has_the_released_defaults),
        cmocka_unit_test(test_shape__takes_whole_reals_for_integers),
        cmocka_unit_test(test_shape__fills_missing_mtp_ratios_with_0),
        cmocka_unit_test(test_shape__reads_what_transformers_writes),
        cmocka_unit_test(test_shape__takes_a_default_rope_type_for_none),
        cmocka_unit_test(test_shape__refuses_layers_that_are_not_v4),
        cmocka_unit_test(test_shape__bounds_products),
        cmocka_unit_test(test_shape__shortens_long_values_in_messages),
        cmocka_unit_test(test_shape__reads_golden_engram),
        cmocka_unit_test(test_shape__reads_golden_configs),
        cmocka_unit_test(test_shape__reads_the_bundled_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
