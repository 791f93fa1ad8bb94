"""Plans that tests make are checked without being asked for (`conftest.checked_plans`): wrong ones fail at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import concatc
from concatc import compiler, lowering
from concatc.loops.plan import Plan
from concatc.passes import arena, blocks
from concatc.passes.check_plan import check_plan

NET = """net small(n = 4) {
    input x: f32[n, 5]
    input label: i32[n]
    h = x |> linear(8) |> tanh |> linear(6) |> tanh
    loss softmax_loss(h |> linear(3), label)
}
"""


def test_a_plan_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "assign_offsets", lambda lives: ([0] * len(lives), arena.live_set_bytes(lives)))
    with pytest.raises(AssertionError, match="launch"):
        concatc.compile_source(NET).ir("plan")


def test_a_plan_with_an_update_is_checked() -> None:
    plan = compiler.compile_net(NET, "small.cnet").phase("train").plan
    with pytest.raises(AssertionError, match="a forward launch stands after a backward launch"):
        lowering.merge_plans(plan, replace(plan, launches=plan.launches[:1]))


@pytest.mark.parametrize("optimizer", [concatc.SGD(lr=0.1), concatc.SGD(lr=0.1, momentum=0.9), concatc.Adam()])
def test_plans_with_updates_are_right(optimizer: concatc.SGD | concatc.Adam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates read gaps between parameters and their own state, but no gradient that nothing wrote."""
    made: list[Plan] = []
    monkeypatch.setattr(lowering, "merge_plans", _noting(lowering.merge_plans, made))
    net = concatc.compile_source(NET)
    net.init(seed=0)
    data = {"x": np.ones((4, 5), np.float32), "label": np.zeros(4, np.int32)}
    assert np.isfinite(net.train_step(data, optimizer=optimizer)["loss"])
    (plan,) = made
    assert plan.phase("update") and check_plan(plan) == check_plan(plan, simulated_bytes=0) == []
    last_gradient = max(k for k, x in enumerate(plan.launches) if x.writes[0].base == "grads")
    broken = replace(plan, launches=[x for k, x in enumerate(plan.launches) if k != last_gradient])
    assert any("was never written" in problem.message for problem in check_plan(broken))


def _noting(merge: Callable[..., Plan], made: list[Plan]) -> Callable[..., Plan]:
    def merged(*plans: Plan) -> Plan:
        made.append(merge(*plans))
        return made[-1]

    return merged


def test_a_plan_at_another_batch_size_is_checked() -> None:
    plan = compiler.compile_net(NET, "small.cnet").scaled_plan("train")
    addresses = plan.layout.at([7])
    assert plan.at({"n": 7}, addresses).launches
    with pytest.raises(AssertionError, match="launch"):
        plan.at({"n": 7}, replace(addresses, starts=addresses.starts * 0))


def test_gradients_that_the_caller_gives_are_there() -> None:
    """At sizes where the form alone is checked, too."""
    text = "net f(n = 4) { input x: f32[n, 5]; y = linear(x, 3); output y }"
    plan = compiler.compile_net(text, "f.cnet", compiler.Options(output_grads=True)).phase("train").plan
    assert "output_grad:y" in plan.values
    assert check_plan(plan) == check_plan(plan, simulated_bytes=0) == []
