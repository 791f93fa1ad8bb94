"""Every op's samples on the cpu target, each alone in a kernel: dense, with gaps full of canaries, added, reordered."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from concatc.ir.types import FLOATS
from concatc.loops.memory import view
from concatc.loops.plan import Launch
from concatc.op import Sample
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cpu.cache import Cache
from concatc.targets.cpu.native import Host, host
from concatc.targets.cpu.target import CpuTarget
from tests.kernel_plans import CANARY, Bump, fresh_arena, op_kernel, plan_of, untouched
from tests.test_every_op import CASES, IDS, assert_close, data_of, pieces_of, typed

# How the windows of a launch lie: gaps between rows, the order of axes, and whether results are added.
FORMS = {"dense": (0, False, False), "gaps": (3, False, True), "reversed": (1, True, False)}
# Compiling is what takes time: f64 runs dense, and the order of axes is changed for the first sample of an op only.
CHOSEN = {"f32": ("gaps", "reversed"), "f64": ("dense",)}
Run = tuple[str, str, str, Sample]
RUNS: list[Run] = [
    (dtype, form, name, sample)
    for dtype, forms in CHOSEN.items()
    for form in forms
    for name, sample in zip(IDS, CASES, strict=True)
    if form != "reversed" or name.endswith("-0")
]


class Samples:
    """Samples, in their forms, compiled together and run once."""

    def __init__(self, dtype: str, directory: Path, runs: Sequence[Run] = RUNS, on: Host | None = None) -> None:
        bump, launches, kernels = Bump(), [], {}
        self.dtype = dtype
        self.of: dict[tuple[str, str], Launch] = {}
        self.runs = [(form, name, sample) for d, form, name, sample in runs if d == dtype]
        for form, name, sample in self.runs:
            types = typed(sample.types, dtype)
            kernel = kernels.setdefault(name, op_kernel("k_" + name.replace("-", "_"), sample.op, types))
            results = [v.tensor for v in kernel.ret.operands]
            gap, reverse, add = FORMS[form]
            windows = [
                bump.window(t, gap, list(reversed(range(t.rank))) if reverse else None) for t in (*types, *results)
            ]
            adds = tuple(add and t.dtype in FLOATS for t in results)
            launch = Launch(kernel.sym_name, tuple(windows[: len(types)]), tuple(windows[len(types) :]), adds)
            self.of[name, form] = launch
            launches.append(launch)
        self.plan = plan_of(launches, list(kernels.values()), bump.used)
        self.arena = fresh_arena(self.plan)
        for form, name, sample in self.runs:
            launch = self.of[name, form]
            for window, x in zip(launch.reads, data_of(sample, dtype), strict=True):
                view(self.arena, window)[...] = x
            for window, add in zip(launch.writes, launch.add, strict=True):
                if add:
                    view(self.arena, window)[...] = 1.0
        self.executable = CpuTarget(Cache(directory), on).build_loops(lower_to_loops(self.plan))
        self.executable.run({"arena": self.arena}, "step")

    def check(self, form: str, name: str, sample: Sample) -> None:
        """Compare the results of one launch with the reference."""
        pieces, _ = pieces_of(sample.op, typed(sample.types, self.dtype))
        terms = max([1, *(math.prod(a.extent for a in (*p.reduce, *p.sequential)) for p in pieces)])
        launch = self.of[name, form]
        wanted = sample.op.reference(*data_of(sample, self.dtype))
        for window, add, want in zip(launch.writes, launch.add, wanted, strict=True):
            got = view(self.arena, window)
            assert_close(got, np.asarray(want + want.dtype.type(1) if add else want), terms, self.dtype)


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
            made[dtype] = Samples(dtype, tmp_path_factory.mktemp("cache"), asked)
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
    made = Samples("f32", tmp_path, runs, NARROW[name])
    for _, form, sample_name, sample in runs:
        made.check(form, sample_name, sample)
    np.testing.assert_array_equal(untouched(made.arena, made.plan), CANARY)
