"""The target ``cuda`` on a device: samples of all ops, nets that break planners, random nets, and the runtime.

    python -m pytest -m gpu            compute-sanitizer --tool memcheck python -m pytest -m gpu

Where there is no device each of these is skipped with the reason; the same checks run on the emulator elsewhere.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest

from concatc.loops.plan import Plan
from concatc.op import Sample
from concatc.targets.cuda.device.cuda_driver import CudaDriver, cuda_driver
from tests import test_cuda_nets
from tests.emulated import tiles_for_all
from tests.kernel_plans import CANARY, untouched
from tests.nets import checks
from tests.nets.checks import Check, check_net
from tests.nets.random_nets import seeded_recipe
from tests.nets.section5 import NETS
from tests.on_device import run_bases, run_on_device, why_not
from tests.sample_plans import RUNS, Samples
from tests.test_cuda_device import (  # noqa: F401
    test_a_parameter_that_changes_before_backward_is_noticed,
    test_gradients_that_are_changed_are_those_of_the_update,
    test_inputs_that_are_not_plain_labels_out_of_range_and_bound_arrays,
    test_kept_blobs_and_gradients_of_inputs_and_outputs,
    test_launches_one_by_one_give_the_same,
    test_other_batch_sizes_share_memory,
    test_training_follows_the_reference,
    test_views_are_live,
    test_weights_and_slots_are_saved_and_loaded,
)

WHY_NOT = why_not()
RANDOM_NETS = 500
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> CudaDriver:
    """The device, for tests of the runtime."""
    monkeypatch.delenv("CONCATC_CUDA_EMULATOR", raising=False)
    return cuda_driver()


@cache
def samples(dtype: str, tiles: bool) -> Samples:
    """All samples of a type in one plan, run once."""

    def run(plan: Plan, arena: np.ndarray) -> None:
        with tiles_for_all() if tiles else nullcontext():
            run_bases(plan, {"arena": arena})

    return Samples(dtype, RUNS, run)


@pytest.mark.parametrize("tiles", [False, True], ids=["small", "tiles"])
@pytest.mark.parametrize(("dtype", "form", "name", "sample"), RUNS, ids=["-".join(run[:3]) for run in RUNS])
def test_samples(dtype: str, form: str, name: str, sample: Sample, tiles: bool) -> None:
    samples(dtype, tiles).check(form, name, sample)


@pytest.mark.parametrize("tiles", [False, True], ids=["small", "tiles"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_no_sample_writes_beside_its_windows(dtype: str, tiles: bool) -> None:
    made = samples(dtype, tiles)
    np.testing.assert_array_equal(untouched(made.arena, made.plan), CANARY)


@pytest.mark.parametrize("form", ["small", "tiles"])
@pytest.mark.parametrize("name", NETS)
def test_nets_that_break_naive_planners(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_cuda_nets, "run_emulated", run_on_device)
    test_cuda_nets.test_nets_that_break_naive_planners(name, form)


@pytest.mark.parametrize("seed", range(RANDOM_NETS))
def test_random_nets(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "run_emulated", run_on_device)
    check_net(seeded_recipe(seed).source(), Check(cuda=True, texts=()), seed)
