"""The thread's net as a compiled module, and batches for it."""

from __future__ import annotations

import numpy as np
import pytest

import concatc

THREAD = """
net thread(x = 6, y = 3, classes = 4) {
    input a: f32[x, 5]
    input b: f32[y, 5]
    input label: i32[x + y]
    ha = a |> linear(8) |> relu
    hb = b |> linear(8) |> relu
    h = concat(ha, hb, axis=0)
    logits = linear(h, classes)
    loss softmax_loss(logits, label)
    output logits
}
"""


TWO_LOSSES = """
net two(n = 4) {
    input x: f32[n, 3]
    input t: f32[n, 2]
    y = linear(x, 2)
    z = linear(x, 2)
    loss mse_loss(y, t) as main
    loss mse_loss(z, t) weight 0.5 as aux
}
"""


TARGETS = ("reference", "cpu")


def compile_thread(target: str = "reference", **options: object) -> concatc.CompiledModule:
    net = concatc.compile_source(THREAD, filename="thread.cnet", target=target, **options)  # type: ignore[arg-type]
    net.init(seed=3)
    return net


def batch(x: int = 6, y: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(x, 5)).astype(np.float32),
        "b": rng.normal(size=(y, 5)).astype(np.float32),
        "label": rng.integers(0, 4, size=x + y).astype(np.int32),
    }


def error_of(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(concatc.ConcatcError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return str(caught.value)
