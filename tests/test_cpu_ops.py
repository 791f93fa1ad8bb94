"""Every op's samples on the cpu target, each alone in a kernel: dense, with gaps full of canaries, added, reordered."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from concatc.ir.types import FLOATS
from concatc.loops.memory import view
from concatc.loops.plan import Launch
from concatc.op import Sample
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cpu.cache import Cache
from concatc.targets.cpu.target import CpuTarget
from tests.kernel_plans import CANARY, Bump, fresh_arena, op_kernel, plan_of, untouched
from tests.test_every_op import CASES, IDS, assert_close, data_of, pieces_of, typed

# How the windows of a launch lie: gaps between rows, the order of axes, and whether results are added.
FORMS = {"dense": (0, False, False), "gaps": (3, False, True), "reversed": (1, True, False)}


class Samples:
    """All samples, in all forms, run once."""

    def __init__(self, dtype: str, directory: Path) -> None:
        bump, launches, kernels = Bump(), [], []
        self.of: dict[tuple[str, str], Launch] = {}
        for name, sample in zip(IDS, CASES, strict=True):
            types = typed(sample.types, dtype)
            kernel = op_kernel("k_" + name.replace("-", "_"), sample.op, types)
            kernels.append(kernel)
            results = [v.tensor for v in kernel.ret.operands]
            for form, (gap, reverse, add) in FORMS.items():
                windows = [
                    bump.window(t, gap, list(reversed(range(t.rank))) if reverse else None) for t in (*types, *results)
                ]
                adds = tuple(add and t.dtype in FLOATS for t in results)
                launch = Launch(kernel.sym_name, tuple(windows[: len(types)]), tuple(windows[len(types) :]), adds)
                self.of[name, form] = launch
                launches.append(launch)
        self.plan = plan_of(launches, kernels, bump.used)
        self.arena = fresh_arena(self.plan)
        for name, sample in zip(IDS, CASES, strict=True):
            for form in FORMS:
                launch = self.of[name, form]
                for window, x in zip(launch.reads, data_of(sample, dtype), strict=True):
                    view(self.arena, window)[...] = x
                for window, add in zip(launch.writes, launch.add, strict=True):
                    if add:
                        view(self.arena, window)[...] = 1.0
        self.executable = CpuTarget(Cache(directory)).build_loops(lower_to_loops(self.plan))
        self.executable.run({"arena": self.arena}, "step")


@pytest.fixture(scope="module", params=["f32", "f64"])
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    made = Samples(request.param, tmp_path_factory.mktemp("cache"))
    made.dtype = request.param  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "sample"), list(zip(IDS, CASES, strict=True)), ids=IDS)
def test_sample_is_equal_to_the_reference(samples: Samples, name: str, sample: Sample, form: str) -> None:
    dtype: str = samples.dtype  # type: ignore[attr-defined]
    pieces, _ = pieces_of(sample.op, typed(sample.types, dtype))
    terms = max([1, *(math.prod(a.extent for a in (*p.reduce, *p.sequential)) for p in pieces)])
    launch = samples.of[name, form]
    wanted = sample.op.reference(*data_of(sample, dtype))
    for window, add, want in zip(launch.writes, launch.add, wanted, strict=True):
        got = view(samples.arena, window)
        assert_close(got, np.asarray(want + want.dtype.type(1) if add else want), terms, dtype)


def test_no_byte_outside_of_the_windows_changes(samples: Samples) -> None:
    np.testing.assert_array_equal(untouched(samples.arena, samples.plan), CANARY)
