/*
 * complete.c - continues a text: the whole of what a program needs to use the library.
 *
 *     cc complete.c $(pkg-config --cflags --libs sonde) -o complete
 *     ./complete models/nano "Once upon a time" 60
 *
 * sonde_generate() would do this loop in one call; here it is spelled out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sonde.h>

/* Draws tokens and prints their text until the model ends or `most` are drawn. */
static int complete(sonde_session *session, const struct sonde_model_info *info, sonde_sampler *sampler,
                    sonde_decoder *decoder, long most, struct sonde_error *error) {
    const char *text;
    size_t bytes;
    int rc = SONDE_OK;
    for (long i = 0; !rc && i < most; i++) {
        int32_t id = sonde_sampler_draw(sampler, sonde_session_logits(session));
        if (id == info->eos)
            break;
        rc = sonde_decoder_push(decoder, id, &text, &bytes, error);
        if (!rc) {
            fwrite(text, 1, bytes, stdout);
            fflush(stdout);
            rc = sonde_session_feed(session, &id, 1, error);
        }
    }
    if (!rc)
        rc = sonde_decoder_finish(decoder, &text, &bytes, error);
    if (!rc) {
        fwrite(text, 1, bytes, stdout);
        putchar('\n');
    }
    return rc;
}

/* Feeds the token that begins a text, then the prompt. */
static int read_prompt(sonde_session *session, const sonde_tokenizer *tokenizer, const struct sonde_model_info *info,
                       const char *prompt, struct sonde_error *error) {
    int32_t *ids;
    size_t count;
    int rc = sonde_tokenizer_encode(tokenizer, prompt, strlen(prompt), SONDE_MARKUP_TEXT, &ids, &count, error);
    if (rc)
        return rc;
    rc = sonde_session_feed(session, &info->bos, 1, error);
    if (!rc && count)
        rc = sonde_session_feed(session, ids, count, error);
    sonde_free(ids);
    return rc;
}

int main(int argc, char **argv) {
    struct sonde_error error;
    struct sonde_model_info info = {0};
    struct sonde_sampling sampling;
    sonde_model *model = NULL;
    sonde_session *session = NULL;
    sonde_sampler *sampler = NULL;
    sonde_decoder *decoder = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: complete MODEL TEXT [TOKENS]\n");
        return 2;
    }
    sonde_sampling_default(&sampling);
    sampling.temperature = 0.7f;

    int rc = sonde_model_open(argv[1], NULL, &model, &error);
    if (!rc && !sonde_model_tokenizer(model)) {
        fprintf(stderr, "complete: %s has no tokenizer.json\n", argv[1]);
        sonde_model_close(model);
        return 1;
    }
    if (!rc) {
        sonde_model_info(model, &info);
        rc = sonde_session_open(model, NULL, &session, &error);
    }
    if (!rc)
        rc = sonde_sampler_open(&sampling, info.vocab, &sampler, &error);
    if (!rc)
        rc = sonde_decoder_open(sonde_model_tokenizer(model), &decoder, &error);
    if (!rc)
        rc = read_prompt(session, sonde_model_tokenizer(model), &info, argv[2], &error);
    if (!rc)
        rc = complete(session, &info, sampler, decoder, argc > 3 ? strtol(argv[3], NULL, 10) : 100, &error);
    if (rc)
        fprintf(stderr, "complete: %s\n", error.message);
    sonde_decoder_close(decoder);
    sonde_sampler_close(sampler);
    sonde_session_close(session);
    sonde_model_close(model);
    return rc ? 1 : 0;
}
