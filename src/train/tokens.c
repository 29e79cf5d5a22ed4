/*
 * tokens.c - the tokens of a source, made once and kept in a file.
 *
 * A cache file is written from front to back, so that a source may be larger than memory:
 *
 *     u32[count]           tokens of all documents, TOKEN_UNSAID set in some
 *     u32                  only if count is odd
 *     u64[documents + 1]   where documents begin, and count
 *     struct trailer       what it is, and hashes of all that
 *
 * Numbers are as the machine has them: the file is for the machine that made it. Its name is the hash of all that it
 * follows from, so that it need not be compared with anything; it appears when it is whole, and hashes are checked
 * whenever it is opened. Nobody deletes it but the user.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "train/data_internal.h"

static const char magic[16] = "sonde tokens 1";

struct trailer {
    char magic[16];
    uint64_t identity[2];
    uint64_t count, documents;
    uint64_t body[2]; /* hash of what comes before */
    uint64_t own[2];  /* hash of the fields above */
};

static void hash_bytes(const void *bytes, size_t count, uint64_t hash[2]) {
    XXH128_hash_t h = XXH3_128bits(bytes, count);
    hash[0] = h.low64;
    hash[1] = h.high64;
}

static void hash_trailer(const struct trailer *t, uint64_t hash[2]) {
    hash_bytes(t, offsetof(struct trailer, own), hash);
}

/* -------------------------------------------------------------------------------------------- name */

/* What tokens follow from: this format, how the file is read, its bytes, the tokenizer. */
static int identify(const struct data_source *source, const struct tokenizer_file *tokenizer, uint64_t identity[2],
                    struct sonde_error *e) {
    struct file_map map;
    int rc = file_map_open(source->path, &map, e);
    if (rc)
        return rc;
    const char *separator = source->kind == DATA_TEXT ? source->separator : NULL;
    struct {
        char magic[16];
        uint64_t kind, separated, separator[2], bytes[2], tokenizer[2];
    } all = {.kind = source->kind, .separated = separator != NULL};
    memcpy(all.magic, magic, sizeof(magic));
    hash_bytes(separator, separator ? strlen(separator) : 0, all.separator);
    hash_bytes(map.data, map.size, all.bytes);
    memcpy(all.tokenizer, tokenizer->identity, sizeof(all.tokenizer));
    hash_bytes(&all, sizeof(all), identity);
    file_map_close(&map);
    return SONDE_OK;
}

int tokens_path(const struct data_source *source, const struct tokenizer_file *tokenizer, const char *directory,
                char **path, uint64_t identity[2], struct sonde_error *e) {
    int rc = identify(source, tokenizer, identity, e);
    if (rc)
        return rc;
    struct buf b = {0};
    buf_printf(&b, "%s/%016llx%016llx.tokens", directory, (unsigned long long)identity[1],
               (unsigned long long)identity[0]);
    return buf_take(&b, path, NULL, e);
}

/* -------------------------------------------------------------------------------------------- write */

struct writer {
    struct file_replacement file;
    XXH3_state_t *hash;
    struct buf ids;    /* not yet written */
    struct buf begins; /* u64 of all documents */
    uint64_t count;
    const struct tokenizer_file *tokenizer;
    int32_t begin, end; /* TOKEN_BEGIN, TOKEN_END */
    struct sonde_error *e;
};

static int write_bytes(struct writer *w, const void *bytes, size_t count) {
    XXH3_128bits_update(w->hash, bytes, count);
    return file_replacement_write(&w->file, bytes, count, w->e);
}

static int flush_ids(struct writer *w) {
    if (w->ids.failed)
        return err_memory(w->e);
    int rc = w->ids.len ? write_bytes(w, w->ids.data, w->ids.len) : SONDE_OK;
    buf_clear(&w->ids);
    return rc;
}

static void put_token(struct writer *w, uint32_t token) {
    buf_append(&w->ids, &token, sizeof(token));
    w->count++;
}

static int put_text(struct writer *w, const struct document *d, struct sonde_error *e) {
    int32_t *ids;
    size_t count;
    int rc = sonde_tokenizer_encode(w->tokenizer->tokenizer, d->text, d->bytes, SONDE_MARKUP_TEXT, &ids, &count, e);
    if (rc)
        return rc;
    put_token(w, (uint32_t)w->begin);
    for (size_t i = 0; i < count; i++)
        put_token(w, (uint32_t)ids[i]);
    put_token(w, (uint32_t)w->end);
    sonde_free(ids);
    return SONDE_OK;
}

static int put_chat(struct writer *w, const struct document *d, struct sonde_error *e) {
    int32_t *ids;
    size_t count, answer_count, k = 0;
    struct text_range *answers;
    int rc = text_chat_encode_answers(w->tokenizer->tokenizer, SONDE_CHAT_V4, d->text, d->bytes, &ids, &count, &answers,
                                      &answer_count, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++) {
        while (k < answer_count && answers[k].end <= i)
            k++;
        bool said = k < answer_count && answers[k].begin <= i;
        put_token(w, (uint32_t)ids[i] | (said ? 0 : TOKEN_UNSAID));
    }
    free(ids);
    free(answers);
    return SONDE_OK;
}

static int put_document(struct writer *w, const struct data_source *source, const struct document *d) {
    enum { CHUNK = 1 << 20 };
    struct sonde_error why;
    buf_append(&w->begins, &w->count, sizeof(w->count));
    int rc = d->chat ? put_chat(w, d, &why) : put_text(w, d, &why);
    if (rc)
        return err_set(w->e, rc, "%s:%zu: %s", source->path, d->line, why.message);
    return w->ids.len < CHUNK && !w->ids.failed ? SONDE_OK : flush_ids(w);
}

/* What follows the tokens. */
static int put_end(struct writer *w, const uint64_t identity[2]) {
    struct trailer t = {.count = w->count, .documents = w->begins.len / sizeof(uint64_t)};
    buf_append(&w->begins, &w->count, sizeof(w->count));
    if (w->count % 2)
        buf_append(&w->ids, &(uint32_t){0}, sizeof(uint32_t));
    int rc = w->begins.failed ? err_memory(w->e) : flush_ids(w);
    if (!rc)
        rc = write_bytes(w, w->begins.data, w->begins.len);
    if (rc)
        return rc;
    XXH128_hash_t h = XXH3_128bits_digest(w->hash);
    memcpy(t.magic, magic, sizeof(magic));
    memcpy(t.identity, identity, sizeof(t.identity));
    t.body[0] = h.low64;
    t.body[1] = h.high64;
    hash_trailer(&t, t.own);
    return file_replacement_write(&w->file, &t, sizeof(t), w->e);
}

static int put_all(struct writer *w, const struct data_source *source, const uint64_t identity[2]) {
    struct documents documents;
    struct document document;
    int rc = documents_open(source, &documents, w->e);
    if (rc)
        return rc;
    while ((rc = documents_next(&documents, &document, w->e)) == 1) {
        rc = put_document(w, source, &document);
        if (rc)
            break;
    }
    documents_close(&documents);
    if (!rc && !w->count)
        rc = err_set(w->e, SONDE_ERROR_FORMAT, "%s: no documents", source->path);
    return rc ? rc : put_end(w, identity);
}

static int find_markup(struct writer *w) {
    w->begin = sonde_tokenizer_added(w->tokenizer->tokenizer, TOKEN_BEGIN);
    w->end = sonde_tokenizer_added(w->tokenizer->tokenizer, TOKEN_END);
    if (w->begin >= 0 && w->end >= 0)
        return SONDE_OK;
    return err_set(w->e, SONDE_ERROR_UNSUPPORTED, "%s: no added token %s", w->tokenizer->path,
                   w->begin < 0 ? TOKEN_BEGIN : TOKEN_END);
}

static int make(const struct data_source *source, const struct tokenizer_file *tokenizer, const char *path,
                const uint64_t identity[2], struct sonde_error *e) {
    struct writer w = {.tokenizer = tokenizer, .e = e, .hash = XXH3_createState()};
    int rc = w.hash ? find_markup(&w) : err_memory(e);
    if (!rc)
        rc = file_replacement_open(&w.file, path, e);
    if (!rc) {
        XXH3_128bits_reset(w.hash);
        rc = put_all(&w, source, identity);
        if (!rc)
            rc = file_replacement_commit(&w.file, e);
        else
            file_replacement_cancel(&w.file);
    }
    buf_release(&w.ids);
    buf_release(&w.begins);
    XXH3_freeState(w.hash);
    return rc;
}

/* --------------------------------------------------------------------------------------------- read */

/* False unless the mapped file is what a writer of this identity left. */
static bool take(struct tokens *t) {
    struct trailer end;
    uint64_t hash[2], ids, begins, bytes;
    if (t->map.size < sizeof(end))
        return false;
    memcpy(&end, t->map.data + t->map.size - sizeof(end), sizeof(end));
    hash_trailer(&end, hash);
    if (memcmp(end.magic, magic, sizeof(magic)) != 0 || memcmp(end.own, hash, sizeof(hash)) != 0 ||
        memcmp(end.identity, t->identity, sizeof(end.identity)) != 0)
        return false;
    if (!size_mul(end.count + end.count % 2, sizeof(uint32_t), &ids) ||
        !size_mul(end.documents + 1, sizeof(uint64_t), &begins) || !size_add(ids, begins, &bytes) ||
        bytes != t->map.size - sizeof(end))
        return false;
    hash_bytes(t->map.data, bytes, hash);
    if (memcmp(end.body, hash, sizeof(hash)) != 0)
        return false;
    t->ids = (const uint32_t *)(const void *)t->map.data;
    t->begins = (const uint64_t *)(const void *)(t->map.data + ids);
    t->count = end.count;
    t->documents = end.documents;
    for (uint64_t i = 0; i < t->documents; i++)
        if (t->begins[i] >= t->begins[i + 1])
            return false;
    return t->documents && t->begins[0] == 0 && t->begins[t->documents] == t->count;
}

/* Maps the file at path, if there is a good one. */
static bool find(const char *path, struct tokens *t) {
    if (file_map_open(path, &t->map, NULL))
        return false;
    if (take(t))
        return true;
    file_map_close(&t->map);
    return false;
}

int tokens_open(const struct data_source *source, const struct tokenizer_file *tokenizer, const char *directory,
                struct tokens *t, struct sonde_error *e) {
    char *path;
    *t = (struct tokens){0};
    int rc = tokens_path(source, tokenizer, directory, &path, t->identity, e);
    if (rc)
        return rc;
    if (!find(path, t)) {
        rc = file_make_directory(directory, 0777, e);
        if (!rc)
            rc = make(source, tokenizer, path, t->identity, e);
        if (!rc && !find(path, t))
            rc = err_set(e, SONDE_ERROR_IO, "%s: does not hold what was written to it", path);
    }
    free(path);
    return rc;
}

void tokens_close(struct tokens *t) {
    file_map_close(&t->map);
    *t = (struct tokens){0};
}
