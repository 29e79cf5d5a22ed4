#!/usr/bin/python3
"""print_loss.py MODEL ID... - what the oracle makes of a model: the summed cross-entropy of each id after the ones
before it, and, where the model predicts two tokens ahead, that of each id but the first after the ones before its
predecessor and that one. A number a line, in nats.
"""
import sys

import numpy as np

from model import Checkpoint, Model


def loss(logits, targets):
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return (np.log(np.exp(x).sum(1)) - x[np.arange(len(targets)), targets]).sum()


def main():
    checkpoint, ids = Checkpoint(sys.argv[1]), np.array([int(i) for i in sys.argv[2:]])
    model = Model(checkpoint)
    print(f"{loss(model.forward(ids)[:-1], ids[1:]):.9g}")
    if checkpoint.config["num_nextn_predict_layers"]:
        print(f"{loss(model.predict_next_but_one(ids)[:-1], ids[2:]):.9g}")


if __name__ == "__main__":
    main()
