/* shape_internal.h - what the readers of config.json share: fields that all architectures spell alike. */
#ifndef CHECKPOINT_SHAPE_INTERNAL_H
#define CHECKPOINT_SHAPE_INTERNAL_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_internal.h"

/* Of heads, channels and experts; a product of two is below 2^31. */
#define SHAPE_MOST       32768
#define SHAPE_MOST_RATIO 65536

/* An integer from 1 to most that must be there. */
uint32_t shape_size(const struct config *c, const char *name, uint32_t most);

/* `architectures`, if it is there, names `wanted`. */
void shape_check_architecture(const struct config *c, const char *wanted);
/* Fields with one value that the forward pass implements. */
void shape_check_fixed(const struct config *c);
void shape_check_relations(const struct config *c, const struct shape *s);
void shape_read_quantization(const struct config *c, struct shape *s);
void shape_read_sizes(const struct config *c, struct shape *s);
void shape_read_constants(const struct config *c, struct shape *s);
/* A yarn object. One of kind "default" says that nothing is stretched. */
void shape_read_yarn(const struct config *r, struct yarn *y);

/* shape_v41.c: the whole of a config.json of DeepSeek-V4.1, whose root is c. */
void shape_read_v41(const struct config *c, struct shape *s);

#endif
