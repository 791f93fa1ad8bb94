"""Train two branches of different batch sizes on handwritten digits, joined on the batch axis under one loss."""

import time
from pathlib import Path

import numpy as np

import concatc

EXAMPLES = Path(__file__).parent
EPOCHS = 20
HELD_OUT = 360  # the last rows of the data (examples/data/README.md)


def accuracy(net, images, labels):
    """The share of digits that are recognised; each branch reads its part of every batch."""
    x, y = net.dims["x"], net.dims["y"]
    right = 0
    for start in range(0, len(images) - (x + y) + 1, x + y):
        rows = slice(start, start + x + y)
        logits = net.eval(a=images[rows][:x], b=images[rows][x:])["logits"]
        right += np.sum(logits.argmax(axis=1) == labels[rows])
    return right / (len(images) // (x + y) * (x + y))


def main():
    start = time.perf_counter()
    data = np.load(EXAMPLES / "data" / "digits.npz")
    images, labels = data["image"][:-HELD_OUT], data["label"][:-HELD_OUT]
    held_images, held_labels = data["image"][-HELD_OUT:], data["label"][-HELD_OUT:]

    x, y = 60, 30
    net = concatc.compile(EXAMPLES / "digits.cnet", dims={"x": x, "y": y})
    net.init(seed=0)
    optimizer = concatc.SGD(lr=0.1, momentum=0.9)
    rng = np.random.default_rng(0)

    for epoch in range(1, EPOCHS + 1):
        order = rng.permutation(len(images))
        losses = []
        for batch in range(0, len(order) - (x + y) + 1, x + y):
            rows = order[batch : batch + x + y]
            step = net.train_step(a=images[rows[:x]], b=images[rows[x:]], label=labels[rows], optimizer=optimizer)
            losses.append(step["loss"])
        held = accuracy(net, held_images, held_labels)
        print(f"epoch {epoch:2}: loss {np.mean(losses):.4f}, held-out accuracy {100 * held:.1f} %")

    print(f"trained on {len(images)} digits, tested on {len(held_images)} in {time.perf_counter() - start:.1f} s")
    if held < 0.96:
        raise SystemExit(f"expected at least 96 % held-out accuracy, got {100 * held:.1f} %")


if __name__ == "__main__":
    main()
