"""Prologues packed in front of contractions: what the loops look like, and values on the interpreter and on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch, Plan
from concatc.op import Builder, load_all_ops, op_of
from concatc.passes.lower_to_loops import lower_to_loops, scratch_bytes
from concatc.targets.cache import Cache
from concatc.targets.cpu.nest import recognize
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.reference.loop_interpreter import run_loops
from tests.kernel_plans import CANARY, Bump, fresh_arena, plan_of, untouched
from tests.test_every_op import assert_close

load_all_ops()
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """``contraction`` of two operands, of which ``packed`` (0 or 1) goes through bias and relu along ``axis``."""

    name: str
    shapes: tuple[Shape, Shape]
    packed: int
    contraction: Callable[[Any, Value, Value], Value]
    axis: int = 1
    terms: int = 1
    buffers: int = 1  # of scratch memory: what is packed, and sums over long rows or of all images

    def kernel(self, dtype: str) -> FuncOp:
        """A kernel: ``x``, ``beta`` and the other operand, in this order."""
        x, other = self.shapes[self.packed], self.shapes[1 - self.packed]
        function = FuncOp("k", [TensorType(s, dtype) for s in (x, (x[self.axis],), other)], ["x", "beta", "w"])
        b: Any = Builder(function.body)
        image, beta, weight = function.args
        made = b.relu(b.bias(image, beta, axis=self.axis))
        operands = (made, weight) if self.packed == 0 else (weight, made)
        function.body.append(Operation("func.return", [self.contraction(b, *operands)]))
        return function


def conv(**attributes: Any) -> Callable[[Any, Value, Value], Value]:
    """A convolution of the packed operand with these attributes."""
    return lambda b, x, w: b.conv(x, w, **attributes)


CASES = [
    Case("conv_pad", ((2, 3, 5, 4), (4, 3, 3, 3)), 0, conv(pad=(1, 1)), terms=27, buffers=2),
    Case("conv_one_image", ((1, 3, 5, 4), (4, 3, 3, 3)), 0, conv(pad=(1, 1)), terms=27, buffers=2),
    Case("conv_stride", ((2, 2, 7, 9), (3, 2, 3, 3)), 0, conv(pad=(1, 1), stride=(2, 2)), terms=18, buffers=2),
    Case("conv_stride_wide", ((2, 2, 40, 35), (3, 2, 3, 3)), 0, conv(pad=(1, 1), stride=(2, 2)), terms=18, buffers=2),
    Case("conv_dilation", ((2, 2, 9, 7), (3, 2, 3, 3)), 0, conv(pad=(2, 1), dilation=(2, 2)), terms=18, buffers=2),
    Case("conv_groups", ((2, 4, 5, 5), (6, 2, 3, 3)), 0, conv(pad=(1, 1), groups=2), terms=18, buffers=2),
    Case("conv_depthwise", ((2, 4, 5, 5), (4, 1, 3, 3)), 0, conv(pad=(1, 1), groups=4), terms=9),
    Case("conv_1x1", ((2, 5, 3, 3), (4, 5, 1, 1)), 0, conv(), terms=5),
    Case("conv_wide_pad", ((2, 2, 3, 3), (2, 2, 2, 2)), 0, conv(pad=(3, 2)), terms=8, buffers=2),
    Case(
        "conv_weight_grad",
        ((2, 4, 5, 6), (2, 7, 5, 6)),
        1,
        lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(3, 3), pad=(1, 1)),
        terms=60,
    ),
    Case(
        "conv_weight_grad_1x1",  # image by image, channels of the image in lanes
        ((2, 4, 5, 6), (2, 11, 5, 6)),
        1,
        lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(1, 1)),
        terms=60,
        buffers=2,
    ),
    Case(
        "conv_weight_grad_few_inputs",  # channels of the other factor in lanes
        ((2, 17, 5, 6), (2, 3, 5, 6)),
        1,
        lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(3, 3), pad=(1, 1)),
        terms=60,
        buffers=3,
    ),
    Case(
        "conv_weight_grad_many_inputs",
        ((2, 70, 4, 3), (2, 66, 9, 7)),
        1,
        lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(3, 2), pad=(1, 0), stride=(2, 2)),
        terms=24,
        buffers=3,
    ),
    Case(
        "conv_weight_grad_stride",
        ((1, 2, 3, 4), (1, 3, 6, 7)),
        1,
        lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(3, 3), pad=(1, 1), stride=(2, 2)),
        terms=12,
    ),
    Case(
        "conv_input_grad",
        ((2, 3, 4, 5), (3, 4, 3, 3)),
        0,
        lambda b, dy, w: b.conv_input_grad(dy, w, image=(4, 5), pad=(1, 1)),
        terms=27,
        buffers=2,
    ),
    Case(
        "conv_input_grad_stride",  # zeros lie between the elements
        ((2, 3, 4, 3), (3, 4, 3, 3)),
        0,
        lambda b, dy, w: b.conv_input_grad(dy, w, image=(7, 6), pad=(1, 1), stride=(2, 2)),
        terms=27,
        buffers=2,
    ),
    Case("linear", ((11, 6), (5, 6)), 0, lambda b, x, w: b.linear(x, w), terms=6),
    Case("linear_rows", ((3, 4, 6), (5, 6)), 0, lambda b, x, w: b.linear(x, w), axis=2, terms=6),
    Case("linear_weight_grad", ((9, 5), (9, 67)), 1, lambda b, dy, x: b.linear_weight_grad(dy, x), terms=9),
    Case("matmul_left", ((2, 9, 6), (2, 6, 5)), 0, lambda b, x, w: b.matmul(x, w), axis=2, terms=6),
    Case("matmul_right", ((9, 6), (6, 70)), 1, lambda b, x, w: b.matmul(x, w), terms=6),
]
IDS = [case.name for case in CASES]


def launch_of(kernel: FuncOp, gap: int) -> tuple[Plan, Launch]:
    """A plan of one launch that adds to its result, with gaps between rows."""
    bump = Bump()
    reads = tuple(bump.window(a.tensor, gap) for a in kernel.args)
    writes = tuple(bump.window(v.tensor, gap) for v in kernel.ret.operands)
    plan = plan_of([Launch("k", reads, writes, (True,))], [kernel], bump.used)
    return plan, plan.launches[0]


def reference(kernel: FuncOp, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The kernel's result, op by op."""
    values: dict[Value, np.ndarray] = dict(zip(kernel.args, arrays, strict=True))
    for op in kernel.ops[:-1]:
        values.update(zip(op.results, op_of(op).reference(*(values[v] for v in op.operands)), strict=True))
    return values[kernel.ret.operands[0]]


def data(kernel: FuncOp) -> list[np.ndarray]:
    """Normal data; beta is positive, so that the halo would differ if it went through the prologue."""
    rng = np.random.default_rng(3)
    x, beta, w = (rng.normal(size=a.tensor.shape).astype({"f32": "f4", "f64": "f8"}[a.dtype]) for a in kernel.args)
    return [x, np.abs(beta) + 1, w]


def run(plan: Plan, launch: Launch, arrays: Sequence[np.ndarray], runner: Callable[[Any, np.ndarray], None]) -> Any:
    """The result of the launch, which is added to 1; gaps and guards keep their canaries."""
    arena = fresh_arena(plan)
    for window, x in zip(launch.reads, arrays, strict=True):
        view(arena, window)[...] = x
    view(arena, launch.writes[0])[...] = 1.0
    runner(lower_to_loops(plan), arena)
    np.testing.assert_array_equal(untouched(arena, plan), CANARY)
    return view(arena, launch.writes[0]).copy()


def interpret(loops: Any, arena: np.ndarray) -> None:
    """Run in the loop interpreter."""
    run_loops(loops, {"arena": arena})


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_prologue_runs_once_an_element_in_scratch(case: Case) -> None:
    kernel = case.kernel("f32")
    plan, launch = launch_of(kernel, gap=2)
    (function,) = [f for f in lower_to_loops(plan).functions[1:] if f.declared is None]
    assert sum(op.name == "arith.maximumf" for op in function.walk()) == 1
    assert [a.attrs.get("cnet.scratch") for a in function.args].count(True) == case.buffers
    assert recognize(function) is not None, "the contraction stays in registers"
    arrays = data(kernel)
    assert_close(run(plan, launch, arrays, interpret), reference(kernel, arrays) + 1, case.terms, "f32")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_native_code_is_equal_to_the_reference(case: Case, dtype: str, tmp_path: Any) -> None:
    def native(loops: Any, arena: np.ndarray) -> None:
        CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")

    kernel = case.kernel(dtype)
    plan, launch = launch_of(kernel, gap=3)
    arrays = data(kernel)
    assert_close(run(plan, launch, arrays, native), reference(kernel, arrays) + 1, case.terms, dtype)


@pytest.mark.parametrize("name", ["conv_pad", "conv_weight_grad", "linear"])
def test_nan_and_infinity_go_where_they_go_in_the_reference(name: str, tmp_path: Any) -> None:
    def native(loops: Any, arena: np.ndarray) -> None:
        CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")

    (kernel,) = (case.kernel("f32") for case in CASES if case.name == name)
    plan, launch = launch_of(kernel, gap=0)
    arrays = data(kernel)
    arrays[0].flat[1], arrays[0].flat[-1] = math.nan, math.inf
    with np.errstate(invalid="ignore"):
        want = reference(kernel, arrays) + 1
    for runner in (interpret, native):
        got = run(plan, launch, arrays, runner)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


def test_scratch_holds_one_image() -> None:
    """Whatever the batch: 3 channels of 5 x 4 with a halo of 1, and 4 rows of sums, with what lies between rows."""
    sizes = []
    for images in (1, 2, 8):
        case = Case("conv", ((images, 3, 5, 4), (4, 3, 3, 3)), 0, conv(pad=(1, 1)))
        sizes.append(scratch_bytes(case.kernel("f32")))
    assert sizes == [-(-3 * 7 * 6 * 4 // 64) * 64 + -(-4 * (4 * 6 + 4) * 4 // 64) * 64] * 3


def test_scratch_of_a_weight_gradient_of_few_channels_holds_one_channel() -> None:
    """All 2 images of it, 5 x 6 with a halo of 1; with 8 channels or more it would hold one image (image_sums.py)."""
    sizes = []
    for channels in (3, 5, 7):
        shapes = ((2, 4, 5, 6), (2, channels, 5, 6))
        case = Case("dw", shapes, 1, lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(3, 3), pad=(1, 1)))
        sizes.append(scratch_bytes(case.kernel("f32")))
    assert sizes == [-(-2 * 7 * 8 * 4 // 64) * 64] * 3


def test_chunks_of_the_outer_loop_make_the_whole() -> None:
    """Run one block at a time, in the wrong order."""
    case = CASES[IDS.index("linear")]
    kernel = case.kernel("f32")
    plan, launch = launch_of(kernel, gap=0)
    arrays = data(kernel)

    def in_chunks(loops: Any, arena: np.ndarray) -> None:
        (call,) = [op for op in loops.main.ops if op.name == "func.call"]
        begin, end = call.operands[:2]
        extents = int(end.op.attributes["value"])
        assert extents == 2, "11 rows in blocks of 8"
        for chunk in reversed(range(extents)):
            call.set_operand(0, _constant(loops, chunk))
            call.set_operand(1, _constant(loops, chunk + 1))
            run_loops(loops, {"arena": arena})
        call.set_operands([begin, end, *call.operands[2:]])

    got = run(plan, launch, arrays, in_chunks)
    assert_close(got, reference(kernel, arrays) + 1, case.terms, "f32")


def _constant(loops: Any, value: int) -> Value:
    like = next(op for op in loops.main.ops if op.name == "arith.constant" and str(op.result.type) == "index")
    made = Operation("arith.constant", (), [like.result.type], {"value": value})
    made.block = loops.main.body
    loops.main.body.ops.insert(0, made)
    return made.result
