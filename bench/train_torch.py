#!/usr/bin/env python3
"""train_torch.py [--check | --time] [--steps N] [--tokens T] [--config FILE | --model DIR] [--float32] [--eager]

What the trainer is measured against: the same DeepSeek-V4 model, trained by plain PyTorch on the same processors. It is
written as one would write it for research: batched operations and autograd; products in bfloat16 (autocast), streams,
router, softmax and losses in float32; Muon by stacks of equal matrices; and what is made of small operations compiled
by torch.compile. There are no kernels of its own.

    python3 -m venv VENV && VENV/bin/pip install torch numpy
    VENV/bin/python bench/train_torch.py                     torch.compile wants a C++ compiler and Python's headers

First it checks itself: with the checkpoints of tests/golden, in float32, losses are those of the oracle (tests/oracle),
for one document and for several packed into a batch. Then it times steps (two for nothing, the median of the others) of
T tokens in documents of about 230, and prints

    {"tokens_per_s": ..., "loss": ..., "params": ..., ...}

cpu_seconds well below threads times seconds says that something else ran, and that the figure is not one to quote.

loss: nats a token of the last step, without what is added to it. A step is: losses (next token; the one after it, by
the MTP block; the indexer's; the balance of experts), gradients, clipping, Muon, AdamW, Adam by rows, router biases.
What belongs to a batch alone (masks, rotations) is made outside of the time, and all steps have the same batch, so
that nothing is compiled again: both are in PyTorch's favour.

Letters of shapes: T tokens, D hidden, H streams, N heads, C head_dim, E experts, k active, B blocks of `window` tokens,
K keys that a block looks at. "Entry": one row that `ratio` tokens were compressed to.
"""
import argparse
import ctypes
import json
import math
import os
import re
import statistics
import struct
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = ["sliding", "flash", "pro", "base-fp8", "bf16", "flash-engram"]

SHAPE = dict(
    vocab_size=4096, hidden_size=256, num_hidden_layers=5, compress_ratios=[0, 0, 4, 128, 4, 0],
    num_attention_heads=4, head_dim=96, qk_rope_head_dim=32, q_lora_rank=128, o_groups=2, o_lora_rank=128,
    sliding_window=128, index_n_heads=8, index_head_dim=64, index_topk=128, moe_intermediate_size=256,
    n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, num_hash_layers=1, routed_scaling_factor=1.5,
    scoring_func="sqrtsoftplus", swiglu_limit=10.0, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6,
    rope_theta=10000, compress_rope_theta=160000, num_nextn_predict_layers=1,
    rope_scaling=dict(type="yarn", factor=16, beta_fast=32, beta_slow=1, original_max_position_embeddings=65536),
    engram=dict(layer_ids=[1], max_ngram_size=3, n_head_per_ngram=4, n_embed_per_ngram=64, vocab_size=[8000, 8000],
                kernel_size=4, pad_id=2, norm_eps=1.1920929e-07, conv_norm_eps=1e-5))

MTP_WEIGHT, INDEX_WEIGHT, BALANCE_WEIGHT, BALANCE_SPEED = 0.3, 1.0, 1e-4, 1e-3
RATE, DECAY, CLIP, TABLE_RATE = 2e-3, 0.1, 1.0, 5


# ---------------------------------------------------------------- batches

def angles(positions, dim, base, yarn):
    """cos and sin [T, dim / 2] of a rotation by positions."""
    freq = 1.0 / base ** (torch.arange(0, dim, 2) / dim)
    if yarn:
        def dimension(rotations):
            original = yarn["original_max_position_embeddings"]
            return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(dimension(yarn["beta_fast"])), 0)
        high = min(math.ceil(dimension(yarn["beta_slow"])), dim - 1)
        ramp = ((torch.arange(dim // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
        freq = freq / yarn["factor"] * ramp + freq * (1 - ramp)
    turn = positions[:, None].float() * freq
    return turn.cos(), turn.sin()


class Entries:
    """Entries of one ratio, those of all documents behind each other, and which of them blocks of tokens look at."""

    def __init__(self, layout, ratio, cfg):
        lengths, begin = layout.lengths, layout.begin
        counts = lengths // ratio
        first = counts.cumsum(0) - counts
        doc = torch.repeat_interleave(torch.arange(len(lengths)), counts)
        place = torch.arange(len(doc)) - first[doc]
        self.source = begin[doc, None] + place[:, None] * ratio + torch.arange(ratio)   # [entries, ratio] tokens
        self.starts = place == 0                                                        # first of its document
        self.turns = angles(place * ratio, cfg["qk_rope_head_dim"], cfg["compress_rope_theta"], cfg.get("rope_scaling"))
        visible = (layout.pos + 1) // ratio                                             # [T] of the token's document
        end = first[layout.doc] + visible
        low, high = layout.blocks(first[layout.doc]), layout.blocks(end)
        width = int((high.max(1).values - low[:, 0]).max())
        at = low[:, :1] + torch.arange(width)                                           # [B, width]
        self.seen = (at[:, None] >= low[..., None]) & (at[:, None] < high[..., None])   # [B, window, width]
        self.gather = at.clamp(max=max(len(doc) - 1, 0))
        self.most = int(visible.max())


class Layout:
    """What the lengths of a batch's documents decide: positions, rotations, masks."""

    def __init__(self, lengths, cfg):
        self.lengths = torch.as_tensor(lengths)
        self.begin = self.lengths.cumsum(0) - self.lengths
        self.tokens, self.window = int(self.lengths.sum()), cfg["sliding_window"]
        self.doc = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        self.pos = torch.arange(self.tokens) - self.begin[self.doc]
        rope = cfg["qk_rope_head_dim"]
        self.turns = [angles(self.pos, rope, cfg["rope_theta"], None),
                      angles(self.pos, rope, cfg["compress_rope_theta"], cfg.get("rope_scaling"))]
        doc = F.pad(self.blocks(self.doc + 1), (0, 0, 1, 0))                            # 0: no token
        keys = torch.cat([doc[:-1], doc[1:]], 1)
        back = torch.arange(self.window, 2 * self.window)[:, None] - torch.arange(2 * self.window)
        self.near = (keys[:, None] == doc[1:, :, None]) & (back >= 0) & (back < self.window)
        self.entries = {r: Entries(self, r, cfg) for r in set(cfg["compress_ratios"]) if r}

    def blocks(self, x):
        """[T, ...] -> [B, window, ...], with zeros at the end."""
        x = F.pad(x, [0, 0] * (x.dim() - 1) + [0, -self.tokens % self.window])
        return x.view(-1, self.window, *x.shape[1:])


class Batch:
    """Documents behind each other; targets -1 where a document ends. With mtp, also their pairs: each token but the
    first of a document, seen from the one before it."""

    def __init__(self, documents, cfg, mtp=True):
        self.ids = torch.cat(documents)
        self.layout = Layout([len(d) for d in documents], cfg)
        last = F.pad(self.layout.doc[1:] != self.layout.doc[:-1], (0, 1), value=True)
        self.targets = self.ids.roll(-1).masked_fill(last, -1)
        if mtp:
            self.before = (~last).nonzero().flatten()
            self.pairs = Batch([d[1:] for d in documents if len(d) > 1], cfg, mtp=False)


# ---------------------------------------------------------------- pieces

def rotate(x, turns):
    """Turns adjacent pairs of the trailing channels. x [T, ..., C]."""
    cos, sin = (t.view(len(t), *[1] * (x.dim() - 2), -1) for t in turns)
    half = cos.shape[-1]
    still, even, odd = x[..., :-2 * half], x[..., -2 * half::2], x[..., 1 - 2 * half::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([still, turned.to(x.dtype)], -1)


def rms(x, eps):
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)


def hadamard(n):
    m = torch.ones(1, 1)
    while len(m) < n:
        m = torch.cat([torch.cat([m, m], 1), torch.cat([m, -m], 1)])
    return m * n ** -0.5


def swiglu(gate, up, limit):
    if limit > 0:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return F.silu(gate) * up


class Norm(nn.Module):
    def __init__(self, dim, eps, *stack):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(*stack, dim)), eps

    def forward(self, x):
        return rms(x, self.eps) * self.weight


def linear(inputs, outputs, bias=False):
    return nn.Linear(inputs, outputs, bias=bias)


class Stack(nn.Module):
    """Equal matrices, one parameter: weight [n, outputs, inputs]."""

    def __init__(self, n, inputs, outputs, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(n, outputs)) if bias else None

    def forward(self, x):
        """All of them: [T, inputs] -> [T, n, outputs]."""
        y = F.linear(x, self.weight.flatten(0, 1), self.bias.flatten() if self.bias is not None else None)
        return y.view(len(x), len(self.weight), -1)


# ---------------------------------------------------------------- hyper-connections

class Hyper(nn.Module):
    """Collapse of the streams to what a sublayer reads, and their spread with what it wrote. In float32."""

    def __init__(self, cfg, last=False):
        super().__init__()
        n = cfg["hc_mult"]
        self.n, self.eps, self.hc_eps = n, cfg["rms_norm_eps"], cfg["hc_eps"]
        self.iterations = 0 if last else cfg["hc_sinkhorn_iters"]
        mixes = n if last else (2 + n) * n
        self.fn = nn.Parameter(torch.empty(mixes, n * cfg["hidden_size"]))
        self.scale, self.base = nn.Parameter(torch.full((1 if last else 3,), 0.01)), nn.Parameter(torch.zeros(mixes))
        with torch.no_grad():
            self.base[:n] = -math.log(n - 1) if n > 1 else 10.0
            if not last:
                self.base[2 * n:] = (-5 * (1 - torch.eye(n))).flatten()

    def collapse(self, h):
        """h [T, H, D] -> x [T, D], post [T, H], comb [T, H, H]; of the last one x alone."""
        n, eps = self.n, self.hc_eps
        flat = h.flatten(1)
        with torch.autocast("cpu", enabled=False):
            m = F.linear(rms(flat, self.eps), self.fn)
        pre = torch.sigmoid(m[:, :n] * self.scale[0] + self.base[:n]) + eps
        x = (pre[..., None] * h).sum(1)
        if not self.iterations:
            return x
        post = 2 * torch.sigmoid(m[:, n:2 * n] * self.scale[1] + self.base[n:2 * n])
        comb = (m[:, 2 * n:] * self.scale[2] + self.base[2 * n:]).view(-1, n, n).softmax(-1) + eps
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
        for _ in range(self.iterations - 1):
            comb = comb / (comb.sum(-1, keepdim=True) + eps)
            comb = comb / (comb.sum(-2, keepdim=True) + eps)
        return x, post, comb


def spread(y, h, post, comb):
    """New stream j = post[j] y + sum_i comb[i, j] stream i."""
    mixed = sum(comb[:, i, :, None] * h[:, i, None] for i in range(h.shape[1]))
    return post[..., None] * y[:, None] + mixed


# ---------------------------------------------------------------- attention

class Compressor(nn.Module):
    """Gated pooling: every `ratio` tokens become an entry; ratio 4 overlaps with the block before."""

    def __init__(self, cfg, ratio, dim, index=False):
        super().__init__()
        self.ratio, self.dim = ratio, dim
        wide = 2 * dim if ratio == 4 else dim
        self.wkv, self.wgate = linear(cfg["hidden_size"], wide), linear(cfg["hidden_size"], wide)
        self.ape, self.norm = nn.Parameter(torch.zeros(ratio, wide)), Norm(dim, cfg["rms_norm_eps"])
        self.register_buffer("hadamard", hadamard(dim) if index else None, persistent=False)

    def forward(self, x, entries):
        rows = entries.source.flatten()
        shape = (*entries.source.shape, -1)
        kv = self.wkv(x).index_select(0, rows).view(shape)
        score = self.wgate(x).index_select(0, rows).view(shape) + self.ape
        if self.ratio == 4:
            kv, score = self.overlap(kv, entries.starts, 0.0), self.overlap(score, entries.starts, -math.inf)
        pooled = (kv * score.float().softmax(1)).sum(1)
        entry = rotate(self.norm(pooled), entries.turns)
        return entry if self.hadamard is None else entry @ self.hadamard

    def overlap(self, x, starts, nothing):
        """[n, 4, 2 dim] -> [n, 8, dim]: the first half of the block before, the second half of its own."""
        before = F.pad(x[:-1, :, :self.dim], (0, 0, 0, 0, 1, 0)).masked_fill(starts[:, None, None], nothing)
        return torch.cat([before, x[:, :, self.dim:]], 1)


class Indexer(nn.Module):
    """Which entries a token sees. It learns from its own loss alone."""

    def __init__(self, cfg, ratio):
        super().__init__()
        self.heads, self.dim, self.top = cfg["index_n_heads"], cfg["index_head_dim"], cfg["index_topk"]
        self.wq_b = linear(cfg["q_lora_rank"], self.heads * self.dim)
        self.weights_proj = linear(cfg["hidden_size"], self.heads)
        self.compressor = Compressor(cfg, ratio, self.dim, index=True)

    def forward(self, x, latent, turns, layout, entries):
        """Scores [B, window, width] of the entries that blocks look at."""
        q = rotate(self.wq_b(latent).view(-1, self.heads, self.dim), turns) @ self.compressor.hadamard
        w = layout.blocks(self.weights_proj(x) * (self.dim * self.heads) ** -0.5)
        k = self.compressor(x, entries)[entries.gather]
        dots = layout.blocks(q).flatten(1, 2) @ k.mT
        return index_scores(dots.view(*w.shape, -1), w)

    def choose(self, scores, entries):
        """Those seen: the best of the visible ones."""
        if entries.most <= self.top:
            return entries.seen
        best = scores.masked_fill(~entries.seen, -math.inf).topk(min(self.top, scores.shape[-1]), -1).indices
        return torch.zeros_like(entries.seen).scatter(-1, best, True) & entries.seen


def index_scores(dots, w):
    return (dots.float().relu() * w.float()[..., None]).sum(2)


def index_loss(scores, shares, seen):
    """KL(attention's shares || softmax(scores)) over the entries seen, the mean over tokens that see at least two.
    shares [B, window, width], summed over heads."""
    shares = (shares * seen).float()
    target = shares / shares.sum(-1, keepdim=True).clamp(min=1e-30)
    kl = (torch.xlogy(target, target) - target * scores.masked_fill(~seen, -1e9).log_softmax(-1)).sum(-1)
    counted = seen.sum(-1) >= 2
    return (kl * counted).sum() / counted.sum().clamp(min=1)


def attend(q, keys, seen, sink):
    """q [B, window, N, C] over keys [B, K, C], which are values too -> [B, window, N, C], probabilities."""
    dots = (q.flatten(1, 2) @ keys.mT).view(*q.shape[:3], -1)
    p = probabilities(dots, seen, sink, q.shape[-1] ** -0.5).to(keys.dtype)
    return (p.flatten(1, 2) @ keys).view(q.shape), p


def probabilities(dots, seen, sink, scale):
    """Softmax with the sink in the denominator, as one more key that has no value."""
    logits = (dots.float() * scale).masked_fill(~seen[:, :, None], -math.inf)
    return torch.cat([logits, sink[:, None].expand(*logits.shape[:-1], 1)], -1).softmax(-1)[..., :-1]


class Attention(nn.Module):
    def __init__(self, cfg, ratio):
        super().__init__()
        d, eps, self.ratio = cfg["hidden_size"], cfg["rms_norm_eps"], ratio
        self.heads, self.dim, self.eps = cfg["num_attention_heads"], cfg["head_dim"], eps
        self.groups, rank = cfg["o_groups"], cfg["o_lora_rank"]
        wide = self.heads * self.dim
        self.wq_a, self.q_norm = linear(d, cfg["q_lora_rank"]), Norm(cfg["q_lora_rank"], eps)
        self.wq_b = linear(cfg["q_lora_rank"], wide)
        self.wkv, self.kv_norm = linear(d, self.dim), Norm(self.dim, eps)
        self.attn_sink = nn.Parameter(torch.zeros(self.heads))
        self.wo_a, self.wo_b = linear(wide // self.groups, self.groups * rank), linear(self.groups * rank, d)
        self.compressor = Compressor(cfg, ratio, self.dim) if ratio else None
        self.indexer = Indexer(cfg, ratio) if ratio == 4 else None

    def forward(self, x, layout):
        """y [T, D], and the indexer's loss."""
        turns, loss = layout.turns[self.ratio != 0], x.new_zeros(())
        latent = self.q_norm(self.wq_a(x))
        q = rotate(rms(self.wq_b(latent).view(-1, self.heads, self.dim), self.eps), turns)
        kv = layout.blocks(rotate(self.kv_norm(self.wkv(x)), turns))
        keys = torch.cat([F.pad(kv[:-1], (0, 0, 0, 0, 1, 0)), kv], 1)
        seen = layout.near
        if self.ratio:
            entries = layout.entries[self.ratio]
            keys = torch.cat([keys, self.compressor(x, entries)[entries.gather].to(keys.dtype)], 1)
            chosen = entries.seen
        if self.indexer:
            scores = self.indexer(x.detach(), latent.detach(), turns, layout, entries)
            chosen = self.indexer.choose(scores, entries)
        if self.ratio:
            seen = torch.cat([seen, chosen], -1)
        out, p = attend(layout.blocks(q), keys, seen, self.attn_sink)
        if self.indexer:
            loss = index_loss(scores, p.detach()[..., 2 * layout.window:].sum(2), chosen)
        out = rotate(out.flatten(0, 1)[:len(x)], (turns[0], -turns[1])).reshape(len(x), self.groups, -1)
        low = torch.einsum("tgd,grd->tgr", out, self.wo_a.weight.view(self.groups, -1, out.shape[-1]))
        return self.wo_b(low.flatten(1)), loss


# ---------------------------------------------------------------- experts

class Shared(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d, inter = cfg["hidden_size"], cfg["moe_intermediate_size"] * cfg["n_shared_experts"]
        self.w1, self.w3, self.w2 = linear(d, inter), linear(d, inter), linear(inter, d)
        self.limit = cfg["swiglu_limit"]

    def forward(self, x):
        return self.w2(swiglu(self.w1(x), self.w3(x), self.limit))


class Experts(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        n, d, inter = cfg["n_routed_experts"], cfg["hidden_size"], cfg["moe_intermediate_size"]
        self.w1, self.w3, self.w2 = Stack(n, d, inter), Stack(n, d, inter), Stack(n, inter, d)
        self.limit = cfg["swiglu_limit"]

    def forward(self, x, index, weight):
        """x [T, D], index and weight [T, k]: tokens are sorted by expert, experts run one after the other."""
        order = index.flatten().argsort(stable=True)
        token, weight = order // index.shape[1], weight.flatten()[order, None]
        sizes = index.flatten().bincount(minlength=len(self.w1.weight)).tolist()
        parts = zip(x.index_select(0, token).split(sizes), weight.split(sizes), self.w1.weight.unbind(),
                    self.w3.weight.unbind(), self.w2.weight.unbind())
        out = [F.linear(swiglu(F.linear(a, w1), F.linear(a, w3), self.limit) * w, w2) for a, w, w1, w3, w2 in parts]
        return torch.zeros_like(x).index_add(0, token, torch.cat(out).to(x.dtype))


class Gate(nn.Module):
    """The router, in float32. By token id in the first layers, else by score plus bias."""

    def __init__(self, cfg, hashed):
        super().__init__()
        n, self.k, self.kind = cfg["n_routed_experts"], cfg["num_experts_per_tok"], cfg["scoring_func"]
        self.scale, self.weight = cfg["routed_scaling_factor"], nn.Parameter(torch.empty(n, cfg["hidden_size"]))
        table = torch.rand(cfg["vocab_size"], n).topk(self.k).indices if hashed else None
        self.register_buffer("tid2eid", table)
        self.register_buffer("bias", None if hashed else torch.zeros(n))

    def forward(self, x, ids):
        with torch.autocast("cpu", enabled=False):
            logits = F.linear(x, self.weight)
        score = {"sqrtsoftplus": lambda z: F.softplus(z).sqrt(), "sigmoid": torch.sigmoid,
                 "softmax": lambda z: z.softmax(-1)}[self.kind](logits)
        index = (score.detach() + self.bias).topk(self.k).indices if self.bias is not None else self.tid2eid[ids]
        weight = score.gather(1, index)
        if self.kind != "softmax":
            weight = weight / weight.sum(-1, keepdim=True)
        return score, index, weight * self.scale


def balance_loss(score, index, layout):
    """Sequence-wise: for each document sum_e f_e P_e, weighted by its length."""
    n, k = score.shape[1], index.shape[1]
    docs = len(layout.lengths)
    lengths = layout.lengths[:, None].float()
    chosen = torch.zeros(docs, n).index_put((layout.doc[:, None], index), torch.ones(()), accumulate=True)
    share = torch.zeros(docs, n).index_add(0, layout.doc, score / score.sum(-1, keepdim=True)) / lengths
    return (chosen * share).sum() * n / (k * layout.tokens)


class Mixture(nn.Module):
    def __init__(self, cfg, hashed):
        super().__init__()
        self.gate, self.experts, self.shared_experts = Gate(cfg, hashed), Experts(cfg), Shared(cfg)

    def forward(self, x, ids, layout):
        """y [T, D], and the loss of balance. Keeps how many tokens chose each expert."""
        score, index, weight = self.gate(x, ids)
        self.loads = index.flatten().bincount(minlength=score.shape[1])
        y = self.experts(x, index, weight) + self.shared_experts(x)
        return y, balance_loss(score, index, layout)

    @torch.no_grad()
    def adjust(self):
        """Moves the biases of experts towards even loads."""
        if self.gate.bias is not None:
            loads = self.loads.float()
            self.gate.bias += BALANCE_SPEED * torch.sign(loads.mean() - loads)


# ---------------------------------------------------------------- Engram

def primes(least, count, taken):
    """The first primes from `least` on that are not taken; takes them."""
    while count:
        if least not in taken and all(least % d for d in range(2, math.isqrt(least) + 1)):
            taken.append(least)
            count -= 1
        least += 1


class Convolution(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        e, n, d = cfg["engram"], cfg["hc_mult"], cfg["hidden_size"]
        self.norms = Norm(d, e["conv_norm_eps"], n)
        self.conv = nn.Module()
        self.conv.weight = nn.Parameter(torch.zeros(n * d, 1, e["kernel_size"]))
        self.dilation = e["max_ngram_size"]

    def forward(self, v, pos):
        """Causal, each channel by itself, within documents. v [T, H, D]."""
        x, taps = self.norms(v).flatten(1), self.conv.weight.shape[-1]
        y = 0
        for i in range(taps):
            shift = (taps - 1 - i) * self.dilation
            there = F.pad(x, (0, 0, shift, 0))[:len(x)] * (pos >= shift)[:, None]
            y = y + there * self.conv.weight[:, 0, i]
        return F.silu(y).view(v.shape)


class Engram(nn.Module):
    def __init__(self, cfg, bias):
        super().__init__()
        e, n, d = cfg["engram"], cfg["hc_mult"], cfg["hidden_size"]
        self.orders, self.heads, self.pad = e["max_ngram_size"], e["n_head_per_ngram"], e["pad_id"]
        width, inputs = e["n_embed_per_ngram"] // self.heads, (self.orders - 1) * e["n_embed_per_ngram"]
        sizes = []
        for least in e["vocab_size"]:
            primes(least, self.heads, sizes)
        self.register_buffer("multipliers", torch.randint(2 ** 53, (self.orders,)) * 2 + 1)
        self.register_buffer("head_sizes", torch.tensor(sizes))
        self.multi_head_embedding = nn.Module()
        self.multi_head_embedding.embedding = nn.Embedding(sum(sizes), width, sparse=True)
        self.key_projs, self.value_proj = Stack(n, inputs, d, bias), linear(inputs, d, bias)
        self.norm1, self.norm2 = Norm(d, e["norm_eps"], n), Norm(d, e["norm_eps"], n)
        self.short_conv = Convolution(cfg)

    def rows(self, ids, pos, token_map):
        """Rows of the table [T, (orders - 1) heads], from integers alone."""
        past = [torch.where(pos >= k, token_map[ids.roll(k)], token_map[self.pad]) for k in range(self.orders)]
        mix, columns = past[0] * self.multipliers[0], []
        for n in range(1, self.orders):
            mix = mix ^ (past[n] * self.multipliers[n])
            columns += [mix] * self.heads
        return torch.stack(columns, 1) % self.head_sizes + self.head_sizes.cumsum(0) - self.head_sizes

    def forward(self, h, ids, pos, token_map):
        e = self.multi_head_embedding.embedding(self.rows(ids, pos, token_map)).flatten(1)
        v = gated(self.norm1(self.key_projs(e).float()), self.norm2(h), self.value_proj(e).float())
        return h + v + self.short_conv(v, pos)


def gated(key, query, value):
    dot = (key * query).sum(-1) / math.sqrt(key.shape[-1])
    return torch.sigmoid(dot.sign() * dot.abs().clamp(min=1e-6).sqrt())[..., None] * value[:, None]


# ---------------------------------------------------------------- the model

class Block(nn.Module):
    def __init__(self, cfg, index, bias=False):
        super().__init__()
        d, eps = cfg["hidden_size"], cfg["rms_norm_eps"]
        self.hc_attn, self.hc_ffn = Hyper(cfg), Hyper(cfg)
        self.attn_norm, self.ffn_norm = Norm(d, eps), Norm(d, eps)
        self.attn = Attention(cfg, cfg["compress_ratios"][index])
        self.ffn = Mixture(cfg, index < cfg["num_hash_layers"])
        self.engram = Engram(cfg, bias) if index in cfg.get("engram", {}).get("layer_ids", []) else None

    def forward(self, h, ids, layout, token_map):
        """Streams [T, H, D], and the losses of indexer and balance."""
        if self.engram:
            h = self.engram(h, ids, layout.pos, token_map)
        x, post, comb = self.hc_attn.collapse(h)
        y, index = self.attn(self.attn_norm(x), layout)
        h = spread(y, h, post, comb)
        x, post, comb = self.hc_ffn.collapse(h)
        y, balance = self.ffn(self.ffn_norm(x), ids, layout)
        return spread(y, h, post, comb), index, balance


class Mtp(Block):
    """The block of multi-token prediction: a layer over pairs of a residual and the next token."""

    def __init__(self, cfg, index):
        super().__init__(cfg, index)
        d, eps = cfg["hidden_size"], cfg["rms_norm_eps"]
        self.e_proj, self.h_proj = linear(d, d), linear(d, d)
        self.enorm, self.hnorm, self.norm = Norm(d, eps), Norm(d, eps), Norm(d, eps)
        self.hc_head = Hyper(cfg, last=True)

    def enter(self, embedded, h):
        return (self.e_proj(self.enorm(embedded))[:, None] + self.h_proj(self.hnorm(h))).float()


class Model(nn.Module):
    def __init__(self, cfg, bias=False):
        """bias: Engram's projections have one, as in some checkpoints."""
        super().__init__()
        d, n, v = cfg["hidden_size"], cfg["num_hidden_layers"], cfg["vocab_size"]
        self.streams = cfg["hc_mult"]
        self.embed, self.head = nn.Embedding(v, d), linear(d, v)
        self.layers = nn.ModuleList(Block(cfg, i, bias) for i in range(n))
        self.mtp = nn.ModuleList(Mtp(cfg, n + i) for i in range(cfg.get("num_nextn_predict_layers", 0)))
        self.hc_head, self.norm = Hyper(cfg, last=True), Norm(d, cfg["rms_norm_eps"])
        if "engram" in cfg:
            self.engram = nn.Module()
            self.engram.register_buffer("token_map", torch.arange(v) // 2)
        self.start(n)

    @torch.no_grad()
    def start(self, layers):
        """Matrices normal, those that write into the streams smaller; the rest is as it was made."""
        for name, p in self.named_parameters():
            if kind(name, p) == "muon" or name in ("embed.weight", "head.weight"):
                deviation = 0.02 if name[0] != "l" and name[0] != "m" else 0.5 * p.shape[-1] ** -0.5
                writes = re.search(r"attn\.wo_b\.|\.w2\.", name)
                p.normal_(0, 1e-4 if name.endswith(".fn") else deviation * ((2 * layers) ** -0.5 if writes else 1))
            elif kind(name, p) == "table":
                p.normal_(0, 0.02)

    def forward(self, batch):
        """The losses: of the next token, the one after it, the indexers and the balance."""
        token_map = self.engram.token_map if hasattr(self, "engram") else None
        h = self.embed(batch.ids)[:, None].expand(-1, self.streams, -1).contiguous()
        index = balance = h.new_zeros(())
        for layer in self.layers:
            h, i, b = layer(h, batch.ids, batch.layout, token_map)
            index, balance = index + i, balance + b
        losses = {"next": self.entropy(self.norm(self.hc_head.collapse(h)), batch.targets)}
        for block in self.mtp[:1]:
            pairs = batch.pairs
            m = block.enter(self.embed(pairs.ids), h.index_select(0, batch.before))
            m, i, b = block(m, pairs.ids, pairs.layout, token_map)
            index, balance = index + i, balance + b
            losses["mtp"] = self.entropy(block.norm(block.hc_head.collapse(m)), pairs.targets)
        return losses | {"index": index, "balance": balance}

    def entropy(self, x, targets):
        return F.cross_entropy(self.head(x).float(), targets, ignore_index=-1)


# ---------------------------------------------------------------- checkpoints

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32, "I8": torch.uint8,
          "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.uint8}


def read_safetensors(path):
    """{name: (dtype, tensor)}"""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = bytearray(f.read())
    header.pop("__metadata__", None)
    return {name: (t["dtype"], torch.frombuffer(data[slice(*t["data_offsets"])], dtype=DTYPES[t["dtype"]])
                   .view(t["shape"])) for name, t in header.items()}


def decode(tensors, name):
    """A tensor in float32, or integers."""
    dtype, t = tensors[name]
    scale = name.removesuffix("weight") + "scale"
    if scale not in tensors:
        return t if dtype[0] == "I" else t.float()
    steps = torch.exp2(tensors[scale][1].double() - 127).float()
    if dtype == "F8_E4M3":
        return t.float() * steps.repeat_interleave(128, 0).repeat_interleave(128, 1)[:t.shape[0], :t.shape[1]]
    return E2M1[torch.stack([t & 15, t >> 4], -1).flatten(1).long()] * steps.repeat_interleave(32, 1)


def official(name):
    """The official name of one of the model's, '#' for the number of one in a stack."""
    name = re.sub(r"\b(hc_attn|hc_ffn|hc_head)\.", r"\1_", name)
    return re.sub(r"\.(experts|key_projs|norm1|norm2|norms)\.", r".\1.#.", name)


def load(path):
    """(model, config) of a directory in the official layout."""
    cfg, tensors = json.load(open(os.path.join(path, "config.json"))), {}
    for file in sorted(os.listdir(path)):
        if file.endswith(".safetensors") and file != "golden.safetensors":
            tensors |= read_safetensors(os.path.join(path, file))
    tensors = {name.removeprefix("model."): t for name, t in tensors.items()}
    model, state = Model(cfg, bias=any(name.endswith("value_proj.bias") for name in tensors)), {}
    for name, value in model.state_dict().items():
        names = [official(name).replace("#", str(i)) for i in range(len(value) if "#" in official(name) else 1)]
        parts = [decode(tensors, n) for n in names]
        state[name] = torch.stack(parts) if "#" in official(name) else parts[0]
    model.load_state_dict(state)
    return model, cfg


# ---------------------------------------------------------------- optimisers

def kind(name, p):
    """Who changes a parameter: as in src/train/layout.c."""
    if "multi_head_embedding" in name:
        return "table"
    if "norm" in name or name in ("embed.weight", "head.weight"):
        return "adam"
    return "still" if p.dim() < 2 or re.search(r"\.ape|\.bias|short_conv|\.scale|\.base", name) else "muon"


@torch.no_grad()
def orthogonal(x):
    """x [n, rows, cols], rows <= cols, by ten Newton-Schulz iterations in bfloat16."""
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-30)).bfloat16()
    for a, b, c in 8 * [(3.4445, -4.7750, 2.0315)] + 2 * [(2.0, -1.5, 0.5)]:
        g = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return x.float()


class Muon:
    """Matrices of one shape are orthogonalised together, tall ones turned."""

    def __init__(self, params):
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(sorted(p.shape[-2:])), []).append(p)
        self.moments = {shape: self.stack(group).zero_() for shape, group in self.groups.items()}

    @staticmethod
    def stack(params, of=lambda p: p.detach()):
        wide = [of(p) if p.shape[-2] <= p.shape[-1] else of(p).mT for p in params]
        return torch.cat([w.reshape(-1, *w.shape[-2:]) for w in wide])

    @torch.no_grad()
    def step(self):
        for shape, group in self.groups.items():
            g, m = self.stack(group, lambda p: p.grad), self.moments[shape]
            m.mul_(0.95).add_(g)
            o = orthogonal(g.add_(m, alpha=0.95))
            for p, u in zip(group, o.split([p.numel() // math.prod(shape) for p in group])):
                u = (u if p.shape[-2] <= p.shape[-1] else u.mT).reshape(p.shape)
                p.mul_(1 - RATE * DECAY).add_(u, alpha=-RATE * 0.18 * math.sqrt(shape[1]))


class Trainer:
    def __init__(self, model, autocast):
        self.model, self.autocast = model, autocast
        named = list(model.named_parameters())
        of = {k: [p for n, p in named if kind(n, p) == k] for k in ("muon", "adam", "still", "table")}
        self.dense = of["muon"] + of["adam"] + of["still"]
        self.optimizers = [Muon(of["muon"]), torch.optim.AdamW(
            [dict(params=of["adam"], weight_decay=DECAY), dict(params=of["still"], weight_decay=0.0)], lr=RATE,
            betas=(0.9, 0.95), eps=1e-20, fused=True)]
        if of["table"]:
            self.optimizers.append(torch.optim.SparseAdam(of["table"], TABLE_RATE * RATE, (0.9, 0.95), 1e-20))

    def step(self, batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            losses = self.model(batch)
        weights = {"next": 1, "mtp": MTP_WEIGHT, "index": INDEX_WEIGHT, "balance": BALANCE_WEIGHT}
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(self.dense, CLIP)
        for o in self.optimizers:
            o.step()
        for block in [*self.model.layers, *self.model.mtp]:
            block.ffn.adjust()
        self.model.zero_grad(set_to_none=True)
        return losses["next"].item()


# ---------------------------------------------------------------- check

def oracle_losses(path, documents):
    """Summed cross-entropies of the next token and of the one after it, by the oracle."""
    sys.path.insert(0, os.path.join(ROOT, "tests", "oracle"))
    import model as oracle
    reference = oracle.Model(oracle.Checkpoint(path))
    mtp, sums = bool(reference.cfg["num_nextn_predict_layers"]), np.zeros(2)

    def entropy(logits, targets):
        return float(F.cross_entropy(torch.from_numpy(logits).double(), targets, reduction="sum"))

    for d in documents:
        sums[0] += entropy(reference.forward(d.numpy())[:-1], d[1:])
        if mtp and len(d) > 2:
            sums[1] += entropy(reference.predict_next_but_one(d.numpy())[:-1], d[2:])
    return sums


@torch.no_grad()
def check(name, cuts):
    """The loss of a golden checkpoint's text, cut into documents, is the oracle's."""
    path = os.path.join(ROOT, "tests", "golden", name)
    model, cfg = load(path)
    text = read_safetensors(os.path.join(path, "golden.safetensors"))["ids"][1].long()
    documents = [d for d in text.tensor_split(cuts)]
    losses, n = model(Batch(documents, cfg)), len(documents)
    got = np.array([losses[part].item() * sum(max(len(d) - ahead, 0) for d in documents) if part in losses else 0
                    for ahead, part in enumerate(("next", "mtp"), 1)])
    want = oracle_losses(path, documents)
    error = np.abs(got - want).max() / want[0]
    print(f"{name}, {n} documents: {got.round(3)}, the oracle's {want.round(3)}", file=sys.stderr)
    if not error < 1e-4:
        sys.exit(f"{name}, {n} documents: the losses are {error:.1e} from the oracle's")


# ---------------------------------------------------------------- measurement

def synthetic(tokens, cfg, seed=1):
    """A batch of documents of 115 to 344 tokens, as bench/train_step.c does, ids as frequent as words are."""
    chance = np.random.default_rng(seed)
    lengths = []
    while sum(lengths) < tokens:
        lengths.append(int(min(chance.integers(115, 345), tokens - sum(lengths))))
    often = 1 / np.arange(10, cfg["vocab_size"] + 10)
    ids = torch.from_numpy(chance.choice(cfg["vocab_size"], tokens, p=often / often.sum()))
    return Batch(list(ids.split(lengths)), cfg)


def compile_pieces():
    """Compiles what is made of many small operations; products and whatever depends on choices stay as they are."""
    torch._dynamo.config.recompile_limit = 64   # layers, and layers over pairs, differ in shape
    for where, name in ((Hyper, "collapse"), (Convolution, "forward"), (Norm, "forward"), (Compressor, "forward")):
        setattr(where, name, torch.compile(getattr(where, name)))
    for name in ("spread", "rotate", "rms", "swiglu", "probabilities", "index_scores", "index_loss", "gated"):
        globals()[name] = torch.compile(globals()[name])


def keep_memory():
    """glibc gives large pieces back at once and takes them anew, page by page; PyTorch's guide advises against that."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)   # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 34)   # M_TRIM_THRESHOLD


def measure(trainer, batch, steps):
    """Seconds of the steps, by the clock and of all processors, and their losses."""
    seconds, busy, losses = [], [], []
    for _ in range(steps + 2):
        started = time.perf_counter(), time.process_time()
        losses.append(trainer.step(batch))
        seconds.append(time.perf_counter() - started[0])
        busy.append(time.process_time() - started[1])
    return seconds[2:], busy[2:], losses


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--steps", type=int, default=7)
    a.add_argument("--tokens", type=int, default=4096)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--config", help="a config.json; default: the shape in this file")
    a.add_argument("--model", help="a checkpoint's directory to go on from")
    a.add_argument("--float32", action="store_true", help="no products in bfloat16")
    a.add_argument("--eager", action="store_true", help="nothing compiled")
    only = a.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="only the check")
    only.add_argument("--time", action="store_true", help="only the timing")
    a.add_argument("--profile", action="store_true", help="also the operations that take the time")
    o = a.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    keep_memory()
    for name in [] if o.time else GOLDEN:
        check(name, [])
        check(name, [5, 6, 150])
    if o.check:
        return
    cfg = json.load(open(o.config)) if o.config else SHAPE
    if "engram" in cfg:
        cfg["engram"] = {k: SHAPE["engram"][k] for k in ("norm_eps", "conv_norm_eps")} | cfg["engram"]
    model, cfg = load(o.model) if o.model else (Model(cfg), cfg)
    if not o.eager:
        compile_pieces()
    trainer, batch = Trainer(model, not o.float32), synthetic(o.tokens, cfg)
    seconds, busy, losses = measure(trainer, batch, o.steps)
    if o.profile:
        with torch.profiler.profile() as p:
            trainer.step(batch)
        print(p.key_averages().table(sort_by="self_cpu_time_total", row_limit=30), file=sys.stderr)
    print(json.dumps({
        "tokens_per_s": round(o.tokens / statistics.median(seconds), 1), "loss": round(losses[-1], 4),
        "first_loss": round(losses[0], 4), "params": sum(p.numel() for p in model.parameters()),
        "seconds": [round(s, 3) for s in seconds], "cpu_seconds": [round(s, 3) for s in busy], "tokens": o.tokens,
        "threads": o.threads, "products": "float32" if o.float32 else "bfloat16", "compiled": not o.eager,
        "torch": torch.__version__}))


if __name__ == "__main__":
    main()
