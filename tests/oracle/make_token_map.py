#!/usr/bin/env python3
"""Write which tokens Engram takes for the same, as a C header.

    make_token_map.py TOKENIZER_JSON... > tests/train/token_map_table.h

First of a vocabulary of all 256 bytes and some odd texts behind them: the compact id of each text. Then of whole
tokenizers: how many ids there are, and a hash of all.
"""
import json
import re
import sys
import unicodedata

TEXTS = [
    "Hello", "hello", " hello", "HELLO\n", "h\u00e9llo", "he\u0301llo", "H\u00c8LLO ",
    "\uff28\uff45\uff4c\uff4c\uff4f", "  ", "\t\n", "a b", "A \t B", "a  b", "\u3000a\u00a0b", "\ufb01n", "FIN",
    "\u2163", "iv", "\u00b2", "2", "\u00df", "\u1e9e", "\u0130", "\u0131", "i\u0307", "\u03a3\u0391\u03a3",
    "\u03c3\u03b1\u03c3", "\u03c3\u03b1\u03c2", "\u00e6", "\u00c6", "\u00f8", "\u00d8", "\u0111", "\u0142",
    "\u0301", "\u0301\u0300", "\u200d", "\u0e01\u0e34", "\u0e01", "\u0915\u093e", "\u0915", "\uac00",
    "\u1100\u1161", "\u4e2d", "\uf967", "\u4e0d", "\ufffd", "\u2028x", "x\u1680", "\x1cx", "\x0bX\x85", "\u00e5",
    "\u212b", "\U0001d400", "\U00010400", "\U00010428", "\u01c4", "\u01c6", "\u01c5", "\u00ab\u00a0", "\u00bd",
    "1\u20442", "\ufdfa", "\u1fb3", "\u0391\u0399", "\u1fbc", "\u0644\u0627", "\ufefb"]


def byte_alphabet():
    """The printable stand-ins of byte-level BPE: {character: byte}."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(others)}}


def fold(text):
    """Case, accents, compatibility forms and runs of blanks do not count; a lone blank survives."""
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    text = "".join(c for c in text if not unicodedata.category(c).startswith("M"))
    text = re.sub("[ \t\r\n]+", " ", "".join(c.lower() for c in text))
    return text if text == " " else text.strip()


def compressed_vocabulary(token):
    """{id: token as a tokenizer.json spells it} -> [V]: tokens that fold alike share an id, by first appearance."""
    alphabet, ids, out = byte_alphabet(), {}, []
    for i in range(max(token) + 1):
        raw = token.get(i, "")
        text = (bytes(alphabet[c] for c in raw).decode("utf-8", "replace")
                if all(c in alphabet for c in raw) else raw)
        # half a character has nothing to fold: it keeps its raw spelling
        key = raw if "\ufffd" in text else fold(text) or text
        out.append(ids.setdefault(key, len(ids)))
    return out


def tokens_of(path):
    spec = json.load(open(path, encoding="utf-8"))
    token = {i: t for t, i in spec["model"]["vocab"].items()}
    token.update({a["id"]: a["content"] for a in spec["added_tokens"]})
    return token


def hash_of(ids):
    h = 0
    for i in ids:
        h = (h * 1000003 + i + 1) % 2 ** 64
    return h


def odd_tokens():
    letter = {b: c for c, b in byte_alphabet().items()}
    texts = [bytes([b]) for b in range(256)] + [t.encode() for t in TEXTS if len(t.encode()) > 1]
    return {i: "".join(letter[b] for b in t) for i, t in enumerate(texts)}, texts


def main():
    tokens, texts = odd_tokens()
    ids = compressed_vocabulary(tokens)
    print("/* token_map_table.h - compact ids of tokens; made by tests/oracle/make_token_map.py. */")
    print("static const struct {\n    const char *text; /* of a token behind the 256 bytes */\n    int64_t id;\n"
          "} token_map_table[] = {")
    for text, i in list(zip(texts, ids))[256:]:
        print(f'    {{"{"".join(f"{chr(92)}x{b:02x}" for b in text)}", {i}}},')
    print("};\n")
    print(f"static const uint64_t token_map_bytes = 0x{hash_of(ids[:256]):016x};\n")
    print("static const struct {\n    int64_t tokens, ids;\n    uint64_t hash;\n} token_map_files[] = {")
    for path in sys.argv[1:]:
        ids = compressed_vocabulary(tokens_of(path))
        print(f"    {{{len(ids)}, {max(ids) + 1}, 0x{hash_of(ids):016x}}}, /* {path.removeprefix('../')} */")
    print("};")


if __name__ == "__main__":
    main()
