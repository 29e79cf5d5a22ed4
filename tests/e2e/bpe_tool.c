/*
 * bpe_tool.c - a tokenizer is trained.
 *
 *     bpe_tool SIZE TOKENIZER FILE     makes TOKENIZER, of a vocabulary of SIZE, from the documents of FILE (JSONL)
 */
#include <stdio.h>
#include <stdlib.h>

#include "train/bpe_internal.h"

int main(int argc, char **argv) {
    struct sonde_error e;
    if (argc != 4) {
        fprintf(stderr, "usage: bpe_tool SIZE TOKENIZER FILE\n");
        return 2;
    }
    struct data_source source = {.kind = DATA_JSONL, .path = argv[3]};
    int rc = train_tokenizer(&source, 1, (uint32_t)strtoul(argv[1], NULL, 10), argv[2], &e);
    if (rc)
        fprintf(stderr, "bpe_tool: %s\n", e.message);
    return rc != 0;
}
