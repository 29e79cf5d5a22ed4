#!/usr/bin/env python3
"""Write what tests/unit/test_number.c expects of roundings: make_number_golden.py OUT.safetensors

Two streams of a million floats each, which the test makes anew from the same counter-based generator
(`random_floats`), go through formats.py; of every 4,096 results a 64-bit hash is kept. Besides, every code's
value, and ties, subnormals, saturation and their neighbours one by one.
"""
import sys

import numpy as np

import formats as fmt

COUNT, CHUNK = 1 << 20, 4096
GOLDEN, A, B = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(z):
    """splitmix64's finaliser."""
    z = (z ^ (z >> np.uint64(30))) * A
    z = (z ^ (z >> np.uint64(27))) * B
    return z ^ (z >> np.uint64(31))


def random_floats(kind):
    """kind 0: any finite bits. kind 1: 2^-14 to 2^10, half of them with few mantissa bits, so ties are common."""
    u = mix((np.arange(COUNT, dtype=np.uint64) + np.uint64(1 + kind * COUNT)) * GOLDEN)
    if kind == 0:
        bits = (u & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        bits = np.where((bits >> 23 & 255) == 255, bits & np.uint32(0xFF7FFFFF), bits)
    else:
        man = (u & np.uint64(0x7FFFFF)).astype(np.uint32)
        man = np.where(u >> np.uint64(40) & np.uint64(1), man & np.uint32(0x7C0000), man)
        exp = (113 + (u >> np.uint64(48) & np.uint64(31)) % np.uint64(25)).astype(np.uint32)
        bits = (u >> np.uint64(63)).astype(np.uint32) << np.uint32(31) | exp << np.uint32(23) | man
    return bits.astype(np.uint32).view(np.float32)


def hashes(values):
    """One sum of mixed (index, value) pairs for each chunk; values: unsigned integers."""
    v = values.astype(np.uint64).reshape(-1, CHUNK)
    i = np.arange(CHUNK, dtype=np.uint64) << np.uint64(32)
    return mix((i | v) * GOLDEN + np.uint64(1)).sum(1, dtype=np.uint64).view(np.int64)


def special():
    """Zeros, every e4m3 and e2m1 value, the middle of each two, and a float on either side of all those."""
    grid = [fmt._E4M3_POS[:-1], fmt._E2M1_POS]
    points = np.concatenate([np.concatenate([g, (g[1:] + g[:-1]) / 2]) for g in grid]
                            + [np.float32([448, 464, 480, 5, 6, 7, 1e9, 3.4028235e38, 1e-45, 1e-38, 2 ** -10, 2 ** -11,
                                           0.25, 0.75, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -7])]).astype(np.float32)
    points = np.concatenate([points, np.nextafter(points, np.float32(0)), np.nextafter(points, np.float32(3.4e38))])
    return np.concatenate([points, -points]).astype(np.float32)


def main(path):
    out = {"e4m3": ("F32", fmt.E4M3), "e2m1": ("F32", fmt.E2M1),
           "e8m0": ("F32", fmt.decode_e8m0(np.arange(255, dtype=np.uint8)))}
    x = special()
    out |= {"special": ("F32", x), "special.bf16": ("F32", fmt.round_bf16(x)), "special.e4m3": ("F32", fmt.round_e4m3(x)),
            "special.e2m1": ("F32", fmt.round_e2m1(x))}
    halves = np.arange(65536, dtype=np.uint16)
    halves = halves[(halves >> 10 & 31) != 31]
    out["f16"] = ("F32", halves.view(np.float16).astype(np.float32))
    for kind in range(2):
        x = random_floats(kind)
        out[f"{kind}.input"] = ("I64", hashes(x.view(np.uint32)))
        out[f"{kind}.bf16"] = ("I64", hashes(fmt.bf16_bits(x)))
        out[f"{kind}.e4m3"] = ("I64", hashes(fmt.encode_e4m3(x)))
        out[f"{kind}.e2m1"] = ("I64", hashes(fmt.encode_e2m1(x)))
        out[f"{kind}.pow2"] = ("I64", hashes(fmt.pow2_ceil(np.minimum(np.abs(x), np.float32(2 ** 127))).view(np.uint32)))
        out[f"{kind}.fake8"] = ("I64", hashes(fmt.fake_fp8(x.reshape(-1, 128), 128).reshape(-1).view(np.uint32)))
        out[f"{kind}.fake8.64"] = ("I64", hashes(fmt.fake_fp8(x.reshape(-1, 64), 64).reshape(-1).view(np.uint32)))
        out[f"{kind}.fake4"] = ("I64", hashes(fmt.fake_fp4(x.reshape(-1, 32)).reshape(-1).view(np.uint32)))
    fmt.save_safetensors(path, out)


if __name__ == "__main__":
    main(sys.argv[1])
