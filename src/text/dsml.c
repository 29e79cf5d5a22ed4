/* dsml.c - one tag of tool call markup, as it should be and as models happen to write it. */
#include <string.h>

#include "text/chat_internal.h"

struct cursor {
    const char *s;
    size_t count, at;
    bool *ran_out; /* set where more text could have made a difference */
};

static bool take(struct cursor *c, const char *word) {
    size_t n = strlen(word), rest = c->count - c->at;
    if (rest < n) {
        *c->ran_out |= memcmp(c->s + c->at, word, rest) == 0;
        return false;
    }
    if (memcmp(c->s + c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

static void skip_space(struct cursor *c) {
    while (c->at < c->count && memchr(" \t\r\n", c->s[c->at], 4))
        c->at++;
}

/* One to three bars, ASCII or full width. */
static bool take_bars(struct cursor *c) {
    int bars = 0;
    while (bars < 3 && (take(c, "｜") || take(c, "|")))
        bars++;
    return bars > 0;
}

static const struct {
    const char *word;
    enum dsml_kind kind;
} words[] = {{"tool_calls", DSML_WRAPPER},     {"toolcalls", DSML_WRAPPER},     {"tool_call", DSML_WRAPPER},
             {"function_calls", DSML_WRAPPER}, {"functioncalls", DSML_WRAPPER}, {"function_call", DSML_WRAPPER},
             {"calls", DSML_WRAPPER},          {"invoke", DSML_INVOKE},         {"parameter", DSML_PARAMETER}};

static bool take_kind(struct cursor *c, enum dsml_kind *kind) {
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        size_t before = c->at;
        if (take(c, words[i].word) && (c->at == c->count || memchr(" \t\r\n>/", c->s[c->at], 6))) {
            *c->ran_out |= c->at == c->count;
            *kind = words[i].kind;
            return true;
        }
        c->at = before;
    }
    return false;
}

/* Up to the end of the kind. */
static bool take_head(struct cursor *c, struct dsml_tag *tag) {
    if (!take(c, "<"))
        return false;
    tag->closing = take(c, "/");
    if (!take_bars(c) || !take(c, "DSML") || !take_bars(c))
        return false;
    skip_space(c);
    return take_kind(c, &tag->kind);
}

/* ---------------------------------------------------------------------------------------- attributes */

/* A quotation mark: 1 for a single one, 2 for a double one, 0 for none. */
static int take_quote(struct cursor *c) {
    static const char *const doubles[] = {"\"", "“", "”", "„", "‟", "″", "＂"};
    static const char *const singles[] = {"'", "‘", "’", "‚", "‛"};
    if (c->at < c->count && !memchr("\"'\xe2\xef", c->s[c->at], 4)) /* what they all begin with */
        return 0;
    for (size_t i = 0; i < COUNT_OF(doubles); i++)
        if (take(c, doubles[i]))
            return 2;
    for (size_t i = 0; i < COUNT_OF(singles); i++)
        if (take(c, singles[i]))
            return 1;
    return 0;
}

/* True if what follows a quotation mark shows that it ended a value: the end of the tag or an attribute. */
static bool value_ends(struct cursor c) {
    skip_space(&c);
    if (take(&c, ">") || take(&c, "/>"))
        return true;
    if (!take(&c, "name") && !take(&c, "string"))
        return false;
    skip_space(&c);
    return take(&c, "=");
}

/* True where a tag seems to begin: a value that runs into one lacks its closing quotation mark. */
static bool at_tag(struct cursor c) {
    struct dsml_tag tag;
    return take_head(&c, &tag);
}

/* Names are written without escapes and may hold quotation marks themselves. */
static bool take_value(struct cursor *c, size_t *at, size_t *bytes) {
    int quote = take_quote(c);
    *at = c->at;
    while (c->at < c->count) {
        size_t here = c->at;
        if (at_tag(*c))
            return false;
        if (quote) {
            if (take_quote(c) == quote && value_ends(*c)) {
                *bytes = here - *at;
                return true;
            }
            c->at = here + 1;
        } else if (memchr(" \t\r\n/>\"'=<", c->s[here], 10)) {
            *bytes = here - *at;
            return *bytes > 0;
        } else {
            c->at++;
        }
    }
    *c->ran_out = true;
    return false;
}

static bool is_word(const char *s, size_t bytes, const char *word) {
    if (bytes != strlen(word))
        return false;
    for (size_t i = 0; i < bytes; i++)
        if ((s[i] | 0x20) != word[i])
            return false;
    return true;
}

static bool take_attribute(struct cursor *c, struct dsml_tag *tag) {
    bool name = take(c, "name");
    if (!name && !take(c, "string"))
        return false;
    skip_space(c);
    if (!take(c, "="))
        return false;
    skip_space(c);
    size_t at, bytes;
    if (!take_value(c, &at, &bytes))
        return false;
    if (name) {
        if (tag->name || !bytes)
            return false;
        tag->name = at;
        tag->name_bytes = bytes;
        return true;
    }
    if (tag->string != DSML_UNSAID)
        return false;
    if (is_word(c->s + at, bytes, "true"))
        tag->string = DSML_TRUE;
    else if (is_word(c->s + at, bytes, "false"))
        tag->string = DSML_FALSE;
    return tag->string != DSML_UNSAID;
}

/* ----------------------------------------------------------------------------------------------- tag */

/* Only parameters say `string`, wrappers say nothing, and what is opened has a name. */
static bool makes_sense(const struct dsml_tag *tag) {
    bool named = tag->kind != DSML_WRAPPER && !tag->closing;
    return (tag->name != 0) == named && (tag->string == DSML_UNSAID || tag->kind == DSML_PARAMETER) &&
           !(tag->closing && tag->empty);
}

enum dsml_look dsml_tag_look(const char *text, size_t bytes, size_t at, struct dsml_tag *tag) {
    bool ran_out = false, whole = bytes - at >= DSML_TAG_MAX;
    struct cursor c = {text, whole ? at + DSML_TAG_MAX : bytes, at, &ran_out};
    *tag = (struct dsml_tag){0};
    if (!take_head(&c, tag))
        return ran_out && !whole ? DSML_CUT : DSML_NONE;
    for (;;) {
        skip_space(&c);
        if (take(&c, ">"))
            break;
        if (take(&c, "/>")) {
            tag->empty = true;
            break;
        }
        if (!take_attribute(&c, tag))
            return ran_out && !whole ? DSML_CUT : DSML_NONE;
    }
    tag->end = c.at;
    return makes_sense(tag) ? DSML_WHOLE : DSML_NONE;
}

bool dsml_tag_read(const char *text, size_t bytes, size_t at, struct dsml_tag *tag) {
    return dsml_tag_look(text, bytes, at, tag) == DSML_WHOLE;
}

bool dsml_tag_begins(const char *text, size_t bytes, size_t at) {
    bool ran_out = false;
    struct cursor c = {text, bytes, at, &ran_out};
    if (!take(&c, "<"))
        return false;
    take(&c, "/");
    return take_bars(&c) && take(&c, "DSML");
}

bool dsml_tag_is_cut(const char *text, size_t bytes, size_t at) {
    bool ran_out = false;
    struct cursor c = {text, bytes, at, &ran_out};
    if (bytes - at > DSML_TAG_MAX || !take(&c, "<"))
        return false;
    take(&c, "/");
    if (!take_bars(&c))
        return false;
    static const char word[] = "DSML";
    for (size_t i = 0; word[i]; i++, c.at++) {
        if (c.at == bytes)
            return i > 0;
        if (text[c.at] != word[i])
            return false;
    }
    if (c.at == bytes)
        return true;
    if (!take_bars(&c))
        return false;
    skip_space(&c);
    size_t rest = bytes - c.at;
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (rest <= strlen(words[i].word) && memcmp(text + c.at, words[i].word, rest) == 0)
            return true;
    return false;
}
