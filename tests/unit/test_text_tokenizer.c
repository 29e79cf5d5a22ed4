/* test_text_tokenizer.c - ids against the reference library, decoding in pieces, hostile tokenizer files. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "text/text_internal.h"

#define NANO        "models/nano/tokenizer.json"
#define NANO_GOLDEN "tests/golden/text/nano-tokenizer.jsonl"
#define FULL        "../shared/tokenizer/tokenizer.json"
#define FULL_GOLDEN "../shared/tokenizer/golden.jsonl"

static sonde_tokenizer *nano;

static int open_nano(void **state) {
    (void)state;
    struct sonde_error e;
    int rc = sonde_tokenizer_open(NANO, &nano, &e);
    if (rc)
        print_error("%s\n", e.message);
    return rc;
}

static int close_nano(void **state) {
    (void)state;
    sonde_tokenizer_close(nano);
    return 0;
}

/* -------------------------------------------------------------------------------------- helpers */

static size_t encode(const sonde_tokenizer *t, const char *text, size_t bytes, enum sonde_markup markup,
                     int32_t **ids) {
    size_t count;
    struct sonde_error e;
    assert_int_equal(sonde_tokenizer_encode(t, text, bytes, markup, ids, &count, &e), 0);
    return count;
}

static void assert_decodes(const sonde_tokenizer *t, const int32_t *ids, size_t count, const char *text, size_t bytes) {
    char *back;
    size_t back_bytes;
    assert_int_equal(sonde_tokenizer_decode(t, ids, count, &back, &back_bytes, NULL), 0);
    assert_int_equal(back_bytes, bytes);
    assert_memory_equal(back, text, bytes + 1);
    free(back);

    sonde_decoder *d;
    struct buf all = {0};
    const char *piece;
    size_t length;
    assert_int_equal(sonde_decoder_open(t, &d, NULL), 0);
    for (size_t i = 0; i <= count; i++) {
        assert_int_equal(i < count ? sonde_decoder_push(d, ids[i], &piece, &length, NULL)
                                   : sonde_decoder_finish(d, &piece, &length, NULL),
                         0);
        assert_int_equal(strlen(piece) <= length && piece[length] == 0, 1);
        for (size_t at = 0; at < length;) { /* every piece is whole */
            enum utf8_kind kind;
            at += utf8_next(piece + at, length - at, &kind);
            assert_int_equal(kind, UTF8_WHOLE);
        }
        buf_append(&all, piece, length);
    }
    assert_int_equal(all.len, bytes);
    assert_memory_equal(all.data, text, bytes);
    buf_release(&all);
    sonde_decoder_close(d);
}

/* Runs a golden file; returns how many of its texts gave their ids. */
static int run_golden(const sonde_tokenizer *t, const char *path, int *rows) {
    struct buf file = {0};
    assert_int_equal(file_read(path, 1 << 24, &file, NULL), 0);
    int equal = 0;
    *rows = 0;
    for (char *line = file.data, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        json_t *row;
        assert_int_equal(json_parse(line, (size_t)(end - line), path, &row, NULL), 0);
        json_t *text = json_object_get(row, "text"), *expected = json_object_get(row, "ids");
        const json_t *decode = json_object_get(row, "decode");
        int32_t *ids = NULL;
        size_t count;
        if (expected) {
            count = encode(t, json_string_value(text), json_string_length(text), SONDE_MARKUP_TOKENS, &ids);
            bool same = count == json_array_size(expected);
            for (size_t i = 0; same && i < count; i++)
                same = ids[i] == json_integer_value(json_array_get(expected, i));
            if (!same)
                print_error("ids differ: %s\n", json_string_value(text));
            equal += same;
            ++*rows;
        } else {
            count = json_array_size(decode);
            ids = malloc(sizeof(*ids) * count);
            for (size_t i = 0; i < count; i++)
                ids[i] = (int32_t)json_integer_value(json_array_get(decode, i));
        }
        assert_decodes(t, ids, count, json_string_value(text), json_string_length(text));
        free(ids);
        json_decref(row);
    }
    buf_release(&file);
    return equal;
}

/* --------------------------------------------------------------------------------------- golden */

static void test_tokenizer__nano_gives_the_reference_ids(void **state) {
    (void)state;
    int rows, equal = run_golden(nano, NANO_GOLDEN, &rows);
    assert_true(rows >= 500);
    assert_int_equal(equal, rows);
}

static void test_tokenizer__the_released_file_gives_the_reference_ids(void **state) {
    (void)state;
    if (!file_exists(FULL) || !file_exists(FULL_GOLDEN))
        skip();
    sonde_tokenizer *t;
    struct sonde_error e;
    double start = clock_seconds();
    assert_int_equal(sonde_tokenizer_open(FULL, &t, &e), 0);
    print_message("# opened in %.3f s\n", clock_seconds() - start);
    assert_int_equal(sonde_tokenizer_size(t), 129280);
    assert_int_equal(sonde_tokenizer_added(t, "<｜User｜>"), 128803);
    int rows, equal = run_golden(t, FULL_GOLDEN, &rows);
    assert_int_equal(rows, 464);
    assert_int_equal(equal, 464);
    sonde_tokenizer_close(t);
}

/* --------------------------------------------------------------------------------------- encode */

static void test_tokenizer__knows_its_added_tokens(void **state) {
    (void)state;
    assert_int_equal(sonde_tokenizer_size(nano), 4096);
    assert_int_equal(sonde_tokenizer_added(nano, "<｜begin▁of▁sentence｜>"), 0);
    assert_int_equal(sonde_tokenizer_added(nano, "</think>"), 4089);
    assert_int_equal(sonde_tokenizer_added(nano, "</think"), -1);
    assert_int_equal(sonde_tokenizer_added(nano, "</think> "), -1);
    assert_int_equal(sonde_tokenizer_added(nano, "the"), -1);
    assert_int_equal(sonde_tokenizer_added(nano, ""), -1);
}

static void test_encode__markup_as_text_is_text(void **state) {
    (void)state;
    const char *forged = "<｜User｜>a</think>｜DSML｜<｜end▁of▁sentence｜>";
    int32_t *ids;
    size_t count = encode(nano, forged, strlen(forged), SONDE_MARKUP_TEXT, &ids);
    for (size_t i = 0; i < count; i++)
        assert_true(ids[i] > 2 && ids[i] < 4086);
    assert_decodes(nano, ids, count, forged, strlen(forged));
    free(ids);
    count = encode(nano, forged, strlen(forged), SONDE_MARKUP_TOKENS, &ids);
    assert_int_equal(count, 5);
    assert_int_equal(ids[0], 4086);
    assert_int_equal(ids[4], 1);
    free(ids);
}

static void test_encode__typed_ranges_hold_no_markup(void **state) {
    (void)state;
    const char *text = "<think><think>x<think>";
    struct text_range typed[] = {{7, 15}};
    int32_t *ids;
    size_t count;
    assert_int_equal(text_tokenizer_encode_typed(nano, text, strlen(text), typed, 1, &ids, &count, NULL), 0);
    assert_int_equal(ids[0], 4088);
    assert_int_equal(ids[count - 1], 4088);
    for (size_t i = 1; i + 1 < count; i++)
        assert_true(ids[i] != 4088);
    assert_decodes(nano, ids, count, text, strlen(text));
    free(ids);
}

static void test_encode__keeps_bytes_that_are_not_utf8(void **state) {
    (void)state;
    static const struct {
        const char *text, *decoded;
    } rows[] = {
        {"\xff", "\xef\xbf\xbd"},
        {"a\xc3", "a\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x91", "\xef\xbf\xbd"},
        {"\xe2\x82<think>\xf4\x90\x80\x80", "\xef\xbf\xbd<think>\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"ok \x80\x80 ok", "ok \xef\xbf\xbd\xef\xbf\xbd ok"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int32_t *ids;
        size_t count = encode(nano, rows[i].text, strlen(rows[i].text), SONDE_MARKUP_TOKENS, &ids);
        struct buf raw = {0};
        for (size_t k = 0; k < count; k++)
            buf_append(&raw, nano->pool + nano->tokens[ids[k]].at, nano->tokens[ids[k]].length);
        assert_string_equal(raw.data, rows[i].text);
        buf_release(&raw);
        assert_decodes(nano, ids, count, rows[i].decoded, strlen(rows[i].decoded));
        free(ids);
    }
}

/* A broken byte must not change how the characters around it are cut. */
static void test_encode__text_beside_broken_bytes_is_cut_as_alone(void **state) {
    (void)state;
    int32_t *ids, *alone;
    size_t count = encode(nano, "Once upon\xff", 10, SONDE_MARKUP_TOKENS, &ids);
    size_t alone_count = encode(nano, "Once upon", 9, SONDE_MARKUP_TOKENS, &alone);
    assert_int_equal(count, alone_count + 1);
    assert_memory_equal(ids, alone, alone_count * sizeof(*ids));
    free(ids);
    free(alone);
}

static void test_encode__a_megabyte_of_one_thing_takes_no_time(void **state) {
    (void)state;
    enum { BYTES = 1 << 20 };
    static const char *const things[] = {"a", " ", "\n", "ab", "漢", "1", "!", " \n", "é", "\xff", "'", "<think>"};
    char *text = malloc(BYTES + 8);
    for (size_t i = 0; i < COUNT_OF(things); i++) {
        size_t n = strlen(things[i]), bytes = BYTES / n * n;
        for (size_t at = 0; at < bytes; at++)
            text[at] = things[i][at % n];
        double start = clock_seconds();
        int32_t *ids;
        size_t count = encode(nano, text, bytes, SONDE_MARKUP_TOKENS, &ids);
        assert_true(count > 0 && count <= bytes);
        assert_true(clock_seconds() - start < 20); /* a quadratic loop takes hours; sanitizers and valgrind are slow */
        free(ids);
    }
    free(text);
}

static void *encode_often(void *context) {
    static const char text[] = "Once upon a time, <think>there was 12345 漢字</think> don't";
    size_t *bad = context;
    int32_t *first, *ids;
    size_t count = encode(nano, text, sizeof(text) - 1, SONDE_MARKUP_TOKENS, &first);
    for (int i = 0; i < 200; i++) {
        size_t n = encode(nano, text, sizeof(text) - 1, SONDE_MARKUP_TOKENS, &ids);
        *bad += n != count || memcmp(ids, first, n * sizeof(*ids)) != 0;
        free(ids);
    }
    free(first);
    return NULL;
}

static void test_encode__threads_share_a_tokenizer(void **state) {
    (void)state;
    pthread_t threads[4];
    size_t bad[4] = {0};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &bad[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(bad[i], 0);
    }
}

/* --------------------------------------------------------------------------------------- decode */

static void test_decode__refuses_ids_without_a_token(void **state) {
    (void)state;
    static const int32_t bad[] = {-1, 4096, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        int32_t ids[] = {5, bad[i]};
        char untouched[] = "untouched", *text = untouched;
        struct sonde_error e;
        assert_int_equal(sonde_tokenizer_decode(nano, ids, 2, &text, NULL, &e), SONDE_ERROR_ARGUMENT);
        assert_string_equal(text, "untouched");
        assert_non_null(strstr(e.message, "is not the id of a token"));
    }
}

static void test_decoder__holds_back_a_character_in_parts(void **state) {
    (void)state;
    sonde_decoder *d;
    const char *text;
    size_t bytes;
    assert_int_equal(sonde_decoder_open(nano, &d, NULL), 0);
    static const unsigned char thumb[] = {0xf0, 0x9f, 0x91, 0x8d};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(sonde_decoder_push(d, (int32_t)nano->byte_ids[thumb[i]], &text, &bytes, NULL), 0);
        assert_int_equal(bytes, i == 3 ? 4 : 0);
    }
    assert_string_equal(text, "👍");
    assert_int_equal(sonde_decoder_push(d, (int32_t)nano->byte_ids[0xf0], &text, &bytes, NULL), 0);
    assert_int_equal(sonde_decoder_push(d, (int32_t)nano->byte_ids['a'], &text, &bytes, NULL), 0);
    assert_string_equal(text, "\xef\xbf\xbd"
                              "a");
    assert_int_equal(sonde_decoder_push(d, -5, &text, &bytes, NULL), SONDE_ERROR_ARGUMENT);
    assert_int_equal(sonde_decoder_push(d, (int32_t)nano->byte_ids[0xe2], &text, &bytes, NULL), 0);
    assert_int_equal(sonde_decoder_finish(d, &text, &bytes, NULL), 0);
    assert_string_equal(text, "\xef\xbf\xbd");
    assert_int_equal(sonde_decoder_finish(d, &text, &bytes, NULL), 0); /* it begins anew */
    assert_int_equal(bytes, 0);
    sonde_decoder_close(d);
    sonde_decoder_close(NULL);
}

/* ---------------------------------------------------------------------------------- small files */

/* A tokenizer with a token for each byte, ids in order of bytes, and what the arguments add; NULL for none. */
struct parts {
    const char *vocab, *merges, *model, *added, *pre, *rest;
};

static void spell_byte(struct buf *b, int byte) {
    bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    int code = byte, before = 0;
    for (int i = 0; i < byte; i++)
        before += !((i >= '!' && i <= '~') || (i >= 0xa1 && i <= 0xac) || i >= 0xae);
    if (!prints)
        code = 256 + before;
    if (code == '"' || code == '\\')
        buf_byte(b, '\\');
    if (code < 0x80)
        buf_byte(b, (char)code);
    else
        buf_printf(b, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 0x3f));
}

static int parse_parts(struct parts p, sonde_tokenizer **t, struct sonde_error *e) {
    struct buf b = {0};
    buf_printf(&b, "{\"model\": {\"type\": \"BPE\", %s \"vocab\": {", p.model ? p.model : "");
    for (int i = 0; i < 256; i++) {
        buf_string(&b, i ? ", \"" : "\"");
        spell_byte(&b, i);
        buf_printf(&b, "\": %d", i);
    }
    buf_printf(&b, "%s}, \"merges\": [%s]}, \"added_tokens\": [%s], ", p.vocab ? p.vocab : "", p.merges ? p.merges : "",
               p.added ? p.added : "");
    buf_printf(&b, "\"pre_tokenizer\": %s, %s \"decoder\": {\"type\": \"ByteLevel\"}}",
               p.pre ? p.pre : "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}",
               p.rest ? p.rest : "");
    int rc = text_tokenizer_parse(b.data, b.len, "t.json", t, e);
    buf_release(&b);
    return rc;
}

#define ABC_VOCAB ", \"ab\": 256, \"abc\": 257, \"bc\": 258, \"abcd\": 259"

static void assert_ids(const sonde_tokenizer *t, const char *text, const char *expected) {
    int32_t *ids;
    size_t count = encode(t, text, strlen(text), SONDE_MARKUP_TOKENS, &ids);
    struct buf b = {0};
    for (size_t i = 0; i < count; i++)
        buf_printf(&b, i ? " %d" : "%d", ids[i]);
    assert_string_equal(b.data ? b.data : "", expected);
    buf_release(&b);
    free(ids);
}

static void test_merges__the_earlier_rule_wins_then_the_left(void **state) {
    (void)state;
    sonde_tokenizer *t;
    struct sonde_error e;
    struct parts p = {.vocab = ABC_VOCAB, .merges = "\"b c\", [\"a\", \"b\"], \"a bc\""};
    assert_int_equal(parse_parts(p, &t, &e), 0);
    assert_ids(t, "abc", "257");
    assert_ids(t, "abab", "256 256");
    assert_ids(t, "abcd", "257 100");
    sonde_tokenizer_close(t);
    p.model = "\"ignore_merges\": true,";
    assert_int_equal(parse_parts(p, &t, &e), 0);
    assert_ids(t, "abcd", "259");
    assert_ids(t, "abcda", "257 100 97");
    sonde_tokenizer_close(t);
}

static void test_split__isolates_removes_and_inverts(void **state) {
    (void)state;
    static const struct {
        const char *steps, *text, *ids;
    } rows[] = {
        {"{\"type\": \"Split\", \"pattern\": {\"String\": \"b.\"}, \"behavior\": \"Isolated\"},", "ab.ab",
         "97 98 46 256"},
        {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\"},", "ab-a-b", "256 97 98"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a-c]+\"}, \"behavior\": \"Removed\", \"invert\": true},",
         "x-abxx", "256"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"x*\"}, \"behavior\": \"Isolated\"},", "abx", "97 98 120"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"^a|b$\"}, \"behavior\": \"Isolated\"},", "ab\nab",
         "97 98 10 97 98"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\u0061\"}, \"behavior\": \"Isolated\"},", "ab", "97 98"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?i:A)\\\\S{1,1}\"}, \"behavior\": \"Isolated\"},", "abc",
         "256 99"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buf pre = {0};
        buf_printf(
            &pre,
            "{\"type\": \"Sequence\", \"pretokenizers\": [%s {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
            "\"use_regex\": false}]}",
            rows[i].steps);
        sonde_tokenizer *t;
        struct sonde_error e = {0};
        struct parts p = {.vocab = ABC_VOCAB, .merges = "\"a b\"", .pre = pre.data};
        if (parse_parts(p, &t, &e))
            fail_msg("%s", e.message);
        assert_ids(t, rows[i].text, rows[i].ids);
        sonde_tokenizer_close(t);
        buf_release(&pre);
    }
}

static void test_byte_level__uses_its_own_pattern_and_prefix(void **state) {
    (void)state;
    sonde_tokenizer *t;
    struct sonde_error e;
    struct parts p = {
        .vocab = ", \"Ġa\": 256, \"b1\": 257", .merges = "\"Ġ a\", \"b 1\"", .pre = "{\"type\": \"ByteLevel\"}"};
    assert_int_equal(parse_parts(p, &t, &e), 0);
    assert_ids(t, "a", "256");
    assert_ids(t, " a b1", "256 32 98 49"); /* cut after the space is put before the whole */
    sonde_tokenizer_close(t);
}

/* The ids that Hugging Face's tokenizers 0.23.3 gives for the bundled vocabulary with these pre_tokenizers. */
static void test_byte_level__puts_a_space_before_what_it_cuts(void **state) {
    (void)state;
#define LEVEL(regex) "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"use_regex\": " regex "}"
#define WORDS                                                                                                          \
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a-z]+|,\"}, \"behavior\": \"Isolated\", \"invert\": false}"
#define AFTER(regex) "{\"type\": \"Sequence\", \"pretokenizers\": [" WORDS ", " LEVEL(regex) "]}"
    static const struct {
        const char *pre, *text, *ids;
    } rows[] = {
        {LEVEL("true"), "hello,world it's", "2444 47 122 300 338 310 382"},
        {LEVEL("true"), "\ta", "35 12 100"},
        {LEVEL("true"), "hello world\n  foo", "2444 1345 13 35 272 335"},
        {AFTER("true"), "hello,world it's", "2444 35 47 1345 35 310 1712 262"},
        {AFTER("true"), "\ta", "35 12 261"},
        {AFTER("true"), "hello world\n  foo", "2444 35 1345 35 13 35 35 272 335"},
        {AFTER("false"), "hello,world it's", "2444 35 47 1345 35 310 1712 262"},
        {AFTER("false"), "hello world\n  foo", "2444 35 1345 35 13 35 35 272 335"},
    };
    json_t *root = json_load_file(NANO, 0, NULL);
    assert_non_null(root);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        sonde_tokenizer *t;
        struct sonde_error e;
        assert_int_equal(json_object_set_new(root, "pre_tokenizer", json_loads(rows[i].pre, 0, NULL)), 0);
        char *json = json_dumps(root, 0);
        assert_int_equal(text_tokenizer_parse(json, strlen(json), "t.json", &t, &e), 0);
        free(json);
        assert_ids(t, rows[i].text, rows[i].ids);
        sonde_tokenizer_close(t);
    }
    json_decref(root);
}

static void test_added__longest_first_and_raw_before_normalized(void **state) {
    (void)state;
    sonde_tokenizer *t;
    struct sonde_error e;
    struct parts p = {.added = "{\"id\": 300, \"content\": \"<a\", \"normalized\": true},"
                               "{\"id\": 301, \"content\": \"<ab>\", \"normalized\": true},"
                               "{\"id\": 302, \"content\": \"b>\", \"normalized\": false},"
                               "{\"id\": 97, \"content\": \"a\", \"normalized\": true}"};
    assert_int_equal(parse_parts(p, &t, &e), 0);
    assert_ids(t, "<ab>", "300 302"); /* b> is taken first, though <ab> begins earlier */
    assert_ids(t, "<ab<a", "300 98 300");
    assert_int_equal(sonde_tokenizer_size(t), 303);
    assert_int_equal(sonde_tokenizer_added(t, "<ab>"), 301);
    char *text;
    int32_t gap[] = {280};
    assert_int_equal(sonde_tokenizer_decode(t, gap, 1, &text, NULL, &e), SONDE_ERROR_ARGUMENT);
    sonde_tokenizer_close(t);
}

static void test_open__names_what_is_wrong(void **state) {
    (void)state;
#define SPLIT(regex)                                                                                                   \
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": "     \
    "{\"Regex\": \"" regex "\"}}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}"
    static const struct {
        struct parts parts;
        int code;
        const char *says;
    } rows[] = {
        {{.vocab = ", \"x1\": 97"}, SONDE_ERROR_FORMAT, "id 97 of \"x1\" belongs to another token"},
        {{.vocab = ", \"x1\": 16777216"}, SONDE_ERROR_FORMAT, "\"x1\": an id from 0 to 16777215"},
        {{.vocab = ", \"x1\": -1"}, SONDE_ERROR_FORMAT, "an id from 0"},
        {{.vocab = ", \"x1\": 1.5"}, SONDE_ERROR_FORMAT, "an id from 0"},
        {{.vocab = ", \"a\": 300"}, SONDE_ERROR_FORMAT, "not valid JSON"},
        {{.merges = "\"a b\""}, SONDE_ERROR_FORMAT, "merges[0]: \"a\" + \"b\" names a token not in the vocabulary"},
        {{.merges = "\"a  b\""}, SONDE_ERROR_FORMAT, "merges[0]: two tokens are expected"},
        {{.merges = "\"ab\""}, SONDE_ERROR_FORMAT, "two tokens"},
        {{.merges = "[\"a\"]"}, SONDE_ERROR_FORMAT, "two tokens"},
        {{.merges = "7"}, SONDE_ERROR_FORMAT, "two tokens"},
        {{.model = "\"dropout\": 0.1,"}, SONDE_ERROR_UNSUPPORTED, "model.dropout"},
        {{.model = "\"end_of_word_suffix\": \"</w>\","}, SONDE_ERROR_UNSUPPORTED, "end_of_word_suffix"},
        {{.model = "\"ignore_merges\": 1,"}, SONDE_ERROR_FORMAT, "model.ignore_merges: true or false"},
        {{.added = "{\"id\": 256}"}, SONDE_ERROR_FORMAT, "added_tokens[0].content: a string"},
        {{.added = "{\"id\": 256, \"content\": \"\"}"}, SONDE_ERROR_FORMAT, "added_tokens[0].content"},
        {{.added = "{\"id\": 98, \"content\": \"x1\"}"}, SONDE_ERROR_FORMAT, "id 98 or \"x1\" is already taken"},
        {{.added = "{\"id\": 300, \"content\": \"a\"}"}, SONDE_ERROR_FORMAT, "already taken"},
        {{.added = "{\"id\": 300, \"content\": \"x1\"}, {\"id\": 301, \"content\": \"x1\"}"},
         SONDE_ERROR_FORMAT,
         "same content"},
        {{.added = "{\"id\": 300, \"content\": \"x1\", \"lstrip\": true}"},
         SONDE_ERROR_UNSUPPORTED,
         "added_tokens[0].lstrip"},
        {{.rest = "\"normalizer\": {\"type\": \"NFC\"},"}, SONDE_ERROR_UNSUPPORTED, "normalizer"},
        {{.pre = "null"}, SONDE_ERROR_UNSUPPORTED, "pre_tokenizer"},
        {{.pre = "{\"type\": \"Whitespace\"}"}, SONDE_ERROR_UNSUPPORTED, "pre_tokenizer"},
        {{.pre = SPLIT("a(")}, SONDE_ERROR_UNSUPPORTED, "cannot be compiled"},
        {{.pre = SPLIT("\\\\w+")}, SONDE_ERROR_UNSUPPORTED, "this escape at byte 0"},
        {{.pre = SPLIT("[a[b]]")}, SONDE_ERROR_UNSUPPORTED, "[ inside []"},
        {{.pre = SPLIT("[a&&b]")}, SONDE_ERROR_UNSUPPORTED, "&&"},
        {{.pre = SPLIT("[\\\\S]")}, SONDE_ERROR_UNSUPPORTED, "\\S inside []"},
        {{.pre = SPLIT("a{2}+")}, SONDE_ERROR_UNSUPPORTED, "this repetition"},
        {{.pre = SPLIT("a{,2}")}, SONDE_ERROR_UNSUPPORTED, "this repetition"},
        {{.pre = SPLIT("(?m)a")}, SONDE_ERROR_UNSUPPORTED, "this kind of group"},
        {{.pre = SPLIT("(*UCP)a")}, SONDE_ERROR_UNSUPPORTED, "(*"},
        {{.pre = SPLIT("\\\\p{Alphabetic}")}, SONDE_ERROR_UNSUPPORTED, "cannot be compiled"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        sonde_tokenizer *t = NULL;
        struct sonde_error e = {0};
        int rc = parse_parts(rows[i].parts, &t, &e);
        if (rc != rows[i].code || !strstr(e.message, rows[i].says))
            fail_msg("row %zu: %d %s", i, rc, e.message);
        assert_true(strstr(e.message, "t.json") == e.message);
        assert_null(t);
    }
}

static void test_open__wants_every_byte(void **state) {
    (void)state;
    static const char json[] = "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}";
    sonde_tokenizer *t;
    struct sonde_error e;
    assert_int_equal(text_tokenizer_parse(json, sizeof(json) - 1, "t.json", &t, &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, "t.json: model.vocab has no token for byte 0x00");
    static const char empty[] = "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"\": 0}, \"merges\": []}}";
    assert_int_equal(text_tokenizer_parse(empty, sizeof(empty) - 1, "t.json", &t, &e), SONDE_ERROR_FORMAT);
    assert_string_equal(e.message, "t.json: model.vocab: token 0 is empty");
    assert_int_equal(text_tokenizer_parse("[]", 2, "t.json", &t, &e), SONDE_ERROR_FORMAT);
    assert_int_equal(sonde_tokenizer_open("nowhere/tokenizer.json", &t, &e), SONDE_ERROR_IO);
    sonde_tokenizer_close(NULL);
}

/* (a+)+[bd] backtracks for ever on a run of a's; the limit turns that into an error. */
static void test_encode__a_runaway_pattern_is_an_error(void **state) {
    (void)state;
    sonde_tokenizer *t;
    struct sonde_error e;
    struct parts p = {.pre = SPLIT("(a+)+[bd]")};
    assert_int_equal(parse_parts(p, &t, &e), 0);
    char text[61];
    memset(text, 'a', 60);
    text[60] = 'c';
    int32_t *ids;
    size_t count;
    assert_int_equal(sonde_tokenizer_encode(t, text, 61, SONDE_MARKUP_TOKENS, &ids, &count, &e),
                     SONDE_ERROR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "too many steps"));
    sonde_tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer__nano_gives_the_reference_ids),
        cmocka_unit_test(test_tokenizer__the_released_file_gives_the_reference_ids),
        cmocka_unit_test(test_tokenizer__knows_its_added_tokens),
        cmocka_unit_test(test_encode__markup_as_text_is_text),
        cmocka_unit_test(test_encode__typed_ranges_hold_no_markup),
        cmocka_unit_test(test_encode__keeps_bytes_that_are_not_utf8),
        cmocka_unit_test(test_encode__text_beside_broken_bytes_is_cut_as_alone),
        cmocka_unit_test(test_encode__a_megabyte_of_one_thing_takes_no_time),
        cmocka_unit_test(test_encode__threads_share_a_tokenizer),
        cmocka_unit_test(test_decode__refuses_ids_without_a_token),
        cmocka_unit_test(test_decoder__holds_back_a_character_in_parts),
        cmocka_unit_test(test_merges__the_earlier_rule_wins_then_the_left),
        cmocka_unit_test(test_split__isolates_removes_and_inverts),
        cmocka_unit_test(test_byte_level__uses_its_own_pattern_and_prefix),
        cmocka_unit_test(test_byte_level__puts_a_space_before_what_it_cuts),
        cmocka_unit_test(test_added__longest_first_and_raw_before_normalized),
        cmocka_unit_test(test_open__names_what_is_wrong),
        cmocka_unit_test(test_open__wants_every_byte),
        cmocka_unit_test(test_encode__a_runaway_pattern_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
