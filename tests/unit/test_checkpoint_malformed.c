/*
 * test_checkpoint_malformed.c - checkpoints broken on purpose, one way a row, and the sentence each must give.
 *
 * A row takes a copy of the golden case `flash`, breaks one thing and says at which stage that is noticed:
 * when the directory is opened, when tensors are bound to what the model needs, or when values are used.
 * Messages are compared whole, with the temporary directory shown as DIR; a '*' at the end stands for words
 * that belong to the JSON library or the system.
 *
 * test_checkpoint_malformed --table prints the rows as docs/malformed.md, which a test holds to be that text.
 */
#include "checkpoint_scratch.h"

#include "model/model.h"

enum stage { OPEN, BIND, RUN };

struct row {
    const char *name;
    enum stage stage;
    void (*edit)(const char *directory, const struct row *row);
    const char *a, *b; /* for edit */
    int code;
    const char *message;
};

/* ------------------------------------------------------------------------------ ways to break it */

/* Replaces what stands at `path` ("rope_scaling/factor") by JSON text, or removes it for NULL. */
static void set_at(json_t *root, const char *path, const char *text) {
    char key[200];
    json_t *at = root;
    const char *slash;
    while ((slash = strchr(path, '/'))) {
        snprintf(key, sizeof(key), "%.*s", (int)(slash - path), path);
        at = json_object_get(at, key);
        assert_non_null(at);
        path = slash + 1;
    }
    if (text)
        assert_int_equal(json_object_set_new(at, path, json_loads(text, JSON_DECODE_ANY, NULL)), 0);
    else
        assert_int_equal(json_object_del(at, path), 0);
}

static void edit_json(const char *directory, const char *file, const char *path, const char *text) {
    struct buf b = {0};
    scratch_read(directory, file, &b);
    json_t *root = json_loadb(b.data, b.len, 0, NULL);
    assert_non_null(root);
    set_at(root, path, text);
    char *out = json_dumps(root, JSON_COMPACT);
    scratch_write(directory, file, out, strlen(out));
    free(out);
    json_decref(root);
    buf_release(&b);
}

/* Sets config field a to JSON b. */
static void config(const char *directory, const struct row *row) {
    edit_json(directory, "config.json", row->a, row->b);
}

/* Sets a in the index to JSON b. */
static void in_index(const char *directory, const struct row *row) {
    edit_json(directory, GOLDEN_INDEX, row->a, row->b);
}

/* Makes text b the file a. */
static void text(const char *directory, const struct row *row) {
    scratch_write(directory, row->a, row->b, strlen(row->b));
}

static void config_nested(const char *directory, const struct row *row) {
    char deep[10001];
    (void)row;
    memset(deep, '[', sizeof(deep) - 1);
    scratch_write(directory, "config.json", deep, sizeof(deep) - 1);
}

static void no_directory(const char *directory, const struct row *row) {
    (void)row;
    scratch_close(directory);
}

static void file_for_directory(const char *directory, const struct row *row) {
    (void)row;
    scratch_close(directory);
    FILE *f = fopen(directory, "w");
    assert_non_null(f);
    fclose(f);
}

static void drop(const char *directory, const struct row *row) {
    if (row->a)
        unlink(scratch_path(directory, row->a));
    if (row->b)
        unlink(scratch_path(directory, row->b));
}

/* Makes a an empty directory. */
static void directory_for_file(const char *directory, const struct row *row) {
    unlink(scratch_path(directory, row->a));
    assert_int_equal(mkdir(scratch_path(directory, row->a), 0777), 0);
}

/* Takes every right to read a away; all else anyone may read, for root has to become someone else to notice. */
static void forbid(const char *directory, const struct row *row) {
    static const char *const kept[] = {"config.json", GOLDEN_INDEX};
    for (size_t i = 0; i < COUNT_OF(kept); i++) {
        struct buf b = {0};
        scratch_read(directory, kept[i], &b);
        scratch_write(directory, kept[i], b.data, b.len);
        assert_int_equal(chmod(scratch_path(directory, kept[i]), 0644), 0);
        buf_release(&b);
    }
    scratch_write(directory, row->a, "{}", 2);
    assert_int_equal(chmod(scratch_path(directory, row->a), 0), 0);
    assert_int_equal(chmod(directory, 0755), 0);
}

/* The shard's header text and data, without an index from here on. */
struct shard {
    struct buf file;
    struct buf header;
    const char *data;
    size_t data_bytes;
};

static void take_shard(const char *directory, struct shard *s) {
    uint64_t n = 0;
    *s = (struct shard){0};
    scratch_read(directory, GOLDEN_SHARD, &s->file);
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)(uint8_t)s->file.data[i] << 8 * i;
    buf_append(&s->header, s->file.data + 8, n);
    s->data = s->file.data + 8 + n;
    s->data_bytes = s->file.len - 8 - n;
    unlink(scratch_path(directory, GOLDEN_INDEX));
}

static void put_shard(const char *directory, struct shard *s) {
    scratch_safetensors(directory, GOLDEN_SHARD, s->header.data, s->data, s->data_bytes);
    buf_release(&s->file);
    buf_release(&s->header);
}

/* Sets a in the header ("norm.weight/shape") to JSON b. */
static void header(const char *directory, const struct row *row) {
    struct shard s;
    take_shard(directory, &s);
    json_t *root = json_loads(s.header.data, 0, NULL);
    assert_non_null(root);
    set_at(root, row->a, row->b);
    char *out = json_dumps(root, JSON_COMPACT);
    buf_clear(&s.header);
    buf_string(&s.header, out);
    free(out);
    json_decref(root);
    put_shard(directory, &s);
}

/* Replaces the first a in the header's text by b. */
static void header_text(const char *directory, const struct row *row) {
    struct shard s;
    struct buf changed = {0};
    take_shard(directory, &s);
    const char *at = strstr(s.header.data, row->a);
    assert_non_null(at);
    buf_append(&changed, s.header.data, (size_t)(at - s.header.data));
    buf_string(&changed, row->b);
    buf_string(&changed, at + strlen(row->a));
    buf_release(&s.header);
    s.header = changed;
    put_shard(directory, &s);
}

/* Makes a the whole header. */
static void whole_header(const char *directory, const struct row *row) {
    struct shard s;
    take_shard(directory, &s);
    buf_clear(&s.header);
    buf_string(&s.header, row->a);
    put_shard(directory, &s);
}

static void long_name(const char *directory, const struct row *row) {
    char name[5001], json[5100];
    (void)row;
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    snprintf(json, sizeof(json), "{\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", name);
    unlink(scratch_path(directory, GOLDEN_INDEX));
    scratch_safetensors(directory, GOLDEN_SHARD, json, "", 0);
}

/* Keeps the shard's first a bytes; of a negative number, all but so many. */
static void cut(const char *directory, const struct row *row) {
    struct buf b = {0};
    long keep = atol(row->a);
    scratch_read(directory, GOLDEN_SHARD, &b);
    scratch_write(directory, GOLDEN_SHARD, b.data, keep < 0 ? b.len - (size_t)-keep : (size_t)keep);
    buf_release(&b);
}

static void append(const char *directory, const struct row *row) {
    struct buf b = {0};
    scratch_read(directory, GOLDEN_SHARD, &b);
    buf_string(&b, row->a);
    scratch_write(directory, GOLDEN_SHARD, b.data, b.len);
    buf_release(&b);
}

/* States a header of a bytes. */
static void header_length(const char *directory, const struct row *row) {
    struct buf b = {0};
    uint64_t n = strtoull(row->a, NULL, 0);
    scratch_read(directory, GOLDEN_SHARD, &b);
    for (int i = 0; i < 8; i++)
        b.data[i] = (char)(n >> 8 * i & 255);
    scratch_write(directory, GOLDEN_SHARD, b.data, b.len);
    buf_release(&b);
}

/* Adds a shard that holds one small tensor named a; with b, the index stays. */
static void second_shard(const char *directory, const struct row *row) {
    char json[300];
    if (!row->b)
        unlink(scratch_path(directory, GOLDEN_INDEX));
    snprintf(json, sizeof(json), "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", row->a);
    scratch_safetensors(directory, "model-00002-of-00002.safetensors", json, "abcd", 4);
}

/* The index says that tensor a is in the second shard. */
static void wrong_shard(const char *directory, const struct row *row) {
    second_shard(directory, &(struct row){.a = "extra", .b = ""});
    edit_json(directory, GOLDEN_INDEX, row->a, "\"model-00002-of-00002.safetensors\"");
}

/* Makes every byte of tensor a 0xff, a NaN in each of the float formats. */
static void nan_values(const char *directory, const struct row *row) {
    struct shard s;
    take_shard(directory, &s);
    json_t *root = json_loads(s.header.data, 0, NULL);
    long long begin = -1, end = -1;
    assert_int_equal(json_unpack(root, "{s:{s:[I, I]}}", row->a, "data_offsets", &begin, &end), 0);
    memset(s.file.data + (s.data - s.file.data) + begin, 0xff, (size_t)(end - begin));
    json_decref(root);
    put_shard(directory, &s);
}

/* ----------------------------------------------------------------------------------------- rows */

static const struct row rows[] = {
    {"no such directory", OPEN, no_directory, NULL, NULL, SONDE_ERROR_IO, "DIR: No such file or directory"},
    {"a file where the directory should be", OPEN, file_for_directory, NULL, NULL, SONDE_ERROR_IO,
     "DIR: not a directory; a model is a directory with config.json"},
    {"no config.json", OPEN, drop, "config.json", NULL, SONDE_ERROR_IO, "DIR/config.json: No such file or directory"},
    {"config.json is a directory", OPEN, directory_for_file, "config.json", NULL, SONDE_ERROR_IO,
     "DIR/config.json: Is a directory"},
    {"config.json may not be read", OPEN, forbid, "config.json", NULL, SONDE_ERROR_IO,
     "DIR/config.json: Permission denied"},
    {"no tensors at all", OPEN, drop, GOLDEN_SHARD, GOLDEN_INDEX, SONDE_ERROR_FORMAT,
     "DIR: holds no *.safetensors file"},
    {"a shard the index names is missing", OPEN, drop, GOLDEN_SHARD, NULL, SONDE_ERROR_IO,
     "DIR/model.safetensors.index.json: names the file model-00001-of-00001.safetensors, which is not there"},
    {"a directory where the shard should be", OPEN, directory_for_file, GOLDEN_SHARD, NULL, SONDE_ERROR_IO,
     "DIR/model-00001-of-00001.safetensors: not a regular file"},
    {"the shard may not be read", OPEN, forbid, GOLDEN_SHARD, NULL, SONDE_ERROR_IO,
     "DIR/model-00001-of-00001.safetensors: Permission denied"},
    {"config.json is empty", OPEN, text, "config.json", "", SONDE_ERROR_FORMAT,
     "DIR/config.json: empty, where JSON was expected"},
    {"config.json is not JSON", OPEN, text, "config.json", "{\n\"a\": }", SONDE_ERROR_FORMAT,
     "DIR/config.json: not valid JSON, line 2: *"},
    {"config.json is cut short", OPEN, text, "config.json", "{\"model_type\": \"deepseek_v4\", \"hid",
     SONDE_ERROR_FORMAT, "DIR/config.json: not valid JSON, line 1: *"},
    {"config.json is not an object", OPEN, text, "config.json", "[1]", SONDE_ERROR_FORMAT,
     "DIR/config.json: not a JSON object"},
    {"config.json states a field twice", OPEN, text, "config.json", "{\"vocab_size\": 1, \"vocab_size\": 2}",
     SONDE_ERROR_FORMAT, "DIR/config.json: not valid JSON, line 1: *"},
    {"config.json is not UTF-8", OPEN, text, "config.json", "{\"model_type\": \"\xff\xfe\"}", SONDE_ERROR_FORMAT,
     "DIR/config.json: not valid JSON, line 1: *"},
    {"config.json is nested too deeply", OPEN, config_nested, NULL, NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: not valid JSON, line 1: *"},
    {"model_type is \"deepseek_v3\"", OPEN, config, "model_type", "\"deepseek_v3\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field model_type: \"deepseek_v3\" is not supported, only deepseek_v4 or deepseek_v41"},
    {"model_type is 4", OPEN, config, "model_type", "4", SONDE_ERROR_FORMAT,
     "DIR/config.json: field model_type: 4, expected a string"},
    {"architectures is [\"DeepseekV3ForCausalLM\"]", OPEN, config, "architectures", "[\"DeepseekV3ForCausalLM\"]",
     SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field architectures: \"DeepseekV3ForCausalLM\" is not supported, only DeepseekV4ForCausalLM"},
    {"architectures is \"DeepseekV4ForCausalLM\"", OPEN, config, "architectures", "\"DeepseekV4ForCausalLM\"",
     SONDE_ERROR_FORMAT,
     "DIR/config.json: field architectures: \"DeepseekV4ForCausalLM\", expected an array of strings"},
    {"vocab_size is missing", OPEN, config, "vocab_size", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field vocab_size: missing, expected an integer from 1 to 16777216"},
    {"hidden_size is missing", OPEN, config, "hidden_size", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field hidden_size: missing, expected an integer from 1 to 1048576"},
    {"num_hidden_layers is missing", OPEN, config, "num_hidden_layers", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_hidden_layers: missing, expected an integer from 1 to 4096"},
    {"num_attention_heads is missing", OPEN, config, "num_attention_heads", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_attention_heads: missing, expected an integer from 1 to 32768"},
    {"head_dim is missing", OPEN, config, "head_dim", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field head_dim: missing, expected an integer from 1 to 32768"},
    {"qk_rope_head_dim is missing", OPEN, config, "qk_rope_head_dim", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field qk_rope_head_dim: missing, expected an integer from 1 to 32768"},
    {"q_lora_rank is missing", OPEN, config, "q_lora_rank", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field q_lora_rank: missing, expected an integer from 1 to 32768"},
    {"o_groups is missing", OPEN, config, "o_groups", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field o_groups: missing, expected an integer from 1 to 32768"},
    {"sliding_window is missing", OPEN, config, "sliding_window", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field sliding_window: missing, expected an integer from 1 to 16777216"},
    {"n_routed_experts is missing", OPEN, config, "n_routed_experts", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field n_routed_experts: missing, expected an integer from 1 to 32768"},
    {"num_experts_per_tok is missing", OPEN, config, "num_experts_per_tok", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_experts_per_tok: missing, expected an integer from 1 to 32768"},
    {"moe_intermediate_size is missing", OPEN, config, "moe_intermediate_size", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field moe_intermediate_size: missing, expected an integer from 1 to 1048576"},
    {"routed_scaling_factor is missing", OPEN, config, "routed_scaling_factor", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field routed_scaling_factor: missing, expected a number from 1e-06 to 1e+06"},
    {"num_hash_layers is missing", OPEN, config, "num_hash_layers", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_hash_layers: missing, expected an integer from 0 to 5"},
    {"compress_ratios is missing", OPEN, config, "compress_ratios", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field compress_ratios: missing, expected 5 integers"},
    {"hidden_size is -128", OPEN, config, "hidden_size", "-128", SONDE_ERROR_FORMAT,
     "DIR/config.json: field hidden_size: -128, expected an integer from 1 to 1048576"},
    {"hidden_size is 0", OPEN, config, "hidden_size", "0", SONDE_ERROR_FORMAT,
     "DIR/config.json: field hidden_size: 0, expected an integer from 1 to 1048576"},
    {"hidden_size is 128.5", OPEN, config, "hidden_size", "128.5", SONDE_ERROR_FORMAT,
     "DIR/config.json: field hidden_size: 128.5, expected an integer from 1 to 1048576"},
    {"hidden_size is \"128\"", OPEN, config, "hidden_size", "\"128\"", SONDE_ERROR_FORMAT,
     "DIR/config.json: field hidden_size: \"128\", expected an integer from 1 to 1048576"},
    {"hidden_size is 3e9", OPEN, config, "hidden_size", "3e9", SONDE_ERROR_FORMAT,
     "DIR/config.json: field hidden_size: 3000000000.0, expected an integer from 1 to 1048576"},
    {"vocab_size is 4294967296", OPEN, config, "vocab_size", "4294967296", SONDE_ERROR_FORMAT,
     "DIR/config.json: field vocab_size: 4294967296, expected an integer from 1 to 16777216"},
    {"num_hidden_layers is 1000000", OPEN, config, "num_hidden_layers", "1000000", SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_hidden_layers: 1000000, expected an integer from 1 to 4096"},
    {"num_hidden_layers is 7", OPEN, config, "num_hidden_layers", "7", SONDE_ERROR_FORMAT,
     "DIR/config.json: field compress_ratios: has 6 entries, expected 8, one a layer and MTP block"},
    {"head_dim is 32768", OPEN, config, "head_dim", "32768", SONDE_ERROR_FORMAT,
     "DIR/config.json: field qk_rope_head_dim: 32, expected head_dim - qk_rope_head_dim to be a multiple of 64, but "
     "head_dim is 32768"},
    {"qk_rope_head_dim is 31", OPEN, config, "qk_rope_head_dim", "31", SONDE_ERROR_FORMAT,
     "DIR/config.json: field qk_rope_head_dim: 31, expected an even number from 2 to head_dim, which is 96"},
    {"qk_rope_head_dim is 128", OPEN, config, "qk_rope_head_dim", "128", SONDE_ERROR_FORMAT,
     "DIR/config.json: field qk_rope_head_dim: 128, expected an even number from 2 to head_dim, which is 96"},
    {"qk_rope_head_dim is 64", OPEN, config, "qk_rope_head_dim", "64", SONDE_ERROR_FORMAT,
     "DIR/config.json: field qk_rope_head_dim: 64, expected head_dim - qk_rope_head_dim to be a multiple of 64, but "
     "head_dim is 96"},
    {"o_groups is 3", OPEN, config, "o_groups", "3", SONDE_ERROR_FORMAT,
     "DIR/config.json: field o_groups: 3, expected a divisor of num_attention_heads, which is 4"},
    {"num_experts_per_tok is 9", OPEN, config, "num_experts_per_tok", "9", SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_experts_per_tok: 9, expected at most the number of experts, which is 8"},
    {"num_hash_layers is 6", OPEN, config, "num_hash_layers", "6", SONDE_ERROR_FORMAT,
     "DIR/config.json: field num_hash_layers: 6, expected an integer from 0 to 5"},
    {"bos_token_id is 256", OPEN, config, "bos_token_id", "256", SONDE_ERROR_FORMAT,
     "DIR/config.json: field bos_token_id: 256, expected an integer from 0 to 255"},
    {"eos_token_id is [1, 2]", OPEN, config, "eos_token_id", "[1, 2]", SONDE_ERROR_FORMAT,
     "DIR/config.json: field eos_token_id: an array, expected an integer from 0 to 255"},
    {"compress_ratios is [0, 0, 4]", OPEN, config, "compress_ratios", "[0, 0, 4]", SONDE_ERROR_FORMAT,
     "DIR/config.json: field compress_ratios: has 3 entries, expected 6, one a layer and MTP block"},
    {"compress_ratios is [0, 0, 1, 128, 4, 0]", OPEN, config, "compress_ratios", "[0, 0, 1, 128, 4, 0]",
     SONDE_ERROR_FORMAT, "DIR/config.json: field compress_ratios[2]: 1, expected 0 or an integer from 2 to 65536"},
    {"compress_ratios is [0, 0, -4, 128, 4, 0]", OPEN, config, "compress_ratios", "[0, 0, -4, 128, 4, 0]",
     SONDE_ERROR_FORMAT, "DIR/config.json: field compress_ratios[2]: -4, expected 0 or an integer from 2 to 65536"},
    {"compress_ratios is [0, 0, \"4\", 128, 4, 0]", OPEN, config, "compress_ratios", "[0, 0, \"4\", 128, 4, 0]",
     SONDE_ERROR_FORMAT, "DIR/config.json: field compress_ratios[2]: \"4\", expected 0 or an integer from 2 to 65536"},
    {"compress_ratios is {}", OPEN, config, "compress_ratios", "{}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field compress_ratios: an object, expected an array"},
    {"index_head_dim is 96", OPEN, config, "index_head_dim", "96", SONDE_ERROR_FORMAT,
     "DIR/config.json: field index_head_dim: 96, expected a power of two, at least 32 and qk_rope_head_dim, which is "
     "32"},
    {"index_head_dim is missing", OPEN, config, "index_head_dim", NULL, SONDE_ERROR_FORMAT,
     "DIR/config.json: field index_head_dim: missing, expected an integer from 1 to 32768"},
    {"index_head_dim is 16", OPEN, config, "index_head_dim", "16", SONDE_ERROR_FORMAT,
     "DIR/config.json: field index_head_dim: 16, expected a power of two, at least 32 and qk_rope_head_dim, which is "
     "32"},
    {"rms_norm_eps is 0", OPEN, config, "rms_norm_eps", "0", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rms_norm_eps: 0, expected a number from 1e-30 to 1"},
    {"rope_theta is 1", OPEN, config, "rope_theta", "1", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_theta: 1, expected a number from 1.001 to 1e+15"},
    {"rope_theta is \"big\"", OPEN, config, "rope_theta", "\"big\"", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_theta: \"big\", expected a number from 1.001 to 1e+15"},
    {"swiglu_limit is -1", OPEN, config, "swiglu_limit", "-1", SONDE_ERROR_FORMAT,
     "DIR/config.json: field swiglu_limit: -1, expected a number from 0 to 1e+30"},
    {"max_position_embeddings is 0", OPEN, config, "max_position_embeddings", "0", SONDE_ERROR_FORMAT,
     "DIR/config.json: field max_position_embeddings: 0, expected an integer from 1 to 1099511627776"},
    {"rope_scaling is \"yarn\"", OPEN, config, "rope_scaling", "\"yarn\"", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_scaling: \"yarn\", expected an object"},
    {"rope_scaling.type is \"linear\"", OPEN, config, "rope_scaling", "{\"type\": \"linear\", \"factor\": 2}",
     SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field rope_scaling.type: \"linear\" is not supported, only yarn or default"},
    {"rope_scaling.type is missing", OPEN, config, "rope_scaling", "{\"factor\": 16}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_scaling.type: missing, expected \"yarn\""},
    {"rope_scaling.factor is 0.5", OPEN, config, "rope_scaling",
     "{\"type\": \"yarn\", \"factor\": 0.5, \"original_max_position_embeddings\": 65536}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_scaling.factor: 0.5, expected a number from 1 to 1e+06"},
    {"rope_scaling.original_max_position_embeddings is missing", OPEN, config, "rope_scaling",
     "{\"rope_type\": \"yarn\", \"factor\": 16}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_scaling.original_max_position_embeddings: missing, expected a number from 1 to "
     "1.09951e+12"},
    {"rope_scaling.beta_slow is 64", OPEN, config, "rope_scaling/beta_slow", "64", SONDE_ERROR_FORMAT,
     "DIR/config.json: field rope_scaling.beta_slow: 64, expected at most beta_fast, which is 32"},
    {"rope_scaling.attention_factor is 0.5", OPEN, config, "rope_scaling/attention_factor", "0.5",
     SONDE_ERROR_UNSUPPORTED, "DIR/config.json: field rope_scaling.attention_factor: 0.5 is not supported, only 1"},
    {"hidden_act is \"gelu\"", OPEN, config, "hidden_act", "\"gelu\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field hidden_act: \"gelu\" is not supported, only silu"},
    {"attention_bias is true", OPEN, config, "attention_bias", "true", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field attention_bias: true is not supported, only false"},
    {"attention_bias is 0", OPEN, config, "attention_bias", "0", SONDE_ERROR_FORMAT,
     "DIR/config.json: field attention_bias: 0, expected true or false"},
    {"tie_word_embeddings is true", OPEN, config, "tie_word_embeddings", "true", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field tie_word_embeddings: true is not supported, only false"},
    {"norm_topk_prob is false", OPEN, config, "norm_topk_prob", "false", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field norm_topk_prob: false is not supported, only true"},
    {"num_key_value_heads is 8", OPEN, config, "num_key_value_heads", "8", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field num_key_value_heads: 8 is not supported, only 1"},
    {"n_group is 8", OPEN, config, "n_group", "8", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field n_group: 8 is not supported, only 1"},
    {"topk_method is \"greedy\"", OPEN, config, "topk_method", "\"greedy\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field topk_method: \"greedy\" is not supported, only noaux_tc"},
    {"scoring_func is \"tanh\"", OPEN, config, "scoring_func", "\"tanh\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field scoring_func: \"tanh\" is not supported, only sqrtsoftplus, sigmoid or softmax"},
    {"expert_dtype is \"int4\"", OPEN, config, "expert_dtype", "\"int4\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field expert_dtype: \"int4\" is not supported, only fp4, fp8, bf16, bfloat16, float16 or "
     "float32"},
    {"quantization_config is []", OPEN, config, "quantization_config", "[]", SONDE_ERROR_FORMAT,
     "DIR/config.json: field quantization_config: an array, expected an object"},
    {"quantization_config is {}", OPEN, config, "quantization_config", "{}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field quantization_config.quant_method: missing, expected \"fp8\""},
    {"quantization_config.quant_method is \"gptq\"", OPEN, config, "quantization_config/quant_method", "\"gptq\"",
     SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field quantization_config.quant_method: \"gptq\" is not supported, only fp8"},
    {"quantization_config.fmt is \"e5m2\"", OPEN, config, "quantization_config/fmt", "\"e5m2\"",
     SONDE_ERROR_UNSUPPORTED, "DIR/config.json: field quantization_config.fmt: \"e5m2\" is not supported, only e4m3"},
    {"quantization_config.scale_fmt is \"float\"", OPEN, config, "quantization_config/scale_fmt", "\"float\"",
     SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field quantization_config.scale_fmt: \"float\" is not supported, only ue8m0"},
    {"quantization_config.activation_scheme is \"static\"", OPEN, config, "quantization_config/activation_scheme",
     "\"static\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/config.json: field quantization_config.activation_scheme: \"static\" is not supported, only dynamic"},
    {"quantization_config.weight_block_size is [128]", OPEN, config, "quantization_config/weight_block_size", "[128]",
     SONDE_ERROR_FORMAT, "DIR/config.json: field quantization_config.weight_block_size: has 1 entries, expected 2"},
    {"quantization_config.weight_block_size is [0, 128]", OPEN, config, "quantization_config/weight_block_size",
     "[0, 128]", SONDE_ERROR_FORMAT,
     "DIR/config.json: field quantization_config.weight_block_size: an array, expected two integers from 1 to 32768"},
    {"engram is {\"layer_ids\": [5]}", OPEN, config, "engram", "{\"layer_ids\": [5]}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field engram.layer_ids[0]: 5, expected a layer below 5, in ascending order"},
    {"engram is {\"layer_ids\": [2, 1]}", OPEN, config, "engram", "{\"layer_ids\": [2, 1]}", SONDE_ERROR_FORMAT,
     "DIR/config.json: field engram.layer_ids[1]: 1, expected a layer below 5, in ascending order"},
    {"engram.n_embed_per_ngram is not divisible by the heads", OPEN, config, "engram",
     "{\"layer_ids\": [1], \"max_ngram_size\": 3, \"n_head_per_ngram\": 3, \"n_embed_per_ngram\": 32, \"kernel_size\": "
     "4, \"pad_id\": 2}",
     SONDE_ERROR_FORMAT,
     "DIR/config.json: field engram.n_embed_per_ngram: 32, expected a multiple of n_head_per_ngram, which is 3"},
    {"engram.max_ngram_size is 1", OPEN, config, "engram", "{\"layer_ids\": [1], \"max_ngram_size\": 1}",
     SONDE_ERROR_FORMAT, "DIR/config.json: field engram.max_ngram_size: 1, expected an integer from 2 to 64"},
    {"the index is not JSON", OPEN, text, GOLDEN_INDEX, "weights", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: not valid JSON, line 1: *"},
    {"the index is not an object", OPEN, text, GOLDEN_INDEX, "[]", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: field weight_map: expected an object of tensors and files"},
    {"the index has no weight_map", OPEN, text, GOLDEN_INDEX, "{}", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: field weight_map: expected an object of tensors and files"},
    {"the index names no tensor", OPEN, text, GOLDEN_INDEX, "{\"weight_map\": {}}", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: weight_map names no tensor"},
    {"the index names a file outside the directory", OPEN, in_index, "weight_map/norm.weight",
     "\"../model.safetensors\"", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: tensor norm.weight: its file is not a plain file name"},
    {"the index names a directory above as file", OPEN, in_index, "weight_map/norm.weight", "\"..\"",
     SONDE_ERROR_FORMAT, "DIR/model.safetensors.index.json: tensor norm.weight: its file is not a plain file name"},
    {"the index names an absolute file", OPEN, in_index, "weight_map/norm.weight", "\"/etc/passwd\"",
     SONDE_ERROR_FORMAT, "DIR/model.safetensors.index.json: tensor norm.weight: its file is not a plain file name"},
    {"the index names a number as file", OPEN, in_index, "weight_map/norm.weight", "7", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: tensor norm.weight: its file is not a plain file name"},
    {"the index names a file that is not there", OPEN, in_index, "weight_map/norm.weight", "\"other.safetensors\"",
     SONDE_ERROR_IO, "DIR/model.safetensors.index.json: names the file other.safetensors, which is not there"},
    {"the index names a tensor that is in no file", OPEN, in_index, "weight_map/layers.9.weight",
     "\"model-00001-of-00001.safetensors\"", SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: tensor layers.9.weight is not in model-00001-of-00001.safetensors, nor in "
     "another file"},
    {"the index names the wrong file for a tensor", OPEN, wrong_shard, "weight_map/norm.weight", NULL,
     SONDE_ERROR_FORMAT,
     "DIR/model.safetensors.index.json: tensor norm.weight is in model-00001-of-00001.safetensors, not in "
     "model-00002-of-00002.safetensors"},
    {"the shard is empty", OPEN, cut, "0", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: 0 bytes are too few for a safetensors file"},
    {"the shard ends within the header's length", OPEN, cut, "7", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: 7 bytes are too few for a safetensors file"},
    {"the shard ends after the header's length", OPEN, cut, "8", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: states a header of 49432 bytes, but only 0 follow; it may be cut short"},
    {"the shard ends within the header", OPEN, cut, "10000", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: states a header of 49432 bytes, but only 9992 follow; it may be cut short"},
    {"the shard ends after the header", OPEN, cut, "49440", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor embed.weight: ends at byte 65536 of the data, but the file holds 0; "
     "it may be cut short"},
    {"the shard is half there", OPEN, cut, "1900000", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.3.attn.wq_b.weight: ends at byte 1875122 of the data, but "
     "the file holds 1850560; it may be cut short"},
    {"the shard lacks its last byte", OPEN, cut, "-1", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor mtp.0.hc_head_scale: ends at byte 3763276 of the data, but the file "
     "holds 3763275; it may be cut short"},
    {"the shard has a byte too many", OPEN, append, "x", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: 1 bytes at the end belong to no tensor"},
    {"the shard is a Git LFS pointer", OPEN, text, GOLDEN_SHARD,
     "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: a Git LFS pointer, not the file it stands for; fetch that first"},
    {"the shard is a web page", OPEN, text, GOLDEN_SHARD, "<!doctype html><title>404</title>", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: states a header of 8104636974849335612 bytes, more than 100000000; not a "
     "safetensors file"},
    {"the header's length is 0", OPEN, header_length, "0", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: empty, where JSON was expected"},
    {"the header's length is 2^64 - 1", OPEN, header_length, "18446744073709551615", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: states a header of 18446744073709551615 bytes, more than 100000000; not a "
     "safetensors file"},
    {"the header's length is beyond the file", OPEN, header_length, "90000000", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: states a header of 90000000 bytes, but only 3812708 follow; it may be cut "
     "short"},
    {"the header's length is one short", OPEN, header_length, "49431", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: 1 bytes at the end belong to no tensor"},
    {"the header is not JSON", OPEN, whole_header, "tensors", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: not valid JSON, line 1: *"},
    {"the header is not an object", OPEN, whole_header, "[]", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: the header is not a JSON object"},
    {"the header names no tensor", OPEN, whole_header, "{}", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: 3763276 bytes at the end belong to no tensor"},
    {"a tensor is there twice", OPEN, header_text, "\"head.weight\"", "\"norm.weight\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: not valid JSON, line 1: *"},
    {"a name holds a zero byte", OPEN, header_text, "\"norm.weight\"", "\"norm\\u0000.weight\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: not valid JSON, line 1: *"},
    {"a name is empty", OPEN, header_text, "\"norm.weight\"", "\"\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: a tensor's name is empty"},
    {"a name is too long", OPEN, long_name, NULL, NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: a tensor's name is too long"},
    {"a tensor is not an object", OPEN, header, "norm.weight", "7", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: expected an object"},
    {"a tensor has no dtype", OPEN, header, "norm.weight/dtype", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: dtype, expected a string"},
    {"a dtype is a number", OPEN, header, "norm.weight/dtype", "7", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: dtype, expected a string"},
    {"a tensor has no shape", OPEN, header, "norm.weight/shape", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, expected an array"},
    {"a shape is a number", OPEN, header, "norm.weight/shape", "128", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, expected an array"},
    {"a shape holds a negative number", OPEN, header, "norm.weight/shape", "[-128]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, expected non-negative integers"},
    {"a shape holds a fraction", OPEN, header, "norm.weight/shape", "[128.0]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, expected non-negative integers"},
    {"a shape holds text", OPEN, header, "norm.weight/shape", "[\"128\"]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, expected non-negative integers"},
    {"a shape holds 2^63", OPEN, header_text, "[128,128]", "[9223372036854775808,128]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: not valid JSON, line 1: *"},
    {"a shape's product is beyond 64 bits", OPEN, header, "norm.weight/shape", "[4294967296, 4294967296, 2]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, its product does not fit 64 bits"},
    {"a tensor's size is beyond 64 bits", OPEN, header, "norm.weight/shape", "[4611686018427387904, 2]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: shape, its size does not fit 64 bits"},
    {"a shape says more than the data holds", OPEN, header, "norm.weight/shape", "[129]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: 256 bytes of data, but 129 elements of BF16 take 258"},
    {"a dtype is too wide for the data", OPEN, header, "norm.weight/dtype", "\"F32\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: 256 bytes of data, but 128 elements of F32 take 512"},
    {"a tensor has no data_offsets", OPEN, header, "norm.weight/data_offsets", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: data_offsets, expected two integers"},
    {"data_offsets has one entry", OPEN, header, "norm.weight/data_offsets", "[3169103]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: data_offsets, expected two integers"},
    {"data_offsets holds text", OPEN, header, "norm.weight/data_offsets", "[\"3169103\", \"3169359\"]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: data_offsets, expected two integers"},
    {"data_offsets holds a fraction", OPEN, header, "norm.weight/data_offsets", "[3169103.5, 3169359]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: data_offsets, expected two integers"},
    {"data_offsets is negative", OPEN, header, "norm.weight/data_offsets", "[-256, 0]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: data_offsets [-256, 0] are no range"},
    {"data_offsets is reversed", OPEN, header, "norm.weight/data_offsets", "[3169359, 3169103]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: data_offsets [3169359, 3169103] are no range"},
    {"data_offsets is beyond the file", OPEN, header, "norm.weight/data_offsets",
     "[9223372036854775551, 9223372036854775807]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor norm.weight: ends at byte 9223372036854775807 of the data, but the "
     "file holds 3763276; it may be cut short"},
    {"two tensors overlap", OPEN, header, "norm.weight/data_offsets", "[3169102, 3169358]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensors layers.4.hc_ffn_scale and norm.weight overlap"},
    {"two tensors share their bytes", OPEN, header, "norm.weight/data_offsets", "[81937, 82193]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensors layers.0.attn.q_norm.weight and norm.weight overlap"},
    {"bytes between tensors belong to none", OPEN, header, "norm.weight", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: 256 bytes before it belong to no tensor"},
    {"bytes before the first tensor belong to none", OPEN, header, "embed.weight", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.attn_sink: 65536 bytes before it belong to no tensor"},
    {"a tensor is in two shards", OPEN, second_shard, "norm.weight", NULL, SONDE_ERROR_FORMAT,
     "DIR/model-00002-of-00002.safetensors: tensor norm.weight is also in DIR/model-00001-of-00001.safetensors"},
    {"a tensor is in two shards, spelled with and without model.", OPEN, second_shard, "model.norm.weight", NULL,
     SONDE_ERROR_FORMAT,
     "DIR/model-00002-of-00002.safetensors: tensor model.norm.weight is norm.weight, and so is norm.weight in "
     "DIR/model-00001-of-00001.safetensors"},
    {"a tensor is in two shards in two spellings", OPEN, second_shard, "model.layers.0.self_attn.q_a_proj.weight", NULL,
     SONDE_ERROR_FORMAT,
     "DIR/model-00002-of-00002.safetensors: tensor model.layers.0.self_attn.q_a_proj.weight is "
     "layers.0.attn.wq_a.weight, and so is layers.0.attn.wq_a.weight in DIR/model-00001-of-00001.safetensors"},
    {"two tensors of a shard are one in two spellings", OPEN, header_text, "\"layers.0.attn.wkv.weight\"",
     "\"layers.0.self_attn.q_a_proj.weight\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.self_attn.q_a_proj.weight is layers.0.attn.wq_a.weight, "
     "and so is layers.0.attn.wq_a.weight in DIR/model-00001-of-00001.safetensors"},
    {"a tensor is missing", BIND, header_text, "\"layers.0.attn.attn_sink\"", "\"layers.0.attn.attn_sunk\"",
     SONDE_ERROR_FORMAT, "DIR: tensor layers.0.attn.attn_sink is missing"},
    {"a matrix is missing", BIND, header_text, "\"head.weight\"", "\"heat.weight\"", SONDE_ERROR_FORMAT,
     "DIR: tensor head.weight is missing"},
    {"a matrix has the wrong shape", BIND, header, "head.weight/shape", "[128, 256]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: shape [128, 256], expected [256, 128]"},
    {"a matrix has the wrong rank", BIND, header, "head.weight/shape", "[2, 128, 128]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: shape [2, 128, 128], expected [256, 128]"},
    {"a matrix has the wrong dtype", BIND, header, "head.weight/dtype", "\"I16\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: dtype I16, expected F32, BF16, F16, F8_E4M3 or I8"},
    {"a matrix has a dtype nobody knows", BIND, header, "head.weight/dtype", "\"F8_E5M2\"", SONDE_ERROR_UNSUPPORTED,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: dtype F8_E5M2 is not supported"},
    {"a matrix has five dimensions", BIND, header, "head.weight/shape", "[1, 1, 1, 256, 128]", SONDE_ERROR_UNSUPPORTED,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: 5 dimensions is not supported"},
    {"a packed matrix has the wrong shape", BIND, header, "layers.2.ffn.experts.3.w1.weight/shape", "[64, 128]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.2.ffn.experts.3.w1.weight: shape [64, 128], expected [128, "
     "64]"},
    {"an FP8 matrix has no scale", BIND, header_text, "\"layers.0.attn.wq_a.scale\"", "\"layers.0.attn.wq_a.skale\"",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.weight: F8_E4M3 needs a scale, but tensor "
     "layers.0.attn.wq_a.scale is missing"},
    {"an FP4 matrix has no scale", BIND, header_text, "\"layers.2.ffn.experts.3.w1.scale\"",
     "\"layers.2.ffn.experts.3.w1.skale\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.2.ffn.experts.3.w1.weight: I8 needs a scale, but tensor "
     "layers.2.ffn.experts.3.w1.scale is missing"},
    {"an FP8 scale has the wrong shape", BIND, header, "layers.0.attn.wq_a.scale/shape", "[1]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.scale: shape [1], expected [1, 1] as scale of "
     "layers.0.attn.wq_a.weight in blocks of 128 x 128"},
    {"an FP4 scale has the wrong shape", BIND, header, "layers.2.ffn.experts.3.w1.scale/shape", "[4, 128]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.2.ffn.experts.3.w1.scale: shape [4, 128], expected [128, 4] "
     "as scale of layers.2.ffn.experts.3.w1.weight in blocks of 1 x 32"},
    {"an FP8 scale has the wrong dtype", BIND, header, "layers.0.attn.wq_a.scale/dtype", "\"U8\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.scale: dtype U8, expected F8_E8M0 or F32 as "
     "scale of layers.0.attn.wq_a.weight"},
    {"a scale has a dtype nobody knows", BIND, header, "layers.0.attn.wq_a.scale/dtype", "\"F8_E5M2\"",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.scale: dtype F8_E5M2, expected F8_E8M0 or F32 as "
     "scale of layers.0.attn.wq_a.weight"},
    {"the scale blocks do not fit the config", BIND, config, "quantization_config/weight_block_size", "[64, 64]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.scale: shape [1, 1], expected [2, 2] as scale of "
     "layers.0.attn.wq_a.weight in blocks of 64 x 64"},
    {"a vector has the wrong shape", BIND, header, "layers.0.attn.attn_sink/shape", "[2, 2]", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.attn_sink: shape [2, 2], expected [4]"},
    {"a vector has the wrong dtype", BIND, header, "layers.0.attn.attn_sink/dtype", "\"I32\"", SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.attn_sink: dtype I32, expected F32, BF16 or F16"},
    {"a table of integers has the wrong dtype", BIND, header, "layers.0.ffn.gate.tid2eid/dtype", "\"F64\"",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.ffn.gate.tid2eid: dtype F64, expected I32 or I64"},
    {"a table of integers has the wrong shape", BIND, header, "layers.0.ffn.gate.tid2eid/shape", "[2, 256]",
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.ffn.gate.tid2eid: shape [2, 256], expected [256, 2]"},
    {"a scale is NaN", RUN, nan_values, "layers.0.attn.wq_a.scale", NULL, SONDE_ERROR_NUMERIC,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.scale: value 0 is not finite"},
    {"an FP8 weight is NaN", RUN, nan_values, "layers.0.attn.wq_a.weight", NULL, SONDE_ERROR_NUMERIC,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.attn.wq_a.weight: value 0 is not finite"},
    {"a BF16 weight is NaN", RUN, nan_values, "head.weight", NULL, SONDE_ERROR_NUMERIC,
     "DIR/model-00001-of-00001.safetensors: tensor head.weight: value 0 is not finite"},
    {"a norm is NaN", RUN, nan_values, "layers.3.attn_norm.weight", NULL, SONDE_ERROR_NUMERIC,
     "DIR/model-00001-of-00001.safetensors: tensor layers.3.attn_norm.weight: value 0 is not finite"},
    {"a router's bias is NaN", RUN, nan_values, "layers.3.ffn.gate.bias", NULL, SONDE_ERROR_NUMERIC,
     "DIR/model-00001-of-00001.safetensors: tensor layers.3.ffn.gate.bias: value 0 is not finite"},
    {"an indexer's weights are NaN", RUN, nan_values, "layers.2.attn.indexer.weights_proj.weight", NULL,
     SONDE_ERROR_NUMERIC,
     "DIR/model-00001-of-00001.safetensors: tensor layers.2.attn.indexer.weights_proj.weight: value 0 is not finite"},
    {"a token is sent to an expert that is not there", RUN, nan_values, "layers.0.ffn.gate.tid2eid", NULL,
     SONDE_ERROR_FORMAT,
     "DIR/model-00001-of-00001.safetensors: tensor layers.0.ffn.gate.tid2eid: token 0 has expert -1, expected 0 to 7"},
    {"the multi-token-prediction block is half there", BIND, header_text, "\"mtp.0.h_proj.weight\"",
     "\"mtp.0.h_prod.weight\"", SONDE_ERROR_FORMAT, "DIR: tensor mtp.0.h_proj.weight is missing"},
};

/* --------------------------------------------------------------------------------------- stages */

static void ignore(void *context, uint32_t span, uint64_t position, const float *logits) {
    (void)context, (void)span, (void)position, (void)logits;
}

/* Tokens enough through all layers that the indexer has to choose; token 0 among them. */
static int run(struct model *m, struct sonde_error *e) {
    static const int32_t ids[48] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const struct model_outputs outputs = {.logits = ignore};
    struct model_span span = {.ids = ids, .count = COUNT_OF(ids)};
    int rc = sequence_open(m, 0, false, &span.sequence, e);
    if (!rc)
        rc = model_step(m, &span, 1, &outputs, e);
    sequence_close(span.sequence);
    return rc;
}

/* Goes as far as it gets; *stage is the one that failed. */
static int reach(const char *directory, enum stage *stage, struct sonde_error *e) {
    static const struct model_options options = {.precision = SONDE_PRECISION_F32, .rows = 48, .context = 64};
    struct checkpoint *c = NULL;
    struct model *m = NULL;
    struct device *d;
    assert_int_equal(device_cpu_open(&(struct device_cpu_options){0}, &d, NULL), 0);
    *stage = OPEN;
    int rc = checkpoint_open(directory, &c, e);
    if (!rc) {
        *stage = BIND;
        rc = model_open(c, d, &options, &m, e);
    }
    if (!rc) {
        *stage = RUN;
        rc = run(m, e);
    }
    model_close(m);
    checkpoint_close(c);
    d->ops->close(d);
    return rc;
}

/* `message` with the directory as DIR. */
static void show(struct buf *out, const char *message, const char *directory) {
    buf_clear(out);
    for (const char *at; (at = strstr(message, directory)); message = at + strlen(directory)) {
        buf_append(out, message, (size_t)(at - message));
        buf_string(out, "DIR");
    }
    buf_string(out, message);
}

static bool matches(const char *message, const char *expected) {
    size_t n = strlen(expected);
    if (n && expected[n - 1] == '*')
        return strncmp(message, expected, n - 1) == 0;
    return strcmp(message, expected) == 0;
}

static void test_row__gives_its_sentence(void **state) {
    const struct row *row = *state;
    char directory[64];
    struct sonde_error e = {0};
    struct buf message = {0};
    enum stage stage;
    bool become_nobody = row->edit == forbid && geteuid() == 0;
    scratch_open(directory);
    scratch_link(directory, "tests/golden/flash");
    if (row->edit)
        row->edit(directory, row);
    if (become_nobody && seteuid(65534) < 0)
        skip();
    int rc = reach(directory, &stage, &e);
    if (become_nobody)
        assert_int_equal(seteuid(0), 0);
    scratch_close(directory);
    show(&message, e.message, directory);
    if (rc != row->code || !matches(message.data, row->message))
        print_error("expected: %s: %s\ngot: %s: %s\n", sonde_code_name(row->code), row->message, sonde_code_name(rc),
                    message.data);
    assert_int_equal(rc, row->code);
    assert_int_equal(e.code, rc);
    assert_true(matches(message.data, row->message));
    assert_int_equal(stage, row->stage);
    buf_release(&message);
}

/* ---------------------------------------------------------------------------------------- table */

static void table(struct buf *out) {
    static const char *const stages[] = {"opening", "binding", "running"};
    buf_string(out, "# What a broken checkpoint says\n\n"
                    "Made by `test_checkpoint_malformed --table`, whose rows are tests: a copy of a small checkpoint "
                    "is broken\nin the way named and must fail at the stage, with the code and the sentence given. "
                    "DIR is the\ncheckpoint's directory; * stands for the words of the JSON library or the system.\n\n"
                    "| what is wrong | noticed when | code | sentence |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        buf_printf(out, "| %s | %s | %s | `%s` |\n", rows[i].name, stages[rows[i].stage], sonde_code_name(rows[i].code),
                   rows[i].message);
}

static void test_table__is_the_document(void **state) {
    struct buf wanted = {0}, there = {0};
    struct sonde_error e;
    (void)state;
    table(&wanted);
    assert_int_equal(file_read("docs/malformed.md", 1 << 20, &there, &e), 0);
    if (strcmp(wanted.data, there.data) != 0)
        fail_msg("docs/malformed.md is not what test_checkpoint_malformed --table prints");
    buf_release(&wanted);
    buf_release(&there);
}

/* The case all rows start from is sound, so that each row fails for its own reason. */
static void test_start__is_sound(void **state) {
    char directory[64];
    struct sonde_error e;
    enum stage stage;
    (void)state;
    scratch_open(directory);
    scratch_link(directory, "tests/golden/flash");
    int rc = reach(directory, &stage, &e);
    scratch_close(directory);
    assert_int_equal(rc, 0);
}

int main(int argc, char **argv) {
    static struct CMUnitTest tests[COUNT_OF(rows) + 2];
    static char names[COUNT_OF(rows)][200];
    if (argc == 2 && strcmp(argv[1], "--table") == 0) {
        struct buf out = {0};
        table(&out);
        fputs(out.data, stdout);
        buf_release(&out);
        return 0;
    }
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        snprintf(names[i], sizeof(names[i]), "test_malformed__%s", rows[i].name);
        tests[i] = (struct CMUnitTest){names[i], test_row__gives_its_sentence, NULL, NULL, (void *)(uintptr_t)&rows[i]};
    }
    tests[COUNT_OF(rows)] = (struct CMUnitTest)cmocka_unit_test(test_table__is_the_document);
    tests[COUNT_OF(rows) + 1] = (struct CMUnitTest)cmocka_unit_test(test_start__is_sound);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
