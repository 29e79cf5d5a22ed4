#!/usr/bin/env python3
"""Holds our trainer of tokenizers to that of the package `tokenizers`, and our ids to its ids.

    compare.py merges TOKENIZER.json TEXTS.jsonl     its BpeTrainer, on the same texts, makes the same merges
    compare.py ids TOKENIZER.json IDS.jsonl          IDS, of `sonde tokenize`: it gives the same ids, and text
    compare.py texts SEED COUNT                      writes texts to train on, {"text"} a line: words of few letters in
                                                     several scripts, so that many pairs are equally frequent
"""
import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

ALPHABETS = ["abcde", "xyzéß", "xy", "абвг", "αβγ", "漢字的一", "ひかカ", "0123", "!?-.", " \n\t", "😀👍🏽", "<｜>"]


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(seed, count):
    chance = random.Random(seed)
    for _ in range(count):
        words = []
        for _ in range(chance.randrange(1, 60)):
            alphabet = chance.choice(ALPHABETS)
            words.append("".join(chance.choice(alphabet) for _ in range(chance.randrange(1, 7))))
        print(json.dumps({"text": " ".join(words)}, ensure_ascii=False))


def reference(ours, lines):
    """The merges of the package's trainer, with the patterns and the number of merges of `ours`."""
    steps = ours["pre_tokenizer"]["pretokenizers"]
    splits = [pre_tokenizers.Split(Regex(s["pattern"]["Regex"]), "isolated") for s in steps[:-1]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits + [pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=len(ours["model"]["vocab"]), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=[AddedToken(t["content"]) for t in ours["added_tokens"][:3]])
    tokenizer.train_from_iterator((line["text"].strip("\r\n") for line in lines), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [m if isinstance(m, str) else " ".join(m) for m in merges]


def compare_merges(path, corpus):
    ours = json.load(open(path, encoding="utf-8"))
    expected, merges = reference(ours, rows(corpus)), ours["model"]["merges"]
    for i, (a, b) in enumerate(zip(merges, expected)):
        if a != b:
            sys.exit(f"merge {i} of {len(merges)} is {a!r}, and theirs {b!r}")
    if len(merges) != len(expected):
        sys.exit(f"{len(merges)} merges, and {len(expected)} of theirs")
    print(f"{len(merges)} merges")


def compare_ids(path, corpus):
    tokenizer, lines = Tokenizer.from_file(path), rows(corpus)
    for line in lines:
        ids = tokenizer.encode(line["text"], add_special_tokens=False).ids
        if ids != line["ids"]:
            sys.exit(f"{line['text']!r} is {line['ids']}, and theirs {ids}")
    print(f"{len(lines)} texts")


def main():
    if sys.argv[1] == "texts":
        texts(int(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "merges":
        compare_merges(sys.argv[2], sys.argv[3])
    else:
        compare_ids(sys.argv[2], sys.argv[3])


main()
