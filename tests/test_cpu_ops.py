"""Every op's samples on the cpu target, each alone in a kernel: dense, with gaps full of canaries, added, reordered."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from concatc.loops.plan import Plan
from concatc.op import Sample
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.native import Host, host
from concatc.targets.cpu.target import CpuTarget
from tests.kernel_plans import CANARY, untouched
from tests.sample_plans import CHOSEN, RUNS, Run, Samples


def on_cpu(directory: Path, on: Host | None = None) -> Callable[[Plan, np.ndarray], None]:
    """Compiles a plan and runs it."""

    def run(plan: Plan, arena: np.ndarray) -> None:
        CpuTarget(Cache(directory), on).build_loops(lower_to_loops(plan)).run({"arena": arena}, "step")

    return run


def _runs_of(items: Sequence[pytest.Item]) -> list[Run]:
    """The runs that the selected tests check; all of them where only tests of the whole are selected."""
    tests = [item for item in items if isinstance(item, pytest.Function) and item.module.__name__ == __name__]
    params = [test.callspec.params for test in tests if hasattr(test, "callspec")]
    chosen = {(p["dtype"], p["form"], p["name"]) for p in params if "sample" in p}
    return [run for run in RUNS if run[:3] in chosen] or RUNS


@pytest.fixture(scope="module")
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Samples]:
    """The samples that are asked for (``-k NAME``): one compilation a dtype, of no more than these."""
    made: dict[str, Samples] = {}
    asked = _runs_of(request.session.items)

    def of(dtype: str) -> Samples:
        if dtype not in made:
            made[dtype] = Samples(dtype, asked, on_cpu(tmp_path_factory.mktemp("cache")))
        return made[dtype]

    return of


@pytest.mark.parametrize(("dtype", "form", "name", "sample"), RUNS, ids=["-".join(run[:3]) for run in RUNS])
def test_sample_is_equal_to_the_reference(
    samples: Callable[[str], Samples], dtype: str, form: str, name: str, sample: Sample
) -> None:
    samples(dtype).check(form, name, sample)


@pytest.mark.parametrize("dtype", CHOSEN)
def test_no_byte_outside_of_the_windows_changes(samples: Callable[[str], Samples], dtype: str) -> None:
    run = samples(dtype)
    np.testing.assert_array_equal(untouched(run.arena, run.plan), CANARY)


# Code for narrower vectors runs here as well: 16 registers, 32 bytes with fused multiply-add, 16 bytes without.
NARROW = {
    "avx2": Host("haswell", "", vector_bytes=32, registers=16, fma=True, masked=True),
    "sse2": Host("x86-64", "", vector_bytes=16, registers=16, fma=False, masked=False),
}
HAS_AVX2 = pytest.mark.skipif("+avx2" not in host().features, reason="this CPU has no AVX2")
SUMS = ("linear-0", "linear-1", "linear_weight_grad-0", "matmul-0", "conv-1", "conv-2", "conv_input_grad-0")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="code for x86-64")
@pytest.mark.parametrize("name", [pytest.param("avx2", marks=HAS_AVX2), "sse2"])
def test_narrower_vectors(name: str, tmp_path: Path) -> None:
    runs = [run for run in RUNS if run[:2] == ("f32", "gaps") and run[2] in (*SUMS, "conv_weight_grad-0", "sum-0")]
    made = Samples("f32", runs, on_cpu(tmp_path, NARROW[name]))
    for _, form, sample_name, sample in runs:
        made.check(form, sample_name, sample)
    np.testing.assert_array_equal(untouched(made.arena, made.plan), CANARY)
