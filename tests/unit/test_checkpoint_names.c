/*
 * test_checkpoint_names.c - every spelling of a tensor's name that is met, and the official one; and that
 * official names stay as they are.
 */
#include "test.h"

#include "checkpoint/checkpoint_internal.h"

#include <string.h>

static void check(const char *spelled, const char *official) {
    struct buf b = {0};
    assert_string_equal(name_official(spelled, &b), official);
    buf_release(&b);
}

/* What leaves the official converter. */
static const char *const official[] = {
    "embed.weight",
    "head.weight",
    "norm.weight",
    "hc_head_fn",
    "hc_head_base",
    "hc_head_scale",
    "layers.3.attn_norm.weight",
    "layers.3.ffn_norm.weight",
    "layers.3.hc_attn_fn",
    "layers.3.hc_ffn_scale",
    "layers.3.attn.attn_sink",
    "layers.3.attn.wq_a.weight",
    "layers.3.attn.wq_a.scale",
    "layers.3.attn.q_norm.weight",
    "layers.3.attn.wq_b.weight",
    "layers.3.attn.wkv.weight",
    "layers.3.attn.kv_norm.weight",
    "layers.3.attn.wo_a.weight",
    "layers.3.attn.wo_b.scale",
    "layers.3.attn.compressor.ape",
    "layers.3.attn.compressor.wkv.weight",
    "layers.3.attn.compressor.wgate.weight",
    "layers.3.attn.compressor.norm.weight",
    "layers.3.attn.indexer.wq_b.weight",
    "layers.3.attn.indexer.weights_proj.weight",
    "layers.3.attn.indexer.compressor.ape",
    "layers.3.attn.indexer.compressor.wkv.weight",
    "layers.3.attn.indexer.compressor.wgate.weight",
    "layers.3.attn.indexer.compressor.norm.weight",
    "layers.3.ffn.gate.weight",
    "layers.3.ffn.gate.bias",
    "layers.3.ffn.gate.tid2eid",
    "layers.3.ffn.experts.12.w1.weight",
    "layers.3.ffn.experts.12.w2.scale",
    "layers.3.ffn.shared_experts.w3.weight",
    "layers.1.engram.multi_head_embedding.embedding.weight",
    "layers.1.engram.short_conv.conv.weight",
    "layers.1.engram.short_conv.norms.2.weight",
    "layers.1.engram.key_projs.0.bias",
    "layers.1.engram.norm1.3.weight",
    "engram.token_map",
    "mtp.0.e_proj.weight",
    "mtp.0.h_proj.scale",
    "mtp.0.enorm.weight",
    "mtp.0.hnorm.weight",
    "mtp.0.norm.weight",
    "mtp.0.hc_head_fn",
    "mtp.0.attn.attn_sink",
    "mtp.2.markov_head.markov_w1.weight",
    "mtp.2.confidence_head.proj.weight",
};

static void test_name__official_stays(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(official); i++) {
        struct buf b = {0};
        char prefixed[200];
        assert_ptr_equal(name_official(official[i], &b), official[i]);
        snprintf(prefixed, sizeof(prefixed), "model.%s", official[i]);
        assert_ptr_equal(name_official(prefixed, &b), prefixed + 6);
        buf_release(&b);
    }
}

static void test_name__maps_transformers(void **state) {
    (void)state;
    check("model.embed_tokens.weight", "embed.weight");
    check("lm_head.weight", "head.weight");
    check("model.norm.weight", "norm.weight");
    check("model.hc_head.hc_fn", "hc_head_fn");
    check("model.hc_head.hc_base", "hc_head_base");
    check("model.layers.3.input_layernorm.weight", "layers.3.attn_norm.weight");
    check("model.layers.3.post_attention_layernorm.weight", "layers.3.ffn_norm.weight");
    check("model.layers.3.attn_hc.fn", "layers.3.hc_attn_fn");
    check("model.layers.3.ffn_hc.scale", "layers.3.hc_ffn_scale");
    check("model.layers.3.self_attn.sinks", "layers.3.attn.attn_sink");
    check("model.layers.3.self_attn.q_a_proj.weight", "layers.3.attn.wq_a.weight");
    check("model.layers.3.self_attn.q_a_proj.weight_scale_inv", "layers.3.attn.wq_a.scale");
    check("model.layers.3.self_attn.q_a_norm.weight", "layers.3.attn.q_norm.weight");
    check("model.layers.3.self_attn.q_b_proj.weight", "layers.3.attn.wq_b.weight");
    check("model.layers.3.self_attn.kv_proj.weight", "layers.3.attn.wkv.weight");
    check("model.layers.3.self_attn.kv_norm.weight", "layers.3.attn.kv_norm.weight");
    check("model.layers.3.self_attn.o_a_proj.weight", "layers.3.attn.wo_a.weight");
    check("model.layers.3.self_attn.o_b_proj.weight", "layers.3.attn.wo_b.weight");
    check("model.layers.3.mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias");
    check("model.layers.3.mlp.gate.tid2eid", "layers.3.ffn.gate.tid2eid");
    check("model.layers.3.mlp.experts.12.gate_proj.weight", "layers.3.ffn.experts.12.w1.weight");
    check("model.layers.3.mlp.experts.12.down_proj.weight_scale_inv", "layers.3.ffn.experts.12.w2.scale");
    check("model.layers.3.mlp.experts.12.w3.weight", "layers.3.ffn.experts.12.w3.weight");
    check("model.layers.3.mlp.shared_experts.up_proj.weight", "layers.3.ffn.shared_experts.w3.weight");
}

static void test_name__maps_the_compressor_and_the_indexer_inside_it(void **state) {
    (void)state;
    check("model.layers.2.self_attn.compressor.kv_proj.weight", "layers.2.attn.compressor.wkv.weight");
    check("model.layers.2.self_attn.compressor.gate_proj.weight", "layers.2.attn.compressor.wgate.weight");
    check("model.layers.2.self_attn.compressor.position_bias", "layers.2.attn.compressor.ape");
    check("model.layers.2.self_attn.compressor.kv_norm.weight", "layers.2.attn.compressor.norm.weight");
    check("model.layers.2.self_attn.compressor.indexer.q_b_proj.weight", "layers.2.attn.indexer.wq_b.weight");
    check("model.layers.2.self_attn.compressor.indexer.weights_proj.weight",
          "layers.2.attn.indexer.weights_proj.weight");
    check("model.layers.2.self_attn.compressor.indexer.scorer.weights_proj.weight",
          "layers.2.attn.indexer.weights_proj.weight");
    check("model.layers.2.self_attn.compressor.indexer.kv_proj.weight", "layers.2.attn.indexer.compressor.wkv.weight");
    check("model.layers.2.self_attn.compressor.indexer.gate_proj.weight",
          "layers.2.attn.indexer.compressor.wgate.weight");
    check("model.layers.2.self_attn.compressor.indexer.position_bias", "layers.2.attn.indexer.compressor.ape");
    check("model.layers.2.self_attn.compressor.indexer.kv_norm.weight", "layers.2.attn.indexer.compressor.norm.weight");
}

static void test_name__maps_what_is_half_converted(void **state) {
    (void)state;
    check("model.layers.2.self_attn.attn_sink", "layers.2.attn.attn_sink");
    check("model.layers.2.self_attn.indexer.wq_b.weight", "layers.2.attn.indexer.wq_b.weight");
    check("layers.2.attn.indexer.wkv.weight", "layers.2.attn.indexer.compressor.wkv.weight");
    check("layers.2.attn.indexer.position_bias", "layers.2.attn.indexer.compressor.ape");
    check("layers.2.attn.indexer.compressor.kv_norm.weight", "layers.2.attn.indexer.compressor.norm.weight");
    check("model.hc_head.fn", "hc_head_fn");
    check("mtp.2.hc_head.base", "mtp.2.hc_head_base");
    check("layers.2.self_attn.q_a_layernorm.weight", "layers.2.attn.q_norm.weight");
    check("layers.2.self_attn.kv_a_layernorm.weight", "layers.2.attn.kv_norm.weight");
}

/* Names made to trip the walk come out as something not much longer. */
static void test_name__survives_anything(void **state) {
    static const char *const odd[] = {"",
                                      ".",
                                      "model.",
                                      "model..",
                                      "..",
                                      "attn_hc",
                                      "attn_hc.",
                                      "hc_head.",
                                      "self_attn.compressor",
                                      "self_attn.compressor.",
                                      "hc_head.hc_",
                                      "attn.indexer.scorer",
                                      "attn.compressor.compressor.compressor",
                                      "attn.indexer.indexer.wkv"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(odd); i++) {
        struct buf b = {0};
        const char *name = name_official(odd[i], &b);
        assert_non_null(name);
        assert_true(strlen(name) <= strlen(odd[i]) + 64);
        buf_release(&b);
    }
    check("model.", "model.");
    check("attn_hc", "attn_hc");
    check("self_attn.compressor", "attn.compressor");
}

static void test_name__fails_when_memory_does(void **state) {
    struct buf b = {.failed = true};
    (void)state;
    assert_null(name_official("norm.weight", &b));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_name__official_stays),
        cmocka_unit_test(test_name__maps_transformers),
        cmocka_unit_test(test_name__maps_the_compressor_and_the_indexer_inside_it),
        cmocka_unit_test(test_name__maps_what_is_half_converted),
        cmocka_unit_test(test_name__survives_anything),
        cmocka_unit_test(test_name__fails_when_memory_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
