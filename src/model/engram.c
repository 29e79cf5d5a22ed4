/*
 * engram.c - hashed n-gram memory, added to the streams of a few layers (arXiv 2601.07372).
 *
 * The last 2, 3, ... tokens, as compact ids, are hashed by several heads each into rows of one large table:
 * integers only, known from the tokens alone. The rows, side by side, give a key for each stream and a value;
 * how well key and stream agree gates the value, and a causal convolution over time adds what came before:
 *
 *     v_j = gate_j * value,   h_j <- h_j + v_j + silu(conv(RMSNorm(v))_j)
 */
#include "model/model_internal.h"

/* Products wrap in 64 bits; the modulo is never negative. */
void engram_hash_rows(const struct engram_hash *hash, const int64_t *compact, int64_t *rows) {
    uint64_t mix = (uint64_t)compact[0] * (uint64_t)hash->multipliers[0];
    int64_t offset = 0;
    uint32_t column = 0;
    for (uint32_t order = 2; order <= hash->orders; order++) {
        mix ^= (uint64_t)compact[order - 1] * (uint64_t)hash->multipliers[order - 1];
        for (uint32_t head = 0; head < hash->heads; head++, column++) {
            int64_t row = (int64_t)mix % hash->sizes[column];
            rows[column] = offset + (row < 0 ? row + hash->sizes[column] : row);
            offset += hash->sizes[column];
        }
    }
}

static bool is_prime(int64_t n) {
    if (n < 4)
        return n >= 2;
    for (int64_t k = 2; k <= n / k; k++)
        if (n % k == 0)
            return false;
    return true;
}

void engram_make_sizes(int64_t least, size_t count, int64_t *sizes) {
    for (size_t i = 0; i < count; least++)
        if (is_prime(least))
            sizes[i++] = least;
}

/* Table rows of the token at `at`: rows [columns]. The pad stands before the text. */
static void hash(const struct step *st, const struct engram *g, const struct sequence *sequence, uint64_t at,
                 int64_t *rows) {
    const struct engram_shape *shape = &st->m->shape->engram;
    const struct engram_hash how = {shape->orders, shape->heads, g->multipliers, g->sizes};
    int64_t compact[ENGRAM_MOST_ORDERS];
    for (uint32_t back = 0; back < shape->orders; back++) {
        int64_t id = at >= back ? sequence->tokens[at - back] : (int64_t)shape->pad;
        compact[back] = integers_at(&g->token_map, (uint64_t)id);
    }
    engram_hash_rows(&how, compact, rows);
}

/* y [S, D] = w x + bias */
static void affine(struct step *st, const struct matrix *w, const struct matrix *bias, float *y) {
    const struct scratch *t = &st->m->scratch;
    struct device_product p = step_product(st, w, t->engram_rows, y);
    p.block = 0;
    st->ops->linear(st->d, &p, 1, st->rows, st->m->precision.products_bf16);
    if (bias->data) {
        st->ops->embed(st->d, bias, &(int64_t){0}, 1, t->x, w->rows);
        st->ops->add(st->d, y, w->rows, t->x, 0, st->rows, w->rows);
    }
    step_round(st, y, (uint64_t)st->rows * w->rows);
}

static void look_up(struct step *st, const struct engram *g) {
    struct model *m = st->m;
    uint32_t width = g->table.cols;
    for (uint32_t i = 0; i < st->segment_count; i++)
        for (uint32_t j = 0; j < st->segments[i].count; j++)
            hash(st, g, st->segments[i].sequence, st->segments[i].first + j,
                 m->engram_ids + (size_t)(st->segments[i].row + j) * g->columns);
    st->ops->embed(st->d, &g->table, m->engram_ids, st->rows * g->columns, m->scratch.engram_rows, width);
    step_round(st, m->scratch.engram_rows, (uint64_t)st->rows * g->columns * width);
}

static void convolve(struct step *st, const struct engram *g, uint32_t index, float *h) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    uint32_t wide = s->streams * s->hidden, ring_rows = st->m->specs[index].conv_rows;
    for (uint32_t j = 0; j < s->streams; j++)
        st->ops->norm(st->d, t->engram_out + (size_t)j * s->hidden, wide, st->rows, s->hidden, &g->conv_norms[j],
                      s->engram.conv_eps, t->engram_conv + (size_t)j * s->hidden, wide);
    for (uint32_t i = 0; i < st->segment_count; i++) {
        const struct segment *seg = &st->segments[i];
        float *ring = seg->sequence->layers[index].conv;
        struct device_engram_conv c = {.x = t->engram_conv + (size_t)seg->row * wide,
                                       .ring = ring,
                                       .kernel = g->conv,
                                       .first = seg->first,
                                       .rows = seg->count,
                                       .channels = wide,
                                       .taps = s->engram.taps,
                                       .dilation = s->engram.orders,
                                       .ring_rows = ring_rows,
                                       .out = h + (size_t)seg->row * wide};
        st->ops->engram_conv(st->d, &c);
        st->ops->ring_store(st->d, ring, ring_rows, wide * sizeof(float), c.x, seg->first, seg->count);
    }
}

/* h [S, H, D] takes in what the n-grams that end at each token recall. */
void engram_run(struct step *st, const struct engram *g, uint32_t index, float *h) {
    const struct shape *s = st->m->shape;
    struct scratch *t = &st->m->scratch;
    uint32_t wide = s->streams * s->hidden;
    look_up(st, g);
    affine(st, &g->value, &g->value_bias, t->engram_value);
    for (uint32_t j = 0; j < s->streams; j++) {
        affine(st, &g->keys[j], &g->key_biases[j], t->engram_key);
        struct device_engram_gate gate = {.key = t->engram_key,
                                          .value = t->engram_value,
                                          .ld = s->hidden,
                                          .h = h,
                                          .key_norm = g->key_norms[j],
                                          .query_norm = g->query_norms[j],
                                          .rows = st->rows,
                                          .streams = s->streams,
                                          .dim = s->hidden,
                                          .stream = j,
                                          .eps = s->engram.norm_eps,
                                          .out = t->engram_out};
        st->ops->engram_gate(st->d, &gate);
    }
    step_round(st, t->engram_out, (uint64_t)st->rows * wide);
    st->ops->add(st->d, h, wide, t->engram_out, wide, st->rows, wide);
    convolve(st, g, index, h);
    step_round(st, h, (uint64_t)st->rows * wide);
}
