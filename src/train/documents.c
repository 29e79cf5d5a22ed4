/*
 * documents.c - files become documents.
 *
 * Texts are handed out where they lie in the mapped file. Lines of JSON are read strictly; every message about one
 * begins with "file:line".
 */
#include <string.h>

#include "train/data_internal.h"

int documents_open(const struct data_source *source, struct documents *d, struct sonde_error *e) {
    const char *separator = source->kind == DATA_TEXT ? source->separator : NULL;
    if (separator && (!*separator || strpbrk(separator, "\r\n")))
        return err_set(e, SONDE_ERROR_ARGUMENT, "%s: a separator is a line, without its end and not empty",
                       source->path);
    *d = (struct documents){.source = source, .line = 1};
    return file_map_open(source->path, &d->map, e);
}

void documents_close(struct documents *d) {
    file_map_close(&d->map);
    jtree_release(&d->tree);
    buf_release(&d->converted);
}

/* The line at d->at, without its end; moves behind it. False at the end of the file. */
static bool take_line(struct documents *d, const char **line, size_t *bytes) {
    if (d->at == d->map.size)
        return false;
    const char *begin = (const char *)d->map.data + d->at, *end = memchr(begin, '\n', d->map.size - d->at);
    size_t length = end ? (size_t)(end - begin) : d->map.size - d->at;
    d->at += length + (end != NULL);
    d->line++;
    *line = begin;
    *bytes = length && begin[length - 1] == '\r' ? length - 1 : length;
    return true;
}

/* -------------------------------------------------------------------------------------- plain text */

static bool ends_line(char c) {
    return c == '\n' || c == '\r';
}

/* Drops line ends at both ends. Returns how many lines that are before the text now. */
static size_t trim(struct document *document) {
    size_t lines = 0;
    while (document->bytes && ends_line(document->text[0])) {
        lines += document->text[0] == '\n';
        document->text++;
        document->bytes--;
    }
    while (document->bytes && ends_line(document->text[document->bytes - 1]))
        document->bytes--;
    return lines;
}

/* The next text up to a separator; false at the end of the file. */
static bool next_text(struct documents *d, struct document *document) {
    const char *separator = d->source->separator, *line;
    size_t length = separator ? strlen(separator) : 0, bytes, begin = d->at, end = d->at;
    size_t first = d->line;
    if (!separator) {
        end = d->at = d->map.size;
    } else {
        while (take_line(d, &line, &bytes) && (bytes != length || memcmp(line, separator, length) != 0))
            end = d->at;
    }
    if (d->at == begin)
        return false;
    *document = (struct document){(const char *)d->map.data + begin, end - begin, false, first};
    document->line += trim(document);
    return true;
}

/* ------------------------------------------------------------------------------------------- JSON */

static void put_message(struct buf *b, const char *role, const struct jnode *content) {
    buf_printf(b, "{\"role\": \"%s\", \"content\": ", role);
    json_write_string(b, content->text, content->length);
    buf_byte(b, '}');
}

/* A question and its answer as a conversation. */
static int convert(struct documents *d, const struct jnode *q, const struct jnode *a, struct document *document,
                   struct sonde_error *e) {
    struct buf *b = &d->converted;
    buf_clear(b);
    buf_string(b, "{\"messages\": [");
    put_message(b, "user", q);
    buf_string(b, ", ");
    put_message(b, "assistant", a);
    buf_string(b, "]}");
    document->text = b->data;
    document->bytes = b->len;
    document->chat = true;
    return b->failed ? err_memory(e) : SONDE_OK;
}

static int read_object(struct documents *d, struct document *document, const char *what, struct sonde_error *e) {
    const struct jnode *root = d->tree.root, *text = jnode_get(root, "text"), *q = jnode_get(root, "q"),
                       *a = jnode_get(root, "a");
    if (jnode_get(root, "messages")) {
        document->chat = true;
        return SONDE_OK;
    }
    if (jnode_is(q, JNODE_STRING) && jnode_is(a, JNODE_STRING))
        return convert(d, q, a, document, e);
    if (!jnode_is(text, JNODE_STRING))
        return err_set(e, SONDE_ERROR_FORMAT,
                       "%s: an object with \"messages\", with strings \"q\" and \"a\", or with a string \"text\" is "
                       "expected",
                       what);
    document->text = text->text;
    document->bytes = text->length;
    trim(document);
    return SONDE_OK;
}

static bool is_blank(const char *line, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* 1 and the document of the next line that has one. */
static int next_object(struct documents *d, struct document *document, struct sonde_error *e) {
    const char *line;
    size_t bytes;
    while (take_line(d, &line, &bytes)) {
        char what[300];
        if (is_blank(line, bytes))
            continue;
        *document = (struct document){line, bytes, false, d->line - 1};
        snprintf(what, sizeof(what), "%.270s:%zu", d->source->path, document->line);
        jtree_release(&d->tree);
        int rc = jtree_parse(line, bytes, what, &d->tree, e);
        if (!rc)
            rc = read_object(d, document, what, e);
        return rc ? rc : 1;
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------- both */

int documents_next(struct documents *d, struct document *document, struct sonde_error *e) {
    for (;;) {
        int rc = d->source->kind == DATA_TEXT ? next_text(d, document) : next_object(d, document, e);
        if (rc < 1 || document->bytes)
            return rc;
    }
}
