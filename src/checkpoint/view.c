/*
 * view.c - a tensor by name as what the model needs it to be, or a sentence that says what is wrong with it.
 *
 * Views borrow the mapped bytes and look at no value; that is what makes opening instant. So everything that
 * can be known from headers is settled here, in one place: presence, dtype, shape, and that the block scales
 * of a quantised matrix fit it.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint_internal.h"

#define FP4_BLOCK   32
#define TABLE_BLOCK 32

/* A model's names are far shorter; one cut off would be one not found. */
#define NAME_BYTES 256

static int find(const struct checkpoint *c, const char *name, const struct tensor **t, struct sonde_error *e) {
    *t = checkpoint_find(c, name);
    if (!*t)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s is missing", checkpoint_directory(c), name);
    if ((*t)->foreign)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "%s: tensor %s: %s is not supported", checkpoint_file(c, *t),
                       (*t)->spelled, (*t)->foreign);
    return SONDE_OK;
}

static int check_shape(const struct checkpoint *c, const struct tensor *t, uint32_t rank, const uint64_t *dims,
                       struct sonde_error *e) {
    struct shape_text is, wanted;
    if (t->rank == rank && memcmp(t->dims, dims, rank * sizeof(*dims)) == 0)
        return SONDE_OK;
    return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s: shape %s, expected %s", checkpoint_file(c, t), t->spelled,
                   shape_describe(&is, t->rank, t->dims), shape_describe(&wanted, rank, dims));
}

static int wrong_dtype(const struct checkpoint *c, const struct tensor *t, const char *wanted, struct sonde_error *e) {
    return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s: dtype %s, expected %s", checkpoint_file(c, t), t->spelled,
                   dtype_name(t->dtype), wanted);
}

/* The format of a tensor that needs no scale. */
static bool unscaled(enum dtype d, enum format *format) {
    if (d != DTYPE_F32 && d != DTYPE_BF16 && d != DTYPE_F16)
        return false;
    *format = d == DTYPE_F32 ? FORMAT_F32 : d == DTYPE_BF16 ? FORMAT_BF16 : FORMAT_F16;
    return true;
}

/* Finds the scales of weight `w`, which m describes but for them. */
static int bind_scale(const struct checkpoint *c, const char *name, const struct tensor *w, struct matrix *m,
                      struct sonde_error *e) {
    char scale[NAME_BYTES];
    struct shape_text is, wanted;
    snprintf(scale, sizeof(scale), "%s.scale", name);
    const struct tensor *t = checkpoint_find(c, scale);
    if (!t)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s: %s needs a scale, but tensor %s is missing",
                       checkpoint_file(c, w), w->spelled, dtype_name(w->dtype), scale);
    uint64_t dims[] = {ceil_div(m->rows, m->block_rows), ceil_div(m->cols, m->block_cols)};
    bool f32 = m->format == FORMAT_FP8 && t->dtype == DTYPE_F32;
    if (t->foreign || (t->dtype != DTYPE_F8_E8M0 && !f32))
        return err_set(e, SONDE_ERROR_FORMAT, "%s: tensor %s: %s%s, expected %s as scale of %s", checkpoint_file(c, t),
                       t->spelled, t->foreign ? "" : "dtype ", t->foreign ? t->foreign : dtype_name(t->dtype),
                       m->format == FORMAT_FP8 ? "F8_E8M0 or F32" : "F8_E8M0", w->spelled);
    if (t->rank != 2 || memcmp(t->dims, dims, sizeof(dims)) != 0)
        return err_set(e, SONDE_ERROR_FORMAT,
                       "%s: tensor %s: shape %s, expected %s as scale of %s in blocks of %u x %u",
                       checkpoint_file(c, t), t->spelled, shape_describe(&is, t->rank, t->dims),
                       shape_describe(&wanted, 2, dims), w->spelled, m->block_rows, m->block_cols);
    m->scale = t->data;
    m->scale_format = f32 ? SCALE_F32 : SCALE_E8M0;
    m->scale_cols = (uint32_t)dims[1];
    return SONDE_OK;
}

/* checkpoint_matrix() with FP8 in blocks of these. */
static int view_matrix(const struct checkpoint *c, const char *name, uint32_t block_rows, uint32_t block_cols,
                       struct matrix *m, struct sonde_error *e) {
    char weight[NAME_BYTES];
    const struct tensor *t;
    struct matrix view = {.rows = m->rows, .cols = m->cols};
    snprintf(weight, sizeof(weight), "%s.weight", name);
    int rc = find(c, weight, &t, e);
    if (rc)
        return rc;
    bool packed = t->dtype == DTYPE_I8 || t->dtype == DTYPE_U8, scaled = !unscaled(t->dtype, &view.format);
    if (scaled && !packed && t->dtype != DTYPE_F8_E4M3)
        return wrong_dtype(c, t, "F32, BF16, F16, F8_E4M3 or I8", e);
    if (packed && view.cols % FP4_BLOCK)
        return err_set(e, SONDE_ERROR_UNSUPPORTED,
                       "%s: tensor %s: packed FP4 with %u columns is not supported, only multiples of %d",
                       checkpoint_file(c, t), t->spelled, view.cols, FP4_BLOCK);
    rc = check_shape(c, t, 2, (uint64_t[]){view.rows, packed ? view.cols / 2 : view.cols}, e);
    view.data = t->data;
    if (scaled) {
        view.format = packed ? FORMAT_FP4 : FORMAT_FP8;
        view.block_rows = packed ? 1 : block_rows;
        view.block_cols = packed ? FP4_BLOCK : block_cols;
    }
    if (!rc && scaled)
        rc = bind_scale(c, name, t, &view, e);
    if (!rc)
        *m = view;
    return rc;
}

int checkpoint_matrix(const struct checkpoint *c, const char *name, uint32_t rows, uint32_t cols, struct matrix *m,
                      struct sonde_error *e) {
    const struct shape *s = checkpoint_shape(c);
    struct matrix view = {.rows = rows, .cols = cols};
    int rc = view_matrix(c, name, s->fp8_block_rows, s->fp8_block_cols, &view, e);
    if (!rc)
        *m = view;
    return rc;
}

int checkpoint_table(const struct checkpoint *c, const char *name, uint32_t rows, uint32_t cols, struct matrix *m,
                     struct sonde_error *e) {
    struct matrix view = {.rows = rows, .cols = cols};
    int rc = view_matrix(c, name, 1, TABLE_BLOCK, &view, e);
    if (!rc)
        *m = view;
    return rc;
}

int checkpoint_plain(const struct checkpoint *c, const char *name, uint32_t rank, const uint64_t *dims,
                     struct matrix *m, struct sonde_error *e) {
    const struct tensor *t;
    struct matrix view = {0};
    uint64_t rows = 1;
    assert(rank >= 1 && rank <= TENSOR_RANK);
    int rc = find(c, name, &t, e);
    if (rc)
        return rc;
    if (!unscaled(t->dtype, &view.format))
        return wrong_dtype(c, t, "F32, BF16 or F16", e);
    rc = check_shape(c, t, rank, dims, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i + 1 < rank; i++)
        rows *= dims[i];
    if (rows > UINT32_MAX || dims[rank - 1] > UINT32_MAX)
        return err_set(e, SONDE_ERROR_UNSUPPORTED, "%s: tensor %s: too large to be a matrix", checkpoint_file(c, t),
                       t->spelled);
    view.rows = (uint32_t)rows;
    view.cols = (uint32_t)dims[rank - 1];
    view.data = t->data;
    *m = view;
    return SONDE_OK;
}

int checkpoint_integers(const struct checkpoint *c, const char *name, uint32_t rank, const uint64_t *dims,
                        struct integers *out, struct sonde_error *e) {
    const struct tensor *t;
    assert(rank <= TENSOR_RANK);
    int rc = find(c, name, &t, e);
    if (rc)
        return rc;
    if (t->dtype != DTYPE_I32 && t->dtype != DTYPE_I64)
        return wrong_dtype(c, t, "I32 or I64", e);
    rc = check_shape(c, t, rank, dims, e);
    if (!rc)
        *out = (struct integers){t->dtype, t->bytes / dtype_bytes(t->dtype), t->data};
    return rc;
}
