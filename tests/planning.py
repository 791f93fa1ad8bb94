"""From a graph to a plan, and the comparison of a plan with its net."""

from __future__ import annotations

from typing import Any

import numpy as np

from concatc.ir.core import FuncOp, Module
from concatc.loops.bases import argument_key, result_keys
from concatc.loops.plan import Plan
from concatc.passes.avoid_copies import AvoidCopies
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.fuse import Fuse
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.order_kernels import OrderKernels
from concatc.passes.plan_memory import PlanMemory
from concatc.targets.reference.interpreter import argument_name, run_function
from concatc.targets.reference.plan_interpreter import PlanRun, run_plan
from tests.small_nets import data_for


def to_kernels(module: Module, fuse: bool = True, input_grads: bool = True, avoid_copies: bool = True) -> Module:
    """Run the passes up to level 04, in place."""
    InsertSplits().run(module)
    if module.main.returned("total"):
        DeriveBackward(input_grads=input_grads).run(module)
    if fuse:
        Fuse().run(module)
    OrderKernels().run(module)
    if avoid_copies:
        AvoidCopies().run(module)
    return module


def to_plan(module: Module, fuse: bool = True, input_grads: bool = True) -> tuple[FuncOp, Plan]:
    """The net at level 04 and its plan."""
    to_kernels(module, fuse, input_grads)
    return module.main, PlanMemory().plan(module)


def arguments(net: FuncOp, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Random data for every argument, in order."""
    data = data_for(net, seed)
    return [np.asarray(data[argument_name(a)], a.dtype.replace("f", "float").replace("i", "int")) for a in net.args]


def compare(net: FuncOp, plan: Plan, seed: int = 0) -> PlanRun:
    """Run the plan in NumPy and compare every result with the net's, run op by op in float32.

    Both add in the same order, so they agree to rounding of one operation: 1e-6 of the largest element.
    """
    args = arguments(net, seed)
    expected = run_function(net, args)
    run = run_plan(plan, {argument_key(a): x for a, x in zip(net.args, args, strict=True)})
    for key, value in zip(result_keys(net), expected, strict=True):
        scale = max(1e-30, float(np.abs(value).max(initial=0.0)))
        assert np.allclose(run[key], value, rtol=0, atol=1e-6 * scale, equal_nan=True), key
    return run
