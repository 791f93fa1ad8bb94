"""Each net of ``examples/nets`` at small dims, and DenseNet-40 whole: a training step equal to its PyTorch twin's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")

import torch

import concatc
from tests.example_nets import CASES, Case, assert_equal, compiled, inputs_of
from tests.twins import Twin, net_named, run, step

pytestmark = pytest.mark.peers
every_net = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_net
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_training_step_equals_the_twin(case: Case, target: str) -> None:
    net = compiled(case, target)
    twin = Twin(net.params, net.states)
    inputs = inputs_of(net, case)
    out = net.forward(**inputs)
    grads = net.backward()
    values, wanted = step(net_named(case.name), twin, inputs, net.loss_weights)
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
        values, _ = step(net_named(case.name), twin, inputs, net.loss_weights)
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
    _, outputs = run(net_named(case.name), twin, inputs)
    assert_equal("output", net.eval(**inputs), {name: value.detach().numpy() for name, value in outputs.items()})
