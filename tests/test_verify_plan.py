"""``--verify-plan``: what is checked of a plan, and that a wrong plan is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from concatc.cli.main import group
from concatc.compiler import Options, compile_net
from concatc.diagnostics import ConcatcError
from concatc.loops.plan import Plan
from concatc.plan_trial import _run, try_plan
from concatc.runtime.bounds import index_checks
from tests.language_nets import ROOT

THREAD = ROOT / "examples" / "thread.cnet"


def test_all_is_said(tmp_path: Path) -> None:
    data = tmp_path / "net.cnet"
    data.write_text("net f(n = 2) {\n    input x: f32[n, 3]\n    loss mean(square(linear(x, 4)))\n    output x\n}\n")
    result = CliRunner().invoke(group, ["compile", str(data), "--verify-plan", "--emit", "plan"])
    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if "checked" in line]
    assert line.startswith("checked train: ")
    assert line.endswith("run on poisoned memory, 5 results are those of the net")


def test_large_plans_are_checked_for_form_only() -> None:
    net = compile_net(THREAD.read_text(), "thread.cnet", Options(dims={"x": 8000}, verify_plan=True))
    assert net.phase("train").plan.launches
    ((phase, text),) = net.checked
    assert phase == "train"
    assert text.endswith("choose smaller dims")


def test_labels_are_in_range() -> None:
    net = compile_net(THREAD.read_text(), "thread.cnet", Options(dims={"x": 3, "y": 2}, verify_plan=True))
    assert net.phase("train").plan.launches
    assert "poisoned" in net.checked[0][1]


def wrong(plan: Plan) -> Plan:
    """The last launch of the forward half is left out."""
    last = max(k for k, launch in enumerate(plan.launches) if launch.phase == "forward")
    return replace(plan, launches=[*plan.launches[:last], *plan.launches[last + 1 :]])


def test_a_wrong_plan_is_found() -> None:
    net = compile_net(THREAD.read_text(), "thread.cnet", Options(dims={"x": 3, "y": 2})).phase("train")
    checks = index_checks(net.graph.main)
    assert "poisoned" in try_plan(net.plan, net.kernels.main, checks)
    with pytest.raises(ConcatcError):
        try_plan(wrong(net.plan), net.kernels.main, checks)
    # The interpreter alone finds it too: what was never written is poison.
    with pytest.raises(ConcatcError, match="makes another"):
        _run(wrong(net.plan), net.kernels.main, checks)


def test_a_budget_on_the_command_line() -> None:
    result = CliRunner().invoke(group, ["compile", str(THREAD), "--max-memory", "1KiB", "--emit", "plan"])
    assert isinstance(result.exception, ConcatcError)
    assert "net thread needs" in str(result.exception)
    assert "a budget of" in str(result.exception)
    result = CliRunner().invoke(group, ["compile", str(THREAD), "--max-memory", "many"])
    assert "--max-memory: `many` is no amount of memory" in str(result.exception)
