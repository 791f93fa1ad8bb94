"""Every op's samples on the cuda target: the device kernels of each, alone in a plan, run by the emulator."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.loops.plan import Plan
from concatc.op import Sample
from concatc.targets.cuda.emulator.run import emulate
from concatc.targets.cuda.kernels import gpu_module
from tests.emulated import tiles_for_all, with_scratch
from tests.kernel_plans import CANARY, untouched
from tests.sample_plans import RUNS, Samples


def run_small(plan: Plan, arena: np.ndarray) -> None:
    """Run the device kernels of a plan as they are for so few elements."""
    module = gpu_module(plan)
    emulate(module, with_scratch(module, {"arena": arena}))


def run_tiles(plan: Plan, arena: np.ndarray) -> None:
    """Run the kernels that a plan of many elements would have."""
    with tiles_for_all():
        run_small(plan, arena)


@pytest.mark.parametrize(("dtype", "form", "name", "sample"), RUNS, ids=["-".join(run[:3]) for run in RUNS])
def test_sample_is_equal_to_the_reference(dtype: str, form: str, name: str, sample: Sample) -> None:
    made = Samples(dtype, [(dtype, form, name, sample)], run_small if form == "dense" else run_tiles)
    made.check(form, name, sample)
    np.testing.assert_array_equal(untouched(made.arena, made.plan), CANARY)
