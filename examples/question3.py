"""Question 3: what happens when a blob is joined with itself?"""

from pathlib import Path

import numpy as np

import concatc

FILE = Path(__file__).parent / "self_concat.cnet"


def gradients(name, reduction, inputs):
    """The gradients of all parameters of one of the two nets."""
    net = concatc.compile(FILE, net=name, dims={"reduction": reduction}, dtype="f64")
    net.init(seed=0)
    net.forward(inputs)
    return {path: gradient.copy() for path, gradient in net.backward().items()}


def main():
    rng = np.random.default_rng(0)
    inputs = {"a": rng.normal(size=(64, 64)), "label": rng.integers(0, 10, size=64).astype(np.int32)}
    for reduction in ("sum", "mean"):
        twice, once = (gradients(name, reduction, inputs) for name in ("twice", "once"))
        ratios = [np.linalg.norm(twice[path]) / np.linalg.norm(once[path]) for path in once]
        print(f"reduction {reduction}: every gradient is {np.mean(ratios):.3f} times that of the blob alone")
        factor = round(np.mean(ratios))
        same = all(np.allclose(twice[path], factor * once[path], rtol=0, atol=1e-13) for path in once)
        print(f"  equal to {factor} times it, element by element: {same}")


if __name__ == "__main__":
    main()
