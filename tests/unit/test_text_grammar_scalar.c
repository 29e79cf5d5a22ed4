/* test_text_grammar_scalar.c - patterns of strings against ECMA-262, bounds of numbers against arithmetic. */
#include "grammar_takes.h"

static void test_regex__is_that_of_the_specification(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *good[4], *bad[4];
    } cases[] = {
        {"b", {"abc", "b"}, {"", "ac"}},
        {"^b", {"bc"}, {"ab", ""}},
        {"b$", {"ab"}, {"ba", ""}},
        {"^$", {""}, {"a"}},
        {"", {"", "x"}, {NULL}},
        {"^a|b$", {"ax", "xb", "ab"}, {"xa", "bx", ""}},
        {"^(a|bc)*$", {"", "abca", "bcbc"}, {"b", "abcb"}},
        {"^a{2,3}$", {"aa", "aaa"}, {"a", "aaaa"}},
        {"^a{2}$", {"aa"}, {"a", "aaa"}},
        {"^a{2,}$", {"aa", "aaaaaa"}, {"a"}},
        {"^a{,2}$", {"a{,2}"}, {"a", "aa"}},
        {"^a+?b*?c??$", {"a", "aabbc"}, {"", "bc"}},
        {"^[^a-c\\d]$", {"d", "\xe4\xbd\xa0"}, {"a", "5", "dd"}},
        {"^[\\w-]+$", {"a_B-9"}, {"\xc3\xa9", "a b"}},
        {"^\\S+\\s\\S+$", {"a b", "a\xe3\x80\x80z"}, {"ab", "a  b"}},
        {"^.$", {"a", "\xf0\x9f\x98\x80", "\xc2\xa0"}, {"\n", "\xe2\x80\xa8", "ab"}},
        {"^[^]$", {"\n", "x"}, {"", "xx"}},
        {"^\\u4f60\\x41\\u{1F600}\\cA$",
         {"\xe4\xbd\xa0"
          "A\xf0\x9f\x98\x80\x01"},
         {"A"}},
        {"^\\ud83d\\ude00$", {"\xf0\x9f\x98\x80"}, {"\xf0\x9f\x98\x81"}},
        {"^[\xce\xb1-\xcf\x89]+$", {"\xce\xb1\xce\xb2"}, {"a"}},
        {"^(?:a(?<n>b))+$", {"abab"}, {"aba"}},
        {"^\\/\\.\\*\\[\\]\\{\\}\\-$", {"/.*[]{}-"}, {"/x*[]{}-"}},
        {"^[a\\-z\\]]+$", {"a-z]"}, {"b"}},
        {"$^", {""}, {"a"}},
        {"a^b", {NULL}, {"ab", "a^b"}},
        {"^[\\u0800-\\uffff]$", {"\xe0\xa0\x80", "\xee\x80\x80", "\xef\xbf\xbf"}, {"\xdf\xbf", "\xf0\x90\x80\x80"}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct budget g = {.work = 10000000, .what = "test"};
        struct sonde_error e;
        struct dfa *d;
        g.e = &e;
        if (dfa_regex(cases[i].pattern, strlen(cases[i].pattern), "pattern", &g, &d))
            fail_msg("%s: %s", cases[i].pattern, e.message);
        for (size_t k = 0; k < 8; k++) {
            const char *text = k < 4 ? cases[i].good[k] : cases[i].bad[k - 4];
            uint32_t s = text ? dfa_run(d, text, strlen(text)) : DFA_DEAD;
            if (text && (s != DFA_DEAD && d->label[s]) != (k < 4))
                fail_msg("/%s/ and '%s'", cases[i].pattern, text);
        }
        dfa_free(d);
    }
}

/* Bounds and divisors in hundredths, against arithmetic. */
static void test_numbers__are_exact(void **state) {
    (void)state;
    static const struct {
        const char *schema;
        double low, high; /* both included */
        int step;         /* hundredths */
    } cases[] = {
        {"{\"type\": \"integer\", \"minimum\": -17, \"maximum\": 123}", -17, 123, 100},
        {"{\"type\": \"integer\", \"exclusiveMinimum\": 0, \"exclusiveMaximum\": 100}", 1, 99, 100},
        {"{\"type\": \"integer\", \"minimum\": 9.5, \"maximum\": 105.5, \"multipleOf\": 7}", 14, 105, 700},
        {"{\"type\": \"number\", \"minimum\": -1.25, \"maximum\": 10.05}", -1.25, 10.05, 1},
        {"{\"type\": \"number\", \"exclusiveMinimum\": -1.25, \"exclusiveMaximum\": 1e1}", -1.24, 9.99, 1},
        {"{\"type\": \"number\", \"multipleOf\": 0.25, \"maximum\": 3}", -12, 3, 25},
        {"{\"type\": \"number\", \"multipleOf\": 2.5, \"minimum\": -5}", -5, 12, 250},
        {"{\"type\": \"integer\", \"multipleOf\": 1.5}", -12, 12, 300},
        {"{\"type\": \"integer\", \"maximum\": -3}", -12, -3, 100},
        {"{\"allOf\": [{\"minimum\": 0.5}, {\"minimum\": 2, \"maximum\": 4}], \"type\": \"number\"}", 2, 4, 1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text_grammar *g = grammar_of(cases[i].schema);
        bool whole = strstr(cases[i].schema, "integer") != NULL;
        for (int hundredths = -1200; hundredths <= 1200; hundredths += whole ? 100 : 1) {
            char text[32];
            struct jnode n = {.text = text};
            struct decimal d;
            struct buf b = {0};
            n.length = (size_t)snprintf(text, sizeof(text), "%.2f", hundredths / 100.0);
            assert_true(decimal_read(text, n.length, &d));
            decimal_write(&d, &b);
            bool fits = hundredths >= cases[i].low * 100 - 1e-6 && hundredths <= cases[i].high * 100 + 1e-6 &&
                        hundredths % cases[i].step == 0;
            check_takes(g, cases[i].schema, b.data, fits);
            buf_release(&b);
        }
        text_grammar_free(g);
    }
    struct text_grammar *g =
        grammar_of("{\"type\": \"number\", \"minimum\": 0.1, \"maximum\": 12345678901234567890.5}");
    check_takes(g, "wide", "12345678901234567890.50", true);
    check_takes(g, "wide", "12345678901234567890.51", false);
    check_takes(g, "wide", "0.1000", true);
    check_takes(g, "wide", "0.0999999999999999999999999999999999999", false);
    check_takes(g, "wide", "-0.5", false);
    text_grammar_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_regex__is_that_of_the_specification),
        cmocka_unit_test(test_numbers__are_exact),
    };
    return cmocka_run_group_tests(tests, open_nano, close_nano);
}
