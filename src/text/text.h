/*
 * text.h - from text to token ids and back, from conversations to prompts, from completions to messages.
 *
 * Implements the text half of sonde.h (sonde_tokenizer_*, sonde_decoder_*, sonde_chat_*); docs there and in
 * docs/formats.md. This face adds what the library needs inside: JSON that comes out as it went in, a tokenizer from
 * memory, and prompts in which what people typed stays apart from the markup around it.
 */
#ifndef TEXT_TEXT_H
#define TEXT_TEXT_H

#include "base/base.h"

/* ------------------------------------------------------------------------ JSON as it was written */

/*
 * Prompts hold JSON as the released encoder writes it, which is Python's json.dumps(ensure_ascii=False): members
 * in the order given, integers of any size, floats as Python prints them. So numbers are kept as the lexemes
 * they were, which the JSON of base.h does not. Reading is strict: no duplicate keys, no lone surrogates, no NaN,
 * no bytes that are not UTF-8, no nesting beyond JNODE_DEPTH.
 */
enum { JNODE_DEPTH = 512 };

enum jkind { JNODE_NULL, JNODE_FALSE, JNODE_TRUE, JNODE_NUMBER, JNODE_STRING, JNODE_ARRAY, JNODE_OBJECT };

struct jnode {
    enum jkind kind;
    const char *key; /* of a member, decoded, terminated; else NULL */
    size_t key_length;
    const char *text; /* a string, decoded and terminated, or a number's lexeme */
    size_t length;
    struct jnode *first, *next; /* of an array or object, in order */
    size_t count;
};

/* A document owns its nodes and texts; the input may go once it is parsed. */
struct jtree {
    struct jnode *root;
    char *text;
    struct jnode_block *blocks;
};

/* `what` begins the message of a failure. Errors: FORMAT, MEMORY. */
int jtree_parse(const char *bytes, size_t count, const char *what, struct jtree *tree, struct sonde_error *e);
void jtree_release(struct jtree *tree);

/* The member of an object, or NULL: also for a node that is NULL, null or no object, and for a member that is
 * null. */
const struct jnode *jnode_get(const struct jnode *object, const char *key);

/* What Python takes for true: neither null, false, 0, "" nor empty; NULL is not. */
bool jnode_truth(const struct jnode *node);

/* The value of a number as a double; false for anything else. */
bool jnode_number(const struct jnode *node, double *value);

/* A node of that kind, or the string `text`; false for NULL. */
bool jnode_is(const struct jnode *node, enum jkind kind);
bool jnode_says(const struct jnode *node, const char *text);

/* json.dumps(ensure_ascii=False), and the same of a string; what is not UTF-8 becomes U+FFFD. */
void jnode_write(struct buf *b, const struct jnode *node);
void json_write_string(struct buf *b, const char *text, size_t count);

/* ---------------------------------------------------------------------------------- tokenizer */

/* sonde_tokenizer_open() of a tokenizer.json held in memory. `what` names it in messages. */
int text_tokenizer_parse(const char *json, size_t bytes, const char *what, sonde_tokenizer **tokenizer,
                         struct sonde_error *e);

/* The bytes a token stands for, which need not be whole characters; *count 0: it has none. */
void text_token_bytes(const sonde_tokenizer *tokenizer, int32_t id, const char **bytes, size_t *count);

/* Appends bytes as they are spelled in the byte-level alphabet, in which each is one character. */
void text_spell(struct buf *b, const char *bytes, size_t count);

/* map [vocab]: compact ids of tokens, 0 to *count - 1, alike where their texts are the same word; ids that the
 * tokenizer lacks are all alike. Errors: MEMORY. */
int text_compact_ids(const sonde_tokenizer *tokenizer, uint32_t vocab, int64_t *map, int64_t *count,
                     struct sonde_error *e);

/* Bytes [begin, end) of a text. */
struct text_range {
    size_t begin, end;
};

/* sonde_tokenizer_encode() with SONDE_MARKUP_TOKENS, except that added tokens which begin inside one of
 * `typed` (ascending, disjoint) are text like any other. Pieces still run across the borders of ranges, so
 * that where nobody typed markup the ids are those of the whole prompt. Errors: ARGUMENT (text too long),
 * UNSUPPORTED (a split pattern gives up on this text), MEMORY. */
int text_tokenizer_encode_typed(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                                const struct text_range *typed, size_t typed_count, int32_t **ids, size_t *count,
                                struct sonde_error *e);

/* The pieces that a text is cut into before merging, in order, as sonde_tokenizer_encode() with SONDE_MARKUP_TEXT cuts
 * it: together they are the text, but for what Removed patterns drop. piece() gets bytes that are valid during the call
 * and returns 0, or an error that ends the walk. Errors: those of text_tokenizer_encode_typed(), and piece()'s. */
int text_tokenizer_split(const sonde_tokenizer *tokenizer, const char *text, size_t bytes,
                         int (*piece)(void *context, const char *bytes, size_t count), void *context,
                         struct sonde_error *e);

/* --------------------------------------------------------------------------------------- chat */

/* sonde_chat_render() that also tells which bytes of the prompt came out of messages: *typed (the caller
 * free()s it) for text_tokenizer_encode_typed(). So a user who types "<|User|>" cannot forge a turn. */
int text_chat_render(enum sonde_chat_format format, const char *request, size_t bytes, char **prompt, size_t *length,
                     struct text_range **typed, size_t *typed_count, struct sonde_error *e);

/* True if "reasoning_effort" of that format may be this: a name without its quotes, or a number's digits. */
bool text_chat_takes_effort(enum sonde_chat_format format, const char *effort);

/*
 * An assistant's message as the ids it was when it was sampled: all that followed the think mark (<think> or
 * </think>) of the prompt, up to the token that ended it and without that.
 *
 * The first `reasoning` ids are what it thought, </think> included. They are left out where the prompt leaves out
 * reasoning (drop_thinking, thinking_mode), so that a caller need not know. 0: the ids are the content alone, and
 * reasoning that the prompt keeps is tokenized from the message. An answer that never came to its </think> has no
 * ids that fit: it is left to be tokenized, or </think> is put behind its ids.
 */
struct text_replay {
    size_t message; /* index in "messages" */
    const int32_t *ids;
    size_t count, reasoning;
};

/* text_chat_render() and text_tokenizer_encode_typed() in one. What came out of messages is text and never markup;
 * replayed messages are their ids instead of their text. replays: by ascending message. *ids: the caller free()s
 * them. *thinking (may be NULL): the prompt ends in <think>, so that the answer begins with reasoning. A last
 * assistant's message with "wo_eos" is not ended, and the answer continues it. Errors: FORMAT (names message and
 * field), ARGUMENT (a replay of a message that is not an assistant's, or out of order; text too long), UNSUPPORTED,
 * MEMORY. */
int text_chat_encode(const sonde_tokenizer *tokenizer, enum sonde_chat_format format, const char *request, size_t bytes,
                     const struct text_replay *replays, size_t replay_count, int32_t **ids, size_t *count,
                     bool *thinking, struct sonde_error *e);

/* text_chat_encode() of a conversation to learn from: *answers, which the caller free()s too, are the ids [begin, end)
 * that an assistant says, in order: its reasoning where the prompt keeps it, its content, its calls, and the token
 * that ends it. Errors: FORMAT (names message and field), ARGUMENT (text too long), UNSUPPORTED, MEMORY. */
int text_chat_encode_answers(const sonde_tokenizer *tokenizer, enum sonde_chat_format format, const char *request,
                             size_t bytes, int32_t **ids, size_t *count, struct text_range **answers,
                             size_t *answer_count, struct sonde_error *e);

/* ------------------------------------------------------------------------------------- streams */

/*
 * sonde_chat_parse() of a completion that is still being written. Text leaves as soon as it is known what it is, and
 * nothing is taken back:
 *
 *     reasoning, content   at once, but for what may begin </think>, a tag, or the blank line before a block
 *     a call               its name when what follows its invoke tag begins like a tag, or the call is over
 *     its arguments        a string while it is written, any other value when it is whole
 *
 * The pieces of a call's arguments make one JSON object, whatever the model writes and wherever it stops. The events
 * of a well-formed completion make exactly the message of sonde_chat_parse(), in whatever pieces it comes; where the
 * two differ for others, docs/formats.md says. However the text is cut, the same message comes out.
 *
 *     open, push as often as there is text, finish, close
 */
enum text_event_kind {
    TEXT_REASONING,
    TEXT_CONTENT,
    TEXT_CALL,      /* a call begins; text: the function's name */
    TEXT_ARGUMENTS, /* a piece of its arguments' JSON */
    TEXT_CALL_END,  /* no text */
};

struct text_event {
    enum text_event_kind kind;
    bool whole;       /* of CALL_END: its closing tag was read. Else it was cut off, left open or broken */
    size_t call;      /* which call, from 0; calls do not overlap */
    const char *text; /* whole characters of UTF-8, not terminated, valid during the call */
    size_t bytes;
};

struct text_stream_options {
    bool thinking; /* the prompt ended in <think> */
    bool tools;    /* false: markup of calls is text like any other */
};

struct text_stream;

/* Errors: MEMORY. */
int text_stream_open(const struct text_stream_options *options, struct text_stream **stream, struct sonde_error *e);
void text_stream_close(struct text_stream *stream); /* NULL is fine */

/* Takes a piece of the completion and reports what is clear by now through event(). finish() reports the rest; nothing
 * is pushed after it. Errors: MEMORY, and then at every further call. */
int text_stream_push(struct text_stream *stream, const char *text, size_t bytes,
                     void (*event)(void *context, const struct text_event *event), void *context,
                     struct sonde_error *e);
int text_stream_finish(struct text_stream *stream, void (*event)(void *context, const struct text_event *event),
                       void *context, struct sonde_error *e);

/* True while what comes is reasoning. */
bool text_stream_is_reasoning(const struct text_stream *stream);

/* ----------------------------------------------------------------------------------- grammars */

/*
 * What an answer may be, as masks of tokens: JSON by a schema, or tool calls. A grammar is compiled once and may be
 * shared by threads; a constraint follows one answer:
 *
 *     text_grammar_schema(schema, "response_format", &grammar, e);       compiled; once a request
 *     text_vocabulary_open(tokenizer, V, &vocabulary, e);                once a model
 *     text_constraint_open(grammar, vocabulary, &constraint, e);         once an answer
 *     for (;;) {
 *         const uint32_t *allowed = text_constraint_allowed(constraint, &may_end);
 *         ...draw among allowed, and the end tokens if may_end...
 *         text_constraint_push(constraint, id);
 *     }
 *
 * Every answer that was drawn so and ended is valid, and from every place it can still end: there is always a token,
 * or may_end. docs/formats.md says which keywords are taken, in what order and with what space JSON may be written.
 */
struct text_grammar;

/* JSON that fits the schema; with NULL any JSON object. `what` begins messages, which name the place in the schema.
 * The schema is not needed afterwards. Errors: FORMAT (no valid schema, or no value fits it), UNSUPPORTED (a keyword,
 * or too large a schema), MEMORY. */
int text_grammar_schema(const struct jnode *schema, const char *what, struct text_grammar **grammar,
                        struct sonde_error *e);

enum text_tool_choice {
    TEXT_TOOLS_AUTO,     /* any text, and from where "<|DSML|" (with its bars) comes, a block of calls that ends it */
    TEXT_TOOLS_REQUIRED, /* nothing but such a block */
};

struct text_tools_options {
    enum sonde_chat_format format; /* how calls are spelled */
    enum text_tool_choice choice;
    const char *only; /* the name of the only tool to be called; NULL: any */
    bool single;      /* no more than one call */
};

/* Calls of `tools`, a list as OpenAI has it: [{"type": "function", "function": {"name", "parameters", "strict"}}].
 * Parameters follow their schemas. Where that of a tool that is not strict has something that is not supported, only
 * names and what is understood of them are held to. Errors: FORMAT, UNSUPPORTED (strict tools only), ARGUMENT (there is
 * no tool `only`, or none at all), MEMORY. */
int text_grammar_tools(const struct jnode *tools, const struct text_tools_options *options, const char *what,
                       struct text_grammar **grammar, struct sonde_error *e);

void text_grammar_free(struct text_grammar *grammar); /* constraints that are open keep it */

/* The tokens of a tokenizer, laid out for masks; read-only, shared by threads. The tokenizer must outlive it. */
struct text_vocabulary;

/* `size` is how many logits there are; ids from sonde_tokenizer_size() on are never allowed. Errors: MEMORY. */
int text_vocabulary_open(const sonde_tokenizer *tokenizer, uint32_t size, struct text_vocabulary **vocabulary,
                         struct sonde_error *e);
void text_vocabulary_close(struct text_vocabulary *vocabulary);

/* One answer being written, by one thread. The vocabulary must outlive it. It begins where the answer does: behind
 * </think>, where there is one. */
struct text_constraint;

/* Errors: MEMORY. */
int text_constraint_open(struct text_grammar *grammar, const struct text_vocabulary *vocabulary,
                         struct text_constraint **constraint, struct sonde_error *e);
void text_constraint_close(struct text_constraint *constraint);

/* A bit for each token that may come next, (size + 31) / 32 words; NULL: any may. Tokens that end an answer are not
 * among them: *may_end says whether it may end here. Valid until the next push. After a failed push, and when memory
 * runs out, nothing but the end may come. */
const uint32_t *text_constraint_allowed(struct text_constraint *constraint, bool *may_end);

/* The token that was drawn. False: it was not allowed. */
bool text_constraint_push(struct text_constraint *constraint, int32_t id);

#endif
