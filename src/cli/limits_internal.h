/*
 * limits_internal.h - how fast this machine can read and multiply, measured beside what is compared with it.
 *
 * A processor in a shared machine is half as fast in one minute as in the next. A ratio to a limit therefore means
 * something only if both were measured in turns: limits_measure() is called before, between and after the measurements
 * of a model, and the medians are taken over all calls.
 *
 *     read bandwidth   all workers read memory far larger than the caches, each a part of its own, on huge pages. Each
 *                      call reads it in several ways; the way with the best median counts
 *     peak flops       all workers do nothing but the level's fastest multiply-adds of bf16 numbers, in registers
 *
 * Both are what the workers of a pool do together in wall time, helping each other as they do in a model.
 */
#ifndef CLI_LIMITS_INTERNAL_H
#define CLI_LIMITS_INTERNAL_H

#include "base/base.h"
#include "kernel/kernel.h"

struct limits;

/* The level must run here. threads 0: one for each processor. Memory is taken and touched: 1 GB, or four times the
 * last cache, but at most a quarter of what is free. Errors: those of pool_open(). */
int limits_open(enum kernel_level level, uint32_t threads, struct limits **limits, struct sonde_error *e);
void limits_close(struct limits *l);

/* One sample of each limit, about a tenth of a second. Beyond a thousand they are not kept. */
void limits_measure(struct limits *l);

/* Medians of the samples so far, of which there must be one: bytes and operations a second. */
double limits_read_bandwidth(const struct limits *l);
double limits_peak_flops(const struct limits *l);
uint32_t limits_threads(const struct limits *l);
uint32_t limits_samples(const struct limits *l);

/* Nanoseconds that a region without work, and a barrier inside one, take. */
void limits_latency(struct limits *l, double *region, double *barrier);

/* Of values [count], count > 0, which are sorted. */
double median(double *values, size_t count);

#endif
