"""What softmax, log_softmax and softmax_loss share: types, and the largest score and sum of exponentials of a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, AxisKind, Ref, exp
from concatc.loops.pieces import Piece, temp
from concatc.op import Op, Sample, f32
from concatc.ops._checks import check_axis, check_float, check_same_shape, without


class AlongAxis(Op, abstract=True):
    """A map of float rows that lie along ``axis`` to rows of the same shape."""

    axis: int = 1

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_axis(self.name, self.axis, xs[0])
        check_float(self.name, xs[0])
        return [xs[0]]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),))
        yield Sample(cls(axis=0), (f32(3, 5),))
        yield Sample(cls(axis=1), (f32(2, 3, 2, 2),))
        yield Sample(cls(axis=2), (f32(2, 3, 4),))
        yield Sample(cls(), (f32(0, 5),))


class AlongAxisGrad(Op, abstract=True):
    """The gradient of such a map from its result."""

    internal = True
    operands = ("y", "dy")
    axis: int = 1

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_axis(self.name, self.axis, xs[0])
        check_same_shape(self.name, xs)
        return [xs[0]]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)))
        yield Sample(cls(axis=0), (f32(3, 5), f32(3, 5)))


def row_axes(x: Ref, axis: int, kind: AxisKind = "parallel") -> tuple[Axis, ...]:
    """The loop axes over the rows of ``x``: all but ``axis``."""
    return tuple(Axis(f"r{d}", n, kind) for d, n in enumerate(x.shape) if d != axis)


def row_stages(x: Ref, axis: int) -> tuple[Ref, Ref, list[Piece]]:
    """Temporaries 0 and 1, ``top = max_c x[c]`` and ``total = sum_c exp(x[c] - top)``, and their pieces."""
    rows = row_axes(x, axis)
    c = Axis("c", x.shape[axis], "reduce")
    shape = without(x.shape, axis)
    top, total = temp(0, shape, x.dtype), temp(1, shape, x.dtype)
    score = x[(*rows[:axis], c, *rows[axis:])]
    stages = [
        Piece(top, (*rows, c), rows, score, combine="max"),
        Piece(total, (*rows, c), rows, exp(score - top[rows]), combine="add"),
    ]
    return top, total, stages
