"""Convolutions of small images: all rows as one, and weight gradients image by image."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch, Plan
from concatc.op import Builder, load_all_ops, op_of
from concatc.passes.lower_to_loops import lower_to_loops, scratch_bytes
from concatc.targets.cache import Cache
from concatc.targets.cpu.native import Library, host, object_code
from concatc.targets.cpu.nest import nests_in, recognize
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.cpu.tile import choose_tiles
from concatc.targets.cpu.transpose import transpose
from tests.kernel_plans import CANARY, Bump, fresh_arena, plan_of, untouched
from tests.test_every_op import assert_close
from tests.test_packing import interpret, launch_of, reference, run

load_all_ops()


def conv_of(shape: tuple[int, ...], channels: int, kernel: int = 3, groups: int = 1, **geometry: Any) -> FuncOp:
    """A convolution, a bias and relu, of operands as they lie."""
    weight = (channels, shape[1] // groups, kernel, kernel)
    function = FuncOp("k", [TensorType(s) for s in (shape, weight, (channels,))], ["x", "w", "b"])
    b: Any = Builder(function.body)
    x, w, bias = function.args
    y = b.relu(b.bias(b.conv(x, w, groups=groups, **geometry), bias, axis=1))
    function.body.append(Operation("func.return", [y]))
    return function


def input_grad_of(dy: tuple[int, ...], weight: tuple[int, ...], image: tuple[int, int], **geometry: Any) -> FuncOp:
    """The gradient of an image."""
    function = FuncOp("k", [TensorType(dy), TensorType(weight)], ["dy", "w"])
    b: Any = Builder(function.body)
    made = b.conv_input_grad(*function.args, image=image, **geometry)
    function.body.append(Operation("func.return", [made]))
    return function


def weight_grad_of(dy: tuple[int, ...], x: tuple[int, ...], kernel: int = 3, **geometry: Any) -> FuncOp:
    """The gradient of a weight."""
    function = FuncOp("k", [TensorType(dy), TensorType(x)], ["dy", "x"])
    b: Any = Builder(function.body)
    made = b.conv_weight_grad(*function.args, kernel=(kernel, kernel), **geometry)
    function.body.append(Operation("func.return", [made]))
    return function


def masked_weight_grad() -> FuncOp:
    """The gradient of a weight that reads both operands through pointwise ops."""
    shapes = [TensorType((2, 5, 4, 3)), TensorType((2, 18, 4, 3))]
    function = FuncOp("k", shapes, ["dy", "x"])
    b: Any = Builder(function.body)
    dy, x = function.args
    made = b.conv_weight_grad(b.relu(dy), b.relu(x), kernel=(3, 3), pad=(1, 1))
    function.body.append(Operation("func.return", [made]))
    return function


SMALL = {
    "rows_of_7": (conv_of((2, 5, 7, 7), 9, pad=(1, 1)), 45),
    "rows_of_8": (conv_of((3, 4, 8, 8), 17, pad=(1, 1)), 36),
    "one_row": (conv_of((2, 4, 1, 5), 3, pad=(1, 1)), 36),
    "one_column": (conv_of((2, 4, 6, 1), 3, pad=(1, 1)), 36),
    "no_pad": (conv_of((1, 3, 6, 5), 4), 27),
    "5x5": (conv_of((2, 3, 6, 6), 5, kernel=5, pad=(2, 2)), 75),
    "dilation": (conv_of((2, 3, 9, 7), 5, pad=(2, 2), dilation=(2, 2)), 27),
    "groups": (conv_of((2, 6, 5, 5), 4, groups=2, pad=(1, 1)), 27),
    "much_pad": (conv_of((1, 2, 3, 3), 4, pad=(3, 3)), 18),
}
STRIDED = {
    "stride_2": (conv_of((2, 3, 7, 9), 5, pad=(1, 1), stride=(2, 2)), 27),
    "stride_2_no_pad": (conv_of((2, 3, 8, 7), 5, stride=(2, 2)), 27),
    "stride_2_1x1": (conv_of((2, 5, 7, 8), 6, kernel=1, stride=(2, 2)), 5),
    "stride_3_7x7": (conv_of((1, 2, 19, 17), 3, kernel=7, pad=(3, 3), stride=(3, 3)), 98),
    "stride_4_2x2": (conv_of((1, 2, 13, 11), 3, kernel=2, stride=(4, 4)), 8),
    "stride_by_axis": (conv_of((2, 3, 9, 9), 4, pad=(1, 0), stride=(2, 1)), 27),
    "stride_and_dilation": (conv_of((1, 3, 11, 9), 4, pad=(2, 2), dilation=(2, 2), stride=(2, 2)), 27),
    "stride_and_odd_dilation": (conv_of((1, 3, 13, 11), 4, pad=(3, 3), dilation=(3, 3), stride=(2, 2)), 27),
    "stride_wide": (conv_of((1, 3, 33, 64), 4, pad=(1, 1), stride=(2, 2)), 27),
    "stride_groups": (conv_of((2, 4, 7, 7), 6, groups=2, pad=(1, 1), stride=(2, 2)), 18),
    "gradient_stride_2": (input_grad_of((2, 3, 4, 5), (3, 4, 3, 3), (7, 9), pad=(1, 1), stride=(2, 2)), 27),
    "gradient_stride_2_even": (input_grad_of((2, 3, 4, 4), (3, 4, 3, 3), (8, 8), pad=(1, 1), stride=(2, 2)), 27),
    "gradient_stride_2_wide": (input_grad_of((1, 3, 4, 16), (3, 4, 3, 3), (8, 32), pad=(1, 1), stride=(2, 2)), 27),
    "gradient_stride_3": (input_grad_of((1, 3, 3, 3), (3, 4, 2, 2), (9, 8), stride=(3, 3)), 12),
    "gradient_stride_2_1x1": (input_grad_of((2, 3, 4, 4), (3, 4, 1, 1), (7, 7), stride=(2, 2)), 3),
    "gradient_stride_by_axis": (input_grad_of((1, 3, 4, 7), (3, 4, 3, 3), (7, 7), pad=(1, 1), stride=(2, 1)), 27),
    "gradient_stride_and_dilation": (
        input_grad_of((1, 3, 5, 4), (3, 4, 3, 3), (11, 9), pad=(2, 2), dilation=(2, 2), stride=(2, 2)),
        27,
    ),
}
SUMS = {
    "weight": (weight_grad_of((2, 5, 7, 7), (2, 18, 7, 7), pad=(1, 1)), 98),
    "weight_one_image": (weight_grad_of((1, 4, 5, 6), (1, 16, 5, 6), pad=(1, 1)), 30),
    "weight_stride": (weight_grad_of((2, 3, 4, 4), (2, 33, 7, 7), pad=(1, 1), stride=(2, 2)), 32),
    "weight_dilation": (weight_grad_of((2, 3, 5, 5), (2, 12, 5, 5), pad=(2, 2), dilation=(2, 2)), 50),
    "weight_5x5": (weight_grad_of((3, 2, 6, 6), (3, 12, 6, 6), kernel=5, pad=(2, 2)), 108),
    "weight_2x2_no_pad": (weight_grad_of((2, 3, 4, 4), (2, 15, 5, 5), kernel=2), 32),
    "weight_of_maps": (masked_weight_grad(), 24),
}
ALL = {**SMALL, **STRIDED, **SUMS}


def with_sums(image: tuple[int, ...], channels: int, kernel: int, packed: bool, kept: bool, **geometry: Any) -> FuncOp:
    """The gradient of an image through relu, a map of it, and its sums: what a batch norm's backward pass makes."""
    dy = (image[0], 4, *image[2:])
    shapes = [TensorType(s) for s in (dy, (4, channels, kernel, kernel), (image[0], channels, *image[2:]), (channels,))]
    function = FuncOp("k", shapes, ["dy", "w", "x", "g"])
    b: Any = Builder(function.body)
    dy_, w, x, g = function.args
    gradient = b.conv_input_grad(b.relu(dy_) if packed else dy_, w, image=image[2:], **geometry)
    made = b.relu_grad(b.relu(x), gradient)
    results = [b.scale(made, g, axis=1), b.sum(made, axes=(0, 2, 3)), b.sum(b.mul(made, x), axes=(0, 2, 3))]
    results.append(b.mul(results[1], results[2]))
    function.body.append(Operation("func.return", [*results, *([made] if kept else [])]))
    return function


JOINED = {
    "whole_rows": (with_sums((3, 2, 4, 16), 5, 3, packed=False, kept=False, pad=(1, 1)), False),
    "small_rows": (with_sums((2, 2, 7, 7), 5, 3, packed=False, kept=False, pad=(1, 1)), True),
    "packed": (with_sums((2, 2, 4, 16), 3, 3, packed=True, kept=False, pad=(1, 1)), True),
    "packed_small_rows": (with_sums((2, 2, 5, 6), 3, 3, packed=True, kept=False, pad=(1, 1)), True),
    "single_tap": (with_sums((2, 2, 5, 6), 3, 1, packed=False, kept=False), False),
    "one_image": (with_sums((1, 2, 5, 6), 3, 3, packed=False, kept=False, pad=(1, 1)), True),
    "kept": (with_sums((2, 2, 4, 16), 3, 3, packed=False, kept=True, pad=(1, 1)), False),
}


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", JOINED)
def test_maps_and_sums_of_a_contraction_in_one_kernel(name: str, dtype: str, tmp_path: Any) -> None:
    """Each result stored, and added to what is there; the sums over all images, one after the other."""
    kernel = _typed(JOINED[name][0], dtype)
    bump = Bump()
    reads = tuple(bump.window(a.tensor, 2) for a in kernel.args)
    writes = tuple(bump.window(v.tensor, 2) for v in kernel.ret.operands)
    arrays = with_dtype(kernel, dtype)
    values: dict[Value, np.ndarray] = dict(zip(kernel.args, arrays, strict=True))
    for op in kernel.ops[:-1]:
        values.update(zip(op.results, op_of(op).reference(*(values[v] for v in op.operands)), strict=True))
    for add in (False, True):
        plan = plan_of([Launch("k", reads, writes, (add,) * len(writes))], [kernel], bump.used)
        loops = lower_to_loops(plan)
        native = CpuTarget(Cache(tmp_path)).build_loops(loops)
        for runner in (lambda a, m=loops: interpret(m, a), lambda a, n=native: n.run({"arena": a}, "step")):
            arena = fresh_arena(plan)
            for window, x in zip(plan.launches[0].reads, arrays, strict=True):
                view(arena, window)[...] = x
            for window in plan.launches[0].writes:
                view(arena, window)[...] = 1.0
            runner(arena)
            np.testing.assert_array_equal(untouched(arena, plan), CANARY)
            for window, value in zip(plan.launches[0].writes, kernel.ret.operands, strict=True):
                assert_close(
                    view(arena, window).copy(), values[value] + np.asarray(add, values[value].dtype), 400, dtype
                )


@pytest.mark.parametrize("name", JOINED)
def test_what_is_read_by_image_is_kept_by_image(name: str) -> None:
    """Scratch memory does not grow with the batch, and the contraction stays in registers."""
    kernel, packs = JOINED[name]
    images, channels, *space = kernel.args[2].shape
    (function,) = [f for f in lower_to_loops(plan_with(kernel)).functions[1:] if f.declared is None]
    assert recognize(function) is not None
    image_bytes = 4 * channels * math.prod(space)
    most = 3 * image_bytes + 4 * 4 * (space[0] + 2) * (space[1] + 2) * 2 + 1024
    assert scratch_bytes(kernel) <= most, (images, packs)


def plan_with(kernel: FuncOp) -> Plan:
    """A plan of one launch of a kernel with several results."""
    bump = Bump()
    reads = tuple(bump.window(a.tensor, 0) for a in kernel.args)
    writes = tuple(bump.window(v.tensor, 0) for v in kernel.ret.operands)
    return plan_of([Launch("k", reads, writes, (False,) * len(writes))], [kernel], bump.used)


def _typed(kernel: FuncOp, dtype: str) -> FuncOp:
    """The kernel for another element type."""
    made = FuncOp("k", [TensorType(a.tensor.shape, dtype) for a in kernel.args], [a.name for a in kernel.args])
    values: dict[Value, Value] = dict(zip(kernel.args, made.args, strict=True))
    for op in kernel.ops[:-1]:
        copy = Operation(
            op.name,
            [values[v] for v in op.operands],
            [TensorType(r.tensor.shape, dtype) for r in op.results],
            dict(op.attributes),
            result_names=[r.name for r in op.results],
        )
        made.body.append(copy)
        values.update(zip(op.results, copy.results, strict=True))
    made.body.append(Operation("func.return", [values[v] for v in kernel.ret.operands]))
    return made


def with_dtype(kernel: FuncOp, dtype: str) -> list[np.ndarray]:
    """Random operands."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=a.tensor.shape).astype({"f32": "f4", "f64": "f8"}[dtype]) for a in kernel.args]


def scratch_count(kernel: FuncOp) -> int:
    """The scratch buffers of the kernel's function."""
    (function,) = [f for f in lower_to_loops(launch_of(kernel, 0)[0]).functions[1:] if f.declared is None]
    return [a.attrs.get("cnet.scratch") for a in function.args].count(True)


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("name", ALL)
def test_values_are_those_of_the_reference(name: str, gap: int, tmp_path: Any) -> None:
    """In the interpreter and native, added to what is there, in windows with and without gaps."""

    def native(loops: Any, arena: np.ndarray) -> None:
        CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")

    kernel, terms = ALL[name]
    plan, launch = launch_of(kernel, gap)
    arrays = with_dtype(kernel, "f32")
    want = reference(kernel, arrays) + 1
    for runner in (interpret, native):
        assert_close(run(plan, launch, arrays, runner), want, terms, "f32")


@pytest.mark.parametrize("name", SMALL)
def test_small_rows_are_summed_as_one(name: str) -> None:
    expected = 0 if name.startswith("one_") else 2
    assert scratch_count(SMALL[name][0]) == expected, "what is packed, and the sums of all rows"


@pytest.mark.parametrize("name", SUMS)
def test_weight_gradients_are_summed_image_by_image(name: str) -> None:
    assert scratch_count(SUMS[name][0]) == 2 + (name == "weight_of_maps"), "what is packed, and the sums"


# Gradients meet the taps of a phase: their guards are decided when code is made (`test_phases.py`).
@pytest.mark.parametrize("name", [name for name in STRIDED if not name.startswith("gradient_")])
def test_what_windows_skip_is_packed_side_by_side(name: str) -> None:
    kernel = STRIDED[name][0]
    (function,) = [f for f in lower_to_loops(launch_of(kernel, 0)[0]).functions[1:] if f.declared is None]
    assert scratch_count(kernel) >= 1
    nests = [nest for nest in nests_in(recognize(function) or []) if nest.term is not None]
    assert nests and not any(nest.conditions() for nest in nests), "the sum is guarded"


def test_rows_of_whole_vectors_and_single_taps_are_read_as_they_lie() -> None:
    whole = conv_of((2, 3, 4, 16), 4, pad=(1, 1))
    single = conv_of((2, 3, 7, 7), 4, kernel=1)
    assert [scratch_bytes(k) for k in (whole, single)] == [0, 0]
    assert scratch_bytes(weight_grad_of((2, 3, 4, 16), (2, 16, 4, 16), pad=(1, 1))) == 0


def test_scratch_does_not_grow_with_the_batch() -> None:
    for make in (
        lambda n: conv_of((n, 3, 7, 7), 4, pad=(1, 1)),
        lambda n: weight_grad_of((n, 3, 7, 7), (n, 16, 7, 7), pad=(1, 1)),
    ):
        assert len({scratch_bytes(make(n)) for n in (1, 2, 9)}) == 1


def test_what_is_packed_is_transposed_in_registers() -> None:
    kernel = weight_grad_of((2, 5, 7, 7), (2, 64, 7, 7), pad=(1, 1))
    (function,) = [f for f in lower_to_loops(launch_of(kernel, 0)[0]).functions[1:] if f.declared is None]
    tiles = choose_tiles(nests_in(recognize(function) or []), host())
    assert tiles is not None
    (packing,) = [
        tile for nest, tile in tiles.items() if nest.term is None and tile.vector in nest.axes and tile.across
    ]
    assert packing.vector is not None and packing.vector.extent == 9, "rows with a halo are read along"


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_a_square_of_vectors_is_transposed(lanes: int) -> None:
    module = ir.Module("square")
    pointer, row = ir.PointerType(), ir.VectorType(ir.FloatType(), lanes)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer]), "square")
    b: Any = ir.IRBuilder(function.append_basic_block())
    source, target = function.args
    at = [ir.Constant(ir.IntType(64), k * lanes) for k in range(lanes)]
    rows = [b.load(b.gep(source, [k], source_etype=ir.FloatType()), typ=row, align=4) for k in at]
    for k, column in zip(at, transpose(b, rows), strict=True):
        b.store(column, b.gep(target, [k], source_etype=ir.FloatType()), align=4)
    b.ret_void()
    library = Library([object_code(str(module), host())], ["square"])
    x = np.arange(lanes * lanes, dtype="f4").reshape(lanes, lanes)
    y = np.zeros_like(x)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library.address("square"))
    call(x.ctypes.data, y.ctypes.data)
    np.testing.assert_array_equal(y, x.T)
