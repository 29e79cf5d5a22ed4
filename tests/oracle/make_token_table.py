#!/usr/bin/env python3
"""make_token_table.py - what the oracle makes of rotations, routers and a mixture of experts, as a C header.

Inputs are sines that the tests compute too (numbers.h, wave()), so only results are written. Router scores and the
balance loss are also stated here from their papers, in float64.

    python3 tests/oracle/make_token_table.py > tests/train/token_table.h
"""
import numpy as np

import model

ROTATE_DIM, HALF = 32, 8
T, D, E, K, INTER, SHARED = 7, 12, 6, 3, 5, 4
LIMIT, SCALE, ALPHA, VOCAB = 0.35, 1.5, 0.01, 11
SEGMENTS = [(0, 3), (3, 4)]
YARN = {"original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "factor": 16}
FFN = "layers.0.ffn"


def wave(shape, phase, scale):
    return (scale * np.sin(phase + 12.9898 * np.arange(np.prod(shape)))).astype(np.float32).reshape(shape)


class Weights:
    """A checkpoint of waves."""

    def __init__(self, scoring, by_token):
        self.config = {"rms_norm_eps": 1e-6, "compress_ratios": [0], "swiglu_limit": LIMIT, "scoring_func": scoring,
                       "num_experts_per_tok": K, "routed_scaling_factor": SCALE}
        self.named = {f"{FFN}.gate": wave((E, D), 2, 1), f"{FFN}.gate.bias": wave((E,), 3, 0.3)}
        if by_token:
            self.named[f"{FFN}.gate.tid2eid"] = np.array([[v % E, (v + 2) % E, (v + 3) % E] for v in range(VOCAB)])
        for phase, name in enumerate(["w1", "w3", "w2"], 4):
            of_expert, of_shared = ((D, INTER), (D, SHARED)) if name == "w2" else ((INTER, D), (SHARED, D))
            for e, w in enumerate(wave((E, *of_expert), phase, 0.5)):
                self.named[f"{FFN}.experts.{e}.{name}"] = w
            self.named[f"{FFN}.shared_experts.{name}"] = wave(of_shared, phase + 3, 0.5)

    def __contains__(self, name):
        return name in self.named

    def tensor(self, name):
        return self.named[name]

    def integers(self, name):
        return self.named[name]

    def weight(self, name):
        return self.named[name], False


def show(name, values):
    kind = "int32_t" if np.issubdtype(np.asarray(values).dtype, np.integer) else "double"
    items = [str(v) if kind == "int32_t" else f"{v:.9g}" for v in np.asarray(values).reshape(-1)]
    print(f"static const {kind} table_{name}[] = {{")
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 118:
            print(line)
            line = "   "
        line += f" {item},"
    print(f"{line}\n}};")


def rotations():
    plain = model.rope_frequencies(2 * HALF, 10000.0, None)
    stretched = model.rope_frequencies(2 * HALF, 160000.0, YARN)
    x = wave((5, ROTATE_DIM), 0.5, 1)
    turned = model.rotate(x, np.array([0, 1, 5, 100, 40000]), stretched)
    show("frequency", plain)
    show("frequency_yarn", stretched)
    show("rotated", turned)
    show("transformed", model.hadamard(turned))


def balance(score, index):
    """DeepSeek-V3's equations 17 to 20 for each segment, each counted by its length."""
    loss = 0
    for begin, length in SEGMENTS:
        s, chosen = score[begin:begin + length], index[begin:begin + length]
        f = np.array([(chosen == e).sum() for e in range(E)]) * E / (K * length)
        p = (s / s.sum(-1, keepdims=True)).mean(0)
        loss += length / T * ALPHA * (f * p).sum()
    return loss


def routers():
    x, ids = wave((T, D), 1, 1), np.array([3, 1, 4, 1, 5, 9, 2])
    z = x.astype(np.float64) @ wave((E, D), 2, 1).astype(np.float64).T
    scores = {"sqrtsoftplus": np.sqrt(np.logaddexp(0, z)), "sigmoid": 1 / (1 + np.exp(-z)),
              "softmax": np.exp(z) / np.exp(z).sum(-1, keepdims=True)}
    for scoring, score in scores.items():
        index, weight = model.Model(Weights(scoring, False)).route(x, "layers.0", ids)
        show(f"experts_{scoring}", index)
        show(f"weights_{scoring}", weight)
        show(f"balance_{scoring}", [balance(score, index)])
    index, weight = model.Model(Weights("sqrtsoftplus", True)).route(x, "layers.0", ids)
    show("experts_by_token", index)
    show("weights_by_token", weight)
    show("mixture", model.Model(Weights("sqrtsoftplus", False)).moe(x, "layers.0", ids))


def main():
    print("/* token_table.h - made by: python3 tests/oracle/make_token_table.py > tests/train/token_table.h */")
    print("#ifndef TESTS_TRAIN_TOKEN_TABLE_H\n#define TESTS_TRAIN_TOKEN_TABLE_H\n\n#include <stdint.h>\n")
    print(f"enum {{ TABLE_ROTATE_DIM = {ROTATE_DIM}, TABLE_HALF = {HALF} }};")
    print(f"enum {{ TABLE_T = {T}, TABLE_D = {D}, TABLE_E = {E}, TABLE_K = {K}, TABLE_INTER = {INTER}, "
          f"TABLE_SHARED = {SHARED} }};")
    print(f"#define TABLE_LIMIT {LIMIT}\n#define TABLE_SCALE {SCALE}\n#define TABLE_ALPHA {ALPHA}\n")
    print("/* clang-format off */")
    rotations()
    routers()
    print("/* clang-format on */\n\n#endif")


main()
