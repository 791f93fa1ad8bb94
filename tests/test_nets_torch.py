"""Each net of ``examples/nets`` at small dims, and DenseNet-40 whole: a training step equal to its PyTorch twin's.

Both sides compute in float64.  Measured, they differ by a few 1e-15 of the largest element of each array, and by 3e-12
in two_tower, whose `l2_normalize` adds eps = 1e-12 to the squared norm where PyTorch compares with it: 1e-11 for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")

import torch

import concatc
from tests.twins import Net, Twin, run, step

pytestmark = pytest.mark.peers
NETS = Path(__file__).parents[1] / "examples" / "nets"
TOLERANCE = 1e-11


@dataclass(frozen=True)
class Case:
    """A net, its dims and how many values each integer input takes."""

    name: str
    dims: dict[str, int]
    classes: dict[str, int] = field(default_factory=dict)

    @property
    def twin(self) -> Net:
        module = importlib.import_module(f"tests.twins.{self.name}")
        net: Net = module.net
        return net


CASES = [
    Case("densenet40", {"n": 3, "growth": 4, "depth": 3, "stem": 5, "size": 8, "classes": 5}, {"label": 5}),
    Case("densenet_bc100", {"n": 3, "growth": 2, "depth": 2, "size": 8, "classes": 5}, {"label": 5}),
    Case("densenet121", {"n": 3, "growth": 2, "depth": 1, "size": 32, "classes": 5}, {"label": 5}),
    Case("googlenet", {"n": 1, "size": 80, "width": 8, "classes": 5, "drop": 0, "head_drop": 0}, {"label": 5}),
    Case("growing", {"n": 2, "layers": 4, "growth": 3, "channels": 5, "size": 5}),
    Case("inception", {"n": 2, "size": 9, "width": 2, "classes": 4}, {"label": 4}),
    Case("residual", {"n": 3, "size": 9, "width": 3, "depth": 2, "classes": 4}, {"label": 4}),
    Case("unet", {"n": 2, "width": 3, "levels": 3, "size": 8, "classes": 3}, {"mask": 3}),
    Case("siamese", {"n": 5, "size": 17, "width": 2}),
    Case("two_tower", {"n": 6, "users": 9, "items": 7, "dim": 4}, {"user": 9, "item": 7, "genre": 64}),
    Case("two_task", {"n": 7, "d": 9, "width": 12}, {"cls": 5}),
]
every_net = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


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


@every_net
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_training_step_equals_the_twin(case: Case, target: str) -> None:
    net = compiled(case, target)
    twin = Twin(net.params, net.states)
    inputs = inputs_of(net, case)
    out = net.forward(**inputs)
    grads = net.backward()
    values, wanted = step(case.twin, twin, inputs, net.loss_weights)
    assert_equal("value of", out, values)
    assert_equal("gradient of", grads, wanted)
    assert_equal("state", net.states, {name: value.numpy() for name, value in twin.states.items()})


@pytest.mark.slow
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_training_step_of_the_whole_densenet40_equals_the_twin(target: str) -> None:
    """Growth 12, three blocks of 12 layers, images of 32x32: as published, but for the batch."""
    test_training_step_equals_the_twin(Case("densenet40", {"n": 2}, {"label": 10}), target)


UPDATES = [*(pytest.param(case, "reference", id=case.name) for case in CASES), pytest.param(CASES[-1], "cpu", id="cpu")]


@pytest.mark.parametrize(("case", "target"), UPDATES)
def test_two_steps_of_sgd_equal_the_twin(case: Case, target: str) -> None:
    net = compiled(case, target)
    twin = Twin(net.params, net.states)
    inputs = inputs_of(net, case)
    multipliers = {name: parameter.lr for name, parameter in net.signature.params.items()}
    groups = [{"params": [p], "lr": 0.01 * multipliers[name]} for name, p in twin.params.items()]
    theirs = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    ours = concatc.SGD(lr=0.01, momentum=0.9)
    for _ in range(2):
        losses = net.train_step(**inputs, optimizer=ours)
        theirs.zero_grad()
        values, _ = step(case.twin, twin, inputs, net.loss_weights)
        theirs.step()
        assert_equal("loss", {k: np.asarray(v) for k, v in losses.items()}, {k: values[k] for k in losses})
    assert_equal("parameter", net.params, {name: p.detach().numpy() for name, p in twin.params.items()})
    assert_equal("state", net.states, {name: value.numpy() for name, value in twin.states.items()})


@every_net
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_inference_equals_the_twin(case: Case, target: str) -> None:
    net = compiled(case, target)
    rng = np.random.default_rng(4)
    for value in net.states.values():
        value[...] = rng.uniform(0.5, 1.5, value.shape)
    twin = Twin(net.params, net.states, train=False)
    inputs = inputs_of(net, case)
    _, outputs = run(case.twin, twin, inputs)
    assert_equal("output", net.eval(**inputs), {name: value.detach().numpy() for name, value in outputs.items()})
