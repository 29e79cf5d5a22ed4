/*
 * snapshot.c - a sequence as it was at some length: its state copied to the host, its pages shared.
 *
 * As bytes for a file a snapshot is a header and the rest: the state and, where they were kept, the logits. Pages are
 * written apart, so that snapshots that share them do so there too.
 */
#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"

struct snapshot {
    struct model *model;
    struct snapshot_header header;
    uint8_t *state; /* [header.state_bytes], and behind it logits [V] if header.logits */
    uint32_t *pages;
    uint32_t page_count;
};

static uint64_t logits_bytes(const struct model *m, const struct snapshot_header *h) {
    return h->logits ? m->shape->vocab * sizeof(float) : 0;
}

/* Memory for what the header says; no pages yet. */
static struct snapshot *allocate(struct model *m, const struct snapshot_header *h) {
    uint64_t bytes = h->state_bytes + logits_bytes(m, h);
    if (!state_take(m, bytes))
        return NULL;
    struct snapshot *s = calloc(1, sizeof(*s));
    if (s)
        *s = (struct snapshot){.model = m,
                               .header = *h,
                               .state = malloc(bytes),
                               .pages = calloc(model_page_count(m, h->length) + 1, sizeof(*s->pages))};
    if (s && s->state && s->pages)
        return s;
    if (s) {
        free(s->state);
        free(s->pages);
    }
    free(s);
    state_return(m, bytes);
    return NULL;
}

int snapshot_take(const struct sequence *from, const float *logits, struct snapshot **snapshot, struct sonde_error *e) {
    struct model *m = from->model;
    struct snapshot_header h = {.length = from->length,
                                .state_bytes = from->memory_bytes,
                                .mtp = from->mtp,
                                .logits = logits != NULL,
                                .owed = from->owed_count,
                                .paired = from->paired};
    struct snapshot *s = allocate(m, &h);
    if (!s)
        return err_memory(e);
    m->device->ops->download(m->device, s->state, from->memory, from->memory_bytes);
    if (logits)
        memcpy(s->state + h.state_bytes, logits, logits_bytes(m, &h));
    /* a page that lies wholly behind the length, of tokens taken back, is no part of it */
    s->page_count = (uint32_t)min_u64(from->page_count, model_page_count(m, from->length));
    for (uint32_t i = 0; i < s->page_count; i++) {
        s->pages[i] = from->pages[i];
        cache_pages_share(m->pages, s->pages[i]);
    }
    *snapshot = s;
    return SONDE_OK;
}

void snapshot_drop(struct snapshot *s) {
    if (!s)
        return;
    while (s->page_count)
        cache_pages_drop(s->model->pages, s->pages[--s->page_count]);
    state_return(s->model, snapshot_bytes(s));
    free(s->state);
    free(s->pages);
    free(s);
}

int snapshot_resume(const struct snapshot *s, const int32_t *ids, struct sequence *to, struct sonde_error *e) {
    struct model *m = s->model;
    if (s->header.length > to->context)
        return err_set(e, SONDE_ERROR_CONTEXT, "%llu tokens do not fit a context of %llu",
                       (unsigned long long)s->header.length, (unsigned long long)to->context);
    if (s->header.mtp != to->mtp)
        return err_set(e, SONDE_ERROR_ARGUMENT, "what is remembered was made %s multi-token prediction",
                       s->header.mtp ? "with" : "without");
    sequence_reset(to);
    m->device->ops->upload(m->device, to->memory, s->state, to->memory_bytes);
    memcpy(to->tokens, ids, s->header.length * sizeof(*ids));
    for (; to->page_count < s->page_count; to->page_count++) {
        to->pages[to->page_count] = s->pages[to->page_count];
        cache_pages_share(m->pages, to->pages[to->page_count]);
    }
    to->length = s->header.length;
    to->owed_count = s->header.owed;
    to->paired = s->header.paired;
    return SONDE_OK;
}

uint64_t snapshot_length(const struct snapshot *s) {
    return s->header.length;
}

const float *snapshot_logits(const struct snapshot *s) {
    return s->header.logits ? (const float *)(const void *)(s->state + s->header.state_bytes) : NULL;
}

uint64_t snapshot_bytes(const struct snapshot *s) {
    return s->header.state_bytes + logits_bytes(s->model, &s->header);
}

/* ------------------------------------------------------------------------------------- as bytes */

const struct snapshot_header *snapshot_parts(const struct snapshot *s, const void **rest, size_t *rest_bytes) {
    *rest = s->state;
    *rest_bytes = snapshot_bytes(s);
    return &s->header;
}

static bool header_fits(const struct model *m, const struct snapshot_header *h) {
    return h->length && h->length <= m->context && h->mtp <= 1 && (!h->mtp || m->mtp) && h->logits <= 1 &&
           (h->mtp ? mtp_can_owe(m, h->length, h->owed, h->paired) : h->owed == 0 && h->paired == -1) &&
           h->state_bytes == m->sequence_bytes[h->mtp];
}

int snapshot_from_bytes(struct model *m, const struct snapshot_header *h, const void *rest, size_t rest_bytes,
                        struct snapshot **snapshot, struct sonde_error *e) {
    if (!header_fits(m, h) || rest_bytes != h->state_bytes + logits_bytes(m, h))
        return err_set(e, SONDE_ERROR_FORMAT, "a snapshot of another model");
    struct snapshot *s = allocate(m, h);
    if (!s)
        return err_memory(e);
    memcpy(s->state, rest, rest_bytes);
    *snapshot = s;
    return SONDE_OK;
}

uint32_t snapshot_pages(const struct snapshot *s) {
    return s->page_count;
}

void snapshot_share(struct snapshot *s, const struct snapshot *base) {
    struct model *m = s->model;
    uint64_t complete = m->page_bytes ? min_u64(s->header.length, base->header.length) / m->page_tokens : 0;
    for (; s->page_count < complete; s->page_count++) {
        s->pages[s->page_count] = base->pages[s->page_count];
        cache_pages_share(m->pages, s->pages[s->page_count]);
    }
}

bool snapshot_add_page(struct snapshot *s, const void *data) {
    struct model *m = s->model;
    if (!cache_pages_unused(m->pages))
        return false;
    uint32_t page = cache_pages_take(m->pages);
    m->device->ops->upload(m->device, (uint8_t *)m->page_memory + page * m->page_bytes, data, m->page_bytes);
    s->pages[s->page_count++] = page;
    return true;
}

void snapshot_page(const struct snapshot *s, uint32_t index, void *to) {
    const struct model *m = s->model;
    uint64_t first = index * m->page_tokens, tokens = min_u64(s->header.length - first, m->page_tokens);
    const uint8_t *page = (const uint8_t *)m->page_memory + s->pages[index] * m->page_bytes;
    memset(to, 0, m->page_bytes);
    for (uint32_t i = 0; i < m->blocks; i++) {
        const struct cache_layer_spec *spec = &m->specs[i];
        uint64_t rows = spec->ratio ? tokens / spec->ratio : 0;
        size_t at[] = {m->parts[i].entries, m->parts[i].index_keys}, row[] = {spec->key_bytes, spec->index_key_bytes};
        for (int part = 0; part < 2; part++)
            m->device->ops->download(m->device, (uint8_t *)to + at[part], page + at[part], rows * row[part]);
    }
}
