"""Concat, split and accumulate move no byte in the nets that the project is for: training, batch > 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from concatc.compiler import Compilation, Options
from concatc.inspect.memory import plan_report

NETS = Path(__file__).parent.parent / "examples" / "nets"
CASES = {
    "densenet40": {"n": 4},
    "densenet_bc100": {"n": 2},
    "densenet121": {"n": 2, "size": 64},
    "googlenet": {"n": 2},
    "unet": {"n": 2},
    "residual": {"n": 2, "depth": 3},
    "siamese": {"n": 4},
    "two_tower": {"n": 4},
    "inception": {"n": 2},
    "two_task": {"n": 4},
}
# Kernels of one op that only moves or adds what lies elsewhere.
MOVES = ("split", "concat", "slice", "accumulate", "reshape", "flatten", "transpose")


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_moved(name: str) -> None:
    path = NETS / f"{name}.cnet"
    phase = Compilation(path.read_text(encoding="utf-8"), str(path), Options(dims=CASES[name])).phase("train")
    moved = plan_report(phase.plan).moved_bytes
    assert {kind: n for kind, n in moved.items() if kind != "input staging" and n} == {}
    alone = [
        k for k, f in phase.plan.kernels.items() if all(op.name.split(".")[1] in (*MOVES, "return") for op in f.ops)
    ]
    assert alone == []
