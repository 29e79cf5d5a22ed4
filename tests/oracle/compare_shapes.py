#!/usr/bin/python3
"""compare_shapes.py SONDE - shapes that the golden cases lack, against the oracle. Speaks TAP.

Each row changes the small configuration of make_checkpoint.py, writes a random checkpoint in three shards, and
holds `sonde logits --precision f32 --mtp`, in uneven steps, at every level that runs here, to the oracle: at most 1e-4
relative at each token.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np

import formats as fmt
import make_checkpoint
from model import Checkpoint, Model

TOKENS, TOLERANCE = 150, 1e-4
LEVELS = ("c", "avx2", "avx512", "amx", "neon", "bf16")
ROWS = {  # name: (variant, config changes, engram changes or None)
    "sigmoid scores": ("flash", dict(scoring_func="sigmoid"), None),
    "softmax scores, no clamp": ("flash", dict(scoring_func="softmax", swiglu_limit=0), None),
    "two streams, three Sinkhorn iterations": ("flash", dict(hc_mult=2, hc_sinkhorn_iters=3), None),
    "one stream": ("flash", dict(hc_mult=1), None),
    "ratios 8, 16 and 2": ("flash", dict(compress_ratios=[8, 4, 16, 4, 2, 0]), None),
    "one entry, one expert, window 3": ("flash", dict(index_topk=1, num_experts_per_tok=1, sliding_window=3), None),
    "window 1, more entries wanted than there are": ("flash", dict(sliding_window=1, index_topk=1000), None),
    "window longer than the text": ("flash", dict(sliding_window=512), None),
    "an indexer in the prediction block": ("flash", dict(compress_ratios=[0, 0, 4, 128, 4, 4]), None),
    "compression in the prediction block": ("pro", dict(compress_ratios=[128, 128, 4, 128, 4, 128], hc_mult=3), None),
    "no YaRN, every layer routed by token": ("pro", dict(rope_scaling=None, num_hash_layers=5), None),
    "Engram in three layers": ("flash", dict(hc_mult=3), dict(
        layer_ids=[0, 2, 4], max_ngram_size=4, n_head_per_ngram=3, n_embed_per_ngram=48, vocab_size=[101, 211, 307],
        kernel_size=3)),
    "Engram without reach": ("flash", {}, dict(layer_ids=[0], max_ngram_size=2, vocab_size=[97], kernel_size=1)),
    "wider than one part of an input": ("bf16", dict(hidden_size=1132, moe_intermediate_size=524), None),
    "odd widths": ("bf16", dict(hidden_size=100, moe_intermediate_size=52, q_lora_rank=36, o_lora_rank=20, vocab_size=131,
                                head_dim=70, qk_rope_head_dim=6, index_head_dim=32), None),
}


def farthest(got, want):
    if got.shape != want.shape or not np.isfinite(got).all():
        return np.inf
    return float((np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)).max())


def run(sonde, directory, level, ids):
    """The tensors that `sonde logits` writes and None, or None and what it says."""
    files = {n: os.path.join(directory, n) for n in ("ids.txt", "logits.out")}
    with open(files["ids.txt"], "w", encoding="ascii") as f:
        f.write(" ".join(map(str, ids)))
    done = subprocess.run([sonde, "logits", directory, "--ids", files["ids.txt"], "--out", files["logits.out"], "--mtp",
                           "--precision", "f32", "--level", level, "--chunk", "37", "--decode-from", "140"],
                          capture_output=True, text=True, check=False)
    return (None, done.stderr.strip()) if done.returncode else (fmt.load_safetensors(files["logits.out"]), None)


def compare(sonde, directory, row):
    variant, changes, engram = row
    config = make_checkpoint.config(variant, engram is not None, **changes)
    config.get("engram", {}).update(engram or {})
    make_checkpoint.write(directory, config, seed=11, shards=3)
    ids = np.random.default_rng(5).integers(0, config["vocab_size"], TOKENS)
    oracle = Model(Checkpoint(directory))
    logits, predictions = oracle.forward(ids), oracle.predict_next_but_one(ids)
    for level in LEVELS:
        got, said = run(sonde, directory, level, ids)
        if got is None and "does not run kernel level" in said and level != "c":
            continue
        if got is None:
            return said
        distances = farthest(got["logits"][1], logits), farthest(got["mtp"][1], predictions)
        if not max(distances) < TOLERANCE:
            return f"level {level}: distance {distances[0]:.1e}, predictions {distances[1]:.1e}"
    return None


def main(sonde):
    print(f"1..{len(ROWS)}")
    bad = 0
    for number, (name, row) in enumerate(ROWS.items(), 1):
        with tempfile.TemporaryDirectory() as directory:
            why = compare(sonde, directory, row)
        bad += why is not None
        print(f"{'not ok' if why else 'ok'} {number} - {name}", flush=True)
        if why:
            print(f"# {why}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(sys.argv[1])
