/*
 * test_checkpoint_shape_v41.c - config.json of DeepSeek-V4.1: the golden cases, the released roles of layers, and what
 * malformed ones say.
 */
#include "checkpoint_scratch.h"

static struct shape parsed(const char *json) {
    struct shape s;
    struct sonde_error e;
    if (shape_parse(json, strlen(json), "config.json", &s, &e))
        fail_msg("%s", e.message);
    return s;
}

static json_t *golden_config(void) {
    struct buf b = {0};
    struct sonde_error e;
    json_t *root;
    scratch_read("tests/golden/v41-flash", "config.json", &b);
    assert_int_equal(json_parse(b.data, b.len, "", &root, &e), 0);
    buf_release(&b);
    return root;
}

/* Sets a field of text_config to a value of JSON; NULL: removes it. */
static void set(json_t *root, const char *field, const char *value) {
    json_t *text = json_object_get(root, "text_config");
    if (value)
        assert_int_equal(json_object_set_new(text, field, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
    else
        assert_int_equal(json_object_del(text, field), 0);
}

static char *dumped(json_t *root) {
    char *json = json_dumps(root, JSON_COMPACT);
    assert_non_null(json);
    json_decref(root);
    return json;
}

/* ------------------------------------------------------------------------------------------ what is read */

static void test_shape__reads_a_golden_config(void **state) {
    (void)state;
    char *json = dumped(golden_config());
    struct shape s = parsed(json);
    static const uint32_t none = V41_NONE;
    const uint32_t ratios[] = {0, 0, 2, 2, 2, 1, 1, 1, 1}, keys[] = {none, none, 2, 2, 4, 5, 5, 5, 5},
                   indexes[] = {none, none, 2, 2, 4, 5, 5, 7, 7};
    assert_int_equal(s.family, FAMILY_V41);
    assert_int_equal(s.layers, 9);
    assert_int_equal(s.mtp_blocks, 0);
    assert_int_equal(s.hash_layers, 0);
    assert_int_equal(s.hidden, 96);
    assert_int_equal(s.fp8_block_rows, 32);
    assert_int_equal(s.fp8_block_cols, 32);
    assert_true(s.eps == 1e-20f && s.yarn.factor == 16);
    assert_int_equal(s.eos, 1);
    assert_memory_equal(s.ratios, ratios, sizeof(ratios));
    assert_memory_equal(s.v41.key_source, keys, sizeof(keys));
    assert_memory_equal(s.v41.index_source, indexes, sizeof(indexes));
    assert_int_equal(s.v41.last_key_source, 5);
    assert_int_equal(s.v41.candidate_source, 5);
    assert_int_equal(s.v41.candidate_blocks, 4);
    assert_int_equal(s.v41.candidate_block, 4);
    assert_int_equal(s.engram.count, 2);
    assert_int_equal(s.engram.layers[1], 4);
    assert_int_equal(s.engram.orders, 4);
    assert_int_equal(s.engram.heads, 2);
    assert_int_equal(s.engram.width, 64);
    assert_int_equal(s.engram.taps, 0);
    assert_int_equal(s.v41.engram_ids, 266);
    assert_int_equal(s.v41.engram_least, 97);
    assert_int_equal(s.v41.engram_rows[1], 834);
    shape_release(&s);
    free(json);
}

/* 40 layers: two with a window only, sources 2, 8 and 14 of ratio 2, then 20 of ratio 1, above it a choice of every
 * fourth layer. */
static void test_shape__reads_the_released_roles(void **state) {
    (void)state;
    json_t *root = golden_config();
    struct buf ratios = {0};
    buf_string(&ratios, "[0, 0");
    for (int i = 2; i < 40; i++)
        buf_string(&ratios, i < 20 ? ", 2" : ", 1");
    buf_string(&ratios, ", 0, 0, 0]");
    set(root, "num_hidden_layers", "40");
    set(root, "compress_ratios", ratios.data);
    set(root, "kv_source_layer_ids", "[2, 8, 14, 20]");
    set(root, "index_source_layer_ids", "[2, 8, 14, 20, 24, 28, 32, 36]");
    set(root, "candidate_source_layer_id", "20");
    set(root, "candidate_topk_blocks", "2048");
    set(root, "candidate_block_size", "8");
    set(root, "index_topk", "512");
    set(root, "engram_layer_ids", "[1, 14]");
    set(root, "engram_num_embeddings", "[384006168, 384016682]");
    char *json = dumped(root);
    struct shape s = parsed(json);
    for (uint32_t i = 2; i < 40; i++) {
        assert_int_equal(s.v41.key_source[i], i < 8 ? 2 : i < 14 ? 8 : i < 20 ? 14 : 20);
        assert_int_equal(s.v41.index_source[i], i < 20 ? s.v41.key_source[i] : i / 4 * 4);
    }
    assert_int_equal(s.v41.candidate_source, 20);
    assert_true(s.v41.engram_rows[1] == 384016682);
    shape_release(&s);
    free(json);
    buf_release(&ratios);
}

/* A model of windows alone needs no indexer. */
static void test_shape__needs_no_sources_without_entries(void **state) {
    (void)state;
    json_t *root = golden_config();
    set(root, "compress_ratios", "[0, 0, 0, 0, 0, 0, 0, 0, 0]");
    set(root, "kv_source_layer_ids", "[]");
    set(root, "index_source_layer_ids", "[]");
    set(root, "candidate_source_layer_id", NULL);
    set(root, "index_n_heads", NULL);
    set(root, "engram_layer_ids", "[]");
    char *json = dumped(root);
    struct shape s = parsed(json);
    assert_int_equal(s.index_heads, 0);
    assert_int_equal(s.engram.count, 0);
    assert_true(s.v41.last_key_source == V41_NONE && s.v41.candidate_source == V41_NONE);
    shape_release(&s);
    free(json);
}

/* ----------------------------------------------------------------------------------------- what is refused */

static void refused(json_t *root, int code, const char *message) {
    struct shape s = {.vocab = 77};
    struct sonde_error e;
    char *json = dumped(root);
    assert_int_equal(shape_parse(json, strlen(json), "config.json", &s, &e), code);
    assert_string_equal(e.message, message);
    assert_int_equal(s.vocab, 77);
    free(json);
}

static void test_shape__refuses_fields(void **state) {
    static const struct {
        const char *field, *value; /* of text_config */
        int code;
        const char *message;
    } cases[] = {
        {"vocab_size", NULL, SONDE_ERROR_FORMAT,
         "config.json: field text_config.vocab_size: missing, expected an integer from 1 to 16777216"},
        {"scoring_func", "\"softmax\"", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.scoring_func: \"softmax\" is not supported, only sqrtsoftplus"},
        {"head_dim", "100", SONDE_ERROR_FORMAT,
         "config.json: field text_config.head_dim: 100, expected a multiple of 32"},
        {"qk_rope_head_dim", "98", SONDE_ERROR_FORMAT,
         "config.json: field text_config.qk_rope_head_dim: 98, expected an even number from 2 to head_dim, which is "
         "96"},
        {"rope_scaling", "{\"type\": \"linear\"}", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.rope_scaling.type: \"linear\" is not supported, only yarn or default"},
        {"index_head_dim", "16", SONDE_ERROR_FORMAT,
         "config.json: field text_config.index_head_dim: 16, expected a multiple of 32, at least qk_rope_head_dim, "
         "which "
         "is 32"},
        {"compress_ratios", "[0, 0, 2]", SONDE_ERROR_FORMAT,
         "config.json: field text_config.compress_ratios: has 3 entries, expected at least 9"},
        {"compress_ratios", "[0, 0, 2, 2, 2, 1, -1, 1, 1]", SONDE_ERROR_FORMAT,
         "config.json: field text_config.compress_ratios[6]: -1, expected an integer from 0 to 65536"},
        {"compress_ratios", "[0, 0, 2, 2, 2, 1, 2, 1, 1]", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.compress_ratios: an array is not supported, layer 6 has ratio 2, and layer 5, "
         "whose entries it reads, 1"},
        {"compress_ratios", "[0, 2, 2, 2, 2, 1, 1, 1, 1]", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.compress_ratios: an array is not supported, layer 1 reads entries, but no "
         "layer "
         "up to it makes them"},
        {"kv_source_layer_ids", NULL, SONDE_ERROR_FORMAT,
         "config.json: field text_config.kv_source_layer_ids: missing, expected an array of layers"},
        {"kv_source_layer_ids", "[2, 5, 4]", SONDE_ERROR_FORMAT,
         "config.json: field text_config.kv_source_layer_ids[2]: 4, expected an integer from 6 to 8"},
        {"kv_source_layer_ids", "[1, 2, 4, 5]", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.kv_source_layer_ids: an array is not supported, layer 1 has no entries: its "
         "ratio is 0"},
        {"index_source_layer_ids", "[2, 5]", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.kv_source_layer_ids: an array is not supported, layer 4 makes entries, so it "
         "has "
         "to be in index_source_layer_ids too"},
        {"candidate_source_layer_id", "6", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.candidate_source_layer_id: 6 is not supported, it is not in "
         "index_source_layer_ids"},
        {"candidate_source_layer_id", "4", SONDE_ERROR_UNSUPPORTED,
         "config.json: field text_config.candidate_source_layer_id: 4 is not supported, layer 5 behind it makes "
         "entries"},
        {"candidate_topk_blocks", "1", SONDE_ERROR_FORMAT,
         "config.json: field text_config.candidate_topk_blocks: 1, expected blocks of candidate_block_size entries "
         "that "
         "have index_topk together, which is 8"},
        {"engram_layer_ids", "[4, 1]", SONDE_ERROR_FORMAT,
         "config.json: field text_config.engram_layer_ids[1]: 1, expected an integer from 5 to 8"},
        {"engram_num_embeddings", "[630]", SONDE_ERROR_FORMAT,
         "config.json: field text_config.engram_num_embeddings: has 1 entries, expected 2"},
        {"engram_compressed_vocab_size", "321", SONDE_ERROR_FORMAT,
         "config.json: field text_config.engram_compressed_vocab_size: 321, expected an integer from 1 to 320"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        json_t *root = golden_config();
        set(root, cases[i].field, cases[i].value);
        refused(root, cases[i].code, cases[i].message);
    }
}

static void test_shape__refuses_what_stands_beside_text_config(void **state) {
    (void)state;
    json_t *root = golden_config();
    json_object_del(root, "text_config");
    refused(root, SONDE_ERROR_FORMAT, "config.json: field text_config: missing, expected an object");
    root = golden_config();
    json_object_set_new(root, "architectures", json_pack("[s]", "DeepseekV4ForCausalLM"));
    refused(root, SONDE_ERROR_UNSUPPORTED,
            "config.json: field architectures: \"DeepseekV4ForCausalLM\" is not supported, only "
            "DeepseekV41ForCausalLM");
    root = golden_config();
    json_object_set_new(root, "eos_token_id", json_integer(320));
    refused(root, SONDE_ERROR_FORMAT, "config.json: field eos_token_id: 320, expected an integer from 0 to 319");
    root = golden_config();
    json_object_set_new(json_object_get(root, "quantization_config"), "fmt", json_string("e5m2"));
    refused(root, SONDE_ERROR_UNSUPPORTED,
            "config.json: field quantization_config.fmt: \"e5m2\" is not supported, only e4m3");
}

/* ------------------------------------------------------------------------------------------------ tables */

static struct checkpoint *opened(const char *directory) {
    struct checkpoint *c = NULL;
    struct sonde_error e;
    if (checkpoint_open(directory, &c, &e))
        fail_msg("%s", e.message);
    return c;
}

/* A table's scales are for 32 columns of a row, whatever blocks matrices have. */
static void test_table__has_scales_of_its_own(void **state) {
    struct checkpoint *c = opened("tests/golden/v41-flash");
    struct matrix m = {0};
    struct sonde_error e;
    (void)state;
    assert_int_equal(checkpoint_table(c, "layers.1.engram.embed", 630, 32, &m, &e), 0);
    assert_int_equal(m.format, FORMAT_FP8);
    assert_int_equal(m.block_rows, 1);
    assert_int_equal(m.block_cols, 32);
    assert_int_equal(m.scale_cols, 1);
    assert_int_equal(checkpoint_matrix(c, "layers.1.engram.embed", 630, 32, &m, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "expected [20, 1] as scale of"));
    assert_int_equal(checkpoint_table(c, "layers.1.engram.wkv", 480, 192, &m, &e), SONDE_ERROR_FORMAT);
    assert_non_null(strstr(e.message, "in blocks of 1 x 32"));
    checkpoint_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape__reads_a_golden_config),
        cmocka_unit_test(test_shape__reads_the_released_roles),
        cmocka_unit_test(test_shape__needs_no_sources_without_entries),
        cmocka_unit_test(test_shape__refuses_fields),
        cmocka_unit_test(test_shape__refuses_what_stands_beside_text_config),
        cmocka_unit_test(test_table__has_scales_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
