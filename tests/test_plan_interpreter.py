"""The plan interpreter: poison, canaries, peak, values of several segments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from concatc.diagnostics import UsageError
from concatc.ir.core import FuncOp, Operation
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, print_module
from concatc.ir.types import TensorType
from concatc.loops.plan import Base, Launch, Plan, Segment, Window
from concatc.loops.plan_text import module_of, plan_of
from concatc.op import Builder
from concatc.passes.check_plan import check_plan
from concatc.targets.reference.plan_interpreter import BaseMemory, run_plan


def double_plan() -> Plan:
    """``y = 2 x`` twice: rows 0 and 1 of ``x`` lie apart in ``inputs`` (two segments), ``y`` in one window."""
    kernel = FuncOp("double", [TensorType((1, 3))], ["x"])
    kernel.body.append(Operation("func.return", [Builder(kernel.body).mul_scalar(kernel.args[0], value=2.0)]))
    kernel.result_attrs = [{}]
    rows = [Window("inputs", offset, (1, 3), (3, 1)) for offset in (0, 64)]
    y = Window("outputs", 16, (2, 3), (4, 1))
    launches = [Launch("double", (row,), (y.sub((k, 0), (1, 3)),), (False,)) for k, row in enumerate(rows)]
    return Plan(
        "double",
        {"inputs": Base("inputs", 128), "outputs": Base("outputs", 64), "arena": Base("arena", 32)},
        {"double": kernel},
        launches,
        {
            "input:x": (Segment((0, 0), rows[0]), Segment((1, 0), rows[1])),
            "output:y": (Segment((0, 0), y),),
        },
    )


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_values_of_several_segments() -> None:
    plan = double_plan()
    assert check_plan(plan) == []
    run = run_plan(plan, {"input:x": X})
    assert np.array_equal(run["output:y"], 2 * X)
    assert np.array_equal(run["input:x"], X)
    text = print_module(module_of(plan), MACHINE)
    assert '"cnet.value"' in text
    again = plan_of(parse_module(text))
    assert again.values == plan.values
    assert print_module(module_of(again), MACHINE) == text


def test_bytes_outside_of_values_are_canaries() -> None:
    """Column 3 of ``y`` belongs to nothing: a launch that writes it is found."""
    plan = double_plan()
    wide = FuncOp("wide", [TensorType((1, 3))], ["x"])
    b = Builder(wide.body)
    wide.body.append(Operation("func.return", [b.concat(wide.args[0], b.slice(wide.args[0], axis=1, sizes=(1, 2))[0])]))
    wide.result_attrs = [{}]
    bad = replace(plan.launches[0], kernel="wide", writes=(Window("outputs", 16, (1, 4), (4, 1)),))
    plan = replace(plan, kernels={**plan.kernels, "wide": wide}, launches=[bad, plan.launches[1]])
    with pytest.raises(AssertionError, match=r"outputs\+28"):
        run_plan(plan, {"input:x": X})


def test_what_is_not_written_is_nan() -> None:
    plan = double_plan()
    unwritten = replace(plan, launches=plan.launches[:1])
    run = run_plan(unwritten, {"input:x": X})
    assert np.isnan(run["output:y"][1]).all() and np.array_equal(run["output:y"][0], 2 * X[0])
    assert np.isnan(BaseMemory(plan).bases["arena"].view(np.float32)).all()


def test_the_highest_byte_of_the_arena() -> None:
    plan = double_plan()
    arena = Window("arena", 8, (1, 3), (1, 1))
    low = replace(plan, launches=[replace(plan.launches[0], writes=(arena,)), *plan.launches])
    assert run_plan(plan, {"input:x": X}).arena_bytes == 0
    assert run_plan(low, {"input:x": X}).arena_bytes == 8 + 12


def test_wrong_calls_are_told() -> None:
    plan = double_plan()
    with pytest.raises(UsageError, match="needs input:x"):
        run_plan(plan, {})
    with pytest.raises(UsageError, match="no value input:z"):
        run_plan(plan, {"input:x": X, "input:z": X})
    with pytest.raises(UsageError, match=r"input:x is of shape \(2, 3\), not \(3, 3\)"):
        run_plan(plan, {"input:x": np.zeros((3, 3), np.float32)})
