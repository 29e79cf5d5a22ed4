/*
 * chat_stream.c - what a model writes becomes a message while it is being written.
 *
 * chat_parse.c looks at the whole text before it decides; here every decision is one about a beginning of the text,
 * and is never changed. So the message does not depend on the pieces in which the text comes: a stage that cannot
 * decide yet waits. Where both must agree, on well-formed texts, they read the same tags (dsml.c) by the same rules.
 *
 *     START      space, <think>; in chat mode </think>
 *     TEXT       reasoning or content                      a tag that may open a call: BLOCK; </think>: THINK_END
 *     THINK_END  space and further </think>s               TEXT
 *     BLOCK      between the tags of a block of calls      an invoke tag: BODY; anything else: TEXT
 *     BODY       between the parameters of a call          parameter: VALUE; {: JSON; the call's end: BLOCK
 *     VALUE      a parameter's value                       BODY
 *     JSON       a call's body that is one object          BODY
 *     BROKEN     what is left of a call that is none       BLOCK, TEXT
 *
 * The text that is not yet reported lies in `in`, from `at` on; stages look ahead as far as `look`:
 *
 *     in     ..done.. | at .. from .. look .. limit | what may be end tokens at the end of everything
 *
 * Text becomes markup by `at` moving past it without a report (settle()). Until then it can still turn out to be
 * text, which costs nothing: it goes on lying there, and TEXT continues behind it.
 *
 * In reasoning and in fences calls are only quoted, unless the completion ends in them. There a block is held: its
 * events are noted instead of reported and `at` stays before it. The end of the completion makes the events good;
 * anything but space makes the block text.
 *
 * A value ends at its closing tag, and may hold other tags: what follows one is kept back, as only the closing tag
 * shows that it was part of the value. If it does not come, the value was left open where the first of them is, and
 * from then on every tag ends a value (`lenient`), as in the second scan of chat_parse.c.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/text_internal.h"

#define NOWHERE SIZE_MAX

enum stage { AT_START, AT_TEXT, AT_THINK_END, AT_BLOCK, AT_BODY, AT_VALUE, AT_JSON, AT_BROKEN };

/* The names of a call's parameters, a hash table. */
struct name {
    size_t at, bytes; /* in names.text; bytes 0: an empty row */
};

struct names {
    struct buf text;
    struct name *rows;
    size_t count, mask; /* mask: rows - 1, rows a power of two */
};

/* What a held block must restore when it turns out to be text. */
struct standing {
    size_t calls, open_wrappers;
    bool lenient;
    bool fresh; /* a part of content begins behind markup: on a line of its own, and not if it is blank */
    bool blank; /* the part was only space so far */
};

struct text_stream {
    struct text_stream_options options;
    void (*event)(void *context, const struct text_event *event);
    void *context;
    bool last, failed;

    struct buf raw; /* bytes that do not yet make a character */
    struct buf in;  /* well-formed UTF-8 */
    size_t seen, limit, matched;
    bool ended; /* from `limit` on there is an end token, or several with space between */

    enum stage stage;
    size_t at, from, look;
    char before; /* in[at - 1]; a line end where a text begins */
    struct standing now, then;
    bool reasoning, fenced;
    size_t ticks; /* backticks since the line began, at most 4 */
    int written;  /* the last byte of content, -1: none */

    size_t cut_at, cut_seen, cut_enough; /* a tag that is not yet whole: where, how much was looked at, when to again */

    size_t open;                /* wrappers in the block since its last call */
    bool held, settled, called; /* settled: part of the block is known to be markup; called: it has a call */
    struct buf held_events, held_text;

    size_t invoke; /* where the invoke tag is */
    struct buf name, scratch;
    struct names names;
    size_t parameters;
    bool announced, whole_body;
    bool string; /* the value is a string for sure */
    size_t hold; /* the first tag in the value that is not its closing tag */
};

/* ------------------------------------------------------------------------------------------- events */

static void send(struct text_stream *s, struct text_event event) {
    if (s->held) {
        buf_append(&s->held_text, event.text, event.bytes);
        buf_append(&s->held_events, &event, sizeof(event));
    } else {
        s->event(s->context, &event);
    }
}

static void send_held(struct text_stream *s) {
    const struct text_event *events = (const struct text_event *)(void *)s->held_events.data;
    size_t count = s->held_events.len / sizeof(*events), at = 0;
    s->held = false;
    if (s->held_events.failed || s->held_text.failed) {
        s->failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct text_event event = events[i];
        event.text = event.bytes ? s->held_text.data + at : "";
        at += event.bytes;
        send(s, event);
    }
}

static void send_arguments(struct text_stream *s, const char *text, size_t bytes) {
    send(s, (struct text_event){.kind = TEXT_ARGUMENTS, .call = s->now.calls, .text = text, .bytes = bytes});
}

/* Sends what scratch holds. */
static void send_scratch(struct text_stream *s, size_t begin, size_t end) {
    if (s->scratch.failed)
        s->failed = true;
    else if (end > begin)
        send_arguments(s, s->scratch.data + begin, end - begin);
    buf_clear(&s->scratch);
}

/* All before `end` is done with. */
static void advance(struct text_stream *s, size_t end) {
    if (end > s->at)
        s->before = s->in.data[end - 1];
    s->at = end;
}

/* A part of content begins at s->at. */
static void begin_part(struct text_stream *s) {
    s->now.fresh = s->now.blank = true;
    s->ticks = 0;
}

/* All before s->look is markup, understood as such. */
static void settle(struct text_stream *s) {
    s->settled = true;
    s->from = s->look;
    if (!s->held)
        advance(s, s->look);
    begin_part(s);
}

/* Reports text up to `end`; blank text behind a call waits for more. */
static void send_text(struct text_stream *s, size_t end) {
    if (end <= s->at)
        return;
    struct text_event event = {.kind = s->reasoning ? TEXT_REASONING : TEXT_CONTENT};
    event.text = s->in.data + s->at;
    event.bytes = end - s->at;
    if (!s->reasoning) {
        if (s->now.fresh && s->now.blank && s->now.calls)
            return;
        if (s->now.fresh && s->written >= 0 && s->written != '\n' && *event.text != '\n')
            send(s, (struct text_event){.kind = TEXT_CONTENT, .text = "\n", .bytes = 1});
        s->now.fresh = false;
        s->written = (unsigned char)s->in.data[end - 1];
    }
    send(s, event);
    advance(s, end);
}

/* ------------------------------------------------------------------------------------------ looking */

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_space(struct text_stream *s) {
    while (s->look < s->limit && is_space(s->in.data[s->look]))
        s->look++;
}

/* `end` without line ends before it, `most` of them, and not before `begin`. */
static size_t trim_newlines(const struct text_stream *s, size_t begin, size_t end, int most) {
    for (int i = 0; i < most && end > begin && s->in.data[end - 1] == '\n'; i++)
        end--;
    return end;
}

/* The blank line before a block is layout; where there are no blocks, nothing is. */
static size_t trim_blank_line(const struct text_stream *s, size_t end) {
    return s->options.tools ? trim_newlines(s, s->at, end, 2) : end;
}

enum found { FOUND_MORE, FOUND_TEXT, FOUND_TAG, FOUND_WORD };

/* Whether `word` is at `at`; MORE: it could still be. */
static enum found find_word(const struct text_stream *s, size_t at, const char *word) {
    size_t n = strlen(word), rest = s->limit - at;
    if (rest && memcmp(s->in.data + at, word, min_u64(n, rest)) != 0)
        return FOUND_TEXT;
    return rest >= n ? FOUND_WORD : s->last ? FOUND_TEXT : FOUND_MORE;
}

/* True if it would be in vain to look again at a tag that was not whole: so long ones cost little. */
static bool is_cut_still(const struct text_stream *s, size_t at) {
    size_t rest = s->limit - at;
    return !s->last && s->cut_at == at && rest < s->cut_enough &&
           !memchr(s->in.data + at + s->cut_seen, '>', rest - s->cut_seen);
}

/* What the '<' at `at` is: in reasoning the WORD </think>, a TAG, or just text. Reasoning ends at </think>, even if it
 * is in what would be a tag. */
static enum found look_at(struct text_stream *s, size_t at, struct dsml_tag *tag) {
    enum found word = s->reasoning ? find_word(s, at, THINK_END) : FOUND_TEXT;
    if (word != FOUND_TEXT || !s->options.tools)
        return word;
    if (is_cut_still(s, at))
        return FOUND_MORE;
    enum dsml_look look = dsml_tag_look(s->in.data, s->limit, at, tag);
    size_t end = look == DSML_WHOLE ? tag->end : s->limit, rest = s->limit - at;
    if (look == DSML_NONE || (look == DSML_CUT && s->last))
        return FOUND_TEXT;
    if (s->reasoning && memmem(s->in.data + at, end - at, THINK_END, strlen(THINK_END)))
        return FOUND_TEXT;
    if (look == DSML_WHOLE)
        return FOUND_TAG;
    s->cut_at = at;
    s->cut_seen = rest;
    s->cut_enough = rest + rest / 8 + 1;
    return FOUND_MORE;
}

/* True if the text ends in what could have become a tag. */
static bool ends_in_tag(const struct text_stream *s) {
    return s->last && dsml_tag_is_cut(s->in.data, s->limit, s->look);
}

static bool is_json(struct text_stream *s, size_t begin, size_t end, bool object) {
    struct jtree tree;
    int rc = jtree_parse(s->in.data + begin, end - begin, "", &tree, NULL);
    if (rc) {
        s->failed |= rc == SONDE_ERROR_MEMORY;
        return false;
    }
    bool fits = !object || tree.root->kind == JNODE_OBJECT;
    jtree_release(&tree);
    return fits;
}

/* ------------------------------------------------------------------------------------------- names */

static void names_release(struct names *n) {
    buf_release(&n->text);
    free(n->rows);
    *n = (struct names){0};
}

/* The row of a name, or the empty one where it belongs. There is an empty one. */
static struct name *names_find(const struct names *n, const char *name, size_t bytes) {
    size_t row = tokenizer_bytes_hash(name, bytes) & n->mask;
    for (; n->rows[row].bytes; row = (row + 1) & n->mask)
        if (n->rows[row].bytes == bytes && memcmp(n->text.data + n->rows[row].at, name, bytes) == 0)
            break;
    return &n->rows[row];
}

static bool names_grow(struct names *n) {
    struct names grown = {.text = n->text, .count = n->count, .mask = n->rows ? 2 * n->mask + 1 : 15};
    grown.rows = calloc(grown.mask + 1, sizeof(*grown.rows));
    if (!grown.rows)
        return false;
    for (size_t i = 0; n->rows && i <= n->mask; i++)
        if (n->rows[i].bytes)
            *names_find(&grown, n->text.data + n->rows[i].at, n->rows[i].bytes) = n->rows[i];
    free(n->rows);
    *n = grown;
    return true;
}

/* False if the call has had a parameter of that name. */
static bool add_name(struct text_stream *s, const char *name, size_t bytes) {
    struct names *n = &s->names;
    if (n->text.failed || ((!n->rows || 2 * n->count > n->mask) && !names_grow(n))) {
        s->failed = true;
        return false;
    }
    struct name *row = names_find(n, name, bytes);
    if (row->bytes)
        return false;
    *row = (struct name){n->text.len, bytes};
    n->count++;
    buf_append(&n->text, name, bytes);
    return true;
}

/* ------------------------------------------------------------------------------------------- blocks */

/* What the block is text after all, up to s->look. */
static bool take_back(struct text_stream *s) {
    s->held = false;
    s->now = s->then;
    s->now.blank = false;
    s->ticks = 0;
    s->stage = AT_TEXT;
    return true;
}

/* The completion ends in a held block. */
static bool make_good(struct text_stream *s) {
    send_held(s);
    s->reasoning = false;
    s->look = s->limit;
    advance(s, s->limit);
    s->stage = AT_TEXT;
    return true;
}

/* At s->look is something that does not belong to the block, or the end of the completion. */
static bool end_block(struct text_stream *s) {
    size_t last = s->look;
    while (last > s->from && is_space(s->in.data[last - 1]))
        last--;
    if (s->held)
        return s->look == s->limit && s->called && last == s->from ? make_good(s) : take_back(s);
    s->stage = AT_TEXT;
    if (s->settled)
        s->look = s->from;
    else
        s->now.blank = false;
    return true;
}

static void begin_block(struct text_stream *s) {
    send_text(s, trim_blank_line(s, s->look));
    s->from = s->look;
    s->then = s->now;
    s->open = 0;
    s->settled = s->called = false;
    s->held = s->reasoning || s->fenced;
    buf_clear(&s->held_events);
    buf_clear(&s->held_text);
    s->stage = AT_BLOCK;
}

/* Reports the name of the call, once. */
static void announce(struct text_stream *s) {
    if (s->announced)
        return;
    s->announced = s->called = true;
    s->now.open_wrappers += s->open;
    s->open = 0;
    settle(s);
    if (s->name.failed)
        s->failed = true;
    else
        send(s,
             (struct text_event){.kind = TEXT_CALL, .call = s->now.calls, .text = s->name.data, .bytes = s->name.len});
}

/* The call ends before s->look. */
static bool end_call(struct text_stream *s, bool whole) {
    announce(s);
    if (!s->whole_body)
        send_arguments(s, s->parameters ? "}" : "{}", s->parameters ? 1 : 2);
    send(s, (struct text_event){.kind = TEXT_CALL_END, .whole = whole, .call = s->now.calls, .text = ""});
    s->now.calls++;
    settle(s);
    s->stage = AT_BLOCK;
    return true;
}

static bool begin_call(struct text_stream *s, const struct dsml_tag *tag) {
    s->invoke = s->look;
    s->look = tag->end;
    buf_clear(&s->name);
    buf_append(&s->name, s->in.data + tag->name, tag->name_bytes);
    names_release(&s->names);
    s->parameters = 0;
    s->announced = s->whole_body = false;
    s->stage = AT_BODY;
    return !tag->empty || end_call(s, true);
}

static bool step_block(struct text_stream *s) {
    struct dsml_tag tag;
    skip_space(s);
    if (s->look == s->limit)
        return s->last && end_block(s);
    enum found found = s->in.data[s->look] == '<' ? look_at(s, s->look, &tag) : FOUND_TEXT;
    if (found == FOUND_MORE)
        return false;
    if (found != FOUND_TAG || tag.kind == DSML_PARAMETER)
        return end_block(s);
    if (tag.kind == DSML_INVOKE)
        return tag.closing ? end_block(s) : begin_call(s, &tag);
    if (tag.closing && !s->called && !s->open)
        return end_block(s);
    s->look = tag.end;
    if (!tag.closing) {
        s->open++;
        return true;
    }
    if (s->called)
        s->now.open_wrappers -= s->now.open_wrappers > 0;
    else
        s->open--; /* a wrapper around nothing */
    settle(s);
    return true;
}

/* At s->look is what no call can hold. What was reported of the call stays; the rest is text as it was written. */
static bool break_call(struct text_stream *s) {
    if (s->held)
        return take_back(s);
    if (s->announced) {
        end_call(s, false);
    } else if (s->settled) {
        s->now.open_wrappers += s->open;
        s->open = 0;
        advance(s, s->invoke);
        begin_part(s);
    }
    s->now.blank = false;
    s->stage = AT_BROKEN;
    return true;
}

/* Up to the closing tag of the invoke, or before a tag that cannot be inside it. */
static bool step_broken(struct text_stream *s) {
    struct dsml_tag tag;
    while (s->look < s->limit) {
        enum found found = s->in.data[s->look] == '<' ? look_at(s, s->look, &tag) : FOUND_TEXT;
        if (found == FOUND_MORE)
            break;
        if (found != FOUND_TAG || tag.kind == DSML_PARAMETER) {
            s->look = found == FOUND_TAG ? tag.end : s->look + 1;
            continue;
        }
        if (tag.kind == DSML_INVOKE && tag.closing)
            s->look = tag.end;
        s->ticks = 0;
        s->stage = s->settled ? AT_BLOCK : AT_TEXT;
        if (s->settled) {
            send_text(s, s->look);
            settle(s);
        }
        return true;
    }
    send_text(s, s->last ? s->look : trim_blank_line(s, s->look));
    return false;
}

/* ------------------------------------------------------------------------------------------- values */

static void send_value(struct text_stream *s, size_t end) {
    if (!s->string || end <= s->from)
        return;
    json_write_string(&s->scratch, s->in.data + s->from, end - s->from);
    send_scratch(s, 1, s->scratch.len - 1); /* without the quotation marks */
    s->from = end;
    if (!s->held)
        advance(s, end);
}

/* The value ends at `end`, and reading goes on at `next`. What is no JSON then must have been a string. */
static bool end_value(struct text_stream *s, size_t end, size_t next) {
    if (s->string) {
        send_value(s, end);
        send_arguments(s, "\"", 1);
    } else if (is_json(s, s->from, end, false)) {
        send_arguments(s, s->in.data + s->from, end - s->from);
    } else {
        json_write_string(&s->scratch, s->in.data + s->from, end - s->from);
        send_scratch(s, 0, s->scratch.len);
    }
    s->look = next;
    settle(s);
    s->stage = AT_BODY;
    return true;
}

/* The value was left open before the tag at `tag`; one line end before it is layout. */
static bool end_open_value(struct text_stream *s, size_t tag, size_t next) {
    return end_value(s, trim_newlines(s, s->from, tag, 1), next);
}

/* A tag in a value, at s->look. True if the value is over. */
static bool value_tag(struct text_stream *s, const struct dsml_tag *tag) {
    if (tag->closing && tag->kind == DSML_PARAMETER)
        return end_value(s, s->look, tag->end);
    if (s->now.lenient)
        return end_open_value(s, s->look, s->look);
    if (s->hold == NOWHERE)
        s->hold = s->look;
    if (!tag->closing && s->look > s->from && s->in.data[s->look - 1] == '\n') {
        s->now.lenient = true;
        return end_open_value(s, s->hold, s->hold);
    }
    s->look = tag->end;
    return false;
}

static bool step_value(struct text_stream *s) {
    struct dsml_tag tag;
    while (s->look < s->limit) {
        const char *next = memchr(s->in.data + s->look, '<', s->limit - s->look);
        s->look = next ? (size_t)(next - s->in.data) : s->limit;
        if (!next)
            break;
        enum found found = look_at(s, s->look, &tag);
        if (found == FOUND_MORE)
            break;
        if (found == FOUND_WORD)
            return take_back(s);
        if (found == FOUND_TAG) {
            if (value_tag(s, &tag))
                return true;
        } else if (s->hold == NOWHERE && ends_in_tag(s)) {
            return end_open_value(s, s->look, s->limit);
        } else {
            s->look++;
        }
    }
    if (!s->last) {
        send_value(s, trim_newlines(s, s->from, s->hold == NOWHERE ? s->look : s->hold, 1));
        return false;
    }
    if (s->hold == NOWHERE)
        return end_value(s, s->limit, s->limit);
    s->now.lenient = true;
    return end_open_value(s, s->hold, s->hold);
}

/* -------------------------------------------------------------------------------------------- calls */

static bool begin_parameter(struct text_stream *s, const struct dsml_tag *tag) {
    const char *name = s->in.data + tag->name;
    if (s->whole_body || !add_name(s, name, tag->name_bytes))
        return break_call(s);
    s->string = tag->string == DSML_TRUE;
    buf_string(&s->scratch, s->parameters++ ? ", " : "{");
    json_write_string(&s->scratch, name, tag->name_bytes);
    buf_string(&s->scratch, s->string ? ": \"" : ": ");
    send_scratch(s, 0, s->scratch.len);
    s->look = tag->end;
    settle(s);
    s->hold = NOWHERE;
    s->stage = AT_VALUE;
    return !tag->empty || end_value(s, s->look, s->look);
}

static bool body_tag(struct text_stream *s, const struct dsml_tag *tag) {
    if (tag->kind == DSML_PARAMETER && !tag->closing)
        return begin_parameter(s, tag);
    if (tag->kind == DSML_PARAMETER) { /* closed twice */
        s->look = tag->end;
        return true;
    }
    bool whole = tag->kind == DSML_INVOKE && tag->closing;
    if (whole)
        s->look = tag->end;
    return end_call(s, whole);
}

static bool step_body(struct text_stream *s) {
    struct dsml_tag tag;
    skip_space(s);
    if (s->look == s->limit)
        return s->last && end_call(s, false);
    if (s->in.data[s->look] == '{' && !s->parameters && !s->whole_body) {
        s->from = s->look;
        s->stage = AT_JSON;
        return true;
    }
    if (s->in.data[s->look] != '<')
        return break_call(s);
    enum found found = look_at(s, s->look, &tag);
    if (found == FOUND_WORD)
        return take_back(s);
    if (dsml_tag_begins(s->in.data, s->limit, s->look))
        announce(s);
    if (found == FOUND_MORE)
        return false;
    if (found == FOUND_TAG)
        return body_tag(s, &tag);
    if (!ends_in_tag(s))
        return break_call(s);
    s->look = s->limit;
    return end_call(s, false);
}

/* The body as one JSON object, which some models write instead of parameters: from s->from to the next tag. */
static bool step_json(struct text_stream *s) {
    struct dsml_tag tag = {0};
    enum found found = FOUND_TEXT;
    for (; s->look < s->limit; s->look++) {
        if (s->in.data[s->look] != '<')
            continue;
        found = look_at(s, s->look, &tag);
        if (found != FOUND_TEXT || ends_in_tag(s))
            break;
    }
    if (found == FOUND_WORD)
        return take_back(s);
    if (found == FOUND_MORE || (s->look == s->limit && !s->last))
        return false;
    size_t begin = s->from, end = s->look;
    while (end > begin && is_space(s->in.data[end - 1]))
        end--;
    bool parameter = found == FOUND_TAG && tag.kind == DSML_PARAMETER && !tag.closing;
    if (parameter || !is_json(s, begin, end, true)) {
        s->look = begin;
        return break_call(s);
    }
    if (found != FOUND_TAG)
        s->look = s->limit;
    announce(s);
    send_arguments(s, s->in.data + begin, end - begin);
    s->whole_body = true;
    s->stage = AT_BODY;
    return true;
}

/* --------------------------------------------------------------------------------------------- text */

static bool begin_text(struct text_stream *s) {
    s->look = s->at;
    s->before = '\n';
    s->fenced = false;
    s->ticks = 0;
    s->stage = AT_TEXT;
    return true;
}

/* Space and <think>, or in chat mode </think>, may be said again after the prompt. */
static bool step_start(struct text_stream *s) {
    skip_space(s);
    enum found begin = find_word(s, s->look, THINK_BEGIN);
    enum found end = s->options.thinking ? FOUND_TEXT : find_word(s, s->look, THINK_END);
    if (begin == FOUND_MORE || end == FOUND_MORE)
        return false;
    s->reasoning = s->options.thinking || begin == FOUND_WORD;
    if (begin == FOUND_WORD || end == FOUND_WORD)
        advance(s, s->look + strlen(begin == FOUND_WORD ? THINK_BEGIN : THINK_END));
    return begin_text(s);
}

static bool step_think_end(struct text_stream *s) {
    skip_space(s);
    enum found found = find_word(s, s->look, THINK_END);
    if (found == FOUND_MORE)
        return false;
    if (found == FOUND_TEXT)
        return begin_text(s);
    s->look += strlen(THINK_END);
    advance(s, s->look);
    return true;
}

static char previous(const struct text_stream *s) {
    return s->look > s->at ? s->in.data[s->look - 1] : s->before;
}

/* Three backticks at the beginning of a line open or close a fence. */
static void pass_character(struct text_stream *s) {
    char c = s->in.data[s->look];
    if (c != '`')
        s->ticks = 0;
    else if (previous(s) == '\n')
        s->ticks = 1;
    else if (s->ticks && s->ticks < 4 && ++s->ticks == 3)
        s->fenced = !s->fenced;
    s->now.blank &= is_space(c);
    s->look++;
}

/* A tag in the text, at s->look. Markup directly after a backtick is quoted, and tags that open nothing are text. */
static void text_tag(struct text_stream *s, const struct dsml_tag *tag) {
    if (tag->kind == DSML_WRAPPER && tag->closing && s->now.open_wrappers && !s->fenced) {
        send_text(s, trim_blank_line(s, s->look));
        s->now.open_wrappers--;
        s->look = tag->end;
        settle(s);
    } else if (tag->kind == DSML_PARAMETER || tag->closing || previous(s) == '`') {
        s->now.blank = false;
        s->ticks = 0;
        s->look = tag->end;
    } else {
        begin_block(s);
    }
}

static bool step_text(struct text_stream *s) {
    struct dsml_tag tag;
    while (s->look < s->limit && s->stage == AT_TEXT) {
        enum found found = s->in.data[s->look] == '<' ? look_at(s, s->look, &tag) : FOUND_TEXT;
        if (found == FOUND_MORE)
            break;
        if (found == FOUND_WORD) {
            send_text(s, s->look);
            s->look += strlen(THINK_END);
            advance(s, s->look);
            s->reasoning = false;
            s->stage = AT_THINK_END;
        } else if (found == FOUND_TAG) {
            text_tag(s, &tag);
        } else {
            pass_character(s);
        }
    }
    if (s->stage != AT_TEXT)
        return true;
    send_text(s, s->last ? s->look : trim_blank_line(s, s->look));
    return false;
}

/* --------------------------------------------------------------------------------------- the stream */

/* True if there may be more to do. */
static bool step(struct text_stream *s) {
    switch (s->stage) {
    case AT_START:
        return step_start(s);
    case AT_TEXT:
        return step_text(s);
    case AT_THINK_END:
        return step_think_end(s);
    case AT_BLOCK:
        return step_block(s);
    case AT_BODY:
        return step_body(s);
    case AT_VALUE:
        return step_value(s);
    case AT_JSON:
        return step_json(s);
    default:
        return step_broken(s);
    }
}

/* Moves bytes that are whole characters to `in`; U+FFFD stands for what is none. */
static void take_characters(struct text_stream *s) {
    size_t end = 0;
    while (end < s->raw.len) {
        enum utf8_kind kind;
        size_t n = utf8_next(s->raw.data + end, s->raw.len - end, &kind);
        if (kind == UTF8_CUT && !s->last)
            break;
        end += n;
    }
    utf8_append(&s->in, s->raw.data, end);
    if (end)
        memmove(s->raw.data, s->raw.data + end, s->raw.len - end);
    s->raw.len -= end;
}

/* Keeps end tokens back, and space behind them: at the end of everything they are no text. */
static void find_limit(struct text_stream *s) {
    static const char word[] = TEXT_END;
    for (; s->seen < s->in.len; s->seen++) {
        char c = s->in.data[s->seen];
        if (c == word[s->matched]) {
            if (++s->matched == strlen(word)) {
                s->ended = true;
                s->matched = 0;
            }
        } else if (!s->ended || s->matched || !is_space(c)) {
            s->ended = false;
            s->matched = c == word[0];
            s->limit = s->seen + !s->matched;
        }
    }
    if (!s->last)
        return;
    if (s->ended && !s->matched)
        s->in.len = s->limit;
    else
        s->limit = s->in.len;
}

/* Drops what is done with, once that is half of what there is. */
static void compact(struct text_stream *s) {
    size_t *const places[] = {&s->seen, &s->limit, &s->from, &s->look, &s->cut_at, &s->invoke, &s->hold};
    size_t done = s->at;
    if (!done || done < s->in.len - done)
        return;
    memmove(s->in.data, s->in.data + done, s->in.len - done);
    s->in.len -= done;
    s->at = 0;
    for (size_t i = 0; i < COUNT_OF(places); i++)
        *places[i] = *places[i] >= done && *places[i] != NOWHERE ? *places[i] - done : NOWHERE;
}

static int run(struct text_stream *s, void (*event)(void *context, const struct text_event *event), void *context,
               struct sonde_error *e) {
    s->event = event;
    s->context = context;
    if (!s->raw.failed)
        take_characters(s);
    s->failed |= s->raw.failed || s->in.failed;
    if (!s->failed) {
        find_limit(s);
        while (!s->failed && step(s)) {
        }
        compact(s);
    }
    return s->failed ? err_memory(e) : SONDE_OK;
}

int text_stream_push(struct text_stream *s, const char *text, size_t bytes,
                     void (*event)(void *context, const struct text_event *event), void *context,
                     struct sonde_error *e) {
    assert(!s->last);
    if (bytes)
        buf_append(&s->raw, text, bytes);
    return run(s, event, context, e);
}

int text_stream_finish(struct text_stream *s, void (*event)(void *context, const struct text_event *event),
                       void *context, struct sonde_error *e) {
    assert(!s->last);
    s->last = true;
    return run(s, event, context, e);
}

int text_stream_open(const struct text_stream_options *options, struct text_stream **stream, struct sonde_error *e) {
    struct text_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    s->options = *options;
    s->reasoning = options->thinking;
    s->written = -1;
    s->cut_at = s->hold = NOWHERE;
    *stream = s;
    return SONDE_OK;
}

bool text_stream_is_reasoning(const struct text_stream *s) {
    return s->reasoning;
}

void text_stream_close(struct text_stream *s) {
    if (!s)
        return;
    struct buf *const buffers[] = {&s->raw, &s->in, &s->held_events, &s->held_text, &s->name, &s->scratch};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        buf_release(buffers[i]);
    names_release(&s->names);
    free(s);
}
