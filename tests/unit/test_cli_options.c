/* test_cli_options.c - flags: what is taken, what is refused. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "cli/cli.h"

struct values {
    bool loud;
    const char *name;
    struct strings stop;
    uint64_t count;
    float heat;
    int level;
};

/* clang-format off */
static const struct flag flags[] = {
    {.letter = 'l', .name = "loud", .kind = FLAG_SWITCH, .at = offsetof(struct values, loud), .help = "louder"},
    {.letter = 'p', .name = "name", .kind = FLAG_STRING, .at = offsetof(struct values, name), .value = "TEXT",
     .help = "a name"},
    {.name = "stop", .kind = FLAG_LIST, .at = offsetof(struct values, stop), .value = "TEXT", .help = "a stop"},
    {.letter = 'n', .name = "count", .kind = FLAG_COUNT, .at = offsetof(struct values, count), .value = "N", .least = 1,
     .most = 10, .help = "a count"},
    {.name = "heat", .kind = FLAG_REAL, .at = offsetof(struct values, heat), .value = "T", .low = -1, .high = 2,
     .help = "a number"},
    {.name = "level", .kind = FLAG_CHOICE, .at = offsetof(struct values, level), .value = "low|mid|high",
     .help = "a choice"},
};
/* clang-format on */

static const struct command command = {
    .name = "try",
    .operands = "IN [OUT]",
    .operands_least = 1,
    .operands_most = 2,
    .summary = "tries",
    .about = "Tries.",
    .flags = flags,
    .flag_count = COUNT_OF(flags),
};

static const char *operands[2];

/* Parses words that end in NULL, keeping what is said on standard error in `said`. */
static char said[1024];

static int parse(struct values *v, const char *const *words) {
    char *argv[16] = {(char *)(uintptr_t) "try"};
    int argc = 1;
    char path[] = "/tmp/sonde-test-XXXXXX";
    while (*words)
        argv[argc++] = (char *)(uintptr_t)*words++;
    int file = mkstemp(path), kept = dup(STDERR_FILENO);
    assert_true(file >= 0 && kept >= 0);
    fflush(stderr);
    dup2(file, STDERR_FILENO);
    int status = flags_parse(&command, argc, argv, v, operands);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    ssize_t n = pread(file, said, sizeof(said) - 1, 0);
    said[n > 0 ? n : 0] = 0;
    close(kept);
    close(file);
    unlink(path);
    return status;
}

#define PARSE(v, ...) parse(v, (const char *const[]){__VA_ARGS__, NULL})

static void test_flags__are_taken_in_every_form(void **state) {
    (void)state;
    struct values v = {0};
    assert_int_equal(PARSE(&v, "-l", "in", "--name=x=y", "-n7", "--heat", "-0.5", "--level", "high", "out"), -1);
    assert_true(v.loud);
    assert_string_equal(v.name, "x=y");
    assert_int_equal(v.count, 7);
    assert_true(v.heat == -0.5f);
    assert_int_equal(v.level, 2);
    assert_string_equal(operands[0], "in");
    assert_string_equal(operands[1], "out");
}

static void test_flags__values_may_look_like_flags(void **state) {
    (void)state;
    struct values v = {0};
    assert_int_equal(PARSE(&v, "-p", "--heat", "--", "-l"), -1);
    assert_string_equal(v.name, "--heat");
    assert_string_equal(operands[0], "-l");
    assert_null(operands[1]);
    assert_false(v.loud);
}

static void test_flags__switches_run_together(void **state) {
    (void)state;
    struct values v = {0};
    assert_int_equal(PARSE(&v, "-ln", "3", "-"), -1);
    assert_true(v.loud);
    assert_int_equal(v.count, 3);
    assert_string_equal(operands[0], "-");
}

static void test_flags__lists_grow_to_their_limit(void **state) {
    (void)state;
    struct values v = {0};
    assert_int_equal(PARSE(&v, "in", "--stop", "a", "--stop", "b"), -1);
    assert_int_equal(v.stop.count, 2);
    assert_string_equal(v.stop.at[1], "b");
    v.stop.count = LIST_MOST;
    assert_int_equal(PARSE(&v, "in", "--stop", "c"), STATUS_USAGE);
}

static void test_flags__mistakes_are_named(void **state) {
    (void)state;
    static const struct {
        const char *words[4], *saying;
    } mistakes[] = {
        {{"in", "--hewt", "1"}, "unknown option --hewt (did you mean --heat?)"},
        {{"in", "--zzz"}, "unknown option --zzz;"},
        {{"in", "-z"}, "unknown option -z"},
        {{"in", "--count"}, "--count needs a value: N"},
        {{"in", "--count", "0"}, "from 1 to 10, not '0'"},
        {{"in", "--count", "11"}, "not '11'"},
        {{"in", "--count", "-1"}, "not '-1'"},
        {{"in", "--count", "5x"}, "not '5x'"},
        {{"in", "--count", "99999999999999999999"}, "not '9999"},
        {{"in", "--heat", "nan"}, "from -1 to 2, not 'nan'"},
        {{"in", "--heat", "inf"}, "not 'inf'"},
        {{"in", "--heat", "3"}, "not '3'"},
        {{"in", "--heat", ""}, "not ''"},
        {{"in", "--level", "lo"}, "one of low|mid|high, not 'lo'"},
        {{"in", "--level", ""}, "not ''"},
        {{"in", "--loud=1"}, "--loud takes no value"},
        {{"in", "--stop", ""}, "--stop"},
        {{"a", "b", "c"}, "'c' is one argument too many"},
        {{"-l"}, "IN is missing"},
    };
    for (size_t i = 0; i < COUNT_OF(mistakes); i++) {
        struct values v = {0};
        const char *words[5] = {0};
        memcpy(words, mistakes[i].words, sizeof(mistakes[i].words));
        assert_int_equal(parse(&v, words), STATUS_USAGE);
        assert_non_null(strstr(said, mistakes[i].saying));
        assert_memory_equal(said, "sonde: try: ", 12);
        assert_non_null(strstr(said, "; try: sonde try --help\n"));
        assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    }
}

static const char *const words[] = {"run", "render", "inspect"};

static const char *word_at(const void *context, size_t i) {
    (void)context;
    return words[i];
}

static void test_nearest__finds_slips_and_not_more(void **state) {
    (void)state;
    assert_string_equal(nearest_name("rnu", 3, word_at, NULL), "run");
    assert_string_equal(nearest_name("rendre", 3, word_at, NULL), "render");
    assert_string_equal(nearest_name("inspetc", 3, word_at, NULL), "inspect");
    assert_null(nearest_name("serve", 3, word_at, NULL));
    assert_null(nearest_name("a word that is far too long to be a name", 3, word_at, NULL));
    assert_null(nearest_name("", 3, word_at, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags__are_taken_in_every_form), cmocka_unit_test(test_flags__values_may_look_like_flags),
        cmocka_unit_test(test_flags__switches_run_together),   cmocka_unit_test(test_flags__lists_grow_to_their_limit),
        cmocka_unit_test(test_flags__mistakes_are_named),      cmocka_unit_test(test_nearest__finds_slips_and_not_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
