"""``--verify-plan``: the checker on every plan, and a trial of small ones on poisoned memory.

train: 15 launches: windows, aliases, first writes and phases are right; every byte holds what the net says;
run on poisoned memory, 12 results are those of the net
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.comments import bytes_text
from concatc.ir.core import FuncOp, Value
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.bases import argument_key, result_keys
from concatc.loops.plan import Plan
from concatc.passes.check_plan import SIMULATED_BYTES, verify_plan
from concatc.passes.fit_budget import planned_bytes
from concatc.runtime.index_check import IndexCheck
from concatc.targets.reference.interpreter import run_function
from concatc.targets.reference.plan_interpreter import run_plan

Array = np.ndarray[Any, Any]

FORM = "windows, aliases, first writes and phases are right"


def try_plan(plan: Plan, net: FuncOp, checks: Sequence[IndexCheck]) -> str:
    """Check a plan of ``net`` (at level 04) and say what was checked; ``checks`` are what labels and indices must be.

    Raises :class:`ConcatcError` with everything that is wrong.
    """
    verify_plan(plan, net)
    head = f"{len(plan.launches)} launches: {FORM}"
    size_bytes = planned_bytes(plan)
    if size_bytes > SIMULATED_BYTES:
        limit = bytes_text(SIMULATED_BYTES)
        return f"{head}; values are checked up to {limit}, this plan has {bytes_text(size_bytes)}: choose smaller dims"
    count = _run(plan, net, checks)
    return f"{head}; every byte holds what the net says; run on poisoned memory, {count} results are those of the net"


def try_update(plan: Plan) -> str:
    """Check a plan that ends in an optimizer's update."""
    verify_plan(plan)
    return f"{len(plan.phase('update'))} launches of the update: {FORM}"


def _run(plan: Plan, net: FuncOp, checks: Sequence[IndexCheck]) -> int:
    """Run a plan and its net on the same random values, and compare all results."""
    rng = np.random.default_rng(0)
    extents = {(check.kind, check.name): check.extent for check in sorted(checks, key=lambda c: -c.extent)}
    args = [_random(arg, extents, rng) for arg in net.args]
    expected = run_function(net, args)
    try:
        run = run_plan(plan, {argument_key(arg): x for arg, x in zip(net.args, args, strict=True)})
    except AssertionError as error:
        raise ConcatcError(Diagnostic(f"the plan of {plan.name} is wrong: {error}")) from None
    problems = []
    for key, value in zip(result_keys(net), expected, strict=True):
        # The plan adds in the order of the net, one operation after the other: only products may differ, by rounding.
        scale = float(np.abs(value[np.isfinite(value)]).max(initial=1e-30)) if value.size else 0.0
        if not np.allclose(run[key], value, rtol=0, atol=1e-5 * scale, equal_nan=True):
            problems.append(Diagnostic(f"the plan of {plan.name} makes another {key.replace(':', ' ')} than the net"))
    if problems:
        raise ConcatcError(problems)
    return len(expected)


def _random(arg: Value, extents: Mapping[tuple[str, str], int], rng: np.random.Generator) -> Array:
    dtype = NUMPY_DTYPES[arg.dtype]
    if arg.dtype.startswith("f"):
        return rng.uniform(0.1, 1.0, arg.shape).astype(dtype)
    extent = extents.get((str(arg.attrs.get("cnet.kind")), str(arg.attrs.get("cnet.name"))), 2)
    return rng.integers(0, max(extent, 1), arg.shape).astype(dtype)
