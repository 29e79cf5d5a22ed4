/*
 * test_train_loss.c - embeddings and cross-entropy: gradients, the loss by its definition, tokens without a target,
 * float against double, numbers of workers.
 */
#define TRAIN_DOUBLE
#include "numbers.h"

#include "train/loss_internal.h"

#include "float_side.h"

#include "train/loss_internal.h"

static const double PRODUCTS = 2e-2; /* in float, products round their inputs to bf16 where that is faster */

static int32_t *random_ids(struct bag *bag, struct rng *r, uint32_t count, uint32_t vocab) {
    int32_t *ids = bag_take(bag, count, sizeof(*ids));
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (int32_t)(rng_u64(r) % vocab);
    return ids;
}

/* ------------------------------------------------------------------------------------ embeddings */

static void check_embedding(uint32_t tokens, uint32_t dim, uint32_t vocab, uint32_t workers) {
    struct bag bag = {0};
    struct rng r;
    struct team *team;
    size_t rows = (size_t)tokens * dim, table_size = (size_t)vocab * dim;
    rng_init(&r, tokens);
    CHECKED(team_open(workers, &team, &error));
    double *table = random_doubles(&bag, &r, table_size, 1), *dx = random_doubles(&bag, &r, rows, 1);
    double *x = doubles(&bag, rows), *dtable = ones(&bag, table_size), *expected = ones(&bag, table_size);
    int32_t *ids = random_ids(&bag, &r, tokens, vocab);
    embed_forward_f64(team, tokens, dim, ids, table, x);
    embed_backward_f64(team, tokens, dim, vocab, ids, dx, bag_take(&bag, embed_work(vocab, tokens), sizeof(uint32_t)),
                       dtable);
    for (size_t i = 0; i < rows; i++) { /* in the order of tokens, as each id's are */
        size_t at = (size_t)ids[i / dim] * dim + i % dim;
        assert_true(x[i] == table[at]);
        expected[at] += dx[i];
    }
    assert_memory_equal(dtable, expected, table_size * sizeof(*expected));
    team_close(team);
    bag_release(&bag);
}

static void test_embed__rows_and_their_gradients(void **state) {
    (void)state;
    for (uint32_t workers = 1; workers <= 3; workers++) {
        check_embedding(1, 3, 1, workers);
        check_embedding(200, 5, 7, workers);
        check_embedding(65, 4, 300, workers);
    }
}

/* --------------------------------------------------------------------------------- cross-entropy */

struct loss_case {
    struct team *team;
    struct loss_shape s;
    double *x, *head, *work, scale;
    int32_t *targets;
};

static double loss_of(void *context) {
    struct loss_case *c = context;
    return c->scale * loss_f64(c->team, &c->s, c->x, c->head, c->targets, 1, c->work, NULL, NULL).loss;
}

/* Every third token, and what `none` says, has no target. */
static void fill_case(struct bag *bag, struct rng *r, struct loss_case *c, bool none) {
    c->x = random_doubles(bag, r, (size_t)c->s.tokens * c->s.dim, 2);
    c->head = random_doubles(bag, r, (size_t)c->s.vocab * c->s.dim, 2);
    c->work = doubles(bag, loss_work(&c->s));
    c->targets = random_ids(bag, r, c->s.tokens, c->s.vocab);
    for (uint32_t t = 0; t < c->s.tokens; t++)
        if (none || t % 3 == 2)
            c->targets[t] = -1;
}

static void check_case(struct loss_shape s, bool none, uint64_t seed) {
    struct bag bag = {0};
    struct rng r;
    struct loss_case c = {.s = s, .scale = 0.3};
    size_t xs = (size_t)s.tokens * s.dim, heads = (size_t)s.vocab * s.dim;
    rng_init(&r, seed);
    CHECKED(team_open(2, &c.team, &error));
    fill_case(&bag, &r, &c, none);
    double *dx = ones(&bag, xs), *dhead = ones(&bag, heads);
    struct loss_sum sum = loss_f64(c.team, &s, c.x, c.head, c.targets, c.scale, c.work, dx, dhead);
    assert_true(sum.count == (none ? 0 : s.tokens - s.tokens / 3));
    assert_true(c.scale * sum.loss == loss_of(&c));
    take_ones(dx, xs);
    take_ones(dhead, heads);
    struct checked list[] = {{"x", c.x, dx, xs}, {"head", c.head, dhead, heads}};
    check_gradients(list, 2, loss_of, &c);
    team_close(c.team);
    bag_release(&bag);
}

static void test_loss__gradients(void **state) {
    static const struct loss_shape shapes[] = {{1, 3, 5}, {9, 4, 37}, {1600, 1, 2}, {30, 2, 65}, {5, 3, 1}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        check_case(shapes[i], false, 1 + i);
        check_case(shapes[i], false, 31 + i);
    }
    check_case(shapes[1], true, 3);
}

/* -log of the target's share, written out. */
static double plain_loss(const struct loss_case *c) {
    double loss = 0;
    for (size_t t = 0; t < c->s.tokens; t++) {
        double total = 0, target = 0;
        for (size_t v = 0; v < c->s.vocab; v++) {
            double logit = dot(c->x + t * c->s.dim, c->head + v * c->s.dim, c->s.dim);
            total += exp(logit);
            target = (int32_t)v == c->targets[t] ? logit : target;
        }
        loss += c->targets[t] < 0 ? 0 : log(total) - target;
    }
    return loss;
}

enum { T = 1700, D = 24, V = 333 }; /* more than one chunk of tokens with a target */

struct result {
    struct loss_sum sum;
    float *dx, *dhead;
};

static struct result run_float(struct bag *bag, uint32_t workers, const struct loss_case *c) {
    struct result o = {.dx = floats(bag, T * D), .dhead = floats(bag, V * D)};
    struct team *team;
    CHECKED(team_open(workers, &team, &error));
    o.sum = loss_f32(team, &c->s, float_copy(bag, c->x, T * D), float_copy(bag, c->head, V * D), c->targets,
                     (float)c->scale, floats(bag, loss_work(&c->s)), o.dx, o.dhead);
    team_close(team);
    return o;
}

static void test_loss__same_in_both_types_and_with_any_workers(void **state) {
    struct bag bag = {0};
    struct rng r;
    struct loss_case c = {.s = {T, D, V}, .scale = 0.5};
    (void)state;
    rng_init(&r, 8);
    CHECKED(team_open(1, &c.team, &error));
    fill_case(&bag, &r, &c, false);
    double *dx = doubles(&bag, T * D), *dhead = doubles(&bag, V * D);
    struct loss_sum sum = loss_f64(c.team, &c.s, c.x, c.head, c.targets, c.scale, c.work, dx, dhead);
    assert_true(fabs(sum.loss - plain_loss(&c)) < 1e-9 * sum.loss);
    struct result one = run_float(&bag, 1, &c);
    assert_true(one.sum.count == sum.count && fabs(one.sum.loss - sum.loss) < 1e-3 * sum.loss);
    check_near_float("dx", one.dx, dx, T * D, PRODUCTS);
    check_near_float("dhead", one.dhead, dhead, V * D, PRODUCTS);
    for (uint32_t workers = 2; workers <= 3; workers++) {
        struct result other = run_float(&bag, workers, &c);
        assert_true(other.sum.loss == one.sum.loss);
        check_same("dx", other.dx, one.dx, T * D);
        check_same("dhead", other.dhead, one.dhead, V * D);
    }
    team_close(c.team);
    bag_release(&bag);
}

/* Logits of hundreds: nothing overflows, and a sure token costs nothing. */
static void test_loss__large_logits(void **state) {
    struct bag bag = {0};
    struct loss_shape s = {2, 1, 3};
    float x[2] = {100, 100}, head[3] = {5, -5, 0}, dx[2] = {0}, dhead[3] = {0};
    int32_t targets[2] = {0, 1};
    struct team *team;
    (void)state;
    CHECKED(team_open(1, &team, &error));
    float *work = floats(&bag, loss_work(&s));
    struct loss_sum sum = loss_f32(team, &s, x, head, targets, 1, work, dx, dhead);
    assert_true(fabs(sum.loss - 1000) < 1e-3 && dx[0] == 0 && fabsf(dx[1] - 10) < 1e-4f);
    assert_true(fabsf(dhead[0] - 100) < 1e-3f && fabsf(dhead[1] + 100) < 1e-3f && dhead[2] == 0);
    team_close(team);
    bag_release(&bag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed__rows_and_their_gradients),
        cmocka_unit_test(test_loss__gradients),
        cmocka_unit_test(test_loss__same_in_both_types_and_with_any_workers),
        cmocka_unit_test(test_loss__large_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
