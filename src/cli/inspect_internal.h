/*
 * inspect_internal.h - what `sonde inspect` counts: parameters and bytes.
 *
 * Parameters are counted by tensor_parameters(), which gives the released figures (290,942,289,362 for V4-Flash,
 * 1,598,837,347,742 for V4-Pro). Multi-token prediction counts.
 *
 * Active are those a token is computed with: all of the above, of the routed experts only the chosen share,
 * of an Engram table only the rows looked up. The word embedding counts whole, as it does in the released
 * figures (14,118,225,362 and 50,648,438,174).
 */
#ifndef CLI_INSPECT_INTERNAL_H
#define CLI_INSPECT_INTERNAL_H

#include "checkpoint/checkpoint.h"
#include "cli/cli.h"

struct tally {
    uint64_t tensors;
    uint64_t parameters, active;
    uint64_t bytes[DTYPE_COUNT], total_bytes;
    uint64_t routed; /* parameters in routed experts */
};

/* Adds a tensor. Engram rows are counted by shape. */
void tally_add(struct tally *t, const struct tensor *tensor, const struct shape *shape);

/* Takes the idle experts off `active`; called once, after the last tensor. */
void tally_finish(struct tally *t, const struct shape *shape);

#endif
