"""Question 1: two branches of different batch sizes, joined on the batch axis: what gradient does each branch get?"""

from pathlib import Path

import numpy as np

import concatc

X, Y = 64, 32


def batch(rng):
    """Random rows for both branches, and labels for all of them."""
    return {
        "a": rng.normal(size=(X, 64)).astype(np.float32),
        "b": rng.normal(size=(Y, 64)).astype(np.float32),
        "label": rng.integers(0, 10, size=X + Y).astype(np.int32),
    }


def main():
    net = concatc.compile(Path(__file__).parent / "thread.cnet", dims={"x": X, "y": Y}, keep=["h", "ha", "hb"])
    net.init(seed=0)
    net.forward(batch(np.random.default_rng(0)))
    net.backward()

    h, ha, hb = (net.blobs[name].grad for name in ("h", "ha", "hb"))
    print(f"gradient of h:  {h.shape}, norm {np.linalg.norm(h):.6f}")
    print(f"gradient of ha: {ha.shape}, equal to rows 0..{X} of it: {np.array_equal(ha, h[:X])}")
    print(f"gradient of hb: {hb.shape}, equal to rows {X}..{X + Y} of it: {np.array_equal(hb, h[X:])}")


if __name__ == "__main__":
    main()
