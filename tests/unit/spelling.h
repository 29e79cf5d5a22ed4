/* spelling.h - what is written in V4's spelling of tool calls, in V4.1's. */
#ifndef TESTS_UNIT_SPELLING_H
#define TESTS_UNIT_SPELLING_H

#include <string.h>

#include "base/base.h"

/* Tags whose name is whole are respelled, all else stays; owed to free(). */
static inline char *spelled_v41(const char *text) {
    static const char marker[] = "｜DSML｜";
    static const char *const names[][2] = {
        {"tool_calls", " calls"}, {"invoke", " invoke"}, {"parameter", " parameter"}};
    struct buf b = {0};
    char *taken;
    const char *at;
    while ((at = strstr(text, marker))) {
        at += strlen(marker);
        buf_append(&b, text, (size_t)(at - text));
        text = at;
        for (size_t i = 0; i < COUNT_OF(names); i++)
            if (strncmp(text, names[i][0], strlen(names[i][0])) == 0) {
                buf_string(&b, names[i][1]);
                text += strlen(names[i][0]);
                break;
            }
    }
    buf_string(&b, text);
    CHECKED(buf_take(&b, &taken, NULL, &error));
    return taken;
}

#endif
