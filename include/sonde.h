/*
 * sonde.h - run DeepSeek-V4 models on the processor at hand.
 *
 * The one public header. A model is a directory in the official layout (config.json, *.safetensors,
 * tokenizer.json); it is mapped, not copied, so opening is instant and many processes share its pages.
 * A session is one growing sequence of tokens with what the model remembers of it. Feed tokens, read
 * the logits of what comes next, sample, feed again:
 *
 *     sonde_model *model;
 *     sonde_session *session;
 *     struct sonde_error error;
 *     if (sonde_model_open("models/nano", NULL, &model, &error)) ...error.message...
 *     sonde_session_open(model, NULL, &session, &error);
 *     sonde_session_feed(session, ids, count, &error);
 *     const float *logits = sonde_session_logits(session);
 *
 * or let sonde_generate() do the loop. examples/complete.c is a whole program.
 *
 * Errors    Every function that can fail returns SONDE_OK (0) or a negative enum sonde_code and, where
 *           `error` is not NULL, fills it with one sentence fit to show a user. On failure outputs are
 *           left untouched, except where a function says otherwise.
 * Ownership What *_open gives, *_close takes back; NULL may be closed. Strings and arrays handed out
 *           through a `**` belong to the caller, who returns them with sonde_free().
 * Lifetime  A session must be closed before its model.
 * Threads   Distinct models may be used from distinct threads. One model with its sessions belongs to
 *           one thread at a time, which is joined by helpers of the model's own; they take no signals.
 *           Tokenizers are read-only after opening and may be shared freely.
 */
#ifndef SONDE_H
#define SONDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SONDE_API __attribute__((visibility("default")))

/* ------------------------------------------------------------------------------------- errors */

/* X(name, code, meaning): the one list of what can go wrong. */
#define SONDE_CODES(X)                                                                                                 \
    X(MEMORY, -1, "out of memory")                                                                                     \
    X(IO, -2, "a file or the system refused")                                                                          \
    X(FORMAT, -3, "malformed input")                                                                                   \
    X(UNSUPPORTED, -4, "well-formed, but not supported")                                                               \
    X(ARGUMENT, -5, "an argument is out of range")                                                                     \
    X(CONTEXT, -6, "the session's context is full")                                                                    \
    X(NUMERIC, -7, "a number that is not finite")                                                                      \
    X(CANCELLED, -8, "cancelled by the caller")

enum sonde_code {
    SONDE_OK = 0,
#define SONDE_CODE(name, code, meaning) SONDE_ERROR_##name = (code),
    SONDE_CODES(SONDE_CODE)
#undef SONDE_CODE
};

struct sonde_error {
    int code;          /* enum sonde_code */
    char message[508]; /* one sentence, no newline, always terminated */
};

/* "MEMORY", "IO", ... for a code; "OK" for 0; "UNKNOWN" otherwise. Never NULL. */
SONDE_API const char *sonde_code_name(int code);

/* "0.1.0" */
SONDE_API const char *sonde_version(void);

/* Returns memory that a function of this header handed to the caller. NULL is allowed. */
SONDE_API void sonde_free(void *memory);

/* -------------------------------------------------------------------------------------- model */

typedef struct sonde_model sonde_model;
typedef struct sonde_session sonde_session;
typedef struct sonde_tokenizer sonde_tokenizer;
typedef struct sonde_decoder sonde_decoder;
typedef struct sonde_sampler sonde_sampler;

/* What is rounded on the way; docs/numerics.md states every rounding. */
enum sonde_precision {
    SONDE_PRECISION_FAST,     /* what `sonde run` uses: as fast as the level allows, within stated bounds */
    SONDE_PRECISION_F32,      /* nothing after the weights are decoded */
    SONDE_PRECISION_KV,       /* f32, with keys in e4m3 and index keys in e2m1 as the cache stores them */
    SONDE_PRECISION_OFFICIAL, /* as the released code runs: e4m3 activations, bfloat16 storage */
};

struct sonde_model_options {
    enum sonde_precision precision;
    uint32_t chunk_tokens; /* tokens run through the layers at once while prefilling, 1 to 65536 */
    uint32_t no_tokenizer; /* 1: do not look for tokenizer.json */
    uint32_t threads;      /* that compute, the caller's included; 0: one for each processor it may run on */
    const char *level;     /* instructions to use: "c", "avx2", "avx512", "amx"; NULL: the best that run here */
    uint32_t invariant; /* 1: a text gives the same bits in any chunks, alone and beside others, at the cost of speed */

    uint32_t
        released_decode; /* 1: DeepSeek-V4.1 decodes as its released code does, which scores some tokens against keys
                          * left by another layer; 0: as the model means it, whatever the division into steps */

    /* What all sessions and all that is remembered of earlier ones may take; it is touched only as tokens come. */
    uint64_t cache_bytes;        /* of memory; 0: half of the machine's */
    const char *cache_directory; /* where what is remembered outlives the process; made if need be; NULL: nowhere */
    uint64_t cache_disk_bytes;   /* at most there; 0: 16 GiB */
    uint32_t page_tokens;        /* it is given out in pages of so many tokens, or a few more; 0: 1024 */
    uint64_t snapshot_tokens;    /* a text being read is remembered every so many tokens, besides where it ends or
                                  * parts from others; 0: every 4096 */
    void (*log)(void *context, const char *line); /* what is worth knowing and no error, such as a damaged file that
                                                   * was passed over; from any thread; NULL: nobody listens */
    void *log_context;
};

/* fast, 256 tokens a chunk, tokenizer.json wanted, every processor and its best instructions, nothing on disk. */
SONDE_API void sonde_model_options_default(struct sonde_model_options *options);

/* Opens the checkpoint directory `path`. options may be NULL. Touches only headers: no weight is read (of
 * Engram layers, the few integers that size their tables are).
 * A directory without tokenizer.json opens too; sonde_model_tokenizer() is then NULL.
 * Errors: IO, FORMAT, UNSUPPORTED (also a level that does not run here), ARGUMENT, MEMORY. */
SONDE_API int sonde_model_open(const char *path, const struct sonde_model_options *options, sonde_model **model,
                               struct sonde_error *error);
SONDE_API void sonde_model_close(sonde_model *model);

/* Whose released encoder a prompt is written like. */
enum sonde_chat_format {
    SONDE_CHAT_V4,
    SONDE_CHAT_V41, /* turns of the system's anywhere, efforts from 1 to 100, markup spelled with spaces */
};

struct sonde_model_info {
    uint32_t vocab;      /* V: entries in a row of logits */
    uint32_t layers;     /* without the multi-token-prediction block */
    uint32_t hidden;     /* D */
    uint32_t experts;    /* routed, in each layer */
    uint32_t active;     /* of which a token uses so many */
    uint32_t mtp_blocks; /* multi-token-prediction blocks that can be run: 0 or 1 */
    uint32_t context;    /* longest sequence the checkpoint states, in tokens */
    int32_t bos, eos;    /* token ids that begin and end a text */
    uint32_t thinks;     /* 1: chats think first unless told otherwise; 0 only if generation_config.json says so,
                          * with "thinking": false */
    enum sonde_chat_format chat_format; /* how conversations are written to it */
    uint64_t parameters;                /* in the files, multi-token prediction included */
    uint64_t weights_bytes;             /* of tensor data in the files */
};

/* What the checkpoint says of itself, into *info. */
SONDE_API void sonde_model_info(const sonde_model *model, struct sonde_model_info *info);

/* The checkpoint's tokenizer, owned by the model, or NULL. */
SONDE_API const sonde_tokenizer *sonde_model_tokenizer(const sonde_model *model);

/* ------------------------------------------------------------------------------------ session */

struct sonde_session_options {
    uint64_t context; /* most tokens the session will hold; 0: as many as the checkpoint states */
    uint32_t mtp;     /* 1: run the multi-token-prediction block too, for sonde_observer.mtp */
};

/* The checkpoint's context, no multi-token prediction. */
SONDE_API void sonde_session_options_default(struct sonde_session_options *options);

/* Opens an empty session. options may be NULL. What it remembers of its tokens comes, as they do, from memory that all
 * sessions of the model share (sonde_model_options.cache_bytes). Errors: ARGUMENT, UNSUPPORTED (mtp without the block),
 * MEMORY. */
SONDE_API int sonde_session_open(sonde_model *model, const struct sonde_session_options *options,
                                 sonde_session **session, struct sonde_error *error);
SONDE_API void sonde_session_close(sonde_session *session);

/* Forgets all tokens. */
SONDE_API void sonde_session_reset(sonde_session *session);

/* Appends `count` tokens (each 0 <= id < V) and computes the logits after the last of them. Any division
 * of a text into calls gives the same result. Errors: ARGUMENT (an id outside the vocabulary, or an earlier
 * call broke the session; nothing fed), CONTEXT (does not fit; nothing fed), NUMERIC (a result is not finite:
 * the whole checkpoint is read to name the tensor at fault, if one is), FORMAT (a table in the checkpoint
 * holds what cannot be). After the last two the session must be reset. */
SONDE_API int sonde_session_feed(sonde_session *session, const int32_t *ids, size_t count, struct sonde_error *error);

/* Callbacks of sonde_session_observe(); any may be NULL. Each returns 0 to go on; any other value ends
 * the call with SONDE_ERROR_CANCELLED after the chunk in work: the tokens of that chunk are fed, and
 * sonde_session_logits() is NULL until more are, unless the chunk was the last. */
struct sonde_observer {
    void *context;
    /* logits [V] after the token at `position` (from 0); valid during the call. */
    int (*logits)(void *context, uint64_t position, const float *logits);
    /* multi-token prediction [V] from the tokens at `position` and `position + 1`: for `position + 2`. */
    int (*mtp)(void *context, uint64_t position, const float *logits);
    /* after each chunk: `done` of `total` tokens of this call are fed. */
    int (*progress)(void *context, size_t done, size_t total);
};

/* sonde_session_feed() that shows the logits of every token. observer may be NULL. */
SONDE_API int sonde_session_observe(sonde_session *session, const int32_t *ids, size_t count,
                                    const struct sonde_observer *observer, struct sonde_error *error);

/* Logits [V] after the last token fed; NULL before the first, and after a cancelled call. Owned by the session, valid
 * until the next call that changes it. */
SONDE_API const float *sonde_session_logits(const sonde_session *session);

/* The tokens fed so far; *count of them. Owned by the session. */
SONDE_API const int32_t *sonde_session_tokens(const sonde_session *session, size_t *count);

/* ----------------------------------------------------------------------------------- sampling */

struct sonde_bias {
    int32_t id;
    float value;
};

struct sonde_sampling {
    float temperature;             /* >= 0; 0 is greedy: the largest logit, the lowest id among equals */
    uint32_t top_k;                /* keep the k most likely; 0: all */
    float top_p;                   /* keep the fewest tokens whose probabilities reach p, 0 < p <= 1; 1: all */
    float min_p;                   /* drop what is less than min_p times as likely as the best, 0 to 1; 0: none */
    float repetition_penalty;      /* > 0; divides positive logits of seen tokens, multiplies negative; 1: off */
    float presence_penalty;        /* subtracted from the logit of every token generated before, once */
    float frequency_penalty;       /* ... and once for each time it was */
    uint64_t seed;                 /* same seed, same text */
    const struct sonde_bias *bias; /* added to the logits of these tokens, finite; first of all */
    size_t bias_count;
};

/* Temperature 1, everything else off, seed 0. */
SONDE_API void sonde_sampling_default(struct sonde_sampling *sampling);

/* What the checkpoint's generation_config.json recommends (temperature, top_k, top_p, min_p, repetition_penalty,
 * do_sample), over the defaults above; the seed stays 0. */
SONDE_API void sonde_model_sampling(const sonde_model *model, struct sonde_sampling *sampling);

/* A sampler draws tokens and remembers them for the penalties. vocab: V. Order: bias, penalties, temperature,
 * top_k, top_p, min_p, draw. What *sampling points to is copied. Errors: ARGUMENT (names the field), MEMORY. */
SONDE_API int sonde_sampler_open(const struct sonde_sampling *sampling, uint32_t vocab, sonde_sampler **sampler,
                                 struct sonde_error *error);
SONDE_API void sonde_sampler_close(sonde_sampler *sampler);

/* Draws a token from logits [V], which stay as they are, and remembers it. NaN is never drawn, unless
 * nothing else is left; of infinite logits one is. */
SONDE_API int32_t sonde_sampler_draw(sonde_sampler *sampler, const float *logits);

/* Natural logarithms of the probabilities that logits [V] give, at temperature 1 and with nothing cut: of `id` into
 * *own, and the `count` <= V likeliest tokens, best first, the lower id first among equals. */
struct sonde_logprob {
    int32_t id;
    float logprob;
};
SONDE_API void sonde_logprobs(const float *logits, uint32_t vocab, int32_t id, float *own, struct sonde_logprob *top,
                              uint32_t count);

/* Remembers a token of the prompt: repetition_penalty counts it, the other penalties do not. */
SONDE_API void sonde_sampler_prompt(sonde_sampler *sampler, int32_t id);

/* -------------------------------------------------------------------------------------- text */

/* Opens a Hugging Face tokenizer.json (byte-level BPE). Errors: IO, FORMAT, UNSUPPORTED, MEMORY. */
SONDE_API int sonde_tokenizer_open(const char *path, sonde_tokenizer **tokenizer, struct sonde_error *error);
SONDE_API void sonde_tokenizer_close(sonde_tokenizer *tokenizer);

/* One more than the highest token id. */
SONDE_API uint32_t sonde_tokenizer_size(const sonde_tokenizer *tokenizer);

/* The id of an added token such as "<think>"; -1 if there is none of exactly this spelling. */
SONDE_API int32_t sonde_tokenizer_added(const sonde_tokenizer *tokenizer, const char *content);

enum sonde_markup {
    SONDE_MARKUP_TOKENS, /* "<think>" and its like, written in the text, become the tokens they name */
    SONDE_MARKUP_TEXT,   /* they are text like any other: for what users type */
};

/* Text of `bytes` bytes (any bytes; those that are not UTF-8 are kept through byte tokens) to ids. No
 * token is added before or after. Errors: ARGUMENT (more than 2^30 bytes), UNSUPPORTED (a pattern of the tokenizer
 * backtracks without end on this text), MEMORY. */
SONDE_API int sonde_tokenizer_encode(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                                     enum sonde_markup markup, int32_t **ids, size_t *count, struct sonde_error *error);

/* Ids to text, added tokens included as they are spelled. Bytes that are not UTF-8 come back as U+FFFD.
 * *text is terminated; *bytes may be NULL. Errors: ARGUMENT (an id without a token), MEMORY. */
SONDE_API int sonde_tokenizer_decode(const sonde_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                                     size_t *bytes, struct sonde_error *error);

/* A decoder turns a stream of ids into text as early as it is whole UTF-8: the concatenated pieces equal
 * sonde_tokenizer_decode() of the whole. */
SONDE_API int sonde_decoder_open(const sonde_tokenizer *tokenizer, sonde_decoder **decoder, struct sonde_error *error);
SONDE_API void sonde_decoder_close(sonde_decoder *decoder);

/* Adds a token. *text (terminated, *bytes long, perhaps 0) is what can be shown now; it belongs to the
 * decoder until the next call. */
SONDE_API int sonde_decoder_push(sonde_decoder *decoder, int32_t id, const char **text, size_t *bytes,
                                 struct sonde_error *error);

/* Ends the stream: what was held back, broken characters as U+FFFD. The decoder can be used anew. */
SONDE_API int sonde_decoder_finish(sonde_decoder *decoder, const char **text, size_t *bytes, struct sonde_error *error);

/* --------------------------------------------------------------------------------------- chat */

/* The format of a checkpoint directory, by the model_type of its config.json, of which nothing else is read; V4 where
 * it has none. Errors: IO, FORMAT, UNSUPPORTED (another model_type), MEMORY. */
SONDE_API int sonde_chat_format_read(const char *directory, enum sonde_chat_format *format, struct sonde_error *error);

/* Renders a conversation as the prompt its model expects. `request` is a JSON object of `bytes` bytes:
 * {"messages": [...], "thinking_mode": "chat"|"thinking", "reasoning_effort": null|"high"|"max",
 * "drop_thinking": true|false}; all but messages may be left out (chat, null, true). V4.1 also has the effort "low" and
 * integers from 1 to 100. Messages are those of the released encoder: role
 * system|user|assistant|tool|latest_reminder, with V4 also developer, with content, reasoning_content, tools,
 * tool_calls, response_format, task ...; docs/formats.md lists them.
 * *prompt is terminated; *length may be NULL. Errors: FORMAT (names message and field), MEMORY. */
SONDE_API int sonde_chat_render(enum sonde_chat_format format, const char *request, size_t bytes, char **prompt,
                                size_t *length, struct sonde_error *error);

/* Parses what a model wrote after such a prompt into a message, as JSON text: {"role": "assistant",
 * "content": ..., "reasoning_content": ..., "tool_calls": [{"type": "function", "function": {"name": ...,
 * "arguments": "JSON"}}]}. Calls are understood in any format's spelling; V4.1's of a tool in a namespace have a
 * "namespace" besides. Never fails on what a model wrote: what cannot be understood as a tool call
 * stays in content, no text is lost. thinking: the prompt ended in <think>. Errors: MEMORY. */
SONDE_API int sonde_chat_parse(enum sonde_chat_format format, const char *text, size_t bytes, bool thinking,
                               char **message, struct sonde_error *error);

/* --------------------------------------------------------------------------------- prefixes */

/*
 * A model remembers texts that its sessions have read, so that none is read twice: a new session takes up the longest
 * beginning of its text that is remembered, and reads only the rest. Sessions with and without multi-token prediction
 * do not know of each other's texts.
 */

/* An empty session takes up the longest remembered beginning of ids, *reused tokens of them: feed the others. When
 * these are all, sonde_session_logits() is what comes next. Errors: those of sonde_session_feed(), ARGUMENT (it has
 * tokens).
 */
SONDE_API int sonde_session_recall(sonde_session *session, const int32_t *ids, size_t count, size_t *reused,
                                   struct sonde_error *error);

/* Remembers the session's tokens up to here. What was used longest ago makes room; where there is none nothing happens.
 */
SONDE_API void sonde_session_keep(sonde_session *session);

/* --------------------------------------------------------------------------------- generation */

enum sonde_finish {
    SONDE_FINISH_END,       /* the model ended its turn: eos, or one of sonde_generation.end */
    SONDE_FINISH_STOP,      /* a stop string came */
    SONDE_FINISH_LENGTH,    /* max_tokens were generated */
    SONDE_FINISH_CONTEXT,   /* the session is full */
    SONDE_FINISH_CANCELLED, /* a callback said so */
};

struct sonde_generation {
    struct sonde_sampling sampling;
    uint64_t max_tokens; /* 0: until the model ends or the context is full */
    const int32_t *end;  /* ids that end the answer besides the model's eos, such as that of "<｜User｜>" */
    size_t end_count;
    uint32_t ignore_end;     /* 1: no id ends it: for measuring */
    const char *const *stop; /* stop strings, not empty ones; the text ends before the first that appears */
    size_t stop_count;
    const char *stop_behind; /* they count only behind the first place of this, "</think>" say; NULL: everywhere */
    void *context;
    /* A piece of the answer, whole UTF-8, terminated; nonzero stops. Text that could begin a stop string
     * is held back until it is clear. May be NULL. */
    int (*text)(void *context, const char *text, size_t bytes);
    /* While the prompt is read: `done` of `total` tokens; nonzero stops. May be NULL. */
    int (*progress)(void *context, size_t done, size_t total);
    /* Which ids may be drawn next: bit id % 32 of word id / 32, [ceil(V / 32)], read before any other call; NULL: all.
     * Ids that end the answer are no exception. May be NULL. */
    const uint32_t *(*allowed)(void *context);
    /* Each token of the answer, the end token not, before its text, and the logits [V] it was drawn from; nonzero
     * stops. May be NULL. */
    int (*token)(void *context, int32_t id, const float *logits);
    /* While the prompt is read: logits [V] after its token at `position`, in order, once each; of none that is taken
     * up from what is remembered. Costs a head for every token. May be NULL. */
    void (*prompt)(void *context, uint64_t position, const float *logits);
    uint32_t reuse; /* 1: take up what is remembered of the prompt, and remember prompt and answer */
};

/* Default sampling, no limit, no more ends, no stop strings, no callbacks. */
SONDE_API void sonde_generation_default(struct sonde_generation *generation);

struct sonde_generated {
    enum sonde_finish finish;
    size_t prompt_tokens;    /* that this call added to the session, reused ones among them */
    size_t reused_tokens;    /* of these taken up from what was remembered */
    size_t generated_tokens; /* without the end token */
    size_t stop;             /* which stop string came, for SONDE_FINISH_STOP */
    double prompt_seconds, generate_seconds;
};

/* Feeds the prompt (may be empty if the session has tokens) and generates until something ends it. The
 * model's tokenizer decodes; an id it has no token for gives no text. Without one there can be no text and no stop.
 * Generated tokens are fed as they come, the end token and what is drawn last before a limit not:
 * sonde_session_tokens() tells. Being cancelled is no error. result may be NULL. Errors: those of sonde_session_feed(),
 * ARGUMENT. */
SONDE_API int sonde_generate(sonde_session *session, const int32_t *prompt, size_t count,
                             const struct sonde_generation *generation, struct sonde_generated *result,
                             struct sonde_error *error);

/* ---------------------------------------------------------------------------------- scheduler */

/*
 * Many requests, one model. A step takes a token of every answer being written and as much of the prompts as its budget
 * leaves, shared evenly, so that no prompt stalls an answer and no long prompt a short one. Requests wait in order of
 * arrival while there is no room for them; if answers outgrow the cache, the last one begun goes back to waiting and is
 * taken up later where it was. Nobody's result depends on that.
 *
 *     sonde_scheduler_submit(scheduler, &request, &id, &error);       from any thread
 *     while (sonde_scheduler_wait(scheduler))                         one thread, the only one to use the model
 *         sonde_scheduler_step(scheduler);                            calls back
 */
typedef struct sonde_scheduler sonde_scheduler;

struct sonde_scheduler_options {
    uint32_t requests;    /* answered at once, others wait; 0: 64. At most as many as the model's chunk has room for */
    uint32_t step_tokens; /* most tokens of a step while answers are being written; 0: the model's chunk */
    uint32_t drafts;      /* tokens guessed ahead by multi-token prediction, 0 to 3; 0: none. Changes no result */
};

/* Errors: ARGUMENT (names the field), UNSUPPORTED (drafts without the block), MEMORY. */
SONDE_API int sonde_scheduler_open(sonde_model *model, const struct sonde_scheduler_options *options,
                                   sonde_scheduler **scheduler, struct sonde_error *error);
/* Cancels all requests that are left; calls back. */
SONDE_API void sonde_scheduler_close(sonde_scheduler *scheduler);

struct sonde_request {
    const int32_t *prompt; /* copied, as all of generation; count > 0 */
    size_t count;
    struct sonde_generation generation;
    /* Once, whatever happens; its context is the generation's. code: SONDE_OK or that of *error. */
    void (*done)(void *context, int code, const struct sonde_generated *result, const struct sonde_error *error);
};

/* Callbacks come from sonde_scheduler_step(), none before *id is written. Errors: ARGUMENT, CONTEXT, MEMORY (the
 * prompt is larger than the cache). */
SONDE_API int sonde_scheduler_submit(sonde_scheduler *scheduler, const struct sonde_request *request, uint64_t *id,
                                     struct sonde_error *error);

/* The request ends with SONDE_FINISH_CANCELLED at the next step; nothing if it has ended. From any thread. */
SONDE_API void sonde_scheduler_cancel(sonde_scheduler *scheduler, uint64_t id);

/* Waits until there is a request; false: sonde_scheduler_stop() was called. */
SONDE_API bool sonde_scheduler_wait(sonde_scheduler *scheduler);
SONDE_API void sonde_scheduler_stop(sonde_scheduler *scheduler);

/* One step; false: there is nothing to do. An error of the model ends the requests that took part. */
SONDE_API bool sonde_scheduler_step(sonde_scheduler *scheduler);

struct sonde_scheduler_status {
    uint32_t waiting, active;
    uint64_t steps, finished, preempted;
    uint64_t prompt_tokens, reused_tokens, generated_tokens; /* of all requests so far; read ones and reused apart */
    uint64_t drafted, accepted;                              /* tokens guessed, and guessed right */
    uint64_t cache_pages, cache_pages_used;
};

/* From any thread: as of the last step. */
SONDE_API void sonde_scheduler_status(sonde_scheduler *scheduler, struct sonde_scheduler_status *status);

#ifdef __cplusplus
}
#endif
#endif
