#!/usr/bin/env python3
"""Write what Muon must make of small matrices, as a C header.

    make_muon_table.py > tests/train/muon_table.h

Two matrices of each shape, one behind the other, take three steps of the V4 report's algorithm 1 in double precision.
Weights and gradients are simple fractions that the test makes again.
"""
import numpy as np

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 6)]
STEPS, MATRICES, RATE = 3, 2, 0.02
MOMENTUM, DECAY, SCALE = 0.95, 0.1, 0.18


def weight(i):
    return (i * 29 % 32 - 15.5) / 32


def gradient(i, step):
    return ((i * i * 37 + step * 101 + i * 5) % 64 - 31.5) / 64


def orthogonal(m):
    x = m / np.linalg.norm(m)
    for i in range(10):
        a, b, c = (3.4445, -4.7750, 2.0315) if i < 8 else (2, -1.5, 0.5)
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


def run(rows, cols):
    i = np.arange(MATRICES * rows * cols).reshape(MATRICES, rows, cols)
    w, m = weight(i), np.zeros(i.shape)
    for step in range(STEPS):
        g = gradient(i, step)
        m = MOMENTUM * m + g
        for k in range(MATRICES):
            o = orthogonal(MOMENTUM * m[k] + g[k]) * np.sqrt(max(rows, cols)) * SCALE
            w[k] = w[k] * (1 - RATE * DECAY) - RATE * o
    return w.ravel()


def main():
    print("/* muon_table.h - weights after three steps of Muon; made by tests/oracle/make_muon_table.py. */")
    print("static const struct {\n    size_t rows, cols;\n    double weight[32];\n} muon_table[] = {")
    for rows, cols in SHAPES:
        values = ", ".join(f"{x:.15g}" for x in run(rows, cols))
        print(f"    {{{rows}, {cols}, {{{values}}}}},")
    print("};")


if __name__ == "__main__":
    main()
