/*
 * sampling.c - from logits to a token.
 *
 * Penalties, temperature, top-k, top-p, min-p, then one draw. Where nothing cuts, tokens are walked from the highest id
 * down. Where something does, candidates come off a heap, best first and ties by id, only until the cut: the head of a
 * large vocabulary is never sorted whole. Either way the same seed gives the same text wherever the same logits
 * come, and nothing is allocated.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"

struct candidate {
    float logit;
    int32_t id;
    double weight;
};

struct sonde_sampler {
    struct sonde_sampling sampling;
    struct sonde_bias *bias; /* the sampler's own */
    uint32_t vocab;
    struct rng rng;
    float *logits;                /* [V] after penalties */
    struct candidate *candidates; /* [V] */
    uint32_t *generated;          /* [V] times drawn */
    uint8_t *seen;                /* [V] in the prompt or drawn */
};

void sonde_sampling_default(struct sonde_sampling *sampling) {
    *sampling = (struct sonde_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

int sampling_check(const struct sonde_sampling *s, struct sonde_error *e) {
    const struct {
        const char *name;
        float value;
        bool good;
        const char *expected;
    } fields[] = {
        {"temperature", s->temperature, s->temperature >= 0 && isfinite(s->temperature), "0 or more"},
        {"top_p", s->top_p, s->top_p > 0 && s->top_p <= 1, "more than 0, at most 1"},
        {"min_p", s->min_p, s->min_p >= 0 && s->min_p <= 1, "0 to 1"},
        {"repetition_penalty", s->repetition_penalty, s->repetition_penalty > 0 && isfinite(s->repetition_penalty),
         "more than 0"},
        {"presence_penalty", s->presence_penalty, isfinite(s->presence_penalty), "a finite number"},
        {"frequency_penalty", s->frequency_penalty, isfinite(s->frequency_penalty), "a finite number"},
    };
    for (size_t i = 0; i < COUNT_OF(fields); i++)
        if (!fields[i].good)
            return err_set(e, SONDE_ERROR_ARGUMENT, "%s is %g, expected %s", fields[i].name, (double)fields[i].value,
                           fields[i].expected);
    for (size_t i = 0; i < s->bias_count; i++)
        if (!isfinite(s->bias[i].value))
            return err_set(e, SONDE_ERROR_ARGUMENT, "the bias of token %d is %g, expected a finite number",
                           (int)s->bias[i].id, (double)s->bias[i].value);
    return SONDE_OK;
}

int sonde_sampler_open(const struct sonde_sampling *sampling, uint32_t vocab, sonde_sampler **sampler,
                       struct sonde_error *error) {
    int rc = sampling_check(sampling, error);
    if (rc)
        return rc;
    if (vocab == 0)
        return err_set(error, SONDE_ERROR_ARGUMENT, "a vocabulary of 0 tokens");
    sonde_sampler *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(error);
    s->sampling = *sampling;
    s->vocab = vocab;
    rng_init(&s->rng, sampling->seed);
    s->logits = calloc(vocab, sizeof(*s->logits));
    s->candidates = calloc(vocab, sizeof(*s->candidates));
    s->generated = calloc(vocab, sizeof(*s->generated));
    s->seen = calloc(vocab, sizeof(*s->seen));
    s->bias = calloc(sampling->bias_count + 1, sizeof(*s->bias));
    if (!s->logits || !s->candidates || !s->generated || !s->seen || !s->bias) {
        sonde_sampler_close(s);
        return err_memory(error);
    }
    if (sampling->bias_count)
        memcpy(s->bias, sampling->bias, sampling->bias_count * sizeof(*s->bias));
    s->sampling.bias = s->bias;
    *sampler = s;
    return SONDE_OK;
}

void sonde_sampler_close(sonde_sampler *sampler) {
    if (!sampler)
        return;
    free(sampler->logits);
    free(sampler->candidates);
    free(sampler->generated);
    free(sampler->seen);
    free(sampler->bias);
    free(sampler);
}

void sonde_sampler_prompt(sonde_sampler *sampler, int32_t id) {
    if (id >= 0 && (uint32_t)id < sampler->vocab)
        sampler->seen[id] = 1;
}

static void penalise(sonde_sampler *s) {
    const struct sonde_sampling *p = &s->sampling;
    for (size_t i = 0; i < p->bias_count; i++)
        if (p->bias[i].id >= 0 && (uint32_t)p->bias[i].id < s->vocab)
            s->logits[p->bias[i].id] += p->bias[i].value;
    for (uint32_t i = 0; i < s->vocab; i++) {
        float *logit = &s->logits[i];
        if (s->seen[i])
            *logit = *logit > 0 ? *logit / p->repetition_penalty : *logit * p->repetition_penalty;
        if (s->generated[i])
            *logit -= p->presence_penalty + p->frequency_penalty * (float)s->generated[i];
    }
}

/* The largest logit, the lowest id among equals; NaN only where there is nothing else. */
static int32_t greedy(const float *logits, uint32_t vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = i;
    return (int32_t)best;
}

/* Before: a is drawn before b would be. */
static bool before(const struct candidate *a, const struct candidate *b) {
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

/* Restores the heap below place i: no candidate comes before its parent. */
static void sift(struct candidate *c, uint32_t n, uint32_t i) {
    struct candidate moved = c[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&c[child + 1], &c[child]))
            child++;
        if (!before(&c[child], &moved))
            break;
        c[i] = c[child];
    }
    c[i] = moved;
}

/* All tokens with their weights relative to the best (weight 1), NaN as good as impossible; their total. */
static double weigh(sonde_sampler *s) {
    float best = s->logits[greedy(s->logits, s->vocab)];
    double total = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        float logit = isnan(s->logits[i]) ? -INFINITY : s->logits[i];
        double weight = logit == best ? 1
                        : isinf(logit) || isinf(best)
                            ? 0
                            : exp(((double)logit - (double)best) / (double)s->sampling.temperature);
        s->candidates[i] = (struct candidate){logit, (int32_t)i, weight};
        total += weight;
    }
    return total;
}

/* Takes candidates off a heap, best first, while the options keep them: they end up, worst first, behind the rest.
 * Returns how many. `total`: weight of all. */
static uint32_t keep(sonde_sampler *s, double total) {
    const struct sonde_sampling *p = &s->sampling;
    struct candidate *c = s->candidates;
    uint32_t limit = p->top_k && p->top_k < s->vocab ? p->top_k : s->vocab, kept = 0, n = s->vocab;
    double sum = 0;
    for (uint32_t i = n / 2; i-- > 0;)
        sift(c, n, i);
    while (kept < limit &&
           (p->top_k || (sum < (double)p->top_p * total && (!kept || c[0].weight >= (double)p->min_p)))) {
        struct candidate best = c[0];
        sum += best.weight;
        c[0] = c[--n];
        sift(c, n, 0);
        c[n] = best;
        kept++;
    }
    if (!p->top_k)
        return kept;
    double goal = p->top_p < 1 ? (double)p->top_p * sum : INFINITY; /* of what top_k left */
    uint32_t cut = 0;
    for (sum = 0; cut < kept; cut++) {
        double weight = c[s->vocab - 1 - cut].weight;
        if (cut && (sum >= goal || weight < (double)p->min_p))
            break;
        sum += weight;
    }
    return cut;
}

static int32_t draw(sonde_sampler *s) {
    const struct sonde_sampling *p = &s->sampling;
    double total = weigh(s), sum = 0, goal;
    bool all = !p->top_k && p->top_p >= 1 && !(p->min_p > 0);
    uint32_t n = all ? s->vocab : keep(s, total), from = s->vocab - n;
    for (uint32_t i = s->vocab; !all && i-- > from;)
        sum += s->candidates[i].weight;
    goal = rng_unit(&s->rng) * (all ? total : sum);
    sum = 0;
    int32_t last = greedy(s->logits, s->vocab);
    for (uint32_t i = s->vocab; i-- > from;) { /* best first where they are sorted */
        sum += s->candidates[i].weight;
        if (s->candidates[i].weight > 0)
            last = s->candidates[i].id;
        if (sum > goal)
            return last;
    }
    return last;
}

static void forbid(sonde_sampler *s, const uint32_t *allowed) {
    for (uint32_t i = 0; i < s->vocab; i++)
        if (!(allowed[i / 32] >> i % 32 & 1))
            s->logits[i] = -INFINITY;
}

int32_t sampler_draw_among(sonde_sampler *sampler, const float *logits, const uint32_t *allowed) {
    memcpy(sampler->logits, logits, sampler->vocab * sizeof(*logits));
    penalise(sampler);
    if (allowed)
        forbid(sampler, allowed);
    int32_t id = sampler->sampling.temperature > 0 ? draw(sampler) : greedy(sampler->logits, sampler->vocab);
    sampler->seen[id] = 1;
    sampler->generated[id]++;
    return id;
}

int32_t sonde_sampler_draw(sonde_sampler *sampler, const float *logits) {
    return sampler_draw_among(sampler, logits, NULL);
}

/* ----------------------------------------------------------------------------------- probabilities */

/* Puts a token where it belongs among the `count` best so far, if it does. */
static void rank(struct sonde_logprob *top, uint32_t count, int32_t id, float logit) {
    if (!count || !(logit > top[count - 1].logprob))
        return;
    uint32_t at = count - 1;
    for (; at > 0 && logit > top[at - 1].logprob; at--)
        top[at] = top[at - 1];
    top[at] = (struct sonde_logprob){id, logit};
}

void sonde_logprobs(const float *logits, uint32_t vocab, int32_t id, float *own, struct sonde_logprob *top,
                    uint32_t count) {
    float best = logits[greedy(logits, vocab)];
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        top[i] = (struct sonde_logprob){-1, -INFINITY};
    for (uint32_t i = 0; i < vocab; i++) {
        if (!isnan(logits[i]))
            sum += exp((double)logits[i] - (double)best);
        rank(top, count, (int32_t)i, logits[i]);
    }
    double base = (double)best + (sum > 0 ? log(sum) : 0); /* nothing but NaN has no sum */
    *own = (float)((double)logits[id] - base);
    for (uint32_t i = 0; i < count; i++)
        top[i].logprob = (float)((double)top[i].logprob - base);
}
