/*
 * page.c - the page at /, built into the program: files written by hand, served as they are; page/page.js says
 * which is what.
 *
 * It may load nothing from elsewhere and run nothing that is not its own script (Content-Security-Policy), so that what
 * a model writes cannot become more than text.
 */
#include <string.h>

#include "server/interfaces_internal.h"

/* The assembler puts a file between two symbols. Paths are from the source root, which the build names with -I. */
#define EMBED(name, path)                                                                                              \
    extern const char page_##name[], page_##name##_end[];                                                              \
    __asm__(".pushsection .rodata\n"                                                                                   \
            ".hidden page_" #name "\n"                                                                                 \
            ".hidden page_" #name "_end\n"                                                                             \
            ".global page_" #name "\n"                                                                                 \
            ".global page_" #name "_end\n"                                                                             \
            "page_" #name ":\n"                                                                                        \
            ".incbin \"" path "\"\n"                                                                                   \
            "page_" #name "_end:\n"                                                                                    \
            ".byte 0\n"                                                                                                \
            ".popsection\n")

#define SCRIPT "text/javascript; charset=utf-8"

/* X(symbol, path, file, type) */
#define PAGE_FILES(X)                                                                                                  \
    X(html, "/", "index.html", "text/html; charset=utf-8")                                                             \
    X(css, "/page.css", "page.css", "text/css; charset=utf-8")                                                         \
    X(js, "/page.js", "page.js", SCRIPT)                                                                               \
    X(api, "/api.js", "api.js", SCRIPT)                                                                                \
    X(chat, "/chat.js", "chat.js", SCRIPT)                                                                             \
    X(dom, "/dom.js", "dom.js", SCRIPT)                                                                                \
    X(list, "/list.js", "list.js", SCRIPT)                                                                             \
    X(markdown, "/markdown.js", "markdown.js", SCRIPT)                                                                 \
    X(message, "/message.js", "message.js", SCRIPT)                                                                    \
    X(settings, "/settings.js", "settings.js", SCRIPT)                                                                 \
    X(status, "/status.js", "status.js", SCRIPT)                                                                       \
    X(store, "/store.js", "store.js", SCRIPT)                                                                          \
    X(icon, "/icon.svg", "icon.svg", "image/svg+xml")

#define EMBED_FILE(symbol, path, file, type) EMBED(symbol, PAGE_DIRECTORY "/" file);
PAGE_FILES(EMBED_FILE)

struct file {
    const char *path, *type, *begin, *end;
};

#define FILE_ROW(symbol, path, file, type) {path, type, page_##symbol, page_##symbol##_end},
static const struct file files[] = {PAGE_FILES(FILE_ROW){"/favicon.ico", "image/svg+xml", page_icon, page_icon_end}};

static const struct file *find(const char *path) {
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (strcmp(path, files[i].path) == 0)
            return &files[i];
    return NULL;
}

bool page_has(const char *path) {
    return find(path) != NULL;
}

void serve_page(struct exchange *x) {
    const struct file *f = find(exchange_path(x));
    if (f) /* as page_has() said */
        exchange_reply(x, 200, f->type, f->begin, (size_t)(f->end - f->begin));
}
