/*
 * grammar.c - grammars from schemas and from lists of tools.
 *
 * A tool that is not strict may have any schema; what is not understood of it is then let go, property by property,
 * so that its calls are at least written so that they can be read. As nothing of a grammar that failed is kept, the
 * list is compiled anew each time a tool is found to need that.
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/grammar_internal.h"

enum { TOOLS_MAX = 1024, NAME_MAX_BYTES = 128, TRIED_PROPERTIES = 64 };

static void grammar_destroy(struct text_grammar *g) {
    for (uint32_t i = 0; i < g->node_count; i++) {
        free(g->nodes[i].kids);
        free(g->nodes[i].shapes);
    }
    for (uint32_t i = 0; i < g->shape_count; i++) {
        if (g->shapes[i]->array)
            free(g->shapes[i]->array->prefix);
        free(g->shapes[i]->array);
        object_free(g->shapes[i]->object);
        free(g->shapes[i]->string.room);
        free(g->shapes[i]);
    }
    for (uint32_t i = 0; i < g->automaton_count; i++)
        dfa_free(g->automata[i]);
    free(g->nodes);
    free(g->shapes);
    free(g->automata);
    free(g->parameters);
    free(g);
}

void text_grammar_free(struct text_grammar *grammar) {
    if (grammar && atomic_fetch_sub(&grammar->references, 1) == 1)
        grammar_destroy(grammar);
}

static struct text_grammar *grammar_new(enum grammar_kind kind) {
    struct text_grammar *g = calloc(1, sizeof(*g));
    if (g) {
        g->kind = kind;
        atomic_init(&g->references, 1);
    }
    return g;
}

/* ------------------------------------------------------------------------------------------ schemas */

static int compile_schema(struct text_grammar *g, const struct jnode *schema, const char *what, struct sonde_error *e) {
    struct build b;
    int rc = build_open(&b, g, what, e);
    if (!rc)
        rc = build_schema(&b, schema ? schema : build_builtin(&b, "object"), NODE_JSON, &g->root);
    rc = rc ? rc : build_check(&b, g->root);
    rc = rc ? rc : build_finish(&b, &g->root, 1);
    build_release(&b);
    return rc;
}

int text_grammar_schema(const struct jnode *schema, const char *what, struct text_grammar **grammar,
                        struct sonde_error *e) {
    struct text_grammar *g = grammar_new(GRAMMAR_JSON);
    int rc = g ? compile_schema(g, schema, what, e) : err_memory(e);
    if (rc)
        text_grammar_free(g);
    else
        *grammar = g;
    return rc;
}

/* -------------------------------------------------------------------------------------------- tools */

struct tool {
    struct buf name;                /* as calls have it */
    const struct jnode *parameters; /* NULL: none */
    bool strict, lenient;
    struct jtree simpler; /* if lenient: what is held to */
    size_t index;         /* in the list that was given */
};

struct tools {
    struct tool *all;
    size_t count;
    const struct chat_format *format;
    const char *what;
    struct sonde_error *e;
};

static void write_copy(struct buf *b, const char *key, const struct jnode *value) {
    if (!value)
        return;
    buf_printf(b, ", \"%s\": ", key);
    jnode_write(b, value);
}

/* True if a schema compiles as a property beside definitions. */
static bool property_compiles(const struct jnode *property, const struct jnode *schema) {
    struct text_grammar *g = NULL;
    struct buf b = {0};
    struct jtree tree;
    buf_string(&b, "{\"properties\": {\"x\": ");
    jnode_write(&b, property);
    buf_byte(&b, '}');
    write_copy(&b, "$defs", schema_member(schema, "$defs"));
    write_copy(&b, "definitions", schema_member(schema, "definitions"));
    buf_byte(&b, '}');
    bool compiles = !b.failed && jtree_parse(b.data, b.len, "", &tree, NULL) == 0;
    if (compiles) {
        compiles = text_grammar_schema(tree.root, "", &g, NULL) == 0;
        text_grammar_free(g);
        jtree_release(&tree);
    }
    buf_release(&b);
    return compiles;
}

/* A schema that keeps of a tool's own the properties that compile, the names of others, and what is required. */
static int simplify(struct tool *tool, struct sonde_error *e) {
    const struct jnode *schema = tool->parameters, *list = schema_member(schema, "properties");
    const struct jnode *required = schema_member(schema, "required");
    struct buf b = {0};
    bool tried = list && list->count <= TRIED_PROPERTIES;
    buf_string(&b, "{\"type\": \"object\", \"properties\": {");
    for (const struct jnode *n = jnode_is(list, JNODE_OBJECT) ? list->first : NULL; n; n = n->next) {
        json_write_string(&b, n->key, n->key_length);
        buf_string(&b, ": ");
        if (tried && property_compiles(n, schema))
            jnode_write(&b, n);
        else
            buf_string(&b, "true");
        buf_string(&b, n->next ? ", " : "");
    }
    buf_byte(&b, '}');
    for (const struct jnode *n = jnode_is(required, JNODE_ARRAY) ? required->first : NULL; n && required; n = n->next)
        if (n->kind != JNODE_STRING)
            required = NULL;
    write_copy(&b, "required", jnode_is(required, JNODE_ARRAY) ? required : NULL);
    write_copy(&b, "$defs", schema_member(schema, "$defs"));
    write_copy(&b, "definitions", schema_member(schema, "definitions"));
    buf_byte(&b, '}');
    int rc = b.failed ? err_memory(e) : jtree_parse(b.data, b.len, "parameters", &tool->simpler, e);
    buf_release(&b);
    tool->lenient = true;
    return rc;
}

/* Of `node`: its name by itself, and as calls have it. */
static int read_name(const struct tools *t, const struct jnode *node, struct tool *tool, struct tool_name *name) {
    struct buf *n = &tool->name;
    bool single = tool_name_read(t->format, node, name);
    if (!jnode_is(name->name, JNODE_STRING) || !name->name->length)
        return err_set(t->e, SONDE_ERROR_FORMAT, "%s[%zu].function.name: a string is expected", t->what, tool->index);
    if (!single)
        return err_set(t->e, SONDE_ERROR_FORMAT, "%s[%zu].namespace: one namespace at most is expected", t->what,
                       tool->index);
    tool_name_write(n, name);
    if (n->failed)
        return err_memory(t->e);
    for (size_t i = 0; i < n->len; i++)
        if (n->data[i] <= ' ' || n->data[i] == 0x7f || strchr("\"'<>", n->data[i]) || n->len > NAME_MAX_BYTES)
            return err_set(t->e, SONDE_ERROR_UNSUPPORTED,
                           "%s[%zu].function.name: at most %d ASCII characters, none of them space, quote or angle "
                           "bracket, are expected",
                           t->what, tool->index, NAME_MAX_BYTES);
    for (const struct tool *other = t->all; other < tool; other++)
        if (other->name.len == n->len && memcmp(other->name.data, n->data, n->len) == 0)
            return err_set(t->e, SONDE_ERROR_FORMAT, "%s[%zu].function.name: \"%s\" comes twice", t->what, tool->index,
                           n->data);
    return SONDE_OK;
}

/* True if `only` asks for this tool: by its whole name, or by the one it has in its namespace. */
static bool is_asked_for(const struct tool *tool, const struct tool_name *name, const char *only) {
    return !only || strcmp(tool->name.data, only) == 0 || jnode_says(name->name, only);
}

/* The tools that may be called. */
static int read_tools(struct tools *t, const struct jnode *list, const char *only) {
    if (!jnode_is(list, JNODE_ARRAY) || list->count > TOOLS_MAX)
        return err_set(t->e, SONDE_ERROR_FORMAT, "%s: a list of at most %d tools is expected", t->what, TOOLS_MAX);
    t->all = calloc(list->count + 1, sizeof(*t->all));
    if (!t->all)
        return err_memory(t->e);
    size_t index = 0;
    for (const struct jnode *n = list->first; n; n = n->next, index++) {
        const struct jnode *function = jnode_get(n, "function");
        struct tool *tool = &t->all[t->count];
        struct tool_name name;
        buf_release(&tool->name);
        *tool = (struct tool){.parameters = jnode_get(function, "parameters"),
                              .strict = jnode_truth(jnode_get(function, "strict")),
                              .index = index};
        int rc = read_name(t, n, tool, &name);
        if (rc)
            return rc;
        t->count += is_asked_for(tool, &name, only);
    }
    if (!t->count)
        return err_set(t->e, SONDE_ERROR_ARGUMENT, only ? "%s: there is no tool \"%s\"" : "%s: there is no tool",
                       t->what, only);
    return SONDE_OK;
}

static int compile_names(struct build *b, const struct tools *t) {
    struct word *words = malloc((t->count + 1) * sizeof(*words));
    struct dfa *names;
    if (!words)
        return err_memory(t->e);
    for (size_t i = 0; i < t->count; i++)
        words[i] = (struct word){t->all[i].name.data, t->all[i].name.len, (uint32_t)i + 1};
    int rc = dfa_words(words, t->count, &b->budget, &names);
    free(words);
    return rc ? rc : build_keep(b, names, &b->g->tools);
}

/* *failed is the tool that it failed for, or count. */
static int compile_tools(struct text_grammar *g, const struct tools *t, size_t *failed) {
    struct build b;
    char what[256];
    int rc = build_open(&b, g, t->what, t->e);
    rc = rc ? rc : compile_names(&b, t);
    g->parameters = calloc(t->count, sizeof(*g->parameters));
    if (!rc && !g->parameters)
        rc = err_memory(t->e);
    *failed = rc ? t->count : 0;
    for (; *failed < t->count && !rc; *failed += !rc) {
        const struct tool *tool = &t->all[*failed];
        const struct jnode *schema = tool->parameters ? tool->parameters : build_builtin(&b, "none");
        if (tool->lenient)
            schema = tool->simpler.root ? tool->simpler.root : build_builtin(&b, "object");
        snprintf(what, sizeof(what), "%.200s[%zu].function.parameters", t->what, tool->index);
        b.budget.what = what;
        rc = build_schema(&b, schema, NODE_CALL, &g->parameters[*failed]);
        rc = rc ? rc : build_check(&b, g->parameters[*failed]);
    }
    b.budget.what = t->what;
    rc = rc ? rc : build_finish(&b, g->parameters, t->count);
    build_release(&b);
    return rc;
}

/* True if compiling may succeed with that tool held to less. */
static int let_go(struct tools *t, size_t failed, int rc, struct sonde_error *e) {
    struct tool *tool = &t->all[failed < t->count ? failed : 0];
    if (failed >= t->count || tool->strict || (rc != SONDE_ERROR_UNSUPPORTED && rc != SONDE_ERROR_FORMAT))
        return rc;
    if (!tool->lenient)
        return simplify(tool, e);
    if (!tool->simpler.root)
        return rc;
    jtree_release(&tool->simpler);
    return SONDE_OK;
}

int text_grammar_tools(const struct jnode *tools, const struct text_tools_options *options, const char *what,
                       struct text_grammar **grammar, struct sonde_error *e) {
    struct tools t = {.format = chat_format_view(options->format), .what = what, .e = e};
    struct text_grammar *g = NULL;
    size_t failed = 0;
    int rc = read_tools(&t, tools, options->only);
    while (!rc) {
        g = grammar_new(GRAMMAR_TOOLS);
        rc = g ? compile_tools(g, &t, &failed) : err_memory(e);
        if (!rc)
            break;
        text_grammar_free(g);
        rc = let_go(&t, failed, rc, e);
    }
    if (!rc) {
        g->format = t.format;
        g->required = options->choice == TEXT_TOOLS_REQUIRED;
        g->parallel = !options->single;
        *grammar = g;
    }
    for (size_t i = 0; t.all && i <= tools->count; i++) {
        jtree_release(&t.all[i].simpler);
        buf_release(&t.all[i].name);
    }
    free(t.all);
    return rc;
}
