/* weights_internal.h - binding tensors to their places, for the files that list an architecture's. */
#ifndef MODEL_WEIGHTS_INTERNAL_H
#define MODEL_WEIGHTS_INTERNAL_H

#include "model/model_internal.h"

/* Carries the first failure; what follows it does nothing, so binding reads as a list. */
struct binder {
    struct model *m;
    const struct checkpoint *c;
    const struct shape *s;
    struct sonde_error *e;
    int rc;
    char prefix[64]; /* "layers.3" */
    char name[192];  /* prefix.part */
};

/* part.weight [rows, cols] */
void bind_matrix(struct binder *b, const char *part, uint64_t rows, uint64_t cols, struct matrix *m);
/* A matrix whose inputs step_linear() and the experts round. */
void bind_rounding_matrix(struct binder *b, const char *part, uint64_t rows, uint64_t cols, struct matrix *m);
/* part, not quantised, of this shape */
void bind_plain(struct binder *b, const char *part, uint32_t rank, const uint64_t *dims, struct matrix *m);
void bind_vector(struct binder *b, const char *part, uint64_t n, struct matrix *m);
/* calloc that reports through the binder. */
void *bind_array(struct binder *b, size_t count, size_t size);
/* Counts a matrix that was bound otherwise. */
void bind_prepare(struct binder *b, struct matrix *m);

void bind_hyper(struct binder *b, const char *part, uint64_t mixes, uint64_t scales, struct hyper_weights *w);
/* Queries, keys of the window, output. */
void bind_attention(struct binder *b, uint32_t ratio, struct attention_weights *w);
void bind_experts(struct binder *b, uint32_t index, struct layer *l);

#endif
