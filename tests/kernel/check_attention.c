/*
 * check_attention.c - stored rows, and the kernels that read them: attention and the indexer's scores.
 *
 * The truth is taken of the floats that row_decode() gives for the rows, so that packing adds no error of its own.
 */
#include <math.h>

#include "checks.h"

/* ----------------------------------------------------------------------------------- stored rows */

struct row_format random_format(enum row_kind kind, uint32_t dim) {
    struct row_format f = {kind, dim, 0};
    if (kind == ROW_KEY || kind == ROW_KEY_F32)
        f.rotated = dim > 64 && rng_u64(&rng) & 1 ? dim % 64 + 64 : up_to(dim);
    return f;
}

/* `count` rows of the format at any address, of modest floats, and in `decoded` [count, dim] what they hold. */
static const uint8_t *random_rows(const struct row_format *f, uint32_t count, float **decoded) {
    size_t bytes = row_bytes(f), words = (count * bytes + 3) / 4;
    float *x = floats((size_t)count * f->dim);
    uint8_t *rows = (uint8_t *)floats(words);
    rows += f->kind != ROW_F32 && rng_u64(&rng) & 1 ? words * 4 - count * bytes : 0;
    for (uint32_t i = 0; i < count; i++) {
        float *row = x + (size_t)i * f->dim;
        for (uint32_t c = 0; c < f->dim; c++)
            row[c] = fmaxf(-2, fminf(2, row[c]));
        row_encode(f, row, rows + i * bytes);
        row_decode(f, rows + i * bytes, 0, f->dim, row);
    }
    *decoded = x;
    return rows;
}

bool check_store_row(const struct kernel_table *t) {
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), rng_u64(&rng) % 8 ? up_to(200) : 512);
    size_t bytes = row_bytes(&f), words = (bytes + 3) / 4;
    float *x = floats(f.dim);
    uint8_t want[4 * 512], *row = (uint8_t *)floats(words) + words * 4 - bytes;
    make_extreme(x, f.dim);
    row_encode(&f, x, want);
    t->store_row(&f, x, row);
    return memcmp(row, want, bytes) == 0;
}

/* ------------------------------------------------------------------------------------- attention */

void random_attention(struct attention *a, struct row_format format, uint32_t heads, uint32_t count) {
    *a = (struct attention){.heads = heads, .count = count, .format = format};
    uint32_t dim = format.dim;
    a->scale = 1 / sqrtf((float)dim);
    a->q = floats((size_t)heads * dim);
    a->sink = floats(heads);
    a->weights = floats((size_t)heads * count);
    a->out = floats((size_t)heads * dim);
    float *all;
    const uint8_t *rows = random_rows(&format, count, &all);
    for (uint32_t i = 0; i < heads * dim; i++)
        a->q[i] = fmaxf(-2, fminf(2, a->q[i]));
    for (uint32_t h = 0; h < heads; h++)
        a->sink[h] = fmaxf(-3, fminf(3, a->sink[h]));
    for (uint32_t k = 0; k < count; k++) {
        uint32_t i = up_to(count) - 1;
        a->keys[k] = rows + i * row_bytes(&format);
        a->decoded[k] = all + (size_t)i * dim;
    }
}

/* `rounding` is what weights may be off, relative to themselves. */
static bool attend_holds(const struct attention *a, double rounding) {
    const uint32_t dim = a->format.dim, step = a->heads > 16 ? 16 : 1; /* the truth takes its time */
    bool good = true;
    for (uint32_t h = 0; h < a->heads; h += step) {
        double w[MOST_KEYS], total = exp((double)a->sink[h]);
        for (uint32_t k = 0; k < a->count; k++) {
            double logit = 0;
            for (uint32_t c = 0; c < dim; c++)
                logit += (double)a->q[h * dim + c] * a->decoded[k][c];
            total += w[k] = exp(logit * (double)a->scale);
        }
        for (uint32_t c = 0; c < dim; c++) {
            double want = 0, magnitude = 0;
            for (uint32_t k = 0; k < a->count; k++) {
                want += w[k] / total * a->decoded[k][c];
                magnitude += w[k] / total * fabs((double)a->decoded[k][c]);
            }
            good &=
                fabs(a->out[h * dim + c] - want) <= dot_error(16 * magnitude, dim + a->count) + rounding * magnitude;
        }
    }
    return good;
}

/* Packed keys give the bits that the same keys as floats give. */
bool check_attend(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 32 == 0; /* as released */
    uint32_t heads = large ? up_to(130) : up_to(5), dim = large ? 512 : up_to(200),
             count = up_to(large ? MOST_KEYS : 40);
    struct row_format plain = {ROW_F32, dim, 0};
    struct attention a;
    random_attention(&a, random_format((enum row_kind)(rng_u64(&rng) % 4), dim), heads, count);
    float *again = floats((size_t)heads * dim);
    t->attend(a.q, heads, &a.format, a.keys, count, a.sink, a.scale, a.weights, a.out);
    for (uint32_t k = 0; k < count; k++)
        a.keys[k] = a.decoded[k];
    t->attend(a.q, heads, &plain, a.keys, count, a.sink, a.scale, a.weights, again);
    return attend_holds(&a, 0) && memcmp(a.out, again, (size_t)heads * dim * sizeof(*again)) == 0;
}

/* A shape that fast kernels are made for, or any. */
bool check_attend_bf16(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 16 == 0;
    uint32_t heads = large ? 32 * up_to(4) : up_to(5), dim = large ? 128 * up_to(4) : up_to(200);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim);
    struct attention a;
    if (large)
        f = (struct row_format){ROW_KEY, dim, 64};
    random_attention(&a, f, heads, up_to(large ? MOST_KEYS : 40));
    for (uint32_t i = 0; i < heads * dim; i++)
        a.q[i] = bf16_round(a.q[i]);
    t->attend_bf16(a.q, heads, &f, a.keys, a.count, a.sink, a.scale, a.weights, a.out, scratch);
    return attend_holds(&a, 0x1p-8);
}

/* ---------------------------------------------------------------------------------- index scores */

/* What `lost` queries' channels add may be missing: those below 2^-126. */
static bool scores_hold(const float *q, const float *w, uint32_t heads, uint32_t dim, const float *keys, uint32_t count,
                        const float *scores, double lost) {
    bool good = true;
    for (uint32_t i = 0; i < count; i++) {
        double want = 0, magnitude = 0, missing = 0;
        for (uint32_t h = 0; h < heads; h++) {
            double match = 0, sum = 0;
            for (uint32_t c = 0; c < dim; c++) {
                double term = (double)q[h * dim + c] * keys[i * dim + c];
                match += term;
                sum += fabs(term);
                if (fabs((double)q[h * dim + c]) < 0x1p-126)
                    missing += lost * fabs(w[h] * term);
            }
            want += w[h] * fmax(match, 0);
            magnitude += fabs((double)w[h]) * sum;
        }
        good &= fabs(scores[i] - want) <= dot_error(2 * magnitude, dim + heads) + missing;
    }
    return good;
}

void random_scoring(struct scoring *s, struct row_format format, uint32_t rows, uint32_t heads, uint32_t count) {
    *s = (struct scoring){rows, heads, count, .ld = count + up_to(20) - 1, .format = format};
    size_t all = (rows - 1) * s->ld + count;
    s->q = floats((size_t)rows * heads * format.dim);
    s->w = floats((size_t)rows * heads);
    s->stored = random_rows(&format, count, &s->keys);
    s->scores = floats(all);
    s->before = floats(all);
    memcpy(s->before, s->scores, all * sizeof(float));
}

void score_some(const struct kernel_table *t, const struct scoring *s, bool bf16, uint32_t row, uint32_t rows,
                uint32_t key, uint32_t count, float *scores) {
    const float *q = s->q + (size_t)row * s->heads * s->format.dim, *w = s->w + (size_t)row * s->heads;
    const uint8_t *keys = s->stored + key * row_bytes(&s->format);
    scores += row * s->ld + key;
    if (bf16)
        t->index_scores_bf16(q, w, rows, s->heads, &s->format, keys, count, scores, s->ld, scratch);
    else
        t->index_scores(q, w, rows, s->heads, &s->format, keys, count, scores, s->ld);
}

static bool all_scores_hold(const struct scoring *s, double lost) {
    const uint32_t heads = s->heads, dim = s->format.dim;
    bool good = true;
    for (uint32_t r = 0; r < s->rows; r++) {
        const float *scores = s->scores + r * s->ld;
        good &= scores_hold(s->q + (size_t)r * heads * dim, s->w + (size_t)r * heads, heads, dim, s->keys, s->count,
                            scores, lost);
        if (r + 1 < s->rows)
            good &=
                memcmp(scores + s->count, s->before + r * s->ld + s->count, (s->ld - s->count) * sizeof(float)) == 0;
    }
    return good;
}

/* Packed keys give the bits that the same keys as floats give. */
bool check_index_scores(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 32 == 0, wide = rng_u64(&rng) % 32 == 0;
    uint32_t heads = up_to(large ? 130 : 20), dim = large ? 128 : up_to(wide ? 600 : 130);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim), plain = {ROW_F32, dim, 0};
    struct scoring s;
    random_scoring(&s, f, up_to(large ? 3 : 7), heads, up_to(large ? 150 : 9));
    score_some(t, &s, false, 0, s.rows, 0, s.count, s.scores);
    bool good = all_scores_hold(&s, 0);
    t->index_scores(s.q, s.w, s.rows, heads, &plain, s.keys, s.count, s.before, s.ld);
    return good && memcmp(s.scores, s.before, ((s.rows - 1) * s.ld + s.count) * sizeof(float)) == 0;
}

bool check_index_scores_bf16(const struct kernel_table *t) {
    bool large = rng_u64(&rng) % 16 == 0;
    uint32_t heads = large ? 32 * up_to(4) : up_to(20), dim = large ? 128 * up_to(2) : up_to(130);
    struct row_format f = random_format((enum row_kind)(rng_u64(&rng) % 4), dim);
    struct scoring s;
    if (large)
        f = (struct row_format){ROW_INDEX, dim, 0};
    random_scoring(&s, f, up_to(large ? 3 : 7), heads, up_to(large ? 100 : 9));
    for (uint32_t i = 0; i < s.rows * heads * dim; i++)
        s.q[i] = bf16_round(s.q[i]);
    score_some(t, &s, true, 0, s.rows, 0, s.count, s.scores);
    return all_scores_hold(&s, 1);
}
