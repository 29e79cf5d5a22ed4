#!/usr/bin/env python3
"""make_streams_table.py - what the oracle makes of hyper-connections, Engram and multi-token prediction's entrance.

Inputs are sines that the tests compute too (numbers.h, wave()), so only results are written, as a C header.

    python3 tests/oracle/make_streams_table.py > tests/train/streams_table.h
"""
import numpy as np

import model

T, H, D, ITERATIONS = 5, 4, 8, 20
ORDERS, HEADS, WIDTH, TAPS, PAD, VOCAB = 3, 2, 8, 4, 2, 30
SIZES, MULTIPLIERS = [31, 37, 41, 43], [0x1d2c3b4a59687761, 77777777777, 0x7f6e5d4c3b2a1909]
IDS = [(7 * t * t + 3 * t) % VOCAB for t in range(23)]


def wave(shape, phase, scale=1.0):
    return (scale * np.sin(phase + 12.9898 * np.arange(np.prod(shape)))).astype(np.float32).reshape(shape)


class Weights:
    """A checkpoint of waves."""

    def __init__(self):
        mixes, wide, inputs = (2 + H) * H, H * D, (ORDERS - 1) * WIDTH
        self.config = {"rms_norm_eps": 1e-6, "compress_ratios": [0], "hc_mult": H, "hc_eps": 1e-6, "hidden_size": D,
                       "hc_sinkhorn_iters": ITERATIONS, "num_hidden_layers": 1,
                       "engram": {"max_ngram_size": ORDERS, "n_head_per_ngram": HEADS, "pad_id": PAD,
                                  "norm_eps": 1e-7, "conv_norm_eps": 1e-5}}
        e = "layers.0.engram"
        self.named = {
            "hc_fn": wave((mixes, wide), 1), "hc_scale": wave((3,), 2), "hc_base": wave((mixes,), 3),
            "engram.token_map": np.arange(VOCAB) // 2, f"{e}.multipliers": np.array(MULTIPLIERS),
            f"{e}.head_sizes": np.array(SIZES),
            f"{e}.multi_head_embedding.embedding": wave((sum(SIZES), WIDTH // HEADS), 11),
            f"{e}.value_proj": wave((D, inputs), 12), f"{e}.value_proj.bias": wave((D,), 13),
            f"{e}.short_conv.conv": wave((wide, 1, TAPS), 14),
            "enorm": wave((D,), 22), "hnorm": wave((D,), 23), "e_proj": wave((D, D), 24), "h_proj": wave((D, D), 25),
        }
        for name, phase, shape in [("key_projs", 15, (H, D, inputs)), ("norm1", 16, (H, D)), ("norm2", 17, (H, D)),
                                   ("short_conv.norms", 18, (H, D))]:
            for j, w in enumerate(wave(shape, phase)):
                self.named[f"{e}.{name}.{j}"] = w
        for j, w in enumerate(wave((H, D), 19)):
            self.named[f"{e}.key_projs.{j}.bias"] = w
        for rows, phase in [("head", 4)]:
            self.named.update({f"{rows}_fn": wave((H, wide), phase), f"{rows}_scale": wave((1,), phase + 1),
                               f"{rows}_base": wave((H,), phase + 2)})

    def __contains__(self, name):
        return name.removesuffix(".weight") in self.named

    def tensor(self, name):
        return self.named[name.removesuffix(".weight")]

    def integers(self, name):
        return self.named[name].astype(np.int64)

    def weight(self, name):
        return self.named[name], False


def show(name, values):
    items = [f"{v:.9g}" for v in np.asarray(values).reshape(-1)]
    print(f"static const double table_{name}[] = {{")
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 118:
            print(line)
            line = "   "
        line += f" {item},"
    print(line + "\n};")


def main():
    m = model.Model(Weights())
    print("/* streams_table.h - what the oracle makes of waves; made by tests/oracle/make_streams_table.py. */")
    h, y = wave((T, H, D), 7), wave((T, D), 8)
    x, post, comb = m.hc_mix(h, "hc")
    show("collapsed", x)
    show("spread", m.hc_spread(y, h, post, comb))
    show("head", m.hc_head(h, "head"))
    show("engram", m.engram(wave((len(IDS), H, D), 9), "layers.0", np.array(IDS)))
    e = m.linear(m.norm(wave((T, D), 21), "enorm"), "e_proj")
    show("entrance", e[:, None, :] + m.linear(m.norm(h, "hnorm"), "h_proj"))


main()
