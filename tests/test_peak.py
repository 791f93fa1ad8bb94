"""The highest byte of the arena that the poisoned interpreter touches is the last one of the plan's arena."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concatc.compiler import Compilation, Options, compile_net
from concatc.loops.bases import argument_key
from concatc.runtime.source import Phase
from concatc.targets.reference.plan_interpreter import run_plan
from tests.nets.checks import random_data
from tests.nets.random_nets import seeded_recipe

NETS = Path(__file__).parent.parent / "examples" / "nets"
CASES = {
    "growing, 32 layers": ("growing", {"n": 2, "layers": 32, "size": 4}),
    "growing, 64 layers": ("growing", {"n": 2, "layers": 64, "size": 4}),
    "densenet40": ("densenet40", {"n": 2, "growth": 4, "depth": 3, "stem": 5, "size": 8, "classes": 5}),
}


def assert_exact(compilation: Compilation, phase: Phase) -> None:
    """Run the plan of a phase on poisoned memory."""
    lowering = compilation.phase(phase)
    data = random_data(lowering.graph.main, 0)
    values = {argument_key(arg): np.asarray(data[str(arg.attrs["cnet.name"])]) for arg in lowering.kernels.main.args}
    run = run_plan(lowering.plan, values)
    assert run.arena_bytes == lowering.arena_bytes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("phase", ["train", "infer"])
def test_the_predicted_peak_is_touched(case: str, phase: Phase) -> None:
    name, dims = CASES[case]
    path = NETS / f"{name}.cnet"
    assert_exact(compile_net(path.read_text(encoding="utf-8"), str(path), Options(dims=dims)), phase)


@pytest.mark.parametrize("seed", range(20))
def test_the_predicted_peak_of_random_nets_is_touched(seed: int) -> None:
    compilation = compile_net(seeded_recipe(seed).source(), "random.cnet", Options())
    for phase in compilation.phases:
        assert_exact(compilation, phase)
