"""Calls that were prepared see what changed since: plans, weights of losses, learning rates."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.runtime.instance import Instance
from concatc.runtime.module import CompiledModule
from concatc.runtime.optimizers import OptimizerState

SMALL = """net small(n = 8) {
    input x: f32[n, 16]
    input label: i32[n]
    loss softmax_loss(x |> linear(32) |> relu |> linear(4), label)
}
"""
CHAIN = """net chain(n = 64) {
    input x: f32[n, 64]
    h = x
    for k in 0..8 { h = h |> linear(64) |> tanh }
    loss mean(square(linear(h, 3)))
}
"""
RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(8, 16)).astype(np.float32), "label": np.arange(8, dtype=np.int32) % 4}


def small() -> CompiledModule:
    net = concatc.compile_source(SMALL)
    net.init(0)
    return net


def tight_and_free() -> tuple[CompiledModule, CompiledModule]:
    """With a budget for which an optimizer's state means another plan, and without."""
    free = concatc.compile_source(CHAIN)
    need = sum(base.size_bytes for base in free._source.phase("train").plan.bases.values())
    params = sum(4 * p.type.numel for p in free.signature.params.values())
    tight = concatc.compile_source(CHAIN, max_memory=need + params - 1024)
    for net in (tight, free):
        net.init(1)
    return tight, free


def chain_data() -> np.ndarray[Any, Any]:
    return RNG.normal(size=(64, 64)).astype(np.float32)


@pytest.mark.parametrize("by", ["step", "train_step"])
def test_a_backward_pass_is_of_the_plan_of_its_forward_pass(by: str) -> None:
    nets = tight_and_free()
    optimizers = [concatc.SGD(lr=0.1, momentum=0.9) for _ in nets]
    for _ in range(3):
        x, other = chain_data(), chain_data()
        for net, optimizer in zip(nets, optimizers, strict=True):
            net.forward(x=x)
            net.backward()
            if by == "step":
                net.step(optimizer)
            else:
                net.train_step(x=other, optimizer=optimizer)
        for name, gradient in nets[1].grads.items():
            scale = float(np.abs(gradient).max())
            np.testing.assert_allclose(nets[0].grads[name], gradient, rtol=0, atol=1e-4 * scale)
    assert len(nets[0]._calls.current["train"].built) == 2, "the update was planned anew"


def test_weights_of_losses_are_seen_after_another_plan_ran() -> None:
    net, _ = tight_and_free()
    optimizer = concatc.SGD(lr=0.0, momentum=0.9)
    x = chain_data()
    net.forward(x=x)
    before = [net.train_step(x=x, optimizer=optimizer) for _ in range(2)][-1]
    net.loss_weights["mean"] = 100.0
    assert net.train_step(x=x, optimizer=optimizer)["loss"] == pytest.approx(100 * before["loss"])


def test_a_weight_that_another_thread_sets_during_a_step_is_seen_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small()
    run, began, set_it = Instance.run, threading.Event(), threading.Event()

    def slow(self: Instance, *args: Any, **named: Any) -> None:
        began.set()
        set_it.wait(0.2)
        run(self, *args, **named)

    monkeypatch.setattr(Instance, "run", slow)
    step = threading.Thread(target=net.train_step, args=(DATA,))
    step.start()
    began.wait()
    net.loss_weights["softmax_loss"] = 10.0
    set_it.set()
    step.join()
    found = net.train_step(DATA)
    assert found["loss"] == pytest.approx(10 * found["softmax_loss"])


@pytest.mark.parametrize("ran_before", [False, True])
def test_a_profile_leaves_the_learning_rate(ran_before: bool) -> None:
    net, twin = small(), small()
    optimizer, other = concatc.SGD(lr=0.5), concatc.SGD(lr=0.5)
    if ran_before:
        for one, own in ((net, optimizer), (twin, other)):
            one.train_step(DATA, optimizer=own)
            own.lr = 0.25
    net.profile(DATA, optimizer=optimizer, rounds=1)
    for _ in range(3):
        assert net.train_step(DATA, optimizer=optimizer) == twin.train_step(DATA, optimizer=other)


def test_a_schedule_in_a_subclass_is_followed() -> None:
    class Once(concatc.SGD):
        def hyper(self, step: int, lr: float, decay: float) -> list[float]:
            return [self.lr * (step == 1), 0.0, 0.0]

    net = small()
    optimizer = Once(lr=0.5)
    losses = [net.train_step(DATA, optimizer=optimizer)["loss"] for _ in range(4)]
    assert losses[0] > losses[1] == losses[2] == losses[3]


def test_optimizers_that_nobody_holds_are_freed() -> None:
    net = small()
    for _ in range(5):
        net.train_step(DATA, optimizer=concatc.Adam())
    gc.collect()
    own = [one for one in gc.get_objects() if type(one) is OptimizerState and one in net._optimizers.values()]
    assert len(own) <= 1, "the one that ran last may be run again"
