#!/usr/bin/env python3
"""Write a small random checkpoint in the official DeepSeek-V4.1-Flash layout.

    make_checkpoint_v41.py OUT [--variant flash|vision|text] [--seed N] [--shards N]

The numbers mean nothing; names, dtypes, block sizes and the roles of the layers are those of the
release, shrunk. What a sublayer adds is small against the streams, as in a trained model, or one
flipped rounding would swamp all that follows it. tokenizer.json is part of the model: Engram hashes
what it derives from it.

UNSURE, because only the code of the release could be read and not its shards: the dtype of
engram.q_weight / k_weight, vision norms and image_* (BF16 here; read whatever the header says), the
names of the Markov head's two tensors, and where config.json keeps expert_dtype.
"""
import argparse
import json
import os

import numpy as np

import formats as fmt
from make_checkpoint import Writer
from model_v41 import compressed_vocabulary, engram_layout

# Any tokenizer in the released format that begins with its special tokens: its bytes and pipeline are taken.
TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden/v41-flash/tokenizer.json")

TEXT = dict(
    model_type="deepseek_v41_text", hidden_act="silu", initializer_range=0.02, attention_bias=False,
    attention_dropout=0.0, tie_word_embeddings=False, max_position_embeddings=1048576,
    num_key_value_heads=1, n_shared_experts=1, rms_norm_eps=1e-20, rope_theta=10000,
    compress_rope_theta=160000, topk_method="noaux_tc", norm_topk_prob=True, scoring_func="sqrtsoftplus",
    routed_scaling_factor=1.5, swiglu_limit=10.0, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6,
    rope_scaling=dict(rope_type="yarn", factor=16, beta_fast=32, beta_slow=1,
                      original_max_position_embeddings=65536),
    vocab_size=320, hidden_size=96, moe_intermediate_size=64, num_attention_heads=4, head_dim=96,
    qk_rope_head_dim=32, q_lora_rank=96, o_groups=2, o_lora_rank=64, sliding_window=16,
    n_routed_experts=8, num_experts_per_tok=2, index_n_heads=16, index_head_dim=64, index_topk=8,
    engram_max_ngram_size=4, engram_n_heads=2, engram_head_dim=32, engram_vocab_size=97, engram_pad_token_id=2,
    dspark_block_size=5, dspark_noise_token_id=317, dspark_markov_rank=32, dspark_n_routed_experts=4,
    dspark_num_experts_per_tok=2,
)
VISION = dict(
    model_type="deepseek_v41_vision", num_hidden_layers=2, hidden_size=64, num_attention_heads=2,
    intermediate_size=96, patch_size=14, rope_theta=10000, downsample_ratio=3, max_image_tokens=64,
    min_pixels=1764, max_wh_ratio=None,
)
SECOND = dict(
    num_hidden_layers=6, compress_ratios=[0, 2, 2, 1, 1, 1, 0], kv_source_layer_ids=[1, 3],
    index_source_layer_ids=[1, 3, 5], candidate_source_layer_id=-1, candidate_topk_blocks=0,
    candidate_block_size=0, engram_layer_ids=[0, 3], num_nextn_predict_layers=1,
    dspark_target_layer_ids=[4, 5], hidden_size=128, num_attention_heads=8, head_dim=64, o_groups=4, o_lora_rank=32,
    n_routed_experts=12, num_experts_per_tok=3, swiglu_limit=1.0, index_n_heads=8, index_head_dim=32,
    index_topk=12)
# Roles by layer, as in the release: sliding only, Full and Reuse of ratio 2 (encoder), then of ratio 1
# Full, Reuse, Reindex, Reuse (decoder). The trailing zeros are the DSpark layers.
VARIANTS = {
    "flash": (dict(
        num_hidden_layers=9, compress_ratios=[0, 0, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0], kv_source_layer_ids=[2, 4, 5],
        index_source_layer_ids=[2, 4, 5, 7], candidate_source_layer_id=5, candidate_topk_blocks=4,
        candidate_block_size=4, engram_layer_ids=[1, 4], num_nextn_predict_layers=3,
        dspark_target_layer_ids=[6, 7, 8]), None),
    # an image tower, no candidates, a clamp that bites, one drafting layer
    "vision": (SECOND, VISION),
    # the same without the tower
    "text": (SECOND, None),
}


class WriterV41(Writer):
    """Writer.cfg is the text part; FP8 scales stand for 32x32 blocks."""

    def __init__(self, text, vision, seed):
        super().__init__(text, seed)
        self.vision = vision

    def linear(self, name, out, inp, kind, gain=1.0):
        if kind != "fp8":
            return super().linear(name, out, inp, kind, gain)
        codes, scale = fmt.quantize_fp8_weight(self.normal(out, inp, std=gain * inp ** -0.5), 32)
        self.put(name + ".weight", codes, "F8_E4M3")
        self.put(name + ".scale", scale, "F8_E8M0")

    def affine(self, name, out, inp):
        self.linear(name, out, inp, "bf16")
        self.put(name + ".bias", self.normal(out, std=0.1))

    def table(self, name, rows, width):
        """FP8 with one scale per 32 channels of a row."""
        b = self.normal(rows, width).reshape(rows, -1, 32)
        scale = fmt.pow2_ceil(np.abs(b).max(-1) / 448)
        self.put(name + ".weight", fmt.encode_e4m3(b / scale[..., None]).reshape(rows, width), "F8_E4M3")
        self.put(name + ".scale", fmt.encode_e8m0(scale), "F8_E8M0")

    def block(self, name, ratio, kv_source, index_source, experts):
        c, d = self.cfg, self.cfg["hidden_size"]
        heads, dim, q = c["num_attention_heads"], c["head_dim"], c["q_lora_rank"]
        a = name + ".attn"
        self.put(a + ".attn_sink", self.normal(heads), "F32")
        self.linear(a + ".wq_a", q, d, "fp8")
        self.norm(a + ".q_norm", q)
        self.linear(a + ".wq_b", heads * dim, q, "fp8")
        self.linear(a + ".wkv", dim, d, "fp8")
        self.norm(a + ".kv_norm", dim)
        self.linear(a + ".wo_a", c["o_groups"] * c["o_lora_rank"], heads * dim // c["o_groups"], "fp8")
        self.linear(a + ".wo_b", d, c["o_groups"] * c["o_lora_rank"], "fp8", gain=0.5)
        if kv_source:
            self.linear(a + ".compressor.wkv", dim, d, "bf16")
            if ratio > 1:
                self.linear(a + ".compressor.wgate", dim, d, "bf16")
            self.norm(a + ".compressor.norm", dim)
        if index_source:
            self.linear(a + ".indexer.wq_b", c["index_n_heads"] * c["index_head_dim"], q, "fp8")
            self.linear(a + ".indexer.weights_proj", c["index_n_heads"], d, "bf16")
            if kv_source:
                self.linear(a + ".indexer.wk", c["index_head_dim"], dim, "bf16")
                self.norm(a + ".indexer.k_norm", c["index_head_dim"])
        f, inter = name + ".ffn", c["moe_intermediate_size"]
        self.linear(f + ".gate", experts, d, "bf16")
        self.put(f + ".gate.bias", self.normal(experts, std=0.1), "F32")
        if self.vision:
            self.put(f + ".gate.bias_vl", self.normal(experts, std=0.5), "F32")
        for expert, kind in [(f"experts.{e}", "fp4") for e in range(experts)] + [("shared_experts", "fp8")]:
            for w, o, i, gain in (("w1", inter, d, 1.0), ("w2", d, inter, 0.3), ("w3", inter, d, 1.0)):
                self.linear(f"{f}.{expert}.{w}", o, i, kind, gain)
        self.norm(name + ".attn_norm", d)
        self.norm(name + ".ffn_norm", d)
        for site in ("hc_attn", "hc_ffn"):
            self.hyper(f"{name}.{site}", (2 + c["hc_mult"]) * c["hc_mult"], 3)

    def engram(self, name, rows):
        c, d, n = self.cfg, self.cfg["hidden_size"], self.cfg["hc_mult"]
        width = c["engram_head_dim"]
        self.table(name + ".embed", rows, width)
        self.linear(name + ".wkv", (n + 1) * d, (c["engram_max_ngram_size"] - 1) * c["engram_n_heads"] * width, "fp8")
        for w in ("q_weight", "k_weight"):
            self.put(f"{name}.{w}", 1 + self.normal(n, d, std=0.1))

    def tower(self):
        v, d = self.vision, self.cfg["hidden_size"]
        dim, inter = v["hidden_size"], v["intermediate_size"]
        self.affine("vision.patch_embed.proj", dim, 3 * v["patch_size"] ** 2)
        for i in range(v["num_hidden_layers"]):
            b = f"vision.blocks.{i}"
            self.norm(b + ".norm1", dim)
            self.affine(b + ".attn.wqkv", 3 * dim, dim)
            self.affine(b + ".attn.wo", dim, dim)
            self.norm(b + ".norm2", dim)
            self.linear(b + ".mlp.w1", 2 * inter, dim, "bf16")
            self.linear(b + ".mlp.w2", dim, inter, "bf16")
        self.norm("vision.norm", dim)
        self.affine("aligner.w1", d, dim * v["downsample_ratio"] ** 2)
        self.affine("aligner.w2", d, d)
        for name in ("image_start", "image_end", "image_newline"):
            self.put(name, self.normal(d))

    def model(self):
        c, d = self.cfg, self.cfg["hidden_size"]
        embed = self.normal(c["vocab_size"], d)
        embed[3:6] *= 1e-4                  # here an epsilon of 1e-6 instead of 1e-20 would show
        self.put("embed.weight", embed)
        for i in range(c["num_hidden_layers"]):
            self.block(f"layers.{i}", c["compress_ratios"][i], i in c["kv_source_layer_ids"],
                       i in c["index_source_layer_ids"], c["n_routed_experts"])
            if i in c["engram_layer_ids"]:
                self.engram(f"layers.{i}.engram", c["engram_num_embeddings"][c["engram_layer_ids"].index(i)])
        self.norm("norm", d)
        self.linear("head", c["vocab_size"], d, "bf16")
        if self.vision:
            self.tower()
        for i in range(c["num_nextn_predict_layers"]):
            self.block(f"mtp.{i}", 0, False, False, c["dspark_n_routed_experts"])
        self.linear("mtp.0.main_proj", d, d * len(c["dspark_target_layer_ids"]), "fp8")
        self.norm("mtp.0.main_norm", d)
        last = f"mtp.{c['num_nextn_predict_layers'] - 1}"
        self.norm(last + ".norm", d)
        self.put(last + ".markov_head.markov_w1.weight", self.normal(c["vocab_size"], c["dspark_markov_rank"]))
        self.linear(last + ".markov_head.markov_w2", c["vocab_size"], c["dspark_markov_rank"], "bf16")
        self.linear(last + ".confidence_head.proj", 1, d + c["dspark_markov_rank"], "bf16")


def write_tokenizer(path, vocab_size):
    """A byte-level BPE in the released format: the bytes, some pieces that fold together, special tokens."""
    spec = json.load(open(TOKENIZER, encoding="utf-8"))
    released, plain = spec["model"]["vocab"], spec["added_tokens"][0]
    bare = [t for t, i in sorted(released.items(), key=lambda x: x[1]) if len(t) == 1]
    special = list(released)[:3]                                   # begin, end, padding
    final = ["<｜User｜>", "<｜Assistant｜>", "<｜noise｜>", "<｜deepseek_image｜>", "<｜end▁of▁special｜>"]
    pieces, merges, room = special + bare, [], vocab_size - len(final)
    # written in the byte alphabet: Ġ is a blank, Ċ a line feed, Ã© is é, Ã‰ would be É, ï¬ģ the ligature fi
    for word in ("the", "The", "THE", "Ġthe", "ĠThe", "Ã©", "Ã©e", "Ä±", "ĠĠ", "ĠĊ", "Ċ", "ĉ", "fi", "ï¬ģ", "ä¸Ń",
                 "ä¸Ńæĸĩ", "ï¼¡", "Î£", "ÏĤ", "Ïĥ", "eÌģ", "on", "ON", "Ġon", "in", "Ġin", "11", "Â²", "2Â", "Ġa", "an"):
        for n in range(2, len(word) + 1):
            if word[:n] not in pieces and len(pieces) < room:
                pieces.append(word[:n])
                merges.append(f"{word[:n - 1]} {word[n - 1]}")
    n = 0
    while len(pieces) < room:
        pieces.append(f"<｜place▁holder▁no▁{n}｜>")
        final.insert(n, pieces.pop())
        n, room = n + 1, room - 1
    spec["model"].update(vocab={t: i for i, t in enumerate(pieces)}, merges=merges)
    added = [(i, t) for i, t in enumerate(special)] + [(len(pieces) + i, t) for i, t in enumerate(final)]
    spec["added_tokens"] = [{**plain, "id": i, "content": t} for i, t in added]
    json.dump(spec, open(path, "w", encoding="utf-8"), ensure_ascii=False)
    return {t: i for i, t in added}


def write(path, variant, seed=0, shards=1):
    os.makedirs(path, exist_ok=True)
    changes, vision = VARIANTS[variant]
    text = {**TEXT, **changes}
    special = write_tokenizer(os.path.join(path, "tokenizer.json"), text["vocab_size"])
    text["dspark_noise_token_id"] = special["<｜noise｜>"]
    text["engram_compressed_vocab_size"] = int(compressed_vocabulary(os.path.join(path, "tokenizer.json")).max()) + 1
    text["engram_num_embeddings"] = [int(t.sum()) for t in engram_layout(text)[0]]
    cfg = dict(architectures=["DeepseekV41ForCausalLM"], model_type="deepseek_v41", dtype="bfloat16",
               bos_token_id=0, eos_token_id=1, pad_token_id=2, image_token_id=special["<｜deepseek_image｜>"],
               quantization_config=dict(quant_method="fp8", activation_scheme="dynamic", fmt="e4m3",
                                        weight_block_size=[32, 32], scale_fmt="ue8m0", expert_dtype="fp4"),
               text_config=text)
    if vision:
        cfg["vision_config"] = vision
    w = WriterV41(text, vision, seed)
    w.model()
    names, index = list(w.out), {}
    for s in range(shards):
        part = names[s * len(names) // shards:(s + 1) * len(names) // shards]
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        fmt.save_safetensors(os.path.join(path, file), {n: w.out[n] for n in part}, {"format": "pt"})
        index.update({n: file for n in part})
    total = sum(a.nbytes for _, a in w.out.values())
    json.dump({"metadata": {"total_size": total}, "weight_map": index},
              open(os.path.join(path, "model.safetensors.index.json"), "w"))
    json.dump(cfg, open(os.path.join(path, "config.json"), "w"), indent=2)
    return total


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out")
    a.add_argument("--variant", choices=VARIANTS, default="flash")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--shards", type=int, default=2)
    o = a.parse_args()
    size = write(o.out, o.variant, o.seed, o.shards)
    print(f"{o.out}: {size / 2 ** 20:.1f} MiB in {o.shards} shards")
