"""Work of kernels: flops and bytes beside counts by hand."""

from __future__ import annotations

import itertools

import pytest

from concatc.compiler import Compilation, Options
from concatc.inspect.profile import launched_of
from concatc.inspect.work import Work, points_within, work_of
from concatc.ir.core import FuncOp, Operation
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr
from concatc.op import DIALECT, Op, f32, i32
from concatc.ops.conv import Conv
from concatc.ops.conv_input_grad import ConvInputGrad
from concatc.ops.conv_transpose import ConvTranspose
from concatc.ops.conv_weight_grad import ConvWeightGrad
from concatc.ops.embedding import Embedding
from concatc.ops.linear import Linear, LinearWeightGrad
from concatc.ops.matmul import Matmul
from concatc.ops.max_pool import MaxPool
from concatc.ops.relu import Relu
from concatc.ops.sum import Sum


def work_of_op(op: Op, *types: TensorType) -> Work:
    kernel = FuncOp("k", list(types), [f"x{k}" for k in range(len(types))])
    made = Operation(DIALECT + op.name, kernel.args, op.infer(types), op.attrs())
    kernel.body.append(made)
    kernel.body.append(Operation("func.return", made.results))
    kernel.result_attrs = [{} for _ in made.results]
    return work_of(kernel)


def taps_inside(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """How many taps of all windows along one axis lie in the image, one at a time."""
    windows = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    taps = itertools.product(range(windows), range(kernel))
    return sum(0 <= o * stride - pad + k * dilation < size for o, k in taps)


def test_linear() -> None:
    work = work_of_op(Linear(), f32(5, 4), f32(3, 4))
    assert work == Work(2 * 5 * 4 * 3, 0, 4 * (5 * 4 + 3 * 4), 4 * 5 * 3, "f32")
    assert work_of_op(Linear(transpose=True), f32(5, 4), f32(4, 3)).flops == 2 * 5 * 4 * 3
    assert work_of_op(LinearWeightGrad(), f32(2, 6, 3), f32(2, 6, 4)).flops == 2 * 12 * 3 * 4
    assert work_of_op(Matmul(), f32(2, 5, 3), f32(2, 3, 4)).flops == 2 * 2 * 5 * 3 * 4


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "dilation"),
    [
        (7, 1, 1, 0, 1),
        (7, 3, 1, 0, 1),
        (7, 3, 1, 1, 1),
        (8, 5, 1, 2, 1),
        (9, 3, 2, 1, 1),
        (9, 3, 1, 2, 2),
        (6, 3, 3, 2, 1),
    ],
)
def test_convolutions_count_no_padding(size: int, kernel: int, stride: int, pad: int, dilation: int) -> None:
    """The convolution, and both gradients of it, multiply the same pairs."""
    geometry = {"stride": (stride,) * 2, "pad": (pad,) * 2, "dilation": (dilation,) * 2}
    x, w = f32(2, 3, size, size), f32(4, 3, kernel, kernel)
    op = Conv(**geometry)
    (y,) = op.infer([x, w])
    flops = 2 * 2 * 3 * 4 * taps_inside(size, kernel, stride, pad, dilation) ** 2
    assert work_of_op(op, x, w).flops == flops
    assert work_of_op(ConvWeightGrad(kernel=(kernel, kernel), **geometry), y, x).flops == flops
    assert work_of_op(ConvInputGrad(image=(size, size), **geometry), y, w).flops == flops


def test_a_convolution_counts_padding_of_one_axis() -> None:
    work = work_of_op(Conv(pad=(1, 0)), f32(1, 2, 4, 6), f32(3, 2, 3, 2))
    assert work.flops == 2 * 2 * 3 * taps_inside(4, 3, 1, 1) * taps_inside(6, 2, 1, 0)


def test_depthwise_convolution() -> None:
    x, w = f32(2, 6, 5, 5), f32(6, 1, 3, 3)
    flops = 2 * 2 * 6 * taps_inside(5, 3, 1, 1) ** 2
    assert work_of_op(Conv(groups=6, pad=(1, 1)), x, w).flops == flops
    assert work_of_op(ConvWeightGrad(groups=6, pad=(1, 1), kernel=(3, 3)), x, x).flops == flops
    assert work_of_op(ConvInputGrad(groups=6, pad=(1, 1), image=(5, 5)), x, w).flops == flops


def test_transposed_convolution() -> None:
    """Each element of x meets each tap, but for those beyond the result's borders."""
    op = ConvTranspose(stride=(2, 2))
    x, w = f32(2, 3, 4, 4), f32(3, 5, 2, 2)
    assert work_of_op(op, x, w).flops == 2 * 2 * 3 * 5 * 4 * 4 * 2 * 2


def test_what_is_no_contraction_is_arithmetic() -> None:
    work = work_of_op(Relu(), f32(5, 4))
    assert work == Work(0, 20, 80, 80, "f32")
    assert work_of_op(Sum(axes=(0,)), f32(5, 4)) == Work(0, 20, 80, 16, "f32")
    pool = work_of_op(MaxPool(kernel=(2, 2), stride=(2, 2)), f32(1, 1, 4, 4))
    assert (pool.flops, pool.read_bytes, pool.written_bytes) == (0, 64, 16 + 4)  # places are one byte each


def test_only_what_is_touched_is_read() -> None:
    strided = work_of_op(Conv(stride=(2, 2)), f32(1, 1, 8, 8), f32(1, 1, 1, 1))
    assert strided.read_bytes == 4 * (4 * 4 + 1)
    rows = work_of_op(Embedding(), i32(6), f32(1000, 8))
    assert rows.read_bytes == 4 * (6 + 6 * 8)


def test_points_within_guards() -> None:
    i, j, k = Axis("i", 5), Axis("j", 7), Axis("k", 3, "reduce")

    def by_hand(*guards: Expr) -> int:
        return points_within([i, j, k], guards)

    assert by_hand() == 105
    assert by_hand(i < 2) == 2 * 21
    assert by_hand((i + k >= 1) & (i + k < 6)) == 7 * sum(1 <= a + c < 6 for a in range(5) for c in range(3))
    assert by_hand(i < 2, j < 3) == 2 * 3 * 3
    together = sum(a + b < 4 and b + c < 5 for a in range(5) for b in range(7) for c in range(3))
    assert by_hand(i + j < 4, j + k < 5) == together


NET = """net small(n = 4) {
    input x: f32[n, 5]
    input label: i32[n]
    h = linear(x, 6)
    a = relu(h)
    b = tanh(h)
    loss softmax_loss(linear(a + b, 3), label)
}
"""


def test_launches_of_a_plan() -> None:
    plan = Compilation(NET, "net.cnet", Options()).phase("train").plan
    launched = launched_of([(launch.kernel, launch.phase) for launch in plan.launches], plan)
    works = [launch.work for launch in launched]
    linear = 2 * 4 * 5 * 6, 2 * 4 * 6 * 3
    assert all(works) and [x.kernel for x in launched] == [x.kernel for x in plan.launches]
    forward = sum(x.work.flops for x in launched if x.phase == "forward" and x.work)
    backward = sum(x.work.flops for x in launched if x.phase == "backward" and x.work)
    # Weights of both layers, and the data gradient of the second; softmax_loss multiplies too, once a label.
    assert forward == sum(linear) and backward == sum(linear) + linear[1]
    assert all(x.loc is not None and x.ops for x in launched)


def test_launches_that_add_read_what_they_add_to() -> None:
    work = Work(0, 1, 8, 16, "f32")
    assert work.adding(16) == Work(0, 1, 24, 16, "f32")


def test_launches_of_another_table_are_named_only() -> None:
    plan = Compilation(NET, "net.cnet", Options()).phase("train").plan
    (launch,) = launched_of([("k0_relu", "forward")], plan)
    assert (launch.kernel, launch.phase, launch.work, launch.ops) == ("k0_relu", "forward", None, ())
