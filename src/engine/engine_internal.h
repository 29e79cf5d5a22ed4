/* engine_internal.h - what stands behind the public handles. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include "engine/engine.h"
#include "model/model.h"

struct store;

struct sonde_model {
    struct checkpoint *checkpoint;
    struct device *device;
    struct model *model;
    struct store *store;
    sonde_tokenizer *tokenizer;     /* NULL: none */
    struct sonde_sampling sampling; /* as generation_config.json recommends */
    bool quick;                     /* it says that chats do not think first */
    enum sonde_chat_format chat_format;
};

struct sonde_session {
    sonde_model *model;
    struct sequence *sequence;
    float *logits;      /* [V] */
    uint64_t logits_at; /* the length whose last token they follow; 0: none */
    bool broken;        /* a step failed half-way: only reset helps */
};

/* sampling.c: every field in its range. Errors: ARGUMENT (names the field). */
int sampling_check(const struct sonde_sampling *s, struct sonde_error *e);

/* sonde_sampler_draw() among the ids whose bits are set; allowed NULL: all. */
int32_t sampler_draw_among(sonde_sampler *sampler, const float *logits, const uint32_t *allowed);

/* ----------------------------------------------------------------------------------------- store */

/*
 * store.c: snapshots of texts this model has read, by their beginnings, within the model's limits and, where a
 * directory was named, beyond this process. Who runs out of memory for the cache asks for some of theirs.
 */
int store_open(sonde_model *m, const struct sonde_model_options *options, const char *level, struct store **store,
               struct sonde_error *e);
void store_close(struct store *s);

struct recalled {
    uint64_t length; /* tokens taken up; 0: nothing was remembered */
    uint64_t fork;   /* a place behind that where texts part, worth a snapshot; 0: none */
    bool logits;     /* there are logits after the last */
};

/* An empty sequence takes up the longest remembered beginning of ids. All of them only if logits [V], of what comes
 * next, can be filled too. What cannot be had (memory, a damaged file) is passed over. */
struct recalled store_recall(struct store *s, const int32_t *ids, uint64_t count, struct sequence *to, float *logits);

/* Remembers the sequence as it is; logits may be NULL. Without memory for that it is not remembered. */
void store_keep(struct store *s, const struct sequence *from, const float *logits);

/* Where reading a text up to `end` should pause after `from`, to keep a snapshot there; `end` if nowhere before. */
uint64_t store_pause(const struct store *s, uint64_t from, uint64_t end, uint64_t fork);

/* Forgets, in memory, what was used longest ago; false: nothing is left. */
bool store_drop_oldest(struct store *s);

/* sequence_open() that forgets snapshots where memory is short. */
int store_sequence(struct store *s, uint64_t context, bool mtp, struct sequence **sequence, struct sonde_error *e);

/* model_step() that forgets snapshots where pages are short. */
int store_step(struct store *s, const struct model_span *spans, uint32_t count, const struct model_outputs *outputs,
               struct sonde_error *e);

/* --------------------------------------------------------------------------------------- session */

/* session.c: an empty session takes up what is remembered of the beginning of ids. */
struct recalled session_recall(sonde_session *session, const int32_t *ids, size_t count);

/* sonde_session_observe() that, unless fork is NULL, keeps snapshots on the way. */
int session_read(sonde_session *session, const int32_t *ids, size_t count, const uint64_t *fork,
                 const struct sonde_observer *observer, struct sonde_error *e);

/* ----------------------------------------------------------------------------------------- reply */

/* reply.c: an answer being written. */
struct reply {
    const sonde_model *model;
    struct sonde_generation generation;
    sonde_sampler *sampler;
    sonde_decoder *decoder; /* NULL: the model has no tokenizer */
    struct buf held;        /* text that could begin a stop string */
    bool armed;             /* stop strings count by now */
    bool stopped;           /* a stop string came */
    bool cancelled;         /* a callback said so */
    struct sonde_generated result;
};

/* What *generation points to must outlive the reply. Errors: ARGUMENT, MEMORY; close it then too. */
int reply_open(struct reply *r, const sonde_model *model, const struct sonde_generation *generation,
               struct sonde_error *e);
void reply_close(struct reply *r);
/* Draws a token and shows it; *id is to be fed next, or -1: the reply is over, result.finish tells why. */
int reply_draw(struct reply *r, const float *logits, int32_t *id, struct sonde_error *e);
/* After the last draw: shows what was held back. */
int reply_end(struct reply *r, struct sonde_error *e);

#endif
