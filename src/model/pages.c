/*
 * pages.c - where the entries of sequences lie: pages of a model's one piece of memory, shared by sequences that began
 * alike.
 *
 * A sequence holds the pages of its tokens in order, and no others. Only the last of them is ever written to, behind
 * what is in it, and only by a sequence that holds it alone: before a step the pages it will write are taken, and one
 * that others hold too is copied. So a fork shares all pages, and costs the state of a sequence and later at most one
 * page.
 */
#include <stdlib.h>

#include "model/model_internal.h"

enum { MOST_PAGES = 1 << 24 };

int pages_open(struct model *m, const struct model_options *options, struct sonde_error *e) {
    m->parts = calloc(m->blocks, sizeof(*m->parts));
    if (!m->parts)
        return err_memory(e);
    m->page_tokens = cache_page_tokens(m->specs, m->blocks, options->page_tokens ? options->page_tokens : PAGE_TOKENS);
    if (!m->page_tokens)
        return err_set(e, SONDE_ERROR_UNSUPPORTED,
                       "config.json: field compress_ratios: no page of 2^31 tokens ends between entries of all layers");
    m->page_bytes = cache_page_layout(m->specs, m->blocks, m->page_tokens, m->parts);
    uint64_t bytes = options->cache_bytes ? options->cache_bytes : memory_total() / 8 * 3;
    m->state_limit = options->state_bytes ? options->state_bytes : memory_total() / 8;
    uint64_t count = m->page_bytes ? min_u64(bytes / m->page_bytes, MOST_PAGES) : 0;
    while (count) {
        m->page_memory_bytes = count * m->page_bytes;
        m->page_memory = m->device->ops->alloc(m->device, m->page_memory_bytes);
        if (m->page_memory || options->cache_bytes)
            break;
        count /= 2; /* nobody asked for so much: address space may be short */
    }
    if (m->page_bytes && !m->page_memory)
        return err_set(e, SONDE_ERROR_MEMORY, "out of memory: a page of the cache takes %llu bytes, of %llu for all",
                       (unsigned long long)m->page_bytes, (unsigned long long)bytes);
    return cache_pages_open((uint32_t)count, &m->pages, e);
}

void pages_close(struct model *m) {
    if (m->page_memory)
        m->device->ops->release(m->device, m->page_memory, m->page_memory_bytes);
    cache_pages_close(m->pages);
    free(m->parts);
}

uint64_t model_page_count(const struct model *m, uint64_t tokens) {
    return m->page_bytes ? ceil_div(tokens, m->page_tokens) : 0;
}

uint64_t model_page_bytes(const struct model *m) {
    return m->page_bytes;
}

uint64_t model_page_tokens(const struct model *m) {
    return m->page_tokens;
}

uint32_t model_pages_unused(const struct model *m) {
    return cache_pages_unused(m->pages);
}

uint32_t model_pages_all(const struct model *m) {
    return m->page_bytes ? (uint32_t)(m->page_memory_bytes / m->page_bytes) : 0;
}

bool state_take(struct model *m, uint64_t bytes) {
    if (bytes > m->state_limit - m->state_bytes)
        return false;
    m->state_bytes += bytes;
    return true;
}

void state_return(struct model *m, uint64_t bytes) {
    m->state_bytes -= bytes;
}

struct device_pages sequence_entries(const struct sequence *s, uint32_t index, bool for_index) {
    const struct model *m = s->model;
    const struct cache_page_part *part = &m->parts[index];
    return (struct device_pages){m->page_memory, m->page_bytes, for_index ? part->index_keys : part->entries, s->pages,
                                 part->rows};
}

/* True if the next token goes to a page that is there and that others hold too. */
static bool must_copy(const struct sequence *s) {
    const struct model *m = s->model;
    uint64_t last = s->length / m->page_tokens;
    return last < s->page_count && cache_pages_shared(m->pages, s->pages[last]);
}

static void copy_page(struct sequence *s) {
    struct model *m = s->model;
    uint32_t *at = &s->pages[s->length / m->page_tokens], page = cache_pages_take(m->pages);
    uint8_t *memory = m->page_memory;
    m->device->ops->copy(m->device, (float *)(void *)(memory + page * m->page_bytes),
                         (const float *)(void *)(memory + *at * m->page_bytes), m->page_bytes / sizeof(float));
    cache_pages_drop(m->pages, *at);
    *at = page;
}

uint64_t model_pages_lacking(const struct model *m, const struct model_span *spans, uint32_t count) {
    uint64_t wanted = 0, unused = cache_pages_unused(m->pages);
    for (uint32_t i = 0; i < count && m->page_bytes; i++) {
        const struct sequence *s = spans[i].sequence;
        wanted +=
            max_u64(model_page_count(m, s->length + spans[i].count), s->page_count) - s->page_count + must_copy(s);
    }
    return wanted > unused ? wanted - unused : 0;
}

int sequences_prepare(struct model *m, const struct model_span *spans, uint32_t count, struct sonde_error *e) {
    uint64_t lacking = model_pages_lacking(m, spans, count);
    if (!m->page_bytes)
        return SONDE_OK;
    if (lacking)
        return err_set(e, SONDE_ERROR_MEMORY,
                       "the cache is full: all %u pages of %llu tokens are taken, %llu are lacking", model_pages_all(m),
                       (unsigned long long)m->page_tokens, (unsigned long long)lacking);
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *s = spans[i].sequence;
        if (must_copy(s))
            copy_page(s);
        while (s->page_count * m->page_tokens < s->length + spans[i].count)
            s->pages[s->page_count++] = cache_pages_take(m->pages);
    }
    return SONDE_OK;
}

void sequence_trim_pages(struct sequence *s, uint64_t tokens) {
    while (s->page_count > model_page_count(s->model, tokens))
        cache_pages_drop(s->model->pages, s->pages[--s->page_count]);
}

void sequence_share_pages(struct sequence *to, const struct sequence *from) {
    for (; to->page_count < from->page_count; to->page_count++) {
        to->pages[to->page_count] = from->pages[to->page_count];
        cache_pages_share(to->model->pages, to->pages[to->page_count]);
    }
}
