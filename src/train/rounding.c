/*
 * rounding.c - parameters as a checkpoint stores them.
 *
 *     FP8    e4m3 in the shape's blocks (128 x 128), a scale 2^ceil(log2(largest / 448)) each
 *     FP4    e2m1, 32 columns of a row a block, 2^ceil(log2(largest / 6))
 *     BF16   nearest
 *     F32    as they are
 *
 * One encoder serves files and rounding, and rounding decodes what it made: `use` is what a checkpoint gives back, bit
 * for bit. It runs after every step, so codes come from integer arithmetic without branches, which compilers turn into
 * vectors; number.h says what they must be. A block with a value that is not finite is NaN throughout.
 */
#include <float.h>
#include <stdlib.h>

#include "train/run_internal.h"

enum { FP4_BLOCK = 32, STRIP_ROWS = 128 };

/* ------------------------------------------------------------------------------------------- forms */

struct matrix stored_form(const struct shape *shape, const struct param_f32 *p, uint32_t rows) {
    static const enum format formats[] = {
        [FORM_F32] = FORMAT_F32, [FORM_BF16] = FORMAT_BF16, [FORM_FP8] = FORMAT_FP8, [FORM_FP4] = FORMAT_FP4};
    struct matrix m = {.format = formats[p->form], .rows = rows, .cols = p->cols};
    if (!matrix_quantised(&m))
        return m;
    m.scale_format = SCALE_E8M0;
    m.block_rows = p->form == FORM_FP8 ? shape->fp8_block_rows : 1;
    m.block_cols = p->form == FORM_FP8 ? shape->fp8_block_cols : FP4_BLOCK;
    m.scale_cols = (uint32_t)ceil_div(p->cols, m.block_cols);
    return m;
}

int stored_check(const struct net_f32 *net, struct sonde_error *e) {
    for (size_t i = 0; i < net->params.count; i++) {
        const struct param_f32 *p = &net->params.list[i];
        char name[96];
        if (p->form != FORM_FP4 || p->cols % FP4_BLOCK == 0)
            continue;
        param_name_f32(p, 0, name, sizeof(name));
        return err_set(e, SONDE_ERROR_ARGUMENT,
                       "tensor %s has %u columns; FP4 is stored in blocks of %d, expected a multiple of it", name,
                       p->cols, FP4_BLOCK);
    }
    return SONDE_OK;
}

/* ------------------------------------------------------------------------------------------- codes */

/*
 * Code of y in a float of 1 sign, some exponent and `man` mantissa bits, whose smallest normal number has the exponent
 * `least` of a float32. |y| rounds to no more than its largest number. Above that smallest, half a step less a bit,
 * added to the float's bits, rounds to nearest, ties to even; below it, adding a float whose last bit is the step does.
 */
static inline uint32_t code_of(float y, uint32_t man, uint32_t least) {
    uint32_t drop = 23 - man, magnitude = float_bits(y) & 0x7fffffffu, shift = (least + drop) << 23;
    uint32_t normal = ((magnitude + (1u << (drop - 1)) - 1 + (magnitude >> drop & 1)) >> drop) - ((least - 1) << man);
    uint32_t small = float_bits(bits_float(magnitude) + bits_float(shift)) - shift;
    return (int32_t)magnitude < (int32_t)(least << 23) ? small : normal;
}

static void encode_e4m3(const float *restrict x, size_t count, float factor, uint8_t *restrict codes) {
    for (size_t i = 0; i < count; i++)
        codes[i] = (uint8_t)((code_of(x[i] * factor, 3, 121) & 0x7f) | (float_bits(x[i]) >> 31 << 7));
}

/* Two a byte, the even column low. */
static void encode_e2m1(const float *restrict x, float factor, uint8_t *restrict codes) {
    uint32_t wide[FP4_BLOCK];
    for (size_t i = 0; i < FP4_BLOCK; i++)
        wide[i] = (code_of(x[i] * factor, 1, 127) & 7) | (float_bits(x[i]) >> 31 << 3);
    for (size_t i = 0; i < FP4_BLOCK / 2; i++)
        codes[i] = (uint8_t)(wide[2 * i] | wide[2 * i + 1] << 4);
}

/* The larger of `most` and the bits of all magnitudes; those of infinities and NaN are above all others. */
static int32_t largest(const float *x, size_t count, int32_t most) {
    for (size_t i = 0; i < count; i++) {
        int32_t magnitude = (int32_t)(float_bits(x[i]) & 0x7fffffffu);
        most = magnitude > most ? magnitude : most;
    }
    return most;
}

/* The scale under which a block with that largest magnitude reaches at most `top`. */
static float scale_of(int32_t bits, float top) {
    float most = bits_float((uint32_t)bits);
    if (!(most <= FLT_MAX))
        return bits_float(0x7fc00000u);
    return pow2_ceil((most < 1e-12f ? 1e-12f : most) / top);
}

/* ---------------------------------------------------------------------------------------- matrices */

static void encode_fp8(const struct matrix *m, const float *x, uint8_t *codes, uint8_t *scale) {
    for (uint32_t row = 0; row < m->rows; row += m->block_rows) {
        uint32_t rows = (uint32_t)min_u64(m->block_rows, m->rows - row);
        for (uint32_t col = 0; col < m->cols; col += m->block_cols) {
            uint32_t cols = (uint32_t)min_u64(m->block_cols, m->cols - col);
            size_t first = (size_t)row * m->cols + col;
            int32_t most = 0;
            for (size_t i = 0; i < rows; i++)
                most = largest(x + first + i * m->cols, cols, most);
            float s = scale_of(most, 448);
            *scale++ = e8m0_encode(s);
            for (size_t i = 0; i < rows; i++)
                encode_e4m3(x + first + i * m->cols, cols, 1 / s, codes + first + i * m->cols);
        }
    }
}

static void encode_fp4(const struct matrix *m, const float *x, uint8_t *codes, uint8_t *scale) {
    for (size_t i = 0; i < (size_t)m->rows * m->scale_cols; i++, x += FP4_BLOCK, codes += FP4_BLOCK / 2) {
        float s = scale_of(largest(x, FP4_BLOCK, 0), 6);
        *scale++ = e8m0_encode(s);
        encode_e2m1(x, 1 / s, codes);
    }
}

void stored_encode(struct matrix *m, const float *x, void *to) {
    size_t count = (size_t)m->rows * m->cols, scales = 0;
    uint16_t *halves = to;
    if (matrix_quantised(m))
        scales = ceil_div(m->rows, m->block_rows) * m->scale_cols;
    uint8_t *scale = (uint8_t *)to + (matrix_bytes(m) - scales);
    m->data = to;
    m->scale = scales ? scale : NULL;
    switch (m->format) {
    case FORMAT_FP8:
        encode_fp8(m, x, to, scale);
        break;
    case FORMAT_FP4:
        encode_fp4(m, x, to, scale);
        break;
    case FORMAT_BF16:
        for (size_t i = 0; i < count; i++)
            halves[i] = bf16_encode(x[i]);
        break;
    default:
        memcpy(to, x, count * sizeof(*x));
    }
}

/* ---------------------------------------------------------------------------------------- rounding */

/* What a worker rounds at a time: rows of one matrix of a stack, from the first of a block on. */
struct strip {
    const struct param_f32 *param;
    size_t begin; /* in the parameter's values */
    uint32_t rows;
};

struct rounds {
    const struct strip *strips;
    struct team *team;
    const struct shape *shape;
};

static void round_strip(void *context, uint32_t worker, size_t item) {
    const struct rounds *r = context;
    const struct strip *s = &r->strips[item];
    struct matrix m = stored_form(r->shape, s->param, s->rows);
    void *stored = team_scratch(r->team, worker, matrix_bytes(&m));
    float *use = (float *)(uintptr_t)s->param->use + s->begin;
    if (!stored)
        return;
    stored_encode(&m, s->param->value + s->begin, stored);
    for (uint32_t i = 0; i < m.rows; i++, use += m.cols)
        matrix_decode(&m, i, 0, m.cols, use);
}

/* Counts the strips of p and puts them at `strips` unless that is NULL. */
static size_t cut(const struct shape *shape, const struct param_f32 *p, struct strip *strips) {
    uint32_t most = p->form == FORM_FP8 ? shape->fp8_block_rows : STRIP_ROWS;
    size_t count = 0;
    for (uint32_t k = 0; p->form != FORM_F32 && k < p->stack; k++)
        for (uint32_t row = 0; row < p->rows; row += most, count++)
            if (strips)
                strips[count] = (struct strip){.param = p,
                                               .begin = ((size_t)k * p->rows + row) * p->cols,
                                               .rows = (uint32_t)min_u64(most, p->rows - row)};
    return count;
}

static int begin(struct rounding *r, struct net_f32 *net, struct sonde_error *e) {
    size_t numbers = 0;
    int rc = stored_check(net, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < net->params.count; i++) {
        const struct param_f32 *p = &net->params.list[i];
        numbers += p->form == FORM_F32 ? 0 : param_room_f32(p);
        r->strip_count += cut(&net->shape, p, NULL);
    }
    r->values = memory_large(numbers * sizeof(*r->values));
    r->strips = malloc((r->strip_count + 1) * sizeof(*r->strips));
    if (!r->values || !r->strips) {
        rounding_release(r, net);
        return err_memory(e);
    }
    float *use = r->values;
    struct strip *strip = r->strips;
    for (size_t i = 0; i < net->params.count; i++) {
        struct param_f32 *p = &net->params.list[i];
        strip += cut(&net->shape, p, strip);
        if (p->form == FORM_F32)
            continue;
        p->use = use;
        use += param_room_f32(p);
    }
    return SONDE_OK;
}

int rounding_update(struct rounding *r, struct team *team, struct net_f32 *net, struct sonde_error *e) {
    int rc = r->values ? SONDE_OK : begin(r, net, e);
    if (rc)
        return rc;
    struct rounds all = {r->strips, team, &net->shape};
    team_each(team, r->strip_count, round_strip, &all);
    return team_failed(team) ? err_memory(e) : SONDE_OK;
}

void rounding_release(struct rounding *r, struct net_f32 *net) {
    for (size_t i = 0; r->values && i < net->params.count; i++)
        net->params.list[i].use = net->params.list[i].value;
    free(r->values);
    free(r->strips);
    *r = (struct rounding){0};
}
