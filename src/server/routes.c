/*
 * routes.c - which path is whose, and how each interface says no.
 *
 * Clients are configured with bases of many shapes, so /v1, /beta and /anthropic before a path may be there or not:
 * what is left names the interface.
 */
#include <stdio.h>
#include <string.h>

#include "server/interfaces_internal.h"

static const struct route routes[] = {
    {"POST", "/chat/completions", serve_chat, DIALECT_OPENAI, false, false},
    {"POST", "/completions", serve_completions, DIALECT_OPENAI, false, false},
    {"POST", "/responses", serve_responses, DIALECT_OPENAI, false, false},
    {"GET", "/models", serve_models, DIALECT_OPENAI, false, true},
    {"GET", "/models/", serve_models, DIALECT_OPENAI, false, true},
    {"POST", "/messages", serve_messages, DIALECT_ANTHROPIC, false, false},
    {"POST", "/messages/count_tokens", serve_count_tokens, DIALECT_ANTHROPIC, false, false},
    {"POST", "/tokenize", serve_tokenize, DIALECT_OPENAI, false, false},
    {"POST", "/detokenize", serve_detokenize, DIALECT_OPENAI, false, false},
    {"GET", "/health", serve_health, DIALECT_OPENAI, true, true},
    {"GET", "/metrics", serve_metrics, DIALECT_OPENAI, false, true},
    {"GET", "/status", serve_status, DIALECT_OPENAI, false, true},
};

static const struct route page = {"GET", "/", serve_page, DIALECT_OPENAI, true, true};

static const char *skip(const char *path, const char *prefix) {
    size_t n = strlen(prefix);
    return strncmp(path, prefix, n) == 0 && path[n] == '/' ? path + n : path;
}

static bool is_path(const struct route *r, const char *path) {
    size_t n = strlen(r->path);
    bool below = n > 1 && r->path[n - 1] == '/';
    return below ? strncmp(path, r->path, n) == 0 && path[n] : strcmp(path, r->path) == 0;
}

const struct route *route_find(const char *method, const char *path, struct buf *allow) {
    if (page_has(path)) {
        buf_string(allow, page.method);
        return strcmp(method, page.method) == 0 ? &page : NULL;
    }
    path = skip(skip(skip(path, "/beta"), "/anthropic"), "/v1");
    for (size_t i = 0; i < COUNT_OF(routes); i++) {
        if (!is_path(&routes[i], path))
            continue;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        buf_printf(allow, "%s%s", allow->len ? ", " : "", routes[i].method);
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- errors */

static const char *openai_type(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static const char *anthropic_type(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return status < 500 ? "invalid_request_error" : "api_error";
    }
}

/* What several interfaces have, or none, is told apart by the header that Anthropic's clients send. */
static bool is_anthropic(const struct exchange *x) {
    const struct route *route = exchange_route(x);
    if (route && !route->at_once)
        return route->dialect == DIALECT_ANTHROPIC;
    return exchange_header(x, "anthropic-version") != NULL;
}

void write_refusal(struct buf *b, const struct exchange *x, const struct refusal *r) {
    if (is_anthropic(x)) {
        buf_printf(b, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(r->status));
        json_write_string(b, r->message, strlen(r->message));
        if (r->code)
            buf_printf(b, ",\"details\":{\"error_code\":\"%s\"}", r->code);
        buf_printf(b, "},\"request_id\":\"%s\"}\n", exchange_id(x));
        return;
    }
    buf_string(b, "{\"error\":{\"message\":");
    json_write_string(b, r->message, strlen(r->message));
    buf_printf(b, ",\"type\":\"%s\",\"param\":", openai_type(r->status));
    if (*r->param)
        json_write_string(b, r->param, strlen(r->param));
    else
        buf_string(b, "null");
    buf_string(b, ",\"code\":");
    if (r->code)
        buf_printf(b, "\"%s\"}}\n", r->code);
    else
        buf_string(b, r->status == 401 ? "\"invalid_api_key\"}}\n" : "null}}\n");
}
