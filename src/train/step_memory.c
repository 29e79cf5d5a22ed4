/*
 * step_memory.c - all memory of a step: one piece, laid out by functions that are run twice, once over an arena that
 * only counts, and the lists of rows that Engram reads.
 */
#include <stdlib.h>

#include "train/step_internal.h"

#define NUMBERS(a, count) arena_take(a, (count), sizeof(real))

static void lay_places(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(places) * p) {
    size_t half = n->shape.rope_dim / 2;
    p->positions = arena_take(a, tokens, sizeof(uint32_t));
    for (int i = 0; i < 2; i++) {
        p->turns[i] = NUMBERS(a, tokens * half * 2);
        p->entry_turns[i] = NUMBERS(a, tokens * half * 2);
        p->begins[i] = arena_take(a, (size_t)tokens + 1, sizeof(uint32_t));
    }
    p->entry_places = arena_take(a, tokens, sizeof(uint32_t));
}

static void lay_compressed(struct arena *a, const struct REAL(compressor) * k, uint32_t tokens,
                           struct REAL(compressed) * c) {
    size_t width = compress_width(k->ratio, k->dim), entries = tokens / k->ratio;
    c->kv = NUMBERS(a, tokens * width);
    c->score = NUMBERS(a, tokens * width);
    c->pooled = NUMBERS(a, entries * k->dim);
    c->entry = NUMBERS(a, entries * k->dim);
    c->inverse = NUMBERS(a, entries);
}

static void lay_attention(struct arena *a, const struct REAL(net) * n, const struct REAL(layer) * l, uint32_t tokens,
                          struct REAL(attention_saved) * s) {
    const struct shape *h = &n->shape;
    size_t t = tokens, nc = (size_t)h->heads * h->head_dim;
    s->q_low = NUMBERS(a, t * h->q_rank);
    s->q_low_inverse = NUMBERS(a, t);
    s->q_latent = NUMBERS(a, t * h->q_rank);
    s->q_raw = NUMBERS(a, t * nc);
    s->q_inverse = NUMBERS(a, t * h->heads);
    s->q = NUMBERS(a, t * nc);
    s->kv_raw = NUMBERS(a, t * h->head_dim);
    s->kv_inverse = NUMBERS(a, t);
    s->kv = NUMBERS(a, t * h->head_dim);
    if (l->ratio)
        lay_compressed(a, &l->entries, tokens, &s->entries);
    if (l->ratio == 4) {
        lay_compressed(a, &l->keys, tokens, &s->keys);
        s->index_q = NUMBERS(a, t * h->index_heads * h->index_dim);
        s->index_w = NUMBERS(a, t * h->index_heads);
        s->chosen = arena_take(a, t * h->index_topk, sizeof(uint32_t));
        s->counts = arena_take(a, t, sizeof(uint32_t));
    }
    s->out = NUMBERS(a, t * nc);
    s->log_sum = NUMBERS(a, t * h->heads);
    s->grouped = NUMBERS(a, t * nc);
    s->low = NUMBERS(a, t * h->o_groups * h->o_rank);
}

static void lay_hyper(struct arena *a, size_t tokens, size_t mixes, struct hyper_saved *s) {
    s->m = NUMBERS(a, tokens * mixes);
    s->mixes = NUMBERS(a, tokens * mixes);
    s->inverse = NUMBERS(a, tokens);
}

static void lay_recalled(struct arena *a, const struct REAL(net) * n, size_t tokens, struct REAL(recalled) * r) {
    const struct shape *h = &n->shape;
    size_t streams = tokens * h->streams;
    r->e = NUMBERS(a, tokens * (h->engram.orders - 1) * h->engram.width);
    r->pass.key = NUMBERS(a, streams * h->hidden);
    r->pass.value = NUMBERS(a, tokens * h->hidden);
    r->pass.gates = arena_take(a, streams, sizeof(*r->pass.gates));
    r->h = NUMBERS(a, streams * h->hidden);
}

static void lay_layer(struct arena *a, const struct REAL(net) * n, const struct REAL(layer) * l, uint32_t tokens,
                      struct REAL(layer_saved) * s) {
    const struct shape *h = &n->shape;
    size_t t = tokens, mixes = (2 + (size_t)h->streams) * h->streams, shared = (size_t)h->inter * h->shared_experts;
    if (l->engram)
        lay_recalled(a, n, t, &s->engram);
    lay_hyper(a, t, mixes, &s->hyper_attn);
    lay_hyper(a, t, mixes, &s->hyper_ffn);
    real **const td[] = {&s->attn_x, &s->attn_in, &s->attn_out, &s->ffn_x, &s->ffn_in, &s->ffn_out};
    for (size_t i = 0; i < COUNT_OF(td); i++)
        *td[i] = NUMBERS(a, t * h->hidden);
    s->attn_inverse = NUMBERS(a, t);
    s->ffn_inverse = NUMBERS(a, t);
    s->h = NUMBERS(a, t * h->streams * h->hidden);
    lay_attention(a, n, l, tokens, &s->attention);
    s->logits = NUMBERS(a, t * h->experts);
    s->weights = NUMBERS(a, t * h->active);
    s->experts = arena_take(a, t * h->active, sizeof(int32_t));
    s->mixture.order = arena_take(a, t * h->active, sizeof(uint32_t));
    s->mixture.begin = arena_take(a, (size_t)h->experts + 1, sizeof(uint32_t));
    s->mixture.gate = NUMBERS(a, t * h->active * h->inter);
    s->mixture.up = NUMBERS(a, t * h->active * h->inter);
    s->mixture.shared_gate = NUMBERS(a, t * shared);
    s->mixture.shared_up = NUMBERS(a, t * shared);
}

static void lay_work(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(work) * w) {
    const struct shape *h = &n->shape;
    size_t t = tokens, groups = (size_t)h->o_groups * h->o_rank, nc = (size_t)h->heads * h->head_dim;
    size_t dim = max_u64(h->head_dim, h->index_dim);
    struct route_shape rs = {.tokens = tokens, .experts = h->experts};
    struct experts_shape xs = {
        .tokens = tokens, .dim = h->hidden, .inter = h->inter, .shared_inter = h->inter * h->shared_experts};
    struct loss_shape ls = {tokens, h->hidden, h->vocab};
    struct engram_sizes es = {.tokens = tokens, .streams = h->streams, .dim = h->hidden};
    struct mtp_shape ms = {.streams = h->streams, .dim = h->hidden};
    w->thd = NUMBERS(a, t * h->streams * h->hidden);
    w->thd2 = NUMBERS(a, t * h->streams * h->hidden);
    for (size_t i = 0; i < COUNT_OF(w->td); i++)
        w->td[i] = NUMBERS(a, t * h->hidden);
    w->mixes = NUMBERS(a, t * (2 + (size_t)h->streams) * h->streams);
    for (size_t i = 0; i < COUNT_OF(w->tnc); i++)
        w->tnc[i] = NUMBERS(a, t * max_u64(nc, groups));
    for (size_t i = 0; i < 2; i++) {
        w->tc[i] = NUMBERS(a, t * h->head_dim);
        w->tr[i] = NUMBERS(a, t * h->q_rank);
        w->entry[i] = NUMBERS(a, t * dim);
        w->wide[i] = NUMBERS(a, t * 2 * dim);
    }
    w->low = NUMBERS(a, t * groups);
    w->delta = NUMBERS(a, t * h->heads);
    w->shares = NUMBERS(a, t * (t / 4 + 1));
    w->losses = NUMBERS(a, t);
    w->index_q = NUMBERS(a, t * h->index_heads * h->index_dim);
    w->index_w = NUMBERS(a, t * h->index_heads);
    w->logits = NUMBERS(a, t * h->experts);
    w->weights = NUMBERS(a, t * h->active);
    w->balance = NUMBERS(a, route_balance_work(&rs, tokens));
    w->experts = NUMBERS(a, experts_work(&xs));
    w->loss = NUMBERS(a, loss_work(&ls));
    w->embed = arena_take(a, embed_work(h->vocab, tokens), sizeof(uint32_t));
    w->engram = NUMBERS(a, h->engram.count ? engram_work(&es) : 0);
    w->mtp = NUMBERS(a, h->mtp_blocks ? mtp_work(&ms, tokens) : 0);
}

static void lay_ending(struct arena *a, const struct REAL(net) * n, size_t tokens, struct REAL(ending_saved) * s) {
    lay_hyper(a, tokens, n->shape.streams, &s->mixes);
    s->x = NUMBERS(a, tokens * n->shape.hidden);
    s->inverse = NUMBERS(a, tokens);
    s->in = NUMBERS(a, tokens * n->shape.hidden);
}

/* Beside its block. A segment has two tokens at least, or no pairs. */
static void lay_predicted(struct arena *a, const struct REAL(net) * n, uint32_t tokens, struct REAL(predicted) * p) {
    size_t t = tokens, streams = n->shape.streams, td = t * n->shape.hidden;
    p->pairs.ids = arena_take(a, t, sizeof(int32_t));
    p->pairs.targets = arena_take(a, t, sizeof(int32_t));
    p->pairs.segments = arena_take(a, t / 2 + 1, sizeof(struct segment));
    p->pairs.from = arena_take(a, t / 2 + 1, sizeof(uint32_t));
    lay_places(a, n, tokens, &p->places);
    p->embedded = NUMBERS(a, td);
    p->saved.e = NUMBERS(a, td);
    p->saved.e_inverse = NUMBERS(a, t);
    p->saved.h = NUMBERS(a, td * streams);
    p->saved.h_inverse = NUMBERS(a, t * streams);
    p->entered = NUMBERS(a, td * streams);
    p->left = NUMBERS(a, td * streams);
    lay_ending(a, n, t, &p->ending);
}

/* What layers save: behind each other, or all at one place. */
static void lay_saved(struct arena *a, const struct REAL(net) * n, struct REAL(step) * s) {
    size_t begin = a->used, end = begin;
    for (uint32_t i = 0; i < REAL(net_blocks)(n); i++) {
        struct REAL(layer_saved) counted;
        if (s->recompute)
            a->used = begin;
        if (s->saved)
            s->saved[i] = (struct REAL(layer_saved)){0};
        lay_layer(a, n, &n->layers[i], s->tokens, s->saved ? &s->saved[i] : &counted);
        end = max_u64(end, a->used);
    }
    a->used = end;
}

/* Slots of an Engram layer's table in all batches that are run backward. */
static size_t slots_of(const struct REAL(net) * n, size_t tokens, size_t batches) {
    const struct engram_shape *s = &n->shape.engram;
    return s->count ? batches * tokens * (s->orders - 1) * s->heads : 0;
}

static void lay_tables(struct arena *a, const struct REAL(net) * n, struct REAL(step) * s) {
    const struct shape *h = &n->shape;
    s->table_count = h->engram.count;
    s->recalls = arena_take(a, s->table_count, sizeof(*s->recalls));
    s->reads = arena_take(a, s->table_count, sizeof(*s->reads));
    s->tables = arena_take(a, s->table_count, sizeof(*s->tables));
    for (uint32_t i = 0; i < s->table_count; i++) {
        size_t count = slots_of(n, s->tokens, s->batches) * n->engram[i].table->cols;
        real *de = NUMBERS(a, count), *gradient = NUMBERS(a, count);
        if (!s->reads)
            continue;
        s->reads[i] = (struct REAL(table_reads)){.de = de, .gradient = gradient};
        s->tables[i] = (struct REAL(table_gradient)){.param = n->engram[i].table, .gradient = gradient};
    }
}

static void lay_step(struct arena *a, const struct REAL(net) * n, struct REAL(step) * s) {
    const struct shape *h = &n->shape;
    size_t t = s->tokens, blocks = REAL(net_blocks)(n);
    s->saved = arena_take(a, blocks, sizeof(*s->saved));
    s->entered = arena_take(a, (size_t)h->layers + 1, sizeof(*s->entered));
    s->experts = arena_take(a, blocks, sizeof(*s->experts));
    lay_places(a, n, s->tokens, &s->places);
    lay_work(a, n, s->tokens, &s->work);
    for (uint32_t i = 0; i <= h->layers; i++) {
        real *streams = NUMBERS(a, t * h->streams * h->hidden);
        if (s->entered)
            s->entered[i] = streams;
    }
    lay_ending(a, n, t, &s->ending);
    if (h->mtp_blocks)
        lay_predicted(a, n, s->tokens, &s->mtp);
    lay_tables(a, n, s);
    lay_saved(a, n, s);
    for (uint32_t i = 0; i < blocks; i++) {
        int32_t *experts = arena_take(a, t * h->active, sizeof(int32_t));
        if (s->experts)
            s->experts[i] = experts;
    }
}

/* Of the arena. */
static size_t placed_bytes(const struct REAL(net) * n, uint32_t tokens, uint32_t batches, bool recompute) {
    struct REAL(step) s = {.tokens = tokens, .batches = batches, .recompute = recompute};
    struct arena a = {0};
    lay_step(&a, n, &s);
    return ceil_div(a.used, 64) * 64 + 64;
}

size_t REAL(step_bytes)(const struct REAL(net) * n, uint32_t tokens, uint32_t batches, bool recompute) {
    size_t rows = n->shape.engram.count * engram_rows_bytes(slots_of(n, tokens, (size_t)batches + 1));
    return sizeof(struct REAL(step)) + placed_bytes(n, tokens, batches, recompute) + rows;
}

int REAL(step_new)(const struct REAL(net) * n, uint32_t tokens, uint32_t batches, bool recompute,
                   struct REAL(step) * *step, struct sonde_error *e) {
    struct REAL(step) *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    *s = (struct REAL(step)){.tokens = tokens, .batches = batches, .recompute = recompute};
    struct arena a = {.size = placed_bytes(n, tokens, batches, recompute)};
    a.base = s->memory = memory_large(a.size);
    int rc = s->memory ? SONDE_OK : err_memory(e);
    if (!rc)
        lay_step(&a, n, s);
    for (uint32_t i = 0; !rc && i < s->table_count; i++)
        rc = engram_rows_init(&s->reads[i].rows, slots_of(n, tokens, (size_t)batches + 1), e);
    if (rc)
        REAL(step_free)(s);
    else
        *step = s;
    return rc;
}

void REAL(step_free)(struct REAL(step) * s) {
    if (!s)
        return;
    for (uint32_t i = 0; i < s->table_count; i++)
        engram_rows_release(&s->reads[i].rows);
    free(s->memory);
    free(s);
}
