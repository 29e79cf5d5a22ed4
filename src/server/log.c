/*
 * log.c - one JSON line for each request, and its numbers.
 *
 *     {"time":"2026-01-31T12:00:00.123Z","id":"req-7","peer":"127.0.0.1","key":"alice","method":"POST",
 *      "path":"/v1/chat/completions","status":200,"bytes":5120,"seconds":1.234,"first_token_seconds":0.21,
 *      "prompt_tokens":31,"reused_tokens":16,"generated_tokens":80,"reasoning_tokens":0,"finish":"stop"}
 *
 * What does not apply is left out; "error" is the sentence the client got. Nothing of prompts or answers is logged.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/parts_internal.h"

static void write_time(struct buf *b) {
    struct timespec now;
    struct tm tm;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    buf_printf(b, "%s.%03ldZ", text, now.tv_nsec / 1000000);
}

static void write_member(struct buf *b, const char *name, const char *text) {
    buf_printf(b, ",\"%s\":", name);
    json_write_string(b, text, strlen(text));
}

static void write_tokens(struct buf *b, const struct record *r) {
    const struct exchange_facts *f = r->facts;
    if (!f->prompt_tokens)
        return;
    if (f->first_token > 0)
        buf_printf(b, ",\"first_token_seconds\":%.4f", f->first_token - exchange_began(r->exchange));
    buf_printf(b, ",\"prompt_tokens\":%llu,\"reused_tokens\":%llu,\"generated_tokens\":%llu,\"reasoning_tokens\":%llu",
               (unsigned long long)f->prompt_tokens, (unsigned long long)f->reused_tokens,
               (unsigned long long)f->generated_tokens, (unsigned long long)f->reasoning_tokens);
}

void log_record(const struct server *s, const struct record *r) {
    struct buf b = {0};
    if (!s->options.log)
        return;
    buf_string(&b, "{\"time\":\"");
    write_time(&b);
    buf_byte(&b, '"');
    write_member(&b, "id", exchange_id(r->exchange));
    write_member(&b, "peer", r->peer);
    if (exchange_key(r->exchange))
        write_member(&b, "key", apikey_name(exchange_key(r->exchange)));
    write_member(&b, "method", r->method);
    write_member(&b, "path", r->path);
    buf_printf(&b, ",\"status\":%d,\"bytes\":%llu,\"seconds\":%.4f", r->status, (unsigned long long)r->bytes,
               clock_seconds() - r->arrived);
    write_tokens(&b, r);
    if (r->facts->finish)
        write_member(&b, "finish", r->facts->finish);
    if (*r->facts->error)
        write_member(&b, "error", r->facts->error);
    buf_byte(&b, '}');
    if (!b.failed)
        s->options.log(s->options.log_context, b.data);
    buf_release(&b);
}
