"""Which contractions run again in the backward pass: those that free much for little, and no two in a row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module
from concatc.passes.choose_recompute import ChooseRecompute
from concatc.passes.fit_budget import planned_bytes
from concatc.passes.iteration import Iterations
from tests.values import bits

# Large blobs by 1x1 convolutions, read by 3x3 ones; all of it behind each other.
TOWER = """net tower(n = 2) {
    input image: f32[n, 4, 12, 12]
    input label: i32[n]
    h = image |> conv(8, kernel=3, pad=1) @stem |> relu
    for k in 0..LAYERS { h = h |> conv(24, kernel=1) @wide |> relu |> conv(8, kernel=3, pad=1) @deep |> relu }
    loss softmax_loss(h |> global_avg_pool |> flatten |> linear(4), label)
}"""


def optimized(text: str, percent: int) -> tuple[Module, Module]:
    """The joint graph before the pass and behind it."""
    phase = compile_net(text, "tower.cnet", Options(recompute="none")).phase("train")
    before = phase.level("optimized")
    after = clone_module(before)
    ChooseRecompute(most_percent=percent).run(after)
    return before, after


def repeated(func: FuncOp) -> list[str]:
    """The contractions that are computed again, in the order of the backward pass."""
    kinds = Iterations()
    found = [op for op in func.ops if "recomputes" in op.attributes and kinds.of(op).kind == "contraction"]
    return [str(op.attributes["recomputes"]) for op in found]


def work(func: FuncOp) -> int:
    kinds = Iterations()
    return sum(kinds.of(op).work for op in func.ops[:-1])


def test_what_frees_much_for_little() -> None:
    # The first ones: what the last makes is needed again when the most is alive.
    before, after = optimized(TOWER.replace("LAYERS", "4"), percent=50)
    wide = [op.results[0].name for op in before.main.ops if op.name == "cnet.conv" and op.result.shape[1] == 24]
    assert len(wide) == 4
    assert repeated(after.main) == [f"%{name}" for name in reversed(wide[:3])]


def test_the_arithmetic_is_bounded() -> None:
    text = TOWER.replace("LAYERS", "6")
    counts = []
    for percent in (0, 2, 4, 8, 16):
        before, after = optimized(text, percent)
        counts.append(len(repeated(after.main)))
        kinds = Iterations()
        again = [op for op in after.main.ops if "recomputes" in op.attributes and kinds.of(op).kind == "contraction"]
        assert sum(kinds.of(op).work for op in again) * 100 <= percent * work(before.main)
    assert counts == sorted(counts) and counts[0] == 0 and counts[1] < counts[-1] == 5


def test_none_reads_what_another_makes() -> None:
    text = TOWER.replace("@wide |> relu", "@wide |> relu |> conv(24, kernel=1) @next |> relu")
    text = text.replace("conv(8, kernel=3, pad=1) @deep", "conv(8, kernel=5, pad=2) @deep").replace("LAYERS", "4")
    before, after = optimized(text, percent=100)
    convs = [op for op in before.main.ops if op.name == "cnet.conv"]
    places = [k for k, op in enumerate(convs) if f"%{op.result.name}" in repeated(after.main)]
    assert len(places) >= 3
    assert all(b - a >= 2 for a, b in itertools.pairwise(places))


def test_a_part_of_a_concat_is_not_worth_it() -> None:
    """All parts would have to be kept apart, and joined again."""
    text = TOWER.replace("LAYERS", "4").replace(
        "conv(24, kernel=1) @wide |> relu",
        "inception() @wide",
    )
    block = """block inception(x) {
        return concat(x |> conv(12, kernel=1) @a |> relu, x |> conv(12, kernel=3, pad=1) @b |> relu, axis=1)
    }
    """
    before, after = optimized(block + text, percent=20)
    joined = [op for op in before.main.ops if op.name == "cnet.concat"]
    assert len(joined) == 4
    assert repeated(after.main) == ["%h.conv"]  # the stem


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_values_and_memory(target: str) -> None:
    text = TOWER.replace("LAYERS", "4")
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=(2, 4, 12, 12)).astype(np.float32), np.array([1, 3], np.int32)
    found, needs = [], []
    for mode in ("none", "auto"):
        net = concatc.compile_source(text, target=target, recompute=mode)
        net.init(seed=0)
        out = net.forward(image=image, label=label)
        found.append([bits(out["loss"]), *(bits(g) for g in net.backward().values())])
        needs.append(planned_bytes(compile_net(text, "tower.cnet", Options(recompute=mode)).phase("train").plan))
    for kept, again in zip(*found, strict=True):
        np.testing.assert_array_equal(kept, again)
    assert needs[1] < needs[0]
