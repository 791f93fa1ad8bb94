"""The hand-written plan of a DenseNet block against the same net op by op, in the plan interpreter.

Native code runs the same plan in the tests of the cpu target.
"""

from __future__ import annotations

import numpy as np
import pytest

from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, print_module
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of, plan_of
from concatc.passes.check_plan import check_plan
from concatc.targets.reference.plan_interpreter import BaseMemory, run_launch, run_plan
from tests.plans.densenet_block import densenet_block_plan

# f64: rounding alone.  f32: sums of up to 9 * 28 terms in the convolutions and 2 * 49 in the statistics, three layers
# deep, against float64.
TOLERANCE = {"f64": 1e-12, "f32": 2e-5}


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("shape", [(2, 4, 3, 6, 5), (1, 16, 4, 4, 4), (3, 2, 5, 3, 7)])
def test_equals_the_net(shape: tuple[int, int, int, int, int], dtype: str) -> None:
    plan, arguments, expected = densenet_block_plan(*shape, dtype)
    assert check_plan(plan) == []
    run = run_plan(plan, arguments)
    assert run.arena_bytes <= plan.bases["arena"].size_bytes
    for key, value in expected.items():
        scale = np.abs(value).max()
        assert np.abs(run[key] - value).max() <= TOLERANCE[dtype] * scale, key


def test_nothing_is_copied_and_lanes_past_the_channels_stay_untouched() -> None:
    plan, arguments, _ = densenet_block_plan(2, 4, 3, 6, 5)
    assert plan.remarks == []
    run = run_plan(plan, arguments)
    (blobs,) = plan.values["h3"]
    pitch = blobs.window.strides[3]
    channels = blobs.window.shape[1]
    assert pitch == 16 and channels == 13
    raw = run.memory.bases["arena"].view(np.float32)
    start = blobs.window.offset_bytes // 4
    pixels = raw[start : start + 2 * 6 * 5 * pitch].reshape(-1, pitch)
    assert np.isnan(pixels[:, channels:]).all() and np.isfinite(pixels[:, :channels]).all()


def test_the_halo_is_not_normalised() -> None:
    """With beta of one sign a halo that passed through batch norm and relu would be beta, not 0."""
    plan, arguments, expected = densenet_block_plan(1, 3, 2, 3, 3, "f64")
    assert (np.abs(arguments["param:beta0"]) > 1e-3).all()
    run = run_plan(plan, arguments)
    assert np.allclose(run["total:loss"], expected["total:loss"], rtol=1e-12)


def test_gradients_are_added_into_windows_of_one_buffer() -> None:
    plan, _, _ = densenet_block_plan(2, 4, 3, 6, 5)
    adds = [launch for launch in plan.launches if any(launch.add)]
    (gradient,) = plan.values["h3.grad"]
    into = [w for launch in adds for w, add in zip(launch.writes, launch.add, strict=True) if add and len(w.shape) == 4]
    assert len(into) == 6
    assert {w.strides for w in into} == {gradient.window.strides}


def test_text_round_trip_computes_the_same() -> None:
    plan, arguments, _ = densenet_block_plan(1, 4, 3, 4, 4)
    text = print_module(module_of(plan), MACHINE)
    again = plan_of(parse_module(text))
    assert print_module(module_of(again), MACHINE) == text
    for key, value in _results(plan, arguments).items():
        assert np.array_equal(value, _results(again, arguments)[key])


def test_a_missing_correction_is_a_wrong_gradient() -> None:
    """The comparison can fail: without the correction of the statistics the stem's gradient is wrong."""
    plan, arguments, expected = densenet_block_plan(2, 4, 3, 4, 4, "f64")
    memory = BaseMemory(plan)
    for key, value in arguments.items():
        memory.set(key, value)
    for launch in plan.launches:
        if launch.kernel != "correct":
            run_launch(memory, launch)
    stem = expected["grad:stem"]
    assert np.abs(memory.get("grad:stem") - stem).max() > 1e-3 * np.abs(stem).max()


def _results(plan: Plan, arguments: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    run = run_plan(plan, arguments)
    return {key: run[key] for key in plan.values if key.startswith(("grad:", "total:"))}
