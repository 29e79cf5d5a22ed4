/*
 * chat_parse.c - what a model wrote becomes a message.
 *
 * The released parser takes only well-formed completions and raises on everything else. Models do write
 * everything else, so this one takes both: a well-formed completion gives exactly the released parser's message,
 * any other the most useful message that loses nothing. Nothing means: every character that is not markup
 * understood as such is in the reasoning, the content or a call.
 *
 * scan() walks a text once and leaves a list of parts, in order:
 *
 *     PART_TEXT   text outside of tool calls
 *     PART_CALL   a call: a readable name, and between its tags nothing but parameters or one JSON object
 *     PART_BAD    an invoke that is none; stays as it was written
 *
 * It runs twice at most. The first time a parameter ends at its closing tag and nowhere else, as in the released
 * parser: so values may hold markup, though not an opening tag at the beginning of a line, which rather shows
 * that the value was left open. If something does not fit, the second time a parameter also ends where the next
 * tag begins, and calls and blocks may be left open too. Both are linear, but for sorting the names within a call:
 * what was looked at and not understood is text and is not looked at again.
 *
 * Reasoning ends at the first </think>; markup before is quoted and not executed. Where </think> is missing, and
 * the text ends in calls, these are executed and what is before them is reasoning. In content, markup directly
 * after a backtick or within a fence that is closed after it is quoted too. docs/formats.md has all the rules.
 *
 * chat_stream.c does the same with a text that is still being written.
 */
#include <stdlib.h>
#include <string.h>

#include "text/chat_internal.h"
#include "text/text_internal.h"

enum part_kind { PART_TEXT, PART_CALL, PART_BAD };

struct part {
    enum part_kind kind;
    size_t begin, end;       /* as written, markup included */
    size_t name, name_bytes; /* of a call */
    char *arguments;         /* of a call: JSON, owned */
    bool before_block;       /* text: its last blank line is layout */
};

struct scan {
    const struct chat_format *format;
    const char *s;
    size_t count;
    bool strict, failed, unfit; /* failed: out of memory; unfit: not well-formed, in a strict scan */
    struct part *parts;
    size_t part_count, part_cap;
    size_t open_wrappers;
};

/* ------------------------------------------------------------------------------------------- parts */

static void forget_parts(struct scan *c, size_t keep) {
    while (c->part_count > keep)
        free(c->parts[--c->part_count].arguments);
}

static void add_part(struct scan *c, struct part part) {
    if (c->part_count == c->part_cap) {
        size_t cap = c->part_cap ? 2 * c->part_cap : 16;
        struct part *parts = realloc(c->parts, cap * sizeof(*parts));
        if (!parts) {
            c->failed = true;
            free(part.arguments);
            return;
        }
        c->parts = parts;
        c->part_cap = cap;
    }
    c->parts[c->part_count++] = part;
}

static size_t skip_space(const struct scan *c, size_t at) {
    while (at < c->count && memchr(" \t\r\n", c->s[at], 4))
        at++;
    return at;
}

static bool read_tag(const struct scan *c, size_t at, struct dsml_tag *tag) {
    return at < c->count && c->s[at] == '<' && dsml_tag_read(c->s, c->count, at, tag);
}

/* ------------------------------------------------------------------------------------------- calls */

struct value {
    size_t begin, end, next; /* [begin, end), and where reading goes on */
};

/* One newline before a tag that stands for a missing one is layout. */
static size_t trim_newline(const struct scan *c, size_t begin, size_t end) {
    return end > begin && c->s[end - 1] == '\n' ? end - 1 : end;
}

static bool find_value(const struct scan *c, size_t begin, struct value *value) {
    for (size_t at = begin; at < c->count; at++) {
        struct dsml_tag tag;
        if (c->s[at] != '<')
            continue;
        if (!read_tag(c, at, &tag)) {
            if (!c->strict && dsml_tag_is_cut(c->s, c->count, at)) {
                *value = (struct value){begin, trim_newline(c, begin, at), c->count};
                return true;
            }
            continue;
        }
        bool closes = tag.closing && tag.kind == DSML_PARAMETER;
        if (c->strict && !tag.closing && c->s[at - 1] == '\n')
            return false;
        if (closes || !c->strict) {
            *value =
                closes ? (struct value){begin, at, tag.end} : (struct value){begin, trim_newline(c, begin, at), at};
            return true;
        }
    }
    *value = (struct value){begin, c->count, c->count};
    return !c->strict;
}

static bool is_json(struct scan *c, size_t begin, size_t end, enum jkind kind, bool any) {
    struct jtree tree;
    int rc = jtree_parse(c->s + begin, end - begin, "", &tree, NULL);
    if (rc) {
        c->failed |= rc == SONDE_ERROR_MEMORY;
        return false;
    }
    bool fits = any || tree.root->kind == kind;
    jtree_release(&tree);
    return fits;
}

/* Values that are not strings go in as they are; what is no JSON then must have been a string. */
static void write_argument(struct scan *c, struct buf *b, const struct dsml_tag *tag, const struct value *value) {
    buf_string(b, b->len > 1 ? ", " : "");
    json_write_string(b, c->s + tag->name, tag->name_bytes);
    buf_string(b, ": ");
    if (tag->string != DSML_TRUE && is_json(c, value->begin, value->end, JNODE_NULL, true))
        buf_append(b, c->s + value->begin, value->end - value->begin);
    else
        json_write_string(b, c->s + value->begin, value->end - value->begin);
}

/* The names that parameters of one call have had, to find one that comes twice. */
struct name {
    const char *text;
    size_t bytes;
};

struct names {
    struct buf list; /* struct name */
};

static void add_name(const struct scan *c, struct names *names, const struct dsml_tag *tag) {
    struct name name = {c->s + tag->name, tag->name_bytes};
    buf_append(&names->list, &name, sizeof(name));
}

static int compare_names(const void *a, const void *b) {
    const struct name *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return memcmp(x->text, y->text, x->bytes);
}

/* True if no two are the same. Changes their order. */
static bool names_differ(struct names *names) {
    struct name *all = (struct name *)(void *)names->list.data;
    size_t count = names->list.len / sizeof(*all);
    if (count)
        qsort(all, count, sizeof(*all), compare_names);
    for (size_t i = 1; i < count; i++)
        if (compare_names(&all[i - 1], &all[i]) == 0)
            return false;
    return true;
}

/* The body as one JSON object, which some models write instead of parameters. True with *next after it. */
static bool json_body(struct scan *c, size_t begin, struct buf *b, size_t *next) {
    if (c->strict || c->s[begin] != '{')
        return false;
    size_t end = begin;
    struct dsml_tag tag;
    while (end < c->count && !read_tag(c, end, &tag) && !dsml_tag_is_cut(c->s, c->count, end))
        end++;
    *next = end;
    while (end > begin && memchr(" \t\r\n", c->s[end - 1], 4))
        end--;
    if (!is_json(c, begin, end, JNODE_OBJECT, false))
        return false;
    buf_clear(b);
    buf_append(b, c->s + begin, end - begin);
    return true;
}

/* Reads parameters from `at` on, up to the end of the call, *end. False if something else is between them. */
static bool read_parameters(struct scan *c, size_t at, struct buf *b, struct names *names, size_t *end) {
    bool body = false;
    buf_byte(b, '{');
    for (;;) {
        struct dsml_tag tag;
        at = skip_space(c, at);
        *end = at;
        if (!c->strict && (at == c->count || dsml_tag_is_cut(c->s, c->count, at))) {
            *end = c->count;
            break;
        }
        if (!read_tag(c, at, &tag)) {
            if (b->len > 1 || body || at == c->count || !json_body(c, at, b, &at))
                return false;
            body = true;
            continue;
        }
        if (tag.kind == DSML_INVOKE && tag.closing) {
            *end = tag.end;
            break;
        }
        if (tag.kind != DSML_PARAMETER) { /* the next call begins or the block ends: this one was left open */
            if (c->strict)
                return false;
            break;
        }
        if (tag.closing) {
            if (c->strict)
                return false;
            at = tag.end;
            continue;
        }
        struct value value = {tag.end, tag.end, tag.end};
        if (body || (!tag.empty && !find_value(c, tag.end, &value)))
            return false;
        add_name(c, names, &tag);
        write_argument(c, b, &tag, &value);
        at = value.next;
    }
    if (!body)
        buf_byte(b, '}');
    return names_differ(names);
}

/* Where an invoke that is no call ends: after its closing tag, or before a tag that cannot be inside it. */
static size_t bad_end(const struct scan *c, size_t at) {
    for (; at < c->count; at++) {
        struct dsml_tag tag;
        if (!read_tag(c, at, &tag) || tag.kind == DSML_PARAMETER)
            continue;
        return tag.kind == DSML_INVOKE && tag.closing ? tag.end : at;
    }
    return c->count;
}

/* Adds the call whose opening tag is at `at`, or what is there as bad. Returns its end. */
static size_t read_invoke(struct scan *c, size_t at, const struct dsml_tag *tag, size_t *calls) {
    struct buf b = {0};
    struct names names = {{0}};
    struct part part = {
        .kind = PART_CALL, .begin = at, .end = tag->end, .name = tag->name, .name_bytes = tag->name_bytes};
    bool good = true;
    if (tag->empty)
        buf_string(&b, "{}");
    else
        good = read_parameters(c, tag->end, &b, &names, &part.end);
    c->failed |= b.failed || names.list.failed;
    if (good && !c->failed && buf_take(&b, &part.arguments, NULL, NULL) == 0) {
        add_part(c, part);
        ++*calls;
    } else {
        c->unfit = true;
        part.kind = PART_BAD;
        part.end = bad_end(c, tag->end);
        add_part(c, part);
    }
    buf_release(&b);
    buf_release(&names.list);
    return part.end;
}

/* ------------------------------------------------------------------------------------------- blocks */

/*
 * Reads calls in a row, with or without a wrapper around them, from the tag at `at` on. True with *end behind
 * them; layout between tags goes with them, and so do wrappers that come twice, but not one opened behind the
 * last call. False if nothing is called, with *end where that became clear.
 */
static bool read_block(struct scan *c, size_t at, size_t *end) {
    size_t first_part = c->part_count, calls = 0, open = 0, block_end = 0;
    bool invoked = false;
    for (;;) {
        struct dsml_tag tag;
        at = skip_space(c, at);
        *end = at;
        if (c->strict && c->unfit) /* there will be a second scan */
            break;
        if (!read_tag(c, at, &tag) || tag.kind == DSML_PARAMETER || (tag.kind == DSML_INVOKE && tag.closing))
            break;
        if (tag.kind == DSML_INVOKE) {
            at = block_end = read_invoke(c, at, &tag, &calls);
            c->open_wrappers += open;
            open = 0;
            invoked = true;
            continue;
        }
        at = tag.end;
        if (!tag.closing) {
            open++;
        } else if (invoked) {
            block_end = at;
            c->open_wrappers -= c->open_wrappers > 0;
        } else if (open) { /* a wrapper around nothing */
            block_end = at;
            open--;
        } else {
            break;
        }
    }
    if (!block_end || (invoked && !calls)) {
        forget_parts(c, first_part);
        return false;
    }
    *end = block_end;
    return true;
}

/* ------------------------------------------------------------------------------------------ quoting */

static bool is_fence(const struct scan *c, size_t at) {
    return c->count - at >= 3 && memcmp(c->s + at, "```", 3) == 0;
}

/* Where the last line that is a fence begins, or 0. */
static size_t last_fence(const struct scan *c, size_t from) {
    for (size_t at = c->count; at-- > from;)
        if ((at == from || c->s[at - 1] == '\n') && is_fence(c, at))
            return at + 1;
    return 0;
}

/* -------------------------------------------------------------------------------------------- scan */

static void add_text(struct scan *c, size_t begin, size_t end, bool before_block) {
    if (end > begin)
        add_part(c, (struct part){.kind = PART_TEXT, .begin = begin, .end = end, .before_block = before_block});
}

/* Handles the '<' at `at`, text since `begin` not yet a part. Returns where to go on; begin moves if parts were
 * added. */
static size_t scan_tag(struct scan *c, size_t at, size_t *begin, bool quoted, size_t fence) {
    struct dsml_tag tag;
    if (!read_tag(c, at, &tag))
        return at + 1;
    c->unfit |= quoted || tag.kind == DSML_PARAMETER || tag.closing;
    if (tag.kind == DSML_WRAPPER && tag.closing && c->open_wrappers && !quoted) {
        c->open_wrappers--;
        add_text(c, *begin, at, true);
        return *begin = tag.end;
    }
    if (tag.kind == DSML_PARAMETER || tag.closing || (at > 0 && c->s[at - 1] == '`'))
        return tag.end;
    size_t text_part = c->part_count, open = c->open_wrappers, end;
    add_text(c, *begin, at, true);
    if (!read_block(c, at, &end) || (quoted && fence > end)) {
        forget_parts(c, text_part);
        c->open_wrappers = open;
        c->unfit = true;
        return end;
    }
    return *begin = end;
}

/* Cuts [from, count) into parts. */
static void scan(struct scan *c, size_t from) {
    size_t begin = from, fence = last_fence(c, from);
    bool fenced = false;
    for (size_t at = from; at < c->count && !c->failed && !(c->strict && c->unfit);) {
        if (c->s[at] == '<') {
            at = scan_tag(c, at, &begin, fenced, fence);
            continue;
        }
        if (c->s[at] == '`' && (at == from || c->s[at - 1] == '\n') && is_fence(c, at))
            fenced = !fenced;
        at++;
    }
    add_text(c, begin, c->count, false);
    c->unfit |= c->open_wrappers > 0;
}

static int scan_twice(struct scan *c, size_t from, struct sonde_error *e) {
    c->strict = true;
    scan(c, from);
    if (c->unfit && !c->failed) {
        forget_parts(c, 0);
        c->strict = c->unfit = false;
        c->open_wrappers = 0;
        scan(c, from);
    }
    return c->failed ? err_memory(e) : SONDE_OK;
}

/* ----------------------------------------------------------------------------------------- message */

struct message {
    struct buf reasoning, content, calls;
};

static bool is_blank(const struct scan *c, const struct part *part) {
    return skip_space(c, part->begin) >= part->end;
}

/* The blank line that the format puts before a block. */
static size_t trim_blank_line(const struct scan *c, size_t begin, size_t end) {
    for (int i = 0; i < 2 && end > begin && c->s[end - 1] == '\n'; i++)
        end--;
    return end;
}

static void write_call(const struct scan *c, const struct part *part, struct buf *b) {
    const char *name = c->s + part->name;
    size_t space = tool_name_space(c->format, name, part->name_bytes), bare = space ? space + strlen("::") : 0;
    buf_string(b, b->len ? ", " : "");
    buf_string(b, "{\"type\": \"function\", ");
    if (space) {
        buf_string(b, "\"namespace\": ");
        json_write_string(b, name, space);
        buf_string(b, ", ");
    }
    buf_string(b, "\"function\": {\"name\": ");
    json_write_string(b, name + bare, part->name_bytes - bare);
    buf_string(b, ", \"arguments\": ");
    json_write_string(b, part->arguments, strlen(part->arguments));
    buf_string(b, "}}");
}

/* Appends a piece of content; what was written apart stays on lines of its own. */
static void write_text(const struct scan *c, size_t begin, size_t end, struct buf *b) {
    if (b->len && end > begin && b->data[b->len - 1] != '\n' && c->s[begin] != '\n')
        buf_byte(b, '\n');
    utf8_append(b, c->s + begin, end - begin);
}

/* Puts parts from `first` on into the message: calls where calls go, the rest into content. */
static void write_parts(const struct scan *c, size_t first, struct message *m) {
    bool called = false;
    for (size_t i = first; i < c->part_count; i++) {
        const struct part *part = &c->parts[i];
        if (part->kind == PART_CALL) {
            write_call(c, part, &m->calls);
            called = true;
        } else {
            if (called && is_blank(c, part))
                continue;
            write_text(c, part->begin, part->before_block ? trim_blank_line(c, part->begin, part->end) : part->end,
                       &m->content);
        }
    }
}

/* The first part of the calls that the text ends in, part_count if it ends otherwise. */
static size_t last_calls(const struct scan *c) {
    size_t first = c->part_count;
    bool called = false;
    while (first > 0 && (c->parts[first - 1].kind != PART_TEXT || is_blank(c, &c->parts[first - 1])))
        called |= c->parts[--first].kind == PART_CALL;
    return called ? first : c->part_count;
}

static bool begins(const struct scan *c, size_t at, const char *word) {
    size_t n = strlen(word);
    return c->count - at >= n && memcmp(c->s + at, word, n) == 0;
}

/* After `word`, where it is the next thing but space at `at`; else `at`. */
static size_t skip_word(const struct scan *c, size_t at, const char *word) {
    size_t next = skip_space(c, at);
    return begins(c, next, word) ? next + strlen(word) : at;
}

static size_t find_word(const struct scan *c, size_t at, const char *word) {
    const char *found = memmem(c->s + at, c->count - at, word, strlen(word));
    return found ? (size_t)(found - c->s) : SIZE_MAX;
}

/* Without </think>: all is reasoning, but for calls at the end. */
static int parse_unclosed(struct scan *c, size_t from, struct message *m, struct sonde_error *e) {
    int rc = scan_twice(c, from, e);
    if (rc)
        return rc;
    size_t first = last_calls(c);
    bool called = first < c->part_count;
    size_t end = !called ? c->count : first ? c->parts[first - 1].end : from;
    utf8_append(&m->reasoning, c->s + from, (called ? trim_blank_line(c, from, end) : end) - from);
    write_parts(c, first, m);
    return SONDE_OK;
}

static int parse_text(struct scan *c, bool thinking, struct message *m, struct sonde_error *e) {
    size_t from = skip_word(c, 0, THINK_BEGIN);
    size_t think_end = thinking || from ? find_word(c, from, THINK_END) : SIZE_MAX;
    if (!thinking && think_end == SIZE_MAX)
        from = skip_word(c, 0, THINK_END); /* said again after the prompt's */
    else if (think_end == SIZE_MAX)
        return parse_unclosed(c, from, m, e);
    else {
        utf8_append(&m->reasoning, c->s + from, think_end - from);
        from = think_end + strlen(THINK_END);
        for (size_t next; (next = skip_word(c, from, THINK_END)) != from;)
            from = next;
    }
    int rc = scan_twice(c, from, e);
    if (!rc)
        write_parts(c, 0, m);
    return rc;
}

/* Leaves out end tokens at the end, and space behind them. */
static size_t without_end(const char *text, size_t bytes) {
    size_t n = strlen(TEXT_END);
    for (size_t end = bytes;;) {
        while (end > 0 && memchr(" \t\r\n", text[end - 1], 4))
            end--;
        if (end < n || memcmp(text + end - n, TEXT_END, n) != 0)
            return bytes;
        bytes = end -= n;
    }
}

static int write_message(struct message *m, char **message, struct sonde_error *e) {
    struct buf out = {0};
    buf_string(&out, "{\"role\": \"assistant\", \"content\": ");
    json_write_string(&out, m->content.data, m->content.len);
    buf_string(&out, ", \"reasoning_content\": ");
    json_write_string(&out, m->reasoning.data, m->reasoning.len);
    buf_string(&out, ", \"tool_calls\": [");
    buf_append(&out, m->calls.data, m->calls.len);
    buf_string(&out, "]}");
    if (m->content.failed || m->reasoning.failed || m->calls.failed)
        buf_release(&out);
    return m->content.failed || m->reasoning.failed || m->calls.failed ? err_memory(e)
                                                                       : buf_take(&out, message, NULL, e);
}

int sonde_chat_parse(enum sonde_chat_format format, const char *text, size_t bytes, bool thinking, char **message,
                     struct sonde_error *error) {
    struct scan c = {.format = chat_format_view(format), .s = bytes ? text : "", .count = without_end(text, bytes)};
    struct message m = {0};
    int rc = parse_text(&c, thinking, &m, error);
    if (!rc)
        rc = write_message(&m, message, error);
    forget_parts(&c, 0);
    free(c.parts);
    buf_release(&m.reasoning);
    buf_release(&m.content);
    buf_release(&m.calls);
    return rc;
}
