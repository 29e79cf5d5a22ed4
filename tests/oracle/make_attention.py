#!/usr/bin/env python3
"""Write what the oracle's attention() gives for three small layers, for tests/train/test_train_attention.c.

    make_attention.py | clang-format-14 > tests/train/attention_table.h

The layers are a sliding one, one of ratio 4 and one of ratio 128. Their input and weights are numbers that test and
script make by the same formula, in the same order, so that the table holds results only: rows of the tokens PLACES.
"""
import numpy as np

from model import Model, Precision

TOKENS, HIDDEN, HEADS, DIM, ROPE, RANK, GROUPS, LOW = 261, 16, 4, 16, 8, 12, 2, 6
INDEX_HEADS, INDEX_DIM, TOP, WINDOW = 2, 8, 3, 8
RATIOS = [0, 4, 128]
PLACES = [0, 3, 7, 8, 31, 127, 128, 131, 200, 255, 260]


def numbers(seed, shape, scale, offset=0.0):
    """offset + scale * (-1 .. 1), by a hash of seed and place."""
    x = (np.uint64(seed) << np.uint64(20)) + np.arange(int(np.prod(shape)), dtype=np.uint64)
    mask = np.uint64(0xffffffff)
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x7feb352d) & mask
    x ^= x >> np.uint64(15)
    x = x * np.uint64(0x846ca68b) & mask
    x ^= x >> np.uint64(16)
    unit = (x >> np.uint64(8)).astype(np.float32) * np.float32(2 ** -23) - np.float32(1)
    return (np.float32(offset) + np.float32(scale) * unit).reshape(shape)


class Numbers:
    """A checkpoint of such numbers: seeds count the tensors, in the order in which they are made."""

    config = {"rms_norm_eps": 1e-6, "num_attention_heads": HEADS, "head_dim": DIM, "qk_rope_head_dim": ROPE,
              "rope_theta": 10000.0, "compress_rope_theta": 160000.0, "sliding_window": WINDOW, "o_groups": GROUPS,
              "o_lora_rank": LOW, "index_n_heads": INDEX_HEADS, "index_head_dim": INDEX_DIM, "index_topk": TOP,
              "compress_ratios": RATIOS, "num_hidden_layers": len(RATIOS)}

    def __init__(self):
        self.tensors = {}
        self.make("x", (TOKENS, HIDDEN), 1)
        for layer, ratio in enumerate(RATIOS):
            self.make_layer(f"layers.{layer}.attn.", ratio)

    def make(self, name, shape, scale, offset=0.0):
        self.tensors[name] = numbers(len(self.tensors), shape, scale, offset)

    def make_layer(self, pre, ratio):
        self.make(pre + "wq_a", (RANK, HIDDEN), 0.5)
        self.make(pre + "q_norm.weight", (RANK,), 0.5, 1)
        self.make(pre + "wq_b", (HEADS * DIM, RANK), 0.5)
        self.make(pre + "wkv", (DIM, HIDDEN), 0.5)
        self.make(pre + "kv_norm.weight", (DIM,), 0.5, 1)
        self.make(pre + "attn_sink", (HEADS,), 1)
        if ratio:
            self.make_compressor(pre + "compressor.", ratio, DIM)
        if ratio == 4:
            self.make(pre + "indexer.wq_b", (INDEX_HEADS * INDEX_DIM, RANK), 0.5)
            self.make(pre + "indexer.weights_proj", (INDEX_HEADS, HIDDEN), 0.5)
            self.make_compressor(pre + "indexer.compressor.", ratio, INDEX_DIM)
        self.make(pre + "wo_a", (GROUPS * LOW, HEADS * DIM // GROUPS), 0.5)
        self.make(pre + "wo_b", (HIDDEN, GROUPS * LOW), 0.5)

    def make_compressor(self, pre, ratio, dim):
        width = 2 * dim if ratio == 4 else dim
        self.make(pre + "wkv", (width, HIDDEN), 0.5)
        self.make(pre + "wgate", (width, HIDDEN), 0.5)
        self.make(pre + "ape", (ratio, width), 1)
        self.make(pre + "norm.weight", (dim,), 0.5, 1)

    def __contains__(self, name):
        return name in self.tensors

    def tensor(self, name):
        return self.tensors[name]

    def weight(self, name):
        return self.tensors[name], False


def main():
    ck = Numbers()
    model = Model(ck, Precision())
    print("/* attention_table.h - the oracle's attention(); made by tests/oracle/make_attention.py. */")
    print(f"static const uint32_t table_places[{len(PLACES)}] = {{{', '.join(map(str, PLACES))}}};")
    print(f"static const float table_rows[{len(RATIOS)}][{len(PLACES)}][{HIDDEN}] = {{")
    for layer in range(len(RATIOS)):
        y = model.attention(ck.tensor("x"), f"layers.{layer}")
        print("    {")
        for p in PLACES:
            values = [f"{v:.7g}" for v in y[p]]
            half = [", ".join(v if "." in v or "e" in v else v + ".0" for v in part) for part in (values[:8], values[8:])]
            print(f"        {{{half[0]},\n         {half[1]}}},")
        print("    },")
    print("};")


if __name__ == "__main__":
    main()
