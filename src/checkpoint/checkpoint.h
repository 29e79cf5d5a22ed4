/*
 * checkpoint.h - a model directory: config.json to a shape, *.safetensors to views of mapped bytes.
 *
 *     directory/config.json
 *     directory/model-00001-of-00046.safetensors ...
 *     directory/model.safetensors.index.json        optional; if present it must agree with the shards
 *
 * Which files are shards: those the index names, all of which must be there; without an index
 * model.safetensors alone; without that every *.safetensors but golden.safetensors, in order of name.
 *
 * Opening maps every shard and reads only the headers, so it takes as long for 160 GB as for 10 MB. All
 * that a file says is checked before use: header length, JSON, dtypes, shapes, offsets (in range, of the
 * right size, without overlap or gap), duplicates across shards, shards the index names. What each
 * tensor must look like for the model is checked by those who ask for it, through checkpoint_matrix() and
 * its like. Values are not looked at.
 *
 * Names: tensors are known by their official, bare names ("layers.0.attn.wq_a.weight"). A `model.` prefix
 * is dropped and the Hugging Face spelling ("self_attn", "mlp", "weight_scale_inv", ...) is mapped;
 * docs/formats.md has the table.
 *
 * Threads: an open checkpoint or file is read-only and may be shared. It must outlive its views.
 */
#ifndef CHECKPOINT_CHECKPOINT_H
#define CHECKPOINT_CHECKPOINT_H

#include "base/base.h"
#include "number/number.h"

/* --------------------------------------------------------------------------------------- shape */

/* Letters are those of docs/numerics.md. */
enum scoring { SCORING_SQRTSOFTPLUS, SCORING_SIGMOID, SCORING_SOFTMAX };

/* Rotary frequencies stretched to longer contexts (YaRN, without the attention factor). factor 0: none. */
struct yarn {
    double factor, beta_fast, beta_slow, original_context;
};

/* Engram: hashed n-gram memory in a few layers (arXiv 2601.07372). count 0: none. */
struct engram_shape {
    uint32_t count;   /* layers that have one */
    uint32_t *layers; /* [count], ascending */
    uint32_t orders;  /* longest n-gram; orders 2..this are hashed */
    uint32_t heads;   /* hash heads an order */
    uint32_t width;   /* channels an order; a head's row has width / heads */
    uint32_t taps;    /* of the convolution; its dilation is `orders`. V4.1 has none: 0 */
    uint32_t pad;     /* token id that stands before the text */
    float norm_eps, conv_eps;
};

/*
 * What DeepSeek-V4.1 has besides. A layer whose ratio is not 0 reads the entries of its key source, the last layer up
 * to it that makes some, and those of them that its index source chose: itself or a layer between the two. Every key
 * source is an index source. Index sources behind candidate_source choose within the blocks of entries it kept; all of
 * these read the same entries.
 */
struct v41_shape {
    uint32_t *key_source, *index_source;        /* [layers]; V41_NONE where the ratio is 0 */
    uint32_t last_key_source;                   /* V41_NONE: no layer has entries */
    uint32_t candidate_source;                  /* V41_NONE: none */
    uint32_t candidate_blocks, candidate_block; /* blocks kept, entries of one: together at least index_topk */
    uint32_t engram_ids;                        /* compact token ids */
    int64_t engram_least;                       /* the first hash table has as many rows as the next prime */
    uint64_t *engram_rows;                      /* [engram.count]: of a layer's tables together */
};
#define V41_NONE UINT32_MAX

/* model_type: deepseek_v4, deepseek_v41. */
enum family { FAMILY_V4, FAMILY_V41 };

struct shape {
    enum family family;
    uint32_t vocab;      /* V */
    uint32_t hidden;     /* D */
    uint32_t layers;     /* L, without MTP blocks */
    uint32_t mtp_blocks; /* num_nextn_predict_layers; 0 where dspark_* fields say that mtp.* is no such block */
    uint32_t heads;      /* N */
    uint32_t head_dim;   /* C */
    uint32_t rope_dim;   /* trailing channels of C that are rotated */
    uint32_t q_rank;     /* R of the query */
    uint32_t o_groups, o_rank;
    uint32_t window;  /* tokens a layer sees uncompressed, itself included */
    uint32_t *ratios; /* [layers + mtp_blocks]: tokens a compressed entry; 0: window only */
    uint32_t index_heads, index_dim, index_topk;
    uint32_t experts, active, shared_experts; /* E, k, and always-on ones (as one of that many widths) */
    uint32_t inter;                           /* channels inside an expert */
    uint32_t hash_layers;                     /* first layers, routed by token id */
    enum scoring scoring;
    float route_scale, swiglu_limit; /* swiglu_limit 0: no clamp */
    uint32_t streams;                /* H: residual streams of the hyper-connections */
    uint32_t sinkhorn_iters;
    float eps, hc_eps;
    double rope_theta, compress_theta;
    struct yarn yarn;                        /* of layers whose ratio is not 0 */
    uint64_t context;                        /* max_position_embeddings */
    uint32_t fp8_block_rows, fp8_block_cols; /* 128 x 128 unless the config says otherwise */
    int32_t bos, eos;
    struct engram_shape engram;
    struct v41_shape v41; /* of FAMILY_V41 */
};

/* Parses config.json text. `what` names it in messages ("DIR/config.json: field hidden_size: ..."). Unknown
 * fields are ignored; fields that would change the result and are not supported are refused; null is as good
 * as missing. What the parsed numbers promise: none of the sizes is zero, except those documented as such and
 * those of an indexer that no layer has; products of two of them that are a matrix side fit 32 bits; rope_dim
 * is even and <= head_dim; heads % o_groups == 0; active <= experts. Of V4: (head_dim - rope_dim) % 64 == 0; ratios
 * are 0 or 2 to 65536; where one is 4, index_dim is a power of two, >= 32 and >= rope_dim. Of V4.1: ratios are 0 to
 * 65536; where one is not 0, head_dim and index_dim are multiples of 32, and index_dim >= rope_dim.
 * On success shape_release() is owed. Errors: FORMAT, UNSUPPORTED, MEMORY. */
int shape_parse(const char *json, size_t bytes, const char *what, struct shape *shape, struct sonde_error *e);
void shape_release(struct shape *shape);

/* ----------------------------------------------------------------------------------- checkpoint */

#define TENSOR_RANK 4

/*
 * A tensor as a file stores it: borrowed from the map. One of an unknown dtype or of more than TENSOR_RANK
 * dimensions does not spoil its file: it is kept as U8 [bytes] with `foreign` saying what it is, and whoever
 * asks for it by name is refused.
 */
struct tensor {
    const char *name;    /* official spelling */
    const char *spelled; /* as in the file */
    const char *foreign; /* NULL, or "dtype F8_E5M2", "6 dimensions" */
    enum dtype dtype;
    uint32_t rank;
    uint64_t dims[TENSOR_RANK];
    const uint8_t *data; /* may be unaligned */
    uint64_t offset;     /* of data in the file */
    uint64_t bytes;
    uint32_t file; /* for checkpoint_file() */
};

struct checkpoint;

/* Errors: IO, FORMAT, UNSUPPORTED, MEMORY; the message names file, tensor and field. */
int checkpoint_open(const char *directory, struct checkpoint **checkpoint, struct sonde_error *e);
void checkpoint_close(struct checkpoint *c);

const struct shape *checkpoint_shape(const struct checkpoint *c);
/* As it was given to checkpoint_open(). */
const char *checkpoint_directory(const struct checkpoint *c);
size_t checkpoint_count(const struct checkpoint *c);
/* i < count: shard by shard, in each by offset. */
const struct tensor *checkpoint_at(const struct checkpoint *c, size_t i);
/* By official name; NULL if absent. */
const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name);
/* Path of the shard that holds t. */
const char *checkpoint_file(const struct checkpoint *c, const struct tensor *t);

/*
 * Views with their checks. `name` is the official name; the message of a failure names file, tensor, what
 * is there and what was expected. Errors: FORMAT (missing, wrong dtype or shape), UNSUPPORTED (a dtype no view
 * knows), MEMORY. On failure the output is as it was.
 */

/* name + ".weight" as [rows, cols]: F32, BF16, F16, FP8 (with name + ".scale", F8_E8M0 or F32 [rows /
 * block_rows, cols / block_cols], both rounded up) or packed FP4 (I8/U8 [rows, cols/2] with ".scale"
 * [rows, cols/32]). */
int checkpoint_matrix(const struct checkpoint *c, const char *name, uint32_t rows, uint32_t cols, struct matrix *m,
                      struct sonde_error *e);

/* name + ".weight", a table that is read row by row: F32, BF16, F16 or FP8 whose name + ".scale", F8_E8M0 [rows,
 * cols / 32 rounded up], is for 32 columns of a row. */
int checkpoint_table(const struct checkpoint *c, const char *name, uint32_t rows, uint32_t cols, struct matrix *m,
                     struct sonde_error *e);

/* A tensor `name` (no suffix added) of exactly the given shape, F32, BF16 or F16, as the matrix
 * [product of the leading dims, last dim]; rank 1 gives one row. */
int checkpoint_plain(const struct checkpoint *c, const char *name, uint32_t rank, const uint64_t *dims,
                     struct matrix *m, struct sonde_error *e);

/* An I32 or I64 tensor of the given shape, left in the map. */
struct integers {
    enum dtype dtype; /* I32 or I64 */
    uint64_t count;
    const uint8_t *data;
};
int checkpoint_integers(const struct checkpoint *c, const char *name, uint32_t rank, const uint64_t *dims,
                        struct integers *out, struct sonde_error *e);
static inline int64_t integers_at(const struct integers *v, uint64_t i) {
    int64_t wide;
    int32_t narrow;
    if (v->dtype == DTYPE_I64) {
        memcpy(&wide, v->data + 8 * i, sizeof(wide));
        return wide;
    }
    memcpy(&narrow, v->data + 4 * i, sizeof(narrow));
    return narrow;
}

/* Parameters as the released figures count them: every stored number of a weight, two for a byte of packed
 * FP4; no block scales, which belong to the storage, and no integers, which are tables. */
uint64_t tensor_parameters(const struct tensor *t);

/* True if no value is NaN or infinite, scales included; else *where is the first such element. Reads all of it. */
bool tensor_finite(const struct tensor *t, uint64_t *where);

/* The first tensor that has such a value, or NULL. Reads the whole checkpoint. */
const struct tensor *checkpoint_nonfinite(const struct checkpoint *c, uint64_t *where);

/* ----------------------------------------------------------------------------- safetensors files */

/* One parsed file, for what is not a checkpoint (golden files, logits). */
struct safetensors;
int safetensors_open(const char *path, struct safetensors **s, struct sonde_error *e);
void safetensors_close(struct safetensors *s);
size_t safetensors_count(const struct safetensors *s);
const struct tensor *safetensors_at(const struct safetensors *s, size_t i); /* name as spelled in the file */
const struct tensor *safetensors_find(const struct safetensors *s, const char *name);

/* Parses the first header_bytes bytes of a file of `file_bytes` bytes, the eight of the length included: what
 * the fuzzer drives. data pointers of the tensors are `base` + offset, base standing for the file's first
 * byte, or NULL when base is NULL. Keeps neither header nor `what`. Errors: FORMAT, MEMORY. */
int safetensors_parse(const uint8_t *header, size_t header_bytes, const uint8_t *base, uint64_t file_bytes,
                      const char *what, struct safetensors **s, struct sonde_error *e);

/* Writing: declare all tensors, append their bytes in that order, in pieces of any size, finish. The file
 * appears under its name only when finished (struct file_replacement, which also says what happens to what is no
 * regular file); cancel removes what was written. The header is padded with spaces to 8 bytes, the data has no gaps: a
 * tensor is aligned to its elements when wider dtypes are declared first. Errors: IO, ARGUMENT (names twice, empty or
 * not UTF-8; sizes that overflow; more bytes than declared), MEMORY. */
struct tensor_spec {
    const char *name;
    enum dtype dtype;
    uint32_t rank;
    uint64_t dims[TENSOR_RANK];
};
struct safetensors_writer;
int safetensors_create(const char *path, const struct tensor_spec *specs, size_t count, struct safetensors_writer **w,
                       struct sonde_error *e);
int safetensors_append(struct safetensors_writer *w, const void *bytes, size_t count, struct sonde_error *e);
/* Closes w whatever happens. Errors: IO, ARGUMENT (not all declared bytes were appended). */
int safetensors_finish(struct safetensors_writer *w, struct sonde_error *e);
/* NULL may be cancelled. */
void safetensors_cancel(struct safetensors_writer *w);

#endif
