/*
 * data.c - tokens of several sources become batches.
 *
 * The order of an epoch is computed place by place and never stored (data_shuffled()), so that going on from a position
 * costs nothing. All that changes while batches are made is struct data_position; what a batch holds follows from it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "train/data_internal.h"

struct stream {
    struct tokens tokens;
    uint64_t *first_piece; /* [documents + 1] pieces before each document; the last is their number */
    uint64_t pieces;
    double weight;
    uint32_t flags;
};

struct data {
    struct stream streams[DATA_SOURCES];
    uint32_t stream_count, length; /* T */
    uint32_t vocabulary;
    int32_t pad;
    uint64_t epochs;
    struct data_position position;
    int32_t *ids, *targets;   /* [T] */
    struct segment *segments; /* [T] */
};

/* Part of a document: ids[begin, end), where the document ends at `last`. */
struct piece {
    uint64_t begin, end, last;
};

/* -------------------------------------------------------------------------------------------- order */

/* The finalizer of splitmix64. */
static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A Feistel network permutes the numbers of 2 · bits bits, of which those from `count` on are walked through: the next
 * one that is below it is less than four steps away in the mean. */
uint64_t data_shuffled(uint64_t order, uint64_t count, uint64_t index) {
    enum { ROUNDS = 6 };
    uint32_t bits = 1;
    struct rng r;
    uint64_t keys[ROUNDS];
    while (bits < 32 && (uint64_t)1 << 2 * bits < count)
        bits++;
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    rng_init(&r, order);
    for (int i = 0; i < ROUNDS; i++)
        keys[i] = rng_u64(&r);
    do {
        uint64_t left = index >> bits, right = index & mask;
        for (int i = 0; i < ROUNDS; i++) {
            uint64_t next = left ^ (mix(right ^ keys[i]) & mask);
            left = right;
            right = next;
        }
        index = left << bits | right;
    } while (index >= count);
    return index;
}

/* The piece of a source that comes next. */
static struct piece next_piece(const struct data *d, uint32_t source) {
    const struct stream *s = &d->streams[source];
    uint64_t key[3] = {d->position.seed, source, d->position.sources[source].epoch};
    uint64_t piece = data_shuffled(XXH3_64bits(key, sizeof(key)), s->pieces, d->position.sources[source].next);
    uint64_t low = 0, high = s->tokens.documents; /* the document is in [low, high) */
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (s->first_piece[middle] <= piece)
            low = middle;
        else
            high = middle;
    }
    uint64_t begin = s->tokens.begins[low] + (piece - s->first_piece[low]) * d->length;
    uint64_t last = s->tokens.begins[low + 1];
    return (struct piece){begin, min_u64(last, begin + d->length), last};
}

/* The source furthest behind its share; false: all are at their end. */
static bool choose(const struct data *d, uint32_t *source) {
    double least = INFINITY;
    for (uint32_t i = 0; i < d->stream_count; i++) {
        double done = (double)d->position.sources[i].tokens / d->streams[i].weight;
        if (done < least && (!d->epochs || d->position.sources[i].epoch < d->epochs)) {
            least = done;
            *source = i;
        }
    }
    return least < INFINITY;
}

/* ------------------------------------------------------------------------------------------ batches */

/* Tokens [begin, end) to places `at` and on, with their targets. */
static void put_tokens(struct data *d, const struct stream *s, uint64_t begin, uint64_t end, uint64_t last,
                       uint32_t at) {
    for (uint64_t i = begin; i < end; i++, at++) {
        d->ids[at] = (int32_t)(s->tokens.ids[i] & ~TOKEN_UNSAID);
        uint32_t next = i + 1 < last ? s->tokens.ids[i + 1] : TOKEN_UNSAID;
        bool learnt = i + 1 < last && !(s->flags & DATA_ANSWERS && next & TOKEN_UNSAID);
        d->targets[at] = learnt ? (int32_t)(next & ~TOKEN_UNSAID) : -1;
    }
}

static void advance(struct data *d, uint32_t source, uint64_t given, uint64_t left) {
    struct data_position *p = &d->position;
    p->source = source;
    p->sources[source].tokens += given;
    p->offset += given;
    if (given < left)
        return;
    p->source = p->offset = 0;
    if (++p->sources[source].next == d->streams[source].pieces) {
        p->sources[source].next = 0;
        p->sources[source].epoch++;
    }
}

/* Appends what fits of the next piece behind `used` tokens. Returns how many, 0: none fits or none is left. */
static uint32_t put_piece(struct data *d, uint32_t used) {
    uint32_t source = (uint32_t)d->position.source, room = d->length - used;
    if (!room || (!d->position.offset && !choose(d, &source)))
        return 0;
    const struct stream *s = &d->streams[source];
    struct piece piece = next_piece(d, source);
    if (s->flags & DATA_WHOLE && piece.end - piece.begin > room)
        return 0;
    uint64_t begin = piece.begin + d->position.offset, left = piece.end - begin, given = min_u64(left, room);
    put_tokens(d, s, begin, begin + given, piece.last, used);
    advance(d, source, given, left);
    return (uint32_t)given;
}

static void pad(struct data *d, uint32_t used) {
    for (uint32_t i = used; i < d->length; i++) {
        d->ids[i] = d->pad;
        d->targets[i] = -1;
    }
}

void data_next(struct data *d, struct batch *batch) {
    uint32_t used = 0, count = 0, given;
    while ((given = put_piece(d, used)) > 0) {
        d->segments[count++] = (struct segment){used, given};
        used += given;
    }
    *batch = (struct batch){0};
    if (!used)
        return;
    if (used < d->length) {
        pad(d, used);
        d->segments[count++] = (struct segment){used, d->length - used};
    }
    d->position.batches++;
    *batch = (struct batch){d->length, d->ids, d->targets, d->segments, count};
}

/* ----------------------------------------------------------------------------------------- position */

void data_tell(const struct data *d, struct data_position *position) {
    *position = d->position;
}

static int elsewhere(struct sonde_error *e, const char *what) {
    return err_set(e, SONDE_ERROR_FORMAT, "position in the data: %s", what);
}

/* d->position has the identities that are wanted. */
static int check_position(const struct data *d, const struct data_position *p, struct sonde_error *e) {
    if (p->seed != d->position.seed || p->length != d->length)
        return elsewhere(e, "made with another seed or other tokens of a batch");
    for (uint32_t i = 0; i < DATA_SOURCES; i++) {
        const uint64_t *was = p->sources[i].identity, *is = d->position.sources[i].identity;
        if (was[0] != is[0] || was[1] != is[1])
            return elsewhere(e, "made with other sources or another tokenizer");
        if (i < d->stream_count && p->sources[i].next >= d->streams[i].pieces)
            return elsewhere(e, "beyond the end of a source");
    }
    return SONDE_OK;
}

int data_seek(struct data *d, const struct data_position *position, struct sonde_error *e) {
    int rc = check_position(d, position, e);
    if (!rc && position->source >= d->stream_count)
        rc = elsewhere(e, "in a source that is not there");
    if (rc)
        return rc;
    struct data_position before = d->position;
    d->position = *position;
    struct piece piece = next_piece(d, (uint32_t)position->source);
    if (position->offset >= piece.end - piece.begin) {
        d->position = before;
        return elsewhere(e, "beyond the end of a piece");
    }
    return SONDE_OK;
}

/* --------------------------------------------------------------------------------------------- open */

static int check_options(const struct data_options *o, struct sonde_error *e) {
    if (o->source_count < 1 || o->source_count > DATA_SOURCES)
        return err_set(e, SONDE_ERROR_ARGUMENT, "%u sources of data: 1 to %d are expected", o->source_count,
                       DATA_SOURCES);
    if (o->tokens < 1 || o->tokens > INT32_MAX)
        return err_set(e, SONDE_ERROR_ARGUMENT, "a batch of %u tokens: 1 to %d are expected", o->tokens, INT32_MAX);
    for (uint32_t i = 0; i < o->source_count; i++)
        if (!(o->sources[i].weight > 0 && o->sources[i].weight < INFINITY))
            return err_set(e, SONDE_ERROR_ARGUMENT, "%s: a weight above 0 is expected", o->sources[i].path);
    return SONDE_OK;
}

static int open_stream(struct data *d, const struct data_source *source, const struct tokenizer_file *tokenizer,
                       const char *cache, struct sonde_error *e) {
    struct stream *s = &d->streams[d->stream_count];
    int rc = tokens_open(source, tokenizer, cache, &s->tokens, e);
    if (rc)
        return rc;
    memcpy(d->position.sources[d->stream_count++].identity, s->tokens.identity, sizeof(s->tokens.identity));
    s->weight = source->weight;
    s->flags = source->flags;
    s->first_piece = malloc((s->tokens.documents + 1) * sizeof(*s->first_piece));
    if (!s->first_piece)
        return err_memory(e);
    for (uint64_t i = 0; i < s->tokens.documents; i++) {
        s->first_piece[i] = s->pieces;
        s->pieces += ceil_div(s->tokens.begins[i + 1] - s->tokens.begins[i], d->length);
    }
    s->first_piece[s->tokens.documents] = s->pieces;
    return SONDE_OK;
}

static int open_tokenizer(const char *path, sonde_tokenizer **tokenizer, uint64_t identity[2], struct sonde_error *e) {
    struct file_map map;
    int rc = file_map_open(path, &map, e);
    if (rc)
        return rc;
    XXH128_hash_t h = XXH3_128bits(map.data, map.size);
    identity[0] = h.low64;
    identity[1] = h.high64;
    rc = text_tokenizer_parse((const char *)map.data, map.size, path, tokenizer, e);
    file_map_close(&map);
    return rc;
}

static int open_streams(struct data *d, const struct data_options *o, struct sonde_error *e) {
    sonde_tokenizer *tokenizer;
    struct tokenizer_file file = {.path = o->tokenizer};
    int rc = open_tokenizer(o->tokenizer, &tokenizer, file.identity, e);
    if (rc)
        return rc;
    file.tokenizer = tokenizer;
    d->vocabulary = sonde_tokenizer_size(tokenizer);
    d->pad = sonde_tokenizer_added(tokenizer, TOKEN_PAD);
    if (d->pad < 0)
        d->pad = sonde_tokenizer_added(tokenizer, TOKEN_END);
    for (uint32_t i = 0; !rc && i < o->source_count; i++)
        rc = open_stream(d, &o->sources[i], &file, o->cache, e);
    sonde_tokenizer_close(tokenizer);
    return rc;
}

int data_open(const struct data_options *o, struct data **data, struct sonde_error *e) {
    int rc = check_options(o, e);
    if (rc)
        return rc;
    struct data *d = calloc(1, sizeof(*d));
    if (!d)
        return err_memory(e);
    d->length = o->tokens;
    d->epochs = o->epochs;
    d->position.seed = o->seed;
    d->position.length = o->tokens;
    d->ids = malloc(o->tokens * sizeof(*d->ids));
    d->targets = malloc(o->tokens * sizeof(*d->targets));
    d->segments = malloc(o->tokens * sizeof(*d->segments));
    rc = d->ids && d->targets && d->segments ? open_streams(d, o, e) : err_memory(e);
    if (rc)
        data_close(d);
    else
        *data = d;
    return rc;
}

void data_close(struct data *d) {
    if (!d)
        return;
    for (uint32_t i = 0; i < d->stream_count; i++) {
        tokens_close(&d->streams[i].tokens);
        free(d->streams[i].first_piece);
    }
    free(d->ids);
    free(d->targets);
    free(d->segments);
    free(d);
}

uint32_t data_vocabulary(const struct data *d) {
    return d->vocabulary;
}

uint64_t data_tokens(const struct data *d, uint32_t source) {
    return d->streams[source].tokens.count;
}

uint64_t data_documents(const struct data *d, uint32_t source) {
    return d->streams[source].tokens.documents;
}
