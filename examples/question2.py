"""Question 2: one loss over the joined branches, or one loss for each branch: are the gradients equal?"""

from pathlib import Path

import numpy as np

import concatc

X, Y = 64, 32
FILE = Path(__file__).parent / "two_losses.cnet"


def gradients(net, inputs, weights=None):
    """The gradients of all parameters, with the given weights of the losses."""
    net.init(seed=0)
    net.loss_weights.update(weights or {})
    net.forward(inputs)
    return {path: gradient.copy() for path, gradient in net.backward().items()}


def difference(ours, theirs):
    """The largest difference, relative to the largest gradient."""
    largest = max(np.abs(g).max() for g in theirs.values())
    return max(np.abs(ours[path] - theirs[path]).max() for path in theirs) / largest


def main():
    rng = np.random.default_rng(0)
    inputs = {
        "a": rng.normal(size=(X, 64)),
        "b": rng.normal(size=(Y, 64)),
        "label": rng.integers(0, 10, size=X + Y).astype(np.int32),
    }
    joined = concatc.compile(FILE, net="joined", dims={"x": X, "y": Y}, dtype="f64")
    separate = concatc.compile(FILE, net="separate", dims={"x": X, "y": Y}, dtype="f64")

    one = gradients(joined, inputs)
    weighted = gradients(separate, inputs)
    plain = gradients(separate, inputs, {"left": 1.0, "right": 1.0})
    half = gradients(separate, inputs, {"left": 0.5, "right": 0.5})

    print(f"weights {X}/{X + Y} and {Y}/{X + Y}: equal to one loss up to rounding: {difference(weighted, one) < 1e-14}")
    print(f"weights 1/2 and 1/2:     relative difference {difference(half, one):.2f}")
    print(f"weights 1 and 1:         relative difference {difference(plain, one):.2f}")
    for branch in ("ha", "hb"):
        ratio = np.linalg.norm(half[f"{branch}.weight"]) / np.linalg.norm(one[f"{branch}.weight"])
        print(f"with halves the gradient of {branch}.weight is {ratio:.3f} times as large")


if __name__ == "__main__":
    main()
