"""Convolutions of small images with channels in lanes: values, what is left out, and where they run so."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from concatc.ir.core import FuncOp, Operation
from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch, Plan
from concatc.op import Builder, Op, load_all_ops
from concatc.ops.conv import Conv
from concatc.ops.conv_input_grad import ConvInputGrad
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.contraction import contraction_ir
from concatc.targets.cpu.native import Host, host
from concatc.targets.cpu.nest import nests_in, recognize
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.cpu.tile import choose_tiles
from concatc.targets.reference.loop_interpreter import run_loops
from tests.kernel_plans import Bump, fresh_arena, op_kernel, plan_of, untouched
from tests.test_every_op import assert_close

load_all_ops()
Shape = tuple[int, ...]
AVX512 = Host("skylake-avx512", "", vector_bytes=64, registers=32, fma=True, masked=True, embedded=True)
AVX2 = Host("haswell", "", vector_bytes=32, registers=16, fma=True, masked=True)
CASES: dict[str, tuple[Op, Shape, Shape]] = {
    "3x3": (Conv(pad=(1, 1)), (2, 9, 8, 8), (42, 9, 3, 3)),
    "5x5": (Conv(pad=(2, 2)), (2, 8, 7, 7), (48, 8, 5, 5)),
    "stride": (Conv(pad=(1, 1), stride=(2, 2)), (1, 8, 7, 7), (64, 8, 3, 3)),
    "dilation": (Conv(pad=(2, 2), dilation=(2, 2)), (2, 8, 9, 7), (32, 8, 3, 3)),
    "no_pad": (Conv(), (2, 8, 9, 9), (64, 8, 3, 3)),
    "few_rows": (Conv(pad=(1, 1)), (1, 8, 1, 7), (32, 8, 3, 3)),
    "wide": (Conv(pad=(1, 1)), (1, 8, 14, 14), (32, 8, 3, 3)),
    "gradient": (ConvInputGrad(image=(8, 8), pad=(1, 1)), (2, 12, 8, 8), (12, 50, 3, 3)),
    "gradient_no_pad": (ConvInputGrad(image=(7, 7)), (2, 8, 5, 5), (8, 30, 3, 3)),
}

INTERPRETED = ("stride", "few_rows", "gradient_no_pad")  # an op at a time, which takes long


def _plan(kernel: FuncOp, add: bool = False) -> Plan:
    bump = Bump()
    reads = tuple(bump.window(argument.tensor, 3) for argument in kernel.args)
    writes = tuple(bump.window(v.tensor, 3) for v in kernel.ret.operands)
    return plan_of([Launch("k", reads, writes, (add,) * len(writes))], [kernel], bump.used)


def _of_op(name: str) -> tuple[Plan, list[np.ndarray], np.ndarray]:
    op, *shapes = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    return _plan(op_kernel("k", op, [TensorType(s, "f32") for s in shapes])), arrays, op.reference(*arrays)[0]


def _filled(plan: Plan, arrays: list[np.ndarray]) -> np.ndarray:
    arena = fresh_arena(plan)
    for window, x in zip(plan.launches[0].reads, arrays, strict=True):
        view(arena, window)[...] = x
    return arena


def _has_filters(loops: Any) -> bool:
    return any((a.name or "").endswith("_filters_scratch") for f in loops.functions for a in f.args)


def _loops_of(plan: Plan) -> Any:
    loops = lower_to_loops(plan)
    assert _has_filters(loops), "channels lie in lanes"
    return loops


@pytest.mark.parametrize("name", CASES)
def test_values(name: str, tmp_path: Any) -> None:
    """By the meaning of the loops, on this machine, and on one with vectors of 8 and half of the registers."""
    plan, arrays, want = _of_op(name)
    loops = _loops_of(plan)
    terms = int(np.prod(arrays[1].shape)) // want.shape[1]
    if name in INTERPRETED:
        arena = _filled(plan, arrays)
        run_loops(loops, {"arena": arena})
        assert_close(view(arena, plan.launches[0].writes[0]), want, terms, "f32")
    for k, machine in enumerate((host(), AVX2)):
        arena = _filled(plan, arrays)
        gaps = untouched(arena, plan).copy()
        CpuTarget(Cache(tmp_path / str(k)), host=machine).build_loops(loops).run({"arena": arena}, "step")
        assert_close(view(arena, plan.launches[0].writes[0]), want, terms, "f32")
        np.testing.assert_array_equal(untouched(arena, plan), gaps)


@pytest.mark.parametrize("add", [False, True])
def test_what_stands_around_it(add: bool, tmp_path: Any) -> None:
    """A prologue runs once an element and never on the halo; what follows, sums included, reads planar results."""
    shapes: tuple[Shape, ...] = ((2, 9, 8, 8), (9,), (40, 9, 3, 3), (40,))
    function = FuncOp("k", [TensorType(s, "f32") for s in shapes], ["x", "beta", "w", "bias"])
    b: Any = Builder(function.body)
    x, beta, w, bias = function.args
    y = b.relu(b.bias(b.conv(b.relu(b.bias(x, beta, axis=1)), w, pad=(1, 1)), bias, axis=1))
    total = b.sum(y, axes=(0, 2, 3))
    function.body.append(Operation("func.return", [y, total]))
    plan = _plan(function, add)
    loops = _loops_of(plan)
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    image = np.maximum(arrays[0] + arrays[1][:, None, None], 0)
    want = np.maximum(Conv(pad=(1, 1)).reference(image, arrays[2])[0] + arrays[3][:, None, None], 0)
    arena = _filled(plan, arrays)
    before = [view(arena, window).copy() for window in plan.launches[0].writes]
    CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")
    for window, old, new, terms in zip(
        plan.launches[0].writes, before, (want, want.sum((0, 2, 3))), (81, 81 * 128), strict=True
    ):
        assert_close(view(arena, window), old + new if add else new, terms, "f32")


@pytest.mark.parametrize("place", [(0, 0), (3, 7), (7, 4)])
def test_padding_is_multiplied_by_nothing(place: tuple[int, int], tmp_path: Any) -> None:
    """An infinite weight meets the image only where its tap does, so its products with padding are not NaN."""
    plan, arrays, _ = _of_op("3x3")
    arrays[1][:, :, 0, 0] = np.inf
    arrays[0][...] = 1
    arena = _filled(plan, arrays)
    CpuTarget(Cache(tmp_path)).build_loops(_loops_of(plan)).run({"arena": arena}, "step")
    y = view(arena, plan.launches[0].writes[0])
    inside = place[0] > 0 and place[1] > 0
    assert np.isinf(y[:, :, place[0], place[1]]).all() == inside
    assert not np.isnan(y).any()


def test_columns_beside_the_image_are_left_out() -> None:
    """Three columns of taps, of which each of the outer ones misses one pixel of a row."""
    plan, _, _ = _of_op("wide")
    (kernel,) = [f for f in _loops_of(plan).functions[1:] if f.declared is None]
    items = recognize(kernel)
    assert items is not None
    tiles = choose_tiles(nests_in(items), AVX512)  # rows of 14 fit in its registers; the text is not run
    assert tiles is not None
    (tile,) = [tile for nest, tile in tiles.items() if nest.term is not None]
    text = contraction_ir(kernel, items, tiles, AVX512, "k")
    vectors = 32 // tile.lanes
    assert len(re.findall(r"call .* @\"?llvm\.fma", text)) == (14 + 13 + 13) * vectors


@pytest.mark.parametrize(
    ("channels", "size", "kernel"),
    [(64, 32, 3), (12, 8, 3), (64, 8, 1), (64, 2, 3)],
    ids=["rows fill vectors", "lanes would be empty", "one tap", "few pixels"],
)
def test_where_rows_are_better(channels: int, size: int, kernel: int) -> None:
    types = [TensorType(s, "f32") for s in ((2, 16, size, size), (channels, 16, kernel, kernel))]
    plan = _plan(op_kernel("k", Conv(pad=(kernel // 2, kernel // 2)), types))
    assert not _has_filters(lower_to_loops(plan))
