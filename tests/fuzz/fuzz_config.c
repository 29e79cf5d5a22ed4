/*
 * fuzz_config.c - any bytes as config.json: a shape that is accepted keeps what checkpoint.h says it promises,
 * one that is not has a sentence.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"

static void must(int condition) {
    if (!condition)
        abort();
}

static void check_ratios(const struct shape *s) {
    for (uint32_t i = 0; i < s->layers + s->mtp_blocks; i++) {
        must(s->ratios[i] == 0 || (s->ratios[i] >= 2 && s->ratios[i] <= 65536));
        if (s->ratios[i] == 4) {
            must(s->index_heads && s->index_topk && s->index_dim >= 32 && s->index_dim >= s->rope_dim);
            must((s->index_dim & (s->index_dim - 1)) == 0);
        }
    }
}

static void check_engram(const struct shape *s) {
    const struct engram_shape *g = &s->engram;
    for (uint32_t i = 0; i < g->count; i++)
        must(g->layers[i] < s->layers && (i == 0 || g->layers[i] > g->layers[i - 1]));
    if (g->count)
        must(g->orders >= 2 && g->heads && g->width % g->heads == 0 && g->pad < s->vocab);
    must(!g->count || (s->family == FAMILY_V41 ? !g->taps : g->taps));
}

/* Of a layer whose ratio is not 0. */
static void check_sources(const struct shape *s, uint32_t i) {
    const struct v41_shape *v = &s->v41;
    uint32_t keys = v->key_source[i], indexes = v->index_source[i];
    must(keys <= indexes && indexes <= i && v->key_source[keys] == keys && v->index_source[keys] == keys);
    must(v->key_source[indexes] == keys && v->index_source[indexes] == indexes);
    must(s->ratios[i] <= 65536 && s->ratios[i] == s->ratios[keys]);
    must(s->index_heads && s->index_topk && s->index_dim % 32 == 0 && s->index_dim >= s->rope_dim);
    must(v->last_key_source != V41_NONE && v->last_key_source >= keys);
    if (v->candidate_source != V41_NONE && i > v->candidate_source)
        must(keys == v->key_source[v->candidate_source]);
}

static void check_v41(const struct shape *s) {
    const struct v41_shape *v = &s->v41;
    must(s->head_dim % 32 == 0 && s->mtp_blocks == 0 && s->hash_layers == 0);
    for (uint32_t i = 0; i < s->layers; i++)
        if (s->ratios[i])
            check_sources(s, i);
        else
            must(v->key_source[i] == V41_NONE && v->index_source[i] == V41_NONE);
    if (v->candidate_source != V41_NONE) {
        must(v->index_source[v->candidate_source] == v->candidate_source);
        must((uint64_t)v->candidate_blocks * v->candidate_block >= s->index_topk);
    }
    for (uint32_t i = 0; i < s->engram.count; i++)
        must(v->engram_ids && v->engram_ids <= s->vocab && v->engram_least >= 2 && v->engram_rows[i] &&
             v->engram_rows[i] <= UINT32_MAX);
}

static void check_shape(const struct shape *s) {
    must(s->vocab && s->hidden && s->layers && s->heads && s->q_rank && s->o_groups && s->o_rank && s->window);
    must(s->experts && s->active && s->shared_experts && s->inter && s->streams && s->sinkhorn_iters && s->context);
    must(s->rope_dim >= 2 && s->rope_dim % 2 == 0 && s->rope_dim <= s->head_dim);
    must(s->heads % s->o_groups == 0);
    must(s->active <= s->experts && s->hash_layers <= s->layers);
    must(s->bos >= 0 && s->eos >= 0 && (uint32_t)s->bos < s->vocab && (uint32_t)s->eos < s->vocab);
    must((uint64_t)s->heads * s->head_dim <= INT32_MAX && (uint64_t)s->o_groups * s->o_rank <= INT32_MAX);
    must((uint64_t)s->streams * s->hidden <= INT32_MAX && (uint64_t)s->shared_experts * s->inter <= INT32_MAX);
    must(s->fp8_block_rows && s->fp8_block_cols && isfinite(s->route_scale) && s->swiglu_limit >= 0);
    must(s->eps > 0 && s->hc_eps > 0 && s->rope_theta > 1 && s->compress_theta > 1);
    must(s->yarn.factor == 0 || (s->yarn.factor >= 1 && s->yarn.beta_fast >= s->yarn.beta_slow));
    check_engram(s);
    if (s->family == FAMILY_V41) {
        check_v41(s);
        return;
    }
    must((s->head_dim - s->rope_dim) % 64 == 0);
    check_ratios(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    struct shape s;
    struct sonde_error e = {0};
    int rc = shape_parse((const char *)bytes, size, "fuzz", &s, &e);
    if (rc) {
        must(rc == e.code && e.message[0]);
        return 0;
    }
    check_shape(&s);
    shape_release(&s);
    return 0;
}
