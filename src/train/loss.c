/*
 * loss.c - embeddings, and the cross-entropy of the head.
 *
 * The loss takes tokens that have a target LOSS_CHUNK at a time: their rows of x are gathered, their logits made,
 * turned in place into gradients, and multiplied with the head and with x. So all logits are never there at once, and
 * tokens without a target cost nothing. dhead is summed chunk by chunk, whose bounds depend on the targets alone.
 */
#include "train/lanes_internal.h"
#include "train/loss_internal.h"

/* ------------------------------------------------------------------------------------ embeddings */

struct embedding {
    size_t tokens, dim, vocab;
    const int32_t *ids;
    const real *table, *dx;
    real *x, *dtable;
    const uint32_t *order, *begin; /* tokens by id, ascending; [V + 1] where an id's begin */
};

static void embed_rows(void *context, uint32_t worker, size_t item) {
    const struct embedding *p = context;
    size_t end = min_u64(p->tokens, (item + 1) * BLOCK);
    (void)worker;
    for (size_t t = item * BLOCK; t < end; t++)
        memcpy(p->x + t * p->dim, p->table + (size_t)p->ids[t] * p->dim, p->dim * sizeof(real));
}

void REAL(embed_forward)(struct team *team, size_t tokens, size_t dim, const int32_t *ids, const real *table, real *x) {
    struct embedding p = {.tokens = tokens, .dim = dim, .ids = ids, .table = table, .x = x};
    team_each(team, ceil_div(tokens, BLOCK), embed_rows, &p);
}

/* Counting sort of tokens by id, stable. */
static void sort_by_id(uint32_t tokens, uint32_t vocab, const int32_t *ids, uint32_t *order, uint32_t *begin) {
    memset(begin, 0, ((size_t)vocab + 1) * sizeof(*begin));
    for (uint32_t t = 0; t < tokens; t++)
        begin[ids[t] + 1]++;
    for (uint32_t v = 0; v < vocab; v++)
        begin[v + 1] += begin[v];
    for (uint32_t t = 0; t < tokens; t++)
        order[begin[ids[t]]++] = t;
    memmove(begin + 1, begin, vocab * sizeof(*begin)); /* where each ended is where the next began */
    begin[0] = 0;
}

KERNEL_CLONES static void add_ids(void *context, uint32_t worker, size_t item) {
    const struct embedding *p = context;
    size_t end = min_u64(p->vocab, (item + 1) * BLOCK);
    (void)worker;
    for (size_t id = item * BLOCK; id < end; id++) {
        real *restrict to = p->dtable + id * p->dim;
        for (uint32_t i = p->begin[id]; i < p->begin[id + 1]; i++) {
            const real *restrict from = p->dx + p->order[i] * p->dim;
            for (size_t j = 0; j < p->dim; j++)
                to[j] += from[j];
        }
    }
}

void REAL(embed_backward)(struct team *team, uint32_t tokens, uint32_t dim, uint32_t vocab, const int32_t *ids,
                          const real *dx, uint32_t *work, real *dtable) {
    struct embedding p = {.tokens = tokens,
                          .dim = dim,
                          .vocab = vocab,
                          .dx = dx,
                          .dtable = dtable,
                          .begin = work,
                          .order = work + vocab + 1};
    sort_by_id(tokens, vocab, ids, work + vocab + 1, work);
    team_each(team, ceil_div(vocab, BLOCK), add_ids, &p);
}

/* --------------------------------------------------------------------------------- cross-entropy */

struct chunk {
    const struct loss_shape *s;
    const real *x;
    const int32_t *targets;
    real scale;
    bool back;
    size_t count;               /* tokens of the chunk */
    uint32_t token[LOSS_CHUNK]; /* which they are */
    real losses[LOSS_CHUNK];
    real *in, *din, *logits; /* work: [LOSS_CHUNK, D], the same, [LOSS_CHUNK, V] */
    real *dx;
};

/* The next tokens from *at on that have a target, and their rows of x; false if there is none. */
static bool take_tokens(struct chunk *c, uint32_t *at) {
    size_t dim = c->s->dim;
    c->count = 0;
    for (; *at < c->s->tokens && c->count < LOSS_CHUNK; ++*at)
        if (c->targets[*at] >= 0) {
            memcpy(c->in + c->count * dim, c->x + *at * dim, dim * sizeof(real));
            c->token[c->count++] = *at;
        }
    return c->count > 0;
}

/* x becomes e^(x - top); returns the sum. */
static real exponentials(real *x, size_t n, real top) {
    real sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += x[i + j] = lanes_exp(x[i + j] - top);
    for (size_t j = 0; i + j < n; j++)
        sums[j] += x[i + j] = lanes_exp(x[i + j] - top);
    return lanes_total(sums);
}

/* The loss of a token of the chunk; its logits become their gradients. */
KERNEL_CLONES static void entropy_row(void *context, uint32_t worker, size_t item) {
    struct chunk *c = context;
    size_t n = c->s->vocab;
    real *x = c->logits + item * n, target = x[c->targets[c->token[item]]], top = lanes_largest(x, n, x[0]);
    real total = exponentials(x, n, top);
    (void)worker;
    c->losses[item] = r_log(total) + top - target;
    if (!c->back)
        return;
    real scale = c->scale / total;
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
    x[c->targets[c->token[item]]] -= c->scale;
}

/* dx of the chunk's tokens. */
KERNEL_CLONES static void add_row(void *context, uint32_t worker, size_t item) {
    const struct chunk *c = context;
    size_t dim = c->s->dim;
    const real *restrict from = c->din + item * dim;
    real *restrict to = c->dx + c->token[item] * dim;
    (void)worker;
    for (size_t j = 0; j < dim; j++)
        to[j] += from[j];
}

struct loss_sum REAL(loss)(struct team *team, const struct loss_shape *s, const real *x, const real *head,
                           const int32_t *targets, real scale, real *work, real *dx, real *dhead) {
    size_t dim = s->dim, vocab = s->vocab;
    struct loss_sum sum = {0};
    struct chunk c = {.s = s,
                      .x = x,
                      .targets = targets,
                      .scale = scale,
                      .back = dx || dhead,
                      .in = work,
                      .din = work + LOSS_CHUNK * dim,
                      .logits = work + 2 * LOSS_CHUNK * dim,
                      .dx = dx};
    uint32_t at = 0;
    while (take_tokens(&c, &at)) {
        REAL(gemm)(team, GEMM_BT, c.count, vocab, dim, c.in, head, c.logits);
        team_each(team, c.count, entropy_row, &c);
        if (dx) {
            REAL(gemm)(team, 0, c.count, dim, vocab, c.logits, head, c.din);
            team_each(team, c.count, add_row, &c);
        }
        if (dhead)
            REAL(gemm)(team, GEMM_AT | GEMM_ADD, vocab, dim, c.count, c.logits, c.in, dhead);
        for (size_t i = 0; i < c.count; i++)
            sum.loss += c.losses[i];
        sum.count += c.count;
    }
    return sum;
}
