/*
 * test_train_bpe.c - tokenizers that are trained: the merges of a reference that counts everything anew for each, the
 * form of the file, and what it does with text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train_scratch.h"

#include "train/bpe_internal.h"

/* --------------------------------------------------------------------------------------- reference */

enum { TOKENS = 400, WORDS = 4000, SYMBOLS = 40000 };

/* Words are not counted once each but stand there as often as they occur, and pairs are counted in a square. */
struct naive {
    char spelling[TOKENS][64];
    uint32_t length[TOKENS], count;
    uint32_t symbols[SYMBOLS], begin[WORDS], size[WORDS], words, used;
    uint32_t pairs[TOKENS][TOKENS];
    uint32_t rules[TOKENS][2], rule_count;
};

static struct naive naive;

static int take_word(void *context, const char *bytes, size_t count) {
    struct naive *n = context;
    assert_true(n->words < WORDS && n->used + count <= SYMBOLS);
    n->begin[n->words] = n->used;
    n->size[n->words++] = (uint32_t)count;
    for (size_t i = 0; i < count; i++)
        n->symbols[n->used++] = lexicon_byte((unsigned char)bytes[i]);
    return 0;
}

static void count_pairs(struct naive *n) {
    memset(n->pairs, 0, sizeof(n->pairs));
    for (uint32_t w = 0; w < n->words; w++)
        for (uint32_t i = 0; i + 1 < n->size[w]; i++)
            n->pairs[n->symbols[n->begin[w] + i]][n->symbols[n->begin[w] + i + 1]]++;
}

/* The new token, which is like no other. */
static uint32_t add_token(struct naive *n, uint32_t left, uint32_t right) {
    char spelling[64];
    uint32_t length = n->length[left] + n->length[right];
    assert_true(length <= sizeof(spelling) && n->count < TOKENS);
    memcpy(spelling, n->spelling[left], n->length[left]);
    memcpy(spelling + n->length[left], n->spelling[right], n->length[right]);
    for (uint32_t i = 0; i < n->count; i++)
        assert_false(n->length[i] == length && memcmp(n->spelling[i], spelling, length) == 0);
    memcpy(n->spelling[n->count], spelling, length);
    n->length[n->count] = length;
    return n->count++;
}

static void merge_pair(struct naive *n, uint32_t left, uint32_t right, uint32_t token) {
    for (uint32_t w = 0; w < n->words; w++) {
        uint32_t *s = n->symbols + n->begin[w], kept = 0;
        for (uint32_t i = 0; i < n->size[w]; i++) {
            bool here = i + 1 < n->size[w] && s[i] == left && s[i + 1] == right;
            s[kept++] = here ? token : s[i];
            i += here;
        }
        n->size[w] = kept;
    }
}

/* Merges until there are `size` tokens. */
static void learn_naively(struct naive *n, uint32_t size) {
    while (n->count < size) {
        uint32_t left = 0, right = 0;
        count_pairs(n);
        for (uint32_t a = 0; a < n->count; a++)
            for (uint32_t b = 0; b < n->count; b++)
                if (n->pairs[a][b] > n->pairs[left][right]) {
                    left = a;
                    right = b;
                }
        assert_true(n->pairs[left][right] > 0 && n->rule_count < TOKENS);
        n->rules[n->rule_count][0] = left;
        n->rules[n->rule_count++][1] = right;
        merge_pair(n, left, right, add_token(n, left, right));
    }
}

static void init_naive(struct naive *n) {
    memset(n, 0, sizeof(*n));
    for (unsigned i = 0; i < BPE_BYTES; i++) {
        n->spelling[lexicon_byte((unsigned char)i)][0] = (char)i;
        n->length[lexicon_byte((unsigned char)i)] = 1;
    }
    n->count = BPE_BYTES;
}

/* ----------------------------------------------------------------------------------------- helpers */

/* Texts of few letters, so that many pairs are equally frequent, and runs of one sign, in which pairs overlap. */
static void random_text(struct rng *r, struct buf *b) {
    static const char *const letters[] = {"a", "b", "ab", "!", "!!", " ", "\n", "é", "漢", "1", "\xff", "\xc3"};
    for (uint64_t n = rng_u64(r) % 200; n; n--) {
        const char *letter = letters[rng_u64(r) % COUNT_OF(letters)];
        for (uint64_t k = rng_u64(r) % 8 == 0 ? rng_u64(r) % 12 : 1; k; k--)
            buf_string(b, letter);
    }
}

/* The tokenizer of texts [0, count), the last first if so wished. */
static json_t *train_on(struct buf *texts, size_t count, uint32_t size, bool backwards) {
    struct bpe *b;
    char *text;
    size_t length;
    json_t *json;
    CHECKED(bpe_open(&b, &error));
    for (size_t i = 0; i < count; i++) {
        const struct buf *t = &texts[backwards ? count - 1 - i : i];
        CHECKED(bpe_add(b, t->data, t->len, &error));
    }
    CHECKED(bpe_train(b, size, &text, &length, &error));
    CHECKED(json_parse(text, length, "trained", &json, &error));
    free(text);
    bpe_close(b);
    return json;
}

static sonde_tokenizer *open_json(const json_t *json) {
    sonde_tokenizer *t;
    char *text = json_dumps(json, JSON_COMPACT);
    CHECKED(text_tokenizer_parse(text, strlen(text), "trained", &t, &error));
    free(text);
    return t;
}

/* The rules of the file, as pairs of tokens, are those of the reference. */
static void expect_rules(const json_t *json, const struct naive *n, const sonde_tokenizer *t) {
    const json_t *model = json_object_get(json, "model"), *merges = json_object_get(model, "merges");
    assert_int_equal(json_array_size(merges), n->rule_count);
    for (uint32_t i = 0; i < n->rule_count; i++) {
        char side[2][200];
        assert_int_equal(sscanf(json_string_value(json_array_get(merges, i)), "%199s %199s", side[0], side[1]), 2);
        for (int k = 0; k < 2; k++) {
            const json_t *id = json_object_get(json_object_get(model, "vocab"), side[k]);
            uint32_t token = n->rules[i][k];
            const char *bytes;
            size_t length;
            assert_non_null(id);
            text_token_bytes(t, (int32_t)json_integer_value(id), &bytes, &length);
            if (length != n->length[token] || memcmp(bytes, n->spelling[token], length) != 0)
                fail_msg("merge %u, side %d: is %.*s, expected %.*s", i, k, (int)length, bytes, (int)n->length[token],
                         n->spelling[token]);
        }
    }
}

/* ------------------------------------------------------------------------------------------- merges */

static void check_seed(uint64_t seed) {
    enum { DOCUMENTS = 4, SIZE = BPE_SMALLEST + 60 };
    struct rng r;
    struct buf texts[DOCUMENTS] = {{0}};
    rng_init(&r, seed);
    for (int i = 0; i < DOCUMENTS; i++) {
        random_text(&r, &texts[i]);
        buf_string(&texts[i], " all texts have these words in them, so that there is enough to merge: !!!!!!!!!!!");
    }
    json_t *json = train_on(texts, DOCUMENTS, SIZE, false), *again = train_on(texts, DOCUMENTS, SIZE, true);
    assert_true(json_equal(json, again));
    sonde_tokenizer *t = open_json(json);
    assert_int_equal(sonde_tokenizer_size(t), SIZE);
    init_naive(&naive);
    for (int i = 0; i < DOCUMENTS; i++)
        CHECKED(text_tokenizer_split(t, texts[i].data, texts[i].len, take_word, &naive, &error));
    learn_naively(&naive, SIZE - BPE_FIRST - BPE_MARKUP);
    expect_rules(json, &naive, t);
    sonde_tokenizer_close(t);
    json_decref(json);
    json_decref(again);
    for (int i = 0; i < DOCUMENTS; i++)
        buf_release(&texts[i]);
}

static void test_bpe__merges_are_those_of_the_reference(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++)
        check_seed(seed);
}

/* "he" stands thrice, then "the" and "she" twice each: the lower left token, "s", first. */
static void test_bpe__equals_go_by_their_letters(void **state) {
    (void)state;
    struct buf text = {0};
    buf_string(&text, "the the she she he");
    json_t *json = train_on(&text, 1, BPE_SMALLEST + 4, false);
    const json_t *merges = json_object_get(json_object_get(json, "model"), "merges");
    static const char *const expected[] = {"h e", "s he", "t he", "Ġ she"};
    for (size_t i = 0; i < COUNT_OF(expected); i++)
        assert_string_equal(json_string_value(json_array_get(merges, i)), expected[i]);
    json_decref(json);
    buf_release(&text);
}

/* --------------------------------------------------------------------------------------------- file */

/* All but the ids of markup, which depend on the size. */
static void test_bpe__the_file_has_the_form_of_the_bundled_one(void **state) {
    (void)state;
    struct buf text = {0}, file = {0};
    json_t *nano, *added, *other;
    size_t i;
    const char *key;
    buf_string(&text, "Once upon a time");
    json_t *json = train_on(&text, 1, BPE_SMALLEST + 8, false);
    CHECKED(file_read("models/nano/tokenizer.json", 1 << 24, &file, &error));
    CHECKED(json_parse(file.data, file.len, "nano", &nano, &error));
    json_array_foreach(json_object_get(json, "added_tokens"), i, added) {
        other = json_array_get(json_object_get(nano, "added_tokens"), i);
        assert_int_equal(json_integer_value(json_object_get(added, "id")), i < BPE_FIRST ? i : 264 + i);
        json_object_set(added, "id", json_object_get(other, "id"));
    }
    json_object_foreach(json_object_get(nano, "model"), key, other) {
        json_t *ours = json_object_get(json_object_get(json, "model"), key);
        if (strcmp(key, "vocab") != 0 && strcmp(key, "merges") != 0)
            assert_true(json_equal(other, ours));
    }
    const json_t *vocab = json_object_get(json_object_get(json, "model"), "vocab");
    json_object_foreach(json_object_get(json_object_get(nano, "model"), "vocab"), key, other) {
        if (json_integer_value(other) < BPE_FIRST + BPE_BYTES)
            assert_true(json_equal(other, json_object_get(vocab, key)));
    }
    json_object_del(nano, "model");
    json_object_del(json, "model");
    assert_true(json_equal(json, nano));
    json_decref(json);
    json_decref(nano);
    buf_release(&text);
    buf_release(&file);
}

static void test_bpe__any_bytes_come_back(void **state) {
    (void)state;
    struct buf text = {0};
    struct rng r;
    buf_string(&text, "the cat and the dog, the end. 猫と犬 123 123 !!! !!!\n\n");
    json_t *json = train_on(&text, 1, BPE_SMALLEST + 12, false);
    sonde_tokenizer *t = open_json(json);
    rng_init(&r, 7);
    for (int round = 0; round < 200; round++) {
        char bytes[64], back[64 + 64];
        size_t count = rng_u64(&r) % sizeof(bytes), used = 0, n;
        int32_t *ids;
        for (size_t i = 0; i < count; i++)
            bytes[i] = (char)(round % 2 ? rng_u64(&r) : (uint64_t)text.data[rng_u64(&r) % text.len]);
        CHECKED(sonde_tokenizer_encode(t, bytes, count, SONDE_MARKUP_TEXT, &ids, &n, &error));
        for (size_t i = 0; i < n; i++) {
            const char *part;
            size_t length;
            text_token_bytes(t, ids[i], &part, &length);
            assert_true(used + length <= sizeof(back));
            memcpy(back + used, part, length);
            used += length;
        }
        assert_int_equal(used, count);
        assert_memory_equal(back, bytes, count);
        sonde_free(ids);
    }
    sonde_tokenizer_close(t);
    json_decref(json);
    buf_release(&text);
}

/* ------------------------------------------------------------------------------------------- sources */

#define STORY "a cat sat on a mat and a dog sat on a log"

/* The same words give the same file, however they come; markup is not learnt from. */
static void test_train_tokenizer__reads_texts_and_conversations(void **state) {
    (void)state;
    scratch_write("text", "a cat sat on a mat\n###\nand a dog sat on a log\n###\n");
    scratch_write("qa", "{\"q\": \"a cat sat on a mat\", \"a\": \"and a dog sat on a log\"}\n");
    scratch_write("chat", "{\"messages\": [{\"role\": \"user\", \"content\": \"a cat sat on a mat\"},"
                          " {\"role\": \"assistant\", \"content\": \"and a dog sat on a log\"}]}\n");
    const struct data_source sources[] = {{.path = scratch_path("text"), .separator = "###"},
                                          {.path = scratch_path("qa"), .kind = DATA_JSONL},
                                          {.path = scratch_path("chat"), .kind = DATA_JSONL}};
    struct buf first = {0}, other = {0};
    for (size_t i = 0; i < COUNT_OF(sources); i++) {
        CHECKED(train_tokenizer(&sources[i], 1, BPE_SMALLEST + 10, scratch_path("out"), &error));
        buf_clear(&other);
        CHECKED(file_read(scratch_path("out"), 1 << 24, i ? &other : &first, &error));
        if (i)
            assert_string_equal(first.data, other.data);
    }
    buf_release(&first);
    buf_release(&other);
}

static void expect_failure(const struct data_source *source, uint32_t size, int code, const char *says) {
    struct sonde_error e = {0};
    assert_int_equal(train_tokenizer(source, 1, size, scratch_path("none"), &e), code);
    if (!strstr(e.message, says))
        fail_msg("\"%s\" does not say \"%s\"", e.message, says);
    assert_false(file_exists(scratch_path("none")));
}

static void test_train_tokenizer__says_what_is_wrong(void **state) {
    (void)state;
    scratch_write("text", STORY);
    scratch_write("bad", "{\"text\": \"" STORY "\"}\n\n{\"text\": 3}\n");
    scratch_write("role", "{\"messages\": [{\"role\": \"cat\"}]}\n");
    struct data_source text = {.path = scratch_path("text")}, bad = {.path = scratch_path("bad"), .kind = DATA_JSONL},
                       role = {.path = scratch_path("role"), .kind = DATA_JSONL}, gone = {.path = "/nowhere/at/all"};
    expect_failure(&text, BPE_SMALLEST - 1, SONDE_ERROR_ARGUMENT, "268 tokens: 269 to 1048576");
    expect_failure(&text, 4096, SONDE_ERROR_ARGUMENT, "and no more, where 4096 are wanted");
    expect_failure(&bad, 300, SONDE_ERROR_FORMAT, "bad:3: an object with \"messages\"");
    expect_failure(&role, 300, SONDE_ERROR_FORMAT, "role:1: messages[0].role");
    expect_failure(&gone, 300, SONDE_ERROR_IO, "/nowhere/at/all");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe__merges_are_those_of_the_reference),
        cmocka_unit_test(test_bpe__equals_go_by_their_letters),
        cmocka_unit_test(test_bpe__the_file_has_the_form_of_the_bundled_one),
        cmocka_unit_test(test_bpe__any_bytes_come_back),
        cmocka_unit_test(test_train_tokenizer__reads_texts_and_conversations),
        cmocka_unit_test(test_train_tokenizer__says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
