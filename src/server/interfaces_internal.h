/* interfaces_internal.h - what routes.c leads to. */
#ifndef SERVER_INTERFACES_INTERNAL_H
#define SERVER_INTERFACES_INTERNAL_H

#include "server/server_internal.h"

void serve_chat(struct exchange *x);         /* openai_chat.c */
void serve_completions(struct exchange *x);  /* openai_completions.c */
void serve_responses(struct exchange *x);    /* openai_responses.c */
void serve_messages(struct exchange *x);     /* anthropic.c */
void serve_count_tokens(struct exchange *x); /* anthropic.c */
void serve_models(struct exchange *x);       /* plain.c */
void serve_tokenize(struct exchange *x);     /* plain.c */
void serve_detokenize(struct exchange *x);   /* plain.c */
void serve_health(struct exchange *x);       /* plain.c */
void serve_metrics(struct exchange *x);      /* plain.c */
void serve_status(struct exchange *x);       /* plain.c */
void serve_page(struct exchange *x);         /* page.c */

/* True if the page has a file at this path. */
bool page_has(const char *path);

/* The error object in a stream, as OpenAI's interfaces send it. */
void openai_failed(struct task *t, const struct refusal *r);

#endif
