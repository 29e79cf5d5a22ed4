/*
 * engram.c - Engram forward and backward.
 *
 * For a token t and a stream j, with the normed key k and stream q, both of length D:
 *
 *     agreement = k . q / sqrt(D)         gate = sigmoid(sign(agreement) sqrt(max(|agreement|, 1e-6)))
 *     v_j = gate value                    RMSNorm(v_j) = conv_input value conv_norm,
 *                                         conv_input = gate / sqrt(gate^2 mean(value^2) + eps)
 *
 * so that the convolution's input is one number times the value, and need not be kept. The way back goes once over
 * channels (gradients of the convolution's weights: a worker has a few channels of all tokens), once over tokens
 * (gates, streams, keys, values), once over channels (norms and biases), and then through the projections.
 */
#include <string.h>

#include "train/engram_internal.h"
#include "train/lanes_internal.h"

enum { CHANNELS = 128 };
static const double LEAST_AGREEMENT = 1e-6; /* below it in magnitude, the gate does not move */

/* --------------------------------------------------------------------------------------- the table */

struct look_up {
    const struct engram_rows *rows;
    uint32_t width;
    const real *table, *de;
    real *e, *gradient;
};

static void look_up_block(void *context, uint32_t worker, size_t item) {
    const struct look_up *p = context;
    size_t end = min_u64(p->rows->slots, (item + 1) * BLOCK), width = p->width;
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++)
        memcpy(p->e + i * width, p->table + (size_t)p->rows->rows[i] * width, width * sizeof(real));
}

void REAL(engram_look_up)(struct team *team, const struct engram_rows *r, uint32_t width, const real *table, real *e) {
    struct look_up p = {.rows = r, .width = width, .table = table, .e = e};
    team_each(team, ceil_div(r->slots, BLOCK), look_up_block, &p);
}

static void table_rows(void *context, uint32_t worker, size_t item) {
    const struct look_up *p = context;
    const struct engram_rows *r = p->rows;
    size_t end = min_u64(r->count, (item + 1) * BLOCK), width = p->width;
    (void)worker;
    for (size_t i = item * BLOCK; i < end; i++)
        for (size_t k = r->first[i]; k < r->first[i + 1]; k++)
            lanes_axpy(p->gradient + i * width, 1, p->de + r->by_row[k] * width, width);
}

void REAL(engram_table_gradient)(struct team *team, const struct engram_rows *r, uint32_t width, const real *de,
                                 real *gradient) {
    struct look_up p = {.rows = r, .width = width, .de = de, .gradient = gradient};
    team_each(team, ceil_div(r->count, BLOCK), table_rows, &p);
}

/* ------------------------------------------------------------------------------------------ shared */

struct pass {
    struct team *team;
    const struct engram_sizes *s;
    const real *h;
    const struct engram_weights *w;
    const struct engram_saved *saved;
    real *out; /* forward */
    const real *dout;
    real *dconv;  /* [T, H D]: gradient of what the convolution gives */
    real *dkey;   /* [T, H D] */
    real *dvalue; /* [T, D] */
    real *slopes; /* [T, H]: what (key norm weight) (query norm weight) key_i is multiplied by to be a part of
                     the gradient of stream_i, and the other way round */
    real *dh;
    const struct engram_gradients *g;
};

static size_t wide(const struct pass *p) {
    return (size_t)p->s->streams * p->s->dim;
}

/* The segment of a token. */
static const struct segment *segment_of(const struct engram_sizes *s, size_t token) {
    size_t low = 0, high = s->segment_count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (s->segments[middle].begin <= token)
            low = middle;
        else
            high = middle;
    }
    return &s->segments[low];
}

/* How many tokens tap k looks back. */
static size_t reach(const struct engram_sizes *s, size_t k) {
    return (size_t)(s->taps - 1 - k) * s->dilation;
}

/* Taps of `count` channels from c on, times the norm's weights: to [taps, count]. */
static void turn_taps(const struct pass *p, size_t c, size_t count, real *taps) {
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < p->s->taps; k++)
            taps[k * count + i] = p->w->conv[(c + i) * p->s->taps + k] * p->w->conv_norm[c + i];
}

/* What the convolution gives for channels [at, at + count) of a stream of a token; taps of those channels, `stride`
 * apart. */
static void convolve(const struct pass *p, const struct segment *g, size_t token, size_t stream, size_t at,
                     size_t count, const real *taps, size_t stride, real *restrict sum) {
    memset(sum, 0, count * sizeof(real));
    for (size_t k = 0; k < p->s->taps; k++) {
        if (token - g->begin < reach(p->s, k))
            continue;
        size_t from = token - reach(p->s, k);
        const real *restrict value = p->saved->value + from * p->s->dim + at, *restrict tap = taps + k * stride;
        real input = p->saved->gates[from * p->s->streams + stream].conv_input;
        for (size_t i = 0; i < count; i++)
            sum[i] += input * tap[i] * value[i];
    }
}

/* ------------------------------------------------------------------------------------------ forward */

static void add_bias(real *row, const real *bias, size_t count) {
    if (bias)
        lanes_axpy(row, 1, bias, count);
}

static struct engram_gate gate_of(const struct pass *p, size_t token, size_t stream, const real *both, real square) {
    const size_t dim = p->s->dim, at = token * wide(p) + stream * dim;
    const real *key = p->saved->key + at, *h = p->h + at;
    const real eps = (real)p->s->norm_eps, least = (real)LEAST_AGREEMENT;
    struct engram_gate g;
    g.key_inverse = 1 / r_sqrt(lanes_dot(key, key, dim) / (real)dim + eps);
    g.query_inverse = 1 / r_sqrt(lanes_dot(h, h, dim) / (real)dim + eps);
    g.agreement = lanes_dot3(key, h, both, dim) * g.key_inverse * g.query_inverse / r_sqrt((real)dim);
    real size = r_fabs(g.agreement), root = r_sqrt(size > least ? size : least);
    g.gate = lanes_sigmoid(g.agreement > 0 ? root : g.agreement < 0 ? -root : g.agreement); /* NaN stays */
    g.conv_input = g.gate / r_sqrt(g.gate * g.gate * square + (real)p->s->conv_eps);
    return g;
}

/* Products of both norms' weights: [H D]. */
static const real *both_norms(const struct pass *p, real *memory) {
    for (size_t c = 0; c < wide(p); c++)
        memory[c] = p->w->key_norm[c] * p->w->query_norm[c];
    return memory;
}

static void gate_block(void *context, uint32_t worker, size_t item) {
    const struct pass *p = context;
    const size_t dim = p->s->dim, streams = p->s->streams, end = min_u64(p->s->tokens, (item + 1) * BLOCK);
    real *memory = team_scratch(p->team, worker, wide(p) * sizeof(real));
    if (!memory)
        return;
    const real *both = both_norms(p, memory);
    for (size_t t = item * BLOCK; t < end; t++) {
        real *value = p->saved->value + t * dim;
        add_bias(value, p->w->value_bias, dim);
        add_bias(p->saved->key + t * wide(p), p->w->key_bias, wide(p));
        real square = lanes_dot(value, value, dim) / (real)dim;
        for (size_t j = 0; j < streams; j++)
            p->saved->gates[t * streams + j] = gate_of(p, t, j, both + j * dim, square);
    }
}

static void join_block(void *context, uint32_t worker, size_t item) {
    const struct pass *p = context;
    const size_t dim = p->s->dim, streams = p->s->streams, end = min_u64(p->s->tokens, (item + 1) * BLOCK);
    real *taps = team_scratch(p->team, worker, (p->s->taps * wide(p) + dim) * sizeof(real));
    if (!taps)
        return;
    real *restrict conv = taps + p->s->taps * wide(p);
    turn_taps(p, 0, wide(p), taps);
    for (size_t t = item * BLOCK; t < end; t++)
        for (size_t j = 0; j < streams; j++) {
            const real *restrict h = p->h + (t * streams + j) * dim, *restrict value = p->saved->value + t * dim;
            real *restrict out = p->out + (t * streams + j) * dim, gate = p->saved->gates[t * streams + j].gate;
            convolve(p, segment_of(p->s, t), t, j, 0, dim, taps + j * dim, wide(p), conv);
            for (size_t i = 0; i < dim; i++)
                out[i] = h[i] + gate * value[i] + conv[i] * lanes_sigmoid(conv[i]);
        }
}

void REAL(engram_forward)(struct team *team, const struct engram_sizes *s, const real *h, const real *e,
                          const struct engram_weights *w, real *out, const struct engram_saved *saved) {
    struct pass p = {.team = team, .s = s, .h = h, .w = w, .saved = saved, .out = out};
    REAL(gemm)(team, GEMM_BT, s->tokens, wide(&p), s->inputs, e, w->keys, saved->key);
    REAL(gemm)(team, GEMM_BT, s->tokens, s->dim, s->inputs, e, w->value, saved->value);
    team_each(team, ceil_div(s->tokens, BLOCK), gate_block, &p);
    team_each(team, ceil_div(s->tokens, BLOCK), join_block, &p);
}

/* ------------------------------------------------------------- backward: the convolution, by channels */

/* An item is CHANNELS channels of a stream. */
struct channels {
    size_t stream, at, count; /* channels [at, at + count) of it */
    size_t first;             /* of all streams' channels */
};

static size_t channel_items(size_t dim) {
    return ceil_div(dim, CHANNELS);
}

static struct channels channels_of(const struct pass *p, size_t item) {
    size_t items = channel_items(p->s->dim), at = item % items * CHANNELS;
    return (struct channels){.stream = item / items,
                             .at = at,
                             .count = min_u64(CHANNELS, p->s->dim - at),
                             .first = item / items * p->s->dim + at};
}

/* dconv of a token's channels from dout; conv: what the convolution gave. */
static void conv_slopes(const struct pass *p, const struct channels *c, size_t token, const real *restrict conv) {
    const real *restrict dout = p->dout + token * wide(p) + c->first;
    real *restrict dconv = p->dconv + token * wide(p) + c->first;
    for (size_t i = 0; i < c->count; i++) {
        real sigmoid = lanes_sigmoid(conv[i]);
        dconv[i] = dout[i] * sigmoid * (1 + conv[i] * (1 - sigmoid));
    }
}

/* sums [taps, count] += dconv times what each tap saw, without the norm's weights. */
static void add_taps(const struct pass *p, const struct channels *c, const struct segment *g, size_t token,
                     real *sums) {
    const real *restrict dconv = p->dconv + token * wide(p) + c->first;
    for (size_t k = 0; k < p->s->taps; k++) {
        if (token - g->begin < reach(p->s, k))
            continue;
        size_t from = token - reach(p->s, k);
        const real *restrict value = p->saved->value + from * p->s->dim + c->at;
        real *restrict sum = sums + k * c->count, input = p->saved->gates[from * p->s->streams + c->stream].conv_input;
        for (size_t i = 0; i < c->count; i++)
            sum[i] += dconv[i] * input * value[i];
    }
}

static void conv_channels(void *context, uint32_t worker, size_t item) {
    const struct pass *p = context;
    const struct channels c = channels_of(p, item);
    const size_t numbers = p->s->taps * c.count;
    real *taps = team_scratch(p->team, worker, 2 * numbers * sizeof(real)), conv[CHANNELS];
    if (!taps)
        return;
    real *sums = taps + numbers;
    turn_taps(p, c.first, c.count, taps);
    memset(sums, 0, numbers * sizeof(real));
    for (size_t i = 0; i < p->s->segment_count; i++) {
        const struct segment *g = &p->s->segments[i];
        for (size_t t = g->begin; t < g->begin + g->length; t++) {
            convolve(p, g, t, c.stream, c.at, c.count, taps, c.count, conv);
            conv_slopes(p, &c, t, conv);
            add_taps(p, &c, g, t, sums);
        }
    }
    for (size_t i = 0; i < c.count; i++)
        for (size_t k = 0; k < p->s->taps; k++) {
            size_t weight = (c.first + i) * p->s->taps + k;
            if (p->g->conv)
                p->g->conv[weight] += p->w->conv_norm[c.first + i] * sums[k * c.count + i];
            if (p->g->conv_norm)
                p->g->conv_norm[c.first + i] += p->w->conv[weight] * sums[k * c.count + i];
        }
}

/* --------------------------------------------------------------------- backward: the gates, by tokens */

/* Gradient of conv_input value, from the tokens behind that looked back on it. */
static void conv_back(const struct pass *p, const struct segment *g, size_t token, size_t stream, const real *taps,
                      real *restrict d) {
    const size_t dim = p->s->dim;
    memset(d, 0, dim * sizeof(real));
    for (size_t k = 0; k < p->s->taps; k++) {
        size_t to = token + reach(p->s, k);
        if (to >= (size_t)g->begin + g->length)
            continue;
        const real *restrict dconv = p->dconv + to * wide(p) + stream * dim, *restrict tap = taps + k * wide(p);
        for (size_t i = 0; i < dim; i++)
            d[i] += tap[i] * dconv[i];
    }
}

/* To the value of a token, from one stream; returns the gradient of the agreement. d: of conv_input value. */
static real value_back(const struct pass *p, size_t token, size_t stream, real square, const real *restrict d) {
    const size_t dim = p->s->dim;
    const struct engram_gate *g = &p->saved->gates[token * p->s->streams + stream];
    const real *restrict value = p->saved->value + token * dim;
    const real *restrict dout = p->dout + token * wide(p) + stream * dim;
    real *restrict dvalue = p->dvalue + token * dim;
    real eps = (real)p->s->conv_eps, inverse = 1 / r_sqrt(g->gate * g->gate * square + eps);
    real dinput = lanes_dot(d, value, dim), ratio = g->conv_input;
    real dgate = lanes_dot(dout, value, dim) + dinput * eps * inverse * inverse * inverse;
    real along = -dinput * ratio * ratio * ratio / (real)dim; /* through mean(value^2) */
    for (size_t i = 0; i < dim; i++)
        dvalue[i] += g->conv_input * d[i] + g->gate * dout[i] + along * value[i];
    real size = r_fabs(g->agreement);
    if (size <= (real)LEAST_AGREEMENT)
        return 0;
    return dgate * g->gate * (1 - g->gate) / (2 * r_sqrt(size));
}

/* To the key and the stream of a token. */
static void agreement_back(const struct pass *p, size_t token, size_t stream, real dagreement,
                           const real *restrict both) {
    const size_t dim = p->s->dim, at = token * wide(p) + stream * dim;
    const struct engram_gate *g = &p->saved->gates[token * p->s->streams + stream];
    const real *restrict key = p->saved->key + at, *restrict h = p->h + at, *restrict dout = p->dout + at;
    real *restrict dkey = p->dkey + at, *restrict dh = p->dh ? p->dh + at : NULL;
    real slope = dagreement * g->key_inverse * g->query_inverse / r_sqrt((real)dim);
    real along = dagreement * g->agreement / (real)dim;
    real along_key = along * g->key_inverse * g->key_inverse, along_h = along * g->query_inverse * g->query_inverse;
    p->slopes[token * p->s->streams + stream] = slope;
    for (size_t i = 0; i < dim; i++)
        dkey[i] = slope * both[i] * h[i] - along_key * key[i];
    for (size_t i = 0; dh && i < dim; i++)
        dh[i] += dout[i] + slope * both[i] * key[i] - along_h * h[i];
}

static void gate_block_back(void *context, uint32_t worker, size_t item) {
    const struct pass *p = context;
    const size_t dim = p->s->dim, end = min_u64(p->s->tokens, (item + 1) * BLOCK);
    real *taps = team_scratch(p->team, worker, ((p->s->taps + 1) * wide(p) + dim) * sizeof(real));
    if (!taps)
        return;
    real *norms = taps + p->s->taps * wide(p), *d = norms + wide(p);
    const real *both = both_norms(p, norms);
    turn_taps(p, 0, wide(p), taps);
    for (size_t t = item * BLOCK; t < end; t++) {
        const real *value = p->saved->value + t * dim;
        real square = lanes_dot(value, value, dim) / (real)dim;
        memset(p->dvalue + t * dim, 0, dim * sizeof(real));
        for (size_t j = 0; j < p->s->streams; j++) {
            conv_back(p, segment_of(p->s, t), t, j, taps + j * dim, d);
            agreement_back(p, t, j, value_back(p, t, j, square, d), both + j * dim);
        }
    }
}

/* --------------------------------------------------------- backward: norms and biases, by channels */

static void norm_channels(void *context, uint32_t worker, size_t item) {
    const struct pass *p = context;
    const struct channels c = channels_of(p, item);
    real both[CHANNELS] = {0}, bias[CHANNELS] = {0};
    (void)worker;
    for (size_t t = 0; t < p->s->tokens; t++) {
        const size_t at = t * wide(p) + c.first;
        const real *restrict h = p->h + at, *restrict key = p->saved->key + at, *restrict dkey = p->dkey + at;
        real slope = p->slopes[t * p->s->streams + c.stream];
        for (size_t i = 0; i < c.count; i++) {
            both[i] += slope * h[i] * key[i];
            bias[i] += dkey[i];
        }
    }
    if (p->g->key_norm)
        for (size_t i = 0; i < c.count; i++)
            p->g->key_norm[c.first + i] += p->w->query_norm[c.first + i] * both[i];
    if (p->g->query_norm)
        for (size_t i = 0; i < c.count; i++)
            p->g->query_norm[c.first + i] += p->w->key_norm[c.first + i] * both[i];
    if (p->g->key_bias)
        lanes_axpy(p->g->key_bias + c.first, 1, bias, c.count);
}

static void value_channels(void *context, uint32_t worker, size_t item) {
    const struct pass *p = context;
    const struct channels c = channels_of(p, item); /* of the only "stream" there is */
    real bias[CHANNELS] = {0};
    (void)worker;
    for (size_t t = 0; t < p->s->tokens; t++)
        lanes_axpy(bias, 1, p->dvalue + t * p->s->dim + c.at, c.count);
    lanes_axpy(p->g->value_bias + c.at, 1, bias, c.count);
}

/* ----------------------------------------------------------------------------------- the way back */

static void project_back(const struct pass *p, const real *e, real *de) {
    const size_t tokens = p->s->tokens, inputs = p->s->inputs, dim = p->s->dim;
    if (de) {
        REAL(gemm)(p->team, GEMM_ADD, tokens, inputs, wide(p), p->dkey, p->w->keys, de);
        REAL(gemm)(p->team, GEMM_ADD, tokens, inputs, dim, p->dvalue, p->w->value, de);
    }
    if (p->g->keys)
        REAL(gemm)(p->team, GEMM_AT | GEMM_ADD, wide(p), inputs, tokens, p->dkey, e, p->g->keys);
    if (p->g->value)
        REAL(gemm)(p->team, GEMM_AT | GEMM_ADD, dim, inputs, tokens, p->dvalue, e, p->g->value);
}

void REAL(engram_backward)(struct team *team, const struct engram_sizes *s, const real *h, const real *e,
                           const struct engram_weights *w, const struct engram_saved *saved, const real *dout,
                           real *work, real *dh, real *de, const struct engram_gradients *g) {
    struct pass p = {.team = team, .s = s, .h = h, .w = w, .saved = saved, .dout = dout, .dh = dh, .g = g};
    p.dconv = work;
    p.dkey = p.dconv + s->tokens * wide(&p);
    p.dvalue = p.dkey + s->tokens * wide(&p);
    p.slopes = p.dvalue + (size_t)s->tokens * s->dim;
    team_each(team, s->streams * channel_items(s->dim), conv_channels, &p);
    team_each(team, ceil_div(s->tokens, BLOCK), gate_block_back, &p);
    team_each(team, s->streams * channel_items(s->dim), norm_channels, &p);
    if (g->value_bias)
        team_each(team, channel_items(s->dim), value_channels, &p);
    project_back(&p, e, de);
}
