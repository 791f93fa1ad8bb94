"""Gradients of strided convolutions and transposed convolutions, phase by phase: values, and what is left out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch
from concatc.op import Op
from concatc.ops.conv_input_grad import ConvInputGrad
from concatc.ops.conv_transpose import ConvTranspose
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.contraction import contraction_ir
from concatc.targets.cpu.native import host
from concatc.targets.cpu.nest import nests_in, recognize
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.cpu.tile import choose_tiles
from concatc.targets.reference.loop_interpreter import run_loops
from tests.kernel_plans import Bump, fresh_arena, op_kernel, plan_of
from tests.test_every_op import assert_close

Shape = tuple[int, ...]
CASES: dict[str, tuple[Op, Shape, Shape]] = {
    "transposed_2x2": (ConvTranspose(stride=(2, 2)), (2, 5, 7, 16), (5, 13, 2, 2)),
    "transposed_3x3": (ConvTranspose(stride=(2, 2), pad=(1, 1), output_pad=(1, 1)), (2, 6, 5, 9), (6, 7, 3, 3)),
    "transposed_columns": (ConvTranspose(stride=(1, 4)), (2, 3, 4, 6), (3, 5, 2, 5)),
    "gradient_3x3": (ConvInputGrad(image=(32, 32), stride=(2, 2), pad=(1, 1)), (2, 9, 16, 16), (9, 6, 3, 3)),
    "gradient_small": (ConvInputGrad(image=(15, 13), stride=(2, 2), pad=(1, 1)), (2, 9, 8, 7), (9, 6, 3, 3)),
    "gradient_1x1": (ConvInputGrad(image=(17, 18), stride=(2, 2)), (2, 9, 9, 9), (9, 6, 1, 1)),
    "gradient_5x5": (ConvInputGrad(image=(16, 16), stride=(2, 2), pad=(2, 2)), (1, 4, 8, 8), (4, 6, 5, 5)),
    "gradient_groups": (ConvInputGrad(image=(8, 8), stride=(2, 2), pad=(1, 1), groups=2), (2, 4, 4, 4), (4, 3, 3, 3)),
}


def _plan(op: Op, shapes: tuple[Shape, Shape]) -> tuple[Any, Launch]:
    types = [TensorType(s, "f32") for s in shapes]
    bump, kernel = Bump(), op_kernel("k", op, types)
    reads = tuple(bump.window(t, 3) for t in types)
    writes = tuple(bump.window(v.tensor, 3) for v in kernel.ret.operands)
    plan = plan_of([Launch("k", reads, writes, (False,))], [kernel], bump.used)
    return plan, plan.launches[0]


@pytest.mark.parametrize("name", CASES)
def test_values(name: str, tmp_path: Any) -> None:
    op, *shapes = CASES[name]
    plan, launch = _plan(op, (shapes[0], shapes[1]))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    loops = lower_to_loops(plan)
    want = op.reference(*arrays)[0]
    terms = shapes[1][0] * shapes[1][2] * shapes[1][3]
    for run in (lambda m: run_loops(loops, {"arena": m}), CpuTarget(Cache(tmp_path)).build_loops(loops)):
        arena = fresh_arena(plan)
        for window, x in zip(launch.reads, arrays, strict=True):
            view(arena, window)[...] = x
        run(arena) if callable(run) else run.run({"arena": arena}, "step")
        assert_close(view(arena, launch.writes[0]), want, terms, "f32")


@pytest.mark.parametrize(("name", "taps"), [("transposed_2x2", 4), ("gradient_3x3", 9), ("gradient_1x1", 1)])
def test_a_phase_multiplies_only_by_the_taps_that_it_meets(name: str, taps: int) -> None:
    """All phases together multiply once by each tap, for each row and vector of the tile."""
    op, *shapes = CASES[name]
    loops = lower_to_loops(_plan(op, (shapes[0], shapes[1]))[0])
    (kernel,) = [f for f in loops.functions[1:] if f.declared is None]
    items = recognize(kernel)
    assert items is not None
    tiles = choose_tiles(nests_in(items), host())
    assert tiles is not None
    (tile,) = [tile for nest, tile in tiles.items() if nest.term is not None]
    text = contraction_ir(kernel, items, tiles, host(), "k")
    products = len(re.findall(r"call .* @\"?llvm\.fma", text))
    rows = np.prod(list(tile.rows.values()))
    assert tile.zipped is not None
    assert products * 4 == taps * rows, "four phases stand in the rows of the tile"
