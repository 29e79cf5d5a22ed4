/*
 * test_train_data.c - documents, their tokens, batches: nothing is lost or told twice, targets are what follows, and a
 * run that goes on sees what it would have seen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "train_scratch.h"

#include "train/data_internal.h"

#define NANO "models/nano/tokenizer.json"

static sonde_tokenizer *tokenizer;

static int setup(void **state) {
    return scratch_open(state) || sonde_tokenizer_open(NANO, &tokenizer, NULL);
}

static int teardown(void **state) {
    sonde_tokenizer_close(tokenizer);
    return scratch_close(state);
}

static struct data_source text_source(const char *name) {
    return (struct data_source){.path = scratch_path(name), .separator = "###", .weight = 1};
}

static struct data_source json_source(const char *name, uint32_t flags) {
    return (struct data_source){.path = scratch_path(name), .kind = DATA_JSONL, .weight = 1, .flags = flags};
}

static struct tokenizer_file nano_file(void) {
    return (struct tokenizer_file){.tokenizer = tokenizer, .identity = {1, 2}, .path = NANO};
}

static void expect_says(const struct sonde_error *e, const char *says) {
    if (!strstr(e->message, says))
        fail_msg("\"%s\" does not say \"%s\"", e->message, says);
}

/* --------------------------------------------------------------------------------------- documents */

struct expected_document {
    const char *text;
    size_t line;
    bool chat;
};

static void expect_documents(const struct data_source *source, const struct expected_document *expected, size_t count) {
    struct documents documents;
    struct document d;
    CHECKED(documents_open(source, &documents, &error));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(documents_next(&documents, &d, NULL), 1);
        assert_int_equal(d.bytes, strlen(expected[i].text));
        assert_memory_equal(d.text, expected[i].text, d.bytes);
        assert_int_equal(d.line, expected[i].line);
        assert_int_equal(d.chat, expected[i].chat);
    }
    assert_int_equal(documents_next(&documents, &d, NULL), 0);
    assert_int_equal(documents_next(&documents, &d, NULL), 0);
    documents_close(&documents);
}

static void test_documents__are_parted_by_lines(void **state) {
    (void)state;
    const struct expected_document parts[] = {
        {"one\n\ntwo ### ", 2, false}, {"three", 8, false}, {"###four", 10, false}};
    struct data_source source = text_source("text");
    scratch_write("text", "\none\n\ntwo ### \n###\n###\n\n  three\r\n###\r\n###four");
    struct expected_document spaced[] = {parts[0], {"  three", 8, false}, parts[2]};
    expect_documents(&source, spaced, 3);
    scratch_write("text", "\nthe whole\n###\nfile\n\n");
    const struct expected_document whole = {"the whole\n###\nfile", 2, false};
    source.separator = NULL;
    expect_documents(&source, &whole, 1);
    scratch_write("text", "\n\n");
    expect_documents(&source, NULL, 0);
    scratch_write("text", "");
    expect_documents(&source, NULL, 0);
}

static void test_documents__are_lines_of_json(void **state) {
    (void)state;
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"n\": 1}";
    static const char made[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"q \\\"1\\\"\"}, "
                               "{\"role\": \"assistant\", \"content\": \"é\"}]}";
    char file[400];
    struct data_source source = json_source("lines", 0);
    snprintf(file, sizeof(file),
             "%s\r\n \t\n{\"text\": \"\\n a\\nb\\n\"}\n{\"q\": \"q \\\"1\\\"\", \"a\": \"\\u00e9\"}", chat);
    scratch_write("lines", file);
    const struct expected_document expected[] = {{chat, 1, true}, {" a\nb", 3, false}, {made, 4, true}};
    expect_documents(&source, expected, 3);
}

static void expect_bad_line(const char *text, const char *says) {
    struct documents documents;
    struct document d;
    struct sonde_error e;
    struct data_source source = json_source("lines", 0);
    scratch_write("lines", text);
    CHECKED(documents_open(&source, &documents, &error));
    int rc;
    while ((rc = documents_next(&documents, &d, &e)) == 1)
        ;
    assert_int_equal(rc, SONDE_ERROR_FORMAT);
    expect_says(&e, says);
    documents_close(&documents);
}

static void test_documents__name_the_line_that_is_wrong(void **state) {
    (void)state;
    struct documents documents;
    struct sonde_error e;
    expect_bad_line("{\"text\": \"a\"}\n\n{\"text\": \"b\"\n", "lines:3: ");
    expect_bad_line("{\"q\": \"a\"}\n", "lines:1: an object with \"messages\"");
    expect_bad_line("[]\n", "lines:1: an object with");
    struct data_source source = text_source("lines");
    source.separator = "a\nb";
    assert_int_equal(documents_open(&source, &documents, &e), SONDE_ERROR_ARGUMENT);
    expect_says(&e, "separator");
}

/* ------------------------------------------------------------------------------------------ tokens */

/* The tokens of a document as text, with what no assistant says in brackets. */
static char *shown(const struct tokens *t, uint64_t document) {
    struct buf b = {0};
    bool unsaid = false;
    char *text;
    for (uint64_t i = t->begins[document]; i < t->begins[document + 1]; i++) {
        const char *bytes;
        size_t count;
        if (unsaid != (t->ids[i] >= TOKEN_UNSAID))
            buf_byte(&b, unsaid ? ']' : '[');
        unsaid = t->ids[i] >= TOKEN_UNSAID;
        text_token_bytes(tokenizer, (int32_t)(t->ids[i] & ~TOKEN_UNSAID), &bytes, &count);
        buf_append(&b, bytes, count);
    }
    buf_string(&b, unsaid ? "]" : "");
    CHECKED(buf_take(&b, &text, NULL, &error));
    return text;
}

static void expect_tokens(const struct data_source *source, const char *const *expected, size_t count) {
    struct tokens t;
    struct tokenizer_file file = nano_file();
    CHECKED(tokens_open(source, &file, scratch_path("cache"), &t, &error));
    assert_int_equal(t.documents, count);
    assert_int_equal(t.begins[count], t.count);
    for (size_t i = 0; i < count; i++) {
        char *is = shown(&t, i);
        assert_string_equal(is, expected[i]);
        free(is);
    }
    tokens_close(&t);
}

static void test_tokens__begin_and_end_a_text(void **state) {
    (void)state;
    struct data_source source = text_source("text");
    scratch_write("text", "Once upon a time\n###\na <think> " TOKEN_END "\n###\n");
    static const char *const expected[] = {TOKEN_BEGIN "Once upon a time" TOKEN_END,
                                           TOKEN_BEGIN "a <think> " TOKEN_END TOKEN_END};
    expect_tokens(&source, expected, 2);
    /* markup in a text is text: more tokens than its own two */
    struct tokens t;
    struct tokenizer_file file = nano_file();
    CHECKED(tokens_open(&source, &file, scratch_path("cache"), &t, &error));
    uint32_t ends = 0;
    for (uint64_t i = t.begins[1]; i < t.count; i++)
        ends += t.ids[i] == (uint32_t)sonde_tokenizer_added(tokenizer, TOKEN_END);
    assert_int_equal(ends, 1);
    tokens_close(&t);
}

#define USER      "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"

static void test_tokens__know_what_an_assistant_says(void **state) {
    (void)state;
    struct data_source source = json_source("chat", 0);
    scratch_write(
        "chat", "{\"q\": \"Hi\", \"a\": \"Hello!\"}\n"
                "{\"messages\": [{\"role\": \"system\", \"content\": \"Be\"}, {\"role\": \"user\", \"content\": \"A\"},"
                " {\"role\": \"assistant\", \"content\": \"B\", \"reasoning_content\": \"why\"},"
                " {\"role\": \"user\", \"content\": \"" TOKEN_END "\"},"
                " {\"role\": \"assistant\", \"content\": \"D\", \"reasoning_content\": \"so\"}],"
                " \"thinking_mode\": \"thinking\"}\n"
                "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"},"
                " {\"role\": \"assistant\", \"content\": \"B\", \"wo_eos\": true}]}\n"
                "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"}]}\n");
    static const char *const expected[] = {
        "[" TOKEN_BEGIN USER "Hi" ASSISTANT "</think>]Hello!" TOKEN_END,
        "[" TOKEN_BEGIN "Be" USER "A" ASSISTANT "</think>]B" TOKEN_END "[" USER TOKEN_END ASSISTANT
        "<think>]so</think>D" TOKEN_END,
        "[" TOKEN_BEGIN USER "A" ASSISTANT "</think>]B",
        "[" TOKEN_BEGIN USER "A" ASSISTANT "</think>]",
    };
    expect_tokens(&source, expected, COUNT_OF(expected));
}

static char *path_of_cache(const struct data_source *source, const struct tokenizer_file *file) {
    char *path;
    uint64_t identity[2];
    CHECKED(tokens_path(source, file, scratch_path("cache"), &path, identity, &error));
    return path;
}

static ino_t inode(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

/* Changes the byte at `at`, from the end if negative. */
static void damage(const char *path, long at) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int byte = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
}

static void test_tokens__are_made_once_and_made_again_when_damaged(void **state) {
    (void)state;
    static const char *const expected[] = {TOKEN_BEGIN "one" TOKEN_END, TOKEN_BEGIN "two three" TOKEN_END};
    struct data_source source = text_source("text");
    struct tokenizer_file file = nano_file();
    scratch_write("text", "one\n###\ntwo three");
    expect_tokens(&source, expected, 2);
    char *path = path_of_cache(&source, &file);
    ino_t made = inode(path);
    expect_tokens(&source, expected, 2);
    assert_int_equal(inode(path), made);
    static const long places[] = {0, 9, 30, -1, -20, -60, -80};
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        damage(path, places[i]);
        expect_tokens(&source, expected, 2);
        assert_int_not_equal(inode(path), made);
        made = inode(path);
    }
    assert_int_equal(truncate(path, 40), 0);
    expect_tokens(&source, expected, 2);
    free(path);
}

static void test_tokens__are_named_by_all_they_follow_from(void **state) {
    (void)state;
    struct data_source source = text_source("text"), other = source;
    struct tokenizer_file file = nano_file(), changed = file;
    scratch_write("text", "one\n###\ntwo three");
    char *path = path_of_cache(&source, &file), *differs[4];
    other.separator = NULL;
    changed.identity[1] = 3;
    differs[0] = path_of_cache(&other, &file);
    differs[1] = path_of_cache(&source, &changed);
    other.kind = DATA_JSONL;
    differs[2] = path_of_cache(&other, &file);
    scratch_write("text", "one\n###\ntwo thref");
    differs[3] = path_of_cache(&source, &file);
    for (int i = 0; i < 4; i++) {
        assert_string_not_equal(path, differs[i]);
        free(differs[i]);
    }
    free(path);
}

static void test_tokens__a_source_without_documents_is_an_error(void **state) {
    (void)state;
    struct data_source source = text_source("text");
    struct tokenizer_file file = nano_file();
    struct tokens t;
    struct sonde_error e;
    scratch_write("text", "\n###\n");
    assert_int_equal(tokens_open(&source, &file, scratch_path("cache"), &t, &e), SONDE_ERROR_FORMAT);
    expect_says(&e, "text: no documents");
    source = json_source("lines", 0);
    scratch_write("lines", "{\"text\": \"a\"}\n{\"messages\": [{\"role\": \"cat\"}]}\n");
    assert_int_equal(tokens_open(&source, &file, scratch_path("cache"), &t, &e), SONDE_ERROR_FORMAT);
    expect_says(&e, "lines:2: messages[0].role");
}

/* ------------------------------------------------------------------------------------------- order */

static void test_shuffled__is_a_permutation(void **state) {
    (void)state;
    static const uint64_t counts[] = {1, 2, 3, 4, 5, 17, 64, 65, 1000, 4097};
    static bool seen[4097];
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        for (uint64_t order = 0; order < 5; order++) {
            memset(seen, 0, sizeof(seen));
            for (uint64_t k = 0; k < counts[i]; k++) {
                uint64_t at = data_shuffled(order, counts[i], k);
                assert_true(at < counts[i] && !seen[at]);
                seen[at] = true;
            }
        }
}

/* Of many orders each number comes first about as often, and neighbours do not stay neighbours. */
static void test_shuffled__orders_have_nothing_in_common(void **state) {
    (void)state;
    enum { COUNT = 10, ORDERS = 20000 };
    uint32_t first[COUNT] = {0}, neighbours = 0;
    for (uint64_t order = 0; order < ORDERS; order++) {
        first[data_shuffled(order, COUNT, 0)]++;
        neighbours += data_shuffled(order, COUNT, 1) == data_shuffled(order, COUNT, 0) + 1;
    }
    for (int i = 0; i < COUNT; i++)
        assert_in_range(first[i], ORDERS / COUNT * 9 / 10, ORDERS / COUNT * 11 / 10);
    assert_in_range(neighbours, ORDERS / 10 * 9 / 10, ORDERS / 10 * 11 / 10);
}

/* ----------------------------------------------------------------------------------------- batches */

/* Documents "WORD WORD ..." of 1 to `longest` words. */
static void write_random(const char *name, uint64_t seed, int count, uint32_t longest) {
    struct rng r;
    struct buf b = {0};
    rng_init(&r, seed);
    for (int i = 0; i < count; i++) {
        for (uint64_t words = 1 + rng_u64(&r) % longest; words; words--)
            buf_printf(&b, "%c%s ", 'a' + (char)(rng_u64(&r) % 26), rng_u64(&r) % 2 ? "ab" : "");
        buf_string(&b, "\n###\n");
    }
    CHECKED(file_write(scratch_path(name), b.data, b.len, &error));
    buf_release(&b);
}

static struct data *open_data(const struct data_source *sources, uint32_t count, uint32_t tokens, uint64_t seed,
                              uint64_t epochs) {
    struct data *data;
    struct data_options o = {.sources = sources,
                             .source_count = count,
                             .tokens = tokens,
                             .tokenizer = NANO,
                             .cache = scratch_path("cache"),
                             .seed = seed,
                             .epochs = epochs};
    CHECKED(data_open(&o, &data, &error));
    return data;
}

static struct tokens open_tokens(const struct data_source *source) {
    struct tokens t;
    struct tokenizer_file file = nano_file();
    CHECKED(tokens_open(source, &file, scratch_path("cache"), &t, &error));
    return t;
}

static void check_segments(const struct batch *b) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < b->segment_count; i++) {
        assert_int_equal(b->segments[i].begin, at);
        assert_true(b->segments[i].length > 0);
        at += b->segments[i].length;
    }
    assert_int_equal(at, b->tokens);
}

/* How often each token stands before each target. */
struct bigrams {
    uint32_t *counts; /* [4097][4097], target -1 last */
};

static struct bigrams new_bigrams(void) {
    struct bigrams b = {calloc((size_t)4097 * 4097, sizeof(uint32_t))};
    assert_non_null(b.counts);
    return b;
}

static uint32_t *bigram(struct bigrams b, int32_t id, int32_t target) {
    return &b.counts[(size_t)id * 4097 + (size_t)(target < 0 ? 4096 : target)];
}

/* Each token of an epoch is given once, with the target that follows it in its document: counted over all tokens. */
static void check_epoch(uint32_t tokens, uint32_t flags, uint32_t longest, uint64_t epochs) {
    write_random("text", tokens, 50, longest);
    struct data_source source = text_source("text");
    source.flags = flags;
    struct tokens t = open_tokens(&source);
    struct bigrams all = new_bigrams();
    for (uint64_t d = 0; d < t.documents; d++)
        for (uint64_t i = t.begins[d]; i < t.begins[d + 1]; i++)
            *bigram(all, (int32_t)t.ids[i], i + 1 < t.begins[d + 1] ? (int32_t)t.ids[i + 1] : -1) += (uint32_t)epochs;
    struct data *data = open_data(&source, 1, tokens, 1, epochs);
    struct batch b;
    uint64_t given = 0;
    int32_t padding = sonde_tokenizer_added(tokenizer, TOKEN_PAD);
    for (data_next(data, &b); b.tokens; data_next(data, &b)) {
        assert_int_equal(b.tokens, tokens);
        check_segments(&b);
        for (uint32_t i = 0; i < tokens; i++)
            if (b.ids[i] != padding) {
                uint32_t *left = bigram(all, b.ids[i], b.targets[i]);
                assert_true(*left > 0);
                --*left;
                given++;
            } else {
                assert_int_equal(b.targets[i], -1);
            }
    }
    assert_int_equal(given, t.count * epochs);
    data_next(data, &b);
    assert_int_equal(b.tokens, 0);
    free(all.counts);
    data_close(data);
    tokens_close(&t);
}

static void test_batches__give_each_token_once_an_epoch(void **state) {
    (void)state;
    static const uint32_t lengths[] = {1, 2, 7, 64, 500, 5000};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        check_epoch(lengths[i], 0, 40, 1);
        check_epoch(lengths[i], DATA_WHOLE, 40, 2);
    }
}

/* Within a segment a target is the next id; the last one's is what the document goes on with. */
static void test_batches__targets_are_what_follows(void **state) {
    (void)state;
    struct data_source source = text_source("text");
    int32_t begin = sonde_tokenizer_added(tokenizer, TOKEN_BEGIN), end = sonde_tokenizer_added(tokenizer, TOKEN_END);
    struct batch b;
    uint32_t split = 0;
    int32_t awaited = -1; /* what the segment that was split goes on with */
    write_random("text", 3, 30, 30);
    struct data *data = open_data(&source, 1, 100, 5, 0);
    for (int k = 0; k < 50; k++) {
        data_next(data, &b);
        for (uint32_t i = 0; i < b.segment_count; i++) {
            struct segment s = b.segments[i];
            for (uint32_t j = 0; j + 1 < s.length; j++)
                assert_int_equal(b.targets[s.begin + j], b.ids[s.begin + j + 1]);
            assert_int_equal(b.ids[s.begin], awaited < 0 ? begin : awaited);
            awaited = b.targets[s.begin + s.length - 1];
            assert_int_equal(awaited == -1, b.ids[s.begin + s.length - 1] == end);
            split += awaited >= 0;
        }
    }
    assert_true(split > 10);
    data_close(data);
}

static void test_batches__whole_documents_are_not_split(void **state) {
    (void)state;
    struct data_source source = text_source("text");
    int32_t begin = sonde_tokenizer_added(tokenizer, TOKEN_BEGIN), end = sonde_tokenizer_added(tokenizer, TOKEN_END),
            padding = sonde_tokenizer_added(tokenizer, TOKEN_PAD);
    struct batch b;
    uint32_t padded = 0;
    write_random("text", 3, 30, 30);
    source.flags = DATA_WHOLE;
    struct data *data = open_data(&source, 1, 100, 5, 0);
    for (int k = 0; k < 50; k++) {
        data_next(data, &b);
        check_segments(&b);
        for (uint32_t i = 0; i < b.segment_count; i++) {
            bool is_padding = b.ids[b.segments[i].begin] == padding;
            assert_true(is_padding || b.ids[b.segments[i].begin] == begin);
            assert_int_equal(b.ids[b.segments[i].begin + b.segments[i].length - 1], is_padding ? padding : end);
            padded += is_padding;
        }
    }
    assert_true(padded > 10);
    data_close(data);
}

static void test_batches__of_answers_only_answers_are_learnt(void **state) {
    (void)state;
    struct data_source source = json_source("chat", DATA_ANSWERS);
    struct buf learnt = {0};
    struct batch b;
    scratch_write("chat", "{\"q\": \"Who are you?\", \"a\": \"I am Sonde.\"}\n{\"text\": \"All of this\"}\n");
    struct data *data = open_data(&source, 1, 64, 1, 1);
    data_next(data, &b);
    for (uint32_t i = 0; i < b.tokens; i++) {
        const char *bytes;
        size_t count;
        if (b.targets[i] >= 0) {
            text_token_bytes(tokenizer, b.targets[i], &bytes, &count);
            buf_append(&learnt, bytes, count);
        }
    }
    bool text_first = strncmp(learnt.data, "All", 3) == 0;
    assert_string_equal(learnt.data, text_first ? "All of this" TOKEN_END "I am Sonde." TOKEN_END
                                                : "I am Sonde." TOKEN_END "All of this" TOKEN_END);
    buf_release(&learnt);
    data_close(data);
}

/* Shares hold at any time, whatever the lengths of documents, until a source comes to its last epoch's end. */
static void test_batches__sources_keep_their_shares(void **state) {
    (void)state;
    enum { T = 50 };
    struct data_source sources[3] = {text_source("one"), text_source("two"), text_source("three")};
    struct batch b;
    struct data_position p;
    static const double weights[] = {1, 2.5, 0.5};
    write_random("one", 1, 5, 200);
    write_random("two", 2, 200, 5);
    write_random("three", 3, 20, 20);
    for (int i = 0; i < 3; i++)
        sources[i].weight = weights[i];
    struct data *data = open_data(sources, 3, T, 9, 0);
    for (int k = 1; k < 400; k++) {
        data_next(data, &b);
        data_tell(data, &p);
        assert_int_equal(p.batches, k);
        for (int i = 0; i < 3; i++) {
            double share = weights[i] / 4 * k * T, is = (double)p.sources[i].tokens;
            assert_true(is > share - 2 * T && is < share + 2 * T);
        }
    }
    assert_true(p.sources[0].epoch > 1 && p.sources[1].epoch > 1);
    data_close(data);
}

/* ---------------------------------------------------------------------------------------- position */

static void expect_same_batch(struct data *a, struct data *b) {
    struct batch x, y;
    data_next(a, &x);
    data_next(b, &y);
    assert_int_equal(x.tokens, y.tokens);
    assert_int_equal(x.segment_count, y.segment_count);
    if (!x.tokens)
        return;
    assert_memory_equal(x.ids, y.ids, x.tokens * sizeof(*x.ids));
    assert_memory_equal(x.targets, y.targets, x.tokens * sizeof(*x.targets));
    assert_memory_equal(x.segments, y.segments, x.segment_count * sizeof(*x.segments));
}

static void test_position__a_run_goes_on_where_it_was(void **state) {
    (void)state;
    struct data_source sources[2] = {text_source("one"), text_source("two")};
    uint32_t inside = 0;
    write_random("one", 1, 20, 60);
    write_random("two", 2, 7, 5);
    sources[1].flags = DATA_WHOLE;
    struct data *data = open_data(sources, 2, 40, 11, 3);
    for (int k = 0; k < 60; k++) {
        struct data_position position, again;
        struct data *other = open_data(sources, 2, 40, 11, 3);
        data_tell(data, &position);
        inside += position.offset > 0;
        CHECKED(data_seek(other, &position, &error));
        expect_same_batch(data, other);
        data_tell(other, &again);
        data_tell(data, &position);
        assert_memory_equal(&position, &again, sizeof(position));
        data_close(other);
    }
    assert_true(inside > 10);
    data_close(data);
}

static void test_position__seeds_and_epochs_have_orders_of_their_own(void **state) {
    (void)state;
    struct data_source source = text_source("one");
    struct batch x, y;
    write_random("one", 1, 20, 60);
    struct tokens t = open_tokens(&source);
    struct data *a = open_data(&source, 1, (uint32_t)t.count, 1, 0),
                *b = open_data(&source, 1, (uint32_t)t.count, 2, 0);
    data_next(a, &x);
    data_next(b, &y);
    assert_memory_not_equal(x.ids, y.ids, t.count * sizeof(*x.ids));
    memcpy((void *)(uintptr_t)y.ids, x.ids, t.count * sizeof(*x.ids));
    data_next(a, &x); /* the same documents once more */
    assert_memory_not_equal(x.ids, y.ids, t.count * sizeof(*x.ids));
    data_close(a);
    data_close(b);
    tokens_close(&t);
}

static void expect_elsewhere(struct data *data, const struct data_position *position, const char *says) {
    struct sonde_error e;
    assert_int_equal(data_seek(data, position, &e), SONDE_ERROR_FORMAT);
    expect_says(&e, says);
}

static void test_position__of_other_data_is_refused(void **state) {
    (void)state;
    struct data_source sources[2] = {text_source("one"), text_source("two")};
    struct data_position good, bad, after;
    struct batch b;
    write_random("one", 1, 20, 60);
    write_random("two", 2, 7, 5);
    struct data *data = open_data(sources, 2, 40, 11, 0), *other = open_data(sources, 1, 40, 11, 0);
    data_next(data, &b);
    data_tell(data, &good);
    expect_elsewhere(other, &good, "other sources");
    bad = good;
    bad.sources[1].identity[0]++;
    expect_elsewhere(data, &bad, "other sources or another tokenizer");
    bad = good;
    bad.seed++;
    expect_elsewhere(data, &bad, "another seed");
    bad = good;
    bad.length++;
    expect_elsewhere(data, &bad, "other tokens of a batch");
    bad = good;
    bad.sources[0].next = 1 << 20;
    expect_elsewhere(data, &bad, "beyond the end of a source");
    bad = good;
    bad.source = 2;
    expect_elsewhere(data, &bad, "not there");
    bad = good;
    bad.offset = 41;
    expect_elsewhere(data, &bad, "beyond the end of a piece");
    data_tell(data, &after);
    assert_memory_equal(&after, &good, sizeof(good));
    data_close(data);
    data_close(other);
}

/* ----------------------------------------------------------------------------------------- options */

static void expect_refused(struct data_options o, int code, const char *says) {
    struct data *data;
    struct sonde_error e;
    assert_int_equal(data_open(&o, &data, &e), code);
    expect_says(&e, says);
}

static void test_open__says_what_is_wrong(void **state) {
    (void)state;
    write_random("one", 1, 3, 6);
    struct data_source source = text_source("one"), weightless = source, gone = source;
    weightless.weight = 0;
    gone.path = "/nowhere/at/all";
    const struct data_options good = {
        .sources = &source, .source_count = 1, .tokens = 8, .tokenizer = NANO, .cache = scratch_path("cache")};
    struct data_options o = good;
    o.source_count = 17;
    expect_refused(o, SONDE_ERROR_ARGUMENT, "17 sources of data: 1 to 16");
    o = good;
    o.tokens = 0;
    expect_refused(o, SONDE_ERROR_ARGUMENT, "a batch of 0 tokens");
    o = good;
    o.sources = &weightless;
    expect_refused(o, SONDE_ERROR_ARGUMENT, "one: a weight above 0");
    o.sources = &gone;
    expect_refused(o, SONDE_ERROR_IO, "/nowhere/at/all");
    o = good;
    o.tokenizer = "/nowhere/tokenizer.json";
    expect_refused(o, SONDE_ERROR_IO, "/nowhere/tokenizer.json");
    o = good;
    o.cache = "/dev/null/cache";
    expect_refused(o, SONDE_ERROR_IO, "/dev/null/cache");
    struct data *data = open_data(&source, 1, 8, 0, 0);
    assert_int_equal(data_vocabulary(data), 4096);
    assert_int_equal(data_documents(data, 0), 3);
    assert_true(data_tokens(data, 0) > 3 * 2);
    data_close(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents__are_parted_by_lines),
        cmocka_unit_test(test_documents__are_lines_of_json),
        cmocka_unit_test(test_documents__name_the_line_that_is_wrong),
        cmocka_unit_test(test_tokens__begin_and_end_a_text),
        cmocka_unit_test(test_tokens__know_what_an_assistant_says),
        cmocka_unit_test(test_tokens__are_made_once_and_made_again_when_damaged),
        cmocka_unit_test(test_tokens__are_named_by_all_they_follow_from),
        cmocka_unit_test(test_tokens__a_source_without_documents_is_an_error),
        cmocka_unit_test(test_shuffled__is_a_permutation),
        cmocka_unit_test(test_shuffled__orders_have_nothing_in_common),
        cmocka_unit_test(test_batches__give_each_token_once_an_epoch),
        cmocka_unit_test(test_batches__targets_are_what_follows),
        cmocka_unit_test(test_batches__whole_documents_are_not_split),
        cmocka_unit_test(test_batches__of_answers_only_answers_are_learnt),
        cmocka_unit_test(test_batches__sources_keep_their_shares),
        cmocka_unit_test(test_position__a_run_goes_on_where_it_was),
        cmocka_unit_test(test_position__seeds_and_epochs_have_orders_of_their_own),
        cmocka_unit_test(test_position__of_other_data_is_refused),
        cmocka_unit_test(test_open__says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
