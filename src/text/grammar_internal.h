/*
 * grammar_internal.h - what a grammar is made of, and the machine that reads answers by it.
 *
 *     schema  --grammar_schema.c, grammar_shape.c-->  nodes  --grammar_finish.c-->  nodes without dead ends
 *     tools   --grammar_tools.c-->  the same, with the markup of calls around them
 *     nodes   --grammar_machine.c, _json.c, _calls.c, _keys.c-->  states, a byte at a time
 *     states  --grammar_constraint.c, with the trie of grammar_vocabulary.c-->  masks of tokens
 *
 * A node is a set of values: a list of shapes, of which the value has one. A shape says for each type of JSON what
 * values of that type there are. What is regular in them (texts of strings, names of members, numbers) is a
 * deterministic automaton over bytes. Texts are matched in UTF-8; escapes are undone by the machine.
 *
 * The invariant everything rests on: from every state that can be reached the end can be reached. Automata are
 * trimmed, members and items that can have no value are left out, and the machine enters nothing that it might not
 * be able to leave. So no answer can come to a place where no token is allowed.
 */
#ifndef TEXT_GRAMMAR_INTERNAL_H
#define TEXT_GRAMMAR_INTERNAL_H

#include <stdatomic.h>

#include "text/text_internal.h"

#define NONE      UINT32_MAX
#define UNBOUNDED UINT32_MAX

/* -------------------------------------------------------------------------------------- records */

/* Records of one size, each kept once: equal records have the same number. {.record = size} is an empty table;
 * padding bytes in records must be 0. */
struct interned {
    size_t record;
    uint32_t count, cap, mask;
    uint8_t *data;
    uint32_t *rows; /* open hash table of number + 1; 0: free */
};

/* The number of a record, from 0 in order of arrival; NONE: out of memory. */
uint32_t interned_id(struct interned *t, const void *record);
void interned_release(struct interned *t);

static inline const void *interned_at(const struct interned *t, uint32_t id) {
    return t->data + (size_t)id * t->record;
}

/* --------------------------------------------------------------------------------------- budget */

/* What compiling one grammar may cost. Everything that could grow with a hostile schema spends from it. */
struct budget {
    uint64_t work;
    const char *what; /* begins messages */
    struct sonde_error *e;
};

/* Errors: UNSUPPORTED (too large a grammar). */
int budget_spend(struct budget *b, uint64_t work);

/* -------------------------------------------------------------------------------------- automata */

enum { DFA_DEAD = 0xffff, DFA_STATES = 20000 };

/* A deterministic automaton over bytes; it begins in state 0. count 0: it accepts nothing. Every state of a trimmed
 * one leads to one that accepts. */
struct dfa {
    uint32_t count, classes;
    uint8_t class_of[256];
    uint16_t *next;  /* [count][classes]; DFA_DEAD */
    uint32_t *label; /* [count]; 0: does not accept */
};

static inline uint32_t dfa_step(const struct dfa *d, uint32_t state, uint8_t byte) {
    return d->next[state * d->classes + d->class_of[byte]];
}

struct dfa *dfa_new(uint32_t count, uint32_t classes);
void dfa_free(struct dfa *d);

/* The state after `bytes`, or DFA_DEAD. */
uint32_t dfa_run(const struct dfa *d, const char *bytes, size_t count);

/* What the label of a pair of states is made of. */
enum dfa_op {
    DFA_AND,   /* both accept: the label of a */
    DFA_MINUS, /* a accepts, b does not: the label of a */
    DFA_TAG,   /* a accepts: its label, with the bits of b's where b accepts too. DFA_TAG + n: b's shifted left by n */
};

/* *out is trimmed. Errors: UNSUPPORTED (too large), MEMORY. */
int dfa_product(const struct dfa *a, const struct dfa *b, int op, struct budget *g, struct dfa **out);

/* Drops states that cannot reach one that accepts. Errors: MEMORY. */
int dfa_trim(struct dfa *d, struct budget *g);

struct word {
    const char *text;
    size_t length;
    uint32_t label;
};

/* Accepts exactly these, which differ. Errors: UNSUPPORTED, MEMORY. */
int dfa_words(const struct word *words, size_t count, struct budget *g, struct dfa **out);

/* All texts of min to max characters (UNBOUNDED: no limit), for dfa_product() with texts in UTF-8: it counts lead
 * bytes. Errors: UNSUPPORTED, MEMORY. */
int dfa_lengths(uint32_t min, uint32_t max, struct budget *g, struct dfa **out);

/* How many characters of any text that `plain` accepts (it accepts between characters, and no others) each state is
 * sure to take, in states of which `fits` (NULL: all) is set; ENDLESS: any number. *room has a byte a state. Errors:
 * UNSUPPORTED, MEMORY. */
int dfa_room(const struct dfa *d, const struct dfa *plain, const uint8_t *fits, struct budget *g, uint8_t **room);

enum { ENDLESS = 255 };

/* ECMA-262 regular expressions (the u flag is assumed), found anywhere in a text. `where` names the keyword. Errors:
 * FORMAT, UNSUPPORTED, MEMORY. */
int dfa_regex(const char *source, size_t bytes, const char *where, struct budget *g, struct dfa **out);

/* A number written in decimals: 0.d1d2d3... times 10^point. Zero has no digits. */
struct decimal {
    bool negative;
    uint32_t count; /* digits, the first and last of which are not 0 */
    int32_t point;
    uint8_t digits[64];
};

/* False: more digits than there is room for, or too far from 1. */
bool decimal_read(const char *lexeme, size_t bytes, struct decimal *d);
bool decimal_equal(const struct decimal *a, const struct decimal *b);
/* The shortest spelling without an exponent. */
void decimal_write(const struct decimal *d, struct buf *b);

struct number_range {
    const struct decimal *low, *high, *multiple; /* NULL: none */
    bool above, below;                           /* low or high itself is left out */
    bool whole;                                  /* integers only */
};

/* Spellings without exponent of the numbers in a range. Errors: UNSUPPORTED (`where` names the keyword), MEMORY. */
int dfa_numbers(const struct number_range *r, const char *where, struct budget *g, struct dfa **out);

/* ---------------------------------------------------------------------------------------- nodes */

struct string_part {
    const struct dfa *texts; /* NULL: no strings */
    uint32_t min, max;       /* characters; other than 0 and UNBOUNDED only if free */
    bool free;               /* any text: then all escapes are taken */
    uint8_t *room;           /* dfa_room() of texts */
};

struct array_part {
    uint32_t *prefix, prefix_count, items; /* nodes */
    uint32_t min, max;
    uint32_t height; /* of the lowest such array: 1 and more; NONE: there is none */
};

/* What members of one kind hold. Classes before object_part.names have one name each. */
struct key_class {
    uint32_t value; /* node */
    uint32_t text;  /* parameters of calls: node of the strings, and value that of all else; else NONE */
};

struct object_part {
    const struct dfa *keys; /* label: class + 1 */
    struct key_class *classes;
    uint32_t class_count, names, words; /* words of 64 bits in a set of names */
    uint64_t *required;                 /* set of names */
    uint32_t required_count, min, max;
    uint64_t *reach; /* [keys->count][words]: names that can still be reached */
    uint8_t *others; /* [keys->count]: how many other keys can; ENDLESS */
    uint8_t *room;   /* dfa_room() of keys: others without end all along */
    uint32_t height;
};

struct shape {
    uint32_t number;              /* in the grammar's list */
    const struct dfa *scalars[2]; /* numbers as written; null, true, false. NULL: none */
    struct string_part string;
    struct array_part *array;
    struct object_part *object;
};

struct gnode {
    struct shape *own;         /* or NULL */
    uint32_t *kids, kid_count; /* nodes: the value may also be one of theirs */
    struct shape **shapes;     /* its own and all of its kids' */
    uint32_t shape_count;
    uint32_t height; /* of its lowest value: 0 for scalars; NONE: it has no values */
};

enum grammar_kind { GRAMMAR_JSON, GRAMMAR_TOOLS };

struct chat_format;

struct text_grammar {
    atomic_uint references;
    enum grammar_kind kind;
    struct gnode *nodes;
    uint32_t node_count, node_cap;
    struct shape **shapes; /* all, by number */
    uint32_t shape_count, shape_cap;
    struct dfa **automata;
    uint32_t automaton_count, automaton_cap;
    const struct dfa *texts;  /* any text */
    const struct dfa *values; /* any text that can be a parameter's */
    uint32_t words;           /* most words of any object_part */
    uint32_t root;            /* JSON: node */
    bool required, parallel;  /* TOOLS */
    const struct chat_format *format;
    const struct dfa *tools; /* names of tools: label is tool + 1 */
    uint32_t *parameters;    /* node of each */
};

/* Containers nested this deep hold nothing they need not hold. */
enum { GRAMMAR_DEPTH = 256 };

/* -------------------------------------------------------------------------------------- building */

enum { GRAMMAR_NODES = 8192, GRAMMAR_PATTERNS = 12, GRAMMAR_NAMES = 2000, GRAMMAR_BRANCHES = 512 };

/* One of several schemas that a value must fulfil together. */
enum part_kind {
    PART_SCHEMA,  /* a schema */
    PART_OWN,     /* its own keywords, without those that only combine others */
    PART_CHOICE,  /* an array of schemas, one of which must hold */
    PART_LITERAL, /* a value, which this must equal */
};

struct part {
    const struct jnode *node;
    uintptr_t kind;
};

/* How members are written. */
enum { NODE_JSON = 0, NODE_CALL = 1, NODE_VALUE = 2 }; /* a call's parameters; a parameter's text as it stands */

/* What a node stands for: all parts hold. */
struct conjunction {
    struct part *parts;
    uint32_t count, cap;
    uint32_t mode;
};

struct build {
    struct text_grammar *g;
    const struct jnode *root;    /* of the schema, for references */
    struct conjunction *meaning; /* of each node */
    uint32_t meaning_cap;
    uint32_t *table, table_mask; /* nodes by meaning */
    uint32_t done;               /* nodes that have their shapes and kids */
    struct buf exclusive;        /* struct exclusive: each oneOf that was met */
    struct buf disjoint;         /* struct disjoint */
    struct buf patterns;         /* struct known_pattern, of grammar_scalar.c */
    struct jtree builtin;
    struct dfa *plain, *plain_value; /* what vocabularies count as plain in strings, and in texts of parameters */
    struct budget budget;
};

/* A oneOf, and the schema it stands in. */
struct exclusive {
    const struct jnode *schema, *branches;
};

/* A node that must be without values: two branches of a oneOf may not both hold. */
struct disjoint {
    const struct jnode *branches;
    uint32_t node;
};

int build_open(struct build *b, struct text_grammar *g, const char *what, struct sonde_error *e);
void build_release(struct build *b);

/* The node of a conjunction, new or known; its shapes come later. Releases the conjunction. Errors: as
 * text_grammar_schema(). */
int build_node(struct build *b, struct conjunction *c, uint32_t *node);
void conjunction_release(struct conjunction *c);

/* The same down to own keywords, choices and literals: `from` becomes `to`, sorted. */
int build_expand(struct build *b, const struct conjunction *from, struct conjunction *to);
/* Adds a part, once. Errors: MEMORY, UNSUPPORTED. */
int conjunction_add(struct build *b, struct conjunction *c, enum part_kind kind, const struct jnode *node);

/* The node of one schema, and of all that it refers to. */
int build_schema(struct build *b, const struct jnode *schema, uint32_t mode, uint32_t *node);

/* grammar_shape.c: the shape of a conjunction that is down to own keywords and literals. */
int build_shape(struct build *b, const struct conjunction *c, uint32_t node);

/* Its parts: `literal` is the array or object that the value must equal, or NULL. */
int build_strings(struct build *b, const struct conjunction *c, struct string_part *part);
int build_numbers(struct build *b, const struct conjunction *c, bool whole, const struct dfa **numbers);
int build_array(struct build *b, const struct conjunction *c, const struct jnode *literal, struct array_part **part);
int build_object(struct build *b, const struct conjunction *c, const struct jnode *literal, struct object_part **part);
void object_free(struct object_part *o);

/* The largest of the whole numbers that schemas of c have for `least`, the smallest for `most`; else 0, UNBOUNDED. */
int build_bounds(struct build *b, const struct conjunction *c, const char *least, const char *most, uint32_t *min,
                 uint32_t *max);

/* Gives a node one more kid. */
int build_kid(struct build *b, uint32_t node, uint32_t kid);

/* Makes an automaton the grammar's own. It is freed if that fails. */
int build_keep(struct build *b, struct dfa *d, const struct dfa **kept);

/* A member of a schema, also one that is null; NULL: there is none. */
const struct jnode *schema_member(const struct jnode *schema, const char *key);

/* The texts that a regular expression matches; `place` is where it stands. */
int build_pattern(struct build *b, const struct jnode *place, const char *source, size_t bytes, const struct dfa **d);

/* Finds heights, and with them that `node` has a value (else FORMAT) and that branches of each oneOf met since the last
 * call exclude each other (else UNSUPPORTED). */
int build_check(struct build *b, uint32_t node);

/* Takes dead ends out of what can be reached from `roots`, and makes what the machine looks up. Errors: UNSUPPORTED
 * (too large), MEMORY. */
int build_finish(struct build *b, const uint32_t *roots, size_t count);

/* A schema of builtin: "any", "object", "string", "other", "none". */
const struct jnode *build_builtin(const struct build *b, const char *name);

/* Fails with UNSUPPORTED, or with FORMAT, and the place of `node` in the schema. */
int build_refuse(struct build *b, const struct jnode *node, const char *why, ...) PRINTF_LIKE(3, 4);
int build_malformed(struct build *b, const struct jnode *node, const char *why, ...) PRINTF_LIKE(3, 4);

/* ---------------------------------------------------------------------------------------- machine */

/* The token ｜DSML｜ as one symbol, where a vocabulary has it. No UTF-8 holds this byte. */
enum { SYMBOL_DSML = 0xfe, SYMBOL_NEVER = 0xff };

/* Sets of texts: the keys that an object has had. 0 is the empty one. */
struct key_sets {
    struct interned nodes, cells;
};

enum { KEYS_UNKNOWN = 1 }; /* what a key was that ended is known once it has been said */

bool keys_open(struct key_sets *k);
void keys_release(struct key_sets *k);
/* The set with one more text, which it has not; NONE: out of memory. */
uint32_t keys_add(struct key_sets *k, uint32_t set, const char *text, size_t count);
/* What follows `byte` in those that begin with it: a set again. So of several bytes. */
uint32_t keys_step(const struct key_sets *k, uint32_t set, uint8_t byte);
uint32_t keys_run(const struct key_sets *k, uint32_t set, const char *bytes, size_t count);
uint32_t keys_count(const struct key_sets *k, uint32_t set);
/* True if the empty text is in the set. */
bool keys_end(const struct key_sets *k, uint32_t set);
/* The same set elsewhere; NONE: out of memory. */
uint32_t keys_copy(struct key_sets *to, const struct key_sets *from, uint32_t set);

/* Where reading is: one thing that is being read, and what goes on behind it. */
enum frame_kind {
    FRAME_ROOT = 1, /* so that no frame is all 0, which is none */
    FRAME_STRING,
    FRAME_VALUE, /* a parameter's text */
    FRAME_SCALAR,
    FRAME_ARRAY,
    FRAME_OBJECT,
    FRAME_LITERAL,
    FRAME_FREE, /* text outside of calls */
    FRAME_CALLS,
    FRAME_CALL,
};

struct frame {
    uint32_t parent; /* a state */
    uint32_t shape;
    uint8_t kind, phase, space, escape;
    uint32_t at;      /* state of an automaton, class, tool, or literal */
    uint32_t count;   /* characters, items, members, or bytes of a literal */
    uint32_t seen;    /* set of names that came */
    uint32_t keys;    /* set of other keys that came */
    uint32_t residue; /* inside a key: what is left of those that begin like it */
    uint32_t depth;
};

/*
 * States are sets of frames, by number; 0 is the empty one. All of them are alternatives for the same bytes, and all
 * can reach the end. Transitions are remembered.
 */
struct machine {
    const struct text_grammar *g;
    bool markup;            /* ｜DSML｜ comes as a symbol */
    struct interned frames; /* struct frame */
    struct interned cells;  /* struct cell: sets of frames, ascending, as lists */
    struct interned sets;   /* g->words words: sets of names */
    struct key_sets keys;
    uint32_t *row_of, row_of_cap;       /* by state: number of its row + 1 */
    uint32_t *rows, row_count, row_cap; /* [row_count][256] states; NONE: not known yet */
    const char *said;                   /* the key that ends now, when it is known; else NULL */
    size_t said_count;
    struct frame *out;
    uint32_t out_count; /* frames of the state being made */
    uint64_t work;      /* frames stepped since the caller set it to 0 */
    bool failed;        /* out of memory */
};

int machine_open(struct machine *m, const struct text_grammar *g, bool markup, uint32_t *start, struct sonde_error *e);
void machine_release(struct machine *m);

/* The state after a symbol; 0: it may not come. With `said`, keys that end are remembered by it. */
uint32_t machine_step(struct machine *m, uint32_t state, uint8_t symbol);
uint32_t machine_step_said(struct machine *m, uint32_t state, uint8_t symbol, const char *said, size_t count);

/* True if the answer may end here. */
bool machine_may_end(struct machine *m, uint32_t state);
/* True if a key is being read. */
bool machine_in_key(const struct machine *m, uint32_t state);
/* Copies one state into a fresh machine, which drops all others. *state is then its number there. False: out of
 * memory, and nothing happened. Not while in a key. */
bool machine_renew(struct machine *m, uint32_t *state);

/* Walks the frames of a state: *cell is the state at first; NULL at the end. */
const struct frame *machine_next(const struct machine *m, uint32_t *cell);

/* For the parts of the machine among themselves. A step emits the frames of the next state. */
void frame_emit(struct machine *m, const struct frame *f);
uint32_t frame_alone(struct machine *m, const struct frame *f);      /* the state of one frame, to be a parent */
void state_enter(struct machine *m, uint32_t state);                 /* emits its frames, or what they begin with */
void state_go_on(struct machine *m, uint32_t state, uint8_t symbol); /* the same after one more symbol */
void json_step(struct machine *m, const struct frame *f, uint8_t symbol);
void call_step(struct machine *m, const struct frame *f, uint8_t symbol);
/* True if f begins with something else, which was emitted. */
bool call_enter(struct machine *m, const struct frame *f);

/* The first byte of a value of a node; `behind` is the frame that goes on after it. */
void value_start(struct machine *m, uint32_t node, const struct frame *behind, uint8_t symbol);

/* A byte of a text as it stands. */
void text_step(struct machine *m, const struct frame *f, uint8_t symbol);

/* Blank space inside JSON: how much there was after one more byte of it; 0 if that may not come. */
uint8_t space_step(uint8_t space, uint8_t symbol);

/* Objects, and calls by their parameters. */
const struct object_part *frame_object(const struct machine *m, const struct frame *f);
bool object_may_close(const struct machine *m, const struct frame *f);
bool key_may_come(struct machine *m, const struct frame *f);
/* f, which is before a key, becomes one inside it. */
void key_begin(struct frame *f);
/* A byte of a key: true with f after it. */
bool key_step(struct machine *m, struct frame *f, uint8_t symbol);
/* The closing quotation mark: true with f behind it, f->at the class of the key. */
bool key_end(struct machine *m, struct frame *f);
/* How many characters of plain text are sure to be taken inside the key; ENDLESS. */
uint32_t key_room(struct machine *m, const struct frame *f);

/* Of arrays and objects, and of the parameters of a call. */
enum { PHASE_FIRST, PHASE_NEXT, PHASE_KEY, PHASE_COLON, PHASE_VALUE, PHASE_AFTER, PHASE_CLOSE };
enum { ROOT_BEGIN, ROOT_END };

#endif
