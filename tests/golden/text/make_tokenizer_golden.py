#!/usr/bin/env python3
"""Writes what the reference library makes of texts: one {"text", "ids"} a line, then {"decode": ids, "text"}.

    make_tokenizer_golden.py TOKENIZER.json < TEXTS.jsonl > GOLDEN.jsonl

Each line of TEXTS.jsonl is an object with "text"; a golden file serves too, so that one can be made again from
itself. The texts below are added to them. Needs the Python package `tokenizers`.
"""
import json
import random
import sys

from tokenizers import Tokenizer

OWN = [
    "", " ", "\n", "a", "👍🏽", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "e\u0301 é", "a\u180eb \u180e c", "\u0000\u0001\u001f\u007f",
    "\u0085x\u0085\u0085 y", "x\u00a0\u00a0y", "\u2028\u2029", "line\r\n\r\nline\r", "tab\t\ttab", "    indent\n        more",
    "a" * 300, " " * 257, "\n" * 100, "ab" * 150, "1234567890" * 13, "漢字" * 60, "ひらがなカタカナ漢字mixed", "０１２３", "Ⅷ½²",
    "don't DON'T I'll we've", "<think>hidden</think>shown", "<think", "think>", "<<think>>", "</think></think>",
    "<｜User｜>hi<｜Assistant｜></think>hello<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜><｜User｜>", "<｜fim▁hole｜ >",
    "｜DSML｜", "<｜DSML｜invoke name=\"f\">", " <think> ", "x<think>y", "<｜▁pad▁｜>", "<｜image｜>", "Ġnot a space", "Ċ",
    "\ufeffbom", "\ufffd", "\U0010ffff", "\ud7ff\ue000", "a.b,c;d:e!f?g", "#include <stdio.h>\nint main(void) { return 0; }\n",
    "def f(x):\n    return x ** 2  # square\n", "http://example.org/a?b=c&d=%20", "3.14159e-10", "x" * 70 + " " + "y" * 70,
    "Once upon a time, there was a little girl named Lily.", "Ωμέγα шифр עברית العربية हिन्दी ไทย",
]


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    texts = list(dict.fromkeys([row["text"] for row in map(json.loads, sys.stdin) if "ids" in row] + OWN))
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        print(json.dumps({"text": text, "ids": ids}, ensure_ascii=False))
    chance = random.Random(1)
    used = sorted({i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids})
    lone = [i for i in range(tokenizer.get_vocab_size()) if "\ufffd" in tokenizer.decode([i], skip_special_tokens=False)]
    for k in range(200):
        ids = [chance.choice(lone if chance.random() < 0.7 else used) for _ in range(chance.randrange(1, 12))]
        print(json.dumps({"decode": ids, "text": tokenizer.decode(ids, skip_special_tokens=False)}, ensure_ascii=False))


main()
