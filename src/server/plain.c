/* plain.c - what answers at once: the model's name, tokens of texts, health, metrics, what runs now. */
#include <stdlib.h>
#include <string.h>

#include "server/asked_internal.h"
#include "server/interfaces_internal.h"
#include "server/parts_internal.h"

/* ---------------------------------------------------------------------------------------------- models */

static void write_model(struct buf *b, const struct server *s, bool anthropic) {
    const char *name = s->options.name;
    buf_string(b, "{\"id\":");
    json_write_string(b, name, strlen(name));
    if (anthropic) {
        buf_string(b, ",\"type\":\"model\",\"created_at\":\"1970-01-01T00:00:00Z\",\"display_name\":");
        json_write_string(b, name, strlen(name));
        buf_byte(b, '}');
        return;
    }
    buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"sonde\",\"context_length\":%llu}",
               (long long)s->created, (unsigned long long)s->context);
}

/* All models, or the one named behind /v1/models/. Anthropic's clients are told by their header. */
void serve_models(struct exchange *x) {
    const struct server *s = exchange_server(x);
    const char *asked = strstr(exchange_path(x), "/models/");
    bool anthropic = exchange_header(x, "anthropic-version") != NULL;
    struct buf b = {0};
    struct refusal r = {0};
    asked = asked ? asked + strlen("/models/") : "";
    if (*asked && strcmp(asked, s->options.name) != 0) {
        refuse(&r, 404, "model", "there is no model %.100s; this server has %s", asked, s->options.name);
        r.code = "model_not_found";
        exchange_refuse(x, &r);
        return;
    }
    if (*asked) {
        write_model(&b, s, anthropic);
    } else {
        buf_string(&b, anthropic ? "{\"data\":[" : "{\"object\":\"list\",\"data\":[");
        write_model(&b, s, anthropic);
        buf_byte(&b, ']');
        if (anthropic) {
            buf_string(&b, ",\"has_more\":false,\"first_id\":");
            write_model_name(&b, s);
            buf_string(&b, ",\"last_id\":");
            write_model_name(&b, s);
        }
        buf_byte(&b, '}');
    }
    buf_byte(&b, '\n');
    exchange_reply_json(x, 200, &b);
}

/* ---------------------------------------------------------------------------------------------- tokens */

/* The text under one of its two names. */
static const struct jnode *text_of(struct fields *f) {
    const struct jnode *text = field_of(f, "content", JNODE_STRING);
    if (!text)
        text = field_of(f, "prompt", JNODE_STRING);
    if (!text && !f->failed)
        field_refuse(f, "content", "a string is expected");
    return text;
}

static int tokenize(struct fields *f, const struct server *s, struct buf *ids, struct sonde_error *e) {
    bool begin = false, special = true;
    int32_t *list;
    size_t count;
    fields_only(f, "content|prompt|model|add_special|add_special_tokens|parse_special|with_pieces", NULL);
    const struct jnode *text = text_of(f);
    field_bool(f, "add_special", &begin);
    field_bool(f, "add_special_tokens", &begin);
    field_bool(f, "parse_special", &special);
    if (f->failed)
        return SONDE_OK;
    if (begin && s->info.bos >= 0)
        buf_append(ids, &s->info.bos, sizeof(s->info.bos));
    int rc = sonde_tokenizer_encode(s->tokenizer, text->text, text->length,
                                    special ? SONDE_MARKUP_TOKENS : SONDE_MARKUP_TEXT, &list, &count, e);
    if (rc)
        return rc;
    buf_append(ids, list, count * sizeof(*list));
    sonde_free(list);
    return SONDE_OK;
}

static void reply_ids(struct exchange *x, const struct buf *ids, bool pieces) {
    const struct server *s = exchange_server(x);
    const int32_t *list = (const int32_t *)(const void *)ids->data;
    size_t count = ids->len / sizeof(*list);
    struct buf b = {0};
    buf_string(&b, "{\"tokens\":[");
    for (size_t i = 0; i < count; i++) {
        buf_printf(&b, pieces ? "%s{\"id\":%d,\"piece\":" : "%s%d", i ? "," : "", (int)list[i]);
        if (pieces) {
            write_token(&b, s, list[i]);
            buf_byte(&b, '}');
        }
    }
    buf_printf(&b, "],\"count\":%zu,\"max_model_len\":%llu}\n", count, (unsigned long long)s->context);
    exchange_reply_json(x, 200, &b);
}

/* {"content": TEXT}: its ids. Special tokens in it are those tokens unless "parse_special" is false. */
void serve_tokenize(struct exchange *x) {
    struct refusal r = {0};
    struct fields f;
    struct jtree tree;
    struct buf ids = {0};
    struct sonde_error e;
    bool pieces = false;
    if (read_body(x, &tree, &f, &r)) {
        exchange_refuse(x, &r);
        return;
    }
    int rc = tokenize(&f, exchange_server(x), &ids, &e);
    field_bool(&f, "with_pieces", &pieces);
    jtree_release(&tree);
    if (rc)
        refuse_error(&r, &e);
    if (rc || f.failed)
        exchange_refuse(x, &r);
    else
        reply_ids(x, &ids, pieces);
    buf_release(&ids);
}

static int detokenize(struct fields *f, const struct server *s, char **text, size_t *bytes, struct sonde_error *e) {
    const struct jnode *list = field_of(f, "tokens", JNODE_ARRAY);
    struct buf ids = {0};
    fields_only(f, "tokens|model", NULL);
    if (!list)
        field_refuse(f, "tokens", "a list of ids is expected");
    for (const struct jnode *n = f->failed ? NULL : list->first; n && !f->failed; n = n->next) {
        double x;
        if (!jnode_number(n, &x) || x < 0 || x >= s->info.vocab || x != (double)(int32_t)x)
            field_refuse(f, "tokens", "ids from 0 to %u are expected", s->info.vocab - 1);
        else
            buf_append(&ids, &(int32_t){(int32_t)x}, sizeof(int32_t));
    }
    int rc = f->failed ? SONDE_OK
                       : sonde_tokenizer_decode(s->tokenizer, (const int32_t *)(const void *)ids.data,
                                                ids.len / sizeof(int32_t), text, bytes, e);
    buf_release(&ids);
    return rc;
}

/* {"tokens": [ids]}: their text, under both names that clients look for. */
void serve_detokenize(struct exchange *x) {
    struct refusal r = {0};
    struct fields f;
    struct jtree tree;
    struct sonde_error e;
    struct buf b = {0};
    char *text = NULL;
    size_t bytes = 0;
    if (read_body(x, &tree, &f, &r)) {
        exchange_refuse(x, &r);
        return;
    }
    int rc = detokenize(&f, exchange_server(x), &text, &bytes, &e);
    jtree_release(&tree);
    if (rc)
        refuse_error(&r, &e);
    if (rc || f.failed) {
        exchange_refuse(x, &r);
        return;
    }
    buf_string(&b, "{\"content\":");
    json_write_string(&b, text, bytes);
    buf_string(&b, ",\"prompt\":");
    json_write_string(&b, text, bytes);
    buf_string(&b, "}\n");
    sonde_free(text);
    exchange_reply_json(x, 200, &b);
}

/* --------------------------------------------------------------------------------------------- watching */

void serve_health(struct exchange *x) {
    struct buf b = {0};
    bool ends = atomic_load(&exchange_server(x)->draining) > 0;
    buf_printf(&b, "{\"status\":\"%s\"}\n", ends ? "draining" : "ok");
    exchange_reply_json(x, ends ? 503 : 200, &b);
}

void serve_metrics(struct exchange *x) {
    struct server *s = exchange_server(x);
    struct buf b = {0};
    metrics_write(s->metrics, s, &b);
    if (b.failed)
        exchange_reply_json(x, 500, &b);
    else
        exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    buf_release(&b);
}

static void write_running(struct buf *b, struct server *s) {
    static const char *const states[] = {"waiting", "reading", "writing"};
    double now = clock_seconds();
    const char *comma = "";
    pthread_mutex_lock(&s->lock);
    for (struct task *t = s->tasks; t; t = t->next) {
        buf_printf(b, "%s{\"id\":\"%s\",\"state\":\"%s\",\"age\":%.3f,\"prompt\":%zu,\"read\":%llu,\"generated\":%llu}",
                   comma, exchange_id(t->exchange), states[atomic_load(&t->state)], now - exchange_began(t->exchange),
                   t->count, (unsigned long long)atomic_load(&t->progress),
                   (unsigned long long)atomic_load(&t->generated));
        comma = ",";
    }
    pthread_mutex_unlock(&s->lock);
}

/* What the page's view of the server shows; metrics for people. Totals are since the server began. */
void serve_status(struct exchange *x) {
    struct server *s = exchange_server(x);
    struct sonde_scheduler_status now;
    struct buf b = {0};
    sonde_scheduler_status(s->scheduler, &now);
    buf_string(&b, "{\"model\":");
    write_model_name(&b, s);
    buf_printf(&b, ",\"version\":\"%s\",\"uptime\":%.1f,\"context\":%llu,\"thinking\":%s,", sonde_version(),
               clock_seconds() - s->began, (unsigned long long)s->context, s->thinks ? "true" : "false");
    buf_printf(&b, "\"requests\":{\"active\":%u,\"waiting\":%u,\"finished\":%llu,\"limit\":%u},", now.active,
               now.waiting, (unsigned long long)now.finished, s->options.requests);
    buf_printf(&b, "\"tokens\":{\"prompt\":%llu,\"reused\":%llu,\"generated\":%llu},",
               (unsigned long long)now.prompt_tokens, (unsigned long long)now.reused_tokens,
               (unsigned long long)now.generated_tokens);
    buf_printf(&b, "\"cache\":{\"pages\":%llu,\"used\":%llu},\"running\":[", (unsigned long long)now.cache_pages,
               (unsigned long long)now.cache_pages_used);
    write_running(&b, s);
    buf_string(&b, "]}\n");
    exchange_reply_json(x, 200, &b);
}
