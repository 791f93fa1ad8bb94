"""The nets of ``examples/nets`` at small dims, with parameters and data that leave no gradient zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import concatc

NETS = Path(__file__).parents[1] / "examples" / "nets"
# Of the largest element of an array, where both sides compute in float64.  Measured, they differ by a few 1e-15, and by
# 3e-12 in two_tower, whose `l2_normalize` adds eps = 1e-12 to the squared norm where PyTorch compares with it.
TOLERANCE = 1e-11


@dataclass(frozen=True)
class Case:
    """A net, its dims and how many values each integer input takes."""

    name: str
    dims: dict[str, int]
    classes: dict[str, int] = field(default_factory=dict)


CASES = [
    Case("densenet40", {"n": 3, "growth": 4, "depth": 3, "stem": 5, "size": 8, "classes": 5}, {"label": 5}),
    Case("densenet_bc100", {"n": 3, "growth": 2, "depth": 2, "size": 8, "classes": 5}, {"label": 5}),
    Case("densenet121", {"n": 3, "growth": 2, "depth": 1, "size": 32, "classes": 5}, {"label": 5}),
    Case("googlenet", {"n": 1, "size": 80, "width": 8, "classes": 5, "drop": 0, "head_drop": 0}, {"label": 5}),
    Case("growing", {"n": 2, "layers": 4, "growth": 3, "channels": 5, "size": 5}),
    Case("inception", {"n": 2, "size": 9, "width": 2, "classes": 4}, {"label": 4}),
    Case("residual", {"n": 3, "size": 9, "width": 3, "depth": 2, "classes": 4}, {"label": 4}),
    Case("squeezenet", {"n": 2, "size": 33, "width": 4, "classes": 5, "drop": 0}, {"label": 5}),
    Case("unet", {"n": 2, "width": 3, "levels": 3, "size": 8, "classes": 3}, {"mask": 3}),
    Case("siamese", {"n": 5, "size": 17, "width": 2}),
    Case("two_tower", {"n": 6, "users": 9, "items": 7, "dim": 4}, {"user": 9, "item": 7, "genre": 64}),
    Case("two_task", {"n": 7, "d": 9, "width": 12}, {"cls": 5}),
]


def compiled(case: Case, target: str) -> concatc.CompiledModule:
    """The net, its parameters filled with numbers that leave no gradient zero."""
    net = concatc.compile(NETS / f"{case.name}.cnet", dims=case.dims, target=target, dtype="f64")
    net.init(seed=1)
    rng = np.random.default_rng(2)
    for name, value in net.params.items():
        if value.ndim == 1:  # biases and scales, which start at 0 and 1
            value += 0.2 * rng.normal(size=value.shape)
        net.params[name] = value
    return net


def inputs_of(net: concatc.CompiledModule, case: Case) -> dict[str, np.ndarray]:
    """Random inputs; integers below the number of classes that the case names."""
    rng = np.random.default_rng(3)
    arrays = {}
    for name, argument in net.signature.inputs.items():
        shape, classes = argument.type.shape, case.classes.get(name)
        if classes is None:
            arrays[name] = rng.normal(size=shape)
        else:
            arrays[name] = rng.integers(0, classes, shape).astype(np.int32)
    return arrays


def assert_equal(what: str, got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    """Arrays by name, equal to TOLERANCE of the largest element."""
    assert sorted(got) == sorted(want), what
    for name, value in want.items():
        scale = max(float(np.max(np.abs(value), initial=0.0)), 1e-12)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=TOLERANCE * scale, err_msg=f"{what} {name}")
