/*
 * tokenizer_open.c - a Hugging Face tokenizer.json becomes tables.
 *
 *     model.vocab     {"token": id}      spelled in the byte-level alphabet: each byte is one character
 *     model.merges    ["a b", ...] or [["a", "b"], ...], the earlier the stronger
 *     added_tokens    [{"id", "content", "normalized", ...}]   spelled as they are
 *     pre_tokenizer   Split patterns, then ByteLevel: where text is cut before merging
 *     decoder         ByteLevel
 *
 * What a file may say that would give other ids and is not done here is refused. What gives no other ids is
 * ignored: post_processor (templates; no token is added before or after), truncation, padding, unk_token and
 * byte_fallback (all 256 bytes have tokens, so nothing is unknown), special (only matters to who leaves such
 * tokens out).
 *
 * All spellings lie in one pool as the bytes they stand for; tables hold ids. A token of the vocabulary with a
 * character outside the byte-level alphabet stands for its own UTF-8 bytes and can never come out of merging.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

#define ID_LIMIT   (1u << 24)
#define FILE_LIMIT (1u << 30) /* offsets into the pool are 32 bits */

struct opening {
    const char *what;
    struct sonde_error *e;
    sonde_tokenizer *t;
    json_t *root, *model, *vocab;
    struct buf pool;
    bool *is_added; /* by id */
};

/* --------------------------------------------------------------------------------- byte alphabet */

/* The 256 characters that stand for bytes: a byte that prints in Latin-1 stands for itself, the others are
 * U+0100 onwards in order. So characters 0 to 323 name bytes; -1 for those between. */
enum { ALPHABET = 324 };

static void alphabet(int16_t byte_of[ALPHABET]) {
    int next = 256;
    for (int i = 0; i < ALPHABET; i++)
        byte_of[i] = -1;
    for (int16_t b = 0; b < 256; b++) {
        bool prints = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        byte_of[prints ? b : next++] = b;
    }
}

void text_spell(struct buf *b, const char *bytes, size_t count) {
    int16_t byte_of[ALPHABET];
    uint16_t letter_of[256] = {0};
    alphabet(byte_of);
    for (uint16_t i = 0; i < ALPHABET; i++)
        if (byte_of[i] >= 0)
            letter_of[byte_of[i]] = i;
    for (size_t i = 0; i < count; i++) {
        unsigned code = letter_of[(unsigned char)bytes[i]];
        if (code >= 0x80)
            buf_byte(b, (char)(0xc0 | code >> 6));
        buf_byte(b, (char)(code < 0x80 ? code : 0x80 | (code & 0x3f)));
    }
}

/* Appends the bytes that `key` stands for. False, with the bytes of key itself appended, if a character names
 * no byte. */
static bool append_bytes(struct buf *pool, const char *key, const int16_t byte_of[ALPHABET]) {
    size_t before = pool->len, count = strlen(key);
    for (size_t i = 0; i < count; i++) {
        unsigned code = (unsigned char)key[i];
        if (code >= 0xc2 && code <= 0xc5 && i + 1 < count)
            code = (code & 0x1f) << 6 | ((unsigned char)key[++i] & 0x3f);
        if (code >= ALPHABET || byte_of[code] < 0) {
            if (!pool->failed)
                pool->len = before;
            buf_append(pool, key, count);
            return false;
        }
        buf_byte(pool, (char)byte_of[code]);
    }
    return true;
}

/* ----------------------------------------------------------------------------------- small checks */

/* The string in object[key], or NULL. */
static const char *string_at(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static bool is_type(const json_t *object, const char *type) {
    const char *is = string_at(object, "type");
    return is && strcmp(is, type) == 0;
}

static bool absent(const json_t *value) {
    return !value || json_is_null(value);
}

/* A boolean that may be left out. */
static int flag_at(struct opening *o, const json_t *object, const char *where, const char *key, bool otherwise,
                   bool *out) {
    const json_t *value = json_object_get(object, key);
    if (!absent(value) && !json_is_boolean(value))
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: %s.%s: true or false is expected", o->what, where, key);
    *out = absent(value) ? otherwise : json_is_true(value);
    return SONDE_OK;
}

static int unsupported(struct opening *o, const char *field) {
    return err_set(o->e, SONDE_ERROR_UNSUPPORTED, "%s: %s is not supported", o->what, field);
}

static int check_id(struct opening *o, const json_t *id, const char *token) {
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= ID_LIMIT)
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: token \"%s\": an id from 0 to %u is expected", o->what, token,
                       ID_LIMIT - 1);
    uint32_t value = (uint32_t)json_integer_value(id);
    if (value >= o->t->size)
        o->t->size = value + 1;
    return SONDE_OK;
}

/* ------------------------------------------------------------------------------------------ model */

static int open_model(struct opening *o) {
    o->model = json_object_get(o->root, "model");
    if (!json_is_object(o->model))
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: model: an object is expected", o->what);
    if (json_object_get(o->model, "type") && !is_type(o->model, "BPE"))
        return unsupported(o, "model.type other than \"BPE\"");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < COUNT_OF(affixes); i++) {
        const json_t *affix = json_object_get(o->model, affixes[i]);
        if (!absent(affix) && json_string_length(affix) != 0)
            return err_set(o->e, SONDE_ERROR_UNSUPPORTED, "%s: model.%s is not supported", o->what, affixes[i]);
    }
    const json_t *dropout = json_object_get(o->model, "dropout");
    if (!absent(dropout) && json_number_value(dropout) != 0)
        return unsupported(o, "model.dropout");
    o->vocab = json_object_get(o->model, "vocab");
    if (!json_is_object(o->vocab))
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: model.vocab: an object is expected", o->what);
    return SONDE_OK;
}

/* Checks all ids, of the vocabulary and of added tokens, and makes room for the highest. */
static int size_tokens(struct opening *o) {
    const char *key;
    json_t *value;
    json_object_foreach(o->vocab, key, value) {
        int rc = check_id(o, value, key);
        if (rc)
            return rc;
    }
    const json_t *added = json_object_get(o->root, "added_tokens");
    if (!absent(added) && !json_is_array(added))
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: added_tokens: an array is expected", o->what);
    size_t i;
    json_array_foreach(added, i, value) {
        const json_t *content = json_object_get(value, "content");
        if (json_string_length(content) == 0)
            return err_set(o->e, SONDE_ERROR_FORMAT, "%s: added_tokens[%zu].content: a string is expected", o->what, i);
        int rc = check_id(o, json_object_get(value, "id"), json_string_value(content));
        if (rc)
            return rc;
    }
    o->t->tokens = calloc(o->t->size ? o->t->size : 1, sizeof(*o->t->tokens));
    o->is_added = calloc(o->t->size ? o->t->size : 1, sizeof(*o->is_added));
    return o->t->tokens && o->is_added ? SONDE_OK : err_memory(o->e);
}

/* A power of two of rows that keeps an open table at most half full. */
static uint32_t rows_for(size_t count) {
    uint32_t rows = 16;
    while (rows < 2 * count)
        rows *= 2;
    return rows;
}

static int new_whole_table(struct opening *o) {
    uint32_t rows = rows_for(json_object_size(o->vocab));
    o->t->whole = malloc(sizeof(*o->t->whole) * rows);
    if (!o->t->whole)
        return err_memory(o->e);
    memset(o->t->whole, 0xff, sizeof(*o->t->whole) * rows); /* TOKEN_NONE */
    o->t->whole_mask = rows - 1;
    return SONDE_OK;
}

static void add_whole(sonde_tokenizer *t, const char *pool, uint32_t id) {
    uint32_t row = tokenizer_bytes_hash(pool + t->tokens[id].at, t->tokens[id].length) & t->whole_mask;
    while (t->whole[row] != TOKEN_NONE)
        row = (row + 1) & t->whole_mask;
    t->whole[row] = id;
}

static int open_vocab(struct opening *o) {
    int16_t byte_of[ALPHABET];
    alphabet(byte_of);
    memset(o->t->byte_ids, 0xff, sizeof(o->t->byte_ids)); /* TOKEN_NONE */
    bool ignore_merges;
    int rc = flag_at(o, o->model, "model", "ignore_merges", false, &ignore_merges);
    if (!rc && ignore_merges)
        rc = new_whole_table(o);
    if (rc)
        return rc;
    const char *key;
    json_t *value;
    json_object_foreach(o->vocab, key, value) {
        uint32_t id = (uint32_t)json_integer_value(value), at = (uint32_t)o->pool.len;
        if (!*key)
            return err_set(o->e, SONDE_ERROR_FORMAT, "%s: model.vocab: token %u is empty", o->what, id);
        if (o->t->tokens[id].length)
            return err_set(o->e, SONDE_ERROR_FORMAT, "%s: model.vocab: id %u of \"%s\" belongs to another token too",
                           o->what, id, key);
        bool bytes = append_bytes(&o->pool, key, byte_of);
        if (o->pool.failed)
            return err_memory(o->e);
        o->t->tokens[id] = (struct token){at, (uint32_t)o->pool.len - at};
        if (bytes && o->t->tokens[id].length == 1)
            o->t->byte_ids[(unsigned char)o->pool.data[at]] = id;
        if (bytes && o->t->whole)
            add_whole(o->t, o->pool.data, id);
    }
    for (int b = 0; b < 256; b++)
        if (o->t->byte_ids[b] == TOKEN_NONE)
            return err_set(o->e, SONDE_ERROR_FORMAT, "%s: model.vocab has no token for byte 0x%02x", o->what, b);
    return SONDE_OK;
}

/* ----------------------------------------------------------------------------------------- merges */

/* The id of left and right put together (right may be ""), or TOKEN_NONE. */
static uint32_t vocab_id(struct opening *o, struct buf *scratch, const char *left, size_t left_length,
                         const char *right) {
    buf_clear(scratch);
    buf_append(scratch, left, left_length);
    buf_string(scratch, right);
    const json_t *id = scratch->failed ? NULL : json_object_get(o->vocab, scratch->data);
    return id ? (uint32_t)json_integer_value(id) : TOKEN_NONE;
}

/* Cuts a rule "a b" or ["a", "b"] in two. */
static bool merge_sides(const json_t *rule, const char **left, size_t *left_length, const char **right) {
    if (json_is_string(rule)) {
        *left = json_string_value(rule);
        const char *space = strchr(*left, ' ');
        *left_length = space ? (size_t)(space - *left) : 0;
        *right = space ? space + 1 : "";
        return space && !strchr(*right, ' ') && strlen(*left) == json_string_length(rule);
    }
    *left = json_string_value(json_array_get(rule, 0));
    *right = json_string_value(json_array_get(rule, 1));
    *left_length = *left ? strlen(*left) : 0;
    return json_array_size(rule) == 2 && *left && *right;
}

/* A later rule for the same pair replaces the earlier, as in the library that wrote the file. */
static void put_merge(sonde_tokenizer *t, struct merge merge) {
    uint32_t row = tokenizer_pair_hash(merge.left, merge.right) & t->merge_mask;
    while (t->merges[row].id != TOKEN_NONE &&
           (t->merges[row].left != merge.left || t->merges[row].right != merge.right))
        row = (row + 1) & t->merge_mask;
    t->merges[row] = merge;
}

static int open_merges(struct opening *o) {
    const json_t *merges = json_object_get(o->model, "merges");
    if (!json_is_array(merges))
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: model.merges: an array is expected", o->what);
    uint32_t rows = rows_for(json_array_size(merges));
    o->t->merges = malloc(sizeof(*o->t->merges) * rows);
    if (!o->t->merges)
        return err_memory(o->e);
    memset(o->t->merges, 0xff, sizeof(*o->t->merges) * rows); /* ids TOKEN_NONE */
    o->t->merge_mask = rows - 1;
    struct buf scratch = {0};
    size_t i;
    json_t *rule;
    int rc = SONDE_OK;
    json_array_foreach(merges, i, rule) {
        const char *left, *right;
        size_t left_length;
        if (!merge_sides(rule, &left, &left_length, &right)) {
            rc = err_set(o->e, SONDE_ERROR_FORMAT, "%s: model.merges[%zu]: two tokens are expected", o->what, i);
            break;
        }
        struct merge merge = {vocab_id(o, &scratch, left, left_length, ""),
                              vocab_id(o, &scratch, right, strlen(right), ""), (uint32_t)i,
                              vocab_id(o, &scratch, left, left_length, right)};
        if (scratch.failed) {
            rc = err_memory(o->e);
            break;
        }
        if (merge.left == TOKEN_NONE || merge.right == TOKEN_NONE || merge.id == TOKEN_NONE) {
            rc = err_set(o->e, SONDE_ERROR_FORMAT,
                         "%s: model.merges[%zu]: \"%.*s\" + \"%s\" names a token not in the vocabulary", o->what, i,
                         (int)min_u64(left_length, 200), left, right);
            break;
        }
        put_merge(o->t, merge);
    }
    buf_release(&scratch);
    return rc;
}

/* ----------------------------------------------------------------------------------- added tokens */

/* What added tokens are sorted by. */
struct spelling {
    const char *text;
    uint32_t length, id;
};

static int compare_spellings(const void *a, const void *b) {
    const struct spelling *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

/* Puts the ids of a set in the order of their spellings, all of which must differ. */
static int sort_added(struct opening *o, struct added *set) {
    struct spelling *sorted = malloc(sizeof(*sorted) * (set->count + 1));
    if (!sorted)
        return err_memory(o->e);
    for (size_t i = 0; i < set->count; i++) {
        const struct token *token = &o->t->tokens[set->ids[i]];
        sorted[i] = (struct spelling){o->pool.data + token->at, token->length, set->ids[i]};
    }
    qsort(sorted, set->count, sizeof(*sorted), compare_spellings);
    int rc = SONDE_OK;
    for (size_t i = 0; i < set->count; i++) {
        set->ids[i] = sorted[i].id;
        if (!rc && i && compare_spellings(&sorted[i - 1], &sorted[i]) == 0)
            rc = err_set(o->e, SONDE_ERROR_FORMAT, "%s: added_tokens: ids %u and %u have the same content", o->what,
                         sorted[i - 1].id, sorted[i].id);
    }
    free(sorted);
    return rc;
}

/* The id must be free, or that of the same spelling in the vocabulary. */
static int check_added(struct opening *o, size_t i, const char *content, size_t length, uint32_t id) {
    const json_t *in_vocab = strlen(content) == length ? json_object_get(o->vocab, content) : NULL;
    bool taken = in_vocab ? json_integer_value(in_vocab) != (json_int_t)id : o->t->tokens[id].length > 0;
    if (taken || o->is_added[id])
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: added_tokens[%zu]: id %u or \"%s\" is already taken", o->what, i,
                       id, content);
    return SONDE_OK;
}

static int open_added_token(struct opening *o, size_t i, const json_t *token) {
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    char where[48];
    snprintf(where, sizeof(where), "added_tokens[%zu]", i);
    bool set, normalized, special;
    for (size_t k = 0; k < COUNT_OF(refused); k++) {
        int rc = flag_at(o, token, where, refused[k], false, &set);
        if (!rc && set)
            rc = err_set(o->e, SONDE_ERROR_UNSUPPORTED, "%s: %s.%s is not supported", o->what, where, refused[k]);
        if (rc)
            return rc;
    }
    int rc = flag_at(o, token, where, "special", false, &special);
    if (!rc)
        rc = flag_at(o, token, where, "normalized", !special, &normalized);
    if (rc)
        return rc;
    const json_t *content = json_object_get(token, "content");
    uint32_t id = (uint32_t)json_integer_value(json_object_get(token, "id")), at = (uint32_t)o->pool.len;
    size_t length = json_string_length(content);
    rc = check_added(o, i, json_string_value(content), length, id);
    if (rc)
        return rc;
    buf_append(&o->pool, json_string_value(content), length);
    if (o->pool.failed)
        return err_memory(o->e);
    o->t->tokens[id] = (struct token){at, (uint32_t)length};
    o->is_added[id] = true;
    struct added *set_of = &o->t->added[normalized];
    set_of->ids[set_of->count++] = id;
    return SONDE_OK;
}

static int open_added(struct opening *o) {
    const json_t *list = json_object_get(o->root, "added_tokens");
    size_t count = json_array_size(list);
    for (int s = 0; s < 2; s++) {
        o->t->added[s].ids = malloc(sizeof(uint32_t) * (count ? count : 1));
        if (!o->t->added[s].ids)
            return err_memory(o->e);
    }
    size_t i;
    json_t *token;
    json_array_foreach(list, i, token) {
        int rc = open_added_token(o, i, token);
        if (rc)
            return rc;
    }
    int rc = sort_added(o, &o->t->added[0]);
    return rc ? rc : sort_added(o, &o->t->added[1]);
}

/* --------------------------------------------------------------------------------------- pipeline */

static int check_normalizer(struct opening *o) {
    const json_t *n = json_object_get(o->root, "normalizer");
    if (absent(n) || (is_type(n, "Sequence") && json_array_size(json_object_get(n, "normalizers")) == 0))
        return SONDE_OK;
    return unsupported(o, "normalizer");
}

static int add_splitter(struct opening *o, const char *source, size_t bytes, bool literal, bool removed, bool invert) {
    if (o->t->splitter_count == PATTERNS_MAX)
        return unsupported(o, "a pre_tokenizer of so many patterns");
    struct splitter *s = &o->t->splitters[o->t->splitter_count];
    char what[512];
    snprintf(what, sizeof(what), "%.400s: pre_tokenizer pattern %zu", o->what, o->t->splitter_count);
    int rc = pattern_open(source, bytes, literal, what, &s->pattern, o->e);
    if (rc)
        return rc;
    s->removed = removed;
    s->invert = invert;
    o->t->splitter_count++;
    return SONDE_OK;
}

static int open_split(struct opening *o, const json_t *split) {
    const json_t *pattern = json_object_get(split, "pattern"), *source = json_object_get(pattern, "Regex");
    bool literal = !source;
    if (literal)
        source = json_object_get(pattern, "String");
    const char *behavior = string_at(split, "behavior");
    if (!json_is_string(source) || !behavior)
        return err_set(o->e, SONDE_ERROR_FORMAT, "%s: pre_tokenizer: a Split needs pattern and behavior", o->what);
    bool removed = strcmp(behavior, "Removed") == 0;
    if (!removed && strcmp(behavior, "Isolated") != 0)
        return unsupported(o, "a Split behavior other than Isolated and Removed");
    bool invert;
    int rc = flag_at(o, split, "pre_tokenizer", "invert", false, &invert);
    return rc ? rc : add_splitter(o, json_string_value(source), json_string_length(source), literal, removed, invert);
}

static int open_byte_level(struct opening *o, const json_t *level) {
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    bool prefix_space, use_regex;
    int rc = flag_at(o, level, "pre_tokenizer", "add_prefix_space", true, &prefix_space);
    if (!rc)
        o->t->prefix_level = prefix_space ? o->t->splitter_count : SIZE_MAX; /* before its own pattern */
    if (!rc)
        rc = flag_at(o, level, "pre_tokenizer", "use_regex", true, &use_regex);
    if (!rc && use_regex)
        rc = add_splitter(o, gpt2, sizeof(gpt2) - 1, false, false, false);
    return rc;
}

/* ByteLevel must come once, and last: what follows it would see the alphabet and not the text. */
static int open_pre_tokenizer(struct opening *o) {
    const json_t *pre = json_object_get(o->root, "pre_tokenizer");
    if (is_type(pre, "ByteLevel"))
        return open_byte_level(o, pre);
    const json_t *list = json_object_get(pre, "pretokenizers");
    size_t count = json_array_size(list);
    if (!is_type(pre, "Sequence") || !count || !is_type(json_array_get(list, count - 1), "ByteLevel"))
        return unsupported(o, "a pre_tokenizer that does not end in ByteLevel");
    for (size_t i = 0; i + 1 < count; i++) {
        const json_t *step = json_array_get(list, i);
        int rc = is_type(step, "Split") ? open_split(o, step) : unsupported(o, "a pre_tokenizer step other than Split");
        if (rc)
            return rc;
    }
    return open_byte_level(o, json_array_get(list, count - 1));
}

static int check_decoder(struct opening *o) {
    return is_type(json_object_get(o->root, "decoder"), "ByteLevel") ? SONDE_OK
                                                                     : unsupported(o, "a decoder other than ByteLevel");
}

/* --------------------------------------------------------------------------------------- together */

static int open_all(struct opening *o) {
    static int (*const steps[])(struct opening *) = {open_model, size_tokens,      open_vocab,         open_merges,
                                                     open_added, check_normalizer, open_pre_tokenizer, check_decoder};
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        int rc = steps[i](o);
        if (rc)
            return rc;
    }
    return buf_take(&o->pool, &o->t->pool, NULL, o->e);
}

int text_tokenizer_parse(const char *json, size_t bytes, const char *what, sonde_tokenizer **tokenizer,
                         struct sonde_error *e) {
    if (bytes > FILE_LIMIT)
        return err_set(e, SONDE_ERROR_FORMAT, "%s: larger than %u bytes", what, FILE_LIMIT);
    struct opening o = {.what = what, .e = e};
    int rc = json_parse(json, bytes, what, &o.root, e);
    if (rc)
        return rc;
    o.t = calloc(1, sizeof(*o.t));
    rc = o.t ? open_all(&o) : err_memory(e);
    if (!rc)
        *tokenizer = o.t;
    else
        sonde_tokenizer_close(o.t);
    buf_release(&o.pool);
    free(o.is_added);
    json_decref(o.root);
    return rc;
}

int sonde_tokenizer_open(const char *path, sonde_tokenizer **tokenizer, struct sonde_error *error) {
    struct file_map map;
    int rc = file_map_open(path, &map, error);
    if (rc)
        return rc;
    rc = text_tokenizer_parse((const char *)map.data, map.size, path, tokenizer, error);
    file_map_close(&map);
    return rc;
}

void sonde_tokenizer_close(sonde_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    for (size_t i = 0; i < tokenizer->splitter_count; i++)
        pattern_close(tokenizer->splitters[i].pattern);
    free(tokenizer->added[0].ids);
    free(tokenizer->added[1].ids);
    free(tokenizer->whole);
    free(tokenizer->merges);
    free(tokenizer->tokens);
    free(tokenizer->pool);
    free(tokenizer);
}
