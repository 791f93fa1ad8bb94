"""What tests of other batch sizes share: a small net, inputs for it, and what a step of it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import concatc

Arrays = dict[str, np.ndarray[Any, Any]]
SMALL = """
net small(n = 4, classes = 3, rate = 0.5) {
    input x: f32[n, 5]
    input label: i32[n]
    h = x |> linear(8) |> batch_norm |> relu
    logits = linear(h, classes)
    loss softmax_loss(logits, label)
    loss mean(square(h)) weight rate as size
    output logits
}
"""


def small(**options: Any) -> concatc.CompiledModule:
    net = concatc.compile_source(SMALL, **options)
    net.init(seed=1)
    return net


def inputs_of(net: concatc.CompiledModule, seed: int = 0) -> Arrays:
    """Random inputs; integers below 3, which every label of this file takes."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, spec in net.signature.inputs.items():
        shape, dtype = spec.type.shape, spec.type.dtype
        kind = {"f32": "float32", "f64": "float64", "i32": "int32"}[dtype]
        values = rng.integers(0, 3, shape) if dtype == "i32" else rng.normal(size=shape)
        arrays[name] = np.asarray(values, kind)
    return arrays


def copy_values(to: concatc.CompiledModule, of: concatc.CompiledModule) -> None:
    for name, value in of.params.items():
        to.params[name] = np.array(value)
    for name, value in of.states.items():
        to.states[name] = np.array(value)


def results_of(net: concatc.CompiledModule, arrays: Mapping[str, Any]) -> Arrays:
    """Losses, outputs, gradients and states of one step."""
    out = {f"out {k}": np.array(v) for k, v in net.forward(arrays).items()}
    out |= {f"grad {k}": np.array(v) for k, v in net.backward().items()}
    return out | {f"state {k}": np.array(v) for k, v in net.states.items()}


def assert_close(got: Arrays, want: Arrays, tolerance: float) -> None:
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        scale = max(float(np.abs(value).max(initial=0.0)), 1.0)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * scale, err_msg=name)
