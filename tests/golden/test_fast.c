/*
 * test_fast.c - what `fast` costs a trained model: the bundled one reads stories it was not trained on.
 *
 * Over 2,000 tokens: the mean negative log likelihood is within 0.5 % of that at official, and the likeliest token is
 * the same at 97 % of the positions. Each story is read by itself, from the token that begins a text to the one that
 * ends it. tests/golden/text/held-out.txt was written for this test; ../shared/data/stories-valid.txt, which the tree
 * may not contain, is read too where it is. Stories end in a line <|endoftext|>.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/base.h"
#include "kernel/kernel.h"

#define LOSS_MOST   0.005 /* relative */
#define AGREE_LEAST 0.97
#define LOSS_SANE   4.0 /* nats a token; guessing blindly is 8.3, the two texts are at 3.1 and 2.4 */

enum { TOKENS = 2000, STORY_MOST = 512 /* the bundled model's indexers are not trained for more */ };

static const char *const ours = "tests/golden/text/held-out.txt", *const theirs = "../shared/data/stories-valid.txt";
static const char separator[] = "<|endoftext|>";

/* What a model makes of a text: for each token, the likeliest one in its place, and the loss of all together. */
struct reading {
    int32_t best[TOKENS];
    uint32_t count;
    double loss;
};

struct reader {
    const int32_t *ids; /* of a story, from the beginning token to the end token */
    size_t count;
    uint32_t vocab;
    struct reading *r;
};

/* Logits after the token at `position` are judged by the token that follows. */
static int judge(void *context, uint64_t position, const float *logits) {
    struct reader *reader = context;
    struct reading *r = reader->r;
    if (position + 1 >= reader->count || r->count == TOKENS)
        return 0;
    uint32_t best = 0;
    double total = 1; /* the best itself */
    for (uint32_t i = 1; i < reader->vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    for (uint32_t i = 0; i < reader->vocab; i++)
        total += i == best ? 0 : exp((double)logits[i] - logits[best]);
    r->loss += log(total) + logits[best] - logits[reader->ids[position + 1]];
    r->best[r->count++] = (int32_t)best;
    return 0;
}

/* `singly`: one token a step, as decoding does. */
static void read_story(sonde_model *model, sonde_session *session, const char *text, size_t bytes, bool singly,
                       struct reading *r) {
    struct sonde_model_info info;
    int32_t *encoded, ids[STORY_MOST + 2];
    size_t count;
    sonde_model_info(model, &info);
    CHECKED(
        sonde_tokenizer_encode(sonde_model_tokenizer(model), text, bytes, SONDE_MARKUP_TEXT, &encoded, &count, &error));
    count = count < STORY_MOST ? count : STORY_MOST;
    ids[0] = info.bos;
    memcpy(ids + 1, encoded, count * sizeof(*ids));
    ids[count + 1] = info.eos;
    sonde_free(encoded);
    struct reader reader = {ids, count + 2, info.vocab, r};
    struct sonde_observer observer = {.context = &reader, .logits = judge};
    sonde_session_reset(session);
    size_t step = singly ? 1 : reader.count;
    for (size_t i = 0; i < reader.count; i += step)
        CHECKED(sonde_session_observe(session, ids + i, step, &observer, &error));
}

static void read_text(const char *path, enum sonde_precision precision, enum kernel_level level, bool singly,
                      struct reading *r) {
    struct sonde_model_options options;
    sonde_model *model;
    sonde_session *session;
    struct buf text = {0};
    sonde_model_options_default(&options);
    options.precision = precision;
    options.level = kernel_level_name(level);
    CHECKED(sonde_model_open("models/nano", &options, &model, &error));
    CHECKED(sonde_session_open(model, &(struct sonde_session_options){STORY_MOST + 2, 0}, &session, &error));
    CHECKED(file_read(path, 1 << 24, &text, &error));
    *r = (struct reading){0};
    for (const char *story = text.data; story && r->count < TOKENS;) {
        const char *end = strstr(story, separator);
        size_t bytes = end ? (size_t)(end - story) : strlen(story);
        while (bytes && story[bytes - 1] == '\n')
            bytes--;
        read_story(model, session, story, bytes, singly, r);
        story = end ? end + strlen(separator) + (end[strlen(separator)] == '\n') : NULL;
    }
    buf_release(&text);
    sonde_session_close(session);
    sonde_model_close(model);
    assert_int_equal(r->count, TOKENS);
}

static void check_fast(const char *path, const struct reading *official, enum kernel_level level, bool singly) {
    static struct reading fast;
    read_text(path, SONDE_PRECISION_FAST, level, singly, &fast);
    double change = fast.loss / official->loss - 1, agree = 0;
    for (int i = 0; i < TOKENS; i++)
        agree += official->best[i] == fast.best[i];
    agree /= TOKENS;
    print_message("# fast, %s%s: loss %.5f (%+.3f %%), likeliest token equal at %.2f %%\n", kernel_level_name(level),
                  singly ? ", token by token" : "", fast.loss / TOKENS, 100 * change, 100 * agree);
    assert_true(fabs(change) <= LOSS_MOST);
    assert_true(agree >= AGREE_LEAST);
}

static void check_text(const char *path) {
    static struct reading official;
    read_text(path, SONDE_PRECISION_OFFICIAL, kernel_level_best(), false, &official);
    double loss = official.loss / TOKENS;
    bool best_only = getenv("SONDE_TEST_STRIDE") != NULL; /* instrumented builds are slow */
    print_message("# official: loss %.5f\n", loss);
    assert_true(loss < LOSS_SANE);
    for (int level = 0; level < KERNEL_LEVEL_COUNT; level++)
        if (kernel_level_runs((enum kernel_level)level) && (!best_only || level == (int)kernel_level_best()))
            check_fast(path, &official, (enum kernel_level)level, false);
    check_fast(path, &official, kernel_level_best(), true);
}

static void test_fast__reads_our_stories_as_official(void **state) {
    (void)state;
    check_text(ours);
}

static void test_fast__reads_other_stories_as_official(void **state) {
    (void)state;
    if (!file_exists(theirs))
        skip();
    check_text(theirs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast__reads_our_stories_as_official),
        cmocka_unit_test(test_fast__reads_other_stories_as_official),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
