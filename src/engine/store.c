/*
 * store.c - what a model remembers of the texts it has read: snapshots in a prefix tree, and pieces on disk.
 *
 * In memory a snapshot holds its pages, so that whoever goes on from it shares them. On disk there are two kinds of
 * pieces, each known by the hash of all ids up to its end:
 *
 *     p   a complete page: what the last `page_tokens` of these tokens have made
 *     s   a snapshot: the ids themselves, its state (model.h), and the rows of its last page if that is not complete
 *     q t the same of sequences with multi-token prediction, which have more in them
 *
 * So texts that begin alike share pages there too. All is written as soon as it is kept, in the background; what is
 * forgotten in memory can be had from there. A hash may lie: the ids of a snapshot are compared.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cache/cache.h"
#include "engine/engine_internal.h"

enum { SNAPSHOT_TOKENS = 4096, TAIL_TOKENS = 128 };
static const uint64_t disk_bytes_default = 16ull << 30;

static const uint8_t page_kind[2] = {'p', 'q'}, snapshot_kind[2] = {'s', 't'};

struct store {
    sonde_model *m;
    struct prefix_tree *trees[2]; /* of snapshots, without and with multi-token prediction */
    struct spill *spill;          /* NULL: nothing on disk */
    bool last_used;               /* of the trees */
    uint64_t interval;            /* tokens between snapshots of a text being read */
    uint8_t *page;                /* [page_bytes]: one on its way to disk */
    void (*log)(void *context, const char *line);
    void *log_context;
};

/* ----------------------------------------------------------------------------------------- identity */

static void hash_of(const void *data, size_t bytes, uint8_t out[16]) {
    XXH128_canonicalFromHash((XXH128_canonical_t *)(void *)out, XXH3_128bits(data, bytes));
}

/* A few values of up to 256 tensors: weights of the same shapes that were trained otherwise are others. */
static void describe_tensors(const struct checkpoint *c, struct buf *b) {
    size_t count = checkpoint_count(c), apart = count / 256 + 1;
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = checkpoint_at(c, i);
        buf_printf(b, "%s %d %llu\n", t->name, (int)t->dtype, (unsigned long long)t->bytes);
        if (i % apart == 0)
            buf_append(b, t->data, min_u64(t->bytes, 64));
    }
}

/* Of everything that decides what a snapshot's bytes are. */
static int identify(const sonde_model *m, const struct sonde_model_options *o, const char *level, uint8_t identity[16],
                    struct sonde_error *e) {
    struct buf b = {0};
    buf_printf(&b, "snapshots 1, precision %d, level %s%s%s, pages of %llu tokens and %llu bytes\n", (int)o->precision,
               level, o->invariant ? " invariant" : "", o->released_decode ? " released decode" : "",
               (unsigned long long)model_page_tokens(m->model), (unsigned long long)model_page_bytes(m->model));
    describe_tensors(m->checkpoint, &b);
    if (b.failed)
        return err_memory(e);
    hash_of(b.data, b.len, identity);
    buf_release(&b);
    return SONDE_OK;
}

/* ------------------------------------------------------------------------------------ open and close */

int store_open(sonde_model *m, const struct sonde_model_options *o, const char *level, struct store **store,
               struct sonde_error *e) {
    struct store *s = calloc(1, sizeof(*s));
    if (!s)
        return err_memory(e);
    *s = (struct store){.m = m,
                        .interval = o->snapshot_tokens ? o->snapshot_tokens : SNAPSHOT_TOKENS,
                        .log = o->log,
                        .log_context = o->log_context};
    int rc = prefix_open(&s->trees[0], e);
    rc = rc ? rc : prefix_open(&s->trees[1], e);
    if (!rc && o->cache_directory) {
        struct spill_options spill = {.directory = o->cache_directory,
                                      .limit = o->cache_disk_bytes ? o->cache_disk_bytes : disk_bytes_default,
                                      .log = o->log,
                                      .context = o->log_context};
        s->page = malloc(model_page_bytes(m->model) + 1);
        rc = s->page ? identify(m, o, level, spill.identity, e) : err_memory(e);
        rc = rc ? rc : spill_open(&spill, &s->spill, e);
    }
    if (rc)
        store_close(s);
    else
        *store = s;
    return rc;
}

static void drop(void *context, void *snapshot) {
    (void)context;
    snapshot_drop(snapshot);
}

void store_close(struct store *s) {
    if (!s)
        return;
    prefix_close(s->trees[0], drop, NULL);
    prefix_close(s->trees[1], drop, NULL);
    spill_close(s->spill);
    free(s->page);
    free(s);
}

bool store_drop_oldest(struct store *s) {
    /* sequences are of one kind or the other, seldom of both: what is not used goes first */
    struct snapshot *oldest = prefix_remove_oldest(s->trees[!s->last_used]);
    if (!oldest)
        oldest = prefix_remove_oldest(s->trees[s->last_used]);
    snapshot_drop(oldest);
    return oldest != NULL;
}

int store_sequence(struct store *s, uint64_t context, bool mtp, struct sequence **sequence, struct sonde_error *e) {
    for (;;) {
        int rc = sequence_open(s->m->model, context, mtp, sequence, e);
        if (rc != SONDE_ERROR_MEMORY || !store_drop_oldest(s))
            return rc;
    }
}

int store_step(struct store *s, const struct model_span *spans, uint32_t count, const struct model_outputs *outputs,
               struct sonde_error *e) {
    while (model_pages_lacking(s->m->model, spans, count) && store_drop_oldest(s))
        ;
    return model_step(s->m->model, spans, count, outputs, e);
}

/* ----------------------------------------------------------------------------------------------- keys */

/* Hashes of a text's beginnings, one after another. */
struct beginnings {
    XXH3_state_t *state;
    const int32_t *ids;
    uint64_t at;
};

static bool beginnings_open(struct beginnings *b, const int32_t *ids) {
    *b = (struct beginnings){.state = XXH3_createState(), .ids = ids};
    return b->state && XXH3_128bits_reset(b->state) == XXH_OK;
}

static void beginnings_close(struct beginnings *b) {
    XXH3_freeState(b->state);
}

/* Of the first `length` ids, not fewer than before. */
static struct spill_key beginning(struct beginnings *b, uint8_t kind, uint64_t length) {
    XXH3_128bits_update(b->state, b->ids + b->at, (length - b->at) * sizeof(*b->ids));
    b->at = length;
    XXH128_hash_t hash = XXH3_128bits_digest(b->state);
    return (struct spill_key){.kind = kind, .length = length, .hash = {hash.low64, hash.high64}};
}

/* ------------------------------------------------------------------------------------------- to disk */

/* The first part of a snapshot's piece; behind it ids [length], rest of the state, the last page if `partial`. */
struct piece_head {
    struct snapshot_header snapshot;
    uint64_t partial;
};

static int write_snapshot(struct store *s, const struct snapshot *snapshot, const int32_t *ids,
                          const struct spill_key *key, struct sonde_error *e) {
    const struct model *m = s->m->model;
    const void *rest;
    size_t rest_bytes;
    struct piece_head head = {.snapshot = *snapshot_parts(snapshot, &rest, &rest_bytes)};
    uint64_t length = head.snapshot.length, complete = length / model_page_tokens(m);
    head.partial = model_page_bytes(m) && length % model_page_tokens(m);
    if (head.partial)
        snapshot_page(snapshot, (uint32_t)complete, s->page);
    struct spill_part parts[] = {{&head, sizeof(head)},
                                 {ids, length * sizeof(*ids)},
                                 {rest, rest_bytes},
                                 {s->page, head.partial ? model_page_bytes(m) : 0}};
    return spill_put(s->spill, key, parts, COUNT_OF(parts), e);
}

/* Complete pages first: a snapshot is of use only with them. */
static int write_all(struct store *s, const struct snapshot *snapshot, const int32_t *ids, struct sonde_error *e) {
    const struct model *m = s->m->model;
    const void *rest;
    size_t rest_bytes;
    bool mtp = snapshot_parts(snapshot, &rest, &rest_bytes)->mtp;
    uint64_t page = model_page_tokens(m), length = snapshot_length(snapshot);
    struct beginnings b;
    if (!beginnings_open(&b, ids))
        return err_memory(e);
    int rc = SONDE_OK;
    for (uint32_t i = 0; model_page_bytes(m) && (i + 1) * page <= length && !rc; i++) {
        struct spill_key key = beginning(&b, page_kind[mtp], (i + 1) * page);
        if (spill_has(s->spill, &key)) {
            spill_touch(s->spill, &key);
            continue;
        }
        snapshot_page(snapshot, i, s->page);
        struct spill_part part = {s->page, model_page_bytes(m)};
        rc = spill_put(s->spill, &key, &part, 1, e);
    }
    struct spill_key key = beginning(&b, snapshot_kind[mtp], length);
    beginnings_close(&b);
    return rc ? rc : write_snapshot(s, snapshot, ids, &key, e);
}

/* ----------------------------------------------------------------------------------------- from disk */

/* What a snapshot's piece holds, taken apart. */
struct piece {
    struct piece_head head;
    const int32_t *ids;
    const uint8_t *rest, *page;
    size_t rest_bytes;
};

static bool take_apart(const struct model *m, const void *data, size_t bytes, struct piece *p) {
    if (bytes < sizeof(p->head))
        return false;
    memcpy(&p->head, data, sizeof(p->head));
    uint64_t length = p->head.snapshot.length, page = p->head.partial ? model_page_bytes(m) : 0;
    if (length > UINT32_MAX || bytes < sizeof(p->head) + length * sizeof(int32_t) + page)
        return false;
    p->ids = (const int32_t *)(const void *)((const uint8_t *)data + sizeof(p->head));
    p->rest = (const uint8_t *)(p->ids + length);
    p->page = (const uint8_t *)data + bytes - page;
    p->rest_bytes = (size_t)(p->page - p->rest);
    return true;
}

/* The whole piece, or NULL: it is not there, damaged, or not of `expected` bytes; 0: any number. */
static void *get(struct store *s, const struct spill_key *key, size_t expected, size_t *bytes) {
    void *data;
    bool found;
    if (spill_get(s->spill, key, &data, bytes, &found, NULL) || !found)
        return NULL;
    if (!expected || *bytes == expected)
        return data;
    free(data);
    return NULL;
}

/* The complete pages that a snapshot which was read does not share yet, and its last one; *gone: one is not there. */
static bool read_pages(struct store *s, struct snapshot *snapshot, const struct piece *p, bool *gone) {
    const struct model *m = s->m->model;
    const struct snapshot_header *h = &p->head.snapshot;
    uint64_t page = model_page_tokens(m);
    struct beginnings b;
    bool good = beginnings_open(&b, p->ids);
    while (good && model_page_bytes(m) && (snapshot_pages(snapshot) + 1) * page <= h->length) {
        struct spill_key key = beginning(&b, page_kind[h->mtp], (snapshot_pages(snapshot) + 1) * page);
        size_t bytes;
        void *data = get(s, &key, model_page_bytes(m), &bytes);
        *gone = !data;
        good = data && snapshot_add_page(snapshot, data);
        free(data);
    }
    beginnings_close(&b);
    return good && (!p->head.partial || snapshot_add_page(snapshot, p->page));
}

/* A snapshot as a piece tells it, pages and all; NULL: there is no memory for it, or a page is gone. */
static struct snapshot *rebuild(struct store *s, const struct piece *p, bool *gone) {
    const struct snapshot_header *h = &p->head.snapshot;
    struct model *m = s->m->model;
    struct snapshot *snapshot = NULL;
    int rc;
    while ((rc = snapshot_from_bytes(m, h, p->rest, p->rest_bytes, &snapshot, NULL)) == SONDE_ERROR_MEMORY &&
           store_drop_oldest(s))
        ;
    if (rc)
        return NULL;
    const struct snapshot *base = prefix_find(s->trees[h->mtp], p->ids, h->length).value;
    if (base)
        snapshot_share(snapshot, base);
    uint64_t wanted = model_page_count(m, h->length) - snapshot_pages(snapshot);
    while (model_pages_unused(m) < wanted && store_drop_oldest(s))
        ;
    if (read_pages(s, snapshot, p, gone))
        return snapshot;
    snapshot_drop(snapshot);
    return NULL;
}

/* What is known under this key, if it is of these ids. */
static struct snapshot *read_snapshot(struct store *s, const struct spill_key *key, const int32_t *ids, bool mtp) {
    size_t bytes;
    struct piece p;
    void *data = get(s, key, 0, &bytes);
    if (!data)
        return NULL;
    struct snapshot *snapshot = NULL;
    bool gone = false;
    if (take_apart(s->m->model, data, bytes, &p) && p.head.snapshot.length == key->length &&
        p.head.snapshot.mtp == mtp && memcmp(p.ids, ids, key->length * sizeof(*ids)) == 0)
        snapshot = rebuild(s, &p, &gone);
    if (gone)
        spill_remove(s->spill, key);
    free(data);
    return snapshot;
}

/* The longest beginning of ids on disk that is longer than `more`, into the tree. */
static void recall_from_disk(struct store *s, const int32_t *ids, uint64_t count, bool mtp, uint64_t more) {
    uint64_t *lengths;
    size_t n;
    struct beginnings b;
    if (spill_lengths(s->spill, snapshot_kind[mtp], count, &lengths, &n, NULL))
        return;
    struct spill_key *keys = calloc(n + 1, sizeof(*keys));
    bool good = beginnings_open(&b, ids) && keys;
    for (size_t i = 0; i < n && good; i++)
        keys[i] = beginning(&b, snapshot_kind[mtp], lengths[i]);
    for (size_t i = n; good && i-- > 0 && lengths[i] > more;) {
        struct snapshot *snapshot = spill_has(s->spill, &keys[i]) ? read_snapshot(s, &keys[i], ids, mtp) : NULL;
        void *old;
        if (!snapshot)
            continue;
        if (prefix_put(s->trees[mtp], ids, lengths[i], snapshot, &old, NULL))
            snapshot_drop(snapshot);
        else
            snapshot_drop(old);
        break;
    }
    beginnings_close(&b);
    free(keys);
    free(lengths);
}

/* -------------------------------------------------------------------------------- recall and keep */

/* As prefix_find(); but a text that is remembered as a whole, without what comes next, must be read on from before. */
static struct prefix_match find(struct store *s, const int32_t *ids, uint64_t count, bool mtp) {
    struct prefix_match m = prefix_find(s->trees[mtp], ids, count);
    if (m.value && m.length == count && !snapshot_logits(m.value))
        m = prefix_find(s->trees[mtp], ids, count - 1);
    return m;
}

struct recalled store_recall(struct store *s, const int32_t *ids, uint64_t count, struct sequence *to, float *logits) {
    bool mtp = sequence_mtp(to);
    struct prefix_match m = find(s, ids, count, mtp);
    s->last_used = mtp;
    if (s->spill && m.length < count) {
        recall_from_disk(s, ids, count, mtp, m.length);
        m = find(s, ids, count, mtp);
    }
    if (!m.value || snapshot_resume(m.value, ids, to, NULL))
        return (struct recalled){.fork = m.value ? 0 : m.fork};
    const float *next = snapshot_logits(m.value);
    if (next)
        memcpy(logits, next, checkpoint_shape(s->m->checkpoint)->vocab * sizeof(*logits));
    return (struct recalled){.length = m.length, .fork = m.fork, .logits = next != NULL};
}

/* Known already, and no worse? Asking is a use. */
static bool is_kept(struct store *s, const int32_t *ids, uint64_t count, bool mtp, bool logits) {
    struct prefix_match m = prefix_find(s->trees[mtp], ids, count);
    return m.value && m.length == count && (!logits || snapshot_logits(m.value));
}

void store_keep(struct store *s, const struct sequence *from, const float *logits) {
    const int32_t *ids = sequence_tokens(from);
    uint64_t count = sequence_length(from);
    bool mtp = sequence_mtp(from);
    struct snapshot *snapshot;
    void *old;
    s->last_used = mtp;
    if (is_kept(s, ids, count, mtp, logits != NULL))
        return;
    while (snapshot_take(from, logits, &snapshot, NULL))
        if (!store_drop_oldest(s))
            return;
    struct sonde_error e;
    if (s->spill && write_all(s, snapshot, ids, &e) && s->log)
        s->log(s->log_context, e.message);
    if (prefix_put(s->trees[mtp], ids, count, snapshot, &old, NULL))
        snapshot_drop(snapshot);
    else
        snapshot_drop(old);
}

/* Before the end of a prompt too, where a page of window and a whole block of every layer end: the next turn of a
 * conversation may render the last few tokens otherwise. */
uint64_t store_pause(const struct store *s, uint64_t from, uint64_t end, uint64_t fork) {
    uint64_t pause = end, regular = (from / s->interval + 1) * s->interval;
    uint64_t tail = end ? (end - 1) / TAIL_TOKENS * TAIL_TOKENS : 0;
    const uint64_t places[] = {regular, tail, fork};
    for (size_t i = 0; i < COUNT_OF(places); i++)
        if (places[i] > from && places[i] < pause)
            pause = places[i];
    return pause;
}
