"""Whole nets on the cuda target, forward and gradients: their device kernels, run by the emulator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest

from concatc.compiler import Compilation, Options
from concatc.ir.core import FuncOp, Module
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.bases import argument_key, result_keys
from concatc.loops.plan import Plan
from concatc.targets.reference.interpreter import argument_name, run_function
from tests.emulated import run_emulated, tiles_for_all
from tests.example_nets import CASES, Case
from tests.example_nets import NETS as EXAMPLES
from tests.nets.checks import distance, random_data
from tests.nets.section5 import NETS
from tests.planning import to_plan


def compare(net: FuncOp, plan: Plan, data: dict[str, np.ndarray], tolerance: float) -> None:
    """Every result is the reference's, computed in float64, within ``tolerance`` of its largest element."""
    args = [data[argument_name(a)].astype(NUMPY_DTYPES[a.dtype]) for a in net.args]
    memory = run_emulated(plan, {argument_key(a): x for a, x in zip(net.args, args, strict=True)})
    for key, value in zip(result_keys(net), run_function(net, args, float64=True), strict=True):
        assert distance(memory.get(key), value) <= tolerance, key


@pytest.mark.parametrize("form", ["small", "tiles"])
@pytest.mark.parametrize("name", NETS)
def test_nets_that_break_naive_planners(name: str, form: str) -> None:
    """f32, to 1e-5 of the largest element (measured: 3e-6)."""
    make: Callable[[], Module] = NETS[name]
    net, plan = to_plan(make())
    with tiles_for_all() if form == "tiles" else nullcontext():
        compare(net, plan, random_data(net, 1), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_example_nets(case: Case) -> None:
    """f64, where a difference is a mistake (measured: 1e-13, of DenseNet-121's statistics over three elements)."""
    path = EXAMPLES / f"{case.name}.cnet"
    options = Options(dims=case.dims, target="cpu", dtype="f64")
    phase = Compilation(path.read_text(encoding="utf-8"), str(path), options).phase("train")
    net = phase.kernels.main
    data = random_data(net, 1)
    rng = np.random.default_rng(2)
    for name, count in case.classes.items():
        data[name] = rng.integers(0, count, data[name].shape).astype(np.int32)
    compare(net, phase.plan, data, 1e-12)
