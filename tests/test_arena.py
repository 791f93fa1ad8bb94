"""The arena of every example net is within 5% of the most bytes of buffers that are alive at one launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from concatc.compiler import Compilation, Options
from concatc.loops.bases import interface_of
from concatc.passes import blocks
from concatc.passes.arena import Lifetime, assign_offsets, live_set_bytes
from concatc.passes.plan_memory import PlanMemory

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("**/*.cnet"))
ONE_NET = [path for path in EXAMPLES if path.read_text(encoding="utf-8").count("\nnet ") == 1]
SMALL_BYTES = 1 << 20  # smaller arenas are not asked


@pytest.mark.parametrize("path", ONE_NET, ids=lambda path: path.stem)
def test_the_arena_is_near_the_live_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, int]] = []

    def watched(lifetimes: list[Lifetime]) -> tuple[list[int], int]:
        offsets, size_bytes = assign_offsets(lifetimes)
        found.append((size_bytes, live_set_bytes(lifetimes)))
        return offsets, size_bytes

    compilation = Compilation(path.read_text(encoding="utf-8"), str(path), Options())
    monkeypatch.setattr(blocks, "assign_offsets", watched)
    for phase in compilation.phases:
        kernels = compilation.phase(phase).kernels
        PlanMemory(interface_of(kernels.main)).plan(kernels)
    assert found
    for size_bytes, live_bytes in found:
        assert size_bytes < SMALL_BYTES or size_bytes <= 1.05 * live_bytes
