/*
 * grammar_calls.c - the machine around JSON: answers with tool calls, written in DSML as chat_render.c writes them, in
 * the spelling of the grammar's format; V4's is
 *
 *     text ... \n\n<|DSML|tool_calls>\n                          FRAME_FREE, or nothing but up to two newlines
 *     <|DSML|invoke name="TOOL">\n                               FRAME_CALLS
 *     <|DSML|parameter name="NAME" string="true">TEXT            FRAME_CALL, FRAME_VALUE
 *     </|DSML|parameter>\n
 *     <|DSML|parameter name="NAME" string="false">JSON           FRAME_CALL, then as in any JSON
 *     </|DSML|parameter>\n
 *     </|DSML|invoke>\n                                          with an empty line before it where nothing came
 *     </|DSML|tool_calls>                                        the end
 *
 * What is fixed is read as literals. The marker |DSML| (with full-width bars) is one symbol where the vocabulary has
 * a token for it, and may then not be spelled otherwise; inside values that symbol never comes.
 *
 * A text may hold a '<' and yet end there, so both are followed until the tag is decided. Texts never hold what the
 * reader of tags could take for the beginning of one (text_grammar.values).
 *
 * Text before a block is free until `<|DSML|` has come; from there on it must be one.
 */
#include <string.h>

#include "text/chat_internal.h"
#include "text/grammar_internal.h"

/* Those of enum dsml_spelling, as the format spells them, and what stands between them in any format. */
enum literal { LITERAL_INVOKE_NAMED = SPELL_COUNT, LITERAL_STRING, LITERAL_TRUE, LITERAL_FALSE };

static const char *literal_text(const struct machine *m, uint32_t which) {
    static const char *const others[] = {">\n", " string=\"", "true\">", "false\">"};
    return which < SPELL_COUNT ? m->g->format->spelling[which] : others[which - SPELL_COUNT];
}

static const char trigger[] = "<" DSML;

/* Phases of FRAME_CALLS, and of FRAME_CALL besides those of objects: PHASE_FIRST at the beginning of a line,
 * PHASE_CLOSE where only the end of the call may come. */
enum { CALLS_BEGIN, CALLS_NAME, CALLS_ENTER, CALLS_MORE };
enum { CALL_KIND = PHASE_CLOSE + 1, CALL_TEXT, CALL_JSON, CALL_END };

enum { BLANK_LINES = 2 };

/* ---------------------------------------------------------------------------------------- literals */

/* Begins a literal, behind which the state `parent` goes on, if the symbol is its first. */
static void begin_literal(struct machine *m, uint32_t which, uint32_t parent, uint8_t symbol) {
    struct frame f = {.kind = FRAME_LITERAL, .at = which, .count = 1, .parent = parent};
    if ((uint8_t)literal_text(m, which)[0] == symbol)
        frame_emit(m, &f);
}

static void start_literal(struct machine *m, uint32_t which, const struct frame *behind, uint8_t symbol) {
    if ((uint8_t)literal_text(m, which)[0] == symbol)
        begin_literal(m, which, frame_alone(m, behind), symbol);
}

static void literal_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    const char *rest = literal_text(m, f->at) + f->count;
    size_t step = 1;
    if (m->markup && strncmp(rest, DSML, strlen(DSML)) == 0) {
        if (symbol != SYMBOL_DSML)
            return;
        step = strlen(DSML);
    } else if ((uint8_t)rest[0] != symbol) {
        return;
    }
    struct frame next = *f;
    next.count += (uint32_t)step;
    if (rest[step])
        frame_emit(m, &next);
    else
        state_enter(m, f->parent);
}

/* ----------------------------------------------------------------------------------------- calls */

static void start_block(struct machine *m, uint8_t symbol) {
    struct frame end = {.kind = FRAME_ROOT, .phase = ROOT_END};
    struct frame calls = {.kind = FRAME_CALLS, .phase = CALLS_BEGIN, .parent = frame_alone(m, &end)};
    start_literal(m, SPELL_BLOCK, &calls, symbol);
}

static void calls_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    if (f->phase == CALLS_NAME) {
        const struct dfa *tools = m->g->tools;
        if (symbol == '"' && tools->label[f->at]) {
            next.phase = CALLS_ENTER;
            next.at = tools->label[f->at] - 1;
            struct frame literal = {.kind = FRAME_LITERAL, .at = LITERAL_INVOKE_NAMED, .parent = frame_alone(m, &next)};
            frame_emit(m, &literal);
            return;
        }
        next.at = dfa_step(tools, f->at, symbol);
        if (next.at != DFA_DEAD)
            frame_emit(m, &next);
        return;
    }
    next.phase = CALLS_NAME;
    if (f->phase == CALLS_BEGIN || m->g->parallel)
        start_literal(m, SPELL_INVOKE, &next, symbol);
    if (f->phase == CALLS_MORE)
        begin_literal(m, SPELL_BLOCK_END, f->parent, symbol);
}

/* At the beginning of a line inside a call. */
static void call_line(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    if (object_may_close(m, f)) {
        begin_literal(m, SPELL_INVOKE_END, f->parent, symbol);
        next.phase = PHASE_CLOSE;
        if (f->phase == PHASE_FIRST && symbol == '\n')
            frame_emit(m, &next);
    }
    if (f->phase == PHASE_FIRST && symbol == '<' && key_may_come(m, f)) {
        key_begin(&next);
        start_literal(m, SPELL_PARAMETER, &next, symbol);
    }
}

static void call_name(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    if (symbol != '"') {
        if (key_step(m, &next, symbol))
            frame_emit(m, &next);
        return;
    }
    next.phase = CALL_KIND;
    if (key_end(m, &next)) {
        struct frame literal = {.kind = FRAME_LITERAL, .at = LITERAL_STRING, .parent = frame_alone(m, &next)};
        frame_emit(m, &literal);
    }
}

static bool has_value(const struct machine *m, uint32_t node) {
    return node != NONE && m->g->nodes[node].height != NONE;
}

static void parameter_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    switch (f->phase) {
    case PHASE_KEY:
        call_name(m, f, symbol);
        return;
    case CALL_KIND:
        next.phase = CALL_TEXT;
        if (has_value(m, frame_object(m, f)->classes[f->at].text))
            start_literal(m, LITERAL_TRUE, &next, symbol);
        next.phase = CALL_JSON;
        if (has_value(m, frame_object(m, f)->classes[f->at].value))
            start_literal(m, LITERAL_FALSE, &next, symbol);
        return;
    case CALL_JSON:
        next.space = space_step(f->space, symbol);
        if (next.space) {
            frame_emit(m, &next);
            return;
        }
        next.phase = CALL_END;
        value_start(m, frame_object(m, f)->classes[f->at].value, &next, symbol);
        return;
    case CALL_END:
        next.phase = PHASE_FIRST;
        next.at = 0;
        start_literal(m, SPELL_PARAMETER_END, &next, symbol);
        return;
    default:
        call_line(m, f, symbol);
    }
}

/* A call begins with the parameters of its tool, a text with its strings; both may be one of several. */
bool call_enter(struct machine *m, const struct frame *f) {
    struct frame behind = *f, next = {0};
    const struct gnode *n;
    if (f->kind == FRAME_CALLS && f->phase == CALLS_ENTER) {
        n = &m->g->nodes[m->g->parameters[f->at]];
        behind.phase = CALLS_MORE;
        next.kind = FRAME_CALL;
    } else if (f->kind == FRAME_CALL && f->phase == CALL_TEXT) {
        n = &m->g->nodes[frame_object(m, f)->classes[f->at].text];
        behind.phase = PHASE_FIRST;
        next.kind = FRAME_VALUE;
    } else {
        return false;
    }
    behind.at = 0;
    next.parent = frame_alone(m, &behind);
    for (uint32_t i = 0; i < n->shape_count; i++) {
        next.shape = n->shapes[i]->number;
        if (next.kind == FRAME_CALL ? n->shapes[i]->object != NULL : n->shapes[i]->string.texts != NULL)
            frame_emit(m, &next);
    }
    return true;
}

/* ------------------------------------------------------------------------------------------ texts */

static void value_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    const struct string_part *s = &m->g->shapes[f->shape]->string;
    text_step(m, f, symbol);
    if (s->texts->label[f->at] && f->count >= s->min)
        begin_literal(m, SPELL_PARAMETER_END, f->parent, symbol);
}

/* `at` is how much of the trigger was just read. With the symbol, only that makes a tag. */
static void free_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    next.at = symbol == '<';
    if (symbol == '<')
        start_block(m, symbol);
    if (m->markup && symbol == SYMBOL_DSML && f->at == 1)
        return;
    if (!m->markup && symbol == (uint8_t)trigger[f->at])
        next.at = f->at + 1;
    if (trigger[next.at])
        frame_emit(m, &next);
}

static void root_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    struct frame next = *f;
    if (f->phase == ROOT_END)
        return;
    if (symbol == '\n' && f->space < BLANK_LINES) {
        next.space++;
        frame_emit(m, &next);
    }
    start_block(m, symbol);
}

void call_step(struct machine *m, const struct frame *f, uint8_t symbol) {
    switch ((enum frame_kind)f->kind) {
    case FRAME_ROOT:
        root_step(m, f, symbol);
        break;
    case FRAME_LITERAL:
        literal_step(m, f, symbol);
        break;
    case FRAME_CALLS:
        calls_step(m, f, symbol);
        break;
    case FRAME_CALL:
        parameter_step(m, f, symbol);
        break;
    case FRAME_VALUE:
        value_step(m, f, symbol);
        break;
    default:
        free_step(m, f, symbol);
    }
}
