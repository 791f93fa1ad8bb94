"""Plans of every op's samples, each alone in a kernel: dense, with gaps full of canaries, added, reordered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from concatc.ir.types import FLOATS
from concatc.loops.memory import view
from concatc.loops.plan import Launch, Plan
from concatc.op import Sample
from tests.kernel_plans import Bump, fresh_arena, op_kernel, plan_of
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
    """Samples, in their forms, in one plan, which ``run`` runs once on an arena."""

    def __init__(self, dtype: str, runs: Sequence[Run], run: Callable[[Plan, np.ndarray], None]) -> None:
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
        run(self.plan, self.arena)

    def check(self, form: str, name: str, sample: Sample) -> None:
        """Compare the results of one launch with the reference."""
        pieces, _ = pieces_of(sample.op, typed(sample.types, self.dtype))
        terms = max([1, *(math.prod(a.extent for a in (*p.reduce, *p.sequential)) for p in pieces)])
        launch = self.of[name, form]
        wanted = sample.op.reference(*data_of(sample, self.dtype))
        for window, add, want in zip(launch.writes, launch.add, wanted, strict=True):
            got = view(self.arena, window)
            assert_close(got, np.asarray(want + want.dtype.type(1) if add else want), terms, self.dtype)
