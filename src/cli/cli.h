/*
 * cli.h - what the commands share: flags, errors, output, Ctrl-C, progress, the bundled model.
 *
 * A command is one file: a table of flags, a paragraph of help and a function. Flags are parsed, checked
 * and explained from the table alone, so --help cannot drift from what is accepted.
 *
 * Standard output carries the answer and nothing else. Everything said about the work goes to standard
 * error, errors as one line each that begins with "sonde: ". Exit statuses are enum status.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/base.h"
#include "kernel/kernel.h"

enum status {
    STATUS_DONE = 0,
    STATUS_WORLD = 1,         /* a file, the network, memory, bad input */
    STATUS_USAGE = 2,         /* called wrongly */
    STATUS_INTERRUPTED = 130, /* Ctrl-C, as shells count it */
    STATUS_TERMINATED = 143,  /* SIGTERM, likewise */
};

/* -------------------------------------------------------------------------------------- flags */

enum flag_kind {
    FLAG_SWITCH, /* bool; takes no value */
    FLAG_STRING, /* const char *, borrowed from argv */
    FLAG_LIST,   /* struct strings; may be repeated; not empty */
    FLAG_COUNT,  /* uint64_t in [least, most] */
    FLAG_REAL,   /* float in [low, high] */
    FLAG_CHOICE, /* int: index of the word in `value`, where '|' separates the words */
};

#define LIST_MOST 16

struct strings {
    const char *at[LIST_MOST];
    size_t count;
};

/* One flag: --name, and -letter where letter is not 0. `at` is where in the command's option struct the
 * value goes; `value` names it in the help. */
struct flag {
    char letter;
    const char *name;
    enum flag_kind kind;
    size_t at;
    const char *value;
    const char *help;
    uint64_t least, most;
    float low, high;
};

struct command {
    const char *name;
    const char *operands; /* as usage shows them, "" for none; the first word is named when missing */
    int operands_least, operands_most;
    const char *summary; /* half a line, for `sonde help` */
    const char *about;   /* paragraphs for --help, lines broken by hand */
    const struct flag *flags;
    size_t flag_count;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns enum status */
};

/* Parses argv[1..argc) into `values`, which holds the defaults, and operands[0..operands_most), NULL where
 * not given. "--" ends the flags; "--name=value" and "-nVALUE" work too. Returns -1 to go on, else the
 * status to leave with: --help was answered or a mistake was reported. */
int flags_parse(const struct command *command, int argc, char **argv, void *values, const char **operands);

/* Says one line on standard error and returns STATUS_USAGE: "sonde: COMMAND: ...; try: sonde COMMAND --help". */
int usage_error(const char *command, const char *format, ...) PRINTF_LIKE(2, 3);

/* The text of --help. Returns what output_status() says. */
int command_help(const struct command *command);

extern const struct command command_run, command_chat, command_inspect, command_logits, command_tokenize,
    command_render, command_parse, command_synth, command_bench, command_serve, command_train;

/* ------------------------------------------------------------------- flags that commands share */

struct sampling_flags {
    bool greedy;
    float temperature, top_p, min_p, repetition, presence, frequency;
    uint64_t top_k, seed; /* seed: SEED_RANDOM until given */
};

#define SEED_RANDOM UINT64_MAX

/* clang-format off */
/* What no flag can say: not given, so sampling_resolve() takes the model's recommendation. */
#define UNSET            (-1)
#define TOP_K_UNSET      UINT64_MAX
#define SAMPLING_DEFAULT                                                                                               \
    {.temperature = UNSET, .top_p = UNSET, .min_p = UNSET, .repetition = UNSET, .top_k = TOP_K_UNSET, .seed = SEED_RANDOM}

#define SAMPLING_FLAGS(type, member)                                                                                   \
    {.name = "temp", .kind = FLAG_REAL, .at = offsetof(type, member.temperature), .value = "T", .high = 100,           \
     .help = "temperature; 0 is greedy (default: as the model recommends, else 1)"},                                                                  \
    {.name = "top-k", .kind = FLAG_COUNT, .at = offsetof(type, member.top_k), .value = "K", .most = UINT32_MAX,        \
     .help = "keep the K most likely tokens; 0: all"},                                                       \
    {.name = "top-p", .kind = FLAG_REAL, .at = offsetof(type, member.top_p), .value = "P", .low = 1e-6f, .high = 1,    \
     .help = "keep the fewest tokens that reach probability P; 1: all"},                                           \
    {.name = "min-p", .kind = FLAG_REAL, .at = offsetof(type, member.min_p), .value = "P", .high = 1,                  \
     .help = "drop tokens less than P times as likely as the best; 0: none"},                                       \
    {.name = "repetition-penalty", .kind = FLAG_REAL, .at = offsetof(type, member.repetition), .value = "X",           \
     .low = 1e-3f, .high = 1e3f, .help = "make seen tokens X times less likely; 1: off"},                     \
    {.name = "presence-penalty", .kind = FLAG_REAL, .at = offsetof(type, member.presence), .value = "X",               \
     .low = -100, .high = 100, .help = "taken off once from the logit of generated tokens"},                           \
    {.name = "frequency-penalty", .kind = FLAG_REAL, .at = offsetof(type, member.frequency), .value = "X",             \
     .low = -100, .high = 100, .help = "taken off for every time a token was generated"},                              \
    {.name = "seed", .kind = FLAG_COUNT, .at = offsetof(type, member.seed), .value = "S", .most = UINT64_MAX - 1,      \
     .help = "same seed, same text (default: random)"},                                                                \
    {.name = "greedy", .kind = FLAG_SWITCH, .at = offsetof(type, member.greedy),                                       \
     .help = "always the most likely token"}

struct device_flags {
    uint64_t threads; /* 0: one for each processor */
    int level;        /* 0: the best; else 1 + enum kernel_level */
    bool invariant;   /* sonde_model_options */
};

struct model_flags {
    int precision; /* enum sonde_precision */
    uint64_t context, chunk;
    uint64_t cache_memory, cache_disk; /* MiB, GiB; 0: the library's defaults */
    const char *cache_directory;       /* NULL: none */
    bool released_decode;              /* sonde_model_options */
    struct device_flags device;
};

#define MODEL_DEFAULT {.precision = SONDE_PRECISION_FAST, .chunk = 256}

#define PRECISION_CHOICES "fast|f32|kv|official"

#define LEVEL_CHOICE(name, below) "|" #name
#define LEVEL_CHOICES             "best" KERNEL_LEVELS(LEVEL_CHOICE)

#define DEVICE_FLAGS(type, member)                                                                                     \
    {.name = "threads", .kind = FLAG_COUNT, .at = offsetof(type, member.threads), .value = "N", .least = 1,            \
     .most = 4096, .help = "threads that compute (default: one for each processor)"},                                  \
    {.name = "level", .kind = FLAG_CHOICE, .at = offsetof(type, member.level), .value = LEVEL_CHOICES,                 \
     .help = "instructions to use (default best)"},                                                                    \
    {.name = "invariant", .kind = FLAG_SWITCH, .at = offsetof(type, member.invariant),                                 \
     .help = "the same bits in any chunks and any company; slower"}

#define CHUNK_FLAG(type, member)                                                                                       \
    {.name = "chunk", .kind = FLAG_COUNT, .at = offsetof(type, member), .value = "N", .least = 1, .most = 65536,       \
     .help = "tokens of the prompt computed at once (default 256)"}

#define RELEASED_DECODE_FLAG(type, member)                                                                             \
    {.name = "released-decode", .kind = FLAG_SWITCH, .at = offsetof(type, member),                                     \
     .help = "decode DeepSeek-V4.1 as its released code does"}

#define MODEL_FLAGS(type, member)                                                                                      \
    {.name = "precision", .kind = FLAG_CHOICE, .at = offsetof(type, member.precision), .value = PRECISION_CHOICES,     \
     .help = "what is rounded on the way (default fast)"},                                                             \
    {.name = "context", .kind = FLAG_COUNT, .at = offsetof(type, member.context), .value = "N", .least = 1,            \
     .most = UINT32_MAX, .help = "most tokens in memory (default: what the model states)"},                            \
    CHUNK_FLAG(type, member.chunk),                                                                                    \
    {.name = "cache-memory", .kind = FLAG_COUNT, .at = offsetof(type, member.cache_memory), .value = "MIB",            \
     .least = 1, .most = 1u << 30, .help = "most memory for what is remembered of texts (default: half)"},             \
    {.name = "cache-dir", .kind = FLAG_STRING, .at = offsetof(type, member.cache_directory), .value = "DIR",           \
     .help = "keep what is remembered there, for the next start"},                                                     \
    {.name = "cache-disk", .kind = FLAG_COUNT, .at = offsetof(type, member.cache_disk), .value = "GIB", .least = 1,    \
     .most = 1u << 24, .help = "most bytes there (default 16)"},                                                       \
    RELEASED_DECODE_FLAG(type, member.released_decode),                                                                \
    DEVICE_FLAGS(type, member.device)
/* clang-format on */

/* Sets threads, level and invariant. */
void device_from_flags(const struct device_flags *flags, struct sonde_model_options *options);

/* The library's form of the flags; draws a seed if none was given. */
void sampling_from_flags(const struct sampling_flags *flags, struct sonde_sampling *sampling);

/* Fills what was not given: from the model's generation_config.json, the seed by chance. Comes first. */
void sampling_resolve(struct sampling_flags *flags, const sonde_model *model);

/* Opens the model at `path`, the bundled one if NULL, and, unless session is NULL, a session in it. Reports what fails.
 * Returns a status; on success both are owed back. */
int model_open_flags(const char *path, const struct model_flags *flags, sonde_model **model, sonde_session **session);

/* A seed nobody chose. */
uint64_t seed_random(void);

/* Path of the model that comes with the program: $SONDE_MODEL, else models/nano beside the build directory,
 * else share/sonde/models/nano beside the installed program. Into b. Errors: IO (none found). */
int bundled_model(struct buf *b, struct sonde_error *e);

/* ------------------------------------------------------------------------------------- output */

/* A descriptor being written to, unbuffered so that text streams. After the first failure nothing more is
 * written. {.fd = STDOUT_FILENO} is ready for use. */
struct output {
    int fd;
    int why;   /* errno of the failure; 0: none */
    char last; /* last byte written, 0 before the first */
};

void output_write(struct output *o, const char *bytes, size_t count);
void output_buf(struct output *o, struct buf *b); /* writes b and releases it */

/* STATUS_DONE, or STATUS_WORLD once writing failed; then says so, unless it was only that the reader of a
 * pipe has gone. */
int output_status(const struct output *o);

/* "sonde: MESSAGE" on standard error; returns STATUS_WORLD. */
int report(const struct sonde_error *e);

/* "sonde: ..." on standard error, on one line whatever the arguments hold. */
void notice(const char *format, ...) PRINTF_LIKE(1, 2);

/* True where escape sequences are welcome: a terminal that has them, and no NO_COLOR. */
bool terminal_styles(int fd);

/* How wide the terminal is; 0: unknown, or not a terminal. */
uint32_t terminal_columns(int fd);

/* "(done/total)" on standard error while it is a terminal and the work takes longer than a blink. */
struct progress {
    const char *what;
    double start, last;
    bool shown;
};

void progress_init(struct progress *p, const char *what);
void progress_step(struct progress *p, uint64_t done, uint64_t total);
void progress_end(struct progress *p); /* wipes the line */

/* ------------------------------------------------------------------------------------- Ctrl-C */

/* From now on the first Ctrl-C only makes interrupted() true; a second one ends the program as usual. Blocking
 * calls return EINTR. */
void interrupt_arm(void);
void interrupt_arm_all(void); /* the same for SIGTERM too: for work that must tidy up behind itself */
void interrupt_disarm(void);  /* interrupted() keeps its value until armed again */
bool interrupted(void);
int interrupt_status(void); /* STATUS_INTERRUPTED or STATUS_TERMINATED; STATUS_DONE if not interrupted() */

/* -------------------------------------------------------------------------------------- jsonl */

/* Hands each line of standard input to `line`, and writes the object it makes of it as a line, at once. *out is
 * released here. The first bad line ends it: "standard input: line N: ...". Returns a status. */
int jsonl_each(int (*line)(void *context, const char *text, size_t bytes, json_t **out, struct sonde_error *e),
               void *context);

/* The chat format of a checkpoint directory, V4's for NULL. Returns a status. */
int chat_format_of(const char *directory, enum sonde_chat_format *format);

/* A line as a JSON object, owed back. Errors: FORMAT, MEMORY. */
int jsonl_object(const char *text, size_t bytes, json_t **object, struct sonde_error *e);

/* The string member `name` of an object. Errors: FORMAT (absent or not a string). */
int json_text(const json_t *object, const char *name, const char **text, size_t *bytes, struct sonde_error *e);

#endif
