"""Long sums that run down the rows of both factors add up block by block, to the bits of one block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concatc.ir.core import FuncOp
from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch
from concatc.ops.linear import LinearWeightGrad
from concatc.ops.matmul import Matmul
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu import stage
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.nest import nests_in, recognize
from concatc.targets.cpu.sum_blocks import SHORT, TERMS, sum_blocks_of
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.cpu.tile import choose_tile
from tests.kernel_plans import CANARY, Bump, fresh_arena, op_kernel, plan_of, untouched
from tests.test_every_op import assert_close

# Neither fills tiles, rows or vectors; the last block is not whole.
ROWS, COLUMNS, LONG = 29, 37, SHORT + TERMS // 2 + 3
AVX512 = Host("x86-64-v4", "", vector_bytes=64, registers=32, fma=True, masked=True)


def _kernel(terms: int) -> FuncOp:
    shapes = ((terms, ROWS), (terms, COLUMNS))
    return op_kernel("k", LinearWeightGrad(), [TensorType(s, "f32") for s in shapes])


def _result(kernel: FuncOp, add: bool, directory: Path, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """What a kernel stores, or adds to 1, and what it is to be."""
    bump = Bump()
    windows = [bump.window(v.tensor, gap) for v in (*kernel.args, *kernel.ret.operands)]
    plan = plan_of([Launch("k", tuple(windows[:2]), (windows[2],), (add,))], [kernel], bump.used)
    arena, rng = fresh_arena(plan), np.random.default_rng(0)
    x, y = (rng.normal(size=w.shape).astype("f4") for w in windows[:2])
    for window, values in zip(windows, (x, y, 1.0), strict=True):
        view(arena, window)[...] = values
    CpuTarget(Cache(directory)).build_loops(lower_to_loops(plan)).run({"arena": arena}, "step")
    np.testing.assert_array_equal(untouched(arena, plan), CANARY)
    return view(arena, windows[2]).copy(), (x.astype("f8").T @ y + add).astype("f4")


@pytest.mark.parametrize("add", [False, True], ids=["stored", "added"])
def test_blocks_make_the_bits_of_one_block(add: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, want = _result(_kernel(LONG), add, tmp_path / "blocks", 5)
    assert_close(made, want, LONG, "f32")

    def whole(*_: Any) -> None:
        return None

    monkeypatch.setattr(stage, "sum_blocks_of", whole)
    np.testing.assert_array_equal(_result(_kernel(LONG), add, tmp_path / "whole", 5)[0], made)


def _is_cut(kernel: FuncOp) -> bool:
    bump = Bump()
    windows = [bump.window(v.tensor) for v in (*kernel.args, *kernel.ret.operands)]
    plan = plan_of([Launch("k", tuple(windows[:2]), (windows[2],), (False,))], [kernel], bump.used)
    (function,) = [f for f in lower_to_loops(plan).functions[1:] if f.declared is None]
    (nest,) = nests_in(recognize(function) or [])
    tile = choose_tile(nest, AVX512)
    assert tile is not None
    return sum_blocks_of(nest, tile) is not None


def test_only_sums_down_the_rows_of_both_factors_are_cut() -> None:
    rows = [TensorType(s, "f32") for s in ((40, LONG), (LONG, 48))]
    assert _is_cut(_kernel(LONG))
    assert not _is_cut(op_kernel("k", Matmul(), rows))
