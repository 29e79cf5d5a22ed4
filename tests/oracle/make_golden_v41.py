#!/usr/bin/env python3
"""Write small DeepSeek-V4.1 checkpoints and what a correct engine must compute from them.

    make_golden_v41.py tests/golden

For every case: tests/golden/<case>/ holds the checkpoint (config.json, tokenizer.json, *.safetensors) and
golden.safetensors with

  ids              I32 [S]        the input tokens
  logits.<p>       F32 [S, V]     logits after every token, p in f32 | kv | official
  positions        I32 [P]        the tokens whose residual is kept below
  layers.<n>.<p>   F32 [P, H, D]  the residual streams after layer n, p in f32 | official
  layers.<n>.experts I32 [S, k]   the routed experts, sorted ascending
  layers.<n>.chosen  I32 [S, k]   index source layers: the entries a token attends to, ascending, then -1
  layers.<n>.rows  I32 [S, C]     Engram layers: the rows looked up (meaningless inside an image)
  engram.token_map I32 [V]        token -> compressed token, as derived from tokenizer.json
  engram.sizes     I64 [L, O, K]  rows of each table: layer, order 2.., head
  engram.multipliers I64 [L, O+1] the hash multipliers, newest token first
  greedy.ids       I32 [48]       ids[:32] followed by 16 greedy tokens (precision f32)
  noise.<p>        F32 [2]        p in kv | official: how far the oracle is from itself when every stored
                                  activation moves by one part in 10^7 (a wobble of the embedding, as
                                  in make_golden.py, would vanish in its bfloat16): the median over
                                  positions of |difference| / |logits|, and the share of equal argmax
  noise.layers.official F32 [L]   likewise of each layer, the median over `positions`
  noise.bf16       F32 [2]        as noise.kv, when they move by one part in 10^3, as inputs of products do that
                                  are rounded to bfloat16
  draft.positions  I32 [Q]        tokens after which DSpark drafts, given the greedy next token
  draft.tokens     I32 [Q, B+1]   that next token and the drafted block
  draft.logits     F32 [Q, B, V]  with the Markov head added
  draft.confidence F32 [Q, B]     before a sigmoid
  released.logits  F32 [16, V]    tokens 33 .. 48 as the released code decodes them one by one after
                                  a prefill of ids[:33], its stale index keys included (see
                                  ModelV41.released_decode); logits.f32[33:49] is what is meant
  image.<i>.patches F32 [n, 3, p, p], image.<i>.start I32 [1], image.<i>.grid I32 [2] (rows, cols of
                                  patches), image.<i>.rows F32 [m, D] (what replaces the embeddings
                                  of the image's inner tokens, precision f32)

Precisions (see model_v41.PrecisionV41): f32 rounds nothing after dequantising the weights, so an
engine in float32 agrees to about 1e-5; kv adds the formats of the caches; official adds e4m3
activations and bfloat16 storage. In kv a sum in another order flips a rounding now and then: most
tokens agree as in f32, a few are off by up to 0.1, so judge by the median token. In official every
token meets such flips and they grow by the layer: compare the first layers closely and the logits
against the noise.
"""
import os
import sys

import numpy as np

import formats as fmt
import make_checkpoint_v41 as maker
from model_v41 import CheckpointV41, Image, ModelV41, PrecisionV41, engram_layout, span_types

CASES = {"v41-flash": ("flash", 41), "v41-text": ("text", 49)}    # name: (variant, seed)
TOKENS = 272
POSITIONS = [0, 1, 2, 15, 16, 17, 100, 270, 271]
DRAFTS = [3, 15, 16, 150]
IMAGES = [(5, 5, 7), (18, 3, 4)]                               # start, rows, cols of patches


def inputs(ck, rng):
    """Random tokens with some phrases repeated (so that n-grams meet again), and the images in their place."""
    ids, images = rng.integers(3, ck.text["vocab_size"] - 20, TOKENS), []
    for at in range(60, TOKENS - 6, 31):
        ids[at:at + 6] = ids[at - 25:at - 19]
    ids[[30, 100, 150]] = 3, 4, 5                              # the tokens of tiny embeddings
    for start, rows, cols in IMAGES if ck.vision else []:
        p = ck.vision["patch_size"]
        images.append(Image(start, fmt.round_bf16(rng.uniform(-1, 1, (rows * cols, 3, p, p))), rows, cols))
        ids[start:start + len(span_types(rows, cols, ck.vision["downsample_ratio"]))] = ck.config["image_token_id"]
    return ids, images


def padded(lists, width):
    return np.array([list(x) + [-1] * (width - len(x)) for x in lists])


class Wobbly(ModelV41):
    """Every activation moves by about one part in 10^7 before it is stored, as another order of summation does."""

    def r(self, x):
        return super().r(x * (1 + self.rng.standard_normal(x.shape, np.float32) * np.float32(self.size)))


def median_distance(a, b):
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float(np.median(np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)))


def noise(ck, ids, images, precision, expected, trace, size=1e-7):
    """(median relative distance, share of equal argmax) between the oracle and its wobbly twin, the worst of three;
    and the distance of each layer of the trace."""
    median, agree, layers = 0.0, 1.0, np.zeros(ck.text["num_hidden_layers"], np.float32)
    for seed in range(3):
        m = Wobbly(ck, PrecisionV41.named(precision))
        m.rng, m.size = np.random.default_rng(seed), size
        got = m.forward(ids, images)
        median = max(median, median_distance(got, expected))
        agree = min(agree, float((got.argmax(-1) == expected.argmax(-1)).mean()))
        for n in range(len(layers)):
            far = median_distance(m.trace[f"layers.{n}"][POSITIONS], trace[f"layers.{n}"][POSITIONS])
            layers[n] = max(layers[n], far)
    return np.array([median, agree], np.float32), layers


def golden(path, seed):
    ck = CheckpointV41(path)
    ids, images = inputs(ck, np.random.default_rng(1000 + seed))
    out = {"ids": ("I32", ids), "positions": ("I32", np.array(POSITIONS))}
    for i, image in enumerate(images):
        out[f"image.{i}.patches"] = ("F32", image.patches)
        out[f"image.{i}.start"] = ("I32", np.array([image.start]))
        out[f"image.{i}.grid"] = ("I32", np.array([image.rows, image.cols]))
        out[f"image.{i}.rows"] = ("F32", ModelV41(ck).see(image))
    for p in ("f32", "kv", "official"):
        m = ModelV41(ck, PrecisionV41.named(p))
        out[f"logits.{p}"] = ("F32", m.forward(ids, images))
        for n in range(ck.text["num_hidden_layers"]) if p != "kv" else []:
            out[f"layers.{n}.{p}"] = ("F32", m.trace[f"layers.{n}"][POSITIONS])
        if p == "f32":
            exact = m
        else:
            logits = out[f"logits.{p}"][1]
            around, layers = noise(ck, ids, images, p, logits, m.trace)
            out[f"noise.{p}"] = ("F32", around)
            if p == "official":
                out["noise.layers.official"] = ("F32", layers)
            else:
                out["noise.bf16"] = ("F32", noise(ck, ids, images, p, logits, m.trace, 1e-3)[0])
    for n in range(ck.text["num_hidden_layers"]):
        out[f"layers.{n}.experts"] = ("I32", np.sort(exact.trace[f"layers.{n}.experts"], -1))
        if f"layers.{n}.chosen" in exact.trace:
            out[f"layers.{n}.chosen"] = ("I32", padded(exact.trace[f"layers.{n}.chosen"], ck.text["index_topk"]))
        if f"layers.{n}.engram.rows" in exact.trace:
            out[f"layers.{n}.rows"] = ("I32", exact.trace[f"layers.{n}.engram.rows"])
    sizes, multipliers = engram_layout(ck.text)
    out["engram.token_map"] = ("I32", exact.token_map)
    out["engram.sizes"], out["engram.multipliers"] = ("I64", sizes), ("I64", multipliers)
    drafts = [exact.draft(t, int(out["logits.f32"][1][t].argmax())) for t in DRAFTS]
    out["draft.positions"] = ("I32", np.array(DRAFTS))
    for k, name, kind in ((0, "tokens", "I32"), (1, "logits", "F32"), (2, "confidence", "F32")):
        out["draft." + name] = (kind, np.stack([d[k] for d in drafts]))
    out["released.logits"] = ("F32", ModelV41(ck).released_decode(ids[:49], 33, images))
    text = list(ids[:32])
    for _ in range(16):
        text.append(int(ModelV41(ck).forward(text, images)[-1].argmax()))
    out["greedy.ids"] = ("I32", np.array(text))
    fmt.save_safetensors(os.path.join(path, "golden.safetensors"), out)


def main(out, cases):
    for name, (variant, seed) in cases.items():
        path = os.path.join(out, name)
        maker.write(path, variant, seed)
        golden(path, seed)
        size = sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path))
        print(f"{name}: {size / 2 ** 20:.1f} MiB")


if __name__ == "__main__":
    main(sys.argv[1], CASES)
