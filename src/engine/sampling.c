/*
 * sampling.c - from logits to a token.
 *
 * Penalties, temperature, top-k, top-p, min-p, then one draw. Candidates are sorted by logit with ties by id
 * so that the same seed gives the same text wherever the same logits come; the sort is of what top-k leaves,
 * and costs little beside the head that made the logits.
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
    if (!s->logits || !s->candidates || !s->generated || !s->seen) {
        sonde_sampler_close(s);
        return err_memory(error);
    }
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
    free(sampler);
}

void sonde_sampler_prompt(sonde_sampler *sampler, int32_t id) {
    if (id >= 0 && (uint32_t)id < sampler->vocab)
        sampler->seen[id] = 1;
}

static void penalise(sonde_sampler *s) {
    const struct sonde_sampling *p = &s->sampling;
    for (uint32_t i = 0; i < s->vocab; i++) {
        float *logit = &s->logits[i];
        if (s->seen[i])
            *logit = *logit > 0 ? *logit / p->repetition_penalty : *logit * p->repetition_penalty;
        if (s->generated[i])
            *logit -= p->presence_penalty + p->frequency_penalty * (float)s->generated[i];
    }
}

static int32_t greedy(const float *logits, uint32_t vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static int likelier(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Candidates sorted, cut to top_k, weighted relative to the best (weight 1). */
static uint32_t candidates(sonde_sampler *s) {
    for (uint32_t i = 0; i < s->vocab; i++)
        s->candidates[i] = (struct candidate){s->logits[i], (int32_t)i, 0};
    qsort(s->candidates, s->vocab, sizeof(s->candidates[0]), likelier);
    uint32_t n = s->sampling.top_k && s->sampling.top_k < s->vocab ? s->sampling.top_k : s->vocab;
    for (uint32_t i = 0; i < n; i++)
        s->candidates[i].weight =
            exp(((double)s->candidates[i].logit - (double)s->candidates[0].logit) / (double)s->sampling.temperature);
    return n;
}

static double total(const struct candidate *c, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += c[i].weight;
    return sum;
}

static uint32_t cut_top_p(const struct candidate *c, uint32_t n, double p) {
    double goal = p * total(c, n), sum = 0;
    if (p >= 1)
        return n;
    for (uint32_t i = 0; i < n; i++) {
        sum += c[i].weight;
        if (sum >= goal)
            return i + 1;
    }
    return n;
}

static uint32_t cut_min_p(const struct candidate *c, uint32_t n, double p) {
    uint32_t kept = 1;
    while (kept < n && c[kept].weight >= p)
        kept++;
    return kept;
}

static int32_t draw(sonde_sampler *s) {
    uint32_t n = candidates(s);
    n = cut_top_p(s->candidates, n, (double)s->sampling.top_p);
    n = cut_min_p(s->candidates, n, (double)s->sampling.min_p);
    double goal = rng_unit(&s->rng) * total(s->candidates, n), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += s->candidates[i].weight;
        if (sum > goal)
            return s->candidates[i].id;
    }
    return s->candidates[n - 1].id;
}

int32_t sonde_sampler_draw(sonde_sampler *sampler, const float *logits) {
    memcpy(sampler->logits, logits, sampler->vocab * sizeof(*logits));
    penalise(sampler);
    int32_t id = sampler->sampling.temperature > 0 ? draw(sampler) : greedy(sampler->logits, sampler->vocab);
    sampler->seen[id] = 1;
    sampler->generated[id]++;
    return id;
}
